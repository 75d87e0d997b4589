//! The way out: a tar stream is cut into frames, which are compressed on all cores, checked, and sealed into volumes.
//!
//! Three kinds of threads work beside the one that produces the tar: *compressors* turn pieces into frames, the
//! *sealer* puts frames in order into the open volume, and *uploaders* hand sealed volumes to the store. Every buffer
//! comes from a pool of fixed size, so memory does not depend on the size of the archive. A compressor takes an output
//! buffer before it takes a piece: were it the other way round, finished frames that wait for an earlier one could
//! hold all buffers, and the earlier one would wait for ever.
//!
//! When a stage fails, its neighbours must not wait for it: who reads a channel owns its end, so that it closes with the
//! last reader, and a compressor that fails says so to the sealer, which would miss its frame for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::CParameter;

use super::age_keys::Recipients;
use super::resume::{self, Ledger, Notes, Past, Sealed};
use super::seal;
use super::tar_member;
use crate::error::{Error, Result};
use crate::model::commit::Object;
use crate::model::entry::Entry;
use crate::model::manifest::{Frame, VolumePlace};
use crate::model::store_key::volume_name;

/// Bytes of tar per frame: small enough for cheap random access, large enough to compress well. A file among texts then
/// costs less than a mebibyte to read.
pub const PIECE_BYTES: usize = 3 << 20;
/// A volume closes once one more frame could bring it past this many bytes of plaintext: five frames that cannot be
/// compressed, and a little. What is on its way is in memory, and memory that held a large volume once stays that large.
pub const VOLUME_BYTES_MAX: u64 = (16 << 20) + (512 << 10);
/// Members up to this size, header included, are never cut.
pub const WHOLE_BYTES_MAX: u64 = 512 << 10;
/// A piece is cut early, at the start of a member, once it is this full.
const PIECE_FULL_ENOUGH: usize = PIECE_BYTES / 4 * 3;
/// Pieces besides those that are being compressed: one that fills, and two that wait, so that no worker does. With fewer, two
/// cores stand still for a twentieth of the time.
const SPARE_PIECES: usize = 3;
/// glibc keeps freed blocks of up to 32 MiB to itself (M_MMAP_THRESHOLD in mallopt(3)); larger ones go back to the system
/// at once. What is not touched of them takes no memory. A volume fits in one.
const UNKEPT_BYTES: usize = 33 << 20;
/// The level whose parameters are set by hand, the default.
const TUNED_LEVEL: i32 = 3;
/// Level 3 looks for matches of five bytes with tables that crowd the cache of a small machine. Matches of seven, a
/// smaller table and a window over the whole frame cost 0.4 % in size and save a fifth of the time (an agent's home of
/// 1.8 GiB, two cores, both beside plain level 3 in the same minutes). The window is below what stock zstd takes.
const TUNED: [CParameter; 3] = [CParameter::WindowLog(22), CParameter::ChainLog(15), CParameter::MinMatch(7)];
/// Bytes that go nowhere at once.
const DROPPED_BYTES: usize = 256 << 10;
/// Secrets bundles are padded to a multiple of this many bytes of plaintext.
pub const PADDING_BYTES: u64 = 64 << 10;

/// How to write an archive.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// zstd level.
    pub level: i32,
    /// Whether each frame is decompressed and compared before its volume leaves.
    pub check: bool,
    /// Compressing threads.
    pub workers: usize,
    /// Volumes under way to the store at once.
    pub uploads: usize,
    /// Whether sizes are padded, as those of secrets bundles.
    pub pad: bool,
}

/// What was written.
pub struct Written {
    /// The frame table.
    pub frames: Vec<Frame>,
    /// Sizes of the volumes.
    pub volumes: Vec<VolumePlace>,
    /// The volumes as the commit lists them.
    pub objects: Vec<Object>,
}

/// A volume on its way.
struct Volume {
    /// Its place among the archive's volumes, and the number in its name.
    index: usize,
    number: usize,
    sealed: Vec<u8>,
    place: VolumePlace,
    frames: Vec<Frame>,
}

