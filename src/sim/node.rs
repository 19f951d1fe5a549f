//! A node: one real session with a simulated disk, driven as `net::Loop` drives it.
//!
//! The ready list, the limits that hold connections back, the deadlines and the order of work are
//! those of the real loop; only sockets, files and the clock are simulated. What it must not do is help:
//! a wake-up that the real loop would not get, a node does not get either.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use super::disk::{DiskFaults, SimDisk};
use super::folder::{FolderFaults, SimFolder};
use super::link::{Event, Net, NetStream, WireKey, addr_of};
use crate::api::{Action, Add, Alert, CloseReason, FileStamp, Input};
use crate::config::Config;
use crate::id::{ConnKey, FileIndex, InfoHash, PieceIndex, TorrentKey};
use crate::metainfo::Metainfo;
use crate::pump::{self, Buffers, Outcome};
use crate::rng::Rng;
use crate::session::Session;
use crate::state::{Answer, Keeper};
use crate::storage::{Done, OpenSpec, Storage};
use crate::time::{Instant, earlier};

/// Bytes hashed and written in one turn, as in the real loop.
const WORK: usize = 4 << 20;
/// Turns without time passing until it counts as spinning.
const TURNS: u32 = 20_000;

#[derive(Clone, Copy, Debug)]
struct Link {
    conn: ConnKey,
    wire: WireKey,
    side: u8,
    connected: bool,
    readable: bool,
    writable: bool,
    queued: bool,
}

/// What a node counts over all its lives.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tally {
    /// Payload received in earlier lives.
    pub(super) received: u64,
    /// Payload sent in earlier lives.
    pub(super) sent: u64,
    /// How often it was started.
    pub(super) lives: u32,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) host: u32,
    pub(super) life: u32,
    pub(super) session: Session,
    pub(super) disk: SimDisk,
    pub(super) key: Option<TorrentKey>,
    pub(super) alive: bool,
    /// Journals and records: what the next start finds.
    pub(super) state: Keeper<SimFolder>,
    /// Which start of its machine this is.
    pub(super) boot: u64,
    pub(super) alerts: Vec<Alert>,
    pub(super) tally: Tally,
    /// It has looked at its files: what it claims from now on must be true.
    pub(super) trades: bool,
    /// Losses of the disk when its claims were looked at last.
    pub(super) losses: u64,
    links: Vec<Option<Link>>,
    ready: VecDeque<ConnKey>,
    held: (Vec<ConnKey>, Option<Instant>),
    open: bool,
    disk_more: bool,
    wake: Instant,
    turns: (Instant, u32),
    /// Lookups the session asked for.
    pub(super) lookups: Vec<(u64, String)>,
}

impl Node {
    /// A node that is switched off.
    pub(super) fn new(host: u32, disk: SimDisk, folder: SimFolder) -> Self {
        Self {
            host,
            life: 0,
            session: Session::new(Config::default(), [0; 32]),
            disk,
            key: None,
            alive: false,
            state: Keeper::new(folder, 1),
            boot: 1,
            alerts: Vec::new(),
            tally: Tally::default(),
            trades: false,
            losses: 0,
            links: Vec::new(),
            ready: VecDeque::new(),
            held: (Vec::new(), None),
            open: false,
            disk_more: false,
            wake: Instant::FAR,
            turns: (Instant::ZERO, 0),
            lookups: Vec::new(),
        }
    }

    /// Switches it on: a fresh session, with the record that was saved last.
    pub(super) fn start(&mut self, net: &mut Net, config: Config, rng: &mut Rng, mut add: Add) {
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        self.life += 1;
        self.tally.lives += 1;
        self.session = Session::new(config, seed);
        self.session.set_port(addr_of(self.host).port());
        self.alive = true;
        self.wake = Instant::FAR;
        let spare = SimFolder::new(rng.fork());
        let folder = std::mem::replace(self.state.folder(), spare);
        self.state = Keeper::new(folder, self.boot);
        self.state.folder().now = net.now;
        if let Some(hash) = add.meta.info_hash {
            (add.resume, add.journal) = self.state.load(&hash, add.meta.hashes.len() as u32);
            add.boot = self.boot;
        }
        self.key = self.session.add(net.now, add).ok();
        self.carry_out(net);
    }

