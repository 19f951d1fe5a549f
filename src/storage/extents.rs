//! Extent buffers: downloaded bytes that wait, in order, to become one large write.
//!
//! Each piece is cut into extents of `unit` bytes (the last one shorter). An extent exists only while it holds
//! bytes that are not in a file yet. It knows which of its bytes are valid:
//!
//! ```text
//!   piece    |extent 0         |extent 1         |extent 2   |
//!   extent 1 |vvvvvv....vvvvvvv|      v valid, . room that may be planned or half read into
//! ```
//!
//! What it does not do: read, write or hash. Who makes an extent fills its pads; who empties one writes it out first.
//!
//! Invariants ([`Pool::invariants`]): the bytes of all buffers, free ones included, are `held`; `held` exceeds the
//! limit only by buffers made with `beyond`; the index and the live slots agree; valid ranges are sorted, apart, and
//! within the extent.
//!
//! Freed buffers are kept and reused last-in first-out, because those are still in the processor's cache
//! and their pages exist.

use super::iov::{HeapLender, IoVecs};
use crate::id::TorrentKey;
use std::collections::BTreeMap;

/// Smallest and largest extent. A larger one saves no time, and of many pieces under way at once fewer would fit.
const UNIT: (u32, u32) = (64 << 10, 256 << 10);

