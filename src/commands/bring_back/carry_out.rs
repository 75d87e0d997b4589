//! Carrying a plan out: stage, extract, link, place, finish.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::part::Part;
use super::{Overwrite, Plan, aside, panicked};
use crate::commands::surplus::{Removed, Surplus};
use crate::commands::{Event, Events};
use crate::error::{At as _, Error, Result};
use crate::host::at;
use crate::host::compare::Fate;
use crate::host::extract::{Limits, apply, failed, is_finished};
use crate::host::links::{self, LinkTarget};
use crate::host::metadata::Ids;
use crate::host::place::{How, Replace, place};
use crate::host::stage::Stage;
use crate::host::store::Store;
use crate::host::world::{World, private_dir};
use crate::model::entry::Kind;
use crate::model::layout::Layout;
use crate::model::path::{parent, printable};
use crate::model::tree::NONE;

impl Plan<'_> {
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
        self.fill(&stages, &taken, world, store, limits, events)?;
        world.check_stop()?;
        self.put_in_place(&stages)?;
        // Their going away touches the directories they are in, whose times come last.
        drop(stages);
        // Only now that all is in place and proved. It touches directories, too.
        let removed = surplus.map(|surplus| surplus.remove(world, events)).transpose()?.unwrap_or_default();
        // Whatever came into a directory or went from it has changed its time.
        let touched = self.totals.restored > 0 || removed.count > 0;
        self.parts.iter().try_for_each(|part| part.finish(&self.goal.layout, touched, limits))?;
        Ok(removed)
    }

    /// Makes everything in the stages, and proves the trees meanwhile.
    fn fill(
        &self,
        stages: &[Stage],
        taken: &[Vec<bool>],
        world: &World,
        store: &Store,
        limits: &Limits,
        events: &mut Events<'_>,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let proof = scope.spawn(|| self.parts.iter().try_for_each(|part| part.archive.check_digest()));
            for (part, taken) in self.parts.iter().zip(taken) {
                part.directories(stages)?;
                part.files(stages, taken, world, store, limits, events)?;
            }
            for part in &self.parts {
                part.links(stages, &self.goal.layout, limits)?;
            }
            for part in &self.parts {
                part.rename(stages)?;
            }
            proof.join().unwrap_or_else(|_| Err(panicked()))
        })
    }

    /// Moves what is in the stages to where it belongs.
    fn put_in_place(&self, stages: &[Stage]) -> Result<()> {
        let replace = match self.goal.overwrite {
            Overwrite::Refuse | Overwrite::Never => Replace::Nothing,
            Overwrite::IfChanged | Overwrite::Always => Replace::Different,
        };
        let how = How { replace, above: self.above() };
        self.remove_sidecars()?;
        for stage in stages {
            place(stage.fd(), &|path| self.goal.layout.to_disk(path), &how)?;
        }
        self.parts.iter().try_for_each(|part| part.remove_renamed(&self.goal.layout))
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
                let ups = std::iter::successors(parent(&path), |p| parent(p));
                out.extend(ups.map(<[u8]>::to_vec));
            }
        }
        for part in &self.parts {
            out.retain(|path| part.find(path).is_none());
        }
        out
    }
}

impl Part<'_> {
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
