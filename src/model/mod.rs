//! The pure part: no files, clock, environment or threads; everything it knows comes in as an argument.

pub mod asked;
pub mod blocks;
pub mod calendar;
pub mod chain;
pub mod class;
pub mod commit;
pub mod config;
mod config_read;
mod config_text;
mod config_watch;
pub mod counts;
pub mod database;
pub mod entry;
pub mod finder;
pub mod guard;
pub mod history;
pub mod kit;
pub mod layout;
pub mod lifecycle;
pub mod lifecycle_rules;
pub mod loader;
pub mod manifest;
pub mod merge;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod merge_tests;
pub mod names;
mod parent;
pub mod path;
mod patterns;
pub mod pieces;
pub mod preset;
pub mod prune;
pub mod receipt;
pub mod record;
pub mod roles;
pub mod secret_notes;
pub mod store_key;
pub mod sweep;
pub mod syntax;
pub mod tiers;
pub mod tree;
pub mod tree_digest;
pub mod upload;
mod varint;
pub mod walk;
pub mod watch;
