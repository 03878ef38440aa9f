//! The straight line of a request, over a [`Platform`]: who calls, what they may, what they ask, who answers.

mod attempt;
mod directory;
mod head;
mod platform;
mod quota_step;
mod record;
mod reply;
mod retry;
mod trace;

use crate::api::{ApiError, ChunkHead, CompletionRequest, ModelCard, write_model, write_models};
use crate::config::{GatewayConfig, Model, Observe, Upstream};
use crate::dialect::Abilities;
use crate::health::Health;
use crate::hex::hex;
use crate::quota::Standing;
use crate::tenant::{Allowed, ApiKey, KeyRecord, TenantRecord, TenantStatus};

use std::cell::RefCell;
use std::rc::Rc;

use attempt::{Answered, Attempts, Failed};
use directory::Directory;
pub use head::Head;
use head::{asked_format, preflight};
pub(crate) use head::{check_content_type, percent_decoded, request_id};
pub use platform::{CallError, Platform, ReadError, UpstreamBody, UpstreamResponse};
pub use quota_step::{Settled, Settlement, SharedSlices};
pub use record::{Closed, Closing, Ended, RequestRecord};
pub(crate) use reply::{JSON, Timing};
pub use reply::{Patience, Reply, ReplyBody, StreamBody};
use retry::Tries;
pub use retry::Watch;
use trace::Trace;

/// Randomness for one request: half of it names the request, half of it the completion.
#[derive(Clone, Copy, Debug)]
pub struct Entropy(pub [u8; 32]);

/// What one isolate keeps between requests.
#[derive(Debug, Default)]
pub struct Gateway {
    directory: Directory,
    health: Rc<RefCell<Health>>,
    slices: SharedSlices,
}

/// Where a request goes.
enum Route<'a> {
    Completions,
    Models,
    Model(&'a str),
    Usage,
    Health,
}

impl<'a> Route<'a> {
    /// Its name in the log.
    const fn name(&self) -> &'static str {
        match self {
            Self::Completions => "completions",
            Self::Models | Self::Model(_) => "models",
            Self::Usage => "usage",
            Self::Health => "health",
        }
    }

    /// The route of a path, and the one method that it has.
    fn of(path: &'a str) -> Option<(Self, &'static str)> {
        match path {
            "/v1/completions" => Some((Self::Completions, "POST")),
            "/v1/models" => Some((Self::Models, "GET")),
            "/v1/usage" => Some((Self::Usage, "GET")),
            "/healthz" => Some((Self::Health, "GET")),
            _ => match path.strip_prefix("/v1/models/") {
                None | Some("") => None,
                Some(model) => Some((Self::Model(model), "GET")),
            },
        }
    }
}

/// What is learnt of a request on its way, and told in the headers of its answer.
struct Visit {
    timing: Timing,
    caller: Option<Rc<Caller>>,
    /// Where the caller's limits stand, if anybody has asked the ledger.
    standings: Option<Vec<Standing>>,
    record: RequestRecord,
    observe: Observe,
}

impl Visit {
    /// Tells the log of a request that has ended; a stream takes its record along and tells it at its end.
    fn tell<P: Platform>(&mut self, platform: &P, reply: &mut Reply<P::Body>) {
        let record = &mut self.record;
        // 499 is what proxies log for a client that did not wait.
        record.status = if record.ended == Ended::ClientGone { 499 } else { reply.status };
        record.is_logged = self.observe.log;
        if record.attempts > 0 {
            reply.header("x-upstream-attempts", record.attempts.to_string());
        }
        if let Some(target) = record.target.as_ref().filter(|_| self.observe.target_header) {
            reply.header("x-upstream-target", target.clone());
        }
        if let ReplyBody::Stream(stream) = &mut reply.body {
            stream.closing.record = std::mem::take(record);
            stream.closing.began_ms = self.timing.began_ms;
        } else if record.route != Route::Health.name() {
            record.total_ms = platform.now_ms().saturating_sub(self.timing.began_ms);
            platform.record(record);
        }
    }
}

/// Whom a valid key stands for.
struct Caller {
    key: Rc<KeyRecord>,
    tenant: Rc<TenantRecord>,
}

