//! What a person may write for `SNAPSHOT`.

use super::DAY_SECONDS;
use crate::error::{Error, Result};
use crate::model::path::printable;
use crate::model::store_key::SnapshotId;

/// Which archive a person means by `SNAPSHOT`.
#[derive(Clone)]
pub enum Wanted {
    /// The newest that verifies.
    Latest,
    /// An id, or the beginning of one.
    Id(String),
    /// The newest at or before a moment, in Unix seconds.
    Before(i64),
}

impl Wanted {
    /// Understands `latest`, an id or the beginning of one, a date, a time, and `3 days ago`.
    ///
    /// # Errors
    /// [`Usage`](crate::Kind::Usage) when it is none of them.
    pub fn parse(text: &str, now: i64) -> Result<Wanted> {
        let text = text.trim();
        if text == "latest" {
            return Ok(Wanted::Latest);
        }
        let id_like = text.len() >= 4
            && text.bytes().all(|b| b.is_ascii_digit() || b"TZ-abcdef".contains(&b))
            && text.bytes().take(8).all(|b| b.is_ascii_digit());
        if id_like {
            return Ok(Wanted::Id(text.to_owned()));
        }
        if let Some(seconds) = parse_time(text, now) {
            return Ok(Wanted::Before(seconds));
        }
        Err(Error::usage(format!("`{}` names no snapshot", printable(text.as_bytes())))
            .hint("name an id, the beginning of one, `latest`, a date as 2026-11-20, or \"3 days ago\""))
    }

    /// Whether an archive may be the one that is meant, by its id alone.
    pub fn matches(&self, id: &SnapshotId) -> bool {
        match self {
            Wanted::Latest => true,
            Wanted::Id(text) => id.as_str().starts_with(text.as_str()),
            Wanted::Before(time) => id.unix_seconds() <= *time,
        }
    }
}

/// A date means its last second, so that `2026-11-20` finds what was made on that day. Without a zone it is UTC.
fn parse_time(text: &str, now: i64) -> Option<i64> {
    // Whatever reads a date passes over a time behind it.
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        let date = text.parse::<jiff::civil::Date>().and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC)).ok()?;
        return Some(date.timestamp().as_second() + DAY_SECONDS - 1);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_second());
    }
    if let Ok(time) = text.parse::<jiff::civil::DateTime>().and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC)) {
        return Some(time.timestamp().as_second());
    }
    let mut words = text.split_whitespace();
    let (number, unit, ago) = (words.next()?, words.next()?, words.next()?);
    let unit = match unit.trim_end_matches('s') {
        "minute" => 60,
        "hour" => 3600,
        "day" => DAY_SECONDS,
        "week" => 7 * DAY_SECONDS,
        "month" => 30 * DAY_SECONDS,
        "year" => 365 * DAY_SECONDS,
        _ => return None,
    };
    let number: i64 = number.parse().ok().filter(|n| *n >= 0)?;
    (ago == "ago" && words.next().is_none()).then(|| now.saturating_sub(number.saturating_mul(unit)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// 2026-11-21T20:15:00Z.
    const NOW: i64 = 1_795_292_100;

    /// How long before [`NOW`] the moment is that a text names, in seconds.
    fn before(text: &str) -> i64 {
        match Wanted::parse(text, NOW) {
            Ok(Wanted::Before(time)) => NOW - time,
            _ => panic!("{text} names no moment"),
        }
    }

    #[test]
    fn a_date_means_its_last_second_and_a_time_itself() {
        assert_eq!(before("2026-11-20"), 20 * 3600 + 15 * 60 + 1);
        assert_eq!(before("2026-11-21T20:00:00"), 900);
        assert_eq!(before("2026-11-21T20:00:00+01:00"), 900 + 3600);
    }

    #[test]
    fn some_time_ago() {
        assert_eq!(before("3 days ago"), 3 * DAY_SECONDS);
        assert_eq!(before("1 hour ago"), 3600);
        for text in ["3 days", "days ago", "-1 days ago", "3 days ago now", "3 moons ago", "yesterday", "", "2026"] {
            let parsed = Wanted::parse(text, NOW);
            assert!(!matches!(parsed, Ok(Wanted::Before(_) | Wanted::Latest)), "{text}");
        }
    }

    #[test]
    fn ids_and_their_beginnings() {
        let id = SnapshotId::parse("20261121T201500Z-3f9c02de").unwrap();
        for text in ["20261121T201500Z-3f9c02de", "20261121T2015", "20261121", " latest "] {
            assert!(Wanted::parse(text, NOW).unwrap().matches(&id), "{text}");
        }
        assert!(!Wanted::parse("20261121T201501", NOW).unwrap().matches(&id));
        assert!(!Wanted::parse("2026-11-20", NOW).unwrap().matches(&id));
        assert!(Wanted::parse("2026-11-21", NOW).unwrap().matches(&id));
    }
}
