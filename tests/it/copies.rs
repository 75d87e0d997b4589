//! Copies on other stores: all of a series arrives, in the right order, again and again, and nothing that is damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lifeboat::Kind;
use lifeboat::commands::catch_up::Why;
use lifeboat::commands::{Event, Report as _, copy, drill, rotate, verify};
use lifeboat::model::commit::Commit;
use lifeboat::model::store_key::{COMMIT, Place};

use crate::fake_cloud::{self, Cloud};
use crate::faults::each_fault;
use crate::forge::{files, said, snapshot};
use crate::world::{Machine, NOW};

const DAY: i64 = 86_400;

/// A machine with snapshots of every tier: a monthly, and an hourly, a daily, a weekly and another hourly in two days.
fn machine() -> Machine {
    with_backups(&[0, 3600, DAY, 2 * DAY - 7200, 2 * DAY - 3600])
}

/// A machine with snapshots at these times.
fn with_backups(times: &[i64]) -> Machine {
    let mut machine = Machine::new();
    machine.write("agent/notes.md", "words 0");
    machine.write("agent/.env", "API_KEY=first");
    machine.init(&["agent"]);
    for (n, at) in times.iter().enumerate() {
        machine.world.fixed_now = Some(NOW + *at);
        machine.write("agent/notes.md", format!("words {n}"));
        machine.write(&format!("agent/more-{n}"), vec![b'x'; 100 + n]);
        if n == 2 {
            machine.write("agent/.env", "API_KEY=second");
        }
        machine.backup();
    }
    machine
}

fn to(machine: &Machine) -> PathBuf {
    machine.root().join("copy")
}

fn args(machine: &Machine) -> copy::Args {
    copy::Args { to: to(machine).to_str().unwrap().to_owned(), ..copy::Args::default() }
}

/// `lifeboat copy` to a directory that is there.
fn run(machine: &Machine) -> Result<copy::Done, lifeboat::Error> {
    std::fs::create_dir_all(to(machine)).unwrap();
    copy::run(&machine.world, &args(machine), &mut |_| {})
}

/// The words in the newest snapshot of a store, or in another one.
fn restored(machine: &Machine, store: &Path, id: &str) -> String {
    let target = machine.target("restored");
    let (done, _) = machine
        .try_restore(&target, |a| (a.store, a.snapshot) = (Some(store.to_str().unwrap().to_owned()), id.to_owned()))
        .unwrap_or_else(|e| panic!("{id} does not restore: {}", said(&e)));
    assert!(done.missing.is_empty());
    let words = std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap();
    assert!(target.join("home/agent/.env").exists());
    std::fs::remove_dir_all(target).unwrap();
    words
}

fn verified(machine: &Machine, store: &Path) -> verify::Done {
    let store = Some(store.to_str().unwrap().to_owned());
    let args = verify::Args { all: true, store, identity: Some(machine.kit()), ..verify::Args::default() };
    verify::run(&machine.world, &args, &mut |_| {}).unwrap()
}

/// What has a commit on a store has all that it names, and all that it leans on has one, too.
fn nothing_partial_counts(store: &Path, what: &str) {
    let mut objects: BTreeMap<String, (Place, BTreeSet<String>)> = BTreeMap::new();
    for file in files(store) {
        if let Some((place, name)) = Place::parse(file.to_str().unwrap()) {
            objects.entry(place.directory()).or_insert((place.clone(), BTreeSet::new())).1.insert(name.to_owned());
        }
    }
    let committed = |of: &BTreeSet<String>| of.contains(COMMIT);
    let ids: BTreeSet<_> = objects.values().filter(|(_, o)| committed(o)).map(|(p, _)| p.id.clone()).collect();
    for (directory, (place, names)) in objects.iter().filter(|(_, (_, o))| committed(o)) {
        let text = std::fs::read_to_string(store.join(directory).join(COMMIT)).unwrap();
        let commit = Commit::parse(&text).unwrap();
        for object in &commit.objects {
            let file = store.join(directory).join(&object.name);
            let size = std::fs::metadata(&file).unwrap_or_else(|e| panic!("{what}: {}: {e}", file.display())).len();
            assert_eq!(size, object.size, "{what}");
        }
        assert!(names.contains("commit.minisig"), "{what}: {directory} is not signed");
        assert!(place.parent.as_ref().is_none_or(|p| ids.contains(p)), "{what}: {directory} came before its parent");
    }
}

