//! An archive that was chosen and opened: its commit, its manifest, and what they must agree on.

use std::collections::HashMap;

use super::listing::Listing;
use super::session::sha256;
use super::snapshots::{Found, Standing};
use crate::error::{Error, Result};
use crate::host::store::Store;
use crate::model::commit::{Commit, Object};
use crate::model::entry::{Entry, Kind};
use crate::model::manifest::Header;
use crate::model::path::printable;
use crate::model::store_key::{MANIFEST, Place};
use crate::model::tree::{Children, Index, NONE, Tree};
use crate::stream::age_keys::Identities;
use crate::stream::manifest_file;

/// An archive whose manifest was read and agrees with its commit.
pub struct Opened {
    /// Where it stands.
    pub place: Place,
    /// Its commit.
    pub commit: Commit,
    /// Its manifest's header.
    pub header: Header,
    /// Its entries.
    pub tree: Tree,
    /// What opens its volumes.
    pub identities: Identities,
    /// Whether [`Opened::check_digest`] has passed already.
    proved: bool,
}

impl Opened {
    /// Refuses a manifest whose entries are not those that its tree digest was made of. It takes a moment that a restore
    /// spends on its first volumes, so nobody waits for it; nothing appears at the target before it has passed.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged).
    pub fn check_digest(&self) -> Result<()> {
        if self.proved {
            return Ok(());
        }
        let read = |i| Ok(self.tree.entry(i));
        let listing = Listing::of(&self.tree, self.commit.archive, &read, &mut |_, _| Ok(()));
        if listing.is_ok_and(|l| l.digest == self.header.tree) {
            return Ok(());
        }
        let name = self.place.object(MANIFEST);
        Err(Error::damaged(format!("the entries of {name} are not those that its tree digest was made of")))
    }
}

/// Reads an object and refuses it unless it is the one that the commit lists.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged), naming the object.
fn fetch(store: &Store, place: &Place, object: &Object) -> Result<bytes::Bytes> {
    let key = place.object(&object.name);
    let bytes = store.get(&key, object.size)?;
    if bytes.len() as u64 != object.size || sha256(&bytes) != object.sha256 {
        return Err(Error::damaged(format!("{key} is not what its commit says: it was truncated or altered"))
            .hint("another snapshot may be whole: `lifeboat list` shows them"));
    }
    Ok(bytes)
}

/// Opens the archive.
///
/// # Errors
/// [`Kind::NoIdentity`](crate::Kind::NoIdentity); [`Kind::Damaged`](crate::Kind::Damaged) when objects, commit and manifest
/// disagree.
pub fn open(store: &Store, found: &Found, identities: Identities) -> Result<Opened> {
    let place = found.place.clone();
    let commit = match &found.standing {
        Standing::Verified(commit) | Standing::Unverified { commit: Some(commit), .. } => (**commit).clone(),
        _ => return Err(Error::damaged(format!("{} has no commit that can be read", place.directory()))),
    };
    if let Some(damage) = found.damage() {
        return Err(Error::damaged(format!("{} is damaged: {damage}", place.directory())));
    }
    let manifest = fetch(store, &place, commit.manifest())?;
    let name = place.object(MANIFEST);
    let (header, tree) = manifest_file::read(&name, &manifest, &identities, commit.archive)?;
    agree(&name, &commit, &header)?;
    if header.parent.is_some() {
        return Err(Error::failed(format!(
            "{} is an incremental, which this version cannot restore",
            place.directory()
        ))
        .hint("use a newer lifeboat, or recover.sh from the store"));
    }
    drop(manifest);
    Ok(Opened { place, commit, header, tree, identities, proved: false })
}

