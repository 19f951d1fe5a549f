//! A session driven by arbitrary operations: the input is a program for a driver without sockets.
//!
//! Each operation is a byte and a few bytes of arguments. The driver is honest (it does what
//! [`Action`]s ask for, in any order and late; it never reports what it was not asked for) and the
//! world is not: peers send whatever they like, streams end at any moment, hashes fail, disks fail,
//! trackers answer anything. Between any two operations [`Session::invariants`] holds, and no queue is
//! longer than its limit.

use std::net::SocketAddr;
use std::sync::OnceLock;

use btmio::api::{Action, Add, CloseReason, ErrorKind, FileStamp, Input, Priority, Want};
use btmio::bencode::Writer;
use btmio::config::{Config, DhtConfig};
use btmio::dht::NodeId;
use btmio::dht::krpc::{self, Method, Query};
use btmio::id::{Block, ConnKey, InfoHash, PieceIndex, TorrentKey};
use btmio::metainfo::Metainfo;
use btmio::metainfo::magnet::Magnet;
use btmio::session::{Chunk, Session};
use btmio::time::{Duration, Instant};
use btmio::wire::{self, Message};

use super::Bytes;

/// Longest program: beyond that only the state grows, and nothing new happens.
const OPS: usize = 400;

/// The torrents: eleven blocks in six pieces, and one with pad files.
pub(super) fn metas() -> &'static [Metainfo; 2] {
    static METAS: OnceLock<[Metainfo; 2]> = OnceLock::new();
    METAS.get_or_init(|| {
        let mut w = Writer::new();
        w.begin_dict().key(b"info").begin_dict().key(b"length").int(5 * 32_768 + 5_000).key(b"name").bytes(b"a");
        w.key(b"piece length").int(32_768).key(b"pieces").bytes(&[7; 120]).end().end();
        let plain = w.into_bytes();
        let pads = include_bytes!("../../../testdata/torrents/pads.torrent");
        [&plain[..], pads].map(|t| Metainfo::parse(t).expect("a torrent"))
    })
}

/// What the driver has been asked for and has not done yet.
pub(super) struct World {
    pub(super) s: Session,
    pub(super) now: Instant,
    /// Streams, and whether each is connected.
    conns: Vec<(ConnKey, bool)>,
    pub(super) hashes: Vec<(TorrentKey, PieceIndex, bool)>,
    opens: Vec<TorrentKey>,
    lookups: Vec<u64>,
    record: Option<Vec<u8>>,
    run: Vec<Block>,
    /// Datagrams it has sent: to whom, and the transaction's id. The latest last.
    asked: Vec<(SocketAddr, Vec<u8>)>,
}

impl World {
    pub(super) fn new() -> Self {
        let now = Instant::from_secs(1);
        let dht = DhtConfig { bootstrap: vec![("boot.example".into(), 1)], read_only: false };
        let config = Config { max_peers: 6, max_peers_torrent: 4, half_open: 3, dht: Some(dht), ..Config::default() };
        let mut s = Session::new(config, [3; 32]);
        s.start_dht(now, None);
        Self {
            s,
            now,
            asked: Vec::new(),
            conns: Vec::new(),
            hashes: Vec::new(),
            opens: Vec::new(),
            lookups: Vec::new(),
            record: None,
            run: Vec::new(),
        }
    }

