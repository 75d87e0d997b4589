//! What is on the store, judged: which commits verify, what is incomplete, what somebody tampered with.
//!
//! Beside it: what may be `wanted` of it, and the `choice` of that with its chain.

mod choice;
mod wanted;

use std::collections::{BTreeMap, HashSet};

pub use self::choice::{Broken, Choice, chain, choose, choose_good};
pub use self::wanted::Wanted;
use super::session::sha256;
use crate::error::{Error, Kind, Result};
use crate::host::store::Store;
use crate::model::commit::{COMMIT_BYTES_MAX, Commit, Reference, SIGNATURE_BYTES_MAX};
use crate::model::store_key::{Archive, COMMIT, Place, SECRETS_PINNED, SIGNATURE, SnapshotId};
use crate::stream::signers::Signers;

/// Seconds in a day.
const DAY_SECONDS: i64 = 86_400;

/// How far an archive on the store can be trusted.
pub enum Standing {
    /// Its commit is signed by the series' key and says what its name says.
    Verified(Box<Commit>),
    /// It has a commit that does not verify.
    Unverified {
        /// Why.
        why: Error,
        /// What it says, if it can be read at all.
        commit: Option<Box<Commit>>,
    },
    /// It has no commit: an interrupted run, or one that is under way.
    Incomplete,
}

/// One archive on the store.
pub struct Found {
    /// Where it stands.
    pub place: Place,
    /// What it is worth.
    pub standing: Standing,
    /// SHA-256 of its commit.
    pub commit_sha256: [u8; 32],
    /// SHA-256 of the commit's signature.
    pub signature_sha256: [u8; 32],
    /// Its objects and their sizes, as listed.
    pub objects: BTreeMap<String, u64>,
}

/// What is listed of an archive: where it stands, and its objects with their sizes.
pub type Listed = (Place, BTreeMap<String, u64>);

impl Found {
    /// The commit, if it verifies.
    pub fn verified(&self) -> Option<&Commit> {
        match &self.standing {
            Standing::Verified(commit) => Some(commit),
            _ => None,
        }
    }

    /// The commit, if it verifies, or nobody asks for that.
    pub fn usable(&self, allow_unsigned: bool) -> Option<&Commit> {
        match &self.standing {
            Standing::Verified(commit) => Some(commit),
            Standing::Unverified { commit: Some(commit), .. } if allow_unsigned => Some(commit),
            _ => None,
        }
    }

    /// What the listing shows to be wrong with the objects of a verified commit.
    pub fn damage(&self) -> Option<String> {
        let commit = self.verified()?;
        commit.objects.iter().find_map(|object| match self.objects.get(&object.name) {
            None => Some(format!("{} is missing", object.name)),
            Some(size) if *size != object.size => Some(format!("{} has the wrong size", object.name)),
            Some(_) => None,
        })
    }

    /// A reference to it, as later commits carry it.
    pub fn reference(&self) -> Option<Reference> {
        let commit = self.verified()?;
        Some(Reference { id: commit.id.clone(), sha256: self.commit_sha256, life: Some(commit.life) })
    }
}

/// What later commits say about suspicious ones.
pub struct Doubts<'a> {
    accepted: HashSet<&'a SnapshotId>,
}

