//! The look at a database before any connection: its header, its sidecars, and a lock that keeps them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags};

use super::{Shape, Stop, sidecar};
use crate::error::At;
use crate::model::database::is_database;

/// Bytes of the header of a database.
const HEADER_BYTES: usize = 100;

/// Clocks of file systems tick in milliseconds: a change shortly after a file was looked at may leave its times
/// as they were. A file whose last change is older than this shows the next one.
const CLOCK_TICK_MAX: Duration = Duration::from_millis(50);

/// How a database is to be read.
pub(super) enum Plan {
    /// Through SQLite.
    Transaction,
    /// As a file.
    PlainBytes,
    /// From a private copy, for this reason.
    Recovery(String),
}

/// Whether the lock of the probe was granted.
#[derive(PartialEq, Eq)]
enum Lock {
    Held,
    /// Somebody has the file to himself.
    Refused,
    /// The file system has no locks, or the database needs none.
    None,
}

/// A database file seen once.
pub(super) struct Probe {
    pub(super) stat: Metadata,
    pub(super) wal: Option<Metadata>,
    file: Option<File>,
    header: [u8; HEADER_BYTES],
    lock: Lock,
    shm: bool,
    journal: bool,
}

impl Probe {
    /// Opens `path`, reads its header and looks for its sidecars.
    pub(super) fn of(path: &Path) -> Result<Self, Stop> {
        // Without NONBLOCK a named pipe put in its place would stop us for good.
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).expect("open flags are small");
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Stop::Vanished),
            // Whether its bytes can be had is for the caller to find out, and no reason to give up the whole backup.
            other => other.map_err(|e| Stop::Raw(e.to_string()))?,
        };
        let lock = if is_wal(&header_of(&file, path)?) { lock_shared(&file) } else { Lock::None };
        // Once more under the lock: it may have left WAL mode in between.
        let stat = file.metadata().at("read", path)?;
        let header = header_of(&file, path)?;
        // After the lock: what stands there now, nobody removes.
        let wal = std::fs::metadata(sidecar(path, b"-wal")).ok();
        let shm = sidecar(path, b"-shm").exists();
        let journal = sidecar(path, b"-journal").exists();
        Ok(Probe { stat, wal, file: Some(file), header, lock, shm, journal })
    }

    /// Decides how to read it.
    pub(super) fn plan(&self) -> Result<Plan, Stop> {
        let busy = || Err(Stop::Again("another process has locked it".to_owned()));
        let plan = match (is_wal(&self.header), &self.wal, self.shm) {
            (true, None, _) if self.journal => Plan::Recovery("it has a journal although it is in WAL mode".to_owned()),
            (true, None, _) if self.lock == Lock::Refused => return busy(),
            (true, None, _) => Plan::PlainBytes,
            (true, Some(_), true) if self.lock == Lock::Refused => return busy(),
            (true, Some(_), true) => Plan::Transaction,
            (true, Some(_), false) => Plan::Recovery("its -wal has no -shm".to_owned()),
            // SQLite would follow the -wal and create a -shm.
            (false, Some(_), _) => Plan::Recovery("it has a -wal although it is not in WAL mode".to_owned()),
            (false, None, _) => Plan::Transaction,
        };
        Ok(plan)
    }

    /// The descriptor that has to outlive a connection, if the lock on it matters; otherwise the file is read
    /// once, so that SQLite's own lock lasts only as long as reading from memory, and closed.
    pub(super) fn release_unless_wal(&mut self, path: &Path) -> Result<Option<File>, Stop> {
        let Some(mut file) = self.file.take() else { return Ok(None) };
        if is_wal(&self.header) {
            return Ok(Some(file));
        }
        let mut buffer = vec![0; 1 << 20];
        while file.read(&mut buffer).at("read", path)? > 0 {}
        Ok(None)
    }

    /// The same for a look that reads little: nothing is read ahead.
    pub(super) fn keep_if_wal(&mut self) -> Option<File> {
        self.file.take().filter(|_| is_wal(&self.header))
    }

    /// The open file.
    pub(super) fn file(&self) -> Result<&File, Stop> {
        self.file.as_ref().ok_or_else(|| Stop::Again("it was closed".to_owned()))
    }

    /// Whether `path` still names the file that was probed.
    pub(super) fn still_at(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (self.stat.dev(), self.stat.ino()))
    }

    /// Whether a file without sidecars is still that, and unchanged.
    pub(super) fn undisturbed(&self, path: &Path) -> bool {
        let settled = self.lock == Lock::Held || settled(&self.stat);
        settled
            && !sidecar(path, b"-wal").exists()
            && !sidecar(path, b"-journal").exists()
            && std::fs::symlink_metadata(path).is_ok_and(|now| same(&now, &self.stat))
    }

    /// What the header says about pages; for a file that no connection has open.
    pub(super) fn shape(&self) -> Result<Shape, Stop> {
        let at = |i: usize| u32::from_be_bytes([0, 1, 2, 3].map(|k| self.header[i + k]));
        let page_size = match u16::from_be_bytes([self.header[16], self.header[17]]) {
            1 => 65536,
            n if n >= 512 && n.is_power_of_two() => u32::from(n),
            _ => return Err(Stop::Raw("file is not a database".to_owned())),
        };
        let whole = self.stat.len() / u64::from(page_size);
        // The count in the header counts only if the version that wrote it also wrote the change counter.
        let stated = if at(24) == at(92) { u64::from(at(28)) } else { 0 };
        match stated {
            0 if whole == 0 => Err(Stop::Raw("it is truncated".to_owned())),
            0 => Ok(Shape { page_size, pages: whole }),
            n if n > whole => Err(Stop::Raw("it is truncated".to_owned())),
            n => Ok(Shape { page_size, pages: n }),
        }
    }
}

/// The header of a database.
fn header_of(file: &File, path: &Path) -> Result<[u8; HEADER_BYTES], Stop> {
    let stat = file.metadata().at("read", path)?;
    if !stat.is_file() {
        return Err(Stop::Vanished);
    }
    if stat.len() == 0 {
        return Err(Stop::Raw("it is empty".to_owned()));
    }
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Stop::Raw("it is shorter than the header of a database".to_owned()));
        }
        other => other.map_err(|e| Stop::Raw(e.to_string()))?,
    }
    if !is_database(&header) {
        return Err(Stop::Raw("it does not start like a database".to_owned()));
    }
    Ok(header)
}

/// Whether two looks at a file saw the same content, as far as a file system tells.
pub(super) fn same(a: &Metadata, b: &Metadata) -> bool {
    let key = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    key(a) == key(b)
}

/// Whether the last change is long enough ago for the next one to show.
pub(super) fn settled(stat: &Metadata) -> bool {
    let age = |time: SystemTime| SystemTime::now().duration_since(time);
    stat.modified().is_ok_and(|time| age(time).is_ok_and(|age| age > CLOCK_TICK_MAX))
}

fn is_wal(header: &[u8; HEADER_BYTES]) -> bool {
    header[18] == 2 || header[19] == 2
}

/// Takes the lock that every reader of the database has, on the whole file: in WAL mode the bytes beside the
/// shared ones are of no interest to anybody who only reads and writes.
fn lock_shared(file: &File) -> Lock {
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Lock::Held,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Lock::Refused,
        Err(_) => Lock::None,
    }
}
