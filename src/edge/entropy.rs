//! Randomness for requests, drawn for many at once: a call of the runtime costs more than the bytes do.

use std::cell::RefCell;

use super::glue;

/// What one request gets.
const BYTES: usize = 32;
/// For so many requests it is drawn at once.
const REQUESTS: usize = 64;

thread_local! {
    /// What has been drawn, and how much of it is left.
    static DRAWN: RefCell<(Vec<u8>, usize)> = const { RefCell::new((Vec::new(), 0)) };
}

/// Randomness that nobody else has had or will have: nothing of it is left here.
pub(super) fn draw() -> [u8; BYTES] {
    DRAWN.with_borrow_mut(|(bytes, left)| {
        if *left == 0 {
            bytes.resize(BYTES.saturating_mul(REQUESTS), 0);
            glue::random_bytes(bytes);
            *left = REQUESTS;
        }
        *left = left.saturating_sub(1);
        let (chunks, _) = bytes.as_chunks_mut();
        chunks.get_mut(*left).map(std::mem::take).unwrap_or_default()
    })
}
