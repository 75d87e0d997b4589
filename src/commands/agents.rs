//! What presets know about restored homes: whose they are, what can be paused in them, and what has to be done before an
//! agent starts in one.

use std::os::unix::ffi::OsStrExt as _;

use super::bring_back::Plan;
use super::opened::Opened;
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::asked::Globs;
use crate::model::entry::Kind;
use crate::model::layout::Layout;
use crate::model::manifest::Source;
use crate::model::path::printable;
use crate::model::preset::{AfterKind, PAUSED_SUFFIX, Preset, builtin, find};
use crate::model::tree::{Children, Index};

/// The sources of archives that a preset knows.
fn known(archives: &[Opened]) -> Vec<(Vec<u8>, &'static Preset)> {
    let mut out: Vec<(Vec<u8>, &Preset)> = Vec::new();
    let known = |s: &Source| Some((s.path.bytes(), find(s.preset.as_deref()?)?));
    for (path, preset) in archives.iter().flat_map(|a| &a.header().sources).filter_map(known) {
        if !out.iter().any(|(p, one)| *p == path && one.name == preset.name) {
            out.push((path, preset));
        }
    }
    out
}

/// Refuses to restore an agent's home where another agent has its own.
///
/// # Errors
/// [`Kind::Failed`](crate::Kind::Failed), naming both.
pub fn check_homes(world: &World, archives: &[Opened], layout: &Layout) -> Result<()> {
    let env = |name: &str| world.var(name).map(ToOwned::to_owned);
    for (path, preset) in known(archives) {
        let disk = layout.to_disk(&path);
        for other in builtin().iter().filter(|other| other.name != preset.name) {
            let roots = other.roots(&env, &world.home);
            let home = roots.iter().find(|root| root.id == other.home_id());
            if home.is_some_and(|home| home.path.as_os_str().as_bytes() == disk) {
                let (disk, here, there) = (printable(&disk), &other.title, &preset.title);
                return Err(Error::failed(format!(
                    "{disk} is the home of {here} here, and of {there} in the snapshot"
                ))
                .hint("restore with --target DIR, and move what is wanted; nothing was changed"));
            }
        }
    }
    Ok(())
}

/// What a person has to do before agents start in what was restored: what must wait first.
///
/// # Errors
/// When a preset's patterns are none, which its tests rule out.
pub fn steps(archives: &[Opened], plan: &Plan<'_>) -> Result<Vec<String>> {
    let mut out: Vec<(bool, String)> = Vec::new();
    for (path, preset) in known(archives).into_iter().filter(|_| plan.totals.restored > 0) {
        for after in &preset.after {
            if plan.brings(&path, &Globs::of_preset(&after.paths, &preset.repeat_under)?) {
                let line = format!("{}: {}", preset.title, after.step);
                if !out.iter().any(|(_, known)| *known == line) {
                    out.push((after.kind == AfterKind::Check, line));
                }
            }
        }
    }
    out.sort_by_key(|(later, _)| *later);
    Ok(out.into_iter().map(|(_, line)| line).collect())
}

/// The files of an archive that presets know how to pause.
///
/// # Errors
/// As [`steps`].
pub fn pieces(archives: &[Opened], archive: &Opened) -> Result<Vec<Index>> {
    matching(archives, archive, "")
}

/// The files of an archive that were paused when it was made.
///
/// # Errors
/// As [`steps`].
pub fn paused_then(archives: &[Opened], archive: &Opened) -> Result<Vec<Index>> {
    matching(archives, archive, PAUSED_SUFFIX)
}

fn matching(archives: &[Opened], archive: &Opened, suffix: &str) -> Result<Vec<Index>> {
    let (tree, mut out, mut children) = (&archive.tree, Vec::new(), None);
    for (path, preset) in known(archives).into_iter().filter(|(_, preset)| !preset.pauses.is_empty()) {
        let children = children.get_or_insert_with(|| Children::of(tree));
        let paths = preset.pauses.iter().flat_map(|pause| &pause.paths);
        let paths: Vec<String> = paths.map(|path| format!("{path}{suffix}")).collect();
        out.extend(Globs::of_preset(&paths, &preset.repeat_under)?.below(tree, children, &path));
    }
    out.retain(|i| tree.node(*i).kind == Kind::File);
    out.sort_unstable();
    out.dedup();
    Ok(out)
}
