//! What the gateway does about targets that fail: when it passes them over, and when it tries again.

use std::ops::RangeInclusive;

use serde_json::value::RawValue;

use crate::fields::{Fields, Read};

/// When a target that fails is passed over, by what this isolate has seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Whether any target is passed over at all, be it for its failures or because it said `Retry-After`.
    pub enabled: bool,
    /// Milliseconds of the past that count.
    pub window_ms: u32,
    /// How many calls there must be in the window before their failures say anything.
    pub min_calls: u32,
    /// The share of failed calls, in percent, from which on the target is passed over.
    pub failure_rate_percent: u32,
    /// Milliseconds for which it is passed over, before one request may find out whether it is well again.
    pub open_ms: u32,
    /// The most milliseconds of that. Each time that it is not well they double.
    pub max_open_ms: u32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            window_ms: 30_000,
            min_calls: 5,
            failure_rate_percent: 50,
            open_ms: 5000,
            max_open_ms: 60_000,
        }
    }
}

impl Read<'_> for BreakerPolicy {
    fn read(json: &RawValue) -> Result<Self, String> {
        let (mut fields, default) = (Fields::of(json), Self::default());
        let policy = Self {
            enabled: fields.or("enabled", default.enabled),
            window_ms: fields.or("window_ms", default.window_ms),
            min_calls: fields.or("min_calls", default.min_calls),
            failure_rate_percent: fields.or("failure_rate_percent", default.failure_rate_percent),
            open_ms: fields.or("open_ms", default.open_ms),
            max_open_ms: fields.or("max_open_ms", default.max_open_ms),
        };
        fields.all_made(policy)
    }
}

impl BreakerPolicy {
    /// The fault, beginning with the field that has it.
    pub(super) fn check(&self) -> Result<(), String> {
        check_range("window_ms", self.window_ms, 1000..=600_000)?;
        check_range("min_calls", self.min_calls, 1..=10_000)?;
        check_range("failure_rate_percent", self.failure_rate_percent, 1..=100)?;
        check_range("open_ms", self.open_ms, 100..=600_000)?;
        check_range("max_open_ms", self.max_open_ms, self.open_ms..=3_600_000)
    }
}

/// How often a request that failed before its answer began is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a request is tried, all targets together and the first time included.
    pub max_attempts: u32,
    /// How often it is tried at one target, the first time included.
    pub same_target_attempts: u32,
    /// The most milliseconds that a request waits before its second attempt at a target. They double with each one.
    pub base_backoff_ms: u32,
    /// The most milliseconds that it waits before any attempt, unless the upstream asks for more.
    pub max_backoff_ms: u32,
    /// The most milliseconds that it waits in all. An upstream whose `Retry-After` is longer is not tried again.
    pub max_wait_ms: u32,
    /// How many retries there may be for a hundred requests of the last ten seconds.
    pub budget_percent: u32,
    /// How many there may be in ten seconds besides, so that an isolate with few requests can retry at all.
    pub min_retries_per_10s: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            same_target_attempts: 2,
            base_backoff_ms: 100,
            max_backoff_ms: 2000,
            max_wait_ms: 5000,
            budget_percent: 20,
            min_retries_per_10s: 10,
        }
    }
}

impl Read<'_> for RetryPolicy {
    fn read(json: &RawValue) -> Result<Self, String> {
        let (mut fields, default) = (Fields::of(json), Self::default());
        let policy = Self {
            max_attempts: fields.or("max_attempts", default.max_attempts),
            same_target_attempts: fields.or("same_target_attempts", default.same_target_attempts),
            base_backoff_ms: fields.or("base_backoff_ms", default.base_backoff_ms),
            max_backoff_ms: fields.or("max_backoff_ms", default.max_backoff_ms),
            max_wait_ms: fields.or("max_wait_ms", default.max_wait_ms),
            budget_percent: fields.or("budget_percent", default.budget_percent),
            min_retries_per_10s: fields.or("min_retries_per_10s", default.min_retries_per_10s),
        };
        fields.all_made(policy)
    }
}

