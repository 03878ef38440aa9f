//! One key as its tenant's ledger object keeps it, and where.
//!
//! A key's record is kept under `key-id:<id>`, together with the hash that names KV's copy: so one call lists a tenant's
//! keys, and one call finds a key by its id. Where a path names a key, its hash will do as well: that is how a record
//! that was written into KV by hand comes to be known here.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::{ApiError, Case, ChunkFormat};
use crate::fields::{self, Fields, Read};
use crate::quota::Limits;
use crate::tenant::{KeyRecord, KeyStatus};

use super::records::{self, Document, KvCopy, Place};
use super::{AdminPlatform, not_found, tenants};

/// What a key's name in its ledger object begins with.
pub(super) const PREFIX: &str = "key-id:";
const KV_PREFIX: &str = "key:";

/// A key's record and the hash by which requests know it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StoredKey {
    pub hash: String,
    pub record: KeyRecord,
}

impl Read<'_> for StoredKey {
    fn read(json: &RawValue) -> Result<Self, String> {
        let mut fields = Fields::of(json);
        let hash = fields.required("hash", String::new());
        let record: Option<KeyRecord> = fields.required("record", None);
        // Null is none.
        fields.made(record)?.map(|record| Self { hash, record }).ok_or_else(|| ".record: it is missing".to_owned())
    }
}

impl Document for StoredKey {
    fn parse(text: &str) -> Result<Self, String> {
        fields::parse(text.as_bytes())
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    fn from_copy(kv_name: &str, copy: &str) -> Result<Self, String> {
        let hash = kv_name.strip_prefix(KV_PREFIX).unwrap_or_default().to_owned();
        KeyRecord::parse(copy.as_bytes()).map(|record| Self { hash, record })
    }

    fn copy(&self, _: &Place) -> KvCopy {
        (format!("{KV_PREFIX}{}", self.hash), serde_json::to_string(&self.record).unwrap_or_default())
    }
}

/// A key as the API shows it.
#[derive(Serialize)]
pub(super) struct View<'a> {
    object: &'static str,
    id: &'a str,
    tenant: &'a str,
    name: &'a str,
    status: KeyStatus,
    expires_at: Option<u64>,
    models: Option<&'a [String]>,
    chunk_format: Option<ChunkFormat>,
    limits: Limits,
    hash: &'a str,
    /// The key itself, in the one answer that ever has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

impl StoredKey {
    pub(super) fn view<'a>(&'a self, key: Option<&'a str>) -> View<'a> {
        let KeyRecord { tenant, id, name, status, expires_at, models, chunk_format, limits, .. } = &self.record;
        View {
            object: "key",
            id,
            tenant,
            name,
            status: *status,
            expires_at: *expires_at,
            models: models.as_deref(),
            chunk_format: *chunk_format,
            limits: *limits,
            hash: &self.hash,
            key,
        }
    }
}

pub(super) fn absent(tenant: &str, key: &str) -> ApiError {
    not_found(&format!("key `{key}` of a tenant `{tenant}`"))
}

pub(super) fn place_of(tenant: &str, id: &str) -> Place {
    Place { ledger: tenant.to_owned(), name: format!("{PREFIX}{id}"), kv_name: None }
}

/// The place of the key that a path names, by id or by hash. The two cannot be taken for each other: an id has at most
/// 32 characters.
pub(super) async fn place<P: AdminPlatform>(platform: &P, tenant: &str, key: &str) -> Result<Place, ApiError> {
    let is_plain = key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !tenants::is_id(tenant) || !is_plain {
        return Err(absent(tenant, key));
    }
    if key.len() != 64 {
        return Ok(place_of(tenant, key));
    }
    let kv_name = format!("{KV_PREFIX}{key}");
    let copy = records::kv_copy(platform, &kv_name).await?;
    let record = copy.and_then(|copy| KeyRecord::parse(copy.as_bytes()).ok());
    let id = record.filter(|record| record.tenant == tenant).ok_or_else(|| absent(tenant, key))?.id;
    Ok(Place { kv_name: Some(kv_name), ..place_of(tenant, &id) })
}

/// The key at a place, which must be there, and the one that was meant: two records in KV may have the same id.
pub(super) fn demanded(tenant: &str, place: &Place, found: Option<StoredKey>) -> Result<StoredKey, ApiError> {
    let id = place.name.strip_prefix(PREFIX).unwrap_or_default();
    let stored = found.ok_or_else(|| absent(tenant, id))?;
    let is_meant = place.kv_name.as_ref().is_none_or(|name| name.strip_prefix(KV_PREFIX) == Some(&stored.hash));
    if is_meant {
        return Ok(stored);
    }
    Err(ApiError::new(Case::Conflict, format!("Another key of this tenant has the same id `{id}`.")))
}
