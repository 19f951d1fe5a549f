//! Volumes: how fast the disk behind a download folder is, and so who writes to it.
//!
//! ```text
//!              three probes in a row are quick
//!   Unproven ─────────────────────────────────▶ Fast: the loop writes (one copy to the page cache)
//!   the helper writes ◀──────────────────────── a write took long, or a sync did
//! ```
//!
//! A write to the page cache takes microseconds until the kernel has as much unwritten data as it wants; then the
//! writer stands still for as long as the disk likes. So a disk is not trusted before it has shown how fast it is: now
//! and then the helper waits until what it wrote is on the device and takes the time (a probe). A thread that had to
//! let another run is late too: only time in which it went to sleep by itself is the disk's.
//!
//! Where a write is a round trip to another process or another machine (FUSE, network file systems) it takes as long as
//! that likes, however quick the last ones were: no such volume is ever fast.
//!
//! What it does not do: read a clock, or write.
//!
//! Invariants: each time a fast volume turns out slow it needs twice as many quick probes to be fast again, up to
//! [`PROBES_MOST`].

use super::sys::FsKind;
use std::time::Duration;

/// Bytes written between two probes.
const PROBE_EVERY: u64 = 2 << 20;
/// Quick probes in a row that make a volume fast.
const PROBES: u32 = 3;
const PROBES_MOST: u32 = 256;
/// A probe is quick at this many bytes a second, and a little: what a slower disk takes is seen in a download's rate.
const QUICK: u128 = 40 << 20;
const LITTLE: Duration = Duration::from_millis(2);
/// A write of the loop that takes so long is late; of [`WINDOW`] writes more than [`LATE_MOST`] must not be.
const LATE: Duration = Duration::from_millis(20);
const LATE_MOST: u32 = 2;
const WINDOW: u32 = 128;
/// One that takes so long is enough.
const MUCH_TOO_LATE: Duration = Duration::from_millis(50);
/// A sync that takes so long is no fast disk's, unless it had much to write.
const LATE_SYNC: Duration = Duration::from_secs(1);

/// One volume.
#[derive(Debug)]
pub(super) struct Volume {
    /// Its number.
    pub(super) dev: u64,
    /// By which the helper keeps its jobs in order; 0 when unknown.
    pub(super) home: u64,
    pub(super) kind: FsKind,
    fast: bool,
    /// It has shown that it is slow, and not yet that this is over.
    slow: bool,
    /// Quick probes that are missing for it to be fast, and how many were needed the last time.
    missing: u32,
    needed: u32,
    since_probe: u64,
    unsynced: u64,
    /// Of how many writes of this window, how many were late.
    writes: u32,
    late: u32,
}

impl Volume {
    pub(super) fn new(dev: u64, kind: FsKind) -> Self {
        let (missing, needed) = (PROBES, PROBES);
        Self {
            dev,
            home: 0,
            kind,
            fast: false,
            slow: false,
            missing,
            needed,
            since_probe: 0,
            unsynced: 0,
            writes: 0,
            late: 0,
        }
    }

    /// The loop may write to it.
    pub(super) const fn is_fast(&self) -> bool {
        self.fast && !matches!(self.kind, FsKind::NoMap)
    }

    /// It is known to be slow: what has not been looked at is not.
    pub(super) const fn has_been_slow(&self) -> bool {
        self.slow
    }

    fn is_slow(&mut self) {
        self.slow = true;
        if self.fast {
            self.needed = (self.needed * 2).min(PROBES_MOST);
        }
        (self.fast, self.missing, self.writes, self.late) = (false, self.needed, 0, 0);
    }

    /// The loop wrote to it, and went to sleep meanwhile or not.
    pub(super) fn wrote(&mut self, bytes: usize, took: Duration, slept: bool) {
        let took = if slept { took } else { Duration::ZERO };
        self.unsynced += bytes as u64;
        self.writes += 1;
        self.late += u32::from(took >= LATE);
        if took >= MUCH_TOO_LATE || self.late > LATE_MOST {
            self.is_slow();
        } else if self.writes >= WINDOW {
            (self.writes, self.late) = (0, 0);
        }
    }

