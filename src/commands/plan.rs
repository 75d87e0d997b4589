//! What an incremental holds: every difference is looked at, and each changed entry goes whole, as a delta, or by name.
//!
//! Here is the plan and the order in which it is made. Beside it: the `look` at each entry, at `files` and at `databases`,
//! the `bases` that something could be made from, what makes the list `complete`, and the `estimate` for another parent.

mod bases;
mod complete;
mod databases;
mod estimate;
mod files;
mod look;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use self::bases::Bases;
pub use self::estimate::estimate;
use super::changes::{Changes, Gone, Places};
use super::patch_spool::{PatchReader, PatchSpool, Spooled};
use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::host::database::Checks;
use crate::host::metadata::Names;
use crate::host::scan::{Scan, Source};
use crate::host::world::World;
use crate::model::database::Facts;
use crate::model::tree::Index;

/// What is done about an entry that an incremental lists.
#[derive(Debug)]
pub enum Action {
    /// It is listed: a directory, a link, something missing.
    Listed,
    /// It is stored whole; `as_bytes` even if it looks like a database.
    Whole {
        /// Whether it was found that SQLite cannot read it.
        as_bytes: bool,
    },
    /// It is made from a file of the parent's tree.
    Delta(Box<Made>),
}

/// How a file is made from another one.
#[derive(Clone, Debug)]
pub struct Made {
    /// The file of the parent's tree.
    pub base: Vec<u8>,
    /// What replaces some of it.
    pub patch: Spooled,
    /// Bytes of the result.
    pub size: u64,
    /// BLAKE3 of the result.
    pub blake3: [u8; 32],
    /// Of a database, what was learned when it was read.
    pub facts: Option<Box<Facts>>,
}

/// What an incremental holds.
pub struct Plan {
    /// What is done about each entry that is listed.
    pub actions: HashMap<Index, Action>,
    /// Entries that were looked at and did not change.
    pub same: HashSet<Index>,
    /// What is deleted; `false` where it only has to make room for something that this archive brings.
    pub deleted: BTreeMap<Vec<u8>, bool>,
    /// The bytes of patches.
    pub patches: PatchReader,
    /// Bytes of content, about.
    pub bytes: u64,
    /// Whether anything changed since the last run, rather than only since the parent.
    pub changed: bool,
    /// What could not be read, for the report.
    pub unreadable: Vec<String>,
    /// Files that went away between being found and being read.
    pub vanished: u64,
}

/// Everything that planning needs.
pub struct Planner<'a> {
    /// The machine.
    pub world: &'a World,
    /// What was found.
    pub scan: &'a mut Scan,
    /// Where it is in the tree.
    pub places: &'a Places,
    /// Where it was found.
    pub sources: &'a [Source],
    /// What was known.
    pub catalog: &'a Catalog,
    /// A private directory.
    pub staging: &'a Path,
    /// How databases are checked.
    pub checks: Checks,
    /// The seq of this run.
    pub seq: u64,
    /// The seq of the parent.
    pub parent: u64,
}

impl Planner<'_> {
    /// Looks at every difference and decides.
    ///
    /// # Errors
    /// When the catalog or staging fails, and a wish to stop. What cannot be read is no error here.
    pub fn plan(self, changes: &mut Changes) -> Result<Plan> {
        let Planner { world, scan, places, sources, catalog, staging, checks, seq, parent } = self;
        let spool = PatchSpool::new(staging)?;
        let bases = Bases::of(&scan.tree, catalog, parent, changes)?;
        let changed = changes.newly_lost || !changes.gone.is_empty();
        let decided = Decided { changed, ..Decided::default() };
        let mut work = Work {
            world,
            scan,
            places,
            sources,
            catalog,
            staging,
            checks,
            seq,
            parent,
            bases,
            spool,
            names: Names::default(),
            gone: std::mem::take(&mut changes.gone),
            decided,
        };
        for (index, record) in &changes.looks {
            world.check_stop()?;
            work.look(*index, record.as_ref())?;
        }
        for (index, record) in std::mem::take(&mut changes.later) {
            world.check_stop()?;
            work.later(index, &record)?;
        }
        work.hard_links()?;
        let deleted = work.deleted()?;
        work.directories(&deleted);
        changes.gone = work.gone;
        let Decided { actions, same, changed, bytes, unreadable, vanished } = work.decided;
        Ok(Plan { actions, same, deleted, patches: work.spool.finish()?, bytes, changed, unreadable, vanished })
    }
}

/// What was decided so far; each as [`Plan`] has it.
#[derive(Default)]
struct Decided {
    actions: HashMap<Index, Action>,
    same: HashSet<Index>,
    changed: bool,
    bytes: u64,
    unreadable: Vec<String>,
    vanished: u64,
}

/// A [`Planner`] at work.
struct Work<'a> {
    world: &'a World,
    scan: &'a mut Scan,
    places: &'a Places,
    sources: &'a [Source],
    catalog: &'a Catalog,
    staging: &'a Path,
    checks: Checks,
    seq: u64,
    parent: u64,
    bases: Bases,
    spool: PatchSpool,
    names: Names,
    gone: BTreeMap<Vec<u8>, Gone>,
    decided: Decided,
}
