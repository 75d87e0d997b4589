//! `lifeboat diff`: what differs between two snapshots, from manifests alone unless the content is asked for.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::Serialize;

use super::file_reader::FileReader;
use super::look::{Of, Place, asked_path, time_text};
use super::opened::{Opened, open};
use super::snapshots::Wanted;
use super::{Events, Report, bytes_text};
use crate::error::{Error, Result};
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::database::Facts;
use crate::model::entry::{Entry, Kind};
use crate::model::manifest::PathName;
use crate::model::path::{is_below, printable};
use crate::model::tree::{Children, Index, Tree};

/// The largest text whose changes are shown line by line, in bytes.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// What `diff` was asked to compare.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which archives.
    pub place: Place,
    /// The older snapshot as a person names it.
    pub a: String,
    /// The newer one.
    pub b: String,
    /// Only what is there.
    pub path: Option<OsString>,
    /// Show the changed lines of text files.
    pub content: bool,
}

/// One path that differs.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// The archive path.
    #[serde(flatten)]
    pub path: PathName,
    /// `added`, `removed`, `changed`, or `metadata` where the content is the same.
    pub change: &'static str,
    /// What differs: `kind`, `content`, `target`, `mode`, `owner`, `time`, `attributes`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<&'static str>,
    /// Bytes before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_size: Option<u64>,
    /// Bytes after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_size: Option<u64>,
    /// RFC 3339: when its content last changed, before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_mtime: Option<String>,
    /// The same after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_mtime: Option<String>,
    /// The changed lines of a text, as a unified diff.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<String>,
}

/// What became of one table of a database.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The database's archive path.
    #[serde(flatten)]
    pub path: PathName,
    /// The table.
    pub table: String,
    /// `rows` that were counted, or the largest `rowid`.
    pub unit: &'static str,
    /// Before; nothing where there was none.
    pub old: Option<i64>,
    /// After.
    pub new: Option<i64>,
}

/// What differs.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The older one.
    pub a: Of,
    /// The newer one.
    pub b: Of,
    /// Paths, in order.
    pub differences: Vec<Difference>,
    /// Tables of databases with other numbers of rows.
    pub tables: Vec<Table>,
}

impl Report for Done {
    fn text(&self) -> String {
        let mut out = String::new();
        let size = |size: Option<u64>| size.map_or_else(String::new, bytes_text);
        for one in &self.differences {
            let path = printable(&one.path.bytes());
            let (sign, column) = match one.change {
                "added" => ('+', size(one.new_size)),
                "removed" => ('-', size(one.old_size)),
                "metadata" => ('.', one.what.join(",")),
                _ if one.old_size == one.new_size => ('~', size(one.new_size)),
                _ => ('~', format!("{} -> {}", size(one.old_size), size(one.new_size))),
            };
            out.push_str(&format!("{sign} {column:>26}  {path}\n"));
            out.extend(one.lines.as_deref());
        }
        for table in &self.tables {
            let number = |n: Option<i64>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
            let (path, name) = (printable(&table.path.bytes()), printable(table.table.as_bytes()));
            let (old, new, unit) = (number(table.old), number(table.new), table.unit);
            out.push_str(&format!("# {path}: table {name}: {old} -> {new} {unit}\n"));
        }
        let count = |change: &str| self.differences.iter().filter(|d| d.change == change).count();
        out.push_str(&format!(
            "{} to {}: {} added, {} removed, {} changed, {} with other metadata\n",
            self.a.snapshot,
            self.b.snapshot,
            count("added"),
            count("removed"),
            count("changed"),
            count("metadata"),
        ));
        out
    }
}

