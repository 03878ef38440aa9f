//! Any number of isolates against one ledger: calls and replies that are lost, isolates that die, ledgers that restart.

use completions_edge::quota::{
    Answer, Ask, Asking, Call, Desk, Dimension, Limits, Refusal, Reply, Reserve, Settle, Slices, Spent, Standing, Tend,
    Tending, UsageCounts, Verdict, Way,
};
use proptest::prelude::*;
use proptest::sample::Index;

use super::common::{MemoryStore, NOW_MS};

pub const TENANT: &str = "acme";
pub const KEYS: [&str; 2] = ["a", "b"];
pub const SLICE_MS: u64 = 1000;
pub const LEASE_MS: u64 = 300_000;
/// The tokens of most requests.
pub const TOKENS: u64 = 10;

/// A request that has been admitted.
#[derive(Clone, Debug)]
pub struct Run {
    lease: String,
    tokens: u64,
    key: usize,
    spent: Option<Spent>,
}

/// A request that waits for the ledger.
#[derive(Debug)]
pub struct Waiting {
    lease: String,
    tokens: u64,
    key: usize,
    asking: Asking,
    /// None until it has been asked.
    reply: Option<Reply>,
    /// The ledger keeps the reply back until it is written down.
    is_held: bool,
}

#[derive(Debug, Default)]
pub struct Isolate {
    pub slices: Slices,
    pub runs: Vec<Run>,
    pub waiting: Vec<Waiting>,
    pub tending: Vec<Tending>,
}

#[derive(Clone, Debug)]
pub enum Op {
    /// So many requests come at once.
    Ask {
        isolate: usize,
        key: usize,
        tokens: u64,
        times: usize,
    },
    /// The ledger gets the calls of some requests.
    Call {
        isolate: usize,
        request: Index,
        times: usize,
    },
    /// Requests get their replies, if there are any and they are not lost.
    Reply {
        isolate: usize,
        request: Index,
        times: usize,
        lost: bool,
    },
    End {
        isolate: usize,
        run: Index,
        percent: u64,
        times: usize,
    },
    Tend {
        isolate: usize,
        tending: Index,
        lost: Loss,
    },
    Pass {
        ms: u64,
    },
    Die {
        isolate: usize,
    },
    /// The ledger writes down what it was told, and answers that.
    WriteDown,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    Nothing,
    Call,
    Reply,
    /// The ledger restarts before it has written down what it was told.
    Restart,
}

pub fn op() -> impl Strategy<Value = Op> {
    let isolate = || 0..3usize;
    let index = any::<Index>;
    let tokens = prop_oneof![6 => Just(TOKENS), 1 => 0..3 * TOKENS];
    let loss =
        prop_oneof![4 => Just(Loss::Nothing), 1 => Just(Loss::Call), 1 => Just(Loss::Reply), 1 => Just(Loss::Restart)];
    prop_oneof![
        24 => (isolate(), 0..KEYS.len(), tokens, 1..30usize)
            .prop_map(|(isolate, key, tokens, times)| Op::Ask { isolate, key, tokens, times }),
        20 => (isolate(), index(), 1..30usize)
            .prop_map(|(isolate, request, times)| Op::Call { isolate, request, times }),
        20 => (isolate(), index(), 1..30usize, prop::bool::weighted(0.1))
            .prop_map(|(isolate, request, times, lost)| Op::Reply { isolate, request, times, lost }),
        20 => (isolate(), index(), 0u64..=100, 1..40usize)
            .prop_map(|(isolate, run, percent, times)| Op::End { isolate, run, percent, times }),
        10 => (isolate(), index(), loss).prop_map(|(isolate, tending, lost)| Op::Tend { isolate, tending, lost }),
        10 => prop_oneof![3 => 1u64..60, 1 => 60u64..600, 1 => 600u64..3000].prop_map(|ms| Op::Pass { ms }),
        1 => isolate().prop_map(|isolate| Op::Die { isolate }),
        4 => Just(Op::WriteDown),
        2 => Just(Op::Restart),
    ]
}

