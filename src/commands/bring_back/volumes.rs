//! The volumes that hold what is brought back: which those are, and reading them on all cores.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::part::Part;
use super::{Plan, panicked};
use crate::commands::opened::Opened;
use crate::commands::{Event, Events};
use crate::error::Result;
use crate::host::extract::{Extractor, Limits};
use crate::host::stage::Stage;
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::entry::Kind;
use crate::model::manifest::Frame;
use crate::model::tree::Index;
use crate::stream::archive_reader::VolumeReader;

/// How often it is told how far this is.
const TICK: Duration = Duration::from_millis(20);

impl Plan<'_> {
    /// The volumes that hold something of what will be brought back, by key and size.
    pub fn volumes(&self) -> Vec<(String, u64)> {
        let mut out = Vec::new();
        for part in &self.parts {
            let Opened { tree, holders, members, .. } = part.archive;
            let mut needed = BTreeSet::new();
            for i in tree.indices().filter(|i| tree.node(*i).kind == Kind::File && part.todo(*i)) {
                for piece in holders.stored(tree, i) {
                    let level = usize::from(piece.level);
                    let frames = &members[level].header.frames;
                    let first = frames.partition_point(|f| f.tar_end() <= piece.at);
                    let held = frames[first..].iter().take_while(|f| f.tar_offset < piece.at + piece.length);
                    needed.extend(held.map(|f| (level, f.volume)));
                }
            }
            out.extend(needed.into_iter().filter_map(|(level, volume)| {
                let member = &members[level];
                let object = member.commit.objects.get(usize::try_from(volume).ok()?)?;
                Some((member.place.object(&object.name), object.size))
            }));
        }
        out
    }
}

impl Part<'_> {
    /// Reads the volumes on all cores and writes their files, but for those that were taken over.
    pub(super) fn files(
        &self,
        stages: &[Stage],
        taken: &[bool],
        world: &World,
        store: &Store,
        limits: &Limits,
        events: &mut Events<'_>,
    ) -> Result<()> {
        let Opened { tree, holders, members, .. } = self.archive;
        let stage_of = |i: Index| self.stage_of(stages, i).filter(|_| !taken[i as usize]);
        let extractor = Extractor::new(tree, holders, members.len(), &stage_of, limits);
        extractor.begin()?;
        let needed = self.needed(&extractor);
        let next = AtomicUsize::new(0);
        let work = |over: &AtomicBool| -> Result<()> {
            let mut reader = VolumeReader::new()?;
            while !over.load(Ordering::Relaxed) {
                let Some((level, volume)) = needed.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                world.check_stop()?;
                self.volume(&mut reader, store, *level, *volume, &extractor, world)?;
            }
            Ok(())
        };
        let (files_total, bytes_total) = self.totals();
        on_all_cores(needed.len(), &work, &mut || {
            let files = extractor.finished.load(Ordering::Relaxed);
            let bytes = extractor.written.load(Ordering::Relaxed);
            events(Event::Progress { files, files_total, bytes, bytes_total });
        })?;
        extractor.check_complete()
    }

    /// The volumes to read, each with the number of its archive in the chain. Incrementals are small and first, the full is
    /// from the end: databases come last in an archive, and when the last piece of a large file is there all of it is
    /// hashed once more, which should not be what everybody waits for.
    fn needed(&self, extractor: &Extractor<'_>) -> Vec<(usize, usize)> {
        let members = &self.archive.members;
        let volumes = |level: usize| (0..members[level].header.volumes.len()).rev().map(move |v| (level, v));
        let all = (0..members.len()).flat_map(volumes);
        all.filter(|(level, volume)| {
            let frames = members[*level].frames(*volume);
            frames.iter().any(|f| extractor.needs(*level, f.tar_offset, f.tar_end()))
        })
        .collect()
    }

    /// How many files are brought back, and their bytes.
    fn totals(&self) -> (u64, u64) {
        let tree = &self.archive.tree;
        let files = tree.indices().filter(|i| tree.node(*i).kind == Kind::File && self.todo(*i));
        files.fold((0, 0u64), |(n, bytes), i| (n + 1, bytes.saturating_add(self.archive.holders.bytes(tree, i))))
    }

    fn volume(
        &self,
        reader: &mut VolumeReader,
        store: &Store,
        level: usize,
        volume: usize,
        extractor: &Extractor<'_>,
        world: &World,
    ) -> Result<()> {
        let frames = self.archive.members[level].frames(volume);
        let needed: Vec<&Frame> = frames.iter().filter(|f| extractor.needs(level, f.tar_offset, f.tar_end())).collect();
        let each = &mut |frame: &Frame, tar: &[u8]| {
            world.check_stop()?;
            extractor.frame(level, frame.tar_offset, tar)
        };
        if needed.len() < frames.len() {
            self.archive.read_frames(reader, store, level, volume, &needed, each)
        } else {
            self.archive.read_volume(reader, store, level, volume, each)
        }
    }
}

/// Runs `work` on all cores, of which there is something to do for `count`, and calls `tick` meanwhile. `work` is told
/// when another one failed; the first failure is the result.
fn on_all_cores(count: usize, work: &(dyn Fn(&AtomicBool) -> Result<()> + Sync), tick: &mut dyn FnMut()) -> Result<()> {
    let (over, failure) = (AtomicBool::new(false), Mutex::new(None));
    let one = || {
        if let Err(e) = work(&over) {
            over.store(true, Ordering::Relaxed);
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, NonZero::get).min(count);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        while workers.iter().any(|w| !w.is_finished()) {
            std::thread::sleep(TICK);
            tick();
        }
        if workers.into_iter().any(|w| w.join().is_err()) { Err(panicked()) } else { Ok(()) }
    })?;
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
