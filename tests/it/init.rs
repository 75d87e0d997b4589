//! Keys, kit and configuration: made once, proved, never overwritten.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use lifeboat::commands::{backup, init, restore};
use lifeboat::{Error, Kind};

use crate::world::Machine;

fn init(machine: &Machine, change: impl FnOnce(&mut init::Args)) -> Result<init::Done, Error> {
    let mut args = init::Args { sealed: true, ..init::Args::default() };
    change(&mut args);
    init::run(&machine.world, &args, &mut |_| {})
}

/// A machine with something to back up.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "remember this");
    machine.write("agent/.env", "KEY=fake");
    machine.write("projects/x.rs", "fn main() {}");
    machine
}

/// Keys, kit and configuration, byte by byte.
fn kept(machine: &Machine) -> BTreeMap<PathBuf, Vec<u8>> {
    let config = machine.world.config_file();
    let files = [machine.kit(), config.clone(), config.with_file_name("signing.key")];
    files.into_iter().map(|f| (f.clone(), std::fs::read(f).unwrap())).collect()
}

fn mode(path: &std::path::Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_kit_is_private_and_complete() {
    let machine = machine();
    let done = machine.init(&["agent"]);
    assert_eq!(done.what, "new");
    for file in kept(&machine).keys() {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    let kit = std::fs::read_to_string(machine.kit()).unwrap();
    assert_eq!(kit.matches("AGE-SECRET-KEY-1").count(), 2);
    for name in
        ["series: testhost", "store: file:///", "state-recipient: age1", "secrets-recipient: age1", "signing-secret: "]
    {
        assert!(kit.contains(&format!("# {name}")), "{name}");
    }
    assert!(lifeboat::commands::Report::text(&done).contains("nobody can open the backups"));
    for name in ["RECOVERY.md", "recover.sh", "keys/testhost/000001.pub"] {
        assert!(machine.store().join(name).is_file(), "{name}");
    }
}

#[test]
fn nothing_is_ever_overwritten() {
    let machine = machine();
    machine.init(&["agent"]);
    machine.backup();
    let before = kept(&machine);

    let done = init(&machine, |a| a.sealed = false).unwrap();
    assert_eq!((done.what, done.kit), ("unchanged", None));
    assert_eq!(kept(&machine), before);
    for change in [
        |a: &mut init::Args| a.name = Some("other".into()),
        |a: &mut init::Args| a.store = Some("/elsewhere".into()),
        |a: &mut init::Args| a.kit = Some("/elsewhere/kit.txt".into()),
        |a: &mut init::Args| a.passphrase = true,
    ] {
        let error = init(&machine, change).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("is there already, with the"), "{error}");
        assert_eq!(kept(&machine), before);
    }
    // The same again is no contradiction.
    let store = machine.store().to_str().unwrap().to_owned();
    init(&machine, |a| (a.sealed, a.name, a.store) = (false, Some("testhost".into()), Some(store))).unwrap();
    assert_eq!(kept(&machine), before);

    // Without the configuration: a kit and a key that belong together are those of an `init` that was interrupted.
    let source = vec![machine.home("agent")];
    let configuration = std::fs::read(machine.world.config_file()).unwrap();
    std::fs::remove_file(machine.world.config_file()).unwrap();
    init(&machine, |a| a.sources = source.clone()).unwrap();
    assert_eq!(std::fs::read(machine.world.config_file()).unwrap(), configuration);
    assert_eq!(kept(&machine), before);

    // A kit or a key alone stops it.
    std::fs::remove_file(machine.world.config_file()).unwrap();
    let key = machine.world.config_file().with_file_name("signing.key");
    let hidden = machine.root().join("hidden.key");
    std::fs::rename(&key, &hidden).unwrap();
    let error = init(&machine, |a| a.sources = source.clone()).unwrap_err();
    assert!(error.to_string().starts_with("there is a recovery kit already"), "{error}");
    std::fs::rename(&hidden, &key).unwrap();
    let other_kit = machine.root().join("kit2.txt");
    let error = init(&machine, |a| (a.sources, a.kit) = (source.clone(), Some(other_kit.clone()))).unwrap_err();
    assert!(error.to_string().contains("is there without a configuration"), "{error}");
    assert!(!other_kit.exists());
    std::fs::rename(&key, &hidden).unwrap();
    let error = machine.try_backup().unwrap_err();
    assert!(error.to_string().starts_with("there is a recovery kit already"), "{error}");
    std::fs::rename(&hidden, &key).unwrap();
    for (file, bytes) in before.iter().filter(|(f, _)| f.exists()) {
        assert_eq!(&std::fs::read(file).unwrap(), bytes);
    }
    // Its own kit puts the configuration back, and the series goes on.
    init(&machine, |a| (a.sources, a.kit) = (source, Some(machine.kit()))).unwrap();
    machine.write("agent/notes.md", "changed");
    machine.write("agent/.env", "KEY=changed");
    machine.backup();
    assert_eq!(machine.list().snapshots.iter().filter(|s| s.status == "ok").count(), 4);
}

#[test]
fn sources_are_added() {
    let machine = machine();
    machine.init(&["agent"]);
    let keys = kept(&machine);
    let add = vec![machine.home("projects"), machine.home("agent")];
    let done = init(&machine, |a| a.sources = add).unwrap();
    assert_eq!(done.what, "extended");
    assert_eq!(done.sources.len(), 2);
    for (file, bytes) in keys.iter().filter(|(f, _)| **f != machine.world.config_file()) {
        assert_eq!(&std::fs::read(file).unwrap(), bytes);
    }
    machine.backup();
    let target = machine.target("t");
    machine.restore(&target);
    assert!(target.join("home/projects/x.rs").exists() && target.join("home/agent/notes.md").exists());

    let error = init(&machine, |a| a.sources = vec!["/no/such/path".into()]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotThere);
    let error = init(&machine, |a| a.presets = vec!["nope".into()]).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Usage, "there is no preset `nope`"));
    assert!(error.advice().unwrap().contains("hermes"));
}

