//! Addresses nothing is to be had to do with: a list of ranges, and the three forms such lists are published in.
//!
//! ```text
//! P2P    Some company:1.2.3.0-1.2.3.255                      a name, which may hold colons, and an IPv4 range
//! DAT    001.002.003.000 - 001.002.003.255 , 100 , Some text  refused if the level in the middle is at most 127
//! CIDR   1.2.3.0/24      2001:db8::/32      2001:db8::1       also a range without anything else: 1.2.3.4-1.2.3.9
//! ```
//!
//! The forms may be mixed, line by line. Empty lines and those that begin with `#`, `;` or `//` are passed over, as
//! is what follows a `#` or `;` behind an address. Leading zeros in IPv4 numbers mean nothing: DAT pads
//! with them. The whole may be compressed with gzip.
//!
//! A line that is none of these is reported with its number and left out; when more lines are bad than good, it
//! is not such a list. Ranges are kept sorted and merged, 8 bytes for an IPv4 one, 32 for an IPv6 one, and
//! a question costs a binary search.
//!
//! Invariants: in each family the ranges are in order, apart from each other by at least one address. IPv4
//! addresses in IPv6 clothes (`::ffff:a.b.c.d`) are the IPv4 addresses.
//!
//! Not here: reading files, and what is done about an address that is listed (`session`).

mod parse;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::config::limits;
use crate::http::{GzipError, gunzip};

/// What gzip begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Bad lines that are described; more are counted.
pub const BAD_SHOWN: usize = 10;

/// Ranges of addresses. The default is empty: nobody is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocklist {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

/// A line that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// A list that was read, and what of it could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The list.
    pub list: Blocklist,
    /// The first [`BAD_SHOWN`] bad lines.
    pub bad: Vec<BadLine>,
    /// All bad lines.
    pub bad_count: usize,
}

/// Why a file is no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlocklistError {
    /// It is compressed, and cannot be decompressed.
    Gzip(GzipError),
    /// It is larger than [`limits::BLOCKLIST`].
    TooLong(usize),
    /// It has more ranges than [`limits::BLOCKLIST_RANGES`].
    TooMany,
    /// More lines are bad than good: so many of each, and the first bad one.
    NoList {
        /// Lines that hold an address.
        good: usize,
        /// Lines that cannot be read.
        bad: usize,
        /// The first of these.
        first: BadLine,
    },
}

impl fmt::Display for BlocklistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gzip(e) => write!(f, "gzip: {e}"),
            Self::TooLong(n) => write!(f, "{n} bytes, at most {} allowed", limits::BLOCKLIST),
            Self::TooMany => write!(f, "more than {} ranges", limits::BLOCKLIST_RANGES),
            Self::NoList { good, bad, first } => {
                write!(f, "no list of addresses ({bad} bad lines, {good} good ones): {first}")
            }
        }
    }
}

impl std::error::Error for BlocklistError {}

impl Blocklist {
    /// Reads a list in any of its forms, plain or in gzip.
    ///
    /// # Errors
    /// When it is too large, or is no such list; see [`BlocklistError`].
    pub fn parse(file: &[u8]) -> Result<Parsed, BlocklistError> {
        if file.starts_with(&GZIP) {
            let text = gunzip(file, limits::BLOCKLIST).map_err(BlocklistError::Gzip)?;
            return parse::lines(&text, limits::BLOCKLIST_RANGES);
        }
        if file.len() > limits::BLOCKLIST {
            return Err(BlocklistError::TooLong(file.len()));
        }
        parse::lines(file, limits::BLOCKLIST_RANGES)
    }

    /// From ranges, both ends included. Those whose ends differ in family, or come in the wrong order, are left out.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Self {
        let mut list = Self::default();
        for (from, to) in ranges {
            list.push(from, to);
        }
        list.settle();
        list
    }

    /// Adds all of another list.
    pub fn join(&mut self, other: Self) {
        self.v4.extend(other.v4);
        self.v6.extend(other.v6);
        self.settle();
    }

    /// Whether an address is listed.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => holds(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => holds(&self.v6, u128::from(ip)),
        }
    }

    /// Nobody is listed.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Ranges of both families, merged.
    pub fn ranges(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Adds a range, not in order yet. False when it is none.
    fn push(&mut self, from: IpAddr, to: IpAddr) -> bool {
        if let (IpAddr::V4(a), IpAddr::V4(b)) = (from.to_canonical(), to.to_canonical()) {
            if a <= b {
                self.v4.push((a.into(), b.into()));
            }
            return a <= b;
        }
        match (from, to) {
            (IpAddr::V6(a), IpAddr::V6(b)) if a <= b => {
                // The IPv4 addresses in the middle of it are asked for as such.
                let (first, last) = (Ipv6Addr::from(MAPPED), Ipv6Addr::from(MAPPED | u128::from(u32::MAX)));
                if a <= last && b >= first {
                    let low = u128::from(a.max(first)) as u32;
                    let high = u128::from(b.min(last)) as u32;
                    self.v4.push((low, high));
                }
                self.v6.push((a.into(), b.into()));
            }
            _ => return false,
        }
        true
    }

    /// Puts the ranges in order.
    fn settle(&mut self) {
        merge(&mut self.v4, |n| n.checked_add(1));
        merge(&mut self.v6, |n| n.checked_add(1));
    }
}

/// `::ffff:0.0.0.0`.
const MAPPED: u128 = 0xffff << 32;

fn holds<T: Ord + Copy>(ranges: &[(T, T)], at: T) -> bool {
    let behind = ranges.partition_point(|(from, _)| *from <= at);
    behind.checked_sub(1).is_some_and(|i| at <= ranges[i].1)
}

/// Sorts, and joins what overlaps or touches.
fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>, next: impl Fn(T) -> Option<T>) {
    ranges.sort_unstable();
    ranges.dedup_by(|b, a| {
        let touches = next(a.1).is_none_or(|n| b.0 <= n);
        if touches {
            a.1 = a.1.max(b.1);
        }
        touches
    });
    ranges.shrink_to_fit();
}

#[cfg(test)]
mod tests;
