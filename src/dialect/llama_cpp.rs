//! llama.cpp's server, by its native routes: `/completion`, and `/infill` where there is a suffix.
//!
//! `base_url` is the server's root, as in `http://127.0.0.1:8080`; a key is sent as a bearer, for `--api-key`. The routes
//! stand in <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>. What a server of October 2026 does
//! besides, or otherwise:
//! - The stream's last event has `stop: true` and no text; there is no `[DONE]`. Each event counts the tokens so far.
//! - `n_predict: 0` still makes one token, though the documentation says none.
//! - Token numbers are taken as a prompt, and as the prefix of `/infill` too.
//! - A seed is cut to 32 bits, and 4294967295 means a random one.
//! - With a `stop` a streamed token that may be its beginning is held back, and its log probability comes without its text.
//! - A model without tokens for infilling is a 501 that says so, which is no failure but the request's suffix. A server that
//!   was started for something else is a 501 too, which the operator has to mend.

use serde_json::{Map, Value};

use crate::api::{Answer, ApiError, CompletionRequest, FinishReason, Logprobs, Prompt};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::{
    Call, Capabilities, Dialect, Event, Fault, Parameter, Seeds, Stops, StreamDecoder, Support, UpstreamRequest,
    UsageReport, logprobs, read_frame,
};

/// See the module.
#[derive(Debug)]
pub(super) struct LlamaCpp;

