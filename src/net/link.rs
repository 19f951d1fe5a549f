//! One TCP stream of the loop: dialled or accepted, and what is known of its readiness.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;

use mio::net::TcpStream;
use socket2::Type;

use super::bound::Bound;
use crate::id::ConnKey;
use crate::pump::Stream;
use crate::storage::IoVecs;

/// A stream, and where it stands. mio is edge-triggered: readiness is remembered until a call says
/// `WouldBlock`.
pub(super) struct Link {
    pub(super) conn: ConnKey,
    pub(super) stream: TcpStream,
    pub(super) connected: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The other side will send no more: behind what is there lies the end, and no event tells of it.
    pub(super) ending: bool,
    /// It is on the ready list.
    pub(super) queued: bool,
}

impl Link {
    pub(super) fn accepted(conn: ConnKey, stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { conn, stream, connected: true, readable: false, writable: false, ending: false, queued: false }
    }

    /// Begins to connect, from our own address of that family if there is one.
    pub(super) fn dial(conn: ConnKey, addr: SocketAddr, bound: &Bound) -> io::Result<Self> {
        let socket = bound.outgoing(addr.is_ipv6(), Type::STREAM)?;
        match socket.connect(&addr.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        let _ = socket.set_tcp_nodelay(true);
        let stream = TcpStream::from_std(socket.into());
        Ok(Self { conn, stream, connected: false, readable: false, writable: false, ending: false, queued: false })
    }

    /// The connection attempt has an answer: true once it is made.
    pub(super) fn finish_connect(&mut self) -> io::Result<bool> {
        if let Some(e) = self.stream.take_error()? {
            return Err(e);
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.connected = true;
                Ok(true)
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::EINPROGRESS)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }
}

impl Stream for Link {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(buf)
    }

    fn read_regions(&mut self, io: &mut IoVecs<'_>) -> io::Result<usize> {
        io.readv(self.stream.as_fd())
    }

    fn write_regions(&mut self, io: &IoVecs<'_>) -> io::Result<usize> {
        io.send(self.stream.as_fd())
    }
}
