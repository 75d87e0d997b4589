//! Going on with a series: what is needed comes from its kit.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use super::claim::{claim, taken};
use super::{Args, Done, done, finish, identity_of, sources, store_url};
use crate::commands::kits::{prove, read_back};
use crate::commands::session::{open_catalog, signing_key_file};
use crate::commands::signing::{Signer, in_force};
use crate::commands::{Event, Events, lineage, opened, snapshots};
use crate::error::{Error, Result};
use crate::host::private_file::{read_private_file, write_private_file};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::config::{Config, Origin, Source};
use crate::model::kit::{Kit, Which};
use crate::model::layout::Layout;
use crate::model::path::{printable, printable_path};
use crate::model::store_key::Archive;
use crate::stream::age_keys::Identities;
use crate::stream::signers::Signers;

/// A new machine takes over: keys and recipients come from the kit.
pub(super) fn continue_series(
    world: &World,
    args: &Args,
    path: &Path,
    what: &'static str,
    events: &mut Events<'_>,
) -> Result<Done> {
    let kit = read_back(world, path)?;
    let name = printable_path(path);
    let incomplete =
        |what: &str| Error::usage(format!("{name} holds no {what}, so a series cannot be continued with it"));
    if args.name.as_ref().is_some_and(|n| *n != kit.series) {
        return Err(Error::usage(format!("{name} belongs to the series {}", kit.series)).hint("leave --name away"));
    }
    let url = match &args.store {
        Some(url) => store_url(world, Some(url))?,
        None if kit.store.is_empty() => return Err(incomplete("store").hint("name it with --store")),
        None => kit.store.clone(),
    };
    let signing = Signer::of_kit(&kit)?.ok_or_else(|| incomplete("signing key"))?;
    prove(&name, &kit, &kit)?;
    refuse_other_key(world, &signing)?;
    let store = Store::open(world, &url, Access::Existing)?;
    let signers = newest_key(&store, &kit.series, &signing, &name)?;
    let sources = match former_sources(world, args, &store, &kit, &signers, events) {
        Some(sources) => sources,
        None => sources(world, args)?,
    };
    claim(&store, &kit.series, signers.first())?;
    open_catalog(world, &kit.series)?.set_fact(lineage::CONTINUED, "by init")?;
    let kit = Kit { store: url, ..kit };
    finish(world, args, &kit, &signing, sources, what, Some(path), events)
}

/// What the old machine backed up, as its newest snapshot says, where nothing else was asked for.
fn former_sources(
    world: &World,
    args: &Args,
    store: &Store,
    kit: &Kit,
    signers: &Signers,
    events: &mut Events<'_>,
) -> Option<Vec<Source>> {
    if !args.presets.is_empty() || !args.sources.is_empty() {
        return None;
    }
    let found = snapshots::load(store, &kit.series, Some(signers)).ok()?;
    let newest = snapshots::newest(&found, Archive::State)?;
    let identities = Identities::parse(kit.identities(Which::State)).ok()?;
    let header = opened::header(store, newest, &identities).ok()?;
    let layout = Layout::machine(world.home.as_os_str().as_bytes());
    let mut out: Vec<Source> = Vec::new();
    for source in header.sources {
        let path = printable(&layout.to_disk(&source.path.bytes()));
        let source = Source::new(source.preset.map_or(Origin::Path(path), Origin::Preset));
        if !out.contains(&source) {
            out.push(source);
        }
    }
    let id = newest.place.id.clone();
    events(Event::Note(format!("sources are those of snapshot {id}; rules of the old configuration are not known")));
    Some(out).filter(|o| !o.is_empty())
}

/// With the signing key of another series every snapshot of this one would be worthless.
fn refuse_other_key(world: &World, signing: &Signer) -> Result<()> {
    let file = signing_key_file(&world.config_file());
    if !file.exists() {
        return Ok(());
    }
    let text = SecretString::from(String::from_utf8_lossy(&read_private_file(&file)?).into_owned());
    if Signer::parse(text.expose_secret())?.key.public() != signing.key.public() {
        return Err(Error::failed(format!("{} is another signing key than the kit's", printable_path(&file)))
            .hint("move it away, or name another configuration with --config"));
    }
    Ok(())
}

/// Puts the signing key of a kit beside a configuration that has none any more, or has it from systemd elsewhere.
pub(super) fn put_key_back(
    world: &World,
    path: &Path,
    config: &Config,
    file: &Path,
    events: &mut Events<'_>,
) -> Result<Done> {
    let (kit, name) = (read_back(world, path)?, printable_path(path));
    if kit.series != config.name {
        return Err(Error::usage(format!(
            "{name} belongs to the series {}, and {} to {}",
            kit.series,
            printable_path(file),
            config.name
        ))
        .hint("name the kit of this machine's series, or another configuration with --config"));
    }
    let signing = Signer::of_kit(&kit)?.ok_or_else(|| Error::usage(format!("{name} holds no signing key")))?;
    let store = Store::open(world, &config.store, Access::Existing)?;
    if taken(&store, &kit.series, signing.signers.first())? {
        return Err(Error::damaged(format!(
            "{name} has another signing key than the series {} on the store",
            kit.series
        ))
        .hint("it is the kit of another series of that name: look for this machine's"));
    }
    newest_key(&store, &kit.series, &signing, &name)?;
    write_private_file(&signing_key_file(file), &signing.to_text())?;
    events(Event::Note(format!("{} is there again", printable_path(&signing_key_file(file)))));
    Ok(done(config, file, Some(path), identity_of(config), "continued", Vec::new()))
}

/// Who signs, if the key of the kit `name` does: an older kit restores, but its key may have been handed over.
fn newest_key(store: &Store, series: &str, signing: &Signer, name: &str) -> Result<Signers> {
    in_force(store, series, signing).map_err(|e| {
        let hint = e.advice().unwrap_or_default().to_owned();
        Error::new(e.kind(), format!("{name} is not the newest kit of the series {series}")).because(e).hint(hint)
    })
}
