//! How long a request waits before it tries the same target again.

use crate::config::RetryPolicy;

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// How often the request was tried at this target; at least 1.
    pub attempts: u32,
    /// What the target said about when to come back.
    pub retry_after_ms: Option<u64>,
    /// How long the request has waited already, before any of its attempts.
    pub waited_ms: u64,
}

/// Milliseconds to wait before the same target is tried again; nothing if it should not be.
///
/// Anything up to twice as much as the time before is as likely, which is "full jitter": clients that failed together
/// do not come back together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015). What the target asks for
/// is waited for in full, and the jitter comes on top.
#[must_use]
pub fn backoff_ms(policy: &RetryPolicy, failed: Failed, draw: u64) -> Option<u64> {
    if failed.attempts >= policy.same_target_attempts {
        return None;
    }
    let room = u64::from(policy.max_wait_ms).checked_sub(failed.waited_ms).filter(|room| *room > 0)?;
    let asked = failed.retry_after_ms.unwrap_or_default();
    let room = room.checked_sub(asked)?;
    let doublings = failed.attempts.saturating_sub(1);
    let doubled = 1u64.checked_shl(doublings).unwrap_or(u64::MAX).saturating_mul(policy.base_backoff_ms.into());
    let most = doubled.min(policy.max_backoff_ms.into()).min(room);
    let jitter = draw.checked_rem(most.saturating_add(1)).unwrap_or_default();
    Some(asked.saturating_add(jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 10,
        same_target_attempts: 10,
        base_backoff_ms: 100,
        max_backoff_ms: 1000,
        max_wait_ms: 5000,
        budget_percent: 20,
        min_retries_per_10s: 10,
    };

    /// Expects any time from `least` to `most`, both included.
    #[track_caller]
    fn check(failed: Failed, least: u64, most: u64) {
        let waits: Vec<u64> = (0..10_000).map(|draw| backoff_ms(&POLICY, failed, draw).unwrap()).collect();
        assert_eq!((waits.iter().min(), waits.iter().max()), (Some(&least), Some(&most)));
    }

    #[test]
    fn the_wait_doubles_up_to_the_cap() {
        for (attempts, most) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (9, 1000)] {
            check(Failed { attempts, ..Failed::default() }, 0, most);
        }
        let patient = RetryPolicy { same_target_attempts: u32::MAX, ..POLICY };
        let failed = Failed { attempts: u32::MAX - 1, ..Failed::default() };
        assert_eq!(backoff_ms(&patient, failed, 1001), Some(0));
        assert_eq!(backoff_ms(&patient, failed, u64::MAX), Some(u64::MAX % 1001));
    }

    #[test]
    fn what_the_upstream_asks_for_is_waited_for_if_there_is_time() {
        let asked = |retry_after_ms, waited_ms| Failed { attempts: 1, retry_after_ms: Some(retry_after_ms), waited_ms };
        check(asked(2000, 0), 2000, 2100);
        check(asked(2000, 2950), 2000, 2050);
        check(asked(5000, 0), 5000, 5000);
        check(asked(0, 0), 0, 100);
        for failed in [asked(5001, 0), asked(2000, 3001), asked(u64::MAX, 0), asked(0, 5000)] {
            assert_eq!(backoff_ms(&POLICY, failed, 7), None, "{failed:?}");
        }
    }

    #[test]
    fn nobody_waits_longer_than_there_is_time() {
        let waited = |waited_ms| Failed { attempts: 5, waited_ms, ..Failed::default() };
        check(waited(4000), 0, 1000);
        check(waited(4990), 0, 10);
        for failed in [waited(5000), waited(u64::MAX)] {
            assert_eq!(backoff_ms(&POLICY, failed, 7), None, "{failed:?}");
        }
    }

    #[test]
    fn a_target_is_tried_as_often_as_it_may() {
        let twice = RetryPolicy { same_target_attempts: 2, ..POLICY };
        let attempts = |attempts| backoff_ms(&twice, Failed { attempts, ..Failed::default() }, 7);
        assert_eq!((attempts(1), attempts(2), attempts(3)), (Some(7), None, None));
        let once = RetryPolicy { same_target_attempts: 1, ..POLICY };
        assert_eq!(backoff_ms(&once, Failed { attempts: 1, ..Failed::default() }, 7), None);
    }
}
