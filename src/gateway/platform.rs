//! What the gateway needs of the world: KV, secrets, a clock, and a way to call upstreams.

use crate::dialect::UpstreamRequest;
use crate::quota;

use super::{RequestRecord, Settlement, SharedSlices};

/// The runtime, as one request sees it. Everything runs on one thread; no future is shared between requests.
#[expect(async_fn_in_trait, reason = "the gateway is generic over its one platform, and Workers have no second thread")]
pub trait Platform {
    /// The body of an upstream's answer.
    type Body: UpstreamBody;

    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// The value under a KV key. It may be as old as `cache_seconds` (at least 30). The error is for the log.
    async fn kv(&self, key: &str, cache_seconds: u32) -> Result<Option<Vec<u8>>, String>;

    /// The Worker secret of that name.
    fn secret(&self, name: &str) -> Option<String>;

    /// The client's body, if it is at most `limit` bytes long.
    async fn request_body(&self, limit: usize) -> Result<Vec<u8>, ReadError>;

    /// Calls an upstream and waits for its headers, at most `timeout_ms`. Redirects are not followed. Where an answer is
    /// wanted whole, `whole_limit` is the most bytes that it may have: it may then be waited for as well, in the same
    /// time, and what has come of it is what [`UpstreamBody::read_all`] gives.
    async fn call(
        &self,
        request: UpstreamRequest,
        timeout_ms: u32,
        whole_limit: Option<usize>,
    ) -> Result<UpstreamResponse<Self::Body>, CallError>;

    /// Breaks off every call of this request that is still going on, whether its headers have come or not.
    fn cancel_calls(&self);

    /// Asks the ledger of a tenant, and waits at most `timeout_ms`. The error is for the log: the ledger failed, or was
    /// too slow, and what was asked of it may have happened or not.
    async fn ledger(&self, tenant: &str, call: &quota::Call, timeout_ms: u32) -> Result<quota::Reply, String>;

    /// From now on until it is settled, the promise is renewed, however long the request takes.
    fn keep_renewed(&self, settlement: &Settlement);

    /// Tells a tenant's ledger how a request ended, without letting anybody wait for it.
    fn settle_later(&self, tenant: &str, settle: quota::Settle);

    /// Looks after a tenant's slices as long as [`quota::Slices::tend`] says, without letting anybody wait for it.
    fn tend(&self, slices: SharedSlices, tending: quota::Tending);

    /// Takes note of a key that opens nothing; false if the client's address has shown too many of them.
    async fn may_fail_again(&self) -> bool;

    /// Waits; false if the client went away meanwhile.
    async fn pause(&self, ms: u32) -> bool;

    /// Tells the log, and whoever counts besides, of a request that has ended.
    fn record(&self, record: &RequestRecord);

    /// Writes a line into the operator's log.
    fn warn(&self, message: &str);
}

/// The body of an upstream's answer, read on demand.
#[expect(async_fn_in_trait, reason = "see Platform")]
pub trait UpstreamBody {
    /// The next bytes as they have come; `None` at the end. It waits at most `wait_ms`. A read that is dropped before it
    /// is ready, or that waited in vain, loses nothing: the next one has what it would have had.
    async fn read(&mut self, wait_ms: u32) -> Result<Option<Vec<u8>>, ReadError>;

    /// Everything up to the end, if it is at most `limit` bytes and comes within `wait_ms`.
    async fn read_all(&mut self, limit: usize, wait_ms: u32) -> Result<Vec<u8>, ReadError>;

    /// Lets go of a body that has said all: what may still come is read and dropped, so that the connection serves
    /// again.
    fn release(&mut self);

    /// Breaks the upstream off.
    fn cancel(&mut self);
}

/// The head of an upstream's answer.
#[derive(Debug)]
pub struct UpstreamResponse<B> {
    /// The HTTP status.
    pub status: u16,
    /// The content type; empty if there is none.
    pub content_type: String,
    /// When to try again, if the upstream says so.
    pub retry_after_ms: Option<u64>,
    /// The rest.
    pub body: B,
}

/// Why an upstream gave no headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// No connection, or none that lasted. The text is for the log.
    Unreachable(String),
    /// A binding threw this.
    Threw(String),
    /// The time was up.
    Timeout,
    /// The client went away; there is nobody to answer.
    ClientGone,
}

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// It is over the limit.
    TooLong,
    /// It broke off. The text is for the log.
    Broken(String),
    /// Nothing has come in the time that there was.
    NotYet,
    /// The client went away; there is nobody to answer.
    ClientGone,
}
