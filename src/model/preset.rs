//! Presets: what lifeboat knows of an agent's home, as data.
//!
//! The files stand in `src/presets` and are compiled in. A preset has roots (where the agent keeps things and which
//! environment variable moves them), rules (which class a path has, and why it is skipped), databases, roles, what is
//! counted, and the checks of a drill. How a rule's patterns match is told in [`class`](crate::model::class).

mod form;

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

pub use self::form::{
    After, AfterKind, Count, Databases, Detect, Drill, EnvHow, EnvRule, Format, Pause, Preset, PresetRule, RoleRule,
    RootKind, RootSpec, RuleClass,
};
use crate::model::config::expand_home;

/// The shipped preset files, by name.
const FILES: [(&str, &str); 4] = [
    ("claude-code", include_str!("../presets/claude-code.toml")),
    ("codex", include_str!("../presets/codex.toml")),
    ("hermes", include_str!("../presets/hermes.toml")),
    ("openclaw", include_str!("../presets/openclaw.toml")),
];

static BUILTIN: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    FILES.iter().map(|(_, text)| toml::from_str(text).expect("the shipped presets parse: a test reads each")).collect()
});

/// What the name of a piece ends in that a restore left paused.
pub const PAUSED_SUFFIX: &str = ".paused";

/// A root of a preset on this machine. Whether anything stands there is for the caller to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its name inside the preset, which [`Rules`](crate::model::class::Rules) asks for.
    pub id: String,
    /// Where it is. Relative only when a variable holds a relative path.
    pub path: PathBuf,
    /// Whether the agent counts as present only with it.
    pub required: bool,
    /// What is expected there.
    pub kind: RootKind,
}

/// Every preset, by name.
pub fn builtin() -> &'static [Preset] {
    &BUILTIN
}

/// The preset called `name`.
pub fn find(name: &str) -> Option<&'static Preset> {
    builtin().iter().find(|p| p.name == name)
}

/// The names of all presets, for messages: `claude-code, codex, …`.
pub fn names() -> String {
    FILES.map(|(name, _)| name).join(", ")
}

