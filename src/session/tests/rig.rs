//! The driver of the dialogues: carries out what the session asks for, and keeps what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use sha1::{Digest, Sha1};

use crate::bitfield::Bitfield;
use crate::config::Config;
use crate::id::{BLOCK_LEN, Block, ConnKey, InfoHash, PeerId, PieceIndex, TorrentKey};
use crate::metainfo::{File, Metainfo};
use crate::peer::{Conn, Peer};
use crate::pump::{self, Buffers, Outcome, Stream};
use crate::session::{Action, Add, Alert, CloseReason, FileStamp, Input, Session};
use crate::storage::{DiskError, Done, IoVecs, Memory, OpenSpec, Storage};
use crate::time::{Duration, Instant};
use crate::torrent::swarm::Source;
use crate::wire::{self, Handshake, Message, Reserved};

pub(super) const B: u32 = BLOCK_LEN;

/// A torrent and its data, by formula.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) meta: Metainfo,
    pub(super) data: Vec<u8>,
}

impl Content {
    /// Files of these lengths, the pads (BEP 47) among them marked. `n` makes torrents differ.
    pub(super) fn of(n: u8, piece_len: u32, files: &[(u64, bool)]) -> Self {
        let mut data = Vec::new();
        for &(len, pad) in files {
            let mut rng = crate::rng::seeded(u64::from(n) << 32 | data.len() as u64);
            data.extend((0..len).map(|_| if pad { 0 } else { rng.u8(1..) }));
        }
        let hashes = data.chunks(piece_len as usize).map(|p| Sha1::digest(p).into()).collect();
        let file =
            |(i, &(len, pad)): (usize, &(u64, bool))| File { path: format!("t/{i}"), len, pad, executable: false };
        let meta = Metainfo {
            name: "t".to_owned(),
            info_hash: Some(InfoHash::new([n; 20])),
            info_hash_v2: None,
            piece_len,
            hashes,
            files: files.iter().enumerate().map(file).collect(),
            private: false,
            trackers: Vec::new(),
            url_seeds: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
            info: Vec::new(),
        };
        Self { meta, data }
    }

    /// One file of so many pieces of so many blocks.
    pub(super) fn pieces(pieces: u32, blocks: u32) -> Self {
        Self::of(7, blocks * B, &[(u64::from(pieces * blocks * B), false)])
    }

    pub(super) fn block(&self, b: Block) -> &[u8] {
        let at = b.piece.idx() * self.meta.piece_len as usize + b.begin as usize;
        &self.data[at..at + b.len as usize]
    }

    fn words(&self, m: &Message<'_>) -> String {
        let place = |b: &Block| match (b.begin % B, b.len) {
            (0, B) => format!("{}.{}", b.piece, b.begin / B),
            _ => format!("{}:{}+{}", b.piece, b.begin, b.len),
        };
        match m {
            Message::KeepAlive => "keep-alive".into(),
            Message::Choke => "choke".into(),
            Message::Unchoke => "unchoke".into(),
            Message::Interested => "interested".into(),
            Message::NotInterested => "not interested".into(),
            Message::Have(p) => format!("have {p}"),
            Message::Bitfield(b) => {
                format!("bitfield {}", b.iter().map(|b| format!("{b:08b}")).collect::<Vec<_>>().join(" "))
            }
            Message::Request(b) => format!("request {}", place(b)),
            Message::Cancel(b) => format!("cancel {}", place(b)),
            Message::Reject(b) => format!("reject {}", place(b)),
            Message::Piece { piece, begin, data } => {
                let b = Block { piece: *piece, begin: *begin, len: data.len() as u32 };
                let right = if self.block(b) == *data { "" } else { " (wrong)" };
                format!("piece {}{right}", place(&b))
            }
            Message::Port(p) => format!("port {p}"),
            Message::Suggest(p) => format!("suggest {p}"),
            Message::HaveAll => "have all".into(),
            Message::HaveNone => "have none".into(),
            Message::AllowedFast(p) => format!("allowed fast {p}"),
            Message::Extended { id, payload } => format!("extended {id} {}", payload.escape_ascii()),
            Message::Unknown { id, .. } => format!("unknown {id}"),
        }
    }
}

