//! What most commands begin with: the configuration, the store, the keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};

use super::{plugins, signing};
use crate::error::{At as _, Error, Kind, Result};
use crate::host::identity::{self, Found};
use crate::host::world::World;
use crate::host::{catalog, prompt};
use crate::model::commit::Commit;
use crate::model::config::{Config, Identity};
use crate::model::kit::{Kit, Which, is_protected};
use crate::model::path::printable_path;
use crate::stream::age_keys::{self, Identities, Recipients};
use crate::stream::plugin::Plugins;
use crate::stream::sign::SigningKey;
use crate::stream::signers::Signers;

/// The largest configuration that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A configuration and where it was read from.
pub struct Configured {
    /// The configuration.
    pub config: Config,
    /// Its file.
    pub file: PathBuf,
}

/// Reads the configuration in force; `None` if there is none.
///
/// # Errors
/// When it is there and cannot be read or is wrong, with the line.
pub fn configuration(world: &World) -> Result<Option<Configured>> {
    let Some(file) = world.existing_config_file() else { return Ok(None) };
    let length = std::fs::metadata(&file).at("read the configuration", &file)?.len();
    if length > CONFIG_BYTES_MAX {
        return Err(Error::failed(format!("the configuration {} is too large to be one", printable_path(&file))));
    }
    let text = std::fs::read_to_string(&file).at("read the configuration", &file)?;
    let config = Config::parse(&text).map_err(|e| {
        let hint = e.advice().map(str::to_owned);
        let error = Error::new(e.kind(), format!("the configuration {} is wrong", printable_path(&file))).because(e);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })?;
    Ok(Some(Configured { config, file }))
}

/// Where the signing key of a configuration is.
pub fn signing_key_file(config_file: &Path) -> PathBuf {
    signing::key_file(config_file)
}

/// Reads the signing key: a systemd credential, else the file beside the configuration.
///
/// # Errors
/// When there is none, or it cannot be used.
pub fn signing_key(world: &World, config_file: &Path) -> Result<SigningKey> {
    signing::signing(world, config_file).map(|signing| signing.key)
}

/// A kit, or whatever else holds identities, that was found.
struct Held {
    /// The name of its source.
    source: String,
    /// The archive that it is for, if the source holds the identity of one.
    only: Option<Which>,
    kit: Kit,
}

/// What a kit, or whatever else holds identities, can do.
pub struct Keys {
    kits: Vec<Held>,
    /// What was tried and gave nothing.
    found: Vec<(Which, Found)>,
    /// What identities of plugins are used with.
    plugins: Arc<dyn Plugins>,
}

