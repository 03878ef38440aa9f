//! What the parts of the gateway cost, natively: framing, every dialect's stream into ours, the request, the ledger.
//!
//! The streams are the recordings of `tests/fixtures`, in which the events with text are repeated in turn until there are
//! [`EVENTS`] of them: what is measured is an event in the middle of a stream, and hardly its beginning and end.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use completions_edge::api::{ChunkFormat, ChunkHead, ChunkWriter, CompletionRequest};
use completions_edge::dialect::{DialectName, Redactor, Share};
use completions_edge::framing::{Frame, Framing};
use completions_edge::quota::{Ledger, Reserve, Settle};
use completions_edge::transcode::{End, Outcome, Plan, Transcoder};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{from_value, json};

/// Events with text in a stream.
const EVENTS: usize = 200;
/// What the Worker reads at once, at most.
const READ_BYTES: usize = 16 * 1024;
/// The bound on an event of the configuration's default.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// One recording a dialect, by the name of its folder.
const RECORDINGS: &[(DialectName, &str)] = &[
    (DialectName::OpenaiCompletions, "openai-stream/upstream.sse"),
    (DialectName::OpenaiChat, "stream/upstream.sse"),
    (DialectName::AzureOpenai, "stream-usage/upstream.sse"),
    (DialectName::AzureOpenaiChat, "stream/upstream.sse"),
    (DialectName::Anthropic, "stream/upstream.sse"),
    (DialectName::Gemini, "stream/upstream.sse"),
    (DialectName::Bedrock, "stream/upstream.eventstream"),
    (DialectName::Cohere, "stream/upstream.sse"),
    (DialectName::MistralFim, "stream/upstream.sse"),
    (DialectName::WorkersAi, "stream/upstream.sse"),
    (DialectName::Ollama, "stream/upstream.ndjson"),
    (DialectName::LlamaCpp, "stream/upstream.sse"),
    (DialectName::Tgi, "stream/upstream.sse"),
];

/// Where the first frame in these bytes ends.
fn frame_length(framing: Framing, bytes: &[u8]) -> usize {
    let after = |mark: &[u8]| bytes.windows(mark.len()).position(|window| window == mark).map(|at| at + mark.len());
    let length = match framing {
        Framing::Sse => after(b"\n\n"),
        Framing::Ndjson => after(b"\n"),
        Framing::EventStream => bytes.first_chunk().map(|length| u32::from_be_bytes(*length) as usize),
    };
    length.map_or(bytes.len(), |length| length.min(bytes.len()))
}

fn transcoder(dialect: DialectName) -> Transcoder {
    let head = ChunkHead { id: "cmpl-1".to_owned(), created: 1_700_000_000, model: "m".to_owned() };
    let share = Share {
        first: 0,
        choices: 1,
        n: 1,
        estimated_prompt_tokens: 1,
        echo: Vec::new().into_iter().collect(),
        stops: [].into(),
    };
    let plan = Plan { shares: vec![share], wants_logprobs: false, max_event_bytes: MAX_EVENT_BYTES };
    let writer = ChunkWriter::new(&head, ChunkFormat::Superset, false, false);
    Transcoder::new(dialect.dialect(), writer, Redactor::default(), plan)
}

/// A recording with its texts repeated, as the pieces that are read of it. They differ in whatever recorded ones do, be it
/// a time or the number of a token.
fn stream(dialect: DialectName, file: &str) -> Vec<u8> {
    let framing = dialect.dialect().framing();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(dialect.name()).join(file);
    let recording = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));

    let (mut transcoder, mut rest, mut frames, mut texts) =
        (transcoder(dialect), recording.as_slice(), Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (frame, after) = rest.split_at(frame_length(framing, rest));
        let mut out = Vec::new();
        transcoder.feed(0, frame, &mut out);
        if !out.is_empty() && contains(&out, br#""finish_reason":null"#) && !contains(&out, b"[DONE]") {
            texts.push(frames.len());
        }
        frames.push(frame);
        rest = after;
    }
    // The first text often carries more than the others, such as a role.
    let repeated = texts.get(1..).filter(|others| !others.is_empty()).unwrap_or(&texts);
    let last = *repeated.last().unwrap_or_else(|| panic!("{}: no text", path.display()));
    let again = repeated.iter().cycle().take(EVENTS.saturating_sub(texts.len())).map(|&i| frames[i]);
    let (before, after) = frames.split_at(last + 1);
    before.iter().copied().chain(again).chain(after.iter().copied()).collect::<Vec<_>>().concat()
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

