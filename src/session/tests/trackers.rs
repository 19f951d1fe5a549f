//! Announces: who is asked, what comes of it, and taking leave.

use std::net::IpAddr;

use super::rig::*;
use crate::config::Config;
use crate::config::limits;
use crate::id::{ConnKey, TorrentKey};
use crate::session::{Alert, CloseReason, Input, TrackerOutcome};

fn with_trackers(tiers: &[&[&str]]) -> (Rig, TorrentKey) {
    let mut c = Content::pieces(4, 1);
    c.meta.trackers = tiers.iter().map(|t| t.iter().map(|u| (*u).to_owned()).collect()).collect();
    Rig::leech(&c)
}

/// The tracker's name is looked up, and its stream is made.
fn reach(rig: &mut Rig, addr: [u8; 4]) -> ConnKey {
    let (id, _) = rig.lookups.pop().expect("a name was to be looked up");
    rig.s.handle(rig.now, Input::Resolved { id, result: Ok(vec![IpAddr::from(addr)]) });
    rig.drive();
    let conn = rig.dialled.pop().expect("it is dialled").0;
    rig.dialled.push((conn, std::net::SocketAddr::from((addr, 80))));
    rig.connect(conn);
    conn
}

fn request(rig: &mut Rig, conn: ConnKey) -> String {
    let w = rig.wires.get_mut(&conn).expect("it is connected");
    let text = String::from_utf8(std::mem::take(&mut w.from)).unwrap();
    text.lines().next().unwrap().to_owned()
}

fn reply(rig: &mut Rig, conn: ConnKey, body: &[u8]) {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    rig.bytes(conn, &bytes);
}

const NONE: &[u8] = b"d8:intervali1800e5:peers0:e";

#[test]
fn one_announce_brings_peers() {
    let (mut rig, t) = with_trackers(&[&["http://a.example/announce"]]);
    assert_eq!(rig.lookups[0].1, "a.example");
    let conn = reach(&mut rig, [10, 9, 9, 9]);
    let line = request(&mut rig, conn);
    assert!(line.contains("event=started") && line.contains("left=65536") && line.contains("port=6881"), "{line}");
    // Two peers, one of them on this machine, which a tracker elsewhere may not name; the other on its own network.
    reply(&mut rig, conn, b"d8:intervali1800e5:peers12:\x0a\x00\x00\x01\x1a\xe1\x7f\x00\x00\x01\x1a\xe1e");
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::Done));
    assert_eq!(rig.dialled.last().unwrap().1, std::net::SocketAddr::from(([10, 0, 0, 1], 6881)));
    assert_eq!(rig.status(t).known, 1);
    rig.pass(secs(1790));
    assert!(rig.lookups.is_empty());
    rig.pass(secs(20));
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    assert!(!request(&mut rig, conn).contains("event="));
}

#[test]
fn when_one_fails_the_next_tier_is_asked_at_once() {
    let (mut rig, _) = with_trackers(&[&["http://a.example/announce"], &["http://b.example/announce"]]);
    let (id, host) = rig.lookups.pop().unwrap();
    assert_eq!(host, "a.example");
    rig.s.handle(rig.now, Input::Resolved { id, result: Err("no such name".into()) });
    rig.drive();
    assert_eq!(rig.lookups[0].1, "b.example");
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    reply(&mut rig, conn, NONE);
    let errors = rig.alerts.iter().filter(|a| matches!(a, Alert::Tracker { outcome: TrackerOutcome::Error(_), .. }));
    assert_eq!(errors.count(), 1);
}

#[test]
fn every_address_of_a_tracker_is_tried() {
    let (mut rig, _) = with_trackers(&[&["http://a.example/announce"]]);
    let (id, _) = rig.lookups.pop().unwrap();
    let ips = [[9, 0, 0, 1], [9, 0, 0, 2]].map(IpAddr::from).to_vec();
    rig.s.handle(rig.now, Input::Resolved { id, result: Ok(ips) });
    rig.drive();
    let (conn, first) = rig.dialled[0];
    rig.hang_up(conn, CloseReason::Io("refused".into()));
    assert_ne!(rig.dialled[1].1, first);
    assert_eq!(rig.dialled[1].0, conn);
    rig.connect(conn);
    reply(&mut rig, conn, NONE);
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::Done));
}

