//! The content rule in force: text files that nothing else decided about are looked into before anything is written, and
//! what holds a secret goes to the bundle, whole and under all its names.
//!
//! A file is looked into when it is new or `stat` says that it changed. What the rules cleared the catalog knows by
//! its stamp, and what they did not by keyed digests: it names no secret.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use super::{Event, Events, count_text};
use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::host::scan::{Scan, Source};
use crate::host::source;
use crate::host::world::World;
use crate::model::entry::Kind;
use crate::model::finder::{self, Hit, Search, is_text};
use crate::model::kit::KIT_MARK;
use crate::model::layout::Layout;
use crate::model::manifest::PathName;
use crate::model::path::printable;
use crate::model::secret_notes::Finding;
use crate::model::store_key::Archive;
use crate::model::tree::Index;

/// The largest text that is looked into, in bytes. In larger ones the sweep still finds what it knows.
pub const TEXT_BYTES_MAX: u64 = 64 << 20;
/// What is read at once, in bytes: what a search takes fastest, and most files fit in it.
const PIECE_BYTES: usize = 1 << 17;
/// Threads that read. Two keep up with most disks, and more would take the memory of those that come after.
const READERS: usize = 2;
/// The fact under which the catalog keeps digests of what is secret by content, after the version of the rules.
const FACT: &str = "secret by content";
/// What the key of those digests is derived for.
pub const CONTEXT: &str = "lifeboat 2026-11 digests of what is secret by content";
/// Hex digits of a digest of a path: enough to tell those of one machine apart.
const TAG_DIGITS: usize = 32;

/// What the content rules said of a scan.
#[derive(Default)]
pub struct Judged {
    /// The files that hold secrets, and where; nothing of those that an earlier run looked into.
    files: Vec<(Index, Vec<Hit>)>,
    /// The files that were looked into in this run.
    looked_into: Vec<Index>,
    /// Stamps of files without secrets, those of earlier runs included.
    clear: Vec<u64>,
}

/// What earlier runs know.
pub struct Known<'a> {
    catalog: &'a Catalog,
    key: Zeroizing<[u8; 32]>,
    /// Whether these very rules wrote it.
    current: bool,
    /// Stamps of files without secrets, in order.
    clear: Vec<u64>,
    /// Stamps of files with secrets, by digests of their paths.
    secret: HashMap<String, u64>,
}

impl<'a> Known<'a> {
    /// Reads it from the catalog. What other rules found says nothing.
    ///
    /// # Errors
    /// When the catalog cannot be read or is damaged.
    pub fn load(catalog: &'a Catalog, key: Zeroizing<[u8; 32]>) -> Result<Known<'a>> {
        let fact = catalog.fact(FACT)?.unwrap_or_default();
        let mut lines = fact.lines();
        if lines.next() != Some(&finder::version()) {
            return Ok(Known { catalog, key, current: false, clear: Vec::new(), secret: HashMap::new() });
        }
        let secret = lines.filter_map(|line| {
            let (tag, stamp) = line.split_once(' ')?;
            Some((tag.to_owned(), u64::from_str_radix(stamp, 16).ok()?))
        });
        Ok(Known { catalog, key, current: true, clear: catalog.looked()?, secret: secret.collect() })
    }

    fn tag(&self, path: &[u8]) -> String {
        let mut tag = blake3::keyed_hash(&self.key, path).to_hex().to_string();
        tag.truncate(TAG_DIGITS);
        tag
    }

    /// Keeps what is known now, if it is anything new.
    fn keep(&self, mut clear: Vec<u64>, secret: &HashMap<String, u64>) -> Result<()> {
        clear.sort_unstable();
        clear.dedup();
        if self.current && clear == self.clear && secret == &self.secret {
            return Ok(());
        }
        let transaction = self.catalog.begin()?;
        if !self.current || clear != self.clear {
            self.catalog.set_looked(&clear)?;
        }
        let mut lines: Vec<String> = secret.iter().map(|(tag, stamp)| format!("{tag} {stamp:x}")).collect();
        lines.sort();
        lines.insert(0, finder::version());
        self.catalog.set_fact(FACT, &lines.join("\n"))?;
        transaction.commit()
    }
}

impl Judged {
    /// How many files are secret by what is in them.
    pub fn len(&self) -> u64 {
        self.files.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = Index> {
        self.files.iter().map(|(index, _)| *index)
    }

    /// The files that were looked into in this run, secret or not: those that are new or changed.
    pub fn looked_into(&self) -> &[Index] {
        &self.looked_into
    }

    /// Makes more files secret, for another reason.
    pub fn add(&mut self, world: &World, scan: &mut Scan, more: impl Iterator<Item = Index>) {
        let known = self.files.len();
        self.files.extend(more.map(|index| (index, Vec::new())));
        let stamps: Vec<u64> = self.files[known..].iter().map(|(index, _)| scan.look(*index).stamp).collect();
        self.clear.retain(|stamp| !stamps.contains(stamp));
        self.files.sort();
        take_out(world, scan, self);
    }

    /// Keeps what was found for the next run.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn keep(&mut self, known: &Known<'_>, scan: &Scan) -> Result<()> {
        let tags = self.files.iter().map(|(i, _)| (known.tag(&scan.tree.path(*i)), scan.look(*i)));
        // What has to be looked into again has a stamp that nothing has.
        let stamps = tags.map(|(tag, look)| (tag, if look.young { 0 } else { look.stamp }));
        known.keep(std::mem::take(&mut self.clear), &stamps.collect())
    }

