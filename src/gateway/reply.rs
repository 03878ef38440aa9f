//! What goes back to the client: status, headers, and a body that is there or is still to come.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::api::{ApiError, Case};
use crate::config::Cors;
use crate::quota::{Standing, rate_headers};
use crate::transcode::Transcoder;

use super::Closing;

/// An answer on its way out.
#[derive(Debug)]
pub struct Reply<B> {
    /// The HTTP status.
    pub status: u16,
    /// All headers, names in lower case. A borrowed value is a constant of the program: it crosses to the runtime once.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body.
    pub body: ReplyBody<B>,
}

/// A reply's body.
#[derive(Debug)]
pub enum ReplyBody<B> {
    /// None at all.
    Empty,
    /// All of it.
    Bytes(Vec<u8>),
    /// All chunks of a stream that was over before it began to be sent. It goes out as a stream does: without a length.
    Chunks(Vec<u8>),
    /// A stream that has begun.
    Stream(Box<StreamBody<B>>),
}

/// A stream of chunks: what is there already, and the pair that makes the rest. Whoever has it reads the upstreams as
/// they come, feeds `transcoder`, and sends on what comes out, until the transcoder is over.
#[derive(Debug)]
pub struct StreamBody<B> {
    /// The first bytes; not empty.
    pub first: Vec<u8>,
    /// Where the rest comes from: the transcoder's sources, by number. None where a source has said all already.
    pub upstreams: Vec<Option<B>>,
    /// What it goes through.
    pub transcoder: Transcoder,
    /// What is to be done when the stream has ended, however it ends.
    pub closing: Closing,
    /// How long the upstreams may be silent.
    pub patience: Patience,
    /// For how long what comes after the first text gathers, in milliseconds; 0 where it goes out as it comes.
    pub gather_ms: u32,
}

/// How long the upstreams of a stream may be silent, in milliseconds. It is their silence only while the client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until the client is sent a comment; 0 for never.
    pub keepalive_ms: u32,
    /// Until a source's first text, from now on.
    pub first_token_ms: u32,
    /// Until the next event of a source that has begun.
    pub idle_ms: u32,
}

/// What a client is sent while its upstream is silent: a comment, which no client takes for an event.
pub(super) const KEEPALIVE: &[u8] = b": keepalive\n\n";

/// The media type of a JSON answer.
pub(crate) const JSON: &str = "application/json";
/// The media type of a stream.
pub(super) const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

impl<B> Reply<B> {
    /// 200 with bytes.
    pub(crate) fn ok(content_type: &'static str, bytes: Vec<u8>) -> Self {
        let mut reply = Self { status: 200, headers: Vec::with_capacity(16), body: ReplyBody::Bytes(bytes) };
        reply.header("content-type", content_type);
        reply
    }

    /// 200 with chunks.
    pub(super) fn stream(body: ReplyBody<B>) -> Self {
        let mut reply = Self { status: 200, headers: Vec::with_capacity(16), body };
        reply.header("content-type", EVENT_STREAM);
        reply.header("cache-control", "no-cache");
        reply
    }

    /// 204.
    pub(crate) fn no_content() -> Self {
        Self { status: 204, headers: Vec::new(), body: ReplyBody::Empty }
    }

    /// The error in its documented shape.
    pub(crate) fn error(error: &ApiError) -> Self {
        let mut reply = Self::ok(JSON, error.to_json().into_bytes());
        reply.status = error.status();
        if let Some(allow) = error.allow {
            reply.header("allow", allow);
        }
        if reply.status == 401 {
            // RFC 9110, 11.6.1: a 401 names the scheme that it wants.
            reply.header("www-authenticate", "Bearer");
        }
        if matches!(error.case, Case::QuotaExhausted | Case::UpstreamAuth) {
            // SDKs retry a 429 and a 5xx by themselves, and these will not change for hours.
            reply.header("x-should-retry", "false");
        }
        if let (Some(seconds), Some(ms)) = (error.retry_after_seconds(), error.retry_after_ms) {
            reply.header("retry-after", seconds.to_string());
            reply.header("retry-after-ms", ms.to_string());
        }
        reply
    }

    pub(crate) fn header(&mut self, name: &'static str, value: impl Into<Cow<'static, str>>) {
        self.headers.push((name, value.into()));
    }

    /// The headers that every answer has.
    pub(crate) fn with_common_headers(mut self, request_id: &str, timing: &Timing, now_ms: u64) -> Self {
        self.header("x-request-id", request_id.to_owned());
        self.header("openai-version", "2020-10-01");
        self.header("openai-processing-ms", now_ms.saturating_sub(timing.began_ms).to_string());
        self.header("server-timing", timing.header());
        self.header("access-control-expose-headers", EXPOSED);
        self
    }

    /// The headers that tell what is left.
    pub(super) fn with_rate_headers(mut self, standings: &[Standing]) -> Self {
        let headers = rate_headers(standings).into_iter();
        self.headers.extend(headers.map(|(name, value)| (name, Cow::from(value))));
        self
    }

    /// The header that lets a browser's page read the answer, if its origin may.
    pub(super) fn with_cors(mut self, cors: Option<&Cors>, origin: Option<&str>) -> Self {
        if let Some(allowed) = cors.zip(origin).and_then(|(cors, origin)| cors.allow(origin)) {
            self.header("access-control-allow-origin", allowed.to_owned());
            if allowed != "*" {
                self.header("vary", "Origin");
            }
        }
        self
    }
}

/// Our own headers, so that pages can read them.
const EXPOSED: &str = "x-request-id, openai-version, openai-processing-ms, server-timing, retry-after, retry-after-ms, \
    x-should-retry, x-upstream-attempts, x-upstream-target, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

/// What took how long, in milliseconds. The runtime's clock stands still while it computes, so these are waits.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "the unit belongs into the name")]
pub(crate) struct Timing {
    /// When the request came, since 1970.
    pub began_ms: u64,
    /// Reading the key's and the tenant's records.
    pub auth_ms: Option<u64>,
    /// Until the upstream's first bytes that mattered.
    pub upstream_ms: Option<u64>,
}

impl Timing {
    /// Of a request that came just now.
    pub(crate) const fn from(began_ms: u64) -> Self {
        Self { began_ms, auth_ms: None, upstream_ms: None }
    }

    fn header(&self) -> String {
        let mut header = String::new();
        for (name, ms) in [("auth", self.auth_ms), ("upstream", self.upstream_ms)] {
            if let Some(ms) = ms {
                let comma = if header.is_empty() { "" } else { ", " };
                // Writing into a String cannot fail.
                let _ = write!(header, "{comma}{name};dur={ms}");
            }
        }
        if header.is_empty() { "edge;dur=0".to_owned() } else { header }
    }
}
