//! The targets of `tests/fuzz` on its corpus and near it, without a fuzzer: what it found once stays mended.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Changed seeds that each target is fed with.
const ROUNDS: u64 = 4000;

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end.max(1)
    }
}

/// A seed with a few bytes changed, cut, repeated, or taken from another one.
fn change(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut out = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(out.len());
        let end = (at + 1 + numbers.below(40)).min(out.len());
        match numbers.below(6) {
            _ if out.is_empty() => out.push(b'a'),
            0 => out[at] ^= 1 << numbers.below(8),
            1 => out[at] = *b"\0/.\n\"09-\xff{".get(numbers.below(10)).unwrap(),
            2 => drop(out.drain(at..end)),
            3 => drop(out.splice(at..at, out[at..end].to_vec())),
            4 => {
                let other = &seeds[numbers.below(seeds.len())];
                let from = numbers.below(other.len());
                let piece = other[from..(from + numbers.below(200)).min(other.len())].to_vec();
                drop(out.splice(at..end, piece));
            }
            _ => {
                // Another number in the place of one.
                let digits = out[at..].iter().take_while(|b| b.is_ascii_digit()).count();
                let other = ["0", "1", "4096", "65535", "4294967296", "9223372036854775807", "18446744073709551615"];
                drop(out.splice(at..at + digits, other[numbers.below(other.len())].bytes()));
            }
        }
    }
    out
}

#[test]
fn the_corpus_and_what_is_near_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in targets::ALL {
        let files = std::fs::read_dir(corpus.join(name)).unwrap();
        let mut seeds: Vec<Vec<u8>> = files.map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect();
        assert!(seeds.len() > 3, "{name}");
        seeds.sort();
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let changed = (0..ROUNDS).map(|_| change(&seeds, &mut numbers)).collect::<Vec<_>>();
        for input in seeds.iter().chain(&changed) {
            let run = std::panic::catch_unwind(|| target(input));
            assert!(run.is_ok(), "{name} fails on b\"{}\"", input.escape_ascii());
        }
    }
}

/// What hours of fuzzing found to reach something that nothing else does.
#[test]
fn what_a_fuzzer_came_across() {
    let pack = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus.tar.zst");
    let plain = zstd::Decoder::new(std::fs::File::open(pack).unwrap()).unwrap();
    let targets: BTreeMap<&str, fn(&[u8])> = targets::ALL.into_iter().collect();
    let mut units: BTreeMap<String, u64> = BTreeMap::new();
    for entry in tar::Archive::new(plain).entries().unwrap() {
        let mut entry = entry.unwrap();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().unwrap().components().next().unwrap().as_os_str().to_str().unwrap().to_owned();
        let mut input = Vec::new();
        entry.read_to_end(&mut input).unwrap();
        let run = std::panic::catch_unwind(|| targets[name.as_str()](&input));
        assert!(run.is_ok(), "{name} fails on b\"{}\"", input.escape_ascii());
        *units.entry(name).or_default() += 1;
    }
    assert!(units.len() == targets.len() && units.values().all(|n| *n > 100), "{units:?}");
}
