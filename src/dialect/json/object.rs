//! A JSON object that is written field by field.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::json::ObjectWriter;

/// A JSON object in the making.
#[derive(Debug)]
pub struct Object {
    json: ObjectWriter,
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
        Self { json: ObjectWriter::with_capacity(512), names: Vec::with_capacity(16) }
    }

    /// Writes a field.
    pub fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> &mut Self {
        self.names.push(name.to_owned());
        self.json.value(name, value);
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
            self.names.push(name.to_owned());
            self.json.name(name).extend_from_slice(&object.finish());
        }
        self
    }

    /// The same, filled with those of the operator's `fields` that stand in an object by that name.
    pub fn put_filled(&mut self, name: &str, object: Self, fields: &Map<String, Value>) -> &mut Self {
        let own = fields.get(name).and_then(Value::as_object);
        self.put_object(name, own.into_iter().fold(object, Self::fill))
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
    pub fn finish(self) -> Vec<u8> {
        self.json.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn an_operators_own_fields_inside_an_object() {
        let Value::Object(fields) = serde_json::json!({"a": {"x": 0, "y": 2}, "b": {}, "c": 7}) else { panic!() };
        let mut outer = Object::new();
        for name in ["a", "b", "c", "d"] {
            let mut inner = Object::new();
            inner.put_if(name == "a", "x", 1);
            outer.put_filled(name, inner, &fields);
        }
        assert_eq!(outer.fill(&fields).finish(), br#"{"a":{"x":1,"y":2},"b":{},"c":7}"#);
    }
}
