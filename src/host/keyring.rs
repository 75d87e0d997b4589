//! The OS keyring, where a host that is not sealed keeps its own identities.
//!
//! A keyring can be absent, locked, waiting for somebody to click, or dead. Every call therefore runs on a thread
//! of its own and is given up after a while; the thread is left behind, as nothing can end it. One that did not answer
//! once is not asked again in the same run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use keyring::{Entry, Error as KeyringError};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroize;

use crate::error::{Error, Result};
use crate::model::path::printable;

pub use crate::model::kit::Which;

/// How long the keyring may take to answer where nobody looks on.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long it may take where somebody may have to type its password first.
const DEADLINE_ATTENDED: Duration = Duration::from_secs(30);

/// Whether the keyring was given up already: both identities would be waited for, else.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// The service name that all entries share.
const SERVICE: &str = "lifeboat";
/// The service name of entries that are credentials of stores.
const CREDENTIALS: &str = "lifeboat store";

/// Puts an identity into the keyring, in place of what was there for this series and archive. `attended` says that
/// there is somebody who can unlock it.
///
/// # Errors
/// If the keyring cannot be used, saying why.
pub fn store(series: &str, which: Which, identity: &SecretString, attended: bool) -> Result<()> {
    let user = user(series, which);
    let identity = identity.clone();
    ask(attended, move || entry(&user)?.set_password(identity.expose_secret()).map_err(failed))
}

/// The identity in the keyring, if it has one for this series and archive. `attended` is as for [`store`].
///
/// # Errors
/// If the keyring cannot be used, saying why.
pub fn load(series: &str, which: Which, attended: bool) -> Result<Option<SecretString>> {
    let user = user(series, which);
    ask(attended, move || match entry(&user)?.get_password() {
        Ok(text) => Ok(Some(SecretString::from(text))),
        Err(KeyringError::NoEntry) => Ok(None),
        Err(e) => Err(failed(e)),
    })
}

/// Puts a part of a store's credential into the keyring under `user`, in place of what was there; nothing removes it.
/// `attended` is as for [`store`].
///
/// # Errors
/// If the keyring cannot be used, saying why.
pub fn store_credential(user: &str, value: Option<&SecretString>, attended: bool) -> Result<()> {
    let (user, value) = (user.to_owned(), value.cloned());
    ask(attended, move || match (entry_of(CREDENTIALS, &user)?, value) {
        (entry, Some(value)) => entry.set_password(value.expose_secret()).map_err(failed),
        (entry, None) => match entry.delete_credential() {
            Ok(()) | Err(KeyringError::NoEntry) => Ok(()),
            Err(e) => Err(failed(e)),
        },
    })
}

/// A part of a store's credential in the keyring, if it has one under `user`. `attended` is as for [`store`].
///
/// # Errors
/// If the keyring cannot be used, saying why.
pub fn load_credential(user: &str, attended: bool) -> Result<Option<SecretString>> {
    let user = user.to_owned();
    ask(attended, move || match entry_of(CREDENTIALS, &user)?.get_password() {
        Ok(text) => Ok(Some(SecretString::from(text))),
        Err(KeyringError::NoEntry) => Ok(None),
        Err(e) => Err(failed(e)),
    })
}

/// Asks the keyring, unless it was given up before.
fn ask<T: Send + 'static>(attended: bool, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if GIVEN_UP.load(Ordering::Relaxed) {
        return Err(unusable("it did not answer before"));
    }
    let answered = with_deadline(if attended { DEADLINE_ATTENDED } else { DEADLINE }, f);
    GIVEN_UP.fetch_or(answered.is_err(), Ordering::Relaxed);
    answered?
}

fn user(series: &str, which: Which) -> String {
    format!("{series}/{}", which.name())
}

fn entry(user: &str) -> Result<Entry> {
    entry_of(SERVICE, user)
}

fn entry_of(service: &str, user: &str) -> Result<Entry> {
    // An entry of a keyring that could not be opened only says that there is none; the reason is kept here.
    if let Err(e) = Entry::store_status() {
        return Err(unusable(&describe(e)));
    }
    Entry::new(service, user).map_err(failed)
}

/// Runs `f` on a thread of its own for at most `deadline`, and turns a panic into an error.
pub(crate) fn with_deadline<T: Send + 'static>(
    deadline: Duration,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = channel();
    let work = move || {
        // Nobody listens any more once the deadline is over.
        sender.send(f()).ok();
    };
    thread::Builder::new()
        .name("keyring".into())
        .spawn(work)
        .map_err(|e| Error::failed("cannot start a thread for the OS keyring").because(e))?;
    receiver.recv_timeout(deadline).map_err(|e| match e {
        RecvTimeoutError::Timeout => {
            let seconds = deadline.as_secs_f32();
            unusable(&format!("it did not answer within {seconds} s; it may be locked and waiting to be unlocked"))
        }
        RecvTimeoutError::Disconnected => unusable("its library panicked"),
    })
}

