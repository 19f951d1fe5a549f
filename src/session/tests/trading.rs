//! Downloading: interest, requests, and whom they go to.

use super::rig::*;
use crate::config::Config;
use crate::id::Block;
use crate::session::CloseReason;
use crate::wire::Message;

/// One request at a time is easier to follow.
fn one_by_one(rig: &mut Rig, conn: crate::id::ConnKey) {
    rig.p_mut(conn).reqq = 1;
}

#[test]
fn interest_follows_what_the_peer_has() {
    let c = Content::pieces(9, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, false);
    rig.says(conn, &Message::Have(p(8)));
    assert_eq!(rig.said(conn), ["interested"]);
    rig.says(conn, &Message::Have(p(8)));
    rig.says(conn, &Message::Have(p(0)));
    assert_eq!(rig.said(conn), [""; 0], "said once");
    rig.says(conn, &Message::Bitfield(&[0x80, 0x80]));
    assert_eq!(rig.said(conn), [""; 0], "a second account of the same");
    rig.says(conn, &Message::Unchoke);
    let said = rig.said(conn);
    assert_eq!(requests(&said).len(), 2);
    rig.answers(conn, &said);
    assert_eq!(rig.said(conn), ["not interested"], "and no word of pieces that it has");
    rig.says(conn, &Message::Have(p(9)));
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))), "there is no piece 9");
}

#[test]
fn bitfields_must_fit_the_torrent() {
    let c = Content::pieces(9, 1);
    for (bits, fits) in [(&[1u8][..], false), (&[1, 0x40], false), (&[1, 0, 0], false), (&[1, 0x80], true)] {
        let (mut rig, t) = Rig::leech(&c);
        let conn = rig.peer(t, 1, false);
        rig.says(conn, &Message::Bitfield(bits));
        assert_eq!(rig.is_open(conn), fits, "{bits:?}");
    }
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::HaveAll);
    assert_eq!(rig.said(conn), ["interested"]);
    rig.says(conn, &Message::HaveNone);
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))), "all, then none (T21)");
}

#[test]
fn a_peer_without_the_fast_extension_forgets_requests_when_it_chokes() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, false);
    rig.says(conn, &Message::Bitfield(&[0xF0]));
    rig.says(conn, &Message::Unchoke);
    let first = requests(&rig.said(conn));
    assert_eq!(first.len(), 4);
    rig.says(conn, &Message::Choke);
    assert!(rig.p(conn).trade.asked.is_empty());
    // One was on its way already: it is taken.
    rig.gives(conn, first[2]);
    assert!(rig.have(t).get(first[2].piece));
    rig.says(conn, &Message::Unchoke);
    let again = requests(&rig.said(conn));
    assert_eq!(again.len(), 3, "all others are asked for again");
    assert!(!again.contains(&first[2]));
}

#[test]
fn what_a_choke_gives_back_is_asked_of_others_at_once() {
    let c = Content::pieces(4, 4);
    for fast in [false, true] {
        let (mut rig, t) = Rig::leech(&c);
        let a = rig.peer(t, 1, fast);
        rig.says(a, &Message::Bitfield(&[0xF0]));
        rig.says(a, &Message::Unchoke);
        assert_eq!(requests(&rig.said(a)).len(), 16, "everything");
        // In the end game a block is asked of three at most: the fourth has nothing to do.
        let others = [2, 3, 4].map(|n| rig.seeder(t, n));
        assert_eq!(others.map(|o| rig.p(o).trade.asked.len()), [16, 16, 0]);
        let mut bytes = Vec::new();
        crate::wire::encode(&Message::Choke, &mut bytes);
        if fast {
            for x in rig.p(a).trade.asked.clone() {
                crate::wire::encode(&Message::Reject(x.block), &mut bytes);
            }
        }
        rig.bytes(a, &bytes);
        assert_eq!(rig.s.torrents.get(t).unwrap().picker.requested_at(a), 0);
        assert_eq!(rig.p(others[2]).trade.asked.len(), 16, "without waiting for a timer (fast: {fast})");
    }
}

