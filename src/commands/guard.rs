//! The guard in a backup: what this run sees beside what the last one saw, and whether somebody has answered the last
//! alarm. What is judged, and how, is told in [`guard`](crate::model::guard).
//!
//! An alarm stays open by the marks of the snapshots themselves, which the catalog knows and the store, if that is lost.
//! A run that learned of a loss and then failed leaves it as a fact.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

use serde::{Deserialize, Serialize};

use super::changes::{Changes, Look, Places, compare};
use super::counts::{self, Agent, Numbers};
use super::lineage::Lineage;
use super::write_archive::Run;
use crate::error::{Error, Result};
use crate::host::catalog::{Catalog, Known};
use crate::host::database;
use crate::host::scan::Scan;
use crate::host::source;
use crate::model::calendar::{DAY_SECONDS, midnight};
use crate::model::counts::AgentCounts;
use crate::model::database::is_database;
use crate::model::entry::Kind;
use crate::model::guard::{
    self, Bounds, Change, Counted, Database, Kept, Pending, Seen, Unknown, document, rows_of, serves_search,
};
use crate::model::layout::Layout;
use crate::model::manifest;
use crate::model::path::{self, printable};
use crate::model::preset::Count;
use crate::model::record::Record;
use crate::model::roles::Roles;
use crate::model::store_key::{Archive, SnapshotId};
use crate::model::tree::{Index, NONE};

/// The fact that keeps an open alarm.
const ALARM: &str = "alarm";
/// The fact that keeps ids that were accepted, until a commit says so.
const ACCEPTED: &str = "accepted";
/// The fact that keeps what was counted.
const NUMBERS: &str = "numbers";
/// A database that no preset knows and that is smaller is not missed, in bytes: tests make and remove many.
const DATABASE_BYTES_MIN: u64 = 1 << 20;
/// How many findings are kept and told.
const FINDINGS_MAX: usize = 20;

/// An alarm that nobody has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// How many reasons there are, and since when.
    pub pending: Pending,
    /// The reasons, as far as they are known.
    pub findings: Vec<String>,
    /// The newest snapshot that nobody doubts.
    pub good: Option<SnapshotId>,
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
}

