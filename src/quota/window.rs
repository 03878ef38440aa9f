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

    pub(super) fn take(&mut self, tokens: u64) {
        self.requests = self.requests.saturating_add(1);
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// Replaces an estimate by the truth, if it was taken from this very period: what was taken from another one is
    /// over and done with.
    pub(super) fn settle(&mut self, period: u64, estimate: u64, actual: u64) {
        if period == self.period {
            self.tokens = self.tokens.saturating_sub(estimate).saturating_add(actual);
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
        window.take(100);
        window.roll(6);
        window.take(10);
        window.settle(5, 100, 1);
        assert_eq!(window, Window { period: 6, requests: 1, tokens: 10 });
        window.settle(6, 10, 4);
        assert_eq!(window.tokens, 4);
        window.roll(5);
        assert_eq!(window.period, 6, "time does not go back");
    }
}
