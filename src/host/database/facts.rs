//! Facts about an image, as good as they can be had: whatever SQLite cannot tell is left out.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, ErrorCode};

use super::{Checks, Shape};
use crate::model::database::Facts;

/// Lines of `quick_check` that are kept.
const CHECK_LINES_MAX: usize = 10;

/// Looks at the database that `conn` sees.
pub(super) fn gather(conn: &Connection, shape: Shape, checks: Checks) -> Facts {
    let tables = tables(conn).unwrap_or_default();
    let largest = |table: &Table| Some((table.name.clone(), largest_rowid(conn, table)?));
    let count = |table: &Table| Some((table.name.clone(), count_rows(conn, &table.name)?));
    Facts {
        page_size: shape.page_size,
        pages: shape.pages,
        tables: tables.iter().filter_map(largest).collect(),
        rows: (checks == Checks::Full).then(|| tables.iter().filter_map(count).collect::<BTreeMap<_, _>>()),
        check: if checks == Checks::Full { quick_check(conn) } else { None },
    }
}

/// An ordinary table.
struct Table {
    name: String,
    has_rowid: bool,
}

/// The ordinary tables and those that store virtual ones. Through the pragma and not its table-valued form,
/// which a table of the same name would hide.
fn tables(conn: &Connection) -> rusqlite::Result<Vec<Table>> {
    let mut statement = conn.prepare("PRAGMA main.table_list")?;
    let mut rows = statement.query([])?;
    let mut tables = Vec::new();
    while let Some(row) = rows.next()? {
        // A name that is not UTF-8 cannot be a key of a report.
        let Ok(name) = row.get::<_, String>("name") else { continue };
        let kind: String = row.get("type")?;
        if !name.starts_with("sqlite_") && matches!(kind.as_str(), "table" | "shadow") {
            tables.push(Table { name, has_rowid: row.get::<_, i64>("wr")? == 0 });
        }
    }
    Ok(tables)
}

/// The largest rowid, 0 for an empty table; `None` if there is none or it cannot be reached.
fn largest_rowid(conn: &Connection, table: &Table) -> Option<i64> {
    if !table.has_rowid {
        return None;
    }
    let rowid = rowid_name(conn, &table.name)?;
    // NOT INDEXED: an index may need a collation that this SQLite does not have.
    let query = format!("SELECT max({rowid}) FROM main.{} NOT INDEXED", quoted(&table.name));
    conn.query_row(&query, [], |row| row.get::<_, Option<i64>>(0)).ok().map(Option::unwrap_or_default)
}

/// A name by which the rowid can be had: a column of the same name hides it.
fn rowid_name(conn: &Connection, table: &str) -> Option<&'static str> {
    let mut statement = conn.prepare(&format!("PRAGMA main.table_xinfo({})", quoted(table))).ok()?;
    let columns = statement.query_map([], |row| row.get::<_, String>("name")).ok()?;
    let columns: BTreeSet<String> = columns.flatten().map(|name| name.to_ascii_lowercase()).collect();
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !columns.contains(*name))
}

fn count_rows(conn: &Connection, table: &str) -> Option<u64> {
    let count = |hint: &str| {
        let query = format!("SELECT count(*) FROM main.{} {hint}", quoted(table));
        conn.query_row(&query, [], |row| row.get::<_, i64>(0))
    };
    // The smallest index is quicker than the table, if it can be used.
    let rows = count("").or_else(|_| count("NOT INDEXED")).ok()?;
    u64::try_from(rows).ok()
}

/// The first lines of `quick_check`; `None` if it cannot run, for lack of a collation perhaps.
fn quick_check(conn: &Connection) -> Option<String> {
    let run = || -> rusqlite::Result<Vec<String>> {
        let mut statement = conn.prepare(&format!("PRAGMA main.quick_check({CHECK_LINES_MAX})"))?;
        let lines = statement.query_map([], |row| row.get(0))?;
        lines.collect()
    };
    match run() {
        Ok(lines) => Some(lines.iter().flat_map(|l| l.lines()).take(CHECK_LINES_MAX).collect::<Vec<_>>().join("\n")),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => Some(error.to_string()),
        Err(_) => None,
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
