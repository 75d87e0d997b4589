//! The command line: parsing, dispatch, help. A contract: scripts rely on it.

mod look;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::commands::bring_back::Overwrite;
use crate::commands::{
    accept, backup, doctor, drill, hooks, init, keys, lifecycle, list, prune, restore, rotate, secrets, status, verify,
};
use crate::error::Error;
use crate::host::world::World;
use crate::model::lifecycle::Cloud;
use crate::model::watch::Moment;
use crate::output::{self, Printer, Voice};

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
    #[command(after_help = INIT_HELP)]
    Init(InitArgs),
    /// Back up all sources, state and secrets in two archives
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// List the snapshots and bundles on the store
    #[command(after_help = LIST_HELP)]
    List(ListArgs),
    /// Bring a snapshot back, from kit and store alone
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Check configuration, keys, clock, store and rights, and say what to do
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Say that what the last backup found suspicious is as it should be
    #[command(after_help = ACCEPT_HELP)]
    Accept(AcceptArgs),
    /// Show what is in a snapshot
    #[command(after_help = look::LS_HELP)]
    Ls(look::LsArgs),
    /// Write one file of a snapshot to stdout
    #[command(after_help = look::CAT_HELP)]
    Cat(look::CatArgs),
    /// Write a file or directory of a snapshot to stdout, as tar
    #[command(after_help = look::DUMP_HELP)]
    Dump(look::DumpArgs),
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
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Rehearse a restore, look at everything, and sign a receipt
    #[command(after_help = DRILL_HELP)]
    Drill(DrillArgs),
    /// What `drill --sandbox` runs inside
    #[command(hide = true)]
    LookInside(LookInsideArgs),
    /// Whether snapshots and drills are young enough
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Remove what is past its life, from a store without a lifecycle
    #[command(after_help = PRUNE_HELP)]
    Prune(PruneArgs),
    /// The rules with which a bucket does the same by itself
    #[command(after_help = LIFECYCLE_HELP)]
    Lifecycle(LifecycleArgs),
    /// Show the keys in force, make new ones, write the recovery kit again, check one
    #[command(after_help = KEYS_HELP)]
    Keys(KeysArgs),
    /// Names, ages, leaks and values of secrets, out of the bundles
    #[command(after_help = SECRETS_HELP)]
    Secrets(SecretsArgs),
}

const DOCTOR_HELP: &str = "\
Examples:
  lifeboat doctor
  lifeboat doctor --attack                       what could a thief do with this host's credential?

Without --attack nothing is changed. With it, one small object stays on the store, below `doctor/`.
Exit codes: 0 all is well, 1 failed, 3 something is to be put right, 10 configuration missing.";

const INIT_HELP: &str = "\
Examples:
  lifeboat init                                  agents that are here, a store on this disk
  lifeboat init --store /mnt/nas/backups --name vm1 --kit /media/stick/lifeboat-key.txt
  lifeboat init --source ~/projects              add a source to the configuration
  lifeboat init --kit lifeboat-key.txt           go on with a series on a new machine

The recovery kit is all that opens the backups. Lose it and the machine, and they are gone.
Exit codes: 0 done, 1 failed, 2 usage, 10 store or source missing, 130 interrupted.";

const BACKUP_HELP: &str = "\
Examples:
  lifeboat backup                                what cron runs; without a configuration it makes one first
  lifeboat backup ~/.hermes                      the same for one path
  lifeboat backup --secrets-only                 after a key rotation
  lifeboat backup --dry-run -v                   what would be written, what is left out and why

[hooks] in the configuration names URLs to ping and commands to run at start, success, incomplete, suspicious and failure.
They cannot change what becomes of the backup; URLs are called with curl.

Exit codes: 0 done, 1 failed, 2 usage, 3 written but something could not be read, 6 written but what is there looks as if
something went wrong (`lifeboat accept --help`), 10 store or source missing, 11 another run holds the lock, 130 interrupted.";

