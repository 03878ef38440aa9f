//! What `/v1/completions` and `/v1/chat/completions` servers answer, streaming and not.
//!
//! The two differ in where the text stands, and real servers mix the two up, so one reader takes all places: `text`,
//! `delta.text`, `delta.content`, `message.content`; what stands there may be an array of pieces. Everything else in a
//! delta (roles, reasoning, tool calls) is not text. No field has to be there, and none but `choices` has to be of the
//! type that the documentation gives it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::{Answer, Choice, FinishReason, Logprobs};
use crate::framing::Frame;

use super::json::{Loose, Raw, repair};
use super::{Event, Fault, StreamDecoder, UsageReport, logprobs};

/// A chunk of a stream, or a whole answer. Its reader is derived, since it reads every chunk of most streams, and
/// [`Raw`] takes three times as long.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<WireChoice<'a>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    /// "error" in the answers of servers that put the error at the top level.
    #[serde(borrow, default)]
    object: Loose<'a>,
    /// Where web frameworks put the error.
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireChoice<'a> {
    #[serde(borrow, default)]
    index: Loose<'a>,
    #[serde(borrow, default)]
    text: Loose<'a>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    logprobs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Loose<'a>,
}

impl Wire<'_> {
    fn usage(&self) -> Option<UsageReport> {
        let [prompt, completion] = Raw::from(self.usage?).fields(["prompt_tokens", "completion_tokens"]);
        let report = UsageReport { prompt_tokens: prompt.count(), completion_tokens: completion.count() };
        (report != UsageReport::default()).then_some(report)
    }

    /// Whether this is an error, in any of the shapes that servers give it.
    fn is_error(&self) -> bool {
        self.error.is_some()
            || self.object.text() == Some("error")
            || (self.detail.is_some() && self.choices.is_none() && self.usage.is_none())
    }
}

impl WireChoice<'_> {
    fn index(&self) -> u32 {
        self.index.count().and_then(|index| u32::try_from(index).ok()).unwrap_or_default()
    }

    /// Hands on the choice's text, wherever it stands.
    fn with_text<R>(&self, read: impl FnOnce(&str) -> R) -> R {
        if let Some(text) = self.text.text().filter(|text| !text.is_empty()) {
            return read(text);
        }
        let places = [self.delta, self.message].into_iter().flatten();
        let mut texts = places.flat_map(|place| Raw::from(place).fields(["text", "content"])).map(text_or_pieces);
        read(&texts.find(|text| !text.is_empty()).unwrap_or_default())
    }

    fn logprobs(&self) -> Option<Logprobs> {
        logprobs::read(self.logprobs?.into())
    }

    fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason.text().filter(|reason| *reason != "error").and_then(finish_reason)
    }

    /// The failure of a choice that finished with an error, as Mistral's do: it is not complete, whatever text it has.
    fn failure(&self) -> Option<Fault> {
        (self.finish_reason.text() == Some("error")).then(|| Fault::nonsense("a choice finished with an error"))
    }
}

/// `tool_calls`, `function_call` and whatever else servers say mean that the model was done. Some servers send an empty
/// reason with every chunk, which is none.
pub(super) fn finish_reason(word: &str) -> Option<FinishReason> {
    match word {
        "" | "null" => None,
        "length" | "max_tokens" | "model_length" => Some(FinishReason::Length),
        "content_filter" => Some(FinishReason::ContentFilter),
        _ => Some(FinishReason::Stop),
    }
}

/// A text, or an array of pieces of which those with a `text` make one.
fn text_or_pieces(raw: Raw<'_>) -> Cow<'_, str> {
    let pieces = || raw.items().into_iter().filter_map(|piece| piece.field("text").text()).collect();
    raw.text().unwrap_or_else(|| Cow::Owned(pieces()))
}

/// Reads a wire value and hands it on; `None` if the data is nothing of the kind.
fn read<R>(data: &[u8], f: impl FnOnce(&Wire<'_>) -> R) -> Option<R> {
    match crate::json::from_bytes::<Wire<'_>>(data) {
        Ok(wire) => Some(f(&wire)),
        Err(_) => crate::json::from_bytes::<Wire<'_>>(&repair(data)).ok().map(|wire| f(&wire)),
    }
}

/// The stream decoder of both dialects. It keeps nothing between frames.
#[derive(Debug)]
pub(super) struct OpenAiDecoder;

impl StreamDecoder for OpenAiDecoder {
    fn repeats(&self) -> bool {
        true
    }

    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        let data = frame.data.trim_ascii();
        if data == b"[DONE]" {
            return events(Event::End);
        }
        // A keepalive that somebody wrapped as data, an event that is only a name, or the empty beginning of
        // llama.cpp's server for several prompts.
        if data.is_empty() || data == b"null" {
            return;
        }
        let read = read(data, |wire| {
            if frame.event == b"error" || wire.is_error() {
                return events(Event::Failed(Fault::in_stream(data)));
            }
            if let Some(usage) = wire.usage() {
                // Where it comes with a choice, as llama.cpp's server and vLLM send it, it is that choice's.
                events(match wire.choices.as_deref() {
                    Some([choice]) => Event::UsageOf { index: choice.index(), report: usage },
                    _ => Event::Usage(usage),
                });
            }
            for choice in wire.choices.iter().flatten() {
                choice.with_text(|text| {
                    events(Event::Delta {
                        index: choice.index(),
                        text,
                        logprobs: choice.logprobs(),
                        finish_reason: choice.finish_reason(),
                    });
                });
                if let Some(fault) = choice.failure() {
                    events(Event::Failed(fault));
                }
            }
        });
        if read.is_none() {
            events(if frame.event == b"error" { Event::Failed(Fault::in_stream(data)) } else { Event::Malformed });
        }
    }
}

/// Reads a whole answer of either route.
pub(super) fn decode_answer(body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
    let answer = read(body, |wire| {
        if wire.is_error() {
            return Err(Fault::in_stream(body));
        }
        let choices = wire.choices.as_ref().ok_or_else(|| Fault::nonsense("the answer has no choices"))?;
        if let Some(fault) = choices.iter().find_map(WireChoice::failure) {
            return Err(fault);
        }
        let mut choices: Vec<Choice> = choices
            .iter()
            .map(|choice| Choice {
                index: choice.index(),
                text: choice.with_text(str::to_owned),
                logprobs: choice.logprobs(),
                // A whole answer is complete by itself: its transport has said where it ends.
                finish_reason: choice.finish_reason().unwrap_or(FinishReason::Stop),
            })
            .collect();
        choices.sort_by_key(|choice| choice.index);
        Ok((Answer { choices }, wire.usage().unwrap_or_default()))
    });
    answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON of this dialect")))
}
