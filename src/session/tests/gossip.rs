//! Peer exchange: whom peers are told of, and which of those they name are dialled.

use std::net::SocketAddr;

use super::rig::*;
use crate::blocklist::Blocklist;
use crate::config::limits;
use crate::id::{ConnKey, TorrentKey};
use crate::session::CloseReason;
use crate::wire::pex::{Pex, REACHABLE};
use crate::wire::{Ext, Message};

/// The peers' own number for `ut_pex`.
const ID: u8 = 8;

fn lan(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 7000))
}

impl Rig {
    /// A peer that dialled us, listens on port 7000 and takes such messages.
    fn gossip(&mut self, t: TorrentKey, addr: SocketAddr, n: u8) -> ConnKey {
        let conn = self.knock(addr).expect("there is room");
        let hello = self.handshake_ext(t, id(n));
        self.bytes(conn, &hello);
        let payload = format!("d1:md6:ut_pexi{ID}ee1:pi7000ee");
        self.says(conn, &Message::Extended { id: 0, payload: payload.as_bytes() });
        conn
    }
    fn names(&mut self, conn: ConnKey, addrs: &[SocketAddr]) {
        let message = Pex { added: addrs.iter().map(|a| (*a, 0)).collect(), dropped: Vec::new() };
        self.says(conn, &Message::Extended { id: Ext::Pex.id(), payload: &message.encode() });
    }
    /// What it was told, each message as its added and dropped addresses.
    fn told(&mut self, conn: ConnKey) -> Vec<Pex> {
        let Some(w) = self.wires.get_mut(&conn) else { return Vec::new() };
        let (mut out, mut at) = (Vec::new(), 0);
        if w.from.starts_with(crate::wire::PROTOCOL) {
            at = crate::wire::HANDSHAKE_LEN;
        }
        while let Some((m, n)) = crate::wire::parse_frame(&w.from[at..], 1 << 20).unwrap() {
            if let Message::Extended { id: ID, payload } = m {
                out.extend(Pex::parse(payload, 1000));
            }
            at += n;
        }
        w.from.drain(..at);
        out
    }
    fn dialled_addrs(&self) -> Vec<SocketAddr> {
        self.dialled.iter().map(|d| d.1).collect()
    }
}

#[test]
fn no_peer_on_the_internet_listens_below_a_port() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let far = |n: u8, port: u16| SocketAddr::from(([n, 1, 1, 1], port));
    let low = limits::PORT_LEAST;
    let teller = rig.gossip(t, far(60, 6881), 1);
    rig.names(teller, &[far(50, low - 1), far(51, low), far(52, 22), far(53, low + 1)]);
    rig.pass(secs(2));
    let mut dialled = rig.dialled_addrs();
    dialled.sort_unstable();
    assert_eq!(dialled, [far(51, low), far(53, low + 1)]);
    // At home anybody may.
    rig.dialled.clear();
    let teller = rig.gossip(t, ip(2), 2);
    rig.names(teller, &[SocketAddr::from(([10, 0, 0, 77], low - 1))]);
    rig.pass(secs(2));
    assert_eq!(rig.dialled_addrs(), [SocketAddr::from(([10, 0, 0, 77], low - 1))]);
}

fn added(p: &Pex) -> Vec<SocketAddr> {
    p.added.iter().map(|(a, _)| *a).collect()
}

#[test]
fn each_is_told_of_the_others_and_then_of_what_changes() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.s.add_peer(rig.now, t, lan(9)).unwrap();
    rig.drive();
    let ours = rig.dialled[0].0;
    rig.connect(ours);
    let hello = rig.handshake_ext(t, id(9));
    rig.bytes(ours, &hello);
    let first = rig.gossip(t, ip(1), 1);
    let second = rig.gossip(t, ip(2), 2);
    assert!(rig.told(first).is_empty(), "not at once: there may be more");
    rig.pass(secs(2));
    let told = rig.told(first);
    assert_eq!((told.len(), added(&told[0])), (1, vec![lan(9), lan(2)]));
    assert_eq!(told[0].added.iter().map(|(_, f)| *f).collect::<Vec<_>>(), [REACHABLE, 0], "one was dialled");
    assert_eq!(added(&rig.told(second)[0]), [lan(9), lan(1)]);
    // Nothing changes, nothing is said.
    rig.pass(secs(61));
    assert!(rig.told(first).is_empty());
    rig.gossip(t, ip(3), 3);
    rig.drive();
    rig.pass(secs(1));
    assert_eq!(added(&rig.told(first)[0]), [lan(3)]);
    rig.hang_up(second, CloseReason::Eof);
    rig.gossip(t, ip(4), 4);
    rig.pass(secs(57));
    assert!(rig.told(first).is_empty(), "once a minute");
    rig.pass(secs(4));
    let told = rig.told(first);
    assert_eq!((added(&told[0]), told[0].dropped.clone()), (vec![lan(4)], vec![lan(2)]));
}

#[test]
fn whoever_does_not_listen_or_does_not_ask_takes_no_part() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let first = rig.gossip(t, ip(1), 1);
    let mute = rig.peer(t, 2, true);
    rig.pass(secs(100));
    assert!(rig.told(first).is_empty(), "nobody knows where the other could be dialled");
    assert!(rig.told(mute).is_empty());
}

#[test]
fn a_private_torrent_has_none_of_it() {
    let mut c = Content::pieces(4, 1);
    c.meta.private = true;
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    assert!(!rig.said(conn)[1].contains("ut_pex"));
    rig.says(conn, &Message::Extended { id: 0, payload: b"d1:md6:ut_pexi8ee1:pi7000ee" });
    rig.gossip(t, ip(2), 2);
    rig.pass(secs(100));
    assert!(rig.told(conn).is_empty());
    rig.names(conn, &[lan(50)]);
    assert!(rig.dialled.is_empty());
}

