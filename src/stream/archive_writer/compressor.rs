//! Pieces of tar become frames, on all cores; each is checked by who made it.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender};

use bytes::BytesMut;
use zstd::zstd_safe::CParameter;

use super::tar_writer::Piece;
use super::{lock, stopped};
use crate::error::{Error, Result};

/// The level whose parameters are set by hand, the default.
const TUNED_LEVEL: i32 = 3;
/// Level 3 looks for matches of five bytes with tables that crowd the cache of a small machine. Matches of seven, a
/// smaller table and a window over the whole frame cost 0.4 % in size and save a fifth of the time (an agent's home of
/// 1.8 GiB, two cores, both beside plain level 3 in the same minutes). The window is below what stock zstd takes.
const TUNED: [CParameter; 3] = [CParameter::WindowLog(22), CParameter::ChainLog(15), CParameter::MinMatch(7)];

/// A finished frame, in the buffer that it was made in.
pub(super) struct Done {
    pub(super) number: usize,
    pub(super) compressed: BytesMut,
    pub(super) length: usize,
    pub(super) tar_length: u32,
    pub(super) blake3: [u8; 32],
}

/// Tells the sealer that a compressor ended without being done, even by a panic.
pub(super) struct Alarm {
    out: Sender<Result<Done>>,
    armed: bool,
}

impl Alarm {
    /// One that goes off unless it is disarmed.
    pub(super) fn armed(out: Sender<Result<Done>>) -> Alarm {
        Alarm { out, armed: true }
    }

    /// The compressor is done.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.armed {
            // Where the sealer is gone, too, it need not be told.
            drop(self.out.send(Err(stopped())));
        }
    }
}

/// Takes pieces until there are no more.
pub(super) fn compress(
    level: i32,
    mut checker: Option<Checker>,
    jobs: &Mutex<Receiver<Piece>>,
    spare: &Mutex<Receiver<BytesMut>>,
    raw: &Sender<BytesMut>,
    out: &Sender<Result<Done>>,
) -> Result<()> {
    let failed = |e| Error::failed("cannot compress").because(e);
    let mut compressor = zstd::bulk::Compressor::new(level).map_err(failed)?;
    compressor.include_checksum(true).map_err(failed)?;
    compressor.include_contentsize(true).map_err(failed)?;
    if level == TUNED_LEVEL {
        for parameter in TUNED {
            compressor.set_parameter(parameter).map_err(failed)?;
        }
    }
    loop {
        let Ok(mut compressed) = lock(spare).recv() else { return Err(stopped()) };
        let Ok(Piece { number, bytes, used }) = lock(jobs).recv() else { return Ok(()) };
        let length = compressor.compress_to_buffer(&bytes[..used], &mut compressed[..]).map_err(failed)?;
        if let Some(checker) = &mut checker {
            checker.check(&bytes[..used], &compressed[..length])?;
        }
        let blake3 = *blake3::hash(&compressed[..length]).as_bytes();
        let tar_length = u32::try_from(used).expect("a piece is small");
        // The producer may be done and gone: then nobody needs the buffer.
        drop(raw.send(bytes));
        out.send(Ok(Done { number, compressed, length, tar_length, blake3 })).map_err(|_| stopped())?;
    }
}

/// Decompresses frames again. Each worker has one: that they wait for each other costs more than the memory.
pub(super) struct Checker {
    zstd: zstd::bulk::Decompressor<'static>,
    again: BytesMut,
}

impl Checker {
    /// One with memory for a piece.
    pub(super) fn new(again: BytesMut) -> Result<Checker> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|e| Error::failed("cannot decompress").because(e))?;
        Ok(Checker { zstd, again })
    }

    /// Refuses a frame that does not become what it was made of: a fault of a compression library has corrupted
    /// backups before, and would show only when one is needed.
    fn check(&mut self, piece: &[u8], frame: &[u8]) -> Result<()> {
        let done = self.zstd.decompress_to_buffer(frame, &mut self.again[..]);
        if done.is_ok_and(|n| self.again[..n] == *piece) {
            return Ok(());
        }
        Err(Error::failed("a compressed frame does not decompress to what went into it")
            .hint("memory or processor of this machine may be faulty; nothing was committed"))
    }
}
