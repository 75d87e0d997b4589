//! Chains that a malicious holder of the keys could sign: each refused with an error of its own, and nothing written.

use lifeboat::Kind as ErrorKind;

use crate::chains::{a_machine, at, blocks, full, with};
use crate::forge::{Draft, Item, deleted, delta, dir, file, hardlink, missing, said, snapshot, symlink};

/// One attack on a chain: what the parent has beside a file, what the incremental lists, and what the refusal says.
struct Attack {
    name: &'static str,
    parent: Vec<Item>,
    items: Vec<Item>,
    edit: Box<dyn Fn(&mut Draft)>,
    says: &'static str,
    kind: ErrorKind,
}

fn attack(name: &'static str, parent: Vec<Item>, items: Vec<Item>, says: &'static str) -> Attack {
    Attack { name, parent, items, edit: Box::new(|_| {}), says, kind: ErrorKind::Damaged }
}

/// Bases and targets that are not what they must be.
fn bases() -> Vec<Attack> {
    let x = |base: &str, extents: &[(u64, u64)]| delta("home/agent/x", base, blocks(b"xy"), extents);
    let none = Vec::new;
    vec![
        attack(
            "a base that is not there",
            none(),
            vec![x("home/agent/none", &[])],
            "which is not in the parent's tree",
        ),
        attack(
            "a base that is a directory",
            vec![dir("home/agent/d")],
            vec![x("home/agent/d", &[])],
            "home/agent/d, which is a directory in the parent's tree",
        ),
        attack(
            "a base that is a symbolic link",
            vec![symlink("home/agent/l", "f")],
            vec![x("home/agent/l", &[])],
            "home/agent/l, which is a symbolic link in the parent's tree",
        ),
        attack(
            "a base that could not be read",
            vec![missing("home/agent/m")],
            vec![x("home/agent/m", &[])],
            "home/agent/m, which could not be read in the parent's tree",
        ),
        attack("a base elsewhere", none(), vec![x("home/../etc", &[])], "its base is impossible"),
        attack("itself, new", none(), vec![x("home/agent/x", &[])], "which is not in the parent's tree"),
    ]
}

/// Extents, and what a patch holds of them.
fn extents() -> Vec<Attack> {
    let x = |base: &str, extents: &[(u64, u64)]| delta("home/agent/x", base, blocks(b"xy"), extents);
    let none = Vec::new;
    let mut out = vec![
        attack("extents out of order", none(), vec![x("home/agent/f", &[at(1), at(0)])], "its extents overlap"),
        attack("extents that overlap", none(), vec![x("home/agent/f", &[(0, 8192), at(1)])], "its extents overlap"),
        attack(
            "extents beyond the end",
            none(),
            vec![x("home/agent/f", &[at(2)])],
            "its extents overlap or leave the file",
        ),
        attack(
            "an extent that overflows",
            none(),
            vec![x("home/agent/f", &[(u64::MAX - 4095, 8192)])],
            "an extent overflows",
        ),
        attack(
            "extents that are no blocks",
            none(),
            vec![x("home/agent/f", &[(1, 4096)])],
            "not multiples of 4096 bytes",
        ),
        attack(
            "a patch for another base",
            none(),
            vec![x("home/agent/f", &[at(1)])],
            "home/agent/x is not what the manifest says",
        ),
        attack(
            "holes and a delta",
            none(),
            vec![with(x("home/agent/f", &[]), |e| e.extents = Some(Vec::new()))],
            "it is a delta and has holes",
        ),
        attack(
            "a link to what it does not make",
            none(),
            vec![hardlink("home/agent/x", "home/agent/f")],
            "which the archive that lists the link does not make",
        ),
        attack(
            "a link to nothing",
            none(),
            vec![hardlink("home/agent/x", "home/agent/none")],
            "does not lead to one of its files",
        ),
        attack(
            "something below a file",
            none(),
            vec![file("home/agent/f/x", "x")],
            "home/agent/f, which is no directory",
        ),
        attack("a source deleted", none(), vec![deleted("home")], "is no directory"),
        attack(
            "a delta that claims terabytes",
            none(),
            vec![with(x("home/agent/f", &[]), |e| e.size = 1 << 50)],
            "free, the restore needs",
        ),
    ];
    out.last_mut().unwrap().kind = ErrorKind::Failed;
    let many: Vec<(u64, u64)> = (0..100_001).map(|n| (n * 8192, 4096)).collect();
    let mut large = delta("home/agent/x", "home/agent/f", blocks(b"x"), &[at(0)]);
    large.1.size = 100_001 * 8192;
    large.1.delta.as_mut().unwrap().extents = many;
    out.push(attack("100,001 extents", none(), vec![large], "more than 100000 extents"));
    let mut short = attack(
        "a patch that is too short",
        none(),
        vec![x("home/agent/f", &[at(0), at(1)])],
        "lies outside the archive",
    );
    short.edit = Box::new(|draft| {
        let end = draft.header.tar_bytes();
        let old = draft.lines.iter().find_map(|l| at_of(l)).unwrap();
        draft.replace(&format!("\"at\":{old},"), &format!("\"at\":{},", end - 4096));
    });
    out.push(short);
    out
}

/// Where a line says that the patch lies.
fn at_of(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).unwrap();
    let (_, rest) = text.split_once("\"at\":")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whoever holds the keys can sign any of these; nothing of it appears.
