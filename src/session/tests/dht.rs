//! The DHT node in a session: what its nodes say of peers is hearsay like any other.

use std::net::{IpAddr, SocketAddr};

use super::rig::*;
use crate::config::{Config, DhtConfig, limits};
use crate::dht::NodeId;
use crate::dht::krpc::{self, Body, Contact, Method, Reply};
use crate::session::Input;
use crate::wire::{self, Message};

/// The bootstrap node, which is asked once and then spared, and the one it names.
const BOOT: [u8; 4] = [40, 0, 0, 1];
const NODE: [u8; 4] = [30, 0, 0, 1];

fn contact(ip: [u8; 4]) -> Contact {
    Contact { id: NodeId::new([7; 20]).for_ip(ip.into()), addr: SocketAddr::from((ip, 6881)) }
}

impl Rig {
    /// All queries are answered; those for peers with `values`. How many of these there were.
    fn node_answers(&mut self, values: &[SocketAddr]) -> usize {
        let (mut asked, mut data) = (0, Vec::new());
        while let Some(to) = self.s.poll_datagram(&mut data) {
            let from = [contact(BOOT), contact(NODE)].into_iter().find(|c| c.addr == to).expect("there are two");
            let m = krpc::parse(&data, false).expect("what we send can be read");
            let Body::Query(q) = m.body else { continue };
            let for_peers = matches!(q.method, Method::GetPeers { .. });
            asked += usize::from(for_peers);
            let values = if for_peers { values.to_vec() } else { Vec::new() };
            let (nodes, nodes6, token) = (vec![contact(NODE)], Vec::new(), Some(&b"token"[..]));
            let reply = Reply { id: from.id, to: ip(1), tid: m.tid, token, nodes, nodes6, values };
            let answer = reply.encode(1024).expect("it fits");
            self.s.handle_datagram(self.now, from.addr, &answer);
            self.drive();
        }
        asked
    }
}

#[test]
fn peers_that_a_node_names_are_hearsay() {
    let dht = DhtConfig { bootstrap: vec![("boot.example".into(), 6881)], read_only: false };
    let (mut r, _) = Rig::leech_with(&Content::pieces(4, 1), Config { dht: Some(dht), ..Config::default() });
    r.s.start_dht(r.now, None);
    r.drive();
    let peer = |host: u8, port: u16| SocketAddr::from(([8, 8, 8, host], port));
    let lan = SocketAddr::from(([192, 168, 0, 9], 7000));
    let crowd: Vec<_> = (0..5).map(|i| peer(2, 7000 + i)).collect();
    let values: Vec<_> = [peer(1, 7000), peer(3, 80), lan].into_iter().chain(crowd.iter().copied()).collect();
    let mut asked = 0;
    for _ in 0..30 {
        r.pass(secs(1));
        for (id, host) in std::mem::take(&mut r.lookups) {
            assert_eq!(host, "boot.example");
            r.s.handle(r.now, Input::Resolved { id, result: Ok(vec![IpAddr::from(BOOT)]) });
            r.drive();
        }
        asked += r.node_answers(&values);
    }
    assert!(asked > 0, "the torrent is looked for");
    let dialled: Vec<_> = r.dialled.iter().map(|d| d.1).collect();
    assert!(dialled.contains(&peer(1, 7000)), "{dialled:?}");
    assert!(!dialled.contains(&peer(3, 80)), "no peer listens there");
    assert!(!dialled.contains(&lan), "a node of the internet knows nobody on our network");
    let of_one_host = crowd.iter().filter(|a| dialled.contains(a)).count();
    assert_eq!(of_one_host, limits::HEARSAY_HOST);
}

/// A session with a node that knows nobody.
fn lonely() -> Rig {
    let dht = DhtConfig { bootstrap: Vec::new(), read_only: false };
    let (mut r, _) = Rig::leech_with(&Content::pieces(4, 1), Config { dht: Some(dht), ..Config::default() });
    r.s.start_dht(r.now, None);
    r.drive();
    r
}

/// What waits for the driver.
fn datagrams(r: &mut Rig) -> Vec<SocketAddr> {
    let mut data = Vec::new();
    std::iter::from_fn(|| r.s.poll_datagram(&mut data)).collect()
}

#[test]
fn datagrams_that_wait_for_the_driver_are_so_many() {
    let mut r = lonely();
    let id = NodeId::new([7; 20]);
    let ping = krpc::encode_query(b"aa", &krpc::Query { id, method: Method::Ping, want: None, read_only: true });
    let ask = |r: &mut Rig, i: u16| {
        r.now += crate::time::Duration::from_millis(50);
        let [a, b] = i.to_be_bytes();
        r.s.handle_datagram(r.now, SocketAddr::from(([40, 1, a, b], 6881)), &ping);
    };
    datagrams(&mut r);
    (0..limits::DATAGRAMS as u16).for_each(|i| ask(&mut r, i));
    assert_eq!(datagrams(&mut r).len(), limits::DATAGRAMS, "each has its answer");
    (0..limits::DATAGRAMS as u16 + 1).for_each(|i| ask(&mut r, i));
    let sent = datagrams(&mut r);
    assert_eq!(sent.len(), limits::DATAGRAMS);
    let last = limits::DATAGRAMS.to_be_bytes();
    let last = SocketAddr::from(([40, 1, last[last.len() - 2], last[last.len() - 1]], 6881));
    assert!(!sent.contains(&last), "the last is lost");
    ask(&mut r, 7);
    assert_eq!(datagrams(&mut r).len(), 1, "and there is room again");
}

#[test]
fn nodes_that_peers_name_at_once_are_so_many() {
    let most = limits::DHT_PORTS as u16;
    for (same, pinged) in [(most - 1, 2), (most, 1)] {
        let mut r = lonely();
        let t = r.s.torrents().next().expect("one");
        let conn = r.peer(t, 1, true);
        datagrams(&mut r);
        // So often the same node, which is pinged once, and then another.
        let mut said = Vec::new();
        let ports = std::iter::repeat_n(7000, same.into()).chain([7001]);
        ports.for_each(|port| wire::encode(&Message::Port(port), &mut said));
        r.bytes(conn, &said);
        assert_eq!(datagrams(&mut r).len(), pinged, "after {same}");
        // There is room again as soon as they are asked.
        r.now += secs(10);
        r.says(conn, &Message::Port(7002));
        assert_eq!(datagrams(&mut r).len(), 1);
    }
}
