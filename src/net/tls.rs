//! TLS for trackers: one client connection on top of a nonblocking stream, and the roots it trusts.
//!
//! ```text
//!   Link::finish_connect ── handshake ──▶ connected: the certificate has been verified
//!   Link::read  ◀── reader ◀── process_new_packets ◀── read_tls  ◀── socket
//!   Link::write ──▶ writer ──────────────────────────▶ write_tls ──▶ socket
//! ```
//!
//! Versions 1.2 and 1.3, the host's name sent along (SNI), sessions resumed for as long as the loop lives.
//! A certificate is always verified, against its name too; there is no way to turn that off. The roots are
//! read when the first tracker wants them: a file in PEM form that the embedder names, or the first of
//! [`PLACES`] that is there.
//!
//! No sockets of its own, no threads, no time-outs: the session gives up on a handshake as on any
//! connection attempt.
//!
//! [RFC 8446](https://www.rfc-editor.org/rfc/rfc8446), [RFC 6125](https://www.rfc-editor.org/rfc/rfc6125)

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};

/// Where systems keep the certificates they trust: Debian and its kin, Fedora, OpenSUSE, the BSDs and Alpine, OpenWrt.
pub(super) const PLACES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
];
/// Larger files are no list of roots.
const ROOTS_MAX: u64 = 16 << 20;
/// Trackers whose sessions are remembered.
const SESSIONS: usize = 32;

/// Makes connections that share their roots and sessions.
pub(super) struct Connector {
    roots: Option<PathBuf>,
    config: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// Trusts the certificates in `roots`, or the system's.
    pub(super) fn new(roots: Option<PathBuf>) -> Self {
        Self { roots, config: None }
    }

    /// A connection to `host`, a name or an IP address, that has yet to speak.
    pub(super) fn connect(&mut self, host: &str) -> io::Result<Box<Tls>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::other(format!("TLS: no certificate can be for the name {host:?}")))?;
        let config = match &self.config {
            Some(config) => Arc::clone(config),
            // A failure is not kept: the file may come, and a tracker is asked again.
            None => Arc::clone(self.config.insert(Arc::new(configure(self.roots.as_deref())?))),
        };
        let conn = ClientConnection::new(config, name).map_err(|e| explain(&e, host))?;
        Ok(Box::new(Tls { conn, host: host.to_owned(), ended: false }))
    }
}

fn configure(roots: Option<&Path>) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| io::Error::other(format!("TLS: {e}")))?;
    let mut config = builder.with_root_certificates(load(roots)?).with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}

/// Reads the roots. One certificate that is no use does not spoil the others; none at all is an error.
fn load(roots: Option<&Path>) -> io::Result<RootCertStore> {
    let path = match roots {
        Some(path) => path,
        None => PLACES.iter().map(Path::new).find(|p| p.exists()).ok_or_else(|| {
            let text =
                format!("TLS: no file with trusted roots: SSL_CERT_FILE is not set, and none of {PLACES:?} is there");
            io::Error::new(io::ErrorKind::NotFound, text)
        })?,
    };
    let failed =
        |why: &dyn std::fmt::Display| io::Error::other(format!("TLS: trusted roots: {}: {why}", path.display()));
    let len = fs::metadata(path).map_err(|e| failed(&e))?.len();
    if len > ROOTS_MAX {
        return Err(failed(&format!("{len} bytes, at most {ROOTS_MAX} are read")));
    }
    let text = fs::read(path).map_err(|e| failed(&e))?;
    let (mut store, mut bad) = (RootCertStore::empty(), 0);
    for cert in CertificateDer::pem_slice_iter(&text) {
        match cert.map_err(|e| e.to_string()).and_then(|c| store.add(c).map_err(|e| e.to_string())) {
            Ok(()) => {}
            Err(e) => {
                bad += 1;
                log::debug!("{}: a root that is not used: {e}", path.display());
            }
        }
    }
    if store.is_empty() {
        return Err(failed(&format!("no certificate in PEM form that can be used ({bad} that cannot)")));
    }
    log::debug!("{} trusted roots from {}", store.len(), path.display());
    Ok(store)
}

