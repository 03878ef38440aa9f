//! Reading one parameter: its JSON type, its range, and the wording of what is wrong with it.
//!
//! The wordings are the API's own, as recorded from it: "Invalid 'n': integer above maximum value. Expected a value
//! <= 128, but got 200 instead."

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{ApiError, Case};

/// A string that borrows from the body unless it holds an escape.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// A parameter as it stands in the body.
#[derive(Clone, Copy)]
pub(super) struct Param<'a> {
    pub name: &'static str,
    pub raw: &'a RawValue,
}

/// What a JSON value is, as an error message names it.
fn describe(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ if raw.contains(['.', 'e', 'E']) => "a decimal number",
        _ => "an integer",
    }
}

impl<'a> Param<'a> {
    pub(super) fn is_null(self) -> bool {
        self.raw.get() == "null"
    }

    /// `expected` is a noun with its article: "an integer".
    pub(super) fn wrong_type(self, expected: &str) -> ApiError {
        self.wrong_type_at("", self.raw.get(), expected)
    }

    /// The same for a value inside the parameter, at `path`, such as `[2]` or `.include_usage`.
    pub(super) fn wrong_type_at(self, path: &str, raw: &str, expected: &str) -> ApiError {
        let Self { name, .. } = self;
        let got = describe(raw);
        let message = format!("Invalid type for '{name}{path}': expected {expected}, but got {got} instead.");
        ApiError::new(Case::InvalidType, message).about(name)
    }

    pub(super) fn out_of_range(self, case: Case, what: &str, bound: &str) -> ApiError {
        self.out_of_range_at("", self.raw.get(), case, what, bound)
    }

    fn out_of_range_at(self, path: &str, raw: &str, case: Case, what: &str, bound: &str) -> ApiError {
        let Self { name, .. } = self;
        let message = format!("Invalid '{name}{path}': {what} value. Expected a value {bound}, but got {raw} instead.");
        ApiError::new(case, message).about(name)
    }

    pub(super) fn array_too_short(self, path: &str) -> ApiError {
        let Self { name, .. } = self;
        let message = format!(
            "Invalid '{name}{path}': array too short. Expected an array with minimum length 1, but got an array with \
             length 0 instead."
        );
        ApiError::new(Case::ArrayBelowMin, message).about(name)
    }

    pub(super) fn array_too_long(self, max: usize, got: usize) -> ApiError {
        let Self { name, .. } = self;
        let message = format!(
            "Invalid '{name}': array too long. Expected an array with maximum length {max}, but got an array with \
             length {got} instead."
        );
        ApiError::new(Case::ArrayAboveMax, message).about(name)
    }

    pub(super) fn boolean(self) -> Result<bool, ApiError> {
        self.boolean_at("", self.raw.get())
    }

    pub(super) fn boolean_at(self, path: &str, raw: &str) -> Result<bool, ApiError> {
        match raw {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.wrong_type_at(path, raw, "a boolean")),
        }
    }

    /// An integer in `min..=max`. `16.0` counts as one, as it does in JSON Schema: some languages write it so.
    pub(super) fn integer(self, min: i64, max: i64) -> Result<i64, ApiError> {
        let raw = self.raw.get();
        let below = || self.out_of_range(Case::IntegerBelowMin, "integer below minimum", &format!(">= {min}"));
        let above = || self.out_of_range(Case::IntegerAboveMax, "integer above maximum", &format!("<= {max}"));
        let value = match describe(raw) {
            "an integer" => match raw.parse::<i64>() {
                Ok(value) => value,
                // The digits are JSON's, so only their number can be at fault.
                Err(_) if raw.starts_with('-') => return Err(below()),
                Err(_) => return Err(above()),
            },
            "a decimal number" => integral(raw).ok_or_else(|| self.wrong_type("an integer"))?,
            _ => return Err(self.wrong_type("an integer")),
        };
        match value {
            v if v < min => Err(below()),
            v if v > max => Err(above()),
            v => Ok(v),
        }
    }

    pub(super) fn number(self, min: f64, max: f64) -> Result<f64, ApiError> {
        self.number_at("", self.raw.get(), min, max)
    }

    pub(super) fn number_at(self, path: &str, raw: &str, min: f64, max: f64) -> Result<f64, ApiError> {
        let value = match describe(raw) {
            "an integer" | "a decimal number" => Some(decimal(raw)),
            _ => None,
        };
        let value = value.ok_or_else(|| self.wrong_type_at(path, raw, "a decimal"))?;
        if value < min {
            let bound = format!(">= {min}");
            Err(self.out_of_range_at(path, raw, Case::DecimalBelowMin, "decimal below minimum", &bound))
        } else if value > max {
            let bound = format!("<= {max}");
            Err(self.out_of_range_at(path, raw, Case::DecimalAboveMax, "decimal above maximum", &bound))
        } else {
            Ok(value)
        }
    }

    pub(super) fn string(self) -> Result<Cow<'a, str>, ApiError> {
        self.string_at("", self.raw.get())
    }

    pub(super) fn string_at(self, path: &str, raw: &'a str) -> Result<Cow<'a, str>, ApiError> {
        if !raw.starts_with('"') {
            return Err(self.wrong_type_at(path, raw, "a string"));
        }
        // What is left to be wrong is an escape: half a surrogate pair stands for no character.
        serde_json::from_str::<Text<'a>>(raw).map(|text| text.0).map_err(|_| {
            let Self { name, .. } = self;
            let message = format!("Invalid '{name}{path}': the string holds an escape that is not valid Unicode.");
            ApiError::new(Case::Invalid, message).about(name)
        })
    }

    pub(super) fn string_up_to(self, max: usize) -> Result<Cow<'a, str>, ApiError> {
        let text = self.string()?;
        let length = text.chars().count();
        if length <= max {
            return Ok(text);
        }
        let Self { name, .. } = self;
        let message = format!(
            "Invalid '{name}': string too long. Expected a string with maximum length {max}, but got a string with \
             length {length} instead."
        );
        Err(ApiError::new(Case::StringAboveMax, message).about(name))
    }

    /// The elements of an array, or `None` if the value is not one.
    pub(super) fn elements(self) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.raw.get()).ok()
    }
}

/// The integer that a decimal notation stands for, if it stands for one.
fn integral(raw: &str) -> Option<i64> {
    // Beyond 2^53 a double no longer tells neighbours apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some((whole, fraction)) = raw.split_once('.')
        && fraction.bytes().all(|digit| digit == b'0')
    {
        return whole.parse().ok().filter(|value: &i64| value.unsigned_abs() <= 1 << 53);
    }
    let value = decimal(raw);
    #[expect(clippy::cast_possible_truncation, reason = "whole and within ±2^53, which an i64 holds exactly")]
    (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i64)
}

/// The number that JSON's digits stand for. It may be off by the last of 17 digits, which matters to nobody here; the
/// tables of the standard library's reader, which is never off, are 12 KB of the bundle.
fn decimal(raw: &str) -> f64 {
    // Only a number that is too large is none.
    let too_large = if raw.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY };
    serde_json::from_str(raw).unwrap_or(too_large)
}
