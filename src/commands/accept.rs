//! `lifeboat accept`: a person says that what the guard found suspicious is as it should be.
//!
//! The catalog keeps the answer, and the next backup signs it: `# accept` in its commit.

use serde::Serialize;

use super::guard::Doubts;
use super::session::{Configured, configuration, open_catalog};
use super::{Events, Report};
use crate::error::{Error, Result};
use crate::host::world::{Lock, World};
use crate::model::path::printable;
use crate::model::store_key::SnapshotId;

/// What `accept` was asked to accept.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// An id or the beginning of one; the newest that is marked if nothing is said, or `latest`.
    pub snapshot: Option<String>,
}

/// What was accepted.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The series.
    pub series: String,
    /// The snapshot; none where the run that raised the alarm wrote none.
    pub accepted: Option<String>,
    /// Whether the alarm is answered: snapshots to come are not marked for its sake.
    pub answered: bool,
    /// Snapshots that are still marked.
    pub marked: Vec<String>,
    /// What had looked suspicious, as far as it is known.
    pub findings: Vec<String>,
}

impl Report for Done {
    fn text(&self) -> String {
        let mut out = match &self.accepted {
            Some(id) => format!("accepted {id}; the next backup says so on the store\n"),
            None => "the alarm of a run that wrote no snapshot is answered\n".to_owned(),
        };
        self.findings.iter().for_each(|line| out.push_str(&format!("as it should be: {line}\n")));
        if !self.answered {
            out.push_str("newer ones are marked, too: the alarm stays open until the newest is accepted\n");
        }
        if !self.marked.is_empty() {
            let n = super::count_text(self.marked.len() as u64, "snapshot");
            out.push_str(&format!("still marked: {n}, which `restore --good` passes over\n"));
        }
        out
    }
}

/// Accepts a marked snapshot.
///
/// # Errors
/// [`Kind::NotThere`](crate::Kind::NotThere) when it is not marked, or nothing is; when there is no configuration, another
/// run holds the lock, or the catalog cannot be used.
pub fn run(world: &World, args: &Args, _events: &mut Events<'_>) -> Result<Done> {
    let Some(Configured { config, .. }) = configuration(world)? else {
        return Err(
            Error::not_there("there is no configuration here").hint("run this on the machine that is backed up")
        );
    };
    let _lock = Lock::take(&world.state_dir(&config.name))?;
    let catalog = open_catalog(world, &config.name)?;
    let doubts = Doubts::of(&catalog, None)?;
    let wanted = args.snapshot.as_deref().filter(|text| *text != "latest");
    let series = config.name;
    if doubts.doubted.is_empty() && wanted.is_none() && doubts.open.is_some() {
        doubts.dismiss(&catalog)?;
        return Ok(Done { series, accepted: None, answered: true, marked: Vec::new(), findings: findings(&doubts) });
    }
    let id = meant(&doubts, wanted)?;
    let answered = doubts.accept(&catalog, &id)?;
    let marked = doubts.doubted.iter().filter(|other| **other != id).map(ToString::to_string).collect();
    let findings = if answered { findings(&doubts) } else { Vec::new() };
    Ok(Done { series, accepted: Some(id.to_string()), answered, marked, findings })
}

/// What is answered with the alarm that is open, also what a run found that failed afterwards.
fn findings(doubts: &Doubts) -> Vec<String> {
    doubts.open.as_ref().map(|alarm| alarm.findings.clone()).unwrap_or_default()
}

fn meant(doubts: &Doubts, wanted: Option<&str>) -> Result<SnapshotId> {
    let hint = "`lifeboat list` shows which snapshots are marked";
    let Some(text) = wanted else {
        let newest = doubts.doubted.last().cloned();
        return newest
            .ok_or_else(|| Error::not_there("no snapshot of this machine is marked as suspicious").hint(hint));
    };
    let text = text.trim();
    let mut matching = doubts.doubted.iter().filter(|id| !text.is_empty() && id.as_str().starts_with(text));
    let shown = printable(text.as_bytes());
    match (matching.next(), matching.next()) {
        (Some(id), None) => Ok(id.clone()),
        (Some(_), Some(_)) => {
            Err(Error::usage(format!("`{shown}` is the beginning of several ids")).hint("write more of it"))
        }
        (None, _) => Err(Error::not_there(format!("no snapshot `{shown}` is marked as suspicious")).hint(hint)),
    }
}
