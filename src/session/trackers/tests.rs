//! Dialogues between one torrent and its trackers, by way of a session without a network.

use super::*;
use crate::api::{Add, Alert, Input, TrackerOutcome};
use crate::config::Config;
use crate::id::TorrentKey;
use crate::metainfo::Metainfo;
use crate::time::Duration;

/// A session, and what it has asked for and not been given yet.
struct World {
    now: Instant,
    s: Session,
    key: TorrentKey,
    resolves: Vec<(u64, String)>,
    connects: Vec<(ConnKey, SocketAddr)>,
    /// Whom TLS shall find there, of all streams that were asked for.
    hosts: Vec<Option<String>>,
    alerts: Vec<TrackerOutcome>,
}

fn world(trackers: &[&str]) -> World {
    let mut torrent = b"d4:infod6:lengthi1e4:name1:n12:piece lengthi16384e6:pieces20:".to_vec();
    torrent.extend([1; 20]);
    torrent.extend(b"ee");
    let mut add = Add::new(Metainfo::parse(&torrent).unwrap(), "/nowhere");
    add.trackers = trackers.iter().map(|t| (*t).to_owned()).collect();
    let now = Instant::from_secs(100);
    let mut s = Session::new(Config::default(), [3; 32]);
    s.set_port(6881);
    let key = s.add(now, add).unwrap();
    s.handle(now, Input::Opened { torrent: key, files: vec![None] });
    let mut w =
        World { now, s, key, resolves: Vec::new(), connects: Vec::new(), hosts: Vec::new(), alerts: Vec::new() };
    w.drain();
    w
}

impl World {
    fn drain(&mut self) {
        while let Some(action) = self.s.poll_action() {
            match action {
                Action::Resolve { id, host } => self.resolves.push((id, host)),
                Action::Connect { conn, addr, tls } => {
                    self.connects.push((conn, addr));
                    self.hosts.push(tls);
                }
                _ => {}
            }
        }
        while let Some(alert) = self.s.poll_alert() {
            if let Alert::Tracker { outcome, .. } = alert {
                self.alerts.push(outcome);
            }
        }
    }

    fn resolve(&mut self, ips: &[&str]) {
        let (id, _) = self.resolves.remove(0);
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        self.s.handle(self.now, Input::Resolved { id, result: Ok(ips) });
        self.drain();
    }

    fn sent(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let (mut data, mut all) = (Vec::new(), Vec::new());
        while let Some(to) = self.s.poll_datagram(&mut data) {
            all.push((to, data.clone()));
        }
        all
    }

    fn answer(&mut self, from: SocketAddr, data: &[u8]) {
        self.s.handle_datagram(self.now, from, data);
        self.drain();
    }

    /// Answers everything that was sent as a tracker would; what was announced where, by event.
    fn serve(&mut self, peers: &[u8]) -> Vec<(String, u32)> {
        let mut seen = Vec::new();
        loop {
            let all = self.sent();
            if all.is_empty() {
                return seen;
            }
            for (to, data) in all {
                let word = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
                let mut reply = Vec::new();
                reply.extend(word(8).to_be_bytes());
                reply.extend(word(12).to_be_bytes());
                if word(8) == 0 {
                    reply.extend(7u64.to_be_bytes());
                } else {
                    seen.push((to.to_string(), word(80)));
                    [1800u32, 3, 4].into_iter().for_each(|n| reply.extend(n.to_be_bytes()));
                    reply.extend(peers);
                }
                self.answer(to, &reply);
            }
        }
    }

    /// The next stream is made; what is asked over it.
    fn request(&mut self) -> (ConnKey, SocketAddr, String) {
        let (conn, addr) = self.connects.remove(0);
        self.s.handle(self.now, Input::Connected { conn, local: None });
        self.drain();
        let Some(Conn::Tracker(t)) = self.s.conns.get(conn) else { panic!("no tracker") };
        let Transport::Http(http) = &t.transport else { panic!("no stream") };
        (conn, addr, String::from_utf8(http.request()).unwrap())
    }

    fn reply(&mut self, conn: ConnKey, body: &str) {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.s.feed(self.now, conn, text.as_bytes());
        self.drain();
    }

    fn fail(&mut self) {
        let (conn, _) = self.connects.remove(0);
        self.s.handle(self.now, Input::Closed { conn, why: CloseReason::Io("refused".into()) });
        self.drain();
    }

