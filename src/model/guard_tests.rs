//! Incidents that people report, replayed; and two hundred days of ordinary work, which is none.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

/// A home: files by path with size and a number that stands for content, and for the inode.
#[derive(Clone, Default)]
pub(crate) struct Home {
    pub(crate) files: BTreeMap<String, (u64, u64, u64)>,
    pub(crate) tables: BTreeMap<String, u64>,
    database: Option<u64>,
    next: u64,
}

impl Home {
    /// An agent with forty projects, their dependencies, transcripts, memories and a database.
    pub(crate) fn new() -> Home {
        let mut home = Home { database: Some(50 << 20), ..Home::default() };
        home.tables = BTreeMap::from([("messages".to_owned(), 40_000), ("sessions".to_owned(), 900)]);
        for project in 0..40 {
            for n in 0..6 {
                home.write(&format!("projects/p{project}/doc{n}.md"), 3000);
            }
            for n in 0..40 {
                home.write(&format!("projects/p{project}/src/f{n}.py"), 5000);
            }
        }
        for n in 0..900 {
            home.write(&format!("projects/p0/vendor/d{}/f{n}.js", n % 90), 4000);
        }
        for n in 0..300 {
            home.write(&format!("sessions/s{n}.jsonl"), 60_000);
        }
        for n in 0..30 {
            home.write(&format!("memories/m{n}.md"), 900);
        }
        for name in ["SOUL.md", "USER.md", "AGENTS.md"] {
            home.write(name, 2500);
        }
        home.write("cron/jobs.json", 1800);
        home
    }

    pub(crate) fn write(&mut self, path: &str, bytes: u64) {
        self.next += 1;
        let inode = self.files.get(path).map_or(self.next, |f| f.2);
        self.files.insert(path.to_owned(), (bytes, self.next, inode));
    }

    pub(crate) fn remove(&mut self, gone: impl Fn(&str) -> bool) {
        self.files.retain(|path, _| !gone(path));
    }

    fn role(path: &str) -> Option<Role> {
        match path {
            "SOUL.md" | "USER.md" | "AGENTS.md" => Some(Role::Identity),
            "cron/jobs.json" => Some(Role::Jobs),
            _ if path.starts_with("memories/") => Some(Role::Memory),
            _ => None,
        }
    }

    /// What a run sees of it, `before` being the last good snapshot.
    pub(crate) fn seen(&self, before: &Home) -> Seen {
        let mut seen = Seen::default();
        for (path, (bytes, content, inode)) in &before.files {
            let now = self.files.get(path);
            let kind = seen.kinds.entry(path.rsplit('.').next().unwrap().to_owned()).or_default();
            for change in [&mut seen.all, kind] {
                change.before += 1;
                change.bytes_before += bytes;
                match now {
                    None => {
                        change.gone += 1;
                        change.bytes_gone += bytes;
                    }
                    // One that only grew was not rewritten.
                    Some((is, other, _)) if other != content && is <= bytes => {
                        change.rewritten += 1;
                        change.bytes_rewritten += bytes;
                    }
                    Some(_) => {}
                }
            }
            if let Some(role) = Home::role(path) {
                let reborn = now.is_some_and(|n| n.2 != *inode);
                let bytes = (*bytes, now.map(|n| n.0));
                seen.kept.push(Kept { name: path.clone(), role, bytes_before: bytes.0, bytes: bytes.1, reborn });
            }
        }
        for (path, (bytes, ..)) in self.files.iter().filter(|(path, _)| !before.files.contains_key(*path)) {
            let kind = seen.kinds.entry(path.rsplit('.').next().unwrap().to_owned()).or_default();
            for change in [&mut seen.all, kind] {
                change.new += 1;
                change.bytes_new += bytes;
            }
        }
        let rows = before.tables.iter().map(|(t, was)| (t.clone(), (*was, self.tables.get(t).copied().unwrap_or(0))));
        seen.databases.push(Database {
            name: "state.db".into(),
            bytes_before: before.database.unwrap_or(0),
            bytes: self.database,
            rows: rows.collect(),
        });
        seen
    }
}

/// What is suspicious after `happens` to a home.
fn after(happens: impl FnOnce(&mut Home)) -> Vec<Kind> {
    let before = Home::new();
    let mut now = before.clone();
    happens(&mut now);
    let found = judge(&now.seen(&before), &Bounds::default());
    assert!(found.iter().all(|s| !s.sentence.is_empty() && !s.sentence.ends_with('.')), "{found:?}");
    found.into_iter().map(|s| s.kind).collect()
}

