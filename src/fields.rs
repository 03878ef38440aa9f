//! Objects of JSON that are read field by field: the configuration, records, what operators send. A derived reader is
//! kilobytes of the bundle for each type, and fast; these are read rarely, and tell where a fault is.
//!
//! A fault is its place and its reason, `.models.m.created: expected …`: whoever reads a field puts the field's name
//! before it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What can be read from JSON.
pub(crate) trait Read<'a>: Sized {
    /// Reads a value; the error is the fault that it has.
    fn read(json: &'a RawValue) -> Result<Self, String>;
}

/// Reads a document; the error says what is wrong with it, and where.
pub(crate) fn parse<'a, T: Read<'a>>(document: &'a [u8]) -> Result<T, String> {
    let json: &RawValue = crate::json::from_bytes(document).map_err(|error| error.to_string())?;
    T::read(json).map_err(|fault| fault.trim_start_matches(['.', ':', ' ']).to_owned())
}

/// The fields of an object that nobody has read yet. The first fault is kept until all have been read: so a reader is a
/// list of its fields, and no more code than that.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    rest: Vec<(String, &'a RawValue)>,
    fault: Option<String>,
}

impl<'a> Fields<'a> {
    /// The fields of an object.
    pub(crate) fn of(json: &'a RawValue) -> Self {
        Self::read(json).unwrap_or_else(|fault| Self { rest: Vec::new(), fault: Some(fault) })
    }

    /// Takes a field out.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let place = self.rest.iter().position(|(field, _)| field == name)?;
        let (_, json) = self.rest.swap_remove(place);
        // Of two by one name, one must be a mistake.
        if self.rest.iter().any(|(field, _)| field == name) {
            self.blame(format!(".{name}: it is there twice"));
        }
        Some(json)
    }

    fn blame(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    /// A field that may be left out.
    pub(crate) fn or<T: Read<'a>>(&mut self, name: &str, default: T) -> T {
        let Some(json) = self.take(name) else { return default };
        read_at(name, json).unwrap_or_else(|fault| {
            self.blame(fault);
            default
        })
    }

    /// A field that may be left out, or be null.
    pub(crate) fn optional<T: Read<'a>>(&mut self, name: &str) -> Option<T> {
        self.or(name, None)
    }

    /// A field that must be there; where it is not, there is a fault, and `placeholder` until it is told.
    pub(crate) fn required<T: Read<'a>>(&mut self, name: &str, placeholder: T) -> T {
        if !self.rest.iter().any(|(field, _)| field == name) {
            self.blame(format!(".{name}: it is missing"));
        }
        self.or(name, placeholder)
    }

    /// What was made of the fields, unless there was a fault.
    pub(crate) fn made<T>(self, value: T) -> Result<T, String> {
        self.fault.map_or(Ok(value), Err)
    }

    /// The same where a field that nobody has read is a fault too: a misspelt limit is no limit.
    pub(crate) fn all_made<T>(mut self, value: T) -> Result<T, String> {
        if let Some((name, _)) = self.rest.first() {
            let fault = format!(".{name}: there is no such field");
            self.blame(fault);
        }
        self.made(value)
    }
}

impl<'a> IntoIterator for Fields<'a> {
    type Item = (String, &'a RawValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.rest.into_iter()
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut rest = Vec::new();
                while let Some(field) = map.next_entry()? {
                    rest.push(field);
                }
                Ok(Fields { rest, fault: None })
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Reads what has this name.
pub(crate) fn read_at<'a, T: Read<'a>>(name: &str, json: &'a RawValue) -> Result<T, String> {
    T::read(json).map_err(|fault| format!(".{name}{fault}"))
}

/// Reads what `serde_json` reads.
pub(crate) fn leaf<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(json.get()).map_err(|error| {
        // Line and column would be those of this value.
        let why = error.to_string();
        format!(": {}", why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why))
    })
}

/// One of several words, by what it stands for.
pub(crate) fn one_of<T: Copy>(json: &RawValue, words: &[(&'static str, T)]) -> Result<T, String> {
    let text: String = leaf(json)?;
    let meant = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
    meant.ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!(": expected one of {}, but got `{text}`", known.join(", "))
    })
}

macro_rules! leaves {
    ($($type:ty),*) => {
        $(impl Read<'_> for $type {
            fn read(json: &RawValue) -> Result<Self, String> {
                leaf(json)
            }
        })*
    };
}

leaves!(bool, u32, u64, usize, String, Map<String, Value>);

impl<'a> Read<'a> for Fields<'a> {
    fn read(json: &'a RawValue) -> Result<Self, String> {
        leaf(json)
    }
}

impl<'a, T: Read<'a>> Read<'a> for Option<T> {
    fn read(json: &'a RawValue) -> Result<Self, String> {
        if json.get() == "null" { Ok(None) } else { T::read(json).map(Some) }
    }
}

impl<'a, T: Read<'a>> Read<'a> for Vec<T> {
    fn read(json: &'a RawValue) -> Result<Self, String> {
        let elements: Vec<&RawValue> = leaf(json)?;
        let read = |(i, json)| T::read(json).map_err(|fault| format!("[{i}]{fault}"));
        elements.into_iter().enumerate().map(read).collect()
    }
}

impl<'a, T: Read<'a>> Read<'a> for BTreeMap<String, T> {
    fn read(json: &'a RawValue) -> Result<Self, String> {
        let mut map = Self::new();
        for (name, json) in Fields::read(json)? {
            let value = read_at(&name, json)?;
            map.insert(name, value);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Thing {
        size: u32,
        name: Option<String>,
        parts: Vec<BTreeMap<String, Thing>>,
    }

    impl<'a> Read<'a> for Thing {
        fn read(json: &'a RawValue) -> Result<Self, String> {
            let mut fields = Fields::of(json);
            let thing = Self {
                size: fields.required("size", 0),
                name: fields.optional("name"),
                parts: fields.or("parts", Vec::new()),
            };
            fields.all_made(thing)
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let least = Thing { size: 7, name: None, parts: Vec::new() };
        for json in [r#"{"size":7}"#, r#" {"name": null, "size": 7, "parts": []} "#] {
            assert_eq!(parse::<Thing>(json.as_bytes()).as_ref(), Ok(&least), "{json}");
        }
        let whole = parse::<Thing>(br#"{"size":1,"parts":[{"a\u0062":{"size":7}}]}"#).unwrap();
        assert_eq!(whole.parts[0]["ab"], least);
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        for (json, fault) in [
            (r#"{"size":"7"}"#, r#"size: invalid type: string "7", expected u32"#),
            (
                r#"{"size":1,"parts":[{},{"a":{"size":-1}}]}"#,
                "parts[1].a.size: invalid value: integer `-1`, expected u32",
            ),
            (r#"{"name":"x"}"#, "size: it is missing"),
            (r#"{"size":1,"size":1}"#, "size: it is there twice"),
            (r#"{"size":1,"colour":1}"#, "colour: there is no such field"),
            (r#"{"size":1,"parts":null}"#, "parts: invalid type: null, expected a sequence"),
            ("[7]", "invalid type: sequence, expected an object"),
            ("{", "EOF while parsing an object at line 1 column 1"),
        ] {
            assert_eq!(parse::<Thing>(json.as_bytes()), Err(fault.to_owned()), "{json}");
        }
        assert!(parse::<Thing>(b"\"\xff\"").is_err());
    }
}
