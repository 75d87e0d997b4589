//! Brings what another store holds of a series up to date: keys first, then archives in the order of their numbers, so
//! that parents come before children and bundles before what names them, then receipts of drills.
//!
//! Only what the other store lacks is looked at, so that a run after a snapshot asks little.

mod copied;
mod keys;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub use self::copied::{Archived, Copied, Skipped, Why};

use super::snapshots::{self, Found, Listed, Standing};
use super::transfer::{Sent, Way};
use super::{Event, Events, receipts};
use crate::error::{Kind, Result};
use crate::model::chain::Link;
use crate::model::config::Tier;
use crate::model::path::printable;
use crate::model::receipt;
use crate::model::store_key::{Archive, COMMIT, PIN, Place, SnapshotId};
use crate::model::tiers::keep_seconds;
use crate::stream::signers::Signers;

/// The largest mark of a pin, in bytes.
const PIN_BYTES_MAX: u64 = 4096;

/// A series that is to be brought up to date.
pub struct Series<'a> {
    /// From where to where.
    pub way: Way<'a>,
    /// The series.
    pub name: &'a str,
    /// The keys that its commits verify with.
    pub key: &'a Signers,
    /// Whether somebody other than the store vouches for the key.
    pub trusted: bool,
    /// Its tiers: past a tier's keep a broken chain is no damage.
    pub tiers: &'a [Tier],
    /// Only tell what would be copied.
    pub dry_run: bool,
}

/// What stands on both stores, by directory.
struct Sides {
    here: BTreeMap<String, Listed>,
    there: BTreeMap<String, Listed>,
}

impl Sides {
    /// Whether all that is here of an archive is there, too.
    fn is_there(&self, directory: &str) -> bool {
        let Some((_, there)) = self.there.get(directory) else { return false };
        let here = self.here.get(directory).map(|(_, objects)| objects);
        there.contains_key(COMMIT) && here.into_iter().flatten().all(|(name, size)| there.get(name) == Some(size))
    }

    /// State archives that children may lean on over there.
    fn parents(&self) -> HashSet<SnapshotId> {
        let whole = self.there.iter().filter(|(directory, _)| self.is_there(directory));
        whole.filter(|(_, (place, _))| place.archive == Archive::State).map(|(_, (p, _))| p.id.clone()).collect()
    }

    /// The objects of an archive over there, with their sizes.
    fn there(&self, place: &Place) -> BTreeMap<String, u64> {
        self.there.get(&place.directory()).map(|(_, objects)| objects.clone()).unwrap_or_default()
    }
}

