//! Events that repeat: told by their bytes, without reading them.
//!
//! The events of a stream that bring text mostly differ in that text alone. One that was read in full teaches what the
//! next ones look like: the bytes before its text and those after. An event of the same bytes around another text is the
//! same event with that text, and is not read at all.
//!
//! That this is what reading it would have given rests on three facts.
//!
//! - What was learned is the event's bytes from the end of the event before to its own last byte, and it is looked for
//!   only where an event begins ([`Deframer::frame_at`](crate::framing::Deframer::frame_at)): the deframer is in the same
//!   state both times. The text has no line end, so that the lines are the same, and so is the frame but for the text.
//! - The text that was learned from is a slice of the event's own bytes between two quotes, and without a backslash: the
//!   whole of a JSON string. A text without quotes, backslashes and control characters that is UTF-8 is the whole of a
//!   string in its place, and the JSON around it is the same.
//! - The event was one text and nothing else, and its decoder has promised that such an event means the same whatever its
//!   text is, if it has one ([`StreamDecoder::repeats`](crate::dialect::StreamDecoder::repeats)).
//!
//! Whatever is not so is read in full. An upstream whose events never repeat is not learned from for long.

use crate::dialect::Event;

/// How many events are learned from, one after the other, of which none comes again.
const PATIENCE: u8 = 8;

/// What the next event of a stream looks like, if it is like the last one that was read.
#[derive(Debug)]
pub(super) struct Learned {
    /// The longest event that is read: a longer one is an error, which is found by reading it.
    limit: usize,
    /// How many more events are worth learning from.
    patience: u8,
    /// The choice that the text is of.
    index: u32,
    /// The bytes before the text and after it; none while nothing is learned.
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Learned {
    /// Nothing yet. Of a decoder that does not repeat itself nothing is ever learned.
    pub(super) fn new(limit: usize, repeats: bool) -> Self {
        let patience = if repeats { PATIENCE } else { 0 };
        Self { limit, patience, index: 0, before: Vec::new(), after: Vec::new() }
    }

    /// The event that `bytes` begin with, if it is known: its bytes, the choice, its text, and the bytes after it.
    pub(super) fn recognise<'a>(&mut self, bytes: &'a [u8]) -> Option<(&'a [u8], u32, &'a str, &'a [u8])> {
        if self.before.is_empty() {
            return None;
        }
        let rest = bytes.strip_prefix(&*self.before)?;
        let (text, rest) = rest.split_at_checked(string_end(rest)?)?;
        let after = rest.strip_prefix(&*self.after)?;
        let event = bytes.get(..bytes.len().saturating_sub(after.len()))?;
        if text.is_empty() || event.len() > self.limit {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        self.patience = PATIENCE;
        Some((event, self.index, text, after))
    }

    /// What there may be to learn from the event that `bytes` begin with.
    pub(super) fn lesson<'a>(&self, bytes: Option<&'a [u8]>) -> Lesson<'a> {
        Lesson { bytes: bytes.filter(|_| self.patience > 0), text: None }
    }

    /// Learns from an event that has been read, and after which there are these bytes.
    pub(super) fn learn(&mut self, lesson: Lesson<'_>, after: &[u8]) {
        let Lesson { bytes: Some(bytes), text: Some((index, begin, end)) } = lesson else { return };
        let length = bytes.len().saturating_sub(after.len());
        if let (Some(before), Some(after)) = (bytes.get(..begin), bytes.get(end..length))
            && before.ends_with(b"\"")
            && after.starts_with(b"\"")
        {
            self.patience = self.patience.saturating_sub(1);
            self.index = index;
            before.clone_into(&mut self.before);
            after.clone_into(&mut self.after);
        }
    }
}

/// Listens to an event while it is read in full.
#[derive(Clone, Copy)]
pub(super) struct Lesson<'a> {
    /// The bytes that begin with the event; none where it cannot be learned from.
    bytes: Option<&'a [u8]>,
    /// The choice, and where the text lies in the bytes.
    text: Option<(u32, usize, usize)>,
}

impl Lesson<'_> {
    /// Takes note of what the event says.
    pub(super) fn hear(&mut self, event: &Event<'_>) {
        let Some(bytes) = self.bytes else { return };
        let place = match event {
            Event::Delta { index, text, logprobs: None, finish_reason: None } if self.text.is_none() => {
                place(bytes, text).map(|(begin, end)| (*index, begin, end))
            }
            _ => None,
        };
        self.text = place;
        // What says more than one text, or one that is not as it stands in the bytes, is read each time.
        self.bytes = place.map(|_| bytes);
    }
}

/// Where a text lies in `bytes`, if it is a part of them and the whole of a string that needs no escapes.
fn place(bytes: &[u8], text: &str) -> Option<(usize, usize)> {
    let begin = text.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
    let end = begin.checked_add(text.len())?;
    let is_whole = string_end(bytes.get(begin..)?) == Some(text.len());
    (is_whole && !text.is_empty()).then_some((begin, end))
}

/// How long the rest of a JSON string is, if no byte of it needs an escape.
fn string_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    (bytes.get(end) == Some(&b'"')).then_some(end)
}
