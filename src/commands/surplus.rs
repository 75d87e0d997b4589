//! What is at the place of a restore and not in the snapshot, for `restore --delete`: only what a backup by the rules of
//! today would have stored, so never what is left out, somebody else's or lifeboat's own, nor what the snapshot could not
//! read or left out by the rules of its day.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::bring_back::Goal;
use super::opened::Opened;
use super::session::{Configured, configuration};
use super::sources::{Resolved, resolve_at};
use super::{Event, Events, content_rule, policy};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::database;
use crate::host::remove::{Outcome, Seen, remove, see};
use crate::host::scan::{Scan, Source, scan};
use crate::host::store::{Location, Store, locate};
use crate::host::world::World;
use crate::model::config::Sweep;
use crate::model::entry::Kind;
use crate::model::kit::KIT_MARK;
use crate::model::path::{file_name, is_below, parent, printable, printable_path};
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index, NONE, Tree};

/// What a target has beyond a snapshot.
pub struct Surplus {
    sources: Vec<Source>,
    /// What is in a directory stands before it.
    extras: Vec<Extra>,
}

/// Something that will be removed.
struct Extra {
    source: usize,
    path: Vec<u8>,
    seen: Seen,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Removed {
    /// Entries that are gone.
    pub count: u64,
    /// Disk paths of those that stay, with the reasons.
    pub kept: Vec<String>,
}

/// What must stay whatever the rules say.
pub struct Keep {
    /// Files and directories of lifeboat's own: the kit that was named, say.
    pub files: Vec<PathBuf>,
    /// Archive paths under which something of the snapshot is paused.
    pub paused: HashSet<Vec<u8>>,
}

/// Finds what the place of a restore has beyond the snapshot.
///
/// # Errors
/// When there is no configuration of this series whose rules could be gone by, when what is secret cannot be told from
/// what is not, or a database that would go is held open by a live process.
pub fn find(
    world: &World,
    (series, store): (&str, &Store),
    archives: &[Opened],
    goal: &Goal<'_>,
    keep: &Keep,
    events: &mut Events<'_>,
) -> Result<Surplus> {
    let Some(configured) = configuration(world)?.filter(|c| c.config.name == series) else {
        return Err(Error::not_there(format!(
            "--delete goes by the rules of a configuration, and there is none of {series}"
        ))
        .hint("`lifeboat init --kit KIT` makes one; `lifeboat diff` tells two snapshots apart"));
    };
    check_secrets(&configured, archives)?;
    let mut resolved =
        match resolve_at(world, &configured.config, &configured.file, store, goal.target.map(|_| &goal.layout)) {
            Ok(resolved) => resolved,
            // Nothing of the sources is there: nothing is too much.
            Err(e) if e.kind() == ErrorKind::NotThere => {
                return Ok(Surplus { sources: Vec::new(), extras: Vec::new() });
            }
            Err(e) => return Err(e),
        };
    protect(world, &configured, &keep.files, &mut resolved);
    events(Event::Phase("looking for what the snapshot does not have"));
    let mut found = scan(&resolved.sources, &goal.layout, &resolved.own, world.now(), &mut |entries| {
        events(Event::Progress { files: entries, files_total: 0, bytes: 0, bytes_total: 0 });
        world.check_stop()
    })?;
    if archives.iter().all(|a| a.commit().archive == Archive::State) {
        // Without the bundle nobody knows whether it has what is secret by its content.
        content_rule::judge(world, &mut found, &resolved.sources, None, false, events)?;
        found.classify_together(&goal.layout);
    }
    let reached = reached(&resolved.sources, goal.target);
    let mut chosen = choose(&found, archives, goal, &resolved.sources, &reached, &keep.paused);
    let aliased = if chosen.contains(&true) { aliased(&found.tree, archives, goal) } else { HashSet::new() };
    let mut extras = Vec::new();
    for index in found.tree.indices().rev() {
        if !chosen[index as usize] {
            continue;
        }
        let (source, path) = (found.source_of(index), found.tree.path(index));
        let root = &resolved.sources[source].root;
        let why = match see(root.base().as_fd(), &root.below(&path)) {
            Ok((_, head)) if head.starts_with(KIT_MARK) => "it is a recovery kit, which no backup holds".to_owned(),
            Ok((seen, _)) if aliased.contains(&seen.identity) => "the snapshot has it under another name".to_owned(),
            Ok((seen, _)) => {
                refuse_held(&seen, &root.disk_path(&path))?;
                extras.push(Extra { source, path, seen });
                continue;
            }
            Err(e) => format!("it cannot be looked at: {}", std::io::Error::from(e)),
        };
        events(Event::Detail(format!("{} stays: {why}", printable_path(&root.disk_path(&path)))));
        // And so does what it is in, which comes after it.
        let mut above = found.tree.node(index).parent;
        while above != NONE && std::mem::take(&mut chosen[above as usize]) {
            above = found.tree.node(above).parent;
        }
    }
    Ok(Surplus { sources: resolved.sources, extras })
}

/// What is at the target under a name of the snapshot that no directory there lists: where case or the form of letters is
/// ignored, a file has more names than the one that is listed.
fn aliased(there: &Tree, archives: &[Opened], goal: &Goal<'_>) -> HashSet<(u64, u64)> {
    // Hashes in place of paths, of which there may be millions.
    let hasher = RandomState::new();
    let listed: HashSet<u64> = there.indices().map(|index| hasher.hash_one(there.path(index))).collect();
    let unlisted = |path: Vec<u8>| {
        if listed.contains(&hasher.hash_one(&path)) {
            return None;
        }
        let disk = goal.layout.to_disk(&path);
        let meta = Path::new(std::ffi::OsStr::from_bytes(&disk)).symlink_metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    };
    archives.iter().flat_map(|a| a.tree.indices().filter_map(|index| unlisted(a.tree.path(index)))).collect()
}

/// Refuses to guess what is secret where the bundle is not opened.
fn check_secrets(configured: &Configured, archives: &[Opened]) -> Result<()> {
    let state = archives.iter().find(|a| a.commit().archive == Archive::State);
    let unopened = |state: &&Opened| archives.len() == 1 && state.commit().bundle.is_some();
    let Some(state) = state.filter(unopened) else { return Ok(()) };
    let hint = "restore the secrets with it, or without --delete";
    let config = &configured.config;
    if config.sources.iter().any(|s| s.sweep.unwrap_or(config.secrets.sweep) == Sweep::Move) {
        return Err(Error::failed("only the secrets bundle tells which files were moved to it for the values in them")
            .hint(hint));
    }
    if state.header().policy != policy::digest(&configured.config) {
        return Err(Error::failed(
            "the configuration is not the one of the snapshot, so what is secret may be something else",
        )
        .hint(hint));
    }
    Ok(())
}

/// Adds to what is lifeboat's own: what this restore reads from, and where the configured store is.
fn protect(world: &World, configured: &Configured, own: &[PathBuf], resolved: &mut Resolved) {
    let mut paths = own.to_vec();
    if let Ok(Location::Local(dir)) = locate(world, &configured.config.store) {
        paths.push(dir);
    }
    paths.push(configured.file.clone());
    let identities = paths.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|m| (m.dev(), m.ino()));
    resolved.own.extend(identities);
}

