//! Cohere's chat route, version 2: the prompt becomes one user message.
//!
//! An upstream's `base_url` ends in the version, as in `https://api.cohere.com/v2`. The facts are from
//! <https://docs.cohere.com/reference/chat> and <https://docs.cohere.com/docs/streaming>, and these are worth knowing:
//!
//! - `p` has no value that turns it off: it goes from 0.01 to 0.99, and is 0.75 where it is left out. A `top_p` of 1 is
//!   our API's default, which many clients send unasked: it is left out like one that is absent.
//! - Some models refuse both penalties in one request (<https://docs.cohere.com/errors-reference>), so one of 0, which
//!   is none, is left out.
//! - Log probabilities come for a chunk of text with several tokens' numbers, but without the tokens' texts
//!   (<https://github.com/cohere-ai/cohere-python>, `types/logprob_item.py`). They cannot be told truthfully.
//! - `usage.tokens` counts what the model read and wrote; `usage.billed_units` is about money.
//! - A status of 498 says that the prompt or the answer has a token that is on a list of forbidden ones.

use crate::api::{Answer, ApiError, FinishReason};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::{
    Call, Capabilities, Dialect, Event, Fault, Parameter, Seeds, Stops, StreamDecoder, Support, UpstreamRequest,
    UsageReport, read_frame,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Cohere;

static CAPABILITIES: Capabilities = Capabilities {
    exceptions: &[
        (Parameter::PromptArray, Support::Emulated),
        (Parameter::PromptTokens, Support::Unsupported),
        (Parameter::BestOf, Support::Unsupported),
        (Parameter::Echo, Support::Emulated),
        (Parameter::LogitBias, Support::Unsupported),
        (Parameter::Logprobs, Support::Unsupported),
        (Parameter::MaxTokensZero, Support::Unsupported),
        (Parameter::N, Support::Emulated),
        (Parameter::Suffix, Support::Unsupported),
        (Parameter::User, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops::NOT_EMPTY,
    seeds: Seeds::NOT_NEGATIVE,
};

impl Dialect for Cohere {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        let top_p = request.top_p.filter(|top_p| *top_p < 1.0);
        let (frequency, presence) = (request.frequency_penalty, request.presence_penalty);
        let within = |value: Option<f64>, min: f64, max: f64| value.is_none_or(|value| (min..=max).contains(&value));
        for (fits, name, bounds) in [
            (within(top_p, 0.01, 0.99), "top_p", "must be from 0.01 to 0.99"),
            (within(frequency, 0.0, 1.0), "frequency_penalty", "must be from 0 to 1"),
            (within(presence, 0.0, 1.0), "presence_penalty", "must be from 0 to 1"),
        ] {
            if !fits {
                return Err(ApiError::unsupported_value(name, &request.model, bounds));
            }
        }
        // What is left out must not be filled with another value of the operator's.
        let penalty =
            |name: &str, value: Option<f64>| value.filter(|value| *value > 0.0 || call.model.body.contains_key(name));
        let mut body = Object::new();
        body.put("model", &call.target.model)
            .put("messages", &call.messages())
            .put("max_tokens", &call.max_tokens())
            .put_some("temperature", request.temperature)
            .put_some("p", top_p)
            .put_some("seed", request.seed)
            .put_some("frequency_penalty", penalty("frequency_penalty", frequency))
            .put_some("presence_penalty", penalty("presence_penalty", presence))
            .put_if(!request.stop.is_empty(), "stop_sequences", &request.stop)
            // The route wants it said either way.
            .put("stream", &request.stream);
        Ok(call.post("/chat", call.bearer(), body))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(Decoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        let answer = Raw::read(body, |raw| {
            let [message, reason, usage] = raw.fields(["message", "finish_reason", "usage"]);
            if message.text().is_some() {
                return Err(Fault::in_stream(body));
            }
            if !message.is_object() {
                return Err(Fault::nonsense("the answer has no message"));
            }
            let parts = message.field("content").items();
            let text = parts.into_iter().filter_map(|part| part.field("text").text()).collect();
            let finish_reason = finish_reason(reason)?.unwrap_or(FinishReason::Stop);
            Ok((Answer::of_one(text, None, finish_reason), tokens(usage)))
        });
        answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON of this dialect")))
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        match status {
            498 => Fault { code: Some("content_filter".to_owned()), ..Fault::of_body(400, body) },
            _ => Fault::of_body(status, body),
        }
    }
}

/// The decoder of all streams. It keeps nothing between frames: usage comes once, at the end.
#[derive(Debug)]
struct Decoder;

impl StreamDecoder for Decoder {
    fn repeats(&self) -> bool {
        true
    }

    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        read_frame(frame, events, |raw, events| {
            let [kind, delta, message, error] = raw.fields(["type", "delta", "message", "error"]);
            match kind.text().as_deref() {
                Some("content-start" | "content-delta") => {
                    // A thought has a field of another name.
                    if let Some(text) = delta.field("message").field("content").field("text").text() {
                        events(Event::Delta { index: 0, text: &text, logprobs: None, finish_reason: None });
                    }
                }
                Some("message-end") => {
                    let [reason, usage] = delta.fields(["finish_reason", "usage"]);
                    events(Event::Usage(tokens(usage)));
                    match finish_reason(reason) {
                        Ok(finish_reason) => {
                            events(Event::Delta { index: 0, text: "", logprobs: None, finish_reason });
                            events(Event::End);
                        }
                        Err(fault) => events(Event::Failed(fault)),
                    }
                }
                None if message.is_present() || error.is_present() => {
                    events(Event::Failed(Fault::in_stream(frame.data)));
                }
                None => events(Event::Malformed),
                // Citations, tools and their plan, debugging, and events of tomorrow.
                Some(_) => {}
            }
        });
    }
}

fn tokens(usage: Raw<'_>) -> UsageReport {
    let [input, output] = usage.field("tokens").fields(["input_tokens", "output_tokens"]);
    UsageReport { prompt_tokens: input.count(), completion_tokens: output.count() }
}

/// `COMPLETE`, `STOP_SEQUENCE`, `TOOL_CALL` and what comes later mean that the model was done. The errors but for
/// `ERROR` itself are those of version 1, which some models still give.
fn finish_reason(reason: Raw<'_>) -> Result<Option<FinishReason>, Fault> {
    let Some(reason) = reason.text() else { return Ok(None) };
    Ok(Some(match &*reason {
        "MAX_TOKENS" | "ERROR_LIMIT" => FinishReason::Length,
        "ERROR_TOXIC" => FinishReason::ContentFilter,
        "TIMEOUT" => return Err(Fault { status: 504, ..Fault::nonsense("the generation ended with TIMEOUT") }),
        error if error.starts_with("ERROR") => {
            return Err(Fault::nonsense(&format!("the generation ended with {error}")));
        }
        _ => FinishReason::Stop,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_finish(reason: &str, expected: Result<Option<FinishReason>, u16>) {
        let json = format!("{{\"finish_reason\":{reason}}}");
        let found = Raw::read(json.as_bytes(), |raw| finish_reason(raw.field("finish_reason")));
        assert_eq!(found.unwrap().map_err(|fault| fault.status), expected, "{reason}");
    }

    #[test]
    fn every_finish_reason_is_one_of_three_or_an_error() {
        for done in ["COMPLETE", "STOP_SEQUENCE", "TOOL_CALL", "REASON_OF_TOMORROW"] {
            check_finish(&format!("\"{done}\""), Ok(Some(FinishReason::Stop)));
        }
        check_finish("\"MAX_TOKENS\"", Ok(Some(FinishReason::Length)));
        check_finish("\"ERROR_LIMIT\"", Ok(Some(FinishReason::Length)));
        check_finish("\"ERROR_TOXIC\"", Ok(Some(FinishReason::ContentFilter)));
        check_finish("\"ERROR\"", Err(502));
        check_finish("\"ERROR_OF_TOMORROW\"", Err(502));
        check_finish("\"TIMEOUT\"", Err(504));
        check_finish("null", Ok(None));
    }

    fn check_fault(status: u16, body: &str, expected: (u16, &str, Option<&str>)) {
        let fault = Cohere.decode_fault(status, body.as_bytes());
        assert_eq!((fault.status, fault.message.as_str(), fault.code.as_deref()), expected, "{status} {body}");
    }

    #[test]
    fn errors_are_a_message_and_a_status() {
        check_fault(400, r#"{"id":"8a2c","message":"too many tokens"}"#, (400, "too many tokens", None));
        check_fault(498, r#"{"message":"blocked input"}"#, (400, "blocked input", Some("content_filter")));
        check_fault(402, r#"{"message":"m"}"#, (402, "m", None));
        check_fault(500, "<html>", (500, "", None));
    }
}
