//! The ledger object: one Durable Object a tenant, with its journal in SQLite.
//!
//! The runtime makes all that has been written durable before an answer goes out, and an answer waits for its write, so that
//! what was promised to a client is on disk. Nothing in here awaits anything: what it is asked is one turn of the object.

use std::cell::{Cell, RefCell};

use wasm_bindgen::prelude::*;

use super::platform::{now_ms, text_of};
use super::store::{SqlStore, Storage, number};
use crate::quota::{Answer, Call, Desk};

/// The ledger of one tenant, or the place of another record that wants one. One whose store has failed is of no use any
/// more: the next one reads what is really there.
#[wasm_bindgen]
#[derive(Debug)]
pub struct LedgerObject {
    storage: Storage,
    /// None before the first call, and once the store has failed.
    desk: RefCell<Option<Desk<SqlStore>>>,
    /// When the alarm will ring, as far as this incarnation knows.
    alarm_ms: Cell<Option<u64>>,
    /// For how long the last answer is to be kept back, in milliseconds.
    wait_ms: Cell<u32>,
    is_broken: Cell<bool>,
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
            wait_ms: Cell::default(),
            is_broken: Cell::default(),
        }
    }

    /// Answers a [`Call`] with a [`Reply`](crate::quota::Reply), both as JSON, which is to be kept back for
    /// [`Self::wait_ms`].
    pub fn ask(&self, call: &str) -> Result<String, JsError> {
        let call: Call = serde_json::from_str(call)?;
        let (Answer { reply, wait_ms }, wake_ms) =
            self.at_desk(|desk, now_ms| Ok((desk.answer(call, now_ms)?, desk.wake_ms(now_ms))))?;
        self.wake_at(wake_ms)?;
        self.wait_ms.set(u32::try_from(wait_ms).unwrap_or(u32::MAX));
        Ok(serde_json::to_string(&reply)?)
    }

    /// Of the answer that was given in this same turn: after so many milliseconds [`Self::write_down`] is to be called, and
    /// then it may be given. 0: at once.
    #[wasm_bindgen(getter, js_name = waitMs)]
    #[must_use]
    pub fn wait_ms(&self) -> u32 {
        self.wait_ms.get()
    }

    /// Whether its store has failed. Whoever waits for something to be written down has to be told that it was not.
    #[wasm_bindgen(getter, js_name = isBroken)]
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// Writes down what is not written yet.
    #[wasm_bindgen(js_name = writeDown)]
    pub fn write_down(&self) -> Result<(), JsError> {
        self.at_desk(|desk, _| desk.write_down())
    }

    /// The alarm rings.
    pub fn alarm(&self) -> Result<(), JsError> {
        self.alarm_ms.set(None);
        let next_expiry_ms = self.at_desk(Desk::alarm)?;
        self.wake_at(next_expiry_ms)
    }
}

impl LedgerObject {
    /// Does something at the desk, which is opened if need be.
    fn at_desk<R>(&self, act: impl FnOnce(&mut Desk<SqlStore>, u64) -> Result<R, String>) -> Result<R, JsError> {
        let mut place = self.desk.borrow_mut();
        let attempt = || {
            let mut desk = match place.take() {
                Some(desk) => desk,
                None => Desk::open(SqlStore::open(self.storage.clone())?)?,
            };
            let result = act(&mut desk, now_ms())?;
            *place = Some(desk);
            Ok(result)
        };
        attempt().map_err(|why: String| self.broken(&why))
    }

    fn broken(&self, why: &str) -> JsError {
        self.is_broken.set(true);
        JsError::new(why)
    }

    /// Has the alarm ring when the next promise runs out. One that rings earlier is left as it is: it will set the next
    /// one, and so an alarm is written once a lease's time and not once a request.
    fn wake_at(&self, at_ms: Option<u64>) -> Result<(), JsError> {
        let Some(at_ms) = at_ms else { return Ok(()) };
        if self.alarm_ms.get().is_some_and(|alarm_ms| alarm_ms <= at_ms) {
            return Ok(());
        }
        self.storage.wake_at(number(at_ms)).map_err(|thrown| self.broken(&text_of(&thrown)))?;
        self.alarm_ms.set(Some(at_ms));
        Ok(())
    }
}
