//! `lifeboat drill`: restores a snapshot to a scratch directory, looks at everything, and signs a receipt.
//!
//! The restore is that of `lifeboat restore`, with all that it checks. What comes after asks whether an agent could work
//! with the result: databases, configurations, and what its preset knows of its home.

mod checks;
mod files;
pub mod inside;
mod presets;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::checks::{Home, Tally};
use super::opened;
use super::session::{Keys, signing_key};
use super::snapshots::{self, Choice, Found, Wanted, choose};
use super::whereabouts::{self, Told, Whereabouts};
use super::{Event, Events, Report, bytes_text, count_text, receipts, restore};
use crate::error::{Error, Kind, Result};
use crate::host::sandbox;
use crate::host::scratch::Scratch;
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::counts::AgentCounts;
use crate::model::database::Facts;
use crate::model::kit::Which;
use crate::model::layout::Layout;
use crate::model::manifest::Header;
use crate::model::path::printable;
use crate::model::receipt::{Check, Receipt};
use crate::model::store_key::{Archive, SnapshotId};
use crate::stream::age_keys::Identities;
use crate::stream::sign::SigningKey;

/// What `drill` was asked to rehearse.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Which snapshot; the newest if nothing is said.
    pub snapshot: Option<String>,
    /// Any of those that can be restored.
    pub random: bool,
    /// Leave the secrets bundle out.
    pub no_secrets: bool,
    /// Look at what was restored in a process that sees nothing else and has no network.
    pub sandbox: bool,
    /// The recovery kit.
    pub identity: Option<PathBuf>,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub name: Option<String>,
}

/// One kind of check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// What was checked.
    pub name: String,
    /// How often.
    pub done: u64,
    /// How often it was not as it should be.
    pub failed: u64,
}

/// What the drill showed.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// The snapshot that was restored.
    pub snapshot: String,
    /// The secrets bundle that was restored with it.
    pub bundle: Option<String>,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// The receipt's key on the store, if one could be signed.
    pub receipt: Option<String>,
    /// Seconds that the restore took.
    pub seconds: f64,
    /// How old the snapshot was, in seconds: what would have been lost.
    pub age: u64,
    /// Entries restored.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Bytes of the archives on the store.
    pub stored: u64,
    /// What the agents had when the snapshot was made, by archive path of the home.
    pub agents: Vec<AgentCounts>,
    /// What was checked.
    pub checks: Vec<Checked>,
    /// What is not as it should be.
    pub findings: Vec<String>,
    /// What the snapshot lacks, and other reasons for which this is less than a proof.
    pub lacks: Vec<String>,
    /// What a person should know, though nothing is wrong.
    pub notes: Vec<String>,
}

