//! The state archive: a full, an incremental, or none where nothing changed.

use super::changes::{Changes, Look, Places, compare};
use super::content_rule::Judged;
use super::guard::{Alarm, Guard};
use super::lineage::{Decision, Lineage, note_recipients, tidy, usable};
use super::plan::{Plan, Planner, estimate};
use super::remember::Seen;
use super::sweeping::Found as Leaking;
use super::write_archive::{Committed, LAST_CHANGE, Run, StateWork, Terms, write};
use super::{Event, Events};
use crate::error::Result;
use crate::host::database::Checks;
use crate::host::scan::Scan;
use crate::model::calendar::{midnight, period_days};
use crate::model::commit::Reference;
use crate::model::entry::Kind;
use crate::model::path::printable;
use crate::model::store_key::Archive;
use crate::model::sweep::Sweep;
use crate::model::tiers::{best_promotion, is_burst, promotions};

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// The archive, if one was written.
    pub committed: Option<Committed>,
    /// What could not be read while it was planned.
    pub unreadable: Vec<String>,
    /// What went away while it was planned.
    pub vanished: u64,
    /// Entries of the parent's tree that are gone.
    pub deleted: u64,
    /// Values of secrets in what was written.
    pub leaks: Vec<Leaking>,
    /// Whether the catalog seems to be lost after each run.
    pub not_persistent: bool,
    /// Whether it is the first of a day or more.
    pub due: bool,
    /// Why what was seen is suspicious.
    pub alarm: Option<Alarm>,
}

/// Writes a state archive if anything changed, or one is due.
///
/// # Errors
/// When it cannot be written; nothing of it counts then.
pub fn write_if_changed(
    run: &Run<'_>,
    lineage: &mut Lineage,
    rehash: bool,
    (sweep, judged): (&Sweep, &Judged),
    scan: &mut Scan,
    events: &mut Events<'_>,
) -> Result<Outcome> {
    let places = Places::of(&scan.tree);
    let mut guard = Guard::begin(run, lineage)?;
    guard.look_at_secrets(run, scan, judged);
    let mut decision = lineage.decide(run, false, &guard, events)?;
    let full = decision.parent.is_some() && roots_went(run, scan, &places)?;
    if full {
        events(Event::Detail("a source lies where a larger one was, so a full".to_owned()));
        decision = lineage.decide(run, true, &guard, events)?;
    }
    if decision.answer.fills {
        run.catalog.check()?;
    }
    let seq = lineage.next_seq(run.world.now());
    // Told again by the next run, should this one fail: what it saw carries its own seq.
    let transaction = run.catalog.begin()?;
    let look = |d: &Decision| d.parent.as_ref().map_or(Look::Nothing, |p| Look::of(p.past.seq, rehash));
    let mut changes = compare(scan, &places, run.catalog, look(&decision))?;
    if decision.parent.is_none() || !changes.are_none() || is_due(run, &decision, &guard)? {
        guard.look(run, lineage, scan, &places, &changes, decision.parent.is_none())?;
    }
    if guard.mark().is_some() && !decision.suspicious {
        decision = lineage.decide(run, full, &guard, events)?;
        changes = compare(scan, &places, run.catalog, look(&decision))?;
    }
    let mut outcome = Outcome {
        not_persistent: decision.answer.not_persistent,
        due: decision.answer.fills,
        alarm: guard.alarm(),
        ..Outcome::default()
    };
    let Some(parent) = decision.parent.as_ref().map(|p| p.past.seq) else {
        let checks = Checks::Full;
        let work = StateWork { places: &places, changes: &changes, plan: None, transaction, checks, guard: &guard };
        let mut committed = put(run, lineage, decision, seq, scan, (work, sweep), events)?;
        guard.learn(run.catalog, scan, &places, &committed.outcome.databases)?;
        outcome.leaks = std::mem::take(&mut committed.outcome.leaks);
        outcome.committed = Some(committed);
        return Ok(outcome);
    };
    let due = is_due(run, &decision, &guard)?;
    if changes.are_none() && !due {
        if guard.learn_secrets(run.catalog)? {
            transaction.commit()?;
        }
        return Ok(outcome);
    }
    let mut prepared = prepare(run, scan, &places, &decision, seq, parent, &mut changes)?;
    outcome.unreadable.append(&mut prepared.unreadable);
    outcome.vanished = prepared.vanished;
    if !prepared.changed && !due {
        let seen = Seen {
            scan,
            places: &places,
            changes: &changes,
            plan: Some(&prepared),
            contents: None,
            databases: &Default::default(),
            seq,
        };
        seen.remember(run.catalog)?;
        guard.remember(run.catalog)?;
        guard.learn_secrets(run.catalog)?;
        transaction.commit()?;
        return Ok(outcome);
    }
    if let Some(promoted) = promotion(run, scan, &decision, &prepared, events)? {
        let parent = promoted.parent.as_ref().map_or(parent, |p| p.past.seq);
        decision = promoted;
        let changed = prepared.changed;
        // What planning added is added once more.
        let added: Vec<_> = places.added(&scan.tree).collect();
        added.into_iter().for_each(|index| scan.tree.node_mut(index).kind = Kind::Deleted);
        changes = compare(scan, &places, run.catalog, Look::of(parent, rehash))?;
        prepared = prepare(run, scan, &places, &decision, seq, parent, &mut changes)?;
        prepared.changed = changed;
        prepared.unreadable.clear();
    }
    tell(&changes, scan, events);
    outcome.deleted = prepared.deleted.values().filter(|listed| **listed).count() as u64;
    let checks = checks(run, &decision);
    let plan = Some(&mut prepared);
    let work = StateWork { places: &places, changes: &changes, plan, transaction, checks, guard: &guard };
    let mut committed = put(run, lineage, decision, seq, scan, (work, sweep), events)?;
    guard.learn(run.catalog, scan, &places, &committed.outcome.databases)?;
    outcome.leaks = std::mem::take(&mut committed.outcome.leaks);
    outcome.committed = Some(committed);
    Ok(outcome)
}