#[test]
fn all_markdown_of_forty_projects_is_deleted_overnight() {
    let kinds = after(|home| home.remove(|path| path.starts_with("projects/") && path.ends_with(".md")));
    assert_eq!(kinds, [Kind::Documents]);
}

#[test]
fn a_home_is_half_removed() {
    // `rm -rf` goes through a home in some order, and is stopped somewhere.
    let kinds = after(|home| home.remove(|path| path < "projects/p24"));
    assert!(kinds.contains(&Kind::Gone) && kinds.contains(&Kind::RoleGone), "{kinds:?}");
}

#[test]
fn a_wiped_workspace_is_silently_made_again() {
    let kinds = after(|home| {
        home.remove(|_| true);
        for name in ["SOUL.md", "USER.md", "AGENTS.md"] {
            home.next += 1;
            home.write(name, 400);
        }
        home.write("cron/jobs.json", 2);
    });
    for kind in [Kind::Gone, Kind::Reseeded, Kind::Emptied, Kind::RoleGone] {
        assert!(kinds.contains(&kind), "{kind:?}: {kinds:?}");
    }
    // Only the workspace, in a home that is otherwise as it was.
    let kinds = after(|home| {
        home.remove(|path| Home::role(path) == Some(Role::Identity));
        for name in ["SOUL.md", "USER.md", "AGENTS.md"] {
            home.write(name, 600);
        }
    });
    assert_eq!(kinds, [Kind::Reseeded]);
}

#[test]
fn an_update_empties_the_jobs() {
    assert_eq!(after(|home| home.write("cron/jobs.json", 12)), [Kind::Emptied]);
    assert_eq!(after(|home| home.remove(|path| path == "cron/jobs.json")), [Kind::RoleGone]);
}

#[test]
fn a_database_has_no_bytes_or_lost_its_rows() {
    assert_eq!(after(|home| home.database = Some(0)), [Kind::Shrunk]);
    assert_eq!(after(|home| home.database = None), [Kind::Shrunk]);
    assert_eq!(after(|home| home.tables.extend([("messages".to_owned(), 12)])), [Kind::Shrunk]);
    assert_eq!(after(|home| home.tables.retain(|table, _| table != "sessions")), [Kind::Shrunk]);
}

#[test]
fn everything_is_encrypted_by_somebody() {
    let all: Vec<(String, u64)> = Home::new().files.iter().map(|(path, file)| (path.clone(), file.0)).collect();
    let kinds = after(|home| all.iter().for_each(|(path, bytes)| home.write(path, *bytes)));
    assert_eq!(kinds, [Kind::Rewritten]);
    let kinds = after(|home| {
        home.remove(|_| true);
        all.iter().for_each(|(path, bytes)| home.write(&format!("{path}.locked"), bytes + 200));
    });
    assert!(kinds.contains(&Kind::Rewritten) && kinds.contains(&Kind::RoleGone), "{kinds:?}");
}

#[test]
fn an_agents_files_go_or_are_emptied() {
    assert_eq!(after(|home| home.remove(|path| path == "SOUL.md")), [Kind::RoleGone]);
    assert_eq!(after(|home| home.write("SOUL.md", 0)), [Kind::Emptied]);
    assert_eq!(after(|home| home.remove(|path| path.starts_with("memories/m1"))), []);
    assert_eq!(after(|home| home.remove(|path| path.starts_with("memories/"))), [Kind::RoleGone]);
}

#[test]
fn secrets_must_not_vanish() {
    let judged = |before: (u64, u64), now: (u64, u64)| {
        let of = |(files, bytes)| SecretFiles { files, bytes };
        judge_secrets(of(before), of(now), &Bounds::default()).map(|s| s.sentence)
    };
    assert_eq!(judged((1, 20), (0, 0)).unwrap(), "of 1 secret files 0 are left");
    assert_eq!(judged((20, 9000), (2, 8000)).unwrap(), "of 20 secret files 2 are left");
    assert_eq!(judged((3, 9000), (3, 100)).unwrap(), "98 % of what was in secret files is gone");
    // A key is rotated or given up, a project goes with its own, there were none.
    for (before, now) in
        [((3, 9000), (3, 8000)), ((3, 9000), (2, 2000)), ((0, 0), (0, 0)), ((1, 20), (1, 0)), ((0, 0), (4, 9))]
    {
        assert_eq!(judged(before, now), None, "{before:?} {now:?}");
    }
    let none = Bounds { emptied: None, ..Bounds::default() };
    assert_eq!(judge_secrets(SecretFiles { files: 3, bytes: 90 }, SecretFiles::default(), &none), None);
}

