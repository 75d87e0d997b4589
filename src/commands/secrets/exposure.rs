//! `secrets exposure`: what on the store holds a value, and until when.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Args, Bundles, Noted, ends, id, shown_name};
use crate::commands::snapshots::Found;
use crate::commands::write_archive::clock_text;
use crate::commands::{Events, Report};
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::path::printable;
use crate::model::store_key::Archive;

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
