//! The records of keys and tenants as KV holds them. They outlive a deploy, so their bytes are pinned by tests.
//!
//! A field that this version does not know is passed over: a newer Worker may have written it, and both run for a
//! while. A version that this Worker does not know is a fault.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::ChunkFormat;
use crate::fields::{self, Fields, Read, leaf, one_of};
use crate::quota::Limits;

/// KV `key:<hash>`: what a key may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    /// Of the record's form; 1.
    pub version: u32,
    /// The tenant it belongs to.
    pub tenant: String,
    /// The id in the middle of the key, by which operators know it.
    pub id: String,
    /// What it is for, in the operator's words.
    pub name: String,
    /// Whether it opens anything.
    pub status: KeyStatus,
    /// Seconds since 1970 from which on it opens nothing; absent or null is never.
    pub expires_at: Option<u64>,
    /// The models that it may use; absent or null is all of the tenant's.
    pub models: Option<Vec<String>>,
    /// The format of chunks, where the request does not say one.
    pub chunk_format: Option<ChunkFormat>,
    /// What it may spend, within what its tenant may.
    pub limits: Limits,
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// It does.
    Active,
    /// Never again.
    Revoked,
}

/// KV `tenant:<id>`: what a tenant may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TenantRecord {
    /// Of the record's form; 1.
    pub version: u32,
    /// The tenant's name, in the operator's words.
    pub name: String,
    /// Whether its keys open anything.
    pub status: TenantStatus,
    /// The models that its keys may use; absent or null is all.
    pub models: Option<Vec<String>>,
    /// What all its keys together may spend.
    pub limits: Limits,
}

/// Whether a tenant's keys open anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantStatus {
    /// They do.
    Active,
    /// Not until it is active again.
    Suspended,
}

impl Read<'_> for KeyStatus {
    fn read(json: &RawValue) -> Result<Self, String> {
        one_of(json, &[("active", Self::Active), ("revoked", Self::Revoked)])
    }
}

impl Read<'_> for TenantStatus {
    fn read(json: &RawValue) -> Result<Self, String> {
        one_of(json, &[("active", Self::Active), ("suspended", Self::Suspended)])
    }
}

impl Read<'_> for Limits {
    fn read(json: &RawValue) -> Result<Self, String> {
        leaf(json)
    }
}

impl Read<'_> for KeyRecord {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let record = Self {
            version: fields.required("version", 0),
            tenant: fields.required("tenant", String::new()),
            id: fields.required("id", String::new()),
            name: fields.or("name", String::new()),
            status: fields.required("status", KeyStatus::Revoked),
            expires_at: fields.optional("expires_at"),
            models: fields.optional("models"),
            chunk_format: fields.optional("chunk_format"),
            limits: fields.or("limits", Limits::default()),
        };
        fields.made(record)
    }
}

impl Read<'_> for TenantRecord {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let record = Self {
            version: fields.required("version", 0),
            name: fields.or("name", String::new()),
            status: fields.required("status", TenantStatus::Suspended),
            models: fields.optional("models"),
            limits: fields.or("limits", Limits::default()),
        };
        fields.made(record)
    }
}

/// The version of both records that this code reads and writes.
const VERSION: u32 = 1;

impl KeyRecord {
    /// Reads a record; the error says what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let record: Self = fields::parse(json)?;
        check_version(record.version)?;
        Ok(record)
    }

    /// Whether the key opens anything at this time, in milliseconds since 1970.
    #[must_use]
    pub fn is_valid(&self, now_ms: u64) -> bool {
        let expired = self.expires_at.is_some_and(|at| now_ms >= at.saturating_mul(1000));
        self.status == KeyStatus::Active && !expired
    }
}

impl TenantRecord {
    /// Reads a record; the error says what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let record: Self = fields::parse(json)?;
        check_version(record.version)?;
        Ok(record)
    }
}

fn check_version(version: u32) -> Result<(), String> {
    if version == VERSION { Ok(()) } else { Err(format!("version: expected {VERSION}, but got {version}")) }
}

/// The models that a key may use: those of its tenant that are also its own.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// The key's list.
    pub key: Option<&'a [String]>,
    /// The tenant's list.
    pub tenant: Option<&'a [String]>,
}

impl Allowed<'_> {
    /// Whether the key may use the model.
    #[must_use]
    pub fn contains(&self, model: &str) -> bool {
        [self.key, self.tenant].into_iter().flatten().all(|models| models.iter().any(|allowed| allowed == model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_records_outlive_a_deploy() {
        let key = r#"{"version":1,"tenant":"acme","id":"k1k1k1k1","name":"ci","status":"active","expires_at":1800000000,"models":["m"],"chunk_format":"openai","limits":{"requests_per_day":5}}"#;
        assert_eq!(serde_json::to_string(&KeyRecord::parse(key.as_bytes()).unwrap()).unwrap(), key);
        let tenant = r#"{"version":1,"name":"Acme","status":"suspended","models":null,"limits":{"tokens_per_minute":1,"concurrent_requests":2}}"#;
        assert_eq!(serde_json::to_string(&TenantRecord::parse(tenant.as_bytes()).unwrap()).unwrap(), tenant);
    }

    #[test]
    fn the_least_record_and_one_from_the_future() {
        let least = br#"{"version":1,"tenant":"acme","id":"k1k1k1k1","status":"revoked"}"#;
        assert!(!KeyRecord::parse(least).unwrap().is_valid(0));
        let newer = br#"{"version":1,"status":"active","limits":{"jokes_per_day":1},"colour":"red"}"#;
        assert!(TenantRecord::parse(newer).is_ok());
        assert!(TenantRecord::parse(br#"{"version":2,"status":"active"}"#).unwrap_err().contains("version"));
        assert!(KeyRecord::parse(br#"{"version":1}"#).is_err());
    }

    #[test]
    fn a_key_expires_to_the_second() {
        let json = br#"{"version":1,"tenant":"acme","id":"k1k1k1k1","status":"active","expires_at":100}"#;
        let record = KeyRecord::parse(json).unwrap();
        assert!(record.is_valid(99_999));
        assert!(!record.is_valid(100_000));
    }

    #[test]
    fn both_lists_have_to_allow_a_model() {
        let (a, b) = (["a".to_owned(), "b".to_owned()], ["b".to_owned()]);
        let check = |key, tenant| ["a", "b"].map(|model| Allowed { key, tenant }.contains(model));
        assert_eq!(check(None, None), [true, true]);
        assert_eq!(check(Some(&a[..]), None), [true, true]);
        assert_eq!(check(Some(&a[..]), Some(&b[..])), [false, true]);
        assert_eq!(check(Some(&[]), None), [false, false]);
    }
}
