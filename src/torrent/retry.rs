//! After a disk error: when a torrent tries again, and what is told of it.
//!
//! ```text
//!   fails ─▶ told, stopped ─5 s─▶ opens its files, goes on ─┬─ a piece is written, or all is there ─▶ told, forgotten
//!               ▲                                           │
//!               └──── 10 s, 20 s, 40 s, 50 s, 50 s ... ◀────┴─ fails: told only if it is another error
//! ```
//!
//! A full disk has space again, a cable is back in its place, a volume is mounted again: nobody tells us, so it is
//! tried. Not so often that a dying disk is kept busy, and often enough that nobody has to do it by hand.

use crate::time::{Duration, Instant};

/// The first pause; each is twice as long as the one before, up to the longest.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(50);

/// A torrent's trouble with its files.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    pause: Option<Duration>,
    told: Option<String>,
}

impl Retry {
    /// It has failed. True when that is news.
    pub(super) fn failed(&mut self, now: Instant, error: &str) -> bool {
        let pause = self.pause.map_or(FIRST, |p| (p * 2).min(LONGEST));
        (self.pause, self.at) = (Some(pause), Some(now + pause));
        let news = self.told.as_deref() != Some(error);
        if news {
            self.told = Some(error.to_owned());
        }
        news
    }

    /// When it tries again.
    pub(super) const fn at(&self) -> Option<Instant> {
        self.at
    }

    /// It sets out, or is told to stop: until it fails again there is nothing to wait for.
    pub(super) fn disarm(&mut self) {
        self.at = None;
    }

    /// Its files do what they should. True when they did not before.
    pub(super) fn works(&mut self) -> bool {
        let was = self.told.is_some();
        *self = Self::default();
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_less_than_a_minute_and_an_error_is_told_once() {
        let (mut r, now) = (Retry::default(), Instant::from_micros(7));
        assert!(!r.works());
        let pauses = (0..6).map(|i| {
            assert_eq!(r.failed(now, "full"), i == 0);
            (r.at().expect("it tries again") - now).as_secs()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), [5, 10, 20, 40, 50, 50]);
        assert!(r.failed(now, "gone"));
        r.disarm();
        assert_eq!(r.at(), None);
        assert!(r.works() && !r.works());
        assert!(r.failed(now, "gone"), "it had worked meanwhile");
        assert_eq!(r.at(), Some(now + FIRST));
    }
}
