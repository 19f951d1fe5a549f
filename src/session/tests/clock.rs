//! T55 of the list of threats: the machine or the process was suspended, and time is hours later all of a sudden.
//! Nothing that was due meanwhile is made up for.

use std::net::SocketAddr;

use super::rig::*;
use crate::config::{Config, DhtConfig, limits};
use crate::id::ConnKey;
use crate::session::{CloseReason, Input};
use crate::time::{Duration, Instant};

const NIGHT: Duration = Duration::from_secs(8 * 3600);
const QUIET: &[u8] = b"d8:intervali1800e5:peers0:e";

/// All names that are to be looked up are; returns them.
fn looked_up(r: &mut Rig) -> Vec<String> {
    let mut hosts = Vec::new();
    for (id, host) in std::mem::take(&mut r.lookups) {
        r.s.handle(r.now, Input::Resolved { id, result: Ok(vec![[9, 9, 9, 9].into()]) });
        r.drive();
        hosts.push(host);
    }
    hosts.sort();
    hosts
}

/// All trackers that were dialled since the last time answer.
fn answered(r: &mut Rig) {
    let trackers = |d: &(ConnKey, SocketAddr)| d.1.port() == 80;
    let (dialled, others) = std::mem::take(&mut r.dialled).into_iter().partition(trackers);
    r.dialled = dialled;
    for (conn, _) in r.dialled.clone() {
        r.connect(conn);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", QUIET.len());
        r.bytes(conn, &[head.as_bytes(), QUIET].concat());
    }
    r.dialled = others;
}

/// Time has passed, and the loop comes to know it.
fn wakes(r: &mut Rig, after: Duration) {
    r.now += after;
    r.s.handle(r.now, Input::Tick);
    r.drive();
}

#[test]
fn t55_after_a_night_each_tracker_is_asked_once_and_nobody_is_taken_for_alive() {
    let dht = DhtConfig { bootstrap: Vec::new(), read_only: false };
    let mut r = Rig::new(Config { dht: Some(dht), lsd: true, ..Config::default() });
    r.s.start_dht(r.now, None);
    let mut torrents = Vec::new();
    for n in 0..3u8 {
        let mut c = Content::of(n, 4 * B, &[(u64::from(16 * B), false)]);
        c.meta.trackers = [format!("http://a{n}.example/announce"), format!("http://b{n}.example/announce")]
            .map(|url| vec![url])
            .into();
        torrents.push(r.add(&c, |_| {}));
    }
    assert_eq!(looked_up(&mut r), ["a0.example", "a1.example", "a2.example"]);
    answered(&mut r);
    r.learn(torrents[0], (0..50).map(|n| SocketAddr::from(([10, 0, 1, n], 6881))));
    let peers: Vec<_> = (1..=4).map(|n| r.seeder(torrents[1], n)).collect();
    r.pass(secs(70));
    r.dialled.clear();
    r.multicasts.clear();
    for nights in 1..4 {
        let before = r.s.stats(r.now);
        wakes(&mut r, NIGHT);
        // A second more, in which all is done that is due.
        let mut asked = looked_up(&mut r);
        let ticks = r.ticks;
        r.pass(secs(1));
        asked.extend(looked_up(&mut r));
        assert!(r.ticks - ticks < 50, "{} ticks in a second", r.ticks - ticks);
        assert_eq!(asked, ["a0.example", "a1.example", "a2.example"], "night {nights}");
        answered(&mut r);
        assert!(r.dialled.len() <= 2 * limits::HALF_OPEN, "{} are dialled", r.dialled.len());
        assert!(r.multicasts.len() <= torrents.len(), "{} multicasts", r.multicasts.len());
        for peer in &peers {
            assert_eq!(r.why_closed(*peer), Some(&CloseReason::Idle));
        }
        let stats = r.s.stats(r.now);
        assert!(stats.rate_down == 0 && stats.rate_up == 0 && stats.peers <= before.peers, "{stats:?}");
        for t in &torrents {
            // Times are what they were: nothing wraps round.
            let status = r.status(*t);
            assert!(status.eta.is_none_or(|eta| eta < Duration::from_secs(1 << 32)), "{status:?}");
        }
        // And it is quiet again.
        r.pass(secs(600));
        assert!(looked_up(&mut r).is_empty());
        r.dialled.clear();
        r.multicasts.clear();
    }
}

#[test]
fn t55_many_short_jumps_are_no_more_than_the_time_they_make() {
    let mut c = Content::pieces(4, 1);
    c.meta.trackers = vec![vec!["http://a.example/announce".into()]];
    let (mut r, _) = Rig::leech(&c);
    let mut asked = looked_up(&mut r).len();
    answered(&mut r);
    // An hour a second, for a day.
    for _ in 0..24 {
        wakes(&mut r, Duration::from_secs(3600));
        r.pass(secs(1));
        asked += looked_up(&mut r).len();
        answered(&mut r);
    }
    assert_eq!(asked, 25, "once an hour, and at the start");
    // A time that lies before the last one changes nothing: it is as if no time had passed.
    let now = r.now;
    r.s.handle(Instant::from_micros(now.as_micros() - 10_000_000), Input::Tick);
    r.drive();
    assert!(r.lookups.is_empty());
    r.s.invariants();
}
