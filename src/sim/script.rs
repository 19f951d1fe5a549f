//! Scripted peers: they speak the protocol just well enough to do harm.
//!
//! Each follows one [`Manner`]. They claim to have everything, dial nodes now and then, and come
//! back when they are thrown out. Their bytes are made with the crate's own writers of messages, and
//! torn where their manner says so.

use std::io::ErrorKind;

use super::content::truth;
use super::link::{Event, Net, WireKey, addr_of};
use crate::config::limits;
use crate::id::{BLOCK_LEN, Block, InfoHash, PeerId, PieceIndex};
use crate::rng::Rng;
use crate::time::Duration;
use crate::torrent::layout::Layout;
use crate::wire::{self, HANDSHAKE_LEN, Handshake, Message, Reserved};

/// Bytes that wait to be sent until a script stops adding to them.
const ENOUGH: usize = 64 << 10;
/// Connections a script keeps.
const CONNS: usize = 8;

/// How a scripted peer behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// Every block it sends is bad.
    Corrupt,
    /// Every fourth block it sends is bad.
    Sly,
    /// It unchokes, takes requests and answers none.
    Silent,
    /// It never says a word.
    Mute,
    /// It announces a message of two gigabytes.
    Oversize,
    /// It floods requests and haves.
    Flooder,
    /// It sends noise.
    Noise,
    /// It sends blocks that nobody asked for, besides serving.
    Pushy,
    /// It rejects every request.
    Refuser,
    /// It chokes and unchokes all the time, and serves now and then.
    Fickle,
}

impl Manner {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        use Manner::*;
        [Corrupt, Sly, Silent, Mute, Oversize, Flooder, Noise, Pushy, Refuser, Fickle][rng.usize(..10)]
    }
}

#[derive(Debug)]
struct Talk {
    wire: WireKey,
    side: u8,
    /// The stream is open.
    open: bool,
    greeted: bool,
    heard: bool,
    fast: bool,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// One scripted peer.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) host: u32,
    manner: Manner,
    info_hash: InfoHash,
    pieces: u32,
    nodes: u32,
    rng: Rng,
    talks: Vec<Talk>,
    until: crate::time::Instant,
}

impl Script {
    pub(super) fn new(
        host: u32,
        manner: Manner,
        info_hash: InfoHash,
        layout: &Layout,
        nodes: u32,
        rng: Rng,
        until: crate::time::Instant,
    ) -> Self {
        Self { host, manner, info_hash, pieces: layout.pieces(), nodes, rng, talks: Vec::new(), until }
    }

    fn talk(wire: WireKey, side: u8, open: bool) -> Talk {
        Talk { wire, side, open, greeted: false, heard: false, fast: false, input: Vec::new(), output: Vec::new() }
    }

    /// Someone dialled it.
    pub(super) fn accept(&mut self, wire: WireKey) -> bool {
        let room = self.talks.len() < CONNS * 2;
        if room {
            self.talks.push(Self::talk(wire, 1, true));
        }
        room
    }

    /// Its own attempt has an answer.
    pub(super) fn answered(&mut self, net: &mut Net, layout: &Layout, wire: WireKey, ok: bool) {
        let Some(i) = self.talks.iter().position(|t| t.wire == wire) else { return };
        if !ok {
            return self.end(net, i);
        }
        self.talks[i].open = true;
        self.greet(i);
        self.stirred(net, layout, wire);
    }

    /// Time passes: it dials somebody, and misbehaves.
    pub(super) fn tick(&mut self, net: &mut Net, layout: &Layout) {
        if net.now < self.until {
            let wait = Duration::from_micros(self.rng.u64(100_000..10_000_000));
            net.at(net.now + wait, Event::Script { host: self.host });
        }
        if self.talks.len() < CONNS {
            let node = self.rng.u32(..self.nodes);
            let wire = net.dial(self.host, None, addr_of(node));
            self.talks.push(Self::talk(wire, 0, false));
        }
        for i in 0..self.talks.len() {
            if self.talks[i].heard && self.talks[i].output.len() < ENOUGH {
                self.misbehave(layout, i);
            }
        }
        for wire in self.talks.iter().map(|t| t.wire).collect::<Vec<_>>() {
            self.stirred(net, layout, wire);
        }
    }

    fn greet(&mut self, i: usize) {
        let t = &mut self.talks[i];
        if std::mem::replace(&mut t.greeted, true) || self.manner == Manner::Mute {
            return;
        }
        if self.manner == Manner::Noise && self.rng.bool() {
            t.output.extend((0..500).map(|_| self.rng.u8(..)));
            return;
        }
        t.fast = self.manner == Manner::Refuser || self.rng.bool();
        let mut id = *b"-XX0000-000000000000";
        id[8..12].copy_from_slice(&self.host.to_be_bytes());
        t.output.extend_from_slice(&wire::encode_handshake(&Handshake {
            reserved: if t.fast { Reserved::ours() } else { Reserved::default() },
            info_hash: self.info_hash,
            peer_id: PeerId::new(id),
        }));
        if t.fast {
            wire::encode(&Message::HaveAll, &mut t.output);
        } else {
            let mut bits = vec![0xFF; self.pieces.div_ceil(8) as usize];
            if let (Some(last), spare @ 1..) = (bits.last_mut(), bits_over(self.pieces)) {
                *last <<= spare;
            }
            wire::encode(&Message::Bitfield(&bits), &mut t.output);
        }
        wire::encode(&Message::Unchoke, &mut t.output);
        wire::encode(&Message::Interested, &mut t.output);
    }

