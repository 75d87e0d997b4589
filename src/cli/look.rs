//! The command line of what looks into snapshots.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::commands::look::Place;
#[cfg(target_os = "linux")]
use crate::commands::mount;
use crate::commands::reading::Where;
use crate::commands::{cat, diff, dump, find, log, ls};
use crate::error::Error;
use crate::host::world::World;
use crate::output::{self, Printer, Voice};

pub(super) const LS_HELP: &str = "\
PATH is as on the machine (~/notes, /etc/hosts), or as `ls` prints it (home/notes, root/etc/hosts). Without it the
sources are shown. A directory's size is that of all files below it. Only manifests are read.

Examples:
  lifeboat ls                                    the sources, in the newest snapshot
  lifeboat ls latest ~/.hermes --sizes           what takes the space
  lifeboat ls 2026-11-20 ~/.hermes --tree --long
  lifeboat ls latest --secrets                   the secrets bundle, with its own identity

Exit codes: 0 done, 1 failed, 2 usage, 4 damage found, 10 store, snapshot or path missing, 12 no identity opens it,
130 interrupted.";

pub(super) const CAT_HELP: &str = "\
Only the parts of the archive are read that hold the file. A file of up to 32 MiB is checked before anything of it is
written; with a larger one the exit code says whether what was written is right.

Examples:
  lifeboat cat latest ~/.hermes/memories/MEMORY.md
  lifeboat cat \"3 days ago\" ~/.hermes/state.db > state.db
  lifeboat cat latest ~/.hermes/.env --secrets

Exit codes: 0 done, 1 failed, 2 usage, 3 it could not be read when the snapshot was made, 4 damage found,
10 store, snapshot or path missing, 12 no identity opens it, 130 interrupted.";

pub(super) const DUMP_HELP: &str = "\
The tar has archive paths (home/..., root/...), owners, times and attributes. Each part of the archive that holds any of
it is read once. The tar is right if the exit code is 0, or 3 where the snapshot lacks something.

Examples:
  lifeboat dump latest ~/.hermes/skills | tar -tv
  lifeboat dump 2026-11-20 ~/projects | ssh other tar -xp
  lifeboat dump latest > everything.tar

Exit codes: 0 done, 1 failed, 2 usage, 3 written but the snapshot lacks something, 4 damage found,
10 store, snapshot or path missing, 12 no identity opens it, 130 interrupted.";

#[cfg(target_os = "linux")]
pub(super) const MOUNT_HELP: &str = "\
DIRECTORY has to be empty. What is looked into is read from the store and checked then, a few MiB around it at a time; a
file that is read through is not checked once more as a whole, as `cat` does. Whoever mounts it sees everything, and
nobody else sees anything. It ends with Ctrl-C, or with `umount` or `fusermount3 -u`. Of the extended attributes only
user.* are shown. It needs /dev/fuse and, for users other than root, fusermount3.

Examples:
  mkdir /tmp/then && lifeboat mount latest /tmp/then
  lifeboat mount \"3 days ago\" /tmp/then --identity lifeboat-key.txt
  sqlite3 'file:/tmp/then/home/.hermes/state.db?immutable=1'

Exit codes: 0 unmounted, 1 failed, 2 usage, 3 something in it could not be read, 4 damage found, 10 store, snapshot or
directory missing, 12 no identity opens it.";

pub(super) const FIND_HELP: &str = "\
A GLOB matches whole names at any depth (*.md, memories/*.md), or from where it says that it begins (~/x/*, /etc/**).
`*` and `?` match no slash, `**` does. With --all every change of what matches is shown, with the snapshot in which it
was seen first; only manifests are read.

Examples:
  lifeboat find '*.sqlite'
  lifeboat find --all 'MEMORY.md'                its versions, and when it went
  lifeboat find --in 2026-11-20 '~/projects/**/*.rs'

Exit codes: 0 done, 1 failed, 2 usage, 3 a snapshot could not be looked into, 4 damage found, 10 store or snapshot
missing, or nothing matches, 12 no identity opens it, 130 interrupted.";

pub(super) const DIFF_HELP: &str = "\
`+` is new in B, `-` is gone, `~` has other content, `.` other metadata; `#` tells rows of databases' tables. Only
manifests are read, and with --content the changed texts, up to 4 MiB each.

Examples:
  lifeboat diff \"1 day ago\" latest
  lifeboat diff \"7 days ago\" latest ~/.hermes/memories --content

Exit codes: 0 done, whether they differ or not, 1 failed, 2 usage, 4 damage found, 10 store, snapshot or path missing,
12 no identity opens it, 130 interrupted.";

pub(super) const LOG_HELP: &str = "\
A line for each change, oldest first: the snapshot in which it was seen first, what happened, size and time of the file.
Only manifests are read.

Examples:
  lifeboat log ~/.hermes/SOUL.md
  lifeboat cat 20261120 ~/.hermes/SOUL.md        one of the versions

Exit codes: 0 done, 1 failed, 2 usage, 3 a snapshot could not be looked into, 10 store missing, or no snapshot has it,
12 no identity opens it, 130 interrupted.";

