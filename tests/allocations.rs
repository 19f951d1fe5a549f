//! What is allocated: nothing on the path of a block, of a `have` and of every other message of a fixed length, in
//! whatever splits the stream arrives; and not much more than a torrent file is long while it is read.

#![allow(unsafe_code, reason = "counting allocations takes a global allocator, and that is an unsafe trait")]

mod common;

use btmio::api::Add;
use btmio::config::{Config, limits};
use btmio::id::{Block, PieceIndex};
use btmio::metainfo::Metainfo;
use btmio::session::Session;
use btmio::time::Instant;
use btmio::wire::{Decoder, Event, Message, Want, encode};
use socket2::{Domain, Socket, Type};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Background, Node, Running, Sample, Temp, until};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread has allocated and not freed, and the most that there were.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Bytes that the process has allocated and not freed, and the most that it may have.
static USED: AtomicUsize = AtomicUsize::new(0);
static CAP: AtomicUsize = AtomicUsize::new(usize::MAX);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting what each thread asks of it, and refusing what is too much.
struct Counting;

impl Counting {
    /// Whether the process may have so many bytes more.
    fn grants(bytes: usize) -> bool {
        let used = USED.fetch_add(bytes, Ordering::Relaxed) + bytes;
        MOST.fetch_max(used, Ordering::Relaxed);
        let granted = used <= CAP.load(Ordering::Relaxed);
        if !granted {
            Self::takes_back(bytes);
        }
        granted
    }

