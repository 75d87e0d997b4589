//! The scan: what is in the sources, and which archive each entry belongs to.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::at;
use super::metadata::{self, Names};
use super::source::Root;
use super::stage::PREFIX as STAGE_PREFIX;
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

/// How many symbolic links one after the other are followed; Linux does not follow more.
const LINK_HOPS_MAX: usize = 40;

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
    /// The device that each root is on.
    pub devices: HashMap<Index, u64>,
    /// By entry, what `stat` said: stamps, whose last bit is set where they are young.
    looks: Vec<u64>,
}

/// What `stat` said of an entry, as far as it tells a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Digest of size, times, inode and device, of a database also of its log's; always even.
    pub stamp: u64,
    /// Whether a change that follows could leave all of that as it is.
    pub young: bool,
}

/// For how many seconds after a change the next one may not show in the times of a file.
const SETTLED_SECONDS: i64 = 60;
/// The same where another machine's clock sets the times.
const SETTLED_SECONDS_REMOTE: i64 = 5 * 60;

impl Look {
    /// What a `stat` at `now`, in Unix seconds, tells.
    pub fn of(stat: &Stat, now: i64, settled: i64) -> Look {
        Look::by(stat, (stat.st_ctime, stat.st_ctime_nsec), now, settled)
    }

    /// The same of a database's log, whose status SQLite changes when root reads it, as it gives it to the database's
    /// owner again. Whoever writes to it changes its modification time.
    fn of_log(stat: &Stat, now: i64, settled: i64) -> Look {
        Look::by(stat, (stat.st_mtime, stat.st_mtime_nsec), now, settled)
    }

    fn by(stat: &Stat, changed: (i64, impl Into<i128>), now: i64, settled: i64) -> Look {
        let mut hasher = blake3::Hasher::new();
        #[allow(clippy::unnecessary_cast, reason = "types of these differ between systems")]
        for number in [
            stat.st_size as u64,
            stat.st_mtime as u64,
            stat.st_mtime_nsec as u64,
            changed.0 as u64,
            changed.1.into() as u64,
            stat.st_ino as u64,
            stat.st_dev as u64,
        ] {
            hasher.update(&number.to_le_bytes());
        }
        let digest = hasher.finalize();
        let stamp = u64::from_le_bytes(*digest.as_bytes().first_chunk::<8>().expect("32 bytes")) & !1;
        Look { stamp, young: now.saturating_sub(stat.st_mtime.max(changed.0)) <= settled }
    }

