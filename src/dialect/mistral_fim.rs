//! Mistral's route for filling in the middle of code: a prompt, a suffix, and an answer in chat's form.
//!
//! An upstream's `base_url` ends in the version, as in `https://api.mistral.ai/v1`. The facts are from
//! <https://docs.mistral.ai/api/endpoint/fim>, and these beyond it:
//!
//! - Usage comes with a stream's last chunk, unasked: the route knows no `stream_options`, and refuses what it does not
//!   know.
//! - `content` may be an array of pieces in place of a string, and a choice may finish with `error`: the reader that it
//!   shares with the routes of OpenAI's family takes both.
//! - A request that is not valid is answered by a 422 whose `message` is an object
//!   (<https://github.com/editor-code-assistant/eca/issues/231>).

use crate::api::{Answer, ApiError};
use crate::framing::Framing;

use super::json::{Object, Raw};
use super::openai_wire::{self, OpenAiDecoder};
use super::{
    Call, Capabilities, Dialect, Fault, Parameter, Seeds, Stops, StreamDecoder, Support, UpstreamRequest, UsageReport,
};

/// See the module.
#[derive(Debug)]
pub(super) struct MistralFim;

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
        (Parameter::User, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops::NOT_EMPTY,
    seeds: Seeds::NOT_NEGATIVE,
};

impl Dialect for MistralFim {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        let request = call.request;
        let mut body = Object::new();
        body.put("model", &call.target.model)
            .put("prompt", call.prompt_text())
            .put_some("suffix", request.suffix.as_ref())
            .put("max_tokens", &call.max_tokens())
            .put_some("temperature", request.temperature)
            .put_some("top_p", request.top_p)
            .put_some("random_seed", request.seed)
            .put_if(!request.stop.is_empty(), "stop", &request.stop)
            .put_if(request.stream, "stream", true);
        Ok(call.post("/fim/completions", call.bearer(), body))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(OpenAiDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        openai_wire::decode_answer(body)
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        let fault = Fault::of_body(status, body);
        if !fault.message.is_empty() {
            return fault;
        }
        let message = Raw::read(body, |raw| raw.field("message").json().unwrap_or_default().to_owned());
        Fault { message: message.unwrap_or_default(), ..fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_fault(status: u16, body: &str, message: &str) {
        let fault = MistralFim.decode_fault(status, body.as_bytes());
        assert_eq!((fault.status, fault.message.as_str()), (status, message), "{body}");
    }

    #[test]
    fn a_message_may_be_an_object() {
        check_fault(400, r#"{"object":"error","message":"Invalid model: x","code":"1500"}"#, "Invalid model: x");
        check_fault(422, r#"{"object":"error","message":{"detail":[{"msg":"m"}]}}"#, r#"{"detail":[{"msg":"m"}]}"#);
        check_fault(422, r#"{"detail":[{"msg":"m"}]}"#, r#"[{"msg":"m"}]"#);
        check_fault(502, "<html>", "");
        check_fault(500, r#"{"message":null}"#, "");
    }
}