#[test]
fn everything_arrives_once() {
    let machine = machine();
    let drilled = drill::Args { identity: Some(machine.kit()), ..drill::Args::default() };
    drill::run(&machine.world, &drilled, &mut |_| {}).unwrap();
    let planned = {
        std::fs::create_dir_all(to(&machine)).unwrap();
        let args = copy::Args { dry_run: true, ..args(&machine) };
        copy::run(&machine.world, &args, &mut |_| {}).unwrap()
    };
    assert!(planned.text().contains("would copy"), "{}", planned.text());
    assert_eq!(files(&to(&machine)), Vec::<PathBuf>::new(), "a dry run puts nothing");

    let done = run(&machine).unwrap();
    let one = &done.series[0];
    assert_eq!((&one.archives, one.receipts), (&planned.series[0].archives, 1));
    assert!(one.archives.len() == 7 && one.already == 0 && one.skipped.is_empty(), "{}", done.text());
    assert_eq!(done.verdict(), None);
    let parents = one.archives.iter().filter(|a| a.place.contains(".on.")).count();
    assert!(parents == 4, "{}", done.text());
    assert_eq!(snapshot(&to(&machine)), snapshot(&machine.store()), "nothing more and nothing less");
    assert_eq!(restored(&machine, &to(&machine), "latest"), "words 4");
    assert!(verified(&machine, &to(&machine)).findings.is_empty());

    let again = run(&machine).unwrap();
    let (one, before) = (&again.series[0], one.archives.len() as u64);
    assert_eq!((one.archives.len(), one.bytes, one.receipts, one.already), (0, 0, 0, before));
    machine.write("agent/notes.md", "words 5");
    machine.backup();
    let more = run(&machine).unwrap();
    assert_eq!((more.series[0].archives.len(), more.series[0].already), (1, before));
    assert_eq!(restored(&machine, &to(&machine), "latest"), "words 5");
}

#[test]
fn no_identity_and_no_configuration_are_needed() {
    let machine = machine();
    let key = std::fs::read_to_string(machine.kit()).unwrap();
    let key = key.lines().find_map(|l| l.strip_prefix("# signing-public: ")).unwrap().to_owned();
    let store = Some(machine.store().to_str().unwrap().to_owned());
    let elsewhere = Machine::new();
    std::fs::create_dir(to(&elsewhere)).unwrap();
    let asked = copy::Args { store, name: Some("testhost".to_owned()), key: Some(key), ..args(&elsewhere) };
    let done = copy::run(&elsewhere.world, &asked, &mut |_| {}).unwrap();
    assert!(done.series[0].archives.len() == 7);
    // With no key at all it is that of the store, and nobody is left in the dark about that.
    std::fs::remove_dir_all(to(&elsewhere)).unwrap();
    std::fs::create_dir(to(&elsewhere)).unwrap();
    let mut events = Vec::new();
    copy::run(&elsewhere.world, &copy::Args { key: None, ..asked }, &mut |e| events.push(e)).unwrap();
    assert!(format!("{events:?}").contains("the key that stands on the store"), "{events:?}");
    assert_eq!(restored(&machine, &to(&elsewhere), "latest"), "words 4");
}

