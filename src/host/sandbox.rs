//! A process of our own that sees one directory and no network: what somebody else wrote is looked at in there.
//!
//! The namespaces are made by `unshare` of util-linux, since making them is an unsafe call that this crate does not allow
//! itself. The process itself then takes the directory for its root.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::world::World;
use crate::error::{At as _, Error, Result};
use crate::model::path::printable;

/// The most that is taken from such a process, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// The most of what it says on stderr, in bytes.
const SAID_BYTES_MAX: u64 = 4096;

/// Finds out whether there can be a sandbox, before much is done for one.
///
/// # Errors
/// When `unshare` is not there, or this user may not make namespaces.
pub fn probe(world: &World) -> Result<()> {
    run(world, &[OsStr::new("--version")], &[]).map(drop)
}

/// Runs this very program in namespaces of its own, with `asked` as its stdin, and returns what it printed.
///
/// # Errors
/// When that cannot be done, or the program failed.
pub fn run(world: &World, arguments: &[&OsStr], asked: &[u8]) -> Result<Vec<u8>> {
    let program = World::own_program()?;
    let mut command = Command::new("unshare");
    // With the first process of a namespace of processes all others of it end.
    command.args(["--mount", "--net", "--ipc", "--pid", "--kill-child", "--fork"]);
    if !rustix::process::geteuid().is_root() {
        // In a user namespace anybody may make the others. Root needs none, and would lose the right to read what others own.
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--").arg(program).args(arguments);
    // Nothing of the environment goes along: it may hold keys.
    command.env_clear().envs(world.var("PATH").map(|path| ("PATH", path))).env("HOME", "/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| {
        let hint = "install util-linux (it is Linux only), or leave out --sandbox";
        Error::failed("cannot start `unshare`, which makes a sandbox").because(e).hint(hint)
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended already says why by its status.
        stdin.write_all(asked).unwrap_or(());
    }
    // Read side by side, and to the end: a pipe that nobody reads from would have both wait for ever.
    let err = child.stderr.take();
    let listen = thread::Builder::new()
        .name("sandbox".into())
        .spawn(move || err.map(|err| read_some(err, SAID_BYTES_MAX)).unwrap_or_default())
        .map_err(|e| Error::failed("cannot start a thread").because(e))?;
    let answer = child.stdout.take().map(|out| read_some(out, ANSWER_BYTES_MAX)).unwrap_or_default();
    let said = listen.join().unwrap_or_default();
    let status = child.wait().map_err(|e| Error::failed("cannot wait for the sandbox").because(e))?;
    world.check_stop()?;
    if status.success() {
        return Ok(answer);
    }
    let said = printable(said.trim_ascii());
    let error = Error::failed(format!("what runs in the sandbox failed ({status}): {said}"));
    Err(error.hint("user namespaces may be forbidden here: run this as root, or leave out --sandbox"))
}

/// The first bytes of what a process writes; the rest is read and dropped. What cannot be read is as good as its end.
fn read_some(mut from: impl Read, most: u64) -> Vec<u8> {
    let mut out = Vec::new();
    from.by_ref().take(most).read_to_end(&mut out).unwrap_or(0);
    std::io::copy(&mut from, &mut std::io::sink()).unwrap_or(0);
    out
}

/// Makes `dir` all that this process sees from now on, and gives up what could lead out of it again. To be called before
/// there is another thread.
///
/// # Errors
/// When it may not: outside a sandbox only root may.
pub fn enter(dir: &Path) -> Result<()> {
    rustix::process::chroot(dir).at("take as root", dir)?;
    rustix::process::chdir("/").at("go to", Path::new("/"))?;
    // Root leaves a root directory as it likes, mounts, and makes devices. To read what others own is all that is left to it,
    // and no program that it starts gets more.
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};
        let give_up = || {
            set_no_new_privs(true)?;
            let kept = CapabilitySet::DAC_OVERRIDE & capabilities(None)?.permitted;
            let inheritable = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
        };
        give_up().at("give up the rights of root in", dir)?;
    }
    Ok(())
}
