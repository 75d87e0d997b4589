//! Homes that go little by little, and lives in which a little always goes.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::model::guard::Kind;
use crate::model::guard::tests::{Dice, Home, work};

const HOUR: i64 = 3600;

/// Runs every `step` seconds, each of which sees what `happens` before it; what they find first, and after how many.
fn runs(count: usize, step: i64, mut happens: impl FnMut(&mut Home, usize)) -> Option<(usize, Vec<Suspicion>)> {
    let (mut losses, mut home) = (Losses::default(), Home::new());
    (0..count).find_map(|n| {
        let mut now = home.clone();
        happens(&mut now, n);
        let seen = now.seen(&home);
        home = now;
        assert_eq!(guard::judge(&seen, &Bounds::default()), [], "run {n} alone");
        let time = 1_000_000 + i64::try_from(n).unwrap() * step;
        losses.add(&seen, time, None);
        // What the catalog keeps is the same afterwards.
        losses = serde_json::from_str(&serde_json::to_string(&losses).unwrap()).unwrap();
        Some((n, losses.judge(&Bounds::default(), time).0)).filter(|(_, found)| !found.is_empty())
    })
}

fn project(n: usize) -> impl Fn(&str) -> bool {
    move |path| path.starts_with(&format!("projects/p{n}/"))
}

#[test]
fn a_home_that_goes_project_by_project_is_missed() {
    let (n, found) = runs(40, HOUR, |home, n| home.remove(project(39 - n))).unwrap();
    assert!((10..25).contains(&n), "{n}");
    assert_eq!(found[0].kind, Kind::Gone);
    assert!(found[0].sentence.ends_with(&format!("little by little over the last {n} hours")), "{found:?}");
}

#[test]
fn documents_that_go_one_by_one_are_missed() {
    let goes = |n: usize| move |path: &str| path.ends_with(".md") && path.contains(&format!("doc{n}"));
    let (n, found) = runs(6, 4 * HOUR, |home, n| home.remove(goes(n))).unwrap();
    assert_eq!((n, found[0].kind), (4, Kind::Documents), "{found:?}");
}

#[test]
fn a_database_that_loses_a_third_again_and_again_is_missed() {
    let third = |home: &mut Home, _| home.tables.values_mut().for_each(|rows| *rows -= *rows / 3);
    let (n, found) = runs(6, HOUR, third).unwrap();
    assert_eq!((n, found[0].kind), (1, Kind::Shrunk));
    assert!(found[0].sentence.contains("rows in table"), "{found:?}");
}

#[test]
fn what_takes_a_month_is_work() {
    assert_eq!(runs(30, 24 * HOUR, |home, n| home.remove(project(39 - n))), None);
    // The same project again and again, which each time comes anew, is a build.
    let builds = |home: &mut Home, n: usize| match n % 2 {
        0 => home.remove(|path| path.contains("/vendor/d1")),
        _ => (0..110).for_each(|i| home.write(&format!("projects/p0/vendor/d1{}/f{n}_{i}.js", i % 10), 4000)),
    };
    assert_eq!(runs(48, HOUR, builds), None);
}

#[test]
fn the_first_backup_of_a_home_makes_up_for_nothing_that_goes_later() {
    let (mut losses, home) = (Losses::default(), Home::new());
    losses.add(&home.seen(&Home::default()), 0, None);
    let mut less = home.clone();
    less.remove(|path| path.contains("/vendor/"));
    losses.add(&less.seen(&home), HOUR, None);
    let mut least = less.clone();
    least.remove(|path| path.contains("/p2"));
    losses.add(&least.seen(&less), 2 * HOUR, None);
    assert!(!losses.judge(&Bounds::default(), 2 * HOUR).0.is_empty());
}

#[test]
fn a_clock_that_jumps_forgets_what_was_before() {
    for jump in [30 * 24 * HOUR, -HOUR] {
        let (mut losses, home) = (Losses::default(), Home::new());
        let mut less = home.clone();
        less.remove(|path| path.contains("/vendor/"));
        losses.add(&less.seen(&home), 100 * HOUR, None);
        let mut least = less.clone();
        least.remove(|path| path.contains("/p2"));
        losses.add(&least.seen(&less), 100 * HOUR + jump, None);
        assert_eq!(losses.judge(&Bounds::default(), 100 * HOUR + jump).0, []);
        assert_eq!(losses.windows.len(), 1);
    }
}

#[test]
fn two_hundred_days_of_work_are_no_incident() {
    for (seed, runs_a_day) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)] {
        let (mut losses, mut before, mut dice) = (Losses::default(), Home::new(), Dice(seed));
        let mut alarms = Vec::new();
        for run in 0..200 {
            let mut now = before.clone();
            work(&mut now, run, &mut dice);
            let (seen, time) = (now.seen(&before), i64::try_from(run).unwrap() * 24 * HOUR / runs_a_day);
            losses.add(&seen, time, None);
            let own = guard::judge(&seen, &Bounds::default());
            let found = losses.judge(&Bounds::default(), time).0;
            // What a run finds by itself is told, and what it is part of is not added up any more.
            if !own.is_empty() || !found.is_empty() {
                losses = Losses::default();
            }
            if own.is_empty() {
                alarms.extend(found.into_iter().map(|s| format!("run {run}: {}", s.sentence)));
            }
            before = now;
        }
        assert!(alarms.len() <= 2, "seed {seed}: {alarms:#?}");
    }
}
