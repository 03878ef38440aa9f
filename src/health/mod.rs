//! What an isolate knows of its targets: which of them fail, what each has to do, and how much is tried again.
//!
//! It is plain data without a clock, randomness or I/O, and small steps that are told the time: milliseconds since any
//! moment, as long as it is always the same. The configuration comes with each step, so that a new one holds at once.

mod backoff;
mod breaker;
#[cfg(test)]
mod breaker_tests;
mod budget;
mod recent;
mod turn;

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::config::{BreakerPolicy, RetryPolicy, Target};

pub use backoff::{Failed, backoff_ms};
pub use breaker::{Admission, Change, Reason, Refusal, Verdict};
pub use turn::{Candidate, in_turn};

use breaker::{Breaker, Pass};
use budget::Budget;

/// The most targets that are remembered. Beyond, the one that was not used for the longest time is forgotten: it was
/// dropped from the configuration, or can be learnt anew.
pub const MAX_TARGETS: usize = 512;

/// What an isolate knows of its targets. They are known by their names, `upstream/model`.
#[derive(Clone, Debug, Default)]
pub struct Health {
    targets: BTreeMap<Rc<str>, Known>,
    budget: Budget,
    /// How many attempts there were.
    attempts: u64,
}

/// What is known of one target.
#[derive(Clone, Debug)]
struct Known {
    breaker: Breaker,
    in_flight: u32,
    /// The numbers of the attempts that came first and last.
    first: u64,
    last: u64,
}

/// One attempt at a target, from [`Health::begin`] to [`Health::ended`]. There is no second one of it, so that it ends
/// only once.
#[derive(Debug)]
#[must_use = "an attempt that never ends weighs on its target for ever"]
pub struct Ticket {
    target: Rc<str>,
    /// The target's first attempt: a target that was forgotten meanwhile is another one.
    first: u64,
    pass: Pass,
}

impl Ticket {
    /// The name of the target.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether the attempt finds out if its target is well again.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.pass.is_probe()
    }
}

/// The targets of a model, as one request tries them.
#[derive(Clone, Debug)]
pub struct Turn<'a> {
    /// Those that may be asked, by turn. Whether each still may when its turn has come, [`Health::begin`] says.
    pub targets: Vec<&'a Target>,
    /// Of those that are passed over, the one that may be asked soonest.
    pub refusal: Option<Refusal>,
}

