//! `lifeboat list`: the snapshots and bundles on a store, and what is wrong with them.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;

use super::session::{Keys, configuration};
use super::signing::follow;
use super::snapshots::{self, Doubts, Found, Standing};
use super::whereabouts::{Named, named, trusted};
use super::write_archive::clock_text;
use super::{Event, Events, Report, bytes_text, count_text};
use crate::error::Result;
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::chain::{Link, Links, Worth, ends, worth};
use crate::model::config::{Tier, default_tiers};
use crate::model::kit::Which;
use crate::model::manifest::Header;
use crate::model::path::printable;
use crate::model::store_key::{Archive, MANIFEST, PIN, PINNED, SnapshotId, is_name, public_key};
use crate::model::tiers::keep_seconds;
use crate::stream::manifest_file;
use crate::stream::sign::PublicKey;
use crate::stream::signers::Signers;

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
    /// How many snapshots its chain has, itself included; of a state archive whose chain is whole.
    pub chain: Option<usize>,
    /// Bytes on the store.
    pub stored: u64,
    /// Bytes on the store of the whole chain.
    pub chain_stored: Option<u64>,
    /// RFC 3339: when the first life in its chain ends, and it may go; of one that is pinned, nothing.
    pub expires: Option<String>,
    /// Whether it was pinned itself, rather than only as part of another one's chain.
    pub pinned: bool,
    /// Files, where an identity at hand opens the manifest.
    pub files: Option<u64>,
    /// `ok`, `expired`, `incomplete`, `unverified` or `damaged`.
    pub status: &'static str,
    /// More about a status that is not `ok`.
    pub note: Option<String>,
    /// How many reasons there are to doubt what it holds, until somebody accepts it.
    pub suspicious: Option<u64>,
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
        let mut out = line(["snapshot", "tier", "own", "parent", "", "chain", "until", "files"]);
        let mut series = None;
        for row in &self.snapshots {
            if several && series != Some(&row.series) {
                out.push_str(&format!("series {}\n", row.series));
                series = Some(&row.series);
            }
            out.push_str(&row.line());
            match (row.status, &row.note) {
                ("ok", _) => {}
                (status, Some(note)) => out.push_str(&format!("  {status}: {note}\n")),
                (status, None) => out.push_str(&format!("  {status}\n")),
            }
            if let Some(n) = row.suspicious {
                out.push_str(&format!("  suspicious: {}, and nobody accepted it\n", count_text(n, "reason")));
            }
        }
        for line in &self.hidden {
            out.push_str(&format!("hidden: {line}\n"));
        }
        out
    }
}

/// One line of the text: at most a hundred columns.
fn line(cells: [&str; 8]) -> String {
    let [id, tier, own, parent, members, chain, until, files] = cells;
    let line =
        format!("{id:<25}  {tier:<7}  {own:>11}  {parent:<8}  {members:>2} {chain:>11}  {until:<10}  {files:>9}");
    format!("{}\n", line.trim_end())
}