    /// All places, for the bundle: files that an earlier run looked into are read once more.
    ///
    /// # Errors
    /// A wish to stop.
    pub fn findings(&self, scan: &Scan, sources: &[Source], world: &World) -> Result<Vec<Finding>> {
        let again: Vec<Index> = self.files.iter().filter(|(_, hits)| hits.is_empty()).map(|(i, _)| *i).collect();
        let mut read: HashMap<Index, Vec<Hit>> = HashMap::new();
        for (index, seen) in each_beside(world, &again, &|buffer, index| look_into(scan, sources, index, buffer))? {
            read.insert(index, seen.hits);
        }
        let mut out = Vec::new();
        for (index, hits) in &self.files {
            let path = PathName::new(&scan.tree.path(*index));
            let hits = if hits.is_empty() { read.get(index).map_or(&[][..], Vec::as_slice) } else { hits };
            out.extend(hits.iter().map(|h| Finding { path: path.clone(), line: h.line, rule: h.rule.to_owned() }));
        }
        Ok(out)
    }
}

/// What a look into a file gave.
struct Seen {
    hits: Vec<Hit>,
    /// Whether all of it was read that these rules are about.
    sure: bool,
    /// Whether it is there and could not be read.
    failed: bool,
}

/// Looks into what is new or changed, or into everything with `again`, and moves what holds secrets to the bundle.
///
/// # Errors
/// A wish to stop. What cannot be read is for others to tell.
pub fn judge(
    world: &World,
    scan: &mut Scan,
    sources: &[Source],
    known: Option<&Known<'_>>,
    again: bool,
    events: &mut Events<'_>,
) -> Result<Judged> {
    let tree = &scan.tree;
    let (mut wanted, mut judged) = (Vec::new(), Judged::default());
    let mut secret_stamps: Vec<u64> = known.iter().flat_map(|k| k.secret.values().copied()).collect();
    secret_stamps.sort_unstable();
    for index in tree.indices() {
        let node = tree.node(index);
        if node.kind != Kind::File || node.archive != Archive::State || scan.is_fixed(index) {
            continue;
        }
        let look = scan.look(index);
        let settled = known.filter(|_| !look.young && !again);
        if settled.is_some_and(|known| known.clear.binary_search(&look.stamp).is_ok()) {
            judged.clear.push(look.stamp);
        } else if settled.is_some() && secret_stamps.binary_search(&look.stamp).is_ok() {
            judged.files.push((index, Vec::new()));
        } else {
            wanted.push(index);
        }
    }
    if !wanted.is_empty() {
        events(Event::Phase("looking for secrets in what is new"));
    }
    for (index, seen) in each_beside(world, &wanted, &|buffer, index| look_into(scan, sources, index, buffer))? {
        let look = scan.look(index);
        // A secret that cannot be read any more is no less one.
        let was = || known.is_some_and(|known| known.secret.contains_key(&known.tag(&scan.tree.path(index))));
        if !seen.hits.is_empty() || seen.failed && was() {
            judged.files.push((index, seen.hits));
        } else if seen.sure && !look.young {
            // Should it have changed since the scan, then its stamp did, too, and the next run looks again.
            judged.clear.push(look.stamp);
        }
    }
    judged.files.sort();
    judged.looked_into = wanted;
    tell(world, scan, &judged, events);
    take_out(world, scan, &judged);
    Ok(judged)
}

/// Says which files, where and by which rule; never what stands there.
fn tell(world: &World, scan: &Scan, judged: &Judged, events: &mut Events<'_>) {
    let layout = Layout::machine(world.home.as_os_str().as_bytes());
    for (index, hits) in &judged.files {
        let name = printable(&layout.to_disk(&scan.tree.path(*index)));
        if hits.is_empty() {
            events(Event::Detail(format!("secret by what is in it: {name}, as before")));
        }
        for Hit { line, rule } in hits {
            events(Event::Detail(format!("secret by what is in it: {name}, line {line}: {rule}")));
        }
        if hits.len() == finder::HITS_MAX {
            events(Event::Detail(format!("{name} has more than {}", count_text(hits.len() as u64, "such place"))));
        }
    }
}

/// Moves files to the secrets, under all their names.
fn take_out(world: &World, scan: &mut Scan, judged: &Judged) {
    if judged.is_empty() {
        return;
    }
    for index in judged.files() {
        scan.tree.node_mut(index).archive = Archive::Secrets;
    }
    scan.classify_together(&Layout::machine(world.home.as_os_str().as_bytes()));
}

/// Reads one file. What is no text is no matter of these rules.
fn look_into(scan: &Scan, sources: &[Source], index: Index, buffer: &mut [u8]) -> Seen {
    let mut seen = Seen { hits: Vec::new(), sure: false, failed: false };
    let path = scan.tree.path(index);
    let names = scan.groups.get(&index).map_or(std::slice::from_ref(&index), Vec::as_slice);
    let mut opened = Err(source::NoFile::Vanished);
    for name in names {
        opened = source::open_bytes(&sources[scan.source_of(*name)].root, &scan.tree.path(*name));
        if opened.is_ok() {
            break;
        }
    }
    let (mut file, stat) = match opened {
        Ok(opened) => opened,
        Err(source::NoFile::Vanished) => return seen,
        Err(source::NoFile::Unreadable(_)) => return Seen { failed: true, ..seen },
    };
    match find(&mut file, u64::try_from(stat.st_size).unwrap_or(0), &path, buffer) {
        Ok(hits) => {
            seen.hits = hits;
            seen.sure = true;
        }
        Err(_) => seen.failed = true,
    }
    seen
}

fn find(file: &mut File, size: u64, path: &[u8], buffer: &mut [u8]) -> std::io::Result<Vec<Hit>> {
    let room = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(1).min(buffer.len());
    let buffer = &mut buffer[..room];
    let mut filled = source::fill(file, buffer)?;
    let head = &buffer[..filled];
    // A kit has a rule of its own: it stays out of every archive.
    if size > TEXT_BYTES_MAX || !is_text(head) || head.starts_with(KIT_MARK) {
        return Ok(Vec::new());
    }
    if filled < room {
        return Ok(finder::find(path, head));
    }
    let mut search = Search::new(path);
    let mut taken = 0;
    while filled > 0 && taken <= TEXT_BYTES_MAX {
        search.push(&buffer[..filled]);
        taken += filled as u64;
        filled = source::fill(file, buffer)?;
    }
    Ok(search.finish())
}

/// Calls `look` for each entry, in as many threads as read, and gives what came of it in the order of `items`. Each thread
/// has one buffer of `PIECE_BYTES`, which is wiped in the end: secrets pass through it.
///
/// # Errors
/// A wish to stop.
pub fn each_beside<T: Send>(
    world: &World,
    items: &[Index],
    look: &(dyn Fn(&mut [u8], Index) -> T + Sync),
) -> Result<Vec<(Index, T)>> {
    let next = AtomicUsize::new(0);
    let out = Mutex::new(Vec::with_capacity(items.len()));
    let work = || {
        let mut mine = Vec::new();
        let mut buffer = Zeroizing::new(vec![0; PIECE_BYTES]);
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if world.check_stop().is_err() {
                break;
            }
            mine.push((*item, look(&mut buffer, *item)));
        }
        out.lock().unwrap_or_else(PoisonError::into_inner).append(&mut mine);
    };
    std::thread::scope(|scope| {
        for _ in 1..READERS {
            scope.spawn(work);
        }
        work();
    });
    world.check_stop()?;
    let mut out = out.into_inner().unwrap_or_else(PoisonError::into_inner);
    out.sort_by_key(|(index, _)| *index);
    Ok(out)
}
