//! Where a new snapshot stands: what came before it, who else writes to the series, and whether what it would lean on is
//! still on the store.

use super::guard::Guard;
use super::session::sha256;
use super::signing;
use super::snapshots::{self, Found, Standing};
use super::write_archive::Run;
use super::{Event, Events};
use crate::error::{Error, Result};
use crate::host::catalog::{Catalog, Known};
use crate::host::store::Store;
use crate::model::commit::{COMMIT_BYTES_MAX, Commit, Reference};
use crate::model::path::printable_path;
use crate::model::store_key::{Archive, COMMIT, PINNED, Place, SnapshotId};
use crate::model::tiers::{Answer, Past, Question, decide};

/// Seconds in a day.
const DAY_SECONDS: i64 = 86_400;
/// Two runs that find snapshots of somebody else within so many seconds make two machines of one name.
const TWICE_SECONDS: u64 = 7 * 86_400;
/// How far the store's clock may be from this host's, in seconds.
const CLOCK_SECONDS_MAX: u64 = 15 * 60;
/// When all tiers were last listed, in Unix seconds.
const LISTED: &str = "listed";
/// When this host last found that its catalog is older than the store, in Unix seconds.
const ROLLED_BACK: &str = "rolled back";
/// When all of the parent's chain was last looked at, in Unix seconds.
const CHAIN_CHECKED: &str = "chain checked";
/// Who the last state archive was for.
const RECIPIENTS: &str = "recipients";

/// That `init` put this machine in the place of another one.
pub const CONTINUED: &str = "continued";

/// What came before: from the catalog, or, where that was lost, from what verifies on the store.
pub struct Lineage {
    last_seq: u64,
    /// The newest state archive.
    pub state: Option<Reference>,
    /// The newest secrets bundle.
    pub secrets: Option<Reference>,
    /// When the newest full of another generation was made.
    foreign_full: Option<i64>,
    /// Where the catalog was lost: the newest snapshot that nobody doubts, and what the newest such full takes on the store,
    /// in bytes.
    pub good: Option<(SnapshotId, u64)>,
}

impl Lineage {
    /// Finds out, and refuses to go on where another machine writes to the same series.
    ///
    /// # Errors
    /// When the catalog or the store cannot be read, and that.
    pub fn of(run: &Run<'_>, events: &mut Events<'_>) -> Result<Lineage> {
        // What came before the key that signs now was signed by another one.
        let before_own = run.signers.from_seq().saturating_sub(1);
        if run.catalog.last_seq()?.is_some() {
            strangers(run, events)?;
            check_clock(run)?;
            return Ok(Lineage {
                last_seq: run.catalog.last_seq()?.unwrap_or(0).max(before_own),
                state: run.catalog.newest(Archive::State)?,
                secrets: run.catalog.newest(Archive::Secrets)?,
                foreign_full: None,
                good: None,
            });
        }
        let found = match snapshots::load(run.store, &run.config.name, Some(run.signers)) {
            Ok(found) => found,
            // A line that is down for a moment is no reason to begin a second chain beside the first.
            Err(e) if !Store::is_refusal(&e) => return Err(e),
            Err(e) => {
                // A credential that may only add cannot look; the clock then orders what is to come.
                events(Event::Warning(format!("the catalog is new and the store cannot be listed: {e}")));
                Vec::new()
            }
        };
        check_clock(run)?;
        let reference = |archive| snapshots::newest(&found, archive).and_then(Found::reference);
        let verified = || found.iter().filter_map(Found::verified);
        let fulls = verified().filter(|c| c.archive == Archive::State && c.parent.is_none());
        let fulls: Vec<i64> = fulls.map(|c| c.id.unix_seconds()).collect();
        let recent = fulls.iter().filter(|made| made.abs_diff(run.world.now()) < DAY_SECONDS.unsigned_abs()).count();
        // Who was told to go on with the series is no container that forgets, unless there was another such today.
        let expected = run.catalog.fact(CONTINUED)?.is_some() && recent < 2;
        let newest = [Archive::State, Archive::Secrets].into_iter().filter_map(|a| snapshots::newest(&found, a));
        let adopted: Vec<_> = newest.filter_map(|f| f.verified().map(|c| (c, f.commit_sha256))).collect();
        run.catalog.adopt(&adopted)?;
        Ok(Lineage {
            last_seq: verified().map(|c| c.seq).max().unwrap_or(0).max(before_own),
            state: reference(Archive::State),
            secrets: reference(Archive::Secrets),
            foreign_full: fulls.into_iter().max().filter(|_| !expected),
            good: newest_good(&found),
        })
    }

