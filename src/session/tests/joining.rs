//! Handshakes, greetings, second connections, and how connections end.

use super::rig::*;
use crate::config::{Config, limits};
use crate::session::{Alert, CloseReason};
use crate::time::Instant;
use crate::wire::Message;

#[test]
fn a_caller_may_split_its_handshake_anywhere() {
    let c = Content::pieces(4, 1);
    for cut in 1..68 {
        let (mut rig, t) = Rig::leech(&c);
        let conn = rig.knock(ip(1)).unwrap();
        let hello = rig.handshake(t, id(1), true);
        rig.bytes(conn, &hello[..cut]);
        let answered: &[&str] = if cut >= 48 { &["handshake"] } else { &[] };
        assert_eq!(rig.said(conn), answered, "{cut} bytes are in");
        rig.bytes(conn, &hello[cut..]);
        let rest: &[&str] = if cut >= 48 { &["have none"] } else { &["handshake", "have none"] };
        assert_eq!(rig.said(conn), rest);
        assert!(rig.p(conn).is_live() && rig.p(conn).fast);
    }
}

#[test]
fn messages_may_lie_right_behind_the_handshake() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.knock(ip(1)).unwrap();
    let mut hello = rig.handshake(t, id(1), true);
    crate::wire::encode(&Message::HaveAll, &mut hello);
    rig.bytes(conn, &hello);
    assert_eq!(rig.said(conn), ["handshake", "have none", "interested"]);
}

#[test]
fn we_speak_first_when_we_dial() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.s.add_peer(rig.now, t, ip(1)).unwrap();
    rig.drive();
    let (conn, addr) = rig.dialled[0];
    assert_eq!(addr, ip(1));
    rig.connect(conn);
    assert_eq!(rig.said(conn), ["handshake"]);
    let hello = rig.handshake(t, id(1), false);
    for byte in hello {
        rig.bytes(conn, &[byte]);
    }
    assert!(rig.p(conn).is_live());
    assert_eq!(rig.said(conn), [""; 0], "nothing is here, and without BEP 6 that is said by silence");
    assert_eq!(rig.status(t).connecting, 0);
    rig.hang_up(conn, CloseReason::Eof);
    assert_eq!(rig.s.torrents.get(t).unwrap().swarm.next_due(), Some(rig.now + secs(2)), "the user named it");
}

#[test]
fn strangers_and_wrong_torrents_are_sent_away() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.knock(ip(1)).unwrap();
    rig.bytes(conn, b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))));
    let conn = rig.knock(ip(1)).unwrap();
    let mut hello = rig.handshake(t, id(1), true);
    hello[30] ^= 1;
    rig.bytes(conn, &hello);
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::UnknownInfoHash));
    // The one we dialled answers for another torrent.
    rig.s.add_peer(rig.now, t, ip(2)).unwrap();
    rig.drive();
    let conn = rig.dialled[0].0;
    rig.connect(conn);
    rig.bytes(conn, &hello);
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::UnknownInfoHash));
    assert!(rig.alerts.iter().all(|a| !matches!(a, Alert::PeerClosed { .. })), "they never counted as connected");
}

#[test]
fn we_do_not_keep_talking_to_ourselves() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.learn(t, [ip(9)]);
    let out = rig.dialled[0].0;
    rig.connect(out);
    let hello: Vec<u8> = rig.wires[&out].from.clone();
    // The other end of that stream.
    let inn = rig.knock(ip(8)).unwrap();
    rig.bytes(inn, &hello);
    let answer = rig.wires.get(&inn).map(|w| w.from.clone()).expect("it is answered, or the dialling end never learns");
    rig.bytes(out, &answer);
    assert_eq!(rig.why_closed(out), Some(&CloseReason::Ourselves));
    // Whoever copies our id gets no further and holds no place for long.
    rig.bytes(inn, &[0; 1000]);
    rig.pass(secs(10));
    assert!(!rig.is_open(inn));
    rig.pass(secs(700));
    assert_eq!(rig.dialled.len(), 1, "never again");
}

/// Two connections between the same two, made at the same time; `higher`: our id is the higher one.
fn crossing(higher: bool, ours_first: bool) -> (bool, bool) {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let them = if higher { id(1) } else { id(255) };
    rig.s.add_peer(rig.now, t, ip(1)).unwrap();
    rig.drive();
    let ours = rig.dialled[0].0;
    rig.connect(ours);
    let theirs = rig.knock(std::net::SocketAddr::from(([10, 0, 0, 1], 40_000))).unwrap();
    let hello = rig.handshake(t, them, true);
    for conn in if ours_first { [ours, theirs] } else { [theirs, ours] } {
        rig.bytes(conn, &hello);
    }
    let open = (rig.is_open(ours), rig.is_open(theirs));
    for conn in [ours, theirs] {
        assert!(rig.why_closed(conn).is_none_or(|w| *w == CloseReason::Duplicate));
    }
    assert_eq!(rig.status(t).peers, 1);
    rig.pass(secs(100));
    assert_eq!(rig.dialled.len(), 1, "the address of a connected peer is not dialled again");
    open
}

