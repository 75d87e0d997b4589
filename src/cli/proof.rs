//! The command line of what looks whether all is well.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::commands::{doctor, drill, status, verify};
use crate::host::world::World;
use crate::output::{self, Printer, Voice};

pub(super) const DOCTOR_HELP: &str = "\
Examples:
  lifeboat doctor
  lifeboat doctor --attack                       what could a thief do with this host's credential?

It looks at mirrors, too. Nothing is changed, but where the series' key is gone from the store it is put back. With --attack
one small object stays on the store, below `doctor/`.
Exit codes: 0 all is well, 1 failed, 3 something is to be put right, 10 configuration missing.";

pub(super) const VERIFY_HELP: &str = "\
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

pub(super) const DRILL_HELP: &str = "\
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

pub(super) const STATUS_HELP: &str = "\
The newest snapshot that can be restored, the newest bundle, the newest drill that passed, how much there is, how it grows
and when it ends. Fails when the newest snapshot or drill is older than [status] in the configuration allows, 26 hours and
35 days, or \"none\"; and when a mirror is behind for as long as a snapshot may be old.

--all has a line for each series on the store and needs no key: names and commits are enough, so it notices a machine that
stopped, not one that lies.

Examples:
  lifeboat status -q || echo \"look at the backups\"
  lifeboat status --all --store /mnt/nas/backups
  lifeboat status --metrics /var/lib/node_exporter/textfile/lifeboat.prom

Exit codes: 0 done and young enough, 1 failed, 2 usage, 4 something was removed or does not verify, 5 too old,
10 store, configuration or key missing, 130 interrupted.";

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Try to overwrite, read, list, delete and change the lifecycle, on an object made for it
    #[arg(long)]
    attack: bool,
}

#[derive(Args)]
pub(super) struct VerifyArgs {
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
pub(super) struct DrillArgs {
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
pub(super) struct LookInsideArgs {
    /// What was restored
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Args)]
pub(super) struct StatusArgs {
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

pub(super) fn doctor(world: &World, voice: Voice, a: DoctorArgs) -> ExitCode {
    let args = doctor::Args { attack: a.attack };
    let mut printer = Printer::new(voice);
    let result = doctor::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn verify(world: &World, voice: Voice, a: VerifyArgs) -> ExitCode {
    let VerifyArgs { snapshot, all, since, sample, identity, key, store, name } = a;
    let share = sample.as_deref().map(verify::parse_share).transpose();
    let mut printer = Printer::new(voice);
    let result = share.and_then(|sample| {
        let args = verify::Args { snapshot, all, since, sample, store, name, identity, key };
        verify::run(world, &args, &mut |e| printer.event(e))
    });
    output::finish(voice, &mut printer, result)
}

pub(super) fn drill(world: &World, voice: Voice, a: DrillArgs) -> ExitCode {
    let DrillArgs { snapshot, random, no_secrets, sandbox, identity, store, name } = a;
    let args = drill::Args { snapshot, random, no_secrets, sandbox, identity, store, name };
    let mut printer = Printer::new(voice);
    let result = drill::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn look_inside(voice: Voice, LookInsideArgs { dir }: LookInsideArgs) -> ExitCode {
    let result = drill::inside::run(&dir, std::io::stdin().lock());
    output::finish(voice, &mut Printer::new(voice), result)
}

pub(super) fn status(world: &World, voice: Voice, a: StatusArgs) -> ExitCode {
    let StatusArgs { all, metrics, identity, key, store, name } = a;
    let args = status::Args { all, metrics, store, name, identity, key };
    let mut printer = Printer::new(voice);
    let result = status::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}
