//! One target's answer: the calls that it takes there, made at once, and what they answer as ours, or why not.

use std::cell::Cell;

use futures_util::future::select_all;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};

use crate::api::{
    Answer, ApiError, Case, ChunkHead, ChunkWriter, CompletionRequest, Usage, tokens_of_bytes, write_completion,
};
use crate::config::{GatewayConfig, Model, Target, Upstream};
use crate::dialect::{
    Bounds, Call, Dialect, Fault, Redactor, Share, UpstreamRequest, UsageReport, refuse_unsupported, split,
};
use crate::health::Verdict;
use crate::transcode::{End, Outcome, Plan, Progress, Transcoder, gather};

use super::reply::{JSON, KEEPALIVE, Patience, Reply, ReplyBody, StreamBody};
use super::{CallError, Closing, Platform, ReadError, UpstreamBody, UpstreamResponse};

/// What stays the same for all targets of one request.
pub(super) struct Attempts<'a> {
    pub request: &'a CompletionRequest<'a>,
    pub config: &'a GatewayConfig,
    pub model: &'a Model,
    pub head: &'a ChunkHead,
    pub format: crate::api::ChunkFormat,
    /// For upstreams: the client's trace, with our span.
    pub traceparent: Option<&'a str>,
}

/// A target with its calls, ready to be sent.
pub(super) struct Prepared<'a> {
    name: &'a str,
    pub target: &'a Target,
    upstream: &'a Upstream,
    dialect: &'static dyn Dialect,
    calls: Vec<UpstreamRequest>,
    shares: Vec<Share>,
    redactor: Redactor,
}

impl Prepared<'_> {
    /// The name of its dialect.
    pub(super) fn dialect(&self) -> &'static str {
        self.upstream.dialect.name()
    }
}

/// What a target answered, and what that used if it is known already: a stream still has to tell.
pub(super) struct Answered<B> {
    pub reply: Reply<B>,
    pub outcome: Option<Outcome>,
    /// When all of the target's headers had come, since 1970.
    pub headers_ms: u64,
}

/// Why a target gave no answer.
pub(super) struct Failed {
    /// What the client is told, should this be the last target.
    pub error: ApiError,
    /// Whether another target may do better.
    pub retryable: bool,
    /// What was used all the same: owed where the client did not stay to get it, else wasted.
    pub outcome: Option<Outcome>,
    /// Whether the client went away.
    pub client_gone: bool,
}

impl Failed {
    /// What it says of the target.
    pub(super) fn verdict(&self) -> Verdict {
        match self.error.case {
            // The client went away, its request was at fault, or our own bounds are.
            _ if !self.retryable => Verdict::Neutral,
            Case::UpstreamTooLong => Verdict::Neutral,
            _ if self.error.case == Case::UpstreamLimited || self.error.retry_after_ms.is_some() => {
                Verdict::Limited { retry_after_ms: self.error.retry_after_ms }
            }
            _ => Verdict::Failure,
        }
    }

    pub(super) fn retryable(error: ApiError) -> Self {
        Self { error, retryable: true, outcome: None, client_gone: false }
    }

    /// The client went away: nobody reads this, and no upstream is to blame.
    pub(super) fn client_gone() -> Self {
        Self { error: ApiError::internal(), retryable: false, outcome: None, client_gone: true }
    }
}

/// What one call answered.
enum Part<B> {
    /// All at once.
    Whole(Answer, UsageReport),
    /// A stream that begins.
    Stream(B),
}

const HTML: &str = "text/html";

/// The longest error body that is read; a longer one says nothing that a client needs.
const MAX_FAULT_BYTES: usize = 64 << 10;
/// How many calls wait for their headers at once. Workers lets no more wait, and the time of the others would run.
/// <https://developers.cloudflare.com/workers/platform/limits/#simultaneous-open-connections>
const STARTS_AT_ONCE: usize = 6;
/// How long an error body is waited for: the status has said the most of it.
const FAULT_WAIT_MS: u32 = 2000;

