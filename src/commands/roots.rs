//! Sources that are not what they were: a disk that is not mounted looks like a directory from which everything was
//! deleted.

use super::write_archive::Run;
use crate::error::Result;
use crate::host::catalog::Records;
use crate::host::scan::Scan;
use crate::model::entry::{Entry, Kind};
use crate::model::store_key::Archive;
use crate::model::tree::{Children, Index, NONE};

/// Takes roots for missing that are empty where they were not, or that are on another device than last time and have
/// little of what was there. `accept` takes them as they are.
///
/// # Errors
/// When the catalog cannot be used.
pub fn check(run: &Run<'_>, scan: &mut Scan, accept: bool) -> Result<()> {
    let children = Children::by_name(&scan.tree);
    let is_root = |i: &Index| {
        let node = scan.tree.node(*i);
        node.parent == NONE && node.kind == Kind::Dir && node.archive == Archive::State
    };
    let roots: Vec<Index> = scan.tree.indices().filter(is_root).collect();
    for root in roots {
        let path = scan.tree.path(root);
        let Some(device) = scan.devices.get(&root).copied() else { continue };
        let key = format!("device of {}", blake3::hash(&path).to_hex());
        let before = run.catalog.fact(&key)?.and_then(|device| device.parse::<u64>().ok());
        let known = run.catalog.directory(&path)?;
        let reason = if known.is_empty() || accept {
            None
        } else if children.of_dir(root).is_empty() {
            Some("it is empty where it was not: is it mounted? `lifeboat backup --rehash` takes it as it is")
        } else if before.is_some_and(|before| before != device) && !resembles(scan, &children, root, &known) {
            Some("something else is mounted in its place; `lifeboat backup --rehash` takes it as it is")
        } else {
            None
        };
        match reason {
            Some(reason) => {
                let entry = Entry { reason: reason.to_owned(), ..Entry::new(Kind::Missing) };
                scan.tree.set_entry(root, &entry);
                forget_below(scan, &children, root);
            }
            None if before != Some(device) => run.catalog.set_fact(&key, &device.to_string())?,
            None => {}
        }
    }
    Ok(())
}

/// Whether half of what was known in a directory is still there: devices are numbered anew when a machine starts.
fn resembles(scan: &Scan, children: &Children, root: Index, known: &Records) -> bool {
    let there = known.keys().filter(|name| children.named(&scan.tree, root, name).is_some()).count();
    there * 2 >= known.len()
}

/// What is in a directory that is not to be believed.
fn forget_below(scan: &mut Scan, children: &Children, dir: Index) {
    let mut pending = children.of_dir(dir).to_vec();
    while let Some(index) = pending.pop() {
        scan.tree.node_mut(index).kind = Kind::Deleted;
        pending.extend_from_slice(children.of_dir(index));
    }
}
