//! Asking a person for a passphrase, where there is one.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;

use secrecy::SecretString;

use crate::error::{Error, Result};

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

/// Asks for a line that everybody may see; `None` where nobody can be asked.
///
/// # Errors
/// When the terminal cannot be read or written.
pub fn answer(question: &str) -> Result<Option<SecretString>> {
    use std::io::{BufRead as _, Write as _};
    let Some(mut terminal) = terminal() else { return Ok(None) };
    let cannot = |e| Error::failed("cannot ask on the terminal").because(e);
    terminal.write_all(format!("{question}: ").as_bytes()).map_err(cannot)?;
    let mut line = zeroize::Zeroizing::new(String::with_capacity(256));
    std::io::BufReader::new(terminal).read_line(&mut line).map_err(cannot)?;
    Ok(Some(SecretString::from(line.trim_end_matches(['\r', '\n']))))
}

/// Shows a line to whoever sits at the terminal, if somebody does.
pub fn show(line: &str) {
    use std::io::Write as _;
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
