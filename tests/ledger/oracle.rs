//! What the ledger should say, worked out each time from everything that has ever happened.
//!
//! It keeps no counters and forgets nothing. Time between two marks in an account's history drains its buckets by the
//! larger of the limits at both: nobody has written down when in between the limit changed.

use std::collections::BTreeMap;

use completions_edge::quota::{Denial, Dimension, Limits, Owner, Reserve, Settle, Standing, UsageCounts, UsageKey};

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

#[derive(Clone, Debug)]
struct Admission {
    request: Reserve,
    at_ms: u64,
    date: Date,
    expires_ms: u64,
    /// How many admissions there were when it ended.
    until: Option<usize>,
    /// How it ended, if not by running out.
    settle: Option<Settle>,
}

impl Admission {
    fn estimate(&self) -> u64 {
        self.request.prompt_tokens + self.request.completion_tokens
    }

    /// What it is charged in windows when there are so many admissions.
    fn charged(&self, admissions: usize) -> u64 {
        match &self.settle {
            Some(settle) if self.until.is_some_and(|until| until <= admissions) => {
                settle.prompt_tokens + settle.completion_tokens
            }
            _ => self.estimate(),
        }
    }

    fn is_open(&self, admissions: usize) -> bool {
        self.until.is_none_or(|until| until > admissions)
    }
}

/// A moment in which an account changed.
#[derive(Clone, Debug)]
struct Mark {
    at_ms: u64,
    admission: usize,
    /// How many admissions there were, if it is that one of them was settled.
    settled: Option<usize>,
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
    Admitted,
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
        if self.open().any(|open| open.lease == request.lease) {
            return Verdict::Admitted;
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
        self.marks.push(Mark { at_ms: now_ms, admission: self.admissions.len(), settled: None });
        self.admissions.push(Admission {
            request: request.clone(),
            at_ms: now_ms,
            date,
            expires_ms: now_ms + request.lease_ms,
            until: None,
            settle: None,
        });
        Verdict::Admitted
    }

    fn open_admission(&mut self, lease: &str) -> Option<usize> {
        self.admissions.iter().position(|admission| admission.until.is_none() && admission.request.lease == lease)
    }

    pub fn settle(&mut self, settle: &Settle) -> bool {
        let Some(admission) = self.open_admission(&settle.lease) else { return false };
        let count = self.admissions.len();
        self.admissions[admission].until = Some(count);
        self.admissions[admission].settle = Some(settle.clone());
        self.marks.push(Mark { at_ms: self.now_ms, admission, settled: Some(count) });
        true
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

    /// The largest limit of an account's tokens a minute since an admission; none if there was a time without one.
    fn largest_limit(&self, account: Account<'_>, admission: usize, count: usize) -> Option<u64> {
        let since = self.admissions[admission..count].iter().filter(|admission| account.has(admission));
        let limits = since.map(|admission| account.limit(&admission.request, Dimension::TokensPerMinute));
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
            let Some(count) = mark.settled else {
                let Some(limit) = account.limit(&admission.request, dimension) else {
                    (charges, last) = (Vec::new(), None);
                    continue;
                };
                let cost = if dimension.counts_tokens() { admission.estimate() } else { 1 };
                charges.push((drained(last, mark.at_ms, limit), i128::from(cost) * MINUTE));
                last = Some((mark.at_ms, limit));
                continue;
            };
            if !dimension.counts_tokens() {
                continue;
            }
            let Some(largest) = self.largest_limit(account, mark.admission, count) else { continue };
            let more = (i128::from(admission.charged(count)) - i128::from(admission.estimate())) * MINUTE;
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
                (mine().filter(|admission| admission.date == today).count() as u64, today.ends_ms)
            }
            Dimension::TokensPerDay => {
                let todays = mine().filter(|admission| admission.date == today);
                (todays.map(|admission| admission.charged(count)).sum(), today.ends_ms)
            }
            Dimension::TokensPerMonth => {
                let months = mine().filter(|admission| admission.date.month == today.month);
                (months.map(|admission| admission.charged(count)).sum(), today.month_ends_ms)
            }
            Dimension::ConcurrentRequests => {
                (mine().filter(|admission| admission.is_open(count)).count() as u64, self.now_ms)
            }
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
        for Admission { request, date, until, settle, .. } in &self.admissions {
            if until.is_none() {
                continue;
            }
            let day = date.text.clone();
            let counts =
                usage.entry(UsageKey { day, key: request.key.clone(), model: request.model.clone() }).or_default();
            let (prompt_tokens, completion_tokens, estimated, failed) = match settle {
                Some(settle) => (settle.prompt_tokens, settle.completion_tokens, settle.estimated, settle.failed),
                None => (request.prompt_tokens, request.completion_tokens, true, true),
            };
            counts.requests += 1;
            counts.prompt_tokens += prompt_tokens;
            counts.completion_tokens += completion_tokens;
            counts.estimated += u64::from(estimated);
            counts.errors += u64::from(failed);
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
            check(Dimension::RequestsPerDay, today().count() as u64);
            check(Dimension::TokensPerDay, today().map(|(_, admission)| admission.charged(index)).sum());
            let month = upto.iter().filter(|(_, admission)| admission.date.month == last.date.month);
            check(Dimension::TokensPerMonth, month.map(|(_, admission)| admission.charged(index)).sum());
            let open = upto.iter().filter(|(_, admission)| admission.is_open(index));
            check(Dimension::ConcurrentRequests, open.count() as u64);
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
            charged +=
                if dimension.counts_tokens() { i128::from(first.charged(count).min(first.estimate())) } else { 1 };
            let interval_ms = i128::from(end_ms - first.at_ms);
            assert!(
                charged * MINUTE <= largest * (MINUTE + interval_ms),
                "{account:?} {dimension:?}: {charged} within {interval_ms} ms, of {largest} a minute"
            );
        }
    }
}
