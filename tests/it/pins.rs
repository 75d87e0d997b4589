//! What is pinned stays, whatever a lifecycle does, and goes again without taking anything along.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lifeboat::commands::{Event, Report as _, copy, drill, find, lifecycle, list, ls, pin, prune, verify};
use lifeboat::{Error, Kind};

use crate::fake_cloud::{self, Cloud, Fate};
use crate::faults::each_fault;
use crate::forge::{files, said, snapshot};
use crate::world::{Machine, NOW};

const DAY: i64 = 86_400;

/// A machine with a monthly, two hourlies on it, a daily, and an hourly on that; and their ids.
fn machine() -> (Machine, Vec<String>) {
    with_backups(&[0, 900, 1800, DAY, DAY + 900])
}

fn with_backups(times: &[i64]) -> (Machine, Vec<String>) {
    let mut machine = Machine::new();
    machine.write("agent/.env", "API_KEY=first");
    machine.write("agent/notes.md", "");
    machine.init(&["agent"]);
    let mut ids = Vec::new();
    for (n, at) in times.iter().enumerate() {
        machine.world.fixed_now = Some(NOW + at);
        machine.write("agent/notes.md", format!("words {n}"));
        ids.push(machine.backup().state.unwrap().id);
    }
    (machine, ids)
}

fn args(snapshot: &str) -> pin::Args {
    pin::Args { snapshot: snapshot.to_owned(), ..pin::Args::default() }
}

fn pin(machine: &Machine, id: &str) -> Result<pin::Pinned, Error> {
    pin::pin(&machine.world, &args(id), &mut |_| {})
}

fn unpin(machine: &Machine, id: &str) -> Result<pin::Unpinned, Error> {
    pin::unpin(&machine.world, &args(id), &mut |_| {})
}

/// Names of the directories of pinned archives.
fn pinned(machine: &Machine) -> BTreeSet<String> {
    let all = files(&machine.store());
    let below = |p: &PathBuf| p.starts_with("state/pinned") || p.starts_with("secrets-pinned");
    let name = |p: &Path| p.parent().unwrap().file_name().unwrap().to_str().unwrap()[..25].to_owned();
    all.iter().filter(|p| below(p)).map(|p| name(p)).collect()
}