    /// Time passes, every tick on time.
    fn pass(&mut self, s: u64) {
        let end = self.now + Duration::from_secs(s);
        while let Some(at) = self.s.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.s.handle(self.now, Input::Tick);
            self.drain();
        }
        self.now = end;
    }

    fn errors(&self) -> Vec<String> {
        let text = |o: &TrackerOutcome| match o {
            TrackerOutcome::Error(e) | TrackerOutcome::ScrapeError(e) => Some(e.clone()),
            _ => None,
        };
        self.alerts.iter().filter_map(text).collect()
    }

    fn state(&self) -> &'static str {
        self.s.trackers(self.key)[0].state
    }
}

fn events(seen: &[(String, u32)]) -> Vec<(&str, u32)> {
    let mut seen: Vec<_> = seen.iter().map(|(to, e)| (to.as_str(), *e)).collect();
    seen.sort_unstable();
    seen
}

const V4: &str = "192.0.2.1:6969";
const V6: &str = "[2001:db8::1]:6969";
const BOTH: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

#[test]
fn udp_over_both_families_with_one_key_and_stopped_to_those_that_know_us() {
    let mut w = world(&["udp://t:6969/announce"]);
    w.resolve(&BOTH);
    let seen = w.serve(&[10, 9, 8, 7, 0, 9]);
    assert_eq!(events(&seen), [(V4, 2), (V6, 2)]);
    assert_eq!(w.alerts.len(), 1, "one tracker, one answer");
    assert_eq!((w.state(), w.s.conns.iter().filter(|(_, c)| c.peer().is_none()).count()), ("working", 0));
    assert!(w.s.transactions.is_empty());
    w.s.pause(w.now, w.key).unwrap();
    w.drain();
    w.resolve(&BOTH);
    assert!(!w.s.torrents.get(w.key).unwrap().tiers.idle());
    assert_eq!(events(&w.serve(&[])), [(V4, 3), (V6, 3)]);
    assert!(w.s.torrents.get(w.key).unwrap().tiers.idle());
}

#[test]
fn a_family_that_does_not_answer_is_told_nothing_but_started() {
    let mut w = world(&["udp://t:6969/announce"]);
    w.resolve(&BOTH);
    let to = V6.parse().unwrap();
    w.s.handle(w.now, Input::Unsent { to, error: "no route".into() });
    w.drain();
    w.sent().into_iter().filter(|(to, _)| to.is_ipv4()).for_each(|(to, data)| {
        let id: [u8; 4] = data[12..16].try_into().unwrap();
        w.answer(to, &[&[0; 4], &id[..], &[0; 8]].concat());
    });
    assert_eq!(events(&w.serve(&[])), [(V4, 2)]);
    assert!(w.errors().is_empty(), "{:?}", w.errors());
    w.pass(1801);
    w.resolve(&BOTH);
    assert_eq!(events(&w.serve(&[])), [(V4, 0), (V6, 2)], "IPv6 works now, and has to be told all");
    let mut w2 = world(&["udp://t:6969/announce"]);
    w2.resolve(&BOTH[..1]);
    w2.serve(&[]);
    w2.s.shutdown(w2.now);
    w2.drain();
    w2.resolve(&BOTH);
    assert_eq!(events(&w2.serve(&[])), [(V4, 3)], "IPv6 does not know us");
    assert!(w2.s.is_shut_down(w2.now));
}

#[test]
fn repeats_then_gives_up_after_thirty_seconds() {
    let mut w = world(&["udp://t:6969/announce"]);
    w.resolve(&BOTH[..1]);
    assert_eq!(w.sent().len(), 1);
    w.pass(4);
    assert_eq!(w.sent().len(), 0);
    w.pass(1);
    assert_eq!(w.sent().len(), 1);
    w.pass(24);
    assert_eq!((w.sent().len(), w.errors().len()), (1, 0));
    w.pass(1);
    assert_eq!(w.errors(), ["no answer in time"]);
    assert!(w.s.transactions.is_empty() && w.s.conns.is_empty());
}

#[test]
fn another_address_of_the_family_is_tried() {
    let mut w = world(&["udp://t:6969/announce"]);
    w.resolve(&["192.0.2.1", "192.0.2.2"]);
    assert_eq!(w.sent()[0].0, V4.parse().unwrap());
    w.pass(5);
    assert_eq!(w.sent()[0].0, V4.parse().unwrap());
    w.pass(10);
    assert_eq!(events(&w.serve(&[])), [("192.0.2.2:6969", 2)]);
    assert_eq!(w.state(), "working");
}

