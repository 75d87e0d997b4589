//! `lifeboat status`: whether what there is on a store is young enough, on one screen.

use std::path::PathBuf;

use serde::Serialize;

use super::counts::Numbers;
use super::snapshots::{self, Doubts, Found, Standing};
use super::whereabouts::{self, Told, Whereabouts};
use super::write_archive::clock_text;
use super::{Event, Events, Report, bytes_text, count_text, fleet, guard, metrics, mirror, receipts, sweeping};
use crate::error::{Error, Kind, Result};
use crate::host::catalog::Catalog;
use crate::host::replace::replace_file;
use crate::host::world::World;
use crate::model::chain::Link;
use crate::model::commit::Commit;
use crate::model::path::printable;
use crate::model::store_key::{Archive, SnapshotId};
use crate::model::watch::Status as Limits;

/// Seconds in an hour.
const HOUR: i64 = 3600;
/// Seconds in a week, over which a trend is told.
const WEEK: i64 = 7 * 24 * HOUR;
/// How far a clock may be ahead of this one, in seconds. What is further ahead says nothing about age.
const AHEAD_SECONDS: i64 = 15 * 60;

/// What `status` was asked to look at.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Every series on the store, by names and commits alone.
    pub all: bool,
    /// Also write the figures to this file, in the text format of Prometheus.
    pub metrics: Option<PathBuf>,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub name: Option<String>,
    /// The recovery kit, for its public key.
    pub identity: Option<PathBuf>,
    /// The public key itself, or a file with it.
    pub key: Option<String>,
}

/// The newest of something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Newest {
    /// Its id.
    pub id: String,
    /// When it was made, RFC 3339.
    pub time: String,
    /// The same in Unix seconds.
    pub unix: i64,
    /// The tier, of a snapshot.
    pub tier: Option<String>,
    /// Its bytes on the store.
    pub stored: u64,
    /// How many snapshots its chain has.
    pub chain: Option<usize>,
    /// RFC 3339: when a lifecycle may remove the first of its chain.
    pub expires: Option<String>,
    /// Whether what it holds looked as if something had gone wrong.
    pub suspicious: bool,
}

/// The newest drill that passed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drilled {
    /// The drill's id.
    pub id: String,
    /// The snapshot that was restored.
    pub snapshot: String,
    /// When, RFC 3339.
    pub time: String,
    /// The same in Unix seconds.
    pub unix: i64,
    /// How long the restore took, in seconds, if the receipt was read.
    pub seconds: Option<f64>,
    /// How old the snapshot was then, in seconds.
    pub age: Option<u64>,
    /// Bytes that were restored.
    pub bytes: Option<u64>,
}

/// One series.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// The series.
    pub series: String,
    /// Whether signatures were checked; else all of this is what names and commits say.
    pub verified: bool,
    /// The newest snapshot that can be restored.
    pub snapshot: Option<Newest>,
    /// The newest that nobody doubts, where the newest is suspicious.
    pub good: Option<Newest>,
    /// The newest secrets bundle.
    pub bundle: Option<Newest>,
    /// The newest drill that passed.
    pub drill: Option<Drilled>,
    /// Snapshots that have a commit.
    pub snapshots: u64,
    /// Bundles that have a commit.
    pub bundles: u64,
    /// Bytes on the store.
    pub stored: u64,
    /// Of these, bytes of the last seven days.
    pub stored_week: u64,
    /// And of the seven days before.
    pub stored_week_before: u64,
    /// Archives without a commit: interrupted runs, or one under way.
    pub incomplete: u64,
    /// RFC 3339: when the next life ends.
    pub next_expiry: Option<String>,
    /// How the mirrors of this host stand, as its last backup left them.
    pub mirrors: Vec<mirror::Standing>,
    /// Why it is too old, in sentences.
    pub late: Vec<String>,
    /// Signs that somebody tampered with the store.
    pub damage: Vec<String>,
    /// Of this host's own series: in how many places of the state values of secrets were seen since the last full.
    pub leaks: Option<u64>,
    /// Of this host's own series: what its agents had when the last snapshot was made, by archive path of the home.
    pub agents: Numbers,
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The store.
    pub store: String,
    /// By name.
    pub series: Vec<Row>,
    /// The clock it was judged by, in Unix seconds.
    pub now: i64,
    /// Whether it was asked for every series.
    #[serde(skip)]
    pub all: bool,
}

