//! The order in which entries become members.

use crate::model::entry::Kind;
use crate::model::path::file_name;
use crate::model::store_key::Archive;
use crate::model::tree::{Index, Tree};

/// Directories first, so that a plain `tar` has somewhere to put files; then files, like beside like; then symbolic
/// links, and hard links after what they lead to.
pub(super) fn of_archive(tree: &Tree, archive: Archive) -> Vec<Index> {
    let of = |kinds: &[Kind]| {
        let chosen = |i: &Index| tree.node(*i).archive == archive && kinds.contains(&tree.node(*i).kind);
        tree.indices().filter(chosen).collect::<Vec<_>>()
    };
    // A scan adds a directory before what is in it.
    let mut out = of(&[Kind::Dir, Kind::Missing]);
    let mut files = of(&[Kind::File]);
    files.sort_by(|a, b| {
        let key = |i: Index| (extension(tree.name(i)), tree.node(i).size, file_name(tree.name(i)));
        key(*a).cmp(&key(*b)).then(a.cmp(b))
    });
    out.extend(files);
    out.extend(of(&[Kind::Symlink]));
    out.extend(of(&[Kind::Hardlink]));
    out
}

fn extension(name: &[u8]) -> &[u8] {
    let name = file_name(name);
    match name.iter().rposition(|b| *b == b'.') {
        Some(dot) if dot > 0 => &name[dot + 1..],
        _ => &[],
    }
}
