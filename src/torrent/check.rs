//! Finding out what on disk can be trusted when a torrent starts.
//!
//! ```text
//!   known of a piece                        same boot, same files     otherwise
//!   durable                                 believed                  believed, samples hashed
//!   verified                                believed                  hashed
//!   nothing, and no account of it           hashed where a file is there
//! ```
//!
//! What is known comes from this run, or the have-journal, or the resume record, in this order. Stamps of files are
//! reasons to distrust: a file that was complete, or was closed in good order, and looks different now has all its
//! pieces hashed; so has a file of which a sample is bad. Pieces that the earlier run had received but not
//! hashed when it stopped are hashed too. A bounded number is under way at once, so that the loop stays responsive.

use std::collections::VecDeque;

use super::journal::{self, Claims, Phase, Replay};
use super::resume::Record;
use super::{Cx, Life, Torrent, file};
use crate::api::{Action, FileStamp, Note, State};
use crate::bitfield::Bitfield;
use crate::id::PieceIndex;

/// Pieces being hashed at once.
const UNDER_WAY: u32 = 8;
/// Durable pieces hashed wherever they are, besides the first and the last of each file.
const SAMPLES: usize = 8;
/// Bytes hashed as samples, about: a torrent of many files would be read as a whole otherwise.
const SAMPLE_BYTES: u64 = 128 << 20;
/// With more to hash than this, a check that is interrupted begins anew.
const SHORT: u64 = 32 << 20;

/// A check under way.
#[derive(Debug)]
pub(super) struct Check {
    queue: VecDeque<PieceIndex>,
    under_way: u32,
    done: u32,
    total: u32,
    /// Believed without having been seen under this boot: one bad sample, and those in its files are hashed.
    unseen: Bitfield,
}

impl Check {
    pub(super) fn progress(&self) -> State {
        State::Checking { done: self.done, total: self.total }
    }
}

impl Torrent {
    /// Decides which pieces to trust, which to hash, and forgets all others.
    pub(super) fn plan_check(&mut self, cx: &mut Cx<'_>, files: &[Option<FileStamp>]) -> Check {
        // What an earlier start had begun is in the record, or lost.
        self.picker = self.new_picker(cx.rng);
        self.look_no_more();
        self.apply_priorities();
        let pieces = self.layout.pieces();
        let record = if self.verify { None } else { self.record.take() };
        let mut claims = self.gather_claims(files, record.as_ref());
        self.safe.restart(pieces);
        // Nobody has kept account of what these claims do not name.
        let unknown = claims.phase == Phase::Checking || claims.damaged;
        let had = record.as_ref().and_then(|r| Bitfield::from_wire(&r.have, pieces).ok());
        // A piece can be looked at when some file it touches has bytes there, and must be when
        // such a file is not what it should be.
        let mut present = vec![false; pieces as usize];
        let mut doubtful = vec![unknown; pieces as usize];
        let mut absent = vec![false; pieces as usize];
        for (i, f) in self.layout.files().iter().enumerate().filter(|(_, f)| !f.pad) {
            let now = files.get(i).copied().flatten();
            let then = record.as_ref().map(|r| r.files.get(i).copied().flatten());
            let differs = then.is_some_and(|then| match (then, now) {
                (Some(then), Some(now)) => !then.looks_like(&now),
                (then, now) => then.is_some() != now.is_some(),
            });
            let whole =
                || had.as_ref().is_some_and(|h| self.layout.pieces_of(file(i)).all(|p| h.get(PieceIndex::new(p))));
            let distrusted = differs && (claims.phase == Phase::Closed || whole());
            for p in self.layout.pieces_of(file(i)) {
                let at = PieceIndex::new(p);
                // Up to where the file must reach for this piece.
                let end = (self.layout.piece_offset(at) + u64::from(self.layout.piece_size(at))).min(f.offset + f.len);
                let short = now.is_none_or(|s| s.len < end - f.offset);
                let p = p as usize;
                present[p] |= now.is_some_and(|s| s.len > 0);
                doubtful[p] |= distrusted || (short && claims.believes(at));
                absent[p] |= now.is_none();
                if distrusted || short {
                    claims.doubt(at);
                }
            }
        }
        let mut queue = VecDeque::new();
        for p in (0..pieces).map(PieceIndex::new) {
            if claims.believes(p) && !absent[p.idx()] {
                self.picker.set_have(p);
                match claims.durable.get(p) {
                    true => _ = self.safe.pieces.set(p),
                    false => self.add_fresh(cx.now, p),
                }
            } else if (doubtful[p.idx()] || claims.doubted.get(p)) && present[p.idx()] {
                queue.push_back(p);
            }
        }
        let doubted: u64 = queue.iter().map(|p| u64::from(self.layout.piece_size(*p))).sum();
        let mut unseen = self.safe.pieces.clone();
        claims.seen.iter_set().for_each(|p| _ = unseen.clear(p));
        queue.extend(self.samples(cx, &unseen));
        queue.extend(self.mark_pads());
        if let Some(r) = &record {
            for (piece, blocks) in &r.partial {
                let known = piece.get() < pieces && !doubtful[piece.idx()] && !claims.doubted.get(*piece);
                let fits = known && blocks.len() == self.layout.blocks_in(*piece).div_ceil(8) as usize;
                let missing = fits && !self.picker.have().get(*piece);
                if missing && (self.is_whole(*piece, blocks) || self.restore_partial(*piece, blocks)) {
                    queue.push_back(*piece);
                }
            }
        }
        if !self.verify {
            // Until the torrent is active: this check may be interrupted.
            self.record = record;
        }
        let checking = !queue.is_empty() && (unknown || doubted > SHORT);
        self.note(cx, Note::Begin { rewrite: !claims.fits || !queue.is_empty(), checking });
        self.sync_when_due(cx);
        let total = queue.len() as u32;
        Check { queue, under_way: 0, done: 0, total, unseen }
    }

