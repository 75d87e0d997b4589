//! Paths and globs as a person writes them, as archive paths.

use globset::{GlobSet, GlobSetBuilder};

use super::path::{is_below, join, normalize, parent, printable};
use super::patterns::glob;
use super::tree::{Children, Index, NONE, Tree};
use crate::error::{Error, Result};

/// The archive path that `text` means; empty for everything.
///
/// `home/…` and `root/…` are archive paths already. What is absolute is as on a machine, where `homes` are places of the
/// user's home; `~` is that home, and what is relative lies below it.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) when it climbs out with `..`.
pub fn archive_path(text: &[u8], homes: &[&[u8]]) -> Result<Vec<u8>> {
    match anchored(text, homes) {
        Some(path) => Ok(path),
        None if matches!(text, b"" | b"." | b"/") => Ok(Vec::new()),
        None => normalize(&join(b"home", text)).filter(|p| begins(p, b"home")).ok_or_else(|| climbs(text)),
    }
}

/// Whether a path is `top` or lies below it.
fn begins(path: &[u8], top: &[u8]) -> bool {
    path == top || is_below(path, top)
}

fn climbs(text: &[u8]) -> Error {
    Error::usage(format!("{} climbs out of what is backed up", printable(text)))
        .hint("`lifeboat ls` shows what there is")
}

/// The archive path of a text that says where it begins.
fn anchored(text: &[u8], homes: &[&[u8]]) -> Option<Vec<u8>> {
    let below = |base: &[u8], text: &[u8]| {
        let rest = text.strip_prefix(base)?;
        (rest.is_empty() || rest[0] == b'/').then(|| rest.to_vec())
    };
    if let Some(rest) = below(b"~", text) {
        return normalize(&[b"home", &rest[..]].concat());
    }
    if text.first() == Some(&b'/') && text.len() > 1 {
        let plain = [b"/", &normalize(text)?[..]].concat();
        let home = homes.iter().filter(|h| h.len() > 1).find_map(|home| below(home, &plain));
        return Some(home.map_or_else(|| [b"root", &plain[..]].concat(), |rest| [b"home", &rest[..]].concat()));
    }
    let archive = below(b"home", text).is_some() || below(b"root", text).is_some();
    archive.then(|| normalize(text)).flatten().filter(|p| begins(p, b"home") || begins(p, b"root"))
}

/// Globs about archive paths. A match is a match of all that is below it.
#[derive(Debug)]
pub struct Globs(GlobSet);

/// The most components that a pattern of [`Globs::of_preset`] has, and so how deep is looked.
const DEPTH_MAX: usize = 8;

impl Globs {
    /// Compiles them. One that says where it begins, as [`archive_path`] understands that, matches from there; any other
    /// matches at every depth.
    ///
    /// # Errors
    /// When one is no glob.
    pub fn new(texts: &[String], homes: &[&[u8]]) -> Result<Globs> {
        let mut set = GlobSetBuilder::new();
        for text in texts {
            let trimmed = text.strip_suffix('/').filter(|t| !t.is_empty()).unwrap_or(text);
            let pattern = match anchored(trimmed.as_bytes(), homes) {
                Some(path) => String::from_utf8_lossy(&path).into_owned(),
                None if trimmed == "/" || trimmed == "." => "**".to_owned(),
                None if trimmed.is_empty() => return Err(Error::usage("an empty glob matches nothing")),
                None => format!("**/{}", trimmed.strip_prefix("./").unwrap_or(trimmed)),
            };
            set.add(glob(&pattern)?);
        }
        let set = set.build().map_err(|e| Error::failed("the globs cannot be compiled together").because(e))?;
        Ok(Globs(set))
    }

    /// Those of a preset: relative to its home, and to each of the homes in it that `repeat_under` names.
    ///
    /// # Errors
    /// When one is no glob.
    pub fn of_preset(paths: &[String], repeat_under: &[String]) -> Result<Globs> {
        let mut set = GlobSetBuilder::new();
        for path in paths {
            set.add(glob(path)?);
            for home in repeat_under {
                set.add(glob(&format!("{home}/{path}"))?);
            }
        }
        let set = set.build().map_err(|e| Error::failed("the globs cannot be compiled together").because(e))?;
        Ok(Globs(set))
    }