    /// The number of the next archive, in Unix seconds where the clock did not go back.
    pub fn next_seq(&mut self, now: i64) -> u64 {
        self.last_seq = (self.last_seq + 1).max(u64::try_from(now).unwrap_or(0));
        self.last_seq
    }

    /// Tier and parent of the next state archive, by what the guard says of it. With `full`, or where it is for others than
    /// the one before, no parent will do.
    ///
    /// # Errors
    /// When the catalog or the store cannot be read.
    pub fn decide(&self, run: &Run<'_>, full: bool, guard: &Guard, events: &mut Events<'_>) -> Result<Decision> {
        let suspicious = guard.mark().is_some();
        let recipients = run.config.state.recipients.join(" ");
        let for_others = run.catalog.fact(RECIPIENTS)?.is_some_and(|before| before != recipients);
        if for_others {
            events(Event::Note("the state's recipients changed: a full, which the new ones can open".to_owned()));
        }
        let generation = run.catalog.generation()?;
        loop {
            let known = run.catalog.snapshots()?;
            let mut past: Vec<Past> = known.iter().map(|k| k.past.clone()).collect();
            past.iter_mut().for_each(|p| p.suspicious &= !guard.accepted().contains(&p.id));
            if full || for_others {
                past.iter_mut().for_each(|p| p.whole = false);
            }
            let answer = decide(&Question {
                tiers: &run.config.tiers,
                past: &past,
                generation: generation.as_ref(),
                now: run.world.now(),
                suspicious,
                foreign_full: self.foreign_full,
            });
            let Some(parent) = &answer.parent else {
                return Ok(Decision { answer, parent: None, past, generation, suspicious });
            };
            if let Some(parent) = usable(run, &known, parent, events)? {
                return Ok(Decision { answer, parent: Some(parent), past, generation, suspicious });
            }
        }
    }
}

/// The newest state archive that nobody doubts, and the bytes on the store of the newest such full.
fn newest_good(found: &[Found]) -> Option<(SnapshotId, u64)> {
    let doubts = snapshots::Doubts::of(found);
    let good = || found.iter().filter_map(Found::verified).filter(|c| c.archive == Archive::State && !doubts.about(c));
    let newest = good().max_by_key(|c| c.seq)?;
    let full = good().filter(|c| c.parent.is_none()).max_by_key(|c| c.seq)?;
    Some((newest.id.clone(), full.stored_bytes()))
}

/// What was decided about the next state archive.
pub struct Decision {
    /// Tier, parent and why.
    pub answer: Answer,
    /// The parent, looked at.
    pub parent: Option<Known>,
    /// What it was decided by.
    pub past: Vec<Past>,
    /// The generation, if there is one already.
    pub generation: Option<SnapshotId>,
    /// Whether what the run saw is suspicious.
    pub suspicious: bool,
}

impl Decision {
    /// What the promotion of a burst is decided by.
    pub fn question<'a>(&'a self, run: &'a Run<'_>) -> Question<'a> {
        Question {
            tiers: &run.config.tiers,
            past: &self.past,
            generation: self.generation.as_ref(),
            now: run.world.now(),
            suspicious: self.suspicious,
            foreign_full: None,
        }
    }
}