impl Health {
    /// Whose turn it is. `draw` is random, and the same for the same answer.
    #[must_use]
    pub fn turn<'a>(&self, policy: &BreakerPolicy, targets: &'a [Target], draw: u64, now_ms: u64) -> Turn<'a> {
        let candidate = |(place, target): (usize, &Target)| {
            let name = target.name();
            Candidate {
                order: target.order.unwrap_or(u32::try_from(place).unwrap_or(u32::MAX)),
                weight: target.weight,
                in_flight: self.in_flight(&name),
                admission: self.look(policy, &name, now_ms),
            }
        };
        let candidates: Vec<Candidate> = targets.iter().enumerate().map(candidate).collect();
        let refusals = candidates.iter().filter_map(|candidate| match candidate.admission {
            Admission::Refused(refusal) => Some(refusal),
            Admission::Go | Admission::Probe => None,
        });
        let turn = in_turn(&candidates, draw).into_iter().filter_map(|place| targets.get(place));
        Turn { targets: turn.collect(), refusal: refusals.min_by_key(|refusal| refusal.retry_after_ms) }
    }

    /// Whether a target may be asked. Nothing is promised by that.
    #[must_use]
    pub fn look(&self, policy: &BreakerPolicy, target: &str, now_ms: u64) -> Admission {
        self.targets.get(target).map_or(Admission::Go, |known| known.breaker.look(policy, now_ms))
    }

    /// An attempt at a target begins, if the target may be asked; half open, it may by one at a time.
    pub fn begin(&mut self, policy: &BreakerPolicy, target: &str, now_ms: u64) -> Result<Ticket, Refusal> {
        self.attempts = self.attempts.saturating_add(1);
        let number = self.attempts;
        let name = if let Some((name, _)) = self.targets.get_key_value(target) {
            Rc::clone(name)
        } else {
            self.make_room();
            Rc::from(target)
        };
        let known = self.targets.entry(Rc::clone(&name)).or_insert_with(|| Known {
            breaker: Breaker::default(),
            in_flight: 0,
            first: number,
            last: number,
        });
        known.last = number;
        let pass = known.breaker.begin(policy, now_ms)?;
        known.in_flight = known.in_flight.saturating_add(1);
        Ok(Ticket { target: name, first: known.first, pass })
    }

    /// A stream has begun to answer. It is told so that nobody waits for its end to know that its target is well. An
    /// attempt that ends in success need not say so before.
    pub fn answered(&mut self, policy: &BreakerPolicy, ticket: &mut Ticket, now_ms: u64) -> Option<Change> {
        let known = self.targets.get_mut(&ticket.target).filter(|known| known.first == ticket.first)?;
        known.breaker.answered(policy, &mut ticket.pass, now_ms)
    }

    /// An attempt is over, however it ended. The change is the operator's to know.
    pub fn ended(&mut self, policy: &BreakerPolicy, ticket: Ticket, verdict: Verdict, now_ms: u64) -> Option<Change> {
        let Ticket { target, first, pass } = ticket;
        let known = self.targets.get_mut(&target).filter(|known| known.first == first)?;
        known.in_flight = known.in_flight.saturating_sub(1);
        known.breaker.ended(policy, pass, verdict, now_ms)
    }

    /// How many attempts at a target have begun and not ended.
    #[must_use]
    pub fn in_flight(&self, target: &str) -> u32 {
        self.targets.get(target).map_or(0, |known| known.in_flight)
    }

    /// A request is tried for the first time, which allows for a share of a retry.
    pub fn first_attempt(&mut self, now_ms: u64) {
        self.budget.first_attempt(now_ms);
    }

    /// Whether anything may be tried again, wherever; if so, it is counted.
    pub fn may_retry(&mut self, policy: &RetryPolicy, now_ms: u64) -> bool {
        self.budget.take(policy, now_ms)
    }

    /// How many targets are remembered; at most [`MAX_TARGETS`].
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.targets.len()
    }

    /// Forgets until one more can be remembered. Who still has something to do goes last.
    fn make_room(&mut self) {
        while self.targets.len() >= MAX_TARGETS {
            let longest_unused = self.targets.iter().min_by_key(|(_, known)| (known.in_flight > 0, known.last));
            let Some(name) = longest_unused.map(|(name, _)| Rc::clone(name)) else { return };
            self.targets.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BREAKER: BreakerPolicy = BreakerPolicy {
        enabled: true,
        window_ms: 10_000,
        min_calls: 2,
        failure_rate_percent: 50,
        open_ms: 1000,
        max_open_ms: 8000,
    };

    fn call(health: &mut Health, target: &str, verdict: Verdict, now_ms: u64) -> Option<Change> {
        let ticket = health.begin(&BREAKER, target, now_ms).unwrap();
        health.ended(&BREAKER, ticket, verdict, now_ms)
    }

    fn targets(models: &[&str]) -> Vec<Target> {
        let target =
            |model: &&str| Target { upstream: "u".to_owned(), model: (*model).to_owned(), order: None, weight: 1 };
        models.iter().map(target).collect()
    }

    #[test]
    fn each_target_has_its_own_breaker() {
        let mut health = Health::default();
        assert_eq!(call(&mut health, "u/a", Verdict::Failure, 0), None);
        assert_eq!(call(&mut health, "u/b", Verdict::Failure, 0), None);
        let opened = Change::Opened { calls: 2, failures: 2, for_ms: 1000 };
        assert_eq!(call(&mut health, "u/a", Verdict::Failure, 0), Some(opened));
        assert_eq!(health.look(&BREAKER, "u/b", 0), Admission::Go);
        assert_eq!(health.look(&BREAKER, "u/c", 0), Admission::Go);
        assert_eq!(health.remembered(), 2, "to look is not to remember");
    }

    #[test]
    fn a_turn_has_who_may_be_asked_and_when_the_others_may() {
        let mut health = Health::default();
        let models = targets(&["a", "b", "c"]);
        let names = |turn: &Turn<'_>| turn.targets.iter().map(|target| target.model.clone()).collect::<String>();
        let turn = health.turn(&BREAKER, &models, 1, 0);
        assert_eq!((names(&turn).as_str(), turn.refusal), ("abc", None), "without an order it is the place");
        call(&mut health, "u/a", Verdict::Limited { retry_after_ms: Some(3000) }, 0);
        call(&mut health, "u/b", Verdict::Failure, 0);
        call(&mut health, "u/b", Verdict::Failure, 0);
        let turn = health.turn(&BREAKER, &models, 1, 400);
        let soonest = Refusal { retry_after_ms: 600, reason: Reason::Open };
        assert_eq!((names(&turn).as_str(), turn.refusal), ("c", Some(soonest)));
        assert_eq!(names(&health.turn(&BREAKER, &models, 1, 1000)), "bc", "a probe has its turn");
    }

    #[test]
    fn what_is_under_way_is_counted_and_shared_out() {
        let mut health = Health::default();
        let mut models = targets(&["a", "b"]);
        for target in &mut models {
            target.order = Some(0);
        }
        let first = health.begin(&BREAKER, "u/a", 0).unwrap();
        let second = health.begin(&BREAKER, "u/a", 0).unwrap();
        assert_eq!((health.in_flight("u/a"), health.in_flight("u/b")), (2, 0));
        for draw in 0..100 {
            assert_eq!(health.turn(&BREAKER, &models, draw, 0).targets[0].model, "b");
        }
        assert_eq!((first.target(), first.is_probe()), ("u/a", false));
        health.ended(&BREAKER, first, Verdict::Neutral, 0);
        health.ended(&BREAKER, second, Verdict::Failure, 0);
        assert_eq!(health.in_flight("u/a"), 0);
    }

    #[test]
    fn the_longest_unused_is_forgotten_and_who_is_busy_last() {
        let mut health = Health::default();
        let busy = health.begin(&BREAKER, "busy", 0).unwrap();
        for number in 0..MAX_TARGETS {
            call(&mut health, &number.to_string(), Verdict::Failure, 0);
        }
        assert_eq!(health.remembered(), MAX_TARGETS);
        assert_eq!(health.in_flight("busy"), 1);
        assert_eq!(call(&mut health, "0", Verdict::Failure, 0), None, "it was forgotten");
        assert!(call(&mut health, "2", Verdict::Failure, 0).is_some());
        health.ended(&BREAKER, busy, Verdict::Neutral, 0);
    }

    #[test]
    fn an_attempt_at_a_target_that_was_forgotten_does_not_end_at_the_next_one_of_its_name() {
        let mut health = Health::default();
        let mut tickets: Vec<Ticket> =
            (0..=MAX_TARGETS).map(|number| health.begin(&BREAKER, &number.to_string(), 0).unwrap()).collect();
        let forgotten = tickets.remove(0);
        let current = health.begin(&BREAKER, "0", 0).unwrap();
        assert_eq!(health.ended(&BREAKER, forgotten, Verdict::Failure, 0), None);
        assert_eq!(health.in_flight("0"), 1);
        health.ended(&BREAKER, current, Verdict::Failure, 0);
        assert_eq!(health.in_flight("0"), 0);
        assert_eq!(health.look(&BREAKER, "0", 0), Admission::Go, "one failure, not two");
    }
}
