//! One contract that every store keeps: what is put once stays, is found, comes back whole, and makes a backup.

use std::io::Read as _;
use std::sync::Arc;

use lifeboat::commands::{init, list, restore};
use lifeboat::host::store::{Access, Listed, Put, Store};
use lifeboat::host::world::World;
use lifeboat::{Error, Kind};

use crate::fake_cloud::{self, Cloud, Fate};
use crate::forge::said;
use crate::world::Machine;

/// A machine whose environment holds these variables, and whose patience is short.
pub fn machine(variables: impl IntoIterator<Item = (String, String)>) -> Machine {
    let mut machine = Machine::new();
    let short =
        [("LIFEBOAT_STORE_PATIENCE", "3"), ("LIFEBOAT_STORE_SILENCE", "2"), ("AWS_EC2_METADATA_DISABLED", "true")];
    machine.world.env.extend(short.map(|(k, v)| (k.into(), v.into())));
    machine.world.env.extend(variables.into_iter().map(|(k, v)| (k.into(), v.into())));
    // What a server judges by its own clock cannot be judged by a fixed one.
    machine.world.fixed_now = None;
    machine
}

pub fn open(world: &World, url: &str) -> Store {
    Store::open(world, url, Access::Create).unwrap()
}

/// `lifeboat init` on this store.
pub fn set_up(machine: &Machine, url: &str) -> Result<init::Done, Error> {
    let args = init::Args {
        store: Some(url.to_owned()),
        sources: vec![machine.home("agent")],
        sealed: true,
        ..init::Args::default()
    };
    init::run(&machine.world, &args, &mut |_| {})
}

fn sorted(mut listed: Vec<Listed>) -> Vec<(String, u64)> {
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    listed.into_iter().map(|l| (l.key, l.size)).collect()
}

/// The contract. `url` leads to a place of its own, which is empty.
fn keeps_the_contract(machine: &Machine, url: impl Fn(&str) -> String) {
    let world = &machine.world;
    let store = open(world, &url("one"));

    // What is put is there; the same again is the same; something else is refused and changes nothing.
    assert_eq!(store.put("a/b", "first").unwrap(), Put::Created);
    assert_eq!(store.put("a/b", "first").unwrap(), Put::Same);
    for other in ["other", "longer than the first", ""] {
        let error = store.put("a/b", other).unwrap_err();
        assert!(error.to_string().contains("with other content"), "{}", said(&error));
    }
    assert!(!store.put_if_absent("a/b", "whatever").unwrap());
    assert_eq!(store.get("a/b", 100).unwrap(), "first");

    // What is not there is not there; what is too large is cut where one sees it.
    assert_eq!(store.get_if_there("a/c", 100).unwrap(), None);
    assert_eq!(store.get("a/c", 100).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(store.get_if_there("a/b", 2).unwrap().unwrap(), "fir");
    assert_eq!(store.get("a/b", 4).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(store.get("a/b", 5).unwrap(), "first");

    // An empty object is one, too.
    assert!(store.put_if_absent("empty", "").unwrap());
    assert_eq!(store.put("empty", "").unwrap(), Put::Same);
    assert_eq!(store.get("empty", 0).unwrap(), "");
    let mut none = Vec::new();
    store.open_object("empty", 0).read_to_end(&mut none).unwrap();
    assert_eq!(none, b"");

    // In pieces, and larger than what is asked for at once.
    let mut large = vec![0; (9 << 20) + 17];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    let pieces = large.chunks(700_001).map(bytes::Bytes::copy_from_slice).collect();
    assert_eq!(store.put_chunks("large", pieces).unwrap(), Put::Created);
    let mut back = Vec::new();
    store.open_object("large", large.len() as u64).read_to_end(&mut back).unwrap();
    assert!(back == large);
    assert!(store.get("large", large.len() as u64).unwrap() == large);
    let mut longer = store.open_object("large", large.len() as u64 + 1);
    assert!(longer.read_to_end(&mut Vec::new()).is_err());

    // Lists of more than a page, of one directory, of none.
    for n in 0..12 {
        store.put(&format!("list/d{:02}/x", n), "12345").unwrap();
        store.put(&format!("list/d{:02}/y-{n}", n / 4), "1").unwrap();
    }
    let found = sorted(store.list("list").unwrap());
    assert_eq!(found.len(), 24);
    assert!(found.contains(&("list/d11/x".to_owned(), 5)) && found.contains(&("list/d02/y-11".to_owned(), 1)));
    let mut directories = store.list_directories("list").unwrap();
    directories.sort();
    assert_eq!(directories, (0..12).map(|n| format!("list/d{n:02}")).collect::<Vec<_>>());
    assert_eq!(sorted(store.list("list/d01").unwrap()).len(), 5);
    assert_eq!(store.list("nowhere").unwrap(), []);
    assert_eq!(store.list_directories("nowhere").unwrap(), Vec::<String>::new());

    // Deleted is gone, and gone is as good as deleted.
    store.delete("list/d01/x").unwrap();
    store.delete("list/d01/x").unwrap();
    assert_eq!(store.get_if_there("list/d01/x", 9).unwrap(), None);

    // Only one of those who put the same key at the same time has put it.
    let created = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|n| {
                let store = &store;
                scope.spawn(move || store.put("race", format!("racer {n}")))
            })
            .collect();
        racers.into_iter().map(|r| r.join().unwrap()).filter(|r| matches!(r, Ok(Put::Created))).count()
    });
    assert_eq!(created, 1);

    // Another prefix is another store.
    let other = open(world, &url("two"));
    assert_eq!(other.list("").unwrap(), []);
    assert_eq!(other.put("a/b", "another").unwrap(), Put::Created);
    assert_eq!(store.get("a/b", 100).unwrap(), "first");

    makes_a_backup(machine, &url("three"));
}

