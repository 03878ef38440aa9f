//! The SSE decoder over arbitrary bytes: no panic, no frame over the limit, and the same frames for any split. The
//! first byte of the input is the length of the pieces.
#![no_main]

use std::ops::ControlFlow;

use completions_edge::framing::{Frame, FrameTooLong, SseDeframer};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 64;

type Frames = Vec<(Vec<u8>, Vec<u8>)>;

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Frames, Result<(), FrameTooLong>) {
    let (mut deframer, mut frames) = (SseDeframer::new(LIMIT), Frames::new());
    let mut sink = |frame: Frame<'_>| {
        assert!(frame.data.len() <= LIMIT);
        frames.push((frame.event.to_vec(), frame.data.to_vec()));
        ControlFlow::Continue(())
    };
    let result = pieces.map(|piece| deframer.feed(piece, &mut sink)).find(Result::is_err);
    let result = result.unwrap_or_else(|| deframer.finish(&mut sink));
    (frames, result)
}

fuzz_target!(|input: &[u8]| {
    let Some((&length, stream)) = input.split_first() else { return };
    let whole = frames(std::iter::once(stream));
    assert_eq!(whole, frames(stream.chunks(usize::from(length).max(1))));
    assert_eq!(whole, frames(stream.chunks(1)));
});
