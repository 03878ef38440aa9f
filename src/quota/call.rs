//! What the Worker asks a ledger object, and what it is told: JSON between the two halves of one deploy.

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::operation::{Denial, Report, Reserve, Settle, Standing, UsageCounts, UsageKey, WindowUse, is_zero};

/// A question to the ledger of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// May this request go on? All dimensions are reserved, or none. Answered with [`Reply::Decided`].
    Reserve(Reserve),
    /// The same, from somebody who has something to report. What is known counts before it is decided.
    ReportAndReserve(Vec<Report>, Reserve),
    /// So much is known of these slices. [`Reply::Done`].
    Report(Vec<Report>),
    /// This request has ended. [`Reply::Done`].
    Settle(Settle),
    /// This request goes on. [`Reply::Done`].
    Renew {
        /// The promise.
        lease: String,
        /// Milliseconds from now.
        lease_ms: u64,
    },
    /// This key opens nothing any more. [`Reply::Done`].
    Revoke {
        /// The id of the key.
        key: String,
    },
    /// Where do the limits stand? [`Reply::Standings`], or [`Reply::Decided`] if the key has been revoked.
    Standings {
        /// The id of the key.
        key: String,
        /// The tenant's limits as of now.
        tenant_limits: Limits,
        /// The key's limits as of now.
        key_limits: Limits,
    },
    /// What was used from one day to another, both included, as `2026-01-31`? [`Reply::Usage`].
    Usage {
        /// The first day.
        from: String,
        /// The last day.
        to: String,
    },
    /// What does the record say? [`Reply::Record`].
    ReadRecord {
        /// Its KV key.
        name: String,
    },
    /// All records whose names begin so, in order of name. [`Reply::Records`].
    ListRecords {
        /// The beginning.
        prefix: String,
        /// Only names after this one; empty for all.
        after: String,
        /// At most so many.
        limit: u32,
    },
    /// Let the record say this, if it is still what the writer thinks. [`Reply::Record`] or [`Reply::Conflict`].
    WriteRecord {
        /// Its KV key.
        name: String,
        /// Its text; `None` deletes it.
        value: Option<String>,
        /// What it has to be now.
        expect: Expect,
    },
}

/// What a record has to be before it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Anything.
    Any,
    /// Not there.
    Absent,
    /// There, whatever it says.
    Present,
    /// Of this version.
    Version(u64),
}

/// A record and its version, which no other text of it ever had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its KV key.
    pub name: String,
    /// Its text.
    pub value: String,
    /// Counts its changes.
    pub version: u64,
}

/// What was used on one day, with one key, of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Day, key and model.
    pub by: UsageKey,
    /// The counts.
    pub counts: UsageCounts,
}

/// The ledger's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Call::Reserve`].
    Decided {
        /// Why not, if not.
        refusal: Option<Refusal>,
        /// Where the limits stand now.
        standings: Vec<Standing>,
        /// For how many more requests it is promised.
        #[serde(default, skip_serializing_if = "is_zero")]
        spare: u64,
    },
    /// It is done, or there was nothing to do.
    Done,
    /// To [`Call::Standings`].
    Standings {
        /// Tenant's limits first.
        standings: Vec<Standing>,
        /// The tenant's first.
        windows: [WindowUse; 2],
    },
    /// To [`Call::Usage`], in order of day, key, model.
    Usage {
        /// The rows.
        rows: Vec<UsageRow>,
    },
    /// The record as it is now.
    Record {
        /// `None` if there is none.
        record: Option<Record>,
        /// Milliseconds to wait before KV may be written: it takes one write a second for each key.
        wait_ms: u64,
    },
    /// To [`Call::ListRecords`].
    Records {
        /// The records.
        records: Vec<Record>,
    },
    /// The record is not what the writer thought; nothing was written.
    Conflict {
        /// What it is.
        record: Option<Record>,
    },
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A limit.
    Limit(Denial),
    /// The key has been revoked.
    Revoked,
}