#[test]
fn all_series_of_a_store() {
    let machine = machine();
    let mut other = Machine::new();
    other.world.host_name = "second".to_owned();
    other.write("agent/notes.md", "other words");
    other.write("agent/.env", "API_KEY=other");
    let store = Some(machine.store().to_str().unwrap().to_owned());
    let sources = vec![other.home("agent")];
    let asked = lifeboat::commands::init::Args { store, sources, sealed: true, ..Default::default() };
    lifeboat::commands::init::run(&other.world, &asked, &mut |_| {}).unwrap();
    other.backup();
    std::fs::create_dir(to(&machine)).unwrap();
    let done = copy::run(&machine.world, &copy::Args { all: true, ..args(&machine) }, &mut |_| {}).unwrap();
    assert_eq!(done.series.iter().map(|s| s.series.as_str()).collect::<Vec<_>>(), ["second", "testhost"]);
    assert_eq!(snapshot(&to(&machine)), snapshot(&machine.store()));
    // A series that somebody made up is named, and keeps no other from being copied.
    std::fs::create_dir(machine.store().join("keys/ghost")).unwrap();
    std::fs::write(machine.store().join("keys/ghost/000001.pub"), "boo").unwrap();
    std::fs::remove_dir_all(to(&machine)).unwrap();
    std::fs::create_dir(to(&machine)).unwrap();
    let done = copy::run(&machine.world, &copy::Args { all: true, ..args(&machine) }, &mut |_| {}).unwrap();
    assert!(done.verdict() == Some(Kind::Damaged) && done.problems().len() == 1, "{:?}", done.problems());
    assert!(done.problems()[0].contains("no key of the series ghost"), "{:?}", done.problems());
    assert_eq!(restored(&other, &to(&machine), "latest"), "other words");
}

#[test]
fn a_series_whose_key_was_handed_over() {
    let mut machine = with_backups(&[0, 900]);
    run(&machine).unwrap();
    let kit = machine.root().join("new.txt");
    let asked = rotate::Args { signing: true, kit, identity: Some(machine.kit()), ..rotate::Args::default() };
    rotate::run(&machine.world, &asked, &mut |_| {}).unwrap();
    machine.world.fixed_now = Some(NOW + 1800);
    machine.write("agent/notes.md", "signed anew");
    machine.backup();
    // Once more with the keys that the store names, and once by the first kit.
    let again = machine.root().join("again");
    std::fs::create_dir(&again).unwrap();
    let all = copy::Args { all: true, to: again.to_str().unwrap().to_owned(), ..copy::Args::default() };
    let old = copy::Args { identity: Some(machine.kit()), ..args(&machine) };
    for (asked, there) in [(all, &again), (old, &to(&machine))] {
        let done = copy::run(&machine.world, &asked, &mut |_| {}).unwrap();
        assert_eq!(done.verdict(), None, "{:?}", done.problems());
        assert!(there.join("keys/testhost/000002.pub.minisig").exists());
        assert_eq!(snapshot(there), snapshot(&machine.store()));
        assert!(verified(&machine, there).findings.is_empty());
        assert_eq!(restored(&machine, there, "latest"), "signed anew");
    }
}

#[test]
fn whatever_fails_a_copy_goes_on_where_it_was() {
    // Copying changes nothing where it reads, so one machine is enough.
    let machine = std::cell::RefCell::new(with_backups(&[0, 3600]));
    let there = to(&machine.borrow());
    let wanted = snapshot(&machine.borrow().store());
    let prepare = || {
        if there.exists() {
            std::fs::remove_dir_all(&there).unwrap();
        }
        std::fs::create_dir(&there).unwrap();
    };
    each_fault(false, prepare, |(), plan, wrap| {
        let (mut machine, what) = (machine.borrow_mut(), format!("{plan:?}"));
        let (result, failed) = wrap.with(&mut machine, run);
        nothing_partial_counts(&there, &what);
        match result {
            Ok(done) => assert!(done.verdict().is_none() || failed, "{what}: {}", done.text()),
            Err(e) => assert!(failed, "{what}: {}", said(&e)),
        }
        let done = run(&machine).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
        assert_eq!(done.verdict(), None, "{what}: {}", done.text());
        assert!(snapshot(&there) == wanted, "{what}: {}", done.text());
    });
}

