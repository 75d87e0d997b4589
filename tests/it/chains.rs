//! Chains forged member by member: what comes back, and which snapshot is taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lifeboat::Kind as ErrorKind;
use lifeboat::commands::Event;
use lifeboat::commands::bring_back::Overwrite;
use lifeboat::commands::restore::Done;
use lifeboat::model::commit::Reference;
use lifeboat::model::database::Facts;
use lifeboat::model::entry::{Entry, Kind};
use lifeboat::model::manifest::{Database, PathName, Source};
use lifeboat::model::store_key::{Archive, SnapshotId};

use crate::forge::{Draft, Forger, Item, copy, deleted, delta, dir, file, hardlink, missing, said, snapshot, symlink};
use crate::world::{Machine, NOW};

/// Bytes of a delta's blocks.
const BLOCK: usize = 4096;

/// A machine with keys, and somebody who has them, too.
pub fn a_machine() -> (Machine, Forger) {
    let machine = Machine::new();
    machine.write("agent/a", "x");
    machine.init(&["agent"]);
    let forger = Forger::of(&machine);
    (machine, forger)
}

/// A full of `tree`.
pub fn full(forger: &Forger, tree: &[Item]) -> Reference {
    forger.put(Archive::State, tree.to_vec(), &|_| {})
}

fn on(forger: &Forger, parent: &Reference, items: &[Item], tree: &[Item]) -> Reference {
    forger.put_on(parent, items.to_vec(), tree, &|_| {})
}

/// Blocks that are filled with these bytes.
pub fn blocks(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|b| vec![*b; BLOCK]).collect()
}

/// Where block `n` lies.
pub fn at(n: u64) -> (u64, u64) {
    (n * 4096, 4096)
}

/// `item` with its entry changed.
pub fn with(mut item: Item, change: impl FnOnce(&mut Entry)) -> Item {
    change(&mut item.1);
    item
}

/// Restores a snapshot to a new target.
fn restored(machine: &Machine, id: &Reference, name: &str) -> (PathBuf, Done) {
    let target = machine.target(name);
    let (done, _) = machine.try_restore(&target, |a| a.snapshot = id.id.to_string()).unwrap();
    assert_eq!(done.state.as_deref(), Some(id.id.as_str()));
    (target, done)
}

/// Everything below the target is as `tree` says.
fn same(target: &Path, tree: &[Item]) {
    use std::os::unix::fs::MetadataExt as _;
    let mut expected: Vec<PathBuf> =
        tree.iter().map(|i| PathBuf::from(String::from_utf8(i.0.clone()).unwrap())).collect();
    expected.push("home".into());
    expected.sort();
    expected.dedup();
    assert_eq!(snapshot(target).into_keys().collect::<Vec<_>>(), expected);
    for (path, entry, content) in tree {
        let name = std::str::from_utf8(path).unwrap();
        let path = target.join(name);
        let meta = path.symlink_metadata().unwrap();
        match entry.kind {
            Kind::File => assert!(std::fs::read(&path).unwrap() == *content, "content of {name}"),
            Kind::Symlink => {
                assert_eq!(std::fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes(), entry.target)
            }
            Kind::Hardlink => {
                let file = target.join(std::str::from_utf8(&entry.target).unwrap());
                assert_eq!(meta.ino(), file.metadata().unwrap().ino(), "{name} is no name of its file");
            }
            _ => assert!(meta.is_dir(), "{name} is no directory"),
        }
        if matches!(entry.kind, Kind::File | Kind::Dir) {
            assert_eq!(meta.mode() & 0o7777, u32::from(entry.mode), "mode of {name}");
        }
    }
}

