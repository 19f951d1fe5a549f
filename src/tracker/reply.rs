//! The bencoded body of a tracker's answer to an announce or a scrape.
//!
//! ```text
//! d 14:failure reason ...                        nothing else counts (BEP 3); "retry in" (BEP 31)
//! d 8:interval i..e  5:peers  6n bytes           compact (BEP 23)
//!                             l d 2:ip .. 4:port i..e e .. e      the older form; ip may be a name
//!                    6:peers6 18n bytes          IPv6 (BEP 7)
//!   optional: min interval, complete, incomplete, tracker id, warning message, external ip (BEP 24)
//! d 5:files d 20:(info hash) d 8:complete ..10:downloaded ..10:incomplete .. e e e    a scrape (BEP 48)
//! ```
//!
//! Lenient about what trackers get wrong harmlessly: unsorted keys, numbers as strings, missing
//! keys, bytes after the end. Strict about compact lists: one that does not divide is an error, since
//! every address behind the fault would be a stranger. Addresses that cannot be peers are left out
//! quietly; which of the others to dial is the swarm's business.
//!
//! Invariants: at most [`limits::SWARM`] addresses and [`limits::PEER_NAMES`] names come out of a reply of
//! any size; texts for the user hold no control characters and are short.
//!
//! [BEP 3](https://www.bittorrent.org/beps/bep_0003.html),
//! [BEP 7](https://www.bittorrent.org/beps/bep_0007.html),
//! [BEP 23](https://www.bittorrent.org/beps/bep_0023.html),
//! [BEP 24](https://www.bittorrent.org/beps/bep_0024.html),
//! [BEP 31](https://www.bittorrent.org/beps/bep_0031.html)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Reply, TrackerError};
use crate::bencode::{self, Node};
use crate::config::limits;
use crate::id::InfoHash;
use crate::time::Duration;

/// Longest `tracker id` that is sent back.
const TRACKER_ID: usize = 1024;
/// Longest text shown to the user, in characters.
const TEXT: usize = 256;

/// Reads an announce reply. [`TrackerError::Failure`] when it is a refusal,
/// [`TrackerError::BadReply`] when it is not a reply at all.
pub fn parse(body: &[u8]) -> Result<Reply, TrackerError> {
    let (doc, _) = bencode::parse_prefix(body).map_err(|e| TrackerError::BadReply(e.to_string()))?;
    let root = doc.root();
    if !root.is_dict() {
        return Err(TrackerError::BadReply(format!("{}, wanted a dictionary", root.kind())));
    }
    refused(root)?;
    let (peers, peers6) = (root.get(b"peers"), root.get(b"peers6"));
    let interval = seconds(root.get(b"interval"));
    if interval.is_none() && peers.is_none() && peers6.is_none() {
        return Err(TrackerError::BadReply("neither an interval nor peers".into()));
    }
    let mut reply = Reply {
        interval,
        min_interval: seconds(root.get(b"min interval")),
        seeders: count(root.get(b"complete")),
        leechers: count(root.get(b"incomplete")),
        downloaded: count(root.get(b"downloaded")),
        tracker_id: root
            .get(b"tracker id")
            .and_then(Node::as_bytes)
            .filter(|id| !id.is_empty() && id.len() <= TRACKER_ID)
            .map(<[u8]>::to_vec),
        warning: root.get(b"warning message").and_then(Node::as_bytes).map(text).filter(|w| !w.is_empty()),
        external_ip: root.get(b"external ip").and_then(Node::as_bytes).and_then(address),
        ..Reply::default()
    };
    if let Some(node) = peers {
        read_peers(node, 6, &mut reply)?;
    }
    if let Some(node) = peers6 {
        read_peers(node, 18, &mut reply)?;
    }
    Ok(reply)
}

