//! Facts about an image, as good as they can be had: whatever SQLite cannot tell is left out.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, ErrorCode};

use super::{Checks, Shape};
use crate::model::database::Facts;

/// Lines of `quick_check` that are kept.
const CHECK_LINES_MAX: usize = 10;

/// Looks at the database that `conn` sees.
pub(super) fn gather(conn: &Connection, shape: Shape, checks: Checks) -> Facts {
    let listed = tables(conn);
    let unreadable = listed.as_ref().err().map(ToString::to_string);
    let tables = listed.unwrap_or_default();
    let largest = |table: &Table| Some((table.name.clone(), largest_rowid(conn, table)?));
    let count = |table: &Table| Some((table.name.clone(), count_rows(conn, &table.name)?));
    Facts {
        page_size: shape.page_size,
        pages: shape.pages,
        tables: tables.iter().filter_map(largest).collect(),
        rows: (checks == Checks::Full).then(|| tables.iter().filter_map(count).collect::<BTreeMap<_, _>>()),
        check: match (checks, unreadable) {
            (Checks::Quick, _) => None,
            (Checks::Full, Some(why)) => Some(why),
            (Checks::Full, None) => quick_check(conn, &tables),
        },
    }
}

/// Counts the rows of the database that `conn` sees, without looking for damage: for who did that already.
pub(super) fn rows(conn: &Connection) -> Facts {
    let tables = tables(conn).unwrap_or_default();
    let largest = |table: &Table| Some((table.name.clone(), largest_rowid(conn, table)?));
    let count = |table: &Table| Some((table.name.clone(), count_rows(conn, &table.name)?));
    Facts {
        page_size: 0,
        pages: 0,
        tables: tables.iter().filter_map(largest).collect(),
        rows: Some(tables.iter().filter_map(count).collect()),
        check: None,
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

/// The first lines of `quick_check` of every ordinary table with its indexes; `None` if it cannot run, for lack of a
/// collation perhaps.
///
/// Not of the whole database in one: SQLite then asks virtual tables to check themselves, and a full-text index costs
/// three times all the rest. Its own tables are checked here as what they are; what they say can be rebuilt from the
/// content, and is for a rehearsed restore to look at.
fn quick_check(conn: &Connection, tables: &[Table]) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    for table in tables {
        match quick_check_table(conn, &table.name) {
            Ok(said) => lines.extend(said.into_iter().filter(|line| line != "ok")),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                lines.push(error.to_string())
            }
            Err(_) => return None,
        }
        if lines.len() >= CHECK_LINES_MAX {
            break;
        }
    }
    lines.truncate(CHECK_LINES_MAX);
    Some(if lines.is_empty() { "ok".to_owned() } else { lines.join("\n") })
}

fn quick_check_table(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(&format!("PRAGMA main.quick_check({})", quoted(table)))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let said: Vec<String> = lines.collect::<rusqlite::Result<_>>()?;
    Ok(said.iter().flat_map(|said| said.lines()).map(str::to_owned).collect())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
