//! The desk at which a ledger is asked: it answers calls, writes down what must outlive a restart, and reads it again.
//!
//! An admitted request costs one row in the journal, or a part of one where requests follow close upon each other. What is
//! told, and waited for by nobody, is written with the next row, or in one of its own with whatever else was told within a
//! moment. Nothing is answered before it is written. Slots of the journal are used again in turn, so that nothing has to be
//! deleted, and every [`JOURNAL_SLOTS`] / 2 rows the whole state is written once. A refusal writes nothing; a burst of them
//! is counted in one write some seconds later.

use std::collections::VecDeque;

use super::call::{Call, Expect, Record, Refusal, Reply, UsageRow};
use super::gather::{GATHER_MS, Gather};
use super::ledger::Ledger;
use super::operation::{Decision, Entry, Report, Reserve};

/// Rows that the journal holds before they are written over.
pub const JOURNAL_SLOTS: u64 = 256;
/// For how long what is told is collected, before it is written down in a row of its own, in milliseconds.
const TOLD_MS: u64 = 20;
/// The most operations that wait to be written down.
const MOST_UNWRITTEN: usize = 64;
/// How long counts of refusals may stay in memory alone: one write a burst, instead of one a refusal.
const REFUSALS_MS: u64 = 10_000;
/// KV takes one write a second for each of its keys.
const KV_WRITE_MS: u64 = 1000;
/// How long, and of how many promises, it is remembered that they were settled before they were asked for.
const OVERTAKEN_MS: u64 = 60_000;
const MOST_OVERTAKEN: usize = 256;

/// A row of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Counts rows from 1.
    pub seq: u64,
    /// When it happened, in milliseconds since 1970.
    pub now_ms: u64,
    /// What happened.
    pub entry: Entry,
}

/// A record as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its text; `None` if it was deleted, which keeps its version from being given again.
    pub value: Option<String>,
    /// Counts its changes.
    pub version: u64,
    /// When KV may be written again.
    pub next_write_ms: u64,
}

/// Where a desk writes things down. What a method writes is kept whole or not at all.
pub trait Store {
    /// The last whole state and the number of the last row in it.
    fn snapshot(&self) -> Result<Option<(u64, Ledger)>, String>;
    /// Rows after `seq`, in order.
    fn journal_after(&self, seq: u64) -> Result<Vec<Written>, String>;
    /// Writes a row into the slot `seq % JOURNAL_SLOTS`.
    fn append(&mut self, written: &Written) -> Result<(), String>;
    /// Writes the whole state, up to row `seq`, and adds to the counts of usage: both or neither.
    fn checkpoint(&mut self, seq: u64, ledger: &Ledger, usage: &[UsageRow]) -> Result<(), String>;
    /// The counts from one day to another.
    fn usage(&self, from: &str, to: &str) -> Result<Vec<UsageRow>, String>;
    /// One record.
    fn record(&self, name: &str) -> Result<Option<StoredRecord>, String>;
    /// Records that exist, by name.
    fn records(&self, prefix: &str, after: &str, limit: u32) -> Result<Vec<Record>, String>;
    /// Writes a record.
    fn write_record(&mut self, name: &str, record: &StoredRecord) -> Result<(), String>;
}

/// What a call is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// It may be given once this desk has written down all that [is unwritten](Desk::is_unwritten) now; never, if it fails.
    pub reply: Reply,
    /// In so many milliseconds what is unwritten is to be [written down](Desk::write_down). 0 if nothing is.
    pub wait_ms: u64,
}

/// A ledger and its store.
#[derive(Debug)]
pub struct Desk<S> {
    store: S,
    ledger: Ledger,
    seq: u64,
    /// The last row in the last snapshot.
    snapshot_seq: u64,
    /// What has happened and is not written down yet, and when.
    unwritten: Vec<(u64, Entry)>,
    /// Which reservations wait for one write.
    gather: Gather,
    has_unsaved_refusals: bool,
    /// Promises that were settled before they were asked for, and when: whoever asked has stopped waiting, and one call may
    /// overtake another. It is in memory alone; after a restart such a promise would be held until its lease ends.
    overtaken: VecDeque<(String, u64)>,
}

impl<S: Store> Desk<S> {
    /// The ledger as the store knows it.
    pub fn open(store: S) -> Result<Self, String> {
        let (snapshot_seq, mut ledger) = store.snapshot()?.unwrap_or_default();
        let mut seq = snapshot_seq;
        for written in store.journal_after(snapshot_seq)? {
            ledger.apply(&written.entry, written.now_ms);
            seq = written.seq;
        }
        Ok(Self {
            store,
            ledger,
            seq,
            snapshot_seq,
            unwritten: Vec::new(),
            gather: Gather::default(),
            has_unsaved_refusals: false,
            overtaken: VecDeque::new(),
        })
    }

