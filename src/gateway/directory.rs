//! Records and configuration: what the isolate remembers, else what KV holds.
//!
//! No borrow of the memory is held across an await, and nothing that a request waits for is shared with another.

use std::cell::RefCell;
use std::rc::Rc;

use crate::api::ApiError;
use crate::config::GatewayConfig;
use crate::tenant::{KeyHash, KeyRecord, Memory, TenantRecord};

use super::Platform;

/// How long a record may be used after it was read from KV, which may itself be as far behind.
const HIT_MS: u64 = 60_000;
/// How long a key that does not exist stays unknown.
const MISS_MS: u64 = 10_000;
/// How long the configuration is used before KV is asked for a newer one.
const CONFIG_MS: u64 = 30_000;
/// KV's own cache in each location; its least is 30 s.
const KV_CACHE_SECONDS: u32 = 30;

/// One isolate's memory of KV.
#[derive(Debug)]
pub struct Directory {
    keys: RefCell<Memory<Rc<KeyRecord>>>,
    missing_keys: RefCell<Memory<()>>,
    tenants: RefCell<Memory<Rc<TenantRecord>>>,
    config: RefCell<Option<Remembered>>,
}

/// The last good configuration, and the last document seen, good or not.
#[derive(Debug)]
struct Remembered {
    config: Option<Rc<GatewayConfig>>,
    document: Vec<u8>,
    until_ms: u64,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            keys: RefCell::new(Memory::new(4096, HIT_MS)),
            // Apart from the hits, so that guessing keys drives out no customer.
            missing_keys: RefCell::new(Memory::new(4096, MISS_MS)),
            tenants: RefCell::new(Memory::new(1024, HIT_MS)),
            config: RefCell::new(None),
        }
    }
}

impl Directory {
    /// The record of a key, if the key exists.
    pub async fn key<P: Platform>(&self, platform: &P, hash: &KeyHash) -> Result<Option<Rc<KeyRecord>>, ApiError> {
        let now_ms = platform.now_ms();
        if let Some(record) = self.keys.borrow().get(hash.as_str(), now_ms) {
            return Ok(Some(Rc::clone(record)));
        }
        if self.missing_keys.borrow().get(hash.as_str(), now_ms).is_some() {
            return Ok(None);
        }
        let record = read(platform, &format!("key:{}", hash.as_str()), KeyRecord::parse).await?.map(Rc::new);
        match &record {
            Some(record) => self.keys.borrow_mut().insert(hash.as_str(), Rc::clone(record), now_ms),
            None => self.missing_keys.borrow_mut().insert(hash.as_str(), (), now_ms),
        }
        Ok(record)
    }

    /// The record of a tenant, if the tenant exists.
    pub async fn tenant<P: Platform>(&self, platform: &P, id: &str) -> Result<Option<Rc<TenantRecord>>, ApiError> {
        let now_ms = platform.now_ms();
        if let Some(record) = self.tenants.borrow().get(id, now_ms) {
            return Ok(Some(Rc::clone(record)));
        }
        let record = read(platform, &format!("tenant:{id}"), TenantRecord::parse).await?.map(Rc::new);
        if let Some(record) = &record {
            self.tenants.borrow_mut().insert(id, Rc::clone(record), now_ms);
        }
        Ok(record)
    }

    /// The configuration: parsed once per version. A broken document is refused, with the reason in the log, and the
    /// last good one stays in use.
    pub async fn config<P: Platform>(&self, platform: &P) -> Result<Rc<GatewayConfig>, ApiError> {
        let now_ms = platform.now_ms();
        let fresh = self.config.borrow().as_ref().filter(|r| now_ms < r.until_ms).map(|r| r.config.clone());
        if let Some(config) = fresh {
            return config.ok_or_else(ApiError::internal);
        }
        let document = match platform.kv("config", KV_CACHE_SECONDS).await {
            Ok(document) => document.unwrap_or_default(),
            Err(why) => {
                platform.warn(&format!("KV could not read `config`: {why}"));
                // An old configuration beats none.
                let last_good = self.config.borrow().as_ref().and_then(|r| r.config.clone());
                return last_good.ok_or_else(ApiError::internal);
            }
        };
        let until_ms = now_ms.saturating_add(CONFIG_MS);
        let mut remembered = self.config.borrow_mut();
        let last_good = match &mut *remembered {
            Some(r) if r.document == document => {
                r.until_ms = until_ms;
                return r.config.clone().ok_or_else(ApiError::internal);
            }
            Some(r) => r.config.take(),
            None => None,
        };
        let config = match GatewayConfig::parse(&document) {
            Ok(config) => Some(Rc::new(config)),
            Err(_) if document.is_empty() => {
                platform.warn("KV has no document under `config`");
                last_good
            }
            Err(why) => {
                platform.warn(&format!("the document under KV `config` is refused: {why}"));
                last_good
            }
        };
        *remembered = Some(Remembered { config: config.clone(), document, until_ms });
        config.ok_or_else(ApiError::internal)
    }
}

/// Reads and parses one record. A store that fails and a record that is broken are our fault, not the client's.
async fn read<P: Platform, T>(
    platform: &P,
    key: &str,
    parse: fn(&[u8]) -> Result<T, String>,
) -> Result<Option<T>, ApiError> {
    let why = match platform.kv(key, KV_CACHE_SECONDS).await {
        Ok(None) => return Ok(None),
        Ok(Some(json)) => match parse(&json) {
            Ok(record) => return Ok(Some(record)),
            Err(why) => why,
        },
        Err(why) => why,
    };
    platform.warn(&format!("KV record `{key}` cannot be used: {why}"));
    Err(ApiError::internal())
}
