//! The pure part: no files, clock, environment or threads; everything it knows comes in as an argument.

pub mod database;
pub mod path;
