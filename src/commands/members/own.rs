//! Members of the format's own, below `lifeboat/`: how files are made from those of the parent's tree, and lists of paths.

use super::Members;
use super::passing::{Sightings, Sweeper};
use crate::commands::patch_spool::Spooled;
use crate::commands::plan::Made;
use crate::error::Result;
use crate::model::entry::{Delta, Entry, Kind};
use crate::model::tree::Index;
use crate::stream::archive_writer::TarWriter;
use crate::stream::resume::NO_STAMP;
use crate::stream::tar_member;

/// Bytes of a patch that are read at a time.
const READ_BYTES: usize = 1 << 18;

/// What the lists will hold, each field ended by NUL.
#[derive(Default)]
pub(super) struct Lists {
    /// How many deltas there are.
    deltas: u64,
    links: Vec<u8>,
    databases: Vec<u8>,
}

impl Lists {
    /// A further name of the file `target`.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) {
        push(&mut self.links, path);
        push(&mut self.links, target);
    }

    /// A file that was stored as a database.
    pub(super) fn database(&mut self, path: &[u8]) {
        push(&mut self.databases, path);
    }
}

fn push(list: &mut Vec<u8>, field: &[u8]) {
    list.extend_from_slice(field);
    list.push(0);
}

impl Members<'_> {
    /// A file that is made from one of the parent's tree.
    pub(super) fn delta(&mut self, index: Index, made: &Made, tar: &mut TarWriter) -> Result<()> {
        let Made { base, patch, size, blake3, facts } = made;
        let (path, n) = (self.scan.tree.path(index), self.lists.deltas);
        self.lists.deltas += 1;
        let mut fields = Vec::new();
        for field in [&path[..], base, size.to_string().as_bytes()] {
            push(&mut fields, field);
        }
        for (offset, length) in &patch.extents {
            push(&mut fields, format!("{offset} {length}").as_bytes());
        }
        let entry = self.scan.tree.entry(index);
        let header = Entry { size: fields.len() as u64, extents: None, ..entry.clone() };
        tar.whole(format!("lifeboat/delta/{n}").as_bytes(), &header, &fields)?;
        let delta = Delta { n, base: base.clone(), extents: patch.extents.clone() };
        let (at, seen) = self.patch(n, patch, tar)?;
        self.leaked(index, seen);
        let entry = Entry { size: *size, blake3: *blake3, at, extents: None, delta: Some(Box::new(delta)), ..entry };
        self.stored(index, &entry)?;
        if let Some(facts) = facts {
            self.record_database(index, &path, (**facts).clone());
        }
        Ok(())
    }

    /// Writes the bytes of a patch and returns where they are, and what was seen in them.
    fn patch(&self, n: u64, patch: &Spooled, tar: &mut TarWriter) -> Result<(Option<u64>, Sightings)> {
        let plan = self.plan.as_ref().filter(|_| patch.bytes > 0);
        let Some(plan) = plan else { return Ok((None, Sightings::new())) };
        let entry = Entry { mode: 0o600, size: patch.bytes, ..Entry::new(Kind::File) };
        let name = format!("lifeboat/patch/{n}");
        let header = tar_member::header(name.as_bytes(), &entry, patch.bytes);
        let at = tar.begin(name.as_bytes(), &header, patch.bytes, NO_STAMP)?;
        let mut sweeper = Sweeper::new(self.sweep);
        let (mut buffer, mut done) = (vec![0; READ_BYTES], 0);
        while done < patch.bytes {
            let n = usize::try_from(patch.bytes - done).unwrap_or(usize::MAX).min(buffer.len());
            plan.patches.read(patch.start + done, &mut buffer[..n])?;
            sweeper.push(&buffer[..n]);
            tar.write(&buffer[..n])?;
            done += n as u64;
        }
        tar.zeros(tar_member::padding(patch.bytes))?;
        Ok((Some(at), sweeper.finish()))
    }

    /// The members that are lists of paths, those that are not empty.
    pub(super) fn own_lists(&self, tar: &mut TarWriter) -> Result<()> {
        let mut deleted = Vec::new();
        for path in self.plan.iter().flat_map(|plan| plan.deleted.keys()) {
            push(&mut deleted, path);
        }
        let lists: [(&[u8], &[u8]); 3] = [
            (b"lifeboat/links", &self.lists.links),
            (b"lifeboat/deleted", &deleted),
            (b"lifeboat/databases", &self.lists.databases),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            let entry = Entry { mode: 0o600, size: list.len() as u64, ..Entry::new(Kind::File) };
            tar.whole(name, &entry, list)?;
        }
        Ok(())
    }
}
