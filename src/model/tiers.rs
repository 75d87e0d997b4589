//! Retention classes: how long a tier's objects must live so that what it promises to keep can be restored.

/// One retention class. Tiers are kept in a list from coarse to fine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The word in keys and commits.
    pub name: String,
    /// How long a snapshot of this tier can be restored, in hours.
    pub keep_hours: u64,
    /// The longest a calendar period of this tier can be, in days: 366, 31, 7, 1; 0 for the finest.
    pub period_days: u64,
}

/// How long a secrets bundle is kept when nothing else is said, in days.
pub const SECRETS_KEEP_DAYS: u64 = 90;

/// The tiers when the configuration names none.
pub fn defaults() -> Vec<Tier> {
    [("monthly", 365 * 24, 31), ("weekly", 12 * 7 * 24, 7), ("daily", 30 * 24, 1), ("hourly", 24, 0)]
        .map(|(name, keep_hours, period_days)| Tier { name: name.into(), keep_hours, period_days })
        .to_vec()
}

/// How long the store must hold the objects of tier `index`, in days.
///
/// From the finest up, `life(t) = period of the next coarser tier + max(keep(t), life of the next finer tier)`;
/// for the coarsest `max(keep, its period + life of the next finer tier)`.
pub fn life_days(tiers: &[Tier], index: usize) -> u64 {
    let keep = tiers[index].keep_hours.div_ceil(24);
    let finer = if index + 1 < tiers.len() { life_days(tiers, index + 1) } else { 0 };
    match index.checked_sub(1) {
        Some(coarser) => tiers[coarser].period_days + keep.max(finer),
        None if index + 1 < tiers.len() => keep.max(tiers[0].period_days + finer),
        None => keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_lives() {
        let tiers = defaults();
        let lives: Vec<u64> = (0..tiers.len()).map(|i| life_days(&tiers, i)).collect();
        assert_eq!(lives, [365, 115, 37, 2]);
    }
}