/// A whole backup goes there and comes back.
fn makes_a_backup(machine: &Machine, url: &str) {
    machine.write("agent/notes.md", "remember this");
    machine.write("agent/.env", "API_KEY=fake-0000");
    set_up(machine, url).unwrap();
    machine.backup();
    machine.write("agent/notes.md", "and that");
    machine.backup();
    let target = machine.target("restored");
    let done = machine.restore(&target);
    assert!(done.missing.is_empty());
    assert_eq!(std::fs::read(target.join("home/agent/notes.md")).unwrap(), b"and that");
    assert_eq!(std::fs::read(target.join("home/agent/.env")).unwrap(), b"API_KEY=fake-0000");
    let args = list::Args { identity: Some(machine.kit()), ..list::Args::default() };
    let listing = list::run(&machine.world, &args, &mut |_| {}).unwrap();
    // Two of the state, and a bundle at least.
    let whole = listing.snapshots.iter().filter(|s| s.status == "ok").count();
    assert!(listing.hidden.is_empty() && whole >= 3 && whole == listing.snapshots.len(), "{whole}");
}

#[test]
fn a_local_disk() {
    let machine = machine([]);
    let root = machine.root();
    keeps_the_contract(&machine, |prefix| root.join("stores").join(prefix).to_str().unwrap().to_owned());
}

#[test]
fn s3_in_process() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    keeps_the_contract(&machine(cloud.credentials("ADMIN")), |prefix| cloud.url(prefix, None));
}

#[test]
fn google_in_process() {
    let cloud = Cloud::start(fake_cloud::Kind::Gcs);
    keeps_the_contract(&machine(cloud.credentials("ADMIN")), |prefix| cloud.url(prefix, None));
}

/// The URL of a server that `tests/run` started, and the environment of who may do what there: both in variables.
pub fn served(name: &str, user: &str) -> (String, Vec<(String, String)>) {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/run"));
    let pairs = variable(&format!("LIFEBOAT_TEST_{name}_{user}"));
    let pairs = pairs.split('\n').filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
    (variable(&format!("LIFEBOAT_TEST_{name}_URL")), pairs.collect())
}

