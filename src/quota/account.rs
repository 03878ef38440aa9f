//! The counters of a tenant or of one key, and the promises that are charged in them.

use serde::{Deserialize, Serialize};

use super::bucket::Bucket;
use super::limits::{Dimension, Limits, Owner};
use super::operation::{Denial, Standing, WindowUse};
use super::window::Window;
use crate::date::{day_of, end_of_day_ms, end_of_month_ms, month_of};

/// How long a client is told to wait for a free place: nobody knows when a request will end.
const CONCURRENCY_RETRY_MS: u64 = 1000;

/// Counters of the tenant or of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub requests: Bucket,
    pub tokens: Bucket,
    pub day: Window,
    pub month: Window,
    /// Promises that have neither been settled nor run out.
    pub open: u64,
}

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
}

impl Account {
    /// The account as of a time: of windows that are over nothing is used.
    pub(super) fn at(mut self, now_ms: u64) -> Self {
        let day = day_of(now_ms);
        self.day.roll(day);
        self.month.roll(month_of(day));
        self
    }

    /// What is used of a limit, rounded up.
    pub(super) fn used(&self, dimension: Dimension, limit: u64, now_ms: u64) -> u64 {
        match dimension {
            Dimension::RequestsPerMinute => limit.saturating_sub(self.requests.remaining(limit, now_ms)),
            Dimension::TokensPerMinute => limit.saturating_sub(self.tokens.remaining(limit, now_ms)),
            Dimension::RequestsPerDay => self.day.requests,
            Dimension::TokensPerDay => self.day.tokens,
            Dimension::TokensPerMonth => self.month.tokens,
            Dimension::ConcurrentRequests => self.open,
        }
    }

    /// Milliseconds until all of a limit is left again.
    pub(super) fn reset_ms(&self, dimension: Dimension, limit: u64, now_ms: u64) -> u64 {
        match dimension {
            Dimension::RequestsPerMinute => self.requests.reset_ms(limit, now_ms),
            Dimension::TokensPerMinute => self.tokens.reset_ms(limit, now_ms),
            Dimension::RequestsPerDay | Dimension::TokensPerDay => {
                end_of_day_ms(self.day.period).saturating_sub(now_ms)
            }
            Dimension::TokensPerMonth => end_of_month_ms(self.month.period).saturating_sub(now_ms),
            Dimension::ConcurrentRequests => 0,
        }
    }

    /// Milliseconds until `cost` fits: 0 if it fits now, `None` if it never will.
    pub(super) fn wait_ms(&self, dimension: Dimension, limit: u64, cost: u64, now_ms: u64) -> Option<u64> {
        match dimension {
            Dimension::RequestsPerMinute => self.requests.wait_ms(limit, cost, now_ms),
            Dimension::TokensPerMinute => self.tokens.wait_ms(limit, cost, now_ms),
            _ if cost > limit => None,
            _ if self.used(dimension, limit, now_ms).saturating_add(cost) <= limit => Some(0),
            Dimension::ConcurrentRequests => Some(CONCURRENCY_RETRY_MS),
            _ => Some(self.reset_ms(dimension, limit, now_ms)),
        }
    }

    /// The limit that lets a request of `tokens` wait longest, if any does.
    pub(super) fn denial(&self, owner: Owner, limits: Limits, tokens: u64, now_ms: u64) -> Option<Denial> {
        let denials = Dimension::ALL.into_iter().filter_map(|dimension| {
            let limit = limits.get(dimension)?;
            let requested = if dimension.counts_tokens() { tokens } else { 1 };
            let retry_after_ms = self.wait_ms(dimension, limit, requested, now_ms);
            let used = self.used(dimension, limit, now_ms);
            (retry_after_ms != Some(0)).then_some(Denial { owner, dimension, limit, used, requested, retry_after_ms })
        });
        denials.max_by_key(patience)
    }

    pub(super) fn standings(self, owner: Owner, limits: Limits, now_ms: u64) -> impl Iterator<Item = Standing> {
        Dimension::ALL.into_iter().filter_map(move |dimension| {
            let limit = limits.get(dimension)?;
            let remaining = limit.saturating_sub(self.used(dimension, limit, now_ms));
            Some(Standing { owner, dimension, limit, remaining, reset_ms: self.reset_ms(dimension, limit, now_ms) })
        })
    }

    pub(super) fn windows(&self, owner: Owner, now_ms: u64) -> WindowUse {
        WindowUse {
            owner,
            day: (self.day.requests, self.day.tokens),
            day_ends_in_ms: end_of_day_ms(self.day.period).saturating_sub(now_ms),
            month: (self.month.requests, self.month.tokens),
            month_ends_in_ms: end_of_month_ms(self.month.period).saturating_sub(now_ms),
        }
    }

    pub(super) fn take(&mut self, limits: Limits, tokens: u64, now_ms: u64) {
        *self = self.at(now_ms);
        self.requests.take(limits.requests_per_minute, 1, now_ms);
        self.tokens.take(limits.tokens_per_minute, tokens, now_ms);
        self.day.take(tokens);
        self.month.take(tokens);
        self.open = self.open.saturating_add(1);
    }

    /// Replaces a lease's estimate by the truth, where it was taken.
    pub(super) fn settle(&mut self, lease: &Lease, largest_tpm: Option<u64>, actual: u64, now_ms: u64) {
        *self = self.at(now_ms);
        let estimate = lease.tokens();
        let day = day_of(lease.reserved_ms);
        self.day.settle(day, estimate, actual);
        self.month.settle(month_of(day), estimate, actual);
        if let Some(largest_tpm) = largest_tpm {
            let age_ms = now_ms.saturating_sub(lease.reserved_ms);
            self.tokens.settle(largest_tpm, estimate, actual, age_ms, now_ms);
        }
        self.close();
    }

    pub(super) fn close(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Whether forgetting the account changes nothing.
    pub(super) fn is_blank(&self, now_ms: u64) -> bool {
        let day = day_of(now_ms);
        self.open == 0
            && self.day.period < day
            && (self.month.period < month_of(day) || self.month.tokens == 0)
            && self.requests.is_empty(now_ms)
            && self.tokens.is_empty(now_ms)
    }
}

/// Keeps the larger limit, or none if either is none.
pub(super) fn enlarge(largest: &mut Option<u64>, limit: Option<u64>) {
    *largest = largest.zip(limit).map(|(largest, limit)| largest.max(limit));
}

/// Denials in the order of how long they last; what never ends comes last.
pub(super) fn patience(denial: &Denial) -> u64 {
    denial.retry_after_ms.unwrap_or(u64::MAX)
}

impl Lease {
    pub(super) fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}
