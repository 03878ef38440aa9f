//! The straight line of a request, natively: the real gateway over a world of maps and scripts.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

mod common;

use common::{Answer, CONFIG, KEY, NOW_MS, World, get, key_name, post};
use completions_edge::gateway::{CallError, Gateway, Head, ReadError};

const REQUEST: &str = r#"{"model":"m","prompt":"Hi"}"#;
const STREAM: &str = r#"{"model":"m","prompt":"Hi","stream":true}"#;
const COMPLETION: &str = r#"{"id":"x","object":"text_completion","created":1,"model":"upstream-m","choices":[{"index":0,"text":" there","logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
const CHUNKS: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"text\":\" there\",\"finish_reason\":null}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n"
);

type Error = (u16, &'static str, Option<&'static str>, Option<&'static str>);

#[track_caller]
fn check_error(world: &World, head: &Head, body: &str, expected: Error) {
    let received = world.ask(head, body);
    let (status, kind, param, code) = received.error();
    assert_eq!((status, kind.as_str(), param.as_deref(), code.as_deref()), expected, "{}", received.body);
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert!(received.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
}

const INVALID_KEY: Error = (401, "invalid_request_error", None, Some("invalid_api_key"));
const NO_KEY: Error = (401, "invalid_request_error", None, None);
const NOT_FOUND: Error = (404, "invalid_request_error", Some("model"), Some("model_not_found"));
const INTERNAL: Error = (500, "server_error", None, Some("internal_error"));
const UPSTREAM_ERROR: Error = (502, "api_error", None, Some("upstream_error"));
const INCOMPLETE: Error = (502, "api_error", None, Some("upstream_incomplete"));

#[test]
fn a_completion() {
    let world = World::default().answers_with(Answer::json(COMPLETION));
    let received = world.complete(REQUEST);
    assert_eq!(received.status, 200, "{}", received.body);
    assert_eq!(
        received.body,
        r#"{"id":"cmpl-101112131415161718191a1b1c1d1e1f","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,"text":" there","logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#
    );
    let call = world.last_call();
    assert_eq!(call.url(), "https://one.example/v1/completions");
    assert_eq!(String::from_utf8(call.body).unwrap(), r#"{"model":"upstream-m","prompt":"Hi","max_tokens":16}"#);
    assert!(call.headers.contains(&("authorization".into(), "Bearer secret-of-one".to_owned())));
}

#[test]
fn a_stream() {
    let world = World::default().answers_with(Answer::sse(CHUNKS));
    let received = world.complete(STREAM);
    let head = r#"data: {"id":"cmpl-101112131415161718191a1b1c1d1e1f","object":"text_completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"#;
    let expected = format!(
        "{head}{}\n\n{head}{}\n\ndata: [DONE]\n\n",
        r#""delta":{"text":" there"},"text":" there","logprobs":null,"finish_reason":null}]}"#,
        r#""delta":{"text":""},"text":"","logprobs":null,"finish_reason":"stop"}]}"#
    );
    assert_eq!(received.body, expected);
    assert_eq!(received.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(received.header("cache-control"), Some("no-cache"));
    assert_eq!(world.let_go.borrow().released, 1, "a connection that has said all may serve again");
}

#[test]
fn pitfall_27_usage_is_asked_for_upstream_and_kept_from_clients_that_did_not_ask() {
    let world = World::default().answers_with(Answer::sse(CHUNKS)).answers_with(Answer::sse(CHUNKS));
    assert!(!world.complete(STREAM).body.contains("usage"));
    let call = String::from_utf8(world.last_call().body).unwrap();
    assert!(call.ends_with(r#""stream":true,"stream_options":{"include_usage":true}}"#), "{call}");
    let asked = world.complete(r#"{"model":"m","prompt":"Hi","stream":true,"stream_options":{"include_usage":true}}"#);
    assert_eq!(asked.body.matches(r#""usage":null"#).count(), 2);
    assert!(asked.body.contains(r#""choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#));

    let chat = World::default().answers_with(Answer::sse(CHUNKS));
    chat.complete(r#"{"model":"chat","prompt":"Hi","stream":true}"#);
    let call = String::from_utf8(chat.last_call().body).unwrap();
    assert!(!call.contains("stream_options"), "an upstream that does not know them is spared: {call}");
}

#[test]
fn keys() {
    let world = World::default();
    let with = |authorization: &str| Head { authorization: Some(authorization.to_owned()), ..post() };
    check_error(&world, &Head { authorization: None, ..post() }, REQUEST, NO_KEY);
    for malformed in ["", KEY, "Basic abc", "Bearer", "Bearer "] {
        check_error(&world, &with(malformed), REQUEST, NO_KEY);
    }
    for unknown in ["Bearer sk-nonsense", "Bearer sk-demo0001-abcdefghijklmnopqrstuvwxyzABCDEG"] {
        check_error(&world, &with(unknown), REQUEST, INVALID_KEY);
    }
    let record = |fields: &str| {
        let world = World::default();
        world.put(&key_name(KEY), &format!(r#"{{"version":1,"tenant":"acme","id":"demo0001",{fields}}}"#));
        world
    };
    check_error(&record(r#""status":"revoked""#), &post(), REQUEST, INVALID_KEY);
    check_error(&record(r#""status":"active","expires_at":1700000000"#), &post(), REQUEST, INVALID_KEY);
    check_error(&record(r#""status":"active","models":["chat"]"#), &post(), REQUEST, NOT_FOUND);
    check_error(&record(r#""status":"asleep""#), &post(), REQUEST, INTERNAL);

    let tenant = |fields: &str| {
        let world = World::default();
        world.put("tenant:acme", &format!(r#"{{"version":1,{fields}}}"#));
        world
    };
    let suspended = (403, "invalid_request_error", None, Some("account_suspended"));
    check_error(&tenant(r#""status":"suspended""#), &post(), REQUEST, suspended);
    check_error(&tenant(r#""status":"active","models":[]"#), &post(), REQUEST, NOT_FOUND);
    let gone = World::default();
    gone.kv.borrow_mut().remove("tenant:acme");
    check_error(&gone, &post(), REQUEST, INVALID_KEY);
}

#[test]
fn no_answer_repeats_the_key() {
    let world = World::default();
    let head = Head { authorization: Some(format!("Bearer {}", KEY.replace("ABCDEF", "ABCDEG"))), ..post() };
    assert!(!world.ask(&head, REQUEST).body.contains("abcdefghijklm"));
    assert!(world.log.borrow().iter().all(|line| !line.contains("abcdefghijklm")));
}

#[test]
fn paths_methods_and_types() {
    let world = World::default();
    let unknown = (404, "invalid_request_error", None, Some("unknown_url"));
    for path in ["/", "/v1", "/v1/foo", "/v1/completions/", "/v1/chat/completions", "/v1/models/"] {
        let head = Head { path: path.to_owned(), ..post() };
        check_error(&world, &head, REQUEST, unknown);
        assert!(world.ask(&head, "").body.contains(&format!("Invalid URL (POST {path})")));
    }
    let wrong_method = (405, "invalid_request_error", None, Some("method_not_supported"));
    for (method, path, allow) in
        [("GET", "/v1/completions", "POST"), ("DELETE", "/v1/models", "GET"), ("OPTIONS", "/v1/completions", "POST")]
    {
        let head = Head { method: method.to_owned(), path: path.to_owned(), ..post() };
        check_error(&world, &head, "", wrong_method);
        assert_eq!(world.ask(&head, "").header("allow"), Some(allow));
    }
    let unsupported = (415, "invalid_request_error", None, Some("unsupported_media_type"));
    for content_type in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")]
    {
        let head = Head { content_type: content_type.map(str::to_owned), ..post() };
        check_error(&world, &head, REQUEST, unsupported);
    }
    check_error(&world, &Head { content_encoding: Some("gzip".to_owned()), ..post() }, REQUEST, unsupported);
    for content_type in ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"] {
        let world = World::default().answers_with(Answer::json(COMPLETION));
        let head = Head { content_type: Some(content_type.to_owned()), ..post() };
        assert_eq!(world.ask(&head, REQUEST).status, 200, "{content_type}");
    }
}

#[test]
fn bodies() {
    let world = World::default();
    let too_large = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(65536));
    check_error(&world, &post(), &too_large, (413, "invalid_request_error", None, Some("request_too_large")));
    check_error(&world, &post(), "nonsense", (400, "invalid_request_error", None, None));
    check_error(&world, &post(), r#"{"prompt":"p"}"#, (400, "invalid_request_error", None, None));
    let unknown = r#"{"model":"nope","prompt":"p"}"#;
    check_error(&world, &post(), unknown, NOT_FOUND);
    assert!(world.complete(unknown).body.contains("The model `nope` does not exist or you do not have access to it."));
    assert!(world.calls.borrow().is_empty(), "no upstream hears of any of this");
}

#[test]
fn an_unauthenticated_body_is_not_even_read() {
    let world = World::default();
    world.ask(&Head { authorization: None, ..post() }, REQUEST);
    assert_eq!(world.body_reads.get(), 0);
}

#[test]
fn pitfall_40_what_a_dialect_cannot_carry_is_refused() {
    let world = World::default();
    for (parameters, param) in [
        (r#""echo":true,"logprobs":1"#, "echo"),
        (r#""suffix":"x""#, "suffix"),
        (r#""best_of":2"#, "best_of"),
        (r#""max_tokens":0"#, "max_tokens"),
        (r#""prompt":[1,2]"#, "prompt"),
        (r#""prompt":[[1],[2]]"#, "prompt"),
    ] {
        let body = format!(r#"{{"model":"chat","prompt":"p",{parameters}}}"#);
        check_error(&world, &post(), &body, (400, "invalid_request_error", Some(param), Some("unsupported_parameter")));
        let message = world.complete(&body).json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(param) && message.contains("`chat`"), "{message}");
    }
    let extra = r#"{"model":"chat","prompt":"p","top_k":5}"#;
    check_error(&world, &post(), extra, (400, "invalid_request_error", None, None));
    assert!(world.complete(extra).body.contains("Unrecognized request argument supplied: top_k"));
    for default in [r#""echo":false"#, r#""suffix":"""#, r#""best_of":1"#, r#""n":2,"best_of":2"#, r#""prompt":["a"]"#]
    {
        let two = r#"{"choices":[{"index":0,"message":{"content":"a"}},{"index":1,"message":{"content":"b"}}]}"#;
        let one = r#"{"choices":[{"index":0,"message":{"content":"a"}}]}"#;
        let world = World::default().answers_with(Answer::json(if default.contains("\"n\"") { two } else { one }));
        let received = world.complete(&format!(r#"{{"model":"chat","prompt":"p",{default}}}"#));
        assert_eq!(received.status, 200, "{default}: {}", received.body);
    }
}

#[test]
fn a_target_that_can_carry_the_request_is_found() {
    let world = World::default().answers_with(Answer::json(COMPLETION));
    assert_eq!(world.complete(r#"{"model":"both","prompt":"p","suffix":"s"}"#).status, 200);
    assert_eq!(world.last_call().url(), "https://one.example/v1/completions");
}

#[test]
fn unknown_parameters_reach_an_upstream_of_the_same_api_byte_for_byte() {
    let world = World::default().answers_with(Answer::json(COMPLETION));
    world.complete(r#"{"model":"m","prompt":"p","top_k": 20,"guided":{"a":[1.10, 12345678901234567890]}}"#);
    let call = String::from_utf8(world.last_call().body).unwrap();
    assert!(call.ends_with(r#","top_k":20,"guided":{"a":[1.10, 12345678901234567890]}}"#), "{call}");
}

#[test]
fn what_upstreams_refuse_and_how_they_fail() {
    let refusal = r#"{"error":{"message":"too long for upstream-m at https://one.example/v1","type":"t","param":"prompt","code":"context_length_exceeded"}}"#;
    for status in [400, 404, 413, 422] {
        let world = World::default().answers_with(Answer::new(status, "application/json", refusal.as_bytes()));
        let received = world.complete(REQUEST);
        assert_eq!(
            received.error(),
            (status, "invalid_request_error".into(), Some("prompt".into()), Some("context_length_exceeded".into()))
        );
        assert_eq!(received.json()["error"]["message"], "too long for m at [redacted]");
    }
    let fails = |status: u16, expected: Error| {
        for request in [REQUEST, STREAM] {
            let world = World::default().answers_with(Answer::new(status, "application/json", refusal.as_bytes()));
            check_error(&world, &post(), request, expected);
        }
    };
    for status in [401, 402, 403] {
        fails(status, (502, "api_error", None, Some("upstream_auth_error")));
    }
    for status in [301, 302, 405, 500, 502, 503, 529] {
        fails(status, UPSTREAM_ERROR);
    }
    fails(408, (504, "api_error", None, Some("upstream_timeout")));
    fails(429, (429, "requests", None, Some("upstream_rate_limited")));

    let limited = Answer { retry_after_ms: Some(1500), ..Answer::new(429, "application/json", b"{}") };
    let received = World::default().answers_with(limited).complete(REQUEST);
    assert_eq!((received.header("retry-after"), received.header("retry-after-ms")), (Some("2"), Some("1500")));

    let unreachable = World::default().fails_with(CallError::Unreachable("refused".to_owned()));
    check_error(&unreachable, &post(), REQUEST, UPSTREAM_ERROR);
    let slow = World::default().fails_with(CallError::Timeout);
    check_error(&slow, &post(), REQUEST, (504, "api_error", None, Some("upstream_timeout")));
}

#[test]
fn an_upstream_without_its_secret_is_not_called_without_it() {
    let world = World::default();
    world.put("config", &CONFIG.replace("ONE_KEY", "OTHER_KEY"));
    check_error(&world, &post(), REQUEST, (502, "api_error", None, Some("upstream_auth_error")));
    assert!(world.calls.borrow().is_empty());
}

#[test]
fn pitfall_41_answers_that_are_none() {
    for answer in [
        Answer::json(""),
        Answer::json("{}"),
        Answer::json("[]"),
        Answer::json("{\"choices\":[]}"),
        Answer::json("{\"choices\":"),
        Answer::new(200, "text/html", b"<html>"),
        Answer::sse(CHUNKS),
        Answer::json(r#"{"choices":[{"index":0,"text":"a"},{"index":1,"text":"b"}]}"#),
        Answer::json(COMPLETION).then(Err(ReadError::Broken("reset".to_owned()))),
        Answer::json(&format!(r#"{{"choices":[{{"text":"{}"}}]}}"#, "x".repeat(65536))),
    ] {
        let world = World::default().answers_with(answer.clone());
        let received = world.complete(REQUEST);
        assert_eq!(received.error().3.as_deref(), Some("upstream_error"), "{answer:?}");
        assert_eq!(world.log.borrow().len(), 1, "the operator hears of it: {answer:?}");
    }
    let refused = Answer::json(r#"{"error":{"message":"no","type":"invalid_request_error","code":400}}"#);
    let expected = (400, "invalid_request_error", None, None);
    check_error(&World::default().answers_with(refused), &post(), REQUEST, expected);
}

#[test]
fn pitfall_40_an_upstream_that_ignores_n_is_no_answer() {
    let world = World::default().answers_with(Answer::json(COMPLETION));
    check_error(&world, &post(), r#"{"model":"m","prompt":"p","n":2}"#, UPSTREAM_ERROR);
    let stream = World::default().answers_with(Answer::sse(CHUNKS));
    let received = stream.complete(r#"{"model":"m","prompt":"p","n":2,"stream":true}"#);
    assert!(received.body.contains("upstream_incomplete"), "{}", received.body);
}

#[test]
fn a_stream_that_fails_before_its_first_chunk_is_a_plain_error() {
    let data = |json: &str| format!("data: {json}\n\ndata: [DONE]\n\n");
    let check = |answer: Answer, expected: Error| {
        let world = World::default().answers_with(answer);
        check_error(&world, &post(), STREAM, expected);
        assert_eq!(world.let_go.borrow().cancelled, 1);
    };
    check(Answer::sse(""), INCOMPLETE);
    check(Answer::sse("nonsense"), INCOMPLETE);
    check(Answer::sse("data: [DONE]\n\n"), INCOMPLETE);
    check(Answer::sse("data: nonsense\n\n"), UPSTREAM_ERROR);
    check(Answer::sse("data: {\"cho"), INCOMPLETE);
    check(Answer::new(200, "text/html", b"<html>"), UPSTREAM_ERROR);
    check(Answer::sse("").then(Err(ReadError::Broken("reset".to_owned()))), INCOMPLETE);
    let vllm = data(r#"{"error":{"message":"logprobs","type":"BadRequestError","param":"logprobs","code":400}}"#);
    check(Answer::sse(&vllm), (400, "invalid_request_error", Some("logprobs"), None));
    check(Answer::sse(&data(r#"{"error":"boom"}"#)), UPSTREAM_ERROR);
    check(Answer::sse(&"x".repeat(5000)), UPSTREAM_ERROR);
}

#[test]
fn a_stream_that_fails_later_ends_with_one_error_event() {
    let chunk = "data: {\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":null}]}\n\n";
    let check = |rest: Result<&str, ReadError>, code: &str| {
        let world = World::default().answers_with(Answer::sse(chunk).then(rest));
        let received = world.complete(STREAM);
        let events: Vec<&str> = received.body.split_terminator("\n\n").collect();
        let [_, error, done] = events[..] else { panic!("{}", received.body) };
        let error: serde_json::Value = serde_json::from_str(error.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(error.as_object().unwrap().len(), 1, "`error` is the only key");
        assert_eq!(error["error"]["code"], code, "{}", received.body);
        assert_eq!(done, "data: [DONE]");
        let outcome = received.outcome.unwrap();
        assert_eq!(outcome.failure.unwrap().code(), Some(code));
        assert_eq!((outcome.usage.prompt_tokens, outcome.usage.completion_tokens), (1, 1), "what was sent on");
        assert!(!outcome.reported);
    };
    check(Ok(""), "upstream_incomplete");
    check(Ok("data: {\"choices\":[{\"index\":0,\"te"), "upstream_incomplete");
    check(Err(ReadError::Broken("reset".to_owned())), "upstream_incomplete");
    check(Ok("data: nonsense\n\n"), "upstream_error");
    check(Ok("data: {\"error\":{\"message\":\"boom\"}}\n\ndata: [DONE]\n\n"), "upstream_error");
    check(Ok("event: error\ndata: boom\n\n"), "upstream_error");
}

#[test]
fn pitfall_21_a_completion_where_a_stream_was_wanted_is_replayed() {
    let world = World::default().answers_with(Answer::json(COMPLETION));
    let received =
        world.complete(r#"{"model":"m","prompt":"p","stream":true,"stream_options":{"include_usage":true}}"#);
    assert_eq!(received.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert!(received.body.contains(r#""text":" there","logprobs":null,"finish_reason":"stop"}],"usage":null}"#));
    assert!(received.body.contains(r#""choices":[],"usage":{"prompt_tokens":1"#));
    assert!(received.body.ends_with("data: [DONE]\n\n"));
}

#[test]
fn the_next_target_is_tried_before_the_first_byte_and_not_after() {
    let request = r#"{"model":"both","prompt":"p","stream":true}"#;
    let failures: [fn(World) -> World; 6] = [
        |world| world.fails_with(CallError::Unreachable("refused".to_owned())),
        |world| world.fails_with(CallError::Timeout),
        |world| world.answers_with(Answer::new(503, "text/html", b"")),
        |world| world.answers_with(Answer::new(429, "application/json", b"{}")),
        |world| world.answers_with(Answer::sse("")),
        |world| world.answers_with(Answer::sse("data: {\"error\":\"boom\"}\n\n")),
    ];
    for fail in failures {
        let world = fail(World::default()).answers_with(Answer::sse(CHUNKS));
        let received = world.complete(request);
        assert!(received.body.ends_with("data: [DONE]\n\n") && !received.body.contains("error"), "{}", received.body);
        assert_eq!(world.calls.borrow().len(), 2);
    }
    let refused = World::default().answers_with(Answer::new(400, "application/json", b"{}"));
    assert_eq!(refused.complete(request).status, 400);
    let gone = World::default().fails_with(CallError::ClientGone);
    gone.complete(request);
    let begun = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    let later = World::default().answers_with(Answer::sse(begun).then(Ok("data: {\"error\":\"boom\"}\n\n")));
    assert!(later.complete(request).body.contains("upstream_error"));
    for world in [refused, gone, later] {
        assert_eq!(world.calls.borrow().len(), 1, "the second target has nothing to do with it");
    }
    let both = World::default().fails_with(CallError::Timeout).answers_with(Answer::new(500, "", b""));
    assert_eq!(both.complete(request).error().3.as_deref(), Some("upstream_error"), "the last failure is told");
}

#[test]
fn the_chunk_format_is_the_requests_else_the_keys_else_the_models() {
    let object = |key_format: &str, header: Option<&str>, model: &str| {
        let world = World::default().answers_with(Answer::sse(CHUNKS));
        let record = r#"{"version":1,"tenant":"acme","id":"demo0001","status":"active","chunk_format":FORMAT}"#;
        world.put(&key_name(KEY), &record.replace("FORMAT", key_format));
        let head = Head { format: header.map(str::to_owned), ..post() };
        let body = format!(r#"{{"model":"{model}","prompt":"p","stream":true}}"#);
        let received = world.ask(&head, &body);
        let line = received.body.lines().next().unwrap().to_owned();
        (line.contains("\"delta\""), line.contains("\"text\":\" there\",\"logprobs\""))
    };
    let (superset, documented, openai) = ((true, true), (true, false), (false, true));
    assert_eq!(object("null", None, "m"), superset);
    assert_eq!(object("null", None, "both"), openai);
    assert_eq!(object("\"documented\"", None, "both"), documented);
    assert_eq!(object("\"documented\"", Some("superset"), "both"), superset);
    assert_eq!(object("null", Some("openai"), "m"), openai);
    let head = Head { format: Some("xml".to_owned()), ..post() };
    check_error(&World::default(), &head, STREAM, (400, "invalid_request_error", None, None));
}

#[test]
fn models() {
    let world = World::default();
    let list = world.ask(&get("/v1/models"), "").json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["both", "chat", "m", "org/slashed"]);
    let model = world.ask(&get("/v1/models/m"), "").json();
    assert_eq!((&model["object"], &model["owned_by"], &model["created"]), (&"model".into(), &"acme".into(), &7.into()));
    assert_eq!(model["capabilities"]["echo"], "native");
    assert_eq!(world.ask(&get("/v1/models/chat"), "").json()["capabilities"]["echo"], "emulated");
    assert_eq!(world.ask(&get("/v1/models/chat"), "").json()["capabilities"]["suffix"], "unsupported");
    for path in ["/v1/models/org/slashed", "/v1/models/org%2Fslashed", "/v1/models/org%2fslashed"] {
        assert_eq!(world.ask(&get(path), "").json()["id"], "org/slashed", "{path}");
    }
    check_error(&world, &get("/v1/models/nope"), "", NOT_FOUND);
    check_error(&world, &get("/v1/models/%zz%"), "", NOT_FOUND);
    check_error(&world, &Head { authorization: None, ..get("/v1/models") }, "", NO_KEY);

    world.put("tenant:acme", r#"{"version":1,"status":"active","models":["m","chat"]}"#);
    let list = world.ask(&get("/v1/models"), "").json();
    assert_eq!(list["data"].as_array().unwrap().len(), 2, "only what the key may use");
    check_error(&world, &get("/v1/models/both"), "", NOT_FOUND);
}

#[test]
fn health_asks_nobody() {
    let world = World::default();
    world.kv_fails.set(true);
    let received = world.ask(&Head { authorization: None, ..get("/healthz") }, "");
    assert_eq!((received.status, received.body.as_str()), (200, r#"{"status":"ok"}"#));
    assert!(world.kv_reads.borrow().is_empty());
}

#[test]
fn headers_of_every_answer() {
    let world = World::default().answers_with(Answer::json(COMPLETION));
    for received in [world.complete(REQUEST), world.complete("{"), world.ask(&get("/nope"), "")] {
        for name in ["x-request-id", "openai-version", "openai-processing-ms", "server-timing", "content-type"] {
            assert!(received.header(name).is_some(), "{name} on {}", received.status);
        }
        assert!(received.header("access-control-expose-headers").unwrap().contains("x-request-id"));
        assert_eq!(received.header("access-control-allow-origin"), None);
    }
    let id = |client: &str| {
        let head = Head { request_id: Some(client.to_owned()), ..get("/healthz") };
        world.ask(&head, "").header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id("abc-1.2_3"), "abc-1.2_3");
    let ours = "req_000102030405060708090a0b0c0d0e0f";
    for insane in ["", "a b", "é", "a\nb", &"x".repeat(129)] {
        assert_eq!(id(insane), ours, "{insane:?}");
    }
}

#[test]
fn cors_as_configured() {
    let origin = Some("https://app.example".to_owned());
    let preflight = Head { method: "OPTIONS".to_owned(), origin: origin.clone(), authorization: None, ..post() };
    let world = World::default();
    assert_eq!(world.ask(&preflight, "").status, 405, "off by default");
    world.put(
        "config",
        &CONFIG.replace("\"version\": 1,", r#""version": 1, "cors": {"origins": ["https://app.example"]},"#),
    );
    let asked = Head { wanted_headers: Some("authorization, x-stainless-lang".to_owned()), ..preflight.clone() };
    let received = world.ask(&asked, "");
    assert_eq!(received.status, 204);
    assert_eq!(received.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(received.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(received.header("access-control-allow-headers"), Some("authorization, x-stainless-lang"));
    let refused = world.ask(&Head { origin, authorization: None, ..post() }, REQUEST);
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("https://app.example")));
    let stranger = Head { origin: Some("https://evil.example".to_owned()), ..preflight };
    assert_eq!(world.ask(&stranger, "").header("access-control-allow-origin"), None);
}

#[test]
fn records_are_remembered_for_a_while_and_so_are_misses() {
    let (world, gateway) = (World::default(), Gateway::default());
    let reads = |prefix: &str| world.kv_reads.borrow().iter().filter(|key| key.starts_with(prefix)).count();
    let ask = |head: &Head| world.ask_again(&gateway, head, "").status;
    for _ in 0..3 {
        assert_eq!(ask(&get("/v1/models")), 200);
    }
    assert_eq!((reads("key:"), reads("tenant:"), reads("config")), (1, 1, 1));
    let other = "sk-demo0002-abcdefghijklmnopqrstuvwxyzABCDEF";
    let unknown = Head { authorization: Some(format!("Bearer {other}")), ..get("/v1/models") };
    for _ in 0..3 {
        assert_eq!(ask(&unknown), 401);
    }
    assert_eq!(reads("key:"), 2);

    world.put(&key_name(KEY), r#"{"version":1,"tenant":"acme","id":"demo0001","status":"revoked"}"#);
    world.put(&key_name(other), r#"{"version":1,"tenant":"acme","id":"demo0002","status":"active"}"#);
    world.now_ms.set(NOW_MS + 9_999);
    assert_eq!((ask(&get("/v1/models")), ask(&unknown)), (200, 401));
    world.now_ms.set(NOW_MS + 10_000);
    assert_eq!(ask(&unknown), 200, "a new key opens within ten seconds");
    world.now_ms.set(NOW_MS + 60_000);
    assert_eq!(ask(&get("/v1/models")), 401, "a revoked key opens nothing after a minute of memory");
}

#[test]
fn a_broken_configuration_is_refused_and_the_last_good_one_stays() {
    let (world, gateway) = (World::default(), Gateway::default());
    let models = || world.ask_again(&gateway, &get("/v1/models"), "").json()["data"].as_array().unwrap().len();
    assert_eq!(models(), 4);
    world.put("config", &CONFIG.replace("\"upstream\": \"two\"", "\"upstream\": \"three\""));
    for step in 1..4 {
        world.now_ms.set(NOW_MS + step * 30_000);
        assert_eq!(models(), 4);
    }
    let log = world.log.borrow().clone();
    assert_eq!(log.len(), 1, "told once a version: {log:?}");
    assert!(log[0].contains("there is no upstream `three`"), "{log:?}");
    world.put("config", &CONFIG.replace("\"both\"", "\"neither\""));
    world.now_ms.set(NOW_MS + 10 * 30_000);
    assert_eq!(world.ask_again(&gateway, &get("/v1/models/neither"), "").status, 200, "a good one takes over");
}

#[test]
fn an_old_configuration_beats_none() {
    let (world, gateway) = (World::default(), Gateway::default());
    assert_eq!(world.ask_again(&gateway, &get("/v1/models"), "").status, 200);
    world.kv_fails.set(true);
    world.now_ms.set(NOW_MS + 59_999);
    assert_eq!(world.ask_again(&gateway, &get("/v1/models"), "").status, 200, "the key is remembered as long");
}

#[test]
fn without_a_configuration_there_is_an_error_and_a_line_in_the_log() {
    for broken in [None, Some("{"), Some("")] {
        let world = World::default();
        world.kv.borrow_mut().remove("config");
        if let Some(document) = broken {
            world.put("config", document);
        }
        check_error(&world, &post(), REQUEST, INTERNAL);
        assert!(!world.log.borrow().is_empty());
    }
    let down = World::default();
    down.kv_fails.set(true);
    check_error(&down, &post(), REQUEST, INTERNAL);
}

#[test]
fn usage_that_nobody_counted_is_estimated() {
    let uncounted = r#"{"choices":[{"index":0,"text":"123456789","finish_reason":"stop"}]}"#;
    let world = World::default().answers_with(Answer::json(uncounted));
    let usage = world.complete(r#"{"model":"m","prompt":"12345"}"#).json()["usage"].clone();
    assert_eq!(usage, serde_json::json!({"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}));
    let zero = r#"{"choices":[{"text":"","finish_reason":"stop"}],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#;
    let world = World::default().answers_with(Answer::json(zero));
    let usage = world.complete(r#"{"model":"m","prompt":"12345"}"#).json()["usage"].clone();
    assert_eq!(usage["total_tokens"], 0, "pitfall 2: an explicit 0 is not a missing one");
}