/// Byte ranges of an extent, sorted and apart.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// Adds `from..to`; how many of its bytes are new.
    pub(super) fn add(&mut self, from: u32, to: u32) -> u32 {
        if from >= to {
            return 0;
        }
        // Those that touch or overlap become one.
        let first = self.0.partition_point(|r| r.1 < from);
        let last = first + self.0[first..].partition_point(|r| r.0 <= to);
        let old: u32 = self.0[first..last].iter().map(|r| r.1 - r.0).sum();
        let merged = match self.0.get(first..last) {
            Some([a, .., b]) => (a.0.min(from), b.1.max(to)),
            Some([a]) => (a.0.min(from), a.1.max(to)),
            _ => (from, to),
        };
        if first < last {
            self.0[first] = merged;
            self.0.drain(first + 1..last);
        } else {
            self.0.insert(first, merged);
        }
        merged.1 - merged.0 - old
    }

    /// The range at or after `at`: from where, and to where.
    pub(super) fn next(&self, at: u32) -> Option<(u32, u32)> {
        let r = self.0.get(self.0.partition_point(|r| r.1 <= at))?;
        Some((r.0.max(at), r.1))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn total(&self) -> u32 {
        self.iter().map(|(a, b)| b - a).sum()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Which extent: torrent, piece, and number within the piece.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ExtentKey {
    pub(super) t: TorrentKey,
    pub(super) piece: u32,
    pub(super) nth: u32,
}

#[derive(Debug)]
pub(super) struct Extent {
    /// Which one it is, while it is in use.
    key: Option<ExtentKey>,
    pub(super) len: u32,
    pub(super) valid: Ranges,
    pub(super) generation: u32,
    /// When it was last asked for, in the pool's own count.
    used: u64,
}

/// All extents and their buffers.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Vec<Extent>,
    /// Beside `slots`, so that addresses can be had of several at once.
    bufs: Vec<Vec<u8>>,
    free: Vec<u32>,
    index: BTreeMap<ExtentKey, u32>,
    unit: u32,
    limit: usize,
    held: usize,
    /// Buffers taken off it, which will be given back: count among those held.
    away: usize,
    dirty: usize,
    count: u64,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        // At least 16 extents fit the limit, so that several pieces can be under way; 64 do by default.
        let unit = u32::try_from(limit / 16).unwrap_or(u32::MAX).clamp(UNIT.0, UNIT.1);
        let unit = 1 << unit.ilog2();
        Self {
            slots: Vec::new(),
            bufs: Vec::new(),
            free: Vec::new(),
            index: BTreeMap::new(),
            unit,
            limit,
            held: 0,
            away: 0,
            dirty: 0,
            count: 0,
        }
    }

    /// Bytes of a full extent.
    pub(super) const fn unit(&self) -> u32 {
        self.unit
    }
    /// Whether two whole pieces of that size fit beside half a third. They are then hashed when they are complete,
    /// two at once; of larger ones each is hashed as it grows, or it would leave before.
    pub(super) fn holds_two(&self, size: u32) -> bool {
        self.limit / 5 >= size as usize / 2
    }
    /// Most bytes of memory in buffers.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }
    /// Bytes of memory in buffers.
    pub(super) const fn held(&self) -> usize {
        self.held
    }
    /// Whether no extent is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
    /// Valid bytes that are not in a file yet.
    pub(super) const fn dirty(&self) -> usize {
        self.dirty
    }
    /// Whether an eighth or less of the room is left.
    pub(super) fn tight(&self) -> bool {
        let free: usize = self.free.iter().map(|&s| self.bufs[s as usize].len()).sum();
        // What is away comes back without anybody's doing.
        (self.held - free - self.away) / 7 >= self.limit / 8
    }

    /// The extent of that name, if it is in use.
    pub(super) fn find(&mut self, key: ExtentKey) -> Option<u32> {
        let slot = *self.index.get(&key)?;
        self.count += 1;
        self.slots[slot as usize].used = self.count;
        Some(slot)
    }

    /// The same without counting as a use.
    pub(super) fn peek(&self, key: ExtentKey) -> Option<u32> {
        self.index.get(&key).copied()
    }

    /// The extents of a piece, in order.
    pub(super) fn of_piece(&self, t: TorrentKey, piece: u32) -> impl Iterator<Item = (ExtentKey, u32)> + '_ {
        let key = |nth| ExtentKey { t, piece, nth };
        self.index.range(key(0)..=key(u32::MAX)).map(|(k, s)| (*k, *s))
    }

    /// The first extent of a piece.
    pub(super) fn first_of_piece(&self, t: TorrentKey, piece: u32) -> Option<u32> {
        self.of_piece(t, piece).next().map(|(_, slot)| slot)
    }

    /// The first extent of a torrent.
    pub(super) fn first_of(&self, t: TorrentKey) -> Option<(ExtentKey, u32)> {
        let from = ExtentKey { t, piece: 0, nth: 0 };
        self.index.range(from..).next().filter(|(k, _)| k.t == t).map(|(k, s)| (*k, *s))
    }

    /// Takes an extent of `len` bytes into use; `None` when there is no room. With `beyond` there always is.
    pub(super) fn make(&mut self, key: ExtentKey, len: u32, beyond: bool) -> Option<u32> {
        debug_assert!(len > 0 && len <= self.unit && !self.index.contains_key(&key));
        let size = (len as usize).next_power_of_two().max(16 << 10);
        let slot = match self.free.iter().rposition(|&s| self.bufs[s as usize].len() == size) {
            Some(i) => self.free.remove(i),
            None => {
                while self.held + size > self.limit {
                    // Free buffers of another size make way.
                    match self.free.iter().position(|&s| !self.bufs[s as usize].is_empty()) {
                        Some(i) => self.drop_buffer(self.free[i]),
                        None if beyond => break,
                        None => return None,
                    }
                }
                let slot = match self.free.iter().position(|&s| self.bufs[s as usize].is_empty()) {
                    Some(i) => self.free.remove(i),
                    None => {
                        self.slots.push(Extent { key: None, len: 0, valid: Ranges::default(), generation: 0, used: 0 });
                        self.bufs.push(Vec::new());
                        self.slots.len() as u32 - 1
                    }
                };
                self.bufs[slot as usize] = vec![0; size];
                self.held += size;
                slot
            }
        };
        self.count += 1;
        let e = &mut self.slots[slot as usize];
        (e.key, e.len, e.used) = (Some(key), len, self.count);
        self.index.insert(key, slot);
        Some(slot)
    }

    fn drop_buffer(&mut self, slot: u32) {
        self.held -= self.bufs[slot as usize].len();
        self.bufs[slot as usize] = Vec::new();
    }

    /// Marks bytes as valid.
    pub(super) fn add_valid(&mut self, slot: u32, from: u32, to: u32) {
        let e = &mut self.slots[slot as usize];
        debug_assert!(e.key.is_some() && to <= e.len);
        self.dirty += e.valid.add(from, to) as usize;
    }

    /// Whether every byte of it is valid.
    pub(super) fn is_full(&self, slot: u32) -> bool {
        let e = &self.slots[slot as usize];
        e.valid.0.as_slice() == [(0, e.len)]
    }

    pub(super) fn get(&self, slot: u32) -> &Extent {
        &self.slots[slot as usize]
    }
    pub(super) fn bytes(&self, slot: u32) -> &[u8] {
        &self.bufs[slot as usize][..self.slots[slot as usize].len as usize]
    }
    pub(super) fn bytes_mut(&mut self, slot: u32) -> &mut [u8] {
        &mut self.bufs[slot as usize][..self.slots[slot as usize].len as usize]
    }

    /// Puts an extent out of use. Its bytes are gone.
    pub(super) fn release(&mut self, slot: u32) {
        let e = &mut self.slots[slot as usize];
        let Some(key) = e.key.take() else { return };
        self.dirty -= e.valid.total() as usize;
        e.valid.clear();
        e.generation = e.generation.wrapping_add(1);
        self.index.remove(&key);
        self.free.push(slot);
        if self.held > self.limit {
            self.drop_buffer(slot);
        }
    }

    /// Bytes of buffers in use by a torrent.
    pub(super) fn live_of(&self, t: TorrentKey) -> usize {
        let from = ExtentKey { t, piece: 0, nth: 0 };
        let live = self.index.range(from..).take_while(|(k, _)| k.t == t);
        live.map(|(_, &s)| self.bufs[s as usize].len()).sum()
    }

    /// Takes the buffer of an extent away, which is out of use then. See [`Pool::give_back`].
    pub(super) fn take(&mut self, slot: u32) -> Vec<u8> {
        let buf = std::mem::take(&mut self.bufs[slot as usize]);
        self.away += buf.len();
        self.release(slot);
        buf
    }

    /// A buffer that was taken away is free.
    pub(super) fn give_back(&mut self, buf: Vec<u8>) {
        self.away -= buf.len();
        if self.held > self.limit {
            self.held -= buf.len();
            return;
        }
        match self.free.iter().position(|&s| self.bufs[s as usize].is_empty()) {
            Some(i) => {
                // To the end, where the next one is taken from.
                let slot = self.free.remove(i);
                self.bufs[slot as usize] = buf;
                self.free.push(slot);
            }
            // Its slot is in use again, with another buffer.
            None => {
                self.slots.push(Extent { key: None, len: 0, valid: Ranges::default(), generation: 0, used: 0 });
                self.bufs.push(buf);
                self.free.push(self.slots.len() as u32 - 1);
            }
        }
    }

    /// The extent to write out early: of those that `keep` does not hold back, the full one that has not been asked for
    /// the longest, or else any. One with gaps would be written again, block by block.
    pub(super) fn oldest(&self, keep: impl Fn(&ExtentKey, u32) -> bool) -> Option<(ExtentKey, u32)> {
        let live = self.index.iter().filter(|&(k, &s)| !keep(k, s));
        live.min_by_key(|&(_, &s)| (!self.is_full(s), self.slots[s as usize].used)).map(|(k, s)| (*k, *s))
    }

    /// Whether room runs out because more pieces grow at once than this: what is full then leaves before its piece
    /// is complete.
    pub(super) fn crowded(&self, growing: usize) -> bool {
        self.tight() && self.index.values().filter(|&&s| !self.is_full(s)).nth(growing).is_some()
    }

    /// Gives the free buffers back to the system.
    pub(super) fn trim(&mut self) {
        for i in 0..self.free.len() {
            self.drop_buffer(self.free[i]);
        }
    }

    /// The buffers, for addresses of several at once.
    pub(super) fn lender(&mut self) -> PoolLender<'_> {
        PoolLender { slots: &self.slots, bufs: HeapLender::new(&mut self.bufs) }
    }

    /// Panics when the rules of the module's head are broken.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn invariants(&self) {
        assert_eq!(self.held, self.bufs.iter().map(Vec::len).sum::<usize>() + self.away);
        assert_eq!(self.slots.iter().filter(|e| e.key.is_some()).count(), self.index.len());
        assert_eq!(self.free.len() + self.index.len(), self.slots.len());
        for (key, &slot) in &self.index {
            let e = &self.slots[slot as usize];
            assert_eq!(e.key, Some(*key));
            assert!(e.valid.0.windows(2).all(|w| w[0].1 < w[1].0));
            assert!(e.valid.iter().all(|(a, b)| a < b && b <= e.len));
        }
        assert_eq!(self.dirty, self.slots.iter().map(|e| e.valid.total() as usize).sum::<usize>());
    }
}

