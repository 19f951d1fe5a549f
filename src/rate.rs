//! How fast, and how fast it may be: moving averages and token buckets.
//!
//! Both are brought up to date when they are asked, from the time handed in; there is no timer and
//! no thread behind them. All figures are bytes and bytes per second. Integers only, so that a run
//! is the same on every machine.
//!
//! **[`Rate`]** keeps one sum in which bytes fade: after each 64th of the time constant a 64th of
//! the sum is gone, which is `exp(-t / tau)` to within a percent. The rate is the sum divided by
//! the time constant; a young rate is divided by the time it had (a tenth of the time constant at
//! least), so that it needs no warm-up.
//!
//! **[`Bucket`]** holds tokens of one byte. It fills at its rate up to its burst; what a system call
//! really moved is taken afterwards, and may bring it below zero by one read:
//!
//! ```text
//!   burst  ----------------        = max(rate / 4, 32 KiB)
//!   level  ~~~~~~~~                 available = max(level, 0)
//!   0      ----------------
//!   debt   (one read at most)       paid before anything is available again
//! ```
//!
//! A rate of zero is a bucket that never fills: its burst can be spent once, then nothing moves.
//! Neither type shares out anything between several takers; the session does that.
//!
//! Invariants: a rate is never above what came in divided by a tenth of its time constant; a
//! bucket's level is never above its burst; time that goes backwards changes nothing.

use crate::time::{Duration, Instant};

/// Parts of the time constant in which the sum fades.
const STEPS: u64 = 64;
/// One as a 32-bit fixed-point fraction.
const ONE: u64 = 1 << 32;

/// `(63/64)^n` as a 32-bit fraction.
fn fade(mut n: u64) -> u64 {
    // Past this it is below one in 2^32 anyway.
    if n > STEPS * 23 {
        return 0;
    }
    let (mut result, mut base) = (ONE, ONE - ONE / STEPS);
    while n > 0 {
        if n % 2 == 1 {
            result = (result * base) >> 32;
        }
        base = (base * base) >> 32;
        n /= 2;
    }
    result
}

/// A moving average of bytes per second.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Microseconds in a 64th of the time constant.
    step: u64,
    /// Bytes, faded, in 256ths so that slow rates do not round away.
    sum: u64,
    /// Up to when the sum is faded.
    at: Instant,
    /// When the first byte came after a silence.
    since: Instant,
}

impl Rate {
    /// An average in which bytes fade with this time constant (at least 64 us).
    pub const fn new(time_constant: Duration) -> Self {
        let us = time_constant.as_micros();
        let step = if us > u64::MAX as u128 { u64::MAX / STEPS } else { us as u64 / STEPS };
        Self { step: if step == 0 { 1 } else { step }, sum: 0, at: Instant::ZERO, since: Instant::ZERO }
    }

    /// Counts bytes that moved now.
    pub fn add(&mut self, now: Instant, bytes: u64) {
        self.advance(now);
        if self.sum == 0 && bytes > 0 {
            self.at = now;
            self.since = now;
        }
        self.sum = self.sum.saturating_add(bytes.saturating_mul(256));
    }

    /// Bytes per second.
    pub fn get(&self, now: Instant) -> u64 {
        let mut faded = *self;
        faded.advance(now);
        // The span, in microseconds, whose bytes the sum would hold at a steady rate: the faded steps
        // since the start, and as much of the present step as has passed.
        let age = u64::try_from(now.since(self.since).as_micros()).unwrap_or(u64::MAX);
        let whole = u128::from(self.step) * u128::from(STEPS - 1) * u128::from(ONE - fade(age / self.step));
        let span = (whole >> 32) + u128::from(age % self.step);
        let span = span.max(u128::from(self.step) * u128::from(STEPS) / 10);
        u64::try_from(u128::from(faded.sum) * 1_000_000 / 256 / span.max(1)).unwrap_or(u64::MAX)
    }

    fn advance(&mut self, now: Instant) {
        let steps = now.since(self.at).as_micros() as u64 / self.step;
        if steps > 0 {
            self.sum = ((u128::from(self.sum) * u128::from(fade(steps))) >> 32) as u64;
            self.at = Instant::from_micros(self.at.as_micros() + steps * self.step);
        }
    }
}

impl Default for Rate {
    /// A time constant of 10 seconds.
    fn default() -> Self {
        Self::new(Duration::from_secs(10))
    }
}

/// Smallest burst: one read of two blocks, however slow the bucket.
const LEAST_BURST: u64 = 32 * 1024;

/// A token bucket: how many bytes may move now.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Option<u64>,
    /// Millionths of a byte, so that any rate fills exactly; negative is debt.
    level: i128,
    at: Instant,
}

impl Bucket {
    /// A full bucket of so many bytes per second; `None` is unlimited.
    pub fn new(rate: Option<u64>) -> Self {
        let mut bucket = Self { rate, level: 0, at: Instant::ZERO };
        bucket.level = bucket.burst();
        bucket
    }

    /// Changes the rate. A debt stays, a surplus above the new burst is lost.
    pub fn set_rate(&mut self, rate: Option<u64>) {
        if self.rate.is_none() {
            self.level = 0;
        }
        self.rate = rate;
        self.level = self.level.min(self.burst());
    }

