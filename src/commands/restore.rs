//! `lifeboat restore`: from kit and store alone, everything back and checked.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use serde::Serialize;

use super::bring_back::{Goal, Plan};
use super::opened::{Opened, keep_further_names, open};
use super::session::{Configured, Keys, configuration, signing_key};
use super::snapshots::{self, Choice, Found, Standing, Wanted, choose};
use super::{Event, Events, Report, bytes_text, count_text};
use crate::error::{At as _, Error, Kind, Result};
use crate::host::extract::Limits;
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::kit::Which;
use crate::model::layout::Layout;
use crate::model::path::{printable, printable_path};
use crate::model::store_key::{Archive, is_name};
use crate::stream::sign::PublicKey;

/// What `restore` was asked to do.
#[derive(Clone, Debug)]
pub struct Args {
    /// Which snapshot.
    pub snapshot: String,
    /// The kit.
    pub identity: Option<PathBuf>,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub name: Option<String>,
    /// Where to, instead of to where it was.
    pub target: Option<PathBuf>,
    /// Leave secrets out.
    pub no_secrets: bool,
    /// Restore secrets alone.
    pub secrets_only: bool,
    /// Replace what differs.
    pub overwrite: bool,
    /// Restore what does not verify.
    pub allow_unsigned: bool,
    /// Write nothing.
    pub dry_run: bool,
}

impl Default for Args {
    fn default() -> Self {
        Args {
            snapshot: "latest".to_owned(),
            identity: None,
            store: None,
            name: None,
            target: None,
            no_secrets: false,
            secrets_only: false,
            overwrite: false,
            allow_unsigned: false,
            dry_run: false,
        }
    }
}

