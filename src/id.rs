//! The names of things: hashes, ids, piece and block coordinates, slab keys.
//!
//! Every one is a type of its own, so that a piece index cannot be passed where a file index is
//! wanted. Keys carry a generation: a key kept after its slot was reused finds nothing.

use std::fmt;

/// Bytes in a full block, the unit of requests on the wire (BEP 3: 2^14).
pub const BLOCK_LEN: u32 = 16 * 1024;

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// So many bytes in hexadecimal digits of either case, and nothing else.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let value = |d: u8| char::from(d).to_digit(16).unwrap_or_default() as u8;
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    Some(out)
}

/// A version 1 info hash: SHA-1 of the raw `info` dictionary (BEP 3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash([u8; 20]);

impl InfoHash {
    /// Wraps 20 raw bytes.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }
    /// The 20 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
    /// The hash in 40 hexadecimal digits, as it is displayed.
    pub fn from_hex(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }
}
impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}
impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

/// A version 2 info hash: SHA-256 of the raw `info` dictionary (BEP 52).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHashV2([u8; 32]);

impl InfoHashV2 {
    /// Wraps 32 raw bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
impl fmt::Display for InfoHashV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}
impl fmt::Debug for InfoHashV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

/// A peer id: 20 bytes that name one running client (BEP 20).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 20]);

impl PeerId {
    /// Wraps 20 raw bytes.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }
    /// The 20 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}
impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);
        impl $name {
            /// Wraps a zero-based index.
            pub const fn new(i: u32) -> Self {
                Self(i)
            }
            /// The zero-based index.
            pub const fn get(self) -> u32 {
                self.0
            }
            /// The zero-based index, for slices.
            pub const fn idx(self) -> usize {
                self.0 as usize
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index!(
    /// A piece of a torrent, counted from 0.
    PieceIndex
);
index!(
    /// A file of a torrent, counted from 0 over `files`, pad files included (BEP 53).
    FileIndex
);
index!(
    /// A peer address as a torrent's swarm knows it. It outlives connections, so that blocks can be
    /// blamed on who sent them after that peer has left.
    PeerTag
);

/// A range of one piece: what `request`, `piece`, `cancel` and `reject` name (BEP 3, BEP 6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Block {
    /// The piece.
    pub piece: PieceIndex,
    /// Offset of the first byte within the piece.
    pub begin: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Block {
    /// A block from plain numbers.
    pub const fn new(piece: u32, begin: u32, len: u32) -> Self {
        Self { piece: PieceIndex(piece), begin, len }
    }
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name {
            index: u32,
            generation: u32,
        }
        impl $name {
            /// A key from its slot and that slot's generation.
            pub const fn new(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }
            /// The slot, below the largest number of things ever held at once.
            pub const fn index(self) -> usize {
                self.index as usize
            }
            /// How often the slot had been reused when this key was made.
            pub const fn generation(self) -> u32 {
                self.generation
            }
        }
    };
}

key!(
    /// A connection of the session: a peer or a tracker.
    ConnKey
);
key!(
    /// A torrent of the session.
    TorrentKey
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_print_as_lower_case_hex() {
        let mut b = [0u8; 20];
        b[0] = 0xAB;
        b[19] = 0x01;
        assert_eq!(InfoHash::new(b).to_string(), format!("ab{}01", "00".repeat(18)));
    }
}
