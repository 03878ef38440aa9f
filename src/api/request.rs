//! The completion request: every parameter of the API, read and checked whole.
//!
//! Parsing borrows from the body. What the gateway only hands on (unknown parameters, `logit_bias`) is kept byte for
//! byte, so that no number loses a digit on the way.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{ApiError, Case};
use super::param::{Param, Text};
use super::prompt::Prompt;

/// A checked `POST /v1/completions` body. Absent and null are the same: `None`, or the default.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the API's own parameters")]
pub struct CompletionRequest<'a> {
    /// The model's public name; not empty, at most 256 characters.
    pub model: Cow<'a, str>,
    /// What is to be completed.
    pub prompt: Prompt<'a>,
    /// Tokens a choice may have, at most; the API's default is 16.
    pub max_tokens: Option<u32>,
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    /// Choices for each prompt, 1 to 128.
    pub n: u32,
    /// Candidates for each prompt, `n` to 20.
    pub best_of: Option<u32>,
    /// Whether the prompt comes before the completion in the text.
    pub echo: bool,
    /// How many likely tokens to report for each position, 0 to 5.
    pub logprobs: Option<u8>,
    /// One to four sequences that end a choice, or none.
    pub stop: Vec<Cow<'a, str>>,
    /// Whether the answer is a stream of chunks.
    pub stream: bool,
    /// Whether the stream ends with a chunk that tells the usage.
    pub include_usage: bool,
    /// Whether chunks are padded, so that their lengths on the wire do not tell the tokens' lengths.
    pub include_obfuscation: bool,
    /// The text that follows the completion.
    pub suffix: Option<Cow<'a, str>>,
    /// Makes sampling repeatable, where the upstream can.
    pub seed: Option<i64>,
    /// -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// -2 to 2.
    pub presence_penalty: Option<f64>,
    /// An object from token number to a bias of -100 to 100, as it came.
    pub logit_bias: Option<&'a RawValue>,
    /// The customer's own user, for the upstream's abuse checks.
    pub user: Option<Cow<'a, str>>,
    /// Parameters that the API does not know, in their order.
    pub extra: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// The most fields that an object of a request may have.
const MAX_FIELDS: usize = 4096;
const TOO_MANY_FIELDS: &str = "too many fields";

