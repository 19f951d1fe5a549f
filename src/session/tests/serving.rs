//! Uploading: whom we unchoke, and what becomes of requests.

use super::rig::*;
use crate::config::Config;
use crate::id::Block;
use crate::session::{Alert, CloseReason, State};
use crate::wire::Message;

#[test]
fn a_seeder_unchokes_whoever_becomes_interested_at_once() {
    let c = Content::pieces(8, 1);
    let (mut rig, t) = Rig::seed_with(&c, Config { unchoke_slots: 2, ..Config::default() });
    let peers = [1, 2, 3].map(|n| rig.peer(t, n, true));
    for p in peers {
        rig.said(p);
        rig.says(p, &Message::Interested);
    }
    assert_eq!(peers.map(|p| rig.said(p)), [vec!["unchoke"], vec!["unchoke"], vec![]], "as long as there are slots");
    rig.says(peers[0], &Message::NotInterested);
    assert_eq!(rig.said(peers[0]), ["choke"]);
    // Flapping gets it nothing within the round; the one that waits does get the slot in the next.
    rig.says(peers[0], &Message::Interested);
    assert_eq!(rig.said(peers[0]), [""; 0]);
    rig.says(peers[0], &Message::NotInterested);
    rig.pass(secs(10));
    assert_eq!(rig.said(peers[2]), ["unchoke"]);
}

#[test]
fn each_request_gets_one_piece_or_one_reject() {
    let c = Content::pieces(8, 2);
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    let granted = rig.p(conn).trade.granted.clone();
    let other = (0..8).map(p).find(|i| !granted.contains(i)).unwrap().get();
    rig.said(conn);
    rig.says(conn, &Message::Request(blk(other, 0)));
    assert_eq!(rig.said(conn), [format!("reject {other}.0")], "choked");
    rig.says(conn, &Message::Request(blk(granted[0].get(), 1)));
    assert_eq!(rig.said(conn), [format!("piece {}.1", granted[0])], "but this one is allowed");
    rig.says(conn, &Message::Interested);
    rig.says(conn, &Message::Request(blk(other, 1)));
    rig.says(conn, &Message::Request(Block::new(other, 7, 9)));
    assert_eq!(rig.said(conn), ["unchoke".into(), format!("piece {other}.1"), format!("piece {other}:7+9")]);
    // A socket that takes nothing: requests wait, a cancel or a choke takes them back.
    rig.wires.get_mut(&conn).unwrap().room = 0;
    for i in 0..8 {
        rig.says(conn, &Message::Request(blk(i, 0)));
        rig.says(conn, &Message::Request(blk(i, 1)));
    }
    let sixteen = 16 * u64::from(B);
    assert_eq!(rig.p(conn).outbox.payload_len(), sixteen, "all are on their way");
    rig.takes(conn, usize::MAX);
    assert_eq!(rig.said(conn).len(), 16);
}

#[test]
fn a_choke_rejects_what_waits_and_finishes_what_has_begun() {
    let c = Content::pieces(200, 1);
    for fast in [true, false] {
        let (mut rig, t) = Rig::seed(&c);
        let conn = rig.peer(t, 1, fast);
        rig.says(conn, &Message::Interested);
        rig.said(conn);
        let granted = rig.p(conn).trade.granted.clone();
        rig.wires.get_mut(&conn).unwrap().room = 0;
        let mut all = Vec::new();
        for i in 0..150 {
            crate::wire::encode(&Message::Request(blk(i, 0)), &mut all);
        }
        rig.bytes(conn, &all);
        rig.takes(conn, 20_000);
        rig.takes(conn, 0);
        let waiting: Vec<_> = rig.p(conn).trade.serving.iter().copied().collect();
        assert!(!waiting.is_empty() && waiting.len() < 100, "1 MiB is moved ahead");
        rig.says(conn, &Message::Cancel(waiting[0]));
        rig.says(conn, &Message::NotInterested);
        rig.takes(conn, usize::MAX);
        let said = rig.said(conn);
        let pieces: Vec<_> = said.iter().filter(|s| s.starts_with("piece ")).collect();
        let rejects: Vec<_> = said.iter().filter(|s| s.starts_with("reject ")).collect();
        let kept = waiting[1..].iter().filter(|b| granted.contains(&b.piece)).count();
        if fast {
            assert_eq!(pieces.len() + rejects.len(), 150, "one answer each");
            assert_eq!(rejects.len(), waiting.len() - kept);
        } else {
            assert_eq!((pieces.len(), rejects.len()), (150 - waiting.len(), 0));
        }
        assert!(said.contains(&"choke".to_owned()) && said.iter().all(|s| !s.contains("wrong")));
        assert!(rig.is_open(conn));
    }
}