/// The text of a preset's file, for a digest of what decided where data went.
pub fn text(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

impl Preset {
    /// Where this preset's roots are, from the variables of the environment and the user's home.
    ///
    /// A root may lie inside another one (`CLAUDE_CONFIG_DIR` moves `.claude.json` into the directory); the scan of
    /// the outer one leaves it to the inner one, see [`Scope::apart`](crate::model::class::Scope::apart).
    pub fn roots(&self, env: &dyn Fn(&str) -> Option<OsString>, home: &Path) -> Vec<Root> {
        let mut out: Vec<Root> = Vec::new();
        for spec in &self.root_specs {
            let Some(path) = self.resolve(spec, env, home) else { continue };
            // A variable may point one root at another: one place is scanned once.
            if !out.iter().any(|r| r.path == path) {
                out.push(Root { id: spec.id.clone(), path, required: spec.required, kind: spec.kind });
            }
        }
        out
    }

    /// The id of the home, the root that rules are about unless they say otherwise.
    pub fn home_id(&self) -> &str {
        self.root_specs.first().map_or("", |r| &r.id)
    }

    /// Whether something that names `roots` is about the root `id`.
    pub fn is_about(&self, roots: &[String], id: &str) -> bool {
        if roots.is_empty() { id == self.home_id() } else { roots.iter().any(|r| r == id) }
    }

    fn resolve(&self, spec: &RootSpec, env: &dyn Fn(&str) -> Option<OsString>, home: &Path) -> Option<PathBuf> {
        for rule in &spec.env {
            // Agents take a variable that is set to nothing as not set.
            let Some(value) = env(&rule.name).filter(|v| !v.is_empty()) else { continue };
            let value = match value.to_str() {
                Some(text) => expand_home(text, home),
                None => PathBuf::from(value),
            };
            return Some(match rule.how {
                EnvHow::Join => value.join(&rule.join),
                EnvHow::Replace if spec.id == self.home_id() => self.around(value),
                EnvHow::Replace => value,
            });
        }
        spec.default.as_deref().map(|text| expand_home(text, home))
    }

    /// The home around `path` when `path` is one of its repeated homes, like `<home>/profiles/work`.
    fn around(&self, path: PathBuf) -> PathBuf {
        let parts: Vec<Component<'_>> = path.components().collect();
        for pattern in &self.repeat_under {
            let want: Vec<&str> = pattern.split('/').collect();
            let Some(start) = parts.len().checked_sub(want.len()).filter(|s| *s > 0) else { continue };
            let same = parts[start..].iter().zip(&want).all(|(part, want)| match part {
                Component::Normal(name) => *want == "*" || name == want,
                _ => false,
            });
            if same {
                return parts[..start].iter().collect();
            }
        }
        path.components().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn roots(preset: &str, vars: &[(&str, &str)]) -> Vec<(String, String)> {
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        let roots = find(preset).unwrap().roots(&env, Path::new("/home/u"));
        roots.into_iter().map(|r| (r.id, r.path.to_str().unwrap().to_owned())).collect()
    }

    fn root(preset: &str, id: &str, vars: &[(&str, &str)]) -> Option<String> {
        roots(preset, vars).into_iter().find(|(i, _)| i == id).map(|(_, path)| path)
    }

    #[test]
    fn every_shipped_preset_parses_and_is_consistent() {
        for (name, text) in FILES {
            let preset: Preset = toml::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(preset.name, name);
            assert!(preset.root_specs[0].required, "{name}");
            let ids: Vec<&str> = preset.root_specs.iter().map(|r| r.id.as_str()).collect();
            for id in preset.rules.iter().flat_map(|r| &r.roots).chain(preset.databases.iter().flat_map(|d| &d.roots)) {
                assert!(ids.contains(&id.as_str()), "{name}: {id}");
            }
            for rule in &preset.rules {
                assert!(!rule.reason.is_empty() && !rule.paths.is_empty(), "{name}");
            }
            for spec in preset.root_specs.iter().flat_map(|r| &r.env) {
                assert_eq!(spec.how == EnvHow::Join, !spec.join.is_empty(), "{name}: {}", spec.name);
            }
            assert!(preset.drills.len() >= 4, "{name}");
            assert!(!preset.after.is_empty(), "{name}");
            for after in &preset.after {
                assert!(!after.paths.is_empty() && !after.step.is_empty(), "{name}");
            }
        }
        assert!(find("hermes").unwrap().pauses.len() == 1 && find("openclaw").unwrap().pauses.len() == 1);
        assert_eq!(builtin().len(), FILES.len());
        assert_eq!(names(), "claude-code, codex, hermes, openclaw");
        assert!(text("hermes").is_some() && text("x").is_none() && find("x").is_none());
    }

    /// A key is no less a secret while it is paused.
    #[test]
    fn what_is_paused_has_the_class_it_had() {
        use crate::model::class::{Rules, Scope};
        for preset in builtin() {
            let root = Path::new("/home/u/agent");
            let scope = Scope { root: Some(root), preset: Some((preset, preset.home_id())), ..Scope::default() };
            let rules = Rules::new(&scope).unwrap();
            for path in preset.pauses.iter().flat_map(|p| &p.paths) {
                assert!(!path.contains('*'), "{path}");
                let class = |path: &str| rules.decide_path(path.as_bytes(), false).class;
                assert_eq!(class(path), class(&format!("{path}{PAUSED_SUFFIX}")), "{}: {path}", preset.name);
            }
        }
    }

    #[test]
    fn unknown_fields_of_a_preset_are_refused() {
        for bad in [
            "colour = 1",
            "[[rule]]\nclass = \"skip\"\npaths = []\nreason = \"\"\nx = 1",
            "[[drill]]\nkind = \"non_empty\"\npath = \"x\"\nx = 1",
        ] {
            let text = format!("name='x'\ntitle='X'\nversion=1\nsources=[]\n{bad}\n[[root]]\nid='h'\nkind='dir'\n");
            assert!(toml::from_str::<Preset>(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_move_roots() {
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Option<&'a str>);
        let cases: &[Case<'_>] = &[
            ("hermes", "home", &[], Some("/home/u/.hermes")),
            ("hermes", "home", &[("HERMES_HOME", "/opt/data/")], Some("/opt/data")),
            ("hermes", "home", &[("HERMES_HOME", "")], Some("/home/u/.hermes")),
            ("hermes", "home", &[("HERMES_HOME", "~/h")], Some("/home/u/h")),
            ("hermes", "home", &[("HERMES_HOME", "/opt/data/profiles/work")], Some("/opt/data")),
            ("hermes", "home", &[("HERMES_HOME", "/profiles/work")], Some("/")),
            ("hermes", "gh-login", &[("GH_CONFIG_DIR", "/g")], Some("/g/hosts.yml")),
            ("claude-code", "home", &[], Some("/home/u/.claude")),
            ("claude-code", "account", &[], Some("/home/u/.claude.json")),
            ("claude-code", "home", &[("CLAUDE_CONFIG_DIR", "/c")], Some("/c")),
            ("claude-code", "account", &[("CLAUDE_CONFIG_DIR", "/c")], Some("/c/.claude.json")),
            ("openclaw", "home", &[("OPENCLAW_STATE_DIR", "/s"), ("OPENCLAW_HOME", "/o")], Some("/s")),
            ("openclaw", "home", &[("OPENCLAW_HOME", "/o")], Some("/o/.openclaw")),
            ("openclaw", "config", &[], None),
            ("openclaw", "config", &[("OPENCLAW_CONFIG_PATH", "/etc/oc.json")], Some("/etc/oc.json")),
            ("codex", "home", &[("CODEX_HOME", "/x")], Some("/x")),
            ("codex", "sqlite", &[("CODEX_SQLITE_HOME", "/q")], Some("/q")),
            // The databases in the home are the home's.
            ("codex", "sqlite", &[("CODEX_HOME", "/x"), ("CODEX_SQLITE_HOME", "/x")], None),
        ];
        for (preset, id, vars, want) in cases {
            assert_eq!(root(preset, id, vars).as_deref(), *want, "{preset} {id} {vars:?}");
        }
    }
}
