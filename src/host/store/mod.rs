//! The store: the one place that knows `object_store`, HTTP and their async runtime. Everything above it blocks.
//!
//! Retries are made here and not in the crate, which would repeat a request with the signature of the first try: here
//! each try is signed anew, a stop is noticed between and during tries, and what became of a put is settled by looking.

mod attack;
mod aws;
mod azure;
mod command;
mod connect;
mod fault;
mod google;
mod kept;
mod limit;
mod location;
mod reader;
mod tokens;
mod trace;
mod transport;
mod warm;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig,
};

pub use self::attack::{Attempt, Outcome};
pub use self::kept::{Source, keep};
pub use self::location::{Bucket, Location, Provider};
pub use self::reader::ObjectReader;
pub use self::warm::Warmth;

use self::attack::Door;
use self::fault::{Class, Fault, backoff};
use self::trace::Trace;
use super::world::{World, private_dir};
use crate::error::{Error, Result};
use crate::model::path::{printable, printable_path};

/// How long nothing may move on a connection before it is given up, in seconds.
const SILENCE_SECONDS: u64 = 60;
/// How long a failing operation is tried again once the store was reached, in seconds. A line that is down for a moment,
/// a laptop that finds its network again: both are back within minutes.
const PATIENCE_SECONDS: u64 = 300;
/// The same for a store that was never reached in this run: more likely its address is wrong.
const FIRST_PATIENCE: Duration = Duration::from_secs(20);
/// How often an operation is tried again at least, however long each try takes to fail.
const TRIES_MIN: u32 = 2;
/// How often an operation that runs looks whether it is to stop.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// Volumes on their way to a store that is far: enough that the line never waits for one answer.
const UPLOADS_FAR: u64 = 4;
/// The most of them: each takes the memory of a volume.
const UPLOADS_MAX: u64 = 16;

/// What became of a create-only put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was not there and is now.
    Created,
    /// The very same bytes were there already.
    Same,
}

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key below the store's prefix.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// An open store.
pub struct Store {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
    url: String,
    place: Location,
    door: Door,
    source: Option<Source>,
    uploads: usize,
    /// Puts whose answer was lost in this run and that nothing is known of, with the SHA-256 of what was put.
    unsettled: Mutex<HashMap<String, [u8; 32]>>,
}

/// What the threads of a store share.
struct Shared {
    inner: Arc<dyn ObjectStore>,
    far: bool,
    patience: Duration,
    reached: AtomicBool,
    stop: Arc<AtomicBool>,
    /// How far this machine's clock is ahead of the store's, in seconds; the least value for not known.
    ahead: AtomicI64,
    fixed_now: Option<i64>,
}

/// Whether a store may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It has to be there.
    Existing,
    /// A local directory is made if it is not there. Buckets are never made.
    Create,
}

/// Why an operation did not succeed.
enum Failed {
    /// A store that is far: what is known of it.
    Far(Fault),
    /// A local store, as its crate says it.
    Near(object_store::Error),
    /// The user wants it to stop.
    Stopped,
}

impl Failed {
    fn class(&self) -> Class {
        match self {
            Failed::Far(fault) => fault.class,
            Failed::Near(object_store::Error::NotFound { .. }) => Class::Missing,
            Failed::Near(_) | Failed::Stopped => Class::Other,
        }
    }
}

/// The URL that goes into configuration and kit: it means the same from everywhere, and holds what this machine's
/// environment says of the store's place, since the next machine may not have that.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) when no store can be meant, without repeating what may be a credential.
pub fn canonical_url(world: &World, text: &str) -> Result<String> {
    match locate(world, text)? {
        Location::Local(dir) => {
            let dir = dir.to_str().ok_or_else(|| Error::usage("the store's path is not UTF-8"))?;
            let url = url::Url::from_file_path(dir);
            url.map(|u| u.to_string())
                .map_err(|()| Error::usage(format!("{} is no absolute path", printable(dir.as_bytes()))))
        }
        Location::Bucket(bucket) => Ok(bucket.url()),
    }
}

/// Where a URL leads from this machine.
///
/// # Errors
/// As [`canonical_url`].
pub fn locate(world: &World, text: &str) -> Result<Location> {
    let mut location = Location::parse(text, &world.home)?;
    if let Location::Bucket(bucket) = &mut location {
        match bucket.provider {
            Provider::S3 => aws::complete(world, bucket)?,
            Provider::Azure => azure::complete(world, bucket)?,
            Provider::Gcs => {}
        }
    }
    Ok(location)
}

