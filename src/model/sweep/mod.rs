//! The sweep: the literal values of secret files, searched for in everything that goes to a state archive.
//!
//! A value may stand there as it is, as JSON writes it, percent-encoded as in URLs, or inside base64 text, which
//! can have it at three alignments. All these forms are *needles*, and all are at least [`VALUE_BYTES_MIN`] bytes long.
//! So instead of a look at every byte, a look at every fifth is enough: of the 8 bytes in the middle of a needle the five
//! groups of 4 bytes are in a table, and wherever the needle stands, one of them begins at a place that is looked at (this is
//! the idea of Wu and Manber, 1994, with a constant step). A look is one access to a table of bits that stays in the
//! processor's caches, which makes it several times faster than an automaton that takes each byte; and unlike a library's,
//! this table holds pieces of values in memory that is wiped.
//!
//! What a literal search cannot see: a value that is compressed, encrypted or split inside a file, as it is between two
//! pages of a database, and one that was changed in any other way.

mod collect;

use zeroize::Zeroizing;

pub use collect::{VALUE_BYTES_MIN, Value, collect};

/// Bytes of a group.
const GRAM_BYTES: usize = 4;

/// From one look to the next: as far as [`VALUE_BYTES_MIN`] allows.
const STEP: usize = VALUE_BYTES_MIN - GRAM_BYTES + 1;

/// Of longer values only so many bytes in the middle are searched for: they are as good as the whole.
const CORE_BYTES_MAX: usize = 192;

/// What is kept of a stream between two pieces, on both sides of where the search is: any needle fits. A byte becomes
/// at most six, as `\u001f`, and twelve where it is escaped twice.
const SEAM_BYTES: usize = CORE_BYTES_MAX * 12 + VALUE_BYTES_MIN;

/// Bits of the table for each group in it, so that few looks are in vain, and their limits.
const BITS_PER_GRAM: usize = 64;
const BITS_MIN: usize = 1 << 14;
const BITS_MAX: usize = 1 << 22;

/// How a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// As it is.
    Plain,
    /// With the escapes of JSON, once or twice.
    Json,
    /// Percent-encoded.
    Url,
    /// Inside base64 text, of either alphabet.
    Base64,
}

/// A value that was found. It does not tell the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hit {
    /// The value's place in the list that the [`Sweep`] was made of; of equal values the first.
    pub value: usize,
    /// How it was written.
    pub form: Form,
    /// Where in the stream, in bytes; of long values where their middle begins.
    pub offset: u64,
}

/// What is searched for. Made once a run and shared by all searches; everything that holds parts of values is wiped
/// when it goes.
pub struct Sweep {
    needles: Vec<Needle>,
    /// A bit per hash of a group.
    bits: Zeroizing<Vec<u64>>,
    /// How far a hash is shifted to make a bit's number.
    shift: u32,
    /// The groups in the order of their hashes, and whose they are.
    grams: Zeroizing<Vec<u32>>,
    owners: Vec<Owner>,
}

struct Needle {
    bytes: Zeroizing<Vec<u8>>,
    value: usize,
    form: Form,
}

/// A needle, and where in it a group is.
#[derive(Clone, Copy)]
struct Owner {
    needle: u32,
    at: u32,
}

impl std::fmt::Debug for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sweep for {} needles", self.needles.len())
    }
}

