//! The guard: whether what a run sees still makes sense, beside the last snapshot that did.
//!
//! A backup that faithfully records a wiped home rotates the good ones out. So a run counts what went, what was emptied and
//! what was replaced since the last snapshot that nobody doubts, and everything beyond its [`Bounds`] becomes a
//! [`Suspicion`] with a sentence. The snapshot is written all the same, with their number in its commit.
//!
//! The rules come from incidents that people report: files of one kind deleted in every project, `rm -rf` of half a home, a
//! home that was seeded anew with templates, jobs that an update emptied, databases of no bytes, everything encrypted in
//! place. What ordinary work does is larger than one thinks (a branch is switched, dependencies are updated, logs are
//! rotated), so shares are of what was there before, what came in place of what went is taken into account, and small
//! numbers say nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Fewer files than this say nothing by their share.
const FILES_MIN: u64 = 20;
/// Fewer memories than this say nothing by their share.
const MEMORIES_MIN: u64 = 3;
/// Fewer rows than this say nothing by their share.
pub(super) const ROWS_MIN: u64 = 20;
/// A file of fewer bytes than this cannot be emptied.
const FILLED_BYTES_MIN: u64 = 32;
/// How many files of roles must come anew and smaller at once to look like templates.
const RESEEDED_MIN: usize = 2;
/// Fewer bytes on a store than this say nothing about a home that is not known any more.
const STORED_BYTES_MIN: u64 = 256 << 10;
/// Tables with less than this share of all rows, in percent, are queues and settings: they come and go.
const TABLE_PERCENT_MIN: u8 = 10;
/// Days after which an unanswered mark is dropped: the good snapshots from before outlive that by weeks.
pub const ANSWER_DAYS: i64 = 14;
/// On how many later days there have to be marked snapshots before one is dropped: a clock that jumps answers nothing.
const WITNESS_DAYS: u64 = 3;

/// Extensions of what people and agents write, which nothing makes again.
const DOCUMENTS: [&str; 12] =
    ["md", "markdown", "txt", "org", "rst", "adoc", "tex", "jsonl", "ipynb", "docx", "odt", "pdf"];

/// The kind of document that a file is by its name, if it is one.
pub fn document(name: &[u8]) -> Option<&'static str> {
    let dot = name.iter().rposition(|b| *b == b'.')?;
    let extension = &name[dot + 1..];
    DOCUMENTS.into_iter().find(|kind| extension.eq_ignore_ascii_case(kind.as_bytes()))
}

/// How much of something may go, in percent; `None` asks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Files, or bytes of files, that went and nothing came in their place.
    pub gone: Option<u8>,
    /// Documents of one kind that went.
    pub documents: Option<u8>,
    /// Files whose content is another one, or in whose place others came.
    pub rewritten: Option<u8>,
    /// Rows of a table, or bytes of a database.
    pub rows: Option<u8>,
    /// Bytes of a file with a role, and files and bytes of all that is secret by name.
    pub emptied: Option<u8>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { gone: Some(30), documents: Some(70), rewritten: Some(60), rows: Some(50), emptied: Some(90) }
    }
}

/// What a file is to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who it is: it is rarely changed, and never goes.
    Identity,
    /// What it remembers: it comes and goes, but not all at once.
    Memory,
    /// What it does by itself.
    Jobs,
}

impl Role {
    fn noun(self) -> &'static str {
        match self {
            Role::Identity => "identity",
            Role::Memory => "memory",
            Role::Jobs => "jobs",
        }
    }
}

/// Files of one kind, before and now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Files that were there.
    pub before: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Of these, files that are gone. What a new rule leaves out is not among them, nor what could not be read.
    pub gone: u64,
    /// Their bytes.
    pub bytes_gone: u64,
    /// Files that are new.
    pub new: u64,
    /// Their bytes.
    pub bytes_new: u64,
    /// Files that were there, are there, and have other content, but for those that only grew.
    pub rewritten: u64,
    /// Bytes that they had before.
    pub bytes_rewritten: u64,
}

/// A file with a role. A name that may be told: of a secret, its role alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What it is called in a sentence.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Bytes that it had.
    pub bytes_before: u64,
    /// Bytes that it has; `None` if it is gone.
    pub bytes: Option<u64>,
    /// Whether something else stands in its place, as if it had been deleted and made again.
    pub reborn: bool,
}

