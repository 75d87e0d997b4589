//! Which class an entry has: kept with the state, kept with the secrets, or skipped.
//!
//! The layers, first word wins: the user's rules of the source, the preset's rules, the names that give a secret away
//! ([`names`]), else state. (The content rule, which reads files, comes after this module and
//! only for what it left as state without a reason.)
//!
//! # Patterns
//! Globs: `*` and `?` and `[a-z]` within a component, `**` across components, `{a,b}` alternatives, `\` escapes.
//! Paths are relative to the root of the source, bytes are compared as they are, and case counts.
//!
//! - `x` is whatever is called that. A directory hands its class to everything below it.
//! - `x/` is the same, for directories only.
//! - `x/**` is what is below the directory `x`, not `x` itself.
//! - `**/x` is at any depth, the root's own level included.
//! - In a **configuration** a pattern without a slash is at any depth, too (a slash at the end does not count): `*.log`,
//!   `target/`. With a slash it is relative to the root of the source; `/x` is `x` in the root only.
//! - In a **preset** every pattern is relative to the root, and `.` is the root itself.
//!
//! # The user's rules
//! `include` beats `exclude` and whatever a preset skips, for what it matches and for everything below. A skipped
//! directory is still descended into when an `include` pattern could match below it. `secret` and `state` decide
//! the class of what is kept, `secret` when both match; they reach into no directory that is skipped. Of two rules
//! that match on the way down, the nearer one decides, so `secret = ["a/"]` with `state = ["a/b"]` does what it says.
//!
//! # The preset's rules
//! `secret` and `mixed` win over every other; of `state` and `skip` the first that matches wins. `state` only exempts
//! from `skip`: secret names are still secret there, and it hands nothing on to what is below. Below a secret directory
//! everything is secret unless a user's rule says otherwise.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{Candidate, GlobMatcher};

use crate::error::Result;
pub use crate::model::names::name_is_secret;
use crate::model::names::{self, Joined};
use crate::model::patterns::{Pattern, Patterns, PatternsBuilder, component, reach_of};
use crate::model::preset::{Preset, RuleClass};

/// Where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Into the state archive.
    State,
    /// Into the secrets bundle.
    Secret,
    /// Nowhere.
    Skip,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The caller: lifeboat's own files, or another source's root.
    Apart,
    /// A rule in the configuration.
    User,
    /// A rule of the preset.
    Preset,
    /// The name.
    Name,
    /// The directory around it.
    Above,
}

/// Why an entry has its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Who decided.
    pub layer: Layer,
    /// In words, for a report: `logs are rebuilt`.
    pub text: Arc<str>,
    /// Settings or a database with secrets inside, rather than a secret as a whole.
    pub mixed: bool,
}

/// What is decided about an entry.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Where it goes. Nothing below a directory that is skipped is visited.
    pub class: Class,
    /// Of a directory: what [`Rules::decide_below`] is told about everything directly in it.
    pub below: Below,
    /// Why; `None` when nothing spoke against state, and only then the content rule may still speak.
    pub reason: Option<Reason>,
}

/// What a directory hands on to what is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Below {
    class: Option<Class>,
    included: bool,
}

impl Below {
    /// Below a directory with nothing to say; for the root of a source.
    pub const NOTHING: Below = Below { class: None, included: false };
}

/// What the rules of one source are made from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// Where the source is on this machine, absolute: names like `.aws/credentials` may lie across it.
    pub root: Option<&'a Path>,
    /// The preset and the id of its root.
    pub preset: Option<(&'a Preset, &'a str)>,
    /// Patterns of what is kept in spite of `exclude` and the preset.
    pub include: &'a [String],
    /// Patterns of what is left out.
    pub exclude: &'a [String],
    /// Patterns of what is secret.
    pub secret: &'a [String],
    /// Patterns of what is not.
    pub state: &'a [String],
    /// Absolute paths that are always left out with everything below, each with the reason: the kit, the identities and
    /// the local store, and the roots of other sources, which are scanned by rules of their own.
    pub apart: &'a [(PathBuf, String)],
}

