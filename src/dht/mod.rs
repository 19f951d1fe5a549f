//! A node of the distributed hash table: finds peers without trackers (BEP 5), over IPv4 and IPv6 (BEP 32).
//!
//! ```text
//!   seek(torrent) ──▶ due ──▶ Search ── get_peers ──▶ closer and closer nodes ──▶ Event::Peers
//!                                 └──── the closest have answered: announce_peer to them ──▶ due again
//!   datagram ──▶ query ──▶ answer (from the tables and the store), perhaps a ping to get to know the asker
//!           └──▶ response to a query of ours ──▶ its table, its search
//! ```
//!
//! Sans-IO: [`Dht::handle`] takes datagrams, [`Dht::poll_datagram`] has those to send, [`Dht::poll_event`] says what
//! was found and which names to look up, [`Dht::tick`] wants to be called at [`Dht::poll_timeout`].
//!
//! Both families share the budget, the store and the transactions; each has its own table and id.
//!
//! What it does about a hostile world (the modules' heads say more):
//! - a response is one only if it comes from where the query went, with its 32-bit transaction id, in time;
//! - into the table gets only who has answered us, one node of a /24 (/64) in a bucket and in a search;
//! - ids are tied to addresses (BEP 42): ours to the address that others see, theirs preferred if they are;
//! - whoever has not answered us yet gets at most 1.5 times the bytes it sent: addresses can be forged;
//! - no more than [`limits::DHT_UP`] bytes a second leave, whatever comes in;
//! - addresses that no stranger can know (loopback, local networks) are taken from there only.
//!
//! Not here: private torrents (the caller never passes one), dialling the peers, sockets, names, files.
//!
//! [BEP 5](https://www.bittorrent.org/beps/bep_0005.html), [BEP 32](https://www.bittorrent.org/beps/bep_0032.html),
//! [BEP 42](https://www.bittorrent.org/beps/bep_0042.html), [BEP 43](https://www.bittorrent.org/beps/bep_0043.html)

mod id;
pub mod krpc;
mod limit;
mod maintain;
mod search;
mod serve;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use sha1::{Digest, Sha1};

use crate::config::{DhtConfig, limits};
use crate::id::InfoHash;
use crate::rng::{self, Rng};
use crate::time::{Duration, Instant, earlier};
use crate::torrent::swarm::normal;
use crate::tracker::external::External;
use crate::tracker::http::Reach;
pub use id::NodeId;
use krpc::{Body, Contact, Method, Query, Response, Want};
use limit::{Budget, Guard};
use search::{Goal, Search};
use store::{Store, Tokens};
use table::Table;

/// A query without an answer for so long has failed.
const TIMEOUT: Duration = Duration::from_secs(6);
/// A torrent is announced, and its peers are asked for, this often.
const ANNOUNCE: Duration = Duration::from_secs(15 * 60);
/// The first and the longest wait of a torrent that has too few peers.
const HUNGRY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5 * 60));
/// Pings to nodes that have asked us, and to peers' nodes, under way at once.
const PINGS: usize = 16;
/// Hosts remembered because they have answered.
const RECENT: usize = 256;

/// What the node has to say to its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Peers of a torrent, as one node names them.
    Peers {
        /// The torrent.
        info_hash: InfoHash,
        /// The node's own address.
        source: IpAddr,
        /// Their addresses.
        peers: Vec<SocketAddr>,
    },
    /// A search for peers is over in one family.
    Searched {
        /// The torrent.
        info_hash: InfoHash,
        /// Over IPv6.
        v6: bool,
        /// Peers named, the same one perhaps several times.
        peers: usize,
        /// Nodes that answered.
        nodes: usize,
    },
    /// Look up this name, and call [`Dht::on_resolved`].
    Resolve {
        /// To be passed back.
        id: u32,
        /// The name.
        host: String,
    },
    /// A node says what our address is.
    Address {
        /// Who says so.
        source: IpAddr,
        /// Our address.
        ip: IpAddr,
    },
}

