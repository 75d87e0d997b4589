//! What stands in the way of a restore, and is refused while nothing of it is in place: what differs, links, mounts, a full
//! disk, databases that are in use or come to life meanwhile.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Overwrite, Plan};
use crate::commands::bytes_text;
use crate::error::{At as _, Error, Result};
use crate::host::compare::{Fate, case_collisions, free_bytes, mount_of, nearest_directory};
use crate::host::extract::failed;
use crate::host::stage::Stage;
use crate::host::{database, links};
use crate::model::entry::Kind;
use crate::model::path::{parent, printable, printable_path};
use crate::model::tree::NONE;

/// How many conflicts a message names.
const NAMED_MAX: usize = 10;

impl Plan<'_> {
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
                let replaced = part.find(path).is_some_and(|i| part.fates[i as usize] == Fate::Differs);
                let disk = path_of(&self.goal.layout.to_disk(path));
                if let Some(holder) = replaced.then(|| database::holder(&disk)).transpose()?.flatten() {
                    return Err(database::in_use(&disk, &holder));
                }
            }
        }
        Ok(())
    }

    /// Refuses a link where the snapshot has `home` or `root` itself as a directory. That one place is made by whoever
    /// names the target, so a link there is neither followed, as it would lead out, nor removed.
    fn check_tops(&self) -> Result<()> {
        for part in &self.parts {
            for top in [&b"home"[..], b"root"] {
                let Some(index) = part.find(top).filter(|i| part.archive.tree.node(*i).kind == Kind::Dir) else {
                    continue;
                };
                let disk = path_of(&self.goal.layout.to_disk(top));
                let is_link = part.fates[index as usize] == Fate::Differs && disk.is_symlink();
                if is_link && self.goal.overwrite != Overwrite::Never {
                    let shown = printable_path(&disk);
                    return Err(Error::failed(format!(
                        "{shown} is a symbolic link, and the snapshot has a directory there; nothing was changed"
                    ))
                    .hint("restore to what it leads to with another --target, or remove the link"));
                }
            }
        }
        Ok(())
    }

    /// Refuses to fill a disk. What was taken over is there already.
    pub(super) fn check_space(&self, stages: &[Stage], taken: &[Vec<bool>]) -> Result<()> {
        let mut needed = vec![0u64; stages.len()];
        for (part, taken) in self.parts.iter().zip(taken) {
            let tree = &part.archive.tree;
            for i in tree.indices().filter(|i| !taken[*i as usize]) {
                if let Some(needed) = part.stage_number(i).and_then(|number| needed.get_mut(number)) {
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

    /// Refuses a target on which names would fall together.
    pub(super) fn check_case(&self, stage: &Stage) -> Result<()> {
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

    /// Refuses to begin where something could not be moved from its stage into place, since another file system is in
    /// between: half of it would be there by then.
    pub(super) fn check_mounts(&self, stages: &[Stage]) -> Result<()> {
        let mut looked = HashSet::new();
        for part in &self.parts {
            let tree = &part.archive.tree;
            for index in tree.indices() {
                let Some(stage) = part.stage_of(stages, index) else { continue };
                let above = tree.node(index).parent;
                let comes_along = above != NONE && matches!(part.fates[above as usize], Fate::New | Fate::Differs);
                let path = tree.path(index);
                let disk = self.goal.layout.to_disk(parent(&path).unwrap_or(&path));
                if comes_along || !looked.insert(disk.clone()) {
                    continue;
                }
                let dir = nearest_directory(&disk, self.goal.links());
                let mount = |path: &Path| mount_of(path).at("look at", path);
                if mount(&dir)? != mount(stage.path())? {
                    return Err(Error::failed(format!(
                        "{} is another mount than what is above it, and nothing can be moved there; nothing was changed",
                        printable_path(&dir)
                    ))
                    .hint("restore with --target DIR, and copy it from there, or unmount it"));
                }
            }
        }
        Ok(())
    }

    /// Removes what stands beside databases that will be put into place: it would be replayed into the new file. The agent
    /// may have been started while all was read, and its database must not lose a log.
    pub(super) fn remove_sidecars(&self) -> Result<()> {
        let mut databases = Vec::new();
        for part in &self.parts {
            for path in &part.databases {
                let Some(index) = part.find(path).filter(|i| part.todo(*i)) else { continue };
                let disk = path_of(&self.goal.layout.to_disk(path));
                if let Some(holder) = database::holder(&disk)? {
                    return Err(database::in_use(&disk, &holder));
                }
                let may_replace = matches!(self.goal.overwrite, Overwrite::IfChanged | Overwrite::Always);
                if part.fates[index as usize] == Fate::New && !may_replace && disk.symlink_metadata().is_ok() {
                    return Err(appeared(&disk));
                }
                databases.push(disk);
            }
        }
        databases.iter().try_for_each(|disk| links::remove_sidecars(disk).at("remove the old journal of", disk))
    }
}

fn appeared(disk: &Path) -> Error {
    Error::failed(format!("{} appeared while it was restored", printable_path(disk)))
        .hint("stop the agent that made it, then run the restore again; nothing was overwritten")
}

fn path_of(disk: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(disk))
}