/// The compiled rules of one source.
#[derive(Debug)]
pub struct Rules {
    root: Vec<u8>,
    user: Patterns<UserRule>,
    preset: Patterns<PresetEffect>,
    /// Components of the preset's `repeat_under`.
    repeats: Vec<Vec<GlobMatcher>>,
    /// Include patterns as components, to see what a directory may hold; `None` where any directory may.
    reach: Vec<Option<Vec<GlobMatcher>>>,
    apart: Apart,
    apart_root: Option<Arc<str>>,
    root_is_secret: bool,
    texts: Texts,
}

/// Paths below the root that are left out, with the reason.
type Apart = HashMap<Vec<u8>, Arc<str>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UserKind {
    Include,
    Exclude,
    Secret,
    State,
}

#[derive(Clone, Debug)]
struct UserRule {
    kind: UserKind,
    text: Arc<str>,
}

#[derive(Clone, Debug)]
struct PresetEffect {
    class: RuleClass,
    text: Arc<str>,
    repeat: bool,
}

/// The reasons that are the same for all.
#[derive(Debug)]
struct Texts {
    name: Arc<str>,
    secret_above: Arc<str>,
    state_above: Arc<str>,
    skip_above: Arc<str>,
    visited: Arc<str>,
}

/// What the user's rules say directly about one path.
#[derive(Default)]
struct UserSays<'a> {
    include: Option<&'a Arc<str>>,
    exclude: Option<&'a Arc<str>>,
    class: Option<(Class, &'a Arc<str>)>,
    /// For what is below, when that is all they speak about (`x/**`).
    below_include: bool,
    below_exclude: bool,
    below_class: Option<Class>,
}

/// What the preset says directly about one path.
#[derive(Default)]
struct PresetSays<'a> {
    secret: Option<&'a PresetEffect>,
    skip: Option<&'a PresetEffect>,
    below_secret: bool,
    below_skip: bool,
}

impl Rules {
    /// Compiles the rules of one source.
    ///
    /// # Errors
    /// A pattern that is no glob; the message names it.
    pub fn new(scope: &Scope<'_>) -> Result<Rules> {
        let root = scope.root.map(|r| r.as_os_str().as_bytes().to_vec()).unwrap_or_default();
        let mut reach = Vec::new();
        for pattern in scope.include {
            reach.push(reach_of(&Pattern::of_user(pattern)?)?);
        }
        let (apart, apart_root) = apart_below(scope);
        let repeat_under = scope.preset.filter(|(p, id)| *id == p.home_id()).map(|(p, _)| p.repeat_under.as_slice());
        let repeats = repeat_under
            .unwrap_or_default()
            .iter()
            .map(|p| p.split('/').map(component).collect::<Result<Vec<_>>>())
            .collect::<Result<Vec<_>>>()?;
        let root_is_secret = ancestors(&root).any(|dir| names::dir_is_secret(&Joined { root: b"", rel: dir }));
        let user = user_patterns(scope)?;
        let preset = preset_patterns(scope)?;
        Ok(Rules { root, user, preset, repeats, reach, apart, apart_root, root_is_secret, texts: Texts::new() })
    }

    /// Decides about the root of the source (`rel` empty) or, without regard to the directories around it, about a path
    /// below it. `name` is the last component; of a root that is a file, its own name.
    pub fn decide(&self, rel: &[u8], name: &[u8], is_dir: bool) -> Decision {
        self.decide_below(Below::NOTHING, rel, name, is_dir)
    }

