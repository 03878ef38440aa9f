//! What the ledger should say, worked out each time from everything that has ever happened.
//!
//! It keeps no counters and forgets nothing. Time between two marks in an account's history drains its buckets by the
//! larger of the limits at both: nobody has written down when in between the limit changed.

use std::collections::BTreeMap;

use completions_edge::quota::{
    Denial, Dimension, Limits, Owner, Report, Reserve, Settle, Standing, Totals, UsageCounts, UsageKey,
};

const MINUTE: i128 = 60_000;
const DAY_MS: u64 = 86_400_000;
const REVOKED_MS: u64 = DAY_MS;

/// A day of the calendar, found by counting months from 2024 on.
#[derive(Clone, Debug, PartialEq)]
struct Date {
    text: String,
    month: u64,
    ends_ms: u64,
    month_ends_ms: u64,
}

impl Date {
    fn of(now_ms: u64) -> Self {
        let today = now_ms / DAY_MS;
        let (mut year, mut month, mut first) = (2024, 0, 19_723);
        loop {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month];
            if today < first + length {
                return Self {
                    text: format!("{year}-{:02}-{:02}", month + 1, today - first + 1),
                    month: first,
                    ends_ms: (today + 1) * DAY_MS,
                    month_ends_ms: (first + length) * DAY_MS,
                };
            }
            first += length;
            month += 1;
            if month == 12 {
                (year, month) = (year + 1, 0);
            }
        }
    }
}

/// What became known of an admission in one settlement or report.
#[derive(Clone, Debug)]
struct Known {
    /// How many admissions there were.
    count: usize,
    ended: u64,
    unspent: u64,
    estimate: u64,
    usage: BTreeMap<String, UsageCounts>,
}

impl Known {
    fn actual(&self) -> u64 {
        self.usage.values().map(|counts| counts.prompt_tokens + counts.completion_tokens).sum()
    }
}

#[derive(Clone, Debug)]
struct Admission {
    request: Reserve,
    at_ms: u64,
    date: Date,
    expires_ms: u64,
    /// How many admissions there were when it ended.
    until: Option<usize>,
    known: Vec<Known>,
    /// The last report.
    seq: u64,
    totals: Totals,
}

impl Admission {
    /// Requests that it is for.
    fn requests(&self) -> u64 {
        1 + self.request.spare
    }

    fn estimate(&self) -> u64 {
        (self.request.prompt_tokens + self.request.completion_tokens) * self.requests()
    }

    fn known(&self, admissions: usize) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(move |known| known.count <= admissions)
    }

    /// What it is charged in windows when there are so many admissions: requests, tokens.
    fn charged(&self, admissions: usize) -> (u64, u64) {
        let unspent: u64 = self.known(admissions).map(|known| known.unspent).sum();
        let estimate: u64 = self.known(admissions).map(|known| known.estimate).sum();
        let actual: u64 = self.known(admissions).map(Known::actual).sum();
        (self.requests() - unspent, self.estimate() - estimate + actual)
    }

    /// How many of its requests are open when there are so many admissions.
    fn open(&self, admissions: usize) -> u64 {
        if self.until.is_some_and(|until| until <= admissions) {
            return 0;
        }
        self.requests() - self.known(admissions).map(|known| known.ended + known.unspent).sum::<u64>()
    }
}

/// A moment in which an account changed.
#[derive(Clone, Debug)]
struct Mark {
    at_ms: u64,
    admission: usize,
    /// What became known of it, if that is what happened.
    known: Option<usize>,
}

/// The tenant, or one of its keys.
#[derive(Clone, Copy, Debug)]
struct Account<'a> {
    owner: Owner,
    key: &'a str,
}

impl Account<'_> {
    fn has(self, admission: &Admission) -> bool {
        self.owner == Owner::Tenant || admission.request.key == self.key
    }

    fn limit(self, request: &Reserve, dimension: Dimension) -> Option<u64> {
        let limits = if self.owner == Owner::Tenant { &request.tenant_limits } else { &request.key_limits };
        limits.get(dimension)
    }
}

