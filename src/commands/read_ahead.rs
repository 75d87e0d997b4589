//! Large databases are copied and checked in a thread of their own, while everything else is archived.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};

use crate::error::Result;
use crate::host::database::{self, Checks, Image, Privacy};
use crate::model::entry::Entry;
use crate::model::tree::Index;

/// A large file that is a database, and its metadata.
pub struct LargeDatabase {
    /// Its entry.
    pub index: Index,
    /// Its names on the disk.
    pub paths: Vec<PathBuf>,
    /// What `stat` said.
    pub meta: Entry,
}

/// Databases that are being read in a thread of their own; nothing else may open them meanwhile, since closing a file
/// drops all locks that this process holds on it.
pub struct Ahead {
    /// The databases, with their metadata.
    pub found: HashMap<Index, Entry>,
    /// Their images, in the order in which they were asked for.
    pub images: Receiver<Result<Image>>,
}

/// Reads one database after the other and hands each over when it is wanted.
pub fn read_ahead(
    jobs: Vec<Vec<PathBuf>>,
    staging: &Path,
    privacy: Privacy,
    checks: Checks,
    out: &SyncSender<Result<Image>>,
) {
    for paths in jobs {
        let image = database::read(database::best_name(&paths), staging, privacy, checks);
        let failed = image.is_err();
        if out.send(image).is_err() || failed {
            return;
        }
    }
}
