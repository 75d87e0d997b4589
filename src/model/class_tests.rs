//! What the rules decide, path by path.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::model::preset;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn of_preset(name: &str, root: &str) -> Rules {
    Rules::new(&Scope {
        root: Some(Path::new("/home/u/.agent")),
        preset: Some((preset::find(name).unwrap(), root)),
        ..Scope::default()
    })
    .unwrap()
}

/// The class of `path`; a slash at its end makes it a directory.
fn class(rules: &Rules, path: &str) -> Class {
    let (rel, is_dir) = path.strip_suffix('/').map_or((path, false), |p| (p, true));
    rules.decide_path(rel.as_bytes(), is_dir).class
}

fn check(rules: &Rules, want: Class, paths: &[&str]) {
    for path in paths {
        let decision = {
            let (rel, is_dir) = path.strip_suffix('/').map_or((*path, false), |p| (p, true));
            rules.decide_path(rel.as_bytes(), is_dir)
        };
        assert_eq!(decision.class, want, "{path}: {:?}", decision.reason);
        if want != Class::State {
            assert!(!decision.reason.unwrap().text.is_empty(), "{path}");
        }
    }
}

#[test]
fn hermes() {
    let rules = of_preset("hermes", "home");
    check(
        &rules,
        Class::Secret,
        &[
            ".env",
            "auth.json",
            ".anthropic_oauth.json",
            "google_token.json",
            "auth/google_oauth.json",
            "mcp-tokens/x.json",
            "mcp-tokens/a/b.client.json",
            "mcp-tokens/x.lock",
            "webhook_subscriptions.json",
            "slack_tokens.json",
            "weixin/accounts/1.json",
            "platforms/whatsapp/session/creds.json",
            "whatsapp/session/creds.json",
            "platforms/matrix/store/crypto.db",
            "matrix/store/crypto.db",
            "platforms/pairing/x.json",
            "pairing/x",
            "vault/vault.key",
            "vault/vault.json.enc",
            "honcho.json",
            "mem0.json",
            "hindsight/config.json",
            "workspace/meetings/auth.json",
            "workspace/meetings/node_token.json",
            "home/.git-credentials",
            "home/.aws/x",
            "config.yaml",
            "config.yaml.bak",
            "profiles/work/.env",
            "profiles/work/config.yaml",
            "profiles/work/mcp-tokens/x.json",
            "workspace/p/.env",
            "skills/x/.env.local",
        ],
    );
    check(
        &rules,
        Class::Skip,
        &[
            "logs/",
            "logs/x",
            "hermes-agent/",
            "hermes-agent/run.py",
            "node_modules/",
            "bin/x",
            "cache/x.json",
            "cache/bws_cache.json",
            "cache/huge/x",
            "models_dev_cache.json",
            "foo_cache.json",
            "gateway.pid",
            "gateway.lock",
            "cron/.tick.lock",
            "gateway_state.json",
            "processes.json",
            "backups/x.zip",
            "state-snapshots/1/state.db",
            "state.db.pre-update-emergency-1",
            "state.db.retired-wal-1/x",
            "checkpoints/ab/HEAD",
            "browser-profile/x",
            "chrome-debug/x",
            "sandboxes/x",
            ".worktrees/x",
            "plugins/a/venv/lib/x",
            "plugins/a/b/__pycache__/x.pyc",
            "mcp-installs/x/.venv/y",
            "profiles/work/logs/",
            "profiles/work/logs/x",
            "profiles/work/cache/x",
            "profiles/work/gateway_state.json",
            "profiles/work/node/x",
        ],
    );
}

#[test]
fn hermes_state() {
    let rules = of_preset("hermes", "home");
    check(
        &rules,
        Class::State,
        &[
            "",
            "state.db",
            "SOUL.md",
            "memories/MEMORY.md",
            "skills/.bundled_manifest",
            "skills/.hub/lock.json",
            "skills/x/logs/y.md",
            "skills/x/checkpoints/y",
            "skills/x/backups/",
            "skills/x/venv/y",
            "skills/x/uv.lock",
            "workspace/p/Cargo.lock",
            "workspace/p/logs/x",
            "workspace/p/.git/config",
            "workspace/p/foo_cache.json",
            "workspace/p/node_modules/x.js",
            "cron/jobs.json",
            "cron/output/x",
            "sessions/a.jsonl",
            "sessions/",
            "hooks/",
            "kanban/boards/x/kanban.db",
            "cache/",
            "cache/images/x.png",
            "cache/images/",
            "cache/citations/a/b",
            "new-thing",
            "profiles/",
            "profiles/work/",
            "profiles/work/state.db",
            "profiles/work/hermes-agent/x",
            "pairing/",
            "profiles/work/skills/x/logs/y",
            "profiles/work/cache/images/x.png",
            "plugins/a/main.py",
            ".hermes_history",
            "profiles/work/profiles/x/logs/y",
            "logs.md",
            "home/.bashrc",
            ".env.example",
        ],
    );
}

