//! A capture of a run, for packet analysers: every write as one TCP segment over IPv4.
//!
//! Handshakes of TCP itself are left out, and a segment is as large as the write was (up to what
//! IPv4 can carry). Sequence and acknowledgement numbers are true, so that streams can be followed.
//! The format is that of libpcap with microseconds and raw IP packets (link type 101).

use std::net::{IpAddr, SocketAddr};

use crate::time::Instant;

/// Largest payload of one packet.
const MAX: usize = 65_000;

/// A capture in memory.
#[derive(Debug)]
pub(super) struct Pcap {
    out: Vec<u8>,
}

impl Pcap {
    pub(super) fn new() -> Self {
        let mut out = Vec::new();
        for word in [0xA1B2_C3D4u32, 2 | 4 << 16, 0, 0, 65_535, 101] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        Self { out }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// `data` was written from one address to another; `seq` and `ack` bytes went before, each way.
    pub(super) fn segment(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, seq: u64, ack: u64, data: &[u8]) {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (from.ip(), to.ip()) else { return };
        for (i, part) in data.chunks(MAX).enumerate() {
            let len = 40 + part.len();
            let (secs, us) = (now.as_micros() / 1_000_000, now.as_micros() % 1_000_000);
            for word in [secs as u32, us as u32, len as u32, len as u32] {
                self.out.extend_from_slice(&word.to_le_bytes());
            }
            let mut ip = [0u8; 20];
            (ip[0], ip[8], ip[9]) = (0x45, 64, 6);
            ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            ip[12..16].copy_from_slice(&src.octets());
            ip[16..20].copy_from_slice(&dst.octets());
            self.out.extend_from_slice(&ip);
            let mut tcp = [0u8; 20];
            tcp[..2].copy_from_slice(&from.port().to_be_bytes());
            tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
            tcp[4..8].copy_from_slice(&((seq + (i * MAX) as u64) as u32).to_be_bytes());
            tcp[8..12].copy_from_slice(&(ack as u32).to_be_bytes());
            (tcp[12], tcp[13]) = (0x50, 0x18);
            tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
            self.out.extend_from_slice(&tcp);
            self.out.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_its_length_and_addresses() {
        let mut p = Pcap::new();
        let (a, b) = (SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 2], 2)));
        p.segment(Instant::from_millis(1500), a, b, 7, 9, b"abc");
        let out = p.into_bytes();
        assert_eq!(out.len(), 24 + 16 + 43);
        assert_eq!(out[24..28], 1u32.to_le_bytes());
        assert_eq!(out[28..32], 500_000u32.to_le_bytes());
        assert_eq!(out[40 + 12..40 + 20], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(out[40 + 24..40 + 28], 7u32.to_be_bytes());
        assert_eq!(&out[80..], b"abc");
    }
}
