//! What a manifest lists, in order, and the digest of the tree.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;

use super::changes::Places;
use super::contents::Contents;
use super::plan::Plan;
use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::host::scan::Scan;
use crate::model::entry::{Entry, Kind};
use crate::model::manifest::Counts;
use crate::model::path;
use crate::model::record::{XattrDigest, xattr_digests};
use crate::model::store_key::Archive;
use crate::model::tree::{Index, Tree};
use crate::model::tree_digest::TreeDigest;

/// What a manifest lists, and its digest.
pub struct Listing {
    /// How many of each kind.
    pub counts: Counts,
    /// Bytes of content.
    pub bytes: u64,
    /// The tree digest.
    pub digest: String,
}

/// Takes the path and entry of each line.
pub type Each<'a> = dyn FnMut(&[u8], &Entry) -> std::io::Result<()> + 'a;

impl Listing {
    /// Lists the entries of `archive` and shows each, ascending bytewise by path.
    ///
    /// # Errors
    /// Those of `read`, which gives the whole entry, and of `each`.
    pub fn of(
        tree: &Tree,
        archive: Archive,
        read: &dyn Fn(Index) -> std::io::Result<Entry>,
        each: &mut Each<'_>,
    ) -> std::io::Result<Listing> {
        let mut pass = Pass::over(tree, archive);
        for index in std::mem::take(&mut pass.order) {
            let (path, entry) = (tree.path(index), read(index)?);
            let xattrs = xattr_digests(&entry.xattrs);
            pass.list(&path, &entry, each)?;
            pass.digest(path, entry, xattrs);
        }
        Ok(pass.finish())
    }

    /// Lists what an incremental holds, and digests all of the tree.
    ///
    /// # Errors
    /// When what was kept of the content cannot be read, and those of `each`.
    pub fn of_increment(
        scan: &Scan,
        plan: &Plan,
        contents: &Contents,
        unlisted: &Unlisted,
        each: &mut Each<'_>,
    ) -> std::io::Result<Listing> {
        let tree = &scan.tree;
        let mut pass = Pass::over(tree, Archive::State);
        let mut deleted = plan.deleted.iter().filter(|(_, listed)| **listed).map(|(path, _)| &path[..]).peekable();
        for index in std::mem::take(&mut pass.order) {
            let path = tree.path(index);
            pass.list_deleted(&mut deleted, Some(&path), each)?;
            if plan.actions.contains_key(&index) {
                let entry = contents.entry(tree, index)?;
                let xattrs = xattr_digests(&entry.xattrs);
                pass.list(&path, &entry, each)?;
                pass.digest(path, entry, xattrs);
            } else {
                let (entry, xattrs) = unlisted.entry(tree, index);
                pass.digest(path, entry, xattrs);
            }
        }
        pass.list_deleted(&mut deleted, None, each)?;
        Ok(pass.finish())
    }
}

/// One walk through a tree in order of path.
struct Pass {
    order: Vec<Index>,
    /// Files that hard links lead to.
    targets: HashSet<Vec<u8>>,
    /// Those that were seen: a hard link stands behind its file, whose path is the least of its names.
    linked: HashMap<Vec<u8>, (Entry, Vec<XattrDigest>)>,
    digest: TreeDigest,
    counts: Counts,
    bytes: u64,
}

impl Pass {
    fn over(tree: &Tree, archive: Archive) -> Pass {
        let mut order = tree.sorted();
        order.retain(|i| tree.node(*i).archive == archive && tree.node(*i).kind != Kind::Deleted);
        let links = order.iter().filter(|i| tree.node(**i).kind == Kind::Hardlink);
        let targets = links.map(|i| tree.target(*i).to_vec()).collect();
        let (linked, digest) = (HashMap::new(), TreeDigest::new());
        Pass { order, targets, linked, digest, counts: Counts::default(), bytes: 0 }
    }

    fn list(&mut self, path: &[u8], entry: &Entry, each: &mut Each<'_>) -> std::io::Result<()> {
        self.counts.add(entry.kind);
        self.bytes += if entry.kind == Kind::File { entry.size } else { 0 };
        each(path, entry)
    }

    /// Lists what is deleted before `path`; something of that very path is no longer.
    fn list_deleted<'p>(
        &mut self,
        deleted: &mut Peekable<impl Iterator<Item = &'p [u8]>>,
        path: Option<&[u8]>,
        each: &mut Each<'_>,
    ) -> std::io::Result<()> {
        while let Some(gone) = deleted.next_if(|gone| path.is_none_or(|path| *gone <= path)) {
            if Some(gone) != path {
                self.list(gone, &Entry::new(Kind::Deleted), each)?;
            }
        }
        Ok(())
    }

    fn digest(&mut self, path: Vec<u8>, entry: Entry, xattrs: Vec<XattrDigest>) {
        let file = if entry.kind == Kind::Hardlink { self.linked.get(&entry.target) } else { None };
        match file {
            Some((file, xattrs)) => self.digest.add(&path, &entry, file, xattrs),
            None => self.digest.add(&path, &entry, &entry, &xattrs),
        }
        // Most trees have no hard link, and hashing each path for that takes longer than the digest.
        if !self.targets.is_empty() && self.targets.contains(&path) {
            self.linked.insert(path, (entry, xattrs));
        }
    }

    fn finish(self) -> Listing {
        Listing { counts: self.counts, bytes: self.bytes, digest: self.digest.finish() }
    }
}

/// What the catalog knows of entries that an incremental does not list.
pub struct Unlisted {
    blake3: Vec<[u8; 32]>,
    /// Of databases, whose file is not as large as their image.
    sizes: HashMap<Index, u64>,
    xattrs: HashMap<Index, Vec<XattrDigest>>,
}

impl Unlisted {
    /// Gathers it.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn of(scan: &Scan, places: &Places, plan: &Plan, catalog: &Catalog) -> Result<Unlisted> {
        let tree = &scan.tree;
        let mut out = Unlisted { blake3: vec![[0; 32]; tree.len()], sizes: HashMap::new(), xattrs: HashMap::new() };
        catalog.records(&mut |dir, name, record| {
            let near = places.dir(dir).and_then(|dir| places.children.named(tree, dir, name));
            let full = || if dir.is_empty() { name.to_vec() } else { path::join(dir, name) };
            let Some(index) = near.or_else(|| places.find(tree, &full())) else { return Ok(()) };
            if plan.actions.contains_key(&index) {
                return Ok(());
            }
            out.blake3[index as usize] = record.blake3;
            if record.size != tree.node(index).size {
                out.sizes.insert(index, record.size);
            }
            if !record.xattrs.is_empty() {
                out.xattrs.insert(index, record.xattrs);
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn entry(&self, tree: &Tree, index: Index) -> (Entry, Vec<XattrDigest>) {
        let mut entry = tree.entry(index);
        if entry.kind == Kind::File {
            entry.blake3 = self.blake3[index as usize];
            entry.size = self.sizes.get(&index).copied().unwrap_or(entry.size);
        }
        (entry, self.xattrs.get(&index).cloned().unwrap_or_default())
    }
}