#[test]
fn what_is_damaged_is_named_and_the_rest_arrives() {
    let machine = machine();
    let store = machine.store();
    let volume = |tier: &str| {
        let all = files(&store);
        let found = all.iter().find(|p| p.starts_with(format!("state/{tier}")) && p.ends_with("000000.tar.zst.age"));
        found.unwrap().clone()
    };
    // A byte of an hourly, which the listing does not show; the commit of a weekly; a manifest that is gone.
    let altered = volume("hourly");
    let mut bytes = std::fs::read(store.join(&altered)).unwrap();
    bytes[300] ^= 1;
    std::fs::write(store.join(&altered), bytes).unwrap();
    let forged = volume("weekly").with_file_name("commit");
    let text = std::fs::read_to_string(store.join(&forged)).unwrap();
    std::fs::write(store.join(&forged), text.replace("# life ", "# life 1")).unwrap();
    let done = run(&machine).unwrap();
    let bad: BTreeMap<&str, (Why, &str)> =
        done.series[0].skipped.iter().map(|s| (s.place.as_str(), (s.why, s.text.as_str()))).collect();
    let of = |path: &Path| bad[path.parent().unwrap().to_str().unwrap()];
    assert_eq!(done.verdict(), Some(Kind::Damaged));
    assert!(of(&altered).0 == Why::Damaged && of(&altered).1.contains("its SHA-256 is"), "{bad:?}");
    assert!(of(&altered).1.contains(altered.to_str().unwrap()), "{bad:?}");
    assert!(of(&forged).0 == Why::Damaged && of(&forged).1.contains("signature"), "{bad:?}");
    assert_eq!(done.problems().len(), bad.len());
    nothing_partial_counts(&to(&machine), "damaged");
    let copied: BTreeSet<&str> = done.series[0].archives.iter().map(|a| a.place.as_str()).collect();
    assert!(copied.iter().all(|place| !bad.contains_key(place)) && copied.len() >= 3, "{copied:?}");
    let out = machine.program(&["copy", "--to", to(&machine).to_str().unwrap()]).output().unwrap();
    assert_eq!(out.status.code(), Some(4));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("not copied: ") && said.contains(altered.to_str().unwrap()), "{said}");
}

#[test]
fn what_is_damaged_over_there_is_named_and_nothing_is_committed_on_it() {
    let machine = machine();
    let first = files(&machine.store()).into_iter().find(|p| p.starts_with("state/monthly")).unwrap();
    std::fs::create_dir_all(to(&machine).join(first.parent().unwrap())).unwrap();
    std::fs::write(to(&machine).join(&first), "something else").unwrap();
    let done = run(&machine).unwrap();
    assert_eq!(done.verdict(), Some(Kind::Damaged));
    let line = &done.problems()[0];
    assert!(line.contains(first.to_str().unwrap()) && line.contains("14 bytes"), "{line}");
    // Nothing that leans on it, either; bundles lean on nothing.
    assert!(done.series[0].archives.iter().all(|a| a.archive == "secrets"), "{}", done.text());
    assert!(done.series[0].skipped.iter().any(|s| s.text.contains("which was not copied")), "{:?}", done.problems());
    nothing_partial_counts(&to(&machine), "damaged there");
    // What was taken away there comes back.
    std::fs::remove_file(to(&machine).join(&first)).unwrap();
    assert_eq!(run(&machine).unwrap().verdict(), None);
    let lost = files(&machine.store()).into_iter().find(|p| p.starts_with("state/hourly")).unwrap();
    std::fs::remove_file(to(&machine).join(&lost)).unwrap();
    assert_eq!(run(&machine).unwrap().series[0].archives.len(), 1);
    assert_eq!(snapshot(&to(&machine)), snapshot(&machine.store()));
}

