//! What an isolate may spend without asking a ledger: the slices that it has reserved, by tenant and key.
//!
//! A tenant that sends a request now and then has none, and asks its ledger each time. One that is busy reserves more than
//! the one request each time that it asks, about what it will need until the slice is over, and tells what became of it
//! the next time. It is spent by data alone: no request waits for another's call. As soon as there is something to tell,
//! one request of the tenant tends its slices, beyond its own end, so that all is told when no other one comes.

use std::collections::BTreeMap;

use super::call::{Call, Refusal};
use super::key::Key;
use super::limits::Limits;
use super::operation::{Report, Reserve, Settle, Standing};
use super::slice::Slice;
use crate::date::{day_of, end_of_day_ms};

/// The most keys that are remembered: of others nobody knows whether they are busy.
const MOST_KEYS: usize = 1024;
/// How long somebody who asks for a slice is believed to be still about it.
const ASKING_MS: u64 = 3000;
/// How much longer than it said somebody who tends slices is believed to be alive.
const TENDING_MS: u64 = 6000;
/// The longest that it waits before it looks again.
const LOOK_AGAIN_MS: u64 = 1000;
/// After this long another request may take over: the runtime does not keep one for ever that has been answered.
const TENDED_MS: u64 = 10_000;
/// And after this long nobody waits for one.
const MOST_TENDED_MS: u64 = 22_000;

/// A request that wants to be admitted.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// The id of its key.
    pub key: &'a str,
    /// For the record of usage.
    pub model: &'a str,
    /// The estimate.
    pub tokens: u64,
    /// As of now: the tenant's, and the key's.
    pub limits: [Limits; 2],
    /// How long a slice is spent; 0 if there are to be none.
    pub slice_ms: u64,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Way {
    /// It is admitted.
    Spent(Spent),
    /// The ledger has to be asked.
    Ask(Asking),
}

/// What the ledger is asked beside the request itself.
#[derive(Debug)]
pub struct Asking {
    /// For how many more requests.
    spare: u64,
    /// What it is told.
    reports: Vec<Report>,
    asked_ms: u64,
    /// Whether it has refused the request once.
    is_again: bool,
}

/// What has become of a question.
#[derive(Debug)]
pub enum Verdict {
    /// The request is admitted: by the promise that it asked for, or from a slice.
    Admitted(Option<Spent>),
    /// It is not.
    Refused(Refusal),
    /// The ledger has to be asked once more.
    Again(Asking),
}

impl Asking {
    /// The question.
    #[must_use]
    pub fn call(&self, reserve: Reserve) -> Call {
        let reserve = Reserve { spare: self.spare, is_again: self.is_again, ..reserve };
        match self.reports.as_slice() {
            [] => Call::Reserve(reserve),
            reports => Call::ReportAndReserve(reports.to_vec(), reserve),
        }
    }
}

/// A request's place in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Whose ledger.
    pub tenant: String,
    /// The promise that is the slice.
    pub lease: String,
    /// Until when that was to be spent.
    pub(super) until_ms: u64,
    key: String,
    model: String,
    tokens: u64,
}

/// Who tends a tenant's slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tending {
    /// Whose ledger.
    pub tenant: String,
    id: u64,
}

/// What is to be done by whoever tends.
#[derive(Debug, PartialEq, Eq)]
pub enum Tend {
    /// Come again after so many milliseconds.
    Wait(u64),
    /// Tell the ledger, say how it went, and come again at once.
    Report(Vec<Report>),
    /// Go.
    Done,
}

/// The slices of an isolate.
#[derive(Debug, Default)]
pub struct Slices {
    tenants: BTreeMap<String, Tenant>,
    keys: usize,
}

#[derive(Debug, Default)]
struct Tenant {
    keys: BTreeMap<String, Key>,
    tender: Option<Tender>,
    /// How many there have been.
    tenders: u64,
}

#[derive(Debug)]
struct Tender {
    id: u64,
    since_ms: u64,
    alive_until_ms: u64,
}

impl Ask<'_> {
    /// Until when a slice is spent that is asked for now: what it holds is counted on the day on which it was reserved.
    pub(super) fn until_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.slice_ms).min(end_of_day_ms(day_of(now_ms)))
    }

    pub(super) fn spent(&self, slice: &Slice) -> Spent {
        Spent {
            tenant: self.tenant.to_owned(),
            lease: slice.lease.clone(),
            until_ms: slice.until_ms,
            key: self.key.to_owned(),
            model: self.model.to_owned(),
            tokens: self.tokens,
        }
    }
}

impl Tenant {
    fn slices(&mut self) -> impl Iterator<Item = &mut Slice> {
        self.keys.values_mut().flat_map(|key| &mut key.slices)
    }

