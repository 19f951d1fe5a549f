//! What all sockets of a loop are bound to: addresses of this machine, a network interface, or nothing.
//!
//! Every socket that goes out or listens is made here, for peers, trackers, the DHT, the local network and name
//! lookups alike. It fails closed: if the interface is gone, or none of the addresses is of the family that is wanted,
//! there is no socket, and one that was made before gets nowhere by another way, which the kernel sees to
//! (`SO_BINDTODEVICE`, and a source address that must be there).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// See the module's head.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bound {
    /// Addresses to use; empty is all of both families.
    pub(super) ips: Vec<IpAddr>,
    /// The interface to use; `None` is any.
    pub(super) device: Option<String>,
}

impl Bound {
    /// A nonblocking socket that uses the interface and nothing else; it has no address yet.
    pub(super) fn socket(&self, v6: bool, kind: Type) -> io::Result<Socket> {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
        let socket = Socket::new(domain, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        if let Some(device) = &self.device {
            let named = |e: io::Error| io::Error::new(e.kind(), format!("interface {device}: {e}"));
            socket.bind_device(Some(device.as_bytes())).map_err(named)?;
        }
        Ok(socket)
    }

    /// The same to go out with, from the address that is ours in this family.
    pub(super) fn outgoing(&self, v6: bool, kind: Type) -> io::Result<Socket> {
        let socket = self.socket(v6, kind)?;
        if !self.ips.is_empty() {
            let own = self.ips.iter().find(|ip| ip.is_ipv6() == v6).ok_or_else(no_address)?;
            socket.bind(&SocketAddr::new(*own, 0).into())?;
        }
        Ok(socket)
    }

    /// The address is not, or no longer, one of this machine. Of IPv6 the kernel does not look at that again for a
    /// socket that has been bound, and would send from it by another way.
    pub(super) fn is_absent(&self, ip: IpAddr) -> bool {
        let bound = self.socket(ip.is_ipv6(), Type::DGRAM).and_then(|s| s.bind(&SocketAddr::new(ip, 0).into()));
        bound.is_err_and(|e| e.kind() == io::ErrorKind::AddrNotAvailable)
    }

    /// Where to listen: the addresses, or all.
    pub(super) fn listening(&self) -> Vec<IpAddr> {
        match self.ips.is_empty() {
            true => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            false => self.ips.clone(),
        }
    }

    /// The family can be used.
    pub(super) fn has(&self, v6: bool) -> bool {
        self.ips.is_empty() || self.ips.iter().any(|ip| ip.is_ipv6() == v6)
    }
}

/// What is said when only the other family has an address.
pub(super) fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "no own address of that family")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_socket_past_the_addresses_or_the_interface() {
        let local = Bound { ips: vec![Ipv4Addr::LOCALHOST.into()], device: None };
        let socket = local.outgoing(false, Type::DGRAM).expect("it is there");
        assert_eq!(socket.local_addr().unwrap().as_socket_ipv4().map(|a| *a.ip()), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(local.outgoing(true, Type::STREAM).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert!(local.has(false) && !local.has(true) && Bound::default().has(true));
        let gone = Bound { device: Some("not-there0".into()), ..Bound::default() };
        for (v6, kind) in [(false, Type::STREAM), (false, Type::DGRAM)] {
            let e = gone.socket(v6, kind).expect_err("there is no such interface");
            assert!(e.to_string().starts_with("interface not-there0: "), "{e}");
        }
        let elsewhere = Bound { ips: vec![[192, 0, 2, 1].into()], device: None };
        assert!(elsewhere.outgoing(false, Type::STREAM).is_err());
        assert!(elsewhere.is_absent([192, 0, 2, 1].into()));
        assert!(!elsewhere.is_absent([127, 0, 0, 1].into()) && !elsewhere.is_absent(Ipv6Addr::UNSPECIFIED.into()));
    }
}
