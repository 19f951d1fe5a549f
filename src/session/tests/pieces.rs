//! Hashing, blame, pads, and what an earlier run left.

use super::rig::*;
use crate::config::Config;
use crate::id::{PeerTag, PieceIndex};
use crate::session::{Alert, CloseReason, ErrorKind, Input, Priority, State};
use crate::storage::{DiskErrorKind, Storage};
use crate::wire::Message;

fn failed(rig: &Rig) -> usize {
    rig.alerts.iter().filter(|a| matches!(a, Alert::PieceFailed { .. })).count()
}

#[test]
fn whoever_sent_all_of_a_bad_piece_is_banned_at_once() {
    let c = Content::pieces(1, 2);
    let (mut rig, t) = Rig::leech(&c);
    let bad = rig.seeder(t, 1);
    rig.gives(bad, blk(0, 0));
    rig.gives_bad(bad, blk(0, 1));
    assert_eq!(rig.why_closed(bad), Some(&CloseReason::Banned));
    assert_eq!(rig.banned(), [ip(1).ip()]);
    assert_eq!(rig.status(t).wasted, 2 * u64::from(B));
    let good = rig.seeder(t, 2);
    let said = rig.said(good);
    assert_eq!(requests(&said).len(), 2, "all of it is fetched again");
    rig.answers(good, &said);
    assert!(rig.status(t).is_complete());
}

#[test]
fn of_several_senders_the_one_whose_block_differs_is_banned() {
    let c = Content::pieces(1, 4);
    let (mut rig, t) = Rig::leech(&c);
    let peers = [1, 2, 3].map(|n| rig.seeder(t, n));
    rig.gives(peers[0], blk(0, 0));
    rig.gives_bad(peers[1], blk(0, 1));
    rig.gives(peers[1], blk(0, 2));
    rig.gives(peers[2], blk(0, 3));
    assert_eq!((failed(&rig), rig.banned().len()), (1, 0), "nobody is condemned without proof");
    for p in peers {
        assert!(rig.is_open(p));
    }
    for i in 0..4 {
        rig.gives(peers[0], blk(0, i));
    }
    assert!(rig.status(t).is_complete());
    assert_eq!(rig.banned(), [ip(2).ip()]);
}

#[test]
fn a_liar_is_found_after_it_has_left() {
    let c = Content::pieces(1, 2);
    let (mut rig, t) = Rig::leech(&c);
    let good = rig.seeder(t, 1);
    let bad = rig.seeder(t, 2);
    rig.gives(good, blk(0, 0));
    rig.gives_bad(bad, blk(0, 1));
    rig.hang_up(bad, CloseReason::Eof);
    for i in 0..2 {
        rig.gives(good, blk(0, i));
    }
    assert_eq!(rig.banned(), [ip(2).ip()]);
    assert!(rig.status(t).is_complete());
}

#[test]
fn a_tag_is_not_handed_to_another_address() {
    let mut swarm = crate::torrent::swarm::Swarm::default();
    let mut tags = Vec::new();
    for n in 0..2 * crate::config::limits::SWARM as u32 {
        let addr = std::net::SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 6881));
        tags.push((swarm.incoming(addr).unwrap(), addr));
    }
    assert_eq!(swarm.len(), crate::config::limits::SWARM);
    let gone = tags.iter().filter(|(tag, _)| swarm.addr(*tag).is_none()).count();
    assert_eq!(gone, crate::config::limits::SWARM, "half of them were pushed out");
    assert!(tags.iter().all(|(tag, addr)| swarm.addr(*tag).is_none_or(|a| a == *addr)), "nobody is blamed for another");
    assert_eq!(swarm.addr(PeerTag::new(u32::MAX)), None);
}

