//! ...

pub mod age_keys;
pub mod sign;
