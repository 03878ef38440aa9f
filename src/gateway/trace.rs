//! The W3C trace that a request belongs to: <https://www.w3.org/TR/trace-context/#traceparent-header>.

use crate::hex::hex;

/// A request's place in the client's trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// 32 hex digits.
    pub id: String,
    /// What upstreams are sent: the same trace, with a span of ours as the parent.
    pub onward: String,
}

impl Trace {
    /// Reads `traceparent`; what is none is as if it were absent. `span` names our span and is random.
    pub(super) fn parse(header: &str, span: [u8; 8]) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
        let fits = is_hex(version, 2) && is_hex(id, 32) && is_hex(parent, 16) && is_hex(flags, 2);
        // Later versions may have more parts, and are read as this one.
        let known = version != "ff" && (version != "00" || parts.next().is_none());
        if !fits || !known || is_zero(id) || is_zero(parent) {
            return None;
        }
        Some(Self { id: id.to_owned(), onward: format!("00-{id}-{}-{flags}", hex(&span)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_with_a_span_of_ours() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for header in [format!("00-{id}-00f067aa0ba902b7-01"), format!("cc-{id}-00f067aa0ba902b7-01-more")] {
            let trace = Trace::parse(&header, [1, 2, 3, 4, 5, 6, 7, 0xab]).unwrap();
            assert_eq!((trace.id.as_str(), trace.onward), (id, format!("00-{id}-01020304050607ab-01")));
        }
    }

    #[test]
    fn what_is_no_traceparent_is_as_if_it_were_absent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for header in [
            "",
            "00",
            &format!("00-{id}-00f067aa0ba902b7"),
            &format!("00-{id}-00f067aa0ba902b7-01-more"),
            &format!("ff-{id}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{id}-0000000000000000-01"),
            &format!("00-{id}\r\nx: y-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(Trace::parse(header, [1; 8]), None, "{header}");
        }
    }
}
