//! What a session costs that has nothing to do.

use std::net::SocketAddr;

use super::rig::*;
use crate::config::{Config, DhtConfig};
use crate::dht::NodeId;
use crate::dht::krpc::{self, Body, Contact, Method, Reply};
use crate::lan::lsd;
use crate::session::Input;
use crate::time::Instant;

/// Nodes in the network, all of which answer.
const NODES: usize = 200;
/// The time that is looked at.
const MINUTES: u64 = 10;

/// A DHT all of whose nodes know each other.
struct Network {
    nodes: Vec<Contact>,
    /// Packets in both directions, and turns of the session because of one.
    packets: usize,
    turns: usize,
}

impl Network {
    fn new() -> Self {
        let mut rng = crate::rng::seeded(5);
        let mut node = |i: usize| {
            let ip = [30 + (i / 250) as u8, i as u8, rng.u8(..), 1];
            let id = NodeId::new(std::array::from_fn(|_| rng.u8(..))).for_ip(ip.into());
            Contact { id, addr: SocketAddr::from((ip, 6881)) }
        };
        Self { nodes: (0..NODES).map(&mut node).collect(), packets: 0, turns: 0 }
    }

    /// The eight that are closest.
    fn closest(&self, target: NodeId) -> Vec<Contact> {
        let mut all = self.nodes.clone();
        all.sort_by_key(|c| c.id.distance(&target));
        all.truncate(8);
        all
    }

    /// Everything that the session has asked is answered.
    fn serve(&mut self, r: &mut Rig) {
        for (id, _) in std::mem::take(&mut r.lookups) {
            let boot = self.nodes[0].addr.ip();
            r.s.handle(r.now, Input::Resolved { id, result: Ok(vec![boot]) });
            r.drive();
        }
        let mut data = Vec::new();
        while let Some(to) = r.s.poll_datagram(&mut data) {
            self.packets += 1;
            let Some(node) = self.nodes.iter().find(|c| c.addr == to).copied() else { continue };
            let m = krpc::parse(&data, false).expect("what we send can be read");
            let Body::Query(q) = m.body else { continue };
            let nodes = match q.method {
                Method::FindNode { target } => self.closest(target),
                Method::GetPeers { info_hash } => self.closest(info_hash.into()),
                _ => Vec::new(),
            };
            let (tid, token) = (m.tid, Some(&b"token"[..]));
            let reply = Reply { id: node.id, to: ip(1), tid, token, nodes, nodes6: vec![], values: vec![] };
            let answer = reply.encode(1024).expect("it fits");
            (self.packets, self.turns) = (self.packets + 1, self.turns + 1);
            r.s.handle_datagram(r.now, to, &answer);
            r.drive();
        }
    }
}

#[test]
fn an_idle_torrent_with_dht_and_multicasts_costs_next_to_nothing() {
    let dht = DhtConfig { bootstrap: vec![("boot.example".into(), 6881)], read_only: false };
    let c = Content::pieces(4, 1);
    let (mut r, t) = Rig::seed_with(&c, Config { dht: Some(dht), lsd: true, ..Config::default() });
    let mut net = Network::new();
    r.s.start_dht(r.now, None);
    r.drive();
    // It settles first: the bootstrap is no idling.
    let run = |r: &mut Rig, net: &mut Network, until: Instant| {
        while r.now < until {
            net.serve(r);
            let next = r.s.poll_timeout().map_or(until, |at| at.max(r.now + millis(1)).min(until));
            r.pass(next - r.now);
        }
        net.serve(r);
    };
    let begin = r.now + secs(600);
    run(&mut r, &mut net, begin);
    assert!(r.s.dht_counts().expect("it has a node").nodes.0 >= 16, "it knows its way about");
    (net.packets, net.turns, r.ticks) = (0, 0, 0);
    r.multicasts.clear();
    run(&mut r, &mut net, begin + secs(60 * MINUTES));
    assert!(r.s.torrents.get(t).unwrap().is_complete() && r.multicasts.len() >= 2, "{}", r.multicasts.len());
    let messages: usize = r.multicasts.iter().flatten().filter(|m| lsd::Search::parse(m).is_some()).count();
    let seconds = (60 * MINUTES) as f64;
    let (packets, turns) = ((net.packets + messages) as f64 / seconds, (net.turns + r.ticks) as f64 / seconds);
    println!("{packets:.2} packets/s, {turns:.2} wake-ups/s");
    assert!(packets > 0.01 && packets < 5.0, "{packets} packets a second");
    assert!(turns > 0.01 && turns < 2.0, "{turns} wake-ups a second");
}

#[test]
fn idle_peers_share_one_wake_up_a_second() {
    const PEERS: u8 = 200;
    let c = Content::pieces(4, 1);
    let config = Config { max_peers: 400, max_peers_torrent: 400, ..Config::default() };
    let (mut r, t) = Rig::seed_with(&c, config);
    let mut peers = Vec::new();
    for n in 1..=PEERS {
        r.pass(millis(37));
        let conn = r.peer(t, n, true);
        r.said(conn);
        peers.push((conn, r.now));
    }
    r.ticks = 0;
    let begin = r.now;
    // Nobody says anything, and nobody has been silent for too long.
    while r.now < begin + secs(115) {
        r.pass(millis(10));
        for (conn, since) in &mut peers {
            let said = r.said(*conn);
            if !said.is_empty() {
                assert_eq!(said, ["keep-alive"]);
                let after = r.now - *since;
                assert!(after > secs(88) && after <= secs(90) + millis(10), "{after:?}");
                *since = r.now;
            }
        }
    }
    assert!(peers.iter().all(|(conn, since)| *since > begin && r.is_open(*conn)));
    assert!((8..=115).contains(&r.ticks), "{} wake-ups", r.ticks);
}
