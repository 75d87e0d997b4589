//! Whether the secrets changed since the last bundle, known by keyed digests alone: the catalog names no secret and says
//! nothing about one that could be guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use crate::error::Result;
use crate::host::metadata::Names;
use crate::host::scan::{Scan, Source};
use crate::host::source;
use crate::model::database::SIDECARS;
use crate::model::entry::Kind;
use crate::model::record::meta_digest;
use crate::model::store_key::Archive;
use crate::model::tree::Index;

/// Digests of the secrets of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    /// Of what `stat` says of them; empty where that is not to be relied on.
    stat: String,
    /// Of names, metadata and content.
    content: String,
}

/// Digests of all secrets, by source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretSet {
    /// Of what else decides how a bundle looks: who it is for.
    terms: String,
    parts: BTreeMap<String, Part>,
}

impl SecretSet {
    /// Looks at the secrets of a scan. What `before` knows and `stat` confirms is not read. `terms` are the recipients.
    ///
    /// # Errors
    /// Never for what cannot be read: that counts as a content of its own.
    pub fn of(scan: &Scan, sources: &[Source], key: &[u8; 32], terms: &[String], before: &SecretSet) -> Result<Self> {
        let mut by_source: BTreeMap<usize, Vec<Index>> = BTreeMap::new();
        let tree = &scan.tree;
        for index in tree.indices().filter(|i| tree.node(*i).archive == Archive::Secrets) {
            by_source.entry(scan.source_of(index)).or_default().push(index);
        }
        let mut set = SecretSet { terms: keyed(key, terms.concat().as_bytes()), parts: BTreeMap::new() };
        let mut names = Names::default();
        for (number, mut secrets) in by_source {
            secrets.sort_by_cached_key(|i| tree.path(*i));
            let root = &sources[number].root;
            let tag = keyed(key, &root.archive_path);
            let settled = !secrets.iter().any(|i| scan.look(*i).young || tree.node(*i).kind == Kind::Missing);
            let mut hasher = blake3::Hasher::new_keyed(key);
            for index in &secrets {
                field(&mut hasher, &tree.path(*index));
                field(&mut hasher, tree.node(*index).kind.word().as_bytes());
                field(&mut hasher, &scan.look(*index).stamp.to_le_bytes());
            }
            let stat = if settled { hasher.finalize().to_hex().to_string() } else { String::new() };
            let known = before.parts.get(&tag).filter(|known| settled && known.stat == stat);
            let content = match known {
                Some(known) => known.content.clone(),
                None => content(scan, root, &secrets, key, &mut names),
            };
            set.parts.insert(tag, Part { stat, content });
        }
        Ok(set)
    }

    /// Whether a bundle of these secrets would hold what one of `before` holds.
    pub fn is_as(&self, before: &SecretSet) -> bool {
        let contents = |set: &SecretSet| -> BTreeSet<(String, String)> {
            set.parts.iter().map(|(tag, part)| (tag.clone(), part.content.clone())).collect()
        };
        self.terms == before.terms && contents(self) == contents(before)
    }

    /// The same for the sources that are there, where others are not: what those held is not known to have changed.
    pub fn is_part_of(&self, before: &SecretSet) -> bool {
        let known = |(tag, part): (&String, &Part)| before.parts.get(tag).is_some_and(|b| b.content == part.content);
        self.terms == before.terms && self.parts.iter().all(known)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// As the catalog keeps it.
    pub fn render(&self) -> String {
        let mut out = self.terms.clone();
        for (tag, Part { stat, content }) in &self.parts {
            out.push_str(&format!("\n{tag} {content} {stat}"));
        }
        out
    }

    /// Reads what [`SecretSet::render`] wrote; whatever else it is fed is a set that equals none.
    pub fn parse(text: &str) -> SecretSet {
        let mut lines = text.lines();
        let terms = lines.next().unwrap_or_default().to_owned();
        let mut parts = BTreeMap::new();
        for line in lines {
            let mut words = line.split(' ').map(str::to_owned);
            if let (Some(tag), Some(content), Some(stat)) = (words.next(), words.next(), words.next()) {
                parts.insert(tag, Part { stat, content });
            }
        }
        SecretSet { terms, parts }
    }
}

fn keyed(key: &[u8; 32], bytes: &[u8]) -> String {
    blake3::keyed_hash(key, bytes).to_hex().to_string()
}

fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

/// Reads all of them. Times of directories are left out: files that come and go in them, such as a database's log, are
/// no change of a secret.
fn content(scan: &Scan, root: &source::Root, secrets: &[Index], key: &[u8; 32], names: &mut Names) -> String {
    let tree = &scan.tree;
    let mut hasher = blake3::Hasher::new_keyed(key);
    for index in secrets {
        let path = tree.path(*index);
        let mut entry = tree.entry(*index);
        field(&mut hasher, &path);
        field(&mut hasher, entry.kind.word().as_bytes());
        if entry.kind == Kind::Dir {
            entry.mtime = crate::model::entry::Time::default();
        }
        if entry.kind != Kind::File {
            field(&mut hasher, &meta_digest(&entry).to_le_bytes());
            continue;
        }
        for suffix in [&b""[..]].into_iter().chain(SIDECARS.into_iter().filter(|s| *s != b"-shm")) {
            let name = [&path[..], suffix].concat();
            let Ok(mut file) = source::open(root, &name, names) else { continue };
            field(&mut hasher, suffix);
            field(&mut hasher, &meta_digest(&file.entry).to_le_bytes());
            let mut digest = blake3::Hasher::new_keyed(key);
            let mut buffer = zeroize::Zeroizing::new(vec![0; 1 << 16]);
            loop {
                match file.file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => drop(digest.update(&buffer[..n])),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        field(&mut digest, b"unreadable");
                        break;
                    }
                }
            }
            field(&mut hasher, digest.finalize().as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}