/// Compares two snapshots.
///
/// # Errors
/// When one cannot be found, opened or verified, or neither has the path.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let wanted = (Wanted::parse(&args.a, world.now())?, Wanted::parse(&args.b, world.now())?);
    let mut reading = args.place.begin(world, events)?;
    let archive = args.place.archive();
    let identities = (reading.identities(archive)?, reading.identities(archive)?);
    let (a, b) = (reading.choose(archive, &wanted.0)?, reading.choose(archive, &wanted.1)?);
    for line in a.skipped.iter().chain(&b.skipped) {
        events(super::Event::Warning(line.clone()));
    }
    let (store, found, unsigned) = (&reading.store, &reading.found, reading.allow_unsigned);
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| open(store, found, &b.chain, unsigned, identities.1).and_then(proved));
        let a = open(store, found, &a.chain, unsigned, identities.0).and_then(proved);
        let panicked = || Error::failed("a thread of the comparison panicked: this is a bug in lifeboat");
        let b = other.join().unwrap_or_else(|_| Err(panicked()));
        Ok::<_, Error>((a?, b?))
    })?;
    let path = args.path.as_ref().map_or(Ok(Vec::new()), |p| asked_path(world, b.header(), p))?;
    let inside = |p: &[u8]| path.is_empty() || p == path || is_below(p, &path);
    let mut pairs = pairs(&a.tree, &b.tree);
    pairs.retain(|pair| inside(&pair.path));
    if pairs.is_empty() && !path.is_empty() {
        return Err(Error::not_there(format!("neither snapshot has {}", printable(&path)))
            .hint("`lifeboat ls` shows what is there"));
    }
    let mut contents = Contents { of: (&a, &b), children: (Children::of(&a.tree), Children::of(&b.tree)) };
    let mut differences = Vec::new();
    for pair in pairs {
        world.check_stop()?;
        let Some(mut difference) = contents.compare(&pair) else { continue };
        if args.content && difference.what.contains(&"content") {
            difference.lines = contents.lines(world, store, &pair)?;
        }
        differences.push(difference);
    }
    let mut tables = tables(&a, &b);
    tables.retain(|t| inside(&t.path.bytes()));
    Ok(Done { a: Of::new(&a), b: Of::new(&b), differences, tables })
}

/// An archive whose tree is what its digest says.
fn proved(opened: Opened) -> Result<Opened> {
    opened.check_digest().map(|()| opened)
}

/// A path, and where each tree has it.
struct Pair {
    path: Vec<u8>,
    a: Option<Index>,
    b: Option<Index>,
}

/// The paths of both trees, in order.
fn pairs(a: &Tree, b: &Tree) -> Vec<Pair> {
    let mut rest = b.sorted().into_iter().map(|i| (b.path(i), i)).peekable();
    let mut out = Vec::new();
    for index in a.sorted() {
        let path = a.path(index);
        while let Some((path, i)) = rest.next_if(|(p, _)| *p < path) {
            out.push(Pair { path, a: None, b: Some(i) });
        }
        let same = rest.next_if(|(p, _)| *p == path).map(|(_, i)| i);
        out.push(Pair { path, a: Some(index), b: same });
    }
    out.extend(rest.map(|(path, i)| Pair { path, a: None, b: Some(i) }));
    out
}

/// Both archives.
struct Contents<'a> {
    of: (&'a Opened, &'a Opened),
    children: (Children, Children),
}

