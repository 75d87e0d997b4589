//! Chains made at random, merged, and compared with what maps and vectors say.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::{any, proptest};

use super::entry::{Delta, Entry, Kind};
use super::merge::{Merged, merge};
use super::path::{is_below, parent};
use super::store_key::Archive;
use super::tree::Index;
use super::walk::{Level, Listed};

/// What a path is, in the simple model.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    Dir(u16),
    File {
        mode: u16,
        content: Vec<u8>,
    },
    Link(Vec<u8>),
    Symlink(Vec<u8>),
    Missing,
    /// Missing, since what older snapshots have is no directory, and the snapshot has something below it.
    GaveWay,
}

type Map = BTreeMap<Vec<u8>, Thing>;

/// A snapshot of the model: its tree as recorded, what its manifest lists, and its tar.
#[derive(Clone)]
struct Snapshot {
    tree: Map,
    lines: Vec<(Vec<u8>, Entry)>,
    tar: Vec<u8>,
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % sides
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())].clone()
    }

    fn path(&mut self) -> Vec<u8> {
        let mut path = b"home".to_vec();
        for _ in 0..=self.roll(3) {
            path.push(b'/');
            path.extend_from_slice(self.one(&[&b"a"[..], b"b", b"a-b", b"a b"]));
        }
        path
    }

    fn content(&mut self) -> Vec<u8> {
        let blocks = self.roll(5);
        let mut out: Vec<u8> = Vec::new();
        for _ in 0..blocks {
            let byte = u8::try_from(self.roll(200)).unwrap();
            out.resize(out.len() + 4096, byte);
        }
        let tail = self.roll(3);
        out.resize(out.len() + tail * 7, 9);
        out
    }
}

/// One of these lies below what may be missing.
const SOURCES: [&[u8]; 2] = [b"home", b"home/a/b"];

fn in_other_source(path: &[u8], missing: &[u8]) -> bool {
    SOURCES.iter().any(|s| is_below(s, missing) && (path == *s || is_below(path, s)))
}

fn remove(tree: &mut Map, path: &[u8]) {
    let links: Vec<Vec<u8>> =
        tree.iter().filter(|(_, t)| matches!(t, Thing::Link(_))).map(|(p, _)| p.clone()).collect();
    let file_of: BTreeMap<Vec<u8>, Thing> = tree.clone();
    tree.retain(|p, _| p != path && !is_below(p, path));
    // A further name whose file went becomes the file, and the other names are names of it.
    for link in links {
        let Some(Thing::Link(target)) = tree.get(&link).cloned() else { continue };
        if tree.contains_key(&target) && matches!(tree[&target], Thing::File { .. }) {
            continue;
        }
        let Some(file) = file_of.get(&target) else {
            // Its file was where nothing could be read.
            tree.remove(&link);
            continue;
        };
        tree.insert(link.clone(), file.clone());
        for other in tree.values_mut() {
            if *other == Thing::Link(target.clone()) {
                *other = Thing::Link(link.clone());
            }
        }
    }
}

/// A change to what can be read.
fn edit(tree: &mut Map, dice: &mut Dice) {
    let path = dice.path();
    let Some(up) = parent(&path).filter(|up| matches!(tree.get(*up), Some(Thing::Dir(_)))) else { return };
    assert_ne!(up, &path[..]);
    let files: Vec<Vec<u8>> =
        tree.iter().filter(|(_, t)| matches!(t, Thing::File { .. })).map(|(p, _)| p.clone()).collect();
    match dice.roll(10) {
        0 => remove(tree, &path),
        1 | 2 => {
            if !matches!(tree.get(&path), Some(Thing::Dir(_))) {
                remove(tree, &path);
            }
            tree.insert(path, Thing::Dir(u16::try_from(dice.roll(8)).unwrap()));
        }
        3 => {
            remove(tree, &path);
            tree.insert(path, Thing::Symlink(b"x".to_vec()));
        }
        4 if !files.is_empty() => {
            // A further name; the file is the least of the names.
            let target = dice.one(&files);
            if path > target {
                remove(tree, &path);
                if tree.contains_key(&target) {
                    tree.insert(path, Thing::Link(target));
                }
            }
        }
        5 if !files.is_empty() => {
            // A rename.
            let from = dice.one(&files);
            let thing = tree[&from].clone();
            remove(tree, &from);
            remove(tree, &path);
            if matches!(parent(&path).map(|up| &tree[up]), Some(Thing::Dir(_))) {
                tree.insert(path, thing);
            }
        }
        _ => {
            remove(tree, &path);
            let (mode, content) = (u16::try_from(dice.roll(8)).unwrap(), dice.content());
            tree.insert(path, Thing::File { mode, content });
        }
    }
}

