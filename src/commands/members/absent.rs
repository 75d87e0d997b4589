//! What was found and cannot be archived: it is missing and stays in the parent's tree, or it went away and is left out.
//! All names of a file share its fate, since a hard link that leads to no file is refused by every reader.

use super::Members;
use crate::commands::plan::Action;
use crate::host::scan::missing_entry;
use crate::host::source::NoFile;
use crate::model::entry::{Entry, Kind};
use crate::model::tree::Index;

impl Members<'_> {
    /// A file that cannot be opened.
    pub(super) fn not_opened(&mut self, index: Index, why: NoFile) {
        match why {
            NoFile::Vanished => {
                self.outcome.vanished += 1;
                self.leave_out(index);
            }
            NoFile::Unreadable(e) => self.unreadable(index, &missing_entry(e).reason),
        }
    }

    /// What the scan could not read.
    pub(super) fn missing_from_scan(&mut self, index: Index) {
        // Of an incremental, who planned it has told already.
        if self.plan.is_none() {
            let reason = self.scan.tree.entry(index).reason;
            self.cannot_read(index, &reason);
        }
    }

    /// A file that could not be read is missing, under all its names.
    pub(super) fn unreadable(&mut self, index: Index, reason: &str) {
        self.cannot_read(index, reason);
        let entry = Entry { reason: reason.to_owned(), ..Entry::new(Kind::Missing) };
        for name in self.scan.names_of(index) {
            self.scan.tree.set_entry(name, &entry);
            if let Some(plan) = &mut self.plan {
                // What is not replaced must not go: it stands in until this can be read again.
                plan.deleted.remove(&self.scan.tree.path(name));
                plan.actions.insert(name, Action::Listed);
            }
        }
    }

    /// Tells it, and no more.
    pub(super) fn cannot_read(&mut self, index: Index, reason: &str) {
        let what = self.scan.shown_on_disk(index, &self.world.home);
        self.outcome.unreadable.push(format!("{what}: {reason}"));
    }

    /// The file is in no archive, and neither are its other names.
    pub(super) fn leave_out(&mut self, index: Index) {
        for name in self.scan.names_of(index) {
            self.leave_out_name(name);
        }
    }

    pub(super) fn leave_out_name(&mut self, index: Index) {
        self.scan.tree.node_mut(index).kind = Kind::Deleted;
        if let Some(plan) = &mut self.plan {
            plan.actions.remove(&index);
            plan.deleted.insert(self.scan.tree.path(index), true);
        }
    }
}
