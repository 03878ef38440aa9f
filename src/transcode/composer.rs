//! Our side of an answer: what may be said of the events of its upstream calls, in which order, and when it is over.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::api::{ApiError, Case, Choice, ChunkWriter, FinishReason, Logprobs, Usage};
use crate::dialect::{Event, Redactor, Share};

use super::Outcome;
use super::stop::{Scanned, StopScanner};
use super::tally::UsageTally;

/// Where what is said goes.
#[derive(Debug)]
pub(super) enum Output {
    /// Out as chunks, at once.
    Chunks(ChunkWriter),
    /// Into the choices of one answer.
    Whole(BTreeMap<u32, Choice>),
}

/// How far one upstream call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has more to say.
    Open,
    /// It has said all.
    Done,
    /// It would say more, which nobody wants: it is to be broken off.
    Cut,
}

/// The state of an answer.
#[derive(Debug)]
pub(super) struct Composer {
    output: Output,
    redactor: Redactor,
    /// Whether log probabilities were asked for; some upstreams send them unasked.
    wants_logprobs: bool,
    sources: Vec<Source>,
    /// Of the first choice that has ended.
    finish_reason: Option<FinishReason>,
    /// Whether the end has been said.
    over: bool,
    failure: Option<ApiError>,
}

/// One upstream call's share of the answer.
#[derive(Debug)]
struct Source {
    first: u32,
    choices: Vec<ChoiceState>,
    /// How many of them have ended, and whether one of these by us.
    finished: usize,
    is_cut: bool,
    /// The prompts, where they have to be said before their completions, and how many choices each has.
    echo: Vec<Rc<str>>,
    n: usize,
    /// The number that the upstream gives to its only choice.
    only_index: Option<u32>,
    usage: UsageTally,
    progress: Progress,
}

/// How far a choice is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The upstream has not named it yet.
    #[default]
    Missing,
    /// It has been named.
    Seen,
    /// Something of it has been said, the prompt that it echoes first.
    Begun,
    /// It has its finish reason, after which nothing of it is said.
    Finished,
}

/// One choice on its way.
#[derive(Debug, Default)]
struct ChoiceState {
    stage: Stage,
    /// Where the next token begins, in characters: counted by the tokens, once there are any.
    token_chars: u64,
    has_tokens: bool,
    scanner: Option<StopScanner>,
}

/// What an event adds to a choice.
struct Addition<'a> {
    text: &'a str,
    logprobs: Option<Logprobs>,
    finish_reason: Option<FinishReason>,
}

