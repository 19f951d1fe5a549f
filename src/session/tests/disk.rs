//! A disk that fails, and is repaired.

use super::rig::*;
use crate::api::{ErrorKind, Input};
use crate::session::{Alert, State};
use crate::storage::DiskErrorKind;

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
            assert!(waited <= 50, "it waits for {waited} s");
        }
        assert_eq!((rig.status(t).state, rig.status(t).have), (State::Downloading, before));
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
