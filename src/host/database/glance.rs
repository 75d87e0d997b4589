//! A short look at a live database: its largest rowids, and single numbers. Not its content.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use super::probe::{Plan, Probe};
use super::{Checks, SOURCES, Shape, connect, facts};

/// How long a writer is waited for: whoever looks once has a next time.
const WAIT: Duration = Duration::from_millis(200);

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// The largest rowid of each table, 0 for an empty one.
    pub tables: BTreeMap<String, i64>,
    /// What each query gave; nothing where it cannot be run.
    pub numbers: Vec<Option<u64>>,
}

/// Looks at the database at `path`, which other processes may be using. Nothing where it cannot be read beside them as it
/// is: what needs a recovery is for [`read`](super::read).
pub fn glance(path: &Path, queries: &[&str]) -> Option<Glance> {
    let path = std::path::absolute(path).ok()?;
    let _one_at_a_time = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut probe = Probe::of(&path).ok()?;
    // The lock is dropped after the connection: closing it before would drop the locks of the connection.
    let (_lock, conn) = match probe.plan().ok()? {
        Plan::Transaction => {
            let lock = probe.keep_if_wal();
            (lock, connect::foreign(&path, connect::Index::ReadOnly).ok()?)
        }
        Plan::PlainBytes => (None, connect::unchanging(&path).ok()?),
        Plan::Recovery(_) => return None,
    };
    conn.busy_timeout(WAIT).ok()?;
    connect::pin(&conn).ok()?;
    let number = |sql: &&str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).ok();
    let numbers = queries.iter().map(|sql| number(sql).and_then(|n| u64::try_from(n).ok())).collect();
    let tables = facts::gather(&conn, Shape { page_size: 0, pages: 0 }, Checks::Quick).tables;
    Some(Glance { tables, numbers })
}
