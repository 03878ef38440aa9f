//! A tenant's keys: made, shown, listed, changed, rotated, revoked.

use crate::api::{ApiError, Case};
use crate::fields::Fields;
use crate::gateway::{Head, Reply};
use crate::quota::{self, Call, Limits};
use crate::tenant::{ApiKey, KeyRecord, KeyStatus};

use super::mint::mint;
use super::records::{self, Changed, Document as _, Found, Place};
use super::request::{Preconditions, Query, body, changed_limits, fields, optional_body, refuse_unknown, value};
use super::stored_key::{PREFIX, StoredKey, demanded, place, place_of};
use super::{AdminPlatform, List, answer, record_answer, tenants};

/// Keys that are revoked at a time, with their tenant.
const PAGE: u32 = 100;
/// How long a rotated key goes on, unless the operator says.
const GRACE_SECONDS: u64 = 86_400;
const MAX_GRACE_SECONDS: u64 = 366 * 86_400;

/// The record as the fields of a body change it.
fn changed(mut record: KeyRecord, fields: Fields<'_>) -> Result<KeyRecord, ApiError> {
    let mut unknown = Vec::new();
    for (field, new) in fields {
        match field.as_str() {
            "name" => record.name = value::<Option<String>>(&field, new)?.unwrap_or_default(),
            "models" => record.models = value(&field, new)?,
            "limits" => record.limits = changed_limits(record.limits, new)?,
            "expires_at" => record.expires_at = value(&field, new)?,
            "chunk_format" => record.chunk_format = value(&field, new)?,
            _ => unknown.push(field),
        }
    }
    refuse_unknown(&unknown)?;
    Ok(record)
}

fn reply<B>(status: u16, found: &Found<StoredKey>, key: Option<&str>) -> Result<Reply<B>, ApiError> {
    let stored = found.document.as_ref().ok_or_else(ApiError::internal)?;
    let mut reply = record_answer(status, &stored.view(key), found.etag());
    if key.is_some() {
        let KeyRecord { tenant, id, .. } = &stored.record;
        reply.header("location", format!("/admin/v1/tenants/{tenant}/keys/{id}"));
    }
    Ok(reply)
}

/// Makes a key with the settings of `record`, and answers with the key itself: it is shown this once.
async fn issue<P: AdminPlatform>(platform: &P, record: KeyRecord) -> Result<Reply<P::Body>, ApiError> {
    let minted = mint(&platform.random());
    let hash = ApiKey::parse(&minted.key).ok_or_else(ApiError::internal)?.hash();
    let stored = StoredKey { hash: hash.as_str().to_owned(), record: KeyRecord { id: minted.id, ..record } };
    let place = place_of(&stored.record.tenant, &stored.record.id);
    let create = |found: Option<StoredKey>| match found {
        None => Ok(Some(stored.clone())),
        Some(_) => Err(ApiError::new(Case::Conflict, "The new key's id is taken. Please try again.")),
    };
    let changed = records::change(platform, &place, Preconditions::default(), &create).await?;
    // A tenant that was deleted meanwhile has revoked the keys that it saw, and may not have seen this one.
    if let Err(error) = tenants::demand(platform, &stored.record.tenant).await {
        revoke(platform, &place, &stored.record).await?;
        return Err(error);
    }
    reply(201, &changed.now, Some(&minted.key))
}

/// `POST /admin/v1/tenants/{id}/keys`.
pub(super) async fn create<P: AdminPlatform>(
    platform: &P,
    head: &Head,
    tenant: &str,
) -> Result<Reply<P::Body>, ApiError> {
    let body = optional_body(platform, head).await?;
    let new = KeyRecord {
        version: 1,
        tenant: tenant.to_owned(),
        id: String::new(),
        name: String::new(),
        status: KeyStatus::Active,
        expires_at: None,
        models: None,
        chunk_format: None,
        limits: Limits::default(),
    };
    let record = changed(new, fields(&body)?)?;
    tenants::demand(platform, tenant).await?;
    issue(platform, record).await
}