    /// Takes note of what the session asks for.
    pub(super) fn drain(&mut self) {
        while let Some(action) = self.s.poll_action() {
            match action {
                Action::Connect { conn, .. } => {
                    self.conns.retain(|(c, _)| *c != conn);
                    self.conns.push((conn, false));
                }
                Action::Close { conn, .. } => self.conns.retain(|(c, _)| *c != conn),
                Action::Resolve { id, .. } => self.lookups.push(id),
                Action::Open { torrent, .. } => self.opens.push(torrent),
                Action::Hash { torrent, piece, blocks, .. } => self.hashes.push((torrent, piece, blocks)),
                Action::Save { torrent, .. } => {
                    let files = self.s.metainfo(torrent).map_or(0, |m| m.files.len());
                    self.record = self.s.record(self.now, torrent, vec![Some(STAMP); files]);
                }
                Action::CloseFiles { torrent } | Action::Remove { torrent, .. } => {
                    // The driver forgets what it was doing there.
                    self.hashes.retain(|h| h.0 != torrent);
                    self.opens.retain(|t| *t != torrent);
                }
                Action::Sync { torrent, ticket, .. } => {
                    self.s.handle(self.now, Input::Synced { torrent, ticket, result: Ok(()) });
                }
                Action::Remember { torrent, .. } => {
                    self.s.handle(self.now, Input::Remembered { torrent, result: Ok(()) });
                }
                Action::Wake { .. } | Action::Wanted { .. } | Action::Prefetch { .. } => {}
                Action::Multicast { .. } | Action::SaveMetadata { .. } | Action::Note { .. } => {}
            }
        }
        while self.s.poll_alert().is_some() {}
        let mut datagram = Vec::new();
        while let Some(to) = self.s.poll_datagram(&mut datagram) {
            assert!(datagram.len() <= 1200 && to.port() != 0, "{} bytes to {to}", datagram.len());
            let tid = match krpc::parse(&datagram, to.is_ipv6()) {
                Some(message) => message.tid.to_vec(),
                None => datagram[12..16].to_vec(),
            };
            self.asked.push((to, tid));
        }
        self.asked.drain(..self.asked.len().saturating_sub(8));
    }

    /// Nothing that is to be hashed is right, and what follows from that.
    pub(super) fn refuse_hashes(&mut self) {
        while let Some((torrent, piece, _)) = self.hashes.pop() {
            self.s.handle(self.now, Input::Hashed { torrent, piece, ok: false, blocks: None });
            self.drain();
        }
        self.check();
    }

    pub(super) fn check(&self) {
        self.s.invariants();
        let stats = self.s.stats(self.now);
        assert!(stats.peers <= self.s.config().max_peers, "{} peers", stats.peers);
        for (conn, _) in &self.conns {
            let memory = self.s.memory_of(*conn);
            assert!(memory <= 512 << 10, "{memory} bytes for one peer");
        }
    }

    fn conn(&mut self, b: &mut Bytes<'_>, connected: bool) -> Option<ConnKey> {
        let of: Vec<_> = self.conns.iter().filter(|(_, c)| *c == connected).map(|(k, _)| *k).collect();
        b.pick(&of)
    }

    /// Gives bytes to the session as the pump does, whatever they are.
    fn feed(&mut self, conn: ConnKey, mut data: &[u8]) {
        while !data.is_empty() {
            let used = self.s.feed(self.now, conn, data);
            assert!(used <= data.len());
            data = &data[used..];
            if data.is_empty() {
                break;
            }
            let Some((_, block, at)) = self.s.placing(conn) else { break };
            let take = data.len().min((block.len - at) as usize);
            self.s.filled(self.now, conn, take, &[block], false, &[]);
            data = &data[take..];
        }
        self.drain();
    }

    /// One vectored read of a predicted run, which comes as predicted up to somewhere.
    fn predicted(&mut self, conn: ConnKey, b: &mut Bytes<'_>) {
        let mut run = std::mem::take(&mut self.run);
        let asked = match self.s.want(self.now, conn, &mut run) {
            Want::Payload { at, at_header, max, .. } => Some((at, at_header, max)),
            _ => None,
        };
        if let Some((at, at_header, max)) = asked {
            let mut stream = Vec::new();
            let mut headers = Vec::new();
            let wrong = usize::from(b.u8() & 15);
            for (i, block) in run.iter().enumerate() {
                if i > 0 || at_header {
                    let mut header = wire::piece_header(block);
                    if i == wrong {
                        header[usize::from(b.u8()) % 13] ^= 1 << (b.u8() & 7);
                    }
                    stream.extend_from_slice(&header);
                    headers.push(header);
                }
                let from = if i == 0 { at } else { 0 };
                stream.resize(stream.len() + (block.len - from) as usize, 0);
            }
            let n = (usize::from(b.u16()) * 4 + 1).min(stream.len()).min(max.max(1));
            let used = self.s.filled(self.now, conn, n, &run, at_header, &headers);
            assert!(used <= n);
            self.s.pace(conn, stream.len(), n);
            self.feed(conn, &stream[used..n]);
        }
        self.run = run;
        self.drain();
    }

