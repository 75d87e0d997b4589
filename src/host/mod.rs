//! The rim: everything that touches the outside world. Nothing here knows what an archive looks like inside.

pub mod at;
pub mod catalog;
pub mod compare;
pub mod database;
pub mod extract;
#[cfg(target_os = "linux")]
pub mod fuse;
pub mod hooks;
pub mod identity;
mod identity_command;
pub mod keyring;
pub mod links;
pub mod metadata;
pub mod place;
pub mod plugin;
pub mod private_file;
pub mod prompt;
pub mod remove;
pub mod replace;
pub mod sandbox;
pub mod scan;
pub mod scratch;
pub mod source;
pub mod stage;
pub mod staging;
pub mod store;
pub mod world;
