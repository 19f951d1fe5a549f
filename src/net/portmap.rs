//! Port mapping's sockets: one for datagrams to the gateway, a stream now and then for UPnP.
//!
//! Nothing is sent unless there is reason to: we listen on IPv4, not on the loopback alone, the way out is by a
//! gateway, and both it and our own address on its network are private ones, so that there is a translation
//! between us and the rest of the world. When the network changes all of this is looked at anew: another gateway is
//! another beginning. The machine itself is [`portmap::Mapper`].
//!
//! [`portmap::Mapper`]: crate::portmap::Mapper

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use socket2::Type;

use super::bound::Bound;
use super::interfaces::{self, WayOut};
use crate::http::ResponseReader;
use crate::portmap::{Event, Fetch, Mapper, Setup, wire};
use crate::time::{Duration, Instant, earlier};
use crate::tracker::http::Reach;

/// Largest body of a gateway's answer.
const BODY: usize = 64 << 10;
/// How long leaving waits for the gateway.
const GOODBYE: Duration = Duration::from_secs(2);
/// Datagrams received in one turn.
const DATAGRAMS: usize = 32;
/// Tokens in use: datagrams, the stream.
pub(super) const TOKENS: usize = 2;

/// A request under way.
struct Stream {
    id: u32,
    tcp: TcpStream,
    request: Vec<u8>,
    reader: ResponseReader,
}

/// What the session is to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// Peers outside dial this port.
    Port(u16),
    /// The gateway says that this is our address outside.
    Address { gateway: IpAddr, ip: IpAddr },
}

/// A gateway that is asked, and our sockets on its network.
struct Home {
    way: WayOut,
    mapper: Mapper,
    udp: UdpSocket,
    readable: bool,
    stream: Option<Stream>,
}

/// The mapping of our port, wherever we are.
pub(super) struct Portmap {
    registry: Registry,
    token: usize,
    bound: Bound,
    port: u16,
    secret: [u8; 20],
    home: Option<Home>,
    news: VecDeque<News>,
    leave: Option<Instant>,
}

/// Where there is reason to ask a gateway: by which way. Else why not.
fn reason(bound: &Bound, way: WayOut, ips: &[IpAddr]) -> Result<WayOut, String> {
    let own = bound.ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip).filter(|ip| !ip.is_unspecified()),
        IpAddr::V6(_) => None,
    });
    let private = |ip: Ipv4Addr| Reach::of(ip.into()) == Reach::Private;
    let (gateway, local) = (way.gateway, own.unwrap_or(way.local));
    match own {
        _ if !bound.has(false) => Err("nothing listens on IPv4".to_owned()),
        Some(ip) if !ips.contains(&ip.into()) => Err(format!("{ip} is not on the gateway's network")),
        _ if !private(local) => Err(format!("{local} is no private address")),
        _ if !private(gateway) => Err(format!("the gateway {gateway} has no private address")),
        _ => Ok(WayOut { local, ..way }),
    }
}

/// The way out that there is now, if there is reason to ask its gateway.
fn look(bound: &Bound) -> io::Result<Option<WayOut>> {
    if !bound.ips.is_empty() && bound.ips.iter().all(IpAddr::is_loopback) {
        return Ok(None);
    }
    let all = interfaces::list()?;
    let index = bound.device.as_ref().map(|name| all.iter().find(|i| i.name == *name).map_or(0, |i| i.index));
    let Some(way) = (if index == Some(0) { None } else { interfaces::way_out(index)? }) else { return Ok(None) };
    let ips = all.iter().find(|i| i.index == way.index).map_or(&[][..], |i| &i.ips);
    match reason(bound, way, ips) {
        Ok(way) => Ok(Some(way)),
        Err(why) => {
            log::debug!("no port mapping: {why}");
            Ok(None)
        }
    }
}

impl Portmap {
    /// Begins, if there is reason to: see the module. `token` is the first of [`TOKENS`], `port` the one that is
    /// listened on.
    pub(super) fn start(
        registry: Registry,
        token: usize,
        now: Instant,
        bound: &Bound,
        port: u16,
        secret: [u8; 20],
    ) -> Self {
        let (bound, news) = (bound.clone(), VecDeque::new());
        let mut this = Self { registry, token, bound, port, secret, home: None, news, leave: None };
        this.look_again(now);
        this
    }