#[test]
fn bounds_can_be_taken_away_and_little_says_nothing() {
    let none = Bounds { gone: None, documents: None, rewritten: None, rows: None, emptied: None };
    let before = Home::new();
    assert!(judge(&Home::default().seen(&before), &none).is_empty());
    assert!(!judge(&Home::default().seen(&before), &Bounds::default()).is_empty());
    assert!(judge(&Seen::default(), &Bounds::default()).is_empty());
    // A home that has hardly begun.
    let mut small = Home::default();
    (0..10).for_each(|n| small.write(&format!("n{n}.md"), 100));
    assert!(judge(&Home::default().seen(&small), &Bounds::default()).iter().all(|s| s.kind == Kind::Shrunk));
}

#[test]
fn a_mark_stays_until_somebody_answers() {
    let pending = Some(Pending { count: 3, since: 1000, days: 3 });
    assert_eq!((mark(0, None, 0), mark(2, None, 0)), (None, Some(2)));
    assert_eq!((mark(0, pending, 1000), mark(5, pending, 1000)), (Some(3), Some(5)));
    assert_eq!(mark(0, pending, 1000 + ANSWER_DAYS * 86_400 - 1), Some(3));
    assert_eq!(mark(0, pending, 1000 + ANSWER_DAYS * 86_400), None);
    assert_eq!(mark(0, pending, 0), Some(3), "a clock that went back answers nothing");
    let jumped = Some(Pending { count: 3, since: 1000, days: 1 });
    assert_eq!(mark(0, jumped, 1000 + 400 * 86_400), Some(3), "nor does one that went ahead");
}

#[test]
fn what_presets_count_must_not_vanish() {
    let judged = |before, now| {
        let counted = vec![Counted { what: "jobs".into(), of: "~/.hermes".into(), before, now }];
        judge(&Seen { counted, ..Seen::default() }, &Bounds::default())
    };
    for (before, now) in [(40, 20), (40, 0), (3, 0), (20, 10)] {
        assert_eq!(judged(before, now)[0].kind, Kind::Shrunk, "{before} {now}");
    }
    for (before, now) in [(40, 21), (40, 400), (3, 1), (2, 0), (0, 0), (19, 1)] {
        assert!(judged(before, now).is_empty(), "{before} {now}");
    }
}

#[test]
fn without_a_catalog_a_home_must_not_be_smaller_than_its_archive() {
    let judged = |stored, bytes| {
        let unknown = Some(Unknown { stored, bytes });
        judge(&Seen { unknown, ..Seen::default() }, &Bounds::default())
    };
    assert_eq!(judged(10 << 20, 7 << 20)[0].kind, Kind::Gone);
    assert!(judged(10 << 20, 8 << 20).is_empty() && judged(10 << 20, 90 << 20).is_empty());
    assert!(judged(200 << 10, 0).is_empty(), "a small home says nothing");
}

#[test]
fn small_tables_and_those_of_a_search_say_nothing() {
    let before = [("messages", 4000), ("queue", 30), ("messages_fts_data", 90_000), ("sessions", 600)];
    let before: BTreeMap<String, i64> = before.map(|(t, n)| (t.to_owned(), n)).into();
    let now = BTreeMap::from([("messages".to_owned(), 4100), ("queue".to_owned(), 0)]);
    let rows = rows_of(&before, &now, |table| !serves_search(table));
    let want = [("messages", (4000, 4100)), ("sessions", (600, 0))].map(|(t, n)| (t.to_owned(), n));
    assert_eq!(rows, want.into());
}

#[test]
fn documents_are_known_by_their_names() {
    assert_eq!((document(b"SOUL.md"), document(b"a.b.JSONL")), (Some("md"), Some("jsonl")));
    assert_eq!((document(b"md"), document(b"x.rs"), document(b"x.")), (None, None, None));
}

