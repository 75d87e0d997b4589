//! Restoring parts of snapshots, and onto what is there already.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use lifeboat::Error;
use lifeboat::Kind as ErrorKind;
use lifeboat::commands::bring_back::Overwrite;
use lifeboat::commands::{Report as _, restore};

use crate::forge::snapshot;
use crate::look::read_by;
use crate::roundtrip::{noise, set_mtime};
use crate::world::Machine;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("agent/skills/a/SKILL.md", "a skill");
    machine.write("agent/skills/b/SKILL.md", "another");
    machine.write("agent/notes.md", "notes");
    machine.write("agent/.env", "API_KEY=fake-value-of-a-key");
    std::fs::hard_link(machine.home("agent/notes.md"), machine.home("agent/skills/notes.md")).unwrap();
    std::fs::set_permissions(machine.home("agent/skills"), std::fs::Permissions::from_mode(0o750)).unwrap();
    machine.init(&["agent"]);
    machine.backup();
    machine
}

fn in_place(machine: &Machine, change: impl FnOnce(&mut restore::Args)) -> Result<restore::Done, Error> {
    let mut args = restore::Args { identity: Some(machine.kit()), ..restore::Args::default() };
    change(&mut args);
    restore::run(&machine.world, &args, &mut |_| {})
}

#[test]
fn only_what_matches() {
    let machine = machine();
    let part = |name: &str, globs: &[&str]| {
        let target = machine.target(name);
        machine.try_restore(&target, |a| a.paths = globs.iter().map(|g| (*g).to_owned()).collect()).unwrap();
        let left: Vec<String> = snapshot(&target).into_keys().map(|p| p.to_str().unwrap().to_owned()).collect();
        left
    };
    let up = ["home", "home/agent", "home/agent/skills"];
    let a = ["home/agent/skills/a", "home/agent/skills/a/SKILL.md"];
    assert_eq!(part("one", &["skills/a"]), [&up[..], &a[..]].concat());
    // What a directory on the way was, it is again.
    let mode = machine.target("one").join("home/agent/skills").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o750);
    assert_eq!(part("two", &["~/agent/.env", "SKILL.md"]).len(), 8);
    // A further name without its file is a file.
    let link = part("three", &["agent/skills/notes.md"]);
    assert_eq!(link, [&up[..], &["home/agent/skills/notes.md"]].concat());
    assert_eq!(std::fs::read(machine.target("three").join("home/agent/skills/notes.md")).unwrap(), b"notes");
    let e = machine.try_restore(&machine.target("four"), |a| a.paths = vec!["nothing".to_owned()]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotThere);
    assert!(!machine.target("four").exists());
}

