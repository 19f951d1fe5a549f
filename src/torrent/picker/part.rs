//! A piece that was begun: which of its blocks are requested, received and being received.

use crate::id::{ConnKey, PeerTag};
use std::ops::Range;

/// Whether a block is there, and from whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Got {
    No,
    /// From the disk, or padding.
    Untagged,
    /// From the peer in [`Blk::tag`].
    Tagged,
}

/// A block of a begun piece: eight bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blk {
    /// Received: the tag of the sender, beside [`Got::Tagged`]. Requested: the slot of one connection
    /// where it is. The others, and all that are left over once it has come, are in [`Part::also`].
    word: u32,
    /// Connections it is requested at. Those left over when it has come are to be cancelled.
    pub(super) requests: u8,
    pub(super) got: Got,
}

const _: () = assert!(size_of::<Blk>() == 8);

impl Blk {
    pub(super) const FREE: Self = Self { word: 0, requests: 0, got: Got::No };

    pub(super) const fn received(&self) -> bool {
        !matches!(self.got, Got::No)
    }

    /// Neither received nor requested.
    pub(super) const fn free(&self) -> bool {
        self.requests == 0 && !self.received()
    }

    pub(super) fn tag(&self) -> Option<PeerTag> {
        (self.got == Got::Tagged).then(|| PeerTag::new(self.word))
    }

    /// The slot of the connection it is requested at, if it is known here.
    fn holder(&self) -> Option<u32> {
        (self.requests > 0 && !self.received()).then_some(self.word)
    }
}

/// Not on the list of begun pieces with free blocks.
pub(super) const NOT_LOOSE: u32 = u32::MAX;

/// A begun piece.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) piece: u32,
    pub(super) blocks: Vec<Blk>,
    /// Blocks that are free.
    pub(super) free: u32,
    /// Blocks that are received, padding among them.
    pub(super) received: u32,
    /// Blocks that are padding.
    pub(super) pads: u32,
    /// Requests outstanding: the sum over the blocks.
    pub(super) out: u32,
    /// No block before this one is free.
    pub(super) first: u32,
    /// Where it is on the list of pieces with free blocks, or [`NOT_LOOSE`].
    pub(super) loose_at: u32,
    /// A fast connection that wants the piece to itself.
    pub(super) fast: Option<ConnKey>,
    /// Requests that have no room in their block: the block, and the connection's slot.
    also: Vec<(u32, u32)>,
    /// Blocks whose payload is arriving, and where; sorted by block.
    leases: Vec<(u32, ConnKey)>,
}

impl Part {
    /// A piece with no block requested or received. `blocks` gives its room.
    pub(super) fn new(piece: u32, len: u32, mut blocks: Vec<Blk>) -> Self {
        blocks.clear();
        blocks.resize(len as usize, Blk::FREE);
        Self {
            piece,
            blocks,
            free: len,
            received: 0,
            pads: 0,
            out: 0,
            first: 0,
            loose_at: NOT_LOOSE,
            fast: None,
            also: Vec::new(),
            leases: Vec::new(),
        }
    }

    pub(super) fn missing(&self) -> u32 {
        self.blocks.len() as u32 - self.received
    }

    /// Nothing to remember: it may as well not have been begun.
    pub(super) fn is_blank(&self) -> bool {
        self.received == self.pads && self.out == 0 && self.leases.is_empty()
    }

    /// Counts a request at a block that has not come and that `conn` has not requested.
    pub(super) fn request(&mut self, block: u32, conn: ConnKey) {
        let blk = &mut self.blocks[block as usize];
        if blk.free() {
            self.free -= 1;
            blk.word = conn.index() as u32;
        } else {
            self.also.push((block, conn.index() as u32));
        }
        blk.requests += 1;
        self.out += 1;
    }

    /// Whether `conn` has the block requested.
    pub(super) fn is_requested_by(&self, block: u32, conn: ConnKey) -> bool {
        let slot = conn.index() as u32;
        self.blocks[block as usize].holder() == Some(slot) || self.also.contains(&(block, slot))
    }

