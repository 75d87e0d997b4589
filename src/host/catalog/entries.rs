//! What the catalog knows of entries: racks of records by directory, rows of blocks by file, and graves.

use rusqlite::{OptionalExtension as _, params};

use super::{Catalog, Damaged, cannot, failed, signed};
use crate::error::Result;
use crate::model::blocks::{Row, Rows};
use crate::model::record::{Rack, Record, check};

/// Records per rack that are aimed at: a change of one rewrites so many.
const RACK_RECORDS: usize = 128;

/// Something that is gone: what there was under a path until a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grave {
    /// The path.
    pub path: Vec<u8>,
    /// The seq of the run that did not find it any more.
    pub died: u64,
    /// When it had appeared.
    pub born: u64,
    /// When its content had last changed.
    pub changed: u64,
    /// Bytes of content.
    pub size: u64,
    /// BLAKE3 of the content, if it was a file and may be remembered.
    pub blake3: Option<[u8; 32]>,
}

/// Records of one directory by name.
pub type Records = std::collections::BTreeMap<Vec<u8>, Record>;

/// Takes path of the directory, name and record.
pub(super) type EachRecord<'a> = dyn FnMut(&[u8], &[u8], Record) -> Result<()> + 'a;

impl Catalog {
    /// Shows `each` all records: path of the directory, name, record; directory by directory in order of path, within one
    /// in no order. What stands above everything is in the directory without a path, under its whole path.
    ///
    /// # Errors
    /// When the catalog cannot be read or is damaged, and those of `each`.
    pub fn records(&self, each: &mut EachRecord<'_>) -> Result<()> {
        let mut statement = self.0.prepare_cached("select path, data from rack order by path, part").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let blob = |n| row.get_ref(n).and_then(|v| Ok(v.as_blob()?)).map_err(failed);
            let (path, data) = (blob(0)?, blob(1)?);
            let mut result = Ok(());
            Rack::decode(path, data, &mut |name, record| {
                if result.is_ok() {
                    result = each(path, name, record);
                }
            })
            .ok_or_else(|| cannot().because(Damaged))?;
            result?;
        }
        Ok(())
    }

    /// The records of one directory.
    ///
    /// # Errors
    /// When the catalog cannot be read or is damaged.
    pub fn directory(&self, path: &[u8]) -> Result<Records> {
        let mut statement = self.0.prepare_cached("select data from rack where path = ?").map_err(failed)?;
        let mut rows = statement.query([path]).map_err(failed)?;
        let mut out = Records::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let data = row.get_ref(0).and_then(|v| Ok(v.as_blob()?)).map_err(failed)?;
            Rack::decode(path, data, &mut |name, record| drop(out.insert(name.to_vec(), record)))
                .ok_or_else(|| cannot().because(Damaged))?;
        }
        Ok(out)
    }

    /// Keeps the records of one directory in place of what was known of it; none forgets it.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn set_directory(&self, path: &[u8], records: &Records) -> Result<()> {
        let parts = match records.len() {
            0 => 0,
            n => n.div_ceil(RACK_RECORDS).next_power_of_two(),
        };
        let mut delete = self.0.prepare_cached("delete from rack where path = ? and part >= ?").map_err(failed)?;
        delete.execute(params![path, signed(parts as u64)?]).map_err(failed)?;
        let mut racks: Vec<Vec<(&[u8], &Record)>> = vec![Vec::new(); parts];
        for (name, record) in records {
            racks[part_of(name, parts)].push((name, record));
        }
        let mut read = self.0.prepare_cached("select data from rack where path = ? and part = ?").map_err(failed)?;
        let mut write = self
            .0
            .prepare_cached(
                "insert into rack(path, part, data) values (?, ?, ?)
                 on conflict(path, part) do update set data = excluded.data",
            )
            .map_err(failed)?;
        for (part, rack) in racks.into_iter().enumerate() {
            let part = signed(part as u64)?;
            let data = Rack::encode(path, rack);
            let same = read
                .query_row(params![path, part], |r| Ok(r.get_ref(0)?.as_blob().ok() == Some(&data[..])))
                .optional()
                .map_err(failed)?;
            if same != Some(true) {
                write.execute(params![path, part, data]).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The rows of blocks of the file at `path`.
    pub fn blocks(&self, path: &[u8]) -> BlockRows<'_> {
        let mut file = [0; 16];
        file.copy_from_slice(&blake3::hash(path).as_bytes()[..16]);
        BlockRows { catalog: self, file }
    }

    /// The graves of what died after `seq`, in order of path.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn graves(&self, seq: u64) -> Result<Vec<Grave>> {
        let mut statement = self
            .0
            .prepare_cached(
                "select path, died, born, changed, size, blake3 from grave where died > ? order by path, died",
            )
            .map_err(failed)?;
        let rows = statement.query_map([signed(seq)?], |r| {
            Ok(Grave {
                path: r.get(0)?,
                died: r.get::<_, i64>(1)?.cast_unsigned(),
                born: r.get::<_, i64>(2)?.cast_unsigned(),
                changed: r.get::<_, i64>(3)?.cast_unsigned(),
                size: r.get::<_, i64>(4)?.cast_unsigned(),
                blake3: r.get(5)?,
            })
        });
        rows.and_then(Iterator::collect).map_err(failed)
    }

    /// Digs a grave.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn bury(&self, grave: &Grave) -> Result<()> {
        let mut statement = self
            .0
            .prepare_cached(
                "insert or replace into grave(path, died, born, changed, size, blake3) values (?, ?, ?, ?, ?, ?)",
            )
            .map_err(failed)?;
        let Grave { path, died, born, changed, size, blake3 } = grave;
        statement
            .execute(params![path, signed(*died)?, signed(*born)?, signed(*changed)?, signed(*size)?, blake3])
            .map(drop)
            .map_err(failed)
    }

    /// Forgets the hashes of what lay at a path that is a secret now.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn forget_content(&self, path: &[u8]) -> Result<()> {
        self.0.execute("update grave set blake3 = null, size = 0 where path = ?", [path]).map_err(failed)?;
        self.blocks(path).truncate(0)
    }

    /// Forgets graves that no parent to come can be older than.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn close_graves(&self, oldest_parent: u64) -> Result<()> {
        self.0.execute("delete from grave where died <= ?", [signed(oldest_parent)?]).map(drop).map_err(failed)
    }
}

