//! What decides where data goes, and that nobody changes it unnoticed: an agent that can edit the configuration could
//! otherwise seal its backups to somebody else, send them elsewhere, or leave out what it wants forgotten.

use std::collections::BTreeMap;

use super::{Event, Events};
use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::model::config::{Config, Origin, Source};
use crate::model::preset;
use crate::stream::sign::SigningKey;

/// The fact under which the catalog keeps keyed digests of the policy that was last accepted, a line each.
const FACT: &str = "policy";
/// What the key of those digests is derived for.
const CONTEXT: &str = "lifeboat 2026-11 digests of the policy in the catalog";
/// Hex digits of a digest.
const TAG_DIGITS: usize = 32;

/// A digest of all that decides where data goes, for the manifests.
pub fn digest(config: &Config) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(config.render().as_bytes());
    for source in &config.sources {
        if let Origin::Preset(name) = &source.origin {
            hasher.update(preset::text(name).unwrap_or_default().as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Compares the policy with the one that was last accepted, and says what is different, in each run until `accept` says
/// that it is meant so. The first policy of a catalog is accepted.
///
/// # Errors
/// When the catalog cannot be read or written.
pub fn check(
    config: &Config,
    key: &SigningKey,
    catalog: &Catalog,
    accept: bool,
    events: &mut Events<'_>,
) -> Result<Vec<String>> {
    let tag = tagger(key);
    let now = parts(config, &tag);
    let text: Vec<String> = now.iter().map(|(part, (digest, _))| format!("{part} {digest}")).collect();
    let text = text.join("\n");
    let Some(fact) = catalog.fact(FACT)?.filter(|_| !accept) else {
        return catalog.set_fact(FACT, &text).map(|()| Vec::new());
    };
    let before: BTreeMap<&str, &str> = fact.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut changes: Vec<String> = Vec::new();
    for (part, (digest, what)) in &now {
        if before.get(part.as_str()).is_some_and(|before| before != digest) {
            changes.push(format!("{what} changed"));
        }
    }
    let removed = before.keys().filter(|part| !now.contains_key(**part)).count();
    if removed > 0 {
        changes.push(format!("{} removed", super::count_text(removed as u64, "source")));
    }
    for change in &changes {
        events(Event::Warning(format!(
            "the configuration is not the one that was last accepted: {change}; if that is meant so, `lifeboat backup --accept-policy` says so"
        )));
    }
    if changes.is_empty() && text != fact {
        // A source that was added takes nothing away.
        catalog.set_fact(FACT, &text)?;
    }
    Ok(changes)
}

/// Makes the digests of the catalog anew for the key that follows on `old`: what was accepted stays accepted, and what
/// was not is still not. To do it twice does no harm.
///
/// # Errors
/// When the catalog cannot be read or written.
pub fn hand_over(config: &Config, old: &SigningKey, new: &SigningKey, catalog: &Catalog) -> Result<()> {
    let Some(fact) = catalog.fact(FACT)? else { return Ok(()) };
    let (before, after) = (parts(config, &tagger(old)), parts(config, &tagger(new)));
    let old_tag = tagger(old);
    let new_tag = tagger(new);
    let sources = config.sources.iter().map(|s| format!("{:?}", s.origin));
    let renamed: BTreeMap<String, String> = sources.map(|origin| (old_tag(&origin), new_tag(&origin))).collect();
    let line = |line: &str| -> Option<String> {
        let (part, digest) = line.split_once(' ')?;
        let name = renamed.get(part).map_or(part, String::as_str);
        let accepted = before.get(part).is_some_and(|(known, _)| known == digest);
        let digest = after.get(name).filter(|_| accepted).map_or(digest, |(known, _)| known);
        Some(format!("{name} {digest}"))
    };
    let text: Vec<String> = fact.lines().filter_map(line).collect();
    catalog.set_fact(FACT, &text.join("\n"))
}

/// Makes digests that say nothing to whoever does not have the key.
fn tagger(key: &SigningKey) -> impl Fn(&str) -> String {
    let key = key.derive(CONTEXT);
    move |text| {
        let mut tag = blake3::keyed_hash(&key, text.as_bytes()).to_hex().to_string();
        tag.truncate(TAG_DIGITS);
        tag
    }
}

/// Digests of what counts, each with its name for a person. Nothing in it names a source: that may be a secret.
fn parts(config: &Config, tag: &dyn Fn(&str) -> String) -> BTreeMap<String, (String, String)> {
    let recipients = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort();
        tag(&list.join("\n"))
    };
    let mut out = BTreeMap::from([
        ("store".to_owned(), (tag(&config.store), "the store".to_owned())),
        ("mirrors".to_owned(), {
            let stores: Vec<&str> = config.mirrors.iter().map(|m| m.store.as_str()).collect();
            (tag(&stores.join("\n")), "the mirrors".to_owned())
        }),
        ("state".to_owned(), (recipients(&config.state.recipients), "who can open the state archive".to_owned())),
        ("secrets".to_owned(), (recipients(&config.secrets.recipients), "who can open the secrets bundle".to_owned())),
    ]);
    let guard = tag(&format!("{:?}", config.guard));
    out.insert("guard".to_owned(), (guard, "what makes a snapshot suspicious".to_owned()));
    for (number, source) in config.sources.iter().enumerate() {
        let Source { origin, include, exclude, secret, state, sweep: _ } = source;
        let what = format!("what source number {} leaves out or calls a secret", number + 1);
        let rules = tag(&format!("{include:?} {exclude:?} {secret:?} {state:?}"));
        out.insert(tag(&format!("{origin:?}")), (rules, what));
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const CONFIG: &str = "name = \"vm1\"\nstore = \"/backup\"\n[state]\nrecipients = [\"age1aaa\"]\n[secrets]\n\
                          recipients = [\"age1bbb\"]\n[[source]]\npath = \"~/a\"\n[[source]]\npath = \"~/b\"\n";

    #[test]
    fn a_new_signing_key_accepts_what_was_accepted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        let (old, new) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let config = Config::parse(CONFIG).unwrap();
        let changes = |config: &Config, key: &SigningKey| check(config, key, &catalog, false, &mut |_| {}).unwrap();
        assert!(changes(&config, &old).is_empty());
        // Twice, as after a crash in between.
        hand_over(&config, &old, &new, &catalog).unwrap();
        hand_over(&config, &old, &new, &catalog).unwrap();
        assert!(changes(&config, &new).is_empty());

        // What changed before the hand-over, or while it was interrupted, is told after it.
        let other = CONFIG.replace("age1bbb", "age1eve").replace("path = \"~/b\"", "path = \"~/b\"\nexclude = [\"x\"]");
        let other = Config::parse(&other.replace("[[source]]\npath = \"~/a\"\n", "")).unwrap();
        check(&config, &old, &catalog, true, &mut |_| {}).unwrap();
        assert_eq!(changes(&other, &old).len(), 3);
        hand_over(&other, &old, &new, &catalog).unwrap();
        hand_over(&other, &old, &new, &catalog).unwrap();
        assert_eq!(changes(&other, &new).len(), 3);
    }
}
