//! The operator's side of the world: KV that can be written as often as KV allows, sleep that moves the clock, and
//! other writers that come in between.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use completions_edge::admin::{AdminPlatform, KvNames, handle};
use completions_edge::gateway::{Entropy, Head};
use futures_util::FutureExt as _;

use super::{Received, World};

pub const ADMIN_TOKEN: &str = "the-operators-own-token";

/// Where another writer can come in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    LedgerWrite,
    KvWrite,
    Sleep,
}

type Interruption = Box<dyn FnOnce(&World)>;

/// What a world keeps for operators.
#[derive(Default)]
pub struct Operator {
    /// The secret, where there is one.
    pub token: RefCell<Option<String>>,
    /// When which KV key was written, and what; `None` if it was deleted.
    pub kv_writes: RefCell<Vec<(u64, String, Option<String>)>>,
    /// So many writes to KV fail from now on.
    pub kv_write_failures: Cell<u32>,
    pub sleeps: RefCell<Vec<u64>>,
    randoms: Cell<u8>,
    interruptions: RefCell<VecDeque<(Moment, Interruption)>>,
}

impl World {
    /// A world with an operator.
    pub fn with_operator() -> Self {
        let world = Self::default();
        *world.operator.token.borrow_mut() = Some(ADMIN_TOKEN.to_owned());
        world
    }

    /// Lets somebody act when the next such moment comes, just before it.
    pub fn interrupt(&self, moment: Moment, act: impl FnOnce(&World) + 'static) {
        self.operator.interruptions.borrow_mut().push_back((moment, Box::new(act)));
    }

    pub fn reached(&self, moment: Moment) {
        let mut interruptions = self.operator.interruptions.borrow_mut();
        if interruptions.front().is_some_and(|(awaited, _)| *awaited == moment) {
            let (_, act) = interruptions.pop_front().unwrap();
            drop(interruptions);
            act(self);
        }
    }

    /// One request of the operator, as `head` says.
    pub fn admin_head(&self, head: &Head, body: &str) -> Received {
        *self.body.borrow_mut() = body.as_bytes().to_vec();
        let reply = handle(self, head, Entropy([7; 32])).now_or_never().expect("nothing here waits");
        self.receive(reply)
    }

    /// One request of the operator; the path may have a query.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> Received {
        self.admin_head(&admin_head(method, path), body)
    }

    /// The same, if the record still has this entity tag.
    pub fn admin_if_match(&self, etag: &str, method: &str, path: &str, body: &str) -> Received {
        self.admin_head(&Head { if_match: Some(etag.to_owned()), ..admin_head(method, path) }, body)
    }

    fn kv_write(&self, key: &str, value: Option<&str>) -> Result<(), String> {
        self.reached(Moment::KvWrite);
        let now_ms = self.now_ms.get();
        let mut writes = self.operator.kv_writes.borrow_mut();
        if writes.iter().any(|(at_ms, written, _)| written == key && at_ms + 1000 > now_ms) {
            return Err("429: one write a second".to_owned());
        }
        if self.operator.kv_write_failures.get() > 0 {
            self.operator.kv_write_failures.set(self.operator.kv_write_failures.get() - 1);
            return Err("KV is down".to_owned());
        }
        writes.push((now_ms, key.to_owned(), value.map(str::to_owned)));
        match value {
            Some(value) => self.put(key, value),
            None => drop(self.kv.borrow_mut().remove(key)),
        }
        Ok(())
    }
}

/// The head of an operator's request below `/admin/v1`; the path may have a query.
pub fn admin_head(method: &str, path: &str) -> Head {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Head {
        method: method.to_owned(),
        path: format!("/admin/v1/{path}"),
        query: query.to_owned(),
        authorization: Some(format!("Bearer {ADMIN_TOKEN}")),
        content_type: Some("application/json".to_owned()),
        ..Head::default()
    }
}

impl AdminPlatform for World {
    async fn kv_put(&self, key: &str, value: &str) -> Result<(), String> {
        self.kv_write(key, Some(value))
    }

    async fn kv_delete(&self, key: &str) -> Result<(), String> {
        self.kv_write(key, None)
    }

    async fn kv_list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<KvNames, String> {
        if self.kv_fails.get() {
            return Err("KV is down".to_owned());
        }
        let mut names: Vec<String> = self.kv.borrow().keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        names.sort();
        names.retain(|name| cursor.is_none_or(|cursor| name.as_str() > cursor));
        let more = names.len() > limit as usize;
        names.truncate(limit as usize);
        let cursor = names.last().filter(|_| more).cloned();
        Ok(KvNames { names, cursor })
    }

    async fn sleep(&self, ms: u64) {
        self.reached(Moment::Sleep);
        self.operator.sleeps.borrow_mut().push(ms);
        self.now_ms.set(self.now_ms.get() + ms);
    }

    fn random(&self) -> [u8; 32] {
        self.operator.randoms.set(self.operator.randoms.get() + 1);
        [self.operator.randoms.get(); 32]
    }
}
