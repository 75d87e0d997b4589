//! What walkers found, each in a tree of its own, and how that becomes one.

use std::collections::HashMap;

use super::queue::Place;
use crate::host::scan::{Identity, Scan};
use crate::model::entry::Entry;
use crate::model::tree::{Index, NONE};

/// What a walk found.
pub(in crate::host::scan) struct Walked {
    pub(in crate::host::scan) scan: Scan,
    /// Names of each file that has several.
    pub(in crate::host::scan) inodes: HashMap<Identity, Vec<Index>>,
}

/// The entries that one listing added to a walker's tree.
pub(super) struct Run {
    /// Later for what lies deeper.
    pub(super) order: u64,
    pub(super) dir: Option<Place>,
    pub(super) start: Index,
    pub(super) end: Index,
}

/// What one walker found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) scan: Scan,
    pub(super) runs: Vec<Run>,
    pub(super) inodes: HashMap<Identity, Vec<Index>>,
    pub(super) skipped_in: Vec<Option<Place>>,
    /// Directories that could not be listed, whoever found them.
    pub(super) failed: Vec<(Place, Entry)>,
}

/// Makes one tree of those of all walkers: listing after listing, so that a directory stands before what is in it.
pub(super) fn join(found: Vec<Found>) -> Walked {
    let mut scan = Scan::default();
    let mut places: Vec<Vec<Index>> = found.iter().map(|f| vec![NONE; f.scan.tree.len()]).collect();
    let mut owners: Vec<HashMap<u16, u16>> = vec![HashMap::new(); found.len()];
    let mut runs: Vec<(usize, &Run)> =
        found.iter().enumerate().flat_map(|(walker, f)| f.runs.iter().map(move |run| (walker, run))).collect();
    runs.sort_by_key(|(_, run)| run.order);
    for (walker, run) in runs {
        let parent = run.dir.map_or(NONE, |(walker, index)| places[walker][index as usize]);
        for index in run.start..run.end {
            let theirs = &found[walker].scan;
            let new = scan.tree.adopt(&theirs.tree, index, parent, &mut owners[walker]);
            scan.set_look(new, theirs.look(index));
            places[walker][index as usize] = new;
        }
    }
    let place = |(walker, index): Place| places[walker][index as usize];
    let mut inodes: HashMap<Identity, Vec<Index>> = HashMap::new();
    for (walker, found) in found.into_iter().enumerate() {
        let theirs = found.scan;
        scan.roots.extend(theirs.roots.into_iter().map(|(index, source)| (place((walker, index)), source)));
        scan.devices.extend(theirs.devices.into_iter().map(|(index, device)| (place((walker, index)), device)));
        scan.skipped.extend(theirs.skipped);
        scan.vanished += theirs.vanished;
        scan.skipped_in.extend(found.skipped_in.into_iter().map(|dir| dir.map_or(NONE, place)));
        scan.fixed.extend(theirs.fixed.into_iter().map(|index| place((walker, index))));
        for (identity, names) in found.inodes {
            inodes.entry(identity).or_default().extend(names.into_iter().map(|index| place((walker, index))));
        }
        for (dir, entry) in found.failed {
            scan.tree.set_entry(place(dir), &entry);
        }
    }
    Walked { scan, inodes }
}
