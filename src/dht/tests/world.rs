//! A thousand nodes on virtual time, a hundred of them liars: they name nodes that are not there, peers
//! that are none, or claim ids next to whatever is looked for. Five of a hundred datagrams are lost, the others
//! take 10 to 200 ms. Every node has a /24 of its own and an id that fits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;

use super::super::krpc::{self, Body, Contact, Method, Reply};
use super::super::{Dht, Event, NodeId};
use crate::config::{DhtConfig, limits};
use crate::id::InfoHash;
use crate::rng::{self, Rng};
use crate::time::{Duration, Instant};

const NODES: usize = 1000;
/// Every so manieth lies.
const LIARS: usize = 10;

/// A datagram on its way: when it arrives, its number, from, to, what.
type Flying = (Instant, u64, SocketAddr, SocketAddr, Vec<u8>);

struct World {
    now: Instant,
    rng: Rng,
    ids: Vec<NodeId>,
    nodes: Vec<Option<Dht>>,
    /// Nodes come into being when they are first needed, knowing whom they would know.
    lazy: bool,
    by_addr: BTreeMap<SocketAddr, usize>,
    wire: BinaryHeap<Reverse<Flying>>,
    sent: u64,
    timers: BTreeSet<(Instant, usize)>,
    armed: Vec<Option<Instant>>,
    events: Vec<(usize, Event)>,
    /// Bytes that each node sent in the present second, and the most in any.
    second: Vec<(u64, u64)>,
    most: u64,
    /// Datagrams to and from one node, and its turns.
    watched: usize,
    packets: u64,
    turns: u64,
}

fn addr(i: usize) -> SocketAddr {
    SocketAddr::from(([30 + (i / 200) as u8, (i % 200) as u8, 5, 7], 6881))
}

fn random_id(rng: &mut Rng) -> NodeId {
    NodeId::new(std::array::from_fn(|_| rng.u8(..)))
}

fn lies(i: usize) -> bool {
    i % LIARS == LIARS - 1
}

impl World {
    fn new(seed: u64, nodes: usize, lazy: bool) -> Self {
        let mut rng = rng::seeded(seed);
        Self {
            now: Instant::from_secs(1),
            ids: (0..nodes).map(|i| random_id(&mut rng).for_ip(addr(i).ip())).collect(),
            rng,
            nodes: (0..nodes).map(|_| None).collect(),
            lazy,
            by_addr: (0..nodes).map(|i| (addr(i), i)).collect(),
            wire: BinaryHeap::new(),
            sent: 0,
            timers: BTreeSet::new(),
            armed: vec![None; nodes],
            events: Vec::new(),
            second: vec![(0, 0); nodes],
            most: 0,
            watched: usize::MAX,
            packets: 0,
            turns: 0,
        }
    }

