//! The API's own wire format: the only place that knows our public JSON.

mod account;
mod chunk;
mod completion;
mod error;
mod models;
mod param;
mod prompt;
mod request;
#[cfg(test)]
mod request_tests;
mod usage;

pub use account::{AccountLimit, AccountUsage, AccountWindow, write_usage};
pub use chunk::{ChunkFormat, ChunkHead, ChunkWriter};
pub use completion::{Answer, Choice, write_completion};
pub use error::{ApiError, Case};
pub use models::{ModelCard, write_model, write_models};
pub use prompt::Prompt;
pub use request::{CompletionRequest, unrecognized};
pub use usage::{FinishReason, Logprob, Logprobs, TopLogprobs, Usage, tokens_of_bytes};
