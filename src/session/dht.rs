//! The DHT node's place in a session: which torrents it looks for, and what becomes of what it finds.
//!
//! ```text
//!   torrent runs, is not private ─▶ Dht::seek ─▶ Event::Peers ─▶ Torrent::hear, as from peers and trackers
//!   datagram that begins with `d` ─▶ Dht::handle          PORT of a peer ─▶ Dht::ping
//!   Event::Resolve ─▶ Action::Resolve ─▶ Input::Resolved ─▶ Dht::on_resolved
//! ```
//!
//! The node shares its sockets with UDP trackers, whose answers never begin with `d` (their first byte is that of
//! an action below 4). It knows nothing of torrents but their info hashes. Private torrents (BEP 27) are never named
//! to it, and one that turns out to be private is forgotten by it.
//!
//! [BEP 5](https://www.bittorrent.org/beps/bep_0005.html)

use std::net::SocketAddr;

use super::trackers::DATAGRAMS;
use super::{Action, Session, cx};
use crate::dht::{Counts, Dht, Event};
use crate::id::TorrentKey;
use crate::session::timers::Timer;
use crate::time::{Duration, Instant};
use crate::torrent::swarm::Source;

/// Marks the lookups of the node among those of trackers, whose ids are names of connections.
const LOOKUP: u64 = 1 << 63;
/// With fewer peers than this a torrent that misses something is in need of more.
const FEW: usize = 20;

impl Session {
    /// Starts the DHT node, if the configuration has one. `saved` is what [`Session::save_dht`] gave an earlier run.
    pub fn start_dht(&mut self, now: Instant, saved: Option<&[u8]>) {
        let Some(config) = self.config.dht.clone() else { return };
        let mut node = Dht::new(now, config, &self.dht_seed, saved);
        node.set_port(self.me.port);
        self.dht = Some(Box::new(node));
        for key in self.torrents.keys().collect::<Vec<_>>() {
            self.follow_dht(now, key);
        }
        self.drive_dht(now);
    }

    /// What the node knows, for [`Session::start_dht`] of the next run.
    pub fn save_dht(&self) -> Option<Vec<u8>> {
        self.dht.as_ref().map(|node| node.save())
    }

    /// What the node has counted; `None` when there is none.
    pub fn dht_counts(&self) -> Option<Counts> {
        self.dht.as_ref().map(|node| node.counts())
    }

    /// A torrent may have begun or ceased to look for peers.
    pub(super) fn follow_dht(&mut self, now: Instant, key: TorrentKey) {
        let (Some(node), Some(t)) = (&mut self.dht, self.torrents.get(key)) else { return };
        if t.wants_peers() && !t.meta.private {
            node.seek(now, t.info_hash, !t.is_complete() && t.peers.len() < FEW);
        } else {
            node.forget(&t.info_hash);
        }
    }

    /// A datagram for the node. False when there is none, or it is none of its.
    pub(super) fn dht_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> bool {
        let Some(node) = self.dht.as_mut().filter(|_| data.first() == Some(&b'd')) else { return false };
        if !self.blocklist.contains(from.ip()) {
            node.handle(now, from, data);
            self.drive_dht(now);
        }
        true
    }

    /// A name that the node wanted has been looked up. False when it was not the node's.
    pub(super) fn dht_resolved(
        &mut self,
        now: Instant,
        id: u64,
        result: &Result<Vec<std::net::IpAddr>, String>,
    ) -> bool {
        if id & LOOKUP == 0 {
            return false;
        }
        match (&mut self.dht, result) {
            (Some(node), Ok(ips)) => node.on_resolved(now, (id & !LOOKUP) as u32, ips),
            (_, Err(e)) => log::info!("dht: a bootstrap node's name: {e}"),
            _ => {}
        }
        self.drive_dht(now);
        true
    }

    /// A datagram could not be sent.
    pub(super) fn dht_unsent(&mut self, now: Instant, to: SocketAddr) {
        if let Some(node) = &mut self.dht {
            node.on_unsent(now, to);
            self.drive_dht(now);
        }
    }

    /// The node's time has come.
    pub(super) fn on_dht_timer(&mut self, now: Instant, at: Instant) {
        if let Some(node) = self.dht.as_mut().filter(|_| self.dht_timer == at) {
            self.dht_timer = Instant::FAR;
            node.tick(now);
        }
    }

    /// Carries out what the node wants done.
    pub(super) fn drive_dht(&mut self, now: Instant) {
        let Some(node) = &mut self.dht else { return };
        for addr in self.dht_nodes.drain(..) {
            node.ping(now, addr);
        }
        while let Some(datagram) = node.poll_datagram() {
            // A node that is blocked is one that does not answer.
            if self.datagrams.len() < DATAGRAMS && !self.blocklist.contains(datagram.0.ip()) {
                self.datagrams.push_back(datagram);
            }
        }
        let mut found = Vec::new();
        while let Some(event) = node.poll_event() {
            match event {
                Event::Peers { info_hash, source, peers } => found.push((info_hash, source, peers)),
                Event::Resolve { id, host } => {
                    self.actions.push_back(Action::Resolve { id: LOOKUP | u64::from(id), host });
                }
                Event::Address { source, ip } => self.external.vote(source, ip),
                Event::Searched { info_hash, v6, peers, nodes } => {
                    let family = if v6 { "IPv6" } else { "IPv4" };
                    log::debug!("dht: {info_hash}: {peers} peers named by {nodes} nodes over {family}");
                }
            }
        }
        if let Some(at) = node.poll_timeout(now).map(|at| at.max(now + Duration::from_millis(1))) {
            if at < self.dht_timer {
                self.dht_timer = at;
                self.timers.arm(at, Timer::Dht);
            }
        }
        for (info_hash, source, peers) in found {
            let Some(t) = self.by_hash.get(&info_hash).and_then(|k| self.torrents.get_mut(*k)) else { continue };
            if !t.wants_peers() {
                continue;
            }
            let mut cx = cx!(self, now);
            for addr in peers {
                t.hear(&cx, addr, Source::Dht, Some(source));
            }
            t.tick(&mut cx);
            let key = t.key;
            self.arm(now, key);
        }
    }
}
