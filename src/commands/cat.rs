//! `lifeboat cat`: one file of a snapshot, out of the frames that hold it.

use std::ffi::OsString;
use std::io::Write;

use serde::Serialize;

use super::file_reader::{FileReader, file_of};
use super::look::{self, Place, There, asked_path};
use super::{Events, Report};
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::path::printable;

/// What `cat` was asked for.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which archive.
    pub place: Place,
    /// The snapshot as a person names it.
    pub snapshot: String,
    /// The file.
    pub path: OsString,
}

/// What was written.
#[derive(Debug, Serialize)]
pub struct Done {
    /// Bytes of content.
    pub bytes: u64,
}

impl Report for Done {
    /// The content is all that anybody wants to see.
    fn text(&self) -> String {
        String::new()
    }
}

/// Writes the content of a file to `out`.
///
/// # Errors
/// When the snapshot cannot be found, opened or verified, has no such file, or its content is not what it should be.
pub fn run(world: &World, args: &Args, out: &mut dyn Write, events: &mut Events<'_>) -> Result<Done> {
    let (reading, opened) = args.place.open(world, &args.snapshot, events)?;
    let path = asked_path(world, opened.header(), &args.path)?;
    let There::Entry(index) = look::find(&opened, &path)? else {
        return Err(Error::usage(format!("{} is no file", printable(&path)))
            .hint("`lifeboat ls` shows what is below it, `lifeboat dump` writes it as tar"));
    };
    let file = file_of(&opened, index)?;
    FileReader::new(world, &reading.store, &opened)?.copy(file, out)?;
    Ok(Done { bytes: opened.tree.node(file).size })
}
