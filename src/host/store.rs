//! The store: the one place that knows `object_store` and its async runtime. Everything above it blocks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use super::world::{World, private_dir};
use crate::error::{At as _, Error, Result};
use crate::model::path::{printable, printable_path};

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
    inner: Arc<dyn ObjectStore>,
    runtime: tokio::runtime::Runtime,
    url: String,
    local: Option<PathBuf>,
}

/// Bytes that an [`ObjectReader`] asks for at once.
const RUN_BYTES: u64 = 2 << 20;

/// An object being read: memory holds one run of it, whatever its size.
pub struct ObjectReader<'a> {
    store: &'a Store,
    key: String,
    size: u64,
    next: u64,
    run: Bytes,
}

impl std::io::BufRead for ObjectReader<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.run.is_empty() && self.next < self.size {
            let end = self.size.min(self.next + RUN_BYTES);
            let location = Key::from(self.key.as_str());
            let get = self.store.inner.get_range(&location, self.next..end);
            self.run = self.store.runtime.block_on(get).map_err(std::io::Error::other)?;
            if self.run.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.next += self.run.len() as u64;
        }
        Ok(&self.run)
    }

    fn consume(&mut self, n: usize) {
        bytes::Buf::advance(&mut self.run, n);
    }
}

impl std::io::Read for ObjectReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let run = std::io::BufRead::fill_buf(self)?;
        let n = run.len().min(buf.len());
        buf[..n].copy_from_slice(&run[..n]);
        std::io::BufRead::consume(self, n);
        Ok(n)
    }
}

/// Whether a store may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It has to be there.
    Existing,
    /// A local directory is made if it is not there.
    Create,
}

/// The directory a URL or plain path means, if it is on the local disk.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) for anything else.
pub fn local_directory(url: &str, home: &Path) -> Result<PathBuf> {
    let shown = printable(url.as_bytes());
    if let Some((scheme, _)) = url.split_once("://") {
        if scheme != "file" {
            return Err(Error::usage(format!("no store of kind `{scheme}://` can be used: {shown}"))
                .hint("this version stores in a local directory: --store /path or file:///path"));
        }
        let parsed = url::Url::parse(url).ok().and_then(|u| u.to_file_path().ok());
        return parsed.ok_or_else(|| Error::usage(format!("`{shown}` is no file URL")).hint("write file:///path"));
    }
    let path = crate::model::config::expand_home(url, home);
    if path.is_absolute() {
        return Ok(path);
    }
    std::path::absolute(&path).at("find", &path)
}

impl Store {
    /// Opens the store at `url`: a plain path or `file:///path`.
    ///
    /// # Errors
    /// [`Kind::NotThere`](crate::Kind::NotThere) when it is not there and may not be made.
    pub fn open(world: &World, url: &str, access: Access) -> Result<Store> {
        let dir = local_directory(url, &world.home)?;
        let name = printable_path(&dir);
        if access == Access::Create {
            private_dir(&dir)?;
        } else if !dir.is_dir() {
            return Err(Error::not_there(format!("the store {name} is not there"))
                .hint("mount its disk, or name another one with --store"));
        }
        let local = LocalFileSystem::new_with_prefix(&dir)
            .map_err(|e| Error::not_there(format!("cannot open the store {name}")).because(e))?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        let mut inner: Arc<dyn ObjectStore> = Arc::new(local);
        if let Some(wrap) = &world.wrap_store {
            inner = wrap(inner);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Error::failed("cannot start the runtime of the store").because(e))?;
        Ok(Store { inner, runtime, url: url.to_owned(), local: Some(dir) })
    }

    /// What the store is called in messages.
    pub fn name(&self) -> String {
        printable(self.url.as_bytes())
    }

