//! What an upstream's refusal or failure means to the client.
//!
//! The upstream's own words reach the client only where the client's request is at fault; else the client is told
//! whose fault it was, in ours.

use std::borrow::Cow;

use crate::api::{ApiError, Case};

use super::Redactor;
use super::json::Raw;

/// A day: what an upstream says beyond it helps nobody.
const MAX_RETRY_AFTER_MS: u64 = 86_400_000;

/// An upstream's error in neutral terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// The HTTP status, or the one that an error inside a 200 stands for.
    pub status: u16,
    /// The upstream's message; may be empty.
    pub message: String,
    /// The upstream's `param`.
    pub param: Option<String>,
    /// The upstream's `code`, where it is a word.
    pub code: Option<String>,
    /// When to try again, from the upstream's headers or its error.
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// An answer that makes no sense, and how; for the log, since a client cannot help it.
    #[must_use]
    pub fn nonsense(what: &str) -> Self {
        Self { status: 502, message: what.to_owned(), ..Self::default() }
    }

    /// Reads the error of an answer with this status: `{"error":{…}}`, `{"error":"…"}`, `{"message":…}`,
    /// `{"detail":…}`, or no JSON at all.
    #[must_use]
    pub fn of_body(status: u16, body: &[u8]) -> Self {
        Self::of_body_and_type(status, body).0
    }

    /// Reads an error that came where the status was 200 already. Its status is told by its code or its type.
    #[must_use]
    pub fn in_stream(data: &[u8]) -> Self {
        let (mut fault, kind) = Self::of_body_and_type(0, data);
        if fault.status == 0 {
            // The code says more than the type: `invalid_request_error` can be anything.
            let words = [fault.code.as_deref(), kind.as_deref()];
            fault.status = words.into_iter().flatten().find_map(status_of_word).unwrap_or(502);
        }
        fault
    }

    /// The error and its `type`. A status of 0 gives way to one that stands in the body.
    fn of_body_and_type(status: u16, body: &[u8]) -> (Self, Option<String>) {
        let read = Raw::read(body, |top| {
            let error = top.field("error");
            let object = if error.is_present() { error } else { top };
            let [message, detail, param, code, kind] = object.fields(["message", "detail", "param", "code", "type"]);
            let message = if error.is_present() && !error.is_object() {
                // An error that is a bare string, or something odder.
                plain(error)
            } else {
                message.text().map_or_else(|| plain(detail), Cow::into_owned)
            };
            // vLLM and llama.cpp put the status there.
            let stated = code.count().and_then(|code| u16::try_from(code).ok());
            let stated = stated.filter(|stated| (400..600).contains(stated)).unwrap_or_default();
            let status = if status == 0 { stated } else { status };
            let text = |raw: Raw<'_>| raw.text().map(Cow::into_owned);
            (Self { status, message, param: text(param), code: text(code), retry_after_ms: None }, text(kind))
        });
        // A web server's page, or nothing: it has no message for anybody.
        read.unwrap_or_else(|| (Self { status, ..Self::default() }, None))
    }

    /// Whether another target might do better.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(self.status, 400 | 404 | 413 | 422)
    }

    /// What the client is told.
    #[must_use]
    pub fn into_api_error(self, redactor: &Redactor) -> ApiError {
        let quota_of_the_account = self.code.as_deref() == Some("insufficient_quota");
        match self.status {
            400 | 404 | 413 | 422 => {
                let message = if self.message.is_empty() {
                    "The upstream refused the request without saying why.".to_owned()
                } else {
                    redactor.redact(&self.message)
                };
                let mut error = ApiError::new(Case::UpstreamRefused(self.status), message);
                error.param = self.param.map(|param| redactor.redact(&param));
                error.code = self.code.map(|code| redactor.redact(&code));
                error
            }
            429 if !quota_of_the_account => {
                // SDKs want to be told. An upstream that does not say gets a second, and none more than a day.
                let retry_after_ms = self.retry_after_ms.unwrap_or(1000).clamp(1000, MAX_RETRY_AFTER_MS);
                ApiError { retry_after_ms: Some(retry_after_ms), ..ApiError::upstream_limited() }
            }
            401..=403 | 429 => ApiError::new(
                Case::UpstreamAuth,
                "The upstream of this model refused the gateway's credentials. The operator has to mend this.",
            ),
            408 | 504 => ApiError::upstream_timeout(),
            // A 503 may say when it is over.
            _ => ApiError {
                retry_after_ms: self.retry_after_ms.map(|ms| ms.min(MAX_RETRY_AFTER_MS)),
                ..ApiError::upstream("The upstream of this model failed to answer.")
            },
        }
    }
}

