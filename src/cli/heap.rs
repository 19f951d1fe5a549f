//! Memory of connections that are gone goes back to the system.
//!
//! glibc keeps what is freed in the middle of its heap: a crowd that asked for much and left would be remembered by
//! some megabytes for as long as the process lives. So when peers have gone it is asked, now and then, to give back
//! whole free pages. Other allocators do that by themselves, or cannot.
//!
//! # Contract of the unsafe code
//!
//! `malloc_trim` takes no pointer and returns none, may be called by any thread at any time, and changes nothing that
//! is allocated.

#![allow(unsafe_code)]

use crate::api::Stats;
use crate::net::Loop;
use crate::time::{Duration, Instant};

/// It looks at the whole heap, so not too often.
const PAUSE: Duration = Duration::from_secs(4);

/// When peers have gone since it last gave memory back.
#[derive(Debug, Default)]
pub(super) struct Heap {
    peers: usize,
    /// Peers that we closed, so far.
    closed: u64,
    due: Instant,
}

impl Heap {
    /// Gives back what can be, if that is due.
    pub(super) fn look(&mut self, now: Instant, lp: &mut Loop) {
        if self.is_due(now, &lp.session().stats(now)) {
            lp.trim();
            give_back();
        }
    }

    fn is_due(&mut self, now: Instant, stats: &Stats) -> bool {
        let closed = stats.breaches + stats.stuck + stats.evicted + stats.turned_away;
        let gone = stats.peers < self.peers || closed > self.closed;
        if gone && now < self.due {
            return false;
        }
        (self.peers, self.closed) = (stats.peers, closed);
        if gone {
            self.due = now + PAUSE;
        }
        gone
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    // SAFETY: see the module's head.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_when_peers_have_gone_and_not_too_often() {
        let mut heap = Heap::default();
        let mut stats = Stats::default();
        let mut now = Instant::from_secs(100);
        assert!(!heap.is_due(now, &stats), "nobody was there");
        stats.peers = 5;
        assert!(!heap.is_due(now, &stats), "they come");
        stats.peers = 3;
        assert!(heap.is_due(now, &stats), "two have gone");
        assert!(!heap.is_due(now, &stats), "once");
        stats.stuck = 1;
        assert!(!heap.is_due(now, &stats), "too soon");
        now += PAUSE;
        assert!(heap.is_due(now, &stats), "what was too soon is not forgotten");
        now += PAUSE;
        assert!(!heap.is_due(now, &stats));
        stats.breaches = 1;
        assert!(heap.is_due(now, &stats), "one was closed, and another has come");
    }
}
