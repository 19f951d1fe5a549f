//! One name's lookup: its questions, its socket, its clock.
//!
//! ```text
//! begin -> attempt(UDP) -> on_ready -> both families settled -> Outcome
//!             ^                |         none found: the next candidate name (search domains)
//!             |                |-> truncated: TCP to the same server
//!             |                '-> failed, and none found: the next attempt
//!             '-- on_time: no answer in time
//! ```
//!
//! Attempt `n` asks server `n` modulo their number; there are `attempts` times servers of them, as
//! long as the lookup's patience lasts. What one family has learnt is kept over attempts.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};

use super::super::bound::Bound;
use super::dns::{self, Answer, Family};
use super::files::Conf;
use super::{GRACE, ResolveError};
use crate::rng::Rng;
use crate::time::Instant;

/// Most aliases followed by asking anew.
const ALIASES: u8 = 8;
/// Most datagrams, or pieces of a stream, looked at in one go; more are a flood.
const DATAGRAMS: usize = 32;

/// How a lookup ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Addresses and the seconds they hold.
    Found(Vec<IpAddr>, u32),
    /// There are none, and the seconds that holds.
    NotFound(u32),
    Failed(ResolveError),
}

#[derive(Debug)]
enum State {
    /// To be asked on the socket there is.
    Unasked,
    /// Sent.
    Asked,
    /// To be asked over TCP.
    Truncated,
    Found(Vec<IpAddr>, u32),
    None(u32),
    Failed(u8),
}

/// The question for one family.
#[derive(Debug)]
struct Ask {
    family: Family,
    id: u16,
    /// The name, or what it is an alias of.
    name: String,
    aliases: u8,
    state: State,
}

#[derive(Debug)]
enum Socket {
    None,
    Udp(UdpSocket),
    Tcp { stream: TcpStream, out: Vec<u8>, input: Vec<u8> },
}

#[derive(Debug)]
pub(super) struct Lookup {
    token: Token,
    host: String,
    ids: Vec<u64>,
    conf: Conf,
    bound: Arc<Bound>,
    /// Names still to be tried, the next one last.
    candidates: Vec<String>,
    asks: [Ask; 2],
    socket: Socket,
    attempt: u32,
    /// When this attempt is over.
    attempt_until: Instant,
    /// When all is.
    until: Instant,
    last_error: ResolveError,
}

