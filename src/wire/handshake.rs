//! The 68 bytes each side sends first (BEP 3).
//!
//! ```text
//!  0      1                     20         28          48        68
//!  | 19   | BitTorrent protocol | reserved | info hash | peer id |
//! ```
//!
//! The acceptor may answer as soon as the first 48 bytes are in, and some clients send their peer
//! id only after they have seen ours, so the reader reports the two parts one after the other.
//! A wrong byte in the first 20 is an error at once, however the input is split: whatever it is
//! (HTTP, TLS, an encrypted handshake), waiting for more of it is of no use.
//!
//! Invariants of [`HandshakeReader`]: it never takes a byte behind the 68th, it holds at most
//! [`HANDSHAKE_LEN`] bytes and never allocates; what it holds of the first 20 bytes is right.
//!
//! Not here: which info hash is welcome, whose peer id it is, time-outs, encryption.
//!
//! Link: [BEP 3](https://www.bittorrent.org/beps/bep_0003.html); the reserved bits are listed in
//! [BEP 4](https://www.bittorrent.org/beps/bep_0004.html).

use super::WireError;
use crate::id::{InfoHash, PeerId};
use std::fmt;

/// Bytes of a handshake.
pub const HANDSHAKE_LEN: usize = 68;

/// What every handshake starts with: the length of the name and the name.
pub const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// Bytes up to and with the info hash.
const TO_INFO_HASH: usize = 48;

/// The 8 reserved bytes: one bit for each extension. Unknown bits mean nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Reserved([u8; 8]);

impl Reserved {
    /// Wraps the 8 raw bytes.
    pub const fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
    /// What we send: extension protocol and fast extension.
    pub const fn ours() -> Self {
        Self([0, 0, 0, 0, 0, 0x10, 0, 0x04])
    }
    /// The same with the bit of the DHT (BEP 5) as said.
    #[must_use]
    pub const fn with_dht(mut self, on: bool) -> Self {
        self.0[7] = self.0[7] & !0x01 | on as u8;
        self
    }
    /// The 8 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
    /// The extension protocol (BEP 10).
    pub const fn has_extended(self) -> bool {
        self.0[5] & 0x10 != 0
    }
    /// The fast extension (BEP 6).
    pub const fn has_fast(self) -> bool {
        self.0[7] & 0x04 != 0
    }
    /// The distributed hash table (BEP 5): the peer sends and takes `port`.
    pub const fn has_dht(self) -> bool {
        self.0[7] & 0x01 != 0
    }
    /// An upgrade to version 2 is offered or taken (BEP 52).
    pub const fn has_v2(self) -> bool {
        self.0[7] & 0x10 != 0
    }
}
impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// What a handshake says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// Which extensions the sender has.
    pub reserved: Reserved,
    /// The torrent (of a version 2 torrent: the first 20 bytes of its hash).
    pub info_hash: InfoHash,
    /// The sender.
    pub peer_id: PeerId,
}

/// The bytes of a handshake.
pub fn encode_handshake(h: &Handshake) -> [u8; HANDSHAKE_LEN] {
    let mut out = [0; HANDSHAKE_LEN];
    out[..20].copy_from_slice(PROTOCOL);
    out[20..28].copy_from_slice(&h.reserved.0);
    out[28..48].copy_from_slice(h.info_hash.as_bytes());
    out[48..].copy_from_slice(h.peer_id.as_bytes());
    out
}

/// What [`HandshakeReader::feed`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeEvent {
    /// The first 48 bytes are in: enough for the acceptor to answer.
    InfoHash(Reserved, InfoHash),
    /// All 68 bytes are in.
    Done(Handshake),
}

/// Reads a handshake that arrives in any split.
#[derive(Clone, Debug)]
pub struct HandshakeReader {
    buf: [u8; HANDSHAKE_LEN],
    len: u8,
}

impl HandshakeReader {
    /// A reader that has seen nothing.
    pub const fn new() -> Self {
        Self { buf: [0; HANDSHAKE_LEN], len: 0 }
    }

