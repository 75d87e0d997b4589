//! Plugins of age as processes: found in the user's path, spoken with over pipes, ended by a deadline.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::error::{At as _, Error, Result};
use crate::host::world::{KEY_VARIABLES, World};

/// How long a plugin may take where nobody is there.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long where somebody may have to look for a key and touch it.
const DEADLINE_ATTENDED: Duration = Duration::from_secs(120);
/// How long it may take to end once it has said that it is done.
const PARTING: Duration = Duration::from_secs(2);
/// How often it is asked whether it ended.
const POLL: Duration = Duration::from_millis(5);
/// Beginnings of variables that hold what opens a store, which is none of a plugin's business.
const CLOUDS: [&str; 4] = ["AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_"];

/// Where plugins are, and what they get to see.
#[derive(Clone)]
pub struct Programs {
    world: World,
    environment: Vec<(OsString, OsString)>,
    deadline: Duration,
}

impl Programs {
    /// Those of the machine.
    pub fn new(world: &World) -> Programs {
        let kept = |name: &OsString| {
            let name = name.to_string_lossy();
            !KEY_VARIABLES.contains(&name.as_ref()) && !CLOUDS.iter().any(|cloud| name.starts_with(cloud))
        };
        let environment = world.env.iter().filter(|(name, _)| kept(name)).map(|(k, v)| (k.clone(), v.clone()));
        Programs {
            world: world.clone(),
            environment: environment.collect(),
            deadline: if world.terminal { DEADLINE_ATTENDED } else { DEADLINE },
        }
    }

    /// The program of a plugin.
    ///
    /// # Errors
    /// [`Kind::NotThere`](crate::Kind::NotThere) when it is not installed.
    pub fn find(&self, name: &str) -> Result<PathBuf> {
        let program = format!("age-plugin-{name}");
        self.world.program(&program).ok_or_else(|| {
            Error::not_there(format!("{program} is not installed"))
                .hint(format!("install {program}, or put it where PATH finds it, also that of cron or the service"))
        })
    }

    /// Starts a plugin for a state machine of the protocol, has `talk` speak with it, and ends it.
    ///
    /// # Errors
    /// When it cannot be found or started, is not done in time, and what `talk` gives.
    pub fn converse(
        &self,
        name: &str,
        machine: &str,
        talk: &mut dyn FnMut(&mut dyn BufRead, &mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let program = self.find(name)?;
        // What it leaves behind in its directory goes away with it.
        let dir = tempfile::tempdir().map_err(|e| Error::failed("cannot make a temporary directory").because(e))?;
        let mut command = Command::new(&program);
        command.arg(format!("--age-plugin={machine}")).current_dir(dir.path()).process_group(0);
        command.env_clear().envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().at("start", &program)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (over, listen) = channel();
        let deadline = self.deadline;
        let watch = thread::Builder::new()
            .name("age plugin".into())
            .spawn(move || ended_late(&listen, deadline, pid))
            .map_err(|e| Error::failed("cannot start a thread").because(e));
        let talked = match (&watch, child.stdin.take(), child.stdout.take()) {
            (Ok(_), Some(mut stdin), Some(stdout)) => {
                let stdout = Listening { stdout, until: Instant::now() + deadline + PARTING };
                talk(&mut BufReader::new(stdout), &mut stdin)
            }
            _ => Ok(()),
        };
        // The process is reaped only after its watch ended, so that no other one can have its number by then.
        drop(over);
        let late = watch.map(|watch| watch.join().unwrap_or(true));
        part(&mut child, pid);
        if late? {
            let seconds = deadline.as_secs();
            return Err(Error::failed(format!("age-plugin-{name} was not done within {seconds} s, and was ended"))
                .hint("is its key plugged in, and waits to be touched?"));
        }
        talked
    }
}

/// What a plugin says, until it was ended: what it left behind in a session of its own may hold the pipe open for ever.
struct Listening {
    stdout: ChildStdout,
    until: Instant,
}

impl Read for Listening {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(std::io::Error::other)?;
            match poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(std::io::ErrorKind::TimedOut.into()),
                Ok(_) => return self.stdout.read(buffer),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Ends a plugin whose conversation takes too long, and tells whether that was so.
fn ended_late(over: &Receiver<()>, deadline: Duration, pid: Option<Pid>) -> bool {
    if over.recv_timeout(deadline) != Err(RecvTimeoutError::Timeout) {
        return false;
    }
    end(pid);
    true
}

/// Waits a little for a plugin that said all, then ends it.
fn part(child: &mut Child, pid: Option<Pid>) {
    let until = Instant::now() + PARTING;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => thread::sleep(POLL),
            _ => return,
        }
    }
    end(pid);
    child.kill().ok();
    child.wait().ok();
}