/// Reads what a scrape (BEP 48) says of one torrent.
pub fn parse_scrape(body: &[u8], info_hash: &InfoHash) -> Result<Reply, TrackerError> {
    let (doc, _) = bencode::parse_prefix(body).map_err(|e| TrackerError::BadReply(e.to_string()))?;
    let root = doc.root();
    refused(root)?;
    let Some(files) = root.get(b"files").filter(|f| f.is_dict()) else {
        return Err(TrackerError::BadReply("a scrape without files".into()));
    };
    let Some(file) = files.get(info_hash.as_bytes()) else {
        return Err(TrackerError::BadReply("a scrape without this torrent".into()));
    };
    Ok(Reply {
        seeders: count(file.get(b"complete")),
        leechers: count(file.get(b"incomplete")),
        downloaded: count(file.get(b"downloaded")),
        ..Reply::default()
    })
}

/// The reply is a refusal.
fn refused(root: Node<'_, '_>) -> Result<(), TrackerError> {
    match root.get(b"failure reason") {
        None => Ok(()),
        Some(words) => Err(TrackerError::Failure {
            reason: reason(words.as_bytes().unwrap_or_default()),
            retry_in: root.get(b"retry in").and_then(retry_in),
        }),
    }
}

/// A tracker's reason for saying no, made fit to be shown.
pub(super) fn reason(words: &[u8]) -> String {
    let reason = text(words);
    if reason.is_empty() { "(no reason given)".to_owned() } else { reason }
}

/// Either form of a peer list; `stride` is the size of an entry of the compact one.
fn read_peers(node: Node<'_, '_>, stride: usize, reply: &mut Reply) -> Result<(), TrackerError> {
    if let Some(bytes) = node.as_bytes() {
        if bytes.len() % stride != 0 {
            let what = format!("{} bytes of peers, wanted a multiple of {stride}", bytes.len());
            return Err(TrackerError::BadReply(what));
        }
        for entry in bytes.chunks_exact(stride) {
            let (ip, port) = entry.split_at(stride - 2);
            let port = u16::from_be_bytes([port[0], port[1]]);
            address(ip).into_iter().for_each(|ip| push(reply, ip, port));
        }
        return Ok(());
    }
    if !node.is_list() {
        return Err(TrackerError::BadReply(format!("peers: {}, wanted a string or a list", node.kind())));
    }
    for peer in node.items() {
        let port = peer.get(b"port").and_then(number).and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
        let Some(host) = peer.get(b"ip").and_then(Node::as_str) else { continue };
        if let Ok(ip) = host.parse::<IpAddr>() {
            push(reply, ip, port);
        } else if port != 0 && reply.peer_names.len() < limits::PEER_NAMES && is_name(host) {
            reply.peer_names.push((host.to_ascii_lowercase(), port));
        }
    }
    Ok(())
}

/// Keeps a peer that can be one.
pub(super) fn push(reply: &mut Reply, ip: IpAddr, port: u16) {
    let ip = ip.to_canonical();
    let impossible = match ip {
        IpAddr::V4(a) => a.octets()[0] == 0 || a.is_broadcast() || a.is_multicast(),
        IpAddr::V6(a) => a.is_unspecified() || a.is_multicast(),
    };
    if !impossible && port != 0 && reply.peers.len() < limits::SWARM {
        reply.peers.push(SocketAddr::new(ip, port));
    }
}

/// 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).to_canonical())
}

fn is_name(host: &str) -> bool {
    host.len() <= 253
        && host.starts_with(|c: char| c.is_ascii_alphanumeric())
        // What ends in a number would be an address in disguise (2130706433, 127.1).
        && host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_alphabetic()))
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// An integer, also when it is written as a string.
fn number(node: Node<'_, '_>) -> Option<i64> {
    node.as_int().or_else(|| node.as_str()?.trim().parse().ok())
}

fn seconds(node: Option<Node<'_, '_>>) -> Option<Duration> {
    node.and_then(number).and_then(|n| u64::try_from(n).ok()).map(Duration::from_secs)
}

