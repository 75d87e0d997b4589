//! Recovery of what a killed writer left behind, in a private copy: the source is not for us to repair.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::probe::{same, settled};
use super::spool::Spool;
use super::{Job, Privacy, Seen, Stop, connect, sidecar};
use crate::error::{At, Result};

/// Up to this size a secret database is recovered in memory.
const IN_MEMORY_BYTES_MAX: u64 = 256 << 20;

/// A file system that is memory; Linux has it everywhere, others do not.
const MEMORY: &str = "/dev/shm";

/// Copies the database with its journals, recovers the copy and takes the image from there.
pub(super) fn image<'a>(job: &Job<'a>) -> Result<Seen<'a>, Stop> {
    let before = Files::of(job.path)?;
    if !before.settled() {
        return Err(Stop::Again("it is being written to".to_owned()));
    }
    let dir = PrivateDir::new(job, before.bytes())?;
    for (suffix, _) in before.present() {
        dir.take(&sidecar(job.path, suffix), suffix)?;
    }
    if !before.same(&Files::of(job.path)?) {
        return Err(Stop::Again("it changes while it is copied".to_owned()));
    }
    let recovered = connect::private(&dir.database()).and_then(|conn| {
        connect::pin(&conn)?;
        job.snapshot(&conn)
    });
    match recovered {
        // There is no second place to recover the copy in.
        Err(Stop::Recover(why)) => Err(Stop::Raw(why)),
        Err(other) => Err(other),
        Ok((shape, spooled, facts)) => Ok(Seen { stat: before.database, wal: before.wal, shape, spooled, facts }),
    }
}

/// The files that make up a database, as they were at one moment.
struct Files {
    database: Metadata,
    wal: Option<Metadata>,
    journal: Option<Metadata>,
    shm: bool,
}

impl Files {
    fn of(path: &Path) -> Result<Self, Stop> {
        let database = match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Stop::Vanished),
            other => other.at("read", path)?,
        };
        let wal = std::fs::metadata(sidecar(path, b"-wal")).ok();
        let journal = std::fs::metadata(sidecar(path, b"-journal")).ok();
        Ok(Files { database, wal, journal, shm: sidecar(path, b"-shm").exists() })
    }

    /// What there is, by suffix.
    fn present(&self) -> impl Iterator<Item = (&'static [u8], &Metadata)> {
        let all: [(&'static [u8], Option<&Metadata>); 3] =
            [(b"", Some(&self.database)), (b"-wal", self.wal.as_ref()), (b"-journal", self.journal.as_ref())];
        all.into_iter().filter_map(|(suffix, stat)| Some((suffix, stat?)))
    }

    fn bytes(&self) -> u64 {
        self.present().map(|(_, stat)| stat.len()).sum()
    }

    fn settled(&self) -> bool {
        self.present().all(|(_, stat)| settled(stat))
    }

    fn same(&self, other: &Files) -> bool {
        // Somebody who opens the database first of all creates or removes its -shm.
        self.shm == other.shm
            && self.present().count() == other.present().count()
            && self.present().zip(other.present()).all(|((a, x), (b, y))| a == b && same(x, y))
    }
}

/// A directory that only this user can enter, for a readable copy of a database; gone when dropped.
pub(super) struct PrivateDir {
    dir: TempDir,
    wipe: bool,
}

impl PrivateDir {
    /// A directory for about `bytes` of database: in staging, for a secret database in memory.
    ///
    /// A secret database too large for that, or on a system without such a file system, goes to staging after
    /// all, and is overwritten before it is removed. That is weaker than never having been there: a file system
    /// may keep old blocks.
    pub(super) fn new(job: &Job<'_>, bytes: u64) -> Result<Self, Stop> {
        let make = |place: &Path| {
            let owner_only = Permissions::from_mode(0o700);
            tempfile::Builder::new().prefix("lifeboat-database-").permissions(owner_only).tempdir_in(place)
        };
        let memory = Path::new(MEMORY);
        if job.privacy == Privacy::Secret
            && bytes <= IN_MEMORY_BYTES_MAX
            && has_room(memory, bytes)
            && let Ok(dir) = make(memory)
        {
            return Ok(PrivateDir { dir, wipe: false });
        }
        let dir = make(job.staging).at("create a directory in", job.staging)?;
        Ok(PrivateDir { dir, wipe: job.privacy == Privacy::Secret })
    }

    /// Where the copy of the database stands.
    pub(super) fn database(&self) -> PathBuf {
        self.dir.path().join("database")
    }

    /// Copies one file of the source.
    fn take(&self, from: &Path, suffix: &[u8]) -> Result<(), Stop> {
        let mut source = match File::open(from) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Stop::Again("it changes while it is copied".to_owned()));
            }
            other => other.at("read", from)?,
        };
        let to = sidecar(&self.database(), suffix);
        let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to).at("create", &to)?;
        io::copy(&mut source, &mut copy).at("copy", from)?;
        Ok(())
    }

    /// Appends the database in here to `spool`.
    pub(super) fn pour(&self, spool: &mut Spool<'_>) -> Result<u64, Stop> {
        let path = self.database();
        let file = File::open(&path).at("read", &path)?;
        let bytes = file.metadata().at("read", &path)?.len();
        spool.fill(&file, bytes, &path)?;
        Ok(bytes)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if !self.wipe {
            return;
        }
        let Ok(names) = std::fs::read_dir(self.dir.path()) else { return };
        for name in names.flatten() {
            // Best effort, as the documentation of `new` says.
            overwrite(&name.path()).ok();
        }
    }
}

fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let bytes = file.metadata()?.len();
    file.rewind()?;
    io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
    file.flush()?;
    file.sync_data()
}

/// Whether twice the size fits: recovery may write every page once more.
fn has_room(place: &Path, bytes: u64) -> bool {
    rustix::fs::statvfs(place).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) / 2 > bytes)
}