#[test]
fn changing_its_address_does_not_save_a_liar() {
    let c = Content::pieces(1, 2);
    let (mut rig, t) = Rig::leech(&c);
    let bad = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(bad, &hello);
    rig.says(bad, &Message::HaveAll);
    rig.says(bad, &Message::Unchoke);
    rig.gives_bad(bad, blk(0, 0));
    rig.says(bad, &Message::Extended { id: 0, payload: b"d1:pi7777ee" });
    rig.p_mut(bad).trade.withdrawn = 1;
    let good = rig.seeder(t, 2);
    rig.gives(good, blk(0, 1));
    assert_eq!(failed(&rig), 1);
    for _ in 0..40 {
        let said = rig.said(good);
        rig.answers(good, &said);
        rig.pass(secs(1));
    }
    assert_eq!(rig.banned(), [ip(1).ip()]);
    assert_eq!(rig.why_closed(bad), Some(&CloseReason::Banned));
}

#[test]
fn blocks_of_an_earlier_run_are_suspects_too() {
    let c = Content::pieces(2, 2);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    let first = requests(&rig.said(conn))[0];
    rig.stamps = vec![stamp(c.data.len() as u64)];
    rig.gives(conn, first);
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    let record = rig.records.pop().unwrap();
    // Next run: the block is said to be there, but the disk lost it.
    let mut rig = Rig::new(Config::default());
    rig.stamps = vec![stamp(c.data.len() as u64)];
    let t = rig.add(&c, |add| add.resume = Some(record));
    let honest = rig.seeder(t, 2);
    let said = rig.said(honest);
    assert_eq!(requests(&said).len(), 3, "one block is here, as far as the record knows");
    rig.answers(honest, &said);
    assert_eq!(failed(&rig), 1);
    assert!(rig.is_open(honest) && rig.banned().is_empty(), "it is not to blame");
    let said = rig.said(honest);
    rig.answers(honest, &said);
    assert!(rig.status(t).is_complete() && rig.banned().is_empty());
}

#[test]
fn a_piece_under_verification_survives_a_pause() {
    let c = Content::pieces(2, 2);
    let (mut rig, t) = Rig::leech(&c);
    rig.stamps = vec![stamp(c.data.len() as u64)];
    let conn = rig.seeder(t, 1);
    rig.slow_disk = true;
    rig.gives(conn, blk(0, 0));
    rig.gives(conn, blk(0, 1));
    rig.gives(conn, blk(1, 0));
    assert!(rig.have(t).is_none());
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    rig.slow_disk = false;
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    assert!(rig.have(t).get(p(0)), "all its blocks are there: it is looked at");
    let conn = rig.seeder(t, 2);
    assert_eq!(requests(&rig.said(conn)), [blk(1, 1)]);
    rig.gives(conn, blk(1, 1));
    assert!(rig.status(t).is_complete());
}

#[test]
fn a_whole_piece_that_is_bad_on_disk_is_fetched_again() {
    let c = Content::pieces(2, 2);
    let (mut rig, t) = Rig::leech(&c);
    rig.stamps = vec![stamp(c.data.len() as u64)];
    let conn = rig.seeder(t, 1);
    rig.slow_disk = true;
    rig.gives(conn, blk(0, 0));
    rig.gives(conn, blk(0, 1));
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    rig.slow_disk = false;
    rig.disk.write_at(t, &c, p(0), &[0; 100]);
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    assert!(rig.have(t).is_none());
    let conn = rig.seeder(t, 2);
    let said = rig.said(conn);
    assert_eq!(requests(&said).len(), 4);
    rig.answers(conn, &said);
    assert!(rig.status(t).is_complete());
}

/// Writing behind the session's back, while the torrent's files are closed.
trait WriteAt {
    fn write_at(&mut self, t: crate::id::TorrentKey, c: &Content, piece: PieceIndex, data: &[u8]);
}
impl WriteAt for crate::storage::Memory {
    fn write_at(&mut self, t: crate::id::TorrentKey, c: &Content, piece: PieceIndex, data: &[u8]) {
        let spec = crate::storage::OpenSpec { dir: "d".into() };
        self.open(t, std::sync::Arc::new(c.meta.layout()), spec).unwrap();
        self.write(t, piece, 0, data).unwrap();
        self.close(t).unwrap();
    }
}

