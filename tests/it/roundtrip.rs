//! What was backed up comes back: any tree, equal in everything that a tree can be equal in.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use lifeboat::commands::restore;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::{collection, proptest};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::world::Machine;

/// Everything that has to come back, by path.
pub type Tree = BTreeMap<PathBuf, String>;

pub fn tree(dir: &Path) -> Tree {
    let (mut out, mut pending, mut inodes) = (Tree::new(), vec![dir.to_owned()], BTreeMap::new());
    let mut all = Vec::new();
    while let Some(path) = pending.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        all.push(path);
    }
    all.sort();
    for path in all {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(dir).unwrap().to_owned();
        let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
        let mut line = format!("{:o} {}.{:09}", meta.mode(), meta.mtime(), meta.mtime_nsec());
        line.push_str(&format!(" {}:{} {first:?} {:?}", meta.uid(), meta.gid(), xattrs(&path)));
        if meta.is_symlink() {
            line.push_str(&format!(" -> {:?}", std::fs::read_link(&path).unwrap()));
        } else if meta.is_file() {
            let hash = blake3::hash(&std::fs::read(&path).unwrap()).to_hex();
            let holes = meta.size() > 1 << 16 && meta.blocks() * 512 < meta.size() / 2;
            line.push_str(&format!(" {} {hash} holes {holes}", meta.size()));
        }
        out.insert(name, line);
    }
    out
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    let mut out: Vec<(String, Vec<u8>)> = names
        .map(|name| {
            let mut value = vec![0; 4096];
            let n = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..n].to_vec())
        })
        .collect();
    out.sort();
    out
}

/// The moments at which anything was last changed.
fn changes(dir: &Path) -> BTreeMap<PathBuf, (i64, i64, u64)> {
    let mut out = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        out.insert(path, (meta.ctime(), meta.ctime_nsec(), meta.ino()));
    }
    out
}

pub fn same(one: &Tree, other: &Tree) {
    for (path, line) in one {
        assert_eq!(Some(line), other.get(path), "{path:?}");
    }
    let more: Vec<_> = other.keys().filter(|path| !one.contains_key(*path)).collect();
    assert!(more.is_empty(), "more than there should be: {more:?}");
}

pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// `mode`, with what its owner needs in order to read. Root needs nothing; anybody else cannot back up what is shut.
fn readable(mode: u32, needed: u32) -> u32 {
    if rustix::process::geteuid().is_root() { mode } else { mode | needed }
}

/// Bytes that no compressor makes smaller, and no two of which are at the same place of two files.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut out = vec![0; length];
    reader.fill(&mut out);
    out
}

/// Backs up the agent's home, restores it twice, and compares.
fn there_and_back(machine: &Machine) -> PathBuf {
    machine.init(&["agent"]);
    let before = tree(&machine.home("agent"));
    let done = machine.backup();
    assert!(done.unreadable.is_empty(), "{:?}", done.unreadable);
    let target = machine.target("restored");
    let done = machine.restore(&target);
    assert!(done.missing.is_empty() && done.not_held.is_empty(), "{done:?}");
    same(&before, &tree(&target.join("home/agent")));
    let changed = changes(&target);
    let done = machine.restore(&target);
    assert_eq!((done.restored, done.replaced), (0, 0));
    assert_eq!(changes(&target), changed);
    target
}

#[test]
fn a_small_home_comes_back() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "remember this");
    machine.write("agent/.env", "API_KEY=fake-0000");
    machine.init(&["agent"]);
    machine.backup();
    let target = machine.target("restored");
    let done = machine.restore(&target);
    assert!(done.missing.is_empty());
    assert_eq!(std::fs::read(target.join("home/agent/notes.md")).unwrap(), b"remember this");
    assert_eq!(std::fs::read(target.join("home/agent/.env")).unwrap(), b"API_KEY=fake-0000");
    assert_eq!(machine.restore(&target).restored, 0);
}