    /// Sends, as much as a socket might take.
    fn send(&mut self, conn: ConnKey, some: usize) {
        let _ = self.s.offer(self.now, conn);
        let waiting: usize = self
            .s
            .chunks(conn)
            .map(|c| match c {
                Chunk::Bytes(b) => b.len(),
                Chunk::Block { block, at, .. } => (block.len - at) as usize,
            })
            .sum();
        self.s.sent(self.now, conn, some.min(waiting));
        self.drain();
    }
}

pub(super) const STAMP: FileStamp = FileStamp { len: 1, mtime: (5, 0), inode: 9, device: 1, mount: 1 };

fn addr(n: u8) -> SocketAddr {
    match n & 7 {
        0..=4 => SocketAddr::from(([10, 0, 0, n & 7], 6000 + u16::from(n >> 3))),
        5 => SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1], 6000)),
        _ => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)], 6000)),
    }
}

/// A block, most often one that exists.
fn block(b: &mut Bytes<'_>) -> Block {
    let v = b.u8();
    match v {
        0xff => Block::new(b.u16().into(), u32::from(b.u16()) << 16, u32::from(b.u16()) << 16),
        _ if v & 7 == 5 => Block::new(5, 0, 5_000),
        _ => Block::new(u32::from(v & 7), u32::from(v >> 3 & 1) << 14, 1 << 14),
    }
}

/// What a peer may say, well formed.
fn say(b: &mut Bytes<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let piece = |b: &mut Bytes<'_>| PieceIndex::new(u32::from(b.u8() & 7));
    let message = match b.u8() % 17 {
        0 => Message::KeepAlive,
        1 => Message::Choke,
        2 => Message::Unchoke,
        3 => Message::Interested,
        4 => Message::NotInterested,
        5 => Message::Have(piece(b)),
        6 => Message::Bitfield(b.take(1)),
        7 => Message::Request(block(b)),
        8 => Message::Cancel(block(b)),
        9 => Message::Reject(block(b)),
        10 => Message::HaveAll,
        11 => Message::HaveNone,
        12 => Message::Suggest(piece(b)),
        13 => Message::AllowedFast(piece(b)),
        14 => {
            // A block, or the beginning of one.
            let block = block(b);
            out.extend_from_slice(&wire::piece_header(&block));
            let len = (block.len as usize).min(1 << 15);
            out.resize(out.len() + if b.u8() & 1 == 0 { len } else { len / 3 }, 0);
            return out;
        }
        15 => {
            let n = usize::from(b.u8());
            Message::Extended { id: b.u8() & 7, payload: b.take(n) }
        }
        _ => {
            let ext = wire::encode_ext(&wire::OurExt {
                port: Some(b.u16()).filter(|p| *p != 0),
                reqq: Some(b.u16().into()),
                yourip: None,
                upload_only: Some(b.u8() & 1 == 1),
                metadata_size: Some(u32::from(b.u8()) * 200).filter(|n| *n > 0),
                client: Some("x"),
                exts: &[wire::Ext::DontHave, wire::Ext::UploadOnly, wire::Ext::Metadata, wire::Ext::Pex],
            });
            wire::encode(&Message::Extended { id: 0, payload: &ext }, &mut out);
            return out;
        }
    };
    wire::encode(&message, &mut out);
    out
}

fn handshake(b: &mut Bytes<'_>) -> Vec<u8> {
    let v = b.u8();
    let hash = metas()[usize::from(v & 1)].info_hash.unwrap_or(InfoHash::new([0; 20]));
    let mut bytes = wire::encode_handshake(&wire::Handshake {
        reserved: wire::Reserved::ours(),
        info_hash: hash,
        peer_id: btmio::id::PeerId::new([v >> 1 & 7; 20]),
    });
    if v & 0x80 != 0 {
        bytes[20..28].fill(0);
    }
    bytes.to_vec()
}

/// Carries out a program.
pub(super) fn session(data: &[u8]) {
    let mut b = Bytes(data);
    let mut w = World::new();
    let mut ops = 0;
    while !b.0.is_empty() && ops < OPS {
        ops += 1;
        step(&mut w, &mut b);
        w.drain();
        w.check();
    }
    // Whatever happened, it ends.
    w.s.shutdown(w.now);
    w.drain();
    w.check();
    w.now += Duration::from_secs(60);
    assert!(w.s.is_shut_down(w.now));
}