/// One family's part.
#[derive(Debug)]
struct Family {
    id: NodeId,
    table: Table,
    /// It has found nodes in this run.
    ready: bool,
    /// Nothing gets there from here: not tried before then.
    down_until: Instant,
}

/// Why a query was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Search(u32),
    Ping,
    Announce,
}

#[derive(Debug)]
struct Pending {
    to: SocketAddr,
    purpose: Purpose,
}

/// A torrent whose peers are wanted.
#[derive(Debug)]
struct Seek {
    due: Instant,
    /// It has too few peers.
    hungry: bool,
    /// Searches since it became so.
    tries: u32,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Nodes in the tables, IPv4 and IPv6.
    pub nodes: (usize, usize),
    /// Torrents and peers that others have announced to us.
    pub stored: (usize, usize),
    /// Datagrams sent and received.
    pub packets: (u64, u64),
    /// Bytes sent and received.
    pub bytes: (u64, u64),
}

/// The node. See the module's head.
#[derive(Debug)]
pub struct Dht {
    config: DhtConfig,
    rng: Rng,
    /// Transaction ids are drawn from this.
    secret: [u8; 20],
    drawn: u64,
    /// Where our peers are dialled; 0 is nowhere, and nothing is announced.
    port: u16,
    families: [Family; 2],
    external: External,
    pending: BTreeMap<u32, Pending>,
    /// When they fail, in order; entries that have been answered are left in it until they come first.
    expiry: VecDeque<(Instant, u32)>,
    searches: BTreeMap<u32, Search>,
    next_search: u32,
    seeks: BTreeMap<InfoHash, Seek>,
    due: BTreeSet<(Instant, InfoHash)>,
    /// Announces to be sent, with the search's tokens.
    announces: VecDeque<(SocketAddr, InfoHash, Vec<u8>)>,
    store: Store,
    tokens: Tokens,
    budget: Budget,
    /// Something waits for the budget until then.
    starved: Option<Instant>,
    guard: Guard,
    /// Hosts that have answered lately.
    recent: VecDeque<IpAddr>,
    boot: maintain::Boot,
    out: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Event>,
    counts: Counts,
}

impl Dht {
    /// A node that knows nobody. `seed` decides its id, and its secrets, so it must be secret too. `saved` is
    /// what [`Dht::save`] gave an earlier run.
    pub fn new(now: Instant, config: DhtConfig, seed: &[u8; 32], saved: Option<&[u8]>) -> Self {
        let draw = |what: &[u8]| -> [u8; 20] { Sha1::new().chain_update(seed).chain_update(what).finalize().into() };
        let own = NodeId::new(draw(b"node id"));
        let mut secret = [0; 32];
        secret[..20].copy_from_slice(&draw(b"token"));
        let word = draw(b"dice");
        let word = u64::from_be_bytes(*word.first_chunk().expect("20 bytes"));
        let family = |id| Family { id, table: Table::new(id), ready: false, down_until: Instant::ZERO };
        let mut dht = Self {
            config,
            rng: rng::seeded(word),
            secret: draw(b"transactions"),
            drawn: 0,
            port: 0,
            families: [family(own), family(own)],
            external: External::default(),
            pending: BTreeMap::new(),
            expiry: VecDeque::new(),
            searches: BTreeMap::new(),
            next_search: 0,
            seeks: BTreeMap::new(),
            due: BTreeSet::new(),
            announces: VecDeque::new(),
            store: Store::default(),
            tokens: Tokens::new(secret),
            budget: Budget::new(now),
            starved: None,
            guard: Guard::default(),
            recent: VecDeque::new(),
            boot: maintain::Boot::new(now),
            out: VecDeque::new(),
            events: VecDeque::new(),
            counts: Counts::default(),
        };
        dht.restore(now, saved.unwrap_or_default());
        dht
    }

    // ---------------------------------------------------------------- commands

