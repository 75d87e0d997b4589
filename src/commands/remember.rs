//! What a run saw goes into the catalog: records of what was looked at, graves of what is gone.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::changes::{ABOVE, Changes, Places};
use super::contents::Contents;
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::host::catalog::{Catalog, Grave, Records};
use crate::host::scan::Scan;
use crate::model::blocks::{BLOCKS_FROM, Rows as _};
use crate::model::entry::Kind;
use crate::model::path;
use crate::model::record::{Record, meta_digest, xattr_digests};
use crate::model::store_key::Archive;
use crate::model::tree::{Index, NONE};

/// What was seen.
pub struct Seen<'a> {
    /// What was found, and of what was archived what was read.
    pub scan: &'a Scan,
    /// Where it is in the tree.
    pub places: &'a Places,
    /// What was different.
    pub changes: &'a Changes,
    /// What was done about it; nothing for a full, which holds everything.
    pub plan: Option<&'a Plan>,
    /// Digests of what was archived, if anything was.
    pub contents: Option<&'a Contents>,
    /// Which entries were archived as copies of databases.
    pub databases: &'a HashSet<Index>,
    /// The seq of the run.
    pub seq: u64,
}

impl Seen<'_> {
    /// Records it.
    ///
    /// # Errors
    /// When the catalog cannot be read or written.
    pub fn remember(&self, catalog: &Catalog) -> Result<()> {
        let tree = &self.scan.tree;
        let mut added: HashMap<Index, Vec<Index>> = HashMap::new();
        for index in self.places.added(tree) {
            added.entry(tree.node(index).parent).or_default().push(index);
        }
        for path in self.touched(&added) {
            let dir = if path == ABOVE { Some(NONE) } else { self.places.dir(&path) };
            let mut old = catalog.directory(&path)?;
            let mut new = Records::new();
            let children = dir.map_or(&[][..], |dir| self.places.children.of_dir(dir));
            let more = dir.and_then(|dir| added.get(&dir)).map_or(&[][..], Vec::as_slice);
            for &index in children.iter().chain(more) {
                let node = tree.node(index);
                if node.archive != Archive::State || node.kind == Kind::Deleted {
                    continue;
                }
                let name = tree.name(index);
                let record = self.record(catalog, index, old.remove(name))?;
                new.insert(name.to_vec(), record);
            }
            for (name, record) in old {
                let full_path = if path == ABOVE { name.clone() } else { path::join(&path, &name) };
                if self.places.is_covered(&full_path) {
                    new.insert(name, Record { lost: true, ..record });
                } else {
                    self.bury(catalog, &full_path, &record)?;
                }
            }
            catalog.set_directory(&path, &new)?;
        }
        Ok(())
    }

    /// Directories whose records may change.
    fn touched(&self, added: &HashMap<Index, Vec<Index>>) -> BTreeSet<Vec<u8>> {
        let tree = &self.scan.tree;
        let mut dirs: HashSet<Index> = added.keys().copied().collect();
        match self.plan {
            Some(plan) => {
                let parent = |i: &Index| tree.node(*i).parent;
                dirs.extend(self.changes.looks.iter().map(|(i, _)| parent(i)));
                dirs.extend(plan.actions.keys().map(parent));
            }
            None => {
                let parents = tree.indices().filter(|i| tree.node(*i).archive == Archive::State);
                dirs.extend(parents.map(|i| tree.node(i).parent));
            }
        }
        let mut out: BTreeSet<Vec<u8>> =
            dirs.into_iter().map(|dir| if dir == NONE { ABOVE.to_vec() } else { tree.path(dir) }).collect();
        for gone in self.changes.gone.keys() {
            // A root stands above everything; anything may have been one.
            out.insert(ABOVE.to_vec());
            out.extend(path::parent(gone).map(<[u8]>::to_vec));
        }
        out.extend(self.changes.lost.keys().cloned());
        out
    }

    fn record(&self, catalog: &Catalog, index: Index, old: Option<Record>) -> Result<Record> {
        let tree = &self.scan.tree;
        let (kind, look) = (tree.node(index).kind, self.scan.look(index));
        if kind == Kind::Missing {
            let known = old.unwrap_or_else(|| Record::born(Kind::Missing, self.seq));
            return Ok(Record { lost: true, dirty: true, ..known });
        }
        let listed = self.plan.is_none_or(|plan| plan.actions.contains_key(&index));
        let Some(contents) = self.contents.filter(|_| listed) else {
            // What is listed and not archived did not change since the last run, only since the parent.
            let same = listed || self.plan.is_some_and(|plan| plan.same.contains(&index));
            return Ok(match old {
                Some(old) if same => Record { stamp: look.stamp, dirty: look.young, ..old },
                Some(old) => old,
                None => Record::born(kind, self.seq),
            });
        };
        let known = match old {
            Some(old) if old.kind == kind && !old.lost => Some(old),
            Some(old) if old.kind != kind => {
                self.bury(catalog, &tree.path(index), &old)?;
                None
            }
            Some(old) if old.kind != Kind::Missing => {
                // It comes back as new. Snapshots from before it was lost have it all the same, so that it has to be
                // deleted from them once it goes; those in between lack it, and it is a base for nothing.
                let Record { born, changed, .. } = old;
                catalog.bury(&Grave {
                    path: tree.path(index),
                    died: self.seq,
                    born,
                    changed,
                    size: 0,
                    blake3: None,
                })?;
                None
            }
            _ => None,
        };
        let entry = contents
            .entry(tree, index)
            .map_err(|e| Error::failed("cannot read back what was kept in the staging directory").because(e))?;
        let (size, blake3) = if kind == Kind::File { (entry.size, entry.blake3) } else { (0, [0; 32]) };
        let digest = meta_digest(&entry);
        let base = known.unwrap_or_else(|| Record::born(kind, self.seq));
        let changed = if (base.size, base.blake3) == (size, blake3) { base.changed } else { self.seq };
        let meta = if base.meta_digest == digest { base.meta } else { self.seq };
        Ok(Record {
            kind,
            stamp: look.stamp,
            dirty: look.young,
            lost: false,
            database: self.databases.contains(&index),
            meta_digest: digest,
            size,
            blake3,
            xattrs: xattr_digests(&entry.xattrs),
            born: base.born,
            changed,
            meta,
        })
    }

    fn bury(&self, catalog: &Catalog, path: &[u8], record: &Record) -> Result<()> {
        let is_secret = self.changes.gone.get(path).is_some_and(|gone| gone.secret);
        if record.kind == Kind::File && record.size >= BLOCKS_FROM {
            catalog.blocks(path).truncate(0)?;
        }
        // It lives on in another directory's records: as the root of a source, or as no root any more.
        let found = self.places.find(&self.scan.tree, path).map(|i| self.scan.tree.node(i));
        let moved = found.is_some_and(|node| node.archive == Archive::State && node.kind == record.kind);
        if record.kind == Kind::Missing || moved {
            return Ok(());
        }
        let is_file = record.kind == Kind::File && !is_secret;
        catalog.bury(&Grave {
            path: path.to_vec(),
            died: self.seq,
            born: record.born,
            changed: record.changed,
            size: if is_file { record.size } else { 0 },
            blake3: is_file.then_some(record.blake3),
        })?;
        if is_secret { catalog.forget_content(path) } else { Ok(()) }
    }
}
