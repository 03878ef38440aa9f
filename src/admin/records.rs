//! One record: read, changed, published.
//!
//! A record's truth is a text in a ledger object, with a version that counts its changes. KV has a copy, and may be
//! behind. Writers meet in the ledger object: each says which version it has read, and one that has lost reads again.
//! Only then is KV written, in the time that the object gives out, and looked after: should the truth have changed
//! meanwhile, the newer text is published as well, so that the last one to write KV has written the newest.
//!
//! All this is done with texts, and compiled once: only [`find`] and [`change`] know the types of records.

use crate::api::{ApiError, Case};
use crate::quota::{Call, Expect, Record, Reply};

use super::AdminPlatform;
use super::request::Preconditions;

/// How long a ledger object may take.
const LEDGER_TIMEOUT_MS: u32 = 5000;
/// How often a write, or a publication, is tried again because others were faster.
const ATTEMPTS: u32 = 10;
/// KV takes one write a second for each key. Where it says no, somebody else has written.
const KV_WRITE_MS: u64 = 1000;
/// The age that a value of KV may have here; KV's least.
const KV_CACHE_SECONDS: u32 = 30;
/// The text of a record that was deleted. It keeps its place, so that a copy which KV still has is not taken for a
/// record that only KV knows.
const DELETED: &str = "null";

/// The name and the text of a record's copy in KV.
pub(super) type KvCopy = (String, String);

/// What makes a new record of the old one, `None` standing for no record before and after.
type Change<'a, D> = dyn Fn(Option<D>) -> Result<Option<D>, ApiError> + 'a;

/// A kind of record.
pub(super) trait Document: Sized {
    /// Reads the text; the error says what is wrong with it.
    fn parse(text: &str) -> Result<Self, String>;

    /// Writes it.
    fn text(&self) -> String;

    /// Reads KV's copy.
    fn from_copy(_kv_name: &str, copy: &str) -> Result<Self, String> {
        Self::parse(copy)
    }

    /// The name and the text of KV's copy.
    fn copy(&self, place: &Place) -> KvCopy {
        (place.name.clone(), self.text())
    }
}

/// What is to be known of a kind of record without its type.
#[derive(Clone, Copy)]
struct Kind {
    /// The record's text, of KV's name and copy.
    adopted: fn(&str, &str) -> Result<String, String>,
    /// KV's name and copy, of the record's text.
    copy: fn(&str, &Place) -> Result<KvCopy, String>,
}

impl Kind {
    fn of<D: Document>() -> Self {
        Self {
            adopted: |kv_name, copy| D::from_copy(kv_name, copy).map(|document| document.text()),
            copy: |text, place| D::parse(text).map(|document| document.copy(place)),
        }
    }
}

/// Where a record is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The ledger object that has the truth.
    pub ledger: String,
    /// Its name there.
    pub name: String,
    /// The name of KV's copy, where it is known without the record.
    pub kv_name: Option<String>,
}

/// A record as it was found.
#[derive(Debug)]
pub(super) struct Found<D> {
    /// `None` if there is none.
    pub document: Option<D>,
    /// `None` if there never was one; one that was deleted has a version too.
    version: Option<u64>,
}

impl<D> Found<D> {
    /// The version as an entity tag, if the record exists.
    pub(super) fn etag(&self) -> Option<String> {
        self.document.as_ref().and(self.version).map(|version| format!("\"{version}\""))
    }
}

impl Found<String> {
    fn of(record: Option<Record>) -> Self {
        let Some(Record { value, version, .. }) = record else { return Self { document: None, version: None } };
        Self { document: Some(value).filter(|text| text != DELETED), version: Some(version) }
    }

    fn parsed<P: AdminPlatform, D: Document>(self, platform: &P, place: &Place) -> Result<Found<D>, ApiError> {
        let document = self.document.map(|text| parsed(platform, place, &text)).transpose()?;
        Ok(Found { document, version: self.version })
    }
}

fn parsed<P: AdminPlatform, D: Document>(platform: &P, place: &Place, text: &str) -> Result<D, ApiError> {
    D::parse(text).map_err(|why| broken(platform, place, &why))
}

