//! An upstream's stream into ours: bytes → frames → events → chunks → bytes.
//!
//! [`Transcoder::feed`] takes bytes as they come and writes every chunk that they complete; [`Transcoder::finish`] says
//! how an upstream ended. What is written depends on the bytes alone, never on how the network split them, and once
//! the end mark is written nothing is written any more. [`gather`] does the same for answers that do not stream.

mod composer;
mod learned;
mod stop;
mod tally;

use std::collections::BTreeMap;

use crate::api::{Answer, ApiError, Case, Choice, ChunkWriter, FinishReason, Usage};
use crate::dialect::{Dialect, Event, Redactor, Share, StreamDecoder, UsageReport};
use crate::framing::{Deframer, FrameError};

pub use composer::Progress;
use composer::{Composer, Output};
use learned::{Learned, Repeat};

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
    /// Of the first choice that has ended.
    pub finish_reason: Option<FinishReason>,
}

/// What an answer is to be, known before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What each upstream call gives of it; at least one.
    pub shares: Vec<Share>,
    /// Whether log probabilities were asked for.
    pub wants_logprobs: bool,
    /// The longest event that is read, in bytes.
    pub max_event_bytes: usize,
}

/// One answer's streams on their way through: those of all the upstream calls that it takes, merged as they come.
#[derive(Debug)]
pub struct Transcoder {
    sources: Vec<Source>,
    composer: Composer,
    /// Whether a frame has come since somebody asked, or a part of one.
    heard: bool,
}

/// How one upstream call's stream is read.
#[derive(Debug)]
struct Source {
    deframer: Deframer,
    decoder: Box<dyn StreamDecoder>,
    learned: Learned,
}

impl Transcoder {
    /// A transcoder for one answer of `dialect`.
    #[must_use]
    pub fn new(dialect: &dyn Dialect, writer: ChunkWriter, redactor: Redactor, plan: Plan) -> Self {
        let Plan { shares, wants_logprobs, max_event_bytes } = plan;
        let source = |_: &Share| {
            let decoder = dialect.decoder();
            let learned = Learned::new(max_event_bytes, decoder.repeats());
            Source { deframer: dialect.framing().deframer(max_event_bytes), decoder, learned }
        };
        Self {
            sources: shares.iter().map(source).collect(),
            composer: Composer::new(Output::Chunks(writer), redactor, wants_logprobs, shares),
            heard: false,
        }
    }

    /// Takes the next bytes of a source, and appends to `out` what they make.
    pub fn feed(&mut self, source: usize, bytes: &[u8], out: &mut Vec<u8>) {
        let Self { sources, composer, heard } = self;
        let Some(Source { deframer, decoder, learned }) = sources.get_mut(source) else { return };
        let (held, mut rest) = (deframer.held(), bytes);
        while !rest.is_empty() && composer.listens(source) {
            let frame_at = deframer.frame_at(rest);
            if let Some(Repeat { event, after, index, text }) = frame_at.and_then(|bytes| learned.recognise(bytes)) {
                *heard = true;
                deframer.pass_over(event);
                let event = Event::Delta { index, text: &text, logprobs: None, finish_reason: None };
                composer.take(source, event, Case::UpstreamError, out);
                rest = after;
                continue;
            }
            let mut lesson = learned.lesson(frame_at);
            let next = deframer.next_frame(rest, |frame| {
                *heard = true;
                decoder.frame(frame, &mut |event| {
                    lesson.hear(&event);
                    composer.take(source, event, Case::UpstreamError, out);
                });
            });
            match next {
                Ok(Some(after)) => {
                    learned.learn(lesson, after);
                    rest = after;
                }
                Ok(None) => break,
                Err(error) => composer.fail(unreadable(error), out),
            }
        }
        // An upstream that sends a frame byte by byte is slow, and not silent.
        *heard |= deframer.held() > held;
    }