/// An error of a credential that another program should have given.
fn no_credential(text: String) -> object_store::Error {
    Trace::note(|seen| {
        let failure = trace::Failure { sent: false, text: text.clone() };
        *seen = trace::Seen { failure: Some(failure), program: true, ..trace::Seen::default() };
    });
    object_store::Error::Unauthenticated { path: String::new(), source: text.into() }
}

/// A number in the environment, from 1 to `most`.
fn number(world: &World, name: &str, what: &str, default: u64, most: u64) -> Result<u64> {
    let Some(value) = world.var(name) else { return Ok(default) };
    let number = value.to_str().and_then(|v| v.parse().ok()).filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| Error::usage(format!("{name} is a number of {what}, 1 to {most}")))
}

/// A number of seconds in the environment.
fn seconds(world: &World, name: &str, default: u64) -> Result<Duration> {
    number(world, name, "seconds", default, 86_400).map(Duration::from_secs)
}

impl Store {
    /// Opens the store at `url`: a plain path, `file:///path`, or a bucket as [`Location`] reads it. Nothing is asked of
    /// a bucket yet.
    ///
    /// # Errors
    /// [`Kind::NotThere`](crate::Kind::NotThere) when a directory is not there and may not be made.
    pub fn open(world: &World, url: &str, access: Access) -> Result<Store> {
        Store::open_limited(world, url, access, None)
    }