fn broken<P: AdminPlatform>(platform: &P, place: &Place, why: &str) -> ApiError {
    platform.warn(&format!("the record `{}` cannot be used: {why}", place.name));
    ApiError::internal()
}

/// A record as it is now. One that only KV knows, since somebody wrote it there, is taken over.
pub(super) async fn find<P: AdminPlatform, D: Document>(platform: &P, place: &Place) -> Result<Found<D>, ApiError> {
    find_text(platform, place, Kind::of::<D>()).await?.parsed(platform, place)
}

async fn find_text<P: AdminPlatform>(platform: &P, place: &Place, kind: Kind) -> Result<Found<String>, ApiError> {
    match read(platform, place).await? {
        (None, _) => adopt(platform, place, kind).await,
        (record, _) => Ok(Found::of(record)),
    }
}

async fn adopt<P: AdminPlatform>(platform: &P, place: &Place, kind: Kind) -> Result<Found<String>, ApiError> {
    let Some(kv_name) = &place.kv_name else { return Ok(Found::of(None)) };
    let Some(copy) = kv_copy(platform, kv_name).await? else { return Ok(Found::of(None)) };
    let text = match (kind.adopted)(kv_name, &copy) {
        Ok(text) => text,
        Err(why) => {
            // It counts as none, so that it can be written anew.
            platform.warn(&format!("KV record `{kv_name}` cannot be used: {why}"));
            return Ok(Found::of(None));
        }
    };
    // Whoever else takes it over reads the same copy, or has changed it since: either way theirs is the record.
    Ok(match write(platform, place, text.clone(), Expect::Absent).await? {
        Written::Done { version, .. } => Found { document: Some(text), version: Some(version) },
        Written::Conflict(record) => Found::of(record),
    })
}

