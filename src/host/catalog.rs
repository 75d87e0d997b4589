//! The catalog: a local SQLite cache of what this host last saw and stored. Never needed for a restore; lost, damaged,
//! rolled back or copied from elsewhere it costs a look at the store and a full.
//!
//! What is known of entries may be newer than the last snapshot that counts, and does no harm then: everything carries
//! the number of the run that saw it change, and no snapshot that lacks the change has a number as high. What makes a
//! snapshot a parent is its row, which is written after its commit is on the store.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};

use crate::error::{Error, Result};
use crate::model::commit::{Commit, Reference};
use crate::model::manifest::unhex;
use crate::model::store_key::{Archive, SnapshotId};
use crate::model::tiers::Past;

mod entries;
mod looked;

pub use entries::{BlockRows, Grave, Records};

/// The schema this program writes. An older or newer catalog is put aside and made anew.
const SCHEMA: i64 = 3;

/// How many snapshots of one tier are remembered: the quarter hours of three weeks.
const SNAPSHOTS_MAX: i64 = 2000;

/// Racks and rows have rowids: in a table without, a kilobyte of data would take a page of its own.
const TABLES: &str = "begin;
    create table snapshot(
      archive text not null, id text not null, seq integer not null unique, tier text, generation text,
      life integer not null, parent text, commit_sha256 text not null, committed integer not null,
      stored integer not null, whole integer not null, suspicious integer not null,
      primary key (archive, id)) strict;
    create table rack(path blob not null, part integer not null, data blob not null, unique (path, part)) strict;
    create table block_row(file blob not null, number integer not null, data blob not null, unique (file, number))
      strict;
    create table grave(path blob not null, died integer not null, born integer not null, changed integer not null,
      size integer not null, blake3 blob, primary key (path, died)) strict, without rowid;
    create table fact(key text primary key, value text not null) strict, without rowid;
    create table looked(part integer primary key, data blob not null) strict;
    pragma user_version = 3;
    commit;";

/// An open catalog.
pub struct Catalog(Connection);

/// A state snapshot that this host wrote, or that it found on the store and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What decides about those to come.
    pub past: Past,
    /// SHA-256 of its commit.
    pub sha256: [u8; 32],
    /// How many reasons there were to doubt it; none once somebody accepted it.
    pub doubts: u64,
}

impl Catalog {
    /// Opens the catalog in `dir`, or makes it. One that cannot be used is put aside, since it is only a cache.
    ///
    /// # Errors
    /// When not even a new one can be made.
    pub fn open(dir: &Path) -> Result<Catalog> {
        let path = dir.join("catalog.sqlite");
        if let Ok(Some(catalog)) = Self::try_open(&path) {
            return Ok(catalog);
        }
        Self::discard(dir);
        match Self::try_open(&path) {
            Ok(Some(catalog)) => Ok(catalog),
            Ok(None) => Err(cannot().hint("remove it: a new one is made")),
            Err(e) => Err(cannot().because(e)),
        }
    }

    /// The catalog in `dir`, if there is one that can be used. Nothing is made or put aside.
    pub fn existing(dir: &Path) -> Option<Catalog> {
        let path = dir.join("catalog.sqlite");
        if path.exists() { Self::try_open(&path).ok().flatten() } else { None }
    }

