//! Looking into snapshots: what is listed, found, compared and written is what was backed up, and no more is read than
//! that takes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use futures_util::stream::BoxStream;
use lifeboat::commands::look::Place;
use lifeboat::commands::{Event, cat, diff, dump, find, log, ls};
use lifeboat::{Error, Kind as ErrorKind};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rusqlite::Connection;

use crate::forge::said;
use crate::roundtrip::noise;
use crate::world::{Machine, NOW};

/// A machine with three snapshots, a quarter of an hour apart, and their ids.
fn machine() -> (Machine, Vec<String>) {
    let mut machine = Machine::new();
    machine.write("agent/notes.md", "one\ntwo\nthree\n");
    machine.write("agent/gone/old.txt", "old");
    machine.write("agent/big", noise(400_000, 1));
    machine.write("agent/.env", "API_KEY=fake-value-of-a-key");
    let db = Connection::open(machine.home("agent/state.db")).unwrap();
    db.execute_batch("create table messages(text); insert into messages values ('a'),('b');").unwrap();
    machine.init(&["agent"]);
    let mut ids = vec![machine.backup().state.unwrap().id];
    let mut next = |machine: &mut Machine| {
        machine.world.fixed_now = machine.world.fixed_now.map(|now| now + 900);
        ids.push(machine.backup().state.unwrap().id);
    };
    machine.write("agent/notes.md", "one\n2\nthree\n");
    let mut big = noise(400_000, 1);
    big[100_000..100_010].copy_from_slice(b"0123456789");
    machine.write("agent/big", big);
    std::fs::remove_dir_all(machine.home("agent/gone")).unwrap();
    db.execute_batch("insert into messages values ('c')").unwrap();
    next(&mut machine);
    machine.write("agent/notes.md", "one\n2\nthree\nfour\n");
    machine.write("agent/deep/new.txt", "new");
    next(&mut machine);
    (machine, ids)
}

fn bytes_of(machine: &Machine, place: &Place, snapshot: &str, path: &str) -> std::result::Result<Vec<u8>, Error> {
    let args = cat::Args { place: place.clone(), snapshot: snapshot.to_owned(), path: path.into() };
    let mut out = Vec::new();
    cat::run(&machine.world, &args, &mut out, &mut |_| {})?;
    Ok(out)
}

#[test]
fn files_of_every_snapshot() {
    let (machine, ids) = machine();
    let place = machine.place();
    let read = |id: &str, path: &str| bytes_of(&machine, &place, id, path).unwrap();
    assert_eq!(read(&ids[0], "~/agent/notes.md"), b"one\ntwo\nthree\n");
    assert_eq!(read(&ids[1], "home/agent/notes.md"), b"one\n2\nthree\n");
    assert_eq!(read("latest", machine.home("agent/notes.md").to_str().unwrap()), b"one\n2\nthree\nfour\n");
    assert_eq!(read(&ids[0], "agent/big"), noise(400_000, 1));
    assert_eq!(read(&ids[2], "agent/big"), std::fs::read(machine.home("agent/big")).unwrap());
    let wrong = |path: &str| bytes_of(&machine, &place, &ids[1], path).unwrap_err();
    assert_eq!(wrong("agent/gone/old.txt").kind(), ErrorKind::NotThere);
    assert_eq!(wrong("agent").kind(), ErrorKind::Usage);
    assert_eq!(wrong("../x").kind(), ErrorKind::Usage);
}

#[test]
fn secrets_are_named_only_when_asked_for_and_to_who_may_open_them() {
    let (machine, _) = machine();
    let mut place = machine.place();
    let list = |place: &Place| {
        let (place, path) = (place.clone(), None);
        ls::run(
            &machine.world,
            &ls::Args { place, path, snapshot: "latest".to_owned(), tree: true, ..Default::default() },
            &mut |_| {},
        )
    };
    let everything = serde_json::to_string(&list(&place).unwrap()).unwrap();
    assert!(everything.contains("notes.md") && !everything.contains(".env"), "{everything}");
    let e = bytes_of(&machine, &place, "latest", "agent/.env").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotThere);
    // Who has the state's identity alone learns nothing of the secrets.
    let kit = std::fs::read_to_string(machine.kit()).unwrap();
    let (before, rest) = kit.split_once("# secrets-recipient").unwrap();
    let (_, rest) = rest.split_once("# signing-public").unwrap();
    let half = machine.write("half.txt", format!("{before}# signing-public{rest}"));
    std::fs::set_permissions(&half, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    place.at.identity = Some(half);
    place.secrets = true;
    assert_eq!(list(&place).unwrap_err().kind(), ErrorKind::NoIdentity);
    place.secrets = false;
    list(&place).unwrap();
    let place = Place { secrets: true, ..machine.place() };
    let bundle = serde_json::to_string(&list(&place).unwrap()).unwrap();
    assert!(bundle.contains(".env") && !bundle.contains("notes.md"), "{bundle}");
    assert_eq!(bytes_of(&machine, &place, "latest", "agent/.env").unwrap(), b"API_KEY=fake-value-of-a-key");
}

