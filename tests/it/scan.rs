//! What stands in the sources and is no ordinary file, or does not hold still.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat::commands::bring_back::Overwrite;
use lifeboat::commands::{Event, backup};
use rusqlite::Connection;

use crate::world::Machine;

fn said(machine: &Machine) -> (backup::Done, Vec<String>) {
    let mut details = Vec::new();
    let done = backup::run(&machine.world, &backup::Args::default(), &mut |e| {
        if let Event::Detail(text) = e {
            details.push(text);
        }
    });
    (done.unwrap(), details)
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
}

#[test]
fn specials_are_reported_and_not_opened() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    let agent = machine.home("agent");
    fifo(&agent.join("pipe"));
    // Beside a name like that of a database's log a pipe is not looked into either.
    fifo(&agent.join("fake.db"));
    machine.write("agent/fake.db-wal", "a log without a database");
    let socket = std::os::unix::net::UnixListener::bind(agent.join("socket")).unwrap();
    let mut reasons = vec!["pipe: a named pipe", "fake.db: a named pipe", "socket: a socket"];
    let device = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::RUSR;
    let null = rustix::fs::FileType::CharacterDevice;
    if rustix::fs::mknodat(rustix::fs::CWD, agent.join("null"), null, mode, device).is_ok() {
        reasons.push("null: a device");
    }
    machine.init(&["agent"]);
    let (done, details) = said(&machine);
    assert!(done.unreadable.is_empty());
    assert_eq!(done.skipped as usize, reasons.len(), "{details:?}");
    for reason in reasons {
        let line = format!("left out home/agent/{reason} cannot be backed up");
        assert!(details.contains(&line), "{line} is not in {details:?}");
    }
    drop(socket);
    let target = machine.target("t");
    machine.restore(&target);
    let mut names: Vec<_> =
        std::fs::read_dir(target.join("home/agent")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["fake.db-wal", "notes.md"]);
}

#[test]
fn a_source_may_be_a_file_or_a_special() {
    let machine = Machine::new();
    machine.write("one.txt", "just a file");
    fifo(&machine.home("pipe"));
    machine.init(&["one.txt", "pipe"]);
    let (done, details) = said(&machine);
    assert_eq!((done.skipped, done.state.unwrap().files), (1, 1), "{details:?}");
    machine.restore(&machine.target("t"));
    assert_eq!(std::fs::read(machine.target("t").join("home/one.txt")).unwrap(), b"just a file");
}

