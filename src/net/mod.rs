//! The driver: one mio poll, one thread, every socket and every file of a session.
//!
//! [`Loop::turn`] waits for events, lets the pump move bytes on the connections that are ready,
//! does a bounded amount of hashing and writing, and carries out what the session asks for. It
//! never blocks but in `poll`. To embed it in another event loop, watch its descriptor (`AsRawFd`) for
//! reading and call `turn` with a zero timeout when it is readable or [`Loop::timeout`] has passed;
//! while `turn` answers [`Turn::More`] call it again without waiting, because mio is edge-triggered
//! and an outer poller will not be told twice.
//!
//! It keeps each torrent's resume record in the state folder, if it has one.

mod bound;
mod clock;
mod interfaces;
mod late;
mod link;
mod listen;
mod locks;
mod lsd;
mod network;
mod portmap;
pub mod resolve;
mod room;
mod state;
#[cfg(all(test, target_os = "linux"))]
mod tests;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod turns;
mod udp;
mod watch;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::event::{Event, Source};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::api::{Action, Add, Alert, CloseReason, FileStamp, Input};
use crate::config::{Config, limits};
use crate::error::Error;
use crate::id::{ConnKey, FileIndex, InfoHash, TorrentKey};
use crate::pump::{self, Buffers, Outcome};
use crate::session::Session;
use crate::state::{Answer, Keeper};
use crate::storage::helper::{Hand, Helper};
use crate::storage::{Disk, Done, OpenSpec, Storage, StorageConfig};
use crate::time::{Duration, Instant, earlier};
use bound::Bound;
use clock::Clock;
use late::AllLate;
use link::Link;
use listen::Listeners;
use lsd::Groups;
use network::Network;
use resolve::{DnsResolver, Resolve};
use state::StateDir;
pub use turns::TurnTimes;
use udp::Datagrams;

/// Tokens of connections are their slots; all others lie at the end of the range.
const SPECIAL: usize = usize::MAX - 4096;
const DNS_FIRST: usize = SPECIAL;
const DNS_COUNT: usize = 2048;
const LISTEN_FIRST: usize = DNS_FIRST + DNS_COUNT;
const LISTEN_COUNT: usize = 64;
const UDP_FIRST: usize = LISTEN_FIRST + LISTEN_COUNT;
const UDP_COUNT: usize = 2;
const LSD_FIRST: usize = UDP_FIRST + UDP_COUNT;
const LSD_COUNT: usize = 2;
/// The helper is through with something.
const HELPER: usize = LSD_FIRST + LSD_COUNT;
/// The network has changed.
const WATCH: usize = HELPER + 1;
const PORTMAP_FIRST: usize = WATCH + 1;
const FOREIGN_FIRST: usize = PORTMAP_FIRST + portmap::TOKENS;

/// Bytes hashed and written in one turn.
const WORK: usize = 4 << 20;
/// A shutdown waits no longer than this for what is on its way to a disk.
const DISK_PATIENCE: Duration = Duration::from_secs(10);
/// Datagrams received in one turn.
const DATAGRAMS: usize = 256;
/// Those of the local groups.
const MULTICASTS: usize = 32;
/// Descriptors ran out: nothing is accepted for so long.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The system has no more descriptors, or no memory for a socket.
fn exhausted(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Which port to listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortChoice {
    /// This one; 0 lets the system choose.
    Exact(u16),
    /// The first free one of these, both ends included.
    Range(u16, u16),
}

/// What a [`Loop`] is made with.
#[derive(Clone, Debug)]
pub struct LoopConfig {
    /// The session's settings.
    pub session: Config,
    /// The storage's settings.
    pub storage: StorageConfig,
    /// Where peers can dial us.
    pub port: PortChoice,
    /// Our own addresses, at most one a family; empty is all of both families. Peers, trackers, the DHT, the local
    /// network and name lookups use them and no others.
    pub bind: Vec<IpAddr>,
    /// The one network interface that all of these use; `None` is any. When it is gone there is no network.
    pub device: Option<String>,
    /// Where resume records are kept; without one nothing is remembered.
    pub state_dir: Option<PathBuf>,
    /// Ask the gateway to forward our port (PCP, NAT-PMP, UPnP): only where we listen on more than the loopback, and
    /// have a private address behind a gateway with a private one. The mapping is taken back on [`Loop::shutdown`].
    pub portmap: bool,
    /// Certificates (PEM) of those who are trusted to vouch for `https://` trackers; `None` is the system's. Read
    /// when the first of these is asked. Of no effect in builds without the feature `tls`.
    pub tls_roots: Option<PathBuf>,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self {
            session: Config::default(),
            storage: StorageConfig::default(),
            port: PortChoice::Range(6881, 6999),
            bind: Vec::new(),
            device: None,
            state_dir: None,
            portmap: false,
            tls_roots: None,
        }
    }
}

