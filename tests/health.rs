//! What an isolate knows of its targets: the breakers against an oracle that keeps no counters but the whole past, the
//! retry budget against the list of all attempts, and whose turn it is.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

#[path = "health/oracle.rs"]
mod oracle;

use completions_edge::config::{BreakerPolicy, RetryPolicy, Target};
use completions_edge::health::{
    Admission, Candidate, Failed, Health, MAX_TARGETS, Reason, Refusal, Ticket, Verdict, backoff_ms, in_turn,
};
use oracle::Oracle;
use proptest::prelude::*;
use proptest::sample::Index;

const TARGETS: [&str; 2] = ["u/a", "u/b"];

/// What can happen to targets.
#[derive(Clone, Debug)]
enum Op {
    Begin {
        target: usize,
    },
    Answered {
        call: Index,
    },
    Ended {
        call: Index,
        verdict: Verdict,
    },
    /// A call that ends at once.
    Call {
        target: usize,
        verdict: Verdict,
    },
    Pass {
        ms: u64,
    },
}

fn policy() -> impl Strategy<Value = BreakerPolicy> {
    (1000u32..20_000, 1u32..6, 1u32..=100, 100u32..5000, 1u32..20).prop_map(
        |(window_ms, min_calls, failure_rate_percent, open_ms, times)| BreakerPolicy {
            enabled: true,
            window_ms,
            min_calls,
            failure_rate_percent,
            open_ms,
            max_open_ms: open_ms * times,
        },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let limited = prop_oneof![Just(None), (0u64..3000).prop_map(Some), Just(Some(100_000))];
    prop_oneof![
        3 => Just(Verdict::Success),
        6 => Just(Verdict::Failure),
        1 => Just(Verdict::Neutral),
        1 => limited.prop_map(|retry_after_ms| Verdict::Limited { retry_after_ms }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let target = || 0..TARGETS.len();
    let pass = prop_oneof![0u64..100, 0u64..3000, 0u64..30_000, Just(90_000)];
    prop_oneof![
        3 => target().prop_map(|target| Op::Begin { target }),
        1 => any::<Index>().prop_map(|call| Op::Answered { call }),
        3 => (any::<Index>(), verdict()).prop_map(|(call, verdict)| Op::Ended { call, verdict }),
        4 => (target(), verdict()).prop_map(|(target, verdict)| Op::Call { target, verdict }),
        3 => pass.prop_map(|ms| Op::Pass { ms }),
    ]
}

/// The breakers beside their oracles.
struct World {
    policy: BreakerPolicy,
    health: Health,
    oracles: [Oracle; TARGETS.len()],
    /// The calls under way, with their targets and their numbers there.
    open: Vec<(Ticket, usize, usize)>,
    now_ms: u64,
}

impl World {
    /// Begins a call, or is refused as the oracle says.
    fn begin(&mut self, target: usize) -> Option<(Ticket, usize, usize)> {
        let admission = self.oracles[target].look(self.now_ms);
        match self.health.begin(&self.policy, TARGETS[target], self.now_ms) {
            Ok(ticket) => {
                assert_eq!(admission, if ticket.is_probe() { Admission::Probe } else { Admission::Go });
                assert_eq!(ticket.target(), TARGETS[target]);
                Some((ticket, target, self.oracles[target].begin(self.now_ms)))
            }
            Err(refusal) => {
                assert_eq!(admission, Admission::Refused(refusal));
                assert!(refusal.retry_after_ms > 0);
                None
            }
        }
    }

    fn end(&mut self, (ticket, target, number): (Ticket, usize, usize), verdict: Verdict) {
        let expected = self.oracles[target].ended(&self.policy, number, verdict, self.now_ms);
        assert_eq!(self.health.ended(&self.policy, ticket, verdict, self.now_ms), expected);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Begin { target } => {
                let call = self.begin(*target);
                self.open.extend(call);
            }
            Op::Call { target, verdict } => {
                if let Some(call) = self.begin(*target) {
                    self.end(call, *verdict);
                }
            }
            Op::Answered { call } if !self.open.is_empty() => {
                let place = call.index(self.open.len());
                let (ticket, target, number) = &mut self.open[place];
                let expected = self.oracles[*target].answered(*number, self.now_ms);
                assert_eq!(self.health.answered(&self.policy, ticket, self.now_ms), expected);
            }
            Op::Ended { call, verdict } if !self.open.is_empty() => {
                let call = self.open.swap_remove(call.index(self.open.len()));
                self.end(call, *verdict);
            }
            Op::Answered { .. } | Op::Ended { .. } => {}
            Op::Pass { ms } => self.now_ms += ms,
        }
    }

    fn check(&self) {
        for (name, oracle) in TARGETS.iter().zip(&self.oracles) {
            assert_eq!(self.health.look(&self.policy, name, self.now_ms), oracle.look(self.now_ms));
            assert_eq!(self.health.in_flight(name) as usize, oracle.in_flight());
            assert!(oracle.probes(self.now_ms) <= 1, "one probe at a time");
        }
    }
}

fn admission() -> impl Strategy<Value = Admission> {
    let refused = Admission::Refused(Refusal { retry_after_ms: 1, reason: Reason::Open });
    prop_oneof![4 => Just(Admission::Go), 1 => Just(Admission::Probe), 2 => Just(refused)]
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let candidate = (0u32..4, 1u32..=1000, 0u32..50, admission())
        .prop_map(|(order, weight, in_flight, admission)| Candidate { order, weight, in_flight, admission });
    prop::collection::vec(candidate, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn breakers_do_what_the_oracle_says(
        policy in policy(),
        start_ms in prop_oneof![Just(0), Just(1_709_078_340_000), 0u64..100_000],
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let (health, oracles) = (Health::default(), Default::default());
        let mut world = World { policy, health, oracles, open: Vec::new(), now_ms: start_ms };
        for op in &ops {
            world.apply(op);
            world.check();
        }
    }

    #[test]
    fn retries_are_never_more_than_the_share_and_the_minimum(
        budget_percent in 0u32..=100,
        min_retries_per_10s in 0u32..5,
        steps in prop::collection::vec((prop_oneof![Just(0), 0u64..200, 0u64..5000], 0u32..8, 0u32..8), 1..150),
    ) {
        let policy = RetryPolicy { budget_percent, min_retries_per_10s, ..RetryPolicy::default() };
        let mut health = Health::default();
        let (mut requests, mut retries) = (Vec::<u64>::new(), Vec::<u64>::new());
        let mut now_ms = 0;
        for (passed, first_attempts, wanted) in steps {
            now_ms += passed;
            for _ in 0..first_attempts {
                health.first_attempt(now_ms);
                requests.push(now_ms);
            }
            let within = |times: &[u64], ms: u64| times.iter().filter(|at| now_ms - **at < ms).count() as u64;
            let allowed = |requests| u64::from(min_retries_per_10s) + requests * u64::from(budget_percent) / 100;
            for _ in 0..wanted {
                if health.may_retry(&policy, now_ms) {
                    retries.push(now_ms);
                    assert!(within(&retries, 10_000) <= allowed(within(&requests, 10_000)));
                } else {
                    // Nor are they fewer, but for the second by which the window slides.
                    assert!(within(&retries, 11_000) >= allowed(within(&requests, 9000)));
                }
            }
        }
    }

    #[test]
    fn a_turn_has_each_admitted_target_once_and_lower_orders_first(candidates in candidates(), draw: u64) {
        let turn = in_turn(&candidates, draw);
        assert_eq!(turn, in_turn(&candidates, draw));
        assert!(turn.is_sorted_by_key(|place| candidates[*place].order));
        let mut places = turn;
        places.sort_unstable();
        let is_admitted = |place: &usize| !matches!(candidates[*place].admission, Admission::Refused(_));
        assert_eq!(places, (0..candidates.len()).filter(is_admitted).collect::<Vec<_>>());
    }

    #[test]
    fn pitfall_33_a_retry_waits_as_long_as_it_was_told_and_never_longer_than_it_may(
        attempts in 1u32..100,
        retry_after_ms in prop::option::of(0u64..10_000),
        waited_ms in 0u64..10_000,
        draw: u64,
    ) {
        let policy = RetryPolicy { same_target_attempts: 50, ..RetryPolicy::default() };
        let asked = retry_after_ms.unwrap_or_default();
        match backoff_ms(&policy, Failed { attempts, retry_after_ms, waited_ms }, draw) {
            Some(wait_ms) => {
                assert!(wait_ms >= asked && waited_ms + wait_ms <= 5000 && wait_ms - asked <= 2000);
                assert!(attempts < 50);
            }
            None => assert!(attempts >= 50 || waited_ms >= 5000 || waited_ms + asked > 5000),
        }
    }
}

proptest! {
    // Each case is thousands of steps.
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_many_targets_there_are_only_so_many_are_remembered(
        names in prop::collection::vec((0usize..2 * MAX_TARGETS, any::<bool>()), 1500..3000),
    ) {
        let (policy, mut health, mut open) = (BreakerPolicy::default(), Health::default(), Vec::new());
        for (name, stays) in names {
            let Ok(ticket) = health.begin(&policy, &name.to_string(), 0) else { continue };
            if stays {
                open.push(ticket);
            } else {
                health.ended(&policy, ticket, Verdict::Failure, 0);
            }
            assert!(health.remembered() <= MAX_TARGETS);
        }
        for ticket in open {
            health.ended(&policy, ticket, Verdict::Success, 0);
        }
        assert!((0..2 * MAX_TARGETS).all(|name| health.in_flight(&name.to_string()) == 0));
    }
}

/// How many of 20,000 requests, one a millisecond, go to each target first, where they take so many milliseconds there.
fn shares(weights: &[u32], answer_ms: &[u64]) -> Vec<u32> {
    let (policy, mut health) = (BreakerPolicy::default(), Health::default());
    let target = |(number, weight): (usize, &u32)| Target {
        upstream: "u".to_owned(),
        model: number.to_string(),
        order: Some(0),
        weight: *weight,
    };
    let targets: Vec<Target> = weights.iter().enumerate().map(target).collect();
    let mut shares = vec![0; weights.len()];
    let mut open: Vec<(u64, Ticket)> = Vec::new();
    for now_ms in 0..20_000 {
        for index in (0..open.len()).rev() {
            if open[index].0 <= now_ms {
                health.ended(&policy, open.swap_remove(index).1, Verdict::Success, now_ms);
            }
        }
        let name = health.turn(&policy, &targets, now_ms, now_ms).targets[0].name();
        let number: usize = name.strip_prefix("u/").unwrap().parse().unwrap();
        shares[number] += 1;
        open.push((now_ms + answer_ms[number], health.begin(&policy, &name, now_ms).unwrap()));
    }
    shares
}

#[track_caller]
fn check_shares(shares: &[u32], expected: &[u32]) {
    for (share, expected) in shares.iter().zip(expected) {
        assert!(share.abs_diff(*expected) <= expected / 20 + 20, "{shares:?}");
    }
}

#[test]
fn shares_are_as_the_weights_idle_and_under_load() {
    check_shares(&shares(&[1, 3], &[0, 0]), &[5000, 15_000]);
    check_shares(&shares(&[1, 2, 5], &[0, 0, 0]), &[2500, 5000, 12_500]);
    check_shares(&shares(&[1, 3], &[400, 400]), &[5000, 15_000]);
    check_shares(&shares(&[1, 2, 5], &[400, 400, 400]), &[2500, 5000, 12_500]);
    check_shares(&shares(&[1, 1, 1, 1], &[50, 50, 50, 50]), &[5000; 4]);
}

#[test]
fn a_slow_target_gets_less_than_its_weight() {
    let shares = shares(&[1, 1], &[100, 900]);
    check_shares(&shares, &[18_000, 2000]);
}