fn transcode<'a>(dialect: DialectName, pieces: impl Iterator<Item = &'a [u8]>) -> (usize, Outcome) {
    let mut transcoder = transcoder(dialect);
    let mut sent = 0;
    for piece in pieces {
        let mut out = Vec::new();
        transcoder.feed(0, black_box(piece), &mut out);
        sent += out.len();
    }
    let mut out = Vec::new();
    transcoder.finish(0, End::Closed, &mut out);
    (sent + out.len(), transcoder.outcome())
}

/// Time an event.
fn transcoders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transcode");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for &(dialect, file) in RECORDINGS {
        let stream = stream(dialect, file);
        let (_, outcome) = transcode(dialect, stream.chunks(READ_BYTES));
        assert_eq!(outcome.failure, None, "{}", dialect.name());
        group.bench_function(BenchmarkId::new(dialect.name(), "bulk"), |bencher| {
            bencher.iter(|| transcode(dialect, stream.chunks(READ_BYTES)));
        });
        if dialect == DialectName::OpenaiCompletions {
            let mut pieces = Vec::new();
            let mut rest = stream.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(frame_length(dialect.dialect().framing(), rest));
                pieces.push(piece);
                rest = after;
            }
            group.bench_function(BenchmarkId::new(dialect.name(), "an event a read"), |bencher| {
                bencher.iter(|| transcode(dialect, pieces.iter().copied()));
            });
        }
    }
    group.finish();
}

fn count_frames(framing: Framing, stream: &[u8]) -> usize {
    let mut frames = 0;
    let mut deframer = framing.deframer(MAX_EVENT_BYTES);
    for piece in stream.chunks(READ_BYTES) {
        let mut rest = black_box(piece);
        let mut sink = |frame: Frame<'_>| {
            black_box(frame);
            frames += 1;
        };
        while let Ok(Some(after)) = deframer.next_frame(rest, &mut sink) {
            rest = after;
        }
    }
    frames
}

fn deframers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for (name, dialect) in [
        ("sse", DialectName::OpenaiCompletions),
        ("ndjson", DialectName::Ollama),
        ("event stream", DialectName::Bedrock),
    ] {
        let file = RECORDINGS.iter().find(|recording| recording.0 == dialect).expect("every dialect has one").1;
        let stream = stream(dialect, file);
        let framing = dialect.dialect().framing();
        group.throughput(Throughput::Elements(count_frames(framing, &stream) as u64));
        group.bench_function(name, |bencher| bencher.iter(|| count_frames(framing, &stream)));
    }
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let short = br#"{"model":"one","prompt":"Say this is a test","max_tokens":256,"stream":true}"#.to_vec();
    let prompt = "The quick brown fox jumps over the lazy dog.\\n".repeat(1000);
    let long = format!(r#"{{"model":"one","prompt":"{prompt}","max_tokens":256,"temperature":0.7,"stop":["\n\n"]}}"#);
    let mut group = criterion.benchmark_group("request");
    for (name, body) in [("short", short), ("46 kB", long.into_bytes())] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| CompletionRequest::parse(black_box(&body)).expect("a good request").stream);
        });
    }
    group.finish();
}

/// Reserve and settle of one request, in memory: what the ledger's object does besides reading, writing and answering.
fn ledger(criterion: &mut Criterion) {
    let limit = 1_000_000_000_u64;
    let limits = json!({
        "requests_per_minute": limit, "tokens_per_minute": limit, "requests_per_day": limit,
        "tokens_per_day": limit, "tokens_per_month": limit, "concurrent_requests": limit,
    });
    let reserve: Reserve = from_value(json!({
        "lease": "cmpl-1", "key": "bench", "model": "one", "prompt_tokens": 5, "completion_tokens": 256,
        "tenant_limits": limits, "key_limits": limits, "lease_ms": 300_000,
    }))
    .expect("the ledger's own form");
    let settle: Settle = from_value(json!({"lease": "cmpl-1", "prompt_tokens": 6, "completion_tokens": 200}))
        .expect("the ledger's own form");
    let mut group = criterion.benchmark_group("ledger");
    for open in [0, 1000] {
        let mut others = Ledger::default();
        for index in 0..open {
            let lease = format!("other-{index}");
            black_box(others.reserve(&Reserve { lease, ..reserve.clone() }, 1_700_000_000_000));
        }
        group.bench_function(BenchmarkId::new("reserve and settle", format!("{open} open")), |bencher| {
            let mut now_ms = 1_700_000_000_000;
            bencher.iter(|| {
                now_ms += 1;
                let decision = others.reserve(black_box(&reserve), now_ms);
                assert!(others.settle(black_box(&settle), now_ms), "{decision:?}");
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = parts;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = transcoders, deframers, requests, ledger
}
criterion_main!(parts);