/// One stream, as the other end sees it.
#[derive(Debug)]
pub(super) struct Wire {
    /// On their way to the session.
    pub(super) to: Vec<u8>,
    /// What the session has sent.
    pub(super) from: Vec<u8>,
    /// Bytes it takes from the session before it blocks.
    pub(super) room: usize,
    /// Bytes one read gives at most.
    pub(super) cut: usize,
    shaken: bool,
}

impl Stream for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.to.len().min(buf.len()).min(self.cut);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf[..n].copy_from_slice(&self.to[..n]);
        self.to.drain(..n);
        Ok(n)
    }
    fn read_regions(&mut self, io: &mut IoVecs<'_>) -> io::Result<usize> {
        let n = self.to.len().min(io.total()).min(self.cut);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        assert_eq!(io.copy_from(&self.to[..n])?, n);
        self.to.drain(..n);
        Ok(n)
    }
    fn write_regions(&mut self, io: &IoVecs<'_>) -> io::Result<usize> {
        let n = io.total().min(self.room);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut all = vec![0; io.total()];
        io.copy_to(&mut all)?;
        self.from.extend_from_slice(&all[..n]);
        self.room -= n;
        Ok(n)
    }
}

/// A session with everything around it.
pub(super) struct Rig {
    pub(super) s: Session,
    pub(super) now: Instant,
    pub(super) disk: Memory,
    /// What comes of opening files.
    pub(super) ready: Result<(), DiskError>,
    pub(super) wires: BTreeMap<ConnKey, Wire>,
    pub(super) content: BTreeMap<TorrentKey, Content>,
    /// What files look like.
    pub(super) stamps: Vec<Option<FileStamp>>,
    /// Pieces wait to be hashed until this is false.
    pub(super) slow_disk: bool,
    /// How remembering a torrent ends.
    pub(super) memory: Result<(), String>,
    /// Syncs are not carried out until this is false.
    pub(super) slow_sync: bool,
    /// Those that were asked for.
    pub(super) syncs: Vec<(TorrentKey, u32)>,
    /// Connection attempts that were asked for.
    pub(super) dialled: Vec<(ConnKey, SocketAddr)>,
    pub(super) closed: Vec<(ConnKey, CloseReason)>,
    pub(super) lookups: Vec<(u64, String)>,
    pub(super) alerts: Vec<Alert>,
    pub(super) records: Vec<Vec<u8>>,
    /// Rechecks of data at rest.
    pub(super) rechecked: Vec<PieceIndex>,
    /// To the local network.
    pub(super) multicasts: Vec<[Vec<u8>; 2]>,
    /// Files that are wanted, as told last.
    pub(super) wanted: Vec<bool>,
    /// Ticks so far.
    pub(super) ticks: usize,
    /// Streams that a limit keeps from being read, and those it keeps from being written.
    held: BTreeMap<ConnKey, Instant>,
    held_up: BTreeMap<ConnKey, Instant>,
    open: BTreeSet<TorrentKey>,
    pub(super) bufs: Buffers,
}

pub(super) fn ip(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 50_000))
}

pub(super) fn id(n: u8) -> PeerId {
    PeerId::new([n; 20])
}

pub(super) fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub(super) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn p(i: u32) -> PieceIndex {
    PieceIndex::new(i)
}

/// Block `i` of a piece, of full length.
pub(super) fn blk(piece: u32, i: u32) -> Block {
    Block::new(piece, i * B, B)
}

pub(super) fn stamp(len: u64) -> Option<FileStamp> {
    Some(FileStamp { len, mtime: (1, 2), inode: 3, device: 4, mount: 5 })
}

