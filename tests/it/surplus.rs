//! `restore --delete`: what a backup would store and the snapshot does not have goes, last of all, and nothing else.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use lifeboat::commands::bring_back::Overwrite;
use lifeboat::commands::{Event, Report as _, restore};
use lifeboat::{Error, Kind as ErrorKind};

use crate::forge::snapshot;
use crate::world::Machine;

/// A home that is a source as a whole, with lifeboat's own files in it, and another source inside.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "notes");
    machine.write("agent/skills/a/SKILL.md", "a skill");
    machine.write("agent/.env", "API_KEY=fake-value-of-a-key");
    std::fs::set_permissions(machine.home("agent/.env"), std::fs::Permissions::from_mode(0o600)).unwrap();
    machine.write("inner/own.md", "of another source");
    machine.init(&["", "inner"]);
    machine.configure(|text| text.replacen("[[source]]\n", "[[source]]\nexclude = [\"*.log\", \"cache/\"]\n", 1));
    machine.backup();
    machine
}

fn attempt(
    machine: &Machine,
    change: impl FnOnce(&mut restore::Args),
    events: &mut dyn FnMut(Event),
) -> Result<restore::Done, Error> {
    let identity = Some(machine.kit());
    let overwrite = Overwrite::IfChanged;
    let mut args = restore::Args { identity, delete: true, yes: true, overwrite, ..restore::Args::default() };
    change(&mut args);
    restore::run(&machine.world, &args, &mut |event| events(event))
}

fn delete(machine: &Machine, change: impl FnOnce(&mut restore::Args)) -> restore::Done {
    attempt(machine, change, &mut |_| {}).unwrap()
}

fn said(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = snapshot(dir);
    // A run opens its catalog and takes its lock; what is in there is checked by other tests.
    out.retain(|path, _| !path.starts_with(".local/state"));
    out
}

fn assert_same(now: &BTreeMap<PathBuf, String>, before: &BTreeMap<PathBuf, String>) {
    let differs = |path: &&PathBuf| now.get(*path) != before.get(*path);
    let paths: Vec<&PathBuf> = now.keys().chain(before.keys()).filter(differs).collect();
    assert!(paths.is_empty(), "{paths:?}");
}

/// What a backup would store; all of it is too much.
fn add(machine: &Machine) -> Vec<&'static str> {
    machine.write("agent/new.md", "new");
    machine.write("agent/skills/b/deep/SKILL.md", "new");
    machine.write("agent/skills/b/token.pem", "new and secret by its name");
    machine.write("other.txt", "new");
    std::fs::hard_link(machine.home("other.txt"), machine.home("agent/other.txt")).unwrap();
    symlink(machine.root(), machine.home("agent/out")).unwrap();
    std::fs::create_dir(machine.home("agent/empty")).unwrap();
    vec![
        "agent/empty",
        "agent/new.md",
        "agent/other.txt",
        "agent/out",
        "agent/skills/b",
        "agent/skills/b/deep",
        "agent/skills/b/deep/SKILL.md",
        "agent/skills/b/token.pem",
        "other.txt",
    ]
}

#[test]
fn what_the_snapshot_does_not_have_goes_and_nothing_else() {
    let machine = machine();
    std::fs::write(machine.root().join("outside"), "stays").unwrap();
    let (before, time) = (said(&machine.home("")), machine.home("agent").metadata().unwrap());
    let extras = add(&machine);
    let e = attempt(&machine, |a| a.yes = false, &mut |_| {}).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    let done = delete(&machine, |a| (a.yes, a.dry_run) = (false, true));
    let names = |paths: &[String]| -> Vec<String> {
        let home = format!("{}/", machine.home("").to_str().unwrap().trim_end_matches('/'));
        paths.iter().map(|p| p.replace(&home, "")).collect()
    };
    assert_eq!(names(&done.surplus), extras);
    assert!(done.text().contains("would remove 9 entries\n") && done.text().contains("removes: "), "{}", done.text());
    extras.iter().for_each(|path| assert!(machine.home(path).symlink_metadata().is_ok(), "{path}"));

    let done = delete(&machine, |_| {});
    assert_eq!((done.removed, done.restored, done.kept.len()), (9, 0, 0));
    assert!(done.text().contains("9 entries removed that the snapshot does not have"), "{}", done.text());
    // The times of directories are as they were, too.
    assert_same(&said(&machine.home("")), &before);
    let now = machine.home("agent").metadata().unwrap();
    assert_eq!((now.mtime(), now.mtime_nsec()), (time.mtime(), time.mtime_nsec()));
    assert_eq!(std::fs::read(machine.root().join("outside")).unwrap(), b"stays");
    assert_eq!(delete(&machine, |_| {}).removed, 0);
}