/// `GET /admin/v1/tenants/{id}/keys?limit=&cursor=`, in order of id.
pub(super) async fn list<P: AdminPlatform>(
    platform: &P,
    head: &Head,
    tenant: &str,
) -> Result<Reply<P::Body>, ApiError> {
    let query = Query::of(head, &["limit", "cursor"])?;
    tenants::demand(platform, tenant).await?;
    let (keys, next_cursor) = page(platform, tenant, query.get("cursor"), query.limit()?).await?;
    let views = keys.iter().map(|stored| stored.view(None)).collect();
    Ok(answer(200, &List::new(views, next_cursor)))
}

/// Keys whose ids come after `cursor`, and the cursor of those after them.
async fn page<P: AdminPlatform>(
    platform: &P,
    tenant: &str,
    cursor: Option<&str>,
    limit: u32,
) -> Result<(Vec<StoredKey>, Option<String>), ApiError> {
    let after = cursor.map(|id| format!("{PREFIX}{id}")).unwrap_or_default();
    // One more than asked for tells whether there is another page.
    let call = Call::ListRecords { prefix: PREFIX.to_owned(), after, limit: limit.saturating_add(1) };
    let quota::Reply::Records { records } = records::ask(platform, tenant, &call).await? else {
        return Err(ApiError::internal());
    };
    let mut keys = Vec::with_capacity(records.len());
    for record in &records {
        keys.push(StoredKey::parse(&record.value).map_err(|why| {
            platform.warn(&format!("the record `{}` of tenant `{tenant}` cannot be used: {why}", record.name));
            ApiError::internal()
        })?);
    }
    let is_last = keys.len() <= usize::try_from(limit).unwrap_or(usize::MAX);
    if !is_last {
        keys.pop();
    }
    let next = keys.last().filter(|_| !is_last).map(|stored| stored.record.id.clone());
    Ok((keys, next))
}

/// `GET /admin/v1/tenants/{id}/keys/{key}`.
pub(super) async fn show<P: AdminPlatform>(platform: &P, tenant: &str, key: &str) -> Result<Reply<P::Body>, ApiError> {
    let place = place(platform, tenant, key).await?;
    let found: Found<StoredKey> = records::find(platform, &place).await?;
    let etag = found.etag();
    let stored = demanded(tenant, &place, found.document)?;
    Ok(record_answer(200, &stored.view(None), etag))
}

/// `PATCH /admin/v1/tenants/{id}/keys/{key}`: a JSON merge patch. A status is not among its fields: what is revoked
/// stays revoked.
pub(super) async fn patch<P: AdminPlatform>(
    platform: &P,
    head: &Head,
    tenant: &str,
    key: &str,
) -> Result<Reply<P::Body>, ApiError> {
    let body = body(platform, head).await?;
    let fields = fields(&body)?;
    let place = place(platform, tenant, key).await?;
    let patched = |found: Option<StoredKey>| {
        let StoredKey { hash, record } = demanded(tenant, &place, found)?;
        changed(record, fields.clone()).map(|record| Some(StoredKey { hash, record }))
    };
    reply(200, &records::change(platform, &place, Preconditions::of(head), &patched).await?.now, None)
}