static CAPABILITIES: Capabilities = Capabilities {
    exceptions: &[
        (Parameter::PromptArray, Support::Emulated),
        (Parameter::BestOf, Support::Unsupported),
        (Parameter::Echo, Support::Emulated),
        (Parameter::MaxTokensZero, Support::Unsupported),
        // Newer servers have `n_cmpl`, up to their number of slots, but count the tokens of one choice only.
        (Parameter::N, Support::Emulated),
        (Parameter::User, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops::NATIVE,
    // The next number stands for a random one.
    seeds: Seeds { min: 0, max: 0xFFFF_FFFE },
};

impl Dialect for LlamaCpp {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        let suffix = request.suffix.as_deref().filter(|suffix| !suffix.is_empty());
        let (route, prompt) = if suffix.is_some() { ("/infill", "input_prefix") } else { ("/completion", "prompt") };
        let mut body = Object::new();
        // A server with several models picks one by its name.
        body.put("model", &call.target.model);
        match &request.prompt {
            Prompt::Tokens(tokens) => body.put(prompt, tokens),
            Prompt::TokenLists(lists) => body.put_some(prompt, lists.first()),
            Prompt::Text(_) | Prompt::Texts(_) => body.put(prompt, call.prompt_text()),
        };
        body.put_some("input_suffix", suffix)
            .put("n_predict", &call.max_tokens())
            .put_some("temperature", request.temperature)
            .put_some("top_p", request.top_p)
            // None at all would be no log probabilities: one is the least that can be asked for.
            .put_some("n_probs", request.logprobs.map(|top| top.max(1)))
            // Probabilities after sampling would come under other names.
            .put_if(request.logprobs.is_some(), "post_sampling_probs", false)
            .put_if(!request.stop.is_empty(), "stop", &request.stop)
            .put_some("seed", request.seed)
            .put_some("frequency_penalty", request.frequency_penalty)
            .put_some("presence_penalty", request.presence_penalty)
            .put_if(request.stream, "stream", true);
        put_logit_bias(&mut body, request)?;
        Ok(call.post(route, call.bearer(), body))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(LlamaCppDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        let answer = Raw::read(body, |raw| {
            let said = Said::read(raw);
            if said.error.is_present() {
                return Err(Fault::in_stream(body));
            }
            let text = said.content.text().ok_or_else(|| Fault::nonsense("the answer has no content"))?;
            Ok((Answer::of_one(text.into_owned(), said.logprobs(), said.finish_reason()), said.usage()))
        });
        answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON")))
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        let mut fault = Fault::of_body(status, body);
        if status == 501 && fault.message.starts_with("Infill is not supported") {
            fault.status = 400;
        }
        fault
    }
}

/// Writes the biases as pairs, which servers of all ages take; the object of the API's own form only newer ones do.
fn put_logit_bias(body: &mut Object, request: &CompletionRequest<'_>) -> Result<(), ApiError> {
    let Some(biases) = request.logit_bias else { return Ok(()) };
    // The request's check has made sure of an object from digits to numbers, but not how many digits.
    let biases: Map<String, Value> = serde_json::from_str(biases.get()).unwrap_or_default();
    let pairs = biases.into_iter().map(|(token, bias)| Some((token.parse::<u32>().ok()?, bias)));
    let pairs: Option<Vec<(u32, Value)>> = pairs.collect();
    let bounds = "must have token numbers of at most 4294967295";
    let pairs = pairs.ok_or_else(|| ApiError::unsupported_value("logit_bias", &request.model, bounds))?;
    body.put_if(!pairs.is_empty(), "logit_bias", pairs);
    Ok(())
}

/// An event of a stream, or a whole answer: they have one form.
struct Said<'a> {
    content: Raw<'a>,
    stop: Raw<'a>,
    stop_type: Raw<'a>,
    /// What servers before 2025 have in place of a `stop_type`.
    stopped_limit: Raw<'a>,
    predicted: Raw<'a>,
    evaluated: Raw<'a>,
    probabilities: Raw<'a>,
    error: Raw<'a>,
}

impl<'a> Said<'a> {
    fn read(raw: Raw<'a>) -> Self {
        let [content, stop, stop_type, stopped_limit, predicted, evaluated, probabilities, error] = raw.fields([
            "content",
            "stop",
            "stop_type",
            "stopped_limit",
            "tokens_predicted",
            "tokens_evaluated",
            "completion_probabilities",
            "error",
        ]);
        Self { content, stop, stop_type, stopped_limit, predicted, evaluated, probabilities, error }
    }

    fn finish_reason(&self) -> FinishReason {
        match self.stop_type.text().as_deref() {
            Some("limit") => FinishReason::Length,
            None if self.stopped_limit.is_true() => FinishReason::Length,
            _ => FinishReason::Stop,
        }
    }

    fn usage(&self) -> UsageReport {
        UsageReport { prompt_tokens: self.evaluated.count(), completion_tokens: self.predicted.count() }
    }

    fn logprobs(&self) -> Option<Logprobs> {
        logprobs::read_tokens(self.probabilities)
    }
}

/// Keeps nothing between events.
#[derive(Debug)]
struct LlamaCppDecoder;

impl StreamDecoder for LlamaCppDecoder {
    fn repeats(&self) -> bool {
        true
    }

    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        read_frame(frame, events, |raw, events| {
            let said = Said::read(raw);
            // The error stands alone in a field `error:`, or under the key in `data:`.
            if frame.event == b"error" || said.error.is_present() {
                return events(Event::Failed(Fault::in_stream(frame.data)));
            }
            if !raw.is_object() {
                return events(Event::Malformed);
            }
            let usage = said.usage();
            if usage != UsageReport::default() {
                events(Event::Usage(usage));
            }
            let stopped = said.stop.is_true();
            let finish_reason = stopped.then(|| said.finish_reason());
            let text = said.content.text().unwrap_or_default();
            events(Event::Delta { index: 0, text: &text, logprobs: said.logprobs(), finish_reason });
            if stopped {
                events(Event::End);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::encode;
    use super::*;

    fn check_finish(json: &str, expected: FinishReason) {
        assert_eq!(Raw::read(json.as_bytes(), |raw| Said::read(raw).finish_reason()), Some(expected), "{json}");
    }

    #[test]
    fn why_it_stopped() {
        check_finish(r#"{"stop_type":"eos"}"#, FinishReason::Stop);
        check_finish(r#"{"stop_type":"word"}"#, FinishReason::Stop);
        check_finish(r#"{"stop_type":"limit"}"#, FinishReason::Length);
        check_finish(r#"{"stop_type":"none"}"#, FinishReason::Stop);
        check_finish(r#"{"stop_type":"a new one","stopped_limit":true}"#, FinishReason::Stop);
        check_finish(r#"{"stopped_eos":false,"stopped_limit":true}"#, FinishReason::Length);
        check_finish("{}", FinishReason::Stop);
    }

    fn check_refused(body: &str, message: &str) {
        let error = encode(r#"{"dialect":"llama-cpp","base_url":"http://u"}"#, body).unwrap_err();
        assert_eq!(error.code(), Some("unsupported_value"), "{body}");
        assert!(error.message.contains(message), "{}", error.message);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for seed in ["-1", "4294967295", "9007199254740993"] {
            check_refused(
                &format!(r#"{{"model":"m","prompt":"a","seed":{seed}}}"#),
                "'seed' must be from 0 to 4294967294",
            );
        }
        check_refused(r#"{"model":"m","prompt":"a","logit_bias":{"4294967296":1}}"#, "'logit_bias' must have token");
    }

    fn check_fault(status: u16, body: &str, expected: (u16, &str)) {
        let fault = LlamaCpp.decode_fault(status, body.as_bytes());
        assert_eq!((fault.status, fault.message.as_str()), expected, "{body}");
    }

    #[test]
    fn only_a_model_that_cannot_infill_refuses_the_suffix_with_501() {
        check_fault(
            501,
            r#"{"error":{"code":501,"message":"Infill is not supported by this model: m","type":"not_supported_error"}}"#,
            (400, "Infill is not supported by this model: m"),
        );
        check_fault(
            501,
            r#"{"error":{"code":501,"message":"This server does not support completions. Start it without `--embeddings`","type":"not_supported_error"}}"#,
            (501, "This server does not support completions. Start it without `--embeddings`"),
        );
        check_fault(501, "<html>", (501, ""));
        check_fault(
            503,
            r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
            (503, "Loading model"),
        );
    }
}
