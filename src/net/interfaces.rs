//! The network interfaces of this machine and their addresses, as the kernel tells them over netlink.
//!
//! ```text
//! request  | length 4 | type 2 | flags 2 | seq 4 | port 4 | ifinfomsg 16 or ifaddrmsg 8 |
//! answer   | the same head | ifinfomsg or ifaddrmsg | attributes: length 2, type 2, value, padding to 4 |...
//!            in host order
//! ```
//!
//! Two dumps: the links (name, flags), then the addresses. A socket needs no file, so that this works in a sandbox too,
//! and the answer is there when the request has been sent: nothing waits.
//!
//! [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html)

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Protocol, Socket, Type};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
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

/// All of them.
pub(super) fn list() -> io::Result<Vec<Interface>> {
    let mut all = Vec::new();
    dump(RTM_GETLINK, &[0; 16], &mut all)?;
    dump(RTM_GETADDR, &[0; 8], &mut all)?;
    Ok(all)
}

fn dump(what: u16, body: &[u8], all: &mut Vec<Interface>) -> io::Result<()> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    socket.set_nonblocking(true)?;
    let mut request = Vec::with_capacity(32);
    request.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    request.extend_from_slice(&what.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(body);
    socket.send(&request)?;
    let mut buf = vec![0; 32 << 10];
    loop {
        let n = (&socket).read(&mut buf)?;
        if n == 0 || read(&buf[..n], all)? {
            return Ok(());
        }
    }
}

/// Reads one datagram of a dump. True when it was the last.
fn read(mut data: &[u8], all: &mut Vec<Interface>) -> io::Result<bool> {
    while let (Some(len), Some(kind)) = (u32_at(data, 0), u16_at(data, 4)) {
        let len = len as usize;
        if len < 16 || len > data.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "netlink message of a wrong length"));
        }
        let body = &data[16..len];
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = u32_at(body, 0).unwrap_or(0) as i32;
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            RTM_NEWLINK => all.extend(link(body).filter(|_| all.len() < MOST)),
            RTM_NEWADDR => address(body, all),
            _ => {}
        }
        data = data.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
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

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
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
            message(RTM_NEWADDR, &body)
        };
        let far = attribute(IFA_ADDRESS, &[10, 0, 0, 1]);
        let near = attribute(IFA_LOCAL, &[10, 0, 0, 2]);
        let v6 = attribute(IFA_ADDRESS, &[0xFD; 16]);
        let mut data = message(RTM_NEWLINK, &link);
        data.extend(address(0, &[far, near]));
        data.extend(address(0x40, &[attribute(IFA_LOCAL, &[10, 0, 0, 3])]));
        data.extend(address(0, &[v6]));
        data.extend(address(0, &[]));
        let mut all = Vec::new();
        assert!(!read(&data, &mut all).expect("well formed"));
        let ips = vec![IpAddr::from([10, 0, 0, 2]), IpAddr::from([0xFD; 16])];
        assert_eq!(all, [Interface { index: 7, name: "tun0".into(), multicast: true, ips }]);
        assert!(read(&message(NLMSG_DONE, &[0; 4]), &mut all).expect("well formed"));
        let refused = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&refused, &mut all).unwrap_err().raw_os_error(), Some(libc::EPERM));
        // Cut anywhere it is an error or nothing, and never a panic.
        (0..data.len()).for_each(|n| drop(read(&data[..n], &mut Vec::new())));
    }
}
