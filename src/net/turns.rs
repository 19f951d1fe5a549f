//! How long the loop's turns take: a histogram by powers of two.
//!
//! A turn counts from the end of its wait to its end: for that long nobody else is served. A bucket
//! holds durations of the same number of binary digits in microseconds, so a quantile is at most twice
//! too large; the longest turn is exact.

use std::time::Duration;

/// 1 us to 67 s and above.
const BUCKETS: usize = 27;

/// Durations of turns.
#[derive(Clone, Debug, Default)]
pub struct TurnTimes {
    buckets: [u64; BUCKETS],
    count: u64,
    longest: Duration,
}

impl TurnTimes {
    pub(super) fn add(&mut self, took: Duration) {
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let bucket = (u32::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    /// Turns by their length: entry *n* counts those of less than 2^*n* microseconds that no entry before it counts.
    pub fn buckets(&self) -> &[u64] {
        let used = self.buckets.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        &self.buckets[..used]
    }

    /// Turns taken.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest of them.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// What this share of all turns (0 to 1) did not exceed, rounded up to a power of two.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return Duration::from_micros(1 << i).min(self.longest);
            }
        }
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_twice_too_large() {
        let mut t = TurnTimes::default();
        assert_eq!((t.count(), t.quantile(0.5)), (0, Duration::ZERO));
        (0..999).for_each(|_| t.add(Duration::from_micros(100)));
        t.add(Duration::from_millis(50));
        assert_eq!(t.quantile(0.5), Duration::from_micros(128));
        assert_eq!(t.quantile(0.999), Duration::from_micros(128));
        assert_eq!(t.quantile(0.9999), Duration::from_millis(50));
        assert_eq!((t.count(), t.longest()), (1000, Duration::from_millis(50)));
        assert_eq!((t.buckets()[7], t.buckets()[16], t.buckets().len()), (999, 1, 17));
        t.add(Duration::from_secs(9999));
        assert_eq!(t.quantile(1.0), Duration::from_secs(1 << 26).min(Duration::from_micros(1 << 26)));
    }
}
