//! Asks the home's gateway to forward our port, so that peers outside can dial us: PCP, NAT-PMP, UPnP.
//!
//! ```text
//!            silent, or an error          silent, or an error          silent, or an error
//!   PCP ───────────────────────▶ NAT-PMP ─────────────────────▶ UPnP ─────────────────────▶ again, in a minute at
//!    └── held, renewed at half time ──┴── held, renewed ─────────┘ held, renewed            first, then ever later
//! ```
//!
//! One mapping for TCP and one for UDP, of the same port. All of it is IPv4: where there is IPv6, hosts have
//! addresses of their own. Nothing is believed but what comes from the gateway itself: datagrams by their source,
//! UPnP's descriptions by where they point to. A gateway that is silent when a mapping is to be renewed is asked again
//! after half of what is left of it, and given up when that is over. On leaving the mappings are taken back, as far as
//! that can be said in one datagram, or a request each.
//!
//! A machine without sockets: the driver sends [`Mapper::poll_datagram`], carries out [`Mapper::poll_fetch`], one at
//! a time, and reports with [`Mapper::handle_datagram`], [`Mapper::fetched`] and [`Mapper::tick`].
//!
//! Not here: finding the gateway; whether there is reason to ask it; firewalls of IPv6, which some gateways would open.
//!
//! [RFC 6887](https://www.rfc-editor.org/rfc/rfc6887), [RFC 6886](https://www.rfc-editor.org/rfc/rfc6886),
//! [UPnP IGD](https://openconnectivity.org/developer/specifications/upnp-resources/upnp/)

pub mod igd;
pub mod wire;
pub mod xml;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::http::Url;
use crate::rng::{self, Rng};
use crate::time::{Duration, Instant, earlier};
use igd::{Said, Service};
use wire::{Answer, Protocol, Wanted};

/// Seconds a mapping is asked for, in datagrams and of UPnP.
const LIFETIME: (u32, u32) = (7200, 3600);
/// First wait for an answer, and how often a request is sent, by way.
const PCP: (Duration, u32) = (Duration::from_secs(3), 2);
const NATPMP: (Duration, u32) = (Duration::from_millis(250), 4);
const UPNP: (Duration, u32) = (Duration::from_secs(1), 2);
/// An answer over a stream comes in so long or not at all.
const FETCH: Duration = Duration::from_secs(10);
/// Everything has failed: the next try, twice as late each time up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(1800));
/// Renewals are neither sooner nor later than this.
const RENEW: (u64, u64) = (30, 12 * 3600);
/// Ports that are tried when the wanted one is another host's.
const PORTS: u32 = 4;

/// Who asks whom for what.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// Our address on its network.
    pub local: Ipv4Addr,
    /// The port we listen on.
    pub port: u16,
    /// Nobody else can take our mappings back who does not know it (RFC 6887, 11.2). Its dice come from it too.
    pub secret: [u8; 20],
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The gateway forwards a port to us.
    Mapped {
        /// What is forwarded.
        protocol: Protocol,
        /// The port outside.
        external: u16,
        /// The address outside, as far as it is known.
        address: Option<IpAddr>,
        /// How it was asked.
        by: &'static str,
    },
    /// It does not, or no longer: why, each way in words.
    Failed(String),
    /// The gateway says that this is its address outside. It may be one of yet another network at home.
    Address(IpAddr),
}

/// A request over a stream of its own: connect, send, read the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// To be given back with the response.
    pub id: u32,
    /// Where to.
    pub to: SocketAddr,
    /// What to send.
    pub request: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Way {
    Pcp,
    NatPmp,
    Upnp,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }

    fn patience(self) -> (Duration, u32) {
        match self {
            Self::Pcp => PCP,
            Self::NatPmp => NATPMP,
            Self::Upnp => UPNP,
        }
    }
}

/// One port's mapping.
#[derive(Clone, Copy, Debug, Default)]
struct Map {
    /// The port outside: the one to ask for, or the one that is held.
    external: u16,
    /// It is held, and to be renewed then.
    renew: Option<Instant>,
    /// It is held until then, whatever became of the last renewal.
    until: Option<Instant>,
}

/// A request to a UPnP gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Describe,
    Address,
    Add(Protocol),
    Delete(Protocol),
}

/// What is known of the UPnP gateway.
#[derive(Debug, Default)]
struct Upnp {
    location: Option<Url>,
    service: Option<Service>,
    permanent: bool,
    conflicts: u32,
    steps: VecDeque<Step>,
    /// The request under way, when it is given up, and what it is about.
    busy: Option<(u32, Instant, Step)>,
    ids: u32,
}

