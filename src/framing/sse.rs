//! Server-Sent Events, decoded incrementally, by <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
//!
//! What real upstreams do, and the standard allows: lines that end in LF, CR or CRLF, mixed, and a CRLF cut in two by
//! the network; `data:` without its space; comments; blocks without data; a byte order mark; several `data:` lines in
//! one event. Two things go beyond the standard. An event without its blank line at the end of the stream is handed
//! on, since servers do forget it and whether it is whole can be seen from its data. A field `error:` counts as data
//! of an event called `error`: llama.cpp's server sends its errors so.
//!
//! Data stays bytes: a byte that is not UTF-8 is the concern of whoever reads the event, and cannot stop the stream.

use super::{BOM, Frame, FrameError};

/// Cuts a stream of bytes into events. Output depends on the bytes alone, never on how they were split.
///
/// Invariants: `line` holds no line end; `data` and `event` belong to the event that is being read; `line.len()` and
/// `data.len()` are at most `limit`.
#[derive(Clone, Debug)]
pub struct SseDeframer {
    limit: usize,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The data lines of the current event, as far as they are not in the chunk at hand.
    data: Vec<u8>,
    has_data: bool,
    event: Vec<u8>,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// No line has been read yet, so that a byte order mark may stand before it.
    at_start: bool,
}

/// One line's meaning.
enum Line<'a> {
    Blank,
    Data(&'a [u8]),
    Event(&'a [u8]),
    Error(&'a [u8]),
    /// A comment, an `id`, a `retry`, or a field that nobody knows.
    Other,
}

impl SseDeframer {
    /// A deframer for events of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            event: Vec::new(),
            after_cr: false,
            at_start: true,
        }
    }

    /// Takes bytes up to the end of the next event, hands that on, and returns the bytes after it; nothing if all bytes
    /// are taken and the event has not ended. An event that lies in them whole is handed on without a copy.
    pub fn next_frame<'a>(
        &mut self,
        bytes: &'a [u8],
        sink: impl FnOnce(Frame<'_>),
    ) -> Result<Option<&'a [u8]>, FrameError> {
        // The event's only data line so far, where it still lies in `bytes`.
        let mut whole: Option<&[u8]> = None;
        let mut rest = bytes;
        loop {
            if self.after_cr && !rest.is_empty() {
                self.after_cr = false;
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            let Some((line, end, after)) = split_line(rest) else { break };
            rest = after;
            self.after_cr = end == b'\r';
            self.check(self.line.len().saturating_add(line.len()))?;
            let is_end = if self.line.is_empty() {
                self.take_line(line, &mut whole)?
            } else {
                let mut carried = std::mem::take(&mut self.line);
                carried.extend_from_slice(line);
                // This line does not lie in `bytes`: its data is copied at once.
                let mut own = None;
                let is_end = self.take_line(&carried, &mut own)?;
                self.spill(&mut own)?;
                carried.clear();
                self.line = carried;
                is_end
            };
            if is_end {
                self.hand_on(whole, sink);
                return Ok(Some(rest));
            }
        }
        self.spill(&mut whole)?;
        self.check(self.line.len().saturating_add(rest.len()))?;
        self.line.extend_from_slice(rest);
        Ok(None)
    }

    /// The stream has ended. What was begun is handed on: it may be whole, and only its reader can tell.
    pub fn finish(&mut self, sink: impl FnOnce(Frame<'_>)) -> Result<(), FrameError> {
        let line = std::mem::take(&mut self.line);
        let mut own = None;
        if !line.is_empty() {
            self.take_line(&line, &mut own)?;
        }
        if self.has_data || own.is_some() {
            self.hand_on(own, sink);
        }
        Ok(())
    }

    /// The bytes from where the next event begins, if none has begun.
    #[must_use]
    pub fn frame_at<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if self.at_start || self.has_data || !self.line.is_empty() || !self.event.is_empty() {
            return None;
        }
        Some(if self.after_cr { bytes.strip_prefix(b"\n").unwrap_or(bytes) } else { bytes })
    }

    /// Takes a whole event, from where it begins, without handing it on.
    pub fn pass_over(&mut self, event: &[u8]) {
        self.after_cr = event.ends_with(b"\r");
    }

    /// How many bytes are held of an event's data: of an event that comes slowly, ever more. Comments are none.
    #[must_use]
    pub fn held(&self) -> usize {
        let is_data = self.line.starts_with(b"data") || self.line.starts_with(b"error");
        self.data.len().saturating_add(if is_data { self.line.len() } else { 0 })
    }

    /// Takes a line; whether it ends an event. One without data is no event.
    fn take_line<'a>(&mut self, line: &'a [u8], whole: &mut Option<&'a [u8]>) -> Result<bool, FrameError> {
        let line = if std::mem::take(&mut self.at_start) { line.strip_prefix(BOM).unwrap_or(line) } else { line };
        match parse(line) {
            Line::Data(value) => self.take_data(value, whole)?,
            Line::Error(value) => {
                self.event.clear();
                self.event.extend_from_slice(b"error");
                self.take_data(value, whole)?;
            }
            Line::Event(name) => {
                self.event.clear();
                self.event.extend_from_slice(name);
            }
            Line::Other => {}
            Line::Blank if self.has_data || whole.is_some() => return Ok(true),
            Line::Blank => self.event.clear(),
        }
        Ok(false)
    }

    /// Hands on the event that has ended; `whole` is its data where that has not been copied.
    fn hand_on(&mut self, whole: Option<&[u8]>, sink: impl FnOnce(Frame<'_>)) {
        sink(Frame { event: &self.event, data: whole.unwrap_or(&self.data) });
        self.has_data = false;
        self.data.clear();
        self.event.clear();
    }

    fn take_data<'a>(&mut self, value: &'a [u8], whole: &mut Option<&'a [u8]>) -> Result<(), FrameError> {
        if whole.is_none() && !self.has_data {
            *whole = Some(value);
            return Ok(());
        }
        self.spill(whole)?;
        *whole = Some(value);
        self.spill(whole)
    }

    /// Moves a data line out of the chunk into `data`, joined to those before it by a line feed.
    fn spill(&mut self, whole: &mut Option<&[u8]>) -> Result<(), FrameError> {
        let Some(value) = whole.take() else { return Ok(()) };
        self.check(self.data.len().saturating_add(value.len()).saturating_add(1))?;
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
        Ok(())
    }

    fn check(&self, length: usize) -> Result<(), FrameError> {
        if length > self.limit { Err(FrameError::TooLong { limit: self.limit }) } else { Ok(()) }
    }
}

