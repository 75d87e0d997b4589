//! From the configuration's sources to roots on this disk.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::session::signing_key_file;
use super::signing::next_key_file;
use crate::error::{Error, Result};
use crate::host::private_file::read_small_file;
use crate::host::scan::{self, Identity};
use crate::host::source::Root;
use crate::host::store::{Location, Store, locate};
use crate::host::world::World;
use crate::model::class::{Rules, Scope};
use crate::model::config::{Config, Identity as Setting, Origin, expand_home};
use crate::model::layout::Layout;
use crate::model::logins::{self, Lost};
use crate::model::manifest;
use crate::model::path::printable;
use crate::model::preset::{self, Preset};

/// The agents that are on this machine: presets whose required roots are there.
pub fn detected(world: &World) -> Vec<String> {
    let here = |p: &&Preset| {
        let roots = p.roots(&|name| variable(world, name), &world.home);
        let mut required = roots.iter().filter(|r| r.required).peekable();
        required.peek().is_some() && required.all(|r| r.path.exists())
    };
    preset::builtin().iter().filter(here).map(|p| p.name.clone()).collect()
}

/// The preset whose home is at `path`.
pub fn preset_of(world: &World, path: &Path) -> Option<String> {
    let is_home = |p: &&Preset| {
        let roots = p.roots(&|name| variable(world, name), &world.home);
        roots.iter().any(|r| r.id == p.home_id() && std::fs::canonicalize(&r.path).is_ok_and(|real| real == path))
    };
    preset::builtin().iter().find(is_home).map(|p| p.name.clone())
}

/// Logins on this machine that a restore on another one will not bring back.
pub fn lost_logins(world: &World) -> Vec<Lost> {
    let holds = |path: &Path, text: &str| {
        let read = read_small_file(path).ok();
        read.is_some_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    };
    logins::lost(&logins::Machine {
        env: &|name| variable(world, name),
        home: &world.home,
        os: world.os(),
        exists: &|path| path.symlink_metadata().is_ok(),
        holds: &holds,
    })
}

fn variable(world: &World, name: &str) -> Option<OsString> {
    world.var(name).map(OsString::from)
}

/// The configured sources as a scan takes them.
pub struct Resolved {
    /// What is there.
    pub sources: Vec<scan::Source>,
    /// As the manifest lists them.
    pub described: Vec<manifest::Source>,
    /// Archive paths of configured roots that are not there.
    pub absent: Vec<Vec<u8>>,
    /// lifeboat's own files.
    pub own: HashSet<Identity>,
}

/// A root before its rules are made.
struct Wanted<'a> {
    path: PathBuf,
    source: &'a crate::model::config::Source,
    preset: Option<(&'static Preset, String)>,
}

/// Finds the roots of all configured sources.
///
/// # Errors
/// [`Kind::NotThere`](crate::Kind::NotThere) when none of them is there; rules that are no globs.
pub fn resolve(world: &World, config: &Config, config_file: &Path, store: &Store) -> Result<Resolved> {
    resolve_at(world, config, config_file, store, None)
}

