//! What an incremental holds and what it leans on: names instead of content, tails instead of files, and a parent that
//! is looked at first.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lifeboat::Error;
use lifeboat::commands::backup::{Args, Done};
use lifeboat::commands::{Event, Report as _, backup};

use crate::forge::{files, said};
use crate::roundtrip::{noise, same, tree};
use crate::world::Machine;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// 2027-01-15T08:00:00Z, later than the files that tests make, so that they count as settled.
const LATER: i64 = 1_800_000_000;

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.world.fixed_now = Some(LATER);
    machine.write("agent/notes.md", "notes");
    machine.write("agent/log.jsonl", noise(1_000_000, 1));
    let secret = machine.write("agent/.env", "API_KEY=fake-0001");
    std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    for n in 0..50 {
        machine.write(&format!("agent/project/file{n}.rs"), noise(3000, 100 + n));
    }
    machine.init(&["agent"]);
    machine
}

/// A backup so many seconds later, and what it said.
fn later(machine: &mut Machine, seconds: i64) -> (Done, Vec<Event>) {
    try_later(machine, seconds, Args::default()).unwrap()
}

fn try_later(machine: &mut Machine, seconds: i64, args: Args) -> Result<(Done, Vec<Event>), Error> {
    // File systems tick in milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(12));
    machine.world.fixed_now = machine.world.fixed_now.map(|now| now + seconds);
    let mut events = Vec::new();
    let done = backup::run(&machine.world, &args, &mut |e| events.push(e))?;
    Ok((done, events))
}

fn warned(events: &[Event], text: &str) -> bool {
    events.iter().any(|e| matches!(e, Event::Warning(w) | Event::Note(w) if w.contains(text)))
}

/// Restores the newest and compares with what is there.
fn comes_back(machine: &Machine) {
    let target = machine.target("restored");
    let (done, _) = machine.try_restore(&target, |_| {}).unwrap_or_else(|e| panic!("{}", said(&e)));
    assert!(done.missing.is_empty(), "{done:?}");
    same(&tree(&machine.home("agent")), &tree(&target.join("home/agent")));
    std::fs::remove_dir_all(target).unwrap();
}

#[test]
fn nothing_changed_and_nothing_written_but_once_a_day() {
    let mut machine = machine();
    machine.backup();
    let before = files(&machine.store());
    let (done, _) = later(&mut machine, 900);
    assert!(done.unchanged && done.state.is_none() && done.secrets.is_none());
    assert_eq!(done.text().lines().next(), Some("nothing changed since the last snapshot: none was written"));
    assert_eq!(files(&machine.store()), before);
    let (done, _) = later(&mut machine, DAY);
    let state = done.state.unwrap();
    assert_eq!((state.tier.as_deref(), state.files), (Some("daily"), 0));
    assert!(state.stored < 4096 && state.parent.is_some(), "{state:?}");
    comes_back(&machine);
    let (done, _) = later(&mut machine, 40 * DAY);
    let state = done.state.unwrap();
    assert_eq!((state.tier.as_deref(), state.parent, state.files), (Some("monthly"), None, 52));
    comes_back(&machine);
}

#[test]
fn names_travel_without_content() {
    let mut machine = machine();
    let full = machine.backup().state.unwrap().stored;
    std::fs::rename(machine.home("agent/project"), machine.home("agent/renamed")).unwrap();
    let (done, _) = later(&mut machine, 900);
    let moved = done.state.unwrap().stored;
    assert!(moved * 20 < full, "{moved} of {full}");
    comes_back(&machine);
    // A second checkout of what is there already.
    std::fs::create_dir(machine.home("agent/again")).unwrap();
    for n in 0..50 {
        let name = format!("file{n}.rs");
        std::fs::copy(machine.home("agent/renamed").join(&name), machine.home("agent/again").join(&name)).unwrap();
    }
    let (done, _) = later(&mut machine, 900);
    let copied = done.state.unwrap().stored;
    assert!(copied * 20 < full, "{copied} of {full}");
    comes_back(&machine);
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(machine.home("agent/log.jsonl"), mode).unwrap();
    let (done, _) = later(&mut machine, 900);
    assert!(done.state.unwrap().stored < 6000);
    comes_back(&machine);
}

