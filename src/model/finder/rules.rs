//! The rules, read once from `rules.toml`, and the table by which the search meets them.

use std::sync::LazyLock;

use serde::Deserialize;

use super::pair;
use super::shape::{GRAM_BYTES, Shape};

/// The file.
pub(super) const TEXT: &str = include_str!("rules.toml");

/// The rules as they stand in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    stops: Vec<String>,
    token: Vec<ListedToken>,
    keyed: Vec<ListedKeyed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedToken {
    name: String,
    service: String,
    shapes: Vec<String>,
    #[serde(default)]
    loose: bool,
    #[serde(default)]
    alone: bool,
    #[serde(default)]
    weak: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedKeyed {
    name: String,
    service: String,
    words: Vec<String>,
    shapes: Vec<String>,
}

/// A shape that gives itself away.
pub(super) struct Token {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// The rest must look random, too.
    pub(super) loose: bool,
    /// Next to `+` or `/` it is a piece of base64.
    pub(super) alone: bool,
    /// Not looked for where tests and examples are.
    pub(super) weak: bool,
}

/// A value that is told by its key.
pub(super) struct Keyed {
    pub(super) name: String,
    pub(super) words: Vec<String>,
    pub(super) shapes: Vec<Shape>,
}

/// What may be at a place of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The token of this number.
    Token(u16),
    /// A key that says secret: this word of [`pair::STEMS`].
    Pair(u8),
    /// `://` of a URL.
    Url,
    /// `PRIVATE` of a private key's first line.
    Block,
    /// `#[cfg(test)]` before the tests in a Rust file.
    Tests,
}

/// All rules.
pub(super) struct Rules {
    pub(super) tokens: Vec<Token>,
    pub(super) keyed: Vec<Keyed>,
    pub(super) stops: Vec<String>,
    /// The name and the service of each rule, in the order of the file.
    pub(super) services: Vec<(String, String)>,
    /// A bit per hash of the first [`GRAM_BYTES`] bytes of what is looked for.
    bits: Box<[u64; BITS / 64]>,
    /// What those bytes may begin, in their order.
    grams: Vec<(u32, What)>,
    /// Where in `grams` those of a slot begin; a slot is the upper bits of the hash.
    slots: Vec<u16>,
}

/// Bits of the table. 8 KiB stay in the innermost cache, and one in a hundred is set.
const BITS: usize = 1 << 16;

/// Slots are fewer than bits: they are only asked once a bit is set.
const SLOT_SHIFT: u32 = 4;

/// The rules that are compiled in.
pub(super) static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let listed: Listed = toml::from_str(TEXT).expect("the shipped rules parse: a test reads them");
    Rules::new(listed)
});

impl Rules {
    fn new(listed: Listed) -> Rules {
        let shape = |text: &String| Shape::parse(text).expect("the shipped shapes parse: a test reads them");
        let mut services = Vec::new();
        let mut tokens = Vec::new();
        for ListedToken { name, service, shapes, loose, alone, weak } in listed.token {
            tokens.extend(shapes.iter().map(|s| Token { name: name.clone(), shape: shape(s), loose, alone, weak }));
            services.push((name, service));
        }
        let mut keyed = Vec::new();
        for ListedKeyed { name, service, words, shapes } in listed.keyed {
            keyed.push(Keyed { name: name.clone(), words, shapes: shapes.iter().map(shape).collect() });
            services.push((name, service));
        }
        let mut grams = grams(&tokens);
        grams.sort_by_key(|(gram, _)| (hash(*gram), *gram));
        let mut bits = Box::new([0; BITS / 64]);
        let mut slots = vec![0; (BITS >> SLOT_SHIFT) + 1];
        for (gram, _) in &grams {
            bits[hash(*gram) / 64] |= 1 << (hash(*gram) % 64);
            slots[(hash(*gram) >> SLOT_SHIFT) + 1] += 1;
        }
        for slot in 1..slots.len() {
            slots[slot] += slots[slot - 1];
        }
        Rules { tokens, keyed, stops: listed.stops, services, bits, grams, slots }
    }

    /// 1 if something may begin with these bytes, the lowest of them first; a fourth one plays no part.
    #[inline]
    pub(super) fn may_begin(&self, gram: u32) -> u64 {
        let hash = hash(gram);
        self.bits[hash / 64] >> (hash % 64) & 1
    }

    /// What may begin with these bytes.
    pub(super) fn beginning(&self, gram: u32) -> impl Iterator<Item = What> {
        let slot = hash(gram) >> SLOT_SHIFT;
        let candidates = &self.grams[usize::from(self.slots[slot])..usize::from(self.slots[slot + 1])];
        candidates.iter().filter(move |(g, _)| *g == gram).map(|(_, what)| *what)
    }
}

/// The first bytes of everything.
fn grams(tokens: &[Token]) -> Vec<(u32, What)> {
    let mut grams = vec![(gram(b"://"), What::Url), (gram(b"PRI"), What::Block), (gram(b"#[c"), What::Tests)];
    for (number, token) in (0u16..).zip(tokens) {
        let anchor = token.shape.anchor().expect("a token's shape has fixed text: a test reads each");
        grams.push((gram(&anchor.text), What::Token(number)));
    }
    for (number, stem) in (0u8..).zip(pair::STEMS) {
        // Keys are written in any case.
        for upper in 0..1 << GRAM_BYTES {
            let mut bytes = stem.as_bytes()[..GRAM_BYTES].to_vec();
            bytes
                .iter_mut()
                .zip(0..)
                .filter(|(_, at)| upper >> at & 1 == 1)
                .for_each(|(b, _)| b.make_ascii_uppercase());
            grams.push((gram(&bytes), What::Pair(number)));
        }
    }
    grams
}

/// The first [`GRAM_BYTES`] bytes as a number, the first of them lowest.
pub(super) fn gram(bytes: &[u8]) -> u32 {
    u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16
}

/// Multiplicative hashing (Knuth, volume 3, section 6.4), to a bit's number. The factor ends in eight zeros, so that a
/// fourth byte of `gram` plays no part.
#[inline]
fn hash(gram: u32) -> usize {
    (gram.wrapping_mul(0x9e37_79b1 << 8) >> 16) as usize
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_shipped_rules_are_many_and_each_is_met() {
        let rules = &*RULES;
        assert!(rules.services.iter().map(|(_, s)| s).collect::<BTreeSet<_>>().len() >= 100);
        for (number, token) in (0u16..).zip(&rules.tokens) {
            let first = gram(&token.shape.anchor().unwrap().text);
            assert_eq!(rules.may_begin(first), 1, "{}", token.name);
            assert!(rules.beginning(first).any(|what| what == What::Token(number)), "{}", token.name);
        }
        assert!(rules.keyed.iter().all(|k| k.words.iter().all(|w| *w == w.to_ascii_lowercase())));
    }

    #[test]
    fn the_table_is_sparse() {
        let set: u32 = RULES.bits.iter().map(|word| word.count_ones()).sum();
        assert!(set * 50 < u32::try_from(BITS).unwrap(), "{set} bits are set");
        assert_eq!(RULES.beginning(gram(b"zqj")).count(), 0);
    }
}
