//! A peer that sends corrupt blocks: it is found out and banned, and the download completes from the honest one.
//!
//! The liar is written with plain sockets, on an address of its own (127.0.0.2): hosts are banned, not ports.

mod common;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use btmio::api::{Add, Alert, CloseReason};
use common::{Node, Sample, Temp, complete, until};

/// Where liars live, and where honest scripted peers do.
const JUNK: &str = "127.0.0.2";
const HONEST: &str = "127.0.0.3";

/// What a scripted peer does to the blocks that are asked of it.
type Corrupt = fn(piece: u32, begin: u32, block: &mut [u8]);

const TRUTH: Corrupt = |_, _, _| {};
const LIE: Corrupt = |_, _, block| block[7] ^= 0x10;

/// How a scripted peer behaves.
#[derive(Clone)]
struct Script {
    corrupt: Corrupt,
    /// It waits here when it was first asked for something.
    meets: Option<Arc<Barrier>>,
    /// It leaves after so many blocks.
    leaves: Option<usize>,
}

impl Script {
    fn new(corrupt: Corrupt) -> Self {
        Self { corrupt, meets: None, leaves: None }
    }
}

/// A seeder by plain sockets, one connection after the other.
struct Scripted {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Scripted {
    fn start(ip: &str, sample: &Sample, script: Script) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (data, piece_len) = (sample.data(), sample.piece_len);
        let (connections, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (Arc::clone(&connections), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut script = script;
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                // It ends when the other side has had enough.
                let _ = serve(stream.expect("a connection"), &data, piece_len, &mut script);
            }
        });
        Self { addr, connections, ends, thread }
    }

    /// Ends it; returns how many connections it had. Nobody may be connected any more.
    fn end(self) -> usize {
        self.ends.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr).expect("it listens"));
        self.thread.join().expect("it did not panic");
        self.connections.load(Ordering::SeqCst)
    }
}

/// Handshake without extensions, bitfield, unchoke, and then a block for each request.
fn serve(mut stream: TcpStream, data: &[u8], piece_len: usize, script: &mut Script) -> io::Result<()> {
    let mut theirs = [0; 68];
    stream.read_exact(&mut theirs)?;
    let mut out = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    out.extend(&theirs[28..48]);
    out.extend(b"-JK0001-");
    // No two have the same id: the address will do for the rest.
    out.extend(format!("{:>12}", stream.local_addr()?.port()).as_bytes());
    let pieces = data.len().div_ceil(piece_len);
    let mut bits = vec![0xff; pieces.div_ceil(8)];
    *bits.last_mut().expect("a piece") <<= (8 - pieces % 8) % 8;
    out.extend((1 + bits.len() as u32).to_be_bytes());
    out.push(5);
    out.extend(bits);
    out.extend([0, 0, 0, 1, 1]);
    stream.write_all(&out)?;
    let mut left = script.leaves.take().unwrap_or(usize::MAX);
    while left > 0 {
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        let mut message = vec![0; u32::from_be_bytes(len) as usize];
        stream.read_exact(&mut message)?;
        if message.first() != Some(&6) {
            continue;
        }
        if let Some(barrier) = script.meets.take() {
            barrier.wait();
        }
        let word = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().expect("four bytes"));
        let (piece, begin, len) = (word(1), word(5), word(9));
        let start = piece as usize * piece_len + begin as usize;
        let mut block = data[start..start + len as usize].to_vec();
        (script.corrupt)(piece, begin, &mut block);
        let mut out = (9 + len).to_be_bytes().to_vec();
        out.push(7);
        out.extend(&message[1..9]);
        out.extend(block);
        stream.write_all(&out)?;
        left -= 1;
    }
    Ok(())
}

fn sample() -> Sample {
    Sample::new("t", 64 << 10, &[("a", 9_000_001), ("b", 700_000)])
}

fn banned(n: &Node, addr: SocketAddr) -> bool {
    n.alerts.iter().any(|a| matches!(a, Alert::PeerBanned { addr: a, .. } if *a == addr))
}

fn failed(n: &Node) -> usize {
    n.alerts.iter().filter(|a| matches!(a, Alert::PieceFailed { .. })).count()
}

