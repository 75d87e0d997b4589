//! `lifeboat keys`: which keys are in force and where they are, the recovery kit once more, and whether a kit would do.

use std::path::PathBuf;

use serde::Serialize;

use super::kits;
use super::session::{Configured, Keys, configuration, sha256};
use super::signing::{self, Followed, Signer, signing};
use super::snapshots::{self, Found};
use super::write_archive::clock_text;
use super::{Event, Events, Report, plugins};
use crate::error::{Error, Kind, Result};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::config::{Config, Identity};
use crate::model::kit::{Kit, Which};
use crate::model::path::{printable, printable_path};
use crate::model::store_key::{Archive, MANIFEST, public_key};
use crate::stream::age_keys::Identities;
use crate::stream::manifest_file;
use crate::stream::sign::PublicKey;
use crate::stream::signers::Signers;

// ---------------------------------------------------------------- show

/// What can be told of this host's keys.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// The configuration's file.
    pub config: String,
    /// The key that signs.
    pub signing: Signing,
    /// What the state archive is sealed to.
    pub state: Sealed,
    /// What the secrets bundle is sealed to.
    pub secrets: Sealed,
}

/// The signing key.
#[derive(Debug, Serialize)]
pub struct Signing {
    /// Its public half in one line, as `minisign -P` takes it; absent if it cannot be read.
    pub public: Option<String>,
    /// Its file.
    pub file: String,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// For whom an archive is sealed, and what opens it here.
#[derive(Debug, Serialize)]
pub struct Sealed {
    /// age recipients.
    pub recipients: Vec<String>,
    /// Where the configuration says that the identity is: `keyring`, `file`, `command` or `none`.
    pub identity: &'static str,
    /// Where identities were found.
    pub found: Vec<String>,
    /// Whether one of them opens what is sealed to the recipients: it was tried.
    pub opens: bool,
    /// Where none was found, and why.
    pub tried: Vec<String>,
}

impl Sealed {
    fn text(&self, title: &str) -> String {
        let mut out = format!("{title}\n");
        for recipient in &self.recipients {
            out.push_str(&format!("  recipient      {recipient}\n"));
        }
        let identity = match (self.found.join(", "), self.opens) {
            (found, _) if found.is_empty() => "not found on this host".to_owned(),
            (found, true) => format!("found: {found}"),
            (found, false) => format!("found, but of another key: {found}"),
        };
        out.push_str(&format!("  identity       {identity}\n"));
        for miss in &self.tried {
            out.push_str(&format!("                 {miss}\n"));
        }
        out
    }

    fn problem(&self, which: Which) -> Option<String> {
        (!self.found.is_empty() && !self.opens)
            .then(|| format!("what was found for {} does not open what is sealed to its recipients", which.archive()))
    }
}

impl Report for Shown {
    fn text(&self) -> String {
        let mut out = format!("series {}\n", self.series);
        out.push_str(&format!("  store          {}\n  configuration  {}\n", self.store, self.config));
        let public = self.signing.public.as_deref().unwrap_or("cannot be used");
        out.push_str(&format!("  signing key    {public}\n                 in {}\n", self.signing.file));
        out.push_str(&self.state.text("state archive"));
        out.push_str(&self.secrets.text("secrets bundle"));
        out
    }

