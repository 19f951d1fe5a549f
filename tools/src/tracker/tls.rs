//! TLS in front of the requests. Each handshake is logged: `{"tls":"TLSv1_3","resumed":false}`, or why it failed.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use super::{Shared, Talk, json};

/// Shakes hands, lets `converse` speak, and says goodbye.
pub(super) fn serve(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    shared: &Shared,
    converse: impl FnOnce(&mut dyn Talk) -> io::Result<()>,
) -> io::Result<()> {
    let conn = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(conn, stream);
    while stream.conn.is_handshaking() {
        if let Err(e) = stream.conn.complete_io(&mut stream.sock) {
            (shared.log)(&format!("{{\"tls_error\":{}}}", json(&e.to_string())));
            return Err(e);
        }
    }
    let version = stream.conn.protocol_version().map_or_else(String::new, |v| format!("{v:?}"));
    let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
    (shared.log)(&format!("{{\"tls\":{},\"resumed\":{resumed}}}", json(&version)));
    converse(&mut stream)?;
    stream.conn.send_close_notify();
    stream.flush()
}
