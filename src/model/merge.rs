//! Merging the manifests of a chain into the one tree of its newest snapshot, as section 5 of `FORMAT.md` says.
//!
//! All manifests are read side by side, ascending by path, so that none of them is ever held whole beside the result. A
//! *level* is an archive's place in the chain: 0 is the snapshot itself, 1 its parent, and so on to the full.

use std::collections::HashMap;

use super::entry::{Entry, Extent, Kind};
use super::loader::{Growing, check_links};
use super::path::{is_below, printable};
use super::store_key::Archive;
use super::tree::{Children, Index, NONE, Tree};
use crate::error::{Error, Result};

/// Place of an archive in its chain.
pub type Level = u16;

/// How many pieces the files of a snapshot may be put together from, all in all: some 512 MiB of memory. A delta has at
/// most [`DELTA_EXTENTS_MAX`](super::entry::DELTA_EXTENTS_MAX) extents, so only what was made to do harm comes near.
pub const PIECES_MAX: usize = 16 << 20;

/// The entries of one manifest, ascending by path.
pub type Lines<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Entry)>> + 'a>;

/// One manifest of a chain, as it is read.
pub struct Listed<'a> {
    /// Its entries.
    pub lines: Lines<'a>,
    /// The source roots that its header names.
    pub sources: Vec<Vec<u8>>,
}

/// A run of a file's content, and where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// The archive that holds them.
    pub level: Level,
    /// Offset in that archive's tar stream.
    pub at: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// What is left of it from `offset` on, which lies within it.
    fn from(self, offset: u64) -> Piece {
        let cut = offset - self.offset;
        Piece { offset, length: self.length - cut, at: self.at + cut, ..self }
    }

    fn until(self, end: u64) -> Piece {
        Piece { length: end - self.offset, ..self }
    }
}

/// Which archive of a chain holds what of a tree's files.
#[derive(Default)]
pub struct Holders {
    /// Per entry; what is past the end is level 0.
    level: Vec<Level>,
    /// Of files whose content comes from several places, all of them, ascending by offset; the rest is zeros.
    pieces: HashMap<Index, Vec<Piece>>,
    /// Of files that a delta extends with zeros, how many bytes.
    zeros: HashMap<Index, u64>,
}

impl Holders {
    /// The archive that lists the entry, and holds its content, if [`Holders::pieces`] does not say otherwise.
    pub fn level(&self, index: Index) -> Level {
        self.level.get(at(index)).copied().unwrap_or(0)
    }

    /// What the file is put together from; `None` where it lies in one archive as the tree says.
    pub fn pieces(&self, index: Index) -> Option<&[Piece]> {
        self.pieces.get(&index).map(Vec::as_slice)
    }

    /// The files that are put together from pieces.
    pub fn pieced(&self) -> impl Iterator<Item = Index> {
        self.pieces.keys().copied()
    }

    /// Bytes that the file takes on a disk.
    pub fn bytes(&self, tree: &Tree, index: Index) -> u64 {
        let stored = match self.pieces(index) {
            Some(pieces) => pieces.iter().map(|p| p.length).sum(),
            None => tree.stored(index).map_or(0, |s| s.1),
        };
        stored + self.zeros.get(&index).copied().unwrap_or(0)
    }

    /// Gives the entry `to` the content of `from`.
    pub fn copy(&mut self, from: Index, to: Index) {
        self.set_level(to, self.level(from));
        if let Some(pieces) = self.pieces.get(&from).cloned() {
            self.pieces.insert(to, pieces);
        }
        if let Some(zeros) = self.zeros.get(&from).copied() {
            self.zeros.insert(to, zeros);
        }
    }

    fn shift(&mut self, by: impl Fn(Level) -> Level) {
        self.level.iter_mut().for_each(|level| *level = by(*level));
        self.pieces.values_mut().flatten().for_each(|piece| piece.level = by(piece.level));
    }

    fn set_level(&mut self, index: Index, level: Level) {
        if self.level.len() <= at(index) {
            self.level.resize(at(index) + 1, 0);
        }
        self.level[at(index)] = level;
    }
}

