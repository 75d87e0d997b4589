//! The command line: parsing, dispatch, help. A contract: scripts rely on it.

mod copies;
mod daily;
mod keys;
mod look;
mod proof;
mod upkeep;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::error::Error;
use crate::host::world::World;
use crate::output::{self, Voice};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 written or restored but incomplete, 4 damage found,
5 too old, 6 suspicious change, 10 store, source or configuration missing, 11 another run holds the lock,
12 no identity opens it, 13 archived by the cloud, 130 interrupted. Treat any other as failed.";

/// Encrypted, signed backups of an AI agent's home: state and secrets apart, restorable with age, zstd and tar alone
#[derive(Parser)]
#[command(name = "lifeboat", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Configuration file [default: $LIFEBOAT_CONFIG, else ~/.config/lifeboat/config.toml, else /etc/lifeboat/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object on stdout
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more, for example what is left out and why
    #[arg(short, long, global = true, action = ArgAction::SetTrue)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Set up keys, recovery kit, store and configuration
    #[command(after_help = daily::INIT_HELP)]
    Init(daily::InitArgs),
    /// Back up all sources, state and secrets in two archives
    #[command(after_help = daily::BACKUP_HELP)]
    Backup(daily::BackupArgs),
    /// List the snapshots and bundles on the store
    #[command(after_help = daily::LIST_HELP)]
    List(daily::ListArgs),
    /// Bring a snapshot back, from kit and store alone
    #[command(after_help = daily::RESTORE_HELP)]
    Restore(daily::RestoreArgs),
    /// Check configuration, keys, clock, store and rights, and say what to do
    #[command(after_help = proof::DOCTOR_HELP)]
    Doctor(proof::DoctorArgs),
    /// Say that what the last backup found suspicious is as it should be
    #[command(after_help = daily::ACCEPT_HELP)]
    Accept(daily::AcceptArgs),
    /// Show what is in a snapshot
    #[command(after_help = look::LS_HELP)]
    Ls(look::LsArgs),
    /// Write one file of a snapshot to stdout
    #[command(after_help = look::CAT_HELP)]
    Cat(look::CatArgs),
    /// Write a file or directory of a snapshot to stdout, as tar
    #[command(after_help = look::DUMP_HELP)]
    Dump(look::DumpArgs),
    /// Show a snapshot as a directory, read-only
    #[cfg(target_os = "linux")]
    #[command(after_help = look::MOUNT_HELP)]
    Mount(look::MountArgs),
    /// Look for names, in one snapshot or in all
    #[command(after_help = look::FIND_HELP)]
    Find(look::FindArgs),
    /// Compare two snapshots
    #[command(after_help = look::DIFF_HELP)]
    Diff(look::DiffArgs),
    /// Show the history of one file
    #[command(after_help = look::LOG_HELP)]
    Log(look::LogArgs),
    /// Compare what is on the store with what was signed; needs no identity
    #[command(after_help = proof::VERIFY_HELP)]
    Verify(proof::VerifyArgs),
    /// Rehearse a restore, look at everything, and sign a receipt
    #[command(after_help = proof::DRILL_HELP)]
    Drill(proof::DrillArgs),
    /// What `drill --sandbox` runs inside
    #[command(hide = true)]
    LookInside(proof::LookInsideArgs),
    /// Whether snapshots and drills are young enough
    #[command(after_help = proof::STATUS_HELP)]
    Status(proof::StatusArgs),
    /// Bring another store up to date; needs no identity
    #[command(after_help = copies::COPY_HELP)]
    Copy(copies::CopyArgs),
    /// Keep a snapshot without end
    #[command(after_help = copies::PIN_HELP)]
    Pin(copies::PinArgs),
    /// Take a pin away again
    #[command(after_help = copies::UNPIN_HELP)]
    Unpin(copies::PinArgs),
    /// Remove what is past its life, from a store without a lifecycle
    #[command(after_help = upkeep::PRUNE_HELP)]
    Prune(upkeep::PruneArgs),
    /// The rules with which a bucket does the same by itself
    #[command(after_help = upkeep::LIFECYCLE_HELP)]
    Lifecycle(upkeep::LifecycleArgs),
    /// Show the keys in force, make new ones, write the recovery kit again, check one
    #[command(after_help = keys::KEYS_HELP)]
    Keys(keys::KeysArgs),
    /// Names, ages, leaks and values of secrets, out of the bundles
    #[command(after_help = keys::SECRETS_HELP)]
    Secrets(keys::SecretsArgs),
}

/// Parses `args`, runs what they ask for, prints, and gives the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::command().try_get_matches_from(&args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { 2 } else { 0 };
            // What could not be parsed may still have asked for JSON.
            if e.use_stderr() && args.iter().take_while(|a| *a != "--").any(|a| a == "--json") {
                let voice = Voice { json: true, ..Voice::default() };
                output::print_error(voice, &usage(&e));
                return ExitCode::from(code);
            }
            // Whoever closed the pipe has read enough.
            e.print().unwrap_or(());
            return ExitCode::from(code);
        }
    };
    let Global { config, json, quiet, verbose } = cli.global;
    let mut voice = Voice { json, quiet, verbose, terminal: false };
    let mut world = match signals().and_then(World::real) {
        Ok(world) => world,
        Err(e) => {
            output::print_error(voice, &e);
            return ExitCode::from(e.kind().exit_code());
        }
    };
    voice.terminal = world.terminal;
    if let Some(config) = config {
        world.env.insert("LIFEBOAT_CONFIG".into(), config.into());
    }
    dispatch(&world, voice, cli.command)
}

/// What the parser says, in the shape of our own errors: the first paragraph is the message.
fn usage(e: &clap::Error) -> Error {
    let text = e.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    Error::usage(message).hint("see `lifeboat --help`")
}

fn dispatch(world: &World, voice: Voice, command: Command) -> ExitCode {
    match command {
        Command::Init(a) => daily::init(world, voice, a),
        Command::Backup(a) => daily::backup(world, voice, a),
        Command::List(a) => daily::list(world, voice, a),
        Command::Restore(a) => daily::restore(world, voice, a),
        Command::Accept(a) => daily::accept(world, voice, a),
        Command::Doctor(a) => proof::doctor(world, voice, a),
        Command::Ls(a) => look::ls(world, voice, a),
        Command::Cat(a) => look::cat(world, voice, a),
        Command::Dump(a) => look::dump(world, voice, a),
        #[cfg(target_os = "linux")]
        Command::Mount(a) => look::mount(world, voice, a),
        Command::Find(a) => look::find(world, voice, a),
        Command::Diff(a) => look::diff(world, voice, a),
        Command::Log(a) => look::log(world, voice, a),
        Command::Verify(a) => proof::verify(world, voice, a),
        Command::Drill(a) => proof::drill(world, voice, a),
        Command::LookInside(a) => proof::look_inside(voice, a),
        Command::Status(a) => proof::status(world, voice, a),
        Command::Copy(a) => copies::copy(world, voice, a),
        Command::Pin(a) => copies::pin(world, voice, a),
        Command::Unpin(a) => copies::unpin(world, voice, a),
        Command::Prune(a) => upkeep::prune(world, voice, a),
        Command::Lifecycle(a) => upkeep::lifecycle(world, voice, a),
        Command::Keys(a) => keys::keys(world, voice, a),
        Command::Secrets(a) => keys::secrets(world, voice, a),
    }
}

/// The first signal asks to stop, the second one insists.
fn signals() -> Result<Arc<AtomicBool>, Error> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|e| Error::failed("cannot listen for signals").because(e))?;
    }
    Ok(stop)
}