impl Composer {
    pub(super) fn new(output: Output, redactor: Redactor, wants_logprobs: bool, shares: Vec<Share>) -> Self {
        let sources = shares.into_iter().map(Source::new).collect();
        Self { output, redactor, wants_logprobs, sources, finish_reason: None, over: false, failure: None }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn failure(&self) -> Option<&ApiError> {
        self.failure.as_ref()
    }

    pub(super) fn has_begun(&self) -> bool {
        self.sources.iter().any(Source::has_begun)
    }

    /// Whether anything of a source's choices has been said.
    pub(super) fn source_has_begun(&self, source: usize) -> bool {
        self.sources.get(source).is_some_and(Source::has_begun)
    }

    /// Of a source that does not exist nothing is wanted.
    pub(super) fn progress(&self, source: usize) -> Progress {
        self.sources.get(source).map_or(Progress::Cut, |source| source.progress)
    }

    /// Whether anything that a source says is still of use.
    pub(super) fn listens(&self, source: usize) -> bool {
        !self.over && self.progress(source) == Progress::Open
    }

    /// The tokens of all calls together.
    fn usage(&self) -> Usage {
        let of = |source: &Source| match source.progress {
            Progress::Done => source.usage.usage(),
            Progress::Open | Progress::Cut => source.usage.usage_when_cut(),
        };
        self.sources.iter().map(of).fold(Usage::default(), Usage::plus)
    }

    /// Whether the upstreams have counted all tokens.
    fn is_reported(&self) -> bool {
        self.sources.iter().all(|source| source.usage.is_reported(source.progress == Progress::Done))
    }

    /// What has become of the answer so far.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome {
            failure: self.failure.clone(),
            usage: self.usage(),
            reported: self.is_reported(),
            finish_reason: self.finish_reason,
        }
    }

    /// The choices gathered, by index.
    pub(super) fn into_choices(self) -> Vec<Choice> {
        match self.output {
            Output::Whole(choices) => choices.into_values().collect(),
            Output::Chunks(_) => Vec::new(),
        }
    }

    /// Takes what `source` says. A frame that its decoder cannot read counts as `malformed`.
    pub(super) fn take(&mut self, source: usize, event: Event<'_>, malformed: Case, out: &mut Vec<u8>) {
        if !self.listens(source) {
            return;
        }
        match event {
            Event::Delta { index, text, logprobs, finish_reason } => {
                self.delta(source, index, Addition { text, logprobs, finish_reason }, out);
            }
            Event::Usage(report) => {
                if let Some(source) = self.sources.get_mut(source) {
                    source.usage.report(report);
                }
            }
            Event::UsageOf { index, report } => {
                if let Some((_, source, place)) = self.sources.get_mut(source).and_then(|source| source.locate(index)) {
                    source.usage.report_of(place, source.choices.len(), report);
                }
            }
            Event::Failed(fault) => {
                let error = fault.into_api_error(&self.redactor);
                self.fail(error, out);
            }
            Event::Malformed if malformed == Case::UpstreamIncomplete => self.fail(incomplete(), out),
            Event::Malformed => {
                self.fail(ApiError::upstream("The upstream of this model sent an event that makes no sense."), out);
            }
            Event::End => self.end(source, out),
        }
    }

    fn delta(&mut self, source: usize, index: u32, addition: Addition<'_>, out: &mut Vec<u8>) {
        let Self { output, sources, wants_logprobs, finish_reason: first_reason, .. } = self;
        let Some(source) = sources.get_mut(source) else { return };
        let Some((index, Source { choices, finished, is_cut, echo, n, usage, progress, .. }, place)) =
            source.locate(index)
        else {
            return self
                .fail(ApiError::upstream("The upstream of this model sent a choice that was not asked for."), out);
        };
        let Some(choice) = choices.get_mut(place) else { return };
        choice.stage = choice.stage.max(Stage::Seen);
        let Addition { text, logprobs, finish_reason } = addition;
        let addition = Addition { text, logprobs: logprobs.filter(|_| *wants_logprobs), finish_reason };
        if choice.is_finished() || addition.is_empty() {
            return;
        }
        let held;
        let mut cut = false;
        let mut addition = if let Some(scanner) = &mut choice.scanner {
            let last = finish_reason.is_some();
            let Scanned { text, logprobs, stopped, went_on } = scanner.scan(text, addition.logprobs, last);
            cut = stopped && (went_on || finish_reason.is_none());
            let finish_reason = if stopped { Some(FinishReason::Stop) } else { finish_reason };
            held = text;
            Addition { text: &held, logprobs, finish_reason }
        } else {
            addition
        };
        if addition.is_empty() {
            return;
        }
        if choice.stage < Stage::Begun
            && let Some(prompt) =
                place.checked_div(*n).and_then(|prompt| echo.get(prompt)).filter(|prompt| !prompt.is_empty())
        {
            choice.token_chars = chars(prompt);
            output.choice(out, index, &Addition { text: prompt, logprobs: None, finish_reason: None });
        }
        if let Some(logprobs) = &mut addition.logprobs {
            choice.has_tokens = true;
            choice.token_chars = fill_offsets(logprobs, choice.token_chars);
        } else if *wants_logprobs && !choice.has_tokens {
            choice.token_chars = choice.token_chars.saturating_add(chars(addition.text));
        }
        choice.stage = match addition.finish_reason {
            None => Stage::Begun,
            Some(_) => Stage::Finished,
        };
        usage.see(addition.text);
        *first_reason = first_reason.or(addition.finish_reason);
        output.choice(out, index, &addition);
        if addition.finish_reason.is_some() {
            *finished = finished.saturating_add(1);
            *is_cut |= cut;
            if *is_cut && *finished == choices.len() {
                *progress = Progress::Cut;
                self.complete_if_all_are(out);
            }
        }
    }

    /// Whether a source has not begun all of its choices.
    pub(super) fn lacks_choices(&self, source: usize) -> bool {
        self.sources
            .get(source)
            .is_some_and(|source| source.choices.iter().any(|choice| choice.stage == Stage::Missing))
    }

    /// The dialect's own end has come. A choice that the upstream forgot to finish was done; one that never came is
    /// missing.
    fn end(&mut self, source: usize, out: &mut Vec<u8>) {
        if self.lacks_choices(source) {
            return self.fail(incomplete(), out);
        }
        let Some(state) = self.sources.get(source) else { return };
        // The upstream's number for its only choice is its own.
        let numbers = state.only_index.unwrap_or_default()..;
        let open = numbers.zip(&state.choices).filter(|(_, choice)| !choice.is_finished()).map(|(index, _)| index);
        for index in open.collect::<Vec<_>>() {
            let done = Addition { text: "", logprobs: None, finish_reason: Some(FinishReason::Stop) };
            self.delta(source, index, done, out);
        }
        self.close(source, out);
    }

    /// The body of `source` has ended. That proves nothing: it is complete only if every choice of it is.
    pub(super) fn end_of_body(&mut self, source: usize, closed: bool, out: &mut Vec<u8>) {
        if !self.listens(source) {
            return;
        }
        let finished = |source: &Source| source.finished == source.choices.len();
        if closed && self.sources.get(source).is_some_and(finished) {
            self.close(source, out);
        } else {
            self.fail(incomplete(), out);
        }
    }

    fn close(&mut self, source: usize, out: &mut Vec<u8>) {
        if let Some(source) = self.sources.get_mut(source).filter(|source| source.progress == Progress::Open) {
            source.progress = Progress::Done;
        }
        self.complete_if_all_are(out);
    }

    fn complete_if_all_are(&mut self, out: &mut Vec<u8>) {
        if self.over || self.sources.iter().any(|source| source.progress == Progress::Open) {
            return;
        }
        if let Output::Chunks(writer) = &self.output {
            if writer.includes_usage() {
                writer.usage(out, self.usage());
            }
            writer.done(out);
        }
        self.over = true;
    }

    pub(super) fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        if let Output::Chunks(_) = self.output {
            error.write_event(out);
        }
        self.failure = Some(error);
        self.over = true;
    }
}

