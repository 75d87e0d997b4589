//! What is on the store, judged: which commits verify, what is incomplete, what somebody tampered with.

use std::collections::{BTreeMap, HashSet};

use super::session::sha256;
use crate::error::{Error, Kind, Result};
use crate::host::store::Store;
use crate::model::commit::{COMMIT_BYTES_MAX, Commit, Reference, SIGNATURE_BYTES_MAX};
use crate::model::path::printable;
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

/// Which archive a person means by `SNAPSHOT`.
#[derive(Clone)]
pub enum Wanted {
    /// The newest that verifies.
    Latest,
    /// An id, or the beginning of one.
    Id(String),
    /// The newest at or before a moment, in Unix seconds.
    Before(i64),
}

impl Wanted {
    /// Understands `latest`, an id or the beginning of one, a date, a time, and `3 days ago`.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it is none of them.
    pub fn parse(text: &str, now: i64) -> Result<Wanted> {
        let text = text.trim();
        if text == "latest" {
            return Ok(Wanted::Latest);
        }
        let id_like = text.len() >= 4
            && text.bytes().all(|b| b.is_ascii_digit() || b"TZ-abcdef".contains(&b))
            && text.bytes().take(8).all(|b| b.is_ascii_digit());
        if id_like {
            return Ok(Wanted::Id(text.to_owned()));
        }
        if let Some(seconds) = parse_time(text, now) {
            return Ok(Wanted::Before(seconds));
        }
        Err(Error::usage(format!("`{}` names no snapshot", printable(text.as_bytes())))
            .hint("name an id, the beginning of one, `latest`, a date as 2026-11-20, or \"3 days ago\""))
    }
}

impl Wanted {
    /// Whether an archive may be the one that is meant, by its id alone.
    pub fn matches(&self, id: &SnapshotId) -> bool {
        match self {
            Wanted::Latest => true,
            Wanted::Id(text) => id.as_str().starts_with(text.as_str()),
            Wanted::Before(time) => id.unix_seconds() <= *time,
        }
    }
}

/// A date means its last second, so that `2026-11-20` finds what was made on that day. Without a zone it is UTC.
fn parse_time(text: &str, now: i64) -> Option<i64> {
    if let Ok(date) = text.parse::<jiff::civil::Date>().and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC)) {
        return Some(date.timestamp().as_second() + DAY_SECONDS - 1);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_second());
    }
    if let Ok(time) = text.parse::<jiff::civil::DateTime>().and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC)) {
        return Some(time.timestamp().as_second());
    }
    let mut words = text.split_whitespace();
    let (number, unit, ago) = (words.next()?, words.next()?, words.next()?);
    let unit = match unit.trim_end_matches('s') {
        "minute" => 60,
        "hour" => 3600,
        "day" => DAY_SECONDS,
        "week" => 7 * DAY_SECONDS,
        "month" => 30 * DAY_SECONDS,
        "year" => 365 * DAY_SECONDS,
        _ => return None,
    };
    let number: i64 = number.parse().ok().filter(|n| *n >= 0)?;
    (ago == "ago" && words.next().is_none()).then(|| now.saturating_sub(number.saturating_mul(unit)))
}

/// What was chosen to be restored.
pub struct Choice<'a> {
    /// The archive, its parent, and so on to a full.
    pub chain: Vec<&'a Found>,
    /// Newer snapshots that were passed over since their chains are broken, one sentence each.
    pub skipped: Vec<String>,
}

/// Chooses an archive and its chain. Without `allow_unsigned` only verified ones count. A snapshot whose chain is broken
/// is passed over, unless it was named.
///
/// # Errors
/// [`Kind::NotThere`] when there is none, or one that was named has expired, [`Kind::Damaged`] when there are only ones
/// that do not verify or whose chain is broken, [`Kind::Usage`] when an abbreviation is ambiguous.
pub fn choose<'a>(
    found: &'a [Found],
    archive: Archive,
    wanted: &Wanted,
    allow_unsigned: bool,
    now: i64,
) -> Result<Choice<'a>> {
    choose_among(found, archive, wanted, allow_unsigned, now, &|_| true)
}

