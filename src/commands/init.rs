//! `lifeboat init`: keys, recovery kit, store and configuration of a new series, or of an old one on a new machine.

mod claim;
mod continued;
mod extend;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub(super) use self::claim::put_documents;
use self::claim::{claim, is_taken, taken};
use self::continued::continue_series;
use self::extend::extend;
use super::kits::{read_back, refuse_beside_store, signed_by, write_kit};
use super::session::{configuration, signing_key_file};
use super::signing::{Signer, signing};
use super::{Event, Events, Report};
use crate::error::{At as _, Error, Result};
use crate::host::keyring;
use crate::host::private_file::write_private_file;
use crate::host::store::{Access, Store};
use crate::host::world::{World, private_dir};
use crate::model::config::{self, Config, Identity, Origin, Secrets, Source, State, Sweep};
use crate::model::guard::Bounds;
use crate::model::kit::{Kit, Opening, Which};
use crate::model::path::{printable, printable_path};
use crate::model::preset;
use crate::model::store_key::is_name;
use crate::model::upload::Upload;
use crate::model::watch::{Hooks, Status};
use crate::stream::age_keys;

/// What `init` was asked to do.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// The store's URL.
    pub store: Option<String>,
    /// The series.
    pub name: Option<String>,
    /// Agents whose homes are sources.
    pub presets: Vec<String>,
    /// Other sources.
    pub sources: Vec<PathBuf>,
    /// Where the recovery kit goes; one that is there is read and its series continued.
    pub kit: Option<PathBuf>,
    /// Leave no identity on this host.
    pub sealed: bool,
    /// Protect the kit with a passphrase.
    pub passphrase: bool,
}

/// What `init` did.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The configuration's file.
    pub config: String,
    /// The recovery kit; absent if only sources were added.
    pub kit: Option<String>,
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// The sources, as configured.
    pub sources: Vec<String>,
    /// Where this host keeps the identities: `keyring` or `none`.
    pub identity: String,
    /// `new`, `continued`, `extended` or `unchanged`.
    pub what: &'static str,
    /// What could not be done and is worth knowing.
    pub notes: Vec<String>,
}

impl Report for Done {
    fn text(&self) -> String {
        let mut out = match self.what {
            "unchanged" => format!("series {} is set up already; nothing was changed\n", self.series),
            "extended" => format!("added to series {}; keys and kit are as they were\n", self.series),
            "continued" => format!("series {} goes on from this machine\n", self.series),
            _ => format!("series {} is ready\n", self.series),
        };
        let mut line = |name: &str, value: &str| out.push_str(&format!("  {name:<15}{value}\n"));
        line("store", &self.store);
        line("sources", &self.sources.join(", "));
        line("configuration", &self.config);
        if let Some(kit) = &self.kit {
            line("recovery kit", kit);
        }
        line("identities", if self.identity == "keyring" { "in this host's keyring" } else { "not on this host" });
        for note in &self.notes {
            out.push_str(&format!("{note}\n"));
        }
        if self.what == "new" {
            out.push_str(LOSING_IT);
        }
        out
    }
}

/// What is said about a new kit.
const LOSING_IT: &str = "\
Move the recovery kit off this machine now: to a password manager, a printout, another computer.
Without it, when this machine is gone, nobody can open the backups: not you, not us.
Whoever has it and can read the store reads everything, secrets included: never keep the two together.
";

