//! Every limit at the limit, and one past it.

use super::rig::*;
use crate::config::{Config, limits};
use crate::id::Block;
use crate::session::CloseReason;
use crate::wire::{self, Message};

#[test]
fn requests_that_wait() {
    let c = Content::pieces(64, 64);
    for fast in [true, false] {
        let (mut rig, t) = Rig::seed(&c);
        let conn = rig.peer(t, 1, fast);
        rig.says(conn, &Message::Interested);
        rig.said(conn);
        rig.wires.get_mut(&conn).unwrap().room = 0;
        let request = |i: u32| {
            let mut m = Vec::new();
            wire::encode(&Message::Request(blk(i / 64 % 64, i % 64)), &mut m);
            m
        };
        let ahead = 64;
        let all: Vec<u8> = (0..ahead).flat_map(request).collect();
        rig.bytes(conn, &all);
        let all: Vec<u8> = (ahead..ahead + limits::REQUESTS_IN as u32).flat_map(request).collect();
        rig.bytes(conn, &all);
        assert!(rig.is_open(conn));
        assert_eq!(rig.p(conn).trade.serving.len(), limits::REQUESTS_IN);
        rig.bytes(conn, &request(3000));
        assert_eq!(rig.is_open(conn), fast, "one too many is rejected, or closes a peer that knows no reject");
        if fast {
            assert_eq!(rig.p(conn).trade.serving.len(), limits::REQUESTS_IN);
        }
    }
}

#[test]
fn requests_that_cannot_be_served_close_the_peer() {
    let c = Content::pieces(4, 16);
    for (b, open) in [
        (Block::new(0, 0, limits::BLOCK_SERVED), true),
        (Block::new(0, 0, limits::BLOCK_SERVED + 1), false),
        (Block::new(0, 0, 0), false),
        (Block::new(4, 0, B), false),
        (Block::new(3, 15 * B, B + 1), false),
        (Block::new(0, u32::MAX, u32::MAX), false),
    ] {
        let (mut rig, t) = Rig::seed(&c);
        let conn = rig.peer(t, 1, true);
        rig.says(conn, &Message::Interested);
        rig.says(conn, &Message::Request(b));
        assert_eq!(rig.is_open(conn), open, "{b:?}");
    }
}

/// A peer that never reads, and says this over and over.
fn never_reads(rig: &mut Rig, conn: crate::id::ConnKey, what: &[Message<'_>]) -> usize {
    rig.said(conn);
    rig.wires.get_mut(&conn).unwrap().room = 0;
    let mut round = Vec::new();
    what.iter().for_each(|m| wire::encode(m, &mut round));
    let rounds = round.repeat(2000);
    let mut most = 0;
    for _ in 0..20 {
        rig.bytes(conn, &rounds);
        if !rig.is_open(conn) {
            return most;
        }
        most = most.max(rig.p(conn).outbox.control_len());
    }
    most
}

#[test]
fn a_peer_that_never_reads_cannot_make_us_hold_much() {
    let c = Content::pieces(8, 16);
    let slack = 40_000;
    // Requests that are rejected.
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    let reject = Message::Request(Block::new(7, 1, 2));
    assert!(never_reads(&mut rig, conn, &[reject; 8]) <= limits::OUTBOX + slack);
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))));
    // Requests that are taken back, each answered by a reject.
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::Interested);
    rig.wires.get_mut(&conn).unwrap().room = 0;
    for i in 0..64 {
        rig.says(conn, &Message::Request(blk(i / 16, i % 16)));
    }
    let churn = [Message::Request(blk(7, 0)), Message::Cancel(blk(7, 0))];
    let most = never_reads(&mut rig, conn, &churn);
    assert!(most <= limits::OUTBOX + slack, "{most}");
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::Stuck), "T19");
    // Choking and unchoking, each unchoke answered by requests.
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, false);
    rig.says(conn, &Message::Bitfield(&[0xFF]));
    let most = never_reads(&mut rig, conn, &[Message::Unchoke, Message::Choke]);
    assert!(most <= limits::OUTBOX + slack, "{most}");
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::Stuck), "T19");
}

#[test]
fn frames_and_extended_messages() {
    let c = Content::pieces(4, 1);
    for (len, id, open) in [
        (limits::FRAME, 99u8, true),
        (limits::FRAME + 1, 99, false),
        (limits::EXTENDED_FRAME, 20, true),
        (limits::EXTENDED_FRAME + 1, 20, false),
        (u32::MAX, 99, false),
        (u32::MAX, 5, false),
        (2, 5, true),
    ] {
        let (mut rig, t) = Rig::leech(&c);
        let conn = rig.peer(t, 1, true);
        let mut head = len.to_be_bytes().to_vec();
        head.push(id);
        rig.bytes(conn, &head);
        assert_eq!(rig.is_open(conn), open, "a message {id} of {len}");
        if open {
            assert!(rig.s.memory_of(conn) < 4096, "nothing is set aside for what has not come");
        }
    }
}

#[test]
fn an_idle_connection_is_small() {
    let c = Content::pieces(64, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::HaveAll);
    assert!(rig.s.memory_of(conn) < 1536, "{} bytes", rig.s.memory_of(conn));
}

