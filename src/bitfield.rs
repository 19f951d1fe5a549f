//! Which pieces somebody has: a bitfield in the order it travels in.
//!
//! Bit 0 is the highest bit of byte 0 (BEP 3):
//!
//! ```text
//!   byte 0            byte 1
//!   0 1 2 3 4 5 6 7   8 9 . . . . . .     the spare bits at the end are zero
//! ```
//!
//! Most peers of most swarms have everything or nothing, so these two cost no heap; only a set in
//! between owns `ceil(len / 8)` bytes. A set that fills up or empties gives its bytes back.
//!
//! This type does not know whose pieces these are, nor does it speak BEP 6's `have_all` and
//! `have_none`: those are [`Bitfield::all`] and [`Bitfield::none`].
//!
//! Invariants: `count` is the number of set bits; the bytes exist exactly when `0 < count < len`;
//! spare bits are never set. Pieces at or above `len` read as not set and cannot be set.
//!
//! Source: [BEP 3](https://www.bittorrent.org/beps/bep_0003.html), message 5.

use crate::id::PieceIndex;
use std::fmt;

/// Why bytes from the wire are not a bitfield of the wanted length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitfieldError {
    /// Not `ceil(pieces / 8)` bytes.
    WrongLength {
        /// Bytes a bitfield of this torrent has.
        wanted: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A bit beyond the last piece is set.
    SpareBits {
        /// Pieces of the torrent.
        pieces: u32,
        /// The last byte as it came.
        got: u8,
    },
}

impl fmt::Display for BitfieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongLength { wanted, got } => write!(f, "bitfield of {got} bytes, wanted {wanted}"),
            Self::SpareBits { pieces, got } => {
                write!(f, "bitfield of {pieces} pieces with spare bits set (last byte {got:#04x})")
            }
        }
    }
}
impl std::error::Error for BitfieldError {}

#[derive(Clone, PartialEq, Eq)]
enum Bits {
    None,
    All,
    Some(Box<[u8]>),
}

/// A set of pieces of a torrent, in wire order.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    bits: Bits,
    len: u32,
    count: u32,
}

/// Bytes that `len` bits need.
const fn bytes_for(len: u32) -> usize {
    len.div_ceil(8) as usize
}

/// Ones for the bits of the last byte that are pieces.
const fn last_byte_mask(len: u32) -> u8 {
    match len % 8 {
        0 => 0xFF,
        used => !(0xFF >> used),
    }
}

impl Bitfield {
    /// The empty set out of `len` pieces.
    pub const fn none(len: u32) -> Self {
        Self { bits: Bits::None, len, count: 0 }
    }

    /// All `len` pieces.
    pub const fn all(len: u32) -> Self {
        Self { bits: Bits::All, len, count: len }
    }

    /// A set of `len` pieces as message 5 carries it: exactly `ceil(len / 8)` bytes, no spare bit set.
    pub fn from_wire(bytes: &[u8], len: u32) -> Result<Self, BitfieldError> {
        let wanted = bytes_for(len);
        if bytes.len() != wanted {
            return Err(BitfieldError::WrongLength { wanted, got: bytes.len() });
        }
        let last = bytes.last().copied().unwrap_or(0);
        if last & !last_byte_mask(len) != 0 {
            return Err(BitfieldError::SpareBits { pieces: len, got: last });
        }
        let count = bytes.iter().map(|b| b.count_ones()).sum();
        Ok(match count {
            0 => Self::none(len),
            n if n == len => Self::all(len),
            _ => Self { bits: Bits::Some(bytes.into()), len, count },
        })
    }

    /// The bytes of message 5: `ceil(len / 8)` of them.
    pub fn to_wire(&self) -> Vec<u8> {
        match &self.bits {
            Bits::None => vec![0; bytes_for(self.len)],
            Bits::All => full(self.len),
            Bits::Some(b) => b.to_vec(),
        }
    }