    /// Whether the helper's next write, of so many bytes, shall be a probe.
    pub(super) fn wants_probe(&mut self, bytes: usize) -> bool {
        self.since_probe += bytes as u64;
        self.unsynced += bytes as u64;
        if self.fast || self.kind == FsKind::NoMap || self.since_probe < PROBE_EVERY {
            return false;
        }
        self.since_probe = 0;
        true
    }

    /// So many bytes went to the device.
    pub(super) fn probed(&mut self, bytes: usize, took: Duration) {
        if !is_quick(bytes as u64, took) {
            return self.is_slow();
        }
        self.missing = self.missing.saturating_sub(1);
        self.fast |= self.missing == 0;
        self.slow &= !self.fast;
    }

    /// A file of it was synced.
    pub(super) fn synced(&mut self, took: Duration) {
        let bytes = std::mem::take(&mut self.unsynced);
        if took >= LATE_SYNC && !is_quick(bytes, took) {
            self.is_slow();
        }
    }
}

fn is_quick(bytes: u64, took: Duration) -> bool {
    u128::from(bytes) * 1_000_000 >= QUICK * took.saturating_sub(LITTLE).as_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn proven(v: &mut Volume) -> u32 {
        let mut n = 0;
        while !v.is_fast() {
            v.probed(1 << 20, 10 * MS);
            n += 1;
        }
        n
    }

    #[test]
    fn a_volume_is_fast_once_it_has_shown_it_and_slow_at_once() {
        let mut v = Volume::new(1, FsKind::Plain);
        assert!(!v.is_fast() && !v.has_been_slow());
        v.probed(1 << 20, 10 * MS);
        v.probed(1 << 20, 10 * MS);
        v.probed(1 << 20, 100 * MS);
        assert!(v.has_been_slow());
        assert_eq!(proven(&mut v), 3, "a slow probe starts it anew");
        assert!(!v.has_been_slow());
        v.wrote(1, 60 * MS, true);
        assert!(!v.is_fast() && v.has_been_slow());
        assert_eq!(proven(&mut v), 6, "twice as many");
        v.synced(Duration::from_millis(900));
        assert!(v.is_fast());
        v.wrote(100 << 20, MS, true);
        v.synced(Duration::from_secs(2));
        assert!(v.is_fast(), "it had that much to do");
        v.synced(Duration::from_secs(1));
        assert!(!v.is_fast());
        for _ in 0..20 {
            v.wrote(1, 60 * MS, true);
            proven(&mut v);
        }
        v.wrote(1, 60 * MS, true);
        assert_eq!(proven(&mut v), PROBES_MOST);
    }

    #[test]
    fn a_late_write_now_and_then_is_forgiven() {
        let mut v = Volume::new(1, FsKind::Plain);
        proven(&mut v);
        for i in 0..10 * WINDOW {
            v.wrote(1, if i % (WINDOW / 2) == 0 { 30 * MS } else { MS }, true);
        }
        assert!(v.is_fast());
        for _ in 0..=LATE_MOST {
            v.wrote(1, 30 * MS, true);
        }
        assert!(!v.is_fast());
    }

    #[test]
    fn time_that_others_had_is_not_the_disks() {
        let mut v = Volume::new(1, FsKind::Plain);
        proven(&mut v);
        for _ in 0..WINDOW {
            v.wrote(1, Duration::from_secs(3), false);
        }
        assert!(v.is_fast());
        v.wrote(1, Duration::from_secs(3), true);
        assert!(!v.is_fast());
    }

    #[test]
    fn where_others_do_the_writing_it_is_never_the_loops() {
        let mut v = Volume::new(1, FsKind::NoMap);
        assert!((0..8).all(|_| !v.wants_probe(4 << 20)));
        (0..PROBES).for_each(|_| v.probed(4 << 20, Duration::ZERO));
        assert!(!v.is_fast());
    }

    #[test]
    fn a_fast_volume_is_not_probed() {
        let mut v = Volume::new(1, FsKind::Plain);
        assert!(!v.wants_probe(1 << 20));
        assert!(v.wants_probe(1 << 20));
        assert!(!v.wants_probe(1 << 20));
        proven(&mut v);
        assert!(!v.wants_probe(8 << 20));
    }
}
