//! The recovery kit: the one text file that, beside the store, is all that a restore needs.

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::model::path::printable;

/// How a kit begins; wherever a copy of one lies, it stays out of the archives.
pub const KIT_MARK: &[u8] = b"# lifeboat recovery kit";

/// The first words of a kit, before its version.
const TITLE: &str = "lifeboat recovery kit";

/// The version of the kit's text that is written and read.
const VERSION: &str = "1";

/// Characters of an X25519 identity in Bech32: the prefix, a `1`, 32 bytes and a checksum.
const IDENTITY_CHARS: usize = 74;

/// Characters of an identity that a plugin understands, at most: post-quantum keys have some thousands.
const PLUGIN_IDENTITY_CHARS_MAX: usize = 16 * 1024;

/// Room for the prose of a kit: growing the buffer would leave copies of keys behind.
const RENDERED_BYTES: usize = 16 * 1024;

/// Which of a snapshot's two archives an identity opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The state archive.
    State,
    /// The secrets bundle.
    Secrets,
}

impl Which {
    /// `state` or `secrets`, as in object keys and names of credentials.
    pub fn name(self) -> &'static str {
        match self {
            Which::State => "state",
            Which::Secrets => "secrets",
        }
    }

    /// The archive, as a sentence names it.
    pub fn archive(self) -> &'static str {
        match self {
            Which::State => "the state archive",
            Which::Secrets => "the secrets bundle",
        }
    }
}

/// An archive's recipient, and the identity that opens what was sealed to it.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The public half, `age1…`.
    pub recipient: String,
    /// One `AGE-SECRET-KEY-1…` line.
    pub identities: SecretString,
}

/// What a recovery kit holds. Of a plain age identity file only `loose` is filled.
#[derive(Clone, Debug, Default)]
pub struct Kit {
    /// The series it belongs to; empty if the file does not say.
    pub series: String,
    /// The URL of the store; empty if the file does not say.
    pub store: String,
    /// What opens the state archive.
    pub state: Option<Opening>,
    /// What opens the secrets bundle.
    pub secrets: Option<Opening>,
    /// The minisign public key, its base64 line.
    pub signing_public: Option<String>,
    /// Keys that signed before it, oldest first: `RW… till-seq N` each, its base64 line and the number from which on the
    /// next one signs.
    pub signing_former: Vec<String>,
    /// The minisign secret key without password, its base64 line.
    pub signing_secret: Option<SecretString>,
    /// Identities of which the file does not say what they open; they are tried on both archives.
    pub loose: Vec<SecretString>,
}

impl Kit {
    /// The identities to try on `which`, the one meant for it first.
    pub fn identities(&self, which: Which) -> Vec<&SecretString> {
        let opening = match which {
            Which::State => &self.state,
            Which::Secrets => &self.secrets,
        };
        opening.iter().map(|o| &o.identities).chain(&self.loose).collect()
    }

    /// The text of the kit: an age identity file that explains itself.
    pub fn render(&self) -> SecretString {
        let mut text = Zeroizing::new(String::with_capacity(RENDERED_BYTES));
        push(&mut text, &format!("# {TITLE} {VERSION}\n"));
        push(&mut text, ABOUT);
        push(&mut text, COSTS);
        push_value(&mut text, "series", &self.series);
        push_value(&mut text, "store", &self.store);
        push_opening(&mut text, Which::State, self.state.as_ref());
        push_opening(&mut text, Which::Secrets, self.secrets.as_ref());
        if !self.loose.is_empty() {
            push(&mut text, "\n# Further identities, tried on both archives.\n");
            for identity in &self.loose {
                push(&mut text, identity.expose_secret());
                push(&mut text, "\n");
            }
        }
        if let Some(public) = &self.signing_public {
            push(&mut text, SIGNING_PUBLIC);
            for former in &self.signing_former {
                push_value(&mut text, "signing-former", former);
            }
            push_value(&mut text, "signing-public", public);
        }
        if let Some(secret) = &self.signing_secret {
            push(&mut text, SIGNING_SECRET);
            push(&mut text, "# signing-secret: ");
            push(&mut text, secret.expose_secret());
            push(&mut text, "\n");
        }
        SecretString::from(text.as_str())
    }

