//! What an incremental holds: every difference is looked at, and each changed entry goes whole, as a delta, or by name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::changes::{Changes, Gone, Places};
use super::patch_spool::{PatchReader, PatchSpool, Patcher, Spooled};
use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::host::database::{self, Checks, Image, Privacy, Streamed};
use crate::host::metadata::{self, Names};
use crate::host::scan::{Look, Scan, Source, missing_entry};
use crate::host::source::{self, NoFile, Root, SourceFile};
use crate::host::world::World;
use crate::model::blocks::{BLOCKS_FROM, Since, Summary, changed_bytes};
use crate::model::database::{Facts, SIDECARS};
use crate::model::entry::{Entry, Kind};
use crate::model::path;
use crate::model::record::{Record, meta_digest};
use crate::model::store_key::Archive;
use crate::model::tree::{Index, NONE};

/// A new file up to this size is stored again even where the parent has the same content: its delta would not be
/// smaller. In bytes.
const SMALL_COPY_BYTES: u64 = 512;

/// A file with holes that stores no more than this goes whole when it changes, since a delta knows of no holes. In bytes.
const SPARSE_WHOLE_BYTES: u64 = 64 << 20;

/// What is done about an entry that an incremental lists.
#[derive(Debug)]
pub enum Action {
    /// It is listed: a directory, a link, something missing.
    Listed,
    /// It is stored whole; `as_bytes` even if it looks like a database.
    Whole {
        /// Whether it was found that SQLite cannot read it.
        as_bytes: bool,
    },
    /// It is made from a file of the parent's tree.
    Delta(Box<Made>),
}

/// How a file is made from another one.
#[derive(Clone, Debug)]
pub struct Made {
    /// The file of the parent's tree.
    pub base: Vec<u8>,
    /// What replaces some of it.
    pub patch: Spooled,
    /// Bytes of the result.
    pub size: u64,
    /// BLAKE3 of the result.
    pub blake3: [u8; 32],
    /// Of a database, what was learned when it was read.
    pub facts: Option<Box<Facts>>,
}

/// What an incremental holds.
pub struct Plan {
    /// What is done about each entry that is listed.
    pub actions: HashMap<Index, Action>,
    /// Entries that were looked at and did not change.
    pub same: HashSet<Index>,
    /// What is deleted; `false` where it only has to make room for something that this archive brings.
    pub deleted: BTreeMap<Vec<u8>, bool>,
    /// The bytes of patches.
    pub patches: PatchReader,
    /// Bytes of content, about.
    pub bytes: u64,
    /// Whether anything changed since the last run, rather than only since the parent.
    pub changed: bool,
    /// What could not be read, for the report.
    pub unreadable: Vec<String>,
    /// Files that went away between being found and being read.
    pub vanished: u64,
}

/// Everything that planning needs.
pub struct Planner<'a> {
    /// The machine.
    pub world: &'a World,
    /// What was found.
    pub scan: &'a mut Scan,
    /// Where it is in the tree.
    pub places: &'a Places,
    /// Where it was found.
    pub sources: &'a [Source],
    /// What was known.
    pub catalog: &'a Catalog,
    /// A private directory.
    pub staging: &'a Path,
    /// How databases are checked.
    pub checks: Checks,
    /// The seq of this run.
    pub seq: u64,
    /// The seq of the parent.
    pub parent: u64,
}

