//! Archives made by somebody who holds the keys and means no good. Each is refused with an error of its own, and
//! nothing appears at the target or anywhere else.

use lifeboat::Kind as ErrorKind;
use lifeboat::model::commit::Reference;
use lifeboat::model::entry::Entry;
use lifeboat::model::manifest::VolumePlace;
use lifeboat::model::store_key::{Archive, SnapshotId};

use crate::forge::{Draft, Forger, Item, dir, file, hardlink, said, sealed, snapshot, symlink};
use crate::world::{Machine, NOW};

/// One attack: its name, what the archive lists, what is changed before it is signed, what the refusal says.
struct Vector {
    name: &'static str,
    items: Vec<Item>,
    edit: Box<dyn Fn(&mut Draft)>,
    says: &'static str,
    kind: ErrorKind,
}

fn items(name: &'static str, items: Vec<Item>, says: &'static str) -> Vector {
    Vector { name, items, edit: Box::new(|_| {}), says, kind: ErrorKind::Damaged }
}

fn edit(name: &'static str, edit: impl Fn(&mut Draft) + 'static, says: &'static str) -> Vector {
    Vector { name, items: plain(), edit: Box::new(edit), says, kind: ErrorKind::Damaged }
}

fn replace(name: &'static str, from: &'static str, to: &'static str, says: &'static str) -> Vector {
    edit(name, move |d| d.replace(from, to), says)
}

fn plain() -> Vec<Item> {
    vec![
        dir("home/agent"),
        file("home/agent/a", "content of a"),
        file("home/agent/b", vec![7; 9000]),
        symlink("home/agent/l", "a"),
    ]
}

/// `item` with its entry changed.
fn with(mut item: Item, change: impl Fn(&mut Entry)) -> Item {
    change(&mut item.1);
    item
}

fn one(path: &[u8]) -> Vec<Item> {
    vec![file(path, "x")]
}

fn a_machine() -> (Machine, Forger) {
    let machine = Machine::new();
    machine.write("agent/a", "x");
    machine.init(&["agent"]);
    let forger = Forger::of(&machine);
    (machine, forger)
}

/// Restores, which must be refused, and looks that nothing was written.
fn refused(machine: &Machine, name: &str, kind: ErrorKind, says: &str) {
    let before = snapshot(&machine.root());
    let target = machine.target("target");
    std::fs::create_dir_all(&target).unwrap();
    for overwrite in [false, true] {
        let error = match machine.try_restore(&target, |a| a.overwrite = overwrite) {
            Ok((done, _)) => panic!("{name}: was restored: {done:?}"),
            Err(e) => e,
        };
        let text = said(&error);
        assert!(text.contains(says), "{name}: says `{text}`, not `{says}`");
        assert_eq!(error.kind(), kind, "{name}: {text}");
        let left: Vec<_> = snapshot(&target).into_keys().collect();
        assert_eq!(left, Vec::<std::path::PathBuf>::new(), "{name}: left something behind");
    }
    std::fs::remove_dir(&target).unwrap();
    assert_eq!(snapshot(&machine.root()), before, "{name}: something outside the target changed");
}

fn check(vectors: Vec<Vector>) {
    let (machine, forger) = a_machine();
    for vector in vectors {
        let Vector { name, items, edit, says, kind } = vector;
        forger.put(Archive::State, items, &*edit);
        refused(&machine, name, kind, says);
        std::fs::remove_dir_all(machine.store().join("state")).unwrap();
    }
}

#[test]
fn the_forger_can_write_honestly() {
    let (machine, forger) = a_machine();
    let mut items = plain();
    items.push(hardlink("home/agent/z", "home/agent/a"));
    forger.put(Archive::State, items, &|_| {});
    forger.put(Archive::Secrets, vec![with(file("home/agent/.env", "K=fake"), |e| e.mode = 0o600)], &|_| {});
    let target = machine.target("target");
    machine.restore(&target);
    assert_eq!(std::fs::read(target.join("home/agent/z")).unwrap(), b"content of a");
    assert_eq!(std::fs::read(target.join("home/agent/.env")).unwrap(), b"K=fake");
}

