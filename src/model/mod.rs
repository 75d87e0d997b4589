//! The pure part: no files, clock, environment or threads; everything it knows comes in as an argument.

pub mod class;
pub mod config;
mod config_read;
mod config_text;
pub mod names;
pub mod path;
mod patterns;
pub mod preset;
