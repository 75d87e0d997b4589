//! `secrets get` and `secrets env`: the values themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use zeroize::Zeroizing;

use super::{Args, Bundles, id};
use crate::commands::bundle_values::Valued;
use crate::commands::{Event, Events, Report, count_text};
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::path::printable;

/// What `get` and `env` were asked for.
#[derive(Clone, Debug, Default)]
pub struct GetArgs {
    /// Which bundles, and what opens them.
    pub common: Args,
    /// Which bundle.
    pub bundle: String,
    /// The name of one value; all for none.
    pub name: Option<String>,
    /// The end of the path of its file, where the name alone says too little.
    pub file: Option<String>,
    /// Whether a person would see it.
    pub to_terminal: bool,
    /// Print it all the same.
    pub force: bool,
}

/// One value, or all of them as assignments. Its `Debug` shows none.
#[derive(Serialize)]
pub struct Told {
    /// The text to print.
    value: String,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.value);
    }
}

impl Report for Told {
    fn text(&self) -> String {
        format!("{}\n", self.value)
    }
}

/// The values that were asked for, which may be printed.
fn asked(world: &World, args: &GetArgs) -> Result<Vec<Valued>> {
    if args.to_terminal && !args.force {
        return Err(Error::usage(
            "values are printed to a pipe or a file only, so that nobody reads them over a shoulder",
        )
        .hint("redirect the output, or say --force"));
    }
    let mut bundles = Bundles::open(world, &args.common)?;
    let identities = bundles.identities()?;
    let found = bundles.choose(&args.bundle)?;
    let mut values = bundles.values(found, identities)?;
    let name = |v: &Valued| args.name.as_ref().is_none_or(|name| v.name == *name);
    let file = |v: &Valued| args.file.as_ref().is_none_or(|file| v.path.ends_with(file.as_bytes()));
    values.retain(|v| name(v) && file(v));
    if values.is_empty() {
        let name = args.name.as_deref().unwrap_or("value");
        return Err(Error::not_there(format!("there is no {} in bundle {}", printable(name.as_bytes()), id(found)))
            .hint("`lifeboat secrets list` shows the names"));
    }
    Ok(values)
}

/// Gives one value.
///
/// # Errors
/// When a person would see it, when there is none of that name, or several that differ.
pub fn get(world: &World, args: &GetArgs, _events: &mut Events<'_>) -> Result<Told> {
    let values = asked(world, args)?;
    let first = &values[0];
    if values.iter().any(|v| v.value != first.value) {
        let files: BTreeSet<String> = values.iter().map(|v| printable(&v.path)).collect();
        let files = files.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::usage(format!("there are several values of that name, in {files}"))
            .hint("name one of the files with --file"));
    }
    let text = std::str::from_utf8(&first.value).map_err(|_| Error::failed("the value is not text"))?;
    Ok(Told { value: text.to_owned() })
}

/// Gives all values whose names a shell can take, as `export` lines for it, and tells how many have others.
///
/// # Errors
/// When a person would see them, or when there are none.
pub fn env(world: &World, args: &GetArgs, events: &mut Events<'_>) -> Result<Told> {
    let mut lines: BTreeMap<String, Zeroizing<String>> = BTreeMap::new();
    let (mut several, mut left_out) = (BTreeSet::new(), 0);
    for value in asked(world, args)? {
        let Some(text) = std::str::from_utf8(&value.value).ok().filter(|_| is_variable(&value.name)) else {
            left_out += 1;
            continue;
        };
        let line = Zeroizing::new(format!("export {}='{}'", value.name, text.replace('\'', "'\\''")));
        if lines.get(&value.name).is_some_and(|known| *known != line) {
            several.insert(value.name.clone());
        }
        lines.entry(value.name).or_insert(line);
    }
    for name in several {
        events(Event::Warning(format!("{name} has several values in different files; the first is printed")));
    }
    if left_out > 0 {
        let (n, have) = (count_text(left_out, "value"), if left_out == 1 { "has a name" } else { "have names" });
        events(Event::Note(format!(
            "{n} {have} that no shell takes for a variable: `lifeboat secrets get` prints them"
        )));
    }
    // With room for all of it: a text that grows leaves copies of itself behind.
    let mut value = String::with_capacity(lines.values().map(|line| line.len() + 1).sum());
    for line in lines.values() {
        if !value.is_empty() {
            value.push('\n');
        }
        value.push_str(line);
    }
    Ok(Told { value })
}

/// Whether a shell takes it for the name of a variable.
fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
