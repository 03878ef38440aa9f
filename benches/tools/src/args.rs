//! Command lines made of `--name value` pairs.

use std::collections::HashMap;
use std::io;
use std::str::FromStr;

/// The arguments of a program, by name.
#[derive(Debug)]
pub struct Args(HashMap<String, String>);

impl Args {
    /// Reads pairs; a name without its dashes or without a value is an error.
    pub fn parse(mut words: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut pairs = HashMap::new();
        while let Some(word) = words.next() {
            let (Some(name), Some(value)) = (word.strip_prefix("--"), words.next()) else {
                return Err(io::Error::other(format!("expected --name value at {word}")));
            };
            pairs.insert(name.to_owned(), value);
        }
        Ok(Self(pairs))
    }

    /// The value of `--name`, or `default` where it was not given.
    pub fn get<T: FromStr>(&self, name: &str, default: T) -> io::Result<T> {
        match self.0.get(name) {
            None => Ok(default),
            Some(value) => {
                value.parse().map_err(|_| io::Error::other(format!("--{name} {value} is not a valid value")))
            }
        }
    }

    /// The value of `--name`, which must be there.
    pub fn require(&self, name: &str) -> io::Result<&str> {
        self.0.get(name).map(String::as_str).ok_or_else(|| io::Error::other(format!("--{name} is missing")))
    }
}
