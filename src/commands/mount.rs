//! `lifeboat mount`: a snapshot as a directory, read from the store as far as somebody looks into it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use serde::Serialize;

use super::file_reader::{Frames, file_among};
use super::look::{Of, Place};
use super::opened::Opened;
use super::{Event, Events, Report, count_text};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::fuse::{Attributes, Files, Node, ROOT, Shown, What};
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::entry::{Kind, Time};
use crate::model::path::{printable, printable_path};
use crate::model::pieces::Piece;
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index, NONE};

/// Frames that are held: 24 MiB.
const FRAMES_HELD: usize = 8;
/// How often it is looked whether all is over.
const GLANCE: Duration = Duration::from_millis(200);
/// How long whoever still uses it may take to leave.
const LEAVE: Duration = Duration::from_secs(1);
/// How many failed reads are told one by one; a damaged volume fails many.
const NAMED_MAX: usize = 20;
/// Attributes that anybody may set and ask for. What security modules and access lists keep in theirs says something about
/// the machine that was backed up, and would decide things on this one.
const SHOWN_XATTRS: &[u8] = b"user.";

/// What `mount` was asked for.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which archive.
    pub place: Place,
    /// The snapshot as a person names it.
    pub snapshot: String,
    /// Where to.
    pub directory: PathBuf,
}

/// What was shown, and is no longer.
#[derive(Debug, Serialize)]
pub struct Done {
    /// What was looked into.
    #[serde(flatten)]
    pub of: Of,
    /// Where it was.
    pub directory: String,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Whether one of them met damage.
    pub damaged: bool,
}

impl Report for Done {
    fn text(&self) -> String {
        format!("{} is at {} no longer\n", self.of.snapshot, self.directory)
    }

    fn problems(&self) -> Vec<String> {
        match self.failed_reads {
            0 => Vec::new(),
            n => vec![format!("{} of {} failed", count_text(n, "read"), self.of.snapshot)],
        }
    }

    fn verdict(&self) -> Option<ErrorKind> {
        let kind = if self.damaged { ErrorKind::Damaged } else { ErrorKind::Incomplete };
        (self.failed_reads > 0).then_some(kind)
    }
}

/// Shows a snapshot at a directory until that is unmounted, or this process is asked to end.
///
/// # Errors
/// When the snapshot cannot be found, opened or verified, or nothing can be mounted there.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    check_directory(&args.directory)?;
    let (reading, opened) = args.place.open(world, &args.snapshot, events)?;
    let of = Of::new(&opened);
    let (failed_tx, failed) = channel();
    let below = device(&args.directory);
    let directory = printable_path(&args.directory);
    let snapshot = Snapshot::new(reading.store, opened, failed_tx)?;
    let shown = Shown::begin(snapshot, &args.directory, &format!("lifeboat:{}/{}", of.series, of.snapshot))?;
    events(Event::Note(format!(
        "{} of {} is at {directory}, read-only, until Ctrl-C or `umount {directory}`",
        of.snapshot, of.series
    )));
    let mut failures = Failures { failed, count: 0, damaged: false };
    while !shown.is_over() && world.check_stop().is_ok() {
        failures.tell(events);
        std::thread::sleep(GLANCE);
    }
    end(shown, &args.directory, below)?;
    failures.tell(events);
    Ok(Done { of, directory, failed_reads: failures.count, damaged: failures.damaged })
}

/// What lies in a directory would be hidden, and mounting over it once more would hide this.
fn check_directory(directory: &Path) -> Result<()> {
    let name = printable_path(directory);
    let mut entries = std::fs::read_dir(directory).map_err(|e| {
        Error::not_there(format!("cannot mount at {name}")).because(e).hint("it has to be an empty directory")
    })?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::usage(format!("{name} is not empty")).hint("a mount would hide what is in it")),
    }
}

/// What is still used goes out of sight at once, so that no dead directory stays behind this process, and whoever uses it does
/// not keep this process. `below` is the device that is to be seen again then.
fn end(shown: Shown, directory: &Path, below: Option<u64>) -> Result<()> {
    let (done_tx, done) = channel();
    std::thread::spawn(move || drop(done_tx.send(shown.end())));
    let failed = match done.recv_timeout(LEAVE) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(e)) => Some(e),
        Err(_) if device(directory) == below => return Ok(()),
        Err(_) => None,
    };
    if unmount(directory, UnmountFlags::DETACH).is_ok() {
        return Ok(());
    }
    let name = printable_path(directory);
    let error = Error::failed(format!("{name} could not be unmounted"));
    let error = match failed {
        Some(e) => error.because(e),
        None => error,
    };
    Err(error.hint(format!("end what works in it, then: fusermount3 -u {name}")))
}