    /// Answers a call. An error is the store's: the caller does not know whether it has happened, may ask again, and the desk
    /// has to be opened anew.
    pub fn answer(&mut self, call: Call, now_ms: u64) -> Result<Answer, String> {
        // What has run out is gone before anything is asked, and what is written down has the ledger's own time.
        let now_ms = self.ledger.expire(now_ms);
        let reply = self.act(call, now_ms)?;
        let wait_ms = match reply {
            Reply::Done => TOLD_MS,
            Reply::Decided { refusal: None, .. } if self.gather.waits(now_ms) => GATHER_MS,
            // It may be refused for what is to be written any moment.
            Reply::Decided { .. } if self.gather.goes_on() => GATHER_MS,
            _ => {
                self.write_down()?;
                0
            }
        };
        Ok(Answer { reply, wait_ms: if self.is_unwritten() { wait_ms } else { 0 } })
    }

    fn act(&mut self, call: Call, now_ms: u64) -> Result<Reply, String> {
        match call {
            Call::Reserve(request) => self.reserve(request, now_ms),
            Call::ReportAndReserve(reports, request) => {
                self.report(reports, now_ms)?;
                self.reserve(request, now_ms)
            }
            Call::Report(reports) => {
                self.report(reports, now_ms)?;
                Ok(Reply::Done)
            }
            Call::Settle(settle) => {
                if self.ledger.settle(&settle, now_ms) {
                    self.note(Entry::Settle(settle), now_ms)?;
                } else {
                    self.overtaken.truncate(MOST_OVERTAKEN - 1);
                    self.overtaken.push_front((settle.lease, now_ms));
                }
                Ok(Reply::Done)
            }
            Call::Renew { lease, lease_ms } => {
                if self.ledger.renew(&lease, lease_ms, now_ms) {
                    self.note(Entry::Renew { lease, lease_ms }, now_ms)?;
                }
                Ok(Reply::Done)
            }
            Call::Revoke { key } => {
                self.ledger.revoke(&key, now_ms);
                self.note(Entry::Revoke { key }, now_ms)?;
                Ok(Reply::Done)
            }
            Call::Standings { key, .. } if self.ledger.is_revoked(&key) => {
                Ok(Reply::Decided { refusal: Some(Refusal::Revoked), standings: Vec::new(), spare: 0 })
            }
            Call::Standings { key, tenant_limits, key_limits } => {
                let standings = self.ledger.standings(&key, tenant_limits, key_limits, now_ms);
                Ok(Reply::Standings { standings, windows: self.ledger.windows(&key, now_ms) })
            }
            Call::Usage { from, to } => {
                self.checkpoint(now_ms)?;
                Ok(Reply::Usage { rows: self.store.usage(&from, &to)? })
            }
            Call::ReadRecord { name } => {
                let stored = self.store.record(&name)?;
                let wait_ms = stored.as_ref().map_or(0, |stored| stored.next_write_ms.saturating_sub(now_ms));
                Ok(Reply::Record { record: present(&name, stored.as_ref()), wait_ms })
            }
            Call::ListRecords { prefix, after, limit } => {
                Ok(Reply::Records { records: self.store.records(&prefix, &after, limit)? })
            }
            Call::WriteRecord { name, value, expect } => self.write_record(&name, value, &expect, now_ms),
        }
    }

