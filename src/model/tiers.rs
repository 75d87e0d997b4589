//! Tiers: which one a new snapshot belongs to, what its parent is, and how long its objects must live so that what a
//! tier promises to keep can be restored.
//!
//! Everything here is a function of what a host knows and of `now`. The parent itself is chosen in `parent.rs`.

use super::calendar::{DAY_SECONDS, period_days, period_name, period_start, rank};
use super::config::{Tier, default_tiers};
use super::parent::History;
use super::store_key::SnapshotId;

/// Seconds within which a full of another generation shows that the state directory does not persist.
const FOREIGN_FULL_SECONDS: u64 = 24 * 3600;
/// The smallest delta that can be a burst, in bytes.
const BURST_BYTES_MIN: u64 = 64 << 20;
/// How many times the median of the series a burst is.
const BURST_FACTOR: u64 = 8;
/// How many times its own size the delta of a burst may have in a coarser tier.
const PROMOTION_FACTOR: u64 = 2;

/// A state snapshot that this host wrote or verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The snapshot.
    pub id: SnapshotId,
    /// What orders it.
    pub seq: u64,
    /// When it was committed by this host's clock, in Unix seconds; where that is not known, the id's time.
    pub committed: i64,
    /// The tier.
    pub tier: String,
    /// The catalog it was made from, by its first full.
    pub generation: Option<SnapshotId>,
    /// What it was made against; `None` for a full.
    pub parent: Option<SnapshotId>,
    /// Days that its objects live.
    pub life: u64,
    /// Whether it is suspicious and nobody accepted it.
    pub suspicious: bool,
    /// False where it is known to be gone from the store or damaged: it is no parent, and chains through it are broken.
    pub whole: bool,
    /// Bytes on the store.
    pub delta_bytes: u64,
}

/// What has to be known to say where a new snapshot belongs.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The configured tiers, coarse to fine; never empty.
    pub tiers: &'a [Tier],
    /// What there is, in any order, with whole chains: a snapshot whose parent is not among them counts as broken.
    pub past: &'a [Past],
    /// The generation of this catalog; `None` before its first full.
    pub generation: Option<&'a SnapshotId>,
    /// The clock, in Unix seconds.
    pub now: i64,
    /// Whether the new snapshot is suspicious.
    pub suspicious: bool,
    /// When the newest full of another generation of this series was made, in Unix seconds.
    pub foreign_full: Option<i64>,
}

/// Where a new snapshot belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its tier, an index in [`Question::tiers`].
    pub tier: usize,
    /// Its parent; `None` makes it a full.
    pub parent: Option<SnapshotId>,
    /// Days that its objects must live.
    pub life: u64,
    /// Why, in one sentence for a person.
    pub reason: String,
    /// Whether the run must write it even if nothing changed: the first of a day, week, month or year, and whatever
    /// is a full for want of a parent.
    pub fills: bool,
    /// Whether the state directory seems to begin empty each time: exit code 3.
    pub not_persistent: bool,
}

/// How long the store must hold the objects of tier `index`, in days.
///
/// From the finest up, `life(t) = period of the next coarser tier + max(keep(t), life of the next finer tier)`;
/// for the coarsest `max(keep, its period + life of the next finer tier)`.
pub fn life_days(tiers: &[Tier], index: usize) -> u64 {
    let keep = u64::from(tiers[index].keep_hours.div_ceil(24));
    let finer = if index + 1 < tiers.len() { life_days(tiers, index + 1) } else { 0 };
    match index.checked_sub(1) {
        Some(coarser) => period_days(&tiers[coarser].name) + keep.max(finer),
        None if index + 1 < tiers.len() => keep.max(period_days(&tiers[0].name) + finer),
        None => keep,
    }
}

/// How long a snapshot of a tier was promised to be kept, in seconds: as configured, else as is the default, else for
/// its life of so many days.
pub fn keep_seconds(tiers: &[Tier], tier: &str, life: u64) -> i64 {
    let configured = tiers.iter().find(|t| t.name == tier).map(|t| t.keep_hours);
    let default = || default_tiers().into_iter().find(|t| t.name == tier).map(|t| t.keep_hours);
    match configured.or_else(default) {
        Some(hours) => i64::from(hours) * 3600,
        None => i64::try_from(life).unwrap_or(i64::MAX).saturating_mul(DAY_SECONDS),
    }
}

