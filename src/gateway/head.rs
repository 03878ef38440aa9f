//! The head of a request: what of it concerns us, and what is checked before its body is read.

use crate::api::{ApiError, Case, ChunkFormat};
use crate::hex::hex;

use super::Entropy;
use super::reply::{JSON, Reply};

/// What of a request's head concerns us.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// In upper case.
    pub method: String,
    /// Without the query, percent-encoding as it came.
    pub path: String,
    /// Without its question mark, percent-encoding as it came.
    pub query: String,
    /// `authorization`.
    pub authorization: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// `content-encoding`.
    pub content_encoding: Option<String>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// `x-completions-format`.
    pub format: Option<String>,
    /// `origin`.
    pub origin: Option<String>,
    /// `access-control-request-headers`.
    pub wanted_headers: Option<String>,
    /// `if-match`.
    pub if_match: Option<String>,
    /// `if-none-match`.
    pub if_none_match: Option<String>,
    /// `traceparent`.
    pub traceparent: Option<String>,
}

/// 415 unless the body is JSON, and plainly so.
pub(crate) fn check_content_type(head: &Head) -> Result<(), ApiError> {
    let unsupported = |message: String| Err(ApiError::new(Case::UnsupportedMedia, message));
    if let Some(encoding) = head.content_encoding.as_deref().filter(|encoding| *encoding != "identity") {
        return unsupported(format!("Unsupported content encoding '{encoding}': send the body as it is."));
    }
    let content_type = head.content_type.as_deref().unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == JSON || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    unsupported(format!("Unsupported content type '{content_type}': expected 'application/json'."))
}

pub(super) fn asked_format(name: &str) -> Result<ChunkFormat, ApiError> {
    ChunkFormat::by_name(name).ok_or_else(|| {
        let message =
            "Invalid value for the header 'x-completions-format': expected 'superset', 'documented' or 'openai'.";
        ApiError::new(Case::Invalid, message)
    })
}

/// What a browser asks before it lets a page call us.
pub(super) fn preflight<B>(head: &Head, method: &'static str) -> Reply<B> {
    let mut reply = Reply::no_content();
    reply.header("access-control-allow-methods", method);
    // SDKs send headers of their own (`x-stainless-…`), and none can do harm here.
    let wanted = head.wanted_headers.as_deref().unwrap_or("authorization, content-type");
    reply.header("access-control-allow-headers", wanted.to_owned());
    reply.header("access-control-max-age", "86400");
    reply
}

/// The client's own request id if it is a sane one, else one of ours.
pub(crate) fn request_id(head: &Head, entropy: Entropy) -> String {
    let sane = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    match head.request_id.as_deref().filter(sane) {
        Some(id) => id.to_owned(),
        None => format!("req_{}", hex(entropy.0.get(..16).unwrap_or_default())),
    }
}

/// A path segment as it was meant; an escape that is none stays as it is.
pub(crate) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |hex: u8| char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low, after))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
