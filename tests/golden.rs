//! Golden fixtures: for each dialect a folder, in it a folder for each case with
//! `request.json` (the client's body), `upstream.sse` or `upstream.json` (the upstream's answer, byte for byte),
//! `call.json` (what the upstream must be sent) and `expected.sse` or `expected.json` (what the client must get).
//!
//! A stream is sent whole and byte by byte. `BLESS=1 cargo test --test golden` writes what comes out, to be read and
//! checked before it is committed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

mod common;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Answer, World};

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

/// The upstream call as a document to read.
fn call_document(world: &World) -> String {
    let call = world.last_call();
    let document = serde_json::json!({
        "url": call.url,
        "headers": call.headers,
        "body": serde_json::from_slice::<serde_json::Value>(&call.body).unwrap(),
    });
    serde_json::to_string_pretty(&document).unwrap() + "\n"
}

fn check_case(case: &Path) {
    let request = fs::read_to_string(case.join("request.json")).unwrap();
    let stream = fs::read(case.join("upstream.sse"));
    let (answer, expected) = if let Ok(bytes) = &stream {
        (Answer::new(200, "text/event-stream", bytes), "expected.sse")
    } else {
        let body = fs::read(case.join("upstream.json")).unwrap();
        (Answer::new(200, "application/json", &body), "expected.json")
    };
    let whole = World::default().answers_with(answer.clone());
    let received = whole.complete(&request);
    check_file(&case.join("call.json"), &call_document(&whole));
    check_file(&case.join(expected), &received.body);

    let bytes: Vec<u8> = answer.pieces.iter().flatten().flatten().copied().collect();
    let pieces: VecDeque<_> = bytes.iter().map(|byte| Ok(vec![*byte])).collect();
    let bytewise = World::default().answers_with(Answer { pieces, ..answer });
    assert_eq!(bytewise.complete(&request).body, received.body, "byte by byte: {}", case.display());
}

#[test]
fn every_dialects_fixtures() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut cases = 0;
    for case in folders(&fixtures).iter().flat_map(|dialect| folders(dialect)) {
        check_case(&case);
        cases += 1;
    }
    assert!(cases >= 20, "only {cases} fixtures found");
}
