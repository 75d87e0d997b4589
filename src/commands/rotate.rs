//! `lifeboat keys rotate`: new keys for what is written from now on. What was written before stays under the old ones.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::init::write_config;
use super::keys::configured;
use super::kits::{self, refuse_beside_store, write_kit};
use super::session::{Configured, Keys, open_catalog};
use super::signing::signing;
use super::write_archive::settle;
use super::{Event, Events, Report, backup, hand_over, policy};
use crate::error::{At as _, Error, Kind, Result};
use crate::host::catalog::Catalog;
use crate::host::keyring;
use crate::host::store::{Access, Store};
use crate::host::world::{Lock, World};
use crate::model::config::{Config, Identity};
use crate::model::kit::{Kit, Opening, Which};
use crate::model::path::printable_path;
use crate::stream::age_keys;
use crate::stream::sign::SigningKey;

/// What `keys rotate` was asked to do. With none of the three it makes new identities for both archives.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// A new identity for the state archive.
    pub state: bool,
    /// A new identity for the secrets bundle.
    pub secrets: bool,
    /// A new signing key.
    pub signing: bool,
    /// The new kit. It must not be there.
    pub kit: PathBuf,
    /// The old kit, where this host does not hold the identities.
    pub identity: Option<PathBuf>,
    /// Protect the new kit with a passphrase.
    pub passphrase: bool,
}

impl Args {
    /// Whose identities are made anew.
    fn identities(&self) -> Vec<Which> {
        let both = !self.state && !self.secrets && !self.signing;
        let asked = [(Which::State, self.state), (Which::Secrets, self.secrets)];
        asked.into_iter().filter(|(_, asked)| *asked || both).map(|(which, _)| which).collect()
    }
}

/// What was rotated.
#[derive(Debug, Serialize)]
pub struct Rotated {
    /// The series.
    pub series: String,
    /// The new kit.
    pub kit: String,
    /// `state`, `secrets`: what is sealed to new keys from now on; `signing`: what is signed with a new one.
    pub rotated: Vec<&'static str>,
    /// The number from which on the new signing key signs.
    pub from_seq: Option<u64>,
    /// The bundle that was written at once; none where there are no secrets.
    pub bundle: Option<String>,
    /// What is left for a person to do.
    pub notes: Vec<String>,
}

impl Report for Rotated {
    fn text(&self) -> String {
        let mut out = format!("series {} has new keys for {}\n", self.series, self.rotated.join(" and "));
        let old = if self.from_seq.is_some() { "restores" } else { "opens" };
        out.push_str(&format!("  recovery kit   {}, which {old} what the old one {old}, too\n", self.kit));
        if let Some(bundle) = &self.bundle {
            out.push_str(&format!("  secrets        {bundle}\n"));
        }
        for note in &self.notes {
            out.push_str(&format!("{note}\n"));
        }
        if let Some(from_seq) = self.from_seq {
            out.push_str(&format!(
                "The old signing key signs no number from {from_seq} on. The old kit still restores, and cannot continue \
                 the series.\n"
            ));
        }
        if self.rotated.iter().any(|what| *what != SIGNING) {
            out.push_str(
                "What was written before is still sealed to the old keys: whoever has those reads it until it expires.\n",
            );
        }
        out
    }
}

/// The word for the signing key in a report.
const SIGNING: &str = "signing";

