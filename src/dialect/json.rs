//! Small helpers around JSON: an object that is written field by field, and readers that forgive a wrong type.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A piece of an upstream's JSON that is looked at only where it is asked: nothing of it has to be there, and nothing
/// of the type that its documentation says. What is null is absent.
///
/// ```
/// use completions_edge::dialect::json::Raw;
/// let [kind, delta] = Raw::of(br#"{"type":"text","delta":{"text":"\u0041","n":2}}"#).unwrap().fields(["type", "delta"]);
/// let [text, n, none] = delta.fields(["text", "n", "none"]);
/// assert_eq!((kind.text().as_deref(), text.text().as_deref()), (Some("text"), Some("A")));
/// assert_eq!((n.count(), none.count(), text.count()), (Some(2), None, None));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw<'a>(Option<&'a str>);

impl<'a> Raw<'a> {
    /// The JSON value that these bytes are; nothing if they are none. Bytes that are nearly JSON: see [`repair`].
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        serde_json::from_str::<&RawValue>(text).ok().map(Self::from)
    }

    /// Reads these bytes; if they are nearly JSON, what they were meant to be. Nothing if they are not even that.
    pub fn read<R>(bytes: &[u8], read: impl FnOnce(Raw<'_>) -> R) -> Option<R> {
        match Raw::of(bytes) {
            Some(raw) => Some(read(raw)),
            None => Raw::of(&repair(bytes)).map(read),
        }
    }

    /// The fields of an object by these names; all of them absent where it is no object. A repeated name counts as its
    /// last value.
    #[must_use]
    pub fn fields<const N: usize>(self, names: [&str; N]) -> [Self; N] {
        let mut found = [Self(None); N];
        if let Some(json) = self.0.filter(|json| json.starts_with('{')) {
            // It has been read once already: it is JSON.
            let _ =
                Picker { names: &names, found: &mut found }.deserialize(&mut serde_json::Deserializer::from_str(json));
        }
        found
    }

    /// One field of an object.
    #[must_use]
    pub fn field(self, name: &str) -> Self {
        let [field] = self.fields([name]);
        field
    }

    /// The elements of an array; none where it is no array.
    #[must_use]
    pub fn items(self) -> Vec<Self> {
        let array = self.0.filter(|json| json.starts_with('['));
        let items: Option<Vec<&'a RawValue>> = array.and_then(|json| serde_json::from_str(json).ok());
        items.into_iter().flatten().map(Self::from).collect()
    }

    /// The text of a string.
    #[must_use]
    pub fn text(self) -> Option<Cow<'a, str>> {
        let quoted = self.0?;
        let plain = quoted.strip_prefix('"')?.strip_suffix('"')?;
        if !plain.contains('\\') {
            return Some(Cow::Borrowed(plain));
        }
        // Half a surrogate pair is found only here.
        let text = serde_json::from_str(quoted).or_else(|_| serde_json::from_slice(&repair(quoted.as_bytes())));
        text.ok().map(Cow::Owned)
    }

    /// A number.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        self.0?.parse().ok()
    }

    /// A number that is a count: not negative; a fraction is cut off.
    #[must_use]
    pub fn count(self) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and the cast saturates"
        )]
        self.number().filter(|number| *number >= 0.0).map(|number| number as u64)
    }

    /// Whether it is `true`.
    #[must_use]
    pub fn is_true(self) -> bool {
        self.0 == Some("true")
    }

    /// Whether it is an object.
    #[must_use]
    pub fn is_object(self) -> bool {
        self.0.is_some_and(|json| json.starts_with('{'))
    }

    /// Whether it is anything but null.
    #[must_use]
    pub fn is_present(self) -> bool {
        self.0.is_some()
    }

    /// Its JSON, if it is anything but null.
    #[must_use]
    pub fn json(self) -> Option<&'a str> {
        self.0
    }
}

impl<'a> From<&'a RawValue> for Raw<'a> {
    fn from(raw: &'a RawValue) -> Self {
        Self(Some(raw.get()).filter(|json| *json != "null"))
    }
}

/// Finds fields by name, and skips all others.
struct Picker<'names, 'found, 'a> {
    names: &'names [&'names str],
    found: &'found mut [Raw<'a>],
}

