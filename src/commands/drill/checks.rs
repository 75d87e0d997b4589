//! What a drill looks at once everything was restored: databases and the modes of secrets, whoever made them.
//!
//! Only the restored copy is read, and nothing of it is run. Findings name files, but never one of the secrets bundle.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::host::database::rehearse::Rehearsal;
use crate::model::config::expand_home;
use crate::model::database::Facts;
use crate::model::layout::Layout;
use crate::model::manifest::Source;
use crate::model::path::printable;

/// How many findings of one kind are told one by one.
const FINDINGS_MAX: usize = 50;

/// A restored home.
pub(super) struct Home {
    /// Where archive paths are.
    pub(super) layout: Layout,
    /// The user's home directory on the source machine.
    pub(super) source_home: String,
    /// Archive paths of everything in the secrets bundle.
    pub(super) secrets: HashSet<Vec<u8>>,
    /// What was backed up.
    pub(super) sources: Vec<Source>,
}

/// How often what was checked, and what was wrong.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Done and failed, by kind.
    pub(super) counts: BTreeMap<Cow<'static, str>, (u64, u64)>,
    /// What is not as it should be.
    pub(super) findings: Vec<String>,
    /// What is worth knowing.
    pub(super) notes: Vec<String>,
}

impl Tally {
    /// Counts checks that were all as they should be.
    pub(super) fn passed(&mut self, kind: &'static str, times: u64) {
        self.counts.entry(kind.into()).or_default().0 += times;
    }

    /// Adds what somebody else checked.
    pub(super) fn add(&mut self, other: Tally) {
        for (kind, (done, failed)) in other.counts {
            let count = self.counts.entry(kind).or_default();
            *count = (count.0 + done, count.1 + failed);
        }
        self.findings.extend(other.findings);
        self.findings.truncate(FINDINGS_MAX);
        self.notes.extend(other.notes);
    }

    /// Counts one check.
    pub(super) fn record(&mut self, kind: &'static str, result: Result<(), String>) {
        let count = self.counts.entry(kind.into()).or_default();
        count.0 += 1;
        if let Err(why) = result {
            count.1 += 1;
            if self.findings.len() < FINDINGS_MAX {
                self.findings.push(why);
            }
        }
    }
}

impl Home {
    /// Where an archive path was restored to.
    pub(super) fn disk(&self, archive: &[u8]) -> PathBuf {
        PathBuf::from(std::ffi::OsString::from_vec(self.layout.to_disk(archive)))
    }

    /// What a file is called in a finding.
    pub(super) fn name(&self, disk: &Path) -> String {
        let archive = self.layout.to_archive(disk.as_os_str().as_bytes());
        if self.secrets.contains(&archive) { "a file of the secrets bundle".to_owned() } else { printable(&archive) }
    }

    /// Whether a path leads to something that was restored. What a link leads to elsewhere is another machine's, or has
    /// changed since: it tells nothing about the snapshot.
    pub(super) fn holds(&self, disk: &Path) -> bool {
        let top = self.disk(b"home");
        let top = top.parent().and_then(|top| top.canonicalize().ok());
        top.zip(disk.canonicalize().ok()).is_some_and(|(top, real)| real.starts_with(top))
    }

    /// Where a path of the source machine was restored to.
    pub(super) fn moved(&self, source: &str) -> PathBuf {
        let machine = Layout::machine(self.source_home.as_bytes());
        let path = expand_home(source, Path::new(&self.source_home));
        self.disk(&machine.to_archive(path.as_os_str().as_bytes()))
    }
}

/// Opens every database that the manifests list and compares it with what was recorded of it.
pub(super) fn databases(home: &Home, recorded: &BTreeMap<Vec<u8>, Facts>, tally: &mut Tally) {
    for (path, facts) in recorded {
        let disk = home.disk(path);
        // One that was deleted since is listed by an older archive of the chain.
        if !disk.is_file() {
            continue;
        }
        let name = home.name(&disk);
        let result = Rehearsal::open(&disk).map_err(|e| format!("{name}: {e}")).and_then(|database| {
            let seen = database.check();
            if let Some(first) = seen.complaints.first() {
                return Err(format!("{name}: integrity_check says: {}", printable(first.as_bytes())));
            }
            tally.notes.extend(seen.unchecked.map(|why| {
                format!("{name}: integrity_check could not look at all of it: {}", printable(why.as_bytes()))
            }));
            if seen.dangling > 0 {
                tally.notes.push(format!("{name}: {} rows refer to rows that are not there", seen.dangling));
            }
            compare(facts, &seen.facts).map_err(|why| format!("{name}: {why}"))
        });
        tally.record("database", result);
    }
}

/// Rows must not be fewer than were recorded, nor the largest rowids smaller.
fn compare(recorded: &Facts, seen: &Facts) -> Result<(), String> {
    let counts = recorded.rows.iter().flatten().map(|(table, rows)| {
        let now = seen.rows.as_ref().and_then(|all| all.get(table)).copied();
        (table, i128::from(*rows), now.map(i128::from), "rows")
    });
    let largest = recorded.tables.iter().map(|(table, rowid)| {
        (table, i128::from(*rowid), seen.tables.get(table).copied().map(i128::from), "as the largest rowid")
    });
    for (table, was, now, what) in counts.chain(largest) {
        if now.is_none_or(|now| now < was) {
            let now = now.map_or_else(|| "nothing".to_owned(), |n| n.to_string());
            let table = printable(table.as_bytes());
            return Err(format!("table {table} has {now} {what}, and had {was} when the snapshot was made"));
        }
    }
    Ok(())
}

/// Nobody but the owner may read a secret.
pub(super) fn modes(home: &Home, tally: &mut Tally) {
    for path in &home.secrets {
        let Ok(stat) = home.disk(path).symlink_metadata() else { continue };
        if stat.is_file() {
            let open = stat.permissions().mode() & 0o077 != 0;
            let why = || {
                format!(
                    "a file of the secrets bundle is open to others, mode {:04o}",
                    stat.permissions().mode() & 0o7777
                )
            };
            tally.record("mode", if open { Err(why()) } else { Ok(()) });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rows_may_not_be_fewer() {
        let facts = |rows: u64, rowid: i64| Facts {
            page_size: 0,
            pages: 0,
            tables: BTreeMap::from([("t".to_owned(), rowid)]),
            rows: Some(BTreeMap::from([("t".to_owned(), rows)])),
            check: None,
        };
        compare(&facts(3, 9), &facts(3, 9)).unwrap();
        compare(&facts(3, 9), &facts(4, 10)).unwrap();
        assert!(compare(&facts(3, 9), &facts(2, 9)).unwrap_err().contains("has 2 rows, and had 3"));
        assert!(compare(&facts(3, 9), &facts(3, 8)).unwrap_err().contains("largest rowid"));
    }
}
