//! What is known of the tokens of one upstream call: as reported, and as seen.

use crate::api::{Usage, tokens_of_bytes};
use crate::dialect::UsageReport;

/// The tokens of one upstream call.
#[derive(Clone, Debug)]
pub struct UsageTally {
    report: UsageReport,
    /// What was reported of each choice alone; empty until something is.
    of_choices: Vec<UsageReport>,
    /// How many choices each prompt has.
    n: usize,
    estimated_prompt_tokens: u64,
    text_bytes: u64,
}

impl UsageTally {
    /// Nothing reported, nothing seen, prompts of so many tokens, and `n` choices for each.
    #[must_use]
    pub fn new(estimated_prompt_tokens: u64, n: u32) -> Self {
        let n = usize::try_from(n).unwrap_or(usize::MAX).max(1);
        Self { report: UsageReport::default(), of_choices: Vec::new(), n, estimated_prompt_tokens, text_bytes: 0 }
    }

    /// Takes a report. Reports are cumulative, so a later one replaces an earlier one, field by field.
    pub fn report(&mut self, report: UsageReport) {
        self.report.update(report);
    }

    /// Takes a report of one choice of `choices`. Those of all choices together count where none of the whole comes.
    pub fn report_of(&mut self, place: usize, choices: usize, report: UsageReport) {
        if choices <= 1 {
            return self.report(report);
        }
        self.of_choices.resize(choices, UsageReport::default());
        if let Some(of_choice) = self.of_choices.get_mut(place) {
            of_choice.update(report);
        }
    }

    /// Takes note of text that goes to the client.
    pub fn see(&mut self, text: &str) {
        self.text_bytes = self.text_bytes.saturating_add(text.len() as u64);
    }

    /// Whether the completion is charged as the upstream has counted it. One that was cut may not be: some count a
    /// token when they begin, and the rest when they are done.
    #[must_use]
    pub fn is_reported(&self, complete: bool) -> bool {
        let least = if complete { 0 } else { tokens_of_bytes(self.text_bytes) };
        self.completion_tokens().is_some_and(|tokens| tokens >= least)
    }

    /// The tokens of an answer that is complete.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens().unwrap_or(self.estimated_prompt_tokens),
            completion_tokens: self.completion_tokens().unwrap_or(tokens_of_bytes(self.text_bytes)),
        }
    }

    /// The tokens of an answer that was cut short: the larger of what was reported and what was sent on.
    #[must_use]
    pub fn usage_when_cut(&self) -> Usage {
        let seen = tokens_of_bytes(self.text_bytes);
        let usage = self.usage();
        Usage { completion_tokens: usage.completion_tokens.max(seen), ..usage }
    }

    fn completion_tokens(&self) -> Option<u64> {
        let of_choices = || sum(self.of_choices.iter().map(|report| report.completion_tokens));
        self.report.completion_tokens.or_else(of_choices)
    }

    /// The choices of one prompt all count it.
    fn prompt_tokens(&self) -> Option<u64> {
        let of_prompts = || sum(self.of_choices.iter().step_by(self.n).map(|report| report.prompt_tokens));
        self.report.prompt_tokens.or_else(of_prompts)
    }
}

/// The sum, if all are there and there is one at all.
fn sum(counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let counts: Option<Vec<u64>> = counts.collect();
    counts.filter(|counts| !counts.is_empty()).map(|counts| counts.into_iter().fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(prompt_tokens: u64, completion_tokens: u64) -> UsageReport {
        UsageReport { prompt_tokens: Some(prompt_tokens), completion_tokens: Some(completion_tokens) }
    }

    #[test]
    fn pitfall_9_reports_replace_each_other_and_those_of_choices_add_up() {
        let mut tally = UsageTally::new(9, 1);
        tally.report(report(5, 1));
        tally.report(report(5, 7));
        assert_eq!(tally.usage(), Usage { prompt_tokens: 5, completion_tokens: 7 });

        // Two prompts with two choices each, as llama.cpp's server counts them.
        let mut tally = UsageTally::new(9, 2);
        for (place, of_choice) in [report(5, 18), report(5, 17), report(1, 3), report(1, 4)].into_iter().enumerate() {
            tally.report_of(place, 4, report(0, 0));
            tally.report_of(place, 4, of_choice);
        }
        assert!(tally.is_reported(true));
        assert_eq!(tally.usage(), Usage { prompt_tokens: 6, completion_tokens: 42 });
        tally.report(report(7, 50));
        assert_eq!(tally.usage(), Usage { prompt_tokens: 7, completion_tokens: 50 });
    }

    #[test]
    fn a_choice_that_nobody_counted_leaves_all_to_the_estimate() {
        let mut tally = UsageTally::new(9, 2);
        tally.report_of(1, 2, report(5, 18));
        tally.see("twelve bytes");
        assert!(!tally.is_reported(true));
        assert_eq!(tally.usage(), Usage { prompt_tokens: 9, completion_tokens: 3 });
    }

    #[test]
    fn pitfall_2_a_count_of_zero_is_a_count() {
        let mut tally = UsageTally::new(9, 1);
        tally.see("some text");
        tally.report(report(0, 0));
        assert_eq!(tally.usage(), Usage::default());
    }
}
