//! A request's body as the client sends it, and the calls that it becomes in every dialect: no panic, and every call's
//! body is JSON.
#![no_main]

use completions_edge::api::CompletionRequest;
use completions_edge::config::GatewayConfig;
use completions_edge::dialect::{Bounds, Call, DialectName, refuse_unsupported, split};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { calls: 16, prompt_bytes: 1 << 20 };

fn config(dialect: DialectName) -> GatewayConfig {
    let dialect = dialect.name();
    let version = if dialect.starts_with("azure") { r#","api_version":"v""# } else { "" };
    let upstream = format!(r#"{{"dialect":"{dialect}","base_url":"https://u.example"{version}}}"#);
    let model = r#"{"targets":[{"upstream":"u","model":"a/b"}],"body":{"options":{"x":1}},"system":"s"}"#;
    let document = format!(r#"{{"version":1,"upstreams":{{"u":{upstream}}},"models":{{"m":{model}}}}}"#);
    GatewayConfig::parse(document.as_bytes()).expect("a good configuration")
}

fuzz_target!(|body: &[u8]| {
    let Ok(request) = CompletionRequest::parse(body) else { return };
    for name in DialectName::ALL {
        let config = config(*name);
        let (upstream, model) = (&config.upstreams["u"], &config.models["m"]);
        let dialect = name.dialect();
        let Ok(()) = refuse_unsupported(&request, upstream.abilities()) else { continue };
        let Ok(parts) = split(&request, upstream.abilities(), BOUNDS) else { continue };
        for part in parts {
            let request = &part.request;
            let call = Call {
                request,
                upstream,
                target: &model.targets[0],
                model,
                secret: None,
                traceparent: None,
                now_ms: 0,
            };
            let Ok(call) = dialect.encode(&call) else { continue };
            serde_json::from_slice::<serde::de::IgnoredAny>(&call.body).expect("a call's body is JSON");
        }
    }
});