/// What a person wrote into the configuration is theirs, also where it is a link to where they keep such files.
#[test]
fn a_source_is_added_and_comments_stay() {
    let machine = machine();
    machine.init(&["agent"]);
    let (file, kept) = (machine.world.config_file(), machine.home("dotfiles/lifeboat.toml"));
    machine.configure(|text| {
        let text = text.replacen("[[source]]\n", "# The one that matters.\n[[source]]\nexclude = [ 'tmp' ] # big\n", 1);
        let text = text.replacen("hourly = \"24h\"\n", "hourly =   '48h'   # two days\n", 1);
        format!("# Ask Ada before this is changed.\n{text}\n# The end.\n")
    });
    std::fs::create_dir(machine.home("dotfiles")).unwrap();
    std::fs::rename(&file, &kept).unwrap();
    std::os::unix::fs::symlink(&kept, &file).unwrap();
    let before = std::fs::read_to_string(&file).unwrap();
    let done = init(&machine, |a| a.sources = vec![machine.home("projects")]).unwrap();
    assert_eq!((done.what, done.sources.len()), ("extended", 2));
    let after = std::fs::read_to_string(&kept).unwrap();
    assert!(file.is_symlink());
    let added: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
    let path = format!("path = \"{}\"", machine.home("projects").display());
    assert_eq!(added, [path.as_str()], "{after}");
    let lines: Vec<&str> = after.lines().collect();
    assert!(before.lines().all(|line| lines.contains(&line)), "{after}");
    assert_eq!(machine.backup().series, "testhost");
    // A configuration that has it already is not touched.
    let untouched = std::fs::metadata(&kept).unwrap();
    init(&machine, |a| a.sources = vec![machine.home("projects")]).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(std::fs::metadata(&kept).unwrap().ino(), untouched.ino());
}

/// The signing key alone is lost, or is a credential of systemd's and nowhere else.
#[test]
fn the_signing_key_comes_back_from_the_kit() {
    let machine = machine();
    machine.init(&["agent"]);
    machine.backup();
    let key = machine.world.config_file().with_file_name("signing.key");
    let before = kept(&machine);
    std::fs::remove_file(&key).unwrap();
    let error = machine.try_backup().unwrap_err();
    assert!(error.advice().unwrap().contains("lifeboat init --kit KIT"), "{error}");
    let other = Machine::new();
    other.write("agent/x", "x");
    let args = init::Args {
        name: Some("other".into()),
        sources: vec![other.home("agent")],
        sealed: true,
        ..Default::default()
    };
    init::run(&other.world, &args, &mut |_| {}).unwrap();
    let error = init(&machine, |a| (a.sealed, a.kit) = (false, Some(other.kit()))).unwrap_err();
    assert!(error.to_string().contains("belongs to the series other") && !key.exists(), "{error}");
    // Another series of the same name, on another store.
    let other = Machine::new();
    other.write("agent/x", "x");
    other.init(&["agent"]);
    let error = init(&machine, |a| (a.sealed, a.kit) = (false, Some(other.kit()))).unwrap_err();
    assert!(error.to_string().contains("another signing key") && !key.exists(), "{error}");
    let done = init(&machine, |a| (a.sealed, a.kit) = (false, Some(machine.kit()))).unwrap();
    assert_eq!((done.what, mode(&key)), ("continued", 0o600));
    assert_eq!(kept(&machine), before);
    machine.write("agent/notes.md", "more");
    machine.backup();
}

