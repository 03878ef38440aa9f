//! The ledger against an oracle that keeps no counters but the whole past: any sequence of reserves, settles,
//! duplicates, expiries, restarts and limits; then what systems of this kind keep getting wrong, one test each.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

#[path = "ledger/oracle.rs"]
mod oracle;
#[path = "ledger/world.rs"]
mod world;

use std::cell::RefCell;
use std::rc::Rc;

use completions_edge::quota::{
    Answer, Call, Decision, Denial, Desk, Dimension, Entry, Ledger, Limits, Owner, Record, Reply, Report, Reserve,
    Settle, Standing, Store, StoredRecord, Totals, UsageCounts, UsageRow, Written,
};
use proptest::prelude::*;
use world::{all_limits, limits, limits_per_minute, op, run, wide_limits};

/// 2024-02-27 23:59:00 UTC: a day, a leap day and the end of a month come soon.
const START_MS: u64 = 1_709_078_340_000;
const DAY_MS: u64 = 86_400_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_fixed_limits_it_does_what_the_oracle_says(
        limits in prop_oneof![all_limits(limits()), all_limits(limits_per_minute()), all_limits(wide_limits())],
        ops in prop::collection::vec(op(false), 1..80),
    ) {
        run(&[limits], &ops);
    }

    #[test]
    fn with_changing_limits_it_does_what_the_oracle_says(
        choices in prop_oneof![
            prop::collection::vec(all_limits(limits()), 2..4),
            prop::collection::vec(all_limits(limits_per_minute()), 2..4),
            prop::collection::vec(all_limits(wide_limits()), 2..4),
        ],
        ops in prop::collection::vec(op(true), 1..80),
    ) {
        run(&choices, &ops);
    }
}

/// A request of one prompt token, and these in all, with the key `a`.
fn ask(lease: &str, tokens: u64) -> Reserve {
    Reserve {
        lease: lease.to_owned(),
        key: "a".to_owned(),
        model: "m".to_owned(),
        prompt_tokens: tokens.min(1),
        completion_tokens: tokens.saturating_sub(1),
        tenant_limits: Limits::default(),
        key_limits: Limits::default(),
        lease_ms: 60_000,
        spare: 0,
        is_again: false,
    }
}

/// What the ledger says to one request.
const ADMITTED: Decision = Decision::Admitted { spare: 0 };

fn used(lease: &str, prompt_tokens: u64, completion_tokens: u64) -> Settle {
    Settle { lease: lease.to_owned(), prompt_tokens, completion_tokens, estimated: false, failed: false, unmade: false }
}

/// A ledger of one tenant with limits, that is asked with the key `a`.
#[derive(Default)]
struct Tenant {
    ledger: Ledger,
    limits: Limits,
    key_limits: Limits,
    now_ms: u64,
}

impl Tenant {
    fn new(limits: Limits) -> Self {
        Self { limits, now_ms: START_MS, ..Self::default() }
    }

    fn reserve(&mut self, lease: &str, tokens: u64) -> Decision {
        let request = Reserve { tenant_limits: self.limits, key_limits: self.key_limits, ..ask(lease, tokens) };
        self.ledger.reserve(&request, self.now_ms)
    }

    #[track_caller]
    fn admit(&mut self, lease: &str, tokens: u64) {
        assert_eq!(self.reserve(lease, tokens), ADMITTED);
    }

    #[track_caller]
    fn deny(&mut self, tokens: u64) -> Denial {
        match self.reserve("denied", tokens) {
            Decision::Denied(denial) => denial,
            decision => panic!("{decision:?}"),
        }
    }

    fn settle(&mut self, lease: &str, tokens: u64) -> bool {
        self.ledger.settle(&used(lease, tokens.min(1), tokens.saturating_sub(1)), self.now_ms)
    }

    fn standings(&mut self) -> Vec<Standing> {
        self.ledger.standings("a", self.limits, self.key_limits, self.now_ms)
    }