impl Sweep {
    /// Prepares the search for `values`. Those that are shorter than [`VALUE_BYTES_MIN`] are left out.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Sweep {
        let mut needles: Vec<Needle> = Vec::new();
        let mut seen: std::collections::HashSet<[u8; 32]> = std::collections::HashSet::new();
        for (number, value) in values.into_iter().enumerate().filter(|(_, v)| v.len() >= VALUE_BYTES_MIN) {
            let core = CORE_BYTES_MAX.min(value.len());
            let start = (value.len() - core) / 2;
            for (form, bytes) in forms(&value[start..start + core]) {
                // A digest tells equal needles without a second copy of any.
                if bytes.len() >= VALUE_BYTES_MIN && seen.insert(*blake3::hash(&bytes).as_bytes()) {
                    needles.push(Needle { bytes, value: number, form });
                }
            }
        }
        Sweep::index(needles)
    }

    fn index(needles: Vec<Needle>) -> Sweep {
        let count = needles.len() * STEP;
        let bits = (count * BITS_PER_GRAM).next_power_of_two().clamp(BITS_MIN, BITS_MAX);
        let shift = 32 - bits.trailing_zeros();
        let mut table = Zeroizing::new(vec![0u64; bits / 64]);
        let mut all = Zeroizing::new(Vec::with_capacity(count));
        for (number, needle) in (0u32..).zip(&needles) {
            let middle = (needle.bytes.len() - VALUE_BYTES_MIN) / 2;
            for at in middle..middle + STEP {
                let gram = gram(&needle.bytes[at..]);
                let bit = (hash(gram) >> shift) as usize;
                table[bit / 64] |= 1 << (bit % 64);
                all.push((hash(gram), gram, number, at as u32));
            }
        }
        all.sort_unstable();
        let mut grams = Zeroizing::new(Vec::with_capacity(count));
        grams.extend(all.iter().map(|(_, gram, ..)| *gram));
        let owners = all.iter().map(|(_, _, needle, at)| Owner { needle: *needle, at: *at }).collect();
        Sweep { needles, bits: table, shift, grams, owners }
    }

    /// A digest of all that is searched for, keyed so that whoever reads it can guess at no value.
    pub fn tag(&self, key: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(key);
        for needle in &self.needles {
            hasher.update(&(needle.bytes.len() as u64).to_le_bytes()).update(&needle.bytes);
        }
        *hasher.finalize().as_bytes()
    }

    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    /// Begins a search through a stream.
    pub fn search(&self) -> Search<'_> {
        let seam = Zeroizing::new(Vec::with_capacity(5 * SEAM_BYTES));
        Search { sweep: self, seam, next: 0, offset: 0 }
    }

    /// Searches a whole buffer.
    pub fn find(&self, text: &[u8], each: &mut dyn FnMut(Hit)) {
        self.look(text, 0, text.len(), 0, each);
    }

    /// Looks at each [`STEP`]th place from `from` to before `to`, and gives the next one. `base` is the offset of `text`.
    fn look(&self, text: &[u8], from: usize, to: usize, base: u64, each: &mut dyn FnMut(Hit)) -> usize {
        let to = to.min((text.len() + 1).saturating_sub(GRAM_BYTES));
        if from >= to || self.is_empty() {
            return from;
        }
        // Of whole steps each window has the bytes of one look, so that the loop has nothing to check.
        let looks = (to - from).div_ceil(STEP);
        let shift = self.shift;
        let bits = &self.bits[..];
        let mask = bits.len() - 1;
        for (number, window) in text[from..].windows(GRAM_BYTES).step_by(STEP).take(looks).enumerate() {
            let gram = gram(window);
            let bit = (hash(gram) >> shift) as usize;
            if bits[(bit / 64) & mask] >> (bit % 64) & 1 == 1 {
                self.compare(text, from + number * STEP, gram, base, each);
            }
        }
        from + looks * STEP
    }

    #[cold]
    fn compare(&self, text: &[u8], place: usize, gram: u32, base: u64, each: &mut dyn FnMut(Hit)) {
        let key = |gram: u32| (hash(gram), gram);
        let first = self.grams.partition_point(|g| key(*g) < key(gram));
        for (_, owner) in self.grams[first..].iter().zip(&self.owners[first..]).take_while(|(g, _)| **g == gram) {
            let needle = &self.needles[owner.needle as usize];
            let Some(start) = place.checked_sub(owner.at as usize) else { continue };
            if text[start..].starts_with(&needle.bytes) {
                each(Hit { value: needle.value, form: needle.form, offset: base + start as u64 });
            }
        }
    }
}

/// A search through a stream that comes in pieces of any size.
pub struct Search<'a> {
    sweep: &'a Sweep,
    /// The end of what was taken so far.
    seam: Zeroizing<Vec<u8>>,
    /// The next place to look at, in `seam`.
    next: usize,
    /// The offset of `seam` in the stream.
    offset: u64,
}

impl std::fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Search at {}", self.offset)
    }
}