/// The tree as recorded when `missing` could not be read.
fn unreadable(tree: &Map, missing: &BTreeSet<Vec<u8>>) -> Map {
    let mut out = tree.clone();
    for path in missing {
        if !out.contains_key(path) {
            continue;
        }
        let kept: Map =
            out.iter().filter(|(p, _)| in_other_source(p, path)).map(|(p, t)| (p.clone(), t.clone())).collect();
        remove(&mut out, path);
        out.extend(kept);
        out.insert(path.clone(), Thing::Missing);
    }
    // Names whose file is gone with what was kept.
    let dangling: Vec<Vec<u8>> = out
        .iter()
        .filter(|(_, t)| matches!(t, Thing::Link(to) if !matches!(out.get(to), Some(Thing::File { .. }))))
        .map(|(p, _)| p.clone())
        .collect();
    dangling.iter().for_each(|p| drop(out.remove(p)));
    out
}

fn entry_of(thing: &Thing) -> Entry {
    match thing {
        Thing::Dir(mode) => Entry { mode: *mode, ..Entry::new(Kind::Dir) },
        Thing::File { mode, content } => {
            let blake3 = *blake3::hash(content).as_bytes();
            Entry { mode: *mode, size: content.len() as u64, blake3, ..Entry::new(Kind::File) }
        }
        Thing::Link(target) => Entry { target: target.clone(), ..Entry::new(Kind::Hardlink) },
        Thing::Symlink(target) => Entry { target: target.clone(), ..Entry::new(Kind::Symlink) },
        Thing::Missing | Thing::GaveWay => Entry { reason: "denied".to_owned(), ..Entry::new(Kind::Missing) },
    }
}

/// Stores a file whole, at times with holes where it has zeros, or as a delta of any file of the parent's tree.
fn store(snapshot: &mut Snapshot, path: &[u8], old: Option<&Map>, dice: &mut Dice) -> Entry {
    let thing = snapshot.tree[path].clone();
    let mut entry = entry_of(&thing);
    let Thing::File { content, .. } = thing else { return entry };
    let bases: Vec<Vec<u8>> = old
        .iter()
        .flat_map(|old| old.iter())
        .filter(|(_, t)| matches!(t, Thing::File { .. } | Thing::Link(_)))
        .map(|(p, _)| p.clone())
        .collect();
    if !bases.is_empty() && dice.roll(3) > 0 {
        let old = old.unwrap();
        let base =
            if old.contains_key(path) && bases.contains(&path.to_vec()) { path.to_vec() } else { dice.one(&bases) };
        let mut before = content_of(old, &base);
        before.resize(content.len(), 0);
        let mut extents: Vec<(u64, u64)> = Vec::new();
        entry.at = Some(snapshot.tar.len() as u64);
        for (n, (new, old)) in content.chunks(4096).zip(before.chunks(4096)).enumerate() {
            if new != old || dice.roll(8) == 0 {
                snapshot.tar.extend_from_slice(new);
                let offset = n as u64 * 4096;
                match extents.last_mut().filter(|e| e.0 + e.1 == offset && dice.roll(2) == 0) {
                    Some(last) => last.1 += new.len() as u64,
                    None => extents.push((offset, new.len() as u64)),
                }
            }
        }
        entry.delta = Some(Box::new(Delta { n: 0, base, extents }));
    } else if !content.is_empty() {
        // Something between the members.
        snapshot.tar.extend_from_slice(b"header");
        entry.at = Some(snapshot.tar.len() as u64);
        if dice.roll(3) == 0 {
            let blocks = content.chunks(4096).enumerate();
            let full = blocks.filter(|(_, block)| block.iter().any(|b| *b != 0));
            let extents: Vec<(u64, u64)> = full.map(|(n, b)| (n as u64 * 4096, b.len() as u64)).collect();
            for (offset, length) in &extents {
                let (from, to) = (usize::try_from(*offset).unwrap(), usize::try_from(offset + length).unwrap());
                snapshot.tar.extend_from_slice(&content[from..to]);
            }
            entry.extents = Some(extents);
        } else {
            snapshot.tar.extend_from_slice(&content);
        }
    }
    entry
}