#[test]
fn a_log_costs_its_tail() {
    let mut machine = machine();
    machine.backup();
    for round in 0..5u64 {
        use std::io::Write as _;
        let mut log = std::fs::OpenOptions::new().append(true).open(machine.home("agent/log.jsonl")).unwrap();
        log.write_all(&noise(10_000, 50 + round)).unwrap();
        drop(log);
        let stored = later(&mut machine, 900).0.state.unwrap().stored;
        assert!(stored < 80_000, "{stored} in round {round}");
        comes_back(&machine);
    }
}

#[test]
fn a_source_that_is_not_mounted_is_not_deleted() {
    let mut machine = machine();
    machine.backup();
    let (home, aside) = (machine.home("agent"), machine.home("aside"));
    std::fs::rename(&home, &aside).unwrap();
    std::fs::create_dir(&home).unwrap();
    for _ in 0..2 {
        let (done, _) = later(&mut machine, 900);
        assert!(done.unreadable[0].contains("it is empty where it was not: is it mounted?"), "{done:?}");
        assert!(done.secrets.is_none(), "the bundle that has its secrets is the best there is");
        let (restored, _) = machine.try_restore(&machine.target("t"), |_| {}).unwrap();
        assert_eq!(restored.older.len(), 1);
        std::fs::remove_dir(&home).unwrap();
        std::fs::rename(&aside, &home).unwrap();
        same(&tree(&home), &tree(&machine.target("t/home/agent")));
        std::fs::rename(&home, &aside).unwrap();
        std::fs::create_dir(&home).unwrap();
        std::fs::remove_dir_all(machine.target("t")).unwrap();
    }
    std::fs::remove_dir(&home).unwrap();
    std::fs::rename(&aside, &home).unwrap();
    let (done, _) = later(&mut machine, 900);
    assert!(done.unreadable.is_empty() && done.problems().is_empty(), "{done:?}");
    comes_back(&machine);
    let (done, _) = later(&mut machine, 900);
    assert!(done.unchanged);
    // Somebody may want to empty it.
    std::fs::remove_dir_all(&home).unwrap();
    std::fs::create_dir(&home).unwrap();
    let (done, _) = try_later(&mut machine, 900, Args { rehash: true, ..Args::default() }).unwrap();
    assert!(done.unreadable.is_empty() && done.alarm_since.is_some(), "{done:?}");
    machine.restore(&machine.target("t"));
    assert!(crate::forge::files(&machine.target("t/home/agent")).is_empty());
}

#[test]
fn a_rule_that_is_new_deletes_and_says_so() {
    let mut machine = machine();
    machine.backup();
    machine.configure(|text| text.replace("path = ", "exclude = [\"project/\"]\npath = "));
    let (done, events) = later(&mut machine, 900);
    assert_eq!(done.deleted, 51);
    assert!(warned(&events, "left out by a rule from now on: home/agent/project and 50 more"), "{events:?}");
    let target = machine.target("t");
    machine.restore(&target);
    assert!(!target.join("home/agent/project").exists() && target.join("home/agent/notes.md").exists());
}

#[test]
fn what_became_secret_leaves_no_trace_of_its_content() {
    let mut machine = machine();
    machine.write("agent/deploy.conf", noise(90_000, 7));
    machine.backup();
    let digest = *blake3::hash(&noise(90_000, 7)).as_bytes();
    let catalog = machine.world.state_dir("testhost").join("catalog.sqlite");
    let knows = || {
        let wal = std::fs::read(catalog.with_extension("sqlite-wal")).unwrap_or_default();
        let all = [std::fs::read(&catalog).unwrap(), wal].concat();
        all.windows(32).any(|w| w == digest)
    };
    assert!(knows());
    machine.configure(|text| text.replace("path = ", "secret = [\"deploy.conf\"]\npath = "));
    let (done, events) = later(&mut machine, 900);
    assert!(warned(&events, "became secret"), "{events:?}");
    assert_eq!(done.deleted, 1);
    assert!(!knows());
    let target = machine.target("t");
    machine.try_restore(&target, |a| a.no_secrets = true).unwrap();
    assert!(!target.join("home/agent/deploy.conf").exists());
    comes_back_secret(&machine, "deploy.conf", &noise(90_000, 7));
}

fn comes_back_secret(machine: &Machine, name: &str, content: &[u8]) {
    let target = machine.target("secret");
    machine.restore(&target);
    assert_eq!(std::fs::read(target.join("home/agent").join(name)).unwrap(), content);
}

/// The directory of a snapshot on the store.
fn stored(machine: &Machine, id: &str) -> std::path::PathBuf {
    let all = files(&machine.store());
    let commit = all.iter().find(|p| {
        let dir = p.parent().and_then(Path::file_name).map(|d| d.to_string_lossy().into_owned()).unwrap_or_default();
        dir.starts_with(id) && p.ends_with("commit")
    });
    machine.store().join(commit.unwrap().parent().unwrap())
}

