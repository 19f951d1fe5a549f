//! Targets for the distributed hash table: one datagram, and a node among strangers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use btmio::bencode::{self, Node, Writer};
use btmio::config::{DhtConfig, limits};
use btmio::dht::krpc::{self, Body, Method, Query, Reply, Want};
use btmio::dht::{Dht, NodeId};
use btmio::id::InfoHash;
use btmio::time::{Duration, Instant};

use super::Bytes;

/// Longest program: beyond that nothing new happens.
const OPS: usize = 300;

/// A datagram; the first byte chooses the family, and how much room an answer has.
pub(super) fn krpc(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let v6 = which & 1 == 1;
    let Some(message) = krpc::parse(bytes, v6) else { return };
    match &message.body {
        Body::Query(q) if !matches!(q.method, Method::Unknown(_) | Method::Bad(_)) => {
            let again = krpc::encode_query(message.tid, q);
            if again.len() <= limits::DHT_DATAGRAM_IN {
                let again = krpc::parse(&again, v6).expect("it was written by ourselves");
                assert_eq!((again.tid, &again.body), (message.tid, &message.body));
            }
        }
        Body::Response(r) => {
            assert!(r.values.len() <= limits::DHT_VALUES_IN && r.nodes.len() <= 2 * limits::DHT_NODES_IN);
            assert!(r.token.is_none_or(|t| t.len() <= limits::DHT_TOKEN_IN));
            let room = usize::from(*which) * 6;
            let (nodes6, nodes) = r.nodes.iter().partition(|c| c.addr.is_ipv6());
            let to = if v6 { SocketAddr::from(([0u16; 8], 7)) } else { SocketAddr::from(([0u8; 4], 7)) };
            let reply =
                Reply { id: r.id, to, tid: message.tid, token: r.token, nodes, nodes6, values: r.values.clone() };
            let Some(bytes) = reply.encode(room) else { return };
            assert!(bytes.len() <= room, "{} bytes do not fit into {room}", bytes.len());
            let again = krpc::parse(&bytes, v6).expect("it was written by ourselves");
            let Body::Response(again) = again.body else { panic!("it is a response: {again:?}") };
            assert_eq!((again.id, again.token), (r.id, r.token));
            assert!(again.nodes.iter().all(|c| r.nodes.contains(c)), "{:?} of {:?}", again.nodes, r.nodes);
            assert!(again.values.iter().all(|v| r.values.contains(v)), "{:?} of {:?}", again.values, r.values);
        }
        _ => {}
    }
}

/// A node and those around it.
struct World {
    dht: Dht,
    now: Instant,
    /// Queries it has sent, and to whom; the latest last.
    asked: Vec<(SocketAddr, Vec<u8>)>,
    /// Hosts that have answered one of those.
    answered: BTreeSet<IpAddr>,
    /// Tokens it has given.
    tokens: Vec<Vec<u8>>,
    lookups: Vec<u32>,
    sent: u64,
}

const START: Instant = Instant::from_secs(1000);

