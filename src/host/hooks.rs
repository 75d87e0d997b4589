//! Calls what a user wants to be told by: commands and URLs, each with a deadline, none of them with anything to say.
//!
//! A hook gets an environment of its own without what this process has, and what it prints goes nowhere: it may print
//! back what it should not know. Its text stands in no message, since it may hold a token.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::world::World;
use crate::error::{Error, Result};
use crate::model::watch::Call;

/// How often a hook is asked whether it ended.
const POLL: Duration = Duration::from_millis(10);

/// What of the environment a hook needs to run at all.
const KEPT: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ"];

/// How an HTTP client reaches the world; a command of the user's does not get these, as they may hold a password.
const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy"];

/// Runs one hook and waits for it, at most until the deadline. `told` is added to its environment.
///
/// # Errors
/// When it cannot be started, ends in failure, or is not done in time; all of its processes are ended then.
pub fn call(world: &World, call: &Call, told: &[(&str, &str)], deadline: Duration) -> Result<()> {
    let mut command = match call {
        Call::Command(text) => {
            let mut sh = Command::new("sh");
            sh.args(["-c", text]).stdin(Stdio::null());
            sh
        }
        Call::Ping(_) => {
            // The URL is often a secret of a kind, and arguments can be seen by everybody: it goes through stdin.
            let mut curl = Command::new("curl");
            curl.args(["-q", "--silent", "--fail", "--location", "--output", "/dev/null", "--config", "-"]);
            curl.args(["--max-time", &deadline.as_secs().max(1).to_string()]).stdin(Stdio::piped());
            curl
        }
    };
    let kept = KEPT.iter().chain(PROXIES.iter().filter(|_| matches!(call, Call::Ping(_))));
    command.env_clear().envs(kept.filter_map(|name| Some((*name, world.var(name)?)))).envs(told.iter().copied());
    // A group of its own, so that all of it can be ended.
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let end = Instant::now() + deadline;
    let mut child = command.spawn().map_err(|e| match call {
        Call::Ping(_) => Error::failed("cannot start curl, which URLs are called with")
            .because(e)
            .hint("install curl, or make the hook a command"),
        Call::Command(_) => Error::failed("cannot start a shell").because(e),
    })?;
    if let (Call::Ping(url), Some(mut stdin)) = (call, child.stdin.take()) {
        // A client that ended already has said why by its status.
        stdin.write_all(format!("url = \"{url}\"\n").as_bytes()).unwrap_or(());
    }
    match wait(&mut child, end) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(Error::failed(format!("it failed ({status})"))),
        Ok(None) => {
            end_all(&mut child);
            Err(Error::failed(format!("it was not done within {} s, and was ended", deadline.as_secs_f32())))
        }
        Err(e) => {
            end_all(&mut child);
            Err(Error::failed("cannot wait for it").because(e))
        }
    }
}

fn wait(child: &mut Child, end: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn end_all(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself in the meantime.
        rustix::process::kill_process_group(pid, Signal::KILL).ok();
    }
    child.kill().ok();
    child.wait().ok();
}
