//! A private directory for plaintext that must not stay: removed when its owner is done, and by whoever comes next if the
//! process was killed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::world::{Lock, private_dir};
use crate::error::{At as _, Error, Kind, Result};

/// The directory below the state directory of a series.
const NAME: &str = "drill";

/// A scratch directory, and the lock that says that its owner lives.
pub struct Scratch {
    path: PathBuf,
    _lock: Lock,
}

impl Scratch {
    /// Takes the scratch directory below `state_dir`; what an earlier owner left there is removed first.
    ///
    /// # Errors
    /// [`Kind::Locked`] when another drill is under way; when remains cannot be removed or it cannot be made.
    pub fn open(state_dir: &Path) -> Result<Scratch> {
        let dir = state_dir.join(NAME);
        let lock = Lock::take(&dir).map_err(|e| match e.kind() {
            Kind::Locked => {
                Error::new(Kind::Locked, "another drill of this series is under way").hint("wait until it is done")
            }
            _ => e,
        })?;
        let path = dir.join("scratch");
        remove_tree(&path)?;
        private_dir(&path)?;
        Ok(Scratch { path, _lock: lock })
    }

    /// Removes what a drill that was killed left below `state_dir`, unless one is under way. Whether there was anything.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn sweep(state_dir: &Path) -> Result<bool> {
        let path = state_dir.join(NAME).join("scratch");
        if path.symlink_metadata().is_err() {
            return Ok(false);
        }
        let Ok(_lock) = Lock::take(&state_dir.join(NAME)) else { return Ok(false) };
        remove_tree(&path)?;
        Ok(true)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, and says whether that worked.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove(self) -> Result<()> {
        remove_tree(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next run.
        remove_tree(&self.path).unwrap_or(());
    }
}

/// How many threads remove files: a disk takes its time for each, and has room for several at once.
const REMOVERS: usize = 8;

/// Removes a directory and everything in it, also where a directory of it has no right to write. Follows no link.
fn remove_tree(path: &Path) -> Result<()> {
    let failed = "remove what a drill restored in";
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let (mut dirs, mut next) = (vec![path.to_owned()], 0);
    while let Some(dir) = dirs.get(next).cloned() {
        next += 1;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).at(failed, &dir)?;
        for entry in std::fs::read_dir(&dir).at(failed, &dir)? {
            let entry = entry.at(failed, &dir)?;
            if entry.file_type().at(failed, &dir)?.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    let taken = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(dir) = dirs.get(taken.fetch_add(1, Ordering::Relaxed)) {
            for entry in std::fs::read_dir(dir).at(failed, dir)? {
                let entry = entry.at(failed, dir)?;
                if !entry.file_type().at(failed, dir)?.is_dir() {
                    std::fs::remove_file(entry.path()).at(failed, dir)?;
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..REMOVERS.min(dirs.len())).map(|_| scope.spawn(work)).collect();
        let stopped = || Error::failed("a thread that removed what a drill restored stopped");
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(stopped())))
    })?;
    // Each directory was found after the one that it is in.
    dirs.iter().rev().try_for_each(|dir| std::fs::remove_dir(dir).at(failed, dir))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let scratch = Scratch::open(dir.path()).unwrap();
        let locked = scratch.path().join("a/b");
        std::fs::create_dir_all(&locked).unwrap();
        std::fs::write(locked.join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, locked.join("link")).unwrap();
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500)).unwrap();
        assert_eq!(Scratch::open(dir.path()).err().unwrap().kind(), Kind::Locked);
        assert!(!Scratch::sweep(dir.path()).unwrap(), "one that is under way is left alone");
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists() && outside.join("kept").exists());
    }

    #[test]
    fn remains_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Scratch::sweep(dir.path()).unwrap());
        let left = dir.path().join("drill/scratch/home");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("secret"), "x").unwrap();
        assert!(Scratch::sweep(dir.path()).unwrap());
        assert!(!dir.path().join("drill/scratch").exists());
        std::fs::create_dir_all(&left).unwrap();
        let scratch = Scratch::open(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        scratch.remove().unwrap();
        assert!(!dir.path().join("drill/scratch").exists());
    }
}
