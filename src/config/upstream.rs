//! A server that models live on.

use serde_json::value::RawValue;

use crate::dialect::{Abilities, DialectName, Options, Parameter, Support};
use crate::fields::{Fields, Read, one_of, read_at};

/// A server that models live on.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// How it speaks.
    pub dialect: DialectName,
    /// `http` or `https`, up to and without the route; no slash at the end. Empty where there is a `binding`.
    pub base_url: String,
    /// The name of the Worker's binding through which it is called, in place of a URL; for `workers-ai` alone.
    pub binding: Option<String>,
    /// Azure's `api-version`, where it wants one.
    pub api_version: Option<String>,
    /// The AWS region to sign calls for. The secret is then `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, with `:SESSION_TOKEN`
    /// behind it for temporary keys. Without a region the secret is a bearer key.
    pub region: Option<String>,
    /// The name of the Worker secret that holds its key. Without it, calls go out unauthenticated.
    pub key: Option<String>,
    /// Whether streams are asked for usage with `stream_options`.
    pub stream_usage: bool,
    /// What the chat route calls its bound on tokens.
    pub max_tokens_field: MaxTokensField,
    /// What this server makes of parameters, where it is less than its dialect: `emulated` or `unsupported`.
    pub capabilities: Vec<(Parameter, Support)>,
    /// Milliseconds from the call until the headers of a stream must have come.
    pub headers_timeout_ms: u32,
    /// Milliseconds from the headers of a stream until its first text.
    pub first_token_timeout_ms: u32,
    /// Milliseconds that a stream which has begun may be silent. Comments do not end a silence, any part of an event
    /// does; time in which the client does not read is none.
    pub idle_timeout_ms: u32,
    /// Milliseconds from the call until an answer that does not stream must be there, whole: its headers come when it
    /// is done. A stream has no such bound.
    pub total_timeout_ms: u32,
}

/// The two names that chat servers have for one parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxTokensField {
    /// What nearly all servers know.
    #[default]
    MaxTokens,
    /// What OpenAI's newer models insist on.
    MaxCompletionTokens,
}

impl MaxTokensField {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// How long an upstream may take for each step, unless the configuration says.
const TIMEOUT_MS: u32 = 60_000;
/// The same for a whole answer.
const TOTAL_TIMEOUT_MS: u32 = 600_000;
/// An hour: a longer silence is nobody's patience.
const MAX_TIMEOUT_MS: u32 = 3_600_000;

impl Read<'_> for MaxTokensField {
    fn read(json: &RawValue) -> Result<Self, String> {
        one_of(json, &[Self::MaxTokens, Self::MaxCompletionTokens].map(|field| (field.as_str(), field)))
    }
}

impl Read<'_> for Upstream {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let upstream = Self {
            dialect: fields.required("dialect", DialectName::OpenaiCompletions),
            base_url: fields.or("base_url", String::new()),
            binding: fields.optional("binding"),
            api_version: fields.optional("api_version"),
            region: fields.optional("region"),
            key: fields.optional("key"),
            stream_usage: fields.or("stream_usage", true),
            max_tokens_field: fields.or("max_tokens_field", MaxTokensField::default()),
            capabilities: fields.or("capabilities", Overrides::default()).0,
            headers_timeout_ms: fields.or("headers_timeout_ms", TIMEOUT_MS),
            first_token_timeout_ms: fields.or("first_token_timeout_ms", TIMEOUT_MS),
            idle_timeout_ms: fields.or("idle_timeout_ms", TIMEOUT_MS),
            total_timeout_ms: fields.or("total_timeout_ms", TOTAL_TIMEOUT_MS),
        };
        fields.all_made(upstream)
    }
}

/// An object from parameter to support.
#[derive(Default)]
struct Overrides(Vec<(Parameter, Support)>);

impl Read<'_> for Overrides {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let mut overrides = Vec::new();
        for parameter in Parameter::ALL {
            if let Some(json) = fields.take(parameter.name()) {
                overrides.push((*parameter, read_at(parameter.name(), json)?));
            }
        }
        fields.all_made(Self(overrides))
    }
}

impl Read<'_> for Support {
    fn read(json: &RawValue) -> Result<Self, String> {
        let all = [Self::Native, Self::Emulated, Self::Unsupported];
        one_of(json, &all.map(|support| (support.as_str(), support)))
    }
}

impl Read<'_> for DialectName {
    fn read(json: &RawValue) -> Result<Self, String> {
        let all: Vec<_> = Self::ALL.iter().map(|dialect| (dialect.name(), *dialect)).collect();
        one_of(json, &all)
    }
}

impl Upstream {
    /// What it can carry.
    #[must_use]
    pub fn abilities(&self) -> Abilities<'_> {
        Abilities { table: self.dialect.dialect().capabilities(), overrides: &self.capabilities }
    }

    /// The fault, beginning with the field that has it.
    pub(super) fn check(&self) -> Result<(), String> {
        let dialect = self.dialect.name();
        let Options { api_version, region, binding } = self.dialect.dialect().options();
        let misplaced = [
            ("api_version", self.api_version.is_some() && !api_version),
            ("region", self.region.is_some() && !region),
            ("binding", self.binding.is_some() && !binding),
        ];
        if let Some((field, _)) = misplaced.into_iter().find(|(_, misplaced)| *misplaced) {
            return Err(format!("{field}: the dialect `{dialect}` has no use for it"));
        }
        if api_version && self.api_version.is_none() {
            return Err(format!("api_version: the dialect `{dialect}` needs it"));
        }
        for (field, value) in [("api_version", &self.api_version), ("region", &self.region), ("binding", &self.binding)]
        {
            let word = |value: &str| value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if value.as_deref().is_some_and(|value| value.is_empty() || !word(value)) {
                return Err(format!("{field}: expected letters, digits, '-', '_' and '.'"));
            }
        }
        if self.binding.is_none() {
            check_base_url(&self.base_url).map_err(|why| format!("base_url: {why}"))?;
        } else if !self.base_url.is_empty() {
            return Err("base_url: there is a binding already".to_owned());
        }
        self.abilities().check().map_err(|why| format!("capabilities.{why}"))?;
        if self.key.as_deref() == Some("") {
            return Err("key: expected the name of a secret, but it is empty".to_owned());
        }
        if self.binding.is_some() && self.key.is_some() {
            return Err("key: a binding needs none".to_owned());
        }
        if self.region.is_some() && self.key.is_none() {
            return Err("key: a region is there to sign calls for, and to sign takes a key".to_owned());
        }
        for (field, ms) in [
            ("headers_timeout_ms", self.headers_timeout_ms),
            ("first_token_timeout_ms", self.first_token_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("total_timeout_ms", self.total_timeout_ms),
        ] {
            if !(1..=MAX_TIMEOUT_MS).contains(&ms) {
                return Err(format!("{field}: expected 1 to {MAX_TIMEOUT_MS}, but got {ms}"));
            }
        }
        Ok(())
    }
}

/// What goes before a route: `http` or `https`, a host, perhaps a path; nothing that would swallow the route.
fn check_base_url(url: &str) -> Result<(), &'static str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or("expected http:// or https://")?;
    if rest.is_empty() || rest.starts_with(['/', ':']) {
        Err("expected a host")
    } else if rest.ends_with('/') {
        Err("expected no slash at the end")
    } else if rest.contains(['?', '#', '@', '\\']) || rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Err("expected no query, fragment, user or white space")
    } else {
        Ok(())
    }
}
