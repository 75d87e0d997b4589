//! Adding to a configuration that is there. Its keys stay what they are.

use super::continued::put_key_back;
use super::{Args, Done, check_names, done, identity_of, sources, store_url, write_config};
use crate::commands::Events;
use crate::commands::session::{Configured, signing_key_file};
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::path::{printable, printable_path};

/// Adds sources to a configuration that is there.
pub(super) fn extend(world: &World, args: &Args, configured: Configured, events: &mut Events<'_>) -> Result<Done> {
    let Configured { mut config, file } = configured;
    check_names(args)?;
    let shown = printable_path(&file);
    let other = |what: &str, is: &str| {
        Error::usage(format!("{shown} is there already, with the {what} {is}"))
            .hint("edit the configuration, or use another one with --config; keys are never made anew over old ones")
    };
    if args.name.as_ref().is_some_and(|n| *n != config.name) {
        return Err(other("series", &config.name));
    }
    if let Some(url) = &args.store
        && *url != config.store
        && store_url(world, Some(url))? != config.store
    {
        return Err(other("store", &printable(config.store.as_bytes())));
    }
    let mut what = "unchanged";
    if args.presets.is_empty() && args.sources.is_empty() {
        if let Some(kit) = args.kit.as_ref().filter(|kit| kit.exists() && !signing_key_file(&file).exists()) {
            return put_key_back(world, kit, &config, &file, events);
        }
        if args.kit.is_some() || args.sealed || args.passphrase {
            return Err(other("series", &config.name));
        }
    } else {
        for source in sources(world, args)? {
            if !config.sources.iter().any(|s| s.origin == source.origin) {
                config.sources.push(source);
                what = "extended";
            }
        }
        if what == "extended" {
            write_config(&file, &config)?;
        }
    }
    Ok(done(&config, &file, None, identity_of(&config), what, Vec::new()))
}
