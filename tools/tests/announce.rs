//! btmio's announces against the test tracker, over real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use btmio::http::Url;
use btmio::id::{InfoHash, PeerId};
use btmio::tracker::http::{HttpTransaction, Progress};
use btmio::tracker::{Announce, Event, Reply, TrackerError};
use tools::tracker::{Options, Redirect, Tracker};

/// Carries one announce out, as the session does with sockets of its own.
fn exchange(url: &str, port: u16, event: Event) -> Result<Reply, TrackerError> {
    let announce = Announce {
        info_hash: InfoHash::new(*b"\0&=%+ \xff# announcehash"[..].first_chunk().unwrap()),
        peer_id: PeerId::new(*b"-BM0100-0123456789ab"),
        port,
        uploaded: 0,
        downloaded: 0,
        left: 5,
        event,
        numwant: 80,
        key: 7,
        tracker_id: None,
    };
    let mut t = HttpTransaction::new(Url::parse(url)?, &announce)?;
    loop {
        let (host, port) = t.host();
        let addr = SocketAddr::new(host.parse().unwrap(), port);
        t.may_connect(addr.ip())?;
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(&t.request()).unwrap();
        let mut buf = [0; 97];
        let progress = loop {
            let n = stream.read(&mut buf).unwrap();
            match if n == 0 { t.eof() } else { t.feed(&buf[..n]) } {
                Progress::More => {}
                other => break other,
            }
        };
        match progress {
            Progress::Done(result) => return result,
            _ => continue,
        }
    }
}

fn tracker(options: Options) -> Tracker {
    Tracker::start(options, |_| {}).unwrap()
}

fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

#[test]
fn every_form_of_answer_says_the_same() {
    let o = Options { peers: vec![addr("[2001:db8::1]:7")], ..Options::default() };
    for options in [
        o.clone(),
        Options { chunked: true, ..o.clone() },
        Options { close: true, ..o.clone() },
        Options { dict_peers: true, ..o.clone() },
    ] {
        let what = format!("{options:?}");
        let t = tracker(options);
        exchange(&t.announce_url(), 1000, Event::Started).unwrap();
        let mut reply = exchange(&t.announce_url(), 2000, Event::Started).unwrap();
        reply.peers.sort();
        assert_eq!(reply.peers, [addr("127.0.0.1:1000"), addr("[2001:db8::1]:7")], "{what}");
        assert_eq!((reply.seeders, reply.leechers), (Some(0), Some(2)), "{what}");
        assert_eq!(reply.external_ip, Some(addr("127.0.0.1:0").ip()), "{what}");
        assert_eq!(reply.interval.map(|d| d.as_secs()), Some(120), "{what}");
        exchange(&t.announce_url(), 1000, Event::Stopped).unwrap();
        assert_eq!(exchange(&t.announce_url(), 2000, Event::None).unwrap().leechers, Some(1), "{what}");
    }
}

#[test]
fn every_way_to_fail() {
    let t = tracker(Options { fail: Some("go away".into()), retry_in: Some(5), ..Options::default() });
    let Err(TrackerError::Failure { reason, retry_in }) = exchange(&t.announce_url(), 1, Event::Started) else {
        panic!()
    };
    assert_eq!((reason.as_str(), retry_in.map(|d| d.as_secs())), ("go away", Some(300)));
    let t = tracker(Options { garbage: true, ..Options::default() });
    assert!(matches!(exchange(&t.announce_url(), 1, Event::Started), Err(TrackerError::BadReply(_))));
    let t = tracker(Options { status: Some(500), ..Options::default() });
    assert_eq!(exchange(&t.announce_url(), 1, Event::Started), Err(TrackerError::Status { code: 500 }));
    let t = tracker(Options { redirect: Some(Redirect::Loop), ..Options::default() });
    assert_eq!(exchange(&t.announce_url(), 1, Event::Started), Err(TrackerError::Redirects));
}

#[test]
fn a_redirect_to_another_tracker() {
    let to = tracker(Options::default());
    let from = tracker(Options { redirect: Some(Redirect::To(to.announce_url())), ..Options::default() });
    exchange(&from.announce_url(), 1234, Event::Started).unwrap();
    let hash = b"\0&=%+ \xff# announcehash"[..].first_chunk().unwrap();
    assert_eq!(to.peers(hash), [addr("127.0.0.1:1234")]);
}
