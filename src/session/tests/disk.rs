//! A disk that fails, and is repaired.

use super::rig::*;
use crate::api::{CloseReason, ErrorKind, Input, Kept};
use crate::config::Config;
use crate::session::{Alert, State};
use crate::storage::{DiskError, DiskErrorKind, Storage};
use crate::wire::Message;

fn errors(rig: &Rig) -> Vec<ErrorKind> {
    rig.alerts.iter().filter_map(|a| if let Alert::Error { kind, .. } = a { Some(*kind) } else { None }).collect()
}

fn resumed(rig: &Rig) -> usize {
    rig.alerts.iter().filter(|a| matches!(a, Alert::Resumed { .. })).count()
}

#[test]
fn a_torrent_gets_over_a_full_disk_by_itself() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.stamps = vec![stamp(c.data.len() as u64)];
    let conn = rig.seeder(t, 1);
    rig.gives(conn, blk(0, 0));
    rig.hang_up(conn, CloseReason::Eof);
    // It is full for three minutes.
    for n in 2..20 {
        let conn = rig.seeder(t, n);
        let block = requests(&rig.said(conn))[0];
        rig.disk.fail(DiskErrorKind::Full);
        rig.gives(conn, block);
        assert_eq!(rig.status(t).state, State::Error);
        let (mut waited, before) = (0, rig.status(t).have);
        while rig.status(t).state == State::Error {
            rig.pass(secs(1));
            waited += 1;
            assert!(waited <= 51, "it waits for {waited} s");
        }
        assert_eq!((rig.status(t).state, rig.status(t).have), (State::Downloading, before));
        rig.hang_up(conn, CloseReason::Eof);
    }
    assert_eq!((errors(&rig), resumed(&rig)), (vec![ErrorKind::NoSpace], 0), "told once");
    let conn = rig.seeder(t, 20);
    let said = rig.said(conn);
    rig.answers(conn, &said);
    assert!(rig.status(t).is_complete());
    assert_eq!(resumed(&rig), 1);
    // What fails later is another matter.
    rig.s.handle(rig.now, Input::DiskFailed { torrent: t, error: "gone".into(), kind: ErrorKind::FileIo });
    rig.pass(secs(6));
    assert_eq!(errors(&rig).len(), 2);
    assert_eq!(rig.status(t).state, State::Seeding);
    assert_eq!(resumed(&rig), 2, "everything is there");
}

#[test]
fn while_the_disk_is_full_what_there_is_is_served_and_nothing_is_asked_for() {
    for (disk, kind) in [
        (DiskErrorKind::Full, ErrorKind::NoSpace),
        (DiskErrorKind::ReadOnly, ErrorKind::ReadOnly),
        (DiskErrorKind::TooBig, ErrorKind::TooBig),
    ] {
        let c = Content::pieces(4, 2);
        let (mut rig, t) = Rig::leech(&c);
        rig.stamps = vec![stamp(c.data.len() as u64)];
        let seeder = rig.seeder(t, 1);
        rig.gives(seeder, blk(0, 0));
        rig.gives(seeder, blk(0, 1));
        let taker = rig.peer(t, 2, true);
        rig.says(taker, &Message::Interested);
        rig.said(seeder);
        rig.disk.fail(disk);
        rig.gives(seeder, blk(1, 0));
        let said = rig.said(seeder);
        assert_eq!(said.iter().filter(|s| s.starts_with("cancel")).count(), 5, "{said:?}");
        assert!(said.contains(&"not interested".into()), "{said:?}");
        assert_eq!((rig.status(t).state, errors(&rig)), (State::Error, vec![kind]));
        // What was on its way is dropped, and those who want something get it.
        let wasted = rig.status(t).wasted;
        rig.gives(seeder, blk(2, 0));
        assert_eq!(rig.status(t).wasted, wasted + u64::from(B));
        rig.says(taker, &Message::Request(blk(0, 1)));
        assert!(rig.said(taker).contains(&"piece 0.1".into()));
        rig.pass(secs(4));
        assert_eq!(requests(&rig.said(seeder)), []);
        // Tried again, and failed again: told once.
        rig.pass(secs(1));
        rig.s.handle(rig.now, Input::DiskFailed { torrent: t, error: rig.status(t).error.unwrap(), kind });
        rig.pass(secs(9));
        assert_eq!((requests(&rig.said(seeder)), rig.status(t).state), (vec![], State::Error));
        // Its user need not wait so long.
        if kind == ErrorKind::ReadOnly {
            rig.s.resume(rig.now, t).unwrap();
            rig.pass(secs(1));
        }
        rig.pass(secs(2));
        let said = rig.said(seeder);
        assert!(said.contains(&"interested".into()) && requests(&said).len() == 5, "{said:?}");
        // Who told it to go on is told so at once, and everybody else when it works.
        let told = usize::from(kind == ErrorKind::ReadOnly);
        assert_eq!((rig.status(t).state, resumed(&rig)), (State::Downloading, told));
        rig.answers(seeder, &said);
        let said = rig.said(seeder);
        rig.answers(seeder, &said);
        assert!(rig.status(t).is_complete() && rig.is_open(taker));
        assert_eq!((errors(&rig).len(), resumed(&rig)), (1, 1));
    }
}

