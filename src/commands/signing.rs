//! Who signs for a series: this host's key, the keys that a kit names, and what those handed over to on the store.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::host::catalog::Catalog;
use crate::host::private_file::{read_granted_file, read_private_file};
use crate::host::store::Store;
use crate::host::world::World;
use crate::model::kit::Kit;
use crate::model::path::printable_path;
use crate::model::store_key::{public_key, public_key_number};
use crate::stream::sign::{PublicKey, SigningKey};
use crate::stream::signers::Signers;

/// Bytes of a verification key or its signature on a store, at most.
pub(super) const KEY_BYTES_MAX: u64 = 4096;
/// How many hand-overs that do not count are told of.
const DOUBTFUL_MAX: usize = 100;
/// The fact under which the catalog keeps when hand-overs were last looked for, and of which key.
const KEYS_LOOKED: &str = "keys looked";
/// Seconds in a day.
const DAY_SECONDS: u64 = 86_400;
/// What begins the lines behind the key in its file, as in a kit.
const FORMER: &str = "# signing-former: ";

/// The key that a host signs with, and those that did before.
pub struct Signer {
    /// The key.
    pub key: SigningKey,
    /// Who signs which numbers; its current key is the public half of `key`.
    pub signers: Signers,
}

impl Signer {
    /// The first key of a series.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new() -> Result<Signer> {
        let key = SigningKey::generate()?;
        Ok(Signer { signers: Signers::from(key.public()), key })
    }

    /// A new key that follows this one from number `from_seq` on.
    ///
    /// # Errors
    /// When there is no randomness, or the number makes no sense.
    pub fn next(&self, from_seq: u64) -> Result<Signer> {
        let key = SigningKey::generate()?;
        let signers = self.signers.clone().followed_by(key.public(), from_seq)?;
        Ok(Signer { key, signers })
    }

    /// The keys of a kit, where it holds the secret half.
    ///
    /// # Errors
    /// When one is malformed, or the halves do not belong together.
    pub fn of_kit(kit: &Kit) -> Result<Option<Signer>> {
        let Some(secret) = &kit.signing_secret else { return Ok(None) };
        let key = SigningKey::from_text(secret.expose_secret())?;
        let signers = Signers::parse(key.public(), &kit.signing_former)?;
        Ok(Some(Signer { key, signers }))
    }

    /// Reads the text of a key file: the key as minisign writes it, then a line for each former key.
    ///
    /// # Errors
    /// As [`SigningKey::from_text`] and [`Signers::parse`].
    pub fn parse(text: &str) -> Result<Signer> {
        let (key, rest) = text.split_at(text.find(FORMER).unwrap_or(text.len()));
        let former: Vec<&str> = rest.lines().map(|line| line.trim_start_matches(FORMER)).collect();
        let key = SigningKey::from_text(key)?;
        let signers = Signers::parse(key.public(), &former)?;
        Ok(Signer { key, signers })
    }

    /// The text of the key file. Stock minisign signs with it.
    pub fn to_text(&self) -> SecretString {
        let key = self.key.to_text();
        let lines = self.signers.former_lines();
        let length = lines.iter().map(|line| FORMER.len() + line.len() + 1).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(key.expose_secret().len() + length));
        text.push_str(key.expose_secret());
        for line in lines {
            text.push_str(FORMER);
            text.push_str(&line);
            text.push('\n');
        }
        SecretString::from(text.as_str())
    }
}

/// Where the signing key of a configuration is.
pub fn key_file(config_file: &Path) -> PathBuf {
    config_file.with_file_name("signing.key")
}

/// Where a key waits that was made and not yet handed over to.
pub fn next_key_file(config_file: &Path) -> PathBuf {
    config_file.with_file_name("signing.next")
}

/// The systemd credential that stands in for the key's file, if there is one.
pub fn key_credential(world: &World) -> Option<PathBuf> {
    let credential = world.var("CREDENTIALS_DIRECTORY").map(|d| Path::new(d).join("lifeboat-signing"));
    credential.filter(|c| c.exists())
}

