//! Looks closely at a database that a drill restored: a file of our own that nobody else has open.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::{connect, facts};
use crate::model::database::Facts;

/// Lines of a complaint that are kept.
const LINES_MAX: usize = 5;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsed {
    /// What `integrity_check` complains about; nothing if all is well.
    pub complaints: Vec<String>,
    /// Why `integrity_check` could not look at everything, for lack of an extension perhaps.
    pub unchecked: Option<String>,
    /// Rows that refer to rows that are not there. A database allows that unless it is told not to.
    pub dangling: u64,
    /// Rows and largest rowids, to be compared with those that were recorded.
    pub facts: Facts,
}

/// A restored database, open for looking at.
pub struct Rehearsal(Connection);

impl Rehearsal {
    /// Opens a database that nobody changes.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(path: &Path) -> Result<Rehearsal, String> {
        connect::unchanging(path).map(Rehearsal).map_err(|_| "SQLite cannot open it".to_owned())
    }

    /// Runs the checks.
    pub fn check(&self) -> Rehearsed {
        let (complaints, unchecked) = match lines(&self.0, "PRAGMA main.integrity_check") {
            Ok(said) => (said.into_iter().filter(|line| line != "ok").take(LINES_MAX).collect(), None),
            Err(e) if matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => {
                (vec![e.to_string()], None)
            }
            Err(e) => (Vec::new(), Some(e.to_string())),
        };
        let dangling = count(&self.0, "PRAGMA main.foreign_key_check").unwrap_or(0);
        Rehearsed { complaints, unchecked, dangling, facts: facts::rows(&self.0) }
    }

    /// The first value of a query, as a number.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn number(&self, sql: &str) -> Result<i64, String> {
        self.0.query_row(sql, [], |row| row.get(0)).map_err(|e| e.to_string())
    }

    /// The first column of every row that has text in it.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn texts(&self, sql: &str) -> Result<Vec<String>, String> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.0.prepare(sql)?;
            let rows = statement.query_map([], |row| row.get::<_, Option<String>>(0))?;
            rows.filter_map(Result::transpose).collect()
        };
        read().map_err(|e| e.to_string())
    }
}

fn lines(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(sql)?;
    let said: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(said.iter().flat_map(|said| said.lines()).map(str::to_owned).collect())
}

fn count(conn: &Connection, sql: &str) -> rusqlite::Result<u64> {
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut n = 0;
    while rows.next()?.is_some() {
        n += 1;
    }
    Ok(n)
}
