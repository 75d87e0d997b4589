//! How volumes go to a store: at what rate, and into which storage class of the cloud.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::config_read::Reader;
use super::config_text::{assign, quoted};
use crate::error::{Error, Result};

/// The slowest and the fastest limit that makes sense, in bytes per second: below, a volume would take the whole day.
const RATES: std::ops::RangeInclusive<u64> = (1 << 10)..=(1 << 40);
/// The longest name of a storage class.
const CLASS_BYTES_MAX: usize = 64;
/// What a rate may be counted in, in bytes. Lines are sold in bits, decimal.
const UNITS: [(&str, f64); 12] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("kbit", 125.0),
    ("Kbit", 125.0),
    ("Mbit", 125_000.0),
    ("Gbit", 125_000_000.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];

/// How volumes go to a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upload {
    /// The most that leaves for a bucket, in bytes per second over all connections.
    pub limit: Option<u64>,
    /// The storage class of volumes, by tier; `secrets` is that of bundles.
    pub classes: BTreeMap<String, String>,
}

impl Upload {
    /// The storage class of the volumes of a tier, of bundles without one. Manifests and commits have none: every
    /// command reads them.
    pub fn class(&self, tier: Option<&str>) -> Option<&str> {
        self.classes.get(tier.unwrap_or(SECRETS)).map(String::as_str)
    }
}

/// What bundles are called beside the tiers.
const SECRETS: &str = "secrets";

/// Reads a rate, as `2MiB/s` or `10Mbit/s`; in bytes per second.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) with what a rate looks like.
pub fn parse_rate(text: &str) -> Result<u64> {
    // The text is not repeated: whatever was pasted there may be a key.
    let wrong = || {
        Error::usage("the limit of uploads is no rate")
            .hint("write a number from 1KiB/s up, with B, kB, KiB, MB, MiB or their like, or in bits: 2MiB/s, 10Mbit/s")
    };
    let amount = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
    let found = UNITS.iter().find_map(|(unit, bytes)| Some((amount.strip_suffix(unit)?, bytes)));
    let (number, bytes) = found.ok_or_else(wrong)?;
    let number = number.trim();
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let rate = number.parse::<f64>().map_err(|_| wrong())? * bytes;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what is too large is refused next")]
    let rate = rate.round() as u64;
    if RATES.contains(&rate) { Ok(rate) } else { Err(wrong()) }
}

/// A rate as [`parse_rate`] reads it to the same.
fn rate(bytes: u64) -> String {
    let whole =
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)].into_iter().find(|(_, n)| bytes.is_multiple_of(*n));
    match whole {
        Some((unit, n)) => format!("{}{unit}/s", bytes / n),
        None => format!("{bytes}B/s"),
    }
}

/// The names of tiers, and `secrets`, as fields, so that any other is an unknown field with its line.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClasses {
    yearly: Option<Spanned<String>>,
    monthly: Option<Spanned<String>>,
    weekly: Option<Spanned<String>>,
    daily: Option<Spanned<String>>,
    hourly: Option<Spanned<String>>,
    secrets: Option<Spanned<String>>,
}

pub(super) fn read(reader: &Reader<'_>, limit: Option<Spanned<String>>, raw: RawClasses) -> Result<Upload> {
    let limit = match limit {
        None => None,
        Some(text) => Some(parse_rate(text.get_ref()).map_err(|e| {
            let hint = e.advice().unwrap_or_default().to_owned();
            reader.wrong(text.span(), e).hint(hint)
        })?),
    };
    let given = [
        ("yearly", raw.yearly),
        ("monthly", raw.monthly),
        ("weekly", raw.weekly),
        ("daily", raw.daily),
        ("hourly", raw.hourly),
        (SECRETS, raw.secrets),
    ];
    let mut classes = BTreeMap::new();
    for (name, class) in given {
        let Some(class) = class else { continue };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if class.get_ref().is_empty() || class.get_ref().len() > CLASS_BYTES_MAX || !plain(class.get_ref()) {
            let error = reader.wrong(class.span(), format!("the storage class of {name} cannot be one"));
            return Err(error.hint("write it as the cloud does, like STANDARD_IA, GLACIER_IR, NEARLINE or Cool"));
        }
        classes.insert(name.to_owned(), class.into_inner());
    }
    Ok(Upload { limit, classes })
}

/// The limit as a line, where there is one.
pub(super) fn render_limit(out: &mut String, upload: &Upload) {
    if let Some(limit) = upload.limit {
        assign(out, "limit_upload", &quoted(&rate(limit)), "the most that leaves for a bucket");
    }
}

/// The classes as a table, where there are any.
pub(super) fn render_classes(out: &mut String, upload: &Upload) {
    if upload.classes.is_empty() {
        return;
    }
    out.push_str("\n# The cloud's storage class of volumes, by tier; `secrets` is that of bundles.\n[storage_class]\n");
    for (name, class) in &upload.classes {
        assign(out, name, &quoted(class), "");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates() {
        for (text, bytes) in [
            ("2MiB/s", 2 << 20),
            ("1.5MiB/s", 3 << 19),
            ("500KiB/s", 500 << 10),
            ("10Mbit/s", 1_250_000),
            ("256kbit/s", 32_000),
            (" 3 MB/s ", 3_000_000),
            ("4096B/s", 4096),
        ] {
            assert_eq!(parse_rate(text).unwrap(), bytes, "{text}");
        }
        for text in
            ["", "2", "2MiB", "MiB/s", "-1MiB/s", "1e9B/s", "inf/s", "1.2.3MB/s", "100B/s", "9999999GiB/s", "0MB/s"]
        {
            let error = parse_rate(text).unwrap_err();
            assert!(error.kind() == crate::Kind::Usage && error.advice().is_some(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in RATES) {
            prop_assert_eq!(parse_rate(&rate(bytes)).unwrap(), bytes);
        }
    }
}
