//! What the gateway does about upstreams that fail, limit, or keep silent: other targets, pauses, passing over, comments.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

mod common;

use common::{Answer, LetGo, NOW_MS, World, post};
use completions_edge::gateway::{CallError, Gateway, Head, ReadError};
use completions_edge::quota::Call;
use serde_json::{Value, json};

const GOOD: &str = r#"{"choices":[{"index":0,"text":"good","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
const GOOD_STREAM: &str =
    "data: {\"choices\":[{\"index\":0,\"text\":\"good\",\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
const PLAIN: &str = r#"{"model":"m","prompt":"p"}"#;
const STREAM: &str = r#"{"model":"m","prompt":"p","stream":true}"#;

/// A world whose model `m` has targets on so many upstreams, `u0` first.
fn world(targets: usize, more: &str) -> World {
    let upstream = json!({"dialect": "openai-completions", "base_url": "https://u.example/v1", "headers_timeout_ms": 1000,
        "first_token_timeout_ms": 30_000, "idle_timeout_ms": 2000, "total_timeout_ms": 5000});
    let upstreams: serde_json::Map<String, Value> = (0..targets).map(|i| (format!("u{i}"), upstream.clone())).collect();
    let targets: Vec<Value> = (0..targets).map(|i| json!({"upstream": format!("u{i}"), "model": "x"})).collect();
    let mut config = json!({"version": 1, "upstreams": upstreams, "models": {"m": {"targets": targets}}});
    let Value::Object(more) = serde_json::from_str(more).unwrap() else { panic!() };
    config.as_object_mut().unwrap().extend(more);
    let world = World::default();
    world.put("config", &config.to_string());
    world
}

fn fails(status: u16) -> Answer {
    Answer::new(status, "application/json", b"{\"error\":{\"message\":\"no\"}}")
}

/// The calls that were made, by their targets' numbers; the log has them.
fn record(world: &World) -> Value {
    world.records.borrow().last().unwrap().clone()
}

fn settles(world: &World) -> usize {
    world.ledger_calls.borrow().iter().filter(|(_, call)| matches!(call, Call::Settle(_))).count()
}

