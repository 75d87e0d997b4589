//! Asking a person for a passphrase, or for a yes, where there is one.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, IsTerminal as _, Read as _, Write as _};

use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Error, Result};

/// The longest secret that is read.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// The terminal of this process, whatever its standard streams are connected to.
const TERMINAL: &str = "/dev/tty";

/// Asks for a passphrase without showing it; `None` where nobody can be asked.
///
/// # Errors
/// [`Kind::Interrupted`](crate::Kind::Interrupted) on Ctrl-C; else if nothing was entered.
pub fn passphrase(label: &str) -> Result<Option<SecretString>> {
    if terminal().is_none() {
        return Ok(None);
    }
    match rpassword::prompt_password(format!("{label}: ")) {
        Ok(text) => Ok(Some(SecretString::from(text))),
        Err(e) if e.kind() == ErrorKind::Interrupted => Err(Error::interrupted()),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(Error::failed("no passphrase was entered")),
        Err(e) => Err(Error::failed("cannot ask for a passphrase").because(e)),
    }
}

/// Asks a question that only a `y` or `yes` answers; `None` where nobody can be asked.
///
/// # Errors
/// When the terminal cannot be used.
pub fn confirm(question: &str) -> Result<Option<bool>> {
    let said = answer(&format!("{question} [y/N]"))?;
    Ok(said.map(|said| matches!(said.expose_secret().trim().to_ascii_lowercase().as_str(), "y" | "yes")))
}

/// Reads a secret: asked for without showing it where standard input is a terminal, else all of standard input without
/// the newline at its end.
///
/// # Errors
/// [`Kind::Interrupted`](crate::Kind::Interrupted) on Ctrl-C; [`Kind::Usage`](crate::Kind::Usage) where there is none.
pub fn secret(label: &str) -> Result<SecretString> {
    let none = || Error::usage("no value was given").hint("it is asked for on a terminal, or read from standard input");
    let mut text = zeroize::Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        return passphrase(label)?.filter(|text| !text.expose_secret().is_empty()).ok_or_else(none);
    }
    let read = std::io::stdin().take(SECRET_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|e| Error::failed("cannot read standard input").because(e))?;
    let value = text.trim_end_matches(['\n', '\r']);
    if value.is_empty() { Err(none()) } else { Ok(SecretString::from(value)) }
}

/// Asks for a line that everybody may see; `None` where nobody can be asked.
///
/// # Errors
/// When the terminal cannot be read or written.
pub fn answer(question: &str) -> Result<Option<SecretString>> {
    let Some(mut terminal) = terminal() else { return Ok(None) };
    let cannot = |e: std::io::Error| match e.kind() {
        ErrorKind::Interrupted => Error::interrupted(),
        _ => Error::failed("cannot ask on the terminal").because(e),
    };
    terminal.write_all(format!("{question}: ").as_bytes()).map_err(cannot)?;
    let mut line = zeroize::Zeroizing::new(String::with_capacity(256));
    BufReader::new(terminal).read_line(&mut line).map_err(cannot)?;
    Ok(Some(SecretString::from(line.trim_end_matches(['\r', '\n']))))
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
