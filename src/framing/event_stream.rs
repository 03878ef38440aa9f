//! AWS event streams (`application/vnd.amazon.eventstream`), decoded incrementally, by
//! <https://smithy.io/2.0/aws/amazon-eventstream.html>.
//!
//! A message is, with numbers in big-endian order: its whole length (u32), the length of its headers (u32), the CRC-32
//! of these two (u32), headers, payload, and the CRC-32 of all that (u32). The lengths are believed only after their
//! checksum, and a message over the limit is refused before any more of it is held.
//!
//! The frame of an event is called by `:event-type`, that of an exception by `:exception-type`, whose names end in
//! `Exception`; both have the payload for data. An error that the service has not modelled (`:message-type: error`) has
//! no payload: its frame is called `error`, and its data is `:error-code`, a line feed, and `:error-message`.

use crc::{CRC_32_ISO_HDLC, Crc};

use super::{Frame, FrameError};

static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Of the two lengths and their checksum.
const PRELUDE: usize = 12;
/// What a message has besides headers and payload.
const OVERHEAD: usize = PRELUDE + 4;

/// Cuts a stream of bytes into messages. Output depends on the bytes alone, never on how they were split.
///
/// Invariant: `begun` is shorter than the message that it begins, which is at most `limit` bytes long.
#[derive(Debug)]
pub struct EventStreamDeframer {
    limit: usize,
    /// The beginning of a message whose end has not come yet.
    begun: Vec<u8>,
}

impl EventStreamDeframer {
    /// A deframer for messages of at most `limit` bytes, all included.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, begun: Vec::new() }
    }

    /// Takes bytes up to the end of the next message, hands that on, and returns the bytes after it; nothing if all
    /// bytes are taken and the message has not ended. One that lies in them whole is handed on without a copy.
    pub fn next_frame<'a>(
        &mut self,
        bytes: &'a [u8],
        sink: impl FnOnce(Frame<'_>),
    ) -> Result<Option<&'a [u8]>, FrameError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let missing = self.length(if self.begun.is_empty() { rest } else { &self.begun })?;
            let missing = missing.saturating_sub(self.begun.len());
            let Some((part, after)) = rest.split_at_checked(missing) else { break };
            rest = after;
            if self.begun.is_empty() {
                read(part, sink)?;
                return Ok(Some(rest));
            }
            self.begun.extend_from_slice(part);
            // It may have been the prelude alone.
            if self.length(&self.begun)? <= self.begun.len() {
                read(&self.begun, sink)?;
                self.begun.clear();
                return Ok(Some(rest));
            }
        }
        self.begun.extend_from_slice(rest);
        Ok(None)
    }

    /// The stream has ended. A message that it cut in two is handed on as the bytes that there are of it, without a
    /// name: no service sends that, so that a decoder can tell it from every whole message.
    pub fn finish(&mut self, sink: impl FnOnce(Frame<'_>)) {
        let begun = std::mem::take(&mut self.begun);
        if !begun.is_empty() {
            sink(Frame { event: b"", data: &begun });
        }
    }

    /// How many bytes are held of a message that has begun.
    #[must_use]
    pub fn held(&self) -> usize {
        self.begun.len()
    }

    /// How long the message is that begins so, or its prelude as long as that has not come.
    fn length(&self, bytes: &[u8]) -> Result<usize, FrameError> {
        let Some((prelude, _)) = bytes.split_first_chunk::<PRELUDE>() else { return Ok(PRELUDE) };
        let (total, headers) = lengths(prelude)?;
        if total < OVERHEAD.saturating_add(headers) {
            Err(FrameError::Corrupt)
        } else if total > self.limit {
            Err(FrameError::TooLong { limit: self.limit })
        } else {
            Ok(total)
        }
    }
}

/// The lengths of a message and of its headers, once their checksum has shown that they are lengths.
fn lengths(prelude: &[u8; PRELUDE]) -> Result<(usize, usize), FrameError> {
    let (lengths, checksum) = prelude.split_at(8);
    let (total, headers) = lengths.split_at(4);
    if CRC32.checksum(lengths) == number(checksum) {
        let length = |bytes| usize::try_from(number(bytes)).map_err(|_| FrameError::Corrupt);
        Ok((length(total)?, length(headers)?))
    } else {
        Err(FrameError::Corrupt)
    }
}