    /// Takes the request of `conn` back. False if it has none.
    pub(super) fn unrequest(&mut self, block: u32, conn: ConnKey) -> bool {
        let slot = conn.index() as u32;
        let blk = &mut self.blocks[block as usize];
        if blk.holder() == Some(slot) {
            if let Some(at) = self.also.iter().position(|a| a.0 == block) {
                blk.word = self.also.swap_remove(at).1;
            }
        } else if let Some(at) = self.also.iter().position(|a| *a == (block, slot)) {
            self.also.swap_remove(at);
        } else {
            return false;
        }
        blk.requests -= 1;
        self.out -= 1;
        if blk.free() {
            self.free += 1;
            self.first = self.first.min(block);
        }
        true
    }

    /// The block is there. False if it was already.
    pub(super) fn receive(&mut self, block: u32, from: Option<PeerTag>) -> bool {
        let blk = &mut self.blocks[block as usize];
        if blk.received() {
            return false;
        }
        match blk.holder() {
            Some(slot) => self.also.push((block, slot)),
            None => self.free -= 1,
        }
        (blk.got, blk.word) = from.map_or((Got::Untagged, 0), |tag| (Got::Tagged, tag.get()));
        self.received += 1;
        self.leases.retain(|l| l.0 != block);
        true
    }

    /// These blocks are padding: there without being received.
    pub(super) fn pad(&mut self, runs: impl Iterator<Item = Range<u32>>) {
        for block in runs.flatten() {
            self.pads += u32::from(self.receive(block, None));
        }
    }

    /// Everything received is wrong. Requests that are still out stay so.
    pub(super) fn reset(&mut self) {
        for (block, blk) in self.blocks.iter_mut().enumerate().filter(|(_, blk)| blk.received()) {
            blk.got = Got::No;
            if let Some(at) = self.also.iter().position(|a| a.0 as usize == block) {
                blk.word = self.also.swap_remove(at).1;
            }
        }
        self.free = self.blocks.iter().filter(|b| b.free()).count() as u32;
        (self.received, self.pads, self.first) = (0, 0, 0);
    }

    pub(super) fn lease_of(&self, block: u32) -> Option<ConnKey> {
        let at = self.leases.binary_search_by_key(&block, |l| l.0).ok()?;
        Some(self.leases[at].1)
    }

    /// True if the block is `conn`'s to receive now.
    pub(super) fn lease(&mut self, block: u32, conn: ConnKey) -> bool {
        if self.blocks[block as usize].received() {
            return false;
        }
        match self.leases.binary_search_by_key(&block, |l| l.0) {
            Ok(at) => self.leases[at].1 == conn,
            Err(at) => {
                self.leases.insert(at, (block, conn));
                true
            }
        }
    }

    pub(super) fn unlease(&mut self, block: u32, conn: ConnKey) {
        self.leases.retain(|l| *l != (block, conn));
    }

    /// Received blocks, a bit each, in wire order.
    pub(super) fn bitmap(&self) -> Vec<u8> {
        let mut map = vec![0; self.blocks.len().div_ceil(8)];
        for (i, _) in self.blocks.iter().enumerate().filter(|(_, b)| b.received()) {
            map[i / 8] |= 0x80 >> (i % 8);
        }
        map
    }

    pub(super) fn invariants(&self) {
        let count = |f: fn(&Blk) -> bool| self.blocks.iter().filter(|b| f(b)).count() as u32;
        assert_eq!(self.free, count(Blk::free), "free blocks of piece {}", self.piece);
        assert_eq!(self.received, count(Blk::received), "received blocks of piece {}", self.piece);
        assert_eq!(self.out, self.blocks.iter().map(|b| u32::from(b.requests)).sum::<u32>());
        assert!(self.pads <= self.received);
        for (i, blk) in self.blocks.iter().enumerate() {
            let mut slots: Vec<_> = self.also.iter().filter(|a| a.0 as usize == i).map(|a| a.1).collect();
            slots.extend(blk.holder());
            assert_eq!(slots.len(), usize::from(blk.requests), "requests of block {i} of piece {}", self.piece);
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), usize::from(blk.requests), "a block is requested once at a connection");
        }
        assert!(self.blocks.iter().take(self.first as usize).all(|b| !b.free()), "none free before the first");
        assert!(self.leases.windows(2).all(|w| w[0].0 < w[1].0), "one lease a block");
        assert!(self.leases.iter().all(|l| !self.blocks[l.0 as usize].received()), "no lease of a received block");
    }
}
