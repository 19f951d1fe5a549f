//! In the place of `tls.rs`, in builds without it: there are no such connections.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;

use mio::net::TcpStream;

/// Makes none.
pub(super) struct Connector;

impl Connector {
    pub(super) fn new(_: Option<PathBuf>) -> Self {
        Self
    }

    /// An error; the session does not ask.
    pub(super) fn connect(&mut self, host: &str) -> io::Result<Box<Tls>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("TLS with {host}: this build has none")))
    }
}

/// There is none.
pub(super) struct Tls(Infallible);

impl Tls {
    pub(super) fn handshake(&mut self, _: &TcpStream) -> io::Result<bool> {
        match self.0 {}
    }

    pub(super) fn read(&mut self, _: &TcpStream, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub(super) fn ended(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn write(&mut self, _: &TcpStream, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub(super) fn has_unsent(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn flush(&mut self, _: &TcpStream) -> io::Result<bool> {
        match self.0 {}
    }
}