#[test]
fn a_parent_that_is_gone_or_another_one_is_not_leant_on() {
    for spoil in ["removed", "altered", "hollow"] {
        let mut machine = machine();
        machine.backup();
        machine.write("agent/notes.md", "first");
        let first = later(&mut machine, 900).0.state.unwrap();
        machine.write("agent/notes.md", "second");
        later(&mut machine, 900);
        machine.write("agent/notes.md", "third");
        // What the third would lean on is the second; in an hour nobody looks further.
        let second = machine.list().snapshots.into_iter().rfind(|r| r.archive == "state").unwrap().id;
        let dir = stored(&machine, &second);
        match spoil {
            "removed" => std::fs::remove_dir_all(&dir).unwrap(),
            "altered" => {
                let text = std::fs::read_to_string(dir.join("commit")).unwrap();
                std::fs::write(dir.join("commit"), text.replace("# life", "# color blue\n# life")).unwrap();
            }
            _ => std::fs::remove_file(dir.join("manifest.jsonl.zst.age")).unwrap(),
        }
        let pause = if spoil == "hollow" { DAY } else { 900 };
        let (done, events) = later(&mut machine, pause);
        let third = done.state.unwrap();
        if spoil != "hollow" {
            assert!(warned(&events, "nothing new will be made against it"), "{spoil}: {events:?}");
        }
        assert_ne!(third.parent.as_deref(), Some(second.as_str()), "{spoil}");
        assert!(third.parent.is_some() && first.id != second, "{spoil}: not a full");
        let target = machine.target("t");
        let (_, _) = machine.try_restore(&target, |a| a.snapshot = third.id).unwrap();
        assert_eq!(std::fs::read(target.join("home/agent/notes.md")).unwrap(), b"third");
    }
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_catalog_that_is_older_than_the_store_is_no_harm() {
    let mut machine = machine();
    machine.backup();
    let (dir, aside) = (machine.world.state_dir("testhost"), machine.target("old-state"));
    copy(&dir, &aside);
    machine.write("agent/notes.md", "one");
    machine.write("agent/project/file3.rs", "changed");
    later(&mut machine, 900);
    std::fs::remove_dir_all(&dir).unwrap();
    copy(&aside, &dir);
    machine.write("agent/notes.md", "two");
    let (done, events) = later(&mut machine, 900);
    assert!(warned(&events, "which was rolled back, or a copy of this machine runs elsewhere"), "{events:?}");
    assert!(done.state.unwrap().parent.is_some());
    comes_back(&machine);
    machine.write("agent/notes.md", "three");
    later(&mut machine, 900);
    comes_back(&machine);
    assert!(machine.list().hidden.is_empty());
}

#[test]
fn a_copy_of_the_machine_is_refused_the_second_time() {
    let mut machine = machine();
    machine.backup();
    let (dir, aside) = (machine.world.state_dir("testhost"), machine.target("clone"));
    copy(&dir, &aside);
    let swap = |machine: &Machine| {
        let third = machine.target("third");
        std::fs::rename(&dir, &third).unwrap();
        std::fs::rename(&aside, &dir).unwrap();
        std::fs::rename(&third, &aside).unwrap();
    };
    let mut refused = None;
    for round in 0..6 {
        machine.write("agent/notes.md", format!("round {round}"));
        if let Err(e) = try_later(&mut machine, 900, Args::default()) {
            refused = Some(e);
            break;
        }
        swap(&machine);
    }
    let error = refused.unwrap();
    assert!(said(&error).starts_with("another machine writes to the series testhost, too"), "{}", said(&error));
    assert!(said(&error).contains("lifeboat init --name NAME"), "{}", said(&error));
}

#[test]
fn a_machine_whose_series_was_taken_over_stops() {
    let mut machine = machine();
    machine.backup();
    let (dir, aside) = (machine.world.state_dir("testhost"), machine.target("before"));
    copy(&dir, &aside);
    std::fs::remove_dir_all(&dir).unwrap();
    // Two days later another one goes on with the kit, and without the catalog.
    let (done, _) = later(&mut machine, 2 * DAY);
    assert_eq!(done.state.unwrap().parent, None);
    std::fs::remove_dir_all(&dir).unwrap();
    copy(&aside, &dir);
    machine.write("agent/notes.md", "old machine");
    let error = try_later(&mut machine, 900, Args::default()).unwrap_err();
    assert!(said(&error).starts_with("another machine writes to the series"), "{}", said(&error));
}

#[test]
fn a_state_directory_that_does_not_persist_is_told() {
    let mut machine = machine();
    machine.backup();
    std::fs::remove_dir_all(machine.world.state_dir("testhost")).unwrap();
    let (done, _) = later(&mut machine, 900);
    assert!(done.problems()[0].starts_with("the state directory is not persistent"), "{done:?}");
    let state = done.state.unwrap();
    assert_eq!((state.tier.as_deref(), state.parent), (Some("hourly"), None));
    comes_back(&machine);
}

#[test]
fn a_damaged_catalog_costs_a_full_and_no_more() {
    let mut machine = machine();
    machine.backup();
    let catalog = machine.world.state_dir("testhost").join("catalog.sqlite");
    let whole = std::fs::read(&catalog).unwrap();
    let mut fulls = 0;
    for place in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bad = whole.clone();
        bad[place..(place + 64).min(whole.len())].fill(0xa5);
        std::fs::write(&catalog, &bad).unwrap();
        for suffix in ["-wal", "-shm"] {
            drop(std::fs::remove_file(catalog.with_extension(format!("sqlite{suffix}"))));
        }
        machine.write("agent/notes.md", format!("after {place}"));
        let done = match try_later(&mut machine, 2 * DAY, Args::default()) {
            Ok((done, _)) => done,
            Err(e) => {
                assert!(
                    said(&e).contains("run the backup again") || said(&e).contains("another machine"),
                    "{}",
                    said(&e)
                );
                std::fs::remove_file(&catalog).unwrap_or(());
                later(&mut machine, 900).0
            }
        };
        fulls += usize::from(done.state.is_some_and(|s| s.parent.is_none()));
        comes_back(&machine);
    }
    assert!(fulls > 0);
}

