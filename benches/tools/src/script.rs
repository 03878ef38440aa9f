//! What the scripted upstream answers. Every byte is made before the first request, so that an answer costs writes alone.

use std::fmt::Write as _;

/// Events with text in a stream. A finish event follows, then a usage event where it was asked for, then `[DONE]`.
pub const TEXT_EVENTS: usize = 200;

/// Events in a write when many go into one: a model server that has fallen behind, or a fast small model.
const EVENTS_OF_A_BIG_WRITE: usize = 16;

const USAGE: &str = r#"{"prompt_tokens":6,"completion_tokens":200,"total_tokens":206}"#;

/// The answers of one upstream: each is the list of writes that make it up.
#[derive(Debug)]
pub struct Script {
    completion: Vec<Vec<u8>>,
    one_a_write: Streams,
    many_a_write: Streams,
}

#[derive(Debug)]
struct Streams {
    plain: Vec<Vec<u8>>,
    with_usage: Vec<Vec<u8>>,
}

impl Script {
    /// Writes all answers.
    #[must_use]
    pub fn new() -> Self {
        let streams =
            |events_a_write| Streams { plain: stream(events_a_write, false), with_usage: stream(events_a_write, true) };
        Self { completion: vec![completion()], one_a_write: streams(1), many_a_write: streams(EVENTS_OF_A_BIG_WRITE) }
    }

    /// The writes that answer a request, `None` for a path that is not served.
    ///
    /// The body is searched and not parsed: what is sent here is compact JSON from the load generator or from the Worker,
    /// and a parser would cost the upstream more than its answer does.
    #[must_use]
    pub fn answer(&self, request_line: &str, body: &[u8]) -> Option<&[Vec<u8>]> {
        let streams = match request_line.split(' ').nth(1)? {
            "/one/v1/completions" => &self.one_a_write,
            "/many/v1/completions" => &self.many_a_write,
            _ => return None,
        };
        Some(if !contains(body, br#""stream":true"#) {
            &self.completion
        } else if contains(body, br#""include_usage":true"#) {
            &streams.with_usage
        } else {
            &streams.plain
        })
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether `part` stands in `whole`.
#[must_use]
pub fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

fn text(index: usize) -> String {
    format!(" word{index}")
}

fn completion() -> Vec<u8> {
    let text: String = (0..TEXT_EVENTS).map(text).collect();
    let body = format!(
        r#"{{"id":"cmpl-9kKfXhGz3vTqYw2LbN8sRdP5","object":"text_completion","created":1714569952,"model":"scripted","choices":[{{"text":"{text}","index":0,"logprobs":null,"finish_reason":"stop"}}],"usage":{USAGE}}}"#
    );
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn event(choices: &str, usage: Option<&str>) -> String {
    let mut event = format!(
        r#"data: {{"id":"cmpl-9kKfXhGz3vTqYw2LbN8sRdP5","object":"text_completion","created":1714569952,"model":"scripted","choices":[{choices}]"#
    );
    if let Some(usage) = usage {
        // Writing to a String cannot fail.
        let _ = write!(event, r#","usage":{usage}"#);
    }
    event.push_str("}\n\n");
    event
}

fn stream(events_a_write: usize, with_usage: bool) -> Vec<Vec<u8>> {
    let null_usage = with_usage.then_some("null");
    let mut events: Vec<String> = (0..TEXT_EVENTS)
        .map(|index| {
            let choice = format!(r#"{{"text":"{}","index":0,"logprobs":null,"finish_reason":null}}"#, text(index));
            event(&choice, null_usage)
        })
        .collect();
    events.push(event(r#"{"text":"","index":0,"logprobs":null,"finish_reason":"stop"}"#, null_usage));
    if with_usage {
        events.push(event("", Some(USAGE)));
    }
    events.push("data: [DONE]\n\n".to_owned());

    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut writes = vec![head.as_bytes().to_vec()];
    writes.extend(events.chunks(events_a_write).map(|events| {
        let chunk = events.concat();
        format!("{:x}\r\n{chunk}\r\n", chunk.len()).into_bytes()
    }));
    if let Some(last) = writes.last_mut() {
        last.extend_from_slice(b"0\r\n\r\n");
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Expected;
    use crate::http::{Body, read_head};

    fn writes<'a>(script: &'a Script, path: &str, body: &str) -> &'a [Vec<u8>] {
        script.answer(&format!("POST {path} HTTP/1.1"), body.as_bytes()).unwrap()
    }

    fn holds(writes: &[Vec<u8>], expected: &Expected) {
        let bytes = writes.concat();
        let mut input = bytes.as_slice();
        let head = read_head(&mut input).unwrap().unwrap();
        expected.check(&mut Body::new(&mut input, head.framing), || ()).unwrap();
        assert!(input.is_empty());
    }

    #[test]
    fn every_answer_passes_the_load_generators_check() {
        let script = Script::new();
        let plain = r#"{"stream":true}"#;
        let usage = r#"{"stream":true,"stream_options":{"include_usage":true}}"#;
        for path in ["/one/v1/completions", "/many/v1/completions"] {
            holds(writes(&script, path, "{}"), &Expected::Completion);
            holds(writes(&script, path, plain), &Expected::Stream { events: TEXT_EVENTS + 1 });
            holds(writes(&script, path, usage), &Expected::Stream { events: TEXT_EVENTS + 2 });
        }
    }

    #[test]
    fn the_path_chooses_the_writes() {
        let script = Script::new();
        let stream = r#"{"stream":true}"#;
        // The head, then 200 events with text, the finish and [DONE].
        assert_eq!(writes(&script, "/one/v1/completions", stream).len(), 1 + 202);
        assert_eq!(writes(&script, "/many/v1/completions", stream).len(), 1 + 13);
        assert!(script.answer("POST /v1/completions HTTP/1.1", b"{}").is_none());
    }
}
