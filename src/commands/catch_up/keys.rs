//! The verification keys of a series, which claim its name over there: those that somebody vouches for, and no others.

use std::collections::{BTreeSet, HashSet};

use super::{Copied, Series, Skipped, Why};
use crate::commands::init;
use crate::commands::transfer::Way;
use crate::error::{Error, Result};
use crate::host::store::Store;
use crate::model::store_key::{is_public_key_name, public_key};
use crate::stream::sign::PublicKey;

/// The largest file in `keys/`, in bytes.
const PUBLIC_KEY_BYTES_MAX: u64 = 4096;

impl Series<'_> {
    /// The verification keys claim the name of the series, so they come first.
    pub(super) fn keys(
        &self,
        known: &BTreeSet<String>,
        done: &mut Copied,
        sent: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let Way { from, to, .. } = self.way;
        let prefix = format!("keys/{}", self.name);
        let name_of = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
        let mut names: Vec<String> = from.list(&prefix)?.iter().map(|l| name_of(&l.key)).collect();
        names.retain(|name| is_public_key_name(name));
        // A key that is not handed over yet counts for nothing, so its signature comes before it.
        names.sort_by_key(|name| (name[..6].to_owned(), !name.ends_with(".minisig")));
        let mut files: Vec<(String, bytes::Bytes)> = Vec::new();
        for name in names {
            let key = format!("{prefix}/{name}");
            match from.get(&key, PUBLIC_KEY_BYTES_MAX) {
                Ok(bytes) => files.push((key, bytes)),
                Err(e) => done.take(&key, e)?,
            }
        }
        let known_key = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).ok();
            text.and_then(|t| PublicKey::from_text(t).ok()).is_some_and(|key| self.key.knows(&key))
        };
        let ours: HashSet<String> =
            files.iter().filter(|(_, bytes)| known_key(bytes)).map(|(key, _)| key.clone()).collect();
        if self.trusted && ours.is_empty() {
            let text = "the key of the series is not there, or somebody exchanged it: no key was copied";
            done.skipped.push(Skipped { place: prefix, why: Why::Damaged, text: text.to_owned() });
            return Ok(());
        }
        // What somebody else put there would take the place of a key to come.
        let (files, strange): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(key, _)| ours.contains(key.trim_end_matches(".minisig")));
        for (place, _) in strange {
            let text = "it is no key of the series".to_owned();
            done.skipped.push(Skipped { place, why: Why::Damaged, text });
        }
        let mut lacking = Vec::new();
        for (key, bytes) in files {
            done.present.insert(key.clone());
            if known.contains(&key) {
                continue;
            }
            match to.get_if_there(&key, PUBLIC_KEY_BYTES_MAX) {
                Ok(Some(there)) if there == bytes => {}
                Ok(Some(_)) if key != public_key(self.name, 1) => {
                    let text = format!("something else stands in its place on {}", to.name());
                    done.skipped.push(Skipped { place: key, why: Why::Damaged, text });
                }
                Ok(Some(_)) => {
                    let (series, name) = (self.name, to.name());
                    return Err(Error::usage(format!("{name} holds another series of the name {series}"))
                        .hint("nothing was copied: name another place, as a prefix of its own"));
                }
                Ok(None) => lacking.push((key, bytes)),
                // Who may only add finds out by adding.
                Err(e) if Store::is_refusal(&e) => lacking.push((key, bytes)),
                Err(e) => return Err(e),
            }
        }
        if lacking.is_empty() || self.dry_run {
            return Ok(());
        }
        // Before the keys, so that where those are, these are, too.
        init::put_documents(to)?;
        for (key, bytes) in lacking {
            to.put_if_absent(&key, bytes)?;
            sent(&key)?;
        }
        Ok(())
    }
}
