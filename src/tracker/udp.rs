//! One announce or scrape over UDP (BEP 15), as a machine without sockets.
//!
//! ```text
//! connect   0x41727101980 (8)  0 (4)  transaction (4)                               -> 16 bytes
//!           0 (4)  transaction (4)  connection id (8)                               <- 16 bytes
//! announce  connection id (8)  1 (4)  transaction (4)  info hash (20)  peer id (20)
//!           downloaded (8)  left (8)  uploaded (8)  event (4)  ip 0 (4)  key (4)
//!           num want (4)  port (2)  options of BEP 41                               -> 98 bytes and more
//!           1 (4)  transaction (4)  interval (4)  leechers (4)  seeders (4)  peers  <- 20 + 6n or 20 + 18n
//! scrape    connection id (8)  2 (4)  transaction (4)  info hash (20)               -> 36 bytes
//!           2 (4)  transaction (4)  seeders (4)  completed (4)  leechers (4)        <- 20 bytes
//! error     3 (4)  transaction (4)  text                                            <- in place of any answer
//! ```
//!
//! [`UdpTransaction::start`] names the address, [`UdpTransaction::poll`] makes the datagram that is to be
//! sent now (the first, the next stage's, or the same again), [`UdpTransaction::handle`] takes what
//! came. Connection ids are kept in one [`ConnectionIds`] for all transactions of a session.
//!
//! It is asked again after 5, 10, 20 and then every 30 seconds; the scheme of BEP 15 (15 * 2^n, n up
//! to 8) would take more than two hours to find a tracker dead. The owner gives up the whole after
//! [`limits::TRACKER_TIMEOUT`].
//!
//! Whether peers are 6 or 18 bytes is decided by the family the datagram came over, not by its contents.
//! Except for trackers that answer with IPv4 peers over IPv6, which shows when 18 does not divide.
//!
//! Invariants: nothing but a datagram of the asked address with the present transaction id changes
//! anything; an id is used for [`ID_LIFE`] and forgotten on an error; at most one new id is asked for
//! because an old one did not work.
//!
//! [BEP 15](https://www.bittorrent.org/beps/bep_0015.html),
//! [BEP 41](https://www.bittorrent.org/beps/bep_0041.html)
//!
//! [`limits::TRACKER_TIMEOUT`]: crate::config::limits::TRACKER_TIMEOUT

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::http::{Progress, Reach};
use super::{Announce, Ask, Event, Reply, TrackerError, reply};
use crate::http::{Scheme, Url};
use crate::time::{Duration, Instant};

/// How long a connection id may be used (BEP 15: one minute after it was received).
pub const ID_LIFE: Duration = Duration::from_secs(60);
/// Connection ids remembered.
const IDS: usize = 256;
/// What a connect request begins with.
const MAGIC: u64 = 0x417_2710_1980;
/// Time until the first repetition, and the longest between two.
const REPEAT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Most that one URLDATA option carries.
const URL_DATA: usize = 255;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// The connection ids that trackers gave us, by address: so each family has its own.
#[derive(Clone, Debug, Default)]
pub struct ConnectionIds {
    known: BTreeMap<SocketAddr, (u64, Instant)>,
}

impl ConnectionIds {
    /// The id to use with a tracker, unless it is too old.
    fn get(&self, now: Instant, tracker: SocketAddr) -> Option<(u64, Instant)> {
        self.known.get(&tracker).copied().filter(|&(_, since)| now - since < ID_LIFE)
    }

    fn put(&mut self, now: Instant, tracker: SocketAddr, id: u64) {
        if self.known.len() >= IDS {
            self.known.retain(|_, (_, since)| now - *since < ID_LIFE);
        }
        if self.known.len() >= IDS {
            // None is old: one of them has to ask again.
            self.known.pop_first();
        }
        self.known.insert(tracker, (id, now));
    }

