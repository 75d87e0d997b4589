//! The bytes of single files of an archive, out of the frames that hold them and no others.

use std::collections::HashMap;
use std::io::Write;

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

/// Reads files one after the other. The last frame of each archive of the chain stays in memory, since neighbours lie in
/// it, too.
pub struct FileReader<'a> {
    world: &'a World,
    store: &'a Store,
    archive: &'a Opened,
    volumes: VolumeReader,
    last: HashMap<Level, (Frame, Vec<u8>)>,
}

impl<'a> FileReader<'a> {
    /// A reader that has read nothing yet.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub fn new(world: &'a World, store: &'a Store, archive: &'a Opened) -> Result<Self> {
        Ok(FileReader { world, store, archive, volumes: VolumeReader::new()?, last: HashMap::new() })
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
            self.run(piece.level, piece.at, piece.length, &mut out)?;
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

    /// Writes a run of the tar of an archive.
    fn run(&mut self, level: Level, start: u64, length: u64, out: &mut Checked<'_>) -> Result<()> {
        let (mut at, end) = (start, start + length);
        while at < end {
            self.world.check_stop()?;
            let (frame, tar) = self.frame(level, at)?;
            let upto = end.min(frame.tar_end());
            let cut = |at: u64| usize::try_from(at - frame.tar_offset).unwrap_or(usize::MAX);
            out.write(&tar[cut(at)..cut(upto)])?;
            at = upto;
        }
        Ok(())
    }

    /// The frame that holds a byte of the tar of an archive.
    fn frame(&mut self, level: Level, at: u64) -> Result<&(Frame, Vec<u8>)> {
        let holds = |frame: &Frame| (frame.tar_offset..frame.tar_end()).contains(&at);
        if !self.last.get(&level).is_some_and(|(frame, _)| holds(frame)) {
            let number = usize::from(level);
            let frames = &self.archive.members[number].header.frames;
            let place = frames.partition_point(|f| f.tar_end() <= at);
            let Some(frame) = frames.get(place) else {
                return Err(Error::damaged("a file lies behind the end of its archive"));
            };
            let mut content = self.last.remove(&level).map(|(_, tar)| tar).unwrap_or_default();
            content.clear();
            let volume = usize::try_from(frame.volume).unwrap_or(usize::MAX);
            let mut each = |_: &Frame, tar: &[u8]| {
                content.extend_from_slice(tar);
                Ok(())
            };
            self.archive.read_frames(&mut self.volumes, self.store, number, volume, &[frame], &mut each)?;
            self.last.insert(level, (*frame, content));
        }
        self.last.get(&level).ok_or_else(|| Error::failed("a frame was read and is gone: this is a bug in lifeboat"))
    }
}

/// The entry that holds the content of a file or of a further name of one.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) when it is neither.
pub fn file_of(archive: &Opened, index: Index) -> Result<Index> {
    let tree = &archive.tree;
    let path = || printable(&tree.path(index));
    let what = match tree.node(index).kind {
        Kind::File => return Ok(index),
        Kind::Hardlink => {
            let file = Children::of(tree).find(tree, tree.target(index));
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
