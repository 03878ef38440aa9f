//! One key, as an isolate knows it: how busy it is, what it may spend without asking, and where its limits stand.

use super::ledger::MOST_SPARE;
use super::limits::Dimension;
use super::operation::Standing;
use super::slice::Slice;
use super::slices::{Ask, Spent};

/// So many requests of a key within the time of a slice make it worth one.
const BUSY: u64 = 8;
/// The most slices that are kept, while requests of them run for long.
const MOST_SLICES: usize = 1024;

/// A key.
#[derive(Debug, Default)]
pub(super) struct Key {
    /// How many requests there were since then, and in the time of a slice before that.
    since_ms: u64,
    count: u64,
    count_before: u64,
    /// Until when somebody is believed to be asking for a slice.
    pub asking_until_ms: u64,
    /// Whether this isolate has heard that it is revoked, which is for good.
    pub is_revoked: bool,
    /// In the order of when they end.
    pub slices: Vec<Slice>,
    /// Where the ledger said that the limits stand, when, and how many tokens less than estimated were used since.
    pub standings: Vec<Standing>,
    pub standings_ms: u64,
    pub saved_tokens: i64,
}

impl Key {
    pub(super) fn counts(&mut self, slice_ms: u64, now_ms: u64) {
        let past_ms = now_ms.saturating_sub(self.since_ms);
        if past_ms >= slice_ms {
            self.count_before = if past_ms < slice_ms.saturating_mul(2) { self.count } else { 0 };
            (self.since_ms, self.count) = (now_ms, 0);
        }
        self.count = self.count.saturating_add(1);
    }

    /// How many requests a slice should hold: what comes in half of its time, so that next to nothing of it is left over
    /// while traffic goes on. What is given back to a limit per minute is less what time has given back already.
    fn demand(&self) -> u64 {
        let seen = self.count.max(self.count_before);
        if seen < BUSY { 0 } else { (seen / 2).min(MOST_SPARE) }
    }

    fn live(&self, now_ms: u64) -> &[Slice] {
        let from = self.slices.partition_point(|slice| slice.until_ms <= now_ms);
        self.slices.get(from..).unwrap_or_default()
    }

    fn live_mut(&mut self, now_ms: u64) -> &mut [Slice] {
        let from = self.slices.partition_point(|slice| slice.until_ms <= now_ms);
        self.slices.get_mut(from..).unwrap_or_default()
    }

    /// How many more requests it should ask for now: none while enough is left, or somebody is asking. Enough is so much
    /// that others still find some while one asks for more.
    pub(super) fn wanted(&self, ask: &Ask<'_>, now_ms: u64) -> u64 {
        if now_ms < self.asking_until_ms || self.slices.len() >= MOST_SLICES {
            return 0;
        }
        let lasting_ms = now_ms.saturating_add(ask.slice_ms / 4);
        if ask.until_ms(now_ms) <= lasting_ms {
            return 0;
        }
        let lasting =
            self.live(now_ms).iter().filter(|slice| slice.limits == ask.limits && slice.until_ms > lasting_ms);
        let (left, size) = lasting.fold((0_u64, 0_u64), |(left, size), slice| {
            (left.saturating_add(slice.unspent_requests), size.max(slice.size))
        });
        if left > size / 4 { 0 } else { self.demand().saturating_sub(left) }
    }

    pub(super) fn spend(&mut self, ask: &Ask<'_>, after_all: bool, now_ms: u64) -> Option<Spent> {
        if self.is_revoked {
            return None;
        }
        let mut fitting = self.live_mut(now_ms).iter_mut().filter(|slice| slice.limits == ask.limits);
        let slice = fitting.find_map(|slice| slice.spend(ask.model, ask.tokens, after_all).then_some(slice))?;
        Some(ask.spent(slice))
    }

    /// The slice that a request was spent from. There may be many whose requests run for long: it is looked for where it
    /// was put, and elsewhere only if it was revoked since.
    pub(super) fn slice_of(&mut self, spent: &Spent) -> Option<&mut Slice> {
        let from = self.slices.partition_point(|slice| slice.until_ms < spent.until_ms);
        let at = (from..self.slices.len())
            .chain(0..from)
            .find(|at| self.slices.get(*at).is_some_and(|slice| slice.lease == spent.lease))?;
        self.slices.get_mut(at)
    }

    pub(super) fn revoke(&mut self, now_ms: u64) {
        self.is_revoked = true;
        self.live_mut(now_ms).iter_mut().for_each(|slice| slice.until_ms = now_ms);
    }

    /// Where the limits stand, as if nothing had been reserved ahead.
    pub(super) fn standings(&self, now_ms: u64) -> Vec<Standing> {
        let (requests, tokens) = self.live(now_ms).iter().fold((0_u64, 0_u64), |(requests, tokens), slice| {
            (requests.saturating_add(slice.unspent_requests), tokens.saturating_add(slice.unspent_tokens))
        });
        let past_ms = now_ms.saturating_sub(self.standings_ms);
        let as_of_now = |standing: &Standing| {
            let Standing { dimension, limit, remaining, reset_ms, .. } = *standing;
            let remaining = if dimension.counts_tokens() {
                remaining.saturating_add(tokens).saturating_add_signed(self.saved_tokens)
            } else {
                remaining.saturating_add(requests)
            };
            let reset_ms =
                if dimension == Dimension::ConcurrentRequests { 0 } else { reset_ms.saturating_sub(past_ms) };
            Standing { remaining: remaining.min(limit), reset_ms, ..*standing }
        };
        self.standings.iter().map(as_of_now).collect()
    }

    pub(super) fn is_idle(&self, slice_ms: u64, now_ms: u64) -> bool {
        self.slices.is_empty() && now_ms.saturating_sub(self.since_ms) >= slice_ms
    }
}
