//! Hugging Face's Text Generation Inference, by its native routes: `/generate` and `/generate_stream`.
//!
//! `base_url` is the server's root, as in `http://127.0.0.1:3000`; a key is sent as a bearer, for Inference Endpoints. A server
//! has one model, and no route that names it: `{"body":{"parameters":{"adapter_id":"…"}}}` picks an adapter. Sources:
//! <https://huggingface.github.io/text-generation-inference/> and, for what that leaves open, the server's code:
//! - `router/src/validation.rs`: what it refuses; the prompt must not be empty, and `best_of` goes with no seed, no greedy
//!   sampling and no stream, so that it is not offered here.
//! - Without `do_sample` it samples only where a parameter asks for it. Its own `/v1/completions` takes a temperature of 0, and
//!   nothing else, for greedy; so does this dialect.
//! - `server/text_generation_server/utils/tokens.py`: a stop sequence is met where the text ends in it after a token, and only
//!   the last 200 characters are looked at; an empty one is met after the first token. It stays in the text
//!   (<https://github.com/huggingface/text-generation-inference/issues/1039>).
//! - `router/src/server.rs`: the last event has `generated_text` and `details`, and nothing comes after it, no `[DONE]` either.
//!   `input_length` counts the prompt in a stream only. Else a list of its tokens does, for which the server would compute the
//!   prompt's log probabilities: it is not asked for, and the prompt's tokens are estimated, unless the operator wants it with
//!   `{"body":{"parameters":{"decoder_input_details":true}}}`.

use std::borrow::Cow;

