//! The loop and the sockets that the system keeps for it, by what `/proc/net/tcp` says of them.

use super::*;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

fn listening() -> (Loop, SocketAddr) {
    let bind = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let lp = Loop::new(LoopConfig { port: PortChoice::Exact(0), bind, ..LoopConfig::default() }).expect("a loop");
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, lp.port()));
    (lp, at)
}

/// Of the socket at a local port: its state, and what waits in its queue.
fn socket(port: u16) -> Option<(u8, u32)> {
    let text = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let mut sockets = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = sockets.find(|f| f[1].ends_with(&format!(":{port:04X}")) && matches!(f[3], "0A" | "02"))?;
    let (_, queue) = found[4].split_once(':')?;
    Some((u8::from_str_radix(found[3], 16).ok()?, u32::from_str_radix(queue, 16).ok()?))
}

fn waiting(at: SocketAddr) -> u32 {
    socket(at.port()).expect("it listens").1
}

/// So many connect, and are known to wait.
fn knock(at: SocketAddr, n: usize) -> Vec<TcpStream> {
    let all = (0..n).map(|_| TcpStream::connect(at).expect("a connection")).collect();
    // The last words of a handshake may be under way.
    while waiting(at) < n as u32 {
        std::thread::yield_now();
    }
    all
}

#[test]
fn connections_that_the_system_keeps() {
    let (_lp, at) = listening();
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
    let most = most.trim().parse().unwrap_or(i32::MAX).min(limits::BACKLOG);
    // Linux keeps one more than it was told.
    let _all = knock(at, most as usize + 1);
    let late = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    late.set_nonblocking(true).expect("a socket");
    assert!(late.connect(&at.into()).is_err(), "it is under way");
    let port = late.local_addr().ok().and_then(|a| a.as_socket()).expect("an address").port();
    assert_eq!(socket(port).map(|s| s.0), Some(2), "not answered");
    assert_eq!(waiting(at), most as u32 + 1);
}

#[test]
fn connections_accepted_in_one_turn() {
    let (mut lp, at) = listening();
    // Turns until some are accepted: other things may wake the loop first.
    let mut accepts = || {
        let before = waiting(at);
        while waiting(at) == before {
            lp.turn(None).expect("a turn");
        }
        before - waiting(at)
    };
    let most = limits::ACCEPTS;
    let _some = knock(at, most);
    assert_eq!(accepts(), most as u32);
    let _more = knock(at, most + 1);
    assert_eq!((accepts(), accepts()), (most as u32, 1));
}
