//! The directories that wait for a walker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::model::class::Below;
use crate::model::tree::Index;

/// An entry of a walker's own tree.
pub(super) type Place = (usize, Index);

/// A directory that has still to be looked into.
pub(super) struct Pending {
    pub(super) place: Place,
    pub(super) rel: Vec<u8>,
    pub(super) below: Below,
    pub(super) device: u64,
}

/// Directories that wait for a walker.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
    listings: AtomicU64,
    over: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    dirs: Vec<Pending>,
    /// Walkers that may still find more.
    busy: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next directory; nothing once no walker can find another one.
    pub(super) fn take(&self) -> Option<Pending> {
        let mut waiting = self.lock();
        loop {
            if self.over.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(dir) = waiting.dirs.pop() {
                waiting.busy += 1;
                return Some(dir);
            }
            if waiting.busy == 0 {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A walker is done with a directory, in which it found others.
    pub(super) fn put(&self, found: &mut Vec<Pending>) {
        let mut waiting = self.lock();
        waiting.busy -= 1;
        waiting.dirs.append(found);
        drop(waiting);
        self.changed.notify_all();
    }

    /// No walker goes on.
    pub(super) fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Adds directories while no walker is at work.
    pub(super) fn begin(&self, found: &mut Vec<Pending>) {
        self.lock().dirs.append(found);
    }

    /// The number of the next listing; higher for what lies deeper.
    pub(super) fn number(&self) -> u64 {
        self.listings.fetch_add(1, Ordering::Relaxed)
    }
}
