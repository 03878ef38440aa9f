//! What tenants may spend: limits, and the ledger that holds to them.
//!
//! The ledger is a state machine without a clock and without I/O. One Durable Object a tenant keeps it (`edge`), writes
//! down what it was told, and can tell it all again after a restart.

mod account;
mod bucket;
mod call;
mod desk;
mod gather;
mod headers;
mod key;
mod lease;
mod ledger;
mod limits;
mod operation;
mod slice;
mod slices;
mod window;

pub use call::{Call, Expect, Record, Refusal, Reply, UsageRow};
pub use desk::{Answer, Desk, JOURNAL_SLOTS, Store, StoredRecord, Written};
pub use headers::{go_duration, rate_headers};
pub use ledger::Ledger;
pub use limits::{Dimension, Limits, MAX_LIMIT, Owner};
pub use operation::{
    Decision, Denial, Entry, Report, Reserve, Settle, Standing, Totals, UsageCounts, UsageKey, WindowUse,
};
pub use slices::{Ask, Asking, Slices, Spent, Tend, Tending, Verdict, Way};
