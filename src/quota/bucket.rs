//! A token bucket in whole numbers.
//!
//! It counts what is used instead of what is left, so that a limit that changes needs no conversion, and it counts in
//! units of a 60,000th of a request or token, of which `limit` drain away each millisecond: no rounding, ever.

use serde::{Deserialize, Serialize};

/// Units of one request or token: the milliseconds of the minute in which `limit` of them drain away.
const UNIT: u64 = 60_000;

/// What of a limit per minute is used. It may be more than the limit: that is debt, and nothing is admitted before it
/// has drained away.
///
/// Only what changes the bucket writes down its limit, and a refusal changes nothing. So of the time since the last
/// change nobody knows when in it the limit became another one, and the larger of both counts for all of it.
///
/// Invariants: `used` is what it was at `at_ms`, and `at_ms` never goes back. Without a limit nothing is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bucket {
    used: u64,
    at_ms: u64,
    /// The limit of the last admission.
    limit: Option<u64>,
}

impl Bucket {
    /// How many units drain away in a millisecond.
    fn rate(self, limit: u64) -> u64 {
        self.limit.unwrap_or_default().max(limit)
    }

    fn used_at(self, limit: u64, now_ms: u64) -> u64 {
        self.used.saturating_sub(self.rate(limit).saturating_mul(now_ms.saturating_sub(self.at_ms)))
    }

    /// The limit of the last admission.
    pub(super) fn limit(self) -> Option<u64> {
        self.limit
    }

    /// Whether nothing is used any more, whatever the limit will be.
    pub(super) fn is_empty(self, now_ms: u64) -> bool {
        self.used_at(0, now_ms) == 0
    }

    /// What is left, rounded down, of a limit.
    pub(super) fn remaining(self, limit: u64, now_ms: u64) -> u64 {
        limit.saturating_sub(self.used_at(limit, now_ms).div_ceil(UNIT))
    }

    /// Milliseconds until nothing is used any more.
    pub(super) fn reset_ms(self, limit: u64, now_ms: u64) -> u64 {
        self.used_at(limit, now_ms).div_ceil(self.rate(limit).max(1))
    }

    /// Milliseconds until `cost` fits, if nobody else takes anything: 0 if it fits now, `None` if it never will.
    pub(super) fn wait_ms(self, limit: u64, cost: u64, now_ms: u64) -> Option<u64> {
        let room = limit.checked_sub(cost)?.saturating_mul(UNIT);
        let over = self.used_at(limit, now_ms).saturating_sub(room);
        let rate = self.rate(limit);
        (over == 0 || rate > 0).then(|| over.div_ceil(rate.max(1)))
    }

    /// Takes `cost`; whoever calls has made sure that it fits. Without a limit there is nothing to remember.
    pub(super) fn take(&mut self, limit: Option<u64>, cost: u64, now_ms: u64) {
        let used = limit.map_or(0, |limit| self.used_at(limit, now_ms).saturating_add(cost.saturating_mul(UNIT)));
        *self = Self { used, at_ms: self.at_ms.max(now_ms), limit };
    }

    /// Replaces an estimate that was taken `age_ms` ago by the truth, which may be debt. What the estimate was too
    /// large by is given back less what may have drained away of it since, at `most_rate`: that was given back by time
    /// already, and giving it back again would admit it twice. Of a bucket that was never empty meanwhile that is more
    /// careful than need be, and never too generous.
    pub(super) fn settle(&mut self, most_rate: u64, estimate: u64, actual: u64, age_ms: u64, now_ms: u64) {
        let more = actual.saturating_sub(estimate).saturating_mul(UNIT);
        let drained = most_rate.saturating_mul(age_ms);
        let less = estimate.saturating_sub(actual).saturating_mul(UNIT).saturating_sub(drained);
        self.used = self.used_at(0, now_ms).saturating_add(more).saturating_sub(less);
        self.at_ms = self.at_ms.max(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(limit: u64, taken: u64) -> Bucket {
        let mut bucket = Bucket::default();
        bucket.take(Some(limit), taken, 1000);
        bucket
    }

    #[test]
    fn it_refills_evenly_and_to_the_millisecond() {
        let bucket = bucket(60, 60);
        assert_eq!(bucket.remaining(60, 1000), 0);
        assert_eq!(bucket.wait_ms(60, 1, 1000), Some(1000));
        assert_eq!(bucket.wait_ms(60, 1, 1999), Some(1));
        assert_eq!(bucket.wait_ms(60, 1, 2000), Some(0));
        assert_eq!(bucket.remaining(60, 1999), 0);
        assert_eq!(bucket.remaining(60, 2000), 1);
        assert_eq!(bucket.reset_ms(60, 1000), 60_000);
        assert_eq!(bucket.wait_ms(60, 60, 1000), Some(60_000));
    }

    #[test]
    fn what_can_never_fit_says_so() {
        assert_eq!(bucket(60, 0).wait_ms(60, 61, 1000), None);
        assert_eq!(bucket(0, 0).wait_ms(0, 1, 1000), None);
        assert_eq!(bucket(0, 0).wait_ms(0, 0, 1000), Some(0));
        assert_eq!(bucket(0, 1).wait_ms(0, 0, 1000), None);
    }

    #[test]
    fn debt_is_repaid_before_anything_is_admitted() {
        let mut bucket = bucket(60, 60);
        bucket.settle(60, 60, 90, 0, 1000);
        assert_eq!(bucket.remaining(60, 1000), 0);
        assert_eq!(bucket.wait_ms(60, 0, 1000), Some(30_000));
        assert_eq!(bucket.wait_ms(60, 1, 1000), Some(31_000));
    }

    #[test]
    fn what_time_has_given_back_is_not_given_back_again() {
        let mut at_once = bucket(60, 60);
        at_once.settle(60, 60, 10, 0, 1000);
        assert_eq!(at_once.remaining(60, 1000), 50);
        let mut later = bucket(60, 60);
        later.take(Some(60), 30, 31_000);
        later.settle(60, 60, 10, 30_000, 31_000);
        assert_eq!(later.remaining(60, 31_000), 20, "30 of the 50 had drained away already");
        later.settle(60, 60, 10, 60_000, 31_000);
        assert_eq!(later.remaining(60, 31_000), 20);
    }

    #[test]
    fn a_limit_that_changes_drains_by_the_larger_one_until_it_is_written_down() {
        let mut bucket = bucket(60, 60);
        assert_eq!(bucket.wait_ms(6, 1, 1000), Some(55_000), "lowered, it still drains by 60 a minute");
        assert_eq!(bucket.wait_ms(600, 600, 1000), Some(6000), "raised, it drains by 600 at once");
        bucket.take(Some(6), 0, 31_000);
        assert_eq!(bucket.wait_ms(6, 1, 31_000), Some(250_000));
        bucket.take(None, 1, 31_000);
        assert!(bucket.is_empty(31_000));
    }
}