    /// The same with what stands beside a database.
    pub fn with(self, other: Look) -> Look {
        Look { stamp: (self.stamp.rotate_left(2) ^ other.stamp) & !1, young: self.young || other.young }
    }
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
    now: i64,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Scan> {
    let mut walk = Walk {
        scan: Scan::default(),
        names: Names::default(),
        inodes: HashMap::new(),
        skipped_in: Vec::new(),
        avoid,
        now,
        settled: SETTLED_SECONDS,
        logs: HashMap::new(),
    };
    for (number, source) in sources.iter().enumerate() {
        walk.source(number, source, tick)?;
    }
    let Walk { mut scan, inodes, skipped_in, .. } = walk;
    let groups: Vec<Vec<Index>> = inodes.into_values().filter(|g| g.len() > 1).collect();
    scan.classify_together(&groups, layout);
    // In a directory of secrets every name is one.
    for (skip, dir) in scan.skipped.iter_mut().zip(skipped_in) {
        if dir != NONE && scan.tree.node(dir).archive == Archive::Secrets {
            skip.archive = Archive::Secrets;
        }
    }
    scan.link_names(groups);
    scan.tree.shrink();
    scan.looks.shrink_to_fit();
    Ok(scan)
}

struct Walk<'a> {
    scan: Scan,
    names: Names,
    inodes: HashMap<Identity, Vec<Index>>,
    /// For each skip the directory it was found in.
    skipped_in: Vec<Index>,
    avoid: &'a HashSet<Identity>,
    now: i64,
    /// How old a change must be on this file system, in seconds.
    settled: i64,
    /// Of the databases of a directory, what stands beside them.
    logs: HashMap<Vec<u8>, Look>,
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
        let device = stat.as_ref().map_or(0, |s| s.st_dev);
        self.settled = if is_remote(base.as_fd(), &name) { SETTLED_SECONDS_REMOTE } else { SETTLED_SECONDS };
        if let Some(root) = self.child(&here, base.as_fd(), &name, Vec::new(), &archive_path, stat, &mut pending) {
            self.scan.roots.insert(root, number);
            self.scan.devices.insert(root, device);
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
        self.look_at_logs(fd.as_fd(), &sidecars);
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

    /// Logs and journals belong to the content of the databases they stand beside.
    fn look_at_logs(&mut self, dir: BorrowedFd<'_>, sidecars: &HashSet<&[u8]>) {
        self.logs.clear();
        for suffix in [&b"-wal"[..], b"-journal"] {
            for name in sidecars {
                let Some(base) = name.strip_suffix(suffix) else { continue };
                if let Ok(stat) = statat(dir, *name, AtFlags::SYMLINK_NOFOLLOW) {
                    let look = Look::of_log(&stat, self.now, self.settled);
                    let both = self.logs.get(base).map_or(look, |other| other.with(look));
                    self.logs.insert(base.to_vec(), both);
                }
            }
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
                // A file of lifeboat's own that has a rule is a key or a kit.
                let archive = if reason == OWN && !is_dir { Archive::Secrets } else { Archive::State };
                self.skip(here.dir, archive_path(), reason, archive);
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
        if self.avoid.contains(&identity(&stat)) || (is_dir && name.starts_with(STAGE_PREFIX.as_bytes())) {
            let archive = if is_dir { archive } else { Archive::Secrets };
            self.skip(here.dir, archive_path(), OWN.to_owned(), archive);
            return None;
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            other => {
                self.skip(here.dir, archive_path(), format!("{} cannot be backed up", special(other)), archive);
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
        let look = Look::of(&stat, self.now, self.settled);
        let log = self.logs.get(name).filter(|_| kind == Kind::File);
        self.scan.set_look(index, log.map_or(look, |log| look.with(*log)));
        if kind == Kind::File && stat.st_nlink > 1 {
            self.inodes.entry(identity(&stat)).or_default().push(index);
        }
        if kind == Kind::Dir {
            if here.device.is_some_and(|d| d != stat.st_dev) || (here.device.is_some() && is_mount(dir, name)) {
                self.skip(here.dir, archive_path(), "another file system is mounted here".to_owned(), archive);
            } else {
                pending.push(Pending { index, rel, below: decision.below, device: stat.st_dev });
            }
        }
        Some(index)
    }

    /// Notes what was left out of the directory `dir`, which decides with the rest who may read its name.
    fn skip(&mut self, dir: Index, path: Vec<u8>, reason: String, archive: Archive) {
        // The name of a secret is not for the state archive, even when it is left out.
        let archive = if crate::model::names::name_is_secret(&path) { Archive::Secrets } else { archive };
        self.scan.skipped.push(Skip { path, reason, archive });
        self.skipped_in.push(dir);
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

/// Whether another machine, or a program, may set the times of what is at `name`.
fn is_remote(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    #[cfg(target_os = "linux")]
    {
        // NFS, CIFS, SMB 2, SMB, FUSE, 9P, Ceph, AFS, Coda: statfs(2).
        const REMOTE: [u32; 9] =
            [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x517b, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x5346_414f, 0x7375_7245];
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())
            .and_then(rustix::fs::fstatfs)
            .is_ok_and(|fs| REMOTE.iter().any(|magic| u64::try_from(fs.f_type) == Ok(u64::from(*magic))))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (BorrowedFd<'_>, &[u8]) = (dir, name);
        false
    }
}

/// Whether something is mounted on the directory `name`, even from the same device.
fn is_mount(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{StatxAttributes, StatxFlags, statx};
        statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()).is_ok_and(|s| {
            let known = StatxAttributes::from_bits_retain(s.stx_attributes_mask.bits());
            let set = StatxAttributes::from_bits_retain(s.stx_attributes.bits());
            known.contains(StatxAttributes::MOUNT_ROOT) && set.contains(StatxAttributes::MOUNT_ROOT)
        })
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
    // Looked at first: to open a device may do something.
    let is_file = |s: Stat| FileType::from_raw_mode(s.st_mode).is_file();
    if !statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_file) {
        return false;
    }
    let Ok(fd) = at::open_file(dir, name) else { return false };
    let regular = rustix::fs::fstat(&fd).is_ok_and(is_file);
    let mut magic = [0; 16];
    regular && rustix::io::pread(&fd, &mut magic, 0) == Ok(16) && crate::model::database::is_database(&magic)
}

impl Scan {
    /// What `stat` said of an entry; of what was never looked at, that it has to be.
    pub fn look(&self, index: Index) -> Look {
        let bits = self.looks.get(index as usize).copied().unwrap_or(1);
        Look { stamp: bits & !1, young: bits & 1 == 1 }
    }

    /// Records what `stat` said.
    pub fn set_look(&mut self, index: Index, look: Look) {
        let at = index as usize;
        if self.looks.len() <= at {
            self.looks.resize(at + 1, 1);
        }
        self.looks[at] = look.stamp | u64::from(look.young);
    }

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
        // Links to links settle after as many rounds as they are deep.
        for _ in 0..LINK_HOPS_MAX {
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
            let found = children.find(&self.tree, &resolved).or_else(|| self.follow(children, layout, &start, target));
            let found = found.map(|t| self.tree.node(t).archive);
            if found == Some(Archive::Secrets) || crate::model::names::name_is_secret(&resolved) {
                self.tree.node_mut(i).archive = Archive::Secrets;
                changed = true;
            }
        }
        changed
    }

    /// What a link leads to that goes through other links, as the system would find it.
    fn follow(&self, children: &Children, layout: &Layout, start: &[u8], target: &[u8]) -> Option<Index> {
        let parts = |path: &[u8]| path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (mut here, mut rest, mut hops) = (start.to_vec(), parts(target), 0);
        let mut found = None;
        while let Some(part) = rest.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => here.truncate(here.iter().rposition(|b| *b == b'/').unwrap_or(0)),
                name => here = [&here[..], b"/", name].concat(),
            }
            found = children.find(&self.tree, &layout.to_archive(&here));
            let Some(link) = found.filter(|i| self.tree.node(*i).kind == Kind::Symlink && !rest.is_empty()) else {
                continue;
            };
            hops += 1;
            if hops > LINK_HOPS_MAX {
                return None;
            }
            let target = self.tree.target(link);
            here.truncate(if target.starts_with(b"/") {
                0
            } else {
                here.iter().rposition(|b| *b == b'/').unwrap_or(0)
            });
            rest.extend(parts(target));
        }
        found
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