#[test]
fn hermes_gives_reasons() {
    let rules = of_preset("hermes", "home");
    let reason = |path: &str| rules.decide_path(path.as_bytes(), false).reason.unwrap();
    assert_eq!(&*reason("logs/x").text, "logs are rebuilt");
    assert_eq!(reason("logs/x").layer, Layer::Preset);
    assert!(reason("config.yaml").mixed && !reason(".env").mixed);
    assert_eq!(reason("workspace/p/.env").layer, Layer::Name);
    assert!(rules.decide_path(b"state.db", false).reason.is_none());
    let login = of_preset("hermes", "qwen-login");
    assert_eq!(login.decide(b"", b"oauth_creds.json", false).class, Class::Secret);
    let honcho = of_preset("hermes", "honcho");
    check(&honcho, Class::Secret, &["", "config.json", "logs/x"]);
}

#[test]
fn claude_code() {
    let rules = of_preset("claude-code", "home");
    check(
        &rules,
        Class::Secret,
        &[
            ".credentials.json",
            ".claude.json",
            ".claude.json.backup",
            "settings.json",
            "settings.local.json",
            ".mcp.json",
            "plugins/x/.mcp.json",
        ],
    );
    check(
        &rules,
        Class::Skip,
        &[
            "shell-snapshots/x",
            "session-env/",
            "debug/x",
            "statsig/x",
            "telemetry/x",
            "paste-cache/x",
            "image-cache/x",
            "todos/x",
            "ide/x",
            "remote-settings.json",
            "backups/.claude.json.1",
        ],
    );
    check(
        &rules,
        Class::State,
        &[
            "projects/-home-u/a.jsonl",
            "projects/-home-u/memory/MEMORY.md",
            "history.jsonl",
            "file-history/x",
            "CLAUDE.md",
            "skills/x/debug/y",
            "agents/ide/x",
            "plugins/installed_plugins.json",
            "stats-cache.json",
        ],
    );
    let account = of_preset("claude-code", "account").decide(b"", b".claude.json", false);
    assert!(account.class == Class::Secret && account.reason.unwrap().mixed);
    check(&of_preset("claude-code", "profiles"), Class::Secret, &["x/y"]);
}

#[test]
fn openclaw() {
    let rules = of_preset("openclaw", "home");
    check(
        &rules,
        Class::Secret,
        &[
            ".env",
            "credentials/whatsapp/creds.json",
            "credentials/oauth.json",
            "secrets.json",
            "openclaw.json",
            "openclaw.json.bak",
            "agents/main/agent/auth.json",
            "agents/main/agent/auth-profiles.json",
            "agents/main/agent/codex-home/x",
            "state/openclaw.sqlite",
            "state/openclaw.sqlite-wal",
            "agents/main/agent/openclaw-agent.sqlite",
        ],
    );
    check(
        &rules,
        Class::Skip,
        &[
            "dev/x",
            "git/x",
            "npm/x",
            "npm-runtime/",
            "tmp/x",
            "tools/x",
            "plugin-skills/x",
            "sandbox/skills-workspaces/x",
            "sandboxes/x",
            "logs/x",
            "delivery-queue/x",
            "x.sock",
            "a/gateway.pid",
            "a/x.tmp",
            "browser/main/user-data/SingletonLock",
            "models/x",
            "extensions/a/node_modules/x",
        ],
    );
    check(
        &rules,
        Class::State,
        &[
            "workspace/MEMORY.md",
            "workspace/memory/2026.md",
            "workspace/git/x",
            "workspace/x.tmp",
            "skills/tmp/x",
            "agents/main/sessions/a.jsonl",
            "agents/main/sessions/cold/x",
            "agents/main/sessions/a.jsonl.deleted.1.zst",
            "extensions/a/index.js",
            "cron/jobs.json",
            "sandbox/x",
        ],
    );
    assert!(rules.decide_path(b"state/openclaw.sqlite", false).reason.unwrap().mixed);
}

#[test]
fn codex() {
    let rules = of_preset("codex", "home");
    check(
        &rules,
        Class::Secret,
        &["auth.json", ".credentials.json", "secrets/local.age", "config.toml", "config.toml.bak"],
    );
    check(&rules, Class::Skip, &["logs_2.sqlite", "logs_3.sqlite-wal", "log/x", "packages/x", "tmp/x", "cache/x"]);
    check(
        &rules,
        Class::State,
        &[
            "sessions/2026/11/01/rollout-x.jsonl",
            "archived_sessions/x",
            "history.jsonl",
            "state_5.sqlite",
            "work.config.toml",
            "memories/log/x",
            "AGENTS.md",
            "skills/tmp/x",
            "session_index.jsonl",
        ],
    );
    check(&of_preset("codex", "sqlite"), Class::Skip, &["logs_2.sqlite"]);
}