/// The same among state archives that nobody doubts. A chain may still have members that were doubted.
///
/// # Errors
/// As [`choose`], and [`Kind::NotThere`] when all that is meant is doubted.
pub fn choose_good<'a>(found: &'a [Found], wanted: &Wanted, allow_unsigned: bool, now: i64) -> Result<Choice<'a>> {
    let doubts = Doubts::of(found);
    let is_good = |f: &Found| f.usable(allow_unsigned).is_some_and(|commit| !doubts.about(commit));
    choose_among(found, Archive::State, wanted, allow_unsigned, now, &is_good)
}

fn choose_among<'a>(
    found: &'a [Found],
    archive: Archive,
    wanted: &Wanted,
    allow_unsigned: bool,
    now: i64,
    is_good: &dyn Fn(&Found) -> bool,
) -> Result<Choice<'a>> {
    let of_kind: Vec<&Found> = found.iter().filter(|f| f.place.archive == archive).collect();
    let matching: Vec<&Found> = of_kind.iter().copied().filter(|f| wanted.matches(&f.place.id)).collect();
    let mut candidates: Vec<&Found> = matching.iter().copied().filter(|f| f.usable(allow_unsigned).is_some()).collect();
    let there = candidates.len();
    candidates.retain(|f| is_good(f));
    if candidates.is_empty() && there > 0 {
        return Err(Error::not_there("all that was asked for is marked as suspicious")
            .hint("leave out --good to take it all the same; `lifeboat list` shows which are marked"));
    }
    // Pinned copies are the same snapshot once more, and anybody can put one beside it that lacks its volumes.
    candidates.sort_by_key(|f| (seq(f), f.place.id.clone(), f.damage().is_none(), !f.place.is_pinned()));
    if let Wanted::Id(text) = wanted {
        let mut ids: Vec<&SnapshotId> = candidates.iter().map(|f| &f.place.id).collect();
        ids.dedup();
        if ids.len() > 1 {
            return Err(Error::usage(format!("`{text}` is the beginning of {} ids", ids.len()))
                .hint("write more of it; `lifeboat list` shows the ids"));
        }
    }
    let mut skipped: Vec<String> = Vec::new();
    let mut broken: Option<Broken> = None;
    let mut lost: Vec<SnapshotId> = Vec::new();
    for candidate in candidates.into_iter().rev() {
        if lost.contains(&candidate.place.id) {
            // What others need and is damaged has been named.
            continue;
        }
        match chain(found, candidate, allow_unsigned, now) {
            Ok(chain) => return Ok(Choice { chain, skipped }),
            Err(why) => {
                let line = why.line();
                if !skipped.contains(&line) {
                    skipped.push(line);
                }
                lost.push(why.needs.clone());
                broken.get_or_insert(why);
            }
        }
    }
    Err(broken.map_or_else(|| none(&matching, of_kind.len(), archive), |broken| broken.error()))
}

/// A chain that lacks a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The snapshot.
    pub id: SnapshotId,
    /// The archive that it needs.
    pub needs: SnapshotId,
    /// What is wrong with that.
    pub why: String,
    /// Whether its time is over, so that nothing but age is to blame.
    pub expired: bool,
}

impl Broken {
    /// Why the snapshot is passed over.
    fn line(&self) -> String {
        let Broken { id, needs, why, expired } = self;
        let word = if *expired { "expired" } else { "damaged" };
        format!("snapshot {id} is skipped as {word}: it needs {needs}, which {why}")
    }

    fn error(&self) -> Error {
        let Broken { id, needs, why, expired } = self;
        if *expired {
            return Error::not_there(format!("snapshot {id} has expired: it needs {needs}, which {why}"))
                .hint("`lifeboat list` shows what can be restored");
        }
        Error::damaged(format!("snapshot {id} cannot be restored: it needs {needs}, which {why}"))
            .hint("another snapshot may be whole: `lifeboat list` shows them")
    }
}

