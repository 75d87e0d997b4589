//! The guard in a backup: what this run sees beside what the last one saw, and whether somebody has answered the last
//! alarm. What is judged, and how, is told in [`guard`](mod@crate::model::guard).
//!
//! An alarm stays open by the marks of the snapshots themselves, which the catalog knows and the store, if that is lost.
//! A run that learned of a loss and then failed leaves it as a fact, and so do runs whose losses are too small for one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::ffi::OsStrExt as _;

use serde::{Deserialize, Serialize};

use self::looking::Looking;
use super::changes::{Changes, Look, Places, compare};
use super::content_rule::Judged;
use super::counts::{self, Agent, Numbers};
use super::lineage::Lineage;
use super::write_archive::Run;
use crate::error::{Error, Result};
use crate::host::catalog::{Catalog, Known};
use crate::host::scan::Scan;
use crate::model::calendar::{DAY_SECONDS, midnight};
use crate::model::counts::AgentCounts;
use crate::model::entry::Kind;
use crate::model::guard::{self, Counted, Pending, SecretFiles, Seen, Unknown};
use crate::model::layout::Layout;
use crate::model::losses::Losses;
use crate::model::manifest;
use crate::model::path::printable;
use crate::model::store_key::{Archive, SnapshotId};
use crate::model::tree::{Index, NONE};

mod looking;

/// The fact that keeps an open alarm.
const ALARM: &str = "alarm";
/// The fact that keeps ids that were accepted, until a commit says so.
const ACCEPTED: &str = "accepted";
/// The fact that keeps what went in the last runs without an alarm.
const LOSSES: &str = "losses";
/// The fact that keeps what was counted.
const NUMBERS: &str = "numbers";
/// How many findings are kept and told.
const FINDINGS_MAX: usize = 20;

/// An alarm that nobody has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// How many reasons there are, and since when.
    pub pending: Pending,
    /// The reasons, as far as they are known.
    pub findings: Vec<String>,
    /// The newest snapshot that has everything that went.
    pub good: Option<SnapshotId>,
    /// Whether there are newer ones that carry no mark: some of it went before anything was suspicious.
    pub is_older: bool,
    /// Whether this run raised it.
    pub is_new: bool,
}

/// An alarm as the catalog keeps it.
#[derive(Default, Serialize, Deserialize)]
struct Noted {
    count: u64,
    since: i64,
    findings: Vec<String>,
    good: Option<String>,
}

impl Noted {
    fn good(&self) -> Option<SnapshotId> {
        self.good.as_deref().and_then(SnapshotId::parse)
    }
}

/// What was counted by the last run.
#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    agents: Numbers,
    /// Largest rowids by database and table.
    tables: BTreeMap<String, BTreeMap<String, i64>>,
    /// What was secret; nothing in a catalog that an older version wrote.
    #[serde(default)]
    secrets: Option<SecretFiles>,
}

/// What a catalog knows of doubts.
pub struct Doubts {
    /// The snapshots that nobody accepted, the newest last.
    pub doubted: Vec<SnapshotId>,
    /// What was accepted, and no commit says so yet.
    pub accepted: Vec<SnapshotId>,
    /// The alarm that is open.
    pub open: Option<Alarm>,
    /// The newest snapshot that nobody doubts, or the older one that the alarm names.
    pub good: Option<SnapshotId>,
}

