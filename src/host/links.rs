//! What comes after files: links in the staging directory, and metadata of what is in place.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, linkat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::at;
use super::extract::{Limits, apply};
use super::metadata;
use super::stage::Stage;
use crate::model::entry::{Entry, Kind};
use crate::model::path::parent;
use crate::model::store_key::Archive;

/// Makes a symbolic link in the staging directory, with its own owner and time.
///
/// # Errors
/// Those of the system.
pub fn symlink(stage: &Stage, path: &[u8], entry: &Entry, ids: (u32, u32), limits: &Limits) -> Result<(), Errno> {
    stage.make_dirs(parent(path).unwrap_or_default())?;
    at::with(stage.fd(), path, |fd, path| {
        symlinkat(&entry.target[..], fd, path)?;
        link_metadata(fd, path, entry, ids, limits)
    })
}

/// Owner, attributes and time of a symbolic link, which has no descriptor to set them through.
fn link_metadata(
    fd: BorrowedFd<'_>,
    path: &[u8],
    entry: &Entry,
    ids: (u32, u32),
    limits: &Limits,
) -> Result<(), Errno> {
    let now = rustix::fs::statat(fd, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if (now.st_uid, now.st_gid) != ids {
        let (uid, gid) = (Uid::from_raw(ids.0), Gid::from_raw(ids.1));
        if chownat(fd, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).is_err() {
            limits.owners.fetch_add(1, Ordering::Relaxed);
        }
    }
    if !entry.xattrs.is_empty() {
        let there = metadata::link_xattrs_at(fd, path).unwrap_or_default();
        for (name, value) in entry.xattrs.iter().filter(|x| !there.contains(x)) {
            if metadata::set_link_xattr(fd, path, name, value).is_err() {
                limits.xattrs.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    if metadata::mtime(&now) != entry.mtime {
        let time = Timespec { tv_sec: entry.mtime.seconds, tv_nsec: i64::from(entry.mtime.nanos) };
        let times = Timestamps { last_access: time, last_modification: time };
        if utimensat(fd, path, &times, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            limits.times.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Makes a further name, in the staging directory, of the file `target`, which is staged or in place already.
///
/// # Errors
/// Those of the system.
pub fn hard_link(stage: &Stage, path: &[u8], target: LinkTarget<'_>) -> Result<(), Errno> {
    stage.make_dirs(parent(path).unwrap_or_default())?;
    let (base, from) = match target {
        LinkTarget::Staged(stage, path) => (stage.fd(), path),
        LinkTarget::InPlace(root, path) => (root, path.strip_prefix(b"/").unwrap_or(path)),
    };
    at::with(base, from, |from_fd, from| {
        at::with(stage.fd(), path, |fd, path| linkat(from_fd, from, fd, path, AtFlags::empty()))
    })
}

/// Where the file is that gets a further name.
#[derive(Clone, Copy)]
pub enum LinkTarget<'a> {
    /// In a staging directory, by archive path.
    Staged(&'a Stage, &'a [u8]),
    /// On the disk, by absolute path below the given root directory.
    InPlace(BorrowedFd<'a>, &'a [u8]),
}

/// Gives something that is in place its recorded metadata, if it has another.
///
/// # Errors
/// Those of the system.
pub fn fix(
    root: BorrowedFd<'_>,
    disk: &[u8],
    entry: &Entry,
    archive: Archive,
    ids: (u32, u32),
    limits: &Limits,
) -> Result<(), Errno> {
    let below = disk.strip_prefix(b"/").unwrap_or(disk);
    let below = if below.is_empty() { b"." } else { below };
    at::with(root, below, |fd, path| {
        if entry.kind == Kind::Symlink {
            return link_metadata(fd, path, entry, ids, limits);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        apply(openat(fd, path, flags, Mode::empty())?.as_fd(), entry, archive, ids, limits)
    })
}

/// Removes what SQLite left beside a database that is about to be replaced.
///
/// # Errors
/// Those of the system.
pub fn remove_sidecars(database: &Path) -> std::io::Result<()> {
    for suffix in crate::model::database::SIDECARS {
        match std::fs::remove_file(super::database::sidecar(database, suffix)) {
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Err(e);
            }
            _ => {}
        }
    }
    Ok(())
}