#[test]
fn allowed_fast_pieces_are_given_twice_and_no_more() {
    let c = Content::pieces(20, 2);
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    rig.said(conn);
    let granted = rig.p(conn).trade.granted.clone();
    assert_eq!(granted.len(), 5);
    let mut answers = Vec::new();
    for _ in 0..3 {
        for piece in &granted {
            for i in 0..2 {
                rig.says(conn, &Message::Request(blk(piece.get(), i)));
            }
        }
        answers.extend(rig.said(conn));
    }
    let pieces = answers.iter().filter(|s| s.starts_with("piece ")).count();
    let rejects = answers.iter().filter(|s| s.starts_with("reject ")).count();
    assert_eq!((pieces, rejects), (20, 10), "T20");
}

#[test]
fn a_wake_is_not_lost_when_a_request_is_taken_back() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, false);
    rig.says(conn, &Message::Interested);
    rig.said(conn);
    let mut both = Vec::new();
    crate::wire::encode(&Message::Request(blk(0, 0)), &mut both);
    crate::wire::encode(&Message::Cancel(blk(0, 0)), &mut both);
    rig.bytes(conn, &both);
    assert_eq!(rig.said(conn), [""; 0]);
    rig.pass(secs(100));
    assert_eq!(rig.said(conn), ["keep-alive"], "the driver is still told when something is to be sent");
}

#[test]
fn upload_counts_what_the_socket_took() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::Interested);
    rig.said(conn);
    rig.wires.get_mut(&conn).unwrap().room = 13 + 1000;
    rig.says(conn, &Message::Request(blk(0, 0)));
    assert_eq!(rig.status(t).uploaded, 1000);
    assert_eq!(rig.s.stats(rig.now).sent, 1000);
    rig.hang_up(conn, CloseReason::Eof);
    assert_eq!(rig.status(t).uploaded, 1000);
}

#[test]
fn junk_earns_nothing() {
    let c = Content::pieces(2, 2);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    rig.gives(conn, blk(0, 0));
    assert_eq!((rig.p(conn).trade.earned.get(rig.now), rig.status(t).downloaded), (0, 0), "not verified yet");
    assert!(rig.p(conn).trade.received.get(rig.now) > 0);
    rig.gives(conn, blk(0, 1));
    assert!(rig.p(conn).trade.earned.get(rig.now) > 0);
    assert_eq!(rig.status(t).downloaded, 2 * u64::from(B));
}

#[test]
fn two_complete_peers_part() {
    let c = Content::pieces(2, 1);
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::HaveAll);
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::NothingToTrade));
    let conn = rig.peer(t, 2, true);
    rig.says(conn, &Message::Have(p(0)));
    assert!(rig.is_open(conn));
    rig.says(conn, &Message::Have(p(1)));
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::NothingToTrade));
    // And at the moment when we become complete.
    let (mut rig, t) = Rig::leech(&c);
    let seed = rig.seeder(t, 1);
    let taker = rig.peer(t, 2, true);
    let said = rig.said(seed);
    rig.answers(seed, &said);
    assert_eq!(rig.why_closed(seed), Some(&CloseReason::NothingToTrade));
    assert!(rig.is_open(taker));
    let mut said = rig.said(taker);
    said.sort();
    assert_eq!(said, ["have 0", "have 1"]);
}

#[test]
fn finished_is_told_once_and_the_goal_stops_the_torrent() {
    let c = Content::pieces(2, 1);
    let mut rig = Rig::new(Config::default());
    rig.stamps = vec![stamp(2 * u64::from(B))];
    let t = rig.add(&c, |add| add.seed_ratio = Some(1.0));
    let seed = rig.seeder(t, 1);
    let said = rig.said(seed);
    rig.answers(seed, &said);
    assert_eq!(rig.status(t).state, State::Seeding);
    let finished = |rig: &Rig| rig.alerts.iter().filter(|a| matches!(a, Alert::Finished { .. })).count();
    assert_eq!(finished(&rig), 1);
    let taker = rig.peer(t, 2, true);
    rig.says(taker, &Message::Interested);
    for i in 0..2 {
        rig.says(taker, &Message::Request(blk(i, 0)));
    }
    assert_eq!(rig.why_closed(taker), Some(&CloseReason::TorrentStopped));
    assert!(rig.alerts.iter().any(|a| matches!(a, Alert::GoalReached { .. })));
    assert_eq!(rig.status(t).state, State::Paused);
    // Whoever resumes it after that wants it to seed.
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    rig.pass(secs(30));
    assert_eq!(rig.status(t).state, State::Seeding);
}

