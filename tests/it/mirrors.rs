//! Mirrors: a backup brings them up to date, and is told incomplete as long as one is behind.

use std::path::PathBuf;

use lifeboat::Kind;
use lifeboat::commands::{Event, Report as _, backup, list, status, verify};

use crate::fake_cloud::{self, Cloud, Fate};
use crate::forge::{files, snapshot};
use crate::world::{Machine, NOW};

const DAY: i64 = 86_400;

/// A machine with a mirror that is not there yet.
fn machine(url: &str) -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "words 0");
    machine.write("agent/.env", "API_KEY=first");
    machine.init(&["agent"]);
    mirror(&machine, url);
    machine
}

fn mirror(machine: &Machine, url: &str) {
    machine.configure(|text| text.replacen("\n[state]", &format!("\n[[mirror]]\nstore = \"{url}\"\n\n[state]"), 1));
}

fn directory(machine: &Machine) -> PathBuf {
    machine.root().join("mirror")
}

/// A machine whose mirror is a directory.
fn beside() -> Machine {
    let machine = machine("");
    let url = directory(&machine).to_str().unwrap().to_owned();
    machine.configure(|text| text.replacen("store = \"\"", &format!("store = \"{url}\""), 1));
    machine
}

fn later(machine: &mut Machine, seconds: i64, words: &str) -> backup::Done {
    machine.world.fixed_now = Some(machine.world.fixed_now.unwrap() + seconds);
    machine.write("agent/notes.md", words);
    machine.backup()
}

fn status_of(machine: &Machine) -> status::Done {
    status::run(&machine.world, &status::Args::default(), &mut |_| {}).unwrap()
}

#[test]
fn a_backup_brings_it_up_to_date() {
    let mut machine = beside();
    std::fs::create_dir(directory(&machine)).unwrap();
    let done = machine.backup();
    assert_eq!(done.verdict(), None, "{:?}", done.problems());
    assert_eq!(done.mirrors[0].archives, 2);
    assert!(done.text().contains("copied 2 archives, "), "{}", done.text());
    assert_eq!(snapshot(&directory(&machine)), snapshot(&machine.store()));
    let done = later(&mut machine, 900, "words 1");
    assert_eq!((done.mirrors[0].archives, done.verdict()), (1, None));
    assert_eq!(snapshot(&directory(&machine)), snapshot(&machine.store()));
    let said = status_of(&machine).text();
    assert!(said.contains("mirror ") && said.contains("up to date at 2026-11-21T20:30:00Z"), "{said}");
    // Where nothing was written it is not even asked, and where nothing was written for a day it is.
    std::fs::remove_dir_all(directory(&machine)).unwrap();
    machine.world.fixed_now = Some(NOW + 1800);
    let done = machine.backup();
    assert!(done.unchanged && done.verdict().is_none(), "{:?}", done.problems());
    machine.world.fixed_now = Some(NOW + DAY + 1800);
    assert_eq!(machine.backup().verdict(), Some(Kind::Incomplete));
}

