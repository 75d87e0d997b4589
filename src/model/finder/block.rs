//! Secrets that have a place instead of a shape: passwords in URLs, and blocks of private keys.

use super::random::{entropy, find, is_placeholder, looks_random};

/// How far before and after `://` is looked, in bytes.
const SCHEME_BYTES_MAX: usize = 24;
const AUTHORITY_BYTES_MAX: usize = 400;

/// How much of a private key's first lines is looked at, in bytes: its headers and one line of its body.
const BLOCK_BYTES: usize = 700;

/// The shortest line of base64 that a private key has.
const BODY_BYTES_MIN: usize = 40;

/// What documentation puts where a password goes, digits at its end left out.
const TYPICAL: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"passwort",
    b"pass",
    b"pwd",
    b"passw",
    b"secret",
    b"secretpassword",
    b"user",
    b"username",
    b"root",
    b"admin",
    b"postgres",
    b"mysql",
    b"guest",
    b"test",
    b"testing",
    b"foo",
    b"bar",
    b"baz",
    b"token",
    b"key",
    b"apikey",
    b"api_key",
    b"mypassword",
    b"mypass",
    b"hunter",
    b"hello",
    b"letmein",
    b"s3cret",
    b"s3cr3t",
    b"p@ssw0rd",
    b"passw0rd",
    b"minioadmin",
    b"rabbitmq",
    b"redis",
    b"mongo",
    b"dbpass",
    b"dbpassword",
    b"db_password",
    b"db_pass",
    b"pa",
    b"pw",
    b"x-oauth-basic",
    b"auth",
    b"credentials",
    b"changeit",
    b"tiger",
    b"welcome",
    b"swordfish",
    b"opensesame",
    b"supersecret",
    b"topsecret",
    b"verysecret",
    b"my-secret",
    b"dev",
];

/// Hosts at which nothing is.
const NO_HOSTS: &[&[u8]] =
    &[b"example", b".test", b".invalid", b"host", b"hostname", b"yourhost", b"foo", b"bar", b"server", b"domain"];

/// Whether the URL whose `://` is at `at` has a password in it.
pub(super) fn url_has_password(text: &[u8], at: usize) -> bool {
    let scheme = text[..at].iter().rev().take(SCHEME_BYTES_MAX);
    let scheme = scheme.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'.' | b'-')).count();
    let rest = &text[at + 3..text.len().min(at + 3 + AUTHORITY_BYTES_MAX)];
    let end = rest.iter().position(|b| {
        !b.is_ascii_graphic()
            || matches!(b, b'"' | b'\'' | b'`' | b'<' | b'>' | b'\\' | b'/' | b'?' | b'#' | b'(' | b')' | b',')
    });
    let authority = &rest[..end.unwrap_or(rest.len())];
    let Some(host_at) = authority.iter().rposition(|b| *b == b'@').filter(|_| scheme >= 2) else { return false };
    let (login, host) = (&authority[..host_at], &authority[host_at + 1..]);
    let Some(colon) = login.iter().position(|b| *b == b':') else { return false };
    let (user, password) = (&login[..colon], &login[colon + 1..]);
    is_password(user, password, host)
}

fn is_password(user: &[u8], password: &[u8], host: &[u8]) -> bool {
    let lower = password.to_ascii_lowercase();
    let bare = &lower[..lower.iter().rposition(|b| !b.is_ascii_digit() && *b != b'!').map_or(0, |at| at + 1)];
    let host = host.to_ascii_lowercase();
    let host = host.split(|b| *b == b':').next().unwrap_or_default();
    let variable =
        password.iter().any(|b| matches!(b, b'$' | b'{' | b'}' | b'*' | b'[' | b']' | b'|')) && !looks_random(password);
    if password.len() < 6 || host.is_empty() || variable || is_placeholder(password) {
        return false;
    }
    let nowhere = NO_HOSTS
        .iter()
        .any(|no| host == *no || host.starts_with(b"example.") || find(host, b".example") || host.ends_with(no));
    if nowhere || find(&lower, b"anon") || TYPICAL.contains(&bare) || password.eq_ignore_ascii_case(user) {
        return false;
    }
    // People choose words for databases, too; in a test against this machine that is all there is to find.
    let local = host == b"localhost" || host.starts_with(b"127.") || host == b"0.0.0.0" || !host.contains(&b'.');
    let kinds: [fn(&u8) -> bool; 4] =
        [u8::is_ascii_digit, u8::is_ascii_lowercase, u8::is_ascii_uppercase, u8::is_ascii_punctuation];
    let mixed = kinds.iter().filter(|k| password.iter().any(k)).count() >= 2;
    looks_random(password) || !local && mixed && password.len() >= 8
}

/// Whether `PRIVATE` at `at` stands in the first line of a private key that follows.
pub(super) fn is_private_key(text: &[u8], at: usize) -> bool {
    let before = &text[at.saturating_sub(48)..at];
    let Some(begin) = before.windows(11).rposition(|w| w == b"-----BEGIN " || w == b"---- BEGIN ") else {
        return false;
    };
    let kind = &before[begin + 11..];
    let after = &text[at..];
    let title: [&[u8]; 2] = [b"PRIVATE KEY-----", b"PRIVATE KEY BLOCK-----"];
    let Some(title) = title.iter().find(|t| after.starts_with(t)) else { return false };
    if !kind.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b' ') {
        return false;
    }
    let rest = &after[title.len()..after.len().min(title.len() + BLOCK_BYTES)];
    // The first long line of base64 is the key; headers and whatever a program puts between lines are shorter.
    let line = base64_runs(rest).find(|run| run.len() >= BODY_BYTES_MIN);
    line.is_some_and(|line| entropy(line) >= 3.7 && !is_placeholder(line))
}

/// The runs of base64 in a text. The letter of a `\n` between two lines is no part of one.
pub(in crate::model) fn base64_runs(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let runs = text.split(|b| !b.is_ascii_alphanumeric() && !matches!(b, b'+' | b'/' | b'=' | b'\\'));
    runs.flat_map(|run| {
        let mut parts = run.split(|b| *b == b'\\');
        let first = parts.next().unwrap_or_default();
        let escaped = |part: &'_ [u8]| usize::from(matches!(part.first(), Some(b'n' | b'r' | b't')));
        std::iter::once(first).chain(parts.map(move |part| &part[escaped(part)..]))
    })
}
