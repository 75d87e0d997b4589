//! What is known about a database copy, and how a database is told from other files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What SQLite keeps beside a database; none of them is an entry of its own.
pub const SIDECARS: [&[u8]; 3] = [b"-wal", b"-shm", b"-journal"];

/// The first bytes of every unencrypted SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Facts about one database copy, for comparing it with earlier and restored ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes per page.
    pub page_size: u32,
    /// Pages of the image, so that `page_size * pages` is its size.
    pub pages: u64,
    /// The largest rowid of each table, 0 for an empty one; virtual tables and tables without rowid are left out.
    pub tables: BTreeMap<String, i64>,
    /// The exact number of rows of each ordinary table, if they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<BTreeMap<String, u64>>,
    /// `ok`, or the first lines of what `quick_check` found; absent if it was not asked or could not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// Whether a file that starts with `first_bytes` is a SQLite database, whatever it is called.
pub fn is_database(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(MAGIC)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn databases_are_known_by_their_first_bytes() {
        assert!(is_database(b"SQLite format 3\0\x10\0"));
        assert!(!is_database(b"SQLite format 3"));
        assert!(!is_database(b""));
    }

    #[test]
    fn facts_survive_json_and_ignore_unknown_members() {
        let facts = Facts {
            page_size: 65536,
            pages: 3,
            tables: BTreeMap::from([("messages".to_owned(), 17)]),
            rows: None,
            check: Some("ok".to_owned()),
        };
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(text, r#"{"page_size":65536,"pages":3,"tables":{"messages":17},"check":"ok"}"#);
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
        assert!(serde_json::from_str::<Facts>(r#"{"page_size":1,"pages":1,"tables":{},"more":1}"#).is_ok());
    }
}
