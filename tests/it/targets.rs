//! What happens at the target while a restore runs, and what stands there in its way.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use lifeboat::commands::bring_back::Overwrite;
use lifeboat::commands::{Event, restore};
use lifeboat::{Error, Kind};

use crate::forge::{said, snapshot};
use crate::world::Machine;

fn attempt(
    machine: &Machine,
    change: impl FnOnce(&mut restore::Args),
    events: &mut dyn FnMut(Event),
) -> Result<restore::Done, Error> {
    let mut args = restore::Args { identity: Some(machine.kit()), ..restore::Args::default() };
    change(&mut args);
    restore::run(&machine.world, &args, &mut |event| events(event))
}

/// What takes a while to come back, so that something can happen meanwhile.
fn write_noise(machine: &Machine) -> std::path::PathBuf {
    let mut seed = 7_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_be_bytes()
    };
    machine.write("agent/noise", (0..3 << 20).flat_map(|_| next()).collect::<Vec<u8>>())
}

/// An agent that is started while its home comes back makes a database, and what is in its log is nowhere else.
#[test]
fn a_database_that_appears_meanwhile_keeps_its_log() {
    for overwrite in [Overwrite::Refuse, Overwrite::Never] {
        let machine = Machine::new();
        machine.write("agent/notes.md", "notes");
        let database = machine.home("agent/state.db");
        let fill = |rows: &str| {
            let db = rusqlite::Connection::open(&database).unwrap();
            db.execute_batch(&format!("pragma journal_mode=wal; create table t(x); insert into t values {rows}"))
                .unwrap();
            db
        };
        drop(fill("('old')"));
        let noise = write_noise(&machine);
        machine.init(&["agent"]);
        machine.backup();
        std::fs::remove_file(&database).unwrap();
        std::fs::remove_file(machine.home("agent/notes.md")).unwrap();
        std::fs::remove_file(noise).unwrap();
        let mut live = None;
        let error = attempt(&machine, |a| a.overwrite = overwrite, &mut |event| {
            if matches!(event, Event::Progress { files_total: 1.., .. }) && live.is_none() {
                live = Some(fill("('new')"));
            }
        });
        let error = error.unwrap_err();
        assert!(error.to_string().contains("state.db appeared while it was restored"), "{}", said(&error));
        assert!(machine.home("agent/state.db-wal").metadata().unwrap().len() > 0);
        let kept: String = live.unwrap().query_row("select x from t", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, "new");
        assert!(!machine.home("agent/notes.md").exists(), "nothing is put in place then");
    }
}

/// The same where it is there and may be replaced, but is in use by the time that all has been read.
#[test]
fn a_database_that_is_opened_meanwhile_is_left_alone() {
    let machine = Machine::new();
    let database = machine.write("agent/state.db", "");
    let db = rusqlite::Connection::open(&database).unwrap();
    db.execute_batch("pragma journal_mode=wal; create table t(x)").unwrap();
    drop(db);
    let noise = write_noise(&machine);
    machine.init(&["agent"]);
    machine.backup();
    std::fs::remove_file(noise).unwrap();
    let db = rusqlite::Connection::open(&database).unwrap();
    db.execute_batch("insert into t values ('later')").unwrap();
    drop(db);
    let before = std::fs::read(&database).unwrap();
    let mut child = None;
    let error = attempt(&machine, |a| a.overwrite = Overwrite::IfChanged, &mut |event| {
        if matches!(event, Event::Progress { files_total: 1.., .. }) && child.is_none() {
            let file = std::fs::File::open(&database).unwrap();
            child = Some(Command::new("sleep").arg("600").stdin(Stdio::from(file)).spawn().unwrap());
        }
    });
    let mut child = child.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let error = error.unwrap_err();
    assert!(error.to_string().contains("state.db is in use by sleep"), "{}", said(&error));
    assert_eq!(std::fs::read(&database).unwrap(), before);
}

/// Where the home is a source as a whole, a link in its place leads out of the target, and is somebody's own.
#[test]
fn a_link_in_place_of_the_home_is_named() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "notes");
    machine.init(&[""]);
    machine.backup();
    let (target, outside) = (machine.target("target"), machine.target("outside"));
    std::fs::create_dir(&target).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("mine"), "mine").unwrap();
    symlink(&outside, target.join("home")).unwrap();
    let before = snapshot(&outside);
    for overwrite in [Overwrite::Refuse, Overwrite::IfChanged, Overwrite::Always] {
        let error = machine.try_restore(&target, |a| a.overwrite = overwrite).unwrap_err();
        let home = target.join("home").display().to_string();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(said(&error).contains(&home) && said(&error).contains("nothing was changed"), "{}", said(&error));
        assert!(overwrite == Overwrite::Refuse || said(&error).contains("is a symbolic link"), "{}", said(&error));
        assert!(error.advice().unwrap().contains("--target"), "{}", said(&error));
        assert_eq!((snapshot(&outside), target.join("home").is_symlink()), (before.clone(), true));
    }
    // As it stays, whoever leaves what differs has nothing to do.
    machine.try_restore(&target, |a| a.overwrite = Overwrite::Never).unwrap();
    assert_eq!(snapshot(&outside), before);
}

/// What is above a source may have been moved to another disk, with a link in its place.
#[test]
fn a_source_comes_back_through_a_link_to_another_disk() {
    let machine = Machine::new();
    machine.write("work/agent/notes.md", "words");
    machine.write("work/agent/.env", "API_KEY=fake-0000");
    machine.init(&["work/agent"]);
    machine.backup();
    let script = r#"rm -r "$HOME/work"; mkdir disk; mount -t tmpfs none disk || exit 99
        ln -s "$PWD/disk" "$HOME/work"
        "$LIFEBOAT" restore --identity "$KIT" && cat disk/agent/notes.md && [ -e "$HOME/work/agent/.env" ] && ls -A disk
        rm disk/agent/notes.md; "$LIFEBOAT" restore --identity "$KIT" && cat "$HOME/work/agent/notes.md" && ls -A "$HOME/work""#;
    let Some((code, text)) = mounted(&machine, script) else { return };
    assert!(code == 0 && text.matches("wordsagent\n").count() == 2, "{code} {text}");
}

