//! Where a restore builds what it brings back: a private directory on the target's own file system, so that everything
//! can appear by rename.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, mkdirat, openat};
use rustix::io::Errno;

use super::at;
use crate::error::{At as _, Error, Result};

/// What names of such directories begin with.
pub(super) const PREFIX: &str = ".lifeboat-restore-";

/// A staging directory beside what it is for. It is locked while its owner lives and removed with it.
pub struct Stage {
    path: PathBuf,
    fd: OwnedFd,
}

impl Stage {
    /// Makes one in `parent`, and removes those that dead restores left there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(parent: &Path) -> Result<Stage> {
        remove_dead(parent);
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|e| Error::failed("no random numbers to be had").because(e))?;
        let path = parent.join(format!("{PREFIX}{:08x}", u32::from_le_bytes(random)));
        let mode = Mode::RWXU;
        rustix::fs::mkdir(&path, mode).at("make the staging directory", &path)?;
        let fd = at::open_root(&path).at("open the staging directory", &path)?;
        // Unsupported locks cost only the tidying up after a crash.
        flock(&fd, FlockOperation::NonBlockingLockExclusive).unwrap_or(());
        Ok(Stage { path, fd })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor that archive paths start at.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes the directory of an archive path and whatever is above it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn make_dirs(&self, archive_path: &[u8]) -> Result<(), Errno> {
        let make = |path: &[u8]| at::with(self.fd(), path, |fd, path| mkdirat(fd, path, Mode::RWXU));
        match make(archive_path) {
            Ok(()) | Err(Errno::EXIST) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        if let Some(parent) = crate::model::path::parent(archive_path) {
            self.make_dirs(parent)?;
        }
        match make(archive_path) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Creates a new file for an archive path whose directory is there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(&self, archive_path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at::with(self.fd(), archive_path, |fd, path| openat(fd, path, flags, Mode::RUSR | Mode::WUSR))
    }

    /// Whether names that differ only in case are the same name here.
    ///
    /// # Errors
    /// Those of the system.
    pub fn ignores_case(&self) -> Result<bool, Errno> {
        drop(self.create(b"case")?);
        let found = rustix::fs::accessat(self.fd(), "CASE", rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty());
        rustix::fs::unlinkat(self.fd(), "case", rustix::fs::AtFlags::empty())?;
        Ok(found.is_ok())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        remove_tree(&self.path);
    }
}

/// Removes a directory even where modes in it forbid that to its owner.
fn remove_tree(path: &Path) {
    if std::fs::remove_dir_all(path).is_ok() {
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    let mut pending = vec![path.to_owned()];
    while let Some(dir) = pending.pop() {
        // Whatever fails here fails again below, where it can only be left behind for the next restore to try.
        drop(std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)));
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        pending.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    drop(std::fs::remove_dir_all(path));
}

fn remove_dead(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let dead = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type().is_ok_and(|t| t.is_dir())
            && at::open_root(&entry.path())
                .is_ok_and(|fd| flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok());
        if dead {
            remove_tree(&entry.path());
        }
    }
}