impl LoopConfig {
    /// Memory that is used when it is there: more makes nothing faster.
    pub const MEMORY: usize = 32 << 20;
    /// Less than this is taken as this.
    pub const MEMORY_LEAST: usize = 1 << 20;

    /// Fits everything that grows with speed, or with the number of peers, into about `bytes`: payload that waits to
    /// be hashed and written, mapped windows, outstanding requests, connections, answers that peers do not read.
    ///
    /// A half and an eighth is for payload, an eighth for answers; as much as a half is mapped, and given back under
    /// pressure. With what torrents and connections themselves take, the heap stays below four times that.
    #[must_use]
    pub fn with_memory(mut self, bytes: usize) -> Self {
        let bytes = bytes.clamp(Self::MEMORY_LEAST, Self::MEMORY);
        let storage = StorageConfig::default();
        self.storage.gather_limit = (bytes / 8 * 5).min(storage.gather_limit);
        self.storage.map_limit = (bytes / 2).min(storage.map_limit);
        self.storage.window = (self.storage.map_limit / 8).next_power_of_two().clamp(64 << 10, storage.window);
        // 12 bytes each.
        self.session.requests_in_total = (bytes / 128).min(self.session.requests_in_total);
        self.session.outbox_total = (bytes / 8).min(self.session.outbox_total);
        if bytes < Self::MEMORY / 2 {
            // A peer costs about a kilobyte, and 24 bytes for each request.
            let peers = bytes / (32 << 10);
            self.session.max_peers = self.session.max_peers.min(peers);
            self.session.max_peers_torrent = self.session.max_peers_torrent.min(peers);
            self.session.requests_out = self.session.requests_out.min(bytes / (8 << 10));
        }
        self
    }
}

/// What is left after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// There is work that will raise no event: take another turn at once.
    More,
    /// Nothing to do until an event, or [`Loop::timeout`].
    Idle,
}

/// A session with sockets and files.
///
/// It may be dropped at any time, as a process may be killed: what was saved is there at the next start. After a
/// `fork` the child may drop its copy, or become another program, but not turn it: nothing is handed down to another
/// program. No signal is handled, unless [`guard::install`](crate::storage::guard::install) was called.
pub struct Loop {
    poll: Poll,
    events: Events,
    clock: Clock,
    now: Instant,
    session: Session,
    disk: Disk,
    links: Vec<Option<Link>>,
    ready: VecDeque<ConnKey>,
    /// Connections that a limit holds back, until the earliest of their times.
    held: (Vec<ConnKey>, Option<Instant>),
    /// How often they were let go.
    rounds: usize,
    listeners: Listeners,
    accept_again: Option<Instant>,
    udp: Datagrams,
    groups: Option<Groups>,
    turns: TurnTimes,
    bound: Bound,
    resolver: DnsResolver,
    tls: tls::Connector,
    network: Network,
    state: Option<Keeper<StateDir>>,
    open: BTreeSet<TorrentKey>,
    late: AllLate,
    /// A shutdown waits for slow disks until then.
    patience: Option<Instant>,
    bufs: Buffers,
    disk_more: bool,
    foreign: VecDeque<Token>,
    foreign_count: usize,
    /// Dropped last: what the others have given it is done by then.
    _helper: Helper,
}

