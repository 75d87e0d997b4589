//! The walk itself: two threads list directories and put what they find into trees of their own, which become one.

mod asked;
mod found;
mod queue;

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use self::asked::{is_mount, is_remote, sidecars, special};
pub(super) use self::found::Walked;
use self::found::{Found, Run, join};
use self::queue::{Pending, Place, Queue};
use super::{Identity, Look, OWN, SETTLED_SECONDS, SETTLED_SECONDS_REMOTE, Skip, Source, missing_entry};
use crate::error::Result;
use crate::host::at;
use crate::host::metadata::{self, Names};
use crate::host::stage::PREFIX as STAGE_PREFIX;
use crate::model::class::{Below, Class};
use crate::model::entry::Kind;
use crate::model::path;
use crate::model::store_key::Archive;
use crate::model::tree::{Index, NONE};

/// More threads than this only wait for each other: the kernel's own locks are what takes time.
const WALKERS_MAX: usize = 2;

/// Walks all sources.
pub(super) fn walk(
    sources: &[Source],
    avoid: &HashSet<Identity>,
    now: i64,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Walked> {
    let count = std::thread::available_parallelism().map_or(1, |n| n.get().min(WALKERS_MAX));
    let queue = Queue::default();
    let mut walkers: Vec<Walker<'_>> = (0..count).map(|number| Walker::new(number, avoid, now, &queue)).collect();
    for (number, source) in sources.iter().enumerate() {
        let Some((first, others)) = walkers.split_first_mut() else { break };
        first.root(number, source);
        let settled = first.settled;
        std::thread::scope(|scope| {
            for other in others {
                other.settled = settled;
                scope.spawn(|| other.work(source, &mut |_| Ok(())));
            }
            let result = first.work(source, &mut |found| tick(found * count as u64));
            if result.is_err() {
                queue.give_up();
            }
            result
        })?;
    }
    Ok(join(walkers.into_iter().map(|walker| walker.found).collect()))
}

struct Walker<'a> {
    number: usize,
    queue: &'a Queue,
    avoid: &'a HashSet<Identity>,
    now: i64,
    /// How old a change must be on this file system, in seconds.
    settled: i64,
    names: Names,
    owners: HashMap<(u32, u32), u16>,
    /// Of the databases of a directory, what stands beside them.
    logs: HashMap<Vec<u8>, Look>,
    found: Found,
}

impl<'a> Walker<'a> {
    fn new(number: usize, avoid: &'a HashSet<Identity>, now: i64, queue: &'a Queue) -> Self {
        Walker {
            number,
            queue,
            avoid,
            now,
            settled: SETTLED_SECONDS,
            names: Names::default(),
            owners: HashMap::new(),
            logs: HashMap::new(),
            found: Found::default(),
        }
    }

    /// Looks at the root of a source.
    fn root(&mut self, number: usize, source: &Source) {
        let archive_path = source.root.archive_path.clone();
        let name = source.root.below(&archive_path);
        let base = source.root.base();
        let mut pending = Vec::new();
        let here = Here { source, dir: None, below: Below::NOTHING, device: None };
        let stat = statat(base.as_fd(), &name[..], AtFlags::SYMLINK_NOFOLLOW);
        let device = stat.as_ref().map_or(0, |s| s.st_dev);
        self.settled = if is_remote(base.as_fd(), &name) { SETTLED_SECONDS_REMOTE } else { SETTLED_SECONDS };
        let start = self.begin();
        if let Some(root) = self.child(&here, base.as_fd(), &name, Vec::new(), &archive_path, stat, &mut pending) {
            self.found.scan.roots.insert(root, number);
            self.found.scan.devices.insert(root, device);
        }
        self.end(None, start);
        self.queue.begin(&mut pending);
    }