#[test]
fn what_a_backup_would_not_store_stays() {
    let machine = machine();
    for path in ["agent/run.log", "agent/cache/x", "agent/new/kept.log", "agent/skills/a/cache/y", "inner/new.md"] {
        machine.write(path, "mine");
    }
    machine.write("agent/new/goes.md", "goes");
    // No backup holds a kit, wherever a copy of it lies.
    std::fs::create_dir_all(machine.home("agent/keys/deep")).unwrap();
    std::fs::copy(machine.kit(), machine.home("agent/keys/deep/copy")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(machine.home("agent/skills/socket")).unwrap();
    machine.configure(|text| text + "\n[[source]]\npath = \"~/later\"\n");
    machine.write("later/x", "a source that the snapshot knew nothing of");
    let done = delete(&machine, |a| a.paths = vec!["~/agent".to_owned(), "~/later".to_owned()]);
    assert_eq!((done.removed, done.kept.len()), (1, 0));
    assert!(!machine.home("agent/new/goes.md").exists());
    assert!(machine.home("agent/keys/deep/copy").exists());
    for path in ["agent/run.log", "agent/cache/x", "agent/new/kept.log", "agent/skills/a/cache/y", "inner/new.md"] {
        assert!(machine.home(path).exists(), "{path}");
    }
    assert!(machine.home("agent/skills/socket").exists() && machine.home("later/x").exists());
    assert!(machine.store().exists() && machine.kit().exists() && machine.world.config_file().exists());
    // The other source was one of the snapshot's, and goes by its own rules.
    assert_eq!(delete(&machine, |_| {}).removed, 1);
    assert!(!machine.home("inner/new.md").exists());
}

#[test]
fn with_a_path_only_below_it() {
    let machine = machine();
    add(&machine);
    let done = delete(&machine, |a| a.paths = vec!["~/agent/skills".to_owned()]);
    assert_eq!(done.removed, 4);
    assert!(!machine.home("agent/skills/b").exists());
    for path in ["agent/new.md", "agent/out", "agent/empty", "other.txt"] {
        assert!(machine.home(path).symlink_metadata().is_ok(), "{path}");
    }
    // A glob that the snapshot has nothing for removes nothing.
    let e = attempt(&machine, |a| a.paths = vec!["new.md".to_owned()], &mut |_| {}).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotThere);
    assert!(machine.home("agent/new.md").exists());
}

#[test]
fn what_could_not_be_read_was_not_absent() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "notes");
    machine.init(&["agent"]);
    machine.backup();
    std::fs::remove_dir_all(machine.home("agent")).unwrap();
    std::fs::create_dir(machine.home("agent")).unwrap();
    assert_eq!(machine.try_backup().unwrap().unreadable.len(), 1);
    machine.write("agent/new.md", "came with the disk that was mounted again");
    let done = delete(&machine, |_| {});
    assert_eq!((done.removed, done.older.len()), (0, 1));
    assert!(machine.home("agent/new.md").exists() && machine.home("agent/notes.md").exists());
}

#[test]
fn secrets_whose_bundle_is_not_opened_stay() {
    let machine = machine();
    let key = "sk-ant-api03-".to_owned() + &"Zk3pQ9xLm7Vt2Rb8".repeat(5) + "Zk3pQ9xLm7VtAA";
    machine.write("agent/by-content.txt", format!("key = {key}\n"));
    machine.write("agent/token.pem", "secret by its name");
    machine.write("agent/new.md", "new");
    let done = delete(&machine, |a| a.no_secrets = true);
    assert_eq!(done.removed, 1);
    assert!(machine.home("agent/by-content.txt").exists() && machine.home("agent/token.pem").exists());
    // Under other rules nobody can tell what the bundle has.
    machine.configure(|text| text.replace("\"cache/\"", "\"cache2/\""));
    let e = attempt(&machine, |a| a.no_secrets = true, &mut |_| {}).unwrap_err();
    assert!(e.to_string().contains("the configuration is not the one of the snapshot"), "{e}");
    let done = delete(&machine, |a| a.secrets_only = true);
    assert_eq!(done.removed, 1);
    assert!(!machine.home("agent/token.pem").exists());
    assert_eq!(delete(&machine, |_| {}).removed, 1);
    assert!(!machine.home("agent/by-content.txt").exists());
}