impl RetryPolicy {
    /// The fault, beginning with the field that has it.
    pub(super) fn check(&self) -> Result<(), String> {
        check_range("max_attempts", self.max_attempts, 1..=10)?;
        check_range("same_target_attempts", self.same_target_attempts, 1..=10)?;
        check_range("base_backoff_ms", self.base_backoff_ms, 1..=60_000)?;
        check_range("max_backoff_ms", self.max_backoff_ms, self.base_backoff_ms..=60_000)?;
        check_range("max_wait_ms", self.max_wait_ms, 0..=60_000)?;
        check_range("budget_percent", self.budget_percent, 0..=100)?;
        check_range("min_retries_per_10s", self.min_retries_per_10s, 0..=10_000)
    }
}

fn check_range(field: &str, value: u32, range: RangeInclusive<u32>) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{field}: expected {} to {}, but got {value}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(document: &str) -> Result<BreakerPolicy, String> {
        let policy: BreakerPolicy = crate::fields::parse(document.as_bytes())?;
        policy.check().map(|()| policy)
    }

    fn retry(document: &str) -> Result<RetryPolicy, String> {
        let policy: RetryPolicy = crate::fields::parse(document.as_bytes())?;
        policy.check().map(|()| policy)
    }

    #[track_caller]
    fn check_refused<T: std::fmt::Debug>(parsed: Result<T, String>, reason: &str) {
        let error = parsed.unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn defaults_fill_what_a_document_leaves_out_and_are_good() {
        assert_eq!(breaker("{}"), Ok(BreakerPolicy::default()));
        assert_eq!(retry("{}"), Ok(RetryPolicy::default()));
        let slow = BreakerPolicy { min_calls: 20, ..BreakerPolicy::default() };
        assert_eq!(breaker(r#"{"min_calls": 20}"#), Ok(slow));
        let off = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
        assert_eq!(retry(r#"{"max_attempts": 1}"#), Ok(off));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        check_refused(breaker(r#"{"windows_ms": 1000}"#), "windows_ms");
        check_refused(breaker(r#"{"window_ms": 999}"#), "window_ms: expected 1000 to 600000, but got 999");
        check_refused(breaker(r#"{"min_calls": 0}"#), "min_calls: expected 1 to 10000");
        check_refused(breaker(r#"{"failure_rate_percent": 0}"#), "failure_rate_percent: expected 1 to 100");
        check_refused(breaker(r#"{"failure_rate_percent": 101}"#), "failure_rate_percent");
        check_refused(breaker(r#"{"open_ms": 0}"#), "open_ms: expected 100");
        check_refused(breaker(r#"{"open_ms": 2000, "max_open_ms": 1000}"#), "max_open_ms: expected 2000 to 3600000");
        check_refused(breaker(r#"{"enabled": 1}"#), "boolean");
        check_refused(retry(r#"{"attempts": 1}"#), "attempts");
        check_refused(retry(r#"{"max_attempts": 0}"#), "max_attempts: expected 1 to 10");
        check_refused(retry(r#"{"same_target_attempts": 11}"#), "same_target_attempts: expected 1 to 10");
        check_refused(retry(r#"{"base_backoff_ms": 0}"#), "base_backoff_ms: expected 1");
        check_refused(retry(r#"{"base_backoff_ms": 3000}"#), "max_backoff_ms: expected 3000 to 60000, but got 2000");
        check_refused(retry(r#"{"max_wait_ms": 60001}"#), "max_wait_ms: expected 0 to 60000");
        check_refused(retry(r#"{"budget_percent": 101}"#), "budget_percent: expected 0 to 100");
        check_refused(retry(r#"{"min_retries_per_10s": -1}"#), "-1");
    }
}
