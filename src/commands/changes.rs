//! What differs between the sources and what the catalog knows of them, as far as `stat` tells.

use std::collections::{BTreeMap, HashMap};

use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::host::scan::Scan;
use crate::model::entry::Kind;
use crate::model::guard::document;
use crate::model::path;
use crate::model::record::Record;
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index, NONE, Tree};

/// The path of the directory that all source roots are in, for the catalog.
pub const ABOVE: &[u8] = b"";

/// Something the catalog knows and the sources do not have any more.
#[derive(Clone, Debug)]
pub struct Gone {
    /// What was known.
    pub record: Record,
    /// Whether it is there, and a secret now.
    pub secret: bool,
}

/// The differences.
#[derive(Default)]
pub struct Changes {
    /// What has to be looked at, with what was known of it; nothing for what is new.
    pub looks: Vec<(Index, Option<Record>)>,
    /// What did not change since the last run, but since the parent.
    pub later: Vec<(Index, Record)>,
    /// What is gone, by path.
    pub gone: BTreeMap<Vec<u8>, Gone>,
    /// What lies below something that cannot be read, by directory and name.
    pub lost: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    /// Whether anything could be read last time and cannot be now.
    pub newly_lost: bool,
    /// What there was, as far as it can be seen now.
    pub before: Before,
}

/// Files that the catalog knows, but for databases: those are judged by what is in them.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Both, of documents of one kind.
    pub kinds: BTreeMap<&'static str, (u64, u64)>,
}

impl Before {
    fn add(&mut self, name: &[u8], record: &Record) {
        if record.kind == Kind::File && !record.lost && !record.database {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(record.size);
            if let Some(kind) = document(name) {
                let (files, bytes) = self.kinds.entry(kind).or_default();
                (*files, *bytes) = (*files + 1, bytes.saturating_add(record.size));
            }
        }
    }

    /// Takes one out again.
    pub fn take(&mut self, name: &[u8], record: &Record) {
        if record.kind == Kind::File && !record.lost && !record.database {
            self.files = self.files.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(record.size);
            if let Some((files, bytes)) = document(name).and_then(|kind| self.kinds.get_mut(kind)) {
                (*files, *bytes) = (files.saturating_sub(1), bytes.saturating_sub(record.size));
            }
        }
    }
}

/// Finds entries of the state in the tree by their paths.
pub struct Places {
    /// Children in order of name.
    pub children: Children,
    dirs: HashMap<Vec<u8>, Index>,
    roots: HashMap<Vec<u8>, Index>,
    /// Paths that stand for all below them: those that cannot be read, and `false` for roots that can.
    covers: BTreeMap<Vec<u8>, bool>,
    /// How many entries there were.
    entries: usize,
}

impl Places {
    /// Looks through the tree of a scan; what is added to it later is not found.
    pub fn of(tree: &Tree) -> Self {
        let (mut dirs, mut roots, mut covers) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        for index in tree.indices() {
            let node = tree.node(index);
            if node.kind == Kind::Deleted {
                continue;
            }
            if node.kind == Kind::Dir {
                dirs.insert(tree.path(index), index);
            }
            if node.parent == NONE {
                roots.insert(tree.path(index), index);
            }
            if node.kind == Kind::Missing || node.parent == NONE {
                covers.insert(tree.path(index), node.kind == Kind::Missing);
            }
        }
        Places { children: Children::by_name(tree), dirs, roots, covers, entries: tree.len() }
    }

    /// Entries that were added to the tree since.
    pub fn added(&self, tree: &Tree) -> impl Iterator<Item = Index> {
        tree.indices().skip(self.entries)
    }

    /// The directory at `path`.
    pub fn dir(&self, path: &[u8]) -> Option<Index> {
        self.dirs.get(path).copied()
    }

    /// What is at `path`, of whatever archive.
    pub fn find(&self, tree: &Tree, path: &[u8]) -> Option<Index> {
        let found = self.roots.get(path).copied().or_else(|| {
            let dir = self.dir(path::parent(path)?)?;
            self.children.named(tree, dir, path::file_name(path))
        });
        found.filter(|i| tree.node(*i).kind != Kind::Deleted)
    }

    /// Whether a path is that of a source's root, or below one.
    pub fn has_root_above(&self, path: &[u8]) -> bool {
        std::iter::successors(Some(path), |p| path::parent(p)).any(|up| self.roots.contains_key(up))
    }

