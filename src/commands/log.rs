//! `lifeboat log`: the history of one path over all snapshots, from manifests alone.

use std::ffi::OsString;

use serde::Serialize;

use super::look::Place;
use super::versions::{Paths, Row, gather, rows};
use super::{Events, Report};
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::asked::archive_path;
use crate::model::manifest::PathName;
use crate::model::path::printable;

/// What `log` was asked about.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which archives.
    pub place: Place,
    /// The path.
    pub path: OsString,
}

/// The versions of a path.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The series.
    pub series: String,
    /// The archive path.
    #[serde(flatten)]
    pub path: PathName,
    /// Its versions, oldest first.
    pub versions: Vec<Row>,
    /// Snapshots that could not be looked into, and why.
    pub unread: Vec<String>,
}

impl Report for Done {
    fn text(&self) -> String {
        let head = format!("{}\n", printable(&self.path.bytes()));
        head + &self.versions.iter().map(|row| row.line(false)).collect::<String>()
    }

    fn problems(&self) -> Vec<String> {
        self.unread.clone()
    }
}

/// Tells what became of a path.
///
/// # Errors
/// When the store cannot be read, no identity opens the manifests, or no snapshot has the path.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut reading = args.place.begin(world, events)?;
    let path = archive_path(&args.path.clone().into_vec(), &[world.home.as_os_str().as_bytes()])?;
    let matters = |other: &[u8]| other == path;
    let paths = Paths { matters: &matters, last: Some(&path) };
    let versions = gather(world, &args.place, &mut reading, &paths, events)?;
    let rows = rows(&versions);
    if rows.is_empty() && versions.unread.is_empty() {
        return Err(Error::not_there(format!("no snapshot has {}", printable(&path)))
            .hint("`lifeboat find --all GLOB` looks for names; those of secrets are shown with --secrets only"));
    }
    Ok(Done { series: reading.series, path: PathName::new(&path), versions: rows, unread: versions.unread })
}
