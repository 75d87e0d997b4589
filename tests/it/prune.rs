//! What `prune` removes from a store on a disk, and what it leaves alone.

use std::path::{Path, PathBuf};

use lifeboat::Kind;
use lifeboat::commands::{Report as _, prune};

use crate::forge::files;
use crate::world::{Machine, NOW};

const DAY: i64 = 86_400;

/// A backup on a day.
fn backup(machine: &mut Machine, day: i64, words: &str) -> String {
    machine.world.fixed_now = Some(NOW + day * DAY);
    machine.write("agent/notes.md", words);
    machine.write("agent/.env", format!("API_KEY={words}"));
    machine.world.wrap_store = Some(crate::faults::no_deletes());
    let id = machine.backup().state.unwrap().id;
    machine.world.wrap_store = None;
    id
}

/// A machine with a snapshot that is past its life, one that is not, and four days that witness the clock.
fn machine() -> (Machine, String, String) {
    let mut machine = Machine::new();
    machine.write("agent/notes.md", "");
    machine.init(&["agent"]);
    let old = backup(&mut machine, 0, "old");
    let young = backup(&mut machine, 200, "young");
    for day in 400..=404 {
        backup(&mut machine, day, "now");
    }
    (machine, old, young)
}

fn run(machine: &Machine, dry_run: bool, yes: bool) -> prune::Done {
    prune::run(&machine.world, &prune::Args { dry_run, yes }, &mut |_| {}).unwrap()
}

fn ids(done: &prune::Done, archive: &str) -> Vec<String> {
    done.removed.iter().filter(|g| g.archive == archive).map(|g| g.id.clone()).collect()
}

fn find(store: &Path, name: &str) -> PathBuf {
    let all = files(store);
    let found = all.iter().find(|p| p.to_string_lossy().contains(name)).unwrap();
    store.join(found)
}

#[test]
fn what_is_past_its_life_goes_and_the_rest_is_whole() {
    let (machine, old, young) = machine();
    let before = files(&machine.store());
    let planned = run(&machine, true, false);
    assert_eq!(ids(&planned, "state"), [old.as_str()]);
    // Bundles live 90 days.
    assert_eq!(ids(&planned, "secrets").len(), 2);
    assert!(planned.text().starts_with("would remove ") && planned.text().contains(&old), "{}", planned.text());
    assert_eq!(files(&machine.store()), before, "a dry run removes nothing");

    let done = run(&machine, false, false);
    assert_eq!(ids(&done, "state"), ids(&planned, "state"));
    assert_eq!((done.bytes, done.left, done.waiting), (planned.bytes, planned.left, 0));
    let listing = machine.list();
    assert!(listing.hidden.is_empty() && listing.snapshots.iter().all(|r| r.status == "ok"), "{}", listing.text());
    assert_eq!(listing.snapshots.len(), done.left);
    assert!(!machine.store().join("state/monthly/testhost").join(&old).exists(), "not even an empty directory");
    let target = machine.target("young");
    machine.try_restore(&target, |a| a.snapshot = young).unwrap();
    assert_eq!(std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap(), "young");

    let again = run(&machine, false, false);
    assert!(again.removed.is_empty() && again.text().starts_with("nothing to remove"), "{}", again.text());
}

#[test]
fn after_a_backup_what_it_wrote_does_not_count_yet() {
    let mut machine = Machine::new();
    machine.write("agent/notes.md", "");
    machine.init(&["agent"]);
    let old = backup(&mut machine, 0, "old");
    let session = lifeboat::commands::session::configuration(&machine.world).unwrap().unwrap();
    let store = lifeboat::host::store::Store::open(
        &machine.world,
        &session.config.store,
        lifeboat::host::store::Access::Existing,
    );
    let store = store.unwrap();
    let key = lifeboat::commands::session::signing_key(&machine.world, &session.file).unwrap().public().into();
    for day in 400..404 {
        backup(&mut machine, day, "new");
    }
    let after =
        |began: i64| prune::after_backup(&machine.world, &store, &session.config, &key, NOW + began * DAY).unwrap();
    // As if all of the new ones had been written by a run that is under way.
    assert!(after(400).removed.iter().all(|g| g.id != old));
    let gone = after(401);
    assert_eq!(ids(&gone, "state"), [old]);
}