#[test]
fn a_record_is_trusted_as_far_as_the_files_are_the_same() {
    // Two files of two pieces each; piece 1 of the first is had, one block of the second file's last piece.
    let c = Content::of(7, 2 * B, &[(u64::from(4 * B), false), (u64::from(4 * B), false)]);
    let (mut rig, t) = Rig::leech(&c);
    rig.stamps = vec![stamp(4 * u64::from(B)), stamp(4 * u64::from(B))];
    let conn = rig.seeder(t, 1);
    for b in [blk(1, 0), blk(1, 1), blk(2, 0), blk(2, 1), blk(3, 1)] {
        rig.gives(conn, b);
    }
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    let record = rig.records.pop().unwrap();
    let again = |stamps: Vec<Option<crate::session::FileStamp>>| {
        let mut rig = Rig::new(Config::default());
        rig.stamps = stamps;
        let t = rig.add(&c, |add| add.resume = Some(record.clone()));
        let conn = rig.seeder(t, 1);
        let n = requests(&rig.said(conn)).len();
        (
            rig.have(t).iter_set().map(|p| p.get()).collect::<Vec<_>>(),
            rig.rechecked.iter().map(|p| p.get()).collect::<Vec<_>>(),
            n,
        )
    };
    let same = stamp(4 * u64::from(B));
    assert_eq!(again(vec![same, same]), (vec![1, 2], vec![], 3));
    // Changed: all of that file is looked at (and nothing is found in this empty memory).
    assert_eq!(again(vec![same, stamp(7)]), (vec![1], vec![2, 3], 6));
    // Missing: there is nothing to look at.
    assert_eq!(again(vec![None, same]), (vec![2], vec![], 5));
    assert_eq!(again(vec![None, None]), (vec![], vec![], 8));
    assert_eq!(again(vec![]), (vec![], vec![], 8));
}

#[test]
fn a_record_that_names_absent_files_is_not_believed() {
    let c = Content::pieces(2, 1);
    let (mut rig, t) = Rig::seed(&c);
    rig.stamps = vec![None];
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    let record = rig.records.pop().unwrap();
    let mut rig = Rig::new(Config::default());
    rig.stamps = vec![None];
    let t = rig.add(&c, |add| add.resume = Some(record));
    assert!(rig.have(t).is_none(), "it was absent then and is absent now: nothing is there");
}

#[test]
fn a_record_is_not_lost_when_a_check_is_interrupted() {
    let c = Content::of(7, B, &[(u64::from(4 * B), false), (u64::from(4 * B), false)]);
    let (mut rig, t) = Rig::seed(&c);
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    // The second file has changed; its check is interrupted.
    rig.stamps[1] = stamp(7);
    rig.rechecked.clear();
    rig.slow_disk = true;
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    assert!(matches!(rig.status(t).state, State::Checking { .. }));
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    rig.slow_disk = false;
    rig.rechecked.clear();
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    assert_eq!(rig.rechecked.iter().map(|p| p.get()).collect::<Vec<_>>(), [4, 5, 6, 7], "the first is trusted still");
    assert!(rig.status(t).is_complete());
}

#[test]
fn what_the_disk_dropped_is_not_in_the_record() {
    let c = Content::pieces(2, 2);
    let (mut rig, t) = Rig::leech(&c);
    rig.stamps = vec![stamp(c.data.len() as u64)];
    let conn = rig.seeder(t, 1);
    rig.gives(conn, blk(0, 0));
    rig.gives(conn, blk(1, 0));
    // Piece 0 was to be written early, which failed; its buffer is gone.
    rig.s.handle(rig.now, Input::PieceLost { torrent: t, piece: Some(p(0)) });
    rig.s.handle(rig.now, Input::DiskFailed { torrent: t, error: "full".into(), kind: ErrorKind::NoSpace });
    rig.drive();
    assert_eq!(rig.status(t).state, State::Error);
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    let conn = rig.seeder(t, 2);
    let mut asked = requests(&rig.said(conn));
    asked.sort();
    assert_eq!(asked, [blk(0, 0), blk(0, 1), blk(1, 1)]);
}

