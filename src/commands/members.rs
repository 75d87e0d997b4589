//! The tar of one archive: what the scan found, read and written member by member.

use std::collections::{BTreeMap, HashSet};
use std::io::{Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::patch_spool::Spooled;
use super::plan::{Action, Made, Plan};
use super::read_ahead::{Ahead, LargeDatabase, read_ahead};
use super::sweeping::Found as Leaking;
use super::{Event, Events};
use crate::error::{Error, Result};
use crate::host::catalog::{BlockRows, Catalog};
use crate::host::database::{self, Checks, Image, Privacy};
use crate::host::metadata::{self, Names};
use crate::host::scan::{Look, OWN, Scan, Skip, Source, missing_entry};
use crate::host::source::{self, NoFile, Root, SourceFile};
use crate::host::world::World;
use crate::model::blocks::{BLOCKS_FROM, Differ, Since};
use crate::model::database::SIDECARS;
use crate::model::entry::{Delta, Entry, Kind};
use crate::model::layout::Layout;
use crate::model::manifest::{Database, PathName};
use crate::model::path::{file_name, printable};
use crate::model::store_key::Archive;
use crate::model::sweep::{Search, Sweep};
use crate::model::tree::{Index, Tree};
use crate::stream::archive_writer::{TarWriter, WHOLE_BYTES_MAX};
use crate::stream::resume::NO_STAMP;
use crate::stream::tar_member;

/// How often a file is read again that shrinks under the reader.
const TRIES: usize = 4;
/// How a recovery kit begins; wherever a copy of one lies, it stays out of the archives.
pub const KIT_MARK: &[u8] = b"# lifeboat recovery kit";

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
    /// The machine.
    pub world: &'a World,
    /// Which archive is written.
    pub archive: Archive,
    /// What was found.
    pub scan: &'a mut Scan,
    /// Where it was found.
    pub sources: &'a [Source],
    /// A private directory for copies of databases.
    pub staging: &'a Path,
    /// How databases are checked.
    pub checks: Checks,
    /// What an incremental holds; a full holds everything.
    pub plan: Option<&'a mut Plan>,
    /// Of the state archive.
    pub blocks: Option<Blocks<'a>>,
    /// Of the state archive: what is searched for as it passes.
    pub sweep: Option<&'a Sweep>,
    /// What happens.
    pub events: &'a mut Events<'a>,
    names: Names,
    outcome: Outcome,
    database_paths: Vec<u8>,
    link_pairs: Vec<u8>,
    deltas: u64,
    small: Vec<u8>,
    files_done: u64,
    bytes_done: u64,
    totals: (u64, u64),
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
        let listed = |i: &Index| plan.as_ref().is_none_or(|plan| plan.actions.contains_key(i));
        let of_archive =
            |i: &Index| scan.tree.node(*i).archive == archive && scan.tree.node(*i).kind == Kind::File && listed(i);
        let files = scan.tree.indices().filter(of_archive);
        let totals = files.fold((0, 0), |(n, bytes), i| (n + 1, bytes + scan.tree.node(i).size));
        Members {
            world,
            archive,
            scan,
            sources,
            staging,
            checks: Checks::Full,
            plan,
            blocks: None,
            sweep: None,
            events,
            names: Names::default(),
            outcome: Outcome::default(),
            database_paths: Vec::new(),
            link_pairs: Vec::new(),
            deltas: 0,
            small: Vec::new(),
            files_done: 0,
            bytes_done: 0,
            totals,
        }
    }

    /// Writes all members of the archive and tells what became of them.
    ///
    /// # Errors
    /// Those of the later stages, a full staging disk, and a wish to stop. What cannot be read is no error here.
    pub fn write(mut self, tar: &mut TarWriter) -> Result<Outcome> {
        self.outcome.contents = Some(Contents::new(self.archive, self.scan.tree.len(), self.staging)?);
        let mut order = archive_order(&self.scan.tree, self.archive);
        if let Some(plan) = &self.plan {
            order.retain(|i| plan.actions.contains_key(i));
        }
        if tar.is_cut(None) {
            let is_cut = |i: &Index| tar.is_cut(Some(&self.scan.tree.path(*i)));
            if let Some(at) = order.iter().position(is_cut) {
                order[..=at].rotate_right(1);
            }
        }
        let large = order.iter().copied().filter(|i| {
            let node = self.scan.tree.node(*i);
            let whole = match self.plan.as_ref().and_then(|plan| plan.actions.get(i)) {
                Some(action) => matches!(action, Action::Whole { as_bytes: false }),
                None => true,
            };
            node.kind == Kind::File && node.size > WHOLE_BYTES_MAX && whole
        });
        let found = self.find_databases(large.collect());
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

    /// The large files that are databases. Their copies are made and checked beside everything else, and they come last
    /// among the files, so that this is mostly done when they are wanted.
    fn find_databases(&mut self, large: Vec<Index>) -> Vec<LargeDatabase> {
        let mut out = Vec::new();
        for index in large {
            let names = self.names_of(index);
            let opened = source::open(self.root(index), &self.scan.tree.path(index), &mut self.names);
            if let Some(file) = opened.ok().filter(is_database) {
                let paths = names.iter().map(|i| self.root(*i).disk_path(&self.scan.tree.path(*i))).collect();
                out.push(LargeDatabase { index, paths, meta: file.entry });
            }
        }
        out
    }

    fn members(&mut self, order: &[Index], ahead: &Ahead, tar: &mut TarWriter) -> Result<()> {
        let is_last = |i: &Index| ahead.found.contains_key(i);
        let links = order.iter().position(|i| matches!(self.scan.tree.node(*i).kind, Kind::Symlink | Kind::Hardlink));
        let (before, after) = order.split_at(links.unwrap_or(order.len()));
        let databases = before.iter().filter(|i| is_last(i));
        for &index in before.iter().filter(|i| !is_last(i)).chain(databases).chain(after) {
            self.world.check_stop()?;
            if let Some(meta) = ahead.found.get(&index) {
                let names = self.names_of(index);
                // The sender ends only when it has sent everything, or with an error that it sends as well.
                let image = ahead.images.recv().map_err(|_| Error::failed("the reader of databases ended early"))?;
                self.image(index, &names, meta.clone(), image?, tar)?;
                self.progress(index);
                continue;
            }
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
        }
        self.lists(tar)
    }

    /// What an incremental does with a file. That it is listed stays known.
    fn take_action(&mut self, index: Index) -> Option<Action> {
        let action = self.plan.as_mut()?.actions.get_mut(&index)?;
        Some(std::mem::replace(action, Action::Listed))
    }

    /// The members that are lists of paths.
    fn lists(&mut self, tar: &mut TarWriter) -> Result<()> {
        let mut deleted = Vec::new();
        for path in self.plan.iter().flat_map(|plan| plan.deleted.keys()) {
            deleted.extend_from_slice(path);
            deleted.push(0);
        }
        let lists: [(&[u8], &[u8]); 3] = [
            (b"lifeboat/links", &self.link_pairs),
            (b"lifeboat/deleted", &deleted),
            (b"lifeboat/databases", &self.database_paths),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            member(name, 0o600, list, tar)?;
        }
        Ok(())
    }

    /// A file that is made from one of the parent's tree.
    fn delta(&mut self, index: Index, made: &Made, tar: &mut TarWriter) -> Result<()> {
        let Made { base, patch, size, blake3, facts } = made;
        let (path, n) = (self.scan.tree.path(index), self.deltas);
        self.deltas += 1;
        let mut fields = Vec::new();
        for field in [&path[..], base, size.to_string().as_bytes()] {
            fields.extend_from_slice(field);
            fields.push(0);
        }
        for (offset, length) in &patch.extents {
            fields.extend_from_slice(format!("{offset} {length}\0").as_bytes());
        }
        let entry = self.scan.tree.entry(index);
        let header = Entry { size: fields.len() as u64, extents: None, ..entry.clone() };
        tar.whole(format!("lifeboat/delta/{n}").as_bytes(), &header, &fields)?;
        let delta = Delta { n, base: base.clone(), extents: patch.extents.clone() };
        let mut passing = Passing::new(self.sweep);
        let at = self.patch(n, patch, &mut passing, tar)?;
        self.leaked(index, passing.finish());
        let entry = Entry { size: *size, blake3: *blake3, at, extents: None, delta: Some(Box::new(delta)), ..entry };
        self.stored(index, &entry)?;
        if let Some(facts) = facts {
            self.record_database(index, &path, (**facts).clone());
        }
        self.progress(index);
        Ok(())
    }

    /// Writes the bytes of a patch and returns where they are.
    fn patch(&self, n: u64, patch: &Spooled, passing: &mut Passing<'_>, tar: &mut TarWriter) -> Result<Option<u64>> {
        let Some(plan) = self.plan.as_ref().filter(|_| patch.bytes > 0) else { return Ok(None) };
        let entry = Entry { mode: 0o600, size: patch.bytes, ..Entry::new(Kind::File) };
        let name = format!("lifeboat/patch/{n}");
        let header = tar_member::header(name.as_bytes(), &entry, patch.bytes);
        let at = tar.begin(name.as_bytes(), &header, patch.bytes, NO_STAMP)?;
        let (mut buffer, mut done) = (vec![0; 1 << 18], 0);
        while done < patch.bytes {
            let n = usize::try_from(patch.bytes - done).unwrap_or(usize::MAX).min(buffer.len());
            plan.patches.read(patch.start + done, &mut buffer[..n])?;
            passing.push(&buffer[..n]);
            tar.write(&buffer[..n])?;
            done += n as u64;
        }
        tar.zeros(tar_member::padding(patch.bytes))?;
        Ok(Some(at))
    }

    /// A file that looks like a database and is none.
    fn bytes(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        match source::open(self.root(index), &self.scan.tree.path(index), &mut self.names) {
            Ok(file) => self.plain(index, file, tar)?,
            Err(why) => self.not_opened(index, why),
        }
        self.progress(index);
        Ok(())
    }

    /// A file that was found and cannot be opened.
    fn not_opened(&mut self, index: Index, why: NoFile) {
        match why {
            NoFile::Vanished => {
                self.outcome.vanished += 1;
                self.leave_out(index);
            }
            NoFile::Unreadable(e) => self.unreadable(index, &missing_entry(e).reason),
        }
    }

    /// All names of a file, the one that is archived first.
    fn names_of(&self, index: Index) -> Vec<Index> {
        self.scan.groups.get(&index).cloned().unwrap_or_else(|| vec![index])
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

    /// A further name of a file, which shares the fate of that file: a link to what is not in the archive would make
    /// all of it impossible to restore.
    fn hard_link(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        let file = self.scan.file_of.get(&index).map(|file| self.scan.tree.entry(*file));
        match file {
            Some(file) if file.kind == Kind::Missing => self.unreadable(index, &file.reason),
            Some(file) if file.kind != Kind::File => self.leave_out_name(index),
            _ if self.plan.is_some() => {
                let path = self.scan.tree.path(index);
                for field in [&path[..], self.scan.tree.target(index)] {
                    self.link_pairs.extend_from_slice(field);
                    self.link_pairs.push(0);
                }
            }
            _ => {
                let path = self.scan.tree.path(index);
                let entry = self.linked(index);
                tar.whole(&path, &entry, &[])?;
            }
        }
        Ok(())
    }

    /// A hard link's header carries the metadata of its file.
    fn linked(&self, index: Index) -> Entry {
        let entry = self.scan.tree.entry(index);
        match self.scan.file_of.get(&index).map(|file| self.scan.tree.entry(*file)) {
            Some(file) => Entry { mode: file.mode, owner: file.owner, mtime: file.mtime, ..entry },
            None => entry,
        }
    }

    fn directory(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        let path = self.scan.tree.path(index);
        match source::directory(self.root(index), &path, &mut self.names) {
            Ok(entry) => {
                let entry = self.guarded(entry);
                self.scan.tree.set_entry(index, &entry);
                tar.whole(&path, &entry, &[])?;
            }
            // Its content was listed a moment ago; what is known of it stands in the tree.
            Err(NoFile::Vanished) => {
                let entry = self.guarded(self.scan.tree.entry(index));
                self.scan.tree.set_entry(index, &entry);
                tar.whole(&path, &entry, &[])?;
            }
            // Listed it was, and what was found in it needs a directory around it.
            Err(NoFile::Unreadable(e)) => {
                let what = self.shown(index);
                self.outcome.unreadable.push(format!("{what}: {}", std::io::Error::from(e)));
                let entry = self.guarded(self.scan.tree.entry(index));
                self.scan.tree.set_entry(index, &entry);
                tar.whole(&path, &entry, &[])?;
            }
        }
        Ok(())
    }

    fn symlink(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        let path = self.scan.tree.path(index);
        let mut entry = self.scan.tree.entry(index);
        let disk = self.root(index).disk_path(&path);
        // A link without readable attributes is still a link.
        entry.xattrs = metadata::link_xattrs(&disk).unwrap_or_default();
        self.scan.tree.set_entry(index, &entry);
        tar.whole(&path, &entry, &[])?;
        Ok(())
    }

    fn missing_from_scan(&mut self, index: Index) {
        if self.plan.is_some() {
            // Who planned has told already.
            return;
        }
        let reason = self.scan.tree.entry(index).reason;
        let what = self.shown(index);
        self.outcome.unreadable.push(format!("{what}: {reason}"));
    }

    fn shown(&self, index: Index) -> String {
        match self.archive {
            Archive::State => {
                let layout = Layout::machine(self.world.home.as_os_str().as_bytes());
                printable(&layout.to_disk(&self.scan.tree.path(index)))
            }
            Archive::Secrets => "a secret file".to_owned(),
        }
    }

    fn unreadable(&mut self, index: Index, reason: &str) {
        let what = self.shown(index);
        self.outcome.unreadable.push(format!("{what}: {reason}"));
        let entry = Entry { reason: reason.to_owned(), ..Entry::new(Kind::Missing) };
        // A hard link that leads to no file is refused by every reader: the other names are missing with this one.
        for name in self.names_of(index) {
            self.scan.tree.set_entry(name, &entry);
            if let Some(plan) = &mut self.plan {
                // What is not replaced must not go: it stands in until this can be read again.
                plan.deleted.remove(&self.scan.tree.path(name));
                plan.actions.insert(name, Action::Listed);
            }
        }
    }

    /// The file is in no archive, and neither are its other names.
    fn leave_out(&mut self, index: Index) {
        for name in self.names_of(index) {
            self.leave_out_name(name);
        }
    }

    fn leave_out_name(&mut self, index: Index) {
        self.scan.tree.node_mut(index).kind = Kind::Deleted;
        if let Some(plan) = &mut self.plan {
            plan.actions.remove(&index);
            plan.deleted.insert(self.scan.tree.path(index), true);
        }
    }

    /// Has to be looked at again in the next run, whatever `stat` says.
    fn unsettle(&mut self, index: Index) {
        let look = self.scan.look(index);
        self.scan.set_look(index, Look { young: true, ..look });
    }

    /// Secrets are kept and come back without rights for group and others.
    fn guarded(&self, mut entry: Entry) -> Entry {
        if self.archive == Archive::Secrets {
            entry.mode &= 0o700;
        }
        entry
    }

    fn file(&mut self, index: Index, tar: &mut TarWriter) -> Result<()> {
        let names = self.names_of(index);
        let mut opened = Err(NoFile::Vanished);
        for name in &names {
            // Another name of the same file will do when the first is gone.
            opened = source::open(self.root(*name), &self.scan.tree.path(*name), &mut self.names);
            if opened.is_ok() {
                break;
            }
        }
        match opened {
            Ok(file) if is_database(&file) => {
                // Closed before SQLite opens it: closing it later would drop the locks of that connection.
                drop(file.file);
                self.database(index, &names, file.entry, tar)?;
            }
            Ok(file) => self.plain(index, file, tar)?,
            Err(why) => self.not_opened(index, why),
        }
        self.progress(index);
        Ok(())
    }

    fn progress(&mut self, index: Index) {
        self.files_done += 1;
        self.bytes_done += self.scan.tree.node(index).size;
        if self.files_done.is_multiple_of(64) || self.scan.tree.node(index).size > WHOLE_BYTES_MAX {
            let (files_total, bytes_total) = self.totals;
            let (files, bytes) = (self.files_done, self.bytes_done);
            (self.events)(Event::Progress { files, files_total, bytes, bytes_total });
        }
    }

    fn plain(&mut self, index: Index, mut file: SourceFile, tar: &mut TarWriter) -> Result<()> {
        if file.entry.size <= WHOLE_BYTES_MAX && file.entry.extents.is_none() {
            return self.small(index, file, tar);
        }
        let path = self.scan.tree.path(index);
        for _ in 0..TRIES {
            let mut passing = Passing::new(self.sweep);
            let stamp = self.stamp(index, &file);
            match self.large(&path, &mut file, stamp, &mut passing, tar)? {
                Large::Whole(entry) => {
                    self.settle(index, &file);
                    self.leaked(index, passing.finish());
                    self.stored(index, &entry)?;
                    return Ok(());
                }
                // What was written is the beginning of something that no longer is; a later member of the same name
                // takes its place in any tar.
                Large::Shrank | Large::Other => match source::open(self.root(index), &path, &mut self.names) {
                    Ok(again) => file = again,
                    Err(NoFile::Vanished) => break,
                    Err(NoFile::Unreadable(e)) => {
                        self.unreadable(index, &missing_entry(e).reason);
                        return Ok(());
                    }
                },
                Large::Failed(e) => {
                    self.unreadable(index, &e.to_string());
                    return Ok(());
                }
            }
        }
        self.unreadable(index, "it shrank each time it was read");
        Ok(())
    }

    /// Reads a file whole before its header is written, so that the header is right whatever happens to the file.
    fn small(&mut self, index: Index, mut file: SourceFile, tar: &mut TarWriter) -> Result<()> {
        let size = usize::try_from(file.entry.size).expect("small files fit in memory");
        self.small.resize(size, 0);
        match source::fill(&mut file.file, &mut self.small) {
            Ok(n) => self.small.truncate(n),
            Err(e) => {
                self.unreadable(index, &e.to_string());
                return Ok(());
            }
        }
        if self.small.starts_with(KIT_MARK) {
            let path = self.scan.tree.path(index);
            let shown = self.shown(index);
            (self.events)(Event::Detail(format!("left out {shown}: a recovery kit never goes into what it opens")));
            self.scan.skipped.push(Skip { path, reason: OWN.to_owned(), archive: self.archive });
            self.leave_out(index);
            return Ok(());
        }
        self.settle(index, &file);
        let mut entry = self.guarded(file.entry);
        entry.size = self.small.len() as u64;
        let path = self.scan.tree.path(index);
        let mut digest = self.digest(&path, entry.size);
        digest.update(&self.small);
        entry.blake3 = digest.finish()?;
        let mut seen = BTreeMap::new();
        if let Some(sweep) = self.sweep {
            sweep.find(&self.small, &mut |hit| *seen.entry(hit.value).or_default() += 1);
        }
        self.leaked(index, seen);
        let at = tar.whole_of(&path, &entry, &self.small, &entry.blake3)?;
        entry.at = (entry.size > 0).then_some(at);
        self.stored(index, &entry)
    }

    /// A file that changed while it was read, or between being found and being read, is looked at again next time.
    fn settle(&mut self, index: Index, file: &SourceFile) {
        let changed = !source::unchanged(&file.file, &file.stat);
        self.outcome.changed += u64::from(changed);
        if changed || Look::of(&file.stat, 0, 0).stamp != self.scan.look(index).stamp {
            self.unsettle(index);
        }
    }

    /// What tells that a file is the same when an archive is continued; nothing where that could not be told.
    fn stamp(&self, index: Index, file: &SourceFile) -> u64 {
        let (seen, now) = (self.scan.look(index), Look::of(&file.stat, 0, 0).stamp);
        if seen.young || seen.stamp != now { NO_STAMP } else { now }
    }

    /// What hashes a file of `size` bytes; a large one of the state block by block.
    fn digest(&self, path: &[u8], size: u64) -> Digest<'a> {
        match self.blocks.filter(|_| size >= BLOCKS_FROM) {
            Some(Blocks { catalog, seq }) => {
                let since = Since { seq, parent: None, born: false };
                Digest::Blocks(Box::new(Differ::new(catalog.blocks(path), since)), Ok(()))
            }
            None => Digest::Plain(Box::default()),
        }
    }

    /// Records values of secrets that were seen in a file of the state.
    fn leaked(&mut self, index: Index, seen: BTreeMap<usize, u64>) {
        if seen.is_empty() {
            return;
        }
        let path = self.scan.tree.path(index);
        let leaks =
            seen.into_iter().map(|(value, count)| Leaking { path: path.clone(), value, count, as_written: true });
        self.outcome.leaks.extend(leaks);
    }

    /// Records a file that was written.
    fn stored(&mut self, index: Index, entry: &Entry) -> Result<()> {
        self.scan.tree.set_metadata(index, entry);
        self.outcome.contents.as_mut().map_or(Ok(()), |contents| contents.put(index, entry))
    }

    fn large(
        &mut self,
        path: &[u8],
        file: &mut SourceFile,
        stamp: u64,
        passing: &mut Passing<'_>,
        tar: &mut TarWriter,
    ) -> Result<Large> {
        let mut entry = self.guarded(file.entry.clone());
        let header = tar_member::header(path, &entry, file.stored);
        let at = tar.begin(path, &header, file.stored, stamp)?;
        entry.at = (file.stored > 0).then_some(at);
        let mut hasher = self.digest(path, entry.size);
        let whole = [(0, entry.size)];
        let extents = entry.extents.clone();
        let (mut hashed, mut stored) = (0, 0);
        for &(offset, length) in extents.as_deref().unwrap_or(&whole) {
            hash_zeros(&mut hasher, offset - hashed);
            let copied = match file.file.seek(SeekFrom::Start(offset)) {
                Ok(_) => tar.copy(&mut file.file, length, &mut |bytes| {
                    hasher.update(bytes);
                    passing.push(bytes);
                }),
                Err(e) => Err(Ok(e)),
            };
            let problem = match copied {
                Ok(n) if n == length => None,
                Ok(_) => Some(Large::Shrank),
                Err(Ok(e)) => Some(Large::Failed(e)),
                Err(Err(e)) => return Err(e),
            };
            if let Some(problem) = problem {
                let written = tar.position() - at;
                tar.zeros(file.stored - written + tar_member::padding(file.stored))?;
                return Ok(problem);
            }
            hashed = offset + length;
            stored += length;
        }
        hash_zeros(&mut hasher, entry.size - hashed);
        tar.zeros(tar_member::padding(stored))?;
        entry.blake3 = hasher.finish()?;
        Ok(if tar.end(entry.blake3) { Large::Whole(Box::new(entry)) } else { Large::Other })
    }

    fn database(&mut self, index: Index, names: &[Index], meta: Entry, tar: &mut TarWriter) -> Result<()> {
        let paths: Vec<PathBuf> = names.iter().map(|i| self.root(*i).disk_path(&self.scan.tree.path(*i))).collect();
        let image = database::read(database::best_name(&paths), self.staging, self.privacy(), self.checks)?;
        self.image(index, names, meta, image, tar)
    }

    fn image(&mut self, index: Index, names: &[Index], meta: Entry, image: Image, tar: &mut TarWriter) -> Result<()> {
        match image {
            Image::Copy(mut copy) => {
                let path = self.scan.tree.path(index);
                let mut entry = Entry { size: copy.size, extents: None, ..self.guarded(meta) };
                let header = tar_member::header(&path, &entry, entry.size);
                loop {
                    entry.at = Some(tar.begin(&path, &header, entry.size, NO_STAMP)?);
                    let mut hasher = self.digest(&path, entry.size);
                    let mut passing = Passing::new(self.sweep);
                    let copied = tar.copy(&mut *copy, entry.size, &mut |bytes| {
                        hasher.update(bytes);
                        passing.push(bytes);
                    });
                    let unreadable = |e| Error::failed("cannot read a database copy").because(e);
                    let n = copied.map_err(|e| e.map_or_else(|e| e, unreadable))?;
                    if n != entry.size {
                        return Err(Error::failed(
                            "a database copy is shorter than it should be: this is a bug in lifeboat",
                        ));
                    }
                    tar.zeros(tar_member::padding(n))?;
                    entry.blake3 = hasher.finish()?;
                    if tar.end(entry.blake3) {
                        self.leaked(index, passing.finish());
                        break;
                    }
                    // An earlier run stored another image of it.
                    copy.rewind().map_err(unreadable)?;
                }
                self.stored(index, &entry)?;
                self.record_database(index, &path, copy.facts);
            }
            Image::Raw { why } => self.raw_database(index, names, &why, tar)?,
            Image::Vanished => {
                self.outcome.vanished += 1;
                self.leave_out(index);
            }
        }
        Ok(())
    }

    fn record_database(&mut self, index: Index, path: &[u8], facts: crate::model::database::Facts) {
        self.database_paths.extend_from_slice(path);
        self.database_paths.push(0);
        if let Some(check) = facts.check.as_ref().filter(|c| *c != "ok") {
            let first = check.lines().next().unwrap_or_default().to_owned();
            let what = self.shown(index);
            self.outcome.unreadable.push(format!("{what}: the database is damaged, and stored as it is ({first})"));
        }
        self.outcome.database_entries.insert(index);
        self.outcome.databases.push(Database { path: PathName::new(path), facts });
    }

    /// Bytes of what cannot be opened as a database, with its sidecars.
    fn raw_database(&mut self, index: Index, names: &[Index], why: &str, tar: &mut TarWriter) -> Result<()> {
        let what = self.shown(index);
        self.outcome
            .unreadable
            .push(format!("{what}: it cannot be opened as a database, and is stored as it is ({why})"));
        self.unsettle(index);
        for name in names {
            let path = self.scan.tree.path(*name);
            for suffix in SIDECARS {
                let sidecar = [&path[..], suffix].concat();
                if let Ok(file) = source::open(self.root(*name), &sidecar, &mut self.names) {
                    let parent = self.scan.tree.node(*name).parent;
                    let tree_name = match parent {
                        crate::model::tree::NONE => &sidecar[..],
                        _ => file_name(&sidecar),
                    };
                    let root = self.scan.source_of(*name);
                    let new = self.scan.tree.push(parent, tree_name, Kind::File, self.archive);
                    self.scan.roots.insert(new, root);
                    if let Some(plan) = &mut self.plan {
                        plan.actions.insert(new, Action::Listed);
                        plan.deleted.remove(&sidecar);
                    }
                    self.plain(new, file, tar)?;
                }
            }
        }
        match source::open(self.root(index), &self.scan.tree.path(index), &mut self.names) {
            Ok(file) => self.plain(index, file, tar),
            Err(NoFile::Vanished) => {
                self.outcome.vanished += 1;
                self.leave_out(index);
                Ok(())
            }
            Err(NoFile::Unreadable(e)) => {
                self.unreadable(index, &missing_entry(e).reason);
                Ok(())
            }
        }
    }
}