    /// A connection has something, takes something, or ended.
    pub(super) fn stirred(&mut self, net: &mut Net, layout: &Layout, wire: WireKey) {
        let Some(i) = self.talks.iter().position(|t| t.wire == wire) else { return };
        if !self.talks[i].open {
            return;
        }
        let side = self.talks[i].side;
        let mut buf = [0; 4096];
        while self.talks[i].output.len() < ENOUGH {
            match net.read(wire, side, &mut buf) {
                Ok(0) => return self.end(net, i),
                Ok(n) => self.hear(layout, i, &buf[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.end(net, i),
            }
        }
        let t = &mut self.talks[i];
        while !t.output.is_empty() {
            match net.write(wire, side, &t.output) {
                Ok(n) => drop(t.output.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.end(net, i),
            }
        }
    }

    fn end(&mut self, net: &mut Net, i: usize) {
        let t = self.talks.swap_remove(i);
        net.close(t.wire, t.side);
    }

    fn hear(&mut self, layout: &Layout, i: usize, data: &[u8]) {
        let t = &mut self.talks[i];
        t.input.extend_from_slice(data);
        if !t.heard {
            if t.input.len() < HANDSHAKE_LEN {
                return;
            }
            t.input.drain(..HANDSHAKE_LEN);
            t.heard = true;
            self.greet(i);
            self.misbehave(layout, i);
        }
        let mut input = std::mem::take(&mut self.talks[i].input);
        let mut used = 0;
        while let Ok(Some((message, n))) = wire::parse_frame(&input[used..], limits::FRAME) {
            used += n;
            if let Message::Request(block) = message {
                if self.talks[i].output.len() < 4 * ENOUGH {
                    self.asked(layout, i, block);
                }
            }
        }
        input.drain(..used);
        // Whatever it does not understand is not worth keeping.
        input.truncate(limits::FRAME as usize + 4);
        self.talks[i].input = input;
    }

    fn asked(&mut self, layout: &Layout, i: usize, block: Block) {
        if block.len > BLOCK_LEN || block.begin % BLOCK_LEN != 0 || !layout.contains(&block) {
            return;
        }
        let bad = match self.manner {
            Manner::Corrupt => true,
            Manner::Sly => self.rng.u32(..4) == 0,
            Manner::Pushy | Manner::Flooder => false,
            Manner::Fickle if self.rng.u32(..3) == 0 => false,
            Manner::Refuser => {
                wire::encode(&Message::Reject(block), &mut self.talks[i].output);
                return;
            }
            _ => return,
        };
        self.serve(layout, i, block, bad);
    }

    fn serve(&mut self, layout: &Layout, i: usize, block: Block, bad: bool) {
        let data = truth(layout.block_offset(&block), block.len as usize);
        let out = &mut self.talks[i].output;
        wire::encode(&Message::Piece { piece: block.piece, begin: block.begin, data }, out);
        if bad {
            let at = out.len() - 1 - self.rng.usize(..block.len as usize);
            out[at] ^= 1 << self.rng.u32(..8);
        }
    }

    fn some_block(&mut self, layout: &Layout) -> Block {
        let piece = PieceIndex::new(self.rng.u32(..self.pieces));
        let n = self.rng.u32(..layout.blocks_in(piece));
        layout.block(piece, n)
    }

    fn misbehave(&mut self, layout: &Layout, i: usize) {
        match self.manner {
            Manner::Oversize => self.talks[i].output.extend_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF, 7, 0, 0]),
            Manner::Noise => {
                let noise: Vec<u8> = (0..self.rng.usize(1..300)).map(|_| self.rng.u8(..)).collect();
                self.talks[i].output.extend_from_slice(&noise);
            }
            Manner::Pushy => {
                for _ in 0..self.rng.usize(1..4) {
                    let block = self.some_block(layout);
                    self.serve(layout, i, block, true);
                }
            }
            Manner::Flooder => {
                for _ in 0..300 {
                    let block = self.some_block(layout);
                    let message = match self.rng.u32(..6) {
                        0 => Message::Have(block.piece),
                        1 => Message::Cancel(block),
                        2 => Message::NotInterested,
                        3 => Message::Interested,
                        _ => Message::Request(block),
                    };
                    wire::encode(&message, &mut self.talks[i].output);
                }
            }
            Manner::Fickle => {
                for _ in 0..self.rng.usize(..10) {
                    let message = if self.rng.bool() { Message::Choke } else { Message::Unchoke };
                    wire::encode(&message, &mut self.talks[i].output);
                }
                wire::encode(&Message::Unchoke, &mut self.talks[i].output);
            }
            _ => {}
        }
    }
}

/// Spare bits in the last byte of a bitfield.
fn bits_over(pieces: u32) -> u32 {
    (8 - pieces % 8) % 8
}
