//! One announce over HTTP (BEP 3), as a machine without sockets.
//!
//! ```text
//! new -> host(), request() -> feed()... -> More
//!            ^                   |-------> Redirected: host() and request() have changed, connect anew
//!            |___________________|         Done(reply or error)
//! ```
//!
//! The owner looks up [`HttpTransaction::host`], asks [`HttpTransaction::may_connect`] about the
//! address it got, connects, sends [`HttpTransaction::request`], and feeds what comes back. It also
//! owns the time-out ([`limits::TRACKER_TIMEOUT`] for all of it).
//!
//! Not done here: TLS, proxies, compression (it is not asked for), cookies.
//!
//! Where a tracker may send us (libtorrent's audit of 2020, F1): never to link-local, multicast or
//! unspecified addresses; to loopback only for a path that names an announce; a redirect never from
//! a public host to a private one, never to another scheme than http.
//!
//! [BEP 3](https://www.bittorrent.org/beps/bep_0003.html)

use std::fmt::Write;
use std::net::IpAddr;

use super::{Announce, Event, Reply, TrackerError, reply};
use crate::config::limits;
use crate::http::{ResponseReader, Scheme, Url, base64, percent_decode, percent_encode};

/// What feeding a transaction led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Not complete yet. Also the answer to whatever comes after `Done`.
    More,
    /// `host()` and `request()` have changed: close, look up and connect anew.
    Redirected,
    /// It is over.
    Done(Result<Reply, TrackerError>),
}

/// One announce over HTTP; see the module.
#[derive(Clone, Debug)]
pub struct HttpTransaction {
    url: Url,
    reader: ResponseReader,
    redirects: u32,
    /// The address of an earlier hop was a public one.
    from_public: bool,
    done: bool,
}

impl HttpTransaction {
    /// Prepares the announce. [`TrackerError::Unsupported`] for anything but `http://`.
    pub fn new(url: Url, announce: &Announce) -> Result<Self, TrackerError> {
        if url.scheme != Scheme::Http {
            return Err(TrackerError::Unsupported(url.scheme));
        }
        let mut url = url;
        append_query(&mut url.target, announce);
        let reader = ResponseReader::new(limits::TRACKER_BODY);
        Ok(Self { url, reader, redirects: 0, from_public: false, done: false })
    }

    /// What to look up and connect to now: a name or an IP address, and the port.
    pub fn host(&self) -> (&str, u16) {
        (&self.url.host, self.url.port)
    }

    /// Whether `ip`, which [`Self::host`] was found to mean, may be connected to. Call it for the
    /// address that is about to be used; it remembers public ones for redirects to come.
    pub fn may_connect(&mut self, ip: IpAddr) -> Result<(), TrackerError> {
        let reach = Reach::of(ip);
        let names_announce = self.url.path().rsplit('/').next().is_some_and(|s| s.starts_with("announce"));
        let why = match reach {
            Reach::Never => "is not an address of a tracker",
            Reach::Loopback if !names_announce => "is this machine, and the path names no announce",
            Reach::Loopback | Reach::Private if self.from_public => "is private, the redirect came from a public host",
            _ => {
                self.from_public |= reach == Reach::Public;
                return Ok(());
            }
        };
        Err(TrackerError::Refused(format!("{ip} {why}")))
    }