fn content_of(tree: &Map, path: &[u8]) -> Vec<u8> {
    match &tree[path] {
        Thing::File { content, .. } => content.clone(),
        Thing::Link(target) => content_of(tree, target),
        other => panic!("{other:?} has no content"),
    }
}

/// The names of each file.
fn group<'a>(tree: &'a Map, path: &'a [u8]) -> BTreeSet<&'a [u8]> {
    let file = match &tree[path] {
        Thing::Link(target) => target,
        _ => path,
    };
    tree.iter().filter(|(p, t)| *p == file || **t == Thing::Link(file.to_vec())).map(|(p, _)| &p[..]).collect()
}

/// What a writer lists of `tree` against `old`, as section 5 says.
fn snapshot(tree: Map, old: Option<&Map>, dice: &mut Dice) -> Snapshot {
    let mut listed: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut deleted: BTreeSet<Vec<u8>> = BTreeSet::new();
    for (path, thing) in &tree {
        let before = old.and_then(|old| old.get(path));
        if before != Some(thing) || *thing == Thing::Missing {
            listed.insert(path.clone());
            if matches!(thing, Thing::File { .. } | Thing::Link(_)) {
                listed.extend(group(&tree, path).into_iter().map(<[u8]>::to_vec));
            }
        } else if matches!(thing, Thing::File { .. } | Thing::Link(_)) {
            let old = old.unwrap();
            if group(&tree, path) != group(old, path) {
                listed.extend(group(&tree, path).into_iter().map(<[u8]>::to_vec));
            }
        }
    }
    let stood_for =
        |p: &[u8]| tree.iter().any(|(m, t)| *t == Thing::Missing && is_below(p, m) && !in_other_source(p, m));
    for path in old.into_iter().flat_map(|old| old.keys()) {
        if !tree.contains_key(path) && !stood_for(path) {
            deleted.insert(path.clone());
        }
    }
    for path in listed.clone().iter().chain(&deleted) {
        if let Some(up) = parent(path).filter(|up| matches!(tree.get(*up), Some(Thing::Dir(_)))) {
            listed.insert(up.to_vec());
        }
    }
    let mut out = Snapshot { tree, lines: Vec::new(), tar: Vec::new() };
    let mut lines: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    for path in listed {
        let entry = store(&mut out, &path, old, dice);
        lines.insert(path, entry);
    }
    lines.extend(deleted.into_iter().map(|p| (p, Entry::new(Kind::Deleted))));
    out.lines = lines.into_iter().collect();
    out
}

