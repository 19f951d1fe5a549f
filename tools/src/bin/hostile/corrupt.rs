//! T25: ten seeds, one of which spoils a byte of every piece. The liar must be found by the second bad
//! piece, little may be wasted, and the download completes.

use crate::clients::{Client, Job, Role};
use btmio::wire::{self, Event, Message};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tools::payload::Payload;
use tools::process::wait_for;

const SEEDS: u8 = 10;
const LIAR: u8 = 3;

/// A summary; as an error when it is not as it must be.
pub(crate) fn run(payload: &Payload, dir: &Path) -> Result<String, String> {
    let data: Arc<[u8]> = payload.bytes().into();
    let (hash, piece_len) = (payload.info_hash(), payload.piece_len);
    let mut extra = Vec::new();
    for n in 0..SEEDS {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 100 + n), 0)).map_err(|e| e.to_string())?;
        extra.push(format!("--peer={}", listener.local_addr().map_err(|e| e.to_string())?));
        let data = Arc::clone(&data);
        // They end with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let data = Arc::clone(&data);
                std::thread::spawn(move || seed(stream, &data, hash, piece_len, n));
            }
        });
    }
    extra.push("--exit-when-done".into());
    let torrent = dir.with_extension("torrent");
    std::fs::write(&torrent, payload.torrent(&[])).map_err(|e| e.to_string())?;
    let (to, home) = (dir.join("to"), dir.join("home"));
    let ip = "127.0.0.1".into();
    let job = Job {
        client: Client::Btmio,
        role: Role::Leech,
        ip,
        torrent,
        dir: to.clone(),
        home,
        pex: false,
        dht: Vec::new(),
        host: None,
        lsd: false,
        up_limit: 0,
        down_limit: 0,
        bind: true,
        portmap: false,
        roots: None,
        extra,
    };
    let mut node = Client::Btmio.start(&job)?;
    let done = wait_for(Duration::from_secs(90), || match node.done() {
        Ok(false) => None,
        other => Some(other),
    });
    done.unwrap_or_else(|| Err(format!("not complete in 90 s\n{}", node.child.tail())))?;
    let _ = node.child.wait(Duration::from_secs(5));
    payload.check(&to)?;
    let events = node.events();
    let liar = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 100 + LIAR), 0)).ip().to_string();
    let bans: Vec<_> = events.iter().filter_map(|e| e["addr"].as_str().filter(|_| e["event"] == "warning")).collect();
    // What was under way when the liar was found fails later on, and does not count.
    let until = events.iter().position(|e| e["event"] == "warning" && e["addr"].is_string()).unwrap_or(events.len());
    let failed = events[..until].iter().filter(|e| e["event"] == "warning" && e["piece"].is_u64()).count();
    let wasted = events.iter().filter_map(|e| e["wasted"].as_u64()).max().unwrap_or(0);
    let share = wasted as f64 * 100.0 / payload.total() as f64;
    let text = format!("complete, {failed} bad pieces until banned, banned {bans:?}, wasted {wasted} ({share:.2} %)");
    let right = bans.iter().all(|b| b.starts_with(&liar)) && !bans.is_empty() && failed <= 2;
    if right { Ok(text) } else { Err(format!("FAILED: {text}")) }
}

/// Serves everything it is asked for; the liar's first block of each piece has a wrong byte.
fn seed(mut stream: TcpStream, data: &[u8], hash: [u8; 20], piece_len: usize, n: u8) -> Option<()> {
    let mut theirs = [0; 68];
    stream.read_exact(&mut theirs).ok()?;
    let ours = wire::Handshake {
        reserved: wire::Reserved::default(),
        info_hash: btmio::id::InfoHash::new(hash),
        peer_id: btmio::id::PeerId::new([b'A' + n; 20]),
    };
    let mut out = wire::encode_handshake(&ours).to_vec();
    let pieces = data.len().div_ceil(piece_len);
    let mut bits = vec![0xff; pieces.div_ceil(8)];
    if pieces % 8 != 0 {
        *bits.last_mut()? <<= 8 - pieces % 8;
    }
    wire::encode(&Message::Bitfield(&bits), &mut out);
    wire::encode(&Message::Unchoke, &mut out);
    stream.write_all(&out).ok()?;
    let (mut decoder, mut buf) = (wire::Decoder::new(), [0; 16 << 10]);
    let mut queue = VecDeque::new();
    loop {
        // A link of some MB/s, so that all ten take part; it listens between two blocks.
        stream.set_read_timeout(Some(Duration::from_millis(if queue.is_empty() { 1000 } else { 4 }))).ok()?;
        let got = match stream.read(&mut buf) {
            Ok(0) => return None,
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(_) => return None,
        };
        let mut rest = &buf[..got];
        while !rest.is_empty() {
            let (used, event) = decoder.feed(rest).ok()?;
            rest = &rest[used..];
            match event {
                Some(Event::Message(Message::Request(block))) => queue.push_back(block),
                Some(Event::Message(Message::Cancel(block))) => queue.retain(|b| *b != block),
                _ => {}
            }
        }
        let Some(block) = queue.pop_front() else { continue };
        let at = block.piece.idx() * piece_len + block.begin as usize;
        let mut bytes = data.get(at..at + block.len as usize)?.to_vec();
        if n == LIAR && block.begin == 0 {
            bytes[7] ^= 1;
        }
        let mut out = Vec::new();
        wire::encode(&Message::Piece { piece: block.piece, begin: block.begin, data: &bytes }, &mut out);
        stream.write_all(&out).ok()?;
    }
}
