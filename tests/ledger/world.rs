//! Sequences of everything that can happen to a ledger, and what it is compared with while they happen.

use std::collections::BTreeMap;

use completions_edge::quota::{
    Decision, Denial, Dimension, Entry, Ledger, Limits, MAX_LIMIT, Report, Reserve, Settle, Totals, UsageCounts,
    UsageKey,
};
use proptest::prelude::*;
use proptest::sample::Index;

use super::oracle::{Oracle, Verdict};
use super::{DAY_MS, START_MS, ask};

const KEYS: [&str; 3] = ["a", "b", "c"];
const MODELS: [&str; 2] = ["m", "n"];

type Usage = BTreeMap<UsageKey, UsageCounts>;

/// The limits of the tenant and of each key.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllLimits {
    tenant: Limits,
    keys: [Limits; KEYS.len()],
}

/// How much a request used, by its estimate.
#[derive(Clone, Copy, Debug)]
pub enum Actual {
    Zero,
    Less(u64),
    Equal,
    More(u64),
}

impl Actual {
    fn of(self, estimate: u64) -> u64 {
        match self {
            Self::Zero => 0,
            Self::Less(percent) => estimate * percent / 100,
            Self::Equal => estimate,
            Self::More(more) => estimate + more,
        }
    }
}

/// A slice as whoever spends it knows it.
#[derive(Debug)]
struct Slice {
    lease: String,
    requests: u64,
    tokens: u64,
    /// The estimate of each request; the last one takes what is left.
    each: u64,
    seq: u64,
    totals: Totals,
}

impl Slice {
    fn of(request: &Reserve, spare: u64) -> Self {
        let (requests, each) = (1 + spare, request.prompt_tokens + request.completion_tokens);
        let (lease, totals) = (request.lease.clone(), Totals::default());
        Self { lease, requests, tokens: each * requests, each, seq: 0, totals }
    }

