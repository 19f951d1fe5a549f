//! The attacks: what each attacker says, and the loop that lets many of them say it.

use crate::{ATTACKER, TARGET};
use btmio::id::{Block, PieceIndex};
use btmio::wire::{self, Message};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What attackers do.
pub(crate) struct Attack {
    /// Its number in the list of tests.
    pub(crate) name: &'static str,
    /// In a few words.
    pub(crate) what: &'static str,
    /// Connections at once.
    bots: usize,
    /// They shake hands, for this torrent.
    hello: bool,
    /// They read what comes.
    read: bool,
    /// Closed connections are opened again, at most so many a second altogether.
    again: u32,
    /// Connections last some milliseconds and are then reset.
    brief: bool,
    /// How long it goes on, in seconds.
    pub(crate) seconds: u64,
    /// Said once, by attacker number.
    first: fn(usize, u32) -> Vec<u8>,
    /// Said over and over.
    then: fn(usize, u32) -> Vec<u8>,
}

/// All of them.
pub(crate) const ATTACKS: [Attack; 9] = [
    Attack {
        name: "T15",
        what: "length bomb",
        bots: 100,
        hello: true,
        read: false,
        again: 200,
        brief: false,
        seconds: 5,
        first: bomb,
        then: none,
    },
    Attack {
        name: "T16",
        what: "wrong sizes",
        bots: 30,
        hello: true,
        read: true,
        again: 500,
        brief: false,
        seconds: 5,
        first: wrong,
        then: none,
    },
    Attack {
        name: "T17",
        what: "unsolicited pieces",
        bots: 20,
        hello: true,
        read: true,
        again: 100,
        brief: false,
        seconds: 5,
        first: none,
        then: unasked,
    },
    Attack {
        name: "T18",
        what: "request flood",
        bots: 30,
        hello: true,
        read: false,
        again: 30,
        brief: false,
        seconds: 5,
        first: interested,
        then: requests,
    },
    Attack {
        name: "T19",
        what: "cancel and choke churn",
        bots: 10,
        hello: true,
        read: true,
        again: 30,
        brief: false,
        seconds: 5,
        first: interested,
        then: churn,
    },
    Attack {
        name: "T20",
        what: "allowed-fast abuse",
        bots: 10,
        hello: true,
        read: true,
        again: 30,
        brief: false,
        seconds: 5,
        first: none,
        then: requests,
    },
    Attack {
        name: "T21",
        what: "have flood",
        bots: 10,
        hello: true,
        read: true,
        again: 30,
        brief: false,
        seconds: 5,
        first: none,
        then: haves,
    },
    Attack {
        name: "T22",
        what: "3,000 idle",
        bots: 3000,
        hello: false,
        read: false,
        again: 20_000,
        brief: false,
        seconds: 5,
        first: one_byte,
        then: none,
    },
    Attack {
        name: "T23",
        what: "connection storm",
        bots: 400,
        hello: false,
        read: false,
        again: 10_000,
        brief: true,
        seconds: 30,
        first: wrong_hash,
        then: none,
    },
];

/// T53: more of them than the client has descriptors, for as long as its work takes.
pub(crate) const CROWD: Attack = Attack {
    name: "T53",
    what: "100 files, few descriptors",
    bots: 300,
    hello: false,
    read: false,
    again: 20,
    brief: false,
    seconds: 5,
    first: one_byte,
    then: none,
};

fn message(out: &mut Vec<u8>, m: &Message<'_>) {
    wire::encode(m, out);
}

fn none(_: usize, _: u32) -> Vec<u8> {
    Vec::new()
}

fn bomb(n: usize, _: u32) -> Vec<u8> {
    let len: u32 = if n % 2 == 0 { u32::MAX } else { i32::MAX as u32 };
    [&len.to_be_bytes()[..], &[[5, 7, 20, 99][n % 4]]].concat()
}

fn wrong(n: usize, pieces: u32) -> Vec<u8> {
    let bits = pieces.div_ceil(8) as usize;
    let mut out = Vec::new();
    match n % 8 {
        0 => message(&mut out, &Message::Bitfield(&vec![0; bits + 1])),
        1 => message(&mut out, &Message::Bitfield(&vec![0; bits - 1])),
        2 => message(&mut out, &Message::Bitfield(&vec![0xff; bits])),
        3 => message(&mut out, &Message::Have(PieceIndex::new(pieces))),
        4 => message(&mut out, &Message::Request(Block::new(0, u32::MAX - 8, 16_384))),
        5 => message(&mut out, &Message::Request(Block::new(0, 0, u32::MAX))),
        6 => message(&mut out, &Message::Request(Block::new(0, 0, 0))),
        _ => out.extend_from_slice(&[0, 0, 0, 3, 4, 0, 0]),
    }
    out
}

fn unasked(n: usize, pieces: u32) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, &Message::Piece { piece: PieceIndex::new(n as u32 % pieces), begin: 0, data: &[0x55; 16_384] });
    out
}

fn interested(_: usize, _: u32) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, &Message::Interested);
    out
}

fn requests(_: usize, pieces: u32) -> Vec<u8> {
    let mut out = Vec::new();
    (0..pieces - 1).for_each(|p| message(&mut out, &Message::Request(Block::new(p, 0, 16_384))));
    out
}

