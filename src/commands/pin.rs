//! `lifeboat pin` and `unpin`: a snapshot with its chain and its bundle, copied to where no lifecycle removes anything.
//!
//! Each pinned copy is an archive like any other, found by id in every tier and there. A mark beside the copy of the
//! snapshot that was asked for tells it from those that are only leaned on, so that chains which two share stay while one
//! needs them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::catch_up::Archived;
use super::prune;
use super::snapshots::{self, Found, Standing, Wanted, choose};
use super::transfer::Way;
use super::whereabouts::{self, Told, Whereabouts};
use super::{Event, Events, Report, bytes_text, count_text};
use crate::error::{Error, Kind, Result};
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::commit::Reference;
use crate::model::path::printable;
use crate::model::store_key::{Archive, PIN, PINNED, Place, SnapshotId};

/// What the mark of a pinned snapshot holds. Its name is what counts.
const MARK: &str = "# lifeboat pin 1\n";
/// Seconds in a day.
const DAY_SECONDS: i64 = 86_400;

/// What `pin` and `unpin` were asked to do.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which snapshot.
    pub snapshot: String,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub name: Option<String>,
    /// The recovery kit, for its public key.
    pub identity: Option<PathBuf>,
    /// The public key itself, or a file with it.
    pub key: Option<String>,
}

/// What `pin` did.
#[derive(Debug, Serialize)]
pub struct Pinned {
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// The snapshot.
    pub id: String,
    /// What was copied: the bundle, then the chain from its full on.
    pub archives: Vec<Archived>,
    /// Bytes of it.
    pub bytes: u64,
    /// Archives that were pinned already, by this snapshot or another one.
    pub already: u64,
    /// Why its secrets are not pinned with it.
    pub without_bundle: Option<String>,
    /// Whether the bundle should be there.
    #[serde(skip)]
    lost: bool,
}

