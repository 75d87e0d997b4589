//! The scan: what is in the sources, and which archive each entry belongs to.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::at;
use super::metadata::{self, Names};
use super::source::Root;
use crate::error::Result;
use crate::model::class::{Below, Class, Rules};
use crate::model::database::SIDECARS;
use crate::model::entry::{Entry, Kind};
use crate::model::layout::Layout;
use crate::model::path::{self, printable};
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index, NONE, Tree};

/// Why lifeboat's own files are skipped.
pub const OWN: &str = "lifeboat's own store, keys and working files";

/// A file or directory by device and inode.
pub type Identity = (u64, u64);

/// A source root and the rules for what is in it.
pub struct Source {
    /// Where it is.
    pub root: Root,
    /// What goes where.
    pub rules: Rules,
}

/// Something that was left out.
pub struct Skip {
    /// Its archive path.
    pub path: Vec<u8>,
    /// Why.
    pub reason: String,
    /// The manifest that may name it.
    pub archive: Archive,
}

/// What a scan found.
#[derive(Default)]
pub struct Scan {
    /// Everything that will be archived. Files have no content yet.
    pub tree: Tree,
    /// The source that each root of the tree belongs to.
    pub roots: HashMap<Index, usize>,
    /// What was left out, and why.
    pub skipped: Vec<Skip>,
    /// How many entries went away while they were looked at.
    pub vanished: u64,
    /// Names of files with several, by inode: the first is the one that is archived.
    pub groups: HashMap<Index, Vec<Index>>,
    /// The file that each hard link is a name of.
    pub file_of: HashMap<Index, Index>,
}

/// Walks all sources. `avoid` are lifeboat's own files and directories, which are never backed up; `tick` is called
/// per directory with the entries so far and may stop the scan.
///
/// # Errors
/// Those of `tick`.
pub fn scan(
    sources: &[Source],
    layout: &Layout,
    avoid: &HashSet<Identity>,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Scan> {
    let mut walk = Walk { scan: Scan::default(), names: Names::default(), inodes: HashMap::new(), avoid };
    for (number, source) in sources.iter().enumerate() {
        walk.source(number, source, tick)?;
    }
    let Walk { mut scan, inodes, .. } = walk;
    let groups: Vec<Vec<Index>> = inodes.into_values().filter(|g| g.len() > 1).collect();
    scan.classify_together(&groups, layout);
    scan.link_names(groups);
    scan.tree.shrink();
    Ok(scan)
}

struct Walk<'a> {
    scan: Scan,
    names: Names,
    inodes: HashMap<Identity, Vec<Index>>,
    avoid: &'a HashSet<Identity>,
}

/// A directory that has still to be looked into.
struct Pending {
    index: Index,
    rel: Vec<u8>,
    below: Below,
    device: u64,
}