/// Which rack of a large directory a name is in.
fn part_of(name: &[u8], parts: usize) -> usize {
    let number = u32::from_le_bytes(*blake3::hash(name).as_bytes().first_chunk::<4>().expect("32 bytes"));
    number as usize & (parts - 1)
}

/// The rows of blocks of one file.
pub struct BlockRows<'a> {
    catalog: &'a Catalog,
    file: [u8; 16],
}

impl BlockRows<'_> {
    fn key(&self, number: u32) -> [u8; 20] {
        let mut key = [0; 20];
        key[..16].copy_from_slice(&self.file);
        key[16..].copy_from_slice(&number.to_le_bytes());
        key
    }
}

impl Rows for BlockRows<'_> {
    fn load(&mut self, number: u32) -> Result<Option<Row>> {
        let sql = "select data from block_row where file = ? and number = ?";
        let mut statement = self.catalog.0.prepare_cached(sql).map_err(failed)?;
        let data: Option<Vec<u8>> =
            statement.query_row(params![self.file, number], |r| r.get(0)).optional().map_err(failed)?;
        let Some(data) = data else { return Ok(None) };
        let damaged = || cannot().because(Damaged);
        let (row, sum) = data.split_last_chunk::<8>().ok_or_else(damaged)?;
        if check(&self.key(number), row) != *sum {
            return Err(damaged());
        }
        Row::decode(row).map(Some).ok_or_else(damaged)
    }

    fn store(&mut self, number: u32, row: &Row) -> Result<()> {
        let sql = "insert into block_row(file, number, data) values (?, ?, ?)
                   on conflict(file, number) do update set data = excluded.data";
        let mut statement = self.catalog.0.prepare_cached(sql).map_err(failed)?;
        let mut data = row.encode();
        let sum = check(&self.key(number), &data);
        data.extend_from_slice(&sum);
        statement.execute(params![self.file, number, data]).map(drop).map_err(failed)
    }

    fn truncate(&mut self, count: u32) -> Result<()> {
        let sql = "delete from block_row where file = ? and number >= ?";
        let mut statement = self.catalog.0.prepare_cached(sql).map_err(failed)?;
        statement.execute(params![self.file, count]).map(drop).map_err(failed)
    }
}