#[test]
fn what_cannot_be_read_is_missing_and_said() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    machine.write("agent/closed.txt", "nobody reads this");
    machine.write("agent/dir/inside.txt", "nor this");
    machine.write("agent/closed.key", "nor that");
    // Two names of one file: neither may lead to nothing.
    std::fs::hard_link(machine.home("agent/closed.txt"), machine.home("agent/second-name.txt")).unwrap();
    let init = ["init", "--sealed", "--source", "home/agent"];
    assert!(machine.program_unprivileged(&init).output().unwrap().status.success());
    for path in ["agent/closed.txt", "agent/dir", "agent/closed.key"] {
        std::fs::set_permissions(machine.home(path), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let output = machine.program_unprivileged(&["backup", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines: Vec<&str> = report["unreadable"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines.iter().all(|l| l.contains("Permission denied")), "{lines:?}");
    assert!(lines.iter().any(|l| l.starts_with("a secret file: ")), "{lines:?}");

    let kit = machine.kit();
    let restore = ["restore", "--json", "--target", "t", "--identity", kit.to_str().unwrap()];
    let output = machine.program_unprivileged(&restore).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let missing = report["missing"].to_string();
    for path in ["closed.txt", "second-name.txt", "agent/dir", "closed.key"] {
        assert!(missing.contains(&format!("{path}: Permission denied")), "{missing}");
    }
    assert!(machine.target("t").join("home/agent/notes.md").exists());
    assert!(!machine.target("t").join("home/agent/dir").exists());
}

#[test]
fn an_absent_source_is_missing_and_named_by_its_own_path() {
    let machine = Machine::new();
    machine.write("first/notes.md", "x");
    machine.write("second/notes.md", "y");
    machine.init(&["first", "second"]);
    machine.backup();
    std::fs::remove_dir_all(machine.home("second")).unwrap();
    let done = machine.backup();
    let says = [format!("{}: the source is not there", machine.home("second").display())];
    assert_eq!(done.unreadable, says);
    // A dry run tells the same place.
    let dry = backup::Args { dry_run: true, ..backup::Args::default() };
    assert_eq!(backup::run(&machine.world, &dry, &mut |_| {}).unwrap().unreadable, says);
    let (done, _) = machine.try_restore(&machine.target("t"), |_| {}).unwrap();
    assert!(done.missing.is_empty());
    assert!(
        done.older[0].starts_with("home/second: the source is not there; it is restored as it was in "),
        "{done:?}"
    );
    assert_eq!(std::fs::read(machine.target("t").join("home/second/notes.md")).unwrap(), b"y");
    std::fs::remove_dir_all(machine.home("first")).unwrap();
    let error = machine.try_backup().unwrap_err();
    assert_eq!(error.kind(), lifeboat::Kind::NotThere);
    assert!(error.to_string().starts_with("no source is there: "), "{error}");
}

#[test]
fn files_that_change_are_stored_as_something_that_was_there() {
    let machine = Machine::new();
    // Each byte tells its place, in units that no frame and no buffer divides.
    let line = |n: usize| format!("{n:014}\n");
    let text: String = (0..700_000).map(line).collect();
    let grows = machine.write("agent/grows.log", &text);
    let shrinks = machine.write("agent/shrinks.log", &text);
    let replaced = machine.write("agent/replaced.log", &text);
    let comes_and_goes = machine.home("agent/comes-and-goes.tmp");
    machine.init(&["agent"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = std::fs::OpenOptions::new().append(true).open(&grows).unwrap();
            let mut n = 700_000;
            while !over.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut file, line(n).as_bytes()).unwrap();
                n += 1;
            }
        });
        scope.spawn(|| {
            let file = std::fs::OpenOptions::new().write(true).open(&shrinks).unwrap();
            let mut length = text.len() as u64;
            while !over.load(Ordering::Relaxed) {
                length = length.saturating_sub(15 * 4000).max(15);
                file.set_len(length).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let new = machine.home("agent/new.tmp");
                std::fs::write(&new, "a new file").unwrap();
                std::fs::rename(&new, &replaced).unwrap();
                std::fs::write(&comes_and_goes, "x").unwrap();
                drop(std::fs::remove_file(&comes_and_goes));
            }
        });
        for n in 0..4 {
            let done = machine.try_backup();
            let target = machine.target(&format!("t{n}"));
            let restored = done.as_ref().ok().map(|_| machine.try_restore(&target, |_| {}));
            if n == 3 || restored.as_ref().is_none_or(|r| r.is_err()) {
                over.store(true, Ordering::Relaxed);
            }
            let (done, _) = (done.unwrap(), restored.unwrap().unwrap());
            for name in ["grows.log", "shrinks.log"] {
                match std::fs::read_to_string(target.join("home/agent").join(name)) {
                    Ok(stored) => {
                        let wanted: String = (0..stored.len() / 15 + 1).map(line).collect();
                        assert!(wanted.starts_with(&stored), "{name} is no prefix of what was there");
                    }
                    Err(_) => assert!(done.unreadable.iter().any(|l| l.contains(name)), "{name} is gone: {done:?}"),
                }
            }
            let stored = std::fs::read_to_string(target.join("home/agent/replaced.log")).unwrap();
            assert!(stored == text || stored == "a new file");
        }
    });
}

#[test]
fn excluded_is_excluded_and_listed() {
    let machine = Machine::new();
    for path in ["p/src/a.rs", "p/node_modules/x/index.js", "p/sub/node_modules/y.js", "p/a.log", "p/sub/b.log"] {
        machine.write(path, "x");
    }
    machine.init(&["p"]);
    machine.configure(|t| t.replace("[[source]]", "[[source]]\nexclude = [\"node_modules/\", \"/a.log\"]"));
    let (done, details) = said(&machine);
    assert_eq!(done.skipped, 3);
    assert!(details.iter().any(|d| d.starts_with("left out home/p/a.log: exclude = \"/a.log\"")), "{details:?}");
    let target = machine.target("t");
    machine.restore(&target);
    let there = |p: &str| target.join("home/p").join(p).exists();
    assert!(there("src/a.rs") && there("sub/b.log"));
    assert!(!there("node_modules") && !there("sub/node_modules") && !there("a.log"));
}

