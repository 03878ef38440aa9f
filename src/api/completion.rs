//! The answer of a request that does not stream.

use crate::json::{write_text, write_value};

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
#[derive(Clone, Debug, PartialEq)]
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

/// Writes the text completion object; `usage` is what is to be charged.
#[must_use]
pub fn write_completion(head: &ChunkHead, choices: &[Choice], usage: Usage) -> Vec<u8> {
    let text_bytes: usize = choices.iter().map(|choice| choice.text.len()).sum();
    let mut out = Vec::with_capacity(text_bytes.saturating_add(text_bytes / 8).saturating_add(512));
    out.extend_from_slice(b"{\"id\":");
    write_text(&mut out, &head.id);
    out.extend_from_slice(b",\"object\":\"text_completion\",\"created\":");
    write_value(&mut out, &head.created);
    out.extend_from_slice(b",\"model\":");
    write_text(&mut out, &head.model);
    out.extend_from_slice(b",\"choices\":[");
    for (at, Choice { index, text, logprobs, finish_reason }) in choices.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"index\":");
        write_value(&mut out, index);
        out.extend_from_slice(b",\"text\":");
        write_text(&mut out, text);
        out.extend_from_slice(b",\"logprobs\":");
        write_value(&mut out, logprobs);
        out.extend_from_slice(b",\"finish_reason\":");
        write_value(&mut out, finish_reason);
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"usage\":");
    write_value(&mut out, &usage);
    out.push(b'}');
    out
}
