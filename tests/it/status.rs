//! `status`: what is too old, for a person, a script, and Prometheus; and a whole fleet without a key.

use lifeboat::commands::{Report as _, keys, status};
use lifeboat::{Error, Kind};

use crate::forge::files;
use crate::world::{Machine, NOW};

const HOUR: i64 = 3600;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "one");
    machine.write("agent/.env", "API_KEY=fake-0000");
    machine.init(&["agent"]);
    machine.configure(|text| text.replace("drill = \"5w\"", "drill = \"none\""));
    machine.backup();
    machine
}

fn attempt(machine: &Machine, change: impl FnOnce(&mut status::Args)) -> Result<status::Done, Error> {
    let mut args = status::Args::default();
    change(&mut args);
    status::run(&machine.world, &args, &mut |_| {})
}

fn own(machine: &Machine) -> status::Done {
    attempt(machine, |_| {}).unwrap()
}

fn fleet(machine: &Machine) -> status::Done {
    attempt(machine, |a| a.all = true).unwrap()
}

#[test]
fn a_snapshot_gets_too_old() {
    let mut machine = machine();
    for (hours, verdict) in [(0, None), (26, None), (27, Some(Kind::TooOld))] {
        machine.world.fixed_now = Some(NOW + hours * HOUR);
        for done in [own(&machine), fleet(&machine)] {
            assert_eq!(done.verdict(), verdict, "{hours}: {}", done.text());
            assert_eq!(done.series[0].snapshot.as_ref().unwrap().unix, NOW);
            assert_eq!((done.series[0].snapshots, done.series[0].bundles), (1, 1));
        }
    }
    let text = own(&machine).problems().join("\n");
    assert_eq!(
        text,
        "too old: testhost: the newest snapshot is 27 h old, and may be 26 h; see why `lifeboat backup` does not run"
    );
    machine.configure(|text| text.replace("snapshot = \"26h\"", "snapshot = \"2d\""));
    assert!(own(&machine).verdict().is_none());
    machine.configure(|text| text.replace("drill = \"none\"", "drill = \"1d\""));
    assert!(own(&machine).problems()[0].contains("there is no drill that passed; run `lifeboat drill`"));
}

#[test]
fn both_count_the_same() {
    let mut machine = machine();
    machine.world.fixed_now = Some(NOW + 8 * 24 * HOUR);
    machine.write("agent/notes.md", "two");
    machine.backup();
    let remains = machine.store().join("state/hourly/testhost/20261121T201600Z-00000001");
    std::fs::create_dir_all(&remains).unwrap();
    std::fs::write(remains.join("000000.tar.zst.age"), "x").unwrap();
    let (one, all) = (own(&machine), fleet(&machine));
    let (one, all) = (&one.series[0], &all.series[0]);
    assert!(one.verified && !all.verified);
    let figures =
        |r: &status::Row| (r.snapshots, r.bundles, r.incomplete, r.stored, r.stored_week, r.stored_week_before);
    assert_eq!(figures(one), figures(all));
    let sizes = |part: &str| -> u64 {
        let all = files(&machine.store()).into_iter().filter(|p| p.to_string_lossy().contains(part));
        all.map(|p| machine.store().join(p).metadata().unwrap().len()).sum()
    };
    assert_eq!(one.stored, sizes("/testhost/2026") - 1);
    assert_eq!((one.stored_week, one.stored_week_before), (sizes("/20261129T"), sizes("/20261121T2015")));
    assert_eq!(one.snapshot.as_ref().unwrap().chain, Some(2));
    let text = own(&machine).text();
    for part in
        ["newest snapshot", "0 min ago", "chain of 2", "incomplete runs  1", "in the last 7 days", "next expiry"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_clock_that_jumped_does_not_silence_the_alarm() {
    let mut machine = machine();
    machine.world.fixed_now = Some(NOW + 2000 * 24 * HOUR);
    machine.write("agent/notes.md", "two");
    machine.backup();
    machine.world.fixed_now = Some(NOW + 40 * HOUR);
    for done in [own(&machine), fleet(&machine)] {
        assert_eq!(done.series[0].snapshot.as_ref().unwrap().unix, NOW);
        assert_eq!(done.verdict(), Some(Kind::TooOld));
    }
    // A name that somebody planted is no snapshot of today.
    let planted = machine.store().join("state/hourly/testhost/20991121T201600Z-00000001");
    std::fs::create_dir_all(&planted).unwrap();
    std::fs::write(planted.join("commit"), "x").unwrap();
    assert_eq!(fleet(&machine).verdict(), Some(Kind::TooOld));
    assert_eq!(own(&machine).verdict(), Some(Kind::Damaged));
}

#[test]
fn what_was_removed_is_damage() {
    let mut machine = machine();
    machine.world.fixed_now = Some(NOW + HOUR);
    machine.write("agent/notes.md", "two");
    machine.backup();
    std::fs::remove_dir_all(machine.store().join("secrets")).unwrap();
    let done = own(&machine);
    assert_eq!(done.verdict(), Some(Kind::Damaged));
    assert!(done.problems()[0].contains("is not there though its time is not over"), "{:?}", done.problems());
}

#[test]
fn a_fleet_needs_no_key_and_one_series_does() {
    let machine = machine();
    let elsewhere = Machine::new();
    let url = Some(machine.store().to_str().unwrap().to_owned());
    let done = attempt(&elsewhere, |a| (a.all, a.store) = (true, url.clone())).unwrap();
    assert_eq!(done.series.len(), 1);
    assert!(done.text().contains("no signature was checked") && done.text().contains("testhost"), "{}", done.text());
    let name = Some("testhost".to_owned());
    let error = attempt(&elsewhere, |a| (a.store, a.name) = (url.clone(), name.clone())).err().unwrap();
    assert!(error.kind() == Kind::NotThere && error.advice().unwrap().contains("status --all"), "{error}");
    let key = keys::show(&machine.world, &mut |_| {}).unwrap().signing.public;
    assert!(attempt(&elsewhere, |a| (a.store, a.name, a.key) = (url, name, key)).unwrap().series[0].verified);
    // A store that has just been made has nothing to show.
    let empty = Machine::new();
    empty.write("agent/notes.md", "");
    empty.init(&["agent"]);
    let done = fleet(&empty);
    assert!(done.series[0].snapshot.is_none() && done.verdict() == Some(Kind::TooOld), "{}", done.text());
}

#[test]
fn prometheus_reads_the_metrics() {
    let machine = machine();
    let file = machine.root().join("lifeboat.prom");
    std::fs::write(&file, "old").unwrap();
    attempt(&machine, |a| a.metrics = Some(file.clone())).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(&format!("\nlifeboat_snapshot_timestamp_seconds{{series=\"testhost\"}} {NOW}\n")), "{text}");
    assert!(text.contains("\nlifeboat_too_old{series=\"testhost\"} 0\n") && !text.contains("old\n#"), "{text}");
    // Each line is a comment or a name with a number, and each name is declared once before it is used.
    let mut declared = std::collections::HashSet::new();
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => assert!(declared.insert(rest.strip_suffix(" gauge").unwrap()), "{line}"),
            None if line.starts_with("# HELP ") => {}
            None => {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(declared.contains(name.split('{').next().unwrap()), "{line}");
                value.parse::<f64>().unwrap();
            }
        }
    }
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    let others: Vec<_> = std::fs::read_dir(machine.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(others.iter().all(|name| !name.to_string_lossy().starts_with(".lifeboat-")), "{others:?}");
}

