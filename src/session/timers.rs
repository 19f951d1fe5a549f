//! Deadlines in a heap. Nothing is ever removed early: each owner remembers the one time that it is
//! armed for, and a timer that fires at another, or for something that is gone, is stale and does
//! nothing. Were it to arm its owner anew, each nearer deadline would add a timer for good.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::id::{ConnKey, TorrentKey};
use crate::time::Instant;

/// Whose deadline it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    Conn(ConnKey),
    Torrent(TorrentKey),
    Dht,
    Lsd,
    Shutdown,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub(super) fn arm(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// How many are armed, stale ones included.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Forgets those whose owner is gone.
    pub(super) fn retain(&mut self, keep: impl Fn(&Timer) -> bool) {
        self.heap.retain(|Reverse((_, timer))| keep(timer));
        self.heap.shrink_to(2 * self.heap.len());
    }

    /// The next timer that is due, and when it was due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_not_early() {
        let mut t = Timers::default();
        let at = Instant::from_secs;
        t.arm(at(2), Timer::Shutdown);
        t.arm(at(1), Timer::Conn(ConnKey::new(1, 0)));
        assert_eq!(t.next(), Some(at(1)));
        assert_eq!(t.pop(Instant::from_millis(999)), None);
        assert_eq!(t.pop(at(2)), Some((at(1), Timer::Conn(ConnKey::new(1, 0)))));
        assert_eq!(t.pop(at(2)), Some((at(2), Timer::Shutdown)));
        assert_eq!(t.pop(at(9)), None);
    }
}