/// What the ledger should say to a request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// For so many more requests.
    Admitted(u64),
    Revoked,
    /// Every limit that refuses it.
    Denied(Vec<Denial>),
}

/// All of the past.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    pub now_ms: u64,
    admissions: Vec<Admission>,
    marks: Vec<Mark>,
    revoked: Vec<(String, u64)>,
    refused: Vec<UsageKey>,
}

impl Oracle {
    pub fn pass(&mut self, clock_ms: u64) {
        self.now_ms = self.now_ms.max(clock_ms);
        let (now_ms, count) = (self.now_ms, self.admissions.len());
        for admission in &mut self.admissions {
            if admission.until.is_none() && admission.expires_ms <= now_ms {
                admission.until = Some(count);
            }
        }
    }

    pub fn leases(&self) -> impl DoubleEndedIterator<Item = &Reserve> {
        self.admissions.iter().map(|admission| &admission.request)
    }

    pub fn open(&self) -> impl DoubleEndedIterator<Item = &Reserve> {
        self.admissions.iter().filter(|admission| admission.until.is_none()).map(|admission| &admission.request)
    }

    pub fn next_expiry_ms(&self) -> Option<u64> {
        let open = self.admissions.iter().filter(|admission| admission.until.is_none());
        open.map(|admission| admission.expires_ms).min()
    }

    pub fn reserve(&mut self, request: &Reserve) -> Verdict {
        if let Some(admission) = self.open_admission(&request.lease) {
            return Verdict::Admitted(self.admissions[admission].open(self.admissions.len()) - 1);
        }
        let now_ms = self.now_ms;
        if self.revoked.iter().any(|(key, at_ms)| *key == request.key && now_ms - at_ms < REVOKED_MS) {
            return Verdict::Revoked;
        }
        let denials = self.denials(request);
        let date = Date::of(now_ms);
        if !denials.is_empty() {
            self.refused.push(UsageKey { day: date.text, key: request.key.clone(), model: request.model.clone() });
            return Verdict::Denied(denials);
        }
        let spare = self.spare(request);
        self.marks.push(Mark { at_ms: now_ms, admission: self.admissions.len(), known: None });
        self.admissions.push(Admission {
            request: Reserve { spare, ..request.clone() },
            at_ms: now_ms,
            date,
            expires_ms: now_ms + request.lease_ms,
            until: None,
            known: Vec::new(),
            seq: 0,
            totals: Totals::default(),
        });
        Verdict::Admitted(spare)
    }

    /// The most requests beside an admitted one that leave fifteen sixteenths of what is left of every limit.
    fn spare(&self, request: &Reserve) -> u64 {
        let tokens = request.prompt_tokens + request.completion_tokens;
        let leaves_enough = |spare: &u64| {
            [Owner::Tenant, Owner::Key].into_iter().all(|owner| {
                let account = Account { owner, key: &request.key };
                Dimension::ALL.into_iter().all(|dimension| {
                    let Some(limit) = account.limit(request, dimension) else { return true };
                    let cost = if dimension.counts_tokens() { tokens } else { 1 };
                    let (used, ..) = self.look(account, dimension, limit, cost);
                    spare * cost * 16 <= limit - used - cost
                })
            })
        };
        (0..=request.spare.min(256)).rev().find(leaves_enough).unwrap()
    }

    fn open_admission(&self, lease: &str) -> Option<usize> {
        self.admissions.iter().position(|admission| admission.until.is_none() && admission.request.lease == lease)
    }

    pub fn settle(&mut self, settle: &Settle) -> bool {
        let Some(index) = self.open_admission(&settle.lease) else { return false };
        let count = self.admissions.len();
        let admission = &self.admissions[index];
        let counts = UsageCounts {
            requests: 1,
            prompt_tokens: settle.prompt_tokens,
            completion_tokens: settle.completion_tokens,
            estimated: settle.estimated.into(),
            refused: 0,
            errors: settle.failed.into(),
        };
        let estimated: u64 = admission.known.iter().map(|known| known.estimate).sum();
        let usage = BTreeMap::from([(admission.request.model.clone(), counts)]);
        let (unspent, estimate) = (admission.open(count) - 1, admission.estimate() - estimated);
        self.learn(index, Known { count, ended: 1, unspent, estimate, usage });
        true
    }