/// Whether a root that was there lies above one that still is: to delete it would take the other along.
fn roots_went(run: &Run<'_>, scan: &Scan, places: &Places) -> Result<bool> {
    let roots = run.catalog.directory(super::changes::ABOVE)?;
    Ok(roots.keys().any(|root| {
        places.find(&scan.tree, root).is_none() && !places.is_covered(root) && places.is_above_a_root(root)
    }))
}

fn last_change(run: &Run<'_>) -> Result<u64> {
    Ok(run.catalog.fact(LAST_CHANGE)?.and_then(|seq| seq.parse().ok()).unwrap_or(0))
}

/// Whether a snapshot has to be written even if nothing changed. While an alarm is open nothing fills a period, and a host
/// that lives writes one a day all the same.
fn is_due(run: &Run<'_>, decision: &Decision, guard: &Guard) -> Result<bool> {
    let today = midnight(run.world.now());
    let own = decision.past.iter().filter(|p| p.generation.is_some());
    let is_first = decision.suspicious && !own.into_iter().any(|p| p.id.unix_seconds() >= today);
    let tells = !guard.accepted().is_empty() || guard.has_found();
    Ok(decision.answer.fills || is_first || tells || last_change(run)? > newest(decision))
}

/// The seq of the newest snapshot of this catalog.
fn newest(decision: &Decision) -> u64 {
    decision.past.iter().filter(|p| p.generation.is_some()).map(|p| p.seq).max().unwrap_or(0)
}

/// Copies of databases are looked through once a day; in between their writers are not kept waiting.
fn checks(run: &Run<'_>, decision: &Decision) -> Checks {
    let tier = &run.config.tiers[decision.answer.tier];
    if period_days(&tier.name) == 0 { Checks::Quick } else { Checks::Full }
}

