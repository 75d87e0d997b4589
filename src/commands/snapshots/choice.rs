//! Choosing an archive and the chain that it leans on.

use super::{DAY_SECONDS, Doubts, Found, Standing, Wanted, seq};
use crate::error::{Error, Result};
use crate::model::commit::Reference;
use crate::model::store_key::{Archive, SnapshotId};

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
/// [`NotThere`](crate::Kind::NotThere) when there is none, or one that was named has expired,
/// [`Damaged`](crate::Kind::Damaged) when there are only ones that do not verify or whose chain is broken,
/// [`Usage`](crate::Kind::Usage) when an abbreviation is ambiguous.
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
/// As [`choose`], and [`NotThere`](crate::Kind::NotThere) when all that is meant is doubted.
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
    let candidates = candidates(&matching, allow_unsigned, is_good)?;
    if let Wanted::Id(text) = wanted {
        refuse_ambiguous(text, &candidates)?;
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

/// Those of `matching` that may be chosen, the newest last.
fn candidates<'a>(
    matching: &[&'a Found],
    allow_unsigned: bool,
    is_good: &dyn Fn(&Found) -> bool,
) -> Result<Vec<&'a Found>> {
    let mut out: Vec<&Found> = matching.iter().copied().filter(|f| f.usable(allow_unsigned).is_some()).collect();
    let there = out.len();
    out.retain(|f| is_good(f));
    if out.is_empty() && there > 0 {
        return Err(Error::not_there("all that was asked for is marked as suspicious")
            .hint("leave out --good to take it all the same; `lifeboat list` shows which are marked"));
    }
    // Pinned copies are the same snapshot once more, and anybody can put one beside it that lacks its volumes.
    out.sort_by_key(|f| (seq(f), f.place.id.clone(), f.damage().is_none(), !f.place.is_pinned()));
    Ok(out)
}

fn refuse_ambiguous(text: &str, candidates: &[&Found]) -> Result<()> {
    let mut ids: Vec<&SnapshotId> = candidates.iter().map(|f| &f.place.id).collect();
    ids.dedup();
    if ids.len() > 1 {
        return Err(Error::usage(format!("`{text}` is the beginning of {} ids", ids.len()))
            .hint("write more of it; `lifeboat list` shows the ids"));
    }
    Ok(())
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
