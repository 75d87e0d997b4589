//! The content rule: finds secrets in text by what they look like, and tells line and rule, never the value.
//!
//! Three kinds of rules. *Tokens* have a shape that gives them away (`rules.toml` has them as data, for over a hundred
//! services). *Pairs* have a key that says secret and a value that looks random. *Blocks* are private keys, and
//! passwords in URLs. Placeholders, digests, identifiers and what stands in tests and examples are no hits.
//!
//! It has to read everything that goes to a state archive, so it is built to say no quickly: each place of the text is
//! looked up, by three bytes, in a table of 8 KiB in which one bit in a hundred is set, and only where one is set is
//! anything compared. Whatever is decided about a place depends on a bounded stretch around it, so a file may come in
//! pieces of any size.

mod block;
mod key;
mod pair;
mod random;
mod rules;
mod shape;

use zeroize::Zeroizing;

pub(in crate::model) use block::base64_runs;
pub(in crate::model) use key::{Promise, Says, says};
pub(in crate::model) use pair::{is_login, is_reference, is_uuid};
pub(in crate::model) use random::{is_placeholder, looks_random};
use rules::{RULES, Rules, What};

/// The largest file that is read into memory to be looked into, in bytes. Larger ones come in pieces through
/// [`Search::push`], with the same result: most files are far smaller, and a transcript of gigabytes must not take
/// that much memory.
pub const WHOLE_BYTES_MAX: u64 = 16 << 20;

/// How much of a file tells whether it is text, in bytes: what `git` and `grep` look at, too.
pub const PROBE_BYTES: usize = 8000;

/// After so many hits the rest of a file is not looked at: the file is a secret whatever else is in it.
pub const HITS_MAX: usize = 64;

/// How much before and after a place decides about it, in bytes. A signed web token with many claims is the longest
/// thing there is to see.
const BEHIND_BYTES: usize = 512;
const AHEAD_BYTES: usize = 8192;

/// A secret in a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// The line, from 1.
    pub line: u64,
    /// The name of the rule, as `github-token`.
    pub rule: &'static str,
}

/// Whether a file that begins with `head` is text: it has no NUL. Of databases, images and archives the content rule
/// can say nothing; the sweep looks into those.
pub fn is_text(head: &[u8]) -> bool {
    !head[..head.len().min(PROBE_BYTES)].contains(&0)
}