    /// Where our peers are dialled, to be announced.
    pub fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// Our address is known from elsewhere, for certain.
    pub fn set_external(&mut self, now: Instant, ip: IpAddr) {
        self.fit_id(now, ip);
    }

    /// Finds peers of a torrent, and announces it, from now on and again and again. Never for a private one.
    /// `hungry`: it has too few peers, so more often.
    pub fn seek(&mut self, now: Instant, info_hash: InfoHash, hungry: bool) {
        let soon = now + HUNGRY.0;
        let seek = match self.seeks.entry(info_hash) {
            std::collections::btree_map::Entry::Vacant(e) => {
                self.due.insert((now, info_hash));
                e.insert(Seek { due: now, hungry, tries: 0 });
                return self.work(now);
            }
            std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
        };
        if hungry && !seek.hungry && seek.due > soon {
            self.due.remove(&(seek.due, info_hash));
            seek.due = soon;
            self.due.insert((seek.due, info_hash));
        }
        if hungry != seek.hungry {
            (seek.hungry, seek.tries) = (hungry, 0);
        }
    }

    /// Forgets a torrent.
    pub fn forget(&mut self, info_hash: &InfoHash) {
        if let Some(seek) = self.seeks.remove(info_hash) {
            self.due.remove(&(seek.due, *info_hash));
        }
        let target = NodeId::from(*info_hash);
        self.searches.retain(|_, s| s.goal != Goal::Peers || s.target != target);
        self.announces.retain(|(_, hash, _)| hash != info_hash);
    }

    /// A peer says that its node is there (BEP 5's PORT message), or a torrent names it.
    pub fn ping(&mut self, now: Instant, addr: SocketAddr) {
        let addr = normal(addr);
        if addr.port() != 0 && Reach::of(addr.ip()) != Reach::Never && !self.family(addr.is_ipv6()).table.knows(addr) {
            self.send_ping(now, addr);
        }
    }

    /// What has been found about a name of [`Event::Resolve`].
    pub fn on_resolved(&mut self, now: Instant, id: u32, ips: &[IpAddr]) {
        let Some((_, port)) = self.config.bootstrap.get(id as usize) else { return };
        let addrs: Vec<_> = ips.iter().map(|ip| normal(SocketAddr::new(*ip, *port))).collect();
        self.bootstrap_from(now, &addrs);
        self.work(now);
    }

    /// A datagram could not be sent: that family may not be there at all.
    pub fn on_unsent(&mut self, now: Instant, to: SocketAddr) {
        let lost: Vec<_> = self.pending.iter().filter(|(_, p)| p.to == to).map(|(tid, _)| *tid).collect();
        if lost.is_empty() {
            return;
        }
        let family = self.family_mut(to.is_ipv6());
        if family.table.good(now) == 0 {
            family.down_until = now + maintain::DOWN;
        }
        for tid in lost {
            if let Some(Pending { purpose: Purpose::Search(search), .. }) = self.pending.remove(&tid) {
                if let Some(s) = self.searches.get_mut(&search) {
                    s.failed(to);
                }
            }
        }
        self.work(now);
    }

    // ---------------------------------------------------------------- views

    /// What is counted.
    pub fn counts(&self) -> Counts {
        let nodes = (self.families[0].table.len(), self.families[1].table.len());
        Counts { nodes, stored: self.store.len(), ..self.counts }
    }

    /// Our id in one family.
    pub fn id(&self, v6: bool) -> NodeId {
        self.family(v6).id
    }

    fn family(&self, v6: bool) -> &Family {
        &self.families[usize::from(v6)]
    }

    fn family_mut(&mut self, v6: bool) -> &mut Family {
        &mut self.families[usize::from(v6)]
    }

    // ---------------------------------------------------------------- driving

    /// The next datagram to send.
    pub fn poll_datagram(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.out.pop_front()
    }

