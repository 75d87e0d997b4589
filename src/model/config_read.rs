//! Reads the configuration file: every complaint with its line, and none that repeats a key.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use crate::error::{Error, Result};
use crate::model::config::{
    Archive, Config, DAY, DEFAULT_TIERS, Identity, KEEP_HOURS_MAX, LEVELS, Mirror, Origin, PERIODS, SECRETS_KEEP_HOURS,
    SERIES_BYTES_MAX, Secrets, Source, State, Sweep, Tier, duration, is_series, parse_duration, series_from,
};
use crate::model::config_watch::{self, RawGuard, RawHooks, RawStatus};
use crate::model::upload::{self, RawClasses};
use crate::model::{patterns, preset};

pub(super) fn read(text: &str) -> Result<Config> {
    let reader = Reader { text };
    let raw: Raw = toml::from_str(text).map_err(|e| reader.syntax(&e))?;
    reader.config(raw)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    store: Spanned<String>,
    limit_upload: Option<Spanned<String>>,
    state: Spanned<RawState>,
    secrets: Spanned<RawSecrets>,
    #[serde(default)]
    source: Vec<Spanned<RawSource>>,
    #[serde(default)]
    mirror: Vec<RawMirror>,
    #[serde(default)]
    tiers: RawTiers,
    #[serde(default)]
    archive: RawArchive,
    #[serde(default)]
    storage_class: RawClasses,
    #[serde(default)]
    status: RawStatus,
    #[serde(default)]
    hooks: RawHooks,
    #[serde(default)]
    guard: RawGuard,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawState {
    recipients: Spanned<Vec<Spanned<String>>>,
    identity: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecrets {
    recipients: Spanned<Vec<Spanned<String>>>,
    identity: Option<Spanned<String>>,
    sweep: Option<Spanned<String>>,
    keep: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    preset: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    #[serde(default)]
    include: Vec<Spanned<String>>,
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    #[serde(default)]
    secret: Vec<Spanned<String>>,
    #[serde(default)]
    state: Vec<Spanned<String>>,
    sweep: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMirror {
    store: Spanned<String>,
}

/// The names of [`PERIODS`] as fields, so that any other is an unknown field with its line.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTiers {
    yearly: Option<Spanned<String>>,
    monthly: Option<Spanned<String>>,
    weekly: Option<Spanned<String>>,
    daily: Option<Spanned<String>>,
    hourly: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArchive {
    level: Option<Spanned<i64>>,
    check_frames: Option<bool>,
}

/// Turns what was parsed into what is checked, with the text at hand to count lines.
pub(super) struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    /// `configuration line 7: <what>`.
    pub(super) fn wrong(&self, span: Range<usize>, what: impl std::fmt::Display) -> Error {
        Error::failed(format!("configuration line {}: {what}", self.line(span.start)))
    }

    fn syntax(&self, e: &toml::de::Error) -> Error {
        // A key pasted in the wrong place must not come back in a message.
        let message = e.message().trim().replace('\n', ", ");
        let message =
            if holds_key(&message) { "a secret key stands where it does not belong".to_owned() } else { message };
        let hint = if message.contains("pinned") {
            "`pinned` is no tier: `lifeboat pin` keeps a snapshot without end"
        } else if message.starts_with("unknown field") {
            "correct the name or remove the line"
        } else if message.starts_with("missing field") {
            "add it; `lifeboat init` writes a complete configuration"
        } else if message.starts_with("invalid type") {
            "text stands in quotes, lists in brackets, true and false alone"
        } else {
            "correct the line; the file is TOML, where text stands in quotes"
        };
        match e.span() {
            // What is missing at the top has no place; its line would be a lie.
            Some(span) if !(message.starts_with("missing field") && span.start == 0) => self.wrong(span, message),
            _ => Error::failed(format!("configuration: {message}")),
        }
        .hint(hint)
    }

    fn config(&self, raw: Raw) -> Result<Config> {
        let name = self.series(raw.name)?;
        if raw.store.get_ref().trim().is_empty() {
            let hint = "give a URL or a path, like `s3://bucket/prefix` or `/mnt/backup`";
            return Err(self.wrong(raw.store.span(), "`store` is empty").hint(hint));
        }
        let state = raw.state.into_inner();
        let state =
            State { recipients: self.recipients("state", state.recipients)?, identity: self.identity(state.identity)? };
        let secrets = self.secrets(raw.secrets.into_inner())?;
        let mut sources: Vec<Source> = Vec::new();
        for source in raw.source {
            let span = source.span();
            let source = self.source(source)?;
            if sources.iter().any(|s| s.origin == source.origin) {
                return Err(self.wrong(span, "this source is there twice").hint("merge the two into one [[source]]"));
            }
            sources.push(source);
        }
        if sources.is_empty() {
            let error = Error::failed("configuration: there is no [[source]], so nothing would be backed up");
            return Err(error.hint(format!("add a [[source]] with a `path` or a `preset` ({})", preset::names())));
        }
        let mirrors = self.mirrors(raw.mirror, raw.store.get_ref())?;
        let tiers = self.tiers(raw.tiers)?;
        let archive = self.archive(raw.archive)?;
        let upload = upload::read(self, raw.limit_upload, raw.storage_class)?;
        let status = config_watch::status(self, raw.status)?;
        let hooks = config_watch::hooks(self, raw.hooks)?;
        let guard = config_watch::guard(self, raw.guard)?;
        let store = raw.store.into_inner();
        Ok(Config { name, store, mirrors, state, secrets, sources, tiers, archive, upload, status, hooks, guard })
    }

    fn series(&self, name: Spanned<String>) -> Result<String> {
        if is_series(name.get_ref()) {
            return Ok(name.into_inner());
        }
        let better = series_from(name.get_ref());
        let error = self.wrong(name.span(), format!("{:?} cannot name a series", name.get_ref()));
        Err(error.hint(format!(
            "use lower-case letters, digits, `.`, `_` and `-`, at most {SERIES_BYTES_MAX}, like `{better}`"
        )))
    }

    /// The value is not repeated: a URL that somebody pasted may hold a credential.
    fn mirrors(&self, list: Vec<RawMirror>, store: &str) -> Result<Vec<Mirror>> {
        let mut out: Vec<Mirror> = Vec::new();
        for RawMirror { store: mirror } in list {
            let (span, mirror) = (mirror.span(), mirror.into_inner());
            if mirror.trim().is_empty() {
                let error = self.wrong(span, "a [[mirror]] has an empty `store`");
                return Err(error.hint("give a URL or a path, like `s3://bucket/prefix` or `/mnt/backup`"));
            }
            if mirror == store || out.iter().any(|m| m.store == mirror) {
                let error = self.wrong(span, "a [[mirror]] is the store itself, or there twice");
                return Err(error.hint("a mirror is another place: remove this one"));
            }
            out.push(Mirror { store: mirror });
        }
        Ok(out)
    }

    fn recipients(&self, table: &str, list: Spanned<Vec<Spanned<String>>>) -> Result<Vec<String>> {
        if list.get_ref().is_empty() {
            let error = self.wrong(list.span(), format!("[{table}] has no recipient"));
            return Err(error.hint("an archive for nobody opens for nobody: give at least one `age1…`"));
        }
        let mut out: Vec<String> = Vec::new();
        for recipient in list.into_inner() {
            let (span, text) = (recipient.span(), recipient.into_inner());
            // The value is not repeated: it may be an identity.
            if holds_key(&text) {
                let error = self.wrong(span, format!("[{table}] names an identity as a recipient"));
                return Err(error.hint("an identity is secret: put its public half, `age1…`, here (`age-keygen -y`)"));
            }
            let body = text.strip_prefix("age1").unwrap_or_default();
            if body.is_empty() || !body.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
                let error = self.wrong(span, format!("[{table}] has a recipient that does not start with `age1`"));
                return Err(error.hint("recipients are age's public keys, like `age1ql3z…`"));
            }
            if !out.contains(&text) {
                out.push(text);
            }
        }
        Ok(out)
    }

    fn secrets(&self, raw: RawSecrets) -> Result<Secrets> {
        let sweep = self.sweep(raw.sweep)?.unwrap_or(Sweep::Report);
        let keep_hours = match &raw.keep {
            None => SECRETS_KEEP_HOURS,
            Some(text) => self.keep(text, DAY)?,
        };
        let recipients = self.recipients("secrets", raw.recipients)?;
        Ok(Secrets { recipients, identity: self.identity(raw.identity)?, sweep, keep_hours })
    }

    fn sweep(&self, text: Option<Spanned<String>>) -> Result<Option<Sweep>> {
        let Some(text) = text else { return Ok(None) };
        let known = Sweep::ALL.into_iter().find(|sweep| sweep.name() == text.get_ref());
        let unknown = || {
            let error = self.wrong(text.span(), format!("unknown sweep {:?}", text.get_ref()));
            error.hint("use `report`, `move` or `fail`")
        };
        known.map(Some).ok_or_else(unknown)
    }

    fn identity(&self, text: Option<Spanned<String>>) -> Result<Identity> {
        let Some(text) = text else { return Ok(Identity::Keyring) };
        let hint = "use `keyring`, `none`, `file:PATH` or `command:COMMAND`";
        let (span, text) = (text.span(), text.into_inner());
        match (text.as_str(), text.split_once(':')) {
            ("keyring", _) => Ok(Identity::Keyring),
            ("none", _) => Ok(Identity::None),
            (_, Some(("file", path))) => {
                self.path(span, path)?;
                Ok(Identity::File(path.to_owned()))
            }
            (_, Some(("command", command))) if !command.trim().is_empty() => Ok(Identity::Command(command.to_owned())),
            _ if holds_key(&text) => Err(self.wrong(span, "an identity itself stands in the configuration").hint(hint)),
            _ => Err(self.wrong(span, format!("unknown place for an identity: {text:?}")).hint(hint)),
        }
    }

    /// A path that means the same wherever lifeboat is started.
    fn path(&self, span: Range<usize>, text: &str) -> Result<()> {
        let rooted = text.starts_with('/') || text == "~" || text.starts_with("~/");
        if rooted && !text.contains('\0') && !text.split('/').any(|part| part == "..") {
            return Ok(());
        }
        let error = self.wrong(span, format!("{text:?} is no path that means the same everywhere"));
        Err(error.hint("write it absolute or starting with `~/`, without `..`"))
    }

    fn source(&self, raw: Spanned<RawSource>) -> Result<Source> {
        let span = raw.span();
        let raw = raw.into_inner();
        let origin = match (raw.preset, raw.path) {
            (Some(name), None) => {
                if preset::find(name.get_ref()).is_none() {
                    let error = self.wrong(name.span(), format!("unknown preset {:?}", name.get_ref()));
                    return Err(error.hint(format!("there are {}; anything else is a `path`", preset::names())));
                }
                Origin::Preset(name.into_inner())
            }
            (None, Some(path)) => {
                self.path(path.span(), path.get_ref())?;
                Origin::Path(path.into_inner())
            }
            (Some(_), Some(path)) => {
                let error = self.wrong(path.span(), "a source has both `preset` and `path`");
                return Err(error.hint("a preset knows its paths; give other paths a [[source]] of their own"));
            }
            (None, None) => {
                let error = self.wrong(span, "a source has neither `preset` nor `path`");
                return Err(error.hint(format!("add `path = \"…\"` or a `preset` ({})", preset::names())));
            }
        };
        Ok(Source {
            origin,
            include: self.patterns(raw.include)?,
            exclude: self.patterns(raw.exclude)?,
            secret: self.patterns(raw.secret)?,
            state: self.patterns(raw.state)?,
            sweep: self.sweep(raw.sweep)?,
        })
    }

    fn patterns(&self, list: Vec<Spanned<String>>) -> Result<Vec<String>> {
        list.into_iter()
            .map(|pattern| {
                patterns::check_pattern(pattern.get_ref()).map_err(|e| {
                    let hint = e.advice().unwrap_or_default().to_owned();
                    self.wrong(pattern.span(), e).hint(hint)
                })?;
                Ok(pattern.into_inner())
            })
            .collect()
    }

    /// The defaults with what the configuration changes; `"none"` takes a tier away.
    fn tiers(&self, raw: RawTiers) -> Result<Vec<Tier>> {
        let given = [raw.yearly, raw.monthly, raw.weekly, raw.daily, raw.hourly];
        let mut out: Vec<Tier> = Vec::new();
        // Where the last one was written, for the case that none is left.
        let mut last = 0..0;
        for ((name, period), text) in PERIODS.into_iter().zip(given).rev() {
            let default = DEFAULT_TIERS.iter().find(|(n, _)| *n == name).map(|(_, keep)| *keep);
            let span = text.as_ref().map(Spanned::span);
            let keep_hours = match text {
                Some(text) if text.get_ref() == "none" => {
                    last = text.span();
                    continue;
                }
                Some(text) => self.keep_of_tier(name, &text, period)?,
                None => match default {
                    Some(keep) => keep,
                    None => continue,
                },
            };
            if let Some(finer) = out.last().filter(|finer| finer.keep_hours > keep_hours) {
                let (a, b) = (duration(keep_hours), duration(finer.keep_hours));
                let what = format!("{name} keeps {a} and {} {b}", finer.name);
                let error = match span {
                    Some(span) => self.wrong(span, what),
                    None => Error::failed(format!("configuration: {what}")),
                };
                return Err(error.hint("a coarser tier keeps at least as long as a finer one: raise it"));
            }
            out.push(Tier { name: name.to_owned(), keep_hours });
        }
        if out.is_empty() {
            return Err(self.wrong(last, "no tier is left").hint("keep at least one of them"));
        }
        // Every snapshot of the coarsest tier is a full, and an hour is no period that the first run of would fill.
        if let [only] = &out[..]
            && only.name == "hourly"
        {
            let error = self.wrong(last, "hourly alone would store everything again in each run");
            return Err(error.hint("keep `daily` at least: what is finer then holds what changed since"));
        }
        out.reverse();
        Ok(out)
    }

    /// A tier that keeps less than its period would have none at all between two of its snapshots.
    fn keep_of_tier(&self, name: &str, text: &Spanned<String>, period: u32) -> Result<u32> {
        match parse_duration(text.get_ref()) {
            Some(hours) if hours < period => {
                let (keep, period) = (text.get_ref(), duration(period));
                let what = format!("{name} keeps {keep:?}, less than the {period} from one to the next");
                let hint = format!("keep at least {period}; \"none\" takes the tier away");
                Err(self.wrong(text.span(), what).hint(hint))
            }
            _ => self.keep(text, period),
        }
    }

    /// A keep of at least `least` hours.
    fn keep(&self, text: &Spanned<String>, least: u32) -> Result<u32> {
        let Some(hours) = parse_duration(text.get_ref()) else {
            let error = self.wrong(text.span(), format!("{:?} is no time to keep something", text.get_ref()));
            return Err(error.hint("write a number with h, d, w, mo or y, like `24h`, `30d` or `12mo`"));
        };
        if (least..=KEEP_HOURS_MAX).contains(&hours) {
            return Ok(hours);
        }
        let error = self.wrong(text.span(), format!("{:?} is too short or too long to keep", text.get_ref()));
        Err(error.hint(format!("from {} to {}", duration(least), duration(KEEP_HOURS_MAX))))
    }

    fn archive(&self, raw: RawArchive) -> Result<Archive> {
        let default = Archive::default();
        let level = match raw.level {
            None => default.level,
            Some(level) => match i32::try_from(*level.get_ref()) {
                Ok(fits) if LEVELS.contains(level.get_ref()) => fits,
                _ => {
                    let error = self.wrong(level.span(), format!("no zstd level {}", level.get_ref()));
                    return Err(error.hint(format!("from {} to {}", LEVELS.start(), LEVELS.end())));
                }
            },
        };
        Ok(Archive { level, check_frames: raw.check_frames.unwrap_or(default.check_frames) })
    }
}

/// Whether a text holds an age identity.
pub(super) fn holds_key(text: &str) -> bool {
    text.to_ascii_uppercase().contains("AGE-SECRET-KEY-")
}
