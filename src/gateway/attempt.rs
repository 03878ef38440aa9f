//! One call to one target: the upstream's answer as ours, or why there is none.

use crate::api::{ApiError, Case, Choice, ChunkHead, ChunkWriter, CompletionRequest, write_completion};
use crate::config::{GatewayConfig, Model, Target, Upstream};
use crate::dialect::{Call, Dialect, Fault, Redactor, UpstreamRequest, refuse_unsupported};
use crate::transcode::{End, Outcome, Plan, Transcoder, UsageTally, complete_offsets};

use super::reply::{EVENT_STREAM, JSON, Reply, ReplyBody, StreamBody};
use super::{CallError, Platform, ReadError, UpstreamBody, UpstreamResponse};

/// What stays the same for all targets of one request.
pub(super) struct Attempts<'a> {
    pub request: &'a CompletionRequest<'a>,
    pub config: &'a GatewayConfig,
    pub model: &'a Model,
    pub head: &'a ChunkHead,
    pub format: crate::api::ChunkFormat,
}

/// A target with its call, ready to be sent.
pub(super) struct Prepared<'a> {
    target: &'a Target,
    upstream: &'a Upstream,
    dialect: &'static dyn Dialect,
    request: UpstreamRequest,
    redactor: Redactor,
}

/// What a target answered, and what that used if it is known already: a stream still has to tell.
pub(super) struct Answered<B> {
    pub reply: Reply<B>,
    pub outcome: Option<Outcome>,
}

/// Why a target gave no answer.
pub(super) struct Failed {
    /// What the client is told, should this be the last target.
    pub error: ApiError,
    /// Whether another target may do better.
    pub retryable: bool,
    /// What was used all the same, because the client did not stay to get it.
    pub outcome: Option<Outcome>,
}

impl Failed {
    fn retryable(error: ApiError) -> Self {
        Self { error, retryable: true, outcome: None }
    }

    /// The client went away: nobody reads this, and no upstream is to blame. `outcome` is what an upstream that had
    /// begun to answer is owed.
    fn client_gone(outcome: Option<Outcome>) -> Self {
        Self { error: ApiError::internal(), retryable: false, outcome }
    }
}

const HTML: &str = "text/html";

/// The longest error body that is read; a longer one says nothing that a client needs.
const MAX_FAULT_BYTES: usize = 64 << 10;

