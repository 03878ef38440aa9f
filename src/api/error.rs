//! The one error shape of the API, and the one table from case to status, type and code.

use std::fmt::Write as _;

use serde::Serialize;

/// Every way a request can fail, as rows of one table: see [`Case::row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// No `Authorization` header, or one that is not `Bearer <key>`.
    NoKey,
    /// The key is unknown, revoked or expired. Which of these is nobody's business.
    InvalidKey,
    /// The key's tenant is suspended.
    TenantSuspended,
    /// The model does not exist, or the key may not use it: one answer, so that names cannot be probed.
    ModelNotFound,
    /// No such path.
    UnknownUrl,
    /// The path exists, the method does not; the error carries `Allow`.
    MethodNotSupported,
    /// The body is over the limit.
    BodyTooLarge,
    /// The content type is not JSON, or the body is encoded.
    UnsupportedMedia,
    /// The request is wrong in a way that has no code of its own.
    Invalid,
    /// A required parameter is absent.
    MissingParameter,
    /// A parameter of the wrong JSON type.
    InvalidType,
    /// An integer under its range.
    IntegerBelowMin,
    /// An integer over its range.
    IntegerAboveMax,
    /// A number under its range.
    DecimalBelowMin,
    /// A number over its range.
    DecimalAboveMax,
    /// An array with too many elements.
    ArrayAboveMax,
    /// An array with too few elements.
    ArrayBelowMin,
    /// A string that is too long.
    StringAboveMax,
    /// The target's dialect cannot carry the parameter.
    UnsupportedParameter,
    /// The target's dialect carries the parameter, but not this value of it.
    UnsupportedValue,
    /// The key or its tenant has no request left for now.
    RequestsLimited,
    /// The key or its tenant has not so many tokens left for now.
    TokensLimited,
    /// Too many requests at once.
    ConcurrencyLimited,
    /// The day's or the month's quota is used up. Trying again at once is pointless.
    QuotaExhausted,
    /// The request alone is more than a limit: it can never be admitted.
    ExceedsLimit,
    /// There is no such record.
    RecordNotFound,
    /// The record is there already, or is in no state for what was asked.
    Conflict,
    /// The record is not what the request's preconditions demand.
    PreconditionFailed,
    /// What keeps the records does not answer.
    RecordsUnavailable,
    /// The ledger does not answer, and the policy is to deny.
    QuotaUnavailable,
    /// This address has shown too many keys that open nothing.
    TooManyFailures,
    /// The upstream refused the request with this status (400, 404, 413 or 422); code and param are the upstream's.
    UpstreamRefused(u16),
    /// The upstream refused the gateway's own key or account.
    UpstreamAuth,
    /// The upstream limits the gateway; the error carries its `Retry-After`.
    UpstreamLimited,
    /// The upstream is unreachable, failed, or answered nonsense.
    UpstreamError,
    /// The upstream's stream ended before its own terminal event.
    UpstreamIncomplete,
    /// The upstream's answer is longer than the gateway takes.
    UpstreamTooLong,
    /// The upstream took too long.
    UpstreamTimeout,
    /// Every target is passed over, since it failed too often; the error carries `Retry-After`.
    UpstreamUnavailable,
    /// Our own fault.
    Internal,
}