impl Planner<'_> {
    /// Looks at every difference and decides.
    ///
    /// # Errors
    /// When the catalog or staging fails, and a wish to stop. What cannot be read is no error here.
    pub fn plan(self, changes: &mut Changes) -> Result<Plan> {
        let spool = PatchSpool::new(self.staging)?;
        let bases = self.bases(changes)?;
        let Planner { world, scan, places, sources, catalog, staging, checks, seq, parent } = self;
        let mut work = Work {
            world,
            scan,
            places,
            sources,
            catalog,
            staging,
            checks,
            seq,
            parent,
            bases,
            spool,
            names: Names::default(),
            actions: HashMap::new(),
            same: HashSet::new(),
            changed: changes.newly_lost || !changes.gone.is_empty(),
            bytes: 0,
            unreadable: Vec::new(),
            vanished: 0,
            gone: std::mem::take(&mut changes.gone),
        };
        let looks = std::mem::take(&mut changes.looks);
        for (index, record) in &looks {
            world.check_stop()?;
            work.look(*index, record.as_ref())?;
        }
        for (index, record) in std::mem::take(&mut changes.later) {
            world.check_stop()?;
            work.later(index, &record)?;
        }
        work.hard_links()?;
        let deleted = work.deleted()?;
        work.directories(&deleted);
        changes.gone = work.gone;
        changes.looks = looks;
        Ok(Plan {
            actions: work.actions,
            same: work.same,
            deleted,
            patches: work.spool.finish()?,
            bytes: work.bytes,
            changed: work.changed,
            unreadable: work.unreadable,
            vanished: work.vanished,
        })
    }

    /// Contents of the parent's tree that something new could be made from: only those of a size that is wanted.
    fn bases(&self, changes: &Changes) -> Result<Bases> {
        let tree = &self.scan.tree;
        let news = changes.looks.iter().filter(|(i, r)| r.is_none() && tree.node(*i).kind == Kind::File);
        let born = changes.later.iter().filter(|(_, r)| r.kind == Kind::File && r.born > self.parent);
        let sizes = news.map(|(i, _)| tree.node(*i).size).chain(born.map(|(_, r)| r.size));
        let sizes = sizes.filter(|size| *size > SMALL_COPY_BYTES).collect();
        let mut bases = Bases { sizes, there: HashSet::new(), paths: HashMap::new() };
        if bases.sizes.is_empty() {
            return Ok(bases);
        }
        self.catalog.records(&mut |dir, name, record| {
            if record.is_base(self.parent) && bases.sizes.contains(&record.size) {
                let path = if dir.is_empty() { name.to_vec() } else { path::join(dir, name) };
                if !changes.gone.get(&path).is_some_and(|gone| gone.secret) {
                    bases.paths.entry((record.size, record.blake3)).or_insert(path);
                }
            }
            Ok(())
        })?;
        for grave in self.catalog.graves(self.parent)? {
            let was_there = grave.born <= self.parent && grave.changed <= self.parent;
            if let Some(blake3) = grave.blake3.filter(|_| was_there && bases.sizes.contains(&grave.size)) {
                bases.paths.entry((grave.size, blake3)).or_insert(grave.path);
            }
        }
        bases.there = bases.paths.keys().map(|(size, _)| *size).collect();
        Ok(bases)
    }
}

/// Contents by size and digest, and where the parent's tree has them.
struct Bases {
    /// Sizes that are wanted.
    sizes: HashSet<u64>,
    /// Those of them that there are.
    there: HashSet<u64>,
    paths: HashMap<(u64, [u8; 32]), Vec<u8>>,
}

impl Bases {
    fn find(&self, size: u64, blake3: [u8; 32]) -> Option<&Vec<u8>> {
        self.paths.get(&(size, blake3))
    }

    /// Whether something of that size is there, so that it is worth hashing what may be a copy of it.
    fn may_have(&self, size: u64) -> bool {
        self.there.contains(&size)
    }
}

struct Work<'a> {
    world: &'a World,
    scan: &'a mut Scan,
    places: &'a Places,
    sources: &'a [Source],
    catalog: &'a Catalog,
    staging: &'a Path,
    checks: Checks,
    seq: u64,
    parent: u64,
    bases: Bases,
    spool: PatchSpool,
    names: Names,
    actions: HashMap<Index, Action>,
    same: HashSet<Index>,
    gone: BTreeMap<Vec<u8>, Gone>,
    changed: bool,
    bytes: u64,
    unreadable: Vec<String>,
    vanished: u64,
}

/// What was found out about the content of a file.
enum Content {
    /// It is what it was.
    Same,
    /// It is not, or never was: all of it.
    Whole { as_bytes: bool },
    /// It is that of a file of the parent's tree, but for a patch.
    Made(Box<Made>),
}