#[test]
fn bad_names_and_places_are_refused_before_anything_is_made() {
    let machine = machine();
    for name in ["", "UPPER", "a/b", "-x", "..", "a b", &"x".repeat(65)] {
        let error = init(&machine, |a| a.name = Some(name.into())).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{name}: {error}");
    }
    let inside = machine.store().join("kit.txt");
    let source = vec![machine.home("agent")];
    let error = init(&machine, |a| (a.kit, a.sources) = (Some(inside), source)).unwrap_err();
    assert!(error.to_string().contains("may not lie inside the store"), "{error}");
    let error = init(&machine, |a| a.store = Some("s3://bucket".into())).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let error = init(&machine, |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("there is no agent here that lifeboat knows"), "{error}");
    assert!(!machine.world.config_file().exists() && !machine.kit().exists());
}

#[test]
fn a_failed_init_can_be_run_again() {
    let machine = machine();
    // A file where the kit's directory should be.
    let blocked = machine.write("blocked", "").join("kit.txt");
    let source = vec![machine.home("agent")];
    init(&machine, |a| (a.kit, a.sources) = (Some(blocked), source.clone())).unwrap_err();
    let done = init(&machine, |a| a.sources = source).unwrap();
    assert_eq!(done.what, "new");
    machine.backup();
}