    fn start(&mut self, i: usize, saved: Option<&[u8]>) {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&(i as u64).to_le_bytes());
        let bootstrap = vec![("bootstrap.example".to_owned(), addr(0).port())];
        let config = DhtConfig { bootstrap, read_only: false };
        let mut dht = Dht::new(self.now, config, &seed, saved);
        dht.set_port(6881);
        if saved.is_none() {
            dht.families[0].id = self.ids[i];
            dht.families[0].table.rename(self.now, self.ids[i]);
        }
        self.nodes[i] = Some(dht);
        self.after(i);
    }

    /// The node, with the table that years in this network would have given it.
    fn node(&mut self, i: usize) -> &mut Dht {
        if self.nodes[i].is_none() {
            assert!(self.lazy);
            self.start(i, None);
            let own = self.ids[i];
            let mut near: Vec<_> = (0..self.nodes.len()).filter(|n| *n != i).collect();
            near.sort_by_cached_key(|n| self.ids[*n].distance(&own));
            let mut known: Vec<_> = near.drain(..16).collect();
            self.rng.shuffle(&mut near);
            known.extend(&near[..100]);
            let now = self.now;
            let dht = self.nodes[i].as_mut().expect("just made");
            // They would keep everybody awake, and are looked at in the other test.
            dht.boot.quiet();
            let table = &mut dht.families[0].table;
            for n in known {
                table.answered(now, Contact { id: self.ids[n], addr: addr(n) });
            }
        }
        self.nodes[i].as_mut().expect("just made")
    }

    fn with(&mut self, i: usize, f: impl FnOnce(&mut Dht, Instant)) {
        let now = self.now;
        f(self.node(i), now);
        self.after(i);
    }

    /// Takes what a node has to send and to say, and sets its alarm.
    fn after(&mut self, i: usize) {
        let now = self.now;
        let dht = self.nodes[i].as_mut().expect("it has just been used");
        while let Some(event) = dht.poll_event() {
            if let Event::Resolve { id, .. } = &event {
                dht.on_resolved(now, *id, &[addr(0).ip()]);
            }
            if !matches!(event, Event::Address { .. }) {
                self.events.push((i, event));
            }
        }
        let mut out = Vec::new();
        while let Some((to, data)) = dht.poll_datagram() {
            assert!(data.len() <= limits::DHT_DATAGRAM_OUT);
            out.push((to, data));
        }
        let at = dht.poll_timeout(now);
        if at != self.armed[i] {
            self.armed[i].map(|old| self.timers.remove(&(old, i)));
            self.armed[i] = at;
            self.timers.extend(at.map(|at| (at, i)));
        }
        for (to, data) in out {
            let this = now.as_micros() / 1_000_000;
            if self.second[i].0 != this {
                self.second[i] = (this, 0);
            }
            self.second[i].1 += data.len() as u64;
            self.most = self.most.max(self.second[i].1);
            self.send(addr(i), to, data);
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        self.packets += u64::from(self.by_addr.get(&from) == Some(&self.watched));
        if self.rng.u8(..100) < 5 {
            return;
        }
        let at = self.now + Duration::from_millis(self.rng.u64(10..200));
        self.sent += 1;
        self.wire.push(Reverse((at, self.sent, from, to, data)));
    }

    fn run(&mut self, for_: Duration, mut until: impl FnMut(&Self) -> bool) {
        let end = self.now + for_;
        while !until(self) {
            let packet = self.wire.peek().map(|Reverse(p)| p.0);
            let timer = self.timers.first().map(|t| t.0);
            let Some(at) = crate::time::earlier(packet, timer).filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if packet == Some(at) {
                let Reverse((_, _, from, to, data)) = self.wire.pop().expect("it was peeked at");
                let Some(&i) = self.by_addr.get(&to) else { continue };
                if i == self.watched {
                    self.packets += 1;
                    self.turns += 1;
                }
                if lies(i) {
                    self.lie(i, from, &data);
                } else if self.lazy || self.nodes[i].is_some() {
                    self.with(i, |dht, now| dht.handle(now, from, &data));
                }
            } else if let Some((_, i)) = self.timers.pop_first() {
                self.armed[i] = None;
                self.turns += u64::from(i == self.watched);
                self.with(i, |dht, now| dht.tick(now));
            }
        }
        self.now = self.now.max(end).min(end);
    }

    fn lie(&mut self, i: usize, to: SocketAddr, data: &[u8]) {
        let Some(m) = krpc::parse(data, false) else { return };
        let Body::Query(q) = m.body else { return };
        let target = match q.method {
            Method::FindNode { target } => target,
            Method::GetPeers { info_hash } => info_hash.into(),
            _ => self.ids[i],
        };
        let asks = !matches!(q.method, Method::Ping | Method::AnnouncePeer { .. });
        let mut reply = Reply {
            id: self.ids[i],
            to,
            tid: m.tid,
            token: Some(b"liar"),
            nodes: vec![],
            nodes6: vec![],
            values: vec![],
        };
        let near = |rng: &mut Rng| random_id(rng).with_prefix(&target, 60 + rng.usize(..90));
        match i / LIARS % 3 {
            _ if !asks => {}
            0 => {
                // Nodes that are not there, half of them with ids that would fit.
                for n in 0..8 {
                    let ip = [200 + self.rng.u8(..20), self.rng.u8(..), self.rng.u8(..), 1];
                    let mut id = near(&mut self.rng);
                    if n % 2 == 0 {
                        id = id.for_ip(ip.into());
                    }
                    reply.nodes.push(Contact { id, addr: SocketAddr::from((ip, 6881)) });
                }
            }
            1 => {
                // Peers that are none.
                let peer = |rng: &mut Rng| SocketAddr::from(([210, rng.u8(..), rng.u8(..), rng.u8(..)], 80));
                reply.values = (0..50).map(|_| peer(&mut self.rng)).collect();
            }
            _ => {
                // All liars are next to the target, and know only each other.
                reply.id = near(&mut self.rng);
                let others: Vec<_> =
                    (0..8).map(|_| self.rng.usize(..self.nodes.len() / LIARS) * LIARS + LIARS - 1).collect();
                reply.nodes = others.iter().map(|o| Contact { id: near(&mut self.rng), addr: addr(*o) }).collect();
            }
        }
        if let Some(data) = reply.encode(1024) {
            self.send(addr(i), to, data);
        }
    }

    fn honest(&mut self) -> usize {
        std::iter::repeat_with(|| self.rng.usize(1..self.nodes.len())).find(|i| !lies(*i)).expect("nine of ten are")
    }

    /// Whether `who` has been told of a peer.
    fn told(&self, who: usize, peer: SocketAddr) -> bool {
        self.events.iter().any(|(i, e)| *i == who && matches!(e, Event::Peers { peers, .. } if peers.contains(&peer)))
    }

    fn searched(&self, who: usize) -> bool {
        self.events.iter().any(|(i, e)| *i == who && matches!(e, Event::Searched { v6: false, .. }))
    }

    /// One node announces, another looks for it.
    fn finds(&mut self, hash: InfoHash) -> bool {
        let a = self.honest();
        let b = std::iter::repeat_with(|| self.honest()).find(|b| *b != a).expect("there are others");
        self.events.clear();
        self.with(a, |dht, now| dht.seek(now, hash, false));
        self.run(Duration::from_secs(90), |w| w.searched(a));
        self.run(Duration::from_secs(3), |_| false);
        self.with(b, |dht, now| dht.seek(now, hash, true));
        self.run(Duration::from_secs(90), |w| w.searched(b));
        assert!(self.searched(a) && self.searched(b), "a search does not end");
        let told = self.told(b, addr(a));
        for i in [a, b] {
            self.with(i, |dht, _| dht.forget(&hash));
            self.nodes[i].as_ref().expect("used").invariants();
        }
        told
    }
}