#[test]
fn the_user_decides_first() {
    let include = strings(&["checkpoints/", "logs/audit/*.log"]);
    let exclude = strings(&["**/node_modules", "target/", "/build", "memories/old/**", "*.iso"]);
    let secret = strings(&["diary.md", "private/", "deep/keys/**"]);
    let state = strings(&["workspace/fixtures/", "private/readme.md", "private/open/"]);
    let rules = Rules::new(&Scope {
        root: Some(Path::new("/home/u/.hermes")),
        preset: Some((preset::find("hermes").unwrap(), "home")),
        include: &include,
        exclude: &exclude,
        secret: &secret,
        state: &state,
        apart: &[],
    })
    .unwrap();
    check(
        &rules,
        Class::State,
        &[
            "checkpoints/",
            "checkpoints/a/HEAD",
            "checkpoints/x.lock",
            "logs/audit/x.log",
            "logs/",
            "workspace/target",
            "workspace/build",
            "memories/old/",
            "workspace/fixtures/.env",
            "workspace/fixtures/a/id_rsa",
            "private/readme.md",
            "private/open/x",
            "private/open/.env",
            "deep/keys/",
        ],
    );
    check(
        &rules,
        Class::Skip,
        &[
            "logs/x",
            "logs/other/x.log",
            "logs/audit/x.txt",
            "logs/audit/sub/x.log",
            "workspace/node_modules/x",
            "workspace/target/x",
            "build",
            "memories/old/x",
            "a/b/c.iso",
            "cache/x",
        ],
    );
    check(&rules, Class::Secret, &["diary.md", "workspace/diary.md", "private/x", "private/a/b", "deep/keys/a/b"]);
    assert_eq!(rules.decide_path(b"diary.md", false).reason.unwrap().layer, Layer::User);
}

#[test]
fn contradictions_end_with_the_secrets() {
    let both = strings(&["x", "d/"]);
    let rules = Rules::new(&Scope { secret: &both, state: &both, ..Scope::default() }).unwrap();
    check(&rules, Class::Secret, &["x", "d/", "d/y"]);
}

#[test]
fn include_without_slash_reaches_everywhere() {
    let (include, exclude) = (strings(&["*.keep"]), strings(&["big/", "**/tmp/**"]));
    let rules = Rules::new(&Scope { include: &include, exclude: &exclude, ..Scope::default() }).unwrap();
    check(&rules, Class::State, &["big/a/x.keep", "a/tmp/x.keep", "a/tmp/"]);
    check(&rules, Class::Skip, &["big/a/x", "a/tmp/x"]);
    let (include, exclude) = (strings(&["big/a/**"]), strings(&["big/"]));
    let rules = Rules::new(&Scope { include: &include, exclude: &exclude, ..Scope::default() }).unwrap();
    check(&rules, Class::State, &["big/", "big/a/", "big/a/x", "big/a/b/c"]);
    check(&rules, Class::Skip, &["big/x", "big/b/"]);
    assert_eq!(class(&rules, "other"), Class::State);
}

#[test]
fn plain_sources_know_secret_names_only() {
    let rules = Rules::new(&Scope { root: Some(Path::new("/home/u/.aws")), ..Scope::default() }).unwrap();
    check(&rules, Class::Secret, &["credentials", "config", "sso/cache/", "sso/cache/x.json"]);
    check(&rules, Class::State, &["", "x", "logs/x", "a.lock"]);
    let inside = Rules::new(&Scope { root: Some(Path::new("/h/.gnupg/private-keys-v1.d/x")), ..Scope::default() });
    check(&inside.unwrap(), Class::Secret, &["", "a"]);
    // A virtual environment may be called `.env`: only files are secret by such a name.
    let plain = Rules::new(&Scope::default()).unwrap();
    check(&plain, Class::State, &[".env/", ".env/lib/x.py", "a\u{e9}/b"]);
    assert_eq!(plain.decide(b"\xff/.env", b".env", false).class, Class::Secret);
}

#[test]
fn a_single_file_is_matched_by_its_name() {
    let exclude = strings(&["*.log"]);
    let scope = Scope { root: Some(Path::new("/var/x.log")), exclude: &exclude, ..Scope::default() };
    assert_eq!(Rules::new(&scope).unwrap().decide(b"", b"x.log", false).class, Class::Skip);
    let scope = Scope { root: Some(Path::new("/home/u/.netrc")), ..Scope::default() };
    assert_eq!(Rules::new(&scope).unwrap().decide(b"", b".netrc", false).class, Class::Secret);
}

#[test]
fn what_is_apart_stays_out_whatever_is_included() {
    let include = strings(&["**"]);
    let apart = [
        (PathBuf::from("/home/u/kit/lifeboat-key.txt"), "the recovery kit".to_owned()),
        (PathBuf::from("/home/u/store/"), "the store".to_owned()),
        (PathBuf::from("/elsewhere"), "the store".to_owned()),
    ];
    let home = Scope { root: Some(Path::new("/home/u")), include: &include, apart: &apart, ..Scope::default() };
    let rules = Rules::new(&home).unwrap();
    check(&rules, Class::Skip, &["kit/lifeboat-key.txt", "store/", "store/a"]);
    check(&rules, Class::State, &["kit/", "kit/x", "stores/a"]);
    assert_eq!(rules.decide_path(b"store", true).reason.unwrap().layer, Layer::Apart);
    let inner = Rules::new(&Scope { root: Some(Path::new("/home/u/store/x")), ..home }).unwrap();
    assert_eq!(inner.decide(b"", b"x", true).class, Class::Skip);
}
