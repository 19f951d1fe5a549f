//! The order of a pick.
//!
//! 1. Pieces this connection works on already: neighbouring blocks go to one peer, in order, which
//!    is what the receive path predicts.
//! 2. Pieces its peer suggested.
//! 3. For each priority, the highest first: begun pieces with free blocks, those with the fewest
//!    first, where pieces that a fast peer works on are left to it by all but slow ones unless too
//!    many pieces are begun; then new pieces, by lot until four are here, so that there is something
//!    to trade soon, and after that the rarest, by lot among equals. In order instead, if that was
//!    asked for.
//! 4. Free blocks of any begun piece after all.
//! 5. If none of this gave a single block, and if the caller allows it: blocks requested elsewhere,
//!    those requested least first, at two connections at most, or three when few are missing.
//!
//! A piece that is fetched alone ([`Picker::fetch_alone`]) is passed over everywhere while another
//! connection has requests out in it.
//!
//! With `only`, the pieces listed there are all there is, in that order.

use super::{BlockRef, Part, Pick, Picker, Priority, Speed, State};
use crate::id::PieceIndex;
use crate::rng::Rng;
use std::cmp::Reverse;

/// Pieces that are begun by lot rather than by rarity, as long as so few are here.
const FIRST_PIECES: u32 = 4;
/// Blocks of begun pieces with free blocks beyond which finishing these comes first (32 MiB).
const MANY_BLOCKS: usize = 2048;
/// Missing blocks below which one may be requested thrice.
const FEW_MISSING: u64 = 20;
/// Blocks looked at in one call for those worth requesting twice.
const LOOK: usize = 8192;

/// One call's state.
struct Turn<'p, 'r> {
    picker: &'p mut Picker,
    req: &'p Pick<'r>,
    out: &'p mut Vec<BlockRef>,
    /// What `out` grows to at most.
    full: usize,
}

pub(super) fn pick(picker: &mut Picker, req: &Pick<'_>, rng: &mut Rng, out: &mut Vec<BlockRef>) {
    if picker.wanted_left == 0 || req.count == 0 || req.have.is_none() {
        return;
    }
    let start = out.len();
    let mut turn = Turn { picker, req, full: start.saturating_add(req.count), out };
    match req.only {
        Some(only) => turn.named(only),
        None => turn.anywhere(rng),
    }
    if turn.out.len() == start && req.endgame {
        turn.again(rng);
    }
}

impl Turn<'_, '_> {
    fn is_full(&self) -> bool {
        self.out.len() >= self.full
    }

