//! How each family of upstreams speaks: our request into theirs, their answers into neutral events.
//!
//! A dialect is one file: a URL, an auth header, a request body, a framing, and three decoders. What it can carry
//! stands in its [`Capabilities`], which drives what requests are refused and what `/v1/models` says.

mod anthropic;
mod azure_openai;
mod bedrock;
mod capability;
mod cohere;
mod fault;
mod gemini;
pub mod json;
mod llama_cpp;
mod logprobs;
mod message;
mod mistral_fim;
mod ollama;
mod openai_chat;
mod openai_completions;
mod openai_wire;
mod path;
mod redact;
mod seeds;
mod share;
mod sigv4;
#[cfg(test)]
mod testing;
mod tgi;
mod workers_ai;

use std::borrow::Cow;
use std::fmt::Debug;

use serde::Deserialize;

use crate::api::{Answer, ApiError, CompletionRequest, FinishReason, Logprobs, Prompt};
use crate::config::{Target, Upstream};
use crate::framing::{Frame, Framing};

pub use capability::{Abilities, Capabilities, Parameter, Stops, Support, refuse_unsupported};
pub use fault::Fault;
pub use redact::Redactor;
pub use seeds::Seeds;
pub use share::{Bounds, Part, Share, split};

macro_rules! dialects {
    ($($variant:ident, $name:literal => $dialect:path, $doc:literal;)*) => {
        /// The dialects by name, as the configuration writes them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        pub enum DialectName { $(#[doc = $doc] #[serde(rename = $name)] $variant,)* }

        impl DialectName {
            /// Every dialect, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that the configuration has for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The dialect of that name.
            #[must_use]
            pub fn dialect(self) -> &'static dyn Dialect {
                match self { $(Self::$variant => &$dialect,)* }
            }
        }
    };
}

// A new provider adds a row here.
dialects! {
    OpenaiCompletions, "openai-completions" => openai_completions::OpenAiCompletions,
        "Upstreams that serve `/v1/completions` themselves.";
    OpenaiChat, "openai-chat" => openai_chat::OpenAiChat, "Upstreams that serve `/v1/chat/completions` only.";
    AzureOpenai, "azure-openai" => azure_openai::AzureOpenAi, "Azure OpenAI's completions route.";
    AzureOpenaiChat, "azure-openai-chat" => azure_openai::AzureOpenAiChat, "Azure OpenAI's chat route.";
    Anthropic, "anthropic" => anthropic::Anthropic, "Anthropic's Messages API.";
    Gemini, "gemini" => gemini::Gemini, "Google's Gemini API.";
    Bedrock, "bedrock" => bedrock::Bedrock, "Amazon Bedrock's Converse API.";
    Cohere, "cohere" => cohere::Cohere, "Cohere's Chat API, version 2.";
    MistralFim, "mistral-fim" => mistral_fim::MistralFim, "Mistral's API for code between a prefix and a suffix.";
    WorkersAi, "workers-ai" => workers_ai::WorkersAi, "Cloudflare Workers AI, by its binding or its REST API.";
    Ollama, "ollama" => ollama::Ollama, "Ollama's own API.";
    LlamaCpp, "llama-cpp" => llama_cpp::LlamaCpp, "llama.cpp's server by its own routes.";
    Tgi, "tgi" => tgi::Tgi, "Text Generation Inference by its own routes.";
}

/// All that a dialect may need to write one upstream call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The checked request; what the dialect cannot carry has been refused before.
    pub request: &'a CompletionRequest<'a>,
    /// Where it goes.
    pub upstream: &'a Upstream,
    /// The upstream's name for the model.
    pub target: &'a Target,
    /// What the model's configuration says besides.
    pub model: &'a crate::config::Model,
    /// The upstream's key, if it wants one.
    pub secret: Option<&'a str>,
    /// The `traceparent` that the upstream is sent: the client's trace, with a span of ours.
    pub traceparent: Option<&'a str>,
    /// Milliseconds since 1970, for signatures.
    pub now_ms: u64,
}

impl Call<'_> {
    /// The tokens that a choice may have: as asked for, else as the model's configuration has it, else the API's 16.
    /// It is always sent on, since upstreams have defaults of their own, and some have none.
    #[must_use]
    pub fn max_tokens(&self) -> u32 {
        self.request.max_tokens.unwrap_or(self.model.default_max_tokens)
    }

    /// The prompt of a dialect that takes one text a call. Such a dialect says so in its capabilities, so that several
    /// prompts have become several calls, and token numbers were refused.
    #[must_use]
    pub fn prompt_text(&self) -> &str {
        match &self.request.prompt {
            Prompt::Text(text) => text,
            Prompt::Texts(texts) => texts.first().map(|text| &**text).unwrap_or_default(),
            Prompt::Tokens(_) | Prompt::TokenLists(_) => "",
        }
    }

    /// Writes a call to `route` under the upstream's base URL, with `credentials` besides the headers of every call.
    /// `body` gets the operator's own fields, where the dialect has not written them already.
    #[must_use]
    pub fn post(
        &self,
        route: &str,
        credentials: Option<(&'static str, String)>,
        body: json::Object,
    ) -> UpstreamRequest {
        UpstreamRequest {
            destination: Destination::Url(format!("{}{route}", self.upstream.base_url)),
            headers: self.headers(credentials),
            body: body.fill(&self.model.body).finish(),
        }
    }

    /// The bearer header, where the upstream has a key.
    #[must_use]
    pub fn bearer(&self) -> Option<(&'static str, String)> {
        self.secret.map(|secret| ("authorization", format!("Bearer {secret}")))
    }

    /// The headers of a call: what every call has, `credentials`, and the operator's own.
    #[must_use]
    pub fn headers(&self, credentials: Option<(&'static str, String)>) -> Vec<(Cow<'static, str>, String)> {
        let accept = if self.request.stream { self.framing().media_type() } else { "application/json" };
        let fixed = [
            ("content-type", "application/json".to_owned()),
            ("accept", accept.to_owned()),
            // A compressed stream arrives in blocks, and tokens late.
            ("accept-encoding", "identity".to_owned()),
        ];
        let trace = self.traceparent.map(|trace| ("traceparent", trace.to_owned()));
        let own = fixed.into_iter().chain(credentials).chain(trace).map(|(name, value)| (Cow::Borrowed(name), value));
        let operators = self.model.headers.iter().map(|(name, value)| (Cow::Owned(name.clone()), value.clone()));
        own.chain(operators).collect()
    }

    fn framing(&self) -> Framing {
        self.upstream.dialect.dialect().framing()
    }
}

/// Where a call goes. It comes from the configuration alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An absolute URL.
    Url(String),
    /// The Worker's own binding to Workers AI.
    Ai {
        /// The binding's name.
        binding: String,
        /// The model to run.
        model: String,
    },
}

