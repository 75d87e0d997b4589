//! Facts of a SQLite database; see host::database.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
/// What was read from a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// x
    pub page_size: u32,
    /// x
    pub pages: u64,
    /// x
    pub tables: BTreeMap<String, i64>,
    /// x
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<BTreeMap<String, u64>>,
    /// x
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}
