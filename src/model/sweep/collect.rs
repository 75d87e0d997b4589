//! The values of a secret file: what is worth being searched for elsewhere.
//!
//! A secret file holds much that is no secret: names of models, paths, identifiers, numbers. Searched for, those would
//! be found everywhere, and the one real leak among them would be overlooked. So a value counts if its key says secret
//! and it is no common word, or if it looks as if a generator made it. What a key calls a secret and is too short or too
//! common for that is collected, too, but not searched for. The formats are read leniently, by two readers:
//! one for JSON and what looks like it (with comments, without quotes around keys, TOML's inline tables), one for lines
//! (environment files, YAML, TOML, INI, properties, netrc, XML with an element a line). Text that neither can split is a value
//! by itself if it looks like one.

use std::collections::HashSet;

use zeroize::Zeroizing;

use crate::model::finder::{
    Promise, Says, base64_runs, is_login, is_placeholder, is_reference, is_uuid, looks_random, says,
};

/// The shortest value that is searched for, in bytes. Shorter ones are found by chance.
pub const VALUE_BYTES_MIN: usize = 8;

/// The longest one, in bytes. Longer ones are files in a file.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// From this many bytes on, a token need not look random if its key says that it is one.
const TOKEN_BYTES_MIN: usize = 12;

/// A literal value of a secret file. Its `Debug` shows neither it nor its name.
#[derive(Clone)]
pub struct Value {
    /// The key before it, as `OPENAI_API_KEY`; empty if there was none.
    pub name: String,
    /// Whether it is worth being searched for elsewhere.
    pub is_searched: bool,
    bytes: Zeroizing<Vec<u8>>,
}

impl Value {
    /// The value itself. Keep it no longer than needed, and never print it.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// What to search for: nothing if that would be found everywhere.
    pub fn needle(&self) -> &[u8] {
        if self.is_searched { &self.bytes } else { &[] }
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value")
    }
}

/// The values of a secret file, each once under each of its names, in the order of the file.
pub fn collect(content: &[u8]) -> Vec<Value> {
    let mut values = Values::default();
    let text = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    if is_braced(text.trim_ascii_start()) {
        braced(text, "", &mut values);
    } else {
        lines(text, &mut values);
    }
    values.key_block("", text);
    values.found
}

#[derive(Default)]
struct Values {
    found: Vec<Value>,
    /// Digests of names and values that were found: a dump may hold a great many.
    seen: HashSet<[u8; 32]>,
}

impl Values {
    /// Keeps a value if it is worth it.
    fn offer(&mut self, name: &str, parent: &str, value: &[u8]) {
        if value.windows(12).any(|w| w == b"PRIVATE KEY-") {
            return self.key_block(name, value);
        }
        if let Some(password) = url_password(value) {
            return self.offer_bare(name, Says::Secret(Promise::Password), password);
        }
        let value = without_scheme(value);
        let said = match says(name.as_bytes()) {
            Says::Nothing => match says(parent.as_bytes()) {
                Says::Secret(promise) => Says::Secret(promise),
                _ => Says::Nothing,
            },
            said => said,
        };
        self.offer_bare(name, said, value);
    }

    fn offer_bare(&mut self, name: &str, said: Says, value: &[u8]) {
        if is_worth(said, value) {
            self.keep(name, value, true);
        } else if is_named(name, said, value) {
            self.keep(name, value, false);
        }
    }

    fn keep(&mut self, name: &str, value: &[u8], is_searched: bool) {
        let mut digest = blake3::Hasher::new();
        digest.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(value);
        if self.seen.insert(*digest.finalize().as_bytes()) {
            self.found.push(Value { name: name.to_owned(), is_searched, bytes: Zeroizing::new(value.to_vec()) });
        }
    }

    /// The last full line of every private key in `text`: it is what no other key and no public key has.
    fn key_block(&mut self, name: &str, text: &[u8]) {
        let mut rest = text;
        while let Some(at) = position(rest, b"PRIVATE KEY") {
            let body = &rest[at + "PRIVATE KEY".len()..];
            let end = position(body, b"-----END").unwrap_or(body.len());
            if let Some(line) = base64_runs(&body[..end]).filter(|l| l.len() >= 40).last() {
                let is_known = || self.found.iter().any(|value| value.expose() == line);
                if !name.is_empty() {
                    self.keep(name, line, true);
                } else if !is_known() {
                    self.keep("PRIVATE KEY", line, true);
                }
            }
            rest = &body[end..];
        }
    }
}