    /// So many requests of it are made and end, and the rest is given back.
    fn spend(&mut self, model: &str, requests: u64, actual: Actual, close: bool) -> Report {
        for nth in 0..requests.min(self.requests) {
            // Not all are as large as the one that asked for the slice.
            let estimate = (self.each + nth % 3).saturating_sub(1).min(self.tokens);
            self.requests -= 1;
            self.tokens -= estimate;
            self.totals.estimated_tokens += estimate;
            let used = actual.of(estimate);
            self.totals.usage.entry(model.to_owned()).or_default().add(&UsageCounts {
                requests: 1,
                prompt_tokens: used / 3,
                completion_tokens: used - used / 3,
                estimated: nth % 2,
                refused: 0,
                errors: nth % 2,
            });
        }
        if close {
            self.totals.unspent_requests += std::mem::take(&mut self.requests);
            self.totals.unspent_tokens += std::mem::take(&mut self.tokens);
        }
        self.seq += 1;
        Report { lease: self.lease.clone(), seq: self.seq, totals: self.totals.clone() }
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Reserve {
        key: usize,
        model: usize,
        prompt_tokens: u64,
        completion_tokens: u64,
        lease_ms: u64,
        spare: u64,
    },
    /// Something becomes of a slice, and a report is made of it, which may get lost for now.
    Spend {
        slice: Index,
        model: usize,
        requests: u64,
        actual: Actual,
        close: bool,
        arrives: bool,
    },
    /// A report arrives, once more or only now.
    Arrive {
        report: Index,
    },
    ReserveAgain {
        lease: Index,
        key: usize,
    },
    SettleOpen {
        lease: Index,
        actual: Actual,
        estimated: bool,
        failed: bool,
    },
    SettleAny {
        lease: Index,
        actual: Actual,
    },
    SettleUnknown,
    Renew {
        lease: Index,
        lease_ms: u64,
    },
    Revoke {
        key: usize,
    },
    Pass {
        ms: u64,
    },
    PassToEnd {
        month: bool,
        off_by: u64,
    },
    PassToExpiry {
        off_by: u64,
    },
    GoBack {
        ms: u64,
    },
    Expire,
    Look {
        key: usize,
    },
    Compact,
    TakeUsage,
    RestartFromJournal,
    Snapshot,
    RestartFromSnapshot,
    Change {
        limits: Index,
    },
}

pub fn limits() -> BoxedStrategy<Limits> {
    let requests = || prop_oneof![3 => Just(None), 4 => (1u64..8).prop_map(Some), 1 => Just(Some(0))];
    let tokens = |most| prop_oneof![3 => Just(None), 6 => (1..most).prop_map(Some), 1 => Just(Some(0)), 1 => Just(Some(MAX_LIMIT))];
    let parts = (requests(), tokens(200u64), requests(), tokens(400), tokens(800), requests());
    parts
        .prop_map(|(rpm, tpm, rpd, tpd, tokens_per_month, concurrent_requests)| Limits {
            requests_per_minute: rpm,
            tokens_per_minute: tpm,
            requests_per_day: rpd.map(|limit| limit * 3),
            tokens_per_day: tpd,
            tokens_per_month,
            concurrent_requests,
        })
        .boxed()
}

/// Limits of which a part is enough for several requests.
pub fn wide_limits() -> BoxedStrategy<Limits> {
    let some = |most: u64| prop_oneof![2 => Just(None), 3 => (1..most).prop_map(Some)];
    (some(400), some(8000), some(600), some(9000), some(12_000), some(300))
        .prop_map(|(rpm, tpm, rpd, tpd, tokens_per_month, concurrent_requests)| Limits {
            requests_per_minute: rpm,
            tokens_per_minute: tpm,
            requests_per_day: rpd,
            tokens_per_day: tpd,
            tokens_per_month,
            concurrent_requests,
        })
        .boxed()
}

/// Limits a minute and nothing else that would keep a sequence short.
pub fn limits_per_minute() -> BoxedStrategy<Limits> {
    let tokens = prop_oneof![1 => Just(None), 8 => (20u64..400).prop_map(Some)];
    let requests = prop_oneof![3 => Just(None), 1 => (5u64..20).prop_map(Some)];
    let parts = (requests, tokens);
    parts
        .prop_map(|(requests_per_minute, tokens_per_minute)| Limits {
            requests_per_minute,
            tokens_per_minute,
            ..Limits::default()
        })
        .boxed()
}

pub fn all_limits(limits: BoxedStrategy<Limits>) -> impl Strategy<Value = AllLimits> {
    (limits.clone(), [limits.clone(), limits.clone(), limits]).prop_map(|(tenant, keys)| AllLimits { tenant, keys })
}

fn actual() -> impl Strategy<Value = Actual> {
    prop_oneof![
        Just(Actual::Zero),
        (0u64..100).prop_map(Actual::Less),
        Just(Actual::Equal),
        (1u64..300).prop_map(Actual::More)
    ]
}

pub fn op(changing: bool) -> impl Strategy<Value = Op> {
    let lease_ms = || prop_oneof![Just(0), Just(1), 1u64..100_000, Just(600_000), Just(2 * DAY_MS), Just(40 * DAY_MS)];
    let tokens = || prop_oneof![1 => Just(0), 6 => 0u64..40, 2 => 0u64..250];
    let ms = prop_oneof![
        Just(0),
        Just(1),
        0u64..1000,
        0u64..20_000,
        0u64..120_000,
        0..DAY_MS,
        0..4 * DAY_MS,
        0..70 * DAY_MS
    ];
    let (key, index) = (|| 0..KEYS.len(), any::<Index>);
    let spare = prop_oneof![2 => Just(0u64), 2 => 0u64..70, 1 => 200u64..300];
    prop_oneof![
        24 => (key(), 0..MODELS.len(), tokens(), tokens(), lease_ms(), spare).prop_map(
            |(key, model, prompt_tokens, completion_tokens, lease_ms, spare)| {
                Op::Reserve { key, model, prompt_tokens, completion_tokens, lease_ms, spare }
            }
        ),
        12 => (index(), 0..MODELS.len(), 0u64..20, actual(), any::<bool>(), any::<bool>()).prop_map(
            |(slice, model, requests, actual, close, arrives)| {
                Op::Spend { slice, model, requests, actual, close, arrives }
            }
        ),
        8 => index().prop_map(|report| Op::Arrive { report }),
        8 => (index(), actual(), any::<bool>(), any::<bool>())
            .prop_map(|(lease, actual, estimated, failed)| Op::SettleOpen { lease, actual, estimated, failed }),
        9 => ms.prop_map(|ms| Op::Pass { ms }),
        2 => (any::<bool>(), 0u64..3).prop_map(|(month, off_by)| Op::PassToEnd { month, off_by }),
        2 => (0u64..3).prop_map(|off_by| Op::PassToExpiry { off_by }),
        2 => (index(), key()).prop_map(|(lease, key)| Op::ReserveAgain { lease, key }),
        2 => (index(), actual()).prop_map(|(lease, actual)| Op::SettleAny { lease, actual }),
        1 => Just(Op::SettleUnknown),
        2 => (index(), lease_ms()).prop_map(|(lease, lease_ms)| Op::Renew { lease, lease_ms }),
        1 => (0..KEYS.len()).prop_map(|key| Op::Revoke { key }),
        2 => (0u64..200_000).prop_map(|ms| Op::GoBack { ms }),
        1 => Just(Op::Expire),
        2 => key().prop_map(|key| Op::Look { key }),
        2 => Just(Op::Compact),
        2 => Just(Op::TakeUsage),
        2 => Just(Op::RestartFromJournal),
        2 => Just(Op::Snapshot),
        2 => Just(Op::RestartFromSnapshot),
        if changing { 6 } else { 1 } => index().prop_map(|limits| Op::Change { limits }),
    ]
}

/// What has been written down: a snapshot, and what has happened since.
#[derive(Debug)]
struct Storage {
    snapshot: String,
    journal: Vec<(String, u64)>,
}

impl Storage {
    fn of(ledger: &Ledger) -> Self {
        Self { snapshot: serde_json::to_string(ledger).unwrap(), journal: Vec::new() }
    }