impl Work<'_> {
    fn root(&self, index: Index) -> &Root {
        &self.sources[self.scan.source_of(index)].root
    }

    fn shown(&self, index: Index) -> String {
        self.scan.shown_on_disk(index, &self.world.home)
    }

    fn look(&mut self, index: Index, record: Option<&Record>) -> Result<()> {
        match self.scan.tree.node(index).kind {
            Kind::Missing => {
                let reason = self.scan.tree.entry(index).reason;
                let what = self.shown(index);
                self.unreadable.push(format!("{what}: {reason}"));
                self.actions.insert(index, Action::Listed);
            }
            Kind::Deleted => {}
            Kind::Dir => {
                self.directory(index);
                self.by_metadata(index, record);
            }
            Kind::Symlink => {
                let mut entry = self.scan.tree.entry(index);
                let disk = self.root(index).disk_path(&self.scan.tree.path(index));
                entry.xattrs = metadata::link_xattrs(&disk).unwrap_or_default();
                self.scan.tree.set_entry(index, &entry);
                self.by_metadata(index, record);
            }
            Kind::Hardlink => self.by_metadata(index, record),
            Kind::File => self.file(index, record)?,
        }
        Ok(())
    }

    /// Reads the metadata of a directory; where that fails, what the scan saw stands.
    fn directory(&mut self, index: Index) {
        let tree_path = self.scan.tree.path(index);
        let root = &self.sources[self.scan.source_of(index)].root;
        match source::directory(root, &tree_path, &mut self.names) {
            Ok(entry) => self.scan.tree.set_entry(index, &entry),
            Err(NoFile::Vanished) => self.scan.unsettle(index),
            Err(NoFile::Unreadable(e)) => {
                let what = self.shown(index);
                self.unreadable.push(format!("{what}: {}", std::io::Error::from(e)));
                self.scan.unsettle(index);
            }
        }
    }

    /// Something that has no content but its metadata.
    fn by_metadata(&mut self, index: Index, record: Option<&Record>) {
        let digest = meta_digest(&self.scan.tree.entry(index));
        let same = record.is_some_and(|r| r.meta_digest == digest);
        self.changed |= !same;
        if same && record.is_some_and(|r| !r.is_after(self.parent)) {
            self.same.insert(index);
        } else {
            self.actions.insert(index, Action::Listed);
        }
    }

    /// The names of something that could not be read, which are missing together.
    fn cannot_read(&mut self, index: Index, reason: &str) {
        let what = self.shown(index);
        self.unreadable.push(format!("{what}: {reason}"));
        self.changed = true;
        let entry = Entry { reason: reason.to_owned(), ..Entry::new(Kind::Missing) };
        for name in self.scan.names_of(index) {
            self.scan.tree.set_entry(name, &entry);
            self.same.remove(&name);
            self.actions.insert(name, Action::Listed);
        }
    }

    /// A file that is not there any more, under none of its names.
    fn vanish(&mut self, index: Index, record: Option<&Record>) {
        self.vanished += 1;
        self.changed = true;
        for name in self.scan.names_of(index) {
            self.scan.tree.node_mut(name).kind = Kind::Deleted;
            self.actions.remove(&name);
            self.same.remove(&name);
            let path = self.scan.tree.path(name);
            // Of the other names nothing is at hand; what is gone without ever having been there does no harm.
            let record = record.filter(|_| name == index).cloned();
            let record = record.unwrap_or_else(|| Record { kind: Kind::Hardlink, ..Record::born(Kind::Hardlink, 0) });
            self.gone.entry(path).or_insert(Gone { record, secret: false });
        }
    }

    fn file(&mut self, index: Index, record: Option<&Record>) -> Result<()> {
        let Some(file) = self.open(index, record) else { return Ok(()) };
        let entry = file.entry.clone();
        let content = if file.is_database() {
            // Closed before SQLite opens it: closing it later would drop the locks of that connection.
            drop(file.file);
            self.database(index, record, &entry)?
        } else {
            self.note_change(index, &file);
            self.plain(index, file, record, false)?
        };
        self.decide(index, record, entry, content);
        Ok(())
    }

    /// Opens a file under any of its names; what fails is recorded.
    fn open(&mut self, index: Index, record: Option<&Record>) -> Option<SourceFile> {
        match self.scan.open(index, self.sources, &mut self.names) {
            Ok(file) => Some(file),
            Err(NoFile::Vanished) => {
                self.vanish(index, record);
                None
            }
            Err(NoFile::Unreadable(e)) => {
                self.cannot_read(index, &missing_entry(e).reason);
                None
            }
        }
    }

    /// A file that is not as the scan saw it is looked at again next time.
    fn note_change(&mut self, index: Index, file: &SourceFile) {
        if Look::of(&file.stat, 0, 0).stamp != self.scan.look(index).stamp {
            self.scan.unsettle(index);
        }
    }

    /// Puts together what is known of a file.
    fn decide(&mut self, index: Index, record: Option<&Record>, entry: Entry, content: Content) {
        if self.scan.tree.node(index).kind != Kind::File {
            // It could not be read after all.
            return;
        }
        let size = match &content {
            Content::Same => record.map_or(entry.size, |r| r.size),
            Content::Whole { .. } => entry.size,
            Content::Made(made) => made.size,
        };
        let entry = Entry { size, extents: None, ..entry };
        self.scan.tree.set_metadata(index, &entry);
        let same_metadata = record.is_some_and(|r| r.meta_digest == meta_digest(&entry));
        let action = match (content, record) {
            (Content::Same, Some(r)) if same_metadata && !r.is_after(self.parent) => {
                self.same.insert(index);
                return;
            }
            (Content::Same, Some(r)) => {
                self.changed |= !same_metadata;
                self.unchanged_content(index, r)
            }
            (Content::Same, None) => Action::Whole { as_bytes: false },
            (Content::Whole { as_bytes }, _) => {
                self.changed = true;
                Action::Whole { as_bytes }
            }
            (Content::Made(made), r) => {
                let before = r.is_some_and(|r| (r.size, r.blake3) == (made.size, made.blake3));
                self.changed |= !before || !same_metadata;
                Action::Delta(made)
            }
        };
        self.list(index, action);
    }

    fn list(&mut self, index: Index, action: Action) {
        self.bytes += match &action {
            Action::Listed => 0,
            Action::Whole { .. } => self.scan.tree.node(index).size,
            Action::Delta(made) => made.patch.bytes,
        };
        self.same.remove(&index);
        self.actions.insert(index, action);
    }

    /// A file whose content is what the catalog says, and that has to be listed all the same.
    fn unchanged_content(&self, index: Index, record: &Record) -> Action {
        let base = if record.is_base(self.parent) {
            Some(self.scan.tree.path(index))
        } else if record.born > self.parent {
            self.bases.find(record.size, record.blake3).cloned()
        } else {
            None
        };
        match base {
            Some(base) => Action::Delta(Box::new(Made {
                base,
                patch: Spooled::default(),
                size: record.size,
                blake3: record.blake3,
                facts: None,
            })),
            None => Action::Whole { as_bytes: false },
        }
    }

    /// The content of a file that is no database, or is taken as bytes.
    fn plain(&mut self, index: Index, file: SourceFile, record: Option<&Record>, as_bytes: bool) -> Result<Content> {
        let size = file.entry.size;
        let large = size >= BLOCKS_FROM;
        let Some(record) = record else {
            if !self.bases.may_have(size) {
                return Ok(Content::Whole { as_bytes });
            }
            let Some((summary, _)) = self.pass(index, file, None)? else { return Ok(Content::Same) };
            return Ok(self.new_content(&summary, as_bytes, None));
        };
        if !large && record.size < BLOCKS_FROM {
            if size != record.size {
                return Ok(Content::Whole { as_bytes });
            }
            let Some((summary, _)) = self.pass(index, file, None)? else { return Ok(Content::Same) };
            let same = (summary.size, summary.blake3) == (record.size, record.blake3);
            return Ok(if same { Content::Same } else { Content::Whole { as_bytes } });
        }
        if !large {
            return Ok(Content::Whole { as_bytes });
        }
        let has_holes = file.entry.extents.is_some() && file.stored <= SPARSE_WHOLE_BYTES;
        let Some((summary, patch)) = self.pass(index, file, Some(record))? else { return Ok(Content::Same) };
        match self.compared(index, record, summary, patch, as_bytes, None)? {
            Content::Made(made) if has_holes && made.patch.bytes > 0 => {
                self.spool.drop_last(&made.patch)?;
                Ok(Content::Whole { as_bytes })
            }
            content => Ok(content),
        }
    }

    /// Something new: perhaps the parent's tree has its content under another name.
    fn new_content(&self, summary: &Summary, as_bytes: bool, facts: Option<Box<Facts>>) -> Content {
        match self.bases.find(summary.size, summary.blake3) {
            Some(base) => Content::Made(Box::new(Made {
                base: base.clone(),
                patch: Spooled::default(),
                size: summary.size,
                blake3: summary.blake3,
                facts,
            })),
            None => Content::Whole { as_bytes },
        }
    }

    /// A file that the catalog knows, read and compared block by block.
    fn compared(
        &mut self,
        index: Index,
        record: &Record,
        summary: Summary,
        patch: Spooled,
        as_bytes: bool,
        facts: Option<Box<Facts>>,
    ) -> Result<Content> {
        let same = (summary.size, summary.blake3) == (record.size, record.blake3);
        if same && !record.is_after(self.parent) {
            return Ok(Content::Same);
        }
        if record.born > self.parent {
            self.spool.drop_last(&patch)?;
            return Ok(self.new_content(&summary, as_bytes, facts));
        }
        if patch.too_large {
            self.spool.drop_last(&patch)?;
            return Ok(Content::Whole { as_bytes });
        }
        let base = self.scan.tree.path(index);
        let Summary { blake3, size } = summary;
        Ok(Content::Made(Box::new(Made { base, patch, size, blake3, facts })))
    }

    /// Reads a file from start to end, through its blocks if it is large; `None` if that failed, which is recorded.
    fn pass(
        &mut self,
        index: Index,
        mut file: SourceFile,
        record: Option<&Record>,
    ) -> Result<Option<(Summary, Spooled)>> {
        let tree_path = self.scan.tree.path(index);
        // Who looked for holes left it somewhere.
        if let Err(e) = std::io::Seek::rewind(&mut file.file) {
            self.cannot_read(index, &e.to_string());
            return Ok(None);
        }
        let (large, limit) = (file.entry.size >= BLOCKS_FROM, worth(file.entry.size));
        let rows = || self.catalog.blocks(&tree_path);
        let since = Since { seq: self.seq, parent: record.map(|_| self.parent), born: record.is_none() };
        let patcher = Patcher::new(&rows, since, limit, &mut self.spool);
        let read = if large {
            read_all(&mut file.file, self.world, &mut |bytes| database::Sink::write(&patcher, bytes))
        } else {
            let mut hasher = blake3::Hasher::new();
            let mut size = 0;
            let read = read_all(&mut file.file, self.world, &mut |bytes| {
                hasher.update(bytes);
                size += bytes.len() as u64;
                Ok(())
            });
            patcher.give_up()?;
            return match read? {
                None => {
                    if !source::unchanged(&file.file, &file.stat) {
                        self.scan.unsettle(index);
                    }
                    Ok(Some((Summary { size, blake3: *hasher.finalize().as_bytes() }, Spooled::default())))
                }
                Some(e) => {
                    self.cannot_read(index, &e.to_string());
                    Ok(None)
                }
            };
        };
        if let Some(e) = read? {
            patcher.give_up()?;
            self.cannot_read(index, &e.to_string());
            return Ok(None);
        }
        let done = patcher.finish()?;
        if !source::unchanged(&file.file, &file.stat) {
            self.scan.unsettle(index);
        }
        Ok(Some(done))
    }

    fn database(&mut self, index: Index, record: Option<&Record>, entry: &Entry) -> Result<Content> {
        if record.is_none() && !self.bases.may_have(entry.size) {
            return Ok(Content::Whole { as_bytes: false });
        }
        let paths = self.scan.disk_paths(index, self.sources);
        let (best, tree_path) = (database::best_name(&paths), self.scan.tree.path(index));
        let rows = || self.catalog.blocks(&tree_path);
        let since = Since { seq: self.seq, parent: record.map(|_| self.parent), born: record.is_none() };
        let patcher = Patcher::new(&rows, since, worth(entry.size), &mut self.spool);
        let read = match self.checks {
            Checks::Quick => database::stream(best, self.staging, &patcher)?,
            // A long look needs a copy, or a writer would wait for it.
            Checks::Full => match database::read(best, self.staging, Privacy::Open, self.checks)? {
                Image::Copy(mut copy) => {
                    let read = read_all(&mut *copy, self.world, &mut |b| database::Sink::write(&patcher, b))?;
                    if let Some(e) = read {
                        return Err(crate::Error::failed("cannot read a database copy").because(e));
                    }
                    Streamed::Done { size: copy.size, facts: Box::new(copy.facts) }
                }
                Image::Raw { why } => Streamed::Raw { why },
                Image::Vanished => Streamed::Vanished,
            },
        };
        match read {
            Streamed::Done { facts, .. } => {
                let (summary, patch) = patcher.finish()?;
                match record {
                    Some(record) => self.compared(index, record, summary, patch, false, Some(facts)),
                    None => Ok(self.new_content(&summary, false, Some(facts))),
                }
            }
            Streamed::Vanished => {
                patcher.give_up()?;
                self.vanish(index, record);
                Ok(Content::Same)
            }
            Streamed::Raw { why } => {
                patcher.give_up()?;
                self.raw(index, record, &why)
            }
        }
    }

    /// Bytes of what cannot be opened as a database, with its sidecars. It is looked at in each run.
    fn raw(&mut self, index: Index, record: Option<&Record>, why: &str) -> Result<Content> {
        let what = self.shown(index);
        self.unreadable.push(format!("{what}: it cannot be opened as a database, and is stored as it is ({why})"));
        self.scan.unsettle(index);
        for name in self.scan.names_of(index) {
            for suffix in SIDECARS {
                self.sidecar(name, suffix)?;
            }
        }
        let Some(file) = self.open(index, record) else { return Ok(Content::Same) };
        self.plain(index, file, record, true)
    }

    fn sidecar(&mut self, database: Index, suffix: &[u8]) -> Result<()> {
        let path = [&self.scan.tree.path(database)[..], suffix].concat();
        let source = self.scan.source_of(database);
        let Ok(file) = source::open(&self.sources[source].root, &path, &mut self.names) else { return Ok(()) };
        let parent = self.scan.tree.node(database).parent;
        let name = if parent == NONE { &path[..] } else { path::file_name(&path) };
        let new = self.scan.tree.push(parent, name, Kind::File, Archive::State);
        if parent == NONE {
            self.scan.roots.insert(new, source);
        }
        let known = self.gone.remove(&path).map(|gone| gone.record).filter(|r| r.kind == Kind::File);
        let entry = file.entry.clone();
        let content = self.plain(new, file, known.as_ref(), true)?;
        self.decide(new, known.as_ref(), entry, content);
        self.scan.unsettle(new);
        Ok(())
    }

    /// What did not change since the last run, but since the parent.
    fn later(&mut self, index: Index, record: &Record) -> Result<()> {
        if self.scan.tree.node(index).kind != Kind::File {
            if self.scan.tree.node(index).kind == Kind::Dir {
                self.directory(index);
            }
            self.actions.insert(index, Action::Listed);
            return Ok(());
        }
        if record.born <= self.parent && record.changed > self.parent && record.size >= BLOCKS_FROM {
            return self.file(index, Some(record));
        }
        let Some(file) = self.open(index, Some(record)) else { return Ok(()) };
        if !record.database && Look::of(&file.stat, 0, 0).stamp != self.scan.look(index).stamp {
            drop(file);
            return self.file(index, Some(record));
        }
        let entry = Entry { size: record.size, extents: None, ..file.entry };
        self.scan.tree.set_metadata(index, &entry);
        let action = self.unchanged_content(index, record);
        self.list(index, action);
        Ok(())
    }

    /// If any name of a file is listed, all are.
    fn hard_links(&mut self) -> Result<()> {
        let groups: Vec<Vec<Index>> = self.scan.groups.values().cloned().collect();
        for group in groups {
            let listed = group.iter().any(|i| self.actions.contains_key(i));
            let Some(&first) = group.first().filter(|_| listed) else { continue };
            if self.scan.tree.node(first).kind != Kind::File || self.scan.tree.node(first).archive != Archive::State {
                continue;
            }
            if !self.actions.contains_key(&first) {
                self.list_unchanged(first)?;
            }
            for name in &group[1..] {
                self.same.remove(name);
                self.actions.entry(*name).or_insert(Action::Listed);
            }
        }
        Ok(())
    }

    /// A file that did not change and has to be listed: because of its other names.
    fn list_unchanged(&mut self, index: Index) -> Result<()> {
        let tree_path = self.scan.tree.path(index);
        let (dir, name) = match self.scan.tree.node(index).parent {
            NONE => (&b""[..], &tree_path[..]),
            _ => (path::parent(&tree_path).unwrap_or_default(), path::file_name(&tree_path)),
        };
        match self.catalog.directory(dir)?.remove(name) {
            Some(record) => self.later(index, &record),
            None => {
                self.list(index, Action::Whole { as_bytes: false });
                Ok(())
            }
        }
    }

    /// What has to go from the parent's tree.
    fn deleted(&self) -> Result<BTreeMap<Vec<u8>, bool>> {
        let mut out = BTreeMap::new();
        let tree = &self.scan.tree;
        let mut add = |path: &[u8], was_there: bool| {
            match self.places.find(tree, path).filter(|i| tree.node(*i).archive == Archive::State) {
                // It is kept until it can be read again.
                Some(i) if tree.node(i).kind == Kind::Missing => {}
                Some(i) if !self.actions.contains_key(&i) => {}
                Some(_) => drop(out.entry(path.to_vec()).or_insert(false)),
                None if self.places.is_covered(path) => {}
                None => *out.entry(path.to_vec()).or_insert(false) |= was_there,
            }
        };
        for (path, gone) in &self.gone {
            add(path, gone.record.born <= self.parent);
        }
        for grave in self.catalog.graves(self.parent)? {
            add(&grave.path, grave.born <= self.parent);
        }
        Ok(out)
    }

    /// The directory of everything that is made, patched, linked or deleted.
    fn directories(&mut self, deleted: &BTreeMap<Vec<u8>, bool>) {
        let tree = &self.scan.tree;
        let of_listed = self.actions.keys().filter(|i| tree.node(**i).kind != Kind::Missing);
        let mut dirs: HashSet<Index> = of_listed.map(|i| tree.node(*i).parent).filter(|p| *p != NONE).collect();
        dirs.extend(deleted.keys().filter_map(|path| self.places.dir(path::parent(path)?)));
        dirs.retain(|i| tree.node(*i).archive == Archive::State && tree.node(*i).kind == Kind::Dir);
        for dir in dirs {
            if !self.actions.contains_key(&dir) {
                if !self.same.contains(&dir) {
                    self.directory(dir);
                }
                self.same.remove(&dir);
                self.actions.insert(dir, Action::Listed);
            }
        }
    }
}

