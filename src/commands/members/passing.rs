//! What is learned of the bytes of a file as they pass on their way to the archive: what they hash to, and which values of
//! secrets are in them; and where that is recorded.

use std::collections::BTreeMap;

use super::{Blocks, Members};
use crate::commands::sweeping::Found as Leaking;
use crate::error::Result;
use crate::host::catalog::BlockRows;
use crate::model::blocks::{BLOCKS_FROM, Differ, Since};
use crate::model::entry::Entry;
use crate::model::sweep::{Search, Sweep};
use crate::model::tree::Index;

/// How often each value of a secret was seen, by its number.
pub(super) type Sightings = BTreeMap<usize, u64>;

/// What hashes a file as its bytes pass.
pub(super) enum Digest<'a> {
    /// All of it.
    Plain(Box<blake3::Hasher>),
    /// Block by block. What the catalog has to say about it is said at the end.
    Blocks(Box<Differ<BlockRows<'a>>>, Result<()>),
}

impl Digest<'_> {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Digest::Plain(hasher) => drop(hasher.update(bytes)),
            Digest::Blocks(differ, result) => {
                if result.is_ok() {
                    *result = differ.update(bytes, &mut |_, _| Ok(()));
                }
            }
        }
    }

    /// A hole of `count` bytes.
    fn zeros(&mut self, mut count: u64) {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        while count > 0 {
            let n = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            self.update(&ZEROS[..n]);
            count -= n as u64;
        }
    }

    pub(super) fn finish(self) -> Result<[u8; 32]> {
        match self {
            Digest::Plain(hasher) => Ok(*hasher.finalize().as_bytes()),
            Digest::Blocks(differ, result) => result.and_then(|()| differ.finish(&mut |_, _| Ok(()))).map(|s| s.blake3),
        }
    }
}

/// The search for values of secrets in the bytes of one file.
pub(super) struct Sweeper<'a> {
    search: Option<Search<'a>>,
    seen: Sightings,
}

impl<'a> Sweeper<'a> {
    pub(super) fn new(sweep: Option<&'a Sweep>) -> Sweeper<'a> {
        let search = sweep.filter(|sweep| !sweep.is_empty()).map(Sweep::search);
        Sweeper { search, seen: Sightings::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(search) = &mut self.search {
            search.push(bytes, &mut |hit| *self.seen.entry(hit.value).or_default() += 1);
        }
    }

    pub(super) fn finish(mut self) -> Sightings {
        if let Some(search) = self.search {
            search.finish(&mut |hit| *self.seen.entry(hit.value).or_default() += 1);
        }
        self.seen
    }
}

/// Both, of a file that is not held in memory.
pub(super) struct Passing<'a> {
    digest: Digest<'a>,
    sweeper: Sweeper<'a>,
    /// How much of the file is hashed.
    at: u64,
}

impl<'a> Passing<'a> {
    pub(super) fn new(digest: Digest<'a>, sweep: Option<&'a Sweep>) -> Passing<'a> {
        Passing { digest, sweeper: Sweeper::new(sweep), at: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.sweeper.push(bytes);
        self.at += bytes.len() as u64;
    }

    /// What lies between here and `offset` is a hole: zeros, which are hashed and hold no value.
    pub(super) fn hole_to(&mut self, offset: u64) {
        self.digest.zeros(offset.saturating_sub(self.at));
        self.at = self.at.max(offset);
    }

    /// The digest, and what was seen.
    pub(super) fn finish(self) -> Result<([u8; 32], Sightings)> {
        Ok((self.digest.finish()?, self.sweeper.finish()))
    }
}

impl<'a> Members<'a> {
    /// What hashes a file of `size` bytes; a large one of the state block by block.
    pub(super) fn digest(&self, path: &[u8], size: u64) -> Digest<'a> {
        match self.blocks.filter(|_| size >= BLOCKS_FROM) {
            Some(Blocks { catalog, seq }) => {
                let since = Since { seq, parent: None, born: false };
                Digest::Blocks(Box::new(Differ::new(catalog.blocks(path), since)), Ok(()))
            }
            None => Digest::Plain(Box::default()),
        }
    }

    /// Records values of secrets that were seen in a file of the state.
    pub(super) fn leaked(&mut self, index: Index, seen: Sightings) {
        if seen.is_empty() {
            return;
        }
        let path = self.scan.tree.path(index);
        let leaks =
            seen.into_iter().map(|(value, count)| Leaking { path: path.clone(), value, count, as_written: true });
        self.outcome.leaks.extend(leaks);
    }

    /// Records a file that was written.
    pub(super) fn stored(&mut self, index: Index, entry: &Entry) -> Result<()> {
        self.scan.tree.set_metadata(index, entry);
        self.outcome.contents.as_mut().map_or(Ok(()), |contents| contents.put(index, entry))
    }
}
