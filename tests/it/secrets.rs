//! No secret byte and no secret file's name reaches the state archive, the catalog, a message or a working file.

use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use lifeboat::commands::{Event, Report as _, backup};
use lifeboat::model::kit::{Kit, Which};
use lifeboat::stream::age_keys::Identities;
use lifeboat::{Kind, stream};
use secrecy::SecretString;

use crate::world::Machine;

/// A value that stands in every secret file.
const VALUE: &str = "PLANTED-VALUE-7c1f";
/// A word that stands in the name of every secret file.
const NAME: &str = "planted-name";

fn plant(machine: &Machine, path: &str) {
    machine.write(path, format!("key = {VALUE}\n"));
}

pub fn holds(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|w| w == what.as_bytes())
}

/// Refuses a word in the state archive, and shows where it stands.
pub fn absent(state: &[u8], word: &str) {
    if let Some(at) = state.windows(word.len()).position(|w| w == word.as_bytes()) {
        let around = &state[at.saturating_sub(200)..(at + 100).min(state.len())];
        panic!("{word} is in the state archive: {}", String::from_utf8_lossy(around));
    }
}

/// Everything in the objects of one kind of archive, opened: tars and manifests.
pub fn opened(machine: &Machine, which: Which, below: &str) -> Vec<u8> {
    let kit = Kit::parse(&std::fs::read_to_string(machine.kit()).unwrap()).unwrap();
    let identities = Identities::parse(kit.identities(which)).unwrap();
    let mut out = Vec::new();
    for (path, sealed) in machine.all_files() {
        if path.starts_with(machine.store().join(below)) && path.extension().is_some_and(|e| e == "age") {
            let mut plain = stream::seal::open(&sealed[..], &identities, "x").unwrap();
            let mut zstd = Vec::new();
            plain.read_to_end(&mut zstd).unwrap();
            zstd::stream::read::Decoder::new(&zstd[..]).unwrap().read_to_end(&mut out).unwrap();
        }
    }
    assert!(!out.is_empty());
    out
}

/// Backs up and looks everywhere; returns what the secrets bundle holds.
fn nothing_leaks(machine: &Machine) -> Vec<u8> {
    let mut said = String::new();
    // What a person wrote into the configuration is theirs to know.
    let config = machine.world.config_file();
    let configured = std::fs::read(&config).unwrap();
    let args = backup::Args::default();
    let done = backup::run(&machine.world, &args, &mut |e| said.push_str(&format!("{e:?}\n"))).unwrap();
    said.push_str(&done.text());
    said.push_str(&serde_json::to_string(&done).unwrap());
    let listed = machine.list();
    said.push_str(&listed.text());
    let dry = backup::Args { dry_run: true, ..args };
    let dry = backup::run(&machine.world, &dry, &mut |e| said.push_str(&format!("{e:?}\n"))).unwrap();
    said.push_str(&dry.text());
    let secrets = opened(machine, Which::Secrets, "secrets");
    let state = opened(machine, Which::State, "state");
    for word in [VALUE, NAME] {
        assert!(!holds(said.as_bytes(), word), "{word} was said:\n{said}");
        absent(&state, word);
        assert!(holds(&secrets, word), "{word} is not in the bundle");
        for (path, bytes) in machine.all_files() {
            let own = [".local", ".config/lifeboat"].iter().any(|d| path.starts_with(machine.home(d)));
            let theirs = path == config && bytes == configured;
            assert!(!own || theirs || !holds(&bytes, word), "{word} is in {}", path.display());
        }
    }
    secrets
}