    fn problems(&self) -> Vec<String> {
        let sealed = [self.state.problem(Which::State), self.secrets.problem(Which::Secrets)];
        self.signing.problem.clone().into_iter().chain(sealed.into_iter().flatten()).collect()
    }
}

/// Shows recipients, signing key, and where identities are; never a secret.
///
/// # Errors
/// When there is no configuration, or it is wrong.
pub fn show(world: &World, _events: &mut Events<'_>) -> Result<Shown> {
    let Configured { config, file } = configured(world)?;
    let keys = Keys::find(world, None, Some(&config), &[Which::State, Which::Secrets])?;
    let signing = match signing(world, &file) {
        Ok(own) => (Some(own.key.public().to_base64()), None),
        Err(e) => (None, Some(e.to_string())),
    };
    let key_file = signing::key_credential(world).unwrap_or_else(|| signing::key_file(&file));
    Ok(Shown {
        series: config.name.clone(),
        store: printable(config.store.as_bytes()),
        config: printable_path(&file),
        signing: Signing { public: signing.0, file: printable_path(&key_file), problem: signing.1 },
        state: sealed(&config, &keys, Which::State),
        secrets: sealed(&config, &keys, Which::Secrets),
    })
}

fn sealed(config: &Config, keys: &Keys, which: Which) -> Sealed {
    let (recipients, identity) = in_force(config, which);
    let proved = keys.prove(which, recipients);
    Sealed {
        recipients: recipients.to_vec(),
        identity: match identity {
            Identity::Keyring => "keyring",
            Identity::File(_) => "file",
            Identity::Command(_) => "command",
            Identity::None => "none",
        },
        found: keys.sources(which).into_iter().map(str::to_owned).collect(),
        opens: proved.is_ok(),
        tried: keys.misses(which),
    }
}

fn in_force(config: &Config, which: Which) -> (&[String], &Identity) {
    match which {
        Which::State => (&config.state.recipients, &config.state.identity),
        Which::Secrets => (&config.secrets.recipients, &config.secrets.identity),
    }
}

pub(super) fn configured(world: &World) -> Result<Configured> {
    configuration(world)?.ok_or_else(|| {
        Error::not_there("there is no configuration here, so there are no keys").hint("`lifeboat init` makes both")
    })
}

// ---------------------------------------------------------------- export-kit

/// What `keys export-kit` was asked to do.
#[derive(Clone, Debug, Default)]
pub struct ExportArgs {
    /// The new kit. It must not be there.
    pub file: PathBuf,
    /// Another kit, for the identities.
    pub identity: Option<PathBuf>,
    /// Protect the new kit with a passphrase.
    pub passphrase: bool,
}

/// A kit that was written.
#[derive(Debug, Serialize)]
pub struct Exported {
    /// Its file.
    pub kit: String,
    /// The series it is for.
    pub series: String,
    /// Whether it has a passphrase.
    pub passphrase: bool,
}

impl Report for Exported {
    fn text(&self) -> String {
        format!(
            "wrote the recovery kit {} of series {}, and opened with it what was sealed for a test\n\
             Move it off this machine: whoever has it and can read the store reads everything.\n",
            self.kit, self.series
        )
    }
}

/// Writes the recovery kit once more, from the keys that are in force, and proves it by a canary.
///
/// # Errors
/// [`Kind::NoIdentity`] when this host does not hold both identities and no other kit was named; when what was found
/// is of other keys than those in force; when the signing key was handed over; when the file is there already.
pub fn export_kit(world: &World, args: &ExportArgs, _events: &mut Events<'_>) -> Result<Exported> {
    let Configured { config, file } = configured(world)?;
    let signing = signing(world, &file)?;
    // A store that is out of reach is no reason to have no kit; where it is, only a local one needs no asking.
    if let Ok(store) = Store::open(world, &config.store, Access::Existing) {
        kits::refuse_beside_store(&store, &args.file)?;
        // A kit with a key that was given up could not continue the series.
        let followed = signing::follow(&store, &config.name, signing.signers.clone());
        if followed.is_ok_and(|followed| followed.signers.current() != signing.signers.current()) {
            signing::refuse_handed_over(&store, &config.name, &signing.signers)?;
        }
    }
    let mut keys = Keys::find(world, args.identity.as_deref(), Some(&config), &[Which::State, Which::Secrets])?;
    let kit = kits::in_force(&config, &mut keys, &signing)?;
    kits::write_kit(world, args.passphrase, &kit, &args.file)?;
    Ok(Exported { kit: printable_path(&args.file), series: config.name, passphrase: args.passphrase })
}

// ---------------------------------------------------------------- check

/// What `keys check` was asked to do.
#[derive(Clone, Debug, Default)]
pub struct CheckArgs {
    /// The kit.
    pub kit: PathBuf,
    /// Another store than the kit's.
    pub store: Option<String>,
}

/// A kit that would do.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// The kit.
    pub kit: String,
    /// Its series.
    pub series: String,
    /// The store that was looked at.
    pub store: String,
    /// The kit's key that signatures were checked with, as `minisign -P` takes it, and with what it handed over to.
    pub signing: String,
    /// The newest archive of each kind.
    pub opened: Vec<OpenedArchive>,
    /// What the kit lacks, though it opens everything.
    pub lacks: Vec<String>,
}

