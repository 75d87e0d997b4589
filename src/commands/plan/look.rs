//! Looking at an entry that may have changed: what has metadata alone is decided here, and what cannot be read or went
//! away.

use super::{Action, Work};
use crate::commands::changes::Gone;
use crate::error::Result;
use crate::host::metadata;
use crate::host::source::{self, NoFile, Root};
use crate::model::entry::{Entry, Kind};
use crate::model::record::{Record, meta_digest};
use crate::model::tree::Index;

impl Work<'_> {
    /// Looks at what differs from the last run; `record` is what was known of it.
    pub(super) fn look(&mut self, index: Index, record: Option<&Record>) -> Result<()> {
        match self.scan.tree.node(index).kind {
            Kind::Missing => {
                let reason = self.scan.tree.entry(index).reason;
                self.tell(index, &reason);
                self.decided.actions.insert(index, Action::Listed);
            }
            Kind::Deleted => {}
            Kind::Dir => {
                self.directory(index);
                self.by_metadata(index, record);
            }
            Kind::Symlink => {
                let mut entry = self.scan.tree.entry(index);
                let disk = self.root(index).disk_path(&self.scan.tree.path(index));
                entry.xattrs = metadata::link_xattrs(&disk).unwrap_or_default();
                self.scan.tree.set_entry(index, &entry);
                self.by_metadata(index, record);
            }
            Kind::Hardlink => self.by_metadata(index, record),
            Kind::File => self.file(index, record)?,
        }
        Ok(())
    }

    /// Reads the metadata of a directory; where that fails, what the scan saw stands.
    pub(super) fn directory(&mut self, index: Index) {
        let path = self.scan.tree.path(index);
        let root = &self.sources[self.scan.source_of(index)].root;
        match source::directory(root, &path, &mut self.names) {
            Ok(entry) => self.scan.tree.set_entry(index, &entry),
            Err(NoFile::Vanished) => self.scan.unsettle(index),
            Err(NoFile::Unreadable(e)) => {
                self.tell(index, &std::io::Error::from(e).to_string());
                self.scan.unsettle(index);
            }
        }
    }

    /// Something that has no content but its metadata.
    fn by_metadata(&mut self, index: Index, record: Option<&Record>) {
        let digest = meta_digest(&self.scan.tree.entry(index));
        let same = record.is_some_and(|r| r.meta_digest == digest);
        self.decided.changed |= !same;
        if same && record.is_some_and(|r| !r.is_after(self.parent)) {
            self.decided.same.insert(index);
        } else {
            self.decided.actions.insert(index, Action::Listed);
        }
    }

    /// The names of something that could not be read, which are missing together.
    pub(super) fn cannot_read(&mut self, index: Index, reason: &str) {
        self.tell(index, reason);
        self.decided.changed = true;
        let entry = Entry { reason: reason.to_owned(), ..Entry::new(Kind::Missing) };
        for name in self.scan.names_of(index) {
            self.scan.tree.set_entry(name, &entry);
            self.decided.same.remove(&name);
            self.decided.actions.insert(name, Action::Listed);
        }
    }

    /// A file that is not there any more, under none of its names.
    pub(super) fn vanish(&mut self, index: Index, record: Option<&Record>) {
        self.decided.vanished += 1;
        self.decided.changed = true;
        for name in self.scan.names_of(index) {
            self.scan.tree.node_mut(name).kind = Kind::Deleted;
            self.decided.actions.remove(&name);
            self.decided.same.remove(&name);
            let path = self.scan.tree.path(name);
            // Of the other names nothing is at hand; what is gone without ever having been there does no harm.
            let record = record.filter(|_| name == index).cloned();
            let record = record.unwrap_or_else(|| Record { kind: Kind::Hardlink, ..Record::born(Kind::Hardlink, 0) });
            self.gone.entry(path).or_insert(Gone { record, secret: false });
        }
    }

    /// Tells a person what could not be read as it should.
    pub(super) fn tell(&mut self, index: Index, reason: &str) {
        let what = self.scan.shown_on_disk(index, &self.world.home);
        self.decided.unreadable.push(format!("{what}: {reason}"));
    }

    fn root(&self, index: Index) -> &Root {
        &self.sources[self.scan.source_of(index)].root
    }
}
