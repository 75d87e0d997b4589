//! The command line of what everybody needs: set up, back up, list, bring back.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::commands::bring_back::Overwrite;
use crate::commands::{accept, backup, drill, hooks, init, list, restore};
use crate::host::world::World;
use crate::model::upload::parse_rate;
use crate::model::watch::Moment;
use crate::output::{self, Printer, Voice};

pub(super) const INIT_HELP: &str = "\
Examples:
  lifeboat init                                  agents that are here, a store on this disk
  lifeboat init --store /mnt/nas/backups --name vm1 --kit /media/stick/lifeboat-key.txt
  lifeboat init --source ~/projects              add a source to the configuration
  lifeboat init --kit lifeboat-key.txt           go on with a series on a new machine

The recovery kit is all that opens the backups. Lose it and the machine, and they are gone.
Exit codes: 0 done, 1 failed, 2 usage, 10 store or source missing, 130 interrupted.";

pub(super) const BACKUP_HELP: &str = "\
Examples:
  lifeboat backup                                what cron runs; without a configuration it makes one first
  lifeboat backup ~/.hermes                      the same for one path
  lifeboat backup --secrets-only                 after a key rotation
  lifeboat backup --dry-run -v                   what would be written, what is left out and why

[hooks] in the configuration names URLs to ping and commands to run at start, success, incomplete, suspicious and failure.
They cannot change what becomes of the backup; URLs are called with curl.
A [[mirror]] with a `store` in the configuration is brought up to date at the end, as `lifeboat copy` does it. The store must
be readable from here then, and the mirror takes what is put; one that is down is told until it has caught up (exit code 3).

Exit codes: 0 done, 1 failed, 2 usage, 3 written but something could not be read or
mirrored, 6 written but what is there looks as if
something went wrong (`lifeboat accept --help`), 10 store or source missing, 11 another run holds the lock, 130 interrupted.";

pub(super) const ACCEPT_HELP: &str = "\
A backup that sees much of a home gone, emptied or rewritten, or secrets gone, writes its snapshot all the same, marks it and
exits with 6. Marked snapshots fill no day, week or month, and `restore --good` passes over them. What went little by little
is whole in an older one, which the backup names. Those that follow stay marked until this is said of the newest, or for 14
days. Where something did go wrong, first put it right:

  lifeboat restore latest --good --dry-run --overwrite     what the last good snapshot would bring back
  lifeboat restore latest --good --overwrite
  lifeboat backup                                the home as it is now; still marked
  lifeboat accept                                that is as it should be

The next backup says so on the store. [guard] in the configuration has the bounds.

Exit codes: 0 done, 1 failed, 2 usage, 10 nothing is marked or the configuration is missing, 11 another run holds the lock.";

pub(super) const LIST_HELP: &str = "\
Columns: the snapshot, its tier, its own size, its parent (the end of that one's id), how many snapshots its chain has and
their size, until when all of it lives, and how many files it lists. Below a line stands what is wrong with it:
`expired`, its time is over and part of it is gone already, which is no damage; `damaged`, `incomplete`, `unverified`.

Examples:
  lifeboat list
  lifeboat list --store /mnt/nas/backups --all   every series on that store
  lifeboat list --identity lifeboat-key.txt      of a kit's series, with numbers of files

Exit codes: 0 done, 1 failed, 10 store missing, 12 the passphrase or kit is wrong.";

pub(super) const RESTORE_HELP: &str = "\
SNAPSHOT is an id, the beginning of one, `latest`, a date (its last snapshot), a time (2026-11-20T12:00, in UTC) or \"3 days ago\".
Without --target everything goes where it was: into this user's home, and to the same places outside it.
What is there already and the same is left alone: a file with the recorded size and time is, unless --overwrite or
--verify-existing asks to read it. What differs stops the restore before anything is changed, without --overwrite.
A GLOB is as for `lifeboat find`, and takes all that is below a match; only what holds it is read from the store.
--paused leaves what presets know as NAME.paused (.env, config.yaml and cron jobs of Hermes; openclaw.json and others of
OpenClaw), so that no bot and no job starts, and says how to put it back. A later restore leaves it so, and says so.
--delete removes, last of all, what the configuration of today would back up and the snapshot does not have: never what it
leaves out, other sources, secrets whose bundle is not opened, or what could not be read or was left out when the snapshot
was made.

