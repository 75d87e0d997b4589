//! Lives and bursts; what a whole timeline leads to is in `tests/it/timelines.rs`.

use super::*;
use crate::model::config::default_tiers;

fn tiers(list: &[(&str, u32)]) -> Vec<Tier> {
    list.iter().map(|(name, keep_hours)| Tier { name: (*name).to_owned(), keep_hours: *keep_hours }).collect()
}

#[test]
fn lives_are_what_the_design_says() {
    let lives = |tiers: &[Tier]| -> Vec<u64> { (0..tiers.len()).map(|i| life_days(tiers, i)).collect() };
    assert_eq!(lives(&default_tiers()), [365, 115, 37, 2]);
    assert_eq!(lives(&tiers(&[("daily", 24 * 30)])), [30]);
    // A part of a day is a day to a bucket.
    assert_eq!(lives(&tiers(&[("daily", 24 * 7), ("hourly", 36)])), [7, 3]);
    // A coarse tier that keeps no longer than a finer one lives for it.
    assert_eq!(lives(&tiers(&[("yearly", 24 * 365), ("weekly", 24 * 365)])), [366 + 731, 731]);
}

fn past(n: u32, parent: Option<u32>, bytes: u64) -> Past {
    let id = |n: u32| SnapshotId::new(i64::from(n), n);
    Past {
        id: id(n),
        seq: u64::from(n),
        committed: i64::from(n),
        tier: "hourly".into(),
        generation: None,
        parent: parent.map(id),
        life: 2,
        suspicious: false,
        whole: true,
        delta_bytes: bytes,
    }
}

#[test]
fn keeps_are_what_was_promised() {
    let list = tiers(&[("yearly", 24 * 400), ("hourly", 36)]);
    assert_eq!(keep_seconds(&list, "hourly", 9), 36 * 3600);
    // A tier that was taken away, and one that nobody knows.
    assert_eq!(keep_seconds(&list, "daily", 9), 30 * 24 * 3600);
    assert_eq!(keep_seconds(&list, "other", 9), 9 * 24 * 3600);
}

#[test]
fn bursts_are_large_and_unusual() {
    const MIB: u64 = 1 << 20;
    // The full does not count. The median is 10 MiB.
    let all =
        [past(1, None, 5000 * MIB), past(2, Some(1), MIB), past(3, Some(1), 10 * MIB), past(4, Some(1), 90 * MIB)];
    assert!(!is_burst(&all, 80 * MIB));
    assert!(is_burst(&all, 80 * MIB + 1));
    // Eight times next to nothing is no burst, and without any incremental the size alone decides.
    assert!(!is_burst(&all[..2], 64 * MIB));
    assert!(is_burst(&all[..1], 64 * MIB + 1));
}

#[test]
fn a_burst_goes_as_far_up_as_it_is_cheap() {
    assert_eq!(best_promotion(100, &[100, 200, 201]), Some(1));
    assert_eq!(best_promotion(100, &[201, 150]), Some(1));
    assert_eq!(best_promotion(100, &[201]), None);
    assert_eq!(best_promotion(100, &[]), None);
}
