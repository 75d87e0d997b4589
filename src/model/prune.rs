//! What may be removed from a store that has no lifecycle: the same rules, as a plan.
//!
//! A store that ends lives by itself trusts its own clock. Here the clock is this host's, which may be wrong by years, so
//! time counts as passed only once snapshots have witnessed it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::calendar::{DAY_SECONDS, midnight};
use super::chain::{Link, Links, chain};
use super::guard::ANSWER_DAYS;
use super::store_key::{Archive, SnapshotId};

/// Days after which objects without a commit are those of a run that will never go on.
pub const REMAINS_DAYS: i64 = 7;
/// How far the clock may go between two runs, in days, before it has to be witnessed.
const CLOCK_DAYS: u64 = 2;
/// On how many later days there have to be snapshots then.
const WITNESS_DAYS: usize = 3;

/// How good an archive on the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its commit verifies, and all of its objects are there.
    Whole,
    /// Its commit verifies, and something is missing or has the wrong size.
    Damaged,
    /// It has no commit.
    Remains,
}

/// One archive on the store. Ones that do not verify are not among them: they are not ours to judge.
#[derive(Clone, Debug)]
pub struct Held {
    /// State archive or secrets bundle.
    pub archive: Archive,
    /// What it is; of remains only the ids count.
    pub link: Link,
    /// How good it is.
    pub standing: Standing,
    /// Whether it is suspicious and nobody accepted it.
    pub suspicious: bool,
    /// Whether it is a pinned copy, which is never removed.
    pub pinned: bool,
}

/// What has to be known to say what may go.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What is on the store, of one series.
    pub held: &'a [Held],
    /// The clock, in Unix seconds.
    pub now: i64,
    /// When the run that asks began, in Unix seconds: what it wrote itself proves nothing yet.
    pub began: i64,
    /// Whether a person says that the clock is right.
    pub clock_is_right: bool,
}

/// What may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Indices in [`Question::held`], in the order in which they may be removed: children first.
    pub remove: Vec<usize>,
    /// How many more may go once the time that the clock shows is witnessed.
    pub waiting: usize,
}

/// What may be removed: whole archives past their life that no retained chain needs, children first, and what
/// interrupted runs left. Never the newest good chain and the newest good bundle, neither as they are nor as they were
/// before this run, and no suspicious one that may still be answered.
pub fn plan(q: &Question<'_>) -> Plan {
    let witnessed = if q.clock_is_right { q.now } else { witnessed(q.held, q.now) };
    let remove = select(q, witnessed);
    let waiting = select(q, q.now).len().saturating_sub(remove.len());
    Plan { remove, waiting }
}

/// What may be removed at a moment.
fn select(q: &Question<'_>, at: i64) -> Vec<usize> {
    let needed = needed(q, at);
    let bundles = newest_bundles(q);
    let may_go = |held: &Held| match (held.standing, held.archive) {
        _ if held.pinned => false,
        (Standing::Remains, _) => held.link.id.unix_seconds().saturating_add(REMAINS_DAYS * DAY_SECONDS) <= at,
        (_, Archive::State) => held.link.ends() <= at && !needed.contains(&held.link.id),
        (_, Archive::Secrets) => held.link.ends() <= at && !bundles.contains(&&held.link.id),
    };
    let mut out: Vec<usize> = (0..q.held.len()).filter(|i| may_go(&q.held[*i])).collect();
    // A child has a higher seq than its parent. Remains are nobody's parent and go first.
    out.sort_by_key(|i| {
        let held = &q.held[*i];
        (held.standing != Standing::Remains, std::cmp::Reverse(held.link.seq), *i)
    });
    out
}

/// The state archives that a retained one leans on, and the chains that must stay whatever the clock says.
fn needed<'a>(q: &'a Question<'_>, at: i64) -> HashSet<&'a SnapshotId> {
    let committed = || q.held.iter().filter(|h| h.archive == Archive::State && h.standing != Standing::Remains);
    let parents: HashMap<&SnapshotId, Option<&SnapshotId>> =
        committed().map(|h| (&h.link.id, h.link.parent.as_ref())).collect();
    // Whoever is to say whether a suspicious one is as it should be wants to look at it.
    let awaits = |h: &Held| h.suspicious && h.link.id.unix_seconds().saturating_add(ANSWER_DAYS * DAY_SECONDS) > at;
    let retained = committed().filter(|h| h.pinned || h.link.ends() > at || awaits(h)).map(|h| &h.link.id);
    let mut out = HashSet::new();
    for id in retained.chain(newest_chains(q)) {
        // Damaged ones on the way count: what is beyond them may be all that is left.
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| out.insert(*id)) {
            next = parents.get(id).copied().flatten();
        }
    }
    out
}

/// The newest unsuspicious snapshot with a whole chain, now and before this run.
fn newest_chains<'a>(q: &'a Question<'_>) -> Vec<&'a SnapshotId> {
    let whole = || q.held.iter().filter(|h| h.archive == Archive::State && h.standing == Standing::Whole);
    let links: Links = whole().map(|h| (h.link.id.clone(), h.link.clone())).collect();
    let mut good: Vec<&Held> = whole().filter(|h| !h.suspicious).collect();
    good.sort_by_key(|h| std::cmp::Reverse(h.link.seq));
    let newest = |before: i64| {
        let mut earlier = good.iter().filter(|h| h.link.id.unix_seconds() < before);
        earlier.find(|h| chain(&links, &h.link.id).is_ok()).map(|h| &h.link.id)
    };
    [newest(i64::MAX), newest(q.began)].into_iter().flatten().collect()
}

/// The newest whole bundle, now and before this run.
fn newest_bundles<'a>(q: &'a Question<'_>) -> Vec<&'a SnapshotId> {
    let whole = || q.held.iter().filter(|h| h.archive == Archive::Secrets && h.standing == Standing::Whole);
    let newest = |before: i64| {
        let earlier = whole().filter(|h| h.link.id.unix_seconds() < before);
        earlier.max_by_key(|h| h.link.seq).map(|h| &h.link.id)
    };
    [newest(i64::MAX), newest(q.began)].into_iter().flatten().collect()
}

/// Up to when time has passed for sure: until now, unless the clock went more than two days between two runs, forwards
/// or back. Then it is the last moment after which there are snapshots on three later days: a clock that was ten years
/// ahead for a run removes nothing, and a host that runs once a week removes a few weeks late.
fn witnessed(held: &[Held], now: i64) -> i64 {
    let committed = held.iter().filter(|h| h.standing != Standing::Remains);
    let mut runs: Vec<(u64, i64)> = committed.map(|h| (h.link.seq, h.link.id.unix_seconds())).collect();
    runs.sort_unstable();
    let mut times: Vec<i64> = runs.into_iter().map(|(_, time)| time).collect();
    times.push(now);
    let moved = |pair: &[i64]| pair[0].abs_diff(pair[1]) > CLOCK_DAYS * DAY_SECONDS.unsigned_abs();
    let Some(before) = times.windows(2).rposition(moved) else { return now };
    times.pop();
    // The last moment of each day on which there are snapshots.
    let days = |times: &[i64]| -> BTreeMap<i64, i64> {
        let mut out = BTreeMap::new();
        for time in times.iter().filter(|t| **t <= now) {
            let last = out.entry(midnight(*time)).or_insert(*time);
            *last = (*last).max(*time);
        }
        out
    };
    let since = days(&times[before + 1..]);
    if since.len() > WITNESS_DAYS {
        return now;
    }
    days(&times).into_values().rev().nth(WITNESS_DAYS).unwrap_or(i64::MIN)
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
