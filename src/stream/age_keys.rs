//! age's keys: recipients to seal to, identities to open with, and texts under a passphrase.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::Arc;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::{DecryptError, Decryptor, EncryptError, Encryptor, scrypt, tag, tagpq, x25519};
use age_core::format::{FileKey, Stanza};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::plugin::{self, Plugins};
use crate::error::{Error, Kind, Result};
use crate::model::path::printable;

/// scrypt's N is 2^18, as in stock age: about a second, and 256 MiB of memory.
const WORK_FACTOR: u8 = 18;

/// The most work that is done for a file that asks for it: 4 s and 1 GiB.
const WORK_FACTOR_MAX: u8 = 20;

/// The largest text under a passphrase that is looked at, in bytes. Kits have a few thousand; age's parser
/// starts from the beginning of the header with every line, so its input must be bounded.
const PROTECTED_BYTES_MAX: usize = 256 * 1024;

/// Bytes of the canary in [`prove`].
const CANARY_BYTES: usize = 32;

/// A new pair: the recipient, and the identity that opens what is sealed to it.
pub fn generate() -> (String, SecretString) {
    let identity = x25519::Identity::generate();
    (identity.to_public().to_string(), identity.to_string())
}

/// The recipient of an identity; `None` where only a plugin knows it.
///
/// # Errors
/// If it is no identity. Its text never stands in the message.
pub fn recipient_of(identity: &SecretString) -> Result<Option<String>> {
    match parse_identity(identity)? {
        Identity::X25519(identity) => Ok(Some(identity.to_public().to_string())),
        Identity::Plugin { .. } => Ok(None),
    }
}

/// Whom an archive is sealed to. Never empty.
#[derive(Clone, Debug)]
pub struct Recipients(Vec<Recipient>);

/// One of them.
#[derive(Clone)]
enum Recipient {
    X25519(x25519::Recipient),
    /// A key in hardware, such as a YubiKey's or a Secure Enclave's, that is sealed to without its plugin.
    Tag(Arc<tag::Recipient>),
    /// The same, safe against quantum computers.
    TagPq(Arc<tagpq::Recipient>),
    /// What only a plugin knows to seal to.
    Plugin {
        text: String,
        plugins: Option<Arc<dyn Plugins>>,
    },
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Recipient::X25519(recipient) => recipient.fmt(f),
            Recipient::Tag(recipient) => recipient.fmt(f),
            Recipient::TagPq(recipient) => recipient.fmt(f),
            Recipient::Plugin { text, .. } => f.write_str(text),
        }
    }
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl age::Recipient for Recipient {
    fn wrap_file_key(&self, key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        match self {
            Recipient::X25519(recipient) => recipient.wrap_file_key(key),
            Recipient::Tag(recipient) => recipient.wrap_file_key(key),
            Recipient::TagPq(recipient) => recipient.wrap_file_key(key),
            Recipient::Plugin { text, plugins } => {
                let plugins =
                    plugins.as_deref().ok_or_else(|| EncryptError::Io(std::io::Error::other(no_plugins())))?;
                let wrapped = plugin::wrap(plugins, text, key);
                wrapped
                    .map(|(s, l)| (s, l.into_iter().collect()))
                    .map_err(|e| EncryptError::Io(std::io::Error::other(e)))
            }
        }
    }
}

fn no_plugins() -> Error {
    Error::failed("plugins of age are not started here")
}

