//! The ledger object: one Durable Object a tenant, with its journal in SQLite.
//!
//! The runtime makes all writes of one event durable together before its answer goes out, so that what was promised to
//! a client is on disk. Nothing in here awaits between a decision and its being written down.

use std::cell::{Cell, RefCell};

use serde::Serialize;
use worker::{Date, DurableObject, Env, Request, Response, SqlStorage, SqlStorageValue, State, durable_object};

use super::glue;
use super::platform::text_of;
use crate::quota::{
    Call, Desk, JOURNAL_SLOTS, Ledger, Record, Store, StoredRecord, UsageCounts, UsageKey, UsageRow, Written,
};

/// The ledger of one tenant, or the place of another record that wants one.
#[durable_object]
pub struct LedgerObject {
    state: State,
    /// None before the first call, and after a store that failed.
    desk: RefCell<Option<Desk<SqlStore>>>,
    /// When the alarm will ring, as far as this incarnation knows.
    alarm_ms: Cell<Option<u64>>,
}

impl DurableObject for LedgerObject {
    fn new(state: State, _: Env) -> Self {
        Self { state, desk: RefCell::default(), alarm_ms: Cell::default() }
    }

    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
        let call: Call = match serde_json::from_str(&request.text().await?) {
            Ok(call) => call,
            Err(error) => return Response::error(error.to_string(), 400),
        };
        let answered = self.with_desk(|desk, now_ms| {
            let reply = desk.answer(call.clone(), now_ms)?;
            Ok((reply, desk.wake_ms(now_ms)))
        });
        match answered {
            Ok((reply, wake_ms)) => {
                self.wake_at(wake_ms).await?;
                Response::from_bytes(serde_json::to_vec(&reply)?)
            }
            Err(why) => Response::error(why, 500),
        }
    }

    async fn alarm(&self) -> worker::Result<Response> {
        self.alarm_ms.set(None);
        let next_expiry_ms = self.with_desk(Desk::alarm).map_err(worker::Error::RustError)?;
        self.wake_at(next_expiry_ms).await?;
        Response::empty()
    }
}

impl LedgerObject {
    /// Does something at the desk, which is opened if need be. If its store fails, what it has written is undone and the
    /// desk thrown away: the next one reads what is really there.
    fn with_desk<R>(&self, act: impl Fn(&mut Desk<SqlStore>, u64) -> Result<R, String>) -> Result<R, String> {
        let mut place = self.desk.borrow_mut();
        let mut desk = match place.take() {
            Some(desk) => desk,
            None => Desk::open(SqlStore::open(self.state.storage().sql())?)?,
        };
        let mut result = Err("the transaction did not take place".to_owned());
        let storage = self.state.storage();
        glue::transact(storage.as_raw(), &mut || {
            result = act(&mut desk, Date::now().as_millis());
            result.is_ok()
        })
        .map_err(|thrown| text_of(&thrown))?;
        let result = result?;
        *place = Some(desk);
        Ok(result)
    }

    /// Has the alarm ring when the next promise runs out. One that rings earlier is left as it is: it will set the next
    /// one, and so an alarm is written once a lease's time and not once a request.
    async fn wake_at(&self, next_expiry_ms: Option<u64>) -> worker::Result<()> {
        let Some(at_ms) = next_expiry_ms else { return Ok(()) };
        if self.alarm_ms.get().is_some_and(|alarm_ms| alarm_ms <= at_ms) {
            return Ok(());
        }
        self.alarm_ms.set(Some(at_ms));
        let delay_ms = at_ms.saturating_sub(Date::now().as_millis());
        let set = self.state.storage().set_alarm(i64::try_from(delay_ms).unwrap_or(i64::MAX)).await;
        if set.is_err() {
            self.alarm_ms.set(None);
        }
        set
    }
}

/// A desk's store in the object's SQLite.
#[derive(Debug)]
struct SqlStore {
    sql: SqlStorage,
}

/// A row of the object's `SQLite` holds at most 2 MB; a large ledger takes several.
const SNAPSHOT_ROW_BYTES: usize = 1 << 20;

/// A table's name ends with the version of what is in it: a newer form will have tables of its own, filled from these.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS journal_1 (slot INTEGER PRIMARY KEY, seq INTEGER NOT NULL, entry TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS snapshot_1 (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, ledger TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS usage_1 (
        day TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, estimated INTEGER NOT NULL,
        refused INTEGER NOT NULL, errors INTEGER NOT NULL, PRIMARY KEY (day, key, model)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS record_1 (
        name TEXT PRIMARY KEY, value TEXT, version INTEGER NOT NULL, next_write_ms INTEGER NOT NULL
    ) WITHOUT ROWID;";

type Row = Vec<SqlStorageValue>;

impl SqlStore {
    fn open(sql: SqlStorage) -> Result<Self, String> {
        let store = Self { sql };
        store.rows(SCHEMA, Vec::new())?;
        Ok(store)
    }

    fn rows(&self, query: &str, bindings: Row) -> Result<Vec<Row>, String> {
        let cursor = self.sql.exec(query, bindings).map_err(|error| error.to_string())?;
        cursor.raw().collect::<worker::Result<_>>().map_err(|error| error.to_string())
    }
}

