//! What an operator sends: bodies, queries, preconditions.

use serde_json::value::RawValue;

use crate::api::{ApiError, Case, unrecognized};
use crate::fields::{Fields, Read};
use crate::gateway::{Head, ReadError, check_content_type, percent_decoded};
use crate::quota::Limits;

use super::AdminPlatform;

/// The longest body: more than any configuration needs.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The body as it came, if it says that it is JSON.
pub(super) async fn body<P: AdminPlatform>(platform: &P, head: &Head) -> Result<Vec<u8>, ApiError> {
    check_content_type(head)?;
    read(platform).await
}

/// The same where every field is optional, and so the body is, too.
pub(super) async fn optional_body<P: AdminPlatform>(platform: &P, head: &Head) -> Result<Vec<u8>, ApiError> {
    let body = read(platform).await?;
    if body.is_empty() {
        return Ok(b"{}".to_vec());
    }
    check_content_type(head)?;
    Ok(body)
}

async fn read<P: AdminPlatform>(platform: &P) -> Result<Vec<u8>, ApiError> {
    platform.request_body(MAX_BODY_BYTES).await.map_err(|error| match error {
        ReadError::TooLong => ApiError::body_too_large(MAX_BODY_BYTES),
        _ => ApiError::not_json(),
    })
}

/// A body's fields. What is null is as good as absent, in a patch as in a whole record (RFC 7396).
pub(super) fn fields(body: &[u8]) -> Result<Fields<'_>, ApiError> {
    let json: &RawValue = crate::json::from_bytes(body).map_err(|_| ApiError::not_json())?;
    if !json.get().starts_with('{') {
        return Err(ApiError::new(Case::InvalidType, "Invalid body: expected a JSON object."));
    }
    // Half a surrogate pair in a field's name is found only here.
    Fields::read(json).map_err(|_| ApiError::not_json())
}

/// The value of a field, if it is of the right type.
pub(super) fn value<'a, T: Read<'a>>(field: &str, json: &'a RawValue) -> Result<T, ApiError> {
    T::read(json)
        .map_err(|fault| ApiError::new(Case::InvalidType, format!("Invalid value for '{field}'{fault}.")).about(field))
}

/// 400 that names all fields that nobody knows: a misspelt limit is no limit.
pub(super) fn refuse_unknown(fields: &[String]) -> Result<(), ApiError> {
    if fields.is_empty() { Ok(()) } else { Err(unrecognized(&fields.join(", "))) }
}

/// Limits as a field changes them: those that it names, or all if it is null.
pub(super) fn changed_limits(mut limits: Limits, change: &RawValue) -> Result<Limits, ApiError> {
    let change: Option<Fields<'_>> = value("limits", change)?;
    let Some(change) = change else { return Ok(Limits::default()) };
    let mut unknown = Vec::new();
    for (name, json) in change {
        let limit = match name.as_str() {
            "requests_per_minute" => &mut limits.requests_per_minute,
            "tokens_per_minute" => &mut limits.tokens_per_minute,
            "requests_per_day" => &mut limits.requests_per_day,
            "tokens_per_day" => &mut limits.tokens_per_day,
            "tokens_per_month" => &mut limits.tokens_per_month,
            "concurrent_requests" => &mut limits.concurrent_requests,
            _ => {
                unknown.push(format!("limits.{name}"));
                continue;
            }
        };
        *limit = value("limits", json)?;
    }
    refuse_unknown(&unknown)?;
    limits.check().map_err(|why| {
        ApiError::new(Case::IntegerAboveMax, format!("Invalid value for 'limits': {why}.")).about("limits")
    })?;
    Ok(limits)
}

/// The pairs of a query.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// The query of a request whose route knows these parameters.
    pub(super) fn of(head: &Head, known: &[&str]) -> Result<Self, ApiError> {
        let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        };
        let pairs: Vec<_> = head.query.split('&').filter(|text| !text.is_empty()).map(pair).collect();
        let is_unknown = |name: &&String| !known.contains(&name.as_str());
        let unknown: Vec<String> = pairs.iter().map(|(name, _)| name).filter(is_unknown).cloned().collect();
        refuse_unknown(&unknown)?;
        Ok(Self(pairs))
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// How many records a page may have.
    pub(super) fn limit(&self) -> Result<u32, ApiError> {
        let Some(text) = self.get("limit") else { return Ok(20) };
        text.parse().ok().filter(|limit| (1..=100).contains(limit)).ok_or_else(|| {
            ApiError::new(Case::Invalid, "Invalid value for 'limit': expected an integer from 1 to 100.").about("limit")
        })
    }
}

/// What has to hold of a record before it is changed (RFC 9110, 13.1).
#[derive(Clone, Copy, Default)]
pub(super) struct Preconditions<'a> {
    if_match: Option<&'a str>,
    if_none_match: Option<&'a str>,
}

impl<'a> Preconditions<'a> {
    pub(super) fn of(head: &'a Head) -> Self {
        Self { if_match: head.if_match.as_deref(), if_none_match: head.if_none_match.as_deref() }
    }

    /// 412 unless they hold of the record, which has this entity tag if it exists.
    pub(super) fn check(self, etag: Option<&str>) -> Result<(), ApiError> {
        let names = |list: &str| {
            list.trim() == "*" && etag.is_some() || list.split(',').any(|listed| Some(listed.trim()) == etag)
        };
        if self.if_match.is_none_or(names) && !self.if_none_match.is_some_and(names) {
            return Ok(());
        }
        let now = etag.map_or_else(|| "it does not exist".to_owned(), |etag| format!("its ETag is {etag}"));
        let message = format!("The record is not what If-Match or If-None-Match demand: {now}.");
        Err(ApiError::new(Case::PreconditionFailed, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions() {
        let check = |if_match, if_none_match, etag| Preconditions { if_match, if_none_match }.check(etag).is_ok();
        let seven = Some("\"7\"");
        assert!(check(None, None, None) && check(None, None, seven));
        for good in ["\"7\"", "*", " * ", "\"6\", \"7\""] {
            assert!(check(Some(good), None, seven), "{good}");
            assert!(!check(None, Some(good), seven), "{good}");
        }
        for bad in ["", "7", "\"6\"", "W/\"7\"", "\"77\""] {
            assert!(!check(Some(bad), None, seven), "{bad}");
            assert!(check(None, Some(bad), seven), "{bad}");
        }
        assert!(!check(Some("*"), None, None));
        assert!(check(None, Some("*"), None));
    }

    #[test]
    fn queries() {
        let query = |text: &str| Query::of(&Head { query: text.to_owned(), ..Head::default() }, &["a", "limit"]);
        let found = query("a=1%2C2+3&limit=5").ok().unwrap();
        assert_eq!((found.get("a"), found.limit()), (Some("1,2 3"), Ok(5)));
        assert_eq!(query("").ok().unwrap().limit(), Ok(20));
        for bad in ["limit=0", "limit=101", "limit=", "limit=x"] {
            assert!(query(bad).ok().unwrap().limit().is_err(), "{bad}");
        }
        assert!(query("a=1&b=2&c").is_err_and(|error| error.message.ends_with("b, c")));
    }
}