impl Report for Pinned {
    fn text(&self) -> String {
        let Pinned { id, series, store, already, .. } = self;
        let mut out = String::new();
        for archive in &self.archives {
            out.push_str(&format!("copied {} {:>11}\n", archive.place, bytes_text(archive.bytes)));
        }
        let (n, bytes) = (count_text(self.archives.len() as u64, "archive"), bytes_text(self.bytes));
        let there = if *already > 0 { format!(", {already} pinned already") } else { String::new() };
        out.push_str(&format!("pinned {id} of {series} on {store}: {n}, {bytes}{there}\n"));
        if let Some(why) = self.without_bundle.as_ref().filter(|_| !self.lost) {
            out.push_str(&format!("without secrets: {why}\n"));
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        self.without_bundle.iter().filter(|_| self.lost).map(|why| format!("pinned without secrets: {why}")).collect()
    }
}

/// What `unpin` did.
#[derive(Debug, Serialize)]
pub struct Unpinned {
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// The snapshot.
    pub id: String,
    /// The directories that were removed, in this order.
    pub removed: Vec<String>,
    /// Those of its chain that stay, each with the reason.
    pub kept: Vec<String>,
}

impl Report for Unpinned {
    fn text(&self) -> String {
        let mut out: String = self.removed.iter().map(|place| format!("removed {place}\n")).collect();
        out.extend(self.kept.iter().map(|line| format!("kept {line}\n")));
        out.push_str(&format!("{} of {} is not pinned any more\n", self.id, self.series));
        out
    }
}

/// A series on a store, judged.
struct Series {
    place: Whereabouts,
    name: String,
    found: Vec<Found>,
}

fn series(world: &World, args: &Args) -> Result<Series> {
    let told = Told {
        identity: args.identity.as_deref(),
        store: args.store.as_deref(),
        name: args.name.as_deref(),
        key: args.key.as_deref(),
    };
    let place = whereabouts::find(world, told)?;
    let name = place.series()?.to_owned();
    let found = snapshots::load(&place.store, &name, Some(place.key()?))?;
    Ok(Series { place, name, found })
}

/// Pins a snapshot.
///
/// # Errors
/// When it does not verify, is damaged or has expired, or the store cannot be read or written. What was copied until then
/// stays, and the next `pin` goes on.
pub fn pin(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Pinned> {
    let wanted = Wanted::parse(&args.snapshot, world.now())?;
    let series = series(world, args)?;
    let choice = choose(&series.found, Archive::State, &wanted, false, world.now())?;
    choice.skipped.iter().for_each(|line| events(Event::Warning(line.clone())));
    events(Event::Phase("pinning"));
    keep(world, &series.place.store, &series.found, &choice.chain, events)
}

/// Pins the first of a chain that verifies, whose members are among `found`.
///
/// # Errors
/// As [`pin`].
pub fn keep(
    world: &World,
    store: &Store,
    found: &[Found],
    chain: &[&Found],
    events: &mut Events<'_>,
) -> Result<Pinned> {
    let first = chain.first().ok_or_else(|| Error::failed("there is no snapshot to be pinned"))?;
    let commit =
        first.verified().ok_or_else(|| Error::damaged(format!("{} does not verify", first.place.directory())))?;
    let mut done = Pinned {
        series: commit.series.clone(),
        store: store.name(),
        id: commit.id.to_string(),
        archives: Vec::new(),
        bytes: 0,
        already: 0,
        without_bundle: None,
        lost: false,
    };
    let bundle = match commit.bundle.as_ref().map(|named| bundle(found, named, world.now())) {
        Some(Err((lost, why))) => {
            (done.lost, done.without_bundle) = (lost, Some(why));
            None
        }
        other => other.and_then(std::result::Result::ok),
    };
    let way = Way { world, from: store, to: store, listable: true };
    let total: u64 = bundle.iter().chain(chain).filter_map(|f| f.verified()).map(|c| c.stored_bytes()).sum();
    let mut bytes = 0;
    for one in bundle.into_iter().chain(chain.iter().rev().copied()) {
        let at = pinned(&one.place);
        let there = there(found, one, &at)?;
        let sent = way.send(one, &at, &there, &mut |n| {
            bytes += n;
            events(Event::Progress { files: 0, files_total: 0, bytes, bytes_total: total });
        })?;
        if sent.objects == 0 {
            done.already += 1;
            continue;
        }
        done.bytes += sent.bytes;
        let (archive, id) = (at.archive.word(), at.id.to_string());
        done.archives.push(Archived { place: at.directory(), archive, id, bytes: sent.bytes });
    }
    store.put_if_absent(&pinned(&first.place).object(PIN), MARK)?;
    // From here on nobody who looks takes away what it leans on; whoever had looked before may have.
    for one in bundle.into_iter().chain(chain.iter().copied()) {
        way.has_arrived(one, &pinned(&one.place))?;
    }
    Ok(done)
}

/// Whether a snapshot was pinned on a store; `None` where the credential may not look.
///
/// # Errors
/// When the store cannot be listed.
pub fn is_pinned(store: &Store, series: &str, id: &SnapshotId) -> Result<Option<bool>> {
    let listed = match store.list(&format!("state/{PINNED}/{series}")) {
        Err(e) if Store::is_refusal(&e) => return Ok(None),
        listed => listed?,
    };
    let is_mark = |key: &str| Place::parse(key).is_some_and(|(place, name)| name == PIN && place.id == *id);
    Ok(Some(listed.iter().any(|l| is_mark(&l.key))))
}

/// Where the pinned copy of an archive stands.
fn pinned(place: &Place) -> Place {
    Place { tier: Some(PINNED.to_owned()), ..place.clone() }
}

/// What stands where an archive is pinned, with sizes.
fn there(found: &[Found], one: &Found, at: &Place) -> Result<BTreeMap<String, u64>> {
    let Some(there) = found.iter().find(|f| f.place == *at) else { return Ok(BTreeMap::new()) };
    let other = match &there.standing {
        Standing::Unverified { .. } => true,
        Standing::Verified(_) => there.commit_sha256 != one.commit_sha256,
        Standing::Incomplete => false,
    };
    if other {
        return Err(Error::damaged(format!("{} is there and is not what would be pinned", at.directory()))
            .hint("`lifeboat verify --all` says what is wrong with it; remove it, and pin again"));
    }
    Ok(there.objects.clone())
}

/// The bundle that a commit names; else whether it should be there, and why it is not pinned.
fn bundle<'a>(found: &'a [Found], named: &Reference, now: i64) -> std::result::Result<&'a Found, (bool, String)> {
    let same = |f: &&Found| f.place.archive == Archive::Secrets && f.place.id == named.id;
    let there = found.iter().filter(same).filter(|f| f.verified().is_some() && f.commit_sha256 == named.sha256);
    let best = there.max_by_key(|f| (f.damage().is_none(), !f.place.is_pinned()));
    let life = i64::try_from(named.life.unwrap_or(0)).unwrap_or(i64::MAX);
    let over = named.id.unix_seconds().saturating_add(life.saturating_mul(DAY_SECONDS)) <= now;
    match best {
        None if over => Err((false, format!("the bundle {} that it names is past its life", named.id))),
        None => Err((true, format!("the bundle {} that it names is not on the store", named.id))),
        Some(found) => match found.damage() {
            Some(damage) => Err((true, format!("the bundle {} that it names is damaged: {damage}", named.id))),
            None => Ok(found),
        },
    }
}

