//! A tracker for tests: HTTP, HTTPS and UDP, any info hash, compact and dictionary replies, IPv4 and IPv6 peers.
//!
//! It is written without btmio's own parsers, so that an error in those is not answered by the same
//! error here. A thread accepts, one more serves each connection. It is not for the open network:
//! what it remembers is bounded, its patience is not.
//!
//! A peer is its address and port in one swarm; it is dropped on `stopped`, or when it has not come
//! back for three intervals. Bound to `::` it serves both families, each its own peers. `/announce` and `/scrape` may have anything in front (a passkey).
//! [`Options`] make it misbehave: silence, garbage, failures, redirects.
//!
//! ```
//! let tracker = tools::tracker::Tracker::start(Default::default(), |line| println!("{line}")).unwrap();
//! println!("{}", tracker.announce_url());
//! // Dropping it ends it.
//! ```
//!
//! [BEP 3](https://www.bittorrent.org/beps/bep_0003.html),
//! [BEP 7](https://www.bittorrent.org/beps/bep_0007.html),
//! [BEP 23](https://www.bittorrent.org/beps/bep_0023.html),
//! [BEP 48](https://www.bittorrent.org/beps/bep_0048.html)

#[cfg(feature = "tls")]
mod tls;
mod udp;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Connections served at once; more are closed at once.
const CONNECTIONS: usize = 256;
/// Torrents remembered; announces for more are refused.
const TORRENTS: usize = 10_000;
/// Peers remembered of one torrent.
const PEERS: usize = 10_000;
/// Longest request head.
const HEAD: usize = 32 << 10;
/// How long a client may take for its request, and how long `silent` keeps a connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where [`Options::redirect`] leads.
#[derive(Clone, Debug)]
pub enum Redirect {
    /// To this URL; the announce's parameters are appended.
    To(String),
    /// Back here, for ever.
    Loop,
}

/// What the tracker listens on and how it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port; 0 is any free one.
    pub port: u16,
    /// The address.
    pub bind: IpAddr,
    /// Speak UDP too, on the same port.
    pub udp: bool,
    /// Speak nothing but TLS where HTTP is spoken otherwise.
    #[cfg(feature = "tls")]
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The interval it asks for, in seconds.
    pub interval: u32,
    /// The shortest interval it asks for, in seconds.
    pub min_interval: Option<u32>,
    /// Peers to name in every answer.
    pub peers: Vec<SocketAddr>,
    /// Answer every announce with this failure.
    pub fail: Option<String>,
    /// With `fail`: minutes until the next try (BEP 31).
    pub retry_in: Option<u32>,
    /// Answer with this HTTP status.
    pub status: Option<u16>,
    /// Answer with bytes that are no reply.
    pub garbage: bool,
    /// Never answer.
    pub silent: bool,
    /// Send announces elsewhere.
    pub redirect: Option<Redirect>,
    /// Use the chunked coding.
    pub chunked: bool,
    /// No `Content-Length`: the end of the connection ends the body.
    pub close: bool,
    /// Dictionaries whatever was asked for.
    pub dict_peers: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            udp: false,
            #[cfg(feature = "tls")]
            tls: None,
            interval: 120,
            min_interval: None,
            peers: Vec::new(),
            fail: None,
            retry_in: None,
            status: None,
            garbage: false,
            silent: false,
            redirect: None,
            chunked: false,
            close: false,
            dict_peers: false,
        }
    }
}

type Log = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Clone, Debug)]
struct Peer {
    id: Vec<u8>,
    left: u64,
    seen: Instant,
}

#[derive(Debug, Default)]
struct Swarm {
    peers: BTreeMap<SocketAddr, Peer>,
    downloaded: u64,
}

impl Swarm {
    /// Seeders, leechers, downloads.
    fn counts(&self) -> (u64, u64, u64) {
        let seeders = self.peers.values().filter(|p| p.left == 0).count();
        (seeders as u64, (self.peers.len() - seeders) as u64, self.downloaded)
    }
}

struct Shared {
    options: Options,
    addr: SocketAddr,
    log: Log,
    swarms: Mutex<BTreeMap<Vec<u8>, Swarm>>,
    ending: AtomicBool,
    connections: AtomicUsize,
}

/// A running tracker; dropping it ends it.
pub struct Tracker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    datagrams: Option<JoinHandle<()>>,
}

impl Tracker {
    /// Starts one. `log` gets a JSON object for each announce, without the line's end; with TLS also one for each
    /// handshake.
    pub fn start(options: Options, log: impl Fn(&str) + Send + Sync + 'static) -> io::Result<Self> {
        Self::start_with_greeting(options, log, |_| {})
    }