impl Row {
    fn line(&self) -> String {
        // The random half of its id tells which one the parent is, and the day is enough to read: the JSON has the rest.
        let parent = match (&self.parent, self.chain) {
            (Some(parent), _) => parent.rsplit('-').next().unwrap_or_default(),
            (None, Some(_)) => "full",
            (None, None) => "",
        };
        let members = self.chain.map_or(String::new(), |n| n.to_string());
        let chain = self.chain_stored.map_or(String::new(), bytes_text);
        let copy = self.tier.as_deref() == Some(PINNED) && self.pinned;
        let until = self.expires.as_ref().and_then(|at| at.get(..10));
        let until = until.unwrap_or(if copy { "no end" } else { "" });
        let files = self.files.map_or(String::new(), |n| indicatif::HumanCount(n).to_string());
        let tier = self.tier.as_deref().unwrap_or(self.archive);
        line([&self.id, tier, &bytes_text(self.stored), parent, &members, &chain, until, &files])
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
    let (store, name) = (args.store.as_deref(), args.name.as_deref());
    let Named { url, series } = named(store, name, Some(&keys), configured.as_ref())?;
    let store = Store::open(world, &url, Access::Existing)?;
    let own = trusted(world, Some(&keys), configured.as_ref(), series.as_deref())?;
    let all: Vec<String> = match (&series, args.all) {
        (Some(series), false) => vec![series.clone()],
        _ => self::series(&store)?,
    };
    let now = world.now();
    let mut listing = Listing { store: store.name(), snapshots: Vec::new(), hidden: Vec::new() };
    for name in all {
        let key = match &own {
            Some(key) if Some(&name) == series.as_ref() => Some(key.clone()),
            _ => store_key(&store, &name, events)?,
        };
        let followed = key.map(|key| follow(&store, &name, key)).transpose()?;
        for line in followed.iter().flat_map(|f| &f.refused) {
            events(Event::Warning(line.clone()));
        }
        let found = snapshots::load(&store, &name, followed.as_ref().map(|f| &f.signers))?;
        listing.hidden.extend(snapshots::hidden(&found, now));
        let tiers = config.filter(|c| c.name == name).map_or_else(default_tiers, |c| c.tiers.clone());
        let pinned = found.iter().filter(|f| f.objects.contains_key(PIN)).map(|f| f.place.id.clone()).collect();
        let chains = Chains { links: links(&found), pinned, tiers: &tiers, doubts: Doubts::of(&found), now };
        for one in &found {
            let files = files(&store, one, &mut keys);
            listing.snapshots.push(row(one, files, &chains));
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

/// Every series that has a key on the store.
///
/// # Errors
/// When the store cannot be listed.
pub(super) fn series(store: &Store) -> Result<Vec<String>> {
    let directories = store.list_directories("keys")?;
    let names = directories.iter().filter_map(|d| d.rsplit('/').next().filter(|n| is_name(n)));
    Ok(names.map(str::to_owned).collect())
}

/// What the store itself says is the key of a series. It proves only that all of it was signed by one key.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn store_key(store: &Store, series: &str, events: &mut Events<'_>) -> Result<Option<Signers>> {
    let Some(bytes) = store.get_if_there(&public_key(series, 1), 4096)? else { return Ok(None) };
    events(Event::Warning(format!(
        "signatures of {series} are checked with the key that stands on the store, which whoever can write to it could have put there"
    )));
    Ok(std::str::from_utf8(&bytes).ok().and_then(|t| PublicKey::from_text(t).ok()).map(Signers::from))
}

/// The number of files, if an identity at hand opens the manifest. A listing does not fail for want of it.
fn files(store: &Store, found: &Found, keys: &mut Keys) -> Option<u64> {
    let commit = found.verified()?;
    let which = match found.place.archive {
        Archive::State => Which::State,
        Archive::Secrets => Which::Secrets,
    };
    if !keys.has(which) {
        return None;
    }
    let identities = keys.identities(which).ok()?;
    let sealed = store.get(&found.place.object(MANIFEST), commit.manifest().size).ok()?;
    let header: Header = manifest_file::read_header(MANIFEST, &sealed, &identities).ok()?;
    Some(header.counts.files)
}

/// What chains are judged by.
struct Chains<'a> {
    links: Links,
    /// Snapshots that were pinned themselves.
    pinned: HashSet<SnapshotId>,
    tiers: &'a [Tier],
    doubts: Doubts<'a>,
    now: i64,
}

/// The state archives that are whole, as far as a listing shows.
fn links(found: &[Found]) -> Links {
    let whole = found.iter().filter(|f| f.place.archive == Archive::State && f.damage().is_none());
    let link = |f: &Found| Some(Link { stored: f.objects.values().sum(), ..Link::of(f.verified()?) });
    whole.filter_map(link).map(|link| (link.id.clone(), link)).collect()
}

/// What became of an archive: the status, a note about it, and of a whole chain its members.
struct Verdict<'a> {
    status: &'static str,
    note: Option<String>,
    chain: Vec<&'a Link>,
}

fn verdict<'a>(found: &Found, chains: &'a Chains<'_>) -> Verdict<'a> {
    let of = |status, note| Verdict { status, note, chain: Vec::new() };
    let commit = match &found.standing {
        Standing::Incomplete => {
            return of("incomplete", Some("no commit: an interrupted run, or one under way".to_owned()));
        }
        Standing::Unverified { why, .. } => return of("unverified", Some(printable(why.to_string().as_bytes()))),
        Standing::Verified(commit) => commit,
    };
    let pinned = found.place.is_pinned();
    if let Some(damage) = found.damage() {
        // A store that ends lives takes the objects of one archive one after the other.
        let over = !pinned && Link::of(commit).ends() <= chains.now;
        return if over {
            of("expired", Some(format!("its life is over, and {damage}")))
        } else {
            of("damaged", Some(damage))
        };
    }
    if found.place.archive == Archive::Secrets {
        return of("ok", None);
    }
    let tier = commit.tier.as_deref().unwrap_or_default();
    let keep = if pinned { i64::MAX } else { keep_seconds(chains.tiers, tier, commit.life) };
    match worth(&chains.links, &commit.id, keep, chains.now) {
        Worth::Whole(chain) => Verdict { status: "ok", note: None, chain },
        Worth::Expired(gap) => {
            of("expired", Some(format!("the time that {tier} is kept is over, and {} of its chain is gone", gap.0)))
        }
        Worth::Broken(gap) => of("damaged", Some(format!("{} of its chain is missing or damaged", gap.0))),
    }
}

fn row(found: &Found, files: Option<u64>, chains: &Chains<'_>) -> Row {
    let place = &found.place;
    let Verdict { status, note, chain } = verdict(found, chains);
    let commit = found.verified();
    let ends = match (commit, &chain[..]) {
        (Some(commit), []) => Some(Link::of(commit).ends()),
        (Some(_), chain) => Some(ends(chain)),
        (None, _) => None,
    };
    let expires = ends.filter(|_| status == "ok" && !place.is_pinned()).map(clock_text).filter(|at| !at.is_empty());
    Row {
        series: place.series.clone(),
        archive: place.archive.word(),
        id: place.id.to_string(),
        time: clock_text(place.id.unix_seconds()),
        seq: commit.map(|c| c.seq),
        tier: place.tier.clone(),
        parent: place.parent.as_ref().map(ToString::to_string),
        chain: Some(chain.len()).filter(|n| *n > 0),
        stored: found.objects.values().sum(),
        chain_stored: Some(chain.iter().map(|link| link.stored).sum()).filter(|_| !chain.is_empty()),
        expires,
        pinned: chains.pinned.contains(&place.id),
        files,
        status,
        note,
        suspicious: commit.filter(|c| chains.doubts.about(c)).and_then(|c| c.suspicious),
    }
}
