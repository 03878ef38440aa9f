//! The operator's API below `/admin/v1`: tenants, keys, the configuration, usage.
//!
//! The truth about a record is in a ledger object, where writers meet and versions count; KV has the copy that requests
//! read (`records`). A change is answered once both have it. Without the secret `ADMIN_TOKEN` there is no such API.

mod config;
mod keys;
mod mint;
mod records;
mod request;
mod stored_key;
mod tenants;
mod usage;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::api::{ApiError, Case};
use crate::gateway::{Entropy, Head, JSON, Platform, Reply, Timing, request_id};
use crate::tenant::ApiKey;

/// What operators need of the world beside what requests need.
#[expect(async_fn_in_trait, reason = "see Platform")]
pub trait AdminPlatform: Platform {
    /// Writes a KV key. KV takes one write a second for each of them. The error is for the log.
    async fn kv_put(&self, key: &str, value: &str) -> Result<(), String>;

    /// Deletes a KV key, if it is there.
    async fn kv_delete(&self, key: &str) -> Result<(), String>;

    /// At most `limit` KV keys that begin with `prefix`, in order of name, from where `cursor` was given.
    async fn kv_list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<KvNames, String>;

    /// Lets `ms` milliseconds pass.
    async fn sleep(&self, ms: u64);

    /// Randomness that nobody else has seen.
    fn random(&self) -> [u8; 32];
}

/// A page of KV keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvNames {
    /// The keys.
    pub names: Vec<String>,
    /// Where the next page begins; `None` if this is the last one.
    pub cursor: Option<String>,
}

/// The name of the secret.
const ADMIN_TOKEN: &str = "ADMIN_TOKEN";
/// A shorter token could be guessed; it counts as none.
const MIN_TOKEN_BYTES: usize = 16;
const PREFIX: &str = "/admin/v1/";

/// Whether a path is for [`handle`].
#[must_use]
pub fn is_admin_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// Answers an operator's request:
///
/// 1. without the secret, no path exists → 404
/// 2. the operator's token → 401, 429
/// 3. the route and its method → 404, 405
/// 4. body, query and preconditions → 400, 412, 413, 415
/// 5. the record's truth changes in the ledger object → 404, 409, 412, 503
/// 6. KV gets its copy → 503
pub async fn handle<P: AdminPlatform>(platform: &P, head: &Head, entropy: Entropy) -> Reply<P::Body> {
    let timing = Timing::from(platform.now_ms());
    // 1. and 2.
    let secret = platform.secret(ADMIN_TOKEN).filter(|secret| secret.len() >= MIN_TOKEN_BYTES);
    let reply = match secret {
        None => Reply::error(&ApiError::unknown_url(&head.method, &head.path)),
        Some(secret) => {
            let reply = match authenticate(platform, head, &secret).await {
                Ok(()) => route(platform, head).await,
                Err(error) => Err(error),
            };
            let mut reply = reply.unwrap_or_else(|error| Reply::error(&error));
            reply.header("cache-control", "no-store");
            reply
        }
    };
    reply.with_common_headers(&request_id(head, entropy), &timing, platform.now_ms())
}

async fn authenticate<P: AdminPlatform>(platform: &P, head: &Head, secret: &str) -> Result<(), ApiError> {
    let token = head.authorization.as_deref().and_then(ApiKey::bearer_token).ok_or_else(ApiError::no_key)?;
    if is_same(token, secret) {
        return Ok(());
    }
    // Whoever guesses tokens is slowed down as whoever guesses keys is.
    let slowed = !platform.may_fail_again().await;
    Err(if slowed { ApiError::too_many_failures() } else { ApiError::invalid_key() })
}

