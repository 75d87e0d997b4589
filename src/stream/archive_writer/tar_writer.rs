//! The tar as its producer sees it, cut into pieces that become frames.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::BytesMut;

use super::{PIECE_BYTES, STALE, WHOLE_BYTES_MAX, stopped};
use crate::error::{Error, Result};
use crate::model::entry::Entry;
use crate::stream::resume::{self, Notes};
use crate::stream::tar_member;

/// A piece is cut early, at the start of a member, once it is this full.
const PIECE_FULL_ENOUGH: usize = PIECE_BYTES / 4 * 3;
/// Bytes that go nowhere at once.
const DROPPED_BYTES: usize = 256 << 10;

/// Tar that is on its way to become a frame.
pub(super) struct Piece {
    pub(super) number: usize,
    pub(super) bytes: BytesMut,
    pub(super) used: usize,
}

/// The tar as its producer sees it.
pub struct TarWriter {
    /// Gone once the tar has ended, so that the stages behind come to their ends, too.
    jobs: Option<SyncSender<Piece>>,
    raw: Receiver<BytesMut>,
    piece: Option<BytesMut>,
    used: usize,
    /// Where the next byte belongs. Below `floor` it is in a volume of an earlier run, and goes nowhere.
    position: u64,
    /// Where the next byte belongs that has not been made yet.
    emitted: u64,
    floor: u64,
    next: usize,
    notes: Option<Notes>,
    /// The member that takes its time, until the next one begins.
    open: Option<resume::Begun>,
    /// What takes bytes that go nowhere.
    dropped: Vec<u8>,
}

impl TarWriter {
    /// Begins at offset `floor` with pieces from `raw`, and hands them to `jobs`.
    pub(super) fn new(jobs: SyncSender<Piece>, raw: Receiver<BytesMut>, floor: u64, notes: Option<Notes>) -> TarWriter {
        TarWriter {
            jobs: Some(jobs),
            raw,
            piece: None,
            used: 0,
            position: floor,
            emitted: floor,
            floor,
            next: 0,
            notes,
            open: None,
            dropped: Vec::new(),
        }
    }

    /// Offset in the tar stream of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Announces a member of about `bytes`, header included: frames are cut here where it pays.
    ///
    /// # Errors
    /// When a later stage has failed.
    pub fn member(&mut self, bytes: u64) -> Result<()> {
        let left = u64::try_from(PIECE_BYTES - self.used).expect("a piece is small");
        if self.used > 0 && bytes > left && (bytes <= WHOLE_BYTES_MAX || self.used >= PIECE_FULL_ENOUGH) {
            self.cut()?;
        }
        Ok(())
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When a later stage has failed.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            self.advance(n)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Appends zeros.
    ///
    /// # Errors
    /// When a later stage has failed.
    pub fn zeros(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let room = self.room()?;
            let n = room.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            room[..n].fill(0);
            self.advance(n)?;
            count -= n as u64;
        }
        Ok(())
    }

    /// Appends at most `limit` bytes of `input`, showing each run to `seen`; returns how many there were.
    ///
    /// # Errors
    /// `Err(Ok(e))` is the input's own error, `Err(Err(e))` that of a later stage.
    pub fn copy(
        &mut self,
        input: &mut dyn Read,
        limit: u64,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, Result<std::io::Error, Error>> {
        let mut done = 0;
        while done < limit {
            let room = self.room().map_err(Err)?;
            let want = room.len().min(usize::try_from(limit - done).unwrap_or(usize::MAX));
            let n = match input.read(&mut room[..want]) {
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Ok(e)),
            };
            if n == 0 {
                break;
            }
            seen(&room[..n]);
            self.advance(n).map_err(Err)?;
            done += n as u64;
        }
        Ok(done)
    }

    /// Writes a member that is held in memory and returns the offset of its content.
    ///
    /// # Errors
    /// When a later stage has failed.
    pub fn whole(&mut self, path: &[u8], entry: &Entry, content: &[u8]) -> Result<u64> {
        let digest = self.notes.is_some().then(|| *blake3::hash(content).as_bytes());
        self.whole_of(path, entry, content, &digest.unwrap_or_default())
    }

    /// [`TarWriter::whole`] of a content whose BLAKE3 is known.
    ///
    /// # Errors
    /// As [`TarWriter::whole`].
    pub fn whole_of(&mut self, path: &[u8], entry: &Entry, content: &[u8], blake3: &[u8; 32]) -> Result<u64> {
        let stored = content.len() as u64;
        let header = tar_member::header(path, entry, stored);
        let digest = digest_of(&header, blake3);
        self.settle();
        if let Some(at) = self.notes.as_mut().and_then(|notes| notes.find(path, &digest)) {
            return Ok(at);
        }
        self.fill_cut()?;
        self.member(header.len() as u64 + stored)?;
        let places = self.places(&header, stored);
        if let Some(notes) = &mut self.notes {
            notes.whole(path, digest, places);
        }
        self.write(&header)?;
        let at = self.position;
        self.write(content)?;
        self.zeros(tar_member::padding(stored))?;
        Ok(at)
    }

