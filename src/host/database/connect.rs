//! Connections: how a file is opened, pinned and read page by page, and what SQLite's errors mean here.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::recover::PrivateDir;
use super::spool::Spool;
use super::{Job, Shape, Stop};
use crate::error::At;

/// How long one statement waits for a lock; attempts are repeated around it.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// How the `-shm` of a database in WAL mode is used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Index {
    /// Never written. If no other process has the database open, SQLite reads the `-wal` by an index of its own
    /// in memory and leaves the `-shm` alone, where it would otherwise rebuild it.
    ReadOnly,
    /// As every reader does: one of its marks is set. Needed when all of them are unused.
    Shared,
}

/// Opens another program's database, to be read beside its writers.
pub(super) fn foreign(path: &Path, index: Index) -> Result<Connection, Stop> {
    let query = match index {
        Index::ReadOnly => "mode=ro&readonly_shm=1",
        Index::Shared => "mode=ro",
    };
    open(path, query, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Opens a file that nobody changes, without locks and without looking for a journal.
pub(super) fn unchanging(path: &Path) -> Result<Connection, Stop> {
    open(path, "mode=ro&immutable=1", OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Opens a private copy read-write, which recovers it.
pub(super) fn private(path: &Path) -> Result<Connection, Stop> {
    let conn = open(path, "mode=rw", OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.execute_batch("PRAGMA synchronous=OFF").map_err(stop)?;
    Ok(conn)
}

fn open(path: &Path, query: &str, access: OpenFlags) -> Result<Connection, Stop> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(uri(path, query), flags).map_err(stop)?;
    conn.busy_timeout(BUSY_WAIT).map_err(stop)?;
    // The schema is somebody else's: nothing in it may run functions with side effects, and no close of ours
    // may checkpoint.
    for (option, on) in [
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    ] {
        conn.set_db_config(option, on).map_err(stop)?;
    }
    // Sorting must not spill into a temporary file that nobody sealed.
    conn.execute_batch("PRAGMA query_only=1; PRAGMA temp_store=MEMORY").map_err(stop)?;
    Ok(conn)
}

/// A `file:` URI; every byte that could mean something in one is escaped, so that it is plain ASCII.
fn uri(path: &Path, query: &str) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut out = String::from("file://");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => out.push(char::from(*byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a String does not fail"),
        }
    }
    out.push('?');
    out.push_str(query);
    out
}

/// Begins a transaction and fixes what it sees.
pub(super) fn pin(conn: &Connection) -> Result<(), Stop> {
    conn.execute_batch("BEGIN").map_err(stop)?;
    // Unlike a SELECT this reads page 1 without parsing the schema.
    conn.query_row("PRAGMA schema_version", [], |_| Ok(())).map_err(stop)?;
    match conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) {
        Err(error) if !schema_not_understood(&error) => Err(stop(error)),
        // Written by a newer SQLite or one with extensions: the pages are as good as any.
        _ => Ok(()),
    }
}

/// Writes every page that the open transaction sees to `spool`.
pub(super) fn pages(conn: &Connection, job: &Job<'_>, spool: &mut Spool<'_>) -> Result<Shape, Stop> {
    let page_size: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(stop)?;
    let shape = match conn.prepare("SELECT data FROM sqlite_dbpage('main') ORDER BY pgno") {
        Ok(mut statement) => {
            let mut rows = statement.query([]).map_err(stop)?;
            let mut pages = 0;
            while let Some(row) = rows.next().map_err(stop)? {
                let page = row.get_ref(0).map_err(stop)?.as_blob().map_err(|e| Stop::Raw(e.to_string()))?;
                if u32::try_from(page.len()) != Ok(page_size) {
                    return Err(Stop::Raw("its pages differ in size".to_owned()));
                }
                spool.write(page)?;
                pages += 1;
            }
            Shape { page_size, pages }
        }
        // SQLite was built without that table, or the schema is one this version does not parse.
        Err(_) => pages_by_backup(conn, page_size, job, spool)?,
    };
    if shape.pages == 0 {
        return Err(Stop::Raw("it has no pages".to_owned()));
    }
    Ok(shape)
}

/// [`pages`] through the backup API, in one step: a stepped backup starts over at every commit.
pub(super) fn pages_by_backup(
    conn: &Connection,
    page_size: u32,
    job: &Job<'_>,
    spool: &mut Spool<'_>,
) -> Result<Shape, Stop> {
    // By name only: opening the file would end with all locks on it given up.
    let dir = PrivateDir::new(job, std::fs::metadata(job.path).at("read", job.path)?.len())?;
    let path = dir.database();
    let mut copy = Connection::open(&path).map_err(stop)?;
    copy.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF").map_err(stop)?;
    let step = Backup::new(conn, &mut copy).and_then(|backup| backup.step(-1)).map_err(stop)?;
    if step != StepResult::Done {
        return Err(Stop::Again("it is locked".to_owned()));
    }
    copy.close().map_err(|(_, error)| stop(error))?;
    let bytes = dir.pour(spool)?;
    Ok(Shape { page_size, pages: bytes / u64::from(page_size) })
}

/// Whether the database is sound as far as this error tells, only its schema is not understood.
fn schema_not_understood(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(_, Some(text)) if text.starts_with("malformed database schema"))
}

/// What an error of SQLite on a source means for the attempt.
pub(super) fn stop(error: rusqlite::Error) -> Stop {
    let text = error.to_string();
    let rusqlite::Error::SqliteFailure(failure, _) = &error else {
        return Stop::Raw(text);
    };
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => Stop::Again(text),
        // A hot journal, or a -wal whose -shm is missing or may not be touched.
        ErrorCode::ReadOnly | ErrorCode::CannotOpen => Stop::Recover(text),
        _ => match failure.extended_code {
            ffi::SQLITE_IOERR_SHMOPEN
            | ffi::SQLITE_IOERR_SHMSIZE
            | ffi::SQLITE_IOERR_SHMLOCK
            | ffi::SQLITE_IOERR_SHMMAP => Stop::Recover(text),
            _ => Stop::Raw(text),
        },
    }
}