/// Addresses of live extents, for as long as the pool is borrowed.
pub(super) struct PoolLender<'a> {
    slots: &'a [Extent],
    bufs: HeapLender<'a>,
}

impl<'a> PoolLender<'a> {
    /// Adds a range of an extent to a list; false when it is not that extent any more or the list is full.
    pub(super) fn push(&mut self, io: &mut IoVecs<'a>, slot: u32, generation: u32, from: u32, len: u32) -> bool {
        let live = self.slots.get(slot as usize).is_some_and(|e| e.generation == generation && from + len <= e.len);
        live && self.bufs.push(io, slot as usize, from as usize, len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(piece: u32, nth: u32) -> ExtentKey {
        ExtentKey { t: TorrentKey::new(0, 0), piece, nth }
    }

    #[test]
    fn ranges_agree_with_a_set_of_bytes() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let (mut ranges, mut model) = (Ranges::default(), [false; 64]);
            for _ in 0..20 {
                let a = rng.u32(0..64);
                let b = rng.u32(a..=64);
                let new = model[a as usize..b as usize]
                    .iter_mut()
                    .filter_map(|m| (!std::mem::replace(m, true)).then_some(()))
                    .count();
                assert_eq!(ranges.add(a, b) as usize, new);
                let got: Vec<bool> = (0..64).map(|i| ranges.iter().any(|(a, b)| a <= i && i < b)).collect();
                assert_eq!(got, model);
                assert!(ranges.0.windows(2).all(|w| w[0].1 < w[1].0), "{ranges:?}");
                assert_eq!(ranges.total() as usize, model.iter().filter(|m| **m).count());
            }
        }
    }