impl Recipients {
    /// Reads the recipients of a configuration. Those of plugins can be sealed to after [`Recipients::with`].
    ///
    /// # Errors
    /// If there is none, or one that cannot be sealed to.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        if texts.is_empty() {
            return Err(Error::failed("there is no recipient to seal to"));
        }
        Ok(Recipients(texts.iter().map(|t| parse_recipient(t.as_ref().trim())).collect::<Result<_>>()?))
    }

    /// The same, where plugins can be started.
    ///
    /// # Errors
    /// When one that is needed is not installed.
    pub fn with(mut self, plugins: &Arc<dyn Plugins>) -> Result<Self> {
        for recipient in &mut self.0 {
            if let Recipient::Plugin { text, plugins: own } = recipient {
                plugins.find(&plugin::name_of(text).unwrap_or_default()).map_err(|e| {
                    let hint = e.advice().unwrap_or_default().to_owned();
                    Error::new(e.kind(), format!("nothing can be sealed to {}: {e}", printable(text.as_bytes())))
                        .hint(hint)
                })?;
                *own = Some(Arc::clone(plugins));
            }
        }
        Ok(self)
    }

    /// For [`Encryptor::with_recipients`].
    pub fn iter(&self) -> impl Iterator<Item = &dyn age::Recipient> {
        self.0.iter().map(|r| r as &dyn age::Recipient)
    }

    /// The recipients as text, as a manifest lists them.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

fn parse_recipient(text: &str) -> Result<Recipient> {
    let upper = text.to_ascii_uppercase();
    if upper.starts_with("AGE-SECRET-KEY-") || upper.starts_with("AGE-PLUGIN-") {
        return Err(Error::failed("an identity stands where a recipient belongs")
            .hint("recipients start with age1; whoever could read the identity can open the archive: make new keys"));
    }
    if text.starts_with("ssh-") {
        return Err(Error::failed("ssh keys are not supported as recipients"));
    }
    let why = match text.parse() {
        Ok(recipient) => return Ok(Recipient::X25519(recipient)),
        Err(why) => why,
    };
    let tags = text
        .parse()
        .map(|r| Recipient::Tag(Arc::new(r)))
        .or_else(|_: &str| text.parse().map(|r| Recipient::TagPq(Arc::new(r))));
    tags.or_else(|_: &str| match plugin::name_of(text).filter(|name| !name.starts_with("tag")) {
        Some(_) => Ok(Recipient::Plugin { text: text.to_owned(), plugins: None }),
        None => Err(Error::failed(format!("not an age recipient: {}", printable(text.as_bytes()))).because(why)),
    })
}

/// What opens archives. Never empty.
#[derive(Clone)]
pub struct Identities(Vec<Identity>);

/// One of them.
#[derive(Clone)]
enum Identity {
    X25519(x25519::Identity),
    /// What only a plugin knows to use.
    Plugin {
        text: SecretString,
        plugins: Option<Arc<dyn Plugins>>,
    },
}

impl age::Identity for Identity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.unwrap_stanzas(std::slice::from_ref(stanza))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        match self {
            Identity::X25519(identity) => identity.unwrap_stanzas(stanzas),
            Identity::Plugin { text, plugins } => {
                let plugins = plugins.as_deref().ok_or_else(no_plugins);
                let found = plugins.and_then(|plugins| plugin::unwrap(plugins, text, stanzas));
                found.map_err(|e| DecryptError::Io(std::io::Error::other(e))).transpose()
            }
        }
    }
}

impl Identities {
    /// Reads identities, one `AGE-SECRET-KEY-1…` or `AGE-PLUGIN-…` line per text. Those of plugins are of use after
    /// [`Identities::with`].
    ///
    /// # Errors
    /// [`Kind::NoIdentity`] if there is none; else about the first that is damaged, without its text.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a SecretString>) -> Result<Self> {
        let mut identities: Vec<_> = texts.into_iter().map(parse_identity).collect::<Result<_>>()?;
        if identities.is_empty() {
            return Err(Error::new(Kind::NoIdentity, "there is no identity to open with"));
        }
        // A plugin may ask somebody to touch something, which is only worth it where nothing else opens.
        identities.sort_by_key(|identity| matches!(identity, Identity::Plugin { .. }));
        Ok(Identities(identities))
    }

    /// The same, where plugins can be started. One that is not installed is told once it is needed.
    pub fn with(mut self, plugins: &Arc<dyn Plugins>) -> Self {
        for identity in &mut self.0 {
            if let Identity::Plugin { plugins: own, .. } = identity {
                *own = Some(Arc::clone(plugins));
            }
        }
        self
    }

    /// For [`Decryptor::decrypt`].
    pub fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|i| i as &dyn age::Identity)
    }
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

