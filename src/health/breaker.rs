//! A circuit breaker: whether one target is asked, by what became of the calls before.
//!
//! It is closed while the target is well, and calls go through. When too many of them fail it opens, and the target is
//! passed over. After a while it is half open: one call goes through as a probe, and closes or opens it again.
//!
//! Apart from that a target may be *cooling*: it is at its rate limit and said when to come back. That is no failure,
//! and no call goes there before.

use std::fmt;

use crate::config::BreakerPolicy;

use super::recent::Recent;

/// How many parts the window slides by.
const CELLS: u32 = 10;

/// How long a probe keeps others waiting. Should nobody have said by then what became of it, the next one goes. One that
/// is only slow, as an answer that does not stream may be, still closes the breaker when it is answered.
pub(super) const PROBE_MS: u64 = 90_000;

/// What a client is told to wait while a probe is under way: nobody knows, and it is soon.
const AWAIT_PROBE_MS: u64 = 1000;

/// The longest that a target cools. Upstreams also say `Retry-After: 86400`, and change their mind.
const MAX_COOLING_MS: u64 = 60_000;

/// How long a target cools that did not say.
const DEFAULT_COOLING_MS: u64 = 1000;

/// Whether a target may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Go,
    /// It may by one call at a time, which finds out whether it is well again.
    Probe,
    /// It is passed over.
    Refused(Refusal),
}

/// That a target is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Milliseconds after which it may be asked; at least 1.
    pub retry_after_ms: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a target is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It failed too often.
    Open,
    /// It is at its rate limit.
    Cooling,
}

/// What a call says of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Success,
    /// It cannot be reached, took too long, failed, or broke off.
    Failure,
    /// It is at its rate limit, and perhaps said when to come back.
    Limited {
        /// Milliseconds, as the target said.
        retry_after_ms: Option<u64>,
    },
    /// Nothing: the client went away, or its request was at fault.
    Neutral,
}

/// What has become of a target, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Too many calls failed.
    Opened {
        /// Of so many calls of late.
        calls: u64,
        /// So many failed.
        failures: u64,
        /// Milliseconds for which it is passed over.
        for_ms: u64,
    },
    /// A probe failed.
    Reopened {
        /// Milliseconds for which it is passed over.
        for_ms: u64,
    },
    /// A probe was answered.
    Closed,
    /// It is at its rate limit.
    Cooling {
        /// Milliseconds for which it is passed over.
        for_ms: u64,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { calls, failures, for_ms } => {
                write!(f, "is passed over for {for_ms} ms: {failures} of its last {calls} calls failed")
            }
            Self::Reopened { for_ms } => write!(f, "is passed over for another {for_ms} ms: it still fails"),
            Self::Closed => f.write_str("is well again"),
            Self::Cooling { for_ms } => write!(f, "is passed over for {for_ms} ms: it is at its rate limit"),
        }
    }
}

/// A call that was let through, until it is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// The breaker's when the call began: what has begun before a change says nothing about the time after it.
    generation: u64,
    is_probe: bool,
    /// It counts as a success already.
    has_answered: bool,
}

impl Pass {
    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// From then on half open: the next call is the probe.
    Open { until_ms: u64 },
    /// Half open, and the probe is under way; from then on it is lost, and the next call is the probe.
    Probing { until_ms: u64 },
}

/// The breaker of one target.
///
/// Invariants: `generation` grows with each change between closed, open and probing, except where a probe is given back
/// unused. So of all passes only those of this generation count, and of these at most one is a probe.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    state: State,
    generation: u64,
    /// How often it opened since it was closed.
    openings: u32,
    cooling_until_ms: u64,
    /// Of the two counts; with another window they begin anew.
    window_ms: u32,
    successes: Recent<{ CELLS as usize }>,
    failures: Recent<{ CELLS as usize }>,
}

impl Default for Breaker {
    fn default() -> Self {
        let (successes, failures) = (Recent::new(1), Recent::new(1));
        Self {
            state: State::Closed,
            generation: 0,
            openings: 0,
            cooling_until_ms: 0,
            window_ms: 0,
            successes,
            failures,
        }
    }
}

impl Breaker {
    /// Whether a call would be let through.
    pub(super) fn look(&self, policy: &BreakerPolicy, now_ms: u64) -> Admission {
        if !policy.enabled {
            return Admission::Go;
        }
        let cooling = left(self.cooling_until_ms, now_ms, MAX_COOLING_MS);
        let (open, admission) = match self.state {
            State::Closed => (0, Admission::Go),
            State::Open { until_ms } => (left(until_ms, now_ms, policy.max_open_ms.into()), Admission::Probe),
            State::Probing { until_ms } => (left(until_ms, now_ms, PROBE_MS).min(AWAIT_PROBE_MS), Admission::Probe),
        };
        match cooling.max(open) {
            0 => admission,
            retry_after_ms => {
                let reason = if cooling >= open { Reason::Cooling } else { Reason::Open };
                Admission::Refused(Refusal { retry_after_ms, reason })
            }
        }
    }