/// A database, before and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// What it is called in a sentence.
    pub name: String,
    /// Bytes that it had.
    pub bytes_before: u64,
    /// Bytes that it has; `None` if it is gone or no database any more.
    pub bytes: Option<u64>,
    /// Rows of its tables, before and now, as far as both were counted; a table that is gone has none.
    pub rows: BTreeMap<String, (u64, u64)>,
}

/// Something that a preset counts, before and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What is counted, in the plural: `messages`.
    pub what: String,
    /// Whose.
    pub of: String,
    /// How many there were.
    pub before: u64,
    /// How many there are.
    pub now: u64,
}

/// A home of which nothing is known but what its last good full takes on the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Bytes of that full, compressed.
    pub stored: u64,
    /// Bytes of files that there are.
    pub bytes: u64,
}

/// Files that are secret by name or by rule. What is secret by its content alone is not among them: people clean that up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFiles {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a run sees beside the last snapshot that nobody doubts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// All files.
    pub all: Change,
    /// Files by extension, in lower case and without a dot.
    pub kinds: BTreeMap<String, Change>,
    /// Files with a role that were there before.
    pub kept: Vec<Kept>,
    /// Databases that were there before.
    pub databases: Vec<Database>,
    /// What presets count.
    pub counted: Vec<Counted>,
    /// Where there is a snapshot, and nothing is known of what was in it.
    pub unknown: Option<Unknown>,
}

/// What looks wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Much is gone.
    Gone,
    /// Documents of one kind are gone.
    Documents,
    /// Everything was rewritten, or replaced.
    Rewritten,
    /// An agent's identity, memory or jobs are gone.
    RoleGone,
    /// They are there and empty.
    Emptied,
    /// They are there anew, and small, like templates.
    Reseeded,
    /// Secrets are gone, or their files are empty.
    Secrets,
    /// A database lost rows, or all of it.
    Shrunk,
}

/// One reason to doubt what a run sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// What looks wrong.
    pub kind: Kind,
    /// The same for a person.
    pub sentence: String,
}

/// What looks wrong, if anything does. Without a snapshot to compare with, [`Seen`] is empty and nothing does.
pub fn judge(seen: &Seen, bounds: &Bounds) -> Vec<Suspicion> {
    let mut out = Vec::new();
    out.extend(gone(&seen.all, bounds));
    out.extend(rewritten(&seen.all, bounds));
    out.extend(seen.kinds.iter().filter_map(|(name, kind)| documents(name, kind, bounds)));
    roles(&seen.kept, bounds, &mut out);
    out.extend(seen.databases.iter().filter_map(|database| shrunk(database, bounds)));
    out.extend(seen.counted.iter().filter_map(|counted| fewer(counted, bounds)));
    out.extend(seen.unknown.and_then(|unknown| smaller(unknown, bounds)));
    out
}

/// What looks wrong about the secrets, by numbers alone: nothing else may be known of them between two runs.
pub fn judge_secrets(before: SecretFiles, now: SecretFiles, bounds: &Bounds) -> Option<Suspicion> {
    let bound = bounds.emptied?;
    let fell = |was: u64, is: u64| reaches(was.saturating_sub(is), was, bound);
    let sentence = if fell(before.files, now.files) {
        format!("of {} secret files {} are left", before.files, now.files)
    } else if before.bytes >= FILLED_BYTES_MIN && fell(before.bytes, now.bytes) {
        format!("{} % of what was in secret files is gone", percent(before.bytes - now.bytes, before.bytes))
    } else {
        return None;
    };
    Some(suspicion(Kind::Secrets, sentence))
}

fn suspicion(kind: Kind, sentence: String) -> Suspicion {
    Suspicion { kind, sentence }
}

/// Whether `part` is at least `percent` of `whole`, which is not nothing.
fn reaches(part: u64, whole: u64, percent: u8) -> bool {
    whole > 0 && u128::from(part) * 100 >= u128::from(whole) * u128::from(percent)
}

fn percent(part: u64, whole: u64) -> u128 {
    u128::from(part) * 100 / u128::from(whole.max(1))
}

