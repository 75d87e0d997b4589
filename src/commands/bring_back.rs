//! Restoring one or two opened archives into one target: compare, stage, extract, place, finish.
//!
//! Here is the plan, a value, with a `part` for each archive. Beside it: what is `told` of it, the `obstacles`, and how to
//! `carry_out` it, from the `volumes` that are needed.

mod carry_out;
mod obstacles;
mod part;
mod told;
mod volumes;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use self::part::Part;
use super::opened::{Opened, check_together};
use crate::error::{Error, Result};
use crate::host::compare::{Fate, LinksAbove, Look, nearest_directory};
use crate::model::asked::Globs;
use crate::model::layout::Layout;
use crate::model::path::parent;
use crate::model::preset::PAUSED_SUFFIX;

/// Where to, and what may happen there.
pub struct Goal<'a> {
    /// Where archive paths are on this disk.
    pub layout: Layout,
    /// `--target`, if it was given.
    pub target: Option<&'a Path>,
    /// What becomes of what differs.
    pub overwrite: Overwrite,
    /// Read files that have the size and time of their entries all the same.
    pub verify_existing: bool,
    /// What of the archives is wanted; all where nothing is said.
    pub globs: Option<&'a Globs>,
    /// Whether what presets know how to pause comes under another name.
    pub paused: bool,
}

impl Goal<'_> {
    /// What to think of links above the roots.
    fn links(&self) -> LinksAbove {
        if self.target.is_some() { LinksAbove::Refused } else { LinksAbove::Followed }
    }

    /// What a comparison with the target goes by.
    fn look<'l>(&self, databases: &'l HashSet<Vec<u8>>, wanted: Option<&'l [bool]>) -> Look<'l> {
        let links = self.links();
        let verify = self.verify_existing || self.overwrite == Overwrite::Always;
        Look { links, databases, wanted, verify }
    }
}

/// The path under which something is paused.
pub fn aside(path: &[u8]) -> Vec<u8> {
    [path, PAUSED_SUFFIX.as_bytes()].concat()
}

/// What becomes of something at the target that differs from the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Nothing is restored then.
    #[default]
    Refuse,
    /// It stays, and what is not there is restored.
    Never,
    /// It is replaced; a file with the size and time of its entry does not differ.
    IfChanged,
    /// It is replaced; every file is read to see whether it differs.
    Always,
}

/// Numbers of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Entries that are brought back.
    pub restored: u64,
    /// Entries that were there already.
    pub same: u64,
    /// Entries in the way of something else.
    pub replaced: u64,
    /// Entries that stay as they are though they differ.
    pub left: u64,
    /// Entries that the snapshot lacks.
    pub missing: u64,
    /// Bytes of files that are brought back.
    pub bytes: u64,
}

impl Totals {
    fn add(&mut self, part: &Part<'_>) {
        for i in part.archive.tree.indices() {
            match part.fates[i as usize] {
                Fate::Same | Fate::Settled | Fate::Paused => self.same += 1,
                Fate::Missing => self.missing += 1,
                Fate::Left => self.left += 1,
                Fate::Overridden | Fate::Unwanted => {}
                fate @ (Fate::New | Fate::Differs) => {
                    self.restored += 1;
                    self.replaced += u64::from(fate == Fate::Differs);
                    let bytes = part.archive.holders.bytes(&part.archive.tree, i);
                    self.bytes = self.bytes.saturating_add(bytes);
                }
            }
        }
    }
}

/// What a restore will do, before anything is written.
pub struct Plan<'a> {
    parts: Vec<Part<'a>>,
    goal: Goal<'a>,
    /// Directories that staging directories are made in.
    stage_parents: Vec<PathBuf>,
    /// What will happen, in numbers.
    pub totals: Totals,
}

impl<'a> Plan<'a> {
    /// Compares the archives with the target.
    ///
    /// # Errors
    /// When the archives do not fit together or the target cannot be looked at.
    pub fn make(archives: &'a [Opened], goal: Goal<'a>) -> Result<Plan<'a>> {
        let mut sources =
            archives.iter().flat_map(|a| &a.header().sources).map(|s| goal.layout.to_disk(&s.path.bytes()));
        if !sources.any(|disk| Path::new(OsStr::from_bytes(&disk)).symlink_metadata().is_ok()) {
            return Self::compare(archives, goal);
        }
        // Where much may be there already, to prove the trees takes as long as to compare them; else nobody waits for it
        // once the first volumes are read.
        std::thread::scope(|scope| {
            let proof = scope.spawn(|| archives.iter().try_for_each(Opened::check_digest));
            let plan = Self::compare(archives, goal);
            proof.join().unwrap_or_else(|_| Err(panicked()))?;
            plan
        })
    }

    fn compare(archives: &'a [Opened], goal: Goal<'a>) -> Result<Plan<'a>> {
        if let [state, secrets] = archives {
            check_together(&state.tree, &secrets.tree)?;
        }
        let parts = archives.iter().map(|archive| Part::compare(archive, &goal)).collect::<Result<Vec<_>>>()?;
        let mut plan = Plan { parts, goal, stage_parents: Vec::new(), totals: Totals::default() };
        if let [state, secrets] = &mut plan.parts[..] {
            state.give_way(secrets);
        }
        for part in &mut plan.parts {
            part.pause(archives, &plan.goal)?;
        }
        plan.assign_stages();
        for part in &plan.parts {
            plan.totals.add(part);
        }
        Ok(plan)
    }

    /// Gives every source root that has something to do a staging directory on its own file system.
    fn assign_stages(&mut self) {
        let (goal, parents) = (&self.goal, &mut self.stage_parents);
        let mut stage_at = |source: &[u8]| {
            let parent = match goal.target {
                Some(target) => target.to_owned(),
                None => beside(&goal.layout.to_disk(source)),
            };
            let known = parents.iter().position(|p| *p == parent);
            let number = known.unwrap_or_else(|| {
                parents.push(parent);
                parents.len() - 1
            });
            u32::try_from(number).expect("fewer staging directories than entries")
        };
        for part in &mut self.parts {
            part.assign_stages(&mut stage_at);
        }
    }

    /// Where to, and what may happen there.
    pub fn goal(&self) -> &Goal<'a> {
        &self.goal
    }
}

/// Where what belongs to `disk` is staged: in it, if it is a directory, else in the nearest one above it. What is above may
/// be a link to where a person moved it, but a link in its own place will go.
fn beside(disk: &[u8]) -> PathBuf {
    let above = parent(disk).filter(|above| !above.is_empty()).unwrap_or(b"/");
    let own = PathBuf::from(OsStr::from_bytes(disk));
    let is_dir = own.symlink_metadata().is_ok_and(|m| m.is_dir());
    if is_dir { own } else { nearest_directory(above, LinksAbove::Followed) }
}

fn panicked() -> Error {
    Error::failed("a thread of the restore panicked: this is a bug in lifeboat")
}