    fn anywhere(&mut self, rng: &mut Rng) {
        self.own();
        self.named(self.req.suggested);
        let crowded = self.crowded();
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            self.begun(Some(priority), crowded || self.req.speed == Speed::Slow);
            self.untouched(priority, rng);
        }
        self.begun(None, true);
    }

    /// Free blocks of the pieces the connection works on.
    fn own(&mut self) {
        let conn = self.req.conn;
        let mut from = 0;
        while !self.is_full() && !self.picker.loose.is_empty() {
            let Picker { jobs, entries, parts, .. } = &*self.picker;
            let is_loose = |piece: &u32| {
                let e = entries[*piece as usize];
                e.state == State::Begun && parts[e.pos as usize].free > 0
            };
            let mut mine = jobs.range((conn, from)..=(conn, u32::MAX)).map(|(job, _)| job.1);
            let Some(piece) = mine.find(is_loose) else { return };
            self.take_if_wanted(PieceIndex::new(piece), false);
            from = piece + 1;
        }
    }

    /// Free blocks of these pieces, begun or not.
    fn named(&mut self, pieces: &[PieceIndex]) {
        for &piece in pieces {
            if self.is_full() {
                return;
            }
            self.take_if_wanted(piece, true);
        }
    }

    fn take_if_wanted(&mut self, piece: PieceIndex, begin: bool) {
        if !self.picker.wants(piece) || !self.req.have.get(piece) {
            return;
        }
        let e = self.picker.entries[piece.idx()];
        match e.state {
            State::Missing if begin => {
                let part = self.picker.begin(piece.get());
                self.take(part);
            }
            State::Begun if self.picker.may_join(&self.picker.parts[e.pos as usize], self.req.conn) => self.take(e.pos),
            State::Missing | State::Begun | State::Checking | State::Have => {}
        }
    }

    /// Begun pieces with free blocks; `shared`: those that a fast peer wants to itself as well.
    fn begun(&mut self, priority: Option<Priority>, shared: bool) {
        while !self.is_full() {
            let picker = &*self.picker;
            let usable = |part: &Part| {
                let foreign = part.fast.is_some_and(|conn| conn != self.req.conn);
                let right = priority.is_none_or(|p| picker.entries[part.piece as usize].priority == p);
                let open = picker.may_join(part, self.req.conn);
                right && open && (shared || !foreign) && self.req.have.get(PieceIndex::new(part.piece))
            };
            let rank = |part: &Part| {
                let e = picker.entries[part.piece as usize];
                let progress = if picker.sequential { part.piece } else { part.free };
                (Reverse(e.priority), progress, e.avail, part.piece)
            };
            let parts = picker.loose.iter().map(|&key| (key, &picker.parts[key as usize]));
            let best = parts.filter(|(_, part)| usable(part)).min_by_key(|(_, part)| rank(part));
            let Some((key, _)) = best else { return };
            self.take(key);
        }
    }

    /// Pieces nobody has begun.
    fn untouched(&mut self, priority: Priority, rng: &mut Rng) {
        let shelf = priority as usize - 1;
        while !self.is_full() && self.picker.shelves[shelf].len() > 0 {
            let Picker { shelves, entries, have, sequential, .. } = &mut *self.picker;
            let (shelf, peer) = (&mut shelves[shelf], self.req.have);
            let piece = if *sequential {
                shelf.first(peer)
            } else if have.count() < FIRST_PIECES {
                shelf.random(peer, entries, rng)
            } else {
                shelf.rarest(peer, entries, rng)
            };
            let Some(piece) = piece else { return };
            let part = self.picker.begin(piece);
            self.take(part);
        }
    }

    /// Requests free blocks of the part, in order.
    fn take(&mut self, key: u32) {
        let conn = self.req.conn;
        let part = &mut self.picker.parts[key as usize];
        let piece = PieceIndex::new(part.piece);
        let before = self.out.len();
        let mut block = part.first;
        while part.free > 0 && self.out.len() < self.full {
            if part.blocks[block as usize].free() {
                part.request(block, self.req.conn);
                self.out.push(BlockRef { piece, block });
            }
            block += 1;
        }
        part.first = block;
        let requests = (self.out.len() - before) as u32;
        if requests > 0 {
            if self.req.speed == Speed::Fast && part.fast.is_none() {
                part.fast = Some(conn);
            }
            self.picker.add_job(conn, piece.get(), requests);
            self.picker.relist(key);
        }
    }

    /// Whether so many pieces are begun that finishing them comes before everything.
    fn crowded(&self) -> bool {
        let loose = self.picker.loose.len();
        loose * 2 > self.picker.workers.max(1) * 3 || loose * self.picker.blocks_per_piece as usize > MANY_BLOCKS
    }

    /// Blocks that are requested elsewhere.
    fn again(&mut self, rng: &mut Rng) {
        let parts = self.picker.parts.capacity();
        if self.picker.parts.is_empty() {
            return;
        }
        let most = if self.picker.missing_blocks() < FEW_MISSING { 3 } else { 2 };
        let (start, mut look) = (rng.usize(0..parts), LOOK);
        for requests in 1..most {
            for key in (start..parts).chain(0..start) {
                if self.is_full() || look == 0 {
                    return;
                }
                self.take_again(key as u32, requests, &mut look);
            }
        }
    }

    fn take_again(&mut self, key: u32, requests: u8, look: &mut usize) {
        let Some(part) = self.picker.parts.get(key as usize) else { return };
        if !self.picker.may_join(part, self.req.conn) {
            return;
        }
        let part = &mut self.picker.parts[key as usize];
        let piece = PieceIndex::new(part.piece);
        let e = self.picker.entries[piece.idx()];
        let named = self.req.only.is_none_or(|only| only.contains(&piece));
        if e.state != State::Begun || e.priority == Priority::Skip || !named || !self.req.have.get(piece) {
            return;
        }
        let before = self.out.len();
        for block in 0..part.blocks.len() as u32 {
            if self.out.len() >= self.full || *look == 0 {
                break;
            }
            *look -= 1;
            let (blk, b) = (part.blocks[block as usize], BlockRef { piece, block });
            if !blk.received()
                && blk.requests == requests
                && !part.is_requested_by(block, self.req.conn)
                && !(self.req.mine)(b)
            {
                part.request(block, self.req.conn);
                self.out.push(b);
            }
        }
        let requests = (self.out.len() - before) as u32;
        if requests > 0 {
            self.picker.add_job(self.req.conn, piece.get(), requests);
        }
    }
}

impl Picker {
    /// Wanted blocks that have not come; at least, if some pieces are short.
    fn missing_blocks(&self) -> u64 {
        let untouched: u64 = self.shelves.iter().map(|s| u64::from(s.len())).sum();
        let begun = self.parts.iter().map(|(_, part)| part);
        let begun = begun.filter(|part| self.wants(PieceIndex::new(part.piece)));
        untouched * u64::from(self.blocks_per_piece) + begun.map(|part| u64::from(part.missing())).sum::<u64>()
    }
}
