//! The gateway's [`Platform`] on Workers.

use std::cell::RefCell;

use wasm_bindgen::{JsCast as _, JsValue};
use worker::{Context, Date, Env, RateLimiter, console_warn, web_sys};

use crate::dialect::{Destination, UpstreamRequest};
use crate::gateway::{
    CallError, Platform, ReadError, RequestRecord, Settlement, SharedSlices, UpstreamBody, UpstreamResponse,
};
use crate::quota::{Call, Reply as LedgerReply, Settle, Tending};

use super::glue::{self, JsUpstream};
use super::tend::tend;
use super::{GATEWAY, bindings};

/// The runtime as one request sees it.
#[derive(Debug)]
pub(super) struct EdgePlatform {
    pub request: web_sys::Request,
    pub env: Env,
    pub ctx: Context,
    /// Ends the renewal of the request's promise, if there is one.
    pub stop_renewal: RefCell<Option<js_sys::Function>>,
}

/// The body of an upstream's answer.
#[derive(Debug)]
pub(super) struct Upstream(JsUpstream);

impl Upstream {
    pub(super) fn into_js(self) -> JsValue {
        self.0.into()
    }
}

/// A thrown value as text: ours are strings, the runtime's are errors.
pub(super) fn text_of(thrown: &JsValue) -> String {
    let message = |error: &js_sys::Error| error.message().into();
    thrown.as_string().or_else(|| thrown.dyn_ref().map(message)).unwrap_or_default()
}

fn read_error(thrown: &JsValue) -> ReadError {
    match text_of(thrown) {
        text if text == "too long" => ReadError::TooLong,
        text if text == "gone" => ReadError::ClientGone,
        text if text == "timeout" => ReadError::NotYet,
        text => ReadError::Broken(text),
    }
}

/// Limits are far below 2^53, so that they cross as numbers without loss.
fn js_limit(limit: usize) -> f64 {
    f64::from(u32::try_from(limit).unwrap_or(u32::MAX))
}

/// Tells a ledger something that nobody waits for.
pub(super) fn tell_ledger(env: &Env, ctx: &JsValue, tenant: &str, call: &Call) {
    // Plain data always serializes.
    let call = serde_json::to_string(call).unwrap_or_default();
    glue::tell_ledger(env, ctx, tenant, &call);
}

fn bytes_of(value: &JsValue) -> Vec<u8> {
    value.dyn_ref::<js_sys::Uint8Array>().map(js_sys::Uint8Array::to_vec).unwrap_or_default()
}

impl Platform for EdgePlatform {
    type Body = Upstream;

    fn now_ms(&self) -> u64 {
        Date::now().as_millis()
    }

    async fn kv(&self, key: &str, cache_seconds: u32) -> Result<Option<Vec<u8>>, String> {
        let kv = self.env.kv(bindings::KV).map_err(|error| error.to_string())?;
        kv.get(key).cache_ttl(cache_seconds.into()).bytes().await.map_err(|error| error.to_string())
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.env.secret(name).ok().map(|secret| secret.to_string())
    }

    async fn request_body(&self, limit: usize) -> Result<Vec<u8>, ReadError> {
        let body = glue::read_body(&self.request, js_limit(limit)).await;
        body.map(|body| bytes_of(&body)).map_err(|thrown| read_error(&thrown))
    }