    /// Like [`Tracker::start`]; `greet` gets the announce URL before anything is logged, and the one for
    /// UDP after it.
    pub fn start_with_greeting(
        options: Options,
        log: impl Fn(&str) + Send + Sync + 'static,
        greet: impl Fn(&str),
    ) -> io::Result<Self> {
        let (listener, socket) = open(&options)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options,
            addr,
            log: Box::new(log),
            swarms: Mutex::default(),
            ending: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        greet(&shared.url(shared.web()));
        if shared.options.udp {
            greet(&shared.url("udp"));
        }
        let datagrams = socket.map(|socket| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("tracker-udp".into()).spawn(move || udp::serve(&socket, &shared))
        });
        let datagrams = datagrams.transpose()?;
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("tracker".into()).spawn(move || accept(&listener, &for_thread))?;
        Ok(Self { shared, thread: Some(thread), datagrams })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Where to announce.
    pub fn announce_url(&self) -> String {
        self.shared.url(self.shared.web())
    }

    /// Where to announce over UDP, if it speaks that.
    pub fn udp_url(&self) -> String {
        self.shared.url("udp")
    }

    /// The peers known of a torrent that have not left, for tests.
    pub fn peers(&self, info_hash: &[u8; 20]) -> Vec<SocketAddr> {
        self.shared.lock().get(info_hash.as_slice()).map(|s| s.peers.keys().copied().collect()).unwrap_or_default()
    }

    /// Waits for its end, which comes only by an error of the listening socket.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.ending.store(true, Ordering::SeqCst);
            // Wakes the accepting thread.
            let mut addr = self.shared.addr;
            if addr.ip().is_unspecified() {
                addr.set_ip(if addr.is_ipv4() {
                    Ipv4Addr::LOCALHOST.into()
                } else {
                    std::net::Ipv6Addr::LOCALHOST.into()
                });
            }
            if TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok() {
                let _ = thread.join();
            }
            if let Some(datagrams) = self.datagrams.take() {
                let _ = datagrams.join();
            }
        }
    }
}

/// Both sockets on one port. Any port that the system chooses for TCP may be taken for UDP: then another.
fn open(options: &Options) -> io::Result<(TcpListener, Option<UdpSocket>)> {
    let mut tries = if options.port == 0 { 20 } else { 1 };
    loop {
        let listener = TcpListener::bind((options.bind, options.port))?;
        if !options.udp {
            return Ok((listener, None));
        }
        tries -= 1;
        match UdpSocket::bind(listener.local_addr()?) {
            Ok(socket) => return Ok((listener, Some(socket))),
            Err(e) if tries == 0 => return Err(e),
            Err(_) => {}
        }
    }
}