/// Which sources are where their paths say: below a target, through no symbolic link.
fn reached(sources: &[Source], target: Option<&Path>) -> Vec<bool> {
    let straight = |source: &Source| {
        let Some(target) = target else { return true };
        let (Ok(top), Some(above)) = (target.canonicalize(), source.root.path.parent()) else { return false };
        let below = above.strip_prefix(target).map(|below| top.join(below));
        below.is_ok_and(|straight| above.canonicalize().is_ok_and(|real| real == straight))
    };
    sources.iter().map(straight).collect()
}

/// A snapshot's archive, to be asked by path.
struct Known<'a> {
    archive: &'a Opened,
    children: Children,
    roots: HashMap<Vec<u8>, Index>,
    /// Paths that could not be read, and those that were left out by the rules of that day: what is there was not "not
    /// there".
    unknown: HashSet<Vec<u8>>,
    sources: Vec<Vec<u8>>,
}

impl<'a> Known<'a> {
    fn new(archive: &'a Opened) -> Self {
        let tree = &archive.tree;
        let roots = tree.indices().filter(|i| tree.node(*i).parent == NONE);
        let missing = archive.missing.iter().map(|m| m.path.clone());
        let skipped = archive.header().skipped.iter().map(|s| s.path.bytes());
        Known {
            archive,
            children: Children::by_name(tree),
            roots: roots.map(|i| (tree.path(i), i)).collect(),
            unknown: missing.chain(skipped).collect(),
            sources: archive.header().sources.iter().map(|s| s.path.bytes()).collect(),
        }
    }

    /// The entry at `path`, which is in the entry `above` if that is one.
    fn find(&self, above: Option<Index>, path: &[u8]) -> Option<Index> {
        let inside = above.and_then(|above| self.children.named(&self.archive.tree, above, file_name(path)));
        inside.or_else(|| self.roots.get(path).copied())
    }

    /// The same by its path alone, which takes longer in a large directory.
    fn find_anywhere(&self, path: &[u8]) -> Option<Index> {
        self.children.find(&self.archive.tree, path)
    }

    /// Whether the snapshot has this path from a source that `root`, a source of today, is or lies around.
    fn covers(&self, path: &[u8], root: &[u8]) -> bool {
        let at_or_below = |path: &[u8], top: &[u8]| path == top || is_below(path, top);
        self.sources.iter().any(|source| at_or_below(path, source) && at_or_below(source, root))
    }
}

