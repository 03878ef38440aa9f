//! The straight line of a request, over a [`Platform`]: who calls, what they may, what they ask, who answers.

mod attempt;
mod directory;
mod platform;
mod reply;

use crate::api::{ApiError, Case, ChunkFormat, ChunkHead, CompletionRequest, ModelCard, write_model, write_models};
use crate::config::{GatewayConfig, Model};
use crate::tenant::{Allowed, ApiKey, KeyRecord, TenantRecord, TenantStatus};

use std::rc::Rc;

use attempt::{Attempts, Failed};
use directory::Directory;
pub use platform::{CallError, Platform, ReadError, UpstreamBody, UpstreamResponse};
use reply::{JSON, Timing};
pub use reply::{Reply, ReplyBody, StreamBody};

/// What of a request's head concerns us.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// In upper case.
    pub method: String,
    /// Without the query, percent-encoding as it came.
    pub path: String,
    /// `authorization`.
    pub authorization: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// `content-encoding`.
    pub content_encoding: Option<String>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// `x-completions-format`.
    pub format: Option<String>,
    /// `origin`.
    pub origin: Option<String>,
    /// `access-control-request-headers`.
    pub wanted_headers: Option<String>,
}

/// Randomness for one request: half of it names the request, half of it the completion.
#[derive(Clone, Copy, Debug)]
pub struct Entropy(pub [u8; 32]);

/// What one isolate keeps between requests.
#[derive(Debug, Default)]
pub struct Gateway {
    directory: Directory,
}

/// Where a request goes.
enum Route<'a> {
    Completions,
    Models,
    Model(&'a str),
    Health,
}