fn device(directory: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    directory.metadata().map(|m| m.dev()).ok()
}

/// Reads that failed, as they come in.
struct Failures {
    failed: Receiver<Error>,
    count: u64,
    damaged: bool,
}

impl Failures {
    fn tell(&mut self, events: &mut Events<'_>) {
        for error in self.failed.try_iter() {
            self.count += 1;
            self.damaged |= error.kind() == ErrorKind::Damaged;
            if self.count <= NAMED_MAX as u64 {
                events(Event::Warning(error.to_string()));
            }
        }
    }
}

/// A snapshot's tree with numbers: that of an entry is its own and two more; behind them come the directories above the
/// sources, of which the snapshot knows nothing but the names.
struct Snapshot {
    store: Store,
    archive: Opened,
    children: Children,
    /// What is in a directory beside the children of its entry.
    beside: HashMap<Node, BTreeMap<Vec<u8>, Node>>,
    /// Names of files that have more than one.
    names: HashMap<Index, u32>,
    /// When the snapshot was made.
    time: Time,
    reader: Mutex<Reader>,
    failed: Sender<Error>,
}

struct Reader {
    frames: Frames,
    /// The file that was read last, and where its bytes are.
    last: Option<(Index, Vec<Piece>)>,
}

fn node(index: Index) -> Node {
    Node::from(index) + ROOT + 1
}

impl Snapshot {
    fn new(store: Store, archive: Opened, failed: Sender<Error>) -> Result<Snapshot> {
        let children = Children::by_name(&archive.tree);
        let beside = above(&archive, &children);
        let mut names = HashMap::new();
        for index in archive.tree.indices().filter(|i| archive.tree.node(*i).kind == Kind::Hardlink) {
            *names.entry(file_among(&archive, &children, index)?).or_insert(1) += 1;
        }
        let reader = Mutex::new(Reader { frames: Frames::new(FRAMES_HELD)?, last: None });
        let time = Time { seconds: archive.commit().id.unix_seconds(), nanos: 0 };
        Ok(Snapshot { store, archive, children, beside, names, time, reader, failed })
    }

    /// The entry of a number, if it has one.
    fn entry(&self, node: Node) -> Option<Index> {
        let index = Index::try_from(node.checked_sub(ROOT + 1)?).ok()?;
        ((index as usize) < self.archive.tree.len()).then_some(index)
    }

    /// The number of what an entry is a name of.
    fn shown(&self, index: Index) -> Node {
        match self.archive.tree.node(index).kind {
            Kind::Hardlink => file_among(&self.archive, &self.children, index).map_or(node(index), node),
            _ => node(index),
        }
    }

    fn content(&self, index: Index, offset: u64, length: usize) -> Result<Vec<u8>> {
        let tree = &self.archive.tree;
        // Says why, of what could not be read when the snapshot was made.
        let index = file_among(&self.archive, &self.children, index)?;
        let end = tree.node(index).size.min(offset.saturating_add(length as u64));
        let length = usize::try_from(end.saturating_sub(offset)).unwrap_or_default();
        let mut out = vec![0; length];
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let Reader { frames, last } = &mut *reader;
        if last.as_ref().is_none_or(|(known, _)| *known != index) {
            *last = Some((index, self.archive.holders.stored(tree, index)));
        }
        let pieces = last.as_ref().map_or(&[][..], |(_, pieces)| pieces);
        // What is between pieces is zeros.
        for piece in &pieces[pieces.partition_point(|p| p.offset + p.length <= offset)..] {
            if piece.offset >= end {
                break;
            }
            let (from, upto) = (piece.offset.max(offset), end.min(piece.offset + piece.length));
            let mut place = usize::try_from(from - offset).unwrap_or(usize::MAX);
            let run = piece.at + (from - piece.offset)..piece.at + (upto - piece.offset);
            frames.run(&self.store, &self.archive, piece.level, run, &mut |bytes| {
                out[place..place + bytes.len()].copy_from_slice(bytes);
                place += bytes.len();
                Ok(())
            })?;
        }
        Ok(out)
    }
}

