//! Anthropic's Messages API: the prompt becomes one user message.
//!
//! An upstream's `base_url` ends in the version, as in `https://api.anthropic.com/v1`. The facts are from
//! <https://docs.claude.com/en/api/messages> and <https://docs.claude.com/en/api/messages-streaming>, and these beyond
//! them:
//!
//! - Models from Claude Opus 4.1 on refuse a request with both `temperature` and `top_p`, and those from Opus 4.7 on
//!   any value of either but 1 (<https://platform.claude.com/docs/en/about-claude/models/migration-guide>). What the
//!   client asked for is sent and the refusal is the client's to read, but a value of 1 changes nothing and is left
//!   out: many clients send their defaults.
//! - Stop sequences of white space alone are refused (<https://github.com/BerriAI/litellm/issues/3286>).
//! - A prompt's tokens are `input_tokens` and those written to and read from the cache together, as the API's own
//!   definition of `usage` says (<https://github.com/anthropics/anthropic-sdk-python>, `types/message.py`): they were
//!   processed, at whatever price.
//! - An account without credit is told so with a 400 (`invalid_request_error`), or a 402 (`billing_error`).

use serde::Serialize;

use crate::api::{Answer, ApiError, FinishReason};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::{
    Call, Capabilities, Dialect, Event, Fault, Parameter, Seeds, Stops, StreamDecoder, Support, UpstreamRequest,
    UsageReport, read_frame,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Anthropic;

static CAPABILITIES: Capabilities = Capabilities {
    exceptions: &[
        (Parameter::PromptArray, Support::Emulated),
        (Parameter::PromptTokens, Support::Unsupported),
        (Parameter::BestOf, Support::Unsupported),
        (Parameter::Echo, Support::Emulated),
        (Parameter::FrequencyPenalty, Support::Unsupported),
        (Parameter::PresencePenalty, Support::Unsupported),
        (Parameter::LogitBias, Support::Unsupported),
        (Parameter::Logprobs, Support::Unsupported),
        (Parameter::MaxTokensZero, Support::Unsupported),
        (Parameter::N, Support::Emulated),
        (Parameter::Seed, Support::Unsupported),
        (Parameter::Suffix, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops::NOT_BLANK,
    seeds: Seeds::ANY,
};

#[derive(Serialize)]
struct Metadata<'a> {
    user_id: &'a str,
}

/// The characters that `metadata.user_id` may have.
const MAX_USER_CHARS: usize = 256;

impl Dialect for Anthropic {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        let user = request.user.as_deref();
        if user.is_some_and(|user| user.chars().count() > MAX_USER_CHARS) {
            return Err(ApiError::unsupported_value("user", &request.model, "must have at most 256 characters"));
        }
        // What is left out must not be filled with another value of the operator's.
        let sampling = |name: &str, value: Option<f64>| {
            value.map(|value| value.min(1.0)).filter(|value| *value < 1.0 || call.model.body.contains_key(name))
        };
        let mut body = Object::new();
        body.put("model", &call.target.model)
            .put("max_tokens", &call.max_tokens())
            .put_some("system", call.model.system.as_deref())
            .put("messages", &[call.user_message()])
            .put_some("temperature", sampling("temperature", request.temperature))
            .put_some("top_p", sampling("top_p", request.top_p))
            .put_if(!request.stop.is_empty(), "stop_sequences", &request.stop)
            .put_some("metadata", user.map(|user_id| Metadata { user_id }))
            .put_if(request.stream, "stream", true);
        let mut upstream_request = call.post("/messages", call.secret.map(|key| ("x-api-key", key.to_owned())), body);
        // The operator may have chosen another version.
        if !call.model.headers.contains_key("anthropic-version") {
            upstream_request.headers.push(("anthropic-version".into(), "2023-06-01".to_owned()));
        }
        Ok(upstream_request)
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(Decoder::default())
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        let answer = Raw::read(body, |raw| {
            let [content, stop_reason, usage, error] = raw.fields(["content", "stop_reason", "usage", "error"]);
            if error.is_present() {
                return Err(fault_in_stream(body));
            }
            if !content.is_array() {
                return Err(Fault::nonsense("the answer has no content"));
            }
            let text = content.items().into_iter().filter_map(text_of_block).collect();
            let finish_reason = finish_reason(stop_reason).unwrap_or(FinishReason::Stop);
            Ok((Answer::of_one(text, None, finish_reason), Tokens::default().take(usage)))
        });
        answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON of this dialect")))
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        let mut fault = Fault::of_body(status, body);
        if status == 400 && fault.message.starts_with("Your credit balance is too low") {
            // The operator's account, which is no business of the client's.
            fault.status = 402;
        }
        fault
    }
}

/// What `usage` says field by field: a later event may restate some of its fields only.
#[derive(Debug, Default)]
struct Tokens {
    input: Option<u64>,
    cache_creation: Option<u64>,
    cache_read: Option<u64>,
    output: Option<u64>,
}

impl Tokens {
    /// Takes a report and tells what is known now.
    fn take(&mut self, usage: Raw<'_>) -> UsageReport {
        let [input, creation, read, output] =
            usage.fields(["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"]);
        self.input = input.count().or(self.input);
        self.cache_creation = creation.count().or(self.cache_creation);
        self.cache_read = read.count().or(self.cache_read);
        self.output = output.count().or(self.output);
        let of_prompt = [self.input, self.cache_creation, self.cache_read];
        UsageReport {
            prompt_tokens: of_prompt.into_iter().flatten().reduce(u64::saturating_add),
            completion_tokens: self.output,
        }
    }
}

/// The decoder of one stream. Its events may interleave with pings and with kinds that do not exist yet.
#[derive(Debug, Default)]
struct Decoder {
    tokens: Tokens,
}

impl StreamDecoder for Decoder {
    fn repeats(&self) -> bool {
        true
    }

    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        read_frame(frame, events, |raw, events| {
            let names = ["type", "delta", "content_block", "message", "usage", "error"];
            let [kind, delta, block, message, usage, error] = raw.fields(names);
            if error.is_present() || frame.event == b"error" {
                return events(Event::Failed(fault_in_stream(frame.data)));
            }
            let mut text = |block: Raw<'_>| {
                if let Some(text) = text_of_block(block) {
                    events(Event::Delta { index: 0, text: &text, logprobs: None, finish_reason: None });
                }
            };
            match kind.text().as_deref() {
                Some("content_block_start") => text(block),
                Some("content_block_delta") => text(delta),
                Some("message_start") => events(Event::Usage(self.tokens.take(message.field("usage")))),
                Some("message_delta") => {
                    events(Event::Usage(self.tokens.take(usage)));
                    let finish_reason = finish_reason(delta.field("stop_reason"));
                    events(Event::Delta { index: 0, text: "", logprobs: None, finish_reason });
                }
                Some("message_stop") => events(Event::End),
                // A ping, the end of a block, or an event of tomorrow.
                Some(_) => {}
                None => events(Event::Malformed),
            }
        });
    }
}

