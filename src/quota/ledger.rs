//! The ledger of one tenant: what has been promised, what has been used, and what may still be promised.
//!
//! Every operation is told the time and depends on nothing else, so that the same operations at the same times always
//! make the same ledger. That is how it survives a restart: [`Entry`] is what has to be written down.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bucket::Bucket;
use super::limits::{Dimension, Limits, Owner};
use super::window::{Window, date, day_of, end_of_day_ms, end_of_month_ms, month_of};

/// How long a client is told to wait for a free place: nobody knows when a request will end.
const CONCURRENCY_RETRY_MS: u64 = 1000;
/// How long a revoked key is remembered here; by then KV and every isolate know it.
const REVOKED_MS: u64 = 86_400_000;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// A name for the promise, unique among all of the tenant's; the same name again is the same promise.
    pub lease: String,
    /// The id of the key.
    pub key: String,
    /// The model, for the record of usage.
    pub model: String,
    /// The estimate of the prompts' tokens.
    pub prompt_tokens: u64,
    /// The most tokens that the choices may have.
    pub completion_tokens: u64,
    /// The tenant's limits as of now.
    #[serde(default)]
    pub tenant_limits: Limits,
    /// The key's limits as of now.
    #[serde(default)]
    pub key_limits: Limits,
    /// Milliseconds for which the promise holds, unless it is renewed.
    pub lease_ms: u64,
}

impl Reserve {
    fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// The promise.
    pub lease: String,
    /// The prompts' tokens; 0 if no upstream answered.
    pub prompt_tokens: u64,
    /// The choices' tokens.
    pub completion_tokens: u64,
    /// Whether they are estimated, since no upstream counted them.
    #[serde(default)]
    pub estimated: bool,
    /// Whether the request failed.
    #[serde(default)]
    pub failed: bool,
}

/// An operation that changed the ledger, for the journal.
#[expect(clippy::large_enum_variant, reason = "entries live one at a time, on their way to or from the journal")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// It was admitted.
    Reserve(Reserve),
    /// It ended.
    Settle(Settle),
    /// It goes on.
    Renew {
        /// The promise.
        lease: String,
        /// Milliseconds from now.
        lease_ms: u64,
    },
    /// The key opens nothing any more.
    Revoke {
        /// The id of the key.
        key: String,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// All dimensions have been reserved.
    Admitted,
    /// Nothing has been reserved.
    Denied(Denial),
    /// The key has been revoked.
    Revoked,
}

/// Which limit refused, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Whose limit.
    pub owner: Owner,
    /// Which one.
    pub dimension: Dimension,
    /// What it is.
    pub limit: u64,
    /// How much of it is used.
    pub used: u64,
    /// How much the request wants.
    pub requested: u64,
    /// After how many milliseconds the request will be admitted, if no other one comes; `None` if it never will.
    pub retry_after_ms: Option<u64>,
}

/// Where one limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whose limit.
    pub owner: Owner,
    /// Which one.
    pub dimension: Dimension,
    /// What it is.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// After how many milliseconds all of it is left again; 0 for concurrent requests, which nobody can tell.
    pub reset_ms: u64,
}

/// What was used in the calendar window of now, limited or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowUse {
    /// Whose.
    pub owner: Owner,
    /// Of this day, UTC: requests, and tokens with those that are promised.
    pub day: (u64, u64),
    /// Milliseconds until the day is over.
    pub day_ends_in_ms: u64,
    /// Of this month, UTC.
    pub month: (u64, u64),
    /// Milliseconds until the month is over.
    pub month_ends_in_ms: u64,
}

/// What was used on one day, with one key, of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageCounts {
    /// Requests that were admitted and have ended.
    pub requests: u64,
    /// Of all prompts.
    pub prompt_tokens: u64,
    /// Of all choices.
    pub completion_tokens: u64,
    /// Requests whose tokens are estimated.
    pub estimated: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// What usage is counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsageKey {
    /// `2026-01-31`, UTC: the day on which the request was admitted.
    pub day: String,
    /// The id of the key.
    pub key: String,
    /// The model.
    pub model: String,
}

