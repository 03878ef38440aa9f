//! A world for the gateway to live in: KV in a map, a clock that stands still, upstreams that answer from a script.
//! The gateway, the transcoder and everything else in it are the real ones.

#![allow(dead_code, reason = "each test crate uses its own part of this one")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    missing_docs,
    reason = "this is a helper of tests, where a panic is a failure that says where"
)]

pub mod admin;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};

use completions_edge::dialect::UpstreamRequest;
use completions_edge::gateway::{
    CallError, Entropy, Gateway, Head, Platform, ReadError, Reply, ReplyBody, RequestRecord, Settled, Settlement,
    SharedSlices, UpstreamBody, UpstreamResponse,
};
use completions_edge::quota::{
    Call, Desk, JOURNAL_SLOTS, Ledger, Record, Reply as LedgerReply, Settle, Store, StoredRecord, Tend, Tending,
    UsageCounts, UsageKey, UsageRow, Written,
};
use completions_edge::transcode::{End, Outcome, Progress};
use futures_util::FutureExt as _;

pub const KEY: &str = "sk-demo0001-abcdefghijklmnopqrstuvwxyzABCDEF";
/// 2023-11-14T22:13:20Z.
pub const NOW_MS: u64 = 1_700_000_000_000;

pub const CONFIG: &str = r#"{
    "version": 1,
    "upstreams": {
        "one": {"dialect": "openai-completions", "base_url": "https://one.example/v1", "key": "ONE_KEY"},
        "two": {"dialect": "openai-chat", "base_url": "https://two.example/v1", "stream_usage": false,
                "max_tokens_field": "max_completion_tokens"}
    },
    "models": {
        "m": {"targets": [{"upstream": "one", "model": "upstream-m"}], "owned_by": "acme", "created": 7},
        "chat": {"targets": [{"upstream": "two", "model": "upstream-chat"}], "system": "Complete the text.",
                 "default_max_tokens": 64},
        "both": {"targets": [{"upstream": "two", "model": "upstream-b"}, {"upstream": "one", "model": "upstream-b"}],
                 "chunk_format": "openai"},
        "org/slashed": {"targets": [{"upstream": "one", "model": "org/slashed"}]}
    },
    "limits": {"max_body_bytes": 65536, "max_event_bytes": 4096, "max_answer_bytes": 65536},
    "retry": {"same_target_attempts": 1}
}"#;

/// What an upstream answers, as pieces that come one read after the other.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub retry_after_ms: Option<u64>,
    pub pieces: VecDeque<Result<Vec<u8>, ReadError>>,
}

impl Answer {
    pub fn new(status: u16, content_type: &'static str, body: &[u8]) -> Self {
        let pieces = if body.is_empty() { VecDeque::new() } else { VecDeque::from([Ok(body.to_vec())]) };
        Self { status, content_type, retry_after_ms: None, pieces }
    }

    pub fn json(body: &str) -> Self {
        Self::new(200, "application/json", body.as_bytes())
    }

    pub fn sse(body: &str) -> Self {
        Self::new(200, "text/event-stream", body.as_bytes())
    }

    pub fn then(mut self, piece: Result<&str, ReadError>) -> Self {
        self.pieces.push_back(piece.map(|text| text.as_bytes().to_vec()));
        self
    }
}

/// How a body was let go of, for all bodies of a world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetGo {
    pub released: u32,
    pub cancelled: u32,
    /// Requests whose calls were broken off all at once.
    pub all_cancelled: u32,
}