/// Snapshots in their order, and whether each is a full; the others are made on the one before.
fn history(dice: &mut Dice) -> Vec<(Snapshot, bool)> {
    let mut live: Map = Map::from([(b"home".to_vec(), Thing::Dir(7))]);
    let mut missing: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut out: Vec<(Snapshot, bool)> = Vec::new();
    for _ in 0..=dice.roll(7) {
        for _ in 0..dice.roll(25) {
            edit(&mut live, dice);
        }
        // What could not be read is not known to have changed; what can be read again goes whole.
        missing.retain(|_| dice.roll(2) == 0);
        if dice.roll(2) == 0 {
            missing.insert(dice.path());
        }
        let tree = unreadable(&live, &missing);
        let full = out.is_empty() || dice.roll(5) == 0;
        let old = out.last().filter(|_| !full).map(|(s, _)| &s.tree);
        let next = snapshot(tree, old, dice);
        out.push((next, full));
    }
    out
}

/// The chain of a snapshot, itself first.
fn chain(history: &[(Snapshot, bool)], newest: usize) -> Vec<Snapshot> {
    let full = (0..=newest).rev().find(|n| history[*n].1).unwrap();
    (full..=newest).rev().map(|n| history[n].0.clone()).collect()
}

/// Puts what `there` has at and below a missing path in its place.
fn stand_in(out: &mut Map, there: &Map, path: &[u8]) {
    let recorded = out.clone();
    let below = there.iter().filter(|(p, _)| *p == path || (is_below(p, path) && !in_other_source(p, path)));
    for (p, thing) in below {
        let inside = |to: &[u8]| (to == path || is_below(to, path)) && !in_other_source(to, path);
        let thing = match thing {
            // A link would lead to a newer version of a file that is not missing.
            Thing::Link(to) if !inside(to) => there[to].clone(),
            thing => thing.clone(),
        };
        let open = |dir: &[u8]| matches!(recorded.get(dir), None | Some(Thing::Dir(_) | Thing::Missing));
        let mut above = std::iter::successors(parent(p), |p| parent(p)).take_while(|dir| is_below(dir, path));
        if p != path && (recorded.contains_key(p) || !above.all(open)) {
            continue;
        }
        let thing = match thing {
            Thing::Dir(_) | Thing::Missing => thing,
            _ if recorded.keys().any(|below| is_below(below, p)) => Thing::GaveWay,
            thing => thing,
        };
        out.insert(p.clone(), thing);
    }
}

fn missing_of(tree: &Map) -> Vec<Vec<u8>> {
    tree.iter().filter(|(_, t)| **t == Thing::Missing).map(|(p, _)| p.clone()).collect()
}

/// The newest tree of a chain, and in the place of what is missing what the nearest ancestor has.
fn with_older(chain: &[Snapshot]) -> Map {
    let mut out = chain[0].tree.clone();
    for path in missing_of(&chain[0].tree) {
        let has = |n: &usize| chain[*n].tree.get(&path).is_some_and(|t| *t != Thing::Missing);
        if let Some(n) = (1..chain.len()).find(has) {
            stand_in(&mut out, &with_older(&chain[n..]), &path);
        }
    }
    out
}

/// Whether a tree says of a path, or of something above it, that it could not be read.
fn says_missing(tree: &Map, path: &[u8]) -> bool {
    tree.get(path) == Some(&Thing::Missing)
        || tree.iter().any(|(p, t)| *t == Thing::Missing && is_below(path, p) && !in_other_source(path, p))
}

/// The same, and then what snapshots before the full have, as far back as each could not read it either.
fn with_all_older(history: &[(Snapshot, bool)]) -> Map {
    let newest = history.len() - 1;
    let archives = chain(history, newest);
    let mut out = with_older(&archives);
    let mut paths = missing_of(&out);
    paths.retain(|p| says_missing(&archives.last().unwrap().tree, p));
    for n in (0..history.len() - archives.len()).rev() {
        let (tree, there) = (&history[n].0.tree, with_older(&chain(history, n)));
        paths.retain(|path| {
            let still = says_missing(tree, path);
            if !still && tree.contains_key(path) {
                stand_in(&mut out, &there, path);
            }
            still
        });
    }
    out
}

/// Names of files as files of their own: whether two names that both stand in stay links is nobody's promise.
fn unlinked(tree: &Map) -> Map {
    let content = |t: &Thing| match t {
        Thing::Link(to) => tree[to].clone(),
        Thing::GaveWay => Thing::Missing,
        thing => thing.clone(),
    };
    tree.iter().map(|(p, t)| (p.clone(), content(t))).collect()
}