impl<'a> Attempts<'a> {
    /// Writes the calls for one target. An error is the client's: the target's dialect cannot say what it asks for.
    pub(super) fn prepare<P: Platform>(&self, platform: &P, target: &'a Target) -> Result<Prepared<'a>, ApiError> {
        // The configuration's check has made sure that the upstream exists.
        let upstream = self.config.upstreams.get(&target.upstream).ok_or_else(ApiError::internal)?;
        let dialect = upstream.dialect.dialect();
        refuse_unsupported(self.request, upstream.abilities())?;
        if let Some((name, _)) = self.request.extra.iter().find(|(name, _)| self.model.body.contains_key(&**name)) {
            let message =
                format!("Unsupported parameter: '{name}' is set by the operator of the model `{}`.", self.head.model);
            return Err(ApiError::new(Case::UnsupportedParameter, message).about(name));
        }
        let limits = self.config.limits;
        // A body is held as it came, and twice as calls of it, in Rust and in JavaScript.
        let bounds = Bounds { calls: limits.max_parallel_calls, prompt_bytes: limits.max_body_bytes.saturating_mul(2) };
        let parts = split(self.request, upstream.abilities(), bounds)?;
        let secret = match &upstream.key {
            None => None,
            Some(name) => Some(secret(platform, &target.upstream, name)?),
        };
        let (secret, now_ms) = (secret.as_deref(), platform.now_ms());
        let (mut calls, mut shares) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        for part in parts {
            let call = Call {
                request: &part.request,
                upstream,
                target,
                model: self.model,
                secret,
                traceparent: self.traceparent,
                now_ms,
            };
            calls.push(dialect.encode(&call)?);
            shares.push(part.share);
        }
        let redactor = Redactor::new(secret, &upstream.base_url, &target.model, &self.head.model);
        Ok(Prepared { name: &target.upstream, target, upstream, dialect, calls, shares, redactor })
    }

    /// Calls the target. What comes back has begun to be an answer: a failure before its first chunk is an error here,
    /// while another target can still be tried. Of several calls all have begun to answer, or the others are broken
    /// off.
    pub(super) async fn send<P: Platform>(
        &self,
        platform: &P,
        mut prepared: Prepared<'a>,
    ) -> Result<Answered<P::Body>, Failed> {
        let mut calls = std::mem::take(&mut prepared.calls);
        let parts = match (calls.pop(), prepared.shares.as_slice()) {
            // Nearly always: the one call is waited for as it is.
            (Some(call), [share]) if calls.is_empty() => {
                let owed = Cell::default();
                let started = self.start(platform, &prepared, call, share, &owed).await;
                vec![started.map_err(|failed| Failed { outcome: sum(&[owed]), ..failed })?]
            }
            (last, _) => self.start_all(platform, &prepared, calls.into_iter().chain(last)).await?,
        };
        let headers_ms = platform.now_ms();
        let Prepared { name, upstream, dialect, shares, redactor, .. } = prepared;
        let wants_logprobs = self.request.logprobs.is_some();
        let plan = Plan { shares, wants_logprobs, max_event_bytes: self.config.limits.max_event_bytes };
        if self.request.stream {
            let transcoder = Transcoder::new(dialect, self.writer(), redactor, plan);
            let patience = Patience {
                keepalive_ms: self.config.keepalive_ms,
                first_token_ms: upstream.first_token_timeout_ms,
                idle_ms: upstream.idle_timeout_ms,
            };
            let begun = begin(platform, name, transcoder, parts, patience, self.model.gather_ms);
            let (reply, outcome) = begun.await?;
            return Ok(Answered { reply, outcome, headers_ms });
        }
        // A call that was not to stream is answered whole, or not at all.
        let answers = parts.into_iter().filter_map(|part| match part {
            Part::Whole(answer, report) => Some((answer, report)),
            Part::Stream(_) => None,
        });
        let (choices, outcome) = gather(answers.collect(), redactor, plan).map_err(|error| {
            platform.warn(&format!("upstream `{name}` failed: its answer has not the choices that it was asked for"));
            Failed::retryable(error)
        })?;
        let reply = Reply::ok(JSON, write_completion(self.head, &choices, outcome.usage));
        Ok(Answered { reply, outcome: Some(outcome), headers_ms })
    }

    /// Makes several calls, up to where all have begun to answer.
    async fn start_all<P: Platform>(
        &self,
        platform: &P,
        prepared: &Prepared<'_>,
        calls: impl Iterator<Item = UpstreamRequest>,
    ) -> Result<Vec<Part<P::Body>>, Failed> {
        // What each call is owed as soon as it has begun to answer, should the client leave before all have.
        let owed: Vec<Cell<Option<Usage>>> = prepared.shares.iter().map(|_| Cell::default()).collect();
        let starts = calls.zip(&prepared.shares).zip(&owed);
        let started = starts.enumerate().map(|(source, ((call, share), owed))| {
            let start = self.start(platform, prepared, call, share, owed);
            async move { start.await.map(|part| (source, part)) }
        });
        // Unordered, so that a failure is known at once, whose ever it is.
        let started: Result<Vec<_>, _> = iter(started).buffer_unordered(STARTS_AT_ONCE).try_collect().await;
        let mut parts = started.map_err(|failed| {
            platform.cancel_calls();
            Failed { outcome: sum(&owed), ..failed }
        })?;
        parts.sort_unstable_by_key(|(source, _)| *source);
        Ok(parts.into_iter().map(|(_, part)| part).collect())
    }

    /// Makes one call, up to where it has begun to answer.
    async fn start<P: Platform>(
        &self,
        platform: &P,
        prepared: &Prepared<'_>,
        call: UpstreamRequest,
        share: &Share,
        owed: &Cell<Option<Usage>>,
    ) -> Result<Part<P::Body>, Failed> {
        let Prepared { name, upstream, dialect, redactor, .. } = prepared;
        let began_ms = platform.now_ms();
        let patience_ms = if self.request.stream { upstream.headers_timeout_ms } else { upstream.total_timeout_ms };
        // Of several calls each has to tell at once that it has begun to answer: what it is owed depends on it.
        let is_alone = prepared.shares.len() == 1;
        let whole_limit = (!self.request.stream && is_alone).then_some(self.config.limits.max_answer_bytes);
        let response = platform.call(call, patience_ms, whole_limit).await.map_err(|error| match error {
            CallError::Threw(text) => failed(platform, name, dialect.decode_thrown(&text), redactor),
            CallError::Unreachable(why) => {
                platform.warn(&format!("upstream `{name}` cannot be reached: {}", redactor.redact(&why)));
                Failed::retryable(ApiError::upstream("The upstream of this model cannot be reached."))
            }
            CallError::Timeout => {
                platform.warn(&format!("upstream `{name}` sent no headers in time"));
                Failed::retryable(ApiError::upstream_timeout())
            }
            CallError::ClientGone => Failed::client_gone(),
        })?;
        let (status, content_type) = (response.status, &response.content_type);
        if (200..300).contains(&status) {
            owed.set(Some(Usage { prompt_tokens: share.estimated_prompt_tokens, completion_tokens: 0 }));
        }
        let answered = if !(200..300).contains(&status) {
            Err(Unanswered::Fault(read_fault(*dialect, response).await))
        } else if self.request.stream && !is_type(content_type, JSON) && !is_type(content_type, HTML) {
            return Ok(Part::Stream(response.body));
        } else {
            let spent_ms = platform.now_ms().saturating_sub(began_ms);
            self.answer(*dialect, response, left(upstream.total_timeout_ms, spent_ms)).await
        };
        match answered {
            Ok((answer, report)) => {
                let text_bytes = answer.choices.iter().map(|choice| choice.text.len() as u64).sum();
                owed.set(Some(Usage {
                    prompt_tokens: report.prompt_tokens.unwrap_or(share.estimated_prompt_tokens),
                    completion_tokens: report.completion_tokens.unwrap_or(tokens_of_bytes(text_bytes)),
                }));
                Ok(Part::Whole(answer, report))
            }
            Err(Unanswered::ClientGone) => Err(Failed::client_gone()),
            Err(Unanswered::TooLong) => {
                platform.warn(&format!("upstream `{name}`: its answer is longer than limits.max_answer_bytes"));
                let message = "The upstream of this model answered at greater length than this service takes.";
                let error = ApiError::new(Case::UpstreamTooLong, message);
                Err(Failed::retryable(error))
            }
            Err(Unanswered::Fault(fault)) => Err(failed(platform, name, fault, redactor)),
        }
    }

    /// A whole answer of one call.
    async fn answer<B: UpstreamBody>(
        &self,
        dialect: &dyn Dialect,
        mut response: UpstreamResponse<B>,
        wait_ms: u32,
    ) -> Result<(Answer, UsageReport), Unanswered> {
        let nonsense = |what: &str| Unanswered::Fault(Fault::nonsense(what));
        let is_stream = is_type(&response.content_type, dialect.framing().media_type());
        if is_stream || is_type(&response.content_type, HTML) {
            response.body.cancel();
            return Err(nonsense(&format!("its answer is {}", response.content_type)));
        }
        let limit = self.config.limits.max_answer_bytes;
        let body = response.body.read_all(limit, wait_ms).await.map_err(|error| match error {
            ReadError::TooLong => Unanswered::TooLong,
            ReadError::Broken(why) => nonsense(&format!("its answer broke off: {why}")),
            ReadError::NotYet => {
                Unanswered::Fault(Fault { status: 504, ..Fault::nonsense("its answer did not come in time") })
            }
            ReadError::ClientGone => Unanswered::ClientGone,
        })?;
        dialect.decode_answer(&body).map_err(Unanswered::Fault)
    }

    fn writer(&self) -> ChunkWriter {
        let CompletionRequest { include_usage, include_obfuscation, .. } = *self.request;
        ChunkWriter::new(self.head, self.format, include_usage, include_obfuscation)
    }
}

/// What calls that had begun to answer are owed together, if any had.
fn sum(owed: &[Cell<Option<Usage>>]) -> Option<Outcome> {
    let usage = owed.iter().filter_map(Cell::get).reduce(Usage::plus)?;
    Some(Outcome { failure: None, usage, reported: false, finish_reason: None })
}

/// The upstream's key. White space around it is what a shell left behind.
fn secret<P: Platform>(platform: &P, upstream: &str, name: &str) -> Result<String, ApiError> {
    let secret = platform.secret(name).map(|secret| secret.trim().to_owned());
    // It goes into a header.
    secret.filter(|secret| !secret.is_empty() && !secret.contains(char::is_control)).ok_or_else(|| {
        platform.warn(&format!("upstream `{upstream}`: there is no secret `{name}`, or it is no key"));
        let message = "The gateway has no credentials for the upstream of this model. The operator has to mend this.";
        ApiError::new(Case::UpstreamAuth, message)
    })
}

/// What a fault means here; the operator's log is told of it.
fn failed<P: Platform>(platform: &P, name: &str, fault: Fault, redactor: &Redactor) -> Failed {
    let retryable = fault.is_retryable();
    if retryable {
        // A client's own mistake is no news, and its words are none of the log's business.
        let message = redactor.redact(&fault.message);
        platform.warn(&format!("upstream `{name}` failed with {}: {message}", fault.status));
    }
    Failed { error: fault.into_api_error(redactor), retryable, outcome: None, client_gone: false }
}

/// Reads streams up to their first chunk. Until there is something to send, the client has no status yet, and the next
/// target is still open. An upstream that is silent for too long for that is committed to all the same, by a comment.
async fn begin<P: Platform>(
    platform: &P,
    name: &str,
    mut transcoder: Transcoder,
    parts: Vec<Part<P::Body>>,
    mut patience: Patience,
    gather_ms: u32,
) -> Result<(Reply<P::Body>, Option<Outcome>), Failed> {
    let mut first = Vec::new();
    let mut upstreams: Vec<Option<P::Body>> = Vec::with_capacity(parts.len());
    for (source, part) in parts.into_iter().enumerate() {
        upstreams.push(match part {
            Part::Stream(body) => Some(body),
            Part::Whole(answer, report) => {
                transcoder.replay(source, answer, report, &mut first);
                None
            }
        });
    }
    let began_ms = platform.now_ms();
    while first.is_empty() {
        let spent_ms = platform.now_ms().saturating_sub(began_ms);
        let first_token_ms = left(patience.first_token_ms, spent_ms);
        let keepalive_ms = match patience.keepalive_ms {
            0 => u32::MAX,
            keepalive_ms => left(keepalive_ms, spent_ms),
        };
        if first_token_ms == 0 {
            transcoder.expire(&mut first);
        } else if keepalive_ms == 0 {
            patience.first_token_ms = first_token_ms;
            first.extend_from_slice(KEEPALIVE);
            break;
        } else {
            let Some((source, read)) = read_any(&mut upstreams, first_token_ms.min(keepalive_ms)).await else { break };
            match read {
                Ok(Some(bytes)) => transcoder.feed(source, &bytes, &mut first),
                Ok(None) => transcoder.finish(source, End::Closed, &mut first),
                Err(ReadError::NotYet) => {}
                Err(ReadError::ClientGone) => {
                    upstreams.iter_mut().flatten().for_each(UpstreamBody::cancel);
                    return Err(Failed { outcome: Some(transcoder.outcome()), ..Failed::client_gone() });
                }
                Err(ReadError::Broken(_) | ReadError::TooLong) => transcoder.finish(source, End::Broken, &mut first),
            }
        }
        // Before it is read again.
        let_go(&transcoder, &mut upstreams);
    }
    let_go(&transcoder, &mut upstreams);
    if !transcoder.is_over() {
        let body = StreamBody { first, upstreams, transcoder, closing: Closing::default(), patience, gather_ms };
        return Ok((Reply::stream(ReplyBody::Stream(Box::new(body))), None));
    }
    let outcome = transcoder.outcome();
    if let Some(error) = &outcome.failure {
        let retryable = !matches!(error.case, Case::UpstreamRefused(_));
        if retryable {
            platform.warn(&format!("upstream `{name}` failed in its stream: {}", error.message));
        }
        if let Some(error) = transcoder.failure_before_first_chunk() {
            return Err(Failed { error: error.clone(), retryable, outcome: Some(outcome), client_gone: false });
        }
        // It failed after a chunk, though both came at once: the client gets what there is.
    }
    Ok((Reply::stream(ReplyBody::Chunks(first)), Some(outcome)))
}

/// Lets go of the upstreams of which nothing is wanted any more.
fn let_go<B: UpstreamBody>(transcoder: &Transcoder, upstreams: &mut [Option<B>]) {
    for (source, upstream) in upstreams.iter_mut().enumerate() {
        match transcoder.progress(source) {
            Progress::Open if !transcoder.is_over() => {}
            Progress::Done => upstream.take().iter_mut().for_each(UpstreamBody::release),
            Progress::Open | Progress::Cut => upstream.take().iter_mut().for_each(UpstreamBody::cancel),
        }
    }
}

/// What comes next from any of the upstreams, with its number; nothing if none is left.
async fn read_any<B: UpstreamBody>(
    upstreams: &mut [Option<B>],
    wait_ms: u32,
) -> Option<(usize, Result<Option<Vec<u8>>, ReadError>)> {
    let live = upstreams.iter_mut().enumerate().filter_map(|(source, upstream)| Some((source, upstream.as_mut()?)));
    let reads: Vec<_> =
        live.map(|(source, upstream)| Box::pin(async move { (source, upstream.read(wait_ms).await) })).collect();
    // A read that is dropped here loses nothing.
    if reads.is_empty() { None } else { Some(select_all(reads).await.0) }
}

/// What is left of so many milliseconds.
fn left(ms: u32, spent_ms: u64) -> u32 {
    u64::from(ms).saturating_sub(spent_ms).try_into().unwrap_or(u32::MAX)
}

/// Why there is no whole answer.
enum Unanswered {
    ClientGone,
    TooLong,
    Fault(Fault),
}

async fn read_fault<B: UpstreamBody>(dialect: &dyn Dialect, mut response: UpstreamResponse<B>) -> Fault {
    let body = response.body.read_all(MAX_FAULT_BYTES, FAULT_WAIT_MS).await.unwrap_or_default();
    let mut fault = dialect.decode_fault(response.status, &body);
    fault.retry_after_ms = response.retry_after_ms.or(fault.retry_after_ms);
    fault
}

/// Whether two content types are the same, whatever their parameters.
fn is_type(content_type: &str, expected: &str) -> bool {
    let [ours, theirs] = [content_type, expected].map(|text| text.split(';').next().unwrap_or_default().trim());
    ours.eq_ignore_ascii_case(theirs)
}
