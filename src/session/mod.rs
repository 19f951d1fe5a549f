//! The whole protocol core: torrents, connections, and what passes between them and a driver.
//!
//! A [`Session`] owns two slabs, connections and torrents, and nothing of the outside world: no
//! socket, file, clock, thread or dice of its own. A driver (`net::Loop`, or a simulator) hands it
//! the time and whatever happened, and carries out what it answers.
//!
//! # Driving it
//!
//! 1. Tell it what happened: [`Session::accept`], [`Session::handle`],
//!    [`Session::handle_datagram`], a command.
//! 2. After any call that takes `&mut self`, drain [`Session::poll_action`] and
//!    [`Session::poll_datagram`]; now and then [`Session::poll_alert`].
//! 3. When a stream is readable or writable, let the pump move bytes: [`Session::want`],
//!    [`Session::feed`], [`Session::filled`]; [`Session::offer`], [`Session::chunks`],
//!    [`Session::sent`].
//! 4. Call `handle(now, Input::Tick)` no later than [`Session::poll_timeout`].
//!
//! It dispatches; the machines do the work. Peers' messages go to `torrent::exchange`, announces
//! through `trackers`, the data plane lives in `data`.

mod data;
mod dht;
mod invariants;
mod lsd;
mod room;
#[cfg(test)]
mod tests;
mod timers;
mod trackers;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound::{Excluded, Unbounded};

pub use crate::api::*;
pub use crate::peer::Chunk;

use crate::blocklist::Blocklist;
use crate::config::Config;
use crate::error::Error;
use crate::id::{ConnKey, InfoHash, PeerId, PieceIndex, TorrentKey};
use crate::peer::{Conn, Peer, Phase};
use crate::rate::{Bucket, Rate};
use crate::rng::{self, Rng};
use crate::slots::Slots;
use crate::time::{Duration, Instant};
use crate::torrent::{Cx, Me, Torrent, lookup_conn};
use crate::tracker::external::External;
use crate::tracker::udp::ConnectionIds;
use timers::{Timer, Timers};
use turns::Turns;

/// How long a shutdown waits for trackers to hear of it.
const SHUTDOWN: Duration = Duration::from_millis(2500);

/// The prefix of our peer ids: `BM`, version 0.1.0.0 (BEP 20).
const PEER_ID_PREFIX: &[u8; 8] = b"-BM0100-";

/// The protocol core. See the module's head for how to drive it.
#[derive(Debug)]
pub struct Session {
    config: Config,
    me: Me,
    rng: Rng,
    conns: Slots<ConnKey, Conn>,
    torrents: Slots<TorrentKey, Torrent>,
    by_hash: BTreeMap<InfoHash, TorrentKey>,
    actions: VecDeque<Action>,
    alerts: Alerts,
    timers: Timers,
    touched: Vec<ConnKey>,
    stats: Stats,
    rates: (Rate, Rate),
    down: Bucket,
    up: Bucket,
    /// Who waits for either.
    down_turns: Turns,
    up_turns: Turns,
    /// Incoming connections that have not said what they want.
    strangers: usize,
    /// UDP transactions under way, by transaction id.
    transactions: BTreeMap<u32, ConnKey>,
    ids: ConnectionIds,
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    external: External,
    blocklist: Blocklist,
    dht: Option<Box<crate::dht::Dht>>,
    dht_seed: [u8; 32],
    /// The one time that its timer is armed for.
    dht_timer: Instant,
    lsd: Option<crate::lan::lsd::Lsd>,
    /// The one time that its timer is armed for.
    lsd_timer: Instant,
    /// Nodes that peers have named and that have not been pinged yet.
    dht_nodes: Vec<SocketAddr>,
    /// Torrents that have an address that is due, and which of them dialled last.
    to_dial: BTreeSet<TorrentKey>,
    dialled: Option<TorrentKey>,
    shutdown: Option<Instant>,
}

