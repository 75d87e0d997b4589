//! What a drill looks at once everything was restored: databases, the modes of secrets, and what presets know.
//!
//! Only the restored copy is read, and nothing of it is run. Findings name files, but never one of the secrets bundle.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use crate::host::database::rehearse::Rehearsal;
use crate::model::config::expand_home;
use crate::model::counts::{AgentCounts, json_items};
use crate::model::database::Facts;
use crate::model::layout::Layout;
use crate::model::manifest::Source;
use crate::model::path::printable;
use crate::model::preset::{self, Count, Drill, Format, Preset};
use crate::model::syntax;

/// The largest file that is parsed as a whole, in bytes.
const PARSED_BYTES_MAX: u64 = 256 << 20;
/// How many findings of one kind are told one by one.
const FINDINGS_MAX: usize = 50;

/// A restored home.
pub(super) struct Home {
    /// Where archive paths are.
    pub(super) layout: Layout,
    /// The user's home directory on the source machine.
    pub(super) source_home: String,
    /// Archive paths of everything in the secrets bundle.
    pub(super) secrets: HashSet<Vec<u8>>,
    /// What was backed up.
    pub(super) sources: Vec<Source>,
}

/// How often what was checked, and what was wrong.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Done and failed, by kind.
    pub(super) counts: BTreeMap<Cow<'static, str>, (u64, u64)>,
    /// What is not as it should be.
    pub(super) findings: Vec<String>,
    /// What is worth knowing.
    pub(super) notes: Vec<String>,
}

impl Tally {
    /// Counts checks that were all as they should be.
    pub(super) fn passed(&mut self, kind: &'static str, times: u64) {
        self.counts.entry(kind.into()).or_default().0 += times;
    }

    /// Adds what somebody else checked.
    pub(super) fn add(&mut self, other: Tally) {
        for (kind, (done, failed)) in other.counts {
            let count = self.counts.entry(kind).or_default();
            *count = (count.0 + done, count.1 + failed);
        }
        self.findings.extend(other.findings);
        self.findings.truncate(FINDINGS_MAX);
        self.notes.extend(other.notes);
    }

    /// Counts one check.
    pub(super) fn record(&mut self, kind: &'static str, result: Result<(), String>) {
        let count = self.counts.entry(kind.into()).or_default();
        count.0 += 1;
        if let Err(why) = result {
            count.1 += 1;
            if self.findings.len() < FINDINGS_MAX {
                self.findings.push(why);
            }
        }
    }
}

impl Home {
    fn disk(&self, archive: &[u8]) -> PathBuf {
        PathBuf::from(std::ffi::OsString::from_vec(self.layout.to_disk(archive)))
    }

    /// What a file is called in a finding.
    fn name(&self, disk: &Path) -> String {
        let archive = self.layout.to_archive(disk.as_os_str().as_bytes());
        if self.secrets.contains(&archive) { "a file of the secrets bundle".to_owned() } else { printable(&archive) }
    }

    /// Whether a path leads to something that was restored. What a link leads to elsewhere is another machine's, or has
    /// changed since: it tells nothing about the snapshot.
    fn holds(&self, disk: &Path) -> bool {
        let top = self.disk(b"home");
        let top = top.parent().and_then(|top| top.canonicalize().ok());
        top.zip(disk.canonicalize().ok()).is_some_and(|(top, real)| real.starts_with(top))
    }

    /// Where a path of the source machine was restored to.
    fn moved(&self, source: &str) -> PathBuf {
        let machine = Layout::machine(self.source_home.as_bytes());
        let path = expand_home(source, Path::new(&self.source_home));
        self.disk(&machine.to_archive(path.as_os_str().as_bytes()))
    }
}

/// Opens every database that the manifests list and compares it with what was recorded of it.
pub(super) fn databases(home: &Home, recorded: &BTreeMap<Vec<u8>, Facts>, tally: &mut Tally) {
    for (path, facts) in recorded {
        let disk = home.disk(path);
        // One that was deleted since is listed by an older archive of the chain.
        if !disk.is_file() {
            continue;
        }
        let name = home.name(&disk);
        let result = Rehearsal::open(&disk).map_err(|e| format!("{name}: {e}")).and_then(|database| {
            let seen = database.check();
            if let Some(first) = seen.complaints.first() {
                return Err(format!("{name}: integrity_check says: {}", printable(first.as_bytes())));
            }
            tally.notes.extend(seen.unchecked.map(|why| {
                format!("{name}: integrity_check could not look at all of it: {}", printable(why.as_bytes()))
            }));
            if seen.dangling > 0 {
                tally.notes.push(format!("{name}: {} rows refer to rows that are not there", seen.dangling));
            }
            compare(facts, &seen.facts).map_err(|why| format!("{name}: {why}"))
        });
        tally.record("database", result);
    }
}