/// A path that the snapshot says could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The path.
    pub path: Vec<u8>,
    /// Why it could not be read.
    pub reason: String,
    /// The nearest ancestor whose tree has it.
    pub level: Option<Level>,
}

/// The tree of a chain's newest snapshot.
pub struct Merged {
    /// Its entries as recorded, what is missing among them; no entry is a delta any more.
    pub tree: Tree,
    /// Where their content is.
    pub holders: Holders,
    /// What is missing.
    pub missing: Vec<Missing>,
    /// What ancestors have in the place of what is missing.
    older: Older,
}

/// What stands in for entries that are missing.
struct Older {
    tree: Tree,
    /// Where each is listed, and in whose tree it was found.
    found: Vec<(Level, Level)>,
    /// Which of them take the place of a missing entry of the snapshot's tree.
    replaces: HashMap<Index, Index>,
    holders: Holders,
}

impl Merged {
    /// A merged tree of a full, which has no ancestors.
    pub fn full(tree: Tree) -> Merged {
        let is_missing = |i: &Index| tree.node(*i).kind == Kind::Missing;
        let describe = |i| Missing { path: tree.path(i), reason: tree.entry(i).reason, level: None };
        let missing = tree.indices().filter(is_missing).map(describe).collect();
        let older = Older::new(Tree::new());
        Merged { tree, holders: Holders::default(), missing, older }
    }

    /// Paths that are missing and that nothing stands in for.
    pub fn lacking(&self) -> Vec<Vec<u8>> {
        self.tree.indices().filter(|i| self.tree.node(*i).kind == Kind::Missing).map(|i| self.tree.path(i)).collect()
    }

    /// Takes what is [lacking](Merged::lacking) from the tree of another snapshot, older than all of the chain. `open`
    /// reads the manifests of that one's chain, `count` of them; from now on `first` is its level, and the next ones are
    /// those of its ancestors. `sources` are the source roots of this snapshot. `false` when it has nothing of it.
    ///
    /// # Errors
    /// As [`merge`].
    pub fn look_in<'a>(
        &mut self,
        archive: Archive,
        sources: &[Vec<u8>],
        first: Level,
        count: usize,
        open: &mut dyn FnMut(Level) -> Result<Listed<'a>>,
    ) -> Result<bool> {
        let is_missing = |i: &Index| self.tree.node(*i).kind == Kind::Missing;
        let mut wanted: Vec<(Vec<u8>, Index)> =
            self.tree.indices().filter(is_missing).map(|i| (self.tree.path(i), i)).collect();
        wanted.sort();
        // A manifest on top of the others that lists nothing but what is missing.
        let mut with_top = |level: Level| match level.checked_sub(1) {
            Some(level) => open(level),
            None => {
                let lines: Vec<_> = wanted.iter().map(|w| Ok((w.0.clone(), Entry::new(Kind::Missing)))).collect();
                Ok(Listed { lines: Box::new(lines.into_iter()), sources: sources.to_vec() })
            }
        };
        let mut looked = read(archive, count + 1, &mut with_top, Scope::Missing)?;
        let shift = |level: Level| level - 1 + first;
        looked.older.holders.shift(shift);
        looked.older.replaces.values_mut().for_each(|index| *index = wanted[at(*index)].1);
        for found in looked.missing {
            let level = found.level.map(shift);
            match self.missing.iter_mut().find(|m| m.path == found.path) {
                Some(missing) => missing.level = missing.level.or(level),
                None => self.missing.push(Missing { level, ..found }),
            }
        }
        let any = !looked.older.tree.is_empty();
        self.take_in(looked.older);
        Ok(any)
    }

    /// Whether ancestors have anything of what is missing.
    pub fn has_older(&self) -> bool {
        !self.older.tree.is_empty()
    }

    /// Puts what ancestors have in the place of what is missing. The tree is not the recorded one any more then.
    pub fn take_older(&mut self) {
        let empty = Older::new(Tree::new());
        let older = std::mem::replace(&mut self.older, empty);
        self.take_in(older);
    }

    fn take_in(&mut self, older: Older) {
        let mut moved: Vec<Index> = Vec::with_capacity(older.tree.len());
        for i in older.tree.indices() {
            let (node, entry) = (older.tree.node(i), older.tree.entry(i));
            let index = match older.replaces.get(&i) {
                Some(index) => *index,
                None => {
                    let parent = if node.parent == NONE { NONE } else { moved[at(node.parent)] };
                    self.tree.push(parent, older.tree.name(i), entry.kind, node.archive)
                }
            };
            self.tree.set_entry(index, &entry);
            self.holders.set_level(index, older.holders.level(i));
            if let Some(pieces) = older.holders.pieces.get(&i) {
                self.holders.pieces.insert(index, pieces.clone());
            }
            if let Some(zeros) = older.holders.zeros.get(&i) {
                self.holders.zeros.insert(index, *zeros);
            }
            moved.push(index);
        }
    }
}