impl World {
    /// Looks at what it has to say. `to`: a query of so many bytes has come from there.
    fn drain(&mut self, to: Option<(SocketAddr, usize)>) {
        while let Some((addr, bytes)) = self.dht.poll_datagram() {
            self.sent += bytes.len() as u64;
            assert!(bytes.len() <= limits::DHT_DATAGRAM_OUT, "{} bytes", bytes.len());
            assert!(addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast(), "to {addr}");
            let doc = bencode::parse(&bytes).expect("one value");
            let message = krpc::parse(&bytes, addr.is_ipv6()).expect("a message");
            if matches!(message.body, Body::Query(_)) {
                self.asked.push((addr, message.tid.to_vec()));
                continue;
            }
            let (asker, len) = to.expect("nobody has asked");
            assert_eq!(addr, asker, "answers go to who asks");
            if !self.answered.contains(&addr.ip())
                && !self.tokens.iter().any(|t| bytes.windows(t.len()).any(|w| w == t))
            {
                let most = len * limits::DHT_UNVERIFIED / 2;
                assert!(bytes.len() <= most, "{} bytes for {len}", bytes.len());
            }
            let token = doc.root().get(b"r").and_then(|r| r.get(b"token")).and_then(Node::as_bytes);
            self.tokens.extend(token.map(<[u8]>::to_vec));
        }
        while let Some(event) = self.dht.poll_event() {
            if let btmio::dht::Event::Resolve { id, .. } = event {
                self.lookups.push(id);
            }
        }
        self.dht.invariants();
        let counts = self.dht.counts();
        assert!(counts.stored.0 <= limits::DHT_TORRENTS && counts.stored.1 <= limits::DHT_PEERS, "{counts:?}");
        let most = limits::DHT_UP * (2 + (self.now - START).as_secs());
        assert!(self.sent <= most, "{} bytes sent by {:?}", self.sent, self.now);
    }
}

fn addr(n: u8) -> SocketAddr {
    let port = if n == 0xff { 0 } else { 6000 + u16::from(n & 1) };
    match n >> 5 {
        0..=3 => SocketAddr::from(([8, n >> 4, n & 15, 9], port)),
        4 => SocketAddr::from(([10, 0, 0, n & 15], port)),
        5 => SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x0808, u16::from(n)], port)),
        6 => SocketAddr::from(([127, 0, 0, n & 15], port)),
        _ => SocketAddr::from(([0x2001, 0xdb8, u16::from(n & 3), 0, 0, 0, 0, u16::from(n)], port)),
    }
}

fn hash(n: u8) -> InfoHash {
    InfoHash::new([n & 7; 20])
}

fn id(n: u8) -> NodeId {
    NodeId::new(std::array::from_fn(|i| n.rotate_left(i as u32)))
}

/// A program: what others send, what the owner wants, and time.
pub(super) fn node(data: &[u8]) {
    let mut b = Bytes(data);
    let flags = b.u8();
    let len = usize::from(b.u8()) * 4;
    let saved = b.take(len);
    let config = DhtConfig { bootstrap: vec![("boot.example".to_owned(), 1)], read_only: flags & 1 == 1 };
    let dht = Dht::new(START, config.clone(), &[7; 32], (flags & 2 == 2).then_some(saved));
    let (answered, tokens) = (BTreeSet::new(), Vec::new());
    let mut w = World { dht, now: START, asked: Vec::new(), answered, tokens, lookups: Vec::new(), sent: 0 };
    if flags & 4 == 4 {
        w.dht.set_port(6881);
    }
    w.drain(None);
    for _ in 0..OPS {
        if b.0.is_empty() {
            break;
        }
        step(&mut w, &mut b);
    }
    let kept = w.dht.save();
    let again = Dht::new(w.now, config, &[8; 32], Some(&kept));
    assert_eq!([false, true].map(|v6| again.id(v6)), [false, true].map(|v6| w.dht.id(v6)), "ids are kept");
    assert_eq!(again.save(), kept, "what was saved is what is saved again");
}

fn step(w: &mut World, b: &mut Bytes<'_>) {
    let now = w.now;
    match b.u8() % 16 {
        0 => {
            w.now += Duration::from_millis(u64::from(b.u16()));
            if w.dht.poll_timeout(w.now).is_some_and(|at| at <= w.now) {
                w.dht.tick(w.now);
            }
        }
        1 => {
            w.now += Duration::from_secs(u64::from(b.u8()) * 8);
            w.dht.tick(w.now);
        }
        2 => w.dht.seek(now, hash(b.u8()), b.u8() & 1 == 1),
        3 => w.dht.forget(&hash(b.u8())),
        4 => w.dht.ping(now, addr(b.u8())),
        5 => {
            let ips = [addr(b.u8()).ip(), addr(b.u8()).ip()];
            if let Some(id) = w.lookups.pop() {
                w.dht.on_resolved(now, id, &ips);
            }
        }
        6 => w.dht.on_unsent(now, addr(b.u8())),
        7 => w.dht.set_external(now, addr(b.u8()).ip()),
        8 => {
            let (from, n) = (addr(b.u8()), usize::from(b.u8()));
            let raw = b.take(n);
            w.dht.handle(now, from, raw);
            return w.drain(Some((SocketAddr::new(from.ip().to_canonical(), from.port()), n)));
        }
        9..=11 => return ask(w, b),
        _ => answer(w, b),
    }
    w.drain(None);
}