/// What a catalog knows of doubts.
pub struct Doubts {
    /// The snapshots that nobody accepted, the newest last.
    pub doubted: Vec<SnapshotId>,
    /// What was accepted, and no commit says so yet.
    pub accepted: Vec<SnapshotId>,
    /// The alarm that is open.
    pub open: Option<Alarm>,
    /// The newest snapshot that nobody doubts.
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
        let ends = |k: &Known| {
            let life = i64::try_from(k.past.life).unwrap_or(i64::MAX).saturating_mul(DAY_SECONDS);
            k.past.id.unix_seconds().saturating_add(life)
        };
        let lives = |k: &Known| k.past.whole && alive_at.is_none_or(|at| ends(k) > at);
        let good = known.iter().rev().find(|k| lives(k) && (k.doubts == 0 || is_accepted(k)));
        let good = good.map(|k| k.past.id.clone());
        let kept = catalog.fact(ALARM)?.and_then(|text| serde_json::from_str::<Noted>(&text).ok());
        let first = trail.last().map(|k| k.past.id.unix_seconds());
        let kept_since = kept.as_ref().map(|k| k.since);
        let open = first.into_iter().chain(kept_since).min().map(|since| {
            let kept = kept.unwrap_or_default();
            let days: BTreeSet<i64> = trail.iter().map(|k| midnight(k.past.id.unix_seconds())).collect();
            let later = days.iter().filter(|day| **day > midnight(since)).count() as u64;
            let count = trail.iter().map(|k| k.doubts).max().unwrap_or(0).max(kept.count).max(1);
            let good = kept.good();
            Alarm { pending: Pending { count, since, days: later }, findings: kept.findings, good }
        });
        let kept_good = open.as_ref().and_then(|alarm| alarm.good.clone());
        Ok(Doubts { doubted, accepted, open, good: good.or(kept_good) })
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
    good: Option<SnapshotId>,
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
        let lost = lineage.good.as_ref().map(|(id, _)| id.clone());
        Ok(Guard {
            good: doubts.good.clone().or(lost),
            doubts,
            found: Vec::new(),
            agents: Vec::new(),
            known,
            counted: Numbers::new(),
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
        let look = Looking { run, scan, places, changes, agents: &self.agents, known: &self.known };
        let seen = Seen { unknown, counted: self.counted(run), ..look.seen()? };
        self.found = guard::judge(&seen, &run.config.guard).into_iter().map(|s| s.sentence).collect();
        self.found.truncate(FINDINGS_MAX);
        if !self.found.is_empty() && self.good.is_none() {
            self.good = Doubts::of(run.catalog, alive_at(run))?.good;
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
        let earlier = before.map_or_else(Vec::new, |alarm| alarm.findings);
        findings.extend(earlier.into_iter().filter(|finding| !self.found.contains(finding)));
        findings.truncate(FINDINGS_MAX);
        Some(Alarm { pending: Pending { count, ..pending }, findings, good: self.good.clone() })
    }

    /// Records the alarm with all that this run learned, or that there is none. Should the commit never be put, the next
    /// run sees nothing any more that is suspicious.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn remember(&self, catalog: &Catalog) -> Result<()> {
        let text = self.alarm().map_or_else(String::new, |alarm| {
            let Alarm { pending, findings, good } = alarm;
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
        self.known.agents = all.map(|agent| (printable(&agent.path.bytes()), agent.counts)).collect();
        for database in databases {
            self.known.tables.insert(printable(&database.path.bytes()), database.facts.tables.clone());
        }
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

/// A directory keeps the last good snapshot whatever its life; a bucket does not.
fn alive_at(run: &Run<'_>) -> Option<i64> {
    run.store.local().is_none().then(|| run.world.now())
}

fn shown(run: &Run<'_>, path: &[u8]) -> String {
    let layout = Layout::machine(run.world.home.as_os_str().as_bytes());
    printable(&layout.to_disk(path))
}

/// Everything that looking needs.
struct Looking<'a> {
    run: &'a Run<'a>,
    scan: &'a Scan,
    places: &'a Places,
    changes: &'a Changes,
    agents: &'a [Agent],
    known: &'a Remembered,
}

/// A file that is gone.
struct Lost<'a> {
    path: &'a [u8],
    record: &'a Record,
    /// Whether there is a new one of the same kind and size.
    moved: bool,
}

/// A file that differs from what was known of it, by what `stat` says.
struct Touched<'a> {
    index: Index,
    record: &'a Record,
}

impl Looking<'_> {
    fn seen(&self) -> Result<Seen> {
        let tree = &self.scan.tree;
        let mut before = self.changes.before.clone();
        let mut lost = self.lost(&mut before);
        let touched: Vec<Touched<'_>> = self.touched().collect();
        let is_new = |(index, record): &&(Index, Option<Record>)| {
            let node = tree.node(*index);
            record.is_none() && node.kind == Kind::File && node.archive == Archive::State
        };
        let new: Vec<Index> = self.changes.looks.iter().filter(is_new).map(|(index, _)| *index).collect();
        if lost.is_empty() && touched.is_empty() {
            return Ok(Seen::default());
        }
        let new = self.moved(&mut lost, new);
        let mut seen = Seen { kept: self.kept(&lost, &touched)?, ..Seen::default() };
        seen.databases = self.databases(&lost, &touched, &new);
        seen.all = Change { before: before.files, bytes_before: before.bytes, ..Change::default() };
        for (kind, (files, bytes)) in &before.kinds {
            let change = Change { before: *files, bytes_before: *bytes, ..Change::default() };
            seen.kinds.insert((*kind).to_owned(), change);
        }
        for one in lost.iter().filter(|l| !l.moved && !l.record.database) {
            each(&mut seen, path::file_name(one.path), |change| {
                change.gone += 1;
                change.bytes_gone += one.record.size;
            });
        }
        for index in new {
            each(&mut seen, tree.name(index), |change| {
                change.new += 1;
                change.bytes_new += tree.node(index).size;
            });
        }
        let files: Vec<&Touched<'_>> = touched.iter().filter(|t| !t.record.database).collect();
        let rewritten = |files: &[&Touched<'_>]| {
            (files.len() as u64, files.iter().fold(0_u64, |sum, t| sum.saturating_add(t.record.size)))
        };
        (seen.all.rewritten, seen.all.bytes_rewritten) = rewritten(&files);
        // By what `stat` says a home that was copied has other content, and so has a file that only grew.
        let only = Bounds { gone: None, documents: None, rows: None, emptied: None, ..self.run.config.guard };
        let suspected = !guard::judge(&Seen { all: seen.all, ..Seen::default() }, &only).is_empty();
        if suspected {
            let mut truly = Vec::new();
            for file in files {
                self.run.world.check_stop()?;
                truly.extend(Some(file).filter(|file| self.has_other_content(file)));
            }
            (seen.all.rewritten, seen.all.bytes_rewritten) = rewritten(&truly);
        }
        Ok(seen)
    }

    /// What is gone, and not by a rule: what a rule leaves out from now on was not there before either.
    fn lost(&self, before: &mut super::changes::Before) -> Vec<Lost<'_>> {
        let ruled: HashSet<&[u8]> = self.scan.skipped.iter().map(|skip| &skip.path[..]).collect();
        let is_ruled = |path: &[u8]| {
            let mut ups = std::iter::successors(Some(path), |p| path::parent(p));
            ups.any(|up| ruled.contains(up)) || !self.places.has_root_above(path)
        };
        let mut out = Vec::new();
        for (path, gone) in &self.changes.gone {
            let record = &gone.record;
            if gone.secret || record.kind != Kind::File || self.places.find(&self.scan.tree, path).is_some() {
                continue;
            }
            if is_ruled(path) {
                before.take(path::file_name(path), record);
            } else {
                out.push(Lost { path, record, moved: false });
            }
        }
        out
    }

