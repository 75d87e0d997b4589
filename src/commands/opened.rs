//! An archive that was chosen and opened: its commit, its manifest, and what they must agree on.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::listing::Listing;
use super::session::sha256;
use super::snapshots::{Found, Standing};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::store::Store;
use crate::model::commit::{Commit, Object};
use crate::model::database::SIDECARS;
use crate::model::entry::{Entry, Kind};
use crate::model::manifest::{Frame, Header};
use crate::model::merge::{Merged, Missing, merge};
use crate::model::path::{parent, printable};
use crate::model::pieces::Holders;
use crate::model::store_key::{Archive, MANIFEST, Place};
use crate::model::tree::{Children, Index, NONE, Tree};
use crate::model::walk::{Level, Listed};
use crate::stream::age_keys::Identities;
use crate::stream::archive_reader::VolumeReader;
use crate::stream::manifest_file;

/// An archive of a chain whose manifest agrees with its commit.
pub struct Member {
    /// Where it stands.
    pub place: Place,
    /// Its commit.
    pub commit: Commit,
    /// Its manifest's header.
    pub header: Header,
}

impl Member {
    /// The frames of one of its volumes.
    pub fn frames(&self, volume: usize) -> &[Frame] {
        let frames = &self.header.frames;
        let first = frames.partition_point(|f| (f.volume as usize) < volume);
        let last = frames.partition_point(|f| (f.volume as usize) <= volume);
        &frames[first..last]
    }
}

/// A snapshot's state or secrets, opened: the tree, and all that its content lies in.
pub struct Opened {
    /// The archive itself, its parent, and so on to a full.
    pub members: Vec<Member>,
    /// Its entries; none of them is a delta.
    pub tree: Tree,
    /// Which of the members holds the content of each.
    pub holders: Holders,
    /// What could not be read when it was made, and which member has it.
    pub missing: Vec<Missing>,
    /// What opens its volumes.
    pub identities: Identities,
    /// Whether [`Opened::check_digest`] has passed already.
    proved: AtomicBool,
}

impl Opened {
    /// The archive's commit.
    pub fn commit(&self) -> &Commit {
        &self.members[0].commit
    }

    /// The header of the archive's manifest.
    pub fn header(&self) -> &Header {
        &self.members[0].header
    }

