//! Reading objects: the start of one, or all of it in runs, several of which are on their way.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::task::JoinHandle;

use super::fault::Class;
use super::{Failed, Store};

/// Bytes that an [`ObjectReader`] asks for at once.
const RUN_BYTES: u64 = 2 << 20;
/// Runs on their way from a store that is far, so that its answers follow each other without a pause.
const RUNS_FAR: usize = 3;
/// The same for a disk: nobody waits while another thread copies the next one. A full restore takes a tenth less time so.
const RUNS_NEAR: usize = 2;

/// Reads the first `limit` bytes of an object in one request, whatever its size: a range would be an error of an empty one.
pub(super) async fn read_start(
    store: &Arc<dyn ObjectStore>,
    location: &Key,
    limit: u64,
) -> object_store::Result<Bytes> {
    let got = store.get(location).await?;
    let (size, wanted) = (got.meta.size, got.meta.size.min(limit));
    let mut stream = got.into_stream();
    let mut out = BytesMut::with_capacity(usize::try_from(wanted).unwrap_or_default().min(RUN_BYTES as usize));
    while (out.len() as u64) < wanted {
        let Some(chunk) = stream.next().await else {
            let source = format!("it ended before its {size} bytes").into();
            return Err(object_store::Error::Generic { store: "reader", source });
        };
        let chunk = chunk?;
        let room = wanted - out.len() as u64;
        out.extend_from_slice(&chunk[..chunk.len().min(usize::try_from(room).unwrap_or(usize::MAX))]);
    }
    if size <= limit {
        // At its end the connection can be used again.
        while let Some(chunk) = stream.next().await {
            chunk?;
        }
    }
    Ok(out.freeze())
}

/// An object being read: memory holds a few runs of it, whatever its size.
pub struct ObjectReader<'a> {
    store: &'a Store,
    key: String,
    size: u64,
    /// Where the next run begins that nobody asked for yet.
    next: u64,
    /// How much of it has come.
    got: u64,
    run: Bytes,
    coming: VecDeque<JoinHandle<Result<Bytes, Failed>>>,
}

impl<'a> ObjectReader<'a> {
    pub(super) fn new(store: &'a Store, key: &str, size: u64) -> ObjectReader<'a> {
        ObjectReader { store, key: key.to_owned(), size, next: 0, got: 0, run: Bytes::new(), coming: VecDeque::new() }
    }

    /// Asks for runs, so that as many as are wanted are on their way.
    fn ask(&mut self) {
        let wanted = if self.store.shared.far { RUNS_FAR } else { RUNS_NEAR };
        while self.coming.len() < wanted && self.next < self.size {
            let range = self.next..self.size.min(self.next + RUN_BYTES);
            self.next = range.end;
            let (shared, location) = (Arc::clone(&self.store.shared), Key::from(self.key.as_str()));
            self.coming.push_back(
                self.store
                    .runtime
                    .spawn(async move { shared.run(|| shared.inner.get_range(&location, range.clone()), || ()).await }),
            );
        }
    }
}

impl Drop for ObjectReader<'_> {
    fn drop(&mut self) {
        // Nobody waits for them any more.
        self.coming.iter().for_each(JoinHandle::abort);
    }
}

impl std::io::BufRead for ObjectReader<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.run.is_empty() {
            self.ask();
            if let Some(run) = self.coming.pop_front() {
                let run = self.store.runtime.block_on(run).map_err(std::io::Error::other)?;
                self.run = match run {
                    Ok(run) => run,
                    Err(e) if e.class() == Class::Short => Bytes::new(),
                    Err(e) => return Err(std::io::Error::other(self.store.failure("read", &self.key, e))),
                };
                self.got += self.run.len() as u64;
                if self.run.is_empty() || (self.got < self.size && !self.got.is_multiple_of(RUN_BYTES)) {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                // While this one is worked on, the next ones come.
                self.ask();
            }
        }
        Ok(&self.run)
    }

    fn consume(&mut self, n: usize) {
        self.run.advance(n);
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
