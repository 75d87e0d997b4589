//! One file per command: its arguments, its `run` and its report. Beside them what several commands share.
//!
//! Commands join the layers below them and print nothing: they return a report, and tell what happens meanwhile
//! through [`Event`]s.

pub mod accept;
pub mod agents;
pub mod backup;
pub mod bring_back;
pub mod bundle;
pub mod bundle_values;
pub mod cat;
pub mod catch_up;
pub mod changes;
pub mod content_rule;
pub mod contents;
pub mod copy;
pub mod counts;
pub mod credential;
pub mod diff;
pub mod doctor;
pub mod drill;
pub mod dump;
pub mod file_reader;
pub mod find;
pub mod fleet;
pub mod guard;
pub mod hand_over;
pub mod hooks;
pub mod init;
pub mod interrupted;
pub mod keys;
pub mod kits;
pub mod lifecycle;
pub mod lineage;
pub mod list;
pub mod listing;
pub mod log;
pub mod look;
pub mod ls;
pub mod members;
pub mod metrics;
pub mod mirror;
#[cfg(target_os = "linux")]
pub mod mount;
pub mod opened;
pub mod patch_spool;
pub mod pin;
pub mod plan;
pub mod plugins;
pub mod policy;
pub mod preview;
pub mod prune;
pub mod read_ahead;
pub mod reading;
pub mod receipts;
pub mod remember;
pub mod restore;
pub mod roots;
pub mod rotate;
pub mod secret_set;
pub mod secrets;
pub mod session;
pub mod signing;
pub mod snapshots;
pub mod sources;
pub mod state_archive;
pub mod status;
pub mod surplus;
pub mod sweeping;
pub mod transfer;
pub mod verify;
pub mod versions;
pub mod warm_up;
pub mod whereabouts;
pub mod write_archive;

use crate::error::Kind;

/// Something a person may want to know while a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something was done: said unless `-q`.
    Note(String),
    /// Something is not as it should be: always said.
    Warning(String),
    /// A detail: said with `-v`.
    Detail(String),
    /// What is being done now.
    Phase(&'static str),
    /// How far it is.
    Progress {
        /// Files done.
        files: u64,
        /// Files there are, if that is known.
        files_total: u64,
        /// Bytes done.
        bytes: u64,
        /// Bytes there are; 0 if that is not known.
        bytes_total: u64,
    },
}

/// Where events go.
pub type Events<'a> = dyn FnMut(Event) + 'a;

/// What a command did, for a person and as JSON.
pub trait Report: serde::Serialize {
    /// The lines for a person; what goes to stdout.
    fn text(&self) -> String;

    /// What should have been done and was not, a line each.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// What decides the exit code; `None` is success. Any problem makes it 3, unless a report knows better.
    fn verdict(&self) -> Option<Kind> {
        (!self.problems().is_empty()).then_some(Kind::Incomplete)
    }
}

/// `18.2 MiB`.
pub fn bytes_text(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// `1 file`, `2 files`.
pub fn count_text(n: u64, one: &str) -> String {
    let count = indicatif::HumanCount(n);
    if n == 1 { format!("{count} {one}") } else { format!("{count} {one}s") }
}