impl Rig {
    pub(super) fn new(config: Config) -> Self {
        let mut s = Session::new(config, [3; 32]);
        s.set_port(6881);
        Self {
            s,
            now: Instant::from_secs(1000),
            disk: Memory::new(),
            ready: Ok(()),
            wires: BTreeMap::new(),
            content: BTreeMap::new(),
            stamps: Vec::new(),
            slow_disk: false,
            memory: Ok(()),
            slow_sync: false,
            syncs: Vec::new(),
            dialled: Vec::new(),
            closed: Vec::new(),
            lookups: Vec::new(),
            alerts: Vec::new(),
            records: Vec::new(),
            rechecked: Vec::new(),
            multicasts: Vec::new(),
            wanted: Vec::new(),
            ticks: 0,
            held: BTreeMap::new(),
            held_up: BTreeMap::new(),
            open: BTreeSet::new(),
            bufs: Buffers::default(),
        }
    }

    /// A session with one torrent of which nothing is here.
    pub(super) fn leech(c: &Content) -> (Self, TorrentKey) {
        Self::leech_with(c, Config::default())
    }

    pub(super) fn leech_with(c: &Content, config: Config) -> (Self, TorrentKey) {
        let mut rig = Self::new(config);
        let t = rig.add(c, |_| {});
        (rig, t)
    }

    /// A session with one torrent of which everything is here.
    pub(super) fn seed(c: &Content) -> (Self, TorrentKey) {
        Self::seed_with(c, Config::default())
    }

    pub(super) fn seed_with(c: &Content, config: Config) -> (Self, TorrentKey) {
        let mut rig = Self::new(config);
        let t = rig.add(c, |_| {});
        rig.fill(t);
        rig.s.verify(rig.now, t).unwrap();
        rig.drive();
        assert!(rig.s.torrents.get(t).unwrap().is_complete(), "the check found everything");
        rig.alerts.clear();
        (rig, t)
    }

    pub(super) fn add(&mut self, c: &Content, change: impl FnOnce(&mut Add)) -> TorrentKey {
        let mut add = Add::new(c.meta.clone(), "d");
        change(&mut add);
        let t = self.s.add(self.now, add).unwrap();
        self.content.insert(t, c.clone());
        self.drive();
        t
    }

    /// Puts the torrent's data where its files are.
    pub(super) fn fill(&mut self, t: TorrentKey) {
        let c = self.content[&t].clone();
        self.stamps = c.meta.files.iter().map(|f| stamp(f.len)).collect();
        for (i, piece) in c.data.chunks(c.meta.piece_len as usize).enumerate() {
            self.disk.write(t, p(i as u32), 0, piece).unwrap();
        }
    }

    /// A tracker names these addresses.
    pub(super) fn learn(&mut self, t: TorrentKey, addrs: impl IntoIterator<Item = SocketAddr>) {
        for addr in addrs {
            self.s.torrents.get_mut(t).unwrap().swarm.add(self.now, addr, Source::Tracker);
        }
        self.s.reannounce(self.now, t).unwrap();
        self.drive();
    }

    // ------------------------------------------------------------ the other ends

    /// Someone dials us.
    pub(super) fn knock(&mut self, addr: SocketAddr) -> Option<ConnKey> {
        let conn = self.s.accept(self.now, addr)?;
        self.wire(conn);
        self.drive();
        Some(conn)
    }

    fn wire(&mut self, conn: ConnKey) {
        let wire = Wire { to: vec![], from: vec![], room: usize::MAX, cut: usize::MAX, shaken: false };
        assert!(self.wires.insert(conn, wire).is_none(), "a slot is used once at a time");
    }

    /// A stream that was asked for is there.
    pub(super) fn connect(&mut self, conn: ConnKey) {
        assert!(self.dialled.iter().any(|d| d.0 == conn), "it was dialled");
        self.wire(conn);
        self.s.handle(self.now, Input::Connected { conn, local: None });
        self.drive();
    }

    /// The stream ended, or never came about.
    pub(super) fn hang_up(&mut self, conn: ConnKey, why: CloseReason) {
        self.wires.remove(&conn);
        self.s.handle(self.now, Input::Closed { conn, why });
        self.drive();
    }

