//! `lifeboat secrets`: what the bundles know of values, for who can open them. Names and places are told freely there;
//! a value only by `get` and `env`, and not to a terminal unless that is forced.

use std::path::PathBuf;

use serde::Serialize;

pub use self::diff::{Differences, NameInFile, diff};
pub use self::exposure::{Exposure, Holder, exposure};
pub use self::leaks::{FindingLine, LeakLine, Leaks, leaks};
pub use self::told::{GetArgs, Told, env, get};
use super::bundle_values::{Valued, values};
use super::opened::header;
use super::session::{Keys, configuration};
use super::signing::follow;
use super::snapshots::{self, Found, Wanted, choose};
use super::whereabouts::{Named, named, no_series, trusted};
use super::write_archive::clock_text;
use super::{Event, Events, Report, count_text};
use crate::error::{Error, Result};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::kit::Which;
use crate::model::path::printable;
use crate::model::secret_notes::SecretNotes;
use crate::model::store_key::Archive;
use crate::stream::age_keys::Identities;

mod diff;
mod exposure;
mod leaks;
mod told;

/// Seconds in a day.
const DAY_SECONDS: i64 = 86_400;

/// Which bundles, and what opens them.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// The kit.
    pub identity: Option<PathBuf>,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub series: Option<String>,
}

/// The bundles of a series.
struct Bundles {
    store: Store,
    found: Vec<Found>,
    keys: Keys,
    now: i64,
}

/// A bundle and what its manifest tells.
struct Noted<'a> {
    found: &'a Found,
    notes: SecretNotes,
}

impl Bundles {
    fn open(world: &World, args: &Args) -> Result<Bundles> {
        let configured = configuration(world)?;
        let config = configured.as_ref().map(|c| &c.config);
        let keys = Keys::find(world, args.identity.as_deref(), config, &[Which::Secrets])?;
        let (store, series) = (args.store.as_deref(), args.series.as_deref());
        let Named { url, series } = named(store, series, Some(&keys), configured.as_ref())?;
        let series = series.ok_or_else(no_series)?;
        let store = Store::open(world, &url, Access::Existing)?;
        let trusted = trusted(world, Some(&keys), configured.as_ref(), Some(&series))?.ok_or_else(|| {
            Error::failed("there is no key here to check signatures with").hint("use the recovery kit, which holds it")
        })?;
        let found = snapshots::load(&store, &series, Some(&follow(&store, &series, trusted)?.signers))?;
        Ok(Bundles { store, found, keys, now: world.now() })
    }

    fn identities(&mut self) -> Result<Identities> {
        self.keys.identities(Which::Secrets)
    }

    fn choose(&self, wanted: &str) -> Result<&Found> {
        let choice = choose(&self.found, Archive::Secrets, &Wanted::parse(wanted, self.now)?, false, self.now)?;
        Ok(choice.chain[0])
    }

    /// All bundles that verify and can be opened, oldest first. What is damaged, or sealed to other keys, is told.
    fn noted(&self, identities: &Identities, events: &mut Events<'_>) -> Vec<Noted<'_>> {
        let mut out: Vec<Noted<'_>> = Vec::new();
        for found in self.found.iter().filter(|f| f.place.archive == Archive::Secrets && f.verified().is_some()) {
            if out.iter().any(|n| n.found.place.id == found.place.id) {
                continue;
            }
            match header(&self.store, found, identities) {
                Ok(header) => out.push(Noted { found, notes: header.secrets.unwrap_or_default() }),
                Err(e) => events(Event::Warning(format!("bundle {} is left out: {e}", found.place.id))),
            }
        }
        out.sort_by_key(|n| n.found.verified().map(|c| c.seq));
        out
    }

    /// The values of one bundle.
    fn values(&self, found: &Found, identities: Identities) -> Result<Vec<Valued>> {
        values(&self.store, &self.found, found, identities)
    }
}

fn id(found: &Found) -> String {
    found.place.id.to_string()
}

fn time(found: &Found) -> String {
    clock_text(found.place.id.unix_seconds())
}

/// When the life of an archive is over, in Unix seconds.
fn ends(found: &Found) -> i64 {
    let days = found.verified().map_or(0, |c| i64::try_from(c.life).unwrap_or(i64::MAX));
    found.place.id.unix_seconds().saturating_add(days.saturating_mul(DAY_SECONDS))
}

/// A value without a key is called by its place alone.
fn shown_name(name: &str) -> String {
    if name.is_empty() { "(no name)".to_owned() } else { printable(name.as_bytes()) }
}

/// The values of the newest bundle by name.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// The bundle.
    pub bundle: String,
    /// Its values.
    pub values: Vec<ListedValue>,
}

/// A value, which is not told.
#[derive(Debug, Serialize)]
pub struct ListedValue {
    /// Its key in its file; empty if it has none.
    pub name: String,
    /// Its file, as an archive path.
    pub file: String,
    /// When the oldest bundle was made that has the same value, without another in between; RFC 3339.
    pub since: String,
    /// Days since then.
    pub days: i64,
    /// Whether it is too short or too common to be searched for in the state.
    pub unsearched: bool,
}

impl Report for Listed {
    fn text(&self) -> String {
        let mut out = String::new();
        for value in &self.values {
            let days = count_text(value.days.max(0).cast_unsigned(), "day");
            let note = if value.unsearched { "  (too short or common to be searched for)" } else { "" };
            out.push_str(&format!("{:<32}  {:>9}  {}{note}\n", shown_name(&value.name), days, value.file));
        }
        out.push_str(&format!("{} in bundle {}\n", count_text(self.values.len() as u64, "value"), self.bundle));
        out
    }
}

/// Lists names of values, and since when each is what it is.
///
/// # Errors
/// When there is no bundle, or no identity that opens it.
pub fn list(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Listed> {
    let mut bundles = Bundles::open(world, args)?;
    let identities = bundles.identities()?;
    let newest = bundles.choose("latest")?;
    let noted = bundles.noted(&identities, events);
    let now = bundles.now;
    let mut out = Listed { bundle: id(newest), values: Vec::new() };
    for value in bundles.values(newest, identities)? {
        let mut since = newest;
        for older in noted.iter().rev().skip_while(|n| n.found.place.id != newest.place.id) {
            if !has(&older.notes, &value) {
                break;
            }
            since = older.found;
        }
        let days = now.saturating_sub(since.place.id.unix_seconds()) / DAY_SECONDS;
        let file = printable(&value.path);
        let (since, unsearched) = (time(since), !value.is_searched);
        out.values.push(ListedValue { name: value.name.clone(), file, since, days, unsearched });
    }
    Ok(out)
}

/// Whether a bundle has the same value under the same name in the same file.
fn has(notes: &SecretNotes, value: &Valued) -> bool {
    let Some(fingerprint) = notes.fingerprint(&value.value) else { return false };
    let same = |n: &&crate::model::secret_notes::Named| n.name == value.name && n.path.bytes() == value.path;
    notes.values.iter().filter(same).any(|n| n.fingerprint == fingerprint)
}
