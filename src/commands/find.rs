//! `lifeboat find`: paths that match a glob, in one snapshot or in all of them, from manifests alone.

use serde::Serialize;

use super::look::{self, Item, Place, homes, time_column};
use super::versions::{Paths, Row, gather, rows};
use super::{Events, Report, bytes_text};
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::asked::Globs;

/// What `find` was asked for.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which archives.
    pub place: Place,
    /// The snapshot as a person names it.
    pub snapshot: String,
    /// What to look for.
    pub globs: Vec<String>,
    /// In all snapshots.
    pub all: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The series.
    pub series: String,
    /// The snapshot, of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Item>,
    /// Of all snapshots, the versions by path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<Row>,
    /// Snapshots that could not be looked into, and why.
    pub unread: Vec<String>,
}

impl Report for Done {
    fn text(&self) -> String {
        let line = |item: &Item| {
            let (size, time) = (bytes_text(item.size), time_column(item.mtime.as_deref()));
            format!("{size:>11}  {time}  {}\n", item.shown(&item.path.bytes()))
        };
        let found: String = self.entries.iter().map(line).collect();
        found + &self.versions.iter().map(|row| row.line(true)).collect::<String>()
    }

    fn problems(&self) -> Vec<String> {
        self.unread.clone()
    }
}

/// Looks for paths.
///
/// # Errors
/// When store or snapshot cannot be found, opened or verified, or nothing matches.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    use std::os::unix::ffi::OsStrExt as _;
    let done = if args.all {
        let mut reading = args.place.begin(world, events)?;
        let globs = Globs::new(&args.globs, &[world.home.as_os_str().as_bytes()])?;
        let matters = |path: &[u8]| globs.is_match(path);
        let versions = gather(world, &args.place, &mut reading, &Paths { matters: &matters, last: None }, events)?;
        let rows = rows(&versions);
        Done { series: reading.series, snapshot: None, entries: Vec::new(), versions: rows, unread: versions.unread }
    } else {
        let (reading, opened) = args.place.open(world, &args.snapshot, events)?;
        let globs = Globs::new(&args.globs, &homes(world, opened.header()))?;
        let (tree, totals) = (&opened.tree, look::totals(&opened.tree));
        let found = tree.indices().filter(|i| globs.is_match(&tree.path(*i)));
        let entries = found.map(|i| Item::new(tree, i, totals[i as usize], 0)).collect();
        let snapshot = Some(opened.commit().id.to_string());
        Done { series: reading.series, snapshot, entries, versions: Vec::new(), unread: Vec::new() }
    };
    if done.entries.is_empty() && done.versions.is_empty() && done.unread.is_empty() {
        let globs = args.globs.join(" ");
        return Err(Error::not_there(format!("nothing matches {}", crate::model::path::printable(globs.as_bytes())))
            .hint("quote globs, so that the shell leaves them alone; --all looks in all snapshots, --secrets among secrets"));
    }
    Ok(done)
}