#[test]
fn the_program_ends_with_five() {
    // The program has a real clock, for which the snapshot of a test is old or from the future.
    let machine = machine();
    machine.configure(|text| text.replace("snapshot = \"26h\"", "snapshot = \"1h\""));
    let out = machine.program(&["status", "--all", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let late = !json["series"][0]["late"].as_array().unwrap().is_empty();
    assert_eq!(out.status.code(), Some(if late { 5 } else { 0 }), "{json}");
    std::fs::remove_dir_all(machine.store().join("state")).unwrap();
    assert_eq!(machine.program(&["status", "--all"]).output().unwrap().status.code(), Some(5));
    assert_eq!(machine.program(&["status", "--all", "--name", "x"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn metrics_tell_of_a_mirror_that_is_behind() {
    let mut machine = machine();
    let there = machine.root().join("a \\ \"mirror\"");
    let url = there.to_str().unwrap().to_owned();
    machine.configure(|text| text.replacen("\n[state]", &format!("\n[[mirror]]\nstore = '{url}'\n\n[state]"), 1));
    let mut at = |hours: i64, words: &str| {
        machine.world.fixed_now = Some(NOW + hours * HOUR);
        machine.write("agent/notes.md", words);
        machine.backup();
        [false, true].map(|all| {
            let file = machine.root().join("lifeboat.prom");
            let done = attempt(&machine, |a| (a.metrics, a.all) = (Some(file.clone()), all)).unwrap();
            let text = std::fs::read_to_string(file).unwrap();
            let told = text.lines().filter_map(|l| l.strip_prefix("lifeboat_mirror_")).map(|line| {
                let (name, rest) = line.split_once('{').unwrap();
                assert!(rest.contains("series=\"testhost\",mirror=\"/"), "{line}");
                assert!(rest.contains("/a \\\\ \\\"mirror\\\"\"} "), "{line}");
                format!("{name} {}", rest.rsplit_once(' ').unwrap().1)
            });
            let late = done.problems().iter().any(|p| p.contains("the mirror "));
            let too_old = text.contains("lifeboat_too_old{series=\"testhost\"} 1");
            assert!(!late || too_old && done.verdict() == Some(Kind::TooOld), "{text}");
            (told.collect::<Vec<_>>(), late)
        })
    };
    let behind = || vec!["behind 1".to_owned(), format!("behind_since_timestamp_seconds {NOW}")];
    for (hours, late) in [(0, false), (27, true)] {
        for told in at(hours, &format!("{hours}")) {
            assert_eq!(told, (behind(), late), "{hours}");
        }
    }
    std::fs::create_dir(&there).unwrap();
    for told in at(28, "28") {
        let well = vec![format!("up_to_date_timestamp_seconds {}", NOW + 28 * HOUR), "behind 0".to_owned()];
        assert_eq!(told, (well, false));
    }
}