/// Hands on a whole message.
fn read(message: &[u8], sink: impl FnOnce(Frame<'_>)) -> Result<(), FrameError> {
    let (checked, checksum) = message.split_last_chunk::<4>().ok_or(FrameError::Corrupt)?;
    let (prelude, content) = checked.split_first_chunk::<PRELUDE>().ok_or(FrameError::Corrupt)?;
    if CRC32.checksum(checked) != number(checksum) {
        return Err(FrameError::Corrupt);
    }
    let (_, length) = lengths(prelude)?;
    let (headers, payload) = content.split_at_checked(length).ok_or(FrameError::Corrupt)?;
    let headers = Headers::read(headers).ok_or(FrameError::Corrupt)?;
    match headers.message_type {
        b"exception" => sink(Frame { event: headers.exception_type, data: payload }),
        b"error" => {
            let data = [headers.error_code, headers.error_message].join(&b'\n');
            sink(Frame { event: b"error", data: &data });
        }
        _ => sink(Frame { event: headers.event_type, data: payload }),
    }
    Ok(())
}

/// The headers that tell what a message is; empty where it has none of the name.
#[derive(Default)]
struct Headers<'a> {
    message_type: &'a [u8],
    event_type: &'a [u8],
    exception_type: &'a [u8],
    error_code: &'a [u8],
    error_message: &'a [u8],
}

impl<'a> Headers<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (mut headers, mut rest) = (Self::default(), bytes);
        while !rest.is_empty() {
            let (name, value, after) = header(rest)?;
            rest = after;
            match name {
                b":message-type" => headers.message_type = value,
                b":event-type" => headers.event_type = value,
                b":exception-type" => headers.exception_type = value,
                b":error-code" => headers.error_code = value,
                b":error-message" => headers.error_message = value,
                _ => {}
            }
        }
        Some(headers)
    }
}

/// The first header's name and value, and what comes after; `None` if this is no header.
fn header(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(length))?;
    let (&kind, rest) = rest.split_first()?;
    let (length, rest) = match kind {
        // True and false have no value but their kind.
        0 | 1 => (0, rest),
        // Whole numbers of 8 to 64 bits.
        2 => (1, rest),
        3 => (2, rest),
        4 => (4, rest),
        // A time is a whole number too.
        5 | 8 => (8, rest),
        // Bytes, or text.
        6 | 7 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        // A UUID.
        9 => (16, rest),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((name, value, rest))
}