    /// The request to send on a fresh connection.
    pub fn request(&self) -> Vec<u8> {
        let mut r = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: btmio/{}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n",
            self.url.target,
            self.url.authority(),
            env!("CARGO_PKG_VERSION"),
        );
        if let Some(userinfo) = &self.url.userinfo {
            let _ = write!(r, "Authorization: Basic {}\r\n", base64(&percent_decode(userinfo)));
        }
        r.push_str("Connection: close\r\n\r\n");
        r.into_bytes()
    }

    /// Takes bytes as they came from the connection.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        if self.done {
            return Progress::More;
        }
        let complete = self.reader.feed(bytes);
        self.advance(complete)
    }

    /// The connection was closed by the tracker.
    pub fn eof(&mut self) -> Progress {
        if self.done {
            return Progress::More;
        }
        let complete = self.reader.eof();
        self.advance(complete)
    }

    fn advance(&mut self, complete: Result<bool, crate::http::HttpError>) -> Progress {
        let result = match complete {
            Ok(false) => return Progress::More,
            Ok(true) => match (self.reader.status(), self.reader.location()) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => match self.redirect(location) {
                    Ok(url) => {
                        self.url = url;
                        self.redirects += 1;
                        self.reader = ResponseReader::new(limits::TRACKER_BODY);
                        return Progress::Redirected;
                    }
                    Err(e) => Err(e),
                },
                (200..=299, _) => reply::parse(self.reader.body()),
                // Some trackers put their reason into the body of an error.
                (code, _) => match reply::parse(self.reader.body()) {
                    Err(failure @ TrackerError::Failure { .. }) => Err(failure),
                    _ => Err(TrackerError::Status { code }),
                },
            },
            Err(e) => Err(e.into()),
        };
        self.done = true;
        Progress::Done(result)
    }

    /// Where a redirect leads, if we follow it. The new URL is taken as it is: nothing is appended.
    fn redirect(&self, location: &str) -> Result<Url, TrackerError> {
        if self.redirects >= limits::REDIRECTS {
            return Err(TrackerError::Redirects);
        }
        let to = self.url.join(location)?;
        if to.scheme != Scheme::Http {
            return Err(TrackerError::Unsupported(to.scheme));
        }
        // Names are judged by their address, in may_connect; literals can be judged at once.
        if Reach::of_host(&self.url.host) == Reach::Public
            && matches!(Reach::of_host(&to.host), Reach::Private | Reach::Loopback | Reach::Never)
        {
            let why = format!("redirect from {} to the private address {}", self.url.host, to.host);
            return Err(TrackerError::Refused(why));
        }
        Ok(to)
    }
}

/// How far an address reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// Unspecified, link-local (where clouds keep their credentials), multicast, broadcast.
    Never,
    Loopback,
    Private,
    Public,
}

impl Reach {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(a) => {
                let o = a.octets();
                if o[0] == 0 || a.is_link_local() || a.is_multicast() || a.is_broadcast() {
                    Self::Never
                } else if a.is_loopback() {
                    Self::Loopback
                } else if a.is_private() || (o[0] == 100 && o[1] & 0xc0 == 64) {
                    Self::Private
                } else {
                    Self::Public
                }
            }
            IpAddr::V6(a) => {
                let first = a.segments()[0];
                if a.is_loopback() {
                    Self::Loopback
                } else if a.is_unspecified() || a.is_multicast() || first & 0xffc0 == 0xfe80 {
                    Self::Never
                } else if first & 0xfe00 == 0xfc00 {
                    Self::Private
                } else {
                    Self::Public
                }
            }
        }
    }

    /// Of a literal or a name; names count as public, but for `localhost`.
    fn of_host(host: &str) -> Self {
        match host.parse() {
            Ok(ip) => Self::of(ip),
            Err(_) if host == "localhost" || host.ends_with(".localhost") => Self::Loopback,
            Err(_) => Self::Public,
        }
    }
}

/// Appends the announce's parameters to a target that may have a query already.
fn append_query(target: &mut String, a: &Announce) {
    if !target.contains('?') {
        target.push('?');
    } else if !target.ends_with(['?', '&']) {
        target.push('&');
    }
    target.push_str("info_hash=");
    percent_encode(a.info_hash.as_bytes(), target);
    target.push_str("&peer_id=");
    percent_encode(a.peer_id.as_bytes(), target);
    // The key has a fixed width: some trackers compare it as text.
    let _ = write!(
        target,
        "&port={}&uploaded={}&downloaded={}&left={}&numwant={}&key={:08X}&compact=1",
        a.port, a.uploaded, a.downloaded, a.left, a.numwant, a.key
    );
    if let Some(event) = a.event.name() {
        let _ = write!(target, "&event={event}");
    }
    if let Some(id) = &a.tracker_id {
        target.push_str("&trackerid=");
        percent_encode(id, target);
    }
    debug_assert!(a.event != Event::Stopped || a.numwant == 0, "leaving, yet asking for peers");
}
