//! The sweep in force: values of this host's secret files are searched for in what goes to the state archive.
//!
//! Each source has its policy. Under `report` that costs no reading: bytes are searched as they are archived. Under
//! `move` and `fail` it has to be known before anything is written, so what is new or changed is read once more; and
//! under each of the three everything that did not change is, when there is a value that was never searched for.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;

use zeroize::Zeroizing;

use super::content_rule::{Judged, each_beside};
use super::write_archive::Run;
use super::{Event, Events, count_text, interrupted};
use crate::error::{Error, Result};
use crate::host::catalog::Catalog;
use crate::host::scan::{Scan, Source};
use crate::host::source;
use crate::model::config::Sweep as Policy;
use crate::model::entry::Kind;
use crate::model::finder::is_text;
use crate::model::layout::Layout;
use crate::model::manifest::{PathName, hex};
use crate::model::path::{is_below, printable};
use crate::model::secret_notes::{Leak, Named, SecretNotes};
use crate::model::store_key::Archive;
use crate::model::sweep::{Sweep, Value, collect};
use crate::model::tree::Index;

/// The largest secret file whose values are collected, in bytes: larger ones are stores of something else.
const COLLECTED_BYTES_MAX: u64 = 1 << 20;
/// The same for a file that is secret by what is in it: settings are small, and a long transcript that quotes a key is
/// not where keys are kept.
const SETTINGS_BYTES_MAX: u64 = 64 << 10;
/// The fact under which the catalog keeps the policy, and keyed digests of the values that everything was searched for.
const SWEPT: &str = "swept";
/// The fact under which the catalog keeps keyed digests of the leaks that a bundle lists already.
const TOLD: &str = "leaks told";
/// What the keys of those digests are derived for.
const CONTEXT: &str = "lifeboat 2026-11 digests of values and leaks in the catalog";
/// Hex digits of such a digest: enough to tell those of one machine apart.
const TAG_DIGITS: usize = 32;

/// A value that was found in a file, how often.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The file of the state.
    pub path: Vec<u8>,
    /// The number of the value among [`Values`].
    pub value: usize,
    /// How often it stands there.
    pub count: u64,
    /// Whether it was found as the file was archived, and not in a file that did not change.
    pub as_written: bool,
}

/// The values of the secret files, and what searches for them. Its parts show no value in `Debug`.
pub struct Values {
    /// Each with the path of the file that holds it.
    named: Vec<(Vec<u8>, Value)>,
    /// What searches for them; [`Found::value`] is a number in the order of these.
    pub sweep: Sweep,
}

/// The values of one run, collected when they are first wanted.
#[derive(Default)]
pub struct Sweeping {
    values: OnceCell<Values>,
}

impl Sweeping {
    /// The values.
    pub fn values(&self, scan: &Scan, sources: &[Source], judged: &Judged) -> &Values {
        self.values.get_or_init(|| Values::of(scan, sources, judged))
    }
}

impl Values {
    fn of(scan: &Scan, sources: &[Source], judged: &Judged) -> Values {
        let by_content: BTreeSet<Index> = judged.files().collect();
        let tree = &scan.tree;
        let mut named = Vec::new();
        for index in tree.indices() {
            let node = tree.node(index);
            let most = if by_content.contains(&index) { SETTINGS_BYTES_MAX } else { COLLECTED_BYTES_MAX };
            if node.archive != Archive::Secrets || node.kind != Kind::File || node.size > most {
                continue;
            }
            let path = tree.path(index);
            // What cannot be read is told by whoever archives it.
            let Ok((mut file, _)) = source::open_bytes(&sources[scan.source_of(index)].root, &path) else { continue };
            let room = usize::try_from(node.size).unwrap_or_default() + 1;
            let mut content = Zeroizing::new(vec![0; room]);
            let Ok(read) = source::fill(&mut file, &mut content) else { continue };
            let content = &content[..read];
            if is_text(content) {
                named.extend(collect(content).into_iter().map(|value| (path.clone(), value)));
            }
        }
        let sweep = Sweep::new(named.iter().map(|(_, value)| value.needle()));
        Values { named, sweep }
    }

    /// What a bundle tells of them, under a key of its own. `snapshot` is the state archive that was written.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn notes(&self, leaks: &[Found], snapshot: Option<&str>) -> Result<SecretNotes> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| Error::failed("no random numbers to be had").because(e))?;
        let mut notes = SecretNotes { key: hex(&key), ..SecretNotes::default() };
        let fingerprint = |value: &Value| hex(blake3::keyed_hash(&key, value.expose()).as_bytes());
        for (path, value) in &self.named {
            let (path, name, fingerprint) = (PathName::new(path), value.name.clone(), fingerprint(value));
            notes.values.push(Named { path, name, fingerprint, unsearched: !value.is_searched });
        }
        for leak in leaks {
            let (_, value) = &self.named[leak.value];
            notes.leaks.push(Leak {
                path: PathName::new(&leak.path),
                name: value.name.clone(),
                fingerprint: fingerprint(value),
                count: leak.count,
                snapshot: snapshot.filter(|_| leak.as_written).map(str::to_owned),
            });
        }
        Ok(notes)
    }

    /// Keyed digests of the values that are searched for, which the catalog may keep.
    fn tags(&self, key: &[u8; 32]) -> BTreeSet<String> {
        let searched = self.named.iter().filter(|(_, value)| value.is_searched);
        searched.map(|(_, value)| tag(key, &[value.expose()])).collect()
    }
}

