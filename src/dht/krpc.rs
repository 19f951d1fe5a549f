//! KRPC: the bencoded datagrams nodes exchange (BEP 5, 32, 42, 43).
//!
//! ```text
//! query     d 1:a d 2:id 20:.. arguments e  1:q 4:ping  [2:ro i1e]  1:t tid  [1:v 4:..]  1:y 1:q e
//! response  d [2:ip 6|18:..]  1:r d 2:id 20:.. [5:nodes 26n] [6:nodes6 38n] [5:token ..] [6:values l..e] e
//!             1:t tid  1:y 1:r e
//! error     d 1:e l i203e 4:text e  1:t tid  1:y 1:e e
//! ```
//!
//! Reading is tolerant where other nodes are sloppy: keys in any order, bytes after the message, a
//! contact list whose last entry is cut, `values` as one long string. Nothing is copied but addresses,
//! and of those no more than [`limits::DHT_VALUES_IN`] and [`limits::DHT_NODES_IN`].
//!
//! Writing fits a response into a number of bytes: [`Reply::encode`] leaves out what is least missed.
//!
//! Not here: whether an answer was asked for, and whether an address is one that may be named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::id::NodeId;
use crate::bencode::{self, Node, Writer};
use crate::config::limits;
use crate::id::InfoHash;

/// What we call ourselves: `BM` and a version (BEP 20).
const VERSION: &[u8; 4] = b"BM\x01\x00";

/// Error codes.
pub mod code {
    /// A malformed message, wrong arguments, or a bad token.
    pub const PROTOCOL: i64 = 203;
    /// No such query.
    pub const UNKNOWN: i64 = 204;
}

/// A node's id and where it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Contact {
    /// Its id.
    pub id: NodeId,
    /// Its address.
    pub addr: SocketAddr,
}

/// Which contacts are wanted in a response (BEP 32).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// Over IPv4.
    pub n4: bool,
    /// Over IPv6.
    pub n6: bool,
}

impl Want {
    /// Those of one family.
    pub fn only(v6: bool) -> Self {
        Self { n4: !v6, n6: v6 }
    }
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method<'a> {
    /// Are you there?
    Ping,
    /// Who is close to this id?
    FindNode {
        /// The id.
        target: NodeId,
    },
    /// Who has this torrent, and who is close to it?
    GetPeers {
        /// The torrent.
        info_hash: InfoHash,
    },
    /// We have this torrent.
    AnnouncePeer {
        /// The torrent.
        info_hash: InfoHash,
        /// Where peers can dial; `None` is the datagram's own port (`implied_port`).
        port: Option<u16>,
        /// What the node gave us for this.
        token: &'a [u8],
    },
    /// Something else; the target or info hash in it, if any.
    Unknown(Option<NodeId>),
    /// A query that is known, with arguments that are not.
    Bad(&'static str),
}

/// A query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query<'a> {
    /// Who asks.
    pub id: NodeId,
    /// What.
    pub method: Method<'a>,
    /// Which contacts are wanted; `None` is those of the datagram's family.
    pub want: Option<Want>,
    /// The asker answers no queries (BEP 43).
    pub read_only: bool,
}

/// A response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response<'a> {
    /// Who answers.
    pub id: NodeId,
    /// Closer nodes, IPv4 and IPv6.
    pub nodes: Vec<Contact>,
    /// Peers.
    pub values: Vec<SocketAddr>,
    /// What is to be presented when announcing to this node.
    pub token: Option<&'a [u8]>,
}