fn prepare(
    run: &Run<'_>,
    scan: &mut Scan,
    places: &Places,
    decision: &Decision,
    seq: u64,
    parent: u64,
    changes: &mut Changes,
) -> Result<Plan> {
    let checks = checks(run, decision);
    let (world, sources, catalog, staging) = (run.world, run.sources, run.catalog, run.staging);
    Planner { world, scan, places, sources, catalog, staging, checks, seq, parent }.plan(changes)
}

/// A great deal at once goes to a tier that keeps it longer: in the finest it would be uploaded again and again, by
/// each coarser one that comes.
fn promotion(
    run: &Run<'_>,
    scan: &Scan,
    decision: &Decision,
    plan: &Plan,
    events: &mut Events<'_>,
) -> Result<Option<Decision>> {
    if !is_burst(&decision.past, plan.bytes) {
        return Ok(None);
    }
    let seq_of = |id| decision.past.iter().find(|p| Some(&p.id) == id).map(|p| p.seq);
    let candidates = promotions(&decision.question(run), &decision.answer);
    let mut deltas = Vec::new();
    for candidate in &candidates {
        let parent = seq_of(candidate.parent.as_ref()).unwrap_or(0);
        deltas.push(estimate(scan, plan, run.catalog, parent)?);
    }
    let Some(best) = best_promotion(plan.bytes, &deltas) else { return Ok(None) };
    let Some(answer) = candidates.into_iter().nth(best) else { return Ok(None) };
    let known = run.catalog.snapshots()?;
    let parent = match &answer.parent {
        Some(parent) => usable(run, &known, parent, events)?,
        None => None,
    };
    let (past, generation) = (decision.past.clone(), decision.generation.clone());
    let promoted = Decision { answer, past, generation, parent, suspicious: decision.suspicious };
    // Where that parent is gone, the delta stays where it was.
    Ok(Some(promoted).filter(|p| p.parent.is_some()))
}

/// Says what a person should know about what is not backed up any more.
fn tell(changes: &Changes, scan: &Scan, events: &mut Events<'_>) {
    let ruled_out = |path: &[u8]| {
        scan.skipped.iter().any(|skip| {
            path.strip_prefix(&skip.path[..]).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
        })
    };
    let ruled: Vec<&Vec<u8>> = changes.gone.keys().filter(|path| ruled_out(path)).collect();
    if let Some(first) = ruled.first() {
        let more = if ruled.len() > 1 { format!(" and {} more", ruled.len() - 1) } else { String::new() };
        events(Event::Note(format!("left out by a rule from now on: {}{more}", printable(first))));
    }
    let secret = changes.gone.values().filter(|gone| gone.secret).count();
    if secret > 0 {
        events(Event::Warning(format!(
            "{} of the state became secret and moved to the secrets bundle; earlier state archives hold them until they expire, so rotate those keys",
            super::count_text(secret as u64, "entry")
        )));
    }
}

fn put<'a>(
    run: &Run<'a>,
    lineage: &mut Lineage,
    decision: Decision,
    seq: u64,
    scan: &mut Scan,
    (work, sweep): (StateWork<'a>, &Sweep),
    events: &mut Events<'_>,
) -> Result<Committed> {
    events(Event::Detail(decision.answer.reason.clone()));
    events(Event::Phase("writing the state archive"));
    let parent = decision.parent.as_ref();
    let terms = Terms {
        archive: Archive::State,
        tier: Some(run.config.tiers[decision.answer.tier].name.clone()),
        generation: decision.generation,
        life: decision.answer.life,
        seq,
        parent: parent.map(|p| Reference { id: p.past.id.clone(), sha256: p.sha256, life: None }),
        prev: lineage.state.clone(),
        bundle: lineage.secrets.clone(),
        notes: None,
        suspicious: work.guard.mark(),
        accept: work.guard.accepted().to_vec(),
    };
    let committed = write(run, terms, scan, Some(work), Some(sweep), events)?;
    lineage.state = Some(committed.reference());
    note_recipients(run)?;
    tidy(run.catalog, run.world.now())?;
    Ok(committed)
}
