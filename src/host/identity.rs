//! Where identities come from: the command line, the environment, systemd, or what the configuration says.

use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Kind, Result};
use crate::host::private_file::{read_granted_file, read_private_file};
use crate::host::{identity_command, keyring};
use crate::model::kit::{Kit, Which, is_protected};
use crate::model::path::printable_path;

/// How long the command of `identity = "command:…"` may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// All places where an identity may be.
#[derive(Debug)]
pub struct Sources<'a> {
    /// `--identity FILE`.
    pub file: Option<&'a Path>,
    /// `$LIFEBOAT_IDENTITY`: identities or a whole kit, as text.
    pub env: Option<SecretString>,
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts credentials.
    pub credentials_dir: Option<&'a Path>,
    /// `identity` of the archive's section in the configuration; empty if there is no configuration.
    pub setting: &'a str,
    /// The series, which names the entries of the keyring.
    pub series: &'a str,
    /// Whether there is somebody who can unlock the keyring.
    pub attended: bool,
}

/// What [`find`] found.
#[derive(Debug)]
pub struct Found {
    /// Key texts, each with the name of its source. They hold an identity for the archive, or are protected by a
    /// passphrase, so that only opening them tells.
    pub texts: Vec<(String, SecretString)>,
    /// The sources that gave nothing, and why.
    pub tried: Vec<(String, Error)>,
}

/// Looks for identities that may open `which`. What was asked for, on the command line or in the environment, is all
/// that is looked at then; otherwise the first source that has something ends the search, so that no password manager
/// is started in vain.
pub fn find(sources: &Sources<'_>, which: Which) -> Found {
    let mut found = Found { texts: Vec::new(), tried: Vec::new() };
    if let Some(path) = sources.file {
        found.add(&format!("--identity {}", printable_path(path)), which, read_text(path));
    }
    if let Some(text) = &sources.env {
        found.add("$LIFEBOAT_IDENTITY", which, Ok(text.clone()));
    }
    if sources.file.is_some() || sources.env.is_some() {
        return found;
    }
    if let Some(dir) = sources.credentials_dir {
        let name = format!("lifeboat-{}", which.name());
        let text = read_granted_file(&dir.join(&name)).and_then(|bytes| to_text(&bytes));
        found.add(&format!("the systemd credential {name}"), which, text);
    }
    if found.texts.is_empty() {
        setting(&mut found, sources, which);
    }
    found
}

/// What the configuration says.
fn setting(found: &mut Found, sources: &Sources<'_>, which: Which) {
    let setting = sources.setting.trim();
    if let Some(path) = setting.strip_prefix("file:") {
        let path = Path::new(path);
        found.add(&format!("the file {}", printable_path(path)), which, read_configured(path));
    } else if let Some(command) = setting.strip_prefix("command:") {
        found.add("the identity command", which, identity_command::run(command, COMMAND_DEADLINE));
    } else {
        match setting {
            "" => {}
            "keyring" => {
                let text = keyring::load(sources.series, which, sources.attended);
                let missing = || Error::not_there(format!("it has no entry {}/{}", sources.series, which.name()));
                found.add("the OS keyring", which, text.and_then(|t| t.ok_or_else(missing)));
            }
            "none" => found.miss("the configuration", Error::failed("it says that this host keeps no identity")),
            // What was meant may be a key, so it is not repeated.
            _ => found.miss(
                "the configuration",
                Error::failed("its `identity` is neither keyring, file:PATH, command:CMD nor none"),
            ),
        }
    }
}

impl Found {
    /// The error of having found nothing that opens the archive, with every source that was tried.
    ///
    /// If the one source that was asked for failed, that is the error.
    pub fn into_error(mut self, which: Which) -> Error {
        if let [(name, _)] = &self.tried[..]
            && name.starts_with("--identity")
            && let Some((name, error)) = self.tried.pop()
        {
            return named(&name, error);
        }
        let error = Error::new(Kind::NoIdentity, format!("no identity at hand opens {}", which.archive()));
        if self.tried.is_empty() {
            return error.hint("name the recovery kit with --identity FILE");
        }
        let reasons = self.reasons();
        let advice = self.tried.iter().find_map(|(_, why)| why.advice());
        error.hint(advice.unwrap_or("name the recovery kit with --identity FILE")).because(reasons.join("; "))
    }