    /// The network may be another one.
    pub(super) fn look_again(&mut self, now: Instant) {
        let way = look(&self.bound).unwrap_or_else(|e| {
            log::debug!("no port mapping: {e}");
            None
        });
        if self.leave.is_some() || way == self.home.as_ref().map(|home| home.way) {
            return;
        }
        if self.home.take().is_some() {
            self.news.push_back(News::Port(self.port));
        }
        let Some(way) = way else { return };
        match self.open(way.local) {
            Ok(udp) => {
                let WayOut { gateway, local, .. } = way;
                log::debug!("port mapping: asking {gateway} for port {}, from {local}", self.port);
                let mapper = Mapper::new(now, Setup { gateway, local, port: self.port, secret: self.secret });
                self.home = Some(Home { way, mapper, udp, readable: true, stream: None });
                self.drive(now);
            }
            Err(e) => log::info!("no port mapping: {e}"),
        }
    }

    /// A socket for the gateway and for searches on its network.
    fn open(&self, local: Ipv4Addr) -> io::Result<UdpSocket> {
        let socket = self.bound.socket(false, Type::DGRAM)?;
        socket.set_multicast_if_v4(&local)?;
        socket.set_multicast_ttl_v4(2)?;
        socket.bind(&SocketAddr::new(local.into(), 0).into())?;
        let mut udp = UdpSocket::from_std(socket.into());
        self.registry.register(&mut udp, Token(self.token), Interest::READABLE)?;
        Ok(udp)
    }

    /// One of its sockets has something.
    pub(super) fn on_ready(&mut self, now: Instant, i: usize) {
        let Some(home) = &mut self.home else { return };
        if i == 0 {
            home.readable = true;
        } else if let Some(result) = home.stream.as_mut().and_then(Stream::go_on) {
            let id = home.stream.take().map_or(0, |s| s.id);
            home.mapper.fetched(now, id, result);
            self.drive(now);
        }
    }

    /// There are datagrams to receive.
    pub(super) fn is_ready(&self) -> bool {
        self.home.as_ref().is_some_and(|home| home.readable)
    }

    /// Does what is due, and what follows from it.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.leave.is_some_and(|at| at <= now) {
            self.home = None;
        }
        let Some(home) = &mut self.home else { return };
        if home.readable || home.mapper.poll_timeout().is_some_and(|at| at <= now) {
            home.receive(now);
            home.mapper.tick(now);
            self.drive(now);
        }
        let Some(home) = &mut self.home else { return };
        let WayOut { gateway, local, .. } = home.way;
        while let Some(event) = home.mapper.poll_event() {
            match event {
                Event::Mapped { protocol, external, address, by } => {
                    let at = address.map_or_else(|| "the gateway's address".to_owned(), |ip| ip.to_string());
                    log::info!("{} port {external} of {at} is forwarded to {local} ({by})", protocol.name());
                    if protocol == wire::Protocol::Tcp {
                        self.news.push_back(News::Port(external));
                    }
                }
                Event::Address(ip) => self.news.push_back(News::Address { gateway: gateway.into(), ip }),
                Event::Failed(why) => {
                    log::info!("the gateway forwards no port: {why}");
                    self.news.push_back(News::Port(self.port));
                }
            }
        }
    }

    /// What the session is to know next.
    pub(super) fn poll(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// When to take a turn.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.home.as_ref().and_then(|home| earlier(home.mapper.poll_timeout(), self.leave))
    }

    /// Takes the mappings back.
    pub(super) fn leave(&mut self, now: Instant) {
        if let (Some(home), None) = (&mut self.home, self.leave) {
            home.mapper.leave(now);
            self.leave = Some(now + GOODBYE);
            self.drive(now);
        }
    }

    /// The gateway has been told, or has had its time.
    pub(super) fn has_left(&self) -> bool {
        self.home.as_ref().is_none_or(|home| home.mapper.has_left())
    }

    fn drive(&mut self, now: Instant) {
        let Some(home) = &mut self.home else { return };
        while let Some((to, data)) = home.mapper.poll_datagram() {
            match home.udp.send_to(&data, to) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => home.mapper.on_unsent(now, &e.to_string()),
            }
        }
        if !home.mapper.is_fetching() {
            // It was given up.
            home.stream = None;
        }
        while let Some(fetch) = home.mapper.poll_fetch(now) {
            let id = fetch.id;
            match Stream::open(&self.bound, home.way.local, fetch).and_then(|mut stream| {
                let both = Interest::READABLE | Interest::WRITABLE;
                self.registry.register(&mut stream.tcp, Token(self.token + 1), both)?;
                Ok(stream)
            }) {
                Ok(stream) => home.stream = Some(stream),
                Err(e) => home.mapper.fetched(now, id, Err(e.to_string())),
            }
        }
    }
}

