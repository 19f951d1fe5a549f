//! Name lookup on the loop: a stub resolver over mio sockets, since `getaddrinfo` blocks for seconds.
//!
//! ```text
//! lookup -> literal, localhost, hosts file, cache ----------------------------> answer
//!        -> waiting for a slot -> UDP: A and AAAA -> truncated? TCP ----------> answer
//!                                  ^   |  alias out of the answer: ask for that
//!                                  |___|  no or bad answer: the next server, the next attempt
//! ```
//!
//! Each lookup in progress owns a slot: one token, one socket at a time. Every attempt has a fresh
//! socket (so a fresh port of the system's choice), connected to its server (so that the kernel
//! drops datagrams from elsewhere), and fresh random ids. IPv4 addresses come first in an answer.
//! When one family has been answered, the other has [`GRACE`] left.
//!
//! Not done: DNSSEC, EDNS, mDNS, NSS modules, internationalised names. Answers from the cache are
//! not older than their time to live; all of it is bounded.
//!
//! Invariants: each `lookup` is answered once, after [`PATIENCE`] at the latest if `poll` is called
//! at `deadline`; a slot's token means nothing once its lookup is over, late readiness is ignored.
//!
//! [RFC 1034](https://www.rfc-editor.org/rfc/rfc1034), [RFC 1035](https://www.rfc-editor.org/rfc/rfc1035),
//! [RFC 5452](https://www.rfc-editor.org/rfc/rfc5452) (forged answers)

mod dns;
mod files;
mod lookup;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::{fmt, io};

use super::bound::Bound;
use crate::config::limits;
use crate::rng::{self, Rng};
use crate::time::{Duration, Instant, earlier};
use lookup::{Lookup, Outcome};

/// Every lookup ends within this.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How much longer the other address family may take.
pub const GRACE: Duration = Duration::from_secs(1);
/// How old what was read from the files may be.
const FRESH: Duration = Duration::from_secs(10);
/// Shortest and longest time an answer is remembered, in seconds.
const TTL: (u32, u32) = (5, 3600);
/// Longest time that "no such name" is remembered, in seconds.
const TTL_NEGATIVE: u32 = 300;

/// Reads a name server's answer to question 0 for `name`: how many addresses it gives. For the fuzzer,
/// which has no server to be.
#[doc(hidden)]
pub fn read_answer(bytes: &[u8], name: &str, v4: bool) -> Option<usize> {
    let family = if v4 { dns::Family::V4 } else { dns::Family::V6 };
    dns::answer(bytes, 0, name, family).map(|a| if let dns::Answer::Found(ips, _) = a { ips.len() } else { 0 })
}

/// Reads hosts(5) and resolv.conf(5): the name servers, the search domains and how many names have an
/// address of their own. For the fuzzer too.
#[doc(hidden)]
pub fn read_files(hosts: &str, resolv_conf: &str) -> (Vec<SocketAddr>, Vec<String>, usize) {
    let conf = files::conf(resolv_conf);
    (conf.servers, conf.search, files::hosts(hosts).len())
}

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
    /// The next finished lookup. Also drives time-outs: call it until it is empty, after `lookup`
    /// and `on_ready` and at `deadline`.
    fn poll(&mut self, now: Instant) -> Option<(u64, Result<Vec<IpAddr>, ResolveError>)>;
    /// When `poll` wants to be called next.
    fn deadline(&self) -> Option<Instant>;
    /// A socket of ours is ready. Ignored when `token` is not ours.
    fn on_ready(&mut self, now: Instant, token: mio::Token);
}

/// Where the system's settings are; tests have their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sources {
    /// hosts(5).
    pub hosts: PathBuf,
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// Name servers to use in place of those in `resolv_conf`.
    pub servers: Option<Vec<SocketAddr>>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), servers: None }
    }
}

struct Cached {
    answer: Result<Vec<IpAddr>, ResolveError>,
    until: Instant,
}

/// A name that waits for a slot.
struct Waiting {
    host: String,
    ids: Vec<u64>,
    until: Instant,
}

