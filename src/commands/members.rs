//! The tar of one archive: what the scan found, read and written member by member.
//!
//! Here is the order of things, and what has no content. Beside it: how `files` are read and how `databases`, what is
//! learned of their bytes in `passing`, members of the format's `own`, and what becomes of what is `absent` by now.

mod absent;
mod databases;
mod files;
mod order;
mod own;
mod passing;

use std::collections::HashSet;
use std::path::Path;

use self::own::Lists;
use super::contents::Contents;
use super::plan::{Action, Plan};
use super::read_ahead::{Ahead, read_ahead};
use super::sweeping::Found as Leaking;
use super::{Event, Events};
use crate::error::{Error, Result};
use crate::host::catalog::Catalog;
use crate::host::database::{Checks, Privacy};
use crate::host::metadata::{self, Names};
use crate::host::scan::{Scan, Source};
use crate::host::source::{self, NoFile, Root};
use crate::host::world::World;
use crate::model::entry::{Entry, Kind};
use crate::model::manifest::Database;
use crate::model::store_key::Archive;
use crate::model::sweep::Sweep;
use crate::model::tree::Index;
use crate::stream::archive_writer::{TarWriter, WHOLE_BYTES_MAX};

/// After how many files it is told how far this is.
const FILES_PER_TICK: u64 = 64;

/// What became of the members.
#[derive(Default)]
pub struct Outcome {
    /// Databases and what was read from them.
    pub databases: Vec<Database>,
    /// Their entries.
    pub database_entries: HashSet<Index>,
    /// Where contents are and what they hash to.
    pub contents: Option<Contents>,
    /// Files that changed while they were read; what was stored is a prefix of what was there.
    pub changed: u64,
    /// Files that went away before they were read.
    pub vanished: u64,
    /// What could not be read: described for a person; a secret without its name.
    pub unreadable: Vec<String>,
    /// Values of secrets that were seen in the state.
    pub leaks: Vec<Leaking>,
}

/// Where the state archive's blocks are compared and kept, and with which seq.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    /// What knows them.
    pub catalog: &'a Catalog,
    /// The seq of the run.
    pub seq: u64,
}

/// Everything that writing members needs.
pub struct Members<'a> {
    /// How databases are checked.
    pub checks: Checks,
    /// Of the state archive.
    pub blocks: Option<Blocks<'a>>,
    /// Of the state archive: what is searched for as it passes.
    pub sweep: Option<&'a Sweep>,
    world: &'a World,
    archive: Archive,
    scan: &'a mut Scan,
    sources: &'a [Source],
    /// A private directory for copies of databases.
    staging: &'a Path,
    /// What an incremental holds; a full holds everything.
    plan: Option<&'a mut Plan>,
    events: &'a mut Events<'a>,
    names: Names,
    outcome: Outcome,
    lists: Lists,
    done: Done,
    /// Room for a file that is read whole.
    small: Vec<u8>,
}

/// How far it is, in files and bytes, and how far it will go.
#[derive(Default)]
struct Done {
    files: u64,
    bytes: u64,
    files_total: u64,
    bytes_total: u64,
}

impl<'a> Members<'a> {
    /// Prepares to write one archive.
    pub fn new(
        world: &'a World,
        archive: Archive,
        scan: &'a mut Scan,
        sources: &'a [Source],
        staging: &'a Path,
        plan: Option<&'a mut Plan>,
        events: &'a mut Events<'a>,
    ) -> Self {
        let mut done = Done::default();
        let listed = |i: &Index| plan.as_ref().is_none_or(|plan| plan.actions.contains_key(i));
        for index in scan.tree.indices().filter(listed) {
            let node = scan.tree.node(index);
            if node.archive == archive && node.kind == Kind::File {
                done.files_total += 1;
                done.bytes_total += node.size;
            }
        }
        Members {
            checks: Checks::Full,
            blocks: None,
            sweep: None,
            world,
            archive,
            scan,
            sources,
            staging,
            plan,
            events,
            names: Names::default(),
            outcome: Outcome::default(),
            lists: Lists::default(),
            done,
            small: Vec::new(),
        }
    }