#[test]
fn a_clock_that_jumped_waits() {
    let (mut machine, old, young) = machine();
    run(&machine, false, false);
    machine.world.fixed_now = Some(NOW + 4000 * DAY);
    let before = files(&machine.store());
    let done = run(&machine, false, false);
    assert!(done.removed.is_empty() && done.waiting > 0, "{}", done.text());
    assert!(done.text().contains("--yes") && done.text().contains("three later days"), "{}", done.text());
    assert_eq!(files(&machine.store()), before);
    let done = run(&machine, false, true);
    assert!(ids(&done, "state").contains(&young) && !ids(&done, "state").contains(&old));
    // The newest can still be restored, with its bundle.
    let target = machine.target("newest");
    machine.restore(&target);
    assert_eq!(std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap(), "now");
    assert_eq!(std::fs::read_to_string(target.join("home/agent/.env")).unwrap(), "API_KEY=now");
}

#[test]
fn only_what_is_ours_goes() {
    let (machine, old, _) = machine();
    let store = machine.store();
    let dir = store.join("state/monthly/testhost").join(&old);
    // A commit that was tampered with, a file that is none of ours, remains, and another series.
    let mut commit = std::fs::read(dir.join("commit")).unwrap();
    commit[30] ^= 1;
    std::fs::write(dir.join("commit"), commit).unwrap();
    let remains = store.join("state/hourly/testhost/20261120T000000Z-00000001");
    let other = store.join("state/hourly/other/20261120T000000Z-00000001");
    let strange = store.join("state/hourly/testhost/20261120T000000Z-00000002");
    let pinned = store.join("state/pinned/testhost/20261120T000000Z-00000003");
    for dir in [&remains, &other, &strange, &pinned] {
        std::fs::create_dir_all(dir).unwrap();
    }
    for dir in [&remains, &other, &pinned] {
        std::fs::write(dir.join("000000.tar.zst.age"), "x").unwrap();
    }
    std::fs::write(strange.join("notes.txt"), "x").unwrap();
    std::fs::write(remains.join("notes.txt"), "x").unwrap();
    let done = run(&machine, false, false);
    assert_eq!(done.unverified, 1);
    assert!(done.text().contains("did not verify"), "{}", done.text());
    assert!(dir.join("commit").exists() && dir.join("000000.tar.zst.age").exists());
    assert!(done.removed.iter().any(|g| g.remains && g.tier.as_deref() == Some("hourly")));
    assert!(!remains.join("000000.tar.zst.age").exists() && remains.join("notes.txt").exists());
    for there in [other.join("000000.tar.zst.age"), pinned.join("000000.tar.zst.age"), strange.join("notes.txt")] {
        assert!(there.exists(), "{}", there.display());
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let machine = Machine::new();
    let refused = |machine: &Machine| prune::run(&machine.world, &prune::Args::default(), &mut |_| {}).unwrap_err();
    assert_eq!(refused(&machine).kind(), Kind::NotThere);
    let (machine, _, _) = self::machine();
    let lock = lifeboat::host::world::Lock::take(&machine.world.state_dir("testhost")).unwrap();
    assert_eq!(refused(&machine).kind(), Kind::Locked);
    // Looking takes no lock.
    run(&machine, true, false);
    drop(lock);
    let commit = find(&machine.store(), "commit");
    assert!(commit.exists());
    let out = machine.program(&["prune", "--dry-run", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((json["dry_run"].as_bool(), json["series"].as_str()), (Some(true), Some("testhost")));
    std::fs::remove_dir_all(machine.store()).unwrap();
    assert_eq!(refused(&machine).kind(), Kind::NotThere);
}
