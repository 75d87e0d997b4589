//! Writing restored files into the staging directory, from frames that arrive in any order on several threads.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, fchmod, fchown, fstat, futimens};
use rustix::io::Errno;

use super::metadata::{self, Ids};
use super::stage::Stage;
use crate::error::{Error, Result};
use crate::model::entry::{Entry, Kind};
use crate::model::path::printable;
use crate::model::pieces::{Holders, Piece};
use crate::model::store_key::Archive;
use crate::model::tree::{Index, Tree};

/// What this target or user could not hold. Everything else about the files is as recorded.
#[derive(Debug, Default)]
pub struct Limits {
    /// Entries that belong to another user or group than recorded.
    pub owners: AtomicU64,
    /// Entries whose permission bits differ.
    pub modes: AtomicU64,
    /// Entries whose times differ.
    pub times: AtomicU64,
    /// Entries that lost an extended attribute.
    pub xattrs: AtomicU64,
}

impl Limits {
    /// Owners, modes, times, attributes, with what they are called in a report.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        [("owner", &self.owners), ("mode", &self.modes), ("time", &self.times), ("attribute", &self.xattrs)]
            .into_iter()
            .map(|(name, n)| (name, n.load(Ordering::Relaxed)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }
}

/// A file that more than one frame has bytes of.
struct Part {
    file: File,
    /// Bytes still to come.
    left: AtomicU64,
}

/// A run of bytes in a tar that belongs into a file which has bytes from other archives, too.
#[derive(Clone, Copy)]
struct Run {
    at: u64,
    length: u64,
    /// The file, and where in it they belong.
    index: Index,
    offset: u64,
}

/// What one archive of a chain holds of the files to extract.
#[derive(Default)]
struct Held {
    /// Files whose content lies here, by its place in the tar.
    files: Vec<Index>,
    /// For each of them, where the content of it and of all before it has ended. A manifest may let files share bytes,
    /// and then the ends alone are in no order.
    file_ends: Vec<u64>,
    /// What else is wanted, by its place in the tar.
    runs: Vec<Run>,
    /// As for the files.
    run_ends: Vec<u64>,
}

impl Held {
    /// Sorts what was collected.
    fn settle(&mut self, tree: &Tree) {
        self.files.sort_unstable_by_key(|i| tree.stored(*i));
        self.runs.sort_unstable_by_key(|r| (r.at, r.index, r.offset));
        self.file_ends = ends(self.files.iter().filter_map(|i| tree.stored(*i)));
        self.run_ends = ends(self.runs.iter().map(|r| (r.at, r.length)));
    }

    /// The files that may have bytes behind `start`: all before them end there or earlier.
    fn files_after(&self, start: u64) -> &[Index] {
        &self.files[self.file_ends.partition_point(|end| *end <= start)..]
    }

    fn runs_after(&self, start: u64) -> &[Run] {
        &self.runs[self.run_ends.partition_point(|end| *end <= start)..]
    }
}

/// Where each of these pieces and all before it have ended.
fn ends(pieces: impl Iterator<Item = (u64, u64)>) -> Vec<u64> {
    let mut last = 0;
    let mut reach = |(at, length): (u64, u64)| {
        last = last.max(at + length);
        last
    };
    pieces.map(&mut reach).collect()
}

/// Takes the content of frames, of any archive of a chain, and makes files of it.
pub struct Extractor<'a> {
    tree: &'a Tree,
    holders: &'a Holders,
    /// Which staging directory each entry goes to; `None` where nothing is to be done.
    stage_of: &'a (dyn Fn(Index) -> Option<&'a Stage> + Sync),
    /// By level.
    held: Vec<Held>,
    /// How many files there will be.
    total: u64,
    parts: Mutex<HashMap<Index, Arc<Part>>>,
    /// Bytes still to come of files that are put together from pieces. They come over the whole restore, so the files
    /// are not kept open.
    left: HashMap<Index, AtomicU64>,
    ids: Mutex<Ids>,
    limits: &'a Limits,
    /// Bytes of content written so far, for progress.
    pub written: AtomicU64,
    /// Files finished so far.
    pub finished: AtomicU64,
}