#[test]
fn datagrams_of_strangers_are_nothing() {
    let mut w = world(&["udp://t:6969/announce"]);
    w.resolve(&BOTH[..1]);
    let (to, data) = w.sent().remove(0);
    let good = [&[0; 4], &data[12..16], &[0; 8]].concat();
    w.answer("192.0.2.2:6969".parse().unwrap(), &good);
    w.answer("192.0.2.1:6968".parse().unwrap(), &good);
    w.answer(to, &good[..7]);
    w.answer(to, b"d1:y1:qe");
    assert!(w.sent().is_empty());
    w.answer("[::ffff:192.0.2.1]:6969".parse().unwrap(), &good);
    assert_eq!(w.sent().len(), 1, "the same address in another dress");
}

#[test]
fn a_port_that_is_forwarded_is_told_to_trackers_and_not_to_the_neighbours() {
    let mut w = world(&["http://t/announce"]);
    w.resolve(&BOTH[..1]);
    let (conn, _, request) = w.request();
    assert!(request.contains("&port=6881&"), "{request}");
    w.reply(conn, "d8:intervali1800e12:min intervali60e5:peers0:e");
    w.s.set_external_port(w.now, 6881);
    w.pass(120);
    assert!(w.connects.is_empty(), "nothing new");
    w.s.set_external_port(w.now, 40001);
    w.pass(1);
    w.drain();
    w.resolve(&BOTH[..1]);
    let (_, _, request) = w.request();
    assert!(request.contains("&port=40001&"), "{request}");
    w.s.hear_address("192.168.1.1".parse().unwrap(), "10.0.0.5".parse().unwrap());
    assert_eq!(w.s.external_ip(false), None, "yet another network at home");
    w.s.hear_address("192.168.1.1".parse().unwrap(), "203.0.113.5".parse().unwrap());
    assert_eq!(w.s.external_ip(false), Some("203.0.113.5".parse().unwrap()));
}

#[test]
fn http_over_both_families_with_one_key() {
    let mut w = world(&["http://t/announce"]);
    w.resolve(&BOTH);
    let (first, a, one) = w.request();
    let (second, b, two) = w.request();
    assert_eq!((a.to_string(), b.to_string()), ("192.0.2.1:80".into(), "[2001:db8::1]:80".into()));
    assert_eq!(one, two);
    w.reply(second, "d11:external ip4:\x01\x02\x03\x048:intervali1800e5:peers0:e");
    assert_eq!((w.alerts.len(), w.state()), (1, "working"));
    assert_eq!(w.s.external_ip(false), Some("1.2.3.4".parse().unwrap()));
    w.reply(first, "d14:failure reason2:noe");
    assert_eq!((w.alerts.len(), w.state()), (1, "working"));
}

#[test]
fn a_failure_is_told_when_both_families_have_failed() {
    let mut w = world(&["http://t/announce"]);
    w.resolve(&BOTH);
    w.fail();
    assert!(w.errors().is_empty());
    let (conn, ..) = w.request();
    w.reply(conn, "d14:failure reason2:noe");
    assert_eq!(w.errors(), ["the tracker refuses: no"]);
    let mut w = world(&["http://t/announce"]);
    w.resolve(&BOTH);
    w.fail();
    w.fail();
    assert_eq!(w.errors(), ["connection failed: refused"]);
    let mut w = world(&["http://t/announce"]);
    w.resolve(&[]);
    assert_eq!(w.errors(), ["connection failed: the name has no address"]);
}

#[test]
fn a_redirect_stays_in_its_family() {
    let mut w = world(&["http://t/announce"]);
    w.resolve(&BOTH);
    let (first, ..) = w.request();
    w.s.feed(w.now, first, b"HTTP/1.1 302 Found\r\nLocation: http://u/announce\r\n\r\n");
    w.drain();
    assert_eq!(w.resolves[0].1, "u");
    w.connects.clear();
    w.resolve(&["2001:db8::5", "192.0.2.5"]);
    assert_eq!(w.connects.len(), 1);
    assert_eq!(w.connects[0].1.to_string(), "192.0.2.5:80");
}

