//! `lifeboat restore --warm-up`: asks a cloud for what a restore would read and its archive holds.

use serde::Serialize;

use super::{Event, Events, bytes_text, count_text};
use crate::error::{Error, Result};
use crate::host::store::{Store, Warmth};
use crate::host::world::World;

/// What was asked for.
#[derive(Debug, Default, Serialize)]
pub struct Warmed {
    /// Objects that can be read already.
    pub ready: u64,
    /// Objects that were asked for now.
    pub asked: u64,
    /// Objects that somebody had asked for.
    pub under_way: u64,
    /// Bytes of those that cannot be read yet.
    pub bytes: u64,
    /// The keys of all that the restore reads, or of a first part of it.
    pub objects: Vec<String>,
    /// Only manifests could be asked for: which volumes are needed is known once they can be read.
    pub manifests_only: bool,
    /// Nothing was asked.
    pub dry_run: bool,
}

impl Warmed {
    /// As a person reads it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if self.dry_run {
            out.push_str(&format!("a restore would read {}:\n", count_text(self.objects.len() as u64, "object")));
            self.objects.iter().for_each(|key| out.push_str(&format!("  {key}\n")));
            return out;
        }
        let waiting = self.asked + self.under_way;
        out.push_str(&format!(
            "asked for {}, {} under way already, {} can be read\n",
            count_text(self.asked, "object"),
            self.under_way,
            self.ready
        ));
        out.push_str(&match (waiting, self.manifests_only) {
            (0, false) => "all of it can be read: restore now\n".to_owned(),
            (0, true) => "the manifests can be read: run the same command once more for the volumes\n".to_owned(),
            (_, false) => format!("{} come within hours: then restore, within a week\n", bytes_text(self.bytes)),
            (_, true) => "the manifests come within hours: then run the same command once more\n".to_owned(),
        });
        out
    }
}

/// Asks for objects, given by key and size.
///
/// # Errors
/// When one cannot be asked for. Those before it were.
pub fn ask(
    world: &World,
    store: &Store,
    objects: Vec<(String, u64)>,
    (manifests_only, dry_run): (bool, bool),
    events: &mut Events<'_>,
) -> Result<Warmed> {
    let mut out = Warmed { manifests_only, dry_run, ..Warmed::default() };
    let (files_total, bytes_total) = (objects.len() as u64, objects.iter().map(|o| o.1).sum());
    let mut bytes = 0;
    for (n, (key, size)) in objects.into_iter().enumerate() {
        world.check_stop()?;
        if !dry_run {
            match store.warm_up(&key)? {
                Warmth::Ready => out.ready += 1,
                Warmth::Asked => (out.asked, out.bytes) = (out.asked + 1, out.bytes + size),
                Warmth::UnderWay => (out.under_way, out.bytes) = (out.under_way + 1, out.bytes + size),
            }
            bytes += size;
            events(Event::Progress { files: n as u64 + 1, files_total, bytes, bytes_total });
        }
        out.objects.push(key);
    }
    Ok(out)
}

/// Adds to the error of a restore that met the archive how much of it there may be.
pub fn explain(error: Error, volumes: &[(String, u64)]) -> Error {
    let (count, bytes) = (count_text(volumes.len() as u64, "volume"), bytes_text(volumes.iter().map(|v| v.1).sum()));
    let by_hand = error.advice().map(|hint| format!("; one by one: {hint}")).unwrap_or_default();
    Error::new(error.kind(), "what is to be restored lies in the cloud's archive")
        .hint(format!(
            "the restore reads {count}, {bytes}: the same command with --warm-up asks the cloud for those that are \
            archived, and with --warm-up --dry-run names them{by_hand}"
        ))
        .because(error)
}