/// Reads the signing key: a systemd credential, else the file beside the configuration.
///
/// # Errors
/// When there is none, or it cannot be used.
pub fn signing(world: &World, config_file: &Path) -> Result<Signer> {
    let credential = key_credential(world);
    let granted = credential.is_some();
    let file = credential.unwrap_or_else(|| key_file(config_file));
    let read = if granted { read_granted_file(&file) } else { read_private_file(&file) };
    let bytes = read.map_err(|e| {
        if e.kind() != Kind::NotThere {
            return e;
        }
        Error::not_there(format!("the signing key {} is not there", printable_path(&file)))
            .hint("`lifeboat init --kit KIT` puts it back from the recovery kit")
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::failed("the signing key is not text"))?;
    Signer::parse(text)
}

/// What a kit says of who signs; `None` where it holds no such key.
///
/// # Errors
/// When what it says is malformed.
pub fn of_kit(kit: &Kit) -> Result<Option<Signers>> {
    let Some(public) = &kit.signing_public else { return Ok(None) };
    Ok(Some(Signers::parse(PublicKey::from_text(public)?, &kit.signing_former)?))
}

/// What came of following hand-overs.
pub struct Followed {
    /// All keys, the one that signs now last.
    pub signers: Signers,
    /// What lies among the keys on the store and does not count, a sentence each.
    pub refused: Vec<String>,
}

/// Follows the hand-overs on a store from the keys that somebody else vouches for. A credential that may not list or read
/// sees none.
///
/// # Errors
/// When the store cannot be read.
pub fn follow(store: &Store, series: &str, trusted: Signers) -> Result<Followed> {
    let mut out = Followed { signers: trusted, refused: Vec::new() };
    let listed = match store.list(&format!("keys/{series}")) {
        Err(e) if Store::is_refusal(&e) => return Ok(out),
        listed => listed?,
    };
    let mut numbers: Vec<u32> = listed.iter().filter_map(|l| public_key_number(series, &l.key)).collect();
    numbers.sort_unstable();
    let mut doubtful = Vec::new();
    for number in numbers {
        let file = public_key(series, number);
        let signature = format!("{file}.minisig");
        if !listed.iter().any(|l| l.key == signature) {
            // The first key has none, and neither has one whose hand-over was interrupted.
            continue;
        }
        let Some(public) = read(store, &file)? else { continue };
        let Some(signature) = read(store, &signature)? else { continue };
        match out.signers.follow(series, number, &public, &signature) {
            Ok(signers) => out.signers = signers,
            // Anybody who may put can put a million of them.
            Err(why) if doubtful.len() < DOUBTFUL_MAX => doubtful.push((file, PublicKey::from_text(&public).ok(), why)),
            Err(_) => {}
        }
    }
    // Hand-overs before the keys that are trusted anyway are none of this reader's business.
    for (file, public, why) in doubtful {
        if !public.is_some_and(|key| out.signers.knows(&key)) {
            out.refused.push(format!("{file} does not count: {why}"));
        }
    }
    Ok(out)
}

/// A small text on the store; what is none, or too large, is no key and no signature.
fn read(store: &Store, key: &str) -> Result<Option<String>> {
    match store.get_if_there(key, KEY_BYTES_MAX) {
        Err(e) if e.kind() == Kind::Damaged || Store::is_refusal(&e) => Ok(None),
        other => Ok(other?.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())),
    }
}

/// Follows the hand-overs from this host's key, and refuses to go on where that was handed over to another: nobody
/// would count what it signs.
///
/// # Errors
/// That, and when the store cannot be read.
pub fn in_force(store: &Store, series: &str, own: &Signer) -> Result<Signers> {
    refuse_handed_over(store, series, &own.signers)?;
    Ok(own.signers.clone())
}

/// Refuses to go on with keys whose last one was handed over.
///
/// # Errors
/// As [`in_force`].
pub fn refuse_handed_over(store: &Store, series: &str, own: &Signers) -> Result<()> {
    let signers = follow(store, series, own.clone())?.signers;
    if signers.current() == own.current() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the signing key of this host was handed over to another one, {}: nothing that it signs counts from number {} on",
        signers.current().key_id(),
        signers.from_seq()
    ))
    .hint(
        "if you rotated it on another machine, put the new key here with `lifeboat init --kit NEW-KIT` after moving the \
         configuration and signing.key away; if nobody did, the key was stolen: begin a new series with another --name",
    ))
}

/// [`in_force`] for a host that backs up many times a day: it looks once a day, and whenever the key is another one.
///
/// # Errors
/// As [`in_force`], and when the catalog cannot be read or written.
pub fn in_force_today(store: &Store, series: &str, own: &Signer, catalog: &Catalog, now: i64) -> Result<Signers> {
    let key = own.key.public().key_id();
    let fact = catalog.fact(KEYS_LOOKED)?;
    let looked = fact.as_deref().and_then(|fact| fact.strip_prefix(&format!("{key} "))?.parse::<i64>().ok());
    if looked.is_some_and(|looked| looked.abs_diff(now) < DAY_SECONDS) {
        return Ok(own.signers.clone());
    }
    let signers = in_force(store, series, own)?;
    catalog.set_fact(KEYS_LOOKED, &format!("{key} {now}"))?;
    Ok(signers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_holds_the_former_keys_behind_the_key() {
        let first = Signer::new().unwrap();
        assert_eq!(first.to_text().expose_secret(), first.key.to_text().expose_secret());
        let third = first.next(7).unwrap().next(9).unwrap();
        let read = Signer::parse(third.to_text().expose_secret()).unwrap();
        assert_eq!((read.key.public(), &read.signers), (third.key.public(), &third.signers));
        assert_eq!(read.signers.first(), &first.key.public());
        let text = third.to_text().expose_secret().replace("till-seq 9", "till-seq 6");
        assert!(Signer::parse(&text).is_err());
    }
}
