//! Which blocks to request next, and what has come of those that were.
//!
//! A piece is in one of four states:
//!
//! ```text
//!   Missing --request, lease, block--> Begun --last block--> Checking --ok--> Have
//!      ^                                 |                      |              |
//!      +---nothing requested or got------+          bad         |     lose     |
//!      +--------------------------------------------------------+--------------+
//! ```
//!
//! Missing pieces that are wanted stand on one shelf a priority, sorted by availability (see
//! `shelf`): a `have` moves a piece over one border, a seed that comes or goes is a counter, and
//! what order equals have is settled by lot when picking. Begun pieces keep eight bytes a block
//! (see `part`); who requested how many blocks of which piece is kept beside them, so that a
//! connection finds the pieces it works on. The caller ends each request it was given, by
//! [`Picker::withdraw`] or [`Picker::on_block`], before the connection's slot is used again.
//!
//! The order of a pick is described in `pick`. What it costs, beside the blocks given out:
//! O(begun pieces with free blocks) for those; for a new piece O(1) from a seed, at most 256 steps
//! along the shelf from another peer, and, if these find nothing, one pass over the bitmaps of peer
//! and shelf (pieces / 64 words each). That pass is exact: a peer that has a wanted free block is
//! never sent away empty. A peer's bitfield costs O(its pieces); from a quarter of all pieces on,
//! the shelf is sorted anew instead, once, when next picked from.
//!
//! The picker does not know bytes, files, clocks or sockets, does not hash, and judges nobody: it
//! only remembers which [`PeerTag`] sent which block until the piece is settled.
//!
//! Invariants ([`Picker::invariants`]): a wanted missing piece is on the shelf of its priority; a
//! block's requests add up to what the connections have out in its piece; no block is leased twice
//! or after it was received; a piece with all blocks received is being checked.
//!
//! Pieces and blocks out of range are ignored (queries answer no), but checking them is the
//! decoder's business. Sources: [BEP 3](https://www.bittorrent.org/beps/bep_0003.html) (requests,
//! rarest first, end game), [BEP 6](https://www.bittorrent.org/beps/bep_0006.html) (suggested and
//! allowed-fast pieces).

mod part;
mod pick;
mod shelf;
#[cfg(test)]
mod tests;

use crate::bitfield::Bitfield;
use crate::id::{ConnKey, PeerTag, PieceIndex};
use crate::lazy::Lazy;
use crate::rng::Rng;
use part::{Blk, NOT_LOOSE, Part};
use shelf::{Shelf, bit, mark};
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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
    /// Helps with any piece that was begun before it begins one.
    Slow,
    /// Leaves pieces to fast peers that work on them.
    #[default]
    Medium,
    /// As medium, and gets whole pieces for itself.
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
    /// Blocks requested elsewhere may be picked too, if there is nothing else. Usually
    /// [`Picker::in_endgame`].
    pub endgame: bool,
    /// Whether a block is already outstanding at this connection.
    pub mine: &'a dyn Fn(BlockRef) -> bool,
}

/// What became of a block that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Not needed: it had come before, or is being received by the connection that has its lease.
    Duplicate,
    /// Taken.
    Block,
    /// Taken, and all blocks of the piece are in: hash it, then say [`Picker::on_piece_ok`] or
    /// [`Picker::on_piece_bad`]. Nothing of it is picked meanwhile.
    PieceDone,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Missing,
    Begun,
    Checking,
    Have,
}

/// What is kept for every piece: eight bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Missing: the place on its shelf. Begun or Checking: the key of its part.
    pos: u32,
    /// Peers that have it, those counted as seeds apart. Stops counting at the end of its range,
    /// which is far beyond the connections of any torrent.
    avail: u16,
    priority: Priority,
    state: State,
}

const _: () = assert!(size_of::<Entry>() == 8);

/// Parts whose room is kept for the next ones.
const SPARE: usize = 32;

