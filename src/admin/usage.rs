//! What a tenant has used: sums by day, by model, by key.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::{ApiError, Case};
use crate::date::{date, day_of};
use crate::gateway::{Head, Reply};
use crate::quota::{self, Call, UsageCounts, UsageKey, UsageRow};

use super::request::Query;
use super::{AdminPlatform, List, answer, records, tenants};

/// Days that are shown unless the operator says which.
const DAYS: u64 = 30;

/// What rows are summed by; what is left out is summed over.
#[derive(Clone, Copy, Default)]
struct GroupBy {
    day: bool,
    model: bool,
    key: bool,
}

impl GroupBy {
    fn parse(text: &str) -> Option<Self> {
        let mut by = Self::default();
        for name in text.split(',') {
            let seen = match name {
                "day" => &mut by.day,
                "model" => &mut by.model,
                "key" => &mut by.key,
                _ => return None,
            };
            if std::mem::replace(seen, true) {
                return None;
            }
        }
        Some(by)
    }
}

/// A group, and after grouping a row of the answer: the counts follow its names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Group {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    group: Group,
    #[serde(flatten)]
    counts: UsageCounts,
}

fn sums(rows: Vec<UsageRow>, by: GroupBy) -> Vec<Row> {
    let mut sums: BTreeMap<Group, UsageCounts> = BTreeMap::new();
    for UsageRow { by: UsageKey { day, key, model }, counts } in rows {
        let group = Group { day: by.day.then_some(day), model: by.model.then_some(model), key: by.key.then_some(key) };
        sums.entry(group).or_default().add(&counts);
    }
    sums.into_iter().map(|(group, counts)| Row { group, counts }).collect()
}

/// Whether a text looks like a day, `2026-01-31`. Days compare as texts, so that one which no month has does no harm.
fn is_day(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut part = |length: usize, range: std::ops::RangeInclusive<u16>| {
        parts.next().is_some_and(|part| {
            part.len() == length
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.parse().is_ok_and(|number| range.contains(&number))
        })
    };
    part(4, 1970..=9999) && part(2, 1..=12) && part(2, 1..=31) && parts.next().is_none()
}

/// `GET /admin/v1/tenants/{id}/usage?from=&to=&group_by=`: both days included, UTC. It is there for a tenant that was
/// deleted, too: what it has used is still to be paid.
pub(super) async fn show<P: AdminPlatform>(
    platform: &P,
    head: &Head,
    tenant: &str,
) -> Result<Reply<P::Body>, ApiError> {
    let query = Query::of(head, &["from", "to", "group_by"])?;
    let invalid = |name: &str, what: &str| {
        ApiError::new(Case::Invalid, format!("Invalid value for '{name}': expected {what}.")).about(name)
    };
    let day = |name: &str, default: u64| match query.get(name) {
        None => Ok(date(default)),
        Some(day) if is_day(day) => Ok(day.to_owned()),
        Some(_) => Err(invalid(name, "a day such as 2026-01-31")),
    };
    let today = day_of(platform.now_ms());
    let to = day("to", today)?;
    let from = day("from", today.saturating_sub(DAYS.saturating_sub(1)))?;
    if from > to {
        return Err(invalid("from", "a day that is not after 'to'"));
    }
    let by = GroupBy::parse(query.get("group_by").unwrap_or("day"));
    let by = by.ok_or_else(|| invalid("group_by", "day, model and key, or some of them, with commas between"))?;
    if !tenants::is_id(tenant) {
        return Err(tenants::absent(tenant));
    }
    let call = Call::Usage { from, to };
    let quota::Reply::Usage { rows } = records::ask(platform, tenant, &call).await? else {
        return Err(ApiError::internal());
    };
    Ok(answer(200, &List::new(sums(rows, by), None)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        for good in ["2026-01-31", "1970-01-01", "9999-12-31"] {
            assert!(is_day(good), "{good}");
        }
        for bad in ["", "2026-1-31", "2026-13-01", "2026-00-01", "2026-01-32", "2026-01-31-", "26-01-31", "+026-01-01"]
        {
            assert!(!is_day(bad), "{bad}");
        }
    }

    #[test]
    fn groups() {
        for bad in ["", "day,", "day,day", "week"] {
            assert!(GroupBy::parse(bad).is_none(), "{bad}");
        }
        assert!(GroupBy::parse("key,day").is_some_and(|by| by.key && by.day && !by.model));
    }
}