/// What a message is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// A query.
    Query(Query<'a>),
    /// A response.
    Response(Response<'a>),
    /// An error.
    Error(i64, &'a [u8]),
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// The transaction id, of any length.
    pub tid: &'a [u8],
    /// Our address as the sender sees it (BEP 42).
    pub ip: Option<IpAddr>,
    /// What it is about.
    pub body: Body<'a>,
}

// -------------------------------------------------------------------- reading

/// Reads a message that came over IPv6 (`v6`) or IPv4. `None`: it is none, or says not even whose it is.
pub fn parse(data: &[u8], v6: bool) -> Option<Message<'_>> {
    if data.first() != Some(&b'd') || data.len() > limits::DHT_DATAGRAM_IN {
        return None;
    }
    let (doc, _) = bencode::parse_prefix(data).ok()?;
    let root = doc.root();
    let tid = root.get(b"t")?.as_bytes()?;
    let ip = root.get(b"ip").and_then(Node::as_bytes).and_then(|b| match b.len() {
        4 | 16 => address(b),
        6 | 18 => address(&b[..b.len() - 2]),
        _ => None,
    });
    let body = match root.get(b"y")?.as_bytes()? {
        b"q" => Body::Query(query(root)?),
        b"r" => Body::Response(response(root.get(b"r")?, v6)?),
        b"e" => {
            let mut items = root.get(b"e")?.items();
            let code = items.next().and_then(Node::as_int).unwrap_or(0);
            Body::Error(code, items.next().and_then(Node::as_bytes).unwrap_or(b""))
        }
        _ => return None,
    };
    Some(Message { tid, ip, body })
}

fn query<'a>(root: Node<'a, '_>) -> Option<Query<'a>> {
    let a = root.get(b"a")?;
    let bytes = |key: &[u8]| a.get(key).and_then(Node::as_bytes);
    let id = NodeId::from_slice(bytes(b"id")?)?;
    let target = || bytes(b"target").and_then(NodeId::from_slice);
    let hash = || bytes(b"info_hash").and_then(|b| b.try_into().ok()).map(InfoHash::new);
    let int = |key: &[u8]| a.get(key).and_then(Node::as_int);
    let method = match root.get(b"q")?.as_bytes()? {
        b"ping" => Method::Ping,
        b"find_node" => target().map_or(Method::Bad("no target of 20 bytes"), |target| Method::FindNode { target }),
        b"get_peers" => {
            hash().map_or(Method::Bad("no info_hash of 20 bytes"), |info_hash| Method::GetPeers { info_hash })
        }
        b"announce_peer" => match (hash(), bytes(b"token"), int(b"port").and_then(|p| u16::try_from(p).ok())) {
            (None, ..) => Method::Bad("no info_hash of 20 bytes"),
            (_, None, _) => Method::Bad("no token"),
            (Some(info_hash), Some(token), port) => {
                let implied = int(b"implied_port").is_some_and(|i| i != 0);
                match (implied, port.filter(|p| *p != 0)) {
                    (true, _) => Method::AnnouncePeer { info_hash, port: None, token },
                    (false, Some(port)) => Method::AnnouncePeer { info_hash, port: Some(port), token },
                    (false, None) => Method::Bad("no port from 1 to 65535"),
                }
            }
        },
        _ => Method::Unknown(target().or_else(|| hash().map(NodeId::from))),
    };
    let want = a.get(b"want").filter(|w| w.is_list()).map(|list| {
        let has = |family: &[u8]| list.items().any(|i| i.as_bytes() == Some(family));
        Want { n4: has(b"n4"), n6: has(b"n6") }
    });
    let read_only = root.get(b"ro").and_then(Node::as_int) == Some(1);
    Some(Query { id, method, want: want.filter(|w| w.n4 || w.n6), read_only })
}

fn response<'a>(r: Node<'a, '_>, v6: bool) -> Option<Response<'a>> {
    let bytes = |key: &[u8]| r.get(key).and_then(Node::as_bytes);
    let id = NodeId::from_slice(bytes(b"id")?)?;
    let mut nodes = Vec::new();
    contacts(bytes(b"nodes").unwrap_or_default(), false, &mut nodes);
    contacts(bytes(b"nodes6").unwrap_or_default(), true, &mut nodes);
    let mut values = Vec::new();
    if let Some(list) = r.get(b"values") {
        // Each family names its own (BEP 32). Old nodes put all of them into one long string.
        let stride = if v6 { 18 } else { 6 };
        let entries = list.items().filter_map(Node::as_bytes).chain(list.as_bytes());
        let whole = entries.filter(|e| e.len() % stride == 0).flat_map(|e| e.chunks_exact(stride));
        values.extend(whole.take(limits::DHT_VALUES_IN).filter_map(endpoint));
    }
    Some(Response { id, nodes, values, token: bytes(b"token").filter(|t| t.len() <= limits::DHT_TOKEN_IN) })
}

/// Reads contacts of one family.
pub(super) fn contacts(bytes: &[u8], v6: bool, out: &mut Vec<Contact>) {
    for entry in bytes.chunks_exact(if v6 { 38 } else { 26 }).take(limits::DHT_NODES_IN) {
        let (id, at) = entry.split_at(20);
        if let (Some(id), Some(addr)) = (NodeId::from_slice(id), endpoint(at)) {
            out.push(Contact { id, addr });
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

fn endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_at(bytes.len() - 2);
    let port = u16::from_be_bytes([port[0], port[1]]);
    Some(SocketAddr::new(address(ip)?, port))
}

// -------------------------------------------------------------------- writing

/// An address and a port as 6 or 18 bytes.
pub(super) fn compact(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr.ip().to_canonical() {
        IpAddr::V4(a) => out.extend(a.octets()),
        IpAddr::V6(a) => out.extend(a.octets()),
    }
    out.extend(addr.port().to_be_bytes());
}

/// Contacts of one family, 26 or 38 bytes each.
pub(super) fn compact_nodes(contacts: &[Contact]) -> Vec<u8> {
    let mut out = Vec::new();
    for c in contacts {
        out.extend(c.id.as_bytes());
        compact(c.addr, &mut out);
    }
    out
}

/// Writes a query.
pub fn encode_query(tid: &[u8], q: &Query<'_>) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin_dict().key(b"a").begin_dict().key(b"id").bytes(q.id.as_bytes());
    let name: &[u8] = match q.method {
        Method::Ping => b"ping",
        Method::FindNode { target } => {
            w.key(b"target").bytes(target.as_bytes());
            b"find_node"
        }
        Method::GetPeers { info_hash } => {
            w.key(b"info_hash").bytes(info_hash.as_bytes());
            b"get_peers"
        }
        Method::AnnouncePeer { info_hash, port, token } => {
            if port.is_none() {
                w.key(b"implied_port").int(1);
            }
            w.key(b"info_hash").bytes(info_hash.as_bytes());
            w.key(b"port").int(port.unwrap_or(0).into()).key(b"token").bytes(token);
            b"announce_peer"
        }
        Method::Unknown(_) | Method::Bad(_) => b"",
    };
    if let Some(want) = q.want {
        w.key(b"want").begin_list();
        for (on, family) in [(want.n4, b"n4"), (want.n6, b"n6")] {
            if on {
                w.bytes(family);
            }
        }
        w.end();
    }
    w.end().key(b"q").bytes(name);
    if q.read_only {
        w.key(b"ro").int(1);
    }
    w.key(b"t").bytes(tid).key(b"v").bytes(VERSION).key(b"y").bytes(b"q").end();
    w.into_bytes()
}

/// A response to be written.
#[derive(Debug)]
pub struct Reply<'a> {
    /// Who answers: us.
    pub id: NodeId,
    /// Whom.
    pub to: SocketAddr,
    /// The query's transaction id.
    pub tid: &'a [u8],
    /// For announcing.
    pub token: Option<&'a [u8]>,
    /// Closest first.
    pub nodes: Vec<Contact>,
    /// Closest first.
    pub nodes6: Vec<Contact>,
    /// In any order.
    pub values: Vec<SocketAddr>,
}

impl Reply<'_> {
    /// Writes it into at most `room` bytes; `None` when not even the shortest fits. Left out first are the
    /// farthest nodes, then values, then the version and the asker's address.
    pub fn encode(mut self, room: usize) -> Option<Vec<u8>> {
        let mut extras = true;
        loop {
            let bytes = self.write(extras);
            let Some(over) = bytes.len().checked_sub(room).filter(|n| *n > 0) else { return Some(bytes) };
            let longer = if self.nodes6.len() >= self.nodes.len() { &mut self.nodes6 } else { &mut self.nodes };
            let keep_values = self.values.len() > 4;
            if longer.len() > usize::from(keep_values) {
                longer.truncate(longer.len() - 1);
            } else if extras && over <= 30 {
                extras = false;
            } else if !self.values.is_empty() {
                let each = if self.to.is_ipv6() { 21 } else { 8 };
                self.values.truncate(self.values.len().saturating_sub(over.div_ceil(each).max(1)));
            } else if !longer.is_empty() {
                longer.clear();
            } else if extras {
                extras = false;
            } else {
                return None;
            }
        }
    }

    fn write(&self, extras: bool) -> Vec<u8> {
        let mut w = Writer::new();
        w.begin_dict();
        if extras {
            let mut ip = Vec::new();
            compact(self.to, &mut ip);
            w.key(b"ip").bytes(&ip);
        }
        w.key(b"r").begin_dict().key(b"id").bytes(self.id.as_bytes());
        for (key, nodes) in [(&b"nodes"[..], &self.nodes), (b"nodes6", &self.nodes6)] {
            if !nodes.is_empty() {
                w.key(key).bytes(&compact_nodes(nodes));
            }
        }
        if let Some(token) = self.token {
            w.key(b"token").bytes(token);
        }
        if !self.values.is_empty() {
            w.key(b"values").begin_list();
            for v in &self.values {
                let mut at = Vec::new();
                compact(*v, &mut at);
                w.bytes(&at);
            }
            w.end();
        }
        w.end().key(b"t").bytes(self.tid);
        if extras {
            w.key(b"v").bytes(VERSION);
        }
        w.key(b"y").bytes(b"r").end();
        w.into_bytes()
    }
}

/// Writes an error.
pub fn encode_error(tid: &[u8], code: i64, text: &str) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin_dict().key(b"e").begin_list().int(code).bytes(text.as_bytes()).end();
    w.key(b"t").bytes(tid).key(b"y").bytes(b"e").end();
    w.into_bytes()
}

#[cfg(test)]
mod tests;
