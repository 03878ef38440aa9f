//! Log probabilities of upstreams: in the completions form (four arrays) or in chat's (`content` with one object a
//! token). llama.cpp's server answers `/v1/completions` in chat's form, so both are read everywhere.

use std::borrow::Cow;

use crate::api::{Logprob, Logprobs, TopLogprobs};

use super::json::Raw;

/// Reads `logprobs` of a choice; `None` where there is nothing of the kind. All arrays of the result have one length,
/// but for `text_offset`, which stays empty where the upstream has none that fits: only the transcoder knows where the
/// text stands.
pub(super) fn read(raw: Raw<'_>) -> Option<Logprobs> {
    let names = ["content", "tokens", "token_logprobs", "top_logprobs", "text_offset"];
    let [content, tokens, token_logprobs, top_logprobs, text_offset] = raw.fields(names);
    if content.is_present() {
        return read_tokens(content);
    }
    if !tokens.is_array() {
        return None;
    }
    // Some servers give a token's number in the place of its text.
    let text =
        |token: Raw<'_>| token.text().or_else(|| token.json().map(Cow::Borrowed)).unwrap_or_default().into_owned();
    let tokens: Vec<String> = tokens.items().into_iter().map(text).collect();
    let count = tokens.len();
    let mut token_logprobs: Vec<Option<Logprob>> = token_logprobs.items().into_iter().map(number).collect();
    token_logprobs.resize(count, None);
    let mut top_logprobs: Vec<TopLogprobs> = top_logprobs.items().into_iter().map(top_object).collect();
    top_logprobs.resize_with(count, TopLogprobs::default);
    let text_offset: Option<Vec<u64>> = text_offset.items().into_iter().map(Raw::count).collect();
    let text_offset = text_offset.filter(|offsets| offsets.len() == count).unwrap_or_default();
    Some(Logprobs { tokens, token_logprobs, top_logprobs, text_offset })
}

/// Reads an array of tokens in chat's form. An empty one, as in the chunk that only brings the role, has nothing to tell.
pub(super) fn read_tokens(tokens: Raw<'_>) -> Option<Logprobs> {
    let mut logprobs = Logprobs::default();
    for token in tokens.items() {
        push(&mut logprobs, "token", token, token.field("top_logprobs"));
    }
    (!logprobs.tokens.is_empty()).then_some(logprobs)
}

fn number(raw: Raw<'_>) -> Option<Logprob> {
    Logprob::of_json(raw.json()?)
}

/// An object from token to log probability.
fn top_object(top: Raw<'_>) -> TopLogprobs {
    let entries = top.entries().into_iter();
    TopLogprobs(entries.filter_map(|(token, logprob)| Some((token, number(logprob)?))).collect())
}

/// Adds a token of a dialect that writes each one as an object: its text under `name`, its `logprob`, and in `top` the
/// likeliest tokens in the same form.
pub(super) fn push(logprobs: &mut Logprobs, name: &str, token: Raw<'_>, top: Raw<'_>) {
    let read = |token: Raw<'_>| {
        let [text, logprob] = token.fields([name, "logprob"]);
        (text.text().unwrap_or_default().into_owned(), number(logprob))
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

    fn read_text(raw: &str) -> Option<Logprobs> {
        Raw::read(raw.as_bytes(), read).unwrap()
    }

    fn check(raw: &str, expected: &str) {
        assert_eq!(
            read_text(raw).map(|logprobs| serde_json::to_string(&logprobs).unwrap()).as_deref(),
            Some(expected),
            "{raw}"
        );
    }

    #[test]
    fn the_completions_form_stays_as_it_is() {
        let raw = r#"{"tokens":["a","b"],"token_logprobs":[null,-0.5],"top_logprobs":[{"z":-1.5,"a":-2.0},{}],"text_offset":[7,8]}"#;
        check(raw, raw);
    }

    #[test]
    fn no_digit_of_a_number_is_lost() {
        check(
            r#"{"tokens":["a","b","c"],"token_logprobs":[-0.0010892890850827098123,1e-7,-1E3],"top_logprobs":[],"text_offset":[]}"#,
            r#"{"tokens":["a","b","c"],"token_logprobs":[-0.0010892890850827098123,1e-7,-1E3],"top_logprobs":[{},{},{}],"text_offset":[]}"#,
        );
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
        for nothing in ["null", r#"{"tokens":7}"#, r#"{"content":[]}"#, r#"{"content":7,"tokens":["a"]}"#, "[]"] {
            assert_eq!(read_text(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn pitfall_23_elements_that_are_null_or_of_another_type() {
        check(
            r#"{"tokens":["a",7,null],"token_logprobs":[-1,"x"],"top_logprobs":[null,{"\ud83d":-2,"b":null},7],"text_offset":[0.0,1.0,2.0]}"#,
            r#"{"tokens":["a","7",""],"token_logprobs":[-1.0,null,null],"top_logprobs":[{},{"�":-2.0},{}],"text_offset":[0,1,2]}"#,
        );
        check(
            r#"{"tokens":["a","b"],"text_offset":[null,0,1]}"#,
            r#"{"tokens":["a","b"],"token_logprobs":[null,null],"top_logprobs":[{},{}],"text_offset":[]}"#,
        );
        check(
            r#"{"content":[{"token":"a","logprob":null,"top_logprobs":[{"token":"b","logprob":null}]},{"token":"c"}]}"#,
            r#"{"tokens":["a","c"],"token_logprobs":[null,null],"top_logprobs":[{},{}],"text_offset":[]}"#,
        );
    }
}
