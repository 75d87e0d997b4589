//! Moving what was restored from its staging directory into place, and directory metadata last.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::at;
use crate::error::{Error, Result};
use crate::model::path::{join, printable};

/// Whether something else may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It was checked that nothing is in the way.
    Nothing,
    /// What differs is replaced.
    Different,
}

/// Moves everything in `stage/home` and `stage/root` to where `disk` says, directories that are there are merged.
///
/// # Errors
/// When something is in the way or cannot be moved.
pub fn place(stage: BorrowedFd<'_>, disk: &dyn Fn(&[u8]) -> Vec<u8>, replace: Replace) -> Result<()> {
    for top in [&b"home"[..], b"root"] {
        let from = match at::open_dir(stage, top) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(failed(top, e)),
        };
        let to = disk(top);
        let dir = Path::new(std::ffi::OsStr::from_bytes(&to));
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::failed(format!("cannot make {}", printable(&to))).because(e))?;
        let to = at::open_root(dir).map_err(|e| failed(&to, e))?;
        merge(&from, &to, top, replace)?;
    }
    Ok(())
}

fn failed(path: &[u8], e: Errno) -> Error {
    let error = Error::failed(format!("cannot put {} in place", printable(path))).because(std::io::Error::from(e));
    if e == Errno::XDEV {
        error.hint("another file system is mounted inside the target: restore with --target")
    } else {
        error
    }
}

fn merge(from: &OwnedFd, to: &OwnedFd, path: &[u8], replace: Replace) -> Result<()> {
    writable(to);
    let mut names: Vec<Vec<u8>> = Vec::new();
    let entries = Dir::read_from(from).map_err(|e| failed(path, e))?;
    for entry in entries {
        let name = entry.map_err(|e| failed(path, e))?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    for name in names {
        let here = join(path, &name);
        one(from, to, &name, &here, replace)?;
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &[u8], path: &[u8], replace: Replace) -> Result<()> {
    let fail = |e| failed(path, e);
    let mine = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    let theirs = match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return renameat(from, name, to, name).map_err(fail),
        Err(e) => return Err(fail(e)),
    };
    let is_dir = |mode| FileType::from_raw_mode(mode).is_dir();
    match (is_dir(mine.st_mode), is_dir(theirs.st_mode)) {
        (true, true) => {
            let from = at::open_dir(from.as_fd(), name).map_err(fail)?;
            let to = at::open_dir(to.as_fd(), name).map_err(fail)?;
            return merge(&from, &to, path, replace);
        }
        _ if replace == Replace::Nothing => {
            return Err(Error::failed(format!("{} appeared while it was restored", printable(path)))
                .hint("run the restore again; nothing was overwritten"));
        }
        (true, false) => unlinkat(to, name, AtFlags::empty()).map_err(fail)?,
        (false, true) => remove_dir(to.as_fd(), name).map_err(fail)?,
        (false, false) => {}
    }
    renameat(from, name, to, name).map_err(fail)
}

/// Removes a directory and all that is in it, through no symbolic link.
fn remove_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let fd = at::open_dir(parent, name)?;
    writable(&fd);
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if child == b"." || child == b".." {
            continue;
        }
        if FileType::from_raw_mode(statat(&fd, child, AtFlags::SYMLINK_NOFOLLOW)?.st_mode).is_dir() {
            remove_dir(fd.as_fd(), child)?;
        } else {
            unlinkat(&fd, child, AtFlags::empty())?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Lets its owner write to a directory; its recorded mode is set last of all.
fn writable(dir: &OwnedFd) {
    if let Ok(stat) = fstat(dir) {
        let mode = stat.st_mode & 0o7777;
        if mode & 0o300 != 0o300 {
            // Where that is not permitted, the move itself says so.
            fchmod(dir, Mode::from_raw_mode(mode | 0o700)).unwrap_or(());
        }
    }
}

/// Opens a directory of the target, making it and those above it where `make` says so, through no symbolic link.
///
/// # Errors
/// Those of the system.
pub fn open_target_dir(base: BorrowedFd<'_>, below: &[u8]) -> Result<OwnedFd, Errno> {
    let mut dir = base.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    for part in below.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = match openat(&dir, part, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                mkdirat(&dir, part, Mode::RWXU)?;
                openat(&dir, part, flags, Mode::empty())?
            }
            other => other?,
        };
    }
    Ok(dir)
}
