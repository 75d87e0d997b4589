//! `lifeboat list`: the snapshots and bundles on a store, and what is wrong with them.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::session::{Keys, configuration, signing_key};
use super::snapshots::{self, Found, Standing};
use super::write_archive::clock_text;
use super::{Event, Events, Report, bytes_text, count_text};
use crate::error::{Error, Result};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::kit::Which;
use crate::model::manifest::Header;
use crate::model::path::printable;
use crate::model::store_key::{MANIFEST, is_name, public_key};
use crate::stream::manifest_file;
use crate::stream::sign::PublicKey;

/// What `list` was asked to show.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Every series in the store.
    pub all: bool,
    /// Another store than the configured one.
    pub store: Option<String>,
    /// Another series.
    pub name: Option<String>,
    /// A kit, for its key and for the numbers of files.
    pub identity: Option<PathBuf>,
}

/// One archive.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The series.
    pub series: String,
    /// `state` or `secrets`.
    pub archive: &'static str,
    /// The snapshot's id.
    pub id: String,
    /// RFC 3339, by the id.
    pub time: String,
    /// What orders it.
    pub seq: Option<u64>,
    /// The tier, of a state archive.
    pub tier: Option<String>,
    /// The parent, of an incremental.
    pub parent: Option<String>,
    /// Bytes on the store.
    pub stored: u64,
    /// Files, where an identity at hand opens the manifest.
    pub files: Option<u64>,
    /// `ok`, `incomplete`, `unverified` or `damaged`.
    pub status: &'static str,
    /// More about a status that is not `ok`.
    pub note: Option<String>,
}

/// What is on the store.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// The store.
    pub store: String,
    /// By series and time.
    pub snapshots: Vec<Row>,
    /// Signs that something was removed before its time.
    pub hidden: Vec<String>,
}

impl Report for Listing {
    fn text(&self) -> String {
        if self.snapshots.is_empty() {
            return format!("no snapshots on {}\n", self.store);
        }
        let several = self.snapshots.iter().any(|r| r.series != self.snapshots[0].series);
        let mut out = String::new();
        for row in &self.snapshots {
            let series = if several { format!("{:<16} ", row.series) } else { String::new() };
            let kind = row.tier.as_deref().unwrap_or(row.archive);
            let files = row.files.map_or(String::new(), |n| format!("  {}", count_text(n, "file")));
            let note = match (row.status, &row.note) {
                ("ok", _) => String::new(),
                (status, Some(note)) => format!("  {status}: {note}"),
                (status, None) => format!("  {status}"),
            };
            let time = row.time.replace('T', " ").replace('Z', "");
            let line = format!("{series}{}  {time}  {kind:<9} {:>11}{files}{note}", row.id, bytes_text(row.stored));
            out.push_str(line.trim_end());
            out.push('\n');
        }
        for line in &self.hidden {
            out.push_str(&format!("hidden: {line}\n"));
        }
        out
    }
}

/// Lists what is on the store.
///
/// # Errors
/// When the store is not there or cannot be listed.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Listing> {
    let configured = configuration(world)?;
    let config = configured.as_ref().map(|c| &c.config);
    let mut keys = Keys::find(world, args.identity.as_deref(), config, &wanted(args, config.is_some()))?;
    let kit = keys.kit();
    let url = args.store.clone().or_else(|| kit.map(|k| k.store.clone()).filter(|s| !s.is_empty()));
    let url = url.or_else(|| config.map(|c| c.store.clone())).ok_or_else(no_store)?;
    let series = args.name.clone().or_else(|| kit.map(|k| k.series.clone()).filter(|s| !s.is_empty()));
    let series = series.or_else(|| config.map(|c| c.name.clone()));
    let store = Store::open(world, &url, Access::Existing)?;
    let own = own_key(world, &keys, configured.as_ref().map(|c| c.file.as_path()))?;
    let all: Vec<String> = match (&series, args.all) {
        (Some(series), false) => vec![series.clone()],
        _ => store
            .list_directories("keys")?
            .iter()
            .filter_map(|d| d.rsplit('/').next().filter(|n| is_name(n)).map(str::to_owned))
            .collect(),
    };
    let now = world.now();
    let mut listing = Listing { store: store.name(), snapshots: Vec::new(), hidden: Vec::new() };
    for name in all {
        let key = match &own {
            Some(key) if Some(&name) == series.as_ref() => Some(key.clone()),
            _ => store_key(&store, &name, events)?,
        };
        let found = snapshots::load(&store, &name, key.as_ref())?;
        listing.hidden.extend(snapshots::hidden(&found, now));
        for one in &found {
            let files = files(&store, one, &mut keys);
            listing.snapshots.push(row(one, files));
        }
    }
    Ok(listing)
}

