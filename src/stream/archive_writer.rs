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

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};

use self::compressor::{Alarm, Checker, Done, compress};
use self::sealer::{Begun, Volumes, seal_frames};
pub use self::sealer::{PADDING_BYTES, skippable};
use self::tar_writer::Piece;
pub use self::tar_writer::TarWriter;
use self::uploader::{Volume, Window, upload};
use super::age_keys::Recipients;
use super::resume::Notes;
use crate::error::{Error, Result};
use crate::model::commit::Object;
use crate::model::manifest::{Frame, VolumePlace};

mod compressor;
mod sealer;
mod tar_writer;
mod uploader;

/// Bytes of tar per frame: small enough for cheap random access, large enough to compress well. A file among texts then
/// costs less than a mebibyte to read.
pub const PIECE_BYTES: usize = 3 << 20;
/// A volume closes once one more frame could bring it past this many bytes of plaintext: five frames that cannot be
/// compressed, and a little. What is on its way is in memory, and memory that held a large volume once stays that large.
pub const VOLUME_BYTES_MAX: u64 = (16 << 20) + (512 << 10);
/// Members up to this size, header included, are never cut.
pub const WHOLE_BYTES_MAX: u64 = 512 << 10;
/// Pieces besides those that are being compressed: one that fills, and two that wait, so that no worker does. With fewer, two
/// cores stand still for a twentieth of the time.
const SPARE_PIECES: usize = 3;
/// glibc keeps freed blocks of up to 32 MiB to itself (M_MMAP_THRESHOLD in mallopt(3)); larger ones go back to the system
/// at once. What is not touched of them takes no memory. A volume fits in one.
const UNKEPT_BYTES: usize = 33 << 20;

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
                    let mut alarm = Alarm::armed(frame_tx.clone());
                    let done = compress(level, checker, &job_rx, &spare_rx, &raw_tx, &frame_tx);
                    if done.is_ok() {
                        alarm.disarm();
                    }
                    done
                })
            })
            .collect();
        drop((frame_tx, raw_tx));
        let sealed_volumes = Volumes::new(volume_tx, empty_rx);
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

        let mut writer = TarWriter::new(job_tx, raw_rx, floor, notes);
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

fn shared<T>(receiver: Receiver<T>) -> Arc<Mutex<Receiver<T>>> {
    Arc::new(Mutex::new(receiver))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A poisoned lock means that a neighbour panicked; its join reports that.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::store_key::volume_name;
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