impl<'a> Extractor<'a> {
    /// An extractor for the entries of `tree` for which `stage_of` names a place, from the archives of `levels`.
    pub fn new(
        tree: &'a Tree,
        holders: &'a Holders,
        levels: usize,
        stage_of: &'a (dyn Fn(Index) -> Option<&'a Stage> + Sync),
        limits: &'a Limits,
    ) -> Self {
        let mut held: Vec<Held> = (0..levels).map(|_| Held::default()).collect();
        let (mut left, mut total) = (HashMap::new(), 0);
        for index in tree.indices().filter(|i| tree.node(*i).kind == Kind::File && stage_of(*i).is_some()) {
            total += 1;
            match holders.pieces(index) {
                Some(pieces) => {
                    for piece in pieces {
                        let Piece { offset, length, level, at } = *piece;
                        held[usize::from(level)].runs.push(Run { at, length, index, offset });
                    }
                    left.insert(index, AtomicU64::new(pieces.iter().map(|p| p.length).sum()));
                }
                None if tree.stored(index).is_some_and(|s| s.1 > 0) => {
                    held[usize::from(holders.level(index))].files.push(index);
                }
                None => {}
            }
        }
        held.iter_mut().for_each(|h| h.settle(tree));
        Extractor {
            tree,
            holders,
            stage_of,
            held,
            total,
            parts: Mutex::default(),
            left,
            ids: Mutex::default(),
            limits,
            written: AtomicU64::new(0),
            finished: AtomicU64::new(0),
        }
    }

    /// Whether the bytes from `start` to `end` of the tar of `level` hold anything to extract.
    pub fn needs(&self, level: usize, start: u64, end: u64) -> bool {
        let held = &self.held[level];
        let file = held.files_after(start).first();
        file.is_some_and(|i| self.tree.stored(*i).is_some_and(|(at, _)| at < end))
            || held.runs_after(start).first().is_some_and(|r| r.at < end)
    }

    /// Refuses to be done before every file is.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when the archive did not hold all that its manifest promised.
    pub fn check_complete(&self) -> Result<()> {
        let finished = self.finished.load(Ordering::Relaxed);
        if finished == self.total {
            return Ok(());
        }
        Err(Error::damaged(format!(
            "the archives hold {finished} of the {} files that the manifest promises",
            self.total
        )))
    }

    /// Takes bytes of the tar of `level`, from `start` on.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when a file's content is not what the manifest says; those of the disk.
    pub fn frame(&self, level: usize, start: u64, tar: &[u8]) -> Result<()> {
        let end = start + tar.len() as u64;
        let slice = |a: u64, b: u64| &tar[to_usize(a - start)..to_usize(b - start)];
        for &index in self.held[level].files_after(start) {
            let Some((at, length)) = self.tree.stored(index) else { continue };
            if at >= end {
                break;
            }
            if at + length <= start {
                continue;
            }
            let (from, to) = (at.max(start), (at + length).min(end));
            if from == at && to == at + length && self.tree.extents(index).is_none() {
                self.whole(index, slice(from, to))?;
            } else {
                self.part(index, from - at, slice(from, to), length)?;
            }
            self.written.fetch_add(to - from, Ordering::Relaxed);
        }
        let mut open: Option<(Index, File)> = None;
        for run in self.held[level].runs_after(start) {
            if run.at >= end {
                break;
            }
            if run.at + run.length <= start {
                continue;
            }
            let (from, to) = (run.at.max(start), (run.at + run.length).min(end));
            let file = match open.take().filter(|(index, _)| *index == run.index) {
                Some((_, file)) => file,
                None => self.reopen(run.index)?,
            };
            let offset = run.offset + (from - run.at);
            file.write_all_at(slice(from, to), offset).map_err(|e| self.failed("write", run.index, e))?;
            self.written.fetch_add(to - from, Ordering::Relaxed);
            let left = &self.left[&run.index];
            if left.fetch_sub(to - from, Ordering::AcqRel) == to - from {
                self.finish_by_reading(run.index, &file)?;
            }
            open = Some((run.index, file));
        }
        Ok(())
    }

    /// Makes the files that have no content to wait for: empty ones, and those that are one hole; and those that are put
    /// together from pieces, still without them.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn begin(&self) -> Result<()> {
        for index in self.tree.indices() {
            let node = self.tree.node(index);
            let stored = self.tree.stored(index).map_or(0, |s| s.1);
            if node.kind != Kind::File || stored > 0 || (self.stage_of)(index).is_none() {
                continue;
            }
            let file = self.create(index)?;
            file.set_len(node.size).map_err(|e| self.failed("make", index, e))?;
            if self.holders.pieces(index).is_none() {
                self.finish_by_reading(index, &file)?;
            }
        }
        Ok(())
    }

    fn reopen(&self, index: Index) -> Result<File> {
        let stage = (self.stage_of)(index).expect("only files with a place have runs");
        let fd = stage.reopen(&self.tree.path(index)).map_err(|e| self.failed("open", index, e.into()))?;
        Ok(File::from(fd))
    }

    fn whole(&self, index: Index, content: &[u8]) -> Result<()> {
        if *blake3::hash(content).as_bytes() != self.tree.blake3(index) {
            return Err(self.wrong(index));
        }
        let file = self.create(index)?;
        file.write_all_at(content, 0).map_err(|e| self.failed("write", index, e))?;
        self.finish(index, &file)
    }

    /// Writes stored bytes from `offset` of a file that has `total` of them; who writes the last finishes it.
    fn part(&self, index: Index, offset: u64, bytes: &[u8], total: u64) -> Result<()> {
        let part = {
            let mut parts = self.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match parts.get(&index) {
                Some(part) => Arc::clone(part),
                None => {
                    let file = self.create(index)?;
                    file.set_len(self.tree.node(index).size).map_err(|e| self.failed("write", index, e))?;
                    let part = Arc::new(Part { file, left: AtomicU64::new(total) });
                    parts.insert(index, Arc::clone(&part));
                    part
                }
            }
        };
        self.write_stored(index, &part.file, offset, bytes)?;
        let before = part.left.fetch_sub(bytes.len() as u64, Ordering::AcqRel);
        if before == bytes.len() as u64 {
            self.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&index);
            self.finish_by_reading(index, &part.file)?;
        }
        Ok(())
    }

    /// Puts stored bytes where they belong: past the holes, if there are any.
    fn write_stored(&self, index: Index, file: &File, mut offset: u64, mut bytes: &[u8]) -> Result<()> {
        let failed = |e| self.failed("write", index, e);
        let Some(extents) = self.tree.extents(index) else {
            return file.write_all_at(bytes, offset).map_err(failed);
        };
        for &(place, length) in extents {
            if offset >= length {
                offset -= length;
                continue;
            }
            let n = bytes.len().min(to_usize(length - offset));
            file.write_all_at(&bytes[..n], place + offset).map_err(failed)?;
            bytes = &bytes[n..];
            offset = 0;
            if bytes.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Checks the hash of a file whose bytes came in pieces, by reading it once more.
    fn finish_by_reading(&self, index: Index, file: &File) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        let (mut at, size) = (0, self.tree.node(index).size);
        while at < size {
            let want = buffer.len().min(to_usize(size - at));
            file.read_exact_at(&mut buffer[..want], at).map_err(|e| self.failed("read back", index, e))?;
            hasher.update(&buffer[..want]);
            at += want as u64;
        }
        if *hasher.finalize().as_bytes() != self.tree.blake3(index) {
            return Err(self.wrong(index));
        }
        self.finish(index, file)
    }

    fn finish(&self, index: Index, file: &File) -> Result<()> {
        let entry = self.tree.entry(index);
        let archive = self.tree.node(index).archive;
        let ids = self.owner_ids(&entry);
        apply(file, &entry, archive, ids, self.limits)
            .map_err(|e| self.failed("set the metadata of", index, e.into()))?;
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn owner_ids(&self, entry: &Entry) -> (u32, u32) {
        self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).of(&entry.owner)
    }

    fn create(&self, index: Index) -> Result<File> {
        let stage = (self.stage_of)(index).expect("only files with a place are in the order");
        let path = self.tree.path(index);
        let fd: OwnedFd = match stage.create(&path) {
            Err(Errno::NOENT) => {
                let parent = crate::model::path::parent(&path).unwrap_or_default();
                stage.make_dirs(parent).and_then(|()| stage.create(&path))
            }
            other => other,
        }
        .map_err(|e| self.failed("create", index, e.into()))?;
        Ok(File::from(fd))
    }

    fn wrong(&self, index: Index) -> Error {
        let path = printable(&self.tree.path(index));
        Error::damaged(format!("the content of {path} is not what the manifest says"))
    }

    fn failed(&self, verb: &str, index: Index, e: std::io::Error) -> Error {
        let path = self.tree.path(index);
        failed(verb, &path, e)
    }
}