/// A URL below another, in a place of this run's own.
pub fn below(url: &str, place: &str) -> String {
    let (start, rest) = url.split_once('?').unwrap();
    format!("{start}/{}-{place}?{rest}", std::process::id())
}

#[test]
#[ignore = "needs a server: tests/run starts it"]
fn served_radosgw() {
    let (url, admin) = served("RADOSGW", "ADMIN");
    keeps_the_contract(&machine(admin), |prefix| below(&url, prefix));
}

#[test]
#[ignore = "needs a server: tests/run starts it"]
fn served_azurite() {
    let (url, admin) = served("AZURITE", "ADMIN");
    keeps_the_contract(&machine(admin), |prefix| below(&url, prefix));
}

#[test]
#[ignore = "needs a server: tests/run starts it"]
fn served_killed() {
    let (url, admin) = served("RADOSGW", "ADMIN");
    let again = std::env::var("LIFEBOAT_TEST_RADOSGW_AGAIN").expect("run tests/run");
    let mut machine = machine(admin);
    machine.world.env.insert("LIFEBOAT_STORE_PATIENCE".into(), "120".into());
    machine.write("agent/notes.md", "first");
    set_up(&machine, &below(&url, "killed")).unwrap();
    machine.backup();
    for n in 0..3_u64 {
        // Several volumes, so that it dies in the middle of one of them.
        let mut noise = vec![0; 60 << 20];
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut noise);
        machine.write("agent/noise", noise);
        machine.write("agent/notes.md", format!("life {n}"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(200 + 400 * n));
                let status = std::process::Command::new("sh").args(["-c", &again]).status().unwrap();
                assert!(status.success());
            });
            machine.backup();
        });
        let target = machine.target(&format!("restored-{n}"));
        machine.restore(&target);
        assert_eq!(std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap(), format!("life {n}"));
    }
}

/// A backup with a credential that may only put, and a restore with another one.
fn adds_only(url: &str, writer: Vec<(String, String)>, admin: Vec<(String, String)>) {
    let mut machine = machine(writer.clone());
    machine.write("agent/notes.md", "one");
    machine.write("agent/.env", "API_KEY=fake-0000");
    set_up(&machine, url).unwrap();
    machine.backup();
    machine.write("agent/notes.md", "two");
    machine.backup();
    for (key, _) in writer {
        machine.world.env.remove(std::ffi::OsStr::new(&key));
    }
    machine.world.env.extend(admin.into_iter().map(|(k, v)| (k.into(), v.into())));
    let target = machine.target("restored");
    machine.restore(&target);
    assert_eq!(std::fs::read(target.join("home/agent/notes.md")).unwrap(), b"two");
}

#[test]
fn a_credential_that_may_only_put_makes_backups() {
    for kind in [fake_cloud::Kind::S3, fake_cloud::Kind::Gcs] {
        let cloud = Cloud::start(kind);
        adds_only(&cloud.url("p", None), cloud.credentials("WRITER"), cloud.credentials("ADMIN"));
    }
}

#[test]
#[ignore = "needs a server: tests/run starts it"]
fn served_put_only() {
    for name in ["RADOSGW", "AZURITE"] {
        let ((url, writer), (_, admin)) = (served(name, "WRITER"), served(name, "ADMIN"));
        adds_only(&below(&url, "put-only"), writer, admin);
    }
}

#[test]
fn an_answer_that_is_lost_is_settled_by_looking() {
    for fate in [Fate::Lost, Fate::Cut, Fate::Answer(503, "SlowDown"), Fate::Answer(500, "InternalError")] {
        let cloud = Cloud::start(fake_cloud::Kind::S3);
        let machine = machine(cloud.credentials("ADMIN"));
        let store = open(&machine.world, &cloud.url("p", None));
        cloud.fate("PUT", fate.clone());
        store.put("a", "content").unwrap();
        assert_eq!(store.get("a", 7).unwrap(), "content", "{fate:?}");
        cloud.fate("PUT", fate);
        assert!(store.put("a", "something else").unwrap_err().to_string().contains("other content"));
    }
}