/// The chain of an archive: itself, its parent, and so on to a full.
///
/// # Errors
/// [`Broken`], naming the first member that is not there or is not the one that its child names.
pub fn chain<'a>(
    found: &'a [Found],
    first: &'a Found,
    allow_unsigned: bool,
    now: i64,
) -> std::result::Result<Vec<&'a Found>, Broken> {
    let mut out = vec![first];
    let mut child = first;
    while let Some(parent) = child.usable(allow_unsigned).and_then(|c| c.parent.as_ref()) {
        let broken =
            |why: String, expired| Broken { id: first.place.id.clone(), needs: parent.id.clone(), why, expired };
        let damage = |why: &str| Err(broken(why.to_owned(), false));
        let same = |f: &&Found| f.place.archive == first.place.archive && f.place.id == parent.id;
        let there: Vec<&Found> = found.iter().filter(same).collect();
        let usable = there.iter().copied().filter(|f| f.usable(allow_unsigned).is_some());
        let named: Vec<&Found> = usable.clone().filter(|f| f.commit_sha256 == parent.sha256).collect();
        // A pinned copy is as good as the original, and may outlive it.
        let best =
            named.into_iter().max_by_key(|f| (f.damage().is_none(), f.verified().is_some(), !f.place.is_pinned()));
        let Some(best) = best else {
            if usable.count() > 0 {
                return damage("is another one on the store than the one it was made on");
            }
            if there.iter().any(|f| matches!(f.standing, Standing::Unverified { .. })) {
                return damage("does not verify");
            }
            let ends = ends_of(found, parent, child, allow_unsigned);
            let text = if ends <= now { "is past the end of its life" } else { "is not in the store" };
            return Err(broken(text.to_owned(), ends <= now));
        };
        if seq(best) >= seq(child) {
            return damage("says that it is the newer one of the two");
        }
        if let Some(damage) = best.damage() {
            return Err(broken(format!("is damaged: {damage}"), false));
        }
        out.push(best);
        child = best;
    }
    Ok(out)
}

/// When the life of an archive that is not there was over, in Unix seconds: as the archive after it says, else that of
/// its child, which does not live longer.
fn ends_of(found: &[Found], gone: &Reference, child: &Found, allow_unsigned: bool) -> i64 {
    let commits = found.iter().filter_map(|f| f.usable(allow_unsigned));
    let said = commits.filter_map(|c| c.prev.as_ref()).find(|p| p.id == gone.id && p.sha256 == gone.sha256);
    let life = said.and_then(|p| p.life).or_else(|| child.usable(allow_unsigned).map(|c| c.life)).unwrap_or(0);
    let life = i64::try_from(life).unwrap_or(i64::MAX);
    gone.id.unix_seconds().saturating_add(life.saturating_mul(DAY_SECONDS))
}

/// What orders archives, as their commits say.
pub fn seq(found: &Found) -> u64 {
    match &found.standing {
        Standing::Verified(commit) => commit.seq,
        Standing::Unverified { commit, .. } => commit.as_ref().map_or(0, |c| c.seq),
        Standing::Incomplete => 0,
    }
}

/// Why nothing could be chosen.
fn none(matching: &[&Found], of_kind: usize, archive: Archive) -> Error {
    let unverified = matching.iter().find_map(|f| match &f.standing {
        Standing::Unverified { why, .. } => Some((f, why)),
        _ => None,
    });
    match unverified {
        Some((found, why)) => {
            let (name, dir) = (archive.name(), found.place.directory());
            let error = Error::new(why.kind(), format!("no {name} verifies: {dir} is not used, {why}"));
            error.hint(
                why.advice()
                    .unwrap_or("check that the kit belongs to this series; --allow-unsigned restores it all the same"),
            )
        }
        None if !matching.is_empty() => {
            Error::not_there(format!("the only {} there is was never finished", archive.name()))
        }
        None if of_kind > 0 => Error::not_there(format!("no {} matches what was asked for", archive.name()))
            .hint("`lifeboat list` shows the ids and times"),
        None => Error::not_there(format!("there is no {} on the store", archive.name()))
            .hint("`lifeboat list --all` shows every series that is there"),
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
