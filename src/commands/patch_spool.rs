//! Patches between being found and being archived: in a file without a name in staging.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{At as _, Error, Result};
use crate::host::database::Sink;
use crate::model::blocks::{Differ, Rows, Since, Summary};
use crate::model::entry::Extent;

/// The most extents of one patch: a file with more goes whole.
pub const EXTENTS_MAX: usize = 100_000;

/// Bytes of patches, one after the other.
pub struct PatchSpool {
    file: BufWriter<File>,
    end: u64,
}

/// A patch in the spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spooled {
    /// Where it begins.
    pub start: u64,
    /// What it replaces, ascending, without gaps of nothing.
    pub extents: Vec<Extent>,
    /// Its bytes.
    pub bytes: u64,
    /// Whether it grew too large, so that the file goes whole; what is here is not all of it then.
    pub too_large: bool,
}

impl PatchSpool {
    /// An empty spool.
    ///
    /// # Errors
    /// When there can be no file in `staging`.
    pub fn new(staging: &Path) -> Result<PatchSpool> {
        let file = tempfile::tempfile_in(staging).at("write in", staging)?;
        Ok(PatchSpool { file: BufWriter::with_capacity(1 << 18, file), end: 0 })
    }

    /// Takes back a patch that will not be used, and all after it.
    fn rewind(&mut self, start: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(start)).map_err(failed)?;
        self.end = start;
        Ok(())
    }

    fn push(&mut self, patch: &mut Spooled, limit: u64, offset: u64, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        patch.too_large |= patch.bytes + length > limit || patch.extents.len() > EXTENTS_MAX;
        if patch.too_large {
            return Ok(());
        }
        match patch.extents.last_mut() {
            Some(last) if last.0 + last.1 == offset => last.1 += length,
            _ => patch.extents.push((offset, length)),
        }
        self.file.write_all(bytes).map_err(failed)?;
        self.end += length;
        patch.bytes += length;
        Ok(())
    }

    /// Ends writing, so that it can be read.
    ///
    /// # Errors
    /// When the rest cannot be written.
    pub fn finish(self) -> Result<PatchReader> {
        self.file.into_inner().map(PatchReader).map_err(|e| failed(e.into_error()))
    }
}

/// A spool that is complete.
pub struct PatchReader(File);

impl PatchReader {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, offset).map_err(failed)
    }
}

fn failed(e: std::io::Error) -> Error {
    Error::failed("cannot keep what changed in the staging directory").because(e).hint("its disk may be full")
}

/// Takes the content of one file and keeps the blocks that changed since the parent.
pub struct Patcher<'a, R> {
    inner: RefCell<Inner<'a, R>>,
    rows: &'a dyn Fn() -> R,
    since: Since,
    limit: u64,
}

struct Inner<'a, R> {
    differ: Option<Differ<R>>,
    spool: &'a mut PatchSpool,
    patch: Spooled,
}

impl<'a, R: Rows> Patcher<'a, R> {
    /// A patcher at the start of a file whose blocks `rows` knows; a patch of more than `limit` bytes is too large.
    pub fn new(rows: &'a dyn Fn() -> R, since: Since, limit: u64, spool: &'a mut PatchSpool) -> Self {
        let patch = Spooled { start: spool.end, ..Spooled::default() };
        let inner = RefCell::new(Inner { differ: Some(Differ::new(rows(), since)), spool, patch });
        Patcher { inner, rows, since, limit }
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Those of the rows and of the spool.
    pub fn finish(self) -> Result<(Summary, Spooled)> {
        let limit = self.limit;
        let Inner { differ, spool, mut patch } = self.inner.into_inner();
        let differ =
            differ.ok_or_else(|| Error::failed("a file was hashed only in part: this is a bug in lifeboat"))?;
        let summary = differ.finish(&mut |offset, block| spool.push(&mut patch, limit, offset, block))?;
        Ok((summary, patch))
    }

    /// Gives the file up; nothing of it stays in the spool.
    ///
    /// # Errors
    /// Those of the spool.
    pub fn give_up(self) -> Result<()> {
        let Inner { spool, patch, .. } = self.inner.into_inner();
        spool.rewind(patch.start)
    }
}

impl<R: Rows> Sink for Patcher<'_, R> {
    fn restart(&self) -> Result<()> {
        let Inner { differ, spool, patch } = &mut *self.inner.borrow_mut();
        *differ = Some(Differ::new((self.rows)(), self.since));
        spool.rewind(patch.start)?;
        *patch = Spooled { start: patch.start, ..Spooled::default() };
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let Inner { differ, spool, patch } = &mut *self.inner.borrow_mut();
        let differ = differ.as_mut().ok_or_else(|| Error::failed("a file goes on after its end"))?;
        differ.update(bytes, &mut |offset, block| spool.push(patch, self.limit, offset, block))
    }
}

impl PatchSpool {
    /// Forgets a patch, if it is the last one.
    ///
    /// # Errors
    /// When the file cannot be positioned.
    pub fn drop_last(&mut self, patch: &Spooled) -> Result<()> {
        if self.end == patch.start + patch.bytes { self.rewind(patch.start) } else { Ok(()) }
    }
}