    fn read(&self) -> Ledger {
        let mut ledger: Ledger = serde_json::from_str(&self.snapshot).unwrap();
        for (entry, at_ms) in &self.journal {
            ledger.apply(&serde_json::from_str(entry).unwrap(), *at_ms);
        }
        ledger
    }
}

/// A ledger, what it is compared with, and what it has written down.
struct World {
    clock_ms: u64,
    slices: Vec<Slice>,
    /// Every report that was ever made.
    reports: Vec<Report>,
    limits: AllLimits,
    oracle: Oracle,
    ledger: Ledger,
    /// It never sees what is refused or only looked at, never restarts and never forgets.
    twin: Ledger,
    since_ever: Storage,
    since_snapshot: Storage,
    /// What has been taken out of the ledger, and what of it before the snapshot.
    usage: Usage,
    usage_at_snapshot: Usage,
}

fn add(usage: &mut Usage, more: Usage) {
    for (key, counts) in more {
        let sum = usage.entry(key).or_default();
        sum.add(&counts);
    }
}

impl World {
    fn new(limits: &AllLimits) -> Self {
        let ledger = Ledger::default();
        Self {
            clock_ms: START_MS,
            slices: Vec::new(),
            reports: Vec::new(),
            limits: *limits,
            oracle: Oracle::default(),
            twin: Ledger::default(),
            since_ever: Storage::of(&ledger),
            since_snapshot: Storage::of(&ledger),
            ledger,
            usage: Usage::new(),
            usage_at_snapshot: Usage::new(),
        }
    }

    /// The time by which the ledger acts when it is asked something now.
    fn tell(&mut self) -> u64 {
        self.oracle.pass(self.clock_ms);
        self.oracle.now_ms
    }

