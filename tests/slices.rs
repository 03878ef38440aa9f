//! Slices: what an isolate spends without asking. First any number of isolates against one ledger, whatever happens to
//! them; then each of the rules by itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

mod common;
#[path = "slices/world.rs"]
mod world;

use completions_edge::quota::{Call, Dimension, Limits, Tend};
use proptest::prelude::*;
use world::{LEASE_MS, Loss, SLICE_MS, TENANT, TOKENS, World, limits, op};

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_spent_beyond_a_limit_and_in_the_end_the_books_are_right(
        limits in (limits(), limits(), limits()),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(limits.0, [limits.1, limits.2]);
        for op in &ops {
            world.step(op);
            world.check_never_over();
        }
        world.check_books();
    }
}

/// A world with a key that has been busy, and a slice of 63 requests or so.
fn busy(tenant: Limits) -> World {
    let mut world = World::new(tenant, Default::default());
    world.complete(80, 0);
    world.settle_all();
    world.complete(12, 0);
    world.calls = 0;
    world
}

#[test]
fn a_key_that_asks_now_and_then_has_no_slice() {
    let mut world = World::new(Limits::default(), Default::default());
    for _ in 0..10 {
        world.complete(7, 0);
        world.now_ms += SLICE_MS;
    }
    assert_eq!(world.calls, 2 * 70, "each is reserved and settled");
    assert!(world.isolates[0].tending.is_empty());
}

#[test]
fn a_busy_key_is_admitted_with_few_calls() {
    let mut world = World::new(Limits::default(), Default::default());
    for _ in 0..100 {
        world.complete(20, 0);
        world.now_ms += 10;
    }
    assert!(world.calls <= 2 * 8 + 2000 / 40, "{} calls for 2000 requests", world.calls);
    world.check_books();
    assert_eq!(world.usage().requests, 2000);
}

#[test]
fn what_is_unspent_is_given_back_when_the_slice_is_over() {
    let mut world = busy(Limits { requests_per_day: Some(10_000), ..Limits::default() });
    let (standings, _) = world.standings(0);
    assert!(standings[0].remaining < 10_000 - 92, "some are reserved ahead");
    let wait_ms = world.tend(0, 0, Loss::Nothing);
    assert!((1..=SLICE_MS).contains(&wait_ms));
    world.now_ms += wait_ms;
    world.tend(0, 0, Loss::Nothing);
    assert_eq!(world.tend(0, 0, Loss::Nothing), 0);
    assert!(world.isolates[0].tending.is_empty(), "there is nothing left to tend");
    assert_eq!(world.standings(0).0[0].remaining, 10_000 - 92);
    world.check_books();
}

#[test]
fn an_isolate_that_dies_costs_no_more_than_its_slices() {
    let mut world = busy(Limits { requests_per_day: Some(10_000), ..Limits::default() });
    world.step(&world::Op::Die { isolate: 0 });
    world.check_books();
    let charged = world.usage().requests;
    assert!((92..=92 + 64).contains(&charged), "{charged}");
}

#[test]
fn a_slice_holds_no_more_tokens_than_were_reserved() {
    let mut world = busy(Limits::default());
    assert_eq!(world.begin(0, 64 * TOKENS), (true, false), "so many tokens it never had");
    assert_eq!(world.begin(0, 10 * TOKENS), (true, true));
    let mut spent = 0;
    while world.begin(0, 10 * TOKENS).1 {
        spent += 10 * TOKENS;
    }
    assert!(spent < 64 * TOKENS);
}

#[test]
fn what_a_request_uses_beyond_its_estimate_is_taken_from_its_slice() {
    let left_after = |percent| {
        let mut world = busy(Limits::default());
        assert_eq!(world.begin(0, TOKENS), (true, true));
        world.end(0, 0, percent);
        let left = std::iter::repeat_with(|| world.begin(0, TOKENS).1).take_while(|spent| *spent).count();
        world.check_books();
        left
    };
    let (as_estimated, of_sixteen, of_a_thousand) = (left_after(100), left_after(1600), left_after(100_000));
    assert!(0 < of_sixteen && of_sixteen < as_estimated, "{of_sixteen} of {as_estimated}");
    assert_eq!(of_a_thousand, 0);
}

#[test]
fn a_slice_is_not_spent_after_its_time() {
    let mut world = busy(Limits::default());
    assert_eq!(world.begin(0, TOKENS), (true, true));
    world.now_ms += SLICE_MS;
    assert_eq!(world.begin(0, TOKENS), (true, false));
}