    async fn call(&self, request: UpstreamRequest, timeout_ms: u32) -> Result<UpstreamResponse<Upstream>, CallError> {
        let mut headers = String::with_capacity(256);
        for (name, value) in &request.headers {
            headers.extend([name, "\n", value, "\n"]);
        }
        let (ctx, client): (&JsValue, _) = (self.ctx.as_ref().as_ref(), &self.request);
        let called = match &request.destination {
            Destination::Url(url) => {
                let body = js_sys::Uint8Array::from(request.body.as_slice());
                glue::call_upstream(url, &headers, body, timeout_ms, client, ctx).await
            }
            Destination::Ai { binding, model } => {
                let body = String::from_utf8_lossy(&request.body);
                glue::call_ai(&self.env, binding, model, &headers, &body, timeout_ms, client, ctx).await
            }
        };
        let upstream: JsUpstream = match called {
            Ok(upstream) => upstream.unchecked_into(),
            Err(thrown) => {
                return Err(match text_of(&thrown) {
                    text if text == "timeout" => CallError::Timeout,
                    text if text == "gone" => CallError::ClientGone,
                    text if matches!(request.destination, Destination::Ai { .. }) => CallError::Threw(text),
                    text => CallError::Unreachable(text),
                });
            }
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and the cast saturates"
        )]
        let retry_after_ms = upstream.retry_after_ms().map(|ms| ms as u64);
        Ok(UpstreamResponse {
            status: upstream.status(),
            content_type: upstream.content_type(),
            retry_after_ms,
            body: Upstream(upstream),
        })
    }

    fn cancel_calls(&self) {
        glue::cancel_calls(&self.request);
    }

    async fn ledger(&self, tenant: &str, call: &Call, timeout_ms: u32) -> Result<LedgerReply, String> {
        let text = serde_json::to_string(call).map_err(|error| error.to_string())?;
        let asked = glue::ask_ledger(&self.env, tenant, &text, timeout_ms).await;
        let reply = asked.map_err(|thrown| text_of(&thrown))?.as_string().unwrap_or_default();
        if let Call::Revoke { key } = call {
            GATEWAY.with(|gateway| gateway.revoked(self, tenant, key));
        }
        serde_json::from_str(&reply).map_err(|error| error.to_string())
    }

    fn keep_renewed(&self, settlement: &Settlement) {
        let Settlement { tenant, lease, lease_ms, .. } = settlement;
        let call = Call::Renew { lease: lease.clone(), lease_ms: (*lease_ms).into() };
        // Plain data always serializes.
        let call = serde_json::to_string(&call).unwrap_or_default();
        let ctx: &JsValue = self.ctx.as_ref().as_ref();
        let stop = glue::repeat_to_ledger(&self.env, ctx, tenant, &call, lease_ms.div_ceil(3));
        self.stop_renewal.replace(Some(stop));
    }

    fn settle_later(&self, tenant: &str, settle: Settle) {
        tell_ledger(&self.env, self.ctx.as_ref().as_ref(), tenant, &Call::Settle(settle));
    }

    fn tend(&self, slices: SharedSlices, tending: Tending) {
        tend(&self.env, self.ctx.as_ref().as_ref(), slices, tending);
    }

    async fn may_fail_again(&self) -> bool {
        let Ok(limiter) = self.env.get_binding::<RateLimiter>(bindings::AUTH_LIMITER) else { return true };
        let address = self.request.headers().get("cf-connecting-ip").ok().flatten().unwrap_or_default();
        // A limiter that fails lets pass: it is only there to slow down.
        limiter.limit(address).await.map_or(true, |outcome| outcome.success)
    }

    async fn pause(&self, ms: u32) -> bool {
        // It cannot throw.
        glue::pause(ms, &self.request).await.is_ok_and(|stays| stays.is_truthy())
    }

    fn record(&self, record: &RequestRecord) {
        glue::record(&self.env, &record.line(), record.is_logged);
    }

    fn warn(&self, message: &str) {
        console_warn!("{message}");
    }
}

impl UpstreamBody for Upstream {
    async fn read(&mut self, wait_ms: u32) -> Result<Option<Vec<u8>>, ReadError> {
        self.0.ready(wait_ms).await.map_err(|thrown| read_error(&thrown))?;
        let value = self.0.take();
        Ok((!value.is_undefined()).then(|| bytes_of(&value)))
    }

    async fn read_all(&mut self, limit: usize, wait_ms: u32) -> Result<Vec<u8>, ReadError> {
        let body = self.0.read_all(js_limit(limit), wait_ms).await;
        body.map(|body| bytes_of(&body)).map_err(|thrown| read_error(&thrown))
    }

    fn release(&mut self) {
        self.0.release();
    }

    fn cancel(&mut self) {
        self.0.cancel();
    }
}