#[test]
fn an_upload_limit_holds_and_two_torrents_share_it() {
    let (c, d) = (Content::pieces(16, 64), Content::of(8, 64 * B, &[(u64::from(16 * 64 * B), false)]));
    for rate in [300_000u64, 2_000_000] {
        let mut rig = Rig::new(Config { up_limit: Some(rate), ..Config::default() });
        let mut conns = Vec::new();
        for (n, c) in [(1, &c), (2, &d)] {
            let t = rig.add(c, |_| {});
            rig.fill(t);
            rig.s.verify(rig.now, t).unwrap();
            rig.drive();
            let conn = rig.peer(t, n, true);
            rig.says(conn, &Message::Interested);
            rig.said(conn);
            let mut all = Vec::new();
            for i in 0..900 {
                crate::wire::encode(&Message::Request(blk(i / 64, i % 64)), &mut all);
            }
            rig.bytes(conn, &all);
            conns.push((conn, t));
        }
        rig.pass(secs(1));
        let before = rig.s.stats(rig.now).sent;
        rig.pass(secs(10));
        let sent = rig.s.stats(rig.now).sent - before;
        let wanted = rate * 10;
        assert!(sent.abs_diff(wanted) <= wanted / 20, "{sent} in ten seconds at {rate}");
        for (conn, t) in conns {
            let share = rig.status(t).uploaded;
            assert!(share * 4 > wanted, "{share} of {wanted} for one of two");
            assert!(rig.said(conn).iter().all(|s| !s.contains("wrong")));
        }
    }
}

/// Nothing seems to move then, and requests seem to be stuck.
#[test]
fn an_upload_limit_of_less_than_a_block_a_second_is_given_all_the_same() {
    let c = Content::pieces(1, 64);
    let (mut rig, t) = Rig::seed_with(&c, Config { up_limit: Some(1024), ..Config::default() });
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::Interested);
    (0..16).for_each(|i| rig.says(conn, &Message::Request(blk(0, i))));
    rig.pass(secs(1));
    assert_eq!(rig.s.stats(rig.now).sent, u64::from(2 * B), "the burst");
    // A block each sixteen seconds.
    rig.pass(secs(96));
    assert_eq!(rig.s.stats(rig.now).sent, u64::from((2 + 6) * B));
}

#[test]
fn a_download_limit_holds_on_both_receive_paths() {
    let c = Content::pieces(4, 64);
    for predict in [false, true] {
        for rate in [100_000u64, 300_000] {
            let (mut rig, t) = Rig::leech_with(&c, Config { down_limit: Some(rate), predict, ..Config::default() });
            let conns = [1, 2].map(|n| rig.seeder(t, n));
            for conn in conns {
                rig.p_mut(conn).stride = if predict { 16 } else { 0 };
            }
            let start = rig.now;
            for step in 0..1100 {
                for conn in conns {
                    let said = rig.said(conn);
                    let bytes: Vec<u8> = requests(&said).into_iter().flat_map(|b| rig.piece(conn, b)).collect();
                    if !bytes.is_empty() {
                        rig.bytes(conn, &bytes);
                    }
                }
                rig.pass(millis(10));
                if step == 99 {
                    rig.s.stats.received = 0;
                }
            }
            assert_eq!(rig.now - start, secs(11));
            let got = rig.s.stats(rig.now).received;
            let wanted = rate * 10;
            assert!(got.abs_diff(wanted) <= wanted / 20, "{got} in ten seconds at {rate} (predict: {predict})");
        }
    }
}

#[test]
fn no_read_goes_far_beyond_the_limit() {
    let c = Content::pieces(16, 64);
    let (mut rig, t) = Rig::leech_with(&c, Config { down_limit: Some(50_000), ..Config::default() });
    let conns = [1, 2, 3, 4].map(|n| rig.seeder(t, n));
    let mut bytes = Vec::new();
    for i in 0..64 {
        bytes.extend(rig.piece(conns[0], blk(15, i)));
    }
    for conn in conns {
        rig.p_mut(conn).trade.withdrawn = 1000;
        rig.bytes(conn, &bytes);
    }
    let burst = 32 * 1024;
    assert!(rig.s.stats.received <= burst + 4096 + 13 * 3, "{} at once", rig.s.stats.received);
    rig.pass(secs(10));
    let got = rig.s.stats.received;
    assert!(got <= 500_000 + burst + 4096, "{got} in ten seconds at 50000");
}

#[test]
fn who_waits_for_our_limit_does_not_snub_us() {
    let c = Content::pieces(16, 16);
    let (mut rig, t) = Rig::leech_with(&c, Config { down_limit: Some(500), ..Config::default() });
    let conns = [1, 2, 3, 4].map(|n| rig.seeder(t, n));
    for conn in conns {
        let said = rig.said(conn);
        let bytes: Vec<u8> = requests(&said).into_iter().flat_map(|b| rig.piece(conn, b)).collect();
        assert!(bytes.len() > 200_000);
        rig.bytes(conn, &bytes);
    }
    let left = |rig: &Rig| conns.map(|c| rig.wires[&c].to.len());
    let before = left(&rig);
    for _ in 0..400 {
        rig.pass(secs(1));
        assert!(conns.iter().all(|c| !rig.p(*c).snubbed), "{:?}", rig.now);
    }
    let after = left(&rig);
    assert!((0..4).all(|i| before[i] - after[i] > 30_000), "each has its turn: {before:?}, {after:?}");
    // One that really is silent is told from those that wait.
    let silent = rig.seeder(t, 5);
    rig.pass(secs(125));
    assert!(rig.p(silent).snubbed);
}
