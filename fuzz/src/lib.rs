//! What the targets share.

use completions_edge::framing::{Frame, FrameError, Framing};

const LIMIT: usize = 64;

type Frames = Vec<(Vec<u8>, Vec<u8>)>;

fn frames<'a>(framing: Framing, pieces: impl Iterator<Item = &'a [u8]>) -> (Frames, Result<(), FrameError>) {
    let (mut deframer, mut frames) = (framing.deframer(LIMIT), Frames::new());
    let mut sink = |frame: Frame<'_>| {
        assert!(frame.data.len() <= LIMIT);
        frames.push((frame.event.to_vec(), frame.data.to_vec()));
    };
    for mut rest in pieces {
        loop {
            match deframer.next_frame(rest, &mut sink) {
                Ok(Some(after)) => rest = after,
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    let result = deframer.finish(&mut sink);
    (frames, result)
}

/// No panic, no frame over the limit, and the same frames for any split: whole, in pieces of this length, and byte by
/// byte.
pub fn check_deframer(framing: Framing, stream: &[u8], length: u8) {
    let whole = frames(framing, std::iter::once(stream));
    assert_eq!(whole, frames(framing, stream.chunks(usize::from(length).max(1))));
    assert_eq!(whole, frames(framing, stream.chunks(1)));
}