impl Keys {
    /// Looks for identities where a person or the configuration says they are.
    ///
    /// # Errors
    /// When a key text cannot be read, or its passphrase is wrong.
    pub fn find(world: &World, file: Option<&Path>, config: Option<&Config>, wanted: &[Which]) -> Result<Keys> {
        let credentials = world.var("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let env = world.var("LIFEBOAT_IDENTITY").and_then(|v| v.to_str()).map(SecretString::from);
        let mut keys = Keys { kits: Vec::new(), found: Vec::new(), plugins: plugins::of(world) };
        // What was named holds whatever it holds; any other source was asked for the identity of one archive.
        let named = file.is_some() || env.is_some();
        for which in wanted {
            let setting = config.map_or(String::new(), |c| setting(world, c, *which));
            let series = config.map_or("", |c| c.name.as_str());
            let env = env.clone();
            let sources = identity::Sources {
                file,
                env,
                credentials_dir: credentials.as_deref(),
                setting: &setting,
                series,
                attended: world.terminal,
            };
            let mut found = identity::find(&sources, *which);
            for (name, text) in std::mem::take(&mut found.texts) {
                let kit = read_kit(world, &name, &text)?;
                keys.kits.push(Held { source: name, only: (!named).then_some(*which), kit });
            }
            // A file that was named and cannot be used is what is wrong, whatever else turns out to be.
            if file.is_some() && keys.kits.is_empty() && found.tried.iter().any(|(_, e)| e.kind() != Kind::NoIdentity) {
                return Err(found.into_error(*which));
            }
            keys.found.push((*which, found));
            if file.is_some() {
                break;
            }
        }
        Ok(keys)
    }

    /// The identities for one archive.
    ///
    /// # Errors
    /// [`Kind::NoIdentity`], naming every source that was tried and why it failed.
    pub fn identities(&mut self, which: Which) -> Result<Identities> {
        let texts = self.texts(which);
        if !texts.is_empty() {
            return Ok(Identities::parse(texts)?.with(&self.plugins));
        }
        let found = match self.found.iter().position(|(w, _)| *w == which) {
            Some(at) => self.found.remove(at).1,
            None if !self.found.is_empty() => self.found.remove(0).1,
            None => return Err(Error::new(Kind::NoIdentity, format!("no identity at hand opens {}", which.archive()))),
        };
        Err(found.into_error(which))
    }

    /// Proves that what was found for an archive opens what is sealed to `recipients`.
    ///
    /// # Errors
    /// When it does not.
    pub fn prove(&self, which: Which, recipients: &[String]) -> Result<()> {
        let identities = Identities::parse(self.texts(which))?.with(&self.plugins);
        age_keys::prove(&Recipients::parse(recipients)?.with(&self.plugins)?, &identities)
    }

    /// Whether anything was found for the archive.
    pub fn has(&self, which: Which) -> bool {
        !self.texts(which).is_empty()
    }

    /// The identities that were found for the archive, and may be tried on it.
    pub fn texts(&self, which: Which) -> Vec<&SecretString> {
        self.held_for(which).flat_map(|h| h.kit.identities(which)).collect()
    }

    /// The sources in which [`Keys::texts`] were found.
    pub fn sources(&self, which: Which) -> Vec<&str> {
        self.held_for(which).filter(|h| !h.kit.identities(which).is_empty()).map(|h| h.source.as_str()).collect()
    }

    /// The sources that gave nothing for the archive, each with its reason.
    pub fn misses(&self, which: Which) -> Vec<String> {
        self.found.iter().filter(|(w, _)| *w == which).flat_map(|(_, found)| found.reasons()).collect()
    }

    fn held_for(&self, which: Which) -> impl Iterator<Item = &Held> {
        self.kits.iter().filter(move |held| held.only.is_none_or(|only| only == which))
    }

    /// The series and store a kit names.
    pub fn kit(&self) -> Option<&Kit> {
        self.kits.iter().map(|held| &held.kit).find(|k| !k.series.is_empty() || !k.store.is_empty())
    }

    /// Who signs, as far as a kit holds it.
    ///
    /// # Errors
    /// When what the kit says is malformed.
    pub fn signers(&self) -> Result<Option<Signers>> {
        let kit = self.kits.iter().map(|held| &held.kit).find(|kit| kit.signing_public.is_some());
        kit.map_or(Ok(None), signing::of_kit)
    }
}

fn setting(world: &World, config: &Config, which: Which) -> String {
    let identity = match which {
        Which::State => &config.state.identity,
        Which::Secrets => &config.secrets.identity,
    };
    match identity {
        Identity::Keyring => "keyring".to_owned(),
        Identity::None => "none".to_owned(),
        Identity::Command(command) => format!("command:{command}"),
        Identity::File(file) => {
            format!("file:{}", crate::model::config::expand_home(file, &world.home).display())
        }
    }
}

/// Reads a key text, asking for the passphrase where it has one.
///
/// # Errors
/// When it is malformed, or cannot be opened.
pub fn read_kit(world: &World, name: &str, text: &SecretString) -> Result<Kit> {
    if !is_protected(text.expose_secret()) {
        return Kit::parse(text.expose_secret());
    }
    let passphrase = match world.var("LIFEBOAT_PASSPHRASE").and_then(|p| p.to_str()) {
        Some(passphrase) => Some(SecretString::from(passphrase)),
        None if world.terminal => prompt::passphrase(world, &format!("Passphrase of {name}"))?,
        None => None,
    };
    let Some(passphrase) = passphrase else {
        return Err(Error::new(
            Kind::NoIdentity,
            format!("{name} is protected by a passphrase and nobody can be asked"),
        )
        .hint("run this on a terminal, or set LIFEBOAT_PASSPHRASE"));
    };
    let opened = age_keys::decrypt_with_passphrase(text.expose_secret().as_bytes(), &passphrase)?;
    Kit::parse(opened.expose_secret())
}

/// SHA-256 of bytes, as references to commits carry it.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

/// Signs a commit and checks that the result verifies.
///
/// # Errors
/// When the key cannot sign.
pub fn sign_commit(key: &SigningKey, commit: &Commit, text: &str) -> Result<String> {
    let comment = Commit::trusted_comment(&commit.series, &commit.id);
    let signature = crate::stream::sign::sign(key, text.as_bytes(), &comment)?;
    crate::stream::sign::verify(&key.public(), text.as_bytes(), &signature, &comment)?;
    Ok(signature)
}

/// The catalog of a series, in its state directory.
///
/// # Errors
/// When it cannot be opened or made.
pub fn open_catalog(world: &World, series: &str) -> Result<catalog::Catalog> {
    let dir = world.state_dir(series);
    crate::host::world::private_dir(&dir)?;
    catalog::Catalog::open(&dir)
}