/// What tells these rules from others: a file that they cleared has to be looked into again when this changes. In hex.
pub fn version() -> String {
    let mut hasher = blake3::Hasher::new();
    // What is not in the file is in the program.
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes()).update(rules::TEXT.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// The rules that look for tokens of a service, by name, and the service.
pub fn services() -> impl Iterator<Item = (&'static str, &'static str)> {
    RULES.services.iter().map(|(name, service)| (name.as_str(), service.as_str()))
}

/// Finds the secrets in a whole file. `path` is its archive path, or its name: programs and tests are told by it.
pub fn find(path: &[u8], text: &[u8]) -> Vec<Hit> {
    let mut found = Found::new(path);
    found.look(text, 0, text.len());
    found.hits()
}

/// A search through a file that comes in pieces.
pub struct Search {
    found: Found,
    /// What may still be needed: the piece, and what is before it.
    text: Zeroizing<Vec<u8>>,
    /// The first byte of `text` that was not looked at.
    next: usize,
}

impl Search {
    /// Begins a search in the file at `path`.
    pub fn new(path: &[u8]) -> Search {
        Search { found: Found::new(path), text: Zeroizing::default(), next: 0 }
    }

    /// Takes the next piece of the file. Pieces of some 100 KiB are fastest.
    pub fn push(&mut self, piece: &[u8]) {
        if self.found.is_full() {
            return;
        }
        self.text.extend_from_slice(piece);
        let end = self.text.len().saturating_sub(AHEAD_BYTES).max(self.next);
        self.found.look(&self.text, self.next, end);
        let gone = end.saturating_sub(BEHIND_BYTES);
        self.found.forget(&self.text[..gone]);
        self.text.drain(..gone);
        self.next = end - gone;
    }

    /// Ends the file, and gives what was found.
    pub fn finish(mut self) -> Vec<Hit> {
        self.found.look(&self.text, self.next, self.text.len());
        self.found.hits()
    }
}

/// What was found so far, and where.
struct Found {
    rules: &'static Rules,
    /// The file is a program: what has no quotes in it is no value.
    code: bool,
    /// The file is a test or an example: what is common in those is not looked for.
    fixture: bool,
    hits: Vec<Hit>,
    /// A place of the text, and its line.
    mark: (usize, u64),
    random: Zeroizing<Vec<u8>>,
}

impl Found {
    fn new(path: &[u8]) -> Found {
        let random = Zeroizing::new(Vec::new());
        Found { rules: &RULES, code: is_code(path), fixture: is_fixture(path), hits: Vec::new(), mark: (0, 1), random }
    }

    fn is_full(&self) -> bool {
        self.hits.len() >= HITS_MAX
    }

    fn hits(mut self) -> Vec<Hit> {
        self.hits.sort();
        self.hits.dedup();
        self.hits
    }

    /// Looks at the places from `from` to `to`.
    fn look(&mut self, text: &[u8], from: usize, to: usize) {
        // Six places at a time out of eight bytes.
        const STEP: usize = 6;
        let mut at = from;
        while at + STEP <= to && at + 8 <= text.len() && !self.is_full() {
            let rest = &text[at..];
            let mut skipped = 0;
            let mut some = 0;
            for eight in rest.windows(8).step_by(STEP).take((to - at) / STEP) {
                let word = <[u8; 8]>::try_from(eight).map_or(0, u64::from_le_bytes);
                some = (0..STEP).fold(0, |some, n| some | self.rules.may_begin((word >> (8 * n)) as u32) << n);
                if some != 0 {
                    break;
                }
                skipped += STEP;
            }
            at += skipped;
            if some != 0 {
                for n in (0..STEP).filter(|n| some >> n & 1 == 1) {
                    self.look_at(text, at + n);
                }
                at += STEP;
            } else if skipped == 0 {
                break;
            }
        }
        for at in at..to.min(text.len().saturating_sub(shape::GRAM_BYTES - 1)) {
            if self.is_full() {
                return;
            }
            self.look_at(text, at);
        }
    }

    /// Looks at one place, with nothing but what is near enough to it.
    fn look_at(&mut self, text: &[u8], place: usize) {
        let start = place.saturating_sub(BEHIND_BYTES);
        let near = &text[start..text.len().min(place + AHEAD_BYTES)];
        let at = place - start;
        let rules = self.rules;
        for what in rules.beginning(rules::gram(&near[at..])) {
            let rule = match what {
                What::Token(number) => self.token(near, at, number),
                What::Pair(stem) if !self.fixture => pair::look(rules, near, at, stem, self.code),
                What::Url if !self.fixture => block::url_has_password(near, at).then_some("url-password"),
                What::Block if !self.fixture => block::is_private_key(near, at).then_some("private-key"),
                What::Tests => {
                    self.fixture |= self.code && begins_tests(&near[at..]);
                    None
                }
                _ => None,
            };
            if let Some(rule) = rule {
                self.hit(text, place, rule);
            }
        }
    }

    fn token(&mut self, near: &[u8], at: usize, number: u16) -> Option<&'static str> {
        let token = &self.rules.tokens[usize::from(number)];
        let anchor = token.shape.anchor()?;
        if !near[at..].starts_with(&anchor.text) || token.weak && self.fixture {
            return None;
        }
        let start = at.checked_sub(anchor.before)?;
        if !begins(near, start) {
            return None;
        }
        let end = token.shape.match_at(near, start, &mut self.random)?;
        let fits = (self.random.len() < 8 || random::is_even(&self.random) && !random::is_placeholder(&self.random))
            && !near[end..].starts_with(b"...")
            && !(token.alone
                && (is_base64_mark(start.checked_sub(1).map(|at| near[at])) || is_base64_mark(near.get(end).copied())))
            && (!token.loose || random::looks_random(&self.random))
            && !self.rules.stops.iter().any(|stop| random::find(&near[start..end], stop.as_bytes()));
        fits.then_some(token.name.as_str())
    }

    fn hit(&mut self, text: &[u8], at: usize, rule: &'static str) {
        // Places come in order, but for the second of two anchors of one token.
        if at > self.mark.0 {
            self.mark = (at, self.mark.1 + lines(&text[self.mark.0..at]));
        }
        let hit = Hit { line: self.mark.1, rule };
        if !self.is_full() && !self.hits.contains(&hit) {
            self.hits.push(hit);
        }
    }

    /// The text before this is gone; what follows counts from here.
    fn forget(&mut self, gone: &[u8]) {
        if self.mark.0 < gone.len() {
            self.mark.1 += lines(&gone[self.mark.0..]);
            self.mark.0 = gone.len();
        }
        self.mark.0 -= gone.len();
    }
}