fn parse_identity(text: &SecretString) -> Result<Identity> {
    let shown = text.expose_secret().trim();
    if shown.starts_with("AGE-PLUGIN-") && plugin::name_of(shown).is_some() {
        return Ok(Identity::Plugin { text: SecretString::from(shown), plugins: None });
    }
    x25519_identity(text).map(Identity::X25519)
}

fn x25519_identity(text: &SecretString) -> Result<x25519::Identity> {
    let text = text.expose_secret().trim();
    text.parse().map_err(|why: &str| Error::failed("an age identity is damaged or of an unsupported kind").because(why))
}

/// Proves that `identities` open what is sealed to `recipients`, by doing it.
///
/// # Errors
/// If they do not.
pub fn prove(recipients: &Recipients, identities: &Identities) -> Result<()> {
    let mut canary = [0; CANARY_BYTES];
    getrandom::fill(&mut canary).map_err(|e| Error::failed("there is no randomness").because(e.to_string()))?;
    let fail = || Error::failed("the identity does not open what is sealed to the recipient");
    // A plugin says what is wrong, and what to do.
    let opened = |e: DecryptError| match e {
        DecryptError::Io(e) => e.downcast::<Error>().unwrap_or_else(|e| fail().because(e)),
        e => fail().because(e),
    };
    let encryptor = encryptor(recipients)?;
    let mut sealed = Vec::new();
    write_all(encryptor, &mut sealed, &canary).map_err(|e| fail().because(e))?;
    let decryptor = Decryptor::new_buffered(&sealed[..]).map_err(|e| fail().because(e))?;
    let mut reader = decryptor.decrypt(identities.iter()).map_err(opened)?;
    let mut opened = Vec::new();
    reader.read_to_end(&mut opened).map_err(|e| fail().because(e))?;
    if opened != canary {
        return Err(fail());
    }
    Ok(())
}

/// What seals to these recipients.
///
/// # Errors
/// When they cannot stand together, or a plugin fails.
pub(super) fn encryptor(recipients: &Recipients) -> Result<Encryptor> {
    Encryptor::with_recipients(recipients.iter()).map_err(|e| match e {
        EncryptError::Io(e) => {
            e.downcast::<Error>().unwrap_or_else(|e| Error::failed("cannot encrypt to these recipients").because(e))
        }
        e => Error::failed("cannot encrypt to these recipients").because(e),
    })
}

fn write_all(encryptor: Encryptor, out: impl Write, data: &[u8]) -> std::io::Result<()> {
    let mut writer = encryptor.wrap_output(out)?;
    writer.write_all(data)?;
    writer.finish()?;
    Ok(())
}

/// Seals a text, such as a kit, with a passphrase, so that stock `age -d` and `age -i` ask for it.
///
/// # Errors
/// If the passphrase is empty or the text too long.
pub fn encrypt_with_passphrase(text: &SecretString, passphrase: &SecretString) -> Result<Vec<u8>> {
    encrypt_with_work(text, passphrase, WORK_FACTOR)
}

fn encrypt_with_work(text: &SecretString, passphrase: &SecretString, work_factor: u8) -> Result<Vec<u8>> {
    let text = text.expose_secret().as_bytes();
    if passphrase.expose_secret().is_empty() {
        return Err(Error::failed("the passphrase is empty"));
    }
    // Armor takes a third more; what is written must be read again.
    if text.len() > PROTECTED_BYTES_MAX / 2 {
        return Err(Error::failed("the text to protect with a passphrase is too long"));
    }
    let fail = |e: std::io::Error| Error::failed("cannot protect the text with a passphrase").because(e);
    let mut recipient = scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(work_factor);
    let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
        .map_err(|e| Error::failed("cannot protect the text with a passphrase").because(e))?;
    let mut out = Vec::new();
    let mut armor = ArmoredWriter::wrap_output(&mut out, Format::AsciiArmor).map_err(fail)?;
    write_all(encryptor, &mut armor, text).map_err(fail)?;
    armor.finish().map_err(fail)?;
    Ok(out)
}