impl<'a> Attempts<'a> {
    /// Writes the call for one target. An error is the client's: the target's dialect cannot say what it asks for.
    pub(super) fn prepare<P: Platform>(&self, platform: &P, target: &'a Target) -> Result<Prepared<'a>, ApiError> {
        // The configuration's check has made sure that the upstream exists.
        let upstream = self.config.upstreams.get(&target.upstream).ok_or_else(ApiError::internal)?;
        let dialect = upstream.dialect.dialect();
        refuse_unsupported(self.request, dialect.capabilities())?;
        let secret = match &upstream.key {
            None => None,
            Some(name) => Some(platform.secret(name).ok_or_else(|| {
                platform.warn(&format!("upstream `{}`: there is no secret `{name}`", target.upstream));
                let message =
                    "The gateway has no credentials for the upstream of this model. The operator has to mend this.";
                ApiError::new(Case::UpstreamAuth, message)
            })?),
        };
        let secret = secret.as_deref();
        let call =
            Call { request: self.request, upstream, target, model: self.model, secret, now_ms: platform.now_ms() };
        Ok(Prepared {
            target,
            upstream,
            dialect,
            request: dialect.encode(&call)?,
            redactor: Redactor::new(secret, &upstream.base_url, &target.model, &self.head.model),
        })
    }

    /// Calls the target. What comes back has begun to be an answer: a failure before its first chunk is an error here,
    /// while another target can still be tried.
    pub(super) async fn send<P: Platform>(
        &self,
        platform: &P,
        prepared: Prepared<'a>,
    ) -> Result<Answered<P::Body>, Failed> {
        let Prepared { target, upstream, dialect, request, redactor } = prepared;
        let name = &target.upstream;
        let response = platform.call(request, upstream.headers_timeout_ms).await.map_err(|error| match error {
            CallError::Unreachable(why) => {
                platform.warn(&format!("upstream `{name}` cannot be reached: {why}"));
                Failed::retryable(ApiError::upstream("The upstream of this model cannot be reached."))
            }
            CallError::Timeout => {
                platform.warn(&format!("upstream `{name}` sent no headers in time"));
                let message = "The upstream of this model took too long.";
                Failed::retryable(ApiError::new(Case::UpstreamTimeout, message))
            }
            CallError::ClientGone => Failed::client_gone(None),
        })?;
        let (status, content_type) = (response.status, &response.content_type);
        let answered = if !(200..300).contains(&status) {
            Err(Unanswered::Fault(read_fault(dialect, response).await))
        } else if self.request.stream && !is_type(content_type, JSON) && !is_type(content_type, HTML) {
            return self.stream(platform, name, dialect, redactor, response.body).await;
        } else {
            self.answer(dialect, response).await
        };
        match answered {
            Ok((choices, usage)) => {
                let reply = if self.request.stream {
                    self.replay(&choices, &usage)
                } else {
                    Reply::ok(JSON, write_completion(self.head, &choices, usage.usage()))
                };
                let outcome = Outcome { failure: None, usage: usage.usage(), reported: usage.is_reported() };
                Ok(Answered { reply, outcome: Some(outcome) })
            }
            Err(Unanswered::ClientGone) => {
                let usage = UsageTally::new(self.request.prompt.estimated_tokens());
                Err(Failed::client_gone(Some(Outcome {
                    failure: None,
                    usage: usage.usage_when_cut(),
                    reported: false,
                })))
            }
            Err(Unanswered::Fault(fault)) => {
                let retryable = fault.is_retryable();
                if retryable {
                    // A client's own mistake is no news, and its words are none of the log's business.
                    let message = redactor.redact(&fault.message);
                    platform.warn(&format!("upstream `{name}` failed with {}: {message}", fault.status));
                }
                Err(Failed { error: fault.into_api_error(&redactor), retryable, outcome: None })
            }
        }
    }

    /// A whole answer, checked: as many choices as were asked for, each with its own index.
    async fn answer<B: UpstreamBody>(
        &self,
        dialect: &dyn Dialect,
        mut response: UpstreamResponse<B>,
    ) -> Result<(Vec<Choice>, UsageTally), Unanswered> {
        let nonsense = |what: &str| Unanswered::Fault(Fault::nonsense(what));
        if is_type(&response.content_type, EVENT_STREAM) || is_type(&response.content_type, HTML) {
            response.body.cancel();
            return Err(nonsense(&format!("its answer is {}", response.content_type)));
        }
        let body = response.body.read_all(self.config.limits.max_answer_bytes).await.map_err(|error| match error {
            ReadError::TooLong => nonsense("its answer is longer than limits.max_answer_bytes"),
            ReadError::Broken(why) => nonsense(&format!("its answer broke off: {why}")),
            ReadError::ClientGone => Unanswered::ClientGone,
        })?;
        let (mut answer, report) = dialect.decode_answer(&body).map_err(Unanswered::Fault)?;
        let (expected, got) = (self.request.choices(), answer.choices.len());
        if let [choice] = answer.choices.as_mut_slice() {
            // Where there is one choice, it is meant, whatever number the upstream gives it.
            choice.index = 0;
        }
        if !(0..expected).eq(answer.choices.iter().map(|choice| choice.index)) {
            return Err(nonsense(&format!("its answer has {got} choices of {expected}, or oddly numbered ones")));
        }
        let mut usage = UsageTally::new(self.request.prompt.estimated_tokens());
        usage.report(report);
        for choice in &mut answer.choices {
            usage.see(&choice.text);
            if let Some(logprobs) = &mut choice.logprobs {
                complete_offsets(logprobs);
            }
        }
        Ok((answer.choices, usage))
    }

    fn writer(&self) -> ChunkWriter {
        let CompletionRequest { include_usage, include_obfuscation, .. } = *self.request;
        ChunkWriter::new(self.head, self.format, include_usage, include_obfuscation)
    }

    async fn stream<P: Platform>(
        &self,
        platform: &P,
        name: &str,
        dialect: &'static dyn Dialect,
        redactor: Redactor,
        mut upstream: P::Body,
    ) -> Result<Answered<P::Body>, Failed> {
        let plan = Plan {
            choices: self.request.choices(),
            estimated_prompt_tokens: self.request.prompt.estimated_tokens(),
            max_event_bytes: self.config.limits.max_event_bytes,
        };
        let mut transcoder = Transcoder::new(dialect, self.writer(), redactor, &plan);
        let mut first = Vec::new();
        // Until there is something to send, the client has no status yet, and the next target is still open.
        while first.is_empty() {
            match upstream.read().await {
                Ok(Some(bytes)) => transcoder.feed(&bytes, &mut first),
                Ok(None) => drop(transcoder.finish(End::Closed, &mut first)),
                Err(ReadError::ClientGone) => {
                    upstream.cancel();
                    return Err(Failed::client_gone(Some(transcoder.outcome())));
                }
                Err(_) => drop(transcoder.finish(End::Broken, &mut first)),
            }
        }
        if !transcoder.is_over() {
            let body = StreamBody { first, upstream, transcoder, settlement: None };
            return Ok(Answered { reply: Reply::stream(ReplyBody::Stream(Box::new(body))), outcome: None });
        }
        let outcome = transcoder.outcome();
        let Some(error) = &outcome.failure else {
            upstream.release();
            return Ok(Answered { reply: Reply::stream(ReplyBody::Chunks(first)), outcome: Some(outcome) });
        };
        upstream.cancel();
        let retryable = !matches!(error.case, Case::UpstreamRefused(_));
        if retryable {
            platform.warn(&format!("upstream `{name}` failed in its stream: {}", error.message));
        }
        match transcoder.failure_before_first_chunk() {
            Some(error) => Err(Failed { error: error.clone(), retryable, outcome: None }),
            // It failed after a chunk, though both came at once: the client gets what there is.
            None => Ok(Answered { reply: Reply::stream(ReplyBody::Chunks(first)), outcome: Some(outcome) }),
        }
    }

    /// A whole answer where a stream was wanted, as the stream that it would have been.
    fn replay<B>(&self, choices: &[Choice], usage: &UsageTally) -> Reply<B> {
        let (writer, mut out) = (self.writer(), Vec::new());
        for Choice { index, text, logprobs, finish_reason } in choices {
            writer.choice(&mut out, *index, text, logprobs.as_ref(), Some(*finish_reason));
        }
        if writer.includes_usage() {
            writer.usage(&mut out, usage.usage());
        }
        writer.done(&mut out);
        Reply::stream(ReplyBody::Chunks(out))
    }
}

/// Why there is no whole answer.
enum Unanswered {
    ClientGone,
    Fault(Fault),
}

async fn read_fault<B: UpstreamBody>(dialect: &dyn Dialect, mut response: UpstreamResponse<B>) -> Fault {
    let body = response.body.read_all(MAX_FAULT_BYTES).await.unwrap_or_default();
    let mut fault = dialect.decode_fault(response.status, &body);
    fault.retry_after_ms = response.retry_after_ms.or(fault.retry_after_ms);
    fault
}

/// Whether two content types are the same, whatever their parameters.
fn is_type(content_type: &str, expected: &str) -> bool {
    let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence(content_type) == essence(expected)
}
