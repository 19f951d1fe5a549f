//! The loop's clock: never goes back, and goes on while the machine sleeps.
//!
//! A laptop that was closed for the night finds its peers gone, its announces due and its mappings at the gateway
//! expired, at once and not eight hours of use later. Where the system has no such clock (`CLOCK_BOOTTIME`), the time
//! that it slept is not counted. The time of day is not looked at: it jumps.

use crate::time::Instant;

/// Counts from when it was made.
#[derive(Debug)]
pub(super) struct Clock(Reading);

impl Clock {
    pub(super) fn start() -> Self {
        Self(read())
    }

    /// What it shows.
    pub(super) fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(since(&self.0).as_micros()).unwrap_or(u64::MAX))
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use rustix::time::{ClockId, clock_gettime};
    use std::time::Duration;

    pub(super) type Reading = Duration;

    pub(super) fn read() -> Reading {
        let t = clock_gettime(ClockId::Boottime);
        Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
    }

    pub(super) fn since(start: &Reading) -> Duration {
        read().saturating_sub(*start)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    pub(super) type Reading = std::time::Instant;

    pub(super) fn read() -> Reading {
        Reading::now()
    }

    pub(super) fn since(start: &Reading) -> std::time::Duration {
        start.elapsed()
    }
}

use system::{Reading, read, since};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_its_start_and_never_goes_back() {
        let clock = Clock::start();
        let mut last = Instant::ZERO;
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last && now < Instant::from_secs(3600));
            last = now;
        }
    }

    /// `/proc/uptime` counts sleep too.
    #[test]
    #[cfg(target_os = "linux")]
    fn it_goes_on_while_the_machine_sleeps() {
        use std::time::Duration;
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").expect("Linux");
            Duration::from_secs_f64(text.split(' ').next().and_then(|s| s.parse().ok()).expect("a number"))
        };
        // It has two digits behind the point.
        let (before, now, after) = (uptime(), read(), uptime() + Duration::from_millis(11));
        assert!(before <= now && now <= after, "{before:?} {now:?} {after:?}");
    }
}
