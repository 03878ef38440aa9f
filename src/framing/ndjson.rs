//! Newline-delimited JSON, decoded incrementally: one JSON text a line, by <https://github.com/ndjson/ndjson-spec>.
//!
//! Lines end in LF or CRLF, and blank ones mean nothing. A CR alone ends no line: it is white space to JSON. Beyond the
//! specification a byte order mark is let pass, and a last line without its end is handed on, since whether it is whole
//! can be seen from its JSON.

use super::{BOM, Frame, FrameError};

/// Cuts a stream of bytes into lines. Output depends on the bytes alone, never on how they were split.
///
/// Invariants: `line` holds no LF; `line.len()` is at most `limit`.
#[derive(Debug)]
pub struct NdjsonDeframer {
    limit: usize,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// No line has been read yet, so that a byte order mark may stand before it.
    at_start: bool,
}

impl NdjsonDeframer {
    /// A deframer for lines of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, line: Vec::new(), at_start: true }
    }

    /// Takes bytes up to the end of the next line, hands that on, and returns the bytes after it; nothing if all bytes
    /// are taken and the line has not ended. A line that lies in them whole is handed on without a copy.
    pub fn next_frame<'a>(
        &mut self,
        bytes: &'a [u8],
        sink: impl FnOnce(Frame<'_>),
    ) -> Result<Option<&'a [u8]>, FrameError> {
        let mut rest = bytes;
        while let Some((line, after)) = split_line(rest) {
            rest = after;
            self.check(line)?;
            let carried = std::mem::take(&mut self.line);
            let line = if carried.is_empty() { line } else { &[&carried, line].concat() };
            match self.data_of(line) {
                [] => {}
                data => {
                    sink(Frame { event: b"", data });
                    return Ok(Some(rest));
                }
            }
        }
        self.check(rest)?;
        self.line.extend_from_slice(rest);
        Ok(None)
    }

    /// The stream has ended: the line that was begun may be whole, and only its reader can tell.
    pub fn finish(&mut self, sink: impl FnOnce(Frame<'_>)) {
        let line = std::mem::take(&mut self.line);
        match self.data_of(&line) {
            [] => {}
            data => sink(Frame { event: b"", data }),
        }
    }

    /// These bytes, if a line begins with them.
    #[must_use]
    pub fn frame_at<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        (!self.at_start && self.line.is_empty()).then_some(bytes)
    }

    /// How many bytes are held of a line that has begun; white space alone begins none.
    #[must_use]
    pub fn held(&self) -> usize {
        self.line.trim_ascii().len()
    }

    /// What a line carries; of a blank one nothing.
    fn data_of<'a>(&mut self, line: &'a [u8]) -> &'a [u8] {
        let line = if std::mem::take(&mut self.at_start) { line.strip_prefix(BOM).unwrap_or(line) } else { line };
        line.trim_ascii()
    }

    /// Whether the line that was begun is too long with what comes next of it.
    fn check(&self, next: &[u8]) -> Result<(), FrameError> {
        let length = self.line.len().saturating_add(next.len());
        if length > self.limit { Err(FrameError::TooLong { limit: self.limit }) } else { Ok(()) }
    }
}

/// The first line of `bytes` without its LF, and what comes after; `None` if no line ends here.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (line, rest) = bytes.split_at_checked(memchr::memchr(b'\n', bytes)?)?;
    Some((line, rest.strip_prefix(b"\n")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a stream that comes in these chunks.
    fn decode(chunks: &[&[u8]], limit: usize) -> Result<Vec<String>, FrameError> {
        let mut deframer = NdjsonDeframer::new(limit);
        let mut lines = Vec::new();
        let mut sink = |frame: Frame<'_>| {
            assert!(frame.event.is_empty());
            lines.push(String::from_utf8_lossy(frame.data).into_owned());
        };
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some(after) = deframer.next_frame(rest, &mut sink)? {
                rest = after;
            }
        }
        deframer.finish(&mut sink);
        Ok(lines)
    }

    /// Whole, byte by byte, and in every two parts, the stream has these lines.
    fn check(stream: &str, expected: &[&str]) {
        let bytes = stream.as_bytes();
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(&bytewise, 1024).unwrap(), expected, "byte by byte: {stream:?}");
        for middle in 0..=bytes.len() {
            let (a, b) = bytes.split_at(middle);
            assert_eq!(decode(&[a, b], 1024).unwrap(), expected, "split at {middle}: {stream:?}");
        }
    }

    #[test]
    fn a_frame_is_a_line() {
        check("{\"a\":1}\n{\"b\":\"é\"}\n", &["{\"a\":1}", "{\"b\":\"é\"}"]);
        check("", &[]);
    }

    #[test]
    fn pitfall_17_line_ends_and_blank_lines() {
        check("1\r\n2\n\n\r\n \t\n3\r\n", &["1", "2", "3"]);
        check("1\r2\n", &["1\r2"]);
    }

    #[test]
    fn pitfall_16_a_byte_order_mark_counts_once() {
        check("\u{feff}1\n2\n", &["1", "2"]);
        check("\u{feff}\n\u{feff}2", &["\u{feff}2"]);
    }

    #[test]
    fn pitfall_46_a_line_separator_in_text_splits_no_line() {
        check("\"a\u{2028}b\u{85}c\"\n", &["\"a\u{2028}b\u{85}c\""]);
    }

    #[test]
    fn pitfall_48_the_last_line_needs_no_end() {
        check("1\n2", &["1", "2"]);
        check("1\n2\r", &["1", "2"]);
    }

    #[test]
    fn pitfall_22_an_endless_line_ends_at_the_limit() {
        let line = [b'x'; 40];
        for chunk in [1, 3, 40] {
            let chunks: Vec<&[u8]> = line.chunks(chunk).collect();
            assert_eq!(decode(&chunks, 16), Err(FrameError::TooLong { limit: 16 }));
        }
        assert_eq!(decode(&[b"1234567890123456\n1234567890123456"], 16).unwrap().len(), 2);
        assert!(decode(&[b"12345678901234567\n"], 16).is_err());
    }

    #[test]
    fn a_line_is_handed_on_alone_and_what_follows_it_given_back() {
        let mut deframer = NdjsonDeframer::new(64);
        let rest = deframer.next_frame(b"\n1\n2\n", |frame| assert_eq!(frame.data, b"1"));
        assert_eq!(rest, Ok(Some(&b"2\n"[..])));
    }
}
