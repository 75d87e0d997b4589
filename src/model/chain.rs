//! Chains: which snapshots a snapshot needs, and until when it can be restored.

use std::collections::HashMap;

use super::commit::Commit;
use super::store_key::SnapshotId;

/// Seconds in a day.
const DAY_SECONDS: i64 = 86_400;

/// What is known of one state archive that verifies and whose objects are all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The snapshot.
    pub id: SnapshotId,
    /// What it was made against; `None` for a full.
    pub parent: Option<SnapshotId>,
    /// What orders it.
    pub seq: u64,
    /// Days that its objects live.
    pub life: u64,
    /// Bytes on the store.
    pub stored: u64,
}

impl Link {
    /// The link that a commit describes.
    pub fn of(commit: &Commit) -> Link {
        Link {
            id: commit.id.clone(),
            parent: commit.parent.as_ref().map(|p| p.id.clone()),
            seq: commit.seq,
            life: commit.life,
            stored: commit.stored_bytes(),
        }
    }

    /// When a lifecycle may remove it, in Unix seconds.
    pub fn ends(&self) -> i64 {
        let life = i64::try_from(self.life).unwrap_or(i64::MAX);
        self.id.unix_seconds().saturating_add(life.saturating_mul(DAY_SECONDS))
    }
}

/// Why a chain is broken: the first snapshot on the way to its full that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap(pub SnapshotId);

/// The links of a store by id.
pub type Links = HashMap<SnapshotId, Link>;

/// The chain of `id`: itself, its parent, and so on up to a full.
///
/// # Errors
/// [`Gap`] where one of them is not among `links`, or does not come before its child, so that nobody can make a circle.
pub fn chain<'a>(links: &'a Links, id: &SnapshotId) -> Result<Vec<&'a Link>, Gap> {
    let mut out: Vec<&Link> = Vec::new();
    let mut next = Some(id);
    while let Some(id) = next {
        let link = links.get(id).ok_or_else(|| Gap(id.clone()))?;
        if out.last().is_some_and(|child| child.seq <= link.seq) {
            return Err(Gap(id.clone()));
        }
        out.push(link);
        next = link.parent.as_ref();
    }
    Ok(out)
}

/// What a snapshot is worth, by its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worth<'a> {
    /// The chain is there, from the snapshot up to a full.
    Whole(Vec<&'a Link>),
    /// It is broken, and the time that the snapshot was to be kept is over: it went the way of all snapshots.
    Expired(Gap),
    /// It is broken although the snapshot was to be kept: damage.
    Broken(Gap),
}

/// Judges the chain of `id`, which was to be kept for `keep` seconds, at `now` in Unix seconds.
pub fn worth<'a>(links: &'a Links, id: &SnapshotId, keep: i64, now: i64) -> Worth<'a> {
    match chain(links, id) {
        Ok(chain) => Worth::Whole(chain),
        Err(gap) if now >= id.unix_seconds().saturating_add(keep) => Worth::Expired(gap),
        Err(gap) => Worth::Broken(gap),
    }
}

/// When the first member of a chain may go, in Unix seconds.
pub fn ends(chain: &[&Link]) -> i64 {
    chain.iter().map(|link| link.ends()).min().unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn link(n: u32, parent: Option<u32>, life: u64) -> Link {
        let id = |n: u32| SnapshotId::new(i64::from(n) * DAY_SECONDS, n);
        Link { id: id(n), parent: parent.map(id), seq: u64::from(n), life, stored: 1 }
    }

    fn links(all: &[Link]) -> Links {
        all.iter().map(|l| (l.id.clone(), l.clone())).collect()
    }

    #[test]
    fn chains_end_in_a_full() {
        let all = [link(1, None, 10), link(2, Some(1), 3), link(5, Some(2), 1)];
        let links = links(&all);
        let found = chain(&links, &all[2].id).unwrap();
        assert_eq!(found, [&all[2], &all[1], &all[0]]);
        assert_eq!(ends(&found), 5 * DAY_SECONDS);
    }

    #[test]
    fn a_broken_chain_is_damage_until_the_keep_is_over() {
        let child = link(5, Some(2), 9);
        let gone = links(std::slice::from_ref(&child));
        let keep_ends = child.id.unix_seconds() + 3 * DAY_SECONDS;
        let gap = Gap(link(2, None, 0).id);
        let judged = |now: i64| worth(&gone, &child.id, 3 * DAY_SECONDS, now);
        assert_eq!(judged(keep_ends - 1), Worth::Broken(gap.clone()));
        assert_eq!(judged(keep_ends), Worth::Expired(gap));
        let there = links(&[child.clone(), link(2, None, 1)]);
        assert!(matches!(worth(&there, &child.id, 0, i64::MAX), Worth::Whole(chain) if chain.len() == 2));
    }

    #[test]
    fn gaps_are_named_and_circles_refused() {
        let all = [link(2, Some(1), 3), link(3, Some(4), 3), link(4, Some(3), 3)];
        let links = links(&all);
        assert_eq!(chain(&links, &all[0].id), Err(Gap(link(1, None, 0).id)));
        assert_eq!(chain(&links, &all[1].id), Err(Gap(all[2].id.clone())));
    }
}