    pub fn report(&mut self, report: &Report) -> bool {
        let Some(index) = self.open_admission(&report.lease) else { return false };
        let count = self.admissions.len();
        let admission = &mut self.admissions[index];
        if admission.request.spare == 0 || report.seq <= admission.seq {
            return false;
        }
        admission.seq = report.seq;
        let before = std::mem::replace(&mut admission.totals, report.totals.clone());
        let mut usage = report.totals.usage.clone();
        for (model, counts) in &mut usage {
            let before = before.usage.get(model).cloned().unwrap_or_default();
            counts.requests -= before.requests;
            counts.prompt_tokens -= before.prompt_tokens;
            counts.completion_tokens -= before.completion_tokens;
            counts.estimated -= before.estimated;
            counts.errors -= before.errors;
        }
        let unspent = report.totals.unspent_requests - before.unspent_requests;
        let estimate = report.totals.estimated_tokens - before.estimated_tokens + report.totals.unspent_tokens
            - before.unspent_tokens;
        let ended = usage.values().map(|counts| counts.requests).sum();
        self.learn(index, Known { count, ended, unspent, estimate, usage });
        true
    }

    fn learn(&mut self, index: usize, known: Known) {
        let (count, admission) = (known.count, &mut self.admissions[index]);
        admission.known.push(known);
        self.marks.push(Mark { at_ms: self.now_ms, admission: index, known: Some(admission.known.len() - 1) });
        if admission.open(count) == 0 {
            admission.until = Some(count);
        }
    }

    pub fn renew(&mut self, lease: &str, lease_ms: u64) -> bool {
        let Some(admission) = self.open_admission(lease) else { return false };
        let expires_ms = &mut self.admissions[admission].expires_ms;
        *expires_ms = (*expires_ms).max(self.now_ms + lease_ms);
        true
    }

    pub fn revoke(&mut self, key: &str) {
        self.revoked.push((key.to_owned(), self.now_ms));
    }

    /// The largest limit of an account since an admission; none if there was a time without one.
    fn largest_limit(&self, account: Account<'_>, dimension: Dimension, admission: usize, count: usize) -> Option<u64> {
        let since = self.admissions[admission..count].iter().filter(|admission| account.has(admission));
        let limits = since.map(|admission| account.limit(&admission.request, dimension));
        limits.collect::<Option<Vec<u64>>>()?.into_iter().max()
    }

    /// What is used of a bucket, in 60,000ths, and how many of them drain in a millisecond.
    fn bucket(&self, account: Account<'_>, dimension: Dimension, limit: u64) -> (i128, i128) {
        // What drained before it, and what it took.
        let mut charges: Vec<(i128, i128)> = Vec::new();
        let mut last: Option<(u64, u64)> = None;
        let drained = |last: Option<(u64, u64)>, at_ms: u64, limit: u64| {
            last.map_or(0, |(since_ms, before)| i128::from(before.max(limit)) * i128::from(at_ms - since_ms))
        };
        for mark in &self.marks {
            let admission = &self.admissions[mark.admission];
            if !account.has(admission) {
                continue;
            }
            let Some(known) = mark.known.map(|known| &admission.known[known]) else {
                let Some(limit) = account.limit(&admission.request, dimension) else {
                    (charges, last) = (Vec::new(), None);
                    continue;
                };
                let cost = if dimension.counts_tokens() { admission.estimate() } else { admission.requests() };
                charges.push((drained(last, mark.at_ms, limit), i128::from(cost) * MINUTE));
                last = Some((mark.at_ms, limit));
                continue;
            };
            if !dimension.counts_tokens() && known.unspent == 0 {
                continue;
            }
            let Some(largest) = self.largest_limit(account, dimension, mark.admission, known.count) else { continue };
            let more = if dimension.counts_tokens() {
                (i128::from(known.actual()) - i128::from(known.estimate)) * MINUTE
            } else {
                -i128::from(known.unspent) * MINUTE
            };
            let perhaps_drained = i128::from(largest) * i128::from(mark.at_ms - admission.at_ms);
            let (_, limit) = last.unwrap();
            let charge = if more > 0 { more } else { (more + perhaps_drained).min(0) };
            charges.push((drained(last, mark.at_ms, limit), charge));
            last = Some((mark.at_ms, limit));
        }
        // The most that was charged since any moment, beyond what drained since.
        let (mut level, mut since) = (0, -drained(last, self.now_ms, limit));
        for (drained, charge) in charges.into_iter().rev() {
            since += charge;
            level = level.max(since);
            since -= drained;
        }
        (level, last.map_or(limit, |(_, before)| before.max(limit)).into())
    }

