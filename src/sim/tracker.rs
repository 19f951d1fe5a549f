//! Simulated trackers: they answer announces over HTTP or UDP, each in its own way.
//!
//! An honest one remembers who announced and names everybody. The others fail, lie, stay silent or
//! cannot be found. They keep one swarm, since a run has one torrent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::link::{Event, Net, WireKey, addr_of};
use crate::rng::Rng;
use crate::time::Duration;

/// How a tracker behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Habit {
    /// It does its work.
    Honest,
    /// It answers after a long time.
    Slow,
    /// It names addresses where nobody is, and absurd intervals.
    Liar,
    /// It takes the request and says nothing.
    Silent,
    /// It answers with an error.
    Failing,
    /// It answers with noise.
    Garbage,
    /// It sends everyone to the first tracker.
    Redirect,
    /// Its name does not exist.
    Nameless,
    /// Nobody answers for its name.
    Unheard,
}

impl Habit {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        use Habit::*;
        [Slow, Liar, Silent, Failing, Garbage, Redirect, Nameless, Unheard][rng.usize(..8)]
    }
}

impl Habit {
    /// What a count of it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Honest => "tracker honest",
            Self::Slow => "tracker slow",
            Self::Liar => "tracker lies",
            Self::Silent => "tracker silent",
            Self::Failing => "tracker fails",
            Self::Garbage => "tracker sends noise",
            Self::Redirect => "tracker redirects",
            Self::Nameless => "tracker without a name",
            Self::Unheard => "tracker unheard of",
        }
    }
}

/// The name of a tracker.
pub(super) fn name_of(index: usize) -> String {
    format!("t{index}.sim")
}

/// The tracker that a name names.
pub(super) fn index_of(name: &str) -> Option<usize> {
    name.strip_prefix('t')?.strip_suffix(".sim")?.parse().ok()
}

/// A request that is being read or answered.
#[derive(Debug)]
struct Call {
    wire: WireKey,
    head: Vec<u8>,
    /// What is to be sent, and how much of it went.
    answer: Vec<u8>,
    sent: usize,
}

/// One tracker.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) host: u32,
    pub(super) habit: Habit,
    interval: u32,
    swarm: BTreeMap<SocketAddr, bool>,
    calls: Vec<Call>,
    rng: Rng,
}

impl Tracker {
    pub(super) fn new(host: u32, habit: Habit, mut rng: Rng, scripts: impl Iterator<Item = u32>) -> Self {
        let swarm = scripts.map(|h| (addr_of(h), false)).collect();
        let interval = rng.u32(60..400);
        Self { host, habit, interval, swarm, calls: Vec::new(), rng }
    }

    /// Someone connected.
    pub(super) fn accept(&mut self, wire: WireKey) {
        self.calls.push(Call { wire, head: Vec::new(), answer: Vec::new(), sent: 0 });
    }

    /// A connection has something, takes something, or ended.
    pub(super) fn stirred(&mut self, net: &mut Net, wire: WireKey) {
        let Some(i) = self.calls.iter().position(|c| c.wire == wire) else { return };
        let mut buf = [0; 2048];
        loop {
            match net.read(wire, 1, &mut buf) {
                Ok(0) => return self.hang_up(net, i),
                Ok(n) => self.calls[i].head.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return self.hang_up(net, i),
            }
        }
        let call = &mut self.calls[i];
        if call.answer.is_empty() && call.head.windows(4).any(|w| w == b"\r\n\r\n") {
            call.head.truncate(1024);
            let wait = match self.habit {
                Habit::Silent => return,
                Habit::Slow => Duration::from_micros(self.rng.u64(1_000_000..40_000_000)),
                _ => Duration::from_millis(self.rng.u64(1..50)),
            };
            net.at(net.now + wait, Event::TrackerAnswer { host: self.host, wire });
        }
        self.push(net, wire);
    }

    /// The answer is ready.
    pub(super) fn answer(&mut self, net: &mut Net, wire: WireKey) {
        let Some(i) = self.calls.iter().position(|c| c.wire == wire) else { return };
        if self.calls[i].answer.is_empty() {
            let head = String::from_utf8_lossy(&self.calls[i].head).into_owned();
            let from = net.end(wire, 0).map_or(IpAddr::from([0, 0, 0, 0]), |e| e.addr.ip());
            self.calls[i].answer = self.compose(&head, from);
            self.push(net, wire);
        }
    }

    fn push(&mut self, net: &mut Net, wire: WireKey) {
        let Some(i) = self.calls.iter().position(|c| c.wire == wire) else { return };
        let call = &mut self.calls[i];
        while call.sent < call.answer.len() {
            match net.write(wire, 1, &call.answer[call.sent..]) {
                Ok(n) => call.sent += n,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return self.hang_up(net, i),
            }
        }
        if call.sent > 0 {
            self.hang_up(net, i);
        }
    }