impl Older {
    fn new(tree: Tree) -> Older {
        Older { tree, found: Vec::new(), replaces: HashMap::new(), holders: Holders::default() }
    }
}

/// Merges the `count` manifests of a chain, which `open` begins to read, by level.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged) when the manifests do not fit on each other; those of `open` and of reading.
pub fn merge<'a>(archive: Archive, count: usize, open: &mut dyn FnMut(Level) -> Result<Listed<'a>>) -> Result<Merged> {
    read(archive, count, open, Scope::All)
}

/// What is wanted of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Its newest snapshot's tree.
    All,
    /// What the tree of level 1 has in the place of what level 0 lists, all of it missing.
    Missing,
}

fn read<'a>(
    archive: Archive,
    count: usize,
    open: &mut dyn FnMut(Level) -> Result<Listed<'a>>,
    scope: Scope,
) -> Result<Merged> {
    let mut wants = Wants::default();
    // A full has no deltas, and may be large.
    for level in 0..levels(count)?.saturating_sub(1) {
        for line in open(level)?.lines {
            if let Some(delta) = line?.1.delta {
                wants.add(delta.base, level + 1);
            }
        }
    }
    let mut bases = Bases::new();
    let mut merged = tree(archive, &mut Walk::new(count, open)?, &wants, &mut bases, scope)?;
    let mut more = further_wants(&bases, &merged.older);
    if !more.0.is_empty() {
        let mut walk = Walk::new(count, open)?;
        while let Some(path) = walk.next()? {
            more.look(&walk, &path, &mut bases);
        }
        more.0.clear();
    }
    outside_names(&mut merged.older, &bases);
    check_links(&merged.tree)?;
    check_links_within(&merged.tree, &merged.holders)?;
    let mut flat = Flattener { bases: &bases, pieces: 0 };
    flat.all(&mut merged.tree, &mut merged.holders)?;
    flat.all(&mut merged.older.tree, &mut merged.older.holders)?;
    Ok(merged)
}

fn levels(count: usize) -> Result<Level> {
    Level::try_from(count).map_err(|_| Error::damaged(format!("its chain has {count} members, more than can be")))
}