    /// Switches it off without a word, as a kill does.
    pub(super) fn kill(&mut self, net: &mut Net) {
        let stats = self.session.stats(net.now);
        self.tally.received += stats.received;
        self.tally.sent += stats.sent;
        self.alive = false;
        self.life += 1;
        self.key = None;
        self.links.clear();
        self.ready.clear();
        self.held = (Vec::new(), None);
        self.open = false;
        self.disk_more = false;
        self.disk.kill();
        self.state.folder().kill();
        net.drop_host(self.host);
    }

    /// Its machine loses its power, whether it runs or not: what it has said is durable, and how many pieces were at
    /// stake.
    pub(super) fn cut(&mut self, net: &mut Net) -> (Vec<PieceIndex>, usize) {
        let claims = self.key.and_then(|k| self.session.claims(k));
        let durable = claims.map_or_else(Vec::new, |(durable, _)| durable.iter_set().collect());
        if self.alive {
            self.kill(net);
        }
        let stake = self.disk.cut();
        self.state.folder().cut();
        self.boot += 1;
        (durable, stake)
    }

    /// Its disk begins to fail, or ceases to; the state folder is on it.
    pub(super) fn set_faults(&mut self, faults: DiskFaults) {
        self.disk.faults = faults;
        self.state.folder().faults = FolderFaults {
            write: faults.write,
            sync: faults.sync,
            read: faults.read,
            full: faults.read_only || faults.room == Some(0),
            slow: faults.slow,
        };
    }

