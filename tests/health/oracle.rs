//! What a breaker should do, by the whole past and no counters.

use completions_edge::config::BreakerPolicy;
use completions_edge::health::{Admission, Change, Reason, Refusal, Verdict};

const PROBE_MS: u64 = 90_000;

/// A call, from its begin.
struct Call {
    begun_ms: u64,
    /// How often the breaker had opened or closed when the call began, or when it closed the breaker itself.
    changes: usize,
    is_probe: bool,
    has_answered: bool,
    has_ended: bool,
}

/// One target's breaker, told by everything that ever happened.
#[derive(Default)]
pub struct Oracle {
    calls: Vec<Call>,
    /// When each call succeeded or failed, since the breaker was last closed.
    outcomes: Vec<(u64, bool)>,
    /// When the breaker opened or closed; it is open after an odd number.
    changes: Vec<u64>,
    /// For how long it opened, each time since it was closed.
    openings: Vec<u64>,
    /// From when on a probe may begin.
    due_ms: u64,
    /// The last probe that began, unless its end was heard of.
    probe: Option<usize>,
    cooling_until_ms: u64,
}

impl Oracle {
    fn is_open(&self) -> bool {
        self.changes.len() % 2 == 1
    }

    pub fn look(&self, now_ms: u64) -> Admission {
        let wait = |until_ms: u64| until_ms.saturating_sub(now_ms);
        let open = match self.probe {
            _ if !self.is_open() => 0,
            Some(probe) => wait(self.calls[probe].begun_ms + PROBE_MS).min(1000),
            None => wait(self.due_ms),
        };
        let cooling = wait(self.cooling_until_ms);
        if open == 0 && cooling == 0 {
            return if self.is_open() { Admission::Probe } else { Admission::Go };
        }
        let reason = if open > cooling { Reason::Open } else { Reason::Cooling };
        Admission::Refused(Refusal { retry_after_ms: open.max(cooling), reason })
    }

    /// A call begins; whoever calls has looked.
    pub fn begin(&mut self, now_ms: u64) -> usize {
        let (number, is_probe) = (self.calls.len(), self.is_open());
        let changes = self.changes.len();
        self.calls.push(Call { begun_ms: now_ms, changes, is_probe, has_answered: false, has_ended: false });
        if is_probe {
            self.probe = Some(number);
        }
        number
    }

    pub fn in_flight(&self) -> usize {
        self.calls.iter().filter(|call| !call.has_ended).count()
    }

    /// Probes of the present opening that are under way and not lost.
    pub fn probes(&self, now_ms: u64) -> usize {
        let changes = self.changes.len();
        let is_probe = |call: &&Call| call.is_probe && !call.has_ended && call.changes == changes;
        self.calls.iter().filter(is_probe).filter(|call| now_ms < call.begun_ms + PROBE_MS).count()
    }

    fn counts(&self, number: usize) -> bool {
        !self.is_open() && self.calls[number].changes == self.changes.len()
    }

    pub fn answered(&mut self, number: usize, now_ms: u64) -> Option<Change> {
        if std::mem::replace(&mut self.calls[number].has_answered, true) {
            return None;
        }
        // A probe that was given up as lost tells as much when it is answered late.
        let closes = self.is_open() && self.calls[number].is_probe;
        if closes {
            self.changes.push(now_ms);
            (self.outcomes, self.openings, self.probe) = (Vec::new(), Vec::new(), None);
            self.calls[number].changes = self.changes.len();
        }
        if self.counts(number) {
            self.outcomes.push((now_ms, true));
        }
        closes.then_some(Change::Closed)
    }

    pub fn ended(&mut self, policy: &BreakerPolicy, number: usize, verdict: Verdict, now_ms: u64) -> Option<Change> {
        self.calls[number].has_ended = true;
        let is_probe = self.is_open() && self.probe == Some(number);
        match verdict {
            Verdict::Success => self.answered(number, now_ms),
            Verdict::Failure if is_probe => {
                self.probe = None;
                Some(Change::Reopened { for_ms: self.open(policy, now_ms) })
            }
            Verdict::Failure if self.counts(number) => self.failed(policy, number, now_ms),
            Verdict::Failure => None,
            Verdict::Neutral | Verdict::Limited { .. } => {
                if is_probe {
                    (self.probe, self.due_ms) = (None, now_ms);
                }
                let Verdict::Limited { retry_after_ms } = verdict else { return None };
                let for_ms = retry_after_ms.unwrap_or(1000).min(60_000);
                let was_cooling = now_ms < self.cooling_until_ms;
                self.cooling_until_ms = self.cooling_until_ms.max(now_ms + for_ms);
                (!was_cooling && for_ms > 0).then_some(Change::Cooling { for_ms })
            }
        }
    }

    fn failed(&mut self, policy: &BreakerPolicy, number: usize, now_ms: u64) -> Option<Change> {
        // The window is as long as the policy says, and begins with a tenth of it.
        let tenth = |at_ms: u64| at_ms / u64::from(policy.window_ms.div_ceil(10));
        let is_recent = |at_ms: u64| tenth(at_ms) + 10 > tenth(now_ms);
        if self.calls[number].has_answered {
            let last = self.outcomes.iter().rposition(|(at_ms, success)| *success && is_recent(*at_ms));
            last.map(|last| self.outcomes.remove(last));
        }
        self.outcomes.push((now_ms, false));
        let recent: Vec<bool> =
            self.outcomes.iter().filter(|(at_ms, _)| is_recent(*at_ms)).map(|(_, success)| *success).collect();
        let calls = recent.len() as u64;
        let failures = recent.iter().filter(|success| !**success).count() as u64;
        let opens =
            calls >= u64::from(policy.min_calls) && failures * 100 >= calls * u64::from(policy.failure_rate_percent);
        opens.then(|| {
            self.changes.push(now_ms);
            Change::Opened { calls, failures, for_ms: self.open(policy, now_ms) }
        })
    }

    fn open(&mut self, policy: &BreakerPolicy, now_ms: u64) -> u64 {
        let twice = self.openings.last().map_or(policy.open_ms.into(), |last| last * 2);
        let for_ms = twice.min(policy.max_open_ms.into());
        self.openings.push(for_ms);
        self.due_ms = now_ms + for_ms;
        for_ms
    }
}