    /// Decides about a path whose directory handed on `parent`. This is what a scan calls for every entry:
    ///
    /// - it does not visit what is below a directory of class [`Class::Skip`];
    /// - it hands [`Decision::below`] of each directory to everything directly in it.
    pub fn decide_below(&self, parent: Below, rel: &[u8], name: &[u8], is_dir: bool) -> Decision {
        if let Some(text) = self.find_apart(rel) {
            return skip(Layer::Apart, text);
        }
        let user = self.ask_user(rel, name, is_dir);
        let preset = self.ask_preset(rel, is_dir);
        let included = parent.included || user.include.is_some();
        let below_included = included || user.below_include;
        if !included && let Some((layer, text)) = self.why_skip(parent, &user, &preset) {
            if is_dir && (user.below_include || self.may_include_below(rel)) {
                // The directory itself is kept, so that what is found in it has one around it.
                let reason = Reason { layer, text: self.texts.visited.clone(), mixed: false };
                let class = if user.below_include { None } else { Some(Class::Skip) };
                let below = Below { class, included: below_included };
                return Decision { class: Class::State, below, reason: Some(reason) };
            }
            return skip(layer, text);
        }
        let (class, reason) = self.class_of(parent, &user, &preset, rel, is_dir);
        let below = Below { class: handed_on(parent, class, &reason, &user, &preset), included: below_included };
        Decision { class, below, reason }
    }

    /// Decides about a path below the root with regard to all directories above it.
    pub fn decide_path(&self, rel: &[u8], is_dir: bool) -> Decision {
        let mut decision = self.decide(b"", super::path::file_name(&self.root), is_dir || !rel.is_empty());
        if rel.is_empty() {
            return decision;
        }
        let ends = rel.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([rel.len()]);
        for end in ends {
            if decision.class == Class::Skip {
                return decision;
            }
            let path = &rel[..end];
            let name = super::path::file_name(path);
            decision = self.decide_below(decision.below, path, name, is_dir || end < rel.len());
        }
        decision
    }

    fn find_apart(&self, rel: &[u8]) -> Option<&Arc<str>> {
        if rel.is_empty() { self.apart_root.as_ref() } else { self.apart.get(rel) }
    }