#[test]
fn a_fast_peer_answers_or_rejects_and_rests_after_a_reject() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    let asked = requests(&rig.said(conn));
    rig.says(conn, &Message::Choke);
    assert_eq!(rig.p(conn).trade.asked.len(), 4, "each is still to be answered");
    rig.gives(conn, asked[0]);
    for b in &asked[1..] {
        rig.says(conn, &Message::Reject(*b));
    }
    assert!(rig.p(conn).trade.asked.is_empty());
    rig.says(conn, &Message::Unchoke);
    assert_eq!(requests(&rig.said(conn)).len(), 3);
    let now = rig.p(conn).trade.asked[0].block;
    rig.says(conn, &Message::Reject(now));
    assert_eq!(rig.said(conn), [""; 0], "not at once");
    rig.pass(millis(999));
    assert_eq!(rig.said(conn), [""; 0]);
    rig.pass(millis(1));
    assert_eq!(requests(&rig.said(conn)), [now]);
    // A reject of what was never asked is no offence; without BEP 6 any reject is.
    rig.says(conn, &Message::Reject(Block::new(0, 0, 1)));
    assert!(rig.is_open(conn));
    let plain = rig.peer(t, 2, false);
    rig.says(plain, &Message::Reject(now));
    assert!(matches!(rig.why_closed(plain), Some(CloseReason::Protocol(_))));
}

#[test]
fn an_empty_piece_is_a_reject_and_gives_the_block_back() {
    let c = Content::pieces(1, 2);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    for round in 0..50 {
        let asked = requests(&rig.said(conn));
        assert_eq!(asked.len(), 2, "round {round}");
        for b in asked {
            rig.bytes(conn, &crate::wire::piece_header(&Block { len: 0, ..b }));
        }
        assert_eq!(rig.s.torrents.get(t).unwrap().picker.requests_out(), 0);
        rig.pass(secs(1));
    }
    let asked = rig.said(conn);
    rig.answers(conn, &asked);
    assert!(rig.status(t).is_complete());
}

#[test]
fn while_choked_only_allowed_fast_pieces_are_asked_for() {
    let c = Content::pieces(4, 2);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::AllowedFast(p(2)));
    assert_eq!(rig.said(conn), ["interested", "request 2.0", "request 2.1"]);
    rig.says(conn, &Message::AllowedFast(p(99)));
    rig.gives(conn, blk(2, 0));
    rig.gives(conn, blk(2, 1));
    assert!(rig.have(t).get(p(2)));
    assert_eq!(rig.said(conn), [""; 0]);
    // Refused after all: it is not asked for again while choked.
    rig.says(conn, &Message::AllowedFast(p(3)));
    assert_eq!(requests(&rig.said(conn)).len(), 2);
    rig.says(conn, &Message::Reject(blk(3, 0)));
    rig.says(conn, &Message::Reject(blk(3, 1)));
    rig.pass(secs(5));
    assert_eq!(rig.said(conn), [""; 0]);
}

#[test]
fn a_peer_that_snubs_us_keeps_one_request_and_the_others_go_elsewhere() {
    let c = Content::pieces(4, 4);
    let (mut rig, t) = Rig::leech(&c);
    let lazy = rig.seeder(t, 1);
    let asked = requests(&rig.said(lazy));
    assert_eq!(asked.len(), 16);
    rig.pass(secs(30) - millis(1));
    assert!(!rig.p(lazy).snubbed);
    rig.pass(millis(1));
    assert!(rig.p(lazy).snubbed);
    let said = rig.said(lazy);
    assert_eq!(said.len(), 15);
    assert!(said.iter().all(|s| s.starts_with("cancel ")), "{said:?}");
    assert_eq!(rig.p(lazy).trade.asked.len(), 1);
    let other = rig.seeder(t, 2);
    let said = rig.said(other);
    assert_eq!(requests(&said).len(), 16, "the one it kept too");
    // It comes round: the block it sends is worth having, and it is trusted again.
    rig.gives(lazy, asked[0]);
    assert!(!rig.p(lazy).snubbed);
    assert!(rig.said(other).contains(&format!("cancel {}.0", asked[0].piece)), "end game, the other way");
    rig.pass(secs(1));
    for x in requests(&said) {
        if x != asked[0] {
            rig.gives(other, x);
        }
    }
    assert!(rig.status(t).is_complete());
    assert_eq!(rig.status(t).wasted, 0);
}

