//! A tap on a connection between peers: reads what both sides write, and holds nodes to the protocol.
//!
//! ```text
//!   handshake ─▶ bitfield, have-all, have-none or nothing ─▶ messages; payload is skipped
//! ```
//!
//! A node must not say what no peer can make sense of: a request for a piece the other side has not
//! announced, or without being interested; a block that was not asked for, or while it chokes;
//! the same state twice in a row; a bitfield after the beginning; more requests than the other side said
//! it keeps. What it claims to have is passed on, to be compared with its disk ([`Told`]).
//!
//! Order is the order of writing. Whatever one side says about the other it has read before, so
//! the other has written it before. What crosses on the way (a choke, a cancel) is forgiven. A side that is
//! no node may do what it likes: when it makes no sense, the connection is not judged any more.
//!
//! [BEP 3](https://www.bittorrent.org/beps/bep_0003.html), [BEP 6](https://www.bittorrent.org/beps/bep_0006.html)

use std::collections::{BTreeMap, BTreeSet};

use crate::config::limits;
use crate::id::{BLOCK_LEN, Block, PieceIndex};
use crate::wire::{self, Ext, HANDSHAKE_LEN, Message};

/// Requests without an answer until a connection is not judged any more.
const MANY: usize = 4 * limits::REQUESTS_OUT;

/// What a node claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// It has this piece.
    Has(PieceIndex),
    /// It had this piece when the message was put in line.
    Had(PieceIndex),
    /// It has all pieces.
    All,
}

/// What one side has said.
#[derive(Default, Debug)]
struct Side {
    /// Bytes of a frame that is not complete.
    part: Vec<u8>,
    /// Bytes of payload to skip.
    skip: u32,
    greeted: bool,
    fast: bool,
    /// Messages written, keep-alives and extended ones apart: those may come first.
    messages: u64,
    unchoking: bool,
    interested: bool,
    has: BTreeSet<u32>,
    has_all: bool,
    allowed: BTreeSet<u32>,
    /// Requests it has written that have no answer.
    asked: BTreeMap<(u32, u32, u32), u32>,
    /// Requests it has cancelled that have no answer.
    cancelled: BTreeMap<(u32, u32, u32), u32>,
    /// Requests it keeps, as it says.
    reqq: Option<u32>,
    /// Since its last request the other side has choked, so that it may ask again.
    again: bool,
}

/// One less of it. False when there was none.
fn take(counts: &mut BTreeMap<(u32, u32, u32), u32>, key: &(u32, u32, u32)) -> bool {
    let Some(n) = counts.get_mut(key) else { return false };
    *n -= 1;
    if *n == 0 {
        counts.remove(key);
    }
    true
}

impl Side {
    /// A request of its has an answer. False when it made none.
    fn answered(&mut self, key: &(u32, u32, u32)) -> bool {
        take(&mut self.cancelled, key) || take(&mut self.asked, key)
    }

    /// Bytes of the next part that are looked at together: all of a message, but of a block the head only.
    fn need(&self) -> usize {
        let word = self.part.first_chunk::<4>().map(|w| u32::from_be_bytes(*w) as usize);
        match (word, self.part.get(4)) {
            _ if !self.greeted => HANDSHAKE_LEN,
            (None | Some(0), _) => 4,
            (Some(_), None) => 5,
            (Some(_), Some(&wire::id::PIECE)) => wire::PIECE_HEADER_LEN,
            (Some(n), Some(_)) => 4 + n,
        }
    }
}

/// Both sides of one connection.
#[derive(Default, Debug)]
pub(super) struct Tap {
    sides: [Side; 2],
    /// Not to be judged.
    blind: bool,
}

/// What the taps of a run have in common.
#[derive(Default, Debug)]
pub(super) struct Taps {
    /// Hosts below are nodes.
    pub(super) nodes: u32,
    /// Hosts below are nodes or scripted peers.
    pub(super) peers: u32,
    pub(super) pieces: u32,
    /// What nodes claimed since this was looked at last.
    pub(super) told: Vec<(u32, Told)>,
    /// What nodes did that they must not.
    pub(super) breaches: Vec<String>,
}

impl Taps {
    /// Whether a connection between these hosts is to be judged.
    pub(super) fn covers(&self, a: u32, b: u32) -> bool {
        a.min(b) < self.nodes && a.max(b) < self.peers
    }

    /// Side `s` of a connection, which is `host`, has written.
    pub(super) fn wrote(&mut self, tap: &mut Tap, s: usize, host: u32, to: u32, data: &[u8]) {
        let (node, mut told) = (host < self.nodes, Vec::new());
        if let Err(e) = tap.wrote(s, data, node, self.pieces, &mut told) {
            self.breaches.push(format!("n{host} to {to}: {e}"));
        }
        if node {
            self.told.extend(told.into_iter().map(|t| (host, t)));
        }
    }
}

