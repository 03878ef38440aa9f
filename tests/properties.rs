//! Properties of the transcoder over random streams: any split gives the same bytes, whatever comes in, what goes out
//! is a stream in the documented format, and it ends.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in tests a panic is a failure that says where"
)]

use std::fs;
use std::path::Path;
use std::rc::Rc;

use completions_edge::api::{ChunkFormat, ChunkHead, ChunkWriter};
use completions_edge::dialect::{DialectName, Redactor, Share};
use completions_edge::transcode::{End, Outcome, Plan, Transcoder};
use proptest::prelude::*;
use serde_json::Value;

/// What the transcoder is to do with a stream.
#[derive(Clone, Debug)]
struct Task {
    dialect: DialectName,
    /// Choices of each source.
    choices: u32,
    sources: u32,
    echo: bool,
    stops: Vec<String>,
}

impl Task {
    /// A stream of two choices as it is.
    fn of(dialect: DialectName) -> Self {
        Self { dialect, choices: 2, sources: 1, echo: false, stops: Vec::new() }
    }

    fn transcoder(&self, format: ChunkFormat) -> Transcoder {
        let head = ChunkHead { id: "cmpl-1".to_owned(), created: 1, model: "m".to_owned() };
        let shares = (0..self.sources).map(|source| Share {
            first: source * self.choices,
            choices: self.choices,
            n: 1,
            estimated_prompt_tokens: 1,
            echo: self.echo.then(|| Rc::from("the prompt")).into_iter().collect(),
            stops: self.stops.iter().cloned().collect(),
        });
        let plan = Plan { shares: shares.collect(), wants_logprobs: true, max_event_bytes: 4096 };
        let writer = ChunkWriter::new(&head, format, true, false);
        Transcoder::new(self.dialect.dialect(), writer, Redactor::default(), plan)
    }

    /// What comes out of a stream in these pieces, and what became of it.
    fn run<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>, end: End) -> (Vec<u8>, Outcome) {
        let (mut transcoder, mut out) = (self.transcoder(ChunkFormat::Superset), Vec::new());
        for piece in pieces {
            transcoder.feed(0, piece, &mut out);
        }
        transcoder.finish(0, end, &mut out);
        (out, transcoder.outcome())
    }

    fn check_any_split(&self, stream: &[u8], cuts: &[prop::sample::Index], end: End) -> Result<(), TestCaseError> {
        let whole = self.run(std::iter::once(stream), end);
        check_stream(&whole.0, &whole.1, self.choices)?;
        prop_assert_eq!(&whole, &self.run(split(stream, cuts).into_iter(), end));
        prop_assert_eq!(&whole, &self.run(stream.chunks(1), end));
        Ok(())
    }
}

/// The streams that the fixtures of a dialect have.
fn recordings(dialect: DialectName) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(dialect.name());
    let cases = fs::read_dir(folder).unwrap().flat_map(|case| fs::read_dir(case.unwrap().path()).unwrap());
    let mut files: Vec<_> = cases.map(|file| file.unwrap().path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with("upstream") && name.rsplit('.').next() != Some("json")
    });
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// The recordings of all dialects.
fn every_recording() -> Vec<(DialectName, Vec<u8>)> {
    let of = |&dialect: &DialectName| recordings(dialect).into_iter().map(move |recording| (dialect, recording));
    DialectName::ALL.iter().flat_map(of).collect()
}

/// A dialect with a recording of it, damaged in a few places.
fn damaged_recording() -> impl Strategy<Value = (DialectName, Vec<u8>)> {
    let damage = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4_u8, any::<u8>());
    (prop::sample::select(every_recording()), prop::collection::vec(damage, 0..4)).prop_map(
        |((dialect, mut stream), damages)| {
            for (from, to, kind, byte) in damages {
                let (from, to) = (from.index(stream.len() + 1), to.index(stream.len() + 1));
                let range = from.min(to)..from.max(to);
                match kind {
                    0 => drop(stream.drain(range)),
                    1 => stream.extend_from_within(range),
                    2 => stream.insert(from, byte),
                    _ => stream.get_mut(from).into_iter().for_each(|place| *place ^= byte),
                }
            }
            (dialect, stream)
        },
    )
}