    fn why_skip<'a>(
        &'a self,
        parent: Below,
        user: &UserSays<'a>,
        preset: &PresetSays<'a>,
    ) -> Option<(Layer, &'a Arc<str>)> {
        if let Some(text) = user.exclude {
            return Some((Layer::User, text));
        }
        if parent.class == Some(Class::Skip) {
            return Some((Layer::Above, &self.texts.skip_above));
        }
        // Whatever the user gives a class is kept, and so is what lies in a secret directory.
        if user.class.is_some() || parent.class.is_some() || preset.secret.is_some() {
            return None;
        }
        preset.skip.map(|rule| (Layer::Preset, &rule.text))
    }

    fn class_of(
        &self,
        parent: Below,
        user: &UserSays<'_>,
        preset: &PresetSays<'_>,
        rel: &[u8],
        is_dir: bool,
    ) -> (Class, Option<Reason>) {
        let because = |layer, text: &Arc<str>, mixed| Some(Reason { layer, text: text.clone(), mixed });
        if let Some((class, text)) = user.class {
            return (class, because(Layer::User, text, false));
        }
        match parent.class {
            Some(Class::Secret) => {
                let mixed = preset.secret.is_some_and(|r| r.class == RuleClass::Mixed);
                return (Class::Secret, because(Layer::Above, &self.texts.secret_above, mixed));
            }
            Some(Class::State) => return (Class::State, because(Layer::User, &self.texts.state_above, false)),
            Some(Class::Skip) | None => {}
        }
        if let Some(rule) = preset.secret {
            return (Class::Secret, because(Layer::Preset, &rule.text, rule.class == RuleClass::Mixed));
        }
        if self.name_is_secret(rel, is_dir) {
            return (Class::Secret, because(Layer::Name, &self.texts.name, false));
        }
        (Class::State, None)
    }

    fn name_is_secret(&self, rel: &[u8], is_dir: bool) -> bool {
        let path = Joined { root: &self.root, rel };
        // A directory called like a secret file (a virtual environment in `.env`) is none.
        let own = if is_dir { names::dir_is_secret(&path) } else { names::file_is_secret(&path) };
        own || (rel.is_empty() && self.root_is_secret)
    }

    fn ask_user(&self, rel: &[u8], name: &[u8], is_dir: bool) -> UserSays<'_> {
        let mut says = UserSays::default();
        // A source that is a single file is matched by its name, there being nothing relative to it.
        let path = if rel.is_empty() && !is_dir { name } else { rel };
        self.user.each_match(path, is_dir, &mut |rule, whole| match (rule.kind, whole) {
            (UserKind::Include, true) => says.include = says.include.or(Some(&rule.text)),
            (UserKind::Exclude, true) => says.exclude = says.exclude.or(Some(&rule.text)),
            (UserKind::Secret, true) => says.class = Some((Class::Secret, &rule.text)),
            (UserKind::State, true) => says.class = says.class.or(Some((Class::State, &rule.text))),
            (UserKind::Include, false) => says.below_include = true,
            (UserKind::Exclude, false) => says.below_exclude = true,
            (UserKind::Secret, false) => says.below_class = Some(Class::Secret),
            (UserKind::State, false) => says.below_class = says.below_class.or(Some(Class::State)),
        });
        says
    }

    fn ask_preset(&self, rel: &[u8], is_dir: bool) -> PresetSays<'_> {
        let mut found = PresetFound::default();
        self.preset.each_match_at(rel, is_dir, &mut |at, rule, whole| found.add(at, rule, whole));
        if let Some(inner) = self.inside_repeat(rel) {
            self.preset.each_match_at(inner, is_dir, &mut |at, rule, whole| {
                if rule.repeat {
                    found.add(at, rule, whole);
                }
            });
        }
        found.says()
    }

    /// The path below a repeated home: `.env` of `profiles/work/.env`.
    fn inside_repeat<'p>(&self, rel: &'p [u8]) -> Option<&'p [u8]> {
        'next: for parts in &self.repeats {
            let mut rest = rel;
            for part in parts {
                let Some(end) = rest.iter().position(|b| *b == b'/') else { continue 'next };
                if !part.is_match_candidate(&Candidate::from_bytes(&rest[..end])) {
                    continue 'next;
                }
                rest = &rest[end + 1..];
            }
            return Some(rest);
        }
        None
    }

    /// Whether an include pattern could match something below the directory `rel`.
    fn may_include_below(&self, rel: &[u8]) -> bool {
        self.reach.iter().any(|pattern| {
            let Some(parts) = pattern else { return true };
            let depth = if rel.is_empty() { 0 } else { rel.split(|b| *b == b'/').count() };
            let dirs = rel.split(|b| *b == b'/').take(depth);
            depth < parts.len() && dirs.zip(parts).all(|(d, p)| p.is_match_candidate(&Candidate::from_bytes(d)))
        })
    }
}

impl Texts {
    fn new() -> Texts {
        Texts {
            name: "named like a secret".into(),
            secret_above: "in a directory of secrets".into(),
            state_above: "in a directory that the configuration calls state".into(),
            skip_above: "in a directory that is skipped".into(),
            visited: "skipped but for what include names".into(),
        }
    }
}

/// The matches of a preset, of which for `state` and `skip` the first in the file counts.
#[derive(Default)]
struct PresetFound<'a> {
    secret: Option<&'a PresetEffect>,
    first: Option<(usize, &'a PresetEffect)>,
    below_secret: bool,
    below_skip: bool,
}

