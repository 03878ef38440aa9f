//! Google's Gemini API: the prompt becomes the one turn of a conversation.
//!
//! An upstream's `base_url` ends in the version, as in `https://generativelanguage.googleapis.com/v1beta`. The facts
//! are from <https://ai.google.dev/api/generate-content>, and these beyond it:
//!
//! - Several candidates in one call are refused by every model of the third generation
//!   (<https://github.com/googleapis/js-genai/issues/1609>), so `n` is one call a choice.
//! - Log probabilities are not enabled for most models (<https://github.com/mscraftsman/generative-ai/issues/135>), and
//!   refused for streams (<https://github.com/vercel/ai/pull/11989>), so there are none.
//! - An invalid key is a 400 whose details say `API_KEY_INVALID`, and a 400 `FAILED_PRECONDITION` means the account's
//!   billing or country (<https://ai.google.dev/gemini-api/docs/troubleshooting>): both are the operator's to mend.
//! - A finish reason is not the end of the text: Gemini 1.0 and 1.5 gave one with every event
//!   (<https://github.com/BerriAI/litellm/issues/4339>), and proxies that translate still do. The last one counts, once
//!   the body has ended.
//! - An empty stop sequence is refused (<https://git.drupalcode.org/project/gemini_provider/-/work_items/3502139>), and
//!   one of white space is the documentation's own example.
//! - Thinking counts towards `maxOutputTokens`, so that a small bound may leave no text at all. An operator turns it
//!   off where the model allows it, with `"body": {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}`.

use std::time::Duration;

use serde::Serialize;

use crate::api::{Answer, ApiError, Choice, FinishReason};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::{
    Call, Capabilities, Dialect, Event, Fault, Parameter, Seeds, Stops, StreamDecoder, Support, UpstreamRequest,
    UsageReport, path, read_frame,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Gemini;

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
    seeds: Seeds { min: -0x8000_0000, max: 0x7FFF_FFFF },
};

#[derive(Serialize)]
struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    parts: [Part<'a>; 1],
}

#[derive(Serialize)]
struct Part<'a> {
    text: &'a str,
}

impl Dialect for Gemini {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        let mut config = Object::new();
        config
            .put("maxOutputTokens", &call.max_tokens())
            .put_some("temperature", request.temperature)
            .put_some("topP", request.top_p)
            .put_some("seed", request.seed)
            .put_some("presencePenalty", request.presence_penalty)
            .put_some("frequencyPenalty", request.frequency_penalty)
            .put_if(!request.stop.is_empty(), "stopSequences", &request.stop);
        let content = |role, text| Content { role, parts: [Part { text }] };
        let mut body = Object::new();
        body.put("contents", &[content(Some("user"), call.prompt_text())])
            .put_some("systemInstruction", call.model.system.as_deref().map(|system| content(None, system)))
            .put_filled("generationConfig", config, &call.model.body);
        let method = if request.stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
        let route = format!("/models/{}:{method}", path::segment(&call.target.model));
        Ok(call.post(&route, call.secret.map(|key| ("x-goog-api-key", key.to_owned())), body))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(Decoder::default())
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        let answer = Raw::read(body, |raw| {
            if unwrapped(raw).field("error").is_present() {
                return Err(fault(0, body));
            }
            let [_, candidates, usage, feedback] = raw.fields(FIELDS);
            let choices: Vec<Choice> = candidates
                .items()
                .into_iter()
                .map(|candidate| Choice {
                    index: index(candidate),
                    text: text(candidate),
                    logprobs: None,
                    finish_reason: finish_reason(candidate).unwrap_or(FinishReason::Stop),
                })
                .collect();
            if choices.is_empty() {
                return Err(blocked(feedback).unwrap_or_else(|| Fault::nonsense("the answer has no candidates")));
            }
            Ok((Answer { choices }, Tokens::default().take(usage)))
        });
        answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON of this dialect")))
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        fault(status, body)
    }
}

/// The fields of an answer and of an event, which are the same.
const FIELDS: [&str; 4] = ["error", "candidates", "usageMetadata", "promptFeedback"];