impl Report for Done {
    fn text(&self) -> String {
        let with = self.bundle.as_ref().map_or(String::new(), |id| format!(" with bundle {id}"));
        let word = if self.passed { "passed" } else { "FAILED" };
        let mut out = format!(
            "drill {word}: snapshot {}{with}, {} old\n",
            self.snapshot,
            super::status::age_text(self.age.cast_signed())
        );
        let entries = if self.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", self.entries) };
        let (bytes, stored) = (bytes_text(self.bytes), bytes_text(self.stored));
        out.push_str(&format!(
            "restored {entries}, {bytes} in {:.1} s, from {stored} on {}\n",
            self.seconds, self.store
        ));
        for agent in &self.agents {
            let counts: Vec<String> = agent.counts.iter().map(|(what, n)| format!("{n} {what}")).collect();
            out.push_str(&format!("  {} had {}\n", printable(&agent.path.bytes()), counts.join(", ")));
        }
        for check in &self.checks {
            let failed = if check.failed > 0 { format!(", {} FAILED", check.failed) } else { String::new() };
            out.push_str(&format!("  {:<10} {}{failed}\n", check.name, count_text(check.done, "check")));
        }
        for note in &self.notes {
            out.push_str(&format!("note: {note}\n"));
        }
        if let Some(receipt) = &self.receipt {
            out.push_str(&format!("receipt {receipt}\n"));
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        let failed = self.findings.iter().map(|line| format!("failed: {line}"));
        failed.chain(self.lacks.iter().cloned()).collect()
    }

    fn verdict(&self) -> Option<Kind> {
        if !self.passed {
            return Some(Kind::Damaged);
        }
        (!self.lacks.is_empty()).then_some(Kind::Incomplete)
    }
}

/// Rehearses a restore.
///
/// # Errors
/// When there is nothing to restore, no identity opens it, another drill is under way, or there is no room. A snapshot
/// that turns out to be damaged is an error, too, after a receipt that says so.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let told = Told {
        identity: args.identity.as_deref(),
        store: args.store.as_deref(),
        name: args.name.as_deref(),
        key: None,
    };
    if args.sandbox {
        sandbox::probe(world)?;
    }
    let place = whereabouts::find(world, told)?;
    let series = place.series()?.to_owned();
    let found = snapshots::load(&place.store, &series, Some(place.key()?))?;
    let chosen = Chosen::find(args, &found, world.now(), events)?;
    let signing = signer(world, args, &place)?;
    let scratch = Scratch::open(&world.state_dir(&series))?;
    events(Event::Phase("rehearsing"));
    let begun = world.now();
    let drill = SnapshotId::new(begun, random()?);
    let restored = restore::run(world, &chosen.restore_args(args, &series, scratch.path()), events);
    let restored = match restored {
        Ok(restored) => restored,
        Err(e) if e.kind() == Kind::Damaged => {
            let mut tally = Tally::default();
            tally.record("restore", Err(String::new()));
            let receipt = receipt(&chosen, &series, drill, begun, &restore::Done::default(), &tally);
            if let Some(key) = &signing {
                receipts::put(&place.store, key, &receipt)?;
            }
            return Err(e);
        }
        Err(e) => return Err(e),
    };
    if !restored.paused.is_empty() {
        // A count, since a log is no place for names of secrets.
        let n = count_text(restored.paused.len() as u64, "piece");
        events(Event::Note(format!(
            "{n} paused in the snapshot: what is restored from it starts nothing before that is put back"
        )));
    }
    let (mut tally, agents) = look(world, args, &place, &found, &chosen, scratch.path(), events)?;
    // Content and tree digest of each were compared, or nothing would be there.
    tally.passed("hash", restored.restored);
    scratch.remove()?;
    let receipt = receipt(&chosen, &series, drill, begun, &restored, &tally);
    let mut lacks: Vec<String> =
        restored.missing.iter().chain(&restored.older).map(|l| format!("missing: {l}")).collect();
    match &signing {
        Some(key) => receipts::put(&place.store, key, &receipt)?,
        None => lacks.push("there is no signing key here, so nobody will know of this drill".to_owned()),
    }
    lacks.extend(restored.lost_bundle.iter().map(|id| format!("missing: secrets bundle {id} is not on the store")));
    Ok(Done {
        series,
        store: place.store.name(),
        snapshot: receipt.snapshot.0.to_string(),
        bundle: receipt.bundle.as_ref().map(|(id, _)| id.to_string()),
        passed: receipt.passed,
        receipt: signing.is_some().then(|| receipt.key()),
        seconds: restored.seconds,
        age: receipt.age_seconds,
        entries: receipt.entries,
        bytes: receipt.bytes,
        stored: receipt.stored,
        agents,
        checks: receipt
            .checks
            .iter()
            .map(|c| Checked { name: c.name.clone(), done: c.done, failed: c.failed })
            .collect(),
        findings: tally.findings,
        lacks,
        notes: tally.notes,
    })
}

/// Removes what a drill that was killed left on this machine.
pub fn sweep(world: &World, events: &mut Events<'_>) {
    let Ok(Some(configured)) = super::session::configuration(world) else { return };
    match Scratch::sweep(&world.state_dir(&configured.config.name)) {
        Ok(false) => {}
        Ok(true) => events(Event::Note("removed what a drill that was killed had restored".to_owned())),
        Err(e) => events(Event::Warning(e.to_string())),
    }
}

fn random() -> Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| Error::failed("there is no randomness").because(e.to_string()))?;
    Ok(u32::from_le_bytes(bytes))
}

/// The chains that are restored.
struct Chosen<'a> {
    state: Vec<&'a Found>,
    bundle: Option<&'a Found>,
}

impl<'a> Chosen<'a> {
    fn find(args: &Args, found: &'a [Found], now: i64, events: &mut Events<'_>) -> Result<Chosen<'a>> {
        let wanted = match &args.snapshot {
            Some(text) => Wanted::parse(text, now)?,
            None => Wanted::Latest,
        };
        let Choice { chain: mut state, skipped } = choose(found, Archive::State, &wanted, false, now)?;
        if args.random {
            let whole: Vec<Vec<&Found>> = found
                .iter()
                .filter(|f| f.place.archive == Archive::State && f.verified().is_some() && f.damage().is_none())
                .filter_map(|f| snapshots::chain(found, f, false, now).ok())
                .collect();
            let drawn = random()? as usize % whole.len().max(1);
            state = whole.into_iter().nth(drawn).unwrap_or(state);
        }
        skipped.into_iter().for_each(|line| events(Event::Warning(line)));
        let bundle = match args.no_secrets {
            true => None,
            false => match choose(found, Archive::Secrets, &Wanted::Latest, false, now) {
                Ok(bundle) => bundle.chain.first().copied(),
                Err(e) if e.kind() == Kind::NotThere => None,
                Err(e) => return Err(e),
            },
        };
        Ok(Chosen { state, bundle })
    }

    fn restore_args(&self, args: &Args, series: &str, target: &Path) -> restore::Args {
        restore::Args {
            snapshot: self.state.first().map_or_else(|| "latest".to_owned(), |f| f.place.id.to_string()),
            identity: args.identity.clone(),
            store: args.store.clone(),
            name: Some(series.to_owned()),
            target: Some(target.to_owned()),
            no_secrets: args.no_secrets,
            ..restore::Args::default()
        }
    }
}