impl Lookup {
    pub(super) fn new(
        token: Token,
        host: String,
        ids: Vec<u64>,
        conf: Conf,
        bound: Arc<Bound>,
        until: Instant,
    ) -> Self {
        let mut candidates = vec![host.clone()];
        if !host.contains('.') {
            let searched = conf.search.iter().rev().map(|domain| format!("{host}.{domain}"));
            candidates.extend(searched.filter(|name| super::is_name(name)));
        }
        let ask = |family| Ask { family, id: 0, name: String::new(), aliases: 0, state: State::Unasked };
        Self {
            token,
            host,
            ids,
            conf,
            bound,
            candidates,
            asks: [ask(Family::V4), ask(Family::V6)],
            socket: Socket::None,
            attempt: 0,
            attempt_until: until,
            until,
            last_error: ResolveError::Timeout,
        }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Who wants to know.
    pub(super) fn ids(&mut self) -> &mut Vec<u64> {
        &mut self.ids
    }

    pub(super) fn into_parts(self) -> (String, Vec<u64>) {
        (self.host, self.ids)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.attempt_until.min(self.until)
    }

    /// Starts with the first candidate name.
    pub(super) fn begin(&mut self, now: Instant, registry: &Registry, rng: &mut Rng) -> Option<Outcome> {
        let Some(name) = self.candidates.pop() else { return Some(Outcome::Failed(ResolveError::BadName)) };
        for ask in &mut self.asks {
            ask.name.clone_from(&name);
            ask.aliases = 0;
            ask.state = State::Unasked;
        }
        self.attempt = 0;
        self.attempt(now, registry, rng)
    }

    pub(super) fn on_time(&mut self, now: Instant, registry: &Registry, rng: &mut Rng) -> Option<Outcome> {
        if now < self.deadline() {
            return None;
        }
        if let Some(found) = self.found() {
            return Some(found);
        }
        if now >= self.until {
            return Some(Outcome::Failed(self.last_error.clone()));
        }
        self.next_attempt(now, registry, rng, ResolveError::Timeout)
    }

    pub(super) fn on_ready(&mut self, now: Instant, registry: &Registry, rng: &mut Rng) -> Option<Outcome> {
        let received = self.receive();
        if received.is_err() && self.asks.iter().any(|a| matches!(a.state, State::Asked)) {
            // Refused, unreachable, closed: no use in waiting for this server.
            return self.next_attempt(now, registry, rng, ResolveError::Timeout);
        }
        self.advance(now, registry, rng)
    }

    /// Drops the socket.
    pub(super) fn close(&mut self, registry: &Registry) {
        // A failure means that it was not registered, which is what we want.
        let _ = match &mut self.socket {
            Socket::None => Ok(()),
            Socket::Udp(s) => registry.deregister(s),
            Socket::Tcp { stream, .. } => registry.deregister(stream),
        };
        self.socket = Socket::None;
    }

    fn server(&self) -> SocketAddr {
        self.conf.servers[self.attempt as usize % self.conf.servers.len()]
    }

    /// When to stop waiting for what is asked now.
    fn patience(&self, now: Instant) -> Instant {
        let found = self.asks.iter().any(|a| matches!(a.state, State::Found(..)));
        now + if found { GRACE } else { self.conf.timeout }
    }

    fn next_attempt(&mut self, now: Instant, registry: &Registry, rng: &mut Rng, why: ResolveError) -> Option<Outcome> {
        self.last_error = why;
        self.attempt += 1;
        self.attempt(now, registry, rng)
    }

    /// Asks what is not settled of the server whose turn it is; of the next one if that cannot be done.
    fn attempt(&mut self, now: Instant, registry: &Registry, rng: &mut Rng) -> Option<Outcome> {
        let attempts = self.conf.attempts.saturating_mul(self.conf.servers.len() as u32);
        while self.attempt < attempts {
            self.close(registry);
            for ask in &mut self.asks {
                if matches!(ask.state, State::Asked | State::Failed(_) | State::Truncated) {
                    ask.state = State::Unasked;
                }
            }
            self.attempt_until = self.patience(now);
            if self.open_udp(registry, rng).is_ok() {
                return None;
            }
            self.attempt += 1;
        }
        self.found().or_else(|| Some(Outcome::Failed(self.last_error.clone())))
    }

    fn open_udp(&mut self, registry: &Registry, rng: &mut Rng) -> io::Result<()> {
        let server = self.server();
        let socket = self.bound.outgoing(server.is_ipv6(), socket2::Type::DGRAM)?;
        socket.connect(&server.into())?;
        let mut socket = UdpSocket::from_std(socket.into());
        registry.register(&mut socket, self.token, Interest::READABLE)?;
        self.socket = Socket::Udp(socket);
        self.send(rng)
    }

    /// Sends what is unasked, each under an id of its own.
    fn send(&mut self, rng: &mut Rng) -> io::Result<()> {
        for i in 0..self.asks.len() {
            if !matches!(self.asks[i].state, State::Unasked) {
                continue;
            }
            let (other, ask) = (self.asks[1 - i].id, &mut self.asks[i]);
            ask.id = rng.u16(..);
            if ask.id == other {
                ask.id ^= 1;
            }
            let Some(message) = dns::question(ask.id, &ask.name, ask.family) else {
                ask.state = State::None(0);
                continue;
            };
            ask.state = State::Asked;
            match &mut self.socket {
                Socket::None => {}
                Socket::Udp(socket) => match socket.send(&message) {
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                    // A full buffer is a lost datagram: the next attempt sends it again.
                    _ => {}
                },
                Socket::Tcp { stream, out, .. } => {
                    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
                    out.extend_from_slice(&message);
                    flush(stream, out)?;
                }
            }
        }
        Ok(())
    }

    /// Asks the same server again over TCP what it had to cut.
    fn open_tcp(&mut self, registry: &Registry, rng: &mut Rng) -> io::Result<()> {
        self.close(registry);
        let server = self.server();
        let socket = self.bound.outgoing(server.is_ipv6(), socket2::Type::STREAM)?;
        match socket.connect(&server.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE)?;
        self.socket = Socket::Tcp { stream, out: Vec::new(), input: Vec::new() };
        for ask in &mut self.asks {
            if matches!(ask.state, State::Truncated) {
                ask.state = State::Unasked;
            }
        }
        self.send(rng)
    }

    /// Reads what has come, and over TCP writes what can be. The end of a stream is an error.
    fn receive(&mut self) -> io::Result<()> {
        let mut buf = [0u8; 4096];
        match &mut self.socket {
            Socket::None => Ok(()),
            Socket::Udp(socket) => {
                for _ in 0..DATAGRAMS {
                    match socket.recv(&mut buf) {
                        Ok(n) => on_message(&mut self.asks, &buf[..n], false),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
                Err(io::ErrorKind::InvalidData.into())
            }
            Socket::Tcp { stream, out, input } => {
                flush(stream, out)?;
                for _ in 0..DATAGRAMS {
                    match stream.read(&mut buf) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(n) => input.extend_from_slice(&buf[..n]),
                        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                            return Ok(());
                        }
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                    while let Some((len, rest)) = input.split_first_chunk::<2>() {
                        let len = usize::from(u16::from_be_bytes(*len));
                        if len > dns::MESSAGE {
                            return Err(io::ErrorKind::InvalidData.into());
                        }
                        let Some(message) = rest.get(..len) else { break };
                        on_message(&mut self.asks, message, true);
                        input.drain(..2 + len);
                    }
                }
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    /// Goes on with what has been learnt.
    fn advance(&mut self, now: Instant, registry: &Registry, rng: &mut Rng) -> Option<Outcome> {
        let any = |this: &Self, f: fn(&State) -> bool| this.asks.iter().any(|a| f(&a.state));
        let sent = if any(self, |s| matches!(s, State::Unasked)) {
            self.send(rng)
        } else if !any(self, |s| matches!(s, State::Asked)) && any(self, |s| matches!(s, State::Truncated)) {
            self.attempt_until = self.patience(now);
            self.open_tcp(registry, rng)
        } else {
            Ok(())
        };
        if sent.is_err() {
            return self.next_attempt(now, registry, rng, ResolveError::Timeout);
        }
        if any(self, |s| matches!(s, State::Asked)) {
            self.attempt_until = self.attempt_until.min(self.patience(now));
            return None;
        }
        if let Some(found) = self.found() {
            return Some(found);
        }
        let failed = self.asks.iter().find_map(|a| match a.state {
            State::Failed(code) => Some(code),
            _ => None,
        });
        if let Some(code) = failed {
            return self.next_attempt(now, registry, rng, ResolveError::Server(code));
        }
        if self.candidates.is_empty() {
            let ttls = self.asks.iter().filter_map(|a| match a.state {
                State::None(ttl) => Some(ttl),
                _ => None,
            });
            return Some(Outcome::NotFound(ttls.min().unwrap_or(0)));
        }
        self.begin(now, registry, rng)
    }

    /// Both families' addresses, IPv4 first, if there are any.
    fn found(&mut self) -> Option<Outcome> {
        let (mut all, mut least) = (Vec::new(), u32::MAX);
        for ask in &self.asks {
            if let State::Found(ips, ttl) = &ask.state {
                all.extend_from_slice(ips);
                least = least.min(*ttl);
            }
        }
        (!all.is_empty()).then_some(Outcome::Found(all, least))
    }
}

/// Writes what the stream takes. Before it is connected that is nothing.
fn flush(stream: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(n) => _ = out.drain(..n),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Enters an answer into the question it belongs to; what belongs to none is ignored.
fn on_message(asks: &mut [Ask; 2], message: &[u8], tcp: bool) {
    for ask in asks {
        if !matches!(ask.state, State::Asked) {
            continue;
        }
        let Some(answer) = dns::answer(message, ask.id, &ask.name, ask.family) else { continue };
        match answer {
            Answer::Truncated if tcp => ask.state = State::Failed(0),
            Answer::Truncated => ask.state = State::Truncated,
            Answer::Found(ips, ttl) => ask.state = State::Found(ips, ttl),
            Answer::None(ttl) => ask.state = State::None(ttl),
            Answer::Failed(code) => ask.state = State::Failed(code),
            Answer::Alias(name) if ask.aliases < ALIASES && super::is_name(&name) => {
                ask.aliases += 1;
                ask.name = name;
                ask.state = State::Unasked;
            }
            Answer::Alias(_) => ask.state = State::None(0),
        }
        return;
    }
}