#[test]
fn paths_that_lead_out() {
    check(vec![
        items("absolute", one(b"/etc/x"), "it is absolute"),
        items("parent", one(b"home/../x"), "it climbs with `..`"),
        items("parent at the start", one(b"../x"), "it climbs with `..`"),
        items("parent at the end", one(b"home/agent/.."), "it climbs with `..`"),
        items("dot", one(b"home/./x"), "a component `.`"),
        items("empty", one(b""), "it is empty"),
        items("empty component", one(b"home//x"), "an empty component"),
        items("slash at the end", one(b"home/x/"), "an empty component"),
        items("NUL", one(b"home/x\0y"), "a NUL byte"),
        items("elsewhere", one(b"etc/x"), "neither below home nor below root"),
        items("like home", one(b"homes/x"), "neither below home nor below root"),
        items("lifeboat's own", one(b"lifeboat/databases"), "neither below home nor below root"),
        items("a name of 256 bytes", one(&[&b"home/"[..], &[b'n'; 256]].concat()), "longer than 255 bytes"),
        items("a name of 65,536 bytes", one(&[&b"home/"[..], &[b'n'; 65_536]].concat()), "longer than 255 bytes"),
        items(
            "a path of 65,536 bytes",
            one(&[&b"home/"[..], &b"nn/".repeat(21_845), b"m"].concat()),
            "too long a name",
        ),
        items(
            "a path over a megabyte",
            one(&[&b"home/"[..], &b"nn/".repeat(400_000), b"m"].concat()),
            "it is too long",
        ),
        items("home is a link", vec![symlink("home", "/tmp")], "home of the manifest is no directory"),
        items("root is a file", one(b"root"), "root of the manifest is no directory"),
        replace(
            "path twice",
            r#""path":"home/agent/a""#,
            r#""path":"home/agent/a","path_b64":"eA==""#,
            "has its path twice",
        ),
        replace("no path", r#""path":"home/agent/a","#, "", "has no path"),
        replace("path not base64", r#""path":"home/agent/a""#, r#""path_b64":"!""#, "is not base64"),
    ]);
}

#[test]
fn trees_that_are_none() {
    check(vec![
        items("duplicate", vec![file("home/a", "1"), file("home/a", "2")], "is listed twice"),
        items("out of order", vec![file("home/b", "1"), file("home/a", "2")], "is out of order"),
        items("child first", vec![file("home/d/a", "1"), dir("home/d")], "is out of order"),
        items("below a file", vec![file("home/f", "1"), file("home/f/x", "2")], "below home/f, which is no directory"),
        items(
            "below a file, with others between",
            vec![file("home/f", "1"), file("home/f-", "1"), file("home/f/x", "2")],
            "below home/f, which is no directory",
        ),
        items(
            "file through a symlink",
            vec![symlink("home/l", "/tmp"), file("home/l/x", "2")],
            "below home/l, which is no directory",
        ),
        items(
            "file through a symlink, two levels up",
            vec![symlink("home/l", "/tmp"), file("home/l/d/x", "2")],
            "below home/l, which is no directory",
        ),
        items(
            "below a hard link",
            vec![file("home/a", "1"), hardlink("home/h", "home/a"), file("home/h/x", "")],
            "below home/h, which is no directory",
        ),
        items(
            "deleted in a full",
            vec![(b"home/a".to_vec(), Entry::new(lifeboat::model::entry::Kind::Deleted), Vec::new())],
            "in a full",
        ),
    ]);
}

#[test]
fn links_that_lead_nowhere_good() {
    let leads = "does not lead to one of its files";
    check(vec![
        items("hard link outside", vec![hardlink("home/h", "/etc/passwd")], leads),
        items("hard link above", vec![hardlink("home/h", "home/../../etc/passwd")], leads),
        items("hard link to nothing", vec![hardlink("home/h", "home/x")], leads),
        items("hard link to a symlink", vec![hardlink("home/h", "home/l"), symlink("home/l", "/etc/passwd")], leads),
        items("hard link to a directory", vec![dir("home/d"), hardlink("home/h", "home/d")], leads),
        items(
            "hard link to a hard link",
            vec![file("home/a", "1"), hardlink("home/h", "home/a"), hardlink("home/i", "home/h")],
            leads,
        ),
        items("hard link to itself", vec![hardlink("home/h", "home/h")], leads),
        items("hard link to nothing at all", vec![hardlink("home/h", "")], leads),
        items("symlink with NUL", vec![symlink("home/l", "a\0b")], "a NUL byte"),
        items("symlink to nothing", vec![symlink("home/l", "")], "its target is empty"),
        items("symlink over PATH_MAX", vec![symlink("home/l", vec![b'x'; 4096])], "its target is longer than"),
        replace("symlink without target", r#","target":"a""#, "", "it has no target"),
    ]);
}

#[test]
fn kinds_and_fields_that_make_no_sense() {
    let kind = |to| replace("kind", r#""kind":"symlink""#, to, "is not one that can be restored");
    let own = || format!(r#""uid":{},"#, rustix::process::geteuid().as_raw());
    check(vec![
        kind(r#""kind":"block""#),
        kind(r#""kind":"char""#),
        kind(r#""kind":"fifo""#),
        kind(r#""kind":"socket""#),
        kind(r#""kind":"File""#),
        kind(r#""kind":"\u001b[2J""#),
        replace("no kind", r#""kind":"symlink","#, "", "is malformed"),
        items(
            "mode with type bits",
            vec![with(file("home/a", "x"), |e| e.mode = 0o10_644)],
            "its mode has unknown bits",
        ),
        replace("mode over 16 bits", r#""mode":"644""#, r#""mode":"100644""#, "unknown bits"),
        replace("mode over 32 bits", r#""mode":"644""#, r#""mode":"77777777777777""#, "it has no mode"),
        replace("mode not octal", r#""mode":"644""#, r#""mode":"rw""#, "it has no mode"),
        replace("negative size", r#""size":9000"#, r#""size":-1"#, "is malformed"),
        replace("size over 64 bits", r#""size":9000"#, r#""size":99999999999999999999"#, "is malformed"),
        replace(
            "size over what files have",
            r#""size":9000"#,
            r#""size":18446744073709551615"#,
            "larger than a file can be",
        ),
        replace("no digest", r#""blake3":""#, r#""blake4":""#, "it has no blake3"),
        edit("negative owner", move |d| d.replace(&own(), r#""uid":-1,"#), "is malformed"),
        replace("time without nanoseconds", r#""mtime":"0.000000000""#, r#""mtime":"0""#, "it has no mtime"),
        replace("time with too many", r#""mtime":"0.000000000""#, r#""mtime":"0.0000000000""#, "it has no mtime"),
        items(
            "xattr with NUL",
            vec![with(file("home/a", "x"), |e| e.xattrs = vec![(b"user.\0".to_vec(), vec![])])],
            "attribute's name",
        ),
        items(
            "xattr without name",
            vec![with(file("home/a", "x"), |e| e.xattrs = vec![(vec![], vec![])])],
            "attribute's name",
        ),
        items(
            "xattr with a long name",
            vec![with(file("home/a", "x"), |e| e.xattrs = vec![([b"user.", &[b'n'; 300][..]].concat(), vec![])])],
            "attribute's name",
        ),
        replace(
            "xattr twice",
            r#""size":9000"#,
            r#""xattrs":{"user.x":"eA=="},"xattrs_b64":[["dXNlci54","eQ=="]],"size":9000"#,
            "an attribute twice",
        ),
        replace("xattr not base64", r#""size":9000"#, r#""xattrs":{"user.x":"!"},"size":9000"#, "is not base64"),
        replace("not JSON", r#"{"path":"home/agent/l""#, r#"{"path":home/agent/l""#, "is malformed"),
    ]);
}

#[test]
fn contents_that_are_elsewhere() {
    let big = vec![7; 9000];
    let at = |at: u64| move |e: &mut Entry| e.at = Some(at);
    let extents = |list: &'static [(u64, u64)]| move |e: &mut Entry| e.extents = Some(list.to_vec());
    check(vec![
        items("at behind the end", vec![with(file("home/a", "x"), at(1 << 30))], "outside the archive"),
        items("at that overflows", vec![with(file("home/a", "x"), at(u64::MAX))], "outside the archive"),
        items("at the very end", vec![with(file("home/a", "xy"), at(4095))], "outside the archive"),
        items("at another place", vec![with(file("home/a", "xy"), at(7))], "content of home/a is not what"),
        replace("no place", r#""at":"#, r#""ad":"#, "no place in the archive"),
        items(
            "wrong content",
            vec![with(file("home/a", "x"), |e| e.blake3 = [9; 32])],
            "content of home/a is not what",
        ),
        items(
            "wrong content of nothing",
            vec![with(file("home/a", ""), |e| e.blake3 = [9; 32])],
            "content of home/a is not what",
        ),
        items(
            "wrong content of a hole",
            vec![with(file("home/a", ""), |e| {
                e.size = 5;
                e.extents = Some(Vec::new());
            })],
            "content of home/a is not what",
        ),
        items("too long", vec![with(file("home/a", "x"), |e| e.size = 2)], "content of home/a is not what"),
        items("too long for the archive", vec![with(file("home/a", "x"), |e| e.size = 1 << 40)], "outside the archive"),
        items(
            "extents overlap",
            vec![with(file("home/a", &big), extents(&[(0, 4096), (4000, 100)]))],
            "overlap or leave",
        ),
        items(
            "extents out of order",
            vec![with(file("home/a", &big), extents(&[(4096, 4096), (0, 4096)]))],
            "overlap or leave",
        ),
        items("extent behind the end", vec![with(file("home/a", &big), extents(&[(8192, 4096)]))], "overlap or leave"),
        items("extent overflows", vec![with(file("home/a", &big), extents(&[(u64::MAX, 2)]))], "overflows"),
        items(
            "extents that leave out data",
            vec![with(file("home/a", &big), extents(&[(0, 4096)]))],
            "content of home/a is not what",
        ),
        items(
            "sizes overflow together",
            (0..3)
                .map(|n| {
                    with(file(format!("home/{n}"), ""), |e| {
                        e.size = (1 << 63) - 1;
                        e.extents = Some(Vec::new());
                    })
                })
                .collect(),
            "too many bytes",
        ),
    ]);
}

/// Files that share bytes of the archive: allowed or refused, but never restored with bytes left out.
#[test]
fn contents_that_overlap() {
    let (machine, forger) = a_machine();
    let long: Vec<u8> = (0..20u32 << 20).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let mut items = vec![file("home/a", &long)];
    for n in 0..40usize {
        let start = n * 300_000;
        let mut inner = file(format!("home/b{n:02}"), &long[start..start + 200_000]);
        inner.2.clear();
        items.push(inner);
    }
    // The first member's content begins behind its headers: a block each for extended header, its records, and the file.
    for (n, item) in items[1..].iter_mut().enumerate() {
        item.1.at = Some(1536 + 300_000 * n as u64);
    }
    forger.put(Archive::State, items, &|d| d.header.bytes = (20 << 20) + 40 * 200_000);
    let target = machine.target("target");
    match machine.try_restore(&target, |_| {}) {
        Ok(_) => {
            assert!(std::fs::read(target.join("home/a")).unwrap() == long, "restored with bytes left out");
            for n in 0..40usize {
                let read = std::fs::read(target.join(format!("home/b{n:02}"))).unwrap();
                assert!(read == long[n * 300_000..n * 300_000 + 200_000]);
            }
        }
        Err(e) => assert_eq!(e.kind(), ErrorKind::Damaged, "{}", said(&e)),
    }
}

#[test]
fn headers_that_lie() {
    let other = "belongs to another commit";
    check(vec![
        edit("archive", |d| d.header.archive = "secrets".into(), "another kind of archive"),
        edit("series", |d| d.header.series = "other".into(), other),
        edit("id", |d| d.header.id = SnapshotId::new(NOW, 99).to_string(), other),
        edit("seq", |d| d.header.seq += 1, other),
        edit("tier", |d| d.header.tier = Some("daily".into()), other),
        edit("generation", |d| d.header.generation = Some(SnapshotId::new(NOW, 99).to_string()), other),
        edit("parent", |d| d.header.parent = Some(SnapshotId::new(NOW, 99).to_string()), other),
        edit("too many files", |d| d.header.counts.files += 1, "as many entries as its header says"),
        edit("too few directories", |d| d.header.counts.directories = 0, "as many entries as its header says"),
        edit("bytes", |d| d.header.bytes += 1, "as many bytes as its header says"),
        edit("tree digest", |d| d.header.tree = "0".repeat(64), "not those that its tree digest was made of"),
        edit(
            "an entry less",
            |d| {
                d.lines.pop();
                d.header.counts.symlinks = 0;
            },
            "not those that its tree digest was made of",
        ),
        Vector {
            kind: ErrorKind::Failed,
            ..edit("format", |d| d.header.format = 2, "of format 2, this program reads 1")
        },
        replace("no format", r#""format":1"#, r#""form":1"#, "header is malformed"),
        edit("empty", |d| d.raw = Some(Vec::new()), "is empty"),
        edit("no newline", |d| d.raw = Some(b"{".to_vec()), "in the middle of a line"),
        edit("not JSON", |d| d.raw = Some(b"]\n".to_vec()), "header is malformed"),
        edit("not zstd", |d| d.sealed = Some(sealed(&d.recipients, b"not zstd at all")), "truncated or altered"),
        edit("not age", |d| d.sealed = Some(b"not age".to_vec()), "is not an age file"),
        edit("nothing", |d| d.sealed = Some(Vec::new()), "is not an age file"),
        edit("empty age", |d| d.sealed = Some(sealed(&d.recipients, b"")), "truncated or altered"),
        edit(
            "cut short",
            |d| {
                let whole = manifest(d);
                d.sealed = Some(whole[..whole.len() - 20].to_vec());
            },
            "truncated or altered",
        ),
        edit(
            "last line cut",
            |d| {
                let last = d.lines.last_mut().unwrap();
                last.truncate(9);
            },
            "is malformed",
        ),
    ]);
}

fn manifest(d: &Draft) -> Vec<u8> {
    let mut raw = serde_json::to_vec(&d.header).unwrap();
    raw.push(b'\n');
    d.lines.iter().for_each(|l| raw.extend([&l[..], b"\n"].concat()));
    sealed(&d.recipients, &zstd::stream::encode_all(&raw[..], 3).unwrap())
}

#[test]
fn frame_tables_that_lie() {
    let follow = "does not follow the one before";
    check(vec![
        edit("gap in the tar", |d| d.header.frames[0].tar_offset = 1, follow),
        edit("gap in the volume", |d| d.header.frames[0].offset = 1, follow),
        edit("another volume", |d| d.header.frames[0].volume = 1, follow),
        edit("last volume", |d| d.header.frames[0].volume = u32::MAX, follow),
        edit(
            "overlap",
            |d| {
                let f = d.header.frames[0];
                d.header.frames.push(f);
            },
            follow,
        ),
        edit("nothing in it", |d| d.header.frames[0].tar_length = 0, "impossible length"),
        edit("giant", |d| d.header.frames[0].tar_length = u32::MAX, "impossible length"),
        edit("over 16 MiB", |d| d.header.frames[0].tar_length = (16 << 20) + 1, "impossible length"),
        edit("no bytes", |d| d.header.frames[0].length = 0, "impossible length"),
        edit("giant when compressed", |d| d.header.frames[0].length = u32::MAX, "impossible length"),
        edit("longer than its volume", |d| d.header.frames[0].length += 1, "leaves its volume"),
        edit("shorter", |d| d.header.frames[0].length -= 1, "not the one that the manifest lists"),
        edit("longer tar", |d| d.header.frames[0].tar_length += 1, "does not decompress to what"),
        edit("up to the limit", |d| d.header.frames[0].tar_length = 16 << 20, "does not decompress to what"),
        edit("shorter tar", |d| d.header.frames[0].tar_length -= 512, "does not decompress to what"),
        edit("digest", |d| d.header.frames[0].blake3 = [0; 32], "not the one that the manifest lists"),
        edit("no frames", |d| d.header.frames.clear(), "volume without frames"),
        edit(
            "one volume more",
            |d| d.header.volumes.push(VolumePlace { header: 0, plain: 9 }),
            "volume without frames",
        ),
        edit("no volumes", |d| d.header.volumes.clear(), "leaves its volume"),
        edit("volume longer", |d| d.header.volumes[0].plain += 1, "longer or shorter"),
        edit("volume larger than anything", |d| d.header.volumes[0].plain = u64::MAX, "longer or shorter"),
        replace("digest not hex", r#"[0,0,"#, r#"[0,-1,"#, "header is malformed"),
    ]);
}

/// `n` bytes of zeros as one zstd frame; with `hide`, without the content size in its header.
fn bomb(n: usize, hide: bool) -> Vec<u8> {
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    zstd.include_contentsize(!hide).unwrap();
    if !hide {
        zstd.set_pledged_src_size(Some(n as u64)).unwrap();
    }
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), n as u64), &mut zstd).unwrap();
    zstd.finish().unwrap()
}

/// Makes the only volume a bomb that says to be `said` bytes of tar.
fn arm(d: &mut Draft, frame: &[u8], said: u32) {
    d.volume(0, frame);
    let f = &mut d.header.frames[0];
    f.length = u32::try_from(frame.len()).unwrap();
    f.blake3 = *blake3::hash(frame).as_bytes();
    f.tar_length = said;
}

#[test]
fn volumes_that_are_not_what_they_say() {
    check(vec![
        edit(
            "bomb beyond what it says",
            |d| {
                let n = d.header.frames[0].tar_length;
                arm(d, &bomb(n as usize + 1, false), n)
            },
            "does not decompress to what",
        ),
        edit("bomb of 1 GiB", |d| arm(d, &bomb(1 << 30, false), 1 << 20), "does not decompress to what"),
        edit(
            "bomb of 1 GiB that hides its size",
            |d| arm(d, &bomb(1 << 30, true), 16 << 20),
            "does not decompress to what",
        ),
        edit("bomb below what it says", |d| arm(d, &bomb(1 << 20, true), 16 << 20), "does not decompress to what"),
        edit(
            "zeros",
            |d| {
                let n = d.header.frames[0].tar_length;
                arm(d, &bomb(n as usize, false), n)
            },
            "is not what the manifest says",
        ),
        edit(
            "two frames as one",
            |d| {
                let two = [bomb(4096, false), bomb(4096, false)].concat();
                arm(d, &two, 16 << 10)
            },
            "does not decompress to what",
        ),
        edit("not zstd", |d| arm(d, b"not zstd at all", 16 << 10), "does not decompress to what"),
        edit("not age", |d| d.volumes[0] = b"not age".to_vec(), "is not an age file"),
        edit("no bytes", |d| d.volumes[0].clear(), "is not an age file"),
        edit("an age header without end", |d| d.volumes[0] = vec![b'-'; 200_000], "is not an age file"),
        edit(
            "an age header of 100 KiB",
            |d| {
                let stanza = format!("-> X25519 {}\n{}\n", "A".repeat(43), "A".repeat(43));
                let at = b"age-encryption.org/v1\n".len();
                d.volumes[0].splice(at..at, stanza.repeat(1000).into_bytes());
            },
            "is not an age file",
        ),
        edit(
            "to others",
            |d| {
                let (recipient, _) = lifeboat::stream::age_keys::generate();
                d.recipients = lifeboat::stream::age_keys::Recipients::parse(&[recipient]).unwrap();
                d.sealed = Some(manifest_for(d));
                d.volume(0, b"x");
            },
            "sealed to others than the manifest",
        ),
        edit(
            "cut",
            |d| {
                let n = d.volumes[0].len();
                d.volumes[0].truncate(n - 1)
            },
            "truncated or altered",
        ),
        edit("a byte more", |d| d.volumes[0].push(0), "truncated or altered"),
    ]);
}

/// The manifest, sealed to whom it was before the recipients were changed.
fn manifest_for(d: &Draft) -> Vec<u8> {
    let before = lifeboat::stream::age_keys::Recipients::parse(&d.header.recipients).unwrap();
    let mut raw = serde_json::to_vec(&d.header).unwrap();
    raw.push(b'\n');
    d.lines.iter().for_each(|l| raw.extend([&l[..], b"\n"].concat()));
    sealed(&before, &zstd::stream::encode_all(&raw[..], 3).unwrap())
}

#[test]
fn manifests_without_end() {
    let long = |prefix: &'static [u8], n: usize| {
        move |d: &mut Draft| {
            let mut header = serde_json::to_vec(&d.header).unwrap();
            header.push(b'\n');
            let start = if prefix.is_empty() { Vec::new() } else { header };
            let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
            std::io::Write::write_all(&mut zstd, &[&start[..], prefix].concat()).unwrap();
            std::io::copy(&mut std::io::Read::take(std::io::repeat(b' '), n as u64), &mut zstd).unwrap();
            d.sealed = Some(sealed(&d.recipients, &zstd.finish().unwrap()));
        }
    };
    check(vec![
        edit("a line too long", long(br#"{"path":"home/x","#, (16 << 20) + 1), "too long"),
        edit("a line of 1 GiB", long(br#"{"path":"home/x","#, 1 << 30), "too long"),
        edit("a header of 1 GiB", long(b"", 1 << 30), "too long"),
    ]);
}

#[test]
fn commits_that_lie() {
    let edit_commit = |name, from: &'static str, to: &'static str, says| {
        edit(
            name,
            move |d: &mut Draft| {
                d.commit = Box::new(move |text: String| {
                    assert!(text.contains(from), "{text}");
                    text.replacen(from, to, 1)
                });
            },
            says,
        )
    };
    check(vec![
        edit_commit("archive", "archive state", "archive secrets", "says another archive than its name"),
        edit_commit("tier", "tier monthly", "tier daily", "says another tier than its name"),
        edit_commit("series", "series ", "series x", "says another series than its name"),
        edit_commit("seq", "seq ", "seq 1", "belongs to another commit"),
        edit_commit("negative seq", "seq ", "seq -", "is no number"),
        edit_commit("no life", "# life 365\n", "", "no `life`"),
        edit_commit("path in an object", "  000000.tar", "  ../000000.tar", "unknown name"),
        edit_commit(
            "object gone",
            " 000000.tar.zst.age\n# size",
            " 000001.tar.zst.age\n# size",
            "do not list the volumes in order",
        ),
        edit_commit("size", "# size ", "# size 1", "wrong size"),
        Vector {
            kind: ErrorKind::Failed,
            ..edit_commit("version", "commit 1", "commit 2", "of version 2, this program reads 1")
        },
    ]);
}

/// State and secrets that do not fit together; `says` is empty where they do.
fn together(name: &str, state: Vec<Item>, secrets: Vec<Item>, says: &str) {
    let (machine, forger) = a_machine();
    let secrets = secrets.into_iter().map(|i| with(i, |e| e.mode &= 0o700)).collect();
    forger.put(Archive::State, state, &|_| {});
    forger.put(Archive::Secrets, secrets, &|_| {});
    refused(&machine, name, ErrorKind::Damaged, says);
}

#[test]
fn archives_that_contradict_each_other() {
    let no_directory = "which the other says is no directory";
    together("secret through a symlink", vec![symlink("home/x", "/tmp")], vec![file("home/x/y", "s")], no_directory);
    together("secret below a file", vec![file("home/x", "1")], vec![file("home/x/y", "s")], no_directory);
    together("secret far below a file", vec![file("home/x", "1")], vec![file("home/x/y/z", "s")], no_directory);
    together(
        "state through a secret symlink",
        vec![file("home/x/y", "1")],
        vec![symlink("home/x", "/tmp")],
        no_directory,
    );
    let differ = "is a directory in one archive and none in the other";
    together(
        "secret directory, state link",
        vec![symlink("home/x", "/tmp")],
        vec![dir("home/x"), file("home/x/y", "s")],
        differ,
    );
    together(
        "secret directory, state file",
        vec![file("home/x", "1")],
        vec![dir("home/x"), file("home/x/y", "s")],
        differ,
    );
    together(
        "secret link, state directory",
        vec![dir("home/x"), file("home/x/y", "1")],
        vec![symlink("home/x", "/tmp")],
        differ,
    );
    together(
        "home is a link",
        vec![file("home/x", "1")],
        vec![symlink("home", "/tmp")],
        "home of the manifest is no directory",
    );
}

/// What was state once and is a secret now comes back as the secret that it is.
#[test]
fn the_secret_is_the_newer_word() {
    use std::os::unix::fs::MetadataExt as _;
    let (machine, forger) = a_machine();
    let items = vec![
        file("home/a", "old words"),
        hardlink("home/b", "home/a"),
        hardlink("home/c", "home/a"),
        file("home/notes", "old"),
    ];
    forger.put(Archive::State, items, &|_| {});
    let secret = |path, content: &str| with(file(path, content), |e| e.mode = 0o600);
    forger.put(Archive::Secrets, vec![secret("home/a", "a secret"), secret("home/notes", "new")], &|_| {});
    let target = machine.target("target");
    for _ in 0..2 {
        machine.restore(&target);
        let mode = |name: &str| std::fs::metadata(target.join("home").join(name)).unwrap().mode() & 0o7777;
        let read = |name: &str| std::fs::read_to_string(target.join("home").join(name)).unwrap();
        assert_eq!((mode("a"), mode("notes")), (0o600, 0o600));
        assert_eq!((read("a"), read("notes")), ("a secret".into(), "new".into()));
        assert_eq!((read("b"), read("c")), ("old words".into(), "old words".into()));
        assert_eq!(mode("b"), 0o644);
    }
}

/// A restore that replaces looks at what is there, and not at what links lead to.
#[test]
fn what_is_replaced_is_replaced_whole() {
    let (machine, forger) = a_machine();
    forger.put(
        Archive::State,
        vec![dir("home/d"), file("home/d/f", "same"), file("home/x", "new"), hardlink("home/y", "home/x")],
        &|_| {},
    );
    let target = machine.target("target");
    let outside = machine.target("outside");
    std::fs::create_dir_all(target.join("home")).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("f"), "same").unwrap();
    std::os::unix::fs::symlink(&outside, target.join("home/d")).unwrap();
    std::fs::write(target.join("home/x"), "old").unwrap();
    std::fs::hard_link(target.join("home/x"), target.join("home/y")).unwrap();
    let before = snapshot(&outside);
    let error = machine.try_restore(&target, |_| {}).unwrap_err();
    assert!(said(&error).contains("differs from the snapshot"), "{}", said(&error));
    machine.try_restore(&target, |a| a.overwrite = true).unwrap();
    assert!(target.join("home/d").symlink_metadata().unwrap().is_dir());
    assert_eq!(std::fs::read(target.join("home/d/f")).unwrap(), b"same");
    assert_eq!(std::fs::read(target.join("home/x")).unwrap(), b"new");
    assert_eq!(std::fs::read(target.join("home/y")).unwrap(), b"new");
    assert_eq!(snapshot(&outside), before);
}

/// A link of the target above everything that an archive names is not followed, and not removed unasked.
#[test]
fn links_above_are_not_followed() {
    let (machine, forger) = a_machine();
    forger.put(Archive::State, vec![file("home/up/deep/f", "content")], &|_| {});
    let target = machine.target("target");
    let outside = machine.target("outside");
    std::fs::create_dir_all(target.join("home")).unwrap();
    std::fs::create_dir_all(outside.join("deep")).unwrap();
    std::fs::write(outside.join("deep/f"), "content").unwrap();
    std::os::unix::fs::symlink(&outside, target.join("home/up")).unwrap();
    let before = snapshot(&outside);
    let error = machine.try_restore(&target, |_| {}).unwrap_err();
    assert!(said(&error).contains("differs from the snapshot"), "{}", said(&error));
    assert_eq!(snapshot(&outside), before);
}

/// The target's own name may be any bytes.
#[test]
fn a_target_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt as _;
    let (machine, forger) = a_machine();
    forger.put(Archive::State, vec![file("home/f", "content")], &|_| {});
    let target = machine.root().join(std::ffi::OsStr::from_bytes(b"t\xff"));
    machine.restore(&target);
    assert_eq!(std::fs::read(target.join("home/f")).unwrap(), b"content");
}

/// A path so deep that recursion would run out of stack.
#[test]
fn depth_is_no_danger() {
    let (machine, forger) = a_machine();
    let path = [&b"home/"[..], &b"d/".repeat(30_000), b"f"].concat();
    forger.put(Archive::State, vec![with(file(path, "x"), |e| e.blake3 = [0; 32])], &|_| {});
    let target = machine.target("target");
    std::fs::create_dir(&target).unwrap();
    let error = machine.try_restore(&target, |_| {}).unwrap_err();
    assert!(said(&error).contains("is not what the manifest says"), "{}", said(&error));
    assert!(std::fs::read_dir(&target).unwrap().next().is_none(), "staging stays behind");
}

/// A bundle that the newest snapshot's commit names must be the one it names.
#[test]
fn references_are_checked() {
    let (machine, forger) = a_machine();
    let named = Reference { id: SnapshotId::new(NOW - 500, 77), sha256: [1; 32], life: Some(90) };
    forger.put(Archive::State, plain(), &|d| {
        let named = named.clone();
        let line = format!("# bundle {} {} 90\n# size", named.id, "01".repeat(32));
        d.commit = Box::new(move |text| text.replacen("# size", &line, 1));
    });
    let listing = machine.list();
    assert_eq!(listing.hidden.len(), 1, "{:?}", listing.hidden);
    assert!(listing.hidden[0].contains(named.id.as_str()));
}
