//! Asking a person for a passphrase, or for a yes, where there is one.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Result as IoResult, Write as _};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::world::World;
use crate::error::{Error, Result};

/// The longest secret that is read.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// The terminal of this process, whatever its standard streams are connected to.
const TERMINAL: &str = "/dev/tty";
/// How long Ctrl-C may go unnoticed.
const NOTICE: Duration = Duration::from_millis(20);

/// Asks for a passphrase without showing it; `None` where nobody can be asked.
///
/// # Errors
/// [`Kind::Interrupted`](crate::Kind::Interrupted) on Ctrl-C; else if nothing was entered.
pub fn passphrase(world: &World, label: &str) -> Result<Option<SecretString>> {
    let Some(terminal) = terminal() else { return Ok(None) };
    let quiet = Quiet::begin(&terminal).map_err(cannot)?;
    let line = line(world, &terminal, label)?;
    drop(quiet);
    match line.strip_suffix('\n') {
        Some(text) => Ok(Some(SecretString::from(text.trim_end_matches('\r')))),
        None => Err(Error::failed("no passphrase was entered")),
    }
}

/// Asks a question that only a `y` or `yes` answers; `None` where nobody can be asked.
///
/// # Errors
/// [`Kind::Interrupted`](crate::Kind::Interrupted) on Ctrl-C; when the terminal cannot be used.
pub fn confirm(world: &World, question: &str) -> Result<Option<bool>> {
    let said = answer(world, &format!("{question} [y/N]"))?;
    Ok(said.map(|said| matches!(said.expose_secret().trim().to_ascii_lowercase().as_str(), "y" | "yes")))
}

/// Reads a secret: asked for without showing it where standard input is a terminal, else all of standard input without
/// the newline at its end.
///
/// # Errors
/// [`Kind::Interrupted`](crate::Kind::Interrupted) on Ctrl-C; [`Kind::Usage`](crate::Kind::Usage) where there is none.
pub fn secret(world: &World, label: &str) -> Result<SecretString> {
    let none = || Error::usage("no value was given").hint("it is asked for on a terminal, or read from standard input");
    let mut text = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        return passphrase(world, label)?.filter(|text| !text.expose_secret().is_empty()).ok_or_else(none);
    }
    let read = std::io::stdin().take(SECRET_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|e| Error::failed("cannot read standard input").because(e))?;
    let value = text.trim_end_matches(['\n', '\r']);
    if value.is_empty() { Err(none()) } else { Ok(SecretString::from(value)) }
}

/// Asks for a line that everybody may see; `None` where nobody can be asked.
///
/// # Errors
/// [`Kind::Interrupted`](crate::Kind::Interrupted) on Ctrl-C; when the terminal cannot be read or written.
pub fn answer(world: &World, question: &str) -> Result<Option<SecretString>> {
    let Some(terminal) = terminal() else { return Ok(None) };
    let line = line(world, &terminal, question)?;
    Ok(Some(SecretString::from(line.trim_end_matches(['\r', '\n']))))
}

fn cannot(e: impl Into<std::io::Error>) -> Error {
    Error::failed("cannot ask on the terminal").because(e.into())
}

/// Asks, and reads a line, with its end unless the terminal was closed. A signal ends that at once: the read itself goes
/// on after one, so that it is left to a thread, which goes with the process.
fn line(world: &World, mut terminal: &File, question: &str) -> Result<Zeroizing<String>> {
    world.check_stop()?;
    terminal.write_all(format!("{question}: ").as_bytes()).map_err(cannot)?;
    let from = terminal.try_clone().map_err(cannot)?;
    let (sender, answer) = channel::<IoResult<Zeroizing<String>>>();
    let read = move || {
        let mut line = Zeroizing::new(String::with_capacity(1 << 12));
        let read = BufReader::new(from.take(SECRET_BYTES_MAX)).read_line(&mut line);
        // Nobody listens any more after a signal.
        sender.send(read.map(|_| line)).unwrap_or(());
    };
    thread::Builder::new().name("terminal".into()).spawn(read).map_err(cannot)?;
    loop {
        match answer.recv_timeout(NOTICE) {
            Ok(line) => return line.map_err(cannot),
            Err(RecvTimeoutError::Timeout) => world.check_stop().inspect_err(|_| {
                // What comes next begins on a line of its own.
                terminal.write_all(b"\n").unwrap_or(());
            })?,
            Err(RecvTimeoutError::Disconnected) => return Err(Error::failed("cannot ask on the terminal")),
        }
    }
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Quiet<'_> {
    fn begin(terminal: &File) -> rustix::io::Result<Quiet<'_>> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        modes.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        // What was typed ahead is kept: whoever pastes the same twice means both.
        tcsetattr(terminal, OptionalActions::Now, &modes)?;
        Ok(Quiet { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing.
        tcsetattr(self.terminal, OptionalActions::Now, &self.before).unwrap_or(());
    }
}

/// Shows a line to whoever sits at the terminal, if somebody does.
pub fn show(line: &str) {
    if let Some(mut terminal) = terminal() {
        // Who cannot be told is not there.
        terminal.write_all(format!("{line}\n").as_bytes()).unwrap_or(());
    }
}

/// The terminal, if there is one and this process is in its foreground: a question asked in the background would
/// stop the process for ever.
pub(crate) fn terminal() -> Option<File> {
    let terminal = OpenOptions::new().read(true).write(true).open(TERMINAL).ok()?;
    let foreground = rustix::termios::tcgetpgrp(&terminal).ok()?;
    (foreground == rustix::process::getpgrp()).then_some(terminal)
}
