//! SQLite databases: read through SQLite and compared page by page, or as bytes where it cannot open them.

use std::path::Path;

use super::Work;
use super::files::{Content, read_all, worth};
use crate::commands::patch_spool::Patcher;
use crate::error::{Error, Result};
use crate::host::database::{self, Checks, Image, Privacy, Sink, Streamed};
use crate::host::source;
use crate::host::world::World;
use crate::model::database::SIDECARS;
use crate::model::entry::Kind;
use crate::model::record::Record;
use crate::model::store_key::Archive;
use crate::model::tree::Index;

impl Work<'_> {
    /// The content of a database whose file has `size` bytes; `None` if it went away or could not be read, which is
    /// recorded.
    pub(super) fn database<'r>(
        &mut self,
        index: Index,
        record: Option<&'r Record>,
        size: u64,
    ) -> Result<Option<Content<'r>>> {
        if record.is_none() && !self.bases.may_have(size) {
            return Ok(Some(Content::Whole { as_bytes: false }));
        }
        let tree_path = self.scan.tree.path(index);
        let rows = || self.catalog.blocks(&tree_path);
        let since = self.since(record);
        let paths = self.scan.disk_paths(index, self.sources);
        let patcher = Patcher::new(&rows, since, worth(size), &mut self.spool);
        match stream(database::best_name(&paths), self.staging, self.checks, self.world, &patcher)? {
            Streamed::Done { facts, .. } => {
                let read = patcher.finish()?;
                Ok(Some(match record {
                    Some(record) => self.compared(index, record, read, false, Some(facts))?,
                    None => self.new_content(read.0, false, Some(facts)),
                }))
            }
            Streamed::Vanished => {
                patcher.give_up()?;
                self.vanish(index, record);
                Ok(None)
            }
            Streamed::Raw { why } => {
                patcher.give_up()?;
                self.raw(index, record, &why)
            }
        }
    }
    /// Bytes of what cannot be opened as a database, with its sidecars. It is looked at in each run.
    fn raw<'r>(&mut self, index: Index, record: Option<&'r Record>, why: &str) -> Result<Option<Content<'r>>> {
        self.tell(index, &format!("it cannot be opened as a database, and is stored as it is ({why})"));
        self.scan.unsettle(index);
        for name in self.scan.names_of(index) {
            for suffix in SIDECARS {
                self.sidecar(name, suffix)?;
            }
        }
        match self.open(index, record) {
            Some(file) => self.plain(index, file, record, true),
            None => Ok(None),
        }
    }

    fn sidecar(&mut self, database: Index, suffix: &[u8]) -> Result<()> {
        let path = [&self.scan.tree.path(database)[..], suffix].concat();
        let source = self.scan.source_of(database);
        let Ok(file) = source::open(&self.sources[source].root, &path, &mut self.names) else { return Ok(()) };
        let new = self.scan.add_beside(database, &path, Archive::State);
        let known = self.gone.remove(&path).map(|gone| gone.record).filter(|r| r.kind == Kind::File);
        let entry = file.entry.clone();
        if let Some(content) = self.plain(new, file, known.as_ref(), true)? {
            self.decide(new, known.as_ref(), entry, content);
        }
        self.scan.unsettle(new);
        Ok(())
    }
}

/// Shows a database to `sink`, page by page.
fn stream(path: &Path, staging: &Path, checks: Checks, world: &World, sink: &dyn Sink) -> Result<Streamed> {
    if checks == Checks::Quick {
        return database::stream(path, staging, sink);
    }
    // A long look needs a copy, or a writer would wait for it.
    match database::read(path, staging, Privacy::Open, checks)? {
        Image::Copy(mut copy) => {
            let read = read_all(&mut *copy, world, &mut |bytes| sink.write(bytes))?;
            read.map_err(|e| Error::failed("cannot read a database copy").because(e))?;
            Ok(Streamed::Done { size: copy.size, facts: Box::new(copy.facts) })
        }
        Image::Raw { why } => Ok(Streamed::Raw { why }),
        Image::Vanished => Ok(Streamed::Vanished),
    }
}