/// Opens a text that age sealed with a passphrase, armored or not.
///
/// # Errors
/// [`Kind::NoIdentity`] if the passphrase is wrong; [`Kind::Failed`] if it is no such text.
pub fn decrypt_with_passphrase(bytes: &[u8], passphrase: &SecretString) -> Result<SecretString> {
    let decryptor = protected(bytes).ok_or_else(|| Error::failed("not a text protected by a passphrase"))?;
    let mut identity = scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(WORK_FACTOR_MAX);
    let mut reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(passphrase_error)?;
    // The plaintext is shorter than its seal, so this buffer never grows and leaves nothing behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(bytes.len()));
    reader
        .read_to_end(&mut plain)
        .map_err(|e| Error::failed("the text protected by a passphrase is damaged").because(e))?;
    let text = std::str::from_utf8(&plain).map_err(|_| Error::failed("what the passphrase protects is not a text"))?;
    Ok(SecretString::from(text))
}

/// Whether `bytes` are a text that age sealed with a passphrase.
pub fn is_passphrase_protected(bytes: &[u8]) -> bool {
    protected(bytes).is_some()
}

fn protected(bytes: &[u8]) -> Option<Decryptor<ArmoredReader<std::io::BufReader<&[u8]>>>> {
    if bytes.len() > PROTECTED_BYTES_MAX {
        return None;
    }
    Decryptor::new_buffered(ArmoredReader::new(bytes)).ok().filter(Decryptor::is_scrypt)
}