impl<'a> Doubts<'a> {
    /// What the commits that verify accept.
    pub fn of(found: &'a [Found]) -> Doubts<'a> {
        Doubts { accepted: found.iter().filter_map(Found::verified).flat_map(|c| &c.accept).collect() }
    }

    /// Whether a commit carries a mark that nobody has answered.
    pub fn about(&self, commit: &Commit) -> bool {
        commit.suspicious.is_some_and(|n| n > 0) && !self.accepted.contains(&commit.id)
    }
}

/// All archives of a series, by time of their ids, judged by who signs for it.
///
/// # Errors
/// When the store cannot be listed or read.
pub fn load(store: &Store, series: &str, signers: Option<&Signers>) -> Result<Vec<Found>> {
    let places = listed(store, series)?;
    let mut out: Vec<Found> =
        places.into_values().map(|(place, objects)| judge(store, signers, place, objects)).collect::<Result<_>>()?;
    // Within a second ids are random, and only the signed numbers know.
    out.sort_by(|a, b| {
        let key = |f: &Found| (f.place.id.unix_seconds(), seq(f));
        key(a)
            .cmp(&key(b))
            .then_with(|| (&a.place.id, a.place.archive.word()).cmp(&(&b.place.id, b.place.archive.word())))
    });
    Ok(out)
}

/// All archives of a series by directory, as they are listed: nothing of them is read.
///
/// # Errors
/// When the store cannot be listed.
pub fn listed(store: &Store, series: &str) -> Result<BTreeMap<String, Listed>> {
    let mut directories: Vec<String> = store.list_directories("state")?;
    directories.iter_mut().for_each(|tier| *tier = format!("{tier}/{series}"));
    directories.push(format!("secrets/{series}"));
    directories.push(format!("{SECRETS_PINNED}/{series}"));
    let mut places: BTreeMap<String, Listed> = BTreeMap::new();
    for directory in directories {
        for listed in store.list(&directory)? {
            if let Some((place, name)) = Place::parse(&listed.key).filter(|(p, _)| p.series == series) {
                let entry = places.entry(place.directory()).or_insert_with(|| (place.clone(), BTreeMap::new()));
                entry.1.insert(name.to_owned(), listed.size);
            }
        }
    }
    Ok(places)
}

/// One archive, judged by its commit and signature alone; its objects are not listed.
///
/// # Errors
/// When the store cannot be read.
pub fn look_at(store: &Store, signers: &Signers, place: Place) -> Result<Found> {
    judge(store, Some(signers), place, BTreeMap::new())
}

/// One archive, judged by its commit and signature, with its objects as they were listed.
///
/// # Errors
/// When the store cannot be read.
pub fn judge(store: &Store, signers: Option<&Signers>, place: Place, objects: BTreeMap<String, u64>) -> Result<Found> {
    let (standing, none) = (Standing::Incomplete, [0; 32]);
    let mut found = Found { place, standing, commit_sha256: none, signature_sha256: none, objects };
    let Some(bytes) = store.get_if_there(&found.place.object(COMMIT), COMMIT_BYTES_MAX)? else { return Ok(found) };
    found.commit_sha256 = sha256(&bytes);
    let signature = store.get_if_there(&found.place.object(SIGNATURE), SIGNATURE_BYTES_MAX)?;
    found.signature_sha256 = signature.as_deref().map_or(none, sha256);
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::damaged("the commit is not text"));
    let commit = text.as_ref().map_err(clone_error).and_then(|t| Commit::parse(t));
    let verdict = check(&found.place, signers, &bytes, signature.as_deref(), commit.as_ref());
    found.standing = match (verdict, commit) {
        (Ok(()), Ok(commit)) => Standing::Verified(Box::new(commit)),
        (Err(why), commit) => Standing::Unverified { why, commit: commit.ok().map(Box::new) },
        (Ok(()), Err(why)) => Standing::Unverified { why, commit: None },
    };
    Ok(found)
}

fn clone_error(e: &Error) -> Error {
    let error = Error::new(e.kind(), e.to_string());
    match e.advice() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn check(
    place: &Place,
    signers: Option<&Signers>,
    bytes: &[u8],
    signature: Option<&[u8]>,
    commit: Result<&Commit, &Error>,
) -> Result<()> {
    let signers = signers.ok_or_else(|| Error::damaged("there is no key to check its signature with"))?;
    let signature = signature.ok_or_else(|| Error::damaged("it is not signed"))?;
    let signature = std::str::from_utf8(signature).map_err(|_| Error::damaged("its signature is malformed"))?;
    // The comment is that of the place: a commit that was moved fails here even before its text is read.
    let key = signers.signer_of(bytes, signature, &Commit::trusted_comment(&place.series, &place.id))?;
    let commit = commit.map_err(clone_error)?;
    signers.check_turn(key, commit.seq)?;
    commit.check_place(place)
}

/// What orders archives, as their commits say.
pub fn seq(found: &Found) -> u64 {
    match &found.standing {
        Standing::Verified(commit) => commit.seq,
        Standing::Unverified { commit, .. } => commit.as_ref().map_or(0, |c| c.seq),
        Standing::Incomplete => 0,
    }
}

/// References of verified commits that lead nowhere though their objects must still live: somebody hid something.
pub fn hidden(found: &[Found], now: i64) -> Vec<String> {
    let mut out = Vec::new();
    for commit in found.iter().filter_map(Found::verified) {
        let prev = commit.prev.as_ref().map(|r| (r, commit.archive));
        let bundle = commit.bundle.as_ref().map(|r| (r, Archive::Secrets));
        let parent = commit.parent.as_ref().map(|r| (r, Archive::State));
        for (reference, archive) in [prev, bundle, parent].into_iter().flatten() {
            let there = found.iter().filter(|f| f.place.archive == archive && f.place.id == reference.id);
            let mut there = there.filter(|f| f.verified().is_some()).peekable();
            let life = i64::try_from(reference.life.unwrap_or(commit.life)).unwrap_or(i64::MAX);
            let ends = reference.id.unix_seconds().saturating_add(life.saturating_mul(DAY_SECONDS));
            let problem = match there.peek() {
                None if now < ends => "is not there though its time is not over",
                Some(f) if f.commit_sha256 != reference.sha256 => "is another one than the signed chain names",
                _ => continue,
            };
            let text = format!("{} {} {problem}, says {}", archive.name(), reference.id, commit.id);
            if !out.contains(&text) {
                out.push(text);
            }
        }
    }
    out
}

/// The highest seq and the newest archives, for a host that lost its catalog.
pub fn newest(found: &[Found], archive: Archive) -> Option<&Found> {
    found.iter().filter(|f| f.place.archive == archive && f.verified().is_some()).max_by_key(|f| seq(f))
}

/// Whether an error means that an object is damaged, rather than that it could not be reached.
pub fn is_damage(e: &Error) -> bool {
    e.kind() == Kind::Damaged
}