/// Makes new keys, a kit with new and old ones, puts the new ones in force on this host, and writes a bundle.
///
/// # Errors
/// [`Kind::NoIdentity`] where the old identities are not at hand; when the configuration has changes that nobody accepted;
/// when the kit cannot be written and proved. The old keys stay in force then. When a new signing key cannot be handed
/// over to, the next backup goes on with it, and the new kit is the one to keep.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Rotated> {
    let Configured { mut config, file } = configured(world)?;
    let store = Store::open(world, &config.store, Access::Existing)?;
    refuse_beside_store(&store, &args.kit)?;
    let lock = Lock::take(&world.state_dir(&config.name))?;
    let catalog = open_catalog(world, &config.name)?;
    // What an earlier try decided comes first, and what was signed before counts with the key that signed it.
    hand_over::settle(world, &config, &file, &store, &catalog, events)?;
    let own = signing(world, &file)?;
    settle(world, &config.name, &store, &catalog, events)?;
    refuse_unaccepted(&config, &own.key, &catalog, events)?;
    let mut keys = Keys::find(world, args.identity.as_deref(), Some(&config), &[Which::State, Which::Secrets])?;
    let mut kit = kits::in_force(&config, &mut keys, &own)?;
    let next = args.signing.then(|| hand_over::prepare(world, &config, &store, &own, &catalog)).transpose()?;
    if let Some(next) = &next {
        kit = kits::signed_by(kit, next);
    }
    let rotated = args.identities();
    renew(&rotated, &mut kit, &mut config, &keys);
    write_kit(world, args.passphrase, &kit, &args.kit)?;
    let kept = keep(world, &config, &kit, &rotated).and_then(|notes| {
        next.as_ref().map_or(Ok(()), |next| hand_over::decide(&file, next))?;
        Ok(notes)
    });
    let mut notes = match kept {
        Ok(notes) => notes,
        Err(e) => {
            // A kit of keys that are not in force would only confuse.
            std::fs::remove_file(&args.kit).at("remove", &args.kit)?;
            return Err(e);
        }
    };
    if !rotated.is_empty() {
        write_config(&file, &config)?;
    }
    hand_over::settle(world, &config, &file, &store, &catalog, events).inspect_err(|_| {
        let kit = printable_path(&args.kit);
        events(Event::Warning(format!("{kit} holds the new keys, and is the recovery kit to keep from now on")));
    })?;
    drop((catalog, lock));
    if rotated.contains(&Which::State) {
        notes.push("The next backup of the state is a full one, for the new key.".to_owned());
    }
    let bundle = write_bundle(world, events)?;
    let words = rotated.iter().map(|which| which.name()).chain(next.as_ref().map(|_| SIGNING)).collect();
    let from_seq = next.map(|next| next.signers.from_seq());
    Ok(Rotated { series: config.name, kit: printable_path(&args.kit), rotated: words, from_seq, bundle, notes })
}

/// New identities in kit and configuration; whatever opened anything so far opens it still.
fn renew(rotated: &[Which], kit: &mut Kit, config: &mut Config, keys: &Keys) {
    for which in rotated {
        let (recipient, identities) = age_keys::generate();
        let (place, recipients) = match which {
            Which::State => (&mut kit.state, &mut config.state.recipients),
            Which::Secrets => (&mut kit.secrets, &mut config.secrets.recipients),
        };
        if let Some(old) = place.replace(Opening { recipient: recipient.clone(), identities }) {
            recipients.iter_mut().filter(|r| **r == old.recipient).for_each(|r| r.clone_from(&recipient));
        }
    }
    kits::keep_all(kit, keys);
}

/// A bundle for the new keys, at once; nothing where there are no secrets.
fn write_bundle(world: &World, events: &mut Events<'_>) -> Result<Option<String>> {
    let asked = backup::Args { secrets_only: true, accept_policy: true, ..backup::Args::default() };
    match backup::run(world, &asked, events) {
        Ok(done) => Ok(done.secrets.map(|written| written.id)),
        Err(e) if e.kind() == Kind::NotThere => Ok(None),
        Err(e) => {
            events(Event::Warning("the new keys are in force, but no bundle could be written yet".to_owned()));
            Err(e.hint("the next `lifeboat backup` writes one"))
        }
    }
}

/// A rotation accepts its own change of recipients, and must not accept others along with it.
fn refuse_unaccepted(config: &Config, key: &SigningKey, catalog: &Catalog, events: &mut Events<'_>) -> Result<()> {
    if policy::check(config, key, catalog, false, events)?.is_empty() {
        return Ok(());
    }
    Err(Error::failed("the configuration has changes that were not accepted, so no keys are made for it")
        .hint("look at them, then run `lifeboat backup --accept-policy`"))
}

/// Puts new identities where this host looks for them, the old ones beside them; says what a person has to do.
fn keep(world: &World, config: &Config, kit: &Kit, rotated: &[Which]) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for which in rotated {
        let (opening, identity) = match which {
            Which::State => (&kit.state, &config.state.identity),
            Which::Secrets => (&kit.secrets, &config.secrets.identity),
        };
        match (opening, identity) {
            (Some(opening), Identity::Keyring) => {
                let mut text = zeroize::Zeroizing::new(String::with_capacity(4096));
                for identity in std::iter::once(&opening.identities).chain(&kit.loose) {
                    text.push_str(identity.expose_secret());
                    text.push('\n');
                }
                keyring::store(&kit.series, *which, &SecretString::from(text.as_str()), world.terminal)?;
            }
            (_, Identity::File(_) | Identity::Command(_)) => notes.push(format!(
                "Put the new identity for {} from the kit where `identity` in the configuration says.",
                which.archive()
            )),
            (_, Identity::None | Identity::Keyring) => {}
        }
    }
    Ok(notes)
}
