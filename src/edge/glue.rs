//! The imports from `glue.js`.

use wasm_bindgen::prelude::*;
use worker::{Env, web_sys};

use super::pump::Pump;

#[wasm_bindgen(module = "/src/edge/glue.js", wasm_bindgen_futures = worker::wasm_bindgen_futures)]
extern "C" {
    /// Fills the buffer with randomness.
    #[wasm_bindgen(js_name = randomBytes)]
    pub(super) fn random_bytes(buffer: &mut [u8]);

    /// The fields of the gateway's `Head`, in its order; null where the request has none.
    #[wasm_bindgen(js_name = readHead)]
    pub(super) fn read_head(request: &web_sys::Request) -> js_sys::Array;

    #[wasm_bindgen(catch, js_name = readBody)]
    pub(super) async fn read_body(request: &web_sys::Request, limit: f64) -> Result<JsValue, JsValue>;

    pub(super) fn respond(status: u16, headers: &str, body: &JsValue) -> web_sys::Response;

    #[wasm_bindgen(catch, js_name = callUpstream)]
    pub(super) async fn call_upstream(
        url: &str,
        headers: &str,
        body: js_sys::Uint8Array,
        timeout_ms: u32,
        request: &web_sys::Request,
        ctx: &JsValue,
    ) -> Result<JsValue, JsValue>;

    /// The same through the binding to Workers AI of that name.
    #[wasm_bindgen(catch, js_name = callAi)]
    pub(super) async fn call_ai(
        env: &Env,
        binding: &str,
        model: &str,
        headers: &str,
        body: &str,
        timeout_ms: u32,
        request: &web_sys::Request,
        ctx: &JsValue,
    ) -> Result<JsValue, JsValue>;

    /// Breaks off what is still going on of the request's calls.
    #[wasm_bindgen(js_name = cancelCalls)]
    pub(super) fn cancel_calls(request: &web_sys::Request);

    /// A stream of these bytes and no more.
    #[wasm_bindgen(js_name = streamOf)]
    pub(super) fn stream_of(bytes: js_sys::Uint8Array) -> web_sys::ReadableStream;

    /// The pump: what is left of each of the transcoder's sources (null where nothing is) through `transcoder`, after
    /// `first`. `release` is called when all is done. The times are those of `gateway::Patience`.
    pub(super) fn pump(
        first: js_sys::Uint8Array,
        sources: js_sys::Array,
        transcoder: Pump,
        release: js_sys::Function,
        keepalive_ms: u32,
        first_token_ms: u32,
        idle_ms: u32,
    ) -> web_sys::ReadableStream;

    /// Resolves to whether the client is still there.
    #[wasm_bindgen(catch)]
    pub(super) async fn pause(ms: u32, request: &web_sys::Request) -> Result<JsValue, JsValue>;

    /// Tells the log, and the analytics dataset if one is bound, of a request that has ended.
    pub(super) fn record(env: &Env, line: &str, is_logged: bool);

    /// A function that calls two.
    pub(super) fn both(first: js_sys::Function, second: js_sys::Function) -> js_sys::Function;

    /// Keeps the request's context alive until the function is called.
    pub(super) fn hold(ctx: &JsValue) -> js_sys::Function;

    #[wasm_bindgen(catch, js_name = askLedger)]
    pub(super) async fn ask_ledger(env: &Env, tenant: &str, call: &str, timeout_ms: u32) -> Result<JsValue, JsValue>;

    /// Tells a ledger the same every `every_ms`, until the function is called.
    #[wasm_bindgen(js_name = repeatToLedger)]
    pub(super) fn repeat_to_ledger(
        env: &Env,
        ctx: &JsValue,
        tenant: &str,
        call: &str,
        every_ms: u32,
    ) -> js_sys::Function;

    #[wasm_bindgen(js_name = tellLedger)]
    pub(super) fn tell_ledger(env: &Env, ctx: &JsValue, tenant: &str, call: &str);

    /// An upstream's answer, from its headers on.
    #[wasm_bindgen(js_name = Upstream)]
    #[derive(Debug)]
    pub(super) type JsUpstream;

    #[wasm_bindgen(method, getter)]
    pub(super) fn status(this: &JsUpstream) -> u16;

    #[wasm_bindgen(method, getter, js_name = contentType)]
    pub(super) fn content_type(this: &JsUpstream) -> String;

    #[wasm_bindgen(method, getter, js_name = retryAfterMs)]
    pub(super) fn retry_after_ms(this: &JsUpstream) -> Option<f64>;

    /// Resolves when `take` has something.
    #[wasm_bindgen(method, catch)]
    pub(super) async fn ready(this: &JsUpstream, wait_ms: u32) -> Result<JsValue, JsValue>;

    /// The bytes that are ready, or undefined at the end.
    #[wasm_bindgen(method)]
    pub(super) fn take(this: &JsUpstream) -> JsValue;

    #[wasm_bindgen(method, catch, js_name = readAll)]
    pub(super) async fn read_all(this: &JsUpstream, limit: f64, wait_ms: u32) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method)]
    pub(super) fn release(this: &JsUpstream);

    #[wasm_bindgen(method)]
    pub(super) fn cancel(this: &JsUpstream);
}