Examples:
  lifeboat restore --identity lifeboat-key.txt               everything, on a new machine
  lifeboat restore --identity lifeboat-key.txt --target /tmp/look
  lifeboat restore 2026-11-20 --no-secrets --target old
  lifeboat restore --secrets-only --overwrite                the newest keys
  lifeboat restore \"3 days ago\" --path '~/.hermes/skills' --overwrite=if-changed --dry-run
  lifeboat restore \"2 days ago\" --path '~/.hermes' --overwrite=if-changed --delete  back to that

Exit codes: 0 done, 1 failed, 2 usage, 3 restored but the snapshot lacks something or what should go stays, 4 damage found,
10 store or snapshot missing, 12 no identity opens it, 13 archived by the cloud: ask for it with
--warm-up first, 130 interrupted.";

#[derive(Args)]
pub(super) struct InitArgs {
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
    /// Recovery kit: written if it is not there, else its series is continued, or its signing key put back [default: ~/lifeboat-key.txt]
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
pub(super) struct BackupArgs {
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
    /// Send no faster than this to a bucket, as 2MiB/s or 10Mbit/s [default: limit_upload in the configuration]
    #[arg(long, value_name = "RATE")]
    limit_upload: Option<String>,
}

#[derive(Args)]
pub(super) struct AcceptArgs {
    /// Which snapshot [default: the newest that is marked]
    #[arg(value_name = "SNAPSHOT")]
    snapshot: Option<String>,
}

#[derive(Args)]
pub(super) struct ListArgs {
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
pub(super) struct RestoreArgs {
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
    /// Leave under another name what would start by itself: tokens, cron jobs
    #[arg(long)]
    paused: bool,
    /// Remove what a backup would store and the snapshot does not have; asks first
    #[arg(long)]
    delete: bool,
    /// Remove it without being asked
    #[arg(long, requires = "delete")]
    yes: bool,
    /// Tell what would be restored, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Ask the cloud for what its archive holds of it, and restore nothing yet; with --dry-run only name it
    #[arg(long)]
    warm_up: bool,
}

impl RestoreArgs {
    fn args(self) -> restore::Args {
        restore::Args {
            snapshot: self.snapshot,
            identity: self.identity,
            store: self.store,
            name: self.name,
            target: self.target,
            no_secrets: self.no_secrets,
            secrets_only: self.secrets_only,
            paths: self.paths,
            overwrite: match self.overwrite {
                None => Overwrite::Refuse,
                Some(When::Never) => Overwrite::Never,
                Some(When::IfChanged) => Overwrite::IfChanged,
                Some(When::Always) => Overwrite::Always,
            },
            verify_existing: self.verify_existing,
            allow_unsigned: self.allow_unsigned,
            good: self.good,
            paused: self.paused,
            delete: self.delete,
            yes: self.yes,
            dry_run: self.dry_run,
            warm_up: self.warm_up,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    Always,
    IfChanged,
    Never,
}

pub(super) fn init(world: &World, voice: Voice, a: InitArgs) -> ExitCode {
    let InitArgs { store, name, preset: presets, source: sources, kit, sealed, passphrase } = a;
    let args = init::Args { store, name, presets, sources, kit, sealed, passphrase };
    let mut printer = Printer::new(voice);
    let result = init::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn backup(world: &World, voice: Voice, a: BackupArgs) -> ExitCode {
    let BackupArgs { paths, secrets_only, rehash, dry_run, accept_policy, limit_upload } = a;
    let mut printer = Printer::new(voice);
    let limit_upload = match limit_upload.as_deref().map(parse_rate).transpose() {
        Ok(limit) => limit,
        Err(e) => return output::finish(voice, &mut printer, Err::<backup::Done, _>(e)),
    };
    let args = backup::Args { paths, secrets_only, rehash, dry_run, accept_policy, limit_upload };
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

pub(super) fn list(world: &World, voice: Voice, a: ListArgs) -> ExitCode {
    let ListArgs { all, store, name, identity } = a;
    let args = list::Args { all, store, name, identity };
    let mut printer = Printer::new(voice);
    let result = list::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn accept(world: &World, voice: Voice, AcceptArgs { snapshot }: AcceptArgs) -> ExitCode {
    let mut printer = Printer::new(voice);
    let result = accept::run(world, &accept::Args { snapshot }, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn restore(world: &World, voice: Voice, a: RestoreArgs) -> ExitCode {
    let mut printer = Printer::new(voice);
    let result = restore::run(world, &a.args(), &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}
