//! Upstreams that serve `/v1/chat/completions` only: the prompt becomes one user message.

use crate::api::{Answer, ApiError};
use crate::framing::Framing;

use super::json::Object;
use super::openai_completions::put_stream;
use super::openai_wire::{self, OpenAiDecoder};
use super::{
    Call, Capabilities, Dialect, Fault, Parameter, Seeds, Stops, StreamDecoder, Support, UpstreamRequest, UsageReport,
};

/// See the module.
#[derive(Debug)]
pub(super) struct OpenAiChat;

pub(super) static CAPABILITIES: Capabilities = Capabilities {
    exceptions: &[
        (Parameter::PromptArray, Support::Emulated),
        (Parameter::PromptTokens, Support::Unsupported),
        (Parameter::BestOf, Support::Unsupported),
        (Parameter::Echo, Support::Emulated),
        // Chat's route wants at least one token.
        (Parameter::MaxTokensZero, Support::Unsupported),
        (Parameter::Suffix, Support::Unsupported),
    ],
    unknown_parameters: false,
    stops: Stops::NATIVE,
    seeds: Seeds::ANY,
};

/// The body for `/chat/completions`, wherever that is.
pub(super) fn body(call: &Call<'_>) -> Object {
    let request = call.request;
    let mut body = Object::new();
    body.put("model", &call.target.model)
        .put("messages", &call.messages())
        .put(call.upstream.max_tokens_field.as_str(), &call.max_tokens())
        .put_some("temperature", request.temperature)
        .put_some("top_p", request.top_p)
        .put_if(request.n != 1, "n", request.n)
        .put_if(request.logprobs.is_some(), "logprobs", true)
        .put_some("top_logprobs", request.logprobs)
        .put_if(!request.stop.is_empty(), "stop", &request.stop)
        .put_some("seed", request.seed)
        .put_some("frequency_penalty", request.frequency_penalty)
        .put_some("presence_penalty", request.presence_penalty)
        .put_some("logit_bias", request.logit_bias)
        .put_some("user", request.user.as_ref());
    put_stream(&mut body, call);
    body
}

impl Dialect for OpenAiChat {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        Ok(call.post("/chat/completions", call.bearer(), body(call)))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(OpenAiDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        openai_wire::decode_answer(body)
    }
}
