//! The walk itself: two threads list directories and put what they find into trees of their own, which become one.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::{Identity, Look, OWN, SETTLED_SECONDS, SETTLED_SECONDS_REMOTE, Scan, Skip, Source, missing_entry};
use crate::error::Result;
use crate::host::at;
use crate::host::metadata::{self, Names};
use crate::host::source;
use crate::host::stage::PREFIX as STAGE_PREFIX;
use crate::model::class::{Below, Class};
use crate::model::database::SIDECARS;
use crate::model::entry::{Entry, Kind};
use crate::model::path;
use crate::model::store_key::Archive;
use crate::model::tree::{Index, NONE};

/// More threads than this only wait for each other: the kernel's own locks are what takes time.
const WALKERS_MAX: usize = 2;

/// What a walk found.
pub(super) struct Walked {
    pub(super) scan: Scan,
    /// Names of each file that has several.
    pub(super) inodes: HashMap<Identity, Vec<Index>>,
}

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

/// An entry of a walker's own tree.
type Place = (usize, Index);

/// A directory that has still to be looked into.
struct Pending {
    place: Place,
    rel: Vec<u8>,
    below: Below,
    device: u64,
}

/// Directories that wait for a walker.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
    listings: AtomicU64,
    over: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    dirs: Vec<Pending>,
    /// Walkers that may still find more.
    busy: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next directory; nothing once no walker can find another one.
    fn take(&self) -> Option<Pending> {
        let mut waiting = self.lock();
        loop {
            if self.over.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(dir) = waiting.dirs.pop() {
                waiting.busy += 1;
                return Some(dir);
            }
            if waiting.busy == 0 {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A walker is done with a directory, in which it found others.
    fn put(&self, found: &mut Vec<Pending>) {
        let mut waiting = self.lock();
        waiting.busy -= 1;
        waiting.dirs.append(found);
        drop(waiting);
        self.changed.notify_all();
    }

    fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.lock());
        self.changed.notify_all();
    }
}

/// The entries that one listing added to a walker's tree.
struct Run {
    /// Later for what lies deeper.
    order: u64,
    dir: Option<Place>,
    start: Index,
    end: Index,
}

/// What one walker found.
#[derive(Default)]
struct Found {
    scan: Scan,
    runs: Vec<Run>,
    inodes: HashMap<Identity, Vec<Index>>,
    skipped_in: Vec<Option<Place>>,
    /// Directories that could not be listed, whoever found them.
    failed: Vec<(Place, Entry)>,
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
        self.queue.lock().dirs.append(&mut pending);
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
        (self.queue.listings.fetch_add(1, Ordering::Relaxed), self.found.scan.tree.indices().end)
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

/// Makes one tree of those of all walkers: listing after listing, so that a directory stands before what is in it.
fn join(found: Vec<Found>) -> Walked {
    let mut scan = Scan::default();
    let mut places: Vec<Vec<Index>> = found.iter().map(|f| vec![NONE; f.scan.tree.len()]).collect();
    let mut owners: Vec<HashMap<u16, u16>> = vec![HashMap::new(); found.len()];
    let mut runs: Vec<(usize, &Run)> =
        found.iter().enumerate().flat_map(|(walker, f)| f.runs.iter().map(move |run| (walker, run))).collect();
    runs.sort_by_key(|(_, run)| run.order);
    for (walker, run) in runs {
        let parent = run.dir.map_or(NONE, |(walker, index)| places[walker][index as usize]);
        for index in run.start..run.end {
            let theirs = &found[walker].scan;
            let new = scan.tree.adopt(&theirs.tree, index, parent, &mut owners[walker]);
            scan.set_look(new, theirs.look(index));
            places[walker][index as usize] = new;
        }
    }
    let place = |(walker, index): Place| places[walker][index as usize];
    let mut inodes: HashMap<Identity, Vec<Index>> = HashMap::new();
    for (walker, found) in found.into_iter().enumerate() {
        let theirs = found.scan;
        scan.roots.extend(theirs.roots.into_iter().map(|(index, source)| (place((walker, index)), source)));
        scan.devices.extend(theirs.devices.into_iter().map(|(index, device)| (place((walker, index)), device)));
        scan.skipped.extend(theirs.skipped);
        scan.vanished += theirs.vanished;
        scan.skipped_in.extend(found.skipped_in.into_iter().map(|dir| dir.map_or(NONE, place)));
        scan.fixed.extend(theirs.fixed.into_iter().map(|index| place((walker, index))));
        for (identity, names) in found.inodes {
            inodes.entry(identity).or_default().extend(names.into_iter().map(|index| place((walker, index))));
        }
        for (dir, entry) in found.failed {
            scan.tree.set_entry(place(dir), &entry);
        }
    }
    Walked { scan, inodes }
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

fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something that is neither file, directory nor link",
    }
}

/// Whether another machine, or a program, may set the times of what is at `name`.
fn is_remote(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    #[cfg(target_os = "linux")]
    {
        // NFS, CIFS, SMB 2, SMB, FUSE, 9P, Ceph, AFS, Coda: statfs(2).
        const REMOTE: [u32; 9] =
            [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x517b, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x5346_414f, 0x7375_7245];
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())
            .and_then(rustix::fs::fstatfs)
            .is_ok_and(|fs| REMOTE.iter().any(|magic| u64::try_from(fs.f_type) == Ok(u64::from(*magic))))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (BorrowedFd<'_>, &[u8]) = (dir, name);
        false
    }
}

/// Whether something is mounted on the directory `name`, even from the same device.
fn is_mount(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{StatxAttributes, StatxFlags, statx};
        statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()).is_ok_and(|s| {
            let known = StatxAttributes::from_bits_retain(s.stx_attributes_mask.bits());
            let set = StatxAttributes::from_bits_retain(s.stx_attributes.bits());
            known.contains(StatxAttributes::MOUNT_ROOT) && set.contains(StatxAttributes::MOUNT_ROOT)
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (BorrowedFd<'_>, &[u8]) = (dir, name);
        false
    }
}

/// Which of `names` are the sidecars of a database beside them: those are read through SQLite, never by themselves.
fn sidecars<'n>(dir: BorrowedFd<'_>, names: &'n [Vec<u8>]) -> HashSet<&'n [u8]> {
    let mut out = HashSet::new();
    for name in names {
        let Some(base) = SIDECARS.iter().find_map(|s| name.strip_suffix(*s)).filter(|b| !b.is_empty()) else {
            continue;
        };
        if is_database(dir, base) {
            out.insert(&name[..]);
        }
    }
    out
}

fn is_database(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    // Looked at first: to open a device may do something.
    let is_file = |s: Stat| FileType::from_raw_mode(s.st_mode).is_file();
    if !statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_file) {
        return false;
    }
    let Ok(fd) = at::open_file(dir, name) else { return false };
    let regular = rustix::fs::fstat(&fd).is_ok_and(is_file);
    regular && source::is_database(&fd)
}
