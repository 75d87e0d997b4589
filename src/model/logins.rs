//! Logins that a restore does not bring back, since they are in no file, or in one that only the same machine can read.
//! What is known of them is data: `presets/logins.toml`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::model::config::expand_home;

static KNOWN: LazyLock<Logins> = LazyLock::new(|| {
    toml::from_str(include_str!("../presets/logins.toml")).expect("the shipped list parses: a test reads it")
});

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Logins {
    #[serde(rename = "login")]
    all: Vec<Login>,
}

/// A login, and how to see that it would be lost. The fields are told in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    agent: String,
    home: String,
    env: Option<String>,
    below: Option<String>,
    os: Option<String>,
    #[serde(default)]
    when: Vec<String>,
    #[serde(default)]
    unless: Vec<String>,
    holds: Option<Words>,
    lacks: Option<Words>,
    lost: String,
    again: String,
}

/// A text in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    file: String,
    text: String,
}

/// What can be known of a machine.
pub struct Machine<'a> {
    /// The value of an environment variable that is set.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// The user's home.
    pub home: &'a Path,
    /// `linux` or `macos`.
    pub os: &'a str,
    /// Whether something is at a path.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// Whether a file can be read and holds a text.
    pub holds: &'a dyn Fn(&Path, &str) -> bool,
}

/// A login that a restore will not bring back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whose it is.
    pub agent: &'static str,
    /// What is lost, as a sentence.
    pub what: &'static str,
    /// What to do on the new machine.
    pub again: &'static str,
}

/// The logins of a machine that a restore on another one will not bring back, of the agents that are there.
pub fn lost(machine: &Machine<'_>) -> Vec<Lost> {
    let found = KNOWN.all.iter().filter(|login| login.is_lost(machine));
    found.map(|l| Lost { agent: &l.agent, what: &l.lost, again: &l.again }).collect()
}

impl Login {
    fn is_lost(&self, machine: &Machine<'_>) -> bool {
        let home = self.place(machine);
        let any = |names: &[String]| names.iter().any(|name| (machine.exists)(&home.join(name)));
        let says = |words: &Words| (machine.holds)(&home.join(&words.file), &words.text);
        self.os.as_deref().is_none_or(|os| os == machine.os)
            && (machine.exists)(&home)
            && (self.when.is_empty() || any(&self.when))
            && !any(&self.unless)
            && self.holds.as_ref().is_none_or(says)
            && !self.lacks.as_ref().is_some_and(says)
    }

    fn place(&self, machine: &Machine<'_>) -> PathBuf {
        match self.env.as_deref().and_then(machine.env) {
            Some(moved) => Path::new(&moved).join(self.below.as_deref().unwrap_or_default()),
            None => expand_home(&self.home, machine.home),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Who loses a login on a machine with these files (`path=content`) and variables (`$NAME=value`).
    fn losers(os: &str, there: &[&str]) -> Vec<&'static str> {
        let parts: Vec<(&str, &str)> = there.iter().map(|t| t.split_once('=').unwrap_or((t, ""))).collect();
        let exists = |path: &Path| parts.iter().any(|(p, _)| Path::new("/home/ada").join(p).starts_with(path));
        let holds = |path: &Path, text: &str| {
            parts.iter().any(|(p, content)| Path::new("/home/ada").join(p) == path && content.contains(text))
        };
        let env = |name: &str| parts.iter().find(|(p, _)| p.strip_prefix('$') == Some(name)).map(|(_, v)| v.into());
        let machine = Machine { env: &env, home: Path::new("/home/ada"), os, exists: &exists, holds: &holds };
        lost(&machine).into_iter().map(|l| l.agent).collect()
    }

    #[test]
    fn nobody_loses_a_login_who_has_none() {
        assert_eq!(losers("linux", &[".bashrc"]), [] as [&str; 0]);
        assert!(KNOWN.all.iter().all(|l| l.home.starts_with("~/") && !l.lost.ends_with('.') && !l.again.is_empty()));
    }

    #[test]
    fn what_is_in_a_file_is_not_lost() {
        for (os, there, agents) in [
            ("linux", &[".codex/config.toml"][..], &["OpenAI Codex CLI"][..]),
            ("linux", &[".codex/auth.json"], &[]),
            ("linux", &[".codex/auth.json", ".codex/secrets/local.age"], &["OpenAI Codex CLI"]),
            ("linux", &[".claude/settings.json"], &[]),
            ("macos", &[".claude/settings.json"], &["Claude Code"]),
            ("macos", &[".claude/.credentials.json"], &[]),
            ("linux", &[".gemini/oauth_creds.json"], &[]),
            ("linux", &[".gemini/gemini-credentials.json"], &["Gemini CLI"]),
            ("linux", &[".config/gh/config.yml"], &[]),
            ("linux", &[".config/gh/hosts.yml=user: ada"], &["GitHub CLI"]),
            ("linux", &[".config/gh/hosts.yml=oauth_token: gho_x"], &[]),
            ("linux", &[".docker/config.json={\"auths\":{}}"], &[]),
            ("linux", &[".docker/config.json={\"credsStore\":\"pass\"}"], &["Docker"]),
            ("linux", &[".config/goose/config.yaml", ".copilot/settings.json"], &["GitHub Copilot CLI", "Goose"]),
            ("linux", &[".config/goose/secrets.yaml", ".copilot/config.json"], &[]),
            (
                "linux",
                &[".config/Code/User/globalStorage/saoudrizwan.claude-dev/state"],
                &["VS Code, with Cline or Roo Code"],
            ),
            ("linux", &["$GEMINI_CLI_HOME=/data", "/data/.gemini/gemini-credentials.json"], &["Gemini CLI"]),
            ("linux", &["$CODEX_HOME=/data", "/data/config.toml", ".codex/auth.json"], &["OpenAI Codex CLI"]),
        ] {
            assert_eq!(losers(os, there), agents, "{os} {there:?}");
        }
    }
}
