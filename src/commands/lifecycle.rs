//! `lifeboat lifecycle`: prints the rules with which a bucket does the retention itself, and checks those in force.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::session::{Configured, configuration};
use super::signing::{in_force, signing};
use super::snapshots;
use super::{Event, Events, Report, count_text};
use crate::error::{At as _, Error, Result};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::config::Config;
use crate::model::lifecycle::{self, Bucket, Cloud};
use crate::model::lifecycle_rules::{self, Fate};
use crate::model::store_key::Archive;

/// What `lifecycle print` was asked for.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Whose rules; `None` takes it from the store.
    pub cloud: Option<Cloud>,
    /// Another store than the configured one, such as a mirror.
    pub store: Option<String>,
}

/// The rules.
#[derive(Debug, Serialize)]
pub struct Rules {
    /// `s3`, `gcs` or `azure`.
    #[serde(rename = "for")]
    pub cloud: &'static str,
    /// The bucket or container.
    pub bucket: String,
    /// What puts them in force, if they are in a file `lifecycle.json`.
    pub command: String,
    /// As the cloud's own tool takes them.
    pub rules: serde_json::Value,
    /// The same as text, in the order in which people write it.
    #[serde(skip)]
    pub document: String,
}

impl Report for Rules {
    fn text(&self) -> String {
        format!("{}\n", self.document)
    }
}

/// Writes the rules for the configured store and tiers. Asks nobody: it needs no store and no credential.
///
/// # Errors
/// When there is no configuration, or its store is no bucket of that cloud.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Rules> {
    let Some(configured) = configuration(world)? else {
        return Err(Error::not_there("there is no configuration here").hint("`lifeboat init` makes one"));
    };
    let store = args.store.as_ref().unwrap_or(&configured.config.store);
    let bucket = Bucket::of(store)?;
    if let Some(asked) = args.cloud.filter(|cloud| *cloud != bucket.cloud) {
        let asked = asked.word();
        return Err(Error::usage(format!("the store {store} takes no rules of {asked}"))
            .hint(format!("leave --for out, or say --for {}", bucket.cloud.word())));
    }
    let rules = lifecycle::rules(&configured.config);
    let failed = |e| Error::failed("cannot write the rules").because(e);
    let document = lifecycle::document(&bucket, &rules).map_err(failed)?;
    let command = lifecycle::command(&bucket, "lifecycle.json");
    events(Event::Note(format!("save this as lifecycle.json, then: {command}")));
    events(Event::Note(
        "It replaces every rule that is there now: add the rules of other prefixes to the file first.".to_owned(),
    ));
    Ok(Rules {
        cloud: bucket.cloud.word(),
        bucket: bucket.name,
        command,
        rules: serde_json::from_str(&document).map_err(failed)?,
        document,
    })
}

/// The largest document of rules that is read, in bytes.
const RULES_BYTES_MAX: u64 = 4 << 20;
/// Seconds in a day.
const DAY_SECONDS: i64 = 86_400;
/// A store that ends lives at midnights, and takes its time about it, may be so many days late.
const LATE_DAYS: i64 = 3;

/// What `lifecycle check` was asked for.
#[derive(Clone, Debug, Default)]
pub struct CheckArgs {
    /// A file with the rules in force, as the cloud's own tool prints them; `-` for standard input. Without one they are
    /// judged by what is on the store.
    pub rules: Option<PathBuf>,
    /// Another store than the configured one, such as a mirror.
    pub store: Option<String>,
}

/// How a prefix fares.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// What keys begin with, below the store's prefix.
    pub prefix: String,
    /// Days that its objects have to live; nothing for what has no end.
    pub days: Option<u64>,
    /// Whether all is well.
    pub ok: bool,
    /// In words.
    pub text: String,
}

/// What `lifecycle check` found.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The store.
    pub store: String,
    /// Whether rules were read, rather than judged by what is there.
    pub by_rules: bool,
    /// How each prefix fares.
    pub prefixes: Vec<Checked>,
}

