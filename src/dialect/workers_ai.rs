//! Cloudflare's Workers AI: its models by name, through the Worker's own binding or by the REST API.
//!
//! With `binding` set, a call is `env[binding].run(model, body, …)` and needs no key. Else `base_url` ends in the account:
//! `https://api.cloudflare.com/client/v4/accounts/<account>/ai`, and the key is an API token. Only models that take a `prompt`
//! can be called so; for those that chat only there is `openai-chat` with a `base_url` of `…/ai/v1`. Sources:
//! - Parameters: the models' schemas under <https://developers.cloudflare.com/workers-ai/models/>. They differ: penalties from
//!   0 or from -2, `top_p` up to 1 or 2. What a model does not take, Workers AI refuses itself.
//! - Errors: <https://developers.cloudflare.com/workers-ai/platform/errors/>. Code 4006 is not listed there; it is what accounts
//!   get that have used up their daily allocation, as 3036.
//! - Answers: <https://github.com/cloudflare/ai/tree/main/packages/workers-ai-provider>: some models answer in their own form, some
//!   in that of OpenAI's chat. A `response` may be a number, or the object that a JSON mode made.
//!
//! The binding, seen in workerd 2026-10-23: with the option `returnRawResponse: true` it resolves to the `Response` itself,
//! whatever its status: `application/json` with the bare result, `text/event-stream`, or an error as
//! `{"internalCode":…,"description":…}` or `{"errors":[{"code":…,"message":…}]}`. Without that option it throws an
//! `InferenceUpstreamError` whose message is `CODE: description`. An `AbortSignal` is taken as the option `signal`, works before
//! the headers and in the stream, and comes back as an `Error` with the reason's text, not as the reason. Headers to be sent
//! along are the option `extraHeaders`. An exception of the service itself is thrown as it is.

use std::borrow::Cow;

use crate::api::{Answer, ApiError, FinishReason};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::openai_wire::{self, OpenAiDecoder};
use super::{
    Call, Capabilities, Destination, Dialect, Event, Fault, Options, Parameter, Seeds, Stops, StreamDecoder, Support,
    UpstreamRequest, UsageReport, path,
};

/// See the module.
#[derive(Debug)]
pub(super) struct WorkersAi;

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
        (Parameter::Stop, Support::Emulated),
        (Parameter::Suffix, Support::Unsupported),
        (Parameter::User, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops { takes: |_| false, keeps: false },
    seeds: Seeds { min: 1, max: 9_999_999_999 },
};

impl Dialect for WorkersAi {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn options(&self) -> Options {
        Options { binding: true, ..Options::default() }
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        let mut body = Object::new();
        body.put("prompt", call.prompt_text())
            // Else the model's chat template would be put around it.
            .put("raw", &true)
            .put("max_tokens", &call.max_tokens())
            .put_some("temperature", request.temperature)
            .put_some("top_p", request.top_p)
            .put_some("seed", request.seed)
            .put_some("frequency_penalty", request.frequency_penalty)
            .put_some("presence_penalty", request.presence_penalty)
            .put_if(request.stream, "stream", true);
        let model = &call.target.model;
        Ok(match &call.upstream.binding {
            None => call.post(&format!("/run/{}", path::segments(model)), call.bearer(), body),
            Some(binding) => UpstreamRequest {
                destination: Destination::Ai { binding: binding.clone(), model: model.clone() },
                // The Worker is known by its binding, whatever the configuration says of a key.
                headers: call.headers(None),
                body: body.fill(&call.model.body).finish(),
            },
        })
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(WorkersAiDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        let answer = Raw::read(body, |raw| {
            // The REST API wraps what the binding answers.
            let result = Some(raw.field("result")).filter(|result| result.is_present()).unwrap_or(raw);
            let said = Said::read(result);
            if said.is_openai() {
                return openai_wire::decode_answer(result.json().unwrap_or_default().as_bytes());
            }
            let Some(text) = said.text() else {
                let nonsense = || Fault::nonsense("the answer has no response");
                return Err(if is_error(raw) { fault(0, body) } else { nonsense() });
            };
            let finish_reason = said.finish_reason().unwrap_or(FinishReason::Stop);
            Ok((Answer::of_one(text.into_owned(), None, finish_reason), said.usage()))
        });
        answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON")))
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        fault(status, body)
    }

