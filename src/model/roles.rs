//! Which files of an agent's home have a role for the [guard](super::guard), by the preset that knows it.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::guard::Role;
use super::preset::Preset;

/// The roles of one preset's home, ready to be asked.
pub struct Roles {
    globs: GlobSet,
    roles: Vec<Role>,
}

impl Roles {
    /// Compiles what the preset says. A pattern that is no glob has no role; a test reads all that are shipped.
    pub fn of(preset: &Preset) -> Roles {
        let (mut builder, mut roles) = (GlobSetBuilder::new(), Vec::new());
        for rule in &preset.roles {
            for path in &rule.paths {
                let repeated = preset.repeat_under.iter().map(|under| format!("{under}/{path}"));
                for pattern in std::iter::once(path.clone()).chain(repeated) {
                    if let Ok(glob) = GlobBuilder::new(&pattern).literal_separator(true).build() {
                        builder.add(glob);
                        roles.push(rule.role);
                    }
                }
            }
        }
        match builder.build() {
            Ok(globs) => Roles { globs, roles },
            Err(_) => Roles { globs: GlobSet::empty(), roles: Vec::new() },
        }
    }

    /// The role of a file, by its path relative to the home.
    pub fn role(&self, below_home: &[u8]) -> Option<Role> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(below_home));
        self.globs.matches(path).first().and_then(|n| self.roles.get(*n)).copied()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::preset;

    #[test]
    fn presets_know_what_an_agent_is_without() {
        let role = |preset: &str, path: &str| Roles::of(preset::find(preset).unwrap()).role(path.as_bytes());
        assert_eq!(role("hermes", "SOUL.md"), Some(Role::Identity));
        assert_eq!(role("hermes", "profiles/work/SOUL.md"), Some(Role::Identity));
        assert_eq!(role("hermes", "memories/MEMORY.md"), Some(Role::Memory));
        assert_eq!(role("hermes", "cron/jobs.json"), Some(Role::Jobs));
        assert_eq!(role("openclaw", "workspace/memory/2026-11-20.md"), Some(Role::Memory));
        assert_eq!(role("claude-code", "CLAUDE.md"), Some(Role::Identity));
        assert_eq!(role("codex", "AGENTS.md"), Some(Role::Identity));
        for (preset, path) in [("hermes", "workspace/SOUL.md"), ("hermes", "cron/output/x"), ("codex", "src/AGENTS.md")]
        {
            assert_eq!(role(preset, path), None, "{path}");
        }
    }

    #[test]
    fn every_shipped_pattern_is_a_glob() {
        for preset in preset::builtin() {
            let patterns: usize = preset.roles.iter().map(|r| r.paths.len()).sum();
            assert!(patterns > 0, "{}", preset.name);
            assert_eq!(Roles::of(preset).roles.len(), patterns * (1 + preset.repeat_under.len()), "{}", preset.name);
        }
    }
}
