//! Restoring one or two opened archives into one target: compare, stage, extract, place, finish.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::agents;
use super::opened::{Opened, check_together, overridden};
use super::surplus::{Removed, Surplus};
use super::{Event, Events, bytes_text};
use crate::error::{At as _, Error, Result};
use crate::host::compare::{
    Fate, LinksAbove, Look, case_collisions, compare, compare_at, free_bytes, leave, nearest_directory,
};
use crate::host::extract::{Extractor, Limits, apply, failed, is_finished};
use crate::host::links::{self, LinkTarget};
use crate::host::metadata::Ids;
use crate::host::place::{How, Replace, place};
use crate::host::stage::Stage;
use crate::host::store::Store;
use crate::host::world::{World, private_dir};
use crate::host::{at, database};
use crate::model::asked::Globs;
use crate::model::entry::Kind;
use crate::model::layout::Layout;
use crate::model::manifest::Frame;
use crate::model::path::{printable, printable_path};
use crate::model::preset::PAUSED_SUFFIX;
use crate::model::tree::{Children, Index, NONE};
use crate::stream::archive_reader::VolumeReader;

mod obstacles;

/// No staging directory: there is nothing to do.
const NOWHERE: u32 = u32::MAX;
/// How many conflicts a message names.
const NAMED_MAX: usize = 10;

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