#[test]
fn sizes_around_every_boundary() {
    let machine = Machine::new();
    let (small, frame) = (512 << 10, 4 << 20);
    for (n, size) in [0, 1, 511, 512, 513, small - 1, small, small + 1, frame - 1, frame, frame + 1, 2 * frame + 7]
        .iter()
        .enumerate()
    {
        machine.write(&format!("agent/{size}"), noise(*size, n as u64));
        machine.write(&format!("agent/zeros/{size}"), vec![0; *size]);
    }
    // More than one volume of what cannot be compressed.
    machine.write("agent/large", noise(40 << 20, 99));
    there_and_back(&machine);
    let volumes =
        machine.all_files().into_iter().filter(|(p, _)| p.to_str().is_some_and(|p| p.ends_with(".tar.zst.age")));
    assert!(volumes.count() >= 4);
}

#[test]
fn names_modes_times_and_links() {
    let machine = Machine::new();
    let agent = machine.home("agent");
    let names: Vec<Vec<u8>> = vec![
        b"plain".to_vec(),
        b" leading and trailing ".to_vec(),
        b"new\nline\r\ttab".to_vec(),
        b"\xff\xfe not utf-8".to_vec(),
        b"\x1b[31mred".to_vec(),
        b"-rf".to_vec(),
        b"...".to_vec(),
        b"back\\slash \"quotes\" 'and' more*?[x]".to_vec(),
        vec![b'x'; 255],
        "\u{e9}".repeat(127).into_bytes(),
        "e\u{301} is not \u{e9}".as_bytes().to_vec(),
        b"home".to_vec(),
        b"lifeboat".to_vec(),
    ];
    for name in &names {
        let path = Path::new("agent").join(OsStr::from_bytes(name));
        let path = machine.home(path.to_str().map_or("agent/other", |p| p));
        let path = if path.ends_with("other") { agent.join(OsStr::from_bytes(name)) } else { path };
        std::fs::create_dir_all(agent.join("dirs").join(OsStr::from_bytes(name))).unwrap();
        std::fs::write(&path, name).unwrap();
        symlink(OsStr::from_bytes(name), agent.join("dirs").join(OsStr::from_bytes(name)).join("link")).unwrap();
    }
    for (n, mode) in [0o0, 0o400, 0o644, 0o777, 0o4755, 0o2755, 0o6711, 0o1644].into_iter().enumerate() {
        chmod(&machine.write(&format!("agent/mode-{n}"), "x"), readable(mode, 0o400));
    }
    std::fs::hard_link(agent.join("plain"), agent.join("dirs/another name of plain")).unwrap();
    std::fs::hard_link(agent.join("plain"), agent.join("aaa comes first")).unwrap();
    symlink("/nowhere/at/all", agent.join("absolute")).unwrap();
    symlink("x".repeat(3000), agent.join("long")).unwrap();
    symlink("..", agent.join("up")).unwrap();
    std::fs::create_dir_all(agent.join("empty/emptier")).unwrap();
    let times =
        [(-1, 999_999_999), (-2_000_000_000, 1), (0, 0), (1, 5), (4_000_000_000, 123_456_789), (1_700_000_000, 100)];
    for (n, (seconds, nanos)) in times.into_iter().enumerate() {
        set_mtime(&machine.write(&format!("agent/time-{n}"), "x"), seconds, nanos);
        let dir = agent.join(format!("time-dir-{n}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("inside"), "x").unwrap();
        set_mtime(&dir, seconds, nanos);
        let link = agent.join(format!("time-link-{n}"));
        symlink("plain", &link).unwrap();
        set_mtime(&link, seconds, nanos);
    }
    for (n, mode) in [0o555, 0o1777, 0o2750, 0o700].into_iter().enumerate() {
        let path = machine.write(&format!("agent/dir-{n}/deep/inside"), "x");
        chmod(path.parent().unwrap(), mode);
        chmod(path.parent().unwrap().parent().unwrap(), mode);
    }
    set_mtime(&agent, -5, 5);
    there_and_back(&machine);
}

#[test]
fn attributes_and_access_lists() {
    let machine = Machine::new();
    let file = machine.write("agent/file", "x");
    let dir = machine.home("agent/dir");
    std::fs::create_dir(&dir).unwrap();
    let set = |path: &Path, name: &str, value: &[u8]| rustix::fs::setxattr(path, name, value, XattrFlags::empty());
    if set(&file, "user.simple", b"value").is_err() {
        return;
    }
    for (name, value) in
        [("user.new\nline", &b"a\nb\0c"[..]), ("user.a=b%c", b"="), ("user.empty", b""), ("user.\u{e9}", &[7; 3000])]
    {
        set(&file, name, value).unwrap();
        set(&dir, name, &value[..value.len().min(100)]).unwrap();
    }
    rustix::fs::setxattr(&file, OsStr::from_bytes(b"user.\xff"), b"x", XattrFlags::empty()).unwrap();
    // Version 2; user::rw-, user:1234:r--, group::r--, mask::rw-, other::---.
    let mut list = vec![2, 0, 0, 0];
    for (tag, rights, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
    {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&rights.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    let lists = set(&file, "system.posix_acl_access", &list).is_ok();
    if lists {
        set(&dir, "system.posix_acl_default", &list).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o660);
    }
    let target = there_and_back(&machine);

    // What the target's directory hands down is not the file's.
    if lists {
        let other = machine.target("inherits");
        std::fs::create_dir(&other).unwrap();
        set(&other, "system.posix_acl_default", &list).unwrap();
        machine.restore(&other);
        same(&tree(&target.join("home/agent")), &tree(&other.join("home/agent")));
        let changed = changes(&other);
        machine.restore(&other);
        assert_eq!(changes(&other), changed);
    }
}

#[test]
fn files_with_holes_stay_sparse() {
    let machine = Machine::new();
    std::fs::create_dir(machine.home("agent")).unwrap();
    let mib = 1u64 << 20;
    type Parts<'a> = &'a [(u64, usize)];
    let files: [(&str, u64, Parts<'_>); 7] = [
        ("all-hole", 64 * mib, &[]),
        ("small-hole", 3 * 4096, &[]),
        ("start", 32 * mib, &[(30 * mib, 2 << 20)]),
        ("middle", 32 * mib, &[(0, 1 << 20), (31 * mib, 1 << 20)]),
        ("end", 32 * mib, &[(0, 5 << 20)]),
        ("many", 64 * mib, &[(mib, 4096), (9 * mib, 8192), (33 * mib, 9 << 20), (63 * mib, 4096)]),
        ("odd-end", 32 * mib + 77, &[(32 * mib, 77)]),
    ];
    for (name, size, parts) in files {
        let mut file = std::fs::File::create(machine.home("agent").join(name)).unwrap();
        file.set_len(size).unwrap();
        for (n, (offset, length)) in parts.iter().enumerate() {
            file.seek(SeekFrom::Start(*offset)).unwrap();
            file.write_all(&noise(*length, n as u64)).unwrap();
        }
    }
    let target = there_and_back(&machine);
    for (name, size, _) in files {
        let meta = target.join("home/agent").join(name).metadata().unwrap();
        assert!(meta.blocks() * 512 <= size / 2, "{name} takes {} blocks", meta.blocks());
    }
}

#[test]
fn paths_longer_than_a_call_takes() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    let deep = crate::world::deep_dir(&machine.home("agent"), 9000);
    let file =
        rustix::fs::openat(&deep, "deep.txt", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY, 0o640.into());
    std::fs::File::from(file.unwrap()).write_all(b"deep down").unwrap();
    rustix::fs::symlinkat("deep.txt", &deep, "link").unwrap();
    rustix::fs::linkat(&deep, "deep.txt", &deep, "second", AtFlags::empty()).unwrap();
    machine.init(&["agent"]);
    let done = machine.backup();
    assert!(done.unreadable.is_empty(), "{:?}", done.unreadable.len());
    let target = machine.target("t");
    machine.restore(&target);
    assert_eq!(machine.restore(&target).restored, 0);
    let mut here = rustix::fs::open(target.join("home/agent"), rustix::fs::OFlags::DIRECTORY, 0.into()).unwrap();
    for _ in 0..9000 / 200 {
        here = rustix::fs::openat(&here, "d".repeat(200), rustix::fs::OFlags::DIRECTORY, 0.into()).unwrap();
    }
    let mut content = [0; 20];
    let file = rustix::fs::openat(&here, "second", rustix::fs::OFlags::RDONLY, 0.into()).unwrap();
    assert_eq!(rustix::io::pread(&file, &mut content, 0).unwrap(), 9);
    let (one, other) = (rustix::fs::statat(&here, "deep.txt", AtFlags::empty()), rustix::fs::fstat(&file));
    assert_eq!(one.unwrap().st_ino, other.unwrap().st_ino);
}

fn in_place(machine: &Machine, overwrite: bool) -> Result<restore::Done, lifeboat::Error> {
    let args = restore::Args { identity: Some(machine.kit()), overwrite, ..restore::Args::default() };
    restore::run(&machine.world, &args, &mut |_| {})
}

/// A machine with a few things of every kind, backed up.
fn backed_up() -> Machine {
    let machine = Machine::new();
    for path in ["file", "other", "dir/inside", "dir/sub/deep", "linked/a", ".env"] {
        machine.write(&format!("agent/{path}"), format!("content of {path}"));
    }
    let agent = machine.home("agent");
    std::fs::hard_link(agent.join("linked/a"), agent.join("linked/b")).unwrap();
    symlink("file", agent.join("link")).unwrap();
    chmod(&agent.join(".env"), 0o600);
    for path in ["dir/sub", "dir", "linked", ""] {
        set_mtime(&agent.join(path), 1_600_000_000, 7);
    }
    machine.init(&["agent"]);
    machine.backup();
    machine
}

#[test]
fn in_place_only_what_is_gone_comes_back() {
    let machine = backed_up();
    let agent = machine.home("agent");
    let (before, changed) = (tree(&agent), changes(&agent));
    assert_eq!(in_place(&machine, false).unwrap().restored, 0);
    assert_eq!(changes(&agent), changed);
    std::fs::remove_file(agent.join("dir/inside")).unwrap();
    std::fs::remove_file(agent.join("linked/b")).unwrap();
    std::fs::remove_file(agent.join(".env")).unwrap();
    std::fs::remove_dir_all(agent.join("dir/sub")).unwrap();
    let done = in_place(&machine, false).unwrap();
    assert_eq!(done.restored, 5);
    same(&before, &tree(&agent));
    assert_eq!(changes(&agent)[&agent.join("file")], changed[&agent.join("file")]);
    // What the snapshot does not know stays.
    machine.write("agent/newer", "x");
    in_place(&machine, false).unwrap();
    assert!(agent.join("newer").exists());
}

#[test]
fn conflicts_are_listed_and_nothing_is_changed() {
    let machine = backed_up();
    let agent = machine.home("agent");
    machine.write("agent/file", "something else");
    std::fs::remove_file(agent.join("other")).unwrap();
    std::fs::remove_file(agent.join("link")).unwrap();
    std::fs::write(agent.join("link"), "a file now").unwrap();
    let (before, changed) = (tree(&machine.world.home), changes(&agent));
    let error = in_place(&machine, false).unwrap_err();
    let text = error.to_string();
    for path in ["file", "link"] {
        assert!(text.contains(&format!("\n    {}", agent.join(path).display())), "{text}");
    }
    assert!(!text.contains("other") && error.advice().unwrap().contains("--overwrite"));
    same(&before, &tree(&machine.world.home));
    assert_eq!(changes(&agent), changed);
}

#[test]
fn overwriting_replaces_whatever_is_in_the_way() {
    let machine = backed_up();
    let agent = machine.home("agent");
    let before = tree(&agent);
    let elsewhere = machine.root().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("inside"), "content of dir/inside").unwrap();
    let remove = |path: &str| std::fs::remove_file(agent.join(path)).unwrap();
    // A file became a directory, a directory a link to one with the same file in it, a link a directory.
    remove("file");
    machine.write("agent/file/deep/er", "x");
    std::fs::remove_dir_all(agent.join("dir")).unwrap();
    symlink(&elsewhere, agent.join("dir")).unwrap();
    remove("link");
    machine.write("agent/link/x", "x");
    remove("other");
    symlink(elsewhere.join("victim"), agent.join("other")).unwrap();
    // Both names of one file, written to.
    std::fs::write(agent.join("linked/a"), "changed").unwrap();
    std::fs::write(agent.join(".env"), "changed").unwrap();
    let done = in_place(&machine, true).unwrap();
    assert!(done.replaced >= 6, "{done:?}");
    same(&before, &tree(&agent));
    assert!(!elsewhere.join("victim").exists());
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 1);
    let changed = changes(&agent);
    in_place(&machine, false).unwrap();
    assert_eq!(changes(&agent), changed);
}

#[test]
fn a_directory_in_the_place_of_a_file_comes_back_with_all_that_is_in_it() {
    let machine = backed_up();
    let agent = machine.home("agent");
    let before = tree(&agent);
    std::fs::remove_dir_all(agent.join("dir")).unwrap();
    std::fs::write(agent.join("dir"), "a file").unwrap();
    std::fs::remove_dir_all(agent.join("linked")).unwrap();
    in_place(&machine, true).unwrap();
    same(&before, &tree(&agent));
}

#[test]
fn a_home_elsewhere_and_a_link_above_a_source_are_no_obstacle() {
    let machine = Machine::new();
    machine.write("projects/x/notes.md", "x");
    machine.init(&["projects/x"]);
    machine.backup();
    std::fs::rename(machine.home("projects"), machine.home("moved")).unwrap();
    std::fs::remove_file(machine.home("moved/x/notes.md")).unwrap();
    symlink("moved", machine.home("projects")).unwrap();
    for overwrite in [false, true] {
        in_place(&machine, overwrite).unwrap();
        assert_eq!(std::fs::read(machine.home("moved/x/notes.md")).unwrap(), b"x");
        assert!(machine.home("projects").is_symlink());
        std::fs::remove_file(machine.home("moved/x/notes.md")).unwrap();
    }
    let other = Machine::new();
    let args = restore::Args { identity: Some(machine.kit()), ..restore::Args::default() };
    restore::run(&other.world, &args, &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(other.home("projects/x/notes.md")).unwrap(), b"x");
}

#[test]
fn a_user_who_cannot_give_files_away_gets_them_all_the_same() {
    let machine = backed_up();
    chmod(&machine.write("agent/program", "x"), 0o4755);
    machine.backup();
    let restore = || {
        let args = ["restore", "--json", "--identity", "home/lifeboat-key.txt", "--target", "t"];
        let output = machine.program_unprivileged(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let first = restore();
    if rustix::process::geteuid().is_root() {
        assert_eq!(first["not_held"].to_string(), "[[\"owner\",12]]");
        // Nothing runs as somebody else than it did.
        let mode = machine.target("t").join("home/agent/program").metadata().unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
    let changed = |m: &Machine| {
        let mut all = changes(&m.target("t"));
        // The test itself gives everything to that user each time, which touches it.
        all.values_mut().for_each(|v| (v.0, v.1) = (0, 0));
        all
    };
    let before = (changed(&machine), tree(&machine.target("t")));
    let second = restore();
    assert_eq!((second["restored"].as_u64(), second["replaced"].as_u64()), (Some(0), Some(0)));
    assert_eq!((changed(&machine), tree(&machine.target("t"))), before);
}

#[test]
fn a_target_of_any_name() {
    let machine = backed_up();
    let target = machine.root().join(OsStr::from_bytes(b"t\xffarget \n"));
    machine.restore(&target);
    same(&tree(&machine.home("agent")), &tree(&target.join("home/agent")));
    let names: Vec<_> = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["home"]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let machine = backed_up();
    let (done, _) = machine.try_restore(&machine.target("t"), |a| a.dry_run = true).unwrap();
    assert_eq!((done.restored, done.dry_run), (12, true));
    assert!(!machine.target("t").exists());
    machine.write("agent/file", "something else");
    let args = restore::Args { identity: Some(machine.kit()), dry_run: true, ..restore::Args::default() };
    let done = restore::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(done.different, [machine.home("agent/file").display().to_string()]);
}

#[derive(Clone, Debug)]
enum What {
    File {
        size: usize,
        seed: u64,
    },
    Dir,
    Link(Vec<u8>),
    /// A further name of the file made before it, if there is one.
    Name,
    Sparse {
        size: u64,
        at: u64,
        length: usize,
    },
}

#[derive(Clone, Debug)]
struct Made {
    /// In which of the directories so far.
    place: usize,
    name: Vec<u8>,
    what: What,
    mode: u32,
    mtime: (i64, i64),
    xattr: Option<(Vec<u8>, Vec<u8>)>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no slash, no NUL", |b| *b != b'/' && *b != 0);
    prop_oneof![
        4 => collection::vec(proptest::char::range('a', 'f').prop_map(|c| u8::try_from(c).unwrap()), 1..3),
        3 => collection::vec(byte, 1..20),
        1 => Just(vec![b'n'; 255]),
    ]
    .prop_filter("no dots", |n| n != b"." && n != b"..")
}

fn made() -> impl Strategy<Value = Made> {
    let size = prop_oneof![5 => 0usize..3000, 2 => 500_000usize..550_000, 1 => 4_190_000usize..4_200_000];
    let what = prop_oneof![
        5 => (size, any::<u64>()).prop_map(|(size, seed)| What::File { size, seed }),
        3 => Just(What::Dir),
        2 => collection::vec(1u8..=255, 1..60).prop_map(What::Link),
        2 => Just(What::Name),
        1 => (0u64..9_000_000, 0u64..9_000_000, 0usize..100_000).prop_map(|(size, at, length)| What::Sparse { size, at, length }),
    ];
    let mode =
        prop_oneof![Just(0o644), Just(0o755), Just(0o4711), Just(0o2770), Just(0o1777), Just(0o700), Just(0o600)];
    let mtime = (-3_000_000_000i64..5_000_000_000, 0i64..1_000_000_000);
    let xattr = proptest::option::of((collection::vec(1u8..=255, 1..20), collection::vec(any::<u8>(), 0..50)));
    (any::<usize>(), name(), what, mode, mtime, xattr).prop_map(|(place, name, what, mode, mtime, xattr)| Made {
        place,
        name,
        what,
        mode,
        mtime,
        xattr,
    })
}

/// Makes it; names that are taken already are left out.
fn build(agent: &Path, plan: &[Made]) {
    std::fs::create_dir(agent).unwrap();
    let (mut dirs, mut last, mut all) = (vec![agent.to_owned()], None, Vec::new());
    for one in plan {
        let path = dirs[one.place % dirs.len()].join(std::ffi::OsString::from_vec(one.name.clone()));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match &one.what {
            What::File { size, seed } => {
                std::fs::write(&path, noise(*size, *seed)).unwrap();
                last = Some(path.clone());
            }
            What::Dir => {
                std::fs::create_dir(&path).unwrap();
                dirs.push(path.clone());
            }
            What::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            What::Name => match &last {
                Some(file) => std::fs::hard_link(file, &path).unwrap(),
                None => continue,
            },
            What::Sparse { size, at, length } => {
                let mut file = std::fs::File::create(&path).unwrap();
                file.set_len(*size).unwrap();
                file.seek(SeekFrom::Start(*at)).unwrap();
                file.write_all(&noise(*length, *at)).unwrap();
            }
        }
        all.push((path, one));
    }
    for (path, one) in all.iter().rev() {
        if !matches!(one.what, What::Link(_)) {
            if let Some((name, value)) = &one.xattr {
                let name = [b"user.", &name[..]].concat();
                // Not every file system has them.
                rustix::fs::setxattr(path, OsStr::from_bytes(&name), value, XattrFlags::empty()).unwrap_or(());
            }
            let needed = if matches!(one.what, What::Dir) { 0o500 } else { 0o400 };
            chmod(path, readable(one.mode, needed));
        }
    }
    for (path, one) in all.iter().rev() {
        set_mtime(path, one.mtime.0, one.mtime.1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(plan in collection::vec(made(), 0..40)) {
        let machine = Machine::new();
        build(&machine.home("agent"), &plan);
        there_and_back(&machine);
    }
}
