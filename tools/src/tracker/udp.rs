//! The tracker's side of BEP 15 and 41: connect, announce, scrape, errors; URLDATA options.
//!
//! Connection ids are made of the client's address, a secret and the minute, and good for that minute
//! and the next: nothing is remembered of clients that only connect. The options that make the HTTP side
//! misbehave work here as far as they have a meaning: `silent`, `garbage`, `fail`.
//!
//! [BEP 15](https://www.bittorrent.org/beps/bep_0015.html),
//! [BEP 41](https://www.bittorrent.org/beps/bep_0041.html)

use super::{Peer, Shared, enter, log};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const MAGIC: u64 = 0x417_2710_1980;

/// Answers until the tracker ends.
pub(super) fn serve(socket: &UdpSocket, shared: &Shared) {
    let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
    let (secret, begin) = (secret(), Instant::now());
    let mut buf = [0u8; 4096];
    while !shared.ending.load(Ordering::SeqCst) {
        let Ok((n, from)) = socket.recv_from(&mut buf) else { continue };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let id = |age: u64| connection_id(from, secret, (begin.elapsed().as_secs() / 60).wrapping_sub(age));
        if let Some(reply) = answer(&buf[..n], from, [id(0), id(1)], shared) {
            // As the socket is of the other family when it serves both.
            let to = match (socket.local_addr(), from.ip()) {
                (Ok(SocketAddr::V6(_)), IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), from.port()),
                _ => from,
            };
            let _ = socket.send_to(&reply, to);
        }
    }
}

fn secret() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

fn connection_id(from: SocketAddr, secret: u64, minute: u64) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    (secret, from, minute).hash(&mut h);
    h.finish()
}

fn answer(data: &[u8], from: SocketAddr, ids: [u64; 2], shared: &Shared) -> Option<Vec<u8>> {
    let o = &shared.options;
    let word = |at: usize| data.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().expect("four bytes")));
    let long = |at: usize| data.get(at..at + 8).map(|b| u64::from_be_bytes(b.try_into().expect("eight bytes")));
    let (id, action, transaction) = (long(0)?, word(8)?, word(12)?);
    let head = |action: u32| [action.to_be_bytes(), transaction.to_be_bytes()].concat();
    let error = |text: &str| Some([head(3), text.as_bytes().to_vec()].concat());
    if o.silent && (action != 1 || log_announce(data, from, shared).is_some()) {
        return None;
    }
    if o.garbage && action != 0 {
        return Some(head(action));
    }
    match action {
        0 if id == MAGIC => Some([head(0), ids[0].to_be_bytes().to_vec()].concat()),
        0 => None,
        _ if !ids.contains(&id) => error("connection id unknown or too old"),
        1 => {
            let event = log_announce(data, from, shared)?;
            if let Some(reason) = &o.fail {
                return error(reason);
            }
            let port = u16::from_be_bytes([data[96], data[97]]);
            if port == 0 {
                return error("no port");
            }
            let peer = Peer { id: data[36..56].to_vec(), left: long(64)?, seen: Instant::now() };
            let want = word(92)?.min(200) as usize;
            let entered = enter(shared, &data[16..36], SocketAddr::new(from.ip(), port), peer, event, want);
            let mut out = head(1);
            for n in [u64::from(o.interval), entered.leechers, entered.seeders] {
                out.extend((n as u32).to_be_bytes());
            }
            for (addr, _) in &entered.listed {
                match (addr.ip(), from.is_ipv6()) {
                    (IpAddr::V4(a), false) => out.extend(a.octets()),
                    (IpAddr::V6(a), true) => out.extend(a.octets()),
                    _ => continue,
                }
                out.extend(addr.port().to_be_bytes());
            }
            Some(out)
        }
        2 => {
            let mut out = head(2);
            for hash in data[16..].chunks_exact(20).take(74) {
                let swarms = shared.lock();
                let (seeders, leechers, downloaded) = swarms.get(hash).map(super::Swarm::counts).unwrap_or_default();
                for n in [seeders, downloaded, leechers] {
                    out.extend((n as u32).to_be_bytes());
                }
            }
            Some(out)
        }
        _ => error("what?"),
    }
}

/// Logs an announce; its event, or nothing when it is too short.
fn log_announce(data: &[u8], from: SocketAddr, shared: &Shared) -> Option<&'static str> {
    let head: &[u8; 98] = data.get(..98)?.try_into().ok()?;
    let long = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let event = *["", "completed", "started", "stopped"].get(word(80) as usize)?;
    let number = |name: &str| match name {
        "downloaded" => Some(long(56)),
        "left" => Some(long(64)),
        "uploaded" => Some(long(72)),
        "numwant" => Some(u64::from(word(92))),
        _ => None,
    };
    let addr = SocketAddr::new(from.ip(), u16::from_be_bytes([head[96], head[97]]));
    let target = String::from_utf8_lossy(&url_data(&data[98..])).into_owned();
    let key = Some(format!("{:08X}", word(88)));
    log(shared, &target, &head[16..36], addr, &head[36..56], event, number, key);
    Some(event)
}

/// All URLDATA joined.
fn url_data(mut options: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [2, n, rest @ ..] if rest.len() >= usize::from(*n) => {
                out.extend_from_slice(&rest[..usize::from(*n)]);
                options = &rest[usize::from(*n)..];
            }
            _ => return out,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tracker::{Options, Tracker};
    use std::net::UdpSocket;
    use std::sync::{Arc, Mutex};

    fn ask(t: &Tracker, socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
        let mut buf = [0; 2048];
        socket.send_to(request, t.addr()).unwrap();
        let n = socket.recv(&mut buf).unwrap();
        buf[..n].to_vec()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn a_swarm_over_ipv6() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let options = Options { udp: true, bind: "::1".parse().unwrap(), ..Options::default() };
        let t = Tracker::start(options, move |l| sink.lock().unwrap().push(l.to_owned())).unwrap();
        assert_eq!(t.udp_url(), format!("udp://[::1]:{}/announce", t.addr().port()));
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let connected = ask(&t, &socket, &words(&[0x417, 0x2710_1980, 0, 5]));
        assert_eq!((&connected[..8], connected.len()), (&words(&[0, 5])[..], 16));
        let announce = |port: u16, left: u64| {
            let mut r = [&connected[8..], &words(&[1, 6]), &[b'A'; 20], b"-XX0000-aaaaaaaaaaaa", &[0; 8]].concat();
            r.extend(left.to_be_bytes());
            r.extend([0; 8]);
            r.extend(words(&[2, 0, 42, 50]));
            r.extend(port.to_be_bytes());
            r.extend(b"\x02\x02/k\x01\x02\x09/announce\0");
            ask(&t, &socket, &r)
        };
        assert_eq!(announce(1000, 0), words(&[1, 6, 120, 0, 1]));
        let second = announce(2000, 9);
        assert_eq!(second[..20], words(&[1, 6, 120, 1, 1]));
        assert_eq!(second[20..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 232]);
        let scrape = [&connected[8..], &words(&[2, 7]), &[b'B'; 20], &[b'A'; 20]].concat();
        assert_eq!(ask(&t, &socket, &scrape), words(&[2, 7, 0, 0, 0, 1, 0, 1]));
        assert_eq!(ask(&t, &socket, &words(&[1, 2, 2, 8]))[..8], words(&[3, 8]));
        let line = &lines.lock().unwrap()[0];
        assert!(line.contains("\"path\":\"/k/announce\",\"key\":\"0000002A\""), "{line}");
        assert!(line.contains("\"event\":\"started\"") && line.contains("\"peer\":\"[::1]:1000\""), "{line}");
    }
}