impl Walk<'_> {
    fn source(&mut self, number: usize, source: &Source, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let archive_path = source.root.archive_path.clone();
        let name = source.root.below(&archive_path);
        let base = source.root.base();
        let mut pending = Vec::new();
        let here = Here { source, base: base.as_fd(), dir: NONE, below: Below::NOTHING, device: None };
        let stat = statat(base.as_fd(), &name[..], AtFlags::SYMLINK_NOFOLLOW);
        if let Some(root) = self.child(&here, base.as_fd(), &name, Vec::new(), &archive_path, stat, &mut pending) {
            self.scan.roots.insert(root, number);
        }
        while let Some(dir) = pending.pop() {
            tick(self.scan.tree.len() as u64)?;
            self.directory(source, base.as_fd(), dir, &mut pending);
        }
        Ok(())
    }

    fn directory(&mut self, source: &Source, base: BorrowedFd<'_>, dir: Pending, pending: &mut Vec<Pending>) {
        let archive_path = join_archive(&source.root.archive_path, &dir.rel);
        let fd = match at::open_dir(base, &source.root.below(&archive_path)) {
            Ok(fd) => fd,
            Err(e) => return self.unreadable(dir.index, e),
        };
        let mut names: Vec<Vec<u8>> = Vec::new();
        let listing = Dir::read_from(&fd).and_then(|mut entries| {
            while let Some(entry) = entries.read() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(name.to_vec());
                }
            }
            Ok(())
        });
        if let Err(e) = listing {
            return self.unreadable(dir.index, e);
        }
        let sidecars = sidecars(fd.as_fd(), &names);
        let here = Here { source, base, dir: dir.index, below: dir.below, device: Some(dir.device) };
        for name in &names {
            if sidecars.contains(&name[..]) {
                continue;
            }
            let rel = path::join(&dir.rel, name);
            let stat = statat(fd.as_fd(), &name[..], AtFlags::SYMLINK_NOFOLLOW);
            self.child(&here, fd.as_fd(), name, rel, name, stat, pending);
        }
    }

    /// Decides about one entry and adds it. `name` is its name in `dir`, `tree_name` that in the tree.
    #[allow(clippy::too_many_arguments, reason = "the parts of one place in the walk")]
    fn child(
        &mut self,
        here: &Here<'_>,
        dir: BorrowedFd<'_>,
        name: &[u8],
        rel: Vec<u8>,
        tree_name: &[u8],
        stat: Result<Stat, Errno>,
        pending: &mut Vec<Pending>,
    ) -> Option<Index> {
        let is_dir = stat.as_ref().is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_dir());
        let archive_path = || join_archive(&here.source.root.archive_path, &rel);
        let decision = here.source.rules.decide_below(here.below, &rel, name, is_dir);
        let archive = if decision.class == Class::Secret { Archive::Secrets } else { Archive::State };
        if decision.class == Class::Skip {
            let reason = decision.reason.map_or(String::new(), |r| r.text.to_string());
            if !reason.is_empty() {
                self.skip(archive_path(), reason);
            }
            return None;
        }
        let stat = match stat {
            Ok(stat) => stat,
            Err(Errno::NOENT) if !rel.is_empty() => {
                self.scan.vanished += 1;
                return None;
            }
            Err(e) => return Some(self.missing(here.dir, tree_name, archive, e)),
        };
        if self.avoid.contains(&identity(&stat)) {
            self.skip(archive_path(), OWN.to_owned());
            return None;
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            other => {
                self.skip(archive_path(), format!("{} cannot be backed up", special(other)));
                return None;
            }
        };
        let index = self.scan.tree.push(here.dir, tree_name, kind, archive);
        let mut entry = metadata::entry_of(&stat, kind, &mut self.names);
        if kind == Kind::Symlink {
            match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => entry.target = target.into_bytes(),
                Err(e) => entry = missing_entry(e),
            }
        }
        self.scan.tree.set_entry(index, &entry);
        if kind == Kind::File && stat.st_nlink > 1 {
            self.inodes.entry(identity(&stat)).or_default().push(index);
        }
        if kind == Kind::Dir {
            if here.device.is_some_and(|d| d != stat.st_dev) || (here.device.is_some() && is_mount(dir, name)) {
                self.skip(archive_path(), "another file system is mounted here".to_owned());
            } else {
                pending.push(Pending { index, rel, below: decision.below, device: stat.st_dev });
            }
        }
        Some(index)
    }

    fn skip(&mut self, path: Vec<u8>, reason: String) {
        // The name of a secret is not for the state archive, even when it is left out.
        let archive = if crate::model::names::name_is_secret(&path) { Archive::Secrets } else { Archive::State };
        self.scan.skipped.push(Skip { path, reason, archive });
    }

    fn missing(&mut self, parent: Index, name: &[u8], archive: Archive, e: Errno) -> Index {
        let index = self.scan.tree.push(parent, name, Kind::Missing, archive);
        self.scan.tree.set_entry(index, &missing_entry(e));
        index
    }

    fn unreadable(&mut self, dir: Index, e: Errno) {
        self.scan.tree.set_entry(dir, &missing_entry(e));
    }
}

/// Where in the walk an entry is.
struct Here<'a> {
    source: &'a Source,
    #[allow(dead_code, reason = "keeps the root open as long as paths below it are used")]
    base: BorrowedFd<'a>,
    dir: Index,
    below: Below,
    /// The device of the directory; `None` for the root of a source, which may be a mount point.
    device: Option<u64>,
}

/// An entry that was there and cannot be read.
pub fn missing_entry(e: Errno) -> Entry {
    Entry { reason: std::io::Error::from(e).to_string(), ..Entry::new(Kind::Missing) }
}

fn join_archive(root: &[u8], rel: &[u8]) -> Vec<u8> {
    if rel.is_empty() { root.to_vec() } else { path::join(root, rel) }
}

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something that is neither file, directory nor link",
    }
}

/// Whether something is mounted on the directory `name`, even from the same device.
fn is_mount(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{StatxAttributes, StatxFlags, statx};
        return statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()).is_ok_and(|s| {
            let known = StatxAttributes::from_bits_retain(s.stx_attributes_mask.bits());
            let set = StatxAttributes::from_bits_retain(s.stx_attributes.bits());
            known.contains(StatxAttributes::MOUNT_ROOT) && set.contains(StatxAttributes::MOUNT_ROOT)
        });
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (BorrowedFd<'_>, &[u8]) = (dir, name);
        false
    }
}

