//! Paths of any length, never through a symbolic link: a descriptor and a path below it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, Result};

/// Paths up to this length go to the system in one call.
const PATH_BYTES_MAX: usize = 4000;

/// A directory to start from, which is never itself reached through a link below it.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Opens the directory `path`, following symbolic links: for roots that a person named.
///
/// # Errors
/// Those of the system.
pub fn open_root(path: &std::path::Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
}

/// Splits `path` where a call can take it: a directory to open first, and the rest.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= PATH_BYTES_MAX {
        return None;
    }
    let cut = path[..PATH_BYTES_MAX].iter().rposition(|b| *b == b'/')?;
    Some((&path[..cut], &path[cut + 1..]))
}

/// Runs `call` with a descriptor and a path short enough for the system.
///
/// # Errors
/// Those of the system and of `call`.
pub fn with<T>(base: BorrowedFd<'_>, path: &[u8], call: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<T>) -> Result<T> {
    let Some((first, mut rest)) = split(path) else { return call(base, path) };
    let mut dir = openat(base, first, DIRECTORY, Mode::empty())?;
    while let Some((next, after)) = split(rest) {
        dir = openat(dir.as_fd(), next, DIRECTORY, Mode::empty())?;
        rest = after;
    }
    call(dir.as_fd(), rest)
}

/// Opens the directory `path` below `base`; the last component may not be a symbolic link.
///
/// # Errors
/// Those of the system.
pub fn open_dir(base: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    with(base, path, |fd, path| openat(fd, path, DIRECTORY, Mode::empty()))
}

/// Opens the directory `path` below `base`, where no component may be a symbolic link.
///
/// # Errors
/// Those of the system; `ELOOP` or `ENOTDIR` for a link on the way.
pub fn open_dir_strict(base: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let mut dir = base.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
        dir = openat(dir.as_fd(), part, DIRECTORY, Mode::empty())?;
    }
    Ok(dir)
}

/// Opens a regular file for reading without waiting for a pipe's writer and, where permitted, without touching its
/// access time.
///
/// # Errors
/// Those of the system.
pub fn open_file(base: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    with(base, path, |fd, path| {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        match openat(fd, path, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may ask for that.
            Err(Errno::PERM) => {}
            other => return other,
        }
        openat(fd, path, flags, Mode::empty())
    })
}
