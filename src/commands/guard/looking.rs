//! What differs between what this run sees and what the catalog knows, counted for the guard to judge.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;

use super::shown;
use crate::commands::changes::{Before, Changes, Places};
use crate::commands::counts::Agent;
use crate::commands::write_archive::Run;
use crate::error::Result;
use crate::host::database;
use crate::host::scan::Scan;
use crate::host::source;
use crate::model::database::is_database;
use crate::model::entry::Kind;
use crate::model::guard::{self, Bounds, Change, Database, Kept, Seen, document, rows_of, serves_search};
use crate::model::path::{self, printable};
use crate::model::preset::Count;
use crate::model::record::Record;
use crate::model::roles::Roles;
use crate::model::store_key::Archive;
use crate::model::tree::Index;

/// A database that no preset knows and that is smaller is not missed, in bytes: tests make and remove many.
const DATABASE_BYTES_MIN: u64 = 1 << 20;

/// Everything that looking needs.
pub(super) struct Looking<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) scan: &'a Scan,
    pub(super) places: &'a Places,
    pub(super) changes: &'a Changes,
    pub(super) agents: &'a [Agent],
    /// Largest rowids that databases had, by table.
    pub(super) tables: &'a BTreeMap<String, BTreeMap<String, i64>>,
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
    /// Counts everything.
    ///
    /// # Errors
    /// When the catalog cannot be read or is damaged.
    pub(super) fn seen(&self) -> Result<Seen> {
        let tree = &self.scan.tree;
        let mut before = self.changes.before.clone();
        let mut lost = self.lost(&mut before);
        let touched: Vec<Touched<'_>> = self.touched().collect();
        let is_new = |(index, record): &&(Index, Option<Record>)| {
            let node = tree.node(*index);
            record.is_none() && node.kind == Kind::File && node.archive == Archive::State
        };
        let new: Vec<Index> = self.changes.looks.iter().filter(is_new).map(|(index, _)| *index).collect();
        if before.files == 0 && lost.is_empty() && touched.is_empty() {
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
    fn lost(&self, before: &mut Before) -> Vec<Lost<'_>> {
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
        let Some(before) = self.tables.get(&printable(path)) else { return BTreeMap::new() };
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