#[test]
fn what_is_past_its_time_is_not_copied() {
    let mut machine = machine();
    let listing = machine.list();
    let hourly: Vec<_> = listing.snapshots.iter().filter(|r| r.tier.as_deref() == Some("hourly")).collect();
    assert!(!hourly.is_empty());
    // A hundred days later: hourlies and bundles are over, the monthly and the weekly are not.
    machine.world.fixed_now = Some(NOW + 100 * DAY);
    let done = run(&machine).unwrap();
    let one = &done.series[0];
    assert_eq!(done.verdict(), None, "{:?}", done.problems());
    assert!(one.skipped.iter().all(|s| s.why == Why::Expired) && one.skipped.len() >= hourly.len() - 1);
    // The newest of all is copied whatever its age: nobody removes it.
    let (newest, older) = hourly.split_last().unwrap();
    assert!(one.archives.iter().any(|a| a.id == newest.id), "{}", done.text());
    for row in older {
        assert!(one.skipped.iter().any(|s| s.place.contains(&row.id)), "{}", row.id);
    }
    assert!(done.text().contains("as their time is over"), "{}", done.text());
    assert_eq!(one.archives.iter().filter(|a| a.archive == "secrets").count(), 1);
    nothing_partial_counts(&to(&machine), "expired");
    restored(&machine, &to(&machine), "latest");
    // One whose parent is gone, and whose keep is over, is no damage either.
    std::fs::remove_dir_all(to(&machine)).unwrap();
    machine.world.fixed_now = Some(NOW + 40 * DAY);
    let weekly = std::fs::read_dir(machine.store().join("state/daily/testhost")).unwrap().next().unwrap().unwrap();
    std::fs::remove_file(weekly.path().join("000000.tar.zst.age")).unwrap();
    let done = run(&machine).unwrap();
    assert_eq!(done.verdict(), None, "{:?}", done.problems());
    nothing_partial_counts(&to(&machine), "expired parent");
}

#[test]
fn errors_say_what_is_wrong() {
    let machine = machine();
    let refused = |args: copy::Args| copy::run(&machine.world, &args, &mut |_| {}).unwrap_err();
    let error = refused(args(&machine));
    assert!(error.kind() == Kind::NotThere && said(&error).contains("make the directory"), "{}", said(&error));
    let link = machine.root().join("link");
    std::os::unix::fs::symlink(machine.store(), &link).unwrap();
    for same in [machine.store(), link] {
        let error = refused(copy::Args { to: same.to_str().unwrap().to_owned(), ..copy::Args::default() });
        assert!(error.kind() == Kind::Usage && error.to_string().contains("is the store that would be copied"));
    }
    // Another series of the same name has that place already.
    let other = self::machine();
    let asked = copy::Args { to: other.store().to_str().unwrap().to_owned(), ..copy::Args::default() };
    let before = snapshot(&other.store());
    let error = refused(asked);
    assert!(error.to_string().contains("holds another series of the name testhost"), "{}", said(&error));
    assert_eq!(snapshot(&other.store()), before);
    // A file that is too large to be a key keeps nothing else from being copied.
    std::fs::write(machine.store().join("keys/testhost/000007.pub"), vec![b'x'; 5000]).unwrap();
    let done = run(&machine).unwrap();
    assert!(
        done.problems().len() == 1 && done.problems()[0].contains("keys/testhost/000007.pub"),
        "{:?}",
        done.problems()
    );
    assert_eq!(done.series[0].archives.len(), 7);
    // Nor does somebody's own key, which is not passed on.
    std::fs::copy(other.store().join("keys/testhost/000001.pub"), machine.store().join("keys/testhost/000007.pub"))
        .unwrap();
    let done = run(&machine).unwrap();
    assert!(done.problems()[0].contains("it is no key of the series"), "{:?}", done.problems());
    assert!(!to(&machine).join("keys/testhost/000007.pub").exists());
    std::fs::remove_file(machine.store().join("keys/testhost/000007.pub")).unwrap();
    std::fs::remove_dir_all(to(&machine)).unwrap();
    // The key of the series was exchanged on the store: it is not passed on.
    std::fs::copy(other.store().join("keys/testhost/000001.pub"), machine.store().join("keys/testhost/000001.pub"))
        .unwrap();
    let done = run(&machine).unwrap();
    assert_eq!(done.verdict(), Some(Kind::Damaged));
    assert!(done.problems()[0].contains("somebody exchanged it"), "{:?}", done.problems());
    assert!(!to(&machine).join("keys").exists());
}