impl Series<'_> {
    /// Copies what is not there. `known` are the directories of archives that are known to be there, for a store that may
    /// not be listed; `sent` is told of each that was committed.
    ///
    /// # Errors
    /// When a store cannot be read or written, or the other one has another series of this name. What is wrong with one
    /// archive alone is in the result.
    pub fn catch_up(
        &self,
        known: &BTreeSet<String>,
        sent: &mut dyn FnMut(&str) -> Result<()>,
        events: &mut Events<'_>,
    ) -> Result<Copied> {
        let mut done = Copied { series: self.name.to_owned(), ..Copied::default() };
        self.keys(known, &mut done, sent)?;
        let here = snapshots::listed(self.way.from, self.name)?;
        let there = if self.way.listable {
            snapshots::listed(self.way.to, self.name)?
        } else {
            here.iter().filter(|(dir, _)| known.contains(*dir)).map(|(d, l)| (d.clone(), l.clone())).collect()
        };
        done.present.extend(here.keys().cloned());
        let sides = Sides { here, there };
        self.archives(&sides, &mut done, sent, events)?;
        self.receipts(known, &mut done, sent)?;
        Ok(done)
    }

    fn archives(
        &self,
        sides: &Sides,
        done: &mut Copied,
        sent: &mut dyn FnMut(&str) -> Result<()>,
        events: &mut Events<'_>,
    ) -> Result<()> {
        let committed = |objects: &BTreeMap<String, u64>| objects.contains_key(COMMIT);
        done.incomplete = sides.here.values().filter(|(_, objects)| !committed(objects)).count() as u64;
        let here = sides.here.iter().filter(|(_, (_, objects))| committed(objects));
        let (there, lacking): (Vec<_>, Vec<_>) = here.partition(|(directory, _)| sides.is_there(directory));
        done.already = there.len() as u64;
        let lacking: BTreeSet<&str> = lacking.into_iter().map(|(directory, _)| directory.as_str()).collect();
        let found = self.judge(sides, &lacking)?;
        let mut order: Vec<&Found> = found.iter().filter(|f| lacking.contains(f.place.directory().as_str())).collect();
        order.sort_by_key(|f| (snapshots::seq(f), f.place.is_pinned(), f.place.id.clone()));
        let needed = self.needed(sides, &found);
        let mut parents = sides.parents();
        let total: u64 = order.iter().filter_map(|f| f.verified()).map(|c| c.stored_bytes()).sum();
        let mut bytes = 0;
        for (number, one) in order.iter().enumerate() {
            self.way.world.check_stop()?;
            if let Err((why, text)) = self.fit(&found, one, &needed, &parents) {
                done.skip(&one.place, why, text);
                continue;
            }
            let mut moved = |n: u64| {
                bytes += n;
                let (files, files_total) = (number as u64, order.len() as u64);
                events(Event::Progress { files, files_total, bytes, bytes_total: total });
            };
            let there = sides.there(&one.place);
            let sending = if self.dry_run {
                self.way.measure(one, &one.place, &there)
            } else {
                self.way.send(one, &one.place, &there, &mut moved)
            };
            match sending {
                // Whoever prunes the store may have been faster.
                Err(e) if e.kind() == Kind::Damaged && is_over(one, self.way.world.now()) => {
                    done.skip(&one.place, Why::Expired, printable(e.to_string().as_bytes()));
                }
                Err(e) => done.take(&one.place.directory(), e)?,
                Ok(put) => {
                    if one.place.archive == Archive::State {
                        parents.insert(one.place.id.clone());
                    }
                    self.sent(one, &there, put, done, sent)?;
                }
            }
        }
        Ok(())
    }

    fn sent(
        &self,
        one: &Found,
        there: &BTreeMap<String, u64>,
        put: Sent,
        done: &mut Copied,
        sent: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let place = one.place.directory();
        if one.objects.contains_key(PIN) && !there.contains_key(PIN) && !self.dry_run {
            let key = one.place.object(PIN);
            self.way.to.put_if_absent(&key, self.way.from.get(&key, PIN_BYTES_MAX)?)?;
        }
        if !self.dry_run {
            sent(&place)?;
        }
        if put.objects == 0 && there.contains_key(COMMIT) {
            done.already += 1;
            return Ok(());
        }
        done.bytes += put.bytes;
        let (archive, id) = (one.place.archive.word(), one.place.id.to_string());
        done.archives.push(Archived { place, archive, id, bytes: put.bytes });
        Ok(())
    }

    /// Judges what is lacking, and all that it leans on.
    fn judge(&self, sides: &Sides, lacking: &BTreeSet<&str>) -> Result<Vec<Found>> {
        let mut of: HashMap<&SnapshotId, Vec<&str>> = HashMap::new();
        for (directory, (place, _)) in sides.here.iter().filter(|(_, (p, _))| p.archive == Archive::State) {
            of.entry(&place.id).or_default().push(directory);
        }
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = lacking.iter().copied().collect();
        while let Some(directory) = next.pop() {
            if let Some((place, _)) = sides.here.get(directory).filter(|_| wanted.insert(directory)) {
                next.extend(place.parent.iter().filter_map(|parent| of.get(parent)).flatten());
            }
        }
        let mut out = Vec::new();
        for directory in wanted {
            self.way.world.check_stop()?;
            let (place, objects) = sides.here[directory].clone();
            out.push(snapshots::judge(self.way.from, Some(self.key), place, objects)?);
        }
        Ok(out)
    }

    /// What is copied though its life is over: what something younger leans on, and the newest of all, which nobody
    /// removes.
    fn needed<'f>(&self, sides: &Sides, found: &'f [Found]) -> HashSet<&'f SnapshotId> {
        let now = self.way.world.now();
        let newest = |archive: Archive| {
            let last = sides.here.values().filter(|(p, o)| p.archive == archive && o.contains_key(COMMIT));
            let last = last.map(|(place, _)| &place.id).max();
            snapshots::newest(found, archive).filter(move |f| last.is_some_and(|last| *last <= f.place.id))
        };
        let young = found.iter().filter(|f| f.verified().is_some_and(|c| Link::of(c).ends() > now));
        let kept = young.chain(newest(Archive::State)).chain(newest(Archive::Secrets));
        let chains = kept.filter_map(|f| snapshots::chain(found, f, false, now).ok());
        chains.flatten().map(|f| &f.place.id).collect()
    }

    /// Whether an archive is to be copied, or why not.
    fn fit(
        &self,
        found: &[Found],
        one: &Found,
        needed: &HashSet<&SnapshotId>,
        parents: &HashSet<SnapshotId>,
    ) -> std::result::Result<(), (Why, String)> {
        let now = self.way.world.now();
        let commit = match &one.standing {
            Standing::Verified(commit) => commit,
            Standing::Unverified { why, .. } => return Err((Why::Damaged, printable(why.to_string().as_bytes()))),
            Standing::Incomplete => return Err((Why::Expired, "it went away in the meantime".to_owned())),
        };
        let over = is_over(one, now);
        let why = |expired| if expired { Why::Expired } else { Why::Damaged };
        // Past its keep a broken chain is no damage.
        let keep = keep_seconds(self.tiers, commit.tier.as_deref().unwrap_or_default(), commit.life);
        let kept = one.place.is_pinned() || now < commit.id.unix_seconds().saturating_add(keep);
        if let Some(damage) = one.damage() {
            return Err((why(over), damage));
        }
        if let Err(broken) = snapshots::chain(found, one, false, now) {
            return Err((why(broken.expired || !kept), format!("it needs {}, which {}", broken.needs, broken.why)));
        }
        if over && !needed.contains(&one.place.id) {
            return Err((Why::Expired, "its life is over".to_owned()));
        }
        match &commit.parent {
            Some(parent) if !parents.contains(&parent.id) => {
                Err((why(over || !kept), format!("it needs {}, which was not copied", parent.id)))
            }
            _ => Ok(()),
        }
    }

    /// Receipts that verify: the signature first, as a drill puts them.
    fn receipts(
        &self,
        known: &BTreeSet<String>,
        done: &mut Copied,
        sent: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let Way { world, from, to, listable } = &self.way;
        let here = receipts::names(from, self.name)?;
        let there: HashSet<(SnapshotId, SnapshotId)> = match listable {
            true if !here.is_empty() => receipts::names(to, self.name)?.into_iter().collect(),
            _ => HashSet::new(),
        };
        for (snapshot, drill) in here {
            let key = format!("{}/{drill}", receipt::directory(self.name, &snapshot));
            done.present.insert(key.clone());
            if known.contains(&key) || there.contains(&(snapshot.clone(), drill.clone())) {
                continue;
            }
            world.check_stop()?;
            match receipts::signed(from, self.name, self.key, &snapshot, &drill) {
                Err(e) => done.take(&key, e)?,
                Ok(_) if self.dry_run => done.receipts += 1,
                Ok((_, text, signature)) => {
                    to.put_if_absent(&format!("{key}.minisig"), signature)?;
                    to.put_if_absent(&key, text)?;
                    sent(&key)?;
                    done.receipts += 1;
                }
            }
        }
        Ok(())
    }
}

/// Whether the life of an archive that verifies is over.
fn is_over(found: &Found, now: i64) -> bool {
    !found.place.is_pinned() && found.verified().is_some_and(|c| Link::of(c).ends() <= now)
}