#[test]
fn a_failing_disk_stops_one_torrent_and_no_other() {
    let (c, d) = (Content::pieces(2, 2), Content::of(8, B, &[(u64::from(B), false)]));
    let (mut rig, t) = Rig::leech(&c);
    let u = rig.add(&d, |_| {});
    let (a, b) = (rig.seeder(t, 1), rig.seeder(u, 2));
    rig.disk.fail(DiskErrorKind::Full);
    rig.gives(a, blk(0, 0));
    assert_eq!(rig.status(t).state, State::Error);
    assert!(rig.status(t).error.is_some());
    assert_eq!(rig.why_closed(a), Some(&CloseReason::TorrentStopped));
    rig.gives(b, blk(0, 0));
    assert!(rig.status(u).is_complete());
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    let a = rig.seeder(t, 3);
    let said = rig.said(a);
    rig.answers(a, &said);
    assert!(rig.status(t).is_complete());
}

#[test]
fn pads_are_never_asked_for_and_served_as_zeros() {
    // A file of a block and a half, a pad to the end of the piece, and a file behind it.
    let b = u64::from(B);
    let c = Content::of(7, 4 * B, &[(b + b / 2, false), (5 * b / 2, true), (4 * b, false)]);
    let (mut rig, t) = Rig::leech(&c);
    assert_eq!(rig.wanted, [true, false, true]);
    let conn = rig.seeder(t, 1);
    let said = rig.said(conn);
    let mut asked: Vec<_> = said.iter().filter(|s| s.starts_with("request")).cloned().collect();
    asked.sort();
    let wanted = ["request 0.0", "request 0:16384+8192", "request 1.0", "request 1.1", "request 1.2", "request 1.3"];
    assert_eq!(asked, wanted);
    rig.answers(conn, &said);
    assert!(rig.status(t).is_complete());
    assert_eq!(rig.status(t).downloaded, 5 * b + b / 2);
    let taker = rig.peer(t, 2, true);
    rig.says(taker, &Message::Interested);
    rig.said(taker);
    for i in 0..4 {
        rig.says(taker, &Message::Request(blk(0, i)));
    }
    assert_eq!(rig.said(taker), ["piece 0.0", "piece 0.1", "piece 0.2", "piece 0.3"]);
}

#[test]
fn a_bad_piece_with_a_pad_is_asked_for_without_it_again() {
    let b = u64::from(B);
    let c = Content::of(7, 4 * B, &[(2 * b, false), (2 * b, true)]);
    let (mut rig, t) = Rig::leech(&c);
    let bad = rig.seeder(t, 1);
    assert_eq!(requests(&rig.said(bad)).len(), 2);
    rig.gives(bad, blk(0, 0));
    rig.gives_bad(bad, blk(0, 1));
    assert_eq!(rig.banned(), [ip(1).ip()], "pads are nobody's: all the rest was its");
    let good = rig.seeder(t, 2);
    let said = rig.said(good);
    assert_eq!(requests(&said).len(), 2);
    rig.answers(good, &said);
    assert!(rig.status(t).is_complete());
}

#[test]
fn a_piece_of_nothing_but_padding_is_had_once_it_is_hashed() {
    let b = u64::from(B);
    let mut c = Content::of(7, 2 * B, &[(2 * b, false), (4 * b, true), (b, false)]);
    let (mut rig, t) = Rig::leech(&c);
    assert!(rig.have(t).get(p(1)) && rig.have(t).get(p(2)), "zeros");
    assert!(!rig.status(t).is_complete());
    let conn = rig.seeder(t, 1);
    let said = rig.said(conn);
    assert_eq!(requests(&said).len(), 3);
    rig.answers(conn, &said);
    assert!(rig.status(t).is_complete());
    // A torrent that lies about its zeros can never be complete, but it cannot make us lie either.
    c.meta.hashes[1] = [9; 20];
    let (mut rig, t) = Rig::leech(&c);
    assert!(!rig.have(t).get(p(1)) && rig.have(t).get(p(2)));
    let conn = rig.seeder(t, 1);
    let said = rig.said(conn);
    assert!(requests(&said).iter().all(|b| b.piece != p(1) && b.len > 0), "{said:?}");
    rig.answers(conn, &said);
    assert_eq!(rig.status(t).pieces, (3, 4));
}

