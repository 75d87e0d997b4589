//! Reading the entries of a manifest: what each must be, and the tree that they make.

use super::entry::{Entry, Kind};
use super::manifest::{Counts, Header};
use super::path;
use super::store_key::Archive;
use super::tree::{Children, Index, NONE, Tree};
use crate::error::{Error, Result};

/// Checks the entries of one manifest as they come, and refuses whatever could leave the target or is not a tree.
pub struct Checker {
    /// The entries whose paths are prefixes of the last one's, bytewise: its listed ancestors are among them.
    open: Vec<(Vec<u8>, Kind)>,
    tar_bytes: u64,
    full: bool,
    /// What the header promises.
    promised: (Counts, u64),
    counts: Counts,
    bytes: u64,
}

impl Checker {
    /// A checker for the entries below `header`.
    pub fn new(header: &Header) -> Self {
        Checker {
            open: Vec::new(),
            tar_bytes: header.tar_bytes(),
            full: header.parent.is_none(),
            promised: (header.counts, header.bytes),
            counts: Counts::default(),
            bytes: 0,
        }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged), naming the entry and the rule it breaks.
    pub fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let refuse = |why: &str| Err(Error::damaged(format!("entry {} of the manifest {why}", path::printable(path))));
        match self.open.last() {
            Some((last, _)) if *last == path => return refuse("is listed twice"),
            Some((last, _)) if &last[..] > path => return refuse("is out of order"),
            _ => {}
        }
        while self.open.last().is_some_and(|(open, _)| !path.starts_with(open)) {
            self.open.pop();
        }
        self.check_ancestor(path, entry.kind)?;
        if path::file_name(path).len() > usize::from(u16::MAX) {
            return refuse("has too long a name");
        }
        if matches!(path, b"home" | b"root") && !matches!(entry.kind, Kind::Dir | Kind::Missing) {
            // Everything else is placed below them.
            return refuse("is no directory");
        }
        if entry.kind == Kind::Deleted && self.full {
            return refuse("is deleted, in a full");
        }
        if entry.delta.is_some() && self.full {
            return refuse("is a delta, in a full");
        }
        if entry.kind == Kind::File {
            let Some(bytes) = self.bytes.checked_add(entry.size) else { return refuse("makes too many bytes") };
            self.bytes = bytes;
        }
        let end = entry.at.map_or(Some(0), |at| at.checked_add(entry.stored()));
        if end.is_none_or(|end| end > self.tar_bytes) {
            return refuse("lies outside the archive");
        }
        self.counts.add(entry.kind);
        self.open.push((path.to_vec(), entry.kind));
        Ok(())
    }

    /// What is listed above a path must be a directory, but for what is deleted: that is listed path by path, below
    /// what took its directory's place, too.
    fn check_ancestor(&self, path: &[u8], kind: Kind) -> Result<()> {
        let Some((ancestor, above)) = self.open.iter().rev().find(|(open, _)| path::is_below(path, open)) else {
            return Ok(());
        };
        // A directory that could not be read may hold another source that could.
        if matches!(above, Kind::Dir | Kind::Missing) || kind == Kind::Deleted {
            return Ok(());
        }
        let names = (path::printable(path), path::printable(ancestor));
        Err(Error::damaged(format!("entry {} of the manifest lies below {}, which is no directory", names.0, names.1)))
    }

    /// Checks the sums, after the last entry.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when they are not those of the header.
    pub fn finish(&self) -> Result<()> {
        let (counts, bytes) = self.promised;
        if self.counts != counts {
            return Err(Error::damaged("the manifest does not list as many entries as its header says"));
        }
        if self.bytes != bytes {
            return Err(Error::damaged("the manifest's files are not as many bytes as its header says"));
        }
        Ok(())
    }
}

/// A tree that grows in ascending order of path.
pub struct Growing {
    tree: Tree,
    archive: Archive,
    /// The entries whose paths are prefixes of the last one's, bytewise.
    open: Vec<(Vec<u8>, Index)>,
    /// Whether entries may lie below what is no directory.
    loose: bool,
}