#[test]
fn an_answer_that_is_lost_is_settled_without_looking_by_the_same_bytes() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let machine = machine(cloud.credentials("WRITER"));
    let store = open(&machine.world, &cloud.url("p", None));
    cloud.fate("PUT", Fate::Lost);
    assert_eq!(store.put("a", "content").unwrap(), Put::Same);
    // What nobody of this run has put is not ours, whatever it holds.
    let other = open(&machine.world, &cloud.url("p", None));
    assert!(other.put("a", "content").is_err());
    assert!(other.put("a", "else").is_err());
    assert_eq!(cloud.state.lock().unwrap().objects["p/a"], "content");
}

#[test]
fn reads_and_lists_are_tried_again() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let machine = machine(cloud.credentials("ADMIN"));
    let store = open(&machine.world, &cloud.url("p", None));
    store.put("a", "content").unwrap();
    for fate in [Fate::Cut, Fate::Lost, Fate::Answer(503, "SlowDown"), Fate::Answer(429, "TooManyRequests")] {
        cloud.fate("GET", fate.clone());
        assert_eq!(store.get("a", 7).unwrap(), "content", "{fate:?}");
        cloud.fate("GET", fate.clone());
        assert_eq!(store.list("").unwrap().len(), 1, "{fate:?}");
        cloud.fate("DELETE", fate);
        store.delete("a").unwrap();
        store.put("a", "content").unwrap();
    }
}

/// Everything that a failure says, to a person and to a program.
fn everything(error: &Error) -> String {
    format!("{} {error:?} {:?}", said(error), error.advice())
}

#[test]
fn what_is_wrong_is_said_with_what_to_do_and_without_a_secret() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let case = |user: &str, fate: Option<Fate>, kind: Kind, words: &[&str]| {
        let machine = machine(cloud.credentials(user));
        let store = open(&machine.world, &cloud.url("p", None));
        if let Some(fate) = fate {
            // Again and again, since some are tried again.
            for _ in 0..40 {
                cloud.fate("GET", fate.clone());
            }
        }
        let error = store.get("k", 9).unwrap_err();
        cloud.state.lock().unwrap().fates.clear();
        let text = everything(&error);
        assert_eq!(error.kind(), kind, "{text}");
        for word in words {
            assert!(text.contains(word), "`{word}` is not in {text}");
        }
        assert!(!text.contains("hush"), "{text}");
    };
    cloud.state.lock().unwrap().objects.insert("p/k".to_owned(), "content".into());
    case("WRITER", None, Kind::Failed, &["cannot read k", "403 AccessDenied", "lifeboat doctor"]);
    case("NOBODY", None, Kind::Failed, &["InvalidAccessKeyId", "correct the environment"]);
    case("EXPIRED", None, Kind::Failed, &["ExpiredToken", "renew"]);
    case("ADMIN", Some(Fate::Answer(503, "SlowDown")), Kind::Failed, &["503 SlowDown", "fewer requests"]);
    case("ADMIN", Some(Fate::Answer(301, "PermanentRedirect")), Kind::Failed, &["?region="]);
    case("ADMIN", Some(Fate::Answer(403, "QuotaExceeded")), Kind::Failed, &["over its quota"]);
    case("ADMIN", Some(Fate::Answer(403, "SignatureDoesNotMatch")), Kind::Failed, &["SignatureDoesNotMatch"]);
    case("ADMIN", Some(Fate::Cut), Kind::Failed, &["connection", "run the same command again"]);
    cloud.state.lock().unwrap().clock_off = -7200;
    case("SKEWED", None, Kind::Failed, &["clock is", "ahead of the store's"]);
    cloud.state.lock().unwrap().clock_off = 0;
    cloud.state.lock().unwrap().archived.push("p/k".to_owned());
    case("ADMIN", None, Kind::Archived, &["restore-object --bucket bucket --key 'p/k'"]);
}

