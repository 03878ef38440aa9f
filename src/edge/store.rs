//! A desk's store in the ledger object's SQLite.

use serde::Serialize;
use wasm_bindgen::prelude::*;

use super::platform::{text_of, whole};
use crate::quota::{JOURNAL_SLOTS, Ledger, Record, Store, StoredRecord, UsageCounts, UsageKey, UsageRow, Written};

#[wasm_bindgen(raw_module = "../../src/edge/ledger.js")]
extern "C" {
    /// The storage of a Durable Object.
    #[derive(Clone, Debug)]
    pub(super) type Storage;

    #[wasm_bindgen(constructor)]
    pub(super) fn new(ctx: &JsValue) -> Storage;

    #[wasm_bindgen(method, catch)]
    fn append(this: &Storage, slot: f64, seq: f64, entry: &str) -> Result<(), JsValue>;

    #[wasm_bindgen(method, catch)]
    fn rows(this: &Storage, query: &str, bindings: js_sys::Array) -> Result<js_sys::Array, JsValue>;

    /// Runs `act` in one transaction; if it returns false, nothing of it has happened.
    #[wasm_bindgen(method, catch)]
    fn transact(this: &Storage, act: &mut dyn FnMut() -> bool) -> Result<(), JsValue>;

    /// Sets the alarm.
    #[wasm_bindgen(method, catch, js_name = wakeAt)]
    pub(super) fn wake_at(this: &Storage, ms: f64) -> Result<(), JsValue>;
}

/// A desk's store.
#[derive(Debug)]
pub(super) struct SqlStore {
    storage: Storage,
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

/// The columns of a row.
type Row = js_sys::Array;

impl SqlStore {
    pub(super) fn open(storage: Storage) -> Result<Self, String> {
        let store = Self { storage };
        store.rows(SCHEMA, &[])?;
        Ok(store)
    }

    fn rows(&self, query: &str, bindings: &[JsValue]) -> Result<Vec<Row>, String> {
        let rows = self.storage.rows(query, bindings.iter().collect()).map_err(|thrown| text_of(&thrown))?;
        Ok(rows.iter().map(JsCast::unchecked_into).collect())
    }

    fn write_snapshot(&self, seq: u64, ledger: &str) -> Result<(), String> {
        let (mut rest, mut id) = (ledger, 0_u64);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.floor_char_boundary(SNAPSHOT_ROW_BYTES));
            let query = "INSERT OR REPLACE INTO snapshot_1 VALUES (?, ?, ?)";
            self.rows(query, &[integer(id), integer(seq), part.into()])?;
            (rest, id) = (after, id.saturating_add(1));
        }
        self.rows("DELETE FROM snapshot_1 WHERE id >= ?", &[integer(id)]).map(drop)
    }

    fn add_usage(&self, UsageRow { by, counts }: &UsageRow) -> Result<(), String> {
        let UsageCounts { requests, prompt_tokens, completion_tokens, estimated, refused, errors } = *counts;
        let mut bindings = [&by.day, &by.key, &by.model].map(JsValue::from).to_vec();
        bindings.extend([requests, prompt_tokens, completion_tokens, estimated, errors].map(integer));
        bindings.push(signed(refused));
        // A restart forgets refusals that were not stored yet, and not those that are taken back.
        let query = "INSERT INTO usage_1 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, max(0, ?9), ?8) ON CONFLICT DO UPDATE SET
            requests = requests + ?4, prompt_tokens = prompt_tokens + ?5, completion_tokens = completion_tokens + ?6,
            estimated = estimated + ?7, refused = max(0, refused + ?9), errors = errors + ?8";
        self.rows(query, &bindings).map(drop)
    }
}

/// Numbers of JavaScript are doubles, exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "times and counts stay far below 2^53")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

