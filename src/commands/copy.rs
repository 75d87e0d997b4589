//! `lifeboat copy`: brings another store up to date with this one. Nothing is opened on the way, so it may run anywhere.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use super::catch_up::{Copied, Series, Why};
use super::list;
use super::signing::follow;
use super::transfer::Way;
use super::whereabouts::{self, Told, Whereabouts};
use super::{Event, Events, Report, bytes_text, count_text};
use crate::error::{Error, Kind, Result};
use crate::host::store::{Access, Store, canonical_url};
use crate::host::world::World;
use crate::model::config::{Tier, default_tiers};
use crate::stream::signers::Signers;

/// What `copy` was asked to do.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// The store that is brought up to date.
    pub to: String,
    /// Every series on the store.
    pub all: bool,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub name: Option<String>,
    /// The recovery kit, for its public key.
    pub identity: Option<PathBuf>,
    /// The public key itself, or a file with it.
    pub key: Option<String>,
    /// Tell what would be copied, and copy nothing.
    pub dry_run: bool,
    /// Bytes a second that leave for a bucket, at most; else as configured.
    pub limit_upload: Option<u64>,
}

/// What `copy` did.
#[derive(Debug, Serialize)]
pub struct Done {
    /// Where from.
    pub store: String,
    /// Where to.
    pub to: String,
    /// Nothing was copied.
    pub dry_run: bool,
    /// What became of each series.
    pub series: Vec<Copied>,
}

impl Report for Done {
    fn text(&self) -> String {
        if self.series.is_empty() {
            return format!("no series on {}\n", self.store);
        }
        let would = if self.dry_run { "would copy" } else { "copied" };
        let mut out = String::new();
        for one in &self.series {
            for archive in &one.archives {
                out.push_str(&format!("{would} {} {:>11}\n", archive.place, bytes_text(archive.bytes)));
            }
            let archives = count_text(one.archives.len() as u64, "archive");
            let (series, already, to) = (&one.series, one.already, &self.to);
            out.push_str(&format!("{series}: {would} {archives}, {}; ", bytes_text(one.bytes)));
            out.push_str(&format!("{already} on {to} already\n"));
            if one.receipts > 0 {
                out.push_str(&format!("{would} {} of drills\n", count_text(one.receipts, "receipt")));
            }
            let expired = one.skipped.iter().filter(|s| s.why == Why::Expired).count() as u64;
            if expired > 0 {
                out.push_str(&format!(
                    "{} not copied, as their time is over (-v lists them)\n",
                    count_text(expired, "archive")
                ));
            }
            if one.incomplete > 0 {
                let n = count_text(one.incomplete, "archive");
                out.push_str(&format!(
                    "{n} without a commit, which is not copied: interrupted runs, or one under way\n"
                ));
            }
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        self.series.iter().flat_map(Copied::problems).collect()
    }

    fn verdict(&self) -> Option<Kind> {
        let verdicts: Vec<Kind> = self.series.iter().filter_map(Copied::verdict).collect();
        verdicts.iter().copied().find(|kind| *kind == Kind::Damaged).or(verdicts.first().copied())
    }
}

/// Copies what the other store lacks.
///
/// # Errors
/// When a store is not there, cannot be read or written, or the other one holds another series of the same name. What is
/// damaged or past its time stands in the report.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let told = Told {
        identity: args.identity.as_deref(),
        store: args.store.as_deref(),
        name: args.name.as_deref(),
        key: args.key.as_deref(),
    };
    let place = whereabouts::find(world, told)?;
    let limit = args.limit_upload.or_else(|| place.configured.as_ref().and_then(|c| c.config.upload.limit));
    let to = open(world, &args.to, &place.store, limit)?;
    let names = match args.all {
        true => list::series(&place.store)?,
        false => vec![place.series()?.to_owned()],
    };
    events(Event::Phase("copying"));
    let mut series = Vec::new();
    for name in &names {
        let copied = match one(world, args, &place, &to, name, events) {
            // Anybody who may add can make up a series; the others are not to suffer for it.
            Err(e) if args.all && matches!(e.kind(), Kind::Usage | Kind::NotThere) => Copied::refused(name, &e),
            copied => copied?,
        };
        for skipped in copied.skipped.iter().filter(|s| s.why == Why::Expired) {
            events(Event::Detail(format!("not copied: {}: {}", skipped.place, skipped.text)));
        }
        series.push(copied);
    }
    Ok(Done { store: place.store.name(), to: to.name(), dry_run: args.dry_run, series })
}

fn one(
    world: &World,
    args: &Args,
    place: &Whereabouts,
    to: &Store,
    name: &str,
    events: &mut Events<'_>,
) -> Result<Copied> {
    let (key, trusted) = match place.key.clone().filter(|_| place.series.as_deref() == Some(name)) {
        Some(key) => (key, true),
        None => (follow(&place.store, name, store_key(&place.store, name, events)?)?.signers, false),
    };
    let way = Way { world, from: &place.store, to, listable: true };
    let tiers = tiers(place, name);
    let series = Series { way, name, key: &key, trusted, tiers: &tiers, dry_run: args.dry_run };
    series.catch_up(&BTreeSet::new(), &mut |_| Ok(()), events)
}

/// Opens the store that is brought up to date; a bucket takes `limit` bytes a second at most.
///
/// # Errors
/// [`Kind::Usage`] when it is the one that is copied from, [`Kind::NotThere`] when it is a directory that is not there.
pub(super) fn open(world: &World, url: &str, from: &Store, limit: Option<u64>) -> Result<Store> {
    let to = Store::open_limited(world, url, Access::Existing, limit).map_err(|e| match e.kind() {
        // A directory made here would stand in for a disk that is not mounted.
        Kind::NotThere => {
            let hint = "mount its disk, or make the directory if it is to be a new one";
            Error::new(e.kind(), e.to_string()).hint(hint)
        }
        _ => e,
    })?;
    let same_directory = || {
        let real = |store: &Store| store.local().and_then(|dir| std::fs::canonicalize(dir).ok());
        real(from).is_some_and(|dir| real(&to) == Some(dir))
    };
    if canonical_url(world, url)? == canonical_url(world, &from.name())? || same_directory() {
        let error = Error::usage(format!("{} is the store that would be copied", to.name()));
        return Err(error.hint("name another one"));
    }
    Ok(to)
}

fn store_key(store: &Store, series: &str, events: &mut Events<'_>) -> Result<Signers> {
    list::store_key(store, series, events)?.ok_or_else(|| {
        Error::not_there(format!("there is no key of the series {series}, here or on {}", store.name())).hint(
            "`lifeboat list --all` shows the series on a store; name the kit with --identity, or a key with --key",
        )
    })
}

fn tiers(place: &Whereabouts, series: &str) -> Vec<Tier> {
    let config = place.configured.as_ref().map(|c| &c.config).filter(|c| c.name == series);
    config.map_or_else(default_tiers, |c| c.tiers.clone())
}
