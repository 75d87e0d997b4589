//! Files: what their content is beside what the catalog and the parent's tree have, and what is stored of it.

use std::fs::File;
use std::io::{Read, Seek as _};

use super::{Action, Made, Work};
use crate::commands::patch_spool::{Patcher, Spooled};
use crate::error::Result;
use crate::host::database::Sink as _;
use crate::host::scan::{Look, missing_entry};
use crate::host::source::{self, NoFile, SourceFile};
use crate::host::world::World;
use crate::model::blocks::{BLOCKS_FROM, Since, Summary};
use crate::model::database::Facts;
use crate::model::entry::{Entry, Kind};
use crate::model::record::{Record, meta_digest};
use crate::model::tree::Index;

/// A file with holes that stores no more than this goes whole when it changes, since a delta knows of no holes. In bytes.
const SPARSE_WHOLE_BYTES: u64 = 64 << 20;
/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 18;

/// What was found out about the content of a file.
pub(super) enum Content<'r> {
    /// It is what it was.
    Same(&'r Record),
    /// It is not, or never was: all of it.
    Whole { as_bytes: bool },
    /// It is that of a file of the parent's tree, but for a patch.
    Made(Box<Made>),
}

/// What a file was found to be, and what of it changed since the parent.
pub(super) type Compared = (Summary, Spooled);