#[test]
fn listings() {
    use lifeboat::commands::Report as _;
    let (machine, ids) = machine();
    let list = |snapshot: &str, path: Option<&str>, change: &dyn Fn(&mut ls::Args)| {
        let mut args = ls::Args {
            place: machine.place(),
            snapshot: snapshot.to_owned(),
            path: path.map(Into::into),
            ..ls::Args::default()
        };
        change(&mut args);
        ls::run(&machine.world, &args, &mut |_| {}).unwrap()
    };
    let paths = |listing: &ls::Listing| -> Vec<String> {
        listing.entries.iter().map(|e| String::from_utf8(e.path.bytes()).unwrap()).collect()
    };
    assert_eq!(paths(&list("latest", None, &|_| {})), ["home/agent"]);
    assert_eq!(
        paths(&list(&ids[0], Some("~/agent"), &|_| {})),
        ["home/agent/big", "home/agent/gone", "home/agent/notes.md", "home/agent/state.db"]
    );
    let largest = list(&ids[2], Some("agent"), &|a| a.sizes = true);
    assert_eq!(paths(&largest)[0], "home/agent/big");
    let tree = list(&ids[2], None, &|a| a.tree = true);
    assert_eq!(tree.entries[0].size, tree.entries.iter().filter(|e| e.kind == "file").map(|e| e.size).sum::<u64>());
    assert!(tree.text().contains("\n") && tree.text().contains("  new.txt\n"), "{}", tree.text());
    let long = list(&ids[2], Some("agent/notes.md"), &|a| a.long = true);
    assert!(long.text().starts_with(" 644  "), "{}", long.text());
}

#[test]
fn names_and_their_versions() {
    let (machine, ids) = machine();
    let find = |globs: &[&str], all: bool| {
        let globs = globs.iter().map(|g| (*g).to_owned()).collect();
        let args = find::Args { place: machine.place(), snapshot: "latest".to_owned(), globs, all };
        find::run(&machine.world, &args, &mut |_| {})
    };
    let found = find(&["*.md", "deep"], false).unwrap();
    let paths: Vec<Vec<u8>> = found.entries.iter().map(|e| e.path.bytes()).collect();
    assert_eq!(paths, [b"home/agent/deep".to_vec(), b"home/agent/notes.md".to_vec()]);
    assert_eq!(find(&["gone"], false).unwrap_err().kind(), ErrorKind::NotThere);
    let told = |rows: &[lifeboat::commands::versions::Row]| -> Vec<(String, &'static str, Option<u64>)> {
        rows.iter().map(|r| (r.snapshot.clone(), r.change, r.size)).collect()
    };
    let (a, b, c) = (ids[0].clone(), ids[1].clone(), ids[2].clone());
    let old = find(&["*.txt"], true).unwrap();
    assert_eq!(
        told(&old.versions),
        [(c.clone(), "new", Some(3)), (a.clone(), "new", Some(3)), (b.clone(), "gone", None)]
    );
    let args = log::Args { place: machine.place(), path: "~/agent/notes.md".into() };
    let done = log::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(told(&done.versions), [(a, "new", Some(14)), (b, "changed", Some(12)), (c, "changed", Some(17))]);
    let args = log::Args { path: "~/agent/never".into(), ..args };
    assert_eq!(log::run(&machine.world, &args, &mut |_| {}).unwrap_err().kind(), ErrorKind::NotThere);
}

#[test]
fn what_is_damaged_is_said_by_what_looks_everywhere() {
    use lifeboat::commands::Report as _;
    let (machine, ids) = machine();
    let state = machine.store().join("state");
    let all: Vec<_> = machine.all_files().into_iter().map(|f| f.0).filter(|p| p.starts_with(&state)).collect();
    let manifest = |id: &str| {
        all.iter().find(|p| p.to_str().unwrap().contains(&format!("/{id}")) && p.ends_with("manifest.jsonl.zst.age"))
    };
    let path = manifest(&ids[1]).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
    let args = log::Args { place: machine.place(), path: "~/agent/notes.md".into() };
    let done = log::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(done.versions[0].snapshot, ids[0]);
    assert!(done.problems()[0].contains(&format!("snapshot {} was not looked into", ids[1])), "{:?}", done.problems());
    let e = bytes_of(&machine, &machine.place(), &ids[1], "agent/notes.md").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Damaged, "{}", said(&e));
}