impl Caller {
    fn may_use(&self, model: &str) -> bool {
        Allowed { key: self.key.models.as_deref(), tenant: self.tenant.models.as_deref() }.contains(model)
    }
}

impl Gateway {
    /// A key has been revoked: nothing that this isolate has reserved ahead for it is spent any more.
    pub fn revoked<P: Platform>(&self, platform: &P, tenant: &str, key: &str) {
        self.slices.borrow_mut().revoke(tenant, key, platform.now_ms());
    }

    /// Answers a request. Whatever happens, there is an answer, with the headers that every answer has.
    pub async fn handle<P: Platform>(&self, platform: &P, head: &Head, entropy: Entropy) -> Reply<P::Body> {
        let timing = Timing::from(platform.now_ms());
        let request_id = request_id(head, entropy);
        let record = RequestRecord { request_id: request_id.clone(), route: "none", ..RequestRecord::default() };
        let mut visit = Visit { timing, caller: None, standings: None, record, observe: Observe::default() };
        let (reply, cors) = match Route::of(&head.path) {
            None => (Err(ApiError::unknown_url(&head.method, &head.path)), None),
            // Says that this isolate runs, and asks nobody else: a failing KV must not take the location out.
            Some((Route::Health, method)) if head.method == method => {
                (Ok(Reply::ok(JSON, b"{\"status\":\"ok\"}".to_vec())), None)
            }
            Some((route, method)) => {
                visit.record.route = route.name();
                let config = self.directory.config(platform).await;
                visit.observe = config.as_ref().map_or(visit.observe, |config| config.observe);
                let cors = config.as_ref().ok().and_then(|config| config.cors.clone());
                let reply = if head.method == "OPTIONS" && cors.is_some() {
                    Ok(preflight(head, method))
                } else if head.method == method {
                    let reply = self.route(platform, head, entropy, route, config.clone(), &mut visit).await;
                    if let (Some(caller), None, Ok(config)) = (&visit.caller, &visit.standings, &config) {
                        visit.standings = quota_step::standings(platform, config, caller).await;
                    }
                    reply
                } else {
                    Err(ApiError::method_not_supported(&head.method, &head.path, method))
                };
                (reply, cors)
            }
        };
        let mut reply = reply.unwrap_or_else(|error| {
            if visit.record.ended == Ended::Complete {
                visit.record.fail(&error);
            }
            Reply::error(&error)
        });
        visit.tell(platform, &mut reply);
        reply
            .with_common_headers(&request_id, &visit.timing, platform.now_ms())
            .with_rate_headers(visit.standings.as_deref().unwrap_or_default())
            .with_cors(cors.as_ref(), head.origin.as_deref())
    }

    async fn route<P: Platform>(
        &self,
        platform: &P,
        head: &Head,
        entropy: Entropy,
        route: Route<'_>,
        config: Result<Rc<GatewayConfig>, ApiError>,
        visit: &mut Visit,
    ) -> Result<Reply<P::Body>, ApiError> {
        match route {
            Route::Completions => self.complete(platform, head, entropy, config, visit).await,
            Route::Models => {
                let caller = self.authenticate(platform, head, visit).await?;
                let config = config?;
                let allowed = config.models.iter().filter(|(name, _)| caller.may_use(name));
                let cards: Vec<ModelCard<'_>> = allowed.map(|(name, model)| card(&config, name, model)).collect();
                Ok(Reply::ok(JSON, write_models(&cards)))
            }
            Route::Model(encoded) => {
                let caller = self.authenticate(platform, head, visit).await?;
                let (config, name) = (config?, percent_decoded(encoded));
                let (name, model) = allowed_model(&config, &caller, &name)?;
                Ok(Reply::ok(JSON, write_model(&card(&config, name, model))))
            }
            Route::Usage => {
                let caller = self.authenticate(platform, head, visit).await?;
                // A ledger that fails here is not asked again for the headers.
                let standings = visit.standings.insert(Vec::new());
                let (report, now) = quota_step::report(platform, &*config?, &caller).await?;
                *standings = now;
                Ok(Reply::ok(JSON, report))
            }
            Route::Health => Err(ApiError::internal()),
        }
    }