/// The key that signs the receipt: the kit's, else this host's own.
fn signer(world: &World, args: &Args, place: &Whereabouts) -> Result<Option<SigningKey>> {
    use secrecy::ExposeSecret as _;
    let public = place.key()?.current();
    let mut keys = Vec::new();
    if let Some(file) = &args.identity {
        let config = place.configured.as_ref().map(|c| &c.config);
        let found = Keys::find(world, Some(file), config, &[Which::State])?;
        if let Some(text) = found.kit().and_then(|kit| kit.signing_secret.as_ref()) {
            keys.push(SigningKey::from_text(text.expose_secret())?);
        }
    }
    keys.extend(place.configured.as_ref().and_then(|c| signing_key(world, &c.file).ok()));
    Ok(keys.into_iter().find(|key| key.public() == *public))
}

fn receipt(
    chosen: &Chosen<'_>,
    series: &str,
    drill: SnapshotId,
    begun: i64,
    restored: &restore::Done,
    tally: &Tally,
) -> Receipt {
    let of = |f: &Found| (f.place.id.clone(), f.commit_sha256);
    let snapshot = chosen.state.first().map_or_else(|| (drill.clone(), [0; 32]), |f| of(f));
    let age = begun.saturating_sub(snapshot.0.unix_seconds());
    let stored = chosen.state.iter().chain(&chosen.bundle).flat_map(|f| f.objects.values());
    let milliseconds = std::time::Duration::try_from_secs_f64(restored.seconds).unwrap_or_default().as_millis();
    Receipt {
        series: series.to_owned(),
        snapshot,
        bundle: chosen.bundle.map(of),
        drill,
        program: format!("lifeboat {}", env!("CARGO_PKG_VERSION")),
        passed: tally.findings.is_empty(),
        milliseconds: u64::try_from(milliseconds).unwrap_or(u64::MAX),
        age_seconds: u64::try_from(age).unwrap_or(0),
        entries: restored.restored,
        bytes: restored.bytes,
        stored: stored.sum(),
        checks: tally
            .counts
            .iter()
            .map(|(name, (done, failed))| Check { name: name.to_string(), done: *done, failed: *failed })
            .collect(),
    }
}

/// Looks at what was restored.
fn look(
    world: &World,
    args: &Args,
    place: &Whereabouts,
    found: &[Found],
    chosen: &Chosen<'_>,
    target: &Path,
    events: &mut Events<'_>,
) -> Result<(Tally, Vec<AgentCounts>)> {
    let config = place.configured.as_ref().map(|c| &c.config);
    let wanted = if args.no_secrets { &[Which::State][..] } else { &[Which::State, Which::Secrets] };
    let mut keys = Keys::find(world, args.identity.as_deref(), config, wanted)?;
    let state = keys.identities(Which::State)?;
    let mut databases = BTreeMap::new();
    let newest = headers(&place.store, &chosen.state, &state, &mut databases)?;
    let mut sources = newest.sources.clone();
    let mut secrets: HashSet<Vec<u8>> = HashSet::new();
    if let Some(bundle) = chosen.bundle {
        let opened = opened::open(&place.store, found, &[bundle], false, keys.identities(Which::Secrets)?)?;
        record(opened.header(), &mut databases);
        secrets.extend(opened.tree.indices().map(|index| opened.tree.path(index)));
        sources.extend(opened.header().sources.iter().filter(|s| !newest.sources.contains(s)).cloned());
    }
    events(Event::Phase("looking at what was restored"));
    let layout = Layout::target(std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str()));
    let home = Home { layout, source_home: newest.home.clone(), secrets, sources };
    let tally = match args.sandbox {
        true => inside::ask(world, target, home, databases, &newest.agents)?,
        false => check(&home, &databases, &newest.agents),
    };
    world.check_stop()?;
    Ok((tally, newest.agents))
}

/// All checks. Databases take as long as everything else, and are looked at beside it.
fn check(home: &Home, databases: &BTreeMap<Vec<u8>, Facts>, agents: &[AgentCounts]) -> Tally {
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let mut tally = Tally::default();
            checks::databases(home, databases, &mut tally);
            tally
        });
        let mut tally = Tally::default();
        checks::modes(home, &mut tally);
        presets::presets(home, &mut tally);
        presets::counts_of(home, agents, &mut tally);
        match beside.join() {
            Ok(databases) => tally.add(databases),
            Err(_) => tally.record("database", Err("the thread that looked at the databases stopped".to_owned())),
        }
        tally
    })
}

/// The newest header of a chain; what its archives say about databases, newest last.
fn headers(
    store: &Store,
    chain: &[&Found],
    identities: &Identities,
    databases: &mut BTreeMap<Vec<u8>, Facts>,
) -> Result<Header> {
    let mut newest = Header::default();
    for found in chain.iter().rev() {
        newest = opened::header(store, found, identities)?;
        record(&newest, databases);
    }
    Ok(newest)
}

fn record(header: &Header, databases: &mut BTreeMap<Vec<u8>, Facts>) {
    databases.extend(header.databases.iter().map(|d| (d.path.bytes(), d.facts.clone())));
}