#[test]
fn an_address_that_never_answers_does_not_use_up_the_announce() {
    let (mut rig, _) = with_trackers(&[&["http://a.example/announce"]]);
    let (id, _) = rig.lookups.pop().unwrap();
    let ips = [[9, 0, 0, 1], [9, 0, 0, 2]].map(IpAddr::from).to_vec();
    rig.s.handle(rig.now, Input::Resolved { id, result: Ok(ips) });
    rig.drive();
    let conn = rig.dialled[0].0;
    rig.pass(secs(10));
    assert_eq!(rig.dialled.len(), 2, "the other address, after ten seconds");
    rig.connect(conn);
    rig.pass(secs(15));
    reply(&mut rig, conn, NONE);
    let replies =
        rig.alerts.iter().filter(|a| matches!(a, Alert::Tracker { outcome: TrackerOutcome::Reply { .. }, .. }));
    assert_eq!(replies.count(), 1);
}

#[test]
fn a_silent_tracker_is_given_up_after_thirty_seconds() {
    let (mut rig, _) = with_trackers(&[&["http://a.example/announce"]]);
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    assert_eq!(limits::TRACKER_TIMEOUT, secs(30));
    rig.pass(limits::TRACKER_TIMEOUT - millis(1));
    assert!(rig.is_open(conn));
    rig.pass(millis(1));
    assert!(!rig.is_open(conn));
}

#[test]
fn a_redirect_is_followed() {
    let (mut rig, _) = with_trackers(&[&["http://a.example/announce"]]);
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    rig.bytes(conn, b"HTTP/1.1 302 Found\r\nLocation: http://b.example/announce?x=1\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(rig.lookups.last().unwrap().1, "b.example");
    let conn = reach(&mut rig, [9, 9, 9, 8]);
    let line = request(&mut rig, conn);
    assert!(line.contains("x=1"), "{line}");
    reply(&mut rig, conn, NONE);
    assert!(rig.alerts.iter().any(|a| matches!(a, Alert::Tracker { outcome: TrackerOutcome::Reply { .. }, .. })));
}

#[test]
fn completed_is_said_once_and_stopped_when_we_leave() {
    let (mut rig, t) = with_trackers(&[&["http://a.example/announce"]]);
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    reply(&mut rig, conn, NONE);
    rig.pass(secs(70));
    let seed = rig.seeder(t, 1);
    let said = rig.said(seed);
    rig.answers(seed, &said);
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    let line = request(&mut rig, conn);
    assert!(line.contains("event=completed") && line.contains("left=0") && line.contains("downloaded=65536"), "{line}");
    reply(&mut rig, conn, NONE);
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    let line = request(&mut rig, conn);
    assert!(line.contains("event=stopped") && line.contains("numwant=0"), "{line}");
    reply(&mut rig, conn, NONE);
    rig.pass(secs(100));
    assert!(rig.lookups.is_empty(), "nothing more is said");
}

#[test]
fn a_selection_that_is_complete_is_no_completed_torrent() {
    let b = u64::from(B);
    let mut c = Content::of(7, B, &[(b, false), (b, false)]);
    c.meta.trackers = vec![vec!["http://a.example/announce".into()]];
    let mut rig = Rig::new(Config::default());
    let t = rig.add(&c, |add| {
        add.priorities = vec![crate::session::Priority::Normal, crate::session::Priority::Skip];
    });
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    reply(&mut rig, conn, NONE);
    let seed = rig.seeder(t, 1);
    let said = rig.said(seed);
    rig.answers(seed, &said);
    assert!(rig.status(t).is_complete() && rig.lookups.is_empty(), "half of it is not the torrent");
    rig.s.select(rig.now, t, vec![crate::session::Priority::Normal; 2]).unwrap();
    let seed = rig.seeder(t, 2);
    let said = rig.said(seed);
    rig.answers(seed, &said);
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    assert!(request(&mut rig, conn).contains("event=completed"));
}

#[test]
fn shutdown_waits_two_and_a_half_seconds_for_a_silent_tracker() {
    let (mut rig, _) = with_trackers(&[&["http://a.example/announce"]]);
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    reply(&mut rig, conn, NONE);
    rig.s.shutdown(rig.now);
    rig.drive();
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    assert!(request(&mut rig, conn).contains("event=stopped"));
    rig.pass(millis(2499));
    assert!(!rig.s.is_shut_down(rig.now));
    assert!(rig.s.poll_timeout().is_some_and(|at| at <= rig.now + millis(1)), "it wakes up for it");
    rig.pass(millis(1));
    assert!(rig.s.is_shut_down(rig.now));
    // A tracker that answers ends it sooner.
    let (mut rig, _) = with_trackers(&[&["http://a.example/announce"]]);
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    reply(&mut rig, conn, NONE);
    rig.s.shutdown(rig.now);
    rig.drive();
    let conn = reach(&mut rig, [9, 9, 9, 9]);
    reply(&mut rig, conn, NONE);
    assert!(rig.s.is_shut_down(rig.now));
}
