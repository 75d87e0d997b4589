//! The entries of a snapshot, held compactly: a home of 600,000 files must fit beside the archive's buffers.

use std::collections::HashMap;

use super::entry::{Delta, Entry, Extent, Kind, Owner, Time, Xattr};
use super::store_key::Archive;

/// Position of an entry in its [`Tree`].
pub type Index = u32;

/// The parent of a source root.
pub const NONE: Index = Index::MAX;

/// What is known of one entry without its rarer parts.
#[derive(Clone, Debug)]
pub struct Node {
    /// The directory it is in; [`NONE`] for a root, whose name is its whole path.
    pub parent: Index,
    name: u32,
    name_len: u16,
    owner: u16,
    /// Permission bits.
    pub mode: u16,
    /// What it is.
    pub kind: Kind,
    /// Which archive it belongs to.
    pub archive: Archive,
    // A `Time` in here would cost four bytes of padding per entry.
    mtime_nanos: u32,
    mtime_seconds: i64,
    /// Bytes of content.
    pub size: u64,
    extra: u32,
}

/// Where the content of a file is and what it hashes to.
#[derive(Clone, Copy, Debug, Default)]
struct Content {
    blake3: [u8; 32],
    /// Offset in the tar plus one; zero where nothing is stored.
    at: u64,
}

/// What most entries do not have.
#[derive(Clone, Debug, Default)]
struct Extra {
    extents: Option<Vec<Extent>>,
    delta: Option<Box<Delta>>,
    target: Vec<u8>,
    xattrs: Vec<Xattr>,
    reason: String,
}

/// The entries of one snapshot.
#[derive(Default)]
pub struct Tree {
    nodes: Vec<Node>,
    contents: Vec<Content>,
    names: Vec<u8>,
    owners: Vec<Owner>,
    owner_index: HashMap<Owner, u16>,
    extras: Vec<Extra>,
}

impl Tree {
    /// A tree without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; names of roots are whole paths. Names are at most 65,535 bytes, which every caller has checked.
    pub fn push(&mut self, parent: Index, name: &[u8], kind: Kind, archive: Archive) -> Index {
        let index = Index::try_from(self.nodes.len()).expect("fewer than 2^32 entries fit in memory");
        let node = Node {
            parent,
            name: u32::try_from(self.names.len()).expect("names of one tree are less than 4 GiB"),
            name_len: u16::try_from(name.len()).expect("callers refuse longer names"),
            owner: 0,
            mode: 0,
            kind,
            archive,
            mtime_nanos: 0,
            mtime_seconds: 0,
            size: 0,
            extra: 0,
        };
        self.names.extend_from_slice(name);
        self.nodes.push(node);
        index
    }

    /// Adds a copy of an entry of another tree. `owners` are numbers of the other tree's owners in this one, as far as they
    /// were met; it starts out empty.
    pub fn adopt(&mut self, from: &Tree, index: Index, parent: Index, owners: &mut HashMap<u16, u16>) -> Index {
        let theirs = from.node(index);
        let new = self.push(parent, from.name(index), theirs.kind, theirs.archive);
        let owner = match owners.get(&theirs.owner) {
            Some(owner) => *owner,
            None => {
                let owner = self.owner_number(&from.owners.get(usize::from(theirs.owner)).cloned().unwrap_or_default());
                owners.insert(theirs.owner, owner);
                owner
            }
        };
        let node = &mut self.nodes[at(new)];
        (node.owner, node.mode, node.size) = (owner, theirs.mode, theirs.size);
        (node.mtime_seconds, node.mtime_nanos) = (theirs.mtime_seconds, theirs.mtime_nanos);
        if let Some(extra) = from.extra(index) {
            self.set_extra(new, extra.clone());
        }
        new
    }