    /// Reads a kit, or any age identity file. Comments it does not know are skipped.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::Kind::Failed), naming the line by its number and never by its content.
    pub fn parse(text: &str) -> Result<Kit> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if is_protected(text) {
            return Err(Error::failed("the key file is protected by a passphrase"));
        }
        let mut parser = Parser::default();
        for (i, line) in text.lines().enumerate() {
            parser.line(line.trim()).map_err(|why| Error::failed(format!("line {} of the key file {why}", i + 1)))?;
        }
        let kit = parser.kit;
        if kit.state.is_none() && kit.secrets.is_none() && kit.loose.is_empty() && kit.signing_secret.is_none() {
            return Err(Error::failed("the key file holds no identity")
                .hint("an identity is a line that starts with AGE-SECRET-KEY-1"));
        }
        Ok(kit)
    }
}

/// Whether `text` is a key file that age encrypted, so that it needs a passphrase before it can be parsed.
pub fn is_protected(text: &str) -> bool {
    let start = text.trim_start();
    start.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") || start.starts_with("age-encryption.org/")
}

const ABOUT: &str = "\
#
# This file opens backups made by lifeboat. To get everything back you need this file
# and a way to read the store with the backups, and nothing else: not the old machine.
#
#     lifeboat restore --identity FILE
#
# where FILE is this file. It also works without lifeboat: this is an identity file of age
# (age -d -i FILE), and the store holds RECOVERY.md and recover.sh, which say and do the rest.
";

const COSTS: &str = "\
#
# If you lose it, and no identity is left on the machine that was backed up, the backups are
# gone: nobody can open them, and there is no second way in.
#
# If you keep it beside the store, whoever gets into the store reads everything, API keys
# and passwords included, as if nothing had been encrypted.
#
# If you keep it only on the machine that is backed up, you lose it together with that
# machine, which is when you need it; and whoever breaks into the machine has it.
#
# So keep two copies in two places that are neither the store nor that machine, such as a
# password manager and a printed page. Whoever holds a copy can do all that it can do.
#
";

const SIGNING_PUBLIC: &str = "
# The next lines tell backups that your machine signed from what somebody else put on the
# store (minisign -V -P). They are not secret. A former key counts for what is older only.
";

const SIGNING_SECRET: &str = "
# With the next line a replacement machine continues the series: it signs new backups. It
# opens nothing.
";

fn push(text: &mut Zeroizing<String>, more: &str) {
    // Strings that grow leave their old bytes behind, so growth goes through a buffer that is wiped.
    if text.capacity() - text.len() < more.len() {
        let mut larger = Zeroizing::new(String::with_capacity((text.len() + more.len()) * 2));
        larger.push_str(text);
        *text = larger;
    }
    text.push_str(more);
}

/// A `# name: value` line. Control characters are escaped, so that no value can add a line of its own.
fn push_value(text: &mut Zeroizing<String>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    push(text, &format!("# {name}: {}\n", printable(value.as_bytes())));
}

fn push_opening(text: &mut Zeroizing<String>, which: Which, opening: Option<&Opening>) {
    let Some(opening) = opening else {
        push(text, &format!("\n# This kit holds nothing that opens {}.\n", which.archive()));
        return;
    };
    let what = match which {
        Which::State => "conversations, memories, databases, configuration, projects",
        Which::Secrets => "API keys, passwords, private keys",
    };
    push(text, &format!("\n# The identity below opens {}:\n# {what}.\n", which.archive()));
    push_value(text, &format!("{}-recipient", which.name()), &opening.recipient);
    push(text, opening.identities.expose_secret());
    push(text, "\n");
}