fn count(node: Option<Node<'_, '_>>) -> Option<u32> {
    node.and_then(number).and_then(|n| u32::try_from(n).ok())
}

/// Minutes, or "never" (BEP 31).
fn retry_in(node: Node<'_, '_>) -> Option<Duration> {
    if node.as_bytes() == Some(b"never") {
        return Some(Duration::MAX);
    }
    let minutes = u64::try_from(number(node)?).ok()?;
    Some(Duration::from_secs(minutes.saturating_mul(60)))
}

/// Made fit for a terminal and a line of log.
fn text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(TEXT * 4)];
    let invisible = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    String::from_utf8_lossy(bytes).chars().filter(|&c| !invisible(c)).take(TEXT).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(body: &[u8]) -> Reply {
        parse(body).unwrap_or_else(|e| panic!("{}: {e}", body.escape_ascii()))
    }

    fn addrs(reply: &Reply) -> Vec<String> {
        reply.peers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_full_reply() {
        let r =
            ok(b"d8:completei7e11:external ip4:\x01\x02\x03\x0410:incompletei-1e8:intervali1800e12:min intervali900e\
            5:peers12:\x0a\0\0\x01\x1a\xe1\x7f\0\0\x01\0\x016:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\0\
            10:tracker id3:a\0b15:warning message6:go\x07 oue");
        assert_eq!(r.interval, Some(Duration::from_secs(1800)));
        assert_eq!(r.min_interval, Some(Duration::from_secs(900)));
        assert_eq!((r.seeders, r.leechers), (Some(7), None));
        assert_eq!(addrs(&r), ["10.0.0.1:6881", "127.0.0.1:1", "[2001:db8::1]:256"]);
        assert_eq!(r.tracker_id.as_deref(), Some(b"a\0b".as_slice()));
        assert_eq!(r.warning.as_deref(), Some("go ou"));
        assert_eq!(r.external_ip, Some("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn dictionaries_with_names() {
        let r = ok(b"d5:peersl\
            d2:ip8:10.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti5ee\
            d2:ip3:::14:port1:6e\
            d2:ip9:Host.Name4:porti7ee\
            d2:ip5:127.14:porti7ee\
            d2:ip4:a\r\nb4:porti7ee\
            d2:ip8:10.0.0.24:porti65536ee\
            d4:porti7eei1ee8:intervali5ee");
        assert_eq!(addrs(&r), ["10.0.0.1:5", "[::1]:6"]);
        assert_eq!(r.peer_names, [("host.name".to_owned(), 7)]);
    }

    #[test]
    fn impossible_addresses_are_left_out_and_mapped_ones_unwrapped() {
        let r =
            ok(b"d5:peers30:\0\0\0\0\0\x05\xff\xff\xff\xff\0\x05\xe0\0\0\x01\0\x05\x0a\0\0\x01\0\0\x0a\0\0\x02\0\x05\
            6:peers618:\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x03\0\x05e");
        assert_eq!(addrs(&r), ["10.0.0.2:5", "10.0.0.3:5"]);
    }

    #[test]
    fn hordes_are_cut() {
        let mut body = b"d5:peers600000:".to_vec();
        (0..100_000u32).for_each(|i| body.extend([10, (i >> 16) as u8, (i >> 8) as u8, i as u8, 0, 9]));
        body.push(b'e');
        assert_eq!(ok(&body).peers.len(), limits::SWARM);
        let names = "d2:ip1:a4:porti1ee".repeat(1000);
        assert_eq!(ok(format!("d5:peersl{names}ee").as_bytes()).peer_names.len(), limits::PEER_NAMES);
    }

    #[test]
    fn refusals() {
        let failure = |body: &[u8]| match parse(body) {
            Err(TrackerError::Failure { reason, retry_in }) => (reason, retry_in),
            other => panic!("{other:?}"),
        };
        assert_eq!(failure(b"d14:failure reason4:no \x1b8:intervali9e5:peers0:e"), ("no".into(), None));
        assert_eq!(failure(b"d14:failure reason1:x8:retry ini10ee"), ("x".into(), Some(Duration::from_secs(600))));
        assert_eq!(
            failure(b"d14:failure reason0:8:retry in5:nevere"),
            ("(no reason given)".into(), Some(Duration::MAX))
        );
        let long = [b"d14:failure reason2000:".as_slice(), &[b'x'; 2000], b"e"].concat();
        assert_eq!(failure(&long).0.len(), TEXT);
    }

    #[test]
    fn not_replies() {
        for body in [
            b"".as_slice(),
            b"<html>",
            b"le",
            b"de",
            b"d5:peers7:1234567e",
            b"d6:peers66:123456e",
            b"d5:peersi1ee",
            b"d8:interval",
        ] {
            assert!(matches!(parse(body), Err(TrackerError::BadReply(_))), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn scrapes() {
        let hash = InfoHash::new([b'A'; 20]);
        let files = |more: &str| format!("d5:filesd20:AAAAAAAAAAAAAAAAAAAAd8:completei7e{more}eee");
        let r = parse_scrape(files("10:downloadedi9e10:incompletei8e4:name1:x").as_bytes(), &hash).unwrap();
        assert_eq!((r.seeders, r.downloaded, r.leechers), (Some(7), Some(9), Some(8)));
        assert!(matches!(
            parse_scrape(files("").as_bytes(), &InfoHash::new([b'B'; 20])),
            Err(TrackerError::BadReply(_))
        ));
        assert!(matches!(parse_scrape(b"d5:filesi1ee", &hash), Err(TrackerError::BadReply(_))));
        assert!(matches!(parse_scrape(b"d14:failure reason2:noe", &hash), Err(TrackerError::Failure { .. })));
    }

    #[test]
    fn the_reply_of_bep_48() {
        let (x, y) = (InfoHash::new([b'x'; 20]), InfoHash::new([b'y'; 20]));
        // As printed, two ends of dictionaries are missing.
        let printed = "d5:filesd20:xxxxxxxxxxxxxxxxxxxxd8:completei11e10:downloadedi13772e10:incompletei19e\
                       20:yyyyyyyyyyyyyyyyyyyyd8:completei21e10:downloadedi206e10:incompletei20eee";
        assert!(matches!(parse_scrape(printed.as_bytes(), &x), Err(TrackerError::BadReply(_))));
        let meant = printed.replace("i19e", "i19ee") + "e";
        let counts = |hash| {
            let r = parse_scrape(meant.as_bytes(), hash).expect("both are there");
            (r.seeders, r.downloaded, r.leechers)
        };
        assert_eq!(counts(&x), (Some(11), Some(13772), Some(19)));
        assert_eq!(counts(&y), (Some(21), Some(206), Some(20)));
    }

    #[test]
    fn sloppy_but_clear() {
        let r = ok(b"d8:interval4:18005:peers0:8:completei1ee\r\n");
        assert_eq!((r.interval, r.seeders), (Some(Duration::from_secs(1800)), Some(1)));
        assert_eq!(ok(b"d8:intervali-1e5:peers0:e").interval, None);
        assert_eq!(ok(b"d8:intervali0ee").interval, Some(Duration::ZERO));
    }

    #[test]
    fn damage_never_panics() {
        let body =
            b"d8:completei7e8:intervali1800e5:peers12:\x0a\0\0\x01\x1a\xe1\x7f\0\0\x01\0\x0110:tracker id3:a\0be"
                .to_vec();
        let mut rng = crate::rng::seeded(1);
        for _ in 0..5000 {
            let mut b = body.clone();
            for _ in 0..rng.u32(1..4) {
                let i = rng.usize(..b.len());
                b[i] = rng.u8(..);
            }
            b.truncate(rng.usize(..=b.len()));
            let _ = parse(&b);
        }
    }
}
