//! The scan: what is in the sources, and which archive each entry belongs to.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use rustix::io::Errno;

use super::metadata::Names;
use super::source::{self, NoFile, Root, SourceFile};
use crate::error::Result;
use crate::model::class::Rules;
use crate::model::config::Sweep;
use crate::model::entry::{Entry, Kind};
use crate::model::layout::Layout;
use crate::model::path::{self, printable};
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index, NONE, Tree};

/// Why lifeboat's own files are skipped.
pub const OWN: &str = "lifeboat's own store, keys and working files";

/// How many symbolic links one after the other are followed; Linux does not follow more.
const LINK_HOPS_MAX: usize = 40;

/// A file or directory by device and inode.
pub type Identity = (u64, u64);

/// A source root and the rules for what is in it.
pub struct Source {
    /// Where it is.
    pub root: Root,
    /// What goes where.
    pub rules: Rules,
    /// What happens when a secret value is found in its state.
    pub sweep: Sweep,
}

/// Something that was left out.
pub struct Skip {
    /// Its archive path.
    pub path: Vec<u8>,
    /// Why.
    pub reason: String,
    /// The manifest that may name it.
    pub archive: Archive,
}

/// What a scan found.
#[derive(Default)]
pub struct Scan {
    /// Everything that will be archived. Files have no content yet.
    pub tree: Tree,
    /// The source that each root of the tree belongs to.
    pub roots: HashMap<Index, usize>,
    /// What was left out, and why.
    pub skipped: Vec<Skip>,
    /// How many entries went away while they were looked at.
    pub vanished: u64,
    /// Names of files with several, by inode: the first is the one that is archived.
    pub groups: HashMap<Index, Vec<Index>>,
    /// The file that each hard link is a name of.
    pub file_of: HashMap<Index, Index>,
    /// The device that each root is on.
    pub devices: HashMap<Index, u64>,
    /// Files that the user's own rules call state, whatever is in them.
    pub fixed: HashSet<Index>,
    /// By entry, what `stat` said: stamps, whose last bit is set where they are young.
    looks: Vec<u64>,
    /// For each of `skipped` that the walk found, the directory it was found in.
    skipped_in: Vec<Index>,
}

/// What `stat` said of an entry, as far as it tells a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Digest of size, times, inode and device, of a database also of its log's; always even.
    pub stamp: u64,
    /// Whether a change that follows could leave all of that as it is.
    pub young: bool,
}

mod walk;

/// For how many seconds after a change the next one may not show in the times of a file.
const SETTLED_SECONDS: i64 = 60;
/// The same where another machine's clock sets the times.
const SETTLED_SECONDS_REMOTE: i64 = 5 * 60;

impl Look {
    /// What a `stat` at `now`, in Unix seconds, tells.
    pub fn of(stat: &Stat, now: i64, settled: i64) -> Look {
        Look::by(stat, (stat.st_ctime, stat.st_ctime_nsec), now, settled)
    }

    /// The same of a database's log, whose status SQLite changes when root reads it, as it gives it to the database's
    /// owner again. Whoever writes to it changes its modification time.
    fn of_log(stat: &Stat, now: i64, settled: i64) -> Look {
        Look::by(stat, (stat.st_mtime, stat.st_mtime_nsec), now, settled)
    }