/// Without a kit on the command line, only a state identity is worth asking the keyring for: it counts files.
fn wanted(args: &Args, configured: bool) -> Vec<Which> {
    match (&args.identity, configured) {
        (None, false) => Vec::new(),
        _ => vec![Which::State, Which::Secrets],
    }
}

fn no_store() -> Error {
    Error::not_there("there is no configuration here, and no store was named")
        .hint("name one with --store, or a recovery kit with --identity")
}

/// The key that signatures of the own series must verify with: the kit's, else this host's.
fn own_key(world: &World, keys: &Keys, config_file: Option<&Path>) -> Result<Option<PublicKey>> {
    if let Some(key) = keys.public_key()? {
        return Ok(Some(key));
    }
    Ok(config_file.and_then(|file| signing_key(world, file).ok()).map(|key| key.public()))
}

/// What the store itself says is the key of a series. It proves only that all of it was signed by one key.
fn store_key(store: &Store, series: &str, events: &mut Events<'_>) -> Result<Option<PublicKey>> {
    let Some(bytes) = store.get_if_there(&public_key(series, 1), 4096)? else { return Ok(None) };
    events(Event::Warning(format!(
        "signatures of {series} are checked with the key that stands on the store, which whoever can write to it could have put there"
    )));
    Ok(std::str::from_utf8(&bytes).ok().and_then(|t| PublicKey::from_text(t).ok()))
}

/// The number of files, if an identity at hand opens the manifest. A listing does not fail for want of it.
fn files(store: &Store, found: &Found, keys: &mut Keys) -> Option<u64> {
    let commit = found.verified()?;
    let which = match found.place.archive {
        crate::model::store_key::Archive::State => Which::State,
        crate::model::store_key::Archive::Secrets => Which::Secrets,
    };
    if !keys.has(which) {
        return None;
    }
    let identities = keys.identities(which).ok()?;
    let sealed = store.get(&found.place.object(MANIFEST), commit.manifest().size).ok()?;
    let header: Header = manifest_file::read_header(MANIFEST, &sealed, &identities).ok()?;
    Some(header.counts.files)
}

fn row(found: &Found, files: Option<u64>) -> Row {
    let place = &found.place;
    let (status, note) = match &found.standing {
        Standing::Incomplete => ("incomplete", Some("no commit: an interrupted run, or one under way".to_owned())),
        Standing::Unverified { why, .. } => ("unverified", Some(printable(why.to_string().as_bytes()))),
        Standing::Verified(_) => match found.damage() {
            Some(damage) => ("damaged", Some(damage)),
            None => ("ok", None),
        },
    };
    let commit = found.verified();
    Row {
        series: place.series.clone(),
        archive: place.archive.word(),
        id: place.id.to_string(),
        time: clock_text(place.id.unix_seconds()),
        seq: commit.map(|c| c.seq),
        tier: place.tier.clone(),
        parent: place.parent.as_ref().map(ToString::to_string),
        stored: found.objects.values().sum(),
        files,
        status,
        note,
    }
}