    fn remaining(&mut self) -> Vec<u64> {
        self.standings().iter().map(|standing| standing.remaining).collect()
    }
}

const TOKENS: Limits = Limits {
    requests_per_minute: None,
    tokens_per_minute: Some(60),
    requests_per_day: None,
    tokens_per_day: Some(100),
    tokens_per_month: Some(200),
    concurrent_requests: None,
};

#[test]
fn pitfall_2_an_explicit_zero_in_usage_is_a_zero() {
    let mut tenant = Tenant::new(TOKENS);
    tenant.admit("1", 60);
    assert_eq!(tenant.remaining(), [0, 40, 140]);
    assert!(tenant.settle("1", 0));
    assert_eq!(tenant.remaining(), [60, 100, 200]);
    let usage = tenant.ledger.take_usage().into_values().collect::<Vec<_>>();
    assert_eq!(usage, [UsageCounts { requests: 1, ..UsageCounts::default() }]);
}

#[test]
fn pitfall_3_a_refused_request_consumes_nothing() {
    let mut tenant = Tenant::new(Limits { requests_per_minute: Some(1), requests_per_day: Some(2), ..TOKENS });
    tenant.key_limits = Limits { requests_per_minute: Some(9), concurrent_requests: Some(2), ..TOKENS };
    tenant.admit("1", 10);
    let (standings, stored) = (tenant.standings(), serde_json::to_string(&tenant.ledger).unwrap());
    for _ in 0..100 {
        assert_eq!(tenant.deny(10).dimension, Dimension::RequestsPerMinute);
    }
    assert_eq!(tenant.standings(), standings);
    assert_eq!(serde_json::to_string(&tenant.ledger).unwrap(), stored);
    // A client that hammers gets in as early as one that waits.
    for _ in 0..60 {
        tenant.deny(10);
        tenant.now_ms += 1000;
    }
    tenant.admit("2", 10);
}

#[test]
fn pitfall_4_the_last_of_a_limit_is_given_once() {
    for dimension in ["requests_per_day", "requests_per_minute", "concurrent_requests", "tokens_per_month"] {
        let limits = serde_json::from_str(&format!("{{\"{dimension}\":50}}")).unwrap();
        let mut tenant = Tenant::new(limits);
        let decisions = (0..200).map(|number| tenant.reserve(&number.to_string(), 1)).collect::<Vec<_>>();
        let admitted = decisions.iter().filter(|decision| **decision == ADMITTED).count();
        assert_eq!(admitted, 50, "{dimension}");
    }
}

#[test]
fn pitfall_5_a_huge_max_tokens_is_refused_for_good_not_reserved() {
    let mut tenant = Tenant::new(TOKENS);
    for tokens in [201, u64::MAX - 1, u64::MAX] {
        let denial = tenant.deny(tokens);
        assert_eq!((denial.requested, denial.retry_after_ms), (tokens, None));
    }
    // More than a minute's limit is too much for good even where the day's would do.
    let denial = tenant.deny(61);
    assert_eq!((denial.dimension, denial.limit), (Dimension::TokensPerMinute, 60));
    assert_eq!((denial.used, denial.retry_after_ms), (0, None));
    assert_eq!(tenant.remaining(), [60, 100, 200]);
    tenant.admit("1", 60);
}

#[test]
fn pitfall_6_a_late_settle_does_not_land_in_the_next_window() {
    let mut tenant = Tenant::new(Limits { tokens_per_minute: None, ..TOKENS });
    tenant.now_ms = START_MS + 60_000 - 1;
    tenant.admit("1", 60);
    tenant.admit("2", 40);
    assert_eq!(tenant.deny(1).retry_after_ms, Some(1));
    tenant.now_ms += 1;
    assert_eq!(tenant.remaining(), [100, 100], "the day is new, the month is not");
    tenant.admit("3", 50);
    assert!(tenant.settle("1", 90));
    assert!(tenant.settle("2", 0));
    assert_eq!(tenant.remaining(), [50, 60], "the month is told the truth, the new day nothing");
    let days = tenant.ledger.take_usage().into_keys().map(|key| key.day).collect::<Vec<_>>();
    assert_eq!(days, ["2024-02-27"]);
    tenant.now_ms = START_MS + 2 * DAY_MS + 60_000;
    assert_eq!(tenant.remaining(), [100, 200], "March");
}