    fn write(&mut self, entry: &Entry) {
        let entry = serde_json::to_string(entry).unwrap();
        for storage in [&mut self.since_ever, &mut self.since_snapshot] {
            storage.journal.push((entry.clone(), self.oracle.now_ms));
        }
    }

    fn open_lease(&self, index: Index) -> Option<Reserve> {
        let open: Vec<&Reserve> = self.oracle.open().collect();
        (!open.is_empty()).then(|| (*index.get(&open)).clone())
    }

    fn any_lease(&self, index: Index) -> Option<Reserve> {
        let leases: Vec<&Reserve> = self.oracle.leases().collect();
        (!leases.is_empty()).then(|| (*index.get(&leases)).clone())
    }

    fn reserve(&mut self, request: &Reserve) {
        let now_ms = self.tell();
        let known = self.oracle.open().any(|open| open.lease == request.lease);
        let verdict = self.oracle.reserve(request);
        let decision = self.ledger.reserve(request, self.clock_ms);
        let mut twin = self.twin.clone();
        assert_eq!(twin.reserve(request, now_ms), decision, "what was refused left a trace");
        match (verdict, decision) {
            (Verdict::Admitted(expected), Decision::Admitted { spare }) => {
                assert_eq!(spare, expected);
                self.twin = twin;
                if !known {
                    self.write(&Entry::Reserve(Reserve { spare, ..request.clone() }));
                    if spare > 0 {
                        self.slices.push(Slice::of(request, spare));
                    }
                }
            }
            (Verdict::Revoked, Decision::Revoked) => {}
            (Verdict::Denied(denials), Decision::Denied(denial)) => {
                let longest = |denial: &Denial| denial.retry_after_ms.unwrap_or(u64::MAX);
                assert!(denials.contains(&denial), "{denial:?} is none of {denials:?}");
                assert_eq!(denials.iter().map(longest).max(), Some(longest(&denial)), "{denials:?}");
                let no_place = denials.iter().any(|denial| denial.dimension == Dimension::ConcurrentRequests);
                self.check_retry(request, &denial, no_place);
            }
            (verdict, decision) => panic!("the oracle says {verdict:?}, the ledger {decision:?}"),
        }
    }

    /// Whoever waits as long as was said is admitted, if nobody else comes, and a millisecond earlier is not.
    fn check_retry(&self, request: &Reserve, denial: &Denial, no_place: bool) {
        let now_ms = self.oracle.now_ms;
        let after = |ms| self.ledger.clone().reserve(request, now_ms + ms);
        let alone = Ledger::default().reserve(request, now_ms);
        let Some(wait_ms) = denial.retry_after_ms else {
            let never = matches!(alone, Decision::Denied(Denial { retry_after_ms: None, .. }));
            // The debt of a limit of 0 is not repaid by time.
            assert!(never || (denial.limit, denial.requested) == (0, 0), "{denial:?}");
            assert!(matches!(after(400 * DAY_MS), Decision::Denied(_)), "{denial:?}");
            return;
        };
        assert!(matches!(alone, Decision::Admitted { .. }), "{denial:?}");
        assert!(wait_ms > 0);
        match after(wait_ms) {
            Decision::Admitted { .. } => {}
            // How long a place is taken is a guess.
            Decision::Denied(denial) if no_place => assert_eq!(denial.dimension, Dimension::ConcurrentRequests),
            decision => panic!("after {wait_ms} ms: {decision:?}"),
        }
        if denial.dimension != Dimension::ConcurrentRequests {
            assert!(matches!(after(wait_ms - 1), Decision::Denied(_)), "{denial:?}: it need not have waited so long");
        }
    }

    fn report(&mut self, report: &Report) {
        let now_ms = self.tell();
        let expected = self.oracle.report(report);
        assert_eq!(self.ledger.report(report, self.clock_ms), expected);
        assert_eq!(self.twin.report(report, now_ms), expected);
        if expected {
            self.write(&Entry::Report(report.clone()));
            assert!(!self.ledger.report(report, self.clock_ms), "a report counts once");
        }
    }