const ACCEPT_HELP: &str = "\
A backup that sees much of a home gone, emptied or rewritten writes its snapshot all the same, marks it and exits with 6. Marked
snapshots fill no day, week or month, and `restore --good` passes over them. Those that follow stay marked until this is
said of the newest, or for 14 days. Where something did go wrong, first put it right:

  lifeboat restore latest --good --dry-run --overwrite     what the last good snapshot would bring back
  lifeboat restore latest --good --overwrite
  lifeboat backup                                the home as it is now; still marked
  lifeboat accept                                that is as it should be

The next backup says so on the store. [guard] in the configuration has the bounds.

Exit codes: 0 done, 1 failed, 2 usage, 10 nothing is marked or the configuration is missing, 11 another run holds the lock.";

const LIST_HELP: &str = "\
Columns: the snapshot, its tier, its own size, its parent (the end of that one's id), how many snapshots its chain has and
their size, until when all of it lives, and how many files it lists. Below a line stands what is wrong with it:
`expired`, its time is over and part of it is gone already, which is no damage; `damaged`, `incomplete`, `unverified`.

Examples:
  lifeboat list
  lifeboat list --store /mnt/nas/backups --all   every series on that store
  lifeboat list --identity lifeboat-key.txt      of a kit's series, with numbers of files

Exit codes: 0 done, 1 failed, 10 store missing, 12 the passphrase or kit is wrong.";

const RESTORE_HELP: &str = "\
SNAPSHOT is an id, the beginning of one, `latest`, a date (its last snapshot) or \"3 days ago\".
Without --target everything goes where it was: into this user's home, and to the same places outside it.
What is there already and the same is left alone: a file with the recorded size and time is, unless --overwrite or
--verify-existing asks to read it. What differs stops the restore before anything is changed, without --overwrite.
A GLOB is as for `lifeboat find`, and takes all that is below a match; only what holds it is read from the store.

Examples:
  lifeboat restore --identity lifeboat-key.txt               everything, on a new machine
  lifeboat restore --identity lifeboat-key.txt --target /tmp/look
  lifeboat restore 2026-11-20 --no-secrets --target old
  lifeboat restore --secrets-only --overwrite                the newest keys
  lifeboat restore \"3 days ago\" --path '~/.hermes/skills' --overwrite=if-changed --dry-run

Exit codes: 0 done, 1 failed, 2 usage, 3 restored but the snapshot lacks something, 4 damage found,
10 store or snapshot missing, 12 no identity opens it, 13 archived by the cloud: warm it up first,
130 interrupted.";

const VERIFY_HELP: &str = "\
Reads every object of the newest snapshot, of its chain and of the newest secrets bundle, and compares size and SHA-256
with the signed commits. It needs the store and the public key, but opens nothing: it may run anywhere. The key comes from
--key, from a kit, or from this host; never from the store.

Says what is missing, truncated, altered, unsigned, unexpected (no commit names it), broken (lacks a member of its chain),
hidden (gone before its time), or could not be read. Whether an identity opens it, `lifeboat drill` proves.

Examples:
  lifeboat verify
  lifeboat verify --all --sample 5%              every commit and size, and the bytes of some objects, drawn anew each time
  lifeboat verify --since \"7 days ago\"
  lifeboat verify --store /mnt/nas/backups --name vm1 --key RWRZY0Rq7lJx0lfQqqFPXGGt6zosHRGfGulEH/31wo5PGUQDaoGFHfi9

Exit codes: 0 done and all is as signed, 1 failed or something could not be read, 2 usage, 4 damage found,
10 store, snapshot or key missing, 12 the kit's passphrase is wrong, 130 interrupted.";

const DRILL_HELP: &str = "\
Restores the newest snapshot to a private directory below ~/.local/state/lifeboat (or $LIFEBOAT_STATE_DIR), which needs room
for all of it, with everything that `lifeboat restore` checks. Then opens every database (integrity_check, foreign keys, rows
not fewer than recorded), looks at the modes of secrets, and runs what presets know: required files, configurations (JSON,
JSON5, TOML, YAML), JSON lines of which the last may be torn, indexes and the files they name; and counts sessions, messages,
memories, jobs and skills, which may not be fewer than when the snapshot was made. The receipt goes to the store, signed, with the time
it took; `lifeboat status` asks for it. What was restored is removed, by the next backup or drill if this one is killed.