#[test]
fn dialling_keeps_to_its_limits_and_does_not_poll() {
    let c = Content::pieces(4, 1);
    let config = Config { half_open: 3, max_peers: 5, max_peers_torrent: 4, ..Config::default() };
    let mut rig = Rig::new(config);
    let (t, u) = (rig.add(&c, |_| {}), rig.add(&Content::of(8, B, &[(u64::from(B), false)]), |_| {}));
    for (key, third) in [(t, 1), (u, 2)] {
        rig.learn(key, (0..100).map(|n| std::net::SocketAddr::from(([10, 0, third, n], 6881))));
    }
    rig.pass(secs(1));
    assert_eq!(rig.dialled.len(), 3);
    let before = rig.ticks;
    rig.pass(secs(8));
    assert!(rig.ticks - before < 20, "{} ticks while nothing can be done", rig.ticks - before);
    rig.pass(secs(600));
    let of = |rig: &Rig, third: u8| {
        rig.dialled.iter().filter(|d| matches!(d.1.ip(), std::net::IpAddr::V4(ip) if ip.octets()[2] == third)).count()
    };
    assert!(of(&rig, 1) > 20 && of(&rig, 2) > 20, "each has its turn: {} and {}", of(&rig, 1), of(&rig, 2));
}

#[test]
fn running_out_of_sockets_does_not_use_up_the_addresses() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.learn(t, (0..100).map(|n| std::net::SocketAddr::from(([10, 0, 1, n], 6881))));
    let (mut tries, end) = (0, rig.now + secs(1200));
    while rig.now < end {
        while let Some((conn, _)) = rig.dialled.pop() {
            tries += 1;
            rig.hang_up(conn, CloseReason::Exhausted("too many open files".into()));
        }
        rig.pass(millis(100));
    }
    assert_eq!(rig.status(t).known, 100, "none is forgotten");
    assert!(tries < 20 * 1200, "{tries} attempts in twenty minutes");
    rig.pass(secs(5));
    assert!(!rig.dialled.is_empty(), "and they are still tried");
}

#[test]
fn without_a_network_no_address_is_used_up_and_with_one_again_all_are_dialled_at_once() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    rig.hang_up(conn, CloseReason::NoNetwork("gone".into()));
    rig.learn(t, (0..10).map(|n| std::net::SocketAddr::from(([10, 0, 1, n], 6881))));
    let end = rig.now + secs(1200);
    while rig.now < end {
        while let Some((conn, _)) = rig.dialled.pop() {
            rig.hang_up(conn, CloseReason::NoNetwork("gone".into()));
        }
        rig.pass(millis(100));
    }
    assert_eq!((rig.status(t).known, rig.s.stats(rig.now).exhausted), (11, 0), "none is forgotten, or out of sockets");
    while let Some((conn, _)) = rig.dialled.pop() {
        rig.hang_up(conn, CloseReason::NoNetwork("gone".into()));
    }
    assert!(rig.dialled.is_empty());
    rig.s.on_network(rig.now);
    rig.pass(millis(200));
    let mut dialled: Vec<_> = rig.dialled.iter().map(|d| d.1).collect();
    dialled.sort_unstable();
    dialled.dedup();
    assert!(dialled.len() >= 10, "{dialled:?}");
}

#[test]
fn timers_do_not_pile_up() {
    let c = Content::pieces(4, 4);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    rig.said(conn);
    // A peer that refuses one request after the other gets a nearer deadline each time.
    for _ in 0..600 {
        let b = rig.p(conn).trade.asked[0].block;
        rig.says(conn, &Message::Reject(b));
        rig.pass(secs(2));
        assert!(!rig.p(conn).trade.asked.is_empty());
    }
    // Each of them left a timer behind that is stale now, and must not arm the peer anew when it fires.
    for _ in 0..100 {
        rig.says(conn, &Message::KeepAlive);
        rig.pass(secs(2));
    }
    assert!(rig.s.timers.len() < 20, "{} timers", rig.s.timers.len());
}

#[test]
fn who_was_dialled_finds_that_others_took_the_room() {
    let c = Content::pieces(4, 1);
    for (max_peers, max_peers_torrent) in [(3, 2), (2, 3)] {
        let (mut rig, t) = Rig::leech_with(&c, Config { max_peers, max_peers_torrent, ..Config::default() });
        rig.learn(t, [ip(9)]);
        let out = rig.dialled[0].0;
        rig.peer(t, 1, true);
        rig.peer(t, 2, true);
        rig.connect(out);
        let hello = rig.handshake(t, id(9), true);
        rig.bytes(out, &hello);
        assert_eq!(rig.why_closed(out), Some(&CloseReason::TooManyPeers));
        assert_eq!(rig.s.stats(rig.now).peers, 2);
        rig.s.invariants();
    }
}

#[test]
fn t17_blocks_that_nobody_asked_for_are_dropped_and_end_it_at_a_limit() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, true);
    (0..limits::UNASKED).for_each(|_| rig.gives(conn, blk(0, 0)));
    assert!(rig.is_open(conn));
    assert_eq!((rig.status(t).have, rig.status(t).wasted), (0, u64::from(limits::UNASKED * B)));
    rig.gives(conn, blk(0, 0));
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(why)) if why.contains("nobody asked for")));
}

#[test]
fn attempts_to_connect_under_way_at_once() {
    let mut rig = Rig::new(Config::default());
    let t = rig.add(&Content::pieces(4, 1), |_| {});
    rig.learn(t, (0..4 * limits::HALF_OPEN as u8).map(|n| std::net::SocketAddr::from(([10, 0, 1, n], 6881))));
    rig.pass(secs(1));
    assert_eq!(rig.dialled.len(), limits::HALF_OPEN);
}