#[test]
fn a_snubbed_peer_that_recovers_is_watched_again() {
    let c = Content::pieces(4, 4);
    let (mut rig, t) = Rig::leech(&c);
    let lazy = rig.seeder(t, 1);
    let first = requests(&rig.said(lazy))[0];
    rig.pass(secs(30));
    assert!(rig.p(lazy).snubbed);
    rig.gives(lazy, first);
    assert!(!rig.p(lazy).snubbed && rig.p(lazy).trade.asked.len() > 1);
    for _ in 0..3 {
        rig.pass(secs(29));
        rig.says(lazy, &Message::KeepAlive);
    }
    assert!(rig.p(lazy).snubbed, "thirty seconds without a block, again");
}

#[test]
fn end_game_asks_twice_and_cancels_the_slower_one() {
    let c = Content::pieces(1, 2);
    let (mut rig, t) = Rig::leech(&c);
    let a = rig.seeder(t, 1);
    let b = rig.peer(t, 2, true);
    rig.says(b, &Message::Have(p(0)));
    rig.says(b, &Message::Unchoke);
    assert_eq!(requests(&rig.said(a)), [blk(0, 0), blk(0, 1)]);
    assert_eq!(requests(&rig.said(b)), [blk(0, 0), blk(0, 1)]);
    rig.gives(a, blk(0, 0));
    assert_eq!(rig.said(b), ["cancel 0.0"]);
    // It was on its way: wasted, but no offence.
    rig.gives(b, blk(0, 0));
    assert_eq!(rig.status(t).wasted, u64::from(B));
    rig.gives(b, blk(0, 1));
    assert!(rig.status(t).is_complete());
}

#[test]
fn a_late_block_cancels_the_request_that_replaced_it() {
    let c = Content::pieces(1, 4);
    let (mut rig, t) = Rig::leech(&c);
    let a = rig.peer(t, 1, false);
    rig.says(a, &Message::Bitfield(&[0x80]));
    rig.says(a, &Message::Unchoke);
    rig.said(a);
    rig.says(a, &Message::Choke);
    let b = rig.seeder(t, 2);
    assert_eq!(requests(&rig.said(b)).len(), 4);
    rig.gives(a, blk(0, 3));
    assert_eq!(rig.said(b), ["cancel 0.3"]);
}

#[test]
fn a_stalled_sender_is_overtaken() {
    let c = Content::pieces(1, 1);
    let (mut rig, t) = Rig::leech(&c);
    let slow = rig.seeder(t, 1);
    let quick = rig.seeder(t, 2);
    let block = blk(0, 0);
    let bytes = rig.piece(slow, block);
    rig.bytes(slow, &bytes[..5000]);
    // Within two seconds the first keeps it.
    rig.pass(millis(1999));
    let third = rig.seeder(t, 3);
    rig.gives(third, block);
    assert_eq!(rig.status(t).wasted, u64::from(B));
    assert!(!rig.status(t).is_complete());
    rig.pass(millis(1));
    // The quick one begins: now it is the one whose bytes count, also when the slow one goes on.
    rig.bytes(quick, &bytes[..7000]);
    assert!(rig.p(slow).trade.receiving.unwrap().dropped);
    let garbage = vec![0xEE; bytes.len() - 5000];
    rig.bytes(slow, &garbage);
    rig.bytes(quick, &bytes[7000..]);
    assert!(rig.status(t).is_complete());
    assert_eq!(rig.disk.piece(t, p(0)).unwrap(), c.data);
}

