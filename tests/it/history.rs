//! Histories: any tree, any edits, any hours in between, and every snapshot of it comes back as the tree was then.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat::commands::backup;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::{collection, proptest};

use crate::roundtrip::{Tree, noise, same, set_mtime, tree};
use crate::world::Machine;

/// Names that edits choose from: few, so that they meet.
const NAMES: [&str; 12] = ["a", "b", "big", "d/a", "d/big", "d/e/a", "d/e/b", "e", "e/x", "e/big", "skip/a", "d/.env"];

/// What can happen to a home between two backups. Numbers choose names and places.
#[derive(Clone, Debug)]
enum Edit {
    Write(u8, u32),
    WriteBig(u8, u32),
    InPlace(u8, u32),
    Append(u8, u16),
    Truncate(u8, u32),
    Rename(u8, u8),
    Swap(u8, u8),
    Copy(u8, u8),
    HardLink(u8, u8),
    Symlink(u8, u8),
    Mkdir(u8),
    Chmod(u8, u8),
    Touch(u8, u32),
    Xattr(u8, u8),
    Delete(u8),
    Exclude(bool),
    LoseCatalog,
}

fn edit() -> impl Strategy<Value = Edit> {
    let n = 0..NAMES.len() as u8;
    prop_oneof![
        3 => (n.clone(), any::<u32>()).prop_map(|(a, b)| Edit::Write(a, b)),
        3 => (n.clone(), any::<u32>()).prop_map(|(a, b)| Edit::WriteBig(a, b)),
        4 => (n.clone(), any::<u32>()).prop_map(|(a, b)| Edit::InPlace(a, b)),
        3 => (n.clone(), any::<u16>()).prop_map(|(a, b)| Edit::Append(a, b)),
        2 => (n.clone(), any::<u32>()).prop_map(|(a, b)| Edit::Truncate(a, b)),
        3 => (n.clone(), n.clone()).prop_map(|(a, b)| Edit::Rename(a, b)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Edit::Swap(a, b)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Edit::Copy(a, b)),
        3 => (n.clone(), n.clone()).prop_map(|(a, b)| Edit::HardLink(a, b)),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Edit::Symlink(a, b)),
        2 => n.clone().prop_map(Edit::Mkdir),
        2 => (n.clone(), any::<u8>()).prop_map(|(a, b)| Edit::Chmod(a, b)),
        1 => (n.clone(), any::<u32>()).prop_map(|(a, b)| Edit::Touch(a, b)),
        1 => (n.clone(), any::<u8>()).prop_map(|(a, b)| Edit::Xattr(a, b)),
        3 => n.prop_map(Edit::Delete),
        1 => any::<bool>().prop_map(Edit::Exclude),
        1 => Just(Edit::LoseCatalog),
    ]
}

/// Seconds until the next backup: from the next quarter hour to the month after next.
fn pause() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => Just(900i64), 2 => Just(3600i64), 2 => Just(86_400i64), 1 => Just(8 * 86_400i64), 1 => Just(40 * 86_400i64)
    ]
}

fn room(path: &Path) {
    let parent = path.parent().unwrap();
    if parent.symlink_metadata().is_ok_and(|m| !m.is_dir()) {
        std::fs::remove_file(parent).unwrap();
    }
    if !parent.exists() {
        room(parent);
        std::fs::create_dir(parent).unwrap();
    }
}

fn clear(path: &Path) {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path).unwrap(),
        Ok(_) => std::fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_file())
}

