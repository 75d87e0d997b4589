//! The pure part: no files, clock, environment or threads; everything it knows comes in as an argument.

pub mod class;
pub mod commit;
pub mod config;
mod config_read;
mod config_text;
pub mod database;
pub mod entry;
pub mod finder;
pub mod kit;
pub mod layout;
pub mod manifest;
pub mod names;
pub mod path;
mod patterns;
pub mod preset;
pub mod store_key;
pub mod sweep;
pub mod tiers;
pub mod tree;
pub mod tree_digest;