    pub(super) fn handshake(&self, t: TorrentKey, who: PeerId, fast: bool) -> Vec<u8> {
        let reserved = Reserved::new([0, 0, 0, 0, 0, 0, 0, if fast { 4 } else { 0 }]);
        let info_hash = self.content[&t].meta.info_hash.unwrap();
        wire::encode_handshake(&Handshake { reserved, info_hash, peer_id: who }).to_vec()
    }

    /// As `handshake`, with the extension protocol.
    pub(super) fn handshake_ext(&self, t: TorrentKey, who: PeerId) -> Vec<u8> {
        let info_hash = self.content[&t].meta.info_hash.unwrap();
        wire::encode_handshake(&Handshake { reserved: Reserved::ours(), info_hash, peer_id: who }).to_vec()
    }

    /// A peer that dialled us and has shaken hands; what was said so far is forgotten.
    pub(super) fn peer(&mut self, t: TorrentKey, n: u8, fast: bool) -> ConnKey {
        let conn = self.knock(ip(n)).expect("there is room");
        let hello = self.handshake(t, id(n), fast);
        self.bytes(conn, &hello);
        assert_eq!(self.said(conn).first().map(String::as_str), Some("handshake"));
        conn
    }

    /// A peer with the fast extension that has everything and lets us download.
    pub(super) fn seeder(&mut self, t: TorrentKey, n: u8) -> ConnKey {
        let conn = self.peer(t, n, true);
        self.says(conn, &Message::HaveAll);
        self.says(conn, &Message::Unchoke);
        conn
    }

    /// Bytes arrive at the session.
    pub(super) fn bytes(&mut self, conn: ConnKey, bytes: &[u8]) {
        if let Some(w) = self.wires.get_mut(&conn) {
            w.to.extend_from_slice(bytes);
        }
        self.pump(conn);
        self.drive();
    }

    pub(super) fn says(&mut self, conn: ConnKey, m: &Message<'_>) {
        let mut bytes = Vec::new();
        wire::encode(m, &mut bytes);
        self.bytes(conn, &bytes);
    }

    fn content_for(&self, conn: ConnKey) -> &Content {
        let t = self.s.conns.get(conn).and_then(Conn::peer).and_then(|p| p.torrent);
        t.and_then(|t| self.content.get(&t)).unwrap_or_else(|| self.content.values().next().expect("a torrent"))
    }

    /// A `piece` message with the right content.
    pub(super) fn piece(&self, conn: ConnKey, b: Block) -> Vec<u8> {
        let mut bytes = wire::piece_header(&b).to_vec();
        bytes.extend_from_slice(self.content_for(conn).block(b));
        bytes
    }

    /// The peer sends a block.
    pub(super) fn gives(&mut self, conn: ConnKey, b: Block) {
        let bytes = self.piece(conn, b);
        self.bytes(conn, &bytes);
    }

    /// The peer sends a block with one wrong byte.
    pub(super) fn gives_bad(&mut self, conn: ConnKey, b: Block) {
        let mut bytes = self.piece(conn, b);
        *bytes.last_mut().unwrap() ^= 1;
        self.bytes(conn, &bytes);
    }

    /// The peer answers the requests it has heard in `said`, in order.
    pub(super) fn answers(&mut self, conn: ConnKey, said: &[String]) {
        for b in requests(said) {
            self.gives(conn, b);
        }
    }

    /// What the session has said to this peer since the last time, in words.
    pub(super) fn said(&mut self, conn: ConnKey) -> Vec<String> {
        let content = self.content_for(conn).clone();
        let Some(w) = self.wires.get_mut(&conn) else { return Vec::new() };
        let mut words = Vec::new();
        let mut at = 0;
        if !w.shaken {
            if w.from.len() < wire::HANDSHAKE_LEN {
                return words;
            }
            w.shaken = true;
            at = wire::HANDSHAKE_LEN;
            words.push("handshake".to_owned());
        }
        while let Some((m, n)) = wire::parse_frame(&w.from[at..], 1 << 20).unwrap() {
            words.push(content.words(&m));
            at += n;
        }
        w.from.drain(..at);
        words
    }