/// Whether a value is worth being searched for, given what its key says.
fn is_worth(said: Says, value: &[u8]) -> bool {
    let kinds: [fn(&u8) -> bool; 4] =
        [u8::is_ascii_digit, u8::is_ascii_lowercase, u8::is_ascii_uppercase, u8::is_ascii_punctuation];
    let mixed = kinds.iter().filter(|kind| value.iter().any(kind)).count();
    let letters = value.iter().any(|b| b.is_ascii_alphabetic() || !b.is_ascii());
    if !(VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&value.len()) || value.contains(&0) || !letters {
        return false;
    }
    if is_placeholder(value) || is_reference(value) || is_path(value) {
        return false;
    }
    match said {
        Says::Harmless => false,
        Says::Nothing => value.len() >= 16 && !is_uuid(value) && looks_random(value),
        // People choose passwords; what is left out is what would be found in every second file.
        Says::Secret(Promise::Password) => mixed >= 2 || value.len() >= 16 || value.contains(&b' '),
        Says::Secret(Promise::Token) => {
            looks_random(value) || is_uuid(value) || value.len() >= TOKEN_BYTES_MIN && mixed >= 2 && has_digits(value)
        }
        Says::Secret(Promise::Login) => looks_random(value) || is_login(value),
    }
}

/// Whether a value that is not worth being searched for is one all the same: its key says so, and it stands there itself.
fn is_named(name: &str, said: Says, value: &[u8]) -> bool {
    matches!(said, Says::Secret(_))
        && !name.is_empty()
        && (1..=VALUE_BYTES_MAX).contains(&value.len())
        && !value.contains(&0)
        && !is_reference(value)
        && !is_path(value)
}

fn has_digits(value: &[u8]) -> bool {
    value.iter().filter(|b| b.is_ascii_digit()).count() >= 3
}

/// A path, whatever it leads to. Base64 may begin with a slash, too, but not look like one.
fn is_path(value: &[u8]) -> bool {
    let drive = matches!(value, [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
    drive || value.starts_with(b"/") && !looks_random(value)
}

/// The password in a URL.
fn url_password(value: &[u8]) -> Option<&[u8]> {
    let at = position(value, b"://")?;
    let authority = &value[at + 3..];
    let authority =
        &authority[..authority.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(authority.len())];
    let login = &authority[..authority.iter().rposition(|b| *b == b'@')?];
    let colon = login.iter().position(|b| *b == b':')?;
    Some(&login[colon + 1..])
}

fn without_scheme(value: &[u8]) -> &[u8] {
    let schemes: [&[u8]; 4] = [b"bearer ", b"basic ", b"token ", b"bot "];
    let scheme = schemes.iter().find(|s| value.get(..s.len()).is_some_and(|v| v.eq_ignore_ascii_case(s)));
    scheme.map_or(value, |s| &value[s.len()..])
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|w| w == part)
}

/// Whether a text is JSON or the like, and no section of an INI file.
fn is_braced(text: &[u8]) -> bool {
    match text {
        [b'{', ..] => true,
        [b'[', rest @ ..] => {
            matches!(rest.trim_ascii_start().first(), Some(b'{' | b'[' | b'"' | b'\'' | b'0'..=b'9' | b'-' | b']'))
        }
        _ => false,
    }
}

/// Reads JSON and its relatives: every string that is no key is a value.
fn braced(text: &[u8], name: &str, values: &mut Values) {
    let mut above: Vec<String> = Vec::new();
    let mut key = name.to_owned();
    let mut word = 0..0;
    let mut at = 0;
    while let Some(byte) = text.get(at).copied() {
        match byte {
            b'"' | b'\'' => {
                let (string, end) = unescape(text, at + 1, byte);
                let after = &text[end..];
                if matches!(after.trim_ascii_start().first(), Some(b':' | b'=')) {
                    key = String::from_utf8_lossy(&string).into_owned();
                } else {
                    values.offer(&key, above.last().map_or("", String::as_str), &string);
                }
                at = end;
                continue;
            }
            b'{' | b'[' => above.push(key.clone()),
            b'}' | b']' => key = above.pop().unwrap_or_default(),
            b':' | b'=' if !word.is_empty() => key = String::from_utf8_lossy(&text[word.clone()]).into_owned(),
            b'/' if matches!(text.get(at + 1), Some(b'/')) => {
                at += text[at..].iter().take_while(|b| **b != b'\n').count();
                continue;
            }
            _ => {}
        }
        let part = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        word = match part {
            true if word.end == at && !word.is_empty() => word.start..at + 1,
            true => at..at + 1,
            false if byte == b' ' && word.end <= at => word,
            false => 0..0,
        };
        at += 1;
    }
}

/// The string that begins at `start`, its escapes resolved, and where the text goes on after it.
fn unescape(text: &[u8], start: usize, quote: u8) -> (Zeroizing<Vec<u8>>, usize) {
    let mut end = start;
    while end < text.len() && text[end] != quote {
        end += if text[end] == b'\\' { 2 } else { 1 };
    }
    let end = end.min(text.len());
    // As long as the text at most, so that it never moves and leaves a copy behind.
    let mut out = Zeroizing::new(Vec::with_capacity(end - start));
    let mut at = start;
    while at < end {
        let escaped = if text[at] == b'\\' { text.get(at + 1).copied() } else { None };
        let Some(escaped) = escaped else {
            out.push(text[at]);
            at += 1;
            continue;
        };
        at += 2;
        let code = || text.get(at..at + 4).and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'u' if let Some(c) = code().and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32) => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                at += 4;
            }
            other => out.push(other),
        }
    }
    (out, (end + 1).min(text.len()))
}