impl<'a> PresetFound<'a> {
    fn add(&mut self, at: usize, rule: &'a PresetEffect, whole: bool) {
        match (rule.class, whole) {
            (RuleClass::Secret, true) => self.secret = Some(rule),
            (RuleClass::Mixed, true) => self.secret = self.secret.or(Some(rule)),
            (RuleClass::Secret | RuleClass::Mixed, false) => self.below_secret = true,
            (RuleClass::Skip, false) => self.below_skip = true,
            (RuleClass::State, false) => {}
            (RuleClass::State | RuleClass::Skip, true) => {
                if self.first.is_none_or(|(best, _)| at < best) {
                    self.first = Some((at, rule));
                }
            }
        }
    }

    fn says(self) -> PresetSays<'a> {
        let skip = self.first.map(|(_, rule)| rule).filter(|rule| rule.class == RuleClass::Skip);
        PresetSays { secret: self.secret, skip, below_secret: self.below_secret, below_skip: self.below_skip }
    }
}

fn skip(layer: Layer, text: &Arc<str>) -> Decision {
    let below = Below { class: Some(Class::Skip), included: false };
    let reason = Some(Reason { layer, text: text.clone(), mixed: false });
    Decision { class: Class::Skip, below, reason }
}

/// The class that a kept directory hands on.
fn handed_on(
    parent: Below,
    class: Class,
    reason: &Option<Reason>,
    user: &UserSays<'_>,
    preset: &PresetSays<'_>,
) -> Option<Class> {
    // `x/**` of the user is nearer than what x itself was given.
    if user.below_exclude {
        return Some(Class::Skip);
    }
    if user.below_class.is_some() {
        return user.below_class;
    }
    if user.class.is_some() {
        return Some(class);
    }
    if preset.below_secret && parent.class != Some(Class::State) {
        return Some(Class::Secret);
    }
    match class {
        Class::Secret => Some(Class::Secret),
        // What the user called state stays state further down.
        Class::State if reason.as_ref().is_some_and(|r| r.layer == Layer::User) => Some(Class::State),
        Class::State | Class::Skip if preset.below_skip => Some(Class::Skip),
        Class::State | Class::Skip => None,
    }
}

/// What is apart inside the source, relative to it, and whether all of it is.
fn apart_below(scope: &Scope<'_>) -> (Apart, Option<Arc<str>>) {
    let mut inside = HashMap::new();
    let mut all = None;
    let Some(root) = scope.root else { return (inside, all) };
    for (path, text) in scope.apart {
        if root.starts_with(path) {
            all = Some(text.as_str().into());
        } else if let Ok(rel) = path.strip_prefix(root) {
            // By components, so that a slash at the end of the path does no harm.
            let rel: PathBuf = rel.components().collect();
            inside.insert(rel.as_os_str().as_bytes().to_vec(), text.as_str().into());
        }
    }
    (inside, all)
}

/// A path and every directory above it.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |p| super::path::parent(p))
}

fn user_patterns(scope: &Scope<'_>) -> Result<Patterns<UserRule>> {
    let mut user = PatternsBuilder::new();
    for (kind, list, verb) in [
        (UserKind::Include, scope.include, "include"),
        (UserKind::Exclude, scope.exclude, "exclude"),
        (UserKind::Secret, scope.secret, "secret"),
        (UserKind::State, scope.state, "state"),
    ] {
        for text in list {
            let rule = UserRule { kind, text: format!("{verb} = \"{text}\" in the configuration").into() };
            user.add(Pattern::of_user(text)?, rule)?;
        }
    }
    user.build()
}

fn preset_patterns(scope: &Scope<'_>) -> Result<Patterns<PresetEffect>> {
    let mut out = PatternsBuilder::new();
    let Some((preset, id)) = scope.preset else { return out.build() };
    for rule in preset.rules.iter().filter(|r| preset.is_about(&r.roots, id)) {
        let effect = PresetEffect { class: rule.class, text: rule.reason.as_str().into(), repeat: rule.repeat };
        for text in &rule.paths {
            out.add(Pattern::of_preset(text)?, effect.clone())?;
        }
    }
    out.build()
}

#[cfg(test)]
#[path = "class_tests.rs"]
mod tests;