impl Doubts {
    /// Looks through the catalog. A store that ends lives by itself has nothing any more whose life ended before `alive_at`,
    /// in Unix seconds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(catalog: &Catalog, alive_at: Option<i64>) -> Result<Doubts> {
        let known = catalog.snapshots()?;
        let fact = catalog.fact(ACCEPTED)?.unwrap_or_default();
        let told: HashSet<&str> = fact.split_whitespace().collect();
        let marked = || known.iter().filter(|k| k.doubts > 0);
        let is_accepted = |k: &&Known| told.contains(k.past.id.as_str());
        let accepted = marked().filter(is_accepted).map(|k| k.past.id.clone()).collect();
        let doubted = marked().filter(|k| !is_accepted(k)).map(|k| k.past.id.clone()).collect();
        // The snapshots since the last one that is good, which all carry the mark.
        let trail = known.iter().rev().take_while(|k| k.doubts > 0 && !is_accepted(k));
        let trail: Vec<&Known> = trail.collect();
        let good = known.iter().rev().find(|k| lives(k, alive_at) && (k.doubts == 0 || is_accepted(k)));
        let newest = good.map(|k| k.past.id.clone());
        let kept = catalog.fact(ALARM)?.and_then(|text| serde_json::from_str::<Noted>(&text).ok());
        let first = trail.last().map(|k| k.past.id.unix_seconds());
        let kept_since = kept.as_ref().map(|k| k.since);
        let open = first.into_iter().chain(kept_since).min().map(|since| {
            let kept = kept.unwrap_or_default();
            let days: BTreeSet<i64> = trail.iter().map(|k| midnight(k.past.id.unix_seconds())).collect();
            let later = days.iter().filter(|day| **day > midnight(since)).count() as u64;
            let count = trail.iter().map(|k| k.doubts).max().unwrap_or(0).max(kept.count).max(1);
            let pending = Pending { count, since, days: later };
            // What was accepted since then is better than what was good then.
            let is_later = |id: &SnapshotId| id.unix_seconds() >= since;
            let lost = |id: &SnapshotId| !known.iter().any(|k| k.past.id == *id && lives(k, alive_at));
            let good = match (kept.good(), newest.clone()) {
                (Some(kept), Some(newest)) if lost(&kept) || is_later(&newest) => Some(newest),
                (kept, newest) => kept.or(newest),
            };
            let is_older = newest.is_some() && good != newest;
            Alarm { pending, findings: kept.findings, good, is_older, is_new: false }
        });
        let good = open.as_ref().and_then(|alarm| alarm.good.clone()).or(newest);
        Ok(Doubts { doubted, accepted, open, good })
    }

    /// Takes `id`, which is doubted, as it is. The alarm is answered when it is the newest.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn accept(&self, catalog: &Catalog, id: &SnapshotId) -> Result<bool> {
        let all: Vec<&str> = self.accepted.iter().chain([id]).map(SnapshotId::as_str).collect();
        let transaction = catalog.begin()?;
        catalog.set_fact(ACCEPTED, &all.join(" "))?;
        let answered = self.doubted.last() == Some(id);
        if answered {
            catalog.set_fact(ALARM, "")?;
        }
        transaction.commit()?;
        Ok(answered)
    }

    /// Answers an alarm of a run that wrote no snapshot.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn dismiss(&self, catalog: &Catalog) -> Result<()> {
        catalog.set_fact(ALARM, "")
    }
}

/// The guard of one run.
pub struct Guard {
    doubts: Doubts,
    found: Vec<String>,
    agents: Vec<Agent>,
    known: Remembered,
    counted: Numbers,
    /// What is secret; `None` where some of it could not be looked at.
    secrets: Option<SecretFiles>,
    losses: Losses,
    good: Option<SnapshotId>,
    is_older: bool,
    now: i64,
}

