//! Globs about paths below a source, compiled together. What they mean to a person stands in
//! [`class`](crate::model::class).

use std::borrow::Cow;

use globset::{Candidate, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Checks a pattern of a configuration.
///
/// # Errors
/// What is wrong with it; the message names the pattern.
pub(super) fn check_pattern(text: &str) -> Result<()> {
    glob(&Pattern::of_user(text)?.stem).map(|_| ())
}

/// A pattern without the parts that are no glob.
pub(super) struct Pattern {
    /// The glob; `.` for the root of the source.
    stem: String,
    dirs_only: bool,
    /// Speaks of what is below the directory only.
    below_only: bool,
}

impl Pattern {
    /// A pattern of a configuration: at any depth when it has no slash.
    pub(super) fn of_user(text: &str) -> Result<Pattern> {
        if text.starts_with("~/") || text == "~" {
            let error = Error::failed(format!("pattern `{text}` starts at the home, patterns start at their source"));
            return Err(error.hint("write it relative to the path of the source, or `**/name` for any depth"));
        }
        let mut pattern = Pattern::split(text)?;
        match pattern.stem.strip_prefix('/') {
            Some(anchored) => pattern.stem = anchored.to_owned(),
            // `x/**` has a slash of its own and is anchored.
            None if !pattern.stem.contains('/') && !pattern.below_only && pattern.stem != "." => {
                pattern.stem.insert_str(0, "**/");
            }
            None => {}
        }
        pattern.checked(text)
    }

    /// A pattern of a preset: relative to the root.
    pub(super) fn of_preset(text: &str) -> Result<Pattern> {
        Pattern::split(text)?.checked(text)
    }

    fn split(text: &str) -> Result<Pattern> {
        let text = text.strip_prefix("./").unwrap_or(text);
        if text == "**" {
            return Ok(Pattern { stem: ".".into(), dirs_only: true, below_only: true });
        }
        if let Some(stem) = text.strip_suffix("/**").or_else(|| text.strip_suffix("/**/")) {
            // `/**` is everything below the root.
            let stem = if stem.is_empty() { "." } else { stem };
            return Ok(Pattern { stem: stem.into(), dirs_only: true, below_only: true });
        }
        if let Some(stem) = text.strip_suffix('/').filter(|s| !s.is_empty()) {
            return Ok(Pattern { stem: stem.into(), dirs_only: true, below_only: false });
        }
        Ok(Pattern { stem: text.into(), dirs_only: false, below_only: false })
    }

    fn checked(self, text: &str) -> Result<Pattern> {
        let odd = |part: &str| part.is_empty() || part == "..";
        if self.stem != "." && self.stem.split('/').any(|part| odd(part) || part == ".") {
            let error = Error::failed(format!("pattern `{text}` can match no path"));
            return Err(error.hint("patterns are relative to their source, without `..` and empty components"));
        }
        Ok(self)
    }
}

/// Globs with what they mean, matched all at once.
#[derive(Debug)]
pub(super) struct Patterns<T> {
    set: GlobSet,
    rules: Vec<Compiled<T>>,
    /// Those about the root of the source itself, which has no relative path to match.
    about_root: Vec<usize>,
}

#[derive(Debug)]
struct Compiled<T> {
    dirs_only: bool,
    below_only: bool,
    meaning: T,
}

impl<T> Patterns<T> {
    /// Calls `found` with each rule that matches, and whether it speaks of the path itself or of what is below it.
    pub(super) fn each_match<'a>(&'a self, path: &[u8], is_dir: bool, found: &mut dyn FnMut(&'a T, bool)) {
        self.each_match_at(path, is_dir, &mut |_, rule, whole| found(rule, whole));
    }

    pub(super) fn each_match_at<'a>(&'a self, path: &[u8], is_dir: bool, found: &mut dyn FnMut(usize, &'a T, bool)) {
        if self.rules.is_empty() {
            return;
        }
        let mut matches = Cow::Borrowed(self.about_root.as_slice());
        if !path.is_empty() {
            let mut list = Vec::new();
            self.set.matches_candidate_into(&Candidate::from_bytes(path), &mut list);
            matches = Cow::Owned(list);
        }
        for at in matches.iter().copied() {
            let rule = &self.rules[at];
            if is_dir || !rule.dirs_only {
                found(at, &rule.meaning, !rule.below_only);
            }
        }
    }
}

pub(super) struct PatternsBuilder<T> {
    globs: GlobSetBuilder,
    rules: Vec<Compiled<T>>,
    about_root: Vec<usize>,
}

impl<T> PatternsBuilder<T> {
    pub(super) fn new() -> Self {
        PatternsBuilder { globs: GlobSetBuilder::new(), rules: Vec::new(), about_root: Vec::new() }
    }

    pub(super) fn add(&mut self, pattern: Pattern, meaning: T) -> Result<()> {
        if pattern.stem == "." {
            self.about_root.push(self.rules.len());
        }
        // The dot takes its place in the set, to keep the numbers equal; no relative path is `.`.
        self.globs.add(glob(&pattern.stem)?);
        self.rules.push(Compiled { dirs_only: pattern.dirs_only, below_only: pattern.below_only, meaning });
        Ok(())
    }

    pub(super) fn build(self) -> Result<Patterns<T>> {
        let set =
            self.globs.build().map_err(|e| Error::failed("the patterns cannot be compiled together").because(e))?;
        Ok(Patterns { set, rules: self.rules, about_root: self.about_root })
    }
}

/// Compiles a glob: `*` and `?` match no slash, `**` does.
pub(super) fn glob(text: &str) -> Result<globset::Glob> {
    // Explicit, though some are the defaults: what a pattern matches is a promise.
    GlobBuilder::new(text).literal_separator(true).backslash_escape(true).case_insensitive(false).build().map_err(|e| {
        let error = Error::failed(format!("pattern `{text}` is no glob: {}", e.kind()));
        error.hint("put a backslash before a bracket or brace that is meant literally")
    })
}

/// A pattern for a single component.
pub(super) fn component(text: &str) -> Result<GlobMatcher> {
    Ok(glob(text)?.compile_matcher())
}

/// The components of an include pattern, or `None` where it may match in any directory.
pub(super) fn reach_of(pattern: &Pattern) -> Result<Option<Vec<GlobMatcher>>> {
    // A brace or a bracket may hold a slash: better one directory too many.
    if pattern.stem.contains("**") || pattern.stem.contains(['{', '[', '\\']) {
        return Ok(None);
    }
    if pattern.stem == "." {
        return Ok(Some(Vec::new()));
    }
    pattern.stem.split('/').map(component).collect::<Result<Vec<_>>>().map(Some)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bad_patterns_are_named() {
        for bad in ["[", "a//b", "../x", "~/x", "", "a/./b"] {
            let error = check_pattern(bad).unwrap_err();
            assert!(error.to_string().contains(&format!("`{bad}`")) || bad == "[", "{error}");
            assert!(error.advice().is_some());
        }
        for good in ["x", "*", "**", "**/x", "/x", "x/", "x/**", "./a/b", "a/{b,c}/*.rs"] {
            check_pattern(good).unwrap();
        }
    }
}