impl Shared {
    /// What is spoken over streams.
    fn web(&self) -> &'static str {
        #[cfg(feature = "tls")]
        if self.options.tls.is_some() {
            return "https";
        }
        "http"
    }

    fn url(&self, scheme: &str) -> String {
        match self.addr.ip().is_unspecified() {
            true => format!("{scheme}://localhost:{}/announce", self.addr.port()),
            false => format!("{scheme}://{}/announce", self.addr),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Swarm>> {
        self.swarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ending.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: let some connections end.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if shared.connections.fetch_add(1, Ordering::SeqCst) < CONNECTIONS {
            let own = Arc::clone(shared);
            let spawned = thread::Builder::new().spawn(move || {
                let _ = serve(stream, &own);
                own.connections.fetch_sub(1, Ordering::SeqCst);
            });
            if spawned.is_ok() {
                continue;
            }
        }
        shared.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a request comes over.
trait Talk: Read + Write {}
impl<T: Read + Write> Talk for T {}

/// Serves one request and closes.
fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    #[cfg(feature = "tls")]
    if let Some(config) = &shared.options.tls {
        return tls::serve(stream, config, shared, |stream| converse(stream, peer, shared));
    }
    converse(&mut stream, peer, shared)
}

/// One request, one answer.
fn converse(stream: &mut dyn Talk, peer: SocketAddr, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buf = [0u8; 4096];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut buf)?;
        if n == 0 || head.len() > HEAD {
            return Ok(());
        }
        head.extend_from_slice(&buf[..n]);
    }
    let line = String::from_utf8_lossy(head.split(|&b| b == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if method != "GET" {
        return respond(stream, shared, 405, b"", "");
    }
    match path.rsplit('/').next() {
        Some("announce") => announce(stream, shared, peer.ip().to_canonical(), path, query),
        Some("scrape") => respond(stream, shared, 200, &scrape(shared, query), ""),
        _ => respond(stream, shared, 404, b"no such page\n", ""),
    }
}

fn respond(stream: &mut dyn Talk, shared: &Shared, status: u16, body: &[u8], extra: &str) -> io::Result<()> {
    let phrase = match status {
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        404 => "Not Found",
        _ => "Other",
    };
    let mut out = format!("HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\nConnection: close\r\n{extra}");
    let mut bytes = Vec::new();
    if shared.options.chunked {
        out.push_str("Transfer-Encoding: chunked\r\n\r\n");
        bytes.extend_from_slice(out.as_bytes());
        for chunk in body.chunks(7) {
            bytes.extend_from_slice(format!("{:x};n=v\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\nX-Trailer: yes\r\n\r\n");
    } else {
        if !shared.options.close {
            let _ = write!(out, "Content-Length: {}\r\n", body.len());
        }
        bytes.extend_from_slice(out.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
    }
    stream.write_all(&bytes)
}

/// Percent-decoded parameters, in the order sent.
fn parameters(query: &str) -> Vec<(String, Vec<u8>)> {
    let decode = |text: &str| {
        let b = text.as_bytes();
        let (mut out, mut i) = (Vec::new(), 0);
        while i < b.len() {
            let digits = b.get(i + 1..i + 3).and_then(|d| std::str::from_utf8(d).ok());
            match digits.and_then(|d| u8::from_str_radix(d, 16).ok()).filter(|_| b[i] == b'%') {
                Some(byte) => {
                    out.push(byte);
                    i += 3;
                }
                None => {
                    out.push(b[i]);
                    i += 1;
                }
            }
        }
        out
    };
    query.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), decode(v))).collect()
}

fn announce(stream: &mut dyn Talk, shared: &Shared, ip: IpAddr, path: &str, query: &str) -> io::Result<()> {
    let o = &shared.options;
    let parameters = parameters(query);
    let raw = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_slice());
    let text = |key: &str| raw(key).map(|v| String::from_utf8_lossy(v).into_owned());
    let number = |key: &str| text(key).and_then(|v| v.parse::<u64>().ok());

    let port = number("port").and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
    let info_hash = raw("info_hash").unwrap_or_default();
    let addr = SocketAddr::new(ip, port);
    let event = text("event").unwrap_or_default();
    let left = number("left").unwrap_or(0);
    log(shared, path, info_hash, addr, raw("peer_id").unwrap_or_default(), &event, |key| number(key), text("key"));

    if o.silent {
        // Until the client has had enough.
        let _ = stream.read(&mut [0; 64]);
        return Ok(());
    }
    if o.garbage {
        return respond(stream, shared, 200, b"<html>\0\xff d8:intervali-99999999999999999999e", "");
    }
    if let Some(redirect) = &o.redirect {
        let to = match redirect {
            Redirect::Loop => format!("{path}?{query}"),
            Redirect::To(url) => format!("{url}{}{query}", if url.contains('?') { '&' } else { '?' }),
        };
        return respond(stream, shared, 302, b"", &format!("Location: {to}\r\n"));
    }
    if let Some(status) = o.status {
        return respond(stream, shared, status, b"told to\n", "");
    }
    let refusal = match &o.fail {
        Some(reason) => Some(reason.as_str()),
        None if info_hash.len() != 20 => Some("info_hash is not 20 bytes"),
        None if port == 0 => Some("no port"),
        None => None,
    };
    if let Some(reason) = refusal {
        let mut body = b"d".to_vec();
        string(&mut body, b"failure reason");
        string(&mut body, reason.as_bytes());
        if let Some(minutes) = o.retry_in {
            string(&mut body, b"retry in");
            string(&mut body, minutes.to_string().as_bytes());
        }
        body.push(b'e');
        return respond(stream, shared, 200, &body, "");
    }

    let peer = Peer { id: raw("peer_id").unwrap_or_default().to_vec(), left, seen: Instant::now() };
    let want = number("numwant").and_then(|n| usize::try_from(n).ok()).unwrap_or(50).min(200);
    let compact = !o.dict_peers && text("compact").as_deref() != Some("0");
    let body = update(shared, info_hash, addr, peer, &event, want, compact);
    respond(stream, shared, 200, &body, "")
}

/// What a swarm answers to an announce.
struct Entered {
    seeders: u64,
    leechers: u64,
    downloaded: u64,
    /// Peers and their ids, where those are known.
    listed: Vec<(SocketAddr, Vec<u8>)>,
}

/// Enters an announce into its swarm.
fn enter(shared: &Shared, hash: &[u8], addr: SocketAddr, peer: Peer, event: &str, want: usize) -> Entered {
    let o = &shared.options;
    let now = Instant::now();
    let patience = Duration::from_secs(u64::from(o.interval) * 3 + 60);
    let mut swarms = shared.lock();
    if !swarms.contains_key(hash) && swarms.len() >= TORRENTS {
        swarms.pop_first();
    }
    let swarm = swarms.entry(hash.to_vec()).or_default();
    swarm.peers.retain(|_, p| now.duration_since(p.seen) < patience);
    if event == "stopped" {
        swarm.peers.remove(&addr);
    } else {
        swarm.downloaded += u64::from(event == "completed");
        if swarm.peers.len() < PEERS || swarm.peers.contains_key(&addr) {
            swarm.peers.insert(addr, peer);
        }
    }
    let mut listed: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    if event != "stopped" {
        listed.extend(o.peers.iter().map(|&a| (a, Vec::new())));
        listed.extend(swarm.peers.iter().filter(|(a, _)| **a != addr).map(|(a, p)| (*a, p.id.clone())).take(want));
    }
    let (seeders, leechers, downloaded) = swarm.counts();
    Entered { seeders, leechers, downloaded, listed }
}

/// Enters the announce into its swarm and writes the answer.
fn update(
    shared: &Shared,
    hash: &[u8],
    addr: SocketAddr,
    peer: Peer,
    event: &str,
    want: usize,
    compact: bool,
) -> Vec<u8> {
    let o = &shared.options;
    let Entered { seeders, leechers, downloaded, listed } = enter(shared, hash, addr, peer, event, want);
    let mut body = b"d".to_vec();
    number(&mut body, "complete", seeders);
    number(&mut body, "downloaded", downloaded);
    string(&mut body, b"external ip");
    match addr.ip() {
        IpAddr::V4(a) => string(&mut body, &a.octets()),
        IpAddr::V6(a) => string(&mut body, &a.octets()),
    }
    number(&mut body, "incomplete", leechers);
    number(&mut body, "interval", u64::from(o.interval));
    if let Some(min) = o.min_interval {
        number(&mut body, "min interval", u64::from(min));
    }
    peers(&mut body, &listed, compact);
    body.push(b'e');
    body
}

/// The `peers` key, and `peers6` in the compact form.
fn peers(body: &mut Vec<u8>, listed: &[(SocketAddr, Vec<u8>)], compact: bool) {
    string(body, b"peers");
    if !compact {
        body.push(b'l');
        for (addr, id) in listed {
            body.push(b'd');
            string(body, b"ip");
            string(body, addr.ip().to_string().as_bytes());
            if !id.is_empty() {
                string(body, b"peer id");
                string(body, id);
            }
            number(body, "port", u64::from(addr.port()));
            body.push(b'e');
        }
        body.push(b'e');
        return;
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (addr, _) in listed {
        let port = addr.port().to_be_bytes();
        match addr.ip() {
            IpAddr::V4(a) => v4.extend(a.octets().into_iter().chain(port)),
            IpAddr::V6(a) => v6.extend(a.octets().into_iter().chain(port)),
        }
    }
    string(body, &v4);
    if !v6.is_empty() {
        string(body, b"peers6");
        string(body, &v6);
    }
}

fn scrape(shared: &Shared, query: &str) -> Vec<u8> {
    let parameters = parameters(query);
    let swarms = shared.lock();
    let mut asked: Vec<&[u8]> =
        parameters.iter().filter(|(k, _)| k == "info_hash").map(|(_, v)| v.as_slice()).collect();
    if asked.is_empty() {
        asked = swarms.keys().map(Vec::as_slice).collect();
    }
    asked.sort_unstable();
    asked.dedup();
    let mut body = b"d5:filesd".to_vec();
    for hash in asked {
        let Some(swarm) = swarms.get(hash) else { continue };
        let (seeders, leechers, downloaded) = swarm.counts();
        string(&mut body, hash);
        body.push(b'd');
        number(&mut body, "complete", seeders);
        number(&mut body, "downloaded", downloaded);
        number(&mut body, "incomplete", leechers);
        body.push(b'e');
    }
    body.extend_from_slice(b"ee");
    body
}

fn string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend_from_slice(format!("{}:", s.len()).as_bytes());
    out.extend_from_slice(s);
}

fn number(out: &mut Vec<u8>, key: &str, n: u64) {
    string(out, key.as_bytes());
    out.extend_from_slice(format!("i{n}e").as_bytes());
}

/// One announce as a JSON object.
#[allow(clippy::too_many_arguments)]
fn log(
    shared: &Shared,
    path: &str,
    info_hash: &[u8],
    peer: SocketAddr,
    peer_id: &[u8],
    event: &str,
    number: impl Fn(&str) -> Option<u64>,
    key: Option<String>,
) {
    let hex = info_hash.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    });
    let mut line = format!("{{\"event\":{},\"info_hash\":\"{hex}\",\"peer\":\"{peer}\"", json(event));
    for name in ["left", "uploaded", "downloaded", "numwant"] {
        match number(name) {
            Some(n) => _ = write!(line, ",\"{name}\":{n}"),
            None => _ = write!(line, ",\"{name}\":null"),
        }
    }
    let _ = write!(line, ",\"peer_id\":{},\"path\":{}", json(&peer_id.escape_ascii().to_string()), json(path));
    if let Some(key) = key {
        let _ = write!(line, ",\"key\":{}", json(&key));
    }
    line.push('}');
    (shared.log)(&line);
}

fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => _ = write!(out, "\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(tracker: &Tracker, target: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(tracker.addr()).unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    }

    fn body(answer: &[u8]) -> &[u8] {
        let at = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        &answer[at + 4..]
    }

    fn target(port: u16, more: &str) -> String {
        format!(
            "/key/announce?info_hash={}&peer_id=-XX0000-%00%22aaaaaaaaaa&port={port}&uploaded=1&downloaded=2{more}",
            "%41".repeat(20)
        )
    }

    #[test]
    fn a_swarm_comes_and_goes() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let t = Tracker::start(Options::default(), move |l| sink.lock().unwrap().push(l.to_owned())).unwrap();
        get(&t, &target(1000, "&left=0&event=started&key=0000002A"));
        let answer = get(&t, &target(2000, "&left=5&event=started&compact=1"));
        assert_eq!(
            body(&answer),
            b"d8:completei1e10:downloadedi0e11:external ip4:\x7f\0\0\x0110:\
            incompletei1e8:intervali120e5:peers6:\x7f\0\0\x01\x03\xe8e"
        );
        get(&t, &target(2000, "&left=0&event=completed"));
        get(&t, &target(1000, "&left=0&event=stopped"));
        assert_eq!(t.peers(&[0x41; 20]), ["127.0.0.1:2000".parse().unwrap()]);
        let scraped = get(&t, "/scrape");
        assert_eq!(
            body(&scraped),
            b"d5:filesd20:AAAAAAAAAAAAAAAAAAAAd8:completei1e10:downloadedi1e10:incompletei0eeee"
        );
        assert_eq!(
            lines.lock().unwrap()[0],
            "{\"event\":\"started\",\"info_hash\":\"4141414141414141414141414141414141414141\",\
             \"peer\":\"127.0.0.1:1000\",\
             \"left\":0,\"uploaded\":1,\"downloaded\":2,\"numwant\":null,\
             \"peer_id\":\"-XX0000-\\\\x00\\\\\\\"aaaaaaaaaa\",\"path\":\"/key/announce\",\"key\":\"0000002A\"}"
        );
    }

    #[test]
    fn dictionaries_and_families() {
        let peers = vec!["[2001:db8::1]:7".parse().unwrap(), "10.0.0.1:8".parse().unwrap()];
        let options = Options { peers, close: true, ..Options::default() };
        let t = Tracker::start(options, |_| {}).unwrap();
        let compact = get(&t, &target(1, "&left=1"));
        let tail = b"5:peers6:\x0a\0\0\x01\0\x086:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x07e";
        assert!(compact.ends_with(tail), "{}", compact.escape_ascii());
        assert!(!compact.windows(14).any(|w| w == b"Content-Length"));
        let dicts = get(&t, &target(1, "&left=1&compact=0"));
        assert!(
            dicts.ends_with(b"5:peersld2:ip11:2001:db8::14:porti7eed2:ip8:10.0.0.14:porti8eeee"),
            "{}",
            dicts.escape_ascii()
        );
    }

    #[test]
    fn misbehaviour() {
        let t = Tracker::start(Options { redirect: Some(Redirect::Loop), ..Options::default() }, |_| {}).unwrap();
        let answer = String::from_utf8(get(&t, "/announce?a=b")).unwrap();
        assert!(answer.contains("\r\nLocation: /announce?a=b\r\n"), "{answer}");
        let options = Options { fail: Some("no".into()), retry_in: Some(9), chunked: true, ..Options::default() };
        let t = Tracker::start(options, |_| {}).unwrap();
        let answer = get(&t, "/announce");
        assert!(body(&answer).starts_with(b"7;n=v\r\nd14:fai\r\n"), "{}", answer.escape_ascii());
    }
}
