//! Counts what agents have, while a snapshot of them is made: see [`Count`].

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use globset::{GlobBuilder, GlobMatcher};

use super::changes::Places;
use super::sources::preset_of;
use super::write_archive::Run;
use crate::host::database;
use crate::host::scan::Scan;
use crate::host::source;
use crate::model::counts::{AgentCounts, json_items};
use crate::model::entry::Kind;
use crate::model::layout::Layout;
use crate::model::manifest::PathName;
use crate::model::path;
use crate::model::preset::{self, Count, Preset};
use crate::model::store_key::Archive;
use crate::model::tree::Index;

/// The largest JSON file that is counted, in bytes.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// An agent's home among the sources.
pub struct Agent {
    /// Its archive path.
    pub path: Vec<u8>,
    /// What knows it.
    pub preset: &'static Preset,
}

/// Numbers by what was counted, by archive path of the home.
pub type Numbers = BTreeMap<String, BTreeMap<String, u64>>;

/// The agents' homes among the sources.
pub fn agents(run: &Run<'_>) -> Vec<Agent> {
    let layout = Layout::machine(run.world.home.as_os_str().as_bytes());
    let home = |source: &crate::model::manifest::Source| {
        let path = source.path.bytes();
        let disk = PathBuf::from(std::ffi::OsString::from_vec(layout.to_disk(&path)));
        let preset = preset::find(&preset_of(run.world, &disk)?)?;
        Some(Agent { path, preset })
    };
    run.described.iter().filter_map(home).collect()
}

impl Agent {
    /// What the home is called in the catalog.
    pub fn key(&self) -> String {
        path::printable(&self.path)
    }

    /// The home, and those in it that the same rules are about.
    fn bases(&self, scan: &Scan, places: &Places) -> Vec<Index> {
        let Some(home) = places.dir(&self.path) else { return Vec::new() };
        let repeated = self.preset.repeat_under.iter().flat_map(|pattern| matching(scan, places, home, pattern));
        let is_dir = |i: &Index| scan.tree.node(*i).kind == Kind::Dir;
        std::iter::once(home).chain(repeated.filter(is_dir)).collect()
    }

    /// Whether a path is that of a database that the preset knows.
    pub fn knows_database(&self, scan: &Scan, places: &Places, file: &[u8]) -> bool {
        let known = self.preset.databases.iter().flat_map(|d| &d.paths);
        let patterns: Vec<Vec<Part>> = known.map(|pattern| parts(pattern)).collect();
        let below = |base: Vec<u8>| file.strip_prefix(&base[..])?.strip_prefix(b"/").map(<[u8]>::to_vec);
        let bases = std::iter::once(self.path.clone())
            .chain(self.bases(scan, places).into_iter().map(|base| scan.tree.path(base)));
        bases.filter_map(below).any(|rest| {
            let names: Vec<&[u8]> = rest.split(|b| *b == b'/').collect();
            patterns.iter().any(|pattern| is_match(pattern, &names))
        })
    }
}

/// Counts what has to be read: databases and lists in files. Of what did not change since `known` was counted, that stands.
/// What cannot be read now keeps its number.
pub fn read(
    run: &Run<'_>,
    scan: &Scan,
    places: &Places,
    agents: &[Agent],
    changed: &dyn Fn(Index) -> bool,
    known: &Numbers,
) -> Numbers {
    let mut out = Numbers::new();
    for agent in agents {
        let bases = agent.bases(scan, places);
        let before = known.get(&agent.key());
        let numbers: &mut BTreeMap<String, u64> = out.entry(agent.key()).or_default();
        for count in &agent.preset.counts {
            let (Count::Sqlite { name, path, .. } | Count::Json { name, path, .. }) = count else { continue };
            let files: Vec<Index> = bases.iter().flat_map(|base| matching(scan, places, *base, path)).collect();
            if files.is_empty() {
                continue;
            }
            let stands = before.and_then(|numbers| numbers.get(name)).copied();
            let same = stands.filter(|_| !files.iter().any(|file| changed(*file)));
            let counted = || files.iter().map(|file| one(run, scan, *file, count)).sum::<Option<u64>>();
            numbers.extend(same.or_else(counted).or(stands).map(|n| (name.clone(), n)));
        }
    }
    out
}

fn one(run: &Run<'_>, scan: &Scan, file: Index, count: &Count) -> Option<u64> {
    let tree_path = scan.tree.path(file);
    let root = &run.sources[scan.source_of(file)].root;
    match count {
        Count::Sqlite { sql, .. } => {
            database::glance(&root.disk_path(&tree_path), &[sql])?.numbers.first().copied().flatten()
        }
        Count::Json { at, .. } => {
            let (file, _) = source::open_bytes(root, &tree_path).ok()?;
            let mut text = Vec::new();
            file.take(JSON_BYTES_MAX).read_to_end(&mut text).ok()?;
            json_items(&text, at)
        }
        Count::Files { .. } => None,
    }
}