#[test]
fn a_slice_is_not_spent_on_another_day() {
    let mut world = World::new(Limits { requests_per_day: Some(2000), ..Limits::default() }, Default::default());
    let midnight_ms = (world.now_ms / 86_400_000 + 1) * 86_400_000;
    world.now_ms = midnight_ms - 600;
    world.complete(30, 0);
    assert_eq!(world.begin(0, TOKENS), (true, true));
    world.now_ms = midnight_ms;
    assert_eq!(world.begin(0, TOKENS), (true, false));
    world.settle_all();
    let (_, [today, _]) = world.standings(0);
    assert_eq!(today.0, 1);
}

#[test]
fn limits_that_changed_are_asked_about() {
    let mut world = busy(Limits { requests_per_day: Some(10_000), ..Limits::default() });
    assert_eq!(world.begin(0, TOKENS), (true, true));
    world.limits[0].requests_per_day = Some(50);
    assert_eq!(world.begin(0, TOKENS), (false, false));
    world.limits[0].requests_per_day = Some(10_000);
    assert_eq!(world.begin(0, TOKENS), (true, true));
}

#[test]
fn a_revoked_key_spends_nothing_once_the_isolate_has_heard_of_it() {
    let mut world = busy(Limits::default());
    world.call(Call::Revoke { key: "a".to_owned() });
    assert_eq!(world.begin(0, TOKENS), (true, true), "nobody has told the isolate");
    assert_eq!(world.begin(0, 1000 * TOKENS), (false, false));
    assert_eq!(world.begin(0, TOKENS), (false, false));
    world.settle_all();
    assert_eq!(world.usage().requests, world.ended.requests);
}

#[test]
fn a_revoked_key_spends_no_slice_that_comes_after_all() {
    let mut world = busy(Limits::default());
    while world.ask(0, 0, TOKENS) {}
    world.send(0, 0);
    world.isolates[0].slices.revoke(TENANT, "a", world.now_ms);
    world.receive(0, 0, false);
    assert!(!world.ask(0, 0, TOKENS));
    world.check_books();
}

#[test]
fn a_slice_is_not_asked_for_at_the_very_end_of_a_day() {
    let mut world = World::new(Limits { requests_per_day: Some(10_000), ..Limits::default() }, Default::default());
    world.now_ms = (world.now_ms / 86_400_000 + 1) * 86_400_000 - SLICE_MS / 4;
    world.complete(30, 0);
    assert_eq!(world.standings(0).0[0].remaining, 10_000 - 30);
}

#[test]
fn a_request_that_the_ledger_refuses_takes_the_last_of_a_slice_and_was_not_refused() {
    let mut world = World::new(Limits { requests_per_day: Some(100), ..Limits::default() }, Default::default());
    // All of them ask, since no slice has come yet.
    assert!((0..200).all(|_| !world.ask(0, 0, TOKENS)));
    (0..200).for_each(|at| world.send(0, at));
    (0..200).for_each(|_| world.receive(0, 0, false));
    assert_eq!(world.isolates[0].runs.len(), 100);
    world.check_never_over();
    world.check_books();
    let usage = world.usage();
    assert_eq!((usage.requests, usage.refused), (100, 100));
}

/// A world of 24 places, in which so many requests come at once; a slice holds one of the places.
fn come_at_once(requests: usize) -> World {
    let mut world = World::new(Limits { concurrent_requests: Some(24), ..Limits::default() }, Default::default());
    (0..requests).for_each(|_| assert!(!world.ask(0, 0, TOKENS)));
    (0..requests).for_each(|at| world.send(0, at));
    world
}

fn receive_all(world: &mut World) {
    while !world.isolates[0].waiting.is_empty() {
        world.send(0, 0);
        world.receive(0, 0, false);
    }
}

#[test]
fn a_request_is_not_refused_for_what_a_slice_holds_that_is_over() {
    let mut world = come_at_once(24);
    // The machine stands still while the replies are on their way.
    world.now_ms += SLICE_MS;
    receive_all(&mut world);
    assert_eq!((world.isolates[0].runs.len(), world.refused), (24, 0));
    assert_eq!(world.calls, 24 + 1, "one of them is asked about again");
    world.check_books();
}

#[test]
fn a_request_is_not_refused_for_what_is_being_given_back() {
    let mut world = come_at_once(24);
    for _ in 0..23 {
        world.receive(0, 0, false);
    }
    world.now_ms += SLICE_MS;
    // Whoever tends tells of it, and the question overtakes that.
    let tending = world.isolates[0].tending[0].clone();
    let Tend::Report(reports) = world.isolates[0].slices.tend(&tending, world.now_ms) else {
        panic!("nothing is told")
    };
    receive_all(&mut world);
    assert_eq!((world.isolates[0].runs.len(), world.refused), (24, 0));
    world.call(Call::Report(reports.clone()));
    world.write_down();
    world.isolates[0].slices.told(TENANT, &reports, world.now_ms);
    world.check_books();
}