impl Report for Done {
    fn text(&self) -> String {
        if self.series.is_empty() {
            return format!("no series on {}\n", self.store);
        }
        if self.all { fleet::text(self) } else { self.series.iter().map(|row| row.text(self)).collect() }
    }

    fn problems(&self) -> Vec<String> {
        let lines = |row: &Row| {
            let damage = row.damage.iter().map(|d| format!("damage: {}: {d}", row.series));
            let late = row.late.iter().map(|l| format!("too old: {}: {l}", row.series));
            let suspicious = row.is_suspicious().then(|| {
                let remedy = "`lifeboat backup` on that machine says why, and `lifeboat accept` there that all is as it should be";
                format!("suspicious: {}: the newest snapshot is marked; {remedy}", row.series)
            });
            damage.chain(suspicious).chain(late).collect::<Vec<_>>()
        };
        self.series.iter().flat_map(lines).collect()
    }

    fn verdict(&self) -> Option<Kind> {
        if self.series.iter().any(|row| !row.damage.is_empty()) {
            return Some(Kind::Damaged);
        }
        if self.series.iter().any(Row::is_suspicious) {
            return Some(Kind::Suspicious);
        }
        self.series.iter().any(|row| !row.late.is_empty()).then_some(Kind::TooOld)
    }
}

impl Row {
    fn is_suspicious(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|n| n.suspicious)
    }

    fn text(&self, done: &Done) -> String {
        let mut out = format!("series {} on {}\n", self.series, done.store);
        let mut line = |name: &str, text: String| out.push_str(&format!("  {name:<15}  {text}\n"));
        let shown =
            [("newest snapshot", &self.snapshot), ("newest good one", &self.good), ("newest bundle", &self.bundle)];
        for (name, newest) in shown {
            if name == "newest good one" && !self.is_suspicious() {
                continue;
            }
            let Some(n) = newest else {
                line(name, "none".to_owned());
                continue;
            };
            let mut parts = vec![format!("{}  {} ago", n.time, age_text(done.now - n.unix))];
            parts.extend(n.tier.clone());
            parts.push(bytes_text(n.stored));
            parts.extend(n.chain.filter(|c| *c > 1).map(|c| format!("chain of {c}")));
            parts.extend(n.suspicious.then(|| "SUSPICIOUS".to_owned()));
            line(name, parts.join(", "));
        }
        line(
            "newest drill",
            self.drill.as_ref().map_or_else(
                || "none that passed".to_owned(),
                |d| {
                    let took = d.seconds.map_or(String::new(), |s| format!(", restored in {s:.1} s"));
                    let size = d.bytes.map_or(String::new(), |b| format!(", {}", bytes_text(b)));
                    format!("{}  {} ago{took}{size}", d.time, age_text(done.now - d.unix))
                },
            ),
        );
        let counts = [count_text(self.snapshots, "snapshot"), count_text(self.bundles, "bundle")];
        line("stored", format!("{}, {}", counts.join(", "), bytes_text(self.stored)));
        let (week, before) = (bytes_text(self.stored_week), bytes_text(self.stored_week_before));
        line("trend", format!("{week} in the last 7 days, {before} in the 7 before"));
        for mirror in &self.mirrors {
            line("mirror", mirror.text());
        }
        if let Some(at) = &self.next_expiry {
            line("next expiry", at.clone());
        }
        for (home, numbers) in &self.agents {
            let numbers: Vec<String> = numbers.iter().map(|(what, n)| format!("{n} {what}")).collect();
            line("agent", format!("{home}: {}", numbers.join(", ")));
        }
        if let Some(places) = self.leaks {
            line(
                "sweep",
                match places {
                    0 => "no value of a secret seen in the state".to_owned(),
                    n => format!(
                        "values of secrets in {} of the state (`lifeboat secrets leaks`)",
                        count_text(n, "place")
                    ),
                },
            );
        }
        if self.incomplete > 0 {
            line("incomplete runs", self.incomplete.to_string());
        }
        out
    }

    /// Adds what is older than it may be.
    pub fn judge(&mut self, limits: &Limits, now: i64) {
        let mut judge = |what: &str, at: Option<i64>, hours: Option<u32>, remedy: &str| {
            let Some(hours) = hours.map(i64::from) else { return };
            match at {
                None => self.late.push(format!("there is no {what}; {remedy}")),
                Some(at) if now - at > hours * HOUR => {
                    let (age, may) = (age_text(now - at), age_text(hours * HOUR));
                    self.late.push(format!("the newest {what} is {age} old, and may be {may}; {remedy}"));
                }
                Some(_) => {}
            }
        };
        let (snapshot, drill) = (self.snapshot.as_ref().map(|n| n.unix), self.drill.as_ref().map(|d| d.unix));
        judge("snapshot", snapshot, limits.snapshot_hours, "see why `lifeboat backup` does not run");
        judge("drill that passed", drill, limits.drill_hours, "run `lifeboat drill`");
        for mirror in &self.mirrors {
            let since = mirror
                .behind_since_unix
                .filter(|since| limits.snapshot_hours.is_some_and(|hours| now - since > i64::from(hours) * HOUR));
            self.late.extend(since.and_then(|_| mirror.problem()));
        }
    }

    /// Counts one archive that has a commit.
    pub fn count(&mut self, archive: Archive, id: &SnapshotId, stored: u64, now: i64) {
        match archive {
            Archive::State => self.snapshots += 1,
            Archive::Secrets => self.bundles += 1,
        }
        self.stored += stored;
        match now - id.unix_seconds() {
            age if (0..WEEK).contains(&age) => self.stored_week += stored,
            age if (WEEK..2 * WEEK).contains(&age) => self.stored_week_before += stored,
            _ => {}
        }
    }
}