    // ------------------------------------------------------------ looking

    pub(super) fn p(&self, conn: ConnKey) -> &Peer {
        self.s.conns.get(conn).and_then(Conn::peer).expect("it is connected")
    }

    pub(super) fn p_mut(&mut self, conn: ConnKey) -> &mut Peer {
        self.s.conns.get_mut(conn).and_then(Conn::peer_mut).expect("it is connected")
    }

    pub(super) fn is_open(&self, conn: ConnKey) -> bool {
        self.s.conns.get(conn).is_some()
    }

    pub(super) fn why_closed(&self, conn: ConnKey) -> Option<&CloseReason> {
        self.closed.iter().find(|c| c.0 == conn).map(|c| &c.1)
    }

    pub(super) fn have(&self, t: TorrentKey) -> &Bitfield {
        self.s.torrents.get(t).expect("it is there").picker.have()
    }

    pub(super) fn status(&self, t: TorrentKey) -> crate::session::Status {
        self.s.status(self.now, t).expect("it is there")
    }

    pub(super) fn banned(&self) -> Vec<IpAddr> {
        let ban = |a: &Alert| match a {
            Alert::PeerBanned { addr, .. } => Some(addr.ip()),
            _ => None,
        };
        self.alerts.iter().filter_map(ban).collect()
    }

    // ------------------------------------------------------------ driving

    fn pump(&mut self, conn: ConnKey) {
        let mut takes_nothing = false;
        loop {
            let Some(w) = self.wires.get_mut(&conn) else { return };
            if w.to.is_empty() || self.held.contains_key(&conn) {
                return;
            }
            let before = w.to.len();
            let outcome = pump::recv(&mut self.s, &mut self.disk, w, self.now, conn, &mut self.bufs);
            self.actions();
            match outcome {
                Outcome::Until(at) => {
                    self.held.insert(conn, at);
                    return;
                }
                Outcome::Ended(_) => return,
                _ => {}
            }
            let left = self.wires.get(&conn).map_or(0, |w| w.to.len());
            // A place that cannot be had is an error, and then the bytes are dropped.
            let failed = std::mem::replace(&mut takes_nothing, left == before);
            assert!(left < before || self.held.contains_key(&conn) || !failed, "a read that takes nothing");
        }
    }

    /// The peer's socket takes so many bytes more.
    pub(super) fn takes(&mut self, conn: ConnKey, room: usize) {
        if let Some(w) = self.wires.get_mut(&conn) {
            w.room = w.room.saturating_add(room);
        }
        self.send(conn);
        self.drive();
    }

    fn send(&mut self, conn: ConnKey) {
        let Some(w) = self.wires.get_mut(&conn) else { return };
        if !self.s.has_output(conn) {
            return;
        }
        let outcome = pump::send(&mut self.s, &mut self.disk, w, self.now, conn, &mut self.bufs);
        if let Outcome::Until(at) = outcome {
            self.held_up.insert(conn, at);
        }
        if outcome == Outcome::More {
            self.send(conn);
        }
    }