#[test]
fn a_piece_that_cannot_be_read_is_looked_at_and_fetched_again_and_three_of_a_file_are_too_many() {
    let c = Content::pieces(5, 1);
    // What is found where the piece was: other bytes, or nothing that can be read.
    for readable in [true, false] {
        let (mut rig, t) = Rig::seed(&c);
        let taker = rig.peer(t, 2, true);
        rig.says(taker, &Message::Interested);
        for piece in 0..3 {
            let before = rig.status(t);
            match readable {
                true => rig.disk.write(t, p(piece), 0, &vec![0; B as usize]).unwrap(),
                false => rig.disk.fail(DiskErrorKind::Io),
            }
            cannot_read(&mut rig, t, piece);
            if piece == 2 {
                break;
            }
            assert!(rig.is_open(taker) && errors(&rig).is_empty() && !rig.s.looks_again(t, p(piece)));
            assert!(!rig.alerts.iter().any(|a| matches!(a, Alert::PieceFailed { .. })), "nobody sent it");
            let now = rig.status(t);
            assert_eq!((now.state, now.have, now.durable), (State::Downloading, before.have - u64::from(B), now.have));
            rig.says(taker, &Message::Request(blk(piece, 0)));
            assert_eq!(rig.said(taker).last().map(String::as_str), Some(&format!("reject {piece}.0")[..]));
            let seeder = rig.seeder(t, 20 + piece as u8);
            let said = rig.said(seeder);
            assert_eq!(requests(&said), [blk(piece, 0)]);
            rig.answers(seeder, &said);
            assert_eq!(rig.status(t).state, State::Seeding);
        }
        assert_eq!((rig.status(t).state, errors(&rig)), (State::Error, vec![ErrorKind::FileIo]));
    }
}

fn cannot_read(rig: &mut Rig, t: crate::id::TorrentKey, piece: u32) {
    let error = format!("d/f: read: piece {piece}");
    rig.s.handle(rig.now, Input::PieceUnreadable { torrent: t, piece: p(piece), error });
    rig.drive();
    rig.s.invariants();
}

/// It may be the only copy there is, and the next who offers it a liar.
#[test]
fn a_piece_that_could_not_be_read_for_a_moment_is_not_asked_for() {
    let c = Content::pieces(2, 2);
    let (mut rig, t) = Rig::seed(&c);
    let (taker, offers) = (rig.peer(t, 2, true), rig.peer(t, 3, true));
    rig.says(offers, &Message::Have(p(1)));
    rig.says(taker, &Message::Interested);
    rig.said(taker);
    rig.s.handle(rig.now, Input::PieceUnreadable { torrent: t, piece: p(1), error: "d/f: read".into() });
    assert!(rig.s.looks_again(t, p(1)));
    // Before it has been looked at.
    rig.says(offers, &Message::Unchoke);
    rig.pass(secs(1));
    rig.s.invariants();
    assert!(!rig.s.looks_again(t, p(1)));
    assert_eq!((rig.status(t).state, rig.status(t).have), (State::Seeding, c.data.len() as u64));
    assert_eq!(requests(&rig.said(offers)), []);
    rig.says(taker, &Message::Request(blk(1, 1)));
    assert_eq!(rig.said(taker), ["have 1", "piece 1.1"]);
    assert!(errors(&rig).is_empty());
}