/// Remembers who the state archive that was just committed is for.
///
/// # Errors
/// When the catalog cannot be written.
pub fn note_recipients(run: &Run<'_>) -> Result<()> {
    run.catalog.set_fact(RECIPIENTS, &run.config.state.recipients.join(" "))
}

/// Looks on the store whether a parent is there as its child will name it, and once a day the rest of its chain.
/// Nothing, where one of them is gone: it is not leant on again.
///
/// # Errors
/// When the store cannot be read; where it does not permit that, the catalog is believed.
pub fn usable(run: &Run<'_>, known: &[Known], id: &SnapshotId, events: &mut Events<'_>) -> Result<Option<Known>> {
    let find = |id: &SnapshotId| known.iter().find(|k| k.past.id == *id);
    let Some(parent) = find(id) else { return Ok(None) };
    let now = run.world.now();
    let checked = run.catalog.fact(CHAIN_CHECKED)?.and_then(|t| t.parse::<i64>().ok());
    let thorough = checked.is_none_or(|checked| !(checked..=checked.saturating_add(DAY_SECONDS)).contains(&now));
    let mut next = Some(parent);
    while let Some(member) = next {
        let problem = match problem(run, member, thorough) {
            Err(e) if Store::is_refusal(&e) => return Ok(Some(parent.clone())),
            problem => problem?,
        };
        if let Some(problem) = problem {
            events(Event::Warning(format!(
                "snapshot {} {problem}: nothing new will be made against it",
                member.past.id
            )));
            run.catalog.lose(&member.past.id)?;
            return Ok(None);
        }
        next = if thorough { member.past.parent.as_ref().and_then(find) } else { None };
    }
    if thorough {
        run.catalog.set_fact(CHAIN_CHECKED, &now.to_string())?;
    }
    Ok(Some(parent.clone()))
}

/// What is wrong with a snapshot on the store: its commit, and with `thorough` the objects it lists.
fn problem(run: &Run<'_>, known: &Known, thorough: bool) -> Result<Option<String>> {
    let at = |tier: &str| Place {
        parent: known.past.parent.clone(),
        ..Place::state(tier, &run.config.name, &known.past.id)
    };
    for place in [at(&known.past.tier), at(PINNED)] {
        let Some(bytes) = run.store.get_if_there(&place.object(COMMIT), COMMIT_BYTES_MAX)? else { continue };
        if sha256(&bytes) != known.sha256 {
            return Ok(Some("is another one on the store than was written".to_owned()));
        }
        if thorough {
            let commit = std::str::from_utf8(&bytes).ok().and_then(|text| Commit::parse(text).ok());
            let listed = run.store.list(&place.directory())?;
            let is_there = |object: &crate::model::commit::Object| {
                let key = place.object(&object.name);
                listed.iter().any(|l| l.key == key && l.size == object.size)
            };
            if !commit.is_some_and(|commit| commit.objects.iter().all(is_there)) {
                return Ok(Some("is damaged on the store".to_owned()));
            }
        }
        return Ok(None);
    }
    Ok(Some("is not on the store any more".to_owned()))
}

/// Looks for snapshots of this series that verify and that this host did not write.
fn strangers(run: &Run<'_>, events: &mut Events<'_>) -> Result<()> {
    let found = match unknown(run) {
        Err(e) if Store::is_refusal(&e) => return Ok(()),
        found => found?,
    };
    let Some(newest) = found.iter().filter_map(Found::verified).max_by_key(|c| c.seq) else { return Ok(()) };
    let (name, id) = (&run.config.name, &newest.id);
    let own = run.catalog.generation()?;
    let now = run.world.now();
    let before = run.catalog.fact(ROLLED_BACK)?.and_then(|t| t.parse::<i64>().ok());
    let again = before.is_some_and(|before| before.abs_diff(now) < TWICE_SECONDS);
    if again || (own.is_some() && newest.generation != own) {
        let catalog = printable_path(&run.world.state_dir(name));
        return Err(Error::failed(format!(
            "another machine writes to the series {name}, too: snapshot {id} is not from here"
        ))
        .hint(format!(
            "give this machine a name of its own with `lifeboat init --name NAME`; if the other one is gone, remove {catalog} to go on"
        )));
    }
    events(Event::Warning(format!(
        "snapshot {id} is on the store and not in the catalog, which was rolled back, or a copy of this machine runs elsewhere"
    )));
    let adopted: Vec<_> = found.iter().filter_map(|f| f.verified().map(|c| (c, f.commit_sha256))).collect();
    run.catalog.adopt(&adopted)?;
    run.catalog.set_fact(ROLLED_BACK, &now.to_string())
}

