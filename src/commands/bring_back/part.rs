//! One archive of a restore: its entries beside what is at the target.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;

use super::{Goal, Overwrite, aside};
use crate::commands::agents;
use crate::commands::opened::{Opened, overridden};
use crate::error::{Error, Result};
use crate::host::compare::{Fate, compare, compare_at, leave};
use crate::host::extract::failed;
use crate::host::stage::Stage;
use crate::model::path::printable;
use crate::model::tree::{Children, Index, NONE};

/// No staging directory: there is nothing to do.
const NOWHERE: u32 = u32::MAX;

/// An archive and what has to happen to each of its entries.
pub(super) struct Part<'a> {
    pub(super) archive: &'a Opened,
    pub(super) fates: Vec<Fate>,
    /// For each entry the number of its staging directory, or [`NOWHERE`].
    stage: Vec<u32>,
    pub(super) databases: HashSet<Vec<u8>>,
    /// Entries that come under the name of what is paused, and whether there is something under their own that goes.
    pub(super) renamed: BTreeMap<Index, bool>,
    children: OnceLock<Children>,
}

impl<'a> Part<'a> {
    /// Compares an archive with the target.
    pub(super) fn compare(archive: &'a Opened, goal: &Goal<'_>) -> Result<Part<'a>> {
        let databases = archive.databases();
        let wanted = goal.globs.map(|globs| globs.select(&archive.tree));
        let look = goal.look(&databases, wanted.as_deref());
        let fates = compare(&archive.tree, &goal.layout, &look);
        let mut fates = fates.map_err(|(path, e)| failed("look at", &path, e.into()))?;
        if goal.overwrite == Overwrite::Never {
            leave(&archive.tree, &mut fates);
        }
        let stage = vec![NOWHERE; archive.tree.len()];
        Ok(Part { archive, fates, stage, databases, renamed: BTreeMap::new(), children: OnceLock::new() })
    }

    /// What the secrets have counts, where both have it.
    pub(super) fn give_way(&mut self, secrets: &Part<'_>) {
        let hidden = overridden(&self.archive.tree, &secrets.archive.tree);
        for (fate, _) in self.fates.iter_mut().zip(hidden).filter(|(_, hidden)| *hidden) {
            if *fate != Fate::Unwanted {
                *fate = Fate::Overridden;
            }
        }
    }

    /// Has each root in which there is something to do staged where `stage_at` says for its source.
    pub(super) fn assign_stages(&mut self, stage_at: &mut dyn FnMut(&[u8]) -> u32) {
        let tree = &self.archive.tree;
        let mut root_of: Vec<Index> = Vec::with_capacity(tree.len());
        let mut busy = BTreeSet::new();
        for i in tree.indices() {
            let parent = tree.node(i).parent;
            let root = if parent == NONE { i } else { root_of[parent as usize] };
            root_of.push(root);
            if self.todo(i) {
                busy.insert(root);
            }
        }
        let stages: HashMap<Index, u32> =
            busy.into_iter().map(|root| (root, stage_at(&self.source_of(&tree.path(root))))).collect();
        self.stage = root_of.iter().map(|root| stages.get(root).copied().unwrap_or(NOWHERE)).collect();
    }

    /// The source root that a path lies in: secrets of one agent are staged together, wherever in its home they lie.
    fn source_of(&self, path: &[u8]) -> Vec<u8> {
        let sources = self.archive.header().sources.iter().map(|s| s.path.bytes());
        let around = |root: &Vec<u8>| path.strip_prefix(&root[..]).is_some_and(|r| r.first() == Some(&b'/'));
        sources.filter(|s| !s.is_empty() && around(s)).max_by_key(Vec::len).unwrap_or_else(|| path.to_owned())
    }

    pub(super) fn children(&self) -> &Children {
        self.children.get_or_init(|| Children::of(&self.archive.tree))
    }

    /// The entry at a path.
    pub(super) fn find(&self, path: &[u8]) -> Option<Index> {
        self.children().find(&self.archive.tree, path)
    }

    /// Has what presets know how to pause come under another name, if that is wanted; what an earlier restore left under
    /// that name stays there, whether it is wanted or not.
    pub(super) fn pause(&mut self, archives: &[Opened], goal: &Goal<'_>) -> Result<()> {
        let tree = &self.archive.tree;
        let look = goal.look(&self.databases, None);
        for index in agents::pieces(archives, self.archive)? {
            let fate = self.fates[index as usize];
            if fate != Fate::New && !(fate == Fate::Differs && goal.paused) {
                continue;
            }
            let path = tree.path(index);
            let aside = aside(&path);
            let in_use = goal.layout.to_disk(&path);
            if fate == Fate::Differs
                && Path::new(OsStr::from_bytes(&in_use)).symlink_metadata().is_ok_and(|m| m.is_dir())
            {
                return Err(Error::failed(format!(
                    "{} is a directory, and a file in the snapshot, so it cannot be paused",
                    printable(&in_use)
                ))
                .hint("move the directory away, or restore without --paused; nothing was changed"));
            }
            let beside = compare_at(tree, index, &goal.layout, &look, &aside);
            let beside = beside.map_err(|e| failed("look at", &aside, e.into()))?;
            let there = matches!(beside, Fate::Same | Fate::Settled);
            let also = self.find(&aside).is_some();
            if fate == Fate::New && there && !also {
                self.fates[index as usize] = Fate::Paused;
            } else if goal.paused && also {
                let (path, aside) = (printable(&path), printable(&aside));
                return Err(Error::failed(format!(
                    "the snapshot has both {path} and {aside}, so the one cannot be paused"
                ))
                .hint("restore without --paused into a --target, and move what is wanted; nothing was changed"));
            } else if goal.paused && beside == Fate::Differs && goal.overwrite == Overwrite::Never {
                self.fates[index as usize] = Fate::Left;
            } else if goal.paused {
                if beside == Fate::Differs {
                    self.fates[index as usize] = Fate::Differs;
                }
                self.renamed.insert(index, fate == Fate::Differs);
            }
        }
        Ok(())
    }

    /// Whether an entry is brought back.
    pub(super) fn todo(&self, index: Index) -> bool {
        matches!(self.fates[index as usize], Fate::New | Fate::Differs)
    }

    /// The number of the stage of an entry that is brought back.
    pub(super) fn stage_number(&self, index: Index) -> Option<usize> {
        usize::try_from(self.stage[index as usize]).ok().filter(|_| self.todo(index))
    }

    /// The stage of an entry that is brought back.
    pub(super) fn stage_of<'s>(&self, stages: &'s [Stage], index: Index) -> Option<&'s Stage> {
        stages.get(self.stage_number(index)?)
    }
}
