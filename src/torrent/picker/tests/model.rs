//! Random operations on the picker and on lists that say what it may answer.

use super::*;
use std::collections::BTreeSet;

struct Peer {
    conn: ConnKey,
    have: Bitfield,
    out: BTreeSet<BlockRef>,
}

struct Model {
    picker: Picker,
    pieces: u32,
    rng: Rng,
    peers: Vec<Peer>,
    generation: u32,
    priority: Vec<Priority>,
    have: BTreeSet<u32>,
    checking: BTreeSet<u32>,
    received: BTreeMap<BlockRef, Option<PeerTag>>,
    pads: BTreeSet<BlockRef>,
    leases: BTreeMap<BlockRef, ConnKey>,
    sequential: bool,
    /// Picks that were checked, by kind: new pieces in order, exact counts, duplicates.
    seen: [u32; 3],
}

impl Model {
    fn new(seed: u64, pieces: u32, blocks: u32, last: u32) -> Self {
        let mut rng = seeded(seed);
        Self {
            picker: Picker::new(blocks, pieces, last, &mut rng),
            pieces,
            rng,
            peers: Vec::new(),
            generation: 0,
            priority: vec![Priority::Normal; pieces as usize],
            have: BTreeSet::new(),
            checking: BTreeSet::new(),
            received: BTreeMap::new(),
            pads: BTreeSet::new(),
            leases: BTreeMap::new(),
            sequential: false,
            seen: [0; 3],
        }
    }

    fn blocks(&self, piece: u32) -> impl Iterator<Item = BlockRef> + use<> {
        (0..self.picker.blocks_in(p(piece))).map(move |block| b(piece, block))
    }

    fn any_block(&mut self) -> BlockRef {
        let piece = self.rng.u32(0..self.pieces);
        b(piece, self.rng.u32(0..self.picker.blocks_in(p(piece))))
    }

    fn missing(&self, b: BlockRef) -> bool {
        let i = b.piece.get();
        let there = self.received.contains_key(&b) || self.pads.contains(&b);
        !self.have.contains(&i) && !self.checking.contains(&i) && !there
    }

    fn wants(&self, piece: u32) -> bool {
        !self.have.contains(&piece) && self.priority[piece as usize] != Priority::Skip
    }

    fn requests(&self, b: BlockRef) -> usize {
        self.peers.iter().filter(|peer| peer.out.contains(&b)).count()
    }

    fn availability(&self, piece: u32) -> u32 {
        self.peers.iter().filter(|peer| peer.have.get(p(piece))).count() as u32
    }

    /// Not begun: nothing received, requested or leased.
    fn untouched(&self, piece: u32) -> bool {
        let touched = |b| self.received.contains_key(&b) || self.requests(b) > 0 || self.leases.contains_key(&b);
        !self.have.contains(&piece) && !self.checking.contains(&piece) && !self.blocks(piece).any(touched)
    }

    /// After a block came: is its piece complete?
    fn complete(&mut self, piece: u32) -> bool {
        let all = self.blocks(piece).all(|b| !self.missing(b));
        if all {
            self.checking.insert(piece);
        }
        all
    }

    fn forget(&mut self, piece: u32) {
        self.received.retain(|b, _| b.piece.get() != piece);
        self.leases.retain(|b, _| b.piece.get() != piece);
    }

    /// What the caller does when a piece is settled from elsewhere: nothing of it is out any more.
    fn cancel(&mut self, piece: u32) {
        for peer in &mut self.peers {
            peer.out.retain(|b| b.piece.get() != piece);
        }
    }

    fn unpad_if_full(&mut self, piece: u32) {
        if self.blocks(piece).all(|b| self.pads.contains(&b)) {
            self.pads.retain(|b| b.piece.get() != piece);
        }
    }

    fn join(&mut self) {
        let mut have = Bitfield::none(self.pieces);
        let density = [0.0, 0.02, 0.3, 0.9, 1.0][self.rng.usize(0..5)];
        for i in 0..self.pieces {
            if self.rng.f64() < density {
                have.set(p(i));
            }
        }
        self.generation += 1;
        let slot = (0..).find(|&i| self.peers.iter().all(|peer| peer.conn.index() != i as usize)).unwrap();
        self.picker.on_peer_bitfield(&have);
        self.peers.push(Peer { conn: ConnKey::new(slot, self.generation), have, out: BTreeSet::new() });
    }