    /// Whether the piece is in the set; false beyond the last piece.
    pub fn get(&self, piece: PieceIndex) -> bool {
        let i = piece.get();
        match &self.bits {
            Bits::None => false,
            Bits::All => i < self.len,
            Bits::Some(b) => b.get(piece.idx() / 8).is_some_and(|byte| byte & (0x80 >> (i % 8)) != 0),
        }
    }

    /// Adds the piece. True if that changed the set.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        if piece.get() >= self.len || self.get(piece) {
            return false;
        }
        self.count += 1;
        if self.count == self.len {
            self.bits = Bits::All;
            return true;
        }
        if matches!(self.bits, Bits::None) {
            self.bits = Bits::Some(vec![0; bytes_for(self.len)].into());
        }
        if let Bits::Some(b) = &mut self.bits {
            b[piece.idx() / 8] |= 0x80 >> (piece.get() % 8);
        }
        true
    }

    /// Takes the piece out. True if that changed the set.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        if !self.get(piece) {
            return false;
        }
        self.count -= 1;
        if self.count == 0 {
            self.bits = Bits::None;
            return true;
        }
        if matches!(self.bits, Bits::All) {
            self.bits = Bits::Some(full(self.len).into());
        }
        if let Bits::Some(b) = &mut self.bits {
            b[piece.idx() / 8] &= !(0x80 >> (piece.get() % 8));
        }
        true
    }

    /// Pieces in the set.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Pieces of the torrent, in the set or not.
    #[expect(clippy::len_without_is_empty, reason = "is_none is that question; len is the torrent's, not the set's")]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether every piece is in the set.
    pub const fn is_all(&self) -> bool {
        self.count == self.len
    }

    /// Whether no piece is in the set.
    pub const fn is_none(&self) -> bool {
        self.count == 0
    }

    /// The pieces in the set, ascending.
    pub fn iter_set(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.bits_of(|w| w)
    }

    /// The pieces not in the set, ascending.
    pub fn iter_clear(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.bits_of(|w| !w)
    }

    fn bits_of<'a>(&'a self, turn: impl Fn(u64) -> u64 + 'a) -> impl Iterator<Item = PieceIndex> + 'a {
        (0..self.words()).flat_map(move |w| ones(turn(self.word(w)) & word_mask(self.len, w), w))
    }

    /// Heap bytes owned.
    pub fn memory(&self) -> usize {
        match &self.bits {
            Bits::Some(b) => b.len(),
            Bits::None | Bits::All => 0,
        }
    }

    /// How many [`Bitfield::word`]s there are.
    pub(crate) const fn words(&self) -> usize {
        self.len.div_ceil(64) as usize
    }

    /// Pieces `64 * w ..` as one number, the first of them in the highest bit; zeros beyond the end.
    pub(crate) fn word(&self, w: usize) -> u64 {
        match &self.bits {
            Bits::None => 0,
            Bits::All => word_mask(self.len, w),
            Bits::Some(b) => match b.get(w * 8..w * 8 + 8) {
                Some(eight) => u64::from_be_bytes(eight.try_into().expect("a slice of eight bytes")),
                None => {
                    let rest = b.get(w * 8..).unwrap_or_default();
                    let mut eight = [0; 8];
                    eight[..rest.len()].copy_from_slice(rest);
                    u64::from_be_bytes(eight)
                }
            },
        }
    }
}

/// Ones for the pieces that word `w` of a set of `len` pieces holds.
pub(crate) const fn word_mask(len: u32, w: usize) -> u64 {
    let left = (len as usize).saturating_sub(w * 64);
    match left {
        0 => 0,
        1..=63 => !(u64::MAX >> left),
        _ => u64::MAX,
    }
}

/// The pieces whose bits are set in word number `w`, ascending.
pub(crate) fn ones(mut word: u64, w: usize) -> impl Iterator<Item = PieceIndex> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.leading_zeros();
            word &= !(1 << (63 - bit));
            PieceIndex::new(w as u32 * 64 + bit)
        })
    })
}

