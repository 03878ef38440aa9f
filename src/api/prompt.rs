//! The prompt in its four forms.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::error::ApiError;
use super::param::{Param, Text};

/// What is to be completed. It serializes to the form in which it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Prompt<'a> {
    /// One text.
    Text(Cow<'a, str>),
    /// Several texts, completed each for itself; at least one.
    Texts(Vec<Cow<'a, str>>),
    /// One text as token numbers; at least one.
    Tokens(Vec<u32>),
    /// Several texts as token numbers; at least one, none of them empty.
    TokenLists(Vec<Vec<u32>>),
}

impl<'a> Prompt<'a> {
    pub(super) fn parse(param: Param<'a>) -> Result<Self, ApiError> {
        let raw = param.raw.get();
        if raw.starts_with('"') {
            return param.string().map(Self::Text);
        }
        let wrong =
            || param.wrong_type("a string, an array of strings, an array of tokens or an array of token arrays");
        if !raw.starts_with('[') {
            return Err(wrong());
        }
        // The common forms first, in one pass; what fits none of them is taken apart to say where it goes wrong.
        if let Ok(tokens) = serde_json::from_str::<Vec<u32>>(raw) {
            return if tokens.is_empty() { Err(param.array_too_short("")) } else { Ok(Self::Tokens(tokens)) };
        }
        if let Ok(UpTo { items: texts, count }) = serde_json::from_str::<UpTo<Text<'a>>>(raw) {
            check_count(param, count)?;
            return Ok(Self::Texts(texts.into_iter().map(|text| text.0).collect()));
        }
        if let Ok(UpTo { items: lists, count }) = serde_json::from_str::<UpTo<Vec<u32>>>(raw) {
            check_count(param, count)?;
            return match lists.iter().position(Vec::is_empty) {
                Some(i) => Err(param.array_too_short(&format!("[{i}]"))),
                None => Ok(Self::TokenLists(lists)),
            };
        }
        Err(first_misfit(param).unwrap_or_else(wrong))
    }

    /// How many texts are to be completed.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }

    /// About how many bytes the prompts are in a call: those of their texts, and of their token numbers' digits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const DIGITS: usize = 6;
        match self {
            Self::Text(text) => text.len(),
            Self::Texts(texts) => texts.iter().map(|text| text.len()).sum(),
            Self::Tokens(tokens) => tokens.len().saturating_mul(DIGITS),
            Self::TokenLists(lists) => lists.iter().map(|list| list.len().saturating_mul(DIGITS)).sum(),
        }
    }

    /// The tokens of the prompt: exact for token numbers, for text a quarter of its bytes, rounded up; at least one.
    #[must_use]
    pub fn estimated_tokens(&self) -> u64 {
        let of_text = |text: &Cow<'_, str>| text.len().div_ceil(4).max(1);
        let tokens: usize = match self {
            Self::Text(text) => of_text(text),
            Self::Texts(texts) => texts.iter().map(of_text).sum(),
            Self::Tokens(tokens) => tokens.len(),
            Self::TokenLists(lists) => lists.iter().map(Vec::len).sum(),
        };
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }
}

/// The most prompts a request may hold: with 128 choices each, what an answer needs stays a few megabytes.
const MAX_PROMPTS: usize = 2048;

fn check_count(param: Param<'_>, count: usize) -> Result<(), ApiError> {
    if count > MAX_PROMPTS { Err(param.array_too_long(MAX_PROMPTS, count)) } else { Ok(()) }
}

/// The first elements of an array, at most [`MAX_PROMPTS`], and how many there are: what is too long is not held.
struct UpTo<T> {
    items: Vec<T>,
    count: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UpTo<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UpToVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for UpToVisitor<T> {
            type Value = UpTo<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<UpTo<T>, A::Error> {
                let (mut items, mut count) = (Vec::new(), 0_usize);
                while items.len() < MAX_PROMPTS {
                    let Some(item) = seq.next_element()? else { break };
                    items.push(item);
                    count = count.saturating_add(1);
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    count = count.saturating_add(1);
                }
                Ok(UpTo { items, count })
            }
        }
        deserializer.deserialize_seq(UpToVisitor(PhantomData))
    }
}

/// The error of the first element that does not go with the first one.
fn first_misfit(param: Param<'_>) -> Option<ApiError> {
    let elements = param.elements()?;
    let first = elements.first()?.get();
    elements.iter().enumerate().find_map(|(i, element)| {
        let (path, raw) = (format!("[{i}]"), element.get());
        if first.starts_with('"') {
            param.string_at(&path, raw).err()
        } else if first.starts_with('[') {
            serde_json::from_str::<Vec<u32>>(raw).err().map(|_| param.wrong_type_at(&path, raw, "an array of tokens"))
        } else {
            raw.parse::<u32>().err().map(|_| param.wrong_type_at(&path, raw, "a token"))
        }
    })
}
