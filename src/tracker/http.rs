//! One announce (BEP 3) or scrape (BEP 48) over HTTP, as a machine without sockets.
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
//! `https://` is the same over a connection with TLS, which the owner makes (see [`HttpTransaction::tls_host`]).
//! Not done here: proxies, asking for compression (a reply in gzip is read, though), cookies.
//!
//! Where a tracker may send us (libtorrent's audit of 2020, F1): never to link-local, multicast or
//! unspecified addresses; to loopback only for a path that names an announce; a redirect never from
//! a public host to a private one, never from https back to http.
//!
//! [BEP 3](https://www.bittorrent.org/beps/bep_0003.html)

use std::fmt::Write;
use std::net::IpAddr;

use super::{Announce, Ask, Event, Reply, TrackerError, reply};
use crate::config::limits;
use crate::http::{ResponseReader, Scheme, Url, base64, percent_decode, percent_encode};
use crate::id::InfoHash;

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

/// One announce or scrape over HTTP; see the module.
#[derive(Clone, Debug)]
pub struct HttpTransaction {
    url: Url,
    /// Set for a scrape: the torrent to look for in the answer.
    scrape: Option<InfoHash>,
    reader: ResponseReader,
    redirects: u32,
    /// The address of an earlier hop was a public one.
    from_public: bool,
    done: bool,
}

impl HttpTransaction {
    /// Prepares the announce. [`TrackerError::Unsupported`] for anything but `http://`, and `https://` where
    /// the build has TLS.
    pub fn new(url: Url, announce: &Announce) -> Result<Self, TrackerError> {
        let mut this = Self::with(url, None)?;
        append_query(&mut this.url.target, announce);
        Ok(this)
    }

    /// Prepares a scrape. [`TrackerError::NoScrape`] when the announce URL does not tell how (BEP 48:
    /// the last part of its path must begin with `announce`).
    pub fn scrape(url: Url, info_hash: InfoHash) -> Result<Self, TrackerError> {
        let mut this = Self::with(url, Some(info_hash))?;
        let path = this.url.path().len();
        let last = this.url.target[..path].rfind('/').map_or(0, |i| i + 1);
        if !this.url.target[last..path].starts_with("announce") {
            return Err(TrackerError::NoScrape);
        }
        this.url.target.replace_range(last..last + "announce".len(), "scrape");
        append_hash(&mut this.url.target, &info_hash);
        Ok(this)
    }

    /// Either of the two.
    pub fn ask(url: Url, ask: &Ask) -> Result<Self, TrackerError> {
        match ask {
            Ask::Announce(announce) => Self::new(url, announce),
            Ask::Scrape(info_hash) => Self::scrape(url, *info_hash),
        }
    }

    fn with(url: Url, scrape: Option<InfoHash>) -> Result<Self, TrackerError> {
        speaks(url.scheme)?;
        let reader = ResponseReader::new(limits::TRACKER_BODY);
        Ok(Self { url, scrape, reader, redirects: 0, from_public: false, done: false })
    }

    /// What to look up and connect to now: a name or an IP address, and the port.
    pub fn host(&self) -> (&str, u16) {
        (&self.url.host, self.url.port)
    }

    /// Whom to expect there, when the connection is to be made with TLS.
    pub fn tls_host(&self) -> Option<&str> {
        (self.url.scheme == Scheme::Https).then_some(&self.url.host)
    }