/// Whether two texts are the same, in a time that tells nothing about how much of them is: all bytes of two digests are
/// compared, and no branch depends on one. Whoever measures learns at most about digests, which cannot be steered.
fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a.as_bytes()), Sha256::digest(b.as_bytes()));
    a.iter().zip(b.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Where a request goes.
enum Route<'a> {
    Tenants,
    Tenant(&'a str),
    Keys(&'a str),
    Key(&'a str, &'a str),
    Rotate(&'a str, &'a str),
    Usage(&'a str),
    Config,
    ConfigCheck,
}

impl<'a> Route<'a> {
    /// The route of a path, and its methods as `Allow` has them.
    fn of(path: &'a str) -> Option<(Self, &'static str)> {
        let segments: Vec<&str> = path.strip_prefix(PREFIX)?.split('/').collect();
        if segments.contains(&"") {
            return None;
        }
        Some(match *segments.as_slice() {
            ["tenants"] => (Self::Tenants, "GET, POST"),
            ["tenants", id] => (Self::Tenant(id), "GET, PUT, PATCH, DELETE"),
            ["tenants", id, "keys"] => (Self::Keys(id), "GET, POST"),
            ["tenants", id, "keys", key] => (Self::Key(id, key), "GET, PATCH, DELETE"),
            ["tenants", id, "keys", key, "rotate"] => (Self::Rotate(id, key), "POST"),
            ["tenants", id, "usage"] => (Self::Usage(id), "GET"),
            ["config"] => (Self::Config, "GET, PUT"),
            ["config", "check"] => (Self::ConfigCheck, "POST"),
            _ => return None,
        })
    }
}

/// Steps 3 to 6.
async fn route<P: AdminPlatform>(platform: &P, head: &Head) -> Result<Reply<P::Body>, ApiError> {
    let (method, path) = (head.method.as_str(), head.path.as_str());
    let (route, allow) = Route::of(path).ok_or_else(|| ApiError::unknown_url(method, path))?;
    match (route, method) {
        (Route::Tenants, "GET") => tenants::list(platform, head).await,
        (Route::Tenants, "POST") => tenants::create(platform, head).await,
        (Route::Tenant(id), "GET") => tenants::show(platform, id).await,
        (Route::Tenant(id), "PUT") => tenants::put(platform, head, id).await,
        (Route::Tenant(id), "PATCH") => tenants::patch(platform, head, id).await,
        (Route::Tenant(id), "DELETE") => tenants::delete(platform, head, id).await,
        (Route::Keys(tenant), "GET") => keys::list(platform, head, tenant).await,
        (Route::Keys(tenant), "POST") => keys::create(platform, head, tenant).await,
        (Route::Key(tenant, key), "GET") => keys::show(platform, tenant, key).await,
        (Route::Key(tenant, key), "PATCH") => keys::patch(platform, head, tenant, key).await,
        (Route::Key(tenant, key), "DELETE") => keys::delete(platform, head, tenant, key).await,
        (Route::Rotate(tenant, key), "POST") => keys::rotate(platform, head, tenant, key).await,
        (Route::Usage(tenant), "GET") => usage::show(platform, head, tenant).await,
        (Route::Config, "GET") => config::show(platform).await,
        (Route::Config, "PUT") => config::put(platform, head).await,
        (Route::ConfigCheck, "POST") => config::check(platform, head).await,
        _ => Err(ApiError::method_not_supported(method, path, allow)),
    }
}

/// 404: there is no such record.
fn not_found(what: &str) -> ApiError {
    ApiError::new(Case::RecordNotFound, format!("There is no {what}."))
}

/// An answer of this status with a value as JSON.
fn answer<B>(status: u16, value: &impl Serialize) -> Reply<B> {
    // Records always serialize; the fallback keeps a panic out.
    let mut reply = Reply::ok(JSON, serde_json::to_vec(value).unwrap_or_default());
    reply.status = status;
    reply
}

/// The same for a record, with its version.
fn record_answer<B>(status: u16, value: &impl Serialize, etag: Option<String>) -> Reply<B> {
    let mut reply = answer(status, value);
    if let Some(etag) = etag {
        reply.header("etag", etag);
    }
    reply
}

/// A page of a list.
#[derive(Serialize)]
struct List<T> {
    object: &'static str,
    data: Vec<T>,
    next_cursor: Option<String>,
}

impl<T> List<T> {
    fn new(data: Vec<T>, next_cursor: Option<String>) -> Self {
        Self { object: "list", data, next_cursor }
    }
}