fn step(w: &mut World, b: &mut Bytes<'_>) {
    let now = w.now;
    let op = b.u8();
    if op >= 0xf0 {
        return datagram(w, b);
    }
    match op % 24 {
        0 => {
            w.now += Duration::from_millis(u64::from(b.u16()));
            if w.s.poll_timeout().is_some_and(|at| at <= w.now) {
                w.s.handle(w.now, Input::Tick);
            }
        }
        1 => {
            w.now += Duration::from_secs(u64::from(b.u8()));
            w.s.handle(w.now, Input::Tick);
        }
        2 => add(w, b),
        3..=4 => {
            if let Some(conn) = w.s.accept(now, addr(b.u8())) {
                w.conns.push((conn, true));
                let hello = handshake(b);
                w.feed(conn, &hello);
            }
        }
        5 => {
            if let Some(conn) = w.conn(b, false) {
                w.conns.iter_mut().filter(|c| c.0 == conn).for_each(|c| c.1 = true);
                w.s.handle(now, Input::Connected { conn, local: None });
            }
        }
        6 => {
            let connected = b.u8() & 1 == 1;
            if let Some(conn) = w.conn(b, connected) {
                w.conns.retain(|c| c.0 != conn);
                let why = if b.u8() & 1 == 1 { CloseReason::Eof } else { CloseReason::Io("reset".into()) };
                w.s.handle(now, Input::Closed { conn, why });
            }
        }
        7 => {
            if let Some(conn) = w.conn(b, true) {
                let hello = handshake(b);
                w.feed(conn, &hello);
            }
        }
        8..=12 => {
            if let Some(conn) = w.conn(b, true) {
                let said = say(b);
                w.feed(conn, &said);
            }
        }
        13 => {
            if let Some(conn) = w.conn(b, true) {
                let n = usize::from(b.u8() & 63);
                let raw = b.take(n).to_vec();
                w.feed(conn, &raw);
            }
        }
        14..=15 => {
            if let Some(conn) = w.conn(b, true) {
                w.predicted(conn, b);
            }
        }
        16 => {
            if let Some(conn) = w.conn(b, true) {
                let some = usize::from(b.u16());
                w.send(conn, some);
            }
        }
        17..=18 => hashed(w, b),
        19..=20 => opened(w, b),
        21 => {
            if let Some(id) = b.pick(&w.lookups) {
                w.lookups.retain(|l| *l != id);
                let result = match b.u8() & 3 {
                    0 => Err("no such name".to_owned()),
                    n => Ok(vec![addr(0).ip(); usize::from(n)]),
                };
                w.s.handle(now, Input::Resolved { id, result });
            }
        }
        _ => command(w, b),
    }
}

/// Something comes without a connection: noise, a query of a DHT node, the answer to what was asked, or the
/// system's word that something did not get away.
fn datagram(w: &mut World, b: &mut Bytes<'_>) {
    let (v, mut from) = (b.u8(), addr(b.u8()));
    let n = usize::from(b.u8());
    let mut data = b.take(n).to_vec();
    match v & 7 {
        0 => {}
        1 => {
            let id = NodeId::new([v; 20]);
            let info_hash = metas()[0].info_hash.unwrap_or(InfoHash::new([0; 20]));
            let method = if v & 8 == 0 { Method::FindNode { target: id } } else { Method::GetPeers { info_hash } };
            data = krpc::encode_query(b"aa", &Query { id, method, want: None, read_only: v & 16 != 0 });
        }
        2 => return w.s.handle(w.now, Input::Unsent { to: from, error: "no route".into() }),
        _ => {
            let Some((to, tid)) = w.asked.pop() else { return };
            from = to;
            if v & 8 == 0 {
                // A tracker's.
                data = [u32::from(v >> 4 & 3).to_be_bytes().to_vec(), tid, data].concat();
            } else {
                let mut r = Writer::new();
                r.begin_dict().key(b"r").begin_dict().key(b"id").bytes(&[v; 20]).key(b"nodes").bytes(&data);
                r.key(b"token").bytes(b"t").key(b"values").begin_list().bytes(&[10, 0, 0, 1, 23, 112]).end();
                r.end().key(b"t").bytes(&tid).key(b"y").bytes(b"r").end();
                data = r.into_bytes();
            }
        }
    }
    w.s.handle_datagram(w.now, from, &data);
}

