//! An upstream's stream into ours: bytes → frames → events → chunks → bytes.
//!
//! [`Transcoder::feed`] takes bytes as they come and writes every chunk that they complete; [`Transcoder::finish`] says
//! how the upstream ended. What is written depends on the bytes alone, never on how the network split them, and once
//! the end mark is written nothing is written any more.

use std::ops::ControlFlow;

use crate::api::{ApiError, Case, ChunkWriter, FinishReason, Logprobs, Usage, tokens_of_bytes};
use crate::dialect::{Dialect, Event, Redactor, StreamDecoder, UsageReport};
use crate::framing::Deframer;
use crate::framing::FrameError;

/// How the upstream's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The transport says that this was all.
    Closed,
    /// The connection broke.
    Broken,
}

/// What became of a stream, for whoever settles it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Nothing if the stream is complete, else the error that ended it.
    pub failure: Option<ApiError>,
    /// What the client got, in tokens.
    pub usage: Usage,
    /// Whether the upstream counted the tokens; else they are estimated from the text.
    pub reported: bool,
}

/// What a stream is to be, known before it begins.
#[derive(Debug)]
pub struct Plan {
    /// How many choices there must be.
    pub choices: u32,
    /// The prompt's tokens, where the upstream does not count them.
    pub estimated_prompt_tokens: u64,
    /// The longest event that is read, in bytes.
    pub max_event_bytes: usize,
}

/// One stream on its way through.
#[derive(Debug)]
pub struct Transcoder {
    deframer: Deframer,
    decoder: Box<dyn StreamDecoder>,
    stream: Stream,
}

/// The state of our side of the stream.
#[derive(Debug)]
struct Stream {
    writer: ChunkWriter,
    redactor: Redactor,
    choices: Vec<ChoiceState>,
    /// The number that the upstream gives to the only choice.
    only_index: Option<u32>,
    usage: UsageTally,
    /// Whether a chunk has been written.
    begun: bool,
    /// Whether the end mark has been written.
    over: bool,
    failure: Option<ApiError>,
}

/// Invariant: nothing of a choice is written after its finish reason.
#[derive(Clone, Copy, Debug, Default)]
struct ChoiceState {
    seen: bool,
    finished: bool,
    /// Characters of text written, which is where the next token begins.
    chars: u64,
}

/// What is known of the tokens: as reported, and as seen.
#[derive(Clone, Copy, Debug)]
pub struct UsageTally {
    report: UsageReport,
    estimated_prompt_tokens: u64,
    text_bytes: u64,
}

impl UsageTally {
    /// Nothing reported, nothing seen, and a prompt of so many tokens.
    #[must_use]
    pub fn new(estimated_prompt_tokens: u64) -> Self {
        Self { report: UsageReport::default(), estimated_prompt_tokens, text_bytes: 0 }
    }

    /// Takes a report. Reports are cumulative, so a later one replaces an earlier one, field by field.
    pub fn report(&mut self, report: UsageReport) {
        self.report.prompt_tokens = report.prompt_tokens.or(self.report.prompt_tokens);
        self.report.completion_tokens = report.completion_tokens.or(self.report.completion_tokens);
    }

    /// Takes note of text that goes to the client.
    pub fn see(&mut self, text: &str) {
        self.text_bytes = self.text_bytes.saturating_add(text.len() as u64);
    }

    /// Whether the upstream has counted the completion.
    #[must_use]
    pub fn is_reported(&self) -> bool {
        self.report.completion_tokens.is_some()
    }

    /// The tokens of an answer that is complete.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.report.prompt_tokens.unwrap_or(self.estimated_prompt_tokens),
            completion_tokens: self.report.completion_tokens.unwrap_or(tokens_of_bytes(self.text_bytes)),
        }
    }

    /// The tokens of a stream that was cut short: the larger of what was reported and what was sent on.
    #[must_use]
    pub fn usage_when_cut(&self) -> Usage {
        let seen = tokens_of_bytes(self.text_bytes);
        let usage = self.usage();
        Usage { completion_tokens: usage.completion_tokens.max(seen), ..usage }
    }
}

impl Transcoder {
    /// A transcoder for one stream of `dialect`.
    #[must_use]
    pub fn new(dialect: &dyn Dialect, writer: ChunkWriter, redactor: Redactor, plan: &Plan) -> Self {
        let choices = usize::try_from(plan.choices).unwrap_or(usize::MAX);
        Self {
            deframer: dialect.framing().deframer(plan.max_event_bytes),
            decoder: dialect.decoder(),
            stream: Stream {
                writer,
                redactor,
                choices: vec![ChoiceState::default(); choices],
                only_index: None,
                usage: UsageTally::new(plan.estimated_prompt_tokens),
                begun: false,
                over: false,
                failure: None,
            },
        }
    }