/// The bytes at the piece's place are overwritten from then on: nobody is given them.
#[test]
fn blocks_of_a_lost_piece_that_wait_for_other_sockets_are_taken_back() {
    let c = Content::pieces(3, 2);
    let (mut rig, t) = Rig::seed(&c);
    let header = crate::wire::PIECE_HEADER_LEN;
    // Whether it has the fast extension, and what its socket takes before the piece is lost, of 0.0, 1.0, 2.1, 1.1.
    let block = header + B as usize;
    let peers = [(true, 0), (true, block), (true, block + 1), (true, block + header), (true, 2 * block), (false, 0)];
    let conns: Vec<_> = (1..).zip(peers).map(|(n, (fast, _))| rig.peer(t, n, fast)).collect();
    let other = rig.peer(t, 10, false);
    for (conn, takes) in conns.iter().copied().zip(peers.map(|p| p.1)).chain([(other, 0)]) {
        rig.says(conn, &Message::Interested);
        rig.said(conn);
        assert!(!rig.p(conn).choking);
        rig.wires.get_mut(&conn).unwrap().room = 0;
        let blocks = [blk(0, 0), blk(1, 0), blk(2, 1), blk(1, 1)];
        blocks.iter().filter(|b| conn != other || b.piece != p(1)).for_each(|b| rig.says(conn, &Message::Request(*b)));
        rig.takes(conn, takes);
        rig.takes(conn, 0);
    }
    rig.disk.fail(DiskErrorKind::Io);
    cannot_read(&mut rig, t, 1);
    let open: Vec<bool> = conns.iter().map(|c| rig.is_open(*c)).collect();
    assert_eq!(open, [true, true, false, false, true, false], "a block half said, or no way to say no");
    for conn in conns.iter().copied().filter(|c| rig.why_closed(*c).is_some()) {
        assert_eq!(rig.why_closed(conn), Some(&CloseReason::Disk));
    }
    rig.disk.write(t, p(1), 0, &vec![0; 2 * B as usize]).unwrap();
    for (i, said) in [
        (0, &["piece 0.0", "piece 2.1", "reject 1.0", "reject 1.1"][..]),
        (1, &["piece 0.0", "piece 2.1", "reject 1.0", "reject 1.1"]),
        (4, &["piece 0.0", "piece 1.0", "piece 2.1", "reject 1.1"]),
    ] {
        rig.takes(conns[i], usize::MAX);
        assert_eq!(rig.said(conns[i]), said, "{i}");
    }
    rig.takes(other, usize::MAX);
    assert_eq!(rig.said(other), ["piece 0.0", "piece 2.1"]);
}

#[test]
fn begun_on_a_full_disk_it_serves_what_is_there() {
    for had in [3, 0] {
        let c = Content::pieces(4, 1);
        let mut rig = Rig::new(Config::default());
        let t = rig.add(&c, |_| {});
        rig.fill(t);
        rig.ready = Err(DiskError::new(DiskErrorKind::Full, "d", "find space"));
        for piece in had..4 {
            rig.disk.write(t, p(piece), 0, &[7; B as usize]).unwrap();
        }
        rig.s.verify(rig.now, t).unwrap();
        rig.drive();
        assert_eq!((rig.status(t).state, errors(&rig)), (State::Error, vec![ErrorKind::NoSpace]));
        assert_eq!(rig.s.is_trading(t), had > 0, "with nothing to serve it stops");
        if had > 0 {
            let taker = rig.peer(t, 2, true);
            rig.says(taker, &Message::Interested);
            rig.says(taker, &Message::Request(blk(2, 0)));
            assert!(rig.said(taker).contains(&"piece 2.0".into()));
        }
        rig.ready = Ok(());
        rig.pass(secs(6));
        assert_eq!((rig.status(t).state, resumed(&rig)), (State::Downloading, 0));
        let seeder = rig.seeder(t, 1);
        let said = rig.said(seeder);
        assert_eq!(requests(&said).len() as u32, 4 - had);
        rig.answers(seeder, &said);
        assert_eq!((rig.status(t).state, resumed(&rig)), (State::Seeding, 1));
    }
}