    /// Begins a member that is not held in memory, whose header it writes, and returns the offset of its content, of which
    /// `stored` bytes and their padding are to follow. Where an earlier run brought all of it to the store, or its
    /// beginning and the file is the same by its `stamp`, what follows goes nowhere as far as it is there.
    ///
    /// # Errors
    /// When a later stage has failed.
    pub fn begin(&mut self, path: &[u8], header: &[u8], stored: u64, stamp: u64) -> Result<u64> {
        self.settle();
        let digest = *blake3::hash(header).as_bytes();
        match self.notes.as_mut().and_then(|notes| notes.begin(path, &digest, stamp)) {
            Some(begun) => {
                self.position = begun.start();
                self.open = Some(begun);
            }
            None => {
                self.fill_cut()?;
                self.member(header.len() as u64 + stored)?;
                let places = self.places(header, stored);
                self.open = self.notes.as_mut().map(|notes| notes.begin_new(path, digest, places, stamp));
            }
        }
        self.write(header)?;
        Ok(self.position)
    }

    /// Ends such a member, whose content has the digest `blake3`. Says whether what is in the archive is that; else it has to
    /// be written once more.
    pub fn end(&mut self, blake3: [u8; 32]) -> bool {
        match (&mut self.notes, self.open.take()) {
            (Some(notes), Some(begun)) => notes.end(&begun, blake3),
            _ => true,
        }
    }

    /// Whether an earlier run was cut off in a member that can go on, and whether it is this one: it has to come first, or
    /// its beginning is lost.
    pub fn is_cut(&self, path: Option<&[u8]>) -> bool {
        self.notes.as_ref().is_some_and(|notes| path.map_or_else(|| notes.has_cut(), |path| notes.is_cut(path)))
    }

    /// Goes back to where bytes are made, from a member that was there.
    fn settle(&mut self) {
        self.position = self.emitted;
        self.open = None;
    }

    /// A member that an earlier run began and that does not go on is filled up, so that the tar is one.
    fn fill_cut(&mut self) -> Result<()> {
        match self.notes.as_mut().and_then(Notes::give_up_cut) {
            Some(end) => self.zeros(end.saturating_sub(self.position)),
            None => Ok(()),
        }
    }

    /// Where header and content of the next member begin, and where its padding ends.
    fn places(&self, header: &[u8], stored: u64) -> (u64, u64, u64) {
        let at = self.position + header.len() as u64;
        (self.position, at, at + stored + tar_member::padding(stored))
    }

    fn room(&mut self) -> Result<&mut [u8]> {
        if self.position < self.floor {
            self.dropped.resize(DROPPED_BYTES, 0);
            let left = usize::try_from(self.floor - self.position).unwrap_or(usize::MAX);
            return Ok(&mut self.dropped[..left.min(DROPPED_BYTES)]);
        }
        if self.piece.is_none() {
            self.piece = Some(self.raw.recv().map_err(|_| stopped())?);
        }
        let piece = self.piece.as_mut().expect("taken above");
        Ok(&mut piece[self.used..])
    }

    fn advance(&mut self, n: usize) -> Result<()> {
        let goes_nowhere = self.position < self.floor;
        self.position += n as u64;
        if goes_nowhere {
            return Ok(());
        }
        self.used += n;
        self.emitted = self.position;
        if self.used == PIECE_BYTES { self.cut() } else { Ok(()) }
    }

    fn cut(&mut self) -> Result<()> {
        let Some(bytes) = self.piece.take() else { return Ok(()) };
        let number = self.next;
        self.next += 1;
        let used = std::mem::take(&mut self.used);
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Piece { number, bytes, used }).map_err(|_| stopped())
    }

    /// Ends the tar. Whoever has more to do beside the later stages calls this first; it is called again anyway.
    ///
    /// # Errors
    /// When a later stage has failed.
    pub fn finish(&mut self) -> Result<()> {
        if self.jobs.is_none() {
            return Ok(());
        }
        self.settle();
        self.fill_cut()?;
        let start = self.position;
        if self.notes.as_mut().is_some_and(|notes| !notes.finish(start)) {
            return Err(Error::failed(STALE).hint("run the backup again: it begins anew"));
        }
        self.member(tar_member::END.len() as u64)?;
        self.write(&tar_member::END)?;
        self.cut()?;
        self.jobs = None;
        Ok(())
    }
}

/// What tells members of one name apart.
fn digest_of(header: &[u8], content: &[u8; 32]) -> [u8; 32] {
    *blake3::Hasher::new().update(header).update(content).finalize().as_bytes()
}
