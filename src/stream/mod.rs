//! Bytes in, bytes out: tar, frames, volumes, signatures. Knows `Read` and `Write`, but no files.

pub mod age_keys;
pub mod archive_reader;
pub mod archive_writer;
pub mod manifest_file;
pub mod plugin;
pub mod ranged;
pub mod resume;
pub mod seal;
pub mod sign;
pub mod signers;
pub mod tar_member;
