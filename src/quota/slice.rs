//! One slice of a quota: requests and tokens that an isolate has reserved ahead of need, and what became of them.

use super::limits::Limits;
use super::operation::{Report, Settle, Totals};

/// How long a report may be under way before it is made again. One that comes twice does no harm.
const TELLING_MS: u64 = 6000;
/// The pause after a report that failed.
const TELL_AGAIN_MS: u64 = 1000;

/// A slice as the isolate knows it.
///
/// Invariant: what was reserved is unspent, or under way, or in the totals.
#[derive(Debug)]
pub(super) struct Slice {
    pub lease: String,
    /// The limits of tenant and key that it was reserved under.
    pub limits: [Limits; 2],
    /// Nothing is spent of it any more from then on.
    pub until_ms: u64,
    /// How many requests it was for at first.
    pub size: u64,
    pub unspent_requests: u64,
    pub unspent_tokens: u64,
    running: u64,
    totals: Totals,
    seq: u64,
    /// The report by which what was unspent is given back, until the ledger knows it.
    closing_seq: Option<u64>,
    /// How long what has ended may wait before the ledger is told, in the hope that somebody asks it anyhow.
    patience_ms: u64,
    /// When the ledger has to be told, if there is anything that it does not know.
    due_ms: Option<u64>,
    /// Until when a report is believed to be under way.
    telling_until_ms: Option<u64>,
}

impl Slice {
    /// A slice of `spare` requests beside the one that asked for it.
    pub(super) fn new(
        lease: &str,
        limits: [Limits; 2],
        spare: u64,
        tokens: u64,
        until_ms: u64,
        patience_ms: u64,
    ) -> Self {
        Self {
            lease: lease.to_owned(),
            limits,
            until_ms,
            size: spare,
            unspent_requests: spare,
            unspent_tokens: tokens.saturating_mul(spare),
            running: 1,
            totals: Totals::default(),
            seq: 0,
            closing_seq: None,
            patience_ms,
            due_ms: None,
            telling_until_ms: None,
        }
    }

    /// Takes a request of so many tokens, if it holds one; `after_all` where the ledger has refused it. Whoever calls has
    /// looked at the time.
    pub(super) fn spend(&mut self, model: &str, tokens: u64, after_all: bool) -> bool {
        if self.unspent_requests == 0 || self.unspent_tokens < tokens {
            return false;
        }
        self.unspent_requests = self.unspent_requests.saturating_sub(1);
        self.unspent_tokens = self.unspent_tokens.saturating_sub(tokens);
        self.running = self.running.saturating_add(1);
        if after_all {
            let counts = self.totals.usage.entry(model.to_owned()).or_default();
            counts.refused = counts.refused.saturating_sub(1);
        }
        true
    }

    /// A request that was spent of it, or that asked for it, has ended. What it used beyond its estimate is no longer
    /// there to be spent.
    pub(super) fn settle(&mut self, model: &str, tokens: u64, settle: &Settle, now_ms: u64) {
        let used = settle.prompt_tokens.saturating_add(settle.completion_tokens);
        let beyond = used.saturating_sub(tokens).min(self.unspent_tokens);
        self.unspent_tokens = self.unspent_tokens.saturating_sub(beyond);
        self.running = self.running.saturating_sub(1);
        self.totals.usage.entry(model.to_owned()).or_default().end(settle);
        let estimated_tokens = tokens.saturating_add(beyond);
        self.totals.estimated_tokens = self.totals.estimated_tokens.saturating_add(estimated_tokens);
        self.changed(now_ms.saturating_add(self.patience_ms));
    }

    /// Gives back what is unspent, once it is too late to spend it, or nothing but tokens is left.
    pub(super) fn close_if_over(&mut self, now_ms: u64) {
        if (self.unspent_requests == 0 || now_ms >= self.until_ms) && self.is_unspent() {
            let Self { totals, unspent_requests, unspent_tokens, .. } = self;
            totals.unspent_requests = totals.unspent_requests.saturating_add(std::mem::take(unspent_requests));
            totals.unspent_tokens = totals.unspent_tokens.saturating_add(std::mem::take(unspent_tokens));
            self.changed(now_ms);
            self.closing_seq = Some(self.seq);
        }
    }

    /// Whether it holds something that is not spent any more, as far as the ledger knows.
    pub(super) fn gives_back(&mut self, now_ms: u64) -> bool {
        self.close_if_over(now_ms);
        self.closing_seq.is_some()
    }

    fn is_unspent(&self) -> bool {
        self.unspent_requests > 0 || self.unspent_tokens > 0
    }

    fn changed(&mut self, due_ms: u64) {
        self.seq = self.seq.saturating_add(1);
        self.due_ms = Some(self.due_ms.map_or(due_ms, |earlier| earlier.min(due_ms)));
    }

    /// What the ledger does not know yet, if anything, and if nobody is telling it.
    pub(super) fn report(&mut self, now_ms: u64) -> Option<Report> {
        self.close_if_over(now_ms);
        if self.due_ms.is_none() || self.telling_until_ms.is_some_and(|until_ms| now_ms < until_ms) {
            return None;
        }
        self.telling_until_ms = Some(now_ms.saturating_add(TELLING_MS));
        Some(Report { lease: self.lease.clone(), seq: self.seq, totals: self.totals.clone() })
    }

    /// The next report is made even if one is under way.
    pub(super) fn tell_again(&mut self) {
        self.telling_until_ms = None;
    }

    /// The ledger knows that. What has changed meanwhile has time again.
    pub(super) fn told(&mut self, report: &Report, now_ms: u64) {
        self.telling_until_ms = None;
        self.due_ms = (report.seq != self.seq).then(|| now_ms.saturating_add(self.patience_ms));
        self.closing_seq = self.closing_seq.filter(|seq| report.seq < *seq);
    }

    /// The ledger may not know that.
    pub(super) fn not_told(&mut self, now_ms: u64) {
        self.telling_until_ms = None;
        self.due_ms = Some(now_ms.saturating_add(TELL_AGAIN_MS));
    }

    /// When somebody has to look after it, if nobody asks the ledger anyhow.
    pub(super) fn wake_ms(&self) -> Option<u64> {
        let close_ms = self.is_unspent().then_some(self.until_ms);
        let tell_ms = self.due_ms.map(|due_ms| due_ms.max(self.telling_until_ms.unwrap_or_default()));
        [close_ms, tell_ms].into_iter().flatten().min()
    }

    /// Whether all of it has ended, and the ledger knows.
    pub(super) fn is_over(&self) -> bool {
        self.running == 0 && !self.is_unspent() && self.due_ms.is_none()
    }
}
