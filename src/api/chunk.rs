//! The chunks of a stream, in the three formats that clients ask for.
//!
//! What every chunk of a stream has in common is written once, when the stream begins; a chunk costs two copies, its
//! index, and its text.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::fields::{Read, one_of};
use crate::json::{write_text, write_value};

use super::usage::{FinishReason, Logprobs, Usage};

/// How chunks look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChunkFormat {
    /// The documented chunk with `text`, `created`, `model` and `logprobs` besides, so that typed clients find the
    /// text where they look for it.
    #[default]
    Superset,
    /// The keys of the API's documentation and no other, but for `logprobs` and `usage` where a request asks for them.
    Documented,
    /// The chunk of the legacy completions API: `text` and no `delta`.
    OpenAi,
}

impl ChunkFormat {
    /// The format of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }
}

const NAMES: [(&str, ChunkFormat); 3] =
    [("superset", ChunkFormat::Superset), ("documented", ChunkFormat::Documented), ("openai", ChunkFormat::OpenAi)];

impl Read<'_> for ChunkFormat {
    fn read(json: &RawValue) -> Result<Self, String> {
        one_of(json, &NAMES)
    }
}

/// What all chunks of a stream, and the completion object, say alike.
#[derive(Clone, Debug)]
pub struct ChunkHead {
    /// `cmpl-…`, one for the whole answer.
    pub id: String,
    /// Seconds since 1970, one for the whole answer.
    pub created: u64,
    /// The name that the client asked for.
    pub model: String,
}

/// Writes chunks. It holds no state that changes: what may be written when is the transcoder's knowledge.
#[derive(Debug)]
pub struct ChunkWriter {
    format: ChunkFormat,
    include_usage: bool,
    obfuscate: bool,
    /// `data: {` up to and with `"choices":[`.
    prefix: Vec<u8>,
}

/// Chunks that hide their text's length are padded so that the text takes up a multiple of this many bytes.
const OBFUSCATION_BLOCK: usize = 64;
/// One block of padding. The lengths on the wire matter, not the letters.
const OBFUSCATION: &[u8; OBFUSCATION_BLOCK] = b"pQz7LmX2vB9kTc4RnW8yHs3JfD6gAe1UoK5xNi0MtYbVqZrCwGlEhSjFuPdIa_O-";

impl ChunkWriter {
    /// A writer for one stream.
    #[must_use]
    pub fn new(head: &ChunkHead, format: ChunkFormat, include_usage: bool, obfuscate: bool) -> Self {
        let mut prefix = b"data: {\"id\":".to_vec();
        write_text(&mut prefix, &head.id);
        prefix.extend_from_slice(match format {
            ChunkFormat::OpenAi => b",\"object\":\"text_completion\"",
            _ => b",\"object\":\"text_completion.chunk\"",
        });
        if format != ChunkFormat::Documented {
            prefix.extend_from_slice(b",\"created\":");
            write_value(&mut prefix, &head.created);
            prefix.extend_from_slice(b",\"model\":");
            write_text(&mut prefix, &head.model);
        }
        prefix.extend_from_slice(b",\"choices\":[");
        Self { format, include_usage, obfuscate, prefix }
    }

    /// Whether the stream ends with a chunk of usage.
    #[must_use]
    pub fn includes_usage(&self) -> bool {
        self.include_usage
    }

