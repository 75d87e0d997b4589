//! What the commands share that look into snapshots: which archive is meant, its tree, and how an entry is told.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use serde::Serialize;

use super::Events;
use super::opened::Opened;
use super::reading::{Reading, Where, which_of};
use super::snapshots::Wanted;
use super::write_archive::clock_text;
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::asked::archive_path;
use crate::model::entry::{Entry, Kind, Time};
use crate::model::manifest::{Header, PathName};
use crate::model::path::{is_below, printable};
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index, NONE, Tree};

/// Which archive is looked into, and with what.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Where to read.
    pub at: Where,
    /// Look into the secrets bundle, and not into the state.
    pub secrets: bool,
}

impl Place {
    /// The archive that is looked into.
    pub fn archive(&self) -> Archive {
        if self.secrets { Archive::Secrets } else { Archive::State }
    }

    /// Finds store and keys; those of the other archive are not asked for.
    ///
    /// # Errors
    /// As [`Reading::begin`].
    pub fn begin(&self, world: &World, events: &mut Events<'_>) -> Result<Reading> {
        Reading::begin(world, &self.at, &[which_of(self.archive())], events)
    }

    /// Finds and opens the archive of `snapshot`, and proves its tree.
    ///
    /// # Errors
    /// As [`Reading::begin`], [`Reading::open`] and [`Opened::check_digest`].
    pub fn open(&self, world: &World, snapshot: &str, events: &mut Events<'_>) -> Result<(Reading, Opened)> {
        let wanted = Wanted::parse(snapshot, world.now())?;
        let mut reading = self.begin(world, events)?;
        let opened = reading.open(self.archive(), &wanted, events)?;
        opened.check_digest()?;
        Ok((reading, opened))
    }
}

/// The places that mean the user's home: on this machine, and on the one that was backed up.
pub fn homes<'a>(world: &'a World, header: &'a Header) -> [&'a [u8]; 2] {
    [world.home.as_os_str().as_bytes(), header.home.as_bytes()]
}

/// The archive path that a person means; empty for everything.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) when it can be none.
pub fn asked_path(world: &World, header: &Header, text: &OsString) -> Result<Vec<u8>> {
    archive_path(&text.clone().into_vec(), &homes(world, header))
}

/// What an archive has at a path that a person asked for.
pub enum There {
    /// An entry.
    Entry(Index),
    /// No entry, but these lie below it.
    Above(Vec<Index>),
}

/// Finds what an archive has at a path.
///
/// # Errors
/// [`Kind::NotThere`](crate::Kind::NotThere).
pub fn find(archive: &Opened, path: &[u8]) -> Result<There> {
    let tree = &archive.tree;
    if let Some(index) = Children::of(tree).find(tree, path) {
        return Ok(There::Entry(index));
    }
    let roots = roots_below(tree, path);
    if !roots.is_empty() || path.is_empty() {
        return Ok(There::Above(roots));
    }
    let (id, name) = (&archive.commit().id, archive.commit().archive.name());
    Err(Error::not_there(format!("{} is not in the {name} {id}", printable(path)))
        .hint("`lifeboat ls` and `lifeboat find` show what is there; names of secrets are shown with --secrets only"))
}

/// The entries below `path` whose directory is no entry: for an empty path all of them.
pub fn roots_below(tree: &Tree, path: &[u8]) -> Vec<Index> {
    let is_root = |i: &Index| tree.node(*i).parent == NONE;
    let below = |i: &Index| path.is_empty() || is_below(tree.name(*i), path);
    tree.indices().filter(is_root).filter(below).collect()
}