/// The picker of one torrent.
#[derive(Debug)]
pub struct Picker {
    blocks_per_piece: u32,
    last_piece_blocks: u32,
    entries: Vec<Entry>,
    have: Bitfield,
    /// Pieces of a priority other than `Skip` that we lack, a bit each.
    wanted: Vec<u64>,
    wanted_left: u32,
    /// Wanted missing pieces by priority, `Low` first.
    shelves: [Lazy<Shelf>; 3],
    parts: Slab<Part>,
    /// Parts that are wanted, not being checked, and have free blocks.
    loose: Vec<u32>,
    /// Requests out, by connection and piece; never 0.
    jobs: BTreeMap<(ConnKey, u32), u32>,
    /// Connections with requests out.
    workers: usize,
    /// Runs of padding blocks: piece and first block, to the block behind the last.
    pads: BTreeMap<(u32, u32), u32>,
    /// Pieces that are asked of one connection at a time.
    alone: BTreeSet<u32>,
    /// Peers that have everything, as far as they said so at once.
    seeds: u32,
    sequential: bool,
    spare: Vec<Vec<Blk>>,
}

impl Picker {
    /// A picker for so many pieces, none of them there, all wanted, nobody having any. The dice are
    /// not thrown here: lots are drawn when picking.
    ///
    /// # Panics
    /// If there are pieces without blocks, or a last piece larger than the others.
    pub fn new(blocks_per_piece: u32, pieces: u32, last_piece_blocks: u32, _rng: &mut Rng) -> Self {
        assert!(last_piece_blocks > 0 && last_piece_blocks <= blocks_per_piece, "a layout has no such pieces");
        let entry = Entry { pos: 0, avail: 0, priority: Priority::Normal, state: State::Missing };
        let have = Bitfield::none(pieces);
        let all = Bitfield::all(pieces);
        let wanted: Vec<_> = (0..all.words()).map(|w| all.word(w)).collect();
        let shelves = [Lazy::new(), Lazy::with(Shelf::full(pieces, wanted.clone())), Lazy::new()];
        Self {
            blocks_per_piece,
            last_piece_blocks,
            entries: vec![entry; pieces as usize],
            have,
            wanted,
            wanted_left: pieces,
            shelves,
            parts: Slab::new(),
            loose: Vec::new(),
            jobs: BTreeMap::new(),
            workers: 0,
            pads: BTreeMap::new(),
            alone: BTreeSet::new(),
            seeds: 0,
            sequential: false,
            spare: Vec::new(),
        }
    }

    /// Blocks of the piece; 0 if there is no such piece.
    pub fn blocks_in(&self, piece: PieceIndex) -> u32 {
        match self.have.len().checked_sub(piece.get()) {
            None | Some(0) => 0,
            Some(1) => self.last_piece_blocks,
            Some(_) => self.blocks_per_piece,
        }
    }

    // ---- what peers have ----

    /// A peer has one more piece (`have`).
    pub fn on_peer_have(&mut self, piece: PieceIndex) {
        if piece.idx() < self.entries.len() {
            self.raise(piece.get());
        }
    }

    /// A peer no longer has a piece that was counted as its.
    pub fn on_peer_lost(&mut self, piece: PieceIndex) {
        if piece.idx() < self.entries.len() {
            self.lower(piece.get());
        }
    }

    /// A peer that had nothing so far has all of these. O(1) if that is everything.
    pub fn on_peer_bitfield(&mut self, have: &Bitfield) {
        if have.is_all() {
            self.seeds += 1;
            return;
        }
        self.spoil_for(have.count());
        let pieces = self.have.len();
        have.iter_set().take_while(|p| p.get() < pieces).for_each(|p| self.raise(p.get()));
    }

