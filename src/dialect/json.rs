//! Small helpers around JSON: an object that is written field by field, and readers that forgive a wrong type.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON object in the making.
#[derive(Debug)]
pub(super) struct Object(Vec<u8>);

impl Object {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(512))
    }

    pub(super) fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> &mut Self {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        // A `Vec` takes every write, and plain data always serializes.
        let _ = serde_json::to_writer(&mut self.0, key);
        self.0.push(b':');
        let _ = serde_json::to_writer(&mut self.0, value);
        self
    }

    pub(super) fn put_some<T: Serialize>(&mut self, key: &str, value: Option<T>) -> &mut Self {
        match value {
            Some(value) => self.put(key, &value),
            None => self,
        }
    }

    pub(super) fn put_if<T: Serialize>(&mut self, condition: bool, key: &str, value: T) -> &mut Self {
        self.put_some(key, condition.then_some(value))
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }
}

/// A value of whatever type: text where it is text, a number where it is a number, nothing where it is neither.
#[derive(Debug, Default)]
pub(super) enum Loose<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    #[default]
    Other,
}

impl Loose<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is a count.
    pub(super) fn count(&self) -> Option<u64> {
        match self {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and the cast saturates"
            )]
            Self::Number(number) if *number >= 0.0 => Some(*number as u64),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LooseVisitor;
        impl<'de> Visitor<'de> for LooseVisitor {
            type Value = Loose<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Loose::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Loose::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                #[expect(clippy::cast_precision_loss, reason = "token counts and indices are far below 2^53")]
                Ok(Loose::Number(number as f64))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                #[expect(clippy::cast_precision_loss, reason = "token counts and indices are far below 2^53")]
                Ok(Loose::Number(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Loose::Number(number))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Loose::Other)
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Loose::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Loose::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Loose::Other)
            }
        }
        deserializer.deserialize_any(LooseVisitor)
    }
}

/// Makes JSON of what upstreams send in its place: bytes that are not UTF-8 become U+FFFD, and the numbers that JSON
/// does not have become numbers that it has. Python servers write `-Infinity` and `NaN` into log probabilities; they
/// become -9999.0, which is what the same servers write elsewhere for "impossible". Half a surrogate pair, which a
/// token may well end in, becomes U+FFFD too.
///
/// For data that did not parse; what it returns may still not.
pub(super) fn repair(data: &[u8]) -> Vec<u8> {
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

    #[test]
    fn an_object_field_by_field() {
        let mut object = Object::new();
        object.put("a", "x").put_some("b", None::<u8>).put_some("c", Some(1)).put_if(false, "d", 2);
        assert_eq!(object.finish(), br#"{"a":"x","c":1}"#);
        assert_eq!(Object::new().finish(), b"{}");
    }
}