/// Rows must not be fewer than were recorded, nor the largest rowids smaller.
fn compare(recorded: &Facts, seen: &Facts) -> Result<(), String> {
    let counts = recorded.rows.iter().flatten().map(|(table, rows)| {
        let now = seen.rows.as_ref().and_then(|all| all.get(table)).copied();
        (table, i128::from(*rows), now.map(i128::from), "rows")
    });
    let largest = recorded.tables.iter().map(|(table, rowid)| {
        (table, i128::from(*rowid), seen.tables.get(table).copied().map(i128::from), "as the largest rowid")
    });
    for (table, was, now, what) in counts.chain(largest) {
        if now.is_none_or(|now| now < was) {
            let now = now.map_or_else(|| "nothing".to_owned(), |n| n.to_string());
            let table = printable(table.as_bytes());
            return Err(format!("table {table} has {now} {what}, and had {was} when the snapshot was made"));
        }
    }
    Ok(())
}

/// Nobody but the owner may read a secret.
pub(super) fn modes(home: &Home, tally: &mut Tally) {
    for path in &home.secrets {
        let Ok(stat) = home.disk(path).symlink_metadata() else { continue };
        if stat.is_file() {
            let open = stat.permissions().mode() & 0o077 != 0;
            let why = || {
                format!(
                    "a file of the secrets bundle is open to others, mode {:04o}",
                    stat.permissions().mode() & 0o7777
                )
            };
            tally.record("mode", if open { Err(why()) } else { Ok(()) });
        }
    }
}

/// Counts again what was counted when the snapshot was made: there may not be fewer. What stands in the secrets was not
/// counted then and may be more now.
pub(super) fn counts_of(home: &Home, recorded: &[AgentCounts], tally: &mut Tally) {
    for agent in recorded {
        let Some(preset) = preset::find(&agent.preset) else { continue };
        let disk = home.disk(&agent.path.bytes());
        let bases = bases(&disk, preset);
        for (name, was) in &agent.counts {
            let Some(count) = preset.counts.iter().find(|count| count.name() == name) else { continue };
            let result = match counted(&bases, count) {
                Some(now) if now >= *was => Ok(()),
                Some(now) => Err(format!("{}: {now} {name}, and there were {was}", home.name(&disk))),
                None => Err(format!("{}: its {name} cannot be counted, and there were {was}", home.name(&disk))),
            };
            tally.record("count", result);
        }
    }
}

/// A home, and those in it that the same rules are about.
fn bases(home: &Path, preset: &Preset) -> Vec<PathBuf> {
    let repeated = preset.repeat_under.iter().flat_map(|pattern| matching(home, pattern)).filter(|p| p.is_dir());
    std::iter::once(home.to_owned()).chain(repeated).collect()
}

fn counted(bases: &[PathBuf], count: &Count) -> Option<u64> {
    let files = |pattern: &str| bases.iter().flat_map(|base| matching(base, pattern)).collect::<Vec<_>>();
    match count {
        Count::Sqlite { path, sql, .. } => {
            let number = |file: &PathBuf| u64::try_from(Rehearsal::open(file).ok()?.number(sql).ok()?).ok();
            files(path).iter().map(number).sum()
        }
        Count::Json { path, at, .. } => {
            let number = |file: &PathBuf| json_items(&std::fs::read(file).ok()?, at);
            files(path).iter().map(number).sum()
        }
        Count::Files { paths, .. } => {
            let all: HashSet<PathBuf> = paths.iter().flat_map(|pattern| files(pattern)).collect();
            Some(all.iter().filter(|path| path.symlink_metadata().is_ok_and(|m| m.is_file())).count() as u64)
        }
    }
}

/// Runs what the presets of the sources know.
pub(super) fn presets(home: &Home, tally: &mut Tally) {
    let mut seen: HashSet<(String, PathBuf)> = HashSet::new();
    for source in &home.sources {
        let Some(preset) = source.preset.as_deref().and_then(preset::find) else { continue };
        let disk = home.disk(&source.path.bytes());
        let root = root_id(home, preset, &source.path.bytes());
        if !seen.insert((format!("{} {root}", preset.name), disk.clone())) {
            continue;
        }
        let bases = if root == preset.home_id() { bases(&disk, preset) } else { vec![disk.clone()] };
        for base in &bases {
            for drill in preset.drills.iter().filter(|d| root_of(d).unwrap_or(preset.home_id()) == root) {
                one(home, base, drill, tally);
            }
        }
    }
}