#[test]
fn pitfall_8_a_place_is_freed_by_settling_and_by_running_out_and_not_otherwise() {
    let mut tenant = Tenant::new(Limits { concurrent_requests: Some(1), ..Limits::default() });
    tenant.admit("1", 1);
    tenant.admit("1", 1);
    assert_eq!((tenant.remaining(), tenant.deny(1).dimension), (vec![0], Dimension::ConcurrentRequests));
    assert!(!tenant.settle("other", 1));
    tenant.now_ms += 30_000;
    assert!(tenant.ledger.renew("1", 60_000, tenant.now_ms));
    tenant.ledger.compact(tenant.now_ms);
    tenant.now_ms += 59_999;
    tenant.deny(1);
    assert_eq!(tenant.ledger.next_expiry_ms(), Some(tenant.now_ms + 1));
    tenant.now_ms += 1;
    tenant.admit("2", 1);
    assert!(!tenant.settle("1", 1), "it has run out");
    assert!(!tenant.ledger.renew("1", 60_000, tenant.now_ms));
    tenant.deny(1);
    assert!(tenant.settle("2", 1));
    assert!(!tenant.settle("2", 1), "a place is freed once");
    tenant.admit("3", 1);
    tenant.deny(1);
}

#[test]
fn pitfall_9_usage_that_is_reported_twice_counts_once() {
    let mut tenant = Tenant::new(TOKENS);
    tenant.admit("1", 30);
    assert!(tenant.settle("1", 20));
    assert!(!tenant.settle("1", 20));
    assert!(!tenant.settle("1", 60));
    assert_eq!(tenant.remaining(), [40, 80, 180]);
    let usage = tenant.ledger.take_usage().into_values().collect::<Vec<_>>();
    assert_eq!(usage, [UsageCounts { requests: 1, prompt_tokens: 1, completion_tokens: 19, ..UsageCounts::default() }]);
    assert!(tenant.ledger.take_usage().is_empty());
}

#[test]
fn pitfall_13_what_is_to_wait_is_what_is_left_of_the_window() {
    let limits = Limits { requests_per_minute: Some(3), requests_per_day: Some(3), ..Limits::default() };
    let mut tenant = Tenant::new(limits);
    tenant.now_ms -= 3_600_000;
    for lease in ["1", "2", "3"] {
        tenant.admit(lease, 1);
    }
    tenant.now_ms += 10_001;
    let denial = tenant.deny(1);
    assert_eq!((denial.dimension, denial.retry_after_ms), (Dimension::RequestsPerDay, Some(3_660_000 - 10_001)));
    // Of three a minute one comes back every 20 s, and ten of them are over.
    tenant.limits.requests_per_day = None;
    let denial = tenant.deny(1);
    assert_eq!((denial.dimension, denial.retry_after_ms), (Dimension::RequestsPerMinute, Some(9999)));
}

#[test]
fn pitfall_14_a_retry_under_the_same_name_is_the_same_request() {
    let mut tenant = Tenant::new(TOKENS);
    for _ in 0..3 {
        tenant.admit("1", 60);
    }
    assert_eq!(tenant.remaining(), [0, 40, 140]);
}

#[test]
fn pitfall_34_a_revoked_key_reserves_nothing_and_what_it_has_is_settled() {
    let mut tenant = Tenant::new(TOKENS);
    tenant.admit("1", 10);
    tenant.ledger.revoke("a", tenant.now_ms);
    assert_eq!(tenant.reserve("2", 10), Decision::Revoked);
    assert!(tenant.settle("1", 5));
    tenant.ledger.compact(tenant.now_ms);
    assert_eq!(tenant.reserve("2", 10), Decision::Revoked);
    let other = Reserve { key: "b".to_owned(), ..ask("3", 10) };
    assert_eq!(tenant.ledger.reserve(&other, tenant.now_ms), ADMITTED);
}

