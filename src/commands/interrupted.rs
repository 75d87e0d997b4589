//! A state archive that a run did not bring to its end: what that run noted in the state directory, and whether the next
//! one may go on with it.
//!
//! The notes hold no content and no name, only digests of names, and are private all the same. The secrets bundle takes
//! none: it is small, and begins anew. It may go on only where the finished archive would be the one that is due now: on
//! the UTC day of its id, in the same tier, against the same parent, for the same recipients, under the same rules, and
//! searched for the same values of secrets: what it has stored cannot be searched once more.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::plan::{Action, Plan};
use super::session::sha256;
use super::write_archive::{PROGRAM, Run, Terms};
use super::{Event, Events, bytes_text, count_text};
use crate::error::{At as _, Error, Result};
use crate::host::scan::Scan;
use crate::host::store::Store;
use crate::host::world::{World, private_dir};
use crate::model::commit::Object;
use crate::model::manifest::hex;
use crate::model::store_key::{Archive, COMMIT, MANIFEST, Place, SIGNATURE, SnapshotId, is_volume_name};
use crate::model::sweep::Sweep;
use crate::model::tree::Index;
use crate::stream::resume::{Ledger, Notes, Past};

/// Where in the state directory of a series the notes are.
const DIRECTORY: &str = "interrupted";
/// Half of the numbers that volumes may have.
const NUMBERS_MAX: usize = 500_000;
/// Seconds in a day.
const DAY_SECONDS: i64 = 86_400;
/// What the key of the digest of those values is derived for.
const CONTEXT: &str = "lifeboat 2026-11 digest of values in the notes of an archive";

/// What has to be the same for an archive to go on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    program: String,
    store: String,
    series: String,
    tier: Option<String>,
    generation: Option<String>,
    parent: Option<(String, String)>,
    recipients: Vec<String>,
    policy: String,
    secrets: String,
    home: String,
}

impl Head {
    fn of(run: &Run<'_>, terms: &Terms, sweep: Option<&Sweep>) -> Head {
        Head {
            program: PROGRAM.to_owned(),
            store: run.store.name(),
            series: run.config.name.clone(),
            tier: terms.tier.clone(),
            generation: terms.generation.as_ref().map(ToString::to_string),
            parent: terms.parent.as_ref().map(|p| (p.id.to_string(), hex(&p.sha256))),
            recipients: run.config.state.recipients.clone(),
            policy: run.policy.clone(),
            secrets: sweep.map_or_else(String::new, |sweep| hex(&sweep.tag(&run.key.derive(CONTEXT)))),
            home: crate::model::path::printable_path(&run.world.home),
        }
    }
}

/// An archive that can be continued, from its first volume on.
pub struct Archiving {
    /// Its id.
    pub id: SnapshotId,
    /// What there is of it, and what is noted for the next run.
    pub notes: Notes,
}

/// Begins a state archive, or goes on with the one that an earlier run did not bring to its end.
///
/// # Errors
/// When the state directory cannot be written, or the store cannot be read.
pub fn begin(
    run: &Run<'_>,
    terms: &Terms,
    id: SnapshotId,
    scan: &Scan,
    (plan, sweep): (Option<&Plan>, Option<&Sweep>),
    events: &mut Events<'_>,
) -> Result<Archiving> {
    let dir = directory(run.world, &run.config.name);
    let head = Head::of(run, terms, sweep);
    if let Some((id, past)) = go_on(run, terms, &head, &dir)?
        && past.is_part_of(names(scan, plan).chain(own_names(plan)))
    {
        events(Event::Note(format!(
            "going on with snapshot {id}, of which {} ({}) are on the store already",
            count_text(past.objects.len() as u64, "volume"),
            bytes_text(past.bytes())
        )));
        let ledger = ledger(&dir, &past)?;
        ledger.resumed(&past);
        return Ok(Archiving { id, notes: Notes::new(ledger, past) });
    }
    forget(run.world, &run.config.name)?;
    private_dir(&dir)?;
    let text = serde_json::to_string(&(id.to_string(), &head)).map_err(|e| Error::failed("cannot note").because(e))?;
    let file = dir.join("head");
    append(&file)?.write_all(text.as_bytes()).at("write", &file)?;
    let none = Past::default();
    Ok(Archiving { id, notes: Notes::new(ledger(&dir, &none)?, none) })
}

/// Forgets an archive that counts, or cannot go on, or holds what it must not.
///
/// # Errors
/// When the notes cannot be removed.
pub fn forget(world: &World, series: &str) -> Result<()> {
    let dir = directory(world, series);
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", &dir),
    }
}

fn directory(world: &World, series: &str) -> PathBuf {
    world.state_dir(series).join(DIRECTORY)
}