    /// Its connections.
    pub(super) fn conns(&self) -> impl Iterator<Item = ConnKey> + '_ {
        self.links.iter().flatten().map(|l| l.conn)
    }

    /// Payload received in all lives.
    pub(super) fn received(&self, now: Instant) -> u64 {
        self.tally.received + if self.alive { self.session.stats(now).received } else { 0 }
    }

    /// Payload sent in all lives.
    pub(super) fn sent(&self, now: Instant) -> u64 {
        self.tally.sent + if self.alive { self.session.stats(now).sent } else { 0 }
    }

    // ---------------------------------------------------------------- events

    fn link(&mut self, conn: ConnKey) -> Option<&mut Link> {
        self.links.get_mut(conn.index())?.as_mut().filter(|l| l.conn == conn)
    }

    fn make_ready(&mut self, conn: ConnKey) {
        let Some(link) = self.link(conn) else { return };
        if !std::mem::replace(&mut link.queued, true) {
            self.ready.push_back(conn);
        }
    }

    fn attach(&mut self, link: Link) {
        let slot = link.conn.index();
        if self.links.len() <= slot {
            self.links.resize_with(slot + 1, || None);
        }
        self.links[slot] = Some(link);
        self.make_ready(link.conn);
    }

    /// Someone dials it. The key, unless it does not want to.
    pub(super) fn accept(&mut self, net: &mut Net, wire: WireKey, from: std::net::SocketAddr) -> Option<ConnKey> {
        let conn = self.session.accept(net.now, from)?;
        self.attach(Link { conn, wire, side: 1, connected: true, readable: false, writable: true, queued: false });
        self.carry_out(net);
        Some(conn)
    }

    /// A connection attempt has its answer.
    pub(super) fn answered(&mut self, net: &mut Net, conn: ConnKey, ok: bool) {
        let now = net.now;
        let Some(link) = self.link(conn) else { return };
        if !ok {
            return self.lost(net, conn, CloseReason::Io("connection refused".to_owned()));
        }
        (link.connected, link.writable) = (true, true);
        let local = Some(addr_of(self.host));
        self.session.handle(now, Input::Connected { conn, local });
        self.carry_out(net);
    }

    /// A connection has something, or takes something.
    pub(super) fn stirred(&mut self, conn: ConnKey, readable: bool, writable: bool) {
        if let Some(link) = self.link(conn) {
            link.readable |= readable;
            link.writable |= writable;
            self.make_ready(conn);
        }
    }

    /// A name was looked up.
    pub(super) fn resolved(&mut self, net: &mut Net, id: u64, result: Result<Vec<IpAddr>, String>) {
        self.session.handle(net.now, Input::Resolved { id, result });
        self.carry_out(net);
    }

    /// A command, and what follows from it.
    pub(super) fn command<R>(&mut self, net: &mut Net, f: impl FnOnce(&mut Session, Instant) -> R) -> R {
        let r = f(&mut self.session, net.now);
        self.carry_out(net);
        r
    }

    // ---------------------------------------------------------------- a turn

    /// Does all that can be done now, and arms the next deadline. False when it spins.
    pub(super) fn turn(&mut self, net: &mut Net, bufs: &mut Buffers, honest: &dyn Fn(u32) -> bool) -> bool {
        if !self.alive {
            return true;
        }
        if self.turns.0 != net.now {
            self.turns = (net.now, 0);
        }
        loop {
            self.turns.1 += 1;
            if self.turns.1 > TURNS {
                return false;
            }
            self.disk.now = net.now;
            self.state.folder().now = net.now;
            self.release_held(net.now);
            if self.session.poll_timeout().is_some_and(|at| at <= net.now) {
                self.session.handle(net.now, Input::Tick);
            }
            self.carry_out(net);
            for _ in 0..self.ready.len() {
                let Some(conn) = self.ready.pop_front() else { break };
                self.serve(net, bufs, honest, conn);
            }
            self.disk_more = self.disk.work(WORK);
            self.disk_done(net);
            self.state_done(net);
            while let Some(alert) = self.session.poll_alert() {
                self.alerts.push(alert);
            }
            let due = self.deadline().is_some_and(|at| at <= net.now);
            if self.ready.is_empty() && !self.disk_more && !due {
                break;
            }
        }
        if let Some(at) = self.deadline().filter(|at| *at != self.wake && *at < Instant::FAR) {
            self.wake = at;
            net.at(at, Event::Wake { node: self.host, life: self.life });
        }
        true
    }

    /// The deadline that was armed last has come, or an older one.
    pub(super) fn woken(&mut self, now: Instant) -> bool {
        if self.wake <= now {
            self.wake = Instant::FAR;
        }
        self.deadline().is_some_and(|at| at <= now)
    }

    fn deadline(&mut self) -> Option<Instant> {
        let at = earlier(self.session.poll_timeout(), self.held.1);
        earlier(earlier(at, self.disk.next_done()), self.state.folder().next_done())
    }

    fn release_held(&mut self, now: Instant) {
        if self.held.1.is_some_and(|at| at <= now) {
            self.held.1 = None;
            for conn in std::mem::take(&mut self.held.0) {
                self.make_ready(conn);
            }
        }
    }

    fn serve(&mut self, net: &mut Net, bufs: &mut Buffers, honest: &dyn Fn(u32) -> bool, conn: ConnKey) {
        let Some(link) = self.link(conn) else { return };
        link.queued = false;
        let l = *link;
        if !l.connected {
            return;
        }
        let now = net.now;
        let other = net.end(l.wire, 1 - l.side).map_or(u32::MAX, |e| e.host);
        self.disk.honest = honest(other);
        let rate = self.disk.faults.fault;
        if l.readable {
            let fault = self.disk.strikes(rate);
            let mut stream = NetStream { net, wire: l.wire, side: l.side, fault };
            let outcome = pump::recv(&mut self.session, &mut self.disk, &mut stream, now, conn, bufs);
            net.trace.note(1, u64::from(self.host) << 32 | conn.index() as u64, code(&outcome));
            if let (Outcome::Blocked, Some(link)) = (&outcome, self.link(conn)) {
                link.readable = false;
            }
            if !self.after(net, conn, outcome) {
                return;
            }
        }
        let Some(l) = self.link(conn).copied() else { return };
        if l.writable && self.session.has_output(conn) {
            let fault = self.disk.strikes(rate);
            let mut stream = NetStream { net, wire: l.wire, side: l.side, fault };
            let outcome = pump::send(&mut self.session, &mut self.disk, &mut stream, now, conn, bufs);
            net.trace.note(2, u64::from(self.host) << 32 | conn.index() as u64, code(&outcome));
            if let (Outcome::Blocked, Some(link)) = (&outcome, self.link(conn)) {
                link.writable = false;
            }
            self.after(net, conn, outcome);
        }
    }

    /// Puts a connection where its last pumping says. False when it is gone.
    fn after(&mut self, net: &mut Net, conn: ConnKey, outcome: Outcome) -> bool {
        self.carry_out(net);
        match outcome {
            Outcome::Blocked | Outcome::Empty | Outcome::Ended(None) => {}
            Outcome::More => self.make_ready(conn),
            Outcome::Until(at) => {
                self.held.0.push(conn);
                let at = at.max(net.now + crate::time::Duration::from_millis(1));
                self.held.1 = earlier(self.held.1, Some(at));
            }
            Outcome::Ended(Some(why)) => self.lost(net, conn, why),
        }
        self.link(conn).is_some()
    }

    fn lost(&mut self, net: &mut Net, conn: ConnKey, why: CloseReason) {
        self.drop_link(net, conn);
        self.session.handle(net.now, Input::Closed { conn, why });
        self.carry_out(net);
    }

    fn drop_link(&mut self, net: &mut Net, conn: ConnKey) {
        if self.link(conn).is_none() {
            return;
        }
        if let Some(link) = self.links[conn.index()].take() {
            net.close(link.wire, link.side);
        }
    }

    fn disk_done(&mut self, net: &mut Net) {
        while let Some(done) = self.disk.poll_done() {
            net.trace.say(net.now, || format!("n{} {done:?}", self.host));
            match done {
                Done::Hashed { torrent, piece, ok, blocks } => {
                    self.session.handle(net.now, Input::Hashed { torrent, piece, ok, blocks });
                }
                Done::Failed { torrent, piece, error } => {
                    pump::failed(&mut self.session, net.now, torrent, piece, &error);
                }
                Done::Synced { torrent, ticket, result: Ok(()) } => {
                    self.state.data_synced(&self.session, &mut self.disk, torrent, ticket);
                }
                Done::Synced { torrent, ticket, result } => {
                    pump::synced(&mut self.session, net.now, torrent, ticket, result);
                }
            }
            self.carry_out(net);
        }
    }

    /// Takes the journals further.
    fn state_done(&mut self, net: &mut Net) {
        self.disk_more |= self.state.folder().work();
        while let Some(answer) = self.state.turn(&self.session, &mut self.disk) {
            match answer {
                Answer::Synced(torrent, ticket) => {
                    pump::synced(&mut self.session, net.now, torrent, ticket, Ok(()));
                }
                Answer::Remembered(torrent, result) => {
                    self.session.handle(net.now, Input::Remembered { torrent, result });
                }
            }
            self.carry_out(net);
        }
    }

    // ---------------------------------------------------------------- actions

    /// Does what the session asks for, and what follows from that.
    pub(super) fn carry_out(&mut self, net: &mut Net) {
        let mut data = Vec::new();
        while let Some(to) = self.session.poll_datagram(&mut data) {
            net.send_datagram(addr_of(self.host), to, &data);
        }
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Connect { conn, tls: Some(_), .. } => {
                    let why = CloseReason::Io("there is no TLS in this world".to_owned());
                    self.session.handle(net.now, Input::Closed { conn, why });
                }
                Action::Connect { conn, addr, .. } => {
                    // The next address of a tracker reuses the key.
                    self.drop_link(net, conn);
                    let wire = net.dial(self.host, Some(conn), addr);
                    let link =
                        Link { conn, wire, side: 0, connected: false, readable: false, writable: false, queued: false };
                    self.attach(link);
                }
                Action::Close { conn, why } => {
                    net.trace.say(net.now, || format!("n{} closes {conn:?}: {why}", self.host));
                    self.drop_link(net, conn);
                }
                Action::Wake { conn } => self.make_ready(conn),
                Action::Resolve { id, host } => self.lookups.push((id, host)),
                Action::Open { torrent, layout, dir, wanted } => {
                    self.trades = false;
                    let files = layout.files().len();
                    let opened = self.disk.open(torrent, layout, OpenSpec { dir });
                    self.open |= opened.is_ok();
                    let ready = opened.and_then(|()| self.disk.prepare(torrent, &|f| wanted[f.idx()]));
                    let stamps = self.stamps(torrent, files);
                    pump::opened(&mut self.session, net.now, torrent, ready, || stamps);
                }
                Action::Wanted { torrent, wanted } => {
                    if let (true, Err(e)) = (self.open, self.disk.prepare(torrent, &|f| wanted[f.idx()])) {
                        pump::disk_failed(&mut self.session, net.now, torrent, &e);
                    }
                }
                Action::Hash { torrent, piece, expected, at_rest, blocks } if self.open => {
                    net.trace.say(net.now, || format!("n{} hashes {piece}", self.host));
                    match at_rest {
                        true => self.disk.recheck(torrent, piece, expected),
                        false => self.disk.hash(torrent, piece, expected, blocks),
                    }
                }
                Action::Hash { .. } => {}
                Action::Multicast { messages: [v4, _] } => net.multicast(self.host, &v4),
                Action::Prefetch { torrent, block } => self.disk.prefetch(torrent, block),
                Action::Sync { torrent, ticket, pieces } => {
                    pieces.iter().for_each(|p| self.disk.cover(torrent, *p));
                    self.state.sync_asked(torrent, ticket, pieces);
                    self.disk.sync(torrent, ticket);
                }
                Action::Note { torrent, info_hash, note } => {
                    self.state.note(&self.session, &mut self.disk, torrent, &info_hash, note);
                }
                Action::Save { torrent, info_hash } => self.save(net, torrent, &info_hash),
                Action::SaveMetadata { .. } => {}
                // Nodes are given their torrent at every start.
                Action::Remember { torrent, .. } => {
                    self.session.handle(net.now, Input::Remembered { torrent, result: Ok(()) });
                }
                Action::CloseFiles { torrent } => self.close_files(torrent),
                Action::Remove { torrent, info_hash, with_data, .. } => {
                    if with_data {
                        let _ = self.disk.remove_files(torrent);
                    }
                    self.close_files(torrent);
                    self.state.forget(torrent, &info_hash);
                }
            }
        }
    }

    fn save(&mut self, net: &mut Net, torrent: TorrentKey, info_hash: &InfoHash) {
        if !self.open {
            return;
        }
        if let Err(e) = self.disk.flush(torrent) {
            self.session.handle(net.now, Input::PieceLost { torrent, piece: None });
            pump::disk_failed(&mut self.session, net.now, torrent, &e);
        }
        let files = self.session.metainfo(torrent).map_or(0, |m| m.files.len());
        let stamps = self.stamps(torrent, files);
        if let Some(record) = self.session.record(net.now, torrent, stamps) {
            self.state.store(torrent, info_hash, record);
        }
    }

    fn close_files(&mut self, torrent: TorrentKey) {
        self.trades = false;
        if std::mem::take(&mut self.open) {
            let _ = self.disk.close(torrent);
            self.state.closed(torrent);
        }
    }

    fn stamps(&mut self, torrent: TorrentKey, files: usize) -> Vec<Option<FileStamp>> {
        let stamp = |f: usize| self.disk.file_stat(torrent, FileIndex::new(f as u32)).map(FileStamp::from);
        (0..files).map(stamp).collect()
    }
}

fn code(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Blocked => 1,
        Outcome::More => 2,
        Outcome::Until(at) => 3 ^ at.as_micros() << 4,
        Outcome::Empty => 4,
        Outcome::Ended(_) => 5,
    }
}

/// A torrent for a node.
pub(super) fn adding(meta: &Metainfo, peers: Vec<std::net::SocketAddr>) -> Add {
    let mut add = Add::new(meta.clone(), "sim");
    add.peers = peers;
    add
}

/// The layout that all nodes share.
pub(super) fn layout_of(meta: &Metainfo) -> Arc<crate::torrent::layout::Layout> {
    Arc::new(meta.layout())
}
