//! Who sent what of the pieces that failed, until such a piece passes and shows which blocks were wrong.

use std::collections::BTreeMap;

use crate::config::limits;
use crate::id::{PeerTag, PieceIndex};

/// A sender, and the digest of the block that came from it.
pub(super) type Sent = (PeerTag, [u8; 20]);

/// At most [`limits::SUSPECTS`] blocks in all; the pieces with the lowest numbers are forgotten first.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    pieces: BTreeMap<PieceIndex, Vec<Sent>>,
    blocks: usize,
}

impl Suspects {
    /// A piece has failed: these are its blocks, in order.
    pub(super) fn insert(&mut self, piece: PieceIndex, sent: Vec<Sent>) {
        self.remove(piece);
        while self.blocks + sent.len() > limits::SUSPECTS {
            let Some((_, forgotten)) = self.pieces.pop_first() else { return };
            self.blocks -= forgotten.len();
        }
        self.blocks += sent.len();
        self.pieces.insert(piece, sent);
    }

    /// Something of it is known.
    pub(super) fn contains(&self, piece: PieceIndex) -> bool {
        self.pieces.contains_key(&piece)
    }

    /// Takes what is known of a piece.
    pub(super) fn remove(&mut self, piece: PieceIndex) -> Option<Vec<Sent>> {
        let sent = self.pieces.remove(&piece)?;
        self.blocks -= sent.len();
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(n: usize) -> Vec<Sent> {
        vec![(PeerTag::new(1), [0; 20]); n]
    }

    #[test]
    fn what_is_kept_has_a_limit() {
        let p = PieceIndex::new;
        let mut s = Suspects::default();
        s.insert(p(1), sent(limits::SUSPECTS - 10));
        s.insert(p(2), sent(10));
        assert!(s.contains(p(1)) && s.contains(p(2)), "at the limit");
        s.insert(p(2), sent(10));
        assert!(s.contains(p(1)), "the same piece once more takes no more room");
        s.insert(p(3), sent(1));
        assert!(!s.contains(p(1)), "one past it");
        assert_eq!((s.blocks, s.remove(p(2)).map(|v| v.len()), s.remove(p(2))), (11, Some(10), None));
        s.insert(p(4), sent(limits::SUSPECTS + 1));
        assert!(s.blocks == 0 && !s.contains(p(4)), "it alone is too much");
    }
}
