//! The guard: incidents that people report, from the alarm to the home that is well again; and what is no incident.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lifeboat::Kind;
use lifeboat::commands::{Event, Report as _, accept, backup, list, prune, restore, status};
use lifeboat::model::commit::Commit;
use lifeboat::model::store_key::Place;

use crate::forge::{files, said, snapshot};
use crate::world::{Machine, NOW};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// An agent's home with what it is, remembers and does, forty projects, and a database.
pub fn machine() -> Machine {
    let machine = Machine::new();
    machine.write(".hermes/SOUL.md", "I am the one who remembers.\n".repeat(40));
    for n in 0..6 {
        machine.write(&format!(".hermes/memories/m{n}.md"), format!("memory {n}\n").repeat(30));
    }
    machine.write(".hermes/skills/cook/SKILL.md", "how to cook\n".repeat(10));
    let jobs: Vec<String> = (0..5).map(|n| format!("{{\"id\": {n}, \"at\": \"every day\"}}")).collect();
    machine.write(".hermes/cron/jobs.json", format!("{{\"jobs\": [{}]}}", jobs.join(",")));
    let env = machine.write(".hermes/.env", "API_KEY=fake-0000-1111-2222");
    std::fs::set_permissions(env, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for project in 0..40 {
        for n in 0..2 {
            machine.write(&format!("projects/p{project}/doc{n}.md"), format!("# {project} {n}\n").repeat(20));
        }
        for n in 0..3 {
            machine.write(&format!("projects/p{project}/src/f{n}.py"), format!("print({project}, {n})\n").repeat(30));
        }
    }
    let database = rusqlite::Connection::open(machine.home(".hermes/state.db")).unwrap();
    database
        .execute_batch(
            "create table sessions(id integer primary key, t text);
             create table messages(id integer primary key, t text);
             create table messages_fts(t text);
             create table schema_version(version integer);
             insert into schema_version values (9);
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 60)
               insert into sessions(t) select 'session ' || i from n;
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 400)
               insert into messages(t) select 'message ' || i from n;
             insert into messages_fts select t from messages;",
        )
        .unwrap();
    machine.init(&[".hermes", "projects"]);
    machine
}

/// A backup at a time.
fn at(machine: &mut Machine, time: i64) -> backup::Done {
    machine.world.fixed_now = Some(time);
    machine.backup()
}

/// The machine after a first backup, its home as it was then, and that snapshot.
fn begun() -> (Machine, BTreeMap<PathBuf, String>, String) {
    let mut machine = machine();
    let first = at(&mut machine, NOW);
    assert!(first.verdict().is_none() && first.suspicious.is_empty(), "{:?}", first.problems());
    let home = copy_of(&machine);
    (machine, home, first.state.unwrap().id)
}

/// What is in the home.
fn copy_of(machine: &Machine) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for dir in [".hermes", "projects"] {
        all.extend(snapshot(&machine.home(dir)).into_iter().map(|(path, what)| (PathBuf::from(dir).join(path), what)));
    }
    all
}

fn commit(machine: &Machine, written: &backup::Written) -> Commit {
    let text = std::fs::read_to_string(machine.store().join(&written.place).join("commit")).unwrap();
    let commit = Commit::parse(&text).unwrap();
    let key = format!("{}/commit", written.place);
    commit.check_place(&Place::parse(&key).unwrap().0).unwrap();
    commit
}

