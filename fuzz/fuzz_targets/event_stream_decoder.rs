//! The decoder of AWS's event streams over arbitrary bytes, bare, and as headers and payloads in messages whose
//! checksums are right. The first byte of the input is the length of the pieces.
#![no_main]

use completions_edge::framing::Framing;
use completions_edge_fuzz::check_deframer;
use crc::{CRC_32_ISO_HDLC, Crc};
use libfuzzer_sys::fuzz_target;

static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// A message with these headers and this payload, however wrong the headers are.
fn message(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = |length: usize| u32::try_from(length).expect("an input is short").to_be_bytes();
    let mut message = [length(16 + headers.len() + payload.len()), length(headers.len())].concat();
    message.extend(CRC32.checksum(&message).to_be_bytes());
    message.extend([headers, payload].concat());
    message.extend(CRC32.checksum(&message).to_be_bytes());
    message
}

fuzz_target!(|input: &[u8]| {
    let Some((&length, mut rest)) = input.split_first() else { return };
    check_deframer(Framing::EventStream, rest, length);
    let mut stream = Vec::new();
    while let [headers, payload, after @ ..] = rest {
        let (headers, after) = after.split_at(usize::from(*headers).min(after.len()));
        let (payload, after) = after.split_at(usize::from(*payload).min(after.len()));
        stream.extend(message(headers, payload));
        rest = after;
    }
    check_deframer(Framing::EventStream, &stream, length);
});