#[test]
fn of_two_connections_both_sides_keep_the_one_made_by_the_higher_id() {
    for ours_first in [false, true] {
        assert_eq!(crossing(true, ours_first), (true, false));
        assert_eq!(crossing(false, ours_first), (false, true));
    }
}

#[test]
fn a_second_call_by_the_same_peer_is_refused() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let first = rig.peer(t, 1, true);
    let second = rig.knock(ip(2)).unwrap();
    let hello = rig.handshake(t, id(1), true);
    rig.bytes(second, &hello);
    assert_eq!(rig.why_closed(second), Some(&CloseReason::Duplicate));
    assert!(rig.is_open(first));
    // From the very address of a connected peer, with another id.
    let third = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake(t, id(3), true);
    rig.bytes(third, &hello);
    assert_eq!(rig.why_closed(third), Some(&CloseReason::Duplicate));
    assert_eq!(rig.status(t).peers, 1);
}

#[test]
fn a_banned_host_that_calls_again_is_refused_and_nothing_is_miscounted() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let bad = rig.seeder(t, 1);
    let said = rig.said(bad);
    rig.gives_bad(bad, requests(&said)[0]);
    assert_eq!(rig.why_closed(bad), Some(&CloseReason::Banned));
    for _ in 0..40 {
        let again = rig.knock(ip(1)).unwrap();
        let hello = rig.handshake(t, id(2), true);
        rig.bytes(again, &hello);
        assert_eq!(rig.why_closed(again), Some(&CloseReason::Banned));
        rig.closed.clear();
    }
    assert_eq!(rig.status(t).peers, 0);
}

#[test]
fn what_we_have_decides_the_greeting() {
    let c = Content::pieces(10, 1);
    let (mut rig, t) = Rig::seed(&c);
    let fast = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake(t, id(1), true);
    rig.bytes(fast, &hello);
    let said = rig.said(fast);
    assert_eq!(said[..2], ["handshake", "have all"]);
    let set = crate::wire::allowed_fast_set(c.meta.info_hash.unwrap(), std::net::Ipv4Addr::new(10, 0, 0, 1), 10, 5);
    let wanted: Vec<_> = set.iter().map(|p| format!("allowed fast {p}")).collect();
    assert_eq!(said[2..], wanted);
    let slow = rig.knock(ip(2)).unwrap();
    let hello = rig.handshake(t, id(2), false);
    rig.bytes(slow, &hello);
    assert_eq!(rig.said(slow), ["handshake", "bitfield 11111111 11000000"]);
    let ext = rig.knock(ip(3)).unwrap();
    let hello = rig.handshake_ext(t, id(3));
    rig.bytes(ext, &hello);
    let said = rig.said(ext);
    assert!(said[1].starts_with("extended 0 d") && said[1].contains("11:upload_onlyi1e"), "{said:?}");
    assert!(said[1].contains("4:reqqi2000e") && said[1].contains("1:pi6881e"), "{said:?}");
}

#[test]
fn timeouts_are_exact() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let ms = millis(1);
    // Nobody answers the call.
    rig.s.add_peer(rig.now, t, ip(1)).unwrap();
    rig.drive();
    let mute = rig.dialled[0].0;
    rig.pass(limits::CONNECT_TIMEOUT - ms);
    assert!(rig.is_open(mute));
    rig.pass(ms);
    assert_eq!(rig.why_closed(mute), Some(&CloseReason::ConnectTimeout));
    // It answers, and then says nothing, or drips.
    rig.pass(secs(2));
    let slow = rig.dialled[1].0;
    rig.connect(slow);
    let drip = rig.knock(ip(2)).unwrap();
    let hello = rig.handshake(t, id(2), true);
    for byte in &hello[..9] {
        rig.bytes(drip, &[*byte]);
        rig.pass(secs(1));
    }
    assert_eq!(limits::HANDSHAKE_TIMEOUT, secs(10));
    rig.pass(limits::HANDSHAKE_TIMEOUT - secs(9) - ms);
    assert!(rig.is_open(slow) && rig.is_open(drip));
    rig.pass(ms);
    assert_eq!(rig.why_closed(slow), Some(&CloseReason::HandshakeTimeout));
    assert_eq!(rig.why_closed(drip), Some(&CloseReason::HandshakeTimeout));
    // A live peer that says nothing more.
    let conn = rig.peer(t, 3, true);
    rig.said(conn);
    // What may come a little early or late comes at whole seconds.
    let since = rig.now;
    let until = |rig: &Rig, at: Instant| at - rig.now;
    rig.pass(until(&rig, (since + limits::KEEP_ALIVE).floor_second()) - ms);
    assert_eq!(rig.said(conn), [""; 0]);
    rig.pass(ms);
    assert_eq!(rig.said(conn), ["keep-alive"]);
    rig.pass(until(&rig, (since + limits::PEER_TIMEOUT).ceil_second()) - ms);
    assert!(rig.is_open(conn));
    rig.pass(ms);
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::Idle));
}

