//! A new signing key: what is signed before and after counts, for old kits and new ones, and what is signed with the old
//! key afterwards does not.

use std::path::{Path, PathBuf};

use lifeboat::commands::verify::What;
use lifeboat::commands::{Event, Report as _, backup, copy, drill, init, keys, list, restore, rotate, status, verify};
use lifeboat::{Error, Kind};

use crate::forge::{self, files, said};
use crate::world::{Machine, NOW};

const HOUR: i64 = 3600;

/// A sealed host with one snapshot and its bundle.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "first");
    machine.write("agent/.env", "API_KEY=fake-0000");
    machine.init(&["agent"]);
    machine.backup();
    machine
}

fn rotate(machine: &Machine, name: &str) -> Result<rotate::Rotated, Error> {
    let kit = machine.root().join(name);
    let args = rotate::Args { signing: true, kit, identity: Some(machine.kit()), ..rotate::Args::default() };
    rotate::run(&machine.world, &args, &mut |_| {})
}

fn later(machine: &mut Machine, hours: i64, words: &str) -> backup::Done {
    machine.world.fixed_now = Some(NOW + hours * HOUR);
    machine.write("agent/notes.md", words);
    machine.backup()
}

/// What a kit restores, and what it warns of meanwhile.
fn restored(machine: &Machine, kit: &Path, snapshot: &str) -> (String, String) {
    let target = machine.target("restored");
    let (_, events) = machine
        .try_restore(&target, |a| (a.identity, a.snapshot) = (Some(kit.to_owned()), snapshot.to_owned()))
        .unwrap_or_else(|e| panic!("{} does not restore {snapshot}: {}", kit.display(), said(&e)));
    let text = std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap();
    assert!(target.join("home/agent/.env").exists());
    std::fs::remove_dir_all(target).unwrap();
    (text, warnings(&events))
}

fn warnings(events: &[Event]) -> String {
    let warning = |e: &Event| if let Event::Warning(text) = e { Some(format!("{text}\n")) } else { None };
    events.iter().filter_map(warning).collect()
}

fn verified(machine: &Machine) -> verify::Done {
    verify::run(&machine.world, &verify::Args { all: true, ..verify::Args::default() }, &mut |_| {}).unwrap()
}

fn check(machine: &Machine, kit: &Path) -> keys::Checked {
    keys::check(&machine.world, &keys::CheckArgs { kit: kit.to_owned(), store: None }, &mut |_| {}).unwrap()
}

fn key_file(machine: &Machine) -> PathBuf {
    machine.world.config_file().with_file_name("signing.key")
}

fn continued(machine: &Machine, kit: &Path) -> Result<init::Done, Error> {
    let mut other = Machine::new();
    other.world.fixed_now = machine.world.fixed_now;
    let args = init::Args { kit: Some(kit.to_owned()), sealed: true, ..init::Args::default() };
    init::run(&other.world, &args, &mut |_| {})
}

