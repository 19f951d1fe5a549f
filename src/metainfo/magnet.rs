//! Magnet links (BEP 9, 53): the names of a torrent, and where to ask for the rest.
//!
//! ```text
//! magnet:?xt=urn:btih:<40 hexadecimal or 32 base32 digits>    version 1 info hash
//!         xt=urn:btmh:1220<64 hexadecimal digits>             version 2 info hash (a SHA-256 multihash)
//!         dn=<name>  tr=<tracker>  ws=<web seed>  x.pe=<host:port>  so=<0,2,4-6>
//! ```
//!
//! A bare info hash, of 40 hexadecimal or 32 base32 digits, is read as a link with nothing else.
//!
//! Lenient: parameters in any order and case, `tr.1` for `tr`, unknown ones, several `xt` of which
//! some are of other networks, `&amp;` left over from a web page, entries that make no sense. An error only
//! where there is no info hash, or two that differ, or the link is too long.
//!
//! Not here: whether a tracker's URL can be used (as in a [`Metainfo`](super::Metainfo)), looking up the
//! names of peers, and mapping `so` to files, which are not known yet.
//!
//! Invariants: there is at least one info hash; lists hold no duplicates and at most
//! [`limits::TRACKERS`], [`PEERS`] and [`RANGES`] entries; the name holds no control characters.
//!
//! [BEP 9](https://www.bittorrent.org/beps/bep_0009.html),
//! [BEP 53](https://www.bittorrent.org/beps/bep_0053.html)

use std::fmt;

use crate::config::limits;
use crate::http::{Scheme, Url, percent_decode};
use crate::id::{InfoHash, InfoHashV2, from_hex};

/// Longest link that is read, in bytes.
pub const LENGTH: usize = 256 << 10;
/// Most peers that are kept of a link.
pub const PEERS: usize = 100;
/// Most ranges of files that are kept of a link.
pub const RANGES: usize = 10_000;
/// Longest name that is kept, in characters.
const NAME: usize = 255;

/// A parsed magnet link.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Magnet {
    /// The version 1 info hash.
    pub info_hash: Option<InfoHash>,
    /// The version 2 info hash (BEP 52).
    pub info_hash_v2: Option<InfoHashV2>,
    /// What to call it until its real name is known; fit for a terminal, not for a file.
    pub name: Option<String>,
    /// Tracker URLs, each a tier of its own.
    pub trackers: Vec<String>,
    /// Web seeds, `http` or `https`: a link cannot point at this machine's files.
    pub url_seeds: Vec<String>,
    /// Peers: a name or an IP address, and a port.
    pub peers: Vec<(String, u16)>,
    /// Files to fetch, by first and last index, counted from 0 over all files of the torrent; sorted, neither
    /// overlapping nor touching. Empty means all.
    pub select: Vec<(u32, u32)>,
}

/// Why a text is no magnet link of a torrent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MagnetError {
    /// It does not begin with `magnet:?`, and is no info hash either.
    NotMagnet,
    /// Longer than [`LENGTH`]; the length in bytes.
    TooLong(usize),
    /// No `xt` of BitTorrent.
    NoHash,
    /// What should be an info hash is none.
    BadHash(String),
    /// Two different hashes of one version.
    TwoHashes,
}

impl fmt::Display for MagnetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMagnet => f.write_str("neither a magnet link nor an info hash"),
            Self::TooLong(n) => write!(f, "a magnet link of {n} bytes, at most {LENGTH} allowed"),
            Self::NoHash => f.write_str("no xt=urn:btih: or xt=urn:btmh: in the magnet link"),
            Self::BadHash(what) => write!(f, "{what:?} is not an info hash"),
            Self::TwoHashes => f.write_str("two different info hashes in one magnet link"),
        }
    }
}

impl std::error::Error for MagnetError {}

impl Magnet {
    /// Reads a magnet link or a bare info hash.
    pub fn parse(text: &str) -> Result<Self, MagnetError> {
        let text = text.trim();
        if text.len() > LENGTH {
            return Err(MagnetError::TooLong(text.len()));
        }
        if let Some(hash) = info_hash(text) {
            return Ok(Self { info_hash: Some(hash), ..Self::default() });
        }
        let prefix = text.get(..8).filter(|p| p.eq_ignore_ascii_case("magnet:?"));
        let query = &text[prefix.ok_or(MagnetError::NotMagnet)?.len()..];
        let query = query.split('#').next().unwrap_or_default();
        let mut magnet = Self::default();
        for part in query.split('&') {
            let part = part.strip_prefix("amp;").unwrap_or(part);
            if let Some((key, value)) = part.split_once('=') {
                magnet.parameter(key, value)?;
            }
        }
        if magnet.info_hash.is_none() && magnet.info_hash_v2.is_none() {
            return Err(MagnetError::NoHash);
        }
        magnet.select = joined(std::mem::take(&mut magnet.select));
        Ok(magnet)
    }

