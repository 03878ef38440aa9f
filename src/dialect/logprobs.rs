//! Log probabilities of upstreams: in the completions form (four arrays) or in chat's (`content` with one object a
//! token). llama.cpp's server answers `/v1/completions` in chat's form, so both are read everywhere.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::api::{Logprobs, TopLogprobs};

use super::json::Raw;

#[derive(Deserialize)]
struct WireLogprobs {
    #[serde(default)]
    tokens: Option<Vec<AnyText>>,
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f64>>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Option<TopObject>>>,
    #[serde(default)]
    text_offset: Option<Vec<f64>>,
    #[serde(default)]
    content: Option<Vec<ChatToken>>,
}

#[derive(Deserialize)]
struct ChatToken {
    token: String,
    #[serde(default)]
    logprob: Option<f64>,
    #[serde(default)]
    top_logprobs: Option<Vec<ChatTop>>,
}

#[derive(Deserialize)]
struct ChatTop {
    token: String,
    logprob: f64,
}

/// A token's text; some servers give its number in its place.
struct AnyText(String);

impl<'de> Deserialize<'de> for AnyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        }))
    }
}

/// An object from token to log probability, in its order.
struct TopObject(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for TopObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopVisitor;
        impl<'de> Visitor<'de> for TopVisitor {
            type Value = TopObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from token to log probability")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TopObject, A::Error> {
                let mut top = Vec::new();
                while let Some((token, logprob)) = map.next_entry::<String, Option<f64>>()? {
                    top.extend(logprob.map(|logprob| (token, logprob)));
                }
                Ok(TopObject(top))
            }
        }
        deserializer.deserialize_map(TopVisitor)
    }
}

/// Reads `logprobs` of a choice; `None` where there is nothing of the kind. All arrays of the result have one length,
/// but for `text_offset`, which stays empty where the upstream has none that fits: only the transcoder knows where the
/// text stands.
pub(super) fn read(raw: &str) -> Option<Logprobs> {
    let wire: WireLogprobs = serde_json::from_str(raw).ok()?;
    if let Some(content) = wire.content {
        // The chunk that only brings the role.
        if content.is_empty() {
            return None;
        }
        let mut logprobs = Logprobs::default();
        for token in content {
            logprobs.tokens.push(token.token);
            logprobs.token_logprobs.push(token.logprob);
            let top = token.top_logprobs.into_iter().flatten().map(|top| (top.token, top.logprob)).collect();
            logprobs.top_logprobs.push(TopLogprobs(top));
        }
        return Some(logprobs);
    }
    let tokens: Vec<String> = wire.tokens?.into_iter().map(|token| token.0).collect();
    let count = tokens.len();
    let mut token_logprobs = wire.token_logprobs.unwrap_or_default();
    token_logprobs.resize(count, None);
    let mut top_logprobs: Vec<TopLogprobs> = wire
        .top_logprobs
        .into_iter()
        .flatten()
        .map(|top| TopLogprobs(top.map(|top| top.0).unwrap_or_default()))
        .collect();
    top_logprobs.resize_with(count, TopLogprobs::default);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
    let offsets = wire.text_offset.into_iter().flatten().map(|offset| offset as u64);
    let text_offset: Vec<u64> = offsets.collect();
    let text_offset = if text_offset.len() == count { text_offset } else { Vec::new() };
    Some(Logprobs { tokens, token_logprobs, top_logprobs, text_offset })
}

/// Adds a token of a dialect that writes each one as an object: its text under `name`, its `logprob`, and in `top` the
/// likeliest tokens in the same form.
pub(super) fn push(logprobs: &mut Logprobs, name: &str, token: Raw<'_>, top: Raw<'_>) {
    let read = |token: Raw<'_>| {
        let [text, logprob] = token.fields([name, "logprob"]);
        (text.text().unwrap_or_default().into_owned(), logprob.number())
    };
    let (text, logprob) = read(token);
    logprobs.tokens.push(text);
    logprobs.token_logprobs.push(logprob);
    let top = top.items().into_iter().map(read).filter_map(|(text, logprob)| Some((text, logprob?)));
    logprobs.top_logprobs.push(TopLogprobs(top.collect()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, expected: &str) {
        assert_eq!(read(raw).map(|logprobs| serde_json::to_string(&logprobs).unwrap()).as_deref(), Some(expected));
    }

    #[test]
    fn the_completions_form_stays_as_it_is() {
        let raw = r#"{"tokens":["a","b"],"token_logprobs":[null,-0.5],"top_logprobs":[{"z":-1.5,"a":-2.0},{}],"text_offset":[7,8]}"#;
        check(raw, raw);
    }

    #[test]
    fn chats_form_becomes_ours() {
        check(
            r#"{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[{"token":"a","logprob":-0.5}]}],"refusal":null}"#,
            r#"{"tokens":["a"],"token_logprobs":[-0.5],"top_logprobs":[{"a":-0.5}],"text_offset":[]}"#,
        );
    }

    #[test]
    fn missing_arrays_are_filled_up() {
        check(
            r#"{"tokens":["a","b"],"top_logprobs":null,"text_offset":[1]}"#,
            r#"{"tokens":["a","b"],"token_logprobs":[null,null],"top_logprobs":[{},{}],"text_offset":[]}"#,
        );
        assert_eq!(read("null"), None);
        assert_eq!(read(r#"{"tokens":7}"#), None);
    }
}
