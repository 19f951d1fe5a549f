//! Name lookup on the loop. (being written)

use std::collections::VecDeque;
use std::net::IpAddr;
use std::{fmt, io};

use crate::time::Instant;

/// Why a name could not be looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResolveError {
    /// Not a host name.
    BadName,
    /// The servers say that it does not exist or has no address.
    NotFound,
    /// No server answered in time.
    Timeout,
    /// The servers answered with an error; the last response code.
    Server(u8),
    /// Too many lookups at once.
    Busy,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName => f.write_str("not a host name"),
            Self::NotFound => f.write_str("no such name"),
            Self::Timeout => f.write_str("no name server answered"),
            Self::Server(code) => write!(f, "the name server failed (code {code})"),
            Self::Busy => f.write_str("too many lookups"),
        }
    }
}

impl std::error::Error for ResolveError {}

/// Looks up host names without blocking.
pub trait Resolve {
    /// Starts a lookup; `id` comes back with the answer.
    fn lookup(&mut self, now: Instant, id: u64, host: &str);
    /// The next finished lookup. Also drives time-outs: call it after `on_ready` and at `deadline`.
    fn poll(&mut self, now: Instant) -> Option<(u64, Result<Vec<IpAddr>, ResolveError>)>;
    /// When `poll` wants to be called next.
    fn deadline(&self) -> Option<Instant>;
    /// A socket of ours is ready.
    fn on_ready(&mut self, now: Instant, token: mio::Token);
}

/// A stub resolver over mio sockets.
#[derive(Debug)]
pub struct DnsResolver {
    done: VecDeque<(u64, Result<Vec<IpAddr>, ResolveError>)>,
}

impl DnsResolver {
    /// A resolver that registers its sockets with tokens `first_token..first_token + tokens`.
    pub fn new(_registry: mio::Registry, _first_token: usize, _tokens: usize, _seed: u64) -> io::Result<Self> {
        Ok(Self { done: VecDeque::new() })
    }
}

impl Resolve for DnsResolver {
    fn lookup(&mut self, _now: Instant, id: u64, host: &str) {
        self.done.push_back((id, host.parse().map(|ip| vec![ip]).map_err(|_| ResolveError::NotFound)));
    }
    fn poll(&mut self, _now: Instant) -> Option<(u64, Result<Vec<IpAddr>, ResolveError>)> {
        self.done.pop_front()
    }
    fn deadline(&self) -> Option<Instant> {
        (!self.done.is_empty()).then_some(Instant::ZERO)
    }
    fn on_ready(&mut self, _now: Instant, _token: mio::Token) {}
}