#[test]
fn nested_sources_have_rules_of_their_own() {
    let machine = Machine::new();
    machine.write("projects/a.txt", "outer");
    machine.write("projects/x/b.txt", "inner");
    machine.write("projects/x/y/c.txt", "innermost");
    machine.write("projects/only/x", "a file as a source");
    machine.init(&["projects", "projects/x", "projects/x/y", "projects/only/x"]);
    let done = machine.backup();
    assert_eq!(done.state.unwrap().files, 4);
    let target = machine.target("t");
    machine.restore(&target);
    for (path, content) in
        [("a.txt", "outer"), ("x/b.txt", "inner"), ("x/y/c.txt", "innermost"), ("only/x", "a file as a source")]
    {
        assert_eq!(std::fs::read_to_string(target.join("home/projects").join(path)).unwrap(), content);
    }
    assert_eq!(machine.restore(&target).restored, 0);
}

#[test]
fn a_root_that_is_a_link_is_both() {
    let machine = Machine::new();
    machine.write("data/agent/notes.md", "x");
    symlink("data/agent", machine.home("agent")).unwrap();
    std::fs::create_dir(machine.home("also")).unwrap();
    symlink(machine.home("data"), machine.home("also/data")).unwrap();
    machine.init(&["data"]);
    machine.configure(|t| format!("{t}\n[[source]]\npath = \"~/agent\"\n[[source]]\npath = \"~/also/data/agent\"\n"));
    machine.backup();
    let target = machine.target("t");
    machine.restore(&target);
    assert_eq!(std::fs::read_link(target.join("home/agent")).unwrap(), Path::new("data/agent"));
    assert_eq!(std::fs::read(target.join("home/agent/notes.md")).unwrap(), b"x");
}

#[test]
fn what_only_looks_like_a_database_is_stored_as_it_is() {
    let machine = Machine::new();
    machine.write("agent/text.db", "no database");
    machine.write("agent/empty.db", "");
    let garbage = [b"SQLite format 3\0".as_slice(), &[0xa5; 3000]].concat();
    machine.write("agent/garbage.db", &garbage);
    machine.write("agent/garbage.db-wal", "its log");
    machine.write("agent/short.db", b"SQLite format 3\0");
    machine.write("agent/short.db-journal", "its journal");
    machine.init(&["agent"]);
    let done = machine.backup();
    assert_eq!(done.unreadable.len(), 2, "{:?}", done.unreadable);
    assert!(done.unreadable.iter().all(|l| l.contains("it cannot be opened as a database, and is stored as it is")));
    let target = machine.target("t");
    machine.restore(&target);
    for name in ["text.db", "empty.db", "garbage.db", "garbage.db-wal", "short.db", "short.db-journal"] {
        let (then, now) = (machine.home("agent").join(name), target.join("home/agent").join(name));
        assert_eq!(std::fs::read(then).unwrap(), std::fs::read(now).unwrap(), "{name}");
    }
}

fn database(path: &Path, rows: i64) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch("pragma journal_mode=wal; pragma wal_autocheckpoint=0; create table t(x)").unwrap();
    for n in 0..rows {
        db.execute("insert into t values (?)", [n]).unwrap();
    }
    db
}

fn rows(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    let check: String = db.query_row("pragma integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok");
    db.query_row("select count(*) from t", [], |r| r.get(0)).unwrap()
}

#[test]
fn a_live_database_comes_back_whole_and_over_stale_sidecars() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    let live = database(&machine.home("agent/state.db"), 100);
    machine.init(&["agent"]);
    let done = machine.backup();
    assert!(done.unreadable.is_empty(), "{:?}", done.unreadable);
    let target = machine.target("t");
    machine.restore(&target);
    let restored = target.join("home/agent/state.db");
    assert!(!target.join("home/agent/state.db-wal").exists());
    let content = std::fs::read(&restored).unwrap();
    assert_eq!(rows(&restored), 100);

    // A log that would be replayed into what is restored over it.
    let stale = database(&target.join("home/agent/other.db"), 7);
    for suffix in ["-wal", "-shm"] {
        let from = target.join(format!("home/agent/other.db{suffix}"));
        std::fs::copy(from, target.join(format!("home/agent/state.db{suffix}"))).unwrap();
    }
    drop(stale);
    let error = machine.try_restore(&target, |_| {}).unwrap_err();
    assert!(error.to_string().contains("state.db"), "a database with a log is not the one that was stored: {error}");
    assert!(target.join("home/agent/state.db-wal").exists());
    machine.try_restore(&target, |a| a.overwrite = Overwrite::Always).unwrap();
    assert_eq!(std::fs::read(&restored).unwrap(), content);
    assert!(!target.join("home/agent/state.db-wal").exists() && !target.join("home/agent/state.db-shm").exists());
    assert_eq!(rows(&restored), 100);
    drop(live);
}