/// Where to look; the same for all of them.
#[derive(Args)]
struct PlaceArgs {
    /// Look into the secrets bundle, with its own identity
    #[arg(long)]
    secrets: bool,
    /// Recovery kit, or any file with the identities
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Store [default: the kit's, else the configured one]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Series [default: the kit's, else the configured one]
    #[arg(long, value_name = "SERIES")]
    name: Option<String>,
    /// Look into a snapshot whose signature does not verify
    #[arg(long)]
    allow_unsigned: bool,
    /// Pass over snapshots that are marked as suspicious
    #[arg(long)]
    good: bool,
}

impl From<PlaceArgs> for Place {
    fn from(a: PlaceArgs) -> Place {
        let PlaceArgs { secrets, identity, store, name, allow_unsigned, good } = a;
        Place { at: Where { identity, store, name, allow_unsigned, good }, secrets }
    }
}

#[derive(Args)]
pub(super) struct LsArgs {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT", default_value = "latest")]
    snapshot: String,
    /// What of it
    #[arg(value_name = "PATH")]
    path: Option<OsString>,
    /// With mode, owner and group
    #[arg(short, long)]
    long: bool,
    /// All that is below, too
    #[arg(short, long)]
    tree: bool,
    /// The largest first
    #[arg(long)]
    sizes: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args)]
pub(super) struct CatArgs {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// The file
    #[arg(value_name = "PATH")]
    path: OsString,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args)]
pub(super) struct DumpArgs {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// What of it [default: all]
    #[arg(value_name = "PATH")]
    path: Option<OsString>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[cfg(target_os = "linux")]
#[derive(Args)]
pub(super) struct MountArgs {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Where to
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args)]
pub(super) struct FindArgs {
    /// What to look for; quoted, so that the shell leaves it alone
    #[arg(value_name = "GLOB", required = true)]
    globs: Vec<String>,
    /// Which snapshot
    #[arg(long = "in", value_name = "SNAPSHOT", default_value = "latest", conflicts_with = "all")]
    snapshot: String,
    /// In all snapshots: every version
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args)]
pub(super) struct DiffArgs {
    /// The older snapshot
    #[arg(value_name = "A")]
    a: String,
    /// The newer one
    #[arg(value_name = "B")]
    b: String,
    /// Only what is there
    #[arg(value_name = "PATH")]
    path: Option<OsString>,
    /// Show the changed lines of text files
    #[arg(long)]
    content: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args)]
pub(super) struct LogArgs {
    /// The file
    #[arg(value_name = "PATH")]
    path: OsString,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(super) fn ls(world: &World, voice: Voice, a: LsArgs) -> ExitCode {
    let LsArgs { snapshot, path, long, tree, sizes, place } = a;
    let args = ls::Args { place: place.into(), snapshot, path, long, tree, sizes };
    let mut printer = Printer::new(voice);
    let result = ls::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn cat(world: &World, voice: Voice, a: CatArgs) -> ExitCode {
    let CatArgs { snapshot, path, place } = a;
    let args = cat::Args { place: place.into(), snapshot, path };
    let mut printer = Printer::new(voice);
    let result = output::content(voice, true).and_then(|mut out| {
        let done = cat::run(world, &args, &mut out, &mut |e| printer.event(e))?;
        flush(out).map(|()| done)
    });
    output::finish(voice, &mut printer, result)
}

pub(super) fn dump(world: &World, voice: Voice, a: DumpArgs) -> ExitCode {
    let DumpArgs { snapshot, path, place } = a;
    let args = dump::Args { place: place.into(), snapshot, path };
    let mut printer = Printer::new(voice);
    let result = output::content(voice, false).and_then(|mut out| {
        let done = dump::run(world, &args, &mut out, &mut |e| printer.event(e))?;
        flush(out).map(|()| done)
    });
    output::finish(voice, &mut printer, result)
}

#[cfg(target_os = "linux")]
pub(super) fn mount(world: &World, voice: Voice, a: MountArgs) -> ExitCode {
    let MountArgs { snapshot, directory, place } = a;
    let args = mount::Args { place: place.into(), snapshot, directory };
    let mut printer = Printer::new(voice);
    let result = mount::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

fn flush(mut out: impl std::io::Write) -> Result<(), Error> {
    out.flush().map_err(|e| Error::failed("cannot write the content").because(e))
}

pub(super) fn find(world: &World, voice: Voice, a: FindArgs) -> ExitCode {
    let FindArgs { globs, snapshot, all, place } = a;
    let args = find::Args { place: place.into(), snapshot, globs, all };
    let mut printer = Printer::new(voice);
    let result = find::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn diff(world: &World, voice: Voice, args: DiffArgs) -> ExitCode {
    let DiffArgs { a, b, path, content, place } = args;
    let args = diff::Args { place: place.into(), a, b, path, content };
    let mut printer = Printer::new(voice);
    let result = diff::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}

pub(super) fn log(world: &World, voice: Voice, a: LogArgs) -> ExitCode {
    let LogArgs { path, place } = a;
    let args = log::Args { place: place.into(), path };
    let mut printer = Printer::new(voice);
    let result = log::run(world, &args, &mut |e| printer.event(e));
    output::finish(voice, &mut printer, result)
}
