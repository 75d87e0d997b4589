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
    /// [`Kind::Usage`] when it is none of them.
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
    if let Ok(date) = text.parse::<jiff::civil::Date>().and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC)) {
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