    /// What is used, rounded up; how long a request waits; when everything is left again.
    fn look(&self, account: Account<'_>, dimension: Dimension, limit: u64, cost: u64) -> (u64, Option<u64>, u64) {
        let ceil = |value: i128, divisor: i128| u64::try_from((value + divisor - 1) / divisor).unwrap();
        let (today, count) = (Date::of(self.now_ms), self.admissions.len());
        let mine = || self.admissions.iter().filter(|admission| account.has(admission));
        let (used, ends_ms): (u64, u64) = match dimension {
            Dimension::RequestsPerMinute | Dimension::TokensPerMinute => {
                let (level, rate) = self.bucket(account, dimension, limit);
                let over = level + (i128::from(cost) - i128::from(limit)) * MINUTE;
                let wait_ms = match over {
                    _ if cost > limit => None,
                    ..=0 => Some(0),
                    _ if rate == 0 => None,
                    _ => Some(ceil(over, rate)),
                };
                return (limit.min(ceil(level, MINUTE)), wait_ms, ceil(level, rate.max(1)));
            }
            Dimension::RequestsPerDay => {
                let todays = mine().filter(|admission| admission.date == today);
                (todays.map(|admission| admission.charged(count).0).sum(), today.ends_ms)
            }
            Dimension::TokensPerDay => {
                let todays = mine().filter(|admission| admission.date == today);
                (todays.map(|admission| admission.charged(count).1).sum(), today.ends_ms)
            }
            Dimension::TokensPerMonth => {
                let months = mine().filter(|admission| admission.date.month == today.month);
                (months.map(|admission| admission.charged(count).1).sum(), today.month_ends_ms)
            }
            Dimension::ConcurrentRequests => (mine().map(|admission| admission.open(count)).sum(), self.now_ms),
        };
        let wait_ms = match dimension {
            _ if cost > limit => None,
            _ if used + cost <= limit => Some(0),
            // A guess: nobody knows when a request will end.
            Dimension::ConcurrentRequests => Some(1000),
            _ => Some(ends_ms - self.now_ms),
        };
        (used, wait_ms, ends_ms - self.now_ms)
    }

    fn denials(&self, request: &Reserve) -> Vec<Denial> {
        let mut denials = Vec::new();
        for owner in [Owner::Tenant, Owner::Key] {
            let account = Account { owner, key: &request.key };
            for dimension in Dimension::ALL {
                let Some(limit) = account.limit(request, dimension) else { continue };
                let tokens = request.prompt_tokens + request.completion_tokens;
                let requested = if dimension.counts_tokens() { tokens } else { 1 };
                let (used, retry_after_ms, _) = self.look(account, dimension, limit, requested);
                if retry_after_ms != Some(0) {
                    denials.push(Denial { owner, dimension, limit, used, requested, retry_after_ms });
                }
            }
        }
        denials
    }

    pub fn standings(&self, key: &str, tenant_limits: Limits, key_limits: Limits) -> Vec<Standing> {
        let mut standings = Vec::new();
        for (owner, limits) in [(Owner::Tenant, tenant_limits), (Owner::Key, key_limits)] {
            for dimension in Dimension::ALL {
                let Some(limit) = limits.get(dimension) else { continue };
                let (used, _, reset_ms) = self.look(Account { owner, key }, dimension, limit, 0);
                standings.push(Standing { owner, dimension, limit, remaining: limit.saturating_sub(used), reset_ms });
            }
        }
        standings
    }