enum Large {
    Whole(Box<Entry>),
    Shrank,
    /// An earlier run stored something else, and nothing was written.
    Other,
    Failed(std::io::Error),
}

fn is_database(file: &SourceFile) -> bool {
    let mut magic = [0; 16];
    rustix::io::pread(file.file.as_fd(), &mut magic, 0) == Ok(16) && crate::model::database::is_database(&magic)
}

/// What hashes a file as its bytes pass.
enum Digest<'a> {
    /// All of it.
    Plain(Box<blake3::Hasher>),
    /// Block by block. What the catalog has to say about it is said at the end.
    Blocks(Box<Differ<BlockRows<'a>>>, Result<()>),
}

impl Digest<'_> {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Digest::Plain(hasher) => drop(hasher.update(bytes)),
            Digest::Blocks(differ, result) => {
                if result.is_ok() {
                    *result = differ.update(bytes, &mut |_, _| Ok(()));
                }
            }
        }
    }

    fn finish(self) -> Result<[u8; 32]> {
        match self {
            Digest::Plain(hasher) => Ok(*hasher.finalize().as_bytes()),
            Digest::Blocks(differ, result) => result.and_then(|()| differ.finish(&mut |_, _| Ok(()))).map(|s| s.blake3),
        }
    }
}

/// The search for values of secrets in the bytes of one file, as they pass.
struct Passing<'a> {
    search: Option<Search<'a>>,
    seen: BTreeMap<usize, u64>,
}