#[test]
fn debt_is_repaid_before_anything_is_admitted() {
    let mut tenant = Tenant::new(per_minute(60));
    tenant.admit("1", 30);
    assert!(tenant.settle("1", 150));
    let denial = tenant.deny(1);
    assert_eq!((denial.used, denial.retry_after_ms), (60, Some(91_000)));
    tenant.now_ms += 90_999;
    tenant.deny(1);
    tenant.now_ms += 1;
    tenant.admit("2", 1);
}

#[test]
fn a_promise_that_ran_out_is_charged_as_it_was_reserved() {
    let mut tenant = Tenant::new(TOKENS);
    tenant.now_ms -= 60_000;
    tenant.admit("1", 60);
    tenant.now_ms += 60_000;
    assert!(!tenant.settle("1", 1));
    assert_eq!(tenant.remaining(), [60, 40, 140], "only time has given something back");
    let usage = tenant.ledger.take_usage().into_values().collect::<Vec<_>>();
    let expected =
        UsageCounts { requests: 1, prompt_tokens: 1, completion_tokens: 59, estimated: 1, refused: 0, errors: 1 };
    assert_eq!(usage, [expected]);
}

fn per_minute(limit: u64) -> Limits {
    Limits { tokens_per_minute: Some(limit), ..Limits::default() }
}

#[test]
fn a_refusal_under_other_limits_leaves_no_trace() {
    let mut tenant = Tenant::new(per_minute(60));
    tenant.admit("1", 60);
    // An isolate that remembers older limits, or none, is refused by the key's.
    tenant.key_limits = per_minute(0);
    for limits in [per_minute(1), per_minute(6000), Limits::default()] {
        tenant.limits = limits;
        tenant.deny(1);
        tenant.standings();
    }
    (tenant.limits, tenant.key_limits) = (per_minute(60), Limits::default());
    tenant.now_ms += 30_000;
    assert_eq!(tenant.remaining(), [30]);
}

#[test]
fn what_drained_under_a_larger_limit_is_not_given_back_again() {
    for of_key in [false, true] {
        let mut tenant = Tenant::new(Limits::default());
        let limit = |tenant: &mut Tenant, limit| {
            *(if of_key { &mut tenant.key_limits } else { &mut tenant.limits }) = per_minute(limit);
        };
        limit(&mut tenant, 60);
        tenant.admit("1", 60);
        limit(&mut tenant, 600);
        tenant.admit("2", 0);
        tenant.now_ms += 6000;
        limit(&mut tenant, 60);
        tenant.admit("3", 60);
        assert!(tenant.settle("1", 0));
        tenant.deny(1);
    }
}

#[test]
fn what_is_left_of_a_minute_outlives_the_month() {
    let per_minute = Limits { requests_per_minute: Some(2), tokens_per_minute: Some(60), ..Limits::default() };
    let mut tenant = Tenant { key_limits: per_minute, ..Tenant::new(Limits::default()) };
    tenant.now_ms = START_MS + 2 * DAY_MS + 59_000;
    tenant.admit("1", 60);
    assert!(tenant.settle("1", 60));
    tenant.now_ms += 11_000;
    tenant.ledger.compact(tenant.now_ms);
    assert_eq!(tenant.remaining(), [1, 11]);
    tenant.now_ms += 19_000;
    tenant.ledger.compact(tenant.now_ms);
    assert_eq!(tenant.remaining(), [2, 30]);
}

/// A store that keeps the journal, for desks that come and go.
#[derive(Clone, Debug, Default)]
struct Journal(Rc<RefCell<Vec<Written>>>);

