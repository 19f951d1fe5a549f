//! How long an answer is to whoever has not shown that it is where it seems to be.

use std::net::SocketAddr;

use crate::config::DhtConfig;
use crate::dht::krpc::{self, Body, Contact, Method, Query, Reply};
use crate::dht::{Dht, NodeId};
use crate::time::{Duration, Instant};

/// Node `i`, each in a network of its own.
fn node(i: u8) -> Contact {
    let addr = SocketAddr::from(([50 + i, i, 7, 7], 6881));
    Contact { id: NodeId::new([i.wrapping_mul(31); 20]).for_ip(addr.ip()), addr }
}

/// A node that knows eight others, and when.
fn acquainted() -> (Dht, Instant) {
    let config = DhtConfig { bootstrap: Vec::new(), read_only: false };
    let (mut dht, mut now) = (Dht::new(Instant::ZERO, config, &[9; 32], None), Instant::ZERO);
    for other in (1..=8).map(node) {
        now += Duration::from_secs(1);
        let ping = Query { id: other.id, method: Method::Ping, want: None, read_only: false };
        dht.handle(now, other.addr, &krpc::encode_query(b"aa", &ping));
        // It asked, so it is asked back, and whoever answers is known.
        while let Some((to, data)) = dht.poll_datagram() {
            let message = krpc::parse(&data, false).expect("what we send can be read");
            if let (true, Body::Query(_)) = (to == other.addr, &message.body) {
                let (nodes, nodes6, values) = (Vec::new(), Vec::new(), Vec::new());
                let reply = Reply { id: other.id, to, tid: message.tid, token: None, nodes, nodes6, values };
                dht.handle(now, to, &reply.encode(1024).expect("it fits"));
            }
        }
    }
    assert_eq!(dht.counts().nodes, (8, 0));
    (dht, now + Duration::from_secs(60))
}

/// Who is asked: a stranger's question of so many bytes, and how long the answer is and how many nodes it names.
fn asks(dht: &mut Dht, now: Instant, from: SocketAddr, pad: usize) -> (usize, usize, usize) {
    let method = Method::FindNode { target: NodeId::new([5; 20]) };
    let query = Query { id: NodeId::new([77; 20]), method, want: None, read_only: true };
    let mut data = krpc::encode_query(b"aa", &query);
    // A key that means nothing, the last of all.
    data.pop();
    data.extend(format!("1:z{pad}:{}e", "z".repeat(pad)).bytes());
    dht.handle(now, from, &data);
    let (to, answer) = dht.poll_datagram().expect("an answer");
    assert_eq!((to, dht.poll_datagram()), (from, None));
    let message = krpc::parse(&answer, false).expect("what we send can be read");
    let Body::Response(response) = message.body else { panic!("{message:?}") };
    (data.len(), answer.len(), response.nodes.len())
}

#[test]
fn a_stranger_gets_three_bytes_for_two_and_no_more() {
    let (mut dht, mut now) = acquainted();
    let mut named = std::collections::BTreeSet::new();
    for pad in 0..250u8 {
        now += Duration::from_secs(1);
        let stranger = SocketAddr::from(([90, pad, 1, 1], 6881));
        let (asked, got, nodes) = asks(&mut dht, now, stranger, pad.into());
        assert!(2 * got <= 3 * asked, "{got} for {asked}");
        // And no less: one node more, of 26 bytes, would have been too much.
        assert!(nodes == 8 || 2 * (got + 26) > 3 * asked, "{got} for {asked}, with {nodes} nodes");
        named.insert(nodes);
    }
    assert!(named.contains(&8) && named.len() > 3, "{named:?}");
}

#[test]
fn who_has_answered_us_gets_all_of_it() {
    let (mut dht, now) = acquainted();
    let (asked, got, nodes) = asks(&mut dht, now, node(3).addr, 0);
    assert!(nodes == 7 && 2 * got > 3 * asked, "{got} for {asked}, with all nodes but itself: {nodes}");
}