/// A dialect with a recording of it in which one event comes again and again, and in it one string, each time with
/// something else in its place.
fn repeating_recording() -> impl Strategy<Value = (DialectName, Vec<u8>)> {
    let texts = "[a-z é😀\u{2028}]{1,12}".prop_map(String::into_bytes);
    let escapes = [r"\n", r#"\""#, r"\\", r"\", r"\u00e9x", r"\ud83d\ude00", r"\ud83d"].map(Vec::from);
    let odd = [&b""[..], b"\"", b"\",\"a\":\"", b"\n", b"\r", b"\x01", b"\xff", b"[DONE]", b"error"].map(Vec::from);
    let content = prop_oneof![
        6 => texts,
        2 => prop::sample::select(escapes.to_vec()),
        1 => prop::sample::select(odd.to_vec()),
        1 => Just(vec![b'x'; 5000]),
    ];
    let contents = prop::collection::vec(content, 1..8);
    (prop::sample::select(every_recording()), any::<prop::sample::Index>(), contents)
        .prop_map(|((dialect, recording), string, contents)| (dialect, repeat(&recording, string, &contents)))
}

/// The recording with an event repeated for each of the contents, which stand where one of its strings stood.
fn repeat(recording: &[u8], string: prop::sample::Index, contents: &[Vec<u8>]) -> Vec<u8> {
    let quotes: Vec<usize> = (0..recording.len()).filter(|&at| recording[at] == b'"').collect();
    let mut ends = [&b"\r\n\r\n"[..], b"\n\n", b"\n"].into_iter();
    let end = ends.find(|end| recording.windows(end.len()).any(|part| part == *end));
    let (Some(end), 2..) = (end, quotes.len()) else { return recording.to_vec() };
    // What lies between two quotes is a string, or as good a place as any other.
    let open = string.index(quotes.len() - 1);
    let (open, close) = (quotes[open], quotes[open + 1]);
    let find = |part: &[u8]| part == end;
    let begin = recording[..open].windows(end.len()).rposition(find).map_or(0, |at| at + end.len());
    let after = recording[close..].windows(end.len()).position(find);
    let after = after.map_or(recording.len(), |at| close + at + end.len());
    let mut stream = recording[..after].to_vec();
    for content in contents {
        stream.extend([&recording[begin..=open], content, &recording[close..after]].concat());
    }
    stream.extend_from_slice(&recording[after..]);
    stream
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
    let choice = (text, 0..=2_u32, finish, place).prop_map(|(text, index, finish, place)| {
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
fn check_stream(out: &[u8], outcome: &Outcome, choices: u32) -> Result<(), TestCaseError> {
    let text = std::str::from_utf8(out).unwrap();
    prop_assert!(text.ends_with("\n\n") && !text.contains('\r'));
    let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
    prop_assert_eq!(events.pop(), Some("data: [DONE]"), "the end mark comes last");
    let mut finished = vec![0; choices as usize];
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
        for dialect in [DialectName::OpenaiCompletions, DialectName::OpenaiChat] {
            Task::of(dialect).check_any_split(&stream, &cuts, end)?;
        }
    }

    #[test]
    fn any_split_of_a_damaged_recording_gives_the_same_bytes(
        (dialect, stream) in damaged_recording(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        broken in any::<bool>(),
        echo in any::<bool>(),
        stops in prop::collection::vec("[a-z ]{1,3}", 0..3),
    ) {
        let end = if broken { End::Broken } else { End::Closed };
        Task { choices: 1, echo, stops, ..Task::of(dialect) }.check_any_split(&stream, &cuts, end)?;
    }

    /// Byte by byte, no event is ever told by its bytes alone: it lies in no piece whole.
    #[test]
    fn events_that_repeat_give_what_reading_each_would_give(
        (dialect, stream) in repeating_recording(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        Task { choices: 1, ..Task::of(dialect) }.check_any_split(&stream, &cuts, End::Closed)?;
    }

    #[test]
    fn arbitrary_bytes_end_in_an_error(stream in prop::collection::vec(any::<u8>(), 0..2000)) {
        for &dialect in DialectName::ALL {
            let (out, outcome) = Task::of(dialect).run(stream.chunks(7), End::Closed);
            check_stream(&out, &outcome, 2)?;
            prop_assert!(outcome.failure.is_some());
        }
    }

    #[test]
    fn merged_streams_say_of_each_choice_what_it_would_say_alone(
        order in prop::collection::vec((0..2_usize, 1..40_usize), 0..200),
        recording in prop::sample::select(complete_recordings()),
    ) {
        let (dialect, stream) = recording;
        let alone = Task { choices: 1, ..Task::of(dialect) };
        let expected = texts(&alone.run(std::iter::once(&stream[..]), End::Closed).0);
        let (mut transcoder, mut out) =
            (Task { sources: 2, ..alone }.transcoder(ChunkFormat::Superset), Vec::new());
        let mut rest = [&stream[..], &stream[..]];
        for (source, length) in order {
            let (piece, after) = rest[source].split_at(length.min(rest[source].len()));
            transcoder.feed(source, piece, &mut out);
            rest[source] = after;
        }
        for (source, rest) in rest.iter().enumerate() {
            transcoder.feed(source, rest, &mut out);
            transcoder.finish(source, End::Closed, &mut out);
        }
        check_stream(&out, &transcoder.outcome(), 2)?;
        let both = texts(&out);
        prop_assert_eq!((both.len(), &both[0], &both[1]), (2, &expected[0], &expected[0]));
    }
}

/// The recordings that are complete.
fn complete_recordings() -> Vec<(DialectName, Vec<u8>)> {
    let complete = |dialect: DialectName, stream: &Vec<u8>| {
        let task = Task { choices: 1, ..Task::of(dialect) };
        task.run(std::iter::once(&stream[..]), End::Closed).1.failure.is_none()
    };
    every_recording().into_iter().filter(|(dialect, stream)| complete(*dialect, stream)).collect()
}

/// The text of each choice of a stream of ours, with its finish reason.
fn texts(out: &[u8]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for event in std::str::from_utf8(out).unwrap().split_terminator("\n\n") {
        let Ok(json) = serde_json::from_str::<Value>(event.strip_prefix("data: ").unwrap()) else { continue };
        let Some(choice) = json["choices"].get(0) else { continue };
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        texts.resize(texts.len().max(index + 1), String::new());
        texts[index].push_str(choice["text"].as_str().unwrap());
        texts[index].push_str(choice["finish_reason"].as_str().unwrap_or_default());
    }
    texts
}

#[test]
fn every_dialect_has_recordings() {
    for &dialect in DialectName::ALL {
        assert!(recordings(dialect).len() >= 5, "{dialect:?}");
        assert!(complete_recordings().iter().any(|(of, _)| *of == dialect), "{dialect:?}");
    }
}

#[test]
fn finishing_twice_says_nothing_twice() {
    let task = Task::of(DialectName::OpenaiCompletions);
    let (mut transcoder, mut out) = (task.transcoder(ChunkFormat::OpenAi), Vec::new());
    transcoder.finish(0, End::Broken, &mut out);
    let first = (transcoder.outcome(), out.len());
    transcoder.feed(0, b"data: {\"choices\":[{\"text\":\"late\"}]}\n\n", &mut out);
    transcoder.finish(0, End::Closed, &mut out);
    assert_eq!((transcoder.outcome(), out.len()), first);
}
