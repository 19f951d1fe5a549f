//! Listening for peers: one socket a family, both on the same port.

use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::Type;

use super::PortChoice;
use super::bound::Bound;
use crate::config::limits;
use crate::error::Error;

pub(super) struct Listeners {
    sockets: Vec<TcpListener>,
    port: u16,
}

impl Listeners {
    pub(super) fn open(choice: PortChoice, bound: &Bound) -> Result<Self, Error> {
        let (first, last) = match choice {
            PortChoice::Exact(p) => (p, p),
            PortChoice::Range(a, b) => (a.min(b), a.max(b)),
        };
        let mut last_error = None;
        for port in first..=last {
            match open_all(port, bound) {
                Ok((sockets, port)) => return Ok(Self { sockets, port }),
                Err(e) => last_error = Some(e),
            }
        }
        let (addr, source) = last_error.expect("a range has at least one port");
        let what = if first == last {
            format!("{addr}")
        } else {
            format!("any port of {first}-{last}, the last being {addr}")
        };
        Err(Error::Listen { what, source })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn register(&mut self, registry: &Registry, first: usize) -> io::Result<()> {
        for (i, socket) in self.sockets.iter_mut().enumerate() {
            registry.register(socket, Token(first + i), Interest::READABLE)?;
        }
        Ok(())
    }

    /// The next connection of any socket.
    pub(super) fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        for socket in &self.sockets {
            match socket.accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

type Opened = Result<(Vec<TcpListener>, u16), (SocketAddr, io::Error)>;

fn open_all(port: u16, bound: &Bound) -> Opened {
    let mut sockets = Vec::new();
    let mut chosen = port;
    for ip in bound.listening() {
        let addr = SocketAddr::new(ip, chosen);
        match open_one(addr, bound) {
            Ok(socket) => {
                chosen = socket.local_addr().map_err(|e| (addr, e))?.port();
                sockets.push(socket);
            }
            // A machine without IPv6 is served by IPv4 alone.
            Err(e) if bound.ips.is_empty() && !sockets.is_empty() && e.kind() != io::ErrorKind::AddrInUse => {
                log::info!("not listening on {addr}: {e}");
            }
            Err(e) => return Err((addr, e)),
        }
    }
    Ok((sockets, chosen))
}

fn open_one(addr: SocketAddr, bound: &Bound) -> io::Result<TcpListener> {
    let socket = bound.socket(addr.is_ipv6(), Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(limits::BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}