/// A lifecycle that has gone mad: everything but what has no rule is gone.
fn empty_all_tiers(machine: &Machine) {
    let store = machine.store();
    for dir in std::fs::read_dir(store.join("state")).unwrap().map(|e| e.unwrap().path()) {
        if !dir.ends_with("pinned") {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
    for gone in ["secrets", "drills"] {
        if store.join(gone).exists() {
            std::fs::remove_dir_all(store.join(gone)).unwrap();
        }
    }
}

fn words(machine: &Machine, id: &str) -> String {
    let target = machine.target("restored");
    machine.try_restore(&target, |a| a.snapshot = id.to_owned()).unwrap_or_else(|e| panic!("{}", said(&e)));
    let words = std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap();
    assert_eq!(std::fs::read_to_string(target.join("home/agent/.env")).unwrap(), "API_KEY=first");
    std::fs::remove_dir_all(target).unwrap();
    words
}

#[test]
fn a_pinned_chain_outlives_all_tiers_for_every_command() {
    let (mut machine, ids) = machine();
    let done = pin(&machine, &ids[4][..20]).unwrap();
    assert_eq!(done.verdict(), None);
    // The bundle, the monthly, the daily and the hourly.
    assert_eq!(done.archives.len(), 4, "{}", done.text());
    assert!(done.archives[0].archive == "secrets" && done.archives[1].id == ids[0] && done.archives[3].id == ids[4]);
    let again = pin(&machine, &ids[4]).unwrap();
    assert_eq!((again.archives.len(), again.already), (0, 4));
    let rows = machine.list().snapshots;
    let marked = |id: &str| rows.iter().filter(|r| r.id == id && r.pinned).count();
    assert_eq!((marked(&ids[4]), marked(&ids[0])), (2, 0), "the snapshot and its copy, but not what it leans on");
    assert!(machine.list().text().contains("no end"), "{}", machine.list().text());
    let report = |machine: &Machine| {
        let args = verify::Args { all: true, ..verify::Args::default() };
        verify::run(&machine.world, &args, &mut |_| {}).unwrap()
    };
    assert_eq!(report(&machine).findings, []);

    empty_all_tiers(&machine);
    machine.world.fixed_now = Some(NOW + 800 * DAY);
    assert_eq!(words(&machine, &ids[4]), "words 4");
    assert_eq!(words(&machine, &ids[0]), "words 0");
    assert_eq!(report(&machine).findings, []);
    let rows = machine.list().snapshots;
    assert!(rows.len() == 4 && rows.iter().all(|r| r.status == "ok" && r.expires.is_none()), "{rows:?}");
    let done = prune::run(&machine.world, &prune::Args { yes: true, ..prune::Args::default() }, &mut |_| {}).unwrap();
    assert!(done.removed.is_empty() && done.left == 4, "{}", done.text());
    let args = drill::Args { identity: Some(machine.kit()), ..drill::Args::default() };
    assert_eq!(drill::run(&machine.world, &args, &mut |_| {}).unwrap().verdict(), None);
    let args = ls::Args { place: machine.place(), snapshot: "latest".to_owned(), ..ls::Args::default() };
    assert!(ls::run(&machine.world, &args, &mut |_| {}).unwrap().text().contains("agent"));
    let args =
        find::Args { place: machine.place(), globs: vec!["notes.md".to_owned()], all: true, ..Default::default() };
    assert!(find::run(&machine.world, &args, &mut |_| {}).unwrap().text().contains("notes.md"));
    // And a copy takes all of it along, marks included.
    let to = machine.root().join("copy");
    std::fs::create_dir(&to).unwrap();
    let args = copy::Args { to: to.to_str().unwrap().to_owned(), ..copy::Args::default() };
    assert_eq!(copy::run(&machine.world, &args, &mut |_| {}).unwrap().verdict(), None);
    assert_eq!(snapshot(&to.join("state")), snapshot(&machine.store().join("state")));
    // The next backup leans on nothing that is gone.
    machine.write("agent/notes.md", "words 9");
    let next = machine.backup().state.unwrap();
    assert_eq!(words(&machine, &next.id), "words 9");
}

#[test]
fn chains_that_two_share_stay_while_one_needs_them() {
    let (machine, ids) = machine();
    let before = files(&machine.store());
    pin(&machine, &ids[4]).unwrap();
    pin(&machine, &ids[1]).unwrap();
    let done = unpin(&machine, &ids[4]).unwrap();
    assert_eq!(done.removed.len(), 2, "{}", done.text());
    assert!(done.removed[0].contains(&format!("{}.on.", ids[4])), "children go first: {}", done.text());
    assert!(done.kept.iter().any(|k| k.contains(&ids[0]) && k.contains(&format!("{} leans on it", ids[1]))));
    empty_all_tiers(&machine);
    assert_eq!(words(&machine, &ids[1]), "words 1");
    // The last one takes everything along that was copied for it.
    let done = unpin(&machine, &ids[1]).unwrap();
    assert_eq!(done.removed.len(), 3, "{}", done.text());
    assert_eq!(pinned(&machine), BTreeSet::new());
    let left: Vec<_> = before.iter().filter(|p| machine.store().join(p).exists()).collect();
    assert!(left.iter().all(|p| !p.to_str().unwrap().contains("pinned")));
}

#[test]
fn what_was_pinned_itself_stays_though_a_child_goes() {
    let (machine, ids) = machine();
    pin(&machine, &ids[4]).unwrap();
    pin(&machine, &ids[3]).unwrap();
    let done = unpin(&machine, &ids[4]).unwrap();
    assert!(done.removed.len() == 1 && done.kept[0].contains("it is pinned itself"), "{}", done.text());
    assert!(done.kept.iter().any(|k| k.starts_with("secrets-pinned/")), "{}", done.text());
    // And the other way round: what others lean on only loses its mark.
    pin(&machine, &ids[4]).unwrap();
    let done = unpin(&machine, &ids[3]).unwrap();
    assert!(done.removed.is_empty() && done.kept[0].contains(&format!("{} leans on it", ids[4])), "{}", done.text());
    let error = unpin(&machine, &ids[3]).unwrap_err();
    assert!(error.kind() == Kind::NotThere && said(&error).contains("was not pinned itself"), "{}", said(&error));
    assert_eq!(unpin(&machine, &ids[4]).unwrap().removed.len(), 4);
    assert_eq!(pinned(&machine), BTreeSet::new());
    assert_eq!(unpin(&machine, &ids[4]).unwrap_err().kind(), Kind::NotThere);
}

#[test]
fn what_does_not_verify_or_is_damaged_is_refused() {
    let (machine, ids) = machine();
    let place = |id: &str| {
        let all = files(&machine.store());
        let is = |dir: &Path| dir.file_name().is_some_and(|name| name.to_str().unwrap().starts_with(id));
        machine.store().join(all.iter().map(|p| p.parent().unwrap()).find(|dir| is(dir)).unwrap())
    };
    let damage = |file: &Path, change: fn(Vec<u8>) -> Vec<u8>| {
        let bytes = std::fs::read(file).unwrap();
        std::fs::write(file, change(bytes)).unwrap();
    };
    damage(&place(&ids[1]).join("commit"), |text| {
        String::from_utf8(text).unwrap().replace("# life 2", "# life 3").into_bytes()
    });
    assert_eq!(pin(&machine, &ids[1]).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(pinned(&machine), BTreeSet::new());
    damage(&place(&ids[4]).join("000000.tar.zst.age"), |mut bytes| {
        bytes[300] ^= 1;
        bytes
    });
    let error = pin(&machine, &ids[4]).unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.to_string().contains("its SHA-256 is"), "{}", said(&error));
    let rows = machine.list().snapshots;
    assert!(!rows.iter().any(|r| r.pinned), "it does not count as pinned");
    // What it leans on was copied, perhaps some of itself, too; all of that can be removed again.
    let last = ids.iter().rev().find(|id| pinned(&machine).contains(*id)).unwrap();
    assert!(unpin(&machine, last).unwrap().removed.len() >= 3);
    assert_eq!(pinned(&machine), BTreeSet::new());
    // A bundle whose time is not over and that is gone: pinned all the same, and said.
    std::fs::remove_dir_all(machine.store().join("secrets")).unwrap();
    let done = pin(&machine, &ids[2]).unwrap();
    assert_eq!(done.verdict(), Some(Kind::Incomplete));
    assert!(done.problems()[0].contains("is not on the store"), "{:?}", done.problems());
    // Somebody else's object where the copy would go.
    let other = machine.store().join("state/pinned/testhost").join(place(&ids[3]).file_name().unwrap());
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("commit"), "nonsense").unwrap();
    let error = pin(&machine, &ids[3]).unwrap_err();
    assert!(error.to_string().contains("is not what would be pinned"), "{}", said(&error));
    assert_eq!(pin(&machine, "20200101").unwrap_err().kind(), Kind::NotThere);
}

#[test]
fn store_and_public_key_are_enough() {
    let (machine, ids) = machine();
    let key = std::fs::read_to_string(machine.kit()).unwrap();
    let key = key.lines().find_map(|l| l.strip_prefix("# signing-public: ")).unwrap().to_owned();
    let elsewhere = Machine::new();
    let store = machine.store().to_str().unwrap().to_owned();
    let out = elsewhere
        .program(&["pin", &ids[1], "--store", &store, "--name", "testhost", "--key", &key, "--json"])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(out.status.success() && json["archives"].as_array().unwrap().len() == 3, "{json}");
    let mut kit = args(&ids[1]);
    kit.identity = Some(machine.kit());
    assert_eq!(pin::unpin(&elsewhere.world, &kit, &mut |_| {}).unwrap().removed.len(), 3);
    let error = pin::pin(&elsewhere.world, &args("latest"), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::NotThere);
}

#[test]
fn whatever_fails_both_go_on_where_they_were() {
    let state = std::cell::RefCell::new(with_backups(&[0, 900]));
    let store = state.borrow().0.store();
    let clear = || {
        for gone in ["state/pinned", "secrets-pinned"] {
            if store.join(gone).exists() {
                std::fs::remove_dir_all(store.join(gone)).unwrap();
            }
        }
    };
    each_fault(false, clear, |(), plan, wrap| {
        let (machine, ids) = &mut *state.borrow_mut();
        let what = format!("{plan:?}");
        let (result, failed) = wrap.with(machine, |machine| pin(machine, &ids[1]));
        assert!(result.is_ok() || failed, "{what}");
        let whole = |rows: &[list::Row]| rows.iter().all(|r| matches!(r.status, "ok" | "incomplete"));
        assert!(whole(&machine.list().snapshots), "{what}");
        pin(machine, &ids[1]).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
        let rows = machine.list().snapshots;
        let copies = rows.iter().filter(|r| r.tier.as_deref() == Some("pinned")).count();
        assert!(copies == 3 && rows.iter().all(|r| r.status == "ok"), "{what}: {rows:?}");
    });
    let ready = || {
        clear();
        let (machine, ids) = &*state.borrow();
        pin(machine, &ids[1]).unwrap();
    };
    each_fault(false, ready, |(), plan, wrap| {
        let (machine, ids) = &mut *state.borrow_mut();
        let what = format!("{plan:?}");
        let (result, failed) = wrap.with(machine, |machine| unpin(machine, &ids[1]));
        assert!(result.is_ok() || failed, "{what}");
        // Again and again, until it is gone; what is leaned on goes after what leans on it.
        while pinned(machine).iter().any(|id| ids.contains(id)) {
            let last = pinned(machine).into_iter().filter(|id| ids.contains(id)).max().unwrap();
            unpin(machine, &last).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
        }
        assert_eq!(words(machine, &ids[1]), "words 1", "{what}: the tiers are as they were");
    });
}

/// A machine on a bucket, with snapshots that are past their life.
fn on_a_bucket(cloud: &Cloud) -> Machine {
    let mut machine = crate::store_contract::machine(cloud.credentials("ADMIN"));
    machine.write("agent/notes.md", "words");
    machine.write("agent/.env", "API_KEY=first");
    crate::store_contract::set_up(&machine, &cloud.url("p", None)).unwrap();
    let now = jiff::Timestamp::now().as_second();
    // The fake's clock is the real one, and a backup refuses to trust a clock that is far from it.
    for days in [10, 5, 4, 3, 2] {
        machine.world.fixed_now = Some(now - days * DAY);
        cloud.state.lock().unwrap().clock_off = -days * DAY;
        for n in 0..2 {
            machine.write("agent/notes.md", format!("words {days} {n}"));
            machine.world.fixed_now = Some(now - days * DAY + n);
            machine.backup();
        }
    }
    machine.world.fixed_now = Some(now);
    cloud.state.lock().unwrap().clock_off = 0;
    machine
}

#[test]
fn what_may_not_be_deleted_is_named_and_the_rest_goes() {
    for kind in [fake_cloud::Kind::S3, fake_cloud::Kind::Gcs] {
        let cloud = Cloud::start(kind);
        let machine = on_a_bucket(&cloud);
        let run = |dry_run| prune::run(&machine.world, &prune::Args { dry_run, yes: true }, &mut |_| {}).unwrap();
        let planned = run(true).removed.len();
        assert!(planned >= 2, "{planned}");
        cloud.fate("DELETE", Fate::Answer(403, "AccessDenied"));
        let done = run(false);
        assert_eq!(done.verdict(), Some(Kind::Incomplete), "{}", done.text());
        assert!(done.refused[0].why.contains("AccessDenied"), "{:?}", done.problems());
        assert!(done.removed.len() + done.refused.len() == planned && !done.removed.is_empty(), "{}", done.text());
        // Nothing is left without what it leans on.
        let args = list::Args { identity: Some(machine.kit()), ..list::Args::default() };
        let rows = list::run(&machine.world, &args, &mut |_| {}).unwrap().snapshots;
        assert!(rows.iter().all(|r| r.status == "ok"), "{rows:?}");
        let again = run(false);
        assert_eq!((again.verdict(), again.removed.len()), (None, done.refused.len()), "{}", again.text());
        // Unpinning needs the same right, and says so.
        let id = machine.backup().state.map_or_else(|| "latest".to_owned(), |s| s.id);
        pin(&machine, &id).unwrap();
        cloud.fate("DELETE", Fate::Answer(403, "AccessDenied"));
        let error = unpin(&machine, &id).unwrap_err();
        assert!(said(&error).contains("may not delete, and unpin has to"), "{}", said(&error));
        assert!(!unpin(&machine, &id).unwrap().removed.is_empty());
    }
}

#[test]
fn rules_are_judged_by_what_they_have_made_of_the_store() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let mut machine = on_a_bucket(&cloud);
    let check = |machine: &Machine| lifecycle::check(&machine.world, &Default::default(), &mut |_| {}).unwrap();
    // Hourlies live two days, and three more are forgiven.
    let done = check(&machine);
    assert_eq!(done.problems().len(), 1, "{}", done.text());
    assert!(
        done.problems()[0].starts_with("state/hourly/: 2 days; of ") && done.text().contains("no rule removes them")
    );
    prune::run(&machine.world, &prune::Args { yes: true, ..Default::default() }, &mut |_| {}).unwrap();
    assert_eq!(check(&machine).verdict(), None, "{}", check(&machine).text());
    // A daily that is gone before its time.
    cloud.state.lock().unwrap().objects.retain(|key, _| !key.starts_with("p/state/daily/"));
    let done = check(&machine);
    assert!(done.problems().iter().any(|p| p.contains("gone before its time")), "{}", done.text());
    // Another store is judged by what is there.
    let empty = machine.target("second");
    std::fs::create_dir_all(&empty).unwrap();
    let other = lifecycle::CheckArgs { rules: None, store: Some(empty.to_str().unwrap().to_owned()) };
    let done = lifecycle::check(&machine.world, &other, &mut |_| {}).unwrap();
    assert!(done.verdict().is_none() && done.text().contains("0 archives, none past that"), "{}", done.text());
    // The rules themselves, as printed and with one that is too short.
    let printed = lifecycle::run(&machine.world, &lifecycle::Args::default(), &mut |_| {}).unwrap().document;
    let by_rules = |text: String| {
        let file = machine.write("rules.json", text);
        lifecycle::check(&machine.world, &lifecycle::CheckArgs { rules: Some(file), store: None }, &mut |_| {}).unwrap()
    };
    assert_eq!(by_rules(printed.clone()).verdict(), None);
    let done = by_rules(printed.replace("\"Days\": 37", "\"Days\": 30"));
    assert_eq!(done.verdict(), Some(Kind::Incomplete));
    assert_eq!(done.problems(), ["state/daily/: a rule removes it after 30 days: 37 days are promised"]);
    let done = by_rules(printed.replace("\"p/secrets/\"", "\"p/secrets\""));
    assert!(done.problems()[0].starts_with("secrets-pinned/: "), "{:?}", done.problems());
    machine.world.fixed_now = None;
    let mut program = machine.program(&["lifecycle", "check", "--rules", "-"]);
    let mut child = program.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"{\"Rules\":[]}").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn what_somebody_else_unpins_meanwhile_is_not_called_pinned() {
    let (machine, ids) = machine();
    let error = pin::pin(&machine.world, &args(&ids[4]), &mut |e| {
        // Another host lets go of what this one is about to lean on.
        if matches!(e, Event::Progress { bytes, bytes_total, .. } if bytes == bytes_total) {
            let full = std::fs::read_dir(machine.store().join("state/pinned/testhost")).unwrap();
            let full = full.map(|e| e.unwrap().path()).find(|p| !p.to_str().unwrap().contains(".on.")).unwrap();
            std::fs::remove_dir_all(full).unwrap();
        }
    })
    .expect_err("it is called pinned");
    assert!(said(&error).contains("went away") && error.advice().is_some(), "{}", said(&error));
    pin(&machine, &ids[4]).unwrap();
    empty_all_tiers(&machine);
    assert_eq!(words(&machine, &ids[4]), "words 4");
}
