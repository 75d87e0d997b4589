//! `lifeboat lifecycle print`: the rules with which a bucket does the retention itself.

use serde::Serialize;

use super::session::configuration;
use super::{Event, Events, Report};
use crate::error::{Error, Result};
use crate::host::world::World;
use crate::model::lifecycle::{self, Bucket, Cloud};

/// What `lifecycle print` was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Whose rules; `None` takes it from the store.
    pub cloud: Option<Cloud>,
}

/// The rules.
#[derive(Debug, Serialize)]
pub struct Rules {
    /// `s3`, `gcs` or `azure`.
    #[serde(rename = "for")]
    pub cloud: &'static str,
    /// The bucket or container.
    pub bucket: String,
    /// What puts them in force, if they are in a file `lifecycle.json`.
    pub command: String,
    /// As the cloud's own tool takes them.
    pub rules: serde_json::Value,
    /// The same as text, in the order in which people write it.
    #[serde(skip)]
    pub document: String,
}

impl Report for Rules {
    fn text(&self) -> String {
        format!("{}\n", self.document)
    }
}

/// Writes the rules for the configured store and tiers. Asks nobody: it needs no store and no credential.
///
/// # Errors
/// When there is no configuration, or its store is no bucket of that cloud.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Rules> {
    let Some(configured) = configuration(world)? else {
        return Err(Error::not_there("there is no configuration here").hint("`lifeboat init` makes one"));
    };
    let bucket = Bucket::of(&configured.config.store)?;
    if let Some(asked) = args.cloud.filter(|cloud| *cloud != bucket.cloud) {
        let (store, asked) = (&configured.config.store, asked.word());
        return Err(Error::usage(format!("the store {store} takes no rules of {asked}"))
            .hint(format!("leave --for out, or say --for {}", bucket.cloud.word())));
    }
    let rules = lifecycle::rules(&configured.config);
    let failed = |e| Error::failed("cannot write the rules").because(e);
    let document = lifecycle::document(&bucket, &rules).map_err(failed)?;
    let command = lifecycle::command(&bucket, "lifecycle.json");
    events(Event::Note(format!("save this as lifecycle.json, then: {command}")));
    events(Event::Note(
        "It replaces every rule that is there now: add the rules of other prefixes to the file first.".to_owned(),
    ));
    Ok(Rules {
        cloud: bucket.cloud.word(),
        bucket: bucket.name,
        command,
        rules: serde_json::from_str(&document).map_err(failed)?,
        document,
    })
}
