//! The configuration file: what is backed up, where to, for whom, and how long it is kept.
//!
//! Reading is strict: an unknown field is an error with its line, because a mistyped `exclude` or `keep` shows only
//! when it is too late.

use std::path::{Path, PathBuf};

use super::guard::Bounds;
use super::upload::Upload;
use super::watch::{Hooks, Status};
use crate::error::Result;

/// Hours in a day, a week, a month (a twelfth of a year) and a year.
pub(super) const DAY: u32 = 24;
const WEEK: u32 = 7 * DAY;
const MONTH: u32 = YEAR / 12;
const YEAR: u32 = 365 * DAY;

/// The tiers lifeboat knows a calendar period for, coarse to fine, with the hours of a period.
pub const PERIODS: [(&str, u32); 5] =
    [("yearly", YEAR), ("monthly", MONTH), ("weekly", WEEK), ("daily", DAY), ("hourly", 1)];

/// The tiers of a configuration that says nothing, with what they keep.
pub(super) const DEFAULT_TIERS: [(&str, u32); 4] =
    [("monthly", 12 * MONTH), ("weekly", 12 * WEEK), ("daily", 30 * DAY), ("hourly", 24)];

/// The longest keep, in hours: a typing error rather than a wish.
pub(super) const KEEP_HOURS_MAX: u32 = 100 * YEAR;
/// How long secrets bundles are kept, in hours.
pub(super) const SECRETS_KEEP_HOURS: u32 = 90 * DAY;
/// The compression levels that stock `zstd -d` opens without options and 130 MiB have room for.
pub(super) const LEVELS: std::ops::RangeInclusive<i64> = 1..=19;
const LEVEL: i32 = 3;
/// The longest name of a series, in bytes.
pub(super) const SERIES_BYTES_MAX: usize = 64;

/// A configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The series.
    pub name: String,
    /// The store, as written: a URL or a path.
    pub store: String,
    /// Other stores that each backup brings up to date.
    pub mirrors: Vec<Mirror>,
    /// The state archive.
    pub state: State,
    /// The secrets bundle.
    pub secrets: Secrets,
    /// What is backed up; never empty.
    pub sources: Vec<Source>,
    /// How long what is kept, coarse to fine; never empty.
    pub tiers: Vec<Tier>,
    /// How archives are written.
    pub archive: Archive,
    /// How volumes go to the store.
    pub upload: Upload,
    /// How old the newest may be.
    pub status: Status,
    /// Who is told what became of a backup.
    pub hooks: Hooks,
    /// What looks as if something went wrong on this machine.
    pub guard: Bounds,
}

/// Another store that each backup brings up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The store, as written: a URL or a path.
    pub store: String,
}

/// Who opens the state archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// age recipients; never empty.
    pub recipients: Vec<String>,
    /// Where this host finds the identity.
    pub identity: Identity,
}

/// Who opens the secrets bundle, and what else concerns secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// age recipients; never empty.
    pub recipients: Vec<String>,
    /// Where this host finds the identity.
    pub identity: Identity,
    /// What happens when a secret value is found in the state.
    pub sweep: Sweep,
    /// How long bundles are kept, in hours.
    pub keep_hours: u32,
}

/// Where an identity is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// In the keyring of the operating system.
    Keyring,
    /// In a file; the text may start with `~/`.
    File(String),
    /// In what a command prints.
    Command(String),
    /// Not on this host.
    None,
}

/// What happens when a secret value is found in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// It is counted and told.
    Report,
    /// The file goes to the secrets bundle.
    Move,
    /// The backup fails.
    Fail,
}