/// Makes what is not there yet. Keys and kits that are there are never overwritten.
///
/// # Errors
/// When the store cannot be used, the name is taken by another key, or the kit could not be written and proved.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    if let Some(configured) = configuration(world)? {
        return extend(world, args, configured, events);
    }
    check_names(args)?;
    let kit_path = args.kit.clone().unwrap_or_else(|| world.default_kit());
    if kit_path.exists() {
        if args.kit.is_none() && interrupted(world, &kit_path) {
            return continue_series(world, args, &kit_path, "new", events);
        }
        if args.kit.is_none() {
            return Err(Error::failed(format!("there is a recovery kit already: {}", printable_path(&kit_path))).hint(
                format!(
                    "continue its series with `lifeboat init --kit {}`, or name a new kit with --kit",
                    printable_path(&kit_path)
                ),
            ));
        }
        return continue_series(world, args, &kit_path, "continued", events);
    }
    let sources = sources(world, args)?;
    let series = args.name.clone().unwrap_or_else(|| config::series_from(&world.host_name));
    let url = store_url(world, args.store.as_deref())?;
    refuse_leftovers(world)?;
    let store = Store::open(world, &url, Access::Create)?;
    refuse_beside_store(&store, &kit_path)?;

    let signing = Signer::new()?;
    let kit = new_kit(&series, &url, &signing);
    if taken(&store, &series, signing.signers.first())? {
        return Err(is_taken(&series));
    }
    // What claims the name on the store comes after the keys are safe here: a key that was claimed and lost would block
    // the name for ever, while what is here lets the same command go on where it was interrupted.
    write_kit(world, args.passphrase, &kit, &kit_path)?;
    write_signing_key(world, &signing)?;
    if let Err(e) = claim(&store, &series, signing.signers.first()) {
        if matches!(taken(&store, &series, signing.signers.first()), Ok(true)) {
            // These keys opened nothing, and another name needs new ones.
            std::fs::remove_file(&kit_path).at("remove", &kit_path)?;
            let key = signing_key_file(&world.config_file());
            std::fs::remove_file(&key).at("remove", &key)?;
        }
        return Err(e);
    }
    finish(world, args, &kit, &signing, sources, "new", Some(&kit_path), events)
}

/// Whether kit and signing key are what an `init` wrote here that never came to its end.
fn interrupted(world: &World, kit: &Path) -> bool {
    let public = read_back(world, kit).ok().and_then(|k| k.signing_public);
    let own = signing(world, &world.config_file()).ok();
    own.is_some_and(|own| Some(own.key.public().to_base64()) == public)
}

fn write_signing_key(world: &World, signing: &Signer) -> Result<()> {
    let file = world.config_file();
    if let Some(parent) = file.parent() {
        private_dir(parent)?;
    }
    let key_file = signing_key_file(&file);
    if key_file.exists() { Ok(()) } else { write_private_file(&key_file, &signing.to_text()) }
}

fn new_kit(series: &str, url: &str, signing: &Signer) -> Kit {
    let opening = || {
        let (recipient, identities) = age_keys::generate();
        Some(Opening { recipient, identities })
    };
    let kit = Kit {
        series: series.to_owned(),
        store: url.to_owned(),
        state: opening(),
        secrets: opening(),
        ..Kit::default()
    };
    signed_by(kit, signing)
}

fn check_names(args: &Args) -> Result<()> {
    if let Some(name) = args.name.as_ref().filter(|n| !is_name(n)) {
        return Err(Error::usage(format!("`{}` is no name for a series", printable(name.as_bytes())))
            .hint("use lower-case letters, digits, `.`, `_` and `-`, at most 64, beginning with a letter or digit"));
    }
    if let Some(name) = args.presets.iter().find(|p| preset::find(p).is_none()) {
        return Err(Error::usage(format!("there is no preset `{}`", printable(name.as_bytes())))
            .hint(format!("the presets are {}", preset::names())));
    }
    Ok(())
}

/// A lone signing key means that a configuration was lost; making new keys would orphan what they opened.
fn refuse_leftovers(world: &World) -> Result<()> {
    let key = signing_key_file(&world.config_file());
    if key.exists() {
        return Err(Error::failed(format!("{} is there without a configuration", printable_path(&key)))
            .hint("continue its series with `lifeboat init --kit KIT`, or move the key away"));
    }
    Ok(())
}

/// Sources as configured: what was named, else the agents that are there.
fn sources(world: &World, args: &Args) -> Result<Vec<Source>> {
    let mut out: Vec<Source> = args.presets.iter().map(|p| Source::new(Origin::Preset(p.clone()))).collect();
    for path in &args.sources {
        let absolute = std::fs::canonicalize(path)
            .map_err(|e| Error::not_there(format!("the source {} is not there", printable_path(path))).because(e))?;
        // Whoever names an agent's home means the agent: what is secret in it, and what is not worth keeping.
        if let Some(name) = super::sources::preset_of(world, &absolute) {
            out.push(Source::new(Origin::Preset(name)));
            continue;
        }
        let text = absolute.to_str().ok_or_else(|| {
            Error::usage(format!("{} is not UTF-8 and cannot stand in a configuration", printable_path(&absolute)))
                .hint("name the directory above it")
        })?;
        out.push(Source::new(Origin::Path(text.to_owned())));
    }
    if out.is_empty() {
        out = super::sources::detected(world).into_iter().map(|p| Source::new(Origin::Preset(p))).collect();
    }
    if out.is_empty() {
        return Err(Error::usage("there is no agent here that lifeboat knows, and no path was named")
            .hint(format!("name what to back up: a PATH, or --preset with one of {}", preset::names())));
    }
    Ok(out)
}