/// A clock that is wrong makes periods, lives and ids that are.
fn check_clock(run: &Run<'_>) -> Result<()> {
    match run.store.clock_ahead() {
        Some(ahead) if ahead.unsigned_abs() > CLOCK_SECONDS_MAX => {
            let (minutes, way) = (ahead.unsigned_abs() / 60, if ahead > 0 { "ahead of" } else { "behind" });
            Err(Error::failed(format!("this machine's clock is {minutes} minutes {way} the store's"))
                .hint("set the clock (`timedatectl set-ntp true`), then run the backup again"))
        }
        _ => Ok(()),
    }
}

/// State archives of this series that the catalog does not know and that may be newer than what it knows, judged. What
/// another machine writes most often is of the finest tier; the others are listed once a day.
fn unknown(run: &Run<'_>) -> Result<Vec<Found>> {
    let known = run.catalog.snapshots()?;
    let Some(newest) = known.iter().map(|k| k.past.id.unix_seconds()).max() else { return Ok(Vec::new()) };
    // What was there before this catalog began is no stranger.
    let first = known.iter().map(|k| k.past.seq).min().unwrap_or(0);
    let (mut out, mut foreign) = (Vec::new(), false);
    let now = run.world.now();
    let listed = run.catalog.fact(LISTED)?.and_then(|t| t.parse::<i64>().ok());
    let all = listed.is_none_or(|listed| listed.abs_diff(now) >= DAY_SECONDS.unsigned_abs());
    let tiers = if all {
        run.store.list_directories("state")?
    } else {
        run.config.tiers.last().map(|tier| format!("state/{}", tier.name)).into_iter().collect()
    };
    for tier in tiers {
        for directory in run.store.list_directories(&format!("{tier}/{}", run.config.name))? {
            let Some((place, _)) = Place::parse(&format!("{directory}/{COMMIT}")) else { continue };
            // A name from the future proves nothing, and costs one look.
            let late = place.id.unix_seconds() > newest.saturating_sub(DAY_SECONDS);
            if late && !place.is_pinned() && !known.iter().any(|k| k.past.id == place.id) {
                let found = snapshots::look_at(run.store, run.signers, place)?;
                foreign |= matches!(found.standing, Standing::Unverified { .. });
                out.extend(Some(found).filter(|f| f.verified().is_some_and(|c| c.seq > first)));
            }
        }
    }
    if foreign {
        // What this host's keys did not sign may be signed with a key that they were handed over to elsewhere.
        signing::refuse_handed_over(run.store, &run.config.name, run.signers)?;
    }
    if all {
        run.catalog.set_fact(LISTED, &now.to_string())?;
    }
    Ok(out)
}

/// Forgets what no parent to come can be older than.
///
/// # Errors
/// When the catalog cannot be written.
pub fn tidy(catalog: &Catalog, now: i64) -> Result<()> {
    let life = |p: &Past| i64::try_from(p.life).unwrap_or(i64::MAX).saturating_mul(DAY_SECONDS);
    let alive = |p: &Past| p.whole && p.generation.is_some() && p.id.unix_seconds().saturating_add(life(p)) > now;
    let known = catalog.snapshots()?;
    if let Some(oldest) = known.iter().filter(|k| alive(&k.past)).map(|k| k.past.seq).min() {
        catalog.close_graves(oldest)?;
    }
    catalog.thin()
}
