//! Reads objects on all cores and compares their digests: memory holds a run of each thread, whatever there is.

use std::io::BufRead as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::{Finding, What, finding};
use crate::commands::{Event, Events};
use crate::error::Result;
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::commit::Object;
use crate::model::manifest::hex;
use crate::model::path::printable;

/// What a reading thread tells.
enum Progress {
    Bytes(u64),
    Read(Option<Finding>),
}

/// Reads objects on all cores, each in runs, and compares their digests. Gives objects and bytes read.
pub(super) fn read_all(
    world: &World,
    store: &Store,
    work: &[(String, &Object)],
    findings: &mut Vec<Finding>,
    events: &mut Events<'_>,
) -> Result<(u64, u64)> {
    let total: u64 = work.iter().map(|(_, o)| o.size).sum();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(work.len());
    let (next, stop) = (Mutex::new(work.iter()), AtomicBool::new(false));
    let (mut objects, mut bytes) = (0, 0);
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        for _ in 0..threads {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || read_some(store, next, stop, &sender));
        }
        drop(sender);
        for told in receiver {
            match told {
                Progress::Bytes(n) => bytes += n,
                Progress::Read(finding) => {
                    objects += 1;
                    findings.extend(finding);
                }
            }
            if world.check_stop().is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            events(Event::Progress { files: objects, files_total: work.len() as u64, bytes, bytes_total: total });
        }
    });
    world.check_stop()?;
    Ok((objects, bytes))
}

type Queue<'a> = Mutex<std::slice::Iter<'a, (String, &'a Object)>>;

fn read_some(store: &Store, next: &Queue<'_>, stop: &AtomicBool, tell: &Sender<Progress>) {
    loop {
        let taken = next.lock().ok().and_then(|mut queue| queue.next());
        let Some((name, object)) = taken.filter(|_| !stop.load(Ordering::Relaxed)) else { return };
        let finding = match digest(store, name, object.size, stop, tell) {
            Ok(digest) if digest == object.sha256 => None,
            Ok(digest) => {
                let why = format!("its SHA-256 is {}, and {} was signed", hex(&digest), hex(&object.sha256));
                Some(finding(What::Altered, name, why))
            }
            Err(e) => Some(unreadable(store, name, &e)),
        };
        if tell.send(Progress::Read(finding)).is_err() {
            return;
        }
    }
}

/// The listing may be older than the objects: what is gone by now is missing, anything else could not be read.
fn unreadable(store: &Store, name: &str, e: &std::io::Error) -> Finding {
    match store.get_if_there(name, 0) {
        Ok(None) => finding(What::Missing, name, "it was listed, and is not on the store"),
        _ => finding(What::Unreadable, name, printable(e.to_string().as_bytes())),
    }
}

fn digest(
    store: &Store,
    name: &str,
    size: u64,
    stop: &AtomicBool,
    tell: &Sender<Progress>,
) -> std::io::Result<[u8; 32]> {
    use sha2::Digest as _;
    let mut reader = store.open_object(name, size);
    let mut hasher = sha2::Sha256::new();
    loop {
        let run = reader.fill_buf()?;
        if run.is_empty() {
            return Ok(hasher.finalize().into());
        }
        if stop.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        hasher.update(run);
        let n = run.len();
        reader.consume(n);
        // Nobody listens once the run was given up.
        tell.send(Progress::Bytes(n as u64)).ok();
    }
}
