//! The ledger of one tenant: what has been promised, what has been used, and what may still be promised.
//!
//! Every operation is told the time and depends on nothing else, so that the same operations at the same times always
//! make the same ledger. That is how it survives a restart: [`Entry`] is what has to be written down.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::account::{Account, patience};
use super::lease::{Known, Lease, PerMinute, Slice};
use super::limits::{Limits, MAX_LIMIT, Owner};
use super::operation::{Decision, Entry, Report, Reserve, Settle, Standing, Totals, UsageCounts, UsageKey, WindowUse};
use crate::date::{date, day_of};

/// How long a revoked key is remembered here; by then KV and every isolate know it.
const REVOKED_MS: u64 = 86_400_000;
/// The most requests that are promised beside the one that asks.
pub(super) const MOST_SPARE: u64 = 256;

/// The state of one tenant's quota.
///
/// Invariants: `open` of an account is the number of requests that its leases hold and that have not ended; `now_ms` never goes back; a lease is charged in the
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

impl Ledger {
    /// Reserves in all dimensions of tenant and key, or in none. A lease that exists already is admitted already.
    pub fn reserve(&mut self, request: &Reserve, now_ms: u64) -> Decision {
        let now_ms = self.advance(now_ms);
        if let Some(lease) = self.leases.get(&request.lease) {
            return Decision::Admitted { spare: lease.open_requests().saturating_sub(1) };
        }
        let refused = |counts: &mut UsageCounts, more: i64| counts.refused = counts.refused.saturating_add(more);
        if request.is_again {
            self.count(now_ms, &request.key, &request.model, |counts| refused(counts, -1));
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
            self.count(now_ms, &request.key, &request.model, |counts| refused(counts, 1));
            return Decision::Denied(denial);
        }
        let wanted = if tokens > MAX_LIMIT { 0 } else { request.spare.min(MOST_SPARE) };
        let spare = tenant.spare(request.tenant_limits, tokens, wanted, now_ms);
        let spare = key.spare(request.key_limits, tokens, spare, now_ms);
        self.promise(request, spare, now_ms);
        Decision::Admitted { spare }
    }

    /// Makes a promise that has been found good.
    fn promise(&mut self, request: &Reserve, spare: u64, now_ms: u64) {
        let requests = spare.saturating_add(1);
        let tokens = request.tokens().saturating_mul(requests);
        let [of_tenant, of_key] = [request.tenant_limits, request.key_limits].map(PerMinute::from);
        let key = self.keys.entry(request.key.clone()).or_default();
        if self.tenant.per_minute() != of_tenant {
            self.leases.values_mut().for_each(|lease| lease.enlarge(Owner::Tenant, of_tenant));
        }
        if key.per_minute() != of_key {
            let leases = self.leases.values_mut().filter(|lease| lease.key == request.key);
            leases.for_each(|lease| lease.enlarge(Owner::Key, of_key));
        }
        self.tenant.take(request.tenant_limits, requests, tokens, now_ms);
        key.take(request.key_limits, requests, tokens, now_ms);
        let slice = (spare > 0).then(|| Slice {
            open_requests: requests,
            open_tokens: tokens,
            tenant_rpm: of_tenant.requests,
            key_rpm: of_key.requests,
            seq: 0,
            totals: Totals::default(),
        });
        let lease = Lease {
            key: request.key.clone(),
            model: request.model.clone(),
            prompt_tokens: request.prompt_tokens,
            completion_tokens: request.completion_tokens,
            reserved_ms: now_ms,
            expires_ms: now_ms.saturating_add(request.lease_ms),
            tenant_tpm: of_tenant.tokens,
            key_tpm: of_key.tokens,
            slice,
        };
        self.will_expire(lease.expires_ms);
        self.leases.insert(request.lease.clone(), lease);
    }

    /// Replaces a promise by what was used. False, and nothing changed, if there is no such promise any more. Of a slice
    /// it says that nobody knew it for one: nothing else was spent of it.
    pub fn settle(&mut self, settle: &Settle, now_ms: u64) -> bool {
        let now_ms = self.advance(now_ms);
        let Some(lease) = self.leases.remove(&settle.lease) else { return false };
        let (estimate, requests) = lease.open();
        let known = Known {
            reserved_ms: lease.reserved_ms,
            estimate,
            actual: settle.prompt_tokens.saturating_add(settle.completion_tokens),
            requests,
            unspent_requests: requests.saturating_sub(u64::from(!settle.unmade)),
        };
        self.charge(&lease, &known, now_ms);
        if !settle.unmade {
            self.count(lease.reserved_ms, &lease.key, &lease.model, |counts| counts.end(settle));
        }
        true
    }

    /// Takes note of what became of a slice. False, and nothing changed, if that is known already, or there is no such
    /// slice any more.
    pub fn report(&mut self, report: &Report, now_ms: u64) -> bool {
        let now_ms = self.advance(now_ms);
        let Some(mut lease) = self.leases.remove(&report.lease) else { return false };
        let learnt = lease.learn(report);
        if let Some((known, usage)) = &learnt {
            self.charge(&lease, known, now_ms);
            for (model, more) in usage {
                self.count(lease.reserved_ms, &lease.key, model, |counts| counts.add(more));
            }
        }
        if lease.open_requests() > 0 {
            self.leases.insert(report.lease.clone(), lease);
        }
        learnt.is_some()
    }

    /// Charges what is known where the promise was charged.
    fn charge(&mut self, lease: &Lease, known: &Known, now_ms: u64) {
        self.tenant.settle(known, lease.largest(Owner::Tenant), now_ms);
        if let Some(key) = self.keys.get_mut(&lease.key) {
            key.settle(known, lease.largest(Owner::Key), now_ms);
        }
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
                    self.promise(request, request.spare, now_ms);
                }
            }
            Entry::Settle(settle) => drop(self.settle(settle, now_ms)),
            Entry::Report(report) => drop(self.report(report, now_ms)),
            Entry::Renew { lease, lease_ms } => drop(self.renew(lease, *lease_ms, now_ms)),
            Entry::Revoke { key } => self.revoke(key, now_ms),
            Entry::Several(entries) => entries.iter().for_each(|(at_ms, entry)| self.apply(entry, *at_ms)),
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

    /// When the next promise may run out, if there is any: not before this, and it costs nothing to know.
    #[must_use]
    pub fn earliest_expiry_ms(&self) -> Option<u64> {
        (!self.leases.is_empty()).then_some(self.earliest_expiry_ms)
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

    /// Whether the key has been revoked, not so long ago that everybody else knows.
    #[must_use]
    pub fn is_revoked(&self, key: &str) -> bool {
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
            self.tenant.close(lease.open_requests());
            if let Some(key) = self.keys.get_mut(&lease.key) {
                key.close(lease.open_requests());
            }
            self.count(lease.reserved_ms, &lease.key, &lease.model, |counts| counts.add(&lease.as_reserved()));
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
