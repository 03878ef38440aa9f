//! A reader that needs no type for each object: a derived one is kilobytes of the bundle.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::repair;

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
        if let Some(json) = self.0.filter(|_| self.is_object()) {
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
        let array = self.0.filter(|_| self.is_array());
        let items: Option<Vec<&'a RawValue>> = array.and_then(|json| serde_json::from_str(json).ok());
        items.into_iter().flatten().map(Self::from).collect()
    }

    /// The entries of an object, in its order; none where it is no object.
    #[must_use]
    pub fn entries(self) -> Vec<(String, Self)> {
        let mut entries = Vec::new();
        if let Some(json) = self.0.filter(|_| self.is_object()) {
            // It has been read once already: it is JSON.
            let _ = serde_json::Deserializer::from_str(json).deserialize_map(Lister(&mut entries));
        }
        entries
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
        let text = serde_json::from_str(quoted).or_else(|_| crate::json::from_bytes(&repair(quoted.as_bytes())));
        text.ok().map(Cow::Owned)
    }

    /// A number.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        serde_json::from_str(self.0?).ok()
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

    /// Whether it is an array.
    #[must_use]
    pub fn is_array(self) -> bool {
        self.0.is_some_and(|json| json.starts_with('['))
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

/// Lists all fields.
struct Lister<'entries, 'a>(&'entries mut Vec<(String, Raw<'a>)>);

impl<'a> Visitor<'a> for Lister<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
            self.0.push((Raw::from(name).text().unwrap_or_default().into_owned(), Raw::from(value)));
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(list.is_array() && !object.is_array() && list.entries().is_empty());
        let raw = Raw::of(br#"{"b":1,"a\ud83d":null,"b":"x"}"#).unwrap();
        let entries = raw.entries().into_iter().map(|(name, value)| (name, value.json()));
        let expected = [("b", Some("1")), ("a\u{fffd}", None), ("b", Some("\"x\""))];
        assert_eq!(entries.collect::<Vec<_>>(), expected.map(|(name, json)| (name.to_owned(), json)));
        assert!(Raw::of(b"{\"a\":").is_none() && Raw::of(b"\xff").is_none());
        assert_eq!(Raw::read(b"{\"a\":NaN}", |raw| raw.field("a").number()), Some(Some(-9999.0)));
    }
}