#[test]
fn a_scripted_peer_that_is_honest_is_as_good_as_any() {
    let (temp, sample) = (Temp::new(), sample());
    let honest = Scripted::start(HONEST, &sample, Script::new(TRUTH));
    let mut leech = Node::new();
    let add = Add { peers: vec![honest.addr], ..Add::new(sample.meta(), temp.path("leech")) };
    let key = leech.lp.add(add).expect("added");
    complete(&mut [&mut leech], key);
    sample.assert_in(&temp.path("leech"));
    assert_eq!((failed(&leech), leech.status(key).wasted), (0, 0));
    drop(leech);
    assert_eq!(honest.end(), 1);
}

#[test]
fn one_that_only_lies_is_banned_at_its_first_piece() {
    let (temp, sample) = (Temp::new(), sample());
    let liar = Scripted::start(JUNK, &sample, Script::new(LIE));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::new();
    // The liar alone at first, so that it is asked at all.
    let add = Add { peers: vec![liar.addr], ..Add::new(sample.meta(), temp.path("leech")) };
    let key = leech.lp.add(add).expect("added");
    until(&mut [&mut leech], |n| banned(n[0], liar.addr));
    assert_eq!((leech.status(key).have, leech.status(key).peers), (0, 0));
    let why = leech.alerts.iter().find_map(|a| if let Alert::PeerClosed { why, .. } = a { Some(why) } else { None });
    assert_eq!(why, Some(&CloseReason::Banned));

    let peer = seed.addr();
    leech.lp.command(|s, now| s.add_peer(now, key, peer)).expect("it is there");
    // It is not dialled again, whoever names it.
    leech.lp.command(|s, now| s.add_peer(now, key, liar.addr)).expect("it is there");
    complete(&mut [&mut leech, &mut seed], key);
    sample.assert_in(&temp.path("leech"));
    assert!(!banned(&leech, peer), "the honest one is not blamed");
    drop(leech);
    assert_eq!(liar.end(), 1);
}

/// A single piece, so that whoever serves at all has a hand in it.
fn one_piece() -> Sample {
    Sample::new("t", 4 << 20, &[("a", 4 << 20)])
}

#[test]
fn of_two_that_shared_a_piece_the_liar_is_told_by_its_blocks() {
    let (temp, sample) = (Temp::new(), one_piece());
    // Neither answers before both were asked.
    let meets = Some(Arc::new(Barrier::new(2)));
    let liar = Scripted::start(JUNK, &sample, Script { meets: meets.clone(), ..Script::new(LIE) });
    let honest = Scripted::start(HONEST, &sample, Script { meets, ..Script::new(TRUTH) });
    let mut leech = Node::new();
    let add = Add { peers: vec![liar.addr, honest.addr], ..Add::new(sample.meta(), temp.path("leech")) };
    let key = leech.lp.add(add).expect("added");
    complete(&mut [&mut leech], key);
    sample.assert_in(&temp.path("leech"));
    assert!(!banned(&leech, honest.addr));
    assert!((1..4).contains(&failed(&leech)) && banned(&leech, liar.addr), "failed {} times", failed(&leech));
    drop(leech);
    liar.end();
    honest.end();
}

#[test]
fn a_liar_that_has_left_is_not_let_in_again() {
    let (temp, sample) = (Temp::new(), one_piece());
    let liar = Scripted::start(JUNK, &sample, Script { leaves: Some(10), ..Script::new(LIE) });
    let mut leech = Node::new();
    let add = Add { peers: vec![liar.addr], ..Add::new(sample.meta(), temp.path("leech")) };
    let key = leech.lp.add(add).expect("added");
    until(&mut [&mut leech], |n| n[0].alerts.iter().any(|a| matches!(a, Alert::PeerClosed { .. })));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let peer = seed.addr();
    leech.lp.command(|s, now| s.add_peer(now, key, peer)).expect("it is there");
    complete(&mut [&mut leech, &mut seed], key);
    sample.assert_in(&temp.path("leech"));
    assert!(failed(&leech) > 0 && banned(&leech, liar.addr) && !banned(&leech, peer));
    drop(leech);
    liar.end();
}
