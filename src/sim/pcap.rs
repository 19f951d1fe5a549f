//! A capture of a run, for packet analysers: every write as one TCP segment over IPv4, and every datagram.
//!
//! Handshakes of TCP itself are left out, and a segment is as large as the write was (up to what
//! IPv4 can carry). Sequence and acknowledgement numbers are true, so that streams can be followed. Everything is in
//! it when it is sent, whether it arrives or not. The format is that of libpcap with microseconds and raw IP packets
//! (link type 101). Packets are given away at once, so that the capture of a run that panics is complete.

use std::net::{IpAddr, SocketAddr};

use crate::time::Instant;

/// Where the bytes of a capture go.
pub type Sink = fn(&[u8]);

/// Largest payload of one packet.
const MAX: usize = 65_000;

/// A capture.
#[derive(Debug)]
pub(super) struct Pcap {
    sink: Sink,
    part: Vec<u8>,
}

/// IPv4 from and to.
type Ends = ([u8; 4], [u8; 4]);

impl Pcap {
    pub(super) fn new(sink: Sink) -> Self {
        let mut head = Vec::new();
        for word in [0xA1B2_C3D4u32, 2 | 4 << 16, 0, 0, 65_535, 101] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        sink(&head);
        Self { sink, part: Vec::new() }
    }

    /// One packet: the protocol's own header and what it carries.
    fn packet(&mut self, now: Instant, ends: Ends, protocol: u8, head: &[u8], data: &[u8]) {
        let len = 20 + head.len() + data.len();
        let (secs, us) = (now.as_micros() / 1_000_000, now.as_micros() % 1_000_000);
        self.part.clear();
        for word in [secs as u32, us as u32, len as u32, len as u32] {
            self.part.extend_from_slice(&word.to_le_bytes());
        }
        let mut ip = [0u8; 20];
        (ip[0], ip[8], ip[9]) = (0x45, 64, protocol);
        ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        ip[12..16].copy_from_slice(&ends.0);
        ip[16..20].copy_from_slice(&ends.1);
        for bytes in [&ip[..], head, data] {
            self.part.extend_from_slice(bytes);
        }
        (self.sink)(&self.part);
    }

    /// A datagram was sent.
    pub(super) fn datagram(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let Some(ends) = ends(from, to) else { return };
        let data = &data[..data.len().min(MAX)];
        let mut udp = [0u8; 8];
        udp[..2].copy_from_slice(&from.port().to_be_bytes());
        udp[2..4].copy_from_slice(&to.port().to_be_bytes());
        udp[4..6].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
        self.packet(now, ends, 17, &udp, data);
    }

    /// `data` was written from one address to another; `seq` and `ack` bytes went before, each way.
    pub(super) fn segment(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, seq: u64, ack: u64, data: &[u8]) {
        let Some(ends) = ends(from, to) else { return };
        for (i, part) in data.chunks(MAX).enumerate() {
            let mut tcp = [0u8; 20];
            tcp[..2].copy_from_slice(&from.port().to_be_bytes());
            tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
            tcp[4..8].copy_from_slice(&((seq + (i * MAX) as u64) as u32).to_be_bytes());
            tcp[8..12].copy_from_slice(&(ack as u32).to_be_bytes());
            (tcp[12], tcp[13]) = (0x50, 0x18);
            tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
            self.packet(now, ends, 6, &tcp, part);
        }
    }
}

fn ends(from: SocketAddr, to: SocketAddr) -> Option<Ends> {
    match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some((a.octets(), b.octets())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    thread_local!(static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

    #[test]
    fn a_packet_has_its_length_and_addresses() {
        let mut p = Pcap::new(|bytes| OUT.with_borrow_mut(|out| out.extend_from_slice(bytes)));
        let (a, b) = (SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 2], 2)));
        p.segment(Instant::from_millis(1500), a, b, 7, 9, b"abc");
        p.datagram(Instant::from_millis(1501), b, a, b"abcde");
        let out = OUT.take();
        assert_eq!(out.len(), 24 + 16 + 43 + 16 + 33);
        assert_eq!(out[24..28], 1u32.to_le_bytes());
        assert_eq!(out[28..32], 500_000u32.to_le_bytes());
        assert_eq!(out[40 + 12..40 + 20], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(out[40 + 24..40 + 28], 7u32.to_be_bytes());
        assert_eq!(&out[80..83], b"abc");
        let udp = &out[83 + 16..];
        assert_eq!((udp[9], &udp[12..20]), (17, &[10, 0, 0, 2, 10, 0, 0, 1][..]));
        assert_eq!(&udp[20..], b"\0\x02\0\x01\0\x0d\0\0abcde");
    }
}
