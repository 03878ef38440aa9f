//! An OpenAI-compatible `POST /v1/completions` that runs at the edge.
//!
//! The modules in reading order, each on top of those before it: [`api`] is our own wire format, [`framing`] cuts
//! upstreams' bytes into frames, [`dialect`] translates requests and frames of one family of upstreams, [`transcode`]
//! turns an upstream's stream into ours. [`config`] and [`tenant`] are what KV holds, [`quota`] what tenants may
//! spend, [`health`] what an isolate knows of its targets. [`gateway`] is the straight line that a request takes through
//! all of them; [`admin`] is the operator's API beside it. `edge`, which exists on wasm32 only, joins both to the
//! runtime: it alone knows of Workers, JavaScript, clocks and randomness.

pub mod admin;
pub mod api;
pub mod config;
mod date;
pub mod dialect;
#[cfg(target_arch = "wasm32")]
mod edge;
mod fields;
pub mod framing;
pub mod gateway;
pub mod health;
mod hex;
mod json;
pub mod quota;
pub mod tenant;
pub mod transcode;
