//! What became of a series that was brought up to date, and what that means for the exit code.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::model::path::printable;
use crate::model::store_key::Place;

/// Why an archive was not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Its time is over.
    Expired,
    /// It is not what was signed, or leans on what is not.
    Damaged,
    /// It lies in a cloud's archive and must be warmed up first.
    Archived,
}

/// One that was not copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Where it stands.
    pub place: String,
    /// Why, as a word.
    pub why: Why,
    /// Why, in words.
    pub text: String,
}

/// One that was copied, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Archived {
    /// Where it stands, on both stores.
    pub place: String,
    /// `state` or `secrets`.
    pub archive: &'static str,
    /// The snapshot's id.
    pub id: String,
    /// Bytes of volumes and manifest that were put; fewer than there are if an earlier run was interrupted.
    pub bytes: u64,
}

/// What became of a series.
#[derive(Debug, Default, Serialize)]
pub struct Copied {
    /// The series.
    pub series: String,
    /// What was copied, in this order.
    pub archives: Vec<Archived>,
    /// Bytes of it.
    pub bytes: u64,
    /// Archives that were there already.
    pub already: u64,
    /// Receipts of drills that were copied.
    pub receipts: u64,
    /// What was not copied.
    pub skipped: Vec<Skipped>,
    /// Archives without a commit: interrupted runs, or one under way.
    pub incomplete: u64,
    /// Archives and receipts that are on the store which was copied.
    #[serde(skip)]
    pub present: BTreeSet<String>,
}

impl Copied {
    /// What was not copied though it should have been, a line each.
    pub fn problems(&self) -> Vec<String> {
        let skipped = self.skipped.iter().filter(|s| s.why != Why::Expired);
        skipped.map(|s| format!("not copied: {}: {}", s.place, s.text)).collect()
    }

    /// What decides the exit code.
    pub fn verdict(&self) -> Option<Kind> {
        let any = |why| self.skipped.iter().any(|s| s.why == why);
        match (any(Why::Damaged), any(Why::Archived)) {
            (true, _) => Some(Kind::Damaged),
            (false, true) => Some(Kind::Archived),
            (false, false) => None,
        }
    }

    /// A series of which nothing was copied, for a reason of its own.
    pub fn refused(series: &str, e: &Error) -> Copied {
        let (place, text) = (format!("series {series}"), printable(e.to_string().as_bytes()));
        let skipped = vec![Skipped { place, why: Why::Damaged, text }];
        Copied { series: series.to_owned(), skipped, ..Copied::default() }
    }

    pub(super) fn skip(&mut self, place: &Place, why: Why, text: impl Into<String>) {
        self.skipped.push(Skipped { place: place.directory(), why, text: text.into() });
    }

    /// Takes an error that is of one archive alone; any other comes back.
    pub(super) fn take(&mut self, place: &str, e: Error) -> Result<()> {
        let why = match e.kind() {
            Kind::Damaged => Why::Damaged,
            Kind::Archived => Why::Archived,
            _ => return Err(e),
        };
        let hint = e.advice().map_or(String::new(), |hint| format!("; {hint}"));
        let text = printable(format!("{e}{hint}").as_bytes());
        self.skipped.push(Skipped { place: place.to_owned(), why, text });
        Ok(())
    }
}