/// An archive and what has to happen to each of its entries.
struct Part<'a> {
    archive: &'a Opened,
    fates: Vec<Fate>,
    /// For each entry the number of its staging directory, or [`NOWHERE`].
    stage: Vec<u32>,
    databases: HashSet<Vec<u8>>,
    /// Entries that come under the name of what is paused, and whether there is something under their own that goes.
    renamed: BTreeMap<Index, bool>,
    children: OnceLock<Children>,
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
        if !sources.any(|disk| Path::new(std::ffi::OsStr::from_bytes(&disk)).symlink_metadata().is_ok()) {
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
        let mut parts = Vec::new();
        for archive in archives {
            let databases = archive.databases();
            let wanted = goal.globs.map(|globs| globs.select(&archive.tree));
            let look = goal.look(&databases, wanted.as_deref());
            let mut fates =
                compare(&archive.tree, &goal.layout, &look).map_err(|(path, e)| failed("look at", &path, e.into()))?;
            if goal.overwrite == Overwrite::Never {
                leave(&archive.tree, &mut fates);
            }
            let stage = vec![NOWHERE; archive.tree.len()];
            let (renamed, children) = (BTreeMap::new(), OnceLock::new());
            parts.push(Part { archive, fates, stage, databases, renamed, children });
        }
        if let [state, secrets] = &mut parts[..] {
            let hidden = overridden(&state.archive.tree, &secrets.archive.tree);
            let pairs = state.fates.iter_mut().zip(hidden);
            let pairs = pairs.filter(|(fate, _)| **fate != Fate::Unwanted);
            pairs.filter(|(_, h)| *h).for_each(|(fate, _)| *fate = Fate::Overridden);
        }
        for part in &mut parts {
            part.pause(archives, &goal)?;
        }
        let mut plan = Plan { parts, goal, stage_parents: Vec::new(), totals: Totals::default() };
        plan.assign_stages();
        plan.count();
        Ok(plan)
    }

    /// Gives every source root that has something to do a staging directory on its own file system.
    fn assign_stages(&mut self) {
        for part in &mut self.parts {
            let tree = &part.archive.tree;
            let mut root_of: Vec<Index> = Vec::with_capacity(tree.len());
            let mut busy = vec![false; tree.len()];
            for i in tree.indices() {
                let parent = tree.node(i).parent;
                root_of.push(if parent == NONE { i } else { root_of[parent as usize] });
                if matches!(part.fates[i as usize], Fate::New | Fate::Differs) {
                    busy[root_of[i as usize] as usize] = true;
                }
            }
            let mut of_root = std::collections::HashMap::new();
            for i in tree.indices() {
                let root = root_of[i as usize];
                if !busy[root as usize] {
                    continue;
                }
                let stage = *of_root.entry(root).or_insert_with(|| {
                    let parent = match self.goal.target {
                        Some(target) => target.to_owned(),
                        None => beside(&self.goal.layout.to_disk(&part.source_of(&tree.path(root)))),
                    };
                    let known = self.stage_parents.iter().position(|p| *p == parent);
                    let number = known.unwrap_or_else(|| {
                        self.stage_parents.push(parent);
                        self.stage_parents.len() - 1
                    });
                    u32::try_from(number).expect("fewer staging directories than entries")
                });
                part.stage[i as usize] = stage;
            }
        }
    }

    fn count(&mut self) {
        for part in &self.parts {
            for i in part.archive.tree.indices() {
                match part.fates[i as usize] {
                    Fate::Same | Fate::Settled | Fate::Paused => self.totals.same += 1,
                    Fate::Missing => self.totals.missing += 1,
                    Fate::Left => self.totals.left += 1,
                    Fate::Overridden | Fate::Unwanted => {}
                    fate => {
                        self.totals.restored += 1;
                        self.totals.replaced += u64::from(fate == Fate::Differs);
                        let bytes = part.archive.holders.bytes(&part.archive.tree, i);
                        self.totals.bytes = self.totals.bytes.saturating_add(bytes);
                    }
                }
            }
        }
    }

    /// Where to, and what may happen there.
    pub fn goal(&self) -> &Goal<'a> {
        &self.goal
    }

    /// Disk paths of what differs, and has to be replaced.
    pub fn different(&self) -> Vec<String> {
        self.with_fate(Fate::Differs)
    }

    /// Disk paths of what comes to a place where nothing is.
    pub fn new_paths(&self) -> Vec<String> {
        self.with_fate(Fate::New)
    }

    /// Disk paths of what differs, and stays.
    pub fn left(&self) -> Vec<String> {
        self.with_fate(Fate::Left)
    }

    /// Whether nothing of the archives is wanted.
    pub fn is_empty(&self) -> bool {
        let unwanted = |fate: &Fate| *fate == Fate::Unwanted;
        self.parts.iter().all(|part| part.fates.iter().all(unwanted))
    }

    /// Whether it brings back something that matches below the source at `top`.
    pub fn brings(&self, top: &[u8], globs: &Globs) -> bool {
        self.parts.iter().any(|part| {
            let children = part.children();
            let mut pending = globs.below(&part.archive.tree, children, top);
            while let Some(index) = pending.pop() {
                if part.todo(index) {
                    return true;
                }
                pending.extend_from_slice(children.of_dir(index));
            }
            false
        })
    }

    /// Archive paths of what is paused then: what this restore pauses, what an earlier one did, and what was paused when the
    /// snapshot was made. Each is the path that it has in use.
    ///
    /// # Errors
    /// As [`agents::pieces`].
    pub fn paused(&self, archives: &[Opened]) -> Result<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        for part in &self.parts {
            let tree = &part.archive.tree;
            let here = tree.indices().filter(|i| part.fates[*i as usize] == Fate::Paused);
            out.extend(here.chain(part.renamed.keys().copied()).map(|i| tree.path(i)));
            for index in agents::paused_then(archives, part.archive)? {
                let there =
                    matches!(part.fates[index as usize], Fate::New | Fate::Differs | Fate::Same | Fate::Settled);
                let path = tree.path(index);
                let in_use = path.strip_suffix(PAUSED_SUFFIX.as_bytes()).unwrap_or(&path);
                let known = self.parts.iter().any(|p| p.find(in_use).is_some());
                out.extend((there && !known).then(|| in_use.to_vec()));
            }
        }
        out.sort();
        out.dedup();
        Ok(out)
    }

    /// Disk paths of what could be paused and was there before, in use.
    ///
    /// # Errors
    /// As [`agents::pieces`].
    pub fn in_use(&self, archives: &[Opened]) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for part in &self.parts {
            let pieces = agents::pieces(archives, part.archive)?;
            let there = |i: &Index| matches!(part.fates[*i as usize], Fate::Same | Fate::Settled | Fate::Left);
            let path = |i| printable(&self.goal.layout.to_disk(&part.archive.tree.path(i)));
            out.extend(pieces.into_iter().filter(there).map(path));
        }
        Ok(out)
    }

    fn with_fate(&self, fate: Fate) -> Vec<String> {
        let mut out = Vec::new();
        for part in &self.parts {
            let tree = &part.archive.tree;
            let differing = tree.indices().filter(|i| part.fates[*i as usize] == fate);
            out.extend(differing.map(|i| {
                let suffix = if part.renamed.get(&i) == Some(&false) { PAUSED_SUFFIX } else { "" };
                printable(&[&self.goal.layout.to_disk(&tree.path(i))[..], suffix.as_bytes()].concat())
            }));
        }
        out
    }

    /// Archive paths of what the snapshot lacks, with the reasons.
    pub fn missing(&self) -> Vec<String> {
        let mut out = Vec::new();
        for part in &self.parts {
            let tree = &part.archive.tree;
            let missing = tree.indices().filter(|i| part.fates[*i as usize] == Fate::Missing);
            out.extend(
                missing
                    .map(|i| format!("{}: {}", printable(&tree.path(i)), printable(tree.entry(i).reason.as_bytes()))),
            );
        }
        out
    }

    /// Archive paths of what the snapshot lacks and an older one has, with the reasons and that snapshot's id.
    pub fn older(&self) -> Vec<String> {
        let archives = self.parts.iter().map(|part| part.archive);
        let lines = archives.flat_map(|archive| archive.missing.iter().map(move |missing| (archive, missing)));
        let lines = lines.filter(|(_, missing)| self.goal.globs.is_none_or(|globs| globs.covers(&missing.path)));
        lines
            .filter_map(|(archive, missing)| {
                let (path, reason) = (printable(&missing.path), printable(missing.reason.as_bytes()));
                let id = &archive.members[usize::from(missing.level?)].commit.id;
                Some(format!("{path}: {reason}; it is restored as it was in {id}"))
            })
            .collect()
    }

    /// Refuses what would harm the target.
    ///
    /// # Errors
    /// When something differs that may not be replaced, or a database that would be is held open by a live process.
    pub fn check(&self) -> Result<()> {
        let different = self.different();
        if !different.is_empty() && self.goal.overwrite == Overwrite::Refuse {
            let mut text = different.iter().take(NAMED_MAX).map(|p| format!("\n    {p}")).collect::<String>();
            if different.len() > NAMED_MAX {
                text.push_str(&format!("\n    and {} more", different.len() - NAMED_MAX));
            }
            return Err(Error::failed(format!(
                "what is at the target differs from the snapshot; nothing was changed:{text}"
            ))
            .hint("restore beside it with --target DIR, or replace what differs with --overwrite"));
        }
        self.check_tops()?;
        for part in &self.parts {
            for path in &part.databases {
                let disk = self.goal.layout.to_disk(path);
                let disk = Path::new(std::ffi::OsStr::from_bytes(&disk));
                if let Some(holder) = Self::held(part, path, disk)? {
                    return Err(database::in_use(disk, &holder));
                }
            }
        }
        Ok(())
    }

    /// Who holds a database that is about to be replaced.
    fn held(part: &Part<'_>, path: &[u8], disk: &Path) -> Result<Option<database::Holder>> {
        match part.find(path).map(|i| part.fates[i as usize]) {
            Some(Fate::Differs) => database::holder(disk),
            _ => Ok(None),
        }
    }

    /// Does it, and then removes what is too much.
    ///
    /// # Errors
    /// When anything does not check out; nothing appeared at the target then, but perhaps directories above it.
    pub fn carry_out(
        &self,
        world: &World,
        store: &Store,
        surplus: Option<&Surplus>,
        limits: &Limits,
        events: &mut Events<'_>,
    ) -> Result<Removed> {
        self.check()?;
        if let Some(target) = self.goal.target {
            private_dir(target)?;
        }
        let mut stages: Vec<Stage> = self.stage_parents.iter().map(|p| Stage::open(p)).collect::<Result<_>>()?;
        if stages.iter().any(Stage::has_old) {
            events(Event::Detail("what a restore that was interrupted had finished is taken over".to_owned()));
        }
        let taken: Vec<Vec<bool>> =
            self.parts.iter().map(|part| part.take_over(&stages, world, limits)).collect::<Result<_>>()?;
        stages.iter_mut().for_each(Stage::forget_old);
        self.check_space(&stages, &taken)?;
        for stage in &stages {
            self.check_case(stage)?;
        }
        self.check_mounts(&stages)?;
        std::thread::scope(|scope| {
            let proof = scope.spawn(|| self.parts.iter().try_for_each(|part| part.archive.check_digest()));
            for (part, taken) in self.parts.iter().zip(&taken) {
                part.directories(&stages)?;
                part.files(&stages, taken, world, store, limits, events)?;
            }
            for part in &self.parts {
                part.links(&stages, &self.goal.layout, limits)?;
            }
            for part in &self.parts {
                part.rename(&stages)?;
            }
            proof.join().unwrap_or_else(|_| Err(panicked()))
        })?;
        world.check_stop()?;
        let replace = match self.goal.overwrite {
            Overwrite::Refuse | Overwrite::Never => Replace::Nothing,
            Overwrite::IfChanged | Overwrite::Always => Replace::Different,
        };
        let how = How { replace, above: self.above() };
        self.remove_sidecars()?;
        for stage in &stages {
            place(stage.fd(), &|path| self.goal.layout.to_disk(path), &how)?;
        }
        for part in &self.parts {
            part.remove_renamed(&self.goal.layout)?;
        }
        // Their going away touches the directories they are in, whose times come last.
        drop(stages);
        // Only now that all is in place and proved. It touches directories, too.
        let removed = surplus.map(|surplus| surplus.remove(world, events)).transpose()?.unwrap_or_default();
        // Whatever came into a directory or went from it has changed its time.
        let touched = self.totals.restored > 0 || removed.count > 0;
        self.parts.iter().try_for_each(|part| part.finish(&self.goal.layout, touched, limits))?;
        Ok(removed)
    }

    /// What lies above the sources and is in no archive. Below `--target` nothing is anybody's own arrangement, and a
    /// link there may be of an earlier restore.
    fn above(&self) -> HashSet<Vec<u8>> {
        let mut out = HashSet::new();
        if self.goal.target.is_some() {
            return out;
        }
        for part in &self.parts {
            let tree = &part.archive.tree;
            for root in tree.indices().filter(|i| tree.node(*i).parent == NONE) {
                let path = tree.path(root);
                let ups = std::iter::successors(crate::model::path::parent(&path), |p| crate::model::path::parent(p));
                out.extend(ups.map(<[u8]>::to_vec));
            }
        }
        for part in &self.parts {
            out.retain(|path| part.find(path).is_none());
        }
        out
    }

    fn check_space(&self, stages: &[Stage], taken: &[Vec<bool>]) -> Result<()> {
        let mut needed = vec![0u64; stages.len()];
        for (part, taken) in self.parts.iter().zip(taken) {
            let tree = &part.archive.tree;
            for i in tree.indices().filter(|i| part.todo(*i) && !taken[*i as usize]) {
                let stage = part.stage[i as usize] as usize;
                if let Some(needed) = needed.get_mut(stage) {
                    // What a delta claims to extend a file by counts like content: a few bytes must not make terabytes.
                    let bytes = part.archive.holders.bytes(tree, i);
                    *needed = needed.saturating_add(bytes.checked_next_multiple_of(4096).unwrap_or(bytes));
                }
            }
        }
        for (stage, needed) in stages.iter().zip(needed) {
            let free = free_bytes(stage.path()).unwrap_or(u64::MAX);
            if needed > free {
                let place = stage.path().parent().map(printable_path).unwrap_or_default();
                let (needed, free) = (bytes_text(needed), bytes_text(free));
                return Err(Error::failed(format!("{place} has {free} free, the restore needs {needed}"))
                    .hint("free some space, or restore to another disk with --target; nothing was changed"));
            }
        }
        Ok(())
    }

    fn check_case(&self, stage: &Stage) -> Result<()> {
        if !stage.ignores_case().map_err(|e| failed("look at", b"the staging directory", e.into()))? {
            return Ok(());
        }
        for part in &self.parts {
            if let Some(path) = case_collisions(&part.archive.tree).first() {
                return Err(Error::failed(format!(
                    "the target ignores case, and {} is there twice but for its case",
                    printable(path)
                ))
                .hint("restore to a file system that tells them apart"));
            }
        }
        Ok(())
    }

    /// The volumes that hold something of what will be brought back, by key and size.
    pub fn volumes(&self) -> Vec<(String, u64)> {
        let mut out = Vec::new();
        for part in &self.parts {
            let Opened { tree, holders, members, .. } = part.archive;
            let mut needed = BTreeSet::new();
            for i in tree.indices().filter(|i| tree.node(*i).kind == Kind::File && part.todo(*i)) {
                for piece in holders.stored(tree, i) {
                    let level = usize::from(piece.level);
                    let frames = &members[level].header.frames;
                    let first = frames.partition_point(|f| f.tar_end() <= piece.at);
                    let held = frames[first..].iter().take_while(|f| f.tar_offset < piece.at + piece.length);
                    needed.extend(held.map(|f| (level, f.volume)));
                }
            }
            out.extend(needed.into_iter().filter_map(|(level, volume)| {
                let member = &members[level];
                let object = member.commit.objects.get(usize::try_from(volume).ok()?)?;
                Some((member.place.object(&object.name), object.size))
            }));
        }
        out
    }
}

