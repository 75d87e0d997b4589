//! lifeboat backs up what an AI agent cannot lose to a store that nobody has to trust.
//!
//! The layers, each importing only what stands above it in this list:
//! [`model`] (pure), [`stream`] (bytes over `Read` and `Write`) and [`host`] (the outside
//! world), [`commands`] (joins them), [`cli`]. How they work together is told in [`architecture`], what lies on a
//! store is specified in [`format`](mod@format).

pub mod cli;
pub mod commands;
pub mod error;
pub mod host;
pub mod model;
pub mod output;
pub mod stream;

#[doc = include_str!("ARCHITECTURE.md")]
pub mod architecture {}

#[doc = include_str!("FORMAT.md")]
pub mod format {}

pub use error::{Error, Kind, Result};