impl Report for Check {
    fn text(&self) -> String {
        let mut out = String::new();
        for one in &self.prefixes {
            let mark = if one.ok { "ok  " } else { "BAD " };
            out.push_str(&format!("{mark}  {:<16} {}\n", one.prefix, one.text));
        }
        match self.prefixes.iter().filter(|p| !p.ok).count() as u64 {
            0 => out.push_str("all is well\n"),
            n => out.push_str(&format!("{} to put right: `lifeboat lifecycle print`\n", count_text(n, "thing"))),
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        self.prefixes.iter().filter(|p| !p.ok).map(|p| format!("{}: {}", p.prefix, p.text)).collect()
    }
}

/// Checks the rules in force, or what they have made of the store.
///
/// # Errors
/// When there is no configuration, the rules cannot be read or are none of the store's cloud, or the store cannot be read.
pub fn check(world: &World, args: &CheckArgs, events: &mut Events<'_>) -> Result<Check> {
    let Some(configured) = configuration(world)? else {
        return Err(Error::not_there("there is no configuration here").hint("`lifeboat init` makes one"));
    };
    let store = args.store.as_ref().unwrap_or(&configured.config.store);
    if let Some(file) = &args.rules {
        let prefixes = by_rules(&configured.config, &Bucket::of(store)?, &read(file)?)?;
        return Ok(Check { store: store.clone(), by_rules: true, prefixes });
    }
    events(Event::Phase("looking at the store"));
    by_store(world, &configured, store)
}

fn read(file: &Path) -> Result<String> {
    let open = || -> std::io::Result<Box<dyn std::io::Read>> {
        if file == Path::new("-") {
            return Ok(Box::new(std::io::stdin()));
        }
        Ok(Box::new(std::fs::File::open(file)?))
    };
    let mut text = String::new();
    open().and_then(|from| from.take(RULES_BYTES_MAX).read_to_string(&mut text)).at("read the rules in", file)?;
    Ok(text)
}

fn by_rules(config: &Config, bucket: &Bucket, text: &str) -> Result<Vec<Checked>> {
    let in_force = lifecycle_rules::read(bucket, text)?;
    let findings = lifecycle_rules::compare(bucket, &lifecycle::rules(config), &in_force);
    let checked = |finding: lifecycle_rules::Finding| {
        let needs = finding.wanted.map_or(String::new(), |days| format!("{days} days"));
        let (ok, text) = match finding.fate {
            Fate::Right => (true, needs),
            Fate::Long(days) => (true, format!("{days} days, and {needs} would be enough")),
            Fate::Missing => (false, format!("no rule removes it: it grows without end; {needs} are needed")),
            Fate::Short(days) => (false, format!("a rule removes it after {days} days: {needs} are promised")),
            Fate::Endless(days) => (false, format!("a rule removes it after {days} days, and it is to stay for good")),
        };
        Checked { prefix: finding.prefix, days: finding.wanted, ok, text }
    };
    Ok(findings.into_iter().map(checked).collect())
}

/// What is older than it may be says that a rule does not run, and what is gone too early that one is too short.
fn by_store(world: &World, configured: &Configured, store: &str) -> Result<Check> {
    let Configured { config, file } = configured;
    let store = Store::open(world, store, Access::Existing)?;
    let signers = in_force(&store, &config.name, &signing(world, file)?)?;
    let found = snapshots::load(&store, &config.name, Some(&signers))?;
    let now = world.now();
    let mut there: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let rules = lifecycle::rules(config);
    let prefix_of = |archive: Archive, tier: Option<&str>| match archive {
        Archive::State => format!("state/{}/", tier.unwrap_or_default()),
        Archive::Secrets => "secrets/".to_owned(),
    };
    for one in found.iter().filter(|f| !f.place.is_pinned()) {
        let prefix = prefix_of(one.place.archive, one.place.tier.as_deref());
        let Some(rule) = rules.iter().find(|r| r.prefix == prefix) else { continue };
        let days = i64::try_from(rule.days).unwrap_or(i64::MAX).saturating_add(LATE_DAYS);
        let late = one.place.id.unix_seconds().saturating_add(days.saturating_mul(DAY_SECONDS)) <= now;
        let (all, old) = there.entry(prefix).or_default();
        *all += 1;
        *old += u64::from(late);
    }
    let pruned = store.local().is_some();
    let mut prefixes: Vec<Checked> = rules
        .iter()
        .map(|rule| {
            let (all, old) = there.get(&rule.prefix).copied().unwrap_or_default();
            let all = count_text(all, "archive");
            let text = match old {
                // A directory is pruned chain by chain, and what others lean on stays.
                n if n > 0 && pruned => {
                    format!("{} days; of {all} {n} are older by more than {LATE_DAYS}: see `lifeboat prune`", rule.days)
                }
                0 => format!("{} days; {all}, none past that", rule.days),
                n => {
                    format!("{} days; of {all} {n} are older by more than {LATE_DAYS}: no rule removes them", rule.days)
                }
            };
            Checked { prefix: rule.prefix.clone(), days: Some(rule.days), ok: old == 0 || pruned, text }
        })
        .collect();
    for line in snapshots::hidden(&found, now) {
        let text = format!("gone before its time, by a rule that is too short or by somebody: {line}");
        prefixes.push(Checked { prefix: format!("series {}", config.name), days: None, ok: false, text });
    }
    Ok(Check { store: store.name(), by_rules: false, prefixes })
}