fn churn(_: usize, pieces: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for p in 0..pieces - 1 {
        let block = Block::new(p, 0, 16_384);
        [Message::Request(block), Message::Cancel(block), Message::Choke, Message::Unchoke]
            .iter()
            .for_each(|m| message(&mut out, m));
        message(&mut out, if p % 2 == 0 { &Message::NotInterested } else { &Message::Interested });
    }
    out
}

fn haves(n: usize, pieces: u32) -> Vec<u8> {
    let mut out = Vec::new();
    if n % 5 == 4 {
        message(&mut out, &Message::HaveAll);
        message(&mut out, &Message::HaveNone);
    }
    // All but the last: a complete peer would be shown the door by a seed.
    (0..pieces - 1).for_each(|p| message(&mut out, &Message::Have(PieceIndex::new(p))));
    out
}

fn one_byte(n: usize, _: u32) -> Vec<u8> {
    vec![19; n % 2]
}

fn wrong_hash(n: usize, _: u32) -> Vec<u8> {
    if n % 2 == 0 { Vec::new() } else { hello([0xEE; 20], n).to_vec() }
}

fn hello(hash: [u8; 20], n: usize) -> [u8; 68] {
    let mut id = *b"-XX0000-000000000000";
    id[12..].copy_from_slice(&(n as u64 ^ u64::from(std::process::id()) << 32).to_be_bytes());
    wire::encode_handshake(&wire::Handshake {
        reserved: wire::Reserved::ours(),
        info_hash: btmio::id::InfoHash::new(hash),
        peer_id: btmio::id::PeerId::new(id),
    })
}

struct Bot {
    socket: Socket,
    out: Vec<u8>,
    at: usize,
    since: Instant,
    /// What comes next, once the other side has answered the handshake: some want no more than that before.
    first: Option<Vec<u8>>,
}

/// Attackers, all at once.
pub(crate) struct Bots<'a> {
    attack: &'a Attack,
    hash: [u8; 20],
    pieces: u32,
    bots: Vec<Option<Bot>>,
    /// Connections begun so far.
    pub(crate) made: usize,
}

impl<'a> Bots<'a> {
    pub(crate) fn new(attack: &'a Attack, hash: [u8; 20], pieces: u32) -> Self {
        Self { attack, hash, pieces, bots: (0..attack.bots).map(|_| None).collect(), made: 0 }
    }

    /// Attacks while it may, then leaves.
    pub(crate) fn run(&mut self, go_on: impl Fn() -> bool) {
        let begin = Instant::now();
        let mut scratch = vec![0; 64 << 10];
        while go_on() {
            let mut idle = true;
            // The first of each are not counted against the rate.
            let may = self.attack.bots + (begin.elapsed().as_secs_f64() * f64::from(self.attack.again)) as usize;
            for i in 0..self.bots.len() {
                if self.bots[i].is_none() && self.made < may {
                    self.bots[i] = self.open();
                    idle = false;
                }
                let Some(bot) = &mut self.bots[i] else { continue };
                let brief = self.attack.brief && bot.at == bot.out.len() && bot.since.elapsed().as_millis() >= 5;
                match pump(bot, self.attack.read, &mut scratch) {
                    Some(moved) if !brief => idle &= !moved,
                    _ => {
                        if brief {
                            let _ = bot.socket.set_linger(Some(Duration::ZERO));
                        }
                        self.bots[i] = None;
                        continue;
                    }
                }
                if bot.at == bot.out.len() {
                    bot.out = match bot.first.take() {
                        Some(first) if heard(bot) => first,
                        Some(first) => {
                            bot.first = Some(first);
                            continue;
                        }
                        None => (self.attack.then)(i, self.pieces),
                    };
                    bot.at = 0;
                }
            }
            if idle {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.bots.clear();
    }

    fn open(&mut self) -> Option<Bot> {
        self.made += 1;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).ok()?;
        socket.set_nonblocking(true).ok()?;
        socket.bind(&SocketAddr::new(ATTACKER, 0).into()).ok()?;
        // In progress is no error.
        let _ = socket.connect(&TARGET.into());
        let first = (self.attack.first)(self.made, self.pieces);
        let (out, first) =
            if self.attack.hello { (hello(self.hash, self.made).to_vec(), Some(first)) } else { (first, None) };
        Some(Bot { socket, out, at: 0, since: Instant::now(), first })
    }
}

/// Bytes have come that nobody has read.
fn heard(bot: &Bot) -> bool {
    bot.socket.peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok_and(|n| n > 0)
}

/// Moves bytes; whether any moved, or `None` when the connection is gone.
fn pump(bot: &mut Bot, read: bool, scratch: &mut [u8]) -> Option<bool> {
    let fine = |e: &std::io::Error| matches!(e.raw_os_error(), Some(11 | 107 | 115));
    let mut moved = false;
    if read && bot.first.is_none() {
        match (&bot.socket).read(scratch) {
            Ok(0) => return None,
            Ok(_) => moved = true,
            Err(e) if fine(&e) => {}
            Err(_) => return None,
        }
    } else if bot.at == bot.out.len() {
        // One that does not read notices its end only by looking.
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match bot.socket.peek(&mut byte) {
            Ok(0) => return None,
            Err(e) if !fine(&e) => return None,
            _ => {}
        }
    }
    if bot.at < bot.out.len() {
        match (&bot.socket).write(&bot.out[bot.at..]) {
            Ok(n) => {
                bot.at += n;
                moved = true;
            }
            Err(e) if fine(&e) => {}
            Err(_) => return None,
        }
    }
    Some(moved)
}