    /// Takes a whole answer in the place of a source's stream: as the stream that it would have been.
    pub fn replay(&mut self, source: usize, answer: Answer, report: UsageReport, out: &mut Vec<u8>) {
        take_answer(&mut self.composer, source, answer, report, out);
    }

    /// The body of a source has ended: appends what is left to be said. Safe to call twice.
    pub fn finish(&mut self, source: usize, end: End, out: &mut Vec<u8>) {
        let Self { sources, composer, heard } = self;
        if let Some(Source { deframer, decoder, .. }) = sources.get_mut(source)
            && end == End::Closed
            && composer.listens(source)
        {
            // What does not parse now was cut in two by the end, and is no fault of its own.
            let malformed = Case::UpstreamIncomplete;
            let last = deframer.finish(|frame| {
                *heard = true;
                decoder.frame(frame, &mut |event| composer.take(source, event, malformed, out));
            });
            match last {
                Ok(()) => decoder.finish(&mut |event| composer.take(source, event, malformed, out)),
                Err(error) => composer.fail(unreadable(error), out),
            }
        }
        composer.end_of_body(source, end == End::Closed, out);
    }

    /// The upstream was silent for too long: appends what is left to be said.
    pub fn expire(&mut self, out: &mut Vec<u8>) {
        self.composer.fail(ApiError::upstream_timeout(), out);
    }

    /// Whether anything of a choice has been said.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.composer.has_begun()
    }

    /// Whether anything of a source's choices has been said.
    #[must_use]
    pub fn source_has_begun(&self, source: usize) -> bool {
        self.composer.source_has_begun(source)
    }

    /// Whether a frame has come since this was asked last, or a part of one. Comments are none.
    pub fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Whether the end mark has been written: no source has anything to say any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.composer.is_over()
    }

    /// How far a source is.
    #[must_use]
    pub fn progress(&self, source: usize) -> Progress {
        self.composer.progress(source)
    }

    /// The error, if the answer failed before its first chunk: then it can still be answered in plain HTTP.
    #[must_use]
    pub fn failure_before_first_chunk(&self) -> Option<&ApiError> {
        self.composer.failure().filter(|_| !self.composer.has_begun())
    }

    /// What has become of the answer so far; of one that nobody finished, that it was cut.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.composer.outcome()
    }
}

/// The stream cannot be read any further.
fn unreadable(error: FrameError) -> ApiError {
    match error {
        FrameError::TooLong { .. } => {
            ApiError::new(Case::UpstreamTooLong, "The upstream of this model sent an event that is too long.")
        }
        FrameError::Corrupt => ApiError::upstream("The stream of this model's upstream was damaged on its way."),
    }
}

/// Makes one answer of the whole answers of all its upstream calls.
pub fn gather(
    answers: Vec<(Answer, UsageReport)>,
    redactor: Redactor,
    plan: Plan,
) -> Result<(Vec<Choice>, Outcome), ApiError> {
    let output = Output::Whole(BTreeMap::new());
    let mut composer = Composer::new(output, redactor, plan.wants_logprobs, plan.shares);
    for (source, (answer, report)) in answers.into_iter().enumerate() {
        take_answer(&mut composer, source, answer, report, &mut Vec::new());
    }
    let outcome = composer.outcome();
    match outcome.failure {
        Some(error) => Err(error),
        None => Ok((composer.into_choices(), outcome)),
    }
}

fn take_answer(composer: &mut Composer, source: usize, answer: Answer, report: UsageReport, out: &mut Vec<u8>) {
    let mut take = |event: Event<'_>| composer.take(source, event, Case::UpstreamError, out);
    // The count comes first: what follows the end of a choice that is cut is not heard any more.
    take(Event::Usage(report));
    for Choice { index, text, logprobs, finish_reason } in answer.choices {
        take(Event::Delta { index, text: &text, logprobs, finish_reason: Some(finish_reason) });
    }
    if composer.lacks_choices(source) {
        composer.fail(ApiError::upstream("The upstream of this model left out choices that were asked for."), out);
    }
    composer.take(source, Event::End, Case::UpstreamError, out);
}