#[test]
fn a_request_is_asked_about_once_more_and_not_for_ever() {
    let mut world = come_at_once(25);
    world.now_ms += SLICE_MS;
    (0..23).for_each(|_| world.receive(0, 0, false));
    // Both wait for the one place that is given back.
    world.receive(0, 0, false);
    world.receive(0, 1, false);
    receive_all(&mut world);
    assert_eq!((world.isolates[0].runs.len(), world.refused), (24, 1));
    assert_eq!(world.calls, 25 + 2);
    world.check_books();
}

#[test]
fn somebody_else_asks_where_an_asker_died() {
    let mut world = World::new(Limits::default(), Default::default());
    world.complete(7, 0);
    world.ask(0, 0, TOKENS);
    world.isolates[0].waiting.clear();
    world.complete(10, 0);
    assert!(world.isolates[0].tending.is_empty(), "it is believed to be asking");
    world.now_ms += 3000;
    world.complete(10, 0);
    assert!(!world.isolates[0].tending.is_empty());
}

#[test]
fn somebody_else_tends_where_a_tender_died() {
    let mut world = busy(Limits::default());
    world.isolates[0].tending.clear();
    assert!(world.isolates[0].slices.begin_tending(TENANT, world.now_ms).is_none(), "it is believed to be there");
    world.now_ms += 6000;
    world.begin_tending(0);
    world.check_books();
}

#[test]
fn one_tends_until_another_one_does_and_not_for_ever() {
    let mut world = busy(Limits::default());
    let first = world.isolates[0].tending[0].clone();
    let began_ms = world.now_ms;
    let mut tended = 0;
    // The ledger fails, and traffic goes on.
    while world.now_ms < began_ms + 60_000 {
        match world.isolates[0].slices.tend(&first, world.now_ms) {
            Tend::Wait(ms) => world.now_ms += ms,
            Tend::Report(reports) => world.isolates[0].slices.not_told(TENANT, &reports, world.now_ms),
            Tend::Done => break,
        }
        tended += 1;
    }
    let tended_ms = world.now_ms - began_ms;
    assert!((20_000..30_000).contains(&tended_ms) && tended < 60, "{tended} times in {tended_ms} ms");
    world.isolates[0].tending.clear();
    world.complete(1, 0);
    world.check_books();
}

#[test]
fn what_is_told_to_be_left_counts_down_evenly() {
    let limits = Limits { requests_per_day: Some(10_000), tokens_per_day: Some(1_000_000), ..Limits::default() };
    let mut world = busy(limits);
    let remaining = |world: &World| {
        let standings = world.isolates[0].slices.standings(TENANT, "a", world.now_ms).unwrap();
        standings.iter().map(|standing| (standing.dimension, standing.remaining)).collect::<Vec<_>>()
    };
    for nth in 0..200 {
        let before = remaining(&world);
        assert!(world.begin(0, TOKENS).0);
        let expected = [(Dimension::RequestsPerDay, before[0].1 - 1), (Dimension::TokensPerDay, before[1].1 - TOKENS)];
        assert_eq!(remaining(&world), expected, "at request {nth}");
        world.end(0, 0, 40);
        assert_eq!(remaining(&world)[1].1, before[1].1 - TOKENS * 40 / 100, "at the end of request {nth}");
    }
    assert!(world.calls < 20, "most of it was spent from slices");
}

#[test]
fn a_lease_outlives_the_slice() {
    let mut world = busy(Limits { concurrent_requests: Some(1000), ..Limits::default() });
    assert_eq!(world.begin(0, TOKENS), (true, true));
    world.now_ms += LEASE_MS - SLICE_MS - 1;
    world.end(0, 0, 100);
    world.check_books();
}

#[test]
fn keys_without_number_are_not_remembered() {
    let mut world = World::new(Limits::default(), Default::default());
    let isolate = &mut world.isolates[0].slices;
    for number in 0..5000_u64 {
        let key = number.to_string();
        let ask = completions_edge::quota::Ask {
            tenant: &key,
            key: &key,
            model: "m",
            tokens: 1,
            limits: [Limits::default(); 2],
            slice_ms: SLICE_MS,
        };
        isolate.ask(&ask, world.now_ms + number);
    }
    assert!(isolate.keys() <= 1024);
}