    /// The rate it fills at; `None` is unlimited.
    pub const fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Bytes that may move now; `u64::MAX` when unlimited.
    pub fn available(&self, now: Instant) -> u64 {
        match self.rate {
            None => u64::MAX,
            Some(_) => u64::try_from(self.level_at(now).max(0) / MICRO).unwrap_or(u64::MAX),
        }
    }

    /// Takes what did move, even if it is more than was available.
    pub fn take(&mut self, now: Instant, n: u64) {
        if self.rate.is_some() {
            self.level = self.level_at(now) - i128::from(n) * MICRO;
        }
        self.at = self.at.max(now);
    }

    /// The earliest time at which `n` bytes (or the burst, if that is less) are available.
    pub fn ready_at(&self, now: Instant, n: u64) -> Instant {
        let Some(rate) = self.rate else { return now };
        let lacking = (i128::from(n) * MICRO).min(self.burst()) - self.level_at(now);
        if lacking <= 0 {
            return now;
        }
        if rate == 0 {
            return Instant::FAR;
        }
        let us = (lacking + i128::from(rate) - 1) / i128::from(rate);
        now + Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
    }

    fn burst(&self) -> i128 {
        i128::from((self.rate.unwrap_or(0) / 4).max(LEAST_BURST)) * MICRO
    }

    fn level_at(&self, now: Instant) -> i128 {
        let us = now.since(self.at).as_micros() as i128;
        (self.level + us * i128::from(self.rate.unwrap_or(0))).min(self.burst())
    }
}

/// Millionths in a byte: a rate in bytes per second is millionths per microsecond.
const MICRO: i128 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn a_steady_stream_reads_as_its_rate_from_the_second_second_on() {
        for gap in [1u64, 10, 100, 700] {
            let mut r = Rate::default();
            for t in 0..60_000 / gap {
                r.add(ms(5000 + t * gap), 100 * gap);
                if t * gap > 2000 {
                    let got = r.get(ms(5000 + t * gap));
                    let slack = 500 + 100_000 * gap / (t * gap).min(6_000);
                    assert!(got.abs_diff(100_000) < slack, "{got} after {} ms in steps of {gap}", t * gap);
                }
            }
        }
    }

    #[test]
    fn silence_fades_it_by_the_time_constant() {
        let mut r = Rate::default();
        for t in 0..1000 {
            r.add(ms(t * 100), 10_000);
        }
        let then = r.get(ms(100_000));
        let after = r.get(ms(110_000));
        assert!((350..=380).contains(&(after * 1000 / then)), "{after} of {then}: 1/e is .368");
        assert_eq!(r.get(ms(600_000)), 0);
        // After a long silence it starts afresh instead of averaging with the zeros.
        r.add(ms(700_000), 50_000);
        r.add(ms(700_500), 50_000);
        assert!(r.get(ms(701_000)) > 85_000);
    }

    #[test]
    fn one_burst_is_not_read_as_more_than_a_tenth_of_the_time_constant_allows() {
        let mut r = Rate::default();
        r.add(ms(10), 1_000_000);
        assert!(r.get(ms(10)) <= 1_000_000);
        assert_eq!(Rate::default().get(ms(10)), 0);
    }

    #[test]
    fn a_bucket_gives_its_rate_and_no_more() {
        let mut b = Bucket::new(Some(100_000));
        let start = Instant::from_secs(1);
        assert_eq!(b.available(start), 32 * 1024, "a slow bucket still has room for a read");
        let mut sent = 0;
        for us in (0..10_000_000).step_by(333) {
            let now = start + Duration::from_micros(us);
            let n = b.available(now).min(1448);
            b.take(now, n);
            sent += n;
        }
        assert!((1_032_000..=1_033_000).contains(&sent), "{sent}: ten seconds and one burst");
    }

    #[test]
    fn debt_is_paid_first_and_the_deadline_is_exact() {
        let mut b = Bucket::new(Some(1_000_000));
        assert_eq!(b.available(ms(0)), 250_000);
        b.take(ms(0), 270_000);
        assert_eq!(b.available(ms(20)), 0);
        assert_eq!(b.ready_at(ms(0), 16_384), Instant::from_micros(36_384));
        assert_eq!(b.available(Instant::from_micros(36_383)), 16_383);
        assert_eq!(b.available(Instant::from_micros(36_384)), 16_384);
        assert_eq!(b.ready_at(ms(0), 10_000_000), ms(270), "more than the burst can only mean the burst");
        assert_eq!(b.available(ms(9_999)), 250_000);
    }

    #[test]
    fn unlimited_and_zero() {
        let mut b = Bucket::new(None);
        b.take(ms(1), 1 << 40);
        assert_eq!((b.available(ms(1)), b.ready_at(ms(1), 1 << 40)), (u64::MAX, ms(1)));
        b.set_rate(Some(0));
        assert_eq!((b.available(ms(9000)), b.ready_at(ms(1), 1)), (0, Instant::FAR));
        b.set_rate(Some(1000));
        assert_eq!(b.ready_at(ms(9000), 0), ms(9000));
    }

    #[test]
    fn time_going_backwards_changes_nothing() {
        let mut b = Bucket::new(Some(1000));
        b.take(ms(1000), 32 * 1024);
        b.take(ms(500), 0);
        assert_eq!(b.available(ms(1000)), 0);
        assert_eq!(b.available(ms(2000)), 1000);
    }
}
