//! The catalog: a local SQLite cache of what this host last wrote. Never needed for a restore; lost, it costs a look at
//! the store and a full.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::{Error, Result};
use crate::model::commit::{Commit, Reference};
use crate::model::manifest::unhex;
use crate::model::store_key::{Archive, SnapshotId};

/// The schema this program writes. An older or newer catalog is put aside and made anew.
const SCHEMA: i64 = 1;

/// An open catalog.
pub struct Catalog(Connection);

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
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            // What is not there need not be removed, and what cannot be removed shows in the next step.
            drop(std::fs::remove_file(name));
        }
        match Self::try_open(&path) {
            Ok(Some(catalog)) => Ok(catalog),
            Ok(None) => Err(cannot().hint("remove it: a new one is made")),
            Err(e) => Err(cannot().because(e)),
        }
    }

    fn try_open(path: &Path) -> rusqlite::Result<Option<Catalog>> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "normal")?;
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
        match version {
            0 => {
                let tables: i64 = db.query_row("select count(*) from sqlite_schema", [], |r| r.get(0))?;
                if tables > 0 {
                    return Ok(None);
                }
                db.execute_batch(
                    "begin;
                     create table snapshot(
                       archive text not null, id text not null, seq integer not null unique, tier text,
                       generation text, life integer not null, parent text, commit_sha256 text not null,
                       suspicious integer not null default 0,
                       primary key (archive, id)) strict;
                     pragma user_version = 1;
                     commit;",
                )?;
            }
            SCHEMA => {
                // Reads a row, so that damage shows here and not in the middle of a run.
                db.query_row("select max(seq) from snapshot", [], |_| Ok(()))?;
            }
            _ => return Ok(None),
        }
        Ok(Some(Catalog(db)))
    }

    /// The highest seq that this host has given.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn last_seq(&self) -> Result<Option<u64>> {
        let seq: Option<i64> =
            self.0.query_row("select max(seq) from snapshot", [], |r| r.get(0)).map_err(|e| cannot().because(e))?;
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
            .map_err(|e| cannot().because(e))?;
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
                 order by seq limit 1",
                [],
                |r| r.get(0),
            )
            .optional()
            .map_err(|e| cannot().because(e))?;
        Ok(id.as_deref().and_then(SnapshotId::parse))
    }

    /// Records what another catalog left on the store, all or nothing: whoever finds some of it here takes that for all
    /// there is. It belongs to no generation of this catalog.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn adopt(&mut self, found: &[(&Commit, String)]) -> Result<()> {
        self.0.execute_batch("begin immediate").map_err(|e| cannot().because(e))?;
        let adopted = found.iter().try_for_each(|(commit, sha256)| {
            let commit = Commit { generation: None, ..(*commit).clone() };
            self.record(&commit, sha256)
        });
        let end = if adopted.is_ok() { "commit" } else { "rollback" };
        self.0.execute_batch(end).map_err(|e| cannot().because(e))?;
        adopted
    }

    /// Records a snapshot whose commit is on the store.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn record(&mut self, commit: &Commit, commit_sha256: &str) -> Result<()> {
        let seq = i64::try_from(commit.seq).map_err(|e| cannot().because(e))?;
        let life = i64::try_from(commit.life).map_err(|e| cannot().because(e))?;
        self.0
            .execute(
                "insert or replace into snapshot(archive, id, seq, tier, generation, life, parent, commit_sha256)
                 values (?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    commit.archive.word(),
                    commit.id.as_str(),
                    seq,
                    commit.tier,
                    commit.generation.as_ref().map(SnapshotId::as_str),
                    life,
                    commit.parent.as_ref().map(|p| p.id.as_str()),
                    commit_sha256,
                ],
            )
            .map_err(|e| cannot().because(e))?;
        Ok(())
    }
}

fn cannot() -> Error {
    Error::failed("cannot use the catalog")
}
