//! The configuration: shown, checked, stored.

use crate::api::{ApiError, Case};
use crate::config::GatewayConfig;
use crate::gateway::{Head, JSON, Reply};

use super::records::{self, Changed, Document, Found, Place};
use super::request::{Preconditions, body};
use super::{AdminPlatform, answer, not_found};

/// A document that was found good, as the operator wrote it.
struct Text(String);

impl Text {
    fn checked(text: &str) -> Result<Self, String> {
        GatewayConfig::parse(text.as_bytes()).map(|_| Self(text.to_owned()))
    }
}

impl Document for Text {
    /// What is stored is shown even if this Worker would not take it: an older or a newer one may have stored it.
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// The configuration belongs to no tenant: its ledger object has a name that no tenant can have.
fn place() -> Place {
    Place { ledger: "@config".to_owned(), name: "config".to_owned(), kv_name: Some("config".to_owned()) }
}

fn reply<B>(status: u16, found: Found<Text>) -> Result<Reply<B>, ApiError> {
    let etag = found.etag();
    let Text(text) = found.document.ok_or_else(|| not_found("configuration yet"))?;
    let mut reply = Reply::ok(JSON, text.into_bytes());
    reply.status = status;
    if let Some(etag) = etag {
        reply.header("etag", etag);
    }
    Ok(reply)
}

/// The body, if it is a good configuration.
async fn good<P: AdminPlatform>(platform: &P, head: &Head) -> Result<Text, ApiError> {
    let document = String::from_utf8(body(platform, head).await?).map_err(|_| ApiError::not_json())?;
    Text::checked(&document).map_err(|why| ApiError::new(Case::Invalid, format!("Invalid configuration: {why}")))
}

/// `GET /admin/v1/config`: the document as it was stored.
pub(super) async fn show<P: AdminPlatform>(platform: &P) -> Result<Reply<P::Body>, ApiError> {
    reply(200, records::find(platform, &place()).await?)
}

/// `PUT /admin/v1/config`.
pub(super) async fn put<P: AdminPlatform>(platform: &P, head: &Head) -> Result<Reply<P::Body>, ApiError> {
    let Text(text) = good(platform, head).await?;
    let whole = |_| Ok(Some(Text(text.clone())));
    let Changed { now, created } = records::change(platform, &place(), Preconditions::of(head), &whole).await?;
    reply(if created { 201 } else { 200 }, now)
}

/// `POST /admin/v1/config/check`: what a PUT would say, without one.
pub(super) async fn check<P: AdminPlatform>(platform: &P, head: &Head) -> Result<Reply<P::Body>, ApiError> {
    good(platform, head).await?;
    Ok(answer(200, &serde_json::json!({ "valid": true })))
}
