//! Properties of the transcoder over random streams: any split gives the same bytes, whatever comes in, what goes out
//! is a stream in the documented format, and it ends.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

use completions_edge::api::{ChunkFormat, ChunkHead, ChunkWriter};
use completions_edge::dialect::{DialectName, Redactor, Share};
use completions_edge::transcode::{End, Outcome, Plan, Transcoder};
use proptest::prelude::*;
use serde_json::Value;

const CHOICES: u32 = 2;
const DIALECTS: [DialectName; 2] = [DialectName::OpenaiCompletions, DialectName::OpenaiChat];

fn transcoder(dialect: DialectName, format: ChunkFormat) -> Transcoder {
    let head = ChunkHead { id: "cmpl-1".to_owned(), created: 1, model: "m".to_owned() };
    let share = Share { first: 0, choices: CHOICES, estimated_prompt_tokens: 1, echo: None, stops: [].into() };
    let plan = Plan { shares: vec![share], wants_logprobs: true, max_event_bytes: 512 };
    Transcoder::new(dialect.dialect(), ChunkWriter::new(&head, format, true, false), Redactor::default(), plan)
}

/// What comes out of a stream in these pieces, and what became of it.
fn run<'a>(
    dialect: DialectName,
    format: ChunkFormat,
    pieces: impl Iterator<Item = &'a [u8]>,
    end: End,
) -> (Vec<u8>, Outcome) {
    let (mut transcoder, mut out) = (transcoder(dialect, format), Vec::new());
    for piece in pieces {
        transcoder.feed(0, piece, &mut out);
    }
    transcoder.finish(0, end, &mut out);
    (out, transcoder.outcome())
}

/// The pieces of `bytes` between these cuts, in whatever order they are given.
fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// One piece of what upstreams send, good or bad.
fn upstream_event() -> impl Strategy<Value = Vec<u8>> {
    let text = "\\PC{0,8}|[ \n\r\u{2028}\"\\\\]{0,4}";
    let finish = prop_oneof![Just("null"), Just("\"stop\""), Just("\"length\""), Just("\"eos\"")];
    let place = prop_oneof![Just("text"), Just("delta.text"), Just("delta.content"), Just("message.content")];
    let choice = (text, 0..=CHOICES, finish, place).prop_map(|(text, index, finish, place)| {
        let text = serde_json::to_string(&text).unwrap();
        let text = match place.split_once('.') {
            Some((outer, inner)) => format!("\"{outer}\":{{\"{inner}\":{text}}}"),
            None => format!("\"{place}\":{text}"),
        };
        format!("data: {{\"choices\":[{{\"index\":{index},{text},\"finish_reason\":{finish}}}]}}").into_bytes()
    });
    let usage = (0u32..100, 0u32..100).prop_map(|(p, c)| {
        format!("data:{{\"choices\":[],\"usage\":{{\"prompt_tokens\":{p},\"completion_tokens\":{c}}}}}").into_bytes()
    });
    prop_oneof![
        8 => choice,
        1 => usage,
        1 => prop::sample::select(vec![
            &b"data: [DONE]"[..],
            b": comment",
            b"event: ping",
            b"data: {\"error\":{\"message\":\"boom\",\"code\":400}}",
            b"data: {\"choices\":[{\"text\":\"\xff\",\"logprobs\":{\"tokens\":[\"a\"],\"token_logprobs\":[NaN]}}]}",
            b"\xef\xbb\xbfdata: {\"cho",
            b"data: {\"choices\":null}\ndata: x",
        ])
        .prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn upstream_stream() -> impl Strategy<Value = Vec<u8>> {
    let line_end = prop::sample::select(vec![&b"\n\n"[..], b"\r\n\r\n", b"\r\r", b"\n", b"\r\n\n"]);
    prop::collection::vec((upstream_event(), line_end), 0..12)
        .prop_map(|events| events.into_iter().flat_map(|(event, end)| [event, end.to_vec()].concat()).collect())
}

/// What goes out is a stream of the documented format, whatever came in.
fn check_stream(out: &[u8], outcome: &Outcome) -> Result<(), TestCaseError> {
    let text = std::str::from_utf8(out).unwrap();
    prop_assert!(text.ends_with("\n\n") && !text.contains('\r'));
    let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
    prop_assert_eq!(events.pop(), Some("data: [DONE]"), "the end mark comes last");
    let mut finished = [0; CHOICES as usize];
    let (mut failed, mut usage_told) = (false, false);
    for (i, event) in events.iter().enumerate() {
        let last = i + 1 == events.len();
        let json: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        if json.get("error").is_some() {
            prop_assert!(last && json.as_object().unwrap().len() == 1, "{event}");
            failed = true;
            continue;
        }
        let [choice] = &json["choices"].as_array().unwrap()[..] else {
            prop_assert!(last && json["usage"].is_object(), "{event}");
            usage_told = true;
            continue;
        };
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        prop_assert_eq!(finished[index], 0, "nothing comes after a finish reason");
        prop_assert!(choice["text"].is_string() && choice["delta"]["text"] == choice["text"]);
        prop_assert!(json.get("usage").is_some_and(Value::is_null));
        finished[index] += u32::from(choice["finish_reason"].is_string());
    }
    prop_assert_eq!(failed, outcome.failure.is_some());
    prop_assert_eq!(usage_told, !failed, "a complete stream tells the usage, and no other");
    prop_assert!(failed || finished.iter().all(|&times| times == 1), "a complete stream finishes every choice once");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_any_stream_gives_the_same_bytes(
        stream in upstream_stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        broken in any::<bool>(),
    ) {
        let end = if broken { End::Broken } else { End::Closed };
        for dialect in DIALECTS {
            let whole = run(dialect, ChunkFormat::Superset, std::iter::once(&stream[..]), end);
            let pieces = run(dialect, ChunkFormat::Superset, split(&stream, &cuts).into_iter(), end);
            prop_assert_eq!(&whole, &pieces);
            let bytewise = run(dialect, ChunkFormat::Superset, stream.chunks(1), end);
            prop_assert_eq!(&whole, &bytewise);
        }
    }

    #[test]
    fn whatever_comes_in_a_documented_stream_goes_out(stream in upstream_stream(), broken in any::<bool>()) {
        let end = if broken { End::Broken } else { End::Closed };
        for dialect in DIALECTS {
            let (out, outcome) = run(dialect, ChunkFormat::Superset, std::iter::once(&stream[..]), end);
            check_stream(&out, &outcome)?;
        }
    }

    #[test]
    fn arbitrary_bytes_end_in_an_error(stream in prop::collection::vec(any::<u8>(), 0..2000)) {
        for dialect in DIALECTS {
            let (out, outcome) = run(dialect, ChunkFormat::Superset, stream.chunks(7), End::Closed);
            check_stream(&out, &outcome)?;
            prop_assert!(outcome.failure.is_some());
        }
    }
}

#[test]
fn finishing_twice_says_nothing_twice() {
    let (mut transcoder, mut out) = (transcoder(DialectName::OpenaiCompletions, ChunkFormat::OpenAi), Vec::new());
    transcoder.finish(0, End::Broken, &mut out);
    let first = transcoder.outcome();
    let length = out.len();
    transcoder.feed(0, b"data: {\"choices\":[{\"text\":\"late\"}]}\n\n", &mut out);
    transcoder.finish(0, End::Closed, &mut out);
    assert_eq!(transcoder.outcome(), first);
    assert_eq!(out.len(), length);
}