/// An archive that a kit opens.
#[derive(Debug, Serialize)]
pub struct OpenedArchive {
    /// `state` or `secrets`.
    pub archive: &'static str,
    /// Its id.
    pub id: String,
    /// When it was made, RFC 3339.
    pub time: String,
    /// Files that its manifest counts.
    pub files: u64,
}

impl Report for Checked {
    fn text(&self) -> String {
        let mut out = format!("{} opens series {} on {}\n", self.kit, self.series, self.store);
        for one in &self.opened {
            out.push_str(&format!("  {:<9}{}  {}  signed by its key\n", one.archive, one.id, one.time));
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        self.lacks.clone()
    }
}

/// Checks that a kit opens the newest archives of its series, and that they were signed with its key.
///
/// # Errors
/// [`Kind::NoIdentity`] when it does not open one; [`Kind::Damaged`] when the keys or the store contradict each other;
/// [`Kind::NotThere`] when there is no store, or nothing on it.
pub fn check(world: &World, args: &CheckArgs, events: &mut Events<'_>) -> Result<Checked> {
    let kit = kits::read_back(world, &args.kit)?;
    let name = printable_path(&args.kit);
    let configured = configuration(world)?;
    let config = configured.as_ref().map(|c| &c.config);
    let or_configured = |own: &str, other: Option<&String>| match own {
        "" => other.cloned(),
        own => Some(own.to_owned()),
    };
    let url = args.store.clone().or_else(|| or_configured(&kit.store, config.map(|c| &c.store)));
    let url = url.ok_or_else(|| Error::usage(format!("{name} names no store")).hint("name one with --store"))?;
    let series = or_configured(&kit.series, config.map(|c| &c.name));
    let series = series.ok_or_else(|| Error::usage(format!("{name} names no series: it is no recovery kit")))?;
    let (trusted, mut lacks) = kit_keys(&kit, &name)?;
    let kit_key = trusted.current().clone();
    let store = Store::open(world, &url, Access::Existing)?;
    let Followed { signers, refused } = signing::follow(&store, &series, trusted)?;
    for line in refused {
        events(Event::Warning(line));
    }
    compare_keys(world, configured.as_ref().filter(|c| c.config.name == series), &store, &series, &signers, &name)?;
    if *signers.current() != kit_key {
        lacks.push(format!(
            "the signing key in {name} was handed over to {}: it restores, and cannot continue the series; \
             `lifeboat keys export-kit FILE` writes a kit that can",
            signers.current().key_id()
        ));
    }
    let found = snapshots::load(&store, &series, Some(&signers))?;
    let mut opened = Vec::new();
    for (which, archive) in [(Which::State, Archive::State), (Which::Secrets, Archive::Secrets)] {
        match snapshots::newest(&found, archive) {
            Some(newest) => opened.push(open(world, &store, newest, &kit, which, &name)?),
            None if found.iter().any(|f| f.place.archive == archive) => {
                // Says why none of them verifies.
                snapshots::choose(&found, archive, &snapshots::Wanted::Latest, false, world.now())?;
            }
            None if archive == Archive::State => {
                return Err(Error::not_there(format!("there is no snapshot of {series} on {}", store.name()))
                    .hint("`lifeboat backup` makes one; `lifeboat list --all` shows what is there"));
            }
            None => events(Event::Note(format!("there is no secrets bundle of {series}, so none was opened"))),
        }
    }
    if kit.signing_secret.is_none() {
        lacks.push(format!("{name} has no signing key: it restores, and cannot continue the series"));
    }
    Ok(Checked { kit: name, series, store: store.name(), signing: kit_key.to_base64(), opened, lacks })
}

/// The keys that a kit checks signatures with; both halves of the last one must belong together.
fn kit_keys(kit: &Kit, name: &str) -> Result<(Signers, Vec<String>)> {
    match (signing::of_kit(kit)?, Signer::of_kit(kit)?) {
        (Some(named), Some(own)) if *named.current() != own.key.public() => {
            Err(Error::damaged(format!("the two halves of the signing key in {name} do not belong together")))
        }
        (Some(named), _) => Ok((named, Vec::new())),
        (None, Some(own)) => Ok((own.signers, vec![format!("{name} does not name its public signing key")])),
        (None, None) => Err(Error::usage(format!("{name} holds no signing key, so nothing can be checked with it"))
            .hint("a recovery kit as `lifeboat init` writes it has one")),
    }
}

/// The kit's key, or one that it was handed over to, must be what this host signs with; and the name of the series must
/// have been claimed on the store with the kit's key, or one before it.
fn compare_keys(
    world: &World,
    configured: Option<&Configured>,
    store: &Store,
    series: &str,
    signers: &Signers,
    name: &str,
) -> Result<()> {
    let own = configured.and_then(|c| signing(world, &c.file).ok()).map(|own| own.key.public());
    if own.is_some_and(|own| !signers.knows(&own)) {
        return Err(Error::damaged(format!("{name} has another signing key than this host"))
            .hint("it is the kit of another series of that name: `lifeboat keys export-kit FILE` writes this host's"));
    }
    let claimed = store.get_if_there(&public_key(series, 1), signing::KEY_BYTES_MAX)?;
    let claimed = claimed.and_then(|bytes| PublicKey::from_text(&String::from_utf8_lossy(&bytes)).ok());
    if claimed.is_some_and(|claimed| !signers.knows(&claimed)) {
        return Err(Error::damaged(format!("{name} has another signing key than the series {series} on the store"))
            .hint("somebody else's series has that name there, or the key was replaced"));
    }
    Ok(())
}

/// Opens the manifest of an archive with the kit.
fn open(world: &World, store: &Store, found: &Found, kit: &Kit, which: Which, name: &str) -> Result<OpenedArchive> {
    let directory = found.place.directory();
    let commit = found.verified().ok_or_else(|| Error::damaged(format!("{directory} does not verify")))?;
    if let Some(damage) = found.damage() {
        return Err(Error::damaged(format!("{directory} is damaged: {damage}")));
    }
    let identities = Identities::parse(kit.identities(which)).map_err(|e| {
        Error::new(e.kind(), format!("{name} does not open {}", which.archive())).because(e.to_string())
    })?;
    let identities = identities.with(&plugins::of(world));
    let object = found.place.object(MANIFEST);
    let sealed = store.get(&object, commit.manifest().size)?;
    if sha256(&sealed) != commit.manifest().sha256 {
        return Err(Error::damaged(format!("{object} is not what its commit says")));
    }
    let header = manifest_file::read_header(&object, &sealed, &identities).map_err(|e| match e.kind() {
        Kind::NoIdentity => {
            Error::new(Kind::NoIdentity, format!("{name} does not open {} {}", which.archive(), found.place.id))
                .hint("it was sealed to other recipients: `lifeboat keys show` names those in force")
        }
        _ => e,
    })?;
    Ok(OpenedArchive {
        archive: found.place.archive.word(),
        id: found.place.id.to_string(),
        time: clock_text(found.place.id.unix_seconds()),
        files: header.counts.files,
    })
}