    fn forget(&mut self, tracker: SocketAddr) {
        self.known.remove(&tracker);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Not started, or over.
    Idle,
    /// Waits for a connection id.
    Connecting,
    /// Waits for the answer proper. `fresh`: the id was made for this very transaction.
    Asking { id: u64, since: Instant, fresh: bool },
}

/// One announce or scrape over UDP; see the module.
#[derive(Clone, Debug)]
pub struct UdpTransaction {
    url: Url,
    ask: Ask,
    to: SocketAddr,
    transaction: u32,
    stage: Stage,
    /// Datagrams sent in this stage.
    sent: u32,
    /// When the next one is.
    next: Instant,
}

impl UdpTransaction {
    /// Prepares it. [`TrackerError::Unsupported`] for anything but `udp://`.
    pub fn new(url: Url, ask: Ask) -> Result<Self, TrackerError> {
        if url.scheme != Scheme::Udp {
            return Err(TrackerError::Unsupported(url.scheme));
        }
        let to = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Ok(Self { url, ask, to, transaction: 0, stage: Stage::Idle, sent: 0, next: Instant::FAR })
    }

    /// What to look up: a name or an IP address, and the port.
    pub fn host(&self) -> (&str, u16) {
        (&self.url.host, self.url.port)
    }

    /// Whether `ip` may be written to: no link-local, multicast or unspecified addresses.
    pub fn may_connect(&self, ip: IpAddr) -> Result<(), TrackerError> {
        match Reach::of(ip) {
            Reach::Never => Err(TrackerError::Refused(format!("{ip} is not an address of a tracker"))),
            _ => Ok(()),
        }
    }

    /// Begins, or begins anew with another address. `transaction` is of the caller's dice, and not that
    /// of another transaction under way.
    pub fn start(&mut self, now: Instant, to: SocketAddr, transaction: u32, ids: &ConnectionIds) {
        (self.to, self.transaction) = (to, transaction);
        self.stage = match ids.get(now, to) {
            Some((id, since)) => Stage::Asking { id, since, fresh: false },
            None => Stage::Connecting,
        };
        (self.sent, self.next) = (0, now);
    }

    /// The transaction id it was started with.
    pub fn transaction(&self) -> u32 {
        self.transaction
    }

    /// The address in use.
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// When `poll` wants to be called; [`Instant::FAR`] when it is over.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Datagrams sent since it last heard of the tracker.
    pub fn unanswered(&self) -> u32 {
        self.sent
    }

    /// Puts the datagram to be sent now into `out`; false when there is none.
    pub fn poll(&mut self, now: Instant, ids: &mut ConnectionIds, out: &mut Vec<u8>) -> bool {
        if now < self.next {
            return false;
        }
        match self.stage {
            Stage::Idle => return false,
            // Trackers that were restarted drop what they do not know without a word.
            Stage::Asking { since, fresh, .. } if now - since >= ID_LIFE || (!fresh && self.sent > 0) => {
                ids.forget(self.to);
                (self.stage, self.sent) = (Stage::Connecting, 0);
            }
            Stage::Asking { .. } | Stage::Connecting => {}
        }
        out.clear();
        match self.stage {
            Stage::Asking { id, .. } => self.request(id, out),
            Stage::Connecting | Stage::Idle => {
                out.extend(MAGIC.to_be_bytes());
                out.extend(CONNECT.to_be_bytes());
                out.extend(self.transaction.to_be_bytes());
            }
        }
        let (first, longest) = REPEAT;
        self.next = now + (first * (1 << self.sent.min(8))).min(longest);
        self.sent += 1;
        true
    }

    fn request(&self, id: u64, out: &mut Vec<u8>) {
        out.extend(id.to_be_bytes());
        match &self.ask {
            Ask::Announce(a) => {
                out.extend(ANNOUNCE.to_be_bytes());
                out.extend(self.transaction.to_be_bytes());
                announce(a, out);
                url_data(&self.url.target, out);
            }
            Ask::Scrape(hash) => {
                out.extend(SCRAPE.to_be_bytes());
                out.extend(self.transaction.to_be_bytes());
                out.extend(hash.as_bytes());
            }
        }
    }

