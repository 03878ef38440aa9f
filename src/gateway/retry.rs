//! Steps 7 and 8: one target after the other, and some of them again, until one answers.
//!
//! Another target is asked at once, and each at most once for that, so that no target gets more than the traffic there
//! is. The same one is asked again only after a pause, and only as long as the retry budget lasts.

use std::cell::RefCell;
use std::rc::Rc;

use crate::api::{ApiError, Case};
use crate::config::{BreakerPolicy, GatewayConfig, Target};
use crate::health::{self, Change, Health, Reason, Refusal, Ticket, Verdict};
use crate::transcode::Outcome;

use super::Platform;
use super::attempt::{Answered, Attempts, Failed, Prepared};
use super::record::RequestRecord;
use super::reply::ReplyBody;

/// An attempt whose stream goes on: what it says of its target is told at the end.
#[derive(Debug)]
pub struct Watch {
    health: Rc<RefCell<Health>>,
    policy: BreakerPolicy,
    ticket: Ticket,
}

impl Watch {
    /// The stream has begun to say something. The line is for the log.
    #[must_use]
    pub fn answered(&mut self, now_ms: u64) -> Option<String> {
        let change = self.health.borrow_mut().answered(&self.policy, &mut self.ticket, now_ms);
        change.map(|change| line(self.ticket.target(), change))
    }

    /// The attempt is over. The line is for the log.
    #[must_use]
    pub fn end(self, verdict: Verdict, now_ms: u64) -> Option<String> {
        let Self { health, policy, ticket } = self;
        let target = ticket.target().to_owned();
        let change = health.borrow_mut().ended(&policy, ticket, verdict, now_ms);
        change.map(|change| line(&target, change))
    }
}

fn line(target: &str, change: Change) -> String {
    format!("target `{target}` {change}")
}

/// What a request tries, and what it has tried.
pub(super) struct Tries<'a> {
    pub attempts: Attempts<'a>,
    pub config: &'a GatewayConfig,
    pub health: &'a Rc<RefCell<Health>>,
    /// Not tried yet, in their turn.
    pub targets: std::vec::IntoIter<&'a Target>,
    /// Random.
    pub draw: u64,
}

/// A target that has failed.
struct Tried<'a> {
    target: &'a Target,
    times: u32,
    error: ApiError,
}