/// KV's copy, if there is one. A name is listed before it is read: KV would remember that a name does not exist, and
/// hide for a minute a record that is about to be made.
pub(super) async fn kv_copy<P: AdminPlatform>(platform: &P, kv_name: &str) -> Result<Option<String>, ApiError> {
    let page = platform.kv_list(kv_name, None, 1).await.map_err(|why| unavailable(platform, "KV", &why))?;
    if page.names.first().is_none_or(|name| name != kv_name) {
        return Ok(None);
    }
    let copy = platform.kv(kv_name, KV_CACHE_SECONDS).await.map_err(|why| unavailable(platform, "KV", &why))?;
    Ok(copy.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// What became of a change.
#[derive(Debug)]
pub(super) struct Changed<D> {
    /// The record as it was written.
    pub now: Found<D>,
    /// Whether there was none before.
    pub created: bool,
}

/// Lets `change` make a new record of the old one, and publishes it. It is called again with a newer record where another writer was faster.
pub(super) async fn change<P: AdminPlatform, D: Document>(
    platform: &P,
    place: &Place,
    preconditions: Preconditions<'_>,
    change: &Change<'_, D>,
) -> Result<Changed<D>, ApiError> {
    let change = |old: Option<String>| {
        let old = old.map(|text| parsed(platform, place, &text)).transpose()?;
        Ok(change(old)?.map(|document| document.text()))
    };
    let Changed { now, created } = change_text(platform, place, Kind::of::<D>(), preconditions, &change).await?;
    Ok(Changed { now: now.parsed(platform, place)?, created })
}

async fn change_text<P: AdminPlatform>(
    platform: &P,
    place: &Place,
    kind: Kind,
    preconditions: Preconditions<'_>,
    change: &Change<'_, String>,
) -> Result<Changed<String>, ApiError> {
    for _ in 0..ATTEMPTS {
        let found = find_text(platform, place, kind).await?;
        preconditions.check(found.etag().as_deref())?;
        let created = found.document.is_none();
        let document = change(found.document)?;
        if created && document.is_none() {
            // Nothing to delete; but the deletion may not have reached KV.
            let now = Found { document, version: found.version };
            publish(platform, place, kind, &now, 0).await?;
            return Ok(Changed { now, created: false });
        }
        let text = document.clone().unwrap_or_else(|| DELETED.to_owned());
        let expect = found.version.map_or(Expect::Absent, Expect::Version);
        if let Written::Done { version, wait_ms } = write(platform, place, text, expect).await? {
            let now = Found { document, version: Some(version) };
            publish(platform, place, kind, &now, wait_ms).await?;
            return Ok(Changed { now, created });
        }
    }
    Err(ApiError::new(Case::Conflict, "Others are changing this record all the time. Please try again."))
}

/// Writes a record into KV, and whatever newer one there is by then.
async fn publish<P: AdminPlatform>(
    platform: &P,
    place: &Place,
    kind: Kind,
    written: &Found<String>,
    mut wait_ms: u64,
) -> Result<(), ApiError> {
    let mut newer: Option<Found<String>> = None;
    for _ in 0..ATTEMPTS {
        if wait_ms > 0 {
            platform.sleep(wait_ms).await;
            // The newest goes out in this writer's own time: it need not ask for another, which many would ask for at
            // the same moment.
            newer = Some(Found::of(read(platform, place).await?.0));
        }
        let published = newer.as_ref().unwrap_or(written);
        let put = match (&published.document, &place.kv_name) {
            (Some(text), _) => {
                let (name, copy) = (kind.copy)(text, place).map_err(|why| broken(platform, place, &why))?;
                platform.kv_put(&name, &copy).await
            }
            (None, Some(name)) => platform.kv_delete(name).await,
            (None, None) => Ok(()),
        };
        let (record, next_ms) = read(platform, place).await?;
        let now = Found::of(record);
        match put {
            Ok(()) if now.version == published.version => return Ok(()),
            Ok(()) => wait_ms = next_ms,
            Err(why) => {
                platform.warn(&format!("KV did not take the record `{}`: {why}", place.name));
                wait_ms = next_ms.max(KV_WRITE_MS);
            }
        }
        newer = Some(now);
    }
    let message = "The change is stored, but requests do not see it yet, since KV does not take it. Please repeat it.";
    Err(ApiError::new(Case::RecordsUnavailable, message))
}

enum Written {
    Done { version: u64, wait_ms: u64 },
    Conflict(Option<Record>),
}

async fn write<P: AdminPlatform>(
    platform: &P,
    place: &Place,
    text: String,
    expect: Expect,
) -> Result<Written, ApiError> {
    let call = Call::WriteRecord { name: place.name.clone(), value: Some(text), expect };
    match ask(platform, &place.ledger, &call).await? {
        Reply::Record { record: Some(record), wait_ms } => Ok(Written::Done { version: record.version, wait_ms }),
        Reply::Conflict { record } => Ok(Written::Conflict(record)),
        _ => Err(ApiError::internal()),
    }
}

/// The record, and the milliseconds until KV may be written.
async fn read<P: AdminPlatform>(platform: &P, place: &Place) -> Result<(Option<Record>, u64), ApiError> {
    match ask(platform, &place.ledger, &Call::ReadRecord { name: place.name.clone() }).await? {
        Reply::Record { record, wait_ms } => Ok((record, wait_ms)),
        _ => Err(ApiError::internal()),
    }
}

/// Asks a ledger object.
pub(super) async fn ask<P: AdminPlatform>(platform: &P, ledger: &str, call: &Call) -> Result<Reply, ApiError> {
    let answer = platform.ledger(ledger, call, LEDGER_TIMEOUT_MS).await;
    answer.map_err(|why| unavailable(platform, &format!("the ledger of `{ledger}`"), &why))
}

/// 503: what keeps the records does not answer. Why is for the log.
pub(super) fn unavailable<P: AdminPlatform>(platform: &P, what: &str, why: &str) -> ApiError {
    platform.warn(&format!("{what} failed: {why}"));
    let message = "The records cannot be reached right now. What was asked may have happened or not; please repeat it.";
    ApiError::new(Case::RecordsUnavailable, message)
}