#[test]
fn chains_that_make_no_sense() {
    let (machine, forger) = a_machine();
    for attack in bases().into_iter().chain(extents()) {
        let Attack { name, parent, items, edit, says, kind } = attack;
        let mut base = vec![dir("home/agent"), file("home/agent/f", blocks(b"ab"))];
        base.extend(parent);
        base.sort_by(|a, b| a.0.cmp(&b.0));
        let first = full(&forger, &base);
        let mut tree: Vec<Item> = base.iter().chain(&items).cloned().collect();
        tree.sort_by(|a, b| a.0.cmp(&b.0));
        let second = forger.put_on(&first, items, &tree, &*edit);
        let before = snapshot(&machine.root());
        let target = machine.target("target");
        std::fs::create_dir_all(&target).unwrap();
        let e = machine.try_restore(&target, |a| a.snapshot = second.id.to_string()).unwrap_err();
        assert!(said(&e).contains(says), "{name}: says `{}`, not `{says}`", said(&e));
        assert_eq!(e.kind(), kind, "{name}: {}", said(&e));
        std::fs::remove_dir(&target).unwrap_or_else(|e| panic!("{name}: left something behind: {e}"));
        // What would fill a disk is refused for want of room, and a pipe has that.
        if kind == ErrorKind::Damaged {
            let e = machine.dump(second.id.as_str()).unwrap_err();
            assert_eq!(e.kind(), kind, "{name}: dump: {}", said(&e));
        }
        assert_eq!(snapshot(&machine.root()), before, "{name}: something outside the target changed");
        std::fs::remove_dir_all(machine.store().join("state")).unwrap();
    }
}

/// What is gone from the parent's tree is no base, though an older archive has it.
#[test]
fn bases_that_the_parent_deleted() {
    let (machine, forger) = a_machine();
    let f = || file("home/agent/f", blocks(b"ab"));
    let d = || [dir("home/agent/d"), file("home/agent/d/f", blocks(b"ab"))];
    let first = full(&forger, &[&[dir("home/agent")][..], &d(), &[f()]].concat());
    let gone = [dir("home/agent"), deleted("home/agent/d"), deleted("home/agent/f")];
    let second = forger.put_on(&first, gone.to_vec(), &[dir("home/agent")], &|_| {});
    for base in ["home/agent/f", "home/agent/d/f"] {
        let tree = [dir("home/agent"), file("home/agent/x", blocks(b"xy"))];
        let items = vec![dir("home/agent"), delta("home/agent/x", base, blocks(b"xy"), &[at(0)])];
        let third = forger.put_on(&second, items, &tree, &|_| {});
        let e = machine.try_restore(&machine.target("t"), |a| a.snapshot = third.id.to_string()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Damaged);
        assert!(said(&e).contains(&format!("{base}, which is not in the parent's tree")), "{}", said(&e));
        assert!(!machine.target("t").exists());
    }
}

/// A parent is of the same series, and an incremental of a manifest that its own commit names.
#[test]
fn parents_of_another_series() {
    let (machine, forger) = a_machine();
    let tree = [dir("home/agent"), file("home/agent/a", "1")];
    let first = full(&forger, &tree);
    let second = forger.put_on(&first, tree.to_vec(), &tree, &|_| {});
    let state = machine.store().join("state/monthly");
    std::fs::rename(state.join(&forger.series), state.join("another")).unwrap();
    let e = machine.try_restore(&machine.target("t"), |a| a.snapshot = second.id.to_string()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged);
    assert!(said(&e).contains(&format!("it needs {}, which is not in the store", first.id)), "{}", said(&e));
    std::fs::rename(state.join("another"), state.join(&forger.series)).unwrap();

    // The manifest says that it was made on something else.
    let third = forger.put_on(&first, tree.to_vec(), &tree, &|draft| draft.header.parent = Some(second.id.to_string()));
    let e = machine.try_restore(&machine.target("t"), |a| a.snapshot = third.id.to_string()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged);
    assert!(said(&e).contains("belongs to another commit than it stands beside"), "{}", said(&e));

    // Its tree digest is another one than the merged tree's.
    let other = [dir("home/agent"), file("home/agent/a", "2")];
    let fourth = forger.put_on(&first, tree.to_vec(), &other, &|_| {});
    let e = machine.try_restore(&machine.target("t"), |a| a.snapshot = fourth.id.to_string()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged);
    assert!(said(&e).contains("are not those that its tree digest was made of"), "{}", said(&e));
    assert_eq!(std::fs::read_dir(machine.target("t")).map_or(0, Iterator::count), 0);
}

/// What stands in for a missing directory is no link that the snapshot's own files go through, and holds none below a file.
#[test]
fn stand_ins_that_are_no_directories() {
    let (machine, forger) = a_machine();
    let outside = machine.target("outside");
    std::fs::create_dir(&outside).unwrap();
    let link = symlink("home/agent/l", outside.as_os_str().as_encoded_bytes());
    let old = [dir("home/agent"), dir("home/agent/d"), dir("home/agent/d/e"), file("home/agent/d/e/f", "f"), link];
    let first = full(&forger, &old);
    let items = [
        dir("home/agent"),
        missing("home/agent/d"),
        file("home/agent/d/e", "a file now"),
        missing("home/agent/l"),
        file("home/agent/l/evil", "evil"),
    ];
    let second = forger.put_on(&first, items.to_vec(), &items, &|_| {});
    let target = machine.target("target");
    let (done, _) = machine.try_restore(&target, |a| a.snapshot = second.id.to_string()).unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "went through the link");
    assert_eq!(std::fs::read(target.join("home/agent/l/evil")).unwrap(), b"evil");
    assert_eq!(std::fs::read(target.join("home/agent/d/e")).unwrap(), b"a file now");
    assert_eq!(done.missing, ["home/agent/l: what older snapshots have there is no directory"]);
    assert_eq!(done.older.len(), 1, "{:?}", done.older);
}
