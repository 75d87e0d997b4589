//! `identity = "command:…"`: a password manager or the like prints the identity.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::host::private_file::{KEY_FILE_BYTES_MAX, read_capped};
use crate::host::prompt;
use crate::host::world::KEY_VARIABLES;
use crate::model::path::printable;

/// How often a command that closed its output is asked whether it ended.
const POLL: Duration = Duration::from_millis(10);

/// The most of a command's last line on stderr that an error repeats, in characters.
const COMPLAINT_CHARS_MAX: usize = 200;

/// How long to wait for stderr once the command ended: what it left in the background may hold it open.
const COMPLAINT_WAIT: Duration = Duration::from_millis(200);

/// Runs `command` with `sh -c` and returns what it prints.
///
/// # Errors
/// If it fails or takes longer than `deadline`. The command's text, which may hold a secret, is not in the message.
pub(super) fn run(command: &str, deadline: Duration) -> Result<SecretString> {
    let mut sh = Command::new("sh");
    sh.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What it needs of a cloud's or a password manager's variables, only it knows; ours are none of its business.
    for name in KEY_VARIABLES {
        sh.env_remove(name);
    }
    let group = match prompt::terminal() {
        // A command that asks on the terminal must stay in the foreground with us.
        Some(_) => Group::Ours,
        // Elsewhere it gets a group of its own, so that all of it can be ended.
        None => {
            sh.process_group(0);
            Group::Own
        }
    };
    let mut child = sh.spawn().map_err(|e| Error::failed("cannot start the identity command").because(e))?;
    let result = converse(&mut child, Instant::now() + deadline);
    if result.is_err() {
        end(&mut child, group);
    }
    let said = result.map_err(|why| match why {
        Trouble::Late => {
            Error::failed(format!("the identity command did not finish within {} s", deadline.as_secs_f32()))
        }
        Trouble::Io(e) => Error::failed("cannot read from the identity command").because(e),
        Trouble::TooLong => Error::failed("the identity command prints more than a key file can hold"),
    })?;
    if !said.status.success() {
        let error = Error::failed(format!("the identity command failed ({})", said.status));
        return Err(match said.complaint {
            Some(complaint) => error.because(complaint),
            None => error,
        });
    }
    let text = std::str::from_utf8(&said.output)
        .map_err(|_| Error::failed("the identity command prints something that is no text"))?;
    Ok(SecretString::from(text))
}

#[derive(Clone, Copy)]
enum Group {
    Ours,
    Own,
}

enum Trouble {
    Late,
    Io(std::io::Error),
    TooLong,
}

struct Said {
    status: ExitStatus,
    output: Zeroizing<Vec<u8>>,
    complaint: Option<String>,
}

type Output = std::io::Result<Option<Zeroizing<Vec<u8>>>>;

fn converse(child: &mut Child, end: Instant) -> Result<Said, Trouble> {
    let stdout = drain(child.stdout.take()).map_err(Trouble::Io)?;
    let stderr = drain(child.stderr.take()).map_err(Trouble::Io)?;
    let output = stdout.recv_timeout(left(end)).map_err(|_| Trouble::Late)?;
    let output = output.map_err(Trouble::Io)?.ok_or(Trouble::TooLong)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Trouble::Io)? {
            break status;
        }
        if left(end).is_zero() {
            return Err(Trouble::Late);
        }
        thread::sleep(POLL);
    };
    let complaint = stderr.recv_timeout(COMPLAINT_WAIT).ok().and_then(|text| last_line(&text.ok()??));
    Ok(Said { status, output, complaint })
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// Reads a pipe to its end on a thread, which is left behind if that never comes.
fn drain(pipe: Option<impl Read + Send + 'static>) -> std::io::Result<Receiver<Output>> {
    let (sender, receiver) = channel();
    thread::Builder::new().name("identity command".into()).spawn(move || {
        let output = pipe.map_or(Ok(None), |pipe| read_capped(pipe, KEY_FILE_BYTES_MAX));
        // Nobody listens any more once the deadline is over.
        sender.send(output).ok();
    })?;
    Ok(receiver)
}

/// Ends the command, as far as it can be reached.
fn end(child: &mut Child, group: Group) {
    if let (Group::Own, Some(pid)) = (group, i32::try_from(child.id()).ok().and_then(Pid::from_raw)) {
        rustix::process::kill_process_group(pid, Signal::KILL).ok();
    }
    // It may have ended by itself in the meantime.
    child.kill().ok();
    child.wait().ok();
}

/// The last line that says something, cut and harmless, and withheld if there is a key in it.
fn last_line(stderr: &[u8]) -> Option<String> {
    let line = stderr.split(|b| *b == b'\n').rev().map(<[u8]>::trim_ascii).find(|l| !l.is_empty())?;
    let line: String = printable(line).chars().take(COMPLAINT_CHARS_MAX).collect();
    let upper = line.to_ascii_uppercase();
    let secret = upper.contains("AGE-SECRET") || upper.contains("AGE-PLUGIN");
    Some(if secret { "(its message holds a key and is withheld)".into() } else { line })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn refusal(command: &str, deadline: Duration) -> Error {
        run(command, deadline).unwrap_err()
    }

    #[test]
    fn what_it_prints_is_the_identity() {
        assert_eq!(run("printf 'a\\nb'; echo noise >&2", LONG).unwrap().expose_secret(), "a\nb");
        // It reads nothing from us.
        assert_eq!(run("cat", LONG).unwrap().expose_secret(), "");
    }

    #[test]
    fn a_failure_shows_the_last_line_of_its_complaint() {
        let error = refusal("echo one >&2; printf 'two \\033[31m\\n\\n' >&2; exit 3", LONG);
        assert_eq!(error.to_string(), "the identity command failed (exit status: 3)");
        assert_eq!(error.causes(), ["two \\u{1b}[31m"]);
        let error = refusal("echo age-secret-key-1xx >&2; exit 1", LONG);
        assert_eq!(error.causes(), ["(its message holds a key and is withheld)"]);
        assert_eq!(refusal("kill -9 $$", LONG).causes().len(), 0);
        assert!(refusal("printf '\\377'", LONG).to_string().contains("no text"));
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let begun = Instant::now();
        let short = Duration::from_millis(100);
        for command in ["sleep 20", "sleep 20; true", "exec >&-; sleep 20"] {
            assert!(refusal(command, short).to_string().ends_with("did not finish within 0.1 s"), "{command}");
        }
        assert!(refusal("yes", LONG).to_string().contains("more than a key file"));
        // What stays in the background and holds stderr open does not keep us.
        assert_eq!(run("sleep 20 >/dev/null & echo x", LONG).unwrap().expose_secret(), "x\n");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
