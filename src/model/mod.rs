//! The pure part: no files, clock, environment or threads; everything it knows comes in as an argument.

pub mod kit;
pub mod path;
