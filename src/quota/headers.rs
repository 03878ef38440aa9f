//! The `x-ratelimit-*` headers, and durations as Go writes them.

use super::limits::Dimension;
use super::operation::Standing;

/// For requests and for tokens the tightest limit of tenant and key: the one with the least left, and of those the one
/// that takes longest to be whole again. Nothing where there is no limit.
#[must_use]
pub fn rate_headers(standings: &[Standing]) -> Vec<(&'static str, String)> {
    const REQUESTS: [&str; 3] =
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
    const TOKENS: [&str; 3] = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
    let mut headers = Vec::with_capacity(6);
    for (counts_tokens, [limit, remaining, reset]) in [(false, REQUESTS), (true, TOKENS)] {
        let tightest = standings
            .iter()
            .filter(|standing| standing.dimension != Dimension::ConcurrentRequests)
            .filter(|standing| standing.dimension.counts_tokens() == counts_tokens)
            .min_by_key(|standing| (standing.remaining, u64::MAX.saturating_sub(standing.reset_ms)));
        if let Some(standing) = tightest {
            headers.push((limit, standing.limit.to_string()));
            headers.push((remaining, standing.remaining.to_string()));
            headers.push((reset, go_duration(standing.reset_ms)));
        }
    }
    headers
}

/// A duration as Go's `time.Duration` prints it: `0s`, `547ms`, `1s`, `2m52.8s`, `12h30m0s`.
#[must_use]
pub fn go_duration(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, seconds, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    let fraction = if rest == 0 { String::new() } else { format!(".{rest:03}").trim_end_matches('0').to_owned() };
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, minutes) => format!("{minutes}m{seconds}{fraction}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::Owner;
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (ms, expected) in [
            (0, "0s"),
            (547, "547ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (360_000, "6m0s"),
            (172_800, "2m52.8s"),
            (45_000_000, "12h30m0s"),
            (3_600_001, "1h0m0.001s"),
        ] {
            assert_eq!(go_duration(ms), expected);
        }
    }

    #[test]
    fn the_tightest_of_tenant_and_key_for_each_of_requests_and_tokens() {
        let standing =
            |owner, dimension, limit, remaining, reset_ms| Standing { owner, dimension, limit, remaining, reset_ms };
        let headers = rate_headers(&[
            standing(Owner::Tenant, Dimension::RequestsPerMinute, 60, 7, 1000),
            standing(Owner::Tenant, Dimension::RequestsPerDay, 100, 5, 2000),
            standing(Owner::Key, Dimension::RequestsPerMinute, 5, 5, 3000),
            standing(Owner::Key, Dimension::ConcurrentRequests, 1, 0, 0),
        ]);
        let expected = [
            ("x-ratelimit-limit-requests", "5"),
            ("x-ratelimit-remaining-requests", "5"),
            ("x-ratelimit-reset-requests", "3s"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(rate_headers(&[]).is_empty());
    }
}
