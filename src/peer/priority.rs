//! The order in which peers are kept when there are too many: canonical priority (BEP 40).
//!
//! Both ends of a connection come to the same number, nobody can choose it but by his address, and it says
//! nothing of how good a peer is: kept by it, a swarm whose members are all full is a random graph.
//!
//! ```text
//! crc32c(the smaller masked address, the larger)   addresses that differ early keep 2 bytes (IPv6: 6) whole,
//!                                                  others one more than they have in common; of the rest
//!                                                  every other bit
//! crc32c(the smaller port, the larger)             of one and the same address
//! ```
//!
//! [BEP 40](https://www.bittorrent.org/beps/bep_0040.html)

use std::net::{IpAddr, SocketAddr};

use crate::crc32c::crc32c;

/// The priority of a connection between two addresses, the larger the better; `None` when they are not of one family.
pub(crate) fn canonical(a: SocketAddr, b: SocketAddr) -> Option<u32> {
    match (a.ip().to_canonical(), b.ip().to_canonical()) {
        (x, y) if x == y => {
            let (low, high) = (a.port().min(b.port()), a.port().max(b.port()));
            Some(crc32c(&[low.to_be_bytes(), high.to_be_bytes()].concat()))
        }
        (IpAddr::V4(x), IpAddr::V4(y)) => Some(of_bytes(x.octets(), y.octets(), 2)),
        (IpAddr::V6(x), IpAddr::V6(y)) => Some(of_bytes(x.octets(), y.octets(), 6)),
        _ => None,
    }
}

fn of_bytes<const N: usize>(mut x: [u8; N], mut y: [u8; N], least: usize) -> u32 {
    let common = x.iter().zip(&y).take_while(|(a, b)| a == b).count();
    let whole = least.max(common + 1).min(N);
    for b in x[whole..].iter_mut().chain(&mut y[whole..]) {
        *b &= 0x55;
    }
    let (low, high) = (x.min(y), x.max(y));
    crc32c(&[low, high].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(a: &str, b: &str) -> u32 {
        let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(canonical(a, b), canonical(b, a), "both ends agree");
        canonical(a, b).expect("one family")
    }

    #[test]
    fn vectors_of_the_bep() {
        assert_eq!(of("123.213.32.10:1", "98.76.54.32:2"), 0xEC2D_7224);
        assert_eq!(of("123.213.32.10:1", "123.213.32.234:2"), 0x9956_8189);
        assert_eq!(of("[::ffff:123.213.32.10]:1", "98.76.54.32:2"), 0xEC2D_7224);
    }

    #[test]
    fn what_one_network_can_change_at_will_counts_half() {
        // Every other bit behind the second byte is nothing, unless the two are neighbours.
        assert_eq!(of("123.213.32.10:1", "98.76.54.32:2"), of("123.213.32.10:1", "98.76.54.34:2"));
        assert_ne!(of("123.213.32.10:1", "98.76.54.32:2"), of("123.213.32.10:1", "98.76.54.33:2"));
        assert_ne!(of("123.213.32.10:1", "123.213.54.32:2"), of("123.213.32.10:1", "123.213.56.32:2"));
        assert_eq!(of("123.213.32.10:1", "123.213.54.32:2"), of("123.213.32.10:1", "123.213.54.34:2"));
        assert_eq!(of("[2001:db8::1]:1", "[2001:db9::1]:1"), of("[2001:db8::1]:1", "[2001:db9::3]:1"));
        assert_ne!(of("[2001:db8::1]:1", "[2001:db8::5]:1"), of("[2001:db8::1]:1", "[2001:db8::7]:1"));
        // Of one address the ports decide.
        assert_eq!(of("1.2.3.4:5", "1.2.3.4:6"), crc32c(&[0, 5, 0, 6]));
        assert_eq!(canonical("1.2.3.4:5".parse().unwrap(), "[::1]:5".parse().unwrap()), None);
    }
}
