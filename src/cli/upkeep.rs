//! The command line of what keeps a store in order.

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

Exit codes: 0 done, 1 failed, 10 store or configuration missing, 11 another run holds the lock, 130 interrupted.";

pub(super) const LIFECYCLE_HELP: &str = "\
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
    let LifecycleArgs { command: LifecycleCommand::Print { cloud } } = a;
    let cloud = cloud.map(|cloud| match cloud {
        For::S3 => Cloud::S3,
        For::Gcs => Cloud::Gcs,
        For::Azure => Cloud::Azure,
    });
    let mut printer = Printer::new(voice);
    let result = lifecycle::run(world, &lifecycle::Args { cloud }, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}
