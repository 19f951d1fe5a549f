//! Pieces nobody has begun, of one priority, sorted by how many peers have them.
//!
//! The set is a bitmap; the order is derived from it and may be out of date (`stale`), in which
//! case it is made anew by counting sort when next asked for. While it is kept, it is one array of
//! levels, the rarest last, so that taking the rarest moves least:
//!
//! ```text
//!   order   [ level 3 | level 2          | level 1   | level 0 ]
//!   begin    3^        2^                 1^          0^
//! ```
//!
//! A piece that moves to the next level is swapped with the one at the border, and the border moves
//! by one. Where a piece is in `order` is kept in its [`Entry`], which the picker owns.
//!
//! Invariants (when not stale): `order` holds each piece of the bitmap once; `begin` does not
//! increase; a piece of availability `a` lies in `begin[a] .. begin[a - 1]`; `len` counts the bitmap.

use super::Entry;
use crate::bitfield::{Bitfield, ones};
use crate::id::PieceIndex;
use crate::lazy::Empty;
use crate::rng::Rng;

/// Steps along the order before a search falls back to the bitmaps.
const WALK: usize = 256;
/// Draws before a search for any piece falls back to the bitmaps.
const TRIES: usize = 8;
/// Pieces found by way of the bitmaps, of which the rarest is taken.
const MATCHES: usize = 64;

/// The untouched pieces of one priority.
#[derive(Debug)]
pub(super) struct Shelf {
    /// A bit a piece, the first in the highest bit of word 0. Empty until the first piece.
    set: Vec<u64>,
    len: u32,
    order: Vec<u32>,
    /// Where each level begins in `order`.
    begin: Vec<u32>,
    stale: bool,
    /// No word before this one has a bit set.
    first: usize,
}

/// The word and the bit of a piece in a bitmap.
pub(super) const fn bit(piece: u32) -> (usize, u64) {
    (piece as usize / 64, 1 << (63 - piece % 64))
}

/// Sets or clears a piece in a bitmap.
pub(super) fn mark(set: &mut [u64], piece: u32, to: bool) {
    let (w, bit) = bit(piece);
    if to {
        set[w] |= bit;
    } else {
        set[w] &= !bit;
    }
}

impl Empty for Shelf {
    fn empty() -> &'static Self {
        static EMPTY: Shelf = Shelf::EMPTY;
        &EMPTY
    }
    fn fresh() -> Self {
        Self::EMPTY
    }
}

impl Shelf {
    const EMPTY: Self = Self { set: Vec::new(), len: 0, order: Vec::new(), begin: Vec::new(), stale: false, first: 0 };