#[test]
fn between_clouds() {
    let (first, second) = (Cloud::start(fake_cloud::Kind::S3), Cloud::start(fake_cloud::Kind::Gcs));
    let mut machine = crate::store_contract::machine(first.credentials("ADMIN"));
    machine.write("agent/notes.md", "words");
    machine.write("agent/.env", "API_KEY=first");
    let mut noise = vec![0; 40 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    machine.write("agent/noise", &noise);
    crate::store_contract::set_up(&machine, &first.url("p", None)).unwrap();
    machine.backup();
    // One that may read there, and one that may add and list here.
    machine.world.env.extend(second.credentials("LISTER").into_iter().map(|(k, v)| (k.into(), v.into())));
    let asked = copy::Args { to: second.url("q", None), ..copy::Args::default() };
    first.log();
    let done = copy::run(&machine.world, &asked, &mut |_| {}).unwrap();
    assert_eq!(done.verdict(), None);
    let objects = |cloud: &Cloud, prefix: &str| -> BTreeMap<String, bytes::Bytes> {
        let state = cloud.state.lock().unwrap();
        state.objects.iter().map(|(k, v)| (k.strip_prefix(prefix).unwrap().to_owned(), v.clone())).collect()
    };
    assert!(objects(&first, "p/") == objects(&second, "q/"));
    assert!(objects(&first, "p/").len() > 8);
    second.log();
    assert_eq!(copy::run(&machine.world, &asked, &mut |_| {}).unwrap().series[0].archives.len(), 0);
    let puts: Vec<_> = second.log().into_iter().filter(|(method, ..)| method == "PUT").collect();
    // Documents and key are offered again, as this credential cannot see it.
    assert!(puts.len() == 3 && puts.iter().all(|p| p.2 == 412), "{puts:?}");
    assert!(!first.log().iter().any(|(method, ..)| method == "PUT" || method == "DELETE"));
}

#[test]
fn what_goes_away_over_there_in_the_middle_is_not_committed() {
    let mut machine = with_backups(&[0]);
    // Old enough that whoever tidies up there takes it for what an interrupted run left.
    machine.world.fixed_now = Some(NOW + 9 * DAY);
    std::fs::create_dir_all(to(&machine)).unwrap();
    let mut gone = false;
    let done = copy::run(&machine.world, &args(&machine), &mut |e| {
        if !gone && matches!(e, Event::Progress { .. }) {
            gone = true;
            for file in files(&to(&machine)).iter().filter(|file| file.extension().is_some_and(|e| e == "age")) {
                std::fs::remove_file(to(&machine).join(file)).unwrap();
            }
        }
    });
    assert!(gone);
    nothing_partial_counts(&to(&machine), "tidied up in the middle");
    let error = done.err().unwrap_or_else(|| panic!("it says that it was copied"));
    assert!(said(&error).contains("went away"), "{}", said(&error));
    assert_eq!(run(&machine).unwrap().verdict(), None);
    assert_eq!(snapshot(&to(&machine)), snapshot(&machine.store()));
}

#[test]
fn a_parent_that_goes_with_its_time_in_the_middle_is_no_damage() {
    let mut machine = with_backups(&[0, 3600, 7200, 10800]);
    // The newest is copied whatever its age, with what it leans on.
    machine.world.fixed_now = Some(NOW + 100 * DAY);
    std::fs::create_dir_all(to(&machine)).unwrap();
    let store = machine.store();
    let mut gone = false;
    let done = copy::run(&machine.world, &args(&machine), &mut |e| {
        if !gone && matches!(e, Event::Progress { .. }) {
            gone = true;
            std::fs::remove_dir_all(store.join("state/hourly")).unwrap();
        }
    })
    .unwrap();
    assert!(gone);
    assert!(done.series[0].skipped.len() >= 2, "{:?}", done.series[0].skipped);
    assert_eq!(done.verdict(), None, "{:?}", done.problems());
    nothing_partial_counts(&to(&machine), "gone in the middle");
}
