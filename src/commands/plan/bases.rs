//! Contents of the parent's tree that something new could be made from, wherever it had them: a file that was renamed or
//! copied costs its name.

use std::collections::{HashMap, HashSet};

use crate::commands::changes::Changes;
use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::model::entry::Kind;
use crate::model::path;
use crate::model::tree::Tree;

/// A new file up to this size is stored again even where the parent has the same content: its delta would not be
/// smaller. In bytes.
const SMALL_COPY_BYTES: u64 = 512;

/// Contents by size and digest, and where the parent's tree has them.
pub(super) struct Bases {
    paths: HashMap<(u64, [u8; 32]), Vec<u8>>,
    /// Sizes that are there.
    sizes: HashSet<u64>,
}

impl Bases {
    /// Those of the tree of `parent` that have a size which is wanted.
    pub(super) fn of(tree: &Tree, catalog: &Catalog, parent: u64, changes: &Changes) -> Result<Bases> {
        let wanted = wanted(tree, parent, changes);
        let mut paths = HashMap::new();
        if wanted.is_empty() {
            return Ok(Bases { paths, sizes: wanted });
        }
        catalog.records(&mut |dir, name, record| {
            if record.is_base(parent) && wanted.contains(&record.size) {
                let path = if dir.is_empty() { name.to_vec() } else { path::join(dir, name) };
                if !changes.gone.get(&path).is_some_and(|gone| gone.secret) {
                    paths.entry((record.size, record.blake3)).or_insert(path);
                }
            }
            Ok(())
        })?;
        for grave in catalog.graves(parent)? {
            let was_there = grave.born <= parent && grave.changed <= parent;
            if let Some(blake3) = grave.blake3.filter(|_| was_there && wanted.contains(&grave.size)) {
                paths.entry((grave.size, blake3)).or_insert(grave.path);
            }
        }
        let sizes = paths.keys().map(|(size, _)| *size).collect();
        Ok(Bases { paths, sizes })
    }

    /// Where the parent's tree has a content.
    pub(super) fn find(&self, size: u64, blake3: [u8; 32]) -> Option<&Vec<u8>> {
        self.paths.get(&(size, blake3))
    }

    /// Whether something of that size is there, so that it is worth hashing what may be a copy of it.
    pub(super) fn may_have(&self, size: u64) -> bool {
        self.sizes.contains(&size)
    }
}

/// Sizes of what is new since the parent.
fn wanted(tree: &Tree, parent: u64, changes: &Changes) -> HashSet<u64> {
    let news = changes.looks.iter().filter(|(i, r)| r.is_none() && tree.node(*i).kind == Kind::File);
    let born = changes.later.iter().filter(|(_, r)| r.kind == Kind::File && r.born > parent);
    let sizes = news.map(|(i, _)| tree.node(*i).size).chain(born.map(|(_, r)| r.size));
    sizes.filter(|size| *size > SMALL_COPY_BYTES).collect()
}
