//! What is on a store, and what is wrong with it.

use std::path::{Path, PathBuf};

use lifeboat::commands::{Event, Report as _, list};
use lifeboat::{Error, Kind};

use crate::world::Machine;

/// A machine with state and secrets on its store.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    machine.write("agent/more.md", "y");
    machine.write("agent/.env", "KEY=fake");
    machine.init(&["agent"]);
    machine.backup();
    machine
}

fn run(machine: &Machine, change: impl FnOnce(&mut list::Args)) -> Result<(list::Listing, Vec<Event>), Error> {
    let (mut args, mut events) = (list::Args::default(), Vec::new());
    change(&mut args);
    let listing = list::run(&machine.world, &args, &mut |e| events.push(e))?;
    Ok((listing, events))
}

/// The directory on the store of the only archive of a kind.
fn stored(machine: &Machine, below: &str) -> PathBuf {
    let mut found = std::fs::read_dir(machine.store().join(below)).unwrap();
    let path = found.next().unwrap().unwrap().path();
    assert!(found.next().is_none());
    path
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn rows_tell_what_there_is() {
    let mut machine = machine();
    machine.world.fixed_now = machine.world.fixed_now.map(|n| n + 3600);
    machine.write("agent/notes.md", "changed");
    machine.write("agent/.env", "KEY=changed");
    machine.backup();
    let (listing, events) = run(&machine, |a| a.identity = Some(machine.kit())).unwrap();
    assert!(events.is_empty() && listing.hidden.is_empty());
    let rows: Vec<_> =
        listing.snapshots.iter().map(|r| (r.archive, r.time.as_str(), r.tier.as_deref(), r.files, r.status)).collect();
    let (first, second) = ("2026-11-21T20:15:00Z", "2026-11-21T21:15:00Z");
    assert_eq!(
        rows,
        [
            ("secrets", first, None, Some(1), "ok"),
            ("state", first, Some("monthly"), Some(2), "ok"),
            ("secrets", second, None, Some(1), "ok"),
            ("state", second, Some("hourly"), Some(1), "ok"),
        ]
    );
    assert!(listing.snapshots.windows(2).all(|w| w[0].seq < w[1].seq));
    assert!(listing.snapshots.iter().all(|r| r.stored > 500 && r.note.is_none()));
    assert!(listing.text().lines().nth(1).unwrap().contains("  2026-11-21 20:15:00  monthly "), "{}", listing.text());
    // Without a kit the same, but for what takes an identity.
    let (listing, _) = run(&machine, |_| {}).unwrap();
    assert!(listing.snapshots.iter().all(|r| r.files.is_none() && r.status == "ok"));
}

#[test]
fn a_kit_is_enough() {
    let machine = machine();
    let other = Machine::new();
    let (listing, events) = run(&other, |a| a.identity = Some(machine.kit())).unwrap();
    assert_eq!(listing.snapshots.len(), 2);
    assert!(events.is_empty() && listing.snapshots.iter().all(|r| r.status == "ok" && r.files.is_some()));
    let error = run(&other, |_| {}).err().unwrap();
    assert_eq!(error.kind(), Kind::NotThere);
    // A store alone: what it says of itself is believed with a warning.
    let store = machine.store().to_str().unwrap().to_owned();
    let (listing, events) = run(&other, |a| a.store = Some(store.clone())).unwrap();
    assert_eq!(listing.snapshots.len(), 2);
    assert!(matches!(&events[..], [Event::Warning(w)] if w.contains("could have put there")), "{events:?}");
    let error = run(&other, |a| a.store = Some("/no/such/store".into())).err().unwrap();
    assert_eq!(error.kind(), Kind::NotThere);
}

#[test]
fn all_series_of_a_store() {
    let machine = machine();
    let second = Machine::new();
    second.write("agent/x", "x");
    let args = lifeboat::commands::init::Args {
        sources: vec![second.home("agent")],
        store: Some(machine.store().to_str().unwrap().to_owned()),
        name: Some("second".into()),
        sealed: true,
        ..Default::default()
    };
    lifeboat::commands::init::run(&second.world, &args, &mut |_| {}).unwrap();
    second.backup();
    let series = |l: &list::Listing| l.snapshots.iter().map(|r| r.series.clone()).collect::<Vec<_>>();
    assert_eq!(series(&run(&machine, |_| {}).unwrap().0), ["testhost", "testhost"]);
    let (listing, events) = run(&machine, |a| a.all = true).unwrap();
    assert_eq!(series(&listing), ["second", "testhost", "testhost"]);
    assert!(listing.text().starts_with("second  "));
    // Only of the other series the key had to be taken from the store.
    assert!(matches!(&events[..], [Event::Warning(w)] if w.starts_with("signatures of second ")), "{events:?}");
    assert_eq!(series(&run(&machine, |a| a.name = Some("second".into())).unwrap().0), ["second"]);
    assert!(run(&machine, |a| a.name = Some("third".into())).unwrap().0.snapshots.is_empty());
}

#[test]
fn statuses() {
    let status = |machine: &Machine, archive: &str| {
        let (listing, _) = run(machine, |a| a.identity = Some(machine.kit())).unwrap();
        let row = listing.snapshots.into_iter().find(|r| r.archive == archive).unwrap();
        (row.status, row.note.unwrap_or_default())
    };
    let state = "state/monthly/testhost";

    let one = machine();
    std::fs::remove_file(stored(&one, state).join("commit")).unwrap();
    assert_eq!(status(&one, "state").0, "incomplete");
    assert_eq!(status(&one, "secrets").0, "ok");

    let one = machine();
    std::fs::remove_file(stored(&one, state).join("commit.minisig")).unwrap();
    assert_eq!(status(&one, "state"), ("unverified", "it is not signed".into()));

    let one = machine();
    edit(&stored(&one, "secrets/testhost").join("commit"), |b| b[20] ^= 1);
    assert_eq!(status(&one, "secrets").0, "unverified");

    let one = machine();
    std::fs::remove_file(stored(&one, state).join("000000.tar.zst.age")).unwrap();
    assert_eq!(status(&one, "state"), ("damaged", "000000.tar.zst.age is missing".into()));

    let one = machine();
    edit(&stored(&one, state).join("manifest.jsonl.zst.age"), |b| b.truncate(b.len() - 1));
    assert_eq!(status(&one, "state"), ("damaged", "manifest.jsonl.zst.age has the wrong size".into()));
}

#[test]
fn what_was_removed_is_noticed() {
    let mut machine = machine();
    machine.world.fixed_now = machine.world.fixed_now.map(|n| n + 40 * 86_400);
    let first = stored(&machine, "state/monthly/testhost");
    machine.backup();
    std::fs::remove_dir_all(&first).unwrap();
    let (listing, _) = run(&machine, |_| {}).unwrap();
    let id = first.file_name().unwrap().to_str().unwrap();
    assert!(listing.hidden.len() == 1 && listing.hidden[0].contains(id), "{:?}", listing.hidden);
    assert!(listing.text().contains("hidden: "));
    let (_, events) = machine.try_restore(&machine.target("t"), |_| {}).unwrap();
    assert!(events.iter().any(|e| matches!(e, Event::Warning(w) if w.starts_with("something may have been removed"))));
}
