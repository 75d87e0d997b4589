//! Recovery kits: made of the keys in force, written, read back, and proved.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use super::session::{Keys, read_kit};
use super::signing::Signer;
use crate::error::{At as _, Error, Kind, Result};
use crate::host::private_file::{read_private_file, write_private_file};
use crate::host::prompt;
use crate::host::store::Store;
use crate::host::world::{World, private_dir};
use crate::model::config::Config;
use crate::model::kit::{Kit, Opening, Which};
use crate::model::path::printable_path;
use crate::stream::age_keys::{self, Identities, Recipients};

/// The kit of the keys that are in force, and of all others at hand: whatever opened anything so far opens it still.
///
/// # Errors
/// [`Kind::NoIdentity`] when an identity is not at hand, or what was found is of another key.
pub(super) fn in_force(config: &Config, keys: &mut Keys, signing: &Signer) -> Result<Kit> {
    let kit = Kit { series: config.name.clone(), store: config.store.clone(), ..Kit::default() };
    let state = Some(opening(config, keys, Which::State)?);
    let secrets = Some(opening(config, keys, Which::Secrets)?);
    let mut kit = signed_by(Kit { state, secrets, ..kit }, signing);
    keep_all(&mut kit, keys);
    Ok(kit)
}

/// Adds the identities at hand that the kit does not hold.
pub(super) fn keep_all(kit: &mut Kit, keys: &Keys) {
    for text in [Which::State, Which::Secrets].into_iter().flat_map(|which| keys.texts(which)) {
        let mut known = kit.state.iter().chain(&kit.secrets).map(|o| &o.identities).chain(&kit.loose);
        if known.all(|k| k.expose_secret().trim() != text.expose_secret().trim()) {
            kit.loose.push(SecretString::from(text.expose_secret().trim()));
        }
    }
}

/// The kit with these signing keys.
pub(super) fn signed_by(kit: Kit, signing: &Signer) -> Kit {
    Kit {
        signing_public: Some(signing.key.public().to_base64()),
        signing_former: signing.signers.former_lines(),
        signing_secret: Some(signing.key.to_base64()),
        ..kit
    }
}

/// The identity whose recipient is in force, with that recipient.
fn opening(config: &Config, keys: &mut Keys, which: Which) -> Result<Opening> {
    let recipients = match which {
        Which::State => &config.state.recipients,
        Which::Secrets => &config.secrets.recipients,
    };
    // Identities that nothing opens any more are of no use in a kit for what comes.
    let mut found = None;
    for text in keys.texts(which) {
        // What a plugin opens is nobody's to copy into a kit as the one identity that opens everything.
        if let Some(recipient) = age_keys::recipient_of(text)?.filter(|recipient| recipients.contains(recipient)) {
            found = Some((recipient, SecretString::from(text.expose_secret())));
            break;
        }
    }
    if let Some((recipient, identities)) = found {
        return Ok(Opening { recipient, identities });
    }
    // Says where it was looked for, if there was nothing.
    keys.identities(which)?;
    Err(Error::new(
        Kind::NoIdentity,
        format!("the identity at hand is of another key than {} is sealed to", which.archive()),
    )
    .hint(
        "name the kit that belongs to this configuration with --identity FILE; a key in hardware cannot stand in one",
    ))
}

/// Refuses a kit inside the store.
///
/// # Errors
/// That.
pub(super) fn refuse_beside_store(store: &Store, kit: &Path) -> Result<()> {
    let absolute = std::path::absolute(kit).at("find", kit)?;
    if store.local().is_some_and(|dir| absolute.starts_with(dir)) {
        return Err(Error::usage("the recovery kit may not lie inside the store: who finds one would have both")
            .hint("name another place for it"));
    }
    Ok(())
}

/// Writes the kit and proves, with what can be read back from the disk, that it opens what the recipients seal. It never
/// replaces a file, and leaves none that was not proved.
///
/// # Errors
/// When it cannot be written, read back, or proved.
pub(super) fn write_kit(world: &World, passphrase: bool, kit: &Kit, path: &Path) -> Result<()> {
    let rendered = kit.render();
    let text = if passphrase {
        let sealed = age_keys::encrypt_with_passphrase(&rendered, &new_passphrase(world)?)?;
        SecretString::from(String::from_utf8(sealed).map_err(|_| Error::failed("age's armor is not text"))?)
    } else {
        rendered
    };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        private_dir(parent)?;
    }
    write_private_file(path, &text)?;
    let name = printable_path(path);
    read_back(world, path).and_then(|read| prove(&name, &read, kit)).map_err(|e| {
        // A kit that was not proved is worse than none.
        std::fs::remove_file(path).ok();
        Error::failed(format!("the recovery kit {name} could not be proved, and nothing was set up")).because(e)
    })
}

/// Reads a kit from a file that only its owner can read.
///
/// # Errors
/// When it is not there, open to others, malformed, or its passphrase is wrong.
pub(super) fn read_back(world: &World, path: &Path) -> Result<Kit> {
    let bytes = read_private_file(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::failed("the kit is not text"))?;
    read_kit(world, &printable_path(path), &SecretString::from(text))
}

/// Proves that what was read opens what is sealed to the recipients of what was written.
///
/// # Errors
/// When it does not.
pub(super) fn prove(name: &str, read: &Kit, written: &Kit) -> Result<()> {
    for which in [Which::State, Which::Secrets] {
        let opening = if which == Which::State { &written.state } else { &written.secrets };
        let opening = opening
            .as_ref()
            .ok_or_else(|| Error::failed(format!("{name} does not say what opens {}", which.archive())))?;
        let identities = Identities::parse(read.identities(which))?;
        age_keys::prove(&Recipients::parse(&[&opening.recipient])?, &identities)?;
    }
    Ok(())
}

fn new_passphrase(world: &World) -> Result<SecretString> {
    if let Some(passphrase) = world.var("LIFEBOAT_PASSPHRASE").and_then(|p| p.to_str()) {
        return Ok(SecretString::from(passphrase));
    }
    let nobody = || Error::usage("there is no terminal to ask for a passphrase").hint("set LIFEBOAT_PASSPHRASE");
    let first = prompt::passphrase(world, "Passphrase for the recovery kit")?.ok_or_else(nobody)?;
    let second = prompt::passphrase(world, "The same again")?.ok_or_else(nobody)?;
    if first.expose_secret() != second.expose_secret() {
        return Err(Error::usage("the two passphrases differ; nothing was written"));
    }
    Ok(first)
}
