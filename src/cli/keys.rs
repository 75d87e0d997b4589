//! The command line of keys and secrets.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::commands::{credential, keys, rotate, secrets};
use crate::host::prompt::secret;
use crate::host::world::World;
use crate::output::{self, Printer, Voice};

pub(super) const KEYS_HELP: &str = "\
Examples:
  lifeboat keys show                             recipients, signing key, where identities are; never a secret
  lifeboat keys export-kit /media/stick/kit.txt  the recovery kit once more, proved
  lifeboat keys rotate --kit /media/stick/new.txt --identity /media/stick/kit.txt    new identities
  lifeboat keys rotate --signing --kit /media/stick/new.txt   after a break-in: what the old key signs counts no more
  lifeboat keys check /media/stick/kit.txt       whether it opens the newest archives
  lifeboat keys set-credential AWS_SECRET_ACCESS_KEY    the store's, in the OS keyring instead of a file

Exit codes: 0 done, 1 failed, 2 usage, 3 something is wrong or lacking, 4 keys or store contradict each other,
10 configuration, store or snapshot missing, 12 no identity opens it, 130 interrupted.";

pub(super) const SECRETS_HELP: &str = "\
What a bundle holds and what the sweep saw, for whoever can open the bundles. Values are never shown but by get and env,
and those print to a pipe or file only. Names come from the keys before the values, as in NAME=value.

Examples:
  lifeboat secrets list                          names, files, and for how long each value is the same
  lifeboat secrets diff 20261120 latest          added, removed, rotated
  lifeboat secrets leaks                         which value stands in which file of the state
  lifeboat secrets exposure OPENAI_API_KEY       which archives hold it, and until when
  lifeboat secrets get OPENAI_API_KEY | xclip    one value
  . <(lifeboat secrets env)                      all of them, for a shell

After a rotation the old value is asked for with --bundle: `exposure NAME --bundle 20261120`.

Exit codes: 0 done, 1 failed, 2 usage, 4 damage found, 10 store, bundle or name missing, 12 no identity opens it.";

#[derive(Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    what: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Show recipients, signing key, and where identities are
    Show,
    /// Write the recovery kit again, from the keys in force
    ExportKit(ExportKitArgs),
    /// Make new keys, a kit with the new and the old ones, and a bundle for the new; by default both identities
    Rotate(RotateArgs),
    /// Check that a kit opens the newest archives and that its key signed them
    Check(CheckKitArgs),
    /// Keep a part of the store's credential in the OS keyring: asked for, or from standard input
    SetCredential(SetCredentialArgs),
}

#[derive(Args)]
struct ExportKitArgs {
    /// The new kit; a file that is there is not replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Another kit, where this host does not hold the identities
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Protect the kit with a passphrase, asked for or taken from $LIFEBOAT_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
}

#[derive(Args)]
struct RotateArgs {
    /// New keys for the secrets bundle alone
    #[arg(long)]
    secrets: bool,
    /// New keys for the state archive alone
    #[arg(long)]
    state: bool,
    /// A new signing key, which the old one hands over to
    #[arg(long)]
    signing: bool,
    /// The new kit; a file that is there is not replaced
    #[arg(long, value_name = "FILE")]
    kit: PathBuf,
    /// The old kit, where this host does not hold the identities
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Protect the new kit with a passphrase, asked for or taken from $LIFEBOAT_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
}

#[derive(Args)]
struct SetCredentialArgs {
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_SAS_TOKEN, GOOGLE_SERVICE_ACCOUNT_KEY and their like
    #[arg(value_name = "NAME")]
    part: String,
    /// Another store than the configured one
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Take it away
    #[arg(long)]
    remove: bool,
}

