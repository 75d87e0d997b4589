//! The client's side of age's plugin protocol (C2SP age-plugin), over a plugin's standard input and output.
//!
//! Ours, as the age crate's starts the process itself: without a deadline, with all of our environment, and with a
//! variable that has it print file keys.

use std::io::{BufRead, Error as IoError, Read as _, Result as IoResult, Write};

use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza, is_arbitrary_string};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{Error, Result};
use crate::model::path::printable;

/// Characters of base64 in a line of a stanza.
const COLUMNS: usize = 64;
/// The longest line that is read of a plugin.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// The most that a plugin may say before it is done, in bytes.
const BYTES_MAX: usize = 4 << 20;
/// What a stanza counts beside its content, in bytes.
const STANZA_BYTES: usize = 256;
/// Characters of a plugin's message that are shown.
const MESSAGE_CHARS_MAX: usize = 300;

/// What a plugin may ask for while it works: starting it, and the person before the screen.
pub trait Plugins: Send + Sync {
    /// Whether `age-plugin-NAME` is installed.
    ///
    /// # Errors
    /// When it is not, with a hint.
    fn find(&self, name: &str) -> Result<()>;

    /// Starts `age-plugin-NAME --age-plugin=MACHINE`, has `talk` speak with it, and ends it, at the latest after a deadline.
    ///
    /// # Errors
    /// When it cannot be started or is not done in time, and what `talk` gives.
    fn converse(&self, name: &str, machine: &str, talk: &mut Talk<'_>) -> Result<()>;

    /// Shows a message of a plugin, such as that its key is to be touched. Where nobody is, nothing happens.
    fn show(&self, message: &str);

    /// Asks for a PIN or the like, `secret` if it is not to be seen; `None` where nobody can be asked.
    fn ask(&self, message: &str, secret: bool) -> Option<SecretString>;
}

/// Speaks with a plugin: reads what it writes, and writes what it reads.
pub type Talk<'a> = dyn FnMut(&mut dyn BufRead, &mut dyn Write) -> Result<()> + 'a;

/// The name of the plugin that makes a recipient (`age1NAME1…`) or identity (`AGE-PLUGIN-NAME-1…`) useful, if `text` is
/// one in shape.
pub fn name_of(text: &str) -> Option<String> {
    let head = text.rsplit_once('1')?.0;
    let name = match head.strip_prefix("AGE-PLUGIN-") {
        Some(name) => name.strip_suffix('-')?.to_ascii_lowercase(),
        None => head.strip_prefix("age1")?.to_owned(),
    };
    // It becomes part of the name of a program, so nothing that leads elsewhere is a name.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'_');
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

/// Has a plugin wrap a file key for a recipient. Gives the stanzas, and the labels that say what they may stand beside.
///
/// # Errors
/// When the plugin fails or says something that is not of the protocol.
pub fn wrap(plugins: &dyn Plugins, recipient: &str, key: &FileKey) -> Result<(Vec<Stanza>, Vec<String>)> {
    let name = name_of(recipient).ok_or_else(|| Error::failed("not a plugin's recipient"))?;
    let (mut stanzas, mut labels) = (Vec::new(), Vec::new());
    plugins.converse(&name, "recipient-v1", &mut |from, to| {
        send(to, "add-recipient", &[recipient], &[])?;
        send(to, "extension-labels", &[], &[])?;
        send(to, "wrap-file-key", &[], key.expose_secret())?;
        send(to, "done", &[], &[])?;
        hear(plugins, &name, from, to, &mut |said| match said.tag.as_str() {
            "recipient-stanza" => {
                let (tag, args) = match &said.args[..] {
                    [file, tag, args @ ..] if file == "0" => (tag.clone(), args.to_vec()),
                    _ => return Err(nonsense(&name)),
                };
                stanzas.push(Stanza { tag, args, body: said.body.clone() });
                Ok(true)
            }
            "labels" => {
                labels.clone_from(&said.args);
                Ok(true)
            }
            _ => Ok(false),
        })
    })?;
    if stanzas.is_empty() {
        return Err(Error::failed(format!("age-plugin-{name} wrapped no key, and did not say why")));
    }
    Ok((stanzas, labels))
}

/// Has a plugin unwrap the file key with an identity; `None` if none of the stanzas is for it.
///
/// # Errors
/// As [`wrap`].
pub fn unwrap(plugins: &dyn Plugins, identity: &SecretString, stanzas: &[Stanza]) -> Result<Option<FileKey>> {
    let name = name_of(identity.expose_secret()).ok_or_else(|| Error::failed("not a plugin's identity"))?;
    let mut key = None;
    plugins.converse(&name, "identity-v1", &mut |from, to| {
        send(to, "add-identity", &[identity.expose_secret()], &[])?;
        for stanza in stanzas {
            let args: Vec<&str> =
                ["0", &stanza.tag].into_iter().chain(stanza.args.iter().map(String::as_str)).collect();
            send(to, "recipient-stanza", &args, &stanza.body)?;
        }
        send(to, "done", &[], &[])?;
        hear(plugins, &name, from, to, &mut |said| {
            if said.tag != "file-key" {
                return Ok(false);
            }
            let mut bytes = Box::new([0; FILE_KEY_BYTES]);
            if said.args != ["0"] || said.body.len() != FILE_KEY_BYTES {
                return Err(nonsense(&name));
            }
            bytes.copy_from_slice(&said.body);
            key.get_or_insert(FileKey::new(bytes));
            Ok(true)
        })
    })?;
    Ok(key)
}

/// Answers what a plugin says until it is done. `take` takes what the machine at hand is about.
fn hear(
    plugins: &dyn Plugins,
    name: &str,
    from: &mut dyn BufRead,
    to: &mut dyn Write,
    take: &mut dyn FnMut(&Stanza) -> Result<bool>,
) -> Result<()> {
    let (mut total, mut trouble) = (0, None);
    loop {
        let mut said = receive(from, name)?;
        // What is said in few bytes takes its room, too.
        total += STANZA_BYTES + said.body.len() + said.args.iter().map(String::len).sum::<usize>();
        if total > BYTES_MAX {
            return Err(nonsense(name));
        }
        match said.tag.as_str() {
            "done" => return trouble.map_or(Ok(()), Err),
            "msg" => {
                plugins.show(&message(name, &said.body));
                send(to, "ok", &[], &[])?;
            }
            "request-secret" | "request-public" => {
                match plugins.ask(&message(name, &said.body), said.tag == "request-secret") {
                    Some(answer) => send(to, "ok", &[], answer.expose_secret().as_bytes())?,
                    None => send(to, "fail", &[], &[])?,
                }
            }
            "confirm" => match confirmed(plugins, name, &said) {
                Some(yes) => send(to, "ok", &[if yes { "yes" } else { "no" }], &[])?,
                None => send(to, "fail", &[], &[])?,
            },
            "error" => {
                // What went wrong first is what the rest follows from.
                trouble.get_or_insert_with(|| {
                    Error::failed(format!("age-plugin-{name} failed")).because(message(name, &said.body))
                });
                send(to, "ok", &[], &[])?;
            }
            _ if take(&said)? => send(to, "ok", &[], &[])?,
            _ => send(to, "unsupported", &[], &[])?,
        }
        said.body.zeroize();
    }
}

/// Asks to choose between what the plugin's two arguments say.
fn confirmed(plugins: &dyn Plugins, name: &str, said: &Stanza) -> Option<bool> {
    let word = |at: usize| {
        let bytes = STANDARD_NO_PAD.decode(said.args.get(at)?).ok()?;
        Some(printable(&bytes))
    };
    let (yes, no) = (word(0)?, word(1).unwrap_or_else(|| "no".to_owned()));
    let question = format!("{} (1: {yes}, 2: {no})", message(name, &said.body));
    let answer = plugins.ask(&question, false)?;
    Some(answer.expose_secret().trim() == "1")
}

/// What a plugin says to a person, harmless for a terminal.
fn message(name: &str, body: &[u8]) -> String {
    let text: String = printable(body).chars().take(MESSAGE_CHARS_MAX).collect();
    format!("age-plugin-{name}: {text}")
}

fn nonsense(name: &str) -> Error {
    Error::failed(format!("age-plugin-{name} does not speak the protocol of age's plugins"))
        .hint("look for a newer version of it")
}

/// Writes a stanza, at once.
fn send(to: &mut dyn Write, tag: &str, args: &[&str], body: &[u8]) -> Result<()> {
    let put = |to: &mut dyn Write| -> IoResult<()> {
        let base64 = Zeroizing::new(STANDARD_NO_PAD.encode(body));
        let args: String = args.iter().flat_map(|arg| [" ", arg]).collect();
        let mut text = Zeroizing::new(String::with_capacity(tag.len() + args.len() + base64.len() * 2 + 16));
        text.push_str("-> ");
        text.push_str(tag);
        text.push_str(&args);
        text.push('\n');
        let mut rest = base64.as_str();
        // The last line is shorter than the others, and may be empty.
        while rest.len() >= COLUMNS {
            text.push_str(&rest[..COLUMNS]);
            text.push('\n');
            rest = &rest[COLUMNS..];
        }
        text.push_str(rest);
        text.push('\n');
        to.write_all(text.as_bytes())?;
        to.flush()
    };
    put(to).map_err(|e| Error::failed("a plugin of age ended in the middle of a conversation").because(e))
}

/// Reads a stanza.
fn receive(from: &mut dyn BufRead, name: &str) -> Result<Stanza> {
    let first = line(from, name)?;
    let mut words = first.strip_prefix("-> ").ok_or_else(|| nonsense(name))?.split(' ').map(str::to_owned);
    let tag = words.next().unwrap_or_default();
    let args: Vec<String> = words.collect();
    if !is_arbitrary_string(&tag) || !args.iter().all(is_arbitrary_string) {
        return Err(nonsense(name));
    }
    let mut body = Zeroizing::new(Vec::new());
    loop {
        let line = line(from, name)?;
        body.extend(STANDARD_NO_PAD.decode(line.as_bytes()).map_err(|_| nonsense(name))?);
        match line.len() {
            COLUMNS if body.len() <= BYTES_MAX => {}
            length if length < COLUMNS => return Ok(Stanza { tag, args, body: std::mem::take(&mut body) }),
            _ => return Err(nonsense(name)),
        }
    }
}

/// Reads a line; the end of what a plugin writes is an error, as it says when it is done.
fn line(from: &mut dyn BufRead, name: &str) -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 << 10));
    let ended =
        |e: IoError| Error::failed(format!("age-plugin-{name} ended in the middle of a conversation")).because(e);
    from.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).map_err(ended)?;
    if bytes.is_empty() {
        return Err(Error::failed(format!("age-plugin-{name} ended in the middle of a conversation"))
            .hint(format!("`age-plugin-{name}` may say why when it is run by itself")));
    }
    if bytes.pop() != Some(b'\n') {
        return Err(nonsense(name));
    }
    String::from_utf8(std::mem::take(&mut bytes)).map(Zeroizing::new).map_err(|_| nonsense(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    /// A plugin that says what it is told to say, whatever it hears, and a person who answers.
    #[derive(Default)]
    struct Scripted {
        says: Vec<u8>,
        answer: Option<&'static str>,
        heard: Mutex<String>,
        shown: Mutex<Vec<String>>,
    }

    impl Plugins for Scripted {
        fn find(&self, _: &str) -> Result<()> {
            Ok(())
        }

        fn converse(&self, name: &str, machine: &str, talk: &mut Talk<'_>) -> Result<()> {
            let mut heard = format!("{name} {machine}\n").into_bytes();
            let result = talk(&mut &self.says[..], &mut heard);
            *self.heard.lock().unwrap() = String::from_utf8(heard).unwrap();
            result
        }

        fn show(&self, message: &str) {
            self.shown.lock().unwrap().push(message.to_owned());
        }

        fn ask(&self, message: &str, secret: bool) -> Option<SecretString> {
            self.shown.lock().unwrap().push(format!("{message} {secret}"));
            self.answer.map(SecretString::from)
        }
    }

    fn says(text: &str) -> Scripted {
        Scripted { says: text.as_bytes().to_vec(), ..Scripted::default() }
    }

    fn key() -> FileKey {
        FileKey::new(Box::new([7; FILE_KEY_BYTES]))
    }

    fn identity() -> SecretString {
        "AGE-PLUGIN-FAKE-1QQ".into()
    }

    #[test]
    fn names_lead_to_one_program_only() {
        assert_eq!(name_of("age1yubikey1qwt50d05nh5").as_deref(), Some("yubikey"));
        assert_eq!(name_of("AGE-PLUGIN-TPM-1QQ").as_deref(), Some("tpm"));
        for none in
            ["age1qqq", "age1../x1qq", "age1/bin/sh1qq", "AGE-PLUGIN-1QQ", "AGE-PLUGIN-A/B-1QQ", "age11qq", "x", ""]
        {
            assert_eq!(name_of(none), None, "{none}");
        }
    }

    #[test]
    fn a_recipient_wraps() {
        let body = STANDARD_NO_PAD.encode([1; 50]);
        let (long, rest) = body.split_at(64);
        let plugin = says(&format!(
            "-> labels postquantum\n\n-> new-thing x\n\n-> recipient-stanza 0 fake a b\n{long}\n{rest}\n-> done\n\n"
        ));
        let (stanzas, labels) = wrap(&plugin, "age1fake1qq", &key()).unwrap();
        let stanza = Stanza { tag: "fake".to_owned(), args: vec!["a".to_owned(), "b".to_owned()], body: vec![1; 50] };
        assert_eq!((stanzas, labels), (vec![stanza], vec!["postquantum".to_owned()]));
        let wrapped = STANDARD_NO_PAD.encode([7; FILE_KEY_BYTES]);
        assert_eq!(
            *plugin.heard.lock().unwrap(),
            format!(
                "fake recipient-v1\n-> add-recipient age1fake1qq\n\n-> extension-labels\n\n-> wrap-file-key\n{wrapped}\n-> done\n\n-> ok\n\n-> unsupported\n\n-> ok\n\n"
            )
        );
    }

    #[test]
    fn an_identity_unwraps_or_says_that_it_is_for_somebody_else() {
        let stanzas = [Stanza { tag: "fake".to_owned(), args: vec!["a".to_owned()], body: vec![1; 48] }];
        let wrapped = STANDARD_NO_PAD.encode([7; FILE_KEY_BYTES]);
        let plugin = says(&format!("-> file-key 0\n{wrapped}\n-> done\n\n"));
        let found = unwrap(&plugin, &identity(), &stanzas).unwrap().unwrap();
        assert_eq!(found.expose_secret(), &[7; FILE_KEY_BYTES]);
        let heard = plugin.heard.lock().unwrap().clone();
        // A body of exactly one line is followed by an empty one.
        let line = STANDARD_NO_PAD.encode([1; 48]);
        assert!(
            heard.contains(&format!(
                "-> add-identity AGE-PLUGIN-FAKE-1QQ\n\n-> recipient-stanza 0 fake a\n{line}\n\n-> done"
            )),
            "{heard}"
        );
        assert!(unwrap(&says("-> done\n\n"), &identity(), &stanzas).unwrap().is_none());
    }

    #[test]
    fn a_person_is_asked_where_there_is_one() {
        let text = "-> msg\ndG91Y2gbIGl0\n-> request-secret\nUElO\n-> confirm eWVz bm8\nT0s\n-> done\n\n";
        let mut plugin = says(text);
        assert!(unwrap(&plugin, &identity(), &[]).unwrap().is_none());
        assert!(plugin.heard.lock().unwrap().ends_with("-> done\n\n-> ok\n\n-> fail\n\n-> fail\n\n"));
        plugin.answer = Some("1");
        assert!(unwrap(&plugin, &identity(), &[]).unwrap().is_none());
        assert!(plugin.heard.lock().unwrap().ends_with("-> done\n\n-> ok\n\n-> ok\nMQ\n-> ok yes\n\n"));
        let shown = plugin.shown.lock().unwrap();
        assert_eq!(shown[1..3], ["age-plugin-fake: PIN true", "age-plugin-fake: OK (1: yes, 2: no) false"]);
        assert!(!shown[0].contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn what_a_plugin_does_wrong_is_told() {
        let fails = |text: &str, expected: &str| {
            let error = unwrap(&says(text), &identity(), &[]).err().unwrap();
            let said = format!("{error}: {}", error.causes().join(": "));
            assert!(said.contains(expected), "{text:?}: {said}");
        };
        fails(
            "-> error identity 0\nbm8ga2V5\n-> error internal\nbGF0ZXI\n-> done\n\n",
            "age-plugin-fake failed: age-plugin-fake: no key",
        );
        fails("", "ended in the middle");
        fails("-> msg\ndG91Y2g\n", "ended in the middle");
        let long = format!("-> {}\n\n", "x".repeat(70_000));
        for bad in [
            "rubbish\n",
            "->\n\n",
            "-> \n\n",
            "-> file-key 0\nc2hvcnQ\n",
            "-> file-key 1\n\n",
            "-> msg\n!!!\n",
            "-> msg",
            "-> a\u{7}\n\n",
            &long,
        ] {
            fails(bad, "does not speak");
        }
        fails(&format!("{}-> done\n\n", "-> msg\n\n".repeat(20_000)), "does not speak");
        assert!(wrap(&says("-> done\n\n"), "age1fake1qq", &key()).unwrap_err().to_string().contains("wrapped no key"));
        assert!(wrap(&says("-> recipient-stanza 1 x\n\n-> done\n\n"), "age1fake1qq", &key()).is_err());
    }

    proptest! {
        #[test]
        fn noise_ends_in_an_error_or_nothing(text in "(-> )?[a-z0-9 \n-]{0,200}(-> done\n\n)?") {
            if let Ok(found) = unwrap(&says(&text), &identity(), &[]) {
                prop_assert!(found.is_none());
            }
        }
    }
}