/// Reads all manifests once, ascending by path, into the tree; and what is wanted of older trees into `bases`.
fn tree(archive: Archive, walk: &mut Walk<'_>, wants: &Wants, bases: &mut Bases, scope: Scope) -> Result<Merged> {
    let (mut growing, mut standing_in) = (Growing::new(archive), Growing::new(archive));
    let (mut holders, mut missing, mut regions) = (Holders::default(), Vec::new(), Vec::<Region>::new());
    let mut older = Older::new(Tree::new());
    while let Some(path) = walk.next()? {
        wants.look(walk, &path, bases);
        while regions.last().is_some_and(|r| !path.starts_with(&r.path)) {
            regions.pop();
        }
        // What the snapshot's own tree has; else, below what is missing, what the tree has that stands in.
        let (shown, recorded) = match walk.at(0, &path) {
            Some(found) => (Some((0, found)), true),
            None => {
                let region = regions.iter().rev().find(|r| is_below(&path, &r.path));
                let region = region.filter(|r| !walk.cursors[usize::from(r.by)].in_other_source(&path, &r.path));
                (region.and_then(|r| Some((r.tree, walk.at(r.tree, &path)?))), false)
            }
        };
        let Some((from, (level, entry))) = shown else { continue };
        if recorded && level > 0 && scope == Scope::Missing {
            continue;
        }
        let index = if recorded {
            let index = growing.push(path.clone(), entry)?;
            holders.level.push(level);
            Some(index)
        } else {
            None
        };
        let mut stand_in = (!recorded).then_some((from, (level, entry)));
        if entry.kind == Kind::Missing {
            let end = if recorded && scope == Scope::Missing { 2 } else { walk.count() };
            let mut ancestors = (from + 1..end).filter_map(|l| Some((l, walk.at(l, &path)?)));
            let nearest = ancestors.find(|(_, (_, e))| e.kind != Kind::Missing);
            let tree = nearest.map(|(tree, _)| tree);
            missing.push(Missing { path: path.clone(), reason: entry.reason.clone(), level: tree });
            regions.extend(tree.map(|tree| Region { path: path.clone(), by: level, tree }));
            stand_in = nearest.or(stand_in);
        }
        if let Some((tree, (level, entry))) = stand_in {
            let number = standing_in.push(path, entry)?;
            older.found.push((level, tree));
            older.holders.level.push(level);
            older.replaces.extend(index.map(|index| (number, index)));
        }
    }
    older.tree = standing_in.finish();
    Ok(Merged { tree: growing.finish(), holders, missing, older })
}

/// A missing path, what is below it included, whose place an ancestor's tree takes.
struct Region {
    path: Vec<u8>,
    /// The manifest that lists it as missing.
    by: Level,
    /// The ancestor.
    tree: Level,
}

/// Entries of older trees that are needed: paths, and in whose trees.
#[derive(Default)]
struct Wants(HashMap<Vec<u8>, Vec<Level>>);

/// The entries that [`Wants`] found, and which manifest lists each.
type Bases = HashMap<(Vec<u8>, Level), (Level, Entry)>;

impl Wants {
    fn add(&mut self, path: Vec<u8>, tree: Level) {
        let trees = self.0.entry(path).or_default();
        if !trees.contains(&tree) {
            trees.push(tree);
        }
    }

    fn look(&self, walk: &Walk<'_>, path: &[u8], bases: &mut Bases) {
        // Most restores are of fulls, or of chains with few deltas.
        if self.0.is_empty() {
            return;
        }
        for tree in self.0.get(path).into_iter().flatten() {
            if let Some((level, entry)) = walk.at(*tree, path) {
                bases.insert((path.to_vec(), *tree), (level, entry.clone()));
            }
        }
    }
}

/// The files of bases that are further names, and of further names that stand in without their file.
fn further_wants(bases: &Bases, older: &Older) -> Wants {
    let mut out = Wants::default();
    let linked = bases.iter().filter(|(_, (_, entry))| entry.kind == Kind::Hardlink);
    linked.for_each(|((_, tree), (_, entry))| out.add(entry.target.clone(), *tree));
    for (index, tree) in names_without_file(older) {
        out.add(older.tree.target(index).to_vec(), tree);
    }
    out
}

/// Hard links among what stands in whose file does not: it is not missing, or comes from another tree.
fn names_without_file(older: &Older) -> Vec<(Index, Level)> {
    let links: Vec<Index> = older.tree.indices().filter(|i| older.tree.node(*i).kind == Kind::Hardlink).collect();
    if links.is_empty() {
        return Vec::new();
    }
    let children = Children::of(&older.tree);
    let tree_of = |i: Index| older.found[at(i)].1;
    let whole = |i: &Index| {
        let file = children.find(&older.tree, older.tree.target(*i));
        file.is_some_and(|f| older.tree.node(f).kind == Kind::File && tree_of(f) == tree_of(*i))
    };
    links.into_iter().filter(|i| !whole(i)).map(|i| (i, tree_of(i))).collect()
}