/// Counters of the tenant or of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    requests: Bucket,
    tokens: Bucket,
    day: Window,
    month: Window,
    /// Promises that have neither been settled nor run out.
    open: u64,
}

/// A promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    key: String,
    model: String,
    prompt_tokens: u64,
    completion_tokens: u64,
    reserved_ms: u64,
    expires_ms: u64,
    /// The largest limits of the buckets since it was made; none where there was a time without one, and nothing of it
    /// is in the bucket.
    tenant_tpm: Option<u64>,
    key_tpm: Option<u64>,
}

/// The state of one tenant's quota.
///
/// Invariants: `open` of an account is the number of its leases; `now_ms` never goes back; a lease is charged in the
/// accounts with its estimate until it is settled, and with the truth from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    now_ms: u64,
    tenant: Account,
    keys: BTreeMap<String, Account>,
    leases: BTreeMap<String, Lease>,
    revoked: BTreeMap<String, u64>,
    /// No lease runs out before this.
    earliest_expiry_ms: u64,
    /// What has been used since it was last taken away to be stored.
    #[serde(skip)]
    usage: BTreeMap<UsageKey, UsageCounts>,
}

impl Account {
    /// The account as of a time: of windows that are over nothing is used.
    fn at(mut self, now_ms: u64) -> Self {
        let day = day_of(now_ms);
        self.day.roll(day);
        self.month.roll(month_of(day));
        self
    }

    /// What is used of a limit, rounded up.
    fn used(&self, dimension: Dimension, limit: u64, now_ms: u64) -> u64 {
        match dimension {
            Dimension::RequestsPerMinute => limit.saturating_sub(self.requests.remaining(limit, now_ms)),
            Dimension::TokensPerMinute => limit.saturating_sub(self.tokens.remaining(limit, now_ms)),
            Dimension::RequestsPerDay => self.day.requests,
            Dimension::TokensPerDay => self.day.tokens,
            Dimension::TokensPerMonth => self.month.tokens,
            Dimension::ConcurrentRequests => self.open,
        }
    }

    /// Milliseconds until all of a limit is left again.
    fn reset_ms(&self, dimension: Dimension, limit: u64, now_ms: u64) -> u64 {
        match dimension {
            Dimension::RequestsPerMinute => self.requests.reset_ms(limit, now_ms),
            Dimension::TokensPerMinute => self.tokens.reset_ms(limit, now_ms),
            Dimension::RequestsPerDay | Dimension::TokensPerDay => {
                end_of_day_ms(self.day.period).saturating_sub(now_ms)
            }
            Dimension::TokensPerMonth => end_of_month_ms(self.month.period).saturating_sub(now_ms),
            Dimension::ConcurrentRequests => 0,
        }
    }

    /// Milliseconds until `cost` fits: 0 if it fits now, `None` if it never will.
    fn wait_ms(&self, dimension: Dimension, limit: u64, cost: u64, now_ms: u64) -> Option<u64> {
        match dimension {
            Dimension::RequestsPerMinute => self.requests.wait_ms(limit, cost, now_ms),
            Dimension::TokensPerMinute => self.tokens.wait_ms(limit, cost, now_ms),
            _ if cost > limit => None,
            _ if self.used(dimension, limit, now_ms).saturating_add(cost) <= limit => Some(0),
            Dimension::ConcurrentRequests => Some(CONCURRENCY_RETRY_MS),
            _ => Some(self.reset_ms(dimension, limit, now_ms)),
        }
    }

    /// The limit that lets a request of `tokens` wait longest, if any does.
    fn denial(&self, owner: Owner, limits: Limits, tokens: u64, now_ms: u64) -> Option<Denial> {
        let denials = Dimension::ALL.into_iter().filter_map(|dimension| {
            let limit = limits.get(dimension)?;
            let requested = if dimension.counts_tokens() { tokens } else { 1 };
            let retry_after_ms = self.wait_ms(dimension, limit, requested, now_ms);
            let used = self.used(dimension, limit, now_ms);
            (retry_after_ms != Some(0)).then_some(Denial { owner, dimension, limit, used, requested, retry_after_ms })
        });
        denials.max_by_key(patience)
    }