impl Guard {
    /// Asks the catalog what is doubted.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn begin(run: &Run<'_>, lineage: &Lineage) -> Result<Guard> {
        // In a run without a doubt, the rows of weeks need not be read for one.
        let doubts = match run.catalog.has_doubts()? || run.catalog.fact(ALARM)?.is_some_and(|text| !text.is_empty()) {
            true => Doubts::of(run.catalog, alive_at(run))?,
            false => Doubts { doubted: Vec::new(), accepted: Vec::new(), open: None, good: None },
        };
        let known = run.catalog.fact(NUMBERS)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let losses = run.catalog.fact(LOSSES)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let lost = lineage.good.as_ref().map(|(id, _)| id.clone());
        Ok(Guard {
            good: doubts.good.clone().or(lost),
            doubts,
            found: Vec::new(),
            agents: Vec::new(),
            known,
            counted: Numbers::new(),
            secrets: None,
            losses,
            is_older: false,
            now: run.world.now(),
        })
    }

    /// The mark of what this run writes.
    pub fn mark(&self) -> Option<u64> {
        guard::mark(self.found.len(), self.doubts.open.as_ref().map(|alarm| alarm.pending), self.now)
    }

    /// What was accepted, and no commit says so yet.
    pub fn accepted(&self) -> &[SnapshotId] {
        &self.doubts.accepted
    }

    /// Whether this run found anything, whatever earlier ones did.
    pub fn has_found(&self) -> bool {
        !self.found.is_empty()
    }

    /// Looks at the secrets, of which the catalog keeps two numbers.
    pub fn look_at_secrets(&mut self, run: &Run<'_>, scan: &Scan, judged: &Judged) {
        let tree = &scan.tree;
        let by_content: HashSet<Index> = judged.files().collect();
        let mut now = SecretFiles::default();
        for index in tree.indices() {
            let node = tree.node(index);
            if node.kind == Kind::Missing && (node.archive == Archive::Secrets || node.parent == NONE) {
                return;
            }
            if node.archive == Archive::Secrets && node.kind == Kind::File && !by_content.contains(&index) {
                now.files += 1;
                now.bytes = now.bytes.saturating_add(node.size);
            }
        }
        self.secrets = Some(now);
        let found = self.known.secrets.and_then(|before| guard::judge_secrets(before, now, &run.config.guard));
        self.found.extend(found.map(|suspicion| suspicion.sentence));
    }

    /// Looks at what differs. A full reads everything and compares nothing, so that it is compared here.
    ///
    /// # Errors
    /// When the catalog cannot be read or is damaged.
    pub fn look(
        &mut self,
        run: &Run<'_>,
        lineage: &Lineage,
        scan: &Scan,
        places: &Places,
        changes: &Changes,
        is_full: bool,
    ) -> Result<()> {
        let own = if is_full { Some(compare(scan, places, run.catalog, Look::Since(u64::MAX))?) } else { None };
        let changes = own.as_ref().unwrap_or(changes);
        self.agents = counts::agents(run);
        let touched: HashSet<Index> = changes.looks.iter().map(|(index, _)| *index).collect();
        self.counted = counts::read(run, scan, places, &self.agents, &|i| touched.contains(&i), &self.known.agents);
        let unknown = if changes.before.files == 0 { unknown(lineage, scan) } else { None };
        let look = Looking { run, scan, places, changes, agents: &self.agents, tables: &self.known.tables };
        let seen = Seen { unknown, counted: self.counted(run), ..look.seen()? };
        let bounds = &run.config.guard;
        let mut found = guard::judge(&seen, bounds);
        self.losses.add(&seen, self.now, lineage.state.as_ref().map(|last| &last.id));
        let mut base = None;
        if found.is_empty() {
            (found, base) = self.losses.judge(bounds, self.now);
        }
        self.found.extend(found.into_iter().map(|s| s.sentence));
        self.found.truncate(FINDINGS_MAX);
        if !self.found.is_empty() && self.doubts.open.is_none() {
            self.note_good(run, base)?;
        }
        Ok(())
    }

    /// Before the first mark the newest snapshot is the good one, unless some of what went had gone before it.
    fn note_good(&mut self, run: &Run<'_>, base: Option<SnapshotId>) -> Result<()> {
        let alive_at = alive_at(run);
        if self.good.is_none() {
            self.good = Doubts::of(run.catalog, alive_at)?.good;
        }
        let known = run.catalog.snapshots()?;
        let there = |id: &SnapshotId| known.iter().any(|k| k.past.id == *id && lives(k, alive_at));
        if let Some(base) = base.filter(|base| there(base) && self.good.as_ref() != Some(base)) {
            (self.good, self.is_older) = (Some(base), true);
        }
        Ok(())
    }

    fn counted(&self, run: &Run<'_>) -> Vec<Counted> {
        let mut out = Vec::new();
        for agent in &self.agents {
            let (Some(before), Some(now)) = (self.known.agents.get(&agent.key()), self.counted.get(&agent.key()))
            else {
                continue;
            };
            let of = shown(run, &agent.path);
            out.extend(now.iter().filter_map(|(what, now)| {
                let before = before.get(what).copied()?;
                Some(Counted { what: what.clone(), of: of.clone(), before, now: *now })
            }));
        }
        out
    }

    /// What agents have, for the manifest.
    pub fn counts(&self, scan: &Scan, places: &Places) -> Vec<AgentCounts> {
        counts::listed(scan, places, &self.agents, &self.counted)
    }

    /// The alarm of this run, if there is one.
    pub fn alarm(&self) -> Option<Alarm> {
        let count = self.mark()?;
        let before = self.doubts.open.clone();
        let pending = before.as_ref().map_or(Pending { count, since: self.now, days: 0 }, |a| a.pending);
        let mut findings = self.found.clone();
        let is_new = before.is_none();
        let is_older = before.as_ref().map_or(self.is_older, |alarm| alarm.is_older);
        let earlier = before.map_or_else(Vec::new, |alarm| alarm.findings);
        findings.extend(earlier.into_iter().filter(|finding| !self.found.contains(finding)));
        findings.truncate(FINDINGS_MAX);
        Some(Alarm { pending: Pending { count, ..pending }, findings, good: self.good.clone(), is_older, is_new })
    }

    /// Records the alarm with all that this run learned, or that there is none. Should the commit never be put, the next
    /// run sees nothing any more that is suspicious. What is told once is not added up any more.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn remember(&self, catalog: &Catalog) -> Result<()> {
        let none = Losses::default();
        let losses = if self.mark().is_some() { &none } else { &self.losses };
        let text = serde_json::to_string(losses);
        catalog.set_fact(LOSSES, &text.map_err(|e| Error::failed("cannot keep what went").because(e))?)?;
        let text = self.alarm().map_or_else(String::new, |alarm| {
            let Alarm { pending, findings, good, .. } = alarm;
            let good = good.map(|id| id.to_string());
            let kept = Noted { count: pending.count, since: pending.since, findings, good };
            serde_json::to_string(&kept).unwrap_or_default()
        });
        if catalog.fact(ALARM)?.unwrap_or_default() == text { Ok(()) } else { catalog.set_fact(ALARM, &text) }
    }

    /// Records what was counted, for the next run to compare with.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn learn(
        &mut self,
        catalog: &Catalog,
        scan: &Scan,
        places: &Places,
        databases: &[manifest::Database],
    ) -> Result<()> {
        let all = self.counts(scan, places).into_iter();
        self.known.secrets = self.secrets.or(self.known.secrets);
        self.known.agents = all.map(|agent| (printable(&agent.path.bytes()), agent.counts)).collect();
        for database in databases {
            self.known.tables.insert(printable(&database.path.bytes()), database.facts.tables.clone());
        }
        self.keep_numbers(catalog)
    }

    /// Records what is secret where nothing else is new, and whether that was: a bundle may be, without a snapshot.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn learn_secrets(&mut self, catalog: &Catalog) -> Result<bool> {
        if self.secrets.is_none() || self.secrets == self.known.secrets {
            return Ok(false);
        }
        self.known.secrets = self.secrets;
        self.keep_numbers(catalog).map(|()| true)
    }

    fn keep_numbers(&self, catalog: &Catalog) -> Result<()> {
        let text = serde_json::to_string(&self.known);
        catalog.set_fact(NUMBERS, &text.map_err(|e| Error::failed("cannot keep what was counted").because(e))?)
    }
}