use crate::api::{Answer, ApiError, FinishReason, Logprobs};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::{
    Call, Capabilities, Dialect, Event, Fault, Parameter, Seeds, Stops, StreamDecoder, Support, UpstreamRequest,
    UsageReport, logprobs, read_frame,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Tgi;

static CAPABILITIES: Capabilities = Capabilities {
    exceptions: &[
        (Parameter::PromptArray, Support::Emulated),
        (Parameter::PromptTokens, Support::Unsupported),
        (Parameter::BestOf, Support::Unsupported),
        // `return_full_text` changes the last event's whole text only, which a stream does not need.
        (Parameter::Echo, Support::Emulated),
        (Parameter::PresencePenalty, Support::Unsupported),
        (Parameter::LogitBias, Support::Unsupported),
        (Parameter::MaxTokensZero, Support::Unsupported),
        (Parameter::N, Support::Emulated),
        (Parameter::Suffix, Support::Unsupported),
        (Parameter::User, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops { takes: |sequence| (1..=200).contains(&sequence.chars().count()), keeps: true },
    seeds: Seeds::NOT_NEGATIVE,
};

impl Dialect for Tgi {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        if request.top_p.is_some_and(|top_p| top_p <= 0.0) {
            return Err(ApiError::unsupported_value("top_p", &request.model, "must be more than 0"));
        }
        let greedy = request.temperature.is_some_and(|temperature| temperature <= 0.0);
        let mut parameters = Object::new();
        parameters
            .put("max_new_tokens", &call.max_tokens())
            .put("do_sample", &!greedy)
            // Either one would make it sample again; the likeliest token is in every nucleus.
            .put_some("temperature", request.temperature.filter(|_| !greedy))
            // 1 is "off", and outside what it takes.
            .put_some("top_p", request.top_p.filter(|top_p| *top_p < 1.0 && !greedy))
            .put_some("seed", request.seed)
            .put_some("frequency_penalty", request.frequency_penalty)
            .put_if(!request.stop.is_empty(), "stop", &request.stop)
            // At least one, since its presence tells that log probabilities were asked for: each token has its own anyway.
            .put_some("top_n_tokens", request.logprobs.map(|top| top.max(1)))
            .put("return_full_text", &false)
            .put("details", &true);
        let mut body = Object::new();
        body.put("inputs", call.prompt_text()).put_filled("parameters", parameters, &call.model.body);
        let route = if request.stream { "/generate_stream" } else { "/generate" };
        Ok(call.post(route, call.bearer(), body))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(TgiDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        let answer = Raw::read(body, |raw| {
            let [text, details, error] = raw.fields(["generated_text", "details", "error"]);
            if error.is_present() {
                return Err(fault(0, body));
            }
            let text = text.text().ok_or_else(|| Fault::nonsense("the answer has no generated_text"))?;
            let [reason, tokens, top_tokens] = details.fields(["finish_reason", "tokens", "top_tokens"]);
            let mut logprobs = None;
            for (token, top) in tokens.items().into_iter().zip(top_tokens.items()) {
                push(&mut logprobs, token, top);
            }
            Ok((Answer::of_one(text.into_owned(), logprobs, finish_reason(reason)), usage(details)))
        });
        answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON")))
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        fault(status, body)
    }
}

fn finish_reason(reason: Raw<'_>) -> FinishReason {
    if reason.text().as_deref() == Some("length") { FinishReason::Length } else { FinishReason::Stop }
}

fn usage(details: Raw<'_>) -> UsageReport {
    let [generated, input, prefill] = details.fields(["generated_tokens", "input_length", "prefill"]);
    // The list is empty where the server does not keep it: no prompt is.
    let listed = || Some(prefill.items().len() as u64).filter(|count| *count > 0);
    UsageReport { prompt_tokens: input.count().or_else(listed), completion_tokens: generated.count() }
}

/// Adds a token, unless it is a special one, which is not in the text either.
fn push(logprobs: &mut Option<Logprobs>, token: Raw<'_>, top: Raw<'_>) {
    if !token.field("special").is_true() {
        logprobs::push(logprobs.get_or_insert_default(), "text", token, top);
    }
}

/// Reads `{"error":"…","error_type":"…"}`; without a status, in a stream, the type tells it.
fn fault(status: u16, body: &[u8]) -> Fault {
    let kind = Raw::read(body, |raw| raw.field("error_type").text().map(Cow::into_owned)).flatten();
    let status = match (status, kind.as_deref()) {
        (0, Some("validation")) => 422,
        (0, Some("overloaded")) => 429,
        (0, Some("generation")) => 424,
        (0, Some(_)) => 500,
        _ => status,
    };
    let mut fault = if status == 0 { Fault::in_stream(body) } else { Fault::of_body(status, body) };
    fault.code = fault.code.or(kind);
    fault
}

/// Keeps nothing between events.
#[derive(Debug)]
struct TgiDecoder;

impl StreamDecoder for TgiDecoder {
    fn repeats(&self) -> bool {
        true
    }

    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        read_frame(frame, events, |raw, events| {
            let [token, top, text, details, error] =
                raw.fields(["token", "top_tokens", "generated_text", "details", "error"]);
            if error.is_present() {
                return events(Event::Failed(fault(0, frame.data)));
            }
            if !raw.is_object() {
                return events(Event::Malformed);
            }
            let usage = usage(details);
            if usage != UsageReport::default() {
                events(Event::Usage(usage));
            }
            let [token_text, special] = token.fields(["text", "special"]);
            let token_text = token_text.text().filter(|_| !special.is_true()).unwrap_or_default();
            let mut logprobs = None;
            if top.is_present() {
                push(&mut logprobs, token, top);
            }
            let last = text.is_present() || details.is_present();
            let finish_reason = last.then(|| finish_reason(details.field("finish_reason")));
            events(Event::Delta { index: 0, text: &token_text, logprobs, finish_reason });
            if last {
                events(Event::End);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::encode;
    use super::*;

    fn check_fault(status: u16, body: &str, expected: (u16, &str, Option<&str>)) {
        let fault = fault(status, body.as_bytes());
        assert_eq!((fault.status, fault.message.as_str(), fault.code.as_deref()), expected, "{body}");
    }

    #[test]
    fn errors_by_status_and_by_type() {
        check_fault(422, r#"{"error":"m","error_type":"validation"}"#, (422, "m", Some("validation")));
        check_fault(503, r#"{"error":"m","error_type":"healthcheck"}"#, (503, "m", Some("healthcheck")));
        check_fault(422, "Failed to deserialize the JSON body", (422, "", None));
        check_fault(0, r#"{"error":"m","error_type":"validation"}"#, (422, "m", Some("validation")));
        check_fault(0, r#"{"error":"m","error_type":"overloaded"}"#, (429, "m", Some("overloaded")));
        check_fault(0, r#"{"error":"m","error_type":"generation"}"#, (424, "m", Some("generation")));
        check_fault(
            0,
            r#"{"error":"m","error_type":"incomplete_generation"}"#,
            (500, "m", Some("incomplete_generation")),
        );
        check_fault(0, r#"{"error":"m"}"#, (502, "m", None));
    }

    fn check_finish(reason: &str, expected: FinishReason) {
        assert_eq!(Raw::read(reason.as_bytes(), finish_reason), Some(expected), "{reason}");
    }

    #[test]
    fn why_it_stopped() {
        check_finish(r#""length""#, FinishReason::Length);
        for reason in [r#""eos_token""#, r#""stop_sequence""#, r#""new""#, "null", "7"] {
            check_finish(reason, FinishReason::Stop);
        }
    }

    const UPSTREAM: &str = r#"{"dialect":"tgi","base_url":"http://u"}"#;

    fn check_refused(field: &str, message: &str) {
        let error = encode(UPSTREAM, &format!(r#"{{"model":"m","prompt":"a",{field}}}"#)).unwrap_err();
        assert_eq!(error.code(), Some("unsupported_value"), "{field}");
        assert!(error.message.contains(message), "{}", error.message);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        check_refused(r#""seed":-1"#, "'seed' must be at least 0");
        check_refused(r#""top_p":0"#, "'top_p' must be more than 0");
    }

    fn check_sampling(fields: &str, expected: &str) {
        let call = encode(UPSTREAM, &format!(r#"{{"model":"m","prompt":"a","stream":true,{fields}}}"#)).unwrap();
        let body = String::from_utf8(call.body).unwrap();
        assert!(body.contains(&format!(r#""max_new_tokens":16,{expected},"return_full_text""#)), "{body}");
    }

    #[test]
    fn a_temperature_of_0_is_greedy_and_nothing_else_is() {
        check_sampling(r#""temperature":0,"top_p":0.5"#, r#""do_sample":false"#);
        check_sampling(r#""temperature":1,"top_p":1"#, r#""do_sample":true,"temperature":1.0"#);
        check_sampling(r#""top_p":0.5"#, r#""do_sample":true,"top_p":0.5"#);
        check_sampling(r#""user":null"#, r#""do_sample":true"#);
    }

    #[test]
    fn a_stop_sequence_longer_than_it_looks_back_is_not_sent() {
        let takes = CAPABILITIES.stops.takes;
        assert!(takes(&"é".repeat(200)) && !takes(&"é".repeat(201)));
    }

    #[test]
    fn an_empty_stop_sequence_would_end_every_text_after_one_token() {
        let takes = CAPABILITIES.stops.takes;
        assert!(takes(" ") && takes("\n") && !takes(""));
    }
}
