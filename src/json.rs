//! The one way in which bytes are read as JSON: as text. `serde_json` reads bytes and texts by two readers, and each is a
//! copy of the code that reads every type, in a bundle whose size has a bound.

use serde::Deserialize;
use serde::de::Error as _;

/// Reads a value that may borrow from the bytes. Bytes that are not UTF-8 are no JSON.
pub(crate) fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_str(std::str::from_utf8(bytes).map_err(serde_json::Error::custom)?)
}