/// Reads what has a setting a line.
fn lines(text: &[u8], values: &mut Values) {
    // The keys that a line is below of, with their indentation.
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut machine = String::new();
    for line in text.split(|b| matches!(b, b'\n' | b'\r')) {
        let indent = line.iter().take_while(|b| b.is_ascii_whitespace()).count();
        let line = line.trim_ascii();
        // What is commented out may still be in force elsewhere.
        let marks = line.iter().take_while(|b| matches!(b, b'#' | b';' | b' ')).count();
        let line = &line[marks..];
        let line = [&b"export "[..], b"set ", b"- ", b"ENV ", b"ARG "]
            .iter()
            .fold(line, |l, p| l.strip_prefix(*p).unwrap_or(l));
        if line.is_empty() {
            continue;
        }
        above.retain(|(column, _)| *column < indent);
        let parent = above.last().map(|(_, key)| key.clone()).unwrap_or_default();
        if netrc(line, &mut machine, values) || element(line, values) {
            continue;
        }
        match setting(line) {
            Some((key, [])) => above.push((indent, key)),
            Some((key, value)) if is_braced(value) => braced(value, &key, values),
            Some((key, value)) => values.offer(&key, &parent, value),
            None if line.contains(&b' ') => {}
            None => bare(line, &parent, values),
        }
    }
}

/// A line that is a word: an item of a list, a URL of git's, the only line of a file, a line of `.pgpass`.
fn bare(line: &[u8], parent: &str, values: &mut Values) {
    let word = unquoted(line);
    let fields: Vec<&[u8]> = word.split(|b| *b == b':').collect();
    match fields[..] {
        [_, port, _, _, password] if port == b"*" || port.iter().all(u8::is_ascii_digit) => {
            values.offer_bare("password", Says::Secret(Promise::Password), password);
        }
        _ => values.offer("", parent, word),
    }
}

/// `KEY=value`, `key: value`, `key = "value"`.
fn setting(line: &[u8]) -> Option<(String, &[u8])> {
    let equals = line.iter().position(|b| *b == b'=');
    let equals = equals.filter(|at| !line[..*at].trim_ascii_end().iter().any(|b| b.is_ascii_whitespace()));
    let colon = || {
        let spaced = line.windows(2).position(|w| w[0] == b':' && w[1].is_ascii_whitespace());
        spaced.or_else(|| line.ends_with(b":").then(|| line.len() - 1))
    };
    let at = equals.or_else(colon)?;
    let key = unquoted(line[..at].trim_ascii());
    // npm writes the registry before the key.
    let key = key.rsplit(|b| matches!(b, b'/' | b':')).next().unwrap_or(key);
    Some((String::from_utf8_lossy(key).into_owned(), unquoted(line[at + 1..].trim_ascii())))
}

/// A value without its quotes, or without the comment after it.
fn unquoted(value: &[u8]) -> &[u8] {
    if let [quote @ (b'"' | b'\'' | b'`'), rest @ ..] = value
        && let Some(end) = rest.iter().position(|b| b == quote)
    {
        return &rest[..end];
    }
    let comment = value.windows(2).position(|w| w == b" #").unwrap_or(value.len());
    value[..comment].trim_ascii_end()
}

/// `machine HOST login NAME password VALUE`, in one line or several; says whether the line was such.
fn netrc(line: &[u8], machine: &mut String, values: &mut Values) -> bool {
    let words: Vec<&[u8]> = line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).collect();
    let begins = matches!(words.first(), Some(&(b"machine" | b"default" | b"login" | b"password" | b"account")));
    if !begins {
        return false;
    }
    for pair in words.windows(2) {
        match pair[0] {
            b"machine" => *machine = String::from_utf8_lossy(pair[1]).into_owned(),
            b"password" => values.offer_bare(machine, Says::Secret(Promise::Password), pair[1]),
            _ => {}
        }
    }
    true
}

/// `<password>value</password>`.
fn element(line: &[u8], values: &mut Values) -> bool {
    let Some(rest) = line.strip_prefix(b"<") else { return false };
    let Some(open) = rest.iter().position(|b| *b == b'>') else { return false };
    let value = &rest[open + 1..];
    if let Some(end) = position(value, b"</") {
        values.offer(&String::from_utf8_lossy(&rest[..open]), "", &value[..end]);
    }
    true
}