pub struct World {
    pub kv: RefCell<HashMap<String, Vec<u8>>>,
    pub kv_reads: RefCell<Vec<String>>,
    pub kv_fails: Cell<bool>,
    pub now_ms: std::rc::Rc<Cell<u64>>,
    pub body: RefCell<Vec<u8>>,
    pub body_reads: Cell<u32>,
    pub answers: RefCell<VecDeque<Result<Answer, CallError>>>,
    pub calls: RefCell<Vec<UpstreamRequest>>,
    pub log: RefCell<Vec<String>>,
    /// Pauses before a target was asked again, in milliseconds.
    pub pauses: RefCell<Vec<u32>>,
    /// A line for each request that has ended.
    pub records: RefCell<Vec<serde_json::Value>>,
    pub let_go: std::rc::Rc<RefCell<LetGo>>,
    /// By tenant.
    pub ledgers: RefCell<HashMap<String, Desk<MemoryStore>>>,
    pub ledger_fails: Cell<bool>,
    /// It fails after so many more calls.
    pub ledger_lasts: Cell<u32>,
    /// How long the reply to a call takes.
    pub ledger_ms: Cell<u64>,
    /// Calls, answered or not.
    pub ledger_asked: Cell<u32>,
    /// Keys that opened nothing, and how many may before they are slowed down.
    pub failures: Cell<u32>,
    pub failures_allowed: Cell<u32>,
    /// Leases that are kept renewed.
    pub renewed: RefCell<Vec<String>>,
    /// Who tends slices, when `tend_all` lets them.
    pub tending: RefCell<Vec<(SharedSlices, Tending)>>,
    /// How many requests there were.
    pub requests: Cell<u8>,
    /// Every call, as the ledgers got it.
    pub ledger_calls: RefCell<Vec<(String, Call)>>,
    pub operator: admin::Operator,
}

/// A ledger's store in maps.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    pub snapshot: Option<(u64, String)>,
    pub journal: BTreeMap<u64, String>,
    pub usage: BTreeMap<UsageKey, UsageCounts>,
    pub records: BTreeMap<String, StoredRecord>,
    /// Rows written, for what a request costs.
    pub rows_written: u64,
}

impl Store for MemoryStore {
    fn snapshot(&self) -> Result<Option<(u64, Ledger)>, String> {
        Ok(self.snapshot.as_ref().map(|(seq, json)| (*seq, serde_json::from_str(json).unwrap())))
    }

    fn journal_after(&self, seq: u64) -> Result<Vec<Written>, String> {
        let mut entries: Vec<Written> = self
            .journal
            .values()
            .map(|json| {
                let (seq, now_ms, entry) = serde_json::from_str(json).unwrap();
                Written { seq, now_ms, entry }
            })
            .filter(|written| written.seq > seq)
            .collect();
        entries.sort_by_key(|written| written.seq);
        Ok(entries)
    }

    fn append(&mut self, written: &Written) -> Result<(), String> {
        let json = serde_json::to_string(&(written.seq, written.now_ms, &written.entry)).unwrap();
        self.journal.insert(written.seq % JOURNAL_SLOTS, json);
        self.rows_written += 1;
        Ok(())
    }

    fn checkpoint(&mut self, seq: u64, ledger: &Ledger, usage: &[UsageRow]) -> Result<(), String> {
        self.snapshot = Some((seq, serde_json::to_string(ledger).unwrap()));
        self.rows_written += 1;
        for UsageRow { by, counts } in usage {
            let sum = self.usage.entry(by.clone()).or_default();
            sum.requests += counts.requests;
            sum.prompt_tokens += counts.prompt_tokens;
            sum.completion_tokens += counts.completion_tokens;
            sum.estimated += counts.estimated;
            sum.refused += counts.refused;
            sum.errors += counts.errors;
            self.rows_written += 1;
        }
        Ok(())
    }

    fn usage(&self, from: &str, to: &str) -> Result<Vec<UsageRow>, String> {
        let rows = self.usage.iter().filter(|(by, _)| (from..=to).contains(&by.day.as_str()));
        Ok(rows.map(|(by, counts)| UsageRow { by: by.clone(), counts: counts.clone() }).collect())
    }

    fn record(&self, name: &str) -> Result<Option<StoredRecord>, String> {
        Ok(self.records.get(name).cloned())
    }

    fn records(&self, prefix: &str, after: &str, limit: u32) -> Result<Vec<Record>, String> {
        let records = self.records.iter().filter_map(|(name, stored)| {
            let value = stored.value.clone()?;
            Some(Record { name: name.clone(), value, version: stored.version })
        });
        let wanted = records.filter(|record| record.name.starts_with(prefix) && record.name.as_str() > after);
        Ok(wanted.take(limit as usize).collect())
    }

    fn write_record(&mut self, name: &str, record: &StoredRecord) -> Result<(), String> {
        self.records.insert(name.to_owned(), record.clone());
        self.rows_written += 1;
        Ok(())
    }
}