/// Where the entries stand that are in no directory of the snapshot, and the directories above them.
fn above(archive: &Opened, children: &Children) -> HashMap<Node, BTreeMap<Vec<u8>, Node>> {
    let tree = &archive.tree;
    let mut next = node(Index::try_from(tree.len()).unwrap_or(NONE));
    let mut out: HashMap<Node, BTreeMap<Vec<u8>, Node>> = HashMap::new();
    out.entry(ROOT).or_default();
    for &index in children.of_dir(NONE) {
        let mut parts: Vec<&[u8]> = tree.name(index).split(|b| *b == b'/').collect();
        let name = parts.pop().unwrap_or_default();
        let mut here = ROOT;
        for part in parts {
            let known = out.get(&here).and_then(|dir| dir.get(part)).copied();
            here = known.unwrap_or_else(|| {
                let made = next;
                next += 1;
                out.entry(here).or_default().insert(part.to_vec(), made);
                out.entry(made).or_default();
                made
            });
        }
        out.entry(here).or_default().insert(name.to_vec(), node(index));
    }
    out
}

impl Files for Snapshot {
    fn attributes(&self, node: Node) -> Option<Attributes> {
        let Some(index) = self.entry(node) else {
            // It was in no source: nothing is known of it but that it was there.
            let known = self.beside.contains_key(&node);
            let own = |what| Attributes { what, mode: 0o755, names: 2, uid: 0, gid: 0, size: 0, mtime: self.time };
            return known.then(|| own(What::Directory));
        };
        let entry = self.archive.tree.entry(index);
        let (what, mode, size) = match entry.kind {
            Kind::Dir => (What::Directory, entry.mode, 0),
            Kind::Symlink => (What::Link, 0o777, entry.target.len() as u64),
            Kind::File => (What::File, entry.mode, entry.size),
            // It is there, and cannot be read.
            Kind::Missing | Kind::Hardlink | Kind::Deleted => (What::File, 0, 0),
        };
        let secret = self.archive.tree.node(index).archive == Archive::Secrets && what != What::Link;
        let mode = if secret { mode & 0o700 } else { mode };
        let names = if what == What::Directory { 2 } else { self.names.get(&index).copied().unwrap_or(1) };
        let (uid, gid) = (entry.owner.uid, entry.owner.gid);
        Some(Attributes { what, mode, names, uid, gid, size, mtime: entry.mtime })
    }

    fn named(&self, directory: Node, name: &[u8]) -> Option<Node> {
        let beside = self.beside.get(&directory).and_then(|beside| beside.get(name)).copied();
        let child = || self.children.named(&self.archive.tree, self.entry(directory)?, name);
        beside
            .map(|node| self.entry(node).map_or(node, |index| self.shown(index)))
            .or_else(|| child().map(|i| self.shown(i)))
    }

    fn nth(&self, directory: Node, place: usize) -> Option<(Node, Vec<u8>)> {
        let beside = self.beside.get(&directory);
        if let Some((name, node)) = beside.and_then(|beside| beside.iter().nth(place)) {
            return Some((*node, name.clone()));
        }
        let place = place - beside.map_or(0, BTreeMap::len);
        let child = *self.children.of_dir(self.entry(directory)?).get(place)?;
        Some((self.shown(child), self.archive.tree.name(child).to_vec()))
    }

    fn target(&self, node: Node) -> Vec<u8> {
        self.entry(node).map_or_else(Vec::new, |index| self.archive.tree.target(index).to_vec())
    }

    fn xattrs(&self, node: Node) -> Vec<(Vec<u8>, Vec<u8>)> {
        let Some(index) = self.entry(node).filter(|index| self.archive.tree.has_xattrs(*index)) else {
            return Vec::new();
        };
        let mut all = self.archive.tree.entry(index).xattrs;
        all.retain(|(name, _)| name.starts_with(SHOWN_XATTRS));
        all
    }

    fn read(&self, node: Node, offset: u64, length: usize) -> Option<Vec<u8>> {
        let index = self.entry(node)?;
        let content = self.content(index, offset, length).map_err(|e| {
            // Nobody listens any more once the mount is over.
            let path = printable(&self.archive.tree.path(index));
            drop(self.failed.send(Error::new(e.kind(), format!("cannot read {path}: {e}"))));
        });
        content.ok()
    }
}
