//! How much the node sends, and how often it lets itself be asked.
//!
//! [`Budget`] is a token bucket of bytes: in any second no more than [`limits::DHT_UP`] leave (2,000 at once
//! and 6,000 a second). Answers are given while half of it is there, so that strangers cannot use up what our own
//! searches need. [`Guard`] counts queries by sender: more than 5 a second for ten seconds and it is
//! deaf to that host for five minutes. It remembers [`SLOTS`] hosts, the ones heard last.

use std::net::IpAddr;

use super::id::is_local;
use crate::config::limits;
use crate::time::{Duration, Instant};

const BURST: u64 = limits::DHT_UP / 4;
const RATE: u64 = limits::DHT_UP - BURST;
/// Headers of IP and UDP are sent too, but not counted: the limit is about what we say.
const _: () = assert!(BURST as usize >= limits::DHT_DATAGRAM_OUT);

/// Bytes that may be sent.
#[derive(Debug)]
pub(super) struct Budget {
    /// Millionths of a byte.
    level: u64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { level: BURST * 1_000_000, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let us = (now - self.at).as_micros() as u64;
        self.at = self.at.max(now);
        self.level = us.saturating_mul(RATE).saturating_add(self.level).min(BURST * 1_000_000);
    }

    /// Takes `n` bytes if they are there and `rest` bytes besides.
    pub(super) fn take(&mut self, now: Instant, n: usize, rest: u64) -> bool {
        self.fill(now);
        let cost = n as u64 * 1_000_000;
        if self.level < cost + rest * 1_000_000 {
            return false;
        }
        self.level -= cost;
        true
    }

    /// As [`Budget::take`], for an answer.
    pub(super) fn take_for_answer(&mut self, now: Instant, n: usize) -> bool {
        self.take(now, n, if n as u64 > BURST / 2 { 0 } else { BURST / 2 })
    }

    /// When `n` bytes will be there.
    pub(super) fn ready_at(&self, n: usize) -> Instant {
        let missing = (n as u64 * 1_000_000).saturating_sub(self.level);
        self.at + Duration::from_micros(missing.div_ceil(RATE))
    }
}

/// Hosts remembered.
const SLOTS: usize = 64;
const WINDOW: Duration = Duration::from_secs(10);
const QUERIES: u32 = 50;
const DEAF: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Asker {
    ip: IpAddr,
    since: Instant,
    last: Instant,
    queries: u32,
    deaf_until: Instant,
}

/// Who asks how often.
#[derive(Debug, Default)]
pub(super) struct Guard {
    askers: Vec<Asker>,
}

impl Guard {
    /// Whether a query of this host is to be looked at.
    pub(super) fn admits(&mut self, now: Instant, ip: IpAddr) -> bool {
        let Some(a) = self.askers.iter_mut().find(|a| a.ip == ip) else {
            let new = Asker { ip, since: now, last: now, queries: 1, deaf_until: Instant::ZERO };
            if self.askers.len() < SLOTS {
                self.askers.push(new);
            } else if let Some(old) = self.askers.iter_mut().min_by_key(|a| (a.deaf_until > now, a.last)) {
                *old = new;
            }
            return true;
        };
        a.last = now;
        if a.deaf_until > now {
            return false;
        }
        if now - a.since >= WINDOW {
            (a.since, a.queries) = (now, 0);
        }
        a.queries += 1;
        // On a local network many nodes may share an address.
        if a.queries > if is_local(ip) { 10 * QUERIES } else { QUERIES } {
            a.deaf_until = now + DEAF;
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_takes_more_than_the_limit() {
        let mut b = Budget::new(Instant::ZERO);
        let mut sent: Vec<(u64, usize)> = Vec::new();
        for ms in 0..10_000 {
            let n = 80 + ms as usize * 7 % 200;
            if b.take(Instant::from_millis(ms), n, 0) {
                sent.push((ms, n));
            } else {
                let at = b.ready_at(n);
                assert!(at > Instant::from_millis(ms) && at <= Instant::from_millis(ms + 50));
            }
        }
        for start in 0..9_000 {
            let second: usize = sent.iter().filter(|(ms, _)| (start..start + 1000).contains(ms)).map(|(_, n)| n).sum();
            assert!(second as u64 <= limits::DHT_UP, "{second} from {start} ms on");
        }
        let all: usize = sent.iter().map(|(_, n)| n).sum();
        assert!(all as u64 >= RATE * 99 / 10, "{all}: and it does get that");
    }

    #[test]
    fn answers_leave_something_for_questions() {
        let mut b = Budget::new(Instant::ZERO);
        let mut n = 0;
        while b.take_for_answer(Instant::ZERO, 100) {
            n += 100;
        }
        assert_eq!(n, BURST / 2);
        assert!(b.take(Instant::ZERO, 500, 0));
    }

    #[test]
    fn who_asks_too_often_is_not_heard_for_five_minutes() {
        let mut g = Guard::default();
        let (a, b): (IpAddr, IpAddr) = ("9.9.9.9".parse().unwrap(), "9.9.9.8".parse().unwrap());
        let ms = |i: u64| Instant::from_millis(i);
        let heard = (0..1000).filter(|i| g.admits(ms(i * 10), a)).count();
        assert_eq!(heard, 50);
        assert!(g.admits(ms(9_990), b) && !g.admits(ms(200_000), a));
        assert!(g.admits(ms(311_000), a));
        let slow = (0..1000).filter(|i| g.admits(ms(400_000 + i * 250), b)).count();
        assert_eq!(slow, 1000, "four a second are fine");
        for i in 0..1000u32 {
            assert!(g.admits(ms(700_000), IpAddr::from(i.to_be_bytes())));
        }
        assert_eq!(g.askers.len(), SLOTS);
    }
}