/// Sets off the alarm with what `happens`, looks at everything that tells of it, and brings the home back.
fn incident(happens: impl FnOnce(&Machine), says: &[&str]) {
    let (mut machine, home, good) = begun();
    happens(&machine);
    let done = at(&mut machine, NOW + HOUR);
    assert_eq!(done.verdict(), Some(Kind::Suspicious));
    let text = done.problems().join("\n");
    for part in says {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("lifeboat restore latest --good") && text.contains("lifeboat accept"), "{text}");
    assert!(done.pinned && text.contains(&format!("lifeboat unpin {good}")) && !text.contains("fake-0000"), "{text}");
    // Who may write there has the last good one pinned, with its secrets.
    let pinned = |top: &str| files(&machine.store()).iter().any(|f| f.starts_with(top) && f.ends_with("commit"));
    assert!(pinned(&format!("state/pinned/testhost/{good}")) && pinned("secrets-pinned/testhost"));
    // It is on the store all the same, where it fills nothing and says what it is.
    let marked = done.state.unwrap();
    assert_eq!(marked.tier.as_deref(), Some("hourly"));
    assert_eq!(commit(&machine, &marked).suspicious, Some(done.suspicious.len() as u64));
    let row = listed(&machine, &marked.id);
    assert_eq!((row.status, row.suspicious), ("ok", Some(done.suspicious.len() as u64)));
    let seen = status(&machine);
    assert_eq!(seen.verdict(), Some(Kind::Suspicious));
    assert!(seen.series[0].snapshot.as_ref().unwrap().suspicious);
    assert_eq!(seen.series[0].good.as_ref().unwrap().id, good);

    back(&machine, &home);
    // What comes now is still marked, as nobody has said that all is well.
    let done = at(&mut machine, NOW + 2 * HOUR);
    assert_eq!((done.verdict(), done.suspicious.is_empty()), (Some(Kind::Suspicious), false));
    let restored = done.state.unwrap().id;
    let answer = accepted(&machine, None).unwrap();
    assert_eq!((answer.accepted.as_deref(), answer.answered), (Some(restored.as_str()), true));
    assert_eq!(answer.marked, std::slice::from_ref(&marked.id));
    assert!(says.iter().all(|part| answer.text().contains(part)), "{}", answer.text());
    let done = at(&mut machine, NOW + 3 * HOUR);
    assert_eq!(done.verdict(), None, "{:?}", done.problems());
    let after = done.state.unwrap();
    let accepts: Vec<String> = commit(&machine, &after).accept.iter().map(ToString::to_string).collect();
    assert_eq!(accepts, std::slice::from_ref(&restored));
    assert_eq!((listed(&machine, &restored).suspicious, listed(&machine, &after.id).suspicious), (None, None));
    assert!(listed(&machine, &marked.id).suspicious.is_some());
    assert_eq!(status(&machine).verdict(), None);
}

/// What is said of the last good snapshot stays true while the alarm is open.
#[test]
fn later_runs_say_whether_the_good_one_is_pinned() {
    let (mut machine, _, good) = begun();
    remove(&machine, |path| path.ends_with(".md"));
    assert!(at(&mut machine, NOW + HOUR).pinned);
    let said = |machine: &mut Machine, hours: i64| {
        machine.write("projects/later.txt", hours.to_string());
        let done = at(machine, NOW + hours * HOUR);
        assert_eq!((done.verdict(), done.last_good.as_deref()), (Some(Kind::Suspicious), Some(good.as_str())));
        (done.pinned, done.problems().join("\n"))
    };
    let (is_pinned, text) = said(&mut machine, 2);
    assert!(is_pinned && text.contains("it is pinned") && !text.contains("lifeboat pin "), "{text}");
    let args = lifeboat::commands::pin::Args { snapshot: good.clone(), ..Default::default() };
    lifeboat::commands::pin::unpin(&machine.world, &args, &mut |_| {}).unwrap();
    let (is_pinned, text) = said(&mut machine, 3);
    assert!(!is_pinned && text.contains(&format!("lifeboat pin {good}")), "{text}");
}

/// Restores what was there before the alarm, over what is left.
fn back(machine: &Machine, home: &BTreeMap<PathBuf, String>) {
    let args = restore::Args {
        identity: Some(machine.kit()),
        good: true,
        overwrite: lifeboat::commands::bring_back::Overwrite::Always,
        ..restore::Args::default()
    };
    let done = restore::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert!(done.problems().is_empty(), "{:?}", done.problems());
    let now = copy_of(machine);
    for (path, what) in home {
        // Directories of what was deleted have other times until they are set, which is part of a restore.
        assert_eq!(now.get(path), Some(what), "{path:?}");
    }
}

fn listed(machine: &Machine, id: &str) -> list::Row {
    machine.list().snapshots.into_iter().find(|row| row.id == id).unwrap()
}

fn status(machine: &Machine) -> status::Done {
    status::run(&machine.world, &status::Args::default(), &mut |_| {}).map(without_drills).unwrap()
}

/// Nobody rehearses here.
fn without_drills(mut done: status::Done) -> status::Done {
    done.series.iter_mut().for_each(|row| row.late.retain(|line| !line.contains("drill")));
    done
}

fn accepted(machine: &Machine, snapshot: Option<&str>) -> Result<accept::Done, lifeboat::Error> {
    let args = accept::Args { snapshot: snapshot.map(str::to_owned) };
    accept::run(&machine.world, &args, &mut |_| {})
}

