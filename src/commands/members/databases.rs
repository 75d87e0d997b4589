//! SQLite databases: a consistent copy of each, or its bytes where SQLite cannot open it.

use super::Members;
use super::passing::Passing;
use crate::commands::plan::Action;
use crate::commands::read_ahead::LargeDatabase;
use crate::error::{Error, Result};
use crate::host::database::{self, DatabaseCopy, Image};
use crate::host::source::{self, SourceFile};
use crate::model::database::{Facts, SIDECARS};
use crate::model::entry::{Entry, Kind};
use crate::model::manifest::{Database, PathName};
use crate::model::tree::Index;
use crate::stream::archive_writer::{TarWriter, WHOLE_BYTES_MAX};
use crate::stream::resume::NO_STAMP;
use crate::stream::tar_member;

impl Members<'_> {
    /// The large files that are databases and go whole.
    pub(super) fn large_databases(&mut self, order: &[Index]) -> Vec<LargeDatabase> {
        let mut out = Vec::new();
        for &index in order {
            let node = self.scan.tree.node(index);
            if node.kind != Kind::File || node.size <= WHOLE_BYTES_MAX || !self.goes_whole(index) {
                continue;
            }
            let opened = source::open(self.root(index), &self.scan.tree.path(index), &mut self.names);
            if let Some(file) = opened.ok().filter(SourceFile::is_database) {
                let paths = self.scan.disk_paths(index, self.sources);
                out.push(LargeDatabase { index, paths, meta: file.entry });
            }
        }
        out
    }

    fn goes_whole(&self, index: Index) -> bool {
        match self.plan.as_ref().and_then(|plan| plan.actions.get(&index)) {
            Some(action) => matches!(action, Action::Whole { as_bytes: false }),
            None => true,
        }
    }

    /// A database that nobody read ahead.
    pub(super) fn database(&mut self, index: Index, meta: Entry, tar: &mut TarWriter) -> Result<()> {
        let paths = self.scan.disk_paths(index, self.sources);
        let image = database::read(database::best_name(&paths), self.staging, self.privacy(), self.checks)?;
        self.image(index, meta, image, tar)
    }

    /// What was read of a database; `meta` is what its file was when it was opened.
    pub(super) fn image(&mut self, index: Index, meta: Entry, image: Image, tar: &mut TarWriter) -> Result<()> {
        match image {
            Image::Copy(copy) => self.copy(index, meta, copy, tar),
            Image::Raw { why } => self.raw(index, &why, tar),
            Image::Vanished => {
                self.not_opened(index, source::NoFile::Vanished);
                Ok(())
            }
        }
    }

    fn copy(&mut self, index: Index, meta: Entry, mut copy: Box<DatabaseCopy>, tar: &mut TarWriter) -> Result<()> {
        let unreadable = |e| Error::failed("cannot read a database copy").because(e);
        let path = self.scan.tree.path(index);
        let mut entry = Entry { size: copy.size, extents: None, ..self.guarded(meta) };
        let header = tar_member::header(&path, &entry, entry.size);
        loop {
            entry.at = Some(tar.begin(&path, &header, entry.size, NO_STAMP)?);
            let mut passing = Passing::new(self.digest(&path, entry.size), self.sweep);
            let copied = tar.copy(&mut *copy, entry.size, &mut |bytes| passing.push(bytes));
            let n = copied.map_err(|e| e.map_or_else(|e| e, unreadable))?;
            if n != entry.size {
                return Err(Error::failed("a database copy is shorter than it should be: this is a bug in lifeboat"));
            }
            tar.zeros(tar_member::padding(n))?;
            let (blake3, seen) = passing.finish()?;
            entry.blake3 = blake3;
            if tar.end(blake3) {
                self.leaked(index, seen);
                break;
            }
            // An earlier run stored another image of it.
            copy.rewind().map_err(unreadable)?;
        }
        self.stored(index, &entry)?;
        self.record_database(index, &path, copy.facts);
        Ok(())
    }

    /// Records a file that was stored as a database.
    pub(super) fn record_database(&mut self, index: Index, path: &[u8], facts: Facts) {
        self.lists.database(path);
        if let Some(check) = facts.check.as_ref().filter(|c| *c != "ok") {
            let first = check.lines().next().unwrap_or_default();
            self.cannot_read(index, &format!("the database is damaged, and stored as it is ({first})"));
        }
        self.outcome.database_entries.insert(index);
        self.outcome.databases.push(Database { path: PathName::new(path), facts });
    }

    /// Bytes of what cannot be opened as a database, with its sidecars. It is looked at in each run.
    fn raw(&mut self, index: Index, why: &str, tar: &mut TarWriter) -> Result<()> {
        self.cannot_read(index, &format!("it cannot be opened as a database, and is stored as it is ({why})"));
        self.scan.unsettle(index);
        for name in self.scan.names_of(index) {
            for suffix in SIDECARS {
                self.sidecar(name, suffix, tar)?;
            }
        }
        self.bytes(index, tar)
    }

    fn sidecar(&mut self, database: Index, suffix: &[u8], tar: &mut TarWriter) -> Result<()> {
        let path = [&self.scan.tree.path(database)[..], suffix].concat();
        let opened = source::open(self.root(database), &path, &mut self.names);
        let Ok(file) = opened else { return Ok(()) };
        let new = self.scan.add_beside(database, &path, self.archive);
        if let Some(plan) = &mut self.plan {
            plan.actions.insert(new, Action::Listed);
            plan.deleted.remove(&path);
        }
        self.plain(new, file, tar)
    }
}