impl Case {
    /// `(status, type, code)` of the case: the table of the API's errors.
    #[must_use]
    pub const fn row(self) -> (u16, &'static str, Option<&'static str>) {
        const REQUEST: &str = "invalid_request_error";
        const API: &str = "api_error";
        match self {
            Self::NoKey => (401, REQUEST, None),
            Self::InvalidKey => (401, REQUEST, Some("invalid_api_key")),
            Self::TenantSuspended => (403, REQUEST, Some("account_suspended")),
            Self::ModelNotFound => (404, REQUEST, Some("model_not_found")),
            Self::UnknownUrl => (404, REQUEST, Some("unknown_url")),
            Self::MethodNotSupported => (405, REQUEST, Some("method_not_supported")),
            Self::BodyTooLarge => (413, REQUEST, Some("request_too_large")),
            Self::UnsupportedMedia => (415, REQUEST, Some("unsupported_media_type")),
            Self::Invalid => (400, REQUEST, None),
            Self::MissingParameter => (400, REQUEST, Some("missing_required_parameter")),
            Self::InvalidType => (400, REQUEST, Some("invalid_type")),
            Self::IntegerBelowMin => (400, REQUEST, Some("integer_below_min_value")),
            Self::IntegerAboveMax => (400, REQUEST, Some("integer_above_max_value")),
            Self::DecimalBelowMin => (400, REQUEST, Some("decimal_below_min_value")),
            Self::DecimalAboveMax => (400, REQUEST, Some("decimal_above_max_value")),
            Self::ArrayAboveMax => (400, REQUEST, Some("array_above_max_length")),
            Self::ArrayBelowMin => (400, REQUEST, Some("array_below_min_length")),
            Self::StringAboveMax => (400, REQUEST, Some("string_above_max_length")),
            Self::UnsupportedParameter => (400, REQUEST, Some("unsupported_parameter")),
            Self::UnsupportedValue => (400, REQUEST, Some("unsupported_value")),
            Self::RequestsLimited | Self::TooManyFailures => (429, "requests", Some("rate_limit_exceeded")),
            Self::TokensLimited => (429, "tokens", Some("rate_limit_exceeded")),
            Self::ConcurrencyLimited => (429, "concurrency", Some("rate_limit_exceeded")),
            Self::QuotaExhausted => (429, "insufficient_quota", Some("insufficient_quota")),
            Self::ExceedsLimit => (400, REQUEST, Some("request_exceeds_limit")),
            Self::RecordNotFound => (404, REQUEST, Some("not_found")),
            Self::Conflict => (409, REQUEST, Some("conflict")),
            Self::PreconditionFailed => (412, REQUEST, Some("precondition_failed")),
            Self::RecordsUnavailable => (503, API, Some("records_unavailable")),
            Self::QuotaUnavailable => (503, API, Some("quota_unavailable")),
            Self::UpstreamRefused(status) => (status, REQUEST, None),
            Self::UpstreamAuth => (502, API, Some("upstream_auth_error")),
            Self::UpstreamLimited => (429, "requests", Some("upstream_rate_limited")),
            Self::UpstreamError | Self::UpstreamTooLong => (502, API, Some("upstream_error")),
            Self::UpstreamIncomplete => (502, API, Some("upstream_incomplete")),
            Self::UpstreamUnavailable => (503, API, Some("upstream_unavailable")),
            Self::UpstreamTimeout => (504, API, Some("upstream_timeout")),
            Self::Internal => (500, "server_error", Some("internal_error")),
        }
    }
}

/// A failure as the client sees it. It holds nothing secret: whoever builds one has redacted its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The row of the table.
    pub case: Case,
    /// A sentence for people.
    pub message: String,
    /// The parameter at fault, by its top-level name.
    pub param: Option<String>,
    /// A code that stands in for the row's: only an upstream's own refusal has one.
    pub code: Option<String>,
    /// The methods of the path, for `Allow`.
    pub allow: Option<&'static str>,
    /// Milliseconds after which trying again makes sense.
    pub retry_after_ms: Option<u64>,
}

impl ApiError {
    /// An error of `case` that says `message`.
    #[must_use]
    pub fn new(case: Case, message: impl Into<String>) -> Self {
        Self { case, message: message.into(), param: None, code: None, allow: None, retry_after_ms: None }
    }

    /// The same, with the parameter at fault.
    #[must_use]
    pub fn about(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// 400: the model's dialect carries `param`, but only as `bounds` says: "must be from 0 to 1".
    #[must_use]
    pub fn unsupported_value(param: &str, model: &str, bounds: &str) -> Self {
        let message = format!("Unsupported value: '{param}' {bounds} with the model `{model}`.");
        Self::new(Case::UnsupportedValue, message).about(param)
    }

    /// 429: the upstream limits the gateway.
    #[must_use]
    pub fn upstream_limited() -> Self {
        Self::new(Case::UpstreamLimited, "The upstream of this model is at its rate limit. Try again later.")
    }

    /// 504: the upstream let us wait too long, for its headers, its first text, or its next one.
    #[must_use]
    pub fn upstream_timeout() -> Self {
        Self::new(Case::UpstreamTimeout, "The upstream of this model took too long.")
    }

    /// 401: there is no usable `Authorization` header.
    #[must_use]
    pub fn no_key() -> Self {
        Self::new(
            Case::NoKey,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer \
             auth (i.e. Authorization: Bearer YOUR_KEY).",
        )
    }

    /// 401: the key opens nothing. The key is not repeated.
    #[must_use]
    pub fn invalid_key() -> Self {
        Self::new(Case::InvalidKey, "Incorrect API key provided.")
    }

    /// 403: the account is switched off.
    #[must_use]
    pub fn suspended() -> Self {
        Self::new(Case::TenantSuspended, "This account is suspended. Please contact the operator of this service.")
    }

    /// 404: the model is unknown, or not this key's to use.
    #[must_use]
    pub fn model_not_found(model: &str) -> Self {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Self::new(Case::ModelNotFound, message).about("model")
    }

    /// 404: nothing lives at this path.
    #[must_use]
    pub fn unknown_url(method: &str, path: &str) -> Self {
        Self::new(Case::UnknownUrl, format!("Invalid URL ({method} {path})"))
    }

    /// 405: the path has other methods, named in `allow`.
    #[must_use]
    pub fn method_not_supported(method: &str, path: &str, allow: &'static str) -> Self {
        let message =
            format!("Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP method?)");
        Self { allow: Some(allow), ..Self::new(Case::MethodNotSupported, message) }
    }

    /// 413: the body is longer than `limit` bytes.
    #[must_use]
    pub fn body_too_large(limit: usize) -> Self {
        Self::new(Case::BodyTooLarge, format!("Maximum content size limit ({limit} bytes) exceeded"))
    }

    /// 400: the body is not JSON.
    #[must_use]
    pub fn not_json() -> Self {
        Self::new(
            Case::Invalid,
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP \
             library correctly. The API expects a JSON payload, but what was sent was not valid JSON.)",
        )
    }