    /// Lists directories until there are none left.
    fn work(&mut self, source: &Source, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let base = source.root.base();
        let mut pending = Vec::new();
        while let Some(dir) = self.queue.take() {
            let ticked = tick(self.found.scan.tree.len() as u64);
            if ticked.is_ok() {
                let (start, place) = (self.begin(), dir.place);
                self.directory(source, base.as_fd(), dir, &mut pending);
                self.end(Some(place), start);
            }
            self.queue.put(&mut pending);
            ticked?;
        }
        Ok(())
    }

    /// A listing begins: its number, and where its entries will be.
    fn begin(&self) -> (u64, Index) {
        (self.queue.number(), self.found.scan.tree.indices().end)
    }

    fn end(&mut self, dir: Option<Place>, (order, start): (u64, Index)) {
        let end = self.found.scan.tree.indices().end;
        if end > start {
            self.found.runs.push(Run { order, dir, start, end });
        }
    }

    fn directory(&mut self, source: &Source, base: BorrowedFd<'_>, dir: Pending, pending: &mut Vec<Pending>) {
        let archive_path = join_archive(&source.root.archive_path, &dir.rel);
        let fd = match at::open_dir(base, &source.root.below(&archive_path)) {
            Ok(fd) => fd,
            Err(e) => return self.unreadable(dir.place, e),
        };
        let mut names: Vec<Vec<u8>> = Vec::new();
        let listing = Dir::read_from(&fd).and_then(|mut entries| {
            while let Some(entry) = entries.read() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(name.to_vec());
                }
            }
            Ok(())
        });
        if let Err(e) = listing {
            return self.unreadable(dir.place, e);
        }
        let sidecars = sidecars(fd.as_fd(), &names);
        self.look_at_logs(fd.as_fd(), &sidecars);
        let here = Here { source, dir: Some(dir.place), below: dir.below, device: Some(dir.device) };
        for name in &names {
            if sidecars.contains(&name[..]) {
                continue;
            }
            let rel = path::join(&dir.rel, name);
            let stat = statat(fd.as_fd(), &name[..], AtFlags::SYMLINK_NOFOLLOW);
            self.child(&here, fd.as_fd(), name, rel, name, stat, pending);
        }
    }

    /// Logs and journals belong to the content of the databases they stand beside.
    fn look_at_logs(&mut self, dir: BorrowedFd<'_>, sidecars: &HashSet<&[u8]>) {
        self.logs.clear();
        for suffix in [&b"-wal"[..], b"-journal"] {
            for name in sidecars {
                let Some(base) = name.strip_suffix(suffix) else { continue };
                if let Ok(stat) = statat(dir, *name, AtFlags::SYMLINK_NOFOLLOW) {
                    let look = Look::of_log(&stat, self.now, self.settled);
                    let both = self.logs.get(base).map_or(look, |other| other.with(look));
                    self.logs.insert(base.to_vec(), both);
                }
            }
        }
    }

    /// Decides about one entry and adds it. `name` is its name in `dir`, `tree_name` that in the tree.
    #[allow(clippy::too_many_arguments, reason = "the parts of one place in the walk")]
    fn child(
        &mut self,
        here: &Here<'_>,
        dir: BorrowedFd<'_>,
        name: &[u8],
        rel: Vec<u8>,
        tree_name: &[u8],
        stat: Result<Stat, Errno>,
        pending: &mut Vec<Pending>,
    ) -> Option<Index> {
        let is_dir = stat.as_ref().is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_dir());
        let archive_path = || join_archive(&here.source.root.archive_path, &rel);
        let decision = here.source.rules.decide_below(here.below, &rel, name, is_dir);
        let archive = if decision.class == Class::Secret { Archive::Secrets } else { Archive::State };
        if decision.class == Class::Skip {
            let reason = decision.reason.map_or(String::new(), |r| r.text.to_string());
            if !reason.is_empty() {
                // A file of lifeboat's own that has a rule is a key or a kit.
                let archive = if reason == OWN && !is_dir { Archive::Secrets } else { Archive::State };
                self.skip(here.dir, archive_path(), reason, archive);
            }
            return None;
        }
        let stat = match stat {
            Ok(stat) => stat,
            Err(Errno::NOENT) if !rel.is_empty() => {
                self.found.scan.vanished += 1;
                return None;
            }
            Err(e) => return Some(self.missing(tree_name, archive, e)),
        };
        if self.avoid.contains(&identity(&stat)) || (is_dir && name.starts_with(STAGE_PREFIX.as_bytes())) {
            let archive = if is_dir { archive } else { Archive::Secrets };
            self.skip(here.dir, archive_path(), OWN.to_owned(), archive);
            return None;
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            other => {
                self.skip(here.dir, archive_path(), format!("{} cannot be backed up", special(other)), archive);
                return None;
            }
        };
        let index = self.found.scan.tree.push(NONE, tree_name, kind, archive);
        if kind == Kind::Symlink {
            let mut entry = metadata::entry_of(&stat, kind, &mut self.names);
            match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => entry.target = target.into_bytes(),
                Err(e) => entry = missing_entry(e),
            }
            self.found.scan.tree.set_entry(index, &entry);
        } else {
            let owner = self.owner(stat.st_uid, stat.st_gid);
            self.found.scan.tree.set_plain(index, metadata::mode(&stat), owner, metadata::mtime(&stat));
            if kind == Kind::File {
                self.found.scan.tree.node_mut(index).size = u64::try_from(stat.st_size).unwrap_or(0);
                // The content rule may speak only where nothing else did.
                if archive == Archive::State && decision.reason.is_some() {
                    self.found.scan.fixed.insert(index);
                }
            }
        }
        let look = Look::of(&stat, self.now, self.settled);
        let log = self.logs.get(name).filter(|_| kind == Kind::File);
        self.found.scan.set_look(index, log.map_or(look, |log| look.with(*log)));
        if kind == Kind::File && stat.st_nlink > 1 {
            self.found.inodes.entry(identity(&stat)).or_default().push(index);
        }
        if kind == Kind::Dir {
            if here.device.is_some_and(|d| d != stat.st_dev) || (here.device.is_some() && is_mount(dir, name)) {
                self.skip(here.dir, archive_path(), "another file system is mounted here".to_owned(), archive);
            } else {
                let place = (self.number, index);
                pending.push(Pending { place, rel, below: decision.below, device: stat.st_dev });
            }
        }
        Some(index)
    }

    /// Notes what was left out of the directory `dir`, which decides with the rest who may read its name.
    fn skip(&mut self, dir: Option<Place>, path: Vec<u8>, reason: String, archive: Archive) {
        // The name of a secret is not for the state archive, even when it is left out.
        let archive = if crate::model::names::name_is_secret(&path) { Archive::Secrets } else { archive };
        self.found.scan.skipped.push(Skip { path, reason, archive });
        self.found.skipped_in.push(dir);
    }

    fn missing(&mut self, name: &[u8], archive: Archive, e: Errno) -> Index {
        let tree = &mut self.found.scan.tree;
        let index = tree.push(NONE, name, Kind::Missing, archive);
        tree.set_entry(index, &missing_entry(e));
        index
    }

    fn unreadable(&mut self, dir: Place, e: Errno) {
        self.found.failed.push((dir, missing_entry(e)));
    }

    /// The number of an owner in this walker's tree.
    fn owner(&mut self, uid: u32, gid: u32) -> u16 {
        let (names, tree) = (&mut self.names, &mut self.found.scan.tree);
        *self.owners.entry((uid, gid)).or_insert_with(|| tree.owner_number(&names.owner(uid, gid)))
    }
}

/// Where in the walk an entry is.
struct Here<'a> {
    source: &'a Source,
    dir: Option<Place>,
    below: Below,
    /// The device of the directory; `None` for the root of a source, which may be a mount point.
    device: Option<u64>,
}

fn join_archive(root: &[u8], rel: &[u8]) -> Vec<u8> {
    if rel.is_empty() { root.to_vec() } else { path::join(root, rel) }
}

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}
