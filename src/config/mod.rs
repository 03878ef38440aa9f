//! The gateway's configuration: upstreams, models and their targets, limits, CORS, quotas, what is done about failures.
//!
//! It is one JSON document under the KV key `config`, parsed and checked whole. A document with any fault is refused
//! with the reason; a field that the gateway does not know is a fault too, since a misspelt limit is no limit.

mod model;
mod reliability;
mod upstream;

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::fields::{self, Fields, Read, one_of};

pub use model::{Model, Target};
pub use reliability::{BreakerPolicy, RetryPolicy};
pub use upstream::{MaxTokensField, Upstream};

/// A checked configuration: every target names an upstream that exists, and every URL is one.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Version of the document's form; 1.
    pub version: u32,
    /// By the name that targets use.
    pub upstreams: BTreeMap<String, Upstream>,
    /// By the public name.
    pub models: BTreeMap<String, Model>,
    /// Of the gateway itself.
    pub limits: Limits,
    /// For browsers; off where absent.
    pub cors: Option<Cors>,
    /// How quotas are kept.
    pub quota: Quota,
    /// Milliseconds of an upstream's silence after which a stream's client is sent a comment, so that nothing between us
    /// gives the connection up; 0 for never.
    pub keepalive_ms: u32,
    /// What is told of requests.
    pub observe: Observe,
    /// When a target that fails is passed over.
    pub breaker: BreakerPolicy,
    /// How often a request that failed is tried again.
    pub retry: RetryPolicy,
}

/// What is told of requests, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observe {
    /// The log gets a line for each.
    pub log: bool,
    /// The client gets the name of the target that answered, in `x-upstream-target`.
    pub target_header: bool,
    /// Upstreams get `traceparent`, where the client sent one.
    pub trace: bool,
}

impl Read<'_> for Observe {
    fn read(json: &RawValue) -> Result<Self, String> {
        let (mut fields, default) = (Fields::of(json), Self::default());
        let observe = Self {
            log: fields.or("log", default.log),
            target_header: fields.or("target_header", default.target_header),
            trace: fields.or("trace", default.trace),
        };
        fields.all_made(observe)
    }
}

impl Default for Observe {
    fn default() -> Self {
        Self { log: true, target_header: false, trace: true }
    }
}

/// Whoever revokes a key or lowers a limit waits as long.
const MAX_SLICE_MS: u32 = 10_000;
/// More comments than that help nobody.
const MIN_KEEPALIVE_MS: u32 = 50;

const KEEPALIVE_MS: u32 = 15_000;

/// The largest of the limits in bytes: an isolate has 128 MB for all its requests together.
const MAX_BYTES: usize = 32 << 20;

/// The most upstream calls that one request may become: each holds a connection and a buffer.
const MAX_PARALLEL_CALLS: u32 = 256;

/// Bounds on what the gateway holds in memory, in bytes, and on what one request may set off.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of a request's body.
    pub max_body_bytes: usize,
    /// Of an upstream's whole answer, where it does not stream.
    pub max_answer_bytes: usize,
    /// Of one event in an upstream's stream.
    pub max_event_bytes: usize,
    /// How many upstream calls one request may become, where an upstream takes one prompt or one choice a call.
    pub max_parallel_calls: u32,
}

impl Read<'_> for Limits {
    fn read(json: &RawValue) -> Result<Self, String> {
        let (mut fields, default) = (Fields::of(json), Self::default());
        let limits = Self {
            max_body_bytes: fields.or("max_body_bytes", default.max_body_bytes),
            max_answer_bytes: fields.or("max_answer_bytes", default.max_answer_bytes),
            max_event_bytes: fields.or("max_event_bytes", default.max_event_bytes),
            max_parallel_calls: fields.or("max_parallel_calls", default.max_parallel_calls),
        };
        fields.all_made(limits)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_body_bytes: 8 << 20, max_answer_bytes: 16 << 20, max_event_bytes: 1 << 20, max_parallel_calls: 16 }
    }
}

