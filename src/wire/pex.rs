//! Messages by which peers name each other (BEP 11, `ut_pex`).
//!
//! ```text
//! length 4 | 20 | sub-id 1 | d 5:added   <4 + 2 bytes each>   7:added.f  <1 byte each>
//!                              6:added6  <16 + 2 bytes each>  8:added6.f <1 byte each>
//!                              7:dropped <4 + 2 bytes each>   8:dropped6 <16 + 2 bytes each> e
//! ```
//!
//! Read leniently: every key may be missing, flags may be fewer than addresses, bytes behind the last whole
//! address are ignored. What is beyond the limit is left out.
//!
//! Not here: how often, whom to tell of whom, and which addresses are believed (`torrent::gossip`).
//!
//! Link: [BEP 11](https://www.bittorrent.org/beps/bep_0011.html)

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::bencode::{self, Node, Writer};

/// It prefers encryption.
pub const ENCRYPTION: u8 = 0x01;
/// It only uploads.
pub const SEED: u8 = 0x02;
/// It speaks uTP.
pub const UTP: u8 = 0x04;
/// It takes part in holepunching.
pub const HOLEPUNCH: u8 = 0x08;
/// It could be dialled: the sender did so.
pub const REACHABLE: u8 = 0x10;

/// Who has come and who has gone, as a peer tells it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pex {
    /// Peers it has met, with flags.
    pub added: Vec<(SocketAddr, u8)>,
    /// Peers that have left it.
    pub dropped: Vec<SocketAddr>,
}

impl Pex {
    /// Reads the payload of an extended message, at most `max` addresses of each kind and family. `None` when it is
    /// no bencoded dictionary.
    pub fn parse(payload: &[u8], max: usize) -> Option<Self> {
        let (doc, _) = bencode::parse_prefix(payload).ok()?;
        let root = Some(doc.root()).filter(|r| r.is_dict())?;
        let bytes = |key: &[u8]| root.get(key).and_then(Node::as_bytes).unwrap_or_default();
        let flagged = |addrs: Vec<SocketAddr>, flags: &[u8]| {
            let flag = |i: usize| flags.get(i).copied().unwrap_or(0);
            addrs.into_iter().enumerate().map(|(i, a)| (a, flag(i))).collect::<Vec<_>>()
        };
        let mut added = flagged(v4(bytes(b"added"), max), bytes(b"added.f"));
        added.extend(flagged(v6(bytes(b"added6"), max), bytes(b"added6.f")));
        let mut dropped = v4(bytes(b"dropped"), max);
        dropped.extend(v6(bytes(b"dropped6"), max));
        Some(Self { added, dropped })
    }

    /// The payload of the extended message.
    pub fn encode(&self) -> Vec<u8> {
        let added = |six: bool| self.added.iter().filter(move |(a, _)| a.is_ipv6() == six);
        let flags = |six: bool| added(six).map(|(_, f)| *f).collect::<Vec<_>>();
        let compact = |addrs: &mut dyn Iterator<Item = &SocketAddr>| {
            let mut out = Vec::new();
            for addr in addrs {
                match addr {
                    SocketAddr::V4(a) => out.extend_from_slice(&a.ip().octets()),
                    SocketAddr::V6(a) => out.extend_from_slice(&a.ip().octets()),
                }
                out.extend_from_slice(&addr.port().to_be_bytes());
            }
            out
        };
        let dropped = |six: bool| compact(&mut self.dropped.iter().filter(|a| a.is_ipv6() == six));
        let mut w = Writer::new();
        w.begin_dict();
        w.key(b"added").bytes(&compact(&mut added(false).map(|(a, _)| a)));
        w.key(b"added.f").bytes(&flags(false));
        w.key(b"added6").bytes(&compact(&mut added(true).map(|(a, _)| a)));
        w.key(b"added6.f").bytes(&flags(true));
        w.key(b"dropped").bytes(&dropped(false));
        w.key(b"dropped6").bytes(&dropped(true));
        w.end();
        w.into_bytes()
    }
}

fn v4(bytes: &[u8], max: usize) -> Vec<SocketAddr> {
    let addr = |b: &[u8]| {
        let ip: [u8; 4] = b[..4].try_into().expect("six bytes");
        SocketAddrV4::new(Ipv4Addr::from(ip), u16::from_be_bytes([b[4], b[5]])).into()
    };
    bytes.chunks_exact(6).take(max).map(addr).collect()
}

fn v6(bytes: &[u8], max: usize) -> Vec<SocketAddr> {
    let addr = |b: &[u8]| {
        let ip: [u8; 16] = b[..16].try_into().expect("eighteen bytes");
        SocketAddrV6::new(Ipv6Addr::from(ip), u16::from_be_bytes([b[16], b[17]]), 0, 0).into()
    };
    bytes.chunks_exact(18).take(max).map(addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(s: &str) -> SocketAddr {
        s.parse().expect("an address")
    }

    #[test]
    fn both_families_both_ways() {
        let message = Pex {
            added: vec![(addr("1.2.3.4:258"), REACHABLE), (addr("[2001:db8::1]:3"), SEED)],
            dropped: vec![addr("9.9.9.9:1"), addr("[::5]:6")],
        };
        let bytes = message.encode();
        let head: &[u8] = b"d5:added6:\x01\x02\x03\x04\x01\x027:added.f1:\x106:added618:\x20\x01\x0d\xb8";
        assert_eq!(&bytes[..head.len()], head);
        assert_eq!(Pex::parse(&bytes, 50), Some(message));
    }

    #[test]
    fn little_is_needed_and_too_much_is_left_out() {
        assert_eq!(Pex::parse(b"de", 50), Some(Pex::default()));
        assert_eq!(Pex::parse(b"le", 50), None);
        assert_eq!(Pex::parse(b"junk", 50), None);
        let odd = Pex::parse(b"d5:added13:abcdefghijklm7:added.f1:\x02e", 50).expect("a dictionary");
        assert_eq!(
            odd.added.iter().map(|(_, f)| *f).collect::<Vec<_>>(),
            [SEED, 0],
            "flags may lack, bytes may be over"
        );
        let many = Pex { added: vec![(addr("1.2.3.4:1"), 0); 300], dropped: vec![addr("1.2.3.4:1"); 300] };
        let read = Pex::parse(&many.encode(), 50).expect("a dictionary");
        assert_eq!((read.added.len(), read.dropped.len()), (50, 50));
    }
}
