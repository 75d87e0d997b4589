//! Credentials that another program gives: `credential_process` of an AWS profile, and the clouds' own tools.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::host::world::{KEY_VARIABLES, World};

/// How long such a program may take: some ask a server that is far away.
const DEADLINE: Duration = Duration::from_secs(60);
/// The most that is read of what it prints.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// A program and its environment.
#[derive(Clone)]
pub(super) struct Tool {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(OsString, OsString)>,
}

impl Tool {
    /// A program of the user's path.
    pub(super) fn new(world: &World, name: &str, arguments: &[&str]) -> Tool {
        // What opens backups is not for what opens the store.
        let ours = |name: &std::ffi::OsStr| KEY_VARIABLES.iter().any(|own| name == *own);
        let environment = world.env.iter().filter(|(k, _)| !ours(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        Tool { name: name.to_owned(), arguments, environment }
    }

    /// A line for the shell.
    pub(super) fn shell(world: &World, line: &str) -> Tool {
        Tool::new(world, "sh", &["-c", line])
    }

    /// Runs it and gives what it prints; an error in words that hold nothing of its output and its arguments.
    pub(super) fn run(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        let mut command = Command::new(&self.name);
        command.args(&self.arguments).env_clear().envs(self.environment.iter().map(|(k, v)| (k, v)));
        // A group of its own, so that all of it can be ended.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(|e| format!("cannot start it: {e}"))?;
        let Some(stdout) = child.stdout.take() else { return Err("it has no output".to_owned()) };
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut out = Zeroizing::new(Vec::with_capacity(16 << 10));
            let read = stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut out);
            // Nobody listens any more once the deadline is over.
            sender.send(read.map(|_| out)).unwrap_or(());
        });
        let end = Instant::now() + DEADLINE;
        let output = receiver.recv_timeout(DEADLINE).ok();
        while output.is_some() && Instant::now() < end {
            match child.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => {
                    return output.ok_or_else(String::new)?.map_err(|e| e.to_string());
                }
                Some(status) => return Err(format!("it failed ({status})")),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap_or(());
        }
        // It may have ended by itself in the meantime.
        child.wait().map_err(|e| e.to_string())?;
        Err(format!("it took longer than {} s", DEADLINE.as_secs()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn world() -> World {
        World {
            env: [("PATH", "/usr/bin:/bin"), ("GIVEN", "yes"), ("LIFEBOAT_PASSPHRASE", "hush")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            home: "/".into(),
            host_name: String::new(),
            fixed_now: None,
            stop: std::sync::Arc::default(),
            terminal: false,
            wrap_store: None,
        }
    }

    #[test]
    fn it_sees_the_environment_it_was_given_and_no_other() {
        let run = |line| Tool::shell(&world(), line).run();
        assert_eq!(run("printf %s \"$GIVEN${HOME-none}$LIFEBOAT_PASSPHRASE\"").unwrap().as_slice(), b"yesnone");
        let error = run("echo HUSH; exit 3").unwrap_err();
        assert!(error.contains("exit status: 3") && !error.contains("HUSH"), "{error}");
        assert!(Tool::new(&world(), "no-such-program-here", &[]).run().unwrap_err().contains("cannot start"));
    }
}
