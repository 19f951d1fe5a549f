//! Dialogues with a UDP tracker, byte by byte.

use super::*;
use crate::id::{InfoHash, PeerId};

const T: u32 = 0x0102_0304;

fn at(s: u64) -> Instant {
    Instant::from_secs(s)
}

fn v4() -> SocketAddr {
    "10.0.0.1:6969".parse().unwrap()
}

fn v6() -> SocketAddr {
    "[2001:db8::1]:6969".parse().unwrap()
}

fn announce(event: Event) -> Ask {
    Ask::Announce(Announce {
        info_hash: InfoHash::new([0xaa; 20]),
        peer_id: PeerId::new(*b"-BM0100-0123456789ab"),
        port: 6881,
        uploaded: 3,
        downloaded: 1,
        left: u64::MAX - 1,
        event,
        numwant: 80,
        key: 0xdead_beef,
        tracker_id: None,
    })
}

fn transaction(url: &str, ask: Ask) -> UdpTransaction {
    UdpTransaction::new(Url::parse(url).unwrap(), ask).unwrap()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

/// Sends what is due.
fn sent(t: &mut UdpTransaction, now: Instant, ids: &mut ConnectionIds) -> Option<Vec<u8>> {
    let mut out = vec![9; 3];
    t.poll(now, ids, &mut out).then_some(out)
}

/// One that has its connection id, 7.
fn asking(url: &str, ask: Ask, to: SocketAddr, ids: &mut ConnectionIds) -> UdpTransaction {
    let mut t = transaction(url, ask);
    t.start(at(0), to, T, ids);
    assert_eq!(sent(&mut t, at(0), ids).unwrap(), words(&[0x417, 0x2710_1980, 0, T]));
    assert_eq!(t.handle(at(0), to, &words(&[0, T, 0, 7]), ids), Progress::More);
    t
}

#[test]
fn connect_then_announce() {
    let mut ids = ConnectionIds::default();
    let mut t = asking("udp://t:6969", announce(Event::Started), v4(), &mut ids);
    let request = sent(&mut t, at(0), &mut ids).unwrap();
    let mut wanted = words(&[0, 7, 1, T]);
    wanted.extend([0xaa; 20]);
    wanted.extend(b"-BM0100-0123456789ab");
    wanted.extend(words(&[0, 1, u32::MAX, u32::MAX - 1, 0, 3, 2, 0, 0xdead_beef, 80]));
    wanted.extend(6881u16.to_be_bytes());
    assert_eq!(request, wanted);
    assert_eq!(request.len(), 98);
    let mut reply = words(&[1, T, 1800, 2, 5]);
    reply.extend([10, 0, 0, 7, 0x1a, 0xe1, 0, 0, 0, 0, 0, 1, 1, 2, 3]);
    let Progress::Done(Ok(reply)) = t.handle(at(1), v4(), &reply, &mut ids) else { panic!() };
    assert_eq!((reply.seeders, reply.leechers, reply.interval), (Some(5), Some(2), Some(Duration::from_secs(1800))));
    assert_eq!(reply.peers, ["10.0.0.7:6881".parse().unwrap()], "an impossible one and a cut one are left out");
    assert_eq!((t.deadline(), sent(&mut t, at(99), &mut ids)), (Instant::FAR, None), "over");
}

#[test]
fn events_and_who_leaves_wants_nobody() {
    for (event, code, numwant) in
        [(Event::None, 0, 80), (Event::Completed, 1, 80), (Event::Started, 2, 80), (Event::Stopped, 3, 0)]
    {
        let mut ids = ConnectionIds::default();
        let mut t = asking("udp://t:1/", announce(event), v4(), &mut ids);
        let request = sent(&mut t, at(0), &mut ids).unwrap();
        assert_eq!((&request[80..84], &request[92..96]), (&words(&[code])[..], &words(&[numwant])[..]));
    }
}

#[test]
fn url_data_of_any_length() {
    let options = |path: &str| {
        let mut ids = ConnectionIds::default();
        let mut t = asking(&format!("udp://t:1{path}"), announce(Event::None), v4(), &mut ids);
        sent(&mut t, at(0), &mut ids).unwrap().split_off(98)
    };
    assert_eq!(options("/a?k=%20"), b"\x02\x08/a?k=%20\0");
    assert_eq!(options("?k"), b"\x02\x03/?k\0");
    let long = format!("/{}", "x".repeat(600));
    let got = options(&long);
    assert_eq!((got[0], got[1], got[257], got[258], got[514], got[515]), (2, 255, 2, 255, 2, 91));
    assert_eq!(got.len(), 601 + 6 + 1);
    let text: Vec<u8> = [&got[2..257], &got[259..514], &got[516..607]].concat();
    assert_eq!(text, long.as_bytes());
}

#[test]
fn the_stride_is_the_packets() {
    let peers = |to: SocketAddr, body: &[u8]| {
        let mut ids = ConnectionIds::default();
        let mut t = asking("udp://t:1/", announce(Event::None), to, &mut ids);
        let data = [words(&[1, T, 60, 0, 0]), body.to_vec()].concat();
        match t.handle(at(0), to, &data, &mut ids) {
            Progress::Done(Ok(r)) => r.peers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 5];
    assert_eq!(peers(v6(), &six), ["[2001:db8::9]:5"]);
    assert_eq!(peers(v4(), &six), ["32.1.13.184:0"; 0], "three of IPv4, of which none can be");
    assert_eq!(peers(v6(), &[10, 0, 0, 1, 0, 5]), ["10.0.0.1:5"], "IPv4 over IPv6");
    assert_eq!(peers(v6(), &[&six[..], &[1]].concat()), ["[2001:db8::9]:5"]);
    assert!(peers(v6(), &[]).is_empty());
}

#[test]
fn scrape() {
    let mut ids = ConnectionIds::default();
    let mut t = asking("udp://t:1/x", Ask::Scrape(InfoHash::new([0xbb; 20])), v4(), &mut ids);
    let request = sent(&mut t, at(0), &mut ids).unwrap();
    assert_eq!(request, [words(&[0, 7, 2, T]), vec![0xbb; 20]].concat());
    assert_eq!(t.handle(at(0), v4(), &words(&[1, T, 1, 1, 1]), &mut ids), Progress::More, "no announce was asked");
    let Progress::Done(Ok(r)) = t.handle(at(0), v4(), &words(&[2, T, 4, 5, 6]), &mut ids) else { panic!() };
    assert_eq!((r.seeders, r.downloaded, r.leechers), (Some(4), Some(5), Some(6)));
    let mut t = asking("udp://t:1/x", Ask::Scrape(InfoHash::new([0xbb; 20])), v6(), &mut ids);
    let Progress::Done(Ok(r)) = t.handle(at(0), v6(), &words(&[2, T, u32::MAX, 5, 6]), &mut ids) else { panic!() };
    assert_eq!(r.seeders, None);
    let mut t = transaction("udp://t:1/", Ask::Scrape(InfoHash::new([0xbb; 20])));
    t.start(at(0), v4(), T, &ids);
    let end = t.handle(at(0), v4(), &words(&[2, T, 4, 5]), &mut ids);
    assert!(matches!(end, Progress::Done(Err(TrackerError::BadReply(_)))));
}

#[test]
fn asked_again_after_5_10_20_and_30_seconds() {
    let mut ids = ConnectionIds::default();
    let mut t = transaction("udp://t:1/", announce(Event::Started));
    t.start(at(0), v4(), T, &ids);
    let first = sent(&mut t, at(0), &mut ids).unwrap();
    for (n, s) in [5, 15, 35, 65, 95].into_iter().enumerate() {
        assert_eq!((t.unanswered(), t.deadline()), (n as u32 + 1, at(s)));
        assert_eq!(sent(&mut t, Instant::from_micros(at(s).as_micros() - 1), &mut ids), None);
        assert_eq!(sent(&mut t, at(s), &mut ids).as_ref(), Some(&first));
    }
}

#[test]
fn ids_are_kept_for_a_minute_each_address_its_own() {
    let mut ids = ConnectionIds::default();
    asking("udp://t:1/", announce(Event::Started), v4(), &mut ids);
    let mut t = transaction("udp://t:1/", announce(Event::None));
    t.start(at(59), v4(), T, &ids);
    assert_eq!(sent(&mut t, at(59), &mut ids).unwrap()[..16], words(&[0, 7, 1, T])[..]);
    // The id becomes too old while it waits.
    assert_eq!(sent(&mut t, at(64), &mut ids).unwrap().len(), 16);
    for (s, to) in [(60, v4()), (0, v6()), (0, "10.0.0.1:6970".parse().unwrap())] {
        t.start(at(s), to, T, &ids);
        assert_eq!(sent(&mut t, at(s), &mut ids).unwrap().len(), 16, "{to} at {s} s");
    }
}

#[test]
fn an_old_id_that_gets_no_answer_is_replaced() {
    let mut ids = ConnectionIds::default();
    asking("udp://t:1/", announce(Event::Started), v4(), &mut ids);
    let mut t = transaction("udp://t:1/", announce(Event::None));
    t.start(at(1), v4(), T, &ids);
    assert_eq!(sent(&mut t, at(1), &mut ids).unwrap().len(), 98);
    assert_eq!(sent(&mut t, at(6), &mut ids).unwrap().len(), 16);
    t.handle(at(6), v4(), &words(&[0, T, 1, 1]), &mut ids);
    assert_eq!(sent(&mut t, at(6), &mut ids).unwrap()[..8], words(&[1, 1])[..]);
    assert_eq!(sent(&mut t, at(11), &mut ids).unwrap()[..8], words(&[1, 1])[..], "a fresh one is kept");
}

#[test]
fn an_error_drops_the_id() {
    let mut ids = ConnectionIds::default();
    asking("udp://t:1/", announce(Event::Started), v4(), &mut ids);
    let mut t = transaction("udp://t:1/", announce(Event::None));
    t.start(at(1), v4(), T, &ids);
    sent(&mut t, at(1), &mut ids).unwrap();
    let error = [words(&[3, T]), b"who are you\x07\0".to_vec()].concat();
    assert_eq!(t.handle(at(1), v4(), &error, &mut ids), Progress::More, "an old id: once more");
    assert_eq!(sent(&mut t, at(1), &mut ids).unwrap().len(), 16);
    t.handle(at(1), v4(), &words(&[0, T, 0, 8]), &mut ids);
    let Progress::Done(Err(e)) = t.handle(at(1), v4(), &error, &mut ids) else { panic!() };
    assert_eq!(e, TrackerError::Failure { reason: "who are you".into(), retry_in: None });
    assert!(ids.get(at(1), v4()).is_none());
}

#[test]
fn strangers_change_nothing() {
    let mut ids = ConnectionIds::default();
    let mut t = transaction("udp://t:1/", announce(Event::Started));
    t.start(at(0), v4(), T, &ids);
    sent(&mut t, at(0), &mut ids).unwrap();
    let right = words(&[0, T, 0, 7]);
    let other_port = "10.0.0.1:6970".parse().unwrap();
    for (from, data) in [
        (other_port, right.clone()),
        (v6(), right.clone()),
        (v4(), words(&[0, T + 1, 0, 7])),
        (v4(), words(&[3, T + 1, 0, 7])),
        (v4(), words(&[1, T, 0, 7, 8])),
        (v4(), words(&[9, T, 0, 7])),
        (v4(), right[..7].to_vec()),
        (v4(), Vec::new()),
    ] {
        assert_eq!(t.handle(at(0), from, &data, &mut ids), Progress::More);
        assert_eq!((t.stage, t.deadline()), (Stage::Connecting, at(5)), "{data:?}");
    }
    assert!(matches!(t.handle(at(0), v4(), &right[..12], &mut ids), Progress::Done(Err(TrackerError::BadReply(_)))));
    assert_eq!(t.handle(at(0), v4(), &right, &mut ids), Progress::More, "over");
    assert!(ids.known.is_empty());
}

#[test]
fn ids_are_bounded() {
    let mut ids = ConnectionIds::default();
    for i in 0..2 * IDS {
        ids.put(at(0), SocketAddr::new(v4().ip(), i as u16), i as u64);
    }
    assert_eq!(ids.known.len(), IDS);
    ids.put(at(61), v6(), 1);
    assert_eq!(ids.known.len(), 1, "old ones go first");
}

#[test]
fn where_it_may_not_go() {
    let t = transaction("udp://t:1/", announce(Event::None));
    for (ip, fine) in [("169.254.169.254", false), ("224.0.0.1", false), ("0.0.0.0", false), ("fe80::1", false)]
        .into_iter()
        .chain([("127.0.0.1", true), ("10.0.0.1", true), ("8.8.8.8", true), ("2001:db8::1", true)])
    {
        assert_eq!(t.may_connect(ip.parse().unwrap()).is_ok(), fine, "{ip}");
    }
    let http = Url::parse("http://t/").unwrap();
    assert_eq!(UdpTransaction::new(http, announce(Event::None)).unwrap_err(), TrackerError::Unsupported(Scheme::Http));
}

#[test]
fn noise_never_panics() {
    let mut rng = crate::rng::seeded(3);
    for _ in 0..2000 {
        let mut ids = ConnectionIds::default();
        let to = if rng.bool() { v4() } else { v6() };
        let ask = if rng.bool() { announce(Event::None) } else { Ask::Scrape(InfoHash::new([1; 20])) };
        let mut t = asking("udp://t:1/", ask, to, &mut ids);
        for _ in 0..4 {
            let mut data = words(&[rng.u32(..4), T]);
            data.extend((0..rng.usize(..60)).map(|_| rng.u8(..)));
            data.truncate(rng.usize(..=data.len()));
            t.handle(at(0), to, &data, &mut ids);
        }
    }
}
