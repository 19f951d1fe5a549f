//! The network interfaces of this machine and their addresses, as the kernel tells them over netlink.
//!
//! ```text
//! request  | length 4 | type 2 | flags 2 | seq 4 | port 4 | ifinfomsg 16 or ifaddrmsg 8 |
//! answer   | the same head | ifinfomsg or ifaddrmsg | attributes: length 2, type 2, value, padding to 4 |...
//!            in host order
//! ```
//!
//! Two dumps: the links (name, flags), then the addresses. And one question: by which gateway the rest of the world is
//! reached. A socket needs no file, so that this works in a sandbox too, and the answer is there when the request has
//! been sent: nothing waits.
//!
//! [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html)

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Protocol, Socket, Type};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const REQUEST_DUMP: u16 = 0x301;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTN_UNICAST: u8 = 1;
/// Not to be used, not yet or no longer: tentative, found to be double, deprecated.
const IFA_F_UNUSABLE: u8 = 0x40 | 0x08 | 0x20;

/// Interfaces looked at.
const MOST: usize = 64;

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    /// It is up and takes multicasts.
    pub(super) multicast: bool,
    /// Its addresses that can be used.
    pub(super) ips: Vec<IpAddr>,
}

/// By which way most of the world is reached over IPv4, where that is by a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WayOut {
    /// Our interface.
    pub(super) index: u32,
    /// The next hop.
    pub(super) gateway: Ipv4Addr,
    /// Our address there.
    pub(super) local: Ipv4Addr,
}

/// An address that nobody has at home and no route is made for alone: a name server of the root. Nothing is sent to it.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);

/// The way out, of all or of this interface.
pub(super) fn way_out(device: Option<u32>) -> io::Result<Option<WayOut>> {
    let mut body = vec![libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut add = |kind: u16, value: [u8; 4]| {
        body.extend_from_slice(&8u16.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&value);
    };
    add(RTA_DST, FAR_AWAY.octets());
    if let Some(index) = device {
        add(RTA_OIF, index.to_ne_bytes());
    }
    let socket = ask(RTM_GETROUTE, REQUEST, &body)?;
    let mut buf = [0; 4096];
    let n = (&socket).read(&mut buf)?;
    match first_route(&buf[..n]) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENODEV)) => Ok(None),
        other => other,
    }
}

/// All of them.
pub(super) fn list() -> io::Result<Vec<Interface>> {
    let mut all = Vec::new();
    dump(RTM_GETLINK, &[0; 16], &mut all)?;
    dump(RTM_GETADDR, &[0; 8], &mut all)?;
    Ok(all)
}

/// A socket that a request has been sent on.
fn ask(what: u16, flags: u16, body: &[u8]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    socket.set_nonblocking(true)?;
    let mut request = Vec::with_capacity(32);
    request.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    request.extend_from_slice(&what.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(body);
    socket.send(&request)?;
    Ok(socket)
}

fn dump(what: u16, body: &[u8], all: &mut Vec<Interface>) -> io::Result<()> {
    let socket = ask(what, REQUEST_DUMP, body)?;
    let mut buf = vec![0; 32 << 10];
    loop {
        let n = (&socket).read(&mut buf)?;
        if n == 0 || read(&buf[..n], all)? {
            return Ok(());
        }
    }
}

/// A message: its type, its body, and what is behind it.
type Message<'a> = (u16, &'a [u8], &'a [u8]);

/// The next message of a datagram, `None` at its end.
fn message(data: &[u8]) -> io::Result<Option<Message<'_>>> {
    let (Some(len), Some(kind)) = (u32_at(data, 0), u16_at(data, 4)) else { return Ok(None) };
    let len = len as usize;
    if len < 16 || len > data.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "netlink message of a wrong length"));
    }
    let body = &data[16..len];
    if kind == NLMSG_ERROR {
        let code = u32_at(body, 0).unwrap_or(0) as i32;
        return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
    }
    Ok(Some((kind, body, data.get(len.next_multiple_of(4)..).unwrap_or_default())))
}

/// Reads one datagram of a dump. True when it was the last.
fn read(mut data: &[u8], all: &mut Vec<Interface>) -> io::Result<bool> {
    while let Some((kind, body, rest)) = message(data)? {
        match kind {
            NLMSG_DONE => return Ok(true),
            RTM_NEWLINK => all.extend(link(body).filter(|_| all.len() < MOST)),
            RTM_NEWADDR => address(body, all),
            _ => {}
        }
        data = rest;
    }
    Ok(false)
}

/// Reads the answer to the question for the way out.
fn first_route(data: &[u8]) -> io::Result<Option<WayOut>> {
    Ok(message(data)?.filter(|(kind, ..)| *kind == RTM_NEWROUTE).and_then(|(_, body, _)| route(body)))
}

fn route(body: &[u8]) -> Option<WayOut> {
    // A way by an interface alone, or to nowhere, has no gateway.
    let (family, kind) = (*body.first()?, *body.get(7)?);
    let value = |wanted| attributes(body.get(12..)?).find(|(kind, _)| *kind == wanted)?.1.first_chunk::<4>();
    let ip = |wanted| value(wanted).map(|b| Ipv4Addr::from(*b));
    let (gateway, local) = (ip(RTA_GATEWAY)?, ip(RTA_PREFSRC)?);
    let index = u32::from_ne_bytes(*value(RTA_OIF)?);
    (i32::from(family) == libc::AF_INET && kind == RTN_UNICAST).then_some(WayOut { index, gateway, local })
}

