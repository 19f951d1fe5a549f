//! Getting to know nodes, and keeping them: bootstrap, refreshing, what is saved for the next run.
//!
//! ```text
//! start -> saved nodes? -- yes --> search for our own id among them -- somebody answered --> in the table
//!             |  no                      | nobody
//!             +--> look up the bootstrap names <-+       again after 10 s, 20 s, .. 10 min while nobody answers
//! in the table: every 5 s at most one node that has been silent for 12 min is pinged,
//!               every minute at most one bucket that has not changed for 15 min is refreshed
//! ```
//!
//! The record is bencode: `d 2:id 20:.. 3:id6 20:.. 5:nodes 26n 6:nodes6 38n e`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::krpc::{self, Contact};
use super::search::{Goal, Search};
use super::{Dht, Event, Method, NodeId, Purpose};
use crate::bencode::{self, Node, Writer};
use crate::time::{Duration, Instant};
use crate::tracker::http::Reach;

/// How often something may be done.
const STEP: Duration = Duration::from_secs(5);
/// How often a bucket may be refreshed, and after how long without a change; with places free, sooner.
const REFRESH: (Duration, Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(15 * 60), Duration::from_secs(5 * 60));
/// How often what has expired is thrown away.
const EXPIRE: Duration = Duration::from_secs(60);
/// First and longest wait between attempts to find anybody.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// A family to which nothing could be sent is left alone for so long.
pub(super) const DOWN: Duration = Duration::from_secs(300);
/// Addresses of bootstrap nodes that are remembered.
const ADDRS: usize = 64;
/// Nodes of one family that are saved.
const SAVED: usize = 64;

/// Where the bootstrap stands.
#[derive(Debug)]
pub(super) struct Boot {
    /// Nodes of an earlier run that have not been tried.
    saved: Vec<Contact>,
    /// Where the bootstrap names lead to.
    addrs: BTreeSet<SocketAddr>,
    next: Instant,
    refresh: Instant,
    expire: Instant,
    tries: u32,
}

impl Boot {
    pub(super) fn new(now: Instant) -> Self {
        Self { saved: Vec::new(), addrs: BTreeSet::new(), next: now, refresh: now, expire: now + EXPIRE, tries: 0 }
    }

    /// Nothing of this for the next years.
    #[cfg(test)]
    pub(super) fn quiet(&mut self) {
        self.next = Instant::FAR;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.next)
    }

    /// One of the well-known nodes, which are not to be bothered more than necessary; local ones do not mind.
    pub(super) fn is_public(&self, addr: SocketAddr) -> bool {
        Reach::of(addr.ip()) == Reach::Public && self.addrs.contains(&addr)
    }
}

impl Dht {
    /// Does what keeps the tables alive.
    pub(super) fn maintain(&mut self, now: Instant) {
        if now < self.boot.next {
            return;
        }
        self.boot.next = now + STEP;
        if now >= self.boot.expire {
            self.store.expire(now);
            self.boot.expire = now + EXPIRE;
        }
        if self.families.iter().all(|f| f.table.good(now) == 0) {
            self.find_anybody(now);
        } else {
            self.boot.tries = 0;
        }
        for v6 in [false, true] {
            if let Some(c) = self.family_mut(v6).table.questionable(now) {
                self.query(now, c.addr, Method::Ping, Purpose::Ping, 0);
            }
        }
        if now >= self.boot.refresh && self.searches.is_empty() {
            for v6 in [false, true] {
                let random = NodeId::new(std::array::from_fn(|_| self.rng.u8(..)));
                let family = self.family_mut(v6);
                if family.table.len() > 0 {
                    if let Some(target) = family.table.stale(now, REFRESH.1, REFRESH.2, random) {
                        self.begin(now, v6, target, Goal::Nodes);
                        self.boot.refresh = now + REFRESH.0;
                    }
                }
            }
        }
    }

    /// Nobody is known, or nobody answers any more.
    fn find_anybody(&mut self, now: Instant) {
        if self.searches.values().any(|s| s.goal == Goal::Nodes) {
            return;
        }
        let saved = std::mem::take(&mut self.boot.saved);
        if !saved.is_empty() {
            return self.search_for_ourselves(now, &saved, &[]);
        }
        // Whoever was there once may be there again: the network may have been away, not they.
        for v6 in [false, true] {
            let known = self.family(v6).table.worth_keeping(2 * super::table::K);
            if !known.is_empty() {
                self.search_for_ourselves(now, &known, &[]);
            }
        }
        for (id, (host, _)) in (0..).zip(&self.config.bootstrap) {
            self.events.push_back(Event::Resolve { id, host: host.clone() });
        }
        let wait = RETRY.0 * (1 << self.boot.tries.min(6));
        self.boot.tries += 1;
        self.boot.next = now + wait.min(RETRY.1);
    }

