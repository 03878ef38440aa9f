//! What upstreams send in the place of JSON.

/// Makes JSON of what upstreams send in its place: bytes that are not UTF-8 become U+FFFD, and the numbers that JSON
/// does not have become numbers that it has. Python servers write `-Infinity` and `NaN` into log probabilities; they
/// become -9999.0, which is what the same servers write elsewhere for "impossible". Half a surrogate pair, which a
/// token may well end in, becomes U+FFFD too.
///
/// For data that did not parse; what it returns may still not.
#[must_use]
pub fn repair(data: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(data);
    let mut out = Vec::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if in_string
            && !escaped
            && byte == b'\\'
            && let Some((unit, after)) = escaped_unit(rest)
        {
            // A pair is two escapes, of which the second one is looked at here too.
            let pair = escaped_unit(after).filter(|(low, _)| (0xDC00..0xE000).contains(low));
            match (unit, pair) {
                (0xD800..0xDC00, Some((_, after))) => {
                    let length = rest.len().saturating_sub(after.len());
                    out.extend_from_slice(rest.get(..length).unwrap_or_default());
                    rest = after;
                    continue;
                }
                (0xD800..0xE000, _) => {
                    out.extend_from_slice(b"\\ufffd");
                    rest = after;
                    continue;
                }
                _ => {}
            }
        }
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if let Some(after) = [&b"-Infinity"[..], b"Infinity", b"NaN"].iter().find_map(|w| rest.strip_prefix(*w))
        {
            out.extend_from_slice(b"-9999.0");
            rest = after;
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
        rest = after;
    }
    out
}

/// The UTF-16 unit of an escape like `\u00e9` at the beginning, and what comes after it.
fn escaped_unit(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, after) = bytes.strip_prefix(b"\\u")?.split_at_checked(4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u32::from_str_radix(digits, 16).ok()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_repair(data: &[u8], expected: &str) {
        assert_eq!(String::from_utf8(repair(data)).unwrap(), expected);
    }

    #[test]
    fn pitfall_47_numbers_that_json_does_not_have() {
        check_repair(br#"{"a":-Infinity,"b":[NaN, Infinity]}"#, r#"{"a":-9999.0,"b":[-9999.0, -9999.0]}"#);
        check_repair(br#"{"NaN":"\"NaN\\"}"#, r#"{"NaN":"\"NaN\\"}"#);
    }

    #[test]
    fn pitfall_16_an_invalid_byte_becomes_the_replacement_character() {
        check_repair(b"{\"text\":\"a\xffb\"}", "{\"text\":\"a\u{fffd}b\"}");
    }

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character() {
        check_repair(br#"{"t":"a\ud83d"}"#, r#"{"t":"a\ufffd"}"#);
        check_repair(br#"{"t":"\ude00b\\ud83d"}"#, r#"{"t":"\ufffdb\\ud83d"}"#);
        check_repair(br#"{"t":"\ud83d\ude00\ud83d\n"}"#, r#"{"t":"\ud83d\ude00\ufffd\n"}"#);
    }
}
