//! When reservations wait for others, so that one write to disk serves them all.
//!
//! A write costs the object as much time as all else that it does for a request. Where reservations follow close upon each
//! other, they gather for a moment; where they do not, that would only make them late, and none waits.

/// For how long reservations gather, in milliseconds.
pub(super) const GATHER_MS: u64 = 2;
/// Reservations that follow upon another within so many milliseconds are close.
const CLOSE_MS: u64 = 1;
/// As long as gathering brings several, they may be so much farther apart.
const LASTING_MS: u64 = 50;
/// So many reservations at most do not wait, after others have waited for nothing.
const MOST_AT_ONCE: u32 = 64;

/// What is known of the reservations that came before.
#[derive(Debug, Default)]
pub(super) struct Gather {
    last_ms: u64,
    /// How many wait now.
    waiting: u32,
    brought_several: bool,
    /// How many are still not to wait.
    at_once: u32,
    /// How many were not to, when one had last waited for nothing. It doubles each time.
    pause: u32,
}

impl Gather {
    /// A reservation comes, and is to be written down; whether it waits for others.
    pub(super) fn waits(&mut self, now_ms: u64) -> bool {
        let since_ms = now_ms.saturating_sub(self.last_ms);
        self.last_ms = now_ms;
        if let Some(left) = self.at_once.checked_sub(1) {
            self.at_once = left;
            return false;
        }
        let waits = self.goes_on() || since_ms <= if self.brought_several { LASTING_MS } else { CLOSE_MS };
        self.waiting = self.waiting.saturating_add(u32::from(waits));
        waits
    }

    /// Whether reservations wait just now.
    pub(super) fn goes_on(&self) -> bool {
        self.waiting > 0
    }

    /// What has waited is written down.
    pub(super) fn written(&mut self) {
        let waited = std::mem::take(&mut self.waiting);
        if waited > 0 {
            self.brought_several = waited > 1;
            self.pause = if waited > 1 { 0 } else { self.pause.saturating_mul(2).clamp(1, MOST_AT_ONCE) };
            self.at_once = self.pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn who_comes_alone_does_not_wait() {
        let mut gather = Gather::default();
        for nth in 0..100 {
            assert!(!gather.waits(NOW_MS + nth * (CLOSE_MS + 1)));
            gather.written();
        }
    }

    #[test]
    fn those_who_follow_closely_wait_for_each_other_as_long_as_there_are_several() {
        let mut gather = Gather::default();
        assert!(!gather.waits(NOW_MS));
        gather.written();
        for nth in 0..10 {
            assert!(gather.waits(NOW_MS + 1));
            assert!(gather.waits(NOW_MS + 1 + nth * 10), "somebody waits already");
            gather.written();
        }
        assert!(gather.waits(NOW_MS + 91 + LASTING_MS), "it brought several just now");
        gather.written();
        assert!(!gather.waits(NOW_MS + 91 + 2 * LASTING_MS), "and that time it did not");
    }

    #[test]
    fn who_comes_alone_long_after_many_does_not_wait() {
        let mut gather = Gather::default();
        for nth in 0..100 {
            let at_ms = NOW_MS + nth * 1000;
            assert!(!gather.waits(at_ms));
            gather.written();
            (0..3).for_each(|_| assert!(gather.waits(at_ms)));
            gather.written();
            assert!(!gather.waits(at_ms + LASTING_MS + 1));
            gather.written();
        }
    }

    #[test]
    fn who_waits_for_nothing_again_and_again_is_followed_by_ever_more_that_do_not_wait() {
        let mut gather = Gather::default();
        let waited = |gather: &mut Gather, nth| {
            let waits = gather.waits(NOW_MS + nth);
            gather.written();
            waits
        };
        assert!(!waited(&mut gather, 0));
        let (times, ones): (Vec<u64>, Vec<u64>) = (1..1000).partition(|nth| waited(&mut gather, *nth));
        assert_eq!(times[..7], [1, 3, 6, 11, 20, 37, 70]);
        assert_eq!((times.len(), ones.len()), (21, 978), "at most one of 65 waits");
    }
}
