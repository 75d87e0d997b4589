//! The rim: everything that touches the outside world. Nothing here knows what an archive looks like inside.

pub mod at;
pub mod catalog;
pub mod compare;
pub mod extract;
pub mod metadata;
pub mod place;
pub mod scan;
pub mod source;
pub mod stage;
pub mod staging;
pub mod store;
pub mod world;