fn add(w: &mut World, b: &mut Bytes<'_>) {
    let v = b.u8();
    let mut add = match v & 3 {
        // What it is has to be asked of peers.
        3 => {
            let magnet = Magnet::parse("magnet:?xt=urn:btih:00112233445566778899aabbccddeeff00112233");
            Add::magnet(&magnet.expect("a link"), "d").expect("it has a hash")
        }
        _ => Add::new(metas()[usize::from(v & 1)].clone(), "d"),
    };
    add.paused = v & 2 != 0;
    add.sequential = v & 4 != 0;
    add.verify = v & 8 != 0;
    add.resume = w.record.clone().filter(|_| v & 16 != 0);
    add.peers = (0..v >> 5).map(|i| addr(i + 1)).collect();
    if v & 64 != 0 {
        add.trackers.push("http://t.example/announce".to_owned());
        add.trackers.push("udp://u.example:80/announce".to_owned());
    }
    let _ = w.s.add(w.now, add);
}

fn hashed(w: &mut World, b: &mut Bytes<'_>) {
    let Some(h @ (torrent, piece, blocks)) = b.pick(&w.hashes) else { return };
    let at = w.hashes.iter().position(|x| *x == h).expect("it was picked from there");
    w.hashes.remove(at);
    let v = b.u8();
    let n = w.s.metainfo(torrent).map_or(0, |m| m.layout().blocks_in(piece));
    let blocks = blocks.then(|| (0..n).map(|i| [v >> 1 & i as u8; 20]).collect());
    w.s.handle(w.now, Input::Hashed { torrent, piece, ok: v & 1 == 1, blocks });
}

fn opened(w: &mut World, b: &mut Bytes<'_>) {
    let Some(torrent) = b.pick(&w.opens) else { return };
    w.opens.retain(|t| *t != torrent);
    let files = w.s.metainfo(torrent).map_or(0, |m| m.files.len());
    let stamp = Some(STAMP).filter(|_| b.u8() & 1 == 1);
    w.s.handle(w.now, Input::Opened { torrent, files: vec![stamp; files] });
}

fn command(w: &mut World, b: &mut Bytes<'_>) {
    let torrents: Vec<_> = w.s.torrents().collect();
    let Some(key) = b.pick(&torrents) else { return };
    let now = w.now;
    let v = b.u8();
    let result = match v % 11 {
        0 => w.s.pause(now, key),
        1 => w.s.resume(now, key),
        2 => w.s.verify(now, key),
        3 => w.s.remove(now, key, v & 64 != 0),
        4 => w.s.add_peer(now, key, addr(b.u8())),
        5 => w.s.set_sequential(now, key, v & 64 != 0),
        6 => {
            w.s.set_limits(Some(u64::from(b.u16())).filter(|r| *r > 0), Some(u64::from(b.u16())).filter(|r| *r > 0));
            Ok(())
        }
        7 => w.s.add_tracker(now, key, "http://u.example/announce"),
        8 => w.s.reannounce(now, key),
        9 => {
            let kind = if v & 64 != 0 { ErrorKind::NoSpace } else { ErrorKind::FileIo };
            w.s.handle(now, Input::DiskFailed { torrent: key, error: "no".into(), kind });
            Ok(())
        }
        _ => {
            let files = w.s.metainfo(key).map_or(0, |m| m.files.len());
            let of = [Priority::Skip, Priority::Low, Priority::Normal, Priority::High];
            let chosen = (0..files).map(|_| of[usize::from(b.u8() & 3)]).collect();
            w.s.select(now, key, chosen)
        }
    };
    result.expect("the torrent is there");
}

/// A resume record of unknown origin: the torrent starts, trusts no more pieces than it has, and the
/// record it then makes is one that it reads itself.
pub(super) fn resume(data: &[u8]) {
    for (meta, stamp) in metas().iter().zip([Some(STAMP), None]) {
        let mut w = World::new();
        let mut add = Add::new(meta.clone(), "d");
        add.resume = Some(data.to_vec());
        let key = w.s.add(w.now, add).expect("the only torrent");
        w.drain();
        w.s.handle(w.now, Input::Opened { torrent: key, files: vec![stamp; meta.files.len()] });
        w.drain();
        w.refuse_hashes();
        let status = w.s.status(w.now, key).expect("it was added");
        assert!(status.have <= status.wanted && status.pieces.0 <= status.pieces.1);
        w.s.pause(w.now, key).expect("it is there");
        w.drain();
        w.check();
    }
}
