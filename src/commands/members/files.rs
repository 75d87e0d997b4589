//! Files as they are on the disk, while somebody may go on writing to them.

use std::io::{Seek as _, SeekFrom};

use super::Members;
use super::passing::{Passing, Sightings};
use crate::commands::Event;
use crate::error::Result;
use crate::host::scan::{Look, OWN, Skip};
use crate::host::source::{self, NoFile, SourceFile};
use crate::model::entry::Entry;
use crate::model::kit::KIT_MARK;
use crate::model::tree::Index;
use crate::stream::archive_writer::{TarWriter, WHOLE_BYTES_MAX};
use crate::stream::resume::NO_STAMP;
use crate::stream::tar_member;

/// How often a file is read again that shrinks under the reader.
const TRIES: usize = 4;

/// What became of a member that was read as it was written.
enum Large {
    /// It is that file.
    Whole(Box<Entry>, Sightings),
    /// The file became smaller than its header says; the rest was filled up.
    Shrank,
    /// An earlier run stored something else, and nothing was written.
    Other,
    /// It could not be read to its end.
    Failed(std::io::Error),
}

impl Members<'_> {
    /// A file, which may be a database.
    pub(super) fn file(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        match self.scan.open(index, self.sources, &mut self.names) {
            Ok(file) if file.is_database() => {
                // Closed before SQLite opens it: closing it later would drop the locks of that connection.
                drop(file.file);
                self.database(index, file.entry, tar)
            }
            Ok(file) => self.plain(index, file, tar),
            Err(why) => {
                self.not_opened(index, why);
                Ok(())
            }
        }
    }

    /// A file that is no database, or looks like one and is none.
    pub(super) fn bytes(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        match source::open(self.root(index), &self.scan.tree.path(index), &mut self.names) {
            Ok(file) => self.plain(index, file, tar),
            Err(why) => {
                self.not_opened(index, why);
                Ok(())
            }
        }
    }

    /// The bytes of an open file.
    pub(super) fn plain(&mut self, index: Index, file: SourceFile, tar: &mut TarWriter) -> Result<()> {
        if file.entry.size <= WHOLE_BYTES_MAX && file.entry.extents.is_none() {
            self.small(index, file, tar)
        } else {
            self.large(index, file, tar)
        }
    }

    /// Reads a file whole before its header is written, so that the header is right whatever happens to the file.
    fn small(&mut self, index: Index, mut file: SourceFile, tar: &mut TarWriter) -> Result<()> {
        let size = usize::try_from(file.entry.size).expect("small files fit in memory");
        self.small.resize(size, 0);
        match source::fill(&mut file.file, &mut self.small) {
            Ok(n) => self.small.truncate(n),
            Err(e) => {
                self.unreadable(index, &e.to_string());
                return Ok(());
            }
        }
        if self.small.starts_with(KIT_MARK) {
            self.leave_out_kit(index);
            return Ok(());
        }
        self.settle(index, &file);
        let path = self.scan.tree.path(index);
        let mut entry = self.guarded(file.entry);
        entry.size = self.small.len() as u64;
        let mut digest = self.digest(&path, entry.size);
        digest.update(&self.small);
        entry.blake3 = digest.finish()?;
        let mut seen = Sightings::new();
        if let Some(sweep) = self.sweep {
            sweep.find(&self.small, &mut |hit| *seen.entry(hit.value).or_default() += 1);
        }
        self.leaked(index, seen);
        let at = tar.whole_of(&path, &entry, &self.small, &entry.blake3)?;
        entry.at = (entry.size > 0).then_some(at);
        self.stored(index, &entry)
    }

    fn leave_out_kit(&mut self, index: Index) {
        let path = self.scan.tree.path(index);
        let shown = self.scan.shown_on_disk(index, &self.world.home);
        (self.events)(Event::Detail(format!("left out {shown}: a recovery kit never goes into what it opens")));
        self.scan.skipped.push(Skip { path, reason: OWN.to_owned(), archive: self.archive });
        self.leave_out(index);
    }

    /// A file that is read as it is written, again where it shrank meanwhile.
    fn large(&mut self, index: Index, mut file: SourceFile, tar: &mut TarWriter) -> Result<()> {
        let path = self.scan.tree.path(index);
        for _ in 0..TRIES {
            match self.read_through(index, &path, &mut file, tar)? {
                Large::Whole(entry, seen) => {
                    self.settle(index, &file);
                    self.leaked(index, seen);
                    return self.stored(index, &entry);
                }
                // What was written is the beginning of something that no longer is; a later member of the same name
                // takes its place in any tar.
                Large::Shrank | Large::Other => match source::open(self.root(index), &path, &mut self.names) {
                    Ok(again) => file = again,
                    Err(NoFile::Vanished) => break,
                    Err(why) => {
                        self.not_opened(index, why);
                        return Ok(());
                    }
                },
                Large::Failed(e) => {
                    self.unreadable(index, &e.to_string());
                    return Ok(());
                }
            }
        }
        self.unreadable(index, "it shrank each time it was read");
        Ok(())
    }

    fn read_through(&mut self, index: Index, path: &[u8], file: &mut SourceFile, tar: &mut TarWriter) -> Result<Large> {
        let mut entry = self.guarded(file.entry.clone());
        let header = tar_member::header(path, &entry, file.stored);
        let at = tar.begin(path, &header, file.stored, self.stamp(index, file))?;
        entry.at = (file.stored > 0).then_some(at);
        let mut passing = Passing::new(self.digest(path, entry.size), self.sweep);
        let whole = [(0, entry.size)];
        for &(offset, length) in entry.extents.as_deref().unwrap_or(&whole) {
            passing.hole_to(offset);
            let copied = match file.file.seek(SeekFrom::Start(offset)) {
                Ok(_) => tar.copy(&mut file.file, length, &mut |bytes| passing.push(bytes)),
                Err(e) => Err(Ok(e)),
            };
            let problem = match copied {
                Ok(n) if n == length => continue,
                Ok(_) => Large::Shrank,
                Err(Ok(e)) => Large::Failed(e),
                Err(Err(e)) => return Err(e),
            };
            let written = tar.position() - at;
            tar.zeros(file.stored - written + tar_member::padding(file.stored))?;
            return Ok(problem);
        }
        passing.hole_to(entry.size);
        tar.zeros(tar_member::padding(file.stored))?;
        let (blake3, seen) = passing.finish()?;
        entry.blake3 = blake3;
        Ok(if tar.end(blake3) { Large::Whole(Box::new(entry), seen) } else { Large::Other })
    }

    /// A file that changed while it was read, or between being found and being read, is looked at again next time.
    fn settle(&mut self, index: Index, file: &SourceFile) {
        let changed = !source::unchanged(&file.file, &file.stat);
        self.outcome.changed += u64::from(changed);
        if changed || Look::of(&file.stat, 0, 0).stamp != self.scan.look(index).stamp {
            self.scan.unsettle(index);
        }
    }

    /// What tells that a file is the same when an archive is continued; nothing where that could not be told.
    fn stamp(&self, index: Index, file: &SourceFile) -> u64 {
        let (seen, now) = (self.scan.look(index), Look::of(&file.stat, 0, 0).stamp);
        if seen.young || seen.stamp != now { NO_STAMP } else { now }
    }
}
