//! A promise: what it holds, for how long, and what is known of it by now.

use serde::{Deserialize, Serialize};

use super::limits::{Limits, Owner};
use super::operation::{Report, Totals, UsageCounts};

/// A promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub key: String,
    pub model: String,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub reserved_ms: u64,
    pub expires_ms: u64,
    /// The largest limits of the buckets since it was made; none where there was a time without one, and nothing of it
    /// is in the bucket.
    pub tenant_tpm: Option<u64>,
    pub key_tpm: Option<u64>,
    /// If it holds for more requests than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
}

/// What of a promise for several requests has not been settled yet, and what is known of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slice {
    pub open_requests: u64,
    pub open_tokens: u64,
    /// As `tenant_tpm` and `key_tpm`, of requests.
    pub tenant_rpm: Option<u64>,
    pub key_rpm: Option<u64>,
    /// The last report.
    pub seq: u64,
    pub totals: Totals,
}

/// What of a promise becomes known in one settlement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub reserved_ms: u64,
    /// What it was charged with, and with what it is to be charged instead.
    pub estimate: u64,
    pub actual: u64,
    /// The requests that it was about, and those of them that nobody made.
    pub requests: u64,
    pub unspent_requests: u64,
}

/// The limits of an account's buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerMinute {
    pub requests: Option<u64>,
    pub tokens: Option<u64>,
}

impl From<Limits> for PerMinute {
    fn from(limits: Limits) -> Self {
        Self { requests: limits.requests_per_minute, tokens: limits.tokens_per_minute }
    }
}

/// Keeps the larger limit, or none if either is none.
fn enlarge(largest: &mut Option<u64>, limit: Option<u64>) {
    *largest = largest.zip(limit).map(|(largest, limit)| largest.max(limit));
}

impl Lease {
    pub(super) fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    /// What it is charged for requests that have not ended: tokens, and how many requests these are.
    pub(super) fn open(&self) -> (u64, u64) {
        self.slice.as_ref().map_or((self.tokens(), 1), |slice| (slice.open_tokens, slice.open_requests))
    }

    pub(super) fn open_requests(&self) -> u64 {
        self.open().1
    }

    /// What it is charged where nobody can tell what was used: as it was reserved.
    pub(super) fn as_reserved(&self) -> UsageCounts {
        let (tokens, requests) = self.open();
        let prompt_tokens = self.prompt_tokens.saturating_mul(requests).min(tokens);
        UsageCounts {
            requests,
            prompt_tokens,
            completion_tokens: tokens.saturating_sub(prompt_tokens),
            estimated: requests,
            refused: 0,
            errors: requests,
        }
    }

    /// From now on the owner's buckets have these limits, beside those that they had since the promise was made.
    pub(super) fn enlarge(&mut self, owner: Owner, limits: PerMinute) {
        let (tokens, requests) = match owner {
            Owner::Tenant => (&mut self.tenant_tpm, self.slice.as_mut().map(|slice| &mut slice.tenant_rpm)),
            Owner::Key => (&mut self.key_tpm, self.slice.as_mut().map(|slice| &mut slice.key_rpm)),
        };
        enlarge(tokens, limits.tokens);
        if let Some(requests) = requests {
            enlarge(requests, limits.requests);
        }
    }

    /// The largest limits of the owner's buckets since the promise was made.
    pub(super) fn largest(&self, owner: Owner) -> PerMinute {
        let slice = self.slice.as_ref();
        let (tokens, requests) = match owner {
            Owner::Tenant => (self.tenant_tpm, slice.and_then(|slice| slice.tenant_rpm)),
            Owner::Key => (self.key_tpm, slice.and_then(|slice| slice.key_rpm)),
        };
        PerMinute { requests, tokens }
    }

    /// Takes what a newer report knows more of a slice; `None` if it is not newer, or this is none. Nothing is given back
    /// twice, whatever it says.
    pub(super) fn learn(&mut self, report: &Report) -> Option<(Known, Vec<(String, UsageCounts)>)> {
        let reserved_ms = self.reserved_ms;
        let slice = self.slice.as_mut().filter(|slice| report.seq > slice.seq)?;
        let (before, now) = (&slice.totals, &report.totals);
        let none = UsageCounts::default();
        let usage: Vec<(String, UsageCounts)> = now
            .usage
            .iter()
            .map(|(model, counts)| (model.clone(), counts.since(before.usage.get(model).unwrap_or(&none))))
            .filter(|(_, counts)| *counts != none)
            .collect();
        let sum = |of: fn(&UsageCounts) -> u64| usage.iter().map(|(_, counts)| of(counts)).fold(0, u64::saturating_add);
        let ended = sum(|counts| counts.requests).min(slice.open_requests);
        let unspent_requests =
            now.unspent_requests.saturating_sub(before.unspent_requests).min(slice.open_requests.saturating_sub(ended));
        let estimated = now.estimated_tokens.saturating_sub(before.estimated_tokens);
        let unspent = now.unspent_tokens.saturating_sub(before.unspent_tokens);
        let known = Known {
            reserved_ms,
            estimate: estimated.saturating_add(unspent).min(slice.open_tokens),
            actual: sum(UsageCounts::tokens),
            requests: ended.saturating_add(unspent_requests),
            unspent_requests,
        };
        slice.open_requests = slice.open_requests.saturating_sub(known.requests);
        slice.open_tokens = slice.open_tokens.saturating_sub(known.estimate);
        slice.seq = report.seq;
        slice.totals = now.clone();
        Some((known, usage))
    }
}
