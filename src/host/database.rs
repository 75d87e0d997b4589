//! Consistent images of SQLite databases that other processes are writing to.
//!
//! A foreign database is only ever read, and nothing is left beside it. How it is read depends on what stands
//! beside it:
//!
//! | header says | beside it | read through |
//! | --- | --- | --- |
//! | WAL | `-wal` and `-shm` | a read transaction, `mode=ro` |
//! | WAL | neither `-wal` nor `-journal` | its plain bytes, under a shared lock |
//! | rollback | no hot journal | a read transaction, `mode=ro`, under SQLite's shared lock |
//! | either | a hot journal, or a `-wal` without a usable `-shm` | a private copy, recovered there |
//!
//! POSIX locks belong to the process and the inode: closing any descriptor of a file drops all locks this
//! process has on it. Therefore one database is read at a time, and nothing else in this process may open a
//! database or its sidecars while [`read`] runs on it.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::{At, Error, Result};
use crate::model::database::Facts;

mod connect;
mod facts;
mod glance;
mod holder;
mod probe;
mod recover;
pub mod rehearse;
mod spool;
#[cfg(test)]
mod tests;

pub use glance::{Glance, glance};
pub use holder::{Holder, holder, in_use};

use connect::Index;
use probe::{Plan, Probe};
use spool::{Body, Spool, Spooled};

/// How long a database may stay locked or keep changing before its bytes are taken as they are.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// One source database at a time; see the note on POSIX locks above.
static SOURCES: Mutex<()> = Mutex::new(());

/// Whether the content may stand readable on a disk for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// It may, in the private staging directory.
    Open,
    /// It may not: what is spooled is sealed to an identity that only this process's memory holds.
    Secret,
}

/// How closely a database copy is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// `quick_check` and exact row counts, too.
    Full,
    /// Page count and largest rowids only, which cost one seek per table.
    Quick,
}

/// What came of reading a database.
#[derive(Debug)]
pub enum Image {
    /// A consistent image.
    Copy(Box<DatabaseCopy>),
    /// SQLite cannot read it: to be stored as plain bytes with its sidecars, and to be reported.
    Raw {
        /// The reason, for the report.
        why: String,
    },
    /// The file is gone.
    Vanished,
}

/// A consistent image of a database: [`Read`](io::Read) yields exactly [`size`](Self::size) bytes.
#[derive(Debug)]
pub struct DatabaseCopy {
    /// Bytes of the image: page size times page count.
    pub size: u64,
    /// The database file as it was **before** it was read, so that a later change shows.
    pub stat: Metadata,
    /// Its `-wal` at the same moment, if there was one.
    pub wal: Option<Metadata>,
    /// What was learned about the content.
    pub facts: Facts,
    body: Body,
    left: u64,
}

impl DatabaseCopy {
    /// Starts over, for a caller that has to read twice.
    ///
    /// # Errors
    /// If the spooled file cannot be positioned.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.body.rewind()?;
        self.left = self.size;
        Ok(())
    }
}

impl io::Read for DatabaseCopy {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let got = self.body.read(&mut buf[..want])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the spooled database copy ends early"));
        }
        self.left -= u64::try_from(got).map_err(io::Error::other)?;
        Ok(got)
    }
}

/// Takes an image page by page while the source is pinned; it may not take its time.
pub trait Sink {
    /// What came so far is void: the image comes once more from its start.
    ///
    /// # Errors
    /// Those of whatever keeps it.
    fn restart(&self) -> Result<()>;
    /// The next bytes of the image.
    ///
    /// # Errors
    /// Those of whatever keeps them.
    fn write(&self, bytes: &[u8]) -> Result<()>;
}

/// What came of streaming a database.
#[derive(Debug)]
pub enum Streamed {
    /// A consistent image went to the sink.
    Done {
        /// Its bytes.
        size: u64,
        /// What was learned about the content.
        facts: Box<Facts>,
    },
    /// SQLite cannot read it.
    Raw {
        /// The reason, for the report.
        why: String,
    },
    /// The file is gone.
    Vanished,
}

