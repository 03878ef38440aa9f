//! The transcoder of every dialect over arbitrary bytes: no panic, the same bytes for any split, and whatever comes in,
//! what goes out is text in whole events whose last one is the end mark. The first byte of the input chooses the
//! dialect, the second the length of the pieces, the third format, number of choices, echo and stop sequences.
#![no_main]

use completions_edge::api::{ChunkFormat, ChunkHead, ChunkWriter};
use completions_edge::dialect::{DialectName, Redactor, Share};
use completions_edge::transcode::{End, Outcome, Plan, Transcoder};
use libfuzzer_sys::fuzz_target;

fn run<'a>(dialect: u8, choice: u8, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Outcome) {
    let dialect = DialectName::ALL[usize::from(dialect) % DialectName::ALL.len()];
    let format = [ChunkFormat::Superset, ChunkFormat::Documented, ChunkFormat::OpenAi][usize::from(choice & 3) % 3];
    let head = ChunkHead { id: "cmpl-1".to_owned(), created: 1, model: "m".to_owned() };
    let writer = ChunkWriter::new(&head, format, choice & 64 == 0, choice & 128 == 0);
    let share = Share {
        first: 0,
        choices: 1 + u32::from(choice >> 2 & 1),
        n: 1,
        estimated_prompt_tokens: 1,
        echo: (choice & 8 != 0).then(|| "prompt".into()).into_iter().collect(),
        stops: if choice & 16 == 0 { [].into() } else { ["\n".to_owned(), "the".to_owned()].into() },
    };
    let plan = Plan { shares: vec![share], wants_logprobs: choice & 32 == 0, max_event_bytes: 2048 };
    let (mut transcoder, mut out) = (Transcoder::new(dialect.dialect(), writer, Redactor::default(), plan), Vec::new());
    for piece in pieces {
        transcoder.feed(0, piece, &mut out);
    }
    transcoder.finish(0, End::Closed, &mut out);
    (out, transcoder.outcome())
}

fuzz_target!(|input: &[u8]| {
    let [dialect, length, choice, stream @ ..] = input else { return };
    let whole = run(*dialect, *choice, std::iter::once(stream));
    assert_eq!(whole, run(*dialect, *choice, stream.chunks(usize::from(*length).max(1))));
    // No event lies whole in a piece of one byte, so that each is read in full and none told by its bytes.
    assert_eq!(whole, run(*dialect, *choice, stream.chunks(1)));
    let text = std::str::from_utf8(&whole.0).expect("what goes out is UTF-8");
    assert!(
        text.ends_with("data: [DONE]\n\n") && text.split_terminator("\n\n").all(|event| event.starts_with("data: "))
    );
});
