//! Scripted peers: they speak the protocol just well enough to do harm, or to be of use.
//!
//! Each follows one [`Manner`], good or bad. They claim to have everything, dial nodes now and then, and
//! come back when they are thrown out. Their bytes are made with the crate's own writers of messages, and
//! torn where their manner says so. Those with good manners must never be banned, and what they are
//! sent must be what they asked for.

use std::collections::VecDeque;
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
    /// It serves everybody.
    Honest,
    /// It serves a block now and then.
    Drip,
    /// It asks for blocks all the time, and looks at what it gets.
    Taker,
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
        let all = [Honest, Drip, Taker, Corrupt, Sly, Silent, Mute, Oversize, Flooder, Noise, Pushy, Refuser, Fickle];
        all[rng.usize(..all.len())]
    }

    /// It keeps to the rules and sends no bad data.
    pub(super) fn is_good(self) -> bool {
        matches!(self, Self::Honest | Self::Drip | Self::Taker)
    }

    /// What a count of it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Honest => "peer honest",
            Self::Drip => "peer slow",
            Self::Taker => "peer only takes",
            Self::Corrupt => "peer corrupt",
            Self::Sly => "peer sly",
            Self::Silent => "peer silent",
            Self::Mute => "peer mute",
            Self::Oversize => "peer oversize",
            Self::Flooder => "peer flooder",
            Self::Noise => "peer noise",
            Self::Pushy => "peer pushy",
            Self::Refuser => "peer refuser",
            Self::Fickle => "peer fickle",
        }
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
    /// It is unchoked, and has blocks to ask for.
    unchoked: bool,
    /// Requests it has not answered yet, or that were not answered to it.
    waiting: VecDeque<Block>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// One scripted peer.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) host: u32,
    pub(super) manner: Manner,
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
        let (greeted, heard, fast, unchoked) = (false, false, false, false);
        let (waiting, input, output) = Default::default();
        Talk { wire, side, open, greeted, heard, fast, unchoked, waiting, input, output }
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
        // Something on the way may clear the bit, and the good ones do without what they cannot be sure of.
        t.fast = !self.manner.is_good() && (self.manner == Manner::Refuser || self.rng.bool());
        let mut id = *b"-XX0000-000000000000";
        id[8..12].copy_from_slice(&self.host.to_be_bytes());
        t.output.extend_from_slice(&wire::encode_handshake(&Handshake {
            reserved: if t.fast { Reserved::ours() } else { Reserved::default() },
            info_hash: self.info_hash,
            peer_id: PeerId::new(id),
        }));
        if self.manner == Manner::Taker {
            // It has nothing, and need not say so.
        } else if t.fast {
            wire::encode(&Message::HaveAll, &mut t.output);
        } else {
            let mut bits = vec![0xFF; self.pieces.div_ceil(8) as usize];
            if let (Some(last), spare @ 1..) = (bits.last_mut(), bits_over(self.pieces)) {
                *last <<= spare;
            }
            wire::encode(&Message::Bitfield(&bits), &mut t.output);
        }
        wire::encode(&Message::Unchoke, &mut t.output);
        if !matches!(self.manner, Manner::Honest | Manner::Drip) {
            wire::encode(&Message::Interested, &mut t.output);
        }
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
                Ok(n) => self.hear(net, layout, i, &buf[..n]),
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

    fn hear(&mut self, net: &mut Net, layout: &Layout, i: usize, data: &[u8]) {
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
            match message {
                Message::Request(block) if self.manner == Manner::Drip && layout.contains(&block) => {
                    self.talks[i].waiting.push_back(block);
                }
                Message::Request(block) if self.talks[i].output.len() < 4 * ENOUGH || self.manner.is_good() => {
                    self.asked(layout, i, block);
                }
                Message::Cancel(block) if self.manner == Manner::Drip => {
                    self.talks[i].waiting.retain(|b| *b != block);
                }
                _ if self.manner == Manner::Taker => self.taken(net, layout, i, &message),
                _ => {}
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
            Manner::Honest | Manner::Pushy | Manner::Flooder => false,
            Manner::Fickle if self.rng.u32(..3) == 0 => false,
            Manner::Refuser => {
                wire::encode(&Message::Reject(block), &mut self.talks[i].output);
                return;
            }
            _ => return,
        };
        self.serve(layout, i, block, bad);
    }

    /// It takes what nodes have, and only what it asked for.
    fn taken(&mut self, net: &mut Net, layout: &Layout, i: usize, message: &Message<'_>) {
        let host = self.host;
        let mut breach = |what: String| net.taps.breaches.push(format!("to {host}: {what}"));
        let t = &mut self.talks[i];
        match *message {
            Message::Unchoke => t.unchoked = true,
            Message::Choke => t.unchoked = false,
            Message::Reject(block) => t.waiting.retain(|b| *b != block),
            Message::Piece { piece, begin, data } => {
                let block = Block { piece, begin, len: data.len() as u32 };
                let before = t.waiting.len();
                t.waiting.retain(|b| *b != block);
                if before == t.waiting.len() {
                    breach(format!("{block:?} was not asked for"));
                } else if *data != *truth(layout.block_offset(&block), data.len()) {
                    breach(format!("{block:?} is not what it should be"));
                }
            }
            _ => {}
        }
        self.ask(layout, i);
    }

    fn ask(&mut self, layout: &Layout, i: usize) {
        while self.talks[i].unchoked && self.talks[i].waiting.len() < 4 {
            let block = self.some_block(layout);
            let t = &mut self.talks[i];
            if t.waiting.contains(&block) {
                break;
            }
            t.waiting.push_back(block);
            wire::encode(&Message::Request(block), &mut t.output);
        }
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
            Manner::Drip => {
                if let Some(block) = self.talks[i].waiting.pop_front() {
                    self.serve(layout, i, block, false);
                }
            }
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
