//! The content rule against a labelled set: what it must find, what must not trip it. The set is `tests/labelled`.

use base64::Engine as _;
use lifeboat::model::finder::{Search, find, services};

/// Values made of each template. More would only repeat what these show.
const SEEDS: u64 = 8;

/// What a value may stand in. No word of these says secret: it is the value that has to be seen.
const CONTEXTS: &[(&str, &str, &str)] = &[
    ("settings.conf", "SOME_THING=", "\n"),
    ("a.json", "{\"thing\": \"", "\", \"n\": 1}"),
    ("session.jsonl", "{\"content\":\"now run it with \\\"", "\\\" and see\"}"),
    ("session.jsonl", "{\"content\":\"first line\\n", "\\nlast line\"}"),
    ("a.yaml", "thing: ", "\nother: 1\n"),
    ("notes.md", "I was told to use ", " for that"),
    ("notes.md", "and it is `", "`."),
    ("main.py", "run(\"", "\")"),
    ("access.log", "GET /x?thing=%22", "%22 HTTP/1.1"),
    ("typescript", "\u{1b}[32m", "\u{1b}[0m"),
];

/// SplitMix64 (Steele, Lea, Flood 2014): the same values in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(n).unwrap()).unwrap()
    }

    fn of(&mut self, set: &str, length: usize) -> String {
        let set = set.as_bytes();
        (0..length).map(|_| char::from(set[self.below(set.len())])).collect()
    }
}

const DIGITS: &str = "0123456789";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Fills a template in.
fn fill(template: &str, random: &mut Random) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').map(|at| open + at);
        let made = close.and_then(|close| Some((close, make(&rest[open + 1..close], random)?)));
        match made {
            Some((close, value)) => {
                out.push_str(&rest[..open]);
                out.push_str(&value);
                rest = &rest[close + 1..];
            }
            None => {
                out.push_str(&rest[..=open]);
                rest = &rest[open + 1..];
            }
        }
    }
    out.push_str(rest);
    // `\\n` in the file is what a program writes as `\n`.
    out.replace("\\\\", "\u{0}").replace("\\n", "\n").replace("\\t", "\t").replace('\u{0}', "\\")
}

fn make(what: &str, random: &mut Random) -> Option<String> {
    if what == "uuid" {
        let parts = [8, 4, 4, 4, 12].map(|n| random.of("0123456789abcdef", n));
        return Some(parts.join("-"));
    }
    let (set, length) = what.split_once(':')?;
    let length: usize = length.parse().ok()?;
    let all = format!("{LOWER}{UPPER}{DIGITS}");
    Some(match set {
        "hex" => random.of("0123456789abcdef", length),
        "HEX" => random.of("0123456789ABCDEF", length),
        "alnum" => random.of(&all, length),
        "lower" => random.of(&format!("{LOWER}{DIGITS}"), length),
        "upper" => random.of(&format!("{UPPER}{DIGITS}"), length),
        "letter" => random.of(&format!("{LOWER}{UPPER}"), length),
        "digit" => random.of(DIGITS, length),
        "base32" => random.of(&format!("{UPPER}234567"), length),
        "b64" => random.of(&format!("{all}+/"), length),
        "b64url" => random.of(&format!("{all}-_"), length),
        "pass" => random.of(&format!("{all}-_.!#%^*+"), length),
        "login" => base64::engine::general_purpose::STANDARD.encode(format!("ci:{}", random.of(&all, length))),
        _ => return None,
    })
}

fn rows(name: &str) -> Vec<(String, String)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/labelled").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split_once('\t').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn nearly_every_secret_is_found_whatever_it_stands_in() {
    let rows = rows("secrets.tsv");
    assert!(rows.len() >= 150);
    let (mut total, mut missed) = (0, Vec::new());
    for (service, template) in &rows {
        let whole = template.strip_prefix('=');
        for seed in 0..SEEDS {
            let mut random = Random(seed);
            let value = fill(whole.unwrap_or(template), &mut random);
            let texts: Vec<(&str, String)> = match whole {
                Some(_) => vec![(if value.contains("&str") { "a.rs" } else { "a.txt" }, value)],
                None => {
                    CONTEXTS.iter().map(|(path, before, after)| (*path, format!("{before}{value}{after}"))).collect()
                }
            };
            for (path, text) in texts {
                total += 1;
                if find(path.as_bytes(), text.as_bytes()).is_empty() {
                    missed.push(format!("{service}, seed {seed}, in {path}"));
                }
            }
        }
    }
    assert!(total >= 8000);
    let allowed = total * 2 / 100;
    assert!(missed.len() <= allowed, "missed {} of {total}:\n{}", missed.len(), missed.join("\n"));
    // No kind is missed as a whole: what is lost are single values that look like words by chance.
    for (service, template) in &rows {
        let of = missed.iter().filter(|m| m.starts_with(&format!("{service}, "))).count();
        let most = if template.starts_with('=') { 8 } else { 8 * CONTEXTS.len() };
        assert!(of * 4 <= most, "{service} is missed {of} times of {most}");
    }
}

#[test]
fn nothing_harmless_is_taken_for_a_secret() {
    let rows = rows("harmless.tsv");
    assert!(rows.len() >= 200);
    let mut wrong = Vec::new();
    for (path, template) in &rows {
        for seed in 0..SEEDS {
            let text = fill(template, &mut Random(seed + 1000));
            for hit in find(path.as_bytes(), text.as_bytes()) {
                wrong.push(format!("{path}, seed {seed}: {} in {template}", hit.rule));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_set_covers_what_there_are_rules_for() {
    assert!(services().count() >= 100);
    // What a rule of the table says is what a hit says.
    let text = fill("a\nb\n GITHUB: ghp_{alnum:36}", &mut Random(7));
    let hits = find(b"notes.md", text.as_bytes());
    assert_eq!(hits.iter().map(|h| (h.line, h.rule)).collect::<Vec<_>>(), [(3, "github-token")]);
}

#[test]
fn pieces_of_any_size_give_what_the_whole_gives() {
    let secrets: Vec<String> =
        rows("secrets.tsv").iter().map(|(_, t)| fill(t.trim_start_matches('='), &mut Random(3))).collect();
    let mut text = String::new();
    for (n, secret) in secrets.iter().enumerate() {
        text.push_str(secret);
        text.push_str(&"\nthe lines between them hold tokens, keys and words\n".repeat(n % 7 * 40));
        // After so many hits a search ends, and this is about finding.
        if n % 40 == 39 {
            let whole = find(b"notes.md", text.as_bytes());
            assert!(whole.len() >= 20);
            for size in [1, 7, 64, 1000, 8192, 100_000] {
                let mut search = Search::new(b"notes.md");
                text.as_bytes().chunks(size).for_each(|piece| search.push(piece));
                assert_eq!(search.finish(), whole, "in pieces of {size}");
            }
            text.clear();
        }
    }
}