    fn decode_thrown(&self, text: &str) -> Fault {
        // `3040: Capacity temporarily exceeded`, perhaps with the error's name before it.
        let read = |text: &str| {
            let (code, message) = text.split_once(": ")?;
            Some(Fault { status: status_of_code(code)?, message: message.to_owned(), ..Fault::default() })
        };
        let named = || text.split_once(": ").and_then(|(_, rest)| read(rest));
        read(text).or_else(named).unwrap_or_else(|| Fault::nonsense(text))
    }
}

/// The status that an error's code stands for.
fn status_of_code(code: &str) -> Option<u16> {
    Some(match code.parse().ok()? {
        3003_u16 | 3039 | 5004 | 5007 => 400,
        3023 | 3041 | 5016 | 5018 => 403,
        3042 => 404,
        5005 | 5019 => 405,
        3007 | 3008 => 408,
        3006 => 413,
        3036 | 3040 | 4006 => 429,
        _ => return None,
    })
}

/// Whether this says that something went wrong, in the binding's words or in the REST API's.
fn is_error(raw: Raw<'_>) -> bool {
    let [internal, errors, error, success] = raw.fields(["internalCode", "errors", "error", "success"]);
    internal.is_present() || !errors.items().is_empty() || error.is_present() || success.json() == Some("false")
}

/// Reads an error. Its code, where it is known, says more than `status`, which is 0 inside an answer or a stream.
fn fault(status: u16, body: &[u8]) -> Fault {
    let coded = Raw::read(body, |raw| {
        let [internal, description, errors] = raw.fields(["internalCode", "description", "errors"]);
        let first = errors.items().first().copied().unwrap_or_default();
        let [code, message] =
            if internal.is_present() { [internal, description] } else { first.fields(["code", "message"]) };
        let known = code.text().as_deref().or(code.json()).and_then(status_of_code);
        let status = known.unwrap_or(if status == 0 { 502 } else { status });
        code.is_present().then(|| Fault {
            status,
            message: message.text().unwrap_or_default().into_owned(),
            ..Fault::default()
        })
    });
    let other = || if status == 0 { Fault::in_stream(body) } else { Fault::of_body(status, body) };
    coded.flatten().unwrap_or_else(other)
}

/// An event of a stream, or a whole answer.
struct Said<'a> {
    response: Raw<'a>,
    choices: Raw<'a>,
    usage: Raw<'a>,
    finish_reason: Raw<'a>,
}

impl<'a> Said<'a> {
    fn read(raw: Raw<'a>) -> Self {
        let [response, choices, usage, finish_reason] = raw.fields(["response", "choices", "usage", "finish_reason"]);
        Self { response, choices, usage, finish_reason }
    }

    /// Whether this is in the form of OpenAI's routes.
    fn is_openai(&self) -> bool {
        self.choices.is_present() && self.text().is_none_or(|text| text.is_empty())
    }

    /// The text; a number among the tokens of some models is a number in their JSON.
    fn text(&self) -> Option<Cow<'a, str>> {
        self.response.text().or_else(|| self.response.json().map(Cow::Borrowed))
    }

    fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason.text().as_deref().and_then(openai_wire::finish_reason)
    }

    fn usage(&self) -> UsageReport {
        let [prompt, completion] = self.usage.fields(["prompt_tokens", "completion_tokens"]);
        UsageReport { prompt_tokens: prompt.count(), completion_tokens: completion.count() }
    }
}

/// Keeps nothing between events.
#[derive(Debug)]
struct WorkersAiDecoder;

