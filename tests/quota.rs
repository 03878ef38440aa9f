//! Steps 6 and 9 of the straight line, natively: the real gateway over real ledgers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

mod common;

use common::{Answer, CONFIG, KEY, NOW_MS, Received, World, get, key_name, post};
use completions_edge::gateway::{CallError, Gateway, Head, ReadError};
use completions_edge::quota::Call;

const REQUEST: &str = r#"{"model":"m","prompt":"12345678","max_tokens":10}"#;
const STREAM: &str = r#"{"model":"m","prompt":"12345678","max_tokens":10,"stream":true}"#;
const COMPLETION: &str = r#"{"choices":[{"index":0,"text":"abcd","finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
const CHUNK: &str = "data: {\"choices\":[{\"index\":0,\"text\":\"abcdefgh\"}]}\n\n";
const REST: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n"
);

/// A world whose tenant and key have these limits.
fn limited(tenant: &str, key: &str) -> World {
    let world = World::default();
    world.put("tenant:acme", &format!(r#"{{"version":1,"status":"active","limits":{{{tenant}}}}}"#));
    let record = r#"{"version":1,"tenant":"acme","id":"demo0001","status":"active","limits":{LIMITS}}"#;
    world.put(&key_name(KEY), &record.replace("LIMITS", key));
    world
}

/// Asks with an answer at hand; the upstream is called only if the request is admitted.
fn ask(world: &World, gateway: &Gateway, answer: Result<Answer, CallError>, body: &str) -> Received {
    world.answers.borrow_mut().clear();
    world.answers.borrow_mut().push_back(answer);
    world.ask_again(gateway, &post(), body)
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside answers that fail")]
fn good() -> Result<Answer, CallError> {
    Ok(Answer::json(COMPLETION))
}

/// `(used, max)` of a limit, as `GET /v1/usage` tells it.
fn used(world: &World, gateway: &Gateway, owner: &str, limit: &str) -> (u64, u64) {
    let report = world.ask_again(gateway, &get("/v1/usage"), "").json();
    let row = report["limits"].as_array().unwrap().iter().find(|row| row["owner"] == owner && row["limit"] == limit);
    let row = row.unwrap_or_else(|| panic!("no {owner} {limit} in {report}"));
    (row["used"].as_u64().unwrap(), row["max"].as_u64().unwrap())
}

/// Tokens of today, of the tenant.
fn tokens_today(world: &World, gateway: &Gateway) -> u64 {
    let report = world.ask_again(gateway, &get("/v1/usage"), "").json();
    report["windows"][0]["tokens"].as_u64().unwrap()
}

#[test]
fn a_request_is_reserved_before_its_upstream_is_called_and_settled_after() {
    let (world, gateway) = (limited(r#""tokens_per_day":100"#, ""), Gateway::default());
    assert_eq!(ask(&world, &gateway, good(), REQUEST).status, 200);
    let calls = world.ledger_calls.borrow();
    let [(tenant, Call::Reserve(reserve)), (_, Call::Settle(settle))] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!((tenant.as_str(), reserve.key.as_str(), reserve.model.as_str()), ("acme", "demo0001", "m"));
    assert_eq!((reserve.prompt_tokens, reserve.completion_tokens), (2, 10));
    assert_eq!((settle.prompt_tokens, settle.completion_tokens, settle.estimated), (3, 4, false));
    assert_eq!(settle.lease, reserve.lease);
    assert_eq!(
        world.renewed.borrow()[..],
        [reserve.lease.as_str()],
        "from the promise on, not only while a stream runs"
    );
}

#[test]
fn the_estimate_counts_prompts_choices_and_candidates() {
    let estimate = |parameters: &str| {
        let (world, gateway) = (World::default(), Gateway::default());
        ask(&world, &gateway, good(), &format!(r#"{{"model":"m",{parameters}}}"#));
        let calls = world.ledger_calls.borrow();
        let (_, Call::Reserve(reserve)) = &calls[0] else { panic!("{calls:?}") };
        (reserve.prompt_tokens, reserve.completion_tokens)
    };
    assert_eq!(estimate(r#""prompt":"a""#), (1, 16));
    assert_eq!(estimate(r#""prompt":["12345","b"],"n":2,"max_tokens":5"#), (3, 20));
    assert_eq!(estimate(r#""prompt":[1,2,3],"best_of":4,"max_tokens":5"#), (3, 20));
}

#[test]
fn pitfall_3_a_refusal_costs_nothing_and_says_when() {
    let (world, gateway) = (limited(r#""requests_per_minute":2"#, ""), Gateway::default());
    for _ in 0..2 {
        assert_eq!(ask(&world, &gateway, good(), REQUEST).status, 200);
    }
    for _ in 0..10 {
        let refused = ask(&world, &gateway, good(), REQUEST);
        let expected = (429, "requests".to_owned(), None, Some("rate_limit_exceeded".to_owned()));
        assert_eq!(refused.error(), expected);
        assert_eq!((refused.header("retry-after"), refused.header("retry-after-ms")), (Some("30"), Some("30000")));
        assert!(refused.body.contains("Limit 2, Used 2, Requested 1. Please try again in 30s."), "{}", refused.body);
    }
    world.now_ms.set(NOW_MS + 29_999);
    assert_eq!(ask(&world, &gateway, good(), REQUEST).status, 429);
    world.now_ms.set(NOW_MS + 30_000);
    assert_eq!(ask(&world, &gateway, good(), REQUEST).status, 200, "the wait was the truth");
}

#[test]
fn every_limit_has_its_own_refusal() {
    let refusal = |tenant: &str, key: &str| {
        let (world, gateway) = (limited(tenant, key), Gateway::default());
        ask(&world, &gateway, good(), REQUEST);
        let refused = ask(&world, &gateway, good(), REQUEST);
        let (status, kind, _, code) = refused.error();
        (status, kind, code.unwrap(), refused.header("x-should-retry").map(str::to_owned))
    };
    let limit = |kind: &str| (429, kind.to_owned(), "rate_limit_exceeded".to_owned(), None);
    let quota = (429, "insufficient_quota".to_owned(), "insufficient_quota".to_owned(), Some("false".to_owned()));
    for (limits, expected) in [
        (r#""requests_per_minute":1"#, limit("requests")),
        (r#""tokens_per_minute":15"#, limit("tokens")),
        (r#""requests_per_day":1"#, quota.clone()),
        (r#""tokens_per_day":15"#, quota.clone()),
        (r#""tokens_per_month":15"#, quota),
    ] {
        assert_eq!(refusal(limits, ""), expected, "tenant: {limits}");
        assert_eq!(refusal("", limits), expected, "key: {limits}");
    }
}

#[test]
fn pitfall_8_a_slot_is_taken_until_the_stream_has_ended() {
    let (world, gateway) = (limited(r#""concurrent_requests":1"#, ""), Gateway::default());
    // The world drives a stream to its end before it hands it over, so that a second request in the middle of the
    // first one has to come from the upstream's side: a target that fails leaves the slot free again.
    assert_eq!(ask(&world, &gateway, Err(CallError::Timeout), REQUEST).status, 504);
    assert_eq!(ask(&world, &gateway, Ok(Answer::sse(CHUNK)), STREAM).status, 200);
    assert_eq!(ask(&world, &gateway, good(), REQUEST).status, 200);
    assert_eq!(used(&world, &gateway, "tenant", "concurrent_requests"), (0, 1));
}

#[test]
fn pitfall_5_what_can_never_be_admitted_is_told_so() {
    let (world, gateway) = (limited(r#""tokens_per_minute":1000"#, ""), Gateway::default());
    let huge = ask(&world, &gateway, good(), r#"{"model":"m","prompt":"p","max_tokens":1000}"#);
    let (status, kind, param, code) = huge.error();
    assert_eq!((status, kind.as_str()), (400, "invalid_request_error"));
    assert_eq!((param.as_deref(), code.as_deref()), (Some("max_tokens"), Some("request_exceeds_limit")));
    assert!(huge.header("retry-after").is_none());
    assert_eq!(used(&world, &gateway, "tenant", "tokens_per_minute").0, 0);
    assert!(world.calls.borrow().is_empty());
}

#[test]
fn pitfall_1_every_end_is_charged_what_was_got() {
    let charged = |answer: Result<Answer, CallError>, body: &str| {
        let (world, gateway) = (World::default(), Gateway::default());
        ask(&world, &gateway, answer, body);
        tokens_today(&world, &gateway)
    };
    assert_eq!(charged(good(), REQUEST), 7, "as reported");
    assert_eq!(charged(Ok(Answer::json(r#"{"choices":[{"text":"abcde"}]}"#)), REQUEST), 2 + 2, "estimated");
    let zero = r#"{"choices":[{"text":"abcde"}],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#;
    assert_eq!(charged(Ok(Answer::json(zero)), REQUEST), 0, "pitfall 2: zero is zero");
    assert_eq!(charged(Ok(Answer::sse(CHUNK).then(Ok(REST))), STREAM), 7, "as reported");
    assert_eq!(charged(Ok(Answer::sse(&format!("{CHUNK}{REST}"))), STREAM), 7, "all in one piece");
    assert_eq!(charged(Ok(Answer::json(COMPLETION)), STREAM), 7, "replayed");
    assert_eq!(charged(Ok(Answer::sse(CHUNK)), STREAM), 2 + 2, "cut: the prompt and what was sent on");
    let reset = Answer::sse(CHUNK).then(Err(ReadError::Broken("reset".to_owned())));
    assert_eq!(charged(Ok(reset), STREAM), 2 + 2);
    let left = |answer: Answer| Ok(answer.then(Err(ReadError::ClientGone)));
    assert_eq!(charged(left(Answer::sse("")), STREAM), 2, "the client left an upstream that had begun: the prompt");
    assert_eq!(charged(left(Answer::sse(": working\n\n")), STREAM), 2);
    assert_eq!(charged(left(Answer::json("")), REQUEST), 2);
    let error = Answer::sse(CHUNK).then(Ok("data: {\"error\":\"boom\"}\n\n"));
    assert_eq!(charged(Ok(error), STREAM), 2 + 2);
    let together = format!("{CHUNK}data: {{\"error\":\"boom\"}}\n\n");
    assert_eq!(charged(Ok(Answer::sse(&together)), STREAM), 2 + 2, "also if both came at once");
    for nothing in [
        Err(CallError::Timeout),
        Err(CallError::ClientGone),
        Err(CallError::Unreachable(String::new())),
        Ok(Answer::new(500, "", b"")),
        Ok(Answer::new(400, "application/json", b"{}")),
        Ok(Answer::sse("")),
        Ok(Answer::sse("data: {\"error\":\"boom\"}\n\n")),
    ] {
        assert_eq!(charged(nothing.clone(), STREAM), 0, "{nothing:?}");
    }
}

#[test]
fn pitfall_9_usage_that_is_reported_twice_counts_once() {
    let twice =
        REST.replace("data: [DONE]", "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}\n\ndata: [DONE]");
    let (world, gateway) = (World::default(), Gateway::default());
    ask(&world, &gateway, Ok(Answer::sse(CHUNK).then(Ok(&twice))), STREAM);
    assert_eq!(tokens_today(&world, &gateway), 8);
}

#[test]
fn pitfall_10_usage_in_a_last_event_without_its_newline_counts() {
    let cut = "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}";
    let (world, gateway) = (World::default(), Gateway::default());
    ask(&world, &gateway, Ok(Answer::sse(CHUNK).then(Ok(cut))), STREAM);
    assert_eq!(tokens_today(&world, &gateway), 12);
}

#[test]
fn pitfall_11_no_request_writes_kv_or_more_than_its_rows() {
    let (world, gateway) = (limited(r#""requests_per_day":1000000"#, ""), Gateway::default());
    let before = world.kv.borrow().clone();
    for _ in 0..1280 {
        ask(&world, &gateway, good(), REQUEST);
    }
    assert_eq!(*world.kv.borrow(), before);
    let ledgers = world.ledgers.borrow();
    let rows = ledgers["acme"].store().rows_written;
    assert!(rows <= 2 * 1280 + 2 * 20, "two rows a request, and a snapshot with its usage every 128 entries: {rows}");
}

#[test]
fn one_request_is_one_reservation_however_many_targets_are_tried() {
    let (world, gateway) = (limited(r#""requests_per_day":5"#, ""), Gateway::default());
    world.answers.borrow_mut().push_back(Err(CallError::Timeout));
    world.answers.borrow_mut().push_back(good());
    assert_eq!(world.ask_again(&gateway, &post(), r#"{"model":"both","prompt":"p"}"#).status, 200);
    assert_eq!(world.calls.borrow().len(), 2);
    assert_eq!(used(&world, &gateway, "tenant", "requests_per_day"), (1, 5));
    assert_eq!(tokens_today(&world, &gateway), 7);
}

#[test]
fn what_is_refused_before_the_quota_costs_nothing() {
    let (world, gateway) = (limited(r#""requests_per_day":5"#, ""), Gateway::default());
    for body in ["{", r#"{"model":"nope","prompt":"p"}"#, r#"{"model":"chat","prompt":"p","suffix":"s"}"#] {
        assert!(world.ask_again(&gateway, &post(), body).status >= 400);
    }
    assert_eq!(used(&world, &gateway, "tenant", "requests_per_day"), (0, 5));
}

#[test]
fn what_is_left_is_told_on_every_authenticated_answer() {
    let tenant = r#""requests_per_minute":10,"tokens_per_minute":1000"#;
    let (world, gateway) = (limited(tenant, r#""requests_per_day":3"#), Gateway::default());
    let first = ask(&world, &gateway, good(), REQUEST);
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("3"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("2"));
    assert_eq!(first.header("x-ratelimit-reset-requests"), Some("1h46m40s"));
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("1000"));
    assert_eq!(first.header("x-ratelimit-remaining-tokens"), Some("988"), "the estimate is promised");
    assert_eq!(first.header("x-ratelimit-reset-tokens"), Some("720ms"));
    let stream = ask(&world, &gateway, Ok(Answer::sse(CHUNK).then(Ok(REST))), STREAM);
    assert_eq!(stream.header("x-ratelimit-remaining-requests"), Some("1"));
    for (head, body) in [(post(), "{"), (post(), r#"{"model":"nope","prompt":"p"}"#), (get("/v1/models"), "")] {
        assert_eq!(
            world.ask_again(&gateway, &head, body).header("x-ratelimit-remaining-requests"),
            Some("1"),
            "{body}"
        );
    }
    ask(&world, &gateway, good(), REQUEST);
    assert_eq!(ask(&world, &gateway, good(), REQUEST).header("x-ratelimit-remaining-requests"), Some("0"), "a refusal");
    let stranger = world.ask_again(&gateway, &Head { authorization: None, ..post() }, REQUEST);
    assert_eq!(stranger.header("x-ratelimit-remaining-requests"), None);
    let unlimited = ask(&World::default(), &Gateway::default(), good(), REQUEST);
    assert_eq!(unlimited.header("x-ratelimit-limit-requests"), None);
}

#[test]
fn a_ledger_that_is_down_denies_or_allows_as_configured() {
    let quota = |settings: &str| {
        let (world, gateway) = (World::default(), Gateway::default());
        let setting = format!(r#""version": 1, "quota": {{{settings}}},"#);
        world.put("config", &CONFIG.replace("\"version\": 1,", &setting));
        world.ledger_fails.set(true);
        let received = ask(&world, &gateway, good(), REQUEST);
        (received.status, world.calls.borrow().len())
    };
    assert_eq!(quota(""), (503, 0));
    assert_eq!(quota(r#""on_failure":"deny""#), (503, 0));
    assert_eq!(quota(r#""on_failure":"allow""#), (200, 1));
    assert_eq!(quota(r#""enabled":false"#), (200, 1), "nobody is asked");
    let (world, gateway) = (limited(r#""requests_per_day":5"#, ""), Gateway::default());
    world.ledger_fails.set(true);
    let denied = ask(&world, &gateway, good(), REQUEST).error();
    assert_eq!(world.ledger_asked.get(), 2, "to reserve, and to settle what may have been reserved: not once more");
    assert_eq!(denied, (503, "api_error".to_owned(), None, Some("quota_unavailable".to_owned())));
    assert_eq!(world.ask_again(&gateway, &get("/v1/usage"), "").status, 503);
    assert_eq!(world.ledger_asked.get(), 3, "nor twice for what it is asked about");
    assert_eq!(world.ask_again(&gateway, &get("/v1/models"), "").status, 200);
}

#[test]
fn pitfall_34_a_revoked_key_reserves_nothing_though_isolate_and_kv_remember_it() {
    let (world, gateway) = (World::default(), Gateway::default());
    assert_eq!(ask(&world, &gateway, good(), REQUEST).status, 200);
    world
        .ledgers
        .borrow_mut()
        .get_mut("acme")
        .unwrap()
        .answer(Call::Revoke { key: "demo0001".into() }, NOW_MS)
        .unwrap();
    let refused = ask(&world, &gateway, good(), REQUEST);
    let invalid = (401, "invalid_request_error".into(), None, Some("invalid_api_key".into()));
    assert_eq!(refused.error(), invalid);
    assert_eq!(world.ask_again(&gateway, &get("/v1/usage"), "").error(), invalid, "nor does it tell anything");
    assert_eq!(world.calls.borrow().len(), 1);
}

#[test]
fn a_burst_asks_the_ledger_now_and_then_and_the_books_are_right() {
    let (world, gateway) = (limited(r#""requests_per_day":100000,"tokens_per_day":10000000"#, ""), Gateway::default());
    for nth in 1..=200 {
        let (answer, body) =
            if nth % 2 == 0 { (good(), REQUEST) } else { (Ok(Answer::sse(CHUNK).then(Ok(REST))), STREAM) };
        let received = ask(&world, &gateway, answer, body);
        assert_eq!(received.status, 200);
        assert_eq!(received.header("x-ratelimit-remaining-requests"), Some((100_000 - nth).to_string().as_str()));
    }
    let calls = world.ledger_calls.borrow().len();
    assert!(calls < 2 * 8 + 10, "{calls} calls for 200 requests");
    assert_eq!(world.renewed.borrow().len(), 200, "each renews the promise that it is spent from");
    world.tend_all();
    assert_eq!(used(&world, &gateway, "tenant", "requests_per_day"), (200, 100_000));
    assert_eq!(tokens_today(&world, &gateway), 200 * 7);
}

#[test]
fn a_burst_is_charged_for_every_end() {
    let (world, gateway) = (limited(r#""concurrent_requests":1000"#, ""), Gateway::default());
    world.put("config", &CONFIG.replace("\"version\": 1,", r#""version": 1, "breaker": {"enabled": false},"#));
    for _ in 0..20 {
        ask(&world, &gateway, good(), REQUEST);
        ask(&world, &gateway, Err(CallError::Timeout), REQUEST);
        ask(&world, &gateway, Ok(Answer::sse(CHUNK)), STREAM);
        ask(&world, &gateway, Ok(Answer::sse("").then(Err(ReadError::ClientGone))), STREAM);
    }
    world.tend_all();
    assert_eq!(tokens_today(&world, &gateway), 20 * (7 + (2 + 2) + 2));
    assert_eq!(used(&world, &gateway, "tenant", "concurrent_requests"), (0, 1000));
}

#[test]
fn where_slices_are_off_every_request_asks() {
    let (world, gateway) = (World::default(), Gateway::default());
    world.put("config", &CONFIG.replace("\"version\": 1,", r#""version": 1, "quota": {"slice_ms": 0},"#));
    for _ in 0..100 {
        assert_eq!(ask(&world, &gateway, good(), REQUEST).status, 200);
    }
    assert_eq!(world.ledger_calls.borrow().len(), 200);
}

#[test]
fn a_slice_is_spent_while_the_ledger_is_down_and_told_of_when_it_is_back() {
    let (world, gateway) = (limited(r#""requests_per_day":100000"#, ""), Gateway::default());
    (0..12).for_each(|_| drop(ask(&world, &gateway, good(), REQUEST)));
    world.ledger_fails.set(true);
    let statuses: Vec<u16> = (0..10).map(|_| ask(&world, &gateway, good(), REQUEST).status).collect();
    let spent = statuses.iter().take_while(|status| **status == 200).count();
    assert!(spent > 2 && statuses[spent..].iter().all(|status| *status == 503), "{statuses:?}");
    world.now_ms.set(world.now_ms.get() + 1000);
    assert_eq!(ask(&world, &gateway, good(), REQUEST).status, 503, "it is over");
    world.ledger_fails.set(false);
    world.tend_all();
    assert_eq!(used(&world, &gateway, "tenant", "requests_per_day"), (12 + spent as u64, 100_000));
}

#[test]
fn what_an_isolate_gives_back_is_asked_for_again_and_a_refusal_stays_one_if_that_fails() {
    let asked_again = |lasts: u32| {
        let (world, gateway, other) =
            (limited(r#""requests_per_day":100"#, ""), Gateway::default(), Gateway::default());
        let setting = r#""version": 1, "quota": {"on_failure": "allow"},"#;
        world.put("config", &CONFIG.replace("\"version\": 1,", setting));
        (0..12).for_each(|_| drop(ask(&world, &gateway, good(), REQUEST)));
        while ask(&world, &other, good(), REQUEST).status == 200 {}
        // More than is left in the slice, which is over when the reply comes.
        world.ledger_ms.set(1000);
        world.ledger_lasts.set(lasts);
        let asked = world.ledger_asked.get();
        let received = ask(&world, &gateway, good(), r#"{"model":"m","prompt":"Hi","max_tokens":2000}"#);
        (received.status, world.ledger_asked.get() - asked)
    };
    let (reserved_twice, settled) = (2, 1);
    assert_eq!(asked_again(u32::MAX), (200, reserved_twice + settled));
    assert_eq!(asked_again(1), (429, reserved_twice + settled), "what may have been reserved after all is settled");
}

#[test]
fn pitfall_39_tenants_share_nothing() {
    let (world, gateway) = (limited(r#""requests_per_day":1"#, ""), Gateway::default());
    let other = "sk-other001-abcdefghijklmnopqrstuvwxyzABCDEF";
    world.put(&key_name(other), r#"{"version":1,"tenant":"beta","id":"other001","status":"active"}"#);
    world.put("tenant:beta", r#"{"version":1,"status":"active","limits":{"requests_per_day":1}}"#);
    let head = Head { authorization: Some(format!("Bearer {other}")), ..post() };
    for (head, text) in [(post(), "mine"), (head, "yours")] {
        world.answers.borrow_mut().clear();
        let answer = COMPLETION.replace("abcd", text);
        world.answers.borrow_mut().push_back(Ok(Answer::json(&answer)));
        let received = world.ask_again(&gateway, &head, REQUEST);
        assert!(received.body.contains(text), "the same request of another tenant has its own answer");
        assert_eq!(world.ask_again(&gateway, &head, REQUEST).status, 429, "and its own quota");
    }
}

#[test]
fn a_tenants_own_key_sees_limits_and_windows() {
    let (world, gateway) = (limited(r#""tokens_per_day":100"#, r#""concurrent_requests":3"#), Gateway::default());
    ask(&world, &gateway, good(), REQUEST);
    // Not at a full second: the end of a window is one all the same.
    world.now_ms.set(NOW_MS + 1);
    let report = world.ask_again(&gateway, &get("/v1/usage"), "").json();
    let day_ends = 1_700_006_400;
    assert_eq!(
        report,
        serde_json::json!({
            "object": "usage", "tenant": "acme", "key": "demo0001",
            "limits": [
                {"owner": "tenant", "limit": "tokens_per_day", "max": 100, "used": 7, "remaining": 93, "resets_at": day_ends},
                {"owner": "key", "limit": "concurrent_requests", "max": 3, "used": 0, "remaining": 3, "resets_at": 1_700_000_001},
            ],
            "windows": [
                {"owner": "tenant", "period": "day", "requests": 1, "tokens": 7, "resets_at": day_ends},
                {"owner": "tenant", "period": "month", "requests": 1, "tokens": 7, "resets_at": 1_701_388_800},
                {"owner": "key", "period": "day", "requests": 1, "tokens": 7, "resets_at": day_ends},
                {"owner": "key", "period": "month", "requests": 1, "tokens": 7, "resets_at": 1_701_388_800},
            ],
        })
    );
}

#[test]
fn guessing_keys_is_slowed_and_valid_keys_are_not() {
    let (world, gateway) = (World::default(), Gateway::default());
    world.failures_allowed.set(2);
    let guess = |key: &str| {
        let head = Head { authorization: Some(format!("Bearer {key}")), ..get("/v1/models") };
        world.ask_again(&gateway, &head, "")
    };
    let unknown = "sk-guess001-abcdefghijklmnopqrstuvwxyzABCDEF";
    assert_eq!([guess("nonsense").status, guess(unknown).status], [401, 401]);
    let slowed = guess(unknown);
    assert_eq!(slowed.error().3.as_deref(), Some("rate_limit_exceeded"));
    assert_eq!(slowed.header("retry-after"), Some("60"));
    assert_eq!(guess(KEY).status, 200);
    assert_eq!(world.failures.get(), 3, "a valid key is no failure");
}
