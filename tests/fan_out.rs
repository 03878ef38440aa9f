//! What the gateway does itself: several upstream calls for one request, the prompt said before its completion, and what
//! happens when one of the calls fails.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

mod common;

use common::{Answer, LetGo, World};
use completions_edge::gateway::{CallError, ReadError};
use completions_edge::quota::Call;
use serde_json::{Value, json};

/// A chat upstream's whole answer, of one choice.
fn whole(text: &str, completion_tokens: u32) -> Answer {
    Answer::json(
        &json!({
            "choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": completion_tokens}
        })
        .to_string(),
    )
}

fn chunk(delta: &Value) -> String {
    format!("data: {delta}\n\n")
}

fn text(text: &str) -> String {
    chunk(&json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
}

/// The rest of a chat stream, with its usage.
fn end(completion_tokens: u32) -> String {
    chunk(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))
        + &chunk(&json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": completion_tokens}}))
        + "data: [DONE]\n\n"
}

fn stream(pieces: &[&str]) -> Answer {
    pieces.iter().fold(Answer::sse(""), |answer, piece| answer.then(Ok(piece)))
}

/// The chunks of a stream as `index text`, and what comes besides.
fn events(body: &str) -> Vec<String> {
    let of = |event: &str| {
        let Ok(json) = serde_json::from_str::<Value>(event.strip_prefix("data: ").unwrap()) else {
            return event.to_owned();
        };
        match (json["choices"].get(0), json.get("error")) {
            (Some(choice), _) => {
                let finish = choice["finish_reason"].as_str().unwrap_or_default();
                format!("{} {}{finish}", choice["index"], choice["text"].as_str().unwrap())
            }
            (None, Some(error)) => error["code"].to_string(),
            (None, None) => json["usage"].to_string(),
        }
    };
    body.split_terminator("\n\n").map(of).collect()
}

/// What the ledger was told in the end: prompt and completion tokens, and whether the request failed.
fn settled(world: &World) -> (u64, u64, bool) {
    let calls = world.ledger_calls.borrow();
    let settles: Vec<_> =
        calls.iter().filter_map(|(_, call)| if let Call::Settle(s) = call { Some(s) } else { None }).collect();
    let [settle] = settles[..] else { panic!("one request is settled once: {settles:?}") };
    (settle.prompt_tokens, settle.completion_tokens, settle.failed)
}

#[test]
fn prompts_become_calls_and_their_answers_one() {
    let world = World::default().answers_with(whole("A", 5)).answers_with(whole("B", 7));
    let answer = world.complete(r#"{"model":"chat","prompt":["a","b"],"echo":true}"#).json();
    let texts: Vec<&str> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["aA", "bB"]);
    assert_eq!(answer["choices"][1]["index"], 1);
    assert_eq!(answer["usage"], json!({"prompt_tokens": 6, "completion_tokens": 12, "total_tokens": 18}));
    assert_eq!(settled(&world), (6, 12, false));
    let prompts = |call: &completions_edge::dialect::UpstreamRequest| {
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        body["messages"].as_array().unwrap().last().unwrap()["content"].clone()
    };
    assert_eq!(world.calls.borrow().iter().map(prompts).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn streams_are_merged_as_they_come() {
    let world = World::default()
        .answers_with(stream(&[&text("A1"), &text("A2"), &end(5)]))
        .answers_with(stream(&[&text("B1"), &end(7)]));
    let received = world.complete(
        r#"{"model":"chat","prompt":["a","b"],"stream":true,"echo":true,"stream_options":{"include_usage":true}}"#,
    );
    assert_eq!(
        events(&received.body),
        [
            "0 a",
            "0 A1",
            "0 A2",
            "1 b",
            "1 B1",
            "0 length",
            "1 length",
            r#"{"completion_tokens":12,"prompt_tokens":6,"total_tokens":18}"#,
            "data: [DONE]"
        ]
    );
    assert_eq!(settled(&world), (6, 12, false));
    assert_eq!(*world.let_go.borrow(), LetGo { released: 2, cancelled: 0, all_cancelled: 0 });
}

#[test]
fn an_upstream_that_answers_whole_is_merged_with_those_that_stream() {
    let world = World::default().answers_with(whole("A", 5)).answers_with(stream(&[&text("B"), &end(7)]));
    let received = world.complete(r#"{"model":"chat","prompt":["a","b"],"stream":true}"#);
    assert_eq!(events(&received.body), ["0 Astop", "1 B", "1 length", "data: [DONE]"]);
}

#[test]
fn a_call_that_fails_before_the_first_chunk_is_one_error_and_the_others_are_broken_off() {
    for failure in [Ok(Answer::new(500, "text/plain", b"")), Err(CallError::Timeout)] {
        let world = World::default().answers_with(whole("A", 5));
        let world = match failure {
            Ok(answer) => world.answers_with(answer),
            Err(error) => world.fails_with(error),
        };
        let received = world.complete(r#"{"model":"chat","prompt":["a","b","c"]}"#);
        assert!(matches!(received.status, 502 | 504), "{}", received.body);
        assert_eq!(world.let_go.borrow().all_cancelled, 1);
        assert_eq!(settled(&world), (0, 0, true), "nobody is charged for what nobody got");
    }
}

#[test]
fn the_next_target_is_asked_for_all_of_it() {
    let world = World::default()
        .answers_with(whole("A", 5))
        .answers_with(Answer::new(503, "text/plain", b""))
        .answers_with(Answer::json(r#"{"choices":[{"index":0,"text":"x"},{"index":1,"text":"y"}]}"#));
    let answer = world.complete(r#"{"model":"both","prompt":["a","b"]}"#).json();
    assert_eq!((&answer["choices"][0]["text"], &answer["choices"][1]["text"]), (&json!("x"), &json!("y")));
    assert_eq!(world.calls.borrow().len(), 3, "the second target takes both prompts in one call");
}

#[test]
fn a_stream_that_fails_ends_all_of_them_with_one_error() {
    let world = World::default()
        .answers_with(stream(&[&text("A1"), &text("A2"), &text("A3")]))
        .answers_with(Answer::sse(&text("B1")).then(Err(ReadError::Broken("reset".to_owned()))));
    let received = world.complete(r#"{"model":"chat","prompt":["a","b"],"stream":true}"#);
    assert_eq!(events(&received.body), ["0 A1", "0 A2", "1 B1", "0 A3", "\"upstream_incomplete\"", "data: [DONE]"]);
    assert_eq!(world.let_go.borrow().cancelled, 2);
    // Both prompts, and the text that went out: six bytes and two, a quarter of a token a byte.
    assert_eq!(settled(&world), (2, 2 + 1, true));
}

#[test]
fn more_calls_than_the_configuration_allows_are_refused_before_anything_is_spent() {
    let world = World::default();
    let prompts = vec!["p"; 17];
    let received = world.complete(&json!({"model": "chat", "prompt": prompts}).to_string());
    assert_eq!((received.status, received.json()["error"]["param"].clone()), (400, json!("prompt")));
    assert!(world.ledger_calls.borrow().iter().all(|(_, call)| !matches!(call, Call::Reserve(_))));
}

#[test]
fn pitfall_40_what_the_gateway_cannot_echo_is_refused() {
    let config = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/config.json")).unwrap();
    for (model, with) in [
        ("anthropic", r#""prompt":[1,2]"#),
        ("llama-cpp", r#""prompt":[1,2]"#),
        ("tgi", r#""prompt":"p","logprobs":1"#),
    ] {
        let world = World::default();
        world.put("config", &config);
        let received = world.complete(&format!(r#"{{"model":"{model}","echo":true,{with}}}"#));
        assert_eq!(received.json()["error"]["code"], "unsupported_parameter", "{model}: {}", received.body);
    }
}

/// The configuration of the fixtures, which has a model for each dialect.
fn fixtures() -> World {
    let world = World::default();
    world.put(
        "config",
        &std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/config.json")).unwrap(),
    );
    world
}

fn messages_answer(text: &str, output_tokens: u32) -> Answer {
    let usage = json!({"input_tokens": 3, "output_tokens": output_tokens});
    let content = json!([{"type": "text", "text": text}]);
    Answer::json(&json!({"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}).to_string())
}

#[test]
fn pitfall_1_a_client_that_leaves_owes_what_its_calls_had_answered() {
    for stream in [false, true] {
        let body = json!({"model": "anthropic", "prompt": "12345678", "n": 2, "stream": stream}).to_string();
        // One call has answered whole, the other one still waits for its headers.
        let world = fixtures().answers_with(messages_answer("text", 500)).fails_with(CallError::ClientGone);
        world.complete(&body);
        assert_eq!(settled(&world), (3, 500, false), "stream: {stream}");
        // The other one has begun its body.
        let gone = Answer::new(200, "application/json", b"").then(Err(ReadError::ClientGone));
        let world = fixtures().answers_with(messages_answer("text", 500)).answers_with(gone);
        world.complete(&body);
        assert_eq!(settled(&world), (3 + 2, 500, false), "stream: {stream}");
        assert_eq!(world.records.borrow()[0]["ended"], "client_gone");
    }
}

#[test]
fn pitfall_4_the_prompt_is_reserved_as_often_as_it_is_sent() {
    let world = (0..4).fold(fixtures(), |world, _| world.answers_with(messages_answer("text", 1)));
    world.complete(r#"{"model":"anthropic","prompt":"12345678","n":4}"#);
    let calls = world.ledger_calls.borrow();
    let reserved =
        calls.iter().find_map(|(_, call)| if let Call::Reserve(r) = call { Some(r.prompt_tokens) } else { None });
    assert_eq!(reserved, Some(4 * 2));
}

#[test]
fn an_upstream_beside_one_whose_whole_answer_is_none_is_broken_off() {
    let world =
        World::default().answers_with(Answer::json(r#"{"choices":[]}"#)).answers_with(stream(&[&text("B1"), &end(7)]));
    let received = world.complete(r#"{"model":"chat","prompt":["a","b"],"stream":true}"#);
    assert_eq!(received.status, 502, "{}", received.body);
    assert_eq!(world.let_go.borrow().cancelled, 1);
}

#[test]
fn a_prompt_that_the_gateway_echoes_is_its_own_choices() {
    let config = r#"{"version":1,"upstreams":{"u":{"dialect":"openai-completions","base_url":"https://u.example",
        "capabilities":{"echo":"emulated","n":"emulated"}}},"models":{"m":{"targets":[{"upstream":"u","model":"x"}]}}}"#;
    let answer = r#"{"choices":[{"index":0,"text":"X"},{"index":1,"text":"Y"}]}"#;
    let world = World::default().answers_with(Answer::json(answer));
    world.put("config", config);
    let answer = world.complete(r#"{"model":"m","prompt":["first ","second "],"echo":true}"#).json();
    assert_eq!((&answer["choices"][0]["text"], &answer["choices"][1]["text"]), (&json!("first X"), &json!("second Y")));
    let world = World::default();
    world.put("config", config);
    let refused = world.complete(r#"{"model":"m","prompt":"p","n":2,"best_of":5}"#).json();
    assert_eq!(refused["error"]["param"], "best_of");
}

#[test]
fn text_offsets_are_where_tokens_begin_also_where_text_is_held_back() {
    let token = |text: &str| {
        let token = json!({"id": 1, "text": text, "logprob": -0.5, "special": false});
        format!(
            "data:{}\n\n",
            json!({"index": 1, "token": token, "top_tokens": [token], "generated_text": null, "details": null})
        )
    };
    let last = json!({"token": {"text": "", "special": true}, "generated_text": "ab cXZ",
        "details": {"finish_reason": "length", "generated_tokens": 3}});
    let world = fixtures()
        .answers_with(Answer::sse(&(token("ab") + &token(" cX") + &token("Z") + &format!("data:{last}\n\n"))));
    let body = world.complete(r#"{"model":"tgi","prompt":"p","stream":true,"logprobs":1,"stop":"XY"}"#).body;
    let offsets: Vec<Value> = body
        .split_terminator("\n\n")
        .filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ").unwrap()).ok())
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["text_offset"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(offsets, [0, 2, 5]);
}

#[test]
fn a_secret_that_is_no_header_is_the_operators_fault_and_white_space_around_one_is_not() {
    let world = World::default().answers_with(whole("A", 1));
    let config = common::CONFIG.replace(r#""two": {"dialect""#, r#""two": {"key": "SPACED_KEY", "dialect""#);
    world.put("config", &config);
    assert_eq!(world.complete(r#"{"model":"chat","prompt":"p"}"#).status, 200);
    assert!(world.last_call().headers.contains(&("authorization".into(), "Bearer spaced".to_owned())));
    let world = World::default();
    world.put("config", &config.replace("SPACED_KEY", "BROKEN_KEY"));
    assert_eq!(world.complete(r#"{"model":"chat","prompt":"p"}"#).json()["error"]["code"], "upstream_auth_error");
}

#[test]
fn many_choices_cost_what_they_are() {
    let choices: Vec<Value> =
        (0..20_000).map(|index| json!({"index": index, "text": "x", "finish_reason": "stop"})).collect();
    let world = World::default().answers_with(Answer::json(&json!({"choices": choices}).to_string()));
    world.put("config", &common::CONFIG.replace(r#""max_answer_bytes": 65536"#, r#""max_answer_bytes": 16000000"#));
    let prompts = vec!["p"; 200];
    let received = world.complete(&json!({"model": "m", "prompt": prompts, "n": 100}).to_string());
    assert_eq!(received.json()["choices"].as_array().unwrap().len(), 20_000);
}
