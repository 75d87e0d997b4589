//! What `lifeboat backup` did, for a person and as JSON.

use serde::Serialize;

use crate::commands::write_archive::Committed;
use crate::commands::{Report, bytes_text, count_text, mirror};
use crate::model::store_key::Place;

/// One archive of the snapshot.
#[derive(Debug, Serialize)]
pub struct Written {
    /// Its id.
    pub id: String,
    /// Where it stands on the store.
    pub place: String,
    /// The tier, of a state archive.
    pub tier: Option<String>,
    /// What it was made against, of an incremental.
    pub parent: Option<String>,
    /// Files in it.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Bytes on the store.
    pub stored: u64,
}

/// What `backup` did.
#[derive(Debug, Default, Serialize)]
pub struct Done {
    /// The series.
    pub series: String,
    /// The store.
    pub store: String,
    /// The state archive.
    pub state: Option<Written>,
    /// The secrets bundle.
    pub secrets: Option<Written>,
    /// Nothing was written, since nothing changed.
    pub unchanged: bool,
    /// Entries that were there in the parent and are not any more.
    pub deleted: u64,
    /// Archives past their life that were removed from a store on this disk.
    pub pruned: u64,
    /// How the mirrors stand.
    pub mirrors: Vec<mirror::Standing>,
    /// Nothing was written.
    pub dry_run: bool,
    /// What is wrong with how this host is set up.
    pub warnings: Vec<String>,
    /// What decides where data goes and is not as it was last accepted.
    pub policy_changes: Vec<String>,
    /// What could not be read; a secret without its name.
    pub unreadable: Vec<String>,
    /// Entries that went away meanwhile.
    pub vanished: u64,
    /// Files that changed while they were read.
    pub changed: u64,
    /// Files that are secret by what is in them.
    pub secret_by_content: u64,
    /// Values of secrets that were seen in the state.
    pub leaked_values: u64,
    /// Files of the state that they were seen in.
    pub leaking_files: u64,
    /// Why what was seen looks as if something had gone wrong on this machine; also what earlier runs found, until somebody
    /// answers.
    pub suspicious: Vec<String>,
    /// RFC 3339: when that was seen first.
    pub alarm_since: Option<String>,
    /// The newest snapshot that has everything that went, if there is an alarm.
    pub last_good: Option<String>,
    /// Whether that is pinned, by this run or before it.
    pub pinned: bool,
    /// Whether there are newer ones that carry no mark, in which some of it was gone already.
    pub good_is_older: bool,
    /// Entries left out on purpose.
    pub skipped: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Written {
    fn of(committed: &Committed) -> Written {
        let commit = &committed.commit;
        let parent = commit.parent.as_ref().map(|p| p.id.clone());
        let place = match &commit.tier {
            Some(tier) => Place { parent: parent.clone(), ..Place::state(tier, &commit.series, &commit.id) },
            None => Place::secrets(&commit.series, &commit.id),
        };
        Written {
            id: commit.id.to_string(),
            place: place.directory(),
            tier: commit.tier.clone(),
            parent: parent.map(|p| p.to_string()),
            files: committed.counts.files,
            bytes: committed.bytes,
            stored: commit.stored_bytes(),
        }
    }
}

impl Report for Done {
    fn text(&self) -> String {
        let mut out = String::new();
        let what = if self.dry_run { "would write" } else { "wrote" };
        for (name, written) in [("state", &self.state), ("secrets", &self.secrets)] {
            if let Some(w) = written {
                let (files, bytes) = (count_text(w.files, "file"), bytes_text(w.bytes));
                let stored = if self.dry_run { String::new() } else { format!(", {} stored", bytes_text(w.stored)) };
                let kind = match (&w.tier, &w.parent) {
                    (Some(tier), Some(_)) => format!("{tier}, "),
                    (Some(tier), None) => format!("{tier}, full, "),
                    (None, _) => String::new(),
                };
                out.push_str(&format!("{what} {name:<8}{}  {kind}{files}, {bytes}{stored}\n", w.id));
            }
        }
        if self.unchanged {
            out.push_str("nothing changed since the last snapshot: none was written\n");
        }
        let mut notes = Vec::new();
        for (n, text) in [
            (self.deleted, "deleted since the parent"),
            (self.vanished, "went away while it ran"),
            (self.changed, "changed while being read"),
            (self.skipped, "left out by rule (-v lists them)"),
            (self.secret_by_content, "secret by what is in them (-v lists them)"),
            (self.pruned, "old archives removed from the store"),
        ] {
            if n > 0 {
                notes.push(format!("{n} {text}"));
            }
        }
        for copied in self.mirrors.iter().filter_map(mirror::Standing::copied_text) {
            notes.push(copied);
        }
        if self.leaked_values > 0 {
            let (values, files) = (count_text(self.leaked_values, "value"), count_text(self.leaking_files, "file"));
            notes.push(format!("{values} of secrets seen in {files} of the state (`lifeboat secrets leaks` tells)"));
        }
        if !notes.is_empty() {
            out.push_str(&format!("{}\n", notes.join(", ")));
        }
        out
    }

    fn problems(&self) -> Vec<String> {
        let unreadable = self.unreadable.iter().map(|line| format!("incomplete: {line}"));
        let mirrors = self.mirrors.iter().filter_map(mirror::Standing::problem);
        unreadable.chain(self.warnings.iter().cloned()).chain(mirrors).chain(self.alarm()).collect()
    }

    fn verdict(&self) -> Option<crate::Kind> {
        match self.alarm_since {
            Some(_) => Some(crate::Kind::Suspicious),
            None => (!self.problems().is_empty()).then_some(crate::Kind::Incomplete),
        }
    }
}

impl Done {
    /// What is suspicious, and the way back.
    fn alarm(&self) -> Vec<String> {
        let Some(since) = &self.alarm_since else { return Vec::new() };
        let mut out: Vec<String> = self.suspicious.iter().map(|line| format!("suspicious: {line}")).collect();
        let marked = "snapshots are marked as suspicious until `lifeboat accept` says that all is as it should be";
        out.push(format!("since {since} {marked}"));
        if let Some(good) = &self.last_good {
            let kept = match self.pinned {
                true => format!("it is pinned, and `lifeboat unpin {good}` lets it go"),
                false => format!("`lifeboat pin {good}`, on a machine that may write there, keeps it"),
            };
            let snapshot = if self.good_is_older { good } else { "latest --good" };
            out.push(format!(
                "the last good one is {good}: `lifeboat restore {snapshot} --overwrite` brings it back; {kept}"
            ));
        }
        out
    }

    /// Takes over what is to be reported of an archive.
    pub(super) fn take(&mut self, committed: &Committed) -> Written {
        self.vanished += committed.outcome.vanished;
        self.changed += committed.outcome.changed;
        self.unreadable.extend(committed.outcome.unreadable.iter().cloned());
        Written::of(committed)
    }
}
