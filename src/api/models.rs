//! `GET /v1/models` and `GET /v1/models/{model}`.

use serde::Serialize;
use serde_json::{Map, Value};

/// One model as `/v1/models` shows it.
#[derive(Debug, Serialize)]
pub struct ModelCard<'a> {
    /// The public name.
    pub id: &'a str,
    /// Always "model".
    pub object: &'static str,
    /// Seconds since 1970, as the configuration has it.
    pub created: u64,
    /// Whom the configuration names.
    pub owned_by: &'a str,
    /// For every parameter `native`, `emulated` or `unsupported`.
    pub capabilities: Map<String, Value>,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: &'a [ModelCard<'a>],
}

/// The list, as the API has it.
#[must_use]
pub fn write_models(cards: &[ModelCard<'_>]) -> Vec<u8> {
    serde_json::to_vec(&List { object: "list", data: cards }).unwrap_or_default()
}

/// One model.
#[must_use]
pub fn write_model(card: &ModelCard<'_>) -> Vec<u8> {
    serde_json::to_vec(card).unwrap_or_default()
}