/// What the rules of that day left out was not "not there", though the rules of today would store it.
#[test]
fn what_was_left_out_then_is_not_removed_now() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "notes");
    machine.write("agent/models/weights.bin", "many bytes that nobody wants twice");
    machine.write("agent/run.log", "a line");
    machine.init(&["agent"]);
    machine.configure(|text| text.replacen("[[source]]\n", "[[source]]\nexclude = [\"models\", \"*.log\"]\n", 1));
    machine.backup();
    machine.configure(|text| text.replacen("exclude = [\"models\", \"*.log\"]\n", "", 1));
    machine.write("agent/new.md", "new");
    machine.write("agent/models/later.bin", "more of it");
    let done = attempt(&machine, |a| (a.delete, a.yes) = (true, true), &mut |_| {}).unwrap();
    assert_eq!(done.removed, 1);
    for path in ["agent/models/weights.bin", "agent/models/later.bin", "agent/run.log", "agent/notes.md"] {
        assert!(machine.home(path).exists(), "{path}");
    }
    assert!(!machine.home("agent/new.md").exists());
}

/// Runs a shell script in a mount namespace of its own, `$LIFEBOAT` being the program; `None` where that is not permitted.
fn mounted(machine: &Machine, script: &str) -> Option<(i32, String)> {
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", &machine.world.home)
        .env("LIFEBOAT", env!("CARGO_BIN_EXE_lifeboat"))
        .env("KIT", machine.kit())
        .current_dir(machine.root())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    match out.status.code() {
        Some(99) | None => None,
        Some(1) if text.contains("unshare") => None,
        Some(code) => Some((code, text)),
    }
}

/// Half of a restore would be in place by the time that a rename does not work.
#[test]
fn a_mount_inside_a_source_is_seen_before_anything_moves() {
    let machine = Machine::new();
    for path in ["agent/a.md", "agent/data/inside.md", "agent/z.md", "whole/deep/x.md"] {
        machine.write(path, "words");
    }
    machine.init(&["agent", "whole"]);
    machine.backup();
    for path in ["agent/a.md", "agent/data/inside.md", "agent/z.md"] {
        std::fs::remove_file(machine.home(path)).unwrap();
    }
    let script = r#"mount -t tmpfs none "$HOME/agent/data" || exit 99
        "$LIFEBOAT" restore --identity "$KIT"
        echo "status $?"
        [ ! -e "$HOME/agent/a.md" ] && [ ! -e "$HOME/agent/z.md" ] && [ -z "$(ls -A "$HOME/agent/data")" ] && echo untouched
        ls -A "$HOME/agent"
        # Nor can anything be moved to another mount of the same file system, as containers have them.
        umount "$HOME/agent/data"; mkdir elsewhere; mount --bind elsewhere "$HOME/agent/data" || exit 99
        "$LIFEBOAT" restore --identity "$KIT"
        [ ! -e "$HOME/agent/a.md" ] && [ ! -e "$HOME/agent/z.md" ] && echo "bound, and untouched"
        # A source that is a mount as a whole is none of that, and neither is one in which nothing is to be done.
        rm -r "$HOME/whole/deep"; mount -t tmpfs none "$HOME/whole"
        "$LIFEBOAT" restore --identity "$KIT" --path '~/whole' && cat "$HOME/whole/deep/x.md""#;
    let Some((code, text)) = mounted(&machine, script) else { return };
    assert_eq!(text.matches("agent/data is another mount").count(), 2, "{text}");
    assert!(text.contains("bound, and untouched"), "{text}");
    assert!(text.contains("status 1\nuntouched\ndata\n"), "{text}");
    assert!(code == 0 && text.contains("words"), "{text}");
    machine.restore(&machine.target("target"));
}

/// Where case is ignored, a directory lists one name of a file that the snapshot may have under another one: whatever is
/// the same file as something of the snapshot is not too much. A rule that hides the one name is the same anywhere.
#[test]
fn what_the_snapshot_has_under_another_name_is_not_removed() {
    let machine = Machine::new();
    machine.write("agent/Notes.md", "notes");
    machine.write("agent/Skills/One.md", "a skill");
    machine.init(&["agent"]);
    machine.backup();
    machine.configure(|text| text.replacen("[[source]]\n", "[[source]]\nexclude = [\"Notes.md\", \"Skills\"]\n", 1));
    std::fs::create_dir(machine.home("agent/skills")).unwrap();
    for (name, other) in [("Notes.md", "notes.md"), ("Skills/One.md", "skills/one.md")] {
        std::fs::hard_link(machine.home("agent").join(name), machine.home("agent").join(other)).unwrap();
    }
    machine.write("agent/skills/new.md", "new");
    let mut told = Vec::new();
    let done = attempt(&machine, |a| (a.delete, a.yes) = (true, true), &mut |event| told.push(format!("{event:?}")));
    assert_eq!(done.unwrap().removed, 1);
    for path in ["agent/notes.md", "agent/skills/one.md", "agent/Notes.md", "agent/Skills/One.md"] {
        assert!(machine.home(path).exists(), "{path}");
    }
    assert!(!machine.home("agent/skills/new.md").exists());
    let said = told.iter().filter(|line| line.contains("the snapshot has it under another name")).count();
    assert_eq!(said, 2, "{told:?}");
}
