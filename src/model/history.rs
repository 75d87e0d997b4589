//! What became of paths over many snapshots, from what each manifest lists and none of the trees.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::entry::{Entry, Kind, Time};
use super::path::is_below;

/// What a snapshot has at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What it is; [`Kind::Missing`] where it could not be read.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// When its content last changed.
    pub mtime: Time,
    /// Its digest, of a file.
    pub blake3: [u8; 32],
    /// Where a link leads.
    pub target: Vec<u8>,
}

impl Version {
    fn of(entry: &Entry) -> Version {
        let Entry { kind, size, mtime, blake3, .. } = *entry;
        Version { kind, size, mtime, blake3, target: entry.target.clone() }
    }

    /// Whether the other one has the same content, whatever its time is.
    pub fn same_content(&self, other: &Version) -> bool {
        (self.kind, self.size, self.blake3, &self.target) == (other.kind, other.size, other.blake3, &other.target)
    }
}

/// What one snapshot has at those paths that matter.
#[derive(Clone, Debug, Default)]
pub struct Tree(BTreeMap<Vec<u8>, Arc<Version>>);

impl Tree {
    /// The tree of a snapshot before its manifest is read: its parent's, of which it lists what changed.
    pub fn on(parent: Option<&Tree>) -> Tree {
        parent.cloned().unwrap_or_default()
    }

    /// Takes an entry that the manifest lists, ascending by path. What is no directory hides what the parent has below it, and
    /// `matters` says whether the path itself is of interest.
    pub fn take(&mut self, path: &[u8], entry: &Entry, matters: bool) {
        if entry.kind != Kind::Dir && !self.0.is_empty() {
            let first = [path, b"/"].concat();
            let below = self.0.range::<[u8], _>((Bound::Included(&first[..]), Bound::Unbounded));
            let hidden: Vec<Vec<u8>> = below.map(|(p, _)| p).take_while(|p| is_below(p, path)).cloned().collect();
            hidden.iter().for_each(|p| drop(self.0.remove(p)));
        }
        if entry.kind == Kind::Deleted {
            self.0.remove(path);
        } else if matters {
            self.0.insert(path.to_vec(), Arc::new(Version::of(entry)));
        }
    }

    /// Puts files in the place of their further names, which have neither size nor digest of their own.
    pub fn versions(&self) -> impl Iterator<Item = (&[u8], &Version)> {
        self.0.iter().map(|(path, version)| {
            let file = (version.kind == Kind::Hardlink).then(|| self.0.get(&version.target)).flatten();
            (&path[..], file.map_or(&**version, |file| &**file))
        })
    }
}

/// One change of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The snapshot in which it was seen first, by its place among those that were added.
    pub snapshot: usize,
    /// What is there since; nothing when it is gone.
    pub now: Option<Version>,
}

/// The changes of all paths that matter.
#[derive(Debug, Default)]
pub struct History {
    changes: BTreeMap<Vec<u8>, Vec<Change>>,
    added: usize,
}

impl History {
    /// Adds the next snapshot, in order of time. What differs from the one before is a change.
    pub fn add(&mut self, tree: &Tree) {
        let snapshot = self.added;
        self.added += 1;
        let mut seen = tree.versions().peekable();
        for (path, changes) in &mut self.changes {
            // What comes before this path is new, and is added below.
            while seen.next_if(|(p, _)| *p < &path[..]).is_some() {}
            let now = seen.next_if(|(p, _)| *p == &path[..]).map(|(_, version)| version);
            let last = changes.last().and_then(|c| c.now.as_ref());
            if last != now {
                changes.push(Change { snapshot, now: now.cloned() });
            }
        }
        for (path, version) in tree.versions() {
            if !self.changes.contains_key(path) {
                self.changes.insert(path.to_vec(), vec![Change { snapshot, now: Some(version.clone()) }]);
            }
        }
    }

    /// The changes by path, each in order of time.
    pub fn changes(&self) -> impl Iterator<Item = (&[u8], &[Change])> {
        self.changes.iter().map(|(path, changes)| (&path[..], &changes[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> Entry {
        Entry { size, blake3: [size.to_le_bytes()[0]; 32], ..Entry::new(Kind::File) }
    }

    fn sizes(history: &History, path: &[u8]) -> Vec<(usize, Option<u64>)> {
        let found = history.changes().find(|(p, _)| *p == path).map(|(_, c)| c.to_vec()).unwrap_or_default();
        found.into_iter().map(|c| (c.snapshot, c.now.map(|v| v.size))).collect()
    }

    #[test]
    fn versions_follow_chains_and_not_only_what_is_listed() {
        let mut history = History::default();
        let mut full = Tree::on(None);
        full.take(b"home/d", &Entry::new(Kind::Dir), false);
        full.take(b"home/d/f", &file(1), true);
        full.take(b"home/d-x", &file(5), true);
        history.add(&full);
        // On the full: changed. On the full, again: not changed there, so back to what it was.
        let mut changed = Tree::on(Some(&full));
        changed.take(b"home/d/f", &file(2), true);
        history.add(&changed);
        history.add(&Tree::on(Some(&full)));
        // A directory that is gone takes all with it, and nothing beside it.
        let mut gone = Tree::on(Some(&changed));
        gone.take(b"home/d", &Entry::new(Kind::Deleted), false);
        history.add(&gone);
        history.add(&Tree::on(Some(&gone)));
        let mut back = Tree::on(Some(&gone));
        back.take(b"home/d/f", &file(3), true);
        back.take(b"home/a", &Entry { target: b"home/d/f".to_vec(), ..Entry::new(Kind::Hardlink) }, true);
        history.add(&back);
        assert_eq!(sizes(&history, b"home/d/f"), [(0, Some(1)), (1, Some(2)), (2, Some(1)), (3, None), (5, Some(3))]);
        assert_eq!(sizes(&history, b"home/d-x"), [(0, Some(5))]);
        assert_eq!(sizes(&history, b"home/a"), [(5, Some(3))]);
    }
}