/// A stub resolver over mio sockets; see the module.
pub struct DnsResolver {
    registry: mio::Registry,
    first_token: usize,
    /// Lookups under way, by token; as long as the last of them needs.
    slots: Vec<Option<Lookup>>,
    /// Tokens that may be used.
    most: usize,
    waiting: VecDeque<Waiting>,
    done: VecDeque<(u64, Result<Vec<IpAddr>, ResolveError>)>,
    cache: BTreeMap<String, Cached>,
    sources: Sources,
    bound: Arc<Bound>,
    conf: files::Conf,
    hosts: files::Hosts,
    /// When the files were read.
    read_at: Option<Instant>,
    rng: Rng,
}

impl DnsResolver {
    /// A resolver that registers its sockets with tokens `first_token..first_token + tokens`; that
    /// many lookups run at once. `seed` comes from the operating system's dice.
    pub fn new(registry: mio::Registry, first_token: usize, tokens: usize, seed: u64) -> io::Result<Self> {
        Self::with_sources(registry, first_token, tokens, seed, Sources::default())
    }

    /// From now on name servers are asked from there only.
    pub(super) fn bind_to(&mut self, bound: Bound) {
        self.bound = Arc::new(bound);
    }

    /// The same with settings from elsewhere.
    pub fn with_sources(
        registry: mio::Registry,
        first_token: usize,
        tokens: usize,
        seed: u64,
        sources: Sources,
    ) -> io::Result<Self> {
        if tokens == 0 || first_token.checked_add(tokens).is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a resolver needs tokens"));
        }
        Ok(Self {
            registry,
            first_token,
            slots: Vec::new(),
            most: tokens,
            waiting: VecDeque::new(),
            done: VecDeque::new(),
            cache: BTreeMap::new(),
            sources,
            bound: Arc::default(),
            conf: files::conf(""),
            hosts: files::Hosts::new(),
            read_at: None,
            rng: rng::seeded(seed),
        })
    }

    /// Reads the files again when what we have is old.
    fn refresh(&mut self, now: Instant) {
        if self.read_at.is_some_and(|at| now - at < FRESH) {
            return;
        }
        self.read_at = Some(now);
        if let Some(text) = files::read(&self.sources.hosts) {
            self.hosts = files::hosts(&text);
        }
        if let Some(text) = files::read(&self.sources.resolv_conf) {
            self.conf = files::conf(&text);
        }
        if let Some(servers) = self.sources.servers.as_ref().filter(|s| !s.is_empty()) {
            self.conf.servers.clone_from(servers);
        }
    }

    /// What is known without asking anybody. `host` is lower-case.
    fn known(&mut self, now: Instant, host: &str) -> Option<Result<Vec<IpAddr>, ResolveError>> {
        if let Ok(ip) = host.parse() {
            return Some(Ok(vec![ip]));
        }
        if host == "localhost" || host.ends_with(".localhost") {
            return Some(Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
        }
        if !is_name(host) {
            return Some(Err(ResolveError::BadName));
        }
        self.refresh(now);
        if let Some(ips) = self.hosts.get(host) {
            return Some(Ok(ips.clone()));
        }
        self.cache.get(host).filter(|c| now < c.until).map(|c| c.answer.clone())
    }

    fn remember(&mut self, now: Instant, host: String, answer: Result<Vec<IpAddr>, ResolveError>, ttl: u32) {
        self.cache.retain(|_, c| now < c.until);
        if self.cache.len() >= limits::NAMES_CACHED {
            let soonest = self.cache.iter().min_by_key(|(_, c)| c.until).map(|(host, _)| host.clone());
            soonest.and_then(|host| self.cache.remove(&host));
        }
        let until = now + Duration::from_secs(u64::from(ttl));
        self.cache.insert(host, Cached { answer, until });
    }

    /// Gives free slots to who waits, and ends what has waited too long.
    fn fill_slots(&mut self, now: Instant) {
        while self.waiting.front().is_some_and(|w| now >= w.until) {
            if let Some(w) = self.waiting.pop_front() {
                self.done.extend(w.ids.into_iter().map(|id| (id, Err(ResolveError::Timeout))));
            }
        }
        while !self.waiting.is_empty() {
            let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
            if slot == self.most {
                return;
            }
            let Some(w) = self.waiting.pop_front() else { return };
            let token = mio::Token(self.first_token + slot);
            let mut lookup = Lookup::new(token, w.host, w.ids, self.conf.clone(), Arc::clone(&self.bound), w.until);
            let outcome = lookup.begin(now, &self.registry, &mut self.rng);
            if slot == self.slots.len() {
                self.slots.push(None);
            }
            self.slots[slot] = Some(lookup);
            self.conclude(now, slot, outcome);
        }
    }

    /// Frees the slot when its lookup is over.
    fn conclude(&mut self, now: Instant, slot: usize, outcome: Option<Outcome>) {
        let Some(outcome) = outcome else { return };
        let Some(mut lookup) = self.slots[slot].take() else { return };
        lookup.close(&self.registry);
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
        let (host, ids) = lookup.into_parts();
        let (answer, ttl) = match outcome {
            Outcome::Found(ips, ttl) => (Ok(ips), Some(ttl.clamp(TTL.0, TTL.1))),
            Outcome::NotFound(ttl) => (Err(ResolveError::NotFound), Some(ttl.clamp(TTL.0, TTL_NEGATIVE))),
            Outcome::Failed(e) => (Err(e), None),
        };
        self.done.extend(ids.into_iter().map(|id| (id, answer.clone())));
        if let Some(ttl) = ttl {
            self.remember(now, host, answer, ttl);
        }
    }
}