/// Which entries are at a path or below it.
///
/// # Errors
/// As [`find`].
pub fn select(archive: &Opened, path: &[u8]) -> Result<Vec<bool>> {
    let tree = &archive.tree;
    if path.is_empty() {
        return Ok(vec![true; tree.len()]);
    }
    find(archive, path)?;
    let mut out: Vec<bool> = Vec::with_capacity(tree.len());
    for index in tree.indices() {
        let above = tree.node(index).parent;
        // Only the top of a subtree has to be told by its path.
        let inside = above != NONE && out.get(above as usize) == Some(&true);
        out.push(
            inside || {
                let own = tree.path(index);
                own == path || is_below(&own, path)
            },
        );
    }
    Ok(out)
}

/// Bytes of all files at and below each entry.
pub fn totals(tree: &Tree) -> Vec<u64> {
    let of = |i: Index| if tree.node(i).kind == Kind::File { tree.node(i).size } else { 0 };
    let mut out: Vec<u64> = tree.indices().map(of).collect();
    for index in tree.indices().rev() {
        let above = tree.node(index).parent;
        if above != NONE {
            out[above as usize] = out[above as usize].saturating_add(out[index as usize]);
        }
    }
    out
}

/// One entry, as reports tell it.
#[derive(Debug, Serialize)]
pub struct Item {
    /// The archive path.
    #[serde(flatten)]
    pub path: PathName,
    /// `file`, `dir`, `symlink`, `hardlink` or `missing`.
    pub kind: &'static str,
    /// Bytes of content; of a directory those of all files below it.
    pub size: u64,
    /// RFC 3339: when its content last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime: Option<String>,
    /// Permission bits in octal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Who owns it: name, or number where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The group, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Why it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How deep it lies below what was asked for.
    #[serde(skip)]
    pub depth: usize,
}

impl Item {
    /// The entry at `index`, whose files have `total` bytes.
    pub fn new(tree: &Tree, index: Index, total: u64, depth: usize) -> Item {
        let Entry { kind, mode, owner, mtime, target, reason, .. } = tree.entry(index);
        let real = matches!(kind, Kind::File | Kind::Dir | Kind::Symlink);
        let name = |name: Option<String>, number: u32| real.then(|| name.unwrap_or_else(|| number.to_string()));
        Item {
            path: PathName::new(&tree.path(index)),
            kind: kind.word(),
            size: total,
            mtime: real.then(|| time_text(mtime)),
            mode: matches!(kind, Kind::File | Kind::Dir).then(|| format!("{mode:o}")),
            owner: name(owner.user, owner.uid),
            group: name(owner.group, owner.gid),
            target: (!target.is_empty()).then(|| printable(&target)),
            reason: (kind == Kind::Missing).then(|| printable(reason.as_bytes())),
            depth,
        }
    }

    /// Its path with what tells its kind: a slash, an arrow, a reason.
    pub fn shown(&self, path: &[u8]) -> String {
        let path = printable(path);
        match (self.kind, &self.target, &self.reason) {
            ("dir", ..) => format!("{path}/"),
            ("symlink", Some(target), _) => format!("{path} -> {target}"),
            ("hardlink", Some(target), _) => format!("{path} = {target}"),
            ("missing", _, Some(reason)) => format!("{path}: could not be read: {reason}"),
            _ => path,
        }
    }
}

/// RFC 3339 with whole seconds.
pub fn time_text(time: Time) -> String {
    clock_text(time.seconds)
}

/// A time for a column: always as wide.
pub fn time_column(time: Option<&str>) -> String {
    format!("{:<20}", time.unwrap_or("-"))
}

/// The archive that was looked into, for the first line of reports.
#[derive(Clone, Debug, Serialize)]
pub struct Of {
    /// The series.
    pub series: String,
    /// `state` or `secrets`.
    pub archive: &'static str,
    /// Its id.
    pub snapshot: String,
    /// RFC 3339: when it was made.
    pub time: String,
}

impl Of {
    /// The archive that was opened.
    pub fn new(archive: &Opened) -> Of {
        let commit = archive.commit();
        Of {
            series: commit.series.clone(),
            archive: commit.archive.word(),
            snapshot: commit.id.to_string(),
            time: clock_text(commit.id.unix_seconds()),
        }
    }
}
