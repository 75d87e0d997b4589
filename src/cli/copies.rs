//! The command line of copies: other stores, and snapshots that are kept without end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::commands::{copy, pin};
use crate::host::world::World;
use crate::model::upload::parse_rate;
use crate::output::{self, Printer, Voice};

pub(super) const COPY_HELP: &str = "\
Brings the store of --to up to date: keys, snapshots and bundles with all that they lean on, pinned ones, receipts of drills.
It opens nothing and needs no identity, only a credential that reads one store and one that adds to the other and lists it.
Every object is compared with what was signed; what is damaged is named and not copied, and the rest goes on. What is there
is not sent again, so whoever was interrupted runs it once more; what is there with the right size is taken for the same, and
`lifeboat verify --all --store URL` proves it. What is past its time is not copied.

The key that signatures are checked with comes from --key, a kit, or this host; for other series it is the one that stands on
the store, which proves only that all of it was signed by one key.

Examples:
  lifeboat copy --to /mnt/usb/backups            the configured series
  lifeboat copy --to s3://second/prefix --all    every series on the configured store
  lifeboat copy --store s3://first --name vm1 --key RWRZY0Rq7lJx0lfQqqFPXGGt6zosHRGfGulEH/31wo5PGUQDaoGFHfi9 --to gs://second

A [[mirror]] in the configuration has each backup do it.

Exit codes: 0 done, 1 failed, 2 usage, 4 something is damaged and was not copied, 10 a store, series or key is missing,
13 something lies in a cloud's archive: warm it up first, 130 interrupted.";

pub(super) const PIN_HELP: &str = "\
Copies a snapshot with its chain, and the secrets bundle that it names, to prefixes that no lifecycle rule is for, by download
and upload: everything is compared with what was signed, and what does not verify is refused. It needs a credential that
reads and adds, and the public key or kit: run it on a machine that you trust. Pinned copies are found like any others.

Examples:
  lifeboat pin 20261121T2015                     before an upgrade, say
  lifeboat pin latest --identity lifeboat-key.txt

Exit codes: 0 done, 1 failed, 2 usage, 3 pinned without a bundle that should be there, 4 damage found, 10 store, snapshot
or key missing, 13 something lies in a cloud's archive: warm it up first, 130 interrupted.";

pub(super) const UNPIN_HELP: &str = "\
Removes the pinned copy of a snapshot, and of its chain what no other pinned one leans on and was not pinned itself. What
stands in the tiers is not touched. It needs a credential that may delete.

Example:
  lifeboat unpin 20261121T2015

Exit codes: 0 done, 1 failed, 2 usage, 10 store or key missing, or it is not pinned, 130 interrupted.";

#[derive(Args)]
pub(super) struct PinArgs {
    /// An id, the beginning of one, `latest`, or a date (its last snapshot)
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    #[command(flatten)]
    at: At,
}

impl From<PinArgs> for pin::Args {
    fn from(a: PinArgs) -> pin::Args {
        let PinArgs { snapshot, at: At { identity, key, store, name } } = a;
        pin::Args { snapshot, store, name, identity, key }
    }
}

#[derive(Args)]
pub(super) struct CopyArgs {
    /// The store that is brought up to date
    #[arg(long, value_name = "URL")]
    to: String,
    /// Every series on the store
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Tell what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
    /// Send no faster than this to a bucket, as 2MiB/s or 10Mbit/s [default: limit_upload in the configuration]
    #[arg(long, value_name = "RATE")]
    limit_upload: Option<String>,
    #[command(flatten)]
    at: At,
}

/// Which series of which store, and the key for it.
#[derive(Args)]
struct At {
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

pub(super) fn copy(world: &World, voice: Voice, a: CopyArgs) -> ExitCode {
    let CopyArgs { to, all, dry_run, limit_upload, at: At { identity, key, store, name } } = a;
    let mut printer = Printer::new(voice);
    let limit_upload = match limit_upload.as_deref().map(parse_rate).transpose() {
        Ok(limit) => limit,
        Err(e) => return output::finish(voice, &mut printer, Err::<copy::Done, _>(e)),
    };
    let args = copy::Args { to, all, store, name, identity, key, dry_run, limit_upload };
    let result = copy::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn pin(world: &World, voice: Voice, a: PinArgs) -> ExitCode {
    let mut printer = Printer::new(voice);
    let result = pin::pin(world, &a.into(), &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn unpin(world: &World, voice: Voice, a: PinArgs) -> ExitCode {
    let mut printer = Printer::new(voice);
    let result = pin::unpin(world, &a.into(), &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}
