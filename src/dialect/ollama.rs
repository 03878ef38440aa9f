//! Ollama's own API, `/api/generate`, by <https://docs.ollama.com/api/generate>. `base_url` is what its documentation
//! calls so: `http://host:11434/api`, or `https://ollama.com/api` with a key.
//!
//! The prompt goes out raw, past the model's template. Only a request with a suffix does not, since it is the template
//! that puts a suffix where the model wants it; a model whose template has no place for one answers 400. Thinking, which
//! Ollama switches on for every model that can, is switched off, unless the operator's body fields say something about
//! `think`. An empty prompt would load the model and complete nothing, so it is refused here
//! (<https://github.com/ollama/ollama/blob/main/server/routes.go>, `GenerateHandler`).
//!
//! Log probabilities came with Ollama 0.12.11, as the elements of chat's `content`. `prompt_eval_count` and
//! `eval_count` are left out where they are 0, the former also where the prompt was in the cache: absence is no count.
//! An operator who wants prompts refused that are longer than the context, where Ollama cuts them, sets the body field
//! `truncate` to false.

use crate::api::{Answer, ApiError, FinishReason, Logprobs};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::{
    Call, Capabilities, Dialect, Event, Fault, Parameter, Seeds, Stops, StreamDecoder, Support, UpstreamRequest,
    UsageReport, logprobs, read_frame,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Ollama;

static CAPABILITIES: Capabilities = Capabilities {
    exceptions: &[
        (Parameter::PromptArray, Support::Emulated),
        (Parameter::PromptTokens, Support::Unsupported),
        (Parameter::BestOf, Support::Unsupported),
        (Parameter::Echo, Support::Emulated),
        (Parameter::LogitBias, Support::Unsupported),
        (Parameter::MaxTokensZero, Support::Unsupported),
        (Parameter::N, Support::Emulated),
        (Parameter::User, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops::NOT_EMPTY,
    // -1 means a random one (`sample/samplers.go`), and what other negative ones mean is not documented.
    seeds: Seeds::NOT_NEGATIVE,
};

impl Dialect for Ollama {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Ndjson
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        let prompt = call.prompt_text();
        if prompt.is_empty() {
            return Err(ApiError::unsupported_value("prompt", &request.model, "must not be empty"));
        }
        let suffix = request.suffix.as_deref().filter(|suffix| !suffix.is_empty());
        let mut options = Object::new();
        options
            .put("num_predict", &call.max_tokens())
            .put_some("temperature", request.temperature)
            .put_some("top_p", request.top_p)
            .put_some("seed", request.seed)
            .put_some("frequency_penalty", request.frequency_penalty)
            .put_some("presence_penalty", request.presence_penalty)
            .put_if(!request.stop.is_empty(), "stop", &request.stop);
        let mut body = Object::new();
        body.put("model", &call.target.model)
            .put("prompt", prompt)
            .put_some("suffix", suffix)
            .put("raw", &suffix.is_none())
            .put("stream", &request.stream)
            .put_if(!call.model.body.contains_key("think"), "think", false)
            .put_if(request.logprobs.is_some(), "logprobs", true)
            .put_some("top_logprobs", request.logprobs)
            .put_filled("options", options, &call.model.body);
        Ok(call.post("/generate", call.bearer(), body))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(OllamaDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        let answer = Raw::read(body, |raw| {
            let line = Line::of(raw);
            if line.error.is_present() {
                return Err(Fault::in_stream(body));
            }
            let text = line.response.text().ok_or_else(|| Fault::nonsense("the answer has no response"))?;
            Ok((Answer::of_one(text.into_owned(), line.logprobs(), line.finish_reason()), line.usage()))
        });
        answer.unwrap_or_else(|| Err(Fault::nonsense("the answer is not JSON of this dialect")))
    }
}

/// What a line of the stream or the whole answer has. The last line has the counts.
struct Line<'a> {
    response: Raw<'a>,
    logprobs: Raw<'a>,
    done: Raw<'a>,
    done_reason: Raw<'a>,
    prompt_eval_count: Raw<'a>,
    eval_count: Raw<'a>,
    error: Raw<'a>,
}

impl<'a> Line<'a> {
    fn of(raw: Raw<'a>) -> Self {
        let [response, logprobs, done, done_reason, prompt_eval_count, eval_count, error] =
            raw.fields(["response", "logprobs", "done", "done_reason", "prompt_eval_count", "eval_count", "error"]);
        Self { response, logprobs, done, done_reason, prompt_eval_count, eval_count, error }
    }

    fn logprobs(&self) -> Option<Logprobs> {
        logprobs::read_tokens(self.logprobs)
    }

    fn usage(&self) -> UsageReport {
        UsageReport { prompt_tokens: self.prompt_eval_count.count(), completion_tokens: self.eval_count.count() }
    }

    fn finish_reason(&self) -> FinishReason {
        match self.done_reason.text().as_deref() {
            Some("length") => FinishReason::Length,
            _ => FinishReason::Stop,
        }
    }
}

/// It keeps nothing between lines.
#[derive(Debug)]
struct OllamaDecoder;

impl StreamDecoder for OllamaDecoder {
    fn repeats(&self) -> bool {
        true
    }

    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        read_frame(frame, events, |raw, events| {
            let line = Line::of(raw);
            if line.error.is_present() {
                return events(Event::Failed(Fault::in_stream(frame.data)));
            }
            if !raw.is_object() {
                return events(Event::Malformed);
            }
            let done = line.done.is_true();
            events(Event::Delta {
                index: 0,
                text: &line.response.text().unwrap_or_default(),
                logprobs: line.logprobs(),
                finish_reason: done.then(|| line.finish_reason()),
            });
            if done {
                events(Event::Usage(line.usage()));
                events(Event::End);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::encode;

    #[test]
    fn a_seed_of_minus_one_would_be_a_random_one() {
        let upstream = r#"{"dialect":"ollama","base_url":"http://u"}"#;
        for seed in ["-1", "-2"] {
            let body = format!(r#"{{"model":"m","prompt":"a","seed":{seed}}}"#);
            let error = encode(upstream, &body).unwrap_err();
            assert_eq!((error.code(), error.param.as_deref()), (Some("unsupported_value"), Some("seed")));
        }
        assert!(encode(upstream, r#"{"model":"m","prompt":"a","seed":0}"#).is_ok());
    }
}
