//! More limits, at the limit and one past it: what is under way at once, and how long it waits.

use super::rig::*;
use crate::config::{Config, limits};
use crate::session::Want;
use crate::time::Duration;
use crate::wire::Message;

const US: Duration = Duration::from_micros(1);

/// What a peer says about its queue in its extension handshake, and how many requests it is then sent.
#[test]
fn requests_to_a_peer_that_does_not_say_how_many_it_takes() {
    let c = Content::pieces(32, 16);
    let unsaid = limits::REQUESTS_OUT_DEFAULT;
    for (hello, most) in [
        (None, unsaid),
        (Some("de".to_owned()), unsaid),
        (Some(format!("d4:reqqi{}ee", unsaid + 1)), unsaid + 1),
        (Some(format!("d4:reqqi{}ee", unsaid - 1)), unsaid - 1),
    ] {
        let (mut rig, t) = Rig::leech(&c);
        let conn = rig.knock(ip(1)).unwrap();
        let bytes = match hello {
            Some(_) => rig.handshake_ext(t, id(1)),
            None => rig.handshake(t, id(1), true),
        };
        rig.bytes(conn, &bytes);
        if let Some(text) = &hello {
            rig.says(conn, &Message::Extended { id: 0, payload: text.as_bytes() });
        }
        rig.says(conn, &Message::HaveAll);
        rig.says(conn, &Message::Unchoke);
        // As if it had been fast for long.
        rig.p_mut(conn).trade.queue_target = 5000;
        let first = rig.p(conn).trade.asked[0].block;
        rig.gives(conn, first);
        assert_eq!(rig.p(conn).trade.asked.len(), most, "{hello:?}");
    }
}

#[test]
fn payload_ahead_of_a_socket() {
    let c = Content::pieces(8, 16);
    let most = (limits::OUTBOX_PAYLOAD / u64::from(B)) as u32;
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::Interested);
    rig.said(conn);
    rig.wires.get_mut(&conn).unwrap().room = 0;
    (0..most).for_each(|i| rig.says(conn, &Message::Request(blk(i / 16, i % 16))));
    let state = |rig: &Rig| (rig.p(conn).outbox.payload_len(), rig.p(conn).trade.serving.len());
    assert_eq!(state(&rig), (limits::OUTBOX_PAYLOAD, 0));
    rig.says(conn, &Message::Request(blk(most / 16, most % 16)));
    assert_eq!(state(&rig), (limits::OUTBOX_PAYLOAD, 1), "one more waits as a request");
    // As soon as there is room for less than a block, that one follows.
    rig.takes(conn, 100);
    rig.takes(conn, 0);
    let (ahead, waiting) = state(&rig);
    assert!(ahead < limits::OUTBOX_PAYLOAD + u64::from(B) && waiting == 0, "{ahead} {waiting}");
}

#[test]
fn blocks_that_one_read_may_bring() {
    let c = Content::pieces(16, 16);
    let (mut rig, t) = Rig::leech_with(&c, Config { stride: 1000, ..Config::default() });
    let conn = rig.seeder(t, 1);
    while rig.p(conn).trade.asked.len() <= limits::RUN {
        let next = rig.p(conn).trade.asked[0].block;
        rig.gives(conn, next);
    }
    rig.p_mut(conn).stride = 1000;
    for asked in [limits::RUN + 1, limits::RUN, limits::RUN - 1] {
        rig.p_mut(conn).trade.asked.truncate(asked);
        let mut run = Vec::new();
        let Want::Payload { run, .. } = rig.s.want(rig.now, conn, &mut run) else { panic!("it predicts") };
        assert_eq!(run.len(), asked.min(limits::RUN));
    }
}

/// What all connections share can be given back at any time, also within a block.
#[test]
fn working_memory_that_is_given_back() {
    let c = Content::pieces(2, 2);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    for block in requests(&rig.said(conn)) {
        for part in rig.piece(conn, block).chunks(5000) {
            rig.bytes(conn, part);
            assert!(rig.bufs.memory() > 0);
            rig.bufs.trim();
            assert_eq!(rig.bufs.memory(), 0);
        }
    }
    assert!(rig.status(t).is_complete());
}

#[test]
fn a_disk_that_is_read_too_slowly_is_asked_again() {
    let c = Content::pieces(2, 1);
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.peer(t, 1, true);
    rig.says(conn, &Message::Interested);
    rig.said(conn);
    rig.disk.stall(true);
    rig.says(conn, &Message::Request(blk(0, 0)));
    rig.disk.stall(false);
    rig.pass(limits::COLD - US);
    assert_eq!(rig.said(conn), [""; 0]);
    rig.pass(US);
    assert_eq!(rig.said(conn), ["piece 0.0"]);
}

#[test]
fn payload_waits_for_a_disk_that_is_behind() {
    let c = Content::pieces(2, 1);
    let (mut rig, t) = Rig::leech(&c);
    let conn = rig.seeder(t, 1);
    let asked = requests(&rig.said(conn));
    rig.disk.stall(true);
    rig.gives(conn, asked[0]);
    rig.disk.stall(false);
    rig.pass(limits::HOLD - US);
    assert_eq!(rig.have(t).count(), 0);
    rig.pass(US);
    assert_eq!(rig.have(t).count(), 1);
    // While it lasts, it is looked at no more often, and the peer is not blamed.
    rig.disk.stall(true);
    rig.gives(conn, asked[1]);
    rig.pass(secs(600));
    assert!(rig.is_open(conn) && !rig.p(conn).snubbed);
    rig.disk.stall(false);
    rig.pass(limits::HOLD);
    assert!(rig.status(t).is_complete());
}
