//! `lifeboat restore`: from kit and store alone, everything back and checked.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use serde::Serialize;

use super::agents;
use super::bring_back::{Goal, Overwrite, Plan, aside};
use super::look::homes;
use super::opened::{Opened, keep_further_names, overridden};
use super::reading::{Reading, Where};
use super::snapshots::{Found, Wanted};
use super::surplus::{self, Keep, Removed, Surplus};
use super::warm_up::{self, Warmed};
use super::{Event, Events, Report, bytes_text, count_text};
use crate::error::{At as _, Error, Kind, Result};
use crate::host::extract::Limits;
use crate::host::prompt;
use crate::host::world::World;
use crate::model::asked::Globs;
use crate::model::kit::Which;
use crate::model::layout::Layout;
use crate::model::path::{printable, printable_path};
use crate::model::store_key::{Archive, MANIFEST};

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
    /// What of it, as globs; everything where there is none.
    pub paths: Vec<String>,
    /// What becomes of what differs.
    pub overwrite: Overwrite,
    /// Read what has the size and time of its entry all the same.
    pub verify_existing: bool,
    /// Restore what does not verify.
    pub allow_unsigned: bool,
    /// Leave under another name what presets know how to pause.
    pub paused: bool,
    /// Remove what the snapshot does not have.
    pub delete: bool,
    /// Do so without being asked.
    pub yes: bool,
    /// Pass over what is marked as suspicious.
    pub good: bool,
    /// Write nothing.
    pub dry_run: bool,
    /// Ask the cloud for what its archive holds of it, and write nothing.
    pub warm_up: bool,
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
            paths: Vec::new(),
            overwrite: Overwrite::Refuse,
            verify_existing: false,
            allow_unsigned: false,
            paused: false,
            delete: false,
            yes: false,
            good: false,
            dry_run: false,
            warm_up: false,
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
    /// Entries that stay as they are though they differ.
    pub left: u64,
    /// Entries removed that the snapshot does not have.
    pub removed: u64,
    /// What was to be removed and stays, with the reasons.
    pub kept: Vec<String>,
    /// What would be removed, of a dry run.
    pub surplus: Vec<String>,
    /// What differs at the target, of a dry run.
    pub different: Vec<String>,
    /// What comes to a place where nothing is, of a dry run.
    pub new: Vec<String>,
    /// What differs and stays, of a dry run.
    pub staying: Vec<String>,
    /// What is there under the name of what is paused.
    pub paused: Vec<Paused>,
    /// With `--paused`: what could be paused and was there before, in use.
    pub in_use: Vec<String>,
    /// What to do before an agent starts in what was restored.
    pub after: Vec<String>,
    /// Nothing was written.
    pub dry_run: bool,
    /// What was asked for instead of being restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmed: Option<Warmed>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// A file that is paused.
#[derive(Debug, Serialize)]
pub struct Paused {
    /// Where it is.
    pub path: String,
    /// What it is called in use.
    pub in_use: String,
}

impl Paused {
    fn new(in_use: &[u8]) -> Paused {
        Paused { path: printable(&aside(in_use)), in_use: printable(in_use) }
    }

    /// The command that puts it back.
    fn resume(&self) -> String {
        let quoted = |path: &str| format!("'{}'", path.replace('\'', r"'\''"));
        format!("mv -n {} {}", quoted(&self.path), quoted(&self.in_use))
    }
}