fn integer(value: u64) -> JsValue {
    number(value).into()
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn signed(value: i64) -> JsValue {
    (value as f64).into()
}

fn integer_at(row: &Row, column: u32) -> u64 {
    row.get(column).as_f64().map_or(0, whole)
}

fn text_at(row: &Row, column: u32) -> Option<String> {
    row.get(column).as_string()
}

fn json<T: Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

impl Store for SqlStore {
    fn snapshot(&self) -> Result<Option<(u64, Ledger)>, String> {
        let rows = self.rows("SELECT seq, ledger FROM snapshot_1 ORDER BY id", &[])?;
        let Some(row) = rows.first() else { return Ok(None) };
        let json: String = rows.iter().filter_map(|row| text_at(row, 1)).collect();
        let ledger = serde_json::from_str(&json).map_err(|error| format!("the snapshot: {error}"))?;
        Ok(Some((integer_at(row, 0), ledger)))
    }

    fn journal_after(&self, seq: u64) -> Result<Vec<Written>, String> {
        let rows = self.rows("SELECT seq, entry FROM journal_1 WHERE seq > ? ORDER BY seq", &[integer(seq)])?;
        let read = |row: &Row| {
            let json = text_at(row, 1).unwrap_or_default();
            let (now_ms, entry) = serde_json::from_str(&json).map_err(|error| format!("the journal: {error}"))?;
            Ok(Written { seq: integer_at(row, 0), now_ms, entry })
        };
        rows.iter().map(read).collect()
    }

    fn append(&mut self, written: &Written) -> Result<(), String> {
        let Written { seq, now_ms, entry } = written;
        let slot = seq.checked_rem(JOURNAL_SLOTS).unwrap_or_default();
        let appended = self.storage.append(number(slot), number(*seq), &json(&(now_ms, entry))?);
        appended.map_err(|thrown| text_of(&thrown))
    }

    fn checkpoint(&mut self, seq: u64, ledger: &Ledger, usage: &[UsageRow]) -> Result<(), String> {
        let ledger = json(ledger)?;
        let mut result = Err("the transaction did not take place".to_owned());
        let mut write = || {
            result =
                usage.iter().try_for_each(|row| self.add_usage(row)).and_then(|()| self.write_snapshot(seq, &ledger));
            result.is_ok()
        };
        self.storage.transact(&mut write).map_err(|thrown| text_of(&thrown))?;
        result
    }

    fn usage(&self, from: &str, to: &str) -> Result<Vec<UsageRow>, String> {
        let query = "SELECT * FROM usage_1 WHERE day BETWEEN ? AND ? ORDER BY day, key, model";
        let read = |row: &Row| {
            let text = |at| text_at(row, at).unwrap_or_default();
            let count = |at| integer_at(row, at);
            UsageRow {
                by: UsageKey { day: text(0), key: text(1), model: text(2) },
                counts: UsageCounts {
                    requests: count(3),
                    prompt_tokens: count(4),
                    completion_tokens: count(5),
                    estimated: count(6),
                    refused: i64::try_from(count(7)).unwrap_or(i64::MAX),
                    errors: count(8),
                },
            }
        };
        Ok(self.rows(query, &[from.into(), to.into()])?.iter().map(read).collect())
    }

    fn record(&self, name: &str) -> Result<Option<StoredRecord>, String> {
        let rows = self.rows("SELECT value, version, next_write_ms FROM record_1 WHERE name = ?", &[name.into()])?;
        Ok(rows.first().map(|row| StoredRecord {
            value: text_at(row, 0),
            version: integer_at(row, 1),
            next_write_ms: integer_at(row, 2),
        }))
    }

    fn records(&self, prefix: &str, after: &str, limit: u32) -> Result<Vec<Record>, String> {
        let query = "SELECT name, value, version FROM record_1
            WHERE substr(name, 1, length(?1)) = ?1 AND name > ?2 AND value IS NOT NULL ORDER BY name LIMIT ?3";
        let rows = self.rows(query, &[prefix.into(), after.into(), limit.into()])?;
        let read = |row: &Row| Record {
            name: text_at(row, 0).unwrap_or_default(),
            value: text_at(row, 1).unwrap_or_default(),
            version: integer_at(row, 2),
        };
        Ok(rows.iter().map(read).collect())
    }

    fn write_record(&mut self, name: &str, record: &StoredRecord) -> Result<(), String> {
        let StoredRecord { value, version, next_write_ms } = record;
        let value = value.as_deref().map_or(JsValue::NULL, JsValue::from);
        let bindings = [name.into(), value, integer(*version), integer(*next_write_ms)];
        self.rows("INSERT OR REPLACE INTO record_1 VALUES (?, ?, ?, ?)", &bindings).map(drop)
    }
}
