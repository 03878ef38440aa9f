//! Upstreams that serve `/v1/completions` themselves: OpenAI, vLLM, `SGLang`, llama.cpp's `/v1`, and many providers.
//!
//! The request goes out as it came in, `stop` always as an array, with the upstream's name for the model, an explicit `max_tokens`, and
//! `stream_options` asking for usage unless the upstream is configured not to know them.

use crate::api::{Answer, ApiError};
use crate::framing::Framing;

use super::json::Object;
use super::openai_wire::{self, OpenAiDecoder};
use super::{Call, Capabilities, Dialect, Fault, Seeds, Stops, StreamDecoder, UpstreamRequest, UsageReport};

/// See the module.
#[derive(Debug)]
pub(super) struct OpenAiCompletions;

pub(super) static CAPABILITIES: Capabilities =
    Capabilities { exceptions: &[], unknown_parameters: true, stops: Stops::NATIVE, seeds: Seeds::ANY };

/// `stream_options` for an upstream that knows them.
pub(super) fn put_stream(body: &mut Object, call: &Call<'_>) {
    #[derive(serde::Serialize)]
    struct StreamOptions {
        include_usage: bool,
    }
    if call.request.stream {
        body.put("stream", &true);
        body.put_if(call.upstream.stream_usage, "stream_options", StreamOptions { include_usage: true });
    }
}

/// The body for `/completions`, wherever that is.
pub(super) fn body(call: &Call<'_>) -> Object {
    let request = call.request;
    let mut body = Object::new();
    body.put("model", &call.target.model)
        .put("prompt", &request.prompt)
        .put("max_tokens", &call.max_tokens())
        .put_some("temperature", request.temperature)
        .put_some("top_p", request.top_p)
        .put_if(request.n != 1, "n", request.n)
        .put_some("best_of", request.best_of)
        .put_if(request.echo, "echo", true)
        .put_some("logprobs", request.logprobs)
        .put_if(!request.stop.is_empty(), "stop", &request.stop)
        .put_some("suffix", request.suffix.as_ref())
        .put_some("seed", request.seed)
        .put_some("frequency_penalty", request.frequency_penalty)
        .put_some("presence_penalty", request.presence_penalty)
        .put_some("logit_bias", request.logit_bias)
        .put_some("user", request.user.as_ref());
    put_stream(&mut body, call);
    // Of what the API does not know the operator's own fields stand before the client's.
    let unknown = request.extra.iter().filter(|(name, _)| !call.model.body.contains_key(&**name));
    for (name, value) in unknown {
        body.put(name, value);
    }
    body
}

impl Dialect for OpenAiCompletions {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        Ok(call.post("/completions", call.bearer(), body(call)))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(OpenAiDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        openai_wire::decode_answer(body)
    }
}
