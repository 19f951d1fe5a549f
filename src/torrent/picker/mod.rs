//! (being written)
#![allow(unused_variables, clippy::todo, missing_docs)]

use crate::bitfield::Bitfield;
use crate::id::{ConnKey, PeerTag, PieceIndex};
use crate::rng::Rng;

/// How much a piece is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Priority {
    /// Not at all.
    Skip,
    /// After everything else.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Before everything else.
    High,
}

/// How fast a peer is, compared with the others of the torrent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Speed {
    /// Shares pieces with others.
    Slow,
    /// In between.
    #[default]
    Medium,
    /// Gets whole pieces for itself.
    Fast,
}

/// A block by its number within the piece.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockRef {
    /// The piece.
    pub piece: PieceIndex,
    /// The block, counted from 0 within the piece.
    pub block: u32,
}

/// What one connection asks of the picker.
#[derive(Clone, Copy)]
pub struct Pick<'a> {
    /// The connection that will request the blocks.
    pub conn: ConnKey,
    /// What its peer has.
    pub have: &'a Bitfield,
    /// How many blocks it can take.
    pub count: usize,
    /// How fast it is.
    pub speed: Speed,
    /// Only blocks of these pieces (allowed fast, BEP 6, while choked).
    pub only: Option<&'a [PieceIndex]>,
    /// Pieces its peer suggested (BEP 6).
    pub suggested: &'a [PieceIndex],
    /// Blocks requested elsewhere may be picked too, if there is nothing else.
    pub endgame: bool,
    /// Whether a block is already outstanding at this connection.
    pub mine: &'a dyn Fn(BlockRef) -> bool,
}

/// What became of a block that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Not needed.
    Duplicate,
    /// Taken.
    Block,
    /// Taken, and the last one of its piece.
    PieceDone,
}

pub struct Picker {}

impl Picker {
    pub fn new(blocks_per_piece: u32, pieces: u32, last_piece_blocks: u32, rng: &mut Rng) -> Self {
        todo!()
    }
    pub fn on_peer_have(&mut self, piece: PieceIndex) {}
    /// The peer no longer has a piece it had.
    pub fn on_peer_lost(&mut self, piece: PieceIndex) {}
    pub fn on_peer_bitfield(&mut self, have: &Bitfield) {}
    pub fn on_peer_gone(&mut self, have: &Bitfield) {}
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        todo!()
    }
    pub fn have(&self) -> &Bitfield {
        todo!()
    }
    pub fn set_have(&mut self, piece: PieceIndex) {}
    pub fn lose(&mut self, piece: PieceIndex) {}
    pub fn set_priority(&mut self, piece: PieceIndex, priority: Priority) {}
    pub fn priority(&self, piece: PieceIndex) -> Priority {
        todo!()
    }
    pub fn set_sequential(&mut self, sequential: bool) {}
    /// For resume: true if that made the piece complete, to be hashed.
    pub fn mark_block_have(&mut self, piece: PieceIndex, block: u32) -> bool {
        todo!()
    }
    /// For pad files: costs nothing per block, does not start the piece. True if the piece is nothing but padding: hash it.
    pub fn mark_pad(&mut self, piece: PieceIndex, blocks: std::ops::Range<u32>) -> bool {
        todo!()
    }
    pub fn wants_any(&self, peer: &Bitfield) -> bool {
        todo!()
    }
    pub fn wants(&self, piece: PieceIndex) -> bool {
        todo!()
    }
    pub fn pick(&mut self, req: Pick<'_>, rng: &mut Rng, out: &mut Vec<BlockRef>) {}
    pub fn withdraw(&mut self, b: BlockRef, conn: ConnKey) {}
    pub fn on_block(&mut self, b: BlockRef, conn: ConnKey, tag: PeerTag) -> Taken {
        todo!()
    }
    pub fn missing(&self, b: BlockRef) -> bool {
        todo!()
    }
    pub fn lease(&mut self, b: BlockRef, conn: ConnKey) -> bool {
        todo!()
    }
    pub fn unlease(&mut self, b: BlockRef, conn: ConnKey) {}
    pub fn lease_of(&self, b: BlockRef) -> Option<ConnKey> {
        todo!()
    }
    pub fn others(&self, b: BlockRef) -> bool {
        todo!()
    }
    pub fn on_piece_ok(&mut self, piece: PieceIndex) {}
    pub fn on_piece_bad(&mut self, piece: PieceIndex) {}
    pub fn contributors(&self, piece: PieceIndex) -> Vec<PeerTag> {
        todo!()
    }
    pub fn contributor(&self, b: BlockRef) -> Option<PeerTag> {
        todo!()
    }
    pub fn partials(&self) -> impl Iterator<Item = (PieceIndex, Vec<u8>)> + '_ {
        std::iter::empty()
    }
    pub fn left_pieces(&self) -> u32 {
        todo!()
    }
    pub fn wanted_left(&self) -> u32 {
        todo!()
    }
    pub fn is_complete(&self) -> bool {
        todo!()
    }
    pub fn is_seed(&self) -> bool {
        todo!()
    }
    pub fn in_endgame(&self) -> bool {
        todo!()
    }
    /// Blocks of the piece.
    pub fn blocks_in(&self, piece: PieceIndex) -> u32 {
        todo!()
    }
    pub fn invariants(&self) {}
}