#[test]
fn both_kits_restore_what_either_key_signed() {
    let mut machine = machine();
    let first = machine.list().snapshots.iter().find(|r| r.archive == "state").unwrap().id.clone();
    let new = machine.root().join("new.txt");
    machine.world.fixed_now = Some(NOW + HOUR);
    let done = rotate(&machine, "new.txt").unwrap();
    assert_eq!((done.rotated.as_slice(), done.bundle.is_some()), (&["signing"][..], true));
    assert_eq!(done.from_seq, Some(u64::try_from(NOW + HOUR).unwrap()));
    assert!(done.text().contains("signs no number from"), "{}", done.text());
    let later_done = later(&mut machine, 2, "second");
    assert!(later_done.policy_changes.is_empty() && later_done.state.unwrap().parent.is_some());

    for kit in [machine.kit(), new.clone()] {
        assert_eq!(restored(&machine, &kit, "latest"), ("second".to_owned(), String::new()), "{}", kit.display());
        assert_eq!(restored(&machine, &kit, &first), ("first".to_owned(), String::new()), "{}", kit.display());
        let args = list::Args { identity: Some(kit), ..list::Args::default() };
        let listing = list::run(&machine.world, &args, &mut |_| {}).unwrap();
        assert!(listing.snapshots.iter().all(|row| row.status == "ok"), "{listing:?}");
    }
    assert_eq!(verified(&machine).findings, []);
    let args = status::Args::default();
    assert_eq!(status::run(&machine.world, &args, &mut |_| {}).unwrap().series[0].damage, [] as [&str; 0]);
    // Somebody who knows nothing but the first key follows it, too.
    let keys_dir = machine.store().join("keys/testhost");
    let key = keys_dir.join("000001.pub").display().to_string();
    let args = verify::Args { all: true, key: Some(key), ..verify::Args::default() };
    assert_eq!(verify::run(&machine.world, &args, &mut |_| {}).unwrap().findings, []);

    // Only the new kit goes on with the series.
    let checked = check(&machine, &new);
    assert_eq!((checked.opened.len(), checked.problems().len()), (2, 0));
    let problems = check(&machine, &machine.kit()).problems();
    assert!(problems.len() == 1 && problems[0].contains("cannot continue the series"), "{problems:?}");
    assert_eq!(continued(&machine, &new).unwrap().what, "continued");
    let error = continued(&machine, &machine.kit()).unwrap_err();
    assert!(error.to_string().contains("is not the newest kit"), "{}", said(&error));

    // What a kit says is enough, should somebody remove the keys from the store.
    std::fs::remove_dir_all(&keys_dir).unwrap();
    assert_eq!(restored(&machine, &new, "latest"), ("second".to_owned(), String::new()));
    assert_eq!(restored(&machine, &new, &first), ("first".to_owned(), String::new()));
    assert_eq!(verified(&machine).findings, []);
}

#[test]
fn a_copy_of_the_store_is_followed_as_well() {
    let mut machine = machine();
    machine.world.fixed_now = Some(NOW + HOUR);
    rotate(&machine, "new.txt").unwrap();
    later(&mut machine, 2, "second");
    let other = machine.root().join("other-store");
    let to = other.display().to_string();
    std::fs::create_dir(&other).unwrap();
    let args = copy::Args { to: to.clone(), identity: Some(machine.kit()), ..copy::Args::default() };
    let done = copy::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert!(done.series[0].skipped.is_empty(), "{:?}", done.series[0].skipped);
    for kit in [machine.kit(), machine.root().join("new.txt")] {
        let target = machine.target("restored");
        let (_, events) = machine
            .try_restore(&target, |a| (a.identity, a.store) = (Some(kit), Some(to.clone())))
            .unwrap_or_else(|e| panic!("{}", said(&e)));
        assert_eq!(std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap(), "second");
        assert_eq!(warnings(&events), "");
        std::fs::remove_dir_all(target).unwrap();
    }
}