/// Where what belongs to `disk` is staged: in it, if it is a directory, else in the nearest one above it. What is above may
/// be a link to where a person moved it, but a link in its own place will go.
fn beside(disk: &[u8]) -> PathBuf {
    let above = crate::model::path::parent(disk).filter(|above| !above.is_empty()).unwrap_or(b"/");
    let own = PathBuf::from(std::ffi::OsStr::from_bytes(disk));
    let is_dir = own.symlink_metadata().is_ok_and(|m| m.is_dir());
    if is_dir { own } else { nearest_directory(above, LinksAbove::Followed) }
}

fn panicked() -> Error {
    Error::failed("a thread of the restore panicked: this is a bug in lifeboat")
}

impl Part<'_> {
    /// The source root that a path lies in: secrets of one agent are staged together, wherever in its home they lie.
    fn source_of(&self, path: &[u8]) -> Vec<u8> {
        let sources = self.archive.header().sources.iter().map(|s| s.path.bytes());
        let around = |root: &Vec<u8>| path.strip_prefix(&root[..]).is_some_and(|r| r.first() == Some(&b'/'));
        sources.filter(|s| !s.is_empty() && around(s)).max_by_key(Vec::len).unwrap_or_else(|| path.to_owned())
    }

    fn children(&self) -> &Children {
        self.children.get_or_init(|| Children::of(&self.archive.tree))
    }

    fn find(&self, path: &[u8]) -> Option<Index> {
        self.children().find(&self.archive.tree, path)
    }

    /// Has what presets know how to pause come under another name, if that is wanted; what an earlier restore left under
    /// that name stays there, whether it is wanted or not.
    fn pause(&mut self, archives: &[Opened], goal: &Goal<'_>) -> Result<()> {
        let tree = &self.archive.tree;
        let look = goal.look(&self.databases, None);
        for index in agents::pieces(archives, self.archive)? {
            let fate = self.fates[index as usize];
            if fate != Fate::New && !(fate == Fate::Differs && goal.paused) {
                continue;
            }
            let path = tree.path(index);
            let aside = aside(&path);
            let in_use = goal.layout.to_disk(&path);
            if fate == Fate::Differs
                && Path::new(std::ffi::OsStr::from_bytes(&in_use)).symlink_metadata().is_ok_and(|m| m.is_dir())
            {
                return Err(Error::failed(format!(
                    "{} is a directory, and a file in the snapshot, so it cannot be paused",
                    printable(&in_use)
                ))
                .hint("move the directory away, or restore without --paused; nothing was changed"));
            }
            let beside = compare_at(tree, index, &goal.layout, &look, &aside);
            let beside = beside.map_err(|e| failed("look at", &aside, e.into()))?;
            let there = matches!(beside, Fate::Same | Fate::Settled);
            let also = self.find(&aside).is_some();
            if fate == Fate::New && there && !also {
                self.fates[index as usize] = Fate::Paused;
            } else if goal.paused && also {
                let (path, aside) = (printable(&path), printable(&aside));
                return Err(Error::failed(format!(
                    "the snapshot has both {path} and {aside}, so the one cannot be paused"
                ))
                .hint("restore without --paused into a --target, and move what is wanted; nothing was changed"));
            } else if goal.paused && beside == Fate::Differs && goal.overwrite == Overwrite::Never {
                self.fates[index as usize] = Fate::Left;
            } else if goal.paused {
                if beside == Fate::Differs {
                    self.fates[index as usize] = Fate::Differs;
                }
                self.renamed.insert(index, fate == Fate::Differs);
            }
        }
        Ok(())
    }

    /// Before anything is in place, so that nothing is in use for a moment.
    fn rename(&self, stages: &[Stage]) -> Result<()> {
        for index in self.renamed.keys() {
            if let Some(stage) = self.stage_of(stages, *index) {
                let path = self.archive.tree.path(*index);
                stage.rename(&path, &aside(&path)).map_err(|e| failed("set aside", &path, e.into()))?;
            }
        }
        Ok(())
    }

    /// What was replaced by something of another name is still there.
    fn remove_renamed(&self, layout: &Layout) -> Result<()> {
        let root = at::open_root(Path::new("/")).at("open", Path::new("/"))?;
        for index in self.renamed.iter().filter(|(_, there)| **there).map(|(index, _)| *index) {
            let disk = layout.to_disk(&self.archive.tree.path(index));
            let below = disk.strip_prefix(b"/").unwrap_or(&disk);
            match at::with(root.as_fd(), below, |fd, path| unlinkat(fd, path, AtFlags::empty())) {
                // Somebody was faster.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(failed("remove", &disk, e.into())),
            }
        }
        Ok(())
    }

    fn todo(&self, index: Index) -> bool {
        matches!(self.fates[index as usize], Fate::New | Fate::Differs)
    }

    fn stage_of<'s>(&self, stages: &'s [Stage], index: Index) -> Option<&'s Stage> {
        stages.get(self.stage[index as usize] as usize).filter(|_| self.todo(index))
    }

    fn directories(&self, stages: &[Stage]) -> Result<()> {
        let tree = &self.archive.tree;
        for i in tree.indices().filter(|i| tree.node(*i).kind == Kind::Dir) {
            if let Some(stage) = self.stage_of(stages, i) {
                let path = tree.path(i);
                stage.make_dirs(&path).map_err(|e| failed("make", &path, e.into()))?;
            }
        }
        Ok(())
    }

    /// Takes over the files that a restore had finished before it died, by entry: what is the right content need not be
    /// read from the store again.
    fn take_over(&self, stages: &[Stage], world: &World, limits: &Limits) -> Result<Vec<bool>> {
        let tree = &self.archive.tree;
        let mut out = vec![false; tree.len()];
        if !stages.iter().any(Stage::has_old) {
            return Ok(out);
        }
        let mut ids = Ids::default();
        for i in tree.indices().filter(|i| tree.node(*i).kind == Kind::File) {
            let Some(stage) = self.stage_of(stages, i) else { continue };
            world.check_stop()?;
            let (path, entry) = (tree.path(i), tree.entry(i));
            let owner = ids.of(&entry.owner);
            let is_right = |file: &std::fs::File| {
                is_finished(file, &entry) && apply(file, &entry, tree.node(i).archive, owner, limits).is_ok()
            };
            let taken = stage.take_over(&path, &is_right);
            out[i as usize] = taken.map_err(|e| failed("take over", &path, e.into()))?;
        }
        Ok(out)
    }

    /// Reads the volumes on all cores and writes their files.
    fn files(
        &self,
        stages: &[Stage],
        taken: &[bool],
        world: &World,
        store: &Store,
        limits: &Limits,
        events: &mut Events<'_>,
    ) -> Result<()> {
        let Opened { tree, holders, members, .. } = self.archive;
        let stage_of = |i: Index| self.stage_of(stages, i).filter(|_| !taken[i as usize]);
        let extractor = Extractor::new(tree, holders, members.len(), &stage_of, limits);
        extractor.begin()?;
        // Incrementals are small and first, the full is from the end: databases come last in an archive, and when the last
        // piece of a large file is there all of it is hashed once more, which should not be what everybody waits for.
        let volumes = |level: usize| (0..members[level].header.volumes.len()).rev().map(move |v| (level, v));
        let needed: Vec<(usize, usize)> = (0..members.len())
            .flat_map(volumes)
            .filter(|(level, volume)| {
                let frames = members[*level].frames(*volume);
                frames.iter().any(|f| extractor.needs(*level, f.tar_offset, f.tar_end()))
            })
            .collect();
        let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let work = || -> Result<()> {
            let mut reader = VolumeReader::new()?;
            while !over.load(Ordering::Relaxed) {
                let Some((level, volume)) = needed.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                world.check_stop()?;
                self.volume(&mut reader, store, *level, *volume, &extractor, world)?;
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(needed.len());
        let (files_total, bytes_total) = self.totals();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        if let Err(e) = work() {
                            over.store(true, Ordering::Relaxed);
                            let mut failure = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            failure.get_or_insert(e);
                        }
                    })
                })
                .collect();
            while workers.iter().any(|w| !w.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
                let files = extractor.finished.load(Ordering::Relaxed);
                let bytes = extractor.written.load(Ordering::Relaxed);
                events(Event::Progress { files, files_total, bytes, bytes_total });
            }
            if workers.into_iter().any(|w| w.join().is_err()) {
                return Err(panicked());
            }
            Ok(())
        })?;
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(e) => Err(e),
            None => extractor.check_complete(),
        }
    }

    fn totals(&self) -> (u64, u64) {
        let tree = &self.archive.tree;
        let files = tree.indices().filter(|i| tree.node(*i).kind == Kind::File && self.todo(*i));
        files.fold((0, 0u64), |(n, bytes), i| (n + 1, bytes.saturating_add(self.archive.holders.bytes(tree, i))))
    }

    fn volume(
        &self,
        reader: &mut VolumeReader,
        store: &Store,
        level: usize,
        volume: usize,
        extractor: &Extractor<'_>,
        world: &World,
    ) -> Result<()> {
        let frames = self.archive.members[level].frames(volume);
        let needed: Vec<&Frame> = frames.iter().filter(|f| extractor.needs(level, f.tar_offset, f.tar_end())).collect();
        let each = &mut |frame: &Frame, tar: &[u8]| {
            world.check_stop()?;
            extractor.frame(level, frame.tar_offset, tar)
        };
        if needed.len() < frames.len() {
            self.archive.read_frames(reader, store, level, volume, &needed, each)
        } else {
            self.archive.read_volume(reader, store, level, volume, each)
        }
    }

    fn links(&self, stages: &[Stage], layout: &Layout, limits: &Limits) -> Result<()> {
        let tree = &self.archive.tree;
        let root = at::open_root(Path::new("/")).at("open", Path::new("/"))?;
        let mut ids = Ids::default();
        for i in tree.indices() {
            let Some(stage) = self.stage_of(stages, i) else { continue };
            let path = tree.path(i);
            match tree.node(i).kind {
                Kind::Symlink => {
                    let entry = tree.entry(i);
                    links::symlink(stage, &path, &entry, ids.of(&entry.owner), limits)
                        .map_err(|e| failed("make the link", &path, e.into()))?;
                }
                Kind::Hardlink => {
                    let target = tree.target(i);
                    let file = self
                        .find(target)
                        .ok_or_else(|| Error::damaged(format!("hard link {} leads nowhere", printable(&path))))?;
                    let disk = layout.to_disk(target);
                    let disk = if self.fates[file as usize] == Fate::Paused { aside(&disk) } else { disk };
                    let from = match self.stage_of(stages, file) {
                        Some(stage) => LinkTarget::Staged(stage, target),
                        None => LinkTarget::InPlace(root.as_fd(), &disk),
                    };
                    links::hard_link(stage, &path, from).map_err(|e| failed("make the link", &path, e.into()))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Metadata of what was there already, and of directories, deepest first, when nothing moves any more.
    fn finish(&self, layout: &Layout, touched: bool, limits: &Limits) -> Result<()> {
        let tree = &self.archive.tree;
        let root = at::open_root(Path::new("/")).at("open", Path::new("/"))?;
        let mut ids = Ids::default();
        for i in tree.indices().rev() {
            let kind = tree.node(i).kind;
            let fate = self.fates[i as usize];
            let due = match kind {
                Kind::Dir => {
                    matches!(fate, Fate::New | Fate::Differs | Fate::Same) || (touched && fate == Fate::Settled)
                }
                Kind::File | Kind::Symlink => fate == Fate::Same,
                Kind::Hardlink | Kind::Missing | Kind::Deleted => false,
            };
            if due {
                let (path, entry) = (tree.path(i), tree.entry(i));
                let fixed = links::fix(
                    root.as_fd(),
                    &layout.to_disk(&path),
                    &entry,
                    tree.node(i).archive,
                    ids.of(&entry.owner),
                    limits,
                );
                fixed.map_err(|e| failed("set the metadata of", &path, e.into()))?;
            }
        }
        Ok(())
    }
}
