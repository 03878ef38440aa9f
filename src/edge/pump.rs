//! The Rust half of the stream pump; the other half, which reads and sends, is in `pump.js`.

use wasm_bindgen::prelude::*;

use crate::gateway::{Closing, Settled};
use crate::quota::Call;
use crate::transcode::{End, Progress, Transcoder};

use super::glue::{self, Visit};
use super::platform::{now_ms, tell_ledger, written};
use super::tend::tend;

/// A transcoder as JavaScript drives it: one call for each piece of the upstream's body. When the stream has ended,
/// however it ended, its quota is settled and the log told, once.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Pump {
    transcoder: Transcoder,
    /// Taken when the stream has ended.
    closing: Option<Closing>,
    visit: Visit,
}

impl Pump {
    pub(super) fn new(transcoder: Transcoder, closing: Closing, visit: Visit) -> Self {
        Self { transcoder, closing: Some(closing), visit }
    }

    /// Once: the ledger and the log are told. `gone` if the client left before the end.
    fn close(&mut self, gone: bool) {
        let Some(closing) = self.closing.take() else { return };
        let closed = closing.close(&self.transcoder.outcome(), gone, now_ms());
        match closed.settled {
            Some(Settled::Tell(tenant, settle)) => tell_ledger(&self.visit, &tenant, &Call::Settle(settle)),
            Some(Settled::Tend(slices, tending)) => tend(&self.visit, slices, tending),
            Some(Settled::Kept) | None => {}
        }
        if let Some(change) = closed.change {
            glue::warn(&change);
        }
        self.visit.tell_log(&written(&closed.record.line()), closed.record.is_logged);
    }
}

#[wasm_bindgen]
impl Pump {
    /// Takes the next bytes of a source; returns what goes to the client.
    pub fn push(&mut self, source: usize, bytes: &[u8]) -> Vec<u8> {
        // What we write about an event is somewhat longer than what upstreams do.
        let mut out = Vec::with_capacity(bytes.len().saturating_mul(2));
        self.transcoder.feed(source, bytes, &mut out);
        if !out.is_empty() {
            // Text is told by itself: what was heard with it must not be asked for after a later piece.
            self.transcoder.take_heard();
        }
        if let Some(closing) = self.closing.as_mut().filter(|closing| !closing.has_seen_text())
            && self.transcoder.has_begun()
            && let Some(change) = closing.see_text(now_ms())
        {
            glue::warn(&change);
        }
        if self.transcoder.is_over() {
            self.close(false);
        }
        out
    }

    /// The body of a source has ended, or broken; returns what is left to be said.
    pub fn end(&mut self, source: usize, broken: bool) -> Vec<u8> {
        let mut out = Vec::new();
        self.transcoder.finish(source, if broken { End::Broken } else { End::Closed }, &mut out);
        if self.transcoder.is_over() {
            self.close(false);
        }
        out
    }

    /// How far a source is: 0 if it has more to say, 1 if it has said all, 2 if nobody wants what it would say.
    #[must_use]
    pub fn progress(&self, source: usize) -> u8 {
        match self.transcoder.progress(source) {
            Progress::Open => 0,
            Progress::Done => 1,
            Progress::Cut => 2,
        }
    }

    /// An upstream was silent for too long; returns what is left to be said.
    pub fn expire(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.transcoder.expire(&mut out);
        self.close(false);
        out
    }

    /// Whether anything of a source's choices has been said.
    #[must_use]
    pub fn begun(&self, source: usize) -> bool {
        self.transcoder.source_has_begun(source)
    }

    /// Whether an event has come since this was asked last.
    #[wasm_bindgen(getter)]
    pub fn heard(&mut self) -> bool {
        self.transcoder.take_heard()
    }

    /// The client has gone away.
    pub fn gone(&mut self) {
        self.close(true);
    }

    /// Whether the end mark has been written: nothing is left of any source, but for those that are to be broken off.
    #[wasm_bindgen(getter)]
    #[must_use]
    pub fn over(&self) -> bool {
        self.transcoder.is_over()
    }
}