/// All counts for the manifest: those that were read, and of files as many as the archive has.
pub fn listed(scan: &Scan, places: &Places, agents: &[Agent], read: &Numbers) -> Vec<AgentCounts> {
    let counts = |agent: &Agent| {
        let mut counts = read.get(&agent.key()).cloned().unwrap_or_default();
        let bases = agent.bases(scan, places);
        for count in &agent.preset.counts {
            let Count::Files { name, paths } = count else { continue };
            let patterns = bases.iter().flat_map(|base| paths.iter().map(move |pattern| (*base, pattern)));
            let mut files: Vec<Index> = patterns.flat_map(|(base, p)| matching(scan, places, base, p)).collect();
            files.sort_unstable();
            files.dedup();
            files.retain(|i| matches!(scan.tree.node(*i).kind, Kind::File | Kind::Hardlink));
            counts.insert(name.clone(), files.len() as u64);
        }
        counts
    };
    let in_state = |i: Index| scan.tree.node(i).archive == Archive::State;
    let all = agents.iter().filter(|agent| places.dir(&agent.path).is_some_and(in_state));
    all.map(|agent| AgentCounts {
        path: PathName::new(&agent.path),
        preset: agent.preset.name.clone(),
        counts: counts(agent),
    })
    .collect()
}

/// One component of a pattern.
enum Part {
    /// Any number of directories.
    Any,
    /// A name.
    Name(Vec<u8>),
    /// A name that a glob matches.
    Glob(GlobMatcher),
}

impl Part {
    fn is_match(&self, name: &[u8]) -> bool {
        match self {
            Part::Any => true,
            Part::Name(own) => own == name,
            Part::Glob(glob) => glob.is_match(std::ffi::OsStr::from_bytes(name)),
        }
    }
}

/// A pattern by components. What is no glob matches nothing but itself; a test reads all that are shipped.
fn parts(pattern: &str) -> Vec<Part> {
    let part = |name: &str| match name {
        "**" => Part::Any,
        name if name.contains(['*', '?', '[', '{']) => match GlobBuilder::new(name).literal_separator(true).build() {
            Ok(glob) => Part::Glob(glob.compile_matcher()),
            Err(_) => Part::Name(name.into()),
        },
        name => Part::Name(name.into()),
    };
    pattern.trim_end_matches('/').split('/').map(part).collect()
}

fn is_match(pattern: &[Part], names: &[&[u8]]) -> bool {
    match (pattern, names) {
        ([], []) => true,
        ([Part::Any, rest @ ..], _) => (0..=names.len()).any(|n| is_match(rest, &names[n..])),
        ([part, rest @ ..], [name, names @ ..]) => part.is_match(name) && is_match(rest, names),
        _ => false,
    }
}

/// What of the state matches a pattern of a preset below a directory.
fn matching(scan: &Scan, places: &Places, base: Index, pattern: &str) -> Vec<Index> {
    let mut out = Vec::new();
    descend(scan, places, base, &parts(pattern), &mut out);
    out
}

fn descend(scan: &Scan, places: &Places, dir: Index, pattern: &[Part], out: &mut Vec<Index>) {
    let Some((first, rest)) = pattern.split_first() else { return };
    let is_there = |i: &Index| {
        let node = scan.tree.node(*i);
        node.archive == Archive::State && !matches!(node.kind, Kind::Deleted | Kind::Missing)
    };
    if let Part::Name(name) = first {
        match places.children.named(&scan.tree, dir, name).filter(is_there) {
            Some(found) if rest.is_empty() => out.push(found),
            Some(next) => descend(scan, places, next, rest, out),
            None => {}
        }
        return;
    }
    if matches!(first, Part::Any) {
        descend(scan, places, dir, rest, out);
    }
    for &child in places.children.of_dir(dir).iter().filter(|i| is_there(i)) {
        match first {
            Part::Any if scan.tree.node(child).kind == Kind::Dir => descend(scan, places, child, pattern, out),
            Part::Any => {}
            part if !part.is_match(scan.tree.name(child)) => {}
            _ if rest.is_empty() => out.push(child),
            _ => descend(scan, places, child, rest, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_by_components() {
        let check = |pattern: &str, path: &str| {
            let names: Vec<&[u8]> = path.as_bytes().split(|b| *b == b'/').collect();
            is_match(&parts(pattern), &names)
        };
        for (pattern, path) in [
            ("state.db", "state.db"),
            ("state_*.sqlite", "state_5.sqlite"),
            ("skills/**/SKILL.md", "skills/SKILL.md"),
            ("skills/**/SKILL.md", "skills/a/b/SKILL.md"),
            ("agents/*/agent/x.db", "agents/main/agent/x.db"),
        ] {
            assert!(check(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in
            [("state.db", "a/state.db"), ("agents/*/x", "agents/a/b/x"), ("skills/**/SKILL.md", "skills/a/SKILL.txt")]
        {
            assert!(!check(pattern, path), "{pattern} {path}");
        }
    }
}
