//! Trackers: what is asked of one, what it answers, and which one is asked when.
//!
//! - [`Announce`] and [`Reply`] are one question and its answer, whatever the transport.
//! - [`http::HttpTransaction`] carries one announce or scrape over HTTP, without sockets.
//! - [`udp::UdpTransaction`] does the same over UDP (BEP 15).
//! - [`tiers::Tiers`] is the schedule of one torrent: tiers, events, intervals, back-off (BEP 12).
//! - [`reply`] reads the bencoded body (BEP 3, 7, 23, 24, 31).
//!
//! Nothing here looks up names, opens sockets or reads a clock: the session does, and reports back
//! with `feed`, `on_reply` and `on_error`. `https://` trackers are kept in their tiers by builds without the
//! feature `tls` too, and refused with [`TrackerError::Unsupported`], so that the user is told and the
//! others are tried.
//!
//! ```text
//! Tiers::poll -> Due -> HttpTransaction::new -> (look up, connect) -> request -> feed/eof -> Progress::Done
//!    ^                                               |                             |
//!    +---------------- on_error <--------------------+-----------------------------+---> on_reply
//! ```
//!
//! Invariants: one announce of a torrent is under way at a time; nothing a tracker says makes us ask
//! more often than [`limits::ANNOUNCE_INTERVAL`] allows.
//!
//! [BEP 3](https://www.bittorrent.org/beps/bep_0003.html),
//! [BEP 12](https://www.bittorrent.org/beps/bep_0012.html),
//! [BEP 23](https://www.bittorrent.org/beps/bep_0023.html),
//! [BEP 31](https://www.bittorrent.org/beps/bep_0031.html)
//!
//! [`limits::ANNOUNCE_INTERVAL`]: crate::config::limits::ANNOUNCE_INTERVAL

pub(crate) mod external;
pub mod http;
pub mod reply;
pub mod tiers;
pub mod udp;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::http::{HttpError, Scheme, UrlError};
use crate::id::{InfoHash, PeerId};
use crate::time::Duration;

/// Why an announce is made (BEP 3 `event`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Event {
    /// One of the regular ones; the key is left out.
    #[default]
    None,
    /// The first one to this tracker.
    Started,
    /// The download has just become complete; never sent by one that started complete.
    Completed,
    /// We are leaving.
    Stopped,
}

impl Event {
    /// The value of the `event` key, absent for [`Event::None`].
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Started => Some("started"),
            Self::Completed => Some("completed"),
            Self::Stopped => Some("stopped"),
        }
    }
}

/// One announce, ready to be sent.
#[derive(Clone, Debug)]
pub struct Announce {
    /// The torrent (20 bytes; the cut version 2 hash for BEP 52 torrents).
    pub info_hash: InfoHash,
    /// This client.
    pub peer_id: PeerId,
    /// The port we listen on.
    pub port: u16,
    /// Bytes of payload sent since `started`.
    pub uploaded: u64,
    /// Bytes of payload received since `started`.
    pub downloaded: u64,
    /// Bytes still wanted.
    pub left: u64,
    /// Why we announce.
    pub event: Event,
    /// How many peers we ask for.
    pub numwant: u32,
    /// Drawn once a session, the same for all trackers and both address families (BEP 7).
    pub key: u32,
    /// What this tracker gave as `tracker id` earlier.
    pub tracker_id: Option<Vec<u8>>,
}

/// What a tracker is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// To list us, and to name peers.
    Announce(Announce),
    /// How many peers a torrent has (BEP 48).
    Scrape(InfoHash),
}

