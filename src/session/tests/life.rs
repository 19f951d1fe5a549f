//! Torrents and sessions from beginning to end.

use super::rig::*;
use crate::config::Config;
use crate::session::{Alert, CloseReason, State};
use crate::wire::Message;

#[test]
fn pause_and_resume() {
    let c = Content::pieces(4, 2);
    let (mut rig, t) = Rig::leech(&c);
    rig.stamps = vec![stamp(c.data.len() as u64)];
    rig.learn(t, [ip(1), ip(2)]);
    let conn = rig.dialled[0].0;
    rig.connect(conn);
    let hello = rig.handshake(t, id(1), true);
    rig.bytes(conn, &hello);
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::Unchoke);
    let first = requests(&rig.said(conn))[0];
    rig.gives(conn, first);
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::TorrentStopped));
    assert_eq!(rig.status(t).state, State::Paused);
    // Who dials now is sent away; commands do no harm.
    let stranger = rig.knock(ip(3)).unwrap();
    rig.bytes(stranger, &hello);
    assert_eq!(rig.why_closed(stranger), Some(&CloseReason::UnknownInfoHash));
    rig.s.pause(rig.now, t).unwrap();
    rig.s.reannounce(rig.now, t).unwrap();
    rig.pass(secs(5));
    assert_eq!(rig.dialled.len(), 2);
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    assert_eq!(rig.status(t).state, State::Downloading);
    rig.pass(secs(1));
    assert_eq!(rig.dialled.len(), 4, "that we hung up is held against nobody");
    let conn = rig.dialled[2].0;
    rig.connect(conn);
    rig.bytes(conn, &hello);
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::Unchoke);
    let said = rig.said(conn);
    assert_eq!(requests(&said).len(), 7, "the block that came before the pause is kept");
    rig.answers(conn, &said);
    assert!(rig.status(t).is_complete());
    let told = |f: fn(&Alert) -> bool| rig.alerts.iter().filter(|a| f(a)).count();
    assert_eq!(told(|a| matches!(a, Alert::Paused { .. })), 1);
    assert_eq!(told(|a| matches!(a, Alert::Resumed { .. })), 1);
}

#[test]
fn a_torrent_that_starts_paused_does_nothing() {
    let c = Content::pieces(4, 2);
    let mut rig = Rig::new(Config::default());
    let t = rig.add(&c, |add| {
        add.paused = true;
        add.peers = vec![ip(1)];
    });
    rig.pass(secs(100));
    assert_eq!((rig.status(t).state, rig.dialled.len(), rig.ticks), (State::Paused, 0, 0));
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    assert_eq!(rig.dialled.len(), 1);
}

#[test]
fn removing_closes_everything_and_forgets() {
    let c = Content::pieces(4, 2);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    rig.s.remove(rig.now, t, true).unwrap();
    rig.drive();
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::TorrentStopped));
    assert!(rig.s.status(rig.now, t).is_none() && rig.s.find(&c.meta.info_hash.unwrap()).is_none());
    assert!(rig.s.pause(rig.now, t).is_err());
    rig.pass(secs(200));
    // The same torrent again, in the same slot.
    let again = rig.add(&c, |_| {});
    assert_ne!(again, t);
    rig.seeder(again, 2);
}

#[test]
fn verify_finds_what_has_changed_on_disk() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    rig.disk_write(t, 2, &[0; 50]);
    rig.s.verify(rig.now, t).unwrap();
    rig.drive();
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::TorrentStopped));
    assert_eq!(rig.have(t).iter_clear().map(|p| p.get()).collect::<Vec<_>>(), [2]);
    assert_eq!(rig.status(t).state, State::Downloading);
    let conn = rig.seeder(t, 2);
    let said = rig.said(conn);
    rig.answers(conn, &said);
    assert!(rig.status(t).is_complete());
}

impl Rig {
    fn disk_write(&mut self, t: crate::id::TorrentKey, piece: u32, data: &[u8]) {
        crate::storage::Storage::write(&mut self.disk, t, p(piece), 0, data).unwrap();
    }
}

#[test]
fn an_idle_session_sleeps() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::seed(&c);
    rig.pass(secs(100));
    let before = rig.ticks;
    rig.pass(secs(1000));
    assert!(rig.ticks - before <= 2, "{} ticks without a peer", rig.ticks - before);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::Have(p(0)));
    let before = rig.ticks;
    for _ in 0..10 {
        rig.pass(secs(100));
        rig.says(conn, &Message::KeepAlive);
    }
    assert!(rig.ticks - before <= 160, "{} ticks in 1000 s with one peer", rig.ticks - before);
}

#[test]
fn commands_do_not_multiply_timers() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.peer(t, 1, true);
    for n in 0..200u8 {
        rig.s.add_peer(rig.now, t, ip(n)).unwrap();
        rig.drive();
        for (conn, _) in std::mem::take(&mut rig.dialled) {
            rig.hang_up(conn, CloseReason::Io("refused".into()));
        }
        rig.pass(millis(100));
        rig.dialled.clear();
        rig.s.pause(rig.now, t).unwrap();
        rig.s.resume(rig.now, t).unwrap();
        rig.drive();
        for (conn, _) in std::mem::take(&mut rig.dialled) {
            rig.hang_up(conn, CloseReason::Io("refused".into()));
        }
    }
    let heap = rig.s.timers.len();
    assert!(heap < 2000, "{heap} timers");
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    rig.pass(secs(1000));
    assert!(rig.s.timers.len() <= 1, "{} timers of a paused torrent", rig.s.timers.len());
}

#[test]
fn shutdown_without_trackers_is_at_once() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    let stranger = rig.knock(ip(2)).unwrap();
    let records = rig.records.len();
    rig.s.shutdown(rig.now);
    rig.drive();
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::Shutdown));
    assert_eq!(rig.why_closed(stranger), Some(&CloseReason::Shutdown));
    assert_eq!(rig.records.len(), records + 1, "its record is saved");
    assert!(rig.s.is_shut_down(rig.now));
    assert!(rig.knock(ip(3)).is_none());
}

#[test]
fn the_record_is_saved_now_and_then_while_something_changes() {
    let c = Content::pieces(4, 1);
    let (mut rig, t) = Rig::leech(&c);
    rig.pass(secs(31));
    let before = rig.records.len();
    rig.pass(secs(300));
    assert_eq!(rig.records.len(), before, "nothing changed");
    let conn = rig.seeder(t, 1);
    let first = requests(&rig.said(conn))[0];
    rig.gives(conn, first);
    rig.pass(secs(30) - millis(1));
    assert_eq!(rig.records.len(), before);
    rig.pass(millis(1));
    assert_eq!(rig.records.len(), before + 1);
}

#[test]
fn same_seed_same_run() {
    let c = Content::pieces(16, 4);
    let run = || {
        let (mut rig, t) = Rig::leech(&c);
        let conns = [1, 2, 3].map(|n| rig.seeder(t, n));
        let mut log = Vec::new();
        for _ in 0..30 {
            for conn in conns {
                let said = rig.said(conn);
                rig.answers(conn, &said[..said.len() / 2]);
                log.extend(said);
            }
            rig.pass(millis(700));
        }
        log
    };
    let first = run();
    assert!(first.len() > 50);
    assert_eq!(first, run());
}
