//! Moving what was restored from its staging directory into place, and directory metadata last.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, fchmod, fstat, mkdirat, openat, renameat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::at;
use super::stage::names;
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

/// How to go about it.
pub struct How {
    /// Whether something else may be replaced.
    pub replace: Replace,
    /// Archive paths above the sources, which are no entries: where the target has links to directories there, what is
    /// in them goes through.
    pub above: HashSet<Vec<u8>>,
}

/// Moves everything in `stage/home` and `stage/root` to where `disk` says, directories that are there are merged.
///
/// # Errors
/// When something is in the way or cannot be moved.
pub fn place(stage: BorrowedFd<'_>, disk: &dyn Fn(&[u8]) -> Vec<u8>, how: &How) -> Result<()> {
    let mut replaced = 0;
    for top in [&b"home"[..], b"root"] {
        let from = match at::open_dir(stage, top) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(failed(top, e)),
        };
        let to = disk(top);
        let disk = Path::new(std::ffi::OsStr::from_bytes(&to));
        super::world::private_dir(disk)?;
        let to = at::open_root(disk).map_err(|e| failed(&to, e))?;
        merge((stage, &mut replaced), from, to, top, how)?;
    }
    Ok(())
}

fn failed(path: &[u8], e: Errno) -> Error {
    let error = Error::failed(format!("cannot put {} in place", printable(path))).because(std::io::Error::from(e));
    if e == Errno::XDEV {
        error.hint(
            "another file system is mounted inside the target: restore with --target DIR; what was moved until then is in \
             place, and the next restore finds it there",
        )
    } else {
        error
    }
}

fn appeared(path: &[u8]) -> Error {
    Error::failed(format!("{} appeared while it was restored", printable(path)))
        .hint("run the restore again; nothing was overwritten")
}

/// Moves to a name that is free, in one step: what somebody makes there in this moment stays.
fn rename_to_nothing(from: &OwnedFd, name: &[u8], to: &OwnedFd) -> Result<(), Errno> {
    match renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => renameat(from, name, to, name),
        other => other,
    }
}

/// How many levels of directories are open at once. What is above them is opened again on the way back, so that no depth
/// needs more descriptors than a process may have.
const OPEN_LEVELS_MAX: usize = 16;

/// A directory that is staged and there as well.
struct Level {
    path: Vec<u8>,
    /// The staged one and the one that is there, unless they were closed for a while.
    open: Option<(OwnedFd, OwnedFd)>,
    /// Whether a link led there, so that its path alone does not lead back.
    pinned: bool,
    /// What is still to be moved.
    names: Vec<Vec<u8>>,
}

impl Level {
    fn new(from: OwnedFd, to: OwnedFd, path: Vec<u8>, pinned: bool) -> Result<Level> {
        writable(&to);
        let names = names(&from).map_err(|e| failed(&path, e))?;
        Ok(Level { path, open: Some((from, to)), pinned, names })
    }
}

/// Moves what is in `from` to `to`, level by level. Directories that give way go to the stage, numbered.
fn merge(
    (stage, replaced): (BorrowedFd<'_>, &mut u64),
    from: OwnedFd,
    to: OwnedFd,
    path: &[u8],
    how: &How,
) -> Result<()> {
    let mut levels = vec![Level::new(from, to, path.to_vec(), true)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        if level.open.is_none() {
            let again = reopen(&levels).map_err(|e| failed(path, e))?;
            let Some(level) = levels.last_mut() else { break };
            level.open = Some(again);
        }
        let Some(Level { open: Some((from, to)), path, .. }) = levels.last() else { break };
        let move_ = Move { stage, from, to, name: &name, path: join(path, &name), how };
        if let Some(below) = move_.run(replaced)? {
            levels.push(below);
            if let Some(high) = levels.len().checked_sub(OPEN_LEVELS_MAX + 1).map(|n| &mut levels[n])
                && !high.pinned
            {
                high.open = None;
            }
        }
    }
    Ok(())
}

/// Opens the last level once more, from the nearest one above it that is open.
fn reopen(levels: &[Level]) -> Result<(OwnedFd, OwnedFd), Errno> {
    let last = levels.last().map(|level| &level.path[..]).unwrap_or_default();
    let above = levels.iter().rev().find_map(|level| Some((level.path.len(), level.open.as_ref()?)));
    let (cut, (from, to)) = above.ok_or(Errno::BADF)?;
    let below = last.get(cut..).unwrap_or_default();
    Ok((at::open_dir_strict(from.as_fd(), below)?, at::open_dir_strict(to.as_fd(), below)?))
}

/// One name that moves.
struct Move<'a> {
    stage: BorrowedFd<'a>,
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    name: &'a [u8],
    path: Vec<u8>,
    how: &'a How,
}

impl Move<'_> {
    /// Moves it, or says that it is a directory which is there, too. What a directory gave way to is counted.
    fn run(self, replaced: &mut u64) -> Result<Option<Level>> {
        let Move { stage, from, to, name, path, how } = self;
        let fail = |e| failed(&path, e);
        let mine = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        let theirs = match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if how.replace == Replace::Nothing => {
                return match rename_to_nothing(from, name, to) {
                    Err(Errno::EXIST | Errno::NOTEMPTY) => Err(appeared(&path)),
                    moved => moved.map_err(fail).map(|()| None),
                };
            }
            Err(Errno::NOENT) => return renameat(from, name, to, name).map_err(fail).map(|()| None),
            Err(e) => return Err(fail(e)),
        };
        let is_dir = |mode| FileType::from_raw_mode(mode).is_dir();
        match (is_dir(mine.st_mode), is_dir(theirs.st_mode)) {
            (true, true) => {
                let from = at::open_dir(from.as_fd(), name).map_err(fail)?;
                let to = at::open_dir(to.as_fd(), name).map_err(fail)?;
                return Level::new(from, to, path, false).map(Some);
            }
            // A person may have moved the place of a source; nothing in the snapshot says that it is no link.
            (true, false)
                if how.above.contains(&path) && statat(to, name, AtFlags::empty()).is_ok_and(|s| is_dir(s.st_mode)) =>
            {
                let from = at::open_dir(from.as_fd(), name).map_err(fail)?;
                let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
                let to = openat(to, name, flags, Mode::empty()).map_err(fail)?;
                return Level::new(from, to, path, true).map(Some);
            }
            _ if how.replace == Replace::Nothing => return Err(appeared(&path)),
            (true, false) => unlinkat(to, name, AtFlags::empty()).map_err(fail)?,
            // It goes with the staging directory, which is emptied without recursion.
            (false, true) => {
                *replaced += 1;
                at::open_dir(to.as_fd(), name).iter().for_each(writable);
                renameat(to, name, stage, format!("replaced-{replaced}")).map_err(fail)?;
            }
            (false, false) => {}
        }
        renameat(from, name, to, name).map_err(fail)?;
        Ok(None)
    }
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
