//! The parent of an incremental, as `dump(8)` would choose a level.
//!
//! Let `s0` be the newest usable snapshot of a coarser tier, and `s1 … s(k-1)` the tier's own since then. The new one is
//! `sk`, and its parent is `s(k & (k-1))`: `k` with its lowest bit cleared, as in a Fenwick tree. So a chain within the
//! tier has as many members as `k` has bits set, at most `floor(log2(k + 1))`.

use std::collections::HashMap;

use super::calendar::{DAY_SECONDS, midnight, rank};
use super::store_key::SnapshotId;
use super::tiers::{Past, Question};

/// What there is, ready to be asked for parents.
pub(super) struct History<'a> {
    q: &'a Question<'a>,
    by_id: HashMap<&'a SnapshotId, &'a Past>,
}

/// A parent, and why it is the one.
pub(super) struct Choice {
    /// The parent.
    pub(super) id: SnapshotId,
    /// The end of a sentence.
    pub(super) reason: String,
}

impl<'a> History<'a> {
    pub(super) fn new(q: &'a Question<'a>) -> Self {
        History { q, by_id: q.past.iter().map(|p| (&p.id, p)).collect() }
    }

    pub(super) fn question(&self) -> &'a Question<'a> {
        self.q
    }

    /// Whether a snapshot was made later than now: the clock was wrong then, or is now.
    pub(super) fn is_future(&self, p: &Past) -> bool {
        p.id.unix_seconds() > self.q.now || p.committed > self.q.now
    }

    /// Whether its whole chain is there.
    pub(super) fn is_restorable(&self, p: &Past) -> bool {
        self.chain(p).is_some()
    }

    /// It, its parent, and so on up to a full; `None` where one is not whole, is not known, or does not come before its
    /// child.
    fn chain(&self, p: &'a Past) -> Option<Vec<&'a Past>> {
        let mut out = vec![p];
        let mut child = p;
        while let Some(id) = &child.parent {
            let parent = *self.by_id.get(id)?;
            if parent.seq >= child.seq {
                return None;
            }
            out.push(parent);
            child = parent;
        }
        out.iter().all(|p| p.whole).then_some(out)
    }

    /// The parent of a new snapshot of `tier`; `None` where nothing is usable.
    pub(super) fn parent(&self, tier: usize) -> Option<Choice> {
        let name = self.q.tiers[tier].name.as_str();
        let usable = |p: &'a Past| self.length(p, tier).is_some();
        let own = || self.q.past.iter().filter(|p| self.is_own(p));
        let is_coarser = |p: &Past| rank(&p.tier).is_some_and(|r| Some(r) < rank(name));
        let mut coarser: Vec<&Past> = own().filter(|p| is_coarser(p) && !p.suspicious).collect();
        coarser.sort_by_key(|p| std::cmp::Reverse(p.seq));
        let first = own().find(|p| Some(&p.id) == self.q.generation);
        let s0 = coarser.into_iter().chain(first).find(|p| usable(p))?;

        // What is suspicious and what is not go in lines of their own: the one is no parent of the other.
        let line = own().filter(|p| p.tier == name && p.seq > s0.seq && p.suspicious == self.q.suspicious);
        let mut line: Vec<&Past> = line.filter(|p| !self.is_future(p)).collect();
        line.sort_by_key(|p| p.seq);
        let k = line.len() + 1;
        let longest = self.length(s0, tier)? + floor_log2(k + 1);
        // The line may have been disturbed: by a clock that went wrong, by objects that are gone. Then the ancestors
        // of the one that it should be come next, and the bound holds all the same.
        let mut next = (k & (k - 1)).checked_sub(1).map(|n| line[n]);
        let mut skipped = 0;
        while let Some(p) = next.filter(|p| p.seq > s0.seq) {
            if self.length(p, tier).is_some_and(|length| length < longest) {
                return Some(choice(p, k, skipped));
            }
            skipped += 1;
            next = p.parent.as_ref().and_then(|id| self.by_id.get(id)).copied();
        }
        Some(choice(s0, k, skipped))
    }

    fn is_own(&self, p: &Past) -> bool {
        self.q.generation.is_some() && p.generation.as_ref() == self.q.generation
    }

    /// How many members the chain of a usable parent has; `None` for one that a snapshot of `tier` cannot lean on.
    ///
    /// Each member has to live until the new snapshot's `keep` has ended and a day more, by a store that ends lives at
    /// the next midnight. That is the same as to count a life from the midnight before, without the day: a store that
    /// ends lives to the second holds it just as long as it must.
    fn length(&self, p: &'a Past, tier: usize) -> Option<usize> {
        let until = self.q.now.saturating_add(i64::from(self.q.tiers[tier].keep_hours) * 3600);
        let lives = |p: &&Past| {
            let life = i64::try_from(p.life).unwrap_or(i64::MAX).saturating_mul(DAY_SECONDS);
            midnight(p.id.unix_seconds()).saturating_add(life) >= until
        };
        if self.is_future(p) || (p.suspicious && !self.q.suspicious) {
            return None;
        }
        let chain = self.chain(p)?;
        chain.iter().all(lives).then_some(chain.len())
    }
}

fn choice(p: &Past, k: usize, skipped: usize) -> Choice {
    let instead = if skipped > 0 { ", since nearer ones are gone, too old or too deep" } else { "" };
    Choice { id: p.id.clone(), reason: format!("number {k} against {} {}{instead}", p.tier, p.id) }
}

fn floor_log2(n: usize) -> usize {
    usize::try_from(n.ilog2()).unwrap_or(usize::MAX)
}
