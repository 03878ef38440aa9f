//! The small values that every answer is made of: usage, finish reasons, log probabilities.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

/// Tokens of one request. Serializes to the API's `usage` object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of all prompts together.
    pub prompt_tokens: u64,
    /// Tokens of all choices together.
    pub completion_tokens: u64,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(other.completion_tokens),
        }
    }

    /// Tokens of prompts and choices together.
    #[must_use]
    pub const fn total_tokens(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

impl Serialize for Usage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("prompt_tokens", &self.prompt_tokens)?;
        map.serialize_entry("completion_tokens", &self.completion_tokens)?;
        map.serialize_entry("total_tokens", &self.total_tokens())?;
        map.end()
    }
}

/// The tokens that so many bytes of text count for where nobody has counted: a quarter, rounded up.
#[must_use]
pub const fn tokens_of_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// Why a choice ended: the three words that every client of the API accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done, or met a stop sequence.
    Stop,
    /// `max_tokens`, or the end of the model's context.
    Length,
    /// A filter cut the choice.
    ContentFilter,
}

impl FinishReason {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// Log probabilities in the API's form: four arrays of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Logprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Natural logarithms; none for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<Logprob>>,
    /// For each position the likeliest tokens, in the upstream's order; empty where it named none.
    pub top_logprobs: Vec<TopLogprobs>,
    /// Where each token begins, in characters of the choice's whole text.
    pub text_offset: Vec<u64>,
}

impl Logprobs {
    /// Adds the tokens that follow. Offsets stay only if both have them.
    pub fn append(&mut self, mut more: Self) {
        let complete = |logprobs: &Self| logprobs.text_offset.len() == logprobs.tokens.len();
        let offsets = complete(self) && complete(&more);
        self.tokens.append(&mut more.tokens);
        self.token_logprobs.append(&mut more.token_logprobs);
        self.top_logprobs.append(&mut more.top_logprobs);
        self.text_offset.append(&mut more.text_offset);
        if !offsets {
            self.text_offset.clear();
        }
    }

    /// Takes the first tokens out.
    #[must_use]
    pub fn take_first(&mut self, count: usize) -> Self {
        fn take<T>(from: &mut Vec<T>, count: usize) -> Vec<T> {
            let rest = from.split_off(count.min(from.len()));
            std::mem::replace(from, rest)
        }
        Self {
            tokens: take(&mut self.tokens, count),
            token_logprobs: take(&mut self.token_logprobs, count),
            top_logprobs: take(&mut self.top_logprobs, count),
            text_offset: take(&mut self.text_offset, count),
        }
    }
}

/// One logarithm, in the digits that the upstream wrote: nobody here counts with it, and no digit is lost.
#[derive(Clone, Debug, Serialize)]
pub struct Logprob(Box<RawValue>);

impl Logprob {
    /// Takes a JSON value, if it is a number. A whole one gets a fraction, since typed clients read a double.
    #[must_use]
    pub fn of_json(json: &str) -> Option<Self> {
        let is_number = json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let fraction = if json.contains(['.', 'e', 'E']) { "" } else { ".0" };
        is_number.then(|| RawValue::from_string([json, fraction].concat()).ok().map(Self)).flatten()
    }
}

impl PartialEq for Logprob {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// The likeliest tokens of one position; serializes to an object in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopLogprobs(pub Vec<(String, Logprob)>);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}