#[test]
fn a_keep_alive_now_and_then_keeps_a_peer() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, true);
    rig.said(conn);
    for _ in 0..10 {
        rig.pass(secs(120));
        rig.says(conn, &Message::KeepAlive);
    }
    assert!(rig.is_open(conn));
    assert_eq!(rig.said(conn).len(), 1200 / 90);
}

#[test]
fn counters_return_to_zero_from_every_phase() {
    let c = Content::pieces(4, 1);
    let enders: [fn(&mut Rig, crate::id::TorrentKey); 4] = [
        |rig, t| rig.s.pause(rig.now, t).unwrap(),
        |rig, t| rig.s.remove(rig.now, t, false).unwrap(),
        |rig, _| rig.s.shutdown(rig.now),
        |rig, _| {
            for conn in rig.s.conns.keys().collect::<Vec<_>>() {
                rig.hang_up(conn, CloseReason::Io("reset".into()));
            }
        },
    ];
    for (i, end) in enders.iter().enumerate() {
        let (mut rig, t) = Rig::leech(&c);
        rig.s.add_peer(rig.now, t, ip(1)).unwrap();
        rig.s.add_peer(rig.now, t, ip(2)).unwrap();
        rig.drive();
        let (_connecting, greeting) = (rig.dialled[0].0, rig.dialled[1].0);
        rig.connect(greeting);
        let silent = rig.knock(ip(3)).unwrap();
        let half = rig.knock(ip(4)).unwrap();
        let hello = rig.handshake(t, id(4), true);
        rig.bytes(half, &hello[..60]);
        rig.seeder(t, 5);
        assert_eq!((rig.s.strangers, rig.s.stats.half_open, rig.s.stats.peers), (2, 2, 1));
        end(&mut rig, t);
        rig.drive();
        rig.hang_up(silent, CloseReason::Eof);
        assert_eq!((rig.s.strangers, rig.s.stats.half_open, rig.s.stats.peers), (0, 0, 0), "ended in way {i}");
        assert!(rig.s.conns.is_empty());
    }
}

#[test]
fn full_is_full_and_room_is_room() {
    let c = Content::pieces(4, 1);
    let config = Config { max_peers: 3, max_peers_torrent: 2, ..Config::default() };
    let mut rig = Rig::new(config);
    let t = rig.add(&c, |_| {});
    let u = rig.add(&Content::of(8, B, &[(u64::from(B), false)]), |_| {});
    let first = rig.peer(t, 1, true);
    rig.peer(t, 2, true);
    let third = rig.knock(ip(3)).unwrap();
    let hello = rig.handshake(t, id(3), true);
    rig.bytes(third, &hello);
    assert_eq!(rig.why_closed(third), Some(&CloseReason::TooManyPeers), "two a torrent");
    let early = rig.knock(ip(5)).unwrap();
    rig.peer(u, 4, true);
    let hello = rig.handshake(u, id(5), true);
    rig.bytes(early, &hello);
    assert_eq!(rig.why_closed(early), Some(&CloseReason::TooManyPeers), "three in all");
    rig.hang_up(first, CloseReason::Eof);
    rig.peer(t, 7, true);
}

#[test]
fn where_a_caller_listens_is_learned_once() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    for port in 7000..7100u32 {
        let payload = format!("d1:pi{port}ee");
        rig.says(conn, &Message::Extended { id: 0, payload: payload.as_bytes() });
    }
    assert!(rig.status(t).known <= 2, "{} addresses from one peer", rig.status(t).known);
    rig.hang_up(conn, CloseReason::Eof);
    rig.pass(secs(21));
    assert_eq!(rig.dialled.iter().map(|d| d.1.port()).collect::<Vec<_>>(), [7000]);
}

#[test]
fn an_extension_handshake_that_is_no_dictionary_is_ignored() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    rig.says(conn, &Message::Extended { id: 0, payload: b"le" });
    rig.says(conn, &Message::Extended { id: 200, payload: b"?" });
    assert!(rig.is_open(conn));
    rig.says(conn, &Message::Extended { id: 0, payload: b"d4:reqqi-5ee" });
    rig.says(conn, &Message::Extended { id: 0, payload: b"d4:reqqi0ee" });
    assert!(rig.p(conn).target() >= 1);
    rig.says(conn, &Message::Extended { id: 0, payload: b"d4:reqqi99999999999ee" });
    assert!(rig.p(conn).reqq <= limits::REQUESTS_OUT as u32);
}
