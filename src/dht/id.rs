//! Node ids: distance, and which ids an address may have (BEP 42).
//!
//! ```text
//!  0                  20 21                        152    159
//!  | crc32c of address  | random                    |  r   |     r: 3 bits of the last byte go into the checksum
//! ```
//!
//! Addresses of local networks are exempt: whoever is there needs no id to do harm, and two nodes behind
//! one router have no address to tell them apart.
//!
//! [BEP 5](https://www.bittorrent.org/beps/bep_0005.html),
//! [BEP 42](https://www.bittorrent.org/beps/bep_0042.html)

use std::fmt;
use std::net::IpAddr;

use crate::crc32c::crc32c;
use crate::id::InfoHash;
use crate::tracker::http::Reach;

/// Bits of an id.
pub(super) const BITS: usize = 160;

/// A node's id, or a place in the same space of 160 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 20]);

impl NodeId {
    /// Wraps 20 raw bytes.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The id in 20 bytes; `None` of any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 20 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// How far two ids are from each other; compares as a number does.
    #[must_use]
    pub fn distance(&self, other: &Self) -> [u8; 20] {
        std::array::from_fn(|i| self.0[i] ^ other.0[i])
    }

    /// How many leading bits two ids have in common.
    pub fn common(&self, other: &Self) -> usize {
        let d = self.distance(other);
        let zeros = d.iter().take_while(|b| **b == 0).count();
        d.get(zeros).map_or(BITS, |b| 8 * zeros + b.leading_zeros() as usize)
    }

    /// Takes the first `bits` bits from `prefix`, the rest stays.
    #[must_use]
    pub fn with_prefix(mut self, prefix: &Self, bits: usize) -> Self {
        for (i, b) in self.0.iter_mut().enumerate() {
            let mask = !(0xFFu16 >> bits.saturating_sub(8 * i).min(8)) as u8;
            *b = prefix.0[i] & mask | *b & !mask;
        }
        self
    }

    /// The other bit at `bit`.
    #[must_use]
    pub fn with_bit_flipped(mut self, bit: usize) -> Self {
        self.0[bit / 8] ^= 0x80 >> (bit % 8);
        self
    }

    /// Makes of random bytes an id that `ip` may have. The last byte's low bits choose one of eight prefixes.
    #[must_use]
    pub fn for_ip(mut self, ip: IpAddr) -> Self {
        if !exempt(ip) {
            let crc = prefix_of(ip, self.0[19]);
            (self.0[0], self.0[1]) = ((crc >> 24) as u8, (crc >> 16) as u8);
            self.0[2] = (crc >> 8) as u8 & 0xF8 | self.0[2] & 7;
        }
        self
    }

    /// Whether a node at `ip` may have this id.
    pub fn fits(&self, ip: IpAddr) -> bool {
        exempt(ip) || {
            let crc = prefix_of(ip, self.0[19]);
            let ours = u32::from_be_bytes([self.0[0], self.0[1], self.0[2], 0]);
            (crc ^ ours) >> 11 == 0
        }
    }
}

/// Addresses whose ids are not looked at.
fn exempt(ip: IpAddr) -> bool {
    is_local(ip)
}

/// An address of this host or of a local network.
pub(super) fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(a) => a.is_private() || a.is_link_local() || a.is_loopback(),
        IpAddr::V6(a) => matches!(Reach::of(a.into()), Reach::Loopback | Reach::Private) || a.is_unicast_link_local(),
    }
}

fn prefix_of(ip: IpAddr, r: u8) -> u32 {
    let r = (r & 7) << 5;
    match ip.to_canonical() {
        IpAddr::V4(a) => {
            const MASK: [u8; 4] = [0x03, 0x0F, 0x3F, 0xFF];
            let mut b: [u8; 4] = std::array::from_fn(|i| a.octets()[i] & MASK[i]);
            b[0] |= r;
            crc32c(&b)
        }
        IpAddr::V6(a) => {
            const MASK: [u8; 8] = [0x01, 0x03, 0x07, 0x0F, 0x1F, 0x3F, 0x7F, 0xFF];
            let mut b: [u8; 8] = std::array::from_fn(|i| a.octets()[i] & MASK[i]);
            b[0] |= r;
            crc32c(&b)
        }
    }
}

/// What counts as one attacker's: the /24 of an IPv4 address, the /64 of an IPv6 address. Local addresses are
/// each their own.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    let ip = ip.to_canonical();
    if is_local(ip) {
        return ip;
    }
    match ip {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) & !0xFF).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) & !(u128::from(u64::MAX))).into()),
    }
}

impl From<InfoHash> for NodeId {
    fn from(hash: InfoHash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(hex: &str) -> NodeId {
        NodeId(std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()))
    }

    #[test]
    fn the_vectors_of_bep_42() {
        for (ip, r, hex) in [
            ("124.31.75.21", 1, "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401"),
            ("21.75.31.124", 86, "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256"),
            ("65.23.51.170", 22, "a5d43220bc8f112a3d426c84764f8c2a1150e616"),
            ("84.124.73.14", 65, "1b0321dd1bb1fe518101ceef99462b947a01ff41"),
            ("43.213.53.83", 90, "e56f6cbf5b7c4be0237986d5243b87aa6d51305a"),
        ] {
            let (ip, want) = (ip.parse().unwrap(), id(hex));
            assert_eq!(want.as_bytes()[19], r);
            assert!(want.fits(ip), "{ip}");
            assert!(NodeId([0xFF; 20]).with_prefix(&want, 0).for_ip(ip).fits(ip));
            // The 21st bit counts, the 22nd does not.
            assert!(!want.with_bit_flipped(20).fits(ip));
            assert!(want.with_bit_flipped(21).fits(ip));
            let mut made = [0; 20];
            made[19] = r;
            assert_eq!(NodeId(made).for_ip(ip).common(&want).min(21), 21);
            assert!(want.fits(format!("::ffff:{ip}").parse().unwrap()), "mapped");
        }
    }

    #[test]
    fn ipv6_counts_by_its_upper_half_and_local_addresses_are_exempt() {
        let (a, b): (IpAddr, IpAddr) = ("2001:db8:1:2::3".parse().unwrap(), "2001:db8:1:2:ffff::9".parse().unwrap());
        let made = NodeId([7; 20]).for_ip(a);
        assert!(made.fits(b) && !made.fits("2001:db8:1:3::3".parse().unwrap()));
        assert_eq!((network(a), network(a) == network(b)), ("2001:db8:1:2::".parse().unwrap(), true));
        for local in ["10.1.2.3", "172.31.0.1", "192.168.9.9", "169.254.1.1", "127.0.0.1", "::1", "fd77::1", "fe80::1"]
        {
            let ip: IpAddr = local.parse().unwrap();
            assert!(NodeId([9; 20]).fits(ip) && network(ip) == ip, "{local}");
            assert_eq!(NodeId([9; 20]).for_ip(ip), NodeId([9; 20]));
        }
        assert!(!NodeId([9; 20]).fits("172.32.0.1".parse().unwrap()));
    }

    #[test]
    fn distances_and_prefixes() {
        let (zero, one) = (NodeId([0; 20]), NodeId([0; 20]).with_bit_flipped(159));
        assert_eq!((zero.common(&zero), zero.common(&one), zero.common(&NodeId([0x80; 20]))), (160, 159, 0));
        let all = NodeId([0xFF; 20]);
        for bits in [0, 1, 7, 8, 9, 21, 159, 160] {
            assert_eq!(all.with_prefix(&zero, bits).common(&zero), bits);
        }
        assert!(zero.distance(&one) < zero.distance(&all));
    }
}