/// A number of at most four bytes.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Events = Vec<(String, String)>;

    const CONVERSE: &[u8] = include_bytes!("testdata/converse-stream.bin");
    const INVOKE: &[u8] = include_bytes!("testdata/invoke-stream.bin");
    const THROTTLED: &[u8] = include_bytes!("testdata/throttling-exception.bin");

    /// The events of a stream that comes in these chunks, and what became of it.
    fn decode(chunks: &[&[u8]], limit: usize) -> (Events, Result<(), FrameError>) {
        let mut deframer = EventStreamDeframer::new(limit);
        let mut events = Events::new();
        let mut sink = |frame: Frame<'_>| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            events.push((text(frame.event), text(frame.data)));
        };
        let fed = chunks.iter().try_for_each(|chunk| {
            let mut rest = *chunk;
            while let Some(after) = deframer.next_frame(rest, &mut sink)? {
                rest = after;
            }
            Ok(())
        });
        if fed.is_ok() {
            deframer.finish(&mut sink);
        }
        (events, fed)
    }

    /// Whole, byte by byte, and in every two parts, the stream has these events and this end.
    fn check(stream: &[u8], limit: usize, expected: &[(&str, &str)], end: Result<(), FrameError>) {
        let events: Events = expected.iter().map(|(event, data)| ((*event).into(), (*data).into())).collect();
        let expected = (events, end);
        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(decode(&bytewise, limit), expected, "byte by byte");
        for middle in 0..=stream.len() {
            let (a, b) = stream.split_at(middle);
            assert_eq!(decode(&[a, b], limit), expected, "split at {middle}");
        }
    }

    fn message(headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).unwrap().to_be_bytes();
        let content = [headers, payload].concat();
        let mut message = [length(content.len().saturating_add(OVERHEAD)), length(headers.len())].concat();
        message.extend(CRC32.checksum(&message).to_be_bytes());
        message.extend(content);
        message.extend(CRC32.checksum(&message).to_be_bytes());
        message
    }

    fn text_header(name: &str, value: &str) -> Vec<u8> {
        let (n, v) = (u8::try_from(name.len()).unwrap(), u16::try_from(value.len()).unwrap());
        [&[n], name.as_bytes(), &[7], &v.to_be_bytes(), value.as_bytes()].concat()
    }

    #[test]
    fn real_streams() {
        check(
            CONVERSE,
            1024,
            &[
                ("messageStart", r#"{"p":"abcdefghijk","role":"assistant"}"#),
                ("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"Hello \u00e9"},"p":"abcd"}"#),
                ("contentBlockStop", r#"{"contentBlockIndex":0,"p":"ab"}"#),
                ("messageStop", r#"{"p":"abc","stopReason":"end_turn"}"#),
                (
                    "metadata",
                    r#"{"metrics":{"latencyMs":405},"p":"abcdef","usage":{"inputTokens":8,"outputTokens":3,"totalTokens":11}}"#,
                ),
            ],
            Ok(()),
        );
        let expected = r#"{"message":"Too many requests, please wait before trying again."}"#;
        check(THROTTLED, 1024, &[("throttlingException", expected)], Ok(()));
        let (events, end) = decode(&[INVOKE], 1024);
        assert_eq!((events.len(), end), (2, Ok(())));
        assert!(events.iter().all(|(event, data)| event == "chunk" && data.starts_with("{\"bytes\":\"ey")));
    }

    #[test]
    fn headers_of_every_kind_are_skipped() {
        let others: &[&[u8]] = &[
            b"\x01a\x00",
            b"\x01b\x01",
            b"\x01c\x02\xff",
            b"\x01d\x03\xff\xff",
            b"\x01e\x04\xff\xff\xff\xff",
            b"\x01f\x05\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01g\x06\x00\x03\xff\xff\xff",
            b"\x01h\x08\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01i\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x00\x07\x00\x00",
        ];
        let headers = [others.concat(), text_header(":event-type", "x"), others.concat()].concat();
        check(&message(&headers, b"data"), 1024, &[("x", "data")], Ok(()));
        check(&message(b"", b""), 16, &[("", "")], Ok(()));
    }

    #[test]
    fn an_error_that_is_not_modelled_is_in_the_headers() {
        let headers = [
            text_header(":message-type", "error"),
            text_header(":error-code", "InternalFailure"),
            text_header(":error-message", "It broke."),
        ];
        check(&message(&headers.concat(), b""), 1024, &[("error", "InternalFailure\nIt broke.")], Ok(()));
    }

    #[test]
    fn a_damaged_message_is_no_message() {
        let good = message(&text_header(":event-type", "x"), b"data");
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            check(&[good.as_slice(), &bad].concat(), 1024, &[("x", "data")], Err(FrameError::Corrupt));
        }
        check(b"{\"message\":\"not an event stream\"}", 1024, &[], Err(FrameError::Corrupt));
        // No header of this kind, and one that is cut off.
        check(&message(b"\x01a\x0a", b""), 1024, &[], Err(FrameError::Corrupt));
        check(&message(b"\x01a\x07\x00\x05abc", b""), 1024, &[], Err(FrameError::Corrupt));
    }

    #[test]
    fn impossible_lengths_are_refused_at_the_prelude() {
        for lengths in [[0_u32, 0], [15, 0], [20, 5], [20, u32::MAX]] {
            let mut prelude = lengths.map(u32::to_be_bytes).concat();
            prelude.extend(CRC32.checksum(&prelude).to_be_bytes());
            check(&prelude, 1024, &[], Err(FrameError::Corrupt));
        }
    }

    #[test]
    fn pitfall_22_a_message_over_the_limit_is_refused_at_the_prelude() {
        let long = message(b"", &[b'x'; 49]);
        check(&long, 65, &[("", &"x".repeat(49))], Ok(()));
        check(&long, 64, &[], Err(FrameError::TooLong { limit: 64 }));
        check(&long[..PRELUDE], 64, &[], Err(FrameError::TooLong { limit: 64 }));
    }

    #[test]
    fn pitfall_41_a_message_that_is_cut_in_two_is_no_event() {
        let good = message(&text_header(":event-type", "x"), b"data");
        for length in 1..good.len() {
            let stream = [good.as_slice(), &good[..length]].concat();
            let (events, end) = decode(&[&stream], 1024);
            assert_eq!((events.len(), events[0].0.as_str(), events[1].0.as_str(), end), (2, "x", "", Ok(())));
        }
    }

    #[test]
    fn a_message_is_handed_on_alone_and_what_follows_it_given_back() {
        let [one, two] = [message(b"", b"1"), message(b"", b"2")];
        let stream = [one, two.clone()].concat();
        let rest = EventStreamDeframer::new(64).next_frame(&stream, |frame| assert_eq!(frame.data, b"1"));
        assert_eq!(rest, Ok(Some(&two[..])));
    }
}