fn gone(all: &Change, bounds: &Bounds) -> Option<Suspicion> {
    let bound = bounds.gone?;
    // A directory that was renamed goes and comes in the same run.
    let (files, bytes) = (all.gone.saturating_sub(all.new), all.bytes_gone.saturating_sub(all.bytes_new));
    if files >= FILES_MIN && reaches(files, all.before, bound) {
        let share = percent(files, all.before);
        let text = format!("{} of {} files are gone ({share} % more than came anew)", all.gone, all.before);
        return Some(suspicion(Kind::Gone, text));
    }
    // One large file that goes is no incident: bytes count only where a tenth of that share of all files went with them.
    let some = reaches(files, all.before, bound.div_ceil(10)) && files >= FILES_MIN;
    (some && reaches(bytes, all.bytes_before, bound)).then(|| {
        let share = percent(bytes, all.bytes_before);
        suspicion(Kind::Gone, format!("{share} % of all bytes are gone, in {} of {} files", all.gone, all.before))
    })
}

fn rewritten(all: &Change, bounds: &Bounds) -> Option<Suspicion> {
    let bound = bounds.rewritten?;
    // Whoever encrypts files often gives them another name.
    let files = all.rewritten + all.gone.min(all.new);
    let bytes = all.bytes_rewritten + all.bytes_gone.min(all.bytes_new);
    let much = files >= FILES_MIN && reaches(files, all.before, bound) && reaches(bytes, all.bytes_before, bound);
    much.then(|| {
        let share = percent(files, all.before);
        let text =
            format!("{files} of {} files ({share} %) have other content, or others came in their place", all.before);
        suspicion(Kind::Rewritten, text)
    })
}

fn documents(name: &str, kind: &Change, bounds: &Bounds) -> Option<Suspicion> {
    let bound = bounds.documents?;
    let files = kind.gone.saturating_sub(kind.new);
    let much = DOCUMENTS.contains(&name) && files >= FILES_MIN && reaches(files, kind.before, bound);
    much.then(|| suspicion(Kind::Documents, format!("{} of {} .{name} files are gone", kind.gone, kind.before)))
}

fn roles(kept: &[Kept], bounds: &Bounds, out: &mut Vec<Suspicion>) {
    let Some(bound) = bounds.emptied else { return };
    for role in [Role::Identity, Role::Memory, Role::Jobs] {
        let of_role: Vec<&Kept> = kept.iter().filter(|k| k.role == role && k.bytes_before > 0).collect();
        let gone: Vec<&&Kept> = of_role.iter().filter(|k| k.bytes.is_none()).collect();
        let (lost, all) = (gone.len() as u64, of_role.len() as u64);
        // Who an agent is and what it does never goes; memories do, one by one.
        let much = match role {
            Role::Identity | Role::Jobs => lost > 0,
            Role::Memory => lost >= MEMORIES_MIN && reaches(lost, all, 50),
        };
        if let Some(first) = gone.first().filter(|_| much) {
            let text = format!("{lost} of {all} {} files are gone, {} among them", role.noun(), first.name);
            out.push(suspicion(Kind::RoleGone, text));
        }
    }
    for file in kept {
        let Some(now) = file.bytes.filter(|_| file.bytes_before >= FILLED_BYTES_MIN) else { continue };
        if reaches(file.bytes_before.saturating_sub(now), file.bytes_before, bound) {
            let (was, noun) = (file.bytes_before, file.role.noun());
            let text = format!("the {noun} file {} has {now} bytes and had {was}", file.name);
            out.push(suspicion(Kind::Emptied, text));
        }
    }
    let anew: Vec<&Kept> = kept.iter().filter(|k| k.reborn && k.bytes.is_some()).collect();
    let was: u64 = anew.iter().map(|k| k.bytes_before).sum();
    let is: u64 = anew.iter().filter_map(|k| k.bytes).sum();
    if anew.len() >= RESEEDED_MIN && reaches(was.saturating_sub(is), was, 50) {
        let names: Vec<&str> = anew.iter().map(|k| k.name.as_str()).take(3).collect();
        let text =
            format!("{} were made anew with {is} bytes instead of {was}, as if from templates", names.join(", "));
        out.push(suspicion(Kind::Reseeded, text));
    }
}

