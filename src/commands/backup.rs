//! `lifeboat backup`: a snapshot of all sources, in two archives.

mod report;

use std::path::PathBuf;

pub use self::report::{Done, Written};
use super::bundle::Bundle;
use super::content_rule::{self, Judged, Known};
use super::lineage::Lineage;
use super::members::Outcome;
use super::mirror::Mirrors;
use super::preview::preview;
use super::session::{Configured, configuration, open_catalog};
use super::signing::{in_force_today, signing};
use super::snapshots::{self, Wanted, choose};
use super::sources::{Resolved, lost_logins, resolve};
use super::sweeping::{self, Before, Found as Leaking, Sweeping};
use super::write_archive::{Committed, Run, clock_text, settle};
use super::{Event, Events, Report as _, hand_over, init, pin, policy, prune, roots, state_archive};
use crate::error::{Error, Result};
use crate::host::catalog::Catalog;
use crate::host::scan::{Scan, scan};
use crate::host::staging::Staging;
use crate::host::store::{Access, Store};
use crate::host::world::{Lock, World};
use crate::model::config::{Config, Origin, Sweep as Policy, expand_home};
use crate::model::entry::{Entry, Kind};
use crate::model::layout::Layout;
use crate::model::names::name_is_secret;
use crate::model::path::{printable, printable_path};
use crate::model::preset;
use crate::model::store_key::{Archive, SnapshotId};
use crate::model::tree::NONE;
use crate::stream::archive_writer::is_stale;

/// What `backup` was asked to do.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Sources: all of them go into a new configuration; with a configuration they must be in it.
    pub paths: Vec<PathBuf>,
    /// Write the secrets bundle alone.
    pub secrets_only: bool,
    /// Read every file, whatever is known of it. Fulls always do.
    pub rehash: bool,
    /// Tell what would be written, and write nothing.
    pub dry_run: bool,
    /// Recipients, store and rules are meant to be what they are.
    pub accept_policy: bool,
    /// The most that leaves for a bucket, in bytes per second, whatever the configuration says.
    pub limit_upload: Option<u64>,
}

/// Makes a snapshot; without a configuration it makes that first.
///
/// # Errors
/// When nothing could be committed. What could not be read is in the report instead.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let begun = std::time::Instant::now();
    let Configured { config, file } = match configuration(world)? {
        Some(configured) => configured,
        None => initialise(world, args, events)?,
    };
    let limit = args.limit_upload.or(config.upload.limit);
    check_paths(world, args, &config)?;
    // `init` makes stores. A directory made here would stand in for a disk that is not mounted.
    let store = Store::open_limited(world, &config.store, Access::Existing, limit)?;
    let lock = Lock::take(&world.state_dir(&config.name))?;
    let resolved = resolve(world, &config, &file, &store)?;
    events(Event::Phase("looking at the sources"));
    let mut found = look(world, &resolved, events)?;
    let mut done = nothing_yet(&config, &store, &found, args);
    for skip in found.skipped.iter().filter(|s| s.archive == Archive::State) {
        events(Event::Detail(format!("left out {}: {}", printable(&skip.path), printable(skip.reason.as_bytes()))));
    }
    for login in lost_logins(world) {
        events(Event::Detail(format!(
            "a restore will not bring back a login of {}: {}; on a new machine {}",
            login.agent, login.what, login.again
        )));
    }
    if args.dry_run {
        let judged = content_rule::judge(world, &mut found, &resolved.sources, None, args.rehash, events)?;
        done.secret_by_content = judged.len();
        preview(world, &config, &found, args.secrets_only, &mut done)?;
    } else {
        let catalog = open_catalog(world, &config.name)?;
        let put_aside = |e: Error| {
            if Catalog::is_damage(&e) {
                // It is only a cache: the next run makes another one, and a full.
                Catalog::discard(&world.state_dir(&config.name));
                return e.hint("the catalog was damaged and is put aside: run the backup again");
            }
            e
        };
        hand_over::settle(world, &config, &file, &store, &catalog, events).map_err(put_aside)?;
        let own = signing(world, &file)?;
        let signers = in_force_today(&store, &config.name, &own, &catalog, world.now()).map_err(put_aside)?;
        settle(world, &config.name, &store, &catalog, events).map_err(put_aside)?;
        let staging = Staging::open(&world.state_dir(&config.name))?;
        let begun_at = world.now();
        let run = Run {
            world,
            config: &config,
            store: &store,
            key: &own.key,
            signers: &signers,
            catalog: &catalog,
            sources: &resolved.sources,
            described: &resolved.described,
            staging: staging.path(),
            policy: policy::digest(&config),
            started: begun_at,
        };
        let mut written = archives(&run, args, &mut found, &mut done, events);
        if written.as_ref().is_err_and(is_stale) {
            events(Event::Note("what an interrupted run had stored does not fit any more: beginning anew".to_owned()));
            found = look(world, &resolved, events)?;
            // A bundle that was written stays written, and what it lacks is told again.
            let (state, secrets) = (done.state.take(), done.secrets.take());
            done = Done { state, secrets, ..nothing_yet(&config, &store, &found, args) };
            written = archives(&run, args, &mut found, &mut done, events);
        }
        written.map_err(put_aside)?;
        // What was committed counts, whatever becomes of the rest.
        let seq = catalog.last_seq().ok().flatten();
        drop((lock, catalog));
        let (store, started) = (&store, begun_at);
        // Only a run that looked at the state knows of an alarm.
        let prunes = !args.secrets_only && done.alarm_since.is_none();
        let mirrors = Mirrors { world, config: &config, store, key: &signers, seq, started, prunes, limit };
        done.mirrors = mirrors.catch_up(events).inspect_err(|_| {
            events(Event::Warning(
                "it was interrupted while it copied to a mirror: what was backed up counts".to_owned(),
            ));
        })?;
    }
    done.skipped = found.skipped.len() as u64;
    done.seconds = begun.elapsed().as_secs_f64();
    Ok(done)
}