    /// `POST /v1/completions`:
    ///
    /// 1. bearer key from the headers → 401
    /// 2. key record, then tenant record (memory of the isolate, then KV) → 401, 403
    /// 3. body read up to the limit, parsed and checked whole → 400, 413, 415
    /// 4. model → targets that this key may use → 404
    /// 5. request encoded for the targets' dialects → 400
    /// 6. quota reserved in the tenant's ledger, all dimensions at once or none → 429, 400, 503
    /// 7. upstream called; before the first byte has gone to the client, the next target may be tried → 502, 504
    /// 8. answer decoded, or the stream transcoded
    /// 9. settled exactly once, however it ended: usage as reported, or as observed if not
    async fn complete<P: Platform>(
        &self,
        platform: &P,
        head: &Head,
        entropy: Entropy,
        config: Result<Rc<GatewayConfig>, ApiError>,
        visit: &mut Visit,
    ) -> Result<Reply<P::Body>, ApiError> {
        // 1. and 2.
        let caller = self.authenticate(platform, head, visit).await?;
        let config = config?;

        // 3. The head is checked before the body is read, and the body whole before anything is looked up.
        check_content_type(head)?;
        let format = head.format.as_deref().map(asked_format).transpose()?;
        let limit = config.limits.max_body_bytes;
        let body = platform.request_body(limit).await.map_err(|error| match error {
            ReadError::TooLong => ApiError::body_too_large(limit),
            ReadError::Broken(_) | ReadError::NotYet | ReadError::ClientGone => ApiError::not_json(),
        })?;
        let request = CompletionRequest::parse(&body)?;

        // 4.
        let (name, model) = allowed_model(&config, &caller, &request.model)?;

        // 5. A target that cannot carry the request is passed over, as long as another one can.
        let completion = ChunkHead {
            id: format!("cmpl-{}", hex(entropy.0.get(16..).unwrap_or_default())),
            created: visit.timing.began_ms / 1000,
            model: name.to_owned(),
        };
        visit.record.model = Some(name.to_owned());
        visit.record.stream = request.stream;
        let span = entropy.0.first_chunk().copied().unwrap_or_default();
        let trace = head.traceparent.as_deref().and_then(|header| Trace::parse(header, span));
        visit.record.trace_id = trace.as_ref().map(|trace| trace.id.clone());
        let traceparent = trace.as_ref().map(|trace| trace.onward.as_str()).filter(|_| config.observe.trace);
        let format = format.or(caller.key.chunk_format).or(model.chunk_format).unwrap_or_default();
        let attempts = Attempts { request: &request, config: &config, model, head: &completion, format, traceparent };
        let draw = entropy.0.last_chunk().copied().map(u64::from_le_bytes).unwrap_or_default();
        let turn = self.health.borrow().turn(&config.breaker, &model.targets, draw, platform.now_ms());
        let (targets, health) = (turn.targets.into_iter(), &self.health);
        let mut tries = Tries { attempts, config: &config, health, targets, draw };
        let first = match (tries.next(platform), turn.refusal) {
            (Ok(Some(first)), _) => first,
            // What is passed over might have carried it.
            (_, Some(refusal)) => return Err(retry::passed_over(refusal)),
            (Err(error), None) => return Err(error),
            (Ok(None), None) => return Err(ApiError::internal()),
        };

        // 6. The request is known to be servable, and nothing has been spent.
        let lease = completion.id.as_str();
        let quota = (platform, &self.slices);
        let settlement =
            quota_step::reserve(quota, &config, &caller, &request, model, lease, &mut visit.standings).await?;

        // 7. and 8. The calls of further targets are written when they are needed.
        let answered = tries.answer(platform, first, &mut visit.record).await;

        // 9. A whole answer is settled here, a stream by whoever pumps it.
        match answered {
            Ok(Answered { mut reply, outcome, headers_ms }) => {
                visit.timing.upstream_ms = Some(since(platform, &visit.timing));
                visit.record.headers_ms = Some(headers_ms.saturating_sub(visit.timing.began_ms));
                let first_text_ms = platform.now_ms().saturating_sub(visit.timing.began_ms);
                match (outcome, &mut reply.body) {
                    (Some(outcome), _) => {
                        visit.record.first_token_ms = Some(first_text_ms);
                        visit.record.take(&outcome);
                        settle(platform, settlement, |s| s.of_stream(&outcome));
                    }
                    (None, ReplyBody::Stream(stream)) => {
                        visit.record.first_token_ms = stream.transcoder.has_begun().then_some(first_text_ms);
                        stream.closing.settlement = settlement;
                    }
                    (None, _) => {}
                }
                Ok(reply)
            }
            Err(Failed { error, outcome, client_gone, .. }) => {
                if client_gone {
                    visit.record.ended = Ended::ClientGone;
                }
                match outcome.filter(|_| client_gone) {
                    Some(outcome) => {
                        visit.record.take(&outcome);
                        settle(platform, settlement, |s| s.of_stream(&outcome));
                    }
                    None => settle(platform, settlement, Settlement::of_nothing),
                }
                Err(error)
            }
        }
    }

