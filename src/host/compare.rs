//! What is at the target already, and whether it is what would be restored.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;

use super::at;
use super::metadata::{Ids, mtime};
use crate::model::entry::Kind;
use crate::model::layout::Layout;
use crate::model::path;
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index, NONE, Tree};

/// What has to happen to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There is nothing in its way.
    New,
    /// It is there already; at most its metadata is touched.
    Same,
    /// Something else is there.
    Differs,
    /// It cannot be restored, since it was missing when the snapshot was made.
    Missing,
    /// Another archive has a newer word about it.
    Overridden,
    /// It is there already, and so is its metadata, as far as `stat` tells.
    Settled,
    /// Nobody asked for it.
    Unwanted,
    /// Something else is there, and stays.
    Left,
    /// It is there under the name of what is paused.
    Paused,
}

/// What a comparison goes by.
pub struct Look<'a> {
    /// What to think of links above the roots.
    pub links: LinksAbove,
    /// Files that are only there if nothing waits in a journal beside them.
    pub databases: &'a HashSet<Vec<u8>>,
    /// Which entries are wanted; all where nothing is said.
    pub wanted: Option<&'a [bool]>,
    /// Whether a file with the size and time of its entry is read all the same.
    pub verify: bool,
}

/// What to think of a symbolic link above everything that an archive names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinksAbove {
    /// It is how this machine is laid out: what it leads to is the place.
    Followed,
    /// It would lead out of the target that was named: it is in the way.
    Refused,
}

/// Fates of entries, or the path that could not be looked at.
type Compared = Result<Vec<Fate>, (Vec<u8>, Errno)>;

/// How many entries one thread takes at least: fewer are looked at before another one has started.
const PART_MIN: usize = 2048;
/// More threads than this only wait for each other: the kernel's own locks are what takes time.
const THREADS_MAX: usize = 2;

/// Compares every entry of `tree` with what `layout` has in its place.
///
/// # Errors
/// When the target cannot be looked at; the path comes with it.
pub fn compare(tree: &Tree, layout: &Layout, look: &Look<'_>) -> Compared {
    let needed: Option<Vec<bool>> = look.wanted.map(|wanted| {
        let above = above(tree, wanted);
        wanted.iter().zip(above).map(|(wanted, above)| *wanted || above).collect()
    });
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    let part = tree.len().div_ceil(threads).max(PART_MIN);
    let starts: Vec<usize> = (0..tree.len()).step_by(part).collect();
    let compare = |start: usize| {
        let range = start..(start + part).min(tree.len());
        let root = at::open_root(Path::new("/")).map_err(|e| (b"/".to_vec(), e))?;
        Target { root, layout, asked: look, ids: RefCell::default() }.part(tree, range, needed.as_deref())
    };
    let parts: Vec<Compared> = std::thread::scope(|scope| {
        let others: Vec<_> = starts.iter().skip(1).map(|start| scope.spawn(|| compare(*start))).collect();
        let first = starts.first().map(|start| compare(*start));
        let others = others.into_iter().map(|o| o.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        first.into_iter().chain(others).collect()
    });
    let mut out: Vec<Fate> = Vec::with_capacity(tree.len());
    for fates in parts {
        out.extend(fates?);
    }
    // A part does not know of directories in another one.
    for index in tree.indices() {
        let (at, node) = (index as usize, tree.node(index));
        if needed.as_ref().is_none_or(|needed| needed[at])
            && node.kind != Kind::Missing
            && in_nothing(tree, index, &out, 0)
        {
            out[at] = Fate::New;
        }
    }
    follow_files(tree, &mut out);
    Ok(out)
}

/// Whether an entry's directory is not there or will be replaced, as far as the fates of the entries from `first` on tell:
/// nothing can be in one that is not there, and a link to one in its place will be replaced.
fn in_nothing(tree: &Tree, index: Index, fates: &[Fate], first: usize) -> bool {
    let parent = tree.node(index).parent;
    let fate = (parent != NONE).then(|| (parent as usize).checked_sub(first).map(|at| fates[at])).flatten();
    matches!(fate, Some(Fate::New | Fate::Differs))
}

/// Compares one entry with what `layout` has at another `path` than its own.
///
/// # Errors
/// As [`compare`].
pub fn compare_at(tree: &Tree, index: Index, layout: &Layout, look: &Look<'_>, path: &[u8]) -> Result<Fate, Errno> {
    let root = at::open_root(Path::new("/"))?;
    Target { root, layout, asked: look, ids: RefCell::default() }.look(tree, index, path)
}

/// The directories that wanted entries are in.
fn above(tree: &Tree, wanted: &[bool]) -> Vec<bool> {
    let mut out = vec![false; tree.len()];
    for index in tree.indices().rev() {
        let parent = tree.node(index).parent;
        if parent != NONE && (wanted[index as usize] || out[index as usize]) {
            out[parent as usize] = true;
        }
    }
    out
}

/// Leaves alone what differs, with all that would have to go into it, and further names of files that are left.
pub fn leave(tree: &Tree, fates: &mut [Fate]) {
    for index in tree.indices() {
        let (at, parent) = (index as usize, tree.node(index).parent);
        let inside = parent != NONE && fates[parent as usize] == Fate::Left && fates[at] == Fate::New;
        if fates[at] == Fate::Differs || inside {
            fates[at] = Fate::Left;
        }
    }
    let children = Children::of(tree);
    for index in tree.indices().filter(|i| tree.node(*i).kind == Kind::Hardlink) {
        let file = children.find(tree, tree.target(index));
        if fates[index as usize] == Fate::New && file.is_none_or(|f| fates[f as usize] == Fate::Left) {
            fates[index as usize] = Fate::Left;
        }
    }
}

/// A hard link is in place only if its file is: one whose file is replaced would keep the old content.
fn follow_files(tree: &Tree, fates: &mut [Fate]) {
    let mut children = None;
    for index in tree.indices().filter(|i| tree.node(*i).kind == Kind::Hardlink) {
        let at = index as usize;
        if fates[at] == Fate::Same {
            let file = children.get_or_insert_with(|| Children::of(tree)).find(tree, tree.target(index));
            if file.is_none_or(|f| !matches!(fates[f as usize], Fate::Same | Fate::Settled)) {
                fates[at] = Fate::Differs;
            }
        }
    }
}

struct Target<'a> {
    root: OwnedFd,
    layout: &'a Layout,
    asked: &'a Look<'a>,
    ids: RefCell<Ids>,
}

