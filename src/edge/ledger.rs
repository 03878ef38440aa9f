//! The ledger object: one Durable Object a tenant, with its journal in SQLite.
//!
//! The runtime makes all writes of one event durable together before its answer goes out, so that what was promised to
//! a client is on disk. Nothing in here awaits anything, so that an event is one turn of the object.

use std::cell::{Cell, RefCell};

use wasm_bindgen::prelude::*;

use super::platform::{now_ms, text_of};
use super::store::{SqlStore, Storage, number};
use crate::quota::{Call, Desk, Reply};

/// The ledger of one tenant, or the place of another record that wants one.
#[wasm_bindgen]
#[derive(Debug)]
pub struct LedgerObject {
    storage: Storage,
    /// None before the first call, and after a store that failed.
    desk: RefCell<Option<Desk<SqlStore>>>,
    /// When the alarm will ring, as far as this incarnation knows.
    alarm_ms: Cell<Option<u64>>,
    /// Whether a desk was thrown away with something that was told and not written down, for which somebody waits.
    is_lost: Cell<bool>,
}

#[wasm_bindgen]
impl LedgerObject {
    /// As the runtime makes it.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new(ctx: &JsValue) -> Self {
        Self {
            storage: Storage::new(ctx),
            desk: RefCell::default(),
            alarm_ms: Cell::default(),
            is_lost: Cell::default(),
        }
    }

    /// Answers a [`Call`] with a [`Reply`], both as JSON. There is no answer yet where something was told that is not
    /// written down: it is that of [`Self::write_down`], which is to be called in a moment.
    pub fn ask(&self, call: &str) -> Result<Option<String>, JsError> {
        let call: Call = serde_json::from_str(call)?;
        let (reply, is_owed, wake_ms) = self.at_desk(|desk, now_ms| {
            let reply = desk.answer(call, now_ms)?;
            Ok((reply, desk.is_unwritten(), desk.wake_ms(now_ms)))
        })?;
        self.wake_at(wake_ms)?;
        Ok(if is_owed { None } else { Some(serde_json::to_string(&reply)?) })
    }

    /// Writes down what was told. Answers all who wait for that; they have to tell it again if it fails.
    #[wasm_bindgen(js_name = writeDown)]
    pub fn write_down(&self) -> Result<String, JsError> {
        let written = self.at_desk(|desk, _| desk.write_down());
        let is_lost = self.is_lost.take();
        written?;
        if is_lost {
            return Err(JsError::new("what was told is lost"));
        }
        Ok(serde_json::to_string(&Reply::Done)?)
    }

    /// The alarm rings.
    pub fn alarm(&self) -> Result<(), JsError> {
        self.alarm_ms.set(None);
        let next_expiry_ms = self.at_desk(Desk::alarm)?;
        self.wake_at(next_expiry_ms)
    }
}

impl LedgerObject {
    /// Does something at the desk, which is opened if need be. If its store fails, the desk is thrown away: the next one
    /// reads what is really there.
    fn at_desk<R>(&self, act: impl FnOnce(&mut Desk<SqlStore>, u64) -> Result<R, String>) -> Result<R, JsError> {
        let mut place = self.desk.borrow_mut();
        let attempt = || {
            let mut desk = match place.take() {
                Some(desk) => desk,
                None => Desk::open(SqlStore::open(self.storage.clone())?)?,
            };
            let was_unwritten = desk.is_unwritten();
            let result =
                act(&mut desk, now_ms()).inspect_err(|_| self.is_lost.set(self.is_lost.get() || was_unwritten))?;
            *place = Some(desk);
            Ok(result)
        };
        attempt().map_err(|why: String| JsError::new(&why))
    }

    /// Has the alarm ring when the next promise runs out. One that rings earlier is left as it is: it will set the next
    /// one, and so an alarm is written once a lease's time and not once a request.
    fn wake_at(&self, at_ms: Option<u64>) -> Result<(), JsError> {
        let Some(at_ms) = at_ms else { return Ok(()) };
        if self.alarm_ms.get().is_some_and(|alarm_ms| alarm_ms <= at_ms) {
            return Ok(());
        }
        self.storage.wake_at(number(at_ms)).map_err(|thrown| JsError::new(&text_of(&thrown)))?;
        self.alarm_ms.set(Some(at_ms));
        Ok(())
    }
}