    /// A call begins, if it is let through.
    pub(super) fn begin(&mut self, policy: &BreakerPolicy, now_ms: u64) -> Result<Pass, Refusal> {
        let is_probe = match self.look(policy, now_ms) {
            Admission::Go => false,
            Admission::Probe => {
                self.enter(State::Probing { until_ms: now_ms.saturating_add(PROBE_MS) });
                true
            }
            Admission::Refused(refusal) => return Err(refusal),
        };
        Ok(Pass { generation: self.generation, is_probe, has_answered: false })
    }

    /// A call's answer begins. That is a success, and all that is asked of a probe; should the answer break off, the
    /// success becomes a failure.
    pub(super) fn answered(&mut self, policy: &BreakerPolicy, pass: &mut Pass, now_ms: u64) -> Option<Change> {
        if pass.has_answered || !policy.enabled {
            return None;
        }
        pass.has_answered = true;
        let closes = pass.is_probe && self.state != State::Closed;
        let change = closes.then(|| {
            self.close();
            // The call lives on as one of those that closed breakers let through.
            (pass.generation, pass.is_probe) = (self.generation, false);
            Change::Closed
        });
        if self.counts(pass) {
            self.resize(policy.window_ms);
            self.successes.add(now_ms);
        }
        change
    }

    /// A call is over.
    pub(super) fn ended(
        &mut self,
        policy: &BreakerPolicy,
        mut pass: Pass,
        verdict: Verdict,
        now_ms: u64,
    ) -> Option<Change> {
        match verdict {
            Verdict::Success if policy.enabled => self.answered(policy, &mut pass, now_ms),
            Verdict::Failure if policy.enabled => self.failed(policy, &pass, now_ms),
            Verdict::Limited { retry_after_ms } if policy.enabled => {
                self.give_back(&pass, now_ms);
                self.cool(retry_after_ms, now_ms)
            }
            _ => {
                self.give_back(&pass, now_ms);
                None
            }
        }
    }

    fn failed(&mut self, policy: &BreakerPolicy, pass: &Pass, now_ms: u64) -> Option<Change> {
        if self.is_probe_of_now(pass) {
            return Some(Change::Reopened { for_ms: self.open(policy, now_ms) });
        }
        if !self.counts(pass) {
            return None;
        }
        self.resize(policy.window_ms);
        if pass.has_answered {
            self.successes.take_back(now_ms);
        }
        self.failures.add(now_ms);
        let failures = self.failures.count(now_ms);
        let calls = failures.saturating_add(self.successes.count(now_ms));
        let too_many = failures.saturating_mul(100) >= calls.saturating_mul(policy.failure_rate_percent.into());
        (too_many && calls >= policy.min_calls.into()).then(|| Change::Opened {
            calls,
            failures,
            for_ms: self.open(policy, now_ms),
        })
    }

    /// A probe that has found out nothing: the next call is one.
    fn give_back(&mut self, pass: &Pass, now_ms: u64) {
        if self.is_probe_of_now(pass) {
            self.state = State::Open { until_ms: now_ms };
        }
    }

    fn cool(&mut self, retry_after_ms: Option<u64>, now_ms: u64) -> Option<Change> {
        let was_cooling = left(self.cooling_until_ms, now_ms, MAX_COOLING_MS) > 0;
        let for_ms = retry_after_ms.unwrap_or(DEFAULT_COOLING_MS).min(MAX_COOLING_MS);
        let until_ms = now_ms.saturating_add(for_ms);
        // Calls that were under way together are refused together; the longest of what they are told holds.
        self.cooling_until_ms = if was_cooling { self.cooling_until_ms.max(until_ms) } else { until_ms };
        (!was_cooling && for_ms > 0).then_some(Change::Cooling { for_ms })
    }

    /// For how many milliseconds it opens: twice as long each time in a row.
    fn open(&mut self, policy: &BreakerPolicy, now_ms: u64) -> u64 {
        let doubled = 1u64.checked_shl(self.openings).unwrap_or(u64::MAX).saturating_mul(policy.open_ms.into());
        let for_ms = doubled.min(policy.max_open_ms.into());
        self.openings = self.openings.saturating_add(1);
        self.enter(State::Open { until_ms: now_ms.saturating_add(for_ms) });
        for_ms
    }

    /// What was before says nothing about a target that is well again.
    fn close(&mut self) {
        self.openings = 0;
        self.window_ms = 0;
        self.enter(State::Closed);
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation = self.generation.saturating_add(1);
    }

    fn is_probe_of_now(&self, pass: &Pass) -> bool {
        pass.is_probe && pass.generation == self.generation && matches!(self.state, State::Probing { .. })
    }

    /// Whether what becomes of the call counts for the rate.
    fn counts(&self, pass: &Pass) -> bool {
        !pass.is_probe && pass.generation == self.generation && self.state == State::Closed
    }

    fn resize(&mut self, window_ms: u32) {
        if self.window_ms != window_ms {
            self.window_ms = window_ms;
            let cell_ms = window_ms.div_ceil(CELLS).into();
            (self.successes, self.failures) = (Recent::new(cell_ms), Recent::new(cell_ms));
        }
    }
}

/// Milliseconds until a time that was at most `most` away when it was set. If it is further, the clock was put back or
/// the configuration has changed, and nobody should wait for it.
fn left(until_ms: u64, now_ms: u64, most: u64) -> u64 {
    let left = until_ms.saturating_sub(now_ms);
    if left > most { 0 } else { left }
}