    /// Takes the upstream's next bytes and appends to `out` what they make.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.pass(|deframer, sink| deframer.feed(bytes, sink), Case::UpstreamError, out);
    }

    /// The upstream's body has ended: appends what is left to be said, and tells the outcome. Safe to call twice.
    pub fn finish(&mut self, end: End, out: &mut Vec<u8>) -> Outcome {
        if end == End::Closed {
            // What does not parse now was cut in two by the end, and is no fault of its own.
            self.pass(|deframer, sink| deframer.finish(sink), Case::UpstreamIncomplete, out);
        }
        self.stream.end_of_body(end, out);
        self.outcome()
    }

    /// Whether the end mark has been written: the upstream has nothing to say any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stream.over
    }

    /// The error, if the stream failed before its first chunk: then it can still be answered in plain HTTP.
    #[must_use]
    pub fn failure_before_first_chunk(&self) -> Option<&ApiError> {
        self.stream.failure.as_ref().filter(|_| !self.stream.begun)
    }

    /// What has become of the stream so far; of a stream that nobody finished, that it was cut.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let Stream { usage, failure, over, .. } = &self.stream;
        let complete = *over && failure.is_none();
        Outcome {
            failure: failure.clone(),
            usage: if complete { usage.usage() } else { usage.usage_when_cut() },
            reported: usage.is_reported(),
        }
    }

    /// Runs bytes through deframer and decoder; a frame that the decoder cannot read counts as `malformed`.
    fn pass(
        &mut self,
        deframe: impl FnOnce(
            &mut Deframer,
            &mut dyn FnMut(crate::framing::Frame<'_>) -> ControlFlow<()>,
        ) -> Result<(), crate::framing::FrameError>,
        malformed: Case,
        out: &mut Vec<u8>,
    ) {
        let Self { deframer, decoder, stream } = self;
        if stream.over {
            return;
        }
        let result = deframe(deframer, &mut |frame| {
            decoder.frame(frame, &mut |event| stream.take(event, malformed, out));
            if stream.over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match result {
            Ok(()) => {}
            Err(FrameError::TooLong { .. }) => {
                stream.fail(ApiError::upstream("The upstream of this model sent an event that is too long."), out);
            }
            Err(FrameError::Corrupt) => {
                stream.fail(ApiError::upstream("The stream of this model's upstream was damaged on its way."), out);
            }
        }
    }
}

impl Stream {
    fn take(&mut self, event: Event<'_>, malformed: Case, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        match event {
            Event::Delta { index, text, logprobs, finish_reason } => {
                self.delta(index, text, logprobs, finish_reason, out);
            }
            Event::Usage(report) => self.usage.report(report),
            Event::Failed(fault) => {
                let error = fault.into_api_error(&self.redactor);
                self.fail(error, out);
            }
            Event::Malformed if malformed == Case::UpstreamIncomplete => self.fail(incomplete(), out),
            Event::Malformed => {
                self.fail(ApiError::upstream("The upstream of this model sent an event that makes no sense."), out);
            }
            Event::End => self.end(out),
        }
    }

    fn delta(
        &mut self,
        index: u32,
        text: &str,
        mut logprobs: Option<Logprobs>,
        finish_reason: Option<FinishReason>,
        out: &mut Vec<u8>,
    ) {
        // Where there is one choice, it is meant, whatever number the upstream gives it: but then always the same.
        let index = match self.choices.len() {
            1 => (*self.only_index.get_or_insert(index) == index).then_some(0),
            _ => Some(index),
        };
        let place = index.and_then(|index| usize::try_from(index).ok());
        let choice = place.and_then(|place| self.choices.get_mut(place));
        let Some((index, choice)) = index.zip(choice) else {
            return self
                .fail(ApiError::upstream("The upstream of this model sent a choice that was not asked for."), out);
        };
        choice.seen = true;
        // A role, a reasoning step, or whatever comes after the finish reason.
        let is_empty = text.is_empty() && logprobs.is_none() && finish_reason.is_none();
        if choice.finished || is_empty {
            return;
        }
        if let Some(logprobs) = &mut logprobs {
            fill_offsets(logprobs, choice.chars);
        }
        choice.finished = finish_reason.is_some();
        choice.chars = choice.chars.saturating_add(text.chars().count() as u64);
        self.usage.see(text);
        self.begun = true;
        self.writer.choice(out, index, text, logprobs.as_ref(), finish_reason);
    }

    /// The dialect's own end has come. A choice that the upstream forgot to finish was done; one that never came is
    /// missing.
    fn end(&mut self, out: &mut Vec<u8>) {
        if self.choices.iter().any(|choice| !choice.seen) {
            return self.fail(incomplete(), out);
        }
        for index in 0..self.choices.len() {
            if self.choices.get(index).is_some_and(|choice| !choice.finished) {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                self.delta(index, "", None, Some(FinishReason::Stop), out);
            }
        }
        self.complete(out);
    }

    /// The body has ended. That proves nothing: the stream is complete only if every choice is.
    fn end_of_body(&mut self, end: End, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        if end == End::Closed && self.choices.iter().all(|choice| choice.finished) {
            self.complete(out);
        } else {
            self.fail(incomplete(), out);
        }
    }

    fn complete(&mut self, out: &mut Vec<u8>) {
        if self.writer.includes_usage() {
            self.writer.usage(out, self.usage.usage());
        }
        self.writer.done(out);
        self.over = true;
    }

    fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        if !self.over {
            error.write_event(out);
            self.failure = Some(error);
            self.over = true;
        }
    }
}

fn incomplete() -> ApiError {
    ApiError::new(Case::UpstreamIncomplete, "The upstream of this model ended its stream before it was complete.")
}

/// Gives tokens without offsets theirs: one after the other, from the choice's `chars` on.
fn fill_offsets(logprobs: &mut Logprobs, chars: u64) {
    if logprobs.text_offset.len() == logprobs.tokens.len() {
        return;
    }
    let mut offset = chars;
    logprobs.text_offset = logprobs
        .tokens
        .iter()
        .map(|token| {
            let at = offset;
            offset = offset.saturating_add(token.chars().count() as u64);
            at
        })
        .collect();
}

/// The same for a whole choice.
pub fn complete_offsets(logprobs: &mut Logprobs) {
    fill_offsets(logprobs, 0);
}