/// Small numbers that depend on a seed alone.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // Knuth's linear congruential generator; its high half is good enough for a life.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One day of ordinary work.
pub(crate) fn work(home: &mut Home, day: u64, dice: &mut Dice) {
    let paths: Vec<String> = home.files.keys().cloned().collect();
    for _ in 0..dice.below(60) {
        let path = &paths[usize::try_from(dice.below(paths.len() as u64)).unwrap()];
        let (bytes, ..) = home.files[path];
        home.write(path, bytes * (90 + dice.below(25)) / 100 + 1);
    }
    let project = dice.below(40);
    let inside = format!("projects/p{project}/");
    match dice.below(12) {
        // A refactoring moves every source of a project, and writes most of it anew.
        0 => {
            let moved: Vec<String> = paths.iter().filter(|p| p.starts_with(&inside)).cloned().collect();
            for path in moved.iter().filter(|p| p.ends_with(".py")) {
                let (bytes, ..) = home.files.remove(path).unwrap();
                home.write(&path.replace(".py", &format!("_{day}.py")).replace("/src", "/src2"), bytes);
            }
        }
        // A branch has other files: some go, some come, many differ.
        1 | 2 => {
            for path in paths.iter().filter(|p| p.starts_with(&inside)) {
                match dice.below(5) {
                    0 => drop(home.files.remove(path)),
                    1 => home.write(&format!("{inside}branch{day}_{}.py", dice.below(1000)), 3000),
                    2 | 3 => home.write(path, 4000),
                    _ => {}
                }
            }
        }
        // An update of dependencies replaces all of them.
        3 => {
            home.remove(|path| path.contains("/vendor/"));
            for n in 0..850 + dice.below(150) {
                home.write(&format!("projects/p0/vendor/v{day}d{}/f{n}.js", n % 90), 3800 + dice.below(600));
            }
        }
        // Memories are compacted, transcripts thrown away, a project is done.
        4 => (0..8).for_each(|_| home.write(&format!("memories/m{}.md", dice.below(30)), 300 + dice.below(900))),
        5 => {
            let keep = dice.below(300);
            home.remove(|path| {
                path.starts_with("sessions/s") && path.len() % 2 == 0 && path.contains(&format!("{}", keep % 10))
            });
        }
        6 => home.remove(|path| path.starts_with(&inside)),
        7 => home.write("cron/jobs.json", 900 + dice.below(1500)),
        8 => (0..5).for_each(|n| home.write(&format!("projects/p{project}/log.{n}"), 100_000)),
        _ => {}
    }
    // A project that is done makes room for another; transcripts are written every day.
    if !home.files.keys().any(|path| path.starts_with(&inside)) {
        (0..6).for_each(|n| home.write(&format!("{inside}doc{n}.md"), 3000));
        (0..40).for_each(|n| home.write(&format!("{inside}src/f{n}.py"), 5000));
    }
    (0..3).for_each(|n| home.write(&format!("sessions/d{day}_{n}.jsonl"), 60_000));
    // The agent forgets sessions that are a month old.
    let kept = 70 + dice.below(40);
    home.tables.values_mut().for_each(|rows| *rows = *rows * kept / 100 + 50);
}

#[test]
fn two_hundred_days_of_work_are_no_incident() {
    for seed in 0..5 {
        let (mut before, mut dice, mut alarms, mut rough) = (Home::new(), Dice(seed), Vec::new(), 0);
        for day in 0..200 {
            let mut now = before.clone();
            work(&mut now, day, &mut dice);
            let found = judge(&now.seen(&before), &Bounds::default());
            alarms.extend(found.into_iter().map(|s| format!("day {day}: {}", s.sentence)));
            let all = now.seen(&before).all;
            rough += usize::from(reaches(all.gone + all.rewritten, all.before, 10));
            before = now;
        }
        // A life in which no day changes a tenth of all files would prove nothing.
        assert!(rough > 10, "seed {seed}: {rough}");
        assert!(alarms.len() <= 1, "seed {seed}: {alarms:#?}");
        // The same life ends with an incident, which is seen at once.
        let mut now = before.clone();
        now.remove(|path| path.ends_with(".md"));
        assert!(judge(&now.seen(&before), &Bounds::default()).iter().any(|s| s.kind == Kind::Documents));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is suspicious stays so when still more goes, and no numbers make it panic.
    #[test]
    fn more_loss_is_never_less_suspicious(
        before in 0..u64::MAX / 4, bytes in 0..u64::MAX / 4, share in 0..=100_u64, more in 0..=100_u64, new in 0..10_000_u64,
    ) {
        let part = |whole: u64, share: u64| u64::try_from(u128::from(whole) * u128::from(share) / 100).unwrap();
        let seen = |share: u64| Seen {
            all: Change {
                before, bytes_before: bytes, gone: part(before, share), bytes_gone: part(bytes, share), new,
                ..Change::default()
            },
            ..Seen::default()
        };
        let judged = |share| judge(&seen(share), &Bounds::default()).iter().any(|s| s.kind == Kind::Gone);
        if judged(share) {
            prop_assert!(judged((share + more).min(100)));
        }
    }
}