/// Takes a pin away, with what nothing else that is pinned leans on.
///
/// # Errors
/// [`Kind::NotThere`] when it is not pinned; when the store cannot be read or the credential may not delete. What was
/// removed until then is gone whole or looks like an interrupted run; the next `unpin` goes on.
pub fn unpin(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Unpinned> {
    let wanted = Wanted::parse(&args.snapshot, world.now())?;
    let Series { place, name, found } = series(world, args)?;
    events(Event::Phase("unpinning"));
    let copies: Vec<&Found> =
        found.iter().filter(|f| f.place.archive == Archive::State && f.place.is_pinned()).collect();
    let first = named(&copies, &wanted, &args.snapshot)?;
    let mut done = Unpinned {
        series: name,
        store: place.store.name(),
        id: first.place.id.to_string(),
        removed: Vec::new(),
        kept: Vec::new(),
    };
    let asked_for = |f: &Found| f.objects.contains_key(PIN);
    // By name, whatever they are worth: what may be leaned on is not removed.
    let leans = |id: &SnapshotId, gone: &[&Found]| {
        let left = copies.iter().filter(|c| !gone.iter().any(|g| g.place == c.place));
        left.into_iter().find(|c| c.place.parent.as_ref() == Some(id)).map(|c| c.place.id.clone())
    };
    if let Some(child) = leans(&first.place.id, &[]) {
        if !asked_for(first) {
            return Err(Error::not_there(format!("{} was not pinned itself: {child} leans on it", first.place.id))
                .hint(format!("`lifeboat unpin {child}` removes both, unless something else needs them")));
        }
        delete(&place.store, &first.place.object(PIN))?;
        done.kept.push(format!("{}: {child} leans on it", first.place.directory()));
        return Ok(done);
    }
    let mut gone: Vec<&Found> = vec![first];
    let mut child = first;
    while let Some(parent) = child.place.parent.as_ref().and_then(|id| copies.iter().find(|c| c.place.id == *id)) {
        let other = leans(&parent.place.id, &gone);
        if asked_for(parent) || other.is_some() || gone.iter().any(|g| g.place == parent.place) {
            let why = other.map_or("it is pinned itself".to_owned(), |other| format!("{other} leans on it"));
            done.kept.push(format!("{}: {why}", parent.place.directory()));
            break;
        }
        gone.push(parent);
        child = parent;
    }
    // Bundles go first, as only the commits that name them know which they are.
    let left: Vec<&&Found> = copies.iter().filter(|c| !gone.iter().any(|g| g.place == c.place)).collect();
    let bundles = found.iter().filter(|f| f.place.archive == Archive::Secrets && f.place.is_pinned());
    for bundle in bundles.filter(|b| gone.iter().any(|g| names(g, b))) {
        // One that does not verify may name anything.
        let needed = left.iter().find(|c| names(c, bundle) || c.verified().is_none());
        match needed {
            Some(other) => done.kept.push(format!("{}: {} may need it", bundle.place.directory(), other.place.id)),
            None => remove(&place.store, bundle, &mut done)?,
        }
    }
    for one in gone {
        remove(&place.store, one, &mut done)?;
    }
    Ok(done)
}

fn names(state: &Found, bundle: &Found) -> bool {
    let named = state.verified().and_then(|c| c.bundle.as_ref());
    named.is_some_and(|named| named.id == bundle.place.id)
}

/// The pinned snapshot that a person means.
fn named<'a>(copies: &[&'a Found], wanted: &Wanted, text: &str) -> Result<&'a Found> {
    let mut matching: Vec<&Found> = copies.iter().copied().filter(|f| wanted.matches(&f.place.id)).collect();
    matching.sort_by_key(|f| (snapshots::seq(f), f.place.id.clone()));
    let text = printable(text.as_bytes());
    match (wanted, &matching[..]) {
        (_, []) => Err(Error::not_there(format!("no snapshot that is pinned matches `{text}`"))
            .hint("`lifeboat list` shows which are pinned")),
        (Wanted::Id(_), [_, _, ..]) => {
            Err(Error::usage(format!("`{text}` is the beginning of {} ids", matching.len()))
                .hint("write more of it; `lifeboat list` shows the ids"))
        }
        (_, [.., last]) => Ok(last),
    }
}

fn remove(store: &Store, found: &Found, done: &mut Unpinned) -> Result<()> {
    prune::remove(store, found).map_err(may_not)?;
    done.removed.push(found.place.directory());
    Ok(())
}

fn delete(store: &Store, key: &str) -> Result<()> {
    store.delete(key).map_err(may_not)
}

/// Adds to a refusal what `unpin` needs.
fn may_not(e: Error) -> Error {
    if !Store::is_refusal(&e) {
        return e;
    }
    Error::new(Kind::Failed, "this credential may not delete, and unpin has to")
        .because(e)
        .hint("run it where the store's owner is; what is locked by the bucket can go when its time is over")
}