    fn standings(self, owner: Owner, limits: Limits, now_ms: u64) -> impl Iterator<Item = Standing> {
        Dimension::ALL.into_iter().filter_map(move |dimension| {
            let limit = limits.get(dimension)?;
            let remaining = limit.saturating_sub(self.used(dimension, limit, now_ms));
            Some(Standing { owner, dimension, limit, remaining, reset_ms: self.reset_ms(dimension, limit, now_ms) })
        })
    }

    fn windows(&self, owner: Owner, now_ms: u64) -> WindowUse {
        WindowUse {
            owner,
            day: (self.day.requests, self.day.tokens),
            day_ends_in_ms: end_of_day_ms(self.day.period).saturating_sub(now_ms),
            month: (self.month.requests, self.month.tokens),
            month_ends_in_ms: end_of_month_ms(self.month.period).saturating_sub(now_ms),
        }
    }

    fn take(&mut self, limits: Limits, tokens: u64, now_ms: u64) {
        *self = self.at(now_ms);
        self.requests.take(limits.requests_per_minute, 1, now_ms);
        self.tokens.take(limits.tokens_per_minute, tokens, now_ms);
        self.day.take(tokens);
        self.month.take(tokens);
        self.open = self.open.saturating_add(1);
    }

    /// Replaces a lease's estimate by the truth, where it was taken.
    fn settle(&mut self, lease: &Lease, largest_tpm: Option<u64>, actual: u64, now_ms: u64) {
        *self = self.at(now_ms);
        let estimate = lease.tokens();
        let day = day_of(lease.reserved_ms);
        self.day.settle(day, estimate, actual);
        self.month.settle(month_of(day), estimate, actual);
        if let Some(largest_tpm) = largest_tpm {
            let age_ms = now_ms.saturating_sub(lease.reserved_ms);
            self.tokens.settle(largest_tpm, estimate, actual, age_ms, now_ms);
        }
        self.close();
    }

    fn close(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Whether forgetting the account changes nothing.
    fn is_blank(&self, now_ms: u64) -> bool {
        let day = day_of(now_ms);
        self.open == 0
            && self.day.period < day
            && (self.month.period < month_of(day) || self.month.tokens == 0)
            && self.requests.is_empty(now_ms)
            && self.tokens.is_empty(now_ms)
    }
}

/// Keeps the larger limit, or none if either is none.
fn enlarge(largest: &mut Option<u64>, limit: Option<u64>) {
    *largest = largest.zip(limit).map(|(largest, limit)| largest.max(limit));
}

/// Denials in the order of how long they last; what never ends comes last.
fn patience(denial: &Denial) -> u64 {
    denial.retry_after_ms.unwrap_or(u64::MAX)
}

impl Lease {
    fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

impl Ledger {
    /// Reserves in all dimensions of tenant and key, or in none. A lease that exists already is admitted already.
    pub fn reserve(&mut self, request: &Reserve, now_ms: u64) -> Decision {
        let now_ms = self.advance(now_ms);
        if self.leases.contains_key(&request.lease) {
            return Decision::Admitted;
        }
        if self.is_revoked(&request.key) {
            return Decision::Revoked;
        }
        let tokens = request.tokens();
        let (tenant, key) = (self.tenant.at(now_ms), self.key(&request.key, now_ms));
        let denials = [
            tenant.denial(Owner::Tenant, request.tenant_limits, tokens, now_ms),
            key.denial(Owner::Key, request.key_limits, tokens, now_ms),
        ];
        if let Some(denial) = denials.into_iter().flatten().max_by_key(patience) {
            self.count(now_ms, &request.key, &request.model, |counts| {
                counts.refused = counts.refused.saturating_add(1);
            });
            return Decision::Denied(denial);
        }
        self.promise(request, now_ms);
        Decision::Admitted
    }

