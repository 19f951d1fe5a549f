//! The multicast groups of local service discovery (BEP 14): one socket a family that listens, and one for each
//! message on each interface.
//!
//! In use are all interfaces that are up and can do it, of each the first address of a family; with addresses
//! to bind to, those addresses, or those of the interface. They are looked at anew whenever there is something
//! to say, so that a network that has just been joined is spoken to. A message goes out from an address that
//! peers are to dial: that of the datagram is all they know. Link-local addresses are none.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::Registry;
use mio::net::UdpSocket;
use socket2::{InterfaceIndexOrAddress, Type};

use super::bound::Bound;
use super::interfaces::{self, Interface};
use super::udp::Datagrams;
use crate::lan::lsd::{GROUP, GROUP6, PORT};

/// Addresses spoken from.
const MOST: usize = 16;
/// Longer messages are none of ours.
const SIZE: usize = 2048;

pub(super) struct Groups {
    /// What came to a group.
    pub(super) heard: Datagrams,
    /// Interfaces on which the group has been joined: that of IPv4, that of IPv6.
    joined: [BTreeSet<u32>; 2],
    bound: Bound,
}

impl Groups {
    /// Listens on what there is; a machine without IPv6, or whose port is taken by one that does not share it, goes
    /// without.
    pub(super) fn open(bound: &Bound, registry: &Registry, first: usize) -> Self {
        let sockets = [false, true].map(|v6| {
            let told = |e: &io::Error| {
                log::info!("not listening on the local network over IPv{}: {e}", if v6 { 6 } else { 4 });
            };
            bound.has(v6).then(|| listen(v6, bound).inspect_err(told).ok()).flatten()
        });
        let mut heard = Datagrams::of(sockets, SIZE);
        if let Err(e) = heard.register(registry, first) {
            log::info!("not listening on the local network: {e}");
        }
        let mut groups = Self { heard, joined: Default::default(), bound: bound.clone() };
        groups.refresh();
        groups
    }

    /// Joins the groups where that has not been done, and says where they can be spoken to.
    fn refresh(&mut self) -> Vec<(u32, IpAddr)> {
        let all = interfaces::list().unwrap_or_else(|e| {
            log::debug!("which interfaces there are: {e}");
            Vec::new()
        });
        let from = in_use(&all, &self.bound);
        for joined in &mut self.joined {
            // One that has gone, and comes back, is joined anew.
            joined.retain(|index| from.iter().any(|(i, _)| i == index));
        }
        for &(index, ip) in &from {
            let Some(socket) = self.heard.socket(ip.is_ipv6()) else { continue };
            if !self.joined[usize::from(ip.is_ipv6())].insert(index) {
                continue;
            }
            let socket = socket2::SockRef::from(socket);
            let joined = match ip {
                IpAddr::V4(_) => socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(index)),
                IpAddr::V6(_) => socket.join_multicast_v6(&GROUP6, index),
            };
            match joined {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                Err(e) => log::debug!("not listening for local peers on {ip}: {e}"),
            }
        }
        from
    }

    /// Sends the message for each group from every address in use.
    pub(super) fn send(&mut self, messages: &[Vec<u8>; 2]) {
        for (index, ip) in self.refresh() {
            if let Err(e) = send_one(&self.bound, index, ip, &messages[usize::from(ip.is_ipv6())]) {
                log::debug!("not heard on the local network from {ip}: {e}");
            }
        }
    }
}

/// The addresses to speak from, each with its interface.
fn in_use(all: &[Interface], bound: &Bound) -> Vec<(u32, IpAddr)> {
    let mut out = Vec::new();
    for interface in all.iter().filter(|i| i.multicast && bound.device.as_ref().is_none_or(|d| *d == i.name)) {
        let fit = |ip: &&IpAddr| !is_link_local(**ip) && !ip.is_loopback();
        let mut seen = [false; 2];
        for ip in interface.ips.iter().filter(fit) {
            // Of several of one family the first will do, unless others are asked for.
            let first = !std::mem::replace(&mut seen[usize::from(ip.is_ipv6())], true);
            if if bound.ips.is_empty() { first } else { bound.ips.contains(ip) } {
                out.push((interface.index, *ip));
            }
        }
    }
    out.truncate(MOST);
    out
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn group(v6: bool) -> SocketAddr {
    if v6 { (GROUP6, PORT).into() } else { (GROUP, PORT).into() }
}

/// A socket that gets what comes to the group, and nothing else that comes to its port.
fn listen(v6: bool, bound: &Bound) -> io::Result<UdpSocket> {
    let addr = group(v6);
    let socket = bound.socket(v6, Type::DGRAM)?;
    // The others on this machine are told too.
    socket.set_reuse_address(true)?;
    // Only from interfaces on which it joins: what others join on the rest is theirs.
    if v6 {
        socket.set_multicast_all_v6(false)?;
    } else {
        socket.set_multicast_all_v4(false)?;
    }
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

fn send_one(bound: &Bound, index: u32, ip: IpAddr, message: &[u8]) -> io::Result<()> {
    let to = group(ip.is_ipv6());
    let socket = bound.socket(ip.is_ipv6(), Type::DGRAM)?;
    match ip {
        IpAddr::V4(ip) => socket.set_multicast_if_v4(&ip)?,
        IpAddr::V6(_) => socket.set_multicast_if_v6(index)?,
    }
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    socket.send_to(message, &to.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_of_a_family_is_spoken_from_or_those_that_are_bound() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let interface = |index, multicast, ips: &[&str]| Interface {
            index,
            name: format!("if{index}"),
            multicast,
            ips: ips.iter().map(|text| ip(text)).collect(),
        };
        let all = [
            interface(1, false, &["127.0.0.1", "10.9.9.9"]),
            interface(2, true, &["169.254.1.1", "10.0.0.1", "10.0.0.2", "fe80::1", "fd00::1", "2001:db8::1"]),
            interface(3, true, &["192.168.1.1"]),
        ];
        let out = in_use(&all, &Bound::default());
        assert_eq!(out, [(2, ip("10.0.0.1")), (2, ip("fd00::1")), (3, ip("192.168.1.1"))]);
        let to = |ips: &[&str], device: Option<&str>| {
            let bound = Bound { ips: ips.iter().map(|text| ip(text)).collect(), device: device.map(str::to_owned) };
            in_use(&all, &bound)
        };
        assert_eq!(to(&["10.0.0.2", "10.9.9.9"], None), [(2, ip("10.0.0.2"))]);
        assert_eq!(to(&["127.0.0.1"], None), []);
        assert_eq!(to(&[], Some("if3")), [(3, ip("192.168.1.1"))]);
        assert_eq!(to(&["10.0.0.2"], Some("if3")), []);
    }
}