/// How quotas are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Whether they are kept at all. Without, nothing is limited and nothing is metered.
    pub enabled: bool,
    /// What happens to a request whose tenant's ledger does not answer.
    pub on_failure: OnFailure,
    /// Milliseconds that a ledger may take to admit a request.
    pub reserve_timeout_ms: u32,
    /// Milliseconds after which a request that nobody settled is closed, charged as it was reserved. Streams renew it.
    pub lease_ms: u32,
    /// For how many milliseconds an isolate spends what it reserved ahead for a busy key; 0 if it reserves nothing ahead.
    pub slice_ms: u32,
}

/// What happens to a request whose tenant's ledger does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// 503: nobody spends what cannot be counted.
    #[default]
    Deny,
    /// It goes on, uncounted.
    Allow,
}

impl Read<'_> for OnFailure {
    fn read(json: &RawValue) -> Result<Self, String> {
        one_of(json, &[("deny", Self::Deny), ("allow", Self::Allow)])
    }
}

impl Read<'_> for Quota {
    fn read(json: &RawValue) -> Result<Self, String> {
        let (mut fields, default) = (Fields::of(json), Self::default());
        let quota = Self {
            enabled: fields.or("enabled", default.enabled),
            on_failure: fields.or("on_failure", default.on_failure),
            reserve_timeout_ms: fields.or("reserve_timeout_ms", default.reserve_timeout_ms),
            lease_ms: fields.or("lease_ms", default.lease_ms),
            slice_ms: fields.or("slice_ms", default.slice_ms),
        };
        fields.all_made(quota)
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self { enabled: true, on_failure: OnFailure::Deny, reserve_timeout_ms: 2000, lease_ms: 300_000, slice_ms: 1000 }
    }
}

/// Which browsers' pages may call the gateway.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Origins such as `https://app.example.com`, or `*` for all.
    pub origins: Vec<String>,
}

impl Read<'_> for Cors {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let cors = Self { origins: fields.required("origins", Vec::new()) };
        fields.all_made(cors)
    }
}

impl Cors {
    /// What `access-control-allow-origin` says to a page of `origin`; nothing if it may not call.
    #[must_use]
    pub fn allow<'a>(&self, origin: &'a str) -> Option<&'a str> {
        if self.origins.iter().any(|allowed| allowed == "*") {
            Some("*")
        } else {
            self.origins.iter().any(|allowed| allowed == origin).then_some(origin)
        }
    }
}

impl Read<'_> for GatewayConfig {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let config = Self {
            version: fields.required("version", 0),
            upstreams: fields.required("upstreams", BTreeMap::new()),
            models: fields.required("models", BTreeMap::new()),
            limits: fields.or("limits", Limits::default()),
            cors: fields.optional("cors"),
            quota: fields.or("quota", Quota::default()),
            keepalive_ms: fields.or("keepalive_ms", KEEPALIVE_MS),
            observe: fields.or("observe", Observe::default()),
            breaker: fields.or("breaker", BreakerPolicy::default()),
            retry: fields.or("retry", RetryPolicy::default()),
        };
        fields.all_made(config)
    }
}

