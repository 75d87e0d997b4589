//! The secrets bundle: always full, and written only when there is a reason to.

use super::content_rule::Judged;
use super::lineage::Lineage;
use super::secret_set::SecretSet;
use super::sweeping::{Found, Sweeping, untold};
use super::write_archive::{Committed, Run, Terms, write};
use super::{Event, Events};
use crate::error::Result;
use crate::host::scan::Scan;
use crate::model::entry::Kind;
use crate::model::secret_notes::SecretNotes;
use crate::model::store_key::Archive;
use crate::model::tree::{Index, NONE};

/// The fact under which the catalog keeps the digests of the secrets that the newest bundle holds.
const SECRETS: &str = "secrets";
/// The fact under which it keeps what of them could not be read.
const UNREADABLE: &str = "unreadable secrets";
/// What the key of those digests is derived for.
const CONTEXT: &str = "lifeboat 2026-11 digests of secrets in the catalog";
/// Seconds in an hour.
const HOUR_SECONDS: u64 = 3600;

/// What bundles of one run are made of.
pub struct Bundle<'a> {
    /// The run.
    pub run: &'a Run<'a>,
    /// What is secret by what is in it.
    pub judged: &'a Judged,
    /// The values in secret files.
    pub sweeping: &'a Sweeping,
}

impl Bundle<'_> {
    /// Writes a bundle if the secrets changed, or the newest one has lived a quarter of its time.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_if_changed(
        &self,
        lineage: &mut Lineage,
        scan: &mut Scan,
        events: &mut Events<'_>,
    ) -> Result<Option<Committed>> {
        let run = self.run;
        let key = run.key.derive(CONTEXT);
        let before = SecretSet::parse(&run.catalog.fact(SECRETS)?.unwrap_or_default());
        let set = SecretSet::of(scan, run.sources, &key, &run.config.secrets.recipients, &before)?;
        let tree = &scan.tree;
        let absent = tree.indices().any(|i| tree.node(i).kind == Kind::Missing && tree.node(i).parent == NONE);
        // A source that is not there took its secrets with it; the bundle that has them is still the best one.
        let same = set.is_as(&before) || (absent && set.is_part_of(&before));
        let keep = u64::from(run.config.secrets.keep_hours) * HOUR_SECONDS;
        let age = lineage.secrets.as_ref().map(|newest| run.world.now().abs_diff(newest.id.unix_seconds()));
        let fresh = age.is_some_and(|age| age <= keep / 4);
        if (same && fresh) || (set.is_empty() && lineage.secrets.is_none()) {
            return run.catalog.set_fact(SECRETS, &if absent { before } else { set }.render()).map(|()| None);
        }
        if absent && !same {
            events(Event::Warning(
                "secrets changed while a source is not there: the new bundle lacks that source's secrets".to_owned(),
            ));
        }
        let notes = self.sweeping.values(scan, run.sources, self.judged).notes(&[], None)?;
        let committed = self.put(lineage, notes, scan, events)?;
        // What changed meanwhile is looked at again. What could not be read is part of the set: once it can be, that
        // changes; until then it is told by each run, though none writes another bundle for it.
        let settled = committed.outcome.changed == 0;
        run.catalog.set_fact(SECRETS, &if settled { set } else { SecretSet::default() }.render())?;
        run.catalog.set_fact(UNREADABLE, &committed.outcome.unreadable.join("\n"))?;
        Ok(Some(committed))
    }

    /// What the newest bundle lacks, without names, for a run that writes none.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn still_unreadable(&self) -> Result<Vec<String>> {
        let lines = self.run.catalog.fact(UNREADABLE)?.unwrap_or_default();
        Ok(lines.lines().map(str::to_owned).collect())
    }

    /// Writes one more if there are leaks that no bundle lists: only who opens a bundle may learn of them. `snapshot` is
    /// the state archive in which they were found, and whether that is a full.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_for_leaks(
        &self,
        lineage: &mut Lineage,
        leaks: &[Found],
        (snapshot, full): (Option<&str>, bool),
        scan: &mut Scan,
        events: &mut Events<'_>,
    ) -> Result<Option<Committed>> {
        let values = self.sweeping.values(scan, self.run.sources, self.judged);
        let untold = untold(self.run, values, leaks, full)?;
        if !untold.any {
            return Ok(None);
        }
        let notes = values.notes(leaks, snapshot)?;
        let committed = self.put(lineage, notes, scan, events)?;
        untold.remember(self.run)?;
        Ok(Some(committed))
    }

    fn put(
        &self,
        lineage: &mut Lineage,
        notes: SecretNotes,
        scan: &mut Scan,
        events: &mut Events<'_>,
    ) -> Result<Committed> {
        let run = self.run;
        events(Event::Phase("writing the secrets bundle"));
        let terms = Terms {
            archive: Archive::Secrets,
            tier: None,
            generation: None,
            life: u64::from(run.config.secrets.keep_hours.div_ceil(24)),
            seq: lineage.next_seq(run.world.now()),
            parent: None,
            prev: lineage.secrets.clone(),
            bundle: None,
            notes: Some(SecretNotes { findings: self.judged.findings(scan, run.sources, run.world)?, ..notes }),
            suspicious: None,
            accept: Vec::new(),
        };
        let first_added = scan.tree.indices().end;
        let committed = write(run, terms, scan, None, None, events)?;
        lineage.secrets = Some(committed.reference());
        // What writing found beside a damaged database is found again by the next one.
        let added: Vec<Index> = (first_added..scan.tree.indices().end).collect();
        added.into_iter().for_each(|index| scan.tree.node_mut(index).kind = Kind::Deleted);
        Ok(committed)
    }
}
