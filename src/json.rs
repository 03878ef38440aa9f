//! The one way in which bytes are read as JSON: as text. `serde_json` reads bytes and texts by two readers, and each is a
//! copy of the code that reads every type, in a bundle whose size has a bound. Beside it, what is appended to JSON that is
//! written piece by piece.

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use crate::hex::hex;

/// Reads a value that may borrow from the bytes. Bytes that are not UTF-8 are no JSON.
pub(crate) fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_str(std::str::from_utf8(bytes).map_err(serde_json::Error::custom)?)
}

/// Appends a value. A `Vec` takes every write, and plain data always serializes.
pub(crate) fn write_value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let _ = serde_json::to_writer(out, value);
}

/// So many bytes of a text are looked at in one step, as one number. For wasm32 the compiler takes an array of bytes apart,
/// byte by byte, though natively it makes one instruction of it.
const BLOCK: usize = 8;

/// Appends a text. The same as `serde_json` writes, which looks at each byte by itself and takes four times as long for
/// a completion.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some((plain, tail)) = rest.split_at_checked(plain_bytes(rest)) {
        out.extend_from_slice(plain);
        let Some((byte, tail)) = tail.split_first() else { break };
        escape(out, *byte);
        rest = tail;
    }
    out.push(b'"');
}

/// An object in the making: what `serde_json` writes, but its names and texts block by block. To look for escapes in each byte
/// of each name makes half of what a line of the log costs.
#[derive(Debug)]
pub(crate) struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    /// An object without fields.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Writes a name; its value, which is appended to what is returned, has to follow.
    pub(crate) fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        write_text(&mut self.0, name);
        self.0.push(b':');
        &mut self.0
    }

    /// Writes a text, or null.
    pub(crate) fn text(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        let out = self.name(name);
        match text {
            Some(text) => write_text(out, text),
            None => out.extend_from_slice(b"null"),
        }
        self
    }

    /// Writes anything else.
    pub(crate) fn value<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> &mut Self {
        write_value(self.name(name), value);
        self
    }

    /// The object, as JSON.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }
}

const fn is_escaped(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// The same byte, eight times.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; BLOCK])
}

/// Whether none of the bytes is escaped.
const fn is_plain(block: [u8; BLOCK]) -> bool {
    let block = u64::from_le_bytes(block);
    (any_below(block, b' ') | any_below(block ^ each(b'"'), 1) | any_below(block ^ each(b'\\'), 1)) == 0
}

/// Not 0 if one of the bytes is below `limit`, which is at most 128. A byte below it borrows when it is subtracted, and has
/// its highest bit set then, which it had not before. The lowest such byte is always found, since nothing has borrowed from
/// it; what is wrongly found lies above one, so that the answer for all of them together is right.
const fn any_below(block: u64, limit: u8) -> u64 {
    block.wrapping_sub(each(limit)) & !block & each(0x80)
}

/// How many bytes at the beginning stand for themselves.
fn plain_bytes(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let sure = blocks.iter().take_while(|block| is_plain(**block)).count().saturating_mul(BLOCK);
    let rest = bytes.get(sure..).unwrap_or_default();
    sure.saturating_add(rest.iter().position(|byte| is_escaped(*byte)).unwrap_or(rest.len()))
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    let letter = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0C => b'f',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(hex(&[byte]).as_bytes());
            return;
        }
    };
    out.extend_from_slice(&[b'\\', letter]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) {
        let mut written = b"before".to_vec();
        write_text(&mut written, text);
        assert_eq!(String::from_utf8(written).unwrap(), format!("before{}", serde_json::to_string(text).unwrap()));
    }

    #[test]
    fn every_byte_at_every_place_of_a_block() {
        for byte in 0..=0x7F_u8 {
            for at in 0..=2 * BLOCK {
                check(&format!("{}{}{}", "a".repeat(at), char::from(byte), "z".repeat(BLOCK)));
            }
        }
    }

    proptest! {
        #[test]
        fn a_text_is_written_as_serde_json_does(text in "(\\PC|[\\x00-\\x7f]|\\n){0,80}") {
            check(&text);
        }
    }
}