    fn leave(&mut self) {
        let peer = self.peers.swap_remove(self.rng.usize(0..self.peers.len()));
        self.leases.retain(|b, holder| {
            if *holder == peer.conn {
                self.picker.unlease(*b, peer.conn);
            }
            *holder != peer.conn
        });
        peer.out.iter().for_each(|b| self.picker.withdraw(*b, peer.conn));
        self.picker.on_peer_gone(&peer.have);
    }

    fn pick(&mut self) {
        let at = self.rng.usize(0..self.peers.len());
        let named: Vec<_> = (0..self.rng.usize(0..4)).map(|_| p(self.rng.u32(0..self.pieces))).collect();
        let (restricted, suggesting) = (self.rng.u8(0..8) == 0, self.rng.u8(0..4) == 0);
        let req = Pick {
            conn: self.peers[at].conn,
            have: &self.peers[at].have.clone(),
            count: self.rng.usize(0..12),
            speed: [Speed::Slow, Speed::Medium, Speed::Fast][self.rng.usize(0..3)],
            only: restricted.then_some(&named[..]),
            suggested: if suggesting { &named } else { &[] },
            endgame: self.rng.bool(),
            mine: &|_| false,
        };
        let mut out = vec![b(0, 0)];
        self.picker.pick(req, &mut self.rng, &mut out);
        self.check_pick(&req, &out[1..]);
        self.peers[at].out.extend(&out[1..]);
    }

    fn check_pick(&mut self, req: &Pick<'_>, out: &[BlockRef]) {
        let me = self.peers.iter().find(|peer| peer.conn == req.conn).unwrap();
        assert!(out.len() <= req.count);
        assert_eq!(out.iter().collect::<BTreeSet<_>>().len(), out.len(), "each block once");
        for b in out {
            assert!(req.have.get(b.piece) && self.wants(b.piece.get()) && self.missing(*b), "{b:?}");
            assert!(!me.out.contains(b), "{b:?} is out already");
            assert!(req.only.is_none_or(|only| only.contains(&b.piece)));
        }
        let eligible =
            |i: &u32| self.wants(*i) && req.have.get(p(*i)) && req.only.is_none_or(|only| only.contains(&p(*i)));
        let blocks = (0..self.pieces).filter(eligible).flat_map(|i| self.blocks(i));
        let free = blocks.filter(|b| self.missing(*b) && self.requests(*b) == 0).count();
        if free > 0 {
            assert!(out.iter().all(|b| self.requests(*b) == 0), "nothing twice while something is free");
            assert_eq!(out.len(), free.min(req.count), "all that is free, up to the count");
            self.seen[1] += 1;
            if req.only.is_none() && req.suggested.is_empty() {
                self.check_order(req, out);
            }
        } else {
            assert!(out.is_empty() || req.endgame);
            let missing = (0..self.pieces).filter(|i| self.wants(*i)).flat_map(|i| self.blocks(i));
            let few = missing.filter(|b| self.missing(*b)).count() < 20;
            assert!(out.iter().all(|b| (1..if few { 3 } else { 2 }).contains(&self.requests(*b))));
            self.seen[2] += u32::from(!out.is_empty());
        }
    }

    /// New pieces are begun rarest first, the wanted most before all.
    fn check_order(&mut self, req: &Pick<'_>, out: &[BlockRef]) {
        let mut new: Vec<_> = out.iter().map(|b| b.piece.get()).filter(|i| self.untouched(*i)).collect();
        new.dedup();
        let mut shelf: BTreeSet<_> =
            (0..self.pieces).filter(|i| self.wants(*i) && self.untouched(*i) && req.have.get(p(*i))).collect();
        for piece in new {
            let priority = |i: u32| self.priority[i as usize];
            assert!(shelf.remove(&piece), "a piece is begun once");
            assert!(shelf.iter().all(|&i| priority(i) <= priority(piece)));
            let mut equals = shelf.iter().copied().filter(|&i| priority(i) == priority(piece));
            if self.sequential {
                assert!(equals.all(|i| i > piece));
                self.seen[0] += 1;
            } else if self.have.len() >= 4 && self.pieces <= 256 {
                assert!(equals.all(|i| self.availability(i) >= self.availability(piece)));
                self.seen[0] += 1;
            }
        }
    }

