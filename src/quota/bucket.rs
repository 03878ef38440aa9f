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
/// Invariant: `used` is what it was at `at_ms`, and `at_ms` never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bucket {
    used: u64,
    at_ms: u64,
}

impl Bucket {
    fn used_at(self, limit: u64, now_ms: u64) -> u64 {
        self.used.saturating_sub(limit.saturating_mul(now_ms.saturating_sub(self.at_ms)))
    }

    /// What is left, rounded down, of a limit.
    pub(super) fn remaining(self, limit: u64, now_ms: u64) -> u64 {
        limit.saturating_sub(self.used_at(limit, now_ms).div_ceil(UNIT))
    }

    /// Milliseconds until nothing is used any more.
    pub(super) fn reset_ms(self, limit: u64, now_ms: u64) -> u64 {
        self.used_at(limit, now_ms).div_ceil(limit.max(1))
    }

    /// Milliseconds until `cost` fits, if nobody else takes anything: 0 if it fits now, `None` if it never will.
    pub(super) fn wait_ms(self, limit: u64, cost: u64, now_ms: u64) -> Option<u64> {
        let room = limit.checked_sub(cost)?.saturating_mul(UNIT);
        let over = self.used_at(limit, now_ms).saturating_sub(room);
        if over == 0 { Some(0) } else { over.checked_add(limit.checked_sub(1)?)?.checked_div(limit) }
    }

    /// Lets time pass. Without a limit there is nothing to remember.
    pub(super) fn advance(&mut self, limit: Option<u64>, now_ms: u64) {
        self.used = limit.map_or(0, |limit| self.used_at(limit, now_ms));
        self.at_ms = self.at_ms.max(now_ms);
    }

    /// Takes `cost`; whoever calls has advanced the bucket and made sure that it fits, or wants debt.
    pub(super) fn take(&mut self, cost: u64) {
        self.used = self.used.saturating_add(cost.saturating_mul(UNIT));
    }

    /// Gives back `amount` of what was taken `age_ms` ago, less what may have drained away of it since: what has
    /// drained away was given back by time already, and giving it back again would admit it twice. Of a bucket that
    /// was never empty meanwhile that is more careful than need be, and never too generous.
    pub(super) fn give_back(&mut self, limit: u64, amount: u64, age_ms: u64) {
        let drained = limit.saturating_mul(age_ms);
        self.used = self.used.saturating_sub(amount.saturating_mul(UNIT).saturating_sub(drained));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(limit: u64, taken: u64) -> Bucket {
        let mut bucket = Bucket::default();
        bucket.advance(Some(limit), 1000);
        bucket.take(taken);
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
    }

    #[test]
    fn debt_is_repaid_before_anything_is_admitted() {
        let bucket = bucket(60, 90);
        assert_eq!(bucket.remaining(60, 1000), 0);
        assert_eq!(bucket.wait_ms(60, 0, 1000), Some(30_000));
        assert_eq!(bucket.wait_ms(60, 1, 1000), Some(31_000));
    }

    #[test]
    fn what_time_has_given_back_is_not_given_back_again() {
        let mut at_once = bucket(60, 60);
        at_once.give_back(60, 50, 0);
        assert_eq!(at_once.remaining(60, 1000), 50);
        let mut later = bucket(60, 60);
        later.advance(Some(60), 31_000);
        later.take(30);
        later.give_back(60, 50, 30_000);
        assert_eq!(later.remaining(60, 31_000), 20, "30 of the 50 had drained away already");
        later.give_back(60, 50, 60_000);
        assert_eq!(later.remaining(60, 31_000), 20);
    }
}
