//! Removing single entries of a target: only what still is what was looked at, and through no symbolic link.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, fchmod, fstat, statat, unlinkat};
use rustix::io::Errno;

use super::at;
use super::metadata::mtime;
use crate::model::database::{self, SIDECARS};
use crate::model::entry::Time;
use crate::model::path::{file_name, parent};

/// What an entry was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Device and inode.
    pub identity: (u64, u64),
    kind: FileType,
    /// Size and time of what has content. Those of a directory change with what is in it.
    content: Option<(i64, Time)>,
    /// Whether it is a database, whose sidecars go with it.
    pub database: bool,
}

/// What became of an entry that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone.
    Removed,
    /// It was gone already.
    Gone,
    /// It is something else by now, and stays.
    Changed,
    /// It is a directory with something in it, and stays.
    NotEmpty,
}

/// How many bytes of a file tell what it is.
const HEAD_BYTES: usize = 64;

/// Looks at the entry at `path` below `base`: what it is, and how its content begins, if it is a file.
///
/// # Errors
/// Those of the system, also for a file that cannot be read: nobody could have backed that up.
pub fn see(base: BorrowedFd<'_>, path: &[u8]) -> Result<(Seen, Vec<u8>), Errno> {
    let stat = at::with(base, path, |fd, path| statat(fd, path, AtFlags::SYMLINK_NOFOLLOW))?;
    let (mut seen, mut head) = (seen(&stat), Vec::new());
    if seen.kind.is_file() {
        let file = at::open_file(base, path)?;
        head.resize(HEAD_BYTES, 0);
        let read = rustix::io::pread(&file, &mut head[..], 0)?;
        head.truncate(read);
        seen.database = database::is_database(&head);
    }
    Ok((seen, head))
}

fn seen(stat: &rustix::fs::Stat) -> Seen {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let content = (!kind.is_dir()).then(|| (stat.st_size, mtime(stat)));
    Seen { identity: (stat.st_dev, stat.st_ino), kind, content, database: false }
}

/// Removes the entry at `path` below `base` if it still is what was `seen` there: a directory if it is empty, a database
/// with its sidecars.
///
/// # Errors
/// Those of the system.
pub fn remove(base: BorrowedFd<'_>, path: &[u8], seen_before: &Seen) -> Result<Outcome, Errno> {
    let (above, name) = (parent(path).unwrap_or_default(), file_name(path));
    let dir = match at::open_dir_strict(base, above) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Outcome::Gone),
        // A link, or a file, took the place of a directory: what it leads to was never looked at.
        Err(Errno::LOOP | Errno::NOTDIR) => return Ok(Outcome::Changed),
        Err(e) => return Err(e),
    };
    let now = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => seen(&stat),
        Err(Errno::NOENT) => return Ok(Outcome::Gone),
        Err(e) => return Err(e),
    };
    if (Seen { database: seen_before.database, ..now }) != *seen_before {
        return Ok(Outcome::Changed);
    }
    let flags = if now.kind.is_dir() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match unlink(&dir, name, flags) {
        Ok(()) => {}
        Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Outcome::NotEmpty),
        Err(e) => return Err(e),
    }
    if seen_before.database {
        // Behind it: without their database they are files like others, which the next restore removes.
        for suffix in SIDECARS {
            match unlink(&dir, &[name, suffix].concat(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::PERM) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(Outcome::Removed)
}

/// Removes a name, also from a directory of ours that may not be written to.
fn unlink(dir: &OwnedFd, name: &[u8], flags: AtFlags) -> Result<(), Errno> {
    match unlinkat(dir, name, flags) {
        Err(Errno::ACCESS) => {}
        other => return other,
    }
    let mode = Mode::from_raw_mode(fstat(dir.as_fd())?.st_mode & 0o7777);
    fchmod(dir, mode | Mode::RWXU)?;
    let removed = unlinkat(dir, name, flags);
    // Nobody else may restore it later: the directory need not be one that the snapshot has a mode for.
    fchmod(dir, mode)?;
    removed
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_was_seen_goes() {
        let top = tempfile::tempdir().unwrap();
        let base = at::open_root(top.path()).unwrap();
        let path = |name: &str| top.path().join(name);
        fs::create_dir(path("dir")).unwrap();
        fs::write(path("dir/file"), "one").unwrap();
        fs::write(path("dir/other"), "two").unwrap();
        let see = |name: &str| see(base.as_fd(), name.as_bytes()).unwrap().0;
        let remove = |name: &str, seen: &Seen| remove(base.as_fd(), name.as_bytes(), seen).unwrap();
        let (dir, file, other) = (see("dir"), see("dir/file"), see("dir/other"));
        assert_eq!(remove("dir", &dir), Outcome::NotEmpty);
        fs::write(path("dir/file"), "more").unwrap();
        assert_eq!(remove("dir/file", &file), Outcome::Changed);
        assert_eq!(remove("dir/file", &see("dir/file")), Outcome::Removed);
        assert_eq!(remove("dir/file", &file), Outcome::Gone);
        // The directory is somewhere else now, and a link leads there.
        fs::rename(path("dir"), path("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", path("dir")).unwrap();
        assert_eq!(remove("dir/other", &other), Outcome::Changed);
        assert_eq!(remove("dir", &dir), Outcome::Changed);
        assert!(path("elsewhere/other").exists() && path("dir").is_symlink());
    }

    #[test]
    fn a_database_goes_with_what_is_beside_it() {
        let top = tempfile::tempdir().unwrap();
        let base = at::open_root(top.path()).unwrap();
        for (name, content) in [("a", "SQLite format 3\0..."), ("b", "no database"), ("a-wal", "w"), ("b-wal", "w")] {
            fs::write(top.path().join(name), content).unwrap();
        }
        for name in [b"a", b"b"] {
            let (seen, _) = see(base.as_fd(), name).unwrap();
            assert_eq!(remove(base.as_fd(), name, &seen).unwrap(), Outcome::Removed);
        }
        assert!(!top.path().join("a-wal").exists() && top.path().join("b-wal").exists());
    }
}