impl<'a> Tries<'a> {
    /// The next target that can carry the request; the first error of those that cannot.
    pub(super) fn next<P: Platform>(&mut self, platform: &P) -> Result<Option<Prepared<'a>>, ApiError> {
        let mut refusal = None;
        for target in self.targets.by_ref() {
            match self.attempts.prepare(platform, target) {
                Ok(prepared) => return Ok(Some(prepared)),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        refusal.map_or(Ok(None), Err)
    }

    /// Asks until a target answers, or nothing is left to try.
    pub(super) async fn answer<P: Platform>(
        mut self,
        platform: &P,
        first: Prepared<'a>,
        record: &mut RequestRecord,
    ) -> Result<Answered<P::Body>, Failed> {
        let policy = self.config.retry;
        self.health.borrow_mut().first_attempt(platform.now_ms());
        let (mut tried, mut waited_ms) = (Vec::<Tried<'a>>::new(), 0_u64);
        let mut prepared = first;
        loop {
            let target = prepared.target;
            let failed = match self.once(platform, prepared, record).await {
                Ok(answered) => return Ok(answered),
                Err(failed) if !failed.retryable => return Err(failed),
                Err(failed) => failed,
            };
            let wasted = failed.outcome.as_ref().map_or(0, |outcome| outcome.usage.total_tokens());
            record.wasted_tokens = record.wasted_tokens.saturating_add(wasted);
            match tried.iter_mut().find(|before| std::ptr::eq(before.target, target)) {
                Some(before) => {
                    before.times = before.times.saturating_add(1);
                    before.error = failed.error.clone();
                }
                None => tried.push(Tried { target, times: 1, error: failed.error.clone() }),
            }
            if record.attempts >= policy.max_attempts {
                return Err(failed);
            }
            if let Ok(Some(next)) = self.next(platform) {
                prepared = next;
                continue;
            }
            // Nobody else: the same ones again, those first whose turn was first.
            let Some((again, pause_ms)) = self.again(platform, &tried, waited_ms) else { return Err(failed) };
            waited_ms = waited_ms.saturating_add(pause_ms);
            if !platform.pause(u32::try_from(pause_ms).unwrap_or(u32::MAX)).await {
                return Err(Failed::client_gone());
            }
            // Written anew: a signature holds for its moment.
            prepared = match self.attempts.prepare(platform, again) {
                Ok(prepared) => prepared,
                Err(_) => return Err(failed),
            };
        }
    }

    /// One attempt, whose outcome the isolate remembers.
    async fn once<P: Platform>(
        &self,
        platform: &P,
        prepared: Prepared<'a>,
        record: &mut RequestRecord,
    ) -> Result<Answered<P::Body>, Failed> {
        let (policy, name) = (self.config.breaker, prepared.target.name());
        let begun = self.health.borrow_mut().begin(&policy, &name, platform.now_ms());
        let ticket = begun.map_err(|refusal| Failed::retryable(passed_over(refusal)))?;
        record.attempts = record.attempts.saturating_add(1);
        record.dialect = Some(prepared.dialect());
        record.target = Some(name);
        let watch = Watch { health: Rc::clone(self.health), policy, ticket };
        let mut result = self.attempts.send(platform, prepared).await;
        let now_ms = platform.now_ms();
        let change = match &mut result {
            Ok(Answered { reply, outcome, .. }) => match &mut reply.body {
                ReplyBody::Stream(stream) => {
                    let mut watch = watch;
                    let change = stream.transcoder.has_begun().then(|| watch.answered(now_ms)).flatten();
                    stream.closing.watch = Some(watch);
                    change
                }
                _ => watch.end(verdict(outcome.as_ref()), now_ms),
            },
            Err(failed) => watch.end(failed.verdict(), now_ms),
        };
        if let Some(change) = change {
            platform.warn(&change);
        }
        result
    }

    /// The target to be asked again, and the pause before that.
    fn again<P: Platform>(&self, platform: &P, tried: &[Tried<'a>], waited_ms: u64) -> Option<(&'a Target, u64)> {
        let policy = &self.config.retry;
        let pause = |tried: &Tried<'a>| {
            let failed =
                health::Failed { attempts: tried.times, retry_after_ms: tried.error.retry_after_ms, waited_ms };
            let draw = self.draw.rotate_left(tried.times);
            may_be_better(&tried.error).then(|| health::backoff_ms(policy, failed, draw)).flatten()
        };
        let found = tried.iter().filter_map(|tried| Some((tried.target, pause(tried)?))).min_by_key(|found| found.1)?;
        self.health.borrow_mut().may_retry(policy, platform.now_ms()).then_some(found)
    }
}

/// What an answer says of its target.
pub(super) fn verdict(outcome: Option<&Outcome>) -> Verdict {
    if outcome.is_some_and(|outcome| outcome.failure.is_some()) { Verdict::Failure } else { Verdict::Success }
}

/// Whether the same target may answer what it has not answered just now.
fn may_be_better(error: &ApiError) -> bool {
    matches!(error.case, Case::UpstreamError | Case::UpstreamIncomplete | Case::UpstreamTimeout | Case::UpstreamLimited)
}

/// What the client is told where every target is passed over.
pub(super) fn passed_over(refusal: Refusal) -> ApiError {
    let Refusal { retry_after_ms, reason } = refusal;
    let error = match reason {
        Reason::Open => ApiError::new(
            Case::UpstreamUnavailable,
            "The upstreams of this model have failed too often of late. Try again later.",
        ),
        Reason::Cooling => ApiError::upstream_limited(),
    };
    ApiError { retry_after_ms: Some(retry_after_ms), ..error }
}