impl Target<'_> {
    /// The fates of some of the entries.
    fn part(&self, tree: &Tree, range: std::ops::Range<usize>, needed: Option<&[bool]>) -> Compared {
        let (first, mut out) = (range.start, Vec::with_capacity(range.len()));
        for (at, index) in tree.indices().enumerate().skip(first).take(range.len()) {
            let fate = if needed.is_some_and(|needed| !needed[at]) {
                Fate::Unwanted
            } else if tree.node(index).kind == Kind::Missing {
                Fate::Missing
            } else if in_nothing(tree, index, &out, first) {
                Fate::New
            } else {
                let path = tree.path(index);
                match self.look(tree, index, &path).map_err(|e| (path, e))? {
                    // A directory on the way is made where it is not there, and else is none of ours.
                    Fate::Same | Fate::Settled if self.asked.wanted.is_some_and(|wanted| !wanted[at]) => Fate::Unwanted,
                    fate => fate,
                }
            };
            out.push(fate);
        }
        Ok(out)
    }

    fn stat(&self, archive_path: &[u8]) -> Result<Option<Stat>, Errno> {
        let disk = self.layout.to_disk(archive_path);
        let below = disk.strip_prefix(b"/").unwrap_or(&disk);
        let below = if below.is_empty() { b"." } else { below };
        match at::with(self.root.as_fd(), below, |fd, p| statat(fd, p, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether something other than a directory stands above a root.
    fn blocked(&self, path: &[u8]) -> Result<bool, Errno> {
        let mut cuts = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        // The first component is the target's own `home` or `root`, which a person chose.
        cuts.next();
        for cut in cuts {
            match self.stat(&path[..cut])? {
                Some(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {}
                Some(_) => return Ok(true),
                None => break,
            }
        }
        Ok(false)
    }

    fn look(&self, tree: &Tree, index: Index, path: &[u8]) -> Result<Fate, Errno> {
        if self.asked.links == LinksAbove::Refused && tree.node(index).parent == NONE && self.blocked(path)? {
            return Ok(Fate::Differs);
        }
        let Some(stat) = self.stat(path)? else { return Ok(Fate::New) };
        let there = FileType::from_raw_mode(stat.st_mode);
        if tree.node(index).kind == Kind::File && !self.asked.verify && self.untouched(tree, index, path, &stat)? {
            return Ok(if self.settled(tree, index, &stat) { Fate::Settled } else { Fate::Same });
        }
        let same = match tree.node(index).kind {
            Kind::Dir if there.is_dir() && !self.asked.verify && mtime(&stat) == tree.mtime(index) => {
                return Ok(if self.settled(tree, index, &stat) { Fate::Settled } else { Fate::Same });
            }
            Kind::Dir => there.is_dir(),
            Kind::Symlink => there.is_symlink() && self.link(path)? == tree.target(index),
            Kind::File => there.is_file() && self.same_content(tree, index, path, &stat)?,
            Kind::Hardlink => {
                let file = self.stat(tree.target(index))?;
                there.is_file() && file.is_some_and(|f| (f.st_dev, f.st_ino) == (stat.st_dev, stat.st_ino))
            }
            Kind::Missing | Kind::Deleted => false,
        };
        Ok(if same { Fate::Same } else { Fate::Differs })
    }

    /// Whether a file has the size and the time of its entry: nobody wrote to it since. What waits in a journal counts.
    fn untouched(&self, tree: &Tree, index: Index, path: &[u8], stat: &Stat) -> Result<bool, Errno> {
        let same = FileType::from_raw_mode(stat.st_mode).is_file()
            && u64::try_from(stat.st_size) == Ok(tree.node(index).size)
            && mtime(stat) == tree.mtime(index);
        Ok(same && !(self.asked.databases.contains(path) && self.has_log(path)?))
    }

    /// Whether the metadata that `stat` tells is as recorded, and there is none that it does not tell.
    fn settled(&self, tree: &Tree, index: Index, stat: &Stat) -> bool {
        let node = tree.node(index);
        let mode = if node.archive == Archive::Secrets { node.mode & 0o700 } else { node.mode };
        let owned = tree.owner(index).is_some_and(|o| self.ids.borrow_mut().of(o) == (stat.st_uid, stat.st_gid));
        owned && stat.st_mode & 0o7777 == u32::from(mode) && !tree.has_xattrs(index)
    }

    fn link(&self, archive_path: &[u8]) -> Result<Vec<u8>, Errno> {
        let disk = self.layout.to_disk(archive_path);
        let below = disk.strip_prefix(b"/").unwrap_or(&disk);
        let target = at::with(self.root.as_fd(), below, |fd, p| rustix::fs::readlinkat(fd, p, Vec::new()))?;
        Ok(target.into_bytes())
    }

    fn same_content(&self, tree: &Tree, index: Index, path: &[u8], stat: &Stat) -> Result<bool, Errno> {
        if u64::try_from(stat.st_size) != Ok(tree.node(index).size) {
            return Ok(false);
        }
        // What is still in a write-ahead log is part of the database, and not of this file.
        if self.asked.databases.contains(path) && self.has_log(path)? {
            return Ok(false);
        }
        let disk = self.layout.to_disk(path);
        let below = disk.strip_prefix(b"/").unwrap_or(&disk);
        let fd = match at::open_file(self.root.as_fd(), below) {
            Ok(fd) => fd,
            // What cannot be read cannot be known to be the same.
            Err(Errno::ACCESS | Errno::PERM) => return Ok(false),
            Err(e) => return Err(e),
        };
        Ok(hash(File::from(fd)).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))? == tree.blake3(index))
    }

    fn has_log(&self, path: &[u8]) -> Result<bool, Errno> {
        for suffix in [&b"-wal"[..], b"-journal"] {
            if self.stat(&[path, suffix].concat())?.is_some_and(|s| s.st_size > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn hash(mut file: File) -> std::io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(*hasher.finalize().as_bytes()),
            Ok(n) => drop(hasher.update(&buffer[..n])),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The nearest directory that is there: `path` itself, or one above it. Where links are followed, one that leads to a
/// directory is one, too.
pub fn nearest_directory(path: &[u8], links: LinksAbove) -> PathBuf {
    let mut path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
    let is_dir = |path: &Path| match links {
        LinksAbove::Followed => path.is_dir(),
        LinksAbove::Refused => path.symlink_metadata().is_ok_and(|m| m.is_dir()),
    };
    while !is_dir(&path) && path.pop() {}
    path
}

/// The file system of the directory that `path` leads to and, where the system tells, its mount: between two mounts of one file system nothing can be
/// moved either.
///
/// # Errors
/// Those of the system.
pub fn mount_of(path: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let device = path.metadata()?.dev();
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, StatxFlags, statx};
        let told = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok();
        let told = told.filter(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0);
        Ok((device, told.map_or(0, |stat| stat.stx_mnt_id)))
    }
    #[cfg(not(target_os = "linux"))]
    Ok((device, 0))
}

/// Bytes that a user without privileges can still write to the file system of `path`.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Paths that would be one and the same where case is ignored.
pub fn case_collisions(tree: &Tree) -> Vec<Vec<u8>> {
    let mut seen = HashSet::new();
    let fold = |p: &[u8]| String::from_utf8_lossy(p).to_lowercase();
    tree.indices()
        .map(|i| tree.path(i))
        .filter(|p| !seen.insert(fold(p)))
        .map(|p| path::normalize(&p).unwrap_or(p))
        .collect()
}