/// Each file from where it was: swapped names, copies, several versions on top of each other.
#[test]
fn deltas_are_applied_to_what_they_were_made_of() {
    let (machine, forger) = a_machine();
    let home = || dir("home/agent");
    let (a, b) = (blocks(b"aaaa"), blocks(b"bbbb"));
    let one = [home(), file("home/agent/a", &a), file("home/agent/b", &b), file("home/agent/small", "s")];
    let first = full(&forger, &one);
    // The names are swapped, and a third file is a copy with one block changed.
    let a_copy = blocks(b"aaXa");
    let items = [
        home(),
        delta("home/agent/a", "home/agent/b", &b, &[]),
        delta("home/agent/b", "home/agent/a", &a, &[]),
        delta("home/agent/copy", "home/agent/a", &a_copy, &[at(2)]),
    ];
    let two = [
        home(),
        file("home/agent/a", &b),
        file("home/agent/b", &a),
        file("home/agent/copy", &a_copy),
        file("home/agent/small", "s"),
    ];
    let second = on(&forger, &first, &items, &two);
    // The base goes, and two files are made of it; the block that changed before changes again.
    let (x, y) = (blocks(b"aaYa"), blocks(b"1aXa2"));
    let items = [
        home(),
        delta("home/agent/a", "home/agent/b", &a, &[]),
        deleted("home/agent/b"),
        delta("home/agent/copy", "home/agent/copy", &x, &[at(2)]),
        delta("home/agent/y", "home/agent/copy", &y, &[at(0), at(4)]),
    ];
    let three = [
        home(),
        file("home/agent/a", &a),
        file("home/agent/copy", &x),
        file("home/agent/small", "s"),
        file("home/agent/y", &y),
    ];
    let third = on(&forger, &second, &items, &three);
    for (reference, tree) in [(&first, &one[..]), (&second, &two), (&third, &three)] {
        same(&restored(&machine, reference, reference.id.as_str()).0, tree);
    }
}

/// What is cut off stays cut off, and what was never written is zeros.
#[test]
fn files_shrink_and_grow() {
    let (machine, forger) = a_machine();
    let home = || dir("home/agent");
    let long = blocks(b"abcdef");
    let mut sparse = vec![0; 20 * BLOCK];
    sparse[5 * BLOCK..6 * BLOCK].fill(b's');
    let holes = |mut item: Item| {
        item.1.extents = Some(vec![at(5)]);
        item.2 = blocks(b"s");
        item
    };
    let one = [home(), file("home/agent/long", &long), file("home/agent/sparse", &sparse)];
    let first = full(&forger, &[home(), one[1].clone(), holes(one[2].clone())]);
    let short = long[..BLOCK + 100].to_vec();
    let mut patched = sparse.clone();
    patched[19 * BLOCK..].fill(b't');
    let items = [
        home(),
        delta("home/agent/long", "home/agent/long", &short, &[]),
        delta("home/agent/sparse", "home/agent/sparse", &patched, &[at(19)]),
    ];
    let two = [home(), file("home/agent/long", &short), file("home/agent/sparse", &patched)];
    let second = on(&forger, &first, &items, &two);
    let mut again = short.clone();
    again.resize(4 * BLOCK, 0);
    again.extend(b"tail");
    let items = [
        home(),
        delta("home/agent/long", "home/agent/long", &again, &[(4 * 4096, 4)]),
        with(delta("home/agent/sparse", "home/agent/sparse", &patched, &[]), |e| e.mode = 0o4700),
        delta("home/agent/zeros", "home/agent/long", [], &[]),
    ];
    let three = [
        home(),
        file("home/agent/long", &again),
        with(file("home/agent/sparse", &patched), |e| e.mode = 0o4700),
        file("home/agent/zeros", ""),
    ];
    let third = on(&forger, &second, &items, &three);
    for (reference, tree) in [(&first, &one[..]), (&second, &two), (&third, &three)] {
        let (target, _) = restored(&machine, reference, reference.id.as_str());
        same(&target, tree);
        use std::os::unix::fs::MetadataExt as _;
        let blocks = target.join("home/agent/sparse").metadata().unwrap().blocks();
        assert!(blocks < 20 * 4, "the sparse file takes {blocks} blocks");
    }
}