#[test]
fn a_bucket_that_is_not_there_and_a_server_that_is_not_there() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let machine = machine(cloud.credentials("ADMIN"));
    let nowhere = cloud.url("p", None).replace("s3://bucket", "s3://bocket");
    for error in [
        open(&machine.world, &nowhere).put("a", "x").unwrap_err(),
        open(&machine.world, &nowhere).get_if_there("a", 9).unwrap_err(),
        open(&machine.world, &nowhere).list("").unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::NotThere, "{}", everything(&error));
        assert!(everything(&error).contains("make bocket"), "{}", everything(&error));
    }
    // Nothing listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = open(&machine.world, &cloud.url("p", Some(port))).list("").unwrap_err();
    assert!(everything(&error).contains(&format!("cannot reach 127.0.0.1:{port}")), "{}", everything(&error));
}

#[test]
fn a_stop_ends_a_wait() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let mut machine = machine(cloud.credentials("ADMIN"));
    machine.world.env.insert("LIFEBOAT_STORE_PATIENCE".into(), "86400".into());
    let store = open(&machine.world, &cloud.url("p", None));
    store.put("a", "x").unwrap();
    for _ in 0..1000 {
        cloud.fate("GET", Fate::Answer(503, "SlowDown"));
    }
    let stop = Arc::clone(&machine.world.stop);
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(store.get("a", 9).unwrap_err().kind(), Kind::Interrupted);
}

#[test]
fn a_limit_changes_nothing_but_the_rate() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let machine = machine(cloud.credentials("ADMIN"));
    let store = Store::open_limited(&machine.world, &cloud.url("p", None), Access::Existing, Some(4 << 20)).unwrap();
    let content: Vec<u8> = (0..2_000_003_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let pieces = content.chunks(300_000).map(bytes::Bytes::copy_from_slice).collect();
    assert_eq!(store.put_chunks("a", pieces).unwrap(), Put::Created);
    assert!(cloud.state.lock().unwrap().objects["p/a"] == content);
}

#[test]
fn credentials_of_a_profile_and_of_a_program() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let machine = machine([]);
    let url = cloud.url("p", None);
    let error = Store::open(&machine.world, &url, Access::Existing).err().unwrap();
    assert!(everything(&error).contains("AWS_ACCESS_KEY_ID"), "{}", everything(&error));
    machine.write(
        ".aws/config",
        "[default]\nregion = eu-west-1\n[profile program]\ncredential_process = echo '{\"Version\":1,\
        \"AccessKeyId\":\"ADMIN\",\"SecretAccessKey\":\"x\",\"Expiration\":\"2099-01-01T00:00:00Z\"}'\n\
        [profile broken]\ncredential_process = echo hush-hush-hush; exit 7\n[profile role]\nrole_arn = arn:x\n",
    );
    machine.write(".aws/credentials", "[default]\naws_access_key_id = ADMIN\naws_secret_access_key = hush\n");
    // As the `aws` tool answers for logins and roles.
    let tool = machine.write(
        "bin/aws",
        "#!/bin/sh\n[ \"$*\" = 'configure export-credentials --format process --profile role' ] || exit 9\n\
        echo '{\"Version\":1,\"AccessKeyId\":\"ADMIN\",\"SecretAccessKey\":\"x\",\"SessionToken\":\"t\"}'\n",
    );
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut world = machine.world.clone();
    let path = format!("{}:/usr/bin:/bin", tool.parent().unwrap().display());
    world.env.insert("PATH".into(), path.into());
    open(&world, &url).put("default", "x").unwrap();
    open(&world, &format!("{url}&profile=program")).put("program", "x").unwrap();
    open(&world, &format!("{url}&profile=role")).put("role", "x").unwrap();
    world.env.insert("AWS_PROFILE".into(), "program".into());
    open(&world, &url).put("variable", "x").unwrap();
    assert_eq!(cloud.state.lock().unwrap().objects.len(), 4);
    let error = open(&world, &format!("{url}&profile=broken")).put("x", "x").unwrap_err();
    assert!(everything(&error).contains("exit status: 7"), "{}", everything(&error));
    assert!(!everything(&error).contains("hush"), "{}", everything(&error));
    let error = Store::open(&world, &format!("{url}&profile=none"), Access::Existing).err().unwrap();
    assert!(error.to_string().contains("no profile `none`"));
}

