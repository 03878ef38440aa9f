//! Golden fixtures: for each dialect a folder, in it a folder for each case with
//! `request.json` (the client's body), `upstream….<framing>` (the upstream's answer, byte for byte), `call.json` (what
//! the upstream must be sent) and `expected.sse` or `expected.json` (what the client must get).
//!
//! The framing is `json`, `sse`, `ndjson` or `eventstream`. A status other than 200 stands before it, as in
//! `upstream.429.json`. A request that becomes several calls has an answer for each: `upstream-1.sse`, `upstream-2.sse`.
//! The configuration of all cases is `config.json`.
//!
//! A stream is sent whole and byte by byte. `BLESS=1 cargo test --test golden` writes what comes out, to be read and
//! checked before it is committed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Answer, World};
use completions_edge::dialect::{Destination, UpstreamRequest};
use serde_json::{Value, json};

fn folders(path: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// Compares with the file, or writes it when blessing.
fn check_file(path: &Path, actual: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, actual).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(actual, expected, "{}", path.display());
}

/// One upstream call as a document to read.
fn call_document(call: &UpstreamRequest) -> Value {
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    match &call.destination {
        Destination::Url(url) => json!({"url": url, "headers": call.headers, "body": body}),
        Destination::Ai { binding, model } => {
            json!({"binding": binding, "model": model, "headers": call.headers, "body": body})
        }
    }
}

/// The calls of one request.
fn calls_document(world: &World) -> String {
    let documents: Vec<Value> = world.calls.borrow().iter().map(call_document).collect();
    let document = match <[Value; 1]>::try_from(documents) {
        Ok([one]) => one,
        Err(several) => Value::from(several),
    };
    serde_json::to_string_pretty(&document).unwrap() + "\n"
}

/// The answer that a file holds.
fn answer(path: &Path) -> Answer {
    let name = path.file_name().unwrap().to_str().unwrap();
    let parts: Vec<&str> = name.split('.').collect();
    let status = if parts.len() == 3 { parts[1].parse().unwrap() } else { 200 };
    let content_type = match *parts.last().unwrap() {
        "json" => "application/json",
        "sse" => "text/event-stream",
        "ndjson" => "application/x-ndjson",
        "eventstream" => "application/vnd.amazon.eventstream",
        other => panic!("{other}: {}", path.display()),
    };
    Answer::new(status, content_type, &fs::read(path).unwrap())
}

fn check_case(config: &str, case: &Path) {
    let request = fs::read_to_string(case.join("request.json")).unwrap();
    let is_answer =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_str().unwrap().starts_with("upstream"));
    let answers: Vec<Answer> = folders(case).iter().filter(is_answer).map(|path| answer(path)).collect();
    let world = |answers: Vec<Answer>| {
        let world = World::default();
        world.put("config", config);
        answers.into_iter().fold(world, World::answers_with)
    };
    let whole = world(answers.clone());
    let received = whole.complete(&request);
    check_file(&case.join("call.json"), &calls_document(&whole));
    let expected = if received.body.starts_with("data: ") { "expected.sse" } else { "expected.json" };
    check_file(&case.join(expected), &received.body);

    let merged = answers.len() > 1;
    let bytewise = answers.into_iter().map(|answer| {
        let bytes: Vec<u8> = answer.pieces.iter().flatten().flatten().copied().collect();
        Answer { pieces: bytes.iter().map(|byte| Ok(vec![*byte])).collect(), ..answer }
    });
    let again = world(bytewise.collect()).complete(&request);
    // How streams interleave depends on how they come, and what each says does not.
    let events = |body: &str| {
        let mut events: Vec<String> = body.split_inclusive("\n\n").map(str::to_owned).collect();
        if merged {
            events.sort_unstable();
        }
        events
    };
    assert_eq!(events(&again.body), events(&received.body), "byte by byte: {}", case.display());
}

#[test]
fn every_dialects_fixtures() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut cases = 0;
    let config = fs::read_to_string(fixtures.join("config.json")).unwrap();
    let dialects: Vec<PathBuf> = folders(&fixtures).into_iter().filter(|path| path.is_dir()).collect();
    for case in dialects.iter().flat_map(|dialect| folders(dialect)) {
        check_case(&config, &case);
        cases += 1;
    }
    assert!(cases >= 20, "only {cases} fixtures found");
}