    fn hang_up(&mut self, net: &mut Net, i: usize) {
        let call = self.calls.swap_remove(i);
        net.close(call.wire, 1);
    }

    /// A datagram came (BEP 15).
    pub(super) fn datagram(&mut self, net: &mut Net, from: SocketAddr, data: &[u8]) {
        let word = |at: usize| data.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let (action, tid) = (word(8), word(12).to_be_bytes());
        let id = super::content::mix(u64::from(self.host)).to_be_bytes();
        let mut out = Vec::new();
        match self.habit {
            Habit::Silent | Habit::Unheard | Habit::Nameless => return,
            Habit::Garbage => out.extend((0..self.rng.usize(..300)).map(|_| self.rng.u8(..))),
            Habit::Slow if self.rng.bool() => return,
            Habit::Failing | Habit::Redirect if action != 0 => {
                out.extend(3u32.to_be_bytes());
                out.extend(tid);
                out.extend(b"nope");
            }
            _ if action == 0 && data.len() >= 16 => {
                out.extend(0u32.to_be_bytes());
                out.extend(tid);
                out.extend(id);
            }
            habit if action == 1 && data.len() >= 98 && data[..8] == id => {
                let (left, event) = (u64::from(word(64)) << 32 | u64::from(word(68)), word(80));
                let addr = SocketAddr::new(from.ip(), (word(96) >> 16) as u16);
                let want = word(92).min(74) as usize;
                let (interval, peers) = match habit {
                    Habit::Liar => self.lies(from.ip()),
                    _ => (u64::from(self.interval), self.record(addr, event == 3, left, want)),
                };
                out.extend(1u32.to_be_bytes());
                out.extend(tid);
                out.extend((interval as u32).to_be_bytes());
                out.extend([0; 8]);
                out.extend(peers);
            }
            _ => return,
        }
        net.send_datagram(addr_of(self.host), from, &out);
    }

    /// An absurd interval, and addresses of which some are in our world, where nobody is; one is whoever
    /// asks.
    fn lies(&mut self, from: IpAddr) -> (u64, Vec<u8>) {
        let interval = [0u64, 1, 1 << 31, u64::from(u32::MAX)][self.rng.usize(..4)];
        let n = self.rng.usize(..200);
        let mut peers: Vec<u8> = (0..n * 6).map(|_| self.rng.u8(..)).collect();
        for p in peers.chunks_exact_mut(6).step_by(2) {
            p[0] = 10;
        }
        if let (Some(p), IpAddr::V4(ip)) = (peers.first_chunk_mut::<4>(), from) {
            *p = ip.octets();
        }
        (interval, peers)
    }

    /// Remembers who announced, and names the others.
    fn record(&mut self, addr: SocketAddr, stopped: bool, left: u64, want: usize) -> Vec<u8> {
        match stopped {
            true => drop(self.swarm.remove(&addr)),
            false => drop(self.swarm.insert(addr, left == 0)),
        }
        let mut others: Vec<_> = self.swarm.keys().filter(|a| **a != addr).copied().collect();
        self.rng.shuffle(&mut others);
        let mut peers = Vec::new();
        for a in others.iter().take(want) {
            if let IpAddr::V4(ip) = a.ip() {
                peers.extend_from_slice(&ip.octets());
                peers.extend_from_slice(&a.port().to_be_bytes());
            }
        }
        peers
    }

    fn compose(&mut self, head: &str, from: IpAddr) -> Vec<u8> {
        let body = match self.habit {
            Habit::Failing if self.rng.bool() => return b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
            Habit::Failing => b"d14:failure reason4:nopee".to_vec(),
            Habit::Garbage => return (0..self.rng.usize(1..3000)).map(|_| self.rng.u8(..)).collect(),
            Habit::Redirect => {
                let to = format!("http://{}:6881/announce", name_of(0));
                return format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes();
            }
            Habit::Liar => {
                let (interval, peers) = self.lies(from);
                reply(interval, &peers)
            }
            _ => {
                let addr = SocketAddr::new(from, number(head, "&port=").unwrap_or(0) as u16);
                let (left, want) = (number(head, "&left="), number(head, "&numwant=").unwrap_or(50));
                let peers = self.record(addr, head.contains("&event=stopped"), left.unwrap_or(1), want as usize);
                reply(u64::from(self.interval), &peers)
            }
        };
        let mut out = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        out.extend_from_slice(&body);
        out
    }
}

fn reply(interval: u64, peers: &[u8]) -> Vec<u8> {
    let mut body = format!("d8:intervali{interval}e5:peers{}:", peers.len()).into_bytes();
    body.extend_from_slice(peers);
    body.push(b'e');
    body
}

fn number(head: &str, key: &str) -> Option<u64> {
    let rest = &head[head.find(key)? + key.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}
