//! One TCP stream of the loop: dialled or accepted, with TLS on top or without, and what is known of its
//! readiness.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::tls::Tls;
use crate::id::ConnKey;
use crate::pump::Stream;
use crate::storage::IoVecs;

/// Bytes that go through TLS at a time: what one of its records holds.
const RECORD: usize = 16 << 10;

/// A stream, and where it stands. mio is edge-triggered: readiness is remembered until a call says
/// `WouldBlock`.
pub(super) struct Link {
    pub(super) conn: ConnKey,
    pub(super) stream: TcpStream,
    tls: Option<Box<Tls>>,
    /// The stream is there; with TLS, the handshake is still to come.
    open: bool,
    /// Open and, with TLS, verified.
    pub(super) connected: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The other side will send no more: behind what is there lies the end, and no event tells of it.
    pub(super) ending: bool,
    /// It is on the ready list.
    pub(super) queued: bool,
}

impl Link {
    fn new(conn: ConnKey, stream: TcpStream, open: bool) -> Self {
        Self {
            conn,
            stream,
            tls: None,
            open,
            connected: open,
            readable: false,
            writable: false,
            ending: false,
            queued: false,
        }
    }

    pub(super) fn accepted(conn: ConnKey, stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self::new(conn, stream, true)
    }

    /// Begins to connect, from our own address of that family if there is one.
    pub(super) fn dial(conn: ConnKey, addr: SocketAddr, bind: &[IpAddr]) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if !bind.is_empty() {
            let own = bind.iter().find(|ip| ip.is_ipv4() == addr.is_ipv4());
            let own =
                own.ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no own address of that family"))?;
            socket.bind(&SocketAddr::new(*own, 0).into())?;
        }
        match socket.connect(&addr.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        let _ = socket.set_tcp_nodelay(true);
        Ok(Self::new(conn, TcpStream::from_std(socket.into()), false))
    }

    /// With TLS on top, which has yet to begin.
    pub(super) fn with_tls(mut self, tls: Option<Box<Tls>>) -> Self {
        self.tls = tls;
        self
    }

    /// The connection attempt has an answer, or the handshake goes on: true once it is made.
    pub(super) fn finish_connect(&mut self) -> io::Result<bool> {
        if !self.open {
            if let Some(e) = self.stream.take_error()? {
                return Err(e);
            }
            match self.stream.peer_addr() {
                Ok(_) => self.open = true,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::EINPROGRESS)) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        self.connected = match &mut self.tls {
            Some(tls) => tls.handshake(&self.stream)?,
            None => true,
        };
        Ok(self.connected)
    }

    /// The stream has taken less than it was given, and takes more now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = self.tls.as_mut().filter(|tls| tls.has_unsent()) {
            self.writable = tls.flush(&self.stream)?;
        }
        Ok(())
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }
}

impl Stream for Link {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return (&self.stream).read(buf) };
        let n = tls.read(&self.stream, buf)?;
        // The pump takes a short read for the last one, and no event tells of an end that was said inside TLS.
        self.ending |= tls.ended();
        Ok(n)
    }

    fn read_regions(&mut self, io: &mut IoVecs<'_>) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return io.readv(self.stream.as_fd()) };
        let mut buf = vec![0; io.total().min(RECORD)];
        let n = tls.read(&self.stream, &mut buf)?;
        self.ending |= tls.ended();
        match io.copy_from(&buf[..n])? {
            copied if copied == n => Ok(n),
            // The bytes between are gone from the stream.
            _ => Err(io::Error::other("a place for received bytes failed")),
        }
    }

    fn write_regions(&mut self, io: &IoVecs<'_>) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return io.send(self.stream.as_fd()) };
        let mut buf = vec![0; io.total().min(RECORD)];
        let n = io.copy_to(&mut buf)?;
        tls.write(&self.stream, &buf[..n])
    }
}
