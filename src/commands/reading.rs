//! What every command that reads snapshots begins with: keys, store, what lies on it, and an archive that is opened.

use std::path::PathBuf;

use super::opened::{Opened, open};
use super::session::{Keys, configuration};
use super::signing::follow;
use super::snapshots::{self, Choice, Doubts, Found, Standing, Wanted, choose, choose_good};
use super::whereabouts::{Named, named, no_series, trusted};
use super::{Event, Events};
use crate::error::{Error, Result};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::kit::Which;
use crate::model::path::printable;
use crate::model::store_key::Archive;
use crate::stream::age_keys::Identities;

/// Where to read, and with what.
#[derive(Clone, Debug, Default)]
pub struct Where {
    /// The kit.
    pub identity: Option<PathBuf>,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub name: Option<String>,
    /// Read what does not verify.
    pub allow_unsigned: bool,
    /// Pass over what is marked as suspicious.
    pub good: bool,
}

/// A series on a store, listed and judged, with the keys for it.
pub struct Reading {
    /// The series.
    pub series: String,
    /// The store.
    pub store: Store,
    /// All that is on it.
    pub found: Vec<Found>,
    /// Whether what does not verify is read.
    pub allow_unsigned: bool,
    how: How,
    keys: Keys,
}

/// What decides which archive is meant.
#[derive(Clone, Copy)]
struct How {
    allow_unsigned: bool,
    /// Whether what is marked as suspicious is passed over.
    good: bool,
    now: i64,
}

impl Reading {
    /// Finds keys for the archives of `which`, and looks at the store.
    ///
    /// # Errors
    /// When keys or store cannot be found or read, or there is no key to check signatures with.
    pub fn begin(world: &World, place: &Where, which: &[Which], events: &mut Events<'_>) -> Result<Reading> {
        let configured = configuration(world)?;
        let config = configured.as_ref().map(|c| &c.config);
        let keys = Keys::find(world, place.identity.as_deref(), config, which)?;
        let (store, series) = (place.store.as_deref(), place.name.as_deref());
        let Named { url, series } = named(store, series, Some(&keys), configured.as_ref())?;
        let series = series.ok_or_else(no_series)?;
        let store = Store::open(world, &url, Access::Existing)?;
        let trusted = trusted(world, Some(&keys), configured.as_ref(), Some(&series))?;
        if trusted.is_none() && !place.allow_unsigned {
            return Err(Error::failed("there is no key here to check signatures with").hint(
                "use the recovery kit, which holds it, or --allow-unsigned to trust whoever can write to the store",
            ));
        }
        let followed = trusted.map(|trusted| follow(&store, &series, trusted)).transpose()?;
        for line in followed.iter().flat_map(|f| &f.refused) {
            events(Event::Warning(line.clone()));
        }
        let found = snapshots::load(&store, &series, followed.as_ref().map(|f| &f.signers))?;
        let Where { allow_unsigned, good, .. } = *place;
        let how = How { allow_unsigned, good, now: world.now() };
        let reading = Reading { series, store, found, allow_unsigned, how, keys };
        reading.warn(events);
        Ok(reading)
    }

