//! What stands in the way of a restore and only shows on a closer look: links, mounts, databases that came to life.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Overwrite, Plan};
use crate::error::{At as _, Error, Result};
use crate::host::compare::{Fate, mount_of, nearest_directory};
use crate::host::stage::Stage;
use crate::host::{database, links};
use crate::model::entry::Kind;
use crate::model::path::{parent, printable_path};
use crate::model::tree::NONE;

fn path_of(disk: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(disk))
}

impl Plan<'_> {
    /// Refuses a link where the snapshot has `home` or `root` itself as a directory. That one place is made by whoever
    /// names the target, so a link there is neither followed, as it would lead out, nor removed.
    pub(super) fn check_tops(&self) -> Result<()> {
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