fn passphrase_error(e: DecryptError) -> Error {
    match e {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed | DecryptError::NoMatchingKeys => {
            Error::new(Kind::NoIdentity, "the passphrase is wrong")
        }
        // Never printed as it is: age's message shifts by a difference that a made-up factor takes out of range.
        DecryptError::ExcessiveWork { .. } => Error::failed("the passphrase was made to need too much work")
            .hint("open the file with `age -d`, which may allow more, and use what it prints"),
        e => Error::failed("the text protected by a passphrase is damaged").because(e),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Little work: what is tested does not depend on it.
    fn protect(text: &str, passphrase: &str) -> Vec<u8> {
        encrypt_with_work(&text.into(), &passphrase.into(), 2).unwrap()
    }

    #[test]
    fn a_new_identity_opens_what_its_recipient_seals() {
        let (recipient, identity) = generate();
        let (other, other_identity) = generate();
        assert_eq!(recipient_of(&identity).unwrap().as_ref(), Some(&recipient));
        let recipients = Recipients::parse(&[recipient.clone(), other]).unwrap();
        let identities = Identities::parse([&identity]).unwrap();
        prove(&recipients, &identities).unwrap();
        let own = Recipients::parse(&[&recipient]).unwrap();
        assert_eq!(own.texts(), [recipient]);
        assert!(prove(&own, &Identities::parse([&other_identity]).unwrap()).is_err());
        assert_eq!(format!("{identities:?}"), "Identities(1)");
    }

    #[test]
    fn recipients_that_cannot_be_sealed_to_are_named() {
        let (good, identity) = generate();
        let cases = [
            ("age1tag1qqq", "not an age recipient"),
            ("age1../x1qqq", "not an age recipient"),
            ("ssh-ed25519 AAAA", "ssh keys are not supported"),
            ("age1qqq", "not an age recipient: age1qqq"),
            ("", "not an age recipient"),
            (&good[..40], "not an age recipient"),
        ];
        for (text, expected) in cases {
            let message = Recipients::parse(&[text]).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
        assert!(Recipients::parse::<String>(&[]).is_err());
        for secret in [identity.expose_secret().to_owned(), identity.expose_secret().to_lowercase()] {
            let error = Recipients::parse(&[good.clone(), secret.clone()]).unwrap_err();
            assert_eq!(error.to_string(), "an identity stands where a recipient belongs");
            assert!(!format!("{error:?}").contains(&secret[20..]));
        }
    }

    #[test]
    fn keys_in_hardware_are_sealed_to_without_a_plugin_and_others_need_theirs() {
        // From age's own tests of the two kinds.
        let native = ["age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4e"];
        let recipients = Recipients::parse(&native).unwrap();
        assert_eq!(recipients.texts(), native);
        let mut sealed = Vec::new();
        write_all(encryptor(&recipients).unwrap(), &mut sealed, b"x").unwrap();
        assert!(sealed.windows(10).any(|w| w == b"-> p256tag"));
        let other = "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t";
        let recipients = Recipients::parse(&[other]).unwrap();
        assert_eq!(recipients.texts(), [other]);
        assert!(encryptor(&recipients).err().unwrap().to_string().contains("are not started here"));
    }

    #[test]
    fn broken_identities_are_refused_without_being_quoted() {
        let (recipient, identity) = generate();
        let text = identity.expose_secret();
        for bad in [&text[..50], "", "AGE-PLUGIN-../X-1QQ", &recipient] {
            let error = Identities::parse([&SecretString::from(bad)]).unwrap_err();
            assert!(bad.is_empty() || !format!("{error:?}").contains(bad));
        }
        assert_eq!(Identities::parse([]).unwrap_err().kind(), Kind::NoIdentity);
    }

    #[test]
    fn a_passphrase_protects_a_text() {
        let sealed = protect("# kit\nsecret\n", "correct horse");
        assert!(sealed.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----\n"));
        assert!(is_passphrase_protected(&sealed));
        let opened = decrypt_with_passphrase(&sealed, &"correct horse".into()).unwrap();
        assert_eq!(opened.expose_secret(), "# kit\nsecret\n");
        let error = decrypt_with_passphrase(&sealed, &"battery".into()).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::NoIdentity, "the passphrase is wrong"));
        assert!(encrypt_with_passphrase(&"x".into(), &"".into()).is_err());
    }

    #[test]
    fn too_much_work_is_refused() {
        let sealed = protect("x", "y");
        let mut binary = Vec::new();
        ArmoredReader::new(&sealed[..]).read_to_end(&mut binary).unwrap();
        for factor in ["21", "63", "200", "0"] {
            let text = String::from_utf8_lossy(&binary).into_owned();
            let line = text.lines().nth(1).unwrap();
            let salt = line.rsplit_once(' ').unwrap().0;
            let at = line.len() + text.find(line).unwrap();
            let start = at - line.len();
            let mut evil = binary[..start].to_vec();
            evil.extend_from_slice(format!("{salt} {factor}").as_bytes());
            evil.extend_from_slice(&binary[at..]);
            let error = decrypt_with_passphrase(&evil, &"y".into()).unwrap_err();
            assert_eq!(error.kind(), Kind::Failed);
            if factor != "0" {
                assert!(error.to_string().contains("too much work"), "{error}");
            }
        }
    }

    #[test]
    fn other_texts_are_not_protected() {
        let (recipient, identity) = generate();
        let mut sealed = Vec::new();
        let recipients = Recipients::parse(&[recipient]).unwrap();
        write_all(Encryptor::with_recipients(recipients.iter()).unwrap(), &mut sealed, b"x").unwrap();
        for bytes in [&sealed[..], b"", b"#", identity.expose_secret().as_bytes(), &vec![b'#'; 1 << 20]] {
            assert!(!is_passphrase_protected(bytes));
            assert_eq!(decrypt_with_passphrase(bytes, &"y".into()).unwrap_err().kind(), Kind::Failed);
        }
    }

    proptest! {
        #[test]
        fn damaged_protected_texts_fail_without_panic(at in 0usize..400, to in any::<u8>(), cut in 0usize..500) {
            // Its work is 2^2, so that the factor may be changed to at most 2^9.
            let mut sealed = protect("# kit\nsecret\n", "p");
            if at < sealed.len() {
                sealed[at] = to;
            }
            sealed.truncate(cut);
            let _known = is_passphrase_protected(&sealed);
            if let Ok(text) = decrypt_with_passphrase(&sealed, &"p".into()) {
                prop_assert_eq!(text.expose_secret(), "# kit\nsecret\n");
            }
        }
    }
}
