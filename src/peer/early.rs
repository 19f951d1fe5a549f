//! What a peer has, told before the torrent's pieces are known.
//!
//! A torrent that was added by a magnet link learns from its first peers how many pieces there are. What they
//! say meanwhile is kept as it came, and checked when there is something to check it against.
//!
//! Invariant: at most [`limits::PIECES`] bits are kept.

use crate::bitfield::{Bitfield, BitfieldError};
use crate::config::limits;
use crate::id::PieceIndex;

/// A peer's account of its pieces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Early {
    /// Have-all.
    all: bool,
    /// It came in one message, whose length has to be right.
    whole: bool,
    bits: Vec<u8>,
}

impl Early {
    /// It has everything, or nothing (BEP 6).
    pub fn on_all(&mut self, all: bool) {
        *self = Self { all, ..Self::default() };
    }

    /// Its bitfield.
    pub fn on_bitfield(&mut self, bits: &[u8]) {
        *self = Self { all: false, whole: true, bits: bits.to_vec() };
    }

    /// It has a piece; false when no torrent has that many.
    pub fn on_have(&mut self, piece: PieceIndex) -> bool {
        let (at, bit) = (piece.idx() / 8, 0x80 >> (piece.get() % 8));
        if piece.get() >= limits::PIECES {
            return false;
        }
        if !self.all {
            if at >= self.bits.len() {
                self.bits.resize(at + 1, 0);
            }
            self.bits[at] |= bit;
        }
        true
    }

    /// It no longer has a piece (BEP 54).
    pub fn on_lost(&mut self, piece: PieceIndex) {
        // Of one that had everything this cannot be kept; it refuses when it is asked.
        if let Some(byte) = self.bits.get_mut(piece.idx() / 8) {
            *byte &= !(0x80 >> (piece.get() % 8));
        }
    }

    /// What it has of so many pieces; an error when it spoke of others.
    pub fn settle(mut self, pieces: u32) -> Result<Bitfield, BitfieldError> {
        if self.all {
            return Ok(Bitfield::all(pieces));
        }
        let wanted = pieces.div_ceil(8) as usize;
        if !self.whole && self.bits.len() < wanted {
            self.bits.resize(wanted, 0);
        }
        Bitfield::from_wire(&self.bits, pieces)
    }

    /// Heap bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.bits.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(i: u32) -> PieceIndex {
        PieceIndex::new(i)
    }

    #[test]
    fn haves_alone_may_be_few() {
        let mut e = Early::default();
        assert!(e.on_have(p(1)) && e.on_have(p(9)) && !e.on_have(p(limits::PIECES)));
        e.on_lost(p(1));
        e.on_lost(p(999));
        let have = e.clone().settle(20).expect("in range");
        assert_eq!(have.iter_set().collect::<Vec<_>>(), [p(9)]);
        assert!(e.clone().settle(9).is_err(), "there is no piece 9");
        assert!(e.settle(8).is_err());
        assert!(Early::default().settle(7).is_ok_and(|b| b.is_none() && b.len() == 7));
    }

    #[test]
    fn a_bitfield_has_to_fit_and_may_grow() {
        let mut e = Early::default();
        e.on_bitfield(&[0x80]);
        e.on_have(p(3));
        assert_eq!(e.clone().settle(8).map(|b| b.count()), Ok(2));
        assert!(e.clone().settle(9).is_err(), "a byte is missing");
        e.on_bitfield(&[0x01]);
        assert!(e.settle(7).is_err(), "a spare bit");
    }

    #[test]
    fn all_or_nothing() {
        let mut e = Early::default();
        e.on_all(true);
        assert!(e.on_have(p(5)));
        assert!(e.clone().settle(3).is_ok_and(|b| b.is_all()));
        e.on_all(false);
        assert!(e.settle(3).is_ok_and(|b| b.is_none()));
    }
}