fn remove(machine: &Machine, gone: impl Fn(&str) -> bool) {
    for dir in [".hermes", "projects"] {
        for file in files(&machine.home(dir)) {
            let path = format!("{dir}/{}", file.to_str().unwrap());
            if gone(&path) {
                std::fs::remove_file(machine.home(&path)).unwrap();
            }
        }
    }
}

fn sql(machine: &Machine, text: &str) {
    rusqlite::Connection::open(machine.home(".hermes/state.db")).unwrap().execute_batch(text).unwrap();
}

#[test]
fn all_markdown_of_forty_projects_goes_overnight() {
    incident(
        |machine| remove(machine, |path| path.starts_with("projects/") && path.ends_with(".md")),
        &["80 of 88 .md files are gone"],
    );
}

#[test]
fn a_home_is_half_removed() {
    incident(
        |machine| {
            remove(machine, |path| path.starts_with("projects/p1") || path.starts_with("projects/p2"));
            remove(machine, |path| path.starts_with(".hermes/") && !path.contains("state.db"));
        },
        &["identity files are gone", "jobs files are gone", "of 209 files are gone"],
    );
}

#[test]
fn a_home_goes_little_by_little() {
    let (mut machine, _, first) = begun();
    // A part of what is there each hour, which by itself is work.
    let mut last = None;
    for hour in 1..=4 {
        let goes = |path: &str| (6 * hour..6 * hour + 6).any(|n| path.starts_with(&format!("projects/p{n}/")));
        remove(&machine, goes);
        let done = at(&mut machine, NOW + hour * HOUR);
        if hour < 3 {
            assert_eq!(done.verdict(), None, "hour {hour}: {:?}", done.problems());
            continue;
        }
        // The good one is not the last without a mark, but the one that has everything.
        let problems = done.problems().join("\n");
        assert_eq!(done.verdict(), Some(Kind::Suspicious), "{problems}");
        assert!(problems.contains("little by little over the last 2 hours"), "{problems}");
        assert!(problems.contains(&format!("`lifeboat restore {first} --overwrite` brings it back; it is pinned")));
        last = done.state;
    }
    // What is taken as it is is told once.
    assert!(accepted(&machine, Some(&last.unwrap().id)).unwrap().answered);
    remove(&machine, |path| path.starts_with("projects/p30/"));
    assert_eq!(at(&mut machine, NOW + 5 * HOUR).verdict(), None);
    let all = |args: &mut restore::Args| args.snapshot = first.clone();
    machine.try_restore(&machine.target("t"), all).unwrap();
    assert_eq!(files(&machine.target("t/home/projects")).len(), 40 * 5);
}

#[test]
fn a_workspace_is_silently_made_again() {
    incident(
        |machine| {
            remove(machine, |path| path.starts_with(".hermes/memories") || path.starts_with(".hermes/skills"));
            machine.write(".hermes/SOUL.md", "You are a helpful assistant.\n");
            machine.write(".hermes/cron/jobs.json", "{\"jobs\": []}\n");
        },
        &["the identity file", "as if from templates", "7 of 7 memory files are gone", "has 0 jobs and had 5"],
    );
}

#[test]
fn an_update_empties_the_jobs() {
    incident(
        |machine| drop(machine.write(".hermes/cron/jobs.json", "{\"jobs\": []}")),
        &["the jobs file", "has 0 jobs and had 5"],
    );
}

#[test]
fn a_database_has_no_bytes() {
    incident(|machine| drop(machine.write(".hermes/state.db", "")), &["state.db is empty and had"]);
}

#[test]
fn a_database_lost_its_rows() {
    incident(|machine| sql(machine, "delete from messages where id <= 388"), &["has 12 messages and had 400"]);
}

#[test]
fn everything_is_encrypted_in_place() {
    incident(
        |machine| {
            for dir in [".hermes", "projects"] {
                for file in files(&machine.home(dir)).into_iter().filter(|f| !f.ends_with(".env")) {
                    let file = machine.home(dir).join(file);
                    let bytes = std::fs::read(&file).unwrap();
                    // A few bytes longer, as what encrypts adds a tag.
                    let bytes: Vec<u8> = bytes.iter().map(|b| b ^ 0x5a).chain([7; 28]).collect();
                    std::fs::write(&file, bytes).unwrap();
                }
            }
        },
        &["have other content", "state.db is gone, or no database any more"],
    );
}

