//! The resolver against a name server of its own on loopback.

use super::*;
use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the fake server does about a question; `tcp` tells how it came.
type Script = fn(name: &str, v6: bool, tcp: bool) -> Vec<Say>;

#[derive(Clone)]
enum Say {
    /// A record, with its time to live.
    Rr(&'static str, u32, RData<'static>),
    Code(RCODE),
    Truncated,
    Nothing,
    /// First an answer with another id, then one about another name.
    ForgedFirst,
}

fn a(last: u8) -> RData<'static> {
    RData::A(A { address: 0x0a00_0000 | u32::from(last) })
}

fn aaaa(last: u8) -> RData<'static> {
    RData::AAAA(AAAA { address: (0xfd00 << 112) | u128::from(last) })
}

fn cname(to: &'static str) -> RData<'static> {
    RData::CNAME(CNAME(Name::new_unchecked(to)))
}

/// A name server on loopback. Its threads end with the test's process.
struct Server {
    addr: SocketAddr,
    /// "name A udp", one for each question.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(script: Script) -> Self {
        // Both transports on one port.
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
                let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .unwrap();
        let server = Self { addr: udp.local_addr().unwrap(), asked: Arc::default() };
        let asked = Arc::clone(&server.asked);
        thread::spawn(move || {
            let mut buf = [0; 600];
            while let Ok((n, from)) = udp.recv_from(&mut buf) {
                for answer in answers(&buf[..n], script, false, &asked) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let asked = Arc::clone(&server.asked);
        thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut len = [0; 2];
                while stream.read_exact(&mut len).is_ok() {
                    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
                    stream.read_exact(&mut message).unwrap();
                    for answer in answers(&message, script, true, &asked) {
                        stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                        // In two pieces, as streams are.
                        stream.write_all(&answer[..5]).unwrap();
                        stream.write_all(&answer[5..]).unwrap();
                    }
                }
            }
        });
        server
    }

    fn asked(&self) -> Vec<String> {
        let mut all = self.asked.lock().unwrap().clone();
        all.sort();
        all
    }
}

fn answers(question: &[u8], script: Script, tcp: bool, asked: &Mutex<Vec<String>>) -> Vec<Vec<u8>> {
    let q = Packet::parse(question).unwrap();
    assert!(q.has_flags(PacketFlag::RECURSION_DESIRED));
    let name = q.questions[0].qname.to_string();
    let v6 = q.questions[0].qtype == QTYPE::TYPE(TYPE::AAAA);
    let (family, transport) = (if v6 { "AAAA" } else { "A" }, if tcp { "tcp" } else { "udp" });
    asked.lock().unwrap().push(format!("{name} {family} {transport}"));
    let mut p = q.clone().into_reply();
    let mut out = Vec::new();
    for say in script(&name, v6, tcp) {
        match say {
            Say::Nothing => return Vec::new(),
            Say::Code(code) => *p.rcode_mut() = code,
            Say::Truncated => p.set_flags(PacketFlag::TRUNCATION),
            Say::Rr(name, ttl, rdata) => {
                p.answers.push(ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, ttl, rdata));
            }
            Say::ForgedFirst => {
                let mut forged = q.clone().into_reply();
                forged.answers.push(ResourceRecord::new(forged.questions[0].qname.clone(), CLASS::IN, 9, a(66)));
                forged.set_id(q.id().wrapping_add(1));
                out.push(forged.build_bytes_vec().unwrap());
                forged.set_id(q.id());
                forged.questions[0].qname = Name::new_unchecked("else.where");
                out.push(forged.build_bytes_vec().unwrap());
            }
        }
    }
    out.push(p.build_bytes_vec_compressed().unwrap());
    out
}

/// A resolver with its loop and a clock of its own, which moves only when told.
struct Bench {
    poll: mio::Poll,
    dns: DnsResolver,
    now: Instant,
    files: PathBuf,
}

impl Bench {
    fn new(servers: &[SocketAddr]) -> Self {
        Self::with_files(servers, "", "", 4)
    }