/// Which root of its preset a source is: the one that is there by default, else the home.
fn root_id<'a>(home: &Home, preset: &'a Preset, path: &[u8]) -> &'a str {
    let machine = Layout::machine(home.source_home.as_bytes());
    let roots = preset.roots(&|_| None, Path::new(&home.source_home));
    let found = roots.iter().find(|r| machine.to_archive(r.path.as_os_str().as_bytes()) == path);
    let spec = found.and_then(|r| preset.root_specs.iter().find(|s| s.id == r.id));
    spec.map_or(preset.home_id(), |s| s.id.as_str())
}

fn root_of(drill: &Drill) -> Option<&str> {
    match drill {
        Drill::NonEmpty { root, .. }
        | Drill::Parse { root, .. }
        | Drill::Sqlite { root, .. }
        | Drill::SqliteEqual { root, .. }
        | Drill::SqlitePathsExist { root, .. }
        | Drill::ListedExist { root, .. }
        | Drill::BothOrNeither { root, .. }
        | Drill::Jsonl { root, .. } => root.as_deref(),
        Drill::Mode { .. } => None,
    }
}

fn one(home: &Home, base: &Path, drill: &Drill, tally: &mut Tally) {
    let each = |pattern: &str| {
        let mut all = matching(base, pattern);
        all.retain(|path| home.holds(path));
        all
    };
    let named = |path: &Path, why: String| format!("{}: {why}", home.name(path));
    match drill {
        Drill::NonEmpty { path, .. } => {
            for file in each(path) {
                tally.record("required", non_empty(&file).map_err(|why| named(&file, why)));
            }
        }
        Drill::Parse { path, format, has, .. } => {
            for file in each(path) {
                tally.record("parse", parse(&file, *format, has).map_err(|why| named(&file, why)));
            }
        }
        Drill::Sqlite { path, sql, .. } => {
            for file in each(path) {
                let result = Rehearsal::open(&file).and_then(|db| sql.as_ref().map_or(Ok(0), |sql| db.number(sql)));
                tally.record("query", result.map(|_| ()).map_err(|why| named(&file, why)));
            }
        }
        Drill::SqliteEqual { path, a, b, .. } => {
            for file in each(path) {
                let equal = || -> Result<(), String> {
                    let db = Rehearsal::open(&file)?;
                    let (left, right) = (db.number(a)?, db.number(b)?);
                    if left == right { Ok(()) } else { Err(format!("`{a}` gives {left}, and `{b}` {right}")) }
                };
                tally.record("query", equal().map_err(|why| named(&file, why)));
            }
        }
        Drill::SqlitePathsExist { path, sql, .. } => {
            for file in each(path) {
                match Rehearsal::open(&file).and_then(|db| db.texts(sql)) {
                    Err(why) => tally.record("index", Err(named(&file, why))),
                    Ok(paths) => {
                        for listed in paths {
                            let there = home.moved(&listed).exists();
                            let why = || named(&file, "it names a file that is not there".to_owned());
                            tally.record("index", if there { Ok(()) } else { Err(why()) });
                        }
                    }
                }
            }
        }
        Drill::ListedExist { list, separator, find, .. } => {
            for file in each(list) {
                listed_exist(home, base, &file, separator, find, tally);
            }
        }
        Drill::BothOrNeither { paths, .. } => {
            let there = paths.iter().filter(|path| base.join(path).exists()).count();
            let half = there != 0 && there != paths.len();
            let why = || "files that are worth something only together are not all there".to_owned();
            tally.record("together", if half { Err(why()) } else { Ok(()) });
        }
        Drill::Jsonl { paths, field, first, any, .. } => {
            for file in each(paths) {
                tally.record("jsonl", jsonl(&file, field.as_deref(), first, any).map_err(|why| named(&file, why)));
            }
        }
        // Everything of the bundle is looked at anyway.
        Drill::Mode { .. } => {}
    }
}