    fn actions(&mut self) {
        while let Some(action) = self.s.poll_action() {
            match action {
                Action::Connect { conn, addr, .. } => self.dialled.push((conn, addr)),
                Action::Close { conn, why } => {
                    self.wires.remove(&conn);
                    self.held.remove(&conn);
                    self.held_up.remove(&conn);
                    self.closed.push((conn, why));
                }
                Action::Wake { conn } => self.send(conn),
                Action::Resolve { id, host } => self.lookups.push((id, host)),
                Action::Open { torrent, layout, dir, wanted } => {
                    self.wanted = wanted;
                    self.disk.open(torrent, layout, OpenSpec { dir }).unwrap();
                    self.open.insert(torrent);
                    let (ready, files) = (self.ready.clone(), self.stamps.clone());
                    pump::opened(&mut self.s, self.now, torrent, ready, || files);
                }
                Action::Wanted { wanted, .. } => self.wanted = wanted,
                Action::Hash { torrent, piece, expected, at_rest, blocks } => {
                    assert!(self.open.contains(&torrent), "its files are open");
                    if at_rest {
                        self.rechecked.push(piece);
                        self.disk.recheck(torrent, piece, expected);
                    } else {
                        self.disk.hash(torrent, piece, expected, blocks);
                    }
                }
                Action::Sync { torrent, ticket, .. } => self.syncs.push((torrent, ticket)),
                Action::Remember { torrent, .. } => {
                    self.s.handle(self.now, Input::Remembered { torrent, result: self.memory.clone() });
                }
                Action::Prefetch { .. } | Action::SaveMetadata { .. } | Action::Note { .. } => {}
                Action::Multicast { messages } => self.multicasts.push(messages),
                Action::Save { torrent, .. } => {
                    let record = self.s.record(self.now, torrent, self.stamps.clone());
                    self.records.extend(record);
                }
                Action::CloseFiles { torrent } | Action::Remove { torrent, .. } => {
                    if self.open.remove(&torrent) {
                        self.disk.close(torrent).unwrap();
                    }
                }
            }
        }
    }

    /// Carries out everything that is to be done now.
    pub(super) fn drive(&mut self) {
        loop {
            self.actions();
            if self.slow_disk {
                break;
            }
            if !self.slow_sync {
                self.syncs.drain(..).for_each(|(t, ticket)| self.disk.sync(t, ticket));
            }
            self.disk.work(usize::MAX);
            let mut some = false;
            while let Some(done) = self.disk.poll_done() {
                some = true;
                match done {
                    Done::Hashed { torrent, piece, ok, blocks } => {
                        self.s.handle(self.now, Input::Hashed { torrent, piece, ok, blocks });
                    }
                    Done::Failed { torrent, piece, error } => {
                        pump::failed(&mut self.s, self.now, torrent, piece, &error);
                    }
                    Done::Synced { torrent, ticket, result } => {
                        pump::synced(&mut self.s, self.now, torrent, ticket, result);
                    }
                }
                self.actions();
            }
            if !some {
                break;
            }
        }
        while let Some(alert) = self.s.poll_alert() {
            self.alerts.push(alert);
        }
        self.s.invariants();
    }

    /// Time passes; timers fire when they are due.
    pub(super) fn pass(&mut self, d: Duration) {
        let end = self.now + d;
        let mut idle = 0;
        loop {
            let held = self.held.values().chain(self.held_up.values()).min().copied();
            let Some(next) = crate::time::earlier(self.s.poll_timeout(), held).filter(|at| *at <= end) else { break };
            idle = if next > self.now { 0 } else { idle + 1 };
            assert!(idle < 1000, "timers fire without end at {:?}", self.now);
            self.now = self.now.max(next);
            if self.s.poll_timeout().is_some_and(|at| at <= self.now) {
                self.ticks += 1;
                self.s.handle(self.now, Input::Tick);
            }
            let free: Vec<_> = self.held.iter().filter(|(_, at)| **at <= self.now).map(|(c, _)| *c).collect();
            for conn in free {
                self.held.remove(&conn);
                self.pump(conn);
            }
            let free: Vec<_> = self.held_up.iter().filter(|(_, at)| **at <= self.now).map(|(c, _)| *c).collect();
            for conn in free {
                self.held_up.remove(&conn);
                self.send(conn);
            }
            self.drive();
        }
        self.now = end;
        self.drive();
    }
}

/// The blocks asked for in what was said.
pub(super) fn requests(said: &[String]) -> Vec<Block> {
    said.iter().filter_map(|s| s.strip_prefix("request ")).map(block_of).collect()
}

/// The block that these words name.
pub(super) fn block_of(words: &str) -> Block {
    if let Some((piece, rest)) = words.split_once(':') {
        let (begin, len) = rest.split_once('+').unwrap();
        return Block::new(piece.parse().unwrap(), begin.parse().unwrap(), len.parse().unwrap());
    }
    let (piece, i) = words.split_once('.').unwrap();
    blk(piece.parse().unwrap(), i.parse().unwrap())
}
