//! What is said and heard on the local network, by hand-made datagrams.

use super::*;

fn h(n: u8) -> InfoHash {
    InfoHash::new([n; 20])
}

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn said(port: u16, info_hash: InfoHash, cookie: &str) -> Vec<u8> {
    encode(false, port, &info_hash, cookie)
}

const NEIGHBOUR: ([u8; 4], u16) = ([192, 168, 1, 7], PORT);

fn node() -> Lsd {
    let mut lsd = Lsd::new(0xAB);
    lsd.set_port(6881);
    lsd
}

#[test]
fn the_messages_are_those_of_the_bep() {
    let mut lsd = node();
    lsd.seek(at(1), h(0xAB));
    let [v4, v6] = lsd.poll(at(1)).expect("it is new");
    let hash = "ab".repeat(20);
    let tail = format!("Port: 6881\r\nInfohash: {hash}\r\ncookie: 00000000000000ab\r\n\r\n\r\n");
    assert_eq!(String::from_utf8(v4).unwrap(), format!("BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\n{tail}"));
    assert_eq!(
        String::from_utf8(v6).unwrap(),
        format!("BT-SEARCH * HTTP/1.1\r\nHost: [ff15::efc0:988f]:6771\r\n{tail}")
    );
}

#[test]
fn messages_are_read_leniently_and_nonsense_is_not() {
    let (a, b) = ("AB".repeat(20), "cd".repeat(20));
    let text =
        format!("bt-search * HTTP/1.1\nINFOHASH:{a}\nx: y\nInfohash: nonsense\n PORT : 5 \ninfohash: {b}\ncookie: me");
    let search = Search::parse(text.as_bytes()).expect("a message");
    assert_eq!(search, Search { port: 5, info_hashes: vec![h(0xAB), h(0xCD)], cookie: Some("me") });
    let many = format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n{}", format!("Infohash: {a}\r\n").repeat(38));
    assert_eq!(Search::parse(many.as_bytes()).expect("a message").info_hashes.len(), HASHES);
    for bad in [
        String::new(),
        "BT-SEARCH".into(),
        format!("M-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {a}\r\n"),
        format!("BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: {a}\r\n"),
        format!("BT-SEARCH * HTTP/1.1\r\nPort: 65536\r\nInfohash: {a}\r\n"),
        format!("BT-SEARCH * HTTP/1.1\r\nInfohash: {a}\r\n"),
        "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n".into(),
        format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {}\r\n", "é".repeat(20)),
        format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {a}\r\n{}", " ".repeat(MESSAGE)),
    ] {
        assert_eq!(Search::parse(bad.as_bytes()), None, "{bad}");
    }
    assert_eq!(Search::parse(b"BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: \xFF"), None);
}

#[test]
fn each_torrent_speaks_every_five_minutes_and_never_twice_in_one() {
    let mut lsd = node();
    (0..3).for_each(|n| lsd.seek(at(0), h(n)));
    let mut now = at(0);
    let mut count = 0;
    while let Some(next) = lsd.poll_timeout().filter(|next| *next < at(3600)) {
        assert!(next >= now, "it does not spin");
        now = next;
        assert!(lsd.poll(now).is_some());
        assert!(lsd.poll(now).is_none(), "spaced");
        count += 1;
    }
    assert_eq!(count, 3 * 12);
    lsd.forget(&h(1));
    lsd.forget(&h(2));
    lsd.seek(now, h(0));
    lsd.forget(&h(0));
    assert_eq!(lsd.poll_timeout(), None);
    // Coming and going makes nobody speak more often.
    lsd.seek(now, h(2));
    assert_eq!(lsd.poll_timeout(), Some(now + SOONEST));
    lsd.set_port(0);
    assert_eq!((lsd.poll_timeout(), lsd.poll(now + EVERY)), (None, None));
}

#[test]
fn only_others_that_can_be_dialled_are_heard_for_torrents_of_ours() {
    let mut lsd = node();
    lsd.seek(at(0), h(1));
    let hear = |lsd: &mut Lsd, from: ([u8; 4], u16), data: Vec<u8>| lsd.handle(at(100), from.into(), &data);
    let peer = SocketAddr::from((NEIGHBOUR.0, 7000));
    let own = lsd.cookie.clone();
    assert_eq!(hear(&mut lsd, NEIGHBOUR, said(7000, h(1), "other")), Some((peer, vec![h(1)])));
    assert_eq!(hear(&mut lsd, NEIGHBOUR, said(7000, h(1), &own)), None, "ourselves");
    assert_eq!(hear(&mut lsd, NEIGHBOUR, said(7000, h(2), "other")), None, "not ours");
    let low = limits::PORT_LEAST;
    let lowest = SocketAddr::from((NEIGHBOUR.0, low));
    assert_eq!(hear(&mut lsd, NEIGHBOUR, said(22, h(1), "other")), None, "no peer's port");
    assert_eq!(hear(&mut lsd, NEIGHBOUR, said(low - 1, h(1), "other")), None, "nor this");
    assert_eq!(hear(&mut lsd, NEIGHBOUR, said(low, h(1), "other")), Some((lowest, vec![h(1)])));
    assert_eq!(hear(&mut lsd, ([169, 254, 0, 1], PORT), said(7000, h(1), "other")), None, "link-local");
    let link_local: SocketAddr = "[fe80::1]:6771".parse().unwrap();
    assert_eq!(lsd.handle(at(100), link_local, &said(7000, h(1), "other")), None);
    lsd.forget(&h(1));
    assert_eq!(hear(&mut lsd, NEIGHBOUR, said(7000, h(1), "other")), None);
}

/// Ten thousand messages a second, each in another's name.
#[test]
fn a_flood_makes_us_dial_once_a_second() {
    let mut lsd = node();
    lsd.seek(at(0), h(1));
    let mut dialled = 0;
    for n in 0..100_000u32 {
        let now = Instant::from_micros(50_000_000 + u64::from(n) * 100);
        let [_, a, b, c] = n.to_be_bytes();
        dialled += usize::from(lsd.handle(now, ([10, a, b, c], PORT).into(), &said(7000, h(1), "x")).is_some());
    }
    assert!((10..=10 + BURST as usize).contains(&dialled), "{dialled}");
    // What was not ours cost nobody his turn.
    let later = at(70);
    let foreign = |n: u8| said(7000, h(2), &format!("{n}"));
    (0..20).for_each(|n| assert_eq!(lsd.handle(later, NEIGHBOUR.into(), &foreign(n)), None));
    assert!(lsd.handle(later, NEIGHBOUR.into(), &said(7000, h(1), "y")).is_some());
}
