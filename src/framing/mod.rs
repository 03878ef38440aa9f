//! Bytes to frames: how an upstream's stream is cut into its events, whatever the network cut it into.

mod sse;

use std::ops::ControlFlow;

pub use sse::SseDeframer;

/// One event of an upstream's stream, still in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The event's name; empty where it has none.
    pub event: &'a [u8],
    /// What it carries.
    pub data: &'a [u8],
}

/// A line or an event is longer than the limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTooLong {
    /// The limit.
    pub limit: usize,
}

/// The framings that dialects use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-Sent Events, as WHATWG has them.
    Sse,
}

impl Framing {
    /// A deframer for one stream, whose frames are at most `limit` bytes long.
    #[must_use]
    pub fn deframer(self, limit: usize) -> Deframer {
        match self {
            Self::Sse => Deframer::Sse(SseDeframer::new(limit)),
        }
    }
}

/// Cuts one stream into frames.
#[derive(Debug)]
pub enum Deframer {
    /// See [`SseDeframer`].
    Sse(SseDeframer),
}

impl Deframer {
    /// Takes the next bytes and hands every frame that they complete to `sink`, which may break off.
    pub fn feed(&mut self, bytes: &[u8], sink: impl FnMut(Frame<'_>) -> ControlFlow<()>) -> Result<(), FrameTooLong> {
        match self {
            Self::Sse(sse) => sse.feed(bytes, sink),
        }
    }

    /// The stream has ended: hands on what was begun and perhaps whole, though nothing marked its end.
    pub fn finish(&mut self, sink: impl FnMut(Frame<'_>) -> ControlFlow<()>) -> Result<(), FrameTooLong> {
        match self {
            Self::Sse(sse) => sse.finish(sink),
        }
    }
}