fn nothing_yet(config: &Config, store: &Store, found: &Scan, args: &Args) -> Done {
    Done {
        series: config.name.clone(),
        store: store.name(),
        vanished: found.vanished,
        dry_run: args.dry_run,
        ..Done::default()
    }
}

/// `backup` on a machine that was never set up: everything by default, said in a few lines.
fn initialise(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Configured> {
    if let Some(named) = world.var("LIFEBOAT_CONFIG") {
        let name = printable_path(std::path::Path::new(named));
        return Err(Error::not_there(format!("the configuration {name} is not there"))
            .hint("`lifeboat init --config FILE` makes one there"));
    }
    if args.dry_run {
        return Err(Error::not_there("there is no configuration yet, and a dry run makes none")
            .hint("run `lifeboat init`, or `lifeboat backup PATH` once"));
    }
    let asked = init::Args { sources: args.paths.clone(), ..init::Args::default() };
    let done = init::run(world, &asked, events)?;
    events(Event::Note("there was no configuration, so one was made:".to_owned()));
    for line in done.text().lines() {
        events(Event::Note(line.to_owned()));
    }
    if args.paths.is_empty() || done.sources.len() == args.paths.len() {
        events(Event::Note(
            "The store is on this machine's own disk: it outlives a mistake, not the machine. See `lifeboat init --help`."
                .to_owned(),
        ));
    }
    configuration(world)?.ok_or_else(|| Error::failed("the configuration that was just made cannot be found"))
}

/// A snapshot is always of all sources; a path on the command line can only say that it is one of them.
fn check_paths(world: &World, args: &Args, config: &Config) -> Result<()> {
    for path in &args.paths {
        let real = std::fs::canonicalize(path)
            .map_err(|e| Error::not_there(format!("the source {} is not there", printable_path(path))).because(e))?;
        let configured = config.sources.iter().any(|s| match &s.origin {
            Origin::Path(p) => std::fs::canonicalize(expand_home(p, &world.home)).is_ok_and(|p| p == real),
            Origin::Preset(name) => preset::find(name).is_some_and(|preset| {
                let roots = preset.roots(&|name| world.var(name).map(Into::into), &world.home);
                roots.iter().any(|r| std::fs::canonicalize(&r.path).is_ok_and(|p| p == real))
            }),
        });
        if !configured {
            let shown = printable_path(path);
            return Err(Error::usage(format!("{shown} is no source of series {}", config.name))
                .hint(format!("`lifeboat init --source {shown}` adds it; a backup is always of all sources")));
        }
    }
    Ok(())
}

/// Scans, and adds what should be there and is not.
fn look(world: &World, resolved: &Resolved, events: &mut Events<'_>) -> Result<Scan> {
    use std::os::unix::ffi::OsStrExt as _;
    let layout = Layout::machine(world.home.as_os_str().as_bytes());
    let mut found = scan(&resolved.sources, &layout, &resolved.own, world.now(), &mut |entries| {
        events(Event::Progress { files: entries, files_total: 0, bytes: 0, bytes_total: 0 });
        world.check_stop()
    })?;
    for path in &resolved.absent {
        let archive = if name_is_secret(path) { Archive::Secrets } else { Archive::State };
        let index = found.tree.push(NONE, path, Kind::Missing, archive);
        let reason = "the source is not there".to_owned();
        found.tree.set_entry(index, &Entry { reason, ..Entry::new(Kind::Missing) });
    }
    Ok(found)
}

/// Decides what else is secret: by what is in it, and where the configuration wants that by the values in it.
fn decide(
    run: &Run<'_>,
    args: &Args,
    found: &mut Scan,
    sweeping: &Sweeping,
    events: &mut Events<'_>,
) -> Result<(Judged, Before)> {
    let known = Known::load(run.catalog, run.key.derive(content_rule::CONTEXT))?;
    let mut judged = content_rule::judge(run.world, found, run.sources, Some(&known), args.rehash, events)?;
    if args.secrets_only {
        // What the state holds is for the next run that writes it, which then looks for itself.
        return Ok((judged, Before::default()));
    }
    let before = Before::search(run, found, &mut judged, sweeping, events)?;
    judged.keep(&known, found)?;
    Ok((judged, before))
}

/// First the secrets, so that the state's commit can name their bundle.
fn archives(run: &Run<'_>, args: &Args, found: &mut Scan, done: &mut Done, events: &mut Events<'_>) -> Result<()> {
    done.policy_changes = policy::check(run.config, run.key, run.catalog, args.accept_policy, events)?;
    roots::check(run, found, args.rehash)?;
    let mut lineage = Lineage::of(run, events)?;
    let sweeping = Sweeping::default();
    let (judged, before) = decide(run, args, found, &sweeping, events)?;
    done.secret_by_content = judged.len();
    let secrets_bundle = Bundle { run, judged: &judged, sweeping: &sweeping };
    let secrets = found.tree.indices().any(|i| found.tree.node(i).archive == Archive::Secrets);
    if args.secrets_only && !secrets {
        return Err(Error::not_there("there is no secret in any source").hint("`lifeboat backup` backs up the state"));
    }
    match secrets_bundle.write_if_changed(&mut lineage, found, events)? {
        Some(committed) => done.secrets = Some(done.take(&committed)),
        None => done.unreadable.extend(secrets_bundle.still_unreadable()?),
    }
    if args.secrets_only {
        done.unchanged = done.secrets.is_none();
        return Ok(());
    }
    let values = sweeping.values(found, run.sources, &judged);
    let known = (&values.sweep, &judged);
    let outcome = state_archive::write_if_changed(run, &mut lineage, args.rehash, known, found, events)?;
    done.unreadable.extend(outcome.unreadable);
    done.vanished += outcome.vanished;
    done.deleted = outcome.deleted;
    if let Some(alarm) = outcome.alarm {
        let kept = alarm.good.as_ref().map(|good| match alarm.is_new {
            true => keep_good(run, good, events),
            // What nobody can look for is told as if it were not there: to pin it once more does no harm.
            false => matches!(pin::is_pinned(run.store, &run.config.name, good), Ok(Some(true))),
        });
        done.pinned = kept.unwrap_or(false);
        done.suspicious = alarm.findings;
        done.alarm_since = Some(clock_text(alarm.pending.since));
        done.good_is_older = alarm.is_older;
        done.last_good = alarm.good.map(|id| id.to_string());
    }
    match outcome.committed {
        Some(committed) => done.state = Some(done.take(&committed)),
        None => done.unchanged = done.secrets.is_none(),
    }
    tell_leaks(&secrets_bundle, &mut lineage, before, outcome.leaks, found, done, events)?;
    // A bucket has its lifecycle; a directory has nobody else. Once a day is enough.
    // While an alarm is open, nothing goes.
    if done.state.is_some() && outcome.due && done.alarm_since.is_none() && run.store.local().is_some() {
        match prune::after_backup(run.world, run.store, run.config, run.signers, run.started) {
            Ok(pruned) => {
                pruned.warning().into_iter().for_each(|text| events(Event::Warning(text)));
                done.pruned = pruned.removed.len() as u64;
            }
            Err(e) => events(Event::Warning(format!("old snapshots could not be removed: {e}"))),
        }
    }
    if outcome.not_persistent {
        done.warnings.push(
            "the state directory is not persistent: each run begins anew and uploads everything; keep it on a volume"
                .to_owned(),
        );
    }
    Ok(())
}

/// Pins the last good snapshot, if the credential permits. Whoever may only add objects is told the command.
fn keep_good(run: &Run<'_>, good: &SnapshotId, events: &mut Events<'_>) -> bool {
    let mut keep = || -> Result<()> {
        let found = snapshots::load(run.store, &run.config.name, Some(run.signers))?;
        let wanted = Wanted::Id(good.to_string());
        let choice = choose(&found, Archive::State, &wanted, false, run.world.now())?;
        pin::keep(run.world, run.store, &found, &choice.chain, events).map(drop)
    };
    match keep() {
        Ok(()) => true,
        Err(e) if Store::is_refusal(&e) => false,
        Err(e) => {
            events(Event::Warning(format!("the last good snapshot {good} could not be pinned: {e}")));
            false
        }
    }
}

/// Counts values of secrets in the state, and has a bundle say which and where.
fn tell_leaks(
    bundle: &Bundle<'_>,
    lineage: &mut Lineage,
    before: Before,
    as_written: Vec<Leaking>,
    found: &mut Scan,
    done: &mut Done,
    events: &mut Events<'_>,
) -> Result<()> {
    let late = sweeping::came_late(found, bundle.run.sources, &as_written, Policy::Move);
    before.remember(bundle.run, late)?;
    let leaks = sweeping::added_up(before.leaks.into_iter().chain(as_written));
    (done.leaked_values, done.leaking_files) = sweeping::count(&leaks);
    let state = done.state.as_ref();
    let snapshot = (state.map(|s| s.id.as_str()), state.is_some_and(|s| s.parent.is_none()));
    if let Some(committed) = bundle.write_for_leaks(lineage, &leaks, snapshot, found, events)? {
        let written = Committed { outcome: Outcome::default(), ..committed };
        done.secrets = Some(done.take(&written));
    }
    Ok(())
}