/// Somebody asks.
fn ask(w: &mut World, b: &mut Bytes<'_>) {
    let (from, who, what, v) = (addr(b.u8()), id(b.u8()), hash(b.u8()), b.u8());
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let token = b.pick(&w.tokens.iter().collect::<Vec<_>>()).cloned().unwrap_or_default();
    let method = match v & 3 {
        0 => Method::Ping,
        1 => Method::FindNode { target: who },
        2 => Method::GetPeers { info_hash: what },
        _ => Method::AnnouncePeer { info_hash: what, port: Some(7).filter(|_| v & 4 == 4), token: &token },
    };
    let want = (v & 8 == 8).then_some(Want { n4: true, n6: v & 16 == 16 });
    let bytes = krpc::encode_query(b"aa", &Query { id: who, method, want, read_only: v & 32 == 32 });
    w.dht.handle(w.now, from, &bytes);
    w.drain(Some((from, bytes.len())));
}

/// Somebody answers what it was asked, with contacts and peers of its own; or what it was not.
fn answer(w: &mut World, b: &mut Bytes<'_>) {
    if w.asked.is_empty() {
        return;
    }
    let at = w.asked.len() - 1 - usize::from(b.u8()) % w.asked.len().min(16);
    let (mut from, tid) = w.asked.remove(at);
    let v = b.u8();
    if v & 15 == 15 {
        from = addr(b.u8());
    }
    let who = id(b.u8());
    let contacts = |b: &mut Bytes<'_>, v6: bool| {
        let mut out = Vec::new();
        for _ in 0..b.u8() % 9 {
            out.extend_from_slice(id(b.u8()).as_bytes());
            endpoint(addr(b.u8()), v6, &mut out);
        }
        out
    };
    let mut r = Writer::new();
    r.begin_dict();
    if v & 32 == 32 {
        let mut ip = Vec::new();
        endpoint(addr(b.u8()), from.is_ipv6(), &mut ip);
        r.key(b"ip").bytes(&ip);
    }
    r.key(b"r").begin_dict().key(b"id").bytes(who.as_bytes());
    r.key(b"nodes").bytes(&contacts(b, false)).key(b"nodes6").bytes(&contacts(b, true));
    r.key(b"token").bytes(b"tok").key(b"values").begin_list();
    for _ in 0..v >> 6 {
        let mut at = Vec::new();
        endpoint(addr(b.u8()), from.is_ipv6(), &mut at);
        r.bytes(&at);
    }
    r.end().end().key(b"t").bytes(&tid).key(b"y").bytes(b"r").end();
    w.answered.insert(from.ip().to_canonical());
    w.dht.handle(w.now, from, &r.into_bytes());
}

fn endpoint(addr: SocketAddr, v6: bool, out: &mut Vec<u8>) {
    match (addr.ip(), v6) {
        (IpAddr::V4(a), false) => out.extend(a.octets()),
        (IpAddr::V4(a), true) => out.extend(a.to_ipv6_mapped().octets()),
        (IpAddr::V6(a), false) => out.extend(&a.octets()[..4]),
        (IpAddr::V6(a), true) => out.extend(a.octets()),
    }
    out.extend(addr.port().to_be_bytes());
}