impl Work<'_> {
    /// A file, which may be a database.
    pub(super) fn file(&mut self, index: Index, record: Option<&Record>) -> Result<()> {
        let Some(file) = self.open(index, record) else { return Ok(()) };
        let entry = file.entry.clone();
        let content = if file.is_database() {
            // Closed before SQLite opens it: closing it later would drop the locks of that connection.
            drop(file.file);
            self.database(index, record, entry.size)?
        } else {
            if !self.is_as_scanned(index, &file) {
                self.scan.unsettle(index);
            }
            self.plain(index, file, record, false)?
        };
        if let Some(content) = content {
            self.decide(index, record, entry, content);
        }
        Ok(())
    }

    /// What did not change since the last run, but since the parent.
    pub(super) fn later(&mut self, index: Index, record: &Record) -> Result<()> {
        let kind = self.scan.tree.node(index).kind;
        if kind == Kind::Dir {
            self.directory(index);
        }
        if kind != Kind::File {
            self.decided.actions.insert(index, Action::Listed);
            return Ok(());
        }
        if record.born <= self.parent && record.changed > self.parent && record.size >= BLOCKS_FROM {
            return self.file(index, Some(record));
        }
        let Some(file) = self.open(index, Some(record)) else { return Ok(()) };
        if !record.database && !self.is_as_scanned(index, &file) {
            drop(file);
            return self.file(index, Some(record));
        }
        let entry = Entry { size: record.size, extents: None, ..file.entry };
        self.scan.tree.set_metadata(index, &entry);
        let action = self.unchanged_content(index, record);
        self.list(index, action);
        Ok(())
    }

    /// Opens a file under any of its names; what fails is recorded.
    pub(super) fn open(&mut self, index: Index, record: Option<&Record>) -> Option<SourceFile> {
        match self.scan.open(index, self.sources, &mut self.names) {
            Ok(file) => Some(file),
            Err(NoFile::Vanished) => {
                self.vanish(index, record);
                None
            }
            Err(NoFile::Unreadable(e)) => {
                self.cannot_read(index, &missing_entry(e).reason);
                None
            }
        }
    }

    fn is_as_scanned(&self, index: Index, file: &SourceFile) -> bool {
        Look::of(&file.stat, 0, 0).stamp == self.scan.look(index).stamp
    }

    /// Puts together what is known of a file.
    pub(super) fn decide(&mut self, index: Index, record: Option<&Record>, entry: Entry, content: Content<'_>) {
        let size = match &content {
            Content::Same(record) => record.size,
            Content::Whole { .. } => entry.size,
            Content::Made(made) => made.size,
        };
        let entry = Entry { size, extents: None, ..entry };
        self.scan.tree.set_metadata(index, &entry);
        let same_metadata = record.is_some_and(|r| r.meta_digest == meta_digest(&entry));
        let action = match content {
            Content::Same(r) if same_metadata && !r.is_after(self.parent) => {
                self.decided.same.insert(index);
                return;
            }
            Content::Same(r) => {
                self.decided.changed |= !same_metadata;
                self.unchanged_content(index, r)
            }
            Content::Whole { as_bytes } => {
                self.decided.changed = true;
                Action::Whole { as_bytes }
            }
            Content::Made(made) => {
                let before = record.is_some_and(|r| (r.size, r.blake3) == (made.size, made.blake3));
                self.decided.changed |= !before || !same_metadata;
                Action::Delta(made)
            }
        };
        self.list(index, action);
    }

    /// Has a file listed.
    pub(super) fn list(&mut self, index: Index, action: Action) {
        self.decided.bytes += match &action {
            Action::Listed => 0,
            Action::Whole { .. } => self.scan.tree.node(index).size,
            Action::Delta(made) => made.patch.bytes,
        };
        self.decided.same.remove(&index);
        self.decided.actions.insert(index, action);
    }

    /// A file whose content is what the catalog says, and that has to be listed all the same.
    fn unchanged_content(&self, index: Index, record: &Record) -> Action {
        let base = if record.is_base(self.parent) {
            Some(self.scan.tree.path(index))
        } else if record.born > self.parent {
            self.bases.find(record.size, record.blake3).cloned()
        } else {
            None
        };
        let summary = Summary { size: record.size, blake3: record.blake3 };
        match base {
            Some(base) => Action::Delta(Box::new(Made::copy(base, summary, None))),
            None => Action::Whole { as_bytes: false },
        }
    }

    /// The content of a file that is no database, or is taken as bytes; `None` if it could not be read, which is recorded.
    pub(super) fn plain<'r>(
        &mut self,
        index: Index,
        file: SourceFile,
        record: Option<&'r Record>,
        as_bytes: bool,
    ) -> Result<Option<Content<'r>>> {
        let size = file.entry.size;
        let large = size >= BLOCKS_FROM;
        let Some(record) = record else {
            if !self.bases.may_have(size) {
                return Ok(Some(Content::Whole { as_bytes }));
            }
            let read = self.read(index, file, None)?;
            return Ok(read.map(|(summary, _)| self.new_content(summary, as_bytes, None)));
        };
        if !large && (record.size >= BLOCKS_FROM || record.size != size) {
            return Ok(Some(Content::Whole { as_bytes }));
        }
        let has_holes = file.entry.extents.is_some() && file.stored <= SPARSE_WHOLE_BYTES;
        let Some((summary, patch)) = self.read(index, file, Some(record))? else { return Ok(None) };
        if !large {
            let same = (summary.size, summary.blake3) == (record.size, record.blake3);
            return Ok(Some(if same { Content::Same(record) } else { Content::Whole { as_bytes } }));
        }
        Ok(Some(match self.compared(index, record, (summary, patch), as_bytes, None)? {
            Content::Made(made) if has_holes && made.patch.bytes > 0 => {
                self.spool.drop_last(&made.patch)?;
                Content::Whole { as_bytes }
            }
            content => content,
        }))
    }

    /// Something new: perhaps the parent's tree has its content under another name.
    pub(super) fn new_content<'r>(&self, summary: Summary, as_bytes: bool, facts: Option<Box<Facts>>) -> Content<'r> {
        match self.bases.find(summary.size, summary.blake3) {
            Some(base) => Content::Made(Box::new(Made::copy(base.clone(), summary, facts))),
            None => Content::Whole { as_bytes },
        }
    }

    /// A file that the catalog knows, read and compared block by block.
    pub(super) fn compared<'r>(
        &mut self,
        index: Index,
        record: &'r Record,
        (summary, patch): Compared,
        as_bytes: bool,
        facts: Option<Box<Facts>>,
    ) -> Result<Content<'r>> {
        let same = (summary.size, summary.blake3) == (record.size, record.blake3);
        if same && !record.is_after(self.parent) {
            return Ok(Content::Same(record));
        }
        if record.born > self.parent {
            self.spool.drop_last(&patch)?;
            return Ok(self.new_content(summary, as_bytes, facts));
        }
        if patch.too_large {
            self.spool.drop_last(&patch)?;
            return Ok(Content::Whole { as_bytes });
        }
        let base = self.scan.tree.path(index);
        Ok(Content::Made(Box::new(Made { patch, ..Made::copy(base, summary, facts) })))
    }

    /// Reads a file from start to end, through its blocks if it is large; `None` if that failed, which is recorded.
    fn read(&mut self, index: Index, mut file: SourceFile, record: Option<&Record>) -> Result<Option<Compared>> {
        // Who looked for holes left it somewhere.
        let read = match file.file.rewind() {
            Ok(()) if file.entry.size >= BLOCKS_FROM => self.read_blocks(index, &mut file, record)?,
            Ok(()) => hash(&mut file.file, self.world)?.map(|summary| (summary, Spooled::default())),
            Err(e) => Err(e),
        };
        match read {
            Ok(read) => {
                if !source::unchanged(&file.file, &file.stat) {
                    self.scan.unsettle(index);
                }
                Ok(Some(read))
            }
            Err(e) => {
                self.cannot_read(index, &e.to_string());
                Ok(None)
            }
        }
    }

    /// The inner error is that of the file.
    fn read_blocks(
        &mut self,
        index: Index,
        file: &mut SourceFile,
        record: Option<&Record>,
    ) -> Result<std::io::Result<Compared>> {
        let path = self.scan.tree.path(index);
        let rows = || self.catalog.blocks(&path);
        let patcher = Patcher::new(&rows, self.since(record), worth(file.entry.size), &mut self.spool);
        match read_all(&mut file.file, self.world, &mut |bytes| patcher.write(bytes))? {
            Ok(()) => patcher.finish().map(Ok),
            Err(e) => patcher.give_up().map(|()| Err(e)),
        }
    }

    /// From when on a block of a file counts as changed.
    pub(super) fn since(&self, record: Option<&Record>) -> Since {
        Since { seq: self.seq, parent: record.map(|_| self.parent), born: record.is_none() }
    }
}

impl Made {
    /// The same content as that of `base`.
    fn copy(base: Vec<u8>, Summary { size, blake3 }: Summary, facts: Option<Box<Facts>>) -> Made {
        Made { base, patch: Spooled::default(), size, blake3, facts }
    }
}

/// A patch that is larger than this is no better than the whole file, in bytes.
pub(super) fn worth(size: u64) -> u64 {
    size / 4 * 3
}

fn hash(file: &mut File, world: &World) -> Result<std::io::Result<Summary>> {
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    let read = read_all(file, world, &mut |bytes| {
        hasher.update(bytes);
        size += bytes.len() as u64;
        Ok(())
    })?;
    Ok(read.map(|()| Summary { size, blake3: *hasher.finalize().as_bytes() }))
}

/// Shows `each` all of a file. The inner error is that of the file.
pub(super) fn read_all(
    file: &mut dyn Read,
    world: &World,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<std::io::Result<()>> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        world.check_stop()?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Ok(())),
            Ok(n) => each(&buffer[..n])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Ok(Err(e)),
        }
    }
}
