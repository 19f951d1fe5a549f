//! Peers that mean harm, by the numbers of the list of threats.

use super::rig::*;
use crate::config::{Config, limits};
use crate::id::{Block, ConnKey};
use crate::session::CloseReason;
use crate::wire::{self, Message};
use std::net::SocketAddr;

fn six(net: u16, host: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, net, 0, 0, 0, host], 6881))
}

/// Messages as bytes.
fn said(messages: &[Message<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|m| wire::encode(m, &mut out));
    out
}

/// Asks so often, and reads the answers.
fn asks(rig: &mut Rig, conn: ConnKey, block: Block, times: u32) {
    for sent in (0..times).step_by(500) {
        let n = (times - sent).min(500) as usize;
        rig.bytes(conn, &said(&vec![Message::Request(block); n]));
        rig.said(conn);
    }
}

#[test]
fn all_peers_together_cannot_make_us_hold_much() {
    let c = Content::pieces(8, 16);
    let config = Config { max_peers_torrent: 200, unchoke_slots: 200, ..Config::default() };
    let (mut rig, t) = Rig::seed_with(&c, config);
    // Each stays within its own limit: what waits first, as blocks, and then a reject of 17 bytes for each request.
    let first = said(&[Message::Request(blk(0, 0)); 100]);
    let each = (limits::OUTBOX - (16 << 10)) / (100 * 17);
    let peers: Vec<_> = (0..=limits::OUTBOX_TOTAL / (each * 100 * 17))
        .map(|n| {
            let conn = rig.peer(t, n as u8 + 1, true);
            rig.says(conn, &Message::Interested);
            rig.said(conn);
            rig.wires.get_mut(&conn).unwrap().room = 0;
            (0..21 + each).for_each(|_| rig.bytes(conn, &first));
            conn
        })
        .collect();
    let held = |rig: &Rig| -> usize {
        peers.iter().filter(|c| rig.is_open(**c)).map(|c| rig.p(*c).outbox.control_len()).sum()
    };
    let stuck = peers.iter().filter(|c| rig.why_closed(**c) == Some(&CloseReason::Stuck)).count();
    assert!((1..4).contains(&stuck), "past the limit, those with most go: {stuck}");
    assert_eq!(rig.s.stats(rig.now).stuck, stuck as u64);
    assert!(held(&rig) <= limits::OUTBOX_TOTAL && held(&rig) > limits::OUTBOX_TOTAL - 2 * limits::OUTBOX);
    // Whoever reads is not the one that goes.
    let honest = rig.peer(t, 200, true);
    rig.said(honest);
    (0..100).for_each(|_| {
        rig.bytes(peers[0], &said(&[Message::Request(blk(0, 0))]));
        rig.bytes(honest, &said(&[Message::Request(blk(0, 0))]));
        rig.said(honest);
    });
    assert!(rig.is_open(honest));
}

#[test]
fn messages_that_are_not_finished_cannot_make_us_hold_much() {
    let c = Content::pieces(8, 16);
    let config = Config { max_peers_torrent: 200, ..Config::default() };
    let (mut rig, t) = Rig::seed_with(&c, config);
    // All but the last byte of the longest message, from as many peers as it takes.
    let mut most = vec![0; limits::EXTENDED_FRAME as usize + 3];
    most[..4].copy_from_slice(&limits::EXTENDED_FRAME.to_be_bytes());
    most[4] = 20;
    let n = (limits::OUTBOX_TOTAL / limits::EXTENDED_FRAME as usize) as u8;
    let peers: Vec<_> = (0..=n + 4)
        .map(|i| {
            let conn = rig.peer(t, i + 1, true);
            rig.bytes(conn, &most);
            conn
        })
        .collect();
    let open: Vec<_> = peers.iter().filter(|c| rig.is_open(**c)).collect();
    assert!((n.into()..=usize::from(n) + 1).contains(&(open.len() + 1)), "{} peers hold all but a byte", open.len());
    let gone = peers.iter().filter(|c| rig.why_closed(**c) == Some(&CloseReason::Stuck)).count();
    assert_eq!(gone + open.len(), peers.len());
    // Whoever finishes is let alone.
    let honest = rig.peer(t, 200, true);
    most.push(0);
    rig.bytes(honest, &most);
    assert!(rig.is_open(honest));
}

#[test]
fn t20_whoever_keeps_asking_while_choked_is_closed() {
    let c = Content::pieces(20, 2);
    for allowed_fast in [false, true] {
        let (mut rig, t) = Rig::seed(&c);
        let conn = rig.peer(t, 1, true);
        rig.said(conn);
        let granted = rig.p(conn).trade.granted.clone();
        let piece = if allowed_fast { granted[0].get() } else { (0..20).find(|i| !granted.contains(&p(*i))).unwrap() };
        let free = if allowed_fast { 2 * 2 * limits::ALLOWED_FAST as u32 } else { 0 };
        asks(&mut rig, conn, blk(piece, 0), free + limits::REJECTS);
        assert!(rig.is_open(conn), "at the limit");
        rig.says(conn, &Message::Request(blk(piece, 0)));
        assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))), "one past it");
    }
    // An unchoke forgives.
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    for _ in 0..3 {
        asks(&mut rig, conn, blk(7, 1), limits::REJECTS);
        rig.says(conn, &Message::Interested);
        assert!(!rig.p(conn).choking);
        rig.says(conn, &Message::NotInterested);
        rig.pass(secs(60));
    }
    assert!(rig.is_open(conn));
}

