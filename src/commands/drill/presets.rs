//! What a drill looks at because a preset knows it: files that an agent needs, and how much of each there was.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use super::checks::{Home, Tally};
use super::files::{jsonl, non_empty, parse};
use crate::host::database::rehearse::Rehearsal;
use crate::model::counts::{AgentCounts, json_items};
use crate::model::layout::Layout;
use crate::model::path::printable;
use crate::model::preset::{self, Count, Drill, Preset};

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
    use std::collections::BTreeMap;

    use super::*;

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
