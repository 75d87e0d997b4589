//! Retention classes: how long a tier's objects must live so that what it promises to keep can be restored.

use super::config::Tier;

/// The longest that a calendar period of a tier can be, in days; 0 where periods are shorter than a day.
fn period_days(name: &str) -> u64 {
    match name {
        "yearly" => 366,
        "monthly" => 31,
        "weekly" => 7,
        "daily" => 1,
        _ => 0,
    }
}

/// How long the store must hold the objects of tier `index`, in days.
///
/// From the finest up, `life(t) = period of the next coarser tier + max(keep(t), life of the next finer tier)`;
/// for the coarsest `max(keep, its period + life of the next finer tier)`.
pub fn life_days(tiers: &[Tier], index: usize) -> u64 {
    let keep = u64::from(tiers[index].keep_hours.div_ceil(24));
    let finer = if index + 1 < tiers.len() { life_days(tiers, index + 1) } else { 0 };
    match index.checked_sub(1) {
        Some(coarser) => period_days(&tiers[coarser].name) + keep.max(finer),
        None if index + 1 < tiers.len() => keep.max(period_days(&tiers[0].name) + finer),
        None => keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_lives() {
        let tiers = crate::model::config::default_tiers();
        let lives: Vec<u64> = (0..tiers.len()).map(|i| life_days(&tiers, i)).collect();
        assert_eq!(lives, [365, 115, 37, 2]);
    }
}