fn hash(rng: &mut Rng) -> InfoHash {
    InfoHash::new(*random_id(rng).as_bytes())
}

#[test]
fn a_stored_peer_is_found_among_liars() {
    let (seeds, mut found) = (200, 0);
    for seed in 0..seeds {
        let mut w = World::new(seed, NODES, true);
        let hash = hash(&mut w.rng);
        found += u64::from(w.finds(hash));
    }
    assert!(100 * found >= 99 * seeds, "{found} of {seeds}");
}

#[test]
fn a_network_that_grows_by_itself_works_survives_restarts_and_is_quiet() {
    grows(240, 6);
}

#[test]
#[ignore = "takes minutes unless it is optimised: cargo test --release --lib -- --ignored grows_large"]
fn a_network_that_grows_large_works_survives_restarts_and_is_quiet() {
    grows(NODES, 4242);
}

/// All of them begin knowing nobody but the first.
fn grows(nodes: usize, seed: u64) {
    let mut w = World::new(seed, nodes, false);
    w.start(0, None);
    for i in (1..nodes).filter(|i| !lies(*i)) {
        w.start(i, None);
        w.run(Duration::from_millis(100), |_| false);
    }
    // Liars make themselves known: each is pinged by some.
    for i in (0..nodes).filter(|i| lies(*i)) {
        for _ in 0..10 {
            let n = w.honest();
            w.with(n, |dht, now| dht.ping(now, addr(i)));
        }
        w.run(Duration::from_millis(500), |_| false);
    }
    w.run(Duration::from_secs(600), |_| false);
    let mut sizes: Vec<_> = w.nodes.iter().flatten().map(|d| d.counts().nodes.0).collect();
    sizes.sort_unstable();
    assert!(sizes[sizes.len() / 20] >= 16, "tables are thin: {sizes:?}");
    let hashes: Vec<_> = (0..50).map(|_| hash(&mut w.rng)).collect();
    let found = hashes.into_iter().filter(|h| w.finds(*h)).count();
    assert!(found >= 49, "{found} of 50");

    // Restarted from what was saved, a node asks for no name, and finds.
    let (peer, other) = (w.honest(), w.honest());
    let hash = hash(&mut w.rng);
    w.with(peer, |dht, now| dht.seek(now, hash, false));
    w.run(Duration::from_secs(90), |_| false);
    let saved = w.nodes[other].as_ref().expect("it runs").save();
    w.events.clear();
    w.start(other, Some(&saved));
    assert_eq!(w.nodes[other].as_ref().expect("it runs").id(false), w.ids[other], "it keeps its id");
    w.with(other, |dht, now| dht.seek(now, hash, false));
    w.run(Duration::from_secs(60), |w| w.searched(other) && w.told(other, addr(peer)));
    assert!(w.told(other, addr(peer)));
    assert!(!w.events.iter().any(|(_, e)| matches!(e, Event::Resolve { .. })), "no bootstrap");

    // Ten quiet minutes, with a torrent.
    (w.watched, w.packets, w.turns) = (other, 0, 0);
    w.run(Duration::from_secs(600), |_| false);
    let (packets, turns) = (w.packets as f64 / 600.0, w.turns as f64 / 600.0);
    assert!(packets > 0.01 && packets < 5.0, "{packets} packets a second");
    assert!(turns < 2.0, "{turns} wake-ups a second");
    assert!(w.most <= limits::DHT_UP, "{} bytes in a second", w.most);
    println!("{packets:.2} packets/s, {turns:.2} wake-ups/s, at most {} bytes/s, {found} of 50", w.most);
    w.nodes.iter().flatten().for_each(Dht::invariants);
}