/// The body's top level, before any value is looked at.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(16);
                while let Some((key, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    if fields.len() >= MAX_FIELDS {
                        return Err(A::Error::custom(TOO_MANY_FIELDS));
                    }
                    fields.push((key.0, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The largest `max_tokens`: what a 32-bit reader at any upstream still understands.
const MAX_MAX_TOKENS: i64 = i32::MAX as i64;

impl<'a> CompletionRequest<'a> {
    /// Reads and checks a whole body; the first fault found is the error.
    pub fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        let Fields(fields) = crate::json::from_bytes(body).map_err(|error| not_an_object(body, &error))?;
        let mut request = Self {
            model: Cow::Borrowed(""),
            prompt: Prompt::Tokens(Vec::new()),
            max_tokens: None,
            temperature: None,
            top_p: None,
            n: 1,
            best_of: None,
            echo: false,
            logprobs: None,
            stop: Vec::new(),
            stream: false,
            include_usage: false,
            include_obfuscation: false,
            suffix: None,
            seed: None,
            frequency_penalty: None,
            presence_penalty: None,
            logit_bias: None,
            user: None,
            extra: Vec::new(),
        };
        let (mut prompt, mut stream_options) = (None, None);
        // A repeated key counts as its last value: what every common JSON reader makes of it.
        for (key, raw) in fields {
            let Some(&name) = KNOWN.iter().find(|known| **known == key) else {
                // Some servers take `MAX_TOKENS` for `max_tokens`. It would get past every check made here.
                if KNOWN.contains(&&*folded(&key)) {
                    return Err(unrecognized(&key));
                }
                if is_too_deep(raw.get()) {
                    let message = format!("Invalid '{key}': it is nested more than {MAX_DEPTH} levels deep.");
                    return Err(ApiError::new(Case::Invalid, message).about(&key));
                }
                request.extra.push((key, raw));
                continue;
            };
            let param = Param { name, raw };
            match name {
                "model" => request.model = param.string_up_to(256)?,
                "prompt" => prompt = Some(param),
                // Every other parameter may be null, which is the same as leaving it out.
                _ if param.is_null() => {}
                "stream_options" => stream_options = Some(param),
                _ => request.read(param)?,
            }
        }
        if request.model.is_empty() {
            return Err(ApiError::new(Case::Invalid, "you must provide a model parameter"));
        }
        let Some(param) = prompt else {
            let message = "Missing required parameter: 'prompt'.";
            return Err(ApiError::new(Case::MissingParameter, message).about("prompt"));
        };
        request.prompt = Prompt::parse(param)?;
        if let Some(param) = stream_options {
            request.read_stream_options(param)?;
        }
        request.check_together()?;
        Ok(request)
    }

    /// Reads one optional parameter that is not null.
    fn read(&mut self, param: Param<'a>) -> Result<(), ApiError> {
        match param.name {
            "max_tokens" => self.max_tokens = Some(narrow(param.integer(0, MAX_MAX_TOKENS)?)),
            "temperature" => self.temperature = Some(param.number(0.0, 2.0)?),
            "top_p" => self.top_p = Some(param.number(0.0, 1.0)?),
            "n" => self.n = narrow(param.integer(1, 128)?),
            "best_of" => self.best_of = Some(narrow(param.integer(0, 20)?)),
            "echo" => self.echo = param.boolean()?,
            "logprobs" => self.logprobs = Some(narrow(param.integer(0, 5)?)),
            "stop" => self.stop = stop(param)?,
            "stream" => self.stream = param.boolean()?,
            "suffix" => self.suffix = Some(param.string()?),
            "seed" => self.seed = Some(param.integer(i64::MIN, i64::MAX)?),
            "frequency_penalty" => self.frequency_penalty = Some(param.number(-2.0, 2.0)?),
            "presence_penalty" => self.presence_penalty = Some(param.number(-2.0, 2.0)?),
            "logit_bias" => self.logit_bias = Some(logit_bias(param)?),
            "user" => self.user = Some(param.string_up_to(512)?),
            _ => {}
        }
        Ok(())
    }

    fn read_stream_options(&mut self, param: Param<'a>) -> Result<(), ApiError> {
        let Ok(Fields(fields)) = serde_json::from_str(param.raw.get()) else {
            return Err(param.wrong_type("an object"));
        };
        for (name, raw) in fields {
            let raw = raw.get();
            let option = match &*name {
                "include_usage" => &mut self.include_usage,
                "include_obfuscation" => &mut self.include_obfuscation,
                // The stream's form is ours: an option that we do not know would change nothing.
                _ => return Err(unrecognized(&format!("stream_options.{name}"))),
            };
            if raw != "null" {
                *option = param.boolean_at(&format!(".{name}"), raw)?;
            }
        }
        if self.stream {
            return Ok(());
        }
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        Err(ApiError::new(Case::Invalid, message).about("stream_options"))
    }

    /// What no parameter can tell alone.
    fn check_together(&self) -> Result<(), ApiError> {
        let Some(best_of) = self.best_of else { return Ok(()) };
        if best_of < self.n {
            let message = format!(
                "You requested that the server return more choices than it will generate (HINT: you must set 'n' \
                 (currently {}) to be at most 'best_of' (currently {best_of}), or omit either parameter if you don't \
                 specifically want to use them.)",
                self.n
            );
            return Err(ApiError::new(Case::Invalid, message).about("best_of"));
        }
        if best_of > 1 && self.stream {
            let message = "Results cannot be streamed when 'best_of' is greater than 1.";
            return Err(ApiError::new(Case::Invalid, message).about("best_of"));
        }
        Ok(())
    }

    /// The same request with neither prompt nor stop sequences, borrowing the rest: the beginning of a part of it.
    #[must_use]
    pub fn borrowed(&self) -> CompletionRequest<'_> {
        CompletionRequest {
            model: Cow::Borrowed(&self.model),
            prompt: Prompt::Tokens(Vec::new()),
            suffix: self.suffix.as_deref().map(Cow::Borrowed),
            user: self.user.as_deref().map(Cow::Borrowed),
            stop: Vec::new(),
            extra: self.extra.iter().map(|(name, raw)| (Cow::Borrowed(&**name), *raw)).collect(),
            ..*self
        }
    }

    /// How many choices the answer must have: `n` for each prompt.
    #[must_use]
    pub fn choices(&self) -> u32 {
        u32::try_from(self.prompt.count()).unwrap_or(u32::MAX).saturating_mul(self.n)
    }
}

/// 400: a parameter that nobody here knows and the target cannot carry.
#[must_use]
pub fn unrecognized(name: &str) -> ApiError {
    ApiError::new(Case::Invalid, format!("Unrecognized request argument supplied: {name}"))
}

/// How deep a parameter that we do not know may be nested. It goes on to upstreams, whose readers may recurse.
const MAX_DEPTH: usize = 64;

/// Whether a JSON value has more levels than that.
fn is_too_deep(json: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth = depth.saturating_add(1),
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// The parameters of the API.
const KNOWN: [&str; 18] = [
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "best_of",
    "echo",
    "logprobs",
    "stop",
    "stream",
    "stream_options",
    "suffix",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "user",
];

/// An integer that its range has already bound to the narrower type.
fn narrow<T: TryFrom<i64> + Default>(value: i64) -> T {
    T::try_from(value).unwrap_or_default()
}

/// A name as a reader takes it that does not tell cases apart, nor letters that fold to the same. The known names are
/// ASCII, so that of all other letters only those matter which fold to it: these. Unicode's tables are 9 KB of the bundle.
pub(super) fn folded(name: &str) -> String {
    let mut folded = String::with_capacity(name.len());
    for letter in name.chars() {
        match letter {
            '\u{df}' => folded.push_str("ss"),
            '\u{131}' => folded.push('i'),
            '\u{17f}' => folded.push('s'),
            '\u{212a}' => folded.push('k'),
            '\u{fb00}' => folded.push_str("ff"),
            '\u{fb01}' => folded.push_str("fi"),
            '\u{fb02}' => folded.push_str("fl"),
            '\u{fb03}' => folded.push_str("ffi"),
            '\u{fb04}' => folded.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => folded.push_str("st"),
            _ => folded.push(letter.to_ascii_lowercase()),
        }
    }
    folded
}

fn not_an_object(body: &[u8], error: &serde_json::Error) -> ApiError {
    if error.is_data() && error.to_string().starts_with(TOO_MANY_FIELDS) {
        return ApiError::new(Case::Invalid, format!("The request has more than {MAX_FIELDS} parameters."));
    }
    match crate::json::from_bytes::<&RawValue>(body) {
        Ok(raw) if !raw.get().starts_with('{') => {
            let wrong = Param { name: "body", raw }.wrong_type("an object");
            ApiError { param: None, ..wrong }
        }
        _ => ApiError::not_json(),
    }
}

fn stop(param: Param<'_>) -> Result<Vec<Cow<'_, str>>, ApiError> {
    if param.raw.get().starts_with('"') {
        return Ok(vec![param.string()?]);
    }
    let elements = param.elements().ok_or_else(|| param.wrong_type("a string or an array of strings"))?;
    match elements.len() {
        0 => return Err(param.array_too_short("")),
        1..=4 => {}
        got => return Err(param.array_too_long(4, got)),
    }
    elements.iter().enumerate().map(|(i, element)| param.string_at(&format!("[{i}]"), element.get())).collect()
}

fn logit_bias(param: Param<'_>) -> Result<&RawValue, ApiError> {
    let Ok(Fields(fields)) = serde_json::from_str(param.raw.get()) else {
        return Err(param.wrong_type("an object"));
    };
    for (token, bias) in fields {
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_digit()) {
            let message =
                format!("Invalid key in 'logit_bias': {token}. You should only be submitting non-negative integers.");
            return Err(ApiError::new(Case::Invalid, message).about("logit_bias"));
        }
        param.number_at(&format!(".{token}"), bias.get(), -100.0, 100.0)?;
    }
    Ok(param.raw)
}
