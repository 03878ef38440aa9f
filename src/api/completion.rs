//! The answer of a request that does not stream.

use serde::Serialize;

use super::chunk::ChunkHead;
use super::usage::{FinishReason, Logprobs, Usage};

/// A whole answer, as an upstream gave it and as we pass it on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// In the order of their indices.
    pub choices: Vec<Choice>,
}

impl Answer {
    /// An answer of one choice.
    #[must_use]
    pub fn of_one(text: String, logprobs: Option<Logprobs>, finish_reason: FinishReason) -> Self {
        Self { choices: vec![Choice { index: 0, text, logprobs, finish_reason }] }
    }
}

/// One choice of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// `prompt_index * n + i`.
    pub index: u32,
    /// The completion, after the prompt if that is to be echoed.
    pub text: String,
    /// If they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice],
    usage: Usage,
}

/// Writes the text completion object; `usage` is what is to be charged.
#[must_use]
pub fn write_completion(head: &ChunkHead, choices: &[Choice], usage: Usage) -> Vec<u8> {
    let completion = Completion {
        id: &head.id,
        object: "text_completion",
        created: head.created,
        model: &head.model,
        choices,
        usage,
    };
    // Plain data always serializes: strings, numbers, and maps whose keys are strings.
    serde_json::to_vec(&completion).unwrap_or_default()
}
