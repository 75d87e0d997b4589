//! The outside world: files, databases, other processes.

pub mod database;