fn key(b: &Block) -> (u32, u32, u32) {
    (b.piece.get(), b.begin, b.len)
}

impl Tap {
    /// Side `s` has written `data`; `node`: it is held to the rules. What it claims goes to `told`.
    pub(super) fn wrote(
        &mut self,
        s: usize,
        mut data: &[u8],
        node: bool,
        pieces: u32,
        told: &mut Vec<Told>,
    ) -> Result<(), String> {
        while !data.is_empty() && !self.blind {
            let side = &mut self.sides[s];
            if side.skip > 0 {
                let n = data.len().min(side.skip as usize);
                side.skip -= n as u32;
                data = &data[n..];
                continue;
            }
            let need = side.need();
            if need > 4 + limits::EXTENDED_FRAME as usize {
                self.blind = true;
                return if node { Err(format!("writes a frame of {need} bytes")) } else { Ok(()) };
            }
            let n = data.len().min(need - side.part.len());
            side.part.extend_from_slice(&data[..n]);
            data = &data[n..];
            // More is known of what is needed.
            if side.part.len() < side.need() {
                continue;
            }
            let part = std::mem::take(&mut side.part);
            let verdict = if side.greeted { self.frame(s, &part, pieces, told) } else { self.greeting(s, &part) };
            match verdict {
                Err(_) if !node => self.blind = true,
                Err(e) => return Err(e),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn greeting(&mut self, s: usize, data: &[u8]) -> Result<(), String> {
        if data[..20] != *b"\x13BitTorrent protocol" {
            self.blind = true;
            return Err("does not begin with a handshake".to_owned());
        }
        let side = &mut self.sides[s];
        side.greeted = true;
        side.fast = data[27] & 4 != 0;
        Ok(())
    }

    fn frame(&mut self, s: usize, data: &[u8], pieces: u32, told: &mut Vec<Told>) -> Result<(), String> {
        let fast = self.sides[0].fast && self.sides[1].fast;
        if data.get(4) == Some(&wire::id::PIECE) {
            let word = |i: usize| u32::from_be_bytes([data[i], data[i + 1], data[i + 2], data[i + 3]]);
            let len = word(0).checked_sub(9).ok_or("writes a block that is too short")?;
            self.sides[s].skip = len;
            self.sides[s].messages += 1;
            return self.block(s, &Block::new(word(5), word(9), len), fast);
        }
        let message = match wire::parse_frame(data, limits::EXTENDED_FRAME) {
            Ok(Some((m, n))) if n == data.len() => m,
            _ => return Err(format!("writes what is no message: {:02x?}", &data[..data.len().min(16)])),
        };
        let (side, other) = match &mut self.sides {
            [a, b] if s == 0 => (a, b),
            [a, b] => (b, a),
        };
        let first = side.messages == 0;
        side.messages += u64::from(!matches!(message, Message::KeepAlive | Message::Extended { .. }));
        let inside = |p: PieceIndex| p.get() < pieces;
        match message {
            Message::Bitfield(_) | Message::HaveAll | Message::HaveNone if !first => {
                return Err("says what it has when that is over".to_owned());
            }
            Message::HaveAll | Message::HaveNone | Message::Reject(_) | Message::AllowedFast(_) if !fast => {
                return Err("speaks of what the other side does not know (BEP 6)".to_owned());
            }
            Message::Bitfield(bits) => {
                let set = |p: &u32| bits.get(*p as usize / 8).is_some_and(|b| b & (0x80 >> (p % 8)) != 0);
                side.has = (0..pieces).filter(set).collect();
                told.extend(side.has.iter().map(|p| Told::Has(PieceIndex::new(*p))));
            }
            Message::HaveAll => {
                side.has_all = true;
                told.push(Told::All);
            }
            Message::Have(p) if !inside(p) => return Err(format!("has piece {p}, which there is not")),
            Message::Have(p) => {
                side.has.insert(p.get());
                told.push(Told::Had(p));
            }
            Message::AllowedFast(p) => drop(side.allowed.insert(p.get())),
            Message::Unchoke if side.unchoking => return Err("unchokes twice".to_owned()),
            Message::Choke if !side.unchoking => return Err("chokes twice".to_owned()),
            Message::Unchoke => side.unchoking = true,
            Message::Choke => {
                side.unchoking = false;
                if !fast {
                    // Requests that are on their way are not answered either, but nobody knows which.
                    other.asked.clear();
                    other.again = true;
                }
            }
            Message::Interested if side.interested => return Err("is interested twice".to_owned()),
            Message::NotInterested if !side.interested => return Err("is not interested twice".to_owned()),
            Message::Interested => side.interested = true,
            Message::NotInterested => side.interested = false,
            Message::Request(b) => {
                let known = inside(b.piece) && (other.has_all || other.has.contains(&b.piece.get()));
                if !known || b.len > BLOCK_LEN || b.begin % BLOCK_LEN != 0 {
                    return Err(format!("asks for {b:?}, which the other side does not have"));
                }
                if !side.interested {
                    return Err(format!("asks for {b:?} without being interested"));
                }
                *side.asked.entry(key(&b)).or_default() += 1;
                let most = other.reqq.map_or(limits::REQUESTS_OUT_DEFAULT, |n| n as usize).max(1);
                if side.asked.len() > most && !side.again {
                    return Err(format!("{} requests are out, and {most} are kept", side.asked.len()));
                }
                if side.asked.len() > MANY {
                    self.blind = true;
                }
            }
            // With BEP 6 an answer comes all the same, and for another request as well.
            Message::Cancel(b) => {
                let open = take(&mut side.asked, &key(&b));
                if open && fast {
                    *side.cancelled.entry(key(&b)).or_default() += 1;
                }
            }
            Message::Reject(b) => {
                let open = other.answered(&key(&b));
                if !open && !other.again {
                    return Err(format!("rejects {b:?}, which nobody asked for"));
                }
            }
            Message::Extended { id: 0, payload } => {
                if let Ok(h) = wire::ExtHandshake::parse(payload) {
                    side.reqq = h.reqq;
                }
            }
            Message::Extended { id, .. } if Ext::from_id(id).is_none() => {}
            _ => {}
        }
        Ok(())
    }

    fn block(&mut self, s: usize, b: &Block, fast: bool) -> Result<(), String> {
        let (side, again) = (&self.sides[s], self.sides[1 - s].again);
        let free = fast && side.allowed.contains(&b.piece.get());
        if !side.unchoking && !free {
            return Err(format!("sends {b:?} while it chokes"));
        }
        // Without BEP 6 nobody is told what was dropped, and a cancel may cross.
        if !self.sides[1 - s].answered(&key(b)) && fast && !again {
            return Err(format!("sends {b:?}, which nobody asked for"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(tap: &mut Tap, s: usize, m: &Message<'_>) -> Result<(), String> {
        let mut out = Vec::new();
        wire::encode(m, &mut out);
        // By the byte, as the worst network would.
        out.chunks(1).try_for_each(|b| tap.wrote(s, b, true, 10, &mut Vec::new()))
    }

    fn talk() -> Tap {
        let mut tap = Tap::default();
        for s in 0..2 {
            let hello = wire::encode_handshake(&wire::Handshake {
                reserved: wire::Reserved::ours(),
                info_hash: crate::id::InfoHash::new([1; 20]),
                peer_id: crate::id::PeerId::new([s as u8; 20]),
            });
            tap.wrote(s, &hello, true, 10, &mut Vec::new()).expect("a handshake");
        }
        say(&mut tap, 0, &Message::HaveAll).expect("have all");
        say(&mut tap, 1, &Message::HaveNone).expect("have none");
        tap
    }

    #[test]
    fn a_talk_by_the_rules() {
        let mut tap = talk();
        let b = Block::new(3, 0, 4);
        say(&mut tap, 1, &Message::KeepAlive).expect("a keep-alive");
        say(&mut tap, 1, &Message::Interested).expect("interest");
        say(&mut tap, 0, &Message::Unchoke).expect("an unchoke");
        say(&mut tap, 1, &Message::Request(b)).expect("a request");
        say(&mut tap, 0, &Message::Piece { piece: b.piece, begin: 0, data: b"abcd" }).expect("a block");
        say(&mut tap, 1, &Message::Have(b.piece)).expect("a piece");
        assert!(!tap.blind);
    }

    #[test]
    fn breaches_are_told() {
        let b = Block::new(3, 0, 4);
        let piece = Message::Piece { piece: b.piece, begin: 0, data: b"abcd" };
        let cases: [(&[(usize, Message<'_>)], &str); 7] = [
            (&[(0, Message::HaveAll)], "when that is over"),
            (&[(0, Message::Unchoke), (0, Message::Unchoke)], "unchokes twice"),
            (&[(1, Message::Request(b))], "without being interested"),
            (&[(0, Message::Interested), (0, Message::Request(b))], "does not have"),
            (&[(0, piece)], "while it chokes"),
            (&[(0, Message::Unchoke), (0, piece)], "nobody asked for"),
            (&[(1, Message::Have(PieceIndex::new(10)))], "which there is not"),
        ];
        for (said, wanted) in cases {
            let mut tap = talk();
            let got = said.iter().try_for_each(|(s, m)| say(&mut tap, *s, m)).expect_err(wanted);
            assert!(got.contains(wanted), "{got}");
        }
    }
}