fn end(pid: Option<Pid>) {
    if let Some(pid) = pid {
        // It may have ended by itself in the meantime.
        rustix::process::kill_process_group(pid, Signal::KILL).unwrap_or(());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::error::Kind;

    fn programs(script: &str, deadline: Duration) -> (tempfile::TempDir, Programs) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("age-plugin-fake");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::join_paths([dir.path(), "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap();
        let env =
            [("PATH", path.to_str().unwrap()), ("GIVEN", "yes"), ("LIFEBOAT_PASSPHRASE", "hush"), ("AWS_X", "hush")];
        let world = World {
            env: env.map(|(k, v)| (k.into(), v.into())).into(),
            home: "/".into(),
            host_name: String::new(),
            fixed_now: None,
            stop: std::sync::Arc::default(),
            terminal: false,
            wrap_store: None,
        };
        (dir, Programs { deadline, ..Programs::new(&world) })
    }

    #[test]
    fn it_is_spoken_with_and_sees_no_keys() {
        let script = "read x; echo \"$1 $x $GIVEN ${LIFEBOAT_PASSPHRASE-none} ${AWS_X-none}\"; echo noise >&2";
        let (_dir, programs) = programs(script, DEADLINE);
        let mut said = String::new();
        let mut talk = |from: &mut dyn BufRead, to: &mut dyn Write| {
            to.write_all(b"hello\n").unwrap();
            from.read_to_string(&mut said).unwrap();
            Ok(())
        };
        programs.converse("fake", "identity-v1", &mut talk).unwrap();
        assert_eq!(said, "--age-plugin=identity-v1 hello yes none none\n");
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_it_started() {
        let (dir, programs) = programs("sleep 77 & echo $$ >\"$0.pid\"; sleep 77", Duration::from_millis(300));
        let mut talk = |from: &mut dyn BufRead, _: &mut dyn Write| {
            from.read_to_end(&mut Vec::new()).unwrap();
            Err(Error::failed("it ended"))
        };
        let error = programs.converse("fake", "identity-v1", &mut talk).unwrap_err();
        assert!(error.to_string().contains("age-plugin-fake was not done within"), "{error}");
        let group = std::fs::read_to_string(dir.path().join("age-plugin-fake.pid")).unwrap();
        let group = Pid::from_raw(group.trim().parse().unwrap()).unwrap();
        for _ in 0..500 {
            if rustix::process::test_kill_process_group(group).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("something of it still runs");
    }

    #[test]
    fn what_it_leaves_in_a_session_of_its_own_is_not_waited_for() {
        let script = "setsid sh -c 'echo $$ >\"$0.far\"; exec sleep 77' \"$0\" & sleep 77";
        let (dir, programs) = programs(script, Duration::from_secs(3));
        let mut talk = |from: &mut dyn BufRead, _: &mut dyn Write| {
            from.read_to_end(&mut Vec::new()).map(drop).map_err(|e| Error::failed("it was ended").because(e))
        };
        let error = programs.converse("fake", "identity-v1", &mut talk).unwrap_err();
        assert!(error.to_string().contains("age-plugin-fake was not done within"), "{error}");
        let far = std::fs::read_to_string(dir.path().join("age-plugin-fake.far")).unwrap();
        let far = Pid::from_raw(far.trim().parse().unwrap()).unwrap();
        assert!(rustix::process::test_kill_process(far).is_ok(), "it was waited for");
        rustix::process::kill_process(far, Signal::KILL).unwrap();
    }

    #[test]
    fn one_that_is_not_there_is_named() {
        let (_dir, programs) = programs("", DEADLINE);
        let error = programs.converse("other", "identity-v1", &mut |_, _| Ok(())).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::NotThere, "age-plugin-other is not installed"));
    }
}