    /// Gives back what growing reserved and will not be used: after a scan nothing more is added but a few.
    pub fn shrink(&mut self) {
        self.nodes.shrink_to_fit();
        self.names.shrink_to_fit();
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All positions, in the order in which entries were added.
    pub fn indices(&self) -> std::ops::Range<Index> {
        0..Index::try_from(self.nodes.len()).expect("push keeps the count below 2^32")
    }

    /// The node at `index`.
    pub fn node(&self, index: Index) -> &Node {
        &self.nodes[at(index)]
    }

    /// The node at `index`, to change.
    pub fn node_mut(&mut self, index: Index) -> &mut Node {
        &mut self.nodes[at(index)]
    }

    /// The last component of the path; of a root the whole path.
    pub fn name(&self, index: Index) -> &[u8] {
        let node = self.node(index);
        &self.names[at(node.name)..at(node.name) + usize::from(node.name_len)]
    }

    /// The archive path.
    pub fn path(&self, index: Index) -> Vec<u8> {
        let mut parts = vec![self.name(index)];
        let mut up = self.node(index).parent;
        while up != NONE {
            parts.push(self.name(up));
            up = self.node(up).parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// Everything known of the entry.
    pub fn entry(&self, index: Index) -> Entry {
        let node = self.node(index);
        let content = self.contents.get(at(index)).copied().unwrap_or_default();
        let mut entry = Entry {
            mode: node.mode,
            owner: self.owners.get(usize::from(node.owner)).cloned().unwrap_or_default(),
            mtime: Time { seconds: node.mtime_seconds, nanos: node.mtime_nanos },
            size: node.size,
            blake3: content.blake3,
            at: content.at.checked_sub(1),
            ..Entry::new(node.kind)
        };
        if let Some(extra) = self.extra(index) {
            entry.extents.clone_from(&extra.extents);
            entry.delta.clone_from(&extra.delta);
            entry.target.clone_from(&extra.target);
            entry.xattrs.clone_from(&extra.xattrs);
            entry.reason.clone_from(&extra.reason);
        }
        entry
    }

    /// Records everything about the entry but the place and digest of its content, which the caller keeps elsewhere.
    pub fn set_metadata(&mut self, index: Index, entry: &Entry) {
        self.set_entry(index, &Entry { at: None, blake3: [0; 32], ..entry.clone() });
    }

    /// Records what most entries have, of one of which nothing is known yet; `owner` is a number of
    /// [`Tree::owner_number`].
    pub fn set_plain(&mut self, index: Index, mode: u16, owner: u16, mtime: Time) {
        let node = &mut self.nodes[at(index)];
        (node.mode, node.owner) = (mode, owner);
        (node.mtime_seconds, node.mtime_nanos) = (mtime.seconds, mtime.nanos);
    }

    /// Records everything about the entry.
    pub fn set_entry(&mut self, index: Index, entry: &Entry) {
        let owner = self.owner_number(&entry.owner);
        let node = &mut self.nodes[at(index)];
        node.owner = owner;
        node.mode = entry.mode;
        node.kind = entry.kind;
        (node.mtime_seconds, node.mtime_nanos) = (entry.mtime.seconds, entry.mtime.nanos);
        node.size = entry.size;
        let rare = entry.extents.is_some()
            || entry.delta.is_some()
            || !entry.target.is_empty()
            || !entry.xattrs.is_empty()
            || !entry.reason.is_empty()
            || node.extra != 0;
        if rare {
            let extra = Extra {
                extents: entry.extents.clone(),
                delta: entry.delta.clone(),
                target: entry.target.clone(),
                xattrs: entry.xattrs.clone(),
                reason: entry.reason.clone(),
            };
            self.set_extra(index, extra);
        }
        let content = entry.at.is_some() || entry.blake3 != [0; 32];
        if entry.kind == Kind::File && (content || !self.contents.is_empty()) {
            if self.contents.len() < self.nodes.len() {
                self.contents.resize(self.nodes.len(), Content::default());
            }
            self.contents[at(index)] = Content { blake3: entry.blake3, at: entry.at.map_or(0, |a| a + 1) };
        }
    }

    /// When the entry's content last changed.
    pub fn mtime(&self, index: Index) -> Time {
        let node = self.node(index);
        Time { seconds: node.mtime_seconds, nanos: node.mtime_nanos }
    }

    /// Who owns the entry.
    pub fn owner(&self, index: Index) -> Option<&Owner> {
        self.owners.get(usize::from(self.node(index).owner))
    }

    /// Whether the entry has extended attributes.
    pub fn has_xattrs(&self, index: Index) -> bool {
        self.extra(index).is_some_and(|e| !e.xattrs.is_empty())
    }

    /// The text of a symbolic link, or the path a hard link is a name of.
    pub fn target(&self, index: Index) -> &[u8] {
        self.extra(index).map_or(&[], |e| &e.target)
    }

    /// The place and stored length of a file's content in the tar stream, if any is stored.
    pub fn stored(&self, index: Index) -> Option<(u64, u64)> {
        let node = self.node(index);
        if node.kind != Kind::File {
            return None;
        }
        let place = self.contents.get(at(index))?.at.checked_sub(1)?;
        let length = match (self.delta(index), self.extents(index)) {
            (Some(delta), _) => delta.extents.iter().map(|e| e.1).sum(),
            (None, Some(extents)) => extents.iter().map(|e| e.1).sum(),
            (None, None) => node.size,
        };
        Some((place, length))
    }

    /// What is stored of a file with holes.
    pub fn extents(&self, index: Index) -> Option<&[Extent]> {
        self.extra(index).and_then(|e| e.extents.as_deref())
    }

    /// What a file of an incremental is made from, if it is not stored whole.
    pub fn delta(&self, index: Index) -> Option<&Delta> {
        self.extra(index).and_then(|e| e.delta.as_deref())
    }

    /// The digest of a file's content.
    pub fn blake3(&self, index: Index) -> [u8; 32] {
        self.contents.get(at(index)).map_or([0; 32], |c| c.blake3)
    }

    /// All positions in ascending bytewise order of path.
    pub fn sorted(&self) -> Vec<Index> {
        let children = Children::of(self);
        if self.roots_are_nested(&children) {
            let mut all: Vec<Index> = self.indices().collect();
            all.sort_by_cached_key(|i| self.path(*i));
            return all;
        }
        let mut out = Vec::with_capacity(self.nodes.len());
        // A directory counts twice among its siblings: once itself, once, as if its name ended in a slash, with
        // all that is in it; `a`, `a-b`, `a/x` is the order of the bytes.
        let mut stack: Vec<(Index, bool)> = Vec::new();
        let push_children = |of: Index, stack: &mut Vec<(Index, bool)>| {
            let start = stack.len();
            for &child in children.of_dir(of) {
                stack.push((child, false));
                if !children.of_dir(child).is_empty() {
                    stack.push((child, true));
                }
            }
            let key = |&(i, inside): &(Index, bool)| self.name(i).iter().copied().chain(inside.then_some(b'/'));
            stack[start..].sort_unstable_by(|a, b| key(b).cmp(key(a)));
        };
        push_children(NONE, &mut stack);
        while let Some((index, inside)) = stack.pop() {
            if inside {
                push_children(index, &mut stack);
            } else {
                out.push(index);
            }
        }
        out
    }

    /// A root that lies inside another one breaks the order of directories.
    fn roots_are_nested(&self, children: &Children) -> bool {
        let mut names: Vec<&[u8]> = children.of_dir(NONE).iter().map(|r| self.name(*r)).collect();
        names.sort_unstable();
        let inside = |outer: &[u8], inner: &[u8]| inner.strip_prefix(outer).is_some_and(|r| r.first() == Some(&b'/'));
        // What lies inside a root follows it, though others that begin with its name may stand between.
        names.iter().enumerate().any(|(i, outer)| {
            names[i + 1..].iter().take_while(|n| n.starts_with(outer)).any(|inner| inside(outer, inner))
        })
    }

    fn extra(&self, index: Index) -> Option<&Extra> {
        self.node(index).extra.checked_sub(1).map(|e| &self.extras[at(e)])
    }

    fn set_extra(&mut self, index: Index, extra: Extra) {
        match self.node(index).extra.checked_sub(1) {
            Some(e) => self.extras[at(e)] = extra,
            None => {
                self.extras.push(extra);
                let number = u32::try_from(self.extras.len()).expect("fewer extras than entries");
                self.node_mut(index).extra = number;
            }
        }
    }

    /// The number of an owner in this tree. A machine has few owners; past 65,535 different ones the names are dropped, then the entry keeps the last.
    pub fn owner_number(&mut self, owner: &Owner) -> u16 {
        if let Some(number) = self.owner_index.get(owner) {
            return *number;
        }
        let Ok(number) = u16::try_from(self.owners.len()) else {
            return u16::MAX;
        };
        self.owners.push(owner.clone());
        self.owner_index.insert(owner.clone(), number);
        number
    }
}

/// Which entries are in which directory.
pub struct Children {
    start: Vec<u32>,
    order: Vec<Index>,
}

impl Children {
    /// Groups the entries of `tree` by directory.
    pub fn of(tree: &Tree) -> Self {
        let slot = |parent: Index| if parent == NONE { 0 } else { at(parent) + 1 };
        let mut start = vec![0u32; tree.len() + 2];
        for node in &tree.nodes {
            start[slot(node.parent) + 1] += 1;
        }
        for i in 1..start.len() {
            start[i] += start[i - 1];
        }
        let mut next = start.clone();
        let mut order = vec![0; tree.len()];
        for index in tree.indices() {
            let n = &mut next[slot(tree.node(index).parent)];
            order[at(*n)] = index;
            *n += 1;
        }
        Children { start, order }
    }

    /// The same, in each directory in order of name, so that [`Children::named`] finds them.
    pub fn by_name(tree: &Tree) -> Self {
        let mut children = Children::of(tree);
        let Children { start, order } = &mut children;
        for slot in start.windows(2) {
            order[at(slot[0])..at(slot[1])].sort_unstable_by(|a, b| tree.name(*a).cmp(tree.name(*b)));
        }
        children
    }

    /// What is called `name` in `dir`, of children that are in order.
    pub fn named(&self, tree: &Tree, dir: Index, name: &[u8]) -> Option<Index> {
        let children = self.of_dir(dir);
        children.binary_search_by(|child| tree.name(*child).cmp(name)).ok().map(|n| children[n])
    }

    /// What is directly in `dir`; the roots for [`NONE`].
    pub fn of_dir(&self, dir: Index) -> &[Index] {
        let slot = if dir == NONE { 0 } else { at(dir) + 1 };
        &self.order[at(self.start[slot])..at(self.start[slot + 1])]
    }

    /// The entry with this archive path.
    pub fn find(&self, tree: &Tree, path: &[u8]) -> Option<Index> {
        for &root in self.of_dir(NONE) {
            let name = tree.name(root);
            if path == name {
                return Some(root);
            }
            let Some(rest) = path.strip_prefix(name).and_then(|r| r.strip_prefix(b"/")) else { continue };
            let mut here = root;
            let mut found = true;
            for part in rest.split(|b| *b == b'/') {
                match self.of_dir(here).iter().find(|c| tree.name(**c) == part) {
                    Some(child) => here = *child,
                    None => {
                        found = false;
                        break;
                    }
                }
            }
            if found {
                return Some(here);
            }
        }
        None
    }
}

/// An index as a subscript; 32 bits always fit on the platforms this builds for.
fn at(index: u32) -> usize {
    usize::try_from(index).expect("usize has at least 32 bits")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_the_bytes() {
        let mut tree = Tree::new();
        let home = tree.push(NONE, b"home/a", Kind::Dir, Archive::State);
        tree.push(NONE, b"home/a-b", Kind::File, Archive::State);
        let x = tree.push(home, b"x", Kind::Dir, Archive::State);
        tree.push(home, b"x.txt", Kind::File, Archive::State);
        tree.push(x, b"deep", Kind::File, Archive::State);
        tree.push(home, b"x y", Kind::File, Archive::State);
        let paths: Vec<Vec<u8>> = tree.sorted().into_iter().map(|i| tree.path(i)).collect();
        let mut expected = paths.clone();
        expected.sort();
        assert_eq!(paths, expected);
        assert_eq!(paths.len(), tree.len());
        let children = Children::of(&tree);
        for i in tree.indices() {
            assert_eq!(children.find(&tree, &tree.path(i)), Some(i));
        }
        assert_eq!(children.find(&tree, b"home/a/x/nope"), None);
    }

    #[test]
    fn entries_come_back_as_they_were_put() {
        let mut tree = Tree::new();
        let i = tree.push(NONE, b"home", Kind::File, Archive::Secrets);
        let entry = Entry {
            mode: 0o4755,
            size: 9,
            at: Some(0),
            blake3: [7; 32],
            extents: Some(vec![(1, 2)]),
            owner: Owner { uid: 3, gid: 4, user: Some("u".into()), group: None },
            xattrs: vec![(b"user.x".to_vec(), b"y".to_vec())],
            ..Entry::new(Kind::File)
        };
        tree.set_entry(i, &entry);
        assert_eq!(tree.entry(i), entry);
        assert_eq!(tree.stored(i), Some((0, 2)));
    }
}