/// `POST /admin/v1/tenants/{id}/keys/{key}/rotate`: a new key with the same settings, and an end for the old one. The
/// new key comes first: should anything fail, the tenant still has one that works.
pub(super) async fn rotate<P: AdminPlatform>(
    platform: &P,
    head: &Head,
    tenant: &str,
    key: &str,
) -> Result<Reply<P::Body>, ApiError> {
    let body = optional_body(platform, head).await?;
    let mut fields = fields(&body)?;
    let grace = fields.take("grace_seconds");
    let grace = grace.map(|grace| value::<Option<u64>>("grace_seconds", grace)).transpose()?;
    refuse_unknown(&fields.into_iter().map(|(name, _)| name).collect::<Vec<_>>())?;
    let grace = grace.flatten().unwrap_or(GRACE_SECONDS);
    if grace > MAX_GRACE_SECONDS {
        let message = format!("Invalid value for 'grace_seconds': expected at most {MAX_GRACE_SECONDS}.");
        return Err(ApiError::new(Case::IntegerAboveMax, message).about("grace_seconds"));
    }
    tenants::demand(platform, tenant).await?;
    let place = place(platform, tenant, key).await?;
    let found: Found<StoredKey> = records::find(platform, &place).await?;
    Preconditions::of(head).check(found.etag().as_deref())?;
    let old = demanded(tenant, &place, found.document)?.record;
    if !old.is_valid(platform.now_ms()) {
        let message = format!("Key `{}` opens nothing any more, and cannot be rotated.", old.id);
        return Err(ApiError::new(Case::Conflict, message));
    }
    let issued = issue(platform, old.clone()).await?;
    let ended = end_in(platform, tenant, &place, &old, grace).await;
    if let Err(error) = ended {
        // The new key is shown only now: it must not be lost because the old one could not be ended.
        platform.warn(&format!("key `{}` was rotated, but its old one goes on: {}", old.id, error.message));
    }
    Ok(issued)
}

/// Ends a key after `grace` seconds, or at once.
async fn end_in<P: AdminPlatform>(
    platform: &P,
    tenant: &str,
    place: &Place,
    old: &KeyRecord,
    grace: u64,
) -> Result<(), ApiError> {
    if grace == 0 {
        return revoke(platform, place, old).await;
    }
    let end = (platform.now_ms() / 1000).saturating_add(grace);
    let shortened = |found: Option<StoredKey>| {
        let mut stored = demanded(tenant, place, found)?;
        // A key that ends sooner is not prolonged.
        stored.record.expires_at = Some(stored.record.expires_at.map_or(end, |at| at.min(end)));
        Ok(Some(stored))
    };
    records::change(platform, place, Preconditions::default(), &shortened).await?;
    Ok(())
}

/// `DELETE /admin/v1/tenants/{id}/keys/{key}`: the key is revoked; its record stays.
pub(super) async fn delete<P: AdminPlatform>(
    platform: &P,
    head: &Head,
    tenant: &str,
    key: &str,
) -> Result<Reply<P::Body>, ApiError> {
    let place = place(platform, tenant, key).await?;
    let found: Found<StoredKey> = records::find(platform, &place).await?;
    Preconditions::of(head).check(found.etag().as_deref())?;
    let stored = demanded(tenant, &place, found.document)?;
    revoke(platform, &place, &stored.record).await?;
    Ok(Reply::no_content())
}

/// Revokes a key. The ledger hears of it first: from then on it admits nothing with this key, though isolates and KV
/// remember it for a while. The record follows, whatever else others do to it: a revocation is never lost to a race.
async fn revoke<P: AdminPlatform>(platform: &P, place: &Place, key: &KeyRecord) -> Result<(), ApiError> {
    records::ask(platform, &key.tenant, &Call::Revoke { key: key.id.clone() }).await?;
    let revoked = |found: Option<StoredKey>| {
        let mut stored = demanded(&key.tenant, place, found)?;
        stored.record.status = KeyStatus::Revoked;
        Ok(Some(stored))
    };
    let _: Changed<StoredKey> = records::change(platform, place, Preconditions::default(), &revoked).await?;
    Ok(())
}

/// Revokes all keys of a tenant, those that are revoked already too: a call that failed halfway may have left one in KV,
/// and is repeated to its end.
pub(super) async fn revoke_all<P: AdminPlatform>(platform: &P, tenant: &str) -> Result<(), ApiError> {
    let mut cursor = None;
    loop {
        let (keys, next) = page(platform, tenant, cursor.as_deref(), PAGE).await?;
        for StoredKey { record, .. } in &keys {
            revoke(platform, &place_of(tenant, &record.id), record).await?;
        }
        if next.is_none() {
            return Ok(());
        }
        cursor = next;
    }
}
