//! How much an incremental against another parent would hold, from what is known already.

use std::collections::HashMap;

use super::{Action, Plan};
use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::host::scan::Scan;
use crate::model::blocks::{BLOCKS_FROM, changed_bytes};
use crate::model::entry::Kind;
use crate::model::path;
use crate::model::tree::Index;

/// About how many bytes an incremental against `parent` would hold.
///
/// # Errors
/// When the catalog cannot be read.
pub fn estimate(scan: &Scan, plan: &Plan, catalog: &Catalog, parent: u64) -> Result<u64> {
    let tree = &scan.tree;
    let mut bytes = 0;
    let listed: HashMap<Vec<u8>, Index> = plan.actions.keys().map(|i| (tree.path(*i), *i)).collect();
    for (path, index) in &listed {
        bytes += match &plan.actions[index] {
            Action::Listed => 0,
            Action::Whole { .. } => tree.node(*index).size,
            Action::Delta(made) if made.base == *path && made.size >= BLOCKS_FROM => {
                changed_bytes(&mut catalog.blocks(path), made.size, parent)?
            }
            Action::Delta(_) => 0,
        };
    }
    catalog.records(&mut |dir, name, record| {
        if record.kind != Kind::File || !record.is_after(parent) {
            return Ok(());
        }
        let path = if dir.is_empty() { name.to_vec() } else { path::join(dir, name) };
        if !listed.contains_key(&path) {
            bytes += match record {
                r if r.born > parent || r.changed > parent && r.size < BLOCKS_FROM => r.size,
                r if r.changed > parent => changed_bytes(&mut catalog.blocks(&path), r.size, parent)?,
                _ => 0,
            };
        }
        Ok(())
    })?;
    Ok(bytes)
}
