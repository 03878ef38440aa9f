//! Just enough of HTTP/1.1 for a loopback benchmark: heads with a length or chunked framing, on kept-alive connections.

use std::io::{self, BufRead, Read};

/// No head of the programs measured here is longer; a longer one is a fault and must not fill memory.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The start line of a request or an answer, and how long its body is.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The request line or the status line, without its line end.
    pub start: String,
    /// How the body is framed.
    pub framing: Framing,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `content-length`; also a message that has no body.
    Length(usize),
    /// `transfer-encoding: chunked`.
    Chunked,
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads one head; `None` where the peer closed the connection between two messages.
pub fn read_head(input: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut text = Vec::with_capacity(512);
    let mut start_ends = 0;
    loop {
        let line_starts = text.len();
        input.read_until(b'\n', &mut text)?;
        if text.len() == line_starts {
            return if text.is_empty() { Ok(None) } else { Err(malformed("the connection ended inside a head")) };
        }
        if text.len() > MAX_HEAD_BYTES {
            return Err(malformed("the head is too long"));
        }
        if line_starts == 0 {
            start_ends = text.len();
        }
        if text[line_starts..].trim_ascii().is_empty() {
            break;
        }
    }

    let mut framing = Framing::Length(0);
    for line in text[start_ends..].split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            framing = Framing::Length(length.ok_or_else(|| malformed("content-length is no number"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            framing = Framing::Chunked;
            break;
        }
    }
    let start = String::from_utf8_lossy(text[..start_ends].trim_ascii()).into_owned();
    Ok(Some(Head { start, framing }))
}

/// A body without its framing. It reads from the connection's own buffer, so that counting events copies nothing, and it
/// ends only where the framing says so: a connection that closes earlier is an error.
#[derive(Debug)]
pub struct Body<'a, R> {
    input: &'a mut R,
    framing: Framing,
    /// Bytes left of the body (`Length`) or of the present chunk (`Chunked`).
    left: usize,
    /// A chunk's own line end stands between its bytes and the next size; before the first chunk there is none.
    in_chunk: bool,
    ended: bool,
}

impl<'a, R: BufRead> Body<'a, R> {
    /// The body that follows a head with this framing.
    pub fn new(input: &'a mut R, framing: Framing) -> Self {
        let left = match framing {
            Framing::Length(length) => length,
            Framing::Chunked => 0,
        };
        Self { input, framing, left, in_chunk: false, ended: false }
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::with_capacity(16);
        self.input.read_until(b'\n', &mut line)?;
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            Ok(line)
        } else {
            Err(malformed("the connection ended inside a chunk"))
        }
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        if self.in_chunk && !self.line()?.is_empty() {
            return Err(malformed("a chunk is longer than its size"));
        }
        let size = self.line()?;
        let digits = size.split(|&byte| byte == b';').next().unwrap_or_default();
        self.left = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok())
            .ok_or_else(|| malformed("a chunk's size is no number"))?;
        self.in_chunk = true;
        if self.left == 0 {
            self.ended = true;
            while !self.line()?.is_empty() {}
        }
        Ok(())
    }
}

impl<R: BufRead> BufRead for Body<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 && !self.ended {
            match self.framing {
                Framing::Length(_) => self.ended = true,
                Framing::Chunked => self.next_chunk()?,
            }
        }
        if self.ended {
            return Ok(&[]);
        }
        let bytes = self.input.fill_buf()?;
        if bytes.is_empty() {
            return Err(malformed("the connection ended inside a body"));
        }
        Ok(&bytes[..bytes.len().min(self.left)])
    }

    fn consume(&mut self, count: usize) {
        self.left -= count;
        self.input.consume(count);
    }
}

impl<R: BufRead> Read for Body<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(out.len());
        out[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(mut text: &[u8]) -> Head {
        read_head(&mut text).unwrap().unwrap()
    }

    fn body_of(mut text: &[u8], framing: Framing) -> io::Result<String> {
        let mut out = String::new();
        Body::new(&mut text, framing).read_to_string(&mut out)?;
        Ok(out)
    }

    #[test]
    fn a_head_tells_its_framing() {
        let head = head_of(b"POST /one HTTP/1.1\r\nContent-Length: 12\r\n\r\n");
        assert_eq!(head, Head { start: "POST /one HTTP/1.1".to_owned(), framing: Framing::Length(12) });
        assert_eq!(head_of(b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n").framing, Framing::Chunked);
        assert_eq!(head_of(b"HTTP/1.1 200 OK\r\n\r\n").framing, Framing::Length(0));
        assert_eq!(read_head(&mut b"".as_slice()).unwrap(), None);
        assert!(read_head(&mut b"HTTP/1.1 200".as_slice()).is_err());
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        assert_eq!(body_of(b"abcdef", Framing::Length(3)).unwrap(), "abc");
        assert_eq!(body_of(b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\nHTTP", Framing::Chunked).unwrap(), "abc");
    }

    #[test]
    fn a_truncated_body_is_an_error() {
        assert!(body_of(b"ab", Framing::Length(3)).is_err());
        assert!(body_of(b"2\r\nab\r\n", Framing::Chunked).is_err());
        assert!(body_of(b"2\r\nab\r\n0\r\n", Framing::Chunked).is_err());
        assert!(body_of(b"2\r\nabc\r\n0\r\n\r\n", Framing::Chunked).is_err());
    }
}
