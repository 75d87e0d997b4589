//! Merging the manifests of a chain into the one tree of its newest snapshot, as section 5 of `FORMAT.md` says.
//!
//! A *level* is an archive's place in the chain: 0 is the snapshot itself, 1 its parent, and so on to the full.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::entry::{Delta, Entry, Kind};
use super::loader::{Growing, check_links};
use super::path::{is_below, parent, printable};
use super::pieces::{Bases, Flattener, Holders};
use super::store_key::Archive;
use super::tree::{Children, Index, NONE, Tree};
use super::walk::{Level, Listed, Walk, levels};
use crate::error::{Error, Result};

/// A path that the snapshot says could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The path.
    pub path: Vec<u8>,
    /// Why it could not be read.
    pub reason: String,
    /// The nearest ancestor whose tree has it.
    pub level: Option<Level>,
    /// Whether the full could not read it either, so that what is before the full may have it.
    pub before: bool,
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
        let describe = |i| Missing { path: tree.path(i), reason: tree.entry(i).reason, level: None, before: true };
        let missing = tree.indices().filter(is_missing).map(describe).collect();
        let older = Older::new(Tree::new());
        Merged { tree, holders: Holders::default(), missing, older }
    }

    /// Takes the missing `paths`, as far as nothing stands in for them, from the tree of another snapshot, older than all
    /// of the chain. `open` reads the manifests of that one's chain, `count` of them; from now on `first` is its level, and
    /// the next ones are those of its ancestors. `sources` are the source roots of this snapshot. `false` when it has
    /// nothing of them.
    ///
    /// # Errors
    /// As [`merge`].
    pub fn look_in<'a>(
        &mut self,
        archive: Archive,
        paths: &HashSet<Vec<u8>>,
        sources: &[Vec<u8>],
        first: Level,
        count: usize,
        open: &mut dyn FnMut(Level) -> Result<Listed<'a>>,
    ) -> Result<bool> {
        let is_missing = |i: &Index| self.tree.node(*i).kind == Kind::Missing;
        let mut wanted: Vec<(Vec<u8>, Index)> =
            self.tree.indices().filter(is_missing).map(|i| (self.tree.path(i), i)).collect();
        wanted.retain(|(path, _)| paths.contains(path));
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
        let known: HashMap<Vec<u8>, usize> =
            self.missing.iter().enumerate().map(|(n, missing)| (missing.path.clone(), n)).collect();
        for found in looked.missing {
            let level = found.level.map(shift);
            match known.get(&found.path) {
                Some(n) => self.missing[*n].level = self.missing[*n].level.or(level),
                None => self.missing.push(Missing { level, before: false, ..found }),
            }
        }
        let any = !looked.older.tree.is_empty();
        self.take_in(looked.older);
        Ok(any)
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
                    let dir = if node.parent == NONE { NONE } else { moved[at(node.parent)] };
                    self.tree.push(dir, older.tree.name(i), entry.kind, node.archive)
                }
            };
            self.tree.set_entry(index, &entry);
            self.holders.take(index, &older.holders, i);
            moved.push(index);
        }
        self.give_way(&moved);
    }

    /// Where the snapshot has something below a missing path, nothing but a directory can stand in for that: what does
    /// not is missing again.
    fn give_way(&mut self, stand_ins: &[Index]) {
        let roots = self.tree.indices().filter(|i| self.tree.node(*i).parent == NONE);
        let mut above: HashSet<Vec<u8>> = HashSet::new();
        for path in roots.map(|i| self.tree.path(i)) {
            above.extend(std::iter::successors(parent(&path), |p| parent(p)).map(<[u8]>::to_vec));
        }
        for &index in stand_ins {
            let path = self.tree.path(index);
            if matches!(self.tree.node(index).kind, Kind::Dir | Kind::Missing) || !above.contains(&path) {
                continue;
            }
            let reason = "what older snapshots have there is no directory".to_owned();
            self.tree.set_entry(index, &Entry { reason, ..Entry::new(Kind::Missing) });
            for missing in self.missing.iter_mut().filter(|m| m.path == path) {
                (missing.level, missing.before) = (None, false);
            }
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
    let mut bases = Bases::default();
    // A full has no deltas, and may be large.
    for level in 0..levels(count)?.saturating_sub(1) {
        for line in open(level)?.lines {
            if let Some(delta) = line?.1.delta {
                bases.want(&delta.base, level + 1);
            }
        }
    }
    let (mut merged, deltas) = tree(archive, &mut Walk::new(count, open)?, &mut bases, scope)?;
    let mut names: Names = names_without_file(&merged.older)
        .into_iter()
        .map(|(i, tree)| (file_of(&merged.older, i, tree), None))
        .collect();
    // What further names are names of is known only now, and may stand before them.
    if bases.want_files() || !names.is_empty() {
        let trees: BTreeSet<Level> = names.keys().map(|(_, tree)| *tree).collect();
        let mut walk = Walk::new(count, open)?;
        while let Some(path) = walk.next()? {
            bases.look(&walk, &path);
            for tree in &trees {
                if let Some(found) = names.get_mut(&(path.clone(), *tree)) {
                    *found = walk.at(*tree, &path).map(|(level, entry)| (level, entry.clone()));
                }
            }
        }
    }
    let outside = outside_names(&mut merged.older, &names);
    check_links(&merged.tree)?;
    check_links_within(&merged.tree, &merged.holders)?;
    let mut flat = Flattener::new(&bases);
    flat.all(&mut merged.tree, &mut merged.holders, deltas.recorded)?;
    flat.all(&mut merged.older.tree, &mut merged.older.holders, deltas.older.into_iter().chain(outside))?;
    Ok(merged)
}

/// Files of older trees by path and tree, and which manifest lists them.
type Names = HashMap<(Vec<u8>, Level), Option<(Level, Entry)>>;

/// Deltas that are still to be resolved, by entry. In the tree they would cost as much as the rest of it.
#[derive(Default)]
struct Deltas {
    recorded: Vec<(Index, Box<Delta>)>,
    older: Vec<(Index, Box<Delta>)>,
}

/// Adds an entry; its delta goes to `deltas`.
fn push(growing: &mut Growing, path: Vec<u8>, entry: &Entry, deltas: &mut Vec<(Index, Box<Delta>)>) -> Result<Index> {
    let Some(delta) = &entry.delta else { return growing.push(path, entry) };
    let index = growing.push(path, &Entry { delta: None, ..entry.clone() })?;
    deltas.push((index, delta.clone()));
    Ok(index)
}

/// Reads all manifests once, ascending by path, into the tree; and looks for `bases` in older ones.
fn tree(archive: Archive, walk: &mut Walk<'_>, bases: &mut Bases, scope: Scope) -> Result<(Merged, Deltas)> {
    let (mut growing, mut standing_in) = (Growing::new(archive), Growing::loose(archive));
    let (mut holders, mut missing, mut regions) = (Holders::default(), Vec::new(), Vec::<Region>::new());
    let (mut older, mut deltas) = (Older::new(Tree::new()), Deltas::default());
    while let Some(path) = walk.next()? {
        bases.look(walk, &path);
        while regions.last().is_some_and(|r| !path.starts_with(&r.path)) {
            regions.pop();
        }
        // What the snapshot's own tree has; else, below what is missing, what the tree has that stands in.
        let (shown, recorded) = match walk.at(0, &path) {
            Some(found) => (Some((0, found)), true),
            None => {
                let region = regions.iter().rev().find(|r| is_below(&path, &r.path));
                let region =
                    region.filter(|r| !walk.in_other_source(r.by, &path, &r.path) && !growing.is_closed(&path));
                (region.and_then(|r| Some((r.tree, walk.at(r.tree, &path)?))), false)
            }
        };
        let Some((from, (level, entry))) = shown else { continue };
        if recorded && level > 0 && scope == Scope::Missing {
            continue;
        }
        let index = if recorded {
            let index = push(&mut growing, path.clone(), entry, &mut deltas.recorded)?;
            holders.set_level(index, level);
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
            let before = walk.is_missing(walk.count() - 1, &path);
            missing.push(Missing { path: path.clone(), reason: entry.reason.clone(), level: tree, before });
            regions.extend(tree.map(|tree| Region { path: path.clone(), by: level, tree }));
            stand_in = nearest.or(stand_in);
        }
        if let Some((tree, (level, entry))) = stand_in {
            let number = push(&mut standing_in, path, entry, &mut deltas.older)?;
            older.found.push((level, tree));
            older.holders.set_level(number, level);
            older.replaces.extend(index.map(|index| (number, index)));
        }
    }
    older.tree = standing_in.finish();
    Ok((Merged { tree: growing.finish(), holders, missing, older }, deltas))
}

/// A missing path, what is below it included, whose place an ancestor's tree takes.
struct Region {
    path: Vec<u8>,
    /// The manifest that lists it as missing.
    by: Level,
    /// The ancestor.
    tree: Level,
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

/// The path and tree of the file that a hard link among what stands in is a name of.
fn file_of(older: &Older, link: Index, tree: Level) -> (Vec<u8>, Level) {
    (older.tree.target(link).to_vec(), tree)
}

/// Makes files of further names whose file does not stand in: a link would lead to a newer version of it. Returns their
/// deltas.
fn outside_names(older: &mut Older, names: &Names) -> Vec<(Index, Box<Delta>)> {
    let mut deltas = Vec::new();
    for (index, tree) in names_without_file(older) {
        let key = file_of(older, index, tree);
        let found = names.get(&key).and_then(Option::as_ref).filter(|(_, e)| e.kind == Kind::File);
        let (level, mut entry) = found.cloned().unwrap_or_else(|| {
            let reason = format!("{}, which it is a further name of, is not there", printable(&key.0));
            (0, Entry { reason, ..Entry::new(Kind::Missing) })
        });
        deltas.extend(entry.delta.take().map(|delta| (index, delta)));
        // The name's own target goes with the rest.
        older.tree.set_entry(index, &entry);
        older.holders.set_level(index, level);
    }
    deltas
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

/// An index as a subscript; 32 bits always fit on the platforms this builds for.
fn at(index: Index) -> usize {
    usize::try_from(index).expect("usize has at least 32 bits")
}