/// A client's side of one connection.
pub(super) struct Tls {
    conn: ClientConnection,
    host: String,
    /// The other side will send no more, and what it has sent has been read.
    ended: bool,
}

impl Tls {
    /// Goes on with the handshake as far as the stream allows: true once it is done.
    pub(super) fn handshake(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        loop {
            let sent = self.flush(tcp)?;
            if !self.conn.is_handshaking() {
                let version = self.conn.protocol_version();
                log::debug!("TLS with {}: {version:?}, {:?}", self.host, self.conn.handshake_kind());
                return Ok(true);
            }
            if !sent {
                return Ok(false);
            }
            match self.pull(tcp) {
                Ok(0) => return Err(io::Error::other("TLS: closed during the handshake")),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }

    /// As `Read::read`, but fills `buf` as far as the stream has bytes: less than that means that there
    /// are no more for now, or that [`Tls::ended`].
    pub(super) fn read(&mut self, tcp: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        let mut n = 0;
        while n < buf.len() {
            match self.conn.reader().read(&mut buf[n..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(m) => {
                    n += m;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Ended without saying so. Whoever cuts an answer short cuts a bencoded value, which shows.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    break;
                }
                Err(e) => return Err(e),
            }
            match self.pull(tcp) {
                Ok(_) => {}
                Err(e) if n > 0 && e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(n)
    }

    /// Nothing more will come.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Takes bytes to be sent, as many as there is room for.
    pub(super) fn write(&mut self, tcp: &TcpStream, data: &[u8]) -> io::Result<usize> {
        let n = self.conn.writer().write(data)?;
        self.flush(tcp)?;
        if n == 0 && !data.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    /// There are bytes that the stream has not taken yet.
    pub(super) fn has_unsent(&self) -> bool {
        self.conn.wants_write()
    }

    /// Hands what waits to the stream. False when it takes no more for now.
    pub(super) fn flush(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        while self.conn.wants_write() {
            match self.conn.write_tls(&mut &*tcp) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Takes records from the stream: how many bytes of them, 0 at the end.
    fn pull(&mut self, tcp: &TcpStream) -> io::Result<usize> {
        let n = loop {
            match self.conn.read_tls(&mut &*tcp) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if let Err(e) = self.conn.process_new_packets() {
            // The other side is told why, if it still listens.
            let _ = self.flush(tcp);
            return Err(explain(&e, &self.host));
        }
        self.flush(tcp)?;
        Ok(n)
    }
}

/// What went wrong, in words that name the reason.
fn explain(e: &rustls::Error, host: &str) -> io::Error {
    let text = match e {
        rustls::Error::InvalidCertificate(why) => format!("its certificate {}", blame(why, host)),
        rustls::Error::AlertReceived(alert) => format!("it refuses: {alert:?}"),
        rustls::Error::InvalidMessage(_) => "what it speaks is not TLS".to_owned(),
        other => other.to_string(),
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {text}"))
}

/// What is wrong with a certificate, after "its certificate".
fn blame(why: &CertificateError, host: &str) -> String {
    let days = |from: rustls::pki_types::UnixTime, to: rustls::pki_types::UnixTime| {
        to.as_secs().saturating_sub(from.as_secs()) / (24 * 3600)
    };
    match why {
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("has expired, {} days ago by this machine's clock", days(*not_after, *time))
        }
        CertificateError::NotValidYet => "is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("is not valid yet, for {} days by this machine's clock", days(*time, *not_before))
        }
        CertificateError::NotValidForName => format!("is not for {host}"),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            format!("is not for {host}; it names no host")
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            // At most a few: they are the other side's words.
            let names: Vec<_> = presented.iter().take(5).map(String::as_str).collect();
            format!("is not for {host}, but for {}", names.join(", "))
        }
        CertificateError::UnknownIssuer => "comes from an unknown root: nobody trusted here has signed it".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not one for servers".to_owned()
        }
        CertificateError::Revoked => "has been revoked".to_owned(),
        CertificateError::BadSignature => {
            "comes from an unknown root: the one trusted under that name has not signed it".to_owned()
        }
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "is an authority's, and none for servers".to_owned()
        }
        other => format!("is of no use: {other}"),
    }
}
