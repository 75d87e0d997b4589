//! `lifeboat dump`: a file or a directory of a snapshot as tar.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Write;

use serde::Serialize;

use super::file_reader::FileReader;
use super::look::{self, Place, asked_path};
use super::opened::Opened;
use super::{Events, Report, count_text};
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::entry::{Entry, Kind};
use crate::model::path::printable;
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index};
use crate::stream::tar_member::{END, header, padding};

/// What `dump` was asked for.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which archive.
    pub place: Place,
    /// The snapshot as a person names it.
    pub snapshot: String,
    /// What of it.
    pub path: Option<OsString>,
}

/// What was written.
#[derive(Debug, Serialize)]
pub struct Done {
    /// Members of the tar.
    pub members: u64,
    /// What the snapshot lacks, with the reasons.
    pub missing: Vec<String>,
}

impl Report for Done {
    /// The tar is all that anybody wants to see.
    fn text(&self) -> String {
        String::new()
    }

    fn problems(&self) -> Vec<String> {
        self.missing.iter().map(|line| format!("missing: {line}")).collect()
    }
}

/// Writes what a snapshot has at a path to `out`, as a tar of archive paths. Files come in the order in which they are
/// stored, so that each frame is read once.
///
/// # Errors
/// As [`cat::run`](super::cat::run).
pub fn run(world: &World, args: &Args, out: &mut dyn Write, events: &mut Events<'_>) -> Result<Done> {
    let (reading, opened) = args.place.open(world, &args.snapshot, events)?;
    let path = args.path.as_ref().map_or(Ok(Vec::new()), |p| asked_path(world, opened.header(), p))?;
    let wanted = look::select(&opened, &path)?;
    let order = in_order(&opened, &wanted);
    let mut files = FileReader::new(world, &reading.store, &opened)?;
    let (tree, children) = (&opened.tree, Children::of(&opened.tree));
    let mut done = Done { members: 0, missing: Vec::new() };
    let mut there: HashSet<Index> = HashSet::new();
    for index in order {
        let (path, mut entry) = (tree.path(index), tree.entry(index));
        if tree.node(index).archive == Archive::Secrets {
            entry.mode &= 0o700;
        }
        let mut content = None;
        match entry.kind {
            Kind::File => content = Some(index),
            Kind::Hardlink => {
                let file = children.find(tree, &entry.target);
                let file =
                    file.ok_or_else(|| Error::damaged(format!("hard link {} leads nowhere", printable(&path))))?;
                // A name whose file lies elsewhere, or that comes second, is worth nothing as a link.
                if !there.contains(&file) {
                    entry = tree.entry(file);
                    content = Some(file);
                }
            }
            Kind::Missing | Kind::Deleted => {
                done.missing.push(format!("{}: {}", printable(&path), printable(entry.reason.as_bytes())));
                continue;
            }
            Kind::Dir | Kind::Symlink => {}
        }
        // Holes are written as zeros: the content is put together anew.
        let size = content.map_or(0, |_| entry.size);
        write(out, &header(&path, &Entry { extents: None, delta: None, ..entry }, size))?;
        if let Some(file) = content {
            files.copy(file, out)?;
            write(out, &vec![0; usize::try_from(padding(size)).unwrap_or(0)])?;
            there.extend((file == index).then_some(index));
        }
        done.members += 1;
    }
    write(out, &END)?;
    out.flush().map_err(|e| Error::failed("cannot write the tar").because(e))?;
    for line in &done.missing {
        events(super::Event::Detail(format!("missing: {line}")));
    }
    events(super::Event::Detail(format!("wrote {}", count_text(done.members, "member"))));
    Ok(done)
}

/// What is wanted, in an order that a tar can have: directories before what is in them, links behind files.
fn in_order(opened: &Opened, wanted: &[bool]) -> Vec<Index> {
    let Opened { tree, holders, .. } = opened;
    let mut out: Vec<Index> = tree.indices().filter(|i| wanted[*i as usize]).collect();
    out.sort_by_key(|i| match tree.node(*i).kind {
        Kind::Dir => (0, 0, 0),
        Kind::File if holders.pieces(*i).is_none() => {
            (1, usize::from(holders.level(*i)), tree.stored(*i).map_or(0, |s| s.0))
        }
        Kind::File => (2, 0, 0),
        Kind::Symlink => (3, 0, 0),
        Kind::Hardlink => (4, 0, 0),
        Kind::Missing | Kind::Deleted => (5, 0, 0),
    });
    out
}

fn write(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(|e| Error::failed("cannot write the tar").because(e))
}