#[test]
fn a_sender_that_leaves_half_way_gives_the_block_back() {
    let c = Content::pieces(1, 1);
    let (mut rig, t) = Rig::leech(&c);
    let a = rig.seeder(t, 1);
    let bytes = rig.piece(a, blk(0, 0));
    rig.bytes(a, &bytes[..9000]);
    rig.hang_up(a, CloseReason::Eof);
    let b = rig.seeder(t, 2);
    assert_eq!(requests(&rig.said(b)), [blk(0, 0)]);
    rig.gives(b, blk(0, 0));
    assert!(rig.status(t).is_complete());
    assert_eq!(rig.status(t).downloaded, u64::from(B));
}

#[test]
fn blocks_that_nobody_asked_for_are_dropped_and_counted() {
    let c = Content::pieces(40, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.peer(t, 1, true);
    for i in 0..32 {
        rig.gives(conn, blk(i, 0));
    }
    assert!(rig.is_open(conn) && rig.have(t).is_none() && rig.disk.piece(t, p(0)).is_none());
    assert_eq!(rig.status(t).wasted, 32 * u64::from(B));
    rig.gives(conn, blk(32, 0));
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))));
    // Off the grid, out of range, longer than the frame limit.
    for (b, open) in [
        (Block::new(0, 5, 100), true),
        (Block::new(99, 0, 100), true),
        (Block::new(0, u32::MAX, 100), true),
        (Block::new(0, 0, crate::config::limits::BLOCK_SERVED), true),
        (Block::new(0, 0, crate::config::limits::BLOCK_SERVED + 1), false),
    ] {
        let conn = rig.peer(t, 2, true);
        let mut bytes = crate::wire::piece_header(&b).to_vec();
        bytes.resize(13 + b.len as usize, 0);
        rig.bytes(conn, &bytes);
        assert_eq!(rig.is_open(conn), open, "{b:?}");
        if open {
            rig.hang_up(conn, CloseReason::Eof);
        }
    }
    assert!(rig.disk.piece(t, p(0)).is_none());
}

#[test]
fn losing_a_piece_that_was_had_and_having_it_again_costs_little() {
    // BEP 54, over and over: each message must cost O(1), not O(pieces).
    let pieces: u32 = 1 << 14;
    let mut c = Content::of(7, 1, &[(u64::from(pieces), false)]);
    c.meta.hashes = vec![[0; 20]; pieces as usize].into();
    let mut rig = Rig::new(Config::default());
    let t = rig.add(&c, |_| {});
    let conn = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    let mut bytes = hello;
    crate::wire::encode(&Message::HaveAll, &mut bytes);
    rig.bytes(conn, &bytes);
    let mut flips = Vec::new();
    for i in 0..2000u32 {
        let piece = 7 * (i + 1);
        crate::wire::encode(&Message::Extended { id: 7, payload: &piece.to_be_bytes() }, &mut flips);
        crate::wire::encode(&Message::Have(p(piece)), &mut flips);
    }
    rig.bytes(conn, &flips);
    assert!(rig.is_open(conn) && rig.p(conn).have.is_all());
    let torrent = rig.s.torrents.get(t).unwrap();
    assert_eq!(torrent.picker.availability(p(7)), 1);
    rig.hang_up(conn, CloseReason::Eof);
    let torrent = rig.s.torrents.get(t).unwrap();
    assert_eq!(torrent.picker.availability(p(7)) + torrent.picker.availability(p(1)), 0);
}

#[test]
fn in_order_when_that_is_asked_for() {
    let c = Content::pieces(6, 1);
    let mut rig = Rig::new(Config::default());
    let t = rig.add(&c, |add| add.sequential = true);
    let conn = rig.peer(t, 1, true);
    one_by_one(&mut rig, conn);
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::Unchoke);
    for i in 0..3 {
        assert_eq!(requests(&rig.said(conn)), [blk(i, 0)]);
        rig.gives(conn, blk(i, 0));
    }
    rig.s.pause(rig.now, t).unwrap();
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    let conn = rig.peer(t, 2, true);
    one_by_one(&mut rig, conn);
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::Unchoke);
    let mut next = requests(&rig.said(conn));
    for _ in 0..2 {
        rig.gives(conn, next[0]);
        let more = requests(&rig.said(conn));
        assert_eq!(more[0].piece.get(), next[0].piece.get() + 1, "still in order after a pause");
        next = more;
    }
}
