//! `secrets diff`: what became of values between two bundles.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Args, Bundles, id, shown_name};
use crate::commands::opened::header;
use crate::commands::{Events, Report, count_text};
use crate::error::Result;
use crate::host::world::World;
use crate::model::path::printable;

/// What became of values between two bundles.
#[derive(Debug, Default, Serialize)]
pub struct Differences {
    /// The bundles.
    pub from: String,
    /// The later one.
    pub to: String,
    /// Names that the first has not.
    pub added: Vec<NameInFile>,
    /// Names that the second has not.
    pub removed: Vec<NameInFile>,
    /// Names of which the values differ.
    pub rotated: Vec<NameInFile>,
    /// Names of which they do not.
    pub same: u64,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NameInFile {
    /// Its key in its file; empty if it has none.
    pub name: String,
    /// Its file, as an archive path.
    pub file: String,
}

impl Report for Differences {
    fn text(&self) -> String {
        let mut out = String::new();
        for (word, list) in [("added", &self.added), ("removed", &self.removed), ("rotated", &self.rotated)] {
            for one in list {
                out.push_str(&format!("{word:<8}  {:<32}  {}\n", shown_name(&one.name), one.file));
            }
        }
        out.push_str(&format!("{} the same in {} and {}\n", count_text(self.same, "name"), self.from, self.to));
        out
    }
}

/// Tells which names of the bundle `to` are new, gone, or have another value than in `from`.
///
/// # Errors
/// When one is not there, or cannot be opened.
pub fn diff(world: &World, args: &Args, from: &str, to: &str, _events: &mut Events<'_>) -> Result<Differences> {
    let mut bundles = Bundles::open(world, args)?;
    let identities = bundles.identities()?;
    let (from, to) = (bundles.choose(from)?, bundles.choose(to)?);
    let notes = header(&bundles.store, to, &identities)?.secrets.unwrap_or_default();
    let mut out = Differences { from: id(from), to: id(to), ..Differences::default() };
    // Fingerprints of the second bundle's key, of both.
    let mut before: BTreeMap<NameInFile, BTreeSet<String>> = BTreeMap::new();
    let mut after = before.clone();
    for value in bundles.values(from, identities)? {
        let key = NameInFile { name: value.name.clone(), file: printable(&value.path) };
        before.entry(key).or_default().extend(notes.fingerprint(&value.value));
    }
    for named in &notes.values {
        let key = NameInFile { name: named.name.clone(), file: printable(&named.path.bytes()) };
        after.entry(key).or_default().insert(named.fingerprint.clone());
    }
    out.removed = before.keys().filter(|key| !after.contains_key(*key)).cloned().collect();
    for (key, fingerprints) in after {
        match before.get(&key) {
            None => out.added.push(key),
            Some(known) if *known == fingerprints => out.same += 1,
            Some(_) => out.rotated.push(key),
        }
    }
    Ok(out)
}
