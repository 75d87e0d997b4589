//! Takes an archive from one store to another, or to another place on the same one: ciphertext that nobody has to open,
//! compared on its way with what was signed.
//!
//! Its commit comes last, and only when all that it names is there. What is there already is not sent again, so that
//! whoever was interrupted goes on; what is there with the right size is taken for the same, as nothing on a store is
//! ever there in part, and `verify` proves it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use bytes::Bytes;

use super::session::sha256;
use super::snapshots::Found;
use crate::error::{Error, Result};
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::commit::{COMMIT_BYTES_MAX, Commit, Object, SIGNATURE_BYTES_MAX};
use crate::model::manifest::hex;
use crate::model::prune::REMAINS_DAYS;
use crate::model::store_key::{COMMIT, Place, SIGNATURE};

/// After so many seconds what has no commit may be taken for what an interrupted run left.
const REMAINS_SECONDS: i64 = REMAINS_DAYS * 86_400;

/// From where to where.
pub struct Way<'a> {
    /// The machine.
    pub world: &'a World,
    /// Where archives are.
    pub from: &'a Store,
    /// Where they go.
    pub to: &'a Store,
    /// Whether the store that they go to may be listed.
    pub listable: bool,
}

/// What was put, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Volumes and manifests.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Way<'_> {
    /// What [`Way::send`] would put. `there` is what stands at `at` already, with sizes.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when the archive is not whole, or something else is where it would go.
    pub fn measure(&self, found: &Found, at: &Place, there: &BTreeMap<String, u64>) -> Result<Sent> {
        let objects = self.lacking(whole(found)?, at, there)?;
        Ok(Sent { objects: objects.len() as u64, bytes: objects.iter().map(|o| o.size).sum() })
    }

    /// Takes an archive that verifies to `at`, where `there` stands already. `moved` is told the bytes of each object
    /// that was put.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when it is not what was signed, or something else is where it would go:
    /// then no commit was put, and others may go on. Anything else is of the stores, and the next try goes on.
    pub fn send(
        &self,
        found: &Found,
        at: &Place,
        there: &BTreeMap<String, u64>,
        moved: &mut dyn FnMut(u64),
    ) -> Result<Sent> {
        let commit = whole(found)?;
        let lacking = self.lacking(commit, at, there)?;
        let (text, signature) = signed(self.from, found)?;
        for (name, bytes) in [(SIGNATURE, &signature), (COMMIT, &text)] {
            if let Some(size) = there.get(name).filter(|size| **size != bytes.len() as u64) {
                return Err(self.other(at, name, *size, bytes.len() as u64));
            }
        }
        self.objects(&found.place, at, &lacking, moved)?;
        // A lifecycle may have taken meanwhile what an earlier run had put; and whoever tidies up a directory takes what is
        // old and has no commit yet for remains.
        let resembles_remains = at.id.unix_seconds().saturating_add(REMAINS_SECONDS / 2) <= self.world.now();
        if self.listable && (lacking.len() < commit.objects.len() || resembles_remains) {
            self.still_there(commit, at, &[])?;
        }
        for (name, bytes) in [(SIGNATURE, signature), (COMMIT, text)] {
            self.world.check_stop()?;
            if !there.contains_key(name) {
                self.put(&at.object(name), bytes)?;
            }
        }
        Ok(Sent { objects: lacking.len() as u64, bytes: lacking.iter().map(|o| o.size).sum() })
    }

    /// Whether an archive that was sent is there, to its commit.
    ///
    /// # Errors
    /// When it is not, or the store cannot be listed.
    pub fn has_arrived(&self, found: &Found, at: &Place) -> Result<()> {
        self.still_there(whole(found)?, at, &[SIGNATURE, COMMIT])
    }

    fn still_there(&self, commit: &Commit, at: &Place, others: &[&str]) -> Result<()> {
        let listed = self.to.list(&at.directory())?;
        let now: BTreeMap<String, u64> =
            listed.iter().filter_map(|l| Some((Place::parse(&l.key)?.1.to_owned(), l.size))).collect();
        let lacking = self.lacking(commit, at, &now)?;
        let other = others.iter().copied().find(|name| !now.contains_key(*name));
        match lacking.first().map(|object| object.name.as_str()).or(other) {
            None => Ok(()),
            Some(name) => {
                let (key, store) = (at.object(name), self.to.name());
                Err(Error::failed(format!("{key} went away on {store} in the meantime"))
                    .hint("run the same command again; a lifecycle, or somebody else, is removing things there"))
            }
        }
    }

    /// The objects of a commit that are not there yet.
    fn lacking<'c>(&self, commit: &'c Commit, at: &Place, there: &BTreeMap<String, u64>) -> Result<Vec<&'c Object>> {
        let mut out = Vec::new();
        for object in &commit.objects {
            match there.get(&object.name) {
                None => out.push(object),
                Some(size) if *size == object.size => {}
                Some(size) => return Err(self.other(at, &object.name, *size, object.size)),
            }
        }
        Ok(out)
    }

    fn other(&self, at: &Place, name: &str, size: u64, signed: u64) -> Error {
        let key = at.object(name);
        Error::damaged(format!("{key} on {} has {size} bytes, and {signed} were signed", self.to.name()))
            .hint("nothing is ever replaced: remove it there, and copy again")
    }

    /// Puts objects, a few at a time: memory holds as many of them as there are threads.
    fn objects(&self, from: &Place, at: &Place, objects: &[&Object], moved: &mut dyn FnMut(u64)) -> Result<()> {
        let threads = self.from.uploads().max(self.to.uploads()).min(objects.len());
        let (queue, stop) = (Mutex::new(objects.iter()), AtomicBool::new(false));
        let mut failure = None;
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            for _ in 0..threads {
                let (sender, queue, stop) = (sender.clone(), &queue, &stop);
                scope.spawn(move || {
                    loop {
                        let taken = queue.lock().ok().and_then(|mut queue| queue.next());
                        let Some(object) = taken.filter(|_| !stop.load(Ordering::Relaxed)) else { return };
                        let done = self.object(from, at, object).map(|()| object.size);
                        if sender.send(done).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for done in receiver {
                match done {
                    Ok(bytes) => moved(bytes),
                    Err(e) => {
                        stop.store(true, Ordering::Relaxed);
                        failure.get_or_insert(e);
                    }
                }
            }
        });
        failure.map_or(Ok(()), Err)
    }

    fn object(&self, from: &Place, at: &Place, object: &Object) -> Result<()> {
        self.world.check_stop()?;
        let key = from.object(&object.name);
        let bytes = self.from.get(&key, object.size)?;
        let digest = sha256(&bytes);
        if bytes.len() as u64 != object.size || digest != object.sha256 {
            let (name, is, was) = (self.from.name(), hex(&digest), hex(&object.sha256));
            return Err(Error::damaged(format!(
                "{key} on {name} is damaged: its SHA-256 is {is}, and {was} was signed"
            ))
            .hint("`lifeboat verify` looks at everything there"));
        }
        self.put(&at.object(&object.name), bytes)
    }

    /// Puts an object. Where nobody may look, what is there already is what an interrupted run has put.
    fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        if self.listable {
            return self.to.put(key, bytes).map(|_| ());
        }
        self.to.put_if_absent(key, bytes).map(|_| ())
    }
}

/// The commit of an archive that verifies, and of which nothing is missing in the listing.
fn whole(found: &Found) -> Result<&Commit> {
    let dir = found.place.directory();
    let commit = found.verified().ok_or_else(|| Error::damaged(format!("{dir} does not verify")))?;
    match found.damage() {
        Some(damage) => Err(Error::damaged(format!("{dir} is damaged: {damage}"))),
        None => Ok(commit),
    }
}

/// Commit and signature of an archive, as they were when it was judged.
fn signed(store: &Store, found: &Found) -> Result<(Bytes, Bytes)> {
    let read = |name: &str, limit: u64, digest: &[u8; 32]| {
        let key = found.place.object(name);
        let bytes = store.get(&key, limit)?;
        if sha256(&bytes) != *digest {
            return Err(Error::damaged(format!("{key} on {} was exchanged in the meantime", store.name())));
        }
        Ok(bytes)
    };
    let text = read(COMMIT, COMMIT_BYTES_MAX, &found.commit_sha256)?;
    Ok((text, read(SIGNATURE, SIGNATURE_BYTES_MAX, &found.signature_sha256)?))
}