/// The paths below `base` that match a pattern of a preset; `.` is `base` itself. Links are not followed.
fn matching(base: &Path, pattern: &str) -> Vec<PathBuf> {
    if pattern == "." {
        return base.symlink_metadata().is_ok().then(|| base.to_owned()).into_iter().collect();
    }
    let pattern = pattern.trim_end_matches('/');
    if !pattern.contains(['*', '?', '[', '{']) {
        let path = base.join(pattern);
        return path.symlink_metadata().is_ok().then_some(path).into_iter().collect();
    }
    let Ok(glob) = GlobBuilder::new(pattern).literal_separator(true).build() else { return Vec::new() };
    let mut out = Vec::new();
    walk(base, base, &glob.compile_matcher(), pattern.split('/').count(), pattern.contains("**"), &mut out);
    out.sort();
    out
}

fn walk(base: &Path, dir: &Path, glob: &GlobMatcher, depth: usize, any_depth: bool, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.strip_prefix(base).is_ok_and(|below| glob.is_match(below)) {
            out.push(path.clone());
        }
        if (depth > 1 || any_depth) && entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(base, &path, glob, depth.saturating_sub(1), any_depth, out);
        }
    }
}

fn non_empty(path: &Path) -> Result<(), String> {
    let stat = path.metadata().map_err(|e| e.to_string())?;
    let empty = match stat.is_dir() {
        true => std::fs::read_dir(path).map_err(|e| e.to_string())?.next().is_none(),
        false => stat.len() == 0,
    };
    if empty { Err("it is empty".to_owned()) } else { Ok(()) }
}

/// Parses a file.
fn parse(path: &Path, format: Format, has: &[String]) -> Result<(), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let names = match format {
        Format::Json if size > PARSED_BYTES_MAX => syntax::names_in_json(BufReader::new(file))?,
        _ if size > PARSED_BYTES_MAX => return Err(format!("it is too large to be parsed, with {size} bytes")),
        _ => {
            let mut bytes = Vec::new();
            file.take(PARSED_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            let text = std::str::from_utf8(&bytes).map_err(|_| "it is not text".to_owned())?;
            syntax::names(text, format)?
        }
    };
    match has.iter().find(|name| !names.iter().flatten().any(|n| n == *name)) {
        Some(name) => Err(format!("`{name}` is not in it")),
        None => Ok(()),
    }
}

/// JSON lines, of which the last may be torn: an agent that is killed while it writes leaves half a line.
fn jsonl(path: &Path, field: Option<&str>, first: &[String], any: &[String]) -> Result<(), String> {
    let mut reader = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    let (mut line, mut number, mut found) = (Vec::new(), 0_u64, any.is_empty());
    let mut begun = false;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|e| e.to_string())? == 0 {
            break;
        }
        number += 1;
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let is_last = !line.ends_with(b"\n") || reader.fill_buf().map_err(|e| e.to_string())?.is_empty();
        let asked = (!begun && !first.is_empty()) || !found;
        let value = match asked {
            true => serde_json::from_slice::<serde_json::Value>(text).map(Some),
            false => serde_json::from_slice::<serde::de::IgnoredAny>(text).map(|_| None),
        };
        let value = match value {
            Ok(value) => value,
            Err(_) if is_last => break,
            Err(_) => return Err(format!("line {number} is no JSON")),
        };
        let word = field.and_then(|field| value.as_ref()?.get(field)?.as_str().map(str::to_owned));
        if !begun && !first.is_empty() && !word.as_ref().is_some_and(|w| first.contains(w)) {
            return Err(format!("its first line is none of {}", first.join(", ")));
        }
        begun = true;
        found |= word.is_some_and(|w| any.contains(&w));
    }
    // A file that somebody has only begun has nothing in it yet.
    if begun && !found { Err(format!("no line of it is one of {}", any.join(", "))) } else { Ok(()) }
}