#[derive(Args)]
struct CheckKitArgs {
    /// The kit
    #[arg(value_name = "KIT")]
    kit: PathBuf,
    /// Another store than the kit's
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

#[derive(Args)]
pub(super) struct SecretsArgs {
    #[command(subcommand)]
    what: SecretsCommand,
    /// Recovery kit, or any file with the identity
    #[arg(long, value_name = "FILE", global = true)]
    identity: Option<PathBuf>,
    /// Store [default: the kit's, else the configured one]
    #[arg(long, value_name = "URL", global = true)]
    store: Option<String>,
    /// Series [default: the kit's, else the configured one]
    #[arg(long, value_name = "SERIES", global = true)]
    name: Option<String>,
}

#[derive(Subcommand)]
enum SecretsCommand {
    /// List names of values in the newest bundle, and for how long each is the same
    List,
    /// Tell which values were added, removed or rotated between two bundles
    Diff {
        /// The earlier bundle: an id, the beginning of one, a date
        #[arg(value_name = "A")]
        from: String,
        /// The later one
        #[arg(value_name = "B", default_value = "latest")]
        to: String,
    },
    /// List where values of secrets were seen in the state
    Leaks,
    /// Print one value, to a pipe or file
    Get {
        /// Its name
        #[arg(value_name = "NAME")]
        value: String,
        /// The end of the path of its file
        #[arg(long, value_name = "PATH")]
        file: Option<String>,
        #[command(flatten)]
        from: FromBundle,
    },
    /// Print all values as assignments for a shell, to a pipe or file
    Env {
        /// The end of the path of one file
        #[arg(long, value_name = "PATH")]
        file: Option<String>,
        #[command(flatten)]
        from: FromBundle,
    },
    /// Tell which archives on the store hold a value, and until when
    Exposure {
        /// Its name
        #[arg(value_name = "NAME")]
        value: String,
        /// The bundle whose value is meant
        #[arg(long, value_name = "BUNDLE", default_value = "latest")]
        bundle: String,
    },
}

#[derive(Args)]
struct FromBundle {
    /// Another bundle than the newest
    #[arg(long, value_name = "BUNDLE", default_value = "latest")]
    bundle: String,
    /// Print to a terminal, too
    #[arg(long)]
    force: bool,
}

pub(super) fn secrets(world: &World, voice: Voice, asked: SecretsArgs) -> ExitCode {
    let SecretsArgs { what, identity, store, name: series } = asked;
    let common = secrets::Args { identity, store, series };
    let mut printer = Printer::new(voice);
    let asked = |name, file, from: FromBundle| secrets::GetArgs {
        common: common.clone(),
        bundle: from.bundle,
        name,
        file,
        to_terminal: output::to_terminal(),
        force: from.force,
    };
    match what {
        SecretsCommand::List => {
            let result = secrets::list(world, &common, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        SecretsCommand::Diff { from, to } => {
            let result = secrets::diff(world, &common, &from, &to, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        SecretsCommand::Leaks => {
            let result = secrets::leaks(world, &common, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        SecretsCommand::Get { value, file, from } => {
            let result = secrets::get(world, &asked(Some(value), file, from), &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        SecretsCommand::Env { file, from } => {
            let result = secrets::env(world, &asked(None, file, from), &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        SecretsCommand::Exposure { value, bundle } => {
            let result = secrets::exposure(world, &common, &bundle, &value, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
    }
}

pub(super) fn keys(world: &World, voice: Voice, a: KeysArgs) -> ExitCode {
    let mut printer = Printer::new(voice);
    match a.what {
        KeysCommand::Show => {
            let result = keys::show(world, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        KeysCommand::ExportKit(a) => {
            let args = keys::ExportArgs { file: a.file, identity: a.identity, passphrase: a.passphrase };
            let result = keys::export_kit(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        KeysCommand::Rotate(a) => {
            let RotateArgs { secrets, state, signing, kit, identity, passphrase } = a;
            let args = rotate::Args { state, secrets, signing, kit, identity, passphrase };
            let result = rotate::run(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        KeysCommand::Check(a) => {
            let args = keys::CheckArgs { kit: a.kit, store: a.store };
            let result = keys::check(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        KeysCommand::SetCredential(SetCredentialArgs { part, store, remove }) => {
            let value = if remove { Ok(None) } else { secret(world, &part).map(Some) };
            let result = value.and_then(|value| {
                let args = credential::Args { name: part, store, value };
                credential::set(world, &args, &mut |e| printer.event(e))
            });
            output::finish(voice, &mut printer, result)
        }
    }
}