impl Report for Done {
    fn text(&self) -> String {
        if let Some(warmed) = &self.warmed {
            return warmed.text();
        }
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
        if self.left > 0 {
            let verb = if self.left == 1 { "differs and stays as it is" } else { "differ and stay as they are" };
            out.push_str(&format!("{} {verb}\n", entries(self.left)));
        }
        match (self.dry_run, self.removed, self.surplus.len() as u64) {
            (false, 1.., _) => {
                out.push_str(&format!("{} removed that the snapshot does not have\n", entries(self.removed)))
            }
            (true, _, n @ 1..) => out.push_str(&format!("would remove {}\n", entries(n))),
            _ => {}
        }
        named(&mut out, "differs", &self.different);
        named(&mut out, "stays", &self.staying);
        named(&mut out, "new", &self.new);
        named(&mut out, "removes", &self.surplus);
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
        if !self.paused.is_empty() {
            let n = entries(self.paused.len() as u64);
            out.push_str(&format!("{n} paused; when nothing else runs under the same tokens, put back with\n"));
            self.paused.iter().for_each(|one| out.push_str(&format!("  {}\n", one.resume())));
        }
        for path in &self.in_use {
            out.push_str(&format!("not paused, since it was there before: {path}\n"));
        }
        if !self.after.is_empty() {
            out.push_str("before an agent starts:\n");
            self.after.iter().for_each(|step| out.push_str(&format!("  {step}\n")));
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        let missing = self.older.iter().chain(&self.missing).map(|line| format!("missing: {line}"));
        let lost = |id| format!("missing: secrets bundle {id}, which the snapshot names, is not on the store");
        let kept = self.kept.iter().map(|line| format!("not removed: {line}"));
        missing.chain(self.lost_bundle.iter().map(lost)).chain(kept).collect()
    }
}

/// How many paths of a kind the text names; the JSON has all.
const NAMED_MAX: usize = 100;

/// Names the first of what a dry run found.
fn named(out: &mut String, word: &str, paths: &[String]) {
    for path in paths.iter().take(NAMED_MAX) {
        out.push_str(&format!("{word}: {path}\n"));
    }
    if paths.len() > NAMED_MAX {
        out.push_str(&format!("{word}: {} more, which --json names\n", paths.len() - NAMED_MAX));
    }
}

/// Restores a snapshot.
///
/// # Errors
/// When it cannot be found, opened or verified, or the target holds something different. Nothing appears then.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let begun = std::time::Instant::now();
    let wanted = Wanted::parse(&args.snapshot, world.now())?;
    let which: Vec<Which> = match (args.no_secrets, args.secrets_only) {
        (true, _) => vec![Which::State],
        (_, true) => vec![Which::Secrets],
        _ => vec![Which::State, Which::Secrets],
    };
    let place = Where {
        identity: args.identity.clone(),
        store: args.store.clone(),
        name: args.name.clone(),
        allow_unsigned: args.allow_unsigned,
        good: args.good,
    };
    let mut reading = Reading::begin(world, &place, &which, events)?;
    let mut archives = match open_archives(args, &wanted, &mut reading, events) {
        Err(e) if args.warm_up && e.kind() == Kind::Archived => {
            let manifests = manifests(args, &wanted, &reading)?;
            let warmed = warm_up::ask(world, &reading.store, manifests, (true, args.dry_run), events)?;
            return Ok(only_warmed(&reading, warmed));
        }
        archives => archives?,
    };
    if let [state, secrets] = &mut archives[..] {
        let hidden = overridden(&state.tree, &secrets.tree);
        keep_further_names(state, &hidden)?;
    }
    let globs = narrow(world, args, &mut archives)?;

