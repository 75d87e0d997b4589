//! Stores that earlier versions wrote, committed as they were, still open and still say the same.
//!
//! `tests/golden/README.md` says how one is added. None is ever made anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use lifeboat::commands::restore;
use lifeboat::host::metadata;
use lifeboat::model::path::printable;

use crate::forge::{copy, said};
use crate::world::Machine;

/// One line per entry: kind, mode, time, size, digest or target, attributes, path. Files with one inode say so.
fn listing(target: &Path) -> String {
    let mut lines: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    let mut inodes: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut pending = vec![target.to_owned()];
    while let Some(dir) = pending.pop() {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(target).unwrap().as_os_str().as_bytes().to_vec();
            let mut line = String::new();
            if meta.is_symlink() {
                let to = std::fs::read_link(&path).unwrap();
                write!(
                    line,
                    "link {}.{:09} -> {}",
                    meta.mtime(),
                    meta.mtime_nsec(),
                    printable(to.as_os_str().as_bytes())
                )
                .unwrap();
            } else {
                let what = if meta.is_dir() { "dir" } else { "file" };
                write!(line, "{what} {:o} {}.{:09}", meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()).unwrap();
                if meta.is_dir() {
                    pending.push(path.clone());
                } else {
                    let bytes = std::fs::read(&path).unwrap();
                    write!(line, " {} {}", bytes.len(), blake3::hash(&bytes).to_hex()).unwrap();
                    let first = inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
                    if *first != name {
                        write!(line, " linked").unwrap();
                    }
                }
                for (attribute, value) in metadata::xattrs(std::fs::File::open(&path).unwrap()).unwrap() {
                    write!(line, " {}={}", printable(&attribute), blake3::hash(&value).to_hex()).unwrap();
                }
            }
            // The directories above the sources were not recorded.
            if !matches!(&name[..], b"home" | b"root") {
                lines.insert(name.clone(), format!("{line} {}\n", printable(&name)));
            }
        }
    }
    lines.into_values().collect()
}

/// Restores the store below `dir` and returns its listing.
fn restored(dir: &Path) -> String {
    let machine = Machine::new();
    // Git does not keep the modes that a kit must have.
    let kit = machine.target("kit.txt");
    std::fs::copy(dir.join("kit.txt"), &kit).unwrap();
    std::fs::set_permissions(&kit, std::fs::Permissions::from_mode(0o600)).unwrap();
    let store = machine.target("store");
    copy(&dir.join("store"), &store);
    let target = machine.target("target");
    let args = restore::Args {
        identity: Some(kit),
        store: Some(store.to_str().unwrap().to_owned()),
        target: Some(target.clone()),
        ..restore::Args::default()
    };
    let done =
        restore::run(&machine.world, &args, &mut |_| {}).unwrap_or_else(|e| panic!("{}: {}", dir.display(), said(&e)));
    assert!(done.missing.is_empty(), "{}: {:?}", dir.display(), done.missing);
    listing(&target)
}

#[test]
fn every_golden_store_restores() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut seen = 0;
    for version in std::fs::read_dir(&golden).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
        let mut expected = std::fs::read_to_string(version.join("expected.txt")).unwrap();
        if !rustix::process::geteuid().is_root() {
            // What was root's and ran as root does not come to run as somebody else.
            expected = expected.replace("file 4755 ", "file 755 ");
        }
        let found = restored(&version);
        assert!(found == expected, "{}:\n{found}\nis not\n{expected}", version.display());
        seen += 1;
    }
    assert!(seen > 0);
}

/// Writes a store to `$LIFEBOAT_NEW_GOLDEN`, a directory that must not exist. Does nothing without.
#[test]
fn a_new_golden_store_on_request() {
    let Some(dir) = std::env::var_os("LIFEBOAT_NEW_GOLDEN").map(PathBuf::from) else { return };
    std::fs::create_dir(&dir).unwrap();
    let mut machine = Machine::new();
    fill(&machine);
    machine.init(&["agent"]);
    machine.backup();
    for (round, seconds) in [900, 86_400, 900].into_iter().enumerate() {
        machine.world.fixed_now = machine.world.fixed_now.map(|now| now + seconds);
        edit(&machine, round);
        let state = machine.backup().state.unwrap();
        assert_eq!((state.tier.as_deref(), state.parent.is_some()), (Some(["hourly", "daily", "hourly"][round]), true));
    }
    copy(&machine.store(), &dir.join("store"));
    let kit = std::fs::read_to_string(machine.kit()).unwrap();
    // The place it was made at means nothing to anybody else.
    let url = format!("file://{}", machine.store().display());
    let warning = "# Published with lifeboat's tests: NEVER TO BE USED for anything else.\n";
    std::fs::write(dir.join("kit.txt"), kit.replace(&url, "file:///golden") + warning).unwrap();
    std::fs::write(dir.join("expected.txt"), restored(&dir)).unwrap();
}

