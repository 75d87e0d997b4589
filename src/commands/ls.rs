//! `lifeboat ls`: what a snapshot has, from its manifests alone.

use std::ffi::OsString;

use serde::Serialize;

use super::look::{self, Item, Of, Place, There, asked_path, time_column};
use super::opened::Opened;
use super::{Events, Report, bytes_text};
use crate::error::Result;
use crate::host::world::World;
use crate::model::entry::Kind;
use crate::model::tree::{Children, Index};

/// What `ls` was asked to show.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which snapshot, of which archive.
    pub place: Place,
    /// The snapshot as a person names it.
    pub snapshot: String,
    /// A path in it.
    pub path: Option<OsString>,
    /// With modes and owners.
    pub long: bool,
    /// All that is below, too, as a tree.
    pub tree: bool,
    /// The largest first.
    pub sizes: bool,
}

/// What is there.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// The archive.
    #[serde(flatten)]
    pub of: Of,
    /// The entries.
    pub entries: Vec<Item>,
    #[serde(skip)]
    long: bool,
    #[serde(skip)]
    tree: bool,
}

impl Report for Listing {
    fn text(&self) -> String {
        let mut out = String::new();
        for item in &self.entries {
            let path = item.path.bytes();
            let (indent, name) = match self.tree && item.depth > 0 {
                true => (2 * item.depth, crate::model::path::file_name(&path)),
                false => (0, &path[..]),
            };
            if self.long {
                let owner = item.owner.as_deref().unwrap_or("-");
                let group = item.group.as_deref().unwrap_or("-");
                let mode = item.mode.as_deref().unwrap_or("-");
                out.push_str(&format!("{mode:>4}  {owner:<8}  {group:<8}  "));
            }
            let (size, time) = (bytes_text(item.size), time_column(item.mtime.as_deref()));
            out.push_str(&format!("{size:>11}  {time}  {:indent$}{}\n", "", item.shown(name)));
        }
        out
    }
}

/// Lists what a snapshot has at a path.
///
/// # Errors
/// When the snapshot cannot be found, opened or verified, or has nothing there.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Listing> {
    let (_, opened) = args.place.open(world, &args.snapshot, events)?;
    let path = args.path.as_ref().map_or(Ok(Vec::new()), |p| asked_path(world, opened.header(), p))?;
    let (tree, totals) = (&opened.tree, look::totals(&opened.tree));
    let children = Children::by_name(tree);
    let mut found: Vec<(Index, usize)> = Vec::new();
    let mut pending: Vec<(Index, usize)> = first(args, &opened, &children, &path)?;
    while let Some((index, depth)) = pending.pop() {
        found.push((index, depth));
        if args.tree {
            let mut below = children.of_dir(index).to_vec();
            sort(&mut below, args.sizes, &totals);
            pending.extend(below.into_iter().rev().map(|i| (i, depth + 1)));
        }
    }
    let item = |(index, depth)| Item::new(tree, index, totals[index as usize], depth);
    let entries = found.into_iter().map(item).collect();
    Ok(Listing { of: Of::new(&opened), entries, long: args.long, tree: args.tree })
}

/// Where to begin, the last first.
fn first(args: &Args, opened: &Opened, children: &Children, path: &[u8]) -> Result<Vec<(Index, usize)>> {
    let tree = &opened.tree;
    let mut out = match look::find(opened, path)? {
        There::Above(roots) => roots,
        There::Entry(index) if tree.node(index).kind == Kind::Dir && !args.tree => {
            let mut inside = children.of_dir(index).to_vec();
            inside.extend(look::roots_below(tree, path));
            inside
        }
        There::Entry(index) => vec![index],
    };
    sort(&mut out, args.sizes, &look::totals(tree));
    Ok(out.into_iter().rev().map(|i| (i, 0)).collect())
}

fn sort(entries: &mut [Index], by_size: bool, totals: &[u64]) {
    if by_size {
        entries.sort_by_key(|i| std::cmp::Reverse(totals[*i as usize]));
    }
}
