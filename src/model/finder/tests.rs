//! What the content rule promises beside finding; what it finds is tested with the labelled set.

use proptest::prelude::{any, proptest};
use proptest::sample::{Index, select};

use super::*;

/// A token that no scanner knows before the two halves meet.
fn token() -> String {
    ["ghp_", "q7Zp3LxV9tKe2WmB", "c8f1E07b2D9a4635e1F0"].concat()
}

fn found(path: &str, text: &str) -> Vec<(u64, &'static str)> {
    find(path.as_bytes(), text.as_bytes()).into_iter().map(|h| (h.line, h.rule)).collect()
}

#[test]
fn a_hit_is_a_line_and_a_rule_and_comes_once() {
    let token = token();
    let text = format!("one\n{token} {token}\n\n# {token}\n");
    assert_eq!(found("notes.md", &text), [(2, "github-token"), (4, "github-token")]);
    assert!(!format!("{:?}", find(b"notes.md", text.as_bytes())).contains(&token));
    assert_eq!(found("notes.md", ""), []);
    assert_eq!(found("notes.md", "gh"), []);
}

#[test]
fn a_token_has_to_stand_by_itself() {
    let token = token();
    for text in [format!("x{token}"), format!("{token}x"), token[..39].to_owned(), token.to_uppercase()] {
        assert_eq!(found("notes.md", &text), [], "{text}");
    }
    for text in [format!("\\n{token}\\n"), format!("=%22{token}%22"), format!("\u{1b}[1;31m{token}\u{1b}[0m")] {
        assert_eq!(found("notes.md", &text), [(1, "github-token")], "{text}");
    }
}

#[test]
fn hits_end_before_they_fill_the_memory() {
    let text = format!("{}\n", token()).repeat(HITS_MAX + 20);
    assert_eq!(found("notes.md", &text).len(), HITS_MAX);
    let mut search = Search::new(b"notes.md");
    text.as_bytes().chunks(1000).for_each(|piece| search.push(piece));
    assert_eq!(search.finish(), find(b"notes.md", text.as_bytes()));
}

#[test]
fn tests_and_examples_are_told_by_their_path() {
    let line = ["password = \"", "q7Zp3LxV9tKe2WmB", "\""].concat();
    for path in ["main.py", "src/main.rs", "latest.txt", "contest/a.py", "testament.md"] {
        assert_eq!(found(path, &line), [(1, "password")], "{path}");
    }
    for path in
        ["tests/a.py", "a/Fixtures/x.json", "x.test.ts", "test_a.py", "conftest.py", ".env.example", "a_test.go"]
    {
        assert_eq!(found(path, &line), [], "{path}");
        // What a service can be used with is found wherever it is.
        assert_eq!(found(path, &token()), [(1, "github-token")], "{path}");
    }
}

#[test]
fn in_a_program_only_what_is_quoted_is_a_value() {
    let value = ["q7Zp3LxV", "9tKe2WmB"].concat();
    assert_eq!(found("a.py", &format!("token = {value}")), []);
    assert_eq!(found("a.py", &format!("token = \"{value}\"")), [(1, "secret-value")]);
    assert_eq!(found("a.conf", &format!("token = {value}")), [(1, "secret-value")]);
}

#[test]
fn text_has_no_nul() {
    assert!(is_text(b"") && is_text("naïve".as_bytes()) && !is_text(b"SQLite format 3\0"));
    let mut late = vec![b'a'; PROBE_BYTES];
    late.push(0);
    assert!(is_text(&late));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        words in proptest::collection::vec(select(vec![
            "ghp_", "password", " = ", "\"", "\n", "eyJ", ".", "://", "u:", "@h.io", "PRIVATE KEY", "-----BEGIN ", "-----",
            "q7Zp3LxV9tKe2WmB", "c8f1E07b2D9a4635e1F0", "sk-", "Bearer ", "token", "\\", "#[cfg(test)]\nmod t", " ",
        ]), 0..200),
        gap in 0usize..10_000,
        cuts in proptest::collection::vec(any::<Index>(), 0..6),
        name in select(vec!["a.rs", "a.md"]),
    ) {
        let half = words.len() / 2;
        let text = [words[..half].concat(), "- ".repeat(gap), words[half..].concat()].concat().into_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let mut search = Search::new(name.as_bytes());
        let mut last = 0;
        for cut in cuts {
            search.push(&text[last..cut]);
            last = cut;
        }
        search.push(&text[last..]);
        proptest::prop_assert_eq!(search.finish(), find(name.as_bytes(), &text));
    }

    #[test]
    fn any_bytes_are_looked_at_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..3000)) {
        find(b"x", &text);
    }
}