impl GatewayConfig {
    /// Reads and checks a document. The error says what is wrong, and where.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        let config: Self = fields::parse(document)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.version != 1 {
            return Err(format!("version: expected 1, but got {}", self.version));
        }
        for (name, upstream) in &self.upstreams {
            if name.is_empty() || name.contains(char::is_control) {
                return Err(format!("upstreams.{name:?}: expected a name without control characters"));
            }
            upstream.check().map_err(|why| format!("upstreams.{name}.{why}"))?;
        }
        for (name, model) in &self.models {
            if name.is_empty() || name.chars().count() > 256 {
                return Err(format!("models.{name}: a model's name has 1 to 256 characters"));
            }
            model.check(&self.upstreams).map_err(|why| format!("models.{name}.{why}"))?;
        }
        self.breaker.check().map_err(|why| format!("breaker.{why}"))?;
        self.retry.check().map_err(|why| format!("retry.{why}"))?;
        if (1..MIN_KEEPALIVE_MS).contains(&self.keepalive_ms) {
            return Err(format!("keepalive_ms: expected 0, or at least {MIN_KEEPALIVE_MS}"));
        }
        let Quota { reserve_timeout_ms, lease_ms, slice_ms, .. } = self.quota;
        if reserve_timeout_ms == 0 {
            return Err("quota.reserve_timeout_ms: expected at least 1".to_owned());
        }
        if lease_ms < 1000 {
            return Err(format!("quota.lease_ms: expected at least 1000, but got {lease_ms}"));
        }
        if slice_ms > MAX_SLICE_MS {
            return Err(format!("quota.slice_ms: expected at most {MAX_SLICE_MS}, but got {slice_ms}"));
        }
        let Limits { max_body_bytes, max_answer_bytes, max_event_bytes, max_parallel_calls } = self.limits;
        if !(1..=MAX_PARALLEL_CALLS).contains(&max_parallel_calls) {
            return Err(format!(
                "limits.max_parallel_calls: expected 1 to {MAX_PARALLEL_CALLS}, but got {max_parallel_calls}"
            ));
        }
        for (name, value) in [
            ("max_body_bytes", max_body_bytes),
            ("max_answer_bytes", max_answer_bytes),
            ("max_event_bytes", max_event_bytes),
        ] {
            if !(1024..=MAX_BYTES).contains(&value) {
                return Err(format!("limits.{name}: expected 1024 to {MAX_BYTES}, but got {value}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{
        "version": 1,
        "upstreams": {"u": {"dialect": "openai-chat", "base_url": "https://models.example.net/v1", "key": "U_KEY"}},
        "models": {"m": {"targets": [{"upstream": "u", "model": "llama"}]}}
    }"#;

    fn check_refused(from: &str, to: &str, reason: &str) {
        assert!(GOOD.contains(from), "{from}");
        let error = GatewayConfig::parse(GOOD.replace(from, to).as_bytes()).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn defaults_fill_what_a_document_leaves_out() {
        let config = GatewayConfig::parse(GOOD.as_bytes()).unwrap();
        let (upstream, model) = (&config.upstreams["u"], &config.models["m"]);
        assert!(upstream.stream_usage);
        assert_eq!(upstream.headers_timeout_ms, 60_000);
        assert_eq!(upstream.max_tokens_field, MaxTokensField::MaxTokens);
        assert_eq!((model.default_max_tokens, model.owned_by.as_str()), (16, "completions-edge"));
        assert_eq!(config.limits.max_body_bytes, 8_388_608);
        assert!(config.cors.is_none());
        assert_eq!((config.breaker, config.retry), (BreakerPolicy::default(), RetryPolicy::default()));
    }

    #[test]
    fn the_checked_in_default_is_good() {
        GatewayConfig::parse(include_bytes!("../../config/dev.json")).unwrap();
    }

    #[test]
    fn a_broken_document_is_refused_with_the_reason() {
        check_refused("\"version\": 1", "\"version\": 2", "version: expected 1");
        check_refused("openai-chat", "telepathy", "telepathy");
        check_refused("https://models", "ftp://models", "upstreams.u.base_url: expected http:// or https://");
        check_refused("/v1\"", "/v1/\"", "no slash at the end");
        check_refused("/v1\"", "/v1?x=\"", "no query");
        check_refused("https://models", "https://me:pw@models", "no query, fragment, user");
        check_refused("\"U_KEY\"", "\"\"", "upstreams.u.key");
        check_refused("\"U_KEY\"", "\"U_KEY\", \"headers_timeout_ms\": 0", "headers_timeout_ms");
        check_refused("\"U_KEY\"", "\"U_KEY\", \"colour\": 1", "colour");
        check_refused(
            "\"upstream\": \"u\"",
            "\"upstream\": \"v\"",
            "models.m.targets[0].upstream: there is no upstream `v`",
        );
        check_refused(
            "\"U_KEY\"",
            "\"U_KEY\", \"region\": \"us-east-1\"",
            "upstreams.u.region: the dialect `openai-chat`",
        );
        check_refused(
            "\"openai-chat\"",
            "\"azure-openai\"",
            "upstreams.u.api_version: the dialect `azure-openai` needs",
        );
        check_refused(
            "\"openai-chat\"",
            "\"azure-openai\", \"api_version\": \"2024&x\"",
            "upstreams.u.api_version: expected letters",
        );
        check_refused(
            "\"openai-chat\"",
            "\"workers-ai\", \"binding\": \"AI\"",
            "upstreams.u.base_url: there is a binding",
        );
        check_refused(
            "\"key\": \"U_KEY\"",
            "\"region\": \"r\", \"max_tokens_field\": \"max_tokens\"",
            "upstreams.u.region",
        );
        for (override_, reason) in [
            ("\"logprobs\": \"emulated\"", "upstreams.u.capabilities.logprobs: it cannot be emulated here"),
            ("\"suffix\": \"native\"", "upstreams.u.capabilities.suffix: it cannot be native here"),
            ("\"prompt\": \"unsupported\"", "upstreams.u.capabilities.prompt: it cannot be unsupported here"),
            ("\"prompts\": \"unsupported\"", "prompts"),
        ] {
            let field = format!("\"U_KEY\", \"capabilities\": {{{override_}}}");
            check_refused("\"U_KEY\"", &field, reason);
        }
        check_refused("\"targets\"", "\"gather_ms\": 1001, \"targets\"", "models.m.gather_ms: expected at most 1000");
        check_refused("\"targets\"", "\"body\": {\"stream\": true}, \"targets\"", "models.m.body.stream: this field");
        check_refused("\"llama\"", "\"llama\", \"weight\": 0", "models.m.targets[0].weight: expected 1 to 1000");
        check_refused("\"llama\"", "\"\"", "models.m.targets[0].model");
        check_refused("[{\"upstream\": \"u\", \"model\": \"llama\"}]", "[]", "models.m.targets: expected at least one");
        check_refused(
            "\"version\": 1,",
            "\"version\": 1, \"limits\": {\"max_body_bytes\": 3},",
            "limits.max_body_bytes",
        );
        check_refused("\"version\": 1,", "\"version\": 1, \"quota\": {\"lease_ms\": 3},", "quota.lease_ms");
        check_refused("\"version\": 1,", "\"version\": 1, \"quota\": {\"slice_ms\": 10001},", "quota.slice_ms");
        check_refused("\"version\": 1,", "\"version\": 1, \"breaker\": {\"open_ms\": 3},", "breaker.open_ms: expected");
        check_refused("\"version\": 1,", "\"version\": 1, \"breaker\": {\"colour\": 3},", "colour");
        check_refused("\"version\": 1,", "\"version\": 1, \"retry\": {\"max_attempts\": 0},", "retry.max_attempts");
        check_refused("{", "", "trailing characters at line 2");
        assert!(GatewayConfig::parse(b"[]").unwrap_err().contains("expected an object"));
    }

    #[test]
    fn pitfall_37_a_models_name_that_would_leave_its_path_is_refused() {
        for model in ["..", "a/../b", "a//b", "/a", "a/", ".", "a\\u000ab"] {
            check_refused("\"llama\"", &format!("\"{model}\""), "models.m.targets[0].model");
        }
    }

    #[test]
    fn pitfall_38_headers_that_are_not_the_operators_to_set_are_refused() {
        for header in ["host", "authorization", "connection", "proxy-authorization", "x-api-key", "X-Upper", "a b", ""]
        {
            let headers = format!("\"headers\": {{\"{header}\": \"v\"}}, \"targets\"");
            check_refused("\"targets\"", &headers, &format!("models.m.headers.{header}: "));
        }
        check_refused(
            "\"targets\"",
            "\"headers\": {\"x-a\": \"v\\r\\nhost: x\"}, \"targets\"",
            "models.m.headers.x-a: ",
        );
        let good = GOOD.replace("\"targets\"", "\"headers\": {\"http-referer\": \"https://a\"}, \"targets\"");
        GatewayConfig::parse(good.as_bytes()).unwrap();
    }

    #[test]
    fn cors_allows_whom_it_names() {
        let some = Cors { origins: vec!["https://a.example".to_owned()] };
        assert_eq!(some.allow("https://a.example"), Some("https://a.example"));
        assert_eq!(some.allow("https://b.example"), None);
        assert_eq!(Cors { origins: vec!["*".to_owned()] }.allow("https://b.example"), Some("*"));
    }
}