fn shrunk(database: &Database, bounds: &Bounds) -> Option<Suspicion> {
    let bound = bounds.rows?;
    let name = &database.name;
    let text = match database.bytes {
        _ if database.bytes_before == 0 => return None,
        None => format!("the database {name} is gone, or no database any more"),
        Some(0) => format!("the database {name} is empty and had {} bytes", database.bytes_before),
        Some(_) => {
            let lost = |(was, is): &(u64, u64)| *was >= ROWS_MIN && reaches(was.saturating_sub(*is), *was, bound);
            let (table, (was, is)) = database.rows.iter().find(|(_, rows)| lost(rows))?;
            format!("table {table} of {name} has {is} rows and had {was}")
        }
    };
    Some(suspicion(Kind::Shrunk, text))
}

/// What is few is no share of anything, but none at all where there were some is.
fn fewer(counted: &Counted, bounds: &Bounds) -> Option<Suspicion> {
    let Counted { what, of, before, now } = counted;
    let lost = *before >= ROWS_MIN && reaches(before.saturating_sub(*now), *before, bounds.rows?);
    let none = *before >= MEMORIES_MIN && *now == 0;
    (lost || none).then(|| suspicion(Kind::Shrunk, format!("{of} has {now} {what} and had {before}")))
}

/// What is compressed is smaller than what it was made of: only a great loss shows like this.
fn smaller(unknown: Unknown, bounds: &Bounds) -> Option<Suspicion> {
    let Unknown { stored, bytes } = unknown;
    let much = stored >= STORED_BYTES_MIN && reaches(stored.saturating_sub(bytes), stored, bounds.gone?);
    much.then(|| {
        let text = format!("all files together have {bytes} bytes, and the last good full takes {stored} on the store");
        suspicion(Kind::Gone, text)
    })
}

/// The rows of tables that say something about a database, before and now: those that hold a good part of all rows. Rows
/// are largest rowids as well as counts, as long as both are the same. `kept` is false for what serves other tables.
pub fn rows_of(
    before: &BTreeMap<String, i64>,
    now: &BTreeMap<String, i64>,
    kept: impl Fn(&str) -> bool,
) -> BTreeMap<String, (u64, u64)> {
    let rows = |n: i64| u64::try_from(n).unwrap_or(0);
    let tables: Vec<(&String, u64)> = before.iter().filter(|(t, _)| kept(t)).map(|(t, n)| (t, rows(*n))).collect();
    let all = tables.iter().fold(0_u64, |sum, (_, n)| sum.saturating_add(*n));
    let large = tables.into_iter().filter(|(_, n)| reaches(*n, all, TABLE_PERCENT_MIN));
    large.map(|(table, n)| (table.clone(), (n, now.get(table).copied().map_or(0, rows)))).collect()
}

/// Whether a table is one of those in which SQLite's full-text search keeps an index: they are rebuilt at will.
pub fn serves_search(table: &str) -> bool {
    ["_data", "_idx", "_content", "_docsize", "_config", "_segments", "_segdir", "_stat"]
        .iter()
        .any(|end| table.ends_with(end))
}

/// A mark that nobody has answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// How many reasons the first marked snapshot had.
    pub count: u64,
    /// When it was made, in Unix seconds.
    pub since: i64,
    /// On how many later days marked snapshots were made.
    pub days: u64,
}

/// What goes into the commit of a run at `now`, in Unix seconds: the number of reasons to doubt it, `None` for none. A
/// mark that is pending stays on what comes after it, until it is accepted or [`ANSWER_DAYS`] went by and three later days
/// have marked snapshots, since a home that was wiped looks all right beside a home that was wiped.
pub fn mark(found: usize, pending: Option<Pending>, now: i64) -> Option<u64> {
    let waits = |p: &Pending| now.saturating_sub(p.since) < ANSWER_DAYS * 86_400 || p.days < WITNESS_DAYS;
    let open = pending.filter(waits);
    let count = (found as u64).max(open.map_or(0, |p| p.count));
    (count > 0).then_some(count)
}

#[cfg(test)]
#[path = "guard_tests.rs"]
pub(super) mod tests;
