//! The datagrams of PCP (RFC 6887) and NAT-PMP (RFC 6886), which share a port and the first byte.
//!
//! ```text
//! PCP MAP    0: version 2 | R, opcode 1 | reserved 2 | lifetime 4 | client address 16
//! request   24: nonce 12 | protocol | reserved 3 | internal port 2 | suggested external port 2 | address 16    = 60
//! response   0: version 2 | 0x81 | reserved | result | lifetime 4 | epoch 4 | reserved 12
//!           24: nonce 12 | protocol | reserved 3 | internal port 2 | assigned external port 2 | address 16     = 60
//!
//! NAT-PMP    0: version 0 | opcode 0                                                                           =  2
//! address    0: version 0 | 128 | result 2 | epoch 4 | external address 4                                      = 12
//! mapping    0: version 0 | opcode 1 UDP, 2 TCP | reserved 2 | internal port 2 | external port 2 | lifetime 4  = 12
//! response   0: version 0 | opcode + 128 | result 2 | epoch 4 | internal port 2 | external port 2 | lifetime 4 = 16
//! ```
//!
//! All numbers are big-endian. What is shorter, or of another version or kind, is not read.
//!
//! [RFC 6887](https://www.rfc-editor.org/rfc/rfc6887), [RFC 6886](https://www.rfc-editor.org/rfc/rfc6886)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a gateway listens for both.
pub const PORT: u16 = 5351;

/// What is forwarded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// Connections of peers.
    Tcp,
    /// The DHT, and whatever else comes in datagrams.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As IANA numbers it.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// As UPnP spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// What is wanted of a gateway: a lifetime of 0 takes a mapping back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// What is forwarded.
    pub protocol: Protocol,
    /// The port we listen on.
    pub internal: u16,
    /// The port we would like to have outside.
    pub external: u16,
    /// For how many seconds.
    pub lifetime: u32,
}

/// An answer to either protocol's request for a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Which mapping it is about; unknown in a PCP error or when the gateway speaks NAT-PMP only.
    pub protocol: Option<Protocol>,
    /// The result, 0 for success.
    pub result: u16,
    /// For how many seconds it holds; of an error, how long the error will.
    pub lifetime: u32,
    /// Seconds since the gateway began to count.
    pub epoch: u32,
    /// The port we listen on.
    pub internal: u16,
    /// The port outside.
    pub external: u16,
    /// The address outside, where it is told.
    pub address: Option<IpAddr>,
}

/// A PCP request for a mapping (RFC 6887, 7.1 and 11.1).
pub fn pcp_request(client: Ipv4Addr, nonce: &[u8; 12], wanted: &Wanted) -> [u8; 60] {
    let mut out = [0; 60];
    out[0] = 2;
    out[1] = 1;
    out[4..8].copy_from_slice(&wanted.lifetime.to_be_bytes());
    out[8..24].copy_from_slice(&client.to_ipv6_mapped().octets());
    out[24..36].copy_from_slice(nonce);
    out[36] = wanted.protocol.number();
    out[40..42].copy_from_slice(&wanted.internal.to_be_bytes());
    out[42..44].copy_from_slice(&wanted.external.to_be_bytes());
    // Any address will do: all zeros, in the family that is wanted.
    out[44..60].copy_from_slice(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    out
}

/// A PCP answer to a request with this nonce (RFC 6887, 7.2 and 11.1).
///
/// One that tells of another version of the protocol is an answer too: its result is
/// [`UNSUPPORTED_VERSION`], and nothing behind its head counts.
pub fn pcp_answer(data: &[u8], nonce: &[u8; 12]) -> Option<Answer> {
    let word = |at: usize| data.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let short = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    if data.len() < 8 || data.len() > 1100 || data[1] & 0x80 == 0 {
        return None;
    }
    let mut answer = Answer {
        protocol: None,
        result: UNSUPPORTED_VERSION,
        lifetime: 0,
        epoch: 0,
        internal: 0,
        external: 0,
        address: None,
    };
    match data[0] {
        // NAT-PMP's way to say that it knows no other version (RFC 6886, 3.5).
        0 if short(2) == 1 => return Some(answer),
        2 => {}
        _ => return None,
    }
    answer.result = u16::from(data[3]);
    (answer.lifetime, answer.epoch) = (word(4)?, word(8)?);
    if data.len() < 60 || data[1] != 0x81 {
        // An error may be told without what the request was; a success may not.
        return (answer.result != 0).then_some(answer);
    }
    if data[24..36] != nonce[..] {
        return None;
    }
    answer.protocol = Protocol::ALL.into_iter().find(|p| p.number() == data[36]);
    (answer.internal, answer.external) = (short(40), short(42));
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(&data[44..60]).ok()?);
    answer.address = Some(IpAddr::V6(address).to_canonical()).filter(|a| !a.is_unspecified());
    answer.protocol.map(|_| answer)
}

/// The gateway speaks another version of the protocol.
pub const UNSUPPORTED_VERSION: u16 = 1;

/// Asks for the external address (RFC 6886, 3.2).
pub const NATPMP_ADDRESS: [u8; 2] = [0, 0];

/// A NAT-PMP request for a mapping (RFC 6886, 3.3).
pub fn natpmp_request(wanted: &Wanted) -> [u8; 12] {
    let mut out = [0; 12];
    out[1] = match wanted.protocol {
        Protocol::Udp => 1,
        Protocol::Tcp => 2,
    };
    out[4..6].copy_from_slice(&wanted.internal.to_be_bytes());
    out[6..8].copy_from_slice(&wanted.external.to_be_bytes());
    out[8..12].copy_from_slice(&wanted.lifetime.to_be_bytes());
    out
}

/// A NAT-PMP answer: to the question for the address, without a protocol, or to that for a mapping.
pub fn natpmp_answer(data: &[u8]) -> Option<Answer> {
    let word = |at: usize| data.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let short = |at: usize| data.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let protocol = match data.get(..2)? {
        [0, 128] => None,
        [0, 129] => Some(Protocol::Udp),
        [0, 130] => Some(Protocol::Tcp),
        _ => return None,
    };
    let (result, epoch) = (short(2)?, word(4)?);
    let mut answer = Answer { protocol, result, lifetime: 0, epoch, internal: 0, external: 0, address: None };
    if result != 0 {
        return Some(answer);
    }
    if protocol.is_none() {
        let ip = Ipv4Addr::from(word(8)?);
        answer.address = Some(IpAddr::V4(ip)).filter(|a| !a.is_unspecified());
    } else {
        (answer.internal, answer.external, answer.lifetime) = (short(8)?, short(10)?, word(12)?);
    }
    Some(answer)
}

/// A result in words (RFC 6887, 7.4; RFC 6886, 3.5).
pub fn result_name(pcp: bool, result: u16) -> &'static str {
    match (pcp, result) {
        (_, 1) => "version not supported",
        (_, 2) => "not authorized",
        (false, 3) | (true, 7) => "it has no connection itself",
        (false, 4) | (true, 8) => "out of resources",
        (false, 5) | (true, 4) => "mappings are not supported",
        (true, 3 | 5 | 6) => "request not understood",
        (true, 9) => "protocol not supported",
        (true, 10) => "too many mappings of this host",
        (true, 11) => "that port cannot be had",
        (true, 12) => "there is another translation between it and this host",
        (true, 13) => "too many remote peers",
        _ => "an unknown error",
    }
}
