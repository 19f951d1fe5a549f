//! What a loop does when this machine's network changes.
//!
//! - Bound to an interface that goes away, it loses every connection at once, and has no network: sockets that were
//!   made before belong to what is gone, new ones cannot be made, and nothing goes another way.
//! - When an interface of that name is there again, it is another one. All sockets that wait for others are made anew
//!   on the same port, and trackers and peers are called without further delay.
//! - Bound to an address that goes away, it loses every connection of that family at once, and has no network over it
//!   until the address is back. (Sockets that only listen can stay: nobody reaches them.)
//! - Behind another gateway the port is mapped anew.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::Registry;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice};

use super::bound::Bound;
use super::link::Link;
use super::listen::Listeners;
use super::lsd::Groups;
use super::portmap::{News, Portmap};
use super::udp::Datagrams;
use super::watch::Watch;
use super::{LISTEN_FIRST, LSD_FIRST, Loop, PORTMAP_FIRST, PortChoice, UDP_FIRST, WATCH};
use crate::api::CloseReason;
use crate::error::Error;
use crate::time::{Duration, Instant, earlier};

/// The interface is back, but cannot be listened on: the next try.
const AGAIN: Duration = Duration::from_secs(10);

/// What is known of the network.
pub(super) struct Network {
    watch: Option<Watch>,
    /// The kernel's number of the interface that the loop's sockets are bound to. `None` when they are not, or it is
    /// gone.
    index: Option<u32>,
    /// The address to use in this family, IPv4 or IPv6, is gone.
    without: [bool; 2],
    /// Something has changed in this turn.
    changed: bool,
    pub(super) portmap: Option<Portmap>,
}

impl Network {
    /// Looks at it. `port` is the one listened on; `portmap`: a gateway is to forward it.
    pub(super) fn new(registry: &Registry, bound: &Bound, port: u16, portmap: bool) -> Result<Self, Error> {
        // Before the first look, so that no change is missed.
        let wanted = portmap || bound.device.is_some() || bound.ips.iter().any(|ip| !ip.is_loopback());
        let watch = wanted.then(|| Watch::open(registry, WATCH, portmap)).transpose().unwrap_or_else(|e| {
            log::info!("changes of the network will not be noticed: {e}");
            None
        });
        let index = bound.device.as_deref().and_then(index_of);
        let mut this = Self { watch, index, without: [false; 2], changed: false, portmap: None };
        if portmap {
            let mut secret = [0; 20];
            getrandom::fill(&mut secret).map_err(|e| Error::Io(io::Error::other(e.to_string())))?;
            let registry = registry.try_clone()?;
            this.portmap = Some(Portmap::start(registry, PORTMAP_FIRST, Instant::ZERO, bound, port, secret));
        }
        Ok(this)
    }

    /// What sockets of this family are bound to is gone.
    pub(super) fn is_gone(&self, bound: &Bound, v6: bool) -> bool {
        bound.device.is_some() && self.index.is_none() || self.without[usize::from(v6)]
    }

    /// The kernel tells of a change.
    pub(super) fn on_ready(&mut self, now: Instant) {
        self.changed = true;
        if let Some(watch) = &mut self.watch {
            watch.on_ready(now);
        }
    }

    /// There is more to receive from the gateway.
    pub(super) fn is_ready(&self) -> bool {
        self.portmap.as_ref().is_some_and(Portmap::is_ready)
    }

    /// When to take a turn.
    pub(super) fn timeout(&self) -> Option<Instant> {
        earlier(self.watch.as_ref().and_then(Watch::timeout), self.portmap.as_ref().and_then(Portmap::timeout))
    }

    /// The gateway has nothing left to hear.
    pub(super) fn has_left(&self) -> bool {
        self.portmap.as_ref().is_none_or(Portmap::has_left)
    }
}

impl Loop {
    /// Looks after changes, and the gateway.
    pub(super) fn network_turn(&mut self) {
        if std::mem::take(&mut self.network.changed) {
            self.follow_addresses();
        }
        if self.network.watch.as_mut().is_some_and(|w| w.turn(self.now)) {
            self.follow_interface();
            if let Some(portmap) = &mut self.network.portmap {
                portmap.look_again(self.now);
            }
        }
        let Some(portmap) = &mut self.network.portmap else { return };
        portmap.turn(self.now);
        while let Some(news) = portmap.poll() {
            match news {
                News::Port(port) => self.session.set_external_port(self.now, port),
                News::Address { gateway, ip } => self.session.hear_address(gateway, ip),
            }
        }
    }

    /// Sees to it that sockets are on the interface that has the name now.
    fn follow_interface(&mut self) {
        let Some(device) = self.bound.device.clone() else { return };
        let index = index_of(&device);
        if index == self.network.index {
            return;
        }
        if self.network.index.take().is_some() {
            log::warn!("interface {device} is gone: there is no network until it is back");
            self.lose(|_| true, &format!("interface {device} is gone"));
        }
        let Some(index) = index else { return };
        match self.listen_again() {
            Ok(()) => {
                log::warn!("interface {device} is back");
                self.network.index = Some(index);
                self.session.on_network(self.now);
                self.carry_out();
            }
            Err(e) => {
                log::warn!("interface {device} is back, but: {e}");
                let at = self.now + AGAIN;
                self.network.watch.iter_mut().for_each(|w| w.again(at));
            }
        }
    }

    /// Sees to it that nothing is sent from an address that is not ours any more.
    fn follow_addresses(&mut self) {
        for ip in self.bound.ips.clone() {
            let (i, gone) = (usize::from(ip.is_ipv6()), self.bound.is_absent(ip));
            if std::mem::replace(&mut self.network.without[i], gone) == gone {
                continue;
            }
            if gone {
                log::warn!("address {ip} is gone: there is no network from it until it is back");
                self.udp.close(ip.is_ipv6());
                self.lose(|own| own.is_ipv6() == ip.is_ipv6(), &format!("address {ip} is gone"));
                continue;
            }
            let addr = SocketAddr::new(ip, self.listeners.port());
            match self.udp.open_again(addr, &self.bound, self.poll.registry(), UDP_FIRST) {
                Ok(()) => log::warn!("address {ip} is back"),
                Err(e) => log::warn!("address {ip} is back, but for datagrams: {e}"),
            }
            self.session.on_network(self.now);
            self.carry_out();
        }
    }

    /// Loses the connections from these addresses of ours.
    fn lose(&mut self, which: impl Fn(IpAddr) -> bool, why: &str) {
        let of_those = |link: &&Link| link.local().is_none_or(|own| which(own.ip()));
        let conns: Vec<_> = self.links.iter().flatten().filter(of_those).map(|link| link.conn).collect();
        for conn in conns {
            self.lost(conn, CloseReason::NoNetwork(why.to_owned()));
        }
    }

    /// Makes all sockets anew that wait for others, on the port that they had.
    fn listen_again(&mut self) -> Result<(), Error> {
        let port = self.listeners.port();
        let mut listeners = Listeners::open(PortChoice::Exact(port), &self.bound)?;
        listeners.register(self.poll.registry(), LISTEN_FIRST)?;
        self.listeners = listeners;
        let mut udp = Datagrams::open(port, &self.bound);
        udp.register(self.poll.registry(), UDP_FIRST)?;
        self.udp = udp;
        if self.groups.is_some() {
            self.groups = Some(Groups::open(&self.bound, self.poll.registry(), LSD_FIRST));
        }
        Ok(())
    }
}

/// The kernel's number of the interface of this name.
fn index_of(name: &str) -> Option<u32> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}
