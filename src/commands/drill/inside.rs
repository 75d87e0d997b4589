//! The part of a drill that runs in a sandbox: everything that reads what was restored.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checks::{Home, Tally};
use crate::commands::Report;
use crate::error::{Error, Result};
use crate::host::sandbox;
use crate::host::world::World;
use crate::model::counts::AgentCounts;
use crate::model::database::Facts;
use crate::model::layout::Layout;
use crate::model::manifest::{Database, PathName, Source};
use crate::model::path::printable;

/// The command that runs there.
const COMMAND: &str = "look-inside";
/// The most that is asked, in bytes.
const ASKED_BYTES_MAX: u64 = 1 << 30;

/// What has to be known of a snapshot to look at what was restored of it.
#[derive(Serialize, Deserialize)]
struct Asked {
    source_home: String,
    secrets: Vec<PathName>,
    sources: Vec<Source>,
    databases: Vec<Database>,
    agents: Vec<AgentCounts>,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seen {
    counts: BTreeMap<String, (u64, u64)>,
    findings: Vec<String>,
    notes: Vec<String>,
}

impl Report for Seen {
    fn text(&self) -> String {
        String::new()
    }
}

/// Has everything below `target` looked at by a process that sees nothing else.
///
/// # Errors
/// When there can be no sandbox, or what runs in it fails.
pub(super) fn ask(
    world: &World,
    target: &Path,
    home: Home,
    databases: BTreeMap<Vec<u8>, Facts>,
    agents: &[AgentCounts],
) -> Result<Tally> {
    let Home { source_home, secrets, sources, .. } = home;
    let databases = databases.into_iter().map(|(path, facts)| Database { path: PathName::new(&path), facts });
    let asked = Asked {
        source_home,
        secrets: secrets.iter().map(|path| PathName::new(path)).collect(),
        sources,
        databases: databases.collect(),
        agents: agents.to_vec(),
    };
    let asked = serde_json::to_vec(&asked).map_err(|e| Error::failed("cannot ask the sandbox").because(e))?;
    let arguments = [OsStr::new(COMMAND), target.as_os_str(), OsStr::new("--json")];
    let answer = sandbox::run(world, &arguments, &asked)?;
    let seen: Seen = serde_json::from_slice(&answer)
        .map_err(|e| Error::failed("what the sandbox answered cannot be read").because(e))?;
    let mut tally = Tally::default();
    for (kind, count) in seen.counts {
        tally.counts.insert(kind.into(), count);
    }
    // Whatever broke out of a parser in there could write here: nothing but text goes on.
    let clean = |lines: Vec<String>| lines.into_iter().map(|line| line.replace(char::is_control, "?")).collect();
    (tally.findings, tally.notes) = (clean(seen.findings), clean(seen.notes));
    Ok(tally)
}

/// Looks at what is below `dir`, as `asked` on stdin; `dir` is all that this process sees then.
///
/// # Errors
/// When that is no question, or the process may not change its root.
pub fn run(dir: &Path, asked: impl Read) -> Result<Seen> {
    let mut text = Vec::new();
    asked.take(ASKED_BYTES_MAX).read_to_end(&mut text).map_err(|e| Error::failed("cannot read stdin").because(e))?;
    let asked: Asked = serde_json::from_slice(&text).map_err(|e| {
        let shown = printable(e.to_string().as_bytes());
        Error::usage(format!("this command is for `lifeboat drill --sandbox` alone: {shown}"))
    })?;
    sandbox::enter(dir)?;
    let home = Home {
        layout: Layout::target(b"/"),
        source_home: asked.source_home,
        secrets: asked.secrets.iter().map(PathName::bytes).collect::<HashSet<_>>(),
        sources: asked.sources,
    };
    let databases = asked.databases.into_iter().map(|d| (d.path.bytes(), d.facts)).collect();
    let Tally { counts, findings, notes } = super::check(&home, &databases, &asked.agents);
    let counts = counts.into_iter().map(|(kind, count)| (kind.into_owned(), count)).collect();
    Ok(Seen { counts, findings, notes })
}
