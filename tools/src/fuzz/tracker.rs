//! Targets for what trackers answer: one reply, and whole conversations.

use std::net::{IpAddr, SocketAddr};

use btmio::config::limits;
use btmio::http::{self, Url};
use btmio::id::{InfoHash, PeerId};
use btmio::time::{Duration, Instant};
use btmio::tracker::http::{HttpTransaction, Progress};
use btmio::tracker::udp::{ConnectionIds, UdpTransaction};
use btmio::tracker::{self, Announce, Ask, Event, Reply, TrackerError};

use super::Bytes;

const HASH: [u8; 20] = [b'A'; 20];

fn announce(event: Event) -> Announce {
    Announce {
        info_hash: InfoHash::new(HASH),
        peer_id: PeerId::new(*b"-BM0100-0123456789ab"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event,
        numwant: limits::NUMWANT,
        key: 5,
        tracker_id: Some(b"\0&\r\n".to_vec()),
    }
}

/// What must hold of every reply that was accepted, and of the words for one that was not.
fn check(result: &Result<Reply, TrackerError>) {
    match result {
        Ok(reply) => {
            assert!(reply.peers.iter().all(|p| p.port() != 0 && !p.ip().is_unspecified() && !p.ip().is_multicast()));
            assert!(reply.peers.len() <= limits::SWARM);
            assert!(reply.peer_names.len() <= 32, "{} names", reply.peer_names.len());
            let name = |(host, port): &(String, u16)| *port != 0 && host.bytes().all(|b| b.is_ascii_graphic());
            assert!(reply.peer_names.iter().all(name), "{:?}", reply.peer_names);
            assert!(!reply.warning.as_deref().unwrap_or_default().contains(char::is_control));
        }
        Err(e) => assert!(!e.to_string().contains(char::is_control), "{e:?}"),
    }
}

/// The body of an answer to an announce or a scrape.
pub(super) fn reply(data: &[u8]) {
    check(&tracker::reply::parse(data));
    check(&tracker::reply::parse_scrape(data, &InfoHash::new(HASH)));
}

/// An HTTP reply: the first byte chooses the split. Never more than the limit is kept.
pub(super) fn response(data: &[u8]) {
    const MAX: usize = 4096;
    let Some((split, stream)) = data.split_first() else { return };
    let read = |size: usize| {
        let mut reader = http::ResponseReader::new(MAX);
        let mut done = Ok(false);
        for part in stream.chunks(size) {
            done = reader.feed(part);
            assert!(reader.body().len() <= MAX);
            if done != Ok(false) {
                break;
            }
        }
        if done == Ok(false) {
            done = reader.eof();
        }
        let told = matches!(done, Ok(true));
        (done, told.then(|| (reader.status(), reader.location().map(str::to_owned), reader.body().to_vec())))
    };
    let (whole, split) = (read(usize::MAX), read(usize::from(*split).max(1)));
    // Which of several errors is met first may depend on the split; whether it is one may not.
    assert_eq!((whole.0.is_ok(), &whole.1), (split.0.is_ok(), &split.1));
}

/// A body in gzip: what comes out of it within one limit comes out within any that it fits.
pub(super) fn gzip(data: &[u8]) {
    const MAX: usize = 64 << 10;
    let got = http::gunzip(data, MAX);
    let Ok(plain) = &got else { return };
    assert!(plain.len() <= MAX);
    assert_eq!(&http::gunzip(data, plain.len()), &got);
    if let Some(less) = plain.len().checked_sub(1) {
        assert_eq!(http::gunzip(data, less), Err(http::GzipError::TooLong));
    }
}

/// A conversation over HTTP: the first bytes choose what is asked, where, and the split; the rest is what
/// the servers say, one after the other.
pub(super) fn transaction(data: &[u8]) {
    let Some(([kind, split, ip], mut stream)) = data.split_first_chunk::<3>() else { return };
    let url = ["http://t.example/announce", "http://u:p@10.0.0.1:6969/x/announce.php?k=1", "http://[::1]/announce"];
    let url = Url::parse(url[usize::from(kind >> 1) % 3]).expect("a URL");
    let events = [Event::None, Event::Started, Event::Completed, Event::Stopped];
    let ask = match kind & 1 {
        0 => Ask::Announce(announce(events[usize::from(kind >> 4 & 3)])),
        _ => Ask::Scrape(InfoHash::new(HASH)),
    };
    let mut t = HttpTransaction::ask(url, &ask).expect("it is http, and an announce");
    for hop in 0.. {
        assert!(hop <= limits::REDIRECTS, "redirected for ever");
        let request = t.request();
        let lines: Vec<_> = request.split(|b| *b == b'\n').collect();
        assert!(request.starts_with(b"GET /") && request.ends_with(b"\r\n\r\n"));
        assert!(lines.iter().all(|l| l.is_empty() || l.ends_with(b"\r")), "a bare line feed");
        assert_eq!(request.iter().filter(|b| **b == b'\r').count(), lines.len() - 1, "a bare carriage return");
        assert_eq!(lines[0].split(|b| *b == b' ').count(), 3, "the request line has three words");
        assert_eq!(lines.iter().filter(|l| l.len() == 1).count(), 1, "one blank line");
        let ips: [IpAddr; 4] = [[8, 8, 8, 8].into(), [10, 0, 0, 1].into(), [127, 0, 0, 1].into(), [0; 16].into()];
        let _ = t.may_connect(ips[usize::from(*ip) % 4]);
        let mut progress = Progress::More;
        while !stream.is_empty() && progress == Progress::More {
            let (now, later) = stream.split_at(usize::from(*split).max(1).min(stream.len()));
            (progress, stream) = (t.feed(now), later);
        }
        if progress == Progress::More {
            progress = t.eof();
        }
        match progress {
            Progress::Redirected => {}
            Progress::Done(result) => {
                check(&result);
                assert_eq!((t.feed(b"HTTP/1.1 200 OK\r\n\r\n"), t.eof()), (Progress::More, Progress::More));
                return;
            }
            Progress::More => panic!("the stream has ended, and it is not over"),
        }
    }
}

/// A conversation over UDP: a program of datagrams and of waiting.
pub(super) fn udp(data: &[u8]) {
    let mut b = Bytes(data);
    let kind = b.u8();
    let addrs: [SocketAddr; 3] =
        ["10.0.0.1:80", "[2001:db8::1]:80", "[::ffff:10.0.0.1]:80"].map(|a| a.parse().expect("an address"));
    let (to, other) = (addrs[usize::from(kind >> 2) % 3], addrs[usize::from(kind >> 2).wrapping_add(1) % 3]);
    let ask = match kind & 1 {
        0 => Ask::Announce(announce(Event::Started)),
        _ => Ask::Scrape(InfoHash::new(HASH)),
    };
    let target = if kind & 2 == 0 { String::new() } else { "x".repeat(600) };
    let mut ids = ConnectionIds::default();
    let mut now = Instant::from_secs(1);
    let mut out = Vec::new();
    for round in 0..3 {
        let url = Url::parse(&format!("udp://t.example:80/{target}")).expect("a URL");
        let mut t = UdpTransaction::new(url, ask.clone()).expect("it is udp");
        t.start(now, to, round, &ids);
        while !b.0.is_empty() {
            if t.poll(now, &mut ids, &mut out) {
                let len = out.len();
                assert!(matches!((len, kind & 1), (16, _) | (36, 1) | (98.., 0)), "{len} bytes");
                assert!(t.deadline() > now && t.unanswered() > 0);
            }
            let op = b.u8();
            if op & 3 == 0 {
                now += Duration::from_secs(u64::from(b.u8()));
                continue;
            }
            let n = usize::from(b.u8());
            let mut datagram = Vec::new();
            if op & 3 != 1 {
                datagram.extend(u32::from(op >> 4 & 3).to_be_bytes());
                datagram.extend(round.to_be_bytes());
            }
            datagram.extend(b.take(n));
            let from = if op & 12 == 12 { other } else { to };
            match t.handle(now, from, &datagram, &mut ids) {
                Progress::More => {}
                Progress::Redirected => panic!("there are no redirects in UDP"),
                Progress::Done(result) => {
                    check(&result);
                    assert!(t.deadline() == Instant::FAR && !t.poll(now, &mut ids, &mut out), "it is over");
                    break;
                }
            }
        }
    }
}
