//! The calendar periods of tiers, in UTC.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::config::PERIODS;

/// Seconds in a day.
pub const DAY_SECONDS: i64 = 86_400;

/// Where a tier stands among all there can be, from 0 for the coarsest; `None` for a name that is no tier's.
pub fn rank(tier: &str) -> Option<usize> {
    PERIODS.iter().position(|(name, _)| *name == tier)
}

/// The longest that a calendar period of a tier can be, in days; 0 where periods are shorter than a day.
pub fn period_days(tier: &str) -> u64 {
    match tier {
        "yearly" => 366,
        "monthly" => 31,
        "weekly" => 7,
        "daily" => 1,
        _ => 0,
    }
}

/// What a period of the tier is called.
pub fn period_name(tier: &str) -> &'static str {
    match tier {
        "yearly" => "year",
        "monthly" => "month",
        "weekly" => "week",
        "daily" => "day",
        _ => "run",
    }
}

/// When the period of `tier` that `at` lies in began; both in Unix seconds. Weeks are those of ISO 8601.
///
/// `None` for a tier without calendar periods (`hourly` takes whatever the others leave), and for a time that no
/// calendar has.
pub fn period_start(tier: &str, at: i64) -> Option<i64> {
    let date = Timestamp::from_second(at).ok()?.to_zoned(TimeZone::UTC).date();
    let first = match tier {
        "yearly" => date.first_of_year(),
        "monthly" => date.first_of_month(),
        "weekly" => {
            let days = date.weekday().since(Weekday::Monday);
            date.checked_sub(i64::from(days).days()).ok()?
        }
        "daily" => date,
        _ => return None,
    };
    Some(first.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The midnight at or before a time, in Unix seconds.
pub fn midnight(at: i64) -> i64 {
    at.saturating_sub(at.rem_euclid(DAY_SECONDS))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn periods_begin_where_the_calendar_says() {
        for (time, year, month, week) in [
            // 2027 begins on a Friday: its first days are of the last week of 2026.
            ("2027-01-01T00:00:00Z", "2027-01-01", "2027-01-01", "2026-12-28"),
            ("2027-01-03T23:59:59Z", "2027-01-01", "2027-01-01", "2026-12-28"),
            ("2027-01-04T00:00:00Z", "2027-01-01", "2027-01-01", "2027-01-04"),
            // A leap day, and the week it lies in.
            ("2028-02-29T12:00:00Z", "2028-01-01", "2028-02-01", "2028-02-28"),
            ("2028-03-01T00:00:00Z", "2028-01-01", "2028-03-01", "2028-02-28"),
            // Before 1970.
            ("1969-12-31T23:59:59Z", "1969-01-01", "1969-12-01", "1969-12-29"),
        ] {
            let day = &time[..10];
            for (tier, begin) in [("yearly", year), ("monthly", month), ("weekly", week), ("daily", day)] {
                assert_eq!(period_start(tier, at(time)), Some(at(&format!("{begin}T00:00:00Z"))), "{tier} {time}");
            }
            assert_eq!(midnight(at(time)), at(&format!("{day}T00:00:00Z")));
        }
        assert_eq!(period_start("hourly", 0), None);
        assert_eq!(period_start("daily", i64::MAX), None);
    }
}
