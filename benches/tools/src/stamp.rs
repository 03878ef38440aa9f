//! The time at which an event was written, inside its text: whoever reads the event knows how long it was on its way.
//!
//! Both ends run on one machine and read its wall clock, the only one that the standard library lets two processes share.

use std::time::{SystemTime, UNIX_EPOCH};

/// The text of an event that is to be stamped. The digits are overwritten with the microseconds since 1970.
pub const PLACE: &str = " t0000000000000000";

/// What stands before the digits, wherever the text ends up.
const BEFORE: &[u8] = b"\" t";

const DIGITS: usize = 16;

/// Microseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(0))
}

/// Where the digits of the first stamp begin.
fn place(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let digits = bytes.get(at..at + DIGITS)?;
    digits.iter().all(u8::is_ascii_digit).then_some(at)
}

/// Writes the time into the bytes, where they have a place for it.
pub fn write(bytes: &mut [u8]) {
    if let Some(at) = place(bytes) {
        bytes[at..at + DIGITS].copy_from_slice(format!("{:016}", now()).as_bytes());
    }
}

/// How many microseconds ago the first stamp in these bytes was written.
#[must_use]
pub fn age(bytes: &[u8]) -> Option<u64> {
    let at = place(bytes)?;
    let written: u64 = std::str::from_utf8(&bytes[at..at + DIGITS]).ok()?.parse().ok()?;
    Some(now().saturating_sub(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_where_it_was_written() {
        let mut event = format!(r#"data: {{"choices":[{{"delta":{{"text":"{PLACE}"}}}}]}}"#).into_bytes();
        write(&mut event);
        assert!(age(&event).unwrap() < 1_000_000);
    }

    #[test]
    fn what_has_no_stamp_has_no_age() {
        assert_eq!(age(br#"{"text":" the end"}"#), None);
        let mut event = br#"{"text":" t123"}"#.to_vec();
        write(&mut event);
        assert_eq!(event, br#"{"text":" t123"}"#);
    }
}