    /// The entries that match relative to `top`. Below a match there is none.
    pub fn below(&self, tree: &Tree, children: &Children, top: &[u8]) -> Vec<Index> {
        let mut out = Vec::new();
        let inside = children.find(tree, top).map_or(&[][..], |top| children.of_dir(top));
        let mut pending: Vec<(Index, Vec<u8>)> = inside.iter().map(|i| (*i, tree.name(*i).to_vec())).collect();
        // What lies in no directory of this archive begins with its whole path.
        let apart = children.of_dir(NONE).iter().filter(|i| is_below(tree.name(**i), top));
        pending.extend(apart.map(|i| (*i, tree.name(*i)[top.len() + 1..].to_vec())));
        while let Some((index, path)) = pending.pop() {
            if self.covers(&path) {
                out.push(index);
            } else if path.iter().filter(|b| **b == b'/').count() + 1 < DEPTH_MAX {
                pending.extend(children.of_dir(index).iter().map(|i| (*i, join(&path, tree.name(*i)))));
            }
        }
        out
    }

    /// Whether one of them matches the path itself.
    pub fn is_match(&self, path: &[u8]) -> bool {
        self.0.is_match_candidate(&globset::Candidate::from_bytes(path))
    }

    /// Whether one of them matches the path or something above it.
    pub fn covers(&self, path: &[u8]) -> bool {
        std::iter::successors(Some(path), |p| parent(p)).any(|p| self.is_match(p))
    }

    /// Which entries of a tree are covered.
    pub fn select(&self, tree: &Tree) -> Vec<bool> {
        let mut out: Vec<bool> = Vec::with_capacity(tree.len());
        for index in tree.indices() {
            let above = tree.node(index).parent;
            let covered = match above {
                NONE => self.covers(&tree.path(index)),
                above => {
                    out.get(usize::try_from(above).unwrap_or(usize::MAX)) == Some(&true)
                        || self.is_match(&tree.path(index))
                }
            };
            out.push(covered);
        }
        out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_what_a_person_means() {
        let homes = [&b"/home/ada"[..], b"/root"];
        for (text, path) in [
            ("~/notes.md", "home/notes.md"),
            ("~", "home"),
            ("/home/ada/x/", "home/x"),
            ("/home/adam/x", "root/home/adam/x"),
            ("/root/.hermes", "home/.hermes"),
            ("/etc//hosts", "root/etc/hosts"),
            ("home/.hermes/./state.db", "home/.hermes/state.db"),
            ("root/opt", "root/opt"),
            (".hermes/state.db", "home/.hermes/state.db"),
            ("homework", "home/homework"),
            ("/", ""),
            (".", ""),
            ("", ""),
        ] {
            assert_eq!(archive_path(text.as_bytes(), &homes).unwrap(), path.as_bytes(), "{text}");
        }
        for text in ["../x", "../homex", "home/../../x"] {
            assert_eq!(archive_path(text.as_bytes(), &homes).unwrap_err().kind(), crate::Kind::Usage, "{text}");
        }
    }

    #[test]
    fn globs_match_subtrees_from_where_they_begin() {
        let covers = |glob: &str, path: &str| {
            Globs::new(&[glob.to_owned()], &[&b"/home/ada"[..]]).unwrap().covers(path.as_bytes())
        };
        for (glob, path) in [
            ("*.md", "home/a/b.md"),
            ("memories", "home/.hermes/memories/deep/x"),
            ("memories/*.md", "home/.hermes/memories/x.md"),
            ("~/.hermes", "home/.hermes/x"),
            ("/home/ada/.hermes/*.db", "home/.hermes/state.db"),
            ("/etc/**", "root/etc/a/b"),
            ("home/x/", "home/x/y"),
            ("/", "root/x"),
        ] {
            assert!(covers(glob, path), "{glob} {path}");
        }
        for (glob, path) in [
            ("*.md", "home/a/b.txt"),
            ("~/.hermes", "home/.hermes2/x"),
            ("/home/ada/*.db", "home/.hermes/state.db"),
            ("/etc", "home/etc/x"),
            ("memories", "home/memories2"),
        ] {
            assert!(!covers(glob, path), "{glob} {path}");
        }
        assert!(Globs::new(&["[".to_owned()], &[]).is_err() && Globs::new(&[String::new()], &[]).is_err());
    }
}