    /// What is known of the pieces, before the files' stamps are compared with the record's.
    fn gather_claims(&mut self, files: &[Option<FileStamp>], record: Option<&Record>) -> Claims {
        let pieces = self.layout.pieces();
        let mut claims = Claims::none(pieces);
        if self.verify {
            return claims;
        }
        if self.safe.ours {
            claims.durable = self.safe.pieces.clone();
            claims.seen = self.safe.pieces.clone();
            self.safe.volatile().for_each(|p| _ = claims.verified.set(p));
            self.safe.doubted.iter().for_each(|p| _ = claims.doubted.set(*p));
            (claims.phase, claims.fits) = (Phase::Closed, true);
        } else if let Some(journal) = &self.journal {
            let mut replay = Replay::of(&self.info_hash, journal, pieces);
            // Closed in good order there was a record, and it would tell what has changed since.
            replay.damaged |= self.garbled || (replay.phase == Phase::Closed && record.is_none());
            let mut stamp = |f: usize| files.get(f).copied().flatten();
            let generation = |p| journal::generation(&self.layout, PieceIndex::new(p), &mut stamp);
            let generations: Vec<_> = (0..pieces).map(generation).collect();
            claims = Claims::of(&replay, &generations, self.boot);
        } else if let Some(have) = record.and_then(|r| Bitfield::from_wire(&r.have, pieces).ok()) {
            // Stamps are all there is to judge by. Version 1 did not tell what was durable: its pieces are hashed.
            let durable = record.and_then(|r| r.durable.as_deref());
            claims.durable =
                durable.and_then(|d| Bitfield::from_wire(d, pieces).ok()).unwrap_or(Bitfield::none(pieces));
            have.iter_set().filter(|p| !claims.durable.get(*p)).for_each(|p| _ = claims.doubted.set(p));
            (claims.seen, claims.phase) = (claims.durable.clone(), Phase::Closed);
        }
        claims
    }

    /// Of pieces believed though nothing of this boot has seen them, some of each file and some wherever they are.
    fn samples(&self, cx: &mut Cx<'_>, unseen: &Bitfield) -> Vec<PieceIndex> {
        let all: Vec<_> = unseen.iter_set().collect();
        if all.is_empty() {
            return all;
        }
        let mut chosen: Vec<_> = (0..SAMPLES).map(|_| all[cx.rng.usize(..all.len())]).collect();
        let files = self.layout.files().len();
        let from = cx.rng.usize(..files);
        for f in (from..files).chain(0..from).map(file) {
            let mut of_file = self.layout.pieces_of(f).map(PieceIndex::new).filter(|p| unseen.get(*p));
            chosen.extend(of_file.next());
            chosen.extend(of_file.next_back());
            if chosen.len() as u64 * u64::from(self.layout.piece_len()) > SAMPLE_BYTES {
                break;
            }
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen
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
        let sample = self.picker.have().get(piece);
        if sample && !ok {
            self.distrust_files_of(cx, piece);
        } else if sample {
            // As expected.
        } else if ok {
            self.picker.set_have(piece);
            self.on_verified(cx, piece);
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

impl Torrent {
    /// A sample was bad: in its files nothing is believed that has not been seen.
    fn distrust_files_of(&mut self, cx: &mut Cx<'_>, piece: PieceIndex) {
        log::warn!("{}: piece {piece} is not what it was; its files are checked", self.meta.name.escape_debug());
        // What was known at the start is refuted: should this check be interrupted, the next looks at everything.
        self.verify = true;
        let Life::Checking(check) = &mut self.life else { return };
        let spans = self.layout.spans(self.layout.piece_offset(piece), u64::from(self.layout.piece_size(piece)));
        let mut lost = Vec::new();
        for span in spans.filter(|s| !s.pad) {
            for p in self.layout.pieces_of(span.file).map(PieceIndex::new) {
                if check.unseen.clear(p) {
                    self.picker.lose(p);
                    self.safe.pieces.clear(p);
                    lost.push(p);
                }
            }
        }
        check.queue.retain(|p| !lost.contains(p));
        check.total += lost.len() as u32 - 1;
        check.queue.extend(lost.iter().copied().filter(|p| *p != piece));
        for p in lost {
            self.note(cx, Note::Lost(p));
        }
    }
}

/// Whether a block is marked in the bits of a partial piece.
fn has_block(bits: &[u8], i: u32) -> bool {
    bits[(i / 8) as usize] & (0x80 >> (i % 8)) != 0
}