#[test]
fn scrapes_change_counts_and_nothing_else() {
    let mut w = world(&["udp://t:6969/announce", "http://t/announce", "http://t/other", "https://t/other"]);
    w.resolve(&BOTH[..1]);
    w.serve(&[]);
    let before = w.alerts.len();
    w.s.scrape(w.now, w.key).unwrap();
    w.drain();
    let https = match cfg!(feature = "tls") {
        true => "its URL does not tell where to scrape",
        false => "https trackers are skipped: this build has no TLS",
    };
    assert_eq!(w.errors(), ["its URL does not tell where to scrape", https]);
    w.s.scrape(w.now, w.key).unwrap();
    w.drain();
    assert_eq!(w.resolves.len(), 2, "those under way are not asked twice");
    w.resolve(&BOTH[..1]);
    let (to, data) = w.sent().remove(0);
    assert_eq!((to, &data[..12], data.len()), (V4.parse().unwrap(), &[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2][..], 36));
    w.answer(to, &[&[0, 0, 0, 2], &data[12..16], &[0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 8]].concat());
    w.resolve(&BOTH[..1]);
    let (conn, _, request) = w.request();
    assert!(request.starts_with("GET /scrape?info_hash="), "{request}");
    w.reply(conn, "d14:failure reason2:noe");
    let status = w.s.trackers(w.key);
    assert_eq!((status[0].seeders, status[0].downloaded, status[0].leechers), (Some(5), Some(6), Some(8)));
    assert_eq!((status[0].state, status[1].state), ("working", "waiting"));
    assert_eq!(status[1].scrape_error.as_deref(), Some("the tracker refuses: no"));
    let ok = w.alerts[before..].iter().filter(|o| matches!(o, TrackerOutcome::Scrape { seeders: Some(5), .. }));
    assert_eq!(ok.count(), 1);
    assert!(w.s.conns.iter().all(|(_, c)| c.peer().is_some()) && w.s.transactions.is_empty());
}

/// A family that leads nowhere does not keep the answer of the other.
#[test]
fn a_scrape_goes_over_both_families_and_the_first_answer_counts() {
    let mut w = world(&["http://t/announce"]);
    w.resolve(&BOTH[..1]);
    let (conn, ..) = w.request();
    w.reply(conn, "d8:intervali900e5:peers0:e");
    let body = "d5:filesd20:HHHHHHHHHHHHHHHHHHHHd8:completei5e10:downloadedi6e10:incompletei8eeee";
    let hash = w.s.torrents.get(w.key).unwrap().info_hash;
    let scrapes = |w: &World| {
        w.alerts.iter().filter(|o| matches!(o, TrackerOutcome::Scrape { .. } | TrackerOutcome::ScrapeError(_))).count()
    };
    for broken in [0, 1] {
        w.alerts.clear();
        w.s.scrape(w.now, w.key).unwrap();
        w.drain();
        w.resolve(&BOTH);
        assert_eq!(w.connects.len(), 2, "one of each family");
        assert_ne!(w.connects[0].1.is_ipv6(), w.connects[1].1.is_ipv6());
        // The other says nothing at all, or is refused.
        let silent = w.connects.remove(broken);
        let (conn, _, request) = w.request();
        assert!(request.starts_with("GET /scrape?info_hash="), "{request}");
        let body = body.as_bytes();
        let at = body.iter().position(|b| *b == b'H').unwrap();
        let body = [&body[..at], &hash.as_bytes()[..], &body[at + 20..]].concat();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        w.s.feed(w.now, conn, &[head.as_bytes(), &body].concat());
        w.drain();
        let status = &w.s.trackers(w.key)[0];
        assert_eq!((status.seeders, status.downloaded, status.leechers), (Some(5), Some(6), Some(8)));
        assert!(w.s.conns.iter().all(|(_, c)| c.peer().is_some()), "the other is not waited for");
        w.s.handle(w.now, Input::Closed { conn: silent.0, why: CloseReason::Io("refused".into()) });
        w.pass(60);
        assert_eq!((scrapes(&w), w.errors()), (1, vec![]));
    }
    // Only when both fail it has failed, once.
    w.alerts.clear();
    w.s.scrape(w.now, w.key).unwrap();
    w.drain();
    w.resolve(&BOTH);
    w.fail();
    assert_eq!(scrapes(&w), 0);
    w.fail();
    assert_eq!((scrapes(&w), w.errors().len()), (1, 1));
}

#[cfg(feature = "tls")]
#[test]
fn https_is_http_to_a_host_that_proves_who_it_is() {
    let mut w = world(&["https://tracker.example:8443/announce"]);
    w.resolve(&BOTH[..1]);
    assert_eq!(w.hosts, [Some("tracker.example".to_owned())]);
    let (conn, addr, request) = w.request();
    assert_eq!(addr.port(), 8443);
    assert!(request.contains("\r\nHost: tracker.example:8443\r\n"), "{request}");
    w.reply(conn, "d8:intervali900e5:peers0:e");
    assert_eq!(w.s.trackers(w.key)[0].state, "working");
}