/// Whether a module of tests begins here, with which Rust files end.
fn begins_tests(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"#[cfg(test)]");
    rest.is_some_and(|rest| random::find(&rest[..rest.len().min(160)], b"\nmod "))
}

fn lines(text: &[u8]) -> u64 {
    // Sums that fit a byte let the compiler compare many bytes at once.
    let short = |part: &[u8]| part.iter().map(|b| u8::from(*b == b'\n')).sum::<u8>();
    text.chunks(usize::from(u8::MAX)).map(|part| u64::from(short(part))).sum()
}

fn is_base64_mark(byte: Option<u8>) -> bool {
    matches!(byte, Some(b'+' | b'/'))
}

/// Whether a token may begin here: what is before it is no part of a longer word. The escapes of JSON, of URLs and of
/// terminals end in letters and digits, too.
fn begins(text: &[u8], at: usize) -> bool {
    let before = &text[..at];
    match before {
        _ if !text[at].is_ascii_alphanumeric() => true,
        [.., last] if !last.is_ascii_alphanumeric() => true,
        [] | [.., b'\\', b'n' | b't' | b'r' | b'b' | b'f'] => true,
        [.., b'%', h, l] | [.., b'\\', b'x', h, l] | [.., b'\\', b'u', b'0', b'0', h, l] => {
            h.is_ascii_hexdigit() && l.is_ascii_hexdigit()
        }
        [rest @ .., b'm'] => {
            let digits = rest.iter().rev().take_while(|b| b.is_ascii_digit() || **b == b';').count();
            rest[..rest.len() - digits].ends_with(b"[")
        }
        _ => false,
    }
}

/// Files in which a value without quotes is an expression.
fn is_code(path: &[u8]) -> bool {
    const EXTENSIONS: &[&[u8]] = &[
        b"rs", b"py", b"pyi", b"js", b"mjs", b"cjs", b"jsx", b"ts", b"tsx", b"mts", b"go", b"java", b"kt", b"swift",
        b"c", b"h", b"cc", b"cpp", b"hpp", b"cs", b"rb", b"php", b"lua", b"scala", b"dart", b"ex", b"exs", b"erl",
        b"hs", b"ml", b"clj", b"css", b"scss", b"vue", b"svelte", b"map", b"m", b"mm", b"r", b"jl", b"pl", b"pm",
        b"zig", b"nim", b"v", b"sol", b"proto", b"html", b"htm", b"wat",
    ];
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let Some(dot) = name.iter().rposition(|b| *b == b'.') else { return false };
    EXTENSIONS.iter().any(|e| name[dot + 1..].eq_ignore_ascii_case(e))
}

/// Tests, examples and documentation of programs, as their paths say.
fn is_fixture(path: &[u8]) -> bool {
    const DIRS: &[&[u8]] = &[
        b"test",
        b"tests",
        b"testing",
        b"testdata",
        b"test_data",
        b"test-data",
        b"fixtures",
        b"fixture",
        b"__tests__",
        b"__fixtures__",
        b"__snapshots__",
        b"__mocks__",
        b"mocks",
        b"spec",
        b"specs",
        b"e2e",
        b"benches",
        b"benchmark",
        b"benchmarks",
        b"fuzz",
        b"corpus",
        b"examples",
        b"example",
        b"samples",
        b"third_party",
    ];
    let mut parts = path.rsplit(|b| *b == b'/');
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let stem = name.split(|b| *b == b'.').next().unwrap_or_default();
    let marks: [&[u8]; 9] = [
        b".test.",
        b".spec.",
        b"_test.",
        b"_tests.",
        b"-test.",
        b".example",
        b".sample",
        b"test-vectors",
        b"test_vectors",
    ];
    let named = name.starts_with(b"test_")
        || stem == b"test"
        || stem == b"tests"
        || stem == b"conftest"
        || marks.iter().any(|m| random::find(&name, m))
        || name.ends_with(b".template");
    named || parts.any(|part| DIRS.iter().any(|d| part.eq_ignore_ascii_case(d)))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
