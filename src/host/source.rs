//! Reading the files of a source while their owner goes on writing them.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;

use super::at;
use super::metadata::{self, Names};
use crate::error::{At as _, Result};
use crate::model::database;
use crate::model::entry::{Entry, Extent, Kind};

/// A source root on this disk: the directory it is in, and its name there.
pub struct Root {
    /// Its archive path.
    pub archive_path: Vec<u8>,
    /// Where it is, without symbolic links but perhaps in the last component.
    pub path: PathBuf,
    parent: OwnedFd,
}

impl Root {
    /// Opens the directory that holds the root.
    ///
    /// # Errors
    /// When that is not there.
    pub fn open(path: &Path, archive_path: Vec<u8>) -> Result<Root> {
        let above = path.parent().unwrap_or(path);
        let parent = at::open_root(above).at("open", above)?;
        Ok(Root { archive_path, path: path.to_owned(), parent })
    }

    /// The descriptor that paths from [`Root::below`] start at.
    pub fn base(&self) -> impl AsFd + '_ {
        self.parent.as_fd()
    }

    /// `archive_path`, which is the root's or below it, as a path from [`Root::base`].
    pub fn below(&self, archive_path: &[u8]) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt as _;
        let name = self.path.file_name().map_or(&b"."[..], |n| n.as_bytes());
        let rest = archive_path.strip_prefix(&self.archive_path[..]).unwrap_or_default();
        [name, rest].concat()
    }

    /// Where `archive_path` is on this disk.
    pub fn disk_path(&self, archive_path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        let rest = archive_path.strip_prefix(&self.archive_path[..]).unwrap_or_default();
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        if rest.is_empty() { self.path.clone() } else { self.path.join(std::ffi::OsStr::from_bytes(rest)) }
    }
}

/// A regular file, open for reading.
pub struct SourceFile {
    /// The open file.
    pub file: File,
    /// What `stat` said when it was opened.
    pub stat: Stat,
    /// Its entry, still without content.
    pub entry: Entry,
    /// How many bytes of content there are to read: the size, less the holes.
    pub stored: u64,
}

impl SourceFile {
    /// Whether it begins as a SQLite database does.
    pub fn is_database(&self) -> bool {
        is_database(&self.file)
    }
}

/// Whether an open file begins as a SQLite database does.
pub fn is_database(file: impl AsFd) -> bool {
    let mut magic = [0; 16];
    rustix::io::pread(file, &mut magic, 0) == Ok(16) && database::is_database(&magic)
}

/// Why a file could not be opened as one.
#[derive(Debug)]
pub enum NoFile {
    /// It is gone, or is something else by now.
    Vanished,
    /// It is there and cannot be read.
    Unreadable(Errno),
}

/// Opens `path` below the root for reading.
///
/// # Errors
/// [`NoFile`].
pub fn open(root: &Root, archive_path: &[u8], names: &mut Names) -> Result<SourceFile, NoFile> {
    let fd = at::open_file(root.base().as_fd(), &root.below(archive_path)).map_err(classify)?;
    let stat = fstat(&fd).map_err(classify)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(NoFile::Vanished);
    }
    let mut entry = metadata::entry_of(&stat, Kind::File, names);
    entry.xattrs = metadata::xattrs(&fd).map_err(NoFile::Unreadable)?;
    let file = File::from(fd);
    entry.extents = extents(&file, &stat).map_err(NoFile::Unreadable)?;
    let stored = entry.stored();
    Ok(SourceFile { file, stat, entry, stored })
}

/// Opens `path` below the root for a look at its bytes, and tells its `stat`.
///
/// # Errors
/// [`NoFile`].
pub fn open_bytes(root: &Root, archive_path: &[u8]) -> Result<(File, Stat), NoFile> {
    let fd = at::open_file(root.base().as_fd(), &root.below(archive_path)).map_err(classify)?;
    let stat = fstat(&fd).map_err(classify)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(NoFile::Vanished);
    }
    Ok((File::from(fd), stat))
}

/// Tells what is gone from what cannot be read.
pub fn classify(e: Errno) -> NoFile {
    match e {
        // A link or another directory took its place while we looked.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => NoFile::Vanished,
        e => NoFile::Unreadable(e),
    }
}

/// The runs of data of a file with holes; `None` where there are none.
fn extents(file: &File, stat: &Stat) -> Result<Option<Vec<Extent>>, Errno> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) >= size {
        return Ok(None);
    }
    let mut out: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            // The file system does not know holes: it is all data.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(None),
            Err(e) => return Err(e),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if end > start {
            out.push((start, end - start));
        }
        at = end.max(at + 1);
    }
    let whole = matches!(out[..], [(0, length)] if length == size);
    Ok((!whole).then_some(out))
}

/// Fills `buffer` as far as the file goes.
///
/// # Errors
/// Those of the file.
pub fn fill(file: &mut impl std::io::Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Whether the file still is what `stat` said: nobody wrote to it since.
pub fn unchanged(file: &File, stat: &Stat) -> bool {
    fstat(file).is_ok_and(|now| {
        (now.st_size, now.st_mtime, now.st_mtime_nsec, now.st_ctime, now.st_ctime_nsec)
            == (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
    })
}

/// Metadata and attributes of a directory, read when it is archived.
///
/// # Errors
/// [`NoFile`].
pub fn directory(root: &Root, archive_path: &[u8], names: &mut Names) -> Result<Entry, NoFile> {
    let fd = at::open_dir(root.base().as_fd(), &root.below(archive_path)).map_err(classify)?;
    let stat = fstat(&fd).map_err(classify)?;
    let mut entry = metadata::entry_of(&stat, Kind::Dir, names);
    entry.xattrs = metadata::xattrs(&fd).map_err(NoFile::Unreadable)?;
    Ok(entry)
}