    #[test]
    fn the_next_range_begins_where_asked_or_later() {
        let mut r = Ranges::default();
        r.add(10, 20);
        r.add(30, 40);
        assert_eq!(
            [0, 10, 15, 20, 39, 40].map(|at| r.next(at)),
            [Some((10, 20)), Some((10, 20)), Some((15, 20)), Some((30, 40)), Some((39, 40)), None]
        );
    }

    #[test]
    fn the_limit_holds_and_buffers_are_reused_hot() {
        let mut pool = Pool::new(256 << 10);
        assert_eq!(pool.unit(), 64 << 10);
        let slots: Vec<u32> = (0..4).map(|i| pool.make(key(i, 0), 64 << 10, false).unwrap()).collect();
        assert_eq!(pool.make(key(9, 0), 64 << 10, false), None);
        assert_eq!(pool.held(), 256 << 10);
        pool.add_valid(slots[1], 5, 10);
        assert_eq!((pool.dirty(), pool.oldest(|_, _| false)), (5, Some((key(0, 0), slots[0]))));
        assert_eq!(pool.oldest(|_, s| s == slots[0]), Some((key(1, 0), slots[1])));
        pool.find(key(0, 0));
        assert_eq!(pool.oldest(|_, _| false), Some((key(1, 0), slots[1])));
        pool.release(slots[2]);
        pool.release(slots[1]);
        pool.invariants();
        assert_eq!(pool.make(key(5, 0), 64 << 10, false), Some(slots[1]), "the one freed last");
        assert_eq!(pool.get(slots[1]).generation, 1);
        assert_eq!(pool.dirty(), 0);
        // Another size takes the place of a free buffer.
        pool.make(key(6, 0), 100, false).unwrap();
        assert!(pool.held() <= 256 << 10);
        let extra = pool.make(key(7, 0), 64 << 10, true).unwrap();
        assert!(pool.held() > 256 << 10);
        pool.release(extra);
        assert!(pool.held() <= 256 << 10, "what went beyond the limit is not kept");
        pool.trim();
        pool.invariants();
    }

    #[test]
    fn a_buffer_that_is_away_counts_until_it_is_back() {
        let mut pool = Pool::new(256 << 10);
        let slots: Vec<u32> = (0..4).map(|i| pool.make(key(i, 0), 64 << 10, false).unwrap()).collect();
        pool.add_valid(slots[0], 0, 100);
        let buf = pool.take(slots[0]);
        assert_eq!(
            (buf.len(), pool.held(), pool.dirty(), pool.live_of(key(0, 0).t)),
            (64 << 10, 256 << 10, 0, 192 << 10)
        );
        pool.invariants();
        assert_eq!(pool.make(key(4, 0), 64 << 10, false), None);
        let beyond = pool.make(key(4, 0), 64 << 10, true).unwrap();
        assert_eq!(beyond, slots[0], "its slot is in use again");
        let other = pool.take(slots[1]);
        pool.give_back(buf);
        assert_eq!(pool.held(), 256 << 10, "what went beyond the limit is not kept");
        pool.give_back(other);
        pool.invariants();
        assert_eq!(pool.held(), 256 << 10);
        assert!(pool.make(key(5, 0), 64 << 10, false).is_some());
        pool.invariants();
    }

    #[test]
    fn a_stale_name_lends_nothing() {
        let mut pool = Pool::new(1 << 20);
        let slot = pool.make(key(0, 0), 100, false).unwrap();
        let mut io = IoVecs::new();
        assert!(pool.lender().push(&mut io, slot, 0, 0, 100));
        assert!(!pool.lender().push(&mut IoVecs::new(), slot, 0, 1, 100), "beyond the extent");
        pool.release(slot);
        assert!(!pool.lender().push(&mut IoVecs::new(), slot, 0, 0, 100));
    }
}
