//! How many retries there may be: a share of the traffic, so that an outage is not answered with a multiple of it.

use crate::config::RetryPolicy;

use super::recent::Recent;

const CELL_MS: u64 = 1000;

/// The attempts of the last ten seconds.
///
/// Retries count for at least ten seconds and requests for at most as long. So whenever a retry is granted, those of
/// the ten seconds before are no more than the minimum and the share of the requests in them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    requests: Recent<10>,
    retries: Recent<11>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { requests: Recent::new(CELL_MS), retries: Recent::new(CELL_MS) }
    }
}

impl Budget {
    /// A request is tried for the first time.
    pub(super) fn first_attempt(&mut self, now_ms: u64) {
        self.requests.add(now_ms);
    }

    /// Takes one retry, if there is one left.
    pub(super) fn take(&mut self, policy: &RetryPolicy, now_ms: u64) -> bool {
        let requests = self.requests.count(now_ms);
        let share = requests.saturating_mul(policy.budget_percent.into()).checked_div(100).unwrap_or_default();
        let granted = self.retries.count(now_ms) < share.saturating_add(policy.min_retries_per_10s.into());
        if granted {
            self.retries.add(now_ms);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(requests: u32, budget_percent: u32, min_retries_per_10s: u32, expected: usize) {
        let policy = RetryPolicy { budget_percent, min_retries_per_10s, ..RetryPolicy::default() };
        let mut budget = Budget::default();
        (0..requests).for_each(|_| budget.first_attempt(20_000));
        let taken = |budget: &mut Budget, now_ms| (0..1000).filter(|_| budget.take(&policy, now_ms)).count();
        assert_eq!(taken(&mut budget, 20_500), expected);
        assert_eq!(taken(&mut budget, 29_999), 0, "what is taken is taken for ten seconds");
        // The requests are forgotten before the retries, and then there is the minimum again.
        assert_eq!(taken(&mut budget, 31_000), min_retries_per_10s as usize);
    }

    #[test]
    fn it_is_the_minimum_and_the_share_of_requests() {
        check(0, 20, 0, 0);
        check(0, 20, 3, 3);
        check(4, 20, 3, 3);
        check(5, 20, 3, 4);
        check(100, 20, 0, 20);
        check(100, 20, 10, 30);
        check(100, 0, 0, 0);
        check(100, 100, 1, 101);
    }

    #[test]
    fn it_comes_back_as_time_passes() {
        let policy = RetryPolicy { min_retries_per_10s: 1, ..RetryPolicy::default() };
        let mut budget = Budget::default();
        let granted: Vec<u64> = (0..60).map(|s| s * 1000).filter(|now_ms| budget.take(&policy, *now_ms)).collect();
        assert_eq!(granted, [0, 11_000, 22_000, 33_000, 44_000, 55_000]);
    }
}
