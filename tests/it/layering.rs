//! The layers of the design, kept apart by reading the source: who imports whom, and which words belong to whom.

use std::path::{Path, PathBuf};

/// A word, the places that own it, and why they do.
struct Owned {
    word: &'static str,
    /// Prefixes of paths below the crate.
    places: &'static [&'static str],
    why: &'static str,
}

/// Everything here reads or changes the world outside the process, and a reader of the other files may rely on that.
const OWNED: &[Owned] = &[
    Owned {
        word: "std::fs",
        places: &["src/host/", "src/commands/"],
        why: "files are the host's; commands read the configuration and keep pending commits",
    },
    Owned { word: "std::net", places: &[], why: "the store owns the network, through tokio" },
    Owned { word: "std::env", places: &["src/host/world.rs", "src/main.rs"], why: "the environment is the World's" },
    Owned {
        word: "std::process",
        places: &["src/host/", "src/main.rs", "src/cli.rs", "src/output.rs"],
        why: "processes are the host's; cli and output know exit codes",
    },
    Owned { word: "SystemTime", places: &["src/host/"], why: "the clock is the World's" },
    Owned {
        word: "Instant::now",
        places: &["src/host/", "src/commands/backup.rs", "src/commands/restore.rs"],
        why: "reports say how long a command took; nothing is decided by it",
    },
    Owned { word: "tokio", places: &["src/host/store/"], why: "async stays inside the store" },
    Owned {
        word: "object_store",
        places: &["src/host/store/", "src/host/world.rs"],
        why: "one folder knows the store's crate; the World lets tests put something in between",
    },
    Owned {
        word: "rusqlite",
        places: &["src/host/catalog", "src/host/database"],
        why: "the catalog, and other people's databases",
    },
    Owned { word: "println!", places: &["src/output.rs"], why: "only output prints" },
    Owned { word: "eprintln!", places: &["src/output.rs"], why: "only output prints" },
    Owned { word: "std::io::stdout", places: &["src/output.rs"], why: "only output prints" },
    Owned { word: "io::stderr", places: &["src/output.rs", "src/host/world.rs"], why: "only output prints" },
];

/// What a layer may not mention.
const LAYERS: &[(&str, &[&str])] = &[
    ("src/model/", &["stream", "host", "commands", "cli", "output"]),
    ("src/stream/", &["host", "commands", "cli", "output"]),
    ("src/host/", &["stream", "commands", "cli", "output"]),
    ("src/commands/", &["cli", "output"]),
    ("src/error.rs", &["stream", "host", "commands", "cli", "output"]),
];

/// Left-overs of work that is not done.
const UNDONE: &[&str] = &["TODO", "FIXME", "XXX", "dbg!(", "todo!(", "unimplemented!("];

#[test]
fn layers_import_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for_each_line(&mut |file, number, line| {
        // Grouped from the top, names would hide from this test.
        if ["use crate::{", "use std::{"].iter().any(|group| line.contains(group)) {
            wrong.push(format!("{file}:{number}: import each module with a `use` of its own"));
        }
        let Some((layer, banned)) = LAYERS.iter().find(|(layer, _)| file.starts_with(layer)) else { return };
        for name in mentioned(line) {
            if banned.contains(&name) {
                wrong.push(format!("{file}:{number}: {layer} may not know crate::{name}"));
            }
        }
    });
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn words_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for_each_line(&mut |file, number, line| {
        for owned in OWNED {
            let here = owned.places.iter().any(|place| file.starts_with(place));
            if !here && holds_word(line, owned.word) {
                wrong.push(format!("{file}:{number}: `{}` does not belong here: {}", owned.word, owned.why));
            }
        }
    });
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_allowance_is_used() {
    let mut unused: Vec<String> =
        OWNED.iter().flat_map(|o| o.places.iter().map(|place| format!("{place} owns `{}`", o.word))).collect();
    for_each_line(&mut |file, _, line| {
        for owned in OWNED.iter().filter(|o| holds_word(line, o.word)) {
            let places = owned.places.iter().filter(|place| file.starts_with(**place));
            let used: Vec<String> = places.map(|place| format!("{place} owns `{}`", owned.word)).collect();
            unused.retain(|u| !used.contains(u));
        }
    });
    // Nothing is printed through the macros at all, which is as good.
    unused.retain(|u| !u.contains("println!"));
    assert!(unused.is_empty(), "nothing needs these any more:\n{}", unused.join("\n"));
}

#[test]
fn nothing_is_left_undone_and_every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for (file, text) in files("src").into_iter().chain(files("tests/it")) {
        if !text.starts_with("//! ") {
            wrong.push(format!("{file}:1: the file does not begin with a `//!` line"));
        }
        if file.ends_with("layering.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in UNDONE.iter().filter(|word| line.contains(*word)) {
                wrong.push(format!("{file}:{}: `{word}`", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_test_file_is_listed() {
    let main = std::fs::read_to_string(root().join("tests/it/main.rs")).unwrap();
    for (file, _) in files("tests/it") {
        let module = file.trim_start_matches("tests/it/").trim_end_matches(".rs");
        if module == "main" || module.contains('/') {
            continue;
        }
        assert!(main.lines().any(|l| l == format!("mod {module};")), "{file}: main.rs has no `mod {module};`");
    }
}

#[test]
fn the_test_sees_what_it_looks_for() {
    assert_eq!(mentioned("use crate::host::world::World; crate::model::x"), ["host", "model"]);
    assert_eq!(mentioned("pub(in crate::stream) fn"), ["stream"]);
    assert!(holds_word("let x = std::fs::read(y);", "std::fs") && holds_word("use tokio;", "tokio"));
    assert!(!holds_word("std::fsx", "std::fs") && !holds_word("let stokio = 1;", "tokio"));
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n"), "a\n");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `dir` with its path from the crate's root, in order.
fn files(dir: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut pending = vec![root().join(dir)];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push((name(&path), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!out.is_empty());
    out.sort();
    out
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

/// Calls `each` with every line of the program: no comments, no tests.
fn for_each_line(each: &mut dyn FnMut(&str, usize, &str)) {
    for (file, text) in files("src") {
        if file.ends_with("tests.rs") {
            continue;
        }
        for (number, line) in without_tests(&text).lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                each(&file, number + 1, line);
            }
        }
    }
}

/// A file up to its tests. What follows them would be missed, so tests come last.
fn without_tests(text: &str) -> &str {
    let test = text.match_indices("#[cfg(test)]").find(|(at, _)| {
        let after = text[*at..].lines().skip(1).find(|l| !l.trim_start().starts_with("#["));
        after.is_some_and(|l| l.trim_start().starts_with("mod ") && l.trim_end().ends_with('{'))
    });
    test.map_or(text, |(at, _)| &text[..at])
}

/// The modules of this crate that a line names.
fn mentioned(line: &str) -> Vec<&str> {
    let after = line.match_indices("crate::").map(|(at, word)| &line[at + word.len()..]);
    let ends = |rest: &str| rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    after.map(|rest| &rest[..ends(rest)]).collect()
}

fn holds_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let after = &line[at + word.len()..];
        !part(line[..at].chars().next_back()) && (word.ends_with('!') || !part(after.chars().next()))
    })
}