/// Kinds change, and hard links move to another least name.
#[test]
fn paths_become_something_else() {
    let (machine, forger) = a_machine();
    let home = || dir("home/agent");
    let one = [
        home(),
        dir("home/agent/d"),
        file("home/agent/d/in", "inside"),
        file("home/agent/f", "file"),
        hardlink("home/agent/g", "home/agent/f"),
        hardlink("home/agent/h", "home/agent/f"),
        symlink("home/agent/l", "f"),
    ];
    let first = full(&forger, &one);
    let items = [
        home(),
        file("home/agent/d", "now a file"),
        deleted("home/agent/d/in"),
        dir("home/agent/f"),
        file("home/agent/f/in", "new"),
        delta("home/agent/g", "home/agent/g", "file", &[]),
        hardlink("home/agent/h", "home/agent/g"),
        deleted("home/agent/l"),
    ];
    let two = [
        home(),
        file("home/agent/d", "now a file"),
        dir("home/agent/f"),
        file("home/agent/f/in", "new"),
        file("home/agent/g", "file"),
        hardlink("home/agent/h", "home/agent/g"),
    ];
    let second = on(&forger, &first, &items, &two);
    let items = [
        home(),
        dir("home/agent/d"),
        deleted("home/agent/f"),
        deleted("home/agent/f/in"),
        symlink("home/agent/l", "d"),
    ];
    let three = [
        home(),
        dir("home/agent/d"),
        file("home/agent/g", "file"),
        hardlink("home/agent/h", "home/agent/g"),
        symlink("home/agent/l", "d"),
    ];
    let third = on(&forger, &second, &items, &three);
    for (reference, tree) in [(&first, &one[..]), (&second, &two), (&third, &three)] {
        same(&restored(&machine, reference, reference.id.as_str()).0, tree);
    }
    // In place over the older one, which is what a dry run says beforehand.
    let target = machine.target(first.id.as_str());
    let before = snapshot(&target);
    let (done, _) = machine.try_restore(&target, |a| (a.dry_run, a.no_secrets) = (true, true)).unwrap();
    assert!(!done.different.is_empty());
    assert_eq!(snapshot(&target), before);
    let e = machine.try_restore(&target, |_| {}).unwrap_err();
    assert!(said(&e).contains("nothing was changed"), "{}", said(&e));
    machine.try_restore(&target, |a| a.overwrite = Overwrite::Always).unwrap();
    for path in ["home/agent/d", "home/agent/g", "home/agent/h", "home/agent/l"] {
        assert_eq!(
            snapshot(&target).get(Path::new(path)),
            snapshot(&machine.target(third.id.as_str())).get(Path::new(path))
        );
    }
    let (done, _) = machine
        .try_restore(&machine.target(second.id.as_str()), |a| {
            (a.snapshot, a.dry_run) = (second.id.to_string(), true);
        })
        .unwrap();
    assert_eq!((done.restored, done.different.len()), (0, 0));
}

/// Only what is needed of older archives is read: the rest may be damaged.
#[test]
fn what_is_not_needed_is_not_read() {
    let (machine, forger) = a_machine();
    let home = || dir("home/agent");
    let first = full(&forger, &[home(), file("home/agent/a", "old")]);
    let tree = [home(), file("home/agent/a", "new")];
    let second = on(&forger, &first, &[home(), tree[1].clone()], &tree);
    let volume = machine.store().join(format!("state/monthly/{}/{}/000000.tar.zst.age", forger.series, first.id));
    let mut bytes = std::fs::read(&volume).unwrap();
    let middle = bytes.len() - 30;
    bytes[middle] ^= 1;
    std::fs::write(&volume, bytes).unwrap();
    same(&restored(&machine, &second, "target").0, &tree);
    let e = machine.try_restore(&machine.target("other"), |a| a.snapshot = first.id.to_string()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged);
}

fn older(done: &Done, path: &str, from: &Reference) -> bool {
    done.older.iter().any(|line| line.starts_with(path) && line.contains(from.id.as_str()))
}

