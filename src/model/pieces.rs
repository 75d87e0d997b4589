//! Where the bytes of a chain's files are: deltas, resolved to runs in the archives that hold them.

use std::collections::HashMap;

use super::entry::{Delta, Entry, Extent, Kind};
use super::path::printable;
use super::tree::{Index, Tree};
use super::walk::{Level, Walk};
use crate::error::{Error, Result};

/// How many pieces the files of a snapshot may be put together from, all in all: some 512 MiB of memory. A delta has at
/// most [`DELTA_EXTENTS_MAX`](super::entry::DELTA_EXTENTS_MAX) extents, so only what was made to do harm comes near.
pub const PIECES_MAX: usize = 16 << 20;

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

    /// Where all bytes of a file are stored, ascending by offset; the rest is zeros.
    pub fn stored(&self, tree: &Tree, index: Index) -> Vec<Piece> {
        if let Some(pieces) = self.pieces(index) {
            return pieces.to_vec();
        }
        let whole = [(0, tree.node(index).size)];
        let (extents, place) = (tree.extents(index).unwrap_or(&whole), tree.stored(index));
        place.map_or_else(Vec::new, |(at, _)| placed(extents, self.level(index), at))
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

    /// Gives the entry `to` the content that `other` has for `from`.
    pub(super) fn take(&mut self, to: Index, other: &Holders, from: Index) {
        self.set_level(to, other.level(from));
        self.pieces.extend(other.pieces.get(&from).map(|pieces| (to, pieces.clone())));
        self.zeros.extend(other.zeros.get(&from).map(|zeros| (to, *zeros)));
    }

    pub(super) fn shift(&mut self, by: impl Fn(Level) -> Level) {
        self.level.iter_mut().for_each(|level| *level = by(*level));
        self.pieces.values_mut().flatten().for_each(|piece| piece.level = by(piece.level));
    }

    pub(super) fn set_level(&mut self, index: Index, level: Level) {
        if self.level.len() <= at(index) {
            self.level.resize(at(index) + 1, 0);
        }
        self.level[at(index)] = level;
    }
}

/// What deltas are made from: files of older trees, by path. There may be as many as files, so they are held compactly.
#[derive(Default)]
pub(super) struct Bases(HashMap<Box<[u8]>, Vec<Wanted>>);

/// A path in the tree of one level, and what that has there.
struct Wanted {
    tree: Level,
    found: Option<Base>,
}

/// What matters of an entry that a delta is made from.
struct Base {
    /// The manifest that lists it.
    level: Level,
    kind: Kind,
    size: u64,
    at: Option<u64>,
    extents: Option<Box<[Extent]>>,
    delta: Option<Box<Delta>>,
    target: Box<[u8]>,
}

impl Bases {
    /// Asks for the entry that the tree of a level has at `path`.
    pub(super) fn want(&mut self, path: &[u8], tree: Level) {
        let wanted = self.0.entry(path.into()).or_insert_with(|| Vec::with_capacity(1));
        if !wanted.iter().any(|w| w.tree == tree) {
            wanted.push(Wanted { tree, found: None });
        }
    }

    /// Asks for the files of which what was found is a further name; `false` if there is none.
    pub(super) fn want_files(&mut self) -> bool {
        let all = self.0.values().flatten();
        let links = all.filter_map(|w| Some((w.tree, w.found.as_ref().filter(|b| b.kind == Kind::Hardlink)?)));
        let files: Vec<(Box<[u8]>, Level)> = links.map(|(tree, base)| (base.target.clone(), tree)).collect();
        files.iter().for_each(|(path, tree)| self.want(path, *tree));
        !files.is_empty()
    }

    /// Takes what is asked for at the path that `walk` has come to.
    pub(super) fn look(&mut self, walk: &Walk<'_>, path: &[u8]) {
        // Most restores are of chains with few deltas.
        if self.0.is_empty() {
            return;
        }
        for wanted in self.0.get_mut(path).into_iter().flatten().filter(|w| w.found.is_none()) {
            wanted.found = walk.at(wanted.tree, path).map(|(level, entry)| Base::of(level, entry));
        }
    }

    fn get(&self, path: &[u8], tree: Level) -> Option<&Base> {
        self.0.get(path)?.iter().find(|w| w.tree == tree)?.found.as_ref()
    }
}

impl Base {
    fn of(level: Level, entry: &Entry) -> Base {
        Base {
            level,
            kind: entry.kind,
            size: entry.size,
            at: entry.at,
            extents: entry.extents.as_deref().map(Box::from),
            delta: entry.delta.clone(),
            target: entry.target.as_slice().into(),
        }
    }
}

/// Resolves deltas to where each byte is stored.
pub(super) struct Flattener<'a> {
    bases: &'a Bases,
    pieces: usize,
}

impl<'a> Flattener<'a> {
    /// One that finds in `bases` what deltas are made from.
    pub(super) fn new(bases: &'a Bases) -> Self {
        Flattener { bases, pieces: 0 }
    }

    /// Resolves `deltas`, by entry of `tree`.
    pub(super) fn all(
        &mut self,
        tree: &mut Tree,
        holders: &mut Holders,
        deltas: impl IntoIterator<Item = (Index, Box<Delta>)>,
    ) -> Result<()> {
        for (index, delta) in deltas {
            let entry = tree.entry(index);
            let made = Base { delta: Some(delta), ..Base::of(holders.level(index), &entry) };
            let (pieces, holes) = self.pieces(&tree.path(index), &made)?;
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
    fn pieces(&self, path: &[u8], file: &Base) -> Result<(Vec<Piece>, u64)> {
        let at = file.at.unwrap_or_default();
        let Some(delta) = &file.delta else {
            let whole = [(0, file.size)];
            let pieces = placed(file.extents.as_deref().unwrap_or(&whole), file.level, at);
            let stored: u64 = pieces.iter().map(|p| p.length).sum();
            return Ok((pieces, file.size.saturating_sub(stored)));
        };
        let (below, holes) = self.pieces(&delta.base, self.base(path, &delta.base, file.level + 1)?)?;
        Ok((overlay(below, file.size, &placed(&delta.extents, file.level, at)), holes))
    }

    /// The file that `path` is made from, in the tree of `level`.
    fn base(&self, path: &[u8], base: &[u8], level: Level) -> Result<&Base> {
        let refuse = |why: &str| {
            let names = (printable(path), printable(base));
            Error::damaged(format!("{} is made from {}, which {why} the parent's tree", names.0, names.1))
        };
        let found = self.bases.get(base, level).ok_or_else(|| refuse("is not in"))?;
        match found.kind {
            Kind::File => Ok(found),
            Kind::Hardlink => {
                let file = self.bases.get(&found.target, level).filter(|f| f.kind == Kind::File);
                file.ok_or_else(|| refuse("leads nowhere in"))
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