#[test]
fn the_kit_names_what_the_environment_knew() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let mut machine = machine(cloud.credentials("ADMIN"));
    let endpoint = format!("http://127.0.0.1:{}", cloud.port);
    let known = [("AWS_ENDPOINT_URL_S3", endpoint.as_str()), ("AWS_REGION", "eu-central-1")];
    machine.world.env.extend(known.map(|(k, v)| (k.into(), v.into())));
    machine.write("agent/notes.md", "one");
    let done = set_up(&machine, "s3://bucket/p").unwrap();
    assert_eq!(done.store, format!("s3://bucket/p?endpoint={endpoint}&region=eu-central-1"));
    machine.backup();
    for (name, _) in known {
        machine.world.env.remove(std::ffi::OsStr::new(name));
    }
    std::fs::remove_file(machine.world.config_file()).unwrap();
    let args =
        restore::Args { identity: Some(machine.kit()), target: Some(machine.target("t")), ..restore::Args::default() };
    restore::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(machine.target("t").join("home/agent/notes.md")).unwrap(), b"one");
}

#[test]
fn the_policies_of_the_deploy_kit_can_be_parsed() {
    let mut found = 0;
    for cloud in ["s3", "ceph", "azure"] {
        for entry in std::fs::read_dir(format!("{}/deploy/{cloud}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "json") {
                let text = std::fs::read_to_string(&path).unwrap();
                let policy: serde_json::Value = serde_json::from_str(&text).unwrap();
                // What a host may do is never to read or to delete.
                let of_host = !path.to_str().unwrap().contains("restore");
                let statements = policy["Statement"].as_array().cloned().unwrap_or_default();
                let writers = statements.iter().filter(|s| s["Effect"] == "Allow" && s["Sid"] != "TheOwnerRestores");
                for action in writers.map(|s| s["Action"].to_string()).filter(|_| of_host) {
                    assert!(!action.contains("Get") && !action.contains("Delete"), "{}: {action}", path.display());
                }
                found += 1;
            }
        }
    }
    assert_eq!(found, 7);
}

/// What a snapshot of a quarter of an hour asks of a bucket: each request is paid for, 2,920 times a month.
#[test]
fn requests_of_a_quarter_hour() {
    let hour = 3600;
    for user in ["ADMIN", "LISTER", "WRITER"] {
        let cloud = Cloud::start(fake_cloud::Kind::S3);
        let mut machine = machine(cloud.credentials("ADMIN"));
        machine.world.env.insert("LIFEBOAT_STORE_PATIENCE".into(), "1".into());
        machine.write("agent/notes.md", "first");
        machine.write("agent/.env", "API_KEY=fake-0000");
        set_up(&machine, &cloud.url("p", None)).unwrap();
        machine.world.env.insert("AWS_ACCESS_KEY_ID".into(), user.into());
        let now = jiff::Timestamp::now().as_second();
        let mut at = |seconds: i64, words: &str| {
            machine.world.fixed_now = Some(now + seconds);
            cloud.state.lock().unwrap().clock_off = seconds;
            machine.write("agent/notes.md", words);
            machine.backup();
            cloud.log()
        };
        // The first of the day looks at more, and so does the one after the first full.
        at(0, "zeroth");
        at(hour, "first");
        for n in 1..=4 {
            let requests = at(hour + 900 * n, &format!("round {n}"));
            // A volume, a manifest, a signature and a commit; a tier is listed, and the parent's commit is read.
            let puts = requests.iter().filter(|(method, _, status)| method == "PUT" && *status == 200).count();
            assert!(puts == 4 && requests.len() <= 6, "{user}: {requests:#?}");
        }
        machine.world.fixed_now = Some(now + hour + 900 * 5);
        cloud.state.lock().unwrap().clock_off = hour + 900 * 5;
        machine.backup();
        let idle = cloud.log();
        assert!(idle.len() <= 2 && idle.iter().all(|(method, ..)| method == "GET"), "{user}: {idle:#?}");
    }
}