#[test]
fn peers_that_are_named_are_dialled() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let teller = rig.gossip(t, ip(1), 1);
    rig.names(teller, &[lan(20), lan(21), "8.8.8.8:9000".parse().unwrap()]);
    assert_eq!(rig.dialled_addrs(), [lan(20), lan(21), "8.8.8.8:9000".parse().unwrap()]);
    assert_eq!(rig.status(t).known, 2 + 3, "the teller has two");
}

#[test]
fn news_from_far_away_of_what_is_near_are_not_believed() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let teller = rig.gossip(t, "9.9.9.9:5000".parse().unwrap(), 1);
    let bad = ["10.0.0.7:6881", "127.0.0.1:6881", "192.168.1.1:6881", "[fd00::1]:6881", "169.254.1.1:6881"];
    let more = ["8.8.4.4:25", "8.8.4.4:0", "224.0.0.1:6881", "0.0.0.0:6881", "[::1]:6881", "[fe80::1]:6881"];
    let bad: Vec<SocketAddr> = bad.iter().chain(&more).map(|a| a.parse().unwrap()).collect();
    rig.names(teller, &bad);
    assert!(rig.dialled.is_empty(), "{:?}", rig.dialled_addrs());
    // Nor are peers of our network told to it.
    rig.gossip(t, ip(2), 2);
    rig.pass(secs(100));
    assert!(rig.told(teller).is_empty());
}

#[test]
fn nobody_is_attacked_through_us() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let teller = rig.gossip(t, "9.9.9.9:5000".parse().unwrap(), 1);
    // Every minute the same victim on fifty ports, and ten thousand of its neighbours.
    for round in 0..20u32 {
        let victim = |i: u16| SocketAddr::from(([8, 8, 8, 8], 2000 + i));
        let near = |i: u32| SocketAddr::from(([8, 8, 8, ((round * 25 + i) % 250) as u8], 3000));
        rig.names(teller, &(0..25).map(victim).chain((0..25).map(near)).collect::<Vec<_>>());
        for (conn, _) in std::mem::take(&mut rig.dialled) {
            rig.hang_up(conn, CloseReason::ConnectTimeout);
        }
        rig.pass(secs(46));
    }
    let attempts = rig.closed.len();
    assert!(attempts <= 2 * limits::HEARSAY.0, "{attempts} attempts at one network");
    assert!(rig.status(t).known <= 1 + 1 + limits::HEARSAY.0);
}

#[test]
fn one_message_a_minute_is_read_and_a_flood_closes() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let teller = rig.gossip(t, ip(1), 1);
    rig.names(teller, &[lan(20)]);
    rig.names(teller, &[lan(21)]);
    assert_eq!(rig.dialled_addrs(), [lan(20)]);
    rig.pass(secs(45));
    let many: Vec<_> = (0..100).map(|n| SocketAddr::from(([20, n, 0, 1], 7000))).collect();
    rig.names(teller, &many);
    assert_eq!(rig.status(t).known, 2 + 1 + 50);
    (0..30).for_each(|_| rig.names(teller, &[lan(22)]));
    assert!(matches!(rig.why_closed(teller), Some(CloseReason::Protocol(_))));
}

#[test]
fn whoever_is_blocked_is_neither_let_in_nor_dialled() {
    let c = Content::pieces(4, 1);
    let (mut r, t) = Rig::leech(&c);
    let conn = r.gossip(t, ip(1), 1);
    let other = r.gossip(t, ip(2), 2);
    r.s.add_peer(r.now, t, lan(7)).unwrap();
    r.drive();
    let dialled = r.dialled.iter().find(|d| d.1 == lan(7)).expect("the user named it").0;
    let list = Blocklist::parse(b"10.0.0.2\n10.0.0.6-10.0.0.9\n").unwrap().list;
    r.s.set_blocklist(r.now, list);
    r.drive();
    assert_eq!(r.why_closed(other), Some(&CloseReason::Blocked));
    assert_eq!(r.why_closed(dialled), Some(&CloseReason::Blocked));
    assert!(r.is_open(conn));
    assert_eq!(r.knock(ip(2)), None);
    let mapped = SocketAddr::from((ip(2).ip().to_string().parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped(), 5));
    assert_eq!(r.knock(mapped), None);
    r.dialled.clear();
    r.names(conn, &[lan(8), lan(10)]);
    r.learn(t, [lan(9), lan(11)]);
    r.s.add_peer(r.now, t, lan(6)).unwrap();
    r.pass(secs(100));
    let mut seen = r.dialled_addrs();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [lan(10), lan(11)]);
    assert!(r.s.stats(r.now).blocked >= 4, "{}", r.s.stats(r.now).blocked);
    // With another list they are dialled.
    r.s.set_blocklist(r.now, Blocklist::default());
    r.pass(secs(30));
    assert!(r.dialled_addrs().contains(&lan(6)) && r.dialled_addrs().contains(&lan(7)), "{:?}", r.dialled_addrs());
    assert!(r.knock(ip(2)).is_some());
}

/// Its line is slow, and holds up most words until several come together.
#[test]
fn words_that_were_held_up_are_no_flood() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.gossip(t, lan(9), 9);
    for i in 0..100 {
        for _ in 0..if i % 5 == 0 { 3 } else { 0 } {
            rig.pass(secs(100));
            rig.says(conn, &Message::KeepAlive);
        }
        rig.names(conn, &[lan(10 + i % 5)]);
        assert!(rig.is_open(conn), "after {i}");
    }
    // 6,000 s are enough for 133, and 20 more.
    for left in (0..54).rev() {
        assert!(rig.is_open(conn), "{left} too few");
        rig.names(conn, &[lan(10)]);
    }
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))));
}