    fn parameter(&mut self, key: &str, value: &str) -> Result<(), MagnetError> {
        let key = key.to_ascii_lowercase();
        // Several of a kind may be numbered: `xt.1`. `x.pe` has a dot of its own.
        let key = match key.rsplit_once('.') {
            Some((name, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => &key,
        };
        match key {
            "xt" => self.topic(&decoded(value))?,
            "dn" if self.name.is_none() => {
                // Here, and nowhere else, a plus sign is a space.
                let name: String = decoded(&value.replace('+', " ")).chars().filter(|c| shown(*c)).take(NAME).collect();
                self.name = Some(name.trim().to_owned()).filter(|n| !n.is_empty());
            }
            "tr" => add(&mut self.trackers, decoded(value), limits::TRACKERS),
            "ws" => {
                let url = decoded(value);
                if Url::parse(&url).is_ok_and(|u| matches!(u.scheme, Scheme::Http | Scheme::Https)) {
                    add(&mut self.url_seeds, url, limits::TRACKERS);
                }
            }
            "x.pe" => {
                if let Some(peer) = peer(&decoded(value)) {
                    if self.peers.len() < PEERS && !self.peers.contains(&peer) {
                        self.peers.push(peer);
                    }
                }
            }
            "so" => {
                let ranges = decoded(value);
                let room = RANGES.saturating_sub(self.select.len());
                self.select.extend(ranges.split(',').filter_map(range).take(room));
            }
            _ => {}
        }
        Ok(())
    }

    /// An exact topic. Those of other networks are none of ours.
    fn topic(&mut self, urn: &str) -> Result<(), MagnetError> {
        let bad = || MagnetError::BadHash(urn.chars().take(80).collect());
        let after = |prefix: &str| {
            let (head, rest) = (urn.get(..prefix.len())?, urn.get(prefix.len()..)?);
            head.eq_ignore_ascii_case(prefix).then_some(rest)
        };
        if let Some(text) = after("urn:btih:") {
            let hash = info_hash(text).ok_or_else(bad)?;
            if self.info_hash.replace(hash).is_some_and(|old| old != hash) {
                return Err(MagnetError::TwoHashes);
            }
        } else if let Some(text) = after("urn:btmh:") {
            // Multihash: function 0x12 is SHA-256, length 0x20.
            let digits = text.strip_prefix("1220").ok_or_else(bad)?;
            let hash = InfoHashV2::new(from_hex(digits).ok_or_else(bad)?);
            if self.info_hash_v2.replace(hash).is_some_and(|old| old != hash) {
                return Err(MagnetError::TwoHashes);
            }
        }
        Ok(())
    }

    /// It has no version 1 hash.
    pub fn is_v2_only(&self) -> bool {
        self.info_hash.is_none()
    }
}

/// 40 hexadecimal or 32 base32 digits.
fn info_hash(text: &str) -> Option<InfoHash> {
    from_hex(text).or_else(|| base32(text)).map(InfoHash::new)
}

/// RFC 4648, either case: 32 digits of 5 bits are 20 bytes.
fn base32(text: &str) -> Option<[u8; 20]> {
    if text.len() != 32 {
        return None;
    }
    let mut out = [0; 20];
    for (bytes, digits) in out.chunks_exact_mut(5).zip(text.as_bytes().chunks_exact(8)) {
        let mut group = 0u64;
        for d in digits {
            let value = match d.to_ascii_uppercase() {
                d @ b'A'..=b'Z' => d - b'A',
                d @ b'2'..=b'7' => d - b'2' + 26,
                _ => return None,
            };
            group = group << 5 | u64::from(value);
        }
        bytes.copy_from_slice(&group.to_be_bytes()[3..]);
    }
    Some(out)
}

fn decoded(value: &str) -> String {
    String::from_utf8_lossy(&percent_decode(value)).into_owned()
}

/// Neither a control character nor a mark of text direction.
fn shown(c: char) -> bool {
    !(c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

fn add(list: &mut Vec<String>, url: String, most: usize) {
    let url = url.trim();
    let fine = !url.is_empty() && url.len() <= limits::URL && url.chars().all(shown);
    if fine && list.len() < most && !list.iter().any(|u| u == url) {
        list.push(url.to_owned());
    }
}

/// `host:port`, IPv6 in brackets.
fn peer(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|p| *p != 0)?;
    let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
        Some(inside) => inside?.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None => host.to_ascii_lowercase(),
    };
    let fine =
        host.len() <= 253 && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'));
    let bare_v6 = host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err();
    (!host.is_empty() && fine && !bare_v6).then_some((host, port))
}

/// `4` or `4-6`.
fn range(text: &str) -> Option<(u32, u32)> {
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok()).flatten();
    let (first, last) = match text.trim().split_once('-') {
        Some((a, b)) => (number(a)?, number(b)?),
        None => (number(text.trim())?, number(text.trim())?),
    };
    (first <= last).then_some((first, last))
}

/// Sorted, and what overlaps or touches joined.
fn joined(mut ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    ranges.sort_unstable();
    let mut out: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789ABCDEF01234567";
    const BASE32: &str = "AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH";

    fn parse(text: &str) -> Magnet {
        Magnet::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_full_link() {
        let m = parse(&format!(
            "magnet:?xt=urn:btih:{HEX}&dn=A+name%0a%2B%c3%a9&tr=http%3A%2F%2Ft%2Fannounce%3Fk%3D1&tr.1=udp://u:1\
             &amp;tr=udp://u:1&ws=http://w/a+b&x.pe=10.0.0.1:6881&x.pe=[2001:DB8::1]:7&x.pe=Host:8\
             &so=4-6,0,2,5-7&XT=urn:x:1&z"
        ));
        assert_eq!(m.info_hash.unwrap().to_string(), HEX.to_ascii_lowercase());
        assert_eq!(m.name.as_deref(), Some("A name+\u{e9}"));
        assert_eq!(m.trackers, ["http://t/announce?k=1", "udp://u:1"]);
        assert_eq!(m.url_seeds, ["http://w/a+b"]);
        let peers: Vec<_> = m.peers.iter().map(|(h, p)| format!("{h} {p}")).collect();
        assert_eq!(peers, ["10.0.0.1 6881", "2001:db8::1 7", "host 8"]);
        assert_eq!(m.select, [(0, 0), (2, 2), (4, 7)]);
        assert!(!m.is_v2_only());
    }

    #[test]
    fn hashes_in_every_dress() {
        let hash = parse(HEX).info_hash;
        for text in [
            BASE32.to_owned(),
            BASE32.to_ascii_lowercase(),
            format!("MAGNET:?xt=URN:BTIH:{BASE32}"),
            format!(" magnet:?dn=x&xt.1=urn%3Abtih%3A{HEX}&xt=urn:btih:{BASE32}#f "),
        ] {
            assert_eq!(parse(&text).info_hash, hash, "{text}");
        }
        let v2 = parse(&format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32)));
        assert_eq!((v2.info_hash_v2.unwrap().to_string(), v2.is_v2_only()), ("ab".repeat(32), true));
    }