    fn receive(&mut self) {
        // Mostly what is out somewhere; now and then anything from anybody.
        let who = self.rng.usize(0..self.peers.len());
        let outs = self.peers[who].out.len();
        let b = if outs > 0 && self.rng.u8(0..10) > 0 {
            *self.peers[who].out.iter().nth(self.rng.usize(0..outs)).unwrap()
        } else {
            self.any_block()
        };
        let (conn, tag) = (self.peers[who].conn, PeerTag::new(self.rng.u32(0..5)));
        self.peers[who].out.remove(&b);
        let leased = self.leases.get(&b).is_some_and(|holder| *holder != conn);
        let wanted = if leased || !self.missing(b) {
            Taken::Duplicate
        } else {
            self.received.insert(b, Some(tag));
            self.leases.remove(&b);
            if self.complete(b.piece.get()) { Taken::PieceDone } else { Taken::Block }
        };
        assert_eq!(self.picker.on_block(b, conn, tag), wanted);
    }

    fn settle(&mut self) {
        let Some(&piece) = self.checking.iter().next() else { return };
        self.checking.remove(&piece);
        let tags: BTreeSet<_> =
            self.received.iter().filter(|(b, _)| b.piece.get() == piece).filter_map(|(_, tag)| *tag).collect();
        assert_eq!(self.picker.contributors(p(piece)), tags.into_iter().collect::<Vec<_>>());
        self.forget(piece);
        if self.rng.u8(0..3) == 0 {
            self.unpad_if_full(piece);
            self.picker.on_piece_bad(p(piece));
        } else {
            self.have.insert(piece);
            self.cancel(piece);
            self.picker.on_piece_ok(p(piece));
        }
    }

    fn step(&mut self) {
        let any = self.any_block();
        let piece = any.piece;
        match self.rng.u8(0..100) {
            _ if self.peers.is_empty() => self.join(),
            0..3 if self.peers.len() < 8 => self.join(),
            3..5 => self.leave(),
            5..15 => {
                let peer = self.rng.choice(self.peers.iter_mut()).unwrap();
                if peer.have.set(piece) {
                    self.picker.on_peer_have(piece);
                }
            }
            15..17 => {
                let peer = self.rng.choice(self.peers.iter_mut()).unwrap();
                if peer.have.clear(piece) {
                    self.picker.on_peer_lost(piece);
                }
            }
            17..40 => self.pick(),
            40..48 => {
                let peer = self.rng.choice(self.peers.iter_mut()).unwrap();
                if let Some(b) = self.rng.choice(peer.out.iter().copied().collect::<Vec<_>>()) {
                    peer.out.remove(&b);
                    self.picker.withdraw(b, peer.conn);
                }
            }
            48..80 => self.receive(),
            80..84 => {
                let conn = self.rng.choice(self.peers.iter()).unwrap().conn;
                let free = self.missing(any) && self.leases.get(&any).is_none_or(|holder| *holder == conn);
                assert_eq!(self.picker.lease(any, conn), free);
                if free {
                    self.leases.insert(any, conn);
                }
            }
            84..87 => {
                if let Some((&b, &conn)) = self.leases.iter().next() {
                    self.leases.remove(&b);
                    self.picker.unlease(b, conn);
                }
            }
            87..90 => {
                let to = [Priority::Skip, Priority::Low, Priority::Normal, Priority::High][self.rng.usize(0..4)];
                self.priority[piece.idx()] = to;
                self.picker.set_priority(piece, to);
            }
            90..98 => self.settle(),
            98 => self.rare(any),
            _ => {
                self.sequential = self.rng.bool();
                self.picker.set_sequential(self.sequential);
            }
        }
    }

