//! Keys that say secret, with values that look random: `API_KEY=…`, `"password": "…"`, `--token …`, netrc.

use super::key::{Promise, Says, says};
use super::random::{entropy, find, is_placeholder, looks_random};
use super::rules::Rules;

/// Words in a key that make it worth a look. The search meets each by its first three letters, in any case.
pub(super) const STEMS: [&str; 10] =
    ["key", "token", "secret", "pass", "pwd", "credential", "auth", "bearer", "mnemonic", "phrase"];

/// How far a key may reach to both sides of the word, in bytes.
const KEY_BYTES_MAX: usize = 64;

/// The shortest value that is looked at, in bytes.
const VALUE_BYTES_MIN: usize = 8;

/// The longest value that is looked at. Longer ones are no keys but data.
const VALUE_BYTES_MAX: usize = 512;

/// Where a key ends and its value may begin.
struct Key<'a> {
    text: &'a [u8],
    start: usize,
    end: usize,
}

/// Looks at the word of [`STEMS`] that begins at `at`; gives the name of the rule if a secret stands there.
///
/// `code` says that the text is a program, in which what has no quotes is an expression.
pub(super) fn look<'r>(rules: &'r Rules, text: &[u8], at: usize, stem: u8, code: bool) -> Option<&'r str> {
    let stem = STEMS[usize::from(stem)].as_bytes();
    if !text.get(at..at + stem.len())?.eq_ignore_ascii_case(stem) {
        return None;
    }
    if is_prose(text, at, stem) {
        return None;
    }
    let key = key_around(text, at, stem.len());
    let (start, quoted) = value_start(&key)?;
    if matches!(stem, b"mnemonic" | b"phrase") {
        return is_wallet(&text[start..]).then_some("wallet-words");
    }
    let (start, scheme) = skip_scheme(text, start);
    let (value, ends) = value_at(text, start, quoted);
    // Counts of tokens are what agents write most; what the key says is asked last, since it takes longest.
    let letters = value.iter().any(u8::is_ascii_alphabetic);
    let fits = (VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&value.len()) && letters;
    if !fits || !quoted && is_expression(value, ends, code) {
        return None;
    }
    let named = &text[key.start..key.end];
    let Says::Secret(promise) = says(named) else { return None };
    if let Some(name) = keyed(rules, named, value) {
        return Some(name);
    }
    if is_reference(value) || is_uuid(value) {
        return None;
    }
    let secret = match promise {
        _ if scheme => value.len() >= 16 && looks_random(value) || is_login(value),
        Promise::Password => looks_random(value),
        Promise::Token => value.len() >= 16 && looks_random(value),
        Promise::Login => is_login(value),
    };
    // A text in base64 is as random as the text is.
    let plain = plain_text(value);
    let secret = secret && plain.is_none_or(|plain| looks_random(&plain));
    let stopped = rules.stops.iter().any(|stop| find(value, stop.as_bytes()));
    (secret && !stopped).then_some(match promise {
        Promise::Password => "password",
        Promise::Token => "secret-value",
        Promise::Login => "login",
    })
}

/// Whether the word is followed by another one, as nearly always. What may have a value after a space is none: flags,
/// `Bearer`, netrc's `password`, and `value` after a name.
fn is_prose(text: &[u8], at: usize, stem: &[u8]) -> bool {
    let end = at + stem.len() + usize::from(text.get(at + stem.len()) == Some(&b's'));
    let next = match text.get(end..end + 2) {
        Some([b' ', next]) => *next,
        Some([b'.' | b',' | b';' | b'?' | b'!', b' ' | b'\n']) => return true,
        _ => return false,
    };
    let part = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let start = at - text[..at].iter().rev().take(KEY_BYTES_MAX).take_while(part).count();
    let flag = text[start..].starts_with(b"--");
    next.is_ascii_alphanumeric() && next != b'v' && !flag && !matches!(stem, b"pass" | b"bearer")
}

fn key_around(text: &[u8], at: usize, stem: usize) -> Key<'_> {
    let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let before = text[..at].iter().rev().take(KEY_BYTES_MAX).take_while(|b| part(b)).count();
    let after = text[at + stem..].iter().take(KEY_BYTES_MAX).take_while(|b| part(b)).count();
    Key { text, start: at - before, end: at + stem + after }
}