impl Home {
    fn receive(&mut self, now: Instant) {
        let mut buf = [0; 2048];
        for _ in 0..DATAGRAMS {
            match self.udp.recv_from(&mut buf) {
                Ok((n, from)) => self.mapper.handle_datagram(now, from, &buf[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.readable = false;
                    if e.kind() != io::ErrorKind::WouldBlock {
                        self.mapper.on_unsent(now, &e.to_string());
                    }
                    return;
                }
            }
        }
    }
}

impl Stream {
    fn open(bound: &Bound, local: Ipv4Addr, fetch: Fetch) -> io::Result<Self> {
        let socket = bound.socket(false, Type::STREAM)?;
        socket.bind(&SocketAddr::new(local.into(), 0).into())?;
        match socket.connect(&fetch.to.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let tcp = TcpStream::from_std(socket.into());
        Ok(Self { id: fetch.id, tcp, request: fetch.request, reader: ResponseReader::new(BODY) })
    }

    /// Sends and receives what it can; the response, once there is one.
    fn go_on(&mut self) -> Option<Result<(u16, Vec<u8>), String>> {
        match self.try_go_on() {
            Ok(false) => None,
            Ok(true) => Some(Ok((self.reader.status(), self.reader.body().to_vec()))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) => Some(Err(e.to_string())),
        }
    }

    fn try_go_on(&mut self) -> io::Result<bool> {
        if let Some(e) = self.tcp.take_error()? {
            return Err(e);
        }
        match self.tcp.peer_addr() {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(e) => return Err(e),
        }
        while !self.request.is_empty() {
            match self.tcp.write(&self.request) {
                Ok(n) => drop(self.request.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let mut buf = [0; 4096];
        loop {
            let complete = match self.tcp.read(&mut buf) {
                Ok(0) => self.reader.eof(),
                Ok(n) => self.reader.feed(&buf[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if complete.map_err(|e| io::Error::other(e.to_string()))? {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_gateway_is_asked() {
        let ip = |s: &str| s.parse::<Ipv4Addr>().expect("an address");
        let way = |gateway: &str, local: &str| WayOut { index: 3, gateway: ip(gateway), local: ip(local) };
        let home = way("192.168.1.1", "192.168.1.9");
        let there = [IpAddr::from([192, 168, 1, 9]), IpAddr::from([192, 168, 1, 10])];
        let asked = |bind: &[&str], way| {
            let ips = bind.iter().map(|s| s.parse().expect("an address")).collect();
            reason(&Bound { ips, device: None }, way, &there)
        };
        assert_eq!(asked(&[], home), Ok(home));
        assert_eq!(asked(&["192.168.1.9"], home), Ok(home));
        assert_eq!(asked(&["::1", "192.168.1.10"], home), Ok(way("192.168.1.1", "192.168.1.10")), "our other address");
        assert_eq!(asked(&["0.0.0.0", "::"], home), Ok(home));
        let why = |bind: &[&str], way| asked(bind, way).expect_err("no reason to");
        assert_eq!(why(&["::"], home), "nothing listens on IPv4");
        assert_eq!(why(&["10.0.0.1"], home), "10.0.0.1 is not on the gateway's network");
        assert_eq!(why(&["127.0.0.1"], home), "127.0.0.1 is not on the gateway's network");
        assert_eq!(why(&[], way("192.168.1.1", "203.0.113.5")), "203.0.113.5 is no private address");
        assert_eq!(why(&[], way("203.0.113.1", "10.0.0.5")), "the gateway 203.0.113.1 has no private address");
    }

    #[test]
    fn the_loopback_alone_is_nobody_s_to_reach_and_an_interface_that_is_gone_leads_nowhere() {
        let local = Bound { ips: vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()], device: None };
        let gone = Bound { ips: Vec::new(), device: Some("not-there0".into()) };
        for bound in [local, gone] {
            assert_eq!(look(&bound).expect("the kernel tells"), None);
            let poll = mio::Poll::new().expect("a poll");
            let registry = poll.registry().try_clone().expect("a registry");
            let mut p = Portmap::start(registry, 0, Instant::ZERO, &bound, 1, [0; 20]);
            p.turn(Instant::FAR);
            p.leave(Instant::ZERO);
            assert_eq!((p.poll(), p.timeout(), p.has_left(), p.is_ready()), (None, None, true, false));
        }
    }
}