/// Makes files of further names whose file does not stand in: a link would lead to a newer version of it.
fn outside_names(older: &mut Older, bases: &Bases) {
    for (index, tree) in names_without_file(older) {
        let key = (older.tree.target(index).to_vec(), tree);
        let (level, entry) = match bases.get(&key).filter(|(_, e)| e.kind == Kind::File) {
            Some((level, entry)) => (*level, entry.clone()),
            None => {
                let reason = format!("{}, which it is a further name of, is not there", printable(&key.0));
                (0, Entry { reason, ..Entry::new(Kind::Missing) })
            }
        };
        // The name's own target goes with the rest.
        older.tree.set_entry(index, &entry);
        older.holders.set_level(index, level);
    }
}

/// A hard link and its file come from one archive: an incremental that has one name of a file has all of them.
fn check_links_within(tree: &Tree, holders: &Holders) -> Result<()> {
    let mut children = None;
    for link in tree.indices().filter(|i| tree.node(*i).kind == Kind::Hardlink) {
        let children = children.get_or_insert_with(|| Children::of(tree));
        let file = children.find(tree, tree.target(link));
        if file.is_none_or(|f| holders.level(f) != holders.level(link)) {
            let names = (printable(&tree.path(link)), printable(tree.target(link)));
            return Err(Error::damaged(format!(
                "hard link {} leads to {}, which the archive that lists the link does not make",
                names.0, names.1
            )));
        }
    }
    Ok(())
}

/// All manifests of a chain at one path.
struct Walk<'a> {
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
    fn new(count: usize, open: &mut dyn FnMut(Level) -> Result<Listed<'a>>) -> Result<Self> {
        let mut cursors = Vec::new();
        for level in 0..levels(count)? {
            let Listed { mut lines, sources } = open(level)?;
            let next = lines.next().transpose()?;
            cursors.push(Cursor { lines, sources, next, here: None, open: Vec::new() });
        }
        Ok(Walk { cursors, path: Vec::new() })
    }

    fn count(&self) -> Level {
        Level::try_from(self.cursors.len()).expect("there are as many cursors as levels")
    }

    /// Goes on to the next path that any manifest lists.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.cursors.iter().filter_map(|c| c.next.as_ref()).map(|n| &n.0).min().cloned() else {
            return Ok(None);
        };
        for cursor in &mut self.cursors {
            cursor.come_to(&path, &self.path)?;
        }
        self.path.clone_from(&path);
        Ok(Some(path))
    }

    /// What the tree of `level` has at the path, and which manifest lists it.
    fn at(&self, level: Level, path: &[u8]) -> Option<(Level, &Entry)> {
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

/// Resolves deltas to where each byte is stored.
struct Flattener<'a> {
    bases: &'a Bases,
    pieces: usize,
}

impl Flattener<'_> {
    /// Resolves all deltas of `tree`.
    fn all(&mut self, tree: &mut Tree, holders: &mut Holders) -> Result<()> {
        for index in tree.indices().filter(|i| tree.delta(*i).is_some()).collect::<Vec<_>>() {
            let entry = tree.entry(index);
            let (pieces, holes) = self.pieces(&tree.path(index), holders.level(index), &entry)?;
            let stored: u64 = pieces.iter().map(|p| p.length).sum();
            self.pieces += pieces.len();
            if self.pieces > PIECES_MAX {
                return Err(Error::damaged(format!("its files are put together from more than {PIECES_MAX} pieces")));
            }
            let zeros = entry.size.saturating_sub(stored).saturating_sub(holes);
            if zeros > 0 {
                holders.zeros.insert(index, zeros);
            }
            settle(tree, holders, index, entry, pieces);
        }
        Ok(())
    }

    /// What the file is made of, and how many bytes of holes the whole version below it has.
    fn pieces(&self, path: &[u8], level: Level, entry: &Entry) -> Result<(Vec<Piece>, u64)> {
        let at = entry.at.unwrap_or_default();
        let Some(delta) = &entry.delta else {
            let whole = [(0, entry.size)];
            let extents = entry.extents.as_deref().unwrap_or(&whole);
            return Ok((placed(extents, level, at), entry.size.saturating_sub(entry.stored())));
        };
        let (base_level, base) = self.base(path, &delta.base, level + 1)?;
        let (below, holes) = self.pieces(&delta.base, *base_level, base)?;
        Ok((overlay(below, entry.size, &placed(&delta.extents, level, at)), holes))
    }

    /// The file that `path` is made from, in the tree of `level`.
    fn base(&self, path: &[u8], base: &[u8], level: Level) -> Result<&(Level, Entry)> {
        let refuse = |why: &str| {
            let names = (printable(path), printable(base));
            Error::damaged(format!("{} is made from {}, which {why} the parent's tree", names.0, names.1))
        };
        let find = |path: &[u8]| self.bases.get(&(path.to_vec(), level));
        let found = find(base).ok_or_else(|| refuse("is not in"))?;
        match found.1.kind {
            Kind::File => Ok(found),
            Kind::Hardlink => {
                find(&found.1.target).filter(|f| f.1.kind == Kind::File).ok_or_else(|| refuse("leads nowhere in"))
            }
            Kind::Dir => Err(refuse("is a directory in")),
            Kind::Symlink => Err(refuse("is a symbolic link in")),
            Kind::Missing | Kind::Deleted => Err(refuse("could not be read in")),
        }
    }
}