#[test]
fn what_may_be_better_elsewhere_is_asked_elsewhere_at_once() {
    for (failure, status) in [
        (Err(CallError::Unreachable("refused".to_owned())), 502),
        (Err(CallError::Timeout), 504),
        (Ok(fails(408)), 504),
        (Ok(fails(429)), 429),
        (Ok(fails(500)), 502),
        (Ok(fails(503)), 502),
        (Ok(fails(529)), 502),
        (Ok(Answer::sse("data: {\"error\":{\"message\":\"busy\",\"code\":503}}\n\n")), 502),
        (Ok(Answer::sse("")), 502),
    ] {
        for body in [PLAIN, STREAM] {
            let with = |world: World| match failure.clone() {
                Ok(answer) => world.answers_with(answer),
                Err(error) => world.fails_with(error),
            };
            let world = with(world(2, "{}")).answers_with(if body == STREAM {
                Answer::sse(GOOD_STREAM)
            } else {
                Answer::json(GOOD)
            });
            let received = world.complete(body);
            assert_eq!(received.status, 200, "{failure:?}: {}", received.body);
            assert_eq!(received.body.matches("good").count(), if body == STREAM { 2 } else { 1 });
            assert_eq!(received.header("x-upstream-attempts"), Some("2"));
            assert!(world.pauses.borrow().is_empty());
            assert_eq!((settles(&world), record(&world)["target"].clone()), (1, json!("u1/x")), "{failure:?}");
            // Alone, it is what the client gets.
            let alone = with(self::world(1, r#"{"retry":{"same_target_attempts":1}}"#));
            assert_eq!(alone.complete(body).status, status, "{failure:?}");
        }
    }
}

#[test]
fn pitfall_32_the_requests_own_fault_is_never_tried_again() {
    for status in [400, 404, 413, 422] {
        let world = world(2, "{}").answers_with(fails(status));
        assert_eq!(world.complete(PLAIN).status, status);
        assert_eq!(world.calls.borrow().len(), 1);
        assert_eq!(record(&world)["attempts"], 1);
    }
}

#[test]
fn pitfall_31_nothing_is_tried_again_once_something_was_said() {
    let broken = Answer::sse("data: {\"choices\":[{\"index\":0,\"text\":\"be\"}]}\n\n")
        .then(Err(ReadError::Broken("reset".to_owned())));
    let world = world(2, "{}").answers_with(broken);
    let body = world.complete(STREAM).body;
    assert!(body.contains("be") && body.contains("upstream_incomplete"), "{body}");
    assert_eq!(world.calls.borrow().len(), 1);
    let record = record(&world);
    assert_eq!(
        (&record["ended"], &record["error"], &record["status"]),
        (&json!("error"), &json!("upstream_incomplete"), &json!(200))
    );
}

#[test]
fn pitfall_45_the_same_target_is_asked_again_after_a_pause() {
    let stale = CallError::Unreachable("the connection was closed".to_owned());
    let world = world(1, "{}").fails_with(stale).answers_with(Answer::json(GOOD));
    assert_eq!(world.complete(PLAIN).status, 200);
    assert!(matches!(world.pauses.borrow()[..], [0..=100]), "{:?}", world.pauses);
    assert_eq!((settles(&world), record(&world)["attempts"].clone()), (1, json!(2)));
}

#[test]
fn pitfall_33_retry_after_is_obeyed_within_bounds() {
    let limited = |ms| Answer { retry_after_ms: Some(ms), ..fails(429) };
    let soon = world(1, "{}").answers_with(limited(1500)).answers_with(Answer::json(GOOD));
    assert_eq!(soon.complete(PLAIN).status, 200);
    assert!(matches!(soon.pauses.borrow()[..], [1500..=1600]), "{:?}", soon.pauses);
    let late = world(1, "{}").answers_with(limited(60_000));
    let received = late.complete(PLAIN);
    assert_eq!((received.status, received.header("retry-after")), (429, Some("60")));
    assert!(late.pauses.borrow().is_empty());
}

#[test]
fn pitfall_33_retries_have_a_budget() {
    let config = r#"{"breaker":{"enabled":false},"retry":{"min_retries_per_10s":3,"budget_percent":10}}"#;
    let (gateway, mut world) = (Gateway::default(), world(1, config));
    let requests = 100;
    for _ in 0..2 * requests {
        world = world.answers_with(fails(500));
    }
    for _ in 0..requests {
        assert_eq!(world.ask_again(&gateway, &post(), PLAIN).status, 502);
    }
    let retries = world.calls.borrow().len() - requests;
    assert!((3..=13).contains(&retries), "{retries}");
}

#[test]
fn what_a_try_that_failed_has_used_is_counted_and_charged_to_nobody() {
    // It begins its answer, and then fails: an eight-byte prompt was read.
    let broken = Answer::sse("").then(Err(ReadError::Broken("reset".to_owned())));
    let world = world(2, "{}").answers_with(broken).answers_with(Answer::json(GOOD));
    assert_eq!(world.complete(r#"{"model":"m","prompt":"12345678","stream":true}"#).status, 200);
    let line = record(&world);
    assert_eq!(
        (&line["wasted_tokens"], &line["prompt_tokens"], &line["completion_tokens"]),
        (&json!(2), &json!(1), &json!(2))
    );
}

#[test]
fn an_answer_beyond_our_own_bounds_says_nothing_of_its_target() {
    let (gateway, mut world) = (Gateway::default(), world(2, r#"{"limits":{"max_answer_bytes":1024}}"#));
    let answer = Answer::json(&json!({"choices": [], "x": "x".repeat(2000)}).to_string());
    for _ in 0..20 {
        world = world.answers_with(answer.clone()).answers_with(answer.clone());
        assert_eq!(world.ask_again(&gateway, &post(), PLAIN).status, 502);
    }
    assert_eq!(world.calls.borrow().len(), 40, "each target was asked once a request, and none was passed over");
}

#[test]
fn the_soonest_target_is_asked_again_first() {
    let limited = Answer { retry_after_ms: Some(4000), ..fails(429) };
    let config = r#"{"breaker":{"enabled":false}}"#;
    let world = world(2, config).answers_with(limited).answers_with(fails(500)).answers_with(Answer::json(GOOD));
    assert_eq!(world.complete(PLAIN).status, 200);
    assert_eq!(record(&world)["target"], "u1/x");
    assert!(matches!(world.pauses.borrow()[..], [0..=100]), "{:?}", world.pauses);
}

#[test]
fn no_more_attempts_than_the_policy_allows() {
    let config = r#"{"retry":{"max_attempts":4,"same_target_attempts":2}}"#;
    let world = (0..4).fold(world(3, config), |world, _| world.answers_with(fails(500)));
    assert_eq!(world.complete(PLAIN).status, 502);
    assert_eq!((world.calls.borrow().len(), world.pauses.borrow().len()), (4, 1));
}

#[test]
fn a_target_that_fails_is_passed_over_and_probed() {
    let (gateway, mut world) = (Gateway::default(), world(1, r#"{"retry":{"same_target_attempts":1}}"#));
    let ask = |world: &World| world.ask_again(&gateway, &post(), PLAIN);
    for _ in 0..5 {
        world = world.answers_with(fails(500));
        assert_eq!(ask(&world).status, 502);
    }
    let received = ask(&world);
    assert_eq!((received.status, received.header("retry-after")), (503, Some("5")), "{}", received.body);
    assert_eq!(received.json()["error"]["code"], "upstream_unavailable");
    assert!(world.log.borrow().iter().any(|line| line.contains("target `u0/x` is passed over")), "{:?}", world.log);
    let reserves =
        |world: &World| world.ledger_calls.borrow().iter().filter(|(_, call)| matches!(call, Call::Reserve(_))).count();
    assert_eq!((world.calls.borrow().len(), reserves(&world)), (5, 5), "nobody was asked, nothing was reserved");
    world.now_ms.set(world.now_ms.get() + 5000);
    world = world.answers_with(Answer::json(GOOD)).answers_with(Answer::json(GOOD));
    assert_eq!((ask(&world).status, ask(&world).status), (200, 200));
    assert!(world.log.borrow().iter().any(|line| line.contains("is well again")), "{:?}", world.log);
}

#[test]
fn pitfall_32_the_requests_fault_and_a_client_that_leaves_say_nothing_of_a_target() {
    let (gateway, mut world) = (Gateway::default(), world(1, "{}"));
    for i in 0..40 {
        world = if i % 2 == 0 { world.answers_with(fails(400)) } else { world.fails_with(CallError::ClientGone) };
        world.ask_again(&gateway, &post(), PLAIN);
    }
    world = world.answers_with(Answer::json(GOOD));
    assert_eq!(world.ask_again(&gateway, &post(), PLAIN).status, 200);
}

#[test]
fn a_target_at_its_limit_is_passed_over_until_then() {
    let gateway = Gateway::default();
    let world = world(2, "{}")
        .answers_with(Answer { retry_after_ms: Some(20_000), ..fails(429) })
        .answers_with(Answer::json(GOOD))
        .answers_with(Answer::json(GOOD));
    for target in ["u1/x", "u1/x"] {
        assert_eq!(world.ask_again(&gateway, &post(), PLAIN).status, 200);
        assert_eq!(record(&world)["target"], target);
    }
    assert_eq!(world.calls.borrow().len(), 3, "the second request went straight to the second target");
}

#[test]
fn silence_until_the_first_text_is_a_504_and_another_target_may_do_better() {
    let silent = || Answer::sse("").then(Ok(": ping\n\n")).then(Err(ReadError::NotYet));
    let alone = world(1, r#"{"keepalive_ms":0,"retry":{"same_target_attempts":1}}"#).answers_with(silent());
    let received = alone.complete(STREAM);
    assert_eq!((received.status, received.json()["error"]["code"].clone()), (504, json!("upstream_timeout")));
    assert_eq!(alone.now_ms.get(), NOW_MS + 30_000);
    assert_eq!(*alone.let_go.borrow(), LetGo { released: 0, cancelled: 1, all_cancelled: 0 });
    let two = world(2, r#"{"keepalive_ms":0}"#).answers_with(silent()).answers_with(Answer::sse(GOOD_STREAM));
    assert_eq!(two.complete(STREAM).status, 200);
}

#[test]
fn an_upstream_that_keeps_silent_after_its_headers_is_committed_to_by_a_comment() {
    let slow = Answer::sse("").then(Err(ReadError::NotYet)).then(Ok(GOOD_STREAM));
    let world = world(2, "{}").answers_with(slow);
    let received = world.complete(STREAM);
    let rest = received.body.strip_prefix(": keepalive\n\ndata: {").unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert_eq!(world.now_ms.get(), NOW_MS + 15_000);
    // From then on a failure is an event.
    let broken = Answer::sse("").then(Err(ReadError::NotYet)).then(Err(ReadError::Broken("reset".to_owned())));
    let world = self::world(2, "{}").answers_with(broken);
    let received = world.complete(STREAM);
    assert!(received.status == 200 && received.body.contains("upstream_incomplete"), "{}", received.body);
    assert_eq!(world.calls.borrow().len(), 1);
}

#[test]
fn pitfall_30_an_answer_that_does_not_stream_has_a_total_and_a_stream_has_none() {
    let late = Answer::new(200, "application/json", b"{\"choi").then(Err(ReadError::NotYet));
    let world = world(1, r#"{"retry":{"same_target_attempts":1}}"#).answers_with(late);
    assert_eq!(world.complete(PLAIN).status, 504);
    assert_eq!(world.now_ms.get(), NOW_MS + 5000);
}

#[test]
fn the_log_has_one_line_a_request_and_nothing_that_is_anybodys_own() {
    let world = world(1, r#"{"observe":{"target_header":true}}"#)
        .answers_with(Answer::json(GOOD))
        .answers_with(Answer::sse(GOOD_STREAM));
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let head = Head { traceparent: Some(format!("00-{id}-00f067aa0ba902b7-01")), ..post() };
    let received = world.ask(&head, r#"{"model":"m","prompt":"a secret prompt","user":"somebody"}"#);
    assert_eq!(received.header("x-upstream-target"), Some("u0/x"));
    let call = world.last_call();
    let traceparent = &call.headers.iter().find(|(name, _)| name == "traceparent").unwrap().1;
    assert!(
        traceparent.starts_with(&format!("00-{id}-")) && !traceparent.contains("00f067aa0ba902b7"),
        "{traceparent}"
    );
    let line = record(&world);
    assert_eq!(
        (
            &line["trace_id"],
            &line["tenant"],
            &line["key"],
            &line["model"],
            &line["target"],
            &line["dialect"],
            &line["ended"]
        ),
        (
            &json!(id),
            &json!("acme"),
            &json!("demo0001"),
            &json!("m"),
            &json!("u0/x"),
            &json!("openai-completions"),
            &json!("complete")
        )
    );
    assert_eq!(
        (&line["prompt_tokens"], &line["completion_tokens"], &line["estimated"]),
        (&json!(1), &json!(2), &json!(false))
    );
    assert_eq!(
        (&line["finish_reason"], &line["status"], &line["stream"]),
        (&json!("stop"), &json!(200), &json!(false))
    );
    world.complete(STREAM);
    assert!(world.last_call().headers.iter().all(|(name, _)| name != "traceparent"));
    assert_eq!((&record(&world)["stream"], &record(&world)["estimated"]), (&json!(true), &json!(true)));
    world.complete("{");
    assert_eq!((&record(&world)["status"], &record(&world)["error"]), (&json!(400), &json!("invalid_request_error")));
    assert_eq!(world.records.borrow().len(), 3);
    let all = format!("{:?}{:?}", world.records.borrow(), world.log.borrow());
    for own in ["secret prompt", "somebody", "good", common::KEY] {
        assert!(!all.contains(own), "{own}");
    }
}
