//! The bytes of single files of an archive, out of the frames that hold them and no others.

use std::collections::VecDeque;
use std::io::Write;
use std::ops::Range;

use super::opened::Opened;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::entry::Kind;
use crate::model::manifest::Frame;
use crate::model::path::printable;
use crate::model::tree::{Children, Index};
use crate::model::walk::Level;
use crate::stream::archive_reader::VolumeReader;

/// Bytes of a file that are held until all of it was checked; of a larger one the beginning goes out before that.
const HELD_BYTES_MAX: usize = 32 << 20;

/// The frames that were read last, since neighbours lie in them, too.
pub struct Frames {
    volumes: VolumeReader,
    /// The one that was asked for last comes first.
    held: VecDeque<Held>,
    most: usize,
}

struct Held {
    level: Level,
    frame: Frame,
    tar: Vec<u8>,
}

impl Frames {
    /// None yet; `most` are held, each of some 3 MiB.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub fn new(most: usize) -> Result<Frames> {
        Ok(Frames { volumes: VolumeReader::new()?, held: VecDeque::new(), most: most.max(1) })
    }

    /// The frame that holds a byte of the tar of an archive of the chain, and its content.
    ///
    /// # Errors
    /// As [`Opened::read_frames`].
    pub fn at(&mut self, store: &Store, archive: &Opened, level: Level, at: u64) -> Result<(&Frame, &[u8])> {
        let holds = |held: &Held| held.level == level && (held.frame.tar_offset..held.frame.tar_end()).contains(&at);
        let held = match self.held.iter().position(holds).and_then(|place| self.held.remove(place)) {
            Some(held) => held,
            None => self.read(store, archive, level, at)?,
        };
        self.held.push_front(held);
        Ok((&self.held[0].frame, &self.held[0].tar))
    }

    fn read(&mut self, store: &Store, archive: &Opened, level: Level, at: u64) -> Result<Held> {
        let number = usize::from(level);
        let frames = &archive.members[number].header.frames;
        let Some(frame) = frames.get(frames.partition_point(|f| f.tar_end() <= at)) else {
            return Err(Error::damaged("a file lies behind the end of its archive"));
        };
        let old = if self.held.len() < self.most { None } else { self.held.pop_back() };
        let mut tar = old.map(|held| held.tar).unwrap_or_default();
        tar.clear();
        let mut each = |_: &Frame, bytes: &[u8]| {
            tar.extend_from_slice(bytes);
            Ok(())
        };
        let volume = usize::try_from(frame.volume).unwrap_or(usize::MAX);
        archive.read_frames(&mut self.volumes, store, number, volume, &[frame], &mut each)?;
        Ok(Held { level, frame: *frame, tar })
    }

    /// Shows a run of the tar of an archive, in pieces.
    ///
    /// # Errors
    /// As [`Frames::at`]; those of `each`.
    pub fn run(
        &mut self,
        store: &Store,
        archive: &Opened,
        level: Level,
        run: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut at = run.start;
        while at < run.end {
            let (frame, tar) = self.at(store, archive, level, at)?;
            let upto = run.end.min(frame.tar_end());
            let cut = |at: u64| usize::try_from(at - frame.tar_offset).unwrap_or(usize::MAX);
            each(&tar[cut(at)..cut(upto)])?;
            at = upto;
        }
        Ok(())
    }
}

/// Reads files one after the other.
pub struct FileReader<'a> {
    world: &'a World,
    store: &'a Store,
    archive: &'a Opened,
    frames: Frames,
}

impl<'a> FileReader<'a> {
    /// A reader that has read nothing yet.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub fn new(world: &'a World, store: &'a Store, archive: &'a Opened) -> Result<Self> {
        Ok(FileReader { world, store, archive, frames: Frames::new(archive.members.len())? })
    }

    /// Writes the content of a file to `out`. A wrong one is refused: before anything is written, if it is not larger
    /// than 32 MiB.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when the archive does not hold it; those of store and `out`.
    pub fn copy(&mut self, index: Index, out: &mut dyn Write) -> Result<()> {
        let Opened { tree, holders, .. } = self.archive;
        let mut out = Checked { held: Vec::new(), hasher: blake3::Hasher::new(), out };
        let mut done = 0;
        for piece in holders.stored(tree, index) {
            out.zeros(piece.offset.saturating_sub(done))?;
            let run = piece.at..piece.at + piece.length;
            self.frames.run(self.store, self.archive, piece.level, run, &mut |bytes| {
                self.world.check_stop()?;
                out.write(bytes)
            })?;
            done = piece.offset + piece.length;
        }
        out.zeros(tree.node(index).size.saturating_sub(done))?;
        if *out.hasher.finalize().as_bytes() != tree.blake3(index) {
            let path = printable(&tree.path(index));
            return Err(Error::damaged(format!("the content of {path} is not what the manifest says"))
                .hint("another snapshot may be whole: `lifeboat list` shows them"));
        }
        out.pass_on()
    }
}

/// The entry that holds the content of a file or of a further name of one.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) when it is neither.
pub fn file_of(archive: &Opened, index: Index) -> Result<Index> {
    file_among(archive, &Children::of(&archive.tree), index)
}

/// [`file_of`] for who has the children of the tree already.
///
/// # Errors
/// As [`file_of`].
pub fn file_among(archive: &Opened, children: &Children, index: Index) -> Result<Index> {
    let tree = &archive.tree;
    let path = || printable(&tree.path(index));
    let what = match tree.node(index).kind {
        Kind::File => return Ok(index),
        Kind::Hardlink => {
            let file = children.find(tree, tree.target(index));
            return file.ok_or_else(|| Error::damaged(format!("hard link {} leads nowhere", path())));
        }
        Kind::Dir => "a directory",
        Kind::Symlink => "a symbolic link",
        Kind::Missing | Kind::Deleted => {
            let reason = printable(tree.entry(index).reason.as_bytes());
            return Err(Error::new(ErrorKind::Incomplete, format!("{} could not be read: {reason}", path())));
        }
    };
    Err(Error::usage(format!("{} is {what}", path())).hint("`lifeboat dump` writes directories and links as tar"))
}

/// Hashes what passes, and holds the beginning back.
struct Checked<'a> {
    held: Vec<u8>,
    hasher: blake3::Hasher,
    out: &'a mut dyn Write,
}

impl Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        if self.held.len() + bytes.len() > HELD_BYTES_MAX {
            self.pass_on()?;
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    fn zeros(&mut self, mut count: u64) -> Result<()> {
        let zeros = [0; 1 << 16];
        while count > 0 {
            let n = usize::try_from(count).unwrap_or(usize::MAX).min(zeros.len());
            self.write(&zeros[..n])?;
            count -= n as u64;
        }
        Ok(())
    }

    fn pass_on(&mut self) -> Result<()> {
        let written = self.out.write_all(&self.held);
        self.held.clear();
        written.map_err(|e| Error::failed("cannot write the content").because(e))
    }
}