fn link(body: &[u8]) -> Option<Interface> {
    let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let name = attributes(body.get(16..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?.1;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned();
    let wanted = (libc::IFF_UP | libc::IFF_MULTICAST) as u32;
    Some(Interface { index, name, multicast: flags & wanted == wanted, ips: Vec::new() })
}

fn address(body: &[u8], all: &mut [Interface]) {
    let (Some([_, _, flags, _]), Some(index), Some(rest)) = (body.first_chunk(), u32_at(body, 4), body.get(8..)) else {
        return;
    };
    if flags & IFA_F_UNUSABLE != 0 {
        return;
    }
    // On a link between two, IFA_ADDRESS is the other's.
    let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let ip = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS)).and_then(|value| match value.len() {
        4 => value.first_chunk().map(|b: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*b))),
        _ => value.first_chunk().map(|b: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*b))),
    });
    if let Some(interface) = all.iter_mut().find(|i| i.index == index) {
        interface.ips.extend(ip);
    }
}

/// Types and values.
fn attributes(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(data, 0)?), u16_at(data, 2)?);
        let value = data.get(4..len)?;
        data = data.get(len.next_multiple_of(4)..).unwrap_or_default();
        // The upper bits are flags.
        Some((kind & 0x3FFF, value))
    })
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there_with_its_address() {
        let all = list().expect("the kernel tells");
        let lo = all.iter().find(|i| i.name == "lo").expect("every Linux has one");
        assert!(lo.index > 0 && lo.ips.contains(&Ipv4Addr::LOCALHOST.into()), "{lo:?}");
    }

    fn written(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = (16 + body.len() as u32).to_ne_bytes().to_vec();
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&[0; 10]);
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = (4 + value.len() as u16).to_ne_bytes().to_vec();
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn answers_are_read_as_far_as_they_make_sense() {
        let mut link = vec![0; 16];
        link[4..8].copy_from_slice(&7u32.to_ne_bytes());
        link[8..12].copy_from_slice(&((libc::IFF_UP | libc::IFF_MULTICAST) as u32).to_ne_bytes());
        link.extend(attribute(99, b"xyz"));
        link.extend(attribute(IFLA_IFNAME, b"tun0\0"));
        let address = |flags: u8, attributes: &[Vec<u8>]| {
            let mut body = vec![2, 24, flags, 0];
            body.extend_from_slice(&7u32.to_ne_bytes());
            body.extend(attributes.concat());
            written(RTM_NEWADDR, &body)
        };
        let far = attribute(IFA_ADDRESS, &[10, 0, 0, 1]);
        let near = attribute(IFA_LOCAL, &[10, 0, 0, 2]);
        let v6 = attribute(IFA_ADDRESS, &[0xFD; 16]);
        let mut data = written(RTM_NEWLINK, &link);
        data.extend(address(0, &[far, near]));
        data.extend(address(0x40, &[attribute(IFA_LOCAL, &[10, 0, 0, 3])]));
        data.extend(address(0, &[v6]));
        data.extend(address(0, &[]));
        let mut all = Vec::new();
        assert!(!read(&data, &mut all).expect("well formed"));
        let ips = vec![IpAddr::from([10, 0, 0, 2]), IpAddr::from([0xFD; 16])];
        assert_eq!(all, [Interface { index: 7, name: "tun0".into(), multicast: true, ips }]);
        assert!(read(&written(NLMSG_DONE, &[0; 4]), &mut all).expect("well formed"));
        let refused = written(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&refused, &mut all).unwrap_err().raw_os_error(), Some(libc::EPERM));
        // Cut anywhere it is an error or nothing, and never a panic.
        (0..data.len()).for_each(|n| drop(read(&data[..n], &mut Vec::new())));
    }

    #[test]
    fn the_way_out_is_by_a_gateway_or_it_is_none() {
        let body = |kind: u8, attributes: &[Vec<u8>]| {
            let head = [libc::AF_INET as u8, 32, 0, 0, 254, 0, 0, kind, 0, 0, 0, 0];
            written(RTM_NEWROUTE, &[&head[..], &attributes.concat()].concat())
        };
        let all = [
            attribute(RTA_DST, &FAR_AWAY.octets()),
            attribute(RTA_OIF, &7u32.to_ne_bytes()),
            attribute(RTA_PREFSRC, &[192, 168, 1, 9]),
            attribute(RTA_GATEWAY, &[192, 168, 1, 1]),
        ];
        let (gateway, local) = ([192, 168, 1, 1].into(), [192, 168, 1, 9].into());
        let found = |data: &[u8]| first_route(data).expect("well formed");
        assert_eq!(found(&body(RTN_UNICAST, &all)), Some(WayOut { index: 7, gateway, local }));
        assert_eq!(found(&body(RTN_UNICAST, &all[..3])), None, "straight to it");
        assert_eq!(found(&body(7, &all)), None, "unreachable");
        assert_eq!(found(&body(RTN_UNICAST, &[])), None);
        let refused = written(NLMSG_ERROR, &(-libc::ENETUNREACH).to_ne_bytes());
        assert_eq!(first_route(&refused).unwrap_err().raw_os_error(), Some(libc::ENETUNREACH));
        let data = body(RTN_UNICAST, &all);
        (0..data.len()).for_each(|n| drop(first_route(&data[..n])));
        // Whatever this machine has, by way of the loopback there is no gateway.
        let lo = list().expect("the kernel tells").into_iter().find(|i| i.name == "lo").expect("every Linux has one");
        for index in [lo.index, u32::MAX / 2] {
            let way = way_out(Some(index));
            assert!(!matches!(way, Ok(Some(_))), "{index}: {way:?}");
        }
    }
}