/// By entry of the scan, whether it goes.
fn choose(
    found: &Scan,
    archives: &[Opened],
    goal: &Goal<'_>,
    sources: &[Source],
    reached: &[bool],
    paused: &HashSet<Vec<u8>>,
) -> Vec<bool> {
    let tree = &found.tree;
    let known: Vec<Known<'_>> = archives.iter().map(Known::new).collect();
    let mut places: Vec<Vec<Option<Index>>> = vec![vec![None; tree.len()]; known.len()];
    let (mut out, mut stays) = (vec![false; tree.len()], vec![false; tree.len()]);
    for index in tree.indices() {
        let (at, node, path) = (index as usize, tree.node(index), tree.path(index));
        let mut here = None;
        for (known, places) in known.iter().zip(&mut places) {
            // A source may lie inside another one of the snapshot, and the other way round.
            places[at] = match node.parent {
                NONE => known.find_anywhere(&path),
                parent => known.find(places[parent as usize], &path),
            };
            here = here.or(places[at].map(|i| known.archive.tree.node(i).kind));
            stays[at] |= known.unknown.contains(&path[..]);
        }
        stays[at] |= paused.contains(&path) || (node.parent != NONE && stays[node.parent as usize]);
        // What the snapshot has no directory for goes with what takes its place, or stays with it.
        stays[at] |= here.is_some_and(|kind| kind != Kind::Dir);
        let source = found.source_of(index);
        let root = &sources[source].root.archive_path;
        out[at] = here.is_none()
            && !stays[at]
            && node.parent != NONE
            && node.kind != Kind::Missing
            && reached[source]
            && known.iter().any(|k| k.archive.commit().archive == node.archive && k.covers(&path, root))
            && goal.globs.is_none_or(|globs| globs.covers(&path))
            // The walk side by side should know. What is removed is worth asking twice.
            && known.iter().all(|k| k.find_anywhere(&path).is_none());
    }
    keep_around(found, tree, &mut out);
    out
}

/// Directories stay in which something stays.
fn keep_around(found: &Scan, tree: &Tree, out: &mut [bool]) {
    let children = Children::by_name(tree);
    let mut keep = |at: Option<Index>| {
        if let Some(index) = at {
            out[index as usize] = false;
        }
    };
    for index in tree.indices().rev() {
        let parent = tree.node(index).parent;
        if parent == NONE {
            // A source inside another one is a root of its own.
            keep(above(tree, &children, &tree.path(index)));
        }
    }
    for skip in &found.skipped {
        keep(children.find(tree, &skip.path));
        keep(above(tree, &children, &skip.path));
    }
    for index in tree.indices().rev() {
        let parent = tree.node(index).parent;
        if parent != NONE && !out[index as usize] {
            out[parent as usize] = false;
        }
    }
}

/// The nearest entry around a path.
fn above(tree: &Tree, children: &Children, path: &[u8]) -> Option<Index> {
    std::iter::successors(parent(path), |p| parent(p)).find_map(|p| children.find(tree, p))
}

/// A database that a process has open would be written to on, and be gone when that closes it.
fn refuse_held(seen: &Seen, disk: &Path) -> Result<()> {
    if !seen.database {
        return Ok(());
    }
    match database::holder(disk)? {
        Some(holder) => Err(database::in_use(disk, &holder)),
        None => Ok(()),
    }
}

impl Surplus {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.extras.is_empty()
    }

    /// Disk paths of what will be removed, in order.
    pub fn paths(&self) -> Vec<String> {
        let mut disk: Vec<PathBuf> = self.extras.iter().map(|e| self.disk_path(e)).collect();
        disk.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        disk.iter().map(|path| printable_path(path)).collect()
    }

    fn disk_path(&self, extra: &Extra) -> PathBuf {
        self.sources[extra.source].root.disk_path(&extra.path)
    }

    /// Removes it all, but what is something else by now. What cannot be removed stays and is told.
    ///
    /// # Errors
    /// A wish to stop; what is left then goes the next time.
    pub fn remove(&self, world: &World, events: &mut Events<'_>) -> Result<Removed> {
        let mut out = Removed::default();
        for extra in &self.extras {
            world.check_stop()?;
            let root = &self.sources[extra.source].root;
            let disk = self.disk_path(extra);
            let shown = printable_path(&disk);
            if let Err(e) = refuse_held(&extra.seen, &disk) {
                out.kept.push(e.to_string());
                continue;
            }
            match remove(root.base().as_fd(), &root.below(&extra.path), &extra.seen) {
                Ok(Outcome::Removed) => {
                    events(Event::Detail(format!("removed {shown}")));
                    out.count += 1;
                }
                Ok(Outcome::Gone) => {}
                Ok(Outcome::Changed) => out.kept.push(format!("{shown}: it changed meanwhile")),
                Ok(Outcome::NotEmpty) => out.kept.push(format!("{shown}: there is something in it by now")),
                Err(e) => {
                    let e = std::io::Error::from(e).to_string();
                    out.kept.push(format!("{shown}: {}", printable(e.as_bytes())));
                }
            }
        }
        Ok(out)
    }
}