impl Sweep {
    /// All of them.
    pub const ALL: [Sweep; 3] = [Sweep::Report, Sweep::Move, Sweep::Fail];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Sweep::Report => "report",
            Sweep::Move => "move",
            Sweep::Fail => "fail",
        }
    }
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is.
    pub origin: Origin,
    /// Patterns of what is kept in spite of `exclude` and the preset.
    pub include: Vec<String>,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// Patterns of what is secret.
    pub secret: Vec<String>,
    /// Patterns of what is not.
    pub state: Vec<String>,
    /// What happens when a secret value is found in its state, if not what the configuration says for all.
    pub sweep: Option<Sweep>,
}

/// What a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The home of an agent: the name of a preset that exists.
    Preset(String),
    /// A path, absolute or starting with `~/`.
    Path(String),
}

impl Source {
    /// A source without rules of its own.
    pub fn new(origin: Origin) -> Source {
        let none = Vec::new;
        Source { origin, include: none(), exclude: none(), secret: none(), state: none(), sweep: None }
    }
}

/// A tier and how long it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// One of [`PERIODS`].
    pub name: String,
    /// How long a snapshot can be restored, in hours.
    pub keep_hours: u32,
}

/// How archives are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The zstd level of fulls.
    pub level: i32,
    /// Whether each frame is decompressed and compared before it is sealed.
    pub check_frames: bool,
}

impl Default for Archive {
    fn default() -> Self {
        Archive { level: LEVEL, check_frames: true }
    }
}

/// The tiers of a configuration without `[tiers]`.
pub fn default_tiers() -> Vec<Tier> {
    DEFAULT_TIERS.iter().map(|(name, keep_hours)| Tier { name: (*name).to_owned(), keep_hours: *keep_hours }).collect()
}

/// How long secrets bundles are kept by default, in hours.
pub fn default_secrets_keep_hours() -> u32 {
    SECRETS_KEEP_HOURS
}

/// `~` and `~/x` become the user's home and `x` in it; anything else is taken as it is.
pub fn expand_home(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

/// The name of a series for a host: lower case, what is not allowed becomes `-`, and never empty.
pub fn series_from(host: &str) -> String {
    let mapped: String = host
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .collect();
    let edge = ['-', '.', '_'];
    let name: String = mapped.trim_start_matches(edge).chars().take(SERIES_BYTES_MAX).collect();
    let name = name.trim_end_matches(edge);
    if name.is_empty() { "host".to_owned() } else { name.to_owned() }
}

/// Whether `name` may name a series: `[a-z0-9][a-z0-9._-]{0,63}`.
pub fn is_series(name: &str) -> bool {
    super::store_key::is_name(name)
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::Kind::Failed) with the line and what to change. No message repeats a value that could
    /// be a key.
    pub fn parse(text: &str) -> Result<Config> {
        super::config_read::read(text)
    }

    /// The configuration as text for people, which parses back to the same.
    pub fn render(&self) -> String {
        super::config_text::render(self)
    }

    /// The text of a configuration that differs from this one in recipients, and in sources that this one has behind its
    /// own, changed to say the same: comments, order and whatever else is a person's stay. `None` where that cannot be.
    pub fn written_into(&self, text: &str) -> Option<String> {
        super::config_edit::edit(self, text)
    }
}

/// Hours of `24h`, `30d`, `12w`, `12mo`, `5y`; `None` for anything else.
pub(super) fn parse_duration(text: &str) -> Option<u32> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u32 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "h" => 1,
        "d" => DAY,
        "w" => WEEK,
        "mo" => MONTH,
        "y" => YEAR,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The shortest way to write so many hours.
pub(super) fn duration(hours: u32) -> String {
    // Twelve months are more familiar than a year, a hundred years than 1200 months.
    let (number, unit) = match hours {
        h if h > 2 * YEAR && h % YEAR == 0 => (h / YEAR, "y"),
        h if h > 0 && h % MONTH == 0 => (h / MONTH, "mo"),
        h if h > 4 * WEEK && h % WEEK == 0 => (h / WEEK, "w"),
        h if h > DAY && h % DAY == 0 => (h / DAY, "d"),
        h => (h, "h"),
    };
    format!("{number}{unit}")
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