/// What `restore` did.
#[derive(Debug, Default, Serialize)]
pub struct Done {
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// The state archive's id.
    pub state: Option<String>,
    /// The secrets bundle's id.
    pub secrets: Option<String>,
    /// The bundle that the snapshot names, if neither it nor a newer one is on the store.
    pub lost_bundle: Option<String>,
    /// Where it went.
    pub target: String,
    /// Entries brought back.
    pub restored: u64,
    /// Entries that were there already.
    pub same: u64,
    /// Entries that replaced something different.
    pub replaced: u64,
    /// Bytes of files brought back.
    pub bytes: u64,
    /// What the snapshot lacks, with the reasons.
    pub missing: Vec<String>,
    /// What the snapshot lacks and an older one has, which was restored instead.
    pub older: Vec<String>,
    /// What the target or this user could not hold: kind and number of entries.
    pub not_held: Vec<(&'static str, u64)>,
    /// What differs at the target, of a dry run.
    pub different: Vec<String>,
    /// Nothing was written.
    pub dry_run: bool,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Report for Done {
    fn text(&self) -> String {
        let what = if self.dry_run { "would restore" } else { "restored" };
        let entries = |n: u64| if n == 1 { "1 entry".to_owned() } else { format!("{n} entries") };
        let mut from: Vec<String> = Vec::new();
        from.extend(self.state.as_ref().map(|id| format!("state {id}")));
        from.extend(self.secrets.as_ref().map(|id| format!("secrets {id}")));
        let mut out = format!("{what} {} to {}\n", from.join(" and "), self.target);
        out.push_str(&format!(
            "{}, {}; {} there already\n",
            entries(self.restored),
            bytes_text(self.bytes),
            entries(self.same)
        ));
        if self.replaced > 0 {
            let verb = if self.dry_run { "differ" } else { "replaced something different" };
            out.push_str(&format!("{} {verb}\n", entries(self.replaced)));
        }
        for path in &self.different {
            out.push_str(&format!("differs: {path}\n"));
        }
        for (kind, n) in &self.not_held {
            out.push_str(&format!("{} could not be given the recorded {kind} here\n", entries(*n)));
        }
        if !self.older.is_empty() {
            out.push_str(&format!(
                "{} could not be read when the snapshot was made, and came from older ones:\n",
                count_text(self.older.len() as u64, "path")
            ));
        }
        if !self.missing.is_empty() {
            out.push_str(&format!(
                "{} could not be read when the snapshot was made:\n",
                count_text(self.missing.len() as u64, "path")
            ));
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        let missing = self.older.iter().chain(&self.missing).map(|line| format!("missing: {line}"));
        let lost = |id| format!("missing: secrets bundle {id}, which the snapshot names, is not on the store");
        missing.chain(self.lost_bundle.iter().map(lost)).collect()
    }
}

/// Restores a snapshot.
///
/// # Errors
/// When it cannot be found, opened or verified, or the target holds something different. Nothing appears then.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let begun = std::time::Instant::now();
    let configured = configuration(world)?;
    let config = configured.as_ref().map(|c| &c.config);
    let wanted = Wanted::parse(&args.snapshot, world.now())?;
    let which: Vec<Which> = match (args.no_secrets, args.secrets_only) {
        (true, _) => vec![Which::State],
        (_, true) => vec![Which::Secrets],
        _ => vec![Which::State, Which::Secrets],
    };
    let mut keys = Keys::find(world, args.identity.as_deref(), config, &which)?;
    let (url, series) = whereabouts(args, &keys, configured.as_ref())?;
    let store = Store::open(world, &url, Access::Existing)?;
    let key = public_key(world, &keys, configured.as_ref())?;
    if key.is_none() && !args.allow_unsigned {
        return Err(Error::failed("there is no key here to check signatures with").hint(
            "use the recovery kit, which holds it, or --allow-unsigned to trust whoever can write to the store",
        ));
    }
    let found = snapshots::load(&store, &series, key.as_ref())?;
    warn(&found, world.now(), events);
    let mut archives = open_archives(world, args, &wanted, &store, &found, &mut keys, events)?;
    if let [state, secrets] = &mut archives[..] {
        keep_further_names(state, &secrets.tree)?;
    }

    let target = args.target.as_ref().map(|t| std::path::absolute(t).at("find", t)).transpose()?;
    let layout = match &target {
        Some(target) => Layout::target(target.as_os_str().as_bytes()),
        None => Layout::machine(world.home.as_os_str().as_bytes()),
    };
    events(Event::Phase("restoring"));
    let plan = Plan::make(&archives, Goal { layout, target: target.as_deref(), overwrite: args.overwrite })?;
    let limits = Limits::default();
    if args.dry_run {
        archives.iter().try_for_each(Opened::check_digest)?;
    } else {
        plan.carry_out(world, &store, &limits, events)?;
    }
    let id = |archive| archives.iter().find(|a| a.commit().archive == archive).map(|a| a.commit().id.to_string());
    let totals = plan.totals;
    Ok(Done {
        series,
        store: store.name(),
        state: id(Archive::State),
        secrets: id(Archive::Secrets),
        lost_bundle: if args.no_secrets { None } else { lost_bundle(&archives, &found) },
        target: target.as_deref().map_or_else(|| "where it was".to_owned(), printable_path),
        restored: totals.restored,
        same: totals.same,
        replaced: totals.replaced,
        bytes: totals.bytes,
        missing: plan.missing(),
        older: plan.older(),
        not_held: limits.counts(),
        different: if args.dry_run { plan.different() } else { Vec::new() },
        dry_run: args.dry_run,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// The bundle that a restored state archive names, where neither it nor a newer one was there to restore.
fn lost_bundle(archives: &[Opened], found: &[Found]) -> Option<String> {
    let state = archives.iter().find(|a| a.commit().archive == Archive::State)?;
    let bundle = state.commit().bundle.as_ref()?;
    let named = |f: &Found| f.place.archive == Archive::Secrets && f.place.id == bundle.id && f.verified().is_some();
    let newer = archives.iter().any(|a| a.commit().archive == Archive::Secrets && a.commit().seq > state.commit().seq);
    (!newer && !found.iter().any(named)).then(|| bundle.id.to_string())
}

/// Store and series: as told, else as the kit says, else as configured.
pub(super) fn whereabouts(args: &Args, keys: &Keys, configured: Option<&Configured>) -> Result<(String, String)> {
    let filled = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
    let kit = keys.kit();
    let config = configured.map(|c| &c.config);
    let url =
        args.store.clone().or_else(|| kit.and_then(|k| filled(&k.store))).or_else(|| config.map(|c| c.store.clone()));
    let url = url.ok_or_else(|| {
        Error::not_there("no store was named, and neither a kit nor a configuration names one")
            .hint("name the recovery kit with --identity, or the store with --store")
    })?;
    let series =
        args.name.clone().or_else(|| kit.and_then(|k| filled(&k.series))).or_else(|| config.map(|c| c.name.clone()));
    let series = series.ok_or_else(|| {
        Error::usage("no series was named, and neither a kit nor a configuration names one").hint("name it with --name")
    })?;
    if !is_name(&series) {
        return Err(Error::usage(format!("`{}` is no name of a series", printable(series.as_bytes()))));
    }
    Ok((url, series))
}

pub(super) fn public_key(world: &World, keys: &Keys, configured: Option<&Configured>) -> Result<Option<PublicKey>> {
    if let Some(key) = keys.public_key()? {
        return Ok(Some(key));
    }
    Ok(configured.and_then(|c| signing_key(world, &c.file).ok()).map(|key| key.public()))
}

/// Says what a person should know about the store before trusting it.
fn warn(found: &[Found], now: i64, events: &mut Events<'_>) {
    for one in found {
        if let Standing::Unverified { why, .. } = &one.standing {
            let why = printable(why.to_string().as_bytes());
            events(Event::Warning(format!("{} does not verify and is skipped: {why}", one.place.directory())));
        }
    }
    for line in snapshots::hidden(found, now) {
        events(Event::Warning(format!("something may have been removed from the store: {line}")));
    }
}

fn open_archives(
    world: &World,
    args: &Args,
    wanted: &Wanted,
    store: &Store,
    found: &[Found],
    keys: &mut Keys,
    events: &mut Events<'_>,
) -> Result<Vec<Opened>> {
    let mut archives = Vec::new();
    if !args.secrets_only {
        let state = choose(found, Archive::State, wanted, args.allow_unsigned, world.now())?;
        say(&state, events);
        archives.push(open(store, found, &state.chain, args.allow_unsigned, keys.identities(Which::State)?)?);
    }
    if !args.no_secrets {
        // The newest keys are wanted even with an old state: those of that day were rotated since.
        let which = if args.secrets_only { wanted } else { &Wanted::Latest };
        match choose(found, Archive::Secrets, which, args.allow_unsigned, world.now()) {
            Ok(bundle) => {
                say(&bundle, events);
                let identities = keys.identities(Which::Secrets).map_err(|e| {
                    Error::new(e.kind(), e.to_string())
                        .because(e)
                        .hint("name the recovery kit with --identity, or leave the secrets out with --no-secrets")
                })?;
                archives.push(open(store, found, &bundle.chain, args.allow_unsigned, identities)?);
            }
            // An agent without secrets has no bundle; that is no reason to keep its state from it.
            Err(e) if e.kind() == Kind::NotThere && !args.secrets_only => {
                let promised = archives.iter().any(|a| a.commit().bundle.is_some());
                let text = "there is no secrets bundle on the store".to_owned();
                events(if promised { Event::Warning(text) } else { Event::Note(text) });
            }
            Err(e) => return Err(e),
        }
    }
    Ok(archives)
}

/// Says what was passed over, and what is restored though nobody vouches for it.
fn say(choice: &Choice<'_>, events: &mut Events<'_>) {
    for line in &choice.skipped {
        events(Event::Warning(line.clone()));
    }
    for found in choice.chain.iter().filter(|f| f.verified().is_none()) {
        let dir = found.place.directory();
        events(Event::Warning(format!("{dir} does not verify, and is restored because of --allow-unsigned")));
    }
}
