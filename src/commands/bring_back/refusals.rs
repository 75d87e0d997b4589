//! What a restore refuses: whatever would harm the target, while nothing is there yet.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{Overwrite, Plan};
use crate::commands::bytes_text;
use crate::error::{Error, Result};
use crate::host::compare::{Fate, case_collisions, free_bytes};
use crate::host::database;
use crate::host::extract::failed;
use crate::host::stage::Stage;
use crate::model::path::{printable, printable_path};

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
        for part in &self.parts {
            for path in &part.databases {
                let replaced = part.find(path).is_some_and(|i| part.fates[i as usize] == Fate::Differs);
                let disk = self.goal.layout.to_disk(path);
                let disk = Path::new(OsStr::from_bytes(&disk));
                if let Some(holder) = replaced.then(|| database::holder(disk)).transpose()?.flatten() {
                    return Err(database::in_use(disk, &holder));
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
}
