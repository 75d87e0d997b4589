//! What became of paths over all snapshots of a series: each manifest is read once, and no archive.

use std::collections::HashMap;

use serde::Serialize;

use super::look::{Place, time_column, time_text};
use super::opened::listed;
use super::reading::Reading;
use super::snapshots::{self, Found};
use super::write_archive::clock_text;
use super::{Event, Events, bytes_text};
use crate::error::{Kind as ErrorKind, Result};
use crate::host::world::World;
use crate::model::entry::Kind;
use crate::model::history::{Change, History, Tree, Version};
use crate::model::manifest::{PathName, hex};
use crate::model::path::printable;
use crate::model::store_key::SnapshotId;

/// Which paths are wanted.
pub struct Paths<'a> {
    /// Whether a path is.
    pub matters: &'a dyn Fn(&[u8]) -> bool,
    /// The last of them in bytewise order, where that is known: nobody reads on behind it.
    pub last: Option<&'a [u8]>,
}

/// The history of paths.
pub struct Versions {
    /// The snapshots, oldest first.
    pub snapshots: Vec<SnapshotId>,
    /// The changes, whose numbers are those of snapshots.
    pub history: History,
    /// Snapshots that could not be looked into, and why.
    pub unread: Vec<String>,
}

/// Gathers the history of paths over all snapshots whose chains are whole. What is damaged is passed over, and said.
///
/// # Errors
/// When the store cannot be read, or no identity opens the manifests.
pub fn gather(
    world: &World,
    place: &Place,
    reading: &mut Reading,
    paths: &Paths<'_>,
    events: &mut Events<'_>,
) -> Result<Versions> {
    let identities = reading.identities(place.archive())?;
    let of_kind = |f: &&Found| f.place.archive == place.archive() && f.usable(reading.allow_unsigned).is_some();
    let mut all: Vec<&Found> = reading.found.iter().filter(of_kind).collect();
    // A pinned copy is the same snapshot once more.
    all.sort_by_key(|f| (snapshots::seq(f), f.place.id.clone(), f.damage().is_some(), f.place.is_pinned()));
    all.dedup_by_key(|f| f.place.id.clone());
    let parent = |f: &Found| f.usable(reading.allow_unsigned).and_then(|c| c.parent.as_ref()).map(|p| p.id.clone());
    let mut children: HashMap<SnapshotId, usize> = HashMap::new();
    all.iter().filter_map(|f| parent(f)).for_each(|id| *children.entry(id).or_default() += 1);
    let mut trees: HashMap<SnapshotId, Tree> = HashMap::new();
    let mut out = Versions { snapshots: Vec::new(), history: History::default(), unread: Vec::new() };
    for found in all {
        world.check_stop()?;
        let id = &found.place.id;
        let above = parent(found);
        let read = match snapshots::chain(&reading.found, found, reading.allow_unsigned, world.now()) {
            Err(broken) if broken.expired => continue,
            Err(broken) => Err(format!("snapshot {id} was not looked into: {} {}", broken.needs, broken.why)),
            Ok(_) => match &above {
                Some(above) if !trees.contains_key(above) => {
                    Err(format!("snapshot {id} was not looked into: its parent {above} was not"))
                }
                _ => Ok(()),
            },
        };
        let base = above.as_ref().and_then(|above| trees.get(above));
        let read = read.and_then(|()| {
            let mut tree = Tree::on(base);
            let each = &mut |path: &[u8], entry: &_| {
                tree.take(path, entry, (paths.matters)(path));
                paths.last.is_none_or(|last| path < last)
            };
            match listed(&reading.store, found, &identities, each) {
                Ok(()) => Ok(Ok(tree)),
                Err(e) if e.kind() == ErrorKind::Damaged => Err(format!("snapshot {id} was not looked into: {e}")),
                Err(e) => Ok(Err(e)),
            }
        });
        if let Some(above) = above
            && let Some(left) = children.get_mut(&above)
        {
            *left -= 1;
            if *left == 0 {
                trees.remove(&above);
            }
        }
        match read {
            Err(why) => out.unread.push(why),
            Ok(tree) => {
                let tree = tree?;
                out.history.add(&tree);
                out.snapshots.push(id.clone());
                if children.contains_key(id) {
                    trees.insert(id.clone(), tree);
                }
            }
        }
    }
    out.unread.iter().for_each(|line| events(Event::Detail(line.clone())));
    Ok(out)
}

/// One version of one path.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The archive path.
    #[serde(flatten)]
    pub path: PathName,
    /// The snapshot in which it was seen first.
    pub snapshot: String,
    /// RFC 3339: when that was made.
    pub time: String,
    /// `new`, `changed`, `touched` where only its time is another, `gone`, `unreadable`.
    pub change: &'static str,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Bytes of content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// RFC 3339: when its content last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime: Option<String>,
    /// BLAKE3 of its content, of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

impl Row {
    /// A line for a person; with the path where there are several.
    pub fn line(&self, with_path: bool) -> String {
        let size = self.size.map_or_else(|| "-".to_owned(), bytes_text);
        let (mtime, id, change) = (time_column(self.mtime.as_deref()), &self.snapshot, self.change);
        let path = if with_path { format!("  {}", printable(&self.path.bytes())) } else { String::new() };
        format!("{id}  {change:<10}  {size:>11}  {mtime}{path}\n")
    }
}

/// The versions of all paths, one after the other.
pub fn rows(versions: &Versions) -> Vec<Row> {
    let mut out = Vec::new();
    for (path, changes) in versions.history.changes() {
        let mut before: Option<&Version> = None;
        for change in changes {
            out.push(row(versions, path, before, change));
            before = change.now.as_ref();
        }
    }
    out
}

fn row(versions: &Versions, path: &[u8], before: Option<&Version>, change: &Change) -> Row {
    let id = &versions.snapshots[change.snapshot];
    let now = change.now.as_ref();
    let word = match (before, now) {
        (_, None) => "gone",
        (_, Some(now)) if now.kind == Kind::Missing => "unreadable",
        (None, Some(_)) => "new",
        (Some(before), Some(now)) if before.same_content(now) => "touched",
        _ => "changed",
    };
    let real = now.filter(|v| v.kind != Kind::Missing);
    let file = now.filter(|v| v.kind == Kind::File);
    Row {
        path: PathName::new(path),
        snapshot: id.to_string(),
        time: clock_text(id.unix_seconds()),
        change: word,
        kind: now.map(|v| v.kind.word()),
        size: file.map(|v| v.size),
        mtime: real.map(|v| time_text(v.mtime)),
        blake3: file.map(|v| hex(&v.blake3)),
    }
}