/// Whether an id's time is so far ahead of the clock that it tells nothing about age.
pub fn is_ahead(id: &SnapshotId, now: i64) -> bool {
    id.unix_seconds() > now + AHEAD_SECONDS
}

/// `45 min`, `26 h`, `12 d`.
pub fn age_text(seconds: i64) -> String {
    match seconds.max(0) {
        s if s < 2 * HOUR => format!("{} min", s / 60),
        s if s < 72 * HOUR => format!("{} h", s / HOUR),
        s => format!("{} d", s / (24 * HOUR)),
    }
}

/// Looks at one series, or at all on a store.
///
/// # Errors
/// When the store is not there or cannot be listed, there is no key to verify one series with, or the metrics cannot be
/// written.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let told = Told {
        identity: args.identity.as_deref(),
        store: args.store.as_deref(),
        name: args.name.as_deref(),
        key: args.key.as_deref(),
    };
    let place = whereabouts::find(world, told)?;
    let limits = place.configured.as_ref().map(|c| c.config.status).unwrap_or_default();
    let now = world.now();
    let mut series = if args.all { fleet::look(&place.store, now)? } else { vec![one(world, &place, events)?] };
    let own = place.configured.as_ref().map(|c| &c.config);
    for row in &mut series {
        row.mirrors = own.filter(|c| c.name == row.series).map(|c| mirror::standings(world, c)).unwrap_or_default();
        row.judge(&limits, now);
    }
    let done = Done { store: place.store.name(), series, now, all: args.all };
    if let Some(file) = &args.metrics {
        replace_file(file, &metrics::text(&done))?;
    }
    Ok(done)
}