/// What this host's agents had when the last snapshot was made.
///
/// # Errors
/// When the catalog cannot be read.
pub fn numbers(catalog: &Catalog) -> Result<Numbers> {
    let kept = catalog.fact(NUMBERS)?.and_then(|text| serde_json::from_str::<Remembered>(&text).ok());
    Ok(kept.unwrap_or_default().agents)
}

/// What the last good full takes on the store, where the catalog knows nothing of what was in it. A source that is not
/// there makes the comparison worthless.
fn unknown(lineage: &Lineage, scan: &Scan) -> Option<Unknown> {
    let (_, stored) = lineage.good.as_ref()?;
    let nodes = || scan.tree.indices().map(|i| scan.tree.node(i)).filter(|n| n.archive == Archive::State);
    if nodes().any(|n| n.kind == Kind::Missing && n.parent == NONE) {
        return None;
    }
    Some(Unknown { stored: *stored, bytes: nodes().filter(|n| n.kind == Kind::File).map(|n| n.size).sum() })
}

/// Whether a snapshot is all there, and its life is not over.
fn lives(known: &Known, alive_at: Option<i64>) -> bool {
    let life = i64::try_from(known.past.life).unwrap_or(i64::MAX).saturating_mul(DAY_SECONDS);
    known.past.whole && alive_at.is_none_or(|at| known.past.id.unix_seconds().saturating_add(life) > at)
}

/// A directory keeps the last good snapshot whatever its life; a bucket does not.
fn alive_at(run: &Run<'_>) -> Option<i64> {
    run.store.local().is_none().then(|| run.world.now())
}

fn shown(run: &Run<'_>, path: &[u8]) -> String {
    let layout = Layout::machine(run.world.home.as_os_str().as_bytes());
    printable(&layout.to_disk(path))
}