    /// What it has to say next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Dht::tick`] at the latest.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let mut at = earlier(self.starved, self.boot.deadline());
        at = earlier(at, self.expiry.front().map(|(at, _)| *at));
        for s in self.searches.values() {
            at = earlier(at, s.deadline(now));
        }
        if self.may_search() {
            at = earlier(at, self.due.first().map(|(at, _)| *at));
        }
        at
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        while let Some((at, tid)) = self.expiry.front().copied() {
            match self.pending.contains_key(&tid) {
                true if at > now => break,
                true => {
                    let p = self.pending.remove(&tid).expect("it is there");
                    self.family_mut(p.to.is_ipv6()).table.failed(p.to);
                    self.query_failed(p);
                }
                false => {}
            }
            self.expiry.pop_front();
        }
        self.maintain(now);
        self.work(now);
    }

    fn query_failed(&mut self, p: Pending) {
        if let Purpose::Search(search) = p.purpose {
            if let Some(s) = self.searches.get_mut(&search) {
                s.failed(p.to);
            }
        }
    }

    /// A datagram came that begins as a dictionary does.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let from = normal(from);
        self.counts.packets.1 += 1;
        self.counts.bytes.1 += data.len() as u64;
        let Some(message) = krpc::parse(data, from.is_ipv6()) else { return };
        match message.body {
            Body::Query(query) => self.on_query(now, from, data.len(), message.tid, &query),
            Body::Response(response) => {
                if let Some(p) = self.take_pending(from, message.tid) {
                    self.on_response(now, from, p, &response, message.ip);
                }
            }
            Body::Error(code, text) => {
                if let Some(p) = self.take_pending(from, message.tid) {
                    log::debug!("dht: {from}: error {code}: {}", text[..text.len().min(100)].escape_ascii());
                    self.query_failed(p);
                }
            }
        }
        self.work(now);
    }

    /// The query of ours that this answers.
    fn take_pending(&mut self, from: SocketAddr, tid: &[u8]) -> Option<Pending> {
        let tid = u32::from_be_bytes(tid.try_into().ok()?);
        if self.pending.get(&tid)?.to != from {
            return None;
        }
        let p = self.pending.remove(&tid);
        while self.expiry.front().is_some_and(|(_, tid)| !self.pending.contains_key(tid)) {
            self.expiry.pop_front();
        }
        p
    }

    fn on_response(&mut self, now: Instant, from: SocketAddr, p: Pending, r: &Response<'_>, ip: Option<IpAddr>) {
        if !self.recent.contains(&from.ip()) {
            if self.recent.len() >= RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(from.ip());
        }
        if let Some(ip) = ip {
            self.external.vote(from.ip(), ip);
            self.events.push_back(Event::Address { source: from.ip(), ip });
            if let Some(ip) = self.external.sure(from.is_ipv6()) {
                self.fit_id(now, ip);
            }
        }
        let v6 = from.is_ipv6();
        let contact = Contact { id: r.id, addr: from };
        // Well-known nodes have enough to do without being in everybody's table.
        if !self.boot.is_public(from) {
            self.family_mut(v6).table.answered(now, contact);
        }
        let Purpose::Search(key) = p.purpose else { return };
        let own = [self.families[0].id, self.families[1].id];
        let Some(search) = self.searches.get_mut(&key) else { return };
        search.answered(contact, r.token);
        let named = r.nodes.iter().filter(|c| may_name(from.ip(), c.addr) && !own.contains(&c.id));
        let (here, there): (Vec<&Contact>, Vec<&Contact>) = named.partition(|c| c.addr.is_ipv6() == v6);
        here.into_iter().for_each(|c| search.add(*c));
        if search.goal == Goal::Peers {
            let info_hash = InfoHash::new(*search.target.as_bytes());
            let peers: Vec<_> = r.values.iter().copied().filter(|a| may_name(from.ip(), *a)).collect();
            search.found += peers.len();
            if !peers.is_empty() {
                self.events.push_back(Event::Peers { info_hash, source: from.ip(), peers });
            }
        }
        if !there.is_empty() && self.family(!v6).table.len() == 0 {
            // The other family's first nodes (BEP 32).
            let addrs: Vec<_> = there.into_iter().map(|c| c.addr).collect();
            self.search_for_ourselves(now, &[], &addrs);
        }
    }

    // ---------------------------------------------------------------- sending

    fn send(&mut self, to: SocketAddr, data: Vec<u8>) {
        self.counts.packets.0 += 1;
        self.counts.bytes.0 += data.len() as u64;
        self.out.push_back((to, data));
    }

    /// A transaction id that cannot be guessed.
    fn draw(&mut self) -> u32 {
        loop {
            self.drawn += 1;
            let digest = Sha1::new().chain_update(self.secret).chain_update(self.drawn.to_be_bytes()).finalize();
            let tid = u32::from_be_bytes(*digest.first_chunk().expect("20 bytes"));
            if !self.pending.contains_key(&tid) {
                return tid;
            }
        }
    }

    /// Sends a query, if the budget allows it with `rest` bytes to spare.
    fn query(&mut self, now: Instant, to: SocketAddr, method: Method<'_>, purpose: Purpose, rest: u64) -> bool {
        if self.pending.len() >= limits::DHT_PENDING {
            return false;
        }
        let v6 = to.is_ipv6();
        // While one table is empty the nodes of the other family may help out (BEP 32).
        let lost = |f: &Family| f.table.len() == 0 && now >= f.down_until;
        let asks = matches!(method, Method::FindNode { .. } | Method::GetPeers { .. });
        let both = asks && lost(self.family(!v6));
        let want = both.then_some(Want { n4: true, n6: true });
        let query = Query { id: self.family(v6).id, method, want, read_only: self.config.read_only };
        let tid = self.draw();
        let data = krpc::encode_query(&tid.to_be_bytes(), &query);
        if !self.budget.take(now, data.len(), rest) {
            let at = self.budget.ready_at(data.len() + rest as usize);
            self.starved = earlier(self.starved, Some(at));
            return false;
        }
        self.pending.insert(tid, Pending { to, purpose });
        self.expiry.push_back((now + TIMEOUT, tid));
        self.send(to, data);
        true
    }

    /// Pings one that may be a node; not if there is more important work.
    fn send_ping(&mut self, now: Instant, to: SocketAddr) {
        let pings = self.pending.values().filter(|p| p.purpose == Purpose::Ping).count();
        if pings < PINGS && !self.pending.values().any(|p| p.to == to) {
            let starved = self.starved;
            self.query(now, to, Method::Ping, Purpose::Ping, 500);
            // It is not waited for.
            self.starved = starved;
        }
    }

    // ---------------------------------------------------------------- searching

    fn may_search(&self) -> bool {
        // Each torrent takes two, one a family.
        self.searches.len() + 2 <= limits::DHT_SEARCHES && self.families.iter().any(|f| f.table.len() > 0)
    }

    /// Begins, continues and ends searches, as far as the budget goes.
    fn work(&mut self, now: Instant) {
        self.starved = None;
        while self.may_search() {
            let Some(&(at, info_hash)) = self.due.first().filter(|(at, _)| *at <= now) else { break };
            self.due.remove(&(at, info_hash));
            let Some(seek) = self.seeks.get_mut(&info_hash) else { continue };
            let wait = HUNGRY.0 * (1 << seek.tries.min(5));
            seek.tries += 1;
            seek.due = now + if seek.hungry { wait.min(HUNGRY.1) } else { ANNOUNCE };
            self.due.insert((seek.due, info_hash));
            for v6 in [false, true] {
                self.begin(now, v6, NodeId::from(info_hash), Goal::Peers);
            }
        }
        for key in self.searches.keys().copied().collect::<Vec<_>>() {
            self.advance(now, key);
        }
        while let Some((to, info_hash, token)) = self.announces.pop_front() {
            let method = Method::AnnouncePeer { info_hash, port: Some(self.port), token: &token };
            if !self.query(now, to, method, Purpose::Announce, 0) {
                self.announces.push_front((to, info_hash, token));
                break;
            }
        }
    }

    /// Begins a search from what the table knows. Nothing happens while that is nothing.
    fn begin(&mut self, now: Instant, v6: bool, target: NodeId, goal: Goal) {
        if self.searches.values().any(|s| s.v6 == v6 && s.target == target && s.goal == goal) {
            return;
        }
        let from = self.family(v6).table.closest(now, &target, 2 * table::K);
        if from.is_empty() {
            return;
        }
        let mut search = Search::new(now, v6, target, goal);
        from.into_iter().for_each(|c| search.add(c));
        self.add_search(search);
    }

    fn add_search(&mut self, search: Search) {
        self.next_search = self.next_search.wrapping_add(1);
        self.searches.insert(self.next_search, search);
    }

    fn advance(&mut self, now: Instant, key: u32) {
        while let Some((contact, target, goal)) =
            self.searches.get(&key).and_then(|s| s.next(now).map(|c| (c, s.target, s.goal)))
        {
            let method = match goal {
                Goal::Nodes => Method::FindNode { target },
                Goal::Peers => Method::GetPeers { info_hash: InfoHash::new(*target.as_bytes()) },
            };
            if !self.query(now, contact.addr, method, Purpose::Search(key), 0) {
                break;
            }
            if let Some(s) = self.searches.get_mut(&key) {
                s.asked(now, contact);
            }
        }
        if self.searches.get(&key).is_some_and(|s| s.is_done(now)) {
            let search = self.searches.remove(&key).expect("it is there");
            self.finish(now, &search);
        }
    }

    fn finish(&mut self, now: Instant, search: &Search) {
        log::debug!(
            "dht: search for {} over {}: {} nodes answered, {} peers",
            search.target,
            if search.v6 { "IPv6" } else { "IPv4" },
            search.answers(),
            search.found
        );
        if search.goal == Goal::Nodes {
            // A family that has just been found is asked for everything at once.
            let family = self.family_mut(search.v6);
            if family.table.len() > 0 && !std::mem::replace(&mut family.ready, true) {
                for (hash, seek) in &mut self.seeks {
                    self.due.remove(&(seek.due, *hash));
                    seek.due = now;
                    self.due.insert((now, *hash));
                }
            }
            return;
        }
        let info_hash = InfoHash::new(*search.target.as_bytes());
        let (peers, nodes) = (search.found, search.answers());
        self.events.push_back(Event::Searched { info_hash, v6: search.v6, peers, nodes });
        if self.port != 0 && self.seeks.contains_key(&info_hash) {
            self.announces.extend(search.closest().into_iter().map(|(to, token)| (to, info_hash, token)));
        }
    }

    /// What must hold between any two calls; panics when it does not.
    pub fn invariants(&self) {
        self.families.iter().for_each(|f| f.table.invariants());
        assert!(self.pending.len() <= limits::DHT_PENDING);
        assert!(self.searches.len() <= limits::DHT_SEARCHES + 4);
        let due: Vec<_> = self.seeks.iter().map(|(h, s)| (s.due, *h)).collect();
        assert!(due.len() == self.due.len() && due.iter().all(|d| self.due.contains(d)), "{:?}", self.due);
    }
}

/// Whether a node there may name this address: what no stranger can know is taken from nearby only.
fn may_name(source: IpAddr, addr: SocketAddr) -> bool {
    let reach = Reach::of(addr.ip());
    addr.port() != 0
        && match (reach, Reach::of(source)) {
            (Reach::Never, _) => false,
            (Reach::Public, _) => true,
            (Reach::Private, from) => from != Reach::Public,
            (Reach::Loopback, from) => from == Reach::Loopback,
        }
}
