//! What the dialects' tests share.

use crate::api::{ApiError, CompletionRequest};
use crate::config::{Model, Target, Upstream};
use crate::fields::parse;

use super::{Call, UpstreamRequest, refuse_unsupported};

/// Checks a request's body and writes the call for it to an upstream as the configuration has it.
pub(super) fn encode(upstream: &str, body: &str) -> Result<UpstreamRequest, ApiError> {
    let upstream: Upstream = parse(upstream.as_bytes()).unwrap();
    let target: Target = parse(br#"{"upstream":"u","model":"@org/their model"}"#).unwrap();
    let model: Model = parse(br#"{"targets":[]}"#).unwrap();
    let request = CompletionRequest::parse(body.as_bytes()).unwrap();
    refuse_unsupported(&request, upstream.abilities())?;
    let secret = upstream.key.as_ref().map(|_| "secret");
    let call = Call {
        request: &request,
        upstream: &upstream,
        target: &target,
        model: &model,
        secret,
        traceparent: None,
        now_ms: 0,
    };
    upstream.dialect.dialect().encode(&call)
}