/// Keeps our port forwarded; see the module.
#[derive(Debug)]
pub struct Mapper {
    setup: Setup,
    nonce: [u8; 12],
    rng: Rng,
    way: Way,
    /// Requests sent without an answer.
    tries: u32,
    next: Option<Instant>,
    maps: [Map; 2],
    address: Option<IpAddr>,
    /// The gateway's clock when it last told it, and ours.
    epoch: Option<(Instant, u32)>,
    upnp: Upnp,
    out: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Event>,
    /// Why each way failed in this round, and whether the last round's failure has been told.
    reasons: Vec<String>,
    told: bool,
    /// Rounds that have failed one after the other.
    rounds: u32,
    leaving: bool,
}

impl Mapper {
    /// Begins at once.
    pub fn new(now: Instant, setup: Setup) -> Self {
        let (nonce, seed) = setup.secret.split_at(12);
        let seed = u64::from_le_bytes(seed.try_into().expect("eight bytes"));
        let map = Map { external: setup.port, renew: None, until: None };
        let mut this = Self {
            nonce: nonce.try_into().expect("twelve bytes"),
            rng: rng::seeded(seed),
            setup,
            way: Way::Pcp,
            tries: 0,
            next: None,
            maps: [map; 2],
            address: None,
            epoch: None,
            upnp: Upnp::default(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            reasons: Vec::new(),
            told: false,
            rounds: 0,
            leaving: false,
        };
        this.ask(now);
        this
    }

    /// The next datagram to send, and where to.
    pub fn poll_datagram(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.out.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Mapper::tick`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        earlier(self.next, self.upnp.busy.map(|b| b.1))
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        if let Some((id, ..)) = self.upnp.busy.filter(|b| b.1 <= now) {
            self.fetched(now, id, Err("no answer in time".to_owned()));
        }
        if self.next.is_some_and(|at| at <= now) {
            self.ask(now);
        }
    }

    /// A request over a stream is under way.
    pub fn is_fetching(&self) -> bool {
        self.upnp.busy.is_some()
    }

    /// Takes the mappings back. What is left to do is in [`Mapper::poll_datagram`] and [`Mapper::poll_fetch`].
    pub fn leave(&mut self, now: Instant) {
        self.leaving = true;
        self.next = None;
        self.upnp.steps.clear();
        for protocol in Protocol::ALL {
            // What has been asked for and not answered may be there too.
            let asked = match (self.way, self.upnp.busy) {
                (Way::Upnp, busy) => busy.is_some_and(|b| b.2 == Step::Add(protocol)),
                _ => self.tries > 0 && self.due(now, protocol),
            };
            if !asked && self.maps[protocol.index()].until.is_none() {
                continue;
            }
            match self.way {
                Way::Upnp => self.upnp.steps.push_back(Step::Delete(protocol)),
                _ => self.request(protocol, 0, 0),
            }
        }
    }

    /// Nothing of its leaving is left to do.
    pub fn has_left(&self) -> bool {
        self.leaving && self.out.is_empty() && self.upnp.steps.is_empty() && self.upnp.busy.is_none()
    }

    // ---------------------------------------------------------------- datagrams

    fn due(&self, now: Instant, protocol: Protocol) -> bool {
        self.maps[protocol.index()].renew.is_none_or(|at| at <= now)
    }

    /// Asks for what is not held, or no longer for long, by the present way.
    fn ask(&mut self, now: Instant) {
        let (first, most) = self.way.patience();
        if self.tries == most {
            return self.on_silence(now);
        }
        let wait = first.saturating_mul(1 << self.tries);
        // Not all hosts at once, after a gateway's restart (RFC 6887, 8.1.1).
        let wait = wait + Duration::from_micros(self.rng.u64(..=wait.as_micros() as u64 / 10));
        self.tries += 1;
        self.next = Some(now + wait);
        match (self.way, self.upnp.service.is_some()) {
            (Way::Upnp, false) => {
                let kinds = igd::KINDS.map(|kind| (SocketAddr::V4(igd::SEARCH), igd::search(kind)));
                self.out.extend(kinds);
            }
            (Way::Upnp, true) => {
                self.next = None;
                self.tries = 0;
                self.upnp.steps.extend(Protocol::ALL.map(Step::Add));
            }
            (way, _) => {
                if way == Way::NatPmp && self.address.is_none() {
                    self.out.push_back((self.gateway(), wire::NATPMP_ADDRESS.to_vec()));
                }
                let due: Vec<_> = Protocol::ALL.into_iter().filter(|p| self.due(now, *p)).collect();
                for protocol in due {
                    self.request(protocol, self.maps[protocol.index()].external, LIFETIME.0);
                }
            }
        }
    }

    /// It has been asked often enough. What it holds it may hold still.
    fn on_silence(&mut self, now: Instant) {
        let until = self.maps.iter().filter_map(|m| m.until).min();
        match until.filter(|at| *at > now + Duration::from_secs(RENEW.0)) {
            Some(at) => {
                let left = (at - now).as_secs();
                self.tries = 0;
                self.next = Some(now + Duration::from_secs((left / 2).max(RENEW.0)));
            }
            None => self.fail(now, "no answer"),
        }
    }

    /// The gateway's address outside is this.
    fn learn(&mut self, address: Option<IpAddr>) {
        if address.is_some() && address != self.address {
            self.address = address;
            self.events.extend(address.map(Event::Address));
        }
    }

    fn gateway(&self) -> SocketAddr {
        SocketAddr::new(self.setup.gateway.into(), wire::PORT)
    }

    fn request(&mut self, protocol: Protocol, external: u16, lifetime: u32) {
        let wanted = Wanted { protocol, internal: self.setup.port, external, lifetime };
        let data = match self.way {
            Way::Pcp => wire::pcp_request(self.setup.local, &self.nonce, &wanted).to_vec(),
            _ => wire::natpmp_request(&wanted).to_vec(),
        };
        self.out.push_back((self.gateway(), data));
    }

    /// A datagram came. What is not from the gateway, or no answer to what was asked, is ignored.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        if from.ip().to_canonical() != IpAddr::V4(self.setup.gateway) || self.leaving {
            return;
        }
        if self.way == Way::Upnp {
            if self.upnp.location.is_none() {
                if let Some(url) = igd::found(IpAddr::V4(self.setup.gateway), data) {
                    self.upnp.location = Some(url);
                    self.upnp.steps.push_back(Step::Describe);
                    self.next = None;
                }
            }
            return;
        }
        if from.port() != wire::PORT {
            return;
        }
        let answer = match self.way {
            Way::Pcp => wire::pcp_answer(data, &self.nonce),
            _ => wire::natpmp_answer(data),
        };
        if let Some(answer) = answer {
            self.on_answer(now, &answer);
        }
    }

    /// A datagram could not be sent to the gateway, or nothing listens there.
    pub fn on_unsent(&mut self, now: Instant, error: &str) {
        if self.way != Way::Upnp && !self.leaving && self.next.is_some() && self.tries > 0 {
            self.fail(now, error);
        }
    }

    fn on_answer(&mut self, now: Instant, a: &Answer) {
        if a.result != 0 {
            // Of what it holds already, an error is no answer but to a renewal.
            let asked = Protocol::ALL.into_iter().any(|p| a.protocol.is_none_or(|q| p == q) && self.due(now, p));
            if asked && self.tries > 0 {
                self.fail(now, wire::result_name(self.way == Way::Pcp, a.result));
            }
            return;
        }
        let Some(protocol) = a.protocol else { return self.learn(a.address) };
        if a.internal != self.setup.port || a.external == 0 || a.lifetime == 0 || !self.due(now, protocol) {
            return;
        }
        self.learn(a.address);
        let lost = self.epoch.is_some_and(|(at, before)| has_restarted(before, a.epoch, (now - at).as_secs()));
        self.epoch = Some((now, a.epoch));
        if lost {
            // It knows nothing of the others any more.
            self.maps.iter_mut().for_each(|m| m.renew = None);
        }
        self.hold(now, protocol, a.external, a.lifetime);
    }

    /// A mapping is there for so many seconds.
    fn hold(&mut self, now: Instant, protocol: Protocol, external: u16, lifetime: u32) {
        let half = (u64::from(lifetime) / 2).clamp(RENEW.0, RENEW.1);
        let at = now + Duration::from_secs(half + self.rng.u64(..=half / 8));
        let until = now + Duration::from_secs(u64::from(lifetime));
        let map = &mut self.maps[protocol.index()];
        let news = map.until.is_none() || map.external != external;
        *map = Map { external, renew: Some(at), until: Some(until) };
        if news {
            let (address, by) = (self.address, self.way.name());
            self.events.push_back(Event::Mapped { protocol, external, address, by });
        }
        if self.maps.iter().all(|m| m.renew.is_some_and(|at| at > now)) {
            self.tries = 0;
            self.told = false;
            self.rounds = 0;
            self.reasons.clear();
            self.next = self.maps.iter().filter_map(|m| m.renew).min();
        }
    }

    /// The present way leads nowhere.
    fn fail(&mut self, now: Instant, why: &str) {
        self.reasons.push(format!("{}: {why}", self.way.name()));
        self.tries = 0;
        self.upnp = Upnp { ids: self.upnp.ids, ..Upnp::default() };
        for map in &mut self.maps {
            *map = Map { external: self.setup.port, renew: None, until: None };
        }
        self.epoch = None;
        self.way = match self.way {
            Way::Pcp => Way::NatPmp,
            Way::NatPmp => Way::Upnp,
            Way::Upnp => {
                let reasons = std::mem::take(&mut self.reasons).join("; ");
                if !std::mem::replace(&mut self.told, true) {
                    self.events.push_back(Event::Failed(reasons));
                }
                self.way = Way::Pcp;
                let wait = AGAIN.0.saturating_mul(1 << self.rounds.min(8)).min(AGAIN.1);
                self.rounds += 1;
                self.next = Some(now + wait);
                return;
            }
        };
        self.ask(now);
    }

    // ---------------------------------------------------------------- UPnP

    /// The next request over a stream, when none is under way.
    pub fn poll_fetch(&mut self, now: Instant) -> Option<Fetch> {
        if self.upnp.busy.is_some() {
            return None;
        }
        let step = self.upnp.steps.pop_front()?;
        let to = match (step, &self.upnp.location, &self.upnp.service) {
            (Step::Describe, Some(url), _) => igd::addr(url).map(|to| (to, igd::get(url))),
            (_, _, Some(service)) => {
                let client = SocketAddrV4::new(self.setup.local, self.setup.port);
                let external = |p: Protocol| self.maps[p.index()].external;
                let request = match step {
                    Step::Add(p) => {
                        service.add(p, external(p), client, if self.upnp.permanent { 0 } else { LIFETIME.1 })
                    }
                    Step::Delete(p) => service.delete(p, external(p)),
                    Step::Address | Step::Describe => service.address(),
                };
                service.addr().map(|to| (to, request))
            }
            _ => None,
        };
        let Some((to, request)) = to else {
            self.upnp.steps.clear();
            return None;
        };
        self.upnp.ids = self.upnp.ids.wrapping_add(1);
        let id = self.upnp.ids;
        self.upnp.busy = Some((id, now + FETCH, step));
        Some(Fetch { id, to, request })
    }

    /// How the request `id` ended: status and body, or what was in the way.
    pub fn fetched(&mut self, now: Instant, id: u32, result: Result<(u16, Vec<u8>), String>) {
        let Some((.., step)) = self.upnp.busy.take_if(|b| b.0 == id) else { return };
        if self.leaving {
            return;
        }
        let done = match (step, result) {
            // It is of no importance.
            (Step::Address, Err(_)) | (Step::Delete(_), _) => Ok(()),
            (_, Err(e)) => Err(e),
            (Step::Describe, Ok((status, body))) => self.on_description(status, &body),
            (Step::Address, Ok((status, body))) => {
                if let Said::Yes(Some(address)) = igd::answer(status, &body) {
                    self.learn(Some(address));
                }
                Ok(())
            }
            (Step::Add(protocol), Ok((status, body))) => self.on_added(now, protocol, igd::answer(status, &body)),
        };
        if let Err(why) = done {
            self.fail(now, &why);
        }
    }

    fn on_description(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        let Some(url) = self.upnp.location.as_ref().filter(|_| status == 200) else {
            return Err(format!("the description: HTTP status {status}"));
        };
        self.upnp.service = Some(igd::describe(url, body)?);
        self.upnp.steps.push_back(Step::Address);
        self.upnp.steps.extend(Protocol::ALL.map(Step::Add));
        Ok(())
    }

    fn on_added(&mut self, now: Instant, protocol: Protocol, said: Said) -> Result<(), String> {
        match said {
            Said::Yes(_) => {
                let external = self.maps[protocol.index()].external;
                self.hold(now, protocol, external, LIFETIME.1);
            }
            Said::No(igd::ONLY_PERMANENT) if !self.upnp.permanent => {
                self.upnp.permanent = true;
                self.upnp.steps.push_front(Step::Add(protocol));
            }
            Said::No(igd::CONFLICT) if self.upnp.conflicts < PORTS => {
                self.upnp.conflicts += 1;
                self.maps[protocol.index()].external = self.rng.u16(20_000..60_000);
                self.upnp.steps.push_front(Step::Add(protocol));
            }
            Said::No(code) => return Err(format!("refused, UPnP error {code}")),
            Said::Nonsense(what) => return Err(what),
        }
        Ok(())
    }
}

/// Whether a gateway that said `before` and, `passed` seconds later, `after` has forgotten all mappings in between
/// (RFC 6887, 8.5).
fn has_restarted(before: u32, after: u32, passed: u64) -> bool {
    if after < before.saturating_sub(1) {
        return true;
    }
    let theirs = u64::from(after.saturating_sub(before));
    passed + 2 < theirs - theirs / 16 || theirs + 2 < passed - passed / 16
}

#[cfg(test)]
mod tests;