/// What is on the store before the first frame is made.
#[derive(Default)]
struct Begun {
    tar_offset: u64,
    frames: Vec<Frame>,
    volumes: Vec<VolumePlace>,
    objects: Vec<Object>,
    next_number: usize,
}

impl Begun {
    fn behind(past: Option<&Past>) -> Begun {
        past.map_or_else(Begun::default, |past| Begun {
            tar_offset: past.floor(),
            frames: past.frames.clone(),
            volumes: past.volumes.clone(),
            objects: past.objects.clone(),
            next_number: past.next_number,
        })
    }
}

struct Piece {
    number: usize,
    bytes: BytesMut,
    used: usize,
}

struct Done {
    number: usize,
    compressed: BytesMut,
    length: usize,
    tar_length: u32,
    blake3: [u8; 32],
}

/// Runs `produce`, which writes the tar, and everything behind it. `put` stores one volume and is called from several threads.
/// With `notes` the archive goes on where an earlier run was cut off, and takes notes for a later one.
///
/// # Errors
/// The first error of `produce`, `put` or of any stage; nothing is complete then.
pub fn write<T>(
    options: &Options,
    recipients: &Recipients,
    put: &(dyn Fn(&str, Bytes) -> Result<()> + Sync),
    notes: Option<Notes>,
    produce: impl FnOnce(&mut TarWriter) -> Result<T>,
) -> Result<(T, Written)> {
    let ledger = notes.as_ref().map(|notes| Arc::clone(notes.ledger()));
    let ledger = ledger.as_deref();
    let begun = Begun::behind(notes.as_ref().map(Notes::past));
    let (floor, mut objects) = (begun.tar_offset, begun.objects.clone());
    let (job_tx, job_rx) = sync_channel::<Piece>(1);
    let (raw_tx, raw_rx) = channel::<BytesMut>();
    let (frame_tx, frame_rx) = channel::<Result<Done>>();
    let (spare_tx, spare_rx) = channel::<BytesMut>();
    let (volume_tx, volume_rx) = sync_channel::<Volume>(0);
    let (empty_tx, empty_rx) = channel::<Vec<u8>>();
    let pieces = options.workers + SPARE_PIECES;
    let checked_bytes = if options.check { PIECE_BYTES } else { 0 };
    let compressed_bytes = zstd::zstd_safe::compress_bound(PIECE_BYTES);
    let slab_bytes = pieces * (PIECE_BYTES + compressed_bytes) + options.workers * checked_bytes;
    let mut slab = BytesMut::zeroed(slab_bytes.max(UNKEPT_BYTES));
    for _ in 0..pieces {
        raw_tx.send(slab.split_to(PIECE_BYTES)).expect("the receiver is alive");
        spare_tx.send(slab.split_to(compressed_bytes)).expect("the receiver is alive");
    }
    let checkers: Result<Vec<_>> = (0..options.workers)
        .map(|_| options.check.then(|| Checker::new(slab.split_to(PIECE_BYTES))).transpose())
        .collect();
    let checkers = checkers?;
    drop(slab);
    // Shared by the threads that receive, and by nobody else: when the last of them has failed, senders learn of it.
    let (job_rx, spare_rx, volume_rx) = (shared(job_rx), shared(spare_rx), shared(volume_rx));
    let broken = AtomicBool::new(false);
    let window = Window::new(begun.volumes.len(), options.uploads);
    std::thread::scope(|scope| {
        let compressors: Vec<_> = checkers
            .into_iter()
            .map(|checker| {
                let (frame_tx, raw_tx) = (frame_tx.clone(), raw_tx.clone());
                let (job_rx, spare_rx) = (Arc::clone(&job_rx), Arc::clone(&spare_rx));
                let level = options.level;
                scope.spawn(move || {
                    let mut alarm = Alarm { out: frame_tx.clone(), armed: true };
                    let done = compress(level, checker, &job_rx, &spare_rx, &raw_tx, &frame_tx);
                    alarm.armed = done.is_err();
                    done
                })
            })
            .collect();
        drop((frame_tx, raw_tx));
        let sealed_volumes = Volumes { out: volume_tx, empty: empty_rx };
        let sealer =
            scope.spawn(move || seal_frames(options, recipients, begun, &frame_rx, &spare_tx, &sealed_volumes));
        let uploaders: Vec<_> = (0..options.uploads)
            .map(|_| {
                let (empty_tx, volume_rx) = (empty_tx.clone(), Arc::clone(&volume_rx));
                let (broken, window) = (&broken, &window);
                scope.spawn(move || {
                    let done = upload(&volume_rx, &empty_tx, broken, window, ledger, put);
                    broken.fetch_or(done.is_err(), Ordering::Relaxed);
                    window.changed.notify_all();
                    done
                })
            })
            .collect();
        drop((job_rx, spare_rx, volume_rx));

        let mut writer = TarWriter {
            jobs: Some(job_tx),
            raw: raw_rx,
            piece: None,
            used: 0,
            position: floor,
            emitted: floor,
            floor,
            next: 0,
            notes,
            open: None,
            dropped: Vec::new(),
        };
        let produced = produce(&mut writer).and_then(|t| writer.finish().map(|()| t));
        // Each stage ends when the one before it has dropped its sender.
        drop(writer);
        let mut first = FirstError::default();
        let produced = first.keep(produced);
        for compressor in compressors {
            first.keep(joined(compressor.join()));
        }
        let sealed = first.keep(joined(sealer.join()));
        let mut stored = BTreeMap::new();
        for uploader in uploaders {
            stored.extend(first.keep(joined(uploader.join())).into_iter().flatten());
        }
        match (first.0, produced, sealed) {
            (None, Some(produced), Some((frames, volumes))) => {
                objects.extend(stored.into_values());
                Ok((produced, Written { frames, volumes, objects }))
            }
            (failure, ..) => Err(failure.unwrap_or_else(stopped)),
        }
    })
}