    /// One chunk with a part of one choice. `text` may be empty, as on a chunk that only brings the finish reason.
    pub fn choice(
        &self,
        out: &mut Vec<u8>,
        index: u32,
        text: &str,
        logprobs: Option<&Logprobs>,
        finish_reason: Option<FinishReason>,
    ) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(b"{\"index\":");
        match u8::try_from(index) {
            Ok(digit @ 0..=9) => out.push(digit | b'0'),
            _ => write_value(out, &index),
        }
        let hidden = self.text(out, text);
        if let Some(logprobs) = logprobs {
            out.extend_from_slice(b",\"logprobs\":");
            write_value(out, logprobs);
        } else if self.format != ChunkFormat::Documented {
            out.extend_from_slice(b",\"logprobs\":null");
        }
        match finish_reason {
            None => out.extend_from_slice(b",\"finish_reason\":null}]"),
            Some(reason) => {
                out.extend_from_slice(b",\"finish_reason\":\"");
                out.extend_from_slice(reason.as_str().as_bytes());
                out.extend_from_slice(b"\"}]");
            }
        }
        if self.include_usage {
            out.extend_from_slice(b",\"usage\":null");
        }
        if self.obfuscate {
            out.extend_from_slice(b",\"obfuscation\":\"");
            let over = hidden.checked_rem(OBFUSCATION_BLOCK).unwrap_or_default();
            out.extend_from_slice(OBFUSCATION.get(over..).unwrap_or_default());
            out.push(b'"');
        }
        out.extend_from_slice(b"}\n\n");
    }

    /// The text at its place or places, escaped once and then copied; returns the bytes that it takes up.
    fn text(&self, out: &mut Vec<u8>, text: &str) -> usize {
        if self.format == ChunkFormat::OpenAi {
            out.extend_from_slice(b",\"text\":");
            let from = out.len();
            write_text(out, text);
            return out.len().saturating_sub(from);
        }
        out.extend_from_slice(b",\"delta\":{\"text\":");
        let from = out.len();
        write_text(out, text);
        let escaped = from..out.len();
        out.push(b'}');
        if self.format == ChunkFormat::Documented {
            return escaped.len();
        }
        out.extend_from_slice(b",\"text\":");
        out.extend_from_within(escaped.clone());
        escaped.len().saturating_mul(2)
    }

    /// The last chunk: no choice, and the usage.
    pub fn usage(&self, out: &mut Vec<u8>, usage: Usage) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(b"],\"usage\":");
        write_value(out, &usage);
        out.extend_from_slice(b"}\n\n");
    }

    /// The end mark.
    pub fn done(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: ChunkFormat, include_usage: bool, write: impl Fn(&ChunkWriter, &mut Vec<u8>), expected: &str) {
        let head = ChunkHead { id: "cmpl-1".to_owned(), created: 1_700_000_000, model: "a\"b".to_owned() };
        let mut out = Vec::new();
        write(&ChunkWriter::new(&head, format, include_usage, false), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    const SUPERSET: &str =
        r#"data: {"id":"cmpl-1","object":"text_completion.chunk","created":1700000000,"model":"a\"b","choices":["#;

    #[test]
    fn the_three_formats() {
        let the = |writer: &ChunkWriter, out: &mut Vec<u8>| writer.choice(out, 0, "The\n", None, None);
        let superset = format!(
            "{SUPERSET}{}\n\n",
            r#"{"index":0,"delta":{"text":"The\n"},"text":"The\n","logprobs":null,"finish_reason":null}]}"#
        );
        check(ChunkFormat::Superset, false, the, &superset);
        check(
            ChunkFormat::Documented,
            false,
            the,
            concat!(
                r#"data: {"id":"cmpl-1","object":"text_completion.chunk","#,
                r#""choices":[{"index":0,"delta":{"text":"The\n"},"finish_reason":null}]}"#,
                "\n\n"
            ),
        );
        check(
            ChunkFormat::OpenAi,
            false,
            the,
            concat!(
                r#"data: {"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"a\"b","#,
                r#""choices":[{"index":0,"text":"The\n","logprobs":null,"finish_reason":null}]}"#,
                "\n\n"
            ),
        );
    }

    #[test]
    fn usage_is_null_on_every_chunk_and_a_chunk_of_its_own_at_the_end() {
        let finish = |writer: &ChunkWriter, out: &mut Vec<u8>| {
            writer.choice(out, 12, "", None, Some(FinishReason::ContentFilter));
            writer.usage(out, Usage { prompt_tokens: 3, completion_tokens: 4 });
            writer.done(out);
        };
        let expected = format!(
            "{SUPERSET}{}\n\n{SUPERSET}{}\n\ndata: [DONE]\n\n",
            r#"{"index":12,"delta":{"text":""},"text":"","logprobs":null,"finish_reason":"content_filter"}],"usage":null}"#,
            r#"],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#
        );
        check(ChunkFormat::Superset, true, finish, &expected);
    }

    #[test]
    fn obfuscated_chunks_tell_texts_of_like_length_apart_by_nothing() {
        let head = ChunkHead { id: "cmpl-1".to_owned(), created: 1, model: "m".to_owned() };
        let writer = ChunkWriter::new(&head, ChunkFormat::Superset, false, true);
        let lengths: Vec<usize> = ["", "a", " the", " ocean"]
            .map(|text| {
                let mut out = Vec::new();
                writer.choice(&mut out, 0, text, None, None);
                let json: serde_json::Value = serde_json::from_slice(&out[6..]).unwrap();
                assert!(json["obfuscation"].is_string());
                out.len()
            })
            .to_vec();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{lengths:?}");
    }
}