    /// [`Store::open`], with a limit on what is uploaded, in bytes a second over all connections.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_limited(world: &World, url: &str, access: Access, limit: Option<u64>) -> Result<Store> {
        let place = locate(world, url)?;
        let mut source = None;
        let (mut inner, door): (Arc<dyn ObjectStore>, Door) = match &place {
            Location::Local(dir) => (Arc::new(open_local(dir, access)?), Door::None),
            Location::Bucket(bucket) => {
                let (found, with) = kept::find(world, bucket);
                source = Some(found);
                let opened = open_bucket(with.as_ref().unwrap_or(world), bucket, limit);
                opened.map_err(|e| kept::explain(e, source.as_ref()))?
            }
        };
        if let Some(wrap) = &world.wrap_store {
            inner = wrap(inner);
        }
        let uploads = number(world, "LIFEBOAT_STORE_UPLOADS", "volumes", UPLOADS_FAR, UPLOADS_MAX)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Error::failed("cannot start the runtime of the store").because(e))?;
        let shared = Shared {
            inner,
            far: matches!(place, Location::Bucket(_)),
            patience: seconds(world, "LIFEBOAT_STORE_PATIENCE", PATIENCE_SECONDS)?,
            reached: AtomicBool::new(false),
            stop: Arc::clone(&world.stop),
            ahead: AtomicI64::new(i64::MIN),
            fixed_now: world.fixed_now,
        };
        Ok(Store {
            shared: Arc::new(shared),
            runtime,
            url: url.to_owned(),
            place,
            door,
            source,
            uploads: usize::try_from(uploads).unwrap_or(1),
            unsettled: Mutex::default(),
        })
    }

    /// What the store is called in messages.
    pub fn name(&self) -> String {
        printable(self.url.as_bytes())
    }

    /// The directory of a store on the local disk.
    pub fn local(&self) -> Option<&Path> {
        match &self.place {
            Location::Local(dir) => Some(dir),
            Location::Bucket(_) => None,
        }
    }

    /// The bucket, if it is one.
    pub fn bucket(&self) -> Option<&Bucket> {
        match &self.place {
            Location::Local(_) => None,
            Location::Bucket(bucket) => Some(bucket),
        }
    }

    /// Where the credential of a bucket comes from.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// How many volumes should be on their way at the same time. Each needs its own memory.
    pub fn uploads(&self) -> usize {
        if self.shared.far { self.uploads } else { 1 }
    }

    /// How far this machine's clock is ahead of the store's, in seconds; `None` until the store has answered. A local
    /// store has no other clock.
    pub fn clock_ahead(&self) -> Option<i64> {
        Some(self.shared.ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != i64::MIN)
    }

    /// Puts an object that must not be there yet.
    ///
    /// An object that is there with the same bytes counts as put: an answer may have been lost.
    ///
    /// # Errors
    /// When it is there with other bytes, or cannot be written.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<Put> {
        self.put_chunks(key, vec![bytes.into()])
    }

    /// [`Store::put`] of an object that comes in pieces.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_chunks(&self, key: &str, chunks: Vec<Bytes>) -> Result<Put> {
        self.put_into(key, chunks, None)
    }

    /// [`Store::put`] into a storage class of a bucket, as its cloud writes it; a directory has none.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_volume(&self, key: &str, bytes: Bytes, class: Option<&str>) -> Result<Put> {
        self.put_into(key, vec![bytes], class)
    }

    fn put_into(&self, key: &str, chunks: Vec<Bytes>, class: Option<&str>) -> Result<Put> {
        let size: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let failure = match self.try_put(key, &chunks, class) {
            Ok(()) => return Ok(Put::Created),
            Err(Failed::Stopped) => return Err(Error::interrupted()),
            Err(e) => e,
        };
        // Whether the object is there is decided by looking: a failed call may have stored it all the same.
        let there = match self.get_if_there(key, size) {
            Ok(there) => there,
            // Who may not look knows it all the same if an answer to these bytes was lost in this run: the key is taken
            // now and was not then.
            Err(e) if Store::is_refusal(&e) && failure.class() == Class::Exists && self.was_lost(key, &chunks) => {
                return Ok(Put::Same);
            }
            Err(_) => return Err(self.failure("write", key, failure)),
        };
        match there {
            Some(there) if there.iter().eq(chunks.iter().flatten()) => Ok(Put::Same),
            Some(_) => Err(Error::failed(format!("{key} is on {} already, with other content", self.name()))
                .hint("objects are never overwritten; if this is a new machine or series, choose another --name")),
            None => Err(self.failure("write", key, failure)),
        }
    }

    /// Puts an object where there is none; one that is there is left as it is, whatever it holds. Gives whether it was
    /// put.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_if_absent(&self, key: &str, bytes: impl Into<Bytes>) -> Result<bool> {
        match self.try_put(key, &[bytes.into()], None) {
            Ok(()) => Ok(true),
            Err(Failed::Near(object_store::Error::AlreadyExists { .. })) => Ok(false),
            Err(e) if e.class() == Class::Exists => Ok(false),
            Err(e) => Err(self.failure("write", key, e)),
        }
    }

    fn try_put(&self, key: &str, chunks: &[Bytes], class: Option<&str>) -> Result<(), Failed> {
        let payload = PutPayload::from_iter(chunks.iter().cloned());
        let location = Key::from(key);
        let mut attributes = Attributes::new();
        if let Some(class) = class.filter(|_| self.shared.far) {
            attributes.insert(Attribute::StorageClass, class.to_owned().into());
        }
        let put = || {
            let attributes = attributes.clone();
            let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
            self.shared.inner.put_opts(&location, payload.clone(), options)
        };
        let lost = || {
            let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
            unsettled.insert(key.to_owned(), digest(chunks));
        };
        let put = self.run(put, lost).map(|_| ());
        if put.is_ok() {
            self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
        put
    }

    /// Whether the answer to a put of the very same bytes was lost in this run.
    fn was_lost(&self, key: &str, chunks: &[Bytes]) -> bool {
        let unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.get(key).is_some_and(|lost| *lost == digest(chunks))
    }

    /// Reads an object of at most `limit` bytes; `None` when it is not there. A larger one comes cut to one byte more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get_if_there(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let location = Key::from(key);
        let read = || reader::read_start(&self.shared.inner, &location, limit.saturating_add(1));
        match self.run(read, || ()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.class() == Class::Missing => Ok(None),
            Err(e) => Err(self.failure("read", key, e)),
        }
    }

    /// Reads an object that a commit or a name promises.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when it is not there or larger than `limit`.
    pub fn get(&self, key: &str, limit: u64) -> Result<Bytes> {
        match self.get_if_there(key, limit)? {
            Some(bytes) if bytes.len() as u64 > limit => {
                Err(Error::damaged(format!("{key} is larger than it should be")))
            }
            Some(bytes) => Ok(bytes),
            None => Err(Error::damaged(format!("{key} is missing on {}", self.name()))),
        }
    }

    /// Opens an object of `size` bytes for reading from its start, a run at a time.
    pub fn open_object(&self, key: &str, size: u64) -> ObjectReader<'_> {
        ObjectReader::new(self, key, size)
    }

    /// Reads a range of an object that a commit promises to be at least that long.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when it is not there, else when it cannot be read.
    pub fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        let location = Key::from(key);
        match self.run(|| self.shared.inner.get_range(&location, range.clone()), || ()) {
            Ok(bytes) => Ok(bytes),
            Err(e) if e.class() == Class::Missing => {
                Err(Error::damaged(format!("{key} is missing on {}", self.name())))
            }
            Err(e) => Err(self.failure("read", key, e)),
        }
    }

    /// All objects below `prefix`, in no order.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let key = Key::from(prefix);
        let list = || {
            // A name that cannot be a key is none of ours; on a local disk anybody may have left one.
            let possible = |found: &Result<_, object_store::Error>| {
                std::future::ready(!matches!(found, Err(object_store::Error::InvalidPath { .. })))
            };
            let list = self.shared.inner.list(Some(&key)).filter(possible);
            list.map_ok(|m| Listed { key: m.location.to_string(), size: m.size }).try_collect()
        };
        self.run(list, || ()).map_err(|e| self.failure("list", prefix, e))
    }

    /// The directories directly below `prefix`.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        let key = Key::from(prefix);
        let list = || self.shared.inner.list_with_delimiter(Some(&key));
        let found = self.run(list, || ()).map_err(|e| self.failure("list", prefix, e))?;
        Ok(found.common_prefixes.into_iter().map(|p| p.to_string()).collect())
    }

    /// Deletes an object. One that is not there is as good as deleted.
    ///
    /// # Errors
    /// When it may not be deleted, or cannot.
    pub fn delete(&self, key: &str) -> Result<()> {
        let location = Key::from(key);
        match self.run(|| self.shared.inner.delete(&location), || ()) {
            Ok(()) => Ok(()),
            Err(e) if e.class() == Class::Missing => Ok(()),
            Err(mut e) => {
                // Google names the same right for a put that would overwrite; here it is simply lacking.
                if let Failed::Far(fault) = &mut e
                    && fault.class == Class::Exists
                {
                    fault.class = Class::Refused;
                }
                Err(self.failure("delete", key, e))
            }
        }
    }

    /// Whether `error` says that the store does not permit something, rather than that it failed: a credential that may
    /// only add objects cannot look at them.
    pub fn is_refusal(error: &Error) -> bool {
        use object_store::Error as E;
        let Some(cause) = std::error::Error::source(error) else { return false };
        let near = |e: &E| {
            matches!(
                e,
                E::PermissionDenied { .. }
                    | E::Unauthenticated { .. }
                    | E::NotSupported { .. }
                    | E::NotImplemented { .. }
            )
        };
        cause.downcast_ref::<Fault>().is_some_and(|f| f.class == Class::Refused)
            || cause.downcast_ref::<E>().is_some_and(near)
    }

    /// Runs an operation, again and again where that may help; `lost` is called when a try may have had its effect though
    /// it failed.
    fn run<T, F>(&self, operation: impl Fn() -> F, lost: impl Fn()) -> Result<T, Failed>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        if !self.shared.far {
            // Begun outside of the runtime, a list of a directory goes on after a name that cannot be a key; inside, the
            // crate ends it there.
            let begun = operation();
            return self.runtime.block_on(begun).map_err(Failed::Near);
        }
        self.runtime.block_on(self.shared.run(operation, lost))
    }

    fn failure(&self, verb: &str, key: &str, failed: Failed) -> Error {
        let what = format!("cannot {verb} {key} on {}", self.name());
        match (failed, self.bucket()) {
            (Failed::Stopped, _) => Error::interrupted(),
            (Failed::Far(fault), Some(bucket)) => {
                let whole = if bucket.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", bucket.prefix) };
                let bare = fault.class == Class::NoCredential;
                let error = fault.into_error(what, bucket, &whole, self.shared.now());
                if bare { kept::explain(error, self.source.as_ref()) } else { error }
            }
            (Failed::Far(fault), None) => Error::failed(what).because(fault),
            (Failed::Near(e), _) => near_failure(Error::failed(what), e),
        }
    }
}