impl Store for Journal {
    fn snapshot(&self) -> Result<Option<(u64, Ledger)>, String> {
        Ok(None)
    }
    fn journal_after(&self, _: u64) -> Result<Vec<Written>, String> {
        Ok(self.0.borrow().clone())
    }
    fn append(&mut self, written: &Written) -> Result<(), String> {
        self.0.borrow_mut().push(written.clone());
        Ok(())
    }
    fn checkpoint(&mut self, _: u64, _: &Ledger, _: &[UsageRow]) -> Result<(), String> {
        Err("there are none".to_owned())
    }
    fn usage(&self, _: &str, _: &str) -> Result<Vec<UsageRow>, String> {
        Ok(Vec::new())
    }
    fn record(&self, _: &str) -> Result<Option<StoredRecord>, String> {
        Ok(None)
    }
    fn records(&self, _: &str, _: &str, _: u32) -> Result<Vec<Record>, String> {
        Ok(Vec::new())
    }
    fn write_record(&mut self, _: &str, _: &StoredRecord) -> Result<(), String> {
        Ok(())
    }
}

fn is_admitted(desk: &mut Desk<Journal>, request: &Reserve, now_ms: u64) -> bool {
    let Answer { reply, .. } = desk.answer(Call::Reserve(request.clone()), now_ms).unwrap();
    desk.write_down().unwrap();
    matches!(reply, Reply::Decided { refusal: None, .. })
}

#[test]
fn a_promise_that_is_made_again_after_it_ran_out_is_written_down() {
    let journal = Journal::default();
    let mut desk = Desk::open(journal.clone()).unwrap();
    let limits = Limits { requests_per_day: Some(2), ..Limits::default() };
    let ask = |lease| Reserve { tenant_limits: limits, lease_ms: 1000, ..ask(lease, 1) };
    assert!(is_admitted(&mut desk, &ask("1"), START_MS));
    assert!(is_admitted(&mut desk, &ask("1"), START_MS + 999));
    assert_eq!(journal.0.borrow().len(), 1);
    assert!(is_admitted(&mut desk, &ask("1"), START_MS + 1000));
    assert_eq!(journal.0.borrow().len(), 2);
    assert!(!is_admitted(&mut desk, &ask("2"), START_MS + 1000));
    let mut desk = Desk::open(journal).unwrap();
    assert!(!is_admitted(&mut desk, &ask("2"), START_MS + 1000));
}

#[test]
fn the_journal_has_the_time_by_which_the_ledger_acted() {
    let journal = Journal::default();
    let mut desk = Desk::open(journal.clone()).unwrap();
    let limits = Limits { concurrent_requests: Some(1), ..Limits::default() };
    let ask = |lease, lease_ms| Reserve { tenant_limits: limits, lease_ms, ..ask(lease, 1) };
    assert!(is_admitted(&mut desk, &ask("1", 10_000), START_MS));
    assert!(!is_admitted(&mut desk, &ask("2", 10_000), START_MS + 9000));
    // The clock goes back, and the ledger does not.
    assert!(!is_admitted(&mut desk, &ask("2", 10_000), START_MS));
    desk.answer(Call::Renew { lease: "1".to_owned(), lease_ms: 10_000 }, START_MS).unwrap();
    desk.write_down().unwrap();
    // Nobody looks when the promise runs out now, before it would have.
    for mut desk in [Desk::open(journal).unwrap(), desk] {
        assert_eq!(desk.wake_ms(START_MS + 9500), Some(START_MS + 10_000));
        assert!(!is_admitted(&mut desk, &ask("2", 10_000), START_MS + 10_000));
        assert_eq!(desk.wake_ms(START_MS + 10_000), Some(START_MS + 19_000));
    }
}