/// The object of an error, which may come inside an array; an answer that does is a stream of another kind.
fn unwrapped(raw: Raw<'_>) -> Raw<'_> {
    raw.items().first().copied().unwrap_or(raw)
}

/// What `usageMetadata` says: cumulative, and on every event, though not always whole.
#[derive(Debug, Default)]
struct Tokens {
    candidates: Option<u64>,
    thoughts: Option<u64>,
}

impl Tokens {
    /// Takes a report and tells what is known now. Thoughts are paid for as the text is.
    fn take(&mut self, usage: Raw<'_>) -> UsageReport {
        let [prompt, candidates, thoughts] =
            usage.fields(["promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"]);
        self.candidates = candidates.count().or(self.candidates);
        self.thoughts = thoughts.count().or(self.thoughts);
        let of_completion = [self.candidates, self.thoughts];
        UsageReport {
            prompt_tokens: prompt.count(),
            completion_tokens: of_completion.into_iter().flatten().reduce(u64::saturating_add),
        }
    }
}

/// The decoder of one stream. Nothing marks its end, and a finish reason does not either: see the module.
#[derive(Debug, Default)]
struct Decoder {
    tokens: Tokens,
    /// The choice, and the last finish reason that it was given.
    finished: Option<(u32, FinishReason)>,
}

impl StreamDecoder for Decoder {
    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        read_frame(frame, events, |raw, events| {
            let [error, candidates, usage, feedback] = unwrapped(raw).fields(FIELDS);
            if error.is_present() {
                return events(Event::Failed(fault(0, frame.data)));
            }
            if !raw.is_object() {
                return events(Event::Malformed);
            }
            events(Event::Usage(self.tokens.take(usage)));
            if let Some(fault) = blocked(feedback) {
                return events(Event::Failed(fault));
            }
            for candidate in candidates.items() {
                let index = index(candidate);
                events(Event::Delta { index, text: &text(candidate), logprobs: None, finish_reason: None });
                self.finished = finish_reason(candidate).map(|reason| (index, reason)).or(self.finished);
            }
        });
    }

    fn finish(&mut self, events: &mut dyn FnMut(Event<'_>)) {
        if let Some((index, reason)) = self.finished {
            events(Event::Delta { index, text: "", logprobs: None, finish_reason: Some(reason) });
        }
    }
}

/// The candidate's number, which is left out when it is 0.
fn index(candidate: Raw<'_>) -> u32 {
    candidate.field("index").count().and_then(|index| u32::try_from(index).ok()).unwrap_or_default()
}

/// The candidate's text without its thoughts. There may be no content at all.
fn text(candidate: Raw<'_>) -> String {
    let parts = candidate.field("content").field("parts").items();
    let texts = parts.into_iter().filter_map(|part| {
        let [text, thought] = part.fields(["text", "thought"]);
        text.text().filter(|_| !thought.is_true())
    });
    texts.collect()
}

/// `STOP`, `OTHER`, `MALFORMED_FUNCTION_CALL` and what comes later mean that the model was done.
fn finish_reason(candidate: Raw<'_>) -> Option<FinishReason> {
    let reason = candidate.field("finishReason").text()?;
    match &*reason {
        // The default of the field, which stands for its absence.
        "FINISH_REASON_UNSPECIFIED" => None,
        "MAX_TOKENS" => Some(FinishReason::Length),
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => Some(FinishReason::ContentFilter),
        _ => Some(FinishReason::Stop),
    }
}

/// A prompt that was blocked has no candidates, only the reason: the client is told as OpenAI tells it, by a 400.
fn blocked(feedback: Raw<'_>) -> Option<Fault> {
    let reason = feedback.field("blockReason").text()?;
    Some(Fault {
        status: 400,
        message: format!("The prompt was blocked by the content filter of this model's upstream: {reason}."),
        param: Some("prompt".to_owned()),
        code: Some("content_filter".to_owned()),
        retry_after_ms: None,
    })
}

/// Reads an error; where it came inside a 200, whose status says nothing, with a `status` of 0.
fn fault(status: u16, body: &[u8]) -> Fault {
    let fault = Raw::read(body, |raw| {
        let raw = unwrapped(raw);
        let [rpc_status, details] = raw.field("error").fields(["status", "details"]);
        let details = details.items();
        let mut fault = Fault::of_body(status, raw.json().unwrap_or_default().as_bytes());
        fault.retry_after_ms = details.iter().find_map(|detail| milliseconds(&detail.field("retryDelay").text()?));
        if details.iter().any(|detail| detail.field("reason").text().as_deref() == Some("API_KEY_INVALID")) {
            fault.status = 401;
        } else if rpc_status.text().as_deref() == Some("FAILED_PRECONDITION") {
            fault.status = 403;
        } else if fault.status == 0 {
            fault.status = 502;
        }
        fault
    });
    fault.unwrap_or_else(|| Fault::of_body(status, body))
}

/// A duration as protobuf's JSON writes it, such as `34.074824224s`.
fn milliseconds(duration: &str) -> Option<u64> {
    let seconds = serde_json::from_str(duration.strip_suffix('s')?).ok()?;
    u64::try_from(Duration::try_from_secs_f64(seconds).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_finish(reason: &str, expected: Option<FinishReason>) {
        let json = format!("{{\"finishReason\":{reason}}}");
        assert_eq!(Raw::read(json.as_bytes(), finish_reason), Some(expected), "{reason}");
    }

    #[test]
    fn every_finish_reason_is_one_of_three() {
        for done in ["STOP", "OTHER", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "REASON_OF_TOMORROW"] {
            check_finish(&format!("\"{done}\""), Some(FinishReason::Stop));
        }
        check_finish("\"MAX_TOKENS\"", Some(FinishReason::Length));
        for filtered in ["SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"]
        {
            check_finish(&format!("\"{filtered}\""), Some(FinishReason::ContentFilter));
        }
        check_finish("\"FINISH_REASON_UNSPECIFIED\"", None);
        check_finish("null", None);
        check_finish("1", None);
    }

    #[test]
    fn an_array_of_chunks_is_no_whole_answer() {
        let chunks = br#"[{"candidates":[{"content":{"parts":[{"text":"a"}]}}]},{"candidates":[]}]"#;
        assert_eq!(Gemini.decode_answer(chunks).unwrap_err().status, 502);
    }

    fn check_fault(status: u16, body: &str, expected: (u16, &str, Option<u64>)) {
        let fault = Gemini.decode_fault(status, body.as_bytes());
        assert_eq!((fault.status, fault.message.as_str(), fault.retry_after_ms), expected, "{body}");
    }

    #[test]
    fn what_an_error_says_of_its_status_and_of_the_time() {
        let invalid = r#"{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}"#;
        check_fault(400, invalid, (400, "m", None));
        check_fault(0, invalid, (400, "m", None));
        check_fault(0, &format!("[{invalid}\n]"), (400, "m", None));
        check_fault(0, r#"{"error":{"message":"m","status":"INTERNAL"}}"#, (502, "m", None));
        check_fault(
            400,
            r#"{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}"#,
            (401, "m", None),
        );
        check_fault(400, r#"{"error":{"code":400,"message":"m","status":"FAILED_PRECONDITION"}}"#, (403, "m", None));
        check_fault(
            429,
            r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure"},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.4s"}]}}]"#,
            (429, "m", Some(34_400)),
        );
        check_fault(503, "<html>", (503, "", None));
        check_fault(500, "[]", (500, "", None));
        check_fault(500, r#"{"error":"m"}"#, (500, "m", None));
    }

    #[test]
    fn durations_as_protobuf_writes_them() {
        for (text, expected) in [
            ("34.4s", Some(34_400)),
            ("34.074824224s", Some(34_074)),
            ("0s", Some(0)),
            ("57s", Some(57_000)),
            ("-1s", None),
            ("NaNs", None),
            ("1e300s", None),
            ("34", None),
            ("s", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }
}