    fn rare(&mut self, any: BlockRef) {
        let i = any.piece.get();
        match self.rng.u8(0..5) {
            0 | 1 => {
                if self.have.remove(&i) {
                    self.unpad_if_full(i);
                }
                self.picker.lose(any.piece);
            }
            2 => {
                if self.have.insert(i) {
                    self.checking.remove(&i);
                    self.cancel(i);
                    self.forget(i);
                }
                self.picker.set_have(any.piece);
            }
            3 => {
                let missing = self.missing(any);
                if missing {
                    self.received.insert(any, None);
                    self.leases.remove(&any);
                }
                let done = missing && self.complete(i);
                assert_eq!(self.picker.mark_block_have(any.piece, any.block), done);
            }
            _ => {
                let run = any.block..self.rng.u32(any.block..=self.picker.blocks_in(any.piece));
                let settled = self.have.contains(&i) || self.checking.contains(&i);
                for b in run.clone().map(|block| b(i, block)) {
                    self.pads.insert(b);
                    self.leases.remove(&b);
                }
                let done = !run.is_empty() && !settled && self.complete(i);
                assert_eq!(self.picker.mark_pad(any.piece, run), done);
            }
        }
    }

    fn compare(&mut self) {
        self.picker.invariants();
        let wanted: Vec<_> = (0..self.pieces).filter(|i| self.wants(*i)).collect();
        assert_eq!(self.picker.wanted_left(), wanted.len() as u32);
        assert_eq!(self.picker.is_complete(), wanted.is_empty());
        assert_eq!(self.picker.left_pieces(), self.pieces - self.have.len() as u32);
        for i in 0..self.pieces {
            assert_eq!(self.picker.availability(p(i)), self.availability(i), "piece {i}");
            assert_eq!(self.picker.wants(p(i)), self.wants(i));
        }
        let mut free = wanted.iter().filter(|&&i| self.availability(i) > 0).flat_map(|&i| self.blocks(i));
        let free = free.any(|b| self.missing(b) && self.requests(b) == 0);
        assert_eq!(self.picker.in_endgame(), !wanted.is_empty() && !free);
        for _ in 0..4 {
            let b = self.any_block();
            let skipped = self.priority[b.piece.idx()] == Priority::Skip;
            assert_eq!(self.picker.missing(b), self.missing(b) && !skipped, "{b:?}");
            assert_eq!(self.picker.lease_of(b), self.leases.get(&b).copied());
            assert_eq!(self.picker.contributor(b), self.received.get(&b).copied().flatten());
            let settled = self.received.contains_key(&b) || self.pads.contains(&b);
            assert_eq!(self.picker.others(b), self.requests(b) > usize::from(!settled), "{b:?}");
        }
        for peer in &self.peers {
            assert_eq!(self.picker.wants_any(&peer.have), wanted.iter().any(|&i| peer.have.get(p(i))));
        }
        for (piece, map) in self.picker.partials() {
            let bits = self.blocks(piece.get()).map(|b| !self.missing(b));
            let all = bits.enumerate().all(|(i, got)| got == (map[i / 8] & (0x80 >> (i % 8)) != 0));
            assert!(all && self.received.keys().any(|b| b.piece == piece), "piece {piece}");
        }
    }
}

fn run(seed: u64, steps: u32, pieces: u32, blocks: u32, last: u32) -> [u32; 3] {
    let mut model = Model::new(seed, pieces, blocks, last);
    for _ in 0..steps {
        model.step();
        model.compare();
    }
    model.seen
}

#[test]
fn small_torrents_do_what_the_model_allows() {
    let mut seen = [0; 3];
    for seed in 0..40 {
        let mut rng = seeded(seed);
        let blocks = rng.u32(1..6);
        let (pieces, last) = (rng.u32(1..40), rng.u32(1..=blocks));
        let more = run(seed, 1500, pieces, blocks, last);
        (0..3).for_each(|i| seen[i] += more[i]);
    }
    assert!(seen.iter().all(|&n| n > 300), "each kind of pick was seen: {seen:?}");
}

#[test]
fn searches_beyond_the_walk_find_every_free_block() {
    for seed in 100..103 {
        let [_, exact, _] = run(seed, 250, 2000, 2, 1);
        assert!(exact > 20, "{exact}");
    }
}