    fn by(stat: &Stat, changed: (i64, impl Into<i128>), now: i64, settled: i64) -> Look {
        // Multiplying by an odd number loses nothing and the shift brings the high bits down, so that numbers which
        // differ leave stamps that do. Nobody chooses these numbers: the system gives time and inode.
        let mut stamp: u64 = 0;
        #[allow(clippy::unnecessary_cast, reason = "types of these differ between systems")]
        for number in [
            stat.st_size as u64,
            stat.st_mtime as u64,
            stat.st_mtime_nsec as u64,
            changed.0 as u64,
            changed.1.into() as u64,
            stat.st_ino as u64,
            stat.st_dev as u64,
        ] {
            stamp = (stamp ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            stamp ^= stamp >> 29;
        }
        stamp &= !1;
        Look { stamp, young: now.saturating_sub(stat.st_mtime.max(changed.0)) <= settled }
    }

    /// The same with what stands beside a database.
    pub fn with(self, other: Look) -> Look {
        Look { stamp: (self.stamp.rotate_left(2) ^ other.stamp) & !1, young: self.young || other.young }
    }
}

/// Walks all sources. `avoid` are lifeboat's own files and directories, which are never backed up; `tick` is called
/// per directory with the entries so far and may stop the scan.
///
/// # Errors
/// Those of `tick`.
pub fn scan(
    sources: &[Source],
    layout: &Layout,
    avoid: &HashSet<Identity>,
    now: i64,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Scan> {
    let walk::Walked { mut scan, inodes } = walk::walk(sources, avoid, now, tick)?;
    let groups: Vec<Vec<Index>> = inodes.into_values().filter(|g| g.len() > 1).collect();
    scan.link_names(groups);
    scan.classify_together(layout);
    scan.tree.shrink();
    scan.looks.shrink_to_fit();
    Ok(scan)
}

/// An entry that was there and cannot be read.
pub fn missing_entry(e: Errno) -> Entry {
    Entry { reason: std::io::Error::from(e).to_string(), ..Entry::new(Kind::Missing) }
}

impl Scan {
    /// What `stat` said of an entry; of what was never looked at, that it has to be.
    pub fn look(&self, index: Index) -> Look {
        let bits = self.looks.get(index as usize).copied().unwrap_or(1);
        Look { stamp: bits & !1, young: bits & 1 == 1 }
    }

    /// Records what `stat` said.
    pub fn set_look(&mut self, index: Index, look: Look) {
        let at = index as usize;
        if self.looks.len() <= at {
            self.looks.resize(at + 1, 1);
        }
        self.looks[at] = look.stamp | u64::from(look.young);
    }

    /// One secret name makes all names of a file secret; a directory that holds only secrets is one, and so is a link to
    /// one. To be called again when more was found to be secret.
    pub fn classify_together(&mut self, layout: &Layout) {
        for group in self.groups.values() {
            if group.iter().any(|i| self.tree.node(*i).archive == Archive::Secrets) {
                for i in group {
                    self.tree.node_mut(*i).archive = Archive::Secrets;
                }
            }
        }
        let children = Children::of(&self.tree);
        // Links to links settle after as many rounds as they are deep.
        for _ in 0..LINK_HOPS_MAX {
            self.secret_directories();
            if !self.secret_links(&children, layout) {
                break;
            }
        }
        // In a directory of secrets every name is one.
        for (skip, dir) in self.skipped.iter_mut().zip(&self.skipped_in) {
            if *dir != NONE && self.tree.node(*dir).archive == Archive::Secrets {
                skip.archive = Archive::Secrets;
            }
        }
    }

    fn secret_links(&mut self, children: &Children, layout: &Layout) -> bool {
        let mut changed = false;
        for i in self.tree.indices() {
            let node = self.tree.node(i);
            if node.kind != Kind::Symlink || node.archive == Archive::Secrets {
                continue;
            }
            let target = self.tree.target(i);
            let start = match target.first() {
                Some(b'/') => Vec::new(),
                _ => layout.to_disk(path::parent(&self.tree.path(i)).unwrap_or_default()),
            };
            let Some(resolved) = path::normalize(&path::join(&start, target)) else { continue };
            let resolved = layout.to_archive(&[b"/", &resolved[..]].concat());
            let found = children.find(&self.tree, &resolved).or_else(|| self.follow(children, layout, &start, target));
            let found = found.map(|t| self.tree.node(t).archive);
            if found == Some(Archive::Secrets) || crate::model::names::name_is_secret(&resolved) {
                self.tree.node_mut(i).archive = Archive::Secrets;
                changed = true;
            }
        }
        changed
    }

    /// What a link leads to that goes through other links, as the system would find it.
    fn follow(&self, children: &Children, layout: &Layout, start: &[u8], target: &[u8]) -> Option<Index> {
        let parts = |path: &[u8]| path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (mut here, mut rest, mut hops) = (start.to_vec(), parts(target), 0);
        let mut found = None;
        while let Some(part) = rest.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => here.truncate(here.iter().rposition(|b| *b == b'/').unwrap_or(0)),
                name => here = [&here[..], b"/", name].concat(),
            }
            found = children.find(&self.tree, &layout.to_archive(&here));
            let Some(link) = found.filter(|i| self.tree.node(*i).kind == Kind::Symlink && !rest.is_empty()) else {
                continue;
            };
            hops += 1;
            if hops > LINK_HOPS_MAX {
                return None;
            }
            let target = self.tree.target(link);
            here.truncate(if target.starts_with(b"/") {
                0
            } else {
                here.iter().rposition(|b| *b == b'/').unwrap_or(0)
            });
            rest.extend(parts(target));
        }
        found
    }

