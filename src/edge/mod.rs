//! Where the gateway meets the runtime: the Worker's entry point, and all that names JavaScript.

mod admin;
mod glue;
mod ledger;
mod platform;
mod pump;
mod store;
mod tend;

use std::cell::RefCell;
use std::rc::Rc;

use wasm_bindgen::JsValue;
use worker::{Context, Env, event, web_sys};

use crate::admin::{self as admin_api, is_admin_path};
use crate::gateway::{Entropy, Gateway, Head, Patience, Reply, ReplyBody, StreamBody};

use platform::{EdgePlatform, Upstream};
use pump::Pump;

thread_local! {
    /// What this isolate keeps between requests: plain data, never anything that a request waits for.
    static GATEWAY: Rc<Gateway> = Rc::default();
}

/// The names of the Worker's bindings.
mod bindings {
    /// The KV namespace of keys, tenants and configuration.
    pub(super) const KV: &str = "KV";
    /// The rate limiter for failed authentications; may be absent. The ledgers' binding, `LEDGER`, is named in
    /// `glue.js`.
    pub(super) const AUTH_LIMITER: &str = "AUTH_LIMITER";
}

#[event(fetch)]
async fn fetch(request: web_sys::Request, env: Env, ctx: Context) -> worker::Result<web_sys::Response> {
    let gateway = GATEWAY.with(Rc::clone);
    let head = head(&request);
    let mut entropy = [0; 32];
    glue::random_bytes(&mut entropy);
    let release = glue::hold(ctx.as_ref().as_ref());
    let platform = EdgePlatform { request, env, ctx, stop_renewal: RefCell::default() };
    let reply = if is_admin_path(&head.path) {
        admin_api::handle(&platform, &head, Entropy(entropy)).await
    } else {
        gateway.handle(&platform, &head, Entropy(entropy)).await
    };
    Ok(respond(reply, &platform, release))
}

fn head(request: &web_sys::Request) -> Head {
    let mut fields = glue::read_head(request).into_iter().map(|value| value.as_string());
    let mut next = || fields.next().flatten();
    Head {
        method: next().unwrap_or_default(),
        path: next().unwrap_or_default(),
        authorization: next(),
        content_type: next(),
        content_encoding: next(),
        request_id: next(),
        format: next(),
        origin: next(),
        wanted_headers: next(),
        query: next().unwrap_or_default(),
        if_match: next(),
        if_none_match: next(),
        traceparent: next(),
    }
}

/// Sends the reply. Once all is done, its promise is no longer renewed, and `release` lets go of the request's context.
fn respond(reply: Reply<Upstream>, platform: &EdgePlatform, release: js_sys::Function) -> web_sys::Response {
    let end = match platform.stop_renewal.take() {
        Some(stop) => glue::both(stop, release),
        None => release,
    };
    let mut headers = String::with_capacity(512);
    for (name, value) in &reply.headers {
        headers.extend([name, "\n", value, "\n"]);
    }
    let body = match reply.body {
        ReplyBody::Empty => JsValue::NULL,
        ReplyBody::Bytes(bytes) => js_sys::Uint8Array::from(bytes.as_slice()).into(),
        ReplyBody::Chunks(bytes) => glue::stream_of(js_sys::Uint8Array::from(bytes.as_slice())).into(),
        ReplyBody::Stream(stream) => {
            let StreamBody { first, upstreams, transcoder, closing, patience } = *stream;
            let Patience { keepalive_ms, first_token_ms, idle_ms } = patience;
            let first = js_sys::Uint8Array::from(first.as_slice());
            let ctx: &JsValue = platform.ctx.as_ref().as_ref();
            let pump = Pump::new(transcoder, closing, platform.env.clone(), ctx.clone());
            let sources = upstreams.into_iter().map(|upstream| upstream.map_or(JsValue::NULL, Upstream::into_js));
            let body = glue::pump(first, sources.collect(), pump, end, keepalive_ms, first_token_ms, idle_ms);
            return glue::respond(reply.status, &headers, &body);
        }
    };
    // It cannot throw: it clears a timer and resolves a promise.
    let _ = end.call0(&JsValue::UNDEFINED);
    glue::respond(reply.status, &headers, &body)
}
