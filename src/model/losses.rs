//! Losses that are each too small for the [`guard`], added up.
//!
//! Whatever removes a home need not do so between two runs: a script goes through it project by project, a cleaner takes a
//! tenth of it each hour. Every run compares with the one before, and none sees more than a little go. So what went, and
//! what came in its place, is added up over a day or two, and judged by the same bounds as a single run. What was rewritten
//! is not: a file that is written every hour is no other one for that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::calendar::DAY_SECONDS;
use super::guard::{self, Bounds, Change, Counted, ROWS_MIN, Seen, Suspicion};
use super::store_key::SnapshotId;

/// How many seconds a window is added to; a new one is opened half way, so that one always goes back for a day.
const WINDOW_SECONDS: i64 = 2 * DAY_SECONDS;

/// What went in the runs of the last days without an alarm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// The oldest first.
    windows: Vec<Window>,
}

/// What went since a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    /// When that run began, in Unix seconds.
    since: i64,
    /// The id of the snapshot that it was compared with.
    base: Option<String>,
    all: Change,
    kinds: BTreeMap<String, Change>,
    /// What is counted, by whose it is and what it is: when the window first saw it, and now.
    counted: BTreeMap<String, BTreeMap<String, (u64, u64)>>,
}

impl Losses {
    /// Adds what a run at `now`, in Unix seconds, saw go and come since the snapshot `base`. Where nothing was known before it,
    /// nothing can go.
    pub fn add(&mut self, seen: &Seen, now: i64, base: Option<&SnapshotId>) {
        if seen.all.before == 0 {
            return;
        }
        // After a jump of the clock, or a week without a run, this run alone counts.
        self.windows.retain(|window| window.since <= now && now - window.since < WINDOW_SECONDS);
        if self.windows.last().is_none_or(|newest| now - newest.since >= DAY_SECONDS) {
            self.windows.push(Window { since: now, base: base.map(SnapshotId::to_string), ..Window::default() });
        }
        self.windows.iter_mut().for_each(|window| window.add(seen));
    }

    /// What looks wrong about all of it together, and the snapshot that has what went.
    pub fn judge(&self, bounds: &Bounds, now: i64) -> (Vec<Suspicion>, Option<SnapshotId>) {
        for window in &self.windows {
            let mut found = guard::judge(&window.seen(), bounds);
            let hours = (now - window.since).max(1).unsigned_abs().div_ceil(3600);
            let time = if hours == 1 { "hour".to_owned() } else { format!("{hours} hours") };
            found.iter_mut().for_each(|one| one.sentence.push_str(&format!(", little by little over the last {time}")));
            if !found.is_empty() {
                return (found, window.base.as_deref().and_then(SnapshotId::parse));
            }
        }
        (Vec::new(), None)
    }
}

impl Window {
    fn add(&mut self, seen: &Seen) {
        sum(&mut self.all, &seen.all);
        for (kind, change) in &seen.kinds {
            sum(self.kinds.entry(kind.clone()).or_default(), change);
        }
        for Counted { what, of, before, now } in &seen.counted {
            self.count(of, what, *before, *now);
        }
        for database in &seen.databases {
            for (table, (before, now)) in database.rows.iter().filter(|(_, (before, _))| *before >= ROWS_MIN) {
                self.count(&database.name, &format!("rows in table {table}"), *before, *now);
            }
        }
    }

    fn count(&mut self, of: &str, what: &str, before: u64, now: u64) {
        let of = self.counted.entry(of.to_owned()).or_default();
        of.entry(what.to_owned()).or_insert((before, now)).1 = now;
    }

    /// The same as if one run had seen all of it.
    fn seen(&self) -> Seen {
        let counted = self.counted.iter().flat_map(|(of, whats)| {
            whats.iter().map(|(what, (before, now))| {
                let (what, of) = (what.clone(), of.clone());
                Counted { what, of, before: *before, now: *now }
            })
        });
        Seen { all: self.all, kinds: self.kinds.clone(), counted: counted.collect(), ..Seen::default() }
    }
}

/// Adds what went and came, from the first run on that finds anything there before it.
fn sum(sum: &mut Change, change: &Change) {
    if sum.before == 0 {
        if change.before == 0 {
            return;
        }
        (sum.before, sum.bytes_before) = (change.before, change.bytes_before);
    }
    let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
    add(&mut sum.gone, change.gone);
    add(&mut sum.bytes_gone, change.bytes_gone);
    add(&mut sum.new, change.new);
    add(&mut sum.bytes_new, change.bytes_new);
}

#[cfg(test)]
#[path = "losses_tests.rs"]
mod tests;
