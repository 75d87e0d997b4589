//! Sealed volumes go to the store, several at once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{lock, stopped};
use crate::error::Result;
use crate::model::commit::Object;
use crate::model::manifest::{Frame, VolumePlace};
use crate::model::store_key::volume_name;
use crate::stream::resume::{Ledger, Sealed};

/// A volume on its way.
pub(super) struct Volume {
    /// Its place among the archive's volumes, and the number in its name.
    pub(super) index: usize,
    pub(super) number: usize,
    pub(super) sealed: Vec<u8>,
    pub(super) place: VolumePlace,
    pub(super) frames: Vec<Frame>,
}

/// How far uploads may run ahead of the first volume that is not there: what lies behind that is of no use to a run that
/// goes on, and one connection may be much slower than the others.
pub(super) struct Window {
    stored: Mutex<(usize, BTreeSet<usize>)>,
    pub(super) changed: Condvar,
    width: usize,
}

impl Window {
    /// One whose first volumes, `first` of them, are there.
    pub(super) fn new(first: usize, uploads: usize) -> Window {
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
pub(super) fn upload(
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
