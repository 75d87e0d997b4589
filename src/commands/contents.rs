//! Where the content of each file is and what it hashes to, until the manifest is written.
//!
//! For hundreds of thousands of files this would be the largest thing in memory, and it is wanted once more at the end,
//! so it then waits in a file that has no name. For fewer the memory is cheaper than the calls, and what is known of secrets
//! always stays there.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{At as _, Error, Result};
use crate::model::entry::{Entry, Kind};
use crate::model::store_key::Archive;
use crate::model::tree::{Index, Tree};

/// Bytes of a record: offset in the tar plus one, digest.
const RECORD_BYTES: usize = 40;

/// Entries of a tree for which memory is cheaper than a file: some 6 MiB.
const IN_MEMORY_MAX: usize = 100_000;

/// Places and digests by entry.
pub enum Contents {
    /// Of secrets, and of small trees.
    Memory(HashMap<Index, [u8; RECORD_BYTES]>),
    /// Of large trees; the record of an entry stands at its number.
    File(File),
}

impl Contents {
    /// None yet, of a tree of so many `entries`.
    ///
    /// # Errors
    /// When there can be no file in `staging`.
    pub fn new(archive: Archive, entries: usize, staging: &Path) -> Result<Contents> {
        Ok(match archive {
            Archive::Secrets => Contents::Memory(HashMap::new()),
            Archive::State if entries <= IN_MEMORY_MAX => Contents::Memory(HashMap::new()),
            Archive::State => Contents::File(tempfile::tempfile_in(staging).at("write in", staging)?),
        })
    }

    /// Records the content of a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&mut self, index: Index, entry: &Entry) -> Result<()> {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&entry.at.map_or(0, |at| at + 1).to_le_bytes());
        record[8..].copy_from_slice(&entry.blake3);
        match self {
            Contents::Memory(map) => drop(map.insert(index, record)),
            Contents::File(file) => file.write_all_at(&record, offset(index)).map_err(|e| {
                Error::failed("cannot write to the staging directory").because(e).hint("its disk may be full")
            })?,
        }
        Ok(())
    }

    /// The whole entry.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn entry(&self, tree: &Tree, index: Index) -> std::io::Result<Entry> {
        let mut entry = tree.entry(index);
        if entry.kind == Kind::File {
            let mut record = [0; RECORD_BYTES];
            match self {
                Contents::Memory(map) => record = map.get(&index).copied().unwrap_or(record),
                Contents::File(file) => file.read_exact_at(&mut record, offset(index))?,
            }
            let (at, blake3) = record.split_at(8);
            entry.at = u64::from_le_bytes(at.try_into().unwrap_or_default()).checked_sub(1);
            entry.blake3.copy_from_slice(blake3);
        }
        Ok(entry)
    }
}

fn offset(index: Index) -> u64 {
    u64::from(index) * RECORD_BYTES as u64
}