    fn with_files(servers: &[SocketAddr], hosts: &str, resolv_conf: &str, tokens: usize) -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let files = std::env::temp_dir().join(format!("btmio-resolve-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("hosts"), hosts).unwrap();
        std::fs::write(files.join("resolv.conf"), resolv_conf).unwrap();
        let sources = Sources {
            hosts: files.join("hosts"),
            resolv_conf: files.join("resolv.conf"),
            servers: Some(servers.to_vec()),
        };
        let poll = mio::Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let dns = DnsResolver::with_sources(registry, 10, tokens, 1, sources).unwrap();
        Self { poll, dns, now: Instant::from_secs(100), files }
    }

    /// Looks up and waits for the answer; no time passes.
    fn ask(&mut self, host: &str) -> Result<Vec<String>, ResolveError> {
        self.dns.lookup(self.now, 7, host);
        let (id, answer) = self.answer();
        assert_eq!(id, 7);
        answer
    }

    /// Runs the loop until there is an answer.
    fn answer(&mut self) -> (u64, Result<Vec<String>, ResolveError>) {
        loop {
            if let Some((id, answer)) = self.dns.poll(self.now) {
                return (id, answer.map(|ips| ips.iter().map(ToString::to_string).collect()));
            }
            self.turn();
        }
    }

    /// Waits for a socket to become ready.
    fn turn(&mut self) {
        let mut events = mio::Events::with_capacity(8);
        self.poll.poll(&mut events, Some(std::time::Duration::from_secs(20))).unwrap();
        assert!(!events.is_empty(), "nothing happens any more");
        for event in &events {
            assert!((10..14).contains(&event.token().0));
            self.dns.on_ready(self.now, event.token());
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.files);
    }
}

/// Bound, and never read from.
fn silent() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

fn ok(ips: &[&str]) -> Result<Vec<String>, ResolveError> {
    Ok(ips.iter().map(ToString::to_string).collect())
}

#[test]
fn known_without_asking() {
    let mut b = Bench::with_files(&[], "10.1.1.1 Router.lan router # x\nfd00::1 router", "", 1);
    assert_eq!(b.ask("192.0.2.1"), ok(&["192.0.2.1"]));
    assert_eq!(b.ask("2001:DB8::1"), ok(&["2001:db8::1"]));
    assert_eq!(b.ask("LOCALHOST."), ok(&["127.0.0.1", "::1"]));
    assert_eq!(b.ask("a.localhost"), ok(&["127.0.0.1", "::1"]));
    assert_eq!(b.ask("ROUTER"), ok(&["10.1.1.1", "fd00::1"]));
    assert_eq!(b.ask("router.lan"), ok(&["10.1.1.1"]));
    for bad in ["", ".", "a..b", "a b", "a/b", "1.2.3", "2130706433", "m\u{fc}nchen", &"x".repeat(64)] {
        assert_eq!(b.ask(bad), Err(ResolveError::BadName), "{bad:?}");
    }
    // Files are read again, but not all the time.
    std::fs::write(b.files.join("hosts"), "10.1.1.2 router").unwrap();
    assert_eq!(b.ask("router"), ok(&["10.1.1.1", "fd00::1"]));
    b.now += FRESH;
    assert_eq!(b.ask("router"), ok(&["10.1.1.2"]));
}

#[test]
fn both_families_and_the_cache() {
    let s = Server::start(|name, v6, _| match (name, v6) {
        ("two.example", false) => vec![Say::Rr("two.example", 60, a(1)), Say::Rr("two.example", 50, a(2))],
        ("two.example", true) => vec![Say::Rr("two.example", 40, aaaa(1))],
        ("four.example", false) => vec![Say::Rr("four.example", 1, a(4))],
        _ => vec![Say::Code(RCODE::NameError)],
    });
    let mut b = Bench::new(&[s.addr]);
    assert_eq!(b.ask("Two.Example"), ok(&["10.0.0.1", "10.0.0.2", "fd00::1"]));
    assert_eq!(b.ask("two.example."), ok(&["10.0.0.1", "10.0.0.2", "fd00::1"]));
    assert_eq!(s.asked(), ["two.example A udp", "two.example AAAA udp"]);
    b.now += Duration::from_secs(40);
    b.ask("two.example").unwrap();
    assert_eq!(s.asked().len(), 4, "the least time to live was over");

    assert_eq!(b.ask("four.example"), ok(&["10.0.0.4"]));
    b.now += Duration::from_secs(4);
    b.ask("four.example").unwrap();
    assert_eq!(s.asked().len(), 6, "a second is too short to bother the server again");
    assert_eq!(b.ask("none.example"), Err(ResolveError::NotFound));
    assert_eq!(b.ask("none.example"), Err(ResolveError::NotFound));
    assert_eq!(s.asked().len(), 8, "that there is none is remembered too");
    b.now += Duration::from_secs(60);
    assert_eq!(b.ask("none.example"), Err(ResolveError::NotFound));
    assert_eq!(s.asked().len(), 10);
}

#[test]
fn aliases() {
    let s = Server::start(|name, v6, _| match (name, v6) {
        ("www.example", false) => {
            vec![Say::Rr("www.example", 60, cname("web.example")), Say::Rr("web.example", 60, a(1))]
        }
        // This one leaves the rest to the client.
        ("www.example", true) => vec![Say::Rr("www.example", 60, cname("web6.example"))],
        ("web6.example", true) => vec![Say::Rr("web6.example", 60, aaaa(6))],
        ("ring.example", _) => vec![Say::Rr("ring.example", 60, cname("ring2.example"))],
        ("ring2.example", _) => vec![Say::Rr("ring2.example", 60, cname("ring.example"))],
        ("odd.example", _) => vec![Say::Rr("odd.example", 60, cname("not a name"))],
        _ => panic!("asked for {name}"),
    });
    let mut b = Bench::new(&[s.addr]);
    assert_eq!(b.ask("www.example"), ok(&["10.0.0.1", "fd00::6"]));
    assert_eq!(s.asked(), ["web6.example AAAA udp", "www.example A udp", "www.example AAAA udp"]);
    assert_eq!(b.ask("ring.example"), Err(ResolveError::NotFound));
    assert!(s.asked().len() < 30, "{}", s.asked().len());
    assert_eq!(b.ask("odd.example"), Err(ResolveError::NotFound));
}

#[test]
fn forged_answers_are_ignored() {
    let s = Server::start(|_, v6, _| match v6 {
        false => vec![Say::ForgedFirst, Say::Rr("a.example", 60, a(1))],
        true => vec![Say::ForgedFirst],
    });
    assert_eq!(Bench::new(&[s.addr]).ask("a.example"), ok(&["10.0.0.1"]));
}

#[test]
fn truncated_answers_are_asked_for_over_tcp() {
    let s = Server::start(|name, v6, tcp| match (name, v6, tcp) {
        ("big.example", false, false) => vec![Say::Truncated],
        ("big.example", false, true) => (1..=40).map(|i| Say::Rr("big.example", 60, a(i))).collect(),
        ("both.example", _, false) => vec![Say::Truncated, Say::Rr("both.example", 60, a(9))],
        ("both.example", false, true) => vec![Say::Rr("both.example", 60, cname("far.example"))],
        ("both.example", true, true) => vec![Say::Rr("both.example", 60, aaaa(1))],
        ("far.example", false, true) => vec![Say::Rr("far.example", 60, a(2))],
        _ => vec![],
    });
    let mut b = Bench::new(&[s.addr]);
    assert_eq!(b.ask("big.example").unwrap().len(), 32);
    assert_eq!(s.asked(), ["big.example A tcp", "big.example A udp", "big.example AAAA udp"]);
    assert_eq!(b.ask("both.example"), ok(&["10.0.0.2", "fd00::1"]));
}

#[test]
fn the_next_server() {
    let s = Server::start(|_, _, _| vec![Say::Rr("a.example", 60, a(1))]);
    let broken = Server::start(|_, _, _| vec![Say::Code(RCODE::ServerFailure)]);
    let quiet = silent();
    // A closed port says so at once.
    let closed = silent().local_addr().unwrap();
    assert_eq!(Bench::new(&[closed, broken.addr, s.addr]).ask("a.example"), ok(&["10.0.0.1"]));

    let mut b = Bench::new(&[quiet.local_addr().unwrap(), s.addr]);
    b.dns.lookup(b.now, 1, "a.example");
    assert_eq!((b.dns.poll(b.now), b.dns.deadline()), (None, Some(b.now + Duration::from_secs(5))));
    b.now += Duration::from_secs(5);
    assert_eq!(b.answer(), (1, ok(&["10.0.0.1"])));
    assert_eq!(b.dns.deadline(), None);

    assert_eq!(Bench::new(&[broken.addr]).ask("a.example"), Err(ResolveError::Server(2)));
    assert_eq!(broken.asked().len(), 2 + 4, "two attempts");
    assert_eq!(Bench::new(&[closed]).ask("a.example"), Err(ResolveError::Timeout));
}

#[test]
fn patience_ends() {
    let quiet = [silent(), silent(), silent()].map(|s| (s.local_addr().unwrap(), s));
    let mut b = Bench::new(&[quiet[0].0, quiet[1].0, quiet[2].0]);
    let start = b.now;
    b.dns.lookup(b.now, 1, "a.example");
    b.dns.lookup(b.now, 2, "A.example");
    for wait in [5, 10] {
        b.now = start + Duration::from_secs(wait);
        assert_eq!(b.dns.poll(b.now), None);
    }
    assert_eq!(b.dns.deadline(), Some(start + PATIENCE));
    b.now = start + PATIENCE;
    assert_eq!(b.answer(), (1, Err(ResolveError::Timeout)));
    assert_eq!(b.answer(), (2, Err(ResolveError::Timeout)));
}

#[test]
fn one_family_does_not_wait_long_for_the_other() {
    let s = Server::start(|_, v6, _| if v6 { vec![Say::Nothing] } else { vec![Say::Rr("a.example", 60, a(1))] });
    let mut b = Bench::new(&[s.addr]);
    b.dns.lookup(b.now, 1, "a.example");
    assert_eq!(b.dns.deadline(), Some(b.now + Duration::from_secs(5)));
    while b.dns.deadline() != Some(b.now + GRACE) {
        assert_eq!(b.dns.poll(b.now), None);
        b.turn();
    }
    b.now += GRACE;
    assert_eq!(b.answer(), (1, ok(&["10.0.0.1"])));
    // A server that fails for one family is good for the other.
    let s = Server::start(|_, v6, _| match v6 {
        true => vec![Say::Code(RCODE::ServerFailure)],
        false => vec![Say::Rr("a.example", 60, a(1))],
    });
    assert_eq!(Bench::new(&[s.addr]).ask("a.example"), ok(&["10.0.0.1"]));
}

#[test]
fn search_domains_come_before_the_bare_name() {
    let s = Server::start(|name, v6, _| match (name, v6) {
        ("tracker.b.lan", false) => vec![Say::Rr("tracker.b.lan", 60, a(1))],
        ("dotted.name", false) => vec![Say::Rr("dotted.name", 60, a(2))],
        ("bare", false) => vec![Say::Rr("bare", 60, a(3))],
        _ => vec![Say::Code(RCODE::NameError)],
    });
    let mut b = Bench::with_files(&[s.addr], "", "search a.lan b.lan", 4);
    assert_eq!(b.ask("tracker"), ok(&["10.0.0.1"]));
    assert_eq!(b.ask("bare"), ok(&["10.0.0.3"]));
    assert_eq!(b.ask("dotted.name"), ok(&["10.0.0.2"]));
    assert_eq!(s.asked().iter().filter(|q| q.starts_with("dotted")).count(), 2);
}

#[test]
fn slots_are_shared() {
    let s = Server::start(|_, _, _| vec![Say::Code(RCODE::NameError)]);
    let mut b = Bench::with_files(&[s.addr], "", "", 2);
    for id in 0..20 {
        b.dns.lookup(b.now, id, &format!("h{id}.example"));
    }
    let mut ids: Vec<u64> = (0..20)
        .map(|_| {
            let (id, answer) = b.answer();
            assert_eq!(answer, Err(ResolveError::NotFound));
            id
        })
        .collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..20));
    assert_eq!((b.dns.deadline(), b.dns.poll(b.now)), (None, None));

    // Who waits for a slot has no more patience than who has one.
    let quiet = silent();
    let mut b = Bench::with_files(&[quiet.local_addr().unwrap()], "", "", 1);
    b.dns.lookup(b.now, 1, "a.example");
    b.dns.lookup(b.now, 2, "b.example");
    b.now += PATIENCE;
    assert_eq!(b.answer().1, Err(ResolveError::Timeout));
    assert_eq!(b.answer().1, Err(ResolveError::Timeout));

    for id in 0..limits::NAMES_WAITING as u64 + 1 {
        b.dns.lookup(b.now, id, &format!("h{id}.example"));
    }
    b.dns.lookup(b.now, 9999, "late.example");
    assert_eq!(b.answer(), (9999, Err(ResolveError::Busy)));
}