/// What could not be read comes from the nearest ancestor, or from before the full, and is said.
#[test]
fn missing_entries_come_from_older_snapshots() {
    let (machine, forger) = a_machine();
    let home = || dir("home/agent");
    let lost = || missing("home/agent/lost");
    let oldest = full(&forger, &[home(), file("home/agent/lost", "ancient")]);
    let before =
        [home(), dir("home/agent/d"), file("home/agent/d/a", "1"), file("home/agent/f", blocks(b"abc")), lost()];
    let previous = forger.put(Archive::State, before.to_vec(), &prev(&oldest));
    let changed = blocks(b"aXc");
    let items = [home(), delta("home/agent/f", "home/agent/f", &changed, &[at(1)]), lost()];
    let tree = [home(), dir("home/agent/d"), file("home/agent/d/a", "1"), file("home/agent/f", &changed), lost()];
    let last_before = forger.put_on(&previous, items.to_vec(), &tree, &prev(&previous));
    // A new full in which three paths could not be read, one of which only the oldest snapshot has.
    let tree = [home(), missing("home/agent/d"), missing("home/agent/f"), lost(), missing("home/agent/never")];
    let second = forger.put(Archive::State, tree.to_vec(), &prev(&last_before));
    // One of them can be read again, and then not any more.
    let now = [home(), missing("home/agent/d"), file("home/agent/f", "whole"), lost(), missing("home/agent/never")];
    let third = on(&forger, &second, &now, &now);
    let again = [home(), missing("home/agent/d"), missing("home/agent/f"), lost(), missing("home/agent/never")];
    let fourth = on(&forger, &third, &again, &again);

    let (target, done) = restored(&machine, &fourth, "target");
    assert_eq!(std::fs::read(target.join("home/agent/d/a")).unwrap(), b"1");
    assert_eq!(std::fs::read(target.join("home/agent/f")).unwrap(), b"whole");
    assert_eq!(std::fs::read(target.join("home/agent/lost")).unwrap(), b"ancient");
    assert!(older(&done, "home/agent/d:", &last_before), "{:?}", done.older);
    assert!(older(&done, "home/agent/f:", &third), "{:?}", done.older);
    assert!(older(&done, "home/agent/lost:", &oldest), "{:?}", done.older);
    assert_eq!(done.missing, ["home/agent/never: denied"]);
    use lifeboat::commands::Report as _;
    assert_eq!(done.problems().len(), 4);

    let (target, done) = restored(&machine, &second, "second");
    assert_eq!(std::fs::read(target.join("home/agent/f")).unwrap(), changed);
    assert!(older(&done, "home/agent/f:", &last_before), "{:?}", done.older);
}

/// An edit that makes a commit name the archive before it.
fn prev(reference: &Reference) -> impl Fn(&mut Draft) + use<> {
    let line = format!("# prev {} {} 365\n# size", reference.id, hex(&reference.sha256));
    move |draft| {
        let line = line.clone();
        draft.commit = Box::new(move |text| text.replacen("# size", &line, 1));
    }
}

fn hex(digest: &[u8; 32]) -> String {
    lifeboat::model::manifest::hex(digest)
}

/// A source inside a directory that could not be read is the snapshot's own.
#[test]
fn sources_below_what_is_missing_count() {
    let (machine, forger) = a_machine();
    let sources = |draft: &mut Draft| {
        let source = |path: &str| Source { path: PathName::new(path.as_bytes()), preset: None };
        draft.header.sources = vec![source("home/agent"), source("home/agent/d/own")];
    };
    let one = [
        dir("home/agent"),
        dir("home/agent/d"),
        file("home/agent/d/a", "1"),
        dir("home/agent/d/own"),
        file("home/agent/d/own/gone", "2"),
        file("home/agent/d/own/stays", "3"),
    ];
    let first = forger.put(Archive::State, one.to_vec(), &sources);
    let items = [dir("home/agent"), missing("home/agent/d"), dir("home/agent/d/own"), deleted("home/agent/d/own/gone")];
    let tree =
        [dir("home/agent"), missing("home/agent/d"), dir("home/agent/d/own"), file("home/agent/d/own/stays", "3")];
    let second = forger.put_on(&first, items.to_vec(), &tree, &sources);
    let (target, done) = restored(&machine, &second, "target");
    assert!(older(&done, "home/agent/d:", &first), "{:?}", done.older);
    let expected: Vec<Item> = one.iter().filter(|i| !i.0.ends_with(b"gone")).cloned().collect();
    same(&target, &expected);
}