    /// Makes a promise that has been found good.
    fn promise(&mut self, request: &Reserve, now_ms: u64) {
        let tokens = request.tokens();
        let (tenant_tpm, key_tpm) = (request.tenant_limits.tokens_per_minute, request.key_limits.tokens_per_minute);
        let key = self.keys.entry(request.key.clone()).or_default();
        if self.tenant.tokens.limit() != tenant_tpm {
            self.leases.values_mut().for_each(|lease| enlarge(&mut lease.tenant_tpm, tenant_tpm));
        }
        if key.tokens.limit() != key_tpm {
            let leases = self.leases.values_mut().filter(|lease| lease.key == request.key);
            leases.for_each(|lease| enlarge(&mut lease.key_tpm, key_tpm));
        }
        self.tenant.take(request.tenant_limits, tokens, now_ms);
        key.take(request.key_limits, tokens, now_ms);
        let lease = Lease {
            key: request.key.clone(),
            model: request.model.clone(),
            prompt_tokens: request.prompt_tokens,
            completion_tokens: request.completion_tokens,
            reserved_ms: now_ms,
            expires_ms: now_ms.saturating_add(request.lease_ms),
            tenant_tpm,
            key_tpm,
        };
        self.will_expire(lease.expires_ms);
        self.leases.insert(request.lease.clone(), lease);
    }

    /// Replaces a promise by what was used. False, and nothing changed, if there is no such promise any more.
    pub fn settle(&mut self, settle: &Settle, now_ms: u64) -> bool {
        let now_ms = self.advance(now_ms);
        let Some(lease) = self.leases.remove(&settle.lease) else { return false };
        let actual = settle.prompt_tokens.saturating_add(settle.completion_tokens);
        self.tenant.settle(&lease, lease.tenant_tpm, actual, now_ms);
        if let Some(key) = self.keys.get_mut(&lease.key) {
            key.settle(&lease, lease.key_tpm, actual, now_ms);
        }
        self.count(lease.reserved_ms, &lease.key, &lease.model, |counts| {
            counts.requests = counts.requests.saturating_add(1);
            counts.prompt_tokens = counts.prompt_tokens.saturating_add(settle.prompt_tokens);
            counts.completion_tokens = counts.completion_tokens.saturating_add(settle.completion_tokens);
            counts.estimated = counts.estimated.saturating_add(settle.estimated.into());
            counts.errors = counts.errors.saturating_add(settle.failed.into());
        });
        true
    }

    /// Whether there is such a promise.
    #[must_use]
    pub fn holds(&self, lease: &str) -> bool {
        self.leases.contains_key(lease)
    }

    /// Lets a promise hold for `lease_ms` from now. False if there is no such promise any more.
    pub fn renew(&mut self, lease: &str, lease_ms: u64, now_ms: u64) -> bool {
        let now_ms = self.advance(now_ms);
        let Some(lease) = self.leases.get_mut(lease) else { return false };
        lease.expires_ms = lease.expires_ms.max(now_ms.saturating_add(lease_ms));
        true
    }

    /// From now on the key reserves nothing.
    pub fn revoke(&mut self, key: &str, now_ms: u64) {
        let now_ms = self.advance(now_ms);
        self.revoked.insert(key.to_owned(), now_ms);
    }

    /// Does again what a journal says.
    pub fn apply(&mut self, entry: &Entry, now_ms: u64) {
        match entry {
            // It was found good when it was written down, and is not asked about again.
            Entry::Reserve(request) => {
                let now_ms = self.advance(now_ms);
                if !self.holds(&request.lease) {
                    self.promise(request, now_ms);
                }
            }
            Entry::Settle(settle) => drop(self.settle(settle, now_ms)),
            Entry::Renew { lease, lease_ms } => drop(self.renew(lease, *lease_ms, now_ms)),
            Entry::Revoke { key } => self.revoke(key, now_ms),
        }
    }