It cannot prove that logins are still valid: tokens may have been renewed since, and some are bound to a device.

Examples:
  lifeboat drill                                 where the identities are in the keyring
  lifeboat drill --identity /media/stick/lifeboat-key.txt
  lifeboat drill --random                        any snapshot that can be restored
  lifeboat drill --sandbox                       look at it without network, and with nothing else in sight

--sandbox is for Linux, with `unshare` of util-linux and, unless root runs it, user namespaces. Restoring is done outside: it
needs the store. What is restored is looked at inside: databases, settings and transcripts were written by an agent.

Exit codes: 0 done and passed, 1 failed, 2 usage, 3 passed, but the snapshot lacks something or no receipt could be signed,
4 damage found, or something is not as it should be, 10 store, snapshot or key missing, 11 another drill is under way,
12 no identity opens it, 130 interrupted.";

const STATUS_HELP: &str = "\
The newest snapshot that can be restored, the newest bundle, the newest drill that passed, how much there is, how it grows
and when it ends. Fails when the newest snapshot or drill is older than [status] in the configuration allows: 26 hours and
35 days, or \"none\".

--all has a line for each series on the store and needs no key: names and commits are enough, so it notices a machine that
stopped, not one that lies.

Examples:
  lifeboat status -q || echo \"look at the backups\"
  lifeboat status --all --store /mnt/nas/backups
  lifeboat status --metrics /var/lib/node_exporter/textfile/lifeboat.prom

Exit codes: 0 done and young enough, 1 failed, 2 usage, 4 something was removed or does not verify, 5 too old,
10 store, configuration or key missing, 130 interrupted.";

const PRUNE_HELP: &str = "\
Removes whole snapshots whose life is over and that no other needs, bundles likewise, and what interrupted runs left a
week ago. Never pinned ones, never the newest that can be restored, never what does not verify. A backup to a directory
does this by itself; a bucket does it with rules that `lifeboat lifecycle print` writes.

If the clock went more than two days between two runs, snapshots on three later days have to show that it is right.

Examples:
  lifeboat prune --dry-run                       what would go
  lifeboat prune --yes                           the clock is right, whatever it looks like

Exit codes: 0 done, 1 failed, 10 store or configuration missing, 11 another run holds the lock, 130 interrupted.";

const LIFECYCLE_HELP: &str = "\
One rule for each tier's prefix, for secrets and for drills, with the days that chains need; old versions, delete markers
and unfinished uploads included. Pinned snapshots and keys have none. It only prints: no store is asked.

Examples:
  lifeboat lifecycle print > lifecycle.json      for the configured store, whatever cloud that is
  lifeboat lifecycle print --for s3              the same, or an error if it is none of S3
  aws s3api put-bucket-lifecycle-configuration --bucket NAME --lifecycle-configuration file://lifecycle.json
  gcloud storage buckets update gs://NAME --lifecycle-file=lifecycle.json
  az storage account management-policy create --account-name ACCOUNT --resource-group GROUP --policy @lifecycle.json

Each of the three replaces all rules that are there: add those of other prefixes to the file first.
Exit codes: 0 done, 1 failed, 2 the store is no bucket of that cloud, 10 configuration missing.";
const SECRETS_HELP: &str = "\
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

const KEYS_HELP: &str = "\
Examples:
  lifeboat keys show                             recipients, signing key, where identities are; never a secret
  lifeboat keys export-kit /media/stick/kit.txt  the recovery kit once more, proved
  lifeboat keys rotate --kit /media/stick/new.txt --identity /media/stick/kit.txt    new identities
  lifeboat keys check /media/stick/kit.txt       whether it opens the newest archives