    /// The directory of a store on the local disk.
    pub fn local(&self) -> Option<&Path> {
        self.local.as_deref()
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
        let size: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let payload = object_store::PutPayload::from_iter(chunks.iter().cloned());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let location = Key::from(key);
        let put = self.inner.put_opts(&location, payload, options);
        let failure = match self.runtime.block_on(put) {
            Ok(_) => return Ok(Put::Created),
            Err(e) => e,
        };
        // Whether the object is there is decided by looking: a failed call may have stored it all the same.
        let there = match self.get_if_there(key, size) {
            Ok(there) => there,
            Err(_) => return Err(self.failure("write", key, failure)),
        };
        match there {
            Some(there) if there.iter().eq(chunks.iter().flatten()) => Ok(Put::Same),
            Some(_) => Err(Error::failed(format!("{key} is on {} already, with other content", self.name()))
                .hint("objects are never overwritten; if this is a new machine or series, choose another --name")),
            None => Err(self.failure("write", key, failure)),
        }
    }

    /// Reads an object of at most `limit` bytes; `None` when it is not there. A larger one comes cut to one byte more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get_if_there(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let get = async {
            let meta = self.inner.head(&Key::from(key)).await?;
            if meta.size == 0 {
                // A range without bytes is an error, an object without bytes is none.
                return Ok(Bytes::new());
            }
            self.inner.get_range(&Key::from(key), 0..meta.size.min(limit.saturating_add(1))).await
        };
        match self.runtime.block_on(get) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
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

    /// Deletes an object; that it is not there is no error.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn delete(&self, key: &str) -> Result<()> {
        match self.runtime.block_on(self.inner.delete(&Key::from(key))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failure("delete", key, e)),
        }
    }

    /// Opens an object of `size` bytes for reading from its start, a run at a time.
    pub fn open_object(&self, key: &str, size: u64) -> ObjectReader<'_> {
        ObjectReader { store: self, key: key.to_owned(), size, next: 0, run: Bytes::new() }
    }

    /// All objects below `prefix`, in no order.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let key = Key::from(prefix);
        // A name that cannot be a key is none of ours; on a local disk anybody may have left one.
        let possible = |found: &Result<_, object_store::Error>| {
            std::future::ready(!matches!(found, Err(object_store::Error::InvalidPath { .. })))
        };
        let list = self.inner.list(Some(&key)).filter(possible);
        let list = list.map_ok(|m| Listed { key: m.location.to_string(), size: m.size });
        self.runtime.block_on(list.try_collect()).map_err(|e| self.failure("list", prefix, e))
    }

    /// The directories directly below `prefix`.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        let key = Key::from(prefix);
        let list = self.inner.list_with_delimiter(Some(&key));
        let found = self.runtime.block_on(list).map_err(|e| self.failure("list", prefix, e))?;
        Ok(found.common_prefixes.into_iter().map(|p| p.to_string()).collect())
    }

    /// Whether `error` says that the store does not permit something, rather than that it failed: a credential that may
    /// only add objects cannot look at them.
    pub fn is_refusal(error: &Error) -> bool {
        use object_store::Error as E;
        let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<E>());
        let refusals = |e: &E| {
            matches!(
                e,
                E::PermissionDenied { .. }
                    | E::Unauthenticated { .. }
                    | E::NotSupported { .. }
                    | E::NotImplemented { .. }
            )
        };
        cause.is_some_and(refusals)
    }

    fn failure(&self, verb: &str, key: &str, e: object_store::Error) -> Error {
        let mut error = Error::failed(format!("cannot {verb} {key} on {}", self.name()));
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

    /// Reads a range of an object that a commit promises to be at least that long.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when it is not there, else when it cannot be read.
    pub fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        match self.runtime.block_on(self.inner.get_range(&Key::from(key), range)) {
            Ok(bytes) => Ok(bytes),
            Err(object_store::Error::NotFound { .. }) => {
                Err(Error::damaged(format!("{key} is missing on {}", self.name())))
            }
            Err(e) => Err(self.failure("read", key, e)),
        }
    }
}