    /// A peer that had all of these has left. O(1) if it was a seed, unless it is the only one and
    /// had become one piece by piece.
    pub fn on_peer_gone(&mut self, have: &Bitfield) {
        // A seed that was counted piece by piece may stand in for one that was counted at once:
        // what is left adds up to the same.
        if have.is_all() && self.seeds > 0 {
            self.seeds -= 1;
            return;
        }
        self.spoil_for(have.count());
        let pieces = self.have.len();
        have.iter_set().take_while(|p| p.get() < pieces).for_each(|p| self.lower(p.get()));
    }

    /// How many peers have the piece.
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        self.entries.get(piece.idx()).map_or(0, |e| u32::from(e.avail) + self.seeds)
    }

    /// So many single moves would cost more than sorting the shelves anew.
    fn spoil_for(&mut self, moves: u32) {
        if moves >= self.have.len() / 4 {
            self.shelves.iter_mut().filter_map(Lazy::made).for_each(Shelf::spoil);
        }
    }

    fn raise(&mut self, piece: u32) {
        if let Some(shelf) = self.shelf_of(piece) {
            self.shelves[shelf].raise(piece, &mut self.entries);
        }
        let e = &mut self.entries[piece as usize];
        e.avail = e.avail.saturating_add(1);
    }

    fn lower(&mut self, piece: u32) {
        if self.entries[piece as usize].avail == 0 {
            // Counted as part of a seed that since lost a piece: count that seed piece by piece.
            let Some(seeds) = self.seeds.checked_sub(1) else { return };
            self.seeds = seeds;
            self.shelves.iter_mut().filter_map(Lazy::made).for_each(Shelf::spoil);
            for e in &mut self.entries {
                e.avail = e.avail.saturating_add(1);
            }
        }
        if let Some(shelf) = self.shelf_of(piece) {
            self.shelves[shelf].lower(piece, &mut self.entries);
        }
        self.entries[piece as usize].avail -= 1;
    }

    /// The shelf the piece stands on, if it does.
    fn shelf_of(&self, piece: u32) -> Option<usize> {
        let e = self.entries[piece as usize];
        if e.state == State::Missing { (e.priority as usize).checked_sub(1) } else { None }
    }

    // ---- what we have and want ----

    /// The pieces that are here and verified.
    pub fn have(&self) -> &Bitfield {
        &self.have
    }

    /// The piece is here and verified, from wherever.
    pub fn set_have(&mut self, piece: PieceIndex) {
        let Some(e) = self.entries.get(piece.idx()).copied() else { return };
        match e.state {
            State::Have => return,
            State::Missing => self.unshelve(piece.get()),
            State::Begun | State::Checking => self.close(e.pos),
        }
        self.entries[piece.idx()].state = State::Have;
        self.alone.remove(&piece.get());
        self.have.set(piece);
        self.want(piece.get(), false);
    }

    /// The piece is no longer here, though it was. Does nothing to a piece that was not.
    pub fn lose(&mut self, piece: PieceIndex) {
        if self.have.clear(piece) {
            self.entries[piece.idx()].state = State::Missing;
            self.drop_full_padding(piece.get());
            self.shelve(piece.get());
            self.want(piece.get(), self.priority(piece) != Priority::Skip);
        }
    }

    /// Nothing of the piece is here, and nothing of it is requested, whatever was known of it.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.lose(piece);
        let Some(e) = self.entries.get(piece.idx()).copied() else { return };
        if let State::Begun | State::Checking = e.state {
            self.close(e.pos);
            self.entries[piece.idx()].state = State::Missing;
            self.drop_full_padding(piece.get());
            self.shelve(piece.get());
        }
    }

    /// How much the piece is wanted from now on. Blocks of it that are requested stay requested.
    pub fn set_priority(&mut self, piece: PieceIndex, priority: Priority) {
        let Some(e) = self.entries.get(piece.idx()).copied() else { return };
        if e.priority == priority {
            return;
        }
        self.unshelve(piece.get());
        self.entries[piece.idx()].priority = priority;
        self.shelve(piece.get());
        if e.state == State::Begun {
            self.relist(e.pos);
        }
        self.want(piece.get(), e.state != State::Have && priority != Priority::Skip);
    }

    /// How much the piece is wanted; `Skip` if there is no such piece.
    pub fn priority(&self, piece: PieceIndex) -> Priority {
        self.entries.get(piece.idx()).map_or(Priority::Skip, |e| e.priority)
    }

    /// Whether new pieces are begun in order rather than rarest first.
    pub fn set_sequential(&mut self, sequential: bool) {
        self.sequential = sequential;
    }

    /// The block is here, though no peer sent it (resume). True if it was the last of its piece,
    /// which then is being checked, as after [`Taken::PieceDone`].
    ///
    /// The piece counts as begun; see [`Picker::mark_pad`] for blocks that are no sign of progress.
    pub fn mark_block_have(&mut self, piece: PieceIndex, block: u32) -> bool {
        let b = BlockRef { piece, block };
        if !self.missing_at_all(b) {
            return false;
        }
        let part = self.begin(piece.get());
        self.parts[part as usize].receive(block, None);
        self.settle(part)
    }

    /// These blocks are nothing but padding (BEP 47): never picked, never missing. Says nothing about
    /// the piece's being begun, and costs no memory for its blocks until it is. True if the whole
    /// piece is padding; then it is being checked, as after [`Taken::PieceDone`].
    pub fn mark_pad(&mut self, piece: PieceIndex, blocks: Range<u32>) -> bool {
        let (p, len) = (piece.get(), self.blocks_in(piece));
        let (mut start, mut end) = (blocks.start, blocks.end.min(len));
        if start >= end {
            return false;
        }
        let touches = |(&(p, s), &e): (&(u32, u32), &u32)| (s <= end && e >= start).then_some((p, s, e));
        let near: Vec<_> = self.pads.range((p, 0)..=(p, u32::MAX)).filter_map(touches).collect();
        for (p, s, e) in near {
            self.pads.remove(&(p, s));
            (start, end) = (start.min(s), end.max(e));
        }
        self.pads.insert((p, start), end);
        match self.entries[piece.idx()].state {
            State::Missing if end - start < len => false,
            State::Missing => {
                let part = self.begin(p);
                self.settle(part)
            }
            State::Begun => {
                let part = self.entries[piece.idx()].pos;
                let pads: Vec<_> = self.pads_of(p).collect();
                self.parts[part as usize].pad(pads.into_iter());
                self.settle(part)
            }
            State::Checking | State::Have => false,
        }
    }

    fn pads_of(&self, piece: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        self.pads.range((piece, 0)..=(piece, u32::MAX)).map(|(&(_, start), &end)| start..end)
    }

    /// A piece that is all padding and yet wrong: ask for it like for any other.
    fn drop_full_padding(&mut self, piece: u32) {
        let len = self.blocks_in(PieceIndex::new(piece));
        if self.pads.get(&(piece, 0)) == Some(&len) {
            self.pads.remove(&(piece, 0));
        }
    }

    /// Whether the peer has a piece that we want and lack. At worst one pass over both bitmaps.
    pub fn wants_any(&self, peer: &Bitfield) -> bool {
        if self.wanted_left == 0 || peer.is_none() {
            return false;
        }
        peer.is_all() || self.wanted.iter().enumerate().any(|(w, word)| word & peer.word(w) != 0)
    }

    /// Whether we want and lack the piece. One that is being checked is wanted still.
    pub fn wants(&self, piece: PieceIndex) -> bool {
        let (w, bit) = bit(piece.get());
        self.wanted.get(w).is_some_and(|word| word & bit != 0)
    }

    /// Pieces that we lack, wanted or not.
    pub fn left_pieces(&self) -> u32 {
        self.have.len() - self.have.count()
    }

    /// Pieces that we want and lack.
    pub fn wanted_left(&self) -> u32 {
        self.wanted_left
    }

    /// Blocks that are still to be received, counted down from what is wanted: exact but for a shorter last piece,
    /// and pieces begun that are not wanted any more. Looks at every piece begun.
    pub fn blocks_left(&self) -> u32 {
        let received: u32 = self.parts.iter().map(|(_, part)| part.received).sum();
        self.wanted_left.saturating_mul(self.blocks_per_piece).saturating_sub(received)
    }

    /// Whether every wanted piece is here.
    pub fn is_complete(&self) -> bool {
        self.wanted_left == 0
    }

    /// Whether every piece is here.
    pub fn is_seed(&self) -> bool {
        self.have.is_all()
    }

    /// Whether something is wanted, and every missing block of it is requested already. Pieces that no
    /// peer has do not count.
    pub fn in_endgame(&self) -> bool {
        let had = |piece: u32| self.seeds > 0 || self.entries[piece as usize].avail > 0;
        let untouched = |s: &Lazy<Shelf>| s.len() > 0 && (self.seeds > 0 || s.any_had(&self.entries));
        self.wanted_left > 0
            && !self.loose.iter().any(|&part| had(self.parts[part as usize].piece))
            && !self.shelves.iter().any(untouched)
    }

    // ---- requests and blocks ----

    /// Picks up to `req.count` blocks, appends them to `out`, and counts them as requested at
    /// `req.conn`. See the module `pick` for the order.
    pub fn pick(&mut self, req: Pick<'_>, rng: &mut Rng, out: &mut Vec<BlockRef>) {
        pick::pick(self, &req, rng, out);
    }

    /// A request has ended without its block: rejected, timed out, cancelled, choked away, or its
    /// connection closed. Nothing happens if it has not requested the block.
    pub fn withdraw(&mut self, b: BlockRef, conn: ConnKey) {
        if let Some(part) = self.part_of(b) {
            self.unrequest(part, b, conn);
            self.forget_if_blank(part);
        }
    }

    /// A block has come from a connection, and rests in its place. Ends its request and its lease.
    /// A block that somebody else has leased is not taken: it is being received there.
    pub fn on_block(&mut self, b: BlockRef, conn: ConnKey, tag: PeerTag) -> Taken {
        if let Some(part) = self.part_of(b) {
            self.unrequest(part, b, conn);
        }
        let leased = self.lease_of(b).is_some_and(|holder| holder != conn);
        if leased || !self.missing_at_all(b) {
            return Taken::Duplicate;
        }
        let part = self.begin(b.piece.get());
        self.parts[part as usize].receive(b.block, Some(tag));
        if self.settle(part) { Taken::PieceDone } else { Taken::Block }
    }

    /// Whether the block is still wanted: not received, its piece neither here nor being checked nor
    /// skipped.
    pub fn missing(&self, b: BlockRef) -> bool {
        self.priority(b.piece) != Priority::Skip && self.missing_at_all(b)
    }

    /// As [`Picker::missing`], wanted or not.
    fn missing_at_all(&self, b: BlockRef) -> bool {
        if b.block >= self.blocks_in(b.piece) {
            return false;
        }
        let e = self.entries[b.piece.idx()];
        match e.state {
            State::Missing => !self.pads_of(b.piece.get()).any(|pad| pad.contains(&b.block)),
            State::Begun => !self.parts[e.pos as usize].blocks[b.block as usize].received(),
            State::Checking | State::Have => false,
        }
    }

    /// `conn` is about to receive the block's payload into its place. False if it must not: it is
    /// received, or somebody else is at it. True again for the one who has it.
    pub fn lease(&mut self, b: BlockRef, conn: ConnKey) -> bool {
        if !self.missing_at_all(b) {
            return false;
        }
        let part = self.begin(b.piece.get());
        self.parts[part as usize].lease(b.block, conn)
    }

    /// `conn` has stopped receiving the block before its end. Nothing happens if it had no lease.
    pub fn unlease(&mut self, b: BlockRef, conn: ConnKey) {
        if let Some(part) = self.part_of(b) {
            self.parts[part as usize].unlease(b.block, conn);
            self.forget_if_blank(part);
        }
    }

    /// Who is receiving the block's payload.
    pub fn lease_of(&self, b: BlockRef) -> Option<ConnKey> {
        self.parts[self.part_of(b)? as usize].lease_of(b.block)
    }

    /// Before the block has come: whether it is requested at more than one connection. After: whether
    /// it is still requested at any, where it is to be cancelled and withdrawn.
    pub fn others(&self, b: BlockRef) -> bool {
        self.part_of(b).is_some_and(|part| {
            let blk = self.parts[part as usize].blocks[b.block as usize];
            blk.requests > u8::from(!blk.received())
        })
    }

    /// Requests that a connection has out.
    pub fn requested_at(&self, conn: ConnKey) -> u32 {
        self.jobs.range((conn, 0)..=(conn, u32::MAX)).map(|(_, n)| n).sum()
    }

    /// Requests that are out at all connections together.
    pub fn requests_out(&self) -> u32 {
        self.jobs.values().sum()
    }

    // ---- pieces ----

    /// The piece is verified. Who sent its blocks is forgotten.
    pub fn on_piece_ok(&mut self, piece: PieceIndex) {
        self.set_have(piece);
    }

    /// The piece that was being checked is wrong: all its blocks are missing again, and who sent them
    /// is forgotten, so ask for [`Picker::contributors`] before.
    pub fn on_piece_bad(&mut self, piece: PieceIndex) {
        let Some(e) = self.entries.get(piece.idx()).copied().filter(|e| e.state == State::Checking) else { return };
        self.drop_full_padding(piece.get());
        let pads: Vec<_> = self.pads_of(piece.get()).collect();
        let part = &mut self.parts[e.pos as usize];
        part.reset();
        part.pad(pads.into_iter());
        self.entries[piece.idx()].state = State::Begun;
        self.relist(e.pos);
        self.forget_if_blank(e.pos);
    }

    /// From now on, until the piece is here, it is asked of one connection at a time. For a piece that
    /// several have spoilt between them: the next attempt is one peer's alone, and tells who it was.
    pub fn fetch_alone(&mut self, piece: PieceIndex) {
        if piece.idx() < self.entries.len() && !self.have.get(piece) {
            self.alone.insert(piece.get());
        }
    }

    /// Whether [`Picker::fetch_alone`] was said of it, and it is not here yet.
    pub fn is_alone(&self, piece: PieceIndex) -> bool {
        self.alone.contains(&piece.get())
    }

    /// Whether `conn` may ask for blocks of this begun piece.
    fn may_join(&self, part: &Part, conn: ConnKey) -> bool {
        part.out == 0 || !self.alone.contains(&part.piece) || self.jobs.contains_key(&(conn, part.piece))
    }

    /// Who sent blocks of a piece that is begun or being checked: ascending, each once.
    pub fn contributors(&self, piece: PieceIndex) -> Vec<PeerTag> {
        let part = self.part_of(BlockRef { piece, block: 0 });
        let blocks = part.map_or(&[][..], |part| &self.parts[part as usize].blocks);
        let mut tags: Vec<_> = blocks.iter().filter_map(Blk::tag).collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// Who sent a block of a piece that is begun or being checked.
    pub fn contributor(&self, b: BlockRef) -> Option<PeerTag> {
        self.parts[self.part_of(b)? as usize].blocks[b.block as usize].tag()
    }

    /// The pieces that are partly here, or wholly but not checked, with a bit for each block that is:
    /// block 0 is the highest bit of byte 0. Pieces with nothing but padding are left out.
    pub fn partials(&self) -> impl Iterator<Item = (PieceIndex, Vec<u8>)> + '_ {
        let begun = self.parts.iter().map(|(_, part)| part).filter(|part| part.received > part.pads);
        begun.map(|part| (PieceIndex::new(part.piece), part.bitmap()))
    }

    // ---- inside ----

    /// The part of a block that exists, if its piece has one.
    fn part_of(&self, b: BlockRef) -> Option<u32> {
        let e = self.entries.get(b.piece.idx())?;
        let has_part = matches!(e.state, State::Begun | State::Checking);
        (has_part && b.block < self.blocks_in(b.piece)).then_some(e.pos)
    }

    fn want(&mut self, piece: u32, want: bool) {
        let (w, bit) = bit(piece);
        let was = self.wanted[w] & bit != 0;
        mark(&mut self.wanted, piece, want);
        self.wanted_left = self.wanted_left + u32::from(want) - u32::from(was);
    }

    fn shelve(&mut self, piece: u32) {
        if let Some(shelf) = self.shelf_of(piece) {
            self.shelves[shelf].insert(piece, &mut self.entries);
        }
    }

    fn unshelve(&mut self, piece: u32) {
        if let Some(shelf) = self.shelf_of(piece) {
            self.shelves[shelf].remove(piece, &mut self.entries);
            if self.shelves[shelf].len() == 0 {
                self.shelves[shelf] = Lazy::new();
            }
        }
    }

    /// The part of a missing or begun piece, made if need be.
    fn begin(&mut self, piece: u32) -> u32 {
        let e = self.entries[piece as usize];
        if e.state == State::Begun {
            return e.pos;
        }
        debug_assert_eq!(e.state, State::Missing, "a piece that is here is not begun");
        self.unshelve(piece);
        let len = self.blocks_in(PieceIndex::new(piece));
        let mut part = Part::new(piece, len, self.spare.pop().unwrap_or_default());
        part.pad(self.pads_of(piece));
        let key = self.parts.insert(part) as u32;
        self.entries[piece as usize] = Entry { pos: key, state: State::Begun, ..e };
        self.relist(key);
        key
    }

    /// Drops a part, and with it whatever is requested of it. The caller sets the piece's new state.
    fn close(&mut self, key: u32) {
        self.set_loose(key, false);
        let part = self.parts.remove(key as usize);
        if part.out > 0 {
            let stale: Vec<_> = self.jobs.keys().filter(|job| job.1 == part.piece).copied().collect();
            stale.into_iter().for_each(|job| self.drop_job(job));
        }
        if self.spare.len() < SPARE {
            self.spare.push(part.blocks);
        }
    }

    fn forget_if_blank(&mut self, key: u32) {
        let part = &self.parts[key as usize];
        let piece = part.piece;
        if part.is_blank() && self.entries[piece as usize].state == State::Begun {
            self.close(key);
            self.entries[piece as usize].state = State::Missing;
            self.shelve(piece);
        }
    }

    /// After blocks were received: keeps the list of loose parts, and tells whether the piece is done.
    fn settle(&mut self, key: u32) -> bool {
        let part = &self.parts[key as usize];
        let done = part.missing() == 0;
        if done {
            self.entries[part.piece as usize].state = State::Checking;
        }
        self.relist(key);
        done
    }

    /// Puts the part on the list of loose ones or takes it off.
    fn relist(&mut self, key: u32) {
        let part = &self.parts[key as usize];
        let e = self.entries[part.piece as usize];
        let loose = part.free > 0 && e.state == State::Begun && e.priority != Priority::Skip;
        self.set_loose(key, loose);
    }

    fn set_loose(&mut self, key: u32, loose: bool) {
        let at = self.parts[key as usize].loose_at;
        if loose && at == NOT_LOOSE {
            self.parts[key as usize].loose_at = self.loose.len() as u32;
            self.loose.push(key);
        } else if !loose && at != NOT_LOOSE {
            self.parts[key as usize].loose_at = NOT_LOOSE;
            self.loose.swap_remove(at as usize);
            if let Some(&moved) = self.loose.get(at as usize) {
                self.parts[moved as usize].loose_at = at;
            }
        }
    }

    fn is_worker(&self, conn: ConnKey) -> bool {
        self.jobs.range((conn, 0)..=(conn, u32::MAX)).next().is_some()
    }

    fn add_job(&mut self, conn: ConnKey, piece: u32, requests: u32) {
        self.workers += usize::from(!self.is_worker(conn));
        *self.jobs.entry((conn, piece)).or_insert(0) += requests;
    }

    fn drop_job(&mut self, job: (ConnKey, u32)) {
        if self.jobs.remove(&job).is_some() {
            self.workers -= usize::from(!self.is_worker(job.0));
        }
    }

    /// Ends a request of a connection, if it has one of this block.
    fn unrequest(&mut self, key: u32, b: BlockRef, conn: ConnKey) {
        let job = (conn, b.piece.get());
        let Some(requests) = self.jobs.get_mut(&job) else { return };
        let part = &mut self.parts[key as usize];
        if !part.unrequest(b.block, conn) {
            return;
        }
        *requests -= 1;
        if *requests == 0 {
            if part.fast == Some(conn) {
                part.fast = None;
            }
            self.drop_job(job);
        }
        self.relist(key);
    }

    /// Checks everything against everything.
    ///
    /// # Panics
    /// If the picker has a bug. O(pieces): for tests, the simulator and debug builds.
    pub fn invariants(&self) {
        self.shelves.iter().for_each(|s| s.invariants(&self.entries));
        let mut wanted_left = 0;
        for (i, e) in self.entries.iter().enumerate() {
            let piece = PieceIndex::new(i as u32);
            let wanted = e.state != State::Have && e.priority != Priority::Skip;
            wanted_left += u32::from(wanted);
            assert_eq!(self.wants(piece), wanted, "piece {i} in {e:?}");
            assert_eq!(self.have.get(piece), e.state == State::Have, "piece {i} in {e:?}");
            for (s, shelf) in self.shelves.iter().enumerate() {
                assert_eq!(shelf.contains(piece.get()), self.shelf_of(piece.get()) == Some(s), "piece {i} in {e:?}");
            }
            if let Some(part) = self.part_of(BlockRef { piece, block: 0 }) {
                let part = &self.parts[part as usize];
                assert_eq!((part.piece, part.blocks.len() as u32), (piece.get(), self.blocks_in(piece)));
                assert_eq!(part.missing() == 0, e.state == State::Checking, "piece {i} in {e:?}");
                assert!(e.state == State::Checking || !part.is_blank(), "piece {i} is blank");
                let loose = part.free > 0 && wanted;
                assert_eq!(part.loose_at != NOT_LOOSE, loose, "piece {i} with {} free", part.free);
            }
        }
        assert_eq!(wanted_left, self.wanted_left);
        let begun = self.entries.iter().filter(|e| matches!(e.state, State::Begun | State::Checking)).count();
        assert_eq!(begun, self.parts.len());
        assert!(self.loose.iter().enumerate().all(|(i, &k)| self.parts[k as usize].loose_at == i as u32));
        for (_, part) in &self.parts {
            part.invariants();
            let jobs = self.jobs.iter().filter(|(job, _)| job.1 == part.piece);
            assert_eq!(jobs.map(|(_, n)| n).sum::<u32>(), part.out, "requests of piece {}", part.piece);
            assert!(part.fast.is_none_or(|conn| self.jobs.contains_key(&(conn, part.piece))));
        }
        let in_parts: u32 = self.parts.iter().map(|(_, part)| part.out).sum();
        assert_eq!(self.jobs.values().sum::<u32>(), in_parts, "no requests of pieces not begun");
        assert!(self.jobs.values().all(|&n| n > 0));
        let mut workers: Vec<_> = self.jobs.keys().map(|job| job.0).collect();
        workers.dedup();
        assert_eq!(workers.len(), self.workers);
    }
}