#[derive(Default)]
struct Parser {
    kit: Kit,
    /// The `…-recipient` comment that waits for its identity.
    next: Option<(Which, String)>,
}

impl Parser {
    /// One trimmed line; the error completes the sentence "line 7 of the key file …".
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            Ok(())
        } else if let Some(comment) = line.strip_prefix('#') {
            self.comment(comment.trim())
        } else {
            self.identity(line)
        }
    }

    fn comment(&mut self, comment: &str) -> Result<(), String> {
        if let Some(version) = comment.strip_prefix(TITLE) {
            return match version.trim() {
                VERSION => Ok(()),
                _ => Err("announces a kit of another version than 1, which this lifeboat does not read".into()),
            };
        }
        let Some((name, value)) = comment.split_once(':') else { return Ok(()) };
        let (name, value) = (name.trim_end(), value.trim());
        match name {
            "series" => set_text(&mut self.kit.series, name, value),
            "store" => set_text(&mut self.kit.store, name, value),
            "signing-public" => set_text(self.kit.signing_public.get_or_insert_default(), name, value),
            "signing-former" => {
                let mut line = String::new();
                set_text(&mut line, name, value)?;
                if !self.kit.signing_former.contains(&line) {
                    self.kit.signing_former.push(line);
                }
                Ok(())
            }
            "signing-secret" => match &self.kit.signing_secret {
                Some(old) if old.expose_secret() != value => Err(second(name)),
                _ => {
                    self.kit.signing_secret = Some(SecretString::from(value));
                    Ok(())
                }
            },
            "state-recipient" => self.recipient(Which::State, value),
            "secrets-recipient" => self.recipient(Which::Secrets, value),
            _ => Ok(()),
        }
    }

    fn recipient(&mut self, which: Which, value: &str) -> Result<(), String> {
        if !value.starts_with("age1") {
            return Err("should name a recipient, which starts with age1".into());
        }
        self.next = Some((which, value.to_owned()));
        Ok(())
    }

    fn identity(&mut self, line: &str) -> Result<(), String> {
        check_identity(line)?;
        let identities = SecretString::from(line);
        match self.next.take() {
            Some((Which::State, recipient)) if self.kit.state.is_none() => {
                self.kit.state = Some(Opening { recipient, identities });
            }
            Some((Which::Secrets, recipient)) if self.kit.secrets.is_none() => {
                self.kit.secrets = Some(Opening { recipient, identities });
            }
            _ => self.kit.loose.push(identities),
        }
        Ok(())
    }
}

fn set_text(field: &mut String, name: &str, value: &str) -> Result<(), String> {
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err(format!("has no usable value for `{name}`"));
    }
    if !field.is_empty() && field != value {
        return Err(second(name));
    }
    *field = value.to_owned();
    Ok(())
}

fn second(name: &str) -> String {
    format!("gives a second, different value for `{name}`; two kits in one file are not understood")
}

