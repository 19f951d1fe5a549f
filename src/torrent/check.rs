//! Finding out what on disk can be trusted when a torrent starts.
//!
//! Three sources, in this order: a record of an earlier run whose file stamps still fit (trusted),
//! files that are there but do not fit it or have no record (hashed piece by piece), files that
//! are absent or empty (nothing to look at). Only the pieces in doubt are hashed, and those that the
//! earlier run had received but not hashed when it stopped; a bounded number of them is under way at
//! once, so that the loop stays responsive.

use std::collections::VecDeque;

use super::{Cx, Life, Torrent, file};
use crate::api::{Action, FileStamp, State};
use crate::bitfield::Bitfield;
use crate::id::PieceIndex;
use crate::rng::Rng;

/// Pieces being hashed at once.
const UNDER_WAY: u32 = 8;

/// A check under way.
#[derive(Debug)]
pub(super) struct Check {
    queue: VecDeque<PieceIndex>,
    under_way: u32,
    done: u32,
    total: u32,
}

impl Check {
    pub(super) fn progress(&self) -> State {
        State::Checking { done: self.done, total: self.total }
    }
}

impl Torrent {
    /// Decides which pieces to trust, which to hash, and forgets all others.
    pub(super) fn plan_check(&mut self, files: &[Option<FileStamp>], rng: &mut Rng) -> Check {
        // What an earlier start had begun is in the record, or lost.
        self.picker = self.new_picker(rng);
        self.apply_priorities();
        let pieces = self.layout.pieces();
        let record = if self.verify { None } else { self.record.take() };
        let trusted = record.as_ref().and_then(|r| Some((Bitfield::from_wire(&r.have, pieces).ok()?, &r.files)));
        // A piece can be looked at when some file it touches has bytes there, and must be when
        // such a file is not what the record says.
        let mut present = vec![false; pieces as usize];
        let mut doubtful = vec![false; pieces as usize];
        let mut absent = vec![false; pieces as usize];
        for (i, f) in self.layout.files().iter().enumerate() {
            let now = files.get(i).copied().flatten();
            let same = match &trusted {
                Some((_, then)) => then.get(i).is_some_and(|then| *then == now),
                None => false,
            };
            for p in self.layout.pieces_of(file(i)) {
                let (p, piece) = (p as usize, PieceIndex::new(p));
                // Whatever the record says, what lies behind the end of a file is not there.
                let end = self.layout.piece_offset(piece) + u64::from(self.layout.piece_size(piece));
                let short = now.is_some_and(|s| s.len < end.min(f.offset + f.len) - f.offset);
                doubtful[p] |= !f.pad && short && trusted.as_ref().is_some_and(|(have, _)| have.get(piece));
                present[p] |= !f.pad && now.is_some_and(|s| s.len > 0);
                doubtful[p] |= !f.pad && !same;
                absent[p] |= !f.pad && now.is_none();
            }
        }
        let mut queue = VecDeque::new();
        for p in (0..pieces).map(PieceIndex::new) {
            let had = trusted.as_ref().is_some_and(|(have, _)| have.get(p));
            let sure = !doubtful[p.idx()];
            if had && sure && !absent[p.idx()] {
                self.picker.set_have(p);
            } else if !sure && present[p.idx()] {
                queue.push_back(p);
            }
        }
        queue.extend(self.mark_pads());
        if let Some(r) = &record {
            for (piece, blocks) in &r.partial {
                let known = piece.get() < pieces && !doubtful[piece.idx()] && !self.picker.have().get(*piece);
                let fits = blocks.len() == self.layout.blocks_in(*piece).div_ceil(8) as usize;
                if known && fits && (self.is_whole(*piece, blocks) || self.restore_partial(*piece, blocks)) {
                    queue.push_back(*piece);
                }
            }
        }
        if !self.verify {
            // Until the torrent is active: this check may be interrupted.
            self.record = record;
        }
        let total = queue.len() as u32;
        Check { queue, under_way: 0, done: 0, total }
    }

    /// All blocks had come when the torrent stopped, but the piece was not hashed any more.
    fn is_whole(&self, piece: PieceIndex, blocks: &[u8]) -> bool {
        (0..self.layout.blocks_in(piece)).all(|i| has_block(blocks, i))
    }

    /// Marks the blocks of an unfinished piece. True when with its pads that is all of it.
    fn restore_partial(&mut self, piece: PieceIndex, blocks: &[u8]) -> bool {
        let there = (0..self.layout.blocks_in(piece)).filter(|i| has_block(blocks, *i));
        there.map(|i| self.picker.mark_block_have(piece, i)).filter(|whole| *whole).count() > 0
    }

    /// Keeps pieces under way, or begins to trade when none is left.
    pub(super) fn step_check(&mut self, cx: &mut Cx<'_>) {
        let Life::Checking(check) = &mut self.life else { return };
        while check.under_way < UNDER_WAY {
            let Some(piece) = check.queue.pop_front() else { break };
            check.under_way += 1;
            cx.actions.push_back(Action::Hash {
                torrent: self.key,
                piece,
                expected: self.meta.hashes[piece.idx()],
                // Of a piece of nothing but pads there is nothing at rest.
                at_rest: self.layout.wanted_len(piece) > 0,
                blocks: false,
            });
        }
        if check.under_way == 0 {
            self.activate(cx);
        }
    }

    /// A piece on disk was hashed.
    pub(super) fn on_checked(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, ok: bool) {
        let Life::Checking(check) = &mut self.life else { return };
        check.under_way = check.under_way.saturating_sub(1);
        check.done += 1;
        if ok {
            self.picker.set_have(piece);
        } else if self.layout.wanted_len(piece) > 0 {
            self.picker.on_piece_bad(piece);
        } else {
            // It stays as it is, neither here nor asked for: no peer has other zeros.
            log::warn!(
                "{}: piece {piece} is padding, and its hash is not that of zeros",
                self.meta.name.escape_debug()
            );
        }
        self.step_check(cx);
    }
}

/// Whether a block is marked in the bits of a partial piece.
fn has_block(bits: &[u8], i: u32) -> bool {
    bits[(i / 8) as usize] & (0x80 >> (i % 8)) != 0
}