impl Contents<'_> {
    /// What differs at a path.
    fn compare(&mut self, pair: &Pair) -> Option<Difference> {
        let entry = |tree: &Tree, children: &Children, index: Option<Index>| {
            let index = index?;
            // A further name has what its file has.
            let linked = tree.node(index).kind == Kind::Hardlink;
            let file = if linked { children.find(tree, tree.target(index)) } else { None };
            Some(tree.entry(file.unwrap_or(index)))
        };
        let a = entry(&self.of.0.tree, &self.children.0, pair.a);
        let b = entry(&self.of.1.tree, &self.children.1, pair.b);
        let (change, what) = match (&a, &b) {
            (None, _) => ("added", Vec::new()),
            (_, None) => ("removed", Vec::new()),
            (Some(a), Some(b)) => {
                let what = differing(a, b);
                let changed = what.iter().any(|w| matches!(*w, "kind" | "content" | "target"));
                if what.is_empty() {
                    return None;
                }
                (if changed { "changed" } else { "metadata" }, what)
            }
        };
        let file = |e: &&Entry| e.kind == Kind::File;
        let real = |e: &&Entry| !matches!(e.kind, Kind::Missing | Kind::Deleted);
        Some(Difference {
            path: PathName::new(&pair.path),
            change,
            what,
            old_size: a.as_ref().filter(file).map(|e| e.size),
            new_size: b.as_ref().filter(file).map(|e| e.size),
            old_mtime: a.as_ref().filter(real).map(|e| time_text(e.mtime)),
            new_mtime: b.as_ref().filter(real).map(|e| time_text(e.mtime)),
            lines: None,
        })
    }

    /// The changed lines, where both are texts.
    fn lines(&self, world: &World, store: &Store, pair: &Pair) -> Result<Option<String>> {
        let text = |archive: &Opened, children: &Children, index: Option<Index>| -> Result<Option<String>> {
            let tree = &archive.tree;
            let Some(index) = index else { return Ok(None) };
            let linked = tree.node(index).kind == Kind::Hardlink;
            let file = if linked { children.find(tree, tree.target(index)) } else { Some(index) };
            let is_text = |i: &Index| tree.node(*i).kind == Kind::File && tree.node(*i).size <= TEXT_BYTES_MAX;
            let Some(file) = file.filter(is_text) else { return Ok(None) };
            let mut out = Vec::new();
            FileReader::new(world, store, archive)?.copy(file, &mut out)?;
            Ok(String::from_utf8(out).ok().filter(|t| !t.contains('\0')))
        };
        let a = text(self.of.0, &self.children.0, pair.a)?;
        let b = text(self.of.1, &self.children.1, pair.b)?;
        let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
        let diff = similar::TextDiff::configure().timeout(std::time::Duration::from_secs(2)).diff_lines(&a, &b);
        let text = diff.unified_diff().context_radius(3).to_string();
        // Tabs may stay; whatever else moves a cursor may not.
        let safe = |line: &str| line.split('\t').map(|p| printable(p.as_bytes())).collect::<Vec<_>>().join("\t");
        Ok(Some(text.lines().map(|line| format!("    {}\n", safe(line))).collect()))
    }
}

/// What differs between two entries of one path.
fn differing(a: &Entry, b: &Entry) -> Vec<&'static str> {
    if a.kind != b.kind {
        return vec!["kind"];
    }
    let file = a.kind == Kind::File;
    let all = [
        ("content", file && (a.size, a.blake3) != (b.size, b.blake3)),
        ("target", a.target != b.target),
        ("mode", a.mode != b.mode),
        ("owner", a.owner != b.owner),
        // That of a directory says only that something in it came or went.
        ("time", a.kind != Kind::Dir && a.mtime != b.mtime),
        ("attributes", a.xattrs != b.xattrs),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// What the manifests say of the databases of a snapshot: each as the newest archive that has it knows it.
fn databases(archive: &Opened) -> BTreeMap<Vec<u8>, &Facts> {
    let mut out = BTreeMap::new();
    let children = Children::of(&archive.tree);
    for member in archive.members.iter().rev() {
        out.extend(member.header.databases.iter().map(|d| (d.path.bytes(), &d.facts)));
    }
    out.retain(|path, _| children.find(&archive.tree, path).is_some());
    out
}

/// Tables whose numbers of rows differ, or their largest rowids where rows were not counted in both.
fn tables(a: &Opened, b: &Opened) -> Vec<Table> {
    let (a, b) = (databases(a), databases(b));
    let mut paths: Vec<&Vec<u8>> = a.keys().chain(b.keys()).collect();
    paths.sort();
    paths.dedup();
    let mut out = Vec::new();
    for path in paths {
        let (old, new) = (a.get(path), b.get(path));
        let counted = |facts: Option<&&Facts>| facts.is_none_or(|f| f.rows.is_some());
        let count = counted(old) && counted(new);
        let numbers = |facts: Option<&&Facts>| -> BTreeMap<String, i64> {
            let Some(facts) = facts else { return BTreeMap::new() };
            match facts.rows.as_ref().filter(|_| count) {
                Some(rows) => rows.iter().map(|(t, n)| (t.clone(), i64::try_from(*n).unwrap_or(i64::MAX))).collect(),
                None => facts.tables.clone(),
            }
        };
        let (old, new) = (numbers(old), numbers(new));
        let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
        names.sort();
        names.dedup();
        for name in names.into_iter().filter(|n| old.get(*n) != new.get(*n)) {
            let (path, unit) = (PathName::new(path), if count { "rows" } else { "largest rowid" });
            let (old, new) = (old.get(name).copied(), new.get(name).copied());
            out.push(Table { path, table: name.clone(), unit, old, new });
        }
    }
    out
}
