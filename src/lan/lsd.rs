//! Local service discovery: peers of one network find each other by multicast (BEP 14).
//!
//! ```text
//!   BT-SEARCH * HTTP/1.1                     to 239.192.152.143:6771 and [ff15::efc0:988f]:6771
//!   Host: 239.192.152.143:6771
//!   Port: 6881                               where the sender accepts connections
//!   Infohash: 40 hexadecimal digits          of us one a message: some clients read no more
//!   cookie: ...                              the sender's own, by which it knows its own messages
//!   (an empty line, twice)
//! ```
//!
//! Nobody answers: whoever has the torrent too dials the sender. [`Lsd`] says when to send what, a torrent every five
//! minutes, and which of the torrents that are heard of are ours. Sans-IO; the driver knows the groups and
//! the interfaces.
//!
//! Anybody on the network can send anything in anybody's name, so no more than 50 messages a second are
//! read, and no more than one address a second is taken, five at once.
//!
//! Read leniently: header names in any case, in any order, lines that end in LF, further headers; wrong ones are passed
//! over. Not here: private torrents (the caller never passes one), and whether the address is dialled.
//!
//! [BEP 14](https://www.bittorrent.org/beps/bep_0014.html)

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::limits;
use crate::id::InfoHash;
use crate::time::{Duration, Instant};
use crate::tracker::http::Reach;

/// The port of both groups.
pub const PORT: u16 = 6771;
/// The IPv4 group.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 152, 143);
/// The IPv6 group, of a site.
pub const GROUP6: Ipv6Addr = Ipv6Addr::new(0xFF15, 0, 0, 0, 0, 0, 0xEFC0, 0x988F);

/// A torrent is announced this often.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// And never sooner after the last time, whatever happens to it.
const SOONEST: Duration = Duration::from_secs(60);
/// Between one torrent and the next.
const SPACING: Duration = Duration::from_millis(250);
/// Messages read in a second.
const HEARD: u32 = 50;
/// An address is taken this often, and so many at once when there have been none.
const EACH: Duration = Duration::from_secs(1);
const BURST: u32 = 5;
/// Longest message that is looked at; the longest that anybody should send is 1,400.
const MESSAGE: usize = 2048;
/// Info hashes read of one message.
const HASHES: usize = 32;

/// A message, as far as it is of interest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search<'a> {
    /// Where the sender accepts connections; not 0.
    pub port: u16,
    /// What it looks for.
    pub info_hashes: Vec<InfoHash>,
    /// By what it knows its own messages.
    pub cookie: Option<&'a str>,
}

impl<'a> Search<'a> {
    /// Reads a message; `None` of what is none, or names no port or no torrent.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(data).ok().filter(|_| data.len() <= MESSAGE)?;
        let mut lines = text.lines();
        let mut first = lines.next()?.split_ascii_whitespace();
        if !first.next()?.eq_ignore_ascii_case("BT-SEARCH")
            || first.next()? != "*"
            || !first.next()?.starts_with("HTTP/")
        {
            return None;
        }
        let mut search = Self { port: 0, info_hashes: Vec::new(), cookie: None };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let (name, value) = (name.trim(), value.trim());
            if name.eq_ignore_ascii_case("port") {
                search.port = value.parse().ok()?;
            } else if name.eq_ignore_ascii_case("infohash") && search.info_hashes.len() < HASHES {
                search.info_hashes.extend(hash(value));
            } else if name.eq_ignore_ascii_case("cookie") {
                search.cookie = Some(value);
            }
        }
        (search.port != 0 && !search.info_hashes.is_empty()).then_some(search)
    }
}

fn hash(hex: &str) -> Option<InfoHash> {
    let mut bytes = [0; 20];
    if hex.len() != 40 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(InfoHash::new(bytes))
}

/// The message for one group.
fn encode(v6: bool, port: u16, info_hash: &InfoHash, cookie: &str) -> Vec<u8> {
    let group = if v6 { SocketAddr::from((GROUP6, PORT)) } else { SocketAddr::from((GROUP, PORT)) };
    let mut text = String::with_capacity(192);
    let _ = write!(
        text,
        "BT-SEARCH * HTTP/1.1\r\nHost: {group}\r\nPort: {port}\r\nInfohash: {info_hash}\r\ncookie: {cookie}\r\n\r\n\r\n"
    );
    text.into_bytes()
}

