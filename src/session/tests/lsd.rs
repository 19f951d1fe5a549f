//! Local service discovery in a session: what is said, and who is dialled.

use std::net::SocketAddr;

use super::rig::*;
use crate::config::Config;
use crate::lan::lsd::{PORT, Search};

fn neighbour(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 168, 0, n], PORT))
}

/// The same torrent, as another host speaks of it.
fn message(said: &[Vec<u8>; 2]) -> Vec<u8> {
    let text = String::from_utf8(said[0].clone()).expect("text");
    text.lines()
        .map(|l| if l.starts_with("cookie") { "cookie: another\r\n".into() } else { format!("{l}\r\n") })
        .collect::<String>()
        .into_bytes()
}

#[test]
fn a_torrent_is_spoken_of_and_who_has_it_too_is_dialled() {
    let mut r = Rig::new(Config { lsd: true, ..Config::default() });
    r.s.set_port(7000);
    // That one is for those outside.
    r.s.set_external_port(r.now, 40001);
    let c = Content::pieces(4, 1);
    let t = r.add(&c, |_| {});
    r.pass(secs(10));
    let [said] = &r.multicasts[..] else { panic!("once, not {} times", r.multicasts.len()) };
    let search = Search::parse(&said[1]).expect("a message");
    assert_eq!((search.port, &search.info_hashes[..]), (7000, &[c.meta.info_hash.unwrap()][..]));
    let (own, other) = (said[0].clone(), message(said));
    r.s.handle_multicast(r.now, neighbour(9), &own);
    r.drive();
    assert!(r.dialled.is_empty(), "our own voice");
    r.s.handle_multicast(r.now, neighbour(9), &other);
    r.drive();
    let dialled: Vec<_> = r.dialled.iter().map(|d| d.1).collect();
    assert_eq!(dialled, [SocketAddr::from(([192, 168, 0, 9], 7000))]);
    // Nobody is spoken of, or dialled for, that is paused.
    r.s.pause(r.now, t).unwrap();
    r.drive();
    r.s.handle_multicast(r.now, neighbour(8), &other);
    r.pass(secs(600));
    assert_eq!((r.multicasts.len(), r.dialled.len()), (1, 1));
    r.s.resume(r.now, t).unwrap();
    r.drive();
    r.pass(secs(601));
    assert_eq!(r.multicasts.len(), 1 + 3, "at once, after five minutes, after ten");
}

#[test]
fn a_private_torrent_is_nothing_to_the_neighbours() {
    let mut r = Rig::new(Config { lsd: true, ..Config::default() });
    r.s.set_port(7000);
    let public = Content::pieces(4, 1);
    let t = r.add(&public, |_| {});
    r.pass(secs(1));
    let other = message(&r.multicasts[0]);
    r.s.remove(r.now, t, false).unwrap();
    r.multicasts.clear();
    let mut private = public.clone();
    private.meta.private = true;
    r.add(&private, |_| {});
    r.pass(secs(700));
    r.s.handle_multicast(r.now, neighbour(9), &other);
    r.pass(secs(1));
    assert!(r.multicasts.is_empty() && r.dialled.is_empty(), "{:?}", r.dialled);
}
