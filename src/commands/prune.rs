//! `lifeboat prune`: removes what is past its life from a store without a lifecycle of its own.

use std::collections::HashSet;

use serde::Serialize;

use super::session::{Configured, configuration, open_catalog};
use super::signing::{follow, in_force, signing};
use super::snapshots::{self, Doubts, Found, Standing};
use super::write_archive::settle;
use super::{Event, Events, Report, bytes_text, count_text, hand_over};
use crate::error::{Error, Result};
use crate::host::store::{Access, Store};
use crate::host::world::{Lock, World};
use crate::model::chain::Link;
use crate::model::config::Config;
use crate::model::path::printable;
use crate::model::prune::{self, Held, Question};
use crate::model::store_key::{Archive, COMMIT, MANIFEST, SIGNATURE, SnapshotId};
use crate::stream::signers::Signers;

/// What `prune` was asked to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Args {
    /// Tell what would be removed, and remove nothing.
    pub dry_run: bool,
    /// Trust the clock, even if it moved.
    pub yes: bool,
}

/// One archive that was removed, or would be.
#[derive(Debug, Serialize)]
pub struct Gone {
    /// `state` or `secrets`.
    pub archive: &'static str,
    /// The snapshot's id.
    pub id: String,
    /// The tier, of a state archive.
    pub tier: Option<String>,
    /// Whether it was only what an interrupted run left.
    pub remains: bool,
    /// Bytes on the store.
    pub stored: u64,
}

/// One archive that is past its life and may not be removed.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// Where it stands.
    pub place: String,
    /// Why it stays.
    pub why: String,
}

/// What `prune` did.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// Nothing was removed.
    pub dry_run: bool,
    /// What was removed, in this order.
    pub removed: Vec<Gone>,
    /// Bytes that it had on the store.
    pub bytes: u64,
    /// What the store did not let go, such as what a bucket locks.
    pub refused: Vec<Refused>,
    /// Archives that are left.
    pub left: usize,
    /// How many more may go once the clock is witnessed.
    pub waiting: usize,
    /// Archives that do not verify, which are left alone.
    pub unverified: usize,
}

impl Done {
    /// What a run that pruned by the way says of what was refused.
    pub(super) fn warning(&self) -> Option<String> {
        let first = self.refused.first()?;
        let n = count_text(self.refused.len() as u64, "archive");
        Some(format!("{n} past their life could not be removed from {}: {}: {}", self.store, first.place, first.why))
    }
}

impl Report for Done {
    fn text(&self) -> String {
        let would = if self.dry_run { "would remove" } else { "removed" };
        let mut out = String::new();
        for gone in &self.removed {
            let kind = if gone.remains { "remains" } else { gone.tier.as_deref().unwrap_or("") };
            let Gone { archive, id, stored, .. } = gone;
            out.push_str(&format!("{would} {archive:<8}{id}  {kind:<8} {:>11}\n", bytes_text(*stored)));
        }
        let left = count_text(self.left as u64, "archive");
        match self.removed.len() as u64 {
            0 => out.push_str(&format!("nothing to remove; {left} there\n")),
            n => {
                let (n, bytes) = (count_text(n, "archive"), bytes_text(self.bytes));
                out.push_str(&format!("{would} {n}, {bytes}; {left} left\n"));
            }
        }
        if self.waiting > 0 {
            out.push_str(&format!(
                "{} past their life by the clock, which moved by more than two days between two runs:\n\
                 they go once there are snapshots on three later days, or now with --yes if the clock is right\n",
                count_text(self.waiting as u64, "archive")
            ));
        }
        if self.unverified > 0 {
            let n = count_text(self.unverified as u64, "archive");
            out.push_str(&format!("{n} that did not verify: left alone, `lifeboat list` says why\n"));
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        self.refused.iter().map(|r| format!("past its life and not removed: {}: {}", r.place, r.why)).collect()
    }
}

/// Removes what is past its life.
///
/// # Errors
/// When there is no configuration or no store, another run holds the lock, or something cannot be removed. What was
/// removed until then is gone whole or looks like an interrupted run; the next `prune` goes on.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let Some(Configured { config, file }) = configuration(world)? else {
        return Err(Error::not_there("there is no configuration here").hint("`lifeboat init` makes one"));
    };
    let store = Store::open(world, &config.store, Access::Existing)?;
    let _lock = if args.dry_run { None } else { Some(Lock::take(&world.state_dir(&config.name))?) };
    if !args.dry_run {
        // What is signed and not yet committed looks like remains, and is finished first.
        let catalog = open_catalog(world, &config.name)?;
        hand_over::settle(world, &config, &file, &store, &catalog, events)?;
        settle(world, &config.name, &store, &catalog, events)?;
    }
    let own = signing(world, &file)?;
    events(Event::Phase("looking at the store"));
    let signers = match args.dry_run {
        true => follow(&store, &config.name, own.signers)?.signers,
        false => in_force(&store, &config.name, &own)?,
    };
    prune(world, &store, &config, &signers, Request { args: *args, began: i64::MAX })
}