impl Growing {
    /// An empty tree whose entries are of `archive`.
    pub fn new(archive: Archive) -> Self {
        Growing { tree: Tree::new(), archive, open: Vec::new(), loose: false }
    }

    /// The same for entries of which some will be taken away, so that nothing is refused yet.
    pub(super) fn loose(archive: Archive) -> Self {
        Growing { loose: true, ..Growing::new(archive) }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when it lies below something that is no directory.
    pub fn push(&mut self, path: Vec<u8>, entry: &Entry) -> Result<Index> {
        while self.open.last().is_some_and(|(open, _)| !path.starts_with(open)) {
            self.open.pop();
        }
        let parent = self.parent_of(&path, entry.kind)?;
        let name = if parent == NONE { &path[..] } else { path::file_name(&path) };
        if name.len() > usize::from(u16::MAX) {
            return Err(Error::damaged(format!("entry {} has too long a name", path::printable(&path))));
        }
        let index = self.tree.push(parent, name, entry.kind, self.archive);
        self.tree.set_entry(index, entry);
        self.open.push((path, index));
        Ok(index)
    }

    /// Whether `path`, which comes next, lies below an entry that can hold nothing.
    pub(super) fn is_closed(&self, path: &[u8]) -> bool {
        let closed = |i: Index| !matches!(self.tree.node(i).kind, Kind::Dir | Kind::Missing | Kind::Deleted);
        self.open.iter().any(|(open, index)| path::is_below(path, open) && closed(*index))
    }

    /// The directory entry that `path` is in; [`NONE`] where no ancestor is an entry at all.
    ///
    /// Between `a` and `a/x` the order of bytes allows only paths that begin with `a`, so an ancestor that was
    /// listed is still open.
    fn parent_of(&self, path: &[u8], kind: Kind) -> Result<Index> {
        let Some((ancestor, index)) = self.open.iter().rev().find(|(open, _)| path::is_below(path, open)) else {
            return Ok(NONE);
        };
        match self.tree.node(*index).kind {
            Kind::Dir => Ok(if path::parent(path) == Some(ancestor) { *index } else { NONE }),
            // A directory that could not be read may hold another source that could.
            Kind::Missing | Kind::Deleted => Ok(NONE),
            // What is deleted is listed path by path, below what took its directory's place, too.
            _ if kind == Kind::Deleted || self.loose => Ok(NONE),
            _ => {
                let names = (path::printable(path), path::printable(ancestor));
                Err(Error::damaged(format!("entry {} lies below {}, which is no directory", names.0, names.1)))
            }
        }
    }

    /// The tree.
    pub fn finish(self) -> Tree {
        self.tree
    }
}

/// Builds the tree of a manifest's entries, all of a full's and what changed of an incremental's, as [`Checker`] allows.
pub struct Loader {
    checker: Checker,
    growing: Growing,
}

impl Loader {
    /// A loader for the entries below `header`.
    pub fn new(archive: Archive, header: &Header) -> Self {
        Loader { checker: Checker::new(header), growing: Growing::new(archive) }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged), naming the entry and the rule it breaks.
    pub fn entry(&mut self, path: Vec<u8>, entry: &Entry) -> Result<()> {
        self.checker.entry(&path, entry)?;
        self.growing.push(path, entry)?;
        Ok(())
    }

    /// The tree, after the last line.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when a hard link does not lead to a file, or the counts are not the header's.
    pub fn finish(self) -> Result<Tree> {
        self.checker.finish()?;
        let tree = self.growing.finish();
        check_links(&tree)?;
        Ok(tree)
    }
}

/// Refuses hard links that do not lead to a file of the same tree.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged), naming the link.
pub fn check_links(tree: &Tree) -> Result<()> {
    let mut children = None;
    for link in tree.indices().filter(|i| tree.node(*i).kind == Kind::Hardlink) {
        let children = children.get_or_insert_with(|| Children::of(tree));
        let target = children.find(tree, tree.target(link));
        if target.is_none_or(|t| tree.node(t).kind != Kind::File) {
            let name = path::printable(&tree.path(link));
            return Err(Error::damaged(format!("hard link {name} of the manifest does not lead to one of its files")));
        }
    }
    Ok(())
}
