//! Every series of a store at once, from names and commits alone: nothing is verified, and no key is needed.
//!
//! Whoever can write to the store can make such a row look as he likes. It is meant to notice a machine that stopped, not
//! one that lies; the host's own `status` checks signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::status::{Done, Drilled, Newest, Row, age_text, is_ahead};
use super::write_archive::clock_text;
use super::{bytes_text, receipts};
use crate::error::Result;
use crate::host::store::Store;
use crate::model::chain::Link;
use crate::model::commit::{COMMIT_BYTES_MAX, Commit};
use crate::model::store_key::{Archive, COMMIT, Place, SECRETS_PINNED, is_name, is_object_name};

/// How many series are asked for at a time: most of it is waiting for answers.
const THREADS: usize = 8;

/// One archive by its name: whether it has a commit, and its bytes.
type Named = BTreeMap<String, (Place, bool, u64)>;

/// A row for each series that has a key or a snapshot on the store, by name.
///
/// # Errors
/// When the store cannot be listed or read.
pub fn look(store: &Store, now: i64) -> Result<Vec<Row>> {
    let tiers = store.list_directories("state")?;
    // Which prefixes a series has, so that nobody is asked for what is not there.
    let mut prefixes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for above in tiers.iter().map(String::as_str).chain(["secrets", SECRETS_PINNED, "drills", "keys"]) {
        for directory in store.list_directories(above)? {
            if let Some(series) = directory.rsplit('/').next().filter(|name| is_name(name)) {
                prefixes.entry(series.to_owned()).or_default().insert(above.to_owned());
            }
        }
    }
    let queue = Mutex::new(prefixes.into_iter());
    let rows: Vec<Result<Vec<Row>>> = std::thread::scope(|scope| {
        let work = || {
            let mut rows = Vec::new();
            loop {
                let taken = queue.lock().ok().and_then(|mut queue| queue.next());
                let Some((series, above)) = taken else { return Ok(rows) };
                rows.push(row(store, &series, &above, now)?);
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let stopped = || crate::Error::failed("a thread that looked at the store stopped");
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(stopped()))).collect()
    });
    let mut out = Vec::new();
    for some in rows {
        out.extend(some?);
    }
    out.sort_by(|a: &Row, b: &Row| a.series.cmp(&b.series));
    Ok(out)
}

fn row(store: &Store, series: &str, above: &BTreeSet<String>, now: i64) -> Result<Row> {
    let mut named: Named = BTreeMap::new();
    for above in above.iter().filter(|a| !matches!(a.as_str(), "keys" | "drills")) {
        for listed in store.list(&format!("{above}/{series}"))? {
            // Most objects are of an archive that is known by now: its name need not be parsed again.
            let split = listed.key.rsplit_once('/').filter(|(_, name)| is_object_name(name));
            let Some((directory, name)) = split else { continue };
            if !named.contains_key(directory) {
                let Some((place, _)) = Place::parse(&listed.key) else { continue };
                named.insert(directory.to_owned(), (place, false, 0));
            }
            if let Some(entry) = named.get_mut(directory) {
                entry.1 |= name == COMMIT;
                entry.2 += listed.size;
            }
        }
    }
    let mut row = Row { series: series.to_owned(), ..Row::default() };
    for (place, committed, stored) in named.values() {
        match committed {
            true => row.count(place.archive, &place.id, *stored, now),
            false => row.incomplete += 1,
        }
    }
    row.snapshot = newest(store, &named, Archive::State, now)?;
    row.bundle = newest(store, &named, Archive::Secrets, now)?;
    if above.contains("drills") {
        let drills = receipts::names(store, series)?.into_iter().filter(|(_, drill)| !is_ahead(drill, now));
        row.drill = drills.max_by(|a, b| a.1.cmp(&b.1)).map(|(snapshot, drill)| Drilled {
            id: drill.to_string(),
            snapshot: snapshot.to_string(),
            time: clock_text(drill.unix_seconds()),
            unix: drill.unix_seconds(),
            seconds: None,
            age: None,
            bytes: None,
        });
    }
    Ok(row)
}

/// The newest by the time in its name; its commit is read for what no name says.
fn newest(store: &Store, named: &Named, archive: Archive, now: i64) -> Result<Option<Newest>> {
    let with_commit = named.values().filter(|(place, committed, _)| *committed && place.archive == archive);
    let believed = with_commit.filter(|(place, ..)| !is_ahead(&place.id, now));
    let Some((place, _, stored)) = believed.max_by_key(|(place, ..)| (&place.id, !place.is_pinned())) else {
        return Ok(None);
    };
    let bytes = store.get_if_there(&place.object(COMMIT), COMMIT_BYTES_MAX)?;
    // A text that is no commit tells nothing more than its name does.
    let text = bytes.as_ref().and_then(|b| std::str::from_utf8(b).ok());
    let commit = text.and_then(|t| Commit::parse(t).ok()).filter(|c| c.check_place(place).is_ok());
    Ok(Some(Newest {
        id: place.id.to_string(),
        time: clock_text(place.id.unix_seconds()),
        unix: place.id.unix_seconds(),
        tier: place.tier.clone(),
        stored: *stored,
        chain: None,
        expires: commit.as_ref().filter(|_| !place.is_pinned()).map(|c| clock_text(Link::of(c).ends())),
        suspicious: commit.is_some_and(|c| c.suspicious.is_some_and(|n| n > 0)),
    }))
}

/// A line for each series.
pub fn text(done: &Done) -> String {
    let mut out =
        format!("{} on {}, by names and commits alone: no signature was checked\n", done.series.len(), done.store);
    let cells = |c: [&str; 7]| {
        let [series, snapshot, bundle, drill, n, stored, notes] = c;
        let line = format!("{series:<24} {snapshot:>9} {bundle:>9} {drill:>9} {n:>6} {stored:>11}  {notes}");
        format!("{}\n", line.trim_end())
    };
    out.push_str(&cells(["series", "snapshot", "bundle", "drill", "n", "stored", ""]));
    for row in &done.series {
        let age = |at: Option<i64>| at.map_or_else(|| "-".to_owned(), |at| age_text(done.now - at));
        let mut notes = Vec::new();
        notes.extend((!row.late.is_empty()).then(|| "TOO OLD".to_owned()));
        notes.extend(row.snapshot.as_ref().filter(|n| n.suspicious).map(|_| "SUSPICIOUS".to_owned()));
        notes.extend((row.incomplete > 0).then(|| format!("{} incomplete", row.incomplete)));
        out.push_str(&cells([
            &row.series,
            &age(row.snapshot.as_ref().map(|n| n.unix)),
            &age(row.bundle.as_ref().map(|n| n.unix)),
            &age(row.drill.as_ref().map(|d| d.unix)),
            &row.snapshots.to_string(),
            &bytes_text(row.stored),
            &notes.join(", "),
        ]));
    }
    out
}
