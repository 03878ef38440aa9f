//! A model that clients may ask for, and the places where it is served.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::api::ChunkFormat;
use crate::fields::{Fields, Read};

use super::Upstream;

/// A model that clients may ask for.
#[derive(Clone, Debug)]
pub struct Model {
    /// Where it is served; at least one. They are tried by their order, and by their weight within one order, until
    /// one answers.
    pub targets: Vec<Target>,
    /// `max_tokens` where a request has none.
    pub default_max_tokens: u32,
    /// The format of chunks, where neither the request nor the key says one.
    pub chunk_format: Option<ChunkFormat>,
    /// For so many milliseconds what a stream says after its first text gathers, to go out at once. 0 for never.
    pub gather_ms: u32,
    /// A system message for chat upstreams.
    pub system: Option<String>,
    /// Headers that calls for this model have besides the dialect's own; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Fields that the bodies of calls for this model have besides those that the dialect writes.
    pub body: serde_json::Map<String, serde_json::Value>,
    /// For `/v1/models`.
    pub owned_by: String,
    /// Seconds since 1970, for `/v1/models`.
    pub created: u64,
}

/// One place where a model is served.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name of the upstream.
    pub upstream: String,
    /// The upstream's name for the model.
    pub model: String,
    /// Lower ones are tried first. Without, it is the target's place in the list, from 0.
    pub order: Option<u32>,
    /// How large a share of the requests it gets first, among the targets of its order: 1 to 1000.
    pub weight: u32,
}

impl Read<'_> for Model {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let model = Self {
            targets: fields.required("targets", Vec::new()),
            default_max_tokens: fields.or("default_max_tokens", 16),
            chunk_format: fields.optional("chunk_format"),
            gather_ms: fields.or("gather_ms", 0),
            system: fields.optional("system"),
            headers: fields.or("headers", BTreeMap::new()),
            body: fields.or("body", serde_json::Map::new()),
            owned_by: fields.or("owned_by", "completions-edge".to_owned()),
            created: fields.or("created", 0),
        };
        fields.all_made(model)
    }
}

impl Read<'_> for Target {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let target = Self {
            upstream: fields.required("upstream", String::new()),
            model: fields.required("model", String::new()),
            order: fields.optional("order"),
            weight: fields.or("weight", 1),
        };
        fields.all_made(target)
    }
}

impl Model {
    /// The fault, beginning with the field that has it.
    pub(super) fn check(&self, upstreams: &BTreeMap<String, Upstream>) -> Result<(), String> {
        if self.targets.is_empty() {
            return Err("targets: expected at least one target".to_owned());
        }
        if self.default_max_tokens == 0 {
            return Err("default_max_tokens: expected at least 1".to_owned());
        }
        if self.gather_ms > MAX_GATHER_MS {
            return Err(format!("gather_ms: expected at most {MAX_GATHER_MS}, but got {}", self.gather_ms));
        }
        for (header, value) in &self.headers {
            check_header(header, value).map_err(|why| format!("headers.{header}: {why}"))?;
        }
        if let Some(field) = RESERVED_FIELDS.iter().find(|field| self.body.contains_key(**field)) {
            return Err(format!("body.{field}: this field is the gateway's own"));
        }
        for (i, target) in self.targets.iter().enumerate() {
            if !upstreams.contains_key(&target.upstream) {
                return Err(format!("targets[{i}].upstream: there is no upstream `{}`", target.upstream));
            }
            target.check().map_err(|why| format!("targets[{i}].{why}"))?;
        }
        Ok(())
    }
}

impl Target {
    /// Its name in logs, and where a word is to be kept about it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.upstream, self.model)
    }

    /// The fault, beginning with the field that has it.
    fn check(&self) -> Result<(), String> {
        // It may stand in a path: what makes a segment is encoded, and these would still not be one.
        let bad = |segment: &str| matches!(segment, "" | "." | "..");
        if self.model.split('/').any(bad) || self.model.contains(char::is_control) {
            return Err("model: expected a name without empty parts, '.', '..' or control characters".to_owned());
        }
        if !(1..=MAX_WEIGHT).contains(&self.weight) {
            return Err(format!("weight: expected 1 to {MAX_WEIGHT}, but got {}", self.weight));
        }
        Ok(())
    }
}

/// More would look like an upstream that hangs.
const MAX_GATHER_MS: u32 = 1000;

/// The largest weight of a target.
const MAX_WEIGHT: u32 = 1000;

/// Headers that are not the operator's to set: those of the connection, of the message's form, and of whoever calls.
/// The upstream's key is a secret, and has no place in the configuration.
const RESERVED_HEADERS: [&str; 18] = [
    "accept",
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-goog-api-key",
];

/// Fields of bodies that decide what comes back, and so are not the operator's to set.
const RESERVED_FIELDS: [&str; 11] = [
    "best_of",
    "contents",
    "echo",
    "inputs",
    "logprobs",
    "messages",
    "model",
    "n",
    "prompt",
    "stream",
    "stream_options",
];

fn check_header(name: &str, value: &str) -> Result<(), &'static str> {
    // RFC 9110, 5.1 and 5.5.
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        Err("expected a header's name in lower case")
    } else if RESERVED_HEADERS.contains(&name) || name.starts_with("proxy-") || name.starts_with("x-amz-") {
        Err("this header is the gateway's own")
    } else if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        Err("expected printable ASCII")
    } else {
        Ok(())
    }
}
