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
//!   state both times. No string has a line end in it, so that the lines are the same, and so is the frame but for the text.
//! - The text that was learned from is a slice of the event's own bytes, between two quotes and without escapes: the whole
//!   of a JSON string. What stands in its place is read as a string up to its own closing quote, and if it is one, the
//!   JSON around it is the same.
//! - The event was one text and nothing else, and its decoder has promised that such an event means the same at any time
//!   and with any text that is not empty ([`StreamDecoder::repeats`](crate::dialect::StreamDecoder::repeats)).
//!
//! Whatever is not so is read in full. An upstream whose events never repeat is not learned from for long.

use std::borrow::Cow;

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

    /// The event that `bytes` begin with, if it is known.
    pub(super) fn recognise<'a>(&mut self, bytes: &'a [u8]) -> Option<Repeat<'a>> {
        if self.before.is_empty() {
            return None;
        }
        let (text, rest) = string(strip_prefix(bytes, &self.before)?)?;
        let after = strip_prefix(rest, &self.after)?;
        let event = bytes.get(..bytes.len().saturating_sub(after.len()))?;
        if text.is_empty() || event.len() > self.limit {
            return None;
        }
        self.patience = PATIENCE;
        Some(Repeat { event, index: self.index, text, after })
    }

    /// What there may be to learn from the event that `bytes` begin with, which is not known.
    pub(super) fn lesson<'a>(&mut self, bytes: Option<&'a [u8]>) -> Lesson<'a> {
        if self.patience == 0 {
            self.before.clear();
        }
        Lesson { bytes: bytes.filter(|_| self.patience > 0), text: None }
    }

    /// Learns from an event that has been read, and after which there are these bytes.
    pub(super) fn learn(&mut self, lesson: Lesson<'_>, after: &[u8]) {
        let Lesson { bytes: Some(bytes), text: Some((index, begin, end)) } = lesson else { return };
        let length = bytes.len().saturating_sub(after.len());
        if let (Some(before), Some(after)) = (bytes.get(..begin), bytes.get(end..length)) {
            self.patience = self.patience.saturating_sub(1);
            self.index = index;
            before.clone_into(&mut self.before);
            after.clone_into(&mut self.after);
        }
    }
}

/// An event that is known.
#[derive(Debug)]
pub(super) struct Repeat<'a> {
    /// Its bytes, and those after it.
    pub(super) event: &'a [u8],
    pub(super) after: &'a [u8],
    /// The choice, and what is added to it.
    pub(super) index: u32,
    pub(super) text: Cow<'a, str>,
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

/// Where a text lies in `bytes`, if it is a part of them and the whole of a string.
fn place(bytes: &[u8], text: &str) -> Option<(usize, usize)> {
    let begin = text.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
    let (before, rest) = bytes.split_at_checked(begin)?;
    let is_whole = before.ends_with(b"\"") && string(rest)?.0 == text && !text.is_empty();
    is_whole.then_some((begin, begin.checked_add(text.len())?))
}

/// The text of the JSON string whose opening quote has been read, and what follows from its closing quote on.
fn string(bytes: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    let mut end = bytes.iter().position(special)?;
    let is_plain = bytes.get(end) == Some(&b'"');
    while bytes.get(end) == Some(&b'\\') {
        end = end.saturating_add(2);
        end = end.saturating_add(bytes.get(end..)?.iter().position(special)?);
    }
    let (text, rest) = bytes.split_at_checked(end)?;
    if !rest.starts_with(b"\"") {
        return None;
    }
    let text = if is_plain {
        Cow::Borrowed(std::str::from_utf8(text).ok()?)
    } else {
        Cow::Owned(crate::json::from_bytes(&[b"\"", text, b"\""].concat()).ok()?)
    };
    Some((text, rest))
}