#[test]
fn databases_go_whole_and_not_from_under_a_process() {
    let machine = machine();
    let database = machine.home("agent/new.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("pragma journal_mode=wal; create table t(x); insert into t values(1)").unwrap();
    // Kept open by a program of its own, which has a name and a number.
    let file = std::fs::File::open(&database).unwrap();
    let mut child = Command::new("sleep").arg("600").stdin(Stdio::from(file)).spawn().unwrap();
    let e = attempt(&machine, |_| {}, &mut |_| {}).unwrap_err();
    let text = e.to_string();
    assert!(text.contains("new.db is in use by sleep (process ") && text.contains(&child.id().to_string()), "{text}");
    assert!(database.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(machine.home("agent/new.db-wal").exists());
    assert_eq!(delete(&machine, |_| {}).removed, 1);
    for name in ["agent/new.db", "agent/new.db-wal", "agent/new.db-shm"] {
        assert!(!machine.home(name).exists(), "{name}");
    }
    drop(connection);
}

/// Stopped before each removal in turn, and run again.
#[test]
fn stopped_at_each_step() {
    let machine = machine();
    let before = said(&machine.home(""));
    let extras = add(&machine).len();
    for step in 0..extras {
        add_again(&machine);
        std::fs::remove_file(machine.home("agent/notes.md")).unwrap();
        let mut removed = 0;
        let stop = machine.world.stop.clone();
        let result = attempt(&machine, |_| {}, &mut |event| {
            let gone = matches!(&event, Event::Detail(text) if text.starts_with("removed "));
            // All is in place before anything goes.
            assert!(!gone || machine.home("agent/notes.md").exists());
            removed += usize::from(gone);
            let over = if step == 0 { event == Event::Phase("restoring") } else { removed == step };
            stop.store(over || stop.load(Ordering::Relaxed), Ordering::Relaxed);
        });
        assert_eq!((result.unwrap_err().kind(), removed), (ErrorKind::Interrupted, step));
        machine.world.stop.store(false, Ordering::Relaxed);
        let done = delete(&machine, |_| {});
        assert_eq!(usize::try_from(done.removed).unwrap() + step, extras);
        assert_same(&said(&machine.home("")), &before);
    }
}

/// [`add`] on a home that may have some of it.
fn add_again(machine: &Machine) {
    drop(std::fs::remove_dir_all(machine.home("agent/skills/b")));
    drop(std::fs::remove_dir(machine.home("agent/empty")));
    for path in ["agent/new.md", "agent/other.txt", "agent/out", "other.txt"] {
        drop(std::fs::remove_file(machine.home(path)));
    }
    add(machine);
}

/// What somebody writes between the look and the removal is not lost.
#[test]
fn what_changes_meanwhile_stays() {
    let machine = machine();
    machine.write("agent/new.md", "new");
    machine.write("agent/old.md", "new");
    std::fs::create_dir(machine.home("agent/dir")).unwrap();
    std::fs::remove_file(machine.home("agent/notes.md")).unwrap();
    let mut changed = false;
    let result = attempt(&machine, |_| {}, &mut |event| {
        if matches!(event, Event::Progress { files_total: 1.., .. }) && !changed {
            changed = true;
            machine.write("agent/new.md", "worth keeping");
            machine.write("agent/dir/x", "worth keeping");
        }
    });
    let done = result.unwrap();
    assert!(changed);
    assert_eq!((done.removed, done.kept.len()), (1, 2), "{:?}", done.kept);
    assert_eq!(done.verdict(), Some(ErrorKind::Incomplete));
    assert!(done.problems()[0].ends_with("agent/new.md: it changed meanwhile"), "{:?}", done.problems());
    assert!(machine.home("agent/dir/x").exists() && !machine.home("agent/old.md").exists());
}

#[test]
fn below_a_target_through_no_link() {
    let machine = machine();
    let target = machine.target("target");
    let at = |a: &mut restore::Args| a.target = Some(target.clone());
    assert_eq!(delete(&machine, at).removed, 0);
    let before = snapshot(&target);
    std::fs::write(target.join("home/agent/new.md"), "new").unwrap();
    std::fs::write(target.join("home/agent/new.log"), "left out").unwrap();
    std::fs::write(target.join("beside"), "in no source").unwrap();
    assert_eq!(delete(&machine, at).removed, 1);
    assert!(target.join("home/agent/new.log").exists() && target.join("beside").exists());
    std::fs::remove_file(target.join("home/agent/new.log")).unwrap();
    std::fs::remove_file(target.join("beside")).unwrap();
    assert_eq!(delete(&machine, at).removed, 0);
    assert_eq!(snapshot(&target), before);

    // Whatever a link leads to is somebody else's.
    let elsewhere = machine.root().join("elsewhere");
    std::fs::rename(target.join("home/agent"), &elsewhere).unwrap();
    std::fs::write(elsewhere.join("new.md"), "new").unwrap();
    symlink(&elsewhere, target.join("home/agent")).unwrap();
    let done = delete(&machine, |a| {
        at(a);
        a.overwrite = Overwrite::Always;
    });
    assert_eq!(done.removed, 0);
    assert!(elsewhere.join("new.md").exists());
    assert_eq!(snapshot(&target), before);
}

#[test]
fn without_rules_nothing_goes() {
    let machine = machine();
    machine.write("agent/new.md", "new");
    std::fs::remove_file(machine.world.config_file()).unwrap();
    let e = attempt(&machine, |_| {}, &mut |_| {}).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotThere);
    assert!(machine.home("agent/new.md").exists());
}