fn put(path: &Path, content: &[u8]) {
    clear(path);
    room(path);
    std::fs::write(path, content).unwrap();
    if path.ends_with(".env") {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn apply(machine: &Machine, edit: &Edit) {
    let at = |n: &u8| machine.home("agent").join(NAMES[usize::from(*n)]);
    // Secrets stay what they are: they come back from the newest bundle, with fewer rights.
    let plain = |path: &PathBuf| !path.ends_with(".env");
    match edit {
        Edit::Write(a, seed) => put(&at(a), &noise(*seed as usize % 5000, u64::from(*seed))),
        Edit::WriteBig(a, seed) => put(&at(a), &noise(65_000 + *seed as usize % 300_000, u64::from(*seed))),
        Edit::InPlace(a, place) if is_file(&at(a)) => {
            let file = std::fs::OpenOptions::new().write(true).open(at(a)).unwrap();
            let length = file.metadata().unwrap().len().max(1);
            file.write_at(&place.to_le_bytes(), u64::from(*place) % length).unwrap();
        }
        Edit::Append(a, bytes) if is_file(&at(a)) => {
            let file = std::fs::OpenOptions::new().write(true).open(at(a)).unwrap();
            let length = file.metadata().unwrap().len();
            file.write_at(&noise(usize::from(*bytes), u64::from(*bytes)), length).unwrap();
        }
        Edit::Truncate(a, place) if is_file(&at(a)) => {
            let file = std::fs::OpenOptions::new().write(true).open(at(a)).unwrap();
            file.set_len(u64::from(*place) % 400_000).unwrap();
        }
        Edit::Rename(a, b)
            // A directory called like a secret file is none.
            if at(a).symlink_metadata().is_ok()
                && !at(b).starts_with(at(a))
                && !at(a).starts_with(at(b))
                && (plain(&at(b)) || !at(a).is_dir()) =>
        {
            clear(&at(b));
            room(&at(b));
            // Making room may have taken it away.
            if at(a).symlink_metadata().is_ok() {
                std::fs::rename(at(a), at(b)).unwrap();
            }
        }
        Edit::Swap(a, b) if a != b && is_file(&at(a)) && is_file(&at(b)) => {
            let aside = machine.home("agent/aside");
            std::fs::rename(at(a), &aside).unwrap();
            std::fs::rename(at(b), at(a)).unwrap();
            std::fs::rename(aside, at(b)).unwrap();
        }
        Edit::Copy(a, b) if a != b && is_file(&at(a)) => {
            let content = std::fs::read(at(a)).unwrap();
            put(&at(b), &content);
        }
        Edit::HardLink(a, b) if a != b && is_file(&at(a)) && plain(&at(a)) && plain(&at(b)) => {
            clear(&at(b));
            room(&at(b));
            if is_file(&at(a)) {
                std::fs::hard_link(at(a), at(b)).unwrap();
            }
        }
        Edit::Symlink(a, b) if plain(&at(a)) => {
            clear(&at(a));
            room(&at(a));
            symlink(NAMES[usize::from(*b)].replace(".env", "a"), at(a)).unwrap();
        }
        Edit::Mkdir(a) if plain(&at(a)) => {
            clear(&at(a));
            room(&at(a));
            std::fs::create_dir(at(a)).unwrap();
        }
        Edit::Chmod(a, mode) if plain(&at(a)) && at(a).exists() => {
            let real = std::fs::canonicalize(at(a)).unwrap();
            if real.starts_with(machine.root()) && plain(&real) {
                let mode = 0o700 | (u32::from(*mode) % 0o100);
                std::fs::set_permissions(real, std::fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        Edit::Touch(a, seconds) if at(a).symlink_metadata().is_ok() => set_mtime(&at(a), i64::from(*seconds), 7),
        Edit::Xattr(a, value) if is_file(&at(a)) => {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(at(a), "user.note", &[*value], flags).unwrap_or(());
        }
        Edit::Delete(a) => clear(&at(a)),
        Edit::Exclude(on) => machine.configure(|text| {
            let text = text.replace("exclude = [\"skip/\"]\n", "");
            if *on { text.replace("path = ", "exclude = [\"skip/\"]\npath = ") } else { text }
        }),
        Edit::LoseCatalog => {
            for suffix in ["", "-wal", "-shm"] {
                let dir = machine.world.state_dir("testhost");
                drop(std::fs::remove_file(dir.join(format!("catalog.sqlite{suffix}"))));
            }
        }
        _ => {}
    }
}

/// The tree without what is secret or left out, by the rules as a user knows them.
fn state_of(machine: &Machine) -> Tree {
    let home = machine.home("agent");
    let mut all = tree(&home);
    let meta = |path: &Path| home.join(path).symlink_metadata().unwrap();
    let excluded = std::fs::read_to_string(machine.world.config_file()).unwrap().contains("exclude = [\"skip/\"]");
    if excluded && home.join("skip").symlink_metadata().is_ok_and(|m| m.is_dir()) {
        all.retain(|path, _| !path.starts_with("skip"));
    }
    let named = |path: &Path| path.iter().any(|part| part == ".env");
    // One secret name makes all names of a file secret.
    let inodes: BTreeSet<u64> = all.keys().filter(|p| named(p) && meta(p).is_file()).map(|p| meta(p).ino()).collect();
    let mut secret: BTreeSet<PathBuf> =
        all.keys().filter(|p| named(p) || meta(p).is_file() && inodes.contains(&meta(p).ino())).cloned().collect();
    for _ in 0..all.len() {
        let before = secret.len();
        for path in all.keys().rev() {
            let below = |p: &&PathBuf| *p != path && p.starts_with(path);
            let is_secret = match meta(path) {
                // A directory that holds nothing but secrets is one, and so is a link to one.
                m if m.is_dir() => {
                    all.keys().any(|p| below(&p)) && all.keys().filter(below).all(|p| secret.contains(p))
                }
                m if m.is_symlink() => std::fs::canonicalize(home.join(path))
                    .is_ok_and(|real| real.strip_prefix(&home).is_ok_and(|real| secret.contains(real))),
                _ => false,
            };
            if is_secret {
                secret.insert(path.clone());
            }
        }
        if secret.len() == before {
            break;
        }
    }
    all.retain(|path, _| !secret.contains(path));
    all
}

fn play(rounds: &[(Vec<Edit>, i64)]) {
    let mut machine = Machine::new();
    // A clock ahead of the files', so that they count as settled and `stat` is believed.
    machine.world.fixed_now = Some(1_800_000_000);
    machine.write("agent/a", "first");
    machine.write("agent/big", noise(200_000, 1));
    machine.write("agent/d/e/a", "deep");
    // A source that is emptied is taken for one that is not mounted.
    machine.write("agent/keep", "always");
    machine.init(&["agent"]);
    let mut expected: BTreeMap<String, Tree> = BTreeMap::new();
    let mut promises: BTreeMap<String, i64> = BTreeMap::new();
    let mut newest: Option<String> = None;
    for (edits, pause) in rounds {
        edits.iter().for_each(|edit| apply(&machine, edit));
        let now = state_of(&machine);
        let done = backup::run(&machine.world, &backup::Args::default(), &mut |_| {}).unwrap();
        assert!(done.unreadable.is_empty(), "{:?}", done.unreadable);
        match done.state {
            Some(written) => {
                newest = Some(written.id.clone());
                let days = match written.tier.as_deref().unwrap() {
                    "monthly" => 365,
                    "weekly" => 84,
                    "daily" => 30,
                    _ => 1,
                };
                promises.insert(written.id.clone(), machine.world.now() + days * 86_400);
                expected.insert(written.id, now);
            }
            None => same(&expected[newest.as_ref().unwrap()], &now),
        }
        machine.world.fixed_now = machine.world.fixed_now.map(|now| now + pause);
        // File systems tick in milliseconds, and a clock ahead takes nothing for young.
        std::thread::sleep(Duration::from_millis(12));
    }
    let left: Vec<String> = machine.list().snapshots.into_iter().filter(|r| r.status == "ok").map(|r| r.id).collect();
    for (id, then) in &expected {
        if !left.contains(id) {
            assert!(promises[id] < machine.world.now(), "{id} is gone before its time");
            continue;
        }
        let target = machine.target("restored");
        let (done, _) = machine
            .try_restore(&target, |a| {
                a.snapshot = id.clone();
                a.no_secrets = true;
            })
            .unwrap_or_else(|e| panic!("{id}: {}", crate::forge::said(&e)));
        assert!(done.missing.is_empty() && done.not_held.is_empty(), "{done:?}");
        let restored = target.join("home/agent");
        let restored = if restored.exists() { tree(&restored) } else { Tree::new() };
        same(then, &restored);
        dumped(&machine, id, &target);
        std::fs::remove_dir_all(&target).unwrap_or(());
    }
}

/// What `dump` writes is what `restore` brought back: the same paths, with the same content.
fn dumped(machine: &Machine, id: &str, target: &Path) {
    let tar = machine.dump(id).unwrap_or_else(|e| panic!("{id}: {}", crate::forge::said(&e)));
    let mut archive = tar::Archive::new(&tar[..]);
    let mut paths = BTreeSet::new();
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let path = member.path().unwrap().into_owned();
        let disk = target.join(&path);
        if member.header().entry_type().is_file() {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut member, &mut content).unwrap();
            assert!(content == std::fs::read(&disk).unwrap(), "{id}: {}", path.display());
        }
        paths.insert(disk);
    }
    let restored = crate::forge::snapshot(target).into_keys().map(|p| target.join(p));
    let mut restored: BTreeSet<PathBuf> = restored.collect();
    restored.remove(&target.join("home"));
    let paths: BTreeSet<PathBuf> = paths.into_iter().map(|p| p.components().collect()).collect();
    assert_eq!(paths, restored, "{id}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_comes_back(rounds in collection::vec((collection::vec(edit(), 0..6), pause()), 1..9)) {
        play(&rounds);
    }
}
