//! The values that a bundle holds, read out of its files into memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::opened::{header, open};
use super::session::sha256;
use super::snapshots::Found;
use crate::error::{Error, Result};
use crate::host::store::Store;
use crate::model::entry::{Entry, Kind};
use crate::model::store_key::Archive;
use crate::model::sweep::collect;
use crate::stream::age_keys::Identities;
use crate::stream::archive_reader::VolumeReader;

/// A value, with where it stands. It has no `Debug`.
pub struct Valued {
    /// Its file, as an archive path.
    pub path: Vec<u8>,
    /// Its key in the file; empty if it has none.
    pub name: String,
    /// The value.
    pub value: Zeroizing<Vec<u8>>,
    /// Whether it is searched for elsewhere.
    pub is_searched: bool,
}

/// Reads the values that the manifest of a bundle lists. `all` is what is on the store.
///
/// # Errors
/// [`Kind::NoIdentity`](crate::Kind::NoIdentity), and [`Kind::Damaged`](crate::Kind::Damaged) when anything is not what
/// the manifest says.
pub fn values(store: &Store, all: &[Found], bundle: &Found, identities: Identities) -> Result<Vec<Valued>> {
    let notes = header(store, bundle, &identities)?.secrets.unwrap_or_default();
    let opened = open(store, all, &[bundle], false, identities)?;
    opened.check_digest()?;
    let mut wanted: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    let tree = &opened.tree;
    let listed: std::collections::BTreeSet<Vec<u8>> = notes.values.iter().map(|v| v.path.bytes()).collect();
    for index in tree.indices().filter(|i| tree.node(*i).kind == Kind::File) {
        let path = tree.path(index);
        if listed.contains(&path) {
            wanted.insert(path, tree.entry(index));
        }
    }
    let contents = contents(store, bundle, &opened, &wanted)?;
    let mut out = Vec::new();
    for (path, content) in contents {
        for value in collect(&content) {
            let bytes = Zeroizing::new(value.expose().to_vec());
            // What another version would collect is left to that version.
            let print = notes.fingerprint(&bytes);
            if notes.values.iter().any(|n| Some(&n.fingerprint) == print.as_ref() && n.path.bytes() == path) {
                let (name, is_searched) = (value.name.clone(), value.is_searched);
                out.push(Valued { path: path.clone(), name, value: bytes, is_searched });
            }
        }
    }
    Ok(out)
}

/// The bytes of some files of a bundle, checked. Those with holes are none that values are collected from.
fn contents(
    store: &Store,
    bundle: &Found,
    opened: &super::opened::Opened,
    wanted: &BTreeMap<Vec<u8>, Entry>,
) -> Result<BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>> {
    let mut out: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>> = BTreeMap::new();
    let plain: BTreeMap<&Vec<u8>, (u64, u64)> = wanted
        .iter()
        .filter(|(_, e)| e.extents.is_none())
        .filter_map(|(path, e)| Some((path, (e.at?, e.at?.checked_add(e.size)?))))
        .collect();
    let member = &opened.members[0];
    let mut reader = VolumeReader::new()?;
    for (number, place) in member.header.volumes.iter().enumerate() {
        let frames = member.frames(number);
        let needed = |frame: &crate::model::manifest::Frame| {
            plain.values().any(|(start, end)| frame.tar_offset < *end && *start < frame.tar_end())
        };
        if !frames.iter().any(needed) {
            continue;
        }
        let Some(object) = member.commit.objects.get(number) else { continue };
        let name = bundle.place.object(&object.name);
        let sealed: Bytes = store.get(&name, object.size)?;
        if sha256(&sealed) != object.sha256 {
            return Err(Error::damaged(format!("{name} is not what its commit says: it was truncated or altered")));
        }
        let mut each = |frame: &crate::model::manifest::Frame, tar: &[u8]| {
            for (path, (start, end)) in &plain {
                let (from, to) = (frame.tar_offset.max(*start), frame.tar_end().min(*end));
                if from < to {
                    let at = |offset: u64| usize::try_from(offset - frame.tar_offset).unwrap_or(usize::MAX);
                    let part = tar.get(at(from)..at(to)).unwrap_or_default();
                    out.entry((*path).clone()).or_default().extend_from_slice(part);
                }
            }
            Ok(())
        };
        reader.read(&name, &mut &sealed[..], place, frames, &opened.identities, &mut each)?;
    }
    for (path, content) in &out {
        if wanted.get(path).is_some_and(|entry| entry.blake3 != *blake3::hash(content).as_bytes()) {
            return Err(Error::damaged("a secret file of the bundle is not what its manifest says"));
        }
    }
    debug_assert_eq!(member.commit.archive, Archive::Secrets);
    Ok(out)
}