#[test]
fn what_is_told_is_written_with_the_next_row() {
    let journal = Journal::default();
    let mut desk = Desk::open(journal.clone()).unwrap();
    let limits = Limits { requests_per_day: Some(9), tokens_per_day: Some(1000), ..Limits::default() };
    let ask = |lease| Reserve { tenant_limits: limits, ..ask(lease, 100) };
    let standings = Call::Standings { key: "a".to_owned(), tenant_limits: limits, key_limits: Limits::default() };
    for (nth, lease) in (0..).zip(["1", "2", "3"]) {
        let answer = desk.answer(Call::Reserve(ask(lease)), START_MS - 9 + nth * 3).unwrap();
        assert_eq!(answer.wait_ms, 0, "who is admitted may rely on it");
        assert!(!desk.is_unwritten());
    }
    let told = Answer { reply: Reply::Done, wait_ms: 20 };
    for (nth, lease) in (1..).zip(["1", "2"]) {
        assert_eq!(desk.answer(Call::Settle(used(lease, nth, 0)), START_MS + nth).unwrap(), told);
        assert!(desk.is_unwritten(), "nobody waits for it");
    }
    assert_eq!(journal.0.borrow().len(), 3);

    // Without that row it had never been told.
    let mut forgetful = Desk::open(journal.clone()).unwrap();
    assert_eq!(forgetful.answer(Call::Settle(used("1", 1, 0)), START_MS + 3).unwrap(), told);
    forgetful.answer(standings.clone(), START_MS + 3).unwrap();
    assert_eq!(journal.0.borrow_mut().pop().map(|written| written.entry), Some(Entry::Settle(used("1", 1, 0))));

    assert!(is_admitted(&mut desk, &ask("4"), START_MS + 4));
    assert!(!desk.is_unwritten());
    let rows = journal.0.borrow().clone();
    assert_eq!(rows.len(), 4);
    let at = START_MS;
    let [one, two] = [used("1", 1, 0), used("2", 2, 0)].map(Entry::Settle);
    let expected = Entry::Several(vec![(at + 1, one), (at + 2, two), (at + 4, Entry::Reserve(ask("4")))]);
    assert_eq!((rows[3].seq, rows[3].now_ms, &rows[3].entry), (4, at + 4, &expected));

    desk.answer(Call::Settle(used("3", 3, 0)), START_MS + 5).unwrap();
    desk.write_down().unwrap();
    assert_eq!(journal.0.borrow().last().map(|row| row.entry.clone()), Some(Entry::Settle(used("3", 3, 0))));
    desk.write_down().unwrap();
    assert_eq!(journal.0.borrow().len(), 5, "there was nothing to write");
    let reply = desk.answer(standings.clone(), START_MS + 6).unwrap();
    assert_eq!(Desk::open(journal).unwrap().answer(standings, START_MS + 6).unwrap(), reply);
}

#[test]
fn reservations_that_follow_close_upon_each_other_are_written_together() {
    let journal = Journal::default();
    let mut desk = Desk::open(journal.clone()).unwrap();
    let limits = Limits { requests_per_day: Some(6), ..Limits::default() };
    let ask = |lease| Reserve { tenant_limits: limits, ..ask(lease, 1) };
    let reserve = |desk: &mut Desk<Journal>, lease, at_ms| {
        let Answer { reply, wait_ms } = desk.answer(Call::Reserve(ask(lease)), at_ms).unwrap();
        assert_eq!(wait_ms > 0, desk.is_unwritten());
        let Reply::Decided { refusal, .. } = reply else { panic!("{reply:?}") };
        (refusal.is_none(), wait_ms)
    };
    assert_eq!(reserve(&mut desk, "1", START_MS), (true, 0), "the first is alone");
    for lease in ["2", "3", "4", "5", "6"] {
        assert_eq!(reserve(&mut desk, lease, START_MS + 1), (true, 2));
    }
    assert_eq!(reserve(&mut desk, "3", START_MS + 1), (true, 2), "one that asks twice may rely on it no sooner");
    assert_eq!(reserve(&mut desk, "7", START_MS + 1), (false, 2), "what is not written yet counts already");
    assert_eq!(journal.0.borrow().len(), 1);

    // Without that row they had never been asked for.
    let mut forgetful = Desk::open(journal.clone()).unwrap();
    assert_eq!(reserve(&mut forgetful, "7", START_MS + 2), (true, 0));
    journal.0.borrow_mut().pop();

    desk.write_down().unwrap();
    let together = ["2", "3", "4", "5", "6"].map(|lease| (START_MS + 1, Entry::Reserve(ask(lease))));
    let rows = journal.0.borrow().clone();
    assert_eq!((rows.len(), &rows[1].entry), (2, &Entry::Several(together.into())));
    assert_eq!(reserve(&mut desk, "7", START_MS + 1), (false, 0), "a refusal writes nothing, and waits for nothing");
    let mut desk = Desk::open(journal).unwrap();
    assert_eq!(reserve(&mut desk, "7", START_MS + 1), (false, 0));
}