#[test]
fn planted_values_and_names_stay_in_the_bundle() {
    let machine = Machine::new();
    for path in [
        "agent/planted-name.key",
        "agent/deep/er/planted-name.pem",
        "agent/.ssh/id_ed25519_planted-name",
        "agent/mcp-tokens/planted-name.json",
        "agent/.env.planted-name",
        "agent/only/planted-name-dir.d/planted-name.p12",
    ] {
        plant(&machine, path);
    }
    machine.write("agent/notes.md", "nothing secret");
    let agent = |p: &str| machine.home("agent").join(p);
    // Another name of a secret makes both names secret, whatever it is called.
    std::fs::hard_link(agent("planted-name.key"), agent("plain-planted-name.txt")).unwrap();
    symlink("planted-name.key", agent("relative")).unwrap();
    symlink(agent("deep/er/planted-name.pem"), agent("absolute")).unwrap();
    symlink("../agent/deep/../planted-name.key", agent("dots")).unwrap();
    symlink("relative", agent("link-to-link")).unwrap();
    symlink("/nowhere/planted-name.key", agent("dangling")).unwrap();
    symlink("deep", agent("way")).unwrap();
    symlink("way/er/planted-name.pem", agent("through-a-link")).unwrap();
    // A socket in a secret directory is skipped without a word of its name.
    let socket = agent("mcp-tokens/planted-name.sock");
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    machine.init(&["agent"]);
    let secrets = nothing_leaks(&machine);
    drop(listener);
    assert!(!holds(&secrets, "nothing secret"));

    let target = machine.target("t");
    machine.restore(&target);
    let restored = target.join("home/agent");
    let content = std::fs::read_to_string(restored.join("plain-planted-name.txt")).unwrap();
    assert!(content.contains(VALUE));
    assert_eq!(std::fs::read_link(restored.join("dots")).unwrap(), Path::new("../agent/deep/../planted-name.key"));
}

