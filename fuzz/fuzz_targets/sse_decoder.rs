//! The SSE decoder over arbitrary bytes. The first byte of the input is the length of the pieces.
#![no_main]

use completions_edge::framing::Framing;
use completions_edge_fuzz::check_deframer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&length, stream)) = input.split_first() else { return };
    check_deframer(Framing::Sse, stream, length);
});
