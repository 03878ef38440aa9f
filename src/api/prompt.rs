//! The prompt in its four forms.

use std::borrow::Cow;

use serde::Serialize;

use super::error::ApiError;
use super::param::{Param, Text};

/// What is to be completed. It serializes to the form in which it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Prompt<'a> {
    /// One text.
    Text(Cow<'a, str>),
    /// Several texts, completed each for itself; at least one.
    Texts(Vec<Cow<'a, str>>),
    /// One text as token numbers; at least one.
    Tokens(Vec<u32>),
    /// Several texts as token numbers; at least one, none of them empty.
    TokenLists(Vec<Vec<u32>>),
}

impl<'a> Prompt<'a> {
    pub(super) fn parse(param: Param<'a>) -> Result<Self, ApiError> {
        let raw = param.raw.get();
        if raw.starts_with('"') {
            return param.string().map(Self::Text);
        }
        let wrong =
            || param.wrong_type("a string, an array of strings, an array of tokens or an array of token arrays");
        if !raw.starts_with('[') {
            return Err(wrong());
        }
        // The common forms first, in one pass; what fits none of them is taken apart to say where it goes wrong.
        if let Ok(tokens) = serde_json::from_str::<Vec<u32>>(raw) {
            return if tokens.is_empty() { Err(param.array_too_short("")) } else { Ok(Self::Tokens(tokens)) };
        }
        if let Ok(texts) = serde_json::from_str::<Vec<Text<'a>>>(raw) {
            return Ok(Self::Texts(texts.into_iter().map(|text| text.0).collect()));
        }
        if let Ok(lists) = serde_json::from_str::<Vec<Vec<u32>>>(raw) {
            return match lists.iter().position(Vec::is_empty) {
                Some(i) => Err(param.array_too_short(&format!("[{i}]"))),
                None => Ok(Self::TokenLists(lists)),
            };
        }
        Err(first_misfit(param).unwrap_or_else(wrong))
    }

    /// How many texts are to be completed.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }

    /// The tokens of the prompt: exact for token numbers, for text a quarter of its bytes, rounded up; at least one.
    #[must_use]
    pub fn estimated_tokens(&self) -> u64 {
        let of_text = |text: &Cow<'_, str>| text.len().div_ceil(4).max(1);
        let tokens: usize = match self {
            Self::Text(text) => of_text(text),
            Self::Texts(texts) => texts.iter().map(of_text).sum(),
            Self::Tokens(tokens) => tokens.len(),
            Self::TokenLists(lists) => lists.iter().map(Vec::len).sum(),
        };
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }
}

/// The error of the first element that does not go with the first one.
fn first_misfit(param: Param<'_>) -> Option<ApiError> {
    let elements = param.elements()?;
    let first = elements.first()?.get();
    elements.iter().enumerate().find_map(|(i, element)| {
        let (path, raw) = (format!("[{i}]"), element.get());
        if first.starts_with('"') {
            param.string_at(&path, raw).err()
        } else if first.starts_with('[') {
            serde_json::from_str::<Vec<u32>>(raw).err().map(|_| param.wrong_type_at(&path, raw, "an array of tokens"))
        } else {
            raw.parse::<u32>().err().map(|_| param.wrong_type_at(&path, raw, "a token"))
        }
    })
}