/// The error of the stage that failed first; the others' only say that they were stopped.
#[derive(Default)]
struct FirstError(Option<Error>);

impl FirstError {
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(t) => Some(t),
            Err(e) => {
                if self.0.as_ref().is_none_or(is_stopped) {
                    self.0 = Some(e);
                }
                None
            }
        }
    }
}

/// What is said where the beginning of an archive, by an earlier run, does not fit any more.
const STALE: &str = "something that an interrupted run had stored went away while the archive was continued";

/// Whether `error` says that an archive cannot be continued, and a new one can be made.
pub fn is_stale(error: &Error) -> bool {
    error.to_string() == STALE
}

const STOPPED: &str = "another stage of the archive failed";

/// What a stage says when its neighbour is gone; replaced by the neighbour's own error.
fn stopped() -> Error {
    Error::failed(STOPPED)
}

fn is_stopped(e: &Error) -> bool {
    e.to_string() == STOPPED
}

fn joined<T>(result: std::thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|_| Err(Error::failed("a thread of the archive panicked: this is a bug in lifeboat")))
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

/// Tells the sealer that a compressor ended without being done, even by a panic.
struct Alarm {
    out: Sender<Result<Done>>,
    armed: bool,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.armed {
            // Where the sealer is gone, too, it need not be told.
            drop(self.out.send(Err(stopped())));
        }
    }
}

/// What tells members of one name apart.
fn digest_of(header: &[u8], content: &[u8; 32]) -> [u8; 32] {
    *blake3::Hasher::new().update(header).update(content).finalize().as_bytes()
}

