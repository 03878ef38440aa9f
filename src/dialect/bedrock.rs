//! Amazon Bedrock's Converse and `ConverseStream`, by
//! <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html>. `base_url` is the region's
//! endpoint, `https://bedrock-runtime.us-east-1.amazonaws.com`. Where the upstream has a `region`, calls are signed for
//! it; else its key is a Bedrock API key, which is a bearer key
//! (<https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html>).
//!
//! A model's name is also the ARN of an inference profile, whose slashes are percent-encoded like its colons. What
//! `inferenceConfig` takes differs by model, but never goes beyond a temperature and a `topP` of 1; a blank stop sequence
//! is refused by some models, so the gateway looks for those itself. Other parameters of a model are the operator's, in
//! `additionalModelRequestFields`.
//!
//! A stream is over with `metadata`, which comes after `messageStop` and has the usage. Exceptions come as HTTP errors
//! and as messages in the stream, with one list of names and statuses:
//! <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html#API_runtime_ConverseStream_Errors>.

use serde::Serialize;

use crate::api::{Answer, ApiError, Case, FinishReason};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::sigv4::{self, Credentials};
use super::{
    Call, Capabilities, Dialect, Event, Fault, Options, Parameter, Seeds, Stops, StreamDecoder, Support,
    UpstreamRequest, UsageReport, path,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Bedrock;

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
        (Parameter::User, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops::NOT_BLANK,
    seeds: Seeds::ANY,
};

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: [Text<'a>; 1],
}

impl Dialect for Bedrock {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn options(&self) -> Options {
        Options { region: true, ..Options::default() }
    }

    fn framing(&self) -> Framing {
        Framing::EventStream
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        if request.temperature.is_some_and(|temperature| temperature > 1.0) {
            return Err(ApiError::unsupported_value("temperature", &request.model, "must be from 0 to 1"));
        }
        let mut config = Object::new();
        config
            .put("maxTokens", &call.max_tokens())
            .put_some("temperature", request.temperature)
            .put_some("topP", request.top_p)
            .put_if(!request.stop.is_empty(), "stopSequences", &request.stop);
        let user = Message { role: "user", content: [Text { text: call.prompt_text() }] };
        let mut body = Object::new();
        body.put_some("system", call.model.system.as_deref().map(|text| [Text { text }]))
            .put("messages", &[user])
            .put_filled("inferenceConfig", config, &call.model.body);

        let action = if request.stream { "converse-stream" } else { "converse" };
        let route = format!("/model/{}/{action}", path::segment(&call.target.model));
        let Some(region) = &call.upstream.region else { return Ok(call.post(&route, call.bearer(), body)) };
        let credentials = call.secret.and_then(Credentials::parse).ok_or_else(|| {
            let message = "The gateway's credentials for the upstream of this model are not of the form \
                           ACCESS_KEY_ID:SECRET_ACCESS_KEY or ACCESS_KEY_ID:SECRET_ACCESS_KEY:SESSION_TOKEN. The \
                           operator has to mend this.";
            ApiError::new(Case::UpstreamAuth, message)
        })?;
        let mut upstream_request = call.post(&route, None, body);
        sigv4::sign(&mut upstream_request, &credentials, region, "bedrock", call.now_ms);
        Ok(upstream_request)
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(BedrockDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        let answer = Raw::read(body, |raw| {
            let [output, reason, usage] = raw.fields(["output", "stopReason", "usage"]);
            let message = output.field("message");
            if !message.is_present() {
                return Err(Fault::nonsense("the answer has no message"));
            }
            // Reasoning and tools have blocks of their own, without text.
            let blocks = message.field("content").items();
            let text = blocks.into_iter().filter_map(|block| block.field("text").text()).collect();
            Ok((Answer::of_one(text, None, finish_reason(reason)), report(usage)))
        });
        answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON of this dialect")))
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        fault(status, body)
    }
}

/// It keeps nothing between messages.
#[derive(Debug)]
struct BedrockDecoder;

impl StreamDecoder for BedrockDecoder {
    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        if let Some(fault) = failure(frame) {
            return events(Event::Failed(fault));
        }
        let read = match frame.event {
            b"contentBlockDelta" => Raw::read(frame.data, |raw| {
                let text = raw.field("delta").field("text").text().unwrap_or_default();
                events(Event::Delta { index: 0, text: &text, logprobs: None, finish_reason: None });
            }),
            b"messageStop" => Raw::read(frame.data, |raw| {
                let finish_reason = Some(finish_reason(raw.field("stopReason")));
                events(Event::Delta { index: 0, text: "", logprobs: None, finish_reason });
            }),
            b"metadata" => Raw::read(frame.data, |raw| {
                events(Event::Usage(report(raw.field("usage"))));
                events(Event::End);
            }),
            // Cut in two, or of no kind at all.
            b"" => None,
            // Where messages and blocks begin and end, and what may still be invented.
            _ => Some(()),
        };
        if read.is_none() {
            events(Event::Malformed);
        }
    }
}

/// What an exception says, or an error that the service has not modelled.
fn failure(frame: Frame<'_>) -> Option<Fault> {
    if frame.event == b"error" {
        let text = String::from_utf8_lossy(frame.data);
        let (code, message) = text.split_once('\n').unwrap_or((&text, ""));
        return Some(Fault { status: status_of(code.as_bytes()), message: message.to_owned(), ..Fault::default() });
    }
    frame.event.ends_with(b"Exception").then(|| fault(status_of(frame.event), frame.data))
}

/// Tool use and malformed outputs are a model that was done, too.
fn finish_reason(reason: Raw<'_>) -> FinishReason {
    match reason.text().as_deref() {
        Some("max_tokens" | "model_context_window_exceeded") => FinishReason::Length,
        Some("guardrail_intervened" | "content_filtered") => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    }
}

fn report(usage: Raw<'_>) -> UsageReport {
    let [input, output] = usage.fields(["inputTokens", "outputTokens"]);
    UsageReport { prompt_tokens: input.count(), completion_tokens: output.count() }
}

/// Bedrock says `message`, the layer before it that checks keys and signatures says `Message`.
fn fault(status: u16, body: &[u8]) -> Fault {
    let mut fault = Fault::of_body(status, body);
    if fault.message.is_empty() {
        let message = Raw::read(body, |raw| raw.field("Message").text().map(Into::into)).flatten();
        fault.message = message.unwrap_or_default();
    }
    fault
}

/// The status that an exception stands for, which has it in HTTP. Names begin with a small letter in streams.
fn status_of(exception: &[u8]) -> u16 {
    let name = exception.strip_suffix(b"Exception").unwrap_or(exception);
    match name.to_ascii_lowercase().as_slice() {
        b"validation" => 400,
        b"accessdenied" => 403,
        b"resourcenotfound" => 404,
        b"modeltimeout" => 408,
        b"modelerror" | b"modelstreamerror" => 424,
        b"throttling" | b"modelnotready" => 429,
        b"serviceunavailable" => 503,
        // `internalServer`, and what may still be invented.
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_reasons() {
        for (reason, expected) in [
            ("end_turn", FinishReason::Stop),
            ("stop_sequence", FinishReason::Stop),
            ("tool_use", FinishReason::Stop),
            ("malformed_model_output", FinishReason::Stop),
            ("max_tokens", FinishReason::Length),
            ("model_context_window_exceeded", FinishReason::Length),
            ("guardrail_intervened", FinishReason::ContentFilter),
            ("content_filtered", FinishReason::ContentFilter),
        ] {
            let json = format!("{{\"stopReason\":\"{reason}\"}}");
            assert_eq!(finish_reason(Raw::of(json.as_bytes()).unwrap().field("stopReason")), expected, "{reason}");
        }
        assert_eq!(finish_reason(Raw::default()), FinishReason::Stop);
    }

    fn check_frame(event: &str, data: &str, expected: &str) {
        let mut seen = Vec::new();
        BedrockDecoder.frame(Frame { event: event.as_bytes(), data: data.as_bytes() }, &mut |event| {
            seen.push(match event {
                Event::Delta { text, .. } => format!("text {text}"),
                Event::Usage(_) | Event::UsageOf { .. } => "usage".to_owned(),
                Event::Failed(fault) => format!("failed {} {}", fault.status, fault.message),
                Event::Malformed => "malformed".to_owned(),
                Event::End => "end".to_owned(),
            });
        });
        assert_eq!(seen.join(", "), expected, "{event} {data}");
    }

    #[test]
    fn exceptions_have_the_status_of_their_names() {
        for (name, status) in [
            ("validationException", 400),
            ("accessDeniedException", 403),
            ("resourceNotFoundException", 404),
            ("modelTimeoutException", 408),
            ("modelErrorException", 424),
            ("modelStreamErrorException", 424),
            ("throttlingException", 429),
            ("modelNotReadyException", 429),
            ("internalServerException", 500),
            ("serviceUnavailableException", 503),
            ("surpriseException", 500),
        ] {
            check_frame(name, r#"{"message":"m"}"#, &format!("failed {status} m"));
        }
        check_frame("throttlingException", "", "failed 429 ");
        check_frame("error", "ThrottlingException\nSlow down.\nPlease.", "failed 429 Slow down.\nPlease.");
        check_frame("error", "InternalFailure\n", "failed 500 ");
        check_frame("error", "", "failed 500 ");
    }

    #[test]
    fn pitfall_23_events_of_every_shape() {
        check_frame("contentBlockDelta", r#"{"delta":{"text":"a"},"contentBlockIndex":1}"#, "text a");
        check_frame("contentBlockDelta", r#"{"delta":{"reasoningContent":{"text":"a"}}}"#, "text ");
        check_frame("contentBlockDelta", r#"{"delta":null}"#, "text ");
        check_frame("contentBlockDelta", "{", "malformed");
        check_frame("messageStop", "{}", "text ");
        check_frame("metadata", r#"{"usage":{"inputTokens":"8"}}"#, "usage, end");
        check_frame("messageStart", "", "");
        check_frame("initial-response", "{}", "");
        check_frame("", r#"{"delta":{"text":"a"}}"#, "malformed");
    }

    #[test]
    fn messages_of_both_spellings() {
        assert_eq!(fault(400, br#"{"message":"m"}"#).message, "m");
        assert_eq!(fault(403, br#"{"Message":"m"}"#).message, "m");
        assert_eq!(fault(503, b"<html>").message, "");
    }
}