fn tag(key: &[u8; 32], parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut out = hasher.finalize().to_hex().to_string();
    out.truncate(TAG_DIGITS);
    out
}

/// What a search before anything was written found.
#[derive(Default)]
pub struct Before {
    /// Leaks that stay where they are.
    pub leaks: Vec<Found>,
    /// What the catalog learns of it once a state archive is written.
    swept: String,
    /// Whether that is anything new.
    is_new: bool,
}

impl Before {
    /// Searches what has to be searched before anything is written, and moves or refuses as the policy says.
    /// `secrets_changed` tells whether there may be values that were never searched for.
    ///
    /// # Errors
    /// Under `fail` where anything was found; when the catalog fails; and a wish to stop.
    pub fn search(
        run: &Run<'_>,
        scan: &mut Scan,
        judged: &mut Judged,
        sweeping: &Sweeping,
        events: &mut Events<'_>,
    ) -> Result<Before> {
        let key = run.key.derive(CONTEXT);
        let fact = run.catalog.fact(SWEPT)?.unwrap_or_default();
        let values = sweeping.values(scan, run.sources, judged);
        let tags = values.tags(&key);
        let known: BTreeSet<String> = fact.lines().skip(1).map(str::to_owned).collect();
        let policies = policies(run.sources);
        let is_known = tags.is_subset(&known);
        let is_settled = is_known && fact.lines().next() == Some(&policies);
        let lines: Vec<String> = std::iter::once(policies).chain(tags).collect();
        let swept = lines.join("\n");
        let mut out = Before { leaks: Vec::new(), is_new: swept != fact, swept };
        // The first archive holds everything, and is searched as it is written.
        let first = run.catalog.generation()?.is_none();
        let fresh: BTreeSet<Index> = judged.looked_into().iter().copied().collect();
        let tree = &scan.tree;
        let policy = |i: Index| run.sources[scan.source_of(i)].sweep;
        let wanted = |i: &Index| {
            let node = tree.node(*i);
            node.archive == Archive::State
                && node.kind == Kind::File
                && match policy(*i) {
                    // What is new or changed is searched as it is written.
                    Policy::Report => !is_known && !first && !fresh.contains(i),
                    Policy::Move | Policy::Fail => !is_settled || fresh.contains(i),
                }
        };
        let nothing =
            is_settled && fresh.is_empty() || is_known && run.sources.iter().all(|s| s.sweep == Policy::Report);
        let files: Vec<Index> = if nothing { Vec::new() } else { tree.indices().filter(wanted).collect() };
        if values.sweep.is_empty() || files.is_empty() {
            return Ok(out);
        }
        events(Event::Phase("looking for values of secrets"));
        let found = each_beside(run.world, &files, &|buffer, index| {
            search_file(scan, run.sources, index, &values.sweep, buffer)
        })?;
        let leaking: Vec<(Index, Vec<Found>)> = found.into_iter().filter(|(_, found)| !found.is_empty()).collect();
        // What the user calls state stays there, and is told like any other leak.
        let (stay, go): (Vec<_>, Vec<_>) =
            leaking.into_iter().partition(|(i, _)| policy(*i) == Policy::Report || scan.is_fixed(*i));
        let failing = go.iter().filter(|(i, _)| policy(*i) == Policy::Fail).count();
        let layout = Layout::machine(run.world.home.as_os_str().as_bytes());
        for (index, _) in stay.iter().chain(&go) {
            let name = printable(&layout.to_disk(&scan.tree.path(*index)));
            events(Event::Detail(format!("the value of a secret stands in {name}")));
        }
        if failing > 0 {
            // An interrupted run may have stored these files as they are now.
            interrupted::forget(run.world, &run.config.name)?;
            return Err(Error::failed(format!(
                "values of secrets stand in {} of the state, and the configuration says that a backup then fails",
                count_text(failing as u64, "file")
            ))
            .hint("`-v` lists the files; take the values out, or set `sweep = \"move\"`"));
        }
        out.leaks = stay.into_iter().flat_map(|(_, found)| found).collect();
        judged.add(run.world, scan, go.into_iter().map(|(index, _)| index));
        Ok(out)
    }