/// The first line of `bytes`, the byte that ends it, and what comes after; `None` if no line ends here.
fn split_line(bytes: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let end = memchr::memchr2(b'\n', b'\r', bytes)?;
    let (line, rest) = bytes.split_at_checked(end)?;
    let (&end, after) = rest.split_first()?;
    Some((line, end, after))
}

fn parse(line: &[u8]) -> Line<'_> {
    if line.is_empty() {
        return Line::Blank;
    }
    let field = |name: &[u8]| -> Option<&[u8]> {
        match line.strip_prefix(name)? {
            [] => Some(&[]),
            [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
            _ => None,
        }
    };
    if let Some(value) = field(b"data") {
        Line::Data(value)
    } else if let Some(name) = field(b"event") {
        Line::Event(name)
    } else if let Some(value) = field(b"error") {
        Line::Error(value)
    } else {
        Line::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Events = Vec<(String, String)>;

    /// The events of a stream that comes in these chunks.
    fn decode(chunks: &[&[u8]], limit: usize) -> Result<Events, FrameError> {
        let mut deframer = SseDeframer::new(limit);
        let mut events = Events::new();
        let mut sink = |frame: Frame<'_>| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            events.push((text(frame.event), text(frame.data)));
        };
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some(after) = deframer.next_frame(rest, &mut sink)? {
                rest = after;
            }
        }
        deframer.finish(&mut sink)?;
        Ok(events)
    }

    /// Whole, byte by byte, and in every two parts, the stream has these events.
    fn check(stream: &str, expected: &[(&str, &str)]) {
        check_bytes(stream.as_bytes(), expected);
    }

    fn check_bytes(stream: &[u8], expected: &[(&str, &str)]) {
        let expected: Events = expected.iter().map(|(event, data)| ((*event).into(), (*data).into())).collect();
        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(decode(&bytewise, 1024).unwrap(), expected, "byte by byte: {stream:?}");
        for middle in 0..=stream.len() {
            let (a, b) = stream.split_at(middle);
            assert_eq!(decode(&[a, b], 1024).unwrap(), expected, "split at {middle}: {stream:?}");
        }
    }

    #[test]
    fn an_event_is_its_data() {
        check("data: a\n\ndata: b\n\n", &[("", "a"), ("", "b")]);
        check("event: x\ndata: a\n\ndata: b\n\n", &[("x", "a"), ("", "b")]);
        check("data: a\ndata: b\n\n", &[("", "a\nb")]);
        check("data\n\ndata:\n\n", &[("", ""), ("", "")]);
    }

    #[test]
    fn pitfall_17_line_ends_of_every_kind() {
        check("data: a\r\n\r\ndata: b\r\n\r\n", &[("", "a"), ("", "b")]);
        check("data: a\r\rdata: b\r\r", &[("", "a"), ("", "b")]);
        check("data: a\r\n\ndata: b\n\rdata: c\r\r\n", &[("", "a"), ("", "b"), ("", "c")]);
    }

    #[test]
    fn pitfall_17_a_blank_crlf_line_ends_its_event_at_the_cr() {
        let mut deframer = SseDeframer::new(64);
        let rest = deframer.next_frame(b"data: a\r\n\r", |frame| assert_eq!(frame.data, b"a"));
        assert_eq!(rest, Ok(Some(&b""[..])), "the event is whole, and nothing is held back for the LF");
    }

    #[test]
    fn pitfall_18_no_space_comments_and_blocks_without_data() {
        check("data:a\n\n", &[("", "a")]);
        check("data:  a\n\n", &[("", " a")]);
        check(": keepalive\n\ndata: a\n: between\n\n:\n\n", &[("", "a")]);
        check("event: ping\n\ndata: a\n\n", &[("", "a")]);
        check("id: 7\nretry: 10\nname: x\ndatum: y\ndata: a\n\n", &[("", "a")]);
    }

    #[test]
    fn pitfall_16_a_byte_order_mark_counts_once() {
        check("\u{feff}data: a\n\n", &[("", "a")]);
        check("\u{feff}\u{feff}data: a\n\ndata: b\n\n", &[("", "b")]);
    }

    #[test]
    fn pitfall_16_bytes_that_are_no_utf8_stop_nothing() {
        check_bytes(b"data: \xff\n\ndata: b\n\n", &[("", "\u{fffd}"), ("", "b")]);
    }

    #[test]
    fn pitfall_46_a_line_separator_in_text_splits_no_line() {
        check("data: a\u{2028}b\u{85}c\n\n", &[("", "a\u{2028}b\u{85}c")]);
    }

    #[test]
    fn pitfall_48_the_last_event_needs_no_blank_line() {
        check("data: a\n\ndata: b\n", &[("", "a"), ("", "b")]);
        check("data: a\n\ndata: b", &[("", "a"), ("", "b")]);
        check("data: a\r", &[("", "a")]);
    }

    #[test]
    fn an_error_field_is_data_of_an_error_event() {
        check("error: {\"code\":500}\n\n", &[("error", "{\"code\":500}")]);
    }

    #[test]
    fn pitfall_22_an_endless_line_or_event_ends_at_the_limit() {
        let too_long = Err(FrameError::TooLong { limit: 16 });
        for chunk in [1, 3, 40] {
            let line = [b'x'; 40];
            assert_eq!(decode(&line.chunks(chunk).collect::<Vec<_>>(), 16), too_long);
            let event = "data: 1234567\n".repeat(3);
            assert_eq!(decode(&event.as_bytes().chunks(chunk).collect::<Vec<_>>(), 16), too_long);
        }
        assert_eq!(decode(&[b"data: 1234567890\n\n"], 16).unwrap().len(), 1);
    }

    #[test]
    fn an_event_is_handed_on_alone_and_what_follows_it_given_back() {
        let mut deframer = SseDeframer::new(64);
        let rest = deframer.next_frame(b"data: 1\n\ndata: 2\n\n", |frame| assert_eq!(frame.data, b"1"));
        assert_eq!(rest, Ok(Some(&b"data: 2\n\n"[..])));
    }

    #[test]
    fn passing_over_an_event_is_reading_it() {
        let ends = ["\n\n", "\r\n\r\n", "\r\r"];
        for (first_end, end) in ends.iter().flat_map(|first| ends.map(|end| (first, end))) {
            let event = format!("event: x\ndata: 2{end}");
            let stream = format!("data: 1{first_end}{event}{event}");
            let mut deframer = SseDeframer::new(64);
            assert_eq!(deframer.frame_at(stream.as_bytes()), None, "a byte order mark may come");
            let rest = deframer.next_frame(stream.as_bytes(), |_| ()).unwrap().unwrap();
            let (second, mut other) = (deframer.frame_at(rest).unwrap(), deframer.clone());
            let rest = deframer.next_frame(rest, |frame| assert_eq!(frame.data, b"2")).unwrap().unwrap();
            other.pass_over(&second[..second.len() - rest.len()]);
            assert_eq!(format!("{deframer:?}"), format!("{other:?}"));
            assert!(deframer.frame_at(rest).unwrap().starts_with(b"event"));
        }
    }

    #[test]
    fn no_event_begins_within_another() {
        for begun in ["d", "data: a", "data: a\n", "event: x\n", "event"] {
            let mut deframer = SseDeframer::new(64);
            deframer.next_frame(b":\n\n", |_| ()).unwrap();
            assert_eq!(deframer.frame_at(b"x"), Some(&b"x"[..]));
            deframer.next_frame(begun.as_bytes(), |_| ()).unwrap();
            assert_eq!(deframer.frame_at(b"x"), None, "{begun}");
        }
    }

    #[test]
    fn what_is_held_of_an_event_grows_with_its_data_and_with_nothing_else() {
        let mut deframer = SseDeframer::new(1000);
        let mut grows = |bytes: &[u8]| {
            let held = deframer.held();
            deframer.next_frame(bytes, |_| ()).unwrap();
            deframer.held() > held
        };
        for silence in [&b":"[..], b" ping", b"\n\n", b": ping\n\n", b"event: p", b"ing\n\n", b"id: 1\n"] {
            assert!(!grows(silence), "{}", silence.escape_ascii());
        }
        for data in [&b"data"[..], b":", b" ", b"x", b"y\ndata: z"] {
            assert!(grows(data), "{}", data.escape_ascii());
        }
    }
}
