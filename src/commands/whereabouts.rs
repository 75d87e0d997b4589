//! Which store and series a command is about, and the key that signatures of the series must verify with: as told, else
//! as the kit says, else as configured. No identity is asked for.

use std::path::Path;

use super::session::{Configured, Keys, configuration, signing_key};
use crate::error::{Error, Kind, Result};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::kit::Which;
use crate::model::path::printable;
use crate::model::store_key::is_name;
use crate::stream::sign::PublicKey;

/// What the command line says about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// The recovery kit.
    pub identity: Option<&'a Path>,
    /// A store.
    pub store: Option<&'a str>,
    /// A series.
    pub name: Option<&'a str>,
    /// A verification key: the line that `minisign -P` takes, or a file that holds it.
    pub key: Option<&'a str>,
}

/// What came out.
pub struct Whereabouts {
    /// The configuration, if there is one.
    pub configured: Option<Configured>,
    /// The store, open.
    pub store: Store,
    /// The series; `None` where nobody names one.
    pub series: Option<String>,
    /// The key that somebody other than the store vouches for.
    pub key: Option<PublicKey>,
}

impl Whereabouts {
    /// The series, where a command cannot do without.
    ///
    /// # Errors
    /// [`Kind::Usage`] when nobody named one.
    pub fn series(&self) -> Result<&str> {
        self.series.as_deref().ok_or_else(|| {
            Error::usage("no series was named, and neither a kit nor a configuration names one")
                .hint("name it with --name; `lifeboat list --all` shows those on a store")
        })
    }

    /// The key, where a command cannot do without.
    ///
    /// # Errors
    /// [`Kind::NotThere`] when there is none here. The one on the store proves nothing: who can write to the store could
    /// have put it there.
    pub fn key(&self) -> Result<&PublicKey> {
        self.key.as_ref().ok_or_else(|| {
            Error::not_there("there is no key here to check signatures with").hint(
                "name the recovery kit with --identity, or its `signing-public` line with --key; \
                 the key that stands on the store itself proves nothing",
            )
        })
    }
}

/// Finds store, series and key.
///
/// # Errors
/// When the configuration or the kit is wrong, no store is named, or it is not there.
pub fn find(world: &World, told: Told<'_>) -> Result<Whereabouts> {
    let configured = configuration(world)?;
    let config = configured.as_ref().map(|c| &c.config);
    let keys = match told.identity {
        Some(file) => Some(Keys::find(world, Some(file), config, &[Which::State])?),
        None => None,
    };
    let kit = keys.as_ref().and_then(Keys::kit);
    let filled = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let url = told.store.map(str::to_owned).or_else(|| kit.and_then(|k| filled(&k.store)));
    let url = url.or_else(|| config.map(|c| c.store.clone())).ok_or_else(|| {
        Error::not_there("no store was named, and neither a kit nor a configuration names one")
            .hint("name one with --store, or the recovery kit with --identity")
    })?;
    let series = told.name.map(str::to_owned).or_else(|| kit.and_then(|k| filled(&k.series)));
    let series = series.or_else(|| config.map(|c| c.name.clone()));
    if let Some(bad) = series.as_ref().filter(|s| !is_name(s)) {
        return Err(Error::usage(format!("`{}` is no name of a series", printable(bad.as_bytes()))));
    }
    let key = match (told.key, &keys) {
        (Some(text), _) => Some(named_key(text)?),
        (None, Some(keys)) => keys.public_key()?,
        (None, None) => None,
    };
    // This host's key is that of its own series, and says nothing about another one.
    let own = configured.as_ref().filter(|c| series.as_ref() == Some(&c.config.name));
    let key = key.or_else(|| own.and_then(|c| signing_key(world, &c.file).ok()).map(|key| key.public()));
    let store = Store::open(world, &url, Access::Existing)?;
    Ok(Whereabouts { configured, store, series, key })
}

/// A key as text, or in a file.
fn named_key(text: &str) -> Result<PublicKey> {
    let wrong = |e: Error| {
        let name = printable(text.as_bytes());
        Error::new(Kind::Usage, format!("--key `{name}` is no minisign public key, and no file that holds one"))
            .because(e)
            .hint("it begins with RW, and stands in the recovery kit after `signing-public:`")
    };
    if let Ok(key) = PublicKey::from_text(text) {
        return Ok(key);
    }
    let read = crate::host::private_file::read_small_file(Path::new(text)).map_err(wrong)?;
    PublicKey::from_text(&String::from_utf8_lossy(&read)).map_err(wrong)
}
