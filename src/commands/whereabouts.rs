//! Which store and series a command is about, and the keys that signatures of the series must verify with: as told, else
//! as the kit says, else as configured, and what those handed over to. No identity is asked for.

use std::path::Path;

use super::session::{Configured, Keys, configuration};
use super::signing::{Followed, follow, signing};
use crate::error::{Error, Kind, Result};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::kit::Which;
use crate::model::path::printable;
use crate::model::store_key::is_name;
use crate::stream::sign::PublicKey;
use crate::stream::signers::Signers;

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
    /// The keys of the series: those that somebody other than the store vouches for, and what they handed over to.
    pub key: Option<Signers>,
    /// What lies among the keys on the store and does not count, a sentence each.
    pub refused_keys: Vec<String>,
}

impl Whereabouts {
    /// The series, where a command cannot do without.
    ///
    /// # Errors
    /// [`Kind::Usage`] when nobody named one.
    pub fn series(&self) -> Result<&str> {
        self.series.as_deref().ok_or_else(no_series)
    }

    /// The keys, where a command cannot do without.
    ///
    /// # Errors
    /// [`Kind::NotThere`] when there is none here. The one on the store proves nothing: who can write to the store could
    /// have put it there.
    pub fn key(&self) -> Result<&Signers> {
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
    let Named { url, series } = named(told.store, told.name, keys.as_ref(), configured.as_ref())?;
    let trusted = match told.key {
        Some(text) => Some(named_key(text)?.into()),
        None => trusted(world, keys.as_ref(), configured.as_ref(), series.as_deref())?,
    };
    let store = Store::open(world, &url, Access::Existing)?;
    let mut out = Whereabouts { configured, store, series, key: None, refused_keys: Vec::new() };
    if let Some((trusted, series)) = trusted.zip(out.series.as_deref()) {
        let Followed { signers, refused } = follow(&out.store, series, trusted)?;
        (out.key, out.refused_keys) = (Some(signers), refused);
    }
    Ok(out)
}

/// A store, and a series on it.
pub(super) struct Named {
    /// The store's URL.
    pub(super) url: String,
    /// The series; `None` where nobody names one.
    pub(super) series: Option<String>,
}

/// Store and series: as told, else as the kit says, else as configured.
pub(super) fn named(
    store: Option<&str>,
    name: Option<&str>,
    keys: Option<&Keys>,
    configured: Option<&Configured>,
) -> Result<Named> {
    let config = configured.map(|c| &c.config);
    let kit = keys.and_then(Keys::kit);
    let filled = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let url = store.map(str::to_owned).or_else(|| kit.and_then(|k| filled(&k.store)));
    let url = url.or_else(|| config.map(|c| c.store.clone())).ok_or_else(|| {
        Error::not_there("no store was named, and neither a kit nor a configuration names one")
            .hint("name the recovery kit with --identity, or the store with --store")
    })?;
    let series = name.map(str::to_owned).or_else(|| kit.and_then(|k| filled(&k.series)));
    let series = series.or_else(|| config.map(|c| c.name.clone()));
    if let Some(bad) = series.as_ref().filter(|s| !is_name(s)) {
        return Err(Error::usage(format!("`{}` is no name of a series", printable(bad.as_bytes()))));
    }
    Ok(Named { url, series })
}

/// Who signs for a series, as somebody other than the store says: a kit, else this host.
pub(super) fn trusted(
    world: &World,
    keys: Option<&Keys>,
    configured: Option<&Configured>,
    series: Option<&str>,
) -> Result<Option<Signers>> {
    if let Some(signers) = keys.map_or(Ok(None), Keys::signers)? {
        return Ok(Some(signers));
    }
    // This host's key is that of its own series, and says nothing about another one.
    let own = configured.filter(|c| series == Some(c.config.name.as_str()));
    Ok(own.and_then(|c| signing(world, &c.file).ok()).map(|signing| signing.signers))
}

/// What is said where a command cannot do without a series.
pub(super) fn no_series() -> Error {
    Error::usage("no series was named, and neither a kit nor a configuration names one")
        .hint("name it with --name; `lifeboat list --all` shows those on a store")
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