/// Tier, parent and life of a new snapshot.
///
/// The tier is the coarsest one whose current period has no snapshot of that tier or a coarser one; what fills no period
/// belongs to the finest. A snapshot of the coarsest tier is a full, and a full is always of the coarsest tier, but for
/// two that would crowd it: one in a state directory that is lost again and again, and one that is suspicious.
pub fn decide(q: &Question<'_>) -> Answer {
    let history = History::new(q);
    let finest = q.tiers.len() - 1;
    if q.generation.is_none() {
        return first_of_catalog(q, finest);
    }
    let due = if q.suspicious { None } else { (0..q.tiers.len()).find(|tier| history.is_due(*tier)) };
    let tier = due.unwrap_or(finest);
    let name = period_name(&q.tiers[tier].name);
    if tier == 0 {
        // With one tier alone, every snapshot is of the coarsest, whether or not it is the first of its period.
        let reason = match due {
            Some(_) => format!("the first of its {name}, so a full"),
            None => "there is only one tier, so a full".to_owned(),
        };
        return Answer { fills: due.is_some() || history.newest_is_lost(), ..answer(q, 0, None, reason) };
    }
    let Some(choice) = history.parent(tier) else {
        let tier = if q.suspicious { finest } else { 0 };
        return Answer { fills: true, ..answer(q, tier, None, "no parent is usable, so a full".to_owned()) };
    };
    let what = match (due, q.suspicious) {
        (Some(_), _) => format!("the first of its {name}"),
        (None, true) => "suspicious".to_owned(),
        (None, false) => "no period is due".to_owned(),
    };
    let lost = history.newest_is_lost();
    let lost_text = if lost { ", and the one before it is not whole" } else { "" };
    let reason = format!("{what}{lost_text}, {}", choice.reason);
    Answer { fills: due.is_some() || lost, ..answer(q, tier, Some(choice.id), reason) }
}

/// A catalog that knows no snapshot of its own begins a generation.
fn first_of_catalog(q: &Question<'_>, finest: usize) -> Answer {
    let again = q.foreign_full.is_some_and(|made| made.abs_diff(q.now) < FOREIGN_FULL_SECONDS);
    let (tier, reason) = if again {
        (
            finest,
            "the state directory is not persistent: another catalog wrote a full within a day, and this one is new",
        )
    } else if q.suspicious {
        (finest, "suspicious, and the catalog is new, so a full begins its generation")
    } else {
        (0, "the catalog is new, so a full begins its generation")
    };
    Answer { fills: true, not_persistent: again, ..answer(q, tier, None, reason.to_owned()) }
}

fn answer(q: &Question<'_>, tier: usize, parent: Option<SnapshotId>, reason: String) -> Answer {
    let life = life_days(q.tiers, tier);
    Answer { tier, parent, life, reason, fills: false, not_persistent: false }
}

/// Coarser tiers that a burst could take instead of `answer`'s: those below the coarsest, finest first, with the
/// parent that each would have.
pub fn promotions(q: &Question<'_>, answer: &Answer) -> Vec<Answer> {
    if answer.parent.is_none() || q.suspicious {
        return Vec::new();
    }
    let history = History::new(q);
    let better = (1..answer.tier).rev().filter_map(|tier| {
        let choice = history.parent(tier)?;
        let reason = format!("so much at once, that it goes to {}, {}", q.tiers[tier].name, choice.reason);
        let life = life_days(q.tiers, tier);
        Some(Answer { tier, parent: Some(choice.id), life, reason, ..answer.clone() })
    });
    better.collect()
}

/// Whether a delta of `bytes` is a burst: over 64 MiB and over 8 times the median of the incrementals there are.
pub fn is_burst(past: &[Past], bytes: u64) -> bool {
    let mut sizes: Vec<u64> = past.iter().filter(|p| p.parent.is_some()).map(|p| p.delta_bytes).collect();
    sizes.sort_unstable();
    let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
    bytes > BURST_BYTES_MIN && bytes > median.saturating_mul(BURST_FACTOR)
}

/// Which of the [`promotions`] a burst of `bytes` takes, as an index: the coarsest whose delta, given in the same order,
/// is at most twice as large. `None`: it stays where it is.
pub fn best_promotion(bytes: u64, deltas: &[u64]) -> Option<usize> {
    deltas.iter().rposition(|delta| *delta <= bytes.saturating_mul(PROMOTION_FACTOR))
}

impl History<'_> {
    /// Whether the current period of a tier has no snapshot of that tier or a coarser one.
    fn is_due(&self, tier: usize) -> bool {
        let q = self.question();
        let name = q.tiers[tier].name.as_str();
        let Some(begin) = period_start(name, q.now) else { return false };
        // A long upload fills the period that it began in and that of its commit. Neither is later than now.
        let within = |p: &Past| p.committed >= begin || p.id.unix_seconds() >= begin;
        let counts = |p: &Past| !p.suspicious && rank(&p.tier).is_some_and(|r| Some(r) <= rank(name));
        let mut filled = q.past.iter().filter(|p| counts(p) && within(p) && !self.is_future(p));
        !filled.any(|p| self.is_restorable(p))
    }

    /// Whether what was written last, and would stand for the state if nothing changed since, cannot be restored.
    fn newest_is_lost(&self) -> bool {
        let q = self.question();
        let own = q.past.iter().filter(|p| p.generation.as_ref() == q.generation && p.suspicious == q.suspicious);
        own.max_by_key(|p| p.seq).is_some_and(|p| !self.is_restorable(p))
    }
}

#[cfg(test)]
#[path = "tiers_tests.rs"]
mod tests;