/// An I/O error about an archive path.
pub fn failed(verb: &str, path: &[u8], e: std::io::Error) -> Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let full = matches!(e.kind(), StorageFull | QuotaExceeded);
    let error = Error::failed(format!("cannot {verb} {}", printable(path))).because(e);
    if full {
        error.hint("the target is full: nothing was put in place; free some space and run it again")
    } else {
        error
    }
}

/// Whether a file is one that an earlier restore had finished: its time is set when all is written, but what reached the
/// disk before a crash only its digest tells.
pub fn is_finished(file: &File, entry: &Entry) -> bool {
    let same =
        |stat: rustix::fs::Stat| u64::try_from(stat.st_size) == Ok(entry.size) && metadata::mtime(&stat) == entry.mtime;
    let mut hasher = blake3::Hasher::new();
    fstat(file).is_ok_and(same)
        && hasher.update_reader(file).is_ok_and(|hasher| *hasher.finalize().as_bytes() == entry.blake3)
}

/// Gives an open file or directory its owner, mode, attributes and time; what the target refuses is counted. What is as
/// recorded is not touched, so that doing it twice changes nothing.
///
/// # Errors
/// Those of the system that are about more than this entry's metadata.
pub fn apply(fd: impl AsFd, entry: &Entry, archive: Archive, ids: (u32, u32), limits: &Limits) -> Result<(), Errno> {
    let fd = fd.as_fd();
    let now = fstat(fd)?;
    let mut mode = match archive {
        Archive::State => entry.mode,
        // Nobody but the owner has business with secrets, whatever the old machine allowed.
        Archive::Secrets => entry.mode & 0o700,
    };
    if (now.st_uid, now.st_gid) != ids && fchown(fd, Some(Uid::from_raw(ids.0)), Some(Gid::from_raw(ids.1))).is_err() {
        limits.owners.fetch_add(1, Ordering::Relaxed);
        // A program that runs as its owner must not come to run as somebody else.
        mode &= 0o1777;
    }
    attributes(fd, entry, limits)?;
    // After owner and attributes: they change bits of the mode.
    let now = fstat(fd)?;
    if now.st_mode & 0o7777 != u32::from(mode) && fchmod(fd, Mode::from_raw_mode(u32::from(mode))).is_err() {
        limits.modes.fetch_add(1, Ordering::Relaxed);
    }
    if metadata::mtime(&now) != entry.mtime {
        let time = Timespec { tv_sec: entry.mtime.seconds, tv_nsec: i64::from(entry.mtime.nanos) };
        let times = Timestamps { last_access: time, last_modification: time };
        if futimens(fd, &times).is_err() || metadata::mtime(&fstat(fd)?) != entry.mtime {
            limits.times.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Gives the recorded attributes, and takes away what the target put there by itself, such as an inherited ACL.
fn attributes(fd: BorrowedFd<'_>, entry: &Entry, limits: &Limits) -> Result<(), Errno> {
    let there = metadata::xattrs(fd)?;
    for (name, _) in there.iter().filter(|(name, _)| !entry.xattrs.iter().any(|x| x.0 == *name)) {
        // Labels of the system belong to the target and not to the file.
        if name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") {
            metadata::remove_xattr(fd, name).unwrap_or(());
        }
    }
    for (name, value) in entry.xattrs.iter().filter(|x| !there.contains(x)) {
        if metadata::set_xattr(fd, name, value).is_err() {
            limits.xattrs.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A length within a buffer.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("lengths within a frame or buffer fit in memory")
}
