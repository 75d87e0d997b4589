//! What goes and what stays, snapshot by snapshot.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const DAY: i64 = DAY_SECONDS;
/// The day that everything below counts from.
const DAY_0: i64 = 20_000 * DAY;

fn id(n: u32, day: i64) -> SnapshotId {
    SnapshotId::new(DAY_0 + day * DAY + 3600, n)
}

/// Snapshot `n` of a day, with the seq that its number gives.
fn state(n: u32, day: i64, parent: Option<&Held>, life: u64) -> Held {
    let parent = parent.map(|p| p.link.id.clone());
    let link = Link { id: id(n, day), parent, seq: u64::from(n), life, stored: 1 };
    Held { archive: Archive::State, link, standing: Standing::Whole, suspicious: false, pinned: false }
}

fn bundle(n: u32, day: i64, life: u64) -> Held {
    Held { archive: Archive::Secrets, ..state(n, day, None, life) }
}

/// Numbers of what goes on a day, and how many wait.
fn go(held: &[Held], day: i64, clock_is_right: bool) -> (Vec<u32>, usize) {
    let now = DAY_0 + day * DAY + 7200;
    let plan = plan(&Question { held, now, began: now - 60, clock_is_right });
    let number = |i: usize| u32::from_str_radix(&held[i].link.id.as_str()[17..], 16).unwrap();
    (plan.remove.into_iter().map(number).collect(), plan.waiting)
}

/// The same of what there is on that day.
fn goes(held: &[Held], day: i64) -> Vec<u32> {
    let until = DAY_0 + (day + 1) * DAY;
    let held: Vec<Held> = held.iter().filter(|h| h.link.id.unix_seconds() < until).cloned().collect();
    let (gone, waiting) = go(&held, day, false);
    assert_eq!(waiting, 0);
    gone
}

/// A snapshot on each of the last days, which nobody asks about: they witness the clock.
fn witnesses(held: &mut Vec<Held>, first: u32, days: std::ops::RangeInclusive<i64>) {
    for (n, day) in (first..).zip(days) {
        held.push(state(n, day, None, 1000));
    }
}

#[test]
fn what_is_past_its_life_and_needed_by_nobody_goes_children_first() {
    let full = state(1, 0, None, 10);
    let daily = state(2, 1, Some(&full), 5);
    let hourly = state(3, 1, Some(&daily), 2);
    let late = state(4, 6, Some(&daily), 2);
    let mut held = vec![full, daily, hourly, late];
    witnesses(&mut held, 5, 2..=40);
    assert!(goes(&held, 2).is_empty());
    assert_eq!(goes(&held, 6), [3]);
    // The daily's life ends on day 6, but a retained one leans on it until day 8.
    assert_eq!(goes(&held, 7), [3]);
    assert_eq!(goes(&held, 8), [4, 3, 2]);
    assert_eq!(goes(&held, 10), [4, 3, 2, 1]);
}

#[test]
fn pinned_ones_and_what_they_lean_on_stay() {
    let full = state(1, 0, None, 1);
    let pinned = Held { pinned: true, ..state(2, 0, Some(&full), 1) };
    let mut held = vec![full, pinned, state(3, 0, None, 1)];
    witnesses(&mut held, 4, 0..=20);
    assert_eq!(go(&held, 20, false), (vec![3], 0));
}

#[test]
fn the_newest_good_chain_stays_whatever_the_clock_says() {
    let full = state(1, 0, None, 1);
    let good = state(2, 0, Some(&full), 1);
    let broken = state(4, 1, Some(&state(3, 1, None, 1)), 1);
    let suspicious = Held { suspicious: true, ..state(5, 1, None, 1) };
    let damaged = Held { standing: Standing::Damaged, ..state(6, 1, None, 1) };
    let held = vec![full, good, broken, suspicious, damaged];
    assert_eq!(go(&held, 400, true), (vec![6, 5, 4], 0));
    // What this run wrote is not yet what one could fall back to.
    let mut held = held;
    held.push(state(7, 400, None, 1));
    held.last_mut().unwrap().link.id = SnapshotId::new(DAY_0 + 400 * DAY + 7200 - 60, 7);
    assert_eq!(go(&held, 400, true), (vec![6, 5, 4], 0));
    // With the next run it is.
    assert_eq!(go(&held, 401, true), (vec![6, 5, 4, 2, 1], 0));
}

#[test]
fn bundles_go_but_never_the_newest() {
    let damaged = Held { standing: Standing::Damaged, ..bundle(3, 2, 1) };
    let mut held = vec![bundle(1, 0, 1), bundle(2, 1, 1), damaged];
    witnesses(&mut held, 4, 0..=20);
    assert_eq!(go(&held, 20, false), (vec![3, 1], 0));
}

#[test]
fn remains_go_after_a_week_and_before_all_else() {
    let remains = |n, day| Held { standing: Standing::Remains, ..state(n, day, None, 0) };
    let mut held =
        vec![state(1, 0, None, 1), remains(200, 10), remains(201, 14), Held { pinned: true, ..remains(202, 1) }];
    witnesses(&mut held, 4, 0..=20);
    assert_eq!(goes(&held, 16), [1]);
    assert_eq!(goes(&held, 17), [200, 1]);
    assert_eq!(goes(&held, 21), [201, 200, 1]);
}

#[test]
fn a_clock_that_moved_has_to_be_witnessed() {
    // Ten days of snapshots that live five days each, then a clock ten years ahead.
    let mut held: Vec<Held> = (1..=10).map(|n| state(n, i64::from(n), None, 5)).collect();
    assert_eq!(go(&held, 11, false), (vec![6, 5, 4, 3, 2, 1], 0));
    let ahead = 3650;
    let (gone, waiting) = go(&held, ahead, false);
    // Up to the day after which there are three with snapshots: the seventh.
    assert_eq!((gone, waiting), (vec![2, 1], 7));
    assert_eq!(go(&held, ahead, true), (vec![9, 8, 7, 6, 5, 4, 3, 2, 1], 0));
    // Runs on the same day witness nothing, and two days more not enough.
    for (n, day) in [(11, ahead), (12, ahead), (13, ahead + 1), (14, ahead + 2)] {
        held.push(state(n, day, None, 5));
        assert!(!go(&held, day, false).0.contains(&10), "{n}");
    }
    // Back again, and the time there counts for nothing.
    let mut back = held.clone();
    back.push(state(15, 11, None, 5));
    assert_eq!(go(&back, 11, false).0, [3, 2, 1]);
    // Who stays in the future gets there on the third day after the first.
    held.push(state(15, ahead + 3, None, 5));
    assert_eq!(go(&held, ahead + 3, false), ((1..=10).rev().collect(), 0));
}

#[test]
fn a_host_that_runs_once_a_week_is_pruned_a_few_weeks_late() {
    let held: Vec<Held> = (1..=20).map(|n| state(n, i64::from(n) * 7, None, 14)).collect();
    // On day 140 all up to day 126 are past their life; three weeks are not witnessed.
    let (gone, waiting) = go(&held, 140, false);
    assert_eq!(gone, (1..=15).rev().collect::<Vec<u32>>());
    assert_eq!(waiting, 3);
}

#[test]
fn a_clock_that_went_back_removes_nothing() {
    let mut held: Vec<Held> = (1..=10).map(|n| state(n, i64::from(n), None, 1)).collect();
    held.push(state(11, -3650, None, 1));
    assert_eq!(go(&held, -3650, false), (vec![], 0));
}