    /// A bootstrap name has led there.
    pub(super) fn bootstrap_from(&mut self, now: Instant, addrs: &[SocketAddr]) {
        let usable = |a: &&SocketAddr| a.port() != 0 && Reach::of(a.ip()) != Reach::Never;
        let addrs: Vec<_> = addrs.iter().filter(usable).copied().collect();
        if self.boot.addrs.len() < ADDRS {
            self.boot.addrs.extend(&addrs);
        }
        self.search_for_ourselves(now, &[], &addrs);
    }

    /// Asks them for whoever is close to us. Of seeds nothing but the address is known.
    pub(super) fn search_for_ourselves(&mut self, now: Instant, contacts: &[Contact], seeds: &[SocketAddr]) {
        for v6 in [false, true] {
            let (own, down) = (self.family(v6).id, self.family(v6).down_until > now);
            let mut contacts = contacts.iter().filter(|c| c.addr.is_ipv6() == v6).peekable();
            let mut seeds = seeds.iter().filter(|a| a.is_ipv6() == v6).peekable();
            if down || contacts.peek().is_none() && seeds.peek().is_none() {
                continue;
            }
            let same = |s: &&mut Search| s.v6 == v6 && s.goal == Goal::Nodes && s.target == own;
            match self.searches.values_mut().find(same) {
                Some(search) => seeds.for_each(|a| search.add_seed(*a)),
                None => {
                    let mut search = Search::new(now, v6, own, Goal::Nodes);
                    contacts.for_each(|c| search.add(*c));
                    seeds.for_each(|a| search.add_seed(*a));
                    self.add_search(search);
                }
            }
        }
    }

    /// Our address is `ip`: the id has to fit (BEP 42).
    pub(super) fn fit_id(&mut self, now: Instant, ip: IpAddr) {
        let v6 = ip.to_canonical().is_ipv6();
        if self.family(v6).id.fits(ip) {
            return;
        }
        let id = NodeId::new(std::array::from_fn(|_| self.rng.u8(..))).for_ip(ip);
        log::info!("dht: our address is {ip}: the node's id is {id} now");
        let family = self.family_mut(v6);
        family.id = id;
        family.table.rename(now, id);
        self.begin(now, v6, id, Goal::Nodes);
    }

    // ---------------------------------------------------------------- the record

    /// What the next run wants to know.
    pub fn save(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.begin_dict();
        for (v6, key) in [(false, &b"id"[..]), (true, b"id6")] {
            w.key(key).bytes(self.family(v6).id.as_bytes());
        }
        for (v6, key) in [(false, &b"nodes"[..]), (true, b"nodes6")] {
            let mut nodes = self.family(v6).table.worth_keeping(SAVED);
            // A run that ended before it got anywhere passes on what it was given.
            let unused = self.boot.saved.iter().filter(|c| c.addr.is_ipv6() == v6);
            nodes.extend(unused.take(SAVED - nodes.len()));
            w.key(key).bytes(&krpc::compact_nodes(&nodes));
        }
        w.end();
        w.into_bytes()
    }

    /// Takes what an earlier run saved; what makes no sense of it is ignored.
    pub(super) fn restore(&mut self, now: Instant, saved: &[u8]) {
        let Ok((doc, _)) = bencode::parse_prefix(saved) else { return };
        let root = doc.root();
        let bytes = |key: &[u8]| root.get(key).and_then(Node::as_bytes);
        for (v6, id, nodes) in [(false, &b"id"[..], &b"nodes"[..]), (true, b"id6", b"nodes6")] {
            if let Some(id) = bytes(id).and_then(NodeId::from_slice) {
                let family = self.family_mut(v6);
                family.id = id;
                family.table.rename(now, id);
            }
            let size = if v6 { 38 } else { 26 };
            for entry in bytes(nodes).unwrap_or_default().chunks_exact(size).take(SAVED) {
                krpc::contacts(entry, v6, &mut self.boot.saved);
            }
        }
        self.boot.saved.retain(|c| c.addr.port() != 0 && Reach::of(c.addr.ip()) != Reach::Never);
    }
}