    /// Refuses manifests whose entries are not those that the tree digest was made of. It takes a moment that a restore
    /// spends on its first volumes, so nobody waits for it; nothing appears at the target before it has passed.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged).
    pub fn check_digest(&self) -> Result<()> {
        if !self.proved.load(Ordering::Relaxed) {
            check_digest(&self.tree, &self.members[0])?;
            self.proved.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads a whole volume of a member, and shows each of its frames.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when it is not what manifest and commit say; those of `each`.
    pub fn read_volume(
        &self,
        reader: &mut VolumeReader,
        store: &Store,
        level: usize,
        volume: usize,
        each: &mut dyn FnMut(&Frame, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let member = &self.members[level];
        let object = &member.commit.volumes()[volume];
        let name = member.place.object(&object.name);
        // The listing has shown that its size is the commit's; age and the digests of the frames vouch for every byte.
        let mut sealed = store.open_object(&name, object.size);
        let (place, frames) = (&member.header.volumes[volume], member.frames(volume));
        let read = reader.read(&name, &mut sealed, place, frames, &self.identities, each);
        read.map_err(|e| not_the_volume(&name, e))
    }

    /// Reads single frames of a volume, ascending, and shows each.
    ///
    /// # Errors
    /// As [`Opened::read_volume`]; but nobody looks at what is not read.
    pub fn read_frames(
        &self,
        reader: &mut VolumeReader,
        store: &Store,
        level: usize,
        volume: usize,
        frames: &[&Frame],
        each: &mut dyn FnMut(&Frame, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let member = &self.members[level];
        let object = &member.commit.volumes()[volume];
        let name = member.place.object(&object.name);
        let fetch = |range| store.get_range(&name, range).map_err(std::io::Error::other);
        let place = &member.header.volumes[volume];
        let read = reader.read_frames(&name, &fetch, object.size, place, frames, &self.identities, each);
        read.map_err(|e| not_the_volume(&name, e))
    }

    /// Paths of the databases that members list and that are files of the snapshot; but not where their journals are, too:
    /// those were no databases any more when it was made.
    pub fn databases(&self) -> HashSet<Vec<u8>> {
        let mut out: HashSet<Vec<u8>> =
            self.members.iter().flat_map(|m| &m.header.databases).map(|d| d.path.bytes()).collect();
        if self.members.len() > 1 && !out.is_empty() {
            let children = Children::of(&self.tree);
            let kind = |path: &[u8]| children.find(&self.tree, path).map(|i| self.tree.node(i).kind);
            out.retain(|path| {
                matches!(kind(path), Some(Kind::File | Kind::Hardlink))
                    && SIDECARS.iter().all(|suffix| kind(&[path, *suffix].concat()).is_none())
            });
        }
        out
    }
}

/// What is wrong with a volume whose manifest could be opened.
fn not_the_volume(name: &str, e: Error) -> Error {
    // One that cannot be opened was put there by somebody else.
    if e.kind() == ErrorKind::NoIdentity {
        return Error::damaged(format!("{name} is sealed to others than the manifest")).because(e);
    }
    if e.kind() == ErrorKind::Damaged && e.advice().is_none() {
        return e.hint("another snapshot may be whole: `lifeboat list` shows them");
    }
    e
}

fn check_digest(tree: &Tree, newest: &Member) -> Result<()> {
    let read = |i| Ok(tree.entry(i));
    let listing = Listing::of(tree, newest.commit.archive, &read, &mut |_, _| Ok(()));
    if listing.is_ok_and(|l| l.digest == newest.header.tree) {
        return Ok(());
    }
    let name = newest.place.object(MANIFEST);
    Err(Error::damaged(format!("the entries of {name} are not those that its tree digest was made of")))
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

/// The commit of an archive that was chosen, and its manifest, sealed.
fn sealed(store: &Store, found: &Found) -> Result<(Commit, bytes::Bytes)> {
    let place = &found.place;
    let commit = match &found.standing {
        Standing::Verified(commit) | Standing::Unverified { commit: Some(commit), .. } => (**commit).clone(),
        _ => return Err(Error::damaged(format!("{} has no commit that can be read", place.directory()))),
    };
    if let Some(damage) = found.damage() {
        return Err(Error::damaged(format!("{} is damaged: {damage}", place.directory())));
    }
    let manifest = fetch(store, place, commit.manifest())?;
    Ok((commit, manifest))
}

/// The header of an archive's manifest, which agrees with its commit.
///
/// # Errors
/// As [`open`].
pub fn header(store: &Store, found: &Found, identities: &Identities) -> Result<Header> {
    let (commit, manifest) = sealed(store, found)?;
    let name = found.place.object(MANIFEST);
    let header = manifest_file::read_header(&name, &manifest, identities)?;
    agree(&name, &commit, &header)?;
    Ok(header)
}

/// Shows each entry that the archive's own manifest lists, ascending by path, until `each` has seen enough and says
/// `false`.
///
/// # Errors
/// As [`open`].
pub fn listed(
    store: &Store,
    found: &Found,
    identities: &Identities,
    each: &mut dyn FnMut(&[u8], &Entry) -> bool,
) -> Result<()> {
    let manifests = Manifests::fetch(store, &[found], identities)?;
    for line in manifests.read(0, found.place.archive, identities)?.lines {
        let (path, entry) = line?;
        if !each(&path, &entry) {
            break;
        }
    }
    Ok(())
}

/// Opens an archive by its chain, itself first; `found` is all that is on the store.
///
/// # Errors
/// [`Kind::NoIdentity`](crate::Kind::NoIdentity); [`Kind::Damaged`](crate::Kind::Damaged) when objects, commits and
/// manifests disagree.
pub fn open(
    store: &Store,
    found: &[Found],
    chain: &[&Found],
    allow_unsigned: bool,
    identities: Identities,
) -> Result<Opened> {
    let (mut members, mut merged) = match chain {
        [full] => open_full(store, full, &identities)?,
        _ => open_chain(store, chain, &identities)?,
    };
    let proved = !merged.missing.is_empty();
    if proved {
        // What stands in for missing entries is not of the tree that the digest was made of.
        check_digest(&merged.tree, &members[0])?;
        merged.take_older();
        look_back(store, found, allow_unsigned, &mut members, &mut merged, &identities)?;
    }
    let Merged { tree, holders, missing, .. } = merged;
    Ok(Opened { members, tree, holders, missing, identities, proved: AtomicBool::new(proved) })
}

/// How many archives before the full are looked through for what could not be read: a path that nobody could ever read
/// must not cost the whole history, at every restore.
const LOOK_BACK_MAX: usize = 100;

/// Looks for what is missing along `prev`, before the full: as far back as each archive says that it could not read it
/// either, since what was not there then is not looked for in what is older still. What cannot be used there is passed
/// over: it is no reason not to restore the rest.
fn look_back(
    store: &Store,
    found: &[Found],
    allow_unsigned: bool,
    members: &mut Vec<Member>,
    merged: &mut Merged,
    identities: &Identities,
) -> Result<()> {
    let archive = members[0].commit.archive;
    let mut before = members.last().and_then(|m| m.commit.prev.clone());
    let lacking = merged.missing.iter().filter(|m| m.level.is_none() && m.before);
    let mut paths: HashSet<Vec<u8>> = lacking.map(|m| m.path.clone()).collect();
    for _ in 0..LOOK_BACK_MAX {
        let Some(reference) = before.take().filter(|_| !paths.is_empty()) else { break };
        let named = |f: &&Found| f.place.archive == archive && f.place.id == reference.id;
        let same = |f: &&Found| f.commit_sha256 == reference.sha256 && f.usable(allow_unsigned).is_some();
        let Some(one) = found.iter().filter(named).find(same) else { break };
        before = one.usable(allow_unsigned).and_then(|c| c.prev.clone());
        // Only whether its chain is there matters here, and not when it ends.
        let Ok(chain) = super::snapshots::chain(found, one, allow_unsigned, 0) else { continue };
        match look_in(store, &chain, &mut paths, members, merged, identities) {
            Err(e) if !matches!(e.kind(), ErrorKind::Damaged | ErrorKind::NoIdentity) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Looks for missing `paths` in the tree of one older archive, and leaves those that it could not read either.
fn look_in(
    store: &Store,
    chain: &[&Found],
    paths: &mut HashSet<Vec<u8>>,
    members: &mut Vec<Member>,
    merged: &mut Merged,
    identities: &Identities,
) -> Result<()> {
    let archive = members[0].commit.archive;
    let still = Manifests::fetch(store, &chain[..1], identities)?.missing_of(paths, archive, identities)?;
    if still.len() < paths.len() {
        let manifests = Manifests::fetch(store, chain, identities)?;
        let sources: Vec<Vec<u8>> = members[0].header.sources.iter().map(|s| s.path.bytes()).collect();
        let ends = (Level::try_from(members.len()), Level::try_from(members.len() + chain.len()));
        let (Ok(first), Ok(_)) = ends else { return Ok(()) };
        let mut read = |level: Level| manifests.read(level, archive, identities);
        if merged.look_in(archive, paths, &sources, first, chain.len(), &mut read)? {
            members.extend(manifests.members);
        }
    }
    *paths = still;
    Ok(())
}

fn open_full(store: &Store, found: &Found, identities: &Identities) -> Result<(Vec<Member>, Merged)> {
    let place = found.place.clone();
    let (commit, manifest) = sealed(store, found)?;
    let name = place.object(MANIFEST);
    let (header, tree) = manifest_file::read(&name, &manifest, identities, commit.archive)?;
    agree(&name, &commit, &header)?;
    Ok((vec![Member { place, commit, header }], Merged::full(tree)))
}

fn open_chain(store: &Store, chain: &[&Found], identities: &Identities) -> Result<(Vec<Member>, Merged)> {
    let manifests = Manifests::fetch(store, chain, identities)?;
    let newest = &manifests.members[0].commit;
    let mut read = |level: Level| manifests.read(level, newest.archive, identities);
    let merged = merge(newest.archive, chain.len(), &mut read).map_err(|e| {
        if e.kind() == ErrorKind::Damaged && e.advice().is_none() {
            let id = &newest.id;
            return e.hint(format!(
                "it is of the chain of {id}; another snapshot may be whole: `lifeboat list` shows them"
            ));
        }
        e
    })?;
    Ok((manifests.members, merged))
}

/// The manifests of a chain, each of which is what its commit says.
struct Manifests {
    members: Vec<Member>,
    sealed: Vec<bytes::Bytes>,
}

impl Manifests {
    fn fetch(store: &Store, chain: &[&Found], identities: &Identities) -> Result<Self> {
        let mut out = Manifests { members: Vec::with_capacity(chain.len()), sealed: Vec::with_capacity(chain.len()) };
        for found in chain {
            let (commit, manifest) = sealed(store, found)?;
            let place = found.place.clone();
            let name = place.object(MANIFEST);
            let header = manifest_file::read_header(&name, &manifest, identities)?;
            agree(&name, &commit, &header)?;
            out.members.push(Member { place, commit, header });
            out.sealed.push(manifest);
        }
        Ok(out)
    }

    fn read(&self, level: Level, archive: Archive, identities: &Identities) -> Result<Listed<'_>> {
        let level = usize::from(level);
        let name = self.members[level].place.object(MANIFEST);
        let (header, lines) = manifest_file::entries(&name, &self.sealed[level], identities, archive)?;
        let sources = header.sources.iter().map(|s| s.path.bytes()).collect();
        Ok(Listed { lines, sources })
    }

    /// Which of these paths the newest of them lists as missing, or something above them: what is missing is listed by
    /// each snapshot while that lasts.
    fn missing_of(
        &self,
        paths: &HashSet<Vec<u8>>,
        archive: Archive,
        identities: &Identities,
    ) -> Result<HashSet<Vec<u8>>> {
        let mut missing: HashSet<Vec<u8>> = HashSet::new();
        for line in self.read(0, archive, identities)?.lines {
            let (path, entry) = line?;
            if entry.kind == Kind::Missing {
                missing.insert(path);
            }
        }
        let covered = |path: &[u8]| std::iter::successors(Some(path), |p| parent(p)).any(|p| missing.contains(p));
        Ok(paths.iter().filter(|p| covered(p)).cloned().collect())
    }
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

/// Makes a file of the first further name of each file that is `hidden`, by entry: the content is still wanted under the
/// names that are not. The tree is no longer the manifest's then, so it is proved before.
///
/// # Errors
/// As [`Opened::check_digest`].
pub fn keep_further_names(opened: &mut Opened, hidden: &[bool]) -> Result<()> {
    let linked = |i: Index| opened.tree.node(i).kind == Kind::Hardlink;
    if !hidden.contains(&true) || !opened.tree.indices().any(linked) {
        return Ok(());
    }
    opened.check_digest()?;
    let (state, holders) = (&mut opened.tree, &mut opened.holders);
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
                holders.copy(file, index);
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
