//! `lifeboat verify`: the bytes on the store against what was signed, without an identity.

mod bytes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::snapshots::{self, Found, Standing, Wanted};
use super::whereabouts::{self, Told, Whereabouts};
use super::{Event, Events, Report, bytes_text, count_text};
use crate::error::{Error, Kind, Result};
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::chain::Link;
use crate::model::config::{Tier, default_tiers};
use crate::model::path::printable;
use crate::model::store_key::{Archive, COMMIT, PIN, Place, SECRETS_PINNED, SIGNATURE, is_volume_name};
use crate::model::tiers::keep_seconds;

/// Seconds of a day but the last.
const DAY_BUT_A_SECOND: i64 = 86_399;

/// What `verify` was asked to look at.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which snapshot; the newest if neither this nor anything else is said.
    pub snapshot: Option<String>,
    /// Every archive of the series.
    pub all: bool,
    /// Those made since a time, with their chains.
    pub since: Option<String>,
    /// The share of objects that are read, from 0 to 1; commits and sizes are always looked at.
    pub sample: Option<f64>,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub name: Option<String>,
    /// The recovery kit, for its public key.
    pub identity: Option<PathBuf>,
    /// The public key itself, or a file with it.
    pub key: Option<String>,
}

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A commit names it, and it is not there.
    Missing,
    /// It is shorter than its commit says.
    Truncated,
    /// Its bytes are not those that were signed.
    Altered,
    /// A commit that does not verify.
    Unsigned,
    /// It is there, and no commit names it.
    Unexpected,
    /// A snapshot lacks a member of its chain.
    Broken,
    /// A signed commit names an archive that is gone before its time.
    Hidden,
    /// It could not be read.
    Unreadable,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What.
    pub what: What,
    /// The object or directory it is about.
    pub object: String,
    /// More about it.
    pub why: String,
}

