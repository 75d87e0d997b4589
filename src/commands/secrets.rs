//! `lifeboat secrets`: what the bundles know of values, for who can open them. Names and places are told freely there;
//! a value only by `get` and `env`, and not to a terminal unless that is forced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use zeroize::Zeroizing;

use super::bundle_values::{Valued, values};
use super::opened::header;
use super::session::{Keys, configuration};
use super::signing::follow;
use super::snapshots::{self, Found, Wanted, choose};
use super::whereabouts::{Named, named, no_series, trusted};
use super::write_archive::clock_text;
use super::{Event, Events, Report, count_text};
use crate::error::{Error, Result};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::kit::Which;
use crate::model::path::printable;
use crate::model::secret_notes::SecretNotes;
use crate::model::store_key::Archive;
use crate::stream::age_keys::Identities;

/// Seconds in a day.
const DAY_SECONDS: i64 = 86_400;

/// Which bundles, and what opens them.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// The kit.
    pub identity: Option<PathBuf>,
    /// Another store than kit or configuration name.
    pub store: Option<String>,
    /// Another series.
    pub series: Option<String>,
}

/// The bundles of a series.
struct Bundles {
    store: Store,
    found: Vec<Found>,
    keys: Keys,
    now: i64,
}

/// A bundle and what its manifest tells.
struct Noted<'a> {
    found: &'a Found,
    notes: SecretNotes,
}

impl Bundles {
    fn open(world: &World, args: &Args) -> Result<Bundles> {
        let configured = configuration(world)?;
        let config = configured.as_ref().map(|c| &c.config);
        let keys = Keys::find(world, args.identity.as_deref(), config, &[Which::Secrets])?;
        let (store, series) = (args.store.as_deref(), args.series.as_deref());
        let Named { url, series } = named(store, series, Some(&keys), configured.as_ref())?;
        let series = series.ok_or_else(no_series)?;
        let store = Store::open(world, &url, Access::Existing)?;
        let trusted = trusted(world, Some(&keys), configured.as_ref(), Some(&series))?.ok_or_else(|| {
            Error::failed("there is no key here to check signatures with").hint("use the recovery kit, which holds it")
        })?;
        let found = snapshots::load(&store, &series, Some(&follow(&store, &series, trusted)?.signers))?;
        Ok(Bundles { store, found, keys, now: world.now() })
    }

    fn identities(&mut self) -> Result<Identities> {
        self.keys.identities(Which::Secrets)
    }

    fn choose(&self, wanted: &str) -> Result<&Found> {
        let choice = choose(&self.found, Archive::Secrets, &Wanted::parse(wanted, self.now)?, false, self.now)?;
        Ok(choice.chain[0])
    }

    /// All bundles that verify and can be opened, oldest first. What is damaged, or sealed to other keys, is told.
    fn noted(&self, identities: &Identities, events: &mut Events<'_>) -> Vec<Noted<'_>> {
        let mut out: Vec<Noted<'_>> = Vec::new();
        for found in self.found.iter().filter(|f| f.place.archive == Archive::Secrets && f.verified().is_some()) {
            if out.iter().any(|n| n.found.place.id == found.place.id) {
                continue;
            }
            match header(&self.store, found, identities) {
                Ok(header) => out.push(Noted { found, notes: header.secrets.unwrap_or_default() }),
                Err(e) => events(Event::Warning(format!("bundle {} is left out: {e}", found.place.id))),
            }
        }
        out.sort_by_key(|n| n.found.verified().map(|c| c.seq));
        out
    }

    /// The values of one bundle.
    fn values(&self, found: &Found, identities: Identities) -> Result<Vec<Valued>> {
        values(&self.store, &self.found, found, identities)
    }
}

fn id(found: &Found) -> String {
    found.place.id.to_string()
}

fn time(found: &Found) -> String {
    clock_text(found.place.id.unix_seconds())
}

/// When the life of an archive is over, in Unix seconds.
fn ends(found: &Found) -> i64 {
    let days = found.verified().map_or(0, |c| i64::try_from(c.life).unwrap_or(i64::MAX));
    found.place.id.unix_seconds().saturating_add(days.saturating_mul(DAY_SECONDS))
}

/// A value without a key is called by its place alone.
fn shown_name(name: &str) -> String {
    if name.is_empty() { "(no name)".to_owned() } else { printable(name.as_bytes()) }
}

// ---------------------------------------------------------------- list

/// The values of the newest bundle by name.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// The bundle.
    pub bundle: String,
    /// Its values.
    pub values: Vec<ListedValue>,
}