fn append(file: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(file).at("write", file)
}

/// The lists, each cut to what is whole of it: what an earlier run noted in part would swallow what is noted next.
fn ledger(dir: &Path, past: &Past) -> Result<Arc<Ledger>> {
    let (members, volumes) = past.whole_bytes();
    let list = |name: &str, whole: u64| {
        let file = dir.join(name);
        let list = append(&file)?;
        list.set_len(whole).at("write", &file)?;
        Ok(list)
    };
    let members = BufWriter::with_capacity(1 << 16, list("members", members)?);
    Ok(Arc::new(Ledger::new(past, Box::new(members), Box::new(list("volumes", volumes)?))))
}

/// What is there of an archive that may go on.
fn go_on(run: &Run<'_>, terms: &Terms, head: &Head, dir: &Path) -> Result<Option<(SnapshotId, Past)>> {
    let Ok(text) = std::fs::read_to_string(dir.join("head")) else { return Ok(None) };
    let Ok((id, before)) = serde_json::from_str::<(String, Head)>(&text) else { return Ok(None) };
    let Some(id) = SnapshotId::parse(&id).filter(|_| before == *head) else { return Ok(None) };
    let today = id.unix_seconds().div_euclid(DAY_SECONDS) == run.world.now().div_euclid(DAY_SECONDS);
    // A run that was killed just after it had signed left one that counts by now.
    let counts = run.catalog.snapshots()?.iter().any(|known| known.past.id == id);
    let Some(tier) = terms.tier.as_ref().filter(|_| today && !counts) else { return Ok(None) };
    let place =
        Place { parent: terms.parent.as_ref().map(|p| p.id.clone()), ..Place::state(tier, &run.config.name, &id) };
    let listed = match run.store.list(&place.directory()) {
        // Who may only add cannot look: what was answered to be there is.
        Err(e) if Store::is_refusal(&e) => None,
        listed => Some(listed?),
    };
    let size = |name: &str| listed.iter().flatten().find(|l| l.key == place.object(name)).map(|l| l.size);
    let is_there = |object: &Object, noted: bool| match (&listed, noted) {
        (None, noted) => noted,
        (Some(_), true) => size(&object.name) == Some(object.size),
        // Its answer was lost, or the run was killed just then: its bytes tell.
        (Some(_), false) => {
            let arrived = size(&object.name) == Some(object.size);
            let bytes = arrived.then(|| run.store.get(&place.object(&object.name), object.size));
            bytes.is_some_and(|bytes| bytes.is_ok_and(|bytes| sha256(&bytes) == object.sha256))
        }
    };
    let (Ok(members), Ok(volumes)) = (File::open(dir.join("members")), File::open(dir.join("volumes"))) else {
        return Ok(None);
    };
    let read = Past::read(&mut BufReader::new(members), &mut BufReader::new(volumes), &is_there);
    let mut past = read.at("read", dir)?;
    let manifest = match listed {
        Some(_) => [MANIFEST, SIGNATURE, COMMIT].into_iter().any(|name| size(name).is_some()),
        None => past.manifest,
    };
    for listed in listed.iter().flatten() {
        let name = listed.key.rsplit('/').next().unwrap_or_default();
        let number = name.split('.').next().and_then(|n| n.parse::<usize>().ok());
        if let Some(number) = number.filter(|_| is_volume_name(name)) {
            past.next_number = past.next_number.max(number + 1);
        }
    }
    // Somebody else may have put a volume of a number that leaves no room behind it.
    let room = past.next_number < NUMBERS_MAX;
    Ok((!manifest && room && !past.objects.is_empty()).then_some((id, past)))
}

/// The members that this run will make.
fn names<'a>(scan: &'a Scan, plan: Option<&'a Plan>) -> impl Iterator<Item = Vec<u8>> + 'a {
    let listed = move |i: &Index| plan.is_none_or(|plan| plan.actions.contains_key(i));
    let mine = move |i: &Index| scan.tree.node(*i).archive == Archive::State && listed(i);
    scan.tree.indices().filter(mine).map(|i| scan.tree.path(i))
}

/// Those of the format's own that it may make.
fn own_names(plan: Option<&Plan>) -> impl Iterator<Item = Vec<u8>> {
    let is_delta = |action: &&Action| matches!(action, Action::Delta(_));
    let deltas = plan.map_or(0, |plan| plan.actions.values().filter(is_delta).count());
    let numbered = |what: &'static str| move |n| format!("lifeboat/{what}/{n}").into_bytes();
    let lists = ["links", "deleted", "databases"].into_iter().map(|name| format!("lifeboat/{name}").into_bytes());
    (0..deltas).map(numbered("delta")).chain((0..deltas).map(numbered("patch"))).chain(lists)
}