/// The shape of an identity; whether its checksum holds is found out by age. Common mix-ups get their own words.
fn check_identity(line: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(why.to_owned());
    if line.starts_with("AGE-SECRET-KEY-1") {
        if line.len() == IDENTITY_CHARS
            && line.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-')
        {
            return Ok(());
        }
        return Err(format!("is not a whole identity: it should be {IDENTITY_CHARS} capitals and digits"));
    }
    if line.starts_with("AGE-PLUGIN-") {
        let shape = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b"+-._".contains(&b);
        if line.len() <= PLUGIN_IDENTITY_CHARS_MAX && line.bytes().all(shape) {
            return Ok(());
        }
        return refuse("is not a whole identity of a plugin: it should be capitals and digits");
    }
    if line.starts_with("AGE-SECRET-KEY-") {
        return refuse("holds an identity of a kind that is not supported yet");
    }
    if line.starts_with("age1") {
        return refuse("holds a recipient, which seals but does not open; the identity is needed");
    }
    if line.starts_with("-----BEGIN") {
        return refuse("starts a private key of another kind than age's");
    }
    refuse("is neither a comment nor an age identity")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    // Made for these tests and published with them: never to be used.
    const STATE: &str = "AGE-SECRET-KEY-1XCPZX55CWKM5L2T297F3ZA3N26Z0D5KMVGPUD959XHX5VPA7UJFQ44XR0G";
    const SECRETS: &str = "AGE-SECRET-KEY-1AHDEENZJAVE03K458NKNUJYDCSCNRM9FSC8A0TGCJE00RT2NXMMQXKHPW0";
    const STATE_RECIPIENT: &str = "age1s7xyqzjxpwdtjlw57rvn589vl9pfadcdgwtkxr4cs3u6wg6qvuqq7trcm6";
    const SECRETS_RECIPIENT: &str = "age1s3sygefsu8v9g5wqsk5wzcf87qjfujsu6802843665kpjxayyacq57zly8";

    fn kit() -> Kit {
        Kit {
            series: "vm1".into(),
            store: "s3://bucket/prefix".into(),
            state: Some(Opening { recipient: STATE_RECIPIENT.into(), identities: STATE.into() }),
            secrets: Some(Opening { recipient: SECRETS_RECIPIENT.into(), identities: SECRETS.into() }),
            signing_public: Some("RWTWQFXJ".into()),
            signing_former: vec!["RWfirst till-seq 5".into(), "RWsecond till-seq 9".into()],
            signing_secret: Some("RWQAAEIy".into()),
            loose: Vec::new(),
        }
    }

    fn exposed(kit: &Kit, which: Which) -> Vec<String> {
        kit.identities(which).iter().map(|s| s.expose_secret().to_owned()).collect()
    }

    fn message(text: &str) -> String {
        Kit::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        let text = kit().render();
        let read = Kit::parse(text.expose_secret()).unwrap();
        assert_eq!((read.series.as_str(), read.store.as_str()), ("vm1", "s3://bucket/prefix"));
        assert_eq!(read.state.as_ref().unwrap().recipient, STATE_RECIPIENT);
        assert_eq!(read.secrets.as_ref().unwrap().recipient, SECRETS_RECIPIENT);
        assert_eq!(exposed(&read, Which::State), [STATE]);
        assert_eq!(exposed(&read, Which::Secrets), [SECRETS]);
        assert_eq!(read.signing_public.as_deref(), Some("RWTWQFXJ"));
        assert_eq!(read.signing_former, ["RWfirst till-seq 5", "RWsecond till-seq 9"]);
        assert_eq!(read.signing_secret.as_ref().unwrap().expose_secret(), "RWQAAEIy");
        assert!(read.loose.is_empty());
        assert_eq!(read.render().expose_secret(), text.expose_secret());
        assert!(text.expose_secret().as_bytes().starts_with(KIT_MARK));
    }

    #[test]
    fn every_line_but_the_identities_is_a_comment_for_age() {
        let text = kit().render();
        for line in text.expose_secret().lines() {
            assert!(line.is_empty() || line.starts_with('#') || line == STATE || line == SECRETS, "{line}");
            assert!(line.len() < 300, "{line}");
        }
    }

    #[test]
    fn an_identity_of_a_plugin_is_tried_on_both() {
        let read = Kit::parse(&format!("# touch it\nAGE-PLUGIN-YUBIKEY-1QQPQ\n{STATE}\n")).unwrap();
        assert_eq!(exposed(&read, Which::Secrets), ["AGE-PLUGIN-YUBIKEY-1QQPQ", STATE]);
        assert_eq!(Kit::parse(read.render().expose_secret()).unwrap().loose.len(), 2);
    }

    #[test]
    fn a_value_cannot_add_a_line() {
        let mut evil = kit();
        evil.store = format!("s3://x\n# signing-public: RWevil\n{SECRETS}");
        let read = Kit::parse(evil.render().expose_secret()).unwrap();
        assert_eq!(read.signing_public.as_deref(), Some("RWTWQFXJ"));
        assert!(read.loose.is_empty());
    }

    #[test]
    fn long_kits_are_not_cut() {
        let mut long = kit();
        long.loose = vec![SecretString::from(STATE); 1000];
        assert_eq!(Kit::parse(long.render().expose_secret()).unwrap().loose.len(), 1000);
    }

    #[test]
    fn a_plain_identity_file_counts_for_both_archives() {
        let text = format!("\u{feff}# created: 2026-11-21\r\n# public key: age1x\r\n\r\n{STATE}\r\n  {SECRETS}  ");
        let read = Kit::parse(&text).unwrap();
        assert!(read.series.is_empty() && read.store.is_empty() && read.state.is_none() && read.secrets.is_none());
        assert_eq!(exposed(&read, Which::State), [STATE, SECRETS]);
        assert_eq!(exposed(&read, Which::Secrets), [STATE, SECRETS]);
    }

    #[test]
    fn half_a_kit_opens_half() {
        let mut half = kit();
        half.secrets = None;
        let read = Kit::parse(half.render().expose_secret()).unwrap();
        assert_eq!(exposed(&read, Which::State), [STATE]);
        assert!(read.identities(Which::Secrets).is_empty());
    }

    #[test]
    fn errors_name_the_line_and_never_its_content() {
        let cut = &STATE[..60];
        let cases = [
            (format!("# x\n{cut}\n"), "line 2 of the key file is not a whole identity"),
            (format!("\n\n{}", STATE.to_lowercase()), "line 3 of the key file is neither"),
            (STATE_RECIPIENT.into(), "line 1 of the key file holds a recipient"),
            ("AGE-SECRET-KEY-PQ-1XX".into(), "line 1 of the key file holds an identity of a kind"),
            ("AGE-PLUGIN-YUBIKEY-1xx".into(), "line 1 of the key file is not a whole identity of a plugin"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----".into(), "line 1 of the key file starts a private key"),
            ("# lifeboat recovery kit 2".into(), "line 1 of the key file announces"),
            ("# series: a\n# series: b".into(), "line 2 of the key file gives a second"),
            ("# state-recipient: hunter2".into(), "line 1 of the key file should name a recipient"),
            ("# signing-secret: a\n# signing-secret: hunter2".into(), "line 2 of the key file gives a second"),
            ("-----BEGIN AGE ENCRYPTED FILE-----\nhunter2".into(), "the key file is protected"),
            ("# nothing".into(), "the key file holds no identity"),
            (String::new(), "the key file holds no identity"),
        ];
        for (text, expected) in cases {
            let message = message(&text);
            assert!(message.starts_with(expected), "{message}");
            assert!(!message.contains("hunter2") && !message.contains(&cut[20..30]), "{message}");
        }
    }

    #[test]
    fn debug_output_is_blind() {
        let text = format!("{:?}", Kit { loose: vec![STATE.into()], ..kit() });
        for secret in [STATE, SECRETS, "RWQAAEIy"] {
            assert!(!text.contains(secret));
        }
    }

    #[test]
    fn the_example_in_the_tree_is_a_kit() {
        let read = Kit::parse(include_str!("../../keys.example")).unwrap();
        assert_eq!(read.series, "example");
        assert!(read.state.is_some() && read.secrets.is_some() && read.loose.is_empty());
        assert!(read.signing_public.is_some() && read.signing_secret.is_some());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_and_nothing_leaks(text in "(#? ?(series|store|state-recipient|signing-secret|x)?:? ?[A-Za-z0-9#:\\- é]{0,90}\r?\n){0,8}") {
            if let Err(e) = Kit::parse(&text) {
                for line in text.lines().map(str::trim).filter(|l| l.len() > 12) {
                    proptest::prop_assert!(!e.to_string().contains(line));
                }
            }
        }
    }
}