    /// What has been used, of all that has ended.
    pub fn usage(&self) -> BTreeMap<UsageKey, UsageCounts> {
        let mut usage: BTreeMap<UsageKey, UsageCounts> = BTreeMap::new();
        for admission in &self.admissions {
            let Admission { request, date, until, known, .. } = admission;
            let mut add = |model: &str, more: &UsageCounts| {
                let by = UsageKey { day: date.text.clone(), key: request.key.clone(), model: model.to_owned() };
                usage.entry(by).or_default().add(more);
            };
            for (model, counts) in known.iter().flat_map(|known| &known.usage) {
                if *counts != UsageCounts::default() {
                    add(model, counts);
                }
            }
            // What nobody told of before it ran out is charged as it was reserved.
            let requests = admission.requests() - known.iter().map(|known| known.ended + known.unspent).sum::<u64>();
            if until.is_some() && requests > 0 {
                let tokens = admission.estimate() - known.iter().map(|known| known.estimate).sum::<u64>();
                let prompt_tokens = tokens.min(requests * request.prompt_tokens);
                let completion_tokens = tokens - prompt_tokens;
                let (estimated, errors) = (requests, requests);
                let counts = UsageCounts { requests, prompt_tokens, completion_tokens, estimated, refused: 0, errors };
                add(&request.model, &counts);
            }
        }
        for key in &self.refused {
            usage.entry(key.clone()).or_default().refused += 1;
        }
        usage
    }

    /// Panics if more was ever admitted than the limits allow, in any interval, of tenant or key.
    pub fn check_never_over(&self, keys: &[&str]) {
        self.check_account(Account { owner: Owner::Tenant, key: "" });
        for key in keys {
            self.check_account(Account { owner: Owner::Key, key });
        }
    }

    fn check_account(&self, account: Account<'_>) {
        let mine: Vec<(usize, &Admission)> =
            self.admissions.iter().enumerate().filter(|(_, admission)| account.has(admission)).collect();
        for (n, (index, last)) in mine.iter().enumerate() {
            let (index, upto) = (*index, &mine[..=n]);
            let check = |dimension, used: u64| {
                if let Some(limit) = account.limit(&last.request, dimension) {
                    assert!(used <= limit, "{account:?} {dimension:?}: {used} of {limit} at admission {index}");
                }
            };
            let today = || upto.iter().filter(|(_, admission)| admission.date == last.date);
            check(Dimension::RequestsPerDay, today().map(|(_, admission)| admission.charged(index).0).sum());
            check(Dimension::TokensPerDay, today().map(|(_, admission)| admission.charged(index).1).sum());
            let month = upto.iter().filter(|(_, admission)| admission.date.month == last.date.month);
            check(Dimension::TokensPerMonth, month.map(|(_, admission)| admission.charged(index).1).sum());
            check(Dimension::ConcurrentRequests, upto.iter().map(|(_, admission)| admission.open(index)).sum());
            for dimension in [Dimension::RequestsPerMinute, Dimension::TokensPerMinute] {
                self.check_intervals(account, dimension, upto);
            }
        }
    }

    /// Every interval that ends with the last of these admissions and has limits all through.
    fn check_intervals(&self, account: Account<'_>, dimension: Dimension, admissions: &[(usize, &Admission)]) {
        let (end_ms, count) = (admissions.last().unwrap().1.at_ms, self.admissions.len());
        let (mut charged, mut largest) = (0, 0);
        for (_, first) in admissions.iter().rev() {
            let Some(limit) = account.limit(&first.request, dimension) else { return };
            largest = i128::from(limit).max(largest);
            let (requests, tokens) = first.charged(count);
            charged += i128::from(if dimension.counts_tokens() { tokens.min(first.estimate()) } else { requests });
            let interval_ms = i128::from(end_ms - first.at_ms);
            assert!(
                charged * MINUTE <= largest * (MINUTE + interval_ms),
                "{account:?} {dimension:?}: {charged} within {interval_ms} ms, of {largest} a minute"
            );
        }
    }
}