/// Integers of SQL travel as doubles, exact up to 2^53: times and counts stay far below.
fn integer(value: u64) -> SqlStorageValue {
    SqlStorageValue::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn as_integer(value: Option<&SqlStorageValue>) -> u64 {
    match value {
        Some(SqlStorageValue::Integer(value)) => u64::try_from(*value).unwrap_or_default(),
        _ => 0,
    }
}

fn as_text(value: Option<&SqlStorageValue>) -> Option<String> {
    match value {
        Some(SqlStorageValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<SqlStorageValue, String> {
    serde_json::to_string(value).map(SqlStorageValue::String).map_err(|error| error.to_string())
}

impl Store for SqlStore {
    fn snapshot(&self) -> Result<Option<(u64, Ledger)>, String> {
        let rows = self.rows("SELECT seq, ledger FROM snapshot_1 ORDER BY id", Vec::new())?;
        let Some(row) = rows.first() else { return Ok(None) };
        let json: String = rows.iter().filter_map(|row| as_text(row.get(1))).collect();
        let ledger = serde_json::from_str(&json).map_err(|error| format!("the snapshot: {error}"))?;
        Ok(Some((as_integer(row.first()), ledger)))
    }

    fn journal_after(&self, seq: u64) -> Result<Vec<Written>, String> {
        let rows = self.rows("SELECT seq, entry FROM journal_1 WHERE seq > ? ORDER BY seq", vec![integer(seq)])?;
        let read = |row: &Row| {
            let json = as_text(row.get(1)).unwrap_or_default();
            let (now_ms, entry) = serde_json::from_str(&json).map_err(|error| format!("the journal: {error}"))?;
            Ok(Written { seq: as_integer(row.first()), now_ms, entry })
        };
        rows.iter().map(read).collect()
    }

    fn append(&mut self, written: &Written) -> Result<(), String> {
        let Written { seq, now_ms, entry } = written;
        let slot = seq.checked_rem(JOURNAL_SLOTS).unwrap_or_default();
        let bindings = vec![integer(slot), integer(*seq), to_json(&(now_ms, entry))?];
        self.rows("INSERT OR REPLACE INTO journal_1 VALUES (?, ?, ?)", bindings).map(drop)
    }

    fn write_snapshot(&mut self, seq: u64, ledger: &Ledger) -> Result<(), String> {
        let json = serde_json::to_string(ledger).map_err(|error| error.to_string())?;
        let (mut rest, mut id) = (json.as_str(), 0_u64);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.floor_char_boundary(SNAPSHOT_ROW_BYTES));
            let bindings = vec![integer(id), integer(seq), part.into()];
            self.rows("INSERT OR REPLACE INTO snapshot_1 VALUES (?, ?, ?)", bindings)?;
            (rest, id) = (after, id.saturating_add(1));
        }
        self.rows("DELETE FROM snapshot_1 WHERE id >= ?", vec![integer(id)]).map(drop)
    }

    fn add_usage(&mut self, rows: &[UsageRow]) -> Result<(), String> {
        for UsageRow { by, counts } in rows {
            let mut bindings: Row = [&by.day, &by.key, &by.model].map(|text| text.as_str().into()).to_vec();
            bindings.extend(
                [
                    counts.requests,
                    counts.prompt_tokens,
                    counts.completion_tokens,
                    counts.estimated,
                    counts.refused,
                    counts.errors,
                ]
                .map(integer),
            );
            let query = "INSERT INTO usage_1 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
                completion_tokens = completion_tokens + excluded.completion_tokens,
                estimated = estimated + excluded.estimated, refused = refused + excluded.refused,
                errors = errors + excluded.errors";
            self.rows(query, bindings)?;
        }
        Ok(())
    }

    fn usage(&self, from: &str, to: &str) -> Result<Vec<UsageRow>, String> {
        let query = "SELECT * FROM usage_1 WHERE day BETWEEN ? AND ? ORDER BY day, key, model";
        let read = |row: Row| {
            let text = |at: usize| as_text(row.get(at)).unwrap_or_default();
            let count = |at: usize| as_integer(row.get(at));
            UsageRow {
                by: UsageKey { day: text(0), key: text(1), model: text(2) },
                counts: UsageCounts {
                    requests: count(3),
                    prompt_tokens: count(4),
                    completion_tokens: count(5),
                    estimated: count(6),
                    refused: count(7),
                    errors: count(8),
                },
            }
        };
        Ok(self.rows(query, vec![from.into(), to.into()])?.into_iter().map(read).collect())
    }

    fn record(&self, name: &str) -> Result<Option<StoredRecord>, String> {
        let rows = self.rows("SELECT value, version, next_write_ms FROM record_1 WHERE name = ?", vec![name.into()])?;
        Ok(rows.first().map(|row| StoredRecord {
            value: as_text(row.first()),
            version: as_integer(row.get(1)),
            next_write_ms: as_integer(row.get(2)),
        }))
    }

    fn records(&self, prefix: &str, after: &str, limit: u32) -> Result<Vec<Record>, String> {
        let query = "SELECT name, value, version FROM record_1
            WHERE substr(name, 1, length(?1)) = ?1 AND name > ?2 AND value IS NOT NULL ORDER BY name LIMIT ?3";
        let rows = self.rows(query, vec![prefix.into(), after.into(), integer(limit.into())])?;
        let read = |row: Row| Record {
            name: as_text(row.first()).unwrap_or_default(),
            value: as_text(row.get(1)).unwrap_or_default(),
            version: as_integer(row.get(2)),
        };
        Ok(rows.into_iter().map(read).collect())
    }

    fn write_record(&mut self, name: &str, record: &StoredRecord) -> Result<(), String> {
        let bindings =
            vec![name.into(), record.value.clone().into(), integer(record.version), integer(record.next_write_ms)];
        self.rows("INSERT OR REPLACE INTO record_1 VALUES (?, ?, ?, ?)", bindings).map(drop)
    }
}
