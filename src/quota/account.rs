//! The counters of a tenant or of one key.

use serde::{Deserialize, Serialize};

use super::bucket::Bucket;
use super::lease::{Known, PerMinute};
use super::limits::{Dimension, Limits, Owner};
use super::operation::{Denial, Standing, WindowUse};
use super::window::Window;
use crate::date::{day_of, end_of_day_ms, end_of_month_ms, month_of};

/// How long a client is told to wait for a free place: nobody knows when a request will end.
const CONCURRENCY_RETRY_MS: u64 = 1000;
/// A slice may be this part of what is left of a limit: none at all near one, and little where others want some too.
const SPARE_SHARE: u64 = 16;

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

    /// The limits of the last admission.
    pub(super) fn per_minute(&self) -> PerMinute {
        PerMinute { requests: self.requests.limit(), tokens: self.tokens.limit() }
    }

    /// How many of `wanted` requests may be promised at once with one that is admitted.
    pub(super) fn spare(&self, limits: Limits, tokens: u64, wanted: u64, now_ms: u64) -> u64 {
        Dimension::ALL.into_iter().fold(wanted, |spare, dimension| {
            let Some(limit) = limits.get(dimension) else { return spare };
            let cost = if dimension.counts_tokens() { tokens } else { 1 };
            let left = limit.saturating_sub(self.used(dimension, limit, now_ms)).saturating_sub(cost);
            spare.min((left / SPARE_SHARE).checked_div(cost).unwrap_or(spare))
        })
    }

    pub(super) fn take(&mut self, limits: Limits, requests: u64, tokens: u64, now_ms: u64) {
        *self = self.at(now_ms);
        self.requests.take(limits.requests_per_minute, requests, now_ms);
        self.tokens.take(limits.tokens_per_minute, tokens, now_ms);
        self.day.take(requests, tokens);
        self.month.take(requests, tokens);
        self.open = self.open.saturating_add(requests);
    }

    /// Replaces an estimate by the truth, where it was taken.
    pub(super) fn settle(&mut self, known: &Known, largest: PerMinute, now_ms: u64) {
        *self = self.at(now_ms);
        let Known { reserved_ms, estimate, actual, requests, unspent_requests } = *known;
        let (day, age_ms) = (day_of(reserved_ms), now_ms.saturating_sub(reserved_ms));
        self.day.settle(day, estimate, actual, unspent_requests);
        self.month.settle(month_of(day), estimate, actual, unspent_requests);
        if let Some(most) = largest.tokens {
            self.tokens.settle(most, estimate, actual, age_ms, now_ms);
        }
        if let Some(most) = largest.requests.filter(|_| unspent_requests > 0) {
            self.requests.settle(most, unspent_requests, 0, age_ms, now_ms);
        }
        self.close(requests);
    }

    pub(super) fn close(&mut self, requests: u64) {
        self.open = self.open.saturating_sub(requests);
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

/// Denials in the order of how long they last; what never ends comes last.
pub(super) fn patience(denial: &Denial) -> u64 {
    denial.retry_after_ms.unwrap_or(u64::MAX)
}
