//! `/etc/hosts` and `/etc/resolv.conf`.
//!
//! Both are small files on the system's own volume and are read whole, at most every
//! [`FRESH`](super::FRESH) and only when a name is looked up. A file that is missing, too long or
//! odd is as good as empty, line by line; without name servers this machine is asked, as the C
//! library does.
//!
//! hosts(5), resolv.conf(5)

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::Path;

use crate::time::Duration;

/// Longest file read.
const FILE: u64 = 1 << 20;
/// Most name servers used, as in the C library.
const SERVERS: usize = 3;
/// Most search domains used.
const SEARCH: usize = 6;

/// What `resolv.conf` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Conf {
    /// Whom to ask, never empty.
    pub(super) servers: Vec<SocketAddr>,
    /// Domains tried behind names without a dot.
    pub(super) search: Vec<String>,
    /// How long to wait for one answer.
    pub(super) timeout: Duration,
    /// How often to ask each server.
    pub(super) attempts: u32,
}

/// Names of `hosts`, lower-case.
pub(super) type Hosts = BTreeMap<String, Vec<IpAddr>>;

/// Reads a file of text; whatever is wrong with it, as empty. `None` when it may not be read: a sandbox may have let
/// us read the one that was there before, which then is the best we have.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|f| f.take(FILE).read_to_end(&mut bytes)) {
        Ok(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => None,
        Err(_) => Some(String::new()),
    }
}

/// The number of an interface, which the system tells without a file.
fn interface(name: &str) -> Option<u32> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok()?;
    rustix::net::netdevice::name_to_index(&socket, name).ok()
}

/// Reads `hosts`: an address, then the names that mean it.
pub(super) fn hosts(text: &str) -> Hosts {
    let mut hosts = Hosts::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(ip) = words.next().and_then(|w| w.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let ips = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
    }
    hosts
}

/// Reads `resolv.conf`.
pub(super) fn conf(text: &str) -> Conf {
    let mut conf = Conf { servers: Vec::new(), search: Vec::new(), timeout: Duration::from_secs(5), attempts: 2 };
    for line in text.lines() {
        let line = line.trim_start();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") if conf.servers.len() < SERVERS => {
                conf.servers.extend(words.next().and_then(server));
            }
            Some("search" | "domain") => {
                let clean = |w: &str| w.trim_matches('.').to_ascii_lowercase();
                conf.search = words.map(clean).filter(|w| super::is_name(w)).take(SEARCH).collect();
            }
            Some("options") => {
                for option in words {
                    match option.split_once(':').map(|(k, v)| (k, v.parse::<u32>())) {
                        Some(("timeout", Ok(s))) => conf.timeout = Duration::from_secs(u64::from(s.clamp(1, 5))),
                        Some(("attempts", Ok(n))) => conf.attempts = n.clamp(1, 5),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if conf.servers.is_empty() {
        conf.servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
    }
    conf
}

/// A name server's address; IPv6 may carry a zone, by number or by the interface's name.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((ip, zone)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, 53));
    };
    let ip: Ipv6Addr = ip.parse().ok()?;
    let scope = zone.parse().ok().or_else(|| interface(zone))?;
    Some(SocketAddrV6::new(ip, 53, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_files() {
        let h = hosts(
            "127.0.0.1 localhost # loop\n\n# 1.1.1.1 no\n10.0.0.1\tA.b  a\n\
            ::2 a a.\n999.1.1.1 x\nfe80::1%eth0 y\n10.0.0.1 a",
        );
        assert_eq!(h["a"], ["10.0.0.1".parse::<IpAddr>().unwrap(), "::2".parse().unwrap()]);
        assert_eq!(h["a.b"].len(), 1);
        assert_eq!(h.keys().collect::<Vec<_>>(), ["a", "a.b", "localhost"]);
    }

    #[test]
    fn resolv_conf() {
        let c = conf(
            "# x\n; y\nnameserver 10.0.0.1\nnameserver junk\nnameserver ::1\n nameserver fe80::1%3\n\
            nameserver 10.0.0.2\n\
            domain old\nsearch Lan. b.c ..\noptions timeout:60 attempts:0 rotate edns0",
        );
        let want = ["10.0.0.1:53", "[::1]:53", "[fe80::1%3]:53"].map(|s| s.parse::<SocketAddr>().unwrap());
        assert_eq!(c.servers, want);
        assert_eq!(c.search, ["lan", "b.c"]);
        assert_eq!((c.timeout, c.attempts), (Duration::from_secs(5), 1));
        assert_eq!(conf("").servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(conf("nameserver fe80::1%lo").servers, ["[fe80::1%1]:53".parse().unwrap()], "by its name");
        assert_eq!(conf("nameserver fe80::1%../../x").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn missing_files_are_empty() {
        assert_eq!(read(Path::new("/nonexistent/hosts")).as_deref(), Some(""));
        assert_eq!(read(Path::new("/")).as_deref(), Some(""));
    }
}
