//! The receipt of a drill: what a rehearsed restore proved and how long it took, section 12 of `FORMAT.md`.
//!
//! It lies in the open on a store that nobody has to trust, so it holds numbers and no name of anything.

use std::fmt::Write as _;

use super::manifest::{hex, unhex};
use super::store_key::{SnapshotId, is_name};
use crate::error::{Error, Result};

/// The largest receipt a reader accepts, in bytes.
pub const RECEIPT_BYTES_MAX: u64 = 64 << 10;

/// An archive that was restored: its id and the SHA-256 of its commit.
pub type Restored = (SnapshotId, [u8; 32]);

/// How often something was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked, a word such as `hash` or `database`.
    pub name: String,
    /// How often.
    pub done: u64,
    /// How often it was not as it should be.
    pub failed: u64,
}

/// What a receipt says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The series.
    pub series: String,
    /// The state archive that was restored.
    pub snapshot: Restored,
    /// The secrets bundle, if there was one.
    pub bundle: Option<Restored>,
    /// The drill.
    pub drill: SnapshotId,
    /// Name and version of the program.
    pub program: String,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// How long it took until the home could be used, in milliseconds.
    pub milliseconds: u64,
    /// How old the snapshot was when the drill began, in seconds: what would have been lost.
    pub age_seconds: u64,
    /// Entries restored.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Bytes of the archives on the store.
    pub stored: u64,
    /// What was checked, in order.
    pub checks: Vec<Check>,
}

/// The directory of a snapshot's receipts on the store.
pub fn directory(series: &str, snapshot: &SnapshotId) -> String {
    format!("drills/{series}/{snapshot}")
}

/// What the key of a receipt or of its signature says: series, snapshot and drill.
pub fn parse_key(key: &str) -> Option<(&str, SnapshotId, SnapshotId)> {
    let mut parts = key.split('/');
    let (top, series, snapshot, drill) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let drill = SnapshotId::parse(drill.strip_suffix(".minisig").unwrap_or(drill))?;
    (top == "drills" && parts.next().is_none() && is_name(series)).then_some(())?;
    Some((series, SnapshotId::parse(snapshot)?, drill))
}

impl Receipt {
    /// The key of the receipt on the store; its signature has `.minisig` after it.
    pub fn key(&self) -> String {
        format!("{}/{}", directory(&self.series, &self.snapshot.0), self.drill)
    }

    /// The trusted comment of the signature of a receipt: a receipt that was moved does not verify.
    pub fn trusted_comment(series: &str, snapshot: &SnapshotId, drill: &SnapshotId) -> String {
        format!("lifeboat-drill {series} {snapshot} {drill}")
    }

    /// The text that is signed and stored.
    pub fn render(&self) -> String {
        let mut out = String::from("# lifeboat drill 1\n");
        let mut line = |word: &str, value: &dyn std::fmt::Display| {
            writeln!(out, "# {word} {value}").expect("writing to a String cannot fail");
        };
        line("series", &self.series);
        line("snapshot", &format!("{} {}", self.snapshot.0, hex(&self.snapshot.1)));
        if let Some((id, sha256)) = &self.bundle {
            line("bundle", &format!("{id} {}", hex(sha256)));
        }
        line("drill", &self.drill);
        line("program", &self.program);
        line("result", &if self.passed { "passed" } else { "failed" });
        line("milliseconds", &self.milliseconds);
        line("age", &self.age_seconds);
        line("entries", &self.entries);
        line("bytes", &self.bytes);
        line("stored", &self.stored);
        for check in &self.checks {
            line("check", &format!("{} {} {}", check.name, check.done, check.failed));
        }
        out
    }

