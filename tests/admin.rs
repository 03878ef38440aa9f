//! The operator's API, natively: the real one over real ledger desks, and a KV that takes one write a second a key.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

mod common;

use common::admin::{ADMIN_TOKEN, Moment, admin_head};
use common::{Answer, CONFIG, KEY, MemoryStore, NOW_MS, Received, World, get, key_name, post};
use completions_edge::gateway::{Gateway, Head};
use completions_edge::quota::{Call, Desk, UsageCounts, UsageKey};
use serde_json::{Value, json};

const COMPLETION: &str = r#"{"choices":[{"index":0,"text":" there","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
const REQUEST: &str = r#"{"model":"m","prompt":"Hi"}"#;

type Error = (u16, &'static str, Option<&'static str>, Option<&'static str>);

const NO_KEY: Error = (401, "invalid_request_error", None, None);
const INVALID_KEY: Error = (401, "invalid_request_error", None, Some("invalid_api_key"));
const UNKNOWN_URL: Error = (404, "invalid_request_error", None, Some("unknown_url"));
const NOT_FOUND: Error = (404, "invalid_request_error", None, Some("not_found"));
const CONFLICT: Error = (409, "invalid_request_error", None, Some("conflict"));
const PRECONDITION: Error = (412, "invalid_request_error", None, Some("precondition_failed"));
const UNAVAILABLE: Error = (503, "api_error", None, Some("records_unavailable"));

#[track_caller]
fn check_error(received: &Received, expected: Error) {
    let (status, kind, param, code) = received.error();
    assert_eq!((status, kind.as_str(), param.as_deref(), code.as_deref()), expected, "{}", received.body);
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert!(received.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
}

#[track_caller]
fn check(received: &Received, status: u16, expected: &Value) {
    assert_eq!((received.status, &received.json()), (status, expected), "{}", received.body);
    assert_eq!(received.header("cache-control"), Some("no-store"));
    assert!(received.header("x-request-id").is_some());
}

fn field(received: &Received, name: &str) -> String {
    received.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {}", received.body)).to_owned()
}

/// What KV says under a key.
fn kv(world: &World, name: &str) -> Option<Value> {
    world.kv.borrow().get(name).map(|bytes| serde_json::from_slice(bytes).unwrap())
}

/// A world with a tenant `t` and one key of it: the answer that has the key.
fn with_key() -> (World, Received) {
    let world = World::with_operator();
    assert_eq!(world.admin("POST", "tenants", r#"{"id":"t"}"#).status, 201);
    let issued = world.admin("POST", "tenants/t/keys", r#"{"name":"ci","models":["m"]}"#);
    assert_eq!(issued.status, 201, "{}", issued.body);
    (world, issued)
}

fn with_bearer(key: &str, head: Head) -> Head {
    Head { authorization: Some(format!("Bearer {key}")), ..head }
}

/// What a client gets who asks for a completion with this key, from an isolate that remembers nothing.
fn complete(world: &World, key: &str) -> Received {
    world.answers.borrow_mut().clear();
    world.answers.borrow_mut().push_back(Ok(Answer::json(COMPLETION)));
    world.ask(&with_bearer(key, post()), REQUEST)
}

#[test]
fn without_a_token_the_routes_do_not_exist() {
    for token in [None, Some(""), Some("123456789012345")] {
        let world = World::default();
        *world.operator.token.borrow_mut() = token.map(str::to_owned);
        let head = with_bearer(token.unwrap_or_default(), admin_head("GET", "tenants"));
        let received = world.admin_head(&head, "");
        check_error(&received, UNKNOWN_URL);
        let elsewhere = world.ask(&Head { path: "/nowhere".to_owned(), ..get("") }, "");
        let names = |received: &Received| received.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert_eq!(names(&received), names(&elsewhere), "it is the answer of any unknown path");
        assert_eq!(
            received.body,
            r#"{"error":{"message":"Invalid URL (GET /admin/v1/tenants)","type":"invalid_request_error","param":null,"code":"unknown_url"}}"#
        );
    }
}

#[test]
fn the_token_opens_and_nothing_else_does() {
    let world = World::with_operator();
    assert_eq!(world.admin("GET", "tenants", "").status, 200);
    let wrong = format!("{ADMIN_TOKEN}x");
    for token in [KEY, "x", &wrong, ADMIN_TOKEN.strip_suffix('n').unwrap()] {
        // Whoever is not the operator does not even learn which paths there are.
        for path in ["tenants", "nowhere"] {
            check_error(&world.admin_head(&with_bearer(token, admin_head("GET", path)), ""), INVALID_KEY);
        }
    }
    let none = Head { authorization: None, ..admin_head("POST", "tenants") };
    let refused = world.admin_head(&none, r#"{"id":"t"}"#);
    check_error(&refused, NO_KEY);
    assert_eq!(
        (refused.header("cache-control"), refused.header("www-authenticate")),
        (Some("no-store"), Some("Bearer"))
    );
    assert_eq!(world.body_reads.get(), 0, "a body is not read for just anybody");
}

#[test]
fn paths_and_methods() {
    let world = World::with_operator();
    for path in ["", "tenants/", "tenants//keys", "tenants/t/", "tenants/t/keys/k/x", "config/", "config/x", "nowhere"]
    {
        check_error(&world.admin("GET", path, ""), UNKNOWN_URL);
    }
    for (method, path, allow) in [
        ("DELETE", "tenants", "GET, POST"),
        ("POST", "tenants/t", "GET, PUT, PATCH, DELETE"),
        ("PUT", "tenants/t/keys", "GET, POST"),
        ("PUT", "tenants/t/keys/k", "GET, PATCH, DELETE"),
        ("GET", "tenants/t/keys/k/rotate", "POST"),
        ("POST", "tenants/t/usage", "GET"),
        ("DELETE", "config", "GET, PUT"),
        ("GET", "config/check", "POST"),
    ] {
        let received = world.admin(method, path, "");
        check_error(&received, (405, "invalid_request_error", None, Some("method_not_supported")));
        assert_eq!(received.header("allow"), Some(allow));
    }
}

#[test]
fn bodies() {
    let world = World::with_operator();
    for (method, path) in [("POST", "tenants"), ("PUT", "tenants/t"), ("PATCH", "tenants/acme"), ("PUT", "config")] {
        let text = Head { content_type: Some("text/plain".to_owned()), ..admin_head(method, path) };
        check_error(
            &world.admin_head(&text, "{}"),
            (415, "invalid_request_error", None, Some("unsupported_media_type")),
        );
        let large = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
        check_error(
            &world.admin(method, path, &large),
            (413, "invalid_request_error", None, Some("request_too_large")),
        );
        check_error(&world.admin(method, path, "{"), (400, "invalid_request_error", None, None));
    }
    check_error(
        &world.admin("PATCH", "tenants/acme", "[]"),
        (400, "invalid_request_error", None, Some("invalid_type")),
    );
    let patch =
        Head { content_type: Some("application/merge-patch+json".to_owned()), ..admin_head("PATCH", "tenants/acme") };
    assert_eq!(world.admin_head(&patch, "{}").status, 200);
    let unknown = world.admin("PATCH", "tenants/acme", r#"{"naem":"x","modles":[],"name":"y"}"#);
    check_error(&unknown, (400, "invalid_request_error", None, None));
    assert!(unknown.body.contains("modles, naem") || unknown.body.contains("naem, modles"), "{}", unknown.body);
    assert_eq!(world.admin("GET", "tenants/acme", "").json()["name"], "Acme", "nothing of it was taken");
    for (field, body, code) in [
        ("name", r#"{"name":1}"#, "invalid_type"),
        ("status", r#"{"status":"asleep"}"#, "invalid_type"),
        ("models", r#"{"models":"m"}"#, "invalid_type"),
        ("models", r#"{"models":[1]}"#, "invalid_type"),
        ("limits", r#"{"limits":5}"#, "invalid_type"),
        ("limits", r#"{"limits":{"requests_per_day":-1}}"#, "invalid_type"),
        ("limits", r#"{"limits":{"requests_per_day":1.5}}"#, "invalid_type"),
        ("limits", r#"{"limits":{"tokens_per_month":1000000000001}}"#, "integer_above_max_value"),
    ] {
        let received = world.admin("PATCH", "tenants/acme", body);
        check_error(&received, (400, "invalid_request_error", Some(field), Some(code)));
    }
    let misspelt = world.admin("PATCH", "tenants/acme", r#"{"limits":{"request_per_day":5}}"#);
    assert!(misspelt.status == 400 && misspelt.body.contains("limits.request_per_day"), "{}", misspelt.body);
}

#[test]
fn a_tenant_from_its_first_day_to_its_last() {
    let world = World::with_operator();
    let body = r#"{"id":"t-1","name":"T","models":["m"],"limits":{"requests_per_day":5,"tokens_per_minute":9}}"#;
    let created = world.admin("POST", "tenants", body);
    let limits = json!({"requests_per_day": 5, "tokens_per_minute": 9});
    let shown = json!({"object":"tenant","id":"t-1","name":"T","status":"active","models":["m"],"limits":limits});
    check(&created, 201, &shown);
    assert_eq!((created.header("location"), created.header("etag")), (Some("/admin/v1/tenants/t-1"), Some("\"1\"")));
    let copy = json!({"version":1,"name":"T","status":"active","models":["m"],"limits":limits});
    assert_eq!(kv(&world, "tenant:t-1"), Some(copy));
    check_error(&world.admin("POST", "tenants", body), (409, "invalid_request_error", Some("id"), Some("conflict")));

    let patched = world.admin(
        "PATCH",
        "tenants/t-1",
        r#"{"status":"suspended","models":null,"limits":{"requests_per_day":null,"concurrent_requests":2}}"#,
    );
    let limits = json!({"concurrent_requests": 2, "tokens_per_minute": 9});
    let shown = json!({"object":"tenant","id":"t-1","name":"T","status":"suspended","models":null,"limits":limits});
    check(&patched, 200, &shown);
    assert_eq!(patched.header("etag"), Some("\"2\""));
    let read = world.admin("GET", "tenants/t-1", "");
    check(&read, 200, &shown);
    assert_eq!(read.header("etag"), Some("\"2\""));

    let put = world.admin("PUT", "tenants/t-1", r#"{"name":"U"}"#);
    check(&put, 200, &json!({"object":"tenant","id":"t-1","name":"U","status":"active","models":null,"limits":{}}));
    assert_eq!(world.admin("PATCH", "tenants/t-1", r#"{"limits":{"requests_per_day":1}}"#).status, 200);
    assert_eq!(world.admin("PATCH", "tenants/t-1", r#"{"limits":null}"#).json()["limits"], json!({}));

    for _ in 0..2 {
        let deleted = world.admin("DELETE", "tenants/t-1", "");
        assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
        assert_eq!(kv(&world, "tenant:t-1"), None);
        check_error(&world.admin("GET", "tenants/t-1", ""), NOT_FOUND);
        check_error(&world.admin("PATCH", "tenants/t-1", "{}"), NOT_FOUND);
    }
    let again = world.admin("POST", "tenants", r#"{"id":"t-1"}"#);
    assert_eq!((again.status, again.json()["name"].as_str()), (201, Some("")));
    assert_eq!(again.header("etag"), Some("\"7\""), "no version is ever given twice");
}

#[test]
fn ids_of_tenants() {
    let world = World::with_operator();
    let longest = "a".repeat(63);
    for good in ["a", "0", "a-b", &longest] {
        assert_eq!(world.admin("PUT", &format!("tenants/{good}"), "{}").status, 201, "{good}");
        assert_eq!(world.admin("PUT", &format!("tenants/{good}"), "{}").status, 200, "{good}");
    }
    let too_long = "a".repeat(64);
    for bad in ["", "-a", "A", "a_b", "@config", "a b", "ä", &too_long] {
        let created = world.admin("POST", "tenants", &json!({ "id": bad }).to_string());
        check_error(&created, (400, "invalid_request_error", Some("id"), None));
        if !bad.is_empty() {
            for (method, body) in [("GET", ""), ("PUT", "{}"), ("PATCH", "{}"), ("DELETE", "")] {
                check_error(&world.admin(method, &format!("tenants/{bad}"), body), NOT_FOUND);
            }
        }
    }
    check_error(
        &world.admin("POST", "tenants", r#"{"name":"x"}"#),
        (400, "invalid_request_error", Some("id"), Some("missing_required_parameter")),
    );
}

#[test]
fn preconditions_are_kept_and_kept_again_when_another_writer_was_faster() {
    let world = World::with_operator();
    let created = world.admin("POST", "tenants", r#"{"id":"t"}"#);
    let etag = created.header("etag").unwrap().to_owned();
    for (method, body) in [("PATCH", r#"{"name":"x"}"#), ("PUT", "{}"), ("DELETE", "")] {
        check_error(&world.admin_if_match("\"99\"", method, "tenants/t", body), PRECONDITION);
        check_error(&world.admin_if_match("*", method, "tenants/nobody", body), PRECONDITION);
    }
    let new_only = Head { if_none_match: Some("*".to_owned()), ..admin_head("PUT", "tenants/t") };
    check_error(&world.admin_head(&new_only, "{}"), PRECONDITION);
    let new_only = Head { path: "/admin/v1/tenants/u".to_owned(), ..new_only };
    assert_eq!(world.admin_head(&new_only, "{}").status, 201);

    // Two writers have read the same version. One of them wins, the other one is told.
    let theirs = etag.clone();
    world.interrupt(Moment::LedgerWrite, move |world| {
        assert_eq!(world.admin_if_match(&theirs, "PATCH", "tenants/t", r#"{"name":"theirs"}"#).status, 200);
    });
    check_error(&world.admin_if_match(&etag, "PATCH", "tenants/t", r#"{"name":"ours"}"#), PRECONDITION);
    assert_eq!(world.admin("GET", "tenants/t", "").json()["name"], "theirs");
    assert_eq!(kv(&world, "tenant:t").unwrap()["name"], "theirs");

    // Without a precondition both changes are made, and neither is lost.
    world.interrupt(Moment::LedgerWrite, |world| {
        assert_eq!(world.admin("PATCH", "tenants/t", r#"{"name":"again theirs"}"#).status, 200);
    });
    let ours = world.admin("PATCH", "tenants/t", r#"{"status":"suspended"}"#);
    assert_eq!(
        (ours.json()["name"].as_str(), ours.json()["status"].as_str()),
        (Some("again theirs"), Some("suspended"))
    );

    // Two that make the same tenant.
    world.interrupt(Moment::LedgerWrite, |world| {
        assert_eq!(world.admin("POST", "tenants", r#"{"id":"v"}"#).status, 201);
    });
    check_error(
        &world.admin("POST", "tenants", r#"{"id":"v"}"#),
        (409, "invalid_request_error", Some("id"), Some("conflict")),
    );
}

#[test]
fn kv_is_written_once_a_second_at_most() {
    let world = World::with_operator();
    world.admin("POST", "tenants", r#"{"id":"t"}"#);
    assert!(world.operator.sleeps.borrow().is_empty(), "a first write waits for nobody");
    for name in ["a", "b", "c"] {
        assert_eq!(world.admin("PATCH", "tenants/t", &json!({ "name": name }).to_string()).status, 200);
    }
    assert_eq!(*world.operator.sleeps.borrow(), [1000, 1000, 1000]);
    assert!(world.log.borrow().is_empty(), "KV has refused nothing: {:?}", world.log.borrow());
    world.now_ms.set(world.now_ms.get() + 400);
    world.admin("PATCH", "tenants/t", "{}");
    assert_eq!(world.operator.sleeps.borrow().last(), Some(&600));
    world.admin("PATCH", "tenants/acme", r#"{"name":"elsewhere"}"#);
    assert_eq!(
        world.operator.sleeps.borrow().len(),
        5,
        "an adopted record of another name: {:?}",
        world.operator.sleeps
    );
}

#[test]
fn concurrent_publications_converge_on_the_newest() {
    // The slow writer's copy comes after the fast writer's.
    let world = World::with_operator();
    world.admin("POST", "tenants", r#"{"id":"t"}"#);
    world.now_ms.set(NOW_MS + 10_000);
    world.interrupt(Moment::KvWrite, |world| {
        assert_eq!(world.admin("PATCH", "tenants/t", r#"{"name":"newer"}"#).status, 200);
    });
    assert_eq!(world.admin("PATCH", "tenants/t", r#"{"name":"older"}"#).status, 200);
    assert_eq!(kv(&world, "tenant:t").unwrap()["name"], "newer");
    assert_eq!(world.admin("GET", "tenants/t", "").json()["name"], "newer");

    // And so where the newer thing is that there is no tenant any more.
    world.now_ms.set(NOW_MS + 60_000);
    world.interrupt(Moment::KvWrite, |world| assert_eq!(world.admin("DELETE", "tenants/t", "").status, 204));
    assert_eq!(world.admin("PATCH", "tenants/t", r#"{"name":"older"}"#).status, 200);
    assert_eq!(kv(&world, "tenant:t"), None);
}

#[test]
fn a_writer_that_waited_for_kv_publishes_the_newest_in_its_own_time() {
    let world = World::with_operator();
    world.admin("POST", "tenants", r#"{"id":"t"}"#);
    // Both come while KV cannot be written: each waits for a time of its own.
    world.interrupt(Moment::Sleep, |world| {
        assert_eq!(world.admin("PATCH", "tenants/t", r#"{"name":"newer"}"#).status, 200);
    });
    let older = world.admin("PATCH", "tenants/t", r#"{"name":"older"}"#);
    assert_eq!((older.json()["name"].as_str(), older.header("etag")), (Some("older"), Some("\"2\"")));
    assert_eq!(kv(&world, "tenant:t").unwrap()["name"], "newer");
    let texts: Vec<_> = world.operator.kv_writes.borrow().iter().filter_map(|(_, _, text)| text.clone()).collect();
    assert_eq!(texts.len(), 3, "one write for each change: {texts:?}");
    assert!(
        texts.iter().all(|text| !text.contains("older")),
        "what was replaced meanwhile is not published: {texts:?}"
    );
    assert!(world.log.borrow().is_empty(), "KV has refused nothing: {:?}", world.log.borrow());
}

#[test]
fn what_kv_does_not_take_is_tried_again_and_said() {
    let world = World::with_operator();
    world.operator.kv_write_failures.set(2);
    assert_eq!(world.admin("POST", "tenants", r#"{"id":"t"}"#).status, 201);
    assert!(kv(&world, "tenant:t").is_some());
    assert_eq!(world.log.borrow().len(), 2);

    world.operator.kv_write_failures.set(u32::MAX);
    check_error(&world.admin("PATCH", "tenants/t", r#"{"name":"x"}"#), UNAVAILABLE);
    assert_eq!(kv(&world, "tenant:t").unwrap()["name"], "");
    world.operator.kv_write_failures.set(0);
    assert_eq!(world.admin("PATCH", "tenants/t", "{}").status, 200, "repeating it mends it");
    assert_eq!(kv(&world, "tenant:t").unwrap()["name"], "x");
}

#[test]
fn a_ledger_or_kv_that_is_down_is_503_and_says_nothing_of_why() {
    let world = World::with_operator();
    world.ledger_fails.set(true);
    for (method, path, body) in [
        ("GET", "tenants/acme", ""),
        ("POST", "tenants", r#"{"id":"t"}"#),
        ("GET", "tenants/acme/usage", ""),
        ("GET", "config", ""),
    ] {
        let received = world.admin(method, path, body);
        check_error(&received, UNAVAILABLE);
        assert!(!received.body.contains("down"));
    }
    world.ledger_fails.set(false);
    world.kv_fails.set(true);
    check_error(&world.admin("GET", "tenants", ""), UNAVAILABLE);
    check_error(&world.admin("GET", "tenants/acme", ""), UNAVAILABLE);
    assert!(world.log.borrow().iter().any(|line| line.contains("down")));
}

#[test]
fn a_record_that_somebody_wrote_into_kv_is_taken_over() {
    let world = World::with_operator();
    let acme = json!({"object":"tenant","id":"acme","name":"Acme","status":"active","models":null,"limits":{}});
    let read = world.admin("GET", "tenants/acme", "");
    check(&read, 200, &acme);
    assert_eq!(read.header("etag"), Some("\"1\""));
    assert!(world.operator.kv_writes.borrow().is_empty(), "KV has it already");
    check_error(
        &world.admin("POST", "tenants", r#"{"id":"acme"}"#),
        (409, "invalid_request_error", Some("id"), Some("conflict")),
    );
    assert_eq!(world.admin_if_match("\"1\"", "PATCH", "tenants/acme", r#"{"name":"A"}"#).header("etag"), Some("\"2\""));

    // A copy that KV still has of what was deleted is not taken for one that only KV knows.
    let copy = world.kv.borrow()["tenant:acme"].clone();
    assert_eq!(world.admin("DELETE", "tenants/acme", "").status, 204);
    world.kv.borrow_mut().insert("tenant:acme".to_owned(), copy);
    check_error(&world.admin("GET", "tenants/acme", ""), NOT_FOUND);
    assert_eq!(world.admin("GET", "tenants", "").json()["data"], json!([]));

    // What is no record can be written anew.
    world.put("tenant:broken", "nonsense");
    check_error(&world.admin("GET", "tenants/broken", ""), NOT_FOUND);
    assert_eq!(world.admin("PUT", "tenants/broken", "{}").status, 201);
    assert_eq!(kv(&world, "tenant:broken").unwrap()["version"], 1);
}

#[test]
fn a_key_that_somebody_wrote_into_kv_is_known_by_its_hash() {
    let world = World::with_operator();
    let hash = key_name(KEY).strip_prefix("key:").unwrap().to_owned();
    assert_eq!(world.admin("GET", "tenants/acme/keys", "").json()["data"], json!([]));
    check_error(&world.admin("GET", "tenants/acme/keys/demo0001", ""), NOT_FOUND);
    check_error(&world.admin("GET", &format!("tenants/other/keys/{hash}"), ""), NOT_FOUND);
    check_error(&world.admin("GET", &format!("tenants/acme/keys/{}", "0".repeat(64)), ""), NOT_FOUND);
    let read = world.admin("GET", &format!("tenants/acme/keys/{hash}"), "");
    assert_eq!((read.status, field(&read, "id")), (200, "demo0001".to_owned()));
    assert_eq!(world.admin("GET", "tenants/acme/keys/demo0001", "").json(), read.json(), "from now on by its id, too");
    assert_eq!(world.admin("DELETE", &format!("tenants/acme/keys/{hash}"), "").status, 204);
    assert_eq!(kv(&world, &key_name(KEY)).unwrap()["status"], "revoked");

    let twin = KEY.replace("ABCDEF", "ABCDEG");
    world.put(&key_name(&twin), r#"{"version":1,"tenant":"acme","id":"demo0001","status":"active"}"#);
    let twin_hash = key_name(&twin).strip_prefix("key:").unwrap().to_owned();
    check_error(&world.admin("DELETE", &format!("tenants/acme/keys/{twin_hash}"), ""), CONFLICT);
}

#[test]
fn lists_have_pages() {
    let world = World::with_operator();
    for i in 0..5 {
        world.admin("POST", "tenants", &json!({ "id": format!("t{i}") }).to_string());
        assert_eq!(world.admin("POST", "tenants/acme/keys", "").status, 201);
    }
    for (path, expected) in [("tenants", 6), ("tenants/acme/keys", 5)] {
        let whole = world.admin("GET", path, "").json();
        assert_eq!((whole["object"].as_str(), &whole["next_cursor"]), (Some("list"), &Value::Null));
        assert_eq!(whole["data"].as_array().unwrap().len(), expected);
        let (mut pages, mut query) = (Vec::new(), "limit=2".to_owned());
        loop {
            let page = world.admin("GET", &format!("{path}?{query}"), "").json();
            assert!(page["data"].as_array().unwrap().len() <= 2);
            pages.extend(page["data"].as_array().unwrap().clone());
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            query = format!("limit=2&cursor={}", cursor.replace(':', "%3A"));
        }
        assert_eq!(Value::Array(pages), whole["data"]);
        for bad in ["limit=0", "limit=101", "limit=many"] {
            let received = world.admin("GET", &format!("{path}?{bad}"), "");
            check_error(&received, (400, "invalid_request_error", Some("limit"), None));
        }
        assert!(world.admin("GET", &format!("{path}?page=2"), "").body.contains("page"));
    }
    check_error(&world.admin("GET", "tenants/nobody/keys", ""), NOT_FOUND);
}

#[test]
fn a_key_is_shown_in_one_answer_and_nowhere_else() {
    let (world, issued) = with_key();
    let (id, key) = (field(&issued, "id"), field(&issued, "key"));
    assert!(key.starts_with(&format!("sk-{id}-")) && id.len() == 12 && key.len() == 59, "{key}");
    assert_eq!(issued.header("location"), Some(format!("/admin/v1/tenants/t/keys/{id}").as_str()));
    let mut shown = issued.json();
    shown.as_object_mut().unwrap().remove("key");
    let hash = key_name(&key).strip_prefix("key:").unwrap().to_owned();
    assert_eq!(
        shown,
        json!({"object":"key","id":id,"tenant":"t","name":"ci","status":"active","expires_at":null,"models":["m"],"chunk_format":null,"limits":{},"hash":hash})
    );
    check(&world.admin("GET", &format!("tenants/t/keys/{id}"), ""), 200, &shown);
    check(&world.admin("GET", "tenants/t/keys", ""), 200, &json!({"object":"list","data":[shown],"next_cursor":null}));
    assert_eq!(complete(&world, &key).status, 200, "it opens what it is for");

    let patched = world.admin(
        "PATCH",
        &format!("tenants/t/keys/{id}"),
        r#"{"name":null,"expires_at":1800000000,"limits":{"requests_per_minute":3},"chunk_format":"openai"}"#,
    );
    assert_eq!(patched.status, 200, "{}", patched.body);
    let copy = kv(&world, &key_name(&key)).unwrap();
    assert_eq!(
        copy,
        json!({"version":1,"tenant":"t","id":id,"name":"","status":"active","expires_at":1_800_000_000,"models":["m"],"chunk_format":"openai","limits":{"requests_per_minute":3}})
    );
    for body in [r#"{"status":"active"}"#, r#"{"tenant":"u"}"#, r#"{"id":"x"}"#, r#"{"key":"x"}"#] {
        assert_eq!(world.admin("PATCH", &format!("tenants/t/keys/{id}"), body).status, 400, "{body}");
    }
    world.admin("POST", &format!("tenants/t/keys/{id}/rotate"), "");

    let secret = key.rsplit('-').next().unwrap();
    let everything = format!(
        "{:?} {:?} {:?} {:?}",
        world.kv.borrow().iter().map(|(k, v)| format!("{k} {}", String::from_utf8_lossy(v))).collect::<Vec<_>>(),
        world.ledgers.borrow(),
        world.ledger_calls.borrow(),
        world.log.borrow(),
    );
    assert!(everything.contains(&id) && !everything.contains(secret), "the secret is stored nowhere");
    for answer in [world.admin("GET", "tenants/t/keys", ""), world.admin("GET", &format!("tenants/t/keys/{id}"), "")] {
        assert!(!answer.body.contains(secret));
    }
}

#[test]
fn keys_need_their_tenant() {
    let world = World::with_operator();
    check_error(&world.admin("POST", "tenants/nobody/keys", "{}"), NOT_FOUND);
    for (method, path) in [("GET", "keys/k"), ("DELETE", "keys/k"), ("POST", "keys/k/rotate"), ("GET", "keys/K-x")] {
        check_error(&world.admin(method, &format!("tenants/acme/{path}"), ""), NOT_FOUND);
    }
    check_error(&world.admin("PATCH", "tenants/acme/keys/k", "{}"), NOT_FOUND);
    // The tenant is deleted while a key of it is made.
    world.admin("POST", "tenants", r#"{"id":"t"}"#);
    world.interrupt(Moment::LedgerWrite, |world| assert_eq!(world.admin("DELETE", "tenants/t", "").status, 204));
    check_error(&world.admin("POST", "tenants/t/keys", "{}"), NOT_FOUND);
    world.admin("POST", "tenants", r#"{"id":"t"}"#);
    assert_eq!(world.admin("GET", "tenants/t/keys", "").json()["data"][0]["status"], "revoked");
}

#[test]
fn revocation_reaches_the_ledger_before_kv_and_isolates_know() {
    let (world, issued) = with_key();
    let (id, key) = (field(&issued, "id"), field(&issued, "key"));
    let path = format!("tenants/t/keys/{id}");
    let gateway = Gateway::default();
    let remembering = |world: &World| {
        world.answers.borrow_mut().push_back(Ok(Answer::json(COMPLETION)));
        world.ask_again(&gateway, &with_bearer(&key, post()), REQUEST)
    };
    assert_eq!(remembering(&world).status, 200);
    let copy = world.kv.borrow()[&key_name(&key)].clone();
    check_error(&world.admin_if_match("\"9\"", "DELETE", &path, ""), PRECONDITION);
    assert_eq!(remembering(&world).status, 200);

    let before = world.ledger_calls.borrow().len();
    for _ in 0..2 {
        assert_eq!(world.admin("DELETE", &path, "").status, 204);
        assert_eq!(world.admin("GET", &path, "").json()["status"], "revoked");
        assert_eq!(kv(&world, &key_name(&key)).unwrap()["status"], "revoked");
    }
    let calls = world.ledger_calls.borrow()[before..].to_vec();
    let position = |wanted: fn(&Call) -> bool| calls.iter().position(|(_, call)| wanted(call)).unwrap();
    assert!(
        position(|call| matches!(call, Call::Revoke { .. }))
            < position(|call| matches!(call, Call::WriteRecord { .. }))
    );
    // KV is behind, and the isolate remembers; the ledger knows.
    world.kv.borrow_mut().insert(key_name(&key), copy);
    check_error(&remembering(&world), INVALID_KEY);
    check_error(&complete(&world, &key), INVALID_KEY);
    // What is revoked stays so, and is not rotated.
    assert_eq!(world.admin("PATCH", &path, r#"{"name":"x"}"#).json()["status"], "revoked");
    check_error(&world.admin("POST", &format!("{path}/rotate"), ""), CONFLICT);
}

#[test]
fn a_revocation_is_not_lost_to_another_writer() {
    let (world, issued) = with_key();
    let path = format!("tenants/t/keys/{}", field(&issued, "id"));
    let theirs = path.clone();
    world.interrupt(Moment::LedgerWrite, move |world| {
        assert_eq!(world.admin("PATCH", &theirs, r#"{"name":"theirs"}"#).status, 200);
    });
    assert_eq!(world.admin("DELETE", &path, "").status, 204);
    let now = world.admin("GET", &path, "").json();
    assert_eq!((now["name"].as_str(), now["status"].as_str()), (Some("theirs"), Some("revoked")));
}

#[test]
fn rotation() {
    let (world, issued) = with_key();
    let (id, key) = (field(&issued, "id"), field(&issued, "key"));
    let path = format!("tenants/t/keys/{id}/rotate");
    world.admin(
        "PATCH",
        &format!("tenants/t/keys/{id}"),
        r#"{"limits":{"requests_per_day":9},"chunk_format":"openai"}"#,
    );
    let rotated = world.admin("POST", &path, r#"{"grace_seconds":60}"#);
    assert_eq!(rotated.status, 201, "{}", rotated.body);
    let (new_id, new_key) = (field(&rotated, "id"), field(&rotated, "key"));
    assert!(new_id != id && new_key != key);
    for (setting, value) in [("models", json!(["m"])), ("limits", json!({"requests_per_day":9})), ("name", json!("ci"))]
    {
        assert_eq!(rotated.json()[setting], value);
    }
    assert_eq!(rotated.json()["expires_at"], Value::Null);
    let end = world.admin("GET", &format!("tenants/t/keys/{id}"), "").json()["expires_at"].as_u64().unwrap();
    let now = world.now_ms.get() / 1000;
    assert!((now..=now + 60).contains(&end) && end >= NOW_MS / 1000 + 60, "{end}");
    assert_eq!([complete(&world, &key).status, complete(&world, &new_key).status], [200, 200], "both, for a while");
    world.now_ms.set(end * 1000);
    assert_eq!([complete(&world, &key).status, complete(&world, &new_key).status], [401, 200]);

    let path = format!("tenants/t/keys/{new_id}/rotate");
    check_error(&world.admin_if_match("\"9\"", "POST", &path, ""), PRECONDITION);
    let at_once = world.admin("POST", &path, r#"{"grace_seconds":0}"#);
    assert_eq!(at_once.status, 201);
    check_error(&complete(&world, &new_key), INVALID_KEY);
    assert_eq!(world.admin("GET", &format!("tenants/t/keys/{new_id}"), "").json()["status"], "revoked");

    // A day by default, and never longer than it had.
    let (third, soon) = (field(&at_once, "id"), world.now_ms.get() / 1000 + 5);
    let path = format!("tenants/t/keys/{third}");
    world.admin("PATCH", &path, &json!({ "expires_at": soon }).to_string());
    let last = world.admin("POST", &format!("{path}/rotate"), "");
    assert_eq!(last.json()["expires_at"], json!(soon), "the same settings");
    assert_eq!(world.admin("GET", &path, "").json()["expires_at"], json!(soon));
    for (body, param, code) in [
        (r#"{"grace_seconds":-1}"#, Some("grace_seconds"), Some("invalid_type")),
        (r#"{"grace_seconds":99999999999}"#, Some("grace_seconds"), Some("integer_above_max_value")),
        (r#"{"grace":1}"#, None, None),
    ] {
        let received = world.admin("POST", &format!("{path}/rotate"), body);
        check_error(&received, (400, "invalid_request_error", param, code));
    }
}

#[test]
fn deleting_a_tenant_revokes_its_keys() {
    let (world, issued) = with_key();
    let key = field(&issued, "key");
    for _ in 0..3 {
        world.admin("POST", "tenants/t/keys", "");
    }
    assert_eq!(complete(&world, &key).status, 200);
    assert_eq!(world.admin("DELETE", "tenants/t", "").status, 204);
    check_error(&complete(&world, &key), INVALID_KEY);
    let revocations =
        world.ledger_calls.borrow().iter().filter(|(_, call)| matches!(call, Call::Revoke { .. })).count();
    assert_eq!(revocations, 4);
    // Another tenant of this id has nothing to do with them.
    assert_eq!(world.admin("POST", "tenants", r#"{"id":"t"}"#).status, 201);
    check_error(&complete(&world, &key), INVALID_KEY);
    let keys = world.admin("GET", "tenants/t/keys", "").json();
    assert!(keys["data"].as_array().unwrap().iter().all(|key| key["status"] == "revoked"));
    // Repeating it after a failure goes on where it ended.
    world.admin("POST", "tenants/t/keys", "");
    world.now_ms.set(world.now_ms.get() + 5000);
    world.interrupt(Moment::LedgerWrite, |_| ());
    world.interrupt(Moment::LedgerWrite, |world| world.ledger_fails.set(true));
    check_error(&world.admin("DELETE", "tenants/t", ""), UNAVAILABLE);
    world.ledger_fails.set(false);
    assert_eq!(world.admin("DELETE", "tenants/t", "").status, 204);
}

#[test]
fn the_configuration() {
    let world = World::with_operator();
    let read = world.admin("GET", "config", "");
    assert_eq!((read.status, read.body.as_str(), read.header("etag")), (200, CONFIG, Some("\"1\"")));
    let other = CONFIG.replace("acme", "other");
    check(&world.admin("POST", "config/check", &other), 200, &json!({"valid": true}));
    for bad in [other.replace("\"version\": 1", "\"version\": 2"), other.replace("\"version\"", "\"versoin\"")] {
        for (method, path) in [("POST", "config/check"), ("PUT", "config")] {
            let received = world.admin(method, path, &bad);
            check_error(&received, (400, "invalid_request_error", None, None));
            assert!(received.body.contains("vers"), "{}", received.body);
        }
    }
    assert_eq!(world.admin("GET", "config", "").body, CONFIG, "nothing of it was stored");
    check_error(&world.admin_if_match("\"9\"", "PUT", "config", &other), PRECONDITION);
    let put = world.admin_if_match("\"1\"", "PUT", "config", &other);
    assert_eq!((put.status, put.body.as_str(), put.header("etag")), (200, other.as_str(), Some("\"2\"")));
    assert_eq!(world.kv.borrow()["config"], other.as_bytes());
    assert_eq!(world.ask(&get("/v1/models/m"), "").json()["owned_by"], "other");

    let empty = World::with_operator();
    empty.kv.borrow_mut().remove("config");
    check_error(&empty.admin("GET", "config", ""), NOT_FOUND);
    assert_eq!(empty.admin("PUT", "config", CONFIG).status, 201);
}

#[test]
fn usage() {
    let world = World::with_operator();
    let mut store = MemoryStore::default();
    for (day, key, model, requests) in [
        ("2023-10-15", "a", "m", 1),
        ("2023-10-16", "a", "m", 2),
        ("2023-11-14", "a", "m", 4),
        ("2023-11-14", "b", "m", 8),
        ("2023-11-14", "b", "chat", 16),
    ] {
        let counts =
            UsageCounts { requests, prompt_tokens: 10 * requests, completion_tokens: 1, ..UsageCounts::default() };
        let by = UsageKey { day: day.to_owned(), key: key.to_owned(), model: model.to_owned() };
        store.usage.insert(by, counts);
    }
    world.ledgers.borrow_mut().insert("acme".to_owned(), Desk::open(store).unwrap());
    let sums = |query: &str, names: &[&str]| {
        let received = world.admin("GET", &format!("tenants/acme/usage{query}"), "");
        assert_eq!(received.status, 200, "{}", received.body);
        let rows = received.json()["data"].as_array().unwrap().clone();
        let row = |row: &Value| {
            let by: Vec<&str> = names.iter().map(|name| row[*name].as_str().unwrap()).collect();
            assert_eq!(row.as_object().unwrap().len(), names.len() + 6, "{row}");
            format!("{}={}", by.join(" "), row["requests"])
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(sums("", &["day"]), ["2023-10-16=2", "2023-11-14=28"], "the last 30 days, today among them");
    assert_eq!(sums("?from=2023-10-01&to=2023-10-15", &["day"]), ["2023-10-15=1"]);
    assert_eq!(sums("?from=2023-10-01&group_by=model", &["model"]), ["chat=16", "m=15"]);
    assert_eq!(
        sums("?group_by=key,day%2Cmodel", &["day", "model", "key"]),
        ["2023-10-16 m a=2", "2023-11-14 chat b=16", "2023-11-14 m a=4", "2023-11-14 m b=8"]
    );
    let row = &world.admin("GET", "tenants/acme/usage?from=2023-11-14&group_by=model", "").json()["data"][0];
    assert_eq!(
        *row,
        json!({"model":"chat","requests":16,"prompt_tokens":160,"completion_tokens":1,"estimated":0,"refused":0,"errors":0})
    );
    for (query, param) in [
        ("from=yesterday", "from"),
        ("to=2023-13-01", "to"),
        ("from=2023-11-02&to=2023-11-01", "from"),
        ("group_by=week", "group_by"),
        ("group_by=day,day", "group_by"),
        ("group_by=", "group_by"),
    ] {
        let received = world.admin("GET", &format!("tenants/acme/usage?{query}"), "");
        check_error(&received, (400, "invalid_request_error", Some(param), None));
    }
    assert_eq!(world.admin("GET", "tenants/acme/usage?since=2023-11-01", "").status, 400);
    check_error(&world.admin("GET", "tenants/@config/usage", ""), NOT_FOUND);
}

#[test]
fn usage_of_real_requests() {
    let (world, issued) = with_key();
    let key = field(&issued, "key");
    assert_eq!([complete(&world, &key).status, complete(&world, &key).status], [200, 200]);
    let received = world.admin("GET", "tenants/t/usage?group_by=key,model", "");
    assert_eq!(
        received.json()["data"],
        json!([{"model":"m","key":field(&issued, "id"),"requests":2,"prompt_tokens":2,"completion_tokens":4,"estimated":0,"refused":0,"errors":0}])
    );
}