    fn touched(&self) -> impl Iterator<Item = Touched<'_>> {
        let tree = &self.scan.tree;
        self.changes.looks.iter().filter_map(move |(index, record)| {
            let record = record.as_ref()?;
            let is_file = record.kind == Kind::File && tree.node(*index).kind == Kind::File;
            let differs = record.stamp != self.scan.look(*index).stamp;
            (is_file && differs).then_some(Touched { index: *index, record })
        })
    }

    /// Takes what is gone together with what is new under another name; what of the new is left came out of nothing.
    fn moved(&self, lost: &mut [Lost<'_>], new: Vec<Index>) -> Vec<Index> {
        let tree = &self.scan.tree;
        let extension = |name: &[u8]| name.rsplit(|b| *b == b'.').next().unwrap_or_default().to_vec();
        let mut there: HashMap<(Vec<u8>, u64), Vec<Index>> = HashMap::new();
        for index in new {
            there.entry((extension(tree.name(index)), tree.node(index).size)).or_default().push(index);
        }
        for one in lost {
            let key = (extension(path::file_name(one.path)), one.record.size);
            one.moved = there.get_mut(&key).is_some_and(|same| same.pop().is_some());
        }
        there.into_values().flatten().collect()
    }

    /// The files with a role that are gone or differ. If one is gone, all there were: how many says how bad that is.
    fn kept(&self, lost: &[Lost<'_>], touched: &[Touched<'_>]) -> Result<Vec<Kept>> {
        if self.agents.is_empty() {
            return Ok(Vec::new());
        }
        let roles: Vec<(&[u8], Roles)> = self.agents.iter().map(|a| (&a.path[..], Roles::of(a.preset))).collect();
        let role = |path: &[u8]| {
            let below = |home: &[u8]| path.strip_prefix(home)?.strip_prefix(b"/").map(<[u8]>::to_vec);
            roles.iter().find_map(|(home, roles)| roles.role(&below(home)?))
        };
        let mut out = Vec::new();
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        for one in lost {
            let Some(role) = role(one.path) else { continue };
            let name = shown(self.run, one.path);
            out.push(Kept { name, role, bytes_before: one.record.size, bytes: None, reborn: false });
            seen.insert(one.path.to_vec());
        }
        let any_gone = !out.is_empty();
        for one in touched {
            let path = self.scan.tree.path(one.index);
            let Some(role) = role(&path) else { continue };
            let (was, is) = (one.record.size, self.scan.tree.node(one.index).size);
            // Most write a file anew to change it, so that another inode tells nothing; what shrank may be a template.
            let reborn = is < was && role != guard::Role::Memory;
            out.push(Kept { name: shown(self.run, &path), role, bytes_before: was, bytes: Some(is), reborn });
            seen.insert(path);
        }
        if any_gone {
            self.run.catalog.records(&mut |dir, name, record| {
                let path = if dir.is_empty() { name.to_vec() } else { path::join(dir, name) };
                if let Some(role) = role(&path).filter(|_| record.kind == Kind::File && !seen.contains(&path)) {
                    let size = record.size;
                    out.push(Kept { name: String::new(), role, bytes_before: size, bytes: Some(size), reborn: false });
                }
                Ok(())
            })?;
        }
        Ok(out)
    }

    fn databases(&self, lost: &[Lost<'_>], touched: &[Touched<'_>], new: &[Index]) -> Vec<Database> {
        let tree = &self.scan.tree;
        let mut out = Vec::new();
        // Where the number of a schema is part of the name, a new database takes the place of an old one.
        let beside = |path: &[u8]| {
            let kind = |name: &[u8]| name.rsplit(|b| *b == b'.').next().map(<[u8]>::to_vec);
            new.iter().any(|index| {
                let other = tree.path(*index);
                path::parent(&other) == path::parent(path) && kind(&other) == kind(path)
            })
        };
        for one in lost.iter().filter(|l| l.record.database && !l.moved) {
            let known = self.agents.iter().any(|a| a.knows_database(self.scan, self.places, one.path));
            if (known || one.record.size >= DATABASE_BYTES_MIN) && !beside(one.path) {
                let (name, bytes_before) = (shown(self.run, one.path), one.record.size);
                out.push(Database { name, bytes_before, bytes: None, rows: BTreeMap::new() });
            }
        }
        for one in touched.iter().filter(|t| t.record.database) {
            let path = tree.path(one.index);
            let database =
                |bytes, rows| Database { name: shown(self.run, &path), bytes_before: one.record.size, bytes, rows };
            match tree.node(one.index).size {
                0 => out.push(database(Some(0), BTreeMap::new())),
                size if self.is_database(one.index) == Some(true) => {
                    out.push(database(Some(size), self.rows(one.index, &path)));
                }
                _ if self.is_database(one.index) == Some(false) => out.push(database(None, BTreeMap::new())),
                // What cannot be read is told by who reads it.
                _ => {}
            }
        }
        out
    }

    /// Whether a file begins as a database does; nothing where it cannot be read.
    fn is_database(&self, index: Index) -> Option<bool> {
        let root = &self.run.sources[self.scan.source_of(index)].root;
        let (mut file, _) = source::open_bytes(root, &self.scan.tree.path(index)).ok()?;
        let mut first = [0; 16];
        let n = source::fill(&mut file, &mut first).ok()?;
        Some(is_database(&first[..n]))
    }

    /// Rows of a database that no preset counts: what a preset does not count in one that it knows comes and goes.
    fn rows(&self, index: Index, path: &[u8]) -> BTreeMap<String, (u64, u64)> {
        let Some(before) = self.known.tables.get(&printable(path)) else { return BTreeMap::new() };
        let counts = |agent: &Agent| agent.preset.counts.iter().any(|c| matches!(c, Count::Sqlite { .. }));
        let known = |agent: &&Agent| counts(agent) && agent.knows_database(self.scan, self.places, path);
        if self.agents.iter().any(|agent| known(&agent)) {
            return BTreeMap::new();
        }
        let root = &self.run.sources[self.scan.source_of(index)].root;
        let Some(now) = database::glance(&root.disk_path(path), &[]) else { return BTreeMap::new() };
        rows_of(before, &now.tables, |table| !serves_search(table))
    }

    /// Whether the beginning of a file is another one than all of it was: it was rewritten, and did not only grow.
    fn has_other_content(&self, file: &Touched<'_>) -> bool {
        let (was, is) = (file.record.size, self.scan.tree.node(file.index).size);
        if is < was {
            return true;
        }
        let root = &self.run.sources[self.scan.source_of(file.index)].root;
        let Ok((open, _)) = source::open_bytes(root, &self.scan.tree.path(file.index)) else { return false };
        let mut hasher = blake3::Hasher::new();
        let read = hasher.update_reader(open.take(was)).map(|hasher| *hasher.finalize().as_bytes());
        read.is_ok_and(|digest| digest != file.record.blake3)
    }
}

/// Counts a file among all, and among those of its kind.
fn each(seen: &mut Seen, name: &[u8], add: impl Fn(&mut Change)) {
    add(&mut seen.all);
    if let Some(kind) = document(name) {
        add(seen.kinds.entry(kind.to_owned()).or_default());
    }
}