#[test]
fn a_failed_torrent_that_is_paused_stays_so() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.s.handle(rig.now, Input::DiskFailed { torrent: t, error: "full".into(), kind: ErrorKind::NoSpace });
    rig.drive();
    rig.s.pause(rig.now, t).unwrap();
    rig.pass(secs(300));
    assert_eq!(rig.status(t).state, State::Paused);
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    assert_eq!(rig.status(t).state, State::Downloading);
}

#[test]
fn what_a_record_of_version_1_names_is_hashed() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::seed(&c);
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    let two = rig.records.last().expect("it was saved").clone();
    let find = |what: &[u8]| two.windows(what.len()).position(|w| w == what).expect("version 2");
    let (from, to, of_1) = (find(b"7:durable"), find(b"5:files"), find(b"7:versioni2e"));
    let one = [&two[..from], &two[to..of_1], b"7:versioni1e", &two[of_1 + 12..]].concat();
    for (record, hashed) in [(two, 0), (one, 4)] {
        let mut rig = Rig::new(Config::default());
        rig.stamps = vec![stamp(c.data.len() as u64)];
        rig.slow_disk = true;
        rig.add(&c, |add| add.resume = Some(record));
        assert_eq!(rig.rechecked.len(), hashed);
        let have = rig.s.torrents().map(|t| rig.status(t).have).sum::<u64>();
        assert_eq!(have, if hashed == 4 { 0 } else { c.data.len() as u64 });
    }
}

#[test]
fn a_torrent_that_cannot_be_stored_is_told_of_and_tried_again() {
    let c = Content::pieces(2, 1);
    let mut rig = Rig::new(Config::default());
    rig.memory = Err("full".into());
    let t = rig.add(&c, |_| {});
    let added = |rig: &Rig| rig.alerts.iter().filter(|a| matches!(a, Alert::Added { .. })).count();
    let told = |rig: &Rig| rig.alerts.iter().filter(|a| matches!(a, Alert::NotKept { .. })).count();
    assert_eq!((added(&rig), told(&rig), rig.s.kept(t)), (0, 1, Some(&Kept::No("full".into()))));
    assert_eq!(rig.status(t).state, State::Downloading, "it goes on meanwhile");
    rig.pass(secs(61));
    assert_eq!((added(&rig), told(&rig)), (0, 1), "told once");
    rig.memory = Ok(());
    rig.pass(secs(31));
    assert_eq!((added(&rig), rig.s.kept(t)), (1, Some(&Kept::Yes)));
    // Whatever is changed is stored too, and not told of.
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    assert_eq!(added(&rig), 1);
}

#[test]
fn a_sync_that_was_begun_before_an_error_makes_nothing_durable() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.stamps = vec![stamp(c.data.len() as u64)];
    rig.slow_sync = true;
    let conn = rig.seeder(t, 1);
    rig.gives(conn, blk(0, 0));
    rig.pass(secs(3));
    let [(_, old)] = rig.syncs[..] else { panic!("{:?}", rig.syncs) };
    rig.s.handle(rig.now, Input::DiskFailed { torrent: t, error: "gone".into(), kind: ErrorKind::FileIo });
    // It goes on, hashes what it had, and asks for that to be synced.
    rig.pass(secs(6));
    assert_eq!((rig.rechecked.len(), rig.status(t).have), (1, u64::from(B)));
    rig.pass(secs(3));
    let [_, (_, new)] = rig.syncs[..] else { panic!("{:?}", rig.syncs) };
    let synced = |rig: &mut Rig, ticket| {
        rig.s.handle(rig.now, Input::Synced { torrent: t, ticket, result: Ok(()) });
        rig.drive();
        rig.status(t).durable
    };
    assert_eq!(synced(&mut rig, old), 0, "that was another sync");
    assert_eq!(synced(&mut rig, new), u64::from(B));
    assert_eq!(synced(&mut rig, new), u64::from(B), "told twice");
}

#[test]
fn where_its_files_were_is_known_after_a_restart_and_only_there() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::seed(&c);
    rig.s.set_home(t, Some(9));
    rig.s.set_home(t, None);
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    let record = rig.records.last().expect("it was saved").clone();
    for (dir, home) in [("d", Some(9)), ("e", None)] {
        let (mut rig, record) = (Rig::new(Config::default()), record.clone());
        let t = rig.add(&c, |add| (add.resume, add.dir) = (Some(record), dir.into()));
        assert_eq!(rig.s.home(t), home, "{dir}");
    }
}
