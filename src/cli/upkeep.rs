//! The command line of what keeps a store in order.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::commands::{lifecycle, prune};
use crate::host::world::World;
use crate::model::lifecycle::Cloud;
use crate::output::{self, Printer, Voice};

pub(super) const PRUNE_HELP: &str = "\
Removes whole snapshots whose life is over and that no other needs, bundles likewise, and what interrupted runs left a
week ago. Never pinned ones, never the newest that can be restored, never what does not verify. A backup to a directory
does this by itself; a bucket does it with rules that `lifeboat lifecycle print` writes.

If the clock went more than two days between two runs, snapshots on three later days have to show that it is right.

Examples:
  lifeboat prune --dry-run                       what would go
  lifeboat prune --yes                           the clock is right, whatever it looks like

What a bucket locks, or the credential may not delete, is named and left, with all that it leans on; the rest goes.

Exit codes: 0 done, 1 failed, 3 something may not be removed, 10 store or configuration missing, 11 another run holds the
lock, 130 interrupted.";

pub(super) const LIFECYCLE_HELP: &str = "\
One rule for each tier's prefix, for secrets and for drills, with the days that chains need; old versions, delete markers
and unfinished uploads included. Pinned snapshots and keys have none. `print` asks no store.

Examples:
  lifeboat lifecycle print > lifecycle.json      for the configured store, whatever cloud that is
  lifeboat lifecycle print --for s3              the same, or an error if it is none of S3
  aws s3api put-bucket-lifecycle-configuration --bucket NAME --lifecycle-configuration file://lifecycle.json
  gcloud storage buckets update gs://NAME --lifecycle-file=lifecycle.json
  az storage account management-policy create --account-name ACCOUNT --resource-group GROUP --policy @lifecycle.json

Each of the three replaces all rules that are there: add those of other prefixes to the file first.
Exit codes: 0 done, 1 failed, 2 the store is no bucket of that cloud, 10 configuration missing.";

pub(super) const CHECK_HELP: &str = "\
With --rules it reads what the cloud's own tool prints, and says which rule is missing, which is shorter than chains need, and
which would remove what is pinned, or keys. Without, it judges by the store: archives that are older than their rule allows
mean that it does not run, and ones that are gone before their time that it is too short.

Examples:
  lifeboat lifecycle check
  lifeboat lifecycle check --store gs://mirror
  aws s3api get-bucket-lifecycle-configuration --bucket NAME | lifeboat lifecycle check --rules -
  gcloud storage buckets describe gs://NAME --format=json | lifeboat lifecycle check --rules -
  az storage account management-policy show --account-name ACCOUNT --resource-group GROUP | lifeboat lifecycle check --rules -

Exit codes: 0 all is well, 1 failed, 2 these are no rules, 3 something is to be put right, 10 store or configuration missing.";

#[derive(Args)]
pub(super) struct PruneArgs {
    /// Tell what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Trust the clock, even if it moved
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
pub(super) struct LifecycleArgs {
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
        /// Another store than the configured one, such as a mirror
        #[arg(long, value_name = "URL")]
        store: Option<String>,
    },
    /// Compare the rules in force, or what they have made of the store, with what the tiers need
    #[command(after_help = CHECK_HELP)]
    Check {
        /// The rules in force as the cloud's own tool prints them, `-` for standard input [default: judged by what is there]
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
        /// Another store than the configured one, such as a mirror
        #[arg(long, value_name = "URL")]
        store: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum For {
    S3,
    Gcs,
    Azure,
}

pub(super) fn prune(world: &World, voice: Voice, a: PruneArgs) -> ExitCode {
    let PruneArgs { dry_run, yes } = a;
    let mut printer = Printer::new(voice);
    let result = prune::run(world, &prune::Args { dry_run, yes }, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn lifecycle(world: &World, voice: Voice, a: LifecycleArgs) -> ExitCode {
    let mut printer = Printer::new(voice);
    let (cloud, store) = match a.command {
        LifecycleCommand::Print { cloud, store } => (cloud, store),
        LifecycleCommand::Check { rules, store } => {
            let result = lifecycle::check(world, &lifecycle::CheckArgs { rules, store }, &mut |e| printer.event(e));
            return output::finish(voice, &mut printer, result);
        }
    };
    let cloud = cloud.map(|cloud| match cloud {
        For::S3 => Cloud::S3,
        For::Gcs => Cloud::Gcs,
        For::Azure => Cloud::Azure,
    });
    let result = lifecycle::run(world, &lifecycle::Args { cloud, store }, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}
