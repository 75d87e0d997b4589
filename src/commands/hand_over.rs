//! A new signing key: made, kept on this host, handed over to on the store, and then in force (FORMAT.md section 7).
//!
//! The order is what makes it safe to die at any point. The new key first lies beside the old one, durable, and signs
//! nothing. From then on it comes into force whatever happens: whoever holds the lock next, a backup or another try, puts
//! the hand-over on the store if it is not there, and only then the new key takes the old one's place. So the old key
//! never signs a number that is the new one's, and nothing is signed with a key that readers cannot follow.

use std::path::Path;

use super::signing::{Signer, follow, in_force, key_credential, key_file, next_key_file, signing};
use super::{Event, Events, policy, snapshots};
use crate::error::{Error, Result};
use crate::host::catalog::Catalog;
use crate::host::private_file::{read_private_file, replace_private_file, write_private_file_at_once};
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::config::Config;
use crate::model::path::printable_path;
use crate::model::store_key::{public_key, public_key_number};
use crate::stream::sign;
use crate::stream::signers::hand_over_comment;

/// Makes the next signing key. It signs from a number on that is after all that this host and the store know, and counts
/// for nothing yet. Whoever calls this holds the lock, and has settled what was pending.
///
/// # Errors
/// When the key is not this host's to replace, the store cannot be listed and read, or the key was handed over already.
pub fn prepare(world: &World, config: &Config, store: &Store, own: &Signer, catalog: &Catalog) -> Result<Signer> {
    if let Some(credential) = key_credential(world) {
        return Err(Error::failed(format!(
            "the signing key comes from the systemd credential {}, which only systemd can replace",
            printable_path(&credential)
        ))
        .hint(
            "rotate it in a shell, which has no such credential: `lifeboat init --kit KIT` puts the kit's key beside the \
             configuration, `lifeboat keys rotate --signing --kit NEW-KIT` replaces it there; then make the credential anew \
             from signing.key, and remove that file",
        ));
    }
    let unreadable = |e: Error| match Store::is_refusal(&e) {
        true => Error::failed("a signing key can only be rotated with a credential that may list and read the store")
            .because(e)
            .hint("run it once with the credential that restores use"),
        false => e,
    };
    store.list(&format!("keys/{}", config.name)).map_err(unreadable)?;
    let signers = in_force(store, &config.name, own)?;
    let found = snapshots::load(store, &config.name, Some(&signers)).map_err(unreadable)?;
    let on_store = found.iter().filter_map(|f| f.verified()).map(|c| c.seq).max();
    let last = on_store.max(catalog.last_seq()?).unwrap_or(0).max(signers.from_seq());
    let now = u64::try_from(world.now()).unwrap_or(0);
    Signer { key: own.key.clone(), signers }.next(now.max(last + 1))
}

/// Keeps a key that was prepared: from here on it comes into force, if not now, then with the next backup.
///
/// # Errors
/// When it cannot be written; nothing happened then.
pub fn decide(config_file: &Path, next: &Signer) -> Result<()> {
    write_private_file_at_once(&next_key_file(config_file), &next.to_text())
}

/// Puts a key into force that [`decide`] kept, if there is one. Whoever calls this holds the lock.
///
/// # Errors
/// When the store or this host cannot be written or read; the next run goes on with it.
pub fn settle(
    world: &World,
    config: &Config,
    config_file: &Path,
    store: &Store,
    catalog: &Catalog,
    events: &mut Events<'_>,
) -> Result<()> {
    let (file, next_file) = (key_file(config_file), next_key_file(config_file));
    if !next_file.exists() {
        return Ok(());
    }
    let bytes = read_private_file(&next_file)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::failed("the new signing key is not text"))?;
    let next = Signer::parse(text)?;
    let own = signing(world, config_file)?;
    if next.signers.before().as_ref() != Some(&own.signers) {
        let name = printable_path(&next_file);
        return Err(Error::failed(format!("the new signing key {name} does not follow on the one that signs here"))
            .hint(format!("if it is left from another series, remove it: rm {name}")));
    }
    put(store, &config.name, &own, &next).map_err(|e| {
        Error::new(e.kind(), "the signing key could not be handed over to the new one yet").because(e).hint(
            "the next `lifeboat backup` tries again, and signs nothing before; it needs a credential that may list \
                 and read the store for that",
        )
    })?;
    policy::hand_over(config, &own.key, &next.key, catalog)?;
    replace_private_file(&next_file, &file)?;
    events(Event::Note(format!(
        "the signing key {} signs from now on; the one before it was handed over",
        next.key.public().key_id()
    )));
    Ok(())
}

/// Puts the hand-over on the store, under the first number that is free.
fn put(store: &Store, series: &str, own: &Signer, next: &Signer) -> Result<()> {
    let public = next.key.public();
    if *follow(store, series, own.signers.clone())?.signers.current() == public {
        return Ok(());
    }
    in_force(store, series, own)?;
    let number = free_number(store, series, own, public.to_text().as_bytes())?;
    let (file, text) = (public_key(series, number), public.to_text());
    let comment = hand_over_comment(series, number, next.signers.from_seq());
    let signature = sign::sign(&own.key, text.as_bytes(), &comment)?;
    sign::verify(&own.key.public(), text.as_bytes(), &signature, &comment)?;
    store.put_if_absent(&file, text)?;
    store.put_if_absent(&format!("{file}.minisig"), signature)?;
    if *follow(store, series, own.signers.clone())?.signers.current() != public {
        return Err(Error::failed(format!("something else stands on the store as {file}"))
            .hint("whoever can write to the store put it there: run this again, and it takes the next number"));
    }
    Ok(())
}

/// The first number behind the key that signs now under which nothing lies, or half of this very hand-over.
fn free_number(store: &Store, series: &str, own: &Signer, public: &[u8]) -> Result<u32> {
    let listed = store.list(&format!("keys/{series}"))?;
    let is_there = |key: &str| listed.iter().any(|l| l.key == key);
    let mut numbers: Vec<u32> = listed.iter().filter_map(|l| public_key_number(series, &l.key)).collect();
    numbers.sort_unstable();
    let own = own.key.public().to_text();
    let mut own_number = 1;
    // The lowest: anybody who may put could have put it once more under the last number there is.
    for number in numbers {
        let there = store.get_if_there(&public_key(series, number), own.len() as u64)?;
        if there.is_some_and(|there| there == own.as_bytes()) {
            own_number = number;
            break;
        }
    }
    for number in own_number + 1..=999_999 {
        let file = public_key(series, number);
        if is_there(&format!("{file}.minisig")) {
            continue;
        }
        if !is_there(&file) || store.get_if_there(&file, public.len() as u64)?.is_some_and(|there| there == public) {
            return Ok(number);
        }
    }
    Err(Error::failed(format!("there is no number left for a signing key of the series {series}")))
}