/// What stands in commit and manifest must be the same in both.
fn agree(name: &str, commit: &Commit, header: &Header) -> Result<()> {
    let parent = commit.parent.as_ref().map(|p| p.id.to_string());
    let generation = commit.generation.as_ref().map(ToString::to_string);
    let same = header.archive == commit.archive.word()
        && header.series == commit.series
        && header.id == commit.id.as_str()
        && header.seq == commit.seq
        && header.tier == commit.tier
        && header.generation == generation
        && header.parent == parent
        && header.volumes.len() == commit.volumes().len();
    if same { Ok(()) } else { Err(Error::damaged(format!("{name} belongs to another commit than it stands beside"))) }
}

/// Refuses state and secrets that do not fit into one tree: something below what the other says is no directory, or a
/// directory where the other has something else.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged), naming the path.
pub fn check_together(state: &Tree, secrets: &Tree) -> Result<()> {
    for (one, other) in [(state, secrets), (secrets, state)] {
        let children = Children::of(other);
        for root in one.indices().filter(|i| one.node(*i).parent == NONE) {
            let path = one.path(root);
            let mut up = crate::model::path::parent(&path);
            while let Some(ancestor) = up {
                let found = children.find(other, ancestor).map(|i| other.node(i).kind);
                if found.is_some_and(|k| !matches!(k, Kind::Dir | Kind::Missing | Kind::Deleted)) {
                    let (inner, outer) = (printable(&path), printable(ancestor));
                    return Err(apart(format!(
                        "{inner} of one archive lies below {outer}, which the other says is no directory"
                    )));
                }
                up = crate::model::path::parent(ancestor);
            }
        }
    }
    let children = Children::of(state);
    for index in secrets.indices() {
        let path = secrets.path(index);
        let Some(other) = children.find(state, &path) else { continue };
        let kinds = (secrets.node(index).kind, state.node(other).kind);
        if kinds.0 != Kind::Missing && kinds.1 != Kind::Missing && (kinds.0 == Kind::Dir) != (kinds.1 == Kind::Dir) {
            return Err(apart(format!("{} is a directory in one archive and none in the other", printable(&path))));
        }
    }
    Ok(())
}

fn apart(message: String) -> Error {
    Error::damaged(message).hint("restore them to two targets, one with --no-secrets and one with --secrets-only")
}

/// Makes a file of the first further name of each file that [`overridden`] takes away: the content is still wanted
/// under the names that did not become secret. The tree is no longer the manifest's then, so it is proved before.
///
/// # Errors
/// As [`Opened::check_digest`].
pub fn keep_further_names(opened: &mut Opened, secrets: &Tree) -> Result<()> {
    let hidden = overridden(&opened.tree, secrets);
    let linked = |i: Index| opened.tree.node(i).kind == Kind::Hardlink;
    if !hidden.contains(&true) || !opened.tree.indices().any(linked) {
        return Ok(());
    }
    opened.check_digest()?;
    opened.proved = true;
    let state = &mut opened.tree;
    let children = Children::of(state);
    let mut heirs: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for index in state.indices() {
        if hidden[index as usize] || state.node(index).kind != Kind::Hardlink {
            continue;
        }
        let target = state.target(index).to_vec();
        let Some(file) = children.find(state, &target).filter(|f| hidden[*f as usize]) else { continue };
        let entry = match heirs.get(&target) {
            Some(heir) => Entry { target: heir.clone(), ..state.entry(index) },
            None => {
                heirs.insert(target, state.path(index));
                state.entry(file)
            }
        };
        state.set_entry(index, &entry);
    }
    Ok(())
}

/// Paths of `state` that `secrets` has, too: the newer word about a file that became secret.
pub fn overridden(state: &Tree, secrets: &Tree) -> Vec<bool> {
    let children = Children::of(state);
    let mut out = vec![false; state.len()];
    for index in secrets.indices() {
        if matches!(secrets.node(index).kind, Kind::Dir | Kind::Missing) {
            continue;
        }
        if let Some(found) = children.find(state, &secrets.path(index)) {
            out[found as usize] = state.node(found).kind != Kind::Dir;
        }
    }
    out
}