/// The text of a content block or of a block's delta; thinking, signatures and tools' input are none.
fn text_of_block(block: Raw<'_>) -> Option<std::borrow::Cow<'_, str>> {
    let [kind, text] = block.fields(["type", "text"]);
    matches!(kind.text().as_deref(), Some("text" | "text_delta")).then(|| text.text())?
}

/// `end_turn`, `stop_sequence`, `pause_turn`, `tool_use` and what comes later mean that the model was done.
fn finish_reason(reason: Raw<'_>) -> Option<FinishReason> {
    reason.text().map(|reason| match &*reason {
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "refusal" => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    })
}

/// An error that came where the status was 200 already: its type stands for the status that it would have had
/// (<https://docs.claude.com/en/api/errors>).
fn fault_in_stream(data: &[u8]) -> Fault {
    let kind = Raw::read(data, |raw| raw.field("error").field("type").text().map(std::borrow::Cow::into_owned));
    let status = match kind.flatten().as_deref() {
        Some("invalid_request_error") => 400,
        Some("authentication_error") => 401,
        Some("billing_error") => 402,
        Some("permission_error") => 403,
        Some("not_found_error") => 404,
        Some("request_too_large") => 413,
        Some("rate_limit_error") => 429,
        Some("timeout_error") => 504,
        Some("overloaded_error") => 529,
        _ => 502,
    };
    Anthropic.decode_fault(status, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_finish(reason: &str, expected: Option<FinishReason>) {
        let json = format!("{{\"stop_reason\":{reason}}}");
        assert_eq!(
            Raw::read(json.as_bytes(), |raw| finish_reason(raw.field("stop_reason"))),
            Some(expected),
            "{reason}"
        );
    }

    #[test]
    fn every_stop_reason_is_one_of_three() {
        for done in ["end_turn", "stop_sequence", "pause_turn", "tool_use", "compaction"] {
            check_finish(&format!("\"{done}\""), Some(FinishReason::Stop));
        }
        check_finish("\"max_tokens\"", Some(FinishReason::Length));
        check_finish("\"model_context_window_exceeded\"", Some(FinishReason::Length));
        check_finish("\"refusal\"", Some(FinishReason::ContentFilter));
        check_finish("null", None);
    }

    fn check_fault(kind: &str, expected: u16) {
        let body = format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"m"}},"request_id":"req_1"}}"#);
        let fault = Anthropic.decode_answer(body.as_bytes()).unwrap_err();
        assert_eq!((fault.status, fault.message.as_str()), (expected, "m"), "{kind}");
    }

    #[test]
    fn an_error_inside_a_200_has_the_status_of_its_type() {
        for (kind, status) in [
            ("invalid_request_error", 400),
            ("authentication_error", 401),
            ("billing_error", 402),
            ("permission_error", 403),
            ("not_found_error", 404),
            ("request_too_large", 413),
            ("rate_limit_error", 429),
            ("api_error", 502),
            ("timeout_error", 504),
            ("overloaded_error", 529),
            ("error_of_tomorrow", 502),
        ] {
            check_fault(kind, status);
        }
    }

    #[test]
    fn an_account_without_credit_is_the_operators_to_mend() {
        let body = br#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."}}"#;
        assert_eq!(Anthropic.decode_fault(400, body).status, 402);
        assert_eq!(Anthropic.decode_fault(400, br#"{"error":{"message":"prompt is too long"}}"#).status, 400);
    }

    #[test]
    fn stop_sequences_of_white_space_are_looked_for_here() {
        let takes = CAPABILITIES.stops.takes;
        assert!(takes("x") && takes("\n\nHuman:") && !takes("\n") && !takes(" \t ") && !takes(""));
    }

    #[test]
    fn pitfall_9_usage_is_restated_field_by_field() {
        let mut tokens = Tokens::default();
        let mut check = |usage: &str, prompt: Option<u64>, completion: Option<u64>| {
            let report = Raw::read(usage.as_bytes(), |raw| tokens.take(raw)).unwrap();
            assert_eq!(report, UsageReport { prompt_tokens: prompt, completion_tokens: completion }, "{usage}");
        };
        check("null", None, None);
        check(r#"{"input_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":100}"#, Some(105), None);
        check(r#"{"output_tokens":0}"#, Some(105), Some(0));
        check(r#"{"input_tokens":7,"output_tokens":9,"cache_read_input_tokens":null}"#, Some(107), Some(9));
    }
}