/// A tracker's answer to an announce, or to a scrape, which has the three counts only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// When it wants to hear from us again, as sent; clamp before use.
    pub interval: Option<Duration>,
    /// The shortest interval it puts up with, as sent.
    pub min_interval: Option<Duration>,
    /// Peers that have everything.
    pub seeders: Option<u32>,
    /// Peers that have not.
    pub leechers: Option<u32>,
    /// How often the torrent was downloaded to its end.
    pub downloaded: Option<u32>,
    /// Peers, in the order sent, without the impossible (port 0, multicast, 0.0.0.0); at most
    /// [`limits::SWARM`](crate::config::limits::SWARM). Loopback and private addresses are left in.
    pub peers: Vec<SocketAddr>,
    /// Peers that were given by host name, in the dictionary form only; at most [`reply::MAX_NAMES`].
    pub peer_names: Vec<(String, u16)>,
    /// To be sent with the following announces to this tracker.
    pub tracker_id: Option<Vec<u8>>,
    /// For the user.
    pub warning: Option<String>,
    /// Our address as the tracker sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
}

/// Why an announce failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerError {
    /// The tracker said no.
    Failure {
        /// Its words, control characters removed, at most 256 characters.
        reason: String,
        /// When it wants to be asked again (BEP 31); [`Duration::MAX`] is "never".
        retry_in: Option<Duration>,
    },
    /// The answer is not HTTP as we know it.
    Http(HttpError),
    /// An HTTP status that is neither success nor a redirect.
    Status {
        /// The status code.
        code: u16,
    },
    /// More redirects than [`limits::REDIRECTS`](crate::config::limits::REDIRECTS).
    Redirects,
    /// The URL, or where a redirect leads, is not one.
    Url(UrlError),
    /// An address that this tracker has no business to send us to.
    Refused(String),
    /// The body is not an announce reply.
    BadReply(String),
    /// The host name has no address.
    Resolve(String),
    /// The connection could not be made or broke.
    Connect(String),
    /// No answer in time.
    Timeout,
    /// A URL scheme that this build cannot speak.
    Unsupported(Scheme),
    /// The announce URL does not tell where to scrape (BEP 48).
    NoScrape,
}

impl TrackerError {
    /// A bit of its own for each variant.
    pub(crate) const fn kind(&self) -> u16 {
        match self {
            Self::Failure { .. } => 1 << 0,
            Self::Http(_) => 1 << 1,
            Self::Status { .. } => 1 << 2,
            Self::Redirects => 1 << 3,
            Self::Url(_) => 1 << 4,
            Self::Refused(_) => 1 << 5,
            Self::BadReply(_) => 1 << 6,
            Self::Resolve(_) => 1 << 7,
            Self::Connect(_) => 1 << 8,
            Self::Timeout => 1 << 9,
            Self::Unsupported(_) => 1 << 10,
            Self::NoScrape => 1 << 11,
        }
    }
}

impl fmt::Display for TrackerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure { reason, .. } => write!(f, "the tracker refuses: {reason}"),
            Self::Http(e) => write!(f, "bad HTTP answer: {e}"),
            Self::Status { code } => write!(f, "HTTP status {code}"),
            Self::Redirects => {
                write!(f, "redirected more than {} times", crate::config::limits::REDIRECTS)
            }
            Self::Url(e) => write!(f, "bad URL: {e}"),
            Self::Refused(why) => write!(f, "not connecting: {why}"),
            Self::BadReply(what) => write!(f, "bad reply: {what}"),
            Self::Resolve(why) => write!(f, "name lookup failed: {why}"),
            Self::Connect(why) => write!(f, "connection failed: {why}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Unsupported(Scheme::Https) => f.write_str("https trackers are skipped: this build has no TLS"),
            Self::Unsupported(scheme) => write!(f, "{scheme} trackers are not supported"),
            Self::NoScrape => f.write_str("its URL does not tell where to scrape"),
        }
    }
}

impl std::error::Error for TrackerError {}

impl From<HttpError> for TrackerError {
    fn from(e: HttpError) -> Self {
        Self::Http(e)
    }
}

impl From<UrlError> for TrackerError {
    fn from(e: UrlError) -> Self {
        Self::Url(e)
    }
}
