//! What else an incremental lists, so that it can be applied: all names of a file, what has to go, and the directories
//! around everything.

use std::collections::{BTreeMap, HashSet};

use super::{Action, Work};
use crate::error::Result;
use crate::model::entry::Kind;
use crate::model::path;
use crate::model::store_key::Archive;
use crate::model::tree::{Index, NONE};

impl Work<'_> {
    /// If any name of a file is listed, all are.
    pub(super) fn hard_links(&mut self) -> Result<()> {
        let groups: Vec<Vec<Index>> = self.scan.groups.values().cloned().collect();
        for group in groups {
            let listed = group.iter().any(|i| self.decided.actions.contains_key(i));
            let Some(&first) = group.first().filter(|_| listed) else { continue };
            if self.scan.tree.node(first).kind != Kind::File || self.scan.tree.node(first).archive != Archive::State {
                continue;
            }
            if !self.decided.actions.contains_key(&first) {
                self.list_unchanged(first)?;
            }
            for name in &group[1..] {
                self.decided.same.remove(name);
                self.decided.actions.entry(*name).or_insert(Action::Listed);
            }
        }
        Ok(())
    }

    /// A file that did not change and has to be listed: because of its other names.
    fn list_unchanged(&mut self, index: Index) -> Result<()> {
        let tree_path = self.scan.tree.path(index);
        let (dir, name) = match self.scan.tree.node(index).parent {
            NONE => (&b""[..], &tree_path[..]),
            _ => (path::parent(&tree_path).unwrap_or_default(), path::file_name(&tree_path)),
        };
        match self.catalog.directory(dir)?.remove(name) {
            Some(record) => self.later(index, &record),
            None => {
                self.list(index, Action::Whole { as_bytes: false });
                Ok(())
            }
        }
    }

    /// What has to go from the parent's tree.
    pub(super) fn deleted(&self) -> Result<BTreeMap<Vec<u8>, bool>> {
        let mut out = BTreeMap::new();
        let tree = &self.scan.tree;
        let mut add = |path: &[u8], was_there: bool| {
            match self.places.find(tree, path).filter(|i| tree.node(*i).archive == Archive::State) {
                // It is kept until it can be read again.
                Some(i) if tree.node(i).kind == Kind::Missing => {}
                Some(i) if !self.decided.actions.contains_key(&i) => {}
                Some(_) => drop(out.entry(path.to_vec()).or_insert(false)),
                None if self.places.is_covered(path) => {}
                None => *out.entry(path.to_vec()).or_insert(false) |= was_there,
            }
        };
        for (path, gone) in &self.gone {
            add(path, gone.record.born <= self.parent);
        }
        for grave in self.catalog.graves(self.parent)? {
            add(&grave.path, grave.born <= self.parent);
        }
        Ok(out)
    }

    /// The directory of everything that is made, patched, linked or deleted.
    pub(super) fn directories(&mut self, deleted: &BTreeMap<Vec<u8>, bool>) {
        let tree = &self.scan.tree;
        let of_listed = self.decided.actions.keys().filter(|i| tree.node(**i).kind != Kind::Missing);
        let mut dirs: HashSet<Index> = of_listed.map(|i| tree.node(*i).parent).filter(|p| *p != NONE).collect();
        dirs.extend(deleted.keys().filter_map(|path| self.places.dir(path::parent(path)?)));
        dirs.retain(|i| tree.node(*i).archive == Archive::State && tree.node(*i).kind == Kind::Dir);
        for dir in dirs {
            if !self.decided.actions.contains_key(&dir) {
                if !self.decided.same.contains(&dir) {
                    self.directory(dir);
                }
                self.decided.same.remove(&dir);
                self.decided.actions.insert(dir, Action::Listed);
            }
        }
    }
}