    fn reports(&mut self, now_ms: u64) -> Vec<Report> {
        self.slices().filter_map(|slice| slice.report(now_ms)).collect()
    }
}

impl Slices {
    /// A request has come: it is admitted, or the ledger has to be asked.
    pub fn ask(&mut self, ask: &Ask<'_>, now_ms: u64) -> Way {
        let mut asking = Asking { spare: 0, reports: Vec::new(), asked_ms: now_ms, is_again: false };
        if let Some(key) = self.key_for(ask, now_ms) {
            key.counts(ask.slice_ms, now_ms);
            asking.spare = key.wanted(ask, now_ms);
            if asking.spare > 0 {
                key.asking_until_ms = now_ms.saturating_add(ASKING_MS);
            } else if let Some(spent) = key.spend(ask, false, now_ms) {
                return Way::Spent(spent);
            }
        }
        if let Some(tenant) = self.tenants.get_mut(ask.tenant) {
            asking.reports = tenant.reports(now_ms);
        }
        Way::Ask(asking)
    }

    /// The ledger has decided, about the request under the name `lease`, and has been told. A request that it admits has
    /// its place in the slice that was granted, if one was. One that it refuses may find a place in another slice.
    pub fn decided(
        &mut self,
        ask: &Ask<'_>,
        asking: &Asking,
        lease: &str,
        (refusal, spare): (Option<Refusal>, u64),
        standings: &[Standing],
        now_ms: u64,
    ) -> Verdict {
        self.told(ask.tenant, &asking.reports, now_ms);
        let Some(key) = self.key_mut(ask.tenant, ask.key) else {
            return refusal.map_or(Verdict::Admitted(None), Verdict::Refused);
        };
        if asking.spare > 0 {
            key.asking_until_ms = 0;
        }
        (key.standings, key.standings_ms, key.saved_tokens) = (standings.to_vec(), now_ms, 0);
        match refusal {
            Some(Refusal::Revoked) => {
                key.revoke(now_ms);
                Verdict::Refused(Refusal::Revoked)
            }
            Some(refusal) => match key.spend(ask, true, now_ms) {
                Some(spent) => Verdict::Admitted(Some(spent)),
                None => self.again(ask, asking, now_ms).map_or(Verdict::Refused(refusal), Verdict::Again),
            },
            None if spare == 0 => Verdict::Admitted(None),
            None => {
                // The clock begins with the question: the ledger has not reserved it earlier.
                let until_ms = if key.is_revoked { now_ms } else { ask.until_ms(asking.asked_ms) };
                let slice = Slice::new(lease, ask.limits, spare, ask.tokens, until_ms, ask.slice_ms);
                let spent = ask.spent(&slice);
                let at = key.slices.partition_point(|other| other.until_ms <= until_ms);
                key.slices.insert(at, slice);
                Verdict::Admitted(Some(spent))
            }
        }
    }

    /// The question that is asked of a ledger which has refused a request, perhaps for want of what this isolate holds and
    /// spends no more: once, and after giving that back.
    fn again(&mut self, ask: &Ask<'_>, asking: &Asking, now_ms: u64) -> Option<Asking> {
        let tenant = self.tenants.get_mut(ask.tenant).filter(|_| !asking.is_again)?;
        let mut gives_back = false;
        for slice in tenant.slices() {
            if !slice.gives_back(now_ms) {
                continue;
            }
            // Somebody else may be telling it, and this question may overtake that.
            slice.tell_again();
            gives_back = true;
        }
        gives_back.then(|| Asking { spare: 0, reports: tenant.reports(now_ms), asked_ms: now_ms, is_again: true })
    }

    /// The ledger has not answered. What it was told it will be told again; what it may have granted is not known here,
    /// and is given back when the promise is settled. Returns the request's place, if it finds one in a slice.
    pub fn undecided(&mut self, ask: &Ask<'_>, asking: &Asking, now_ms: u64) -> Option<Spent> {
        self.not_told(ask.tenant, &asking.reports, now_ms);
        let key = self.key_mut(ask.tenant, ask.key)?;
        if asking.spare > 0 {
            key.asking_until_ms = 0;
        }
        key.spend(ask, false, now_ms)
    }

    /// The key opens nothing any more: what is left of its slices is given back, and it gets no other one.
    pub fn revoke(&mut self, tenant: &str, key: &str, now_ms: u64) {
        if let Some(key) = self.key_mut(tenant, key) {
            key.revoke(now_ms);
        }
    }

    /// Where the limits of a key stand, as far as is known here.
    #[must_use]
    pub fn standings(&self, tenant: &str, key: &str, now_ms: u64) -> Option<Vec<Standing>> {
        Some(self.tenants.get(tenant)?.keys.get(key)?.standings(now_ms))
    }

