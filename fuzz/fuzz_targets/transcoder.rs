//! The transcoder of every dialect over arbitrary bytes: no panic, the same bytes for any split, and whatever comes in,
//! what goes out is text in whole events whose last one is the end mark. The first byte of the input is the length of
//! the pieces, the second chooses dialect, format and number of choices.
#![no_main]

use completions_edge::api::{ChunkFormat, ChunkHead, ChunkWriter};
use completions_edge::dialect::{DialectName, Redactor};
use completions_edge::transcode::{End, Outcome, Plan, Transcoder};
use libfuzzer_sys::fuzz_target;

fn run<'a>(choice: u8, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Outcome) {
    let dialect = if choice & 1 == 0 { DialectName::OpenaiCompletions } else { DialectName::OpenaiChat };
    let format = [ChunkFormat::Superset, ChunkFormat::Documented, ChunkFormat::OpenAi][usize::from(choice >> 1) % 3];
    let head = ChunkHead { id: "cmpl-1".to_owned(), created: 1, model: "m".to_owned() };
    let writer = ChunkWriter::new(&head, format, choice & 64 == 0, choice & 128 == 0);
    let plan = Plan { choices: 1 + u32::from(choice >> 3) % 3, estimated_prompt_tokens: 1, max_event_bytes: 256 };
    let (mut transcoder, mut out) =
        (Transcoder::new(dialect.dialect(), writer, Redactor::default(), &plan), Vec::new());
    for piece in pieces {
        transcoder.feed(piece, &mut out);
    }
    let outcome = transcoder.finish(End::Closed, &mut out);
    (out, outcome)
}

fuzz_target!(|input: &[u8]| {
    let [length, choice, stream @ ..] = input else { return };
    let whole = run(*choice, std::iter::once(stream));
    assert_eq!(whole, run(*choice, stream.chunks(usize::from(*length).max(1))));
    let text = std::str::from_utf8(&whole.0).expect("what goes out is UTF-8");
    assert!(
        text.ends_with("data: [DONE]\n\n") && text.split_terminator("\n\n").all(|event| event.starts_with("data: "))
    );
});