pub fn limits() -> impl Strategy<Value = Limits> {
    let some = |least: u64, most: u64| prop_oneof![2 => Just(None), 1 => (least..most).prop_map(Some)];
    let requests = (some(20, 2000), some(20, 500), some(5, 200));
    (requests, some(200, 20_000), some(200, 6000), some(200, 6000)).prop_map(
        |((rpm, rpd, concurrent_requests), tpm, tpd, tokens_per_month)| Limits {
            requests_per_minute: rpm,
            tokens_per_minute: tpm,
            requests_per_day: rpd,
            tokens_per_day: tpd,
            tokens_per_month,
            concurrent_requests,
        },
    )
}

/// All of it, and what really happened.
pub struct World {
    pub now_ms: u64,
    pub desk: Desk<MemoryStore>,
    pub isolates: [Isolate; 3],
    pub limits: [Limits; 3],
    /// Tokens of requests that have been admitted, as far as they are known: the estimates of those that run.
    pub tokens: [u64; 3],
    /// When requests were admitted.
    pub admitted: [Vec<u64>; 3],
    /// What the ledger should have in the end.
    pub ended: UsageCounts,
    /// What died with isolates, and may be charged.
    pub lost_requests: u64,
    /// Requests that a limit refused, as far as anybody knows them.
    pub refused: i64,
    pub has_died: bool,
    /// Since then the ledger may have forgotten refusals.
    pub has_restarted: bool,
    pub names: u64,
    pub calls: u64,
    /// What the ledger was told of requests, and has not answered: whoever told it waits, and tells it again.
    pub unanswered: Vec<Call>,
}

impl World {
    pub fn new(tenant: Limits, keys: [Limits; 2]) -> Self {
        Self {
            now_ms: NOW_MS,
            desk: Desk::open(MemoryStore::default()).unwrap(),
            isolates: Default::default(),
            limits: [tenant, keys[0], keys[1]],
            tokens: [0; 3],
            admitted: Default::default(),
            ended: UsageCounts::default(),
            lost_requests: 0,
            refused: 0,
            has_restarted: false,
            has_died: false,
            names: 0,
            calls: 0,
            unanswered: Vec::new(),
        }
    }

    pub fn call(&mut self, call: Call) -> Reply {
        self.calls += 1;
        let Answer { reply, wait_ms } = self.desk.answer(call.clone(), self.now_ms).unwrap();
        assert_eq!(wait_ms > 0, self.desk.is_unwritten(), "an answer that would not outlive a restart");
        if wait_ms == 0 {
            self.give_answers();
        } else if matches!(call, Call::Settle(_)) {
            self.unanswered.push(call);
        }
        reply
    }

    pub fn write_down(&mut self) {
        self.desk.write_down().unwrap();
        assert!(!self.desk.is_unwritten());
        self.give_answers();
    }

    /// All is written down: nobody waits any more.
    fn give_answers(&mut self) {
        self.unanswered.clear();
        let waiting = self.isolates.iter_mut().flat_map(|isolate| &mut isolate.waiting);
        waiting.for_each(|waiting| waiting.is_held = false);
    }

    pub fn restart(&mut self) {
        self.has_restarted = true;
        self.desk = Desk::open(self.desk.store().clone()).unwrap();
        // What had been decided and not written down is known to nobody.
        let held = |waiting: &Waiting| waiting.is_held.then(|| waiting.lease.clone());
        let lost = self.isolates.each_ref().map(|isolate| isolate.waiting.iter().filter_map(held).collect::<Vec<_>>());
        for call in std::mem::take(&mut self.unanswered) {
            self.call(call);
        }
        for (isolate, leases) in lost.iter().enumerate() {
            for lease in leases {
                let at = self.isolates[isolate].waiting.iter().position(|waiting| waiting.lease == *lease).unwrap();
                self.receive(isolate, at, true);
            }
        }
    }