    fn settle(&mut self, request: &Reserve, actual: Actual, estimated: bool, failed: bool) {
        let tokens = actual.of(request.prompt_tokens + request.completion_tokens);
        let prompt_tokens = tokens.min(request.prompt_tokens);
        let completion_tokens = tokens - prompt_tokens;
        let settle =
            Settle { lease: request.lease.clone(), prompt_tokens, completion_tokens, estimated, failed, unmade: false };
        let now_ms = self.tell();
        let expected = self.oracle.settle(&settle);
        assert_eq!(self.ledger.settle(&settle, self.clock_ms), expected);
        assert_eq!(self.twin.settle(&settle, now_ms), expected);
        if expected {
            self.write(&Entry::Settle(settle.clone()));
            assert!(!self.ledger.settle(&settle, self.clock_ms), "a promise is settled once");
        }
    }

    fn restart(&mut self, ledger: Ledger, mut usage: Usage) {
        // Refusals are written nowhere, so that a restart forgets how many there were since they were last taken.
        add(&mut self.usage, self.ledger.take_usage());
        for (key, counts) in &self.usage {
            if counts.refused > 0 {
                usage.entry(key.clone()).or_default().refused = counts.refused;
            }
        }
        (self.ledger, self.usage) = (ledger, usage);
        // The journal has the time of what changed the ledger; that of what it only looked at is up to the clock.
        self.clock_ms = self.tell();
        self.ledger.expire(self.clock_ms);
    }

    /// When the day ends, or the month: an unused account tells.
    fn end_ms(&self, month: bool) -> u64 {
        let limits = Limits { tokens_per_day: Some(1), tokens_per_month: Some(1), ..Limits::default() };
        let mut oracle = self.oracle.clone();
        oracle.pass(self.clock_ms);
        let standings = oracle.standings("nobody", Limits::default(), limits);
        oracle.now_ms + standings[usize::from(month)].reset_ms
    }