    /// The sources that gave nothing, each with its reason in a sentence.
    pub fn reasons(&self) -> Vec<String> {
        self.tried.iter().map(|(name, why)| reason(name, why)).collect()
    }

    fn add(&mut self, name: &str, which: Which, text: Result<SecretString>) {
        match text.and_then(|text| check(text, which)) {
            Ok(text) => self.texts.push((name.to_owned(), text)),
            Err(why) => self.miss(name, why),
        }
    }

    fn miss(&mut self, name: &str, why: Error) {
        self.tried.push((name.to_owned(), why));
    }
}

/// An error that names the file of `--identity`.
fn named(name: &str, error: Error) -> Error {
    let message = error.to_string();
    if name.split_once(' ').is_some_and(|(_, path)| message.contains(path)) {
        return error;
    }
    let mut named = Error::new(error.kind(), format!("{name}: {message}"));
    if let Some(advice) = error.advice() {
        named = named.hint(advice);
    }
    match error.causes().join(": ") {
        causes if causes.is_empty() => named,
        causes => named.because(causes),
    }
}

/// A source and why it gave nothing, in one sentence.
fn reason(name: &str, why: &Error) -> String {
    let why = in_full(why);
    if why.starts_with(name) { why } else { format!("{name}: {why}") }
}

fn in_full(e: &Error) -> String {
    std::iter::once(e.to_string()).chain(e.causes()).collect::<Vec<_>>().join(": ")
}

/// Lets through what may open the archive.
fn check(text: SecretString, which: Which) -> Result<SecretString> {
    if !is_protected(text.expose_secret()) {
        let kit = Kit::parse(text.expose_secret())?;
        if kit.identities(which).is_empty() {
            return Err(Error::new(
                Kind::NoIdentity,
                format!("the key text holds no identity for {}", which.archive()),
            ));
        }
    }
    Ok(text)
}

fn read_configured(path: &Path) -> Result<SecretString> {
    // cron and a person start in different directories, and only shells know `~`.
    if !path.is_absolute() {
        return Err(Error::failed("its path in the configuration is not absolute"));
    }
    read_text(path)
}

fn read_text(path: &Path) -> Result<SecretString> {
    to_text(&read_private_file(path)?)
}