impl<'a> Passing<'a> {
    fn new(sweep: Option<&'a Sweep>) -> Passing<'a> {
        let search = sweep.filter(|sweep| !sweep.is_empty()).map(Sweep::search);
        Passing { search, seen: BTreeMap::new() }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(search) = &mut self.search {
            search.push(bytes, &mut |hit| *self.seen.entry(hit.value).or_default() += 1);
        }
    }

    /// How often each value was seen.
    fn finish(mut self) -> BTreeMap<usize, u64> {
        if let Some(search) = self.search {
            search.finish(&mut |hit| *self.seen.entry(hit.value).or_default() += 1);
        }
        self.seen
    }
}

/// A member of the format's own, from memory.
fn member(name: &[u8], mode: u16, content: &[u8], tar: &mut TarWriter) -> Result<()> {
    let entry = Entry { mode, size: content.len() as u64, ..Entry::new(Kind::File) };
    tar.whole(name, &entry, content).map(drop)
}

fn hash_zeros(hasher: &mut Digest<'_>, mut count: u64) {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while count > 0 {
        let n = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
        hasher.update(&ZEROS[..n]);
        count -= n as u64;
    }
}

/// Directories first, so that a plain `tar` has somewhere to put files; then files, like beside like; then symbolic
/// links, and hard links after what they lead to.
pub fn archive_order(tree: &Tree, archive: Archive) -> Vec<Index> {
    let of = |kinds: &[Kind]| {
        let chosen = |i: &Index| tree.node(*i).archive == archive && kinds.contains(&tree.node(*i).kind);
        tree.indices().filter(chosen).collect::<Vec<_>>()
    };
    // A scan adds a directory before what is in it.
    let mut out = of(&[Kind::Dir, Kind::Missing]);
    let mut files = of(&[Kind::File]);
    files.sort_by(|a, b| {
        let key = |i: Index| (extension(tree.name(i)), tree.node(i).size, file_name(tree.name(i)));
        key(*a).cmp(&key(*b)).then(a.cmp(b))
    });
    out.extend(files);
    out.extend(of(&[Kind::Symlink]));
    out.extend(of(&[Kind::Hardlink]));
    out
}

fn extension(name: &[u8]) -> &[u8] {
    let name = file_name(name);
    match name.iter().rposition(|b| *b == b'.') {
        Some(dot) if dot > 0 => &name[dot + 1..],
        _ => &[],
    }
}

/// The paths of the databases that were stored as such.
pub fn database_paths(databases: &[Database]) -> HashSet<Vec<u8>> {
    databases.iter().map(|d| d.path.bytes()).collect()
}