    /// Removes the catalog in `dir`. What is not there need not be removed, and what cannot be shows when it is opened.
    pub fn discard(dir: &Path) {
        for suffix in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(dir.join(format!("catalog.sqlite{suffix}"))));
        }
    }

    fn try_open(path: &Path) -> rusqlite::Result<Option<Catalog>> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        // A catalog that forgets what it recorded would have to be told from another machine's.
        db.pragma_update(None, "synchronous", "full")?;
        // What became secret must not stay readable in what is free.
        db.pragma_update(None, "secure_delete", "on")?;
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
        match version {
            0 => {
                let tables: i64 = db.query_row("select count(*) from sqlite_schema", [], |r| r.get(0))?;
                if tables > 0 {
                    return Ok(None);
                }
                db.execute_batch(TABLES)?;
            }
            SCHEMA => {
                // Reads a row, so that damage shows here and not in the middle of a run.
                db.query_row("select max(seq) from snapshot", [], |_| Ok(()))?;
            }
            _ => return Ok(None),
        }
        Ok(Some(Catalog(db)))
    }

    /// Whether `error` says that the catalog itself is damaged, so that a new one has to be made.
    pub fn is_damage(error: &Error) -> bool {
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(e) = cause {
            let corrupt = |e: &rusqlite::Error| {
                matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
                    || matches!(
                        e,
                        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..)
                    )
            };
            if e.downcast_ref::<Damaged>().is_some() || e.downcast_ref::<rusqlite::Error>().is_some_and(corrupt) {
                return true;
            }
            cause = e.source();
        }
        false
    }

    /// Looks for damage that reading some of it would not show.
    ///
    /// # Errors
    /// When there is some; [`Catalog::is_damage`] knows it.
    pub fn check(&self) -> Result<()> {
        let verdict: String = self.0.query_row("pragma quick_check(1)", [], |r| r.get(0)).map_err(failed)?;
        if verdict == "ok" { Ok(()) } else { Err(cannot().because(Damaged)) }
    }

    /// Begins the one transaction in which a run records what it saw.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        self.0.execute_batch("begin immediate").map_err(failed)?;
        Ok(Transaction { catalog: self, open: true })
    }

    /// The highest seq that this host has given or seen.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn last_seq(&self) -> Result<Option<u64>> {
        let seq: Option<i64> = self.0.query_row("select max(seq) from snapshot", [], |r| r.get(0)).map_err(failed)?;
        Ok(seq.and_then(|s| u64::try_from(s).ok()))
    }

    /// The newest snapshot of `archive`, as later commits refer to it.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn newest(&self, archive: Archive) -> Result<Option<Reference>> {
        let row: Option<(String, String, i64)> = self
            .0
            .query_row(
                "select id, commit_sha256, life from snapshot where archive = ? order by seq desc limit 1",
                [archive.word()],
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
            )
            .optional()
            .map_err(failed)?;
        Ok(row.and_then(|(id, sha256, life)| {
            Some(Reference {
                id: SnapshotId::parse(&id)?,
                sha256: unhex(&sha256)?,
                life: Some(u64::try_from(life).ok()?),
            })
        }))
    }

    /// The generation this catalog belongs to: its first full.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn generation(&self) -> Result<Option<SnapshotId>> {
        let id: Option<String> = self
            .0
            .query_row(
                "select generation from snapshot where archive = 'state' and generation is not null
                 order by seq desc limit 1",
                [],
                |r| r.get(0),
            )
            .optional()
            .map_err(failed)?;
        Ok(id.as_deref().and_then(SnapshotId::parse))
    }

    /// The state snapshots that are known, in order of seq.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn snapshots(&self) -> Result<Vec<Known>> {
        let mut statement = self
            .0
            .prepare_cached(
                "select id, seq, committed, tier, generation, parent, life, commit_sha256, stored, whole, suspicious
                 from snapshot where archive = 'state' order by seq",
            )
            .map_err(failed)?;
        let rows = statement.query_map([], |r| {
            let id = |text: Option<String>| text.as_deref().and_then(SnapshotId::parse);
            let past = Past {
                id: id(r.get(0)?)
                    .ok_or_else(|| rusqlite::Error::InvalidColumnType(0, "id".into(), rusqlite::types::Type::Text))?,
                seq: r.get::<_, i64>(1)?.cast_unsigned(),
                committed: r.get(2)?,
                tier: r.get::<_, Option<String>>(3)?.unwrap_or_default(),
                generation: id(r.get(4)?),
                parent: id(r.get(5)?),
                life: r.get::<_, i64>(6)?.cast_unsigned(),
                delta_bytes: r.get::<_, i64>(8)?.cast_unsigned(),
                whole: r.get(9)?,
                suspicious: r.get(10)?,
            };
            let doubts = r.get::<_, i64>(10)?.cast_unsigned();
            Ok(Known { past, sha256: unhex(&r.get::<_, String>(7)?).unwrap_or_default(), doubts })
        });
        rows.and_then(Iterator::collect).map_err(failed)
    }

    /// Whether there is a state snapshot that nobody accepted.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn has_doubts(&self) -> Result<bool> {
        let sql = "select exists(select 1 from snapshot where archive = 'state' and suspicious > 0)";
        self.0.query_row(sql, [], |r| r.get(0)).map_err(failed)
    }

    /// Notes that a state snapshot is not to be leant on any more.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn lose(&self, id: &SnapshotId) -> Result<()> {
        let sql = "update snapshot set whole = 0 where archive = 'state' and id = ?";
        self.0.execute(sql, [id.as_str()]).map(drop).map_err(failed)
    }

    /// Forgets the oldest snapshots of tiers that have very many.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn thin(&self) -> Result<()> {
        let sql = "delete from snapshot where (archive, id) in (
                     select archive, id from (
                       select archive, id, row_number() over (partition by archive, tier order by seq desc) as n
                       from snapshot)
                     where n > ?)";
        self.0.execute(sql, [SNAPSHOTS_MAX]).map(drop).map_err(failed)
    }

    /// Records what another catalog left on the store, all or nothing: whoever finds some of it here takes that for all
    /// there is. It belongs to no generation of this catalog.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn adopt(&self, found: &[(&Commit, [u8; 32])]) -> Result<()> {
        let transaction = self.begin()?;
        for (commit, sha256) in found {
            let commit = Commit { generation: None, ..(*commit).clone() };
            self.record(&commit, sha256, commit.id.unix_seconds())?;
        }
        transaction.commit()
    }

    /// Records a snapshot whose commit is on the store since `committed`, in Unix seconds. What it accepts is no longer
    /// doubted.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn record(&self, commit: &Commit, sha256: &[u8; 32], committed: i64) -> Result<()> {
        for id in &commit.accept {
            let sql = "update snapshot set suspicious = 0 where archive = 'state' and id = ?";
            self.0.execute(sql, [id.as_str()]).map_err(failed)?;
        }
        self.0
            .execute(
                "insert or replace into snapshot(archive, id, seq, tier, generation, life, parent, commit_sha256,
                 committed, stored, whole, suspicious) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)",
                params![
                    commit.archive.word(),
                    commit.id.as_str(),
                    signed(commit.seq)?,
                    commit.tier,
                    commit.generation.as_ref().map(SnapshotId::as_str),
                    signed(commit.life)?,
                    commit.parent.as_ref().map(|p| p.id.as_str()),
                    crate::model::manifest::hex(sha256),
                    committed,
                    signed(commit.stored_bytes())?,
                    signed(commit.suspicious.unwrap_or(0))?,
                ],
            )
            .map_err(failed)?;
        Ok(())
    }

    /// Something small that is remembered by name.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn fact(&self, key: &str) -> Result<Option<String>> {
        self.0.query_row("select value from fact where key = ?", [key], |r| r.get(0)).optional().map_err(failed)
    }

    /// Remembers something small by name.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn set_fact(&self, key: &str, value: &str) -> Result<()> {
        let sql = "insert or replace into fact(key, value) values (?, ?)";
        self.0.execute(sql, [key, value]).map(drop).map_err(failed)
    }
}

/// What a run records, all or nothing: dropped, none of it was.
#[must_use = "a transaction that is not committed is rolled back"]
pub struct Transaction<'a> {
    catalog: &'a Catalog,
    open: bool,
}

impl Transaction<'_> {
    /// Makes it last.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn commit(mut self) -> Result<()> {
        self.catalog.0.execute_batch("commit").map_err(failed)?;
        self.open = false;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            // What cannot be rolled back is when the connection closes.
            drop(self.catalog.0.execute_batch("rollback"));
        }
    }
}

/// Why a catalog is not to be used any more.
#[derive(Debug)]
struct Damaged;

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what it holds is not what was written")
    }
}

impl std::error::Error for Damaged {}

fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|e| cannot().because(e))
}

fn failed(e: rusqlite::Error) -> Error {
    cannot().because(e)
}

fn cannot() -> Error {
    Error::failed("cannot use the catalog")
}