    /// The archive that a person means, with its chain.
    ///
    /// # Errors
    /// As [`choose`].
    pub fn choose(&self, archive: Archive, wanted: &Wanted) -> Result<Choice<'_>> {
        self.how.choose(&self.found, archive, wanted)
    }

    /// Opens the archive that a person means.
    ///
    /// # Errors
    /// As [`choose`] and [`open`].
    pub fn open(&mut self, archive: Archive, wanted: &Wanted, events: &mut Events<'_>) -> Result<Opened> {
        let choice = self.how.choose(&self.found, archive, wanted)?;
        say(&choice, &self.found, events);
        let identities = self.keys.identities(which_of(archive))?;
        open(&self.store, &self.found, &choice.chain, self.allow_unsigned, identities)
    }

    /// The identities for an archive.
    ///
    /// # Errors
    /// As [`Keys::identities`].
    pub fn identities(&mut self, archive: Archive) -> Result<Identities> {
        self.keys.identities(which_of(archive))
    }

    /// Says what a person should know about the store before trusting it.
    fn warn(&self, events: &mut Events<'_>) {
        for one in &self.found {
            if let Standing::Unverified { why, .. } = &one.standing {
                let why = printable(why.to_string().as_bytes());
                events(Event::Warning(format!("{} does not verify and is skipped: {why}", one.place.directory())));
            }
        }
        for line in snapshots::hidden(&self.found, self.how.now) {
            events(Event::Warning(format!("something may have been removed from the store: {line}")));
        }
    }
}

impl How {
    fn choose<'a>(&self, found: &'a [Found], archive: Archive, wanted: &Wanted) -> Result<Choice<'a>> {
        match archive {
            _ if !self.good => choose(found, archive, wanted, self.allow_unsigned, self.now),
            Archive::State => choose_good(found, wanted, self.allow_unsigned, self.now),
            Archive::Secrets => {
                choose(found, archive, &self.good_bundle(found, wanted)?, self.allow_unsigned, self.now)
            }
        }
    }

    /// Who passes over marked snapshots wants no secrets that a marked one came with: what took the state may have taken them,
    /// too. Bundles that were written between the last good snapshot and those, alone, are from before it.
    fn good_bundle(&self, found: &[Found], wanted: &Wanted) -> Result<Wanted> {
        if !matches!(wanted, Wanted::Latest) {
            return Ok(wanted.clone());
        }
        let good = choose_good(found, wanted, self.allow_unsigned, self.now)?;
        let Some(newest) = good.chain.first() else { return Ok(wanted.clone()) };
        let of =
            |f: &Found| f.usable(self.allow_unsigned).and_then(|commit| commit.bundle.as_ref().map(|b| b.id.clone()));
        let later = |f: &&Found| f.place.archive == Archive::State && snapshots::seq(f) > snapshots::seq(newest);
        let Some(first_later) = found.iter().filter(later).map(snapshots::seq).min() else { return Ok(Wanted::Latest) };
        let (good, marked) = (of(newest), found.iter().filter(later).filter_map(of).collect::<Vec<_>>());
        let is_good = |f: &&Found| {
            let id = Some(&f.place.id);
            let seq = snapshots::seq(f);
            let between = seq > snapshots::seq(newest) && seq < first_later && f.damage().is_none();
            let alone = between && !marked.contains(&f.place.id);
            f.place.archive == Archive::Secrets && f.verified().is_some() && (id == good.as_ref() || alone)
        };
        let best = found.iter().filter(is_good).max_by_key(|f| snapshots::seq(f));
        Ok(best.map_or(Wanted::Latest, |bundle| Wanted::Id(bundle.place.id.to_string())))
    }
}

/// What opens an archive.
pub fn which_of(archive: Archive) -> Which {
    match archive {
        Archive::State => Which::State,
        Archive::Secrets => Which::Secrets,
    }
}

/// Says what was passed over, and what is read though nobody vouches for it.
fn say(choice: &Choice<'_>, found: &[Found], events: &mut Events<'_>) {
    let newest = choice.chain.first().and_then(|f| f.verified());
    if let Some(commit) = newest.filter(|commit| Doubts::of(found).about(commit)) {
        events(Event::Warning(format!(
            "snapshot {} is marked as suspicious, and nobody has accepted it: --good passes over such",
            commit.id
        )));
    }
    for line in &choice.skipped {
        events(Event::Warning(line.clone()));
    }
    for found in choice.chain.iter().filter(|f| f.verified().is_none()) {
        let dir = found.place.directory();
        events(Event::Warning(format!("{dir} does not verify, and is read because of --allow-unsigned")));
    }
}