#[test]
fn what_people_do_is_no_incident() {
    let (mut machine, ..) = begun();
    let calm = |machine: &mut Machine, hours: i64, what: &str| {
        let done = at(machine, NOW + hours * HOUR);
        assert!(done.verdict().is_none() && done.suspicious.is_empty(), "{what}: {:?}", done.problems());
        done
    };
    // Everything moves; everything is touched; everything grows.
    std::fs::rename(machine.home("projects"), machine.home("kept")).unwrap();
    std::fs::create_dir(machine.home("projects")).unwrap();
    std::fs::rename(machine.home("kept"), machine.home("projects/all")).unwrap();
    calm(&mut machine, 1, "moved");
    let all = |machine: &Machine| {
        files(&machine.home("projects")).into_iter().map(|f| machine.home("projects").join(f)).collect::<Vec<_>>()
    };
    for file in all(&machine) {
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
    }
    calm(&mut machine, 2, "copied");
    for file in all(&machine) {
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text + "one more line\n").unwrap();
    }
    calm(&mut machine, 3, "grown");
    // A rule that is new deletes, and is told elsewhere.
    machine.configure(|text| {
        let at = text.rfind("path").unwrap();
        let end = at + text[at..].find('\n').unwrap();
        format!("{}\nexclude = [\"*.md\"]{}", &text[..end], &text[end..])
    });
    assert!(calm(&mut machine, 4, "excluded").deleted >= 80);
    // A source that is not there is missing.
    std::fs::rename(machine.home("projects"), machine.home("away")).unwrap();
    let done = at(&mut machine, NOW + 5 * HOUR);
    assert_eq!((done.verdict(), done.alarm_since), (Some(Kind::Incomplete), None));
    std::fs::create_dir(machine.home("projects")).unwrap();
    let done = at(&mut machine, NOW + 6 * HOUR);
    assert_eq!((done.verdict(), done.alarm_since), (Some(Kind::Incomplete), None), "not mounted");
}

#[test]
fn what_was_meant_is_accepted() {
    let (mut machine, _, good) = begun();
    let error = accepted(&machine, None).err().unwrap();
    assert_eq!(error.kind(), Kind::NotThere, "{}", said(&error));
    remove(&machine, |path| path.starts_with("projects/"));
    let marked = at(&mut machine, NOW + HOUR).state.unwrap().id;
    let error = accepted(&machine, Some(&good)).err().unwrap();
    assert_eq!(error.kind(), Kind::NotThere, "{}", said(&error));
    assert!(accepted(&machine, Some(&marked[..20])).unwrap().answered);
    // Nothing changed, and the answer goes to the store all the same, once.
    let done = at(&mut machine, NOW + 2 * HOUR);
    assert_eq!((done.verdict(), done.unchanged), (None, false));
    let done = at(&mut machine, NOW + 3 * HOUR);
    assert_eq!((done.verdict(), done.unchanged), (None, true));
    let restored = machine.try_restore(&machine.target("t"), |args| args.good = true).unwrap().0;
    assert_ne!(restored.state, Some(good));
    assert_eq!(status(&machine).verdict(), None);
}

#[test]
fn marks_stay_for_fourteen_days() {
    let (mut machine, home, good) = begun();
    remove(&machine, |path| path.starts_with("projects/"));
    for day in 0..15 {
        machine.write(".hermes/memories/m1.md", format!("day {day}"));
        let done = at(&mut machine, NOW + HOUR + day * DAY);
        let marked = done.state.as_ref().unwrap();
        let open = day < 14;
        assert_eq!(done.verdict(), open.then_some(Kind::Suspicious), "day {day}: {:?}", done.problems());
        assert_eq!(commit(&machine, marked).suspicious.is_some(), open, "day {day}");
        assert_eq!(marked.tier.as_deref() == Some("hourly"), open, "day {day}");
        if open {
            // Whoever was away for days reads what the first run found.
            assert!(done.problems().join("\n").contains("files are gone"), "day {day}");
            // Of each day one is there, though all but the last have lived longer than an hourly one does.
            let marked = machine.list().snapshots.iter().filter(|row| row.suspicious.is_some()).count();
            assert_eq!(i64::try_from(marked).unwrap(), day + 1);
        }
    }
    let wanted = good.clone();
    machine.try_restore(&machine.target("t"), |args| args.snapshot = wanted).unwrap();
    assert!(home.len() > 200 && machine.target("t/home/projects/p0/doc0.md").exists());
    // The clock that goes on alone answers nothing.
    let (mut machine, ..) = begun();
    remove(&machine, |path| path.starts_with("projects/"));
    at(&mut machine, NOW + HOUR);
    assert_eq!(at(&mut machine, NOW + 400 * DAY).verdict(), Some(Kind::Suspicious));
}