/// Which of `names` are the sidecars of a database beside them: those are read through SQLite, never by themselves.
fn sidecars<'n>(dir: BorrowedFd<'_>, names: &'n [Vec<u8>]) -> HashSet<&'n [u8]> {
    let mut out = HashSet::new();
    for name in names {
        let Some(base) = SIDECARS.iter().find_map(|s| name.strip_suffix(*s)).filter(|b| !b.is_empty()) else {
            continue;
        };
        if is_database(dir, base) {
            out.insert(&name[..]);
        }
    }
    out
}

fn is_database(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    let Ok(fd) = at::open_file(dir, name) else { return false };
    let regular = rustix::fs::fstat(&fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_file());
    let mut magic = [0; 16];
    regular && rustix::io::pread(&fd, &mut magic, 0) == Ok(16) && crate::model::database::is_database(&magic)
}

impl Scan {
    /// One secret name makes all names of a file secret; a directory that holds only secrets is one, and so is a link to
    /// one.
    fn classify_together(&mut self, groups: &[Vec<Index>], layout: &Layout) {
        for group in groups {
            if group.iter().any(|i| self.tree.node(*i).archive == Archive::Secrets) {
                for i in group {
                    self.tree.node_mut(*i).archive = Archive::Secrets;
                }
            }
        }
        let children = Children::of(&self.tree);
        // Links to links settle after as many rounds as they are deep; a handful is plenty.
        for _ in 0..8 {
            self.secret_directories();
            if !self.secret_links(&children, layout) {
                break;
            }
        }
    }

    fn secret_links(&mut self, children: &Children, layout: &Layout) -> bool {
        let mut changed = false;
        for i in self.tree.indices() {
            let node = self.tree.node(i);
            if node.kind != Kind::Symlink || node.archive == Archive::Secrets {
                continue;
            }
            let target = self.tree.target(i);
            let start = match target.first() {
                Some(b'/') => Vec::new(),
                _ => layout.to_disk(path::parent(&self.tree.path(i)).unwrap_or_default()),
            };
            let Some(resolved) = path::normalize(&path::join(&start, target)) else { continue };
            let resolved = layout.to_archive(&[b"/", &resolved[..]].concat());
            let found = children.find(&self.tree, &resolved).map(|t| self.tree.node(t).archive);
            if found == Some(Archive::Secrets) || crate::model::names::name_is_secret(&resolved) {
                self.tree.node_mut(i).archive = Archive::Secrets;
                changed = true;
            }
        }
        changed
    }

    fn secret_directories(&mut self) {
        // Children stand behind their directories, so going backwards sees them first.
        let mut holds_state = vec![false; self.tree.len()];
        let mut holds_secret = vec![false; self.tree.len()];
        for i in self.tree.indices().rev() {
            let at = i as usize;
            let node = self.tree.node(i);
            let (parent, is_dir) = (node.parent, node.kind == Kind::Dir);
            if is_dir && holds_secret[at] && !holds_state[at] {
                self.tree.node_mut(i).archive = Archive::Secrets;
            }
            if parent != NONE {
                match self.tree.node(i).archive {
                    Archive::State => holds_state[parent as usize] = true,
                    Archive::Secrets => holds_secret[parent as usize] = true,
                }
            }
        }
    }

    /// The bytewise least name of a file is the file, the others are links to it.
    fn link_names(&mut self, groups: Vec<Vec<Index>>) {
        for mut group in groups {
            group.sort_by_cached_key(|i| self.tree.path(*i));
            let first = self.tree.path(group[0]);
            for i in &group[1..] {
                self.tree.set_entry(*i, &Entry { target: first.clone(), ..Entry::new(Kind::Hardlink) });
                self.file_of.insert(*i, group[0]);
            }
            self.groups.insert(group[0], group);
        }
    }

    /// The source that holds `index`.
    pub fn source_of(&self, index: Index) -> usize {
        let mut at = index;
        while self.tree.node(at).parent != NONE {
            at = self.tree.node(at).parent;
        }
        self.roots.get(&at).copied().unwrap_or_default()
    }

    /// A path of the tree, for messages; of a secret nothing but that it is one.
    pub fn shown(&self, index: Index) -> String {
        match self.tree.node(index).archive {
            Archive::State => printable(&self.tree.path(index)),
            Archive::Secrets => "a secret file".to_owned(),
        }
    }
}