/// What an incremental can hold: each round against the tree that the one before left.
fn edit(machine: &Machine, round: usize) {
    let at = |path: &str| machine.home("agent").join(path);
    let patch = |path: &str, place: u64| {
        let file = std::fs::OpenOptions::new().write(true).open(at(path)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"patched", place).unwrap();
    };
    match round {
        0 => {
            patch("log.jsonl", 70_000);
            std::fs::rename(at("project"), at("renamed")).unwrap();
            std::fs::remove_file(at("empty")).unwrap();
            std::fs::create_dir(at("empty")).unwrap();
            std::fs::set_permissions(at("big too"), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        1 => {
            patch("big", 4096);
            std::fs::copy(at("renamed/code.rs"), at("copied.rs")).unwrap();
            std::fs::remove_file(at("notes.md")).unwrap();
            std::fs::OpenOptions::new().write(true).open(at("log.jsonl")).unwrap().set_len(150_001).unwrap();
            let db = rusqlite::Connection::open(at("memory.db")).unwrap();
            db.execute_batch("insert into memories(text) values ('three')").unwrap();
        }
        _ => {
            patch("log.jsonl", 150_001);
            std::fs::rename(at("big"), at("log")).unwrap();
            std::fs::rename(at("log.jsonl"), at("big")).unwrap();
            std::fs::rename(at("log"), at("log.jsonl")).unwrap();
            std::fs::remove_dir_all(at("deep/er/est")).unwrap();
        }
    }
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: 1_750_000_000 + round as i64, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    for path in ["log.jsonl", "big", "empty", "renamed", "copied.rs", "memory.db", "deep/er", ""] {
        utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap_or(());
    }
}

/// A home with what is awkward about files.
fn fill(machine: &Machine) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};
    let bytes = |name: &[u8]| machine.home("agent").join(std::ffi::OsStr::from_bytes(name));
    machine.write("agent/notes.md", "remember this\n");
    machine.write("agent/empty", "");
    machine.write("agent/.env", "API_KEY=fake-0000-never-used\n");
    machine.write("agent/deep/er/est/file", "deep");
    // Lines that no two blocks share, and that compress well.
    let lines =
        |n: usize| (0..n).map(|i| format!("{{\"line\":{i},\"said\":\"much the same as ever\"}}\n")).collect::<String>();
    machine.write("agent/log.jsonl", lines(4000));
    machine.write("agent/big", lines(3000));
    std::fs::hard_link(machine.home("agent/big"), machine.home("agent/big too")).unwrap();
    machine.write("agent/project/code.rs", lines(100));
    std::fs::create_dir(machine.home("agent/empty-dir")).unwrap();
    std::fs::write(bytes(b"not \xff utf-8"), "bytes").unwrap();
    std::fs::write(bytes(b"new\nline\tand \x1b[31mcolour"), "control").unwrap();
    std::fs::write(bytes(&[b'n'; 255]), "long").unwrap();
    std::fs::write(bytes("caf\u{e9} \u{202e}abc".as_bytes()), "unicode").unwrap();
    std::os::unix::fs::symlink("notes.md", machine.home("agent/link")).unwrap();
    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(b"/nowhere/\xfe"), machine.home("agent/dangling")).unwrap();
    std::fs::hard_link(machine.home("agent/notes.md"), machine.home("agent/zweite")).unwrap();
    let sparse = std::fs::File::create(machine.home("agent/sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 300_000).unwrap();
    drop(sparse);
    lsetxattr(machine.home("agent/notes.md"), "user.a=b", b"value\nwith a line", XattrFlags::empty()).unwrap();
    lsetxattr(machine.home("agent/empty-dir"), "user.dir", b"\x00\xff", XattrFlags::empty()).unwrap();
    let db = rusqlite::Connection::open(machine.home("agent/memory.db")).unwrap();
    db.execute_batch(
        "create table memories(id integer primary key, text); insert into memories(text) values ('one'), ('two')",
    )
    .unwrap();
    drop(db);
    for (path, mode) in
        [("notes.md", 0o640), ("empty", 0o4755), ("empty-dir", 0o1777), ("deep/er", 0o500), (".env", 0o600)]
    {
        let path = machine.home("agent").join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let when = |path: &str, tv_sec, tv_nsec| {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, machine.home("agent").join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    for path in [
        "log.jsonl",
        "big",
        "project/code.rs",
        "project",
        "deep/er/est/file",
        "deep/er/est",
        "deep/er",
        "deep",
        "sparse",
        "memory.db",
        ".env",
        "dangling",
    ] {
        when(path, 1_700_000_000, 123_456_789);
    }
    when("notes.md", -2, 500_000_000);
    when("empty", 4_000_000_000, 1);
    when("link", 1_600_000_000, 0);
    when("empty-dir", 0, 0);
    for name in
        [&b"not \xff utf-8"[..], b"new\nline\tand \x1b[31mcolour", &[b'n'; 255], "caf\u{e9} \u{202e}abc".as_bytes()]
    {
        let time = Timespec { tv_sec: 1_500_000_000, tv_nsec: 999_999_999 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, bytes(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    when("", 1_700_000_001, 0);
}