impl Resolve for DnsResolver {
    fn lookup(&mut self, now: Instant, id: u64, host: &str) {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if let Some(answer) = self.known(now, &host) {
            self.done.push_back((id, answer));
            return;
        }
        let room = self.waiting.len() < limits::NAMES_WAITING;
        let running = self.slots.iter_mut().flatten().find(|l| l.host() == host).map(Lookup::ids);
        let waiting = self.waiting.iter_mut().find(|w| w.host == host).map(|w| &mut w.ids);
        match running.or(waiting) {
            Some(ids) if ids.len() < limits::NAMES_WAITING => ids.push(id),
            None if room => {
                self.waiting.push_back(Waiting { host, ids: vec![id], until: now + PATIENCE });
                self.fill_slots(now);
            }
            _ => self.done.push_back((id, Err(ResolveError::Busy))),
        }
    }

    fn poll(&mut self, now: Instant) -> Option<(u64, Result<Vec<IpAddr>, ResolveError>)> {
        // From the last on, because those that end make the list shorter.
        for slot in (0..self.slots.len()).rev() {
            let Some(Some(lookup)) = self.slots.get_mut(slot) else { continue };
            let outcome = lookup.on_time(now, &self.registry, &mut self.rng);
            self.conclude(now, slot, outcome);
        }
        self.fill_slots(now);
        self.done.pop_front()
    }

    fn deadline(&self) -> Option<Instant> {
        if !self.done.is_empty() {
            return Some(Instant::ZERO);
        }
        let slots = self.slots.iter().flatten().map(Lookup::deadline).min();
        earlier(slots, self.waiting.front().map(|w| w.until))
    }

    fn on_ready(&mut self, now: Instant, token: mio::Token) {
        let Some(slot) = token.0.checked_sub(self.first_token).filter(|&s| s < self.slots.len()) else { return };
        if let Some(lookup) = &mut self.slots[slot] {
            let outcome = lookup.on_ready(now, &self.registry, &mut self.rng);
            self.conclude(now, slot, outcome);
        }
    }
}

impl fmt::Debug for DnsResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsResolver")
            .field("conf", &self.conf)
            .field("running", &self.slots.iter().flatten().count())
            .field("waiting", &self.waiting.len())
            .field("cached", &self.cache.len())
            .finish_non_exhaustive()
    }
}

/// A name that may be asked for: what a host name may hold, and `_`; not an address in disguise.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|l| (1..=63).contains(&l.len()))
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
