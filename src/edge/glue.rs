//! The imports from the JavaScript beside the Worker. Their paths are seen from `target/worker`, where the build puts what
//! wasm-bindgen writes.

use wasm_bindgen::prelude::*;

use super::pump::Pump;
use super::task::Task;

#[wasm_bindgen(raw_module = "../../src/edge/upstream.js")]
extern "C" {
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

    /// A whole answer that was read together with its headers: its bytes, or a text that says why there are none.
    /// Undefined if it was not.
    #[wasm_bindgen(method, getter)]
    pub(super) fn all(this: &JsUpstream) -> JsValue;

    /// The bytes that are ready, or undefined at the end.
    #[wasm_bindgen(method)]
    pub(super) fn take(this: &JsUpstream) -> JsValue;

    #[wasm_bindgen(method)]
    pub(super) fn release(this: &JsUpstream);

    #[wasm_bindgen(method)]
    pub(super) fn cancel(this: &JsUpstream);
}

// What has a `wait` tells the task when it is done: see `Waits`.
#[wasm_bindgen(raw_module = "../../src/edge/visit.js")]
extern "C" {
    /// Fills the buffer with randomness.
    #[wasm_bindgen(js_name = randomBytes)]
    pub(super) fn random_bytes(buffer: &mut [u8]);

    /// From now on this number stands for these headers: pairs of a name and a value, null where that is left open, as
    /// JSON.
    #[wasm_bindgen(js_name = learnHeaders)]
    pub(super) fn learn_headers(shape: u32, headers: &str);

    /// One request, from its coming to the end of its answer.
    #[derive(Clone, Debug)]
    pub(super) type Visit;

    #[wasm_bindgen(constructor)]
    pub(super) fn new(request: JsValue, env: JsValue, ctx: JsValue) -> Visit;

    /// The promise of the response.
    #[wasm_bindgen(method, getter)]
    pub(super) fn response(this: &Visit) -> js_sys::Promise;

    /// Whom to tell what has come.
    #[wasm_bindgen(method)]
    pub(super) fn begin(this: &Visit, task: Task);

    /// Method, path, query, and the headers of the gateway's `Head`, a line each.
    #[wasm_bindgen(method)]
    pub(super) fn head(this: &Visit) -> String;

    #[wasm_bindgen(method)]
    pub(super) fn body(this: &Visit, wait: u32, limit: f64);

    #[wasm_bindgen(method)]
    pub(super) fn answer(this: &Visit, status: u16, shape: u32, headers: &str, body: Option<&str>);

    #[wasm_bindgen(method, js_name = answerChunks)]
    pub(super) fn answer_chunks(this: &Visit, status: u16, shape: u32, headers: &str, bytes: js_sys::Uint8Array);

    #[wasm_bindgen(method, js_name = answerStream)]
    pub(super) fn answer_stream(
        this: &Visit,
        status: u16,
        shape: u32,
        headers: &str,
        first: js_sys::Uint8Array,
        sources: js_sys::Array,
        transcoder: Pump,
        times: &[u32],
    );

    #[wasm_bindgen(method, js_name = callUpstream)]
    pub(super) fn call_upstream(this: &Visit, wait: u32, head: &str, body: &str, timeout_ms: u32, whole_limit: f64);

    /// The same through the binding to Workers AI of that name.
    #[wasm_bindgen(method, js_name = callAi)]
    pub(super) fn call_ai(this: &Visit, wait: u32, binding: &str, head: &str, body: &str, timeout_ms: u32);

    #[wasm_bindgen(method, js_name = cancelCalls)]
    pub(super) fn cancel_calls(this: &Visit);

    #[wasm_bindgen(method)]
    pub(super) fn ready(this: &Visit, wait: u32, upstream: &JsUpstream, wait_ms: u32);

    #[wasm_bindgen(method, js_name = readAll)]
    pub(super) fn read_all(this: &Visit, wait: u32, upstream: &JsUpstream, limit: f64, wait_ms: u32);

    #[wasm_bindgen(method)]
    pub(super) fn pause(this: &Visit, wait: u32, ms: u32);

    #[wasm_bindgen(method)]
    pub(super) fn sleep(this: &Visit, wait: u32, ms: u32);

    #[wasm_bindgen(method)]
    pub(super) fn secret(this: &Visit, name: &str) -> Option<String>;

    #[wasm_bindgen(method, js_name = kvGet)]
    pub(super) fn kv_get(this: &Visit, wait: u32, key: &str, cache_seconds: u32);

    #[wasm_bindgen(method, js_name = kvPut)]
    pub(super) fn kv_put(this: &Visit, wait: u32, key: &str, value: &str);

    #[wasm_bindgen(method, js_name = kvDelete)]
    pub(super) fn kv_delete(this: &Visit, wait: u32, key: &str);

    #[wasm_bindgen(method, js_name = kvList)]
    pub(super) fn kv_list(this: &Visit, wait: u32, prefix: &str, cursor: Option<&str>, limit: u32);

    #[wasm_bindgen(method, js_name = mayFailAgain)]
    pub(super) fn may_fail_again(this: &Visit, wait: u32);

    #[wasm_bindgen(method, js_name = askLedger)]
    pub(super) fn ask_ledger(this: &Visit, wait: u32, tenant: &str, call: &str, timeout_ms: u32);

    #[wasm_bindgen(method, js_name = tellLedger)]
    pub(super) fn tell_ledger(this: &Visit, tenant: &str, call: &str);

    /// Renews a lease until all is done.
    #[wasm_bindgen(method, js_name = keepRenewed)]
    pub(super) fn keep_renewed(this: &Visit, tenant: &str, lease: &str, lease_ms: u32);

    /// Something that is done in the request's context, whether it goes on or has ended.
    #[wasm_bindgen(method)]
    pub(super) fn errand(this: &Visit) -> Errand;

    /// See [`Visit::errand`]. The context is held until it has ended.
    #[derive(Clone, Debug)]
    pub(super) type Errand;

    #[wasm_bindgen(method)]
    pub(super) fn begin(this: &Errand, task: Task);

    #[wasm_bindgen(method)]
    pub(super) fn sleep(this: &Errand, wait: u32, ms: u32);

    #[wasm_bindgen(method, js_name = askLedger)]
    pub(super) fn ask_ledger(this: &Errand, wait: u32, tenant: &str, call: &str, timeout_ms: u32);

    #[wasm_bindgen(method)]
    pub(super) fn end(this: &Errand);

    /// Tells the log, and the analytics dataset if one is bound, of a request that has ended.
    #[wasm_bindgen(method, js_name = tellLog)]
    pub(super) fn tell_log(this: &Visit, line: &str, is_logged: bool);
}

#[wasm_bindgen]
extern "C" {
    /// Writes a line into the operator's log.
    #[wasm_bindgen(js_namespace = console)]
    pub(super) fn warn(message: &str);
}