fn sources() -> Vec<Vec<u8>> {
    SOURCES.iter().map(|s| s.to_vec()).collect()
}

fn listed(chain: &[Snapshot], level: Level) -> Listed<'static> {
    let lines = chain[usize::from(level)].lines.clone();
    Listed { lines: Box::new(lines.into_iter().map(Ok)), sources: sources() }
}

fn merged(chain: &[Snapshot]) -> Merged {
    merge(Archive::State, chain.len(), &mut |level| Ok(listed(chain, level))).unwrap()
}

/// What the merged tree says, with the contents that its places lead to.
fn read(merged: &Merged, chain: &[Snapshot]) -> Map {
    let tree = &merged.tree;
    let mut out = Map::new();
    for i in tree.indices() {
        let entry = tree.entry(i);
        assert!(entry.delta.is_none());
        let thing = match entry.kind {
            Kind::Dir => Thing::Dir(entry.mode),
            Kind::Hardlink => Thing::Link(entry.target),
            Kind::Symlink => Thing::Symlink(entry.target),
            Kind::Missing => Thing::Missing,
            Kind::Deleted => panic!("a deleted entry in a tree"),
            Kind::File => {
                let content = content(merged, chain, i, &entry);
                assert_eq!(*blake3::hash(&content).as_bytes(), entry.blake3);
                Thing::File { mode: entry.mode, content }
            }
        };
        assert_eq!(out.insert(tree.path(i), thing), None);
    }
    out
}

fn content(merged: &Merged, chain: &[Snapshot], index: Index, entry: &Entry) -> Vec<u8> {
    let bytes = |n: u64| usize::try_from(n).unwrap();
    let mut out = vec![0; bytes(entry.size)];
    let mut put = |offset: u64, length: u64, level: Level, at: u64| {
        let stored = &chain[usize::from(level)].tar[bytes(at)..bytes(at + length)];
        out[bytes(offset)..bytes(offset + length)].copy_from_slice(stored);
    };
    match merged.holders.pieces(index) {
        Some(pieces) => {
            assert!(pieces.windows(2).all(|w| w[0].offset + w[0].length <= w[1].offset));
            pieces.iter().for_each(|p| put(p.offset, p.length, p.level, p.at));
        }
        None => {
            let mut at = entry.at.unwrap_or_default();
            let whole = [(0, entry.size)];
            for (offset, length) in entry.extents.as_deref().unwrap_or(&whole) {
                put(*offset, *length, merged.holders.level(index), at);
                at += length;
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    #[test]
    fn chains_merge_to_their_newest_tree(seed in any::<u64>()) {
        let history = history(&mut Dice(seed));
        let newest = history.len() - 1;
        let mut archives = chain(&history, newest);
        let mut merged = merged(&archives);
        assert_eq!(read(&merged, &archives), archives[0].tree);
        merged.take_older();
        assert_eq!(unlinked(&read(&merged, &archives)), unlinked(&with_older(&archives)));
        let lacking = merged.missing.iter().filter(|m| m.level.is_none() && m.before);
        let mut paths: HashSet<Vec<u8>> = lacking.map(|m| m.path.clone()).collect();
        for n in (0..newest + 1 - archives.len()).rev() {
            let older = chain(&history, n);
            let first = Level::try_from(archives.len()).unwrap();
            let (still, look): (HashSet<_>, _) = paths.into_iter().partition(|p| says_missing(&older[0].tree, p));
            let mut open = |level| Ok(listed(&older, level));
            if merged.look_in(Archive::State, &look, &sources(), first, older.len(), &mut open).unwrap() {
                archives.extend(older);
            }
            paths = still;
        }
        let found = read(&merged, &archives);
        assert_eq!(unlinked(&found), unlinked(&with_all_older(&history)));
    }
}