    /// A request has ended, so.
    pub fn settle(&mut self, spent: &Spent, settle: &Settle, now_ms: u64) {
        let Some(key) = self.key_mut(&spent.tenant, &spent.key) else { return };
        let used = settle.prompt_tokens.saturating_add(settle.completion_tokens);
        let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        key.saved_tokens = key.saved_tokens.saturating_add(signed(spent.tokens)).saturating_sub(signed(used));
        if let Some(slice) = key.slice_of(spent) {
            slice.settle(&spent.model, spent.tokens, settle, now_ms);
        }
    }

    /// The ledger of a tenant knows these.
    pub fn told(&mut self, tenant: &str, reports: &[Report], now_ms: u64) {
        let Some(tenant) = self.tenants.get_mut(tenant).filter(|_| !reports.is_empty()) else { return };
        for slice in tenant.slices() {
            if let Some(report) = reports.iter().find(|report| report.lease == slice.lease) {
                slice.told(report, now_ms);
            }
        }
        tenant.keys.values_mut().for_each(|key| key.slices.retain(|slice| !slice.is_over()));
    }

    /// The ledger of a tenant may not know these.
    pub fn not_told(&mut self, tenant: &str, reports: &[Report], now_ms: u64) {
        let Some(tenant) = self.tenants.get_mut(tenant) else { return };
        for slice in tenant.slices() {
            if reports.iter().any(|report| report.lease == slice.lease) {
                slice.not_told(now_ms);
            }
        }
    }

    /// Whether somebody has to begin to tend the tenant's slices: there is something to do, and nobody is there.
    #[must_use]
    pub fn begin_tending(&mut self, tenant: &str, now_ms: u64) -> Option<Tending> {
        let owner = self.tenants.get_mut(tenant)?;
        let is_there =
            |tender: &Tender| now_ms < tender.alive_until_ms && now_ms.saturating_sub(tender.since_ms) < TENDED_MS;
        if owner.tender.as_ref().is_some_and(is_there) || owner.slices().all(|slice| slice.wake_ms().is_none()) {
            return None;
        }
        owner.tenders = owner.tenders.saturating_add(1);
        let id = owner.tenders;
        owner.tender = Some(Tender { id, since_ms: now_ms, alive_until_ms: now_ms.saturating_add(TENDING_MS) });
        Some(Tending { tenant: tenant.to_owned(), id })
    }

    /// What is to be done next by whoever tends.
    pub fn tend(&mut self, tending: &Tending, now_ms: u64) -> Tend {
        let Some(owner) = self.tenants.get_mut(&tending.tenant) else { return Tend::Done };
        let Some(since_ms) =
            owner.tender.as_ref().filter(|tender| tender.id == tending.id).map(|tender| tender.since_ms)
        else {
            return Tend::Done;
        };
        owner.slices().for_each(|slice| slice.close_if_over(now_ms));
        let wake_ms = owner.slices().filter_map(|slice| slice.wake_ms()).min();
        let Some(wake_ms) = wake_ms.filter(|_| now_ms.saturating_sub(since_ms) < MOST_TENDED_MS) else {
            owner.tender = None;
            return Tend::Done;
        };
        let alive_until_ms = now_ms.max(wake_ms).saturating_add(TENDING_MS);
        owner.tender = Some(Tender { id: tending.id, since_ms, alive_until_ms });
        if now_ms < wake_ms {
            // What ends sooner may come meanwhile.
            return Tend::Wait(wake_ms.saturating_sub(now_ms).min(LOOK_AGAIN_MS));
        }
        Tend::Report(owner.reports(now_ms))
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }

    fn key_mut(&mut self, tenant: &str, key: &str) -> Option<&mut Key> {
        self.tenants.get_mut(tenant)?.keys.get_mut(key)
    }

    /// The key of a request, remembered from now on if there is room for it.
    fn key_for(&mut self, ask: &Ask<'_>, now_ms: u64) -> Option<&mut Key> {
        if ask.slice_ms == 0 {
            return None;
        }
        if self.key_mut(ask.tenant, ask.key).is_none() {
            if self.keys >= MOST_KEYS {
                self.forget(ask.slice_ms, now_ms);
            }
            if self.keys >= MOST_KEYS {
                return None;
            }
            self.tenants.entry(ask.tenant.to_owned()).or_default().keys.insert(ask.key.to_owned(), Key::default());
            self.keys = self.keys.saturating_add(1);
        }
        self.key_mut(ask.tenant, ask.key)
    }

    /// Forgets the keys that have nothing here.
    fn forget(&mut self, slice_ms: u64, now_ms: u64) {
        for tenant in self.tenants.values_mut() {
            tenant.keys.retain(|_, key| !key.is_idle(slice_ms, now_ms));
        }
        self.tenants.retain(|_, tenant| !tenant.keys.is_empty());
        self.keys = self.tenants.values().map(|tenant| tenant.keys.len()).sum();
    }
}
