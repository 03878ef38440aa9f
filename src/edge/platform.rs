//! The gateway's [`Platform`] on Workers.

use std::borrow::Cow;

use wasm_bindgen::{JsCast as _, JsValue};

use crate::dialect::{Destination, UpstreamRequest};
use crate::gateway::{
    CallError, Platform, ReadError, RequestRecord, Settlement, SharedSlices, UpstreamBody, UpstreamResponse,
};
use crate::quota::{Call, Reply as LedgerReply, Settle, Tending};

use super::GATEWAY;
use super::glue::{self, JsUpstream, Visit};
use super::task::{Wait, Waits};
use super::tend::tend;

/// The runtime as one request sees it.
#[derive(Debug)]
pub(super) struct EdgePlatform {
    pub visit: Visit,
    pub waits: Waits,
}

impl EdgePlatform {
    /// Waits for what the glue begins.
    pub(super) fn wait(&self, begin: impl FnOnce(&Visit, u32)) -> Wait {
        self.waits.on(|wait| begin(&self.visit, wait))
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    whole(js_sys::Date::now())
}

/// A number of JavaScript that is a time or a count.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and the cast saturates")]
pub(super) fn whole(number: f64) -> u64 {
    number as u64
}

/// Where a call goes and its headers, as they cross: name and value in turn, a line each.
fn head_of(destination: &str, headers: &[(Cow<'static, str>, String)]) -> String {
    let mut lines = String::with_capacity(1024);
    lines.extend([destination, "\n"]);
    for (name, value) in headers {
        lines.extend([name, "\n", value, "\n"]);
    }
    lines
}

/// A call to a ledger as it crosses. Plain data always serializes.
pub(super) fn call_text(call: &Call) -> String {
    serde_json::to_string(call).unwrap_or_default()
}

/// The body of an upstream's answer.
#[derive(Debug)]
pub(super) struct Upstream {
    js: JsUpstream,
    visit: Visit,
    waits: Waits,
}

impl Upstream {
    pub(super) fn into_js(self) -> JsValue {
        self.js.into()
    }
}

/// What we have written, which is text. As a string it costs the runtime less than as an array of bytes.
pub(super) fn written(bytes: &[u8]) -> Cow<'_, str> {
    // Much faster than the lossy way, which is for what cannot be.
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
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
pub(super) fn tell_ledger(visit: &Visit, tenant: &str, call: &Call) {
    visit.tell_ledger(tenant, &call_text(call));
}

fn bytes_of(value: &JsValue) -> Vec<u8> {
    value.dyn_ref::<js_sys::Uint8Array>().map(js_sys::Uint8Array::to_vec).unwrap_or_default()
}

impl Platform for EdgePlatform {
    type Body = Upstream;

    fn now_ms(&self) -> u64 {
        self.waits.now_ms()
    }

    async fn kv(&self, key: &str, cache_seconds: u32) -> Result<Option<Vec<u8>>, String> {
        let value = self.wait(|visit, wait| visit.kv_get(wait, key, cache_seconds)).await;
        let value = value.map_err(|thrown| text_of(&thrown))?;
        Ok((!value.is_null()).then(|| js_sys::Uint8Array::new(&value).to_vec()))
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.visit.secret(name)
    }

    async fn request_body(&self, limit: usize) -> Result<Vec<u8>, ReadError> {
        let body = self.wait(|visit, wait| visit.body(wait, js_limit(limit))).await;
        body.map(|body| bytes_of(&body)).map_err(|thrown| read_error(&thrown))
    }

    async fn call(
        &self,
        request: UpstreamRequest,
        timeout_ms: u32,
        whole_limit: Option<usize>,
    ) -> Result<UpstreamResponse<Upstream>, CallError> {
        let body = written(&request.body);
        let limit = whole_limit.map_or(0.0, js_limit);
        let called = self.wait(|visit, wait| match &request.destination {
            Destination::Url(url) => {
                visit.call_upstream(wait, &head_of(url, &request.headers), &body, timeout_ms, limit);
            }
            Destination::Ai { binding, model } => {
                visit.call_ai(wait, binding, &head_of(model, &request.headers), &body, timeout_ms);
            }
        });
        let called = called.await;
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
        let status = upstream.status();
        Ok(UpstreamResponse {
            status,
            content_type: upstream.content_type(),
            // Only who refuses says when to try again.
            retry_after_ms: (status >= 300).then(|| upstream.retry_after_ms()).flatten().map(whole),
            body: Upstream { js: upstream, visit: self.visit.clone(), waits: self.waits.clone() },
        })
    }

    fn cancel_calls(&self) {
        self.visit.cancel_calls();
    }

    async fn ledger(&self, tenant: &str, call: &Call, timeout_ms: u32) -> Result<LedgerReply, String> {
        let text = call_text(call);
        let asked = self.wait(|visit, wait| visit.ask_ledger(wait, tenant, &text, timeout_ms)).await;
        let reply = asked.map_err(|thrown| text_of(&thrown))?.as_string().unwrap_or_default();
        if let Call::Revoke { key } = call {
            GATEWAY.with(|gateway| gateway.revoked(self, tenant, key));
        }
        serde_json::from_str(&reply).map_err(|error| error.to_string())
    }

    fn keep_renewed(&self, settlement: &Settlement) {
        let Settlement { tenant, lease, lease_ms, .. } = settlement;
        self.visit.keep_renewed(tenant, lease, *lease_ms);
    }

    fn settle_later(&self, tenant: &str, settle: Settle) {
        tell_ledger(&self.visit, tenant, &Call::Settle(settle));
    }

    fn tend(&self, slices: SharedSlices, tending: Tending) {
        tend(&self.visit, slices, tending);
    }

    async fn may_fail_again(&self) -> bool {
        // A limiter that fails lets pass: it is only there to slow down.
        self.wait(Visit::may_fail_again).await.map_or(true, |may| may.is_truthy())
    }

    async fn pause(&self, ms: u32) -> bool {
        // It cannot throw.
        self.wait(|visit, wait| visit.pause(wait, ms)).await.is_ok_and(|stays| stays.is_truthy())
    }

    fn record(&self, record: &RequestRecord) {
        self.visit.tell_log(&written(&record.line()), record.is_logged);
    }

    fn warn(&self, message: &str) {
        glue::warn(message);
    }
}

impl UpstreamBody for Upstream {
    async fn read(&mut self, wait_ms: u32) -> Result<Option<Vec<u8>>, ReadError> {
        let ready = self.waits.on(|wait| self.visit.ready(wait, &self.js, wait_ms));
        ready.await.map_err(|thrown| read_error(&thrown))?;
        let value = self.js.take();
        Ok((!value.is_undefined()).then(|| bytes_of(&value)))
    }

    async fn read_all(&mut self, limit: usize, wait_ms: u32) -> Result<Vec<u8>, ReadError> {
        let all = self.js.all();
        if !all.is_undefined() {
            return if all.is_string() { Err(read_error(&all)) } else { Ok(bytes_of(&all)) };
        }
        let body = self.waits.on(|wait| self.visit.read_all(wait, &self.js, js_limit(limit), wait_ms)).await;
        body.map(|body| bytes_of(&body)).map_err(|thrown| read_error(&thrown))
    }

    fn release(&mut self) {
        self.js.release();
    }

    fn cancel(&mut self) {
        self.js.cancel();
    }
}
