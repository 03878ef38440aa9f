//! `GET /v1/usage`: what a tenant's own key may know of its quota.

use serde::Serialize;

/// The answer. `O` says whose a limit is, `D` which one.
#[derive(Debug, Serialize)]
pub struct AccountUsage<'a, O, D> {
    /// Always "usage".
    pub object: &'static str,
    /// The tenant's id.
    pub tenant: &'a str,
    /// The key's id.
    pub key: &'a str,
    /// Every limit of tenant and key.
    pub limits: Vec<AccountLimit<O, D>>,
    /// What was used today and this month, limited or not.
    pub windows: Vec<AccountWindow<O>>,
}

/// One limit.
#[derive(Debug, Serialize)]
pub struct AccountLimit<O, D> {
    /// `tenant` or `key`.
    pub owner: O,
    /// `requests_per_minute`, …
    pub limit: D,
    /// What it is.
    pub max: u64,
    /// What of it is used, with what is promised.
    pub used: u64,
    /// What is left.
    pub remaining: u64,
    /// Seconds since 1970 when all of it is left again.
    pub resets_at: u64,
}

/// What was used in one calendar window.
#[derive(Debug, Serialize)]
pub struct AccountWindow<O> {
    /// `tenant` or `key`.
    pub owner: O,
    /// `day` or `month`, UTC.
    pub period: &'static str,
    /// Requests that were admitted.
    pub requests: u64,
    /// Tokens, with those that are promised to requests on their way.
    pub tokens: u64,
    /// Seconds since 1970 when the window is over.
    pub resets_at: u64,
}

/// The answer as JSON.
#[must_use]
pub fn write_usage<O: Serialize, D: Serialize>(usage: &AccountUsage<'_, O, D>) -> Vec<u8> {
    // Plain data always serializes.
    serde_json::to_vec(usage).unwrap_or_default()
}