    /// Takes bytes up to the next event: how many, and the event. [`HandshakeEvent::InfoHash`]
    /// comes first and takes nothing behind byte 48; call again with the rest of the input, until
    /// [`HandshakeEvent::Done`]. After that nothing is taken.
    ///
    /// # Errors
    /// [`WireError::BadHandshake`] at the first byte that does not belong there.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<HandshakeEvent>), WireError> {
        let have = usize::from(self.len);
        let end = if have < TO_INFO_HASH { TO_INFO_HASH } else { HANDSHAKE_LEN };
        let n = input.len().min(end - have);
        if n == 0 {
            return Ok((0, None));
        }
        for (at, &got) in (have..PROTOCOL.len()).zip(&input[..n]) {
            if got != PROTOCOL[at] {
                return Err(WireError::BadHandshake { at: at as u8, wanted: PROTOCOL[at], got });
            }
        }
        self.buf[have..have + n].copy_from_slice(&input[..n]);
        self.len += n as u8;
        Ok((n, self.event()))
    }

    /// The event that belongs to the bytes held.
    fn event(&self) -> Option<HandshakeEvent> {
        let reserved = Reserved(self.part(20));
        let info_hash = InfoHash::new(self.part(28));
        match usize::from(self.len) {
            TO_INFO_HASH => Some(HandshakeEvent::InfoHash(reserved, info_hash)),
            HANDSHAKE_LEN => {
                Some(HandshakeEvent::Done(Handshake { reserved, info_hash, peer_id: PeerId::new(self.part(48)) }))
            }
            _ => None,
        }
    }

    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.buf[at..at + N]);
        out
    }
}
impl Default for HandshakeReader {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Handshake {
        Handshake {
            reserved: Reserved::ours(),
            info_hash: InfoHash::new(*b"HHHHHHHHHHHHHHHHHHHH"),
            peer_id: PeerId::new(*b"-XX0001-abcdefghijkl"),
        }
    }

    /// Feeds `input` cut at `cuts`; the events, and how many bytes had been taken at each.
    fn read(input: &[u8], mut cuts: impl FnMut() -> usize) -> Result<Vec<(usize, HandshakeEvent)>, WireError> {
        let (mut reader, mut at, mut events) = (HandshakeReader::new(), 0, Vec::new());
        while at < input.len() {
            let mut chunk = &input[at..input.len().min(at + cuts())];
            while !chunk.is_empty() {
                let (n, event) = reader.feed(chunk)?;
                if n == 0 {
                    return Ok(events);
                }
                at += n;
                chunk = &chunk[n..];
                events.extend(event.map(|e| (at, e)));
            }
        }
        Ok(events)
    }

    #[test]
    fn bytes_are_where_bep_3_puts_them() {
        let mut wanted = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04".to_vec();
        wanted.extend_from_slice(b"HHHHHHHHHHHHHHHHHHHH-XX0001-abcdefghijkl");
        assert_eq!(encode_handshake(&sample()).as_slice(), wanted);
    }

    #[test]
    fn reserved_bits() {
        let ours = Reserved::ours();
        assert!(ours.has_extended() && ours.has_fast() && !ours.has_dht() && !ours.has_v2());
        let all = Reserved::new([0xFF; 8]);
        assert!(all.has_extended() && all.has_fast() && all.has_dht() && all.has_v2());
        let dht = Reserved::new([0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(dht.has_dht() && !dht.has_fast() && !dht.has_extended());
        assert!(Reserved::new([0, 0, 0, 0, 0, 0, 0, 0x10]).has_v2());
    }

    #[test]
    fn every_split_gives_the_same_two_events_at_the_same_bytes() {
        let h = sample();
        let mut input = encode_handshake(&h).to_vec();
        input.extend_from_slice(b"\0\0\0\x01\x02 what follows is not ours");
        let wanted = vec![(48, HandshakeEvent::InfoHash(h.reserved, h.info_hash)), (68, HandshakeEvent::Done(h))];
        for size in 1..=input.len() {
            assert_eq!(read(&input, || size).as_ref(), Ok(&wanted), "in chunks of {size}");
        }
        let mut rng = crate::rng::seeded(3);
        for _ in 0..500 {
            assert_eq!(read(&input, || rng.usize(1..30)).as_ref(), Ok(&wanted));
        }
    }

    #[test]
    fn a_wrong_byte_is_an_error_as_soon_as_it_comes() {
        let good = encode_handshake(&sample());
        for at in 0..20 {
            let mut input = good[..=at].to_vec();
            input[at] ^= 0x20;
            let error = WireError::BadHandshake { at: at as u8, wanted: good[at], got: good[at] ^ 0x20 };
            for size in 1..=input.len() {
                assert_eq!(read(&input, || size), Err(error), "byte {at} in chunks of {size}");
            }
        }
    }

    #[test]
    fn any_reserved_bytes_are_welcome() {
        let h = Handshake { reserved: Reserved::new([0xFF; 8]), ..sample() };
        let events = read(&encode_handshake(&h), || 68).unwrap();
        assert_eq!(events.last(), Some(&(68, HandshakeEvent::Done(h))));
    }
}