#[test]
fn a_pad_does_not_make_a_skipped_file_wanted() {
    let b = u64::from(B);
    let c = Content::of(7, 2 * B, &[(b, false), (b, true), (2 * b, false)]);
    let mut rig = Rig::new(Config::default());
    let t = rig.add(&c, |add| add.priorities = vec![Priority::Skip, Priority::Normal, Priority::Normal]);
    let conn = rig.seeder(t, 1);
    let said = rig.said(conn);
    assert_eq!(requests(&said), [blk(1, 0), blk(1, 1)]);
    rig.answers(conn, &said);
    assert!(rig.status(t).is_complete());
}

#[test]
fn a_torrent_of_empty_files_is_complete() {
    let c = Content::of(7, B, &[(0, false), (0, false)]);
    let (mut rig, t) = Rig::leech(&c);
    assert_eq!(rig.status(t).state, State::Seeding);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::HaveNone);
    assert_eq!(rig.status(t).pieces, (0, 0));
}

#[test]
fn files_can_be_chosen_while_running() {
    let b = u64::from(B);
    let c = Content::of(7, B, &[(2 * b, false), (2 * b, false)]);
    let mut rig = Rig::new(Config::default());
    let t = rig.add(&c, |add| add.priorities = vec![Priority::Normal, Priority::Skip]);
    assert_eq!(rig.wanted, [true, false]);
    rig.learn(t, [ip(1)]);
    let conn = rig.dialled[0].0;
    rig.connect(conn);
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    rig.says(conn, &Message::Extended { id: 0, payload: b"d1:md11:upload_onlyi9eee" });
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::Unchoke);
    let said = rig.said(conn);
    let mut asked: Vec<_> = requests(&said);
    asked.sort();
    assert_eq!(asked, [blk(0, 0), blk(1, 0)]);
    rig.answers(conn, &said);
    assert_eq!(rig.status(t).state, State::Seeding);
    let files = rig.alerts.iter().filter(|a| matches!(a, Alert::File { .. })).count();
    let finished = |rig: &Rig| rig.alerts.iter().filter(|a| matches!(a, Alert::Finished { .. })).count();
    assert_eq!((files, finished(&rig)), (1, 1));
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::NothingToTrade));
    rig.pass(secs(300));
    // Now the other file, too: the seed is worth dialling again.
    rig.s.select(rig.now, t, vec![Priority::Normal, Priority::High]).unwrap();
    rig.drive();
    assert_eq!(rig.wanted, [true, true]);
    assert_eq!(rig.status(t).state, State::Downloading);
    assert!(rig.status(t).seeding_for >= secs(300), "time spent seeding stays");
    rig.pass(secs(1));
    assert_eq!(rig.dialled.len(), 2, "at once");
    let conn = rig.dialled[1].0;
    rig.connect(conn);
    let hello = rig.handshake(t, id(1), true);
    rig.bytes(conn, &hello);
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::Unchoke);
    let said = rig.said(conn);
    assert_eq!(requests(&said).len(), 2);
    // Skipped in mid flight: what comes is dropped, and nothing more is asked for.
    rig.s.select(rig.now, t, vec![Priority::Normal, Priority::Skip]).unwrap();
    rig.drive();
    assert_eq!(finished(&rig), 2);
    rig.s.select(rig.now, t, vec![Priority::Skip, Priority::Normal]).unwrap();
    rig.drive();
    assert_eq!(rig.status(t).state, State::Downloading);
}

#[test]
fn who_downloads_again_says_so() {
    let b = u64::from(B);
    let c = Content::of(7, B, &[(b, false), (b, false)]);
    let mut rig = Rig::new(Config::default());
    let t = rig.add(&c, |add| add.priorities = vec![Priority::Normal, Priority::Skip]);
    let conn = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    rig.says(conn, &Message::Extended { id: 0, payload: b"d1:md11:upload_onlyi9eee" });
    rig.says(conn, &Message::Have(p(0)));
    rig.says(conn, &Message::Unchoke);
    rig.said(conn);
    rig.gives(conn, blk(0, 0));
    assert!(rig.said(conn).contains(&"extended 9 \\x01".to_owned()));
    rig.s.select(rig.now, t, vec![Priority::Normal; 2]).unwrap();
    rig.drive();
    assert!(rig.said(conn).contains(&"extended 9 \\x00".to_owned()));
}
