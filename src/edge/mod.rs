//! Where the gateway meets the runtime: the Worker's entry point, and all that names JavaScript.

mod admin;
mod entropy;
mod glue;
mod headers;
mod ledger;
mod platform;
mod pump;
mod store;
mod task;
mod tend;

use std::rc::Rc;

use wasm_bindgen::prelude::*;

use crate::admin::{self as admin_api, is_admin_path};
use crate::gateway::{Entropy, Gateway, Head, Patience, Reply, ReplyBody, StreamBody};

use glue::Visit;
use platform::{EdgePlatform, Upstream, written};
use pump::Pump;
use task::{Task, Waits};

thread_local! {
    /// What this isolate keeps between requests: plain data, never anything that a request waits for.
    static GATEWAY: Rc<Gateway> = Rc::default();
}

/// Answers a request of the runtime; `entry.js` calls it.
#[wasm_bindgen]
pub fn fetch(request: JsValue, env: JsValue, ctx: JsValue) -> js_sys::Promise {
    let visit = Visit::new(request, env, ctx);
    let response = visit.response();
    let gateway = GATEWAY.with(Rc::clone);
    let waits = Waits::default();
    let platform = EdgePlatform { visit: visit.clone(), waits: waits.clone() };
    let entropy = entropy::draw();
    let task = Task::new(
        async move {
            let head = head(&platform.visit.head());
            let reply = if is_admin_path(&head.path) {
                admin_api::handle(&platform, &head, Entropy(entropy)).await
            } else {
                gateway.handle(&platform, &head, Entropy(entropy)).await
            };
            answer(reply, &platform.visit);
        },
        waits,
    );
    if !task.run() {
        visit.begin(task);
    }
    response
}

/// Reads the lines of the glue's `Visit.head`.
fn head(lines: &str) -> Head {
    let mut lines = lines.split('\n');
    let mut word = || lines.next().unwrap_or_default().to_owned();
    let (method, path, query) = (word(), word(), word());
    let mut header = || lines.next().and_then(|line| line.strip_prefix('=')).map(str::to_owned);
    Head {
        method,
        path,
        query,
        authorization: header(),
        content_type: header(),
        content_encoding: header(),
        request_id: header(),
        format: header(),
        origin: header(),
        traceparent: header(),
        wanted_headers: header(),
        if_match: header(),
        if_none_match: header(),
    }
}

/// Sends the reply.
fn answer(reply: Reply<Upstream>, visit: &Visit) {
    let (shape, headers) = headers::crossing(&reply.headers);
    let (status, bytes) = (reply.status, |bytes: &[u8]| js_sys::Uint8Array::from(bytes));
    match reply.body {
        ReplyBody::Empty => visit.answer(status, shape, &headers, None),
        ReplyBody::Bytes(body) => visit.answer(status, shape, &headers, Some(&written(&body))),
        ReplyBody::Chunks(chunks) => visit.answer_chunks(status, shape, &headers, bytes(&chunks)),
        ReplyBody::Stream(stream) => {
            let StreamBody { first, upstreams, transcoder, closing, patience, gather_ms } = *stream;
            let Patience { keepalive_ms, first_token_ms, idle_ms } = patience;
            let times = [keepalive_ms, first_token_ms, idle_ms, gather_ms];
            let pump = Pump::new(transcoder, closing, visit.clone());
            let sources = upstreams.into_iter().map(|upstream| upstream.map_or(JsValue::NULL, Upstream::into_js));
            let sources = sources.collect();
            visit.answer_stream(status, shape, &headers, bytes(&first), sources, pump, &times);
        }
    }
}