fn full(len: u32) -> Vec<u8> {
    let mut bytes = vec![0xFF; bytes_for(len)];
    if let Some(last) = bytes.last_mut() {
        *last = last_byte_mask(len);
    }
    bytes
}

impl fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bitfield({} of {})", self.count, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(i: u32) -> PieceIndex {
        PieceIndex::new(i)
    }

    #[test]
    fn bit_zero_is_the_highest_of_byte_zero() {
        let b = Bitfield::from_wire(&[0x80, 0x40], 10).unwrap();
        assert_eq!(b.iter_set().collect::<Vec<_>>(), [p(0), p(9)]);
        assert_eq!(b.iter_clear().collect::<Vec<_>>(), (1..9).map(p).collect::<Vec<_>>());
        assert_eq!(b.to_wire(), [0x80, 0x40]);
        assert!(!b.get(p(10)) && !b.get(p(4_000_000)));
    }

    #[test]
    fn wrong_lengths_and_spare_bits_are_refused() {
        assert_eq!(Bitfield::from_wire(&[0; 3], 16), Err(BitfieldError::WrongLength { wanted: 2, got: 3 }));
        assert_eq!(Bitfield::from_wire(&[0; 1], 16), Err(BitfieldError::WrongLength { wanted: 2, got: 1 }));
        let spare = Bitfield::from_wire(&[0xFF, 0xE0], 10);
        assert_eq!(spare, Err(BitfieldError::SpareBits { pieces: 10, got: 0xE0 }));
        assert!(spare.unwrap_err().to_string().contains("0xe0"));
        assert!(Bitfield::from_wire(&[0xFF, 0xC0], 10).unwrap().is_all());
        assert!(Bitfield::from_wire(&[0xFF], 8).unwrap().is_all());
        assert!(Bitfield::from_wire(&[], 0).unwrap().is_none());
    }

    #[test]
    fn full_and_empty_sets_own_no_heap() {
        let mut b = Bitfield::none(67);
        for i in 0..67 {
            assert_eq!(b.memory() > 0, i > 0, "before piece {i}");
            assert!(b.set(p(i)));
            assert!(!b.set(p(i)));
        }
        assert!(b.is_all() && b.memory() == 0);
        assert!(!b.set(p(67)), "there is no piece 67");
        assert!(b.clear(p(66)));
        assert_eq!((b.count(), b.memory()), (66, 9));
        assert!(b.to_wire()[8] == 0xC0 && !b.get(p(66)) && b.get(p(65)));
        for i in 0..66 {
            assert!(b.clear(p(i)) && !b.clear(p(i)));
        }
        assert!(b.is_none() && b.memory() == 0);
    }

    #[test]
    fn random_sets_agree_with_a_plain_list() {
        let mut rng = crate::rng::seeded(7);
        for len in [1u32, 7, 8, 63, 64, 65, 130, 1000] {
            let (mut b, mut plain) = (Bitfield::none(len), vec![false; len as usize]);
            for _ in 0..2000 {
                let i = rng.u32(0..len);
                let to = rng.bool();
                let changed = if to { b.set(p(i)) } else { b.clear(p(i)) };
                assert_eq!(changed, plain[i as usize] != to);
                plain[i as usize] = to;
            }
            let set: Vec<_> = (0..len).filter(|&i| plain[i as usize]).map(p).collect();
            let clear: Vec<_> = (0..len).filter(|&i| !plain[i as usize]).map(p).collect();
            assert_eq!(b.iter_set().collect::<Vec<_>>(), set);
            assert_eq!(b.iter_clear().collect::<Vec<_>>(), clear);
            assert_eq!(b.count() as usize, set.len());
            assert_eq!(Bitfield::from_wire(&b.to_wire(), len), Ok(b));
        }
    }
}