    /// Whether `ip`, which [`Self::host`] was found to mean, may be connected to. Call it for the
    /// address that is about to be used; it remembers public ones for redirects to come.
    pub fn may_connect(&mut self, ip: IpAddr) -> Result<(), TrackerError> {
        let reach = Reach::of(ip);
        let word = if self.scrape.is_some() { "scrape" } else { "announce" };
        let names_announce = self.url.path().rsplit('/').next().is_some_and(|s| s.starts_with(word));
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
                (200..=299, _) => match &self.scrape {
                    None => reply::parse(self.reader.body()),
                    Some(hash) => reply::parse_scrape(self.reader.body(), hash),
                },
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
        speaks(to.scheme)?;
        if (self.url.scheme, to.scheme) == (Scheme::Https, Scheme::Http) {
            let why = format!("redirect from {} to {}, which is not encrypted", self.url.host, to.host);
            return Err(TrackerError::Refused(why));
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

/// Whether this module, in this build, speaks it.
fn speaks(scheme: Scheme) -> Result<(), TrackerError> {
    match scheme {
        Scheme::Http => Ok(()),
        Scheme::Https if cfg!(feature = "tls") => Ok(()),
        other => Err(TrackerError::Unsupported(other)),
    }
}

/// How far an address reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Unspecified, link-local (where clouds keep their credentials), multicast, broadcast.
    Never,
    Loopback,
    Private,
    Public,
}

impl Reach {
    pub(crate) fn of(ip: IpAddr) -> Self {
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

/// Appends the torrent to a target that may have a query already.
fn append_hash(target: &mut String, info_hash: &InfoHash) {
    if !target.contains('?') {
        target.push('?');
    } else if !target.ends_with(['?', '&']) {
        target.push('&');
    }
    target.push_str("info_hash=");
    percent_encode(info_hash.as_bytes(), target);
}

/// Appends the announce's parameters.
fn append_query(target: &mut String, a: &Announce) {
    let numwant = if a.event == Event::Stopped { 0 } else { a.numwant };
    append_hash(target, &a.info_hash);
    target.push_str("&peer_id=");
    percent_encode(a.peer_id.as_bytes(), target);
    // Who leaves needs nobody. The key has a fixed width: some trackers compare it as text.
    let _ = write!(
        target,
        "&port={}&uploaded={}&downloaded={}&left={}&numwant={}&key={:08X}&compact=1",
        a.port, a.uploaded, a.downloaded, a.left, numwant, a.key
    );
    if let Some(event) = a.event.name() {
        let _ = write!(target, "&event={event}");
    }
    if let Some(id) = &a.tracker_id {
        target.push_str("&trackerid=");
        percent_encode(id, target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpError;
    use crate::id::PeerId;

    fn announce(event: Event) -> Announce {
        let mut hash = [0x20; 20];
        hash[0] = b'a';
        Announce {
            info_hash: InfoHash::new(hash),
            peer_id: PeerId::new(*b"-BM0100-0123456789ab"),
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: u64::MAX,
            event,
            numwant: 80,
            key: 0x2A,
            tracker_id: None,
        }
    }

    fn transaction(url: &str) -> HttpTransaction {
        HttpTransaction::new(Url::parse(url).unwrap(), &announce(Event::Started)).unwrap()
    }

    fn text(t: &HttpTransaction) -> String {
        String::from_utf8(t.request()).unwrap()
    }

    fn redirect(t: &mut HttpTransaction, to: &str) -> Progress {
        t.feed(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\n\r\n").as_bytes())
    }

    const QUERY: &str = "info_hash=a%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20\
        &peer_id=-BM0100-0123456789ab\
        &port=6881&uploaded=1&downloaded=2&left=18446744073709551615&numwant=80&key=0000002A&compact=1&event=started";

    #[test]
    fn the_request() {
        let t = transaction("http://u:p%40@Tracker.org:6969/x%2f/announce");
        assert_eq!(t.host(), ("tracker.org", 6969));
        assert_eq!(
            text(&t),
            format!(
                "GET /x%2f/announce?{QUERY} HTTP/1.1\r\nHost: tracker.org:6969\r\nUser-Agent: btmio/{}\r\n\
                 Accept: */*\r\n\
                 Accept-Encoding: identity\r\nAuthorization: Basic dTpwQA==\r\nConnection: close\r\n\r\n",
                env!("CARGO_PKG_VERSION")
            )
        );
        let r = text(&transaction("http://[::1]/announce.php?passkey=k"));
        assert!(r.starts_with(&format!("GET /announce.php?passkey=k&{QUERY} HTTP/1.1\r\nHost: [::1]\r\n")), "{r}");
        assert!(text(&transaction("http://h/a?")).contains("/a?info_hash"));
        assert!(text(&transaction("http://h/a?b&")).contains("/a?b&info_hash"));
    }

    #[test]
    fn later_announces() {
        let url = || Url::parse("http://h/announce").unwrap();
        let id = Announce { tracker_id: Some(b"a&b".to_vec()), ..announce(Event::None) };
        let r = text(&HttpTransaction::new(url(), &id).unwrap());
        assert!(r.contains("&compact=1&trackerid=a%26b HTTP/1.1"), "{r}");
        let r = text(&HttpTransaction::new(url(), &announce(Event::Stopped)).unwrap());
        assert!(r.contains("&numwant=0&") && r.contains("&event=stopped "), "{r}");
    }

    #[test]
    fn scrapes() {
        let hash = InfoHash::new([b'A'; 20]);
        let scrape = |url: &str| HttpTransaction::scrape(Url::parse(url).unwrap(), hash);
        for (from, to) in [
            ("http://h/announce", "/scrape?info_hash=AAAAAAAAAAAAAAAAAAAA"),
            ("http://h/x/announce.php?k=/announce", "/x/scrape.php?k=/announce&info_hash=AAAAAAAAAAAAAAAAAAAA"),
        ] {
            let t = scrape(from).unwrap();
            assert!(text(&t).starts_with(&format!("GET {to} HTTP/1.1\r\n")), "{}", text(&t));
        }
        for url in ["http://h/a", "http://h/", "http://h/announce/x", "http://h/x?announce"] {
            assert_eq!(scrape(url).unwrap_err(), TrackerError::NoScrape, "{url}");
        }
        let mut t = scrape("http://127.0.0.1/announce").unwrap();
        assert_eq!(t.may_connect("127.0.0.1".parse().unwrap()), Ok(()));
        t.feed(
            b"HTTP/1.1 200 OK\r\n\r\nd5:filesd20:AAAAAAAAAAAAAAAAAAAAd8:completei1e10:downloadedi2e10:incompletei3eeee",
        );
        let Progress::Done(Ok(reply)) = t.eof() else { panic!() };
        assert_eq!((reply.seeders, reply.downloaded, reply.leechers), (Some(1), Some(2), Some(3)));
    }

    #[test]
    fn an_answer() {
        let mut t = transaction("http://h/announce");
        assert_eq!(t.feed(b"HTTP/1.1 200 OK\r\n\r\nd8:intervali900e5:peers6:\x0a\0\0\x01\0\x05"), Progress::More);
        assert_eq!(t.feed(b"e"), Progress::More);
        let Progress::Done(Ok(reply)) = t.eof() else { panic!() };
        assert_eq!(reply.peers, ["10.0.0.1:5".parse().unwrap()]);
        assert_eq!((t.eof(), t.feed(b"x")), (Progress::More, Progress::More));
    }

    #[test]
    fn refusals() {
        let answer = |bytes: &[u8]| match transaction("http://h/announce").feed(bytes) {
            Progress::Done(Err(e)) => e,
            other => panic!("{other:?}"),
        };
        assert_eq!(answer(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"), TrackerError::Status { code: 503 });
        let failure = answer(b"HTTP/1.1 400 No\r\nContent-Length: 22\r\n\r\nd14:failure reason2:noe");
        assert_eq!(failure, TrackerError::Status { code: 400 }, "cut short");
        let failure = answer(b"HTTP/1.1 400 No\r\nContent-Length: 23\r\n\r\nd14:failure reason2:noe");
        assert_eq!(failure, TrackerError::Failure { reason: "no".into(), retry_in: None });
        assert_eq!(answer(b"d8:interval"), TrackerError::Http(HttpError::NotHttp));
        assert_eq!(answer(b"HTTP/1.1 304 Same\r\n\r\n"), TrackerError::Status { code: 304 });
        assert!(matches!(answer(b"HTTP/1.1 204 None\r\n\r\n"), TrackerError::BadReply(_)));
        let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", limits::TRACKER_BODY + 1);
        assert!(matches!(answer(large.as_bytes()), TrackerError::Http(HttpError::BodyTooLong { .. })));
        for (url, spoken) in [("https://h/", cfg!(feature = "tls")), ("udp://h:1/", false)] {
            let url = Url::parse(url).unwrap();
            let scheme = url.scheme;
            let made = HttpTransaction::new(url, &announce(Event::None)).map(|_| ());
            assert_eq!(made, if spoken { Ok(()) } else { Err(TrackerError::Unsupported(scheme)) });
        }
    }

    #[test]
    fn redirects_are_followed_as_written() {
        let mut t = transaction("http://u:p@h/announce");
        assert_eq!(redirect(&mut t, "//other:81/x?y=1"), Progress::Redirected);
        assert_eq!(t.host(), ("other", 81));
        let r = text(&t);
        assert!(r.starts_with("GET /x?y=1 HTTP/1.1\r\nHost: other:81\r\n"), "{r}");
        assert!(!r.contains("Authorization"), "what is meant for one host is not told to another");
        assert_eq!(t.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nd"), Progress::More);
        assert!(matches!(t.feed(b"ee"), Progress::Done(Err(TrackerError::BadReply(_)))));
    }

    #[test]
    fn redirects_end() {
        let mut t = transaction("http://127.0.0.1:1/announce");
        for _ in 0..limits::REDIRECTS {
            assert_eq!(redirect(&mut t, "/announce"), Progress::Redirected);
        }
        assert_eq!(redirect(&mut t, "/announce"), Progress::Done(Err(TrackerError::Redirects)));
        assert_eq!(redirect(&mut t, "/announce"), Progress::More);
    }

    #[test]
    fn redirects_lead_nowhere_they_should_not() {
        let done = |from: &str, to: &str| match redirect(&mut transaction(from), to) {
            Progress::Done(Err(e)) => Some(e),
            Progress::Redirected => None,
            other => panic!("{other:?}"),
        };
        for to in [
            "http://127.0.0.1/",
            "http://10.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://localhost/",
            "http://169.254.169.254/",
            "http://[fe80::1]/",
            "http://[fd00::1]/",
            "http://0.0.0.0/",
            "http://100.64.0.1/",
        ] {
            assert!(matches!(done("http://h/announce", to), Some(TrackerError::Refused(_))), "{to}");
            assert!(matches!(done("http://8.8.8.8/announce", to), Some(TrackerError::Refused(_))), "{to}");
        }
        assert_eq!(done("http://10.0.0.1/announce", "http://10.0.0.2/announce"), None);
        assert_eq!(done("http://127.0.0.1/announce", "http://localhost:2/announce"), None);
        assert!(matches!(done("http://h/", "file:///etc/passwd"), Some(TrackerError::Url(_))));
        assert!(matches!(done("http://h/", "http://2130706433/"), Some(TrackerError::Url(_))));
        let spoken = cfg!(feature = "tls");
        let https = (!spoken).then_some(TrackerError::Unsupported(Scheme::Https));
        assert_eq!(done("http://h/", "https://h/"), https);
        if spoken {
            assert_eq!(done("https://h/", "/announce"), None);
            assert!(matches!(done("https://h/", "http://h/"), Some(TrackerError::Refused(_))));
            assert!(matches!(done("https://h/", "https://10.0.0.1/"), Some(TrackerError::Refused(_))));
        }
        assert_eq!(done("http://h/", "udp://h:1/"), Some(TrackerError::Unsupported(Scheme::Udp)));
    }

    #[test]
    fn addresses_are_judged_before_connecting() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let may = |url: &str, addr: &str| transaction(url).may_connect(ip(addr)).is_ok();
        for (url, addr, want) in [
            ("http://h/announce", "127.0.0.1", true),
            ("http://h/key/announce.php?x", "::1", true),
            ("http://h/transmission/rpc", "127.0.0.1", false),
            ("http://h/announce/rpc", "::ffff:127.0.0.1", false),
            ("http://h/rpc?/announce", "127.1.2.3", false),
            ("http://h/announce", "169.254.169.254", false),
            ("http://h/announce", "fe80::1", false),
            ("http://h/announce", "0.0.0.0", false),
            ("http://h/announce", "::", false),
            ("http://h/announce", "224.0.0.1", false),
            ("http://h/x", "192.168.0.1", true),
            ("http://h/x", "8.8.8.8", true),
        ] {
            assert_eq!(may(url, addr), want, "{url} at {addr}");
        }
        // A name in the redirect is no way around it.
        let mut t = transaction("http://public/announce");
        assert_eq!(t.may_connect(ip("8.8.8.8")), Ok(()));
        assert_eq!(redirect(&mut t, "http://inside/announce"), Progress::Redirected);
        assert!(matches!(t.may_connect(ip("192.168.0.1")), Err(TrackerError::Refused(_))));
        assert_eq!(t.may_connect(ip("8.8.4.4")), Ok(()));
    }
}