/// The status that an error's code or type stands for, as servers of this family name them.
fn status_of_word(word: &str) -> Option<u16> {
    let word = word.to_ascii_lowercase();
    let has = |part: &str| word.contains(part);
    if has("rate_limit") || has("ratelimit") || has("insufficient_quota") {
        Some(429)
    } else if has("authentication") || has("api_key") {
        Some(401)
    } else if has("permission") {
        Some(403)
    } else if has("timeout") {
        Some(408)
    } else if has("not_found") || has("notfound") {
        Some(404)
    } else if has("invalid")
        || has("badrequest")
        || has("bad_request")
        || has("context_length")
        || has("content_filter")
    {
        Some(400)
    } else {
        None
    }
}

/// A string's text, or the JSON of what is none.
fn plain(raw: Raw<'_>) -> String {
    raw.text().or_else(|| raw.json().map(Cow::Borrowed)).unwrap_or_default().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_in_stream(data: &str, status: u16, message: &str) {
        let fault = Fault::in_stream(data.as_bytes());
        assert_eq!((fault.status, fault.message.as_str()), (status, message), "{data}");
    }

    #[test]
    fn errors_inside_a_200_have_a_status_of_their_own() {
        check_in_stream(r#"{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}"#, 400, "m");
        check_in_stream(r#"{"object":"error","message":"m","type":"invalid_request_error","code":400}"#, 400, "m");
        check_in_stream(r#"{"error":{"message":"m","type":"invalid_request_error","code":"x"}}"#, 400, "m");
        check_in_stream(r#"{"error":{"message":"m","type":"rate_limit_error"}}"#, 429, "m");
        check_in_stream(r#"{"error":{"message":"m","type":"overloaded_error"}}"#, 502, "m");
        check_in_stream(r#"{"error":{"message":"m","type":"requests","code":"rate_limit_exceeded"}}"#, 429, "m");
        check_in_stream(
            r#"{"error":{"message":"m","type":"invalid_request_error","code":"invalid_api_key"}}"#,
            401,
            "m",
        );
        check_in_stream(r#"{"error":{"message":"m","code":503}}"#, 503, "m");
        check_in_stream(r#"{"error":"m"}"#, 502, "m");
        check_in_stream(r#"{"detail":[{"msg":"m"}]}"#, 502, r#"[{"msg":"m"}]"#);
        check_in_stream("not json", 502, "");
        check_in_stream(r#"{"error":["m"],"code":400}"#, 502, r#"["m"]"#);
        check_in_stream(r#"{"error":{"message":7,"detail":"m","code":"400"}}"#, 502, "m");
        check_in_stream(r#"{"error":null,"message":"m","type":"NotFoundError"}"#, 404, "m");
        check_in_stream(r#"{"error":{"message":"m\ud83d","code":NaN}}"#, 502, "m\u{fffd}");
    }

    fn check_client(status: u16, body: &str, expected: (u16, &str, Option<&str>)) {
        let redactor = Redactor::default();
        let error = Fault::of_body(status, body.as_bytes()).into_api_error(&redactor);
        assert_eq!((error.status(), error.case.row().1, error.code()), expected, "{status} {body}");
    }

    #[test]
    fn what_an_upstreams_status_means_to_the_client() {
        let refused = r#"{"error":{"message":"m","type":"t","param":"p","code":"c"}}"#;
        for status in [400, 404, 413, 422] {
            check_client(status, refused, (status, "invalid_request_error", Some("c")));
        }
        check_client(400, "<html>", (400, "invalid_request_error", None));
        for status in [401, 402, 403] {
            check_client(status, refused, (502, "api_error", Some("upstream_auth_error")));
        }
        check_client(429, refused, (429, "requests", Some("upstream_rate_limited")));
        check_client(
            429,
            r#"{"error":{"message":"m","code":"insufficient_quota"}}"#,
            (502, "api_error", Some("upstream_auth_error")),
        );
        for status in [302, 405, 409, 418, 500, 502, 503, 529] {
            check_client(status, refused, (502, "api_error", Some("upstream_error")));
        }
        for status in [408, 504] {
            check_client(status, refused, (504, "api_error", Some("upstream_timeout")));
        }
    }

    #[test]
    fn only_a_refusal_keeps_the_upstreams_words() {
        let say = |status| {
            Fault::of_body(status, br#"{"error":{"message":"secret words"}}"#)
                .into_api_error(&Redactor::default())
                .message
        };
        assert_eq!(say(400), "secret words");
        for status in [401, 429, 500] {
            assert!(!say(status).contains("secret words"));
        }
    }

    #[test]
    fn pitfall_33_when_to_come_back_is_kept_whatever_the_status() {
        let told = |status, retry_after_ms| {
            let fault = Fault { status, retry_after_ms, ..Fault::default() };
            fault.into_api_error(&Redactor::default()).retry_after_ms
        };
        assert_eq!((told(503, Some(7000)), told(529, None)), (Some(7000), None));
        assert_eq!((told(429, Some(7000)), told(429, None)), (Some(7000), Some(1000)));
        assert_eq!(told(503, Some(u64::MAX)), Some(MAX_RETRY_AFTER_MS));
    }
}
