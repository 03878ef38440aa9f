//! What the scripted upstream answers. Every byte is made before the first request, so that an answer costs writes alone.

use std::fmt::Write as _;
use std::time::Duration;

use crate::stamp;

/// Events with text in a stream. A finish event follows, then a usage event where it was asked for, then `[DONE]`.
pub const TEXT_EVENTS: usize = 200;

/// Events in a write when many go into one: a model server that has fallen behind, or a fast small model.
const EVENTS_OF_A_BIG_WRITE: usize = 16;

const USAGE: &str = r#"{"prompt_tokens":6,"completion_tokens":200,"total_tokens":206}"#;

/// A model that writes 50 tokens a second.
const HUMAN_PACE: Duration = Duration::from_millis(20);

/// A short stream, for many first tokens in a second, with pauses in which nothing else is going on.
/// Faster than anybody reads: 200 tokens a second.
const BRISK_PACE: Duration = Duration::from_millis(5);
const SHORT_EVENTS: usize = 4;
const SHORT_PACE: Duration = Duration::from_millis(5);

/// The answers of one upstream.
#[derive(Debug)]
pub struct Script {
    completion: Answer,
    one_a_write: Streams,
    many_a_write: Streams,
    paced: Streams,
    brisk: Streams,
    short: Streams,
}

/// A stream, without and with usage.
#[derive(Debug)]
struct Streams {
    plain: Answer,
    with_usage: Answer,
}

/// What a request is answered: a head, and the writes of the body, each of them due so long after the one before.
#[derive(Debug)]
pub struct Answer {
    /// Goes out at once.
    pub head: Vec<u8>,
    /// The first is due at once.
    pub writes: Vec<Vec<u8>>,
    /// Zero for as fast as they can be written. Where it is not, each write with text has a place for a [`stamp`].
    pub pace: Duration,
}

impl Script {
    /// Writes all answers.
    #[must_use]
    pub fn new() -> Self {
        let burst = |events_a_write| Streams::new(TEXT_EVENTS, events_a_write, Duration::ZERO);
        Self {
            completion: completion(),
            one_a_write: burst(1),
            many_a_write: burst(EVENTS_OF_A_BIG_WRITE),
            paced: Streams::new(TEXT_EVENTS, 1, HUMAN_PACE),
            brisk: Streams::new(TEXT_EVENTS, 1, BRISK_PACE),
            short: Streams::new(SHORT_EVENTS, 1, SHORT_PACE),
        }
    }

    /// What a request is answered, `None` for a path that is not served.
    ///
    /// The body is searched and not parsed: what is sent here is compact JSON from the load generator or from the Worker,
    /// and a parser would cost the upstream more than its answer does.
    #[must_use]
    pub fn answer(&self, request_line: &str, body: &[u8]) -> Option<&Answer> {
        let streams = match request_line.split(' ').nth(1)? {
            "/one/v1/completions" => &self.one_a_write,
            "/many/v1/completions" => &self.many_a_write,
            "/paced/v1/completions" => &self.paced,
            "/brisk/v1/completions" => &self.brisk,
            "/short/v1/completions" => &self.short,
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

fn completion() -> Answer {
    let text: String = (0..TEXT_EVENTS).map(text).collect();
    let body = format!(
        r#"{{"id":"cmpl-9kKfXhGz3vTqYw2LbN8sRdP5","object":"text_completion","created":1714569952,"model":"scripted","choices":[{{"text":"{text}","index":0,"logprobs":null,"finish_reason":"stop"}}],"usage":{USAGE}}}"#
    );
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    // In one write: a head of its own would be a packet more for every target.
    Answer { head: Vec::new(), writes: vec![(head + &body).into_bytes()], pace: Duration::ZERO }
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

impl Streams {
    fn new(events: usize, events_a_write: usize, pace: Duration) -> Self {
        let stream = |with_usage| stream(events, events_a_write, pace, with_usage);
        Self { plain: stream(false), with_usage: stream(true) }
    }
}

fn stream(events: usize, events_a_write: usize, pace: Duration, with_usage: bool) -> Answer {
    let null_usage = with_usage.then_some("null");
    let text = |index| if pace.is_zero() { text(index) } else { stamp::PLACE.to_owned() };
    let mut events: Vec<String> = (0..events)
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
    let mut writes: Vec<Vec<u8>> = events
        .chunks(events_a_write)
        .map(|events| {
            let chunk = events.concat();
            format!("{:x}\r\n{chunk}\r\n", chunk.len()).into_bytes()
        })
        .collect();
    if let Some(last) = writes.last_mut() {
        last.extend_from_slice(b"0\r\n\r\n");
    }
    Answer { head: head.as_bytes().to_vec(), writes, pace }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Expected;
    use crate::http::{Body, read_head};

    fn answer<'a>(script: &'a Script, path: &str, body: &str) -> &'a Answer {
        script.answer(&format!("POST {path} HTTP/1.1"), body.as_bytes()).unwrap()
    }

    fn holds(answer: &Answer, expected: &Expected) {
        let bytes = [answer.head.as_slice(), &answer.writes.concat()].concat();
        let mut input = bytes.as_slice();
        let head = read_head(&mut input).unwrap().unwrap();
        expected.check(&mut Body::new(&mut input, head.framing), |_| ()).unwrap();
        assert!(input.is_empty());
    }

    #[test]
    fn every_answer_passes_the_load_generators_check() {
        let script = Script::new();
        let plain = r#"{"stream":true}"#;
        let usage = r#"{"stream":true,"stream_options":{"include_usage":true}}"#;
        for (path, events) in [("one", 201), ("many", 201), ("paced", 201), ("brisk", 201), ("short", 5)] {
            let path = format!("/{path}/v1/completions");
            holds(answer(&script, &path, "{}"), &Expected::Completion);
            holds(answer(&script, &path, plain), &Expected::Stream { events });
            holds(answer(&script, &path, usage), &Expected::Stream { events: events + 1 });
        }
    }

    #[test]
    fn the_path_chooses_the_writes() {
        let script = Script::new();
        let stream = r#"{"stream":true}"#;
        // 200 events with text, the finish and [DONE].
        assert_eq!(answer(&script, "/one/v1/completions", stream).writes.len(), 202);
        assert_eq!(answer(&script, "/many/v1/completions", stream).writes.len(), 13);
        assert!(script.answer("POST /v1/completions HTTP/1.1", b"{}").is_none());
    }
}
