//! Bytes as lower-case hex digits.

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| nibble.wrapping_add(if nibble < 10 { b'0' } else { b'a' - 10 });
    // Made as bytes and taken for text at once: three names of each request are written so.
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    String::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn every_byte_has_its_two_digits() {
        for byte in 0..=255 {
            assert_eq!(hex(&[byte, 0]), format!("{byte:02x}00"));
        }
        assert_eq!(hex(&[]), "");
    }
}