#[test]
fn the_users_rules_decide() {
    let machine = Machine::new();
    plant(&machine, "agent/planted-name.txt");
    plant(&machine, "agent/planted-name-dir/inner.txt");
    plant(&machine, "agent/planted-name-dir/left-out.log");
    plant(&machine, "agent/real/planted-name-2.txt");
    machine.write("agent/public.key", "not a secret at all");
    machine.write("agent/out.log", "left out");
    machine.write("agent/keep.log", "included");
    let agent = |p: &str| machine.home("agent").join(p);
    symlink("real", agent("way")).unwrap();
    symlink("way/planted-name-2.txt", agent("by-rule-through-a-link")).unwrap();
    let fifo = agent("planted-name-dir/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    machine.init(&["agent"]);
    machine.configure(|text| {
        let rules =
            "secret = [\"planted-name*\"]\nstate = [\"*.key\"]\nexclude = [\"*.log\"]\ninclude = [\"keep.log\"]\n";
        let at = text.find("[[source]]").unwrap() + text[text.find("[[source]]").unwrap()..].find("path").unwrap();
        format!("{}{rules}{}", &text[..at], &text[at..])
    });
    let secrets = nothing_leaks(&machine);
    let state = opened(&machine, Which::State, "state");
    assert!(holds(&state, "not a secret at all") && !holds(&secrets, "not a secret at all"));
    assert!(holds(&state, "included") && !holds(&state, "left out\0"));
    let target = machine.target("t");
    machine.restore(&target);
    assert!(!target.join("home/agent/out.log").exists() && target.join("home/agent/keep.log").exists());
    assert!(!target.join("home/agent/planted-name-dir/left-out.log").exists());
}

#[test]
fn roots_that_are_secrets_are_not_named() {
    let machine = Machine::new();
    plant(&machine, "logins/planted-name.key");
    plant(&machine, "gone/planted-name.key");
    machine.write("agent/notes.md", "x");
    machine.init(&["agent", "logins/planted-name.key", "gone/planted-name.key"]);
    nothing_leaks_but_is_incomplete(&machine, "gone");
}

/// A source that is a secret, and one that is not there any more.
fn nothing_leaks_but_is_incomplete(machine: &Machine, gone: &str) {
    nothing_leaks(machine);
    std::fs::remove_dir_all(machine.home(gone)).unwrap();
    let done = machine.backup();
    assert_eq!(done.unreadable, ["a secret file: the source is not there"]);
    // It is told by each run, though the newest bundle lacks no more than before and no other is written.
    let done = machine.backup();
    assert_eq!(done.unreadable, ["a secret file: the source is not there"]);
    assert!(done.secrets.is_none());
    assert!(!holds(&opened(machine, Which::State, "state"), NAME));
}

#[test]
fn a_hermes_home_is_split() {
    let machine = Machine::new();
    for path in [
        ".hermes/.env",
        ".hermes/auth.json",
        ".hermes/config.yaml",
        ".hermes/mcp-tokens/planted-name.json",
        ".hermes/vault/planted-name.bin",
        ".hermes/platforms/pairing/planted-name",
        ".hermes/profiles/work/.env",
        ".hermes/profiles/work/vault/planted-name.bin",
        ".hermes/profiles/work/config.yaml",
        ".claude/.credentials.json",
        ".config/gh/hosts.yml",
    ] {
        plant(&machine, path);
    }
    machine.write(".hermes/memories/MEMORY.md", "remember");
    machine.write(".hermes/profiles/work/memories/MEMORY.md", "remember work");
    machine.write(".hermes/logs/agent.log", "noise in a log");
    machine.write(".hermes/cache/images/a.png", "picture");
    machine.write(".hermes/cache/x", "cached");
    machine.write(".hermes/skills/a/SKILL.md", "skill");
    let vault = std::os::unix::net::UnixListener::bind(machine.home(".hermes/vault/planted-name.sock")).unwrap();
    let db = rusqlite::Connection::open(machine.home(".hermes/state.db")).unwrap();
    db.execute_batch("pragma journal_mode=wal; create table messages(t); insert into messages values ('hello')")
        .unwrap();
    // Found by itself, without an init.
    let done = backup::run(&machine.world, &backup::Args::default(), &mut |_| {}).unwrap();
    assert!(done.unreadable.is_empty(), "{:?}", done.unreadable);
    nothing_leaks(&machine);
    let state = opened(&machine, Which::State, "state");
    for name in [".credentials.json", "hosts.yml", "auth.json", "config.yaml", "mcp-tokens", "noise in a log"] {
        absent(&state, name);
    }
    drop(vault);

    let target = machine.target("t");
    machine.restore(&target);
    let hermes = target.join("home/.hermes");
    assert!(!hermes.join("logs").exists() && !hermes.join("cache/x").exists());
    for kept in ["memories/MEMORY.md", "profiles/work/memories/MEMORY.md", "cache/images/a.png", "skills/a/SKILL.md"] {
        assert!(hermes.join(kept).exists(), "{kept}");
    }
    assert!(target.join("home/.claude/.credentials.json").exists());
    let db = rusqlite::Connection::open(hermes.join("state.db")).unwrap();
    let row: String = db.query_row("select t from messages", [], |r| r.get(0)).unwrap();
    assert_eq!(row, "hello");
}

#[test]
fn each_identity_opens_its_own_archive_only() {
    let machine = Machine::new();
    plant(&machine, "agent/planted-name.key");
    machine.write("agent/notes.md", "x");
    machine.init(&["agent"]);
    machine.backup();
    let kit = Kit::parse(&std::fs::read_to_string(machine.kit()).unwrap()).unwrap();
    let mut checked = 0;
    for (path, sealed) in machine.all_files() {
        let Ok(key) = path.strip_prefix(machine.store()) else { continue };
        if path.extension().is_none_or(|e| e != "age") {
            continue;
        }
        let (own, other) = match key.starts_with("state") {
            true => (Which::State, Which::Secrets),
            false => (Which::Secrets, Which::State),
        };
        let open =
            |which| stream::seal::open(&sealed[..], &Identities::parse(kit.identities(which)).unwrap(), "x").err();
        assert!(open(own).is_none());
        assert_eq!(open(other).unwrap().kind(), Kind::NoIdentity);
        checked += 1;
    }
    assert_eq!(checked, 4);

    // Half a kit restores half of it, and says what it needs for the other.
    let half = |which: Which, name: &str| {
        let mut kit = Kit::parse(&std::fs::read_to_string(machine.kit()).unwrap()).unwrap();
        match which {
            Which::State => kit.secrets = None,
            Which::Secrets => kit.state = None,
        }
        let path = machine.root().join(name);
        let text: SecretString = kit.render();
        lifeboat::host::private_file::write_private_file(&path, &text).unwrap();
        path
    };
    let (state, secrets) = (half(Which::State, "state-kit"), half(Which::Secrets, "secrets-kit"));
    let error = machine.try_restore(&machine.target("a"), |a| a.identity = Some(state.clone())).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity);
    assert!(error.advice().unwrap().contains("--no-secrets"), "{error:?}");
    assert!(!machine.target("a").exists());
    machine.try_restore(&machine.target("a"), |a| (a.identity, a.no_secrets) = (Some(state), true)).unwrap();
    assert!(!machine.target("a").join("home/agent/planted-name.key").exists());
    machine.try_restore(&machine.target("b"), |a| (a.identity, a.secrets_only) = (Some(secrets), true)).unwrap();
    assert!(machine.target("b").join("home/agent/planted-name.key").exists());
    assert!(!machine.target("b").join("home/agent/notes.md").exists());
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn secrets_come_back_for_their_owner_only() {
    let machine = Machine::new();
    plant(&machine, "agent/planted-name.key");
    plant(&machine, "agent/.gnupg/private-keys-v1.d/x");
    plant(&machine, "agent/run.env");
    machine.write("agent/notes.md", "x");
    let set = |path: &str, mode| {
        std::fs::set_permissions(machine.home(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set("agent/planted-name.key", 0o666);
    set("agent/run.env", 0o6755);
    set("agent/.gnupg/private-keys-v1.d", 0o755);
    set("agent/notes.md", 0o644);
    machine.init(&["agent"]);
    machine.backup();
    let target = machine.target("t");
    machine.restore(&target);
    let agent = target.join("home/agent");
    assert_eq!(mode(&agent.join("planted-name.key")), 0o600);
    assert_eq!(mode(&agent.join("run.env")), 0o700);
    assert_eq!(mode(&agent.join(".gnupg/private-keys-v1.d")), 0o700);
    assert_eq!(mode(&agent.join("notes.md")), 0o644);
    assert_eq!(machine.restore(&target).restored, 0);
}

#[test]
fn a_file_that_became_secret_keeps_no_rights_of_its_old_self() {
    let mut machine = Machine::new();
    machine.write("agent/token.txt", "old");
    machine.write("agent/notes.md", "x");
    let file = machine.home("agent/token.txt");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    machine.init(&["agent"]);
    let first = machine.backup().state.unwrap().id;
    machine.write("agent/token.txt", "new");
    machine.configure(|text| text.replace("[[source]]", "[[source]]\nsecret = [\"token.txt\"]"));
    machine.world.fixed_now = machine.world.fixed_now.map(|n| n + 60);
    machine.backup();
    let target = machine.target("t");
    machine.try_restore(&target, |a| a.snapshot = first).unwrap();
    let file = target.join("home/agent/token.txt");
    assert_eq!(std::fs::read(&file).unwrap(), b"new");
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn secrets_alone() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    machine.init(&["agent"]);
    let args = backup::Args { secrets_only: true, ..backup::Args::default() };
    let error = backup::run(&machine.world, &args, &mut |_| {}).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::NotThere, "there is no secret in any source"));
    // An agent without secrets has no bundle, and comes back all the same.
    machine.backup();
    let (done, events) = machine.try_restore(&machine.target("a"), |_| {}).unwrap();
    assert_eq!(done.secrets, None);
    assert!(events.contains(&Event::Note("there is no secrets bundle on the store".into())));
    plant(&machine, "agent/planted-name.key");
    let done = backup::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert!(done.state.is_none() && done.secrets.is_some());
    assert_eq!(machine.restore(&machine.target("b")).restored, 3);
}

#[test]
fn lifeboats_own_files_are_never_backed_up() {
    let machine = Machine::new();
    machine.write("notes.md", "x");
    machine.write(".lifeboat-restore-0badcafe/home/agent/vault/left-by-a-crash", VALUE);
    std::fs::create_dir(machine.home("sub")).unwrap();
    // The home itself, in which kit, keys, catalog and store lie.
    machine.init(&["."]);
    for copy in ["copy-of-the-kit.txt", "sub/another.md"] {
        std::fs::copy(machine.kit(), machine.home(copy)).unwrap();
    }
    // A further name of a copy, and of the kit itself.
    std::fs::hard_link(machine.home("sub/another.md"), machine.home("sub/one-more.md")).unwrap();
    std::fs::hard_link(machine.kit(), machine.home("sub/the-kit.md")).unwrap();
    std::fs::copy(machine.world.config_file().with_file_name("signing.key"), machine.home("sub/signing.key")).unwrap();
    machine.backup();
    machine.backup();
    let state = opened(&machine, Which::State, "state");
    for word in ["AGE-SECRET-KEY-1", VALUE, "000000.tar.zst.age", "catalog.sqlite"] {
        assert!(!holds(&state, word), "{word}");
    }
    let target = machine.target("t");
    machine.restore(&target);
    let home = target.join("home");
    assert!(home.join("notes.md").exists() && home.join(".config/lifeboat/config.toml").exists());
    for gone in ["lifeboat-key.txt", "copy-of-the-kit.txt", "sub/another.md", "sub/one-more.md", "sub/the-kit.md"] {
        assert!(!home.join(gone).exists(), "{gone}");
    }
    assert!(!home.join(".config/lifeboat/signing.key").exists());
    assert!(!home.join(".local/share/lifeboat/store").exists());
}
