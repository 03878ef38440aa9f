//! What is used of a limit in one calendar window: a day or a month in UTC.

use serde::{Deserialize, Serialize};

/// What was used in one period; another period begins with nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub period: u64,
    pub requests: u64,
    pub tokens: u64,
}

impl Window {
    /// The window as of `period`. Periods do not go back.
    pub(super) fn roll(&mut self, period: u64) {
        if period > self.period {
            *self = Self { period, requests: 0, tokens: 0 };
        }
    }

    pub(super) fn take(&mut self, requests: u64, tokens: u64) {
        self.requests = self.requests.saturating_add(requests);
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// Replaces an estimate by the truth, and gives back requests that nobody made, if they were taken from this very
    /// period: what was taken from another one is over and done with.
    pub(super) fn settle(&mut self, period: u64, estimate: u64, actual: u64, unspent_requests: u64) {
        if period == self.period {
            self.tokens = self.tokens.saturating_sub(estimate).saturating_add(actual);
            self.requests = self.requests.saturating_sub(unspent_requests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pitfall_6_a_late_settle_leaves_the_next_window_alone() {
        let mut window = Window::default();
        window.roll(5);
        window.take(1, 100);
        window.roll(6);
        window.take(3, 10);
        window.settle(5, 100, 1, 1);
        assert_eq!(window, Window { period: 6, requests: 3, tokens: 10 });
        window.settle(6, 10, 4, 2);
        assert_eq!((window.requests, window.tokens), (1, 4));
        window.roll(5);
        assert_eq!(window.period, 6, "time does not go back");
    }
}
