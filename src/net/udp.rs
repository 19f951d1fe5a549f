//! Datagrams: one socket a family, on the port that peers dial where that is free for UDP too, so that
//! whatever speaks UDP is met there.
//!
//! mio is edge-triggered: a socket stays `readable` until a call says `WouldBlock`. A turn takes a
//! bounded number of datagrams. One that cannot be sent because the socket is full is lost, as on the way:
//! whoever sent it repeats it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::Type;

use super::bound::{Bound, no_address};

/// Largest datagram that is read whole; what is longer is cut.
const SIZE: usize = 8 << 10;

/// A family's socket.
struct Own {
    socket: UdpSocket,
    readable: bool,
}

/// A socket of each family, and what came to them.
pub(super) struct Datagrams {
    /// IPv4, IPv6.
    sockets: [Option<Own>; 2],
    buf: Vec<u8>,
}

impl Datagrams {
    /// Opens what can be opened; a machine without IPv6, say, is served by IPv4 alone.
    pub(super) fn open(port: u16, bound: &Bound) -> Self {
        let mut sockets = [None, None];
        for ip in bound.listening() {
            let own = &mut sockets[usize::from(ip.is_ipv6())];
            match open_near(ip, port, bound) {
                Ok(socket) if own.is_none() => *own = Some(socket),
                Ok(_) => {}
                Err(e) => log::info!("no datagrams over {ip}: {e}"),
            }
        }
        Self::of(sockets, SIZE)
    }

    /// Those of IPv4 and IPv6, and the largest datagram that is read whole.
    pub(super) fn of(sockets: [Option<UdpSocket>; 2], size: usize) -> Self {
        let sockets = sockets.map(|s| s.map(|socket| Own { socket, readable: false }));
        Self { sockets, buf: vec![0; size] }
    }

    /// A family's socket, if there is one.
    pub(super) fn socket(&self, v6: bool) -> Option<&UdpSocket> {
        self.sockets[usize::from(v6)].as_ref().map(|own| &own.socket)
    }

    /// This family has no address any more: nothing is sent from the one it had.
    pub(super) fn close(&mut self, v6: bool) {
        self.sockets[usize::from(v6)] = None;
    }

    /// It has it again.
    pub(super) fn open_again(
        &mut self,
        addr: SocketAddr,
        bound: &Bound,
        registry: &Registry,
        first: usize,
    ) -> io::Result<()> {
        let i = usize::from(addr.is_ipv6());
        if self.sockets[i].is_none() {
            let mut socket = open_near(addr.ip(), addr.port(), bound)?;
            registry.register(&mut socket, Token(first + i), Interest::READABLE)?;
            self.sockets[i] = Some(Own { socket, readable: true });
        }
        Ok(())
    }

    pub(super) fn register(&mut self, registry: &Registry, first: usize) -> io::Result<()> {
        for (i, own) in self.sockets.iter_mut().enumerate() {
            if let Some(own) = own {
                registry.register(&mut own.socket, Token(first + i), Interest::READABLE)?;
            }
        }
        Ok(())
    }

    /// Something came for the socket with token `first + i`.
    pub(super) fn on_ready(&mut self, i: usize) {
        if let Some(Some(own)) = self.sockets.get_mut(i) {
            own.readable = true;
        }
    }

    /// There is more to receive.
    pub(super) fn is_ready(&self) -> bool {
        self.sockets.iter().flatten().any(|own| own.readable)
    }

    /// The next datagram.
    pub(super) fn recv(&mut self) -> Option<(SocketAddr, &[u8])> {
        for own in self.sockets.iter_mut().flatten().filter(|own| own.readable) {
            match own.socket.recv_from(&mut self.buf) {
                Ok((n, from)) => return Some((from, &self.buf[..n])),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => own.readable = false,
                // An earlier datagram's fate: the next call may do.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(e) => {
                    log::debug!("receiving a datagram: {e}");
                    own.readable = false;
                }
            }
        }
        None
    }

    /// Sends one. An error tells that nothing gets there from here.
    pub(super) fn send(&self, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        match self.socket(to.is_ipv6()).ok_or_else(no_address)?.send_to(data, to) {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            // A refusal is about a datagram sent earlier, to whomever.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOBUFS | libc::ENOMEM)) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// On this port, or on any if it is taken.
fn open_near(ip: IpAddr, port: u16, bound: &Bound) -> io::Result<UdpSocket> {
    match open_one(SocketAddr::new(ip, port), bound) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            log::info!("port {port} is taken for datagrams over {ip}: another is used");
            open_one(SocketAddr::new(ip, 0), bound)
        }
        other => other,
    }
}

fn open_one(addr: SocketAddr, bound: &Bound) -> io::Result<UdpSocket> {
    let socket = bound.socket(addr.is_ipv6(), Type::DGRAM)?;
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_and_families_are_kept_apart() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let bound = Bound { ips: vec![[127, 0, 0, 1].into()], device: None };
        let mut ours = Datagrams::open(port, &bound);
        assert_eq!(ours.send("[::1]:9".parse().unwrap(), b"x").unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        ours.send(taken.local_addr().unwrap(), b"hello").unwrap();
        let mut buf = [0; 9];
        let (n, from) = taken.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"hello");
        assert_ne!(from.port(), port);
        assert!(ours.recv().is_none(), "nothing was announced as ready");
        taken.send_to(b"there", from).unwrap();
        ours.on_ready(0);
        let got = ours.recv().map(|(from, data)| (from, data.to_vec()));
        assert_eq!(got, Some((taken.local_addr().unwrap(), b"there".to_vec())));
        assert!(ours.is_ready());
        assert!(ours.recv().is_none() && !ours.is_ready());
        ours.close(false);
        let to = taken.local_addr().unwrap();
        assert_eq!(ours.send(to, b"x").unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        let poll = mio::Poll::new().expect("a poll");
        ours.open_again(SocketAddr::new([127, 0, 0, 1].into(), port), &bound, poll.registry(), 0).unwrap();
        ours.send(to, b"again").unwrap();
        assert_eq!((taken.recv_from(&mut buf).unwrap().0, &buf[..5]), (5, &b"again"[..]));
    }
}