#[test]
fn what_is_told_does_not_pile_up() {
    let journal = Journal::default();
    let mut desk = Desk::open(journal.clone()).unwrap();
    for nth in 0..100 {
        assert!(is_admitted(&mut desk, &ask(&nth.to_string(), 1), START_MS));
    }
    let mut most = 0;
    for nth in 0..100 {
        desk.answer(Call::Settle(used(&nth.to_string(), 1, 0)), START_MS + 1).unwrap();
        let Some(Entry::Several(entries)) = journal.0.borrow().last().map(|row| row.entry.clone()) else { continue };
        most = most.max(entries.len());
    }
    assert_eq!(most, 64);
}

#[test]
fn a_reply_is_understood_with_names_and_without() {
    let standing =
        Standing { owner: Owner::Key, dimension: Dimension::RequestsPerDay, limit: 4, remaining: 3, reset_ms: 2 };
    let reply = Reply::Decided { refusal: None, standings: vec![standing], spare: 0 };
    let text = r#"{"decided":{"refusal":null,"standings":[["key","requests_per_day",4,3,2]]}}"#;
    assert_eq!(serde_json::to_string(&reply).unwrap(), text);
    assert_eq!(serde_json::from_str::<Reply>(text).unwrap(), reply);
    let named = r#"{"owner":"key","dimension":"requests_per_day","limit":4,"remaining":3,"reset_ms":2}"#;
    let named = text.replace(r#"["key","requests_per_day",4,3,2]"#, named);
    assert_eq!(serde_json::from_str::<Reply>(&named).unwrap(), reply);
}

/// What is in the store outlives a deploy: where this changes, older text must still be understood.
#[test]
fn what_is_written_down_is_this() {
    let limits = Limits {
        requests_per_minute: Some(1),
        tokens_per_minute: Some(200),
        requests_per_day: Some(3),
        tokens_per_day: Some(400),
        tokens_per_month: Some(500),
        concurrent_requests: Some(6),
    };
    let reserve = Reserve { tenant_limits: limits, ..ask("1", 100) };
    let read = |text: &str| serde_json::from_str::<Entry>(text).unwrap();
    let check = |entry: &Entry, expected: &str| {
        assert_eq!(serde_json::to_string(entry).unwrap(), expected);
        assert_eq!(read(expected), *entry);
    };
    check(
        &Entry::Reserve(reserve.clone()),
        concat!(
            r#"{"reserve":["1","a","m",1,99,[1,200,3,400,500,6],[null,null,null,null,null,null],"#,
            r#"60000,0,false]}"#
        ),
    );
    check(&Entry::Settle(used("1", 2, 3)), r#"{"settle":["1",2,3,false,false,false]}"#);
    // As they were written once.
    let (spare, is_again) = (7, true);
    assert_eq!(
        read(concat!(
            r#"{"reserve":{"lease":"1","key":"a","model":"m","prompt_tokens":1,"completion_tokens":99,"#,
            r#""tenant_limits":{"requests_per_minute":1,"tokens_per_minute":200,"requests_per_day":3,"#,
            r#""tokens_per_day":400,"tokens_per_month":500,"concurrent_requests":6},"key_limits":{},"lease_ms":60000,"#,
            r#""spare":7,"is_again":true}}"#
        )),
        Entry::Reserve(Reserve { spare, is_again, ..reserve.clone() })
    );
    assert_eq!(
        read(r#"{"settle":{"lease":"1","prompt_tokens":2,"completion_tokens":3,"estimated":false,"failed":false}}"#),
        Entry::Settle(used("1", 2, 3))
    );
    check(&Entry::Renew { lease: "1".to_owned(), lease_ms: 5 }, r#"{"renew":{"lease":"1","lease_ms":5}}"#);
    check(&Entry::Revoke { key: "a".to_owned() }, r#"{"revoke":{"key":"a"}}"#);
    check(
        &Entry::Several(vec![
            (5, Entry::Renew { lease: "1".to_owned(), lease_ms: 5 }),
            (6, Entry::Revoke { key: "a".to_owned() }),
        ]),
        r#"{"several":[[5,{"renew":{"lease":"1","lease_ms":5}}],[6,{"revoke":{"key":"a"}}]]}"#,
    );
    let counts =
        UsageCounts { requests: 2, prompt_tokens: 3, completion_tokens: 4, estimated: 1, refused: -1, errors: 1 };
    let totals = Totals {
        usage: [("m".to_owned(), counts)].into(),
        estimated_tokens: 200,
        unspent_requests: 5,
        unspent_tokens: 500,
    };
    check(
        &Entry::Report(Report { lease: "1".to_owned(), seq: 7, totals }),
        concat!(
            r#"{"report":{"lease":"1","seq":7,"totals":{"usage":{"m":{"requests":2,"prompt_tokens":3,"completion_tokens":4,"#,
            r#""estimated":1,"refused":-1,"errors":1}},"estimated_tokens":200,"unspent_requests":5,"unspent_tokens":500}}}"#
        ),
    );

    let mut ledger = Ledger::default();
    ledger.reserve(&reserve, START_MS);
    ledger.revoke("b", START_MS + 1);
    let account = |requests: &str, tokens: &str| {
        let windows =
            r#""day":{"period":19780,"requests":1,"tokens":100},"month":{"period":649,"requests":1,"tokens":100}"#;
        format!(r#"{{"requests":{requests},"tokens":{tokens},{windows},"open":1}}"#)
    };
    let at = r#""at_ms":1709078340000"#;
    let tenant =
        account(&format!(r#"{{"used":60000,{at},"limit":1}}"#), &format!(r#"{{"used":6000000,{at},"limit":200}}"#));
    let no_limit = format!(r#"{{"used":0,{at},"limit":null}}"#);
    let key = account(&no_limit, &no_limit);
    let lease = concat!(
        r#"{"key":"a","model":"m","prompt_tokens":1,"completion_tokens":99,"reserved_ms":1709078340000,"#,
        r#""expires_ms":1709078400000,"tenant_tpm":200,"key_tpm":null}"#
    );
    let expected = format!(
        concat!(
            r#"{{"now_ms":1709078340001,"tenant":{},"keys":{{"a":{}}},"leases":{{"1":{}}},"#,
            r#""revoked":{{"b":1709078340001}},"earliest_expiry_ms":1709078400000}}"#
        ),
        tenant, key, lease
    );
    assert_eq!(serde_json::to_string(&ledger).unwrap(), expected);
    ledger.take_usage();
    assert_eq!(serde_json::from_str::<Ledger>(&expected).unwrap(), ledger);

    let mut ledger = Ledger::default();
    ledger.reserve(&Reserve { tenant_limits: Limits::default(), spare: 3, ..reserve }, START_MS);
    let slice = concat!(
        r#""tenant_tpm":null,"key_tpm":null,"slice":{"open_requests":4,"open_tokens":400,"#,
        r#""tenant_rpm":null,"key_rpm":null,"seq":0,"totals":{}}"#
    );
    let stored = serde_json::to_string(&ledger).unwrap();
    assert!(stored.contains(slice), "{stored}");
    assert_eq!(serde_json::from_str::<Ledger>(&stored).unwrap(), ledger);
}