#[test]
fn a_database_in_use_is_not_replaced() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    drop(database(&machine.home("agent/state.db"), 5));
    machine.init(&["agent"]);
    machine.backup();
    let target = machine.target("t");
    machine.restore(&target);
    let file = target.join("home/agent/state.db");
    drop(database(&target.join("home/agent/x.db"), 1));
    std::fs::copy(target.join("home/agent/x.db"), &file).unwrap();
    std::fs::remove_file(target.join("home/agent/notes.md")).unwrap();
    let open = std::fs::File::open(&file).unwrap();
    let mut holder = std::process::Command::new("sleep").arg("60").stdin(open).spawn().unwrap();
    let result = machine.try_restore(&target, |a| a.overwrite = Overwrite::Always);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let error = result.unwrap_err();
    assert!(error.to_string().contains(&format!("is in use by sleep (process {})", holder.id())), "{error}");
    assert!(!target.join("home/agent/notes.md").exists(), "nothing was changed");
    machine.try_restore(&target, |a| a.overwrite = Overwrite::Always).unwrap();
    assert_eq!(rows(&file), 5);
}

#[test]
fn a_database_deeper_than_a_path_may_be_is_kept() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    drop(database(&machine.home("agent/deep.db"), 3));
    let deep = crate::world::deep_dir(&machine.home("agent"), 5000);
    rustix::fs::renameat(rustix::fs::CWD, machine.home("agent/deep.db"), &deep, "deep.db").unwrap();
    machine.init(&["agent"]);
    let done = machine.try_backup();
    drop(deep);
    let done = done.unwrap();
    assert_eq!(done.state.unwrap().files, 2, "{:?}", done.unreadable);
    // SQLite cannot reach it, so that it is not known to be consistent.
    assert!(done.unreadable.len() == 1 && done.unreadable[0].contains("File name too long"), "{:?}", done.unreadable);
    machine.restore(&machine.target("t"));
}

#[test]
fn other_file_systems_are_not_entered() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    machine.write("agent/mount/below.txt", "x");
    machine.init(&["agent"]);
    let script = format!(
        "mount -t tmpfs none {0}/agent/mount && echo hidden > {0}/agent/mount/inside && exec {1} backup -v",
        machine.world.home.display(),
        env!("CARGO_BIN_EXE_lifeboat")
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).env("HOME", &machine.world.home);
    let Ok(output) = command.output() else { return };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if text.contains("unshare") || text.contains("mount:") {
        // Not permitted here.
        return;
    }
    assert!(output.status.success(), "{text}");
    assert!(text.contains("left out home/agent/mount: another file system is mounted here"), "{text}");
    let target = machine.target("t");
    machine.restore(&target);
    assert!(target.join("home/agent/mount").is_dir() && !target.join("home/agent/mount/inside").exists());
}

#[test]
fn reading_leaves_no_trace() {
    let machine = Machine::new();
    let file = machine.write("agent/notes.md", "x");
    machine.write("agent/dir/y", "y");
    drop(database(&machine.home("agent/state.db"), 5));
    machine.init(&["agent"]);
    let all = || {
        let mut out = Vec::new();
        for path in [file.clone(), machine.home("agent"), machine.home("agent/state.db"), machine.home("agent/dir")] {
            let m = path.metadata().unwrap();
            out.push((m.ctime(), m.ctime_nsec(), m.mtime(), m.mtime_nsec()));
        }
        (out, file.metadata().unwrap().accessed().unwrap(), std::fs::read_dir(machine.home("agent")).unwrap().count())
    };
    let before = all();
    machine.backup();
    assert_eq!(all(), before);
}