/// Splits a session into one torrent and what that torrent may use.
macro_rules! cx {
    ($self:ident, $now:expr) => {
        $crate::torrent::Cx {
            now: $now,
            rng: &mut $self.rng,
            conns: &mut $self.conns,
            actions: &mut $self.actions,
            alerts: &mut $self.alerts,
            config: &$self.config,
            stats: &mut $self.stats,
            me: &$self.me,
            touched: &mut $self.touched,
            strangers: &mut $self.strangers,
            blocklist: &$self.blocklist,
            dht_nodes: &mut $self.dht_nodes,
        }
    };
}
use cx;

impl Session {
    /// A session without torrents. `seed` decides every choice it makes, its peer id among them:
    /// take it from the operating system, or from a simulator's seed.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        let word = |i: usize| u64::from_le_bytes(seed[i..i + 8].try_into().expect("eight bytes"));
        let mut id = [0; 20];
        id[..8].copy_from_slice(PEER_ID_PREFIX);
        for (i, b) in id[8..].iter_mut().enumerate() {
            // Letters and digits only, for trackers that take offence at the rest.
            const SAFE: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
            *b = SAFE[usize::from(seed[i]) % SAFE.len()];
        }
        let key = word(16) as u32;
        let lsd = config.lsd.then(|| crate::lan::lsd::Lsd::new(word(8).rotate_left(29)));
        Self {
            down: Bucket::new(config.down_limit),
            up: Bucket::new(config.up_limit),
            config,
            me: Me { id: PeerId::new(id), key, port: 0 },
            rng: rng::seeded(word(24)),
            conns: Slots::new(),
            torrents: Slots::new(),
            by_hash: BTreeMap::new(),
            actions: VecDeque::new(),
            alerts: Alerts::default(),
            timers: Timers::default(),
            touched: Vec::new(),
            stats: Stats::default(),
            rates: (Rate::new(Duration::from_secs(5)), Rate::new(Duration::from_secs(5))),
            down_turns: Turns::default(),
            up_turns: Turns::default(),
            strangers: 0,
            transactions: BTreeMap::new(),
            ids: ConnectionIds::default(),
            datagrams: VecDeque::new(),
            external: External::default(),
            blocklist: Blocklist::default(),
            dht: None,
            dht_seed: seed,
            dht_timer: Instant::FAR,
            lsd,
            lsd_timer: Instant::FAR,
            dht_nodes: Vec::new(),
            to_dial: BTreeSet::new(),
            dialled: None,
            shutdown: None,
        }
    }

    /// The port peers can dial, told to trackers and peers; 0 when nothing listens.
    pub fn set_port(&mut self, port: u16) {
        self.me.port = port;
        if let Some(lsd) = &mut self.lsd {
            lsd.set_port(port);
        }
    }

    /// Peers outside dial this port, which a gateway forwards to ours. Trackers that know another one are told.
    pub fn set_external_port(&mut self, now: Instant, port: u16) {
        if self.me.port == port {
            return;
        }
        self.me.port = port;
        if let Some(dht) = &mut self.dht {
            dht.set_port(port);
        }
        for key in self.torrents.keys().collect::<Vec<_>>() {
            let _ = self.reannounce(now, key);
        }
    }

    /// Somebody at `source`, a gateway for one, says that our public address is `ip`: one voice among others.
    pub fn hear_address(&mut self, source: std::net::IpAddr, ip: std::net::IpAddr) {
        self.external.vote(source, ip);
    }

    /// There was no network for a while, and now there is: trackers are asked, and peers dialled, without the wait that
    /// their failures have brought on.
    pub fn on_network(&mut self, now: Instant) {
        for key in self.torrents.keys().collect::<Vec<_>>() {
            let _ = self.command(now, key, Torrent::on_network);
        }
        self.dial(now);
    }

    /// Our peer id.
    pub fn peer_id(&self) -> PeerId {
        self.me.id
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    // ---------------------------------------------------------------- commands

    /// Adds a torrent.
    pub fn add(&mut self, now: Instant, add: Add) -> Result<TorrentKey, Error> {
        let Some(info_hash) = add.meta.info_hash else { return Err(Error::V2Only) };

        if self.by_hash.contains_key(&info_hash) {
            return Err(Error::Duplicate(info_hash));
        }
        let wanted = add.meta.files.len();
        if !add.priorities.is_empty() && add.priorities.len() != wanted {
            return Err(Error::FileCount { wanted, got: add.priorities.len() });
        }
        let mut cx = cx!(self, now);
        let key = self.torrents.insert_with(|key| Torrent::new(key, info_hash, add, &mut cx));
        self.by_hash.insert(info_hash, key);
        self.stats.torrents += 1;
        self.arm(now, key);
        self.follow(now, key);
        self.dial(now);
        Ok(key)
    }

    fn command(
        &mut self,
        now: Instant,
        key: TorrentKey,
        f: impl FnOnce(&mut Torrent, &mut Cx<'_>),
    ) -> Result<(), Error> {
        let t = self.torrents.get_mut(key).ok_or(Error::NoSuchTorrent)?;
        f(t, &mut cx!(self, now));
        self.arm(now, key);
        self.follow(now, key);
        self.dial(now);
        Ok(())
    }

    /// Stops a torrent until it is resumed: closes its peers and files, tells its trackers.
    pub fn pause(&mut self, now: Instant, key: TorrentKey) -> Result<(), Error> {
        self.command(now, key, Torrent::pause)
    }

    /// Lets a paused or failed torrent go on.
    pub fn resume(&mut self, now: Instant, key: TorrentKey) -> Result<(), Error> {
        self.command(now, key, Torrent::resume)
    }

    /// Checks all of a torrent's data again.
    pub fn verify(&mut self, now: Instant, key: TorrentKey) -> Result<(), Error> {
        self.command(now, key, Torrent::verify)
    }

    /// Chooses files: one priority a file, in the torrent's order.
    pub fn select(&mut self, now: Instant, key: TorrentKey, priorities: Vec<Priority>) -> Result<(), Error> {
        let t = self.torrents.get(key).ok_or(Error::NoSuchTorrent)?;
        let wanted = t.layout.files().len();
        if priorities.len() != wanted {
            return Err(Error::FileCount { wanted, got: priorities.len() });
        }
        self.command(now, key, |t, cx| t.select(cx, priorities))
    }

    /// Fetches in order, or rarest first.
    pub fn set_sequential(&mut self, now: Instant, key: TorrentKey, on: bool) -> Result<(), Error> {
        self.command(now, key, |t, cx| t.set_sequential(cx, on))
    }

    /// Limits the payload of all torrents together, in bytes per second; `None` is unlimited.
    pub fn set_limits(&mut self, down: Option<u64>, up: Option<u64>) {
        (self.config.down_limit, self.config.up_limit) = (down, up);
        self.down.set_rate(down);
        self.up.set_rate(up);
        for (conn, _) in self.conns.iter() {
            self.actions.push_back(Action::Wake { conn });
        }
    }

    /// Has nothing to do with these addresses from now on, neither as peers nor as DHT nodes, whoever names them:
    /// those that are connected are closed. Trackers are spoken to wherever they are.
    pub fn set_blocklist(&mut self, now: Instant, list: Blocklist) {
        self.blocklist = list;
        let listed = |c: &Conn| c.peer().is_some_and(|p| self.blocklist.contains(p.addr.ip()));
        for conn in self.conns.iter().filter(|(_, c)| listed(c)).map(|(k, _)| k).collect::<Vec<_>>() {
            self.close(now, conn, CloseReason::Blocked);
        }
        // Some may be blocked no longer.
        for key in self.torrents.keys().collect::<Vec<_>>() {
            let _ = self.command(now, key, |t, cx| t.swarm.revive(cx.now));
        }
    }

    /// Dials a peer.
    pub fn add_peer(&mut self, now: Instant, key: TorrentKey, addr: SocketAddr) -> Result<(), Error> {
        self.command(now, key, |t, cx| {
            t.swarm.add(cx.now, addr, crate::torrent::swarm::Source::User);
            t.tick(cx);
        })
    }

    /// Adds a tracker, as a tier of its own.
    pub fn add_tracker(&mut self, now: Instant, key: TorrentKey, url: &str) -> Result<(), Error> {
        self.command(now, key, |t, cx| {
            t.tiers.add(url);
            t.tick(cx);
        })
    }

    /// Announces as soon as the tracker's minimum interval allows.
    pub fn reannounce(&mut self, now: Instant, key: TorrentKey) -> Result<(), Error> {
        self.command(now, key, |t, cx| {
            t.tiers.announce_now(cx.now);
            t.tick(cx);
        })
    }

    /// Asks all of a torrent's trackers how many peers it has (BEP 48). The answers are told as
    /// [`TrackerOutcome::Scrape`] and kept in [`Session::trackers`].
    pub fn scrape(&mut self, now: Instant, key: TorrentKey) -> Result<(), Error> {
        self.command(now, key, Torrent::scrape)
    }

    /// Whether a piece that could not be read is being looked at again: that this fails is no error of the torrent.
    pub fn looks_again(&self, key: TorrentKey, piece: PieceIndex) -> bool {
        self.torrents.get(key).is_some_and(|t| t.looks_again(piece))
    }

    /// Forgets a torrent, and deletes its data when asked to. Its trackers are told.
    pub fn remove(&mut self, now: Instant, key: TorrentKey, with_data: bool) -> Result<(), Error> {
        self.command(now, key, |t, cx| t.stop(cx, None, CloseReason::TorrentStopped))?;
        let t = self.torrents.remove(key).ok_or(Error::NoSuchTorrent)?;
        self.by_hash.remove(&t.info_hash);
        if let Some(node) = &mut self.dht {
            node.forget(&t.info_hash);
        }
        if let Some(lsd) = &mut self.lsd {
            lsd.forget(&t.info_hash);
        }
        self.stats.torrents -= 1;
        let (info_hash, layout, dir) = (t.info_hash, t.layout, t.dir);
        self.actions.push_back(Action::Remove { torrent: key, info_hash, layout, dir, with_data });
        self.alerts.push_back(Alert::Removed { info_hash });
        Ok(())
    }

    /// Ends the session: saves every torrent, tells trackers, closes peers. Keep driving until
    /// [`Session::is_shut_down`], which takes 2.5 s at most.
    pub fn shutdown(&mut self, now: Instant) {
        if self.shutdown.is_some() {
            return;
        }
        self.shutdown = Some(now + SHUTDOWN);
        for key in self.torrents.keys().collect::<Vec<_>>() {
            let _ = self.command(now, key, |t, cx| t.stop(cx, None, CloseReason::Shutdown));
        }
        for (key, conn) in self.conns.iter().map(|(k, c)| (k, c.peer().is_some())).collect::<Vec<_>>() {
            if conn {
                self.close(now, key, CloseReason::Shutdown);
            }
        }
        self.dht = None;
        self.lsd = None;
        self.timers.arm(now + SHUTDOWN, Timer::Shutdown);
    }

    /// The shutdown is over: trackers have answered, or had their time.
    pub fn is_shut_down(&self, now: Instant) -> bool {
        self.shutdown
            .is_some_and(|end| now >= end || self.torrents.iter().all(|(_, t)| t.tiers.idle() && !t.is_closing()))
    }

    // ---------------------------------------------------------------- views

    /// All torrents.
    pub fn torrents(&self) -> impl Iterator<Item = TorrentKey> + '_ {
        self.torrents.keys()
    }

    /// The torrent with this info hash.
    pub fn find(&self, info_hash: &InfoHash) -> Option<TorrentKey> {
        self.by_hash.get(info_hash).copied()
    }

    /// A torrent at a glance.
    pub fn status(&self, now: Instant, key: TorrentKey) -> Option<Status> {
        let t = self.torrents.get(key)?;
        let mut status = t.status(now);
        let seed = |c: &&ConnKey| self.conns.get(**c).and_then(Conn::peer).is_some_and(Peer::is_seed);
        status.seeds = t.peers.iter().filter(seed).count();
        Some(status)
    }

    /// A torrent exchanges blocks with peers: it is neither stopped nor about to begin.
    pub fn is_trading(&self, key: TorrentKey) -> bool {
        self.torrents.get(key).is_some_and(Torrent::is_active)
    }

    /// A torrent's files, pad files left out; empty when there is no such torrent.
    pub fn files(&self, key: TorrentKey) -> Vec<FileStatus> {
        self.torrents.get(key).map(Torrent::files).unwrap_or_default()
    }

    /// A torrent's info hash.
    pub fn torrent_hash(&self, key: TorrentKey) -> Option<InfoHash> {
        self.torrents.get(key).map(|t| t.info_hash)
    }

    /// What a torrent is.
    pub fn metainfo(&self, key: TorrentKey) -> Option<&crate::metainfo::Metainfo> {
        self.torrents.get(key).map(|t| &t.meta)
    }

    /// How its trackers fare.
    pub fn trackers(&self, key: TorrentKey) -> Vec<crate::tracker::tiers::TrackerStatus> {
        self.torrents.get(key).map(|t| t.tiers.status().collect()).unwrap_or_default()
    }

    /// Totals.
    pub fn stats(&self, now: Instant) -> Stats {
        let wasted = self.torrents.iter().map(|(_, t)| t.wasted()).sum();
        let (rate_down, rate_up) = (self.rates.0.get(now), self.rates.1.get(now));
        Stats { rate_down, rate_up, wasted, alerts_lost: self.alerts.lost(), ..self.stats }
    }

    /// Our public address in one family, as most trackers see it (BEP 24).
    pub fn external_ip(&self, v6: bool) -> Option<std::net::IpAddr> {
        self.external.get(v6)
    }

    /// Bytes of memory that one connection costs, the socket left out; 0 when it is gone.
    pub fn memory_of(&self, conn: ConnKey) -> usize {
        self.conns.get(conn).and_then(Conn::peer).map_or(0, Peer::memory)
    }

    // ---------------------------------------------------------------- driving

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Connected { conn, .. } => self.on_connected(now, conn),
            Input::Closed { conn, why } => self.on_closed(now, conn, why),
            Input::Resolved { id, result } => {
                if !self.dht_resolved(now, id, &result) {
                    self.on_resolved(now, lookup_conn(id), result);
                }
            }
            Input::Opened { torrent, files } => {
                let _ = self.command(now, torrent, |t, cx| t.on_opened(cx, &files));
            }
            Input::Hashed { torrent, piece, ok, blocks } => {
                let _ = self.command(now, torrent, |t, cx| t.on_hashed(cx, piece, ok, blocks.as_deref()));
            }
            Input::Unsent { to, error } => {
                self.on_unsent(now, to, &error);
                self.dht_unsent(now, to);
            }
            Input::PieceLost { torrent, piece } => {
                let _ = self.command(now, torrent, |t, cx| t.on_piece_lost(cx, piece));
            }
            Input::PieceUnreadable { torrent, piece, error } => {
                let _ = self.command(now, torrent, |t, cx| t.on_unreadable(cx, piece, error));
            }
            Input::Synced { torrent, ticket, result } => {
                let _ = self.command(now, torrent, |t, cx| t.on_synced(cx, ticket, result));
            }
            Input::Remembered { torrent, result } => {
                let _ = self.command(now, torrent, |t, cx| t.on_remembered(cx, result));
            }
            Input::DiskFailed { torrent, error, kind } => {
                let _ = self.command(now, torrent, |t, cx| t.on_disk_failed(cx, error, kind));
            }
            Input::Tick => self.tick(now),
        }
        self.arm_touched(now);
        self.dial(now);
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if let Some(Action::Wake { conn }) = action {
            if let Some(p) = self.conns.get_mut(conn).and_then(Conn::peer_mut) {
                p.woken = false;
            }
        }
        action
    }

    /// What happened next. Pull them: of those nobody pulls, the oldest are lost at
    /// `limits::ALERTS`.
    pub fn poll_alert(&mut self) -> Option<Alert> {
        self.alerts.pop_front()
    }

    /// When to call `handle(now, Input::Tick)` at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The record for the next run, for [`Action::Save`]. `files` is what each file looks like
    /// after a flush.
    pub fn record(&mut self, now: Instant, key: TorrentKey, files: Vec<Option<FileStamp>>) -> Option<Vec<u8>> {
        self.torrents.get_mut(key).map(|t| t.make_record(now, files))
    }

    /// On which file system an earlier run found files of a torrent in the same folder, for [`Action::Open`].
    pub fn home(&self, key: TorrentKey) -> Option<u64> {
        self.torrents.get(key).and_then(|t| t.home)
    }

    /// Where they are now; comes with [`Session::record`].
    pub fn set_home(&mut self, key: TorrentKey, home: Option<u64>) {
        if let Some(t) = self.torrents.get_mut(key) {
            t.home = home.or(t.home);
        }
    }

    /// What the next start should know of a torrent, for [`Action::Remember`].
    pub fn recollection(&self, key: TorrentKey) -> Option<Vec<u8>> {
        self.torrents.get(key).map(Torrent::recollection)
    }

    /// Whether a torrent is there again after a crash.
    pub fn kept(&self, key: TorrentKey) -> Option<&Kept> {
        self.torrents.get(key).map(Torrent::kept)
    }

    /// What is known of a torrent's pieces: those that are durable, and those that are verified but may not be.
    pub fn claims(&self, key: TorrentKey) -> Option<(&crate::bitfield::Bitfield, Vec<crate::id::PieceIndex>)> {
        self.torrents.get(key).map(Torrent::claims)
    }

    /// Where a torrent's pieces lie in its files.
    pub fn layout(&self, key: TorrentKey) -> Option<&std::sync::Arc<crate::torrent::layout::Layout>> {
        self.torrents.get(key).map(|t| &t.layout)
    }

    fn tick(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.pop(now) {
            match timer {
                Timer::Conn(conn) => self.on_conn_timer(now, at, conn),
                Timer::Torrent(key) => {
                    if let Some(t) = self.torrents.get_mut(key).filter(|t| t.timer == at) {
                        t.timer = Instant::FAR;
                        t.tick(&mut cx!(self, now));
                        self.arm(now, key);
                        self.follow(now, key);
                    }
                }
                Timer::Dht => self.on_dht_timer(now, at),
                Timer::Lsd => self.on_lsd_timer(now, at),
                Timer::Shutdown => {}
            }
        }
        self.drive_dht(now);
    }

    fn on_conn_timer(&mut self, now: Instant, at: Instant, conn: ConnKey) {
        match self.conns.get_mut(conn) {
            Some(Conn::Peer(p)) if p.timer != at => {}
            Some(Conn::Peer(p)) => {
                p.timer = Instant::FAR;
                if self.down_turns.waits(conn) {
                    // It has something for us, which our own limit keeps us from reading.
                    (p.last_in, p.last_block) = (now, now);
                }
                let due = p.deadline(&self.config) <= now;
                let why = match p.phase {
                    Phase::Connecting if due => Some(CloseReason::ConnectTimeout),
                    Phase::Handshake(_) if due => Some(CloseReason::HandshakeTimeout),
                    _ => None,
                };
                if let Some(why) = why {
                    return self.close(now, conn, why);
                }
                self.with_torrent(now, conn, |t, cx| t.on_timer(cx, conn));
                self.arm_conn(now, conn);
            }
            Some(Conn::Tracker(_)) => self.on_tracker_timer(now, conn),
            None => {}
        }
    }

    /// Runs `f` on the torrent of a peer, and closes the peer when `f` finds a reason to.
    fn with_torrent(
        &mut self,
        now: Instant,
        conn: ConnKey,
        f: impl FnOnce(&mut Torrent, &mut Cx<'_>) -> Result<(), CloseReason>,
    ) {
        let key = self.conns.get(conn).and_then(Conn::peer).and_then(|p| p.torrent);
        let Some(t) = key.and_then(|k| self.torrents.get_mut(k)) else { return };
        let verdict = f(t, &mut cx!(self, now));
        let key = t.key;
        if let Err(why) = verdict {
            self.close(now, conn, why);
        }
        self.arm(now, key);
    }

    fn on_connected(&mut self, now: Instant, conn: ConnKey) {
        let me = self.me.id;
        match self.conns.get_mut(conn) {
            Some(Conn::Peer(p)) => {
                let Some(t) = p.torrent.and_then(|k| self.torrents.get(k)) else { return };
                p.phase = Phase::Handshake(Box::default());
                p.since = now;
                p.last_in = now;
                p.outbox.push_bytes(&crate::wire::encode_handshake(&crate::wire::Handshake {
                    reserved: crate::wire::Reserved::ours().with_dht(self.dht.is_some()),
                    info_hash: t.info_hash,
                    peer_id: me,
                }));
                self.actions.push_back(Action::Wake { conn });
                self.arm_conn(now, conn);
            }
            Some(Conn::Tracker(_)) => self.on_tracker_connected(conn),
            None => {}
        }
    }

    fn on_closed(&mut self, now: Instant, conn: ConnKey, why: CloseReason) {
        match self.conns.get(conn) {
            Some(Conn::Peer(_)) => self.close(now, conn, why),
            Some(Conn::Tracker(_)) => self.on_tracker_closed(now, conn, why),
            None => {}
        }
    }

    /// Ends a peer connection.
    fn close(&mut self, now: Instant, conn: ConnKey, why: CloseReason) {
        let Some(Conn::Peer(peer)) = self.conns.get(conn) else { return };
        let stranger = peer.incoming && !peer.is_live();
        if let Some(t) = peer.torrent.and_then(|k| self.torrents.get_mut(k)) {
            t.close(&mut cx!(self, now), conn, why);
            let key = t.key;
            self.arm(now, key);
        } else {
            log::debug!("peer {}: closed: {why}", peer.addr);
            self.strangers -= usize::from(stranger);
            self.conns.remove(conn);
            self.actions.push_back(Action::Close { conn, why });
        }
    }

    // ---------------------------------------------------------------- dialling

    fn may_dial(&self) -> bool {
        let s = &self.stats;
        s.half_open < self.config.half_open && s.peers + s.half_open < self.config.max_peers
    }

    /// Dials addresses that are due while there is room, one torrent after the other, so that none
    /// keeps the others from their turn, and looks at no torrent that has none. When there is no room it
    /// waits for a connection to end.
    pub(super) fn dial(&mut self, now: Instant) {
        while self.may_dial() {
            let behind = self.dialled.and_then(|last| self.to_dial.range((Excluded(last), Unbounded)).next());
            let Some(key) = behind.or(self.to_dial.first()).copied() else { return };
            self.to_dial.remove(&key);
            self.dialled = Some(key);
            let Some(t) = self.torrents.get_mut(key) else { continue };
            if t.wants_to_dial(now, &self.config) {
                t.dial(&mut cx!(self, now));
            }
            // It comes back in if it wants to dial another.
            self.arm(now, key);
        }
    }

    // ---------------------------------------------------------------- timers

    fn arm(&mut self, now: Instant, key: TorrentKey) {
        let Some(t) = self.torrents.get_mut(key) else { return };
        if t.wants_to_dial(now, &self.config) {
            self.to_dial.insert(key);
        }
        if let Some(at) = t.deadline(now, &self.config).filter(|at| *at < t.timer) {
            // A deadline in the past means work that a limit holds back: look again soon.
            let at = if at <= now { now + Duration::from_millis(100) } else { at };
            if at < t.timer {
                t.timer = at;
                self.timers.arm(at, Timer::Torrent(key));
            }
        }
        self.arm_touched(now);
    }

    fn arm_touched(&mut self, now: Instant) {
        while let Some(conn) = self.touched.pop() {
            self.arm_conn(now, conn);
        }
    }

    fn arm_conn(&mut self, now: Instant, conn: ConnKey) {
        // Connections that come and go by the thousand leave theirs behind.
        if self.timers.len() > 64 + 4 * (self.conns.len() + self.torrents.len()) {
            let (conns, torrents) = (&self.conns, &self.torrents);
            self.timers.retain(|timer| match timer {
                Timer::Conn(c) => conns.get(*c).is_some(),
                Timer::Torrent(t) => torrents.get(*t).is_some(),
                Timer::Dht | Timer::Lsd | Timer::Shutdown => true,
            });
        }
        match self.conns.get_mut(conn) {
            Some(Conn::Peer(p)) => {
                let at = p.deadline(&self.config).max(now + Duration::from_millis(1));
                if at < p.timer {
                    p.timer = at;
                    self.timers.arm(at, Timer::Conn(conn));
                }
            }
            Some(Conn::Tracker(t)) => self.timers.arm(t.next(), Timer::Conn(conn)),
            None => {}
        }
    }
}