fn listed_exist(home: &Home, base: &Path, list: &Path, separator: &str, find: &str, tally: &mut Tally) {
    let text = match std::fs::read_to_string(list) {
        Ok(text) => text,
        Err(e) => return tally.record("index", Err(format!("{}: {e}", home.name(list)))),
    };
    let there: HashSet<String> = matching(base, find)
        .iter()
        .filter_map(|path| Some(path.parent()?.file_name()?.to_string_lossy().into_owned()))
        .collect();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let name = line.split(separator).next().unwrap_or(line);
        let why = || format!("{} lists `{}`, which is not there", home.name(list), printable(name.as_bytes()));
        tally.record("index", if there.contains(name) { Ok(()) } else { Err(why()) });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_last_line_may_be_torn_and_no_other() {
        let check = |text: &str| jsonl(file(text).path(), None, &[], &[]);
        for good in ["", "{}\n", "{}\n{}", "{}\n{\"a\": \"tor", "{}\n\n{}\n", "{}\n{\"tor\n"] {
            check(good).unwrap_or_else(|e| panic!("{good:?}: {e}"));
        }
        assert_eq!(check("{}\n{\"tor\n{}\n").unwrap_err(), "line 2 is no JSON");
        assert_eq!(check("\0\0\0\n{}\n").unwrap_err(), "line 1 is no JSON");
    }

    #[test]
    fn first_and_any_lines_are_of_a_kind() {
        let words = |text: &[&str]| text.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let check = |text: &str, first: &[&str], any: &[&str]| {
            jsonl(file(text).path(), Some("type"), &words(first), &words(any))
        };
        let text = "{\"type\":\"meta\"}\n{\"type\":\"user\"}\n";
        check(text, &["meta"], &["user", "assistant"]).unwrap();
        assert!(check(text, &["user"], &[]).unwrap_err().contains("first line"));
        assert!(check(text, &[], &["assistant"]).unwrap_err().contains("no line"));
        check("", &["meta"], &["user"]).unwrap();
    }

    #[test]
    fn a_file_parses_and_has_what_it_needs() {
        let check = |text: &str, format, has: &[&str]| {
            parse(file(text).path(), format, &has.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>())
        };
        check("{\"a\": 1}", Format::Json, &["a"]).unwrap();
        check("a: 1", Format::Yaml, &["a"]).unwrap();
        assert!(check("a: [", Format::Yaml, &[]).is_err());
        assert_eq!(check("{}", Format::Json, &["providers"]).unwrap_err(), "`providers` is not in it");
    }

    #[test]
    fn rows_may_not_be_fewer() {
        let facts = |rows: u64, rowid: i64| Facts {
            page_size: 0,
            pages: 0,
            tables: BTreeMap::from([("t".to_owned(), rowid)]),
            rows: Some(BTreeMap::from([("t".to_owned(), rows)])),
            check: None,
        };
        compare(&facts(3, 9), &facts(3, 9)).unwrap();
        compare(&facts(3, 9), &facts(4, 10)).unwrap();
        assert!(compare(&facts(3, 9), &facts(2, 9)).unwrap_err().contains("has 2 rows, and had 3"));
        assert!(compare(&facts(3, 9), &facts(3, 8)).unwrap_err().contains("largest rowid"));
    }

    #[test]
    fn there_may_not_be_fewer_than_were_counted() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["memories/a.md", "memories/b.md", "profiles/work/memories/c.md", "cron/jobs.json"] {
            let file = dir.path().join("home/.hermes").join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "{\"jobs\": [1, 2]}").unwrap();
        }
        let home = Home {
            layout: Layout::target(dir.path().as_os_str().as_bytes()),
            source_home: "/home/u".to_owned(),
            secrets: HashSet::new(),
            sources: Vec::new(),
        };
        let check = |name: &str, was: u64| {
            let counts = BTreeMap::from([(name.to_owned(), was)]);
            let path = crate::model::manifest::PathName::new(b"home/.hermes");
            let mut tally = Tally::default();
            counts_of(&home, &[AgentCounts { path, preset: "hermes".to_owned(), counts }], &mut tally);
            (tally.counts["count"], tally.findings)
        };
        assert_eq!(check("memories", 3), ((1, 0), Vec::new()));
        assert_eq!(check("memories", 4), ((1, 1), vec!["home/.hermes: 3 memories, and there were 4".to_owned()]));
        assert_eq!((check("jobs", 2).0, check("jobs", 3).0), ((1, 0), (1, 1)));
        // A database that is not there has nothing in it.
        assert_eq!((check("messages", 0).0, check("messages", 1).0), ((1, 0), (1, 1)));
    }

    #[test]
    fn patterns_of_presets_find_files() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/x.jsonl", "a/b/y.jsonl", "a/b/c/SKILL.md", "z.json"] {
            std::fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(path), "").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            let below = |p: &PathBuf| p.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
            matching(dir.path(), pattern).iter().map(below).collect()
        };
        assert_eq!(found("a/*.jsonl"), ["a/x.jsonl"]);
        assert_eq!(found("a/**/*.jsonl"), ["a/b/y.jsonl", "a/x.jsonl"]);
        assert_eq!(found("a/**/SKILL.md"), ["a/b/c/SKILL.md"]);
        assert_eq!(
            (found("z.json"), found("a/"), found(".")),
            (vec!["z.json".into()], vec!["a".into()], vec![String::new()])
        );
        assert!(found("nothing").is_empty() && found("*/nothing").is_empty());
    }
}
