//! `lifeboat keys set-credential`: keeps a store's credential in the OS keyring.

use secrecy::SecretString;
use serde::Serialize;

use super::session::configuration;
use super::{Events, Report};
use crate::error::{Error, Result};
use crate::host::store::keep;
use crate::host::world::World;
use crate::model::path::printable;

/// What is to be kept.
#[derive(Clone, Debug)]
pub struct Args {
    /// Which part of it, by the name of its variable.
    pub name: String,
    /// Another store than the configured one.
    pub store: Option<String>,
    /// The value; nothing to remove what is kept. Its `Debug` shows none.
    pub value: Option<SecretString>,
}

/// What is kept now.
#[derive(Debug, Serialize)]
pub struct Done {
    /// Which part.
    pub name: String,
    /// Of which store.
    pub store: String,
    /// Whether it is gone now.
    pub removed: bool,
}

impl Report for Done {
    fn text(&self) -> String {
        let Done { name, store, removed } = self;
        if *removed {
            return format!("{name} of {store} is not in the OS keyring any more\n");
        }
        format!(
            "{name} of {store} is in the OS keyring\nit is used where neither the environment nor a file gives one\n"
        )
    }
}

/// Keeps it, or removes it.
///
/// # Errors
/// When no store is known, it has no such credential, or the keyring cannot be used.
pub fn set(world: &World, args: &Args, _events: &mut Events<'_>) -> Result<Done> {
    let url = match &args.store {
        Some(url) => url.clone(),
        None => configuration(world)?.map(|c| c.config.store).ok_or_else(|| {
            Error::not_there("there is no configuration that names a store").hint("name the store with --store")
        })?,
    };
    keep(world, &url, &args.name, args.value.as_ref())?;
    let store = printable(url.as_bytes());
    Ok(Done { name: args.name.clone(), store, removed: args.value.is_none() })
}