/// One upstream call, ready to be sent: always a POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamRequest {
    /// Where it goes.
    pub destination: Destination,
    /// All headers that go out, names in lower case.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl UpstreamRequest {
    /// The URL, where it goes to one.
    #[must_use]
    pub fn url(&self) -> &str {
        match &self.destination {
            Destination::Url(url) => url,
            Destination::Ai { .. } => "",
        }
    }
}

/// What an upstream's frame says, in neutral terms.
#[derive(Debug)]
pub enum Event<'a> {
    /// A part of one choice.
    Delta {
        /// The choice, as the upstream numbers it.
        index: u32,
        /// What it adds; may be empty.
        text: &'a str,
        /// Of the tokens in `text`; without `text_offset` where the upstream has none.
        logprobs: Option<Logprobs>,
        /// If the choice ends here.
        finish_reason: Option<FinishReason>,
    },
    /// A count of tokens. Later ones replace earlier ones, field by field: reports are cumulative.
    Usage(UsageReport),
    /// The same of one choice alone, of several.
    UsageOf {
        /// The choice, as the upstream numbers it.
        index: u32,
        /// Its tokens, and those of its prompt.
        report: UsageReport,
    },
    /// The upstream says that it failed.
    Failed(Fault),
    /// The frame is not in this dialect at all.
    Malformed,
    /// The dialect's own end of the stream: what was to be said has been said.
    End,
}

/// Tokens as an upstream reports them; a field that it leaves out is not a zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageReport {
    /// Of the prompts.
    pub prompt_tokens: Option<u64>,
    /// Of the choices.
    pub completion_tokens: Option<u64>,
}

impl UsageReport {
    /// Takes a later report, which replaces this one field by field.
    pub fn update(&mut self, later: Self) {
        self.prompt_tokens = later.prompt_tokens.or(self.prompt_tokens);
        self.completion_tokens = later.completion_tokens.or(self.completion_tokens);
    }
}

/// Which of an upstream's fields that most have no use for a dialect makes use of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `api_version`, which it then needs.
    pub api_version: bool,
    /// `region`.
    pub region: bool,
    /// `binding`.
    pub binding: bool,
}

/// A family of upstreams.
pub trait Dialect: Sync + Debug {
    /// What the dialect can carry.
    fn capabilities(&self) -> &'static Capabilities;

    /// Which fields of an upstream's configuration are for it.
    fn options(&self) -> Options {
        Options::default()
    }

    /// How its streams are framed.
    fn framing(&self) -> Framing;

    /// Writes the upstream call. An error is the client's: what it asked for cannot be said in this dialect.
    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError>;

    /// A decoder for one stream.
    fn decoder(&self) -> Box<dyn StreamDecoder>;

    /// Reads a whole answer that came with a status of 2xx.
    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault>;

    /// Reads an answer of any other status.
    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        Fault::of_body(status, body)
    }

    /// Reads what a binding threw in place of an answer.
    fn decode_thrown(&self, text: &str) -> Fault {
        Fault::nonsense(text)
    }
}

/// Frames to events, for one stream.
pub trait StreamDecoder: Debug {
    /// Tells what the next frame says.
    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>));

    /// Whether frames may be told by their bytes alone. If a frame brought nothing but a text, and that as it stands in one
    /// of its JSON strings, then the same frame with another text in that string brings that text and nothing else,
    /// whatever came in between, unless it is empty; and neither of them changes the decoder.
    fn repeats(&self) -> bool {
        false
    }

    /// Tells what there is to be told when the body has come to its end, and not by a connection that broke: what a
    /// decoder could not tell before, since more might have followed.
    fn finish(&mut self, _events: &mut dyn FnMut(Event<'_>)) {}
}

/// Reads the JSON of a frame for a decoder; of an empty one, which keeps a connection alive, there is none to read.
fn read_frame(
    frame: Frame<'_>,
    events: &mut dyn FnMut(Event<'_>),
    read: impl FnOnce(json::Raw<'_>, &mut dyn FnMut(Event<'_>)),
) {
    let data = frame.data.trim_ascii();
    if data.is_empty() || json::Raw::read(data, |raw| read(raw, &mut *events)).is_some() {
        return;
    }
    events(if frame.event == b"error" { Event::Failed(Fault::in_stream(data)) } else { Event::Malformed });
}