/// Shows `sink` a consistent image of the database at `path` without keeping one. Only what costs a seek per table is
/// learned about the content.
///
/// # Errors
/// As [`read`], and those of `sink`.
pub fn stream(path: &Path, staging: &Path, sink: &dyn Sink) -> Result<Streamed> {
    let path = std::path::absolute(path).at("read", path)?;
    let job = Job { path: &path, staging, privacy: Privacy::Open, checks: Checks::Quick, sink: Some(sink) };
    let _one_at_a_time = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    match job.persist() {
        Ok(Seen { facts: Some(facts), shape, .. }) => {
            Ok(Streamed::Done { size: shape.bytes(), facts: Box::new(facts) })
        }
        Ok(Seen { facts: None, .. }) => Err(Error::failed("a streamed database has no facts")),
        Err(Stop::Vanished) => Ok(Streamed::Vanished),
        Err(Stop::Raw(why) | Stop::Again(why) | Stop::Recover(why)) => Ok(Streamed::Raw { why }),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Reads a consistent image of the database at `path`, which other processes may be using.
///
/// `staging` is an existing directory on a disk that only this user can enter; whatever is put there is gone
/// when the [`DatabaseCopy`] is dropped, usually much earlier.
///
/// # Errors
/// If `path` may not be read or `staging` cannot be written. A database that SQLite does not understand is no
/// error but [`Image::Raw`].
pub fn read(path: &Path, staging: &Path, privacy: Privacy, checks: Checks) -> Result<Image> {
    let path = std::path::absolute(path).at("read", path)?;
    let job = Job { path: &path, staging, privacy, checks, sink: None };
    let seen = {
        let _one_at_a_time = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
        job.persist()
    };
    match seen.and_then(|seen| job.finish(seen)) {
        Ok(copy) => Ok(Image::Copy(Box::new(copy))),
        Err(Stop::Vanished) => Ok(Image::Vanished),
        Err(Stop::Raw(why) | Stop::Again(why) | Stop::Recover(why)) => Ok(Image::Raw { why }),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// The name of a sidecar of the database at `path`, such as `state.db-wal` for the suffix `-wal`.
pub fn sidecar(path: &Path, suffix: &[u8]) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.extend_from_slice(suffix);
    PathBuf::from(OsString::from_vec(name))
}

/// Of the names of one hard-linked database, the one its writers use: a `-wal` or `-journal` belongs to a name,
/// not to an inode, and read by another name the database would lack what stands only there.
///
/// # Panics
/// If `names` is empty.
pub fn best_name(names: &[PathBuf]) -> &PathBuf {
    let used = |name: &&PathBuf| {
        let wal = std::fs::metadata(sidecar(name, b"-wal")).is_ok_and(|m| m.len() > 0);
        wal || sidecar(name, b"-journal").exists()
    };
    names.iter().find(used).unwrap_or(&names[0])
}

/// Why an attempt ended without an image.
#[derive(Debug)]
enum Stop {
    /// SQLite will not read it, however often it is tried.
    Raw(String),
    /// It is not there any more.
    Vanished,
    /// Somebody was in the way; worth another attempt.
    Again(String),
    /// It needs a recovery, which has to happen elsewhere.
    Recover(String),
    /// Our own side failed, such as a full disk.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// Size of the pages and their number.
#[derive(Clone, Copy, Debug)]
struct Shape {
    page_size: u32,
    pages: u64,
}

impl Shape {
    fn bytes(self) -> u64 {
        u64::from(self.page_size) * self.pages
    }
}

/// A database that has been read and let go of.
struct Seen<'a> {
    stat: Metadata,
    wal: Option<Metadata>,
    shape: Shape,
    spooled: Spooled<'a>,
    /// Taken during the read transaction; `None` when they are to come from the spooled copy.
    facts: Option<Facts>,
}

/// The arguments of [`read`].
struct Job<'a> {
    path: &'a Path,
    staging: &'a Path,
    privacy: Privacy,
    checks: Checks,
    /// Where the image goes instead of to staging.
    sink: Option<&'a dyn Sink>,
}

impl<'a> Job<'a> {
    /// Attempts until it works, is hopeless, or has taken too long.
    fn persist(&self) -> Result<Seen<'a>, Stop> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut pause = Duration::from_millis(5);
        loop {
            match self.attempt() {
                Err(Stop::Again(_)) if Instant::now() + pause < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                end => return end,
            }
        }
    }

    fn attempt(&self) -> Result<Seen<'a>, Stop> {
        match self.attempt_beside_writers(Index::ReadOnly) {
            Err(Stop::Recover(_)) => {}
            end => return end,
        }
        match self.attempt_beside_writers(Index::Shared) {
            // Every connection and descriptor of the source is closed by now, so that it may be opened again.
            Err(Stop::Recover(_)) => recover::image(self),
            end => end,
        }
    }

    fn attempt_beside_writers(&self, index: Index) -> Result<Seen<'a>, Stop> {
        let probe = Probe::of(self.path)?;
        let (stat, wal) = (probe.stat.clone(), probe.wal.clone());
        let (shape, spooled, facts) = match probe.plan()? {
            Plan::Transaction => self.in_transaction(probe, index)?,
            Plan::PlainBytes => self.plain_bytes(probe)?,
            Plan::Recovery(why) => return Err(Stop::Recover(why)),
        };
        Ok(Seen { stat, wal, shape, spooled, facts })
    }

    /// Reads through SQLite, beside a live writer.
    fn in_transaction(&self, mut probe: Probe, index: Index) -> Result<Parts<'a>, Stop> {
        // In WAL mode the probe's lock stays until the connection is closed: as long as it is held, no last
        // writer can remove -wal and -shm, so that opening read-only finds both and creates neither.
        let guard = probe.release_unless_wal(self.path)?;
        let conn = connect::foreign(self.path, index)?;
        connect::pin(&conn)?;
        if !probe.still_at(self.path) {
            return Err(Stop::Again("it is being replaced".to_owned()));
        }
        let parts = self.snapshot(&conn);
        drop(conn);
        drop(guard);
        parts
    }

    /// Whether facts are taken while the source is read: there will be no copy that SQLite could look at.
    fn at_once(&self) -> bool {
        self.privacy == Privacy::Secret || self.sink.is_some()
    }

    /// Copies the pages `conn` sees in its open transaction.
    fn snapshot(&self, conn: &Connection) -> Result<Parts<'a>, Stop> {
        let mut spool = Spool::new(self)?;
        let shape = connect::pages(conn, self, &mut spool)?;
        let facts = self.at_once().then(|| facts::gather(conn, shape, self.checks));
        Ok((shape, spool.finish()?, facts))
    }

    /// Copies a WAL database that nobody has open, without a connection.
    fn plain_bytes(&self, probe: Probe) -> Result<Parts<'a>, Stop> {
        let shape = probe.shape()?;
        let mut spool = Spool::new(self)?;
        spool.fill(probe.file()?, shape.bytes(), self.path)?;
        let facts = if self.at_once() {
            let conn = connect::unchanging(self.path)?;
            connect::pin(&conn)?;
            Some(facts::gather(&conn, shape, self.checks))
        } else {
            None
        };
        // Under the lock a checkpoint cannot happen without leaving a -wal behind. Where locks do not work, the
        // times of the file are what is left to go by.
        if !probe.undisturbed(self.path) {
            return Err(Stop::Again("it changes while it is read".to_owned()));
        }
        Ok((shape, spool.finish()?, facts))
    }

    /// Looks at the spooled copy and hands it out; nothing of the source is in use any more.
    fn finish(&self, seen: Seen<'_>) -> Result<DatabaseCopy, Stop> {
        let Seen { stat, wal, shape, spooled, facts } = seen;
        let facts = match (facts, spooled.path()) {
            (Some(facts), _) => facts,
            (None, Some(copy)) => {
                let conn = connect::unchanging(copy)?;
                connect::pin(&conn)?;
                facts::gather(&conn, shape, self.checks)
            }
            (None, None) => return Err(Error::failed("a sealed database copy has no facts").into()),
        };
        let size = shape.bytes();
        Ok(DatabaseCopy { size, stat, wal, facts, body: spooled.into_body()?, left: size })
    }
}

/// What an attempt brings home: the shape, the spooled image, and the facts if they had to be taken at once.
type Parts<'a> = (Shape, Spooled<'a>, Option<Facts>);