    /// Parses a receipt. Its signature has to be checked beforehand.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) when it is none.
    pub fn parse(text: &str) -> Result<Receipt> {
        let malformed = |what: &str| Error::damaged(format!("the receipt of a drill is malformed: {what}"));
        let mut lines = text.lines();
        if lines.next() != Some("# lifeboat drill 1") {
            return Err(malformed("its first line"));
        }
        let fields: Vec<(&str, &str)> = lines.filter_map(|l| l.strip_prefix("# ")?.split_once(' ')).collect();
        let find = |word: &str| fields.iter().find(|(w, _)| *w == word).map(|(_, value)| *value);
        let need = |word: &str| find(word).ok_or_else(|| malformed(&format!("no `{word}`")));
        let number = |word: &str| need(word)?.parse::<u64>().map_err(|_| malformed(&format!("`{word}` is no number")));
        let restored = |text: &str| -> Result<Restored> {
            let parsed = text.split_once(' ').and_then(|(id, sum)| Some((SnapshotId::parse(id)?, unhex(sum)?)));
            parsed.ok_or_else(|| malformed("what was restored"))
        };
        let check = |text: &str| -> Result<Check> {
            let parts: Vec<&str> = text.split(' ').collect();
            let [name, done, failed] = parts[..] else { return Err(malformed("a check")) };
            let count = |text: &str| text.parse::<u64>().map_err(|_| malformed("a check"));
            if !is_name(name) {
                return Err(malformed("a check"));
            }
            Ok(Check { name: name.to_owned(), done: count(done)?, failed: count(failed)? })
        };
        let series = need("series")?.to_owned();
        if !is_name(&series) {
            return Err(malformed("series"));
        }
        Ok(Receipt {
            series,
            snapshot: restored(need("snapshot")?)?,
            bundle: find("bundle").map(restored).transpose()?,
            drill: SnapshotId::parse(need("drill")?).ok_or_else(|| malformed("the drill's id"))?,
            program: need("program")?.to_owned(),
            passed: match need("result")? {
                "passed" => true,
                "failed" => false,
                _ => return Err(malformed("the result")),
            },
            milliseconds: number("milliseconds")?,
            age_seconds: number("age")?,
            entries: number("entries")?,
            bytes: number("bytes")?,
            stored: number("stored")?,
            checks: fields.iter().filter(|(w, _)| *w == "check").map(|(_, c)| check(c)).collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn example() -> Receipt {
        let id = |n| SnapshotId::new(1_795_292_100 + i64::from(n), n);
        Receipt {
            series: "vm1".into(),
            snapshot: (id(1), [1; 32]),
            bundle: Some((id(2), [2; 32])),
            drill: id(3),
            program: "lifeboat 0.1.0".into(),
            passed: true,
            milliseconds: 12_345,
            age_seconds: 3600,
            entries: 10,
            bytes: 20,
            stored: 30,
            checks: vec![Check { name: "database".into(), done: 2, failed: 0 }],
        }
    }

    #[test]
    fn what_is_rendered_parses_back() {
        let receipt = example();
        assert_eq!(Receipt::parse(&receipt.render()).unwrap(), receipt);
        let more = receipt.render().replace("# age", "# color blue\n# age");
        assert_eq!(Receipt::parse(&more).unwrap(), receipt);
        let key = receipt.key();
        let (series, snapshot, drill) = parse_key(&key).unwrap();
        assert_eq!((series, &snapshot, &drill), ("vm1", &receipt.snapshot.0, &receipt.drill));
        assert!(parse_key(&format!("{}.minisig", receipt.key())).is_some());
        assert!(parse_key(&format!("{}/x", receipt.key())).is_none());
    }

    #[test]
    fn malformed_receipts_are_refused() {
        let text = example().render();
        for (from, to) in [
            ("drill 1\n", "drill 2\n"),
            ("# series vm1", "# series ../x"),
            ("# bytes 20\n", ""),
            ("# age 3600", "# age soon"),
            ("passed", "perhaps"),
            ("database 2 0", "database 2"),
            ("# drill 2026", "# drill 1026x"),
        ] {
            let bad = text.replacen(from, to, 1);
            assert_ne!(bad, text, "{from}");
            assert!(Receipt::parse(&bad).is_err(), "{from} -> {to}");
        }
    }
}
