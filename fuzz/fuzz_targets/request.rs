//! A request's body as the client sends it, and the calls that it becomes in every dialect: no panic, and every call's
//! body is JSON.
#![no_main]

use completions_edge::api::CompletionRequest;
use completions_edge::config::{Model, Target, Upstream};
use completions_edge::dialect::{Bounds, Call, DialectName, refuse_unsupported, split};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { calls: 16, prompt_bytes: 1 << 20 };

fuzz_target!(|body: &[u8]| {
    let Ok(request) = CompletionRequest::parse(body) else { return };
    let target: Target = serde_json::from_str(r#"{"upstream":"u","model":"a/b"}"#).unwrap();
    let model: Model = serde_json::from_str(r#"{"targets":[],"body":{"options":{"x":1}},"system":"s"}"#).unwrap();
    for name in DialectName::ALL {
        let upstream = format!(r#"{{"dialect":"{}","base_url":"https://u.example"}}"#, name.name());
        let upstream: Upstream = serde_json::from_str(&upstream).unwrap();
        let dialect = name.dialect();
        let Ok(()) = refuse_unsupported(&request, upstream.abilities()) else { continue };
        let Ok(parts) = split(&request, upstream.abilities(), BOUNDS) else { continue };
        for part in parts {
            let request = &part.request;
            let call = Call {
                request,
                upstream: &upstream,
                target: &target,
                model: &model,
                secret: None,
                traceparent: None,
                now_ms: 0,
            };
            let Ok(call) = dialect.encode(&call) else { continue };
            serde_json::from_slice::<serde::de::IgnoredAny>(&call.body).expect("a call's body is JSON");
        }
    }
});