/// The same, but of what a restore has below a target, whose layout it is: each root and its rules at its place there,
/// where it is there.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_at(
    world: &World,
    config: &Config,
    config_file: &Path,
    store: &Store,
    target: Option<&Layout>,
) -> Result<Resolved> {
    let layout = Layout::machine(world.home.as_os_str().as_bytes());
    let place = |path: &Path| match target {
        Some(target) => {
            PathBuf::from(OsString::from_vec(target.to_disk(&layout.to_archive(path.as_os_str().as_bytes()))))
        }
        None => path.to_owned(),
    };
    let (mut wanted, mut absent): (Vec<Wanted<'_>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    for source in &config.sources {
        for (path, required, preset) in roots_of(world, source) {
            let path = std::path::absolute(world.home.join(path)).unwrap_or_default();
            // A source that is lost here may be below a target all the same.
            let paths = real_paths(&path).or_else(|| target.map(|_| vec![path.clone()]));
            let paths = paths.map(|mut paths| {
                paths.retain(|path| target.is_none() || place(path).symlink_metadata().is_ok());
                paths
            });
            match paths {
                Some(paths) => {
                    wanted.extend(paths.into_iter().map(|path| Wanted { path, source, preset: preset.clone() }))
                }
                None if required => absent.push(layout.to_archive(path.as_os_str().as_bytes())),
                None => {}
            }
        }
    }
    if wanted.is_empty() && target.is_none() {
        let names: Vec<String> = absent.iter().map(|p| printable(&layout.to_disk(p))).collect();
        let names = if names.is_empty() { "the agents' homes".to_owned() } else { names.join(", ") };
        return Err(Error::not_there(format!("no source is there: {names}"))
            .hint("mount what is missing, or change the sources of the configuration"));
    }
    absent.sort();
    absent.dedup();
    let mut seen = HashSet::new();
    wanted.retain(|w| seen.insert(w.path.clone()));
    wanted.sort_by(|a, b| a.path.cmp(&b.path));
    let own_paths = own_paths(world, config, config_file, store);
    let (mut sources, mut described) = (Vec::new(), Vec::new());
    for root in &wanted {
        // Roots of other sources are scanned by their own rules; an empty reason keeps them out of the list of skips.
        // Only those inside this one: a root that others lie around is not apart, it would be left out of everything.
        let inside = wanted.iter().filter(|w| w.path != root.path && w.path.starts_with(&root.path));
        let mut apart: Vec<(PathBuf, String)> = inside.map(|w| (place(&w.path), String::new())).collect();
        apart.extend(own_paths.iter().map(|p| (p.clone(), scan::OWN.to_owned())));
        let archive_path = layout.to_archive(root.path.as_os_str().as_bytes());
        let path = place(&root.path);
        let rules = Rules::new(&Scope {
            root: Some(&path),
            preset: root.preset.as_ref().map(|(p, id)| (*p, id.as_str())),
            include: &root.source.include,
            exclude: &root.source.exclude,
            secret: &root.source.secret,
            state: &root.source.state,
            apart: &apart,
        })?;
        described.push(manifest::Source {
            path: manifest::PathName::new(&archive_path),
            preset: root.preset.as_ref().map(|(p, _)| p.name.clone()),
        });
        let sweep = root.source.sweep.unwrap_or(config.secrets.sweep);
        sources.push(scan::Source { root: Root::open(&path, archive_path)?, rules, sweep });
    }
    let own = own_paths.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| (m.dev(), m.ino())).collect();
    Ok(Resolved { sources, described, absent, own })
}

/// Where a root should be, whether it has to be there, and the preset that knows it.
type RootOf = (PathBuf, bool, Option<(&'static Preset, String)>);

fn roots_of(world: &World, source: &crate::model::config::Source) -> Vec<RootOf> {
    match &source.origin {
        Origin::Path(path) => vec![(expand_home(path, &world.home), true, None)],
        Origin::Preset(name) => preset::find(name).map_or(Vec::new(), |preset| {
            let roots = preset.roots(&|name| variable(world, name), &world.home);
            roots.into_iter().map(|r| (r.path, r.required, Some((preset, r.id)))).collect()
        }),
    }
}

/// Where a root really is, with no symbolic link on the way. A root that is itself a link is two: the link, and what it
/// leads to, so that a restore brings back both.
fn real_paths(path: &Path) -> Option<Vec<PathBuf>> {
    let real = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => std::fs::canonicalize(parent).ok()?.join(name),
        _ => path.to_owned(),
    };
    let meta = std::fs::symlink_metadata(&real).ok()?;
    if !meta.file_type().is_symlink() {
        return Some(vec![real]);
    }
    let target = std::fs::canonicalize(&real).ok()?;
    Some(vec![real, target])
}

/// What is never backed up: keys beside what they open would make the split in two archives a joke, and a store in a
/// backup of itself grows for ever.
fn own_paths(world: &World, config: &Config, config_file: &Path, store: &Store) -> Vec<PathBuf> {
    let state_dir = world.state_dir(&config.name);
    let mut paths = vec![signing_key_file(config_file), next_key_file(config_file), world.default_kit(), state_dir];
    paths.extend(store.local().map(Path::to_owned));
    let mirrors = config.mirrors.iter().filter_map(|m| locate(world, &m.store).ok());
    paths.extend(mirrors.filter_map(|place| match place {
        Location::Local(dir) => Some(dir),
        Location::Bucket(_) => None,
    }));
    for setting in [&config.state.identity, &config.secrets.identity] {
        if let Setting::File(file) = setting {
            paths.push(expand_home(file, &world.home));
        }
    }
    paths.into_iter().filter_map(|p| std::fs::canonicalize(p).ok()).collect()
}