    fn step(&mut self, op: &Op, number: usize, choices: &[AllLimits]) {
        match *op {
            Op::Spend { slice, model, requests, actual, close, arrives } if !self.slices.is_empty() => {
                let slice = slice.index(self.slices.len());
                let report = self.slices[slice].spend(MODELS[model], requests, actual, close);
                self.reports.push(report.clone());
                if arrives {
                    self.report(&report);
                }
            }
            Op::Arrive { report } if !self.reports.is_empty() => {
                let report = report.get(&self.reports).clone();
                self.report(&report);
            }
            Op::Spend { .. } | Op::Arrive { .. } => {}
            Op::Reserve { key, model, prompt_tokens, completion_tokens, lease_ms, spare } => self.reserve(&Reserve {
                key: KEYS[key].to_owned(),
                model: MODELS[model].to_owned(),
                prompt_tokens,
                completion_tokens,
                tenant_limits: self.limits.tenant,
                key_limits: self.limits.keys[key],
                lease_ms,
                spare,
                ..ask(&format!("lease-{number}"), 0)
            }),
            Op::ReserveAgain { lease, key } => {
                if let Some(request) = self.open_lease(lease) {
                    // What else it says does not matter, unless the promise has just run out.
                    let (tenant_limits, key_limits) = (self.limits.tenant, self.limits.keys[key]);
                    let key = KEYS[key].to_owned();
                    self.reserve(&Reserve {
                        key,
                        completion_tokens: 7,
                        tenant_limits,
                        key_limits,
                        spare: 0,
                        ..request
                    });
                }
            }
            Op::SettleOpen { lease, actual, estimated, failed } => {
                if let Some(request) = self.open_lease(lease) {
                    self.settle(&request, actual, estimated, failed);
                }
            }
            Op::SettleAny { lease, actual } => {
                if let Some(request) = self.any_lease(lease) {
                    self.settle(&request, actual, false, false);
                }
            }
            Op::SettleUnknown => {
                let unknown = ask("unknown", 10);
                self.settle(&unknown, Actual::More(1), false, false);
            }
            Op::Renew { lease, lease_ms } => {
                let Some(request) = self.any_lease(lease) else { return };
                let now_ms = self.tell();
                let renewed = self.oracle.renew(&request.lease, lease_ms);
                assert_eq!(self.ledger.renew(&request.lease, lease_ms, self.clock_ms), renewed);
                assert_eq!(self.twin.renew(&request.lease, lease_ms, now_ms), renewed);
                if renewed {
                    self.write(&Entry::Renew { lease: request.lease, lease_ms });
                }
            }
            Op::Revoke { key } => {
                let (key, now_ms) = (KEYS[key].to_owned(), self.tell());
                self.oracle.revoke(&key);
                self.ledger.revoke(&key, self.clock_ms);
                self.twin.revoke(&key, now_ms);
                self.write(&Entry::Revoke { key });
            }
            Op::Pass { ms } => self.clock_ms += ms,
            Op::PassToEnd { month, off_by } => self.clock_ms = self.end_ms(month) + off_by - 1,
            Op::PassToExpiry { off_by } => {
                self.clock_ms = self.oracle.next_expiry_ms().map_or(self.clock_ms, |at_ms| at_ms + off_by - 1);
            }
            Op::GoBack { ms } => self.clock_ms -= ms,
            Op::Expire => {
                self.tell();
                self.ledger.expire(self.clock_ms);
            }
            Op::Look { key } => {
                self.tell();
                let (key, limits) = (KEYS[key], self.limits.keys[key]);
                let standings = self.ledger.standings(key, self.limits.tenant, limits, self.clock_ms);
                assert_eq!(standings, self.oracle.standings(key, self.limits.tenant, limits));
            }
            Op::Compact => {
                self.tell();
                self.ledger.compact(self.clock_ms);
            }
            Op::TakeUsage => add(&mut self.usage, self.ledger.take_usage()),
            Op::RestartFromJournal => self.restart(self.since_ever.read(), Usage::new()),
            Op::Snapshot => {
                add(&mut self.usage, self.ledger.take_usage());
                self.usage_at_snapshot = self.usage.clone();
                self.since_snapshot = Storage::of(&self.ledger);
            }
            Op::RestartFromSnapshot => self.restart(self.since_snapshot.read(), self.usage_at_snapshot.clone()),
            Op::Change { limits } => self.limits = *limits.get(choices),
        }
    }

    /// Everything that can be seen is as the oracle says.
    fn check(&self) {
        let mut oracle = self.oracle.clone();
        oracle.pass(self.clock_ms);
        let now_ms = oracle.now_ms;
        let mut ledger = self.ledger.clone();
        ledger.expire(now_ms);
        assert_eq!(ledger.next_expiry_ms(), oracle.next_expiry_ms());
        for (key, limits) in KEYS.into_iter().zip(self.limits.keys) {
            let expected = oracle.standings(key, self.limits.tenant, limits);
            assert_eq!(ledger.standings(key, self.limits.tenant, limits, now_ms), expected);
            assert_eq!(self.twin.clone().standings(key, self.limits.tenant, limits, now_ms), expected);
        }
        let mut usage = self.usage.clone();
        add(&mut usage, ledger.take_usage());
        assert_eq!(usage, oracle.usage());
        for reserve in oracle.leases() {
            let open = oracle.open().any(|open| open.lease == reserve.lease);
            assert_eq!(ledger.holds(&reserve.lease), open);
        }
    }
}

/// Lets it all happen, and panics where the ledger is not as the oracle says.
pub fn run(choices: &[AllLimits], ops: &[Op]) {
    let mut world = World::new(&choices[0]);
    for (number, op) in ops.iter().enumerate() {
        world.step(op, number, choices);
        world.check();
    }
    world.oracle.check_never_over(&KEYS);
}