    fn takes_back(bytes: usize) {
        USED.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn changed(by: isize) {
        LIVE.set(LIVE.get() + by);
        PEAK.set(PEAK.get().max(LIVE.get()));
    }
}

// SAFETY: every call goes to the system's allocator unchanged; the counts are thread-locals without
// a destructor, which neither allocate nor fail.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::grants(layout.size()) {
            return std::ptr::null_mut();
        }
        COUNT.set(COUNT.get() + 1);
        Self::changed(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Self::takes_back(layout.size());
        Self::changed(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !Self::grants(new_size) {
            return std::ptr::null_mut();
        }
        Self::takes_back(layout.size());
        COUNT.set(COUNT.get() + 1);
        // While it moves, both are there.
        Self::changed(new_size as isize);
        Self::changed(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `f` had allocated at once, above what there was, and what it answers.
fn most<R>(f: impl FnOnce() -> R) -> (isize, R) {
    let before = LIVE.get();
    PEAK.set(before);
    let r = f();
    (PEAK.get() - before, r)
}

/// Drives a decoder over `stream` in chunks of `size`: events seen, and allocations made.
fn drive(decoder: &mut Decoder, stream: &[u8], size: usize) -> (usize, u64) {
    let (mut events, before) = (0, COUNT.get());
    for chunk in stream.chunks(size) {
        let mut at = 0;
        while at < chunk.len() {
            if let Want::Payload { block, at: done } = decoder.want() {
                let n = ((block.len - done) as usize).min(chunk.len() - at);
                at += n;
                events += usize::from(decoder.filled(n as u32).is_some());
            } else {
                let (n, event) = decoder.feed(&chunk[at..]).expect("the stream is right");
                at += n;
                events += usize::from(event.is_some());
            }
        }
    }
    (events, COUNT.get() - before)
}

const SIZES: [usize; 8] = [1, 3, 7, 16, 17, 1000, 16_397, 1 << 20];

#[test]
fn blocks_and_haves_allocate_nothing() {
    let (data, mut stream) = (vec![0x5A; 16 * 1024], Vec::new());
    for i in 0..50 {
        encode(&Message::Piece { piece: PieceIndex::new(i), begin: 0, data: &data }, &mut stream);
        encode(&Message::Have(PieceIndex::new(i)), &mut stream);
    }
    for size in SIZES {
        let mut decoder = Decoder::new();
        assert_eq!(drive(&mut decoder, &stream, size), (150, 0), "in chunks of {size}");
    }
}

#[test]
fn requests_and_their_kin_allocate_nothing() {
    let (block, piece) = (Block::new(7, 0x4000, 0x4000), PieceIndex::new(7));
    let all = [
        Message::KeepAlive,
        Message::Choke,
        Message::Unchoke,
        Message::Interested,
        Message::NotInterested,
        Message::Request(block),
        Message::Cancel(block),
        Message::Port(6881),
        Message::Suggest(piece),
        Message::HaveAll,
        Message::HaveNone,
        Message::Reject(block),
        Message::AllowedFast(piece),
        Message::Unknown { id: 21, len: 5000 },
    ];
    let mut stream = Vec::with_capacity(64 << 10);
    let before = COUNT.get();
    for _ in 0..10 {
        all.iter().for_each(|m| encode(m, &mut stream));
    }
    assert_eq!(COUNT.get(), before, "encoding into a buffer that is large enough");
    for size in SIZES {
        let mut decoder = Decoder::new();
        assert_eq!(drive(&mut decoder, &stream, size), (10 * all.len(), 0), "in chunks of {size}");
    }
}

#[test]
fn a_bitfield_allocates_only_when_it_is_split() {
    let mut stream = Vec::new();
    encode(&Message::Bitfield(&[0xFF; 1000]), &mut stream);
    let mut decoder = Decoder::new();
    assert_eq!(drive(&mut decoder, &stream, stream.len()), (1, 0));
    let (events, allocations) = drive(&mut decoder, &stream, 100);
    assert!(events == 1 && (1..6).contains(&allocations), "{allocations} allocations");
    // The counter counts, and a BlockStart is an event like any other.
    assert!(matches!(
        Decoder::new().feed(&[0, 0, 0, 9, 7, 0, 0, 0, 0, 0, 0, 0, 0]),
        Ok((13, Some(Event::BlockStart(_))))
    ));
}

/// A torrent file of so many bytes: `head`, `unit` as often as there is room, `tail`.
fn filled(head: &str, unit: &str, tail: &str, most: usize) -> Vec<u8> {
    let n = ((limits::TORRENT_FILE - head.len() - tail.len()) / unit.len()).min(most);
    [head, &unit.repeat(n), tail].concat().into_bytes()
}

/// T11 of the list of threats: a file of the largest size, made of nothing but the shortest values.
#[test]
fn t11_a_torrent_takes_four_times_the_largest_length_and_gives_it_back() {
    let limit = 4 * limits::TORRENT_FILE as isize;
    let rest = "4:name1:t12:piece lengthi16384e6:pieces0:e";
    let all = usize::MAX;
    // Where the limit of tokens comes first, what is read until then is what counts.
    let bombs = [
        ("lists", filled("l", "le", "e", all)),
        ("dictionaries", filled("l", "de", "e", all)),
        ("nests", filled("l", &format!("{}{}", "l".repeat(30), "e".repeat(30)), "e", all)),
        ("files", filled("d4:infod5:filesl", "d6:lengthi0e4:pathl1:aee", &format!("e{rest}e"), limits::FILES)),
        ("trackers", filled("d13:announce-listl", "1:a", "ee", limits::BENCODE_TOKENS - 6)),
    ];
    for (what, bytes) in bombs {
        let before = LIVE.get();
        let (peak, session) = most(|| {
            let meta = Metainfo::parse(&bytes).ok()?;
            let mut session = Session::new(Config::default(), [1; 32]);
            session.add(Instant::ZERO, Add::new(meta, "d")).expect("it is added");
            Some(session)
        });
        let kept = LIVE.get() - before;
        let is_read = session.is_some();
        drop(session);
        let left = LIVE.get() - before;
        // What is printed is allocated too, where it is captured.
        println!("{what}: {} bytes, {peak} at once, {kept} kept", bytes.len());
        assert!((1 << 20..=limit).contains(&peak), "{what}: {peak} at once, for {} bytes", bytes.len());
        assert_eq!((is_read, left), (what == "files", 0), "{what}: given back");
    }
}

// ---------------------------------------------------------------- T62

/// Where the process with the cap is told what to do.
const CAPPED: &str = "BTMIO_TEST_CAPPED";
const PIECE_LEN: usize = 256 << 10;

fn large() -> Sample {
    Sample::new("large", PIECE_LEN, &[("a.bin", 6 << 20), ("b.bin", 2 << 20)])
}

fn encoded(messages: &[Message<'_>], times: usize) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|m| encode(m, &mut out));
    out.repeat(times)
}

/// A peer's first bytes.
fn hello(sample: &Sample, n: u8) -> Vec<u8> {
    let hash = sample.meta().info_hash.expect("it has one");
    let mut out = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04".to_vec();
    out.extend(hash.as_bytes());
    out.extend(format!("-XX0000-{n:012}").bytes());
    out
}

/// A peer that says all this, reads nothing, and stays. `None`: it was sent away before it was through.
fn attacks(from: [u8; 4], to: SocketAddr, says: &[u8]) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of this machine");
    socket.connect(&to.into()).ok()?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(says).ok().map(|()| stream)
}

/// What the attackers say: requests that are never read, each within what one peer may let wait; requests taken back;
/// the same haves; extension handshakes with thousands of names.
fn said() -> [Vec<u8>; 4] {
    let block = |i: u32| Block::new(i / 16 % 32, i % 16 * (16 << 10), 16 << 10);
    let rejects = (limits::OUTBOX - (32 << 10)) / 17;
    let requests: Vec<_> = (0..limits::REQUESTS_IN + 64 + rejects).map(|i| Message::Request(block(i as u32))).collect();
    let haves: Vec<_> = (0..31).map(|i| Message::Have(PieceIndex::new(i))).collect();
    let names: String = (0..8000).map(|i| format!("5:{i:05}i{}e", i % 256)).collect();
    let names = format!("d1:md{names}ee");
    [
        encoded(&requests, 1),
        encoded(&[Message::Request(block(3)), Message::Cancel(block(3))], 10_000),
        encoded(&haves, 100),
        encoded(&[Message::Extended { id: 0, payload: names.as_bytes() }], 20),
    ]
}

/// T62 of the list of threats: no memory is asked for that is not there, whatever strangers do.
#[test]
fn t62_a_download_among_attackers_keeps_to_its_memory() {
    let temp = Temp::new();
    let sample = large();
    let seed = Background::seed(&sample, temp.path("seed"), None);
    let [requests, others @ ..] = said();
    for mib in [4usize, 8] {
        let dir = temp.path(&mib.to_string());
        let mut child = std::process::Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", "capped", "--ignored", "--nocapture", "--test-threads=1"]);
        child.env(CAPPED, format!("{mib} {} {}", seed.port(), dir.display()));
        let mut child = Running::new(child);
        let port: u16 = child.line(|line| line.strip_prefix("listens ")?.parse().ok());
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let attack = |n: u8| {
            let what = if n < 24 { &requests } else { &others[usize::from(n) % others.len()] };
            let interested = encoded(&[Message::Interested], 1);
            attacks([127, 0, 1, n], to, &[&hello(&sample, n)[..], &interested, what].concat())
        };
        let stay: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..33).map(|n| scope.spawn(move || attack(n))).collect();
            all.into_iter().filter_map(|thread| thread.join().expect("it ends")).collect()
        });
        // All is said: now it may end, when it is complete.
        fs::write(dir.with_extension("go"), "").expect("a file");
        let ran = child.end();
        assert_eq!(ran.code, Some(0), "with {mib} MiB: {ran:?}");
        let said = ran.out.lines().find_map(|line| line.strip_prefix("complete, at most ")?.parse().ok());
        let most: usize = said.expect("it says how much");
        println!("{mib} MiB: {most} bytes at most; {} of 33 stayed", stay.len());
        sample.assert_in(&dir);
        assert!(most <= mib << 20);
    }
}

