//! Port mapping's sockets: one for datagrams to the gateway, a stream now and then for UPnP.
//!
//! Nothing is sent unless there is reason to: we listen on IPv4, not on the loopback alone, there is a default gateway,
//! and both it and our own address on its network are private ones, so that there is a translation
//! between us and the rest of the world. The machine itself is [`portmap::Mapper`].
//!
//! [`portmap::Mapper`]: crate::portmap::Mapper

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::http::ResponseReader;
use crate::portmap::{Event, Fetch, Mapper, Setup, wire};
use crate::time::{Duration, Instant, earlier};
use crate::tracker::http::Reach;

/// Where Linux tells its routes.
const ROUTES: &str = "/proc/net/route";
/// Largest body of a gateway's answer.
const BODY: usize = 64 << 10;
/// How long leaving waits for the gateway.
const GOODBYE: Duration = Duration::from_secs(2);
/// Tokens in use: datagrams, the stream.
pub(super) const TOKENS: usize = 2;

/// A request under way.
struct Stream {
    id: u32,
    tcp: TcpStream,
    request: Vec<u8>,
    reader: ResponseReader,
}

/// A mapper and its sockets.
pub(super) struct Portmap {
    mapper: Mapper,
    registry: Registry,
    token: usize,
    udp: UdpSocket,
    stream: Option<Stream>,
    local: Ipv4Addr,
    leave: Option<Instant>,
}

/// The gateway of the default route with the lowest metric, from the text of `/proc/net/route`.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let hex = |i: usize| fields.get(i).and_then(|f| u32::from_str_radix(f, 16).ok());
        let (to, via, flags, mask) = (hex(1)?, hex(2)?, hex(3)?, hex(7)?);
        let metric = fields.get(6)?.parse::<u32>().ok()?;
        // Up, by way of a gateway, to everywhere. The numbers are in the machine's own order of bytes.
        (to == 0 && mask == 0 && flags & 3 == 3 && via != 0).then(|| (metric, Ipv4Addr::from(via.to_ne_bytes())))
    };
    routes.lines().skip(1).filter_map(route).min_by_key(|(metric, _)| *metric).map(|(_, via)| via)
}

/// Why the gateway need not, or must not, be asked.
fn reason_against(bind: &[IpAddr], gateway: Ipv4Addr, local: Ipv4Addr) -> Option<String> {
    let own = bind.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let private = |ip: Ipv4Addr| Reach::of(ip.into()) == Reach::Private;
    match own {
        None if !bind.is_empty() => Some("nothing listens on IPv4".to_owned()),
        Some(ip) if !ip.is_unspecified() && ip != local => Some(format!("{ip} is not on the gateway's network")),
        _ if !private(local) => Some(format!("{local} is no private address")),
        _ if !private(gateway) => Some(format!("the gateway {gateway} has no private address")),
        _ => None,
    }
}

/// Our address on the way to `to`. Sends nothing.
fn local_towards(to: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((to, wire::PORT))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

impl Portmap {
    /// Begins, if there is reason to: see the module. `token` is the first of [`TOKENS`].
    pub(super) fn start(
        registry: Registry,
        token: usize,
        now: Instant,
        bind: &[IpAddr],
        port: u16,
        secret: [u8; 20],
    ) -> Option<Self> {
        if !bind.is_empty() && bind.iter().all(IpAddr::is_loopback) {
            return None;
        }
        let routes = std::fs::read_to_string(ROUTES).ok()?;
        let gateway = gateway(&routes)?;
        let local = local_towards(gateway).ok()?;
        if let Some(why) = reason_against(bind, gateway, local) {
            log::debug!("no port mapping: {why}");
            return None;
        }
        let udp = match open(local).and_then(|mut udp| {
            registry.register(&mut udp, Token(token), Interest::READABLE)?;
            Ok(udp)
        }) {
            Ok(udp) => udp,
            Err(e) => {
                log::info!("no port mapping: {e}");
                return None;
            }
        };
        log::debug!("port mapping: asking {gateway} for port {port}, from {local}");
        let mapper = Mapper::new(now, Setup { gateway, local, port, secret });
        let mut this = Self { mapper, registry, token, udp, stream: None, local, leave: None };
        this.drive(now);
        Some(this)
    }

    /// One of its sockets has something.
    pub(super) fn on_ready(&mut self, now: Instant, i: usize) {
        if i == 0 {
            let mut buf = [0; 2048];
            // Few come, and those of one turn are all there will be.
            loop {
                match self.udp.recv_from(&mut buf) {
                    Ok((n, from)) => self.mapper.handle_datagram(now, from, &buf[..n]),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => {
                        self.mapper.on_unsent(now, &e.to_string());
                        break;
                    }
                }
            }
        } else if let Some(result) = self.stream.as_mut().and_then(Stream::go_on) {
            let id = self.stream.take().map_or(0, |s| s.id);
            self.mapper.fetched(now, id, result);
        }
        self.drive(now);
    }

    /// Does what is due, and what follows from it. The port that is forwarded to peers', when it has become known.
    pub(super) fn turn(&mut self, now: Instant) -> Option<u16> {
        if self.mapper.poll_timeout().is_some_and(|at| at <= now) {
            self.mapper.tick(now);
            self.drive(now);
        }
        let mut port = None;
        while let Some(event) = self.mapper.poll_event() {
            match event {
                Event::Mapped { protocol, external, address, by } => {
                    let at = address.map_or_else(|| "the gateway's address".to_owned(), |ip| ip.to_string());
                    log::info!("{} port {external} of {at} is forwarded to {} ({by})", protocol.name(), self.local);
                    if protocol == wire::Protocol::Tcp {
                        port = Some(external);
                    }
                }
                Event::Failed(why) => log::info!("the gateway forwards no port: {why}"),
            }
        }
        port
    }

    /// When to take a turn.
    pub(super) fn timeout(&self) -> Option<Instant> {
        earlier(self.mapper.poll_timeout(), self.leave)
    }

    /// Takes the mappings back.
    pub(super) fn leave(&mut self, now: Instant) {
        self.leave = Some(now + GOODBYE);
        self.mapper.leave(now);
        self.drive(now);
    }

    /// The gateway has been told, or has had its time.
    pub(super) fn has_left(&self, now: Instant) -> bool {
        self.mapper.has_left() || self.leave.is_some_and(|at| at <= now)
    }

    fn drive(&mut self, now: Instant) {
        while let Some((to, data)) = self.mapper.poll_datagram() {
            match self.udp.send_to(&data, to) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => self.mapper.on_unsent(now, &e.to_string()),
            }
        }
        while let Some(fetch) = self.mapper.poll_fetch(now) {
            let id = fetch.id;
            match self.open_stream(fetch) {
                Ok(stream) => self.stream = Some(stream),
                Err(e) => self.mapper.fetched(now, id, Err(e.to_string())),
            }
        }
    }

    fn open_stream(&mut self, fetch: Fetch) -> io::Result<Stream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(self.local.into(), 0).into())?;
        match socket.connect(&fetch.to.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let mut tcp = TcpStream::from_std(socket.into());
        self.registry.register(&mut tcp, Token(self.token + 1), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Stream { id: fetch.id, tcp, request: fetch.request, reader: ResponseReader::new(BODY) })
    }
}