#[test]
fn differences() {
    use lifeboat::commands::Report as _;
    let (machine, ids) = machine();
    let run = |path: Option<&str>, content: bool| {
        let (place, path) = (machine.place(), path.map(Into::into));
        let args = diff::Args { place, a: ids[0].clone(), b: ids[2].clone(), path, content };
        diff::run(&machine.world, &args, &mut |_| {})
    };
    let done = run(None, true).unwrap();
    let told: BTreeMap<String, &str> =
        done.differences.iter().map(|d| (String::from_utf8(d.path.bytes()).unwrap(), d.change)).collect();
    let expected = [
        ("home/agent/big", "changed"),
        ("home/agent/deep", "added"),
        ("home/agent/deep/new.txt", "added"),
        ("home/agent/gone", "removed"),
        ("home/agent/gone/old.txt", "removed"),
        ("home/agent/notes.md", "changed"),
        ("home/agent/state.db", "changed"),
    ];
    assert_eq!(told, expected.into_iter().map(|(p, c)| (p.to_owned(), c)).collect());
    let text = done.text();
    for line in ["    -two\n    +2\n", "    +four\n", "table messages: 2 -> 3 ", "2 added, 2 removed, 3 changed"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(run(Some("~/agent/deep"), false).unwrap().differences.len(), 2);
    assert_eq!(run(Some("~/agent/never"), false).unwrap_err().kind(), ErrorKind::NotThere);
}

/// A store that notes what is read of volumes.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn ObjectStore>,
    volumes: Arc<Mutex<Vec<Range<u64>>>>,
}

impl std::fmt::Display for Noting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Noting {
    async fn put_opts(&self, location: &Key, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Key, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("lifeboat puts whole objects")
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        if location.as_ref().ends_with(".tar.zst.age") {
            let Some(GetRange::Bounded(range)) = options.range.clone() else { panic!("a whole volume: {location}") };
            self.volumes.lock().unwrap().push(range);
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> Result<()> {
        unreachable!("lifeboat copies nothing")
    }
}

/// Bytes of volumes that something reads, and in how many requests.
pub fn read_by(machine: &mut Machine, run: impl FnOnce(&Machine)) -> (u64, usize) {
    let volumes = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&volumes);
    machine.world.wrap_store =
        Some(Arc::new(move |inner| Arc::new(Noting { inner, volumes: Arc::clone(&noted) }) as Arc<dyn ObjectStore>));
    run(machine);
    machine.world.wrap_store = None;
    let ranges = volumes.lock().unwrap();
    (ranges.iter().map(|r| r.end - r.start).sum(), ranges.len())
}

/// One file costs its frame, and what only looks costs no byte of any volume.
#[test]
fn no_more_is_read_than_what_holds_it() {
    let mut machine = Machine::new();
    for n in 0..60 {
        machine.write(&format!("agent/{n:02}.bin"), noise(700_000, n));
    }
    machine.write("agent/small.txt", "small");
    machine.init(&["agent"]);
    let id = machine.backup().state.unwrap().id;
    let stored: u64 = machine.list().snapshots.iter().filter(|r| r.archive == "state").map(|r| r.stored).sum();
    assert!(stored > 40_000_000);
    machine.world.fixed_now = Some(NOW + 900);
    let (read, _) = read_by(&mut machine, |machine| {
        let place = machine.place();
        let args = ls::Args { place: place.clone(), snapshot: id.clone(), tree: true, ..ls::Args::default() };
        ls::run(&machine.world, &args, &mut |_| {}).unwrap();
        let args = diff::Args { place: place.clone(), a: id.clone(), b: id.clone(), ..diff::Args::default() };
        assert!(diff::run(&machine.world, &args, &mut |_| {}).unwrap().differences.is_empty());
        let args = log::Args { place, path: "agent/small.txt".into() };
        log::run(&machine.world, &args, &mut |_| {}).unwrap();
    });
    assert_eq!(read, 0);
    let (read, requests) = read_by(&mut machine, |machine| {
        let content = bytes_of(machine, &machine.place(), &id, "agent/31.bin").unwrap();
        assert!(content == noise(700_000, 31));
    });
    // Frames are 3 MiB of tar at most, and noise cannot be compressed; a file lies in two at most.
    assert!(read > 700_000 && read < 7 << 20, "{read}");
    assert!(requests <= 4, "{requests}");
    // A directory's frames are read once each, in the order in which they lie, and age's chunks at their ends twice.
    let (read, _) = read_by(&mut machine, |machine| {
        let args = dump::Args { place: machine.place(), snapshot: id.clone(), path: Some("agent".into()) };
        let mut events: Vec<Event> = Vec::new();
        dump::run(&machine.world, &args, &mut std::io::sink(), &mut |e| events.push(e)).unwrap();
    });
    assert!(read > 40_000_000 && read < stored + (2 << 20), "{read} of {stored}");
}
