//! What a plan tells of itself, before anything is written.

use super::Plan;
use crate::commands::agents;
use crate::commands::opened::Opened;
use crate::error::Result;
use crate::host::compare::Fate;
use crate::model::asked::Globs;
use crate::model::path::printable;
use crate::model::preset::PAUSED_SUFFIX;
use crate::model::tree::Index;

impl Plan<'_> {
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
}
