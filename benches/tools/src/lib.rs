//! What the scripted upstream (`bin/upstream`) and the load generator (`bin/load`) of the benchmark share.
//!
//! - [`http`]: just enough of HTTP/1.1, read without copying.
//! - [`script`]: what the upstream answers, made once before the first request.
//! - [`check`]: what an answer must hold to be counted.
//! - [`stamp`]: the time at which an event was written, inside its text.
//! - [`process`]: what another process has used.
//! - [`observer`]: a load seen from outside.
//! - [`args`]: `--name value` command lines.

pub mod args;
pub mod check;
pub mod http;
pub mod observer;
pub mod process;
pub mod script;
pub mod stamp;