/// Where the value begins, and whether it is in quotes. This throws out nearly everything, so it comes first.
fn value_start(key: &Key<'_>) -> Option<(usize, bool)> {
    let text = key.text;
    let mut at = key.end;
    let skip = |at: usize, most: usize, set: fn(u8) -> bool| {
        at + text[at..].iter().take(most).take_while(|b| set(**b)).count()
    };
    let blank = |b: u8| matches!(b, b' ' | b'\t');
    let word = &text[key.start..key.end];
    if word.eq_ignore_ascii_case(b"bearer") {
        return (text.get(at) == Some(&b' ')).then(|| open_quote(text, at + 1)).map(|(at, _)| (at, true));
    }
    let closed = skip(at, 6, |b| matches!(b, b'\\' | b'"' | b'\'' | b'`' | b']'));
    let quoted_key = closed > at;
    at = skip(closed, 24, blank);
    match text.get(at)? {
        b'=' if matches!(text.get(at + 1), Some(b'=' | b'~')) => None,
        b'=' | b':' => {
            at = skip(at, 3, |b| matches!(b, b'=' | b':' | b'>'));
            at = skip(at, 8, blank);
            Some(open_quote(text, past_type(text, at).unwrap_or(at)))
        }
        b'?' | b'+' | b'|' if text.get(at + 1) == Some(&b'=') => Some(open_quote(text, skip(at + 2, 8, blank))),
        b'>' if key.start > 0 && text[key.start - 1] == b'<' => Some((at + 1, false)),
        b',' if quoted_key => {
            // `setenv("API_KEY", "…")`, and `"name": "API_KEY", "value": "…"`.
            let start = skip(at + 1, 8, blank);
            match open_quote(text, start) {
                (inside, true) if !text[inside..].starts_with(b"value") => Some((inside, true)),
                _ => named_value(text, at + 1),
            }
        }
        b'\n' | b'\r' => named_value(text, at),
        b'v' if closed < at => named_value(text, closed),
        _ if closed == key.end && at > closed && (word.starts_with(b"--") || is_netrc(text, key)) => {
            Some(open_quote(text, at))
        }
        _ => None,
    }
}

/// Where the value of `key: type = value` begins, if `at` is at such a type.
fn past_type(text: &[u8], at: usize) -> Option<usize> {
    const TYPE_BYTES_MAX: usize = 32;
    let set = |b: &&u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'&' | b'_' | b' ' | b'<' | b'>' | b'[' | b']' | b'|' | b'?')
    };
    let length = text[at..].iter().take(TYPE_BYTES_MAX).take_while(set).count();
    let rest = text[at + length..].strip_prefix(b"= ")?;
    (length > 1 && matches!(rest.first(), Some(b'"' | b'\''))).then_some(at + length + 2)
}

/// `value: …` after a name, as in the manifests of Kubernetes and in XML.
fn named_value(text: &[u8], at: usize) -> Option<(usize, bool)> {
    let rest = &text[at..text.len().min(at + 64)];
    let gap = rest.iter().take_while(|b| b.is_ascii_whitespace() || matches!(b, b'"' | b'\\' | b'\'' | b',')).count();
    let rest = rest[gap..].strip_prefix(b"value")?;
    let close = rest.iter().take_while(|b| matches!(b, b'"' | b'\\' | b'\'' | b' ')).count();
    if !matches!(rest.get(close), Some(b'=' | b':')) {
        return None;
    }
    let blanks = rest[close + 1..].iter().take_while(|b| **b == b' ').count();
    Some(open_quote(text, at + gap + "value".len() + close + 1 + blanks))
}

/// `machine HOST login NAME password VALUE`, on one line or several.
fn is_netrc(text: &[u8], key: &Key<'_>) -> bool {
    let before = &text[key.start.saturating_sub(200)..key.start];
    &text[key.start..key.end] == b"password" && find(before, b"machine ") && find(before, b"login ")
}

/// Skips an opening quote, the backslashes before it, and the letter of a literal.
fn open_quote(text: &[u8], at: usize) -> (usize, bool) {
    let letter = matches!(text.get(at..at + 2), Some([b'b' | b'r' | b'u' | b'@', b'"' | b'\'']));
    let mut end = at + usize::from(letter);
    end += text[end..].iter().take(7).take_while(|b| **b == b'\\').count();
    match text.get(end) {
        Some(b'"' | b'\'' | b'`') => (end + 1, true),
        _ => (at, false),
    }
}

/// Skips `Bearer ` and its like; says whether there was one.
fn skip_scheme(text: &[u8], at: usize) -> (usize, bool) {
    let schemes: [&[u8]; 6] = [b"bearer ", b"basic ", b"token ", b"bot ", b"ssws ", b"apikey "];
    let starts = |s: &&[u8]| text.get(at..at + s.len()).is_some_and(|t| t.eq_ignore_ascii_case(s));
    match schemes.iter().find(|s| starts(s)) {
        Some(scheme) => (at + scheme.len(), true),
        None => (at, false),
    }
}