/// A value, which is not told.
#[derive(Debug, Serialize)]
pub struct ListedValue {
    /// Its key in its file; empty if it has none.
    pub name: String,
    /// Its file, as an archive path.
    pub file: String,
    /// When the oldest bundle was made that has the same value, without another in between; RFC 3339.
    pub since: String,
    /// Days since then.
    pub days: i64,
    /// Whether it is too short or too common to be searched for in the state.
    pub unsearched: bool,
}

impl Report for Listed {
    fn text(&self) -> String {
        let mut out = String::new();
        for value in &self.values {
            let days = count_text(value.days.max(0).cast_unsigned(), "day");
            let note = if value.unsearched { "  (too short or common to be searched for)" } else { "" };
            out.push_str(&format!("{:<32}  {:>9}  {}{note}\n", shown_name(&value.name), days, value.file));
        }
        out.push_str(&format!("{} in bundle {}\n", count_text(self.values.len() as u64, "value"), self.bundle));
        out
    }
}

/// Lists names of values, and since when each is what it is.
///
/// # Errors
/// When there is no bundle, or no identity that opens it.
pub fn list(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Listed> {
    let mut bundles = Bundles::open(world, args)?;
    let identities = bundles.identities()?;
    let newest = bundles.choose("latest")?;
    let noted = bundles.noted(&identities, events);
    let now = bundles.now;
    let mut out = Listed { bundle: id(newest), values: Vec::new() };
    for value in bundles.values(newest, identities)? {
        let mut since = newest;
        for older in noted.iter().rev().skip_while(|n| n.found.place.id != newest.place.id) {
            if !has(&older.notes, &value) {
                break;
            }
            since = older.found;
        }
        let days = now.saturating_sub(since.place.id.unix_seconds()) / DAY_SECONDS;
        let file = printable(&value.path);
        let (since, unsearched) = (time(since), !value.is_searched);
        out.values.push(ListedValue { name: value.name.clone(), file, since, days, unsearched });
    }
    Ok(out)
}

/// Whether a bundle has the same value under the same name in the same file.
fn has(notes: &SecretNotes, value: &Valued) -> bool {
    let Some(fingerprint) = notes.fingerprint(&value.value) else { return false };
    let same = |n: &&crate::model::secret_notes::Named| n.name == value.name && n.path.bytes() == value.path;
    notes.values.iter().filter(same).any(|n| n.fingerprint == fingerprint)
}

// ---------------------------------------------------------------- diff

/// What became of values between two bundles.
#[derive(Debug, Default, Serialize)]
pub struct Differences {
    /// The bundles.
    pub from: String,
    /// The later one.
    pub to: String,
    /// Names that the first has not.
    pub added: Vec<NameInFile>,
    /// Names that the second has not.
    pub removed: Vec<NameInFile>,
    /// Names of which the values differ.
    pub rotated: Vec<NameInFile>,
    /// Names of which they do not.
    pub same: u64,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NameInFile {
    /// Its key in its file; empty if it has none.
    pub name: String,
    /// Its file, as an archive path.
    pub file: String,
}

impl Report for Differences {
    fn text(&self) -> String {
        let mut out = String::new();
        for (word, list) in [("added", &self.added), ("removed", &self.removed), ("rotated", &self.rotated)] {
            for one in list {
                out.push_str(&format!("{word:<8}  {:<32}  {}\n", shown_name(&one.name), one.file));
            }
        }
        out.push_str(&format!("{} the same in {} and {}\n", count_text(self.same, "name"), self.from, self.to));
        out
    }
}

/// Tells which names of the bundle `to` are new, gone, or have another value than in `from`.
///
/// # Errors
/// When one is not there, or cannot be opened.
pub fn diff(world: &World, args: &Args, from: &str, to: &str, _events: &mut Events<'_>) -> Result<Differences> {
    let mut bundles = Bundles::open(world, args)?;
    let identities = bundles.identities()?;
    let (from, to) = (bundles.choose(from)?, bundles.choose(to)?);
    let notes = header(&bundles.store, to, &identities)?.secrets.unwrap_or_default();
    let mut out = Differences { from: id(from), to: id(to), ..Differences::default() };
    // Fingerprints of the second bundle's key, of both.
    let mut before: BTreeMap<NameInFile, BTreeSet<String>> = BTreeMap::new();
    let mut after = before.clone();
    for value in bundles.values(from, identities)? {
        let key = NameInFile { name: value.name.clone(), file: printable(&value.path) };
        before.entry(key).or_default().extend(notes.fingerprint(&value.value));
    }
    for named in &notes.values {
        let key = NameInFile { name: named.name.clone(), file: printable(&named.path.bytes()) };
        after.entry(key).or_default().insert(named.fingerprint.clone());
    }
    out.removed = before.keys().filter(|key| !after.contains_key(*key)).cloned().collect();
    for (key, fingerprints) in after {
        match before.get(&key) {
            None => out.added.push(key),
            Some(known) if *known == fingerprints => out.same += 1,
            Some(_) => out.rotated.push(key),
        }
    }
    Ok(out)
}

// ---------------------------------------------------------------- leaks

/// Where values of secrets were found in the state.
#[derive(Debug, Default, Serialize)]
pub struct Leaks {
    /// Each value in each file.
    pub leaks: Vec<LeakLine>,
    /// What made files secret that are not named like one.
    pub findings: Vec<FindingLine>,
}

/// A value in a file of the state.
#[derive(Debug, Serialize)]
pub struct LeakLine {
    /// The value's key in its own file; empty if it has none.
    pub name: String,
    /// The file of the state.
    pub file: String,
    /// How often, when it was last counted; of an incremental in what had changed.
    pub count: u64,
    /// The bundle that tells it last.
    pub bundle: String,
    /// When that was made, RFC 3339.
    pub time: String,
}

/// A place that looks like a secret, in a file that the newest bundle holds for that reason.
#[derive(Debug, Serialize)]
pub struct FindingLine {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The rule.
    pub rule: String,
}

impl Report for Leaks {
    fn text(&self) -> String {
        let mut out = String::new();
        for LeakLine { name, file, count, time, .. } in &self.leaks {
            let times = count_text(*count, "time");
            out.push_str(&format!("{:<32}  {times:>9}  {file}  (seen {time})\n", shown_name(name)));
        }
        for FindingLine { file, line, rule } in &self.findings {
            out.push_str(&format!("secret by its content: {file}, line {line}: {rule}\n"));
        }
        if self.leaks.is_empty() {
            out.push_str("no value of a secret was seen in the state\n");
        }
        out.push_str(
            "A value that is compressed, split between database pages or cut up for a full-text index is not seen.\n",
        );
        out
    }
}

/// Lists where values of secrets were found, as the bundles tell it.
///
/// # Errors
/// When there is no bundle, or no identity that opens it.
pub fn leaks(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Leaks> {
    let mut bundles = Bundles::open(world, args)?;
    let identities = bundles.identities()?;
    let newest = id(bundles.choose("latest")?);
    let mut last: BTreeMap<(String, Vec<u8>), LeakLine> = BTreeMap::new();
    let mut out = Leaks::default();
    for Noted { found, notes } in bundles.noted(&identities, events) {
        for leak in notes.leaks {
            let path = leak.path.bytes();
            let (bundle, time) = (id(found), time(found));
            let line = LeakLine { name: leak.name.clone(), file: printable(&path), count: leak.count, bundle, time };
            last.insert((leak.name, path), line);
        }
        if id(found) == newest {
            let line = |f: crate::model::secret_notes::Finding| FindingLine {
                file: printable(&f.path.bytes()),
                line: f.line,
                rule: f.rule,
            };
            out.findings = notes.findings.into_iter().map(line).collect();
        }
    }
    out.leaks = last.into_values().collect();
    Ok(out)
}

// ---------------------------------------------------------------- get, env

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
    let mut value = String::new();
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

// ---------------------------------------------------------------- exposure

/// Where a value is on the store, and until when.
#[derive(Debug, Default, Serialize)]
pub struct Exposure {
    /// The value's name.
    pub name: String,
    /// Bundles that hold it.
    pub bundles: Vec<Holder>,
    /// Files of the state in which it was seen.
    pub files: Vec<String>,
    /// State archives that hold such a file, or may.
    pub snapshots: Vec<Holder>,
    /// When the life of the last of all these is over, RFC 3339.
    pub until: Option<String>,
}

/// An archive that holds a value.
#[derive(Debug, Serialize)]
pub struct Holder {
    /// Its id.
    pub id: String,
    /// When its life is over, RFC 3339.
    pub until: String,
}

impl Report for Exposure {
    fn text(&self) -> String {
        let mut out = String::new();
        for Holder { id, until } in &self.bundles {
            out.push_str(&format!("bundle    {id}  until {until}\n"));
        }
        for file in &self.files {
            out.push_str(&format!("seen in   {file}\n"));
        }
        for Holder { id, until } in &self.snapshots {
            out.push_str(&format!("snapshot  {id}  until {until}, holds or may hold it\n"));
        }
        let name = shown_name(&self.name);
        match &self.until {
            Some(until) => {
                out.push_str(&format!("the last archive with {name} lives until {until}; pinned ones longer\n"))
            }
            None => out.push_str(&format!("no archive on the store holds {name}\n")),
        }
        out
    }
}

/// Tells where the value that a bundle has under a name is on the store: which bundles hold it, and, as far as it was seen
/// there, which state archives.
///
/// # Errors
/// When there is no such name, or no identity that opens the bundle.
pub fn exposure(world: &World, args: &Args, bundle: &str, name: &str, events: &mut Events<'_>) -> Result<Exposure> {
    let mut bundles = Bundles::open(world, args)?;
    let identities = bundles.identities()?;
    let noted = bundles.noted(&identities, events);
    let chosen = bundles.choose(bundle)?;
    let mut values = bundles.values(chosen, identities)?;
    values.retain(|v| v.name == name);
    if values.is_empty() {
        return Err(Error::not_there(format!("there is no {} in bundle {}", printable(name.as_bytes()), id(chosen)))
            .hint("`lifeboat secrets list` shows the names; --bundle names an older one"));
    }
    let mut out = Exposure { name: name.to_owned(), ..Exposure::default() };
    let mut files = BTreeSet::new();
    // The first state archive that may hold it, by seq.
    let mut first: Option<u64> = None;
    for Noted { found, notes } in &noted {
        let prints: BTreeSet<String> = values.iter().filter_map(|v| notes.fingerprint(&v.value)).collect();
        if notes.values.iter().any(|n| prints.contains(&n.fingerprint)) {
            out.bundles.push(Holder { id: id(found), until: clock_text(ends(found)) });
        }
        for leak in notes.leaks.iter().filter(|l| prints.contains(&l.fingerprint)) {
            files.insert(printable(&leak.path.bytes()));
            let state = |id: &String| {
                let mut all = bundles.found.iter().filter(|f| f.place.archive == Archive::State);
                all.find(|f| f.place.id.as_str() == id).and_then(Found::verified).map(|c| c.seq)
            };
            // Where it was found in what had not changed, nobody knows since when it is there.
            let since = leak.snapshot.as_ref().and_then(state).unwrap_or(0);
            first = Some(first.map_or(since, |known| known.min(since)));
        }
    }
    out.files = files.into_iter().collect();
    let mut last =
        noted.iter().filter(|n| out.bundles.iter().any(|b| b.id == id(n.found))).map(|n| ends(n.found)).max();
    if let Some(first) = first {
        let states = bundles.found.iter().filter(|f| f.place.archive == Archive::State);
        for found in states.filter(|f| f.verified().is_some_and(|c| c.seq >= first)) {
            out.snapshots.push(Holder { id: id(found), until: clock_text(ends(found)) });
            last = last.max(Some(ends(found)));
        }
    }
    out.until = last.map(clock_text);
    Ok(out)
}