/// The bytes after `prefix`, if they begin with it. They are compared in words: WebAssembly has no instruction that
/// compares many bytes, and the function that stands in for it takes them one by one.
fn strip_prefix<'a>(bytes: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (begin, rest) = bytes.split_at_checked(prefix.len())?;
    let (words, last) = begin.as_chunks();
    let (prefix_words, prefix_last) = prefix.as_chunks();
    let same = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b);
    (words.iter().zip(prefix_words).all(same) && last == prefix_last).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "data: {\"id\":\"1\",\"text\":\"";
    const AFTER: &str = "\",\"index\":0}\n\n";

    /// Reads an event in full, whose text begins behind so many bytes.
    fn teach(learned: &mut Learned, event: &str, text: std::ops::Range<usize>) {
        let mut lesson = learned.lesson(Some(event.as_bytes()));
        lesson.hear(&Event::Delta { index: 3, text: &event[text], logprobs: None, finish_reason: None });
        learned.learn(lesson, b"");
    }

    /// What is known of an event with this in the place of its text, once one with another text has been read.
    fn check(text: &str, expected: Option<&str>) {
        let mut learned = Learned::new(100, true);
        teach(&mut learned, &format!("{BEFORE}x{AFTER}"), BEFORE.len()..BEFORE.len() + 1);
        let bytes = format!("{BEFORE}{text}{AFTER}more");
        let found = learned.recognise(bytes.as_bytes());
        assert_eq!(found.as_ref().map(|found| &*found.text), expected, "{text}");
        if let Some(found) = found {
            assert_eq!((found.index, found.after, found.event.len()), (3, &b"more"[..], bytes.len() - 4));
        }
    }

    #[test]
    fn an_event_that_differs_in_its_text_alone_is_known() {
        check("y", Some("y"));
        check("two words é\u{2028}\u{7f}", Some("two words é\u{2028}\u{7f}"));
        check("a\\n\\\"b\\\\", Some("a\n\"b\\"));
        check("\\ud83d\\ude00", Some("😀"));
    }

    #[test]
    fn what_is_no_text_or_another_event_is_not_known() {
        for text in ["", "\n", "a\tb", "\\", "\\x", "\\\n", "\\ud83d", "a\",\"b\":\"c", "a\",\"index\":1}\n\n"] {
            check(text, None);
        }
        check(&"long".repeat(20), None);
        let mut learned = Learned::new(100, true);
        teach(&mut learned, &format!("{BEFORE}x{AFTER}"), BEFORE.len()..BEFORE.len() + 1);
        let invalid = [BEFORE.as_bytes(), b"\xff", AFTER.as_bytes()].concat();
        assert!(learned.recognise(&invalid).is_none());
        assert!(learned.recognise(&BEFORE.as_bytes()[1..]).is_none());
        assert!(learned.recognise(format!("{BEFORE}cut in tw").as_bytes()).is_none());
    }

    #[test]
    fn nothing_is_learned_from_what_is_no_whole_string() {
        let event = format!("{BEFORE}x y{AFTER}");
        let begin = BEFORE.len();
        for text in [begin..begin + 1, begin + 1..begin + 3, begin - 1..begin + 4, begin..begin, 7..8] {
            let mut learned = Learned::new(100, true);
            teach(&mut learned, &event, text);
            assert!(learned.recognise(event.as_bytes()).is_none());
        }
        for repeats in [false, true] {
            let mut learned = Learned::new(100, repeats);
            teach(&mut learned, &event, begin..begin + 3);
            assert_eq!(learned.recognise(event.as_bytes()).is_some(), repeats);
        }
    }

    #[test]
    fn nothing_is_learned_from_an_event_that_says_more_than_a_text() {
        let event = format!("{BEFORE}x{AFTER}");
        let delta = |finish_reason| {
            let text = &event[BEFORE.len()..BEFORE.len() + 1];
            Event::Delta { index: 0, text, logprobs: None, finish_reason }
        };
        let finish = Some(crate::api::FinishReason::Stop);
        for events in
            [&[delta(None), Event::End][..], &[Event::End, delta(None)], &[delta(None), delta(None)], &[delta(finish)]]
        {
            let mut learned = Learned::new(100, true);
            let mut lesson = learned.lesson(Some(event.as_bytes()));
            events.iter().for_each(|event| lesson.hear(event));
            learned.learn(lesson, b"");
            assert!(learned.recognise(event.as_bytes()).is_none(), "{events:?}");
        }
    }

    #[test]
    fn events_that_never_repeat_are_not_learned_from_for_long() {
        let event = |i: u8| format!("{{\"at\":{i},\"text\":\"x\"}}\n");
        for (lessons, is_known) in [(PATIENCE, true), (PATIENCE + 1, false), (PATIENCE + 9, false)] {
            let mut learned = Learned::new(100, true);
            for i in 10..10 + lessons {
                assert!(learned.recognise(event(i).as_bytes()).is_none());
                teach(&mut learned, &event(i), 17..18);
            }
            let last = event(9 + lessons);
            assert_eq!(learned.recognise(last.as_bytes()).is_some(), is_known, "{lessons} lessons");
        }
    }
}
