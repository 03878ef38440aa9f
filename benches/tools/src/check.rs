//! What an answer must hold to be counted. A target that answers fast and wrong must not win.

use std::io::{self, BufRead};

use crate::script::contains;

/// The answer that a request must get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// One completion object with its usage.
    Completion,
    /// Server-sent events: this many with JSON, then `[DONE]`, then nothing.
    Stream {
        /// Events before `[DONE]`.
        events: usize,
    },
    /// This text and nothing else.
    Says(String),
}

/// What has just come.
#[derive(Debug, Clone, Copy)]
pub enum Moment<'a> {
    /// The first bytes of the body.
    FirstBytes,
    /// An event of a stream, as its line.
    Event(&'a [u8]),
}

impl Expected {
    /// Reads the body to its end; `seen` is told what comes, when it comes.
    pub fn check(&self, body: &mut impl BufRead, mut seen: impl FnMut(Moment)) -> io::Result<()> {
        body.fill_buf()?;
        seen(Moment::FirstBytes);
        match self {
            Self::Completion => check_completion(body),
            Self::Stream { events } => check_stream(body, *events, seen),
            Self::Says(text) => check_text(body, text),
        }
    }
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn check_completion(body: &mut impl BufRead) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4096);
    body.read_to_end(&mut bytes)?;
    for part in [br#""object":"text_completion""#.as_slice(), br#""finish_reason":"stop""#, br#""total_tokens":206"#] {
        if !contains(&bytes, part) {
            return Err(wrong(format!("no completion: {}", String::from_utf8_lossy(&bytes))));
        }
    }
    Ok(())
}

fn check_text(body: &mut impl BufRead, expected: &str) -> io::Result<()> {
    let mut text = String::new();
    body.read_to_string(&mut text)?;
    if text == expected { Ok(()) } else { Err(wrong(format!("not {expected:?}: {text}"))) }
}

fn check_stream(body: &mut impl BufRead, expected: usize, mut seen: impl FnMut(Moment)) -> io::Result<()> {
    let mut events = 0;
    let mut done = false;
    let mut line = Vec::with_capacity(512);
    loop {
        line.clear();
        if body.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        // Empty lines end events, and lines that begin with a colon are keepalives.
        if line == b"\n" || line.starts_with(b":") {
            continue;
        }
        if done {
            return Err(wrong("a line after [DONE]"));
        }
        if line == b"data: [DONE]\n" {
            done = true;
        } else if line.starts_with(b"data: {") && !line.starts_with(br#"data: {"error""#) {
            events += 1;
            seen(Moment::Event(&line));
        } else {
            return Err(wrong(format!("not an event: {}", String::from_utf8_lossy(&line))));
        }
    }
    if !done {
        return Err(wrong(format!("the stream ended after {events} events without [DONE]")));
    }
    if events != expected {
        return Err(wrong(format!("{events} events where {expected} were due")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(events: usize, text: &str) -> io::Result<()> {
        Expected::Stream { events }.check(&mut text.as_bytes(), |_| ())
    }

    #[test]
    fn a_stream_needs_its_events_and_its_end() {
        assert!(stream(1, "data: {}\n\n: keepalive\n\ndata: [DONE]\n\n").is_ok());
        assert!(stream(2, "data: {}\n\ndata: [DONE]\n\n").is_err());
        assert!(stream(1, "data: {}\n\n").is_err());
        assert!(stream(1, "data: [DONE]\n\ndata: {}\n\n").is_err());
        assert!(stream(1, "data: {\"error\":{}}\n\ndata: [DONE]\n\n").is_err());
        assert!(stream(0, "<html>\n").is_err());
    }

    #[test]
    fn a_text_is_the_whole_text() {
        let says = |mut text: &[u8]| Expected::Says("done".to_owned()).check(&mut text, |_| ());
        assert!(says(b"done").is_ok());
        assert!(says(b"done, nearly").is_err());
        assert!(says(b"").is_err());
    }

    #[test]
    fn a_completion_needs_its_usage() {
        let check = |mut text: &[u8]| Expected::Completion.check(&mut text, |_| ());
        assert!(check(br#"{"object":"text_completion","finish_reason":"stop","total_tokens":206}"#).is_ok());
        assert!(check(br#"{"error":{}}"#).is_err());
    }
}