impl StreamDecoder for WorkersAiDecoder {
    fn repeats(&self) -> bool {
        true
    }

    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        let is_own = Raw::read(frame.data, |raw| {
            let said = Said::read(raw);
            if said.is_openai() || !raw.is_object() {
                return false;
            }
            if is_error(raw) {
                events(Event::Failed(fault(0, frame.data)));
                return true;
            }
            let usage = said.usage();
            if usage != UsageReport::default() {
                events(Event::Usage(usage));
            }
            let (text, finish_reason) = (said.text(), said.finish_reason());
            if text.is_some() || finish_reason.is_some() {
                let text = text.unwrap_or_default();
                events(Event::Delta { index: 0, text: &text, logprobs: None, finish_reason });
            }
            true
        });
        // `[DONE]`, what is no JSON, and the events of models that answer as OpenAI's do.
        if is_own != Some(true) {
            OpenAiDecoder.frame(frame, events);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::encode;
    use super::*;

    #[test]
    fn through_the_binding() {
        let upstream = r#"{"dialect":"workers-ai","binding":"AI","key":"K"}"#;
        let call = encode(upstream, r#"{"model":"m","prompt":"a","seed":1}"#).unwrap();
        let model = "@org/their model".to_owned();
        assert_eq!(call.destination, Destination::Ai { binding: "AI".to_owned(), model });
        assert_eq!(call.body, br#"{"prompt":"a","raw":true,"max_tokens":16,"seed":1}"#);
        assert!(call.headers.iter().all(|(name, _)| name != "authorization"));
    }

    #[test]
    fn the_models_name_stays_behind_the_route() {
        let upstream = r#"{"dialect":"workers-ai","base_url":"https://u/ai"}"#;
        let call = encode(upstream, r#"{"model":"m","prompt":"a"}"#).unwrap();
        assert_eq!(call.url(), "https://u/ai/run/@org/their%20model");
    }

    fn check_refused(seed: &str) {
        let body = format!(r#"{{"model":"m","prompt":"a","seed":{seed}}}"#);
        let error = encode(r#"{"dialect":"workers-ai","base_url":"https://u/ai"}"#, &body).unwrap_err();
        assert_eq!((error.code(), error.param.as_deref()), (Some("unsupported_value"), Some("seed")));
    }

    #[test]
    fn a_seed_out_of_range() {
        check_refused("0");
        check_refused("-1");
        check_refused("10000000000");
    }

    fn check_thrown(text: &str, status: u16, message: &str) {
        let fault = WorkersAi.decode_thrown(text);
        assert_eq!((fault.status, fault.message.as_str()), (status, message), "{text}");
    }

    #[test]
    fn what_the_binding_throws() {
        let capacity = "Capacity temporarily exceeded, please try again.";
        check_thrown(&format!("InferenceUpstreamError: 3040: {capacity}"), 429, capacity);
        check_thrown(&format!("3040: {capacity}"), 429, capacity);
        check_thrown("AiError: 5007: No such model: @cf/x or task", 400, "No such model: @cf/x or task");
        check_thrown(
            "4006: you have used up your daily free allocation",
            429,
            "you have used up your daily free allocation",
        );
        for other in ["Error: boom", "1101: Worker threw exception", "InferenceUpstreamError: error code: 1031", ""] {
            check_thrown(other, 502, other);
        }
    }

    fn check_fault(status: u16, body: &str, expected: (u16, &str)) {
        let fault = WorkersAi.decode_fault(status, body.as_bytes());
        assert_eq!((fault.status, fault.message.as_str()), expected, "{body}");
    }

    #[test]
    fn errors_by_their_codes() {
        let codes = [
            (400, [3003, 3039, 5004, 5007]),
            (403, [3023, 3041, 5016, 5018]),
            (404, [3042; 4]),
            (405, [5005, 5019, 5005, 5019]),
            (408, [3007, 3008, 3007, 3008]),
            (413, [3006; 4]),
            (429, [3036, 3040, 4006, 3036]),
        ];
        for (status, codes) in codes {
            for code in codes {
                let rest = format!(r#"{{"success":false,"result":null,"errors":[{{"code":{code},"message":"m"}}]}}"#);
                check_fault(500, &rest, (status, "m"));
                check_fault(0, &rest, (status, "m"));
                let binding = format!(r#"{{"internalCode":{code},"name":"n","description":"m","message":"n: m"}}"#);
                check_fault(500, &binding, (status, "m"));
            }
        }
        check_fault(
            403,
            r#"{"errors":[{"code":10000,"message":"Authentication error"}]}"#,
            (403, "Authentication error"),
        );
        check_fault(0, r#"{"errors":[{"code":"3040","message":null}]}"#, (429, ""));
        check_fault(0, r#"{"errors":[{"code":1,"message":"m"}]}"#, (502, "m"));
        check_fault(0, r#"{"error":{"message":"m","code":400}}"#, (400, "m"));
        check_fault(500, r#"{"success":false,"errors":[]}"#, (500, ""));
        check_fault(502, "<html>", (502, ""));
    }
}
