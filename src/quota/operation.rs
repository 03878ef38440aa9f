//! The words of the ledger: what it is asked, what it answers, and what it writes down.

use serde::{Deserialize, Serialize};

use super::limits::{Dimension, Limits, Owner};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// A name for the promise, unique among all of the tenant's; the same name again is the same promise.
    pub lease: String,
    /// The id of the key.
    pub key: String,
    /// The model, for the record of usage.
    pub model: String,
    /// The estimate of the prompts' tokens.
    pub prompt_tokens: u64,
    /// The most tokens that the choices may have.
    pub completion_tokens: u64,
    /// The tenant's limits as of now.
    #[serde(default)]
    pub tenant_limits: Limits,
    /// The key's limits as of now.
    #[serde(default)]
    pub key_limits: Limits,
    /// Milliseconds for which the promise holds, unless it is renewed.
    pub lease_ms: u64,
}

impl Reserve {
    pub(super) fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// The promise.
    pub lease: String,
    /// The prompts' tokens; 0 if no upstream answered.
    pub prompt_tokens: u64,
    /// The choices' tokens.
    pub completion_tokens: u64,
    /// Whether they are estimated, since no upstream counted them.
    #[serde(default)]
    pub estimated: bool,
    /// Whether the request failed.
    #[serde(default)]
    pub failed: bool,
}

/// An operation that changed the ledger, for the journal.
#[expect(clippy::large_enum_variant, reason = "entries live one at a time, on their way to or from the journal")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// It was admitted.
    Reserve(Reserve),
    /// It ended.
    Settle(Settle),
    /// It goes on.
    Renew {
        /// The promise.
        lease: String,
        /// Milliseconds from now.
        lease_ms: u64,
    },
    /// The key opens nothing any more.
    Revoke {
        /// The id of the key.
        key: String,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// All dimensions have been reserved.
    Admitted,
    /// Nothing has been reserved.
    Denied(Denial),
    /// The key has been revoked.
    Revoked,
}

/// Which limit refused, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Whose limit.
    pub owner: Owner,
    /// Which one.
    pub dimension: Dimension,
    /// What it is.
    pub limit: u64,
    /// How much of it is used.
    pub used: u64,
    /// How much the request wants.
    pub requested: u64,
    /// After how many milliseconds the request will be admitted, if no other one comes; `None` if it never will.
    pub retry_after_ms: Option<u64>,
}

/// Where one limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whose limit.
    pub owner: Owner,
    /// Which one.
    pub dimension: Dimension,
    /// What it is.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// After how many milliseconds all of it is left again; 0 for concurrent requests, which nobody can tell.
    pub reset_ms: u64,
}

/// What was used in the calendar window of now, limited or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowUse {
    /// Whose.
    pub owner: Owner,
    /// Of this day, UTC: requests, and tokens with those that are promised.
    pub day: (u64, u64),
    /// Milliseconds until the day is over.
    pub day_ends_in_ms: u64,
    /// Of this month, UTC.
    pub month: (u64, u64),
    /// Milliseconds until the month is over.
    pub month_ends_in_ms: u64,
}

/// What was used on one day, with one key, of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageCounts {
    /// Requests that were admitted and have ended.
    pub requests: u64,
    /// Of all prompts.
    pub prompt_tokens: u64,
    /// Of all choices.
    pub completion_tokens: u64,
    /// Requests whose tokens are estimated.
    pub estimated: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// What usage is counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsageKey {
    /// `2026-01-31`, UTC: the day on which the request was admitted.
    pub day: String,
    /// The id of the key.
    pub key: String,
    /// The model.
    pub model: String,
}