#[test]
fn several_in_a_row_lean_on_each_other_and_never_hide_what_is_good() {
    let (mut machine, home, good) = begun();
    remove(&machine, |path| path.starts_with("projects/"));
    let mut marked = Vec::new();
    for n in 0..5_i64 {
        machine.write(".hermes/memories/m1.md", format!("{n}"));
        let done = at(&mut machine, NOW + (n + 1) * HOUR);
        marked.push(done.state.unwrap());
        assert_eq!(done.last_good.as_deref(), Some(good.as_str()));
    }
    assert!(marked[1..].iter().all(|m| m.parent.is_some()), "{marked:?}");
    // Two days later all of them are past their life; while somebody may answer, none goes.
    machine.world.fixed_now = Some(NOW + 6 * DAY);
    let args = prune::Args { dry_run: false, yes: true };
    let gone = prune::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert!(gone.removed.is_empty(), "{:?}", gone.removed);
    machine.world.fixed_now = Some(NOW + 20 * DAY);
    let gone = prune::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert!(gone.removed.iter().all(|gone| gone.id != good) && gone.removed.len() == 5, "{:?}", gone.removed);
    back(&machine, &home);
    // An answer to one in the middle leaves the alarm open.
    machine.world.fixed_now = Some(NOW + 20 * DAY);
    assert!(!accepted(&machine, Some(&marked[2].id)).unwrap().answered);
    assert_eq!(machine.backup().verdict(), Some(Kind::Suspicious));
}

#[test]
fn a_lost_catalog_takes_no_alarm_with_it() {
    let (mut machine, ..) = begun();
    remove(&machine, |path| path.starts_with("projects/"));
    at(&mut machine, NOW + HOUR);
    std::fs::remove_dir_all(machine.world.state_dir("testhost")).unwrap();
    let done = at(&mut machine, NOW + 30 * HOUR);
    assert_eq!(done.verdict(), Some(Kind::Suspicious), "{:?}", done.problems());
    let full = done.state.unwrap();
    assert_eq!((full.tier.as_deref(), full.parent), (Some("hourly"), None));
    assert!(accepted(&machine, None).unwrap().answered);
    let done = at(&mut machine, NOW + 31 * HOUR);
    assert_eq!((done.verdict(), done.state.unwrap().tier.as_deref()), (None, Some("monthly")));
}

