//! A question to a tracker on its way: which torrent's, by which transport, over which address family.
//!
//! A tracker that has addresses of both families is asked over each (BEP 7): such a question has
//! two *legs*, each a connection of its own, that know each other by `sibling`. The first good answer
//! counts as the tracker's; the other leg's only adds peers. `session::trackers` drives them.

use std::net::SocketAddr;

use super::Outbox;
use crate::http::{Scheme, Url};
use crate::id::{ConnKey, TorrentKey};
use crate::time::Instant;
use crate::tracker::http::HttpTransaction;
use crate::tracker::tiers::TrackerIdx;
use crate::tracker::udp::UdpTransaction;
use crate::tracker::{Ask, Event, TrackerError};

/// How a tracker is spoken to.
#[derive(Debug)]
pub enum Transport {
    /// Over a stream.
    Http(HttpTransaction),
    /// With datagrams.
    Udp(UdpTransaction),
}

impl Transport {
    /// By the URL's scheme; an error for those that are not spoken.
    pub fn new(url: &Url, ask: &Ask) -> Result<Self, TrackerError> {
        match url.scheme {
            Scheme::Udp => UdpTransaction::new(url.clone(), ask.clone()).map(Self::Udp),
            Scheme::Http | Scheme::Https => HttpTransaction::ask(url.clone(), ask).map(Self::Http),
        }
    }

    /// What to look up, and the port there.
    pub fn host(&self) -> (&str, u16) {
        match self {
            Self::Http(t) => t.host(),
            Self::Udp(t) => t.host(),
        }
    }
}

/// A question to a tracker: being looked up, connecting, talking.
#[derive(Debug)]
pub struct TrackerConn {
    /// For which torrent.
    pub torrent: TorrentKey,
    /// Which of its trackers.
    pub tracker: TrackerIdx,
    /// Where it began.
    pub url: Url,
    /// What is asked.
    pub ask: Ask,
    /// The exchange.
    pub transport: Transport,
    /// Addresses still to try, the next one last.
    pub addrs: Vec<SocketAddr>,
    /// The address in use.
    pub addr: Option<SocketAddr>,
    /// What waits for the socket.
    pub outbox: Outbox,
    /// The whole is given up then.
    pub deadline: Instant,
    /// Over HTTP, the address in use is given up then, if there is another; [`Instant::FAR`] once it answered.
    pub patience: Instant,
    /// Why the last address failed.
    pub last_error: Option<String>,
    /// The only family it may use, when another leg has the other: true for IPv6.
    pub family: Option<bool>,
    /// The other leg, while that is under way.
    pub sibling: Option<ConnKey>,
    /// How the other leg ended.
    pub other: Other,
}

/// How the other leg of an announce ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Other {
    /// There is none, or it has not.
    #[default]
    Open,
    /// Well, and the torrent has been told.
    Told,
    /// Well, and the torrent is told when this one ends too.
    Good,
    /// Badly.
    Bad(TrackerError),
}

impl TrackerConn {
    /// A question that has yet to find its tracker's addresses.
    pub fn new(
        torrent: TorrentKey,
        tracker: TrackerIdx,
        url: Url,
        ask: Ask,
        deadline: Instant,
    ) -> Result<Self, TrackerError> {
        let transport = Transport::new(&url, &ask)?;
        Ok(Self {
            torrent,
            tracker,
            url,
            ask,
            transport,
            addrs: Vec::new(),
            addr: None,
            outbox: Outbox::default(),
            deadline,
            patience: Instant::FAR,
            last_error: None,
            family: None,
            sibling: None,
            other: Other::Open,
        })
    }

    /// The event, if it is an announce.
    pub fn event(&self) -> Option<Event> {
        match &self.ask {
            Ask::Announce(a) => Some(a.event),
            Ask::Scrape(_) => None,
        }
    }

    /// When it wants to be looked after: a datagram to repeat, or the end of patience.
    pub fn next(&self) -> Instant {
        match &self.transport {
            Transport::Http(_) => self.deadline.min(self.patience),
            Transport::Udp(t) => self.deadline.min(t.deadline()),
        }
    }
}