impl<'a> Route<'a> {
    /// The route of a path, and the one method that it has.
    fn of(path: &'a str) -> Option<(Self, &'static str)> {
        match path {
            "/v1/completions" => Some((Self::Completions, "POST")),
            "/v1/models" => Some((Self::Models, "GET")),
            "/healthz" => Some((Self::Health, "GET")),
            _ => match path.strip_prefix("/v1/models/") {
                None | Some("") => None,
                Some(model) => Some((Self::Model(model), "GET")),
            },
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
    /// Answers a request. Whatever happens, there is an answer, with the headers that every answer has.
    pub async fn handle<P: Platform>(&self, platform: &P, head: &Head, entropy: Entropy) -> Reply<P::Body> {
        let mut timing = Timing { began_ms: platform.now_ms(), auth_ms: None, upstream_ms: None };
        let request_id = request_id(head, entropy);
        let (reply, cors) = match Route::of(&head.path) {
            None => (Err(ApiError::unknown_url(&head.method, &head.path)), None),
            // Says that this isolate runs, and asks nobody else: a failing KV must not take the location out.
            Some((Route::Health, method)) if head.method == method => {
                (Ok(Reply::ok(JSON, b"{\"status\":\"ok\"}".to_vec())), None)
            }
            Some((route, method)) => {
                let config = self.directory.config(platform).await;
                let cors = config.as_ref().ok().and_then(|config| config.cors.clone());
                let reply = if head.method == "OPTIONS" && cors.is_some() {
                    Ok(preflight(head, method))
                } else if head.method == method {
                    self.route(platform, head, entropy, route, config, &mut timing).await
                } else {
                    Err(ApiError::method_not_supported(&head.method, &head.path, method))
                };
                (reply, cors)
            }
        };
        reply
            .unwrap_or_else(|error| Reply::error(&error))
            .with_common_headers(&request_id, &timing, platform.now_ms())
            .with_cors(cors.as_ref(), head.origin.as_deref())
    }

    async fn route<P: Platform>(
        &self,
        platform: &P,
        head: &Head,
        entropy: Entropy,
        route: Route<'_>,
        config: Result<Rc<GatewayConfig>, ApiError>,
        timing: &mut Timing,
    ) -> Result<Reply<P::Body>, ApiError> {
        match route {
            Route::Completions => self.complete(platform, head, entropy, config, timing).await,
            Route::Models => {
                let caller = self.authenticate(platform, head, timing).await?;
                let config = config?;
                let allowed = config.models.iter().filter(|(name, _)| caller.may_use(name));
                let cards: Vec<ModelCard<'_>> = allowed.map(|(name, model)| card(&config, name, model)).collect();
                Ok(Reply::ok(JSON, write_models(&cards)))
            }
            Route::Model(encoded) => {
                let caller = self.authenticate(platform, head, timing).await?;
                let (config, name) = (config?, percent_decoded(encoded));
                let (name, model) = allowed_model(&config, &caller, &name)?;
                Ok(Reply::ok(JSON, write_model(&card(&config, name, model))))
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
    /// 6. quota: every authenticated request is admitted
    /// 7. upstream called; before the first byte has gone to the client, the next target may be tried → 502, 504
    /// 8. answer decoded, or the stream transcoded
    /// 9. the outcome, whose usage is what a quota would be charged
    async fn complete<P: Platform>(
        &self,
        platform: &P,
        head: &Head,
        entropy: Entropy,
        config: Result<Rc<GatewayConfig>, ApiError>,
        timing: &mut Timing,
    ) -> Result<Reply<P::Body>, ApiError> {
        // 1. and 2.
        let caller = self.authenticate(platform, head, timing).await?;
        let config = config?;

        // 3. The head is checked before the body is read, and the body whole before anything is looked up.
        check_content_type(head)?;
        let format = head.format.as_deref().map(asked_format).transpose()?;
        let limit = config.limits.max_body_bytes;
        let body = platform.request_body(limit).await.map_err(|error| match error {
            ReadError::TooLong => ApiError::body_too_large(limit),
            ReadError::Broken(_) => ApiError::not_json(),
        })?;
        let request = CompletionRequest::parse(&body)?;

        // 4.
        let (name, model) = allowed_model(&config, &caller, &request.model)?;

        // 5. A target that cannot carry the request is passed over, as long as another one can.
        let completion = ChunkHead {
            id: format!("cmpl-{}", hex(entropy.0.get(16..).unwrap_or_default())),
            created: timing.began_ms / 1000,
            model: name.to_owned(),
        };
        let format = format.or(caller.key.chunk_format).or(model.chunk_format).unwrap_or_default();
        let attempts = Attempts { request: &request, config: &config, model, head: &completion, format };
        let (mut prepared, mut refusal) = (Vec::with_capacity(1), None);
        for target in &model.targets {
            match attempts.prepare(platform, target) {
                Ok(call) => prepared.push(call),
                Err(error) => drop(refusal.get_or_insert(error)),
            }
        }

        // 6. This is where a quota is reserved: the request is known to be servable, and nothing has been spent.

        // 7. and 8.
        let mut last = refusal.unwrap_or_else(ApiError::internal);
        for call in prepared {
            match attempts.send(platform, call).await {
                Ok(reply) => {
                    // 9. A whole answer is settled here, a stream by whoever pumps it, with the transcoder's outcome.
                    timing.upstream_ms = Some(since(platform, timing));
                    return Ok(reply);
                }
                Err(Failed { error, retryable: true }) => last = error,
                Err(Failed { error, retryable: false }) => return Err(error),
            }
        }
        Err(last)
    }

    /// Steps 1 and 2: whom the key stands for.
    async fn authenticate<P: Platform>(
        &self,
        platform: &P,
        head: &Head,
        timing: &mut Timing,
    ) -> Result<Caller, ApiError> {
        let token = head.authorization.as_deref().and_then(ApiKey::bearer_token).ok_or_else(ApiError::no_key)?;
        let hash = ApiKey::parse(token).ok_or_else(ApiError::invalid_key)?.hash();
        let key = self.directory.key(platform, &hash).await?;
        let key = key.filter(|key| key.is_valid(platform.now_ms())).ok_or_else(ApiError::invalid_key)?;
        let tenant = self.directory.tenant(platform, &key.tenant).await?.ok_or_else(ApiError::invalid_key)?;
        timing.auth_ms = Some(since(platform, timing));
        if tenant.status == TenantStatus::Suspended {
            return Err(ApiError::suspended());
        }
        Ok(Caller { key, tenant })
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

/// A model as `/v1/models` shows it: able to do what its first target's dialect is.
fn card<'a>(config: &'a GatewayConfig, name: &'a str, model: &'a Model) -> ModelCard<'a> {
    let first = model.targets.first().and_then(|target| config.upstreams.get(&target.upstream));
    ModelCard {
        id: name,
        object: "model",
        created: model.created,
        owned_by: &model.owned_by,
        capabilities: first.map(|upstream| upstream.dialect.dialect().capabilities().by_name()).unwrap_or_default(),
    }
}

/// 415 unless the body is JSON, and plainly so.
fn check_content_type(head: &Head) -> Result<(), ApiError> {
    let unsupported = |message: String| Err(ApiError::new(Case::UnsupportedMedia, message));
    if let Some(encoding) = head.content_encoding.as_deref().filter(|encoding| *encoding != "identity") {
        return unsupported(format!("Unsupported content encoding '{encoding}': send the body as it is."));
    }
    let content_type = head.content_type.as_deref().unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == JSON || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    unsupported(format!("Unsupported content type '{content_type}': expected 'application/json'."))
}

fn asked_format(name: &str) -> Result<ChunkFormat, ApiError> {
    ChunkFormat::by_name(name).ok_or_else(|| {
        let message =
            "Invalid value for the header 'x-completions-format': expected 'superset', 'documented' or 'openai'.";
        ApiError::new(Case::Invalid, message)
    })
}

/// What a browser asks before it lets a page call us.
fn preflight<B>(head: &Head, method: &'static str) -> Reply<B> {
    let mut reply = Reply::no_content();
    reply.header("access-control-allow-methods", method);
    // SDKs send headers of their own (`x-stainless-…`), and none can do harm here.
    let wanted = head.wanted_headers.as_deref().unwrap_or("authorization, content-type");
    reply.header("access-control-allow-headers", wanted);
    reply.header("access-control-max-age", "86400");
    reply
}

/// The client's own request id if it is a sane one, else one of ours.
fn request_id(head: &Head, entropy: Entropy) -> String {
    let sane = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    match head.request_id.as_deref().filter(sane) {
        Some(id) => id.to_owned(),
        None => format!("req_{}", hex(entropy.0.get(..16).unwrap_or_default())),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A path segment as it was meant; an escape that is none stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |hex: u8| char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low, after))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