#[test]
fn a_home_that_went_with_its_catalog_is_smaller_than_its_archive() {
    let mut machine = machine();
    let noise: Vec<u8> =
        (0..400_000_u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
    machine.write("projects/film.bin", noise);
    let good = at(&mut machine, NOW).state.unwrap().id;
    std::fs::remove_dir_all(machine.world.state_dir("testhost")).unwrap();
    remove(&machine, |path| path.starts_with("projects/"));
    machine.write("projects/new.txt", "hello");
    let done = at(&mut machine, NOW + 30 * HOUR);
    assert_eq!((done.verdict(), done.last_good), (Some(Kind::Suspicious), Some(good)));
    assert!(done.suspicious[0].contains("the last good full takes"), "{:?}", done.suspicious);
}

#[test]
fn what_a_failed_run_found_is_not_forgotten() {
    let mut failed = 0;
    for nth in 1.. {
        let (mut machine, ..) = begun();
        remove(&machine, |path| path.starts_with("projects/"));
        machine.world.fixed_now = Some(NOW + HOUR);
        machine.world.wrap_store = Some(crate::faults::gone_from(nth));
        let before = files(&machine.store());
        let is_done = machine.try_backup().is_ok();
        machine.world.wrap_store = None;
        // What it wrote is gone, too, so that it can never be finished.
        for file in files(&machine.store()).iter().filter(|f| !is_done && !before.contains(f)) {
            std::fs::remove_file(machine.store().join(file)).unwrap();
        }
        let done = at(&mut machine, NOW + 2 * HOUR);
        assert_eq!(done.verdict(), Some(Kind::Suspicious), "operation {nth}: {:?}", done.problems());
        assert!(done.problems().join("\n").contains("files are gone"), "operation {nth}");
        if is_done {
            break;
        }
        failed += 1;
    }
    assert!(failed > 3, "{failed}");
}

#[test]
fn secrets_come_back_from_before_the_alarm() {
    let (mut machine, ..) = begun();
    remove(&machine, |path| path.starts_with("projects/"));
    machine.write(".hermes/.env", "API_KEY=");
    at(&mut machine, NOW + HOUR);
    let env = |target: &str, good: bool| {
        machine.try_restore(&machine.target(target), |args| args.good = good).unwrap();
        std::fs::read_to_string(machine.target(target).join("home/.hermes/.env")).unwrap()
    };
    assert_eq!((env("a", false), env("b", true)), ("API_KEY=".into(), "API_KEY=fake-0000-1111-2222".into()));
}

#[test]
fn secrets_that_go_are_missed_though_nothing_else_changed() {
    let long = "OTHER_KEY=fake-3333-4444-5555-6666-7777\n".repeat(3);
    for happens in [None, Some(""), Some("API_KEY=x")] {
        let (mut machine, ..) = begun();
        machine.write(".hermes/.env", &long);
        // A rotation is none, and a look at the secrets alone neither forgets nor tells.
        assert_eq!(at(&mut machine, NOW + HOUR).verdict(), None);
        match happens {
            None => std::fs::remove_file(machine.home(".hermes/.env")).unwrap(),
            Some(text) => drop(machine.write(".hermes/.env", text)),
        }
        machine.world.fixed_now = Some(NOW + 2 * HOUR);
        let alone = backup::Args { secrets_only: true, ..backup::Args::default() };
        if happens.is_some() {
            assert_eq!(backup::run(&machine.world, &alone, &mut |_| {}).unwrap().verdict(), None);
        }
        let done = at(&mut machine, NOW + 3 * HOUR);
        assert_eq!(done.verdict(), Some(Kind::Suspicious), "{happens:?}: {:?}", done.problems());
        assert!(done.suspicious[0].contains("secret files"), "{:?}", done.suspicious);
        machine.try_restore(&machine.target("t"), |args| args.good = true).unwrap();
        assert_eq!(std::fs::read_to_string(machine.target("t/home/.hermes/.env")).unwrap(), long);
        assert!(accepted(&machine, None).unwrap().answered);
        assert_eq!(at(&mut machine, NOW + 4 * HOUR).verdict(), None);
    }
}

#[test]
fn bounds_are_the_users() {
    let (mut machine, ..) = begun();
    machine.configure(|text| format!("{text}\n[guard]\ngone = \"none\"\ndocuments = \"none\"\n"));
    remove(&machine, |path| path.starts_with("projects/"));
    let done = at(&mut machine, NOW + HOUR);
    assert_eq!(done.verdict(), None);
    // Who quietens the guard is seen.
    assert_eq!(done.policy_changes, ["what makes a snapshot suspicious changed"]);
}

#[test]
fn the_program_ends_with_six_and_tells_its_hooks() {
    let (machine, ..) = begun();
    let told = machine.root().join("told");
    let hook = format!("suspicious = [\"echo $LIFEBOAT_EXIT_CODE > {}\"]", told.display());
    machine.configure(|text| format!("{text}\n[hooks]\n{hook}\n"));
    remove(&machine, |path| path.starts_with("projects/"));
    let out = machine.program(&["backup", "-q"]).env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(6), "{text}");
    assert!(text.contains("suspicious: ") && text.contains("lifeboat accept"), "{text}");
    assert_eq!(std::fs::read_to_string(told).unwrap(), "6\n");
    let out = machine.program(&["accept", "--json"]).output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(answer["answered"], true);
    assert_eq!(machine.program(&["accept"]).output().unwrap().status.code(), Some(10));
}

#[test]
fn looking_passes_over_what_is_marked() {
    let (mut machine, ..) = begun();
    remove(&machine, |path| path.starts_with("projects/"));
    at(&mut machine, NOW + HOUR);
    let file = machine.home("projects/p0/doc0.md");
    let kit = machine.kit();
    let cat = |more: &[&str]| {
        let args = [&["cat", "latest", file.to_str().unwrap(), "--identity", kit.to_str().unwrap()], more].concat();
        machine.program(&args).output().unwrap().status.code()
    };
    assert_eq!((cat(&[]), cat(&["--good"])), (Some(10), Some(0)));
    let mut events: Vec<Event> = Vec::new();
    let error = restore::run(
        &machine.world,
        &restore::Args {
            snapshot: status(&machine).series[0].snapshot.as_ref().unwrap().id.clone(),
            identity: Some(machine.kit()),
            target: Some(machine.target("t")),
            good: true,
            ..restore::Args::default()
        },
        &mut |e| events.push(e),
    );
    let error = error.err().unwrap();
    assert!(error.kind() == Kind::NotThere && said(&error).contains("--good"), "{}", said(&error));
}
