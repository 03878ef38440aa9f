//! The words of the ledger: what it is asked, what it answers, and what it writes down.
//!
//! What is said of each request is written as JSON without names, its fields in their order: names made up most of what the
//! ledger wrote and read. With names it is understood as well, as all was written once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use super::limits::{Dimension, Limits, Owner};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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
    /// How many more requests of so many tokens the promise should hold: a slice of the quota, of which the asker spends
    /// without asking. In the journal, how many it does hold.
    #[serde(default)]
    pub spare: u64,
    /// Whether the ledger has refused the request before, and is asked again: it was not refused then.
    #[serde(default)]
    pub is_again: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so, and its size is the target's")]
pub(super) const fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Serialize for Reserve {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Each by its name, so that none is forgotten that comes later.
        let Self {
            lease,
            key,
            model,
            prompt_tokens,
            completion_tokens,
            tenant_limits,
            key_limits,
            lease_ms,
            spare,
            is_again,
        } = self;
        let (of_tenant, of_key) = (tenant_limits.in_order(), key_limits.in_order());
        (lease, key, model, prompt_tokens, completion_tokens, of_tenant, of_key, lease_ms, spare, is_again)
            .serialize(serializer)
    }
}

impl Reserve {
    pub(super) fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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
    /// Whether there was no such request after all: it was promised, and nobody heard of that in time.
    #[serde(default)]
    pub unmade: bool,
}

impl Serialize for Settle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { lease, prompt_tokens, completion_tokens, estimated, failed, unmade } = self;
        (lease, prompt_tokens, completion_tokens, estimated, failed, unmade).serialize(serializer)
    }
}

/// What became of a slice so far. All of it is totals since the slice was reserved, so that of several reports the last
/// one says everything, whichever of the others were lost, came late or came twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The promise that is the slice.
    pub lease: String,
    /// Counts up with the totals.
    pub seq: u64,
    /// What is known by now.
    pub totals: Totals,
}

/// What is known of a slice's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// What was used, by model, of the requests that have ended. What was refused is less than nothing: it had been
    /// refused by the ledger, and found room in a slice all the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub usage: BTreeMap<String, UsageCounts>,
    /// The tokens that had been estimated for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub estimated_tokens: u64,
    /// Requests that nobody will make any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unspent_requests: u64,
    /// Tokens that nobody will use any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unspent_tokens: u64,
}

/// An operation that changed the ledger, for the journal.
#[allow(clippy::large_enum_variant, reason = "entries live one at a time, on their way to or from the journal")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// It was admitted.
    Reserve(Reserve),
    /// It ended.
    Settle(Settle),
    /// So much is known of a slice.
    Report(Report),
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
    /// All of this, each at its own time, in milliseconds since 1970.
    Several(Vec<(u64, Entry)>),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// All dimensions have been reserved, for so many more requests than the one.
    Admitted {
        /// At most what was asked for.
        spare: u64,
    },
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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

impl Serialize for Standing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { owner, dimension, limit, remaining, reset_ms } = self;
        (owner, dimension, limit, remaining, reset_ms).serialize(serializer)
    }
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
    /// Requests that were refused. As a change it may be negative: see [`Totals::usage`].
    pub refused: i64,
    /// Requests that failed.
    pub errors: u64,
}

impl UsageCounts {
    /// Counts one request that has ended.
    pub(super) fn end(&mut self, settle: &Settle) {
        self.add(&Self {
            requests: 1,
            prompt_tokens: settle.prompt_tokens,
            completion_tokens: settle.completion_tokens,
            estimated: settle.estimated.into(),
            refused: 0,
            errors: settle.failed.into(),
        });
    }

    /// Adds other counts.
    pub fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(more.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(more.completion_tokens);
        self.estimated = self.estimated.saturating_add(more.estimated);
        self.refused = self.refused.saturating_add(more.refused);
        self.errors = self.errors.saturating_add(more.errors);
    }

    /// What has come to them since they were `before`.
    #[must_use]
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            prompt_tokens: self.prompt_tokens.saturating_sub(before.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_sub(before.completion_tokens),
            estimated: self.estimated.saturating_sub(before.estimated),
            refused: self.refused.saturating_sub(before.refused),
            errors: self.errors.saturating_sub(before.errors),
        }
    }

    /// Of prompts and choices.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
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