/// The URL that goes into configuration and kit: absolute, so that it means the same from everywhere.
fn store_url(world: &World, named: Option<&str>) -> Result<String> {
    match named {
        Some(url) => crate::host::store::canonical_url(world, url),
        None => {
            let dir = world.default_store();
            let dir = dir.to_str().ok_or_else(|| Error::usage("the store's path is not UTF-8"))?;
            crate::host::store::canonical_url(world, dir)
        }
    }
}

/// Puts the keys and then the configuration on the host; the configuration is what makes it count.
#[allow(clippy::too_many_arguments, reason = "everything that init has made so far")]
fn finish(
    world: &World,
    args: &Args,
    kit: &Kit,
    signing: &Signer,
    sources: Vec<Source>,
    what: &'static str,
    kit_path: Option<&Path>,
    events: &mut Events<'_>,
) -> Result<Done> {
    let file = world.config_file();
    let mut notes = Vec::new();
    let identity = if args.sealed { Identity::None } else { keep_identities(world, kit, &mut notes) };
    write_signing_key(world, signing)?;
    let recipient = |o: &Option<Opening>| o.iter().map(|o| o.recipient.clone()).collect();
    let config = Config {
        name: kit.series.clone(),
        store: kit.store.clone(),
        mirrors: Vec::new(),
        state: State { recipients: recipient(&kit.state), identity: identity.clone() },
        secrets: Secrets {
            recipients: recipient(&kit.secrets),
            identity: identity.clone(),
            sweep: Sweep::Report,
            keep_hours: config::default_secrets_keep_hours(),
        },
        sources,
        tiers: config::default_tiers(),
        archive: config::Archive::default(),
        upload: Upload::default(),
        status: Status::default(),
        hooks: Hooks::default(),
        guard: Bounds::default(),
    };
    write_config(&file, &config)?;
    events(Event::Detail(format!("wrote {}", printable_path(&file))));
    let identity = if identity == Identity::Keyring { "keyring" } else { "none" }.to_owned();
    Ok(done(&config, &file, kit_path, identity, what, notes))
}

/// Both identities go to the keyring or none: half of them would only confuse.
fn keep_identities(world: &World, kit: &Kit, notes: &mut Vec<String>) -> Identity {
    let stored =
        [(Which::State, &kit.state), (Which::Secrets, &kit.secrets)].into_iter().try_for_each(|(which, opening)| {
            opening.as_ref().map_or(Ok(()), |o| keyring::store(&kit.series, which, &o.identities, world.terminal))
        });
    match stored {
        Ok(()) => Identity::Keyring,
        Err(e) => {
            let why = e.causes().pop().unwrap_or_else(|| e.to_string());
            notes.push(format!(
                "no OS keyring can be used here ({why}), so this host keeps no identity: backups do not need one, \
                 looking into them takes the kit"
            ));
            Identity::None
        }
    }
}

/// Writes a configuration. One that is there is changed where it has to be, so that what a person wrote in it stays.
pub(super) fn write_config(file: &Path, config: &Config) -> Result<()> {
    use std::io::Write as _;
    // A link stays one, to where somebody keeps such files.
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let text = std::fs::read_to_string(file).ok().and_then(|text| config.written_into(&text));
    let text = text.unwrap_or_else(|| config.render());
    let dir = file.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(dir).at("write in", dir)?;
    temporary.write_all(text.as_bytes()).at("write", file)?;
    temporary.as_file().sync_all().at("write", file)?;
    temporary.persist(file).map_err(|e| e.error).at("write", file)?;
    Ok(())
}

fn identity_of(config: &Config) -> String {
    if config.state.identity == Identity::None { "none" } else { "keyring" }.to_owned()
}

fn done(
    config: &Config,
    file: &Path,
    kit: Option<&Path>,
    identity: String,
    what: &'static str,
    notes: Vec<String>,
) -> Done {
    let sources = config.sources.iter().map(|s| match &s.origin {
        Origin::Preset(name) => name.clone(),
        Origin::Path(path) => printable(path.as_bytes()),
    });
    Done {
        config: printable_path(file),
        kit: kit.map(printable_path),
        series: config.name.clone(),
        store: printable(config.store.as_bytes()),
        sources: sources.collect(),
        identity,
        what,
        notes,
    }
}