impl Shared {
    async fn run<T, F>(&self, operation: impl Fn() -> F, lost: impl Fn()) -> Result<T, Failed>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        if !self.far {
            return operation().await.map_err(Failed::Near);
        }
        let (mut failing, mut tries, mut fresh) = (None, 0, true);
        loop {
            let trace = Trace::default();
            let tried = match select(Box::pin(trace.follow(operation())), Box::pin(self.stopped())).await {
                Either::Left((tried, _)) => tried,
                Either::Right(_) => {
                    lost();
                    return Err(Failed::Stopped);
                }
            };
            let seen = trace.seen();
            if seen.status.is_some() && !seen.metadata {
                self.reached.store(true, Ordering::Relaxed);
            }
            if let Some(clock) = seen.clock.filter(|_| !seen.metadata) {
                self.ahead.store(self.now() - clock, Ordering::Relaxed);
            }
            let fault = match tried {
                Ok(done) => return Ok(done),
                Err(e) => Fault::of(&seen, &e),
            };
            if fault.is_ambiguous() {
                lost();
            }
            let patience =
                if self.reached.load(Ordering::Relaxed) { self.patience } else { self.patience.min(FIRST_PATIENCE) };
            // Counted from the first failure, not from the start: an upload may take longer than the patience and then
            // fail. One that takes the whole patience to fail gets its second chance all the same.
            let failing = failing.get_or_insert_with(Instant::now).elapsed();
            if !fault.may_pass(fresh) || (failing >= patience && tries >= TRIES_MIN) {
                return Err(Failed::Far(fault));
            }
            fresh &= !matches!(fault.class, Class::Credential | Class::Clock);
            let wait = backoff(tries).min(patience);
            if let Either::Right(_) = select(Box::pin(tokio::time::sleep(wait)), Box::pin(self.stopped())).await {
                return Err(Failed::Stopped);
            }
            tries += 1;
        }
    }

    /// Comes back once the program is to stop.
    async fn stopped(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(STOP_CHECK).await;
        }
    }

    fn now(&self) -> i64 {
        self.fixed_now.unwrap_or_else(|| jiff::Timestamp::now().as_second())
    }
}