    /// Remembers that everything in the state was searched for these values; but where [`came_late`] tells of a file that
    /// could not be moved any more, the next run searches everything again.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn remember(&self, run: &Run<'_>, came_late: bool) -> Result<()> {
        if came_late {
            return run.catalog.set_fact(SWEPT, "");
        }
        if self.is_new { run.catalog.set_fact(SWEPT, &self.swept) } else { Ok(()) }
    }
}

/// Whether any of `leaks`, which were seen as files were archived, stands in a file of a source with this policy: a value
/// that came after the search. What the user calls state stays state.
pub fn came_late(scan: &Scan, sources: &[Source], leaks: &[Found], policy: Policy) -> bool {
    let fixed: BTreeSet<Vec<u8>> = scan.fixed.iter().map(|index| scan.tree.path(*index)).collect();
    // A source may lie inside another one; its files are its own.
    let of = |path: &[u8]| {
        let holds = |source: &&Source| {
            let root = &source.root.archive_path[..];
            path == root || is_below(path, root)
        };
        sources.iter().filter(holds).max_by_key(|source| source.root.archive_path.len())
    };
    leaks.iter().any(|leak| of(&leak.path).is_some_and(|s| s.sweep == policy) && !fixed.contains(&leak.path))
}

/// The policies of all sources in one word; one that all have stands for all.
fn policies(sources: &[Source]) -> String {
    let mut names: Vec<&str> = sources.iter().map(|source| source.sweep.name()).collect();
    names.dedup();
    names.join(",")
}

/// Searches one file as it lies on the disk: of a database its pages and what is in its log.
fn search_file(scan: &Scan, sources: &[Source], index: Index, sweep: &Sweep, buffer: &mut [u8]) -> Vec<Found> {
    let path = scan.tree.path(index);
    let root = &sources[scan.source_of(index)].root;
    let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
    for suffix in [&b""[..], b"-wal"] {
        let name = [&path[..], suffix].concat();
        let Ok((mut file, _)) = source::open_bytes(root, &name) else { continue };
        let mut search = sweep.search();
        let each = &mut |hit: crate::model::sweep::Hit| *counts.entry(hit.value).or_default() += 1;
        while let Ok(read @ 1..) = source::fill(&mut file, buffer) {
            search.push(&buffer[..read], each);
        }
        search.finish(each);
    }
    counts.into_iter().map(|(value, count)| Found { path: path.clone(), value, count, as_written: false }).collect()
}

/// Which of `leaks` no bundle lists yet. A full begins anew: it finds all there are, and older bundles expire.
///
/// # Errors
/// When the catalog cannot be read or written.
pub fn untold(run: &Run<'_>, values: &Values, leaks: &[Found], full: bool) -> Result<Untold> {
    let key = run.key.derive(CONTEXT);
    let fact = if full { String::new() } else { run.catalog.fact(TOLD)?.unwrap_or_default() };
    let mut told: BTreeSet<String> = fact.lines().map(str::to_owned).collect();
    let before = told.len();
    told.extend(leaks.iter().map(|leak| tag(&key, &[values.named[leak.value].1.expose(), &leak.path])));
    let any = told.len() > before;
    if full && !any {
        run.catalog.set_fact(TOLD, "")?;
    }
    Ok(Untold { any, told: told.into_iter().collect::<Vec<_>>().join("\n") })
}

/// In how many places of the state values of secrets were seen since the last full; a value in two files is two places.
///
/// # Errors
/// When the catalog cannot be read.
pub fn places(catalog: &Catalog) -> Result<u64> {
    Ok(catalog.fact(TOLD)?.map_or(0, |told| told.lines().count() as u64))
}

/// What [`untold`] found.
pub struct Untold {
    /// Whether there is any.
    pub any: bool,
    told: String,
}

impl Untold {
    /// Remembers that a bundle lists them now.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn remember(&self, run: &Run<'_>) -> Result<()> {
        run.catalog.set_fact(TOLD, &self.told)
    }
}

/// Different values, and different files, of leaks.
pub fn count(leaks: &[Found]) -> (u64, u64) {
    let values: BTreeSet<usize> = leaks.iter().map(|leak| leak.value).collect();
    let files: BTreeSet<&[u8]> = leaks.iter().map(|leak| &leak.path[..]).collect();
    (values.len() as u64, files.len() as u64)
}

/// Each value of each file once: what was seen before and while it was written is the same leak.
pub fn added_up(leaks: impl IntoIterator<Item = Found>) -> Vec<Found> {
    let mut sums: BTreeMap<(Vec<u8>, usize), (u64, bool)> = BTreeMap::new();
    for leak in leaks {
        let sum = sums.entry((leak.path, leak.value)).or_default();
        *sum = (sum.0.max(leak.count), sum.1 | leak.as_written);
    }
    let found = |((path, value), (count, as_written))| Found { path, value, count, as_written };
    sums.into_iter().map(found).collect()
}
