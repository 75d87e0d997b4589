//! The pure part: no files, clock, environment or threads; everything it knows comes in as an argument.

pub mod commit;
pub mod database;
pub mod entry;
pub mod layout;
pub mod manifest;
pub mod path;
pub mod store_key;
pub mod tiers;
pub mod tree;
pub mod tree_digest;