/// Takes pieces until there are no more.
fn compress(
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
struct Checker {
    zstd: zstd::bulk::Decompressor<'static>,
    again: BytesMut,
}

impl Checker {
    fn new(again: BytesMut) -> Result<Checker> {
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

fn shared<T>(receiver: Receiver<T>) -> Arc<Mutex<Receiver<T>>> {
    Arc::new(Mutex::new(receiver))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A poisoned lock means that a neighbour panicked; its join reports that.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct OpenVolume {
    writer: age::stream::StreamWriter<Vec<u8>>,
    plain: u64,
    /// Its first frame.
    first: usize,
}

/// Puts frames in order and closes volumes.
fn seal_frames(
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
struct Volumes {
    out: SyncSender<Volume>,
    empty: Receiver<Vec<u8>>,
}

impl Volumes {
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

/// How far uploads may run ahead of the first volume that is not there: what lies behind that is of no use to a run that
/// goes on, and one connection may be much slower than the others.
struct Window {
    stored: Mutex<(usize, BTreeSet<usize>)>,
    changed: Condvar,
    width: usize,
}

impl Window {
    fn new(first: usize, uploads: usize) -> Window {
        Window { stored: Mutex::new((first, BTreeSet::new())), changed: Condvar::new(), width: 2 * uploads }
    }

    /// Waits until a volume may go; it may not if another one failed.
    fn enter(&self, index: usize, broken: &AtomicBool) -> Result<()> {
        let mut stored = lock(&self.stored);
        while index >= stored.0 + self.width && !broken.load(Ordering::Relaxed) {
            // A failure is told without the lock, and so might be missed.
            let waited = self.changed.wait_timeout(stored, Duration::from_millis(100));
            stored = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        if broken.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(()) }
    }

    fn stored(&self, index: usize) {
        let mut stored = lock(&self.stored);
        stored.1.insert(index);
        while let Some(first) = stored.1.first().copied().filter(|first| *first == stored.0) {
            stored.1.remove(&first);
            stored.0 += 1;
        }
        self.changed.notify_all();
    }
}

/// Stores volumes until there are no more.
fn upload(
    volumes: &Mutex<Receiver<Volume>>,
    empty: &Sender<Vec<u8>>,
    broken: &AtomicBool,
    window: &Window,
    ledger: Option<&Ledger>,
    put: &(dyn Fn(&str, Bytes) -> Result<()> + Sync),
) -> Result<Vec<(usize, Object)>> {
    let mut done = Vec::new();
    loop {
        let Ok(Volume { index, number, sealed, place, frames }) = lock(volumes).recv() else { return Ok(done) };
        window.enter(index, broken)?;
        let name = volume_name(number);
        let sha256 = Sha256::digest(&sealed).into();
        let size = sealed.len() as u64;
        let sealed = Bytes::from(sealed);
        let object = Object { name, size, sha256 };
        if let Some(ledger) = ledger {
            ledger.sealed(&Sealed { index, number, object: &object, place, frames: &frames });
        }
        put(&object.name, sealed.clone())?;
        if let Some(ledger) = ledger {
            ledger.stored(index);
        }
        window.stored(index);
        done.push((index, object));
        // Nobody else holds it once it is stored; if somebody does, new memory is found.
        if let Ok(memory) = sealed.try_into_mut() {
            let mut memory = Vec::from(memory);
            memory.clear();
            drop(empty.send(memory));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::stream::age_keys;

    fn archive(put: &(dyn Fn(&str, Bytes) -> Result<()> + Sync), bytes: usize) -> Result<((), Written)> {
        let options = Options { level: 1, check: true, workers: 2, uploads: 2, pad: true };
        let recipients = Recipients::parse(&[age_keys::generate().0]).unwrap();
        // Not compressible, so that there are several volumes.
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        write(&options, &recipients, put, None, |tar| tar.write(&noise))
    }

    #[test]
    fn a_store_that_fails_stops_everything() {
        for fail_at in 0..3 {
            let put = |name: &str, _: Bytes| {
                if name == volume_name(fail_at) { Err(Error::failed("the disk is on fire")) } else { Ok(()) }
            };
            let error = archive(&put, 60 << 20).map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), "the disk is on fire");
        }
    }

    #[test]
    fn volumes_and_frames_add_up() {
        let sizes = Mutex::new(BTreeMap::new());
        let put = |name: &str, bytes: Bytes| {
            lock_for_test(&sizes).insert(name.to_owned(), bytes.len() as u64);
            Ok(())
        };
        let (_, written) = archive(&put, 40 << 20).unwrap();
        assert_eq!(written.volumes.len(), 3);
        let tar: u64 = written.frames.iter().map(|f| u64::from(f.tar_length)).sum();
        assert_eq!(tar, (40 << 20) + 1024);
        assert!(written.volumes.last().unwrap().plain.is_multiple_of(PADDING_BYTES));
        for object in &written.objects {
            assert_eq!(lock_for_test(&sizes)[&object.name], object.size);
        }
    }

    fn lock_for_test<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }
}