fn open_local(dir: &Path, access: Access) -> Result<LocalFileSystem> {
    let name = printable_path(dir);
    if access == Access::Create {
        private_dir(dir)?;
    } else if !dir.is_dir() {
        return Err(Error::not_there(format!("the store {name} is not there"))
            .hint("mount its disk, or name another one with --store"));
    }
    let local = LocalFileSystem::new_with_prefix(dir)
        .map_err(|e| Error::not_there(format!("cannot open the store {name}")).because(e))?;
    Ok(local.with_fsync(true).with_automatic_cleanup(true))
}

fn open_bucket(world: &World, bucket: &Bucket, limit: Option<u64>) -> Result<(Arc<dyn ObjectStore>, Door)> {
    let silence = seconds(world, "LIFEBOAT_STORE_SILENCE", SILENCE_SECONDS)?;
    let connector = connect::Connector::new(world, silence);
    let transport = transport::Transport::new(connector, silence, limit.map(limit::Limit::new));
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let (inner, door) = match bucket.provider {
        Provider::S3 => aws::open(world, bucket, transport, retry)?,
        Provider::Gcs => google::open(world, bucket, transport, retry)?,
        Provider::Azure => azure::open(world, bucket, transport, retry)?,
    };
    if bucket.prefix.is_empty() {
        return Ok((Arc::from(inner), door));
    }
    Ok((Arc::new(PrefixStore::new(inner, Key::from(bucket.prefix.as_str()))), door))
}

/// SHA-256 of an object in pieces.
fn digest(chunks: &[Bytes]) -> [u8; 32] {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    chunks.iter().for_each(|chunk| hasher.update(chunk));
    hasher.finalize().into()
}

/// An error of a local store, with a hint where the disk is full.
fn near_failure(mut error: Error, e: object_store::Error) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(&e);
    while let Some(inner) = cause {
        let kind = inner.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)) {
            error = error.hint("the store is full: free some space and run the same command again");
        }
        cause = inner.source();
    }
    error.because(e)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_was_deleted_is_gone_and_deleting_it_again_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let world = World {
            env: std::collections::HashMap::new(),
            home: dir.path().to_owned(),
            host_name: String::new(),
            fixed_now: None,
            stop: Arc::default(),
            terminal: false,
            wrap_store: None,
        };
        let store = Store::open(&world, dir.path().join("store").to_str().unwrap(), Access::Create).unwrap();
        store.put("a/b", "x").unwrap();
        store.put("a/c", "y").unwrap();
        store.delete("a/b").unwrap();
        store.delete("a/b").unwrap();
        assert_eq!(store.list("a").unwrap(), [Listed { key: "a/c".to_owned(), size: 1 }]);
    }
}