impl Search<'_> {
    /// Takes the next piece of the stream, and gives each hit once it is sure.
    pub fn push(&mut self, piece: &[u8], each: &mut dyn FnMut(Hit)) {
        if self.sweep.is_empty() {
            return;
        }
        // Where two pieces meet, a copy is searched; what is far from both ends of the piece is not copied.
        let head = piece.len().min(2 * SEAM_BYTES);
        let joined = self.seam.len();
        self.seam.extend_from_slice(&piece[..head]);
        let end = self.seam.len().saturating_sub(SEAM_BYTES);
        self.next = self.sweep.look(&self.seam, self.next, end, self.offset, each).max(self.next);
        if head < piece.len() {
            // The place to go on from lies in the piece, and all that a needle there may need before it, too.
            let next = self.next - joined;
            let start = self.offset + joined as u64;
            let next = self.sweep.look(piece, next, piece.len() - SEAM_BYTES, start, each).max(next);
            let kept = next.saturating_sub(SEAM_BYTES);
            self.seam.clear();
            self.seam.extend_from_slice(&piece[kept..]);
            self.offset = start + kept as u64;
            self.next = next - kept;
        } else {
            let gone = self.next.saturating_sub(SEAM_BYTES).min(self.seam.len());
            self.seam.drain(..gone);
            self.offset += gone as u64;
            self.next -= gone;
        }
    }

    /// Ends the stream.
    pub fn finish(self, each: &mut dyn FnMut(Hit)) {
        self.sweep.look(&self.seam, self.next, self.seam.len(), self.offset, each);
    }
}

/// The first [`GRAM_BYTES`] bytes as a number.
#[inline]
fn gram(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Multiplicative hashing (Knuth, volume 3, section 6.4); the upper bits are the good ones.
#[inline]
fn hash(gram: u32) -> u32 {
    gram.wrapping_mul(0x9e37_79b1)
}

/// A value in all its forms; some may be equal.
fn forms(value: &[u8]) -> Vec<(Form, Zeroizing<Vec<u8>>)> {
    let json = json(value, false);
    let mut forms = vec![
        (Form::Json, self::json(&json, false)),
        (Form::Json, self::json(value, true)),
        (Form::Url, percent(value, b"0123456789ABCDEF", false)),
        (Form::Url, percent(value, b"0123456789abcdef", false)),
        (Form::Url, percent(value, b"0123456789ABCDEF", true)),
    ];
    forms.insert(0, (Form::Json, json));
    forms.insert(0, (Form::Plain, Zeroizing::new(value.to_vec())));
    for alphabet in
        [&base64::engine::general_purpose::STANDARD_NO_PAD, &base64::engine::general_purpose::URL_SAFE_NO_PAD]
    {
        forms.extend((0..3).map(|before| (Form::Base64, aligned(alphabet, value, before))));
    }
    forms
}

/// What JSON makes of a value; some writers escape slashes, too.
fn json(value: &[u8], slashes: bool) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(value.len() * 6));
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'/' if slashes => out.extend_from_slice(b"\\/"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

/// Percent-encoding (RFC 3986, section 2.1), or that of forms, in which a space is `+`.
fn percent(value: &[u8], digits: &[u8; 16], form: bool) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(value.len() * 3));
    for byte in value.iter().copied() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') || byte == b'~' && !form {
            out.push(byte);
        } else if byte == b' ' && form {
            out.push(b'+');
        } else {
            out.extend_from_slice(&[b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
        }
    }
    out
}

/// The characters of base64 that a value decides alone, if `before` bytes are before it in a group of three.
fn aligned(alphabet: &impl base64::Engine, value: &[u8], before: usize) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(Vec::with_capacity(before + value.len()));
    padded.resize(before, 0);
    padded.extend_from_slice(value);
    let mut text = Zeroizing::new(vec![0; padded.len().div_ceil(3) * 4]);
    let length = alphabet.encode_slice(&padded, &mut text).unwrap_or_default();
    // Six bits a character: the first ones are shared with what is before, the last one with what follows.
    let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    out.extend_from_slice(text[..length].get(first..last).unwrap_or_default());
    out
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