/// Where extents lie whose bytes follow each other in the tar from `at` on.
fn placed(extents: &[Extent], level: Level, at: u64) -> Vec<Piece> {
    let mut next = at;
    let mut out = Vec::with_capacity(extents.len());
    for &(offset, length) in extents.iter().filter(|e| e.1 > 0) {
        out.push(Piece { offset, length, level, at: next });
        next += length;
    }
    out
}

/// The base, cut to `size`, with the patch over it. Both are ascending and do not overlap.
fn overlay(base: Vec<Piece>, size: u64, patch: &[Piece]) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(base.len() + patch.len());
    let mut push = |piece: Piece| match out.last_mut() {
        Some(last) if last.end() == piece.offset && last.level == piece.level && last.at + last.length == piece.at => {
            last.length += piece.length;
        }
        _ => out.push(piece),
    };
    let mut base = base.into_iter().filter(|p| p.offset < size).map(|p| p.until(p.end().min(size)));
    let mut rest = base.next();
    for over in patch {
        while let Some(piece) = rest.take_if(|p| p.offset < over.offset) {
            push(piece.until(piece.end().min(over.offset)));
            rest = if piece.end() > over.offset { Some(piece.from(over.offset)) } else { base.next() };
        }
        push(*over);
        while let Some(piece) = rest.take_if(|p| p.offset < over.end()) {
            rest = if piece.end() > over.end() { Some(piece.from(over.end())) } else { base.next() };
        }
    }
    rest.into_iter().chain(base).for_each(push);
    out
}

/// Records what a delta came out as: most are renames or changes of metadata, and lie in one place like any other file.
fn settle(tree: &mut Tree, holders: &mut Holders, index: Index, entry: Entry, pieces: Vec<Piece>) {
    let first = pieces.first().copied();
    let mut next = first.map(|p| p.at);
    let together = pieces.iter().all(|p| {
        let follows = Some(p.at) == next && first.is_some_and(|f| f.level == p.level);
        next = Some(p.at + p.length);
        follows
    });
    let whole = first.is_some_and(|p| pieces.len() == 1 && p.offset == 0 && p.length == entry.size);
    let entry = Entry { delta: None, at: None, extents: None, ..entry };
    match first {
        None => {
            let extents = (entry.size > 0).then(Vec::new);
            tree.set_entry(index, &Entry { extents, ..entry });
        }
        Some(first) if together => {
            let extents = (!whole).then(|| pieces.iter().map(|p| (p.offset, p.length)).collect());
            tree.set_entry(index, &Entry { at: Some(first.at), extents, ..entry });
            holders.set_level(index, first.level);
        }
        Some(_) => {
            tree.set_entry(index, &entry);
            holders.pieces.insert(index, pieces);
        }
    }
}

/// An index as a subscript; 32 bits always fit on the platforms this builds for.
fn at(index: Index) -> usize {
    usize::try_from(index).expect("usize has at least 32 bits")
}
