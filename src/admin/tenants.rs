//! Tenants: made, shown, listed, changed, deleted.

use serde::Serialize;

use crate::api::{ApiError, Case};
use crate::fields::Fields;
use crate::gateway::{Head, Reply};
use crate::quota::Limits;
use crate::tenant::{TenantRecord, TenantStatus};

use super::records::{self, Changed, Document, Found, Place};
use super::request::{Preconditions, Query, body, changed_limits, fields, refuse_unknown, value};
use super::{AdminPlatform, List, keys, not_found, record_answer};

const KV_PREFIX: &str = "tenant:";

impl Document for TenantRecord {
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text.as_bytes())
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A tenant as the API shows it.
#[derive(Serialize)]
struct View {
    object: &'static str,
    id: String,
    name: String,
    status: TenantStatus,
    models: Option<Vec<String>>,
    limits: Limits,
}

fn view(id: &str, record: TenantRecord) -> View {
    let TenantRecord { name, status, models, limits, .. } = record;
    View { object: "tenant", id: id.to_owned(), name, status, models, limits }
}

/// Whether a text may be a tenant's id: 1 to 63 characters `[a-z0-9-]`, the first one no hyphen.
pub(super) fn is_id(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn place(id: &str) -> Result<Place, ApiError> {
    if !is_id(id) {
        return Err(not_found(&format!("tenant `{id}`: an id is 1 to 63 of a-z, 0-9 and -, the first one not -")));
    }
    let name = format!("{KV_PREFIX}{id}");
    Ok(Place { ledger: id.to_owned(), kv_name: Some(name.clone()), name })
}

pub(super) fn absent(id: &str) -> ApiError {
    not_found(&format!("tenant `{id}`"))
}

fn new_record() -> TenantRecord {
    TenantRecord {
        version: 1,
        name: String::new(),
        status: TenantStatus::Active,
        models: None,
        limits: Limits::default(),
    }
}

/// The record as the fields of a body change it.
fn changed(mut record: TenantRecord, fields: Fields<'_>) -> Result<TenantRecord, ApiError> {
    let mut unknown = Vec::new();
    for (field, new) in fields {
        match field.as_str() {
            "name" => record.name = value::<Option<String>>(&field, new)?.unwrap_or_default(),
            "status" => record.status = value::<Option<TenantStatus>>(&field, new)?.unwrap_or(TenantStatus::Active),
            "models" => record.models = value(&field, new)?,
            "limits" => record.limits = changed_limits(record.limits, new)?,
            _ => unknown.push(field),
        }
    }
    refuse_unknown(&unknown)?;
    Ok(record)
}

fn reply<B>(status: u16, id: &str, found: Found<TenantRecord>) -> Result<Reply<B>, ApiError> {
    let etag = found.etag();
    let record = found.document.ok_or_else(|| absent(id))?;
    Ok(record_answer(status, &view(id, record), etag))
}

/// 404 unless there is such a tenant.
pub(super) async fn demand<P: AdminPlatform>(platform: &P, id: &str) -> Result<(), ApiError> {
    let found: Found<TenantRecord> = records::find(platform, &place(id)?).await?;
    found.document.map(drop).ok_or_else(|| absent(id))
}

/// `GET /admin/v1/tenants?limit=&cursor=`. KV knows which tenants there are, their ledgers what they are. KV's list may
/// be a minute behind.
pub(super) async fn list<P: AdminPlatform>(platform: &P, head: &Head) -> Result<Reply<P::Body>, ApiError> {
    let query = Query::of(head, &["limit", "cursor"])?;
    let page = platform.kv_list(KV_PREFIX, query.get("cursor"), query.limit()?).await;
    let page = page.map_err(|why| records::unavailable(platform, "KV", &why))?;
    let mut tenants = Vec::with_capacity(page.names.len());
    for name in &page.names {
        let id = name.strip_prefix(KV_PREFIX).unwrap_or_default();
        match place(id) {
            Ok(place) => {
                let found: Found<TenantRecord> = records::find(platform, &place).await?;
                // One that was just deleted may be in KV's list still.
                tenants.extend(found.document.map(|record| view(id, record)));
            }
            Err(_) => platform.warn(&format!("KV has a record `{name}`, which is no tenant's")),
        }
    }
    Ok(super::answer(200, &List::new(tenants, page.cursor)))
}

/// `POST /admin/v1/tenants`.
pub(super) async fn create<P: AdminPlatform>(platform: &P, head: &Head) -> Result<Reply<P::Body>, ApiError> {
    let body = body(platform, head).await?;
    let mut fields = fields(&body)?;
    let invalid = |message: &str| ApiError::new(Case::Invalid, message).about("id");
    let id = fields
        .take("id")
        .ok_or_else(|| ApiError::new(Case::MissingParameter, "Missing required parameter: 'id'.").about("id"))?;
    let id: String = value("id", id)?;
    let place = place(&id).map_err(|_| {
        invalid("Invalid value for 'id': expected 1 to 63 characters of a-z, 0-9 and -, the first one not -.")
    })?;
    let create = |found: Option<TenantRecord>| match found {
        None => changed(new_record(), fields.clone()).map(Some),
        Some(_) => Err(ApiError::new(Case::Conflict, format!("There is a tenant `{id}` already.")).about("id")),
    };
    let changed = records::change(platform, &place, Preconditions::default(), &create).await?;
    let mut reply = reply(201, &id, changed.now)?;
    reply.header("location", format!("/admin/v1/tenants/{id}"));
    Ok(reply)
}

/// `GET /admin/v1/tenants/{id}`.
pub(super) async fn show<P: AdminPlatform>(platform: &P, id: &str) -> Result<Reply<P::Body>, ApiError> {
    reply(200, id, records::find(platform, &place(id)?).await?)
}

/// `PUT /admin/v1/tenants/{id}`: what the body leaves out is as in a new record.
pub(super) async fn put<P: AdminPlatform>(platform: &P, head: &Head, id: &str) -> Result<Reply<P::Body>, ApiError> {
    let (place, body) = (place(id)?, body(platform, head).await?);
    let fields = fields(&body)?;
    let whole = |_| changed(new_record(), fields.clone()).map(Some);
    let Changed { now, created } = records::change(platform, &place, Preconditions::of(head), &whole).await?;
    reply(if created { 201 } else { 200 }, id, now)
}

/// `PATCH /admin/v1/tenants/{id}`: a JSON merge patch (RFC 7396).
pub(super) async fn patch<P: AdminPlatform>(platform: &P, head: &Head, id: &str) -> Result<Reply<P::Body>, ApiError> {
    let (place, body) = (place(id)?, body(platform, head).await?);
    let fields = fields(&body)?;
    let patched = |found: Option<TenantRecord>| {
        let record = found.ok_or_else(|| absent(id))?;
        changed(record, fields.clone()).map(Some)
    };
    reply(200, id, records::change(platform, &place, Preconditions::of(head), &patched).await?.now)
}

/// `DELETE /admin/v1/tenants/{id}`: the tenant first, so that nothing more can be made for it, then its keys: should
/// another tenant have this id one day, they must not open it.
pub(super) async fn delete<P: AdminPlatform>(platform: &P, head: &Head, id: &str) -> Result<Reply<P::Body>, ApiError> {
    let place = place(id)?;
    let nothing = |_: Option<TenantRecord>| Ok(None);
    records::change(platform, &place, Preconditions::of(head), &nothing).await?;
    keys::revoke_all(platform, id).await?;
    Ok(Reply::no_content())
}