    fn secret_directories(&mut self) {
        // Children stand behind their directories, so going backwards sees them first.
        let mut holds_state = vec![false; self.tree.len()];
        let mut holds_secret = vec![false; self.tree.len()];
        for i in self.tree.indices().rev() {
            let at = i as usize;
            let node = self.tree.node(i);
            let (parent, is_dir) = (node.parent, node.kind == Kind::Dir);
            if is_dir && holds_secret[at] && !holds_state[at] {
                self.tree.node_mut(i).archive = Archive::Secrets;
            }
            if parent != NONE {
                match self.tree.node(i).archive {
                    Archive::State => holds_state[parent as usize] = true,
                    Archive::Secrets => holds_secret[parent as usize] = true,
                }
            }
        }
    }

    /// The bytewise least name of a file is the file, the others are links to it.
    fn link_names(&mut self, groups: Vec<Vec<Index>>) {
        for mut group in groups {
            group.sort_by_cached_key(|i| self.tree.path(*i));
            let first = self.tree.path(group[0]);
            for i in &group[1..] {
                self.tree.set_entry(*i, &Entry { target: first.clone(), ..Entry::new(Kind::Hardlink) });
                self.file_of.insert(*i, group[0]);
            }
            self.groups.insert(group[0], group);
        }
    }

    /// Whether the user's own rules call a file state, under any of its names.
    pub fn is_fixed(&self, index: Index) -> bool {
        match self.groups.get(&index) {
            Some(names) => names.iter().any(|name| self.fixed.contains(name)),
            None => self.fixed.contains(&index),
        }
    }

    /// All names of a file, the one that is archived first.
    pub fn names_of(&self, index: Index) -> Vec<Index> {
        self.groups.get(&index).cloned().unwrap_or_else(|| vec![index])
    }

    /// Where a file is on this disk, under each of its names.
    pub fn disk_paths(&self, index: Index, sources: &[Source]) -> Vec<PathBuf> {
        let disk = |i: &Index| sources[self.source_of(*i)].root.disk_path(&self.tree.path(*i));
        self.names_of(index).iter().map(disk).collect()
    }

    /// Opens a file: another of its names will do when the first is gone.
    ///
    /// # Errors
    /// [`NoFile`], of the last name that was tried.
    pub fn open(&self, index: Index, sources: &[Source], names: &mut Names) -> Result<SourceFile, NoFile> {
        let mut opened = Err(NoFile::Vanished);
        for name in self.names_of(index) {
            opened = source::open(&sources[self.source_of(name)].root, &self.tree.path(name), names);
            if opened.is_ok() {
                break;
            }
        }
        opened
    }

    /// Adds the file at `path`, which lies beside another entry and was no entry of its own.
    pub fn add_beside(&mut self, other: Index, path: &[u8], archive: Archive) -> Index {
        let (parent, source) = (self.tree.node(other).parent, self.source_of(other));
        let name = if parent == NONE { path } else { path::file_name(path) };
        let new = self.tree.push(parent, name, Kind::File, archive);
        if parent == NONE {
            self.roots.insert(new, source);
        }
        new
    }

    /// Has an entry looked at again in the next run, whatever `stat` says.
    pub fn unsettle(&mut self, index: Index) {
        let look = self.look(index);
        self.set_look(index, Look { young: true, ..look });
    }

    /// The source that holds `index`.
    pub fn source_of(&self, index: Index) -> usize {
        let mut at = index;
        while self.tree.node(at).parent != NONE {
            at = self.tree.node(at).parent;
        }
        self.roots.get(&at).copied().unwrap_or_default()
    }

    /// A path for messages, as it is on this disk; of a secret nothing but that it is one.
    pub fn shown_on_disk(&self, index: Index, home: &Path) -> String {
        match self.tree.node(index).archive {
            Archive::State => {
                let layout = Layout::machine(home.as_os_str().as_bytes());
                printable(&layout.to_disk(&self.tree.path(index)))
            }
            Archive::Secrets => "a secret file".to_owned(),
        }
    }
}
