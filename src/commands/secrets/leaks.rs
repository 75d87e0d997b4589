//! `secrets leaks`: where values of secrets were seen in the state, as the bundles tell it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Args, Bundles, Noted, id, shown_name, time};
use crate::commands::{Events, Report, count_text};
use crate::error::Result;
use crate::host::world::World;
use crate::model::path::printable;
use crate::model::secret_notes::Finding;

/// Where values of secrets were found in the state.
#[derive(Debug, Default, Serialize)]
pub struct Leaks {
    /// Each value in each file.
    pub leaks: Vec<LeakLine>,
    /// What made files secret that are not named like one.
    pub findings: Vec<FindingLine>,
}

/// A value in a file of the state.
#[derive(Debug, Serialize)]
pub struct LeakLine {
    /// The value's key in its own file; empty if it has none.
    pub name: String,
    /// The file of the state.
    pub file: String,
    /// How often, when it was last counted; of an incremental in what had changed.
    pub count: u64,
    /// The bundle that tells it last.
    pub bundle: String,
    /// When that was made, RFC 3339.
    pub time: String,
}

/// A place that looks like a secret, in a file that the newest bundle holds for that reason.
#[derive(Debug, Serialize)]
pub struct FindingLine {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The rule.
    pub rule: String,
}

impl Report for Leaks {
    fn text(&self) -> String {
        let mut out = String::new();
        for LeakLine { name, file, count, time, .. } in &self.leaks {
            let times = count_text(*count, "time");
            out.push_str(&format!("{:<32}  {times:>9}  {file}  (seen {time})\n", shown_name(name)));
        }
        for FindingLine { file, line, rule } in &self.findings {
            out.push_str(&format!("secret by its content: {file}, line {line}: {rule}\n"));
        }
        if self.leaks.is_empty() {
            out.push_str("no value of a secret was seen in the state\n");
        }
        out.push_str(
            "A value that is compressed, split between database pages or cut up for a full-text index is not seen.\n",
        );
        out
    }
}

/// Lists where values of secrets were found, as the bundles tell it.
///
/// # Errors
/// When there is no bundle, or no identity that opens it.
pub fn leaks(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Leaks> {
    let mut bundles = Bundles::open(world, args)?;
    let identities = bundles.identities()?;
    let newest = id(bundles.choose("latest")?);
    let mut last: BTreeMap<(String, Vec<u8>), LeakLine> = BTreeMap::new();
    let mut out = Leaks::default();
    for Noted { found, notes } in bundles.noted(&identities, events) {
        for leak in notes.leaks {
            let path = leak.path.bytes();
            let (bundle, time) = (id(found), time(found));
            let line = LeakLine { name: leak.name.clone(), file: printable(&path), count: leak.count, bundle, time };
            last.insert((leak.name, path), line);
        }
        if id(found) == newest {
            let line = |f: Finding| FindingLine { file: printable(&f.path.bytes()), line: f.line, rule: f.rule };
            out.findings = notes.findings.into_iter().map(line).collect();
        }
    }
    out.leaks = last.into_values().collect();
    Ok(out)
}
