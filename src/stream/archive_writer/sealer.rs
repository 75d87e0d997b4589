//! Frames are put in order and sealed into volumes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use bytes::BytesMut;

use super::compressor::Done;
use super::uploader::Volume;
use super::{Options, PIECE_BYTES, UNKEPT_BYTES, VOLUME_BYTES_MAX, stopped};
use crate::error::{Error, Result};
use crate::model::commit::Object;
use crate::model::manifest::{Frame, VolumePlace};
use crate::stream::age_keys::Recipients;
use crate::stream::resume::Past;
use crate::stream::seal;

/// Secrets bundles are padded to a multiple of this many bytes of plaintext.
pub const PADDING_BYTES: u64 = 64 << 10;

/// What is on the store before the first frame is made.
#[derive(Default)]
pub(super) struct Begun {
    pub(super) tar_offset: u64,
    frames: Vec<Frame>,
    pub(super) volumes: Vec<VolumePlace>,
    pub(super) objects: Vec<Object>,
    next_number: usize,
}

impl Begun {
    /// What an earlier run had brought there.
    pub(super) fn behind(past: Option<&Past>) -> Begun {
        past.map_or_else(Begun::default, |past| Begun {
            tar_offset: past.floor(),
            frames: past.frames.clone(),
            volumes: past.volumes.clone(),
            objects: past.objects.clone(),
            next_number: past.next_number,
        })
    }
}

/// A volume that takes frames.
struct OpenVolume {
    writer: age::stream::StreamWriter<Vec<u8>>,
    plain: u64,
    /// Its first frame.
    first: usize,
}

/// Puts frames in order and closes volumes.
pub(super) fn seal_frames(
    options: &Options,
    recipients: &Recipients,
    begun: Begun,
    frames_in: &Receiver<Result<Done>>,
    spare: &Sender<BytesMut>,
    volumes_out: &Volumes,
) -> Result<(Vec<Frame>, Vec<VolumePlace>)> {
    let failed = |e| Error::failed("cannot seal a volume").because(e);
    let mut out =
        Sealer { frames: begun.frames, volumes: begun.volumes, next_number: begun.next_number, out: volumes_out };
    let mut waiting = BTreeMap::new();
    let mut open: Option<OpenVolume> = None;
    let (mut next, mut tar_offset) = (0, begun.tar_offset);
    for done in frames_in {
        let done = done?;
        waiting.insert(done.number, done);
        while let Some(done) = waiting.remove(&next) {
            next += 1;
            let volume = match &mut open {
                Some(volume) => volume,
                None => {
                    let writer = seal::begin(recipients, volumes_out.buffer())?;
                    open.insert(OpenVolume { writer, plain: 0, first: out.frames.len() })
                }
            };
            volume.writer.write_all(&done.compressed[..done.length]).map_err(failed)?;
            let length = u32::try_from(done.length).expect("a frame is small");
            out.frames.push(Frame {
                volume: u32::try_from(out.volumes.len()).expect("volumes are numbered with six digits"),
                offset: volume.plain,
                length,
                tar_offset,
                tar_length: done.tar_length,
                blake3: done.blake3,
            });
            volume.plain += u64::from(length);
            tar_offset += u64::from(done.tar_length);
            drop(spare.send(done.compressed));
            if volume.plain + PIECE_BYTES as u64 > VOLUME_BYTES_MAX {
                out.close(open.take())?;
            }
        }
    }
    if let Some(volume) = open.as_mut().filter(|_| options.pad) {
        let padding = skippable(volume.plain);
        volume.writer.write_all(&padding).map_err(failed)?;
        volume.plain += padding.len() as u64;
    }
    out.close(open)?;
    Ok((out.frames, out.volumes))
}

/// Where sealed volumes go, and where their memory comes back from.
pub(super) struct Volumes {
    out: SyncSender<Volume>,
    empty: Receiver<Vec<u8>>,
}

impl Volumes {
    /// They go out by the one and their memory comes back by the other.
    pub(super) fn new(out: SyncSender<Volume>, empty: Receiver<Vec<u8>>) -> Volumes {
        Volumes { out, empty }
    }

    /// Memory for a volume and its seal, so that it need not grow.
    fn buffer(&self) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(UNKEPT_BYTES))
    }
}

/// A zstd skippable frame (RFC 8878 section 3.1.2) that brings `plain` bytes to a multiple of [`PADDING_BYTES`].
pub fn skippable(plain: u64) -> Vec<u8> {
    let mut fill = PADDING_BYTES - (plain + 8) % PADDING_BYTES;
    fill %= PADDING_BYTES;
    let mut out = vec![0x50, 0x2a, 0x4d, 0x18];
    out.extend_from_slice(&u32::try_from(fill).expect("less than 64 KiB").to_le_bytes());
    out.resize(out.len() + usize::try_from(fill).expect("less than 64 KiB"), 0);
    out
}

/// The frame table and the volumes, as they grow.
struct Sealer<'a> {
    frames: Vec<Frame>,
    volumes: Vec<VolumePlace>,
    next_number: usize,
    out: &'a Volumes,
}

impl Sealer<'_> {
    fn close(&mut self, open: Option<OpenVolume>) -> Result<()> {
        let Some(OpenVolume { writer, plain, first }) = open else { return Ok(()) };
        let sealed = writer.finish().map_err(|e| Error::failed("cannot seal a volume").because(e))?;
        let header = seal::header_length(&sealed).expect("age writes its header first") as u64;
        let place = VolumePlace { header, plain };
        let (index, number) = (self.volumes.len(), self.next_number);
        self.volumes.push(place);
        self.next_number += 1;
        let volume = Volume { index, number, sealed, place, frames: self.frames[first..].to_vec() };
        self.out.out.send(volume).map_err(|_| stopped())
    }
}