#[test]
fn one_that_is_down_does_not_fail_the_backup_until_it_has_caught_up() {
    let mut machine = beside();
    let done = machine.backup();
    assert!(done.state.is_some() && done.verdict() == Some(Kind::Incomplete));
    let problem = &done.problems()[0];
    assert!(
        problem.contains("is behind, since 2026-11-21T20:15:00Z: ") && problem.contains("is not there"),
        "{problem}"
    );
    assert!(problem.contains("mount its disk"), "{problem}");
    // Still behind where nothing is to be written.
    machine.world.fixed_now = Some(NOW + 900);
    let done = machine.backup();
    assert!(done.unchanged && done.verdict() == Some(Kind::Incomplete), "{}", done.text());
    assert!(status_of(&machine).text().contains("BEHIND since 2026-11-21T20:15:00Z; it never had everything"));
    let out = machine.program(&["status", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["series"][0]["mirrors"][0]["behind_since"], "2026-11-21T20:15:00Z");
    // Two days of it are too much.
    machine.world.fixed_now = Some(NOW + 2 * DAY);
    machine.backup();
    let done = status_of(&machine);
    assert!(
        done.problems().iter().any(|p| p.contains("the mirror ") && p.contains("is behind")),
        "{:?}",
        done.problems()
    );
    std::fs::create_dir(directory(&machine)).unwrap();
    let done = machine.backup();
    assert_eq!(done.verdict(), None, "{:?}", done.problems());
    assert!(done.mirrors[0].archives >= 3, "{}", done.text());
    assert!(!status_of(&machine).problems().iter().any(|p| p.contains("mirror")));
    // The program says so with its exit code.
    std::fs::remove_dir_all(directory(&machine)).unwrap();
    machine.write("agent/notes.md", "more words");
    let out = machine.program(&["backup", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(3), "{json}");
    assert!(json["mirrors"][0]["why"].as_str().unwrap().contains("is not there"), "{json}");
}

#[test]
fn a_bucket_that_only_takes_objects() {
    for kind in [fake_cloud::Kind::S3, fake_cloud::Kind::Gcs] {
        let cloud = Cloud::start(kind);
        let mut machine = machine(&cloud.url("m", None));
        let short = [("LIFEBOAT_STORE_PATIENCE", "1"), ("LIFEBOAT_STORE_SILENCE", "1")];
        machine.world.env.extend(short.map(|(k, v)| (k.into(), v.into())));
        machine.world.env.extend(cloud.credentials("WRITER").into_iter().map(|(k, v)| (k.into(), v.into())));
        let same = |machine: &Machine| {
            let state = cloud.state.lock().unwrap();
            let there: Vec<PathBuf> = state.objects.keys().map(|k| k.strip_prefix("m/").unwrap().into()).collect();
            assert_eq!(there, files(&machine.store()));
            for file in there {
                let key = format!("m/{}", file.display());
                assert!(state.objects[&key] == std::fs::read(machine.store().join(&file)).unwrap(), "{key}");
            }
        };
        let done = machine.backup();
        assert_eq!(done.verdict(), None, "{:?}", done.problems());
        same(&machine);
        // What it has put it knows, as it cannot ask.
        cloud.log();
        let done = later(&mut machine, 900, "words 1");
        assert_eq!((done.mirrors[0].archives, done.verdict()), (1, None));
        let puts = cloud.log().into_iter().filter(|(m, what, _)| m == "PUT" && what.contains("state")).count();
        assert_eq!(puts, 4);
        same(&machine);
        // A bad moment in the middle of an archive: the next run goes on, over what is there already.
        cloud.fate("PUT", Fate::Answer(403, "AccessDenied"));
        let done = later(&mut machine, 900, "words 2");
        assert_eq!(done.verdict(), Some(Kind::Incomplete));
        assert!(done.problems()[0].contains("AccessDenied"), "{:?}", done.problems());
        machine.world.fixed_now = Some(NOW + 2700);
        let done = machine.backup();
        assert_eq!(done.verdict(), None, "{kind:?} {:?}", done.problems());
        same(&machine);
        // Without its memory everything is offered again, and found to be there.
        std::fs::remove_dir_all(machine.world.state_dir("testhost").join("mirrors")).unwrap();
        let done = later(&mut machine, 900, "words 3");
        assert_eq!(done.verdict(), None, "{:?}", done.problems());
        same(&machine);
    }
}

#[test]
fn what_is_damaged_at_home_is_told_and_does_not_fail_the_backup() {
    let mut machine = beside();
    machine.backup();
    let volume = files(&machine.store()).into_iter().find(|p| p.starts_with("secrets")).unwrap();
    let mut bytes = std::fs::read(machine.store().join(&volume)).unwrap();
    bytes[300] ^= 1;
    std::fs::write(machine.store().join(&volume), bytes).unwrap();
    std::fs::create_dir(directory(&machine)).unwrap();
    let done = later(&mut machine, 900, "words 1");
    assert!(done.state.is_some() && done.verdict() == Some(Kind::Incomplete));
    assert!(done.problems()[0].contains("its SHA-256 is"), "{:?}", done.problems());
    assert_eq!(done.mirrors[0].archives, 2, "the rest is there");
}

#[test]
fn a_directory_is_kept_tidy_and_never_backed_up() {
    let mut machine = beside();
    let inside = machine.home("agent/mirror");
    std::fs::create_dir(&inside).unwrap();
    machine.configure(|text| text.replace(directory(&machine).to_str().unwrap(), "~/agent/mirror"));
    let first = machine.backup().state.unwrap();
    assert!(inside.join(&first.place).exists());
    assert!(first.files < 4, "{first:?}");
    later(&mut machine, 900, "words 1");
    assert!(machine.list().snapshots.iter().all(|row| row.status == "ok"));
    // An hourly lives two days; runs on four of them witness the clock, and its volume is gone on both sides.
    let hourly = |machine: &Machine| {
        let all = files(&machine.home("agent/mirror"));
        all.into_iter().filter(|p| p.to_string_lossy().contains("hourly/testhost/20261121T203000Z")).count()
    };
    assert_eq!(hourly(&machine), 4);
    let mut removed = 0;
    for n in 0..6 {
        removed += later(&mut machine, DAY, &format!("day {n}")).mirrors[0].pruned;
    }
    assert!(hourly(&machine) == 0 && removed >= 1, "{removed}");
    assert!(inside.join(&first.place).exists(), "its children need it");
}

#[test]
fn another_mirror_is_a_change_of_where_data_goes() {
    let mut machine = beside();
    std::fs::create_dir(directory(&machine)).unwrap();
    machine.backup();
    let other = machine.root().join("other");
    std::fs::create_dir(&other).unwrap();
    mirror(&machine, other.to_str().unwrap());
    let done = later(&mut machine, 900, "words 1");
    assert_eq!(done.policy_changes, ["the mirrors changed"]);
    assert_eq!(done.mirrors.len(), 2);
    assert_eq!(snapshot(&other), snapshot(&machine.store()));
}

#[test]
fn one_that_is_never_copied_to_the_end_is_behind() {
    let mut machine = beside();
    std::fs::create_dir(directory(&machine)).unwrap();
    assert_eq!(machine.backup().verdict(), None);
    // Each run is ended while it copies, by a timeout or a laptop that is shut.
    for n in 1..=3 {
        machine.world.fixed_now = Some(NOW + n * DAY);
        machine.write("agent/notes.md", format!("words {n}"));
        let stop = std::sync::Arc::clone(&machine.world.stop);
        let error = backup::run(&machine.world, &backup::Args::default(), &mut |e| {
            if matches!(e, Event::Phase("copying to a mirror")) {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        })
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
        stop.store(false, std::sync::atomic::Ordering::Relaxed);
    }
    let done = status_of(&machine);
    let told = done.problems().into_iter().find(|p| p.contains("the mirror ")).expect("nobody says so");
    assert!(told.contains("since 2026-11-22T20:15:00Z") && told.contains("was ended while it did"), "{told}");
    assert!(done.text().contains("up to date at 2026-11-21T20:15:00Z"), "{}", done.text());
    machine.world.fixed_now = Some(NOW + 3 * DAY + 60);
    assert_eq!(machine.backup().verdict(), None);
    assert!(!status_of(&machine).problems().iter().any(|p| p.contains("mirror")));
}

#[test]
fn a_clock_that_was_ahead_does_not_hide_it() {
    let mut machine = beside();
    for at in [30 * DAY, 0, 2 * DAY] {
        machine.world.fixed_now = Some(NOW + at);
        assert_eq!(machine.backup().verdict(), Some(Kind::Incomplete));
    }
    let told = status_of(&machine).problems();
    assert!(told.iter().any(|p| p.contains("the mirror ") && p.contains("since 2026-11-21T20:15:00Z")), "{told:?}");
}

/// What nobody has answered may be an incident: until then the mirror keeps what the store keeps.
#[test]
fn nothing_is_removed_there_while_an_alarm_is_open() {
    let mut machine = crate::guard::machine();
    let there = directory(&machine);
    std::fs::create_dir(&there).unwrap();
    mirror(&machine, there.to_str().unwrap());
    for n in 0..5 {
        machine.world.fixed_now = Some(NOW + n * DAY);
        for run in 0..2 {
            machine.world.fixed_now = Some(NOW + n * DAY + run * 900);
            machine.write("projects/p0/src/f0.py", format!("{n} {run}"));
            machine.backup();
        }
    }
    for project in 0..40 {
        std::fs::remove_dir_all(machine.home(&format!("projects/p{project}"))).unwrap();
    }
    machine.write("projects/left", "x");
    for n in 5..18 {
        machine.world.fixed_now = Some(NOW + n * DAY);
        machine.write("projects/left", format!("{n}"));
        let done = machine.backup();
        assert_eq!((done.verdict(), done.pruned), (Some(Kind::Suspicious), 0), "{n}");
        assert_eq!(done.mirrors[0].pruned, 0, "{n}");
    }
    assert_eq!(files(&there), files(&machine.store()));
}

#[test]
fn an_answer_that_is_none_is_no_object_that_is_there() {
    for kind in [fake_cloud::Kind::S3, fake_cloud::Kind::Gcs] {
        let cloud = Cloud::start(kind);
        let mut machine = machine(&cloud.url("m", None));
        let short = [("LIFEBOAT_STORE_PATIENCE", "1"), ("LIFEBOAT_STORE_SILENCE", "1")];
        machine.world.env.extend(short.map(|(k, v)| (k.into(), v.into())));
        machine.world.env.extend(cloud.credentials("WRITER").into_iter().map(|(k, v)| (k.into(), v.into())));
        assert_eq!(machine.backup().verdict(), None);
        for code in ["InvalidBucketState", ""] {
            for _ in 0..10 {
                cloud.fate("PUT", Fate::Answer(409, code));
            }
            let done = later(&mut machine, 900, &format!("words {code}"));
            assert_eq!(done.verdict(), Some(Kind::Incomplete), "{kind:?} {code}");
            cloud.state.lock().unwrap().fates.clear();
            machine.world.fixed_now = Some(machine.world.fixed_now.unwrap() + 900);
            assert_eq!(machine.backup().verdict(), None, "{kind:?} {code}");
            let there: Vec<PathBuf> =
                cloud.state.lock().unwrap().objects.keys().map(|k| k.strip_prefix("m/").unwrap().into()).collect();
            assert_eq!(there, files(&machine.store()), "{kind:?} {code}");
        }
    }
}

/// A disk that was away while the store went on, and was pruned: it gets all that still counts, with what that leans on.
#[test]
fn one_that_was_away_for_a_week() {
    let mut machine = beside();
    let (there, away) = (directory(&machine), machine.root().join("away"));
    std::fs::create_dir(&there).unwrap();
    machine.backup();
    later(&mut machine, 3600, "before");
    std::fs::rename(&there, &away).unwrap();
    let mut pruned = 0;
    for n in 0..16 {
        let done = later(&mut machine, DAY / 2, &format!("away {n}"));
        assert_eq!(done.verdict(), Some(Kind::Incomplete));
        pruned += done.pruned;
    }
    assert!(pruned > 0);
    std::fs::rename(&away, &there).unwrap();
    let done = later(&mut machine, 3600, "back");
    assert_eq!(done.verdict(), None, "{:?}", done.problems());
    let store = Some(there.to_str().unwrap().to_owned());
    let args = verify::Args { all: true, store: store.clone(), ..verify::Args::default() };
    let verified = verify::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
    let rows = machine.list().snapshots;
    // What is past its life and was not removed yet is not copied any more.
    let now = jiff::Timestamp::from_second(machine.world.now()).unwrap().to_string();
    let lives = |row: &&list::Row| row.expires.as_deref().is_some_and(|end| end > now.as_str());
    let states: Vec<_> = rows.iter().filter(|row| row.tier.is_some()).filter(lives).collect();
    assert!(states.len() > 8, "{}", states.len());
    for row in states {
        let target = machine.target("restored");
        let change = |a: &mut lifeboat::commands::restore::Args| {
            (a.snapshot, a.store) = (row.id.clone(), store.clone());
        };
        machine.try_restore(&target, change).unwrap_or_else(|e| panic!("{}: {}", row.id, crate::forge::said(&e)));
        std::fs::remove_dir_all(target).unwrap();
    }
}