    /// Steps 1 and 2: whom the key stands for.
    async fn authenticate<P: Platform>(
        &self,
        platform: &P,
        head: &Head,
        visit: &mut Visit,
    ) -> Result<Rc<Caller>, ApiError> {
        let token = head.authorization.as_deref().and_then(ApiKey::bearer_token).ok_or_else(ApiError::no_key)?;
        let record = match ApiKey::parse(token) {
            Some(key) => self.directory.key(platform, &key.hash()).await?,
            None => None,
        };
        let Some(key) = record.filter(|key| key.is_valid(platform.now_ms())) else {
            // Guessing is slowed down, by address, where the operator has bound a limiter; a valid key never is.
            let slowed = !platform.may_fail_again().await;
            return Err(if slowed { ApiError::too_many_failures() } else { ApiError::invalid_key() });
        };
        let tenant = self.directory.tenant(platform, &key.tenant).await?.ok_or_else(ApiError::invalid_key)?;
        visit.timing.auth_ms = Some(since(platform, &visit.timing));
        if tenant.status == TenantStatus::Suspended {
            return Err(ApiError::suspended());
        }
        let caller = Rc::new(Caller { key, tenant });
        visit.record.tenant = Some(caller.key.tenant.clone());
        visit.record.key = Some(caller.key.id.clone());
        visit.caller = Some(Rc::clone(&caller));
        Ok(caller)
    }
}

/// Settles what has been promised, if anything has.
fn settle<P: Platform>(
    platform: &P,
    settlement: Option<Settlement>,
    used: impl FnOnce(&Settlement) -> crate::quota::Settle,
) {
    let Some(settlement) = settlement else { return };
    let settle = used(&settlement);
    match settlement.settle(settle, platform.now_ms()) {
        Settled::Tell(tenant, settle) => platform.settle_later(&tenant, settle),
        Settled::Tend(slices, tending) => platform.tend(slices, tending),
        Settled::Kept => {}
    }
}

fn since<P: Platform>(platform: &P, timing: &Timing) -> u64 {
    let before = timing.began_ms.saturating_add(timing.auth_ms.unwrap_or_default());
    platform.now_ms().saturating_sub(before)
}

/// The model of that name, if it exists and the caller may use it. The two are one case, so that names cannot be
/// probed.
fn allowed_model<'a>(config: &'a GatewayConfig, caller: &Caller, name: &str) -> Result<(&'a str, &'a Model), ApiError> {
    config
        .models
        .get_key_value(name)
        .filter(|(name, _)| caller.may_use(name))
        .map(|(name, model)| (name.as_str(), model))
        .ok_or_else(|| ApiError::model_not_found(name))
}

/// A model as `/v1/models` shows it: able to do what any of its targets is, since a request goes to one that can.
fn card<'a>(config: &'a GatewayConfig, name: &'a str, model: &'a Model) -> ModelCard<'a> {
    let upstreams = model.targets.iter().filter_map(|target| config.upstreams.get(&target.upstream));
    let abilities: Vec<_> = upstreams.map(Upstream::abilities).collect();
    ModelCard {
        id: name,
        object: "model",
        created: model.created,
        owned_by: &model.owned_by,
        capabilities: Abilities::best_by_name(&abilities),
    }
}