#[test]
fn keys_follow_each_other() {
    let mut machine = machine();
    for (n, name) in ["two.txt", "three.txt", "four.txt"].into_iter().enumerate() {
        machine.world.fixed_now = Some(NOW + (2 * n as i64 + 1) * HOUR);
        rotate(&machine, name).unwrap();
        later(&mut machine, 2 * n as i64 + 2, name);
    }
    for kit in ["two.txt", "three.txt", "four.txt"].map(|n| machine.root().join(n)).into_iter().chain([machine.kit()]) {
        assert_eq!(restored(&machine, &kit, "latest"), ("four.txt".to_owned(), String::new()), "{}", kit.display());
        assert_eq!(restored(&machine, &kit, "20261121T20"), ("first".to_owned(), String::new()), "{}", kit.display());
    }
    assert_eq!(verified(&machine).findings, []);
    let exported = machine.root().join("exported.txt");
    let args = keys::ExportArgs { file: exported.clone(), identity: Some(machine.kit()), passphrase: false };
    keys::export_kit(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(continued(&machine, &exported).unwrap().what, "continued");
}

#[test]
fn what_a_thief_signs_with_the_old_key_does_not_count() {
    let mut machine = machine();
    // The thief has everything that the host had, and a copy of the store.
    let thief = machine.root().join("thief");
    std::fs::create_dir(&thief).unwrap();
    let stolen = thief.join("home");
    forge::copy(&machine.world.home, &stolen);
    machine.world.fixed_now = Some(NOW + HOUR);
    let new = machine.root().join("new.txt");
    rotate(&machine, "new.txt").unwrap();
    later(&mut machine, 2, "second");

    let mut theirs = Machine::new();
    std::fs::remove_dir(&theirs.world.home).unwrap();
    forge::copy(&stolen, &theirs.world.home);
    let (store, own_store) = (theirs.store().display().to_string(), machine.store().display().to_string());
    let agent = (theirs.home("agent").display().to_string(), machine.home("agent").display().to_string());
    theirs.configure(|text| text.replace(&own_store, &store).replace(&agent.1, &agent.0));
    theirs.world.fixed_now = Some(NOW + 3 * HOUR);
    theirs.write("agent/notes.md", "planted");
    theirs.write("agent/.env", "API_KEY=planted");
    let args = backup::Args { accept_policy: true, ..backup::Args::default() };
    let planted = backup::run(&theirs.world, &args, &mut |_| {}).unwrap();
    let planted_id = planted.state.as_ref().unwrap().id.clone();
    let (planted, bundle) = (planted.state.unwrap().place, planted.secrets.unwrap().place);
    for place in [&planted, &bundle] {
        let to = machine.store().join(place);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        forge::copy(&theirs.store().join(place), &to);
    }
    for kit in [machine.kit(), new] {
        let (text, warned) = restored(&machine, &kit, "latest");
        assert_eq!(text, "second");
        assert!(warned.contains(&planted) && warned.contains("handed over"), "{warned}");
    }
    let unsigned: Vec<String> = verified(&machine).findings.iter().map(|f| f.object.clone()).collect();
    assert!(unsigned.contains(&planted) && unsigned.contains(&bundle), "{unsigned:?}");
    // The host goes on, and does not lean on it.
    let done = later(&mut machine, 4, "third").state.unwrap();
    assert_ne!(done.parent.unwrap(), planted_id);
    // With the store as it is now, the thief's own program sees that its key is worth nothing.
    std::fs::remove_dir_all(theirs.store()).unwrap();
    forge::copy(&machine.store(), &theirs.store());
    // At once, as something stands there that its key did not sign; else the next day.
    let error = theirs.try_backup().unwrap_err();
    assert!(error.to_string().contains("was handed over to another one"), "{}", said(&error));
    for tier in std::fs::read_dir(theirs.store().join("state")).unwrap() {
        std::fs::remove_dir_all(tier.unwrap().path()).unwrap();
    }
    theirs.world.fixed_now = Some(NOW + 28 * HOUR);
    let error = theirs.try_backup().unwrap_err();
    assert!(error.to_string().contains("was handed over to another one"), "{}", said(&error));
}

#[test]
fn hand_overs_that_the_key_did_not_sign_lead_nowhere() {
    let mut machine = machine();
    let other = Machine::new();
    other.write("agent/x", "x");
    other.init(&["agent"]);
    other.backup();
    rotate(&other, "new.txt").unwrap();
    // Somebody else's hand-over, rubbish, and a key without a signature, all before the real one.
    let (theirs, ours) = (other.store().join("keys/testhost"), machine.store().join("keys/testhost"));
    for end in ["pub", "pub.minisig"] {
        std::fs::copy(theirs.join(format!("000002.{end}")), ours.join(format!("000002.{end}"))).unwrap();
        std::fs::write(ours.join(format!("000003.{end}")), "rubbish\n").unwrap();
    }
    std::fs::copy(theirs.join("000001.pub"), ours.join("000004.pub")).unwrap();
    // The highest number there is, with the key that signs now: it must not use the numbers up.
    std::fs::copy(ours.join("000001.pub"), ours.join("999999.pub")).unwrap();
    later(&mut machine, 1, "second");
    let (text, warned) = restored(&machine, &machine.kit(), "latest");
    assert!(text == "second" && warned.contains("000002.pub does not count"), "{warned}");
    let told = verified(&machine);
    assert_eq!(told.verdict(), Some(Kind::Damaged));
    assert!(told.findings.iter().all(|f| f.what == What::Unsigned && f.why.contains("does not count")), "{told:?}");

    machine.world.fixed_now = Some(NOW + 2 * HOUR);
    rotate(&machine, "new.txt").unwrap();
    assert!(ours.join("000005.pub.minisig").exists(), "{:?}", files(&machine.store()));
    later(&mut machine, 3, "third");
    for kit in [machine.kit(), machine.root().join("new.txt")] {
        assert_eq!(restored(&machine, &kit, "latest").0, "third");
    }
}

#[test]
fn a_rotation_that_died_goes_on_with_the_next_backup() {
    // On the store by then: nothing, the key alone, all of it.
    for done in 0..3 {
        let mut machine = machine();
        let config = machine.world.config_file();
        let (key, next) = (key_file(&machine), config.with_file_name("signing.next"));
        let before = std::fs::read(&key).unwrap();
        machine.world.fixed_now = Some(NOW + HOUR);
        rotate(&machine, "new.txt").unwrap();
        let new = machine.root().join("new.txt");
        // Back to the moment after the decision.
        std::fs::rename(&key, &next).unwrap();
        std::fs::write(&key, before).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let catalog = machine.world.state_dir("testhost");
        std::fs::remove_dir_all(catalog).unwrap();
        let keys_dir = machine.store().join("keys/testhost");
        for (end, last) in [("pub.minisig", 2), ("pub", 1)] {
            if done < last {
                std::fs::remove_file(keys_dir.join(format!("000002.{end}"))).unwrap();
            }
        }
        // The bundle that the rotation wrote was signed with a key that nobody can follow yet, for the old kit.
        let (text, _) = restored(&machine, &machine.kit(), "latest");
        assert_eq!(text, "first", "{done}");
        later(&mut machine, 2, "second");
        assert!(!next.exists(), "{done}");
        for kit in [machine.kit(), new] {
            assert_eq!(restored(&machine, &kit, "latest"), ("second".to_owned(), String::new()), "{done}");
        }
        assert_eq!(verified(&machine).findings, [], "{done}");
    }
}

#[test]
fn a_key_that_is_not_the_next_one_is_not_taken() {
    let machine = machine();
    let other = Machine::new();
    other.write("agent/x", "x");
    other.init(&["agent"]);
    let next = machine.world.config_file().with_file_name("signing.next");
    std::fs::copy(key_file(&other), &next).unwrap();
    let error = machine.try_backup().unwrap_err();
    assert!(error.to_string().contains("does not follow on") && error.advice().unwrap().contains("rm "), "{error}");
    std::fs::remove_file(next).unwrap();
    machine.backup();
}

#[test]
fn receipts_of_drills_count_across_a_rotation() {
    let mut machine = machine();
    let drill = |machine: &Machine| {
        let args = drill::Args { identity: Some(machine.kit()), ..drill::Args::default() };
        drill::run(&machine.world, &args, &mut |_| {}).unwrap()
    };
    let counted = |machine: &Machine| {
        let mut events = Vec::new();
        let done = status::run(&machine.world, &status::Args::default(), &mut |e| events.push(e)).unwrap();
        (done.series[0].drill.as_ref().map(|d| d.time.clone()), warnings(&events))
    };
    drill(&machine);
    let first = counted(&machine);
    assert!(first.0.is_some());
    // What is signed with the old key once more, after the rotation: a copy of the host that was left behind.
    let key = std::fs::read(key_file(&machine)).unwrap();
    machine.world.fixed_now = Some(NOW + HOUR);
    rotate(&machine, "new.txt").unwrap();
    assert_eq!(counted(&machine), first);
    let (new_key, keys_dir) = (std::fs::read(key_file(&machine)).unwrap(), machine.store().join("keys"));
    let aside = machine.root().join("keys");
    std::fs::rename(&keys_dir, &aside).unwrap();
    std::fs::write(key_file(&machine), &key).unwrap();
    machine.world.fixed_now = Some(NOW + 2 * HOUR);
    drill(&machine);
    std::fs::rename(&aside, &keys_dir).unwrap();
    std::fs::write(key_file(&machine), &new_key).unwrap();
    let (time, warned) = counted(&machine);
    assert!(time == first.0 && warned.contains("does not count"), "{time:?} {warned}");
    machine.world.fixed_now = Some(NOW + 3 * HOUR);
    drill(&machine);
    assert_ne!(counted(&machine).0, first.0);
}

#[test]
fn all_keys_at_once() {
    let mut machine = machine();
    let kit = machine.root().join("new.txt");
    let args = rotate::Args {
        signing: true,
        secrets: true,
        state: true,
        kit: kit.clone(),
        identity: Some(machine.kit()),
        ..rotate::Args::default()
    };
    machine.world.fixed_now = Some(NOW + HOUR);
    let done = rotate::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(done.rotated, ["state", "secrets", "signing"]);
    later(&mut machine, 2, "second");
    for (snapshot, text) in [("latest", "second"), ("20261121T20", "first")] {
        assert_eq!(restored(&machine, &kit, snapshot), (text.to_owned(), String::new()));
    }
    // The old kit verifies what it cannot open any more.
    let error = machine.try_restore(&machine.target("old"), |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity, "{}", said(&error));
    let args = restore::Args { identity: Some(machine.kit()), ..restore::Args::default() };
    let target = Some(machine.target("older"));
    let args = restore::Args { target, snapshot: "20261121T20".to_owned(), no_secrets: true, ..args };
    restore::run(&machine.world, &args, &mut |_| {}).unwrap();
}

/// Only systemd can replace a credential; the steps that are told lead to a new key.
#[test]
fn a_key_that_is_a_credential_is_rotated_beside_it() {
    let mut machine = machine();
    let credentials = machine.root().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let credential = credentials.join("lifeboat-signing");
    std::fs::rename(key_file(&machine), &credential).unwrap();
    let variable = std::ffi::OsString::from("CREDENTIALS_DIRECTORY");
    let inside = |machine: &mut Machine| machine.world.env.insert(variable.clone(), credentials.clone().into());
    inside(&mut machine);
    later(&mut machine, 1, "as a service");
    let error = rotate(&machine, "new.txt").unwrap_err();
    let advice = error.advice().unwrap_or_default();
    assert!(error.to_string().contains("only systemd can replace"), "{}", said(&error));
    assert!(advice.contains("init --kit") && advice.contains("keys rotate --signing"), "{}", said(&error));
    assert!(!machine.root().join("new.txt").exists());

    // In a shell, as it says.
    machine.world.env.remove(&variable);
    let args = init::Args { kit: Some(machine.kit()), ..init::Args::default() };
    init::run(&machine.world, &args, &mut |_| {}).unwrap();
    machine.world.fixed_now = Some(NOW + 2 * HOUR);
    rotate(&machine, "new.txt").unwrap();
    inside(&mut machine);
    let error = machine.try_backup().unwrap_err();
    assert!(error.to_string().contains("was handed over"), "the old credential: {}", said(&error));
    let stale = machine.root().join("stale.txt");
    let args = keys::ExportArgs { file: stale.clone(), identity: Some(machine.kit()), passphrase: false };
    let error = keys::export_kit(&machine.world, &args, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("was handed over") && !stale.exists(), "{}", said(&error));
    std::fs::rename(key_file(&machine), &credential).unwrap();
    later(&mut machine, 3, "with the new key");
    assert_eq!(restored(&machine, &machine.root().join("new.txt"), "latest").0, "with the new key");
    assert_eq!(verified(&machine).findings, []);
}