fn to_text(bytes: &[u8]) -> Result<SecretString> {
    if bytes.starts_with(b"age-encryption.org/") {
        return Err(Error::failed("the key file is encrypted in age's binary form").hint("encrypt it with `age -a`"));
    }
    std::str::from_utf8(bytes).map(SecretString::from).map_err(|_| Error::failed("the key file is not a text"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::host::private_file::write_private_file;
    use crate::model::kit::Opening;

    // Made for these tests and published with them: never to be used.
    const IDENTITY: &str = "AGE-SECRET-KEY-1XCPZX55CWKM5L2T297F3ZA3N26Z0D5KMVGPUD959XHX5VPA7UJFQ44XR0G";
    const PROTECTED: &str = "-----BEGIN AGE ENCRYPTED FILE-----\n...";

    const NOTHING: Sources<'_> =
        Sources { file: None, env: None, credentials_dir: None, setting: "", series: "vm1", attended: false };

    fn names(found: &Found) -> Vec<&str> {
        found.texts.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn reasons(found: &Found) -> Vec<String> {
        found.tried.iter().map(|(name, why)| format!("{name}: {}", in_full(why))).collect()
    }

    #[test]
    fn what_is_asked_for_comes_first_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kit");
        write_private_file(&path, &IDENTITY.into()).unwrap();
        let sources = Sources { file: Some(&path), env: Some(PROTECTED.into()), setting: "command:exit 1", ..NOTHING };
        let found = find(&sources, Which::State);
        assert_eq!(names(&found), [&format!("--identity {}", path.display()), "$LIFEBOAT_IDENTITY"]);
        assert_eq!(found.texts[0].1.expose_secret(), IDENTITY);
        assert!(found.tried.is_empty());
        assert!(!format!("{found:?}{sources:?}").contains(IDENTITY));
    }

    #[test]
    fn a_failure_of_what_was_asked_for_is_the_error() {
        let sources = Sources { file: Some(Path::new("/no/such/kit")), setting: "command:echo x", ..NOTHING };
        let found = find(&sources, Which::State);
        assert!(found.texts.is_empty());
        let error = found.into_error(Which::State);
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::NotThere, "there is no key file /no/such/kit"));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kit");
        write_private_file(&path, &"hello".into()).unwrap();
        let error = find(&Sources { file: Some(&path), ..NOTHING }, Which::State).into_error(Which::State);
        let expected = format!("--identity {}: line 1 of the key file is neither", path.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }

    #[test]
    fn credentials_come_before_the_setting() {
        let dir = tempfile::tempdir().unwrap();
        let credential = dir.path().join("lifeboat-secrets");
        write_private_file(&credential, &IDENTITY.into()).unwrap();
        // As systemd's ACLs look.
        std::fs::set_permissions(&credential, Permissions::from_mode(0o440)).unwrap();
        let command = format!("command:echo {IDENTITY}");
        let sources = Sources { credentials_dir: Some(dir.path()), setting: &command, ..NOTHING };
        let found = find(&sources, Which::Secrets);
        assert_eq!(names(&found), ["the systemd credential lifeboat-secrets"]);
        let found = find(&sources, Which::State);
        assert_eq!(names(&found), ["the identity command"]);
        assert_eq!(found.tried.len(), 1);
    }

    #[test]
    fn the_setting_may_name_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private_file(&path, &IDENTITY.into()).unwrap();
        let setting = format!("file:{}", path.display());
        let sources = Sources { setting: &setting, ..NOTHING };
        assert_eq!(names(&find(&sources, Which::State)), [format!("the file {}", path.display())]);

        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = find(&sources, Which::State).into_error(Which::State);
        assert_eq!(error.kind(), Kind::NoIdentity);
        assert_eq!(error.to_string(), "no identity at hand opens the state archive");
        assert_eq!(error.advice().unwrap(), format!("run: chmod 600 {}", path.display()));
        assert!(error.causes()[0].contains("is open to others (mode 0644)"));

        let sources = Sources { setting: "file:~/key", ..NOTHING };
        assert!(reasons(&find(&sources, Which::State))[0].contains("not absolute"));
    }

    #[test]
    fn a_source_without_an_identity_for_the_archive_says_so() {
        let opening = Opening { recipient: "age1x".into(), identities: IDENTITY.into() };
        let kit = Kit { state: Some(opening), ..Kit::default() };
        let sources = || Sources { env: Some(kit.render()), ..NOTHING };
        assert_eq!(names(&find(&sources(), Which::State)).len(), 1);
        let found = find(&sources(), Which::Secrets);
        assert_eq!(reasons(&found), ["$LIFEBOAT_IDENTITY: the key text holds no identity for the secrets bundle"]);
        assert_eq!(found.into_error(Which::Secrets).kind(), Kind::NoIdentity);
    }

    #[test]
    fn reasons_do_not_repeat_secrets() {
        let hidden = "AGE-SECRET-KEY-1HUNTER2";
        let cases = [
            Sources { env: Some(hidden.into()), ..NOTHING },
            Sources { setting: hidden, ..NOTHING },
            Sources { setting: "command:echo AGE-SECRET-KEY-1HUNTER2", ..NOTHING },
            Sources { setting: "command:echo AGE-SECRET-KEY-1HUNTER2 >&2; exit 1", ..NOTHING },
            Sources { setting: "none", ..NOTHING },
        ];
        for sources in cases {
            let found = find(&sources, Which::State);
            assert!(found.texts.is_empty());
            assert_eq!(found.tried.len(), 1);
            let error = found.into_error(Which::State);
            assert!(!format!("{error:?}").contains("HUNTER2"), "{error:?}");
        }
        assert!(find(&NOTHING, Which::State).into_error(Which::State).advice().unwrap().contains("--identity"));
    }
}
