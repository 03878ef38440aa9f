//! What is known of the tokens of one upstream call: as reported, and as seen.

use crate::api::{Usage, tokens_of_bytes};
use crate::dialect::UsageReport;

/// The tokens of one upstream call.
#[derive(Clone, Copy, Debug)]
pub struct UsageTally {
    report: UsageReport,
    estimated_prompt_tokens: u64,
    text_bytes: u64,
}

impl UsageTally {
    /// Nothing reported, nothing seen, and a prompt of so many tokens.
    #[must_use]
    pub fn new(estimated_prompt_tokens: u64) -> Self {
        Self { report: UsageReport::default(), estimated_prompt_tokens, text_bytes: 0 }
    }

    /// Takes a report. Reports are cumulative, so a later one replaces an earlier one, field by field.
    pub fn report(&mut self, report: UsageReport) {
        self.report.prompt_tokens = report.prompt_tokens.or(self.report.prompt_tokens);
        self.report.completion_tokens = report.completion_tokens.or(self.report.completion_tokens);
    }

    /// Takes note of text that goes to the client.
    pub fn see(&mut self, text: &str) {
        self.text_bytes = self.text_bytes.saturating_add(text.len() as u64);
    }

    /// Whether the upstream has counted the completion.
    #[must_use]
    pub fn is_reported(&self) -> bool {
        self.report.completion_tokens.is_some()
    }

    /// The tokens of an answer that is complete.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.report.prompt_tokens.unwrap_or(self.estimated_prompt_tokens),
            completion_tokens: self.report.completion_tokens.unwrap_or(tokens_of_bytes(self.text_bytes)),
        }
    }

    /// The tokens of an answer that was cut short: the larger of what was reported and what was sent on.
    #[must_use]
    pub fn usage_when_cut(&self) -> Usage {
        let seen = tokens_of_bytes(self.text_bytes);
        let usage = self.usage();
        Usage { completion_tokens: usage.completion_tokens.max(seen), ..usage }
    }
}