/// When to say what, and what to make of what others say. See the module's head.
#[derive(Debug)]
pub struct Lsd {
    cookie: String,
    port: u16,
    /// What is looked for, and when it is announced next.
    torrents: BTreeMap<InfoHash, Instant>,
    due: BTreeSet<(Instant, InfoHash)>,
    /// Those that were announced lately, and when.
    said: BTreeMap<InfoHash, Instant>,
    /// Nothing is said before then.
    next: Instant,
    /// The second that is counted, and the messages in it.
    heard: (u64, u32),
    /// Up to when the addresses taken so far would have kept us busy at one in [`EACH`].
    taken: Instant,
}

impl Lsd {
    /// `word` is random: other hosts' messages must not be taken for ours.
    pub fn new(word: u64) -> Self {
        Self {
            cookie: format!("{word:016x}"),
            port: 0,
            torrents: BTreeMap::new(),
            due: BTreeSet::new(),
            said: BTreeMap::new(),
            next: Instant::ZERO,
            heard: (0, 0),
            taken: Instant::ZERO,
        }
    }

    /// Where our peers are dialled; 0 is nowhere, and nothing is announced.
    pub fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// Announces a torrent from now on, and listens for others that have it. Never for a private one.
    pub fn seek(&mut self, now: Instant, info_hash: InfoHash) {
        if !self.torrents.contains_key(&info_hash) {
            let at = self.said.get(&info_hash).map_or(now, |at| now.max(*at + SOONEST));
            self.torrents.insert(info_hash, at);
            self.due.insert((at, info_hash));
        }
    }

    /// Forgets a torrent.
    pub fn forget(&mut self, info_hash: &InfoHash) {
        if let Some(at) = self.torrents.remove(info_hash) {
            self.due.remove(&(at, *info_hash));
        }
    }

    /// When [`Lsd::poll`] has something to say.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().filter(|_| self.port != 0).map(|(at, _)| (*at).max(self.next))
    }

    /// What is to be sent now to the IPv4 group, and to that of IPv6.
    pub fn poll(&mut self, now: Instant) -> Option<[Vec<u8>; 2]> {
        if self.poll_timeout()? > now {
            return None;
        }
        let (_, info_hash) = self.due.pop_first()?;
        self.due.insert((now + EVERY, info_hash));
        self.torrents.insert(info_hash, now + EVERY);
        self.said.retain(|_, at| now < *at + SOONEST);
        self.said.insert(info_hash, now);
        self.next = now + SPACING;
        Some([false, true].map(|v6| encode(v6, self.port, &info_hash, &self.cookie)))
    }

    /// A datagram came to a group: where the sender accepts connections, and which of our torrents it has.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> Option<(SocketAddr, Vec<InfoHash>)> {
        let second = now.as_micros() / 1_000_000;
        if self.heard.0 != second {
            self.heard = (second, 0);
        }
        self.heard.1 += 1;
        if self.heard.1 > HEARD {
            return None;
        }
        let search = Search::parse(data).filter(|s| s.cookie != Some(&self.cookie))?;
        let addr = SocketAddr::new(from.ip().to_canonical(), search.port);
        // Services of other kinds are not dialled on anybody's word, and a link-local address leads nowhere by itself.
        if search.port < limits::PORT_LEAST || Reach::of(addr.ip()) == Reach::Never {
            return None;
        }
        let ours: Vec<_> = search.info_hashes.into_iter().filter(|h| self.torrents.contains_key(h)).collect();
        let taken: Vec<_> = ours.into_iter().take_while(|_| self.may_take(now)).collect();
        (!taken.is_empty()).then_some((addr, taken))
    }

    fn may_take(&mut self, now: Instant) -> bool {
        let ahead = self.taken.since(now);
        let may = ahead <= EACH * (BURST - 1);
        if may {
            self.taken = self.taken.max(now) + EACH;
        }
        may
    }
}

#[cfg(test)]
mod tests;
