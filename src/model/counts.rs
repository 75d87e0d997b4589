//! What an agent has: numbers of sessions, messages, memories, jobs and skills, as its preset counts them. They stand in
//! the state's manifest, so that a drill knows what it has to find again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::PathName;

/// What one agent's home has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentCounts {
    /// The archive path of the home.
    #[serde(flatten)]
    pub path: PathName,
    /// The preset that counted.
    pub preset: String,
    /// Numbers by what was counted.
    pub counts: BTreeMap<String, u64>,
}

/// How many items the list in a JSON text has. `at` is alternatives separated by `|`, each the name of a list in the
/// outermost object, or `.` for the text itself. Nothing where the text is no JSON or has no such list; an object counts
/// by its members.
pub fn json_items(text: &[u8], at: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let length = |value: &serde_json::Value| match value {
        serde_json::Value::Array(items) => Some(items.len() as u64),
        serde_json::Value::Object(members) => Some(members.len() as u64),
        _ => None,
    };
    at.split('|').find_map(|name| match name {
        "." => value.as_array().map(|items| items.len() as u64),
        name => value.get(name).and_then(length),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn items_of_lists_are_counted() {
        let count = |text: &str| json_items(text.as_bytes(), "jobs|.");
        assert_eq!(count(r#"{"jobs": [1, 2]}"#), Some(2));
        assert_eq!(count(r#"{"jobs": {"a": 1}}"#), Some(1));
        assert_eq!(count("[1, 2, 3]"), Some(3));
        assert_eq!((count(r#"{"other": [1]}"#), count("{"), count("7")), (None, None, None));
    }

    #[test]
    fn counts_stand_in_a_manifest_by_path() {
        let one = AgentCounts {
            path: PathName::new(b"home/.hermes"),
            preset: "hermes".to_owned(),
            counts: BTreeMap::from([("jobs".to_owned(), 3)]),
        };
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, r#"{"path":"home/.hermes","preset":"hermes","counts":{"jobs":3}}"#);
        assert_eq!(serde_json::from_str::<AgentCounts>(&text).unwrap(), one);
    }
}
