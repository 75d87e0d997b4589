//! The manifests of a chain side by side, ascending by path, so that none of them is ever held whole.

use super::entry::{Entry, Kind};
use super::path::is_below;
use crate::error::{Error, Result};

/// Place of an archive in its chain: 0 is the snapshot itself, 1 its parent, and so on to the full.
pub type Level = u16;

/// The entries of one manifest, ascending by path.
pub type Lines<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Entry)>> + 'a>;

/// One manifest of a chain, as it is read.
pub struct Listed<'a> {
    /// Its entries.
    pub lines: Lines<'a>,
    /// The source roots that its header names.
    pub sources: Vec<Vec<u8>>,
}

/// All manifests of a chain at one path.
pub(super) struct Walk<'a> {
    cursors: Vec<Cursor<'a>>,
    path: Vec<u8>,
}

/// One manifest at that path.
struct Cursor<'a> {
    lines: Lines<'a>,
    sources: Vec<Vec<u8>>,
    /// What comes next.
    next: Option<(Vec<u8>, Entry)>,
    /// What it lists at the path.
    here: Option<Entry>,
    /// What it lists that is no directory, and whose path the path begins with, bytewise.
    open: Vec<(Vec<u8>, Kind)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(count: usize, open: &mut dyn FnMut(Level) -> Result<Listed<'a>>) -> Result<Self> {
        let mut cursors = Vec::new();
        for level in 0..levels(count)? {
            let Listed { mut lines, sources } = open(level)?;
            let next = lines.next().transpose()?;
            cursors.push(Cursor { lines, sources, next, here: None, open: Vec::new() });
        }
        Ok(Walk { cursors, path: Vec::new() })
    }

    pub(super) fn count(&self) -> Level {
        Level::try_from(self.cursors.len()).expect("there are as many cursors as levels")
    }

    /// Goes on to the next path that any manifest lists.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.cursors.iter().filter_map(|c| c.next.as_ref()).map(|n| &n.0).min().cloned() else {
            return Ok(None);
        };
        for cursor in &mut self.cursors {
            cursor.come_to(&path, &self.path)?;
        }
        self.path.clone_from(&path);
        Ok(Some(path))
    }

    /// Whether `path` lies in a source that the manifest of `level` names, and that begins below the `missing` path.
    pub(super) fn in_other_source(&self, level: Level, path: &[u8], missing: &[u8]) -> bool {
        self.cursors[usize::from(level)].in_other_source(path, missing)
    }

    /// Whether the manifest of `level` lists the path, or something above it, as missing.
    pub(super) fn is_missing(&self, level: Level, path: &[u8]) -> bool {
        let cursor = &self.cursors[usize::from(level)];
        let above = |(open, kind): &(Vec<u8>, Kind)| {
            *kind == Kind::Missing && is_below(path, open) && !cursor.in_other_source(path, open)
        };
        cursor.here.as_ref().is_some_and(|e| e.kind == Kind::Missing) || cursor.open.iter().any(above)
    }

    /// What the tree of `level` has at the path, and which manifest lists it.
    pub(super) fn at(&self, level: Level, path: &[u8]) -> Option<(Level, &Entry)> {
        for (cursor, number) in self.cursors.iter().zip(0..).skip(usize::from(level)) {
            if let Some(entry) = &cursor.here {
                return (entry.kind != Kind::Deleted).then_some((number, entry));
            }
            if cursor.covers(path) {
                return None;
            }
        }
        None
    }
}

impl Cursor<'_> {
    /// Leaves the path `last` and comes to `path`.
    fn come_to(&mut self, path: &[u8], last: &[u8]) -> Result<()> {
        if let Some(entry) = self.here.take().filter(|e| e.kind != Kind::Dir) {
            self.open.push((last.to_vec(), entry.kind));
        }
        while self.open.last().is_some_and(|(open, _)| !path.starts_with(open)) {
            self.open.pop();
        }
        if let Some((_, entry)) = self.next.take_if(|(next, _)| next == path) {
            self.here = Some(entry);
            self.next = self.lines.next().transpose()?;
        }
        Ok(())
    }

    /// Whether it lists something that hides what older manifests have at `path`.
    fn covers(&self, path: &[u8]) -> bool {
        let hides = |open: &[u8], kind| kind != Kind::Missing || !self.in_other_source(path, open);
        self.open.iter().any(|(open, kind)| is_below(path, open) && hides(open, *kind))
    }

    /// Whether `path` lies in a source that begins below the missing path.
    fn in_other_source(&self, path: &[u8], missing: &[u8]) -> bool {
        self.sources.iter().any(|s| is_below(s, missing) && (path == s || is_below(path, s)))
    }
}

/// How many levels there are.
pub(super) fn levels(count: usize) -> Result<Level> {
    Level::try_from(count).map_err(|_| Error::damaged(format!("its chain has {count} members, more than can be")))
}