    /// Where every limit of tenant and key stands.
    pub fn standings(&mut self, key: &str, tenant_limits: Limits, key_limits: Limits, now_ms: u64) -> Vec<Standing> {
        let now_ms = self.advance(now_ms);
        let tenant = self.tenant.at(now_ms).standings(Owner::Tenant, tenant_limits, now_ms);
        tenant.chain(self.key(key, now_ms).standings(Owner::Key, key_limits, now_ms)).collect()
    }

    /// A key's account. A key that has used nothing has none, and gets none by being looked at or refused.
    fn key(&self, key: &str, now_ms: u64) -> Account {
        self.keys.get(key).copied().unwrap_or_default().at(now_ms)
    }

    /// What tenant and key have used in the calendar windows of now.
    pub fn windows(&mut self, key: &str, now_ms: u64) -> [WindowUse; 2] {
        let now_ms = self.advance(now_ms);
        [self.tenant.at(now_ms).windows(Owner::Tenant, now_ms), self.key(key, now_ms).windows(Owner::Key, now_ms)]
    }

    /// Closes the promises that have run out, charged as they were reserved; nobody knows better. Returns the time by
    /// which the ledger acts, and at which a journal has to say that it acted: it stands still while clocks go back.
    pub fn expire(&mut self, now_ms: u64) -> u64 {
        self.advance(now_ms)
    }

    /// When the next promise runs out, if there is any.
    #[must_use]
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.leases.values().map(|lease| lease.expires_ms).min()
    }

    /// Hands over what has been used since this was last called, and forgets it.
    pub fn take_usage(&mut self) -> BTreeMap<UsageKey, UsageCounts> {
        std::mem::take(&mut self.usage)
    }

    /// What has been used since it was last taken.
    #[must_use]
    pub fn usage(&self) -> &BTreeMap<UsageKey, UsageCounts> {
        &self.usage
    }

    /// Forgets what makes no difference any more, so that the ledger does not grow with its past.
    pub fn compact(&mut self, now_ms: u64) {
        let now_ms = self.advance(now_ms);
        self.keys.retain(|_, account| !account.is_blank(now_ms));
        self.revoked.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < REVOKED_MS);
    }

    fn is_revoked(&self, key: &str) -> bool {
        self.revoked.get(key).is_some_and(|at_ms| self.now_ms.saturating_sub(*at_ms) < REVOKED_MS)
    }

    /// Time goes on, never back, and closes what has run out.
    fn advance(&mut self, now_ms: u64) -> u64 {
        self.now_ms = self.now_ms.max(now_ms);
        if self.now_ms < self.earliest_expiry_ms || self.leases.is_empty() {
            return self.now_ms;
        }
        let now_ms = self.now_ms;
        let due: Vec<String> =
            self.leases.iter().filter(|(_, lease)| lease.expires_ms <= now_ms).map(|(id, _)| id.clone()).collect();
        for id in due {
            let Some(lease) = self.leases.remove(&id) else { continue };
            self.tenant.close();
            if let Some(key) = self.keys.get_mut(&lease.key) {
                key.close();
            }
            self.count(lease.reserved_ms, &lease.key, &lease.model, |counts| {
                counts.requests = counts.requests.saturating_add(1);
                counts.prompt_tokens = counts.prompt_tokens.saturating_add(lease.prompt_tokens);
                counts.completion_tokens = counts.completion_tokens.saturating_add(lease.completion_tokens);
                counts.estimated = counts.estimated.saturating_add(1);
                counts.errors = counts.errors.saturating_add(1);
            });
        }
        self.earliest_expiry_ms = self.next_expiry_ms().unwrap_or_default();
        now_ms
    }

    fn will_expire(&mut self, at_ms: u64) {
        self.earliest_expiry_ms = if self.leases.is_empty() { at_ms } else { self.earliest_expiry_ms.min(at_ms) };
    }

    fn count(&mut self, at_ms: u64, key: &str, model: &str, change: impl FnOnce(&mut UsageCounts)) {
        let key = UsageKey { day: date(day_of(at_ms)), key: key.to_owned(), model: model.to_owned() };
        change(self.usage.entry(key).or_default());
    }
}