#[test]
fn t21_a_flood_of_haves_costs_nothing_and_two_accounts_are_one_too_many() {
    let c = Content::pieces(64, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, true);
    rig.said(conn);
    let haves: Vec<u8> = (0..63).flat_map(|i| said(&[Message::Have(p(i))])).collect();
    let memory = {
        rig.bytes(conn, &haves);
        rig.s.memory_of(conn)
    };
    (0..1000).for_each(|_| rig.bytes(conn, &haves));
    assert!(rig.is_open(conn));
    assert_eq!((rig.s.memory_of(conn), rig.said(conn)), (memory, vec!["interested".to_owned()]));
    rig.s.invariants();
    rig.says(conn, &Message::HaveNone);
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))));
    let conn = rig.peer(t, 2, true);
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::HaveNone);
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))));
}

#[test]
fn t26_the_last_pieces_are_not_held_back_by_one_that_claims_all_and_sends_nothing() {
    let c = Content::pieces(8, 2);
    let (mut rig, t) = Rig::leech(&c);
    let poison = rig.seeder(t, 1);
    assert!(!requests(&rig.said(poison)).is_empty());
    let honest = rig.seeder(t, 2);
    let begin = rig.now;
    while !rig.status(t).is_complete() && rig.now < begin + secs(60) {
        let said = rig.said(honest);
        rig.answers(honest, &said);
        rig.pass(millis(500));
    }
    let took = rig.now - begin;
    assert!(rig.status(t).is_complete() && took <= secs(30), "{took:?}");
    // It is not worth its place when someone else wants it.
    rig.pass(limits::EVICT_IDLE);
    assert!(!rig.is_open(poison) || rig.s.shed(rig.now));
}

#[test]
fn t29_extension_dictionaries() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    rig.said(conn);
    let memory = rig.s.memory_of(conn);
    let names: String = (0..8000).map(|i| format!("5:{i:05}i{}e", i % 256)).collect();
    for text in [
        format!("d1:md{names}ee"),
        "d1:md11:upload_onlyi99999999999999999999eee".to_owned(),
        "d1:md11:upload_onlyi-3eee".to_owned(),
        "d1:m4:teste".to_owned(),
        "d1:mle4:reqqi2147483648e6:yourip3:abc1:v0:1:pi0ee".to_owned(),
        "d4:reqqi0e6:yourip17:aaaaaaaaaaaaaaaaae".to_owned(),
        "d4:reqqi-1ee".to_owned(),
        "d".repeat(1000),
        "l".repeat(10_000),
    ] {
        rig.says(conn, &Message::Extended { id: 0, payload: text.as_bytes() });
        assert!(rig.is_open(conn), "{}", &text[..30.min(text.len())]);
        let asks = rig.p(conn).target();
        assert!((1..=limits::REQUESTS_OUT).contains(&asks), "{asks}");
    }
    assert_eq!(rig.p(conn).ext.get(crate::wire::Ext::UploadOnly), None);
    assert!(rig.s.memory_of(conn) <= memory + 64, "nothing of it is kept");
}

#[test]
fn what_a_peer_suggests_and_allows_is_remembered_up_to_a_limit() {
    let n = limits::ALLOWED_FAST_IN as u32 + 8;
    let c = Content::pieces(n, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, true);
    for i in 0..n {
        rig.says(conn, &Message::Suggest(p(i)));
        rig.says(conn, &Message::AllowedFast(p(i)));
        assert_eq!(rig.p(conn).trade.suggested.len(), limits::SUGGESTED.min(i as usize + 1));
        assert_eq!(rig.p(conn).trade.allowed.len(), limits::ALLOWED_FAST_IN.min(i as usize + 1));
    }
    rig.says(conn, &Message::Suggest(p(n)));
    rig.says(conn, &Message::AllowedFast(p(u32::MAX)));
    assert!(rig.is_open(conn));
}

#[test]
fn t52_a_ban_holds_for_all_addresses_of_a_network() {
    let c = Content::pieces(1, 2);
    let (mut rig, t) = Rig::leech(&c);
    let join = |rig: &mut Rig, addr, n| {
        let conn = rig.knock(addr).unwrap();
        let hello = rig.handshake(t, id(n), true);
        rig.bytes(conn, &hello);
        conn
    };
    let liar = join(&mut rig, six(1, 1), 1);
    let accomplice = join(&mut rig, six(1, 2), 2);
    let other = join(&mut rig, six(2, 1), 3);
    rig.says(liar, &Message::HaveAll);
    rig.says(liar, &Message::Unchoke);
    rig.gives_bad(liar, blk(0, 0));
    rig.gives(liar, blk(0, 1));
    assert_eq!(rig.why_closed(liar), Some(&CloseReason::Banned));
    assert_eq!(rig.why_closed(accomplice), Some(&CloseReason::Banned));
    assert!(rig.is_open(other));
    let again = join(&mut rig, six(1, 77), 4);
    assert_eq!(rig.why_closed(again), Some(&CloseReason::Banned));
}