    /// Whether something that can be read stands below `path`, in a source of its own.
    pub fn is_above_a_root(&self, path: &[u8]) -> bool {
        let below = |root: &[u8]| root.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'));
        self.covers.iter().any(|(root, missing)| !missing && below(root))
    }

    /// Whether what was at `path` cannot be seen, because something above it cannot be read.
    pub fn is_covered(&self, path: &[u8]) -> bool {
        let ups = std::iter::successors(path::parent(path), |p| path::parent(p));
        ups.into_iter().find_map(|up| self.covers.get(up)).copied().unwrap_or(false)
    }
}

/// What a comparison is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Everything will be read anyway: only what is gone counts.
    Nothing,
    /// An incremental against a parent of this seq.
    Since(u64),
    /// The same, and nothing is taken for unchanged.
    Everything(u64),
}

impl Look {
    /// What a run against `parent` looks at.
    pub fn of(parent: u64, rehash: bool) -> Look {
        if rehash { Look::Everything(parent) } else { Look::Since(parent) }
    }
}

impl Changes {
    /// Whether nothing has to be looked at and nothing is gone.
    pub fn are_none(&self) -> bool {
        self.looks.is_empty() && self.gone.is_empty() && !self.newly_lost
    }
}

/// Compares a scan with the catalog.
///
/// # Errors
/// When the catalog cannot be read or is damaged.
pub fn compare(scan: &Scan, places: &Places, catalog: &Catalog, look: Look) -> Result<Changes> {
    let (parent, everything) = match look {
        Look::Nothing => (u64::MAX, false),
        Look::Since(parent) => (parent, false),
        Look::Everything(parent) => (parent, true),
    };
    let tree = &scan.tree;
    let mut known = vec![false; tree.len()];
    let mut out = Changes::default();
    // Records of one directory follow each other.
    let (mut last, mut dir) = (None::<Vec<u8>>, None);
    catalog.records(&mut |dir_path, name, record| {
        if last.as_deref() != Some(dir_path) {
            dir = if dir_path == ABOVE { None } else { places.dir(dir_path) };
            last = Some(dir_path.to_vec());
        }
        let near =
            dir.and_then(|d| places.children.named(tree, d, name)).filter(|i| tree.node(*i).kind != Kind::Deleted);
        let path = || if dir_path == ABOVE { name.to_vec() } else { path::join(dir_path, name) };
        let Some(index) = near.or_else(|| places.find(tree, &path())) else {
            let path = path();
            if places.is_covered(&path) {
                out.newly_lost |= !record.lost;
                out.lost.entry(dir_path.to_vec()).or_default().push(name.to_vec());
            } else if record.kind != Kind::Missing {
                out.before.add(path::file_name(&path), &record);
                out.gone.insert(path, Gone { record, secret: false });
            }
            return Ok(());
        };
        let node = tree.node(index);
        if node.archive == Archive::Secrets {
            if record.kind != Kind::Missing {
                out.gone.insert(path(), Gone { record, secret: true });
            }
            return Ok(());
        }
        known[index as usize] = true;
        out.before.add(name, &record);
        if look == Look::Nothing {
            if node.kind != record.kind && node.kind != Kind::Missing && record.kind != Kind::Missing {
                out.gone.insert(path(), Gone { record, secret: false });
            }
        } else if node.kind == Kind::Missing {
            out.newly_lost |= !record.lost;
            out.looks.push((index, Some(record)));
        } else if record.kind == Kind::Missing {
            out.looks.push((index, None));
        } else if record.kind != node.kind {
            out.gone.insert(path(), Gone { record, secret: false });
            out.looks.push((index, None));
        } else if record.lost {
            out.looks.push((index, None));
        } else if everything || record.dirty || record.stamp != scan.look(index).stamp {
            out.looks.push((index, Some(record)));
        } else if record.is_after(parent) {
            out.later.push((index, record));
        }
        Ok(())
    })?;
    for index in tree.indices().filter(|i| look != Look::Nothing && !known[*i as usize]) {
        let node = tree.node(index);
        if node.archive == Archive::State && node.kind != Kind::Deleted {
            out.newly_lost |= node.kind == Kind::Missing;
            out.looks.push((index, None));
        }
    }
    Ok(out)
}