fn warnings(events: &[Event]) -> Vec<String> {
    let text = |e: &Event| match e {
        Event::Warning(text) => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn directory(machine: &Machine, forger: &Forger, tier: &str, id: &Reference) -> PathBuf {
    let parent = machine.store().join("state").join(tier).join(&forger.series);
    let named = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with(id.id.as_str());
    std::fs::read_dir(parent).unwrap().map(|e| e.unwrap().path()).find(named).unwrap()
}

/// A full and three incrementals on top of each other.
fn four(forger: &Forger) -> ([Reference; 4], Vec<Item>) {
    let tree = |n: usize| vec![dir("home/agent"), file("home/agent/a", format!("version {n}"))];
    let first = full(forger, &tree(0));
    let second = on(forger, &first, &tree(1), &tree(1));
    let third = on(forger, &second, &tree(2), &tree(2));
    let fourth = on(forger, &third, &tree(3), &tree(3));
    ([first, second, third, fourth], tree(3))
}

/// `latest` has a whole chain; what has none is passed over with a word, and named it is refused.
#[test]
fn broken_chains_are_passed_over() {
    let (machine, forger) = a_machine();
    let ([first, second, third, fourth], tree) = four(&forger);
    let (newest, _) = restored(&machine, &fourth, "newest");
    same(&newest, &tree);

    // In pinned/ a parent is as good as anywhere.
    let pinned = machine.store().join("state/pinned").join(&forger.series);
    std::fs::create_dir_all(&pinned).unwrap();
    let away = directory(&machine, &forger, "hourly", &third);
    std::fs::rename(&away, pinned.join(away.file_name().unwrap())).unwrap();
    assert_eq!(restored(&machine, &fourth, "pinned").1.state.as_deref(), Some(fourth.id.as_str()));

    std::fs::remove_dir_all(pinned.join(away.file_name().unwrap())).unwrap();
    let (done, events) = machine.try_restore(&machine.target("older"), |_| {}).unwrap();
    assert_eq!(done.state.as_deref(), Some(second.id.as_str()));
    let words = format!("{} is skipped as damaged: it needs {}, which is not in the store", fourth.id, third.id);
    assert!(warnings(&events).iter().any(|w| w.contains(&words)), "{events:?}");
    let e = machine.try_restore(&machine.target("named"), |a| a.snapshot = fourth.id.to_string()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged);
    assert!(said(&e).contains(&format!("it needs {}, which is not in the store", third.id)), "{}", said(&e));

    // A volume of the full is gone: nothing that can be restored is left.
    std::fs::remove_file(directory(&machine, &forger, "monthly", &first).join("000000.tar.zst.age")).unwrap();
    let e = machine.try_restore(&machine.target("named"), |a| a.snapshot = second.id.to_string()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged);
    assert!(said(&e).contains("which is damaged: 000000.tar.zst.age is missing"), "{}", said(&e));
    // An older full is.
    let spare = forger.put_as(Archive::State, &SnapshotId::new(NOW - 5000, 7), 5, vec![dir("home/agent")], &|_| {});
    let (done, _) = machine.try_restore(&machine.target("spare"), |_| {}).unwrap();
    assert_eq!(done.state.as_deref(), Some(spare.id.as_str()));
    std::fs::remove_dir_all(directory(&machine, &forger, "monthly", &spare)).unwrap();
    std::fs::remove_dir_all(directory(&machine, &forger, "monthly", &first)).unwrap();
    let e = machine.try_restore(&machine.target("any"), |_| {}).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged, "{}", said(&e));
    assert!(!machine.target("any").exists());
}

/// When a member's time is over nobody is to blame.
#[test]
fn expired_chains_are_no_damage() {
    let (mut machine, forger) = a_machine();
    let tree = |n: usize| vec![dir("home/agent"), file("home/agent/a", format!("version {n}"))];
    let short = |draft: &mut Draft| draft.commit = Box::new(|text| text.replacen("# life 365", "# life 2", 1));
    let first = full(&forger, &tree(0));
    let second = forger.put_on(&first, tree(1), &tree(1), &short);
    let third = forger.put_on(&second, tree(2), &tree(2), &short);
    std::fs::remove_dir_all(directory(&machine, &forger, "hourly", &second)).unwrap();
    let named = |machine: &Machine| {
        machine.try_restore(&machine.target("named"), |a| a.snapshot = third.id.to_string()).unwrap_err()
    };
    assert_eq!(named(&machine).kind(), ErrorKind::Damaged);
    machine.world.fixed_now = Some(NOW + 2 * 86_400);
    let e = named(&machine);
    assert_eq!(e.kind(), ErrorKind::NotThere);
    let words = format!("snapshot {} has expired: it needs {}, which is past the end of its life", third.id, second.id);
    assert!(said(&e).contains(&words), "{}", said(&e));
    let (done, events) = machine.try_restore(&machine.target("latest"), |_| {}).unwrap();
    assert_eq!(done.state.as_deref(), Some(first.id.as_str()));
    assert!(warnings(&events).iter().any(|w| w.contains("skipped as expired")), "{events:?}");
}

/// A parent that is another one than its child was made on, or does not come before it, or is not signed.
#[test]
fn parents_are_who_they_were() {
    let (machine, forger) = a_machine();
    let ([_, second, third, fourth], _) = four(&forger);
    let refused = |says: &str| {
        let e = machine.try_restore(&machine.target("named"), |a| a.snapshot = fourth.id.to_string()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Damaged, "{}", said(&e));
        assert!(said(&e).contains(says), "{}", said(&e));
        assert!(!machine.target("named").exists());
    };
    let place = directory(&machine, &forger, "hourly", &third);
    let kept = machine.target("kept");
    std::fs::rename(&place, &kept).unwrap();
    // The same id, the same parent, validly signed, and yet another one.
    let mut draft_on = second.clone();
    draft_on.life = None;
    let other = [dir("home/agent"), file("home/agent/a", "planted")];
    let planted = forger.put_on_as(&draft_on, &third.id, 1_795_000_003, other.to_vec(), &other, &|_| {});
    assert_ne!(planted.sha256, third.sha256);
    refused(&format!("it needs {}, which is another one on the store than the one it was made on", third.id));
    std::fs::remove_dir_all(&place).unwrap();
    copy(&kept, &place);
    std::fs::write(place.join("commit.minisig"), "nothing").unwrap();
    refused("which does not verify");
    machine
        .try_restore(&machine.target("unsigned"), |a| {
            (a.snapshot, a.allow_unsigned) = (fourth.id.to_string(), true);
        })
        .unwrap();

    // A circle: each names the other, and neither comes first.
    let late = forger.put_on_as(&fourth, &SnapshotId::new(NOW - 10, 9), 1, other.to_vec(), &other, &|_| {});
    let e = machine.try_restore(&machine.target("late"), |a| a.snapshot = late.id.to_string()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged);
    assert!(said(&e).contains("says that it is the newer one of the two"), "{}", said(&e));
}

/// A database that an incremental patches goes over one with a log only with the log, whichever archive lists it.
#[test]
fn stale_logs_go_with_what_is_replaced() {
    let (machine, forger) = a_machine();
    let database = |draft: &mut Draft| {
        let facts = Facts { page_size: 4096, pages: 2, tables: BTreeMap::new(), rows: None, check: None };
        draft.header.databases = vec![Database { path: PathName::new(b"home/agent/x.db"), facts }];
    };
    let tree = |content: &[u8]| [dir("home/agent"), file("home/agent/other", "o"), file("home/agent/x.db", content)];
    let first = forger.put(Archive::State, tree(&blocks(b"ab")).to_vec(), &database);
    let new = blocks(b"aX");
    let items = [dir("home/agent"), delta("home/agent/x.db", "home/agent/x.db", &new, &[at(1)])];
    let second = on(&forger, &first, &items, &tree(&new));
    let (target, _) = restored(&machine, &second, "target");
    let log = target.join("home/agent/x.db-wal");
    std::fs::write(&log, "log").unwrap();
    std::fs::write(target.join("home/agent/other-wal"), "none of ours").unwrap();
    let (done, _) = machine.try_restore(&target, |a| (a.dry_run, a.snapshot) = (true, second.id.to_string())).unwrap();
    assert_eq!(done.different.len(), 1, "{:?}", done.different);
    machine.try_restore(&target, |a| (a.overwrite, a.snapshot) = (Overwrite::Always, second.id.to_string())).unwrap();
    assert!(!log.exists());
    assert!(target.join("home/agent/other-wal").exists());
    assert!(std::fs::read(target.join("home/agent/x.db")).unwrap() == new);
}
