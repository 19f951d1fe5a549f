//! Time as the core sees it: microseconds since the driver started, handed in as an argument.
//!
//! The core never reads a clock. A driver reads one monotonic clock once a turn and passes it on;
//! the simulator passes whatever it likes.

use std::ops::{Add, AddAssign, Sub};
pub use std::time::Duration;

/// A point in time: microseconds since an arbitrary start, never going back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The driver's start.
    pub const ZERO: Self = Self(0);
    /// Later than any deadline.
    pub const FAR: Self = Self(u64::MAX);

    /// A time from microseconds since the start.
    pub const fn from_micros(us: u64) -> Self {
        Self(us)
    }
    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }
    /// A time from milliseconds since the start.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1000)
    }
    /// A time from whole seconds since the start.
    pub const fn from_secs(s: u64) -> Self {
        Self(s * 1_000_000)
    }
    /// The whole second at or before it. What may come a little early is gathered there: one wake-up serves all of it.
    pub const fn floor_second(self) -> Self {
        Self(self.0 - self.0 % 1_000_000)
    }
    /// The whole second at or after it, for what may come a little late.
    pub const fn ceil_second(self) -> Self {
        Self(self.0.saturating_add(999_999)).floor_second()
    }
    /// The time passed since `earlier`; zero when that lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}
impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}
impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// The earlier of two deadlines, either of which may be absent.
pub fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let t = Instant::from_secs(3);
        assert_eq!(t - Instant::from_secs(5), Duration::ZERO);
        assert_eq!(t + Duration::MAX, Instant::FAR);
        assert_eq!(earlier(None, Some(t)), Some(t));
    }

    #[test]
    fn whole_seconds() {
        let us = Instant::from_micros;
        for (at, floor, ceil) in [(0, 0, 0), (1, 0, 1), (999_999, 0, 1), (1_000_000, 1, 1), (1_000_001, 1, 2)] {
            assert_eq!(us(at).floor_second(), Instant::from_secs(floor), "{at}");
            assert_eq!(us(at).ceil_second(), Instant::from_secs(ceil), "{at}");
        }
        assert!(Instant::FAR.ceil_second() > us(u64::MAX - 1_000_000), "it does not wrap");
    }
}
