//! The names of models and deployments inside upstreams' paths: whatever a name holds, it stays inside its segment.

use std::fmt::Write as _;

/// One segment: everything but letters, digits and `-._~` is percent-encoded (RFC 3986, 2.3), slashes too. That no name
/// is `.` or `..`, which no encoding would help, is checked with the configuration.
pub(super) fn segment(name: &str) -> String {
    encoded(name, b"")
}

/// A path of several segments, whose slashes and `@` stay.
pub(super) fn segments(name: &str) -> String {
    encoded(name, b"/@")
}

/// A path whose segments are encoded already, encoded once more, as AWS signs it.
pub(super) fn once_more(path: &str) -> String {
    encoded(path, b"/")
}

fn encoded(name: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pitfall_37_a_models_name_stays_inside_its_segment() {
        assert_eq!(segment("gpt-4.1_mini~x"), "gpt-4.1_mini~x");
        assert_eq!(segment("a/../b?c=d#e%2f\\ é:0"), "a%2F..%2Fb%3Fc%3Dd%23e%252f%5C%20%C3%A9%3A0");
        assert_eq!(segments("@cf/meta/llama-3?x"), "@cf/meta/llama-3%3Fx");
    }
}