    /// 500: we are at fault. What happened belongs in the log, not in the answer.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Case::Internal, "The server had an error processing your request. Sorry about that!")
    }

    /// 502: the upstream failed in a way that is neither the client's fault nor its business.
    #[must_use]
    pub fn upstream(message: &str) -> Self {
        Self::new(Case::UpstreamError, message)
    }

    /// 503: nobody knows what is left.
    #[must_use]
    pub fn quota_unavailable() -> Self {
        Self::new(Case::QuotaUnavailable, "The quota of this account cannot be checked right now. Please try again.")
    }

    /// 429: keys are being guessed from this address, and slowly at that from now on.
    #[must_use]
    pub fn too_many_failures() -> Self {
        let message = "Too many requests with an incorrect API key from this address. Please try again in a minute.";
        Self { retry_after_ms: Some(60_000), ..Self::new(Case::TooManyFailures, message) }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.case.row().0
    }

    /// The code that the client reads.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref().or(self.case.row().2)
    }

    /// The error as JSON: one key, `error`, and the four keys of every error under it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let shape = Shape {
            error: Body {
                message: &self.message,
                r#type: self.case.row().1,
                param: self.param.as_deref(),
                code: self.code(),
            },
        };
        // Strings and options of strings always serialize; the fallback keeps a panic out of the request path.
        serde_json::to_string(&shape).unwrap_or_default()
    }

    /// `retry-after` in whole seconds, rounded up and at least 1, as RFC 9110 has it.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after_ms.map(|ms| ms.div_ceil(1000).max(1))
    }

    /// The error as it ends a stream: one event, then the end mark, and nothing after.
    pub fn write_event(&self, out: &mut Vec<u8>) {
        let mut event = String::new();
        // Writing into a String cannot fail.
        let _ = write!(event, "data: {}\n\ndata: [DONE]\n\n", self.to_json());
        out.extend_from_slice(event.as_bytes());
    }
}

#[derive(Serialize)]
struct Shape<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_keys_are_always_there() {
        assert_eq!(
            ApiError::new(Case::Invalid, "no \"luck\"").to_json(),
            r#"{"error":{"message":"no \"luck\"","type":"invalid_request_error","param":null,"code":null}}"#
        );
        assert_eq!(
            ApiError::model_not_found("x").to_json(),
            "{\"error\":{\"message\":\"The model `x` does not exist or you do not have access to it.\",\
             \"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}"
        );
    }

    #[test]
    fn an_upstreams_own_code_stands_in_for_the_rows() {
        let mut error = ApiError::new(Case::UpstreamRefused(422), "too long");
        assert_eq!((error.status(), error.code()), (422, None));
        error.code = Some("context_length_exceeded".to_owned());
        assert_eq!(error.code(), Some("context_length_exceeded"));
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        let after = |ms| ApiError { retry_after_ms: Some(ms), ..ApiError::internal() }.retry_after_seconds();
        assert_eq!([after(0), after(1), after(1000), after(1001)], [Some(1), Some(1), Some(1), Some(2)]);
    }

    #[test]
    fn an_error_event_has_error_as_its_only_key_and_ends_the_stream() {
        let mut out = Vec::new();
        ApiError::internal().write_event(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("data: {\"error\":{\"message\":"));
        assert!(text.ends_with("}}\n\ndata: [DONE]\n\n"));
    }
}
