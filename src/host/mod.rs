//! ...

pub mod identity;
mod identity_command;
pub mod keyring;
pub mod private_file;
pub mod prompt;