impl Default for World {
    fn default() -> Self {
        let world = Self {
            kv: RefCell::default(),
            kv_reads: RefCell::default(),
            kv_fails: Cell::default(),
            now_ms: std::rc::Rc::new(Cell::new(NOW_MS)),
            body: RefCell::default(),
            body_reads: Cell::default(),
            answers: RefCell::default(),
            calls: RefCell::default(),
            log: RefCell::default(),
            records: RefCell::default(),
            pauses: RefCell::default(),
            let_go: std::rc::Rc::default(),
            ledgers: RefCell::default(),
            ledger_fails: Cell::default(),
            ledger_lasts: Cell::new(u32::MAX),
            ledger_ms: Cell::default(),
            ledger_asked: Cell::default(),
            ledger_calls: RefCell::default(),
            renewed: RefCell::default(),
            tending: RefCell::default(),
            requests: Cell::default(),
            operator: admin::Operator::default(),
            failures: Cell::default(),
            failures_allowed: Cell::new(u32::MAX),
        };
        world.put("config", CONFIG);
        world.put(&key_name(KEY), r#"{"version":1,"tenant":"acme","id":"demo0001","status":"active"}"#);
        world.put("tenant:acme", r#"{"version":1,"name":"Acme","status":"active"}"#);
        world
    }
}

/// The KV key of a key's record.
pub fn key_name(key: &str) -> String {
    format!("key:{}", completions_edge::tenant::ApiKey::parse(key).unwrap().hash().as_str())
}

impl World {
    pub fn put(&self, key: &str, value: &str) {
        self.kv.borrow_mut().insert(key.to_owned(), value.as_bytes().to_vec());
    }

    pub fn answers_with(self, answer: Answer) -> Self {
        self.answers.borrow_mut().push_back(Ok(answer));
        self
    }

    pub fn fails_with(self, error: CallError) -> Self {
        self.answers.borrow_mut().push_back(Err(error));
        self
    }

    /// One request through a gateway that has no memory yet.
    pub fn ask(&self, head: &Head, body: &str) -> Received {
        self.ask_again(&Gateway::default(), head, body)
    }

    pub fn ask_again(&self, gateway: &Gateway, head: &Head, body: &str) -> Received {
        *self.body.borrow_mut() = body.as_bytes().to_vec();
        let mut entropy: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        // Each has its own name.
        entropy[31] ^= self.requests.replace(self.requests.get().wrapping_add(1));
        let reply = gateway.handle(self, head, Entropy(entropy)).now_or_never().expect("nothing here waits");
        self.receive(reply)
    }

    /// Lets everybody tend slices who began to, until nothing is left to be done, and time pass meanwhile.
    pub fn tend_all(&self) {
        for (slices, tending) in self.tending.take() {
            loop {
                let next = slices.borrow_mut().tend(&tending, self.now_ms.get());
                let reports = match next {
                    Tend::Wait(ms) => {
                        self.now_ms.set(self.now_ms.get() + ms);
                        continue;
                    }
                    Tend::Report(reports) => reports,
                    Tend::Done => break,
                };
                let call = Call::Report(reports.clone());
                match self.ledger(&tending.tenant, &call, 0).now_or_never().expect("nothing here waits") {
                    Ok(_) => slices.borrow_mut().told(&tending.tenant, &reports, self.now_ms.get()),
                    Err(_) => slices.borrow_mut().not_told(&tending.tenant, &reports, self.now_ms.get()),
                }
            }
        }
    }

    /// A completion request with the key of the world.
    pub fn complete(&self, body: &str) -> Received {
        self.ask(&post(), body)
    }

    pub fn last_call(&self) -> UpstreamRequest {
        self.calls.borrow().last().expect("an upstream was called").clone()
    }
}

/// The head of a completion request.
pub fn post() -> Head {
    Head {
        method: "POST".to_owned(),
        path: "/v1/completions".to_owned(),
        authorization: Some(format!("Bearer {KEY}")),
        content_type: Some("application/json".to_owned()),
        ..Head::default()
    }
}

pub fn get(path: &str) -> Head {
    Head { method: "GET".to_owned(), path: path.to_owned(), content_type: None, ..post() }
}

/// An answer as the client has it at the end.
#[derive(Debug)]
pub struct Received {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// Of a stream that was pumped.
    pub outcome: Option<Outcome>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// `(status, type, param, code)`.
    pub fn error(&self) -> (u16, String, Option<String>, Option<String>) {
        let error = &self.json()["error"];
        assert_eq!(error.as_object().map(serde_json::Map::len), Some(4), "{}", self.body);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", self.body);
        let field = |name: &str| error[name].as_str().map(str::to_owned);
        (self.status, field("type").unwrap(), field("param"), field("code"))
    }
}

impl World {
    /// Drives a reply to its end, as the pump does, and settles it.
    fn receive(&self, reply: Reply<Body>) -> Received {
        let Reply { status, headers, body } = reply;
        let (body, outcome) = match body {
            ReplyBody::Empty => (Vec::new(), None),
            ReplyBody::Bytes(bytes) | ReplyBody::Chunks(bytes) => (bytes, None),
            ReplyBody::Stream(mut stream) => {
                let mut out = stream.first;
                let mut source = 0;
                while !stream.transcoder.is_over() {
                    // One piece of each upstream in turn.
                    let upstream = stream.upstreams.get_mut(source).and_then(Option::as_mut);
                    match upstream.map(|upstream| upstream.read(u32::MAX).now_or_never().unwrap()) {
                        None => {}
                        Some(Ok(Some(bytes))) => stream.transcoder.feed(source, &bytes, &mut out),
                        Some(Ok(None)) => stream.transcoder.finish(source, End::Closed, &mut out),
                        Some(Err(_)) => stream.transcoder.finish(source, End::Broken, &mut out),
                    }
                    match stream.transcoder.progress(source) {
                        Progress::Open => {}
                        Progress::Done => stream.upstreams[source].take().iter_mut().for_each(UpstreamBody::release),
                        Progress::Cut => stream.upstreams[source].take().iter_mut().for_each(UpstreamBody::cancel),
                    }
                    source = (source + 1) % stream.upstreams.len();
                }
                stream.upstreams.iter_mut().flatten().for_each(UpstreamBody::cancel);
                let outcome = stream.transcoder.outcome();
                let closed = stream.closing.close(&outcome, false, self.now_ms.get());
                match closed.settled {
                    Some(Settled::Tell(tenant, settle)) => self.settle_later(&tenant, settle),
                    Some(Settled::Tend(slices, tending)) => self.tend(slices, tending),
                    Some(Settled::Kept) | None => {}
                }
                closed.change.iter().for_each(|change| self.warn(change));
                self.record(&closed.record);
                (out, Some(outcome))
            }
        };
        let headers = headers.into_iter().map(|(name, value)| (name, value.into_owned())).collect();
        Received { status, headers, body: String::from_utf8(body).unwrap(), outcome }
    }
}

pub struct Body {
    pieces: VecDeque<Result<Vec<u8>, ReadError>>,
    let_go: std::rc::Rc<RefCell<LetGo>>,
    now_ms: std::rc::Rc<Cell<u64>>,
}

impl Body {
    /// The next piece of the script. One that does not come in time lets that time pass.
    fn next(&mut self, wait_ms: u32) -> Option<Result<Vec<u8>, ReadError>> {
        let piece = self.pieces.pop_front();
        if let Some(Err(ReadError::NotYet)) = piece {
            self.now_ms.set(self.now_ms.get() + u64::from(wait_ms));
        }
        piece
    }
}

impl UpstreamBody for Body {
    async fn read(&mut self, wait_ms: u32) -> Result<Option<Vec<u8>>, ReadError> {
        self.next(wait_ms).transpose()
    }

    async fn read_all(&mut self, limit: usize, wait_ms: u32) -> Result<Vec<u8>, ReadError> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next(wait_ms) {
            whole.extend(piece?);
        }
        if whole.len() > limit { Err(ReadError::TooLong) } else { Ok(whole) }
    }

    fn release(&mut self) {
        self.let_go.borrow_mut().released += 1;
    }

    fn cancel(&mut self) {
        self.let_go.borrow_mut().cancelled += 1;
    }
}

impl Platform for World {
    type Body = Body;

    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    async fn kv(&self, key: &str, cache_seconds: u32) -> Result<Option<Vec<u8>>, String> {
        assert!(cache_seconds >= 30, "KV refuses less");
        self.kv_reads.borrow_mut().push(key.to_owned());
        if self.kv_fails.get() { Err("KV is down".to_owned()) } else { Ok(self.kv.borrow().get(key).cloned()) }
    }

