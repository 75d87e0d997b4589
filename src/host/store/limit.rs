//! A limit on the rate of uploads, over all connections of a store: a token bucket.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much may leave at once after a pause, in seconds of the rate.
const BURST_SECONDS: f64 = 0.25;
/// The least that leaves at once, in bytes.
const STEP_BYTES_MIN: usize = 256;

/// A token bucket. Tokens are bytes; it may go into debt, and whoever takes from it then waits.
#[derive(Clone)]
pub(super) struct Limit {
    bytes_per_second: f64,
    level: Arc<Mutex<(f64, Instant)>>,
}

impl Limit {
    /// A full bucket that fills at `bytes_per_second`.
    pub(super) fn new(bytes_per_second: u64) -> Limit {
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let rate = bytes_per_second.max(1) as f64;
        Limit { bytes_per_second: rate, level: Arc::new(Mutex::new((rate * BURST_SECONDS, Instant::now()))) }
    }

    /// How much of `most` bytes may be handed over at once: a fraction of a second's, so that a slow line moves all the
    /// time and nobody takes its pauses for silence.
    pub(super) fn step(&self, most: usize) -> usize {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive")]
        let burst = (self.bytes_per_second * BURST_SECONDS) as usize;
        burst.clamp(STEP_BYTES_MIN.min(most), most)
    }

    /// Takes `bytes` out, and says how long to wait before taking more.
    pub(super) fn take(&self, bytes: u64) -> Option<Duration> {
        self.take_at(bytes, Instant::now())
    }

    fn take_at(&self, bytes: u64, now: Instant) -> Option<Duration> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(level.1).as_secs_f64();
        let full = self.bytes_per_second * BURST_SECONDS;
        #[allow(clippy::cast_precision_loss, reason = "a few kilobytes at a time")]
        let left = (level.0 + since * self.bytes_per_second).min(full) - bytes as f64;
        *level = (left, now);
        (left < 0.0).then(|| Duration::from_secs_f64(-left / self.bytes_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_in_any_second_is_the_rate_and_a_burst() {
        let limit = Limit::new(1000);
        let begun = Instant::now();
        let (mut now, mut sent) = (begun, 0);
        while now < begun + Duration::from_secs(60) {
            let wait = limit.take_at(100, now);
            sent += 100;
            // Nobody else takes, so the debt is paid when the wait is over.
            now += wait.unwrap_or_default();
        }
        assert!((60_000..=60_400).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_saves_no_more_than_a_burst() {
        let limit = Limit::new(1000);
        let later = Instant::now() + Duration::from_secs(3600);
        assert_eq!(limit.take_at(250, later), None);
        assert_eq!(limit.take_at(100, later), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_step_is_short_whatever_the_rate() {
        for rate in [1 << 10, 64 << 10, 1 << 30] {
            let limit = Limit::new(rate);
            let step = limit.step(64 << 10);
            assert!((1..=64 << 10).contains(&step));
            let full = Instant::now();
            limit.take_at(step as u64, full);
            assert!(limit.take_at(step as u64, full).unwrap_or_default() <= Duration::from_millis(500), "{rate}");
        }
        assert_eq!(Limit::new(1 << 10).step(10), 10);
    }

    #[test]
    fn connections_share_it() {
        let (one, now) = (Limit::new(1000), Instant::now());
        let other = one.clone();
        one.take_at(250, now);
        assert_eq!(other.take_at(500, now), Some(Duration::from_millis(500)));
    }
}