    /// Takes a datagram. [`Progress::More`] also for those that are none of its business; call `poll`
    /// afterwards.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, data: &[u8], ids: &mut ConnectionIds) -> Progress {
        let word = |at: usize| {
            let bytes = data.get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().expect("four bytes were taken")))
        };
        let (Some(action), Some(transaction)) = (word(0), word(4)) else { return Progress::More };
        let same = from.ip() == self.to.ip() && from.port() == self.to.port();
        if !same || transaction != self.transaction || self.stage == Stage::Idle {
            return Progress::More;
        }
        let result = match (self.stage, action) {
            (Stage::Connecting, CONNECT) => match data.get(8..16) {
                Some(id) => {
                    let id = u64::from_be_bytes(id.try_into().expect("eight bytes were taken"));
                    ids.put(now, self.to, id);
                    self.stage = Stage::Asking { id, since: now, fresh: true };
                    (self.sent, self.next) = (0, now);
                    return Progress::More;
                }
                None => Err(short(data, 16)),
            },
            (Stage::Asking { .. }, ANNOUNCE) if matches!(self.ask, Ask::Announce(_)) => announced(data, from),
            (Stage::Asking { .. }, SCRAPE) if matches!(self.ask, Ask::Scrape(_)) => scraped(data),
            (Stage::Asking { fresh, .. }, ERROR) => {
                ids.forget(self.to);
                if !fresh {
                    // Most likely it is about the id: once more with a new one.
                    (self.stage, self.sent, self.next) = (Stage::Connecting, 0, now);
                    return Progress::More;
                }
                Err(refusal(&data[8..]))
            }
            (Stage::Connecting, ERROR) => Err(refusal(&data[8..])),
            // An answer to what was asked before, twice under way.
            _ => return Progress::More,
        };
        (self.stage, self.next) = (Stage::Idle, Instant::FAR);
        Progress::Done(result)
    }
}

/// The body of an announce from the info hash to the port.
fn announce(a: &Announce, out: &mut Vec<u8>) {
    let event: u32 = match a.event {
        Event::None => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
    };
    let numwant = if a.event == Event::Stopped { 0 } else { a.numwant };
    out.extend(a.info_hash.as_bytes());
    out.extend(a.peer_id.as_bytes());
    out.extend(a.downloaded.to_be_bytes());
    out.extend(a.left.to_be_bytes());
    out.extend(a.uploaded.to_be_bytes());
    out.extend(event.to_be_bytes());
    // Our address: where the datagram comes from.
    out.extend(0u32.to_be_bytes());
    out.extend(a.key.to_be_bytes());
    out.extend(numwant.to_be_bytes());
    out.extend(a.port.to_be_bytes());
}

/// Path and query as options (BEP 41): type 2, a length, so many bytes; as often as it takes.
fn url_data(target: &str, out: &mut Vec<u8>) {
    if target == "/" {
        return;
    }
    for part in target.as_bytes().chunks(URL_DATA) {
        out.extend([2, part.len() as u8]);
        out.extend(part);
    }
    // Trackers that look for the end of options find one.
    out.push(0);
}

/// An unsigned number; what would be negative to the tracker is unknown.
fn count(data: &[u8], at: usize) -> Option<u32> {
    let n = u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?);
    Some(n).filter(|n| *n <= i32::MAX as u32)
}

fn announced(data: &[u8], from: SocketAddr) -> Result<Reply, TrackerError> {
    let Some(peers) = data.get(20..) else { return Err(short(data, 20)) };
    let mut reply = Reply {
        interval: count(data, 8).map(|s| Duration::from_secs(s.into())),
        leechers: count(data, 12),
        seeders: count(data, 16),
        ..Reply::default()
    };
    let v6 = from.ip().to_canonical().is_ipv6() && (peers.len() % 18 == 0 || peers.len() % 6 != 0);
    // An entry that was cut off at the end is lost, those before it are not.
    for entry in peers.chunks_exact(if v6 { 18 } else { 6 }) {
        let (ip, port) = entry.split_at(entry.len() - 2);
        let ip = match <[u8; 16]>::try_from(ip) {
            Ok(v6) => IpAddr::V6(Ipv6Addr::from(v6)),
            Err(_) => IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])),
        };
        reply::push(&mut reply, ip, u16::from_be_bytes([port[0], port[1]]));
    }
    Ok(reply)
}

fn scraped(data: &[u8]) -> Result<Reply, TrackerError> {
    if data.len() < 20 {
        return Err(short(data, 20));
    }
    Ok(Reply { seeders: count(data, 8), downloaded: count(data, 12), leechers: count(data, 16), ..Reply::default() })
}

fn short(data: &[u8], wanted: usize) -> TrackerError {
    TrackerError::BadReply(format!("a datagram of {} bytes, wanted {wanted}", data.len()))
}

fn refusal(text: &[u8]) -> TrackerError {
    // Some end it as C strings are ended.
    TrackerError::Failure { reason: reply::reason(text), retry_in: None }
}

#[cfg(test)]
mod tests;
