//! Which contents were looked into: the stamps of files that the content rules cleared.
//!
//! A stamp stands for a content as well as it does elsewhere in the catalog, and names nothing. They are kept in parts by
//! their first byte, so that a few new ones rewrite little.

use rusqlite::{OptionalExtension as _, params};

use super::{Catalog, Damaged, cannot, failed};
use crate::error::Result;
use crate::model::record::check;

/// Bytes of a stamp, and of the checksum after a part.
const WORD_BYTES: usize = 8;

impl Catalog {
    /// The stamps, in order.
    ///
    /// # Errors
    /// When the catalog cannot be read or is damaged.
    pub fn looked(&self) -> Result<Vec<u64>> {
        let mut statement = self.0.prepare_cached("select part, data from looked order by part").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let part: i64 = row.get(0).map_err(failed)?;
            let data = row.get_ref(1).and_then(|v| Ok(v.as_blob()?)).map_err(failed)?;
            let damaged = || cannot().because(Damaged);
            let (stamps, sum) = data.split_last_chunk::<WORD_BYTES>().ok_or_else(damaged)?;
            if check(&part.to_le_bytes(), stamps) != *sum {
                return Err(damaged());
            }
            let (words, _) = stamps.as_chunks::<WORD_BYTES>();
            out.extend(words.iter().map(|word| u64::from_be_bytes(*word)));
        }
        Ok(out)
    }

    /// Keeps `stamps`, which are in order, in place of those that were known.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn set_looked(&self, stamps: &[u64]) -> Result<()> {
        let mut read = self.0.prepare_cached("select data from looked where part = ?").map_err(failed)?;
        let mut write =
            self.0.prepare_cached("insert or replace into looked(part, data) values (?, ?)").map_err(failed)?;
        let mut delete = self.0.prepare_cached("delete from looked where part = ?").map_err(failed)?;
        let mut rest = stamps;
        for part in 0..=i64::from(u8::MAX) {
            let count = rest.partition_point(|stamp| i64::from(stamp.to_be_bytes()[0]) <= part);
            let (mine, others) = rest.split_at(count);
            rest = others;
            if mine.is_empty() {
                delete.execute([part]).map_err(failed)?;
                continue;
            }
            let mut data: Vec<u8> = mine.iter().flat_map(|stamp| stamp.to_be_bytes()).collect();
            let sum = check(&part.to_le_bytes(), &data);
            data.extend_from_slice(&sum);
            let same = read
                .query_row([part], |r| Ok(r.get_ref(0)?.as_blob().ok() == Some(&data[..])))
                .optional()
                .map_err(failed)?;
            if same != Some(true) {
                write.execute(params![part, data]).map_err(failed)?;
            }
        }
        Ok(())
    }
}
