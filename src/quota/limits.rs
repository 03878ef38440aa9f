//! The limits that an operator can set, on a tenant and on a key.

use serde::{Deserialize, Serialize};

/// Limits of a tenant or of a key, each optional. A request has to keep all limits of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// A bucket of so many requests, refilled evenly within a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// A bucket of so many tokens, refilled evenly within a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// From midnight to midnight, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_day: Option<u64>,
    /// From midnight to midnight, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    /// Calendar months, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_month: Option<u64>,
    /// Requests at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u64>,
}

/// The largest limit: a bucket counts in units of a 60,000th, and stays far from overflowing with it.
pub const MAX_LIMIT: u64 = 1_000_000_000_000;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// See [`Limits::requests_per_minute`].
    RequestsPerMinute,
    /// See [`Limits::tokens_per_minute`].
    TokensPerMinute,
    /// See [`Limits::requests_per_day`].
    RequestsPerDay,
    /// See [`Limits::tokens_per_day`].
    TokensPerDay,
    /// See [`Limits::tokens_per_month`].
    TokensPerMonth,
    /// See [`Limits::concurrent_requests`].
    ConcurrentRequests,
}

impl Dimension {
    /// Every dimension, the shortest period first.
    pub const ALL: [Self; 6] = [
        Self::RequestsPerMinute,
        Self::TokensPerMinute,
        Self::RequestsPerDay,
        Self::TokensPerDay,
        Self::TokensPerMonth,
        Self::ConcurrentRequests,
    ];

    /// As an error message says it: "requests per min (RPM)".
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests per min (RPM)",
            Self::TokensPerMinute => "tokens per min (TPM)",
            Self::RequestsPerDay => "requests per day (RPD)",
            Self::TokensPerDay => "tokens per day (TPD)",
            Self::TokensPerMonth => "tokens per month",
            Self::ConcurrentRequests => "concurrent requests",
        }
    }

    /// Whether it counts tokens; else it counts requests.
    #[must_use]
    pub const fn counts_tokens(self) -> bool {
        matches!(self, Self::TokensPerMinute | Self::TokensPerDay | Self::TokensPerMonth)
    }
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The tenant's: all its keys together.
    Tenant,
    /// The key's own.
    Key,
}

impl Limits {
    /// The limit in one dimension.
    #[must_use]
    pub const fn get(&self, dimension: Dimension) -> Option<u64> {
        match dimension {
            Dimension::RequestsPerMinute => self.requests_per_minute,
            Dimension::TokensPerMinute => self.tokens_per_minute,
            Dimension::RequestsPerDay => self.requests_per_day,
            Dimension::TokensPerDay => self.tokens_per_day,
            Dimension::TokensPerMonth => self.tokens_per_month,
            Dimension::ConcurrentRequests => self.concurrent_requests,
        }
    }

    /// The limits in the order of their fields, in which they are understood as well.
    pub(super) fn in_order(&self) -> [Option<u64>; 6] {
        Dimension::ALL.map(|dimension| self.get(dimension))
    }

    /// Whether every limit is one that the ledger can keep; the error says which is not.
    pub fn check(&self) -> Result<(), String> {
        for dimension in Dimension::ALL {
            if let Some(limit) = self.get(dimension).filter(|limit| *limit > MAX_LIMIT) {
                return Err(format!("{}: expected at most {MAX_LIMIT}, but got {limit}", dimension.phrase()));
            }
        }
        Ok(())
    }
}
