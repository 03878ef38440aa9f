//! Days and months in UTC, counted from 1970, and how they are written.

const DAY_MS: u64 = 86_400_000;

/// The day of a time in milliseconds since 1970, counted from 1970-01-01.
pub(crate) fn day_of(now_ms: u64) -> u64 {
    now_ms.checked_div(DAY_MS).unwrap_or_default()
}

/// When the day after this one begins.
pub(crate) fn end_of_day_ms(day: u64) -> u64 {
    day.saturating_add(1).saturating_mul(DAY_MS)
}

/// The month of a day, counted from 1970-01.
pub(crate) fn month_of(day: u64) -> u64 {
    let (year, month, _) = civil(day);
    year.saturating_sub(1970).saturating_mul(12).saturating_add(month.saturating_sub(1))
}

/// When the month after this one begins.
pub(crate) fn end_of_month_ms(month: u64) -> u64 {
    first_day_of_month(month.saturating_add(1)).saturating_mul(DAY_MS)
}

/// The day as `2026-01-31`.
pub(crate) fn date(day: u64) -> String {
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a day since 1970-01-01, by the algorithm of Howard Hinnant's "chrono-compatible low-level
/// date algorithms": years begin in March, so that the leap day comes last.
#[expect(clippy::arithmetic_side_effects, reason = "no operand is near its bounds: days are below 2^50")]
fn civil(day: u64) -> (u64, u64, u64) {
    let z = day.min(1 << 50) + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[expect(clippy::arithmetic_side_effects, reason = "no operand is near its bounds: months are below 2^46")]
fn first_day_of_month(month: u64) -> u64 {
    let month = month.min(1 << 46);
    let (year, month) = (1970 + month / 12, month % 12 + 1);
    let (year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * march_month + 2) / 5;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months_are_the_calendars() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (789, "1972-02-29"),
            (11_016, "2000-02-29"),
            (19_675, "2023-11-14"),
            (20_787, "2026-11-30"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn a_month_ends_where_the_next_one_begins() {
        for month in 0..3000 {
            let next = end_of_month_ms(month) / DAY_MS;
            assert_eq!((month_of(next - 1), month_of(next)), (month, month + 1));
            assert!(date(next).ends_with("-01"));
        }
        assert_eq!(end_of_day_ms(day_of(1_700_000_000_000)), 1_700_006_400_000);
    }
}