/// The value, and the byte that ends it.
fn value_at(text: &[u8], start: usize, quoted: bool) -> (&[u8], Option<u8>) {
    let rest = &text[start.min(text.len())..];
    let ends = |b: &u8| {
        !b.is_ascii_graphic()
            || matches!(b, b'"' | b'\'' | b'`' | b'\\')
            || !quoted && matches!(b, b',' | b';' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'<' | b'>' | b'&' | b'|')
    };
    let length = rest.iter().take(VALUE_BYTES_MAX + 1).take_while(|b| !ends(b)).count();
    let value = &rest[..length];
    let whole = quoted || value.ends_with(b"...");
    let value = if whole { value } else { without_marks(value) };
    (value, rest.get(length).copied())
}

/// Without the marks that end a sentence.
fn without_marks(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|b| !matches!(b, b'.' | b':' | b'!' | b'?' | b'*')).map_or(0, |at| at + 1);
    &value[..end]
}

/// Whether a text begins with the words of a wallet: 12, 15, 18, 21 or 24 of them in one line, of 3 to 8 letters (BIP
/// 39), and hardly any of them twice.
fn is_wallet(text: &[u8]) -> bool {
    const WORDS_BYTES_MAX: usize = 24 * 9;
    let line = &text[..text.len().min(WORDS_BYTES_MAX)];
    let end = line.iter().position(|b| !b.is_ascii_lowercase() && *b != b' ').unwrap_or(line.len());
    let mut words: Vec<&[u8]> = line[..end].trim_ascii_end().split(|b| *b == b' ').collect();
    let fit = words.iter().all(|word| (3..=8).contains(&word.len()));
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    fit && matches!(count, 12 | 15 | 18 | 21 | 24) && words.len() + 2 >= count
}

/// The rule of a service that the key names.
fn keyed<'r>(rules: &'r Rules, key: &[u8], value: &[u8]) -> Option<&'r str> {
    let lower = key.to_ascii_lowercase();
    let mut random = Vec::new();
    let named = |words: &[String]| words.iter().any(|w| find(&lower, w.as_bytes()));
    let fits = |k: &&super::rules::Keyed, random: &mut Vec<u8>| {
        named(&k.words) && k.shapes.iter().any(|s| s.is(value, random)) && entropy(random) >= 2.8
    };
    if value.len() < 16 || is_placeholder(value) {
        return None;
    }
    rules.keyed.iter().find(|k| fits(k, &mut random)).map(|k| k.name.as_str())
}

/// What says where a secret is, or what became of one: variables, paths, URLs, digests, public keys, identifiers.
pub(in crate::model) fn is_reference(value: &[u8]) -> bool {
    const BEGINS: [&[u8]; 24] = [
        b"{", b"#{", b"%(", b"<", b"@{", b"./", b"../", b"~/", b"arn:", b"op:", b"vault:", b"ENC[", b"ENC(", b"sha1-",
        b"sha256", b"sha384", b"sha512", b"pbkdf2", b"argon2", b"scrypt:", b"age1", b"AAAA", b"aws:kms", b"data:",
    ];
    BEGINS.iter().any(|begin| value.starts_with(begin)) || find(value, b"://") || is_variable(value)
}

/// `$NAME`, `${NAME}`, `$(command)`, and the digests of passwords that begin with `$2b$` and the like.
fn is_variable(value: &[u8]) -> bool {
    let Some(rest) = value.strip_prefix(b"$") else { return false };
    let digest = rest.iter().take(10).skip(1).any(|b| *b == b'$');
    let name = rest.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') && !looks_random(rest);
    digest || name || matches!(rest.first(), Some(b'{' | b'('))
}

pub(in crate::model) fn is_uuid(value: &[u8]) -> bool {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    value.len() == 36
        && value.iter().enumerate().all(|(at, b)| if dash(at) { *b == b'-' } else { b.is_ascii_hexdigit() })
}

/// Whether a value without quotes is a piece of a program.
fn is_expression(value: &[u8], ends: Option<u8>, code: bool) -> bool {
    code || matches!(ends, Some(b'(' | b'[' | b'{')) || find(value, b"->") || find(value, b"::") || find(value, b"=>")
}

/// Whether this is `name:password` in base64, with a password that looks random.
pub(in crate::model) fn is_login(value: &[u8]) -> bool {
    let Some(plain) = plain_text(value).filter(|_| value.len() >= 16) else { return false };
    let Some(colon) = plain.iter().position(|b| *b == b':') else { return false };
    let password = &plain[colon + 1..];
    password.starts_with(b"gh") && password.len() >= 40 || looks_random(password)
}

/// The text that a value is in base64, if it is one and all of that can be seen.
fn plain_text(value: &[u8]) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    use base64::Engine as _;
    let bare = value.strip_suffix(b"=").map_or(value, |v| v.strip_suffix(b"=").unwrap_or(v));
    let plain = base64::engine::general_purpose::STANDARD_NO_PAD.decode(bare).map(zeroize::Zeroizing::new).ok()?;
    plain.iter().all(|b| b.is_ascii_graphic() || *b == b' ').then_some(plain)
}