/// The same after a backup that began at `now`, in Unix seconds, and holds the lock: for a store on the local disk.
/// What the backup itself wrote does not yet stand for the newest good chain.
///
/// # Errors
/// As [`run`].
pub fn after_backup(world: &World, store: &Store, config: &Config, signers: &Signers, now: i64) -> Result<Done> {
    prune(world, store, config, signers, Request { args: Args::default(), began: now })
}

/// What is asked, and since when.
struct Request {
    args: Args,
    /// When the run began that asks, in Unix seconds.
    began: i64,
}

fn prune(world: &World, store: &Store, config: &Config, signers: &Signers, request: Request) -> Result<Done> {
    let all = snapshots::load(store, &config.name, Some(signers))?;
    let total = all.len();
    let doubts = Doubts::of(&all);
    let judged = all.iter().filter_map(|found| Some((found, held(found, &doubts)?)));
    let (ours, held): (Vec<&Found>, Vec<Held>) = judged.unzip();
    let Request { args, began } = request;
    let plan = prune::plan(&Question { held: &held, now: world.now(), began, clock_is_right: args.yes });
    let (mut removed, mut refused) = (Vec::new(), Vec::new());
    // What somebody that stays leans on stays, too.
    let mut needed: HashSet<&SnapshotId> = HashSet::new();
    for index in plan.remove {
        let found = ours[index];
        world.check_stop()?;
        if let Some(why) = stays(store, found, &needed, args.dry_run)? {
            needed.extend(&found.place.parent);
            refused.push(Refused { place: found.place.directory(), why });
            continue;
        }
        removed.push(Gone {
            archive: found.place.archive.word(),
            id: found.place.id.to_string(),
            tier: found.place.tier.clone(),
            remains: matches!(found.standing, Standing::Incomplete),
            stored: found.objects.values().sum(),
        });
    }
    Ok(Done {
        series: config.name.clone(),
        store: store.name(),
        dry_run: args.dry_run,
        bytes: removed.iter().map(|g| g.stored).sum(),
        left: total - removed.len(),
        waiting: plan.waiting,
        unverified: total - held.len(),
        removed,
        refused,
    })
}

/// Removes an archive, unless it has to stay; then why. A bucket may lock what is in it for a time.
fn stays(store: &Store, found: &Found, needed: &HashSet<&SnapshotId>, dry_run: bool) -> Result<Option<String>> {
    if found.place.archive == Archive::State && needed.contains(&found.place.id) {
        return Ok(Some("what leans on it stays".to_owned()));
    }
    if dry_run {
        return Ok(None);
    }
    match remove(store, found) {
        Ok(()) => Ok(None),
        Err(e) if Store::is_refusal(&e) => {
            let words: Vec<String> = std::iter::once(e.to_string()).chain(e.causes()).collect();
            Ok(Some(printable(words.join(": ").as_bytes())))
        }
        Err(e) => Err(e),
    }
}

/// What the plan has to know of an archive; `None` for one that does not verify.
fn held(found: &Found, doubts: &Doubts<'_>) -> Option<Held> {
    let (archive, pinned) = (found.place.archive, found.place.is_pinned());
    match &found.standing {
        Standing::Unverified { .. } => None,
        // A commit that was listed and then could not be found: somebody else is at work there.
        Standing::Incomplete if found.objects.contains_key(COMMIT) => None,
        Standing::Incomplete => {
            let link = Link { id: found.place.id.clone(), parent: None, seq: 0, life: 0, stored: 0 };
            Some(Held { archive, link, standing: prune::Standing::Remains, suspicious: false, pinned })
        }
        Standing::Verified(commit) => {
            let standing = match found.damage() {
                None => prune::Standing::Whole,
                Some(_) => prune::Standing::Damaged,
            };
            Some(Held { archive, link: Link::of(commit), standing, suspicious: doubts.about(commit), pinned })
        }
    }
}

/// Removes an archive: first its commit, so that what is left after a crash counts for nothing; then the rest.
///
/// # Errors
/// When something of it may not be deleted, or cannot.
pub(super) fn remove(store: &Store, found: &Found) -> Result<()> {
    let order = |name: &str| match name {
        COMMIT => 0,
        SIGNATURE => 1,
        MANIFEST => 2,
        _ => 3,
    };
    let mut names: Vec<&String> = found.objects.keys().collect();
    names.sort_by_key(|name| order(name));
    for name in names {
        store.delete(&found.place.object(name)).map_err(|e| match e.advice() {
            Some(_) => e,
            None => e.hint("what went before it is gone for good; `lifeboat prune` goes on where this ended"),
        })?;
    }
    Ok(())
}