/// What `verify` found.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// The directories of the archives that were looked at.
    pub archives: Vec<String>,
    /// Objects whose every byte was read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects of which only the size was compared, as a sample was asked for.
    pub not_read: u64,
    /// What is wrong, by kind and name.
    pub findings: Vec<Finding>,
    /// Directories without a commit: interrupted runs, or one under way.
    pub incomplete: Vec<String>,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Report for Done {
    fn text(&self) -> String {
        let mut out = format!(
            "verified {} of {} on {}: {} read, {}\n",
            count_text(self.archives.len() as u64, "archive"),
            self.series,
            self.store,
            count_text(self.objects, "object"),
            bytes_text(self.bytes)
        );
        if self.not_read > 0 {
            let rest = count_text(self.not_read, "other object");
            out.push_str(&format!("of {rest} only the size was compared: a sample was asked for\n"));
        }
        if !self.incomplete.is_empty() {
            let n = count_text(self.incomplete.len() as u64, "archive");
            out.push_str(&format!("{n} without a commit: interrupted runs, or one under way\n"));
        }
        if self.findings.is_empty() && self.archives.is_empty() {
            out.push_str("there was nothing to look at\n");
        } else if self.findings.is_empty() {
            out.push_str("every commit verifies, and every object is as it was signed\n");
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        let line = |f: &Finding| {
            let word = serde_json::to_value(f.what).ok().and_then(|v| v.as_str().map(str::to_owned));
            format!("{}: {}: {}", word.unwrap_or_default(), f.object, f.why)
        };
        self.findings.iter().map(line).collect()
    }

    fn verdict(&self) -> Option<Kind> {
        match self.findings.iter().all(|f| f.what == What::Unreadable) {
            _ if self.findings.is_empty() => None,
            // What could not be reached is no damage.
            true => Some(Kind::Failed),
            false => Some(Kind::Damaged),
        }
    }
}

/// Compares what is on the store with what was signed.
///
/// # Errors
/// When the store cannot be listed, there is no key to verify with, or no snapshot is meant. What is wrong with what is
/// there stands in the report.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let begun = std::time::Instant::now();
    let told = Told {
        identity: args.identity.as_deref(),
        store: args.store.as_deref(),
        name: args.name.as_deref(),
        key: args.key.as_deref(),
    };
    let place = whereabouts::find(world, told)?;
    let (series, key) = (place.series()?.to_owned(), place.key()?);
    let scope = Scope::parse(args, world.now())?;
    let found = snapshots::load(&place.store, &series, Some(key))?;
    let mut findings: Vec<Finding> = Vec::new();
    for one in &found {
        if let Standing::Unverified { why, .. } = &one.standing {
            findings.push(finding(What::Unsigned, &one.place.directory(), printable(why.to_string().as_bytes())));
        }
    }
    for line in &place.refused_keys {
        findings.push(finding(What::Unsigned, &format!("keys/{series}"), line.clone()));
    }
    for line in snapshots::hidden(&found, world.now()) {
        findings.push(finding(What::Hidden, &format!("series {series}"), line));
    }
    let tiers = tiers(&place, &series);
    let chosen = select(&found, &scope, &tiers, world.now(), &mut findings)?;
    let (mut work, mut sampled) = (Vec::new(), 0);
    let seed = seed()?;
    for one in &chosen {
        by_listing(one, &mut findings);
        for object in one.verified().map(|c| &c.objects[..]).unwrap_or_default() {
            let name = one.place.object(&object.name);
            if one.objects.get(&object.name) != Some(&object.size) {
                continue;
            }
            if args.sample.is_none_or(|share| in_sample(&seed, &name, share)) {
                work.push((name, object));
            } else {
                sampled += 1;
            }
        }
    }
    unexpected(&place.store, &series, &chosen, &mut findings)?;
    events(Event::Phase("verifying"));
    let (objects, bytes) = bytes::read_all(world, &place.store, &work, &mut findings, events)?;
    findings.sort();
    findings.dedup();
    Ok(Done {
        series,
        store: place.store.name(),
        archives: chosen.iter().map(|f| f.place.directory()).collect(),
        objects,
        bytes,
        not_read: sampled,
        findings,
        incomplete: found
            .iter()
            .filter(|f| matches!(f.standing, Standing::Incomplete))
            .map(|f| f.place.directory())
            .collect(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn finding(what: What, object: &str, why: impl Into<String>) -> Finding {
    Finding { what, object: object.to_owned(), why: why.into() }
}

fn tiers(place: &Whereabouts, series: &str) -> Vec<Tier> {
    let config = place.configured.as_ref().map(|c| &c.config).filter(|c| c.name == series);
    config.map_or_else(default_tiers, |c| c.tiers.clone())
}

/// Which archives are meant.
enum Scope {
    All,
    Since(i64),
    One(Wanted),
}

impl Scope {
    fn parse(args: &Args, now: i64) -> Result<Scope> {
        match (&args.since, &args.snapshot) {
            (Some(text), _) => Ok(Scope::Since(since(text, now)?)),
            (None, Some(text)) => Ok(Scope::One(Wanted::parse(text, now)?)),
            (None, None) if args.all => Ok(Scope::All),
            (None, None) => Ok(Scope::One(Wanted::Latest)),
        }
    }
}

/// A date means its first second here.
fn since(text: &str, now: i64) -> Result<i64> {
    match Wanted::parse(text, now) {
        Ok(Wanted::Before(end)) if text.trim().parse::<jiff::civil::Date>().is_ok() => Ok(end - DAY_BUT_A_SECOND),
        Ok(Wanted::Before(time)) => Ok(time),
        _ => Err(Error::usage(format!("`{}` is no time", printable(text.as_bytes())))
            .hint("write a date as 2026-11-20, a time as 2026-11-20T08:00:00Z, or \"3 days ago\"")),
    }
}

/// The archives that are looked at, each once; what their chains lack becomes findings.
fn select<'a>(
    found: &'a [Found],
    scope: &Scope,
    tiers: &[Tier],
    now: i64,
    findings: &mut Vec<Finding>,
) -> Result<Vec<&'a Found>> {
    let mut out: BTreeMap<String, &Found> = BTreeMap::new();
    let mut take = |first: &'a Found, findings: &mut Vec<Finding>| -> bool {
        match snapshots::chain(found, first, false, now) {
            Ok(chain) => {
                out.extend(chain.into_iter().map(|f| (f.place.directory(), f)));
                true
            }
            Err(broken) => {
                out.extend(there_of_chain(found, first).into_iter().map(|f| (f.place.directory(), f)));
                let tier = first.place.tier.as_deref().unwrap_or_default();
                let keep = first.verified().map_or(0, |c| keep_seconds(tiers, tier, c.life));
                let over = now >= first.place.id.unix_seconds().saturating_add(keep) && !first.place.is_pinned();
                if !broken.expired && !over {
                    let why = format!("it needs {}, which {}", broken.needs, broken.why);
                    findings.push(finding(What::Broken, &first.place.directory(), why));
                }
                false
            }
        }
    };
    let verified = || found.iter().filter(|f| f.verified().is_some());
    if verified().next().is_none() && findings.is_empty() {
        return Err(Error::not_there("there is nothing on the store that could be verified")
            .hint("was it exchanged or emptied? `lifeboat list --all` shows every series that is there"));
    }
    let from = match scope {
        Scope::All => i64::MIN,
        Scope::Since(time) => *time,
        Scope::One(wanted) => {
            let mut candidates: Vec<&Found> = verified().filter(|f| wanted.matches(&f.place.id)).collect();
            candidates.sort_by_key(|f| std::cmp::Reverse(f.verified().map(|c| c.seq)));
            if candidates.is_empty() && findings.is_empty() {
                return Err(Error::not_there("no snapshot that verifies matches what was asked for")
                    .hint("`lifeboat list` shows the ids and times"));
            }
            let (state, bundles): (Vec<_>, Vec<_>) =
                candidates.into_iter().partition(|f| f.place.archive == Archive::State);
            state.iter().any(|f| take(f, findings));
            // A restore takes the newest bundle, whatever the age of the state; one that was named is meant itself.
            let bundle = match (state.is_empty(), wanted) {
                (true, Wanted::Id(_)) => bundles.first().copied(),
                _ => snapshots::newest(found, Archive::Secrets),
            };
            if let Some(bundle) = bundle {
                take(bundle, findings);
            }
            return Ok(out.into_values().collect());
        }
    };
    for one in verified().filter(|f| f.place.id.unix_seconds() >= from) {
        take(one, findings);
    }
    // One whose life is over goes object by object: what of it is gone is no damage.
    out.retain(|_, f| {
        let over = f.verified().is_some_and(|c| Link::of(c).ends() <= now) && !f.place.is_pinned();
        !(over && f.damage().is_some())
    });
    Ok(out.into_values().collect())
}

/// What verifies of a chain that is broken: the snapshot and its ancestors, as far as they lead.
fn there_of_chain<'a>(found: &'a [Found], first: &'a Found) -> Vec<&'a Found> {
    let mut out = vec![first];
    let mut child = first;
    while let Some(parent) = child.verified().and_then(|c| c.parent.as_ref()) {
        let named = |f: &&Found| f.place.archive == Archive::State && f.commit_sha256 == parent.sha256;
        // What comes before its child cannot come again.
        let older = |f: &&Found| f.verified().map(|c| c.seq) < child.verified().map(|c| c.seq);
        let Some(next) = found.iter().filter(|f| f.verified().is_some()).filter(named).find(older) else { break };
        out.push(next);
        child = next;
    }
    out
}

/// What the listing alone tells about the objects of a commit.
fn by_listing(found: &Found, findings: &mut Vec<Finding>) {
    for object in found.verified().map(|c| &c.objects[..]).unwrap_or_default() {
        let name = found.place.object(&object.name);
        match found.objects.get(&object.name) {
            None => findings.push(finding(What::Missing, &name, "its commit names it, and it is not on the store")),
            Some(size) if *size < object.size => {
                findings.push(finding(What::Truncated, &name, format!("it has {size} bytes of {}", object.size)));
            }
            Some(size) if *size > object.size => {
                let why = format!("it has {size} bytes, and {} were signed", object.size);
                findings.push(finding(What::Altered, &name, why));
            }
            Some(_) => {}
        }
    }
}

/// What lies in the directories of the chosen archives and no commit names.
fn unexpected(store: &Store, series: &str, chosen: &[&Found], findings: &mut Vec<Finding>) -> Result<()> {
    let directories: BTreeMap<String, &Found> = chosen.iter().map(|f| (f.place.directory(), *f)).collect();
    let above = |place: &Place| match (&place.archive, &place.tier) {
        (Archive::State, tier) => format!("state/{}/{series}", tier.as_deref().unwrap_or_default()),
        (Archive::Secrets, None) => format!("secrets/{series}"),
        (Archive::Secrets, Some(_)) => format!("{SECRETS_PINNED}/{series}"),
    };
    let prefixes: BTreeSet<String> = chosen.iter().map(|f| above(&f.place)).collect();
    for prefix in prefixes {
        for listed in store.list(&prefix)? {
            let Some((directory, commit)) =
                directories.get(directory_of(&listed.key)).and_then(|f| Some((f.place.directory(), f.verified()?)))
            else {
                continue;
            };
            let name = listed.key[directory.len()..].trim_start_matches('/');
            let pin = name == PIN && directory.starts_with("state/pinned/");
            let known = pin || matches!(name, COMMIT | SIGNATURE) || commit.objects.iter().any(|o| o.name == name);
            // A run that was interrupted and continued leaves volumes that nobody needs, before the last one in use.
            let last = commit.objects.iter().rev().find(|o| is_volume_name(&o.name));
            let left = is_volume_name(name) && last.is_some_and(|last| name < last.name.as_str());
            if !known && !left {
                let object = printable(listed.key.as_bytes());
                findings.push(finding(What::Unexpected, &object, "no commit names it: nothing reads it"));
            }
        }
    }
    Ok(())
}

/// The directory of an archive that a key lies in, however deep: the first four or three components of the key.
fn directory_of(key: &str) -> &str {
    let depth = if key.starts_with("state/") { 4 } else { 3 };
    key.match_indices('/').nth(depth - 1).map_or(key, |(at, _)| &key[..at])
}

fn seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| Error::failed("there is no randomness").because(e.to_string()))?;
    Ok(seed)
}