    fn secret(&self, name: &str) -> Option<String> {
        match name {
            "ONE_KEY" => Some("secret-of-one".to_owned()),
            "SPACED_KEY" => Some(" spaced\n".to_owned()),
            "BROKEN_KEY" => Some("two\nlines".to_owned()),
            "FIXTURE_KEY" => Some("secret-of-fixture".to_owned()),
            // AWS's own example keys.
            "AWS_KEYS" => Some("AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            "ADMIN_TOKEN" => self.operator.token.borrow().clone(),
            _ => None,
        }
    }

    async fn request_body(&self, limit: usize) -> Result<Vec<u8>, ReadError> {
        self.body_reads.set(self.body_reads.get() + 1);
        let body = self.body.borrow().clone();
        if body.len() > limit { Err(ReadError::TooLong) } else { Ok(body) }
    }

    async fn call(
        &self,
        request: UpstreamRequest,
        _: u32,
        _: Option<usize>,
    ) -> Result<UpstreamResponse<Body>, CallError> {
        self.calls.borrow_mut().push(request);
        let Answer { status, content_type, retry_after_ms, pieces } =
            self.answers.borrow_mut().pop_front().expect("the script has an answer for every call")?;
        let (let_go, now_ms) = (std::rc::Rc::clone(&self.let_go), std::rc::Rc::clone(&self.now_ms));
        let body = Body { pieces, let_go, now_ms };
        Ok(UpstreamResponse { status, content_type: content_type.to_owned(), retry_after_ms, body })
    }

    fn cancel_calls(&self) {
        self.let_go.borrow_mut().all_cancelled += 1;
    }

    async fn ledger(&self, tenant: &str, call: &Call, _: u32) -> Result<LedgerReply, String> {
        self.ledger_asked.set(self.ledger_asked.get() + 1);
        if self.ledger_fails.get() || self.ledger_lasts.get() == 0 {
            return Err("the ledger is down".to_owned());
        }
        self.ledger_lasts.set(self.ledger_lasts.get() - 1);
        if matches!(call, Call::WriteRecord { .. }) {
            self.reached(admin::Moment::LedgerWrite);
        }
        self.ledger_calls.borrow_mut().push((tenant.to_owned(), call.clone()));
        let mut ledgers = self.ledgers.borrow_mut();
        let desk = ledgers.entry(tenant.to_owned()).or_insert_with(|| Desk::open(MemoryStore::default()).unwrap());
        let answer = desk.answer(call.clone(), self.now_ms.get());
        self.now_ms.set(self.now_ms.get() + self.ledger_ms.get());
        answer.map(|answer| answer.reply)
    }

    fn keep_renewed(&self, settlement: &Settlement) {
        self.renewed.borrow_mut().push(settlement.lease.clone());
    }

    fn settle_later(&self, tenant: &str, settle: Settle) {
        let _ = self.ledger(tenant, &Call::Settle(settle), 0).now_or_never().expect("nothing here waits");
    }

    fn tend(&self, slices: SharedSlices, tending: Tending) {
        self.tending.borrow_mut().push((slices, tending));
    }

    async fn may_fail_again(&self) -> bool {
        self.failures.set(self.failures.get() + 1);
        self.failures.get() <= self.failures_allowed.get()
    }

    async fn pause(&self, ms: u32) -> bool {
        self.pauses.borrow_mut().push(ms);
        self.now_ms.set(self.now_ms.get() + u64::from(ms));
        true
    }

    fn record(&self, record: &RequestRecord) {
        if record.is_logged {
            self.records.borrow_mut().push(serde_json::from_slice(&record.line()).unwrap());
        }
    }

    fn warn(&self, message: &str) {
        self.log.borrow_mut().push(message.to_owned());
    }
}