    #[test]
    fn what_is_none() {
        let other = "f".repeat(40);
        for (text, wanted) in [
            ("magnet:xt=urn:btih:1", MagnetError::NotMagnet),
            ("http://x/", MagnetError::NotMagnet),
            ("", MagnetError::NotMagnet),
            ("magnet:?", MagnetError::NoHash),
            ("magnet:?xt=urn:sha1:AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH", MagnetError::NoHash),
            (&format!("magnet:?dn=urn:btih:{HEX}"), MagnetError::NoHash),
            ("magnet:?xt=urn:btih:12", MagnetError::BadHash("urn:btih:12".into())),
            ("magnet:?xt=urn:btmh:1220", MagnetError::BadHash("urn:btmh:1220".into())),
            (&format!("magnet:?xt=urn:btih:{HEX}&xt=urn:btih:{other}"), MagnetError::TwoHashes),
            (&"x".repeat(LENGTH + 1), MagnetError::TooLong(LENGTH + 1)),
        ] {
            assert_eq!(Magnet::parse(text).unwrap_err(), wanted, "{}", &text[..text.len().min(99)]);
        }
        // 31 digits and one that is none, and a digit that base32 lacks.
        assert!(Magnet::parse(&format!("{}1", &BASE32[..31])).is_err());
        assert!(Magnet::parse("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}").is_err());
    }

