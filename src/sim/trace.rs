//! The trace of a run: a hash over everything that happened, and a transcript when one is wanted.
//!
//! Two runs of one seed must give the same hash. The transcript is for people; it is written line by
//! line to whoever asked for the run, and costs nothing when nobody did.

use super::content::mix;
use crate::time::Instant;

/// Where the lines of a transcript go.
pub type Lines = fn(&str);

/// A hash over what happened, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    /// Things noted.
    pub(super) count: u64,
    lines: Option<Lines>,
}

impl Trace {
    pub(super) fn new(lines: Option<Lines>) -> Self {
        Self { hash: 0, count: 0, lines }
    }

    /// Something happened.
    pub(super) fn note(&mut self, what: u64, a: u64, b: u64) {
        self.count += 1;
        self.hash = mix(self.hash ^ what.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ a.rotate_left(40) ^ b);
    }

    /// A line for the transcript, made only when there is one.
    pub(super) fn say(&self, now: Instant, line: impl FnOnce() -> String) {
        if let Some(out) = self.lines {
            let us = now.as_micros();
            out(&format!("{:>6}.{:06} {}", us / 1_000_000, us % 1_000_000, line()));
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}