/// A patch that is larger than this is no better than the whole file, in bytes.
fn worth(size: u64) -> u64 {
    size / 4 * 3
}

/// Shows `each` all of a file. The inner error is that of the file.
fn read_all(
    file: &mut dyn std::io::Read,
    world: &World,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<std::io::Error>> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        world.check_stop()?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(n) => each(&buffer[..n])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Ok(Some(e)),
        }
    }
}

/// About how many bytes an incremental against `parent` would hold.
///
/// # Errors
/// When the catalog cannot be read.
pub fn estimate(scan: &Scan, plan: &Plan, catalog: &Catalog, parent: u64) -> Result<u64> {
    let tree = &scan.tree;
    let mut bytes = 0;
    let listed: HashMap<Vec<u8>, Index> = plan.actions.keys().map(|i| (tree.path(*i), *i)).collect();
    for (path, index) in &listed {
        bytes += match &plan.actions[index] {
            Action::Listed => 0,
            Action::Whole { .. } => tree.node(*index).size,
            Action::Delta(made) if made.base == *path && made.size >= BLOCKS_FROM => {
                changed_bytes(&mut catalog.blocks(path), made.size, parent)?
            }
            Action::Delta(_) => 0,
        };
    }
    catalog.records(&mut |dir, name, record| {
        if record.kind != Kind::File || !record.is_after(parent) {
            return Ok(());
        }
        let path = if dir.is_empty() { name.to_vec() } else { path::join(dir, name) };
        if !listed.contains_key(&path) {
            bytes += match record {
                r if r.born > parent || r.changed > parent && r.size < BLOCKS_FROM => r.size,
                r if r.changed > parent => changed_bytes(&mut catalog.blocks(&path), r.size, parent)?,
                _ => 0,
            };
        }
        Ok(())
    })?;
    Ok(bytes)
}