impl Stream {
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

/// A socket for the gateway and for searches on its network.
fn open(local: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_if_v4(&local)?;
    socket.set_multicast_ttl_v4(2)?;
    socket.bind(&SocketAddr::new(local.into(), 0).into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as this machine would write it.
    fn line(to: [u8; 4], via: [u8; 4], flags: u32, metric: u32, mask: [u8; 4]) -> String {
        let n = u32::from_ne_bytes;
        format!("eth0\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{metric}\t{:08X}\t0\t0\t0\n", n(to), n(via), n(mask))
    }

    #[test]
    fn the_default_gateway() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let zero = [0; 4];
        let text = [
            head.to_owned(),
            line([10, 0, 0, 0], zero, 1, 0, [255, 0, 0, 0]),
            line([10, 9, 0, 0], [10, 0, 0, 9], 3, 0, [255, 255, 0, 0]),
            line(zero, [192, 168, 1, 254], 3, 600, zero),
            line(zero, [192, 168, 1, 1], 3, 100, zero),
            line(zero, [192, 168, 1, 2], 2, 0, zero),
            line(zero, zero, 1, 0, zero),
            "eth0 nonsense\n".to_owned(),
        ]
        .concat();
        assert_eq!(gateway(&text), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(gateway(head), None);
        assert_eq!(gateway(""), None);
    }

    #[test]
    fn when_a_gateway_is_asked() {
        let ip = |s: &str| s.parse::<Ipv4Addr>().expect("an address");
        let (gate, local) = (ip("192.168.1.1"), ip("192.168.1.9"));
        let against = |bind: &[&str], gateway, local| {
            let bind: Vec<IpAddr> = bind.iter().map(|s| s.parse().expect("an address")).collect();
            reason_against(&bind, gateway, local)
        };
        assert_eq!(against(&[], gate, local), None);
        assert_eq!(against(&["192.168.1.9"], gate, local), None);
        assert_eq!(against(&["0.0.0.0", "::"], gate, local), None);
        assert!(against(&["::"], gate, local).is_some());
        assert!(against(&["10.0.0.1"], gate, local).is_some());
        assert!(against(&["127.0.0.1"], gate, local).is_some());
        assert!(against(&[], gate, ip("203.0.113.5")).is_some(), "it needs no translation");
        assert!(against(&[], ip("203.0.113.1"), local).is_some(), "that is no home's gateway");
        assert!(against(&[], ip("127.0.0.1"), ip("127.0.0.1")).is_some());
    }

    #[test]
    fn the_loopback_alone_is_nobody_s_to_reach() {
        let poll = mio::Poll::new().expect("a poll");
        let registry = poll.registry().try_clone().expect("a registry");
        let bind = ["127.0.0.1".parse().expect("an address"), "::1".parse().expect("an address")];
        assert!(Portmap::start(registry, 0, Instant::ZERO, &bind, 1, [0; 20]).is_none());
    }
}