    /// A shelf with all of so many pieces, which nobody has yet.
    pub(super) fn full(pieces: u32, set: Vec<u64>) -> Self {
        Self { set, len: pieces, stale: true, ..Self::EMPTY }
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn contains(&self, piece: u32) -> bool {
        let (w, bit) = bit(piece);
        self.set.get(w).is_some_and(|word| word & bit != 0)
    }

    /// Whether any of these pieces is had by a peer that is not a seed.
    pub(super) fn any_had(&self, entries: &[Entry]) -> bool {
        if self.stale {
            pieces(&self.set).any(|p| entries[p.idx()].avail > 0)
        } else {
            // All are in level 0 exactly when that begins at the front.
            self.begin.first().is_some_and(|&begin| begin > 0)
        }
    }

    /// The order is not worth keeping through what comes now.
    pub(super) fn spoil(&mut self) {
        self.stale = true;
    }

    pub(super) fn insert(&mut self, piece: u32, entries: &mut [Entry]) {
        if self.set.is_empty() {
            self.set = vec![0; entries.len().div_ceil(64)];
        }
        let (w, bit) = bit(piece);
        debug_assert!(self.set[w] & bit == 0, "piece {piece} is on the shelf already");
        self.set[w] |= bit;
        self.len += 1;
        self.first = self.first.min(w);
        if self.stale {
            return;
        }
        let level = usize::from(entries[piece as usize].avail);
        self.grow(level);
        self.order.push(piece);
        entries[piece as usize].pos = self.order.len() as u32 - 1;
        // It lies in level 0 now; move it up one border at a time.
        for l in 0..level {
            self.up(piece, l, entries);
        }
    }

    pub(super) fn remove(&mut self, piece: u32, entries: &mut [Entry]) {
        let (w, bit) = bit(piece);
        debug_assert!(self.contains(piece), "piece {piece} is not on the shelf");
        self.set[w] &= !bit;
        self.len -= 1;
        if self.stale {
            return;
        }
        for l in (0..usize::from(entries[piece as usize].avail)).rev() {
            self.down(piece, l, entries);
        }
        let pos = entries[piece as usize].pos as usize;
        self.order.swap_remove(pos);
        if let Some(&moved) = self.order.get(pos) {
            entries[moved as usize].pos = pos as u32;
        }
        if self.len == 0 {
            *self = Self { set: std::mem::take(&mut self.set), ..Self::EMPTY };
        }
    }

    /// One more peer has the piece; its entry still has the old figure.
    pub(super) fn raise(&mut self, piece: u32, entries: &mut [Entry]) {
        if !self.stale {
            let level = usize::from(entries[piece as usize].avail);
            self.grow(level + 1);
            self.up(piece, level, entries);
        }
    }

    /// One peer less has the piece; its entry still has the old figure, which is above 0.
    pub(super) fn lower(&mut self, piece: u32, entries: &mut [Entry]) {
        if !self.stale {
            self.down(piece, usize::from(entries[piece as usize].avail) - 1, entries);
        }
    }

    /// Makes levels up to `level` exist.
    fn grow(&mut self, level: usize) {
        if self.begin.is_empty() {
            self.begin.push(0);
        }
        // A level with nothing above it begins at 0, and so does an empty one above it.
        while self.begin.len() <= level {
            self.begin.push(0);
        }
    }

    /// Moves a piece from `level` over the border to the next.
    fn up(&mut self, piece: u32, level: usize, entries: &mut [Entry]) {
        let border = self.begin[level];
        self.swap(entries[piece as usize].pos, border, entries);
        self.begin[level] += 1;
    }

    /// Moves a piece over the border into `level` from the one above.
    fn down(&mut self, piece: u32, level: usize, entries: &mut [Entry]) {
        let border = self.begin[level] - 1;
        self.swap(entries[piece as usize].pos, border, entries);
        self.begin[level] -= 1;
    }

    fn swap(&mut self, a: u32, b: u32, entries: &mut [Entry]) {
        if a == b {
            return;
        }
        self.order.swap(a as usize, b as usize);
        for at in [a, b] {
            entries[self.order[at as usize] as usize].pos = at;
        }
    }

    /// Makes the order anew: O(pieces), and only if it is stale.
    pub(super) fn refresh(&mut self, entries: &mut [Entry]) {
        if !self.stale {
            return;
        }
        let mut count = vec![0u32];
        for p in pieces(&self.set) {
            let level = usize::from(entries[p.idx()].avail);
            if count.len() <= level {
                count.resize(level + 1, 0);
            }
            count[level] += 1;
        }
        let mut at = 0;
        for begin in count.iter_mut().rev() {
            at += std::mem::replace(begin, at);
        }
        self.begin.clone_from(&count);
        self.order.clear();
        self.order.resize(self.len as usize, 0);
        for p in pieces(&self.set) {
            let next = &mut count[usize::from(entries[p.idx()].avail)];
            self.order[*next as usize] = p.get();
            entries[p.idx()].pos = *next;
            *next += 1;
        }
        self.stale = false;
    }

    /// A piece the peer has, the rarest first, equals by lot. `None` only if it has none of these.
    pub(super) fn rarest(&mut self, peer: &Bitfield, entries: &mut [Entry], rng: &mut Rng) -> Option<u32> {
        self.refresh(entries);
        let mut walk = WALK;
        let mut end = self.order.len();
        while end > 0 && walk > 0 {
            // The level that the last piece before `end` is in.
            let level = usize::from(entries[self.order[end - 1] as usize].avail);
            let begin = self.begin[level] as usize;
            // Nobody but seeds has what is in level 0.
            if level > 0 || peer.is_all() {
                let run = &self.order[begin..end];
                let start = rng.usize(0..run.len());
                let found = (start..run.len()).chain(0..start).take(walk).find(|&i| has(peer, run[i]));
                if let Some(i) = found {
                    return Some(run[i]);
                }
                walk -= run.len().min(walk);
            }
            end = begin;
        }
        self.matches(peer, rng).take(MATCHES).min_by_key(|p| entries[p.idx()].avail).map(PieceIndex::get)
    }

    /// Any piece the peer has, whatever its availability. `None` only if it has none of these.
    pub(super) fn random(&mut self, peer: &Bitfield, entries: &mut [Entry], rng: &mut Rng) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        self.refresh(entries);
        let tried = (0..TRIES).map(|_| self.order[rng.usize(0..self.order.len())]).find(|&p| has(peer, p));
        tried.or_else(|| self.matches(peer, rng).next().map(PieceIndex::get))
    }

    /// The first piece the peer has. `None` only if it has none of these.
    pub(super) fn first(&mut self, peer: &Bitfield) -> Option<u32> {
        while self.set.get(self.first) == Some(&0) {
            self.first += 1;
        }
        let words = self.set.iter().enumerate().skip(self.first);
        words.flat_map(|(w, &word)| ones(word & peer.word(w), w)).next().map(PieceIndex::get)
    }

    /// The pieces the peer has, beginning anywhere.
    fn matches<'a>(&'a self, peer: &'a Bitfield, rng: &mut Rng) -> impl Iterator<Item = PieceIndex> + 'a {
        let words = self.set.len();
        let start = if words > 0 { rng.usize(0..words) } else { 0 };
        (start..words).chain(0..start).flat_map(move |w| ones(self.set[w] & peer.word(w), w))
    }

    pub(super) fn invariants(&self, entries: &[Entry]) {
        let set: u32 = self.set.iter().map(|w| w.count_ones()).sum();
        assert_eq!(set, self.len, "len counts the bitmap");
        assert!(self.set.iter().take(self.first).all(|w| *w == 0), "nothing before the first word");
        if self.stale {
            return;
        }
        assert_eq!(self.order.len(), self.len as usize, "the order holds what the bitmap holds");
        for (i, &p) in self.order.iter().enumerate() {
            assert!(self.contains(p));
            let e = &entries[p as usize];
            assert_eq!(e.pos as usize, i, "piece {p} knows its place");
            let level = usize::from(e.avail);
            let end = if level == 0 { self.order.len() } else { self.begin[level - 1] as usize };
            assert!((self.begin[level] as usize..end).contains(&i), "piece {p} lies in its level");
        }
        assert!(self.begin.windows(2).all(|w| w[0] >= w[1]) && self.begin.last().is_none_or(|&b| b == 0));
    }
}

fn pieces(set: &[u64]) -> impl Iterator<Item = PieceIndex> + '_ {
    set.iter().enumerate().flat_map(|(w, &word)| ones(word, w))
}

fn has(peer: &Bitfield, piece: u32) -> bool {
    peer.get(PieceIndex::new(piece))
}