impl Loop {
    /// A loop that listens, with no torrents yet.
    pub fn new(mut config: LoopConfig) -> Result<Self, Error> {
        room::share_out(room::descriptors(), &mut config.session, &mut config.storage);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| Error::Io(io::Error::other(e.to_string())))?;
        let poll = Poll::new()?;
        let bound = Bound { ips: config.bind, device: config.device };
        let mut listeners = Listeners::open(config.port, &bound)?;
        listeners.register(poll.registry(), LISTEN_FIRST)?;
        let mut udp = Datagrams::open(listeners.port(), &bound);
        udp.register(poll.registry(), UDP_FIRST)?;
        let groups = config.session.lsd.then(|| Groups::open(&bound, poll.registry(), LSD_FIRST));
        let mut session = Session::new(config.session, seed);
        session.set_port(listeners.port());
        let word = u64::from_le_bytes(seed[..8].try_into().expect("eight bytes"));
        let mut resolver = DnsResolver::new(poll.registry().try_clone()?, DNS_FIRST, DNS_COUNT, word.rotate_left(17))?;
        resolver.bind_to(bound.clone());
        let network = Network::new(poll.registry(), &bound, listeners.port(), config.portmap)?;
        let helper = match config.storage.helper {
            true => {
                let waker = Waker::new(poll.registry(), Token(HELPER))?;
                Helper::threaded(Arc::new(move || {
                    // It fails only when the poll is gone, and then nobody waits.
                    let _ = waker.wake();
                }))
            }
            false => Helper::inline(),
        };
        let state = config.state_dir.map(|dir| StateDir::open(dir, helper.hand())).transpose()?;
        let mut state = state.map(|folder| Keeper::new(folder, state::boot()));
        session.start_dht(Instant::ZERO, state.as_mut().and_then(Keeper::load_dht).as_deref());
        Ok(Self {
            poll,
            events: Events::with_capacity(256),
            clock: Clock::start(),
            now: Instant::ZERO,
            session,
            disk: Disk::with_helper(config.storage, helper.hand()),
            links: Vec::new(),
            ready: VecDeque::new(),
            held: (Vec::new(), None),
            rounds: 0,
            listeners,
            accept_again: None,
            udp,
            groups,
            turns: TurnTimes::default(),
            bound,
            resolver,
            tls: tls::Connector::new(config.tls_roots),
            network,
            state,
            open: BTreeSet::new(),
            late: AllLate::default(),
            patience: None,
            bufs: Buffers::default(),
            disk_more: false,
            foreign: VecDeque::new(),
            foreign_count: 0,
            _helper: helper,
        })
    }

    fn read_clock(&mut self) {
        self.now = self.clock.now();
    }

    /// The loop's time, as of the last turn or command.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How long its turns took, waiting apart.
    pub fn turn_times(&self) -> &TurnTimes {
        &self.turns
    }

    /// The same, and begins anew.
    pub fn take_turn_times(&mut self) -> TurnTimes {
        std::mem::take(&mut self.turns)
    }

    /// The port peers can dial.
    pub fn port(&self) -> u16 {
        self.listeners.port()
    }

    /// The session, to look at.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Gives the session a command at the present time and carries out what follows from it.
    pub fn command<R>(&mut self, f: impl FnOnce(&mut Session, Instant) -> R) -> R {
        self.read_clock();
        let r = f(&mut self.session, self.now);
        self.carry_out();
        r
    }

    /// Adds a torrent. Its resume record is taken from the state folder, unless `add` brings one.
    pub fn add(&mut self, mut add: Add) -> Result<TorrentKey, Error> {
        let hash = add.meta.info_hash.filter(|h| self.session.find(h).is_none());
        if let (Some(state), Some(hash)) = (&mut self.state, hash) {
            if !state.folder().lock(&hash) {
                return Err(Error::Busy(hash));
            }
            // Wherever the next start is made from.
            add.dir = std::path::absolute(&add.dir).unwrap_or(add.dir);
            let info = if add.meta.is_known() { None } else { state.load_metadata(&hash) };
            if let Some(Err(e)) = info.map(|info| add.meta.learn(&info)) {
                log::warn!("what was kept of {hash} is of no use: {e}");
            }
            if add.resume.is_none() && add.meta.is_known() {
                (add.resume, add.journal) = state.load(&hash, add.meta.hashes.len() as u32);
                add.boot = state.boot();
            }
        }
        let added = self.command(|s, now| s.add(now, add));
        if let (Err(_), Some(state), Some(hash)) = (&added, &mut self.state, hash) {
            state.folder().unlock(&hash);
        }
        added
    }

    /// A torrent is not among those that [`remembered`] finds any more. All else that is kept of it stays, so that it
    /// is not checked anew when it is added again.
    pub fn dismiss(&mut self, key: TorrentKey) {
        let hash = self.session.torrent_hash(key);
        if let (Some(state), Some(hash)) = (&mut self.state, hash) {
            state.dismiss(&hash);
        }
    }

    /// Stops a torrent until it is resumed.
    pub fn pause(&mut self, key: TorrentKey) -> Result<(), Error> {
        self.command(|s, now| s.pause(now, key))
    }

    /// Lets a paused or failed torrent go on.
    pub fn resume(&mut self, key: TorrentKey) -> Result<(), Error> {
        self.command(|s, now| s.resume(now, key))
    }

    /// Forgets a torrent, and deletes its data when asked to.
    pub fn remove(&mut self, key: TorrentKey, with_data: bool) -> Result<(), Error> {
        self.command(|s, now| s.remove(now, key, with_data))
    }

    /// Saves everything, tells the trackers, closes the peers. Keep turning until [`Loop::stopped`].
    pub fn shutdown(&mut self) {
        if let (Some(state), Some(bytes)) = (&mut self.state, self.session.save_dht()) {
            if state.folder().has_dht {
                state.store_dht(bytes);
            }
        }
        self.command(Session::shutdown);
        self.patience = self.patience.or(Some(self.now + DISK_PATIENCE));
        if let Some(portmap) = &mut self.network.portmap {
            portmap.leave(self.now);
        }
    }

    /// The shutdown is over: drop the loop.
    pub fn stopped(&self) -> bool {
        let waits = self.is_writing() && self.patience.is_none_or(|end| self.now < end);
        self.session.is_shut_down(self.now) && !waits && self.network.has_left()
    }

    /// Something is on its way to a disk that a shutdown waits for.
    fn is_writing(&self) -> bool {
        !self.late.is_empty() || self.state.as_ref().is_some_and(|s| !s.is_idle())
    }

    /// What happened next.
    pub fn poll_alert(&mut self) -> Option<Alert> {
        self.session.poll_alert()
    }

    /// Watches a source of the caller's own; [`Loop::foreign_ready`] tells when it has something.
    pub fn register(&mut self, source: &mut dyn Source) -> io::Result<Token> {
        let token = Token(FOREIGN_FIRST + self.foreign_count);
        source.register(self.poll.registry(), token, Interest::READABLE)?;
        self.foreign_count += 1;
        Ok(token)
    }

    /// The caller's next source that has something.
    pub fn foreign_ready(&mut self) -> Option<Token> {
        self.foreign.pop_front()
    }

    /// There are datagrams to receive.
    fn hears(&self) -> bool {
        self.udp.is_ready() || self.groups.as_ref().is_some_and(|g| g.heard.is_ready()) || self.network.is_ready()
    }

    /// How long the next turn may wait; `None` is for ever.
    pub fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || self.disk_more || self.hears() {
            return Some(Duration::ZERO);
        }
        let at = earlier(self.session.poll_timeout(), self.resolver.deadline());
        let at = earlier(at, self.patience.filter(|_| self.is_writing()));
        let at = earlier(at, self.network.timeout());
        let at = earlier(earlier(at, self.held.1), self.accept_again)?;
        Some(at - self.clock.now())
    }

    /// Waits for events, at most `timeout` (`None`: as long as nothing is due), and handles what
    /// there is.
    ///
    /// # Errors
    /// The poll itself has failed: somebody has closed its descriptor, or opened something else with its number. The
    /// loop is of no more use. What befalls other descriptors is told as that of a connection or a torrent. (With
    /// debug assertions the standard library ends a process that closes a descriptor of its own twice.)
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn> {
        let wait = match (timeout, self.timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // Round up, or a deadline within the last millisecond would spin.
        let wait = wait.map(|d| if d.is_zero() { d } else { d + Duration::from_micros(999) });
        match self.poll.poll(&mut self.events, wait) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(Turn::More),
            Err(e) => return Err(e),
        }
        self.read_clock();
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            self.on_event(event);
        }
        self.events = events;
        // Before anything is sent.
        self.network_turn();
        self.release_held();
        if self.accept_again.is_some_and(|at| at <= self.now) {
            self.accept_again = None;
            self.accept_all();
        }
        self.resolved();
        for _ in 0..DATAGRAMS {
            let Some((from, data)) = self.udp.recv() else { break };
            self.session.handle_datagram(self.now, from, data);
        }
        if let Some(groups) = &mut self.groups {
            for _ in 0..MULTICASTS {
                let Some((from, data)) = groups.heard.recv() else { break };
                self.session.handle_multicast(self.now, from, data);
            }
        }
        if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
            self.session.handle(self.now, Input::Tick);
        }
        self.carry_out();
        for _ in 0..self.ready.len() {
            let Some(conn) = self.ready.pop_front() else { break };
            self.serve(conn);
        }
        self.disk_more = self.disk.work(WORK);
        self.disk_done();
        self.no_longer_late();
        self.state_done();
        let more = !self.ready.is_empty()
            || self.disk_more
            || self.hears()
            || self.accept_again.is_some_and(|at| at <= self.now);
        self.turns.add(self.clock.now() - self.now);
        Ok(if more { Turn::More } else { Turn::Idle })
    }

    fn on_event(&mut self, event: &Event) {
        match event.token().0 {
            token if token >= FOREIGN_FIRST => self.foreign.push_back(event.token()),
            token if token >= PORTMAP_FIRST => {
                if let Some(portmap) = &mut self.network.portmap {
                    portmap.on_ready(self.now, token - PORTMAP_FIRST);
                }
            }
            WATCH => self.network.on_ready(self.now),
            // The disk is asked every turn.
            HELPER => {}
            token if token >= LSD_FIRST => {
                if let Some(groups) = &mut self.groups {
                    groups.heard.on_ready(token - LSD_FIRST);
                }
            }
            token if token >= UDP_FIRST => self.udp.on_ready(token - UDP_FIRST),
            // All sockets together have one share of a turn, and none while descriptors have run out.
            token if token >= LISTEN_FIRST => self.accept_again = self.accept_again.or(Some(self.now)),
            token if token >= DNS_FIRST => self.resolver.on_ready(self.now, event.token()),
            slot => {
                let Some(Some(link)) = self.links.get_mut(slot) else { return };
                link.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                link.ending |= event.is_read_closed();
                link.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
                let conn = link.conn;
                self.make_ready(conn);
            }
        }
    }

    fn make_ready(&mut self, conn: ConnKey) {
        let Some(link) = self.link(conn) else { return };
        if !std::mem::replace(&mut link.queued, true) {
            self.ready.push_back(conn);
        }
    }

    fn link(&mut self, conn: ConnKey) -> Option<&mut Link> {
        self.links.get_mut(conn.index())?.as_mut().filter(|l| l.conn == conn)
    }

    // ---------------------------------------------------------------- streams

    /// Moves bytes on one connection.
    fn serve(&mut self, conn: ConnKey) {
        let Some(link) = self.links.get_mut(conn.index()).and_then(Option::as_mut).filter(|l| l.conn == conn) else {
            return;
        };
        link.queued = false;
        if !link.connected {
            match link.finish_connect() {
                Ok(false) => return,
                Ok(true) => {
                    let local = link.local();
                    self.session.handle(self.now, Input::Connected { conn, local });
                    return self.carry_out();
                }
                Err(e) => return self.lost(conn, CloseReason::Io(e.to_string())),
            }
        }
        if link.readable {
            let outcome = pump::recv(&mut self.session, &mut self.disk, link, self.now, conn, &mut self.bufs);
            let again = outcome == Outcome::Blocked && std::mem::take(&mut link.ending);
            if outcome == Outcome::Blocked {
                link.readable = again;
            }
            if again {
                // The pump stops at a short read; what it has yet to read is the end.
                self.make_ready(conn);
            }
            if !self.after(conn, outcome) {
                return;
            }
        }
        let Some(link) = self.links.get_mut(conn.index()).and_then(Option::as_mut).filter(|l| l.conn == conn) else {
            return;
        };
        if link.writable {
            if let Err(e) = link.flush() {
                return self.lost(conn, CloseReason::Io(e.to_string()));
            }
        }
        if link.writable && self.session.has_output(conn) {
            let outcome = pump::send(&mut self.session, &mut self.disk, link, self.now, conn, &mut self.bufs);
            if outcome == Outcome::Blocked {
                link.writable = false;
            }
            self.after(conn, outcome);
        }
    }

    /// Puts a connection where its last pumping says. False when it is gone.
    fn after(&mut self, conn: ConnKey, outcome: Outcome) -> bool {
        self.carry_out();
        match outcome {
            Outcome::Blocked | Outcome::Empty => {}
            Outcome::More => self.make_ready(conn),
            Outcome::Until(at) => {
                self.held.0.push(conn);
                self.held.1 = earlier(self.held.1, Some(at.max(self.now + Duration::from_millis(1))));
            }
            Outcome::Ended(Some(why)) => self.lost(conn, why),
            Outcome::Ended(None) => {}
        }
        self.link(conn).is_some()
    }

    /// The stream is of no more use.
    fn lost(&mut self, conn: ConnKey, why: CloseReason) {
        self.drop_link(conn);
        self.session.handle(self.now, Input::Closed { conn, why });
        self.carry_out();
    }

    fn drop_link(&mut self, conn: ConnKey) {
        if self.link(conn).is_none() {
            return;
        }
        if let Some(mut link) = self.links[conn.index()].take() {
            let _ = self.poll.registry().deregister(&mut link.stream);
            // There is a descriptor again for whoever waits for one.
            self.accept_again = self.accept_again.map(|at| at.min(self.now));
        }
    }

    /// Gives back working memory that the next transfers take again: worth it when many peers have gone.
    pub fn trim(&mut self) {
        self.bufs.trim();
    }

    fn release_held(&mut self) {
        if self.held.1.is_some_and(|at| at <= self.now) {
            self.held.1 = None;
            let mut held = std::mem::take(&mut self.held.0);
            // What one may do now the others may not: each is the first in turn.
            let first = self.rounds % held.len().max(1);
            held.rotate_left(first);
            self.rounds = self.rounds.wrapping_add(1);
            held.into_iter().for_each(|conn| self.make_ready(conn));
        }
    }

    fn accept_all(&mut self) {
        for _ in 0..limits::ACCEPTS {
            match self.listeners.accept() {
                Ok((stream, addr)) => {
                    let Some(conn) = self.session.accept(self.now, addr) else { continue };
                    if let Err(e) = self.attach(Link::accepted(conn, stream)) {
                        self.lost(conn, CloseReason::Io(e.to_string()));
                    }
                    // Whoever went for it holds a descriptor until then.
                    self.carry_out();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if exhausted(&e) => {
                    if self.session.shed(self.now) {
                        self.carry_out();
                        continue;
                    }
                    log::warn!("cannot accept connections for now: {e}");
                    self.accept_again = Some(self.now + ACCEPT_PAUSE);
                    return;
                }
                // The connection ended before it was accepted.
                Err(e) => log::debug!("accept: {e}"),
            }
        }
        self.accept_again = Some(self.now);
    }

    fn attach(&mut self, mut link: Link) -> io::Result<()> {
        let slot = link.conn.index();
        self.poll.registry().register(&mut link.stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
        if self.links.len() <= slot {
            self.links.resize_with(slot + 1, || None);
        }
        self.links[slot] = Some(link);
        Ok(())
    }

    fn connect(&mut self, conn: ConnKey, addr: std::net::SocketAddr, tls: Option<&str>) {
        let tls = tls.map(|host| self.tls.connect(host)).transpose();
        let link = tls.and_then(|tls| Ok(Link::dial(conn, addr, &self.bound)?.with_tls(tls)));
        let done = link.and_then(|link| self.attach(link));
        if let Err(e) = done {
            let text = e.to_string();
            let why = match exhausted(&e) {
                true => CloseReason::Exhausted(text),
                false if self.network.is_gone(&self.bound, addr.is_ipv6()) => CloseReason::NoNetwork(text),
                false => CloseReason::Io(text),
            };
            self.session.handle(self.now, Input::Closed { conn, why });
        }
    }

    fn resolved(&mut self) {
        while let Some((id, result)) = self.resolver.poll(self.now) {
            let result = result.map_err(|e| e.to_string());
            self.session.handle(self.now, Input::Resolved { id, result });
        }
    }

    // ---------------------------------------------------------------- actions

    /// Does what the session asks for, and what follows from that.
    fn carry_out(&mut self) {
        loop {
            self.carry_out_actions();
            let mut data = Vec::new();
            let Some(to) = self.session.poll_datagram(&mut data) else { break };
            if let Err(e) = self.udp.send(to, &data) {
                self.session.handle(self.now, Input::Unsent { to, error: e.to_string() });
            }
        }
    }

    fn carry_out_actions(&mut self) {
        while let Some(action) = self.session.poll_action() {
            if let Some(action) = self.late.put(action) {
                self.carry_out_one(action);
            }
        }
    }

    fn carry_out_one(&mut self, action: Action) {
        match action {
            Action::Connect { conn, addr, tls } => self.connect(conn, addr, tls.as_deref()),
            Action::Close { conn, .. } => self.drop_link(conn),
            Action::Wake { conn } => self.make_ready(conn),
            Action::Resolve { id, host } => {
                self.resolver.lookup(self.now, id, &host);
                self.resolved();
            }
            Action::Open { torrent, layout, dir, wanted } => self.open_files(torrent, layout, dir, &wanted),
            Action::Wanted { torrent, wanted } => {
                if self.open.contains(&torrent) {
                    if let Err(e) = self.disk.prepare(torrent, &|f| wanted[f.idx()]) {
                        pump::disk_failed(&mut self.session, self.now, torrent, &e);
                    }
                }
            }
            Action::Hash { torrent, piece, expected, at_rest, blocks } => {
                if self.open.contains(&torrent) {
                    self.disk_more = true;
                    match at_rest {
                        true => self.disk.recheck(torrent, piece, expected),
                        false => self.disk.hash(torrent, piece, expected, blocks),
                    }
                }
            }
            Action::Multicast { messages } => {
                if let Some(groups) = &mut self.groups {
                    groups.send(&messages);
                }
            }
            Action::Prefetch { torrent, block } => self.disk.prefetch(torrent, block),
            Action::Sync { torrent, ticket, pieces } => {
                for piece in &pieces {
                    self.disk.cover(torrent, *piece);
                }
                if let Some(state) = &mut self.state {
                    state.sync_asked(torrent, ticket, pieces);
                }
                self.disk.sync(torrent, ticket);
                self.disk_more = true;
            }
            Action::Note { torrent, info_hash, note } => {
                if let Some(state) = &mut self.state {
                    state.note(&self.session, &mut self.disk, torrent, &info_hash, note);
                }
            }
            Action::Save { torrent, info_hash } => self.save(torrent, &info_hash),
            Action::Remember { torrent, info_hash } => match (&mut self.state, self.session.recollection(torrent)) {
                (Some(state), Some(bytes)) => state.remember(torrent, &info_hash, bytes),
                _ => self.session.handle(self.now, Input::Remembered { torrent, result: Ok(()) }),
            },
            Action::SaveMetadata { torrent, info_hash } => {
                if let (Some(state), Some(meta)) = (&mut self.state, self.session.metainfo(torrent)) {
                    state.store_metadata(&info_hash, meta.info.clone());
                }
            }
            Action::CloseFiles { torrent } => self.close_files(torrent),
            Action::Remove { torrent, info_hash, layout, dir, with_data } => {
                // First, so that it does not come back without its data.
                if let Some(state) = &mut self.state {
                    state.forget(torrent, &info_hash);
                    state.folder().unlock(&info_hash);
                }
                if with_data {
                    self.delete_files(torrent, layout, dir);
                }
                // Nobody wants its record any more.
                self.late.take(torrent);
                self.close_files(torrent);
            }
        }
    }

    fn open_files(
        &mut self,
        torrent: TorrentKey,
        layout: std::sync::Arc<crate::torrent::layout::Layout>,
        dir: PathBuf,
        wanted: &[bool],
    ) {
        let opened = self.disk.open(torrent, std::sync::Arc::clone(&layout), OpenSpec { dir });
        if let Some(home) = self.session.home(torrent) {
            self.disk.set_home(torrent, home);
        }
        if opened.is_ok() {
            self.open.insert(torrent);
        }
        let ready = opened.and_then(|()| self.disk.prepare(torrent, &|f| wanted[f.idx()]));
        let stamps = || stamps(&mut self.disk, torrent, layout.files().len());
        pump::opened(&mut self.session, self.now, torrent, ready, stamps);
    }

    fn delete_files(
        &mut self,
        torrent: TorrentKey,
        layout: std::sync::Arc<crate::torrent::layout::Layout>,
        dir: PathBuf,
    ) {
        if !self.open.contains(&torrent) && self.disk.open(torrent, layout, OpenSpec { dir }).is_err() {
            return;
        }
        self.open.remove(&torrent);
        if let Err(e) = self.disk.remove_files(torrent) {
            log::error!("{e}");
        }
    }

    fn save(&mut self, torrent: TorrentKey, info_hash: &crate::id::InfoHash) {
        if !self.open.contains(&torrent) {
            return;
        }
        if let Err(e) = self.disk.flush(torrent) {
            // Which blocks it dropped is not told; the record must not name any of them.
            self.session.handle(self.now, Input::PieceLost { torrent, piece: None });
            pump::disk_failed(&mut self.session, self.now, torrent, &e);
        }
        let record = self.record(torrent);
        if self.disk.flushing(torrent) {
            self.late.insert(torrent, *info_hash, record);
        } else {
            self.store(torrent, info_hash, record);
        }
    }

    fn record(&mut self, torrent: TorrentKey) -> Option<Vec<u8>> {
        let files = self.session.metainfo(torrent).map_or(0, |m| m.files.len());
        let stamps = stamps(&mut self.disk, torrent, files);
        self.session.set_home(torrent, self.disk.home(torrent));
        self.session.record(self.now, torrent, stamps)
    }

    fn store(&mut self, torrent: TorrentKey, info_hash: &crate::id::InfoHash, record: Option<Vec<u8>>) {
        if let (Some(state), Some(record)) = (&mut self.state, record) {
            state.store(torrent, info_hash, record);
        }
    }

    /// Goes on with the torrents whose files have what was on its way to them.
    fn no_longer_late(&mut self) {
        let over = |t: &TorrentKey| !self.disk.flushing(*t);
        let torrents: Vec<_> = self.late.torrents().filter(over).collect();
        for torrent in torrents {
            let Some(mut late) = self.late.take(torrent) else { continue };
            if !self.session.is_trading(torrent) {
                late.record = self.record(torrent);
            }
            self.store(torrent, &late.info_hash, late.record);
            for action in late.actions {
                if let Some(action) = self.late.put(action) {
                    self.carry_out_one(action);
                }
            }
            self.carry_out();
        }
    }

    fn close_files(&mut self, torrent: TorrentKey) {
        if !self.open.remove(&torrent) {
            return;
        }
        if let Err(e) = self.disk.close(torrent) {
            log::error!("{e}");
        }
        if let Some(state) = &mut self.state {
            state.closed(torrent);
        }
    }

    /// Takes the journals further, and tells the session what has become durable.
    fn state_done(&mut self) {
        let Some(state) = &mut self.state else { return };
        self.disk_more |= state.folder().work();
        let volume = state.folder().volume();
        state.folder().set_slow(self.disk.is_slow(volume));
        while let Some(answer) = self.state.as_mut().and_then(|s| s.turn(&self.session, &mut self.disk)) {
            match answer {
                Answer::Synced(torrent, ticket) => {
                    pump::synced(&mut self.session, self.now, torrent, ticket, Ok(()));
                }
                Answer::Remembered(torrent, result) => {
                    self.session.handle(self.now, Input::Remembered { torrent, result });
                }
            }
            self.carry_out();
        }
    }

    /// Tells the session what was hashed, and what failed.
    fn disk_done(&mut self) {
        while let Some(done) = self.disk.poll_done() {
            match done {
                Done::Hashed { torrent, piece, ok, blocks } => {
                    self.session.handle(self.now, Input::Hashed { torrent, piece, ok, blocks });
                }
                Done::Failed { torrent, piece, error } => {
                    pump::failed(&mut self.session, self.now, torrent, piece, &error);
                }
                Done::Synced { torrent, ticket, result } => match (&mut self.state, result) {
                    (Some(state), Ok(())) => state.data_synced(&self.session, &mut self.disk, torrent, ticket),
                    (_, result) => pump::synced(&mut self.session, self.now, torrent, ticket, result),
                },
            }
            self.carry_out();
        }
    }
}

fn stamps(disk: &mut Disk, torrent: TorrentKey, files: usize) -> Vec<Option<FileStamp>> {
    let stamp = |f: usize| disk.file_stat(torrent, FileIndex::new(f as u32)).map(FileStamp::from);
    (0..files).map(stamp).collect()
}

/// The torrents that a [`Loop`] with this state folder was given and that were not removed, to be added again. What
/// cannot be read is set aside as `*.bad`, with a line in the log.
///
/// # Errors
/// The folder cannot be read. One that is not there is empty.
pub fn remembered(state_dir: &Path) -> Result<Vec<Add>, Error> {
    if !state_dir.exists() {
        return Ok(Vec::new());
    }
    let folder = StateDir::open(state_dir.to_owned(), Hand::alone())?;
    Keeper::new(folder, 0).recall().map_err(|source| Error::File { path: state_dir.to_owned(), source })
}

/// Forgets a torrent that no loop has: it is not among the [`remembered`] ones any more, and nothing is known of its
/// data, which stays.
///
/// # Errors
/// The folder cannot be used, or another process has the torrent.
pub fn forget(state_dir: &Path, info_hash: &InfoHash) -> Result<(), Error> {
    let mut keeper = Keeper::new(StateDir::open(state_dir.to_owned(), Hand::alone())?, 0);
    if !keeper.folder().lock(info_hash) {
        return Err(Error::Busy(*info_hash));
    }
    keeper.forget(TorrentKey::new(u32::MAX, 0), info_hash);
    while keeper.folder().work() {}
    Ok(())
}

impl AsRawFd for Loop {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}