fn unusable(why: &str) -> Error {
    let hint = "unlock it, or name the recovery kit with --identity FILE; \
                `identity` in the configuration can also be file:PATH or command:CMD";
    Error::failed("the OS keyring cannot be used").because(why.to_owned()).hint(hint)
}

/// Some errors hold the secret itself, which is wiped here.
fn failed(mut e: KeyringError) -> Error {
    let error = unusable(&describe(&e));
    if let KeyringError::BadEncoding(bytes) | KeyringError::BadDataFormat(bytes, _) = &mut e {
        bytes.zeroize();
    }
    error
}

/// What happened, in words that hold nothing of an entry's content.
fn describe(e: &KeyringError) -> String {
    let text = match e {
        KeyringError::PlatformFailure(e) => without_session(chain(e.as_ref())),
        KeyringError::NoStorageAccess(e) => format!("it is locked or gives no access ({})", chain(e.as_ref())),
        KeyringError::NoEntry => "it has no such entry".into(),
        KeyringError::BadEncoding(_) => "its entry is not a text".into(),
        KeyringError::BadDataFormat(..) => "its entry is malformed".into(),
        KeyringError::BadStoreFormat(_) => "its file is malformed".into(),
        KeyringError::TooLong(name, limit) => format!("{name} is longer than the {limit} characters it takes"),
        KeyringError::Invalid(name, why) => format!("it does not take {name}: {why}"),
        KeyringError::Ambiguous(entries) => format!("it has {} entries of the same name", entries.len()),
        KeyringError::NoDefaultStore => "there is none".into(),
        KeyringError::NotSupportedByStore(_) => "it does not support this".into(),
        _ => "it failed for a reason of its own".into(),
    };
    printable(text.as_bytes())
}

/// Says first what it means that there is no bus or nobody on it, as in cron and over ssh; the library only says
/// which of its calls failed.
fn without_session(why: String) -> String {
    if why.contains("ServiceUnknown") {
        return format!("no program in this session provides one ({why})");
    }
    let absent = ["Failed to connect to address", "dbus session", "ConnectionRefused", "Connection refused"];
    if absent.iter().any(|a| why.contains(a)) {
        return format!("there is no desktop session here that could have one ({why})");
    }
    why
}

/// An error with its causes, leaving out those that repeat what is already said.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_time_is_passed_on() {
        assert_eq!(with_deadline(DEADLINE, || 7).unwrap(), 7);
    }

    #[test]
    fn a_keyring_that_hangs_is_given_up() {
        let (_open, never) = channel::<()>();
        let error = with_deadline(Duration::from_millis(20), move || never.recv().ok()).unwrap_err();
        assert!(error.causes()[0].contains("did not answer within 0.02 s"), "{error:?}");
        assert!(error.advice().is_some());
    }

    #[test]
    fn a_keyring_that_panics_is_an_error() {
        let quiet = || std::panic::resume_unwind(Box::new("boom"));
        let error = with_deadline::<()>(DEADLINE, quiet).unwrap_err();
        assert_eq!(error.causes(), ["its library panicked"]);
    }

    #[test]
    fn reasons_are_named_without_content() {
        let io = || Box::new(std::io::Error::other("no\nbus"));
        let cases = [
            (KeyringError::PlatformFailure(io()), "no\\nbus"),
            (
                KeyringError::PlatformFailure(Box::new(std::io::Error::other("zbus: ServiceUnknown"))),
                "no program in this session provides one (zbus: ServiceUnknown)",
            ),
            (
                KeyringError::PlatformFailure(Box::new(std::io::Error::other("Failed to connect to address `x`"))),
                "there is no desktop session here that could have one (Failed to connect to address `x`)",
            ),
            (KeyringError::NoStorageAccess(io()), "it is locked or gives no access (no\\nbus)"),
            (KeyringError::BadEncoding(b"hunter2\xff".to_vec()), "its entry is not a text"),
            (KeyringError::BadDataFormat(b"hunter2".to_vec(), io()), "its entry is malformed"),
        ];
        for (error, expected) in cases {
            let error = failed(error);
            assert_eq!(error.to_string(), "the OS keyring cannot be used");
            assert_eq!(error.causes(), [expected]);
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn entries_are_named_after_series_and_archive() {
        assert_eq!(user("vm1", Which::State), "vm1/state");
        assert_eq!(user("vm1", Which::Secrets), "vm1/secrets");
    }
}