Exit codes: 0 done, 1 failed, 2 usage, 3 something is wrong or lacking, 4 keys or store contradict each other,
10 configuration, store or snapshot missing, 12 no identity opens it, 130 interrupted.";

#[derive(Args)]
struct SecretsArgs {
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

#[derive(Args)]
struct KeysArgs {
    #[command(subcommand)]
    what: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Show recipients, signing key, and where identities are
    Show,
    /// Write the recovery kit again, from the keys in force
    ExportKit(ExportKitArgs),
    /// Make new identities, a kit with the new and the old ones, and a bundle for the new
    Rotate(RotateArgs),
    /// Check that a kit opens the newest archives and that its key signed them
    Check(CheckKitArgs),
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
struct CheckKitArgs {
    /// The kit
    #[arg(value_name = "KIT")]
    kit: PathBuf,
    /// Another store than the kit's
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

#[derive(Args)]
struct InitArgs {
    /// Where backups go: a directory, s3://BUCKET/PREFIX, gs:// or az:// [default: ~/.local/share/lifeboat/store]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Name of the series [default: the host's name]
    #[arg(long, value_name = "SERIES")]
    name: Option<String>,
    /// Back up an agent's home: hermes, claude-code, openclaw, codex [default: those that are here]
    #[arg(long, value_name = "NAME")]
    preset: Vec<String>,
    /// Back up a directory or file
    #[arg(long, value_name = "PATH")]
    source: Vec<PathBuf>,
    /// Recovery kit: written if it is not there, else its series is continued [default: ~/lifeboat-key.txt]
    #[arg(long, value_name = "FILE")]
    kit: Option<PathBuf>,
    /// Leave no identity on this host: it can back up, but not open what it wrote
    #[arg(long)]
    sealed: bool,
    /// Protect the kit with a passphrase, asked for or taken from $LIFEBOAT_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
}

#[derive(Args)]
struct BackupArgs {
    /// Sources; with a configuration they must be in it
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write the secrets bundle alone
    #[arg(long)]
    secrets_only: bool,
    /// Read every file, whatever is known of it
    #[arg(long)]
    rehash: bool,
    /// Tell what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// The configuration's recipients, store and rules are meant to be as they are: do not warn of the change again
    #[arg(long, conflicts_with = "dry_run")]
    accept_policy: bool,
}

#[derive(Args)]
struct AcceptArgs {
    /// Which snapshot [default: the newest that is marked]
    #[arg(value_name = "SNAPSHOT")]
    snapshot: Option<String>,
}

#[derive(Args)]
struct ListArgs {
    /// Every series on the store
    #[arg(long)]
    all: bool,
    /// Another store than the configured one
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Another series than the configured one
    #[arg(long, value_name = "SERIES")]
    name: Option<String>,
    /// Recovery kit
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

#[derive(Args)]
struct RestoreArgs {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT", default_value = "latest")]
    snapshot: String,
    /// Recovery kit, or any file with the identities
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Store [default: the kit's, else the configured one]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Series [default: the kit's, else the configured one]
    #[arg(long, value_name = "SERIES")]
    name: Option<String>,
    /// Restore below DIR, as DIR/home and DIR/root
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// Leave secrets out
    #[arg(long, conflicts_with = "secrets_only")]
    no_secrets: bool,
    /// Restore the newest secrets bundle alone
    #[arg(long)]
    secrets_only: bool,
    /// Restore only what matches, with all below it; may be given several times
    #[arg(long = "path", value_name = "GLOB")]
    paths: Vec<String>,
    /// Replace what differs: `always` reads every file to see, `if-changed` trusts size and time, `never` leaves it
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    overwrite: Option<When>,
    /// Read files that have the recorded size and time all the same
    #[arg(long)]
    verify_existing: bool,
    /// Restore a snapshot whose signature does not verify
    #[arg(long)]
    allow_unsigned: bool,
    /// Pass over snapshots that are marked as suspicious, with the secrets of that time
    #[arg(long)]
    good: bool,
    /// Tell what would be restored, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    Always,
    IfChanged,
    Never,
}

#[derive(Args)]
struct DoctorArgs {
    /// Try to overwrite, read, list, delete and change the lifecycle, on an object made for it
    #[arg(long)]
    attack: bool,
}

#[derive(Args)]
struct VerifyArgs {
    /// Which snapshot [default: the newest]
    #[arg(value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Every snapshot and bundle of the series
    #[arg(long, conflicts_with_all = ["snapshot", "since"])]
    all: bool,
    /// Those made since a time, with their chains
    #[arg(long, value_name = "TIME", conflicts_with = "snapshot")]
    since: Option<String>,
    /// Read only a share of the objects, such as 5%
    #[arg(long, value_name = "SHARE")]
    sample: Option<String>,
    /// Recovery kit, for store, series and public key
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Public key of the series, or a file that holds it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Store [default: the kit's, else the configured one]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Series [default: the kit's, else the configured one]
    #[arg(long, value_name = "SERIES")]
    name: Option<String>,
}

#[derive(Args)]
struct DrillArgs {
    /// Which snapshot [default: the newest]
    #[arg(value_name = "SNAPSHOT", conflicts_with = "random")]
    snapshot: Option<String>,
    /// Any snapshot that can be restored
    #[arg(long)]
    random: bool,
    /// Leave secrets out
    #[arg(long)]
    no_secrets: bool,
    /// Look at what was restored in a process that sees nothing else and has no network
    #[arg(long)]
    sandbox: bool,
    /// Recovery kit, or any file with the identities
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Store [default: the kit's, else the configured one]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Series [default: the kit's, else the configured one]
    #[arg(long, value_name = "SERIES")]
    name: Option<String>,
}

#[derive(Args)]
struct LookInsideArgs {
    /// What was restored
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Args)]
struct StatusArgs {
    /// Every series on the store; needs no key
    #[arg(long)]
    all: bool,
    /// Write the figures to a file, too, in the text format of Prometheus
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Recovery kit, for store, series and public key
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Public key of the series, or a file that holds it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Store [default: the kit's, else the configured one]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Series [default: the kit's, else the configured one]
    #[arg(long, value_name = "SERIES", conflicts_with = "all")]
    name: Option<String>,
}

#[derive(Args)]
struct PruneArgs {
    /// Tell what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Trust the clock, even if it moved
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct LifecycleArgs {
    #[command(subcommand)]
    command: LifecycleCommand,
}

#[derive(Subcommand)]
enum LifecycleCommand {
    /// Print the rules as the cloud's own tool takes them
    #[command(after_help = LIFECYCLE_HELP)]
    Print {
        /// Whose rules [default: by the configured store]
        #[arg(long = "for", value_name = "CLOUD")]
        cloud: Option<For>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum For {
    S3,
    Gcs,
    Azure,
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
    let mut printer = Printer::new(voice);
    match command {
        Command::Init(a) => {
            let InitArgs { store, name, preset: presets, source: sources, kit, sealed, passphrase } = a;
            let args = init::Args { store, name, presets, sources, kit, sealed, passphrase };
            let result = init::run(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::Backup(a) => backup_command(world, voice, a),
        Command::Accept(AcceptArgs { snapshot }) => {
            let result = accept::run(world, &accept::Args { snapshot }, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::List(a) => {
            let ListArgs { all, store, name, identity } = a;
            let args = list::Args { all, store, name, identity };
            let result = list::run(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::Doctor(a) => {
            let args = doctor::Args { attack: a.attack };
            let result = doctor::run(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::Restore(a) => {
            let args = restore::Args {
                snapshot: a.snapshot,
                identity: a.identity,
                store: a.store,
                name: a.name,
                target: a.target,
                no_secrets: a.no_secrets,
                secrets_only: a.secrets_only,
                paths: a.paths,
                overwrite: match a.overwrite {
                    None => Overwrite::Refuse,
                    Some(When::Never) => Overwrite::Never,
                    Some(When::IfChanged) => Overwrite::IfChanged,
                    Some(When::Always) => Overwrite::Always,
                },
                verify_existing: a.verify_existing,
                allow_unsigned: a.allow_unsigned,
                good: a.good,
                dry_run: a.dry_run,
            };
            let result = restore::run(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::Lifecycle(LifecycleArgs { command: LifecycleCommand::Print { cloud } }) => {
            let cloud = cloud.map(|cloud| match cloud {
                For::S3 => Cloud::S3,
                For::Gcs => Cloud::Gcs,
                For::Azure => Cloud::Azure,
            });
            let result = lifecycle::run(world, &lifecycle::Args { cloud }, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::Verify(a) => {
            let VerifyArgs { snapshot, all, since, sample, identity, key, store, name } = a;
            let share = sample.as_deref().map(verify::parse_share).transpose();
            let result = share.and_then(|sample| {
                let args = verify::Args { snapshot, all, since, sample, store, name, identity, key };
                verify::run(world, &args, &mut |e| printer.event(e))
            });
            output::finish(voice, &mut printer, result)
        }
        Command::Drill(a) => {
            let DrillArgs { snapshot, random, no_secrets, sandbox, identity, store, name } = a;
            let args = drill::Args { snapshot, random, no_secrets, sandbox, identity, store, name };
            let result = drill::run(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::LookInside(LookInsideArgs { dir }) => {
            output::finish(voice, &mut printer, drill::inside::run(&dir, std::io::stdin().lock()))
        }
        Command::Status(a) => {
            let StatusArgs { all, metrics, identity, key, store, name } = a;
            let args = status::Args { all, metrics, store, name, identity, key };
            let result = status::run(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::Prune(PruneArgs { dry_run, yes }) => {
            let result = prune::run(world, &prune::Args { dry_run, yes }, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        Command::Ls(a) => look::ls(world, voice, a),
        Command::Cat(a) => look::cat(world, voice, a),
        Command::Dump(a) => look::dump(world, voice, a),
        Command::Find(a) => look::find(world, voice, a),
        Command::Diff(a) => look::diff(world, voice, a),
        Command::Log(a) => look::log(world, voice, a),
        Command::Keys(a) => keys_command(world, voice, a.what),
        Command::Secrets(a) => secrets_command(world, voice, a),
    }
}

/// A backup, with the hooks around it.
fn backup_command(world: &World, voice: Voice, a: BackupArgs) -> ExitCode {
    let mut printer = Printer::new(voice);
    let BackupArgs { paths, secrets_only, rehash, dry_run, accept_policy } = a;
    let args = backup::Args { paths, secrets_only, rehash, dry_run, accept_policy };
    if dry_run {
        let result = backup::run(world, &args, &mut |e| printer.event(e));
        return output::finish(voice, &mut printer, result);
    }
    drill::sweep(world, &mut |e| printer.event(e));
    hooks::tell(world, Moment::Start, None, &mut |e| printer.event(e));
    let result = backup::run(world, &args, &mut |e| printer.event(e));
    let code = hooks::exit_code(&result);
    let exit = output::finish(voice, &mut printer, result);
    hooks::tell(world, Moment::of_exit_code(code), Some(code), &mut |e| printer.event(e));
    exit
}

fn secrets_command(world: &World, voice: Voice, asked: SecretsArgs) -> ExitCode {
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

fn keys_command(world: &World, voice: Voice, what: KeysCommand) -> ExitCode {
    let mut printer = Printer::new(voice);
    match what {
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
            let RotateArgs { secrets, state, kit, identity, passphrase } = a;
            let args = rotate::Args { state, secrets, kit, identity, passphrase };
            let result = rotate::run(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
        KeysCommand::Check(a) => {
            let args = keys::CheckArgs { kit: a.kit, store: a.store };
            let result = keys::check(world, &args, &mut |e| printer.event(e));
            output::finish(voice, &mut printer, result)
        }
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
