//! Whose turn it is when a limit does not suffice for all: a line in which connections wait.
//!
//! A bucket alone would always serve whoever asks first after it has filled, which is the same one
//! each time. So who had its share goes to the end of the line when others wait, and nobody passes
//! those who wait. One who does not come back within [`PATIENCE`] of its time loses its place: its
//! stream has nothing more to move, or is gone.

use std::collections::VecDeque;

use crate::id::ConnKey;
use crate::time::{Duration, Instant};

/// How late one may be for its turn.
const PATIENCE: Duration = Duration::from_millis(50);
/// The soonest that someone is told to come back.
const SOON: Duration = Duration::from_millis(1);

/// A line of connections.
#[derive(Debug, Default)]
pub(super) struct Turns {
    line: VecDeque<(ConnKey, Instant)>,
}

impl Turns {
    /// Nobody waits before this one.
    pub(super) fn may(&mut self, now: Instant, conn: ConnKey) -> bool {
        while self.line.front().is_some_and(|(first, until)| *first != conn && *until < now) {
            self.line.pop_front();
        }
        self.line.front().is_none_or(|(first, _)| *first == conn)
    }

    /// It is to come back at `at`, and keeps its place or takes the last; returns when.
    pub(super) fn wait(&mut self, now: Instant, conn: ConnKey, at: Instant) -> Instant {
        let at = at.max(now + SOON);
        match self.line.iter_mut().find(|w| w.0 == conn) {
            Some(w) => w.1 = at + PATIENCE,
            None => self.line.push_back((conn, at + PATIENCE)),
        }
        at
    }

    /// It had its share, and goes to the end.
    pub(super) fn yield_to_others(&mut self, now: Instant, conn: ConnKey, at: Instant) -> Instant {
        self.forget(conn);
        self.wait(now, conn, at)
    }

    /// It has nothing to move.
    pub(super) fn forget(&mut self, conn: ConnKey) {
        self.line.retain(|w| w.0 != conn);
    }

    /// How many wait besides this one.
    pub(super) fn others(&self, conn: ConnKey) -> usize {
        self.line.iter().filter(|w| w.0 != conn).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_a_turn_and_latecomers_lose_theirs() {
        let [a, b, c] = [1, 2, 3].map(|i| ConnKey::new(i, 0));
        let ms = Instant::from_millis;
        let mut t = Turns::default();
        assert!(t.may(ms(0), a), "nobody waits");
        assert_eq!(t.wait(ms(0), b, ms(10)), ms(10));
        assert_eq!(t.wait(ms(0), c, ms(10)), ms(10));
        assert!(!t.may(ms(10), a) && !t.may(ms(10), c) && t.may(ms(10), b));
        assert_eq!(t.yield_to_others(ms(10), b, ms(0)), ms(11), "not before the next millisecond");
        assert!(!t.may(ms(11), b) && t.may(ms(11), c));
        assert_eq!((t.others(b), t.others(a)), (1, 2));
        assert!(!t.may(ms(60), b), "c may still come");
        assert!(t.may(ms(61), b), "now it is too late for c");
        t.forget(b);
        assert!(t.may(ms(61), a));
    }
}
