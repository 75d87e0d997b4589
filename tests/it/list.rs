//! What is on a store, and what is wrong with it.

use std::path::{Path, PathBuf};

use lifeboat::commands::{Event, Report as _, list};
use lifeboat::model::commit::Reference;
use lifeboat::model::store_key::{Archive, SnapshotId};
use lifeboat::{Error, Kind};

use crate::forge::Forger;
use crate::world::{Machine, NOW};

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
    let text = listing.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("snapshot  ") && lines.len() == 5 && lines.iter().all(|l| l.len() <= 100), "{text}");
    let shape = lines[2].split_whitespace().collect::<Vec<_>>();
    assert_eq!(
        (shape[1], shape[4], shape[5], shape[8], shape[9]),
        ("monthly", "full", "1", "2027-11-21", "2"),
        "{text}"
    );
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
    let text = listing.text();
    assert!(text.lines().nth(1) == Some("series second") && text.contains("\nseries testhost\n"), "{text}");
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

/// Puts a snapshot of a tier and life beside those that are there, as a child of `parent`.
fn child(forger: &Forger, n: u32, day: i64, tier: &str, life: u64, parent: Option<&Reference>) -> Reference {
    let id = SnapshotId::new(NOW + day * 86_400, n);
    forger.put_as(Archive::State, &id, 2_000_000_000 + u64::from(n), Vec::new(), &|draft| {
        draft.place.tier = Some(tier.to_owned());
        draft.place.parent = parent.map(|p| p.id.clone());
        let mut life = format!("# life {life}");
        if let Some(parent) = parent {
            life = format!("{life}\n# parent {} {}", parent.id, lifeboat::model::manifest::hex(&parent.sha256));
        }
        let tier = format!("# tier {tier}");
        draft.commit = Box::new(move |text| text.replace("# tier monthly", &tier).replace("# life 365", &life));
    })
}

#[test]
fn chains_are_measured_and_end_with_their_first_life() {
    let machine = machine();
    let forger = Forger::of(&machine);
    let full = child(&forger, 1, 1, "monthly", 20, None);
    let daily = child(&forger, 2, 2, "daily", 37, Some(&full));
    let hourly = child(&forger, 3, 3, "hourly", 2, Some(&daily));
    let (listing, _) = run(&machine, |a| a.identity = Some(machine.kit())).unwrap();
    let row = |r: &Reference| listing.snapshots.iter().find(|row| row.id == r.id.as_str()).unwrap();
    let (first, second, third) = (row(&full), row(&daily), row(&hourly));
    assert_eq!(
        [first, second, third].map(|r| (r.chain, r.status)),
        [(Some(1), "ok"), (Some(2), "ok"), (Some(3), "ok")]
    );
    assert_eq!(third.parent.as_deref(), Some(daily.id.as_str()));
    assert_eq!(first.chain_stored, Some(first.stored));
    assert_eq!(third.chain_stored, Some(first.stored + second.stored + third.stored));
    // The daily lives longer than the full that it leans on, the hourly less.
    assert_eq!(first.expires.as_deref(), Some("2026-12-12T20:15:00Z"));
    assert_eq!(second.expires, first.expires);
    assert_eq!(third.expires.as_deref(), Some("2026-11-26T20:15:00Z"));
    let text = listing.text();
    let tail = &daily.id.as_str()[17..];
    let line = text.lines().find(|l| l.starts_with(hourly.id.as_str())).unwrap();
    assert!(line.contains("  hourly ") && line.contains(&format!("  {tail}   3 ")), "{text}");
    assert!(line.contains("  2026-11-26  ") && text.lines().all(|l| l.len() <= 100), "{text}");
    let json = serde_json::to_value(third).unwrap();
    assert_eq!((json["chain"].as_u64(), json["expires"].as_str()), (Some(3), Some("2026-11-26T20:15:00Z")));
}

#[test]
fn a_broken_chain_is_damage_until_its_keep_is_over_and_then_expired() {
    let mut machine = machine();
    let forger = Forger::of(&machine);
    let full = child(&forger, 1, 0, "monthly", 20, None);
    let daily = child(&forger, 2, 1, "daily", 37, Some(&full));
    let hourly = child(&forger, 3, 2, "hourly", 2, Some(&daily));
    let dir = machine.store().join("state/monthly/testhost").join(full.id.as_str());
    std::fs::remove_file(dir.join("manifest.jsonl.zst.age")).unwrap();
    let mut at = |days: i64| {
        machine.world.fixed_now = Some(NOW + days * 86_400);
        let (listing, _) = run(&machine, |_| {}).unwrap();
        let row = |r: &Reference| {
            let row = listing.snapshots.iter().find(|row| row.id == r.id.as_str()).unwrap();
            assert_eq!((row.chain, row.chain_stored, &row.expires), (None, None, &None));
            row.status
        };
        let text = listing.text();
        (row(&full), row(&daily), row(&hourly), text)
    };
    // The hourly is kept for a day, the daily for thirty; the full's own life is twenty days.
    let (one, two, three, text) = at(2);
    assert_eq!((one, two, three), ("damaged", "damaged", "damaged"));
    assert!(text.contains(&format!("  damaged: {} of its chain is missing or damaged\n", full.id)), "{text}");
    let (one, two, three, text) = at(3);
    assert_eq!((one, two, three), ("damaged", "damaged", "expired"));
    assert!(text.contains("  expired: the time that hourly is kept is over, and "), "{text}");
    assert_eq!(at(20).0, "expired");
    assert_eq!((at(30).1, at(31).1), ("damaged", "expired"));
    // Longer keeps make it damage again: what was promised decides.
    machine.configure(|text| {
        text.replace("daily = \"30d\"", "daily = \"60d\"").replace("hourly = \"24h\"", "hourly = \"2d\"")
    });
    let (listing, _) = run(&machine, |_| {}).unwrap();
    let status = |id: &str| listing.snapshots.iter().find(|row| row.id == id).unwrap().status;
    assert_eq!((status(daily.id.as_str()), status(hourly.id.as_str())), ("damaged", "expired"));
}

#[test]
fn what_is_pinned_has_no_end() {
    let machine = machine();
    let forger = Forger::of(&machine);
    let full = child(&forger, 1, 0, "monthly", 20, None);
    let store = machine.store().join("state");
    std::fs::create_dir_all(store.join("pinned/testhost")).unwrap();
    let from = store.join("monthly/testhost").join(full.id.as_str());
    std::fs::rename(from, store.join("pinned/testhost").join(full.id.as_str())).unwrap();
    let (listing, _) = run(&machine, |_| {}).unwrap();
    let row = listing.snapshots.iter().find(|row| row.id == full.id.as_str()).unwrap();
    assert_eq!((row.status, row.chain, &row.expires), ("ok", Some(1), &None));
}

#[test]
fn a_life_without_end_breaks_nothing() {
    let machine = machine();
    let full = child(&Forger::of(&machine), 1, 0, "monthly", u64::MAX, None);
    let (listing, _) = run(&machine, |_| {}).unwrap();
    let row = listing.snapshots.iter().find(|row| row.id == full.id.as_str()).unwrap();
    assert_eq!((row.status, &row.expires), ("ok", &None));
    assert!(listing.text().contains(full.id.as_str()));
}