impl<'a> DeserializeSeed<'a> for Picker<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Picker<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(place) = map.next_key_seed(Place(self.names))? {
            match place.and_then(|place| self.found.get_mut(place)) {
                Some(found) => *found = Raw::from(map.next_value::<&'a RawValue>()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Reads a key as its place among the names that are looked for.
struct Place<'names>(&'names [&'names str]);

impl<'a> DeserializeSeed<'a> for Place<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Place<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}

/// A JSON object in the making.
#[derive(Debug)]
pub struct Object {
    json: Vec<u8>,
    /// What has been written: an object has each name once.
    names: Vec<String>,
}

impl Default for Object {
    fn default() -> Self {
        Self::new()
    }
}

impl Object {
    /// An object without fields.
    #[must_use]
    pub fn new() -> Self {
        Self { json: Vec::with_capacity(512), names: Vec::with_capacity(16) }
    }

    /// Writes a field.
    pub fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> &mut Self {
        self.name(name);
        // A `Vec` takes every write, and plain data always serializes.
        let _ = serde_json::to_writer(&mut self.json, value);
        self
    }

    /// Writes a field, if there is a value.
    pub fn put_some<T: Serialize>(&mut self, name: &str, value: Option<T>) -> &mut Self {
        match value {
            Some(value) => self.put(name, &value),
            None => self,
        }
    }

    /// Writes a field, on a condition.
    pub fn put_if<T: Serialize>(&mut self, condition: bool, name: &str, value: T) -> &mut Self {
        self.put_some(name, condition.then_some(value))
    }

    /// Writes an object as a field, unless it is empty.
    pub fn put_object(&mut self, name: &str, object: Self) -> &mut Self {
        if !object.names.is_empty() {
            self.name(name);
            self.json.extend_from_slice(&object.finish());
        }
        self
    }

    /// Writes those of `fields` that have not been written yet.
    #[must_use]
    pub fn fill(mut self, fields: &Map<String, Value>) -> Self {
        for (name, value) in fields {
            if !self.names.contains(name) {
                self.put(name, value);
            }
        }
        self
    }

    /// The object, as JSON.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.names.is_empty() {
            self.json.push(b'{');
        }
        self.json.push(b'}');
        self.json
    }

    fn name(&mut self, name: &str) {
        self.json.push(if self.names.is_empty() { b'{' } else { b',' });
        let _ = serde_json::to_writer(&mut self.json, name);
        self.json.push(b':');
        self.names.push(name.to_owned());
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

    #[test]
    fn pitfall_23_a_field_that_is_null_absent_or_of_another_type() {
        let raw = Raw::of(
            br#"{"a":null,"b":[1,"x",null],"c":{"d":"q\\"},"e":-3,"n":1.9,"t":true,"s":"\ud83dx","s":"\ud83d"}"#,
        );
        let fields = ["a", "b", "c", "e", "n", "t", "s"];
        let [null, list, object, negative, fraction, truth, half] = raw.unwrap().fields(fields);
        assert!(
            !null.is_present() && null.text().is_none() && null.items().is_empty() && !null.field("x").is_present()
        );
        assert_eq!(list.items().iter().map(|item| item.json()).collect::<Vec<_>>(), [Some("1"), Some("\"x\""), None]);
        assert_eq!(object.field("d").text().as_deref(), Some("q\\"));
        assert_eq!(
            (negative.count(), negative.number(), fraction.count(), list.count()),
            (None, Some(-3.0), Some(1), None)
        );
        assert!(truth.is_true() && !half.is_true());
        assert!(object.is_object() && !list.is_object() && !null.is_object());
        assert_eq!(half.text().as_deref(), Some("\u{fffd}"), "the last one counts");
        assert!(Raw::of(b"{\"a\":").is_none() && Raw::of(b"\xff").is_none());
        assert_eq!(Raw::read(b"{\"a\":NaN}", |raw| raw.field("a").number()), Some(Some(-9999.0)));
    }

    #[test]
    fn an_object_field_by_field() {
        let mut object = Object::new();
        object.put("a", "x").put_some("b", None::<u8>).put_some("c", Some(1)).put_if(false, "d", 2);
        assert_eq!(object.finish(), br#"{"a":"x","c":1}"#);
        assert_eq!(Object::new().finish(), b"{}");
        let mut inner = Object::new();
        inner.put("x", &1);
        let mut outer = Object::new();
        outer.put_object("none", Object::new()).put_object("inner", inner);
        let Value::Object(fields) = serde_json::json!({"inner": 7, "own": [true]}) else { panic!() };
        assert_eq!(outer.fill(&fields).finish(), br#"{"inner":{"x":1},"own":[true]}"#);
    }
}