#[test]
#[ignore = "the test before runs it, in a process of its own"]
fn capped() {
    let Ok(told) = std::env::var(CAPPED) else { return };
    let mut told = told.splitn(3, ' ');
    let mut next = || told.next().expect("three words");
    let (mib, port, dir) = (next().parse::<usize>().expect("a number"), next().to_owned(), PathBuf::from(next()));
    let sample = large();
    let meta = sample.meta();
    drop(sample);
    CAP.store(mib << 20, Ordering::Relaxed);
    MOST.store(0, Ordering::Relaxed);
    let mut node = Node::with(|c| {
        *c = std::mem::take(c).with_memory(mib << 18);
        // Whoever is choked cannot let much wait.
        c.session.unchoke_slots = 64;
    });
    println!("\nlistens {}", node.lp.port());
    let peers = vec![SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")))];
    let key = node.lp.add(Add { peers, ..Add::new(meta, &dir) }).expect("added");
    let go = dir.with_extension("go");
    until(&mut [&mut node], |n| n[0].status(key).is_complete() && go.exists());
    // What the attackers have said is read to its end.
    let (mut last, mut quiet) = (None, 0);
    until(&mut [&mut node], |n| {
        let stats = n[0].lp.session().stats(n[0].lp.now());
        let now = Some((stats.sent, stats.received, stats.requests_in, stats.stuck, stats.peers));
        quiet = if std::mem::replace(&mut last, now) == now { quiet + 1 } else { 0 };
        quiet == 50
    });
    println!("{:?}", node.lp.session().stats(node.lp.now()));
    println!("complete, at most {}", MOST.load(Ordering::Relaxed));
    node.leave(&mut []);
}