    /// Writes all members of the archive and tells what became of them.
    ///
    /// # Errors
    /// Those of the later stages, a full staging disk, and a wish to stop. What cannot be read is no error here.
    pub fn write(mut self, tar: &mut TarWriter) -> Result<Outcome> {
        self.outcome.contents = Some(Contents::new(self.archive, self.scan.tree.len(), self.staging)?);
        let order = self.order(tar);
        let found = self.large_databases(&order);
        let jobs = found.iter().map(|d| d.paths.clone()).collect();
        let (staging, privacy, checks) = (self.staging, self.privacy(), self.checks);
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::sync_channel(0);
            scope.spawn(move || read_ahead(jobs, staging, privacy, checks, &send));
            let ahead = found.into_iter().map(|d| (d.index, d.meta)).collect();
            self.members(&order, &Ahead { found: ahead, images: receive }, tar)
        })?;
        Ok(self.outcome)
    }

    /// The entries that are members, in their order.
    fn order(&self, tar: &TarWriter) -> Vec<Index> {
        let mut out = order::of_archive(&self.scan.tree, self.archive);
        if let Some(plan) = &self.plan {
            out.retain(|i| plan.actions.contains_key(i));
        }
        if tar.is_cut(None) {
            let is_cut = |i: &Index| tar.is_cut(Some(&self.scan.tree.path(*i)));
            if let Some(at) = out.iter().position(is_cut) {
                out[..=at].rotate_right(1);
            }
        }
        out
    }

    /// Large databases come last among the files, so that their copies, which are made and checked beside everything
    /// else, are mostly done when they are wanted.
    fn members(&mut self, order: &[Index], ahead: &Ahead, tar: &mut TarWriter) -> Result<()> {
        let is_last = |i: &Index| ahead.found.contains_key(i);
        let links = order.iter().position(|i| matches!(self.scan.tree.node(*i).kind, Kind::Symlink | Kind::Hardlink));
        let (before, after) = order.split_at(links.unwrap_or(order.len()));
        let databases = before.iter().filter(|i| is_last(i));
        for &index in before.iter().filter(|i| !is_last(i)).chain(databases).chain(after) {
            self.world.check_stop()?;
            let is_file = self.scan.tree.node(index).kind == Kind::File;
            match ahead.found.get(&index) {
                Some(meta) => {
                    // The sender ends only when it has sent everything, or with an error that it sends as well.
                    let image = ahead.images.recv();
                    let image = image.map_err(|_| Error::failed("the reader of databases ended early"))?;
                    self.image(index, meta.clone(), image?, tar)?;
                }
                None => self.member(index, tar)?,
            }
            if is_file {
                self.progress(index);
            }
        }
        self.own_lists(tar)
    }

    fn member(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        match (self.scan.tree.node(index).kind, self.take_action(index)) {
            (Kind::Dir, _) => self.directory(index, tar)?,
            (Kind::File, Some(Action::Delta(made))) => self.delta(index, &made, tar)?,
            (Kind::File, Some(Action::Whole { as_bytes: true })) => self.bytes(index, tar)?,
            (Kind::File, _) => self.file(index, tar)?,
            (Kind::Symlink, _) => self.symlink(index, tar)?,
            (Kind::Hardlink, _) => self.hard_link(index, tar)?,
            (Kind::Missing, _) => self.missing_from_scan(index),
            (Kind::Deleted, _) => {}
        }
        Ok(())
    }

    /// What an incremental does with a file. That it is listed stays known.
    fn take_action(&mut self, index: Index) -> Option<Action> {
        let action = self.plan.as_mut()?.actions.get_mut(&index)?;
        Some(std::mem::replace(action, Action::Listed))
    }

    fn directory(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        let path = self.scan.tree.path(index);
        let entry = match source::directory(self.root(index), &path, &mut self.names) {
            Ok(entry) => entry,
            // Its content was listed a moment ago; what is known of it stands in the tree.
            Err(NoFile::Vanished) => self.scan.tree.entry(index),
            // Listed it was, and what was found in it needs a directory around it.
            Err(NoFile::Unreadable(e)) => {
                self.cannot_read(index, &std::io::Error::from(e).to_string());
                self.scan.tree.entry(index)
            }
        };
        let entry = self.guarded(entry);
        self.scan.tree.set_entry(index, &entry);
        tar.whole(&path, &entry, &[]).map(drop)
    }

    fn symlink(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        let path = self.scan.tree.path(index);
        let mut entry = self.scan.tree.entry(index);
        let disk = self.root(index).disk_path(&path);
        // A link without readable attributes is still a link.
        entry.xattrs = metadata::link_xattrs(&disk).unwrap_or_default();
        self.scan.tree.set_entry(index, &entry);
        tar.whole(&path, &entry, &[]).map(drop)
    }

    /// A further name of a file, which shares the fate of that file: a link to what is not in the archive would make
    /// all of it impossible to restore.
    fn hard_link(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        let path = self.scan.tree.path(index);
        let file = self.scan.file_of.get(&index).map(|file| self.scan.tree.entry(*file));
        match file {
            Some(file) if file.kind == Kind::Missing => self.unreadable(index, &file.reason),
            Some(file) if file.kind != Kind::File => self.leave_out_name(index),
            _ if self.plan.is_some() => self.lists.link(&path, self.scan.tree.target(index)),
            file => {
                let mut entry = self.scan.tree.entry(index);
                // A hard link's header carries the metadata of its file.
                if let Some(Entry { mode, owner, mtime, .. }) = file {
                    entry = Entry { mode, owner, mtime, ..entry };
                }
                tar.whole(&path, &entry, &[])?;
            }
        }
        Ok(())
    }

    fn progress(&mut self, index: Index) {
        let size = self.scan.tree.node(index).size;
        self.done.files += 1;
        self.done.bytes += size;
        if self.done.files.is_multiple_of(FILES_PER_TICK) || size > WHOLE_BYTES_MAX {
            let Done { files, bytes, files_total, bytes_total } = self.done;
            (self.events)(Event::Progress { files, files_total, bytes, bytes_total });
        }
    }

    fn privacy(&self) -> Privacy {
        match self.archive {
            Archive::State => Privacy::Open,
            Archive::Secrets => Privacy::Secret,
        }
    }

    fn root(&self, index: Index) -> &'a Root {
        &self.sources[self.scan.source_of(index)].root
    }

    /// Secrets are kept and come back without rights for group and others.
    fn guarded(&self, mut entry: Entry) -> Entry {
        if self.archive == Archive::Secrets {
            entry.mode &= 0o700;
        }
        entry
    }
}
