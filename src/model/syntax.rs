//! Whether a configuration parses. An agent that finds its own cut short does not start.

use std::fmt;
use std::io::Read;

use saphyr_parser::{Event, Parser};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::preset::Format;

/// How deep brackets of JSON5 may be nested: its parser goes one call deeper for each.
const DEPTH_MAX: usize = 500;

/// The names at the top of a text, where it is a map of something.
///
/// # Errors
/// What is wrong, with a line where there is one. A parser's own words may repeat what stands in the text, which may be a
/// secret, and are not among them.
pub fn names(text: &str, format: Format) -> Result<Option<Vec<String>>, String> {
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    match format {
        Format::Json => serde_json::from_str(text).map(Top::names).map_err(|e| no_json(&e)),
        Format::Json5 => json5_names(text),
        Format::Toml => {
            let table: toml::Table = toml::from_str(text).map_err(|e| {
                let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count());
                format!("it is no TOML near line {line}")
            })?;
            Ok(Some(table.keys().cloned().collect()))
        }
        Format::Yaml => yaml_names(text),
    }
}

/// The same of JSON that is too much for memory.
///
/// # Errors
/// As [`names`], and when it cannot be read.
pub fn names_in_json(from: impl Read) -> Result<Option<Vec<String>>, String> {
    serde_json::from_reader(from).map(Top::names).map_err(|e| match e.is_io() {
        true => std::io::Error::from(e).to_string(),
        false => no_json(&e),
    })
}

fn no_json(e: &serde_json::Error) -> String {
    format!("it is no JSON from line {} on", e.line())
}

/// What stands at the top. Everything below is parsed as well, as deep as the parser goes, and kept nowhere.
struct Top(Option<Vec<String>>);

impl Top {
    fn names(self) -> Option<Vec<String>> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AtTop).map(Top)
    }
}

struct AtTop;

impl<'de> Visitor<'de> for AtTop {
    type Value = Option<Vec<String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((name, Top(_))) = map.next_entry()? {
            names.push(name);
        }
        Ok(Some(names))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<Top>()?.is_some() {}
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

fn json5_names(text: &str) -> Result<Option<Vec<String>>, String> {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEPTH_MAX {
        return Err(format!("its brackets are nested more than {DEPTH_MAX} deep"));
    }
    json5::from_str(text).map(Top::names).map_err(|e| match e.position() {
        Some(at) => format!("it is no JSON5 from line {} on", at.line + 1),
        None => "it is no JSON5".to_owned(),
    })
}

/// Names of all documents of the text. Aliases are not followed.
fn yaml_names(text: &str) -> Result<Option<Vec<String>>, String> {
    // How deep an event is, and whether what comes next at the top of a map is a name or its value.
    let (mut depth, mut name_is_next, mut names) = (0_usize, false, None::<Vec<String>>);
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|e| format!("it is no YAML near line {}", e.marker().line()))?;
        let at_top = depth == 1 && names.is_some();
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                if depth == 0 && matches!(event, Event::MappingStart(..)) {
                    names.get_or_insert_default();
                    name_is_next = true;
                } else if at_top {
                    name_is_next = !name_is_next;
                }
                depth += 1;
            }
            Event::MappingEnd | Event::SequenceEnd => depth = depth.saturating_sub(1),
            Event::Scalar(word, ..) if at_top => {
                if name_is_next {
                    names.get_or_insert_default().push(word.into_owned());
                }
                name_is_next = !name_is_next;
            }
            Event::Alias(_) if at_top => name_is_next = !name_is_next,
            _ => {}
        }
    }
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn of(text: &str, format: Format) -> Vec<String> {
        names(text, format).unwrap().unwrap()
    }

    #[test]
    fn names_at_the_top_are_found() {
        assert_eq!(of(r#"{"a": {"b": 1}, "c": [2]}"#, Format::Json), ["a", "c"]);
        assert_eq!(of("a = 1\n[c]\nb = 2", Format::Toml), ["a", "c"]);
        let text = "// settings\n{ a: 'x', /* more */ c: [1, 2,], }";
        assert_eq!(of(text, Format::Json5), ["a", "c"]);
        let text = "# settings\na: &x\n  b: 1\n  d: [e, f]\n? [g]\n: h\nc: *x\ni:\n  - j: k\n";
        assert_eq!(of(text, Format::Yaml), ["a", "c", "i"]);
        for (text, format) in [("[1]", Format::Json), ("['a',]", Format::Json5), ("- a\n- b: c", Format::Yaml)] {
            assert_eq!(names(text, format).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn json_of_any_size_is_read_alike() {
        for text in
            ["{\"a\": {\"b\": [1.5, -2, null]}, \"c\": \"d\"}", "[1, {}]", "\"a\"", "7", "-7", "1e9", "true", "null"]
        {
            assert_eq!(names_in_json(text.as_bytes()), names(text, Format::Json), "{text}");
            assert_eq!(names(text, Format::Json5), names(text, Format::Json), "{text}");
        }
        for text in ["{\n\"a\": 1", "[1,\n2", "{\"a\": 1} x", &"[".repeat(5000)] {
            assert_eq!(names_in_json(text.as_bytes()), names(text, Format::Json), "{text}");
            assert!(names_in_json(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_parse_is_told_without_its_content() {
        for (text, format, says) in [
            ("{\n\"key\": fake-3333", Format::Json, "line 2"),
            ("a = 1\nkey = fake-3333", Format::Toml, "line 2"),
            ("{\n// ok\nkey: 'fake-3333", Format::Json5, "JSON5"),
            ("{ key: fake-3333 }", Format::Json5, "line 1"),
            ("a: 1\nkey: \"fake-3333\n", Format::Yaml, "YAML"),
            ("a: [1, 2\nb: fake-3333", Format::Yaml, "YAML"),
            ("a: b: fake-3333", Format::Yaml, "line 1"),
            (" \n", Format::Yaml, "empty"),
            ("", Format::Json, "empty"),
        ] {
            let why = names(text, format).unwrap_err();
            assert!(why.contains(says) && !why.contains("3333"), "{text:?}: {why}");
        }
    }

    #[test]
    fn a_hostile_text_costs_nothing() {
        let deep = |open: &str, close: &str| open.repeat(200_000) + &close.repeat(200_000);
        assert!(names(&deep("[", "]"), Format::Json5).is_err());
        assert!(names(&deep("[", "]"), Format::Yaml).is_err());
        assert!(names(&deep("[", "]"), Format::Json).is_err());
        // Nine levels of nine aliases each would be 400 million items.
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let alias = format!("*a{}", n - 1);
            laughs += &format!("a{n}: &a{n} [{}]\n", vec![alias; 9].join(", "));
        }
        assert_eq!(of(&laughs, Format::Yaml).len(), 10);
    }
}