fn one(world: &World, place: &Whereabouts, events: &mut Events<'_>) -> Result<Row> {
    let now = world.now();
    let series = place.series()?;
    let key = place.key().map_err(|e| {
        let hint = e.advice().unwrap_or_default().to_owned();
        Error::new(e.kind(), e.to_string()).hint(format!("{hint}; `lifeboat status --all` needs no key"))
    })?;
    let found = snapshots::load(&place.store, series, Some(key))?;
    let mut row = Row { series: series.to_owned(), verified: true, ..Row::default() };
    for one in &found {
        match &one.standing {
            Standing::Verified(commit) => {
                row.count(commit.archive, &commit.id, one.objects.values().sum(), now);
                if is_ahead(&commit.id, now) {
                    let id = &commit.id;
                    events(Event::Warning(format!(
                        "{id} is from the future, and says nothing about age: look at the clocks"
                    )));
                }
            }
            Standing::Unverified { why, .. } => {
                let why = printable(why.to_string().as_bytes());
                row.damage.push(format!("{} does not verify: {why}", one.place.directory()));
            }
            Standing::Incomplete => row.incomplete += 1,
        }
    }
    row.damage.extend(place.refused_keys.iter().cloned());
    row.damage.extend(snapshots::hidden(&found, now));
    let doubts = Doubts::of(&found);
    row.snapshot = newest(&found, Archive::State, now, &|_| true, events);
    if row.is_suspicious() {
        row.good = newest(&found, Archive::State, now, &|commit| !doubts.about(commit), events);
    }
    row.bundle = newest(&found, Archive::Secrets, now, &|_| true, events);
    row.drill = receipts::newest(&place.store, series, key, now, true, events)?.map(|r| Drilled {
        id: r.drill.to_string(),
        snapshot: r.snapshot.0.to_string(),
        time: clock_text(r.drill.unix_seconds()),
        unix: r.drill.unix_seconds(),
        seconds: Some(std::time::Duration::from_millis(r.milliseconds).as_secs_f64()),
        age: Some(r.age_seconds),
        bytes: Some(r.bytes),
    });
    own_catalog(place, series, world, &mut row)?;
    let lives = found.iter().filter(|f| !f.place.is_pinned()).filter_map(|f| Some(Link::of(f.verified()?).ends()));
    row.next_expiry = lives.filter(|at| *at > now).min().map(clock_text);
    Ok(row)
}

/// What only this host knows of its own series.
fn own_catalog(place: &Whereabouts, series: &str, world: &World, row: &mut Row) -> Result<()> {
    let own = place.configured.as_ref().is_some_and(|c| c.config.name == series);
    if let Some(catalog) = own.then(|| Catalog::existing(&world.state_dir(series))).flatten() {
        row.leaks = Some(sweeping::places(&catalog)?);
        row.agents = guard::numbers(&catalog)?;
    }
    Ok(())
}

/// The newest of those `asked` for, by its signed number, whose chain is whole and whose time can be believed.
fn newest(
    found: &[Found],
    archive: Archive,
    now: i64,
    asked: &dyn Fn(&Commit) -> bool,
    events: &mut Events<'_>,
) -> Option<Newest> {
    let doubts = Doubts::of(found);
    let mut all: Vec<&Found> =
        found.iter().filter(|f| f.place.archive == archive && f.verified().is_some_and(asked)).collect();
    all.retain(|f| !is_ahead(&f.place.id, now));
    all.sort_by_key(|f| (f.verified().map(|c| c.seq), f.damage().is_none()));
    for one in all.into_iter().rev() {
        let commit = one.verified()?;
        let broken = match (one.damage(), snapshots::chain(found, one, false, now)) {
            (None, Ok(chain)) => {
                let ends = chain.iter().filter_map(|f| Some(Link::of(f.verified()?).ends())).min();
                return Some(Newest {
                    id: commit.id.to_string(),
                    time: clock_text(commit.id.unix_seconds()),
                    unix: commit.id.unix_seconds(),
                    tier: one.place.tier.clone(),
                    stored: commit.stored_bytes(),
                    chain: (archive == Archive::State).then_some(chain.len()),
                    expires: ends.filter(|_| !one.place.is_pinned()).map(clock_text),
                    suspicious: doubts.about(commit),
                });
            }
            (Some(damage), _) => damage,
            (None, Err(broken)) => format!("it needs {}, which {}", broken.needs, broken.why),
        };
        events(Event::Warning(format!("{} cannot be restored: {broken}", one.place.directory())));
    }
    None
}
