//! Seeds that serve all they are asked for, and a tracker that names them.

use crate::{SEEDS, TRACKER, host};
use btmio::wire::{self, Event, Message};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tools::payload::Payload;
use tools::tracker::{Options, Tracker};

/// What the seeds have done.
#[derive(Default)]
pub(crate) struct Counts {
    /// Bytes served.
    pub(crate) bytes: AtomicU64,
    /// Spoiled blocks served.
    pub(crate) spoiled: AtomicU64,
}

/// Seeds of one payload; they end with the process.
pub(crate) struct Seeds {
    pub(crate) counts: Arc<Counts>,
    _tracker: Tracker,
}

impl Seeds {
    /// So many, of which `liar` spoils a byte of every piece; writes a torrent that leads to them.
    pub(crate) fn start(payload: &Payload, n: u8, liar: Option<u8>, torrent: &Path) -> Result<Self, String> {
        let data: Arc<[u8]> = payload.bytes().into();
        let counts = Arc::<Counts>::default();
        let mut peers = Vec::new();
        for i in 0..n {
            let listener = TcpListener::bind((host(SEEDS + i), 0)).map_err(|e| e.to_string())?;
            peers.push(listener.local_addr().map_err(|e| e.to_string())?);
            let seed = Seed {
                data: Arc::clone(&data),
                counts: Arc::clone(&counts),
                hash: payload.info_hash(),
                piece_len: payload.piece_len,
                id: i,
                lies: liar == Some(i),
            };
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let seed = seed.clone();
                    std::thread::spawn(move || seed.serve(stream));
                }
            });
        }
        let options = Options { bind: TRACKER, peers, ..Options::default() };
        let tracker = Tracker::start(options, |_| {}).map_err(|e| e.to_string())?;
        let text = payload.torrent(&[&tracker.announce_url()]);
        std::fs::write(torrent, text).map_err(|e| e.to_string())?;
        Ok(Self { counts, _tracker: tracker })
    }

    /// The address of one.
    pub(crate) fn address(i: u8) -> String {
        SocketAddr::new(host(SEEDS + i), 0).ip().to_string()
    }
}

#[derive(Clone)]
struct Seed {
    data: Arc<[u8]>,
    counts: Arc<Counts>,
    hash: [u8; 20],
    piece_len: usize,
    id: u8,
    /// The first block of each piece has a wrong byte.
    lies: bool,
}

impl Seed {
    /// Until something goes wrong, or the other side has enough.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut theirs = [0; 68];
        stream.read_exact(&mut theirs).ok()?;
        let ours = wire::Handshake {
            reserved: wire::Reserved::default(),
            info_hash: btmio::id::InfoHash::new(self.hash),
            peer_id: btmio::id::PeerId::new([b'A' + self.id; 20]),
        };
        let mut out = wire::encode_handshake(&ours).to_vec();
        let pieces = self.data.len().div_ceil(self.piece_len);
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
            // A link of some MB/s, so that all take part; it listens between two blocks.
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
            let at = block.piece.idx() * self.piece_len + block.begin as usize;
            let mut bytes = self.data.get(at..at + block.len as usize)?.to_vec();
            if self.lies && block.begin == 0 {
                bytes[7] ^= 1;
                self.counts.spoiled.fetch_add(1, Ordering::Relaxed);
            }
            self.counts.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let mut out = Vec::new();
            wire::encode(&Message::Piece { piece: block.piece, begin: block.begin, data: &bytes }, &mut out);
            stream.write_all(&out).ok()?;
        }
    }
}