/// What is not asked for may be whatever it is.
#[test]
fn a_part_in_place_touches_nothing_else() {
    let machine = machine();
    machine.write("agent/notes.md", "other notes");
    machine.write("agent/skills/mine.md", "mine");
    std::fs::remove_dir_all(machine.home("agent/skills/a")).unwrap();
    std::fs::set_permissions(machine.home("agent/skills"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let done = in_place(&machine, |a| a.paths = vec!["~/agent/skills/a".to_owned()]).unwrap();
    assert_eq!((done.restored, done.same), (2, 0));
    assert_eq!(std::fs::read(machine.home("agent/skills/a/SKILL.md")).unwrap(), b"a skill");
    assert_eq!(std::fs::read(machine.home("agent/notes.md")).unwrap(), b"other notes");
    assert_eq!(std::fs::read(machine.home("agent/skills/mine.md")).unwrap(), b"mine");
    assert_eq!(machine.home("agent/skills").metadata().unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn what_becomes_of_what_differs() {
    let machine = machine();
    let spoil = || {
        machine.write("agent/notes.md", "longer than before");
        let file = machine.home("agent/skills/b/SKILL.md");
        let meta = file.metadata().unwrap();
        std::fs::write(&file, "ANOTHER").unwrap();
        set_mtime(&file, meta.mtime(), meta.mtime_nsec());
        if machine.home("agent/skills/a").is_dir() {
            std::fs::remove_dir_all(machine.home("agent/skills/a")).unwrap();
        }
        std::fs::write(machine.home("agent/skills/a"), "no directory").unwrap();
    };
    let read = |path: &str| std::fs::read_to_string(machine.home(path)).unwrap_or_default();
    spoil();
    let e = in_place(&machine, |_| {}).unwrap_err();
    assert!(e.to_string().contains("notes.md") && e.to_string().contains("skills/a"), "{e}");
    // Only whoever reads it sees that a file with the right size and time is another one.
    assert!(!e.to_string().contains("b/SKILL.md"), "{e}");
    let e = in_place(&machine, |a| a.verify_existing = true).unwrap_err();
    assert!(e.to_string().contains("b/SKILL.md"), "{e}");

    std::fs::remove_file(machine.home("agent/.env")).unwrap();
    let done = in_place(&machine, |a| (a.overwrite, a.dry_run) = (Overwrite::Never, true)).unwrap();
    assert!(done.new.iter().any(|p| p.ends_with(".env")) && done.staying.iter().any(|p| p.ends_with("notes.md")));
    assert!(done.text().contains("differ and stay as they are"), "{}", done.text());
    assert!(!machine.home("agent/.env").exists());
    in_place(&machine, |a| a.overwrite = Overwrite::Never).unwrap();
    assert_eq!(read("agent/notes.md"), "longer than before");
    assert_eq!(read("agent/skills/a"), "no directory");
    assert_eq!(read("agent/.env"), "API_KEY=fake-value-of-a-key");

    in_place(&machine, |a| a.overwrite = Overwrite::IfChanged).unwrap();
    assert_eq!(read("agent/notes.md"), "notes");
    assert_eq!(read("agent/skills/a/SKILL.md"), "a skill");
    assert_eq!(read("agent/skills/b/SKILL.md"), "ANOTHER");

    spoil();
    in_place(&machine, |a| a.overwrite = Overwrite::Always).unwrap();
    assert_eq!(read("agent/skills/b/SKILL.md"), "another");
    let inode = |path: &str| machine.home(path).metadata().unwrap().ino();
    assert_eq!(inode("agent/notes.md"), inode("agent/skills/notes.md"));
}

/// What a person has to do before an agent starts, and whose home it is.
#[test]
fn agents_homes() {
    use lifeboat::commands::init;
    let mut machine = Machine::new();
    machine.write(".hermes/config.yaml", "model: x");
    machine.write(".hermes/SOUL.md", "kind");
    machine.write(".hermes/cron/jobs.json", "{\"jobs\":[]}");
    let args = init::Args { presets: vec!["hermes".to_owned()], sealed: true, ..init::Args::default() };
    init::run(&machine.world, &args, &mut |_| {}).unwrap();
    machine.backup();
    // What is there already starts nothing anew.
    assert_eq!(in_place(&machine, |_| {}).unwrap().after, Vec::<String>::new());
    let part = |glob: &str, target: &str| {
        let target = machine.target(target);
        machine.try_restore(&target, |a| a.paths = vec![glob.to_owned()]).unwrap().0.after
    };
    assert_eq!(part("SOUL.md", "one"), Vec::<String>::new());
    assert!(part("jobs.json", "two")[0].contains("cron jobs run as soon as the gateway does"));
    let all = machine.restore(&machine.target("three"));
    assert!(all.after[0].contains("stop the gateway on the old machine"), "{:?}", all.after);
    assert!(all.text().contains("before an agent starts:\n  Hermes Agent: stop the gateway"), "{}", all.text());

    std::fs::remove_dir_all(machine.home(".hermes")).unwrap();
    machine.world.env.insert("OPENCLAW_STATE_DIR".into(), machine.home(".hermes").into());
    let e = in_place(&machine, |_| {}).unwrap_err();
    assert!(e.to_string().contains("is the home of OpenClaw here, and of Hermes Agent in the snapshot"), "{e}");
    assert!(!machine.home(".hermes").exists());
    machine.restore(&machine.target("four"));
    machine.world.env.remove(std::ffi::OsStr::new("OPENCLAW_STATE_DIR"));
    in_place(&machine, |_| {}).unwrap();
    assert!(machine.home(".hermes/SOUL.md").exists());
}

/// What is there and matches is not read from the store again, and a part costs its frames alone.
#[test]
fn only_what_is_lacking_is_read() {
    let mut machine = Machine::new();
    for n in 0..40 {
        machine.write(&format!("agent/{n:02}.bin"), noise(700_000, n));
    }
    machine.init(&["agent"]);
    machine.backup();
    let part = machine.target("part");
    let (read, _) = read_by(&mut machine, |m| {
        m.try_restore(&part, |a| a.paths = vec!["17.bin".to_owned()]).unwrap();
    });
    assert!(read > 700_000 && read < 11 << 20, "{read}");
    assert!(std::fs::read(part.join("home/agent/17.bin")).unwrap() == noise(700_000, 17));
    let (read, _) = read_by(&mut machine, |m| {
        assert_eq!(in_place(m, |_| {}).unwrap().restored, 0);
    });
    assert_eq!(read, 0);
    std::fs::remove_file(machine.home("agent/23.bin")).unwrap();
    let (read, _) = read_by(&mut machine, |m| {
        assert_eq!(in_place(m, |_| {}).unwrap().restored, 1);
    });
    assert!(read > 700_000 && read < 11 << 20, "{read}");
    assert!(std::fs::read(machine.home("agent/23.bin")).unwrap() == noise(700_000, 23));
}

/// A tree is merged into one that is there with fewer descriptors than it has levels, and a directory as deep gives way.
#[test]
fn deeper_than_open_files() {
    let machine = Machine::new();
    let deep = |top: &str| format!("agent/{top}{}", "/d".repeat(300));
    machine.write(&format!("{}/file", deep("a")), "first");
    machine.write("agent/b", "a file");
    machine.init(&["agent"]);
    machine.backup();
    machine.write(&format!("{}/file", deep("a")), "second, and longer");
    std::fs::remove_file(machine.home("agent/b")).unwrap();
    machine.write(&format!("{}/file", deep("b")), "in the way");
    let script = "ulimit -n 120; exec \"$0\" restore --overwrite --identity \"$1\"";
    let out = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_lifeboat"), machine.kit().to_str().unwrap()])
        .env_clear()
        .env("HOME", &machine.world.home)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(std::fs::read(machine.home(&deep("a")).join("file")).unwrap(), b"first");
    assert_eq!(std::fs::read(machine.home("agent/b")).unwrap(), b"a file");
    assert_eq!(
        std::fs::read_dir(machine.home(""))
            .unwrap()
            .flatten()
            .filter(|e| e.path().to_string_lossy().contains("restore-"))
            .count(),
        0
    );
}

/// Attributes of symbolic links themselves, which root alone can set.
#[test]
fn attributes_of_links() {
    use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
    let machine = Machine::new();
    std::fs::create_dir(machine.home("agent")).unwrap();
    let link = machine.home("agent/link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    if lsetxattr(&link, "trusted.note", b"of the link", XattrFlags::empty()).is_err() {
        return;
    }
    machine.init(&["agent"]);
    machine.backup();
    let value = |path: &std::path::Path| {
        let mut value = [0; 64];
        lgetxattr(path, "trusted.note", &mut value).map(|n| value[..n].to_vec())
    };
    let target = machine.target("target");
    assert_eq!(machine.restore(&target).not_held, []);
    assert_eq!(value(&target.join("home/agent/link")).unwrap(), b"of the link");
    // On a link that is there, too.
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    in_place(&machine, |_| {}).unwrap();
    assert_eq!(value(&link).unwrap(), b"of the link");
}

/// A machine with an agent that presets know how to pause, and one of its profiles.
fn with_bots() -> Machine {
    use lifeboat::commands::init;
    let machine = Machine::new();
    machine.write(".hermes/config.yaml", "model: x");
    machine.write(".hermes/.env", "TELEGRAM_BOT_TOKEN=fake");
    machine.write(".hermes/SOUL.md", "kind");
    machine.write(".hermes/cron/jobs.json", "{\"jobs\":[]}");
    machine.write(".hermes/profiles/work/.env", "TELEGRAM_BOT_TOKEN=other");
    machine.write(".hermes/profiles/work/SOUL.md", "strict");
    for secret in ["config.yaml", ".env", "profiles/work/.env"] {
        let file = machine.home(".hermes").join(secret);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let args = init::Args { presets: vec!["hermes".to_owned()], sealed: true, ..init::Args::default() };
    init::run(&machine.world, &args, &mut |_| {}).unwrap();
    machine.backup();
    machine
}

const BOTS: [&str; 4] = [".env", "config.yaml", "cron/jobs.json", "profiles/work/.env"];

#[test]
fn what_would_start_is_left_paused() {
    let machine = with_bots();
    let hermes = machine.home(".hermes");
    let paused = |name: &str| hermes.join(format!("{name}.paused"));
    let before = snapshot(&hermes);
    std::fs::remove_dir_all(&hermes).unwrap();
    let done = in_place(&machine, |a| (a.paused, a.dry_run) = (true, true)).unwrap();
    assert_eq!((done.paused.len(), hermes.exists()), (4, false));
    let done = in_place(&machine, |a| a.paused = true).unwrap();
    assert_eq!(done.paused.len(), 4);
    for name in BOTS {
        assert!(!hermes.join(name).exists() && paused(name).exists(), "{name}");
        let mv = format!("  mv -n '{}' '{}'\n", paused(name).display(), hermes.join(name).display());
        assert!(done.text().contains(&mv), "{}", done.text());
    }
    assert_eq!(paused(".env").metadata().unwrap().mode() & 0o7777, 0o600);

    // Again, with it or without: it stays paused, nothing is taken for too much, and that is said.
    for with in [true, false] {
        let done = in_place(&machine, |a| (a.paused, a.delete, a.yes) = (with, true, true)).unwrap();
        assert_eq!((done.restored, done.removed, done.paused.len()), (0, 0, 4));
        assert!(done.text().contains("4 entries paused"), "{}", done.text());
        assert!(BOTS.iter().all(|name| !hermes.join(name).exists() && paused(name).exists()));
    }

    // As it says.
    let script = done.text().lines().filter(|l| l.starts_with("  mv ")).map(|l| format!("{l}\n")).collect::<String>();
    assert!(std::process::Command::new("sh").args(["-ec", &script]).status().unwrap().success());
    assert_eq!(snapshot(&hermes), before);
    let done = in_place(&machine, |a| a.paused = true).unwrap();
    assert_eq!((done.restored, done.paused.len(), done.in_use.len()), (0, 0, 4));
    assert!(done.text().contains("not paused, since it was there before: "), "{}", done.text());
}

#[test]
fn a_paused_piece_that_differs_is_not_lost() {
    let machine = with_bots();
    let jobs = machine.home(".hermes/cron/jobs.json");
    let paused = machine.home(".hermes/cron/jobs.json.paused");
    // In use, and another one.
    std::fs::write(&jobs, "{\"jobs\":[1, 2]}").unwrap();
    let e = in_place(&machine, |a| a.paused = true).unwrap_err();
    assert!(e.to_string().contains("cron/jobs.json"), "{e}");
    assert!(jobs.exists() && !paused.exists());
    in_place(&machine, |a| (a.paused, a.overwrite) = (true, Overwrite::Never)).unwrap();
    assert!(jobs.exists() && !paused.exists());
    in_place(&machine, |a| (a.paused, a.overwrite) = (true, Overwrite::IfChanged)).unwrap();
    assert!(!jobs.exists());
    assert_eq!(std::fs::read(&paused).unwrap(), b"{\"jobs\":[]}");
    // A directory in its place is nobody's job, and not removed for one.
    std::fs::create_dir(&jobs).unwrap();
    let e = in_place(&machine, |a| (a.paused, a.overwrite) = (true, Overwrite::IfChanged)).unwrap_err();
    assert!(e.to_string().contains("cron/jobs.json is a directory"), "{e}");
    std::fs::remove_dir(&jobs).unwrap();
    // Paused, and another one.
    std::fs::write(&paused, "mine").unwrap();
    let e = in_place(&machine, |a| a.paused = true).unwrap_err();
    assert!(e.to_string().contains("cron/jobs.json.paused"), "{e}");
    assert_eq!(std::fs::read(&paused).unwrap(), b"mine");
    // Without the flag it is somebody's file.
    in_place(&machine, |_| {}).unwrap();
    assert!(jobs.exists());
    assert_eq!(std::fs::read(&paused).unwrap(), b"mine");
}

/// A snapshot of a home with something paused in it.
#[test]
fn what_was_paused_is_told() {
    let mut machine = with_bots();
    std::fs::rename(machine.home(".hermes/cron/jobs.json"), machine.home(".hermes/cron/jobs.json.paused")).unwrap();
    machine.world.fixed_now = machine.world.fixed_now.map(|now| now + 3600);
    machine.backup();
    let (done, _) = machine.try_restore(&machine.target("t"), |_| {}).unwrap();
    assert_eq!(done.paused.len(), 1);
    assert!(done.paused[0].path.ends_with("t/home/.hermes/cron/jobs.json.paused"), "{:?}", done.paused);
    let args = lifeboat::commands::drill::Args { identity: Some(machine.kit()), ..Default::default() };
    let mut notes = Vec::new();
    drop(lifeboat::commands::drill::run(&machine.world, &args, &mut |event| notes.push(format!("{event:?}"))));
    assert!(notes.iter().any(|n| n.contains("1 piece paused in the snapshot")), "{notes:?}");
}

/// A step is due by pattern, in profiles, and for what is new in a directory that is there.
#[test]
fn steps_are_due_for_what_lies_below() {
    let machine = with_bots();
    std::fs::remove_dir_all(machine.home(".hermes/profiles")).unwrap();
    let after = in_place(&machine, |_| {}).unwrap().after;
    assert_eq!(after.len(), 1, "{after:?}");
    assert!(after[0].contains("stop the gateway on the old machine"), "{after:?}");
}

/// Words that compress about as well as people's texts do.
fn prose(bytes: usize, mut seed: u64) -> String {
    let mut out = String::with_capacity(bytes + 16);
    while out.len() < bytes {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push_str(["an", "the", "mem", "tion", "ork", "agent", "ing", "se"][(seed >> 33) as usize % 8]);
        out.push_str(&format!("{:x}", (seed >> 40) % 128));
        out.push(if seed >> 61 == 0 { '\n' } else { ' ' });
    }
    out
}

/// One small file of a large snapshot costs its manifests and the frame that it lies in.
#[test]
fn a_small_file_costs_its_frame() {
    let mut machine = Machine::new();
    for n in 0..1500 {
        machine.write(&format!("agent/memories/{n:04}.md"), prose(10_000, n));
    }
    machine.init(&["agent"]);
    machine.backup();
    let stored: Vec<(std::path::PathBuf, u64)> = crate::forge::files(&machine.store())
        .into_iter()
        .map(|p| (p.clone(), machine.store().join(p).metadata().unwrap().len()))
        .collect();
    let volumes: u64 = stored.iter().filter(|(p, _)| p.to_str().unwrap().contains("tar.zst")).map(|(_, n)| n).sum();
    let target = machine.target("one");
    let (read, _) = read_by(&mut machine, |m| {
        m.try_restore(&target, |a| a.paths = vec!["~/agent/memories/0777.md".to_owned()]).unwrap();
    });
    assert!(volumes > 4 << 20, "{volumes}");
    assert!(read > 10_000 && read < 1 << 20, "{read}");
    assert_eq!(std::fs::read_to_string(target.join("home/agent/memories/0777.md")).unwrap(), prose(10_000, 777));
}
