//! Where a restore builds what it brings back: a private directory on the target's own file system, so that everything
//! can appear by rename.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, chmodat, flock, fstat, mkdirat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::at;
use crate::error::{At as _, Error, Result};
use crate::model::path::{file_name, parent};

/// What names of such directories begin with.
pub(super) const PREFIX: &str = ".lifeboat-restore-";

/// A staging directory beside what it is for. It is locked while its owner lives and removed with it.
pub struct Stage {
    path: PathBuf,
    fd: OwnedFd,
    /// What dead restores left beside it, locked: finished files are taken over from there.
    old: Vec<Old>,
}

/// The staging directory of a restore that died.
struct Old {
    path: PathBuf,
    fd: OwnedFd,
}

impl Stage {
    /// Makes one in `parent`, and takes hold of those that dead restores left there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(parent: &Path) -> Result<Stage> {
        let old = dead(parent);
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|e| Error::failed("no random numbers to be had").because(e))?;
        let path = parent.join(format!("{PREFIX}{:08x}", u32::from_le_bytes(random)));
        let mode = Mode::RWXU;
        rustix::fs::mkdir(&path, mode).at("make the staging directory", &path)?;
        // A default ACL of the parent may take away even the owner's rights, here and in all that is made below.
        rustix::fs::chmod(&path, mode).at("open the staging directory", &path)?;
        let fd = at::open_root(&path).at("open the staging directory", &path)?;
        rustix::fs::fremovexattr(&fd, "system.posix_acl_default").unwrap_or(());
        // Unsupported locks cost only the tidying up after a crash.
        flock(&fd, FlockOperation::NonBlockingLockExclusive).unwrap_or(());
        Ok(Stage { path, fd, old })
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
        // One after the other and not by recursion: a path may have more components than the stack has room for.
        let mut dir = self.fd.try_clone().map_err(|_| Errno::MFILE)?;
        for part in archive_path.split(|b| *b == b'/') {
            match mkdirat(&dir, part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            dir = at::open_dir(dir.as_fd(), part)?;
        }
        Ok(())
    }

    /// Creates a new file for an archive path whose directory is there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(&self, archive_path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at::with(self.fd(), archive_path, |fd, path| openat(fd, path, flags, Mode::RUSR | Mode::WUSR))
    }

    /// Opens a file that [`Stage::create`] made, once more.
    ///
    /// # Errors
    /// Those of the system.
    pub fn reopen(&self, archive_path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at::with(self.fd(), archive_path, |fd, path| openat(fd, path, flags, Mode::empty()))
    }

    /// Gives the file of an archive path another name beside it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn rename(&self, archive_path: &[u8], other: &[u8]) -> Result<(), Errno> {
        let dir = at::open_dir_strict(self.fd(), parent(archive_path).unwrap_or_default())?;
        renameat(&dir, file_name(archive_path), &dir, file_name(other))
    }

    /// Whether a dead restore left something that may be taken over.
    pub fn has_old(&self) -> bool {
        !self.old.is_empty()
    }

    /// Takes over the file of an archive path from what a dead restore left, if `is_right` says that it is the one. No
    /// symbolic link is followed on the way: what a link leads to belongs to somebody else.
    ///
    /// # Errors
    /// Those of the system.
    pub fn take_over(&self, archive_path: &[u8], is_right: &dyn Fn(&File) -> bool) -> Result<bool, Errno> {
        let (dir, name) = (parent(archive_path).unwrap_or_default(), file_name(archive_path));
        for old in &self.old {
            let Ok(from) = at::open_dir_strict(old.fd.as_fd(), dir) else { continue };
            let Ok(file) = at::open_file(from.as_fd(), name) else { continue };
            let stat = fstat(&file)?;
            // A file with further names may be in place somewhere already.
            if !FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_nlink != 1 || !is_right(&File::from(file)) {
                continue;
            }
            self.make_dirs(dir)?;
            let to = at::open_dir_strict(self.fd(), dir)?;
            renameat(&from, name, &to, name)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Removes what is left of dead restores.
    pub fn forget_old(&mut self) {
        self.old.drain(..).for_each(|old| remove_tree(&old.path));
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
        self.forget_old();
        remove_tree(&self.path);
    }
}

/// Removes a directory even where modes in it forbid that to its owner, and however deep it is: directories move up
/// to its top one by one, so that neither paths nor recursion nor open files grow with depth.
fn remove_tree(path: &Path) {
    if let Ok(top) = at::open_root(path) {
        // Whatever fails here can only be left behind for the next restore to try.
        let mut moved = 0;
        while empty_one_level(&top, &mut moved).unwrap_or(false) {}
    }
    drop(std::fs::remove_dir(path));
}

/// Removes everything in `top` but what its directories hold, which moves to `top`. `false` when nothing was left.
fn empty_one_level(top: &OwnedFd, moved: &mut u64) -> Result<bool, Errno> {
    let names = names(top)?;
    for name in &names {
        if !is_dir(top, name)? {
            unlinkat(top, name, AtFlags::empty())?;
            continue;
        }
        // The mode a directory was given may be that of a directory that nobody may change.
        chmodat(top, name, Mode::RWXU, AtFlags::empty())?;
        let dir = at::open_dir(top.as_fd(), name)?;
        for child in self::names(&dir)? {
            if is_dir(&dir, &child)? {
                chmodat(&dir, &child, Mode::RWXU, AtFlags::empty())?;
                *moved += 1;
                renameat(&dir, &child, top, format!(".moved-{moved}"))?;
            } else {
                unlinkat(&dir, &child, AtFlags::empty())?;
            }
        }
        unlinkat(top, name, AtFlags::REMOVEDIR)?;
    }
    Ok(!names.is_empty())
}

/// The names in a directory.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let all = Dir::read_from(dir)?.map(|e| e.map(|e| e.file_name().to_bytes().to_vec()));
    all.filter(|n| !matches!(n.as_deref(), Ok(b"." | b".."))).collect()
}

fn is_dir(dir: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode).is_dir())
}

/// The staging directories in `parent` whose owners are dead, locked. What is not this user's own, or open to others,
/// is nothing to take files from, and goes at once.
fn dead(parent: &Path) -> Vec<Old> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut out = Vec::new();
    for entry in entries.flatten() {
        let named = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        if !named || !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let path = entry.path();
        let Ok(fd) = at::open_root(&path) else { continue };
        if flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let own = |s: rustix::fs::Stat| s.st_uid == rustix::process::geteuid().as_raw() && s.st_mode & 0o077 == 0;
        if fstat(&fd).is_ok_and(own) {
            out.push(Old { path, fd });
        } else {
            remove_tree(&path);
        }
    }
    out
}
