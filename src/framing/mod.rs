//! Bytes to frames: how an upstream's stream is cut into its events, whatever the network cut it into.

mod event_stream;
mod ndjson;
mod sse;

pub use event_stream::EventStreamDeframer;
pub use ndjson::NdjsonDeframer;
pub use sse::SseDeframer;

const BOM: &[u8] = "\u{feff}".as_bytes();

/// One event of an upstream's stream, still in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The event's name; empty where it has none.
    pub event: &'a [u8],
    /// What it carries.
    pub data: &'a [u8],
}

/// Why a stream cannot be cut into frames any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A line or a frame is longer than the limit.
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The bytes are not of this framing, or were damaged on their way.
    Corrupt,
}

/// The framings that dialects use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-Sent Events, as WHATWG has them.
    Sse,
    /// One JSON text a line.
    Ndjson,
    /// The binary messages of AWS.
    EventStream,
}

impl Framing {
    /// The media type that a stream in this framing is asked for by.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
            Self::EventStream => "application/vnd.amazon.eventstream",
        }
    }

    /// A deframer for one stream, whose frames are at most `limit` bytes long.
    #[must_use]
    pub fn deframer(self, limit: usize) -> Deframer {
        match self {
            Self::Sse => Deframer::Sse(SseDeframer::new(limit)),
            Self::Ndjson => Deframer::Ndjson(NdjsonDeframer::new(limit)),
            Self::EventStream => Deframer::EventStream(EventStreamDeframer::new(limit)),
        }
    }
}

/// Cuts one stream into frames.
#[derive(Debug)]
pub enum Deframer {
    /// See [`SseDeframer`].
    Sse(SseDeframer),
    /// See [`NdjsonDeframer`].
    Ndjson(NdjsonDeframer),
    /// See [`EventStreamDeframer`].
    EventStream(EventStreamDeframer),
}

impl Deframer {
    /// Takes bytes up to the end of the next frame, hands that on, and returns the bytes after it; nothing if all bytes
    /// are taken and the frame has not ended.
    pub fn next_frame<'a>(
        &mut self,
        bytes: &'a [u8],
        sink: impl FnOnce(Frame<'_>),
    ) -> Result<Option<&'a [u8]>, FrameError> {
        match self {
            Self::Sse(sse) => sse.next_frame(bytes, sink),
            Self::Ndjson(ndjson) => ndjson.next_frame(bytes, sink),
            Self::EventStream(event_stream) => event_stream.next_frame(bytes, sink),
        }
    }

    /// The bytes from where the next frame begins, if none has begun: what comes depends on nothing before. In a framing
    /// whose frames have checksums no two are alike, and none are looked for.
    #[must_use]
    pub fn frame_at<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Sse(sse) => sse.frame_at(bytes),
            Self::Ndjson(ndjson) => ndjson.frame_at(bytes),
            Self::EventStream(_) => None,
        }
    }

    /// Takes a whole frame, from where it begins, without handing it on: somebody knows what it is.
    pub fn pass_over(&mut self, frame: &[u8]) {
        if let Self::Sse(sse) = self {
            sse.pass_over(frame);
        }
    }

    /// How many bytes are held of what a frame will carry. While a frame comes slowly, they grow.
    #[must_use]
    pub fn held(&self) -> usize {
        match self {
            Self::Sse(sse) => sse.held(),
            Self::Ndjson(ndjson) => ndjson.held(),
            Self::EventStream(event_stream) => event_stream.held(),
        }
    }

    /// The stream has ended: hands on what was begun and perhaps whole, though nothing marked its end.
    pub fn finish(&mut self, sink: impl FnOnce(Frame<'_>)) -> Result<(), FrameError> {
        match self {
            Self::Sse(sse) => return sse.finish(sink),
            Self::Ndjson(ndjson) => ndjson.finish(sink),
            Self::EventStream(event_stream) => event_stream.finish(sink),
        }
        Ok(())
    }
}