#[test]
fn the_cache_is_bounded() {
    let s = Server::start(|_, _, _| vec![Say::Code(RCODE::NameError)]);
    let mut b = Bench::new(&[s.addr]);
    for i in 0..limits::NAMES_CACHED + 10 {
        let _ = b.ask(&format!("h{i}.example"));
    }
    assert_eq!(b.dns.cache.len(), limits::NAMES_CACHED);
}

#[test]
fn a_resolver_needs_tokens() {
    let poll = mio::Poll::new().unwrap();
    let registry = || poll.registry().try_clone().unwrap();
    assert!(DnsResolver::new(registry(), 5, 0, 1).is_err());
    assert!(DnsResolver::new(registry(), usize::MAX, 1, 1).is_err());
    // What is not ours is not touched.
    let mut dns = DnsResolver::new(registry(), 5, 1, 1).unwrap();
    for token in [0, 4, 5, 6, usize::MAX] {
        dns.on_ready(Instant::ZERO, mio::Token(token));
    }
}

/// What is bound elsewhere does not ask a server that is here, and says so at once.
#[test]
fn no_question_leaves_past_what_it_is_bound_to() {
    let server = Server::start(|_, v6, _| vec![Say::Rr("a.test", 60, if v6 { aaaa(1) } else { a(1) })]);
    let mut b = Bench::new(&[server.addr]);
    let gone = Bound { ips: Vec::new(), device: Some("not-there0".into()) };
    for bound in [gone, Bound { ips: vec!["::1".parse().unwrap()], device: None }] {
        b.dns.bind_to(bound);
        assert_eq!(b.ask("a.test"), Err(ResolveError::Timeout));
        assert_eq!(*server.asked.lock().unwrap(), [""; 0]);
    }
    // A failure is not remembered as an answer.
    b.dns.bind_to(Bound { ips: vec![[127, 0, 0, 1].into()], device: None });
    assert_eq!(b.ask("a.test"), ok(&["10.0.0.1", "fd00::1"]));
}
