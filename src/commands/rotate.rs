//! `lifeboat keys rotate`: new keys for what is written from now on. What was written before stays under the old ones.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::init::{refuse_beside_store, write_config, write_kit};
use super::keys::{configured, opening};
use super::session::{Configured, Keys, open_catalog, signing_key};
use super::{Event, Events, Report, backup, policy};
use crate::error::{At as _, Error, Kind, Result};
use crate::host::keyring;
use crate::host::store::{Access, Store};
use crate::host::world::{Lock, World};
use crate::model::config::{Config, Identity};
use crate::model::kit::{Kit, Opening, Which};
use crate::model::path::printable_path;
use crate::stream::age_keys;

/// What `keys rotate` was asked to do.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// New keys for the state archive.
    pub state: bool,
    /// New keys for the secrets bundle; with neither of the two for both.
    pub secrets: bool,
    /// The new kit. It must not be there.
    pub kit: PathBuf,
    /// The old kit, where this host does not hold the identities.
    pub identity: Option<PathBuf>,
    /// Protect the new kit with a passphrase.
    pub passphrase: bool,
}

/// What was rotated.
#[derive(Debug, Serialize)]
pub struct Rotated {
    /// The series.
    pub series: String,
    /// The new kit.
    pub kit: String,
    /// `state`, `secrets`: what is sealed to new keys from now on.
    pub rotated: Vec<&'static str>,
    /// The bundle that was written at once; none where there are no secrets.
    pub bundle: Option<String>,
    /// What is left for a person to do.
    pub notes: Vec<String>,
}

impl Report for Rotated {
    fn text(&self) -> String {
        let mut out = format!("series {} has new keys for {}\n", self.series, self.rotated.join(" and "));
        out.push_str(&format!("  recovery kit   {}, which opens what the old one opens, too\n", self.kit));
        if let Some(bundle) = &self.bundle {
            out.push_str(&format!("  secrets        {bundle}\n"));
        }
        for note in &self.notes {
            out.push_str(&format!("{note}\n"));
        }
        out.push_str(
            "What was written before is still sealed to the old keys: whoever has those reads it until it expires.\n",
        );
        out
    }
}

/// Makes new identities, a kit with new and old ones, puts the new recipients into the configuration, and writes a bundle.
///
/// # Errors
/// [`Kind::NoIdentity`] where the old identities are not at hand; when the configuration has changes that nobody accepted;
/// when the kit cannot be written and proved. The old keys stay in force then.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Rotated> {
    let Configured { mut config, file } = configured(world)?;
    let signing = signing_key(world, &file)?;
    let store = Store::open(world, &config.store, Access::Existing)?;
    refuse_beside_store(&store, &args.kit)?;
    refuse_unaccepted(world, &config, &signing, events)?;
    let mut keys = Keys::find(world, args.identity.as_deref(), Some(&config), &[Which::State, Which::Secrets])?;
    let all = |which| args.state == args.secrets || if which == Which::State { args.state } else { args.secrets };
    let mut kit = Kit {
        series: config.name.clone(),
        store: config.store.clone(),
        state: Some(opening(&config, &mut keys, Which::State)?),
        secrets: Some(opening(&config, &mut keys, Which::Secrets)?),
        signing_public: Some(signing.public().to_base64()),
        signing_secret: Some(signing.to_base64()),
        loose: Vec::new(),
    };
    let mut rotated = Vec::new();
    for which in [Which::State, Which::Secrets].into_iter().filter(|which| all(*which)) {
        let (recipient, identities) = age_keys::generate();
        let (place, recipients) = match which {
            Which::State => (&mut kit.state, &mut config.state.recipients),
            Which::Secrets => (&mut kit.secrets, &mut config.secrets.recipients),
        };
        if let Some(old) = place.replace(Opening { recipient: recipient.clone(), identities }) {
            recipients.iter_mut().filter(|r| **r == old.recipient).for_each(|r| r.clone_from(&recipient));
        }
        rotated.push(which);
    }
    // Whatever opened anything so far opens it still.
    for which in [Which::State, Which::Secrets] {
        for text in keys.texts(which) {
            let mut known = kit.state.iter().chain(&kit.secrets).map(|o| &o.identities).chain(&kit.loose);
            if known.all(|k| k.expose_secret().trim() != text.expose_secret().trim()) {
                kit.loose.push(SecretString::from(text.expose_secret().trim()));
            }
        }
    }
    let there = args.kit.symlink_metadata().is_ok();
    let put = write_kit(world, args.passphrase, &kit, &args.kit).and_then(|()| keep(world, &config, &kit, &rotated));
    let mut notes = match put {
        Ok(notes) => notes,
        Err(e) => {
            // A kit of keys that are not in force would only confuse; one that was there before is not ours to remove.
            if !there && args.kit.exists() {
                std::fs::remove_file(&args.kit).at("remove", &args.kit)?;
            }
            return Err(e);
        }
    };
    write_config(&file, &config)?;
    if rotated.contains(&Which::State) {
        notes.push("The next backup of the state is a full one, for the new key.".to_owned());
    }
    let asked = backup::Args { secrets_only: true, accept_policy: true, ..backup::Args::default() };
    let bundle = match backup::run(world, &asked, events) {
        Ok(done) => done.secrets.map(|written| written.id),
        // An agent without secrets has nothing to be sealed anew.
        Err(e) if e.kind() == Kind::NotThere => None,
        Err(e) => {
            events(Event::Warning("the new keys are in force, but no bundle could be written yet".to_owned()));
            return Err(e.hint("the next `lifeboat backup` writes one"));
        }
    };
    let words = rotated.iter().map(|which| which.name()).collect();
    Ok(Rotated { series: config.name, kit: printable_path(&args.kit), rotated: words, bundle, notes })
}

/// A rotation accepts its own change of recipients, and must not accept others along with it.
fn refuse_unaccepted(
    world: &World,
    config: &Config,
    signing: &crate::stream::sign::SigningKey,
    events: &mut Events<'_>,
) -> Result<()> {
    let _lock = Lock::take(&world.state_dir(&config.name))?;
    let catalog = open_catalog(world, &config.name)?;
    if policy::check(config, signing, &catalog, false, events)?.is_empty() {
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