    pub fn question(&self, key: usize, tokens: u64) -> Ask<'static> {
        let limits = [self.limits[0], self.limits[1 + key]];
        Ask { tenant: TENANT, key: KEYS[key], model: "m", tokens, limits, slice_ms: SLICE_MS }
    }

    /// A request comes; whether it was admitted from a slice.
    pub fn ask(&mut self, isolate: usize, key: usize, tokens: u64) -> bool {
        let question = self.question(key, tokens);
        self.names += 1;
        let lease = format!("lease-{}", self.names);
        match self.isolates[isolate].slices.ask(&question, self.now_ms) {
            Way::Spent(spent) => {
                self.admit(isolate, key, tokens, lease, Some(spent));
                true
            }
            Way::Ask(asking) => {
                self.isolates[isolate].waiting.push(Waiting {
                    lease,
                    tokens,
                    key,
                    asking,
                    reply: None,
                    is_held: false,
                });
                false
            }
        }
    }

    pub fn send(&mut self, isolate: usize, at: usize) {
        if self.isolates[isolate].waiting[at].reply.is_some() {
            return;
        }
        let reply = self.call(self.question_of(isolate, at));
        let waiting = &mut self.isolates[isolate].waiting[at];
        (waiting.reply, waiting.is_held) = (Some(reply), self.desk.is_unwritten());
    }

    /// What a request asks the ledger.
    fn question_of(&self, isolate: usize, at: usize) -> Call {
        let Waiting { lease, tokens, key, asking, .. } = &self.isolates[isolate].waiting[at];
        asking.call(Reserve {
            lease: lease.clone(),
            key: KEYS[*key].to_owned(),
            model: "m".to_owned(),
            prompt_tokens: *tokens,
            completion_tokens: 0,
            tenant_limits: self.limits[0],
            key_limits: self.limits[1 + *key],
            lease_ms: LEASE_MS,
            spare: 0,
            is_again: false,
        })
    }

    pub fn receive(&mut self, isolate: usize, at: usize, lost: bool) {
        if self.isolates[isolate].waiting[at].reply.is_none() && !lost {
            return;
        }
        if self.isolates[isolate].waiting[at].is_held && !lost {
            self.write_down();
        }
        let late = self.question_of(isolate, at);
        let Waiting { lease, tokens, key, asking, reply, .. } = self.isolates[isolate].waiting.remove(at);
        let (question, now_ms) = (self.question(key, tokens), self.now_ms);
        let is_under_way = reply.is_none();
        // It was refused as far as the ledger knows, which has not heard that it is asked again.
        let was_refused = match (&reply, &late) {
            (Some(Reply::Decided { refusal, .. }), _) => matches!(refusal, Some(Refusal::Limit(_))),
            (_, Call::Reserve(reserve) | Call::ReportAndReserve(_, reserve)) => reserve.is_again,
            _ => false,
        };
        if lost && was_refused {
            self.refused += 1;
        }
        let Some(Reply::Decided { refusal, standings, spare }) = reply.filter(|_| !lost) else {
            let spent = self.isolates[isolate].slices.undecided(&question, &asking, now_ms);
            // One that was admitted and never heard of it was not made by that.
            self.call(Call::Settle(Settle { unmade: true, ..settle(&lease, 0) }));
            if is_under_way {
                assert_eq!(self.call(late), Reply::Done, "a question that was overtaken promises nothing");
            }
            if spent.is_some() {
                self.admit(isolate, key, tokens, lease, spent);
            }
            return;
        };
        let slices = &mut self.isolates[isolate].slices;
        let verdict = slices.decided(&question, &asking, &lease, (refusal, spare), &standings, now_ms);
        self.begin_tending(isolate);
        match verdict {
            Verdict::Admitted(spent) => self.admit(isolate, key, tokens, lease, spent),
            Verdict::Refused(Refusal::Limit(_)) => self.refused += 1,
            Verdict::Refused(Refusal::Revoked) => {}
            Verdict::Again(asking) => {
                self.isolates[isolate]
                    .waiting
                    .insert(at, Waiting { lease, tokens, key, asking, reply: None, is_held: false });
            }
        }
    }

    pub fn admit(&mut self, isolate: usize, key: usize, tokens: u64, lease: String, spent: Option<Spent>) {
        self.isolates[isolate].runs.push(Run { lease, tokens, key, spent });
        for owner in [0, 1 + key] {
            self.tokens[owner] += tokens;
            self.admitted[owner].push(self.now_ms);
        }
    }

    pub fn end(&mut self, isolate: usize, at: usize, percent: u64) {
        let Run { lease, tokens, key, spent } = self.isolates[isolate].runs.remove(at);
        let used = tokens * percent / 100;
        for owner in [0, 1 + key] {
            self.tokens[owner] = self.tokens[owner] + used - tokens;
        }
        self.ended.requests += 1;
        self.ended.prompt_tokens += used;
        match spent {
            None => drop(self.call(Call::Settle(settle(&lease, used)))),
            Some(spent) => {
                let now_ms = self.now_ms;
                self.isolates[isolate].slices.settle(&spent, &settle(&spent.lease, used), now_ms);
                self.begin_tending(isolate);
            }
        }
    }

    pub fn begin_tending(&mut self, isolate: usize) {
        let Isolate { slices, tending, .. } = &mut self.isolates[isolate];
        tending.extend(slices.begin_tending(TENANT, self.now_ms));
    }

    /// One step of somebody who tends; how long it wants to wait, if it has to.
    pub fn tend(&mut self, isolate: usize, at: usize, lost: Loss) -> u64 {
        let tending = self.isolates[isolate].tending[at].clone();
        let reports = match self.isolates[isolate].slices.tend(&tending, self.now_ms) {
            Tend::Wait(ms) => return ms,
            Tend::Done => {
                self.isolates[isolate].tending.remove(at);
                return 0;
            }
            Tend::Report(reports) => reports,
        };
        assert!(!reports.is_empty(), "there is nothing to report");
        if lost != Loss::Call {
            self.call(Call::Report(reports.clone()));
        }
        match lost {
            Loss::Nothing => self.write_down(),
            Loss::Restart => self.restart(),
            Loss::Call | Loss::Reply => {}
        }
        let (slices, now_ms) = (&mut self.isolates[isolate].slices, self.now_ms);
        if lost == Loss::Nothing {
            slices.told(TENANT, &reports, now_ms);
        } else {
            slices.not_told(TENANT, &reports, now_ms);
        }
        0
    }

    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Ask { isolate, key, tokens, times } => {
                for _ in 0..*times {
                    self.ask(*isolate, *key, *tokens);
                }
            }
            Op::Call { isolate, request, times } => {
                for nth in 0..*times {
                    let waiting = &self.isolates[*isolate].waiting;
                    if let Some(at) = pick(*request, waiting) {
                        self.send(*isolate, (at + nth) % waiting.len());
                    }
                }
            }
            Op::Reply { isolate, request, times, lost } => {
                for _ in 0..*times {
                    if let Some(at) = pick(*request, &self.isolates[*isolate].waiting) {
                        self.receive(*isolate, at, *lost);
                    }
                }
            }
            Op::End { isolate, run, percent, times } => {
                for _ in 0..*times {
                    if let Some(at) = pick(*run, &self.isolates[*isolate].runs) {
                        self.end(*isolate, at, *percent);
                    }
                }
            }
            Op::Tend { isolate, tending, lost } => {
                if let Some(at) = pick(*tending, &self.isolates[*isolate].tending) {
                    self.tend(*isolate, at, *lost);
                }
            }
            Op::Pass { ms } => self.now_ms += ms,
            Op::Die { isolate } => {
                let Isolate { runs, waiting, .. } = std::mem::take(&mut self.isolates[*isolate]);
                self.lost_requests += (runs.len() + waiting.len()) as u64;
                self.has_died = true;
                // Nobody is left to tell it again.
                self.unanswered.clear();
            }
            Op::WriteDown => self.write_down(),
            Op::Restart => self.restart(),
        }
    }

    /// A request comes, and is decided; whether it was admitted, and whether from a slice.
    pub fn begin(&mut self, key: usize, tokens: u64) -> (bool, bool) {
        let before = self.isolates[0].runs.len();
        let spent = self.ask(0, key, tokens);
        while !self.isolates[0].waiting.is_empty() {
            self.send(0, 0);
            self.receive(0, 0, false);
        }
        (self.isolates[0].runs.len() > before, spent)
    }

    /// So many requests come one after the other, and end at once.
    pub fn complete(&mut self, times: usize, key: usize) {
        for _ in 0..times {
            assert!(self.begin(key, TOKENS).0);
            self.end(0, 0, 50);
        }
    }

    /// No more is running, and no more has been spent, than the limits allow.
    pub fn check_never_over(&self) {
        let runs = |owner: usize| {
            let runs = self.isolates.iter().flat_map(|isolate| &isolate.runs);
            runs.filter(|run| owner == 0 || run.key + 1 == owner).count() as u64
        };
        for (owner, limits) in self.limits.iter().enumerate() {
            let check = |dimension, used: u64| {
                if let Some(limit) = limits.get(dimension) {
                    assert!(used <= limit, "{owner} {dimension:?}: {used} of {limit}");
                }
            };
            check(Dimension::ConcurrentRequests, runs(owner));
            check(Dimension::RequestsPerDay, self.admitted[owner].len() as u64);
            check(Dimension::TokensPerDay, self.tokens[owner]);
            check(Dimension::TokensPerMonth, self.tokens[owner]);
            if let Some(limit) = limits.requests_per_minute {
                // Of any interval, as of one that is longer by a slice: it was reserved that much earlier at most.
                for (nth, since_ms) in self.admitted[owner].iter().enumerate() {
                    let (count, past_ms) =
                        ((self.admitted[owner].len() - nth) as u64, self.now_ms - since_ms + SLICE_MS);
                    assert!(
                        count * 60_000 <= limit * (60_000 + past_ms),
                        "{count} in {past_ms} ms, of {limit} a minute"
                    );
                }
            }
        }
    }

    /// Lets everything end, and everybody tend until nothing is left to be done.
    pub fn settle_all(&mut self) {
        for isolate in 0..self.isolates.len() {
            while !self.isolates[isolate].waiting.is_empty() {
                self.send(isolate, 0);
                self.receive(isolate, 0, false);
            }
            while !self.isolates[isolate].runs.is_empty() {
                self.end(isolate, 0, 50);
            }
            for _ in 0..1000 {
                if self.isolates[isolate].tending.is_empty() {
                    break;
                }
                self.now_ms += self.tend(isolate, 0, Loss::Nothing);
            }
            assert!(self.isolates[isolate].tending.is_empty(), "somebody tends for ever");
            assert!(self.isolates[isolate].slices.begin_tending(TENANT, self.now_ms).is_none(), "nobody tends");
        }
    }

    pub fn usage(&mut self) -> UsageCounts {
        let Reply::Usage { rows } = self.call(Call::Usage { from: "2000".to_owned(), to: "3000".to_owned() }) else {
            panic!("not a reply to the question")
        };
        rows.iter().fold(UsageCounts::default(), |mut sum, row| {
            sum.add(&row.counts);
            sum
        })
    }

    pub fn standings(&mut self, key: usize) -> (Vec<Standing>, [(u64, u64); 2]) {
        let (tenant_limits, key_limits) = (self.limits[0], self.limits[1 + key]);
        let call = Call::Standings { key: KEYS[key].to_owned(), tenant_limits, key_limits };
        match self.call(call) {
            Reply::Standings { standings, windows } => (standings, windows.map(|window| window.day)),
            other => panic!("{other:?}"),
        }
    }

    /// In the end the ledger knows what happened, and nothing is held.
    pub fn check_books(&mut self) {
        self.settle_all();
        if self.has_died {
            // What nobody can tell of is charged as it was reserved, and held no longer than its lease.
            self.now_ms += LEASE_MS;
            self.desk.alarm(self.now_ms).unwrap();
        }
        let usage = self.usage();
        if self.has_died {
            assert!(usage.requests >= self.ended.requests, "{usage:?}, {:?}", self.ended);
        } else {
            let UsageCounts { requests, prompt_tokens, completion_tokens, estimated, errors, .. } = usage;
            assert_eq!((requests, prompt_tokens), (self.ended.requests, self.ended.prompt_tokens));
            assert_eq!((completion_tokens, estimated), (0, 0));
            assert!(errors <= requests);
            if !self.has_restarted {
                assert_eq!(usage.refused, self.refused);
            }
        }
        for key in 0..KEYS.len() {
            let (standings, [day, _]) = self.standings(key);
            let places = standings.iter().filter(|standing| standing.dimension == Dimension::ConcurrentRequests);
            for place in places {
                assert_eq!(place.remaining, place.limit, "a place is held by nobody");
            }
            assert_eq!(day, (usage.requests, usage.prompt_tokens + usage.completion_tokens));
        }
    }
}

pub fn pick<T>(index: Index, from: &[T]) -> Option<usize> {
    (!from.is_empty()).then(|| index.index(from.len()))
}

pub fn settle(lease: &str, prompt_tokens: u64) -> Settle {
    Settle {
        lease: lease.to_owned(),
        prompt_tokens,
        completion_tokens: 0,
        estimated: false,
        failed: false,
        unmade: false,
    }
}