impl Source {
    fn new(share: Share) -> Self {
        let Share { first, choices, n, estimated_prompt_tokens, echo, stops } = share;
        let scanner = || (!stops.is_empty()).then(|| StopScanner::new(Rc::clone(&stops)));
        let choices = (0..choices).map(|_| ChoiceState { scanner: scanner(), ..ChoiceState::default() }).collect();
        let usage = UsageTally::new(estimated_prompt_tokens, n);
        Self {
            first,
            choices,
            finished: 0,
            is_cut: false,
            echo,
            n: usize::try_from(n).unwrap_or(usize::MAX),
            only_index: None,
            usage,
            progress: Progress::Open,
        }
    }

    /// Whether anything of its choices has been said.
    fn has_begun(&self) -> bool {
        self.choices.iter().any(|choice| choice.stage >= Stage::Begun)
    }

    /// The choice that the upstream means: its number in the answer, and its place here.
    fn locate(&mut self, index: u32) -> Option<(u32, &mut Self, usize)> {
        // Where there is one choice, it is meant, whatever number the upstream gives it: but then always the same.
        let index = match self.choices.len() {
            1 => (*self.only_index.get_or_insert(index) == index).then_some(0)?,
            _ => index,
        };
        let place = usize::try_from(index).ok().filter(|place| *place < self.choices.len())?;
        Some((self.first.saturating_add(index), self, place))
    }
}

impl ChoiceState {
    fn is_finished(&self) -> bool {
        self.stage == Stage::Finished
    }
}

impl Addition<'_> {
    /// A role, a reasoning step, or whatever else upstreams tell of that is not ours to tell.
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logprobs.is_none() && self.finish_reason.is_none()
    }
}

impl Output {
    fn choice(&mut self, out: &mut Vec<u8>, index: u32, addition: &Addition<'_>) {
        let Addition { text, logprobs, finish_reason } = addition;
        match self {
            Self::Chunks(writer) => writer.choice(out, index, text, logprobs.as_ref(), *finish_reason),
            Self::Whole(choices) => {
                if let Some(choice) = choices.get_mut(&index) {
                    choice.text.push_str(text);
                    if let Some(logprobs) = logprobs {
                        choice.logprobs.get_or_insert_default().append(logprobs.clone());
                    }
                    choice.finish_reason = finish_reason.unwrap_or(choice.finish_reason);
                } else {
                    let finish_reason = finish_reason.unwrap_or(FinishReason::Stop);
                    let choice = Choice { index, text: (*text).to_owned(), logprobs: logprobs.clone(), finish_reason };
                    choices.insert(index, choice);
                }
            }
        }
    }
}

fn incomplete() -> ApiError {
    ApiError::new(Case::UpstreamIncomplete, "The upstream of this model ended its stream before it was complete.")
}

/// Gives tokens without offsets theirs: one after the other, from `begin` on. Returns where the next one begins.
fn fill_offsets(logprobs: &mut Logprobs, begin: u64) -> u64 {
    let Logprobs { tokens, text_offset, .. } = logprobs;
    let given = text_offset.len() == tokens.len();
    let mut offset = begin;
    for (i, token) in tokens.iter().enumerate() {
        if !given {
            text_offset.truncate(i);
            text_offset.push(offset);
        }
        offset = offset.saturating_add(chars(token));
    }
    offset
}

fn chars(text: &str) -> u64 {
    text.chars().count() as u64
}
