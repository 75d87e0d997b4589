//! What presets want of single files: something in them, a syntax, lines of a kind.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use crate::model::preset::Format;
use crate::model::syntax;

/// The largest file that is parsed as a whole, in bytes.
const PARSED_BYTES_MAX: u64 = 256 << 20;

/// A file or a directory has something in it.
pub(super) fn non_empty(path: &Path) -> Result<(), String> {
    let stat = path.metadata().map_err(|e| e.to_string())?;
    let empty = match stat.is_dir() {
        true => std::fs::read_dir(path).map_err(|e| e.to_string())?.next().is_none(),
        false => stat.len() == 0,
    };
    if empty { Err("it is empty".to_owned()) } else { Ok(()) }
}

/// Parses a file.
pub(super) fn parse(path: &Path, format: Format, has: &[String]) -> Result<(), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let names = match format {
        Format::Json if size > PARSED_BYTES_MAX => syntax::names_in_json(BufReader::new(file))?,
        _ if size > PARSED_BYTES_MAX => return Err(format!("it is too large to be parsed, with {size} bytes")),
        _ => {
            let mut bytes = Vec::new();
            file.take(PARSED_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            let text = std::str::from_utf8(&bytes).map_err(|_| "it is not text".to_owned())?;
            syntax::names(text, format)?
        }
    };
    match has.iter().find(|name| !names.iter().flatten().any(|n| n == *name)) {
        Some(name) => Err(format!("`{name}` is not in it")),
        None => Ok(()),
    }
}

/// JSON lines, of which the last may be torn: an agent that is killed while it writes leaves half a line.
pub(super) fn jsonl(path: &Path, field: Option<&str>, first: &[String], any: &[String]) -> Result<(), String> {
    let mut reader = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    let (mut line, mut number, mut found) = (Vec::new(), 0_u64, any.is_empty());
    let mut begun = false;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|e| e.to_string())? == 0 {
            break;
        }
        number += 1;
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let is_last = !line.ends_with(b"\n") || reader.fill_buf().map_err(|e| e.to_string())?.is_empty();
        let asked = (!begun && !first.is_empty()) || !found;
        let value = match asked {
            true => serde_json::from_slice::<serde_json::Value>(text).map(Some),
            false => serde_json::from_slice::<serde::de::IgnoredAny>(text).map(|_| None),
        };
        let value = match value {
            Ok(value) => value,
            Err(_) if is_last => break,
            Err(_) => return Err(format!("line {number} is no JSON")),
        };
        let word = field.and_then(|field| value.as_ref()?.get(field)?.as_str().map(str::to_owned));
        if !begun && !first.is_empty() && !word.as_ref().is_some_and(|w| first.contains(w)) {
            return Err(format!("its first line is none of {}", first.join(", ")));
        }
        begun = true;
        found |= word.is_some_and(|w| any.contains(&w));
    }
    // A file that somebody has only begun has nothing in it yet.
    if begun && !found { Err(format!("no line of it is one of {}", any.join(", "))) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_last_line_may_be_torn_and_no_other() {
        let check = |text: &str| jsonl(file(text).path(), None, &[], &[]);
        for good in ["", "{}\n", "{}\n{}", "{}\n{\"a\": \"tor", "{}\n\n{}\n", "{}\n{\"tor\n"] {
            check(good).unwrap_or_else(|e| panic!("{good:?}: {e}"));
        }
        assert_eq!(check("{}\n{\"tor\n{}\n").unwrap_err(), "line 2 is no JSON");
        assert_eq!(check("\0\0\0\n{}\n").unwrap_err(), "line 1 is no JSON");
    }

    #[test]
    fn first_and_any_lines_are_of_a_kind() {
        let words = |text: &[&str]| text.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let check = |text: &str, first: &[&str], any: &[&str]| {
            jsonl(file(text).path(), Some("type"), &words(first), &words(any))
        };
        let text = "{\"type\":\"meta\"}\n{\"type\":\"user\"}\n";
        check(text, &["meta"], &["user", "assistant"]).unwrap();
        assert!(check(text, &["user"], &[]).unwrap_err().contains("first line"));
        assert!(check(text, &[], &["assistant"]).unwrap_err().contains("no line"));
        check("", &["meta"], &["user"]).unwrap();
    }

    #[test]
    fn a_file_parses_and_has_what_it_needs() {
        let check = |text: &str, format, has: &[&str]| {
            parse(file(text).path(), format, &has.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>())
        };
        check("{\"a\": 1}", Format::Json, &["a"]).unwrap();
        check("a: 1", Format::Yaml, &["a"]).unwrap();
        assert!(check("a: [", Format::Yaml, &[]).is_err());
        assert_eq!(check("{}", Format::Json, &["providers"]).unwrap_err(), "`providers` is not in it");
    }
}