#[test]
fn a_kit_that_others_can_read_is_refused_with_the_remedy() {
    let machine = machine();
    machine.init(&["agent"]);
    machine.backup();
    std::fs::set_permissions(machine.kit(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = machine.try_restore(&machine.target("t"), |_| {}).unwrap_err();
    assert!(error.to_string().ends_with("holds keys and is open to others (mode 0640)"), "{error}");
    assert_eq!(error.advice().unwrap(), format!("run: chmod 600 {}", machine.kit().display()));
    assert!(!machine.target("t").exists());
    let kit = Some(machine.kit());
    let other = Machine::new();
    let error = init(&other, |a| a.kit = kit).unwrap_err();
    assert!(error.advice().unwrap().starts_with("run: chmod 600"), "{error}");
}

#[test]
fn a_passphrase_protects_the_kit() {
    let mut machine = machine();
    let source = vec![machine.home("agent")];
    let error = init(&machine, |a| (a.passphrase, a.sources) = (true, source.clone())).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(!machine.kit().exists());

    machine.world.env.insert("LIFEBOAT_PASSPHRASE".into(), "correct horse".into());
    init(&machine, |a| (a.passphrase, a.sources) = (true, source)).unwrap();
    let text = std::fs::read_to_string(machine.kit()).unwrap();
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    machine.backup();
    machine.restore(&machine.target("right"));
    assert!(machine.target("right").join("home/agent/.env").exists());

    machine.world.env.insert("LIFEBOAT_PASSPHRASE".into(), "wrong horse".into());
    let error = machine.try_restore(&machine.target("wrong"), |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity, "{error}");
    machine.world.env.remove(std::ffi::OsStr::new("LIFEBOAT_PASSPHRASE"));
    let error = machine.try_restore(&machine.target("wrong"), |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity, "{error}");
    assert!(error.advice().unwrap().contains("LIFEBOAT_PASSPHRASE"));
    assert!(!machine.target("wrong").exists());
}

#[test]
fn a_sealed_host_holds_nothing_that_opens() {
    let machine = machine();
    machine.init(&["agent"]);
    machine.backup();
    std::fs::rename(machine.kit(), machine.root().join("kit-elsewhere")).unwrap();
    for (path, bytes) in machine.all_files() {
        if path.starts_with(machine.world.home.clone()) {
            assert!(!contains(&bytes, b"AGE-SECRET-KEY-1"), "{}", path.display());
        }
    }
    let args = restore::Args { target: Some(machine.target("t")), ..restore::Args::default() };
    let error = restore::run(&machine.world, &args, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity);
    assert_eq!(error.to_string(), "no identity at hand opens the state archive");
}

#[test]
fn a_name_belongs_to_one_key() {
    let machine = machine();
    machine.init(&["agent"]);
    let store = machine.store().to_str().unwrap().to_owned();
    let other = Machine::new();
    other.write("agent/x", "x");
    let source = vec![other.home("agent")];
    let error = init(&other, |a| (a.store, a.sources) = (Some(store.clone()), source.clone())).unwrap_err();
    assert_eq!(error.to_string(), "the series testhost is taken on this store by another key");
    assert!(!other.kit().exists() && !other.world.config_file().exists());
    init(&other, |a| (a.store, a.sources, a.name) = (Some(store), source, Some("second".into()))).unwrap();
}

#[test]
fn a_new_machine_goes_on_with_the_series() {
    let machine = machine();
    machine.init(&["agent"]);
    machine.backup();
    let mut second = Machine::new();
    second.world.fixed_now = second.world.fixed_now.map(|n| n + 60);
    second.write("agent/notes.md", "newer");
    second.write("agent/.env", "KEY=newer");
    let (kit, source) = (machine.kit(), vec![second.home("agent")]);
    let done = init(&second, |a| (a.kit, a.sources) = (Some(kit.clone()), source.clone())).unwrap();
    assert_eq!((done.what, done.series.as_str()), ("continued", "testhost"));
    let error = init(&Machine::new(), |a| (a.kit, a.name) = (Some(kit.clone()), Some("x".into()))).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    second.backup();

    let listing = machine.list();
    assert!(listing.hidden.is_empty(), "{:?}", listing.hidden);
    assert!(listing.snapshots.iter().all(|s| s.status == "ok"));
    let seqs: Vec<u64> = listing.snapshots.iter().map(|s| s.seq.unwrap()).collect();
    assert_eq!(seqs.len(), 4);
    let newest = listing.snapshots.iter().filter(|s| s.archive == "state").max_by_key(|s| s.seq).unwrap();
    let commit = machine.store().join(format!("state/monthly/testhost/{}/commit", newest.id));
    let commit = std::fs::read_to_string(commit).unwrap();
    let first = listing.snapshots.iter().find(|s| s.archive == "state" && s.id != newest.id).unwrap();
    assert!(first.seq < newest.seq && commit.contains(&format!("# prev {} ", first.id)), "{commit}");

    machine.restore(&machine.target("t"));
    assert_eq!(std::fs::read(machine.target("t").join("home/agent/notes.md")).unwrap(), b"newer");
    let id = first.id.clone();
    machine.try_restore(&machine.target("old"), |a| (a.snapshot, a.no_secrets) = (id, true)).unwrap();
    assert_eq!(std::fs::read(machine.target("old").join("home/agent/notes.md")).unwrap(), b"remember this");
}

#[test]
fn the_signing_key_of_another_series_is_not_taken() {
    let (machine, other) = (machine(), Machine::new());
    machine.init(&["agent"]);
    other.write("agent/x", "x");
    other.init(&["agent"]);
    std::fs::remove_file(other.world.config_file()).unwrap();
    let (kit, source) = (machine.kit(), vec![other.home("agent")]);
    let error = init(&other, |a| (a.kit, a.sources) = (Some(kit), source)).unwrap_err();
    assert!(error.to_string().contains("is another signing key than the kit's"), "{error}");
    assert!(!other.world.config_file().exists());
}

#[test]
fn a_backup_without_anything_to_back_up_says_what_to_do() {
    let machine = Machine::new();
    let error = machine.try_backup().unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().starts_with("there is no agent here that lifeboat knows, and no path"), "{error}");
    assert!(error.advice().unwrap().contains("PATH"));
    assert!(machine.all_files().is_empty());
}

#[test]
fn a_backup_of_something_else_is_a_mistake() {
    let machine = machine();
    machine.init(&["agent"]);
    let run = |path: &str| {
        let args = backup::Args { paths: vec![machine.home(path)], ..backup::Args::default() };
        backup::run(&machine.world, &args, &mut |_| {})
    };
    let error = run("projects").unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.advice().unwrap().contains("lifeboat init --source"));
    assert_eq!(run("nowhere").unwrap_err().kind(), Kind::NotThere);
    assert!(run("agent").unwrap().state.is_some());
}

#[test]
fn a_store_that_is_not_there_is_not_made() {
    let machine = machine();
    machine.init(&["agent"]);
    machine.backup();
    machine.configure(|text| text.replace("file://", ""));
    std::fs::rename(machine.store(), machine.root().join("unmounted")).unwrap();
    assert_eq!(machine.try_backup().unwrap_err().kind(), Kind::NotThere);
    assert!(!machine.store().exists());
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|w| w == what)
}
