//! What a secrets bundle's manifest tells of the secrets, for whoever can open it: section 5 of `FORMAT.md`.

use serde::{Deserialize, Serialize};

use super::manifest::{PathName, hex, unhex};

/// The optional member `secrets` of a bundle's header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretNotes {
    /// What made files secret that are not named like one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// 64 hex digits, chosen at random for this bundle: what fingerprints are keyed with, so that equal values of two
    /// bundles do not show.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The values, each with the file that holds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Named>,
    /// Where such values were found in the state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaks: Vec<Leak>,
}

/// A place in a file that looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file.
    #[serde(flatten)]
    pub path: PathName,
    /// The line, from 1.
    pub line: u64,
    /// The rule that found it.
    pub rule: String,
}

/// A value of a secret file, which is not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The file.
    #[serde(flatten)]
    pub path: PathName,
    /// Its key in the file, as `OPENAI_API_KEY`; empty if there was none.
    pub name: String,
    /// BLAKE3 of the value, keyed with the bundle's key.
    pub fingerprint: String,
    /// Whether it is too short or too common to be searched for elsewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsearched: bool,
}

/// A value of a secret file in a file of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// The file of the state.
    #[serde(flatten)]
    pub path: PathName,
    /// The value's key.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// How often.
    pub count: u64,
    /// The state archive in which it was found, if it was as that was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

impl SecretNotes {
    /// The fingerprint of a value in this bundle; nothing if the bundle has no usable key.
    pub fn fingerprint(&self, value: &[u8]) -> Option<String> {
        let key = unhex(&self.key)?;
        Some(hex(blake3::keyed_hash(&key, value).as_bytes()))
    }
}