    let target = args.target.as_ref().map(|t| std::path::absolute(t).at("find", t)).transpose()?;
    let layout = match &target {
        Some(target) => Layout::target(target.as_os_str().as_bytes()),
        None => Layout::machine(world.home.as_os_str().as_bytes()),
    };
    events(Event::Phase("restoring"));
    if target.is_none() {
        agents::check_homes(world, &archives, &layout)?;
    }
    let goal = Goal {
        layout,
        target: target.as_deref(),
        overwrite: args.overwrite,
        verify_existing: args.verify_existing,
        globs: globs.as_ref(),
        paused: args.paused,
    };
    let plan = Plan::make(&archives, goal)?;
    if plan.is_empty() && globs.is_some() {
        let globs = args.paths.join(" ");
        return Err(Error::not_there(format!("the snapshot has nothing that matches {}", printable(globs.as_bytes())))
            .hint("quote globs, so that the shell leaves them alone; `lifeboat find` shows what they match"));
    }
    if args.warm_up {
        let warmed = warm_up::ask(world, &reading.store, plan.volumes(), (false, args.dry_run), events)?;
        return Ok(only_warmed(&reading, warmed));
    }
    let surplus = if args.delete { Some(surplus(world, args, &reading, &archives, &plan, events)?) } else { None };
    let limits = Limits::default();
    let removed = if args.dry_run {
        archives.iter().try_for_each(Opened::check_digest)?;
        Removed::default()
    } else {
        plan.carry_out(world, &reading.store, surplus.as_ref(), &limits, events).map_err(|e| match e.kind() {
            Kind::Archived => warm_up::explain(e, &plan.volumes()),
            _ => e,
        })?
    };
    let id = |archive| archives.iter().find(|a| a.commit().archive == archive).map(|a| a.commit().id.to_string());
    let totals = plan.totals;
    Ok(Done {
        series: reading.series.clone(),
        store: reading.store.name(),
        state: id(Archive::State),
        secrets: id(Archive::Secrets),
        lost_bundle: if args.no_secrets { None } else { lost_bundle(&archives, &reading.found) },
        target: target.as_deref().map_or_else(|| "where it was".to_owned(), printable_path),
        restored: totals.restored,
        same: totals.same,
        replaced: totals.replaced,
        bytes: totals.bytes,
        missing: plan.missing(),
        older: plan.older(),
        not_held: limits.counts(),
        left: totals.left,
        removed: removed.count,
        kept: removed.kept,
        surplus: surplus.filter(|_| args.dry_run).map_or(Vec::new(), |surplus| surplus.paths()),
        different: if args.dry_run { plan.different() } else { Vec::new() },
        new: if args.dry_run { plan.new_paths() } else { Vec::new() },
        staying: if args.dry_run { plan.left() } else { Vec::new() },
        paused: plan.paused(&archives)?.iter().map(|path| Paused::new(&plan.goal().layout.to_disk(path))).collect(),
        in_use: if args.paused { plan.in_use(&archives)? } else { Vec::new() },
        after: agents::steps(&archives, &plan)?,
        dry_run: args.dry_run,
        warmed: None,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// What `--delete` will remove, which somebody has said yes to.
fn surplus(
    world: &World,
    args: &Args,
    reading: &Reading,
    archives: &[Opened],
    plan: &Plan<'_>,
    events: &mut Events<'_>,
) -> Result<Surplus> {
    let ask = world.terminal && !args.yes && !args.dry_run;
    if !ask && !args.yes && !args.dry_run {
        return Err(Error::usage("--delete asks before it removes anything, and there is nobody to ask")
            .hint("--dry-run lists what would go, --yes answers"));
    }
    if !args.dry_run {
        plan.check()?;
    }
    let mut own: Vec<PathBuf> = args.identity.iter().cloned().collect();
    own.extend(reading.store.local().map(std::path::Path::to_owned));
    let paused = plan.paused(archives)?.iter().map(|path| aside(path)).collect();
    let keep = Keep { files: own, paused };
    let surplus = surplus::find(world, (&reading.series, &reading.store), archives, plan.goal(), &keep, events)?;
    if !ask || surplus.is_empty() {
        return Ok(surplus);
    }
    let paths = surplus.paths();
    let mut text = String::new();
    named(&mut text, "removes", &paths);
    let what = if paths.len() == 1 { "this one entry".to_owned() } else { format!("these {} entries", paths.len()) };
    // In one with the question, so that nobody answers what `-q` kept from them.
    match prompt::confirm(world, &format!("{text}Restore, and remove {what} that the snapshot does not have?"))? {
        Some(true) => Ok(surplus),
        Some(false) => Err(Error::failed("the answer was no; nothing was changed")),
        None => Err(Error::usage("--delete asks before it removes anything, and there is nobody to ask")
            .hint("--dry-run lists what would go, --yes answers")),
    }
}

/// What of the archives is asked for, if not all of it.
fn narrow(world: &World, args: &Args, archives: &mut [Opened]) -> Result<Option<Globs>> {
    let globs = match archives {
        [first, ..] if !args.paths.is_empty() => Globs::new(&args.paths, &homes(world, first.header()))?,
        _ => return Ok(None),
    };
    for archive in archives {
        let hidden: Vec<bool> = globs.select(&archive.tree).into_iter().map(|wanted| !wanted).collect();
        keep_further_names(archive, &hidden)?;
    }
    Ok(Some(globs))
}

/// What is told where nothing was restored.
fn only_warmed(reading: &Reading, warmed: Warmed) -> Done {
    let (series, store) = (reading.series.clone(), reading.store.name());
    Done { series, store, dry_run: warmed.dry_run, warmed: Some(warmed), ..Done::default() }
}

/// The manifests of what would be restored, by key and size.
fn manifests(args: &Args, wanted: &Wanted, reading: &Reading) -> Result<Vec<(String, u64)>> {
    let mut out = Vec::new();
    for (archive, left_out) in [(Archive::State, args.secrets_only), (Archive::Secrets, args.no_secrets)] {
        if left_out {
            continue;
        }
        let which = if archive == Archive::State || args.secrets_only { wanted } else { &Wanted::Latest };
        let choice = match reading.choose(archive, which) {
            Err(e) if e.kind() == Kind::NotThere => continue,
            choice => choice?,
        };
        for found in &choice.chain {
            let objects = found.usable(args.allow_unsigned).map(|commit| &commit.objects[..]).unwrap_or_default();
            let listed = objects.iter().filter(|o| o.name == MANIFEST);
            out.extend(listed.map(|o| (found.place.object(&o.name), o.size)));
        }
    }
    Ok(out)
}

/// The bundle that a restored state archive names, where neither it nor a newer one was there to restore.
fn lost_bundle(archives: &[Opened], found: &[Found]) -> Option<String> {
    let state = archives.iter().find(|a| a.commit().archive == Archive::State)?;
    let bundle = state.commit().bundle.as_ref()?;
    let named = |f: &Found| f.place.archive == Archive::Secrets && f.place.id == bundle.id && f.verified().is_some();
    let newer = archives.iter().any(|a| a.commit().archive == Archive::Secrets && a.commit().seq > state.commit().seq);
    (!newer && !found.iter().any(named)).then(|| bundle.id.to_string())
}

fn open_archives(args: &Args, wanted: &Wanted, reading: &mut Reading, events: &mut Events<'_>) -> Result<Vec<Opened>> {
    let mut archives = Vec::new();
    if !args.secrets_only {
        archives.push(reading.open(Archive::State, wanted, events)?);
    }
    if args.no_secrets {
        return Ok(archives);
    }
    // The newest keys are wanted even with an old state: those of that day were rotated since.
    let which = if args.secrets_only { wanted } else { &Wanted::Latest };
    match reading.choose(Archive::Secrets, which).map(drop) {
        Ok(()) => {
            let bundle = reading.open(Archive::Secrets, which, events).map_err(|e| match e.kind() {
                Kind::NoIdentity => Error::new(e.kind(), e.to_string())
                    .because(e)
                    .hint("name the recovery kit with --identity, or leave the secrets out with --no-secrets"),
                _ => e,
            })?;
            archives.push(bundle);
        }
        // An agent without secrets has no bundle; that is no reason to keep its state from it.
        Err(e) if e.kind() == Kind::NotThere && !args.secrets_only => {
            let promised = archives.iter().any(|a| a.commit().bundle.is_some());
            let text = "there is no secrets bundle on the store".to_owned();
            events(if promised { Event::Warning(text) } else { Event::Note(text) });
        }
        Err(e) => return Err(e),
    }
    Ok(archives)
}