    #[test]
    fn nonsense_is_left_out_and_hordes_are_cut() {
        let link = |more: &str| parse(&format!("magnet:?xt=urn:btih:{HEX}{more}"));
        let m = link(
            "&x.pe=h:0&x.pe=h&x.pe=:1&x.pe=[h]:1&x.pe=1:2:3:4&x.pe=a%20b:1\
             &so=3-1,x,-,1-,+2,4294967296&tr=&ws=a%00&dn=%0a",
        );
        assert_eq!(m, Magnet { info_hash: m.info_hash, ..Magnet::default() });
        let many = |n: usize, part: &dyn Fn(usize) -> String| (0..n).map(part).collect::<String>();
        assert_eq!(link(&many(300, &|i| format!("&tr=udp://{i}:1"))).trackers.len(), limits::TRACKERS);
        assert_eq!(link(&many(300, &|i| format!("&x.pe=h{i}:1"))).peers.len(), PEERS);
        assert_eq!(link(&format!("&so={}", many(20_000, &|i| format!("{},", 2 * i)))).select.len(), RANGES);
        assert_eq!(link("&so=0-4294967295,7").select, [(0, u32::MAX)]);
    }

    #[test]
    fn a_hostile_link_is_cut_to_size() {
        let link = |more: &str| Magnet::parse(&format!("magnet:?xt=urn:btih:{HEX}{more}"));
        let long = "&tr=udp://t:1".repeat(800_000);
        assert_eq!(link(&long), Err(MagnetError::TooLong(long.len() + 60)), "ten million bytes");
        let trackers: String = (0..10_000).map(|i| format!("&tr=udp://{i}:1")).collect();
        assert_eq!(link(&trackers).unwrap().trackers.len(), limits::TRACKERS);
        // A web seed is on the web; a peer is a peer wherever it listens, and there are few of them.
        let m = link("&ws=file:///etc/passwd&ws=ftp://h/&ws=udp://h:1&ws=https://h/&x.pe=127.0.0.1:25").unwrap();
        assert_eq!(m.url_seeds, ["https://h/"]);
        assert_eq!(m.peers, [("127.0.0.1".to_owned(), 25)]);
        for bad in ["1".repeat(32), "A".repeat(31), "A".repeat(33), "\u{e9}".repeat(16), "=".repeat(32)] {
            let got = Magnet::parse(&format!("magnet:?xt=urn:btih:{bad}"));
            assert!(matches!(got, Err(MagnetError::BadHash(_))), "{bad}: {got:?}");
        }
    }

    #[test]
    fn damage_never_panics() {
        let whole =
            format!("magnet:?xt=urn:btih:{HEX}&dn=n&tr=udp://t:1&x.pe=[::1]:2&so=1-3&ws=http://%c3%a9").into_bytes();
        let mut rng = crate::rng::seeded(5);
        for _ in 0..5000 {
            let mut b = whole.clone();
            for _ in 0..rng.u32(1..6) {
                let i = rng.usize(..b.len());
                b[i] = rng.u8(..);
            }
            b.truncate(rng.usize(..=b.len()));
            let _ = Magnet::parse(&String::from_utf8_lossy(&b));
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        let two = format!("magnet:?xt=urn:btih:{HEX}&xt=urn:btih:{}", "0".repeat(40));
        let v2 = |digit: &str| format!("xt=urn:btmh:1220{}", digit.repeat(64));
        let two_v2 = format!("magnet:?{}&{}", v2("a"), v2("b"));
        for (text, want) in [
            ("http://x/", "neither a magnet link nor an info hash"),
            ("magnet:?dn=x", "no xt=urn:btih: or xt=urn:btmh: in the magnet link"),
            (&two, "two different info hashes in one magnet link"),
            (&two_v2, "two different info hashes in one magnet link"),
        ] {
            assert_eq!(Magnet::parse(text).unwrap_err().to_string(), want, "{text:?}");
        }
        let bad = Magnet::parse("magnet:?xt=urn:btih:12\u{1b}").unwrap_err().to_string();
        assert!(bad.contains("is not an info hash") && !bad.contains('\u{1b}'), "{bad:?}");
        let long = format!("magnet:?{}", "x".repeat(LENGTH));
        let want = format!("a magnet link of {} bytes, at most {LENGTH} allowed", long.len());
        assert_eq!(Magnet::parse(&long).unwrap_err().to_string(), want);
    }
}