/// Whether an object is of the sample. It is drawn anew in each run, so that in time all of them are.
fn in_sample(seed: &[u8; 32], name: &str, share: f64) -> bool {
    let digest = blake3::keyed_hash(seed, name.as_bytes());
    let drawn = digest.as_bytes()[..4].iter().fold(0_u32, |n, b| n << 8 | u32::from(*b));
    f64::from(drawn) < share * (f64::from(u32::MAX) + 1.0)
}

/// The share that `5%` or `0.05` means.
///
/// # Errors
/// [`Kind::Usage`] unless it is above 0 and at most all.
pub fn parse_share(text: &str) -> Result<f64> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|n| n / 100.0),
        None => text.parse::<f64>(),
    };
    share.ok().filter(|s| *s > 0.0 && *s <= 1.0).ok_or_else(|| {
        Error::usage(format!("`{}` is no share", printable(text.as_bytes()))).hint("write it as 5%, or as 0.05")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn shares_are_above_nothing_and_at_most_all() {
        for (text, share) in [("5%", 0.05), ("100%", 1.0), ("0.5", 0.5), ("1", 1.0)] {
            assert!((parse_share(text).unwrap() - share).abs() < 1e-12, "{text}");
        }
        for text in ["0", "0%", "101%", "-5%", "five", "", "%", "NaN", "inf"] {
            assert_eq!(parse_share(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn a_sample_is_about_as_large_as_was_asked_for_and_another_each_time() {
        let names: Vec<String> = (0..4000).map(|n| format!("state/x/{n}")).collect();
        let drawn = |seed: u8, share| -> Vec<&String> {
            names.iter().filter(|name| in_sample(&[seed; 32], name, share)).collect()
        };
        assert_eq!(drawn(1, 1.0).len(), 4000);
        let tenth = drawn(1, 0.1).len();
        assert!((300..500).contains(&tenth), "{tenth}");
        assert_ne!(drawn(1, 0.1), drawn(2, 0.1));
    }

    #[test]
    fn keys_belong_to_directories() {
        assert_eq!(directory_of("state/daily/vm1/ID/a/b"), "state/daily/vm1/ID");
        assert_eq!(directory_of("secrets/vm1/ID/commit"), "secrets/vm1/ID");
        assert_eq!(directory_of("secrets/vm1"), "secrets/vm1");
    }
}