    /// When the desk wants to be woken: when the next promise may run out, and soon after a refusal, whose count is in
    /// memory alone until then.
    pub fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        let counts = self.has_unsaved_refusals.then(|| now_ms.saturating_add(REFUSALS_MS));
        [self.ledger.earliest_expiry_ms(), counts].into_iter().flatten().min()
    }

    /// Closes the promises that have run out; returns when the next one will.
    pub fn alarm(&mut self, now_ms: u64) -> Result<Option<u64>, String> {
        let now_ms = self.ledger.expire(now_ms);
        self.checkpoint(now_ms)?;
        Ok(self.ledger.next_expiry_ms())
    }

    /// Where it writes things down.
    pub fn store(&self) -> &S {
        &self.store
    }

    fn reserve(&mut self, request: Reserve, now_ms: u64) -> Result<Reply, String> {
        let is_late =
            |(lease, at_ms): &(String, u64)| *lease == request.lease && now_ms.saturating_sub(*at_ms) < OVERTAKEN_MS;
        if self.overtaken.iter().any(is_late) {
            return Ok(Reply::Done);
        }
        let limits = (request.tenant_limits, request.key_limits);
        let (key, known) = (request.key.clone(), self.ledger.holds(&request.lease));
        self.has_unsaved_refusals |= request.is_again;
        let (refusal, spare) = match self.ledger.reserve(&request, now_ms) {
            Decision::Admitted { spare } => (None, spare),
            Decision::Denied(denial) => {
                self.has_unsaved_refusals = true;
                (Some(Refusal::Limit(denial)), 0)
            }
            Decision::Revoked => (Some(Refusal::Revoked), 0),
        };
        if refusal.is_none() && !known {
            self.note(Entry::Reserve(Reserve { spare, ..request }), now_ms)?;
        }
        let standings = self.ledger.standings(&key, limits.0, limits.1, now_ms);
        Ok(Reply::Decided { refusal, standings, spare })
    }

    fn report(&mut self, reports: Vec<Report>, now_ms: u64) -> Result<(), String> {
        for report in reports {
            if self.ledger.report(&report, now_ms) {
                self.note(Entry::Report(report), now_ms)?;
            }
        }
        Ok(())
    }

    /// Has an operation that has happened written down with the next row.
    fn note(&mut self, entry: Entry, now_ms: u64) -> Result<(), String> {
        self.unwritten.push((now_ms, entry));
        if self.unwritten.len() < MOST_UNWRITTEN { Ok(()) } else { self.write_down() }
    }

    /// Whether something that has happened would not outlive a restart.
    #[must_use]
    pub fn is_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Writes down what has happened, in one row.
    pub fn write_down(&mut self) -> Result<(), String> {
        self.gather.written();
        let Some((now_ms, entry)) = self.unwritten.pop() else { return Ok(()) };
        // The slot would be one that no snapshot holds yet: better nothing is promised than something forgotten.
        if self.seq.saturating_sub(self.snapshot_seq) >= JOURNAL_SLOTS {
            return Err("the journal is full, and no snapshot could be written".to_owned());
        }
        let mut entries = std::mem::take(&mut self.unwritten);
        let entry = if entries.is_empty() {
            entry
        } else {
            entries.push((now_ms, entry));
            Entry::Several(entries)
        };
        self.seq = self.seq.saturating_add(1);
        self.store.append(&Written { seq: self.seq, now_ms, entry })?;
        if self.seq.saturating_sub(self.snapshot_seq) >= JOURNAL_SLOTS / 2 {
            self.checkpoint(now_ms)?;
        }
        Ok(())
    }

    /// Writes down the whole state and the usage since the last time.
    fn checkpoint(&mut self, now_ms: u64) -> Result<(), String> {
        self.ledger.compact(now_ms);
        let usage = self.ledger.take_usage();
        let rows: Vec<UsageRow> = usage.into_iter().map(|(by, counts)| UsageRow { by, counts }).collect();
        self.store.checkpoint(self.seq, &self.ledger, &rows)?;
        self.snapshot_seq = self.seq;
        self.unwritten.clear();
        self.has_unsaved_refusals = false;
        Ok(())
    }

    fn write_record(
        &mut self,
        name: &str,
        value: Option<String>,
        expect: &Expect,
        now_ms: u64,
    ) -> Result<Reply, String> {
        let stored = self.store.record(name)?;
        let now = present(name, stored.as_ref());
        let as_expected = match (expect, &now) {
            (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => true,
            (Expect::Version(version), Some(record)) => record.version == *version,
            _ => false,
        };
        if !as_expected {
            return Ok(Reply::Conflict { record: now });
        }
        let (version, next_write_ms) = stored.map_or((0, 0), |stored| (stored.version, stored.next_write_ms));
        let wait_ms = next_write_ms.saturating_sub(now_ms);
        let stored = StoredRecord {
            value,
            version: version.saturating_add(1),
            next_write_ms: now_ms.max(next_write_ms).saturating_add(KV_WRITE_MS),
        };
        self.store.write_record(name, &stored)?;
        Ok(Reply::Record { record: present(name, Some(&stored)), wait_ms })
    }
}

fn present(name: &str, stored: Option<&StoredRecord>) -> Option<Record> {
    let StoredRecord { value, version, .. } = stored?;
    Some(Record { name: name.to_owned(), value: value.clone()?, version: *version })
}