#[test]
fn a_bundle_is_written_when_secrets_change_or_the_last_one_ages() {
    let mut machine = machine();
    assert!(machine.backup().secrets.is_some());
    machine.write("agent/notes.md", "state alone");
    assert!(later(&mut machine, 900).0.secrets.is_none());
    // The same content once more is no change, but a new time is metadata that comes back.
    machine.write("agent/.env", "API_KEY=fake-0002");
    let (done, _) = later(&mut machine, 900);
    assert!(done.secrets.is_some() && !done.unchanged);
    comes_back_secret(&machine, ".env", b"API_KEY=fake-0002");
    std::fs::remove_dir_all(machine.target("secret")).unwrap();
    let only = Args { secrets_only: true, ..Args::default() };
    assert!(try_later(&mut machine, 900, only.clone()).unwrap().0.unchanged);
    // Bundles live 90 days: after a quarter of that there is another one.
    assert!(later(&mut machine, 22 * DAY).0.secrets.is_none());
    assert!(later(&mut machine, DAY).0.secrets.is_some());
    let catalog = std::fs::read(machine.world.state_dir("testhost").join("catalog.sqlite")).unwrap();
    for word in [&b".env"[..], b"fake-000"] {
        assert!(!catalog.windows(word.len()).any(|w| w == word));
    }
}

#[test]
fn new_recipients_get_a_full() {
    let mut machine = machine();
    machine.backup();
    let (recipient, _) = lifeboat::stream::age_keys::generate();
    machine.configure(|text| text.replacen("recipients = [", &format!("recipients = [\"{recipient}\", "), 1));
    machine.write("agent/notes.md", "for others, too");
    let (done, events) = later(&mut machine, 900);
    assert_eq!(done.state.unwrap().parent, None);
    assert!(warned(&events, "recipients changed"), "{events:?}");
    comes_back(&machine);
}

#[test]
fn a_great_deal_at_once_is_kept_longer() {
    let mut machine = machine();
    machine.backup();
    later(&mut machine, DAY);
    later(&mut machine, 900);
    machine.write("agent/model.bin", noise(70 << 20, 9));
    let (done, _) = later(&mut machine, 900);
    let state = done.state.unwrap();
    assert!(matches!(state.tier.as_deref(), Some("daily" | "weekly")), "{state:?}");
    comes_back(&machine);
    machine.write("agent/notes.md", "small");
    let (done, _) = later(&mut machine, 900);
    assert!(done.state.unwrap().stored < 10_000, "what came at once is in the parent");
    comes_back(&machine);
}
